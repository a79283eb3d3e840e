"""Arcs over text: above to the right, below to the left, over words that do not overlap."""

import numpy as np
import pytest

pytest.importorskip("matplotlib")
from matplotlib.figure import Figure

from graphattn.viz.arcs import MAX_TOKENS, TOKEN_SIZE, draw_arcs
from graphattn.viz.canvas import text_width
from tests.layered import by_hand

WORDS = ("who", "<b>", "$x^2$", "whom")


def reading(edges, labels=WORDS, **fields):
    """Element s is read by element t with weight w, for each (s, t, w)."""
    number = len(labels)
    return by_hand([0] * number + [1] * number, [(s, number + t, w) for s, t, w in edges], labels=labels, **fields)


def test_arcs_join_the_middles_of_words_on_the_side_they_go_to() -> None:
    ax = draw_arcs(reading([(0, 3, 1.0), (2, 1, 0.5), (1, 1, 0.7)]))
    (drawn,) = ax.collections
    backward, forward = drawn.get_segments()
    middle = {text.get_text(): text.get_position()[0] for text in ax.texts}
    assert list(middle) == list(WORDS)
    np.testing.assert_allclose(forward[[0, -1], 0], [middle["who"], middle["whom"]])
    np.testing.assert_allclose(backward[[0, -1], 0], [middle["$x^2$"], middle["<b>"]])
    assert forward[:, 1].min() > 0 > backward[:, 1].max()
    caption = ax.get_xlabel().replace("\n", " ")
    assert "above: to a later element, below: to an earlier one" in caption and "drawn: all 2 edges" in caption
    assert "not drawn: 1 edge of elements to themselves" in caption
    low, high = ax.get_ylim()
    assert low < backward[:, 1].min() and forward[:, 1].max() < high


def test_words_do_not_overlap() -> None:
    ax = draw_arcs(reading([(0, 1, 1.0)], labels=("a", "considerable", "i", "x" * 60)))
    place = [text.get_position()[0] for text in ax.texts]
    half = [text_width(text.get_text(), TOKEN_SIZE) / 2 for text in ax.texts]
    gaps = np.diff(place) - half[1:] - np.array(half[:-1])
    assert gaps.min() > 2
    assert ax.texts[3].get_text() == "x" * 23 + "…"


def test_a_long_text_stands_upright_and_a_longer_one_is_refused() -> None:
    ax = draw_arcs(reading([(0, 70, 1.0)], labels=tuple(["considerable"] * 71)))
    assert {text.get_rotation() for text in ax.texts} == {90.0}
    with pytest.raises(ValueError, match=f"at most {MAX_TOKENS} elements, got 121. Record a part of the text, or use"):
        draw_arcs(reading([(0, 1, 1.0)], labels=tuple("a" for _ in range(121))))


def test_a_target_shows_what_it_reads() -> None:
    ax = draw_arcs(reading([(0, 3, 1.0), (2, 1, 0.5), (2, 3, 0.5)]), target=3)
    assert len(ax.collections[0].get_segments()) == 2
    assert ax.get_xlabel().startswith("what whom reads")
    by_name = draw_arcs(reading([(0, 3, 1.0), (2, 1, 0.5), (2, 3, 0.5)]), target="whom")
    assert by_name.get_xlabel() == ax.get_xlabel()
    assert [text.get_fontweight() for text in ax.texts] == ["normal"] * 3 + ["bold"]
    with pytest.raises(ValueError, match=r"target must be an element in \[0, 4\), or its name, got 4"):
        draw_arcs(reading([(0, 3, 1.0)]), target=4)


def test_the_strongest_arcs_are_drawn_on_axes_of_yours() -> None:
    ax = Figure(figsize=(2, 2)).subplots()
    assert draw_arcs(reading([(0, 3, 3.0), (2, 1, 1.0)]), ax, max_edges=1) is ax
    assert "drawn: the 1 strongest of 2 edges, 75.0 % of their weight" in ax.get_xlabel().replace("\n", " ")
    assert ax.texts[0].get_fontsize() < TOKEN_SIZE  # so that words still have room
