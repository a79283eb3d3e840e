"""Axial attention: each cell of a grid reads the lines through it."""

from collections.abc import Sequence

import torch
from torch import Tensor

from graphattn.connectivity._axes import Shape, read_shape
from graphattn.connectivity._nodes import check_count
from graphattn.connectivity._ranges import edges_of_runs
from graphattn.graph import AttentionGraph


def axial(shape: Shape, axes: Sequence[int] | None = None) -> AttentionGraph:
    r"""Connects each cell of a grid to the cells of the lines through it, itself included.

    E = {(j → i) : i and j differ in one coordinate a ∈ axes at most}. A grid of lengths L has
    num_nodes · (1 + Σ_{a ∈ axes} (L_a − 1)) edges. What the cell marked ○ of a 4 × 5 grid reads, with all axes and with
    axes [1]:

        · ■ · · ·      · · · · ·
        · ■ · · ·      · · · · ·
        ■ ○ ■ ■ ■      ■ ○ ■ ■ ■
        · ■ · · ·      · · · · ·

    Args:
        shape: length of each axis, any number of axes from 1, nodes in row-major order; int64 [num_graphs, num_axes]
            for a batch of grids of different sizes.
        axes: the directions to look along, distinct; negative ones count from the last. None takes all of them.

    Returns:
        AttentionGraph of kind "axial", on the device of `shape`. For one axis per layer call it once per layer; for one
        per head, `per_head([axial(shape, [0]), axial(shape, [1])])`.

    Raises:
        TypeError: if `shape` is neither a sequence of ints nor an int64 tensor, or `axes` no sequence of ints.
        ValueError: if a length is negative, or `axes` is empty, repeats one or names one that is not there.

    Source: Ho et al. 2019 (Axial Attention in Multidimensional Transformers): attention along one axis per layer. All
    axes in one layer is the criss-cross attention of Huang et al. 2019 (CCNet).

    >>> axial((3, 5)).num_edges                                              # 15 cells read 1 + 2 + 4 each
    105
    >>> axial((2, 2), axes=[0]).edge_index
    tensor([[0, 2, 1, 3, 0, 2, 1, 3],
            [0, 0, 1, 1, 2, 2, 3, 3]])
    """
    cells = read_shape(shape)
    chosen = _read_axes(axes, cells.num_axes)
    coordinates, lengths = cells.coordinates()
    here = torch.arange(cells.nodes.num_nodes, device=cells.nodes.device)
    before: list[tuple[Tensor, ...]] = []  # runs of smaller node ids, those of the first axis first
    after: list[tuple[Tensor, ...]] = []  # and of larger ones
    step = torch.ones_like(here)  # from a cell to the next one along the axis
    for axis in reversed(range(cells.num_axes)):
        if axis in chosen:
            coordinate, beyond = coordinates[axis], lengths[axis] - coordinates[axis] - 1
            before.insert(0, (here - coordinate * step, coordinate, step))
            after.append((here + step, beyond, step))
        step = step * lengths[axis]
    itself = (here, torch.ones_like(here), torch.ones_like(here))
    first, count, steps = (torch.stack(column, 1) for column in zip(*before, itself, *after))
    shown = "" if axes is None else f", axes={chosen}"
    return AttentionGraph.trusted(
        edges_of_runs(first, count, steps),
        cells.nodes.num_nodes,
        kinds=("axial",),
        src_ptr=cells.nodes.batch_ptr,
        origin=f"axial({cells.label}{shown})",
    )


def _read_axes(axes: Sequence[int] | None, num_axes: int) -> list[int]:
    if axes is None:
        return list(range(num_axes))
    if isinstance(axes, str) or not isinstance(axes, Sequence):
        raise TypeError(f"axes must be a sequence of ints, got {type(axes).__name__}. Pass [0] for the first alone.")
    for axis in axes:
        check_count(axis, "axes", -num_axes, f"The grid has {num_axes} axes; -1 is the last one.")
        if axis >= num_axes:
            raise ValueError(f"axes must be below {num_axes}, got {axis}. -1 is the last axis.")
    chosen = sorted(axis % num_axes for axis in axes)
    if len(set(chosen)) != len(chosen) or not chosen:
        raise ValueError(f"axes must name one axis at least, each once, got {list(axes)}. Pass None for all of them.")
    return chosen
