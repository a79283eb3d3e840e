"""A line of text, or any sequence, with arcs from what is read to what reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from graphattn.viz.canvas import TEXT, axes_of, bare, caption, inches_of, legend, plain, text_width
from graphattn.viz.coloring import color_edges
from graphattn.viz.one_layer import one_layer
from graphattn.viz.palette import BLACK
from graphattn.viz.strokes import MAX_EDGES, Scale, curves, drawn_of, legend_of, lines, strongest

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from graphattn.viz.pathways import Pathways

MAX_TOKENS = 120
WIDEST = 14.0  # inches; a longer text stands upright, word beside word
TOKEN_SIZE, SMALLEST_TOKEN = 10.0, 4.0  # points
SPACE = 7.0  # points between two words
LOW, RISE = 8.0, 0.24  # an arc's height: points, and share of its width
APART = 5.0  # points between the arcs of a head and those of the next


def draw_arcs(
    pathways: Pathways,
    ax: Axes | None = None,
    *,
    layer: int | None = None,
    target: int | str | None = None,
    color: str | None = None,
    max_edges: int = MAX_EDGES,
) -> Axes:
    """Draws elements in a row and an arc for each edge: above the row to a later element, below it to an earlier one.

    Args:
        pathways: whose labels are the words; numbers stand for them where there are none.
        ax: matplotlib axes of yours; None makes a figure of its own, unknown to pyplot.
        layer: whose attention is drawn, −1 for the last; None where layers are merged.
        target: draw only what this element reads; its number, or its name.
        color: "kind", "head", "change" (the sign of the weight), or None for what suits the weights.
        max_edges: the strongest arcs are drawn; the caption says how many of how many.

    Returns:
        the axes; `graphattn.viz.save_picture(ax, "arcs.svg")` writes the picture.

    Raises:
        ImportError: if matplotlib is missing.
        ValueError: if there are more than 120 elements, or no such target.
    """
    found = one_layer(pathways, layer)
    if found.num_elements > MAX_TOKENS:
        raise ValueError(
            f"draw_arcs draws at most {MAX_TOKENS} elements, got {found.num_elements}. Record a part of the text, or "
            "use draw_layers, or draw_matrix for the graph."
        )
    number_of_target = found.number(target)
    among = found.of(number_of_target)
    shown = strongest(found.weight[among], max_edges)
    edges = among[shown.edges]
    weight, scale = found.weight[edges], Scale.of(found.weight[edges])
    names = [plain(name) for name in found.names]

    widths = np.array([text_width(name, TOKEN_SIZE) for name in names])
    is_upright = widths.sum() + SPACE * len(names) > 72 * WIDEST
    step = np.full(len(names), 1.3 * TOKEN_SIZE) if is_upright else widths + SPACE
    place = np.cumsum(step) - step / 2  # points
    half = widths.max() / 2 + 4 if is_upright else 0.75 * TOKEN_SIZE
    start, end = place[found.src[edges]], place[found.dst[edges]]
    heads, head = np.unique(found.pathways.head.numpy()[edges], return_inverse=True)
    height = LOW + RISE * np.abs(end - start) + min(APART, 20.0 / max(1, heads.size)) * head
    side = np.where(end > start, 1.0, -1.0)
    above, below = (float(np.where(side == sign, height, 0.0).max(initial=0.0)) + half + 6 for sign in (1, -1))

    total = float(step.sum())
    ax = axes_of(ax, max(3.0, min(total / 72, WIDEST) / 0.775), max(1.2, (above + below) / 72 / 0.77))
    bare(ax)
    ax.set_xlim(0, total)
    ax.set_ylim(-below, above)
    coloring = color_edges(found.pathways, edges, color)
    at = side * half
    way = curves(np.stack([start, at], 1), np.stack([end, at], 1), np.stack([np.zeros_like(at), side * height], 1))
    lines(ax, way, weight, scale, coloring.color)
    wide, tall = inches_of(ax)
    size = TOKEN_SIZE * min(1.0, 72 * wide / total, *([72 * tall / (2 * half)] if is_upright else []))
    for number, (name, x) in enumerate(zip(names, place)):
        is_target = number == number_of_target
        ax.text(
            x, 0, name, ha="center", va="center", rotation=90 if is_upright else 0, fontsize=max(size, SMALLEST_TOKEN),
            color=BLACK, fontweight="bold" if is_target else "normal", **TEXT,
        )  # fmt: skip
    legend(ax, legend_of(coloring.names, scale))
    reader = f"what {names[number_of_target]} reads" if number_of_target is not None else ""
    sides = "above: to a later element, below: to an earlier one"
    caption(ax, [reader, *found.sentences, sides, drawn_of(shown, found.weight[among])])
    return ax
