"""Windows that cut a grid into boxes, as in Swin, from layer to layer at another offset."""

from collections.abc import Sequence

import torch

from graphattn.connectivity._axes import Shape, per_axis, read_shape, shown_per_axis
from graphattn.connectivity._labels import graph_of_labels
from graphattn.graph import AttentionGraph


def shifted_windows(shape: Shape, window: int | Sequence[int], shift: int | Sequence[int] = 0) -> AttentionGraph:
    r"""Cuts a grid into boxes of `window` cells per axis, moved by `shift`, and connects all cells of a box.

    E = {(j → i) : ⌊(i_a − shift_a) / window_a⌋ = ⌊(j_a − shift_a) / window_a⌋ for every axis a}. Swin rolls the map by
    the shift, cuts it, and masks what came together over the border: what is left of a box on one side of the border
    does not see what is left on the other, so that no box wraps. Along an axis of length L with window w the pieces
    have lengths shift, w, …, w, rest (empty ones left out), and the graph has Π_a Σ piece² edges, with shift 0 and w a
    divisor of L that is num_nodes · Π_a w_a. Held as one block per box. The boxes of a 4 × 6 grid, window (2, 3),
    with shift 0 and with shift 1:

        1 1 1 2 2 2      1 2 2 2 3 3
        1 1 1 2 2 2      4 5 5 5 6 6
        3 3 3 4 4 4      4 5 5 5 6 6
        3 3 3 4 4 4      7 8 8 8 9 9

    Args:
        shape: length of each axis, any number of axes from 1, nodes in row-major order; int64 [num_graphs, num_axes]
            for a batch of grids of different sizes.
        window: cells of a box per axis, at least 1; one int, or one per axis.
        shift: where the first whole box begins, between 0 and window − 1; one int, or one per axis. Swin alternates 0
            and window // 2.

    Returns:
        AttentionGraph of kind "box", on the device of `shape`.

    Raises:
        TypeError: if `shape` is neither a sequence of ints nor an int64 tensor, or a parameter no int.
        ValueError: if a length is negative, `window` below 1, or `shift` outside [0, window).

    Source: Liu et al. 2021 (Swin Transformer), sec. 3.2, "Shifted window partitioning" and the cyclic-shifting batch
    computation. Where an axis is no multiple of the window, they pad the map; here the last box is smaller. They also
    set the shift to 0 where one window covers the map; here the shift is what is passed.

    >>> shifted_windows((4, 6), (2, 3)).num_edges                            # 24 cells read 6 each
    144
    >>> print(shifted_windows((5,), 2, shift=1).to_mask().int())
    tensor([[1, 0, 0, 0, 0],
            [0, 1, 1, 0, 0],
            [0, 1, 1, 0, 0],
            [0, 0, 0, 1, 1],
            [0, 0, 0, 1, 1]], dtype=torch.int32)
    """
    cells = read_shape(shape)
    windows = per_axis(window, "window", cells.num_axes, 1, "Use 1 for cells that see themselves only.")
    shifts = per_axis(shift, "shift", cells.num_axes, 0, "A shift of window − 1 cuts as a shift of −1 would.")
    for size, one in zip(windows, shifts):
        if one >= size:
            raise ValueError(f"shift must be below window, got shift {one} and window {size}. Use {one % size}.")
    box = torch.zeros(cells.nodes.num_nodes, dtype=torch.int64, device=cells.nodes.device)
    for coordinate, length, size, one in zip(*cells.coordinates(), windows, shifts):
        most = max(cells.nodes.num_nodes, 1)  # int64 cannot hold every int, and this cuts alike
        place = torch.div(coordinate - min(one, most), min(size, 2 * most), rounding_mode="floor") + 1
        box = box * (length + 1) + place  # at most one piece per cell, and one before the shift
    origin = f"shifted_windows({cells.label}, window={shown_per_axis(windows)}, shift={shown_per_axis(shifts)})"
    return graph_of_labels(box, cells.nodes, box, cells.nodes, kind="box", origin=origin)
