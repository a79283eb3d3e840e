"""Layered pathways: a column of elements for every level, edges from the inputs on the left to the outputs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from graphattn.graph.summary import plural
from graphattn.viz.canvas import TEXT, axes_of, bare, caption, inches_of, legend, plain, text_width
from graphattn.viz.coloring import color_edges
from graphattn.viz.palette import BLACK, LIGHT_GRAY
from graphattn.viz.pathways import Pathways, check_pathways
from graphattn.viz.strokes import MAX_EDGES, Scale, curves, drawn_of, legend_of, lines, strongest

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARKERS = {"element": "o", "abstraction": "s", "pooled": "D", "memory": "^"}  # told apart without a colour
COLUMN, ROW = 1.5, 0.24  # inches between columns, and between rows
SHORTEST, TALLEST = 3.0, 11.0  # inches
LABEL_SIZE, SMALLEST_LABEL = 9.0, 6.0  # points
APART = 0.3  # rows between the edges of a head and those of the next
THIN_LINES = Scale(1.0, 0.8)
MAX_NODES = 20_000


def draw_layers(
    pathways: Pathways,
    ax: Axes | None = None,
    *,
    color: str | None = None,
    max_edges: int = MAX_EDGES,
) -> Axes:
    """Draws pathways as columns of elements, inputs on the left; width and depth of an edge are its weight.

    Attention, summaries and pooling have colours; what an element keeps of itself is a thin grey line, drawn where it
    meets an edge that is shown. Edges of several heads between the same two lie side by side.

    Args:
        pathways: what `graphattn.viz.pathways` returns, pruned or not.
        ax: matplotlib axes of yours; None makes a figure of its own, unknown to pyplot.
        color: "kind", "head", "change" (the sign of the weight), or None for what suits the weights.
        max_edges: the strongest edges are drawn, residual ones not counted; the caption says how many of how many.

    Returns:
        the axes; `graphattn.viz.save_picture(ax, "pathways.svg")` writes the picture.

    Raises:
        ImportError: if matplotlib is missing.
        TypeError: if `pathways` are none.
        ValueError: if there is nothing to draw, or there are too many nodes.
    """
    check_pathways(pathways)
    rank = pathways.rank.numpy()
    if not pathways.num_edges:
        raise ValueError("pathways must have edges, got none: there is nothing to draw. Keep a larger share of them.")
    if rank.size > MAX_NODES:
        raise ValueError(
            f"draw_layers draws at most {MAX_NODES:,} nodes, got {rank.size:,}. Record fewer layers, or draw the "
            "attention of one with draw_matrix."
        )
    place, height = _places(pathways)
    weight = pathways.weight.numpy()
    is_residual = pathways.edge_kind.numpy() == pathways.edge_kinds.index("residual")
    src, dst = pathways.edge_index.numpy()
    shown = strongest(np.where(is_residual, 0.0, weight), max_edges)
    is_met = np.zeros(rank.size, dtype=bool)
    is_met[src[shown.edges]] = is_met[dst[shown.edges]] = True
    residual = np.flatnonzero(is_residual & (weight != 0) & (is_met[src] | is_met[dst]))

    tall = float(np.clip(ROW * height, SHORTEST, TALLEST))
    ax = axes_of(ax, 2.0 + COLUMN * max(1, pathways.num_ranks - 1), tall)
    bare(ax)
    scale = Scale.of(weight[shown.edges])
    coloring = color_edges(pathways, shown.edges, color)
    kept = curves(place[src[residual]], place[dst[residual]])
    lines(ax, kept, np.ones(residual.size), THIN_LINES, [LIGHT_GRAY] * residual.size, zorder=1.0)
    shift = _apart(pathways.head.numpy()[shown.edges])
    if not shift.any() and residual.size:  # attention of an element to itself would lie on its residual
        shift[:, 1] = np.where(place[src[shown.edges], 1] == place[dst[shown.edges], 1], -APART, 0.0)
    way = curves(place[src[shown.edges]], place[dst[shown.edges]], shift)
    lines(ax, way, weight[shown.edges], scale, coloring.color)
    entries = legend_of(coloring.names | ({"residual": LIGHT_GRAY} if residual.size else {}), scale)

    spacing = 72 * inches_of(ax)[1] / height  # points between rows
    size = float(np.clip(0.35 * spacing, 1.5, 6.0)) ** 2  # points²
    for number, kind in enumerate(pathways.node_kinds):
        of_kind = (pathways.node_kind.numpy() == number) & (is_met | (spacing > 4))
        if of_kind.any():
            x, y = place[of_kind].T
            dots = ax.scatter(
                x, y, s=size, marker=MARKERS.get(kind, "o"), linewidths=0.8, zorder=3.0,
                facecolors=np.where(is_met[of_kind], BLACK, "white").tolist(), edgecolors=BLACK, clip_on=False,
            )  # fmt: skip
            dots.set_label(kind)
            if kind != "element":
                entries[kind] = dots
    met = np.zeros(rank.size)  # the strongest edge shown that meets a node
    np.maximum.at(met, src[shown.edges], np.abs(weight[shown.edges]))
    np.maximum.at(met, dst[shown.edges], np.abs(weight[shown.edges]))
    names = [plain(name) for name in pathways.node_labels()]
    first, last = np.flatnonzero(rank == 0), np.flatnonzero(rank == pathways.num_ranks - 1)
    for nodes, align in ((first, "right"), (last, "left")):
        _write_labels(ax, place[nodes], [names[node] for node in nodes], met[nodes], spacing, align)
    longest = max((text_width(names[node], LABEL_SIZE) for node in last), default=0.0)
    ax.set_xlim(-0.15, pathways.num_ranks - 0.85)
    ax.set_ylim(height - 0.25, -0.75)
    ax.set_xticks(range(pathways.num_ranks), _titles(pathways), fontsize=LABEL_SIZE - 1, color="0.3", **TEXT)
    ax.tick_params(length=0)
    legend(ax, entries, right=longest + 8)
    besides = "non-residual edge" if is_residual.any() else "edge"
    hidden = int((is_residual & (weight != 0)).sum()) - residual.size
    caption(ax, [pathways.caption, drawn_of(shown, np.where(is_residual, 0.0, weight), besides),
                 f"not drawn: {plural(hidden, 'residual edge')} away from these" if hidden else ""])  # fmt: skip
    return ax


def _places(pathways: Pathways) -> tuple[np.ndarray, float]:
    """Returns where each node stands, [num_nodes, 2], a column a rank, and the number of rows of the tallest column.

    The elements of one level stand where those of another do, also where some are gone; shorter columns are spread over
    the height.
    """
    rank, element, kind = pathways.rank.numpy(), pathways.element.numpy(), pathways.node_kind.numpy()
    is_element = kind == pathways.node_kinds.index("element")
    columns, column = np.unique(rank, return_inverse=True)
    count = np.zeros((columns.size, len(pathways.node_kinds)), dtype=np.int64)
    np.maximum.at(count, (column, kind), element + 1)
    if is_element.any():
        first = pathways.node_kinds.index("element")
        number = max(count[:, first].max(), 0 if pathways.labels is None else len(pathways.labels))
        count[:, first] = np.where(count[:, first] > 0, number, 0)
    before = np.cumsum(count, axis=1) - count  # kinds of one column below each other
    total = count.sum(1)
    height = float(total.max())
    row = (before[column, kind] + element + 0.5) * height / total[column] - 0.5
    return np.stack([rank.astype(np.float64), row], 1), height


def _apart(head: np.ndarray) -> np.ndarray:
    """Returns a shift for each edge, [num_edges, 2], that keeps those of several heads between two nodes apart."""
    heads, number = np.unique(head, return_inverse=True)
    step = min(APART, 1.2 / max(1, heads.size - 1))
    return np.stack([np.zeros(head.size), step * (number - (heads.size - 1) / 2)], 1)


def _titles(pathways: Pathways) -> list[str]:
    """Names the columns by the layer that made them, and by what stands in them if these are no elements."""
    of_column = dict(zip(pathways.rank.tolist(), pathways.node_kind.tolist()))
    layer = dict(zip(pathways.rank[pathways.edge_index[1]].tolist(), pathways.layer.tolist()))
    titles = []
    for column in range(pathways.num_ranks):
        kind = pathways.node_kinds[of_column.get(column, 0)]
        made_by = f"layer {layer[column]}" if column in layer else ""
        if column == 0 or pathways.num_ranks == 2:
            made_by = "output" if column else "input"
        titles.append("\n".join(part for part in (made_by, "" if kind == "element" else kind) if part))
    return titles


def _write_labels(ax: Axes, place: np.ndarray, names: list[str], met: np.ndarray, spacing: float, align: str) -> None:
    """Writes names beside a column; where rows are too narrow for all, those that most weight meets."""
    size = float(np.clip(0.85 * spacing, SMALLEST_LABEL, LABEL_SIZE))
    apart = 1.15 * size / spacing if spacing < size else 0.0  # rows
    taken: list[float] = []
    for node in np.argsort(-met, kind="stable").tolist():
        row = place[node, 1]
        if apart and (not met[node] or any(abs(row - other) < apart for other in taken)):
            continue
        taken.append(row)
        ax.annotate(
            names[node], place[node], xytext=(-7 if align == "right" else 7, 0), textcoords="offset points",
            ha=align, va="center_baseline", fontsize=size, annotation_clip=False, **TEXT,
        )  # fmt: skip
