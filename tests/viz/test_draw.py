"""One call draws what suits the thing."""

import pytest
import torch

pytest.importorskip("matplotlib")
from matplotlib.figure import Figure

import graphattn as ga
from graphattn.connectivity import full, sliding_window
from graphattn.graph import AttentionGraph
from tests.layered import by_chance


def test_small_graphs_are_nodes_and_lines_and_others_matrices() -> None:
    assert not ga.viz.draw(sliding_window(12, 2)).images
    for graph in (
        sliding_window(41, 2),
        full(20),
        full(10**5),
        AttentionGraph(torch.empty(2, 0, dtype=torch.int64), 0),
    ):
        assert ga.viz.draw(graph).get_ylabel() == "target (query)"


def test_pathways_are_layers_on_axes_of_yours() -> None:
    ax = Figure().subplots()
    assert ga.viz.draw(by_chance(0), ax) is ax
    assert [label.get_text() for label in ax.get_xticklabels()] == ["input", "layer 0", "layer 1", "layer 2"]


def test_anything_else_is_refused_with_advice() -> None:
    with pytest.raises(
        TypeError, match=r"draw takes an AttentionGraph or Pathways, got Tensor. graphattn.viz.pathways"
    ):
        ga.viz.draw(torch.ones(3, 3))  # type: ignore[arg-type]
