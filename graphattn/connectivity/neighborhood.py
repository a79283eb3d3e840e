"""Neighbourhoods: each cell of a grid reads a window of fixed size, shifted inside at the border, as in NATTEN."""

from collections.abc import Sequence

import torch
from torch import Tensor

from graphattn.connectivity._axes import Cells, Shape, edges_of_boxes, per_axis, read_shape, shown_per_axis
from graphattn.graph import AttentionGraph


def neighborhood(
    shape: Shape,
    kernel_size: int | Sequence[int],
    *,
    stride: int | Sequence[int] = 1,
    dilation: int | Sequence[int] = 1,
    is_causal: bool | Sequence[bool] = False,
) -> AttentionGraph:
    r"""Connects each cell of a grid to a window of `kernel_size` cells per axis around it, as NATTEN does.

    E = {(j → i) : j_a ∈ W_a(i_a) for every axis a}. Along an axis of length L, dilation d sorts the coordinates into
    d groups by their remainder ρ, which see nothing of each other; a group has L_ρ = ⌈(L − ρ) / d⌉ coordinates
    x = ρ + d·q. With kernel k and stride s, W(x) are the q' of the same group with

        start ≤ q' < start + k,  start = clamp(leader − ⌊k / 2⌋, 0, L_ρ − k),  leader = min(⌊q / s⌋s + ⌊s / 2⌋, L_ρ − 1)

    so that every window holds k cells, at the border too, and the s queries of a stride group share one. Along a causal
    axis the leader is the last query of the group, min(⌊q / s⌋s + s − 1, L_ρ − 1), and W(x) the q' with
    max(leader − k + 1, 0) ≤ q' ≤ q. Without causal axes there are num_nodes · Π_a k_a edges; a causal axis replaces
    L · k by the sum of its window lengths, Lk − k(k − 1) / 2 for stride and dilation 1. Seven tokens, kernel 3: plain,
    stride 2, dilation 2, and causal:

        ■ ■ ■ · · · ·      ■ ■ ■ · · · ·      ■ · ■ · ■ · ·      ■ · · · · · ·
        ■ ■ ■ · · · ·      ■ ■ ■ · · · ·      · ■ · ■ · ■ ·      ■ ■ · · · · ·
        · ■ ■ ■ · · ·      · · ■ ■ ■ · ·      ■ · ■ · ■ · ·      ■ ■ ■ · · · ·
        · · ■ ■ ■ · ·      · · ■ ■ ■ · ·      · ■ · ■ · ■ ·      · ■ ■ ■ · · ·
        · · · ■ ■ ■ ·      · · · · ■ ■ ■      · · ■ · ■ · ■      · · ■ ■ ■ · ·
        · · · · ■ ■ ■      · · · · ■ ■ ■      · ■ · ■ · ■ ·      · · · ■ ■ ■ ·
        · · · · ■ ■ ■      · · · · ■ ■ ■      · · ■ · ■ · ■      · · · · ■ ■ ■

    Args:
        shape: length of each axis, any number of axes from 1, nodes in row-major order; int64 [num_graphs, num_axes]
            for a batch of grids of different sizes.
        kernel_size: cells of the window per axis, at least 1; one int, or one per axis, like all that follow.
        stride: how many neighbouring queries of an axis share a window, between 1 and `kernel_size`. A stride equal to
            the kernel cuts the axis into separate blocks.
        dilation: distance between the cells of a window, at least 1, with kernel_size · dilation ≤ length.
        is_causal: whether the window of an axis ends at the query. This moves the window, which no rule of `keep` does.

    Returns:
        AttentionGraph of kind "neighborhood", on the device of `shape`. `grid` is the relative whose windows are cut at
        the border instead of shifted.

    Raises:
        TypeError: if `shape` is neither a sequence of ints nor an int64 tensor, or a parameter no int (no bool).
        ValueError: if a parameter lies outside its domain, or the window is larger than some grid that has cells.

    Source: Hassani et al. 2023 (Neighborhood Attention Transformer); dilation: Hassani and Shi 2022 (DiNAT); per-axis
    causality: Hassani et al. 2024 (Faster Neighborhood Attention); stride: Hassani et al. 2025 (Generalized
    Neighborhood Attention). Borders, groups and leaders follow the reference mask of NATTEN 0.21. More than three axes
    and a kernel of 1, which NATTEN refuses, are allowed here.

    >>> neighborhood((3, 4), kernel_size=3).num_edges                        # 12 cells read 9 each
    108
    >>> neighborhood((3, 4), (1, 2), is_causal=(False, True)).edge_index[:, :7]
    tensor([[0, 0, 1, 1, 2, 2, 3],
            [0, 1, 1, 2, 2, 3, 3]])
    """
    cells = read_shape(shape)
    kernels = per_axis(kernel_size, "kernel_size", cells.num_axes, 1, "Use 1 to stay in place along an axis.")
    strides = per_axis(stride, "stride", cells.num_axes, 1, "Use 1 for a window of its own for each query.")
    dilations = per_axis(dilation, "dilation", cells.num_axes, 1, "Use 1 for a window without gaps.")
    causal = _read_causal(is_causal, cells.num_axes)
    _check_windows(cells, kernels, strides, dilations)
    first: list[Tensor] = []
    count: list[Tensor] = []
    if not cells.nodes.num_nodes:  # a window may then be of any size, which int64 cannot hold
        kernels = strides = dilations = (1,) * cells.num_axes
    for coordinate, length, k, s, d, ends_here in zip(*cells.coordinates(), kernels, strides, dilations, causal):
        query = torch.div(coordinate, d, rounding_mode="floor")
        group = coordinate - query * d
        size = torch.div(length - group + d - 1, d, rounding_mode="floor")  # L_ρ
        leader = torch.div(query, s, rounding_mode="floor") * s + (s - 1 if ends_here else s // 2)
        leader = torch.minimum(leader, size - 1)
        if ends_here:
            start = (leader - k + 1).clamp_(min=0)
            count.append(query + 1 - start)
        else:
            start = torch.minimum((leader - k // 2).clamp_(min=0), size - k)
            count.append(torch.full_like(start, k))
        first.append(group + d * start)
    options = "" if set(strides) == {1} else f", stride={shown_per_axis(strides)}"
    options += "" if set(dilations) == {1} else f", dilation={shown_per_axis(dilations)}"
    options += f", is_causal={shown_per_axis(causal)}" if any(causal) else ""
    return AttentionGraph.trusted(
        edges_of_boxes(cells, first, count, dilations),
        cells.nodes.num_nodes,
        kinds=("neighborhood",),
        src_ptr=cells.nodes.batch_ptr,
        origin=f"neighborhood({cells.label}, kernel_size={shown_per_axis(kernels)}{options})",
    )


def _read_causal(is_causal: bool | Sequence[bool], num_axes: int) -> tuple[bool, ...]:
    causal = (is_causal,) * num_axes if isinstance(is_causal, bool) else is_causal
    if not isinstance(causal, Sequence) or not all(isinstance(one, bool) for one in causal):
        raise TypeError(f"is_causal must be a bool or one per axis, got {is_causal!r}. Pass (True, False), say.")
    if len(causal) != num_axes:
        raise ValueError(
            f"is_causal must be a bool or have one entry per axis, got {len(causal)} for {num_axes} axes. "
            "Pass one bool for all axes."
        )
    return tuple(causal)


def _check_windows(
    cells: Cells, kernels: tuple[int, ...], strides: tuple[int, ...], dilations: tuple[int, ...]
) -> None:
    """Raises unless strides fit in windows, and windows in every grid that has cells."""
    has_cells = (cells.shape > 0).all(1)
    smallest = cells.shape[has_cells].amin(0).tolist() if bool(has_cells.any()) else None
    for axis, (k, s, d) in enumerate(zip(kernels, strides, dilations)):
        if s > k:
            raise ValueError(
                f"stride must not exceed kernel_size, got stride {s} and kernel_size {k} along axis {axis}. "
                f"Use a stride of at most {k}, or some queries would not see themselves."
            )
        if smallest is not None and k * d > smallest[axis]:
            raise ValueError(
                f"kernel_size · dilation must not exceed the length of an axis, got {k} · {d} for length "
                f"{smallest[axis]} along axis {axis}. Use a smaller window there, or grid(), which cuts windows at "
                "the border."
            )
