"""The matrix of a graph as a picture: targets downwards, sources to the right, a colour for each kind of edge."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import numpy as np

from graphattn.graph import AttentionGraph
from graphattn.graph.cells import cell_counts, cell_sizes
from graphattn.graph.provenance import shortened
from graphattn.graph.summary import plural
from graphattn.viz.canvas import TEXT, axes_of, legend
from graphattn.viz.kinds import names_of_colors, parts_by_kind

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_CELLS = 256  # a side; a larger graph is drawn in cells of several pairs
FAINTEST = 0.35  # of the colour, in a cell with a single edge
MARGIN = 0.01  # of the longer side


def draw_matrix(graph: AttentionGraph, ax: Axes | None = None, *, max_cells: int = MAX_CELLS) -> Axes:
    """Draws who reads whom; beyond `max_cells` nodes a side in cells, whose depth of colour is their share of edges.

    An edge of several kinds has the colour of its rarest, and a cell that of most of its edges. Beyond seven kinds the
    commonest share one grey. Nothing of n² is made. Where heads see different edges, those of all heads are drawn.
    Weights are no part of a graph: `draw_heads` draws those of a recording.

    Args:
        graph: any graph.
        ax: matplotlib axes of yours; None makes a figure of its own, unknown to pyplot.
        max_cells: cells a side, at least 1.

    Returns:
        the axes; `graphattn.viz.save_picture(ax, "mask.svg")` writes the picture.

    Raises:
        ImportError: if matplotlib is missing.
        ValueError: if `max_cells` is below 1.
    """
    if isinstance(max_cells, bool) or not isinstance(max_cells, int) or max_cells < 1:
        raise ValueError(f"max_cells must be an int of at least 1, got {max_cells!r}. A picture has some hundreds.")
    ax = axes_of(ax, 6.4, 5.6)
    from matplotlib.colors import to_rgb
    from matplotlib.patches import Patch
    from matplotlib.ticker import MaxNLocator

    num_rows, num_columns = min(graph.num_dst_nodes, max_cells), min(graph.num_src_nodes, max_cells)
    parts = parts_by_kind(graph)
    if num_rows and num_columns:
        counts = np.stack([cell_counts(part, num_rows, num_columns).cpu().numpy() for _, _, part in parts])
        share = counts.sum(0) / cell_sizes(graph, num_rows, num_columns).cpu().numpy()
        depth = np.where(share > 0, FAINTEST + (1 - FAINTEST) * share, 0.0)[..., None]
        color = np.array([to_rgb(color) for _, color, _ in parts])[counts.argmax(0)]
        extent = (-0.5, graph.num_src_nodes - 0.5, graph.num_dst_nodes - 0.5, -0.5)
        ax.imshow(1 - depth * (1 - color), extent=extent, interpolation="nearest", aspect="equal")
        edge = MARGIN * max(graph.num_src_nodes, graph.num_dst_nodes)  # else the frame covers the first row and column
        ax.set_xlim(extent[0] - edge, extent[1] + edge)
        ax.set_ylim(extent[2] + edge, extent[3] - edge)
    for axis, name in ((ax.xaxis, "source (key)"), (ax.yaxis, "target (query)")):
        axis.set_label_text(name)
        axis.set_major_locator(MaxNLocator(integer=True))
    ax.set_title(
        textwrap.fill(f"{shortened(graph.origin)}, {plural(graph.num_edges, 'edge')}", 56), fontsize="medium", **TEXT
    )
    if graph.kinds:
        legend(ax, {name: Patch(color=color) for name, color in names_of_colors(parts).items()})
    return ax
