"""Grids: each pixel, patch or voxel reads its neighbours along every axis."""

from collections.abc import Sequence

import torch
from torch import Tensor

from graphattn.connectivity._axes import Shape, edges_of_boxes, per_axis, read_shape, shown_per_axis
from graphattn.graph import AttentionGraph


def grid(shape: Shape, radius: int | Sequence[int] = 1) -> AttentionGraph:
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
    cells = read_shape(shape)
    radii = per_axis(radius, "radius", cells.num_axes, 0, "Use 0 to stay in place along an axis.")
    first: list[Tensor] = []  # per axis, the first coordinate that each node reads [num_nodes]
    count: list[Tensor] = []  # and how many
    for coordinate, length, one in zip(*cells.coordinates(), radii):
        reach = min(one, cells.nodes.num_nodes)  # int64 cannot hold every int
        first.append((coordinate - reach).clamp_(min=0))
        count.append(torch.minimum(coordinate + reach + 1, length) - first[-1])
    return AttentionGraph.trusted(
        edges_of_boxes(cells, first, count, [1] * cells.num_axes),
        cells.nodes.num_nodes,
        kinds=("grid",),
        src_ptr=cells.nodes.batch_ptr,
        origin=f"grid({cells.label}, radius={shown_per_axis(radii)})",
    )
