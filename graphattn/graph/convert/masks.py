"""Dense masks of all pairs [targets, sources]. The polarity is in the name: what True, or zero, means."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from graphattn.graph.attention_graph import AttentionGraph

MAX_MASK_BYTES = 2**30
# An additive mask blocks by −inf, by the least number of a dtype, or by a number like −1e4 that older code writes.
LEAST_BLOCKING = -1e4


def to_mask(graph: AttentionGraph) -> Tensor:
    """Returns bool [num_dst_nodes, num_src_nodes], or [num_heads, ...] with a head_mask; True = attend.

    What `scaled_dot_product_attention` takes as a bool `attn_mask`.

    Raises:
        ValueError: above 1 GiB, with the size it would have.

    >>> from graphattn.graph import AttentionGraph
    >>> AttentionGraph(torch.tensor([[0, 1], [0, 0]]), num_src_nodes=2).to_mask()
    tensor([[ True,  True],
            [False, False]])
    """
    return _filled(graph, False, torch.bool, True)


def from_mask(cls: type[AttentionGraph], mask: Tensor) -> AttentionGraph:
    """Returns the graph of bool [num_dst_nodes, num_src_nodes], True = attend.

    A third dimension in front, [num_heads, ...], becomes the head_mask.

    Raises:
        TypeError: if `mask` is not bool.
        ValueError: if it has another number of dimensions.
    """
    mask = _checked_shape(mask, torch.bool)
    union = mask if mask.dim() == 2 else mask.any(0)
    dst, src = union.nonzero(as_tuple=True)
    return cls.trusted(
        torch.stack([src, dst]),
        mask.shape[-1],
        mask.shape[-2],
        head_mask=None if mask.dim() == 2 else mask[:, dst, src].T.contiguous(),
        origin=f"from_mask({' × '.join(map(str, mask.shape))})",
    )


def to_mha_mask(graph: AttentionGraph) -> Tensor:
    """Returns the bool mask of `torch.nn.MultiheadAttention`, of the shape of `to_mask`; True = blocked."""
    return _filled(graph, True, torch.bool, False)


def from_mha_mask(cls: type[AttentionGraph], mask: Tensor) -> AttentionGraph:
    """Returns the graph of a bool mask of `torch.nn.MultiheadAttention`, True = blocked; else as `from_mask`."""
    return from_mask(cls, ~_checked_shape(mask, torch.bool))


def to_additive_mask(graph: AttentionGraph, dtype: torch.dtype = torch.float32) -> Tensor:
    """Returns what is added to scores, of the shape of `to_mask`: 0 = attend, -inf = blocked.

    Args:
        graph: the graph.
        dtype: a floating dtype.

    Raises:
        ValueError: above 1 GiB, or if `dtype` is not floating.

    >>> from graphattn.graph import AttentionGraph
    >>> AttentionGraph(torch.tensor([[0, 1], [0, 0]]), num_src_nodes=2).to_additive_mask()
    tensor([[0., 0.],
            [-inf, -inf]])
    """
    check_floating(dtype)
    return _filled(graph, float("-inf"), dtype, 0.0)


def from_additive_mask(cls: type[AttentionGraph], mask: Tensor) -> AttentionGraph:
    """Returns the graph of floats [num_dst_nodes, num_src_nodes] or [num_heads, ...]: 0 = attend, ≤ -1e4 = blocked.

    Raises:
        TypeError: if `mask` is not floating.
        ValueError: if it has another number of dimensions, or holds a number that neither attends nor blocks.
    """
    return from_mask(cls, attends(_checked_shape(mask, None)))


def check_floating(dtype: torch.dtype) -> None:
    """Raises unless an additive mask can have the dtype."""
    if not dtype.is_floating_point:
        raise ValueError(f"dtype must be floating, got {dtype}. Use to_mask for a bool mask.")


def attends(mask: Tensor) -> Tensor:
    """Returns where an additive mask is zero, or raises where a number is neither zero nor low enough to block."""
    zero = mask == 0
    odd = ~zero & ~(mask <= LEAST_BLOCKING)
    if bool(odd.any()):
        raise ValueError(
            f"an additive mask must hold 0 (attend) or a number of at most {LEAST_BLOCKING:g} (blocked), got "
            f"{mask[odd][0].item():g}. Pass from_mask(mask > -inf) and the other numbers as edge_bias."
        )
    return zero


def refuse_dense(shape: tuple[int, ...], dtype: torch.dtype, what: str = "a dense mask") -> None:
    """Raises, with the size and what to use instead, if a dense tensor would take more than 1 GiB."""
    size = dtype.itemsize
    for length in shape:
        size *= length
    if size > MAX_MASK_BYTES:
        raise ValueError(
            f"{what} of {' × '.join(map(str, shape))} would take {size / 2**30:,.1f} GiB, above the limit of "
            f"{MAX_MASK_BYTES / 2**30:g} GiB. Pass the graph itself to graph_attention, or convert with to_block_mask, "
            "to_sparse_csr or to_scipy, which take memory by edges."
        )


def _filled(graph: AttentionGraph, blocked: float, dtype: torch.dtype, attend: float) -> Tensor:
    """Returns a dense tensor that holds `attend` at the edges and `blocked` elsewhere."""
    shape: tuple[int, ...] = (graph.num_dst_nodes, graph.num_src_nodes)
    if graph._head_mask is not None:
        shape = (graph._head_mask.shape[1], *shape)
    refuse_dense(shape, dtype)
    mask = torch.full(shape, blocked, dtype=dtype, device=graph.device)
    src, dst = graph.edge_index
    if graph.head_mask is None:
        mask[dst, src] = attend
        return mask
    edge, head = graph.head_mask.nonzero(as_tuple=True)
    mask[head, dst[edge], src[edge]] = attend
    return mask


def _checked_shape(mask: Tensor, dtype: torch.dtype | None) -> Tensor:
    """Returns a mask of the dtype, of any floating one for None, [num_dst_nodes, num_src_nodes] or [num_heads, ...]."""
    if not isinstance(mask, Tensor):
        raise TypeError(f"mask must be a torch.Tensor, got {type(mask).__name__}. Pass torch.as_tensor(mask).")
    if dtype is not None and mask.dtype != dtype:
        raise TypeError(
            f"mask must have dtype torch.bool, got {mask.dtype}. Say which value means attend: mask == 1, mask > -inf."
        )
    if dtype is None and not mask.is_floating_point():
        raise TypeError(
            f"an additive mask must have a floating dtype, got {mask.dtype}. Use from_mask or from_mha_mask for bool."
        )
    if mask.dim() not in (2, 3):
        raise ValueError(
            f"mask must have shape [num_dst_nodes, num_src_nodes] or [num_heads, ...], got {list(mask.shape)}. "
            "Convert the masks of a batch with from_hf_mask, or one by one and join them with disjoint_union."
        )
    return mask
