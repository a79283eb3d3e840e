"""The weights of every layer and head as small matrices beside each other, on one scale."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from graphattn.viz.canvas import TEXT, axes_of, bare, caption, legend, plain
from graphattn.viz.palette import LIGHT_GRAY
from graphattn.viz.recording import Recording, Step
from graphattn.viz.shares import percent

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

MAX_SIDE, MAX_TILES = 128, 400  # nodes a side of a tile, and tiles
TILE, GAP = 0.9, 0.1  # inches with the gap; the gap as a share
HATCHES = {"without a weight": "", "gate is zero": "////", "not recorded": ".."}  # of grey tiles
COLOR_MAP = "Blues"  # from white to dark: a scale of lightness, which everybody sees


def draw_heads(recording: Recording, ax: Axes | None = None, *, example: int = 0) -> Axes:
    """Draws a row of matrices for each call of attention and a column for each head: targets down, sources right.

    All share one scale, from zero to the largest weight. A head without a weight, or whose gate is zero, is grey.

    Args:
        recording: of few nodes; choose layers and heads when it is made.
        ax: matplotlib axes of yours; None makes a figure of its own, unknown to pyplot.
        example: which graph of the batch.

    Returns:
        the axes; `graphattn.viz.save_picture(ax, "heads.png")` writes the picture.

    Raises:
        ImportError: if matplotlib is missing.
        TypeError: if `recording` is none.
        ValueError: if nothing was recorded, or there are more than 128 nodes a side or 400 matrices.
    """
    if not isinstance(recording, Recording):
        raise TypeError(f"recording must be a Recording, got {type(recording).__name__}. Make one with record(model).")
    steps = recording.example(example).steps if recording.steps else ()
    heads = sorted({number for step in steps for number in step.head.tolist()})
    if not heads:
        raise ValueError("recording must hold weights, got none: there is nothing to draw. Record a forward pass.")
    side = max(max(step.graph.num_src_nodes, step.graph.num_dst_nodes) for step in steps)
    if side > MAX_SIDE or len(steps) * len(heads) > MAX_TILES:
        raise ValueError(
            f"draw_heads draws at most {MAX_TILES} matrices of {MAX_SIDE} nodes a side, got {len(steps)} × "
            f"{len(heads)} of {side}. Choose some, record(model, layers=[0], heads=[0, 1]), or use draw_layers."
        )
    largest = max(float(step.alpha.max()) if step.alpha.numel() else 0.0 for step in steps)
    width, height = TILE * len(heads), TILE * len(steps)
    ax = axes_of(ax, max(2.5, width / 0.77), max(1.6, height / 0.77))
    bare(ax)
    from matplotlib.patches import Patch, Rectangle

    tiles: list[AxesImage] = []
    reasons: dict[str, Artist] = {}
    face: dict[str, Any]
    scale: dict[str, Any]
    for row, step in enumerate(steps):
        for column, number in enumerate(heads):
            matrix, reason = matrix_of(step, number)
            extent = (column + GAP / 2, column + 1 - GAP / 2, row + 1 - GAP / 2, row + GAP / 2)
            if matrix is None:
                face = {"facecolor": LIGHT_GRAY, "hatch": HATCHES[reason], "edgecolor": "white", "linewidth": 0}
                reasons[reason] = Patch(**face)
            else:
                face = {"fill": False, "edgecolor": "0.6", "linewidth": 0.5}
                scale = {"vmin": 0.0, "vmax": largest or 1.0, "cmap": COLOR_MAP}
                tiles.append(ax.imshow(matrix, extent=extent, interpolation="nearest", aspect="auto", **scale))
            ax.add_patch(Rectangle((extent[0], extent[3]), 1 - GAP, 1 - GAP, **face))
    ax.set_xlim(0, len(heads))
    ax.set_ylim(len(steps), 0)
    ax.set_aspect("equal")
    ax.set_xticks(np.arange(len(heads)) + 0.5, [f"head {number}" for number in heads], fontsize="small", **TEXT)
    ax.set_yticks(np.arange(len(steps)) + 0.5, [_title(step) for step in steps], fontsize="small", **TEXT)
    ax.tick_params(length=0, labeltop=True, labelbottom=False)
    legend(ax, reasons, right=45)
    if tiles:
        bar = ax.inset_axes((1.0 + 0.15 * TILE / width, 0.0, 0.12 * TILE / width, min(1.0, 2 * TILE / height)))
        ax.figure.colorbar(tiles[0], cax=bar)
        bar.tick_params(labelsize="small")
    kept = torch.cat([step.kept.flatten() for step in steps])  # one where a target has no weight
    recorded = f"the strongest edges, {percent(float(kept.mean()))} of the weight" if bool((kept < 1).any()) else ""
    scale_of_all = f"attention weights, one scale from 0 to {largest:.3g}"
    caption(ax, [scale_of_all, recorded, "rows of a matrix read, columns are read"])
    return ax


def matrix_of(step: Step, head: int) -> tuple[np.ndarray | None, str]:
    """Returns the weights of one head, float32 [num_dst_nodes, num_src_nodes]; or None, and why there is no matrix."""
    columns = (step.head == head).nonzero().flatten()
    if not columns.numel():
        return None, "not recorded"
    column = int(columns[0])
    if step.head_gate is not None and float(step.head_gate[column]) == 0.0:
        return None, "gate is zero"
    alpha = step.alpha[:, column].numpy()
    if not alpha.any():
        return None, "without a weight"
    matrix = np.zeros((step.graph.num_dst_nodes, step.graph.num_src_nodes), dtype=np.float32)
    src, dst = step.graph.edge_index.numpy()
    matrix[dst, src] = alpha
    return matrix, ""


def _title(step: Step) -> str:
    call = f" ({step.kind})" if step.kind != "attention" else f" (call {step.call})" if step.call else ""
    return plain(step.name or "model") + call
