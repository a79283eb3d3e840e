"""Self edges that a draw leaves in place, so that no causal target is left without a source."""

from __future__ import annotations

from typing import Any

import torch

from graphattn.graph import AttentionGraph


def check_keep_self(keep_self: Any) -> None:
    """Raises a TypeError unless `keep_self` is a bool or None."""
    if keep_self is not None and not isinstance(keep_self, bool):
        raise TypeError(
            f"keep_self must be True, False or None, got {keep_self!r}. None keeps self edges of causal graphs."
        )


def keeps_self(keep_self: bool | None, graph: AttentionGraph) -> bool:
    """Decides whether to keep self edges: as asked, or else where sources are the targets and none looks ahead."""
    if keep_self and not has_one_side(graph):
        raise ValueError(
            f"keep_self=True needs sources and targets to be the same nodes, got {graph.num_src_nodes} sources and "
            f"{graph.num_dst_nodes} targets of {graph.num_graphs} graphs. Leave keep_self out in cross attention."
        )
    return has_one_side(graph) and not graph.looks_ahead() if keep_self is None else keep_self


def has_one_side(graph: AttentionGraph) -> bool:
    """Returns whether sources and targets are as many in each graph of the batch, as those of self-attention are."""
    return graph.is_square and torch.equal(graph.src_ptr, graph.dst_ptr)
