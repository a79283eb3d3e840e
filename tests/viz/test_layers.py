"""Layered pathways: an edge a line, a node a mark, words beside the columns, and an honest caption."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("matplotlib")
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from graphattn.viz import save_picture
from graphattn.viz.coloring import KIND_COLORS
from graphattn.viz.layers import draw_layers
from tests.layered import by_chance, by_hand

RANKS = [0, 0, 0, 1, 1, 1]
EDGES = [(0, 3, 0.5), (1, 4, 0.5), (2, 5, 0.5), (0, 4, 0.25), (2, 3, 0.125), (1, 5, 0.0)]
KINDS = torch.tensor([1, 1, 1, 0, 0, 0])


def layered(**fields):
    return by_hand(RANKS, EDGES, edge_kind=KINDS, **fields)


def lines_of(ax, color: str) -> LineCollection:
    found = [each for each in ax.collections if isinstance(each, LineCollection) and len(each.get_segments())]
    (match,) = [each for each in found if to_hex(each.get_colors()[0][:3]).upper() == color]
    return match


def legend_of(ax) -> list[str]:
    return [text.get_text() for text in ax.get_legend().get_texts()]


def words(ax) -> list[str]:
    return [text.get_text() for text in ax.texts]


def test_every_edge_is_a_line_from_its_source_to_its_target() -> None:
    ax = draw_layers(layered())
    attention, residual = lines_of(ax, KIND_COLORS["attention"]), lines_of(ax, KIND_COLORS["residual"])
    ends = [(tuple(line[0]), tuple(line[-1])) for line in attention.get_segments()]
    assert ends == [((0, 2), (1, 0)), ((0, 0), (1, 1))]  # the strongest on top, that of weight zero nowhere
    assert np.diff(attention.get_linewidths()) > 0 and np.diff(attention.get_colors()[:, 3]) > 0
    assert len(residual.get_segments()) == 3 and max(residual.get_linewidths()) < min(attention.get_linewidths()) * 1.5
    assert legend_of(ax) == ["attention", "residual", "weight 0.25", "weight 0.062"]
    caption = ax.get_xlabel().replace("\n", " ")
    assert caption == "by hand; 6 of 6 edges, 100 % of the influence; drawn: all 2 non-residual edges"


def test_words_stand_beside_the_first_and_the_last_column() -> None:
    ax = draw_layers(layered(labels=("a", "$x^2$", "b\n")))
    assert sorted(words(ax)) == sorted(["a", "$x^2$", "b\\n"] * 2)
    assert {text.get_ha() for text in ax.texts} == {"left", "right"}
    assert [label.get_text() for label in ax.get_xticklabels()] == ["input", "output"]
    assert sorted(words(draw_layers(layered()))) == ["0", "0", "1", "1", "2", "2"]
    more = by_chance(0)
    assert [label.get_text() for label in draw_layers(more).get_xticklabels()][1:] == ["layer 0", "layer 1", "layer 2"]


def test_only_the_strongest_edges_are_drawn_and_the_caption_says_so() -> None:
    ax = draw_layers(layered(), max_edges=1)
    assert len(lines_of(ax, KIND_COLORS["attention"]).get_segments()) == 1
    caption = ax.get_xlabel().replace("\n", " ")
    assert "drawn: the 1 strongest of 2 non-residual edges, 66.7 % of their weight" in caption
    assert "not drawn: 1 residual edge away from these" in caption  # 2 → 5; the others meet the edge 0 → 4
    pruned = layered().prune(0.5)
    assert pruned.caption in draw_layers(pruned).get_xlabel().replace("\n", " ")
    generator = torch.Generator().manual_seed(0)
    many = by_hand([0] * 30 + [1] * 30, [(s, 30 + t, float(torch.rand(1, generator=generator)))
                                         for s in range(30) for t in range(30)])  # fmt: skip
    assert sum(len(each.get_segments()) for each in draw_layers(many).collections
               if isinstance(each, LineCollection)) == 300  # fmt: skip


def test_kinds_of_nodes_have_shapes_of_their_own_and_stand_in_their_column() -> None:
    kinds = torch.tensor([0, 0, 1, 0, 0, 2])  # two elements, an abstraction, two elements, a pooled one
    found = by_hand([0, 0, 1, 2, 2, 3], [(0, 2, 1.0), (2, 3, 1.0), (3, 5, 0.5), (4, 5, 0.5)],
                    node_kind=kinds, edge_kind=torch.tensor([2, 0, 3, 3]))  # fmt: skip
    ax = draw_layers(found)
    dots = {each.get_label(): each for each in ax.collections if isinstance(each, PathCollection)}
    assert set(dots) == {"element", "abstraction", "pooled"}
    vertices = {name: len(each.get_paths()[0].vertices) for name, each in dots.items()}
    assert vertices["element"] != vertices["abstraction"]
    np.testing.assert_allclose(dots["abstraction"].get_offsets(), [[1, 0.5]])  # in the middle of two rows
    np.testing.assert_allclose(dots["pooled"].get_offsets(), [[3, 0.5]])
    assert legend_of(ax)[:3] == ["attention", "summary", "pool"] and {"abstraction", "pooled"} <= set(legend_of(ax))
    assert [label.get_text() for label in ax.get_xticklabels()][1:] == [
        "layer 0\nabstraction", "layer 1", "layer 2\npooled"
    ]  # fmt: skip


def test_heads_lie_beside_each_other() -> None:
    found = by_hand([0, 1], [(0, 1, 0.5), (0, 1, 0.25)], head=torch.tensor([0, 3]))
    ax = draw_layers(found)
    (drawn,) = [each for each in ax.collections if isinstance(each, LineCollection) and len(each.get_segments())]
    first, second = (line[len(line) // 2, 1] for line in drawn.get_segments())
    assert abs(first - second) > 0.2
    assert legend_of(ax)[:2] == ["head 0", "head 3"]
    assert legend_of(draw_layers(found, color="kind"))[0] == "attention"


def test_elements_that_pruning_left_do_not_move() -> None:
    whole = layered(labels=("a", "b", "c"))
    some = whole.keep(torch.tensor([4]))  # 2 → 0
    ax = draw_layers(some)
    (line,) = lines_of(ax, KIND_COLORS["attention"]).get_segments()
    assert line[0].tolist() == [0, 2] and line[-1].tolist() == [1, 0]
    assert sorted(words(ax)) == ["a", "c"]


def test_a_difference_is_coloured_by_sign() -> None:
    change = replace(layered(), weight=layered().weight * torch.tensor([1, 1, 1, -1.0, 1, 1]))
    assert legend_of(draw_layers(change))[:2] == ["more", "less"]


def test_where_rows_are_narrow_fewer_words_are_written() -> None:
    count = 400
    found = by_hand([0] * count + [1] * count, [(n, 2 * count - 1 - n, 1.0 + n) for n in range(count)])
    ax = draw_layers(found, max_edges=count)
    rows = sorted(text.xy[1] for text in ax.texts if text.get_ha() == "right")
    assert 20 < len(rows) < 150 and np.diff(rows).min() > 1
    assert any(text.get_text() == "399" for text in ax.texts)  # that of the strongest edge


def test_axes_of_yours_are_drawn_on_and_pyplot_is_left_alone() -> None:
    before = "matplotlib.pyplot" in sys.modules
    _, below = Figure().subplots(2, 1)
    assert draw_layers(layered(), below) is below
    assert ("matplotlib.pyplot" in sys.modules) == before


def test_labels_are_text_in_the_file(tmp_path: Path) -> None:
    from xml.etree import ElementTree

    ax = draw_layers(layered(labels=("<script>", "$\\frac{", "\x00")))
    root = ElementTree.parse(save_picture(ax, tmp_path / "a.svg")).getroot()
    found = ["".join(each.itertext()) for each in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"<script>", "$\\frac{", "\\x00"} <= set(found)


def test_nothing_to_draw_is_said() -> None:
    with pytest.raises(ValueError, match="pathways must have edges, got none: there is nothing to draw"):
        draw_layers(by_hand([0, 1], []))
    with pytest.raises(TypeError, match=r"pathways must be Pathways, got list\. graphattn.viz.pathways"):
        draw_layers([])  # type: ignore[arg-type]
    only_residual = by_hand([0, 1], [(0, 1, 1.0)], edge_kind=torch.tensor([1]))
    assert "drawn: no non-residual edge" in draw_layers(only_residual).get_xlabel().replace("\n", " ")
