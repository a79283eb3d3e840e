"""Windows along a curve: cells of a grid in the order of a space-filling curve, cut into pieces of equal length."""

import torch

from graphattn.connectivity._axes import Shape, read_shape
from graphattn.connectivity._labels import graph_of_labels
from graphattn.connectivity._nodes import check_count
from graphattn.graph import AttentionGraph, batch_of
from graphattn.graph.curves import hilbert, morton

CURVES = {"hilbert": hilbert, "morton": morton}
MAX_BITS = 62  # of a place on a curve, which int64 holds


def curve_windows(shape: Shape, window: int, curve: str = "hilbert") -> AttentionGraph:
    r"""Orders the cells of a grid along a curve and connects those of each `window` in a row.

    E = {(j → i) : ⌊rank(i) / w⌋ = ⌊rank(j) / w⌋}, inside each grid, with w = window and rank the place of a cell among
    those of its grid, in the order of the curve through a cube of 2^b cells per axis around it, b a multiple of the
    number of axes. A grid of n = qw + r cells, r < w, has qw² + r² edges, held as one `graph.blocks` entry per window.
    Unlike boxes, windows of any length fit any grid. The ranks of a 4 × 4 grid on the Hilbert and on the Morton curve,
    and the windows of 5 cells on the former:

         0  3  4  5       0  1  4  5      1 1 1 2
         1  2  7  6       2  3  6  7      1 1 2 2
        14 13  8  9       8  9 12 13      3 3 2 2
        15 12 11 10      10 11 14 15      4 3 3 3

    Args:
        shape: length of each axis, any number of axes from 1, nodes in row-major order; int64 [num_graphs, num_axes]
            for a batch of grids of different sizes.
        window: cells per window, at least 1; the last window of a grid may be shorter.
        curve: "hilbert", whose steps all lead to an adjacent cell where the cube is the grid, or "morton" (Z-order).

    Returns:
        AttentionGraph of kind "curve", on the device of `shape`.

    Raises:
        TypeError: if `shape` is neither a sequence of ints nor an int64 tensor, or `window` no int.
        ValueError: if a length is negative, `window` below 1, `curve` unknown, or a place on the curve needs more than
            62 bits.

    Source: Wu et al. 2024 (Point Transformer V3): windows of a space-filling order of points; they alternate curves and
    shuffle. Morton 1966 and Hilbert 1891 for the curves.

    >>> curve_windows((4, 4), window=5).num_edges                            # 3 · 25 + 1
    76
    """
    check_count(window, "window", 1, "Use 1 for cells that see themselves only.")
    if curve not in CURVES:
        raise ValueError(f"curve must be one of {', '.join(map(repr, CURVES))}, got {curve!r}. Use 'hilbert'.")
    cells = read_shape(shape)
    nodes = cells.nodes
    longest = int(cells.shape.max()) if cells.shape.numel() else 0
    num_bits = max(longest - 1, 1).bit_length()
    num_bits += -num_bits % cells.num_axes  # then the curve through a larger cube begins with the one through a smaller
    if num_bits * cells.num_axes > MAX_BITS:
        raise ValueError(
            f"shape must need at most {MAX_BITS} bits for a place on the curve, got {num_bits} for each of "
            f"{cells.num_axes} axes. Merge short axes into one."
        )
    coordinates, _ = cells.coordinates()
    order = torch.argsort(CURVES[curve](torch.stack(coordinates, 1), num_bits))
    batch = batch_of(nodes.ptr)
    order = order[torch.argsort(batch[order], stable=True)]
    rank = torch.empty_like(order)
    rank[order] = torch.arange(nodes.num_nodes, device=nodes.device) - nodes.ptr[batch]
    piece = torch.div(rank, min(window, max(nodes.num_nodes, 1)), rounding_mode="floor")
    origin = f"curve_windows({cells.label}, window={window}, curve={curve!r})"
    return graph_of_labels(piece, nodes, piece, nodes, kind="curve", origin=origin)
