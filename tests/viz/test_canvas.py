"""What pictures share: words that are words, captions, legends, files that appear whole."""

import os
import sys
import warnings
from pathlib import Path
from xml.etree import ElementTree

import pytest

pytest.importorskip("matplotlib")
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from graphattn.viz.canvas import (
    axes_of,
    caption,
    checked_labels,
    inches_of,
    legend,
    new_figure,
    plain,
    save_picture,
    text_width,
)

NASTY = [
    "$x^2$",
    r"$\frac{",
    "<script>alert('&')</script>",
    "a\nb",
    "\x00\x1b[31m",
    "\ud800",
    "🙂",
    "w" * 200,
    "",
    "_x",
]


def words_of(path: Path) -> list[str]:
    """All words of an .svg, which must be well-formed XML."""
    root = ElementTree.parse(path).getroot()
    return ["".join(each.itertext()) for each in root.iter("{http://www.w3.org/2000/svg}text")]


def test_labels_are_one_printable_line() -> None:
    for text in NASTY:
        assert plain(text).isprintable() and len(plain(text)) <= 24
    assert plain("$x^2$") == "$x^2$" and plain(7) == "7"
    assert plain("\ud800") == "\\ud800" and plain("\t") == "\\t"


def test_labels_must_be_as_many_as_what_they_name() -> None:
    assert checked_labels(None, 3, "nodes") is None
    assert checked_labels(["a", 1, "b\n"], 3, "nodes") == ["a", "1", "b\\n"]
    with pytest.raises(ValueError, match="labels must name each of 3 nodes, got 2"):
        checked_labels(["a", "b"], 3, "nodes")
    with pytest.raises(TypeError, match=r"single 'abc'. Pass text.split\(\)"):
        checked_labels("abc", 3, "nodes")


def test_words_in_a_file_are_the_words_that_were_given(tmp_path: Path) -> None:
    ax = axes_of(None, 4.0, 3.0)
    caption(ax, NASTY)
    names = [plain(text, 60) for text in NASTY if text]
    legend(ax, {text: Line2D([], []) for text in NASTY if text})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        words = words_of(save_picture(ax, tmp_path / "a.svg"))
    assert [word for word in words if word in names] == names
    text = (tmp_path / "a.svg").read_text(encoding="utf-8")
    assert "<script" not in text and "&lt;script&gt;" in text
    with pytest.warns(UserWarning, match="font lacks 🙂, drawn as boxes. Save as .svg") as caught:
        save_picture(ax, tmp_path / "a.png")
    assert len(caught) == 1


def test_the_same_picture_is_the_same_file_in_each_format(tmp_path: Path) -> None:
    starts = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}
    for ending, start in starts.items():
        contents = []
        for number in (1, 2):
            ax = axes_of(None, 3.0, 2.0)
            ax.plot([1, 2, 3])
            contents.append(save_picture(ax, tmp_path / f"{number}{ending}").read_bytes())
        assert contents[0] == contents[1] and contents[0].startswith(start)
    assert len(list(tmp_path.iterdir())) == 6  # nothing unfinished is left


def test_what_stands_beside_the_axes_is_in_the_picture(tmp_path: Path) -> None:
    from matplotlib import image

    sizes = []
    for right in (0.0, 200.0):
        ax = axes_of(None, 3.0, 2.0)
        legend(ax, {"a line": Line2D([], [])}, right=right)
        sizes.append(image.imread(save_picture(ax, tmp_path / "a.png")).shape[1])
    assert sizes[1] - sizes[0] == pytest.approx(200 / 72 * 150, abs=3)


def test_a_target_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    ax = axes_of(None, 3.0, 2.0)
    with pytest.raises(ValueError, match=r"path must end in \.png, \.svg, \.pdf, got 'a\.gif'"):
        save_picture(ax, tmp_path / "a.gif")
    with pytest.raises(FileNotFoundError, match="there is no directory"):
        save_picture(ax, tmp_path / "none" / "a.png")
    (tmp_path / "b.png").mkdir()
    with pytest.raises(OSError):
        save_picture(ax, tmp_path / "b.png")
    assert [path.name for path in tmp_path.iterdir()] == ["b.png"]
    assert save_picture(ax, os.fspath(tmp_path / "c.png")).is_file()


def test_yours_are_drawn_on_and_all_of_their_figure_is_written(tmp_path: Path) -> None:
    left, right = Figure().subplots(1, 2)
    assert axes_of(right, 1.0, 1.0) is right
    left.set_title("beside")
    assert "beside" in words_of(save_picture(right, tmp_path / "a.svg"))


def test_axes_in_a_part_of_a_figure_stand_for_all_of_it(tmp_path: Path) -> None:
    left, right = Figure().subfigures(1, 2)
    left.suptitle("beside")
    ax = right.subplots()
    caption(ax, ["below"])
    assert {"beside", "below"} <= set(words_of(save_picture(ax, tmp_path / "a.svg")))
    width, height = inches_of(Figure().subplots())
    assert inches_of(ax) == pytest.approx((width / 2, height))


def test_widths_of_text_grow_with_text_and_size() -> None:
    assert text_width("wwww", 10) == pytest.approx(4 * text_width("w", 10), rel=0.05)
    assert text_width("w", 20) == pytest.approx(2 * text_width("w", 10), rel=0.1)
    assert text_width("$x^2$", 10) > text_width("x2", 10)  # no mathematics
    assert text_width("🙂", 10) > 0


def test_a_missing_matplotlib_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("matplotlib")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"pip install graphattn\[viz\]"):
        new_figure(1.0, 1.0)
