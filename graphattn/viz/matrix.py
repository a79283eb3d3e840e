"""The matrix of a graph as a picture: targets downwards, sources to the right, a colour for each kind of edge."""

from __future__ import annotations

import io
import os
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from graphattn.data.files import write_whole
from graphattn.graph import AttentionGraph
from graphattn.graph.cells import cell_counts, cell_sizes
from graphattn.graph.provenance import shortened
from graphattn.graph.summary import edges_of_kinds
from graphattn.viz.curves import BLUE, ORANGE, SKY_BLUE, TEXT, VERMILLION

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito 2008, as the curves; black last, for what is left when every colour is taken.
GREEN, PURPLE, YELLOW, GRAY = "#009E73", "#CC79A7", "#F0E442", "#7F7F7F"
COLORS = (BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY_BLUE, YELLOW)
MAX_CELLS = 256  # a side; a larger graph is drawn in cells of several pairs
FAINTEST = 0.35  # of the colour, in a cell with a single edge
MARGIN = 0.01  # of the longer side
FORMATS = (".png", ".svg")


def draw_matrix(graph: AttentionGraph, ax: Axes | None = None, *, max_cells: int = MAX_CELLS) -> Axes:
    """Draws who reads whom; beyond `max_cells` nodes a side in cells, whose depth of colour is their share of edges.

    An edge of several kinds has the colour of its rarest, and a cell that of most of its edges. Beyond seven kinds the
    commonest share one grey. Nothing of n² is made. Where heads see different edges, those of all heads are drawn.

    Args:
        graph: any graph.
        ax: matplotlib axes of yours; None makes a figure of its own, unknown to pyplot.
        max_cells: cells a side, at least 1.

    Returns:
        the axes; `ax.figure.savefig("mask.svg")` writes the picture.

    Raises:
        ImportError: if matplotlib is missing.
        ValueError: if `max_cells` is below 1.
    """
    if isinstance(max_cells, bool) or not isinstance(max_cells, int) or max_cells < 1:
        raise ValueError(f"max_cells must be an int of at least 1, got {max_cells!r}. A picture has some hundreds.")
    ax = _figure().subplots() if ax is None else ax
    from matplotlib.colors import to_rgb
    from matplotlib.patches import Patch
    from matplotlib.ticker import MaxNLocator

    num_rows, num_columns = min(graph.num_dst_nodes, max_cells), min(graph.num_src_nodes, max_cells)
    parts = _parts(graph)
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
    ax.set_title(textwrap.fill(f"{shortened(graph.origin)}, {graph.num_edges:,} edges", 56), fontsize="medium", **TEXT)
    labels: dict[str, str] = {}  # of each colour
    for name, color, _ in parts:
        labels[color] = f"{labels[color]}, {name}" if color in labels else name
    if graph.kinds:
        legend = ax.legend(
            handles=[Patch(color=color) for color in labels],
            labels=[textwrap.shorten(label, 60, placeholder=" …") for label in labels.values()],
            loc="upper left", bbox_to_anchor=(1.02, 1.0), borderaxespad=0.0, frameon=False,
        )  # fmt: skip
        for text in legend.get_texts():
            text.set_parse_math(False)
            text.set_usetex(False)
    return ax


def save_matrix(graph: AttentionGraph, path: str | os.PathLike[str]) -> Path:
    """Writes the picture of `draw_matrix`, whole or not at all, and returns where it is.

    Args:
        graph: any graph.
        path: its ending says the format, .png or .svg.

    Raises:
        ValueError: if it ends otherwise.
        OSError: if the directory is not writable or the disk is full.
    """
    path = Path(path).expanduser()
    if path.suffix not in FORMATS:
        raise ValueError(f"path must end in {' or '.join(FORMATS)}, got {path.name!r}. Rename the picture.")
    stream = io.BytesIO()
    options: dict[str, Any] = {"metadata": {"Date": None}} if path.suffix == ".svg" else {"dpi": 150}
    figure = _figure()
    draw_matrix(graph, figure.subplots())
    figure.savefig(stream, format=path.suffix.removeprefix("."), bbox_inches="tight", **options)
    write_whole(path.absolute(), stream.getvalue())
    return path


def _parts(graph: AttentionGraph) -> list[tuple[str, str, AttentionGraph]]:
    """Splits a graph into (kind, colour, its edges), each edge in the rarest of its kinds; the rarest kind first."""
    count = edges_of_kinds(graph)
    bits = sorted((bit for bit, kind in enumerate(graph.kinds) if count[kind]), key=lambda bit: count[graph.kinds[bit]])
    left, blocks = graph._explicit_kind(), graph.blocks
    of_blocks = left[:0] if blocks is None else blocks.kind
    is_left = torch.ones_like(left, dtype=torch.bool), torch.ones_like(of_blocks, dtype=torch.bool)
    parts = []
    for place, bit in enumerate(bits):
        chosen = [mine & ((kind >> bit) & 1 == 1) for mine, kind in zip(is_left, (left, of_blocks))]
        is_left = is_left[0] & ~chosen[0], is_left[1] & ~chosen[1]
        color = COLORS[place] if place < len(COLORS) else GRAY
        parts.append((graph.kinds[bit], color, _among(graph, *chosen)))
    if not parts or bool(is_left[0].any()) or bool(is_left[1].any()):
        parts.append(("no kind", GRAY, _among(graph, *is_left)))
    return parts


def _among(graph: AttentionGraph, chosen: torch.Tensor, chosen_blocks: torch.Tensor) -> AttentionGraph:
    blocks = None if graph.blocks is None else graph.blocks.select(chosen_blocks)
    return graph._like(graph.explicit_edges[:, chosen], blocks, None, graph.origin)


def _figure() -> Figure:
    """Returns a new figure; pyplot, its windows and its list of figures are not involved."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(f"drawing needs {error.name}, which is not installed: pip install graphattn[viz]") from error
    return Figure(figsize=(6.4, 5.6))  # inches
