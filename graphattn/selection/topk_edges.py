"""Learned top-k edges: each target keeps the sources that a learned score likes best."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from graphattn.connectivity._nodes import check_count
from graphattn.graph import AttentionGraph
from graphattn.ops import topk_edges_by_product
from graphattn.ops.topk_edges import check_k


@dataclass(frozen=True)
class TopKEdges:
    r"""Keeps the k incoming edges of each target with the best learned scores.

        s_ji = (W_q x_i) · (W_k x_j) / √score_dim,    E' = {(j → i) ∈ E : s_ji among the k best of i}

    The kept scores are added to the logits of every head, or the choice would give W_q and W_k no gradient: an edge
    whose weight should rise gets a better score, and so do edges like it that are not kept. The search has no gradient
    and holds a tile of scores at a time, so on `connectivity.full` memory stays O(nodes · (score_dim + k)), while time
    is that of n² products of width score_dim. It draws nothing: training and evaluation select alike.

    Division by √score_dim and torch's initial weights give features of unit variance a bias of deviation 1/3, so that
    a new layer's softmax is nearly the one without it.

    Args:
        k: edges of each target, at least 1. A target with at least k candidates keeps exactly k, so where all have as
            many, shapes do not change from step to step; one with fewer keeps all of them. The softmax over a single
            edge is constant, so with k = 1 the score learns nothing.
        score_dim: width of the score, at least 1: its rank as a matrix of targets × sources.
        keep_self: whether a target keeps the edge from itself, where the graph has it, as one of the k.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if a value lies outside its domain.

    Source: ours. Neighbors by a product of low rank, with the gradient through the softmax over those kept, is the
    common core of several learned sparse attentions; none is followed here. By a given score: `ops.topk_edges`, and
    `ops.topk_edges_by_product` for cross attention, of whose sources a select seat learns nothing.

    >>> from graphattn.connectivity import full
    >>> select = TopKEdges(k=3).build(embed_dim=8, num_heads=2)
    >>> kept, edge_bias = select(torch.eye(7, 8), full(7))
    >>> kept.num_edges, kept.kinds, edge_bias.shape
    (21, ('full', 'learned'), torch.Size([21]))
    """

    k: int
    score_dim: int = 16
    keep_self: bool = False

    def __post_init__(self) -> None:
        check_k(self.k)
        check_count(self.score_dim, "score_dim", 1, "Use 16 unless you know better.")
        if not isinstance(self.keep_self, bool):
            raise TypeError(f"keep_self must be True or False, got {self.keep_self!r}. True spends one of the k on it.")

    def build(self, embed_dim: int, num_heads: int) -> TopKEdgesSeat:
        """Makes the module that scores and selects; one score serves all heads."""
        return TopKEdgesSeat(self, embed_dim)


class TopKEdgesSeat(nn.Module):
    """The select seat of `TopKEdges`, with the projections of its score.

    Args:
        spec: may be replaced while training, for another k: `layer.select.spec = TopKEdges(k=8)`.
        embed_dim: width of x.
    """

    def __init__(self, spec: TopKEdges, embed_dim: int):
        super().__init__()
        self.spec = spec
        # without bias: a constant part of the query would prefer the same sources everywhere, one of the key shifts
        # all logits of a target alike, which no softmax sees
        self.query_proj = nn.Linear(embed_dim, spec.score_dim, bias=False)
        self.key_proj = nn.Linear(embed_dim, spec.score_dim, bias=False)

    def forward(self, x: Tensor, graph: AttentionGraph) -> tuple[AttentionGraph, Tensor]:
        """Selects among the edges of a graph whose sources are its targets.

        Args:
            x: [num_nodes, embed_dim]. A score that is NaN counts as the best, so that what went wrong is seen; nothing
                asks whether all are finite, which a GPU would have to wait for.
            graph: the candidates.

        Returns:
            graph: the kept edges, also of kind "learned".
            edge_bias: [kept edges], their scores.

        Raises:
            ValueError: if x does not have a row for each source and target.
            RuntimeError: inside a compiled region.
        """
        if torch.compiler.is_compiling():
            raise RuntimeError(
                "TopKEdges makes a graph in each forward, which a compiled region cannot. Leave the layer uncompiled, "
                "or select before the region, call graph.plan() on the result, and pass it with its edge_bias."
            )
        if not graph.is_square or x.shape[:1] != (graph.num_src_nodes,):
            raise ValueError(
                f"TopKEdges scores sources and targets by the rows of x, so it needs as many of each, got {x.shape[0]} "
                f"rows for {graph.num_src_nodes} sources and {graph.num_dst_nodes} targets. "
                "Call ops.topk_edges_by_product in cross attention, and pass what it returns."
            )
        kept, scores = topk_edges_by_product(
            self.query_proj(x),
            self.key_proj(x),
            graph,
            self.spec.k,
            scale=1.0 / math.sqrt(self.query_proj.out_features),
            keep_self=self.spec.keep_self,
        )
        return kept.marked("learned"), scores

    def extra_repr(self) -> str:
        return repr(self.spec)
