"""The matrix of a graph as text: targets downwards, sources to the right."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from graphattn.graph.cells import cell_counts, cell_sizes

if TYPE_CHECKING:
    from graphattn.graph.attention_graph import AttentionGraph

SHADES = "·░▒▓█"  # no pair, up to a half, up to three quarters, less than all, all
PAIRS = "·■"  # where a cell is one pair


def raster(graph: AttentionGraph, width: int = 64) -> str:
    """Draws the matrix as text, one row of targets per line; the edges of all heads together.

    A graph of at most width / 2 nodes a side is drawn pair by pair, `■` an edge and `·` none. A larger one is drawn
    in cells, and the shade of a cell is the exact share of its pairs that are edges: `·` none, `░` up to a half, `▒` up
    to three quarters, `▓` less than all, `█` all. Nothing of n² is made, and no block is listed.

    Args:
        graph: the graph.
        width: characters of a line, at least 2.

    Raises:
        ValueError: if `width` is below 2.

    >>> from graphattn.graph import AttentionGraph
    >>> print(raster(AttentionGraph(torch.tensor([[0, 0, 1], [0, 1, 1]]), num_src_nodes=2)))
    ■ ·
    ■ ■
    """
    num_rows, num_columns, is_exact = canvas(graph, width)
    counts = cell_counts(graph, num_rows, num_columns)
    if is_exact:
        return draw(counts, PAIRS, gap=" ")
    size = cell_sizes(graph, num_rows, num_columns)
    reached = (counts > 0, 2 * counts > size, 4 * counts > 3 * size, counts == size)  # each implies those before it
    return draw(torch.stack(reached).sum(0), SHADES)


def canvas(graph: AttentionGraph, width: int) -> tuple[int, int, bool]:
    """Returns rows and columns of the picture of a graph, and whether each cell is one pair.

    A character is about twice as high as it is wide: a square graph is drawn square.
    """
    if isinstance(width, bool) or not isinstance(width, int) or width < 2:
        raise ValueError(f"width must be an int of at least 2 characters, got {width!r}. A terminal has about 80.")
    longest = max(graph.num_src_nodes, graph.num_dst_nodes)
    if 2 * longest <= width:
        return graph.num_dst_nodes, graph.num_src_nodes, True
    num_columns = -(-width * graph.num_src_nodes // longest)
    num_rows = -(-width * graph.num_dst_nodes // (2 * longest))
    return min(num_rows, graph.num_dst_nodes), min(num_columns, graph.num_src_nodes), False


def draw(level: Tensor, signs: str, gap: str = "") -> str:
    """Writes a matrix [num_rows, num_columns] of positions in `signs`, one line per row."""
    return "\n".join(gap.join(signs[value] for value in row) for row in level.tolist())
