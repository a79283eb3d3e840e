"""Grids: each pixel, patch or voxel reads its neighbours along every axis."""

from collections.abc import Sequence

import torch
from torch import Tensor

from graphattn.connectivity._nodes import Nodes, check_count, nodes_of
from graphattn.connectivity._ranges import edges_of_ranges
from graphattn.graph import AttentionGraph, batch_of


def grid(shape: Sequence[int] | Tensor, radius: int | Sequence[int] = 1) -> AttentionGraph:
    r"""Connects each cell of a grid to the cells at most `radius` steps away along every axis, itself included.

    E = {(j → i) : |i_a − j_a| ≤ r_a for every axis a}, nodes numbered in row-major order (the last axis runs fastest).
    A grid of lengths L has Π_a (L_a(2r_a + 1) − r_a(r_a + 1)) edges, with r_a = min(radius_a, L_a − 1). What the
    cell marked ○ of a 4 × 5 grid reads with radius 1, and with radius (0, 2):

        · · · · ·      · · · · ·
        ■ ■ ■ · ·      · · · · ·
        ■ ○ ■ · ·      ■ ○ ■ ■ ·
        ■ ■ ■ · ·      · · · · ·

    Args:
        shape: length of each axis, (height, width) for an image; any number of axes from 1. For a batch of grids of
            different sizes, int64 [num_graphs, num_axes].
        radius: steps to look along every axis, at least 0, or one number per axis. Past the border is nothing.

    Returns:
        AttentionGraph of kind "grid", on the device of `shape`.

    Raises:
        TypeError: if `shape` is neither a sequence of ints nor an int64 tensor, or `radius` is no int.
        ValueError: if a length or a radius is negative, `shape` has no axis, or `radius` another number of axes.

    Source: Ramachandran et al. 2019 (Stand-Alone Self-Attention in Vision Models): local attention over a square
    neighbourhood of the pixel. Their relative position terms are left out.

    >>> grid((2, 2), radius=1).num_edges                       # all within one step
    16
    >>> grid((2, 3), radius=(0, 1)).edge_index[:, :7]          # two rows that do not see each other
    tensor([[0, 1, 0, 1, 2, 1, 2],
            [0, 0, 1, 1, 1, 2, 2]])
    >>> grid(torch.tensor([[2, 2], [1, 3]])).src_ptr
    tensor([0, 4, 7])
    """
    lengths, nodes, label = _read_shape(shape)
    num_axes = lengths.shape[1]
    radii = _read_radius(radius, num_axes)
    batch = batch_of(nodes.ptr)
    rest = torch.arange(nodes.num_nodes, device=nodes.device) - nodes.ptr[batch]
    first: list[Tensor] = []  # per axis, the first coordinate that each node reads [num_nodes]
    count: list[Tensor] = []  # and how many
    for axis in reversed(range(num_axes)):
        length = lengths[batch, axis]
        above = torch.div(rest, length, rounding_mode="floor")
        coordinate, rest = rest - above * length, above
        reach = min(radii[axis], nodes.num_nodes)  # int64 cannot hold every int
        first.insert(0, (coordinate - reach).clamp_(min=0))
        count.insert(0, torch.minimum(coordinate + reach + 1, length) - first[0])
    # Axis by axis, the coordinates read so far become one row-major number, as in Horner's scheme. Each step lists them
    # in order, so that the edges are canonical; the last step makes all but a fraction of the entries.
    src = torch.zeros(nodes.num_nodes, dtype=torch.int64, device=nodes.device)
    dst = torch.arange(nodes.num_nodes, device=nodes.device)
    for axis in range(num_axes):
        src, row = edges_of_ranges(src * lengths[batch, axis][dst] + first[axis][dst], count[axis][dst])
        dst = dst[row]
    if nodes.num_graphs > 1:
        src += nodes.ptr[batch][dst]
    return AttentionGraph.trusted(
        torch.stack([src, dst]),
        nodes.num_nodes,
        kinds=("grid",),
        src_ptr=nodes.batch_ptr,
        origin=f"grid({label}, radius={radii[0] if len(set(radii)) == 1 else radii})",
    )


def _read_shape(shape: Sequence[int] | Tensor) -> tuple[Tensor, Nodes, str]:
    """Returns the lengths [num_graphs, num_axes], the nodes they make, and how `origin` names them."""
    if isinstance(shape, Tensor):
        if shape.dtype != torch.int64:
            raise TypeError(f"shape must have dtype torch.int64, got {shape.dtype}. Call shape.long() first.")
        if shape.dim() != 2 or shape.shape[1] == 0:
            raise ValueError(
                f"shape must be a tensor [num_graphs, num_axes] with at least one axis, got {list(shape.shape)}. "
                "Pass tuple(shape.tolist()) for a single grid."
            )
        if shape.numel() and int(shape.min()) < 0:
            raise ValueError(
                f"shape must not be negative, got {int(shape.min())}. An empty grid has an axis of length 0."
            )
        nodes = nodes_of(shape.prod(1))
        return shape, nodes, nodes.label
    if isinstance(shape, str) or not isinstance(shape, Sequence):
        raise TypeError(
            f"shape must be a tuple of ints or an int64 tensor [num_graphs, num_axes], got {type(shape).__name__}. "
            "Pass (length,) for a grid of one axis."
        )
    if not len(shape):
        raise ValueError("shape must have at least one axis, got (). Pass (length,) for a grid of one axis.")
    for axis, length in enumerate(shape):
        check_count(length, f"shape[{axis}]", 0, "An empty grid has an axis of length 0.")
    lengths = torch.tensor([list(shape)], dtype=torch.int64)
    return lengths, nodes_of(int(lengths.prod())), str(tuple(shape))


def _read_radius(radius: int | Sequence[int], num_axes: int) -> tuple[int, ...]:
    radii = tuple(radius) if isinstance(radius, Sequence) and not isinstance(radius, str) else (radius,) * num_axes
    if len(radii) != num_axes:
        raise ValueError(
            f"radius must be an int or have one entry per axis, got {len(radii)} for {num_axes} axes. "
            "Pass one int for the same radius everywhere."
        )
    for one in radii:
        check_count(one, "radius", 0, "Use 0 to stay in place along an axis.")
    return radii
