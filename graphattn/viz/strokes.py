"""Weighted edges as lines: which are drawn, how wide, how they bend, and what the legend and the caption say of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from graphattn.graph.summary import plural
from graphattn.viz.palette import BLACK
from graphattn.viz.shares import percent

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.collections import LineCollection, PolyCollection

MAX_EDGES = 300  # beyond, a picture is a hairball
THIN = 0.4  # points, of a weight of zero
WIDE, CROWDED = 4.0, 60  # points, of the largest weight, up to this number of edges; with more, their area is the same
FAINT, STRONG = 0.25, 0.95  # opacity of the same
NUM_POINTS = 24  # of a curve


class Shown(NamedTuple):
    """The edges that a picture shows."""

    edges: np.ndarray  # int64 [num_shown], positions among all, weakest first: the strongest lie on top
    share: float  # of the weight of all edges, that these carry; 1 where all are shown, or no edge weighs anything


def strongest(weight: np.ndarray, max_edges: int) -> Shown:
    """Returns the edges of largest absolute weight, the first of equals; edges of weight zero are never shown.

    Args:
        weight: float64 [num_edges].
        max_edges: how many at most, at least 1.

    Raises:
        ValueError: if `max_edges` is below 1, or a weight is NaN or infinite.

    >>> strongest(np.array([0.5, -2.0, 0.0, 1.5]), 2)
    Shown(edges=array([3, 1]), share=0.875)
    """
    if isinstance(max_edges, bool) or not isinstance(max_edges, int) or max_edges < 1:
        raise ValueError(f"max_edges must be an int of at least 1, got {max_edges!r}. A picture has some hundreds.")
    size = np.abs(weight)
    if not np.isfinite(size).all():
        at = int(np.flatnonzero(~np.isfinite(size))[0])
        raise ValueError(f"weight must be finite, got {weight[at]} at edge {at}. Drop such edges before drawing.")
    order = np.argsort(-size, kind="stable")[:max_edges]
    edges = order[size[order] > 0][::-1].copy()
    total = float(size.sum())
    return Shown(edges, float(size[edges].sum()) / total if total else 1.0)


def drawn_of(shown: Shown, weight: np.ndarray, noun: str = "edge") -> str:
    """Says how many edges a picture shows of how many there are.

    >>> weight = np.array([0.5, -2.0, 0.0, 1.5])
    >>> drawn_of(strongest(weight, 2), weight), drawn_of(strongest(weight, 9), weight)
    ('drawn: the 2 strongest of 3 edges, 87.5 % of their weight', 'drawn: all 3 edges')
    """
    there = int(np.count_nonzero(weight))
    if shown.edges.size == there:
        return f"drawn: all {plural(there, noun)}" if there else f"drawn: no {noun}, none is left"
    return f"drawn: the {shown.edges.size:,} strongest of {plural(there, noun)}, {percent(shown.share)} of their weight"


class Scale(NamedTuple):
    """What a weight looks like."""

    largest: float  # weight
    wide: float  # points, of that weight

    @classmethod
    def of(cls, weight: np.ndarray, wide: float = WIDE) -> Scale:
        """Returns the scale that fits these weights, up to `wide` points: lines are narrower where they are many."""
        wide *= float(np.sqrt(CROWDED / max(CROWDED, weight.size)))
        return cls(float(np.abs(weight).max(initial=0.0)), wide)

    def share(self, weight: np.ndarray) -> np.ndarray:
        return np.abs(weight) / (self.largest or 1.0)

    def widths(self, weight: np.ndarray) -> np.ndarray:
        """Returns the width of each line in points."""
        return THIN + (self.wide - THIN) * self.share(weight)

    def opacities(self, weight: np.ndarray) -> np.ndarray:
        """Returns the opacity of each line."""
        return FAINT + (STRONG - FAINT) * self.share(weight)


def curves(
    start: np.ndarray, end: np.ndarray, shift: np.ndarray | None = None, gap: float = 0.0, end_gap: float | None = None
) -> np.ndarray:
    """Returns lines from start to end, [num_edges, num_points, 2]; of two points where none is curved.

    Args:
        start, end: [num_edges, 2].
        shift: [num_edges, 2], how far the middle of each line lies from the middle between its ends.
        gap: left free at both ends, about, so that the nodes there are not covered.
        end_gap: left free at the end, where it is another, so that an arrow's head has room.
    """
    is_curved = shift is not None and bool(np.any(shift))
    control = (start + end) / 2  # a quadratic curve passes half-way between this middle and its control point
    control = control + 2 * shift if shift is not None else control
    speed = 2 * np.linalg.norm(control - start, axis=1)  # at both ends
    free, end_free = (
        np.divide(each, speed, out=np.zeros_like(speed), where=speed > 0).clip(max=0.4)[:, None]
        for each in (gap, gap if end_gap is None else end_gap)
    )
    t = (free + (1 - free - end_free) * np.linspace(0, 1, NUM_POINTS if is_curved else 2))[..., None]
    return (1 - t) ** 2 * start[:, None] + 2 * t * (1 - t) * control[:, None] + t**2 * end[:, None]


def sideways(start: np.ndarray, end: np.ndarray, bend: np.ndarray | float, at_most: float = np.inf) -> np.ndarray:
    """Returns the shift, [num_edges, 2], of a line's middle to the left of its way by a share of the way's length."""
    way = end - start
    length = np.linalg.norm(way, axis=1, keepdims=True)
    left = np.stack([-way[:, 1], way[:, 0]], 1)
    return np.asarray(bend).reshape(-1, 1) * left * np.minimum(1.0, at_most / np.maximum(length, 1e-12))


def lines(
    ax: Axes, points: np.ndarray, weight: np.ndarray, scale: Scale, color: Sequence[str], zorder: float = 2.0
) -> LineCollection:
    """Draws one line per edge, as wide and as opaque as its weight says, and returns them."""
    from matplotlib.collections import LineCollection

    drawn = LineCollection(
        list(points), linewidths=scale.widths(weight), colors=_rgba(color, scale.opacities(weight)),
        capstyle="butt", zorder=zorder,
    )  # fmt: skip
    ax.add_collection(drawn, autolim=False)
    return drawn


def arrows(
    ax: Axes,
    start: np.ndarray,
    end: np.ndarray,
    shift: np.ndarray | None,
    weight: np.ndarray,
    scale: Scale,
    color: Sequence[str],
    *,
    gap: float,
    size: float,
) -> np.ndarray:
    """Draws lines with a triangle at the end, `gap` away from the nodes, and returns their points as `curves` does.

    Args:
        start, end, shift, gap: as in `curves`.
        weight, scale, color: as in `lines`.
        size: length of a triangle, in units of the axes.
    """
    lines(ax, curves(start, end, shift, gap, gap + 0.6 * size), weight, scale, color)
    points = curves(start, end, shift, gap)
    triangles(ax, points, weight, scale, color, size)
    return points


def triangles(
    ax: Axes, points: np.ndarray, weight: np.ndarray, scale: Scale, color: Sequence[str], size: float
) -> PolyCollection:
    """Draws a triangle where each line ends, so that one sees which way it goes; `size` is in units of the axes."""
    from matplotlib.collections import PolyCollection

    tip, before = points[:, -1], points[:, -2]
    way = tip - before
    length = np.linalg.norm(way, axis=1, keepdims=True)
    way = np.divide(way, length, out=np.zeros_like(way), where=length > 0)
    left = np.stack([-way[:, 1], way[:, 0]], 1)
    size_of = (size * (0.6 + 0.4 * scale.share(weight)))[:, None]
    corners = np.stack([tip, tip - size_of * way + 0.4 * size_of * left, tip - size_of * way - 0.4 * size_of * left], 1)
    drawn = PolyCollection(list(corners), facecolors=_rgba(color, scale.opacities(weight)), linewidths=0, zorder=2.5)
    ax.add_collection(drawn, autolim=False)
    return drawn


def _rgba(color: Sequence[str], opacity: np.ndarray) -> np.ndarray:
    from matplotlib.colors import to_rgba_array

    rgba = to_rgba_array(list(color)) if len(color) else np.empty((0, 4))
    rgba[:, 3] = opacity
    return rgba


def legend_of(colors: Mapping[str, str], scale: Scale) -> dict[str, Artist]:
    """Returns what a legend shows: a line per colour, then the widths of the largest weight and of a quarter of it."""
    from matplotlib.lines import Line2D

    entries: dict[str, Artist] = {
        name: Line2D([], [], color=color, linewidth=2.5, alpha=STRONG) for name, color in colors.items()
    }
    for share in (1.0, 0.25) if scale.largest > 0 else ():
        weight = np.array([share * scale.largest])
        entries[f"weight {share * scale.largest:.2g}"] = Line2D(
            [], [], color=BLACK, linewidth=scale.widths(weight)[0], alpha=scale.opacities(weight)[0]
        )
    return entries
