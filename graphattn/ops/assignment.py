"""Pooling as a bipartite graph: which inputs enter which pooled element, and with what weight."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from graphattn.graph import AttentionGraph, Blocks, node_ptr
from graphattn.graph.ragged import check_ptr
from graphattn.graph.validate import check_tensor
from graphattn.ops.listening import tell
from graphattn.ops.segment import segment_sum

MODES = ("soft", "straight_through", "hard")


class Assignment(NamedTuple):
    """Which inputs enter which pooled element: pooled_i = Σ over the edges j → i of weight · x_j.

    >>> graph = AttentionGraph(torch.tensor([[0, 1, 2], [0, 0, 1]]), num_src_nodes=3, num_dst_nodes=2)
    >>> assignment = Assignment(graph, torch.tensor([0.75, 0.25, 1.0]), kept=torch.tensor([0, 2]))
    >>> assignment.pool(torch.tensor([[4.0], [8.0], [5.0]])).T
    tensor([[5., 5.]])
    """

    graph: AttentionGraph  # sources are the inputs, targets the pooled elements; offsets of both where there is a batch
    weight: Tensor  # [num_edges]
    kept: Tensor  # int64 [num_dst_nodes], ascending: the input that each pooled element stands for
    is_selection: bool = False  # whether pooled elements are those inputs and nothing else

    def pool(self, x: Tensor) -> Tensor:
        """Returns [num_dst_nodes, dim] from x [num_src_nodes, dim], and tells its weights to who listens.

        Inputs without an edge, as masked ones are, are not read.

        Raises:
            ValueError: for another number of rows.
        """
        check_rows(x, self.graph.num_src_nodes)
        tell(self.graph, self.weight, kind="pool", value=x[:, None])
        if self.is_selection:  # a loser's infinity times zero would be no number
            return x.index_select(0, self.kept)
        src, dst = self.graph.edge_index
        return segment_sum(self.weight.to(x.dtype)[:, None] * x.index_select(0, src), dst, self.graph.num_dst_nodes)


class Entrants(NamedTuple):
    """Who takes part in a top-k, and how many of each graph are to be left."""

    scores: Tensor  # [num_entrants], at least float32
    node: Tensor | None  # int64 [num_entrants], their numbers among all inputs; None where all take part
    sizes: Tensor  # int64 [num_graphs], entrants of each graph
    num_kept: Tensor  # int64 [num_graphs]
    num_nodes: int  # inputs, those that take no part included
    src_ptr: Tensor | None  # of all inputs, where there is a batch

    @property
    def kept_ptr(self) -> Tensor:
        """int64 [num_graphs + 1], offsets of what is kept."""
        return node_ptr(self.num_kept)

    def node_of(self, entrant: Tensor) -> Tensor:
        """Returns the numbers of entrants among all inputs."""
        return entrant if self.node is None else self.node[entrant]

    def graph_of(self, edge_index: Tensor | None, origin: str, blocks: Blocks | None = None) -> AttentionGraph:
        """Makes the pooling graph, from inputs into what is kept, of canonical edges [2, num_edges] or of blocks."""
        kept_ptr = self.kept_ptr
        if edge_index is None:
            edge_index = kept_ptr.new_empty(2, 0)
        return AttentionGraph.trusted(
            edge_index,
            self.num_nodes,
            int(kept_ptr[-1]),
            blocks=blocks,
            kinds=("pool",),
            src_ptr=self.src_ptr,
            dst_ptr=None if self.src_ptr is None else kept_ptr,
            origin=origin,
        )


def entrants(scores: Tensor, k: int | Tensor, ptr: Tensor | None, mask: Tensor | None) -> Entrants:
    """Checks what all top-k operators take, and leaves out those that the mask does.

    Raises:
        TypeError, ValueError: naming the argument, the rule, the value and the next step.
    """
    check_tensor(scores, "scores")
    if scores.dim() != 1 or not scores.is_floating_point():
        raise ValueError(
            f"scores must be floating [num_nodes], got {scores.dtype} {list(scores.shape)}. Give one score per row of "
            "x: a linear layer's [num_nodes, 1] needs .squeeze(1)."
        )
    num_nodes = scores.numel()
    offsets = torch.tensor([0, num_nodes], device=scores.device) if ptr is None else ptr
    if ptr is not None:
        _check_on(ptr, "ptr", scores)
        check_ptr(ptr, num_nodes, "ptr")
    node = None
    if mask is not None:
        check_mask(mask, scores)
        node = mask.nonzero()[:, 0]
        scores = scores[node]
        offsets = torch.searchsorted(node, offsets)
    is_valid = (scores > 0) & (scores <= 1)
    if not bool(is_valid.all()):
        at = int((~is_valid).nonzero()[0])
        raise ValueError(
            f"scores must lie in (0, 1], got {scores[at].item()} for node {at if node is None else int(node[at])}. "
            "Pass them through a sigmoid; leave nodes out by mask."
        )
    sizes = torch.diff(offsets)
    wide = scores.float() if scores.dtype in (torch.float16, torch.bfloat16) else scores
    return Entrants(wide, node, sizes, torch.minimum(_checked_k(k, sizes), sizes), num_nodes, ptr)


def _checked_k(k: int | Tensor, sizes: Tensor) -> Tensor:
    """Returns k as int64 [num_graphs], or raises."""
    if isinstance(k, bool) or not isinstance(k, int | Tensor):
        raise TypeError(f"k must be an int, or int64 [num_graphs], got {type(k).__name__} {k!r}. It is a count.")
    if isinstance(k, Tensor):
        _check_on(k, "k", sizes)
        if k.dtype != torch.int64 or k.shape != sizes.shape:
            raise ValueError(
                f"k must be int64 [num_graphs] = [{sizes.numel()}], got {k.dtype} {list(k.shape)}. "
                "Give one count per graph, or an int for all."
            )
    least = k if isinstance(k, int) else int(k.min()) if k.numel() else 1
    if least < 1:
        raise ValueError(f"k must be at least 1, got {least}. A graph of at most k nodes keeps all of them.")
    return torch.full_like(sizes, k) if isinstance(k, int) else k


def check_rows(x: Tensor, num_nodes: int) -> None:
    """Raises unless x is floating [num_nodes, dim]."""
    check_tensor(x, "x")
    if x.dim() != 2 or x.shape[0] != num_nodes or not x.is_floating_point():
        raise ValueError(
            f"x must be floating [num_nodes, dim] with num_nodes = {num_nodes}, got {x.dtype} {list(x.shape)}. "
            "Join a batch into one axis and tell its graphs apart by offsets."
        )


def check_mask(mask: Tensor, nodes: Tensor) -> None:
    """Raises unless `mask` is bool, one per row of `nodes`."""
    check_tensor(mask, "mask")
    if mask.dtype != torch.bool or mask.shape != nodes.shape[:1]:
        raise ValueError(
            f"mask must be bool [num_nodes] = [{nodes.shape[0]}], got {mask.dtype} {list(mask.shape)}. True takes part."
        )
    _check_on(mask, "mask", nodes)


def check_mode(mode: str, name: str = "mode") -> None:
    """Raises unless `mode` is one of MODES."""
    if mode not in MODES:
        raise ValueError(f"{name} must be one of {', '.join(MODES)}, got {mode!r}. Check the spelling.")


def best_first(scores: Tensor, graph: Tensor, num_graphs: int) -> Tensor:
    """Returns the order that puts the best of each graph first, graph after graph; of equals, the earlier is better.

    >>> best_first(torch.tensor([0.1, 0.5, 0.5, 0.2, 0.3]), torch.tensor([0, 0, 0, 1, 1]), 2)
    tensor([1, 2, 0, 4, 3])
    """
    order = torch.argsort(scores.detach(), descending=True, stable=True)
    return order if num_graphs <= 1 else order[torch.argsort(graph[order], stable=True)]


def _check_on(tensor: Tensor, name: str, like: Tensor) -> None:
    """Raises unless `tensor` is one, on the device of another."""
    check_tensor(tensor, name)
    if tensor.device != like.device:
        raise ValueError(
            f"{name} must be on the device of scores, {like.device}, got {tensor.device}. "
            f"Call {name}.to({str(like.device)!r}) first."
        )
