"""An image cut into patches: how much a patch reads of every other, laid over the picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from graphattn.viz.canvas import axes_of, bare, caption, legend
from graphattn.viz.coloring import CHANGE_COLORS, color_edges
from graphattn.viz.one_layer import one_layer
from graphattn.viz.palette import BLACK, ORANGE
from graphattn.viz.strokes import Scale, arrows, drawn_of, legend_of, sideways, strongest

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from graphattn.viz.pathways import Pathways

MAX_ARROWS = 20  # more would hide the image
COVER = 0.75  # opacity of the overlay where the weight is largest
FADED = 0.55  # of the image's contrast, and little of its colours, so that the overlay is seen
COLORED = 0.25
BEND = 0.12


def draw_patches(
    pathways: Pathways,
    image: Any,
    patch_size: int | tuple[int, int],
    ax: Axes | None = None,
    *,
    layer: int | None = None,
    target: int | str | None = None,
    num_before: int = 0,
    color: str | None = None,
    max_edges: int = MAX_ARROWS,
) -> Axes:
    """Draws an image, over each patch the weight with which it is read, and the strongest edges as arrows.

    Args:
        pathways: whose elements are the patches, row by row.
        image: array or tensor [height, width], or [height, width, 3]; floats in [0, 1] or uint8.
        patch_size: pixels, one number or (height, width) of a patch.
        ax: matplotlib axes of yours; None makes a figure of its own, unknown to pyplot.
        layer: whose attention is drawn, −1 for the last; None where layers are merged.
        target: the element whose reading is shown, its number or its name, such as 0 for a class token before the
            patches; None shows the mean over all elements.
        num_before: elements before the first patch, such as a class token; they have no place on the image.
        color: "kind", "head", "change" (the sign of the weight), or None for what suits the weights.
        max_edges: the strongest arrows are drawn; the caption says how many of how many.

    Returns:
        the axes; `graphattn.viz.save_picture(ax, "patches.png")` writes the picture.

    Raises:
        ImportError: if matplotlib is missing.
        ValueError: if the image is none, is not divisible by the patch size, or has another number of patches than
            there are elements.
    """
    found = one_layer(pathways, layer, with_itself=True)
    pixels = checked_image(image)
    size = checked_patch_size(patch_size, pixels)
    rows, columns = pixels.shape[0] // size[0], pixels.shape[1] // size[1]
    if not found.has(rows * columns + num_before):
        raise ValueError(
            f"pathways have {found.num_elements} elements, the image {rows} × {columns} patches and {num_before} "
            "before them. Check patch_size, and pass num_before=1 for a class token."
        )
    number = found.number(target)
    among = found.of(number)
    is_patch = found.src[among] >= num_before
    read, weight = found.src[among][is_patch] - num_before, found.weight[among][is_patch]
    total = np.bincount(read, weights=weight, minlength=rows * columns).reshape(rows, columns)
    cover = total / (rows * columns + num_before if number is None else 1)
    largest = float(np.abs(cover).max(initial=0.0))

    between = among[is_patch & (found.dst[among] >= num_before) & (found.src[among] != found.dst[among])]
    shown = strongest(found.weight[between], max_edges)
    edges = between[shown.edges]
    scale = Scale.of(found.weight[edges])
    tall = 4.5 * pixels.shape[0] / pixels.shape[1]
    ax = axes_of(ax, 6.0, float(np.clip(tall, 1.5, 9.0)) + 0.6)
    bare(ax)
    extent = (-0.5, columns - 0.5, rows - 0.5, -0.5)  # a patch is 1 wide; pixels may be anything
    aspect = size[0] / size[1]
    muted = COLORED * pixels + (1 - COLORED) * pixels.mean(2, keepdims=True)
    ax.imshow(1 - FADED * (1 - muted), extent=extent, aspect=aspect, interpolation="nearest")
    ax.imshow(_overlay(cover, largest), extent=extent, aspect=aspect, interpolation="nearest")
    grid: dict[str, Any] = {"color": "white", "linewidth": 0.5, "alpha": 0.6}
    ax.hlines(np.arange(1, rows) - 0.5, -0.5, columns - 0.5, **grid)
    ax.vlines(np.arange(1, columns) - 0.5, -0.5, rows - 0.5, **grid)
    start, end = (_centres(each[edges] - num_before, columns) for each in (found.src, found.dst))
    coloring = color_edges(found.pathways, edges, color)
    shift = sideways(start, end, BEND)
    head = 0.025 * max(rows, columns) + 0.12
    arrows(ax, start, end, shift, found.weight[edges], scale, coloring.color, gap=0.15, size=head)
    entries = legend_of(coloring.names, scale) if edges.size else {}
    entries |= _legend_of_cover(cover, largest)
    if number is not None and number >= num_before:
        from matplotlib.patches import Rectangle

        x, y = _centres(np.array([number - num_before]), columns)[0]
        ring = Rectangle((x - 0.5, y - 0.5), 1, 1, fill=False, edgecolor=BLACK, linewidth=1.8, zorder=4)
        ax.add_patch(ring)
        entries["target"] = ring
    legend(ax, entries)
    reader = "on average over all elements" if number is None else f"by element {target}"
    caption(ax, [f"overlay: how much of each patch is read {reader}", *found.sentences,
                 drawn_of(shown, found.weight[between])])  # fmt: skip
    return ax


def checked_image(image: Any) -> np.ndarray:
    """Returns an image as float64 [height, width, 3] in [0, 1].

    >>> checked_image(np.zeros((2, 4), dtype=np.uint8)).shape
    (2, 4, 3)
    """
    pixels = np.asarray(image.detach().cpu() if hasattr(image, "detach") else image)
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[:, :, None], 3, axis=2)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
        raise ValueError(
            f"image must have shape [height, width] or [height, width, 3], got {list(np.shape(image))}. "
            "Channels come last: pass image.permute(1, 2, 0)."
        )
    if pixels.dtype == np.uint8:
        return pixels / 255.0
    pixels = pixels.astype(np.float64)
    if not (np.isfinite(pixels).all() and pixels.min() >= 0 and pixels.max() <= 1):
        raise ValueError(
            f"image must hold floats in [0, 1] or uint8, got {pixels.min():.3g} to {pixels.max():.3g}. "
            "Undo the normalisation, or divide by 255."
        )
    return pixels


def checked_patch_size(patch_size: int | tuple[int, int], pixels: np.ndarray) -> tuple[int, int]:
    """Returns height and width of a patch, or raises if they do not divide the image."""
    height, width = (patch_size, patch_size) if isinstance(patch_size, int) else tuple(patch_size)
    if height < 1 or width < 1 or pixels.shape[0] % height or pixels.shape[1] % width:
        raise ValueError(
            f"patch_size must divide the image of {pixels.shape[0]} × {pixels.shape[1]} pixels, got {height} × "
            f"{width}. Pass the size that the model cuts patches to, and the image as the model sees it."
        )
    return height, width


def _overlay(cover: np.ndarray, largest: float) -> np.ndarray:
    """Returns the colour over each patch, [rows, columns, 4]: one colour, or two where weights have signs."""
    from matplotlib.colors import to_rgb

    is_change = bool((cover < 0).any())
    more, less = (CHANGE_COLORS["more"], CHANGE_COLORS["less"]) if is_change else (ORANGE, ORANGE)
    color = np.where(cover[..., None] < 0, to_rgb(less), to_rgb(more))
    return np.concatenate([color, COVER * np.abs(cover[..., None]) / (largest or 1.0)], 2)


def _legend_of_cover(cover: np.ndarray, largest: float) -> dict[str, Any]:
    from matplotlib.patches import Patch

    signs = [sign for sign in (1.0, -1.0) if (sign * cover > 0).any()]
    shares = [sign * share for sign in signs for share in ((1.0, 0.25) if len(signs) == 1 else (1.0,))]
    colors = _overlay(largest * np.array([shares]).reshape(1, -1), largest)[0]
    return {
        f"patch, weight {share * largest:.2g}": Patch(facecolor=tuple(color), linewidth=0)
        for share, color in zip(shares, colors.tolist())
    }


def _centres(patch: np.ndarray, columns: int) -> np.ndarray:
    return np.stack([patch % columns, patch // columns], 1).astype(np.float64)
