"""Nodes and lines: each edge once, in the colour of its kind, with a head where it goes one way."""

import numpy as np
import pytest
import torch

pytest.importorskip("matplotlib")
from matplotlib.collections import LineCollection, PathCollection, PolyCollection
from matplotlib.figure import Figure

from graphattn.connectivity import full, global_tokens, sliding_window
from graphattn.graph import AttentionGraph, rules
from graphattn.viz.node_link import MAX_NODES, draw_node_link
from graphattn.viz.palette import COLORS
from graphattn.viz.places import places


def count(ax, kind: type) -> int:
    return sum(len(each.get_paths()) for each in ax.collections if type(each) is kind)


def test_edges_both_ways_are_one_line_and_those_one_way_have_a_head() -> None:
    graph = sliding_window(7, 2)  # 6 + 5 pairs, and 7 nodes that read themselves
    ax = draw_node_link(graph)
    assert count(ax, LineCollection) == 11 and count(ax, PolyCollection) == 0
    rings = next(each for each in ax.collections if isinstance(each, PathCollection))
    assert len(rings.get_offsets()) == 7
    assert ax.get_xlabel().replace("\n", " ") == "lines go both ways; a ring: a node that reads itself"
    causal = draw_node_link(graph.keep(rules.is_causal))
    assert count(causal, LineCollection) == count(causal, PolyCollection) == 11
    assert causal.get_xlabel().startswith("an arrow leads to the node that reads")


def test_arrows_lead_from_source_to_target_at_positions_of_yours() -> None:
    graph = AttentionGraph(torch.tensor([[2], [0]]), 3)
    ax = draw_node_link(graph, positions=[[0, 0], [1, 1], [4, 0]], labels=["$a$", "<b>", "c"])
    (line,) = next(
        each for each in ax.collections if isinstance(each, LineCollection) and len(each.get_segments())
    ).get_segments()
    assert line[0, 0] > line[-1, 0] and 0 < line[-1, 0] < 1 and 3 < line[0, 0] < 4
    assert [text.get_text() for text in ax.texts] == ["$a$", "<b>", "c"]


def test_kinds_have_colours_and_a_legend() -> None:
    graph = sliding_window(9, 1) | global_tokens(9, [0])
    ax = draw_node_link(graph)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["global", "window"]
    colors = [tuple(np.round(each.get_colors()[0][:3], 2)) for each in ax.collections
              if isinstance(each, LineCollection) and len(each.get_segments())]  # fmt: skip
    assert len(set(colors)) == 2 and len(COLORS) >= 2
    assert draw_node_link(AttentionGraph(torch.tensor([[0], [1]]), 2)).get_legend() is None


def test_a_rectangular_graph_has_sources_left_and_targets_right() -> None:
    ax = Figure().subplots()
    assert draw_node_link(full(5, dst_sizes=3), ax) is ax
    assert count(ax, LineCollection) == count(ax, PolyCollection) == 15
    assert [text.get_text() for text in ax.texts] == ["0", "1", "2", "3", "4", "0", "1", "2"]
    place = np.array([text.get_position() for text in ax.texts])
    assert place[:5, 0].max() < place[5:, 0].min() and np.all(np.diff(place[:5, 1]) < 0)
    assert ax.get_xlabel().startswith("sources left, targets right")


def test_places_are_those_of_the_layout() -> None:
    graph = sliding_window(5, 1)
    place = np.array([text.get_position() for text in draw_node_link(graph).texts])
    np.testing.assert_allclose(place, places(graph))


def test_what_cannot_be_drawn_is_said() -> None:
    with pytest.raises(
        ValueError, match=f"at most {MAX_NODES} nodes and 2,000 edges, got 201 and 201. Use draw_matrix"
    ):
        draw_node_link(sliding_window(201, 0))
    with pytest.raises(ValueError, match="graph must have nodes, got none"):
        draw_node_link(AttentionGraph(torch.empty(2, 0, dtype=torch.int64), 0))
    with pytest.raises(
        ValueError, match=r"positions must be finite, \[num_nodes, 2\] with num_nodes = 3, got \[2, 2\]"
    ):
        draw_node_link(full(3), positions=[[0, 0], [1, 1]])
    with pytest.raises(ValueError, match="labels must name each of 3 nodes, got 2"):
        draw_node_link(full(3), labels=["a", "b"])
