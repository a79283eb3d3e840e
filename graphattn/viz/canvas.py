"""What every picture shares: a figure without a window, words that stay words, captions, legends, and its file."""

from __future__ import annotations

import io
import os
import re
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphattn.data.files import write_whole

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text

TEXT: dict[str, Any] = {"parse_math": False, "usetex": False}  # names come from users: a $ in one is a $
FORMATS = (".png", ".svg", ".pdf")
WITHOUT_DATE = {".png": {}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
LONGEST_LABEL = 24  # characters
CAPTION_SIZE = 8.0  # points


def new_figure(width: float, height: float) -> Figure:
    """Returns an empty figure of a size in inches; pyplot, its windows and its list of figures are not involved.

    Raises:
        ImportError: if matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(f"drawing needs {error.name}, which is not installed: pip install graphattn[viz]") from error
    return Figure(figsize=(width, height))


def axes_of(ax: Axes | None, width: float, height: float) -> Axes:
    """Returns the axes to draw on: yours, or those of a new figure of a size in inches."""
    return new_figure(width, height).subplots() if ax is None else ax


def save_picture(ax: Axes, path: str | os.PathLike[str]) -> Path:
    """Writes the picture that axes are part of, whole or not at all, and returns where it is.

    Words in an .svg are text, which can be searched and copied, in the reader's fonts.

    Args:
        ax: what a function of `graphattn.viz` that draws has returned; all of its figure is written.
        path: its ending says the format, .png, .svg or .pdf.

    Raises:
        ValueError: if it ends otherwise.
        OSError: if the directory is not writable or the disk is full.
    """
    import matplotlib

    path = picture_path(path)
    figure = _figure_of(ax)
    stream = io.BytesIO()
    options: dict[str, Any] = {"dpi": 150, "metadata": WITHOUT_DATE[path.suffix]}
    if figure.get_layout_engine() is None:
        options["bbox_inches"] = "tight"  # whatever stands beside the axes is within the picture
    # the same picture is the same file: no date, and names inside that no process number goes into
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "graphattn"}):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            figure.savefig(stream, format=path.suffix.removeprefix("."), **options)
    _pass_on(caught, is_text=path.suffix == ".svg")
    write_whole(path.absolute(), stream.getvalue())
    return path


def picture_path(path: str | os.PathLike[str]) -> Path:
    """Returns the path of a picture, or raises a ValueError if its ending is no format of ours."""
    path = Path(path).expanduser()
    if path.suffix not in FORMATS:
        raise ValueError(f"path must end in {', '.join(FORMATS)}, got {path.name!r}. Rename the picture.")
    return path


def _pass_on(caught: Sequence[warnings.WarningMessage], is_text: bool) -> None:
    """Warns again of what matplotlib warned of; characters that its font lacks are named at once, in pictures only."""
    lacking: dict[str, None] = {}
    for warning in caught:
        if found := re.match(r"Glyph (\d+) .*missing from", str(warning.message)):
            lacking[chr(int(found[1]))] = None
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    if lacking and not is_text:
        warnings.warn(
            f"matplotlib's font lacks {plain(' '.join(lacking), 80)}, drawn as boxes. Save as .svg, which the reader's "
            "fonts show, or name another font in matplotlib.rcParams['font.family'].",
            stacklevel=3,
        )


def plain(label: object, longest: int = LONGEST_LABEL) -> str:
    r"""Returns a label in one line: what cannot be printed is written out, and a long one is cut short.

    >>> plain("\n"), plain("a\x00b"), plain("un" * 9, longest=7)
    ('\\n', 'a\\x00b', 'ununun…')
    """
    text = "".join(
        char if char.isprintable() else char.encode("unicode_escape", "backslashreplace").decode()
        for char in str(label)
    )
    return text if len(text) <= longest else text[: longest - 1].rstrip() + "…"


def checked_labels(labels: Sequence[object] | None, number: int, what: str) -> list[str] | None:
    """Returns labels ready to be drawn, None for none.

    Raises:
        ValueError: if they are not as many as what they name; a TypeError for a single string.
    """
    if labels is None:
        return None
    if isinstance(labels, str | bytes):
        raise TypeError(f"labels must be a sequence of strings, got the single {labels!r}. Pass text.split().")
    labels = list(labels)
    if len(labels) != number:
        raise ValueError(f"labels must name each of {number} {what}, got {len(labels)}. Give one label each, in order.")
    return [plain(label) for label in labels]


def text_width(text: str, size: float) -> float:
    """Returns the width of a line of text in points, in matplotlib's font of a size in points."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of characters that the font lacks; saving says so
        width, _, _ = text_to_path.get_text_width_height_descent(text, FontProperties(size=size), ismath=False)
    return float(width)


def inches_of(ax: Axes) -> tuple[float, float]:
    """Returns width and height of axes in inches, as far as they are known before the picture is laid out."""
    box, around = ax.get_position(), ax.figure  # or the part of a figure that they are in
    return box.width * around.bbox.width / around.dpi, box.height * around.bbox.height / around.dpi


def _figure_of(ax: Axes) -> Figure:
    return ax.figure.figure  # of axes in a part of a figure the whole one


def bare(ax: Axes) -> None:
    """Removes frame and ticks: what is drawn has no scale."""
    ax.spines[:].set_visible(False)
    ax.set_xticks([])
    ax.set_yticks([])


def caption(ax: Axes, sentences: Sequence[str]) -> Text:
    """Writes sentences below a picture, wrapped to its width."""
    width, _ = inches_of(ax)
    longest = max(40, int(72 * width / (0.52 * CAPTION_SIZE)))  # characters, of this mean width
    lines = textwrap.fill(
        "; ".join(plain(sentence, 1000) for sentence in sentences if sentence), longest, break_on_hyphens=False
    )
    return ax.set_xlabel(lines, loc="left", fontsize=CAPTION_SIZE, color="0.3", labelpad=8, **TEXT)


def legend(ax: Axes, entries: Mapping[str, Artist], right: float = 0.0) -> None:
    """Puts a legend to the right of a picture, and as many points further; one row per entry, none if there is none."""
    if not entries:
        return
    from matplotlib.transforms import offset_copy

    corner = offset_copy(ax.transAxes, _figure_of(ax), x=8 + right, units="points")
    place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0), "bbox_transform": corner}
    handles, unnamed = list(entries.values()), ["…"] * len(entries)
    made = ax.legend(handles, unnamed, borderaxespad=0.0, frameon=False, fontsize="small", **place)
    for text, name in zip(made.get_texts(), entries):  # given at once, a name with a leading _ would be left out
        text.set(text=plain(name, 60), **TEXT)
