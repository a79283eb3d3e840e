"""The matrix picture: the colour and the depth of every cell, its legend, its words and its files."""

import sys

import numpy as np
import pytest
import torch

pytest.importorskip("matplotlib")
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from graphattn.connectivity import full, global_tokens, sliding_window
from graphattn.graph import AttentionGraph, rules
from graphattn.viz import draw_matrix, save_picture
from graphattn.viz.matrix import FAINTEST
from graphattn.viz.palette import COLORS, GRAY


def pixels(ax) -> np.ndarray:
    (image,) = ax.images
    return np.asarray(image.get_array())


def legend_of(ax) -> dict[str, tuple]:
    legend = ax.get_legend()
    return {text.get_text(): patch.get_facecolor()[:3] for text, patch in zip(legend.get_texts(), legend.get_patches())}


def test_every_pair_of_a_small_graph_has_the_colour_of_its_rarest_kind() -> None:
    window, hub = sliding_window(13, 2), global_tokens(13, [4])
    ax = draw_matrix(window | hub)
    expected = np.ones((13, 13, 3))
    expected[window.to_mask().numpy()] = to_rgb(COLORS[1])
    expected[hub.to_mask().numpy()] = to_rgb(COLORS[0])  # 25 edges, against 59
    np.testing.assert_allclose(pixels(ax), expected)
    assert legend_of(ax) == {"global": to_rgb(COLORS[0]), "window": to_rgb(COLORS[1])}
    assert ax.get_xlabel() == "source (key)" and ax.get_ylabel() == "target (query)"
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # the first target on top
    assert "13" in ax.get_title() and "edges" in ax.get_title()


def test_a_large_graph_is_drawn_in_cells_as_deep_as_their_share() -> None:
    graph = full(10**5).keep(rules.is_causal)
    found = pixels(draw_matrix(graph, max_cells=4))
    color = np.array(to_rgb(COLORS[0]))
    half = FAINTEST + (1 - FAINTEST) * (25_000 * 25_001 / 2) / 25_000**2
    np.testing.assert_allclose(found[2, 0], color)
    np.testing.assert_allclose(found[1, 1], 1 - half * (1 - color))
    np.testing.assert_allclose(found[0, 3], [1, 1, 1])
    assert pixels(draw_matrix(graph)).shape == (256, 256, 3)


def test_axes_of_yours_are_drawn_on_and_returned() -> None:
    _, below = Figure().subplots(2, 1)
    assert draw_matrix(full(3, dst_sizes=2), below) is below
    assert pixels(below).shape == (2, 3, 3)


def test_pyplot_is_left_alone() -> None:
    before = "matplotlib.pyplot" in sys.modules
    draw_matrix(full(3))
    assert ("matplotlib.pyplot" in sys.modules) == before


def test_words_are_words_and_no_markup(tmp_path) -> None:
    graph, _ = AttentionGraph.from_edge_index(torch.tensor([[0], [1]]), 2, kinds=["$x_{1", "a_b$"])
    ax = draw_matrix(graph.named("$\\frac{1$ | x"))
    assert "$\\frac{1$ | x" in ax.get_title()
    save_picture(draw_matrix(graph.named("$\\frac{1$")), tmp_path / "mask.svg")


def test_kinds_beyond_the_colours_share_grey_and_edges_without_a_kind_are_grey() -> None:
    kinds = tuple("abcdefghi")
    edges = torch.tensor([[0] * 10, list(range(10))])
    bits = torch.tensor([1 << k for k in range(9)] + [0])
    ax = draw_matrix(AttentionGraph(edges, 10, edge_kind=bits, kinds=kinds))
    assert list(legend_of(ax)) == [*"abcdefg", "h, i, no kind"]
    np.testing.assert_allclose(pixels(ax)[7:10, 0], [to_rgb(GRAY)] * 3)
    assert draw_matrix(AttentionGraph(edges, 10)).get_legend() is None


def test_nothing_to_draw_is_drawn(tmp_path) -> None:
    for size in (0, 3):
        graph = AttentionGraph(torch.empty(2, 0, dtype=torch.int64), size)
        assert save_picture(draw_matrix(graph), tmp_path / f"{size}.png").read_bytes().startswith(b"\x89PNG")


def test_no_cell_is_refused_and_a_missing_matplotlib_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong in (0, True, 2.0):
        with pytest.raises(ValueError, match="max_cells must be an int of at least 1"):
            draw_matrix(full(3), max_cells=wrong)
    for name in [name for name in sys.modules if name.startswith("matplotlib")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"pip install graphattn\[viz\]"):
        draw_matrix(full(3))
