"""Pooling: a scorer and a top-k make a level of fewer nodes, between layers or at the end."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from graphattn.graph import AttentionGraph
from graphattn.ops import Assignment, successive_halving_assignment
from graphattn.ops.assignment import check_mask, check_mode, check_rows
from graphattn.ops.successive_halving import check_base

LEAST_SCORE = 1e-5  # of the scorer, so that no score is zero

Builder = Callable[[Tensor], AttentionGraph]  # int64 [num_graphs], sizes → the graph over that many nodes


class SuccessiveHalvingPool(nn.Module):
    r"""Pools the nodes of each graph to about the k best, by a learned score and successive halving.

        s_j = ε + (1 − ε) σ(w · x_j + b);   pooled_i = Σ_j P_ij(s) x_j

    P is the pooling graph: every node enters one pooled node, the rows of P sum to one. The gradient reaches the scorer
    through P.

    Args:
        embed_dim: width of x.
        k: how many nodes of each graph to keep, at least 1; smaller graphs keep all of theirs.
        ratio: instead of k, which share of each graph's nodes to keep, in (0, 1], rounded up. Give one of the two.
        base: of the peaked softmax, see `ops.successive_halving_topk`.
        mode: what runs in training (`.train()`): "soft", "straight_through" or "hard", see there. A hard choice gives
            the scorer no gradient.
        eval_mode: what runs in evaluation (`.eval()`); None takes `mode`. Nothing is drawn at random, so there is no
            other difference between the two.

    Raises:
        TypeError, ValueError: for both or none of k and ratio, and for what is out of range.

    Source: Pietruszka et al. 2022 (Sparsifying Transformer Models with Trainable Representation Pooling): a linear
    scorer per layer, the operator of Pietruszka et al. 2021 after it. There ε is added and s may exceed one, padding
    competes, the base is fixed at 20 and inference is soft. The ratio, ragged batches, masks, hard modes and pooling of
    graphs other than sequences are ours.

    >>> import graphattn as ga
    >>> pool = SuccessiveHalvingPool(embed_dim=8, k=2)
    >>> graph = ga.connectivity.sliding_window(torch.tensor([5, 1]), radius=1)
    >>> x, pooled_graph, assignment = pool(torch.randn(6, 8), graph, ga.connectivity.full)
    >>> x.shape, pooled_graph.dst_ptr, assignment.graph.num_edges
    (torch.Size([3, 8]), tensor([0, 2, 3]), 6)
    """

    def __init__(
        self,
        embed_dim: int,
        k: int | None = None,
        *,
        ratio: float | None = None,
        base: float = 20.0,
        mode: str = "soft",
        eval_mode: str | None = None,
    ):
        super().__init__()
        if embed_dim < 1:
            raise ValueError(f"embed_dim must be at least 1, got {embed_dim}. It is the width of x.")
        if (k is None) == (ratio is None):
            raise ValueError(
                f"give k or ratio, got k = {k} and ratio = {ratio}. k counts the nodes to keep, ratio is their share."
            )
        if k is not None and (isinstance(k, bool) or not isinstance(k, int)):
            raise TypeError(f"k must be an int, got {type(k).__name__} {k!r}. A share of the nodes is ratio={k!r}.")
        if k is not None and k < 1:
            raise ValueError(f"k must be at least 1, got {k}. Leave the pool out to keep all nodes.")
        if ratio is not None and not 0.0 < ratio <= 1.0:
            raise ValueError(f"ratio must lie in (0, 1], got {ratio}. A count of nodes is k.")
        check_base(base)
        check_mode(mode)
        check_mode(mode if eval_mode is None else eval_mode, "eval_mode")
        self.embed_dim, self.k, self.ratio, self.base = embed_dim, k, ratio, base
        self.mode, self.eval_mode = mode, mode if eval_mode is None else eval_mode
        self.scorer = nn.Linear(embed_dim, 1)

    def forward(
        self, x: Tensor, graph: AttentionGraph, connect: Builder | None = None, *, mask: Tensor | None = None
    ) -> tuple[Tensor, AttentionGraph, Assignment]:
        """Pools the nodes of each graph of a batch and says who attends to whom among what is left.

        Args:
            x: [num_nodes, embed_dim].
            graph: over these nodes; its offsets tell the graphs of a batch apart.
            connect: a builder, called with the number of pooled nodes of each graph, int64 [num_graphs], such as
                `connectivity.full`. None carries edges over: a pooled node reads another where a node that entered the
                one read a node that entered the other. That lists the blocks of `graph`; kinds are not kept.
            mask: bool [num_nodes]; nodes where it is False, padding or virtual ones, are neither pooled nor read.

        Returns:
            x: [num_pooled, embed_dim], graph after graph, in the order of the winners in the input.
            graph: over the pooled nodes.
            assignment: `ops.Assignment`, the pooling graph with its weights, and the winners. Recordings and pathways
                hold it as a step of kind "pool".
        """
        assignment = self.assign(x, graph, mask)
        pooled = assignment.pool(x)
        pooled_graph = _coarsened(graph, assignment) if connect is None else _connected(connect, assignment)
        return pooled, pooled_graph, assignment

    def assign(self, x: Tensor, graph: AttentionGraph, mask: Tensor | None = None) -> Assignment:
        """Returns the pooling graph of x [num_nodes, embed_dim] with its weights; arguments as in `forward`."""
        if not isinstance(graph, AttentionGraph):
            raise TypeError(f"graph must be an AttentionGraph, got {type(graph).__name__}. Say who reads whom before.")
        if not graph.is_square:
            raise ValueError(
                f"graph must be square, got {graph.num_src_nodes} sources and {graph.num_dst_nodes} targets. "
                "A pool reads the nodes of one level: pass the graph among them."
            )
        check_rows(x, graph.num_src_nodes)
        if x.shape[1] != self.embed_dim:
            raise ValueError(
                f"x must have width embed_dim = {self.embed_dim}, got {x.shape[1]}. "
                "SuccessiveHalvingPool(embed_dim) says the width."
            )
        ptr = graph.src_ptr
        if mask is not None:
            check_mask(mask, x)
            # what is masked may be no number, and so its score, whose gradient would reach the scorer
            x = x.masked_fill(~mask[:, None], 0.0)
        return successive_halving_assignment(
            self.score(x),
            self._num_kept(ptr, mask),
            self.base,
            ptr=ptr,
            mask=mask,
            mode=self.mode if self.training else self.eval_mode,
        )

    def score(self, x: Tensor) -> Tensor:
        """Returns the score of each node, [num_nodes], in (0, 1]."""
        logit = self.scorer(x)[:, 0]
        logit = logit.float() if logit.dtype in (torch.float16, torch.bfloat16) else logit
        return LEAST_SCORE + (1.0 - LEAST_SCORE) * logit.sigmoid()

    def _num_kept(self, ptr: Tensor, mask: Tensor | None) -> int | Tensor:
        if self.ratio is None:
            assert self.k is not None
            return self.k
        sizes = torch.diff(ptr)
        if mask is not None:  # a share of those that take part
            sizes = torch.diff(nn.functional.pad(mask.long().cumsum(0), (1, 0))[ptr])
        # less a little, for 0.07 · 100 is a little more than 7 in binary
        return (sizes.double() * self.ratio - 1e-9).ceil().long().clamp(min=1)

    def extra_repr(self) -> str:
        count = f"k={self.k}" if self.ratio is None else f"ratio={self.ratio}"
        modes = f"mode={self.mode!r}" + (f", eval_mode={self.eval_mode!r}" if self.eval_mode != self.mode else "")
        return f"{self.embed_dim}, {count}, base={self.base}, {modes}"


class PoolReadout(nn.Module):
    """Reads each graph out as the k nodes that a pool makes of it, in their order; a smaller graph ends in zeros.

    Args:
        pool: a `SuccessiveHalvingPool` with a count k.

    Raises:
        ValueError: if the pool keeps a share, for then graphs differ in width.

    Source: ours; a fixed number of nodes in order as in SortPooling (Zhang et al. 2018), here blended and not cut.

    >>> import graphattn as ga
    >>> readout = PoolReadout(SuccessiveHalvingPool(embed_dim=8, k=3))
    >>> readout(torch.randn(6, 8), ga.connectivity.full(torch.tensor([5, 0, 1]))).shape
    torch.Size([3, 3, 8])
    """

    def __init__(self, pool: SuccessiveHalvingPool):
        super().__init__()
        if not isinstance(pool, SuccessiveHalvingPool):
            raise TypeError(f"pool must be a SuccessiveHalvingPool, got {type(pool).__name__}. Make it with a count k.")
        if pool.k is None:
            raise ValueError(
                f"pool must keep a count of nodes, got ratio = {pool.ratio}. Make it with k: results have one shape."
            )
        self.pool = pool

    def forward(self, x: Tensor, graph: AttentionGraph, *, mask: Tensor | None = None) -> Tensor:
        """Returns [num_graphs, k, embed_dim]; a row that a graph has no node for, all of an empty graph, is zeros.

        Args:
            x: [num_nodes, embed_dim].
            graph: over these nodes; its offsets tell the graphs apart, its edges are not read.
            mask: bool [num_nodes]; nodes where it is False are not read.
        """
        assignment = self.pool.assign(x, graph, mask)
        pooled = assignment.pool(x)
        k, ptr = self.pool.k, assignment.graph.dst_ptr
        assert k is not None
        of_graph = torch.repeat_interleave(torch.diff(ptr))
        place = torch.arange(pooled.shape[0], device=pooled.device) - ptr[of_graph]
        rows = pooled.new_zeros(graph.num_graphs * k, pooled.shape[1])
        return rows.index_copy(0, of_graph * k + place, pooled).view(graph.num_graphs, k, pooled.shape[1])


def _coarsened(graph: AttentionGraph, assignment: Assignment) -> AttentionGraph:
    """P A Pᵀ as a set of edges."""
    return (assignment.graph @ graph @ assignment.graph.T).named(f"pooled({graph.origin})")


def _connected(connect: Builder, assignment: Assignment) -> AttentionGraph:
    made = connect(torch.diff(assignment.graph.dst_ptr))
    num_pooled = assignment.graph.num_dst_nodes
    if not isinstance(made, AttentionGraph) or (made.num_src_nodes, made.num_dst_nodes) != (num_pooled, num_pooled):
        raise ValueError(
            f"connect must return an AttentionGraph over the {num_pooled} pooled nodes, got {made!r}. Pass a builder "
            "that takes sizes [num_graphs], such as connectivity.full."
        )
    return made
