"""Hugging Face's 4-D masks: a batch padded to its longest graph, [batch, num_heads or 1, queries, keys]."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from graphattn.graph.convert.masks import attends, check_floating, refuse_dense
from graphattn.graph.ragged import batch_of, node_ptr

if TYPE_CHECKING:
    from graphattn.graph.attention_graph import AttentionGraph

PADDING_SIDES = ("right", "left")


def to_hf_mask(graph: AttentionGraph, dtype: torch.dtype = torch.bool, padding_side: str = "right") -> Tensor:
    """Returns the 4-D mask of a batch, which Hugging Face models take as `attention_mask` and pass on as it is.

    Graph g of the batch is row g; its nodes are its first positions, or its last ones with `padding_side="left"`.
    Padding neither attends nor is attended.

    Args:
        graph: a batch, or a single graph as a batch of one.
        dtype: torch.bool for True = attend (sdpa), or a floating dtype for 0 = attend and its least finite number =
            blocked (eager).
        padding_side: where tokenizers pad, "right" or "left".

    Returns:
        [num_graphs, 1, most targets of a graph, most sources of a graph], with num_heads for 1 with a head_mask.

    Raises:
        ValueError: above 1 GiB, with the size it would have; for another dtype or side.

    >>> from graphattn.graph import AttentionGraph
    >>> batch = AttentionGraph(torch.tensor([[0, 1, 2], [0, 1, 2]]), 3, src_ptr=torch.tensor([0, 1, 3]))
    >>> batch.to_hf_mask().int().tolist()
    [[[[1, 0], [0, 0]]], [[[1, 0], [0, 1]]]]
    """
    _check_side(padding_side)
    if dtype != torch.bool:
        check_floating(dtype)
    num_heads = 1 if graph._head_mask is None else graph._head_mask.shape[1]
    (num_dst, first_dst), (num_src, first_src) = (
        _padded(ptr, _longest(torch.diff(ptr)), padding_side) for ptr in (graph.dst_ptr, graph.src_ptr)
    )
    shape = (graph.num_graphs, num_heads, num_dst, num_src)
    refuse_dense(shape, dtype, "a padded mask")
    blocked, attend = (False, True) if dtype == torch.bool else (torch.finfo(dtype).min, 0.0)
    mask = torch.full(shape, blocked, dtype=dtype, device=graph.device)
    src, dst = graph.edge_index
    head = torch.zeros_like(src)
    if graph.head_mask is not None:
        edge, head = graph.head_mask.nonzero(as_tuple=True)
        src, dst = src[edge], dst[edge]
    which = batch_of(graph.dst_ptr)[dst]
    mask[which, head, dst - first_dst[which], src - first_src[which]] = attend
    return mask


def from_hf_mask(
    cls: type[AttentionGraph],
    mask: Tensor,
    sizes: Tensor | None = None,
    dst_sizes: Tensor | None = None,
    padding_side: str = "right",
) -> AttentionGraph:
    """Returns the batch of a 4-D mask: bool, True = attend, or floats, 0 = attend and ≤ -1e4 = blocked.

    Args:
        mask: [num_graphs, num_heads or 1, queries, keys]. Several heads become the head_mask.
        sizes: int64 [num_graphs], sources of each graph, `attention_mask.sum(1)` of a tokenizer's; None takes every
            position for a node. What the mask says of padding is left out.
        dst_sizes: the same for targets; None takes `sizes` where queries and keys are as many, else every position.
        padding_side: where the padding is, "right" or "left".

    Raises:
        TypeError: if `mask` is neither bool nor floating, or sizes are not int64.
        ValueError: if a shape, a size, a side or a number of an additive mask is none of the above.
    """
    _check_side(padding_side)
    if not isinstance(mask, Tensor) or not (mask.dtype == torch.bool or mask.is_floating_point()):
        got = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise TypeError(f"mask must be a bool or floating tensor, got {got}. Say which value means attend: mask == 1.")
    if mask.dim() != 4:
        raise ValueError(
            f"mask must have shape [num_graphs, num_heads or 1, queries, keys], got {list(mask.shape)}. "
            "A tokenizer's [num_graphs, length] mask gives `sizes`; use from_mask for one graph."
        )
    num_graphs, num_heads, num_queries, num_keys = mask.shape
    if dst_sizes is None and num_queries == num_keys:
        dst_sizes = sizes
    src_ptr = _ptr(sizes, num_graphs, num_keys, "sizes", mask.device)
    dst_ptr = _ptr(dst_sizes, num_graphs, num_queries, "dst_sizes", mask.device)
    if num_queries == num_keys and torch.equal(src_ptr, dst_ptr):
        dst_ptr = src_ptr
    is_dst, is_src = (
        _is_node(ptr, length, padding_side) for ptr, length in ((dst_ptr, num_queries), (src_ptr, num_keys))
    )
    attend = mask if mask.dtype == torch.bool else attends(mask)
    which, row, column = (attend.any(1) & is_dst[:, :, None] & is_src[:, None]).nonzero(as_tuple=True)
    first_dst, first_src = (
        _padded(ptr, length, padding_side)[1] for ptr, length in ((dst_ptr, num_queries), (src_ptr, num_keys))
    )
    return cls.trusted(
        torch.stack([column + first_src[which], row + first_dst[which]]),
        int(src_ptr[-1]),
        int(dst_ptr[-1]),
        src_ptr=src_ptr if num_graphs != 1 else None,
        dst_ptr=dst_ptr if num_graphs != 1 else None,
        head_mask=attend[which, :, row, column] if num_heads != 1 else None,
        origin=f"from_hf_mask({' × '.join(map(str, mask.shape))})",
    )


def _longest(sizes: Tensor) -> int:
    return int(sizes.max()) if sizes.numel() else 0


def _padded(ptr: Tensor, length: int, padding_side: str) -> tuple[int, Tensor]:
    """Returns the padded length, and the node id that position 0 of each graph would have, [num_graphs]."""
    return length, ptr[:-1] if padding_side == "right" else ptr[1:] - length


def _is_node(ptr: Tensor, length: int, padding_side: str) -> Tensor:
    """Returns which positions are no padding, bool [num_graphs, length]."""
    position = torch.arange(length, device=ptr.device)
    size = torch.diff(ptr)[:, None]
    return position < size if padding_side == "right" else position >= length - size


def _ptr(sizes: Tensor | None, num_graphs: int, length: int, name: str, device: torch.device) -> Tensor:
    if sizes is None:
        return torch.arange(num_graphs + 1, device=device) * length
    ptr = node_ptr(sizes, name)
    if ptr.numel() != num_graphs + 1 or _longest(torch.diff(ptr)) > length:
        raise ValueError(
            f"{name} must hold one size of at most {length} for each of {num_graphs} graphs, got "
            f"{torch.diff(ptr)[:8].tolist()}. Give the number of positions of each graph that are no padding."
        )
    return ptr.to(device)


def _check_side(padding_side: str) -> None:
    if padding_side not in PADDING_SIDES:
        raise ValueError(f"padding_side must be 'right' or 'left', got {padding_side!r}. Use the tokenizer's.")
