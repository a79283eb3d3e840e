"""Cover: which share of all pairs a random pattern, drawn anew in each layer, is expected to join after some layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from graphattn.graph.ragged import batch_of
from graphattn.graph.summary import in_degrees

if TYPE_CHECKING:
    from graphattn.graph.attention_graph import AttentionGraph

RANDOM_KINDS = ("random", "expander", "sampled")  # edges of these are draws, as those who make them name them


def expected_cover(graph: AttentionGraph, num_layers: int) -> tuple[float, ...]:
    r"""Returns the share of pairs (target, source) expected to be joined after 1, 2, … layers of new draws.

    p_1 is the share that this graph joins, exact, each node reaching itself as well; then

        p_{l+1} = mean over targets i of 1 − (1 − p_l)^(1 + r_i),    r_i = edges of a random kind that enter i

    in each graph of a batch, since a source is unknown to i after layer l + 1 if it was unknown after layer l both to i
    and to the r_i nodes that i reads. Where every target has r random edges and no others, that is about
    p_L = 1 − (1 − 1/n)^((1 + r)^L): some log n / log(1 + r) layers reach everything. It is an estimate for l ≥ 2: what
    the nodes that i reads know is taken to be independent, which it nearly is among many nodes. As some sources happen
    to be drawn less often than others, it is a little high: by up to 0.1 for r = 3, less for more. One graph in all
    layers is slower, as a node then reads the same nodes again: `count_hops` follows it. Edges of other kinds count in
    p_1 only, as neighbours' neighbours mostly coincide: with many of them it is a low estimate.

    Args:
        graph: a square graph; edges of the kinds "random", "expander" and "sampled" are its random ones.
        num_layers: how many layers, at least 1.

    Returns:
        num_layers shares, 0 … 1; the empty tuple where the graph is rectangular or has no edge of a random kind, or all
        of them point one way (a causal half of a random graph grows by another law).

    Source: the growth of a random graph's neighbourhoods as a branching process, a mean-field argument of ours.

    >>> from graphattn.graph import AttentionGraph
    >>> edges = torch.stack([(torch.arange(300) * 7 + 1) % 100, torch.arange(100).repeat_interleave(3)])
    >>> graph, _ = AttentionGraph.from_edge_index(edges, 100, kinds=["random"])
    >>> [round(share, 2) for share in expected_cover(graph, 4)]
    [0.04, 0.15, 0.48, 0.93]
    """
    if num_layers < 1:
        raise ValueError(f"num_layers must be at least 1, got {num_layers}. One layer joins what the graph joins.")
    bits = sum(1 << bit for bit, kind in enumerate(graph.kinds) if kind in RANDOM_KINDS)
    num_pairs = int((torch.diff(graph.src_ptr) * torch.diff(graph.dst_ptr)).sum())
    if not bits or not graph.is_square or not num_pairs:
        return ()
    is_random = (graph._explicit_kind() & bits) != 0
    num_random = torch.bincount(graph.explicit_edges[1][is_random], minlength=graph.num_dst_nodes)
    if graph.blocks is not None:
        of_block = ((graph.blocks.kind & bits) != 0)[graph.blocks.of_target()]
        num_random = num_random.index_add(0, graph.blocks.dst, graph.blocks.prefix * of_block)
    src, dst = graph.explicit_edges[:, is_random]
    points_one_way = graph.blocks is None and (not bool((src > dst).any()) or not bool((src < dst).any()))
    if points_one_way or not bool(num_random.any()):
        return ()
    here = torch.arange(graph.num_dst_nodes, device=graph.device)
    batch, size = batch_of(graph.dst_ptr), torch.diff(graph.dst_ptr)
    num_reached = in_degrees(graph) + 1
    num_reached[_reads_itself(graph, here)] -= 1
    num_in_graph = torch.zeros_like(size).index_add_(0, batch, num_reached)
    share = num_in_graph / (size * size).clamp(min=1)  # of each graph
    shares = []
    for _ in range(num_layers):
        shares.append(float((share * size * size).sum() / num_pairs))
        grown = 1 - (1 - share[batch]) ** (1 + num_random)
        share = torch.zeros_like(share).index_add_(0, batch, grown) / size.clamp(min=1)
    return tuple(shares)


def _reads_itself(graph: AttentionGraph, here: Tensor) -> Tensor:
    """Returns whether each target of a square graph has an edge to itself, [num_dst_nodes]."""
    src, dst = graph.explicit_edges
    reads = torch.zeros_like(here, dtype=torch.bool)
    reads[dst[src == dst]] = True
    return reads if graph.blocks is None else reads | (graph.blocks.holder(torch.stack([here, here])) >= 0)
