"""Which heads stayed: the gates of every layer and head as one heat map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from graphattn.graph.summary import plural
from graphattn.viz.canvas import TEXT, axes_of, bare, caption, checked_labels, legend
from graphattn.viz.heads import COLOR_MAP, HATCHES
from graphattn.viz.palette import LIGHT_GRAY

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_CELLS = 4096
CELL, GAP = 0.42, 0.06  # inches of a cell with its gap; the gap as a share
MOST_NUMBERED = 48  # heads or layers whose numbers are all written


def draw_head_gates(gates: Tensor, ax: Axes | None = None, *, labels: Sequence[object] | None = None) -> Axes:
    """Draws a row for each layer and a column for each head, the darker the further its gate is open.

    Closed gates are grey and hatched; beside a row stands their sum, which is how many stay. Gates of training, which
    lie between and may exceed one, have a scale.

    Args:
        gates: [num_layers, num_heads], at least 0: `gate()` in training, `gate.hard()` for what stays.
        ax: matplotlib axes of yours; None makes a figure of its own, unknown to pyplot.
        labels: a name for each layer; None numbers them.

    Returns:
        the axes; `graphattn.viz.save_picture(ax, "gates.png")` writes the picture.

    Raises:
        ImportError: if matplotlib is missing.
        TypeError, ValueError: for gates of another shape, below 0 or not finite, more than 4096 of them, and labels
            that do not fit.
    """
    values = _checked(gates)
    num_layers, num_heads = values.shape
    names = checked_labels(labels, num_layers, "layers") or [f"layer {layer}" for layer in range(num_layers)]
    is_open = values > 0
    width, height = CELL * num_heads, CELL * num_layers
    ax = axes_of(ax, max(3.0, width / 0.77), max(1.8, height / 0.77))
    bare(ax)
    from matplotlib.patches import Patch, Rectangle

    largest = max(1.0, float(values.max()))
    shown = np.ma.masked_where(~is_open, values)
    extent = (0.0, float(num_heads), float(num_layers), 0.0)
    image = ax.imshow(shown, extent=extent, vmin=0.0, vmax=largest, cmap=COLOR_MAP, interpolation="nearest")
    closed: dict[str, Any] = {
        "facecolor": LIGHT_GRAY,
        "hatch": HATCHES["gate is zero"],
        "edgecolor": "white",
        "linewidth": 0,
    }
    for layer, head in np.argwhere(~is_open):
        ax.add_patch(Rectangle((head, layer), 1, 1, **closed))
    for place in range(num_heads + 1):  # white between the cells
        ax.axvline(place, color="white", linewidth=72 * CELL * GAP)
    for place in range(num_layers + 1):
        ax.axhline(place, color="white", linewidth=72 * CELL * GAP)
    ax.set_xlim(0, num_heads)
    ax.set_ylim(num_layers, 0)
    ax.set_aspect("equal")
    numbered = range(0, num_heads, 1 if num_heads <= MOST_NUMBERED else 8)
    ax.set_xticks([head + 0.5 for head in numbered], [str(head) for head in numbered], fontsize="small", **TEXT)
    ax.set_yticks(np.arange(num_layers) + 0.5, names, fontsize="small", **TEXT)
    ax.tick_params(length=0, labeltop=True, labelbottom=False)
    for layer, total in enumerate(values.sum(1).tolist()):
        at: dict[str, Any] = {"xy": (num_heads, layer + 0.5), "xytext": (5, 0), "textcoords": "offset points"}
        ax.annotate(f"{total:.3g}", **at, va="center", fontsize="small", color="0.3", annotation_clip=False)
    is_soft = bool((values[is_open] != 1).any())
    if not is_open.all():
        legend(ax, {"gate is zero": Patch(**closed)}, right=82 if is_soft else 25)
    if is_soft:
        bar = ax.inset_axes((1.0 + 0.46 / width, 0.0, 0.12 / width, 1.0))
        ax.figure.colorbar(image, cax=bar)
        bar.tick_params(labelsize="small")
    empty = int((~is_open.any(1)).sum())
    caption(
        ax,
        [
            f"{int(is_open.sum()):,} of {plural(values.size, 'head')} open",
            f"gates of {values[is_open].min():.3g} to {values.max():.3g}" if is_soft else "",
            f"beside a layer the sum of its gates, {values.sum():.4g} in all",
            f"{plural(empty, 'layer')} without a head" if empty else "",
        ],
    )
    return ax


def _checked(gates: Tensor) -> np.ndarray:
    """Returns gates as float64 [num_layers, num_heads], or raises."""
    if not isinstance(gates, Tensor):
        raise TypeError(
            f"gates must be a tensor, got {type(gates).__name__}. Pass what a HeadGate returns, gate.hard()."
        )
    if gates.dim() != 2 or not 1 <= gates.numel() <= MAX_CELLS:
        raise ValueError(
            f"gates must have shape [num_layers, num_heads] with 1 to {MAX_CELLS} heads, got {list(gates.shape)}. "
            "Pass what a HeadGate returns, gate.hard()."
        )
    values = gates.detach().to("cpu", torch.float64)
    if not bool((values >= 0).all()) or not bool(values.isfinite().all()):
        raise ValueError(
            f"gates must be finite and at least 0, got {values.min():.3g} to {values.max():.3g}. The numbers that a "
            "gate ranks, gate.weight, are no gates."
        )
    return values.numpy()
