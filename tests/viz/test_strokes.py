"""Edges as lines: which are drawn, how wide, where they go, and what is said of those that are not."""

import numpy as np
import pytest

pytest.importorskip("matplotlib")
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from graphattn.viz.strokes import (
    FAINT,
    STRONG,
    THIN,
    WIDE,
    Scale,
    arrows,
    curves,
    drawn_of,
    legend_of,
    lines,
    sideways,
    strongest,
)


def test_the_strongest_edges_come_last_with_their_share() -> None:
    weight = np.array([0.1, -0.4, 0.0, 0.3, 0.2])
    shown = strongest(weight, 3)
    assert shown.edges.tolist() == [4, 3, 1] and shown.share == pytest.approx(0.9)
    assert strongest(weight, 99).edges.tolist() == [0, 4, 3, 1]  # that of weight zero never
    assert strongest(np.zeros(4), 2).edges.size == 0
    assert strongest(np.ones(5), 2).edges.tolist() == [1, 0]  # the first of equals


@pytest.mark.parametrize("wrong", [0, -1, True, 2.0])
def test_no_edge_at_all_is_refused(wrong: object) -> None:
    with pytest.raises(ValueError, match="max_edges must be an int of at least 1"):
        strongest(np.ones(3), wrong)  # type: ignore[arg-type]


def test_a_weight_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="weight must be finite, got nan at edge 1"):
        strongest(np.array([1.0, np.nan]), 2)


def test_what_is_left_out_is_said() -> None:
    weight = np.array([3.0, 1.0, 0.0])
    assert drawn_of(strongest(weight, 1), weight) == "drawn: the 1 strongest of 2 edges, 75.0 % of their weight"
    assert drawn_of(strongest(weight, 2), weight, "arc") == "drawn: all 2 arcs"
    assert drawn_of(strongest(np.zeros(2), 1), np.zeros(2)) == "drawn: no edge, none is left"


def test_width_and_opacity_grow_with_the_weight_and_many_lines_are_narrow() -> None:
    weight = np.array([0.0, -1.0, 2.0])
    scale = Scale.of(weight)
    np.testing.assert_allclose(scale.widths(weight), [THIN, (THIN + WIDE) / 2, WIDE])
    np.testing.assert_allclose(scale.opacities(weight), [FAINT, (FAINT + STRONG) / 2, STRONG])
    assert Scale.of(np.ones(6000)).wide == pytest.approx(WIDE / 10)
    assert np.isfinite(Scale.of(np.empty(0)).widths(np.zeros(1))).all()


def test_curves_go_from_start_to_end_over_their_shifted_middle() -> None:
    start, end = np.array([[0.0, 0.0], [1.0, 1.0]]), np.array([[4.0, 0.0], [1.0, 5.0]])
    straight = curves(start, end)
    assert straight.shape == (2, 2, 2)
    np.testing.assert_allclose(straight[:, 0], start)
    np.testing.assert_allclose(straight[:, 1], end)
    shift = sideways(start, end, 0.25)
    np.testing.assert_allclose(shift, [[0, 1], [-1, 0]], atol=1e-12)  # to the left of the way
    bent = curves(start, end, shift)
    middle = bent[:, bent.shape[1] // 2 - 1 : bent.shape[1] // 2 + 1].mean(1)
    np.testing.assert_allclose(middle, (start + end) / 2 + shift, atol=0.01)
    np.testing.assert_allclose(np.linalg.norm(sideways(start, end, 0.25, at_most=2.0), axis=1), 0.5)


def test_nodes_are_left_free() -> None:
    start, end = np.array([[0.0, 0.0]]), np.array([[4.0, 0.0]])
    (points,) = curves(start, end, None, 0.5, 1.0)
    np.testing.assert_allclose(points, [[0.5, 0], [3, 0]])
    (points,) = curves(start, end, np.array([[0.0, 1.0]]), 0.5)
    for at, node in ((0, start), (-1, end)):
        assert np.linalg.norm(points[at] - node) == pytest.approx(0.5, rel=0.15)
    assert np.isfinite(curves(start, start, None, 0.5)).all()  # no way at all


def test_lines_have_their_colour_width_and_opacity() -> None:
    ax = Figure().subplots()
    weight = np.array([1.0, 0.5])
    drawn = lines(ax, curves(np.zeros((2, 2)), np.ones((2, 2))), weight, Scale.of(weight), ["#0072B2", "#D55E00"])
    rgba = np.asarray(drawn.get_colors())
    np.testing.assert_allclose(rgba[:, :3], [to_rgb("#0072B2"), to_rgb("#D55E00")])
    np.testing.assert_allclose(rgba[:, 3], [STRONG, (FAINT + STRONG) / 2])
    assert drawn.get_linewidths()[0] == pytest.approx(WIDE)
    assert lines(ax, np.empty((0, 2, 2)), np.empty(0), Scale.of(np.empty(0)), []).get_segments() == []


def test_arrows_point_at_their_target() -> None:
    ax = Figure().subplots()
    start, end, weight = np.array([[0.0, 0.0]]), np.array([[3.0, 0.0]]), np.ones(1)
    points = arrows(ax, start, end, None, weight, Scale.of(weight), ["#0072B2"], gap=0.5, size=0.4)
    np.testing.assert_allclose(points[0, -1], [2.5, 0])
    line, triangle = ax.collections
    corners = triangle.get_paths()[0].vertices
    assert corners[:, 0].max() == pytest.approx(2.5) and corners[:, 0].min() == pytest.approx(2.1)
    assert line.get_paths()[0].vertices[-1, 0] == pytest.approx(2.26)  # hidden below the triangle


def test_the_legend_shows_colours_and_two_widths() -> None:
    entries = legend_of({"attention": "#0072B2"}, Scale(0.8, 3.0))
    assert list(entries) == ["attention", "weight 0.8", "weight 0.2"]
    assert list(legend_of({}, Scale(0.0, 3.0))) == []
