"""Grids of cells: their shape, their coordinates, and the edges of cells that read a box of others."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from graphattn.connectivity._nodes import Nodes, check_count, nodes_of
from graphattn.connectivity._ranges import edges_of_ranges
from graphattn.graph import batch_of

Shape = Sequence[int] | Tensor


class Cells(NamedTuple):
    """The cells of one grid or of a batch of grids, in row-major order (the last axis runs fastest)."""

    nodes: Nodes
    label: str  # how `origin` names them: "(4, 5)", "32 graphs"
    shape: Tensor  # [num_graphs, num_axes] int64

    @property
    def num_axes(self) -> int:
        return self.shape.shape[1]

    def coordinates(self) -> tuple[list[Tensor], list[Tensor]]:
        """Returns the coordinate of each cell along each axis, and the length of that axis; all [num_nodes]."""
        batch = batch_of(self.nodes.ptr)
        rest = torch.arange(self.nodes.num_nodes, device=self.nodes.device) - self.nodes.ptr[batch]
        coordinates: list[Tensor] = []
        lengths: list[Tensor] = []
        for axis in reversed(range(self.num_axes)):
            length = self.shape[batch, axis]
            above = torch.div(rest, length, rounding_mode="floor")
            coordinates.insert(0, rest - above * length)
            lengths.insert(0, length)
            rest = above
        return coordinates, lengths


def read_shape(shape: Shape) -> Cells:
    """Reads the length of each axis of one grid, or int64 [num_graphs, num_axes]."""
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
        return Cells(nodes, nodes.label, shape)
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
    return Cells(nodes_of(math.prod(shape)), str(tuple(shape)), lengths)


def per_axis(value: int | Sequence[int], name: str, num_axes: int, at_least: int, advice: str) -> tuple[int, ...]:
    """Reads one int for all axes, or one per axis; `advice` is the next step where one is below `at_least`."""
    values = tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else (value,) * num_axes
    if len(values) != num_axes:
        raise ValueError(
            f"{name} must be an int or have one entry per axis, got {len(values)} for {num_axes} axes. "
            f"Pass one int for the same {name} everywhere."
        )
    for one in values:
        check_count(one, name, at_least, advice)
    return values


def shown_per_axis(values: Sequence[object]) -> str:
    """Writes one value where all axes share it, else all of them."""
    return str(values[0] if len(set(values)) == 1 else tuple(values))


def edges_of_boxes(cells: Cells, first: list[Tensor], count: list[Tensor], step: Sequence[int]) -> Tensor:
    """Lists the edges of cells that each read, along every axis, a run of coordinates.

    Args:
        cells: the grids.
        first: per axis, the first coordinate that each cell reads, int64 [num_nodes].
        count: and how many.
        step: and how far apart.

    Returns:
        int64 [2, num_edges], canonical.
    """
    # Axis by axis, the coordinates read so far become one row-major number, as in Horner's scheme. Each step lists them
    # in order, so that the edges are canonical; the last step makes all but a fraction of the entries.
    nodes = cells.nodes
    batch = batch_of(nodes.ptr)
    dst = torch.arange(nodes.num_nodes, device=nodes.device)
    src = torch.zeros_like(dst)
    for axis in range(cells.num_axes):
        start = src * cells.shape[batch, axis][dst] + first[axis][dst]
        edges = edges_of_ranges(start, count[axis][dst], step[axis])
        torch.index_select(dst, 0, edges[1].clone(), out=edges[1])
        src, dst = edges
    if nodes.num_graphs > 1:
        edges[0] += nodes.ptr[batch][edges[1]]
    return edges
