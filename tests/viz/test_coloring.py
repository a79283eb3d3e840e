"""Colours of edges: by kind, by head, by sign."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from graphattn.viz.coloring import CHANGE_COLORS, KIND_COLORS, color_edges
from graphattn.viz.palette import GRAY, STRONG_COLORS
from tests.layered import by_hand

EDGES = [(0, 2, 0.5), (1, 2, 0.2), (0, 3, 0.1)]


def test_kinds_have_their_colours_and_those_that_occur_are_named() -> None:
    layered = by_hand([0, 0, 1, 1], EDGES, edge_kind=torch.tensor([0, 1, 3]))
    found = color_edges(layered, np.array([2, 0]))
    assert found.color == [KIND_COLORS["pool"], KIND_COLORS["attention"]]
    assert list(found.names) == ["attention", "pool"]


def test_several_heads_are_coloured_by_head_without_being_asked() -> None:
    layered = by_hand([0, 0, 1, 1], EDGES, head=torch.tensor([7, 2, -1]), edge_kind=torch.tensor([0, 0, 1]))
    found = color_edges(layered, np.arange(3))
    assert found.names == {"head 2": STRONG_COLORS[0], "head 7": STRONG_COLORS[1], "residual": KIND_COLORS["residual"]}
    assert found.color == [STRONG_COLORS[1], STRONG_COLORS[0], KIND_COLORS["residual"]]
    assert set(color_edges(layered, np.arange(3), "kind").names) == {"attention", "residual"}


def test_the_weakest_of_many_heads_share_a_grey() -> None:
    count = len(STRONG_COLORS) + 3
    layered = by_hand([0] * count + [1], [(n, count, 1.0 + n) for n in range(count)], head=torch.arange(count))
    found = color_edges(layered, np.arange(count))
    assert [color == GRAY for color in found.color] == [True] * 3 + [False] * len(STRONG_COLORS)
    assert list(found.names)[-1] == "other heads" and len(found.names) == len(STRONG_COLORS) + 1


def test_negative_weights_are_a_change() -> None:
    layered = by_hand([0, 0, 1, 1], EDGES)
    change = replace(layered, weight=layered.weight * torch.tensor([1.0, -1.0, 1.0]))
    assert color_edges(change, np.arange(3)).color == [CHANGE_COLORS[name] for name in ("more", "less", "more")]


def test_another_rule_is_refused() -> None:
    with pytest.raises(ValueError, match="color must be one of kind, head, change, got 'layer'"):
        color_edges(by_hand([0, 1], [(0, 1, 1.0)]), np.arange(1), "layer")
