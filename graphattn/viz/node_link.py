"""A graph as nodes and lines, a colour for each kind of edge: for graphs small enough to be followed by eye."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from graphattn.graph import AttentionGraph
from graphattn.graph.provenance import shortened
from graphattn.graph.summary import plural
from graphattn.viz.canvas import TEXT, axes_of, bare, caption, checked_labels, inches_of, legend, text_width
from graphattn.viz.kinds import names_of_colors, parts_by_kind
from graphattn.viz.palette import BLACK
from graphattn.viz.places import places
from graphattn.viz.strokes import Scale, arrows, curves, legend_of, lines, sideways

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_NODES, MAX_LINKS = 200, 2_000
NODE_SIZE, LABEL_SIZE = 150.0, 9.0  # points², points
BEND = 0.12
PLAIN = Scale(1.0, 1.4)  # all edges are alike


def draw_node_link(
    graph: AttentionGraph,
    ax: Axes | None = None,
    *,
    positions: Any = None,
    labels: Sequence[object] | None = None,
) -> Axes:
    """Draws nodes, and an arrow from each source to the target that reads it; a line without a head goes both ways.

    An edge of several kinds has the colour of its rarest. A node that reads itself has a ring. In a rectangular graph
    sources stand on the left and targets on the right.

    Args:
        graph: of at most 200 nodes and 2,000 edges.
        ax: matplotlib axes of yours; None makes a figure of its own, unknown to pyplot.
        positions: [num_nodes, 2], x to the right and y upwards, of a rectangular graph its sources and then its
            targets; None lays it out: few edges by networkx, many on a circle.
        labels: of the nodes in that order; None numbers them.

    Returns:
        the axes; `graphattn.viz.save_picture(ax, "graph.svg")` writes the picture.

    Raises:
        ImportError: if matplotlib is missing.
        ValueError: if the graph is larger, has no node, or positions or labels are not as many as its nodes.
    """
    num_nodes = graph.num_src_nodes if graph.is_square else graph.num_src_nodes + graph.num_dst_nodes
    if not num_nodes:
        raise ValueError("graph must have nodes, got none: there is nothing to draw.")
    if num_nodes > MAX_NODES or graph.num_edges > MAX_LINKS:
        raise ValueError(
            f"draw_node_link draws at most {MAX_NODES} nodes and {MAX_LINKS:,} edges, got {num_nodes:,} and "
            f"{graph.num_edges:,}. Use draw_matrix."
        )
    names = checked_labels(labels, num_nodes, "nodes") or [
        str(node if node < graph.num_src_nodes else node - graph.num_src_nodes) for node in range(num_nodes)
    ]
    place = _checked_positions(positions, num_nodes) if positions is not None else _places(graph)
    low, high = place.min(0), place.max(0)
    longest = 0.0 if labels is None else max(text_width(name, LABEL_SIZE) for name in names)  # points
    side = float(np.clip(1.0 + 0.6 * np.sqrt(num_nodes), 2.0, 7.0))  # inches, of the longer, without its margins
    per_inch = float((high - low).max()) / side or 0.5
    margin = per_inch * (0.25 + (longest / 72 if _is_circle(place) else 0.0))  # labels around a circle lead outwards
    low, high = low - margin, high + margin
    ax = axes_of(ax, *np.maximum((high - low) / per_inch / 0.77, 2.0))
    bare(ax)
    ax.set_xlim(low[0], high[0])
    ax.set_ylim(low[1], high[1])
    ax.set_aspect("equal")
    per_point = float((high - low).max()) / (72 * max(inches_of(ax)))
    size = NODE_SIZE * min(1.0, (60 / num_nodes))
    gap = per_point * np.sqrt(size) * 0.62

    parts = parts_by_kind(graph)
    there = graph.edge_index.cpu().numpy()
    itself: list[tuple[int, str]] = []
    has_one_way = False
    for _, color, part in parts:
        edges = part.edge_index.cpu().numpy()
        if graph.is_square:
            itself += [(node, color) for node in edges[0][edges[0] == edges[1]].tolist()]
            edges = edges[:, edges[0] != edges[1]]
            is_double = _has_reverse(edges, edges, num_nodes)
            is_bent = _has_reverse(edges, there, num_nodes) & ~is_double  # the way back has another colour
        else:
            edges = edges + np.array([[0], [graph.num_src_nodes]])
            is_double = is_bent = np.zeros(edges.shape[1], dtype=bool)
        once = edges[:, is_double & (edges[0] < edges[1])]
        lines(ax, curves(*place[once]), np.ones(once.shape[1]), PLAIN, [color] * once.shape[1])
        start, end = place[edges[:, ~is_double]]
        has_one_way |= len(start) > 0
        one = np.ones(len(start))
        shift = sideways(start, end, BEND * is_bent[~is_double])
        arrows(ax, start, end, shift, one, PLAIN, [color] * len(start), gap=gap, size=7 * per_point)
    if itself:
        nodes, colors = zip(*itself)
        x, y = place[list(nodes)].T
        ax.scatter(x, y, s=2.1 * size, facecolors="none", edgecolors=colors, linewidths=1.4, zorder=3)
    _draw_nodes(ax, place, names, size, is_inside=labels is None)
    ax.set_title(
        textwrap.fill(f"{shortened(graph.origin)}, {plural(graph.num_edges, 'edge')}", 56), fontsize="medium", **TEXT
    )
    if graph.kinds:
        legend(ax, legend_of(names_of_colors(parts), Scale(0.0, 1.0)), right=longest)
    sides = "" if graph.is_square else "sources left, targets right"
    caption(ax, [sides, "an arrow leads to the node that reads" if has_one_way else "lines go both ways",
                 "a ring: a node that reads itself" if itself else ""])  # fmt: skip
    return ax


def _places(graph: AttentionGraph) -> np.ndarray:
    if graph.is_square:
        return places(graph)
    tallest = max(graph.num_src_nodes, graph.num_dst_nodes)
    return np.concatenate(
        [
            np.stack([np.full(number, x), -(np.arange(number) + 0.5) * tallest / max(number, 1)], 1)
            for x, number in ((0.0, graph.num_src_nodes), (max(2.0, 0.6 * tallest), graph.num_dst_nodes))
        ]
    )


def _checked_positions(positions: Any, num_nodes: int) -> np.ndarray:
    place = np.asarray(positions, dtype=np.float64)
    if place.shape != (num_nodes, 2) or not np.isfinite(place).all():
        raise ValueError(
            f"positions must be finite, [num_nodes, 2] with num_nodes = {num_nodes}, got {list(place.shape)}. "
            "None lays the graph out."
        )
    return place


def _is_circle(place: np.ndarray) -> bool:
    radius = np.linalg.norm(place - place.mean(0), axis=1)
    return len(place) > 2 and bool(np.ptp(radius) < 1e-6 * radius.max())


def _has_reverse(edges: np.ndarray, among: np.ndarray, num_nodes: int) -> np.ndarray:
    """Returns for each edge, bool [num_edges], whether its reverse is among others."""
    return np.isin(edges[0] * num_nodes + edges[1], among[1] * num_nodes + among[0])


def _draw_nodes(ax: Axes, place: np.ndarray, names: list[str], size: float, is_inside: bool) -> None:
    """Draws a disc with its number, or a dot with its label beside it, away from the middle."""
    disc: dict[str, Any] = {"s": size, "facecolors": "white"} if is_inside else {"s": 0.3 * size, "facecolors": BLACK}
    ax.scatter(place[:, 0], place[:, 1], edgecolors=BLACK, linewidths=0.8, zorder=4, **disc)
    aside, is_circle = place - place.mean(0), _is_circle(place)
    for name, (x, y), (right, up) in zip(names, place, aside):
        if is_inside:
            ax.text(x, y, name, ha="center", va="center_baseline", fontsize=0.6 * np.sqrt(size), zorder=5, **TEXT)
            continue
        is_left = right < -1e-9
        turn = float(np.degrees(np.arctan2(up, right))) if is_circle else 0.0  # outwards, so that all have room
        aside_by = 12 * np.array([right, up]) / np.hypot(right, up) if is_circle else (-6 if is_left else 6, 3)
        ax.annotate(
            name, (x, y), xytext=aside_by, textcoords="offset points", fontsize=LABEL_SIZE, zorder=5,
            ha="right" if is_left else "left", va="center" if is_circle else "bottom" if up >= 0 else "top",
            rotation=turn + 180 if is_circle and is_left else turn, rotation_mode="anchor", **TEXT,
        )  # fmt: skip
