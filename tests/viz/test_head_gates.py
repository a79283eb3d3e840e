"""The heat map of gates: every cell its gate, closed ones grey, and beside a layer how many stay."""

import numpy as np
import pytest
import torch

pytest.importorskip("matplotlib")
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from graphattn.nn import SubsetHeadGate
from graphattn.viz.head_gates import draw_head_gates

HARD = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
SOFT = torch.tensor([[0.25, 1.75, 0.0], [0.5, 0.5, 1.0]])


def closed(ax) -> set[tuple[int, int]]:
    return {(int(patch.get_y()), int(patch.get_x())) for patch in ax.patches if isinstance(patch, Rectangle)}


def test_kept_heads_are_dark_and_the_others_grey_and_hatched() -> None:
    ax = draw_head_gates(HARD)
    (image,) = ax.images
    np.testing.assert_array_equal(image.get_array().filled(0.0), HARD.numpy())
    assert image.get_clim() == (0.0, 1.0) and not ax.child_axes  # no scale where all is one or zero
    assert closed(ax) == {(0, 1), (1, 0), (1, 1), (1, 2)}
    assert all(patch.get_hatch() for patch in ax.patches)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["gate is zero"]
    assert [text.get_text() for text in ax.texts] == ["2", "0"]
    words = ax.get_xlabel().replace("\n", " ")
    assert words == "2 of 6 heads open; beside a layer the sum of its gates, 2 in all; 1 layer without a head"
    assert [label.get_text() for label in ax.get_yticklabels()] == ["layer 0", "layer 1"]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["0", "1", "2"]
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # the first layer on top


def test_gates_of_training_have_a_scale_to_the_largest() -> None:
    ax = draw_head_gates(SOFT, labels=["a", "$b$"])
    (image,) = ax.images
    np.testing.assert_allclose(image.get_array().filled(0.0), SOFT.numpy())
    assert image.get_clim() == (0.0, 1.75) and len(ax.child_axes) == 1
    assert closed(ax) == {(0, 2)}
    assert "5 of 6 heads open; gates of 0.25 to 1.75; beside" in ax.get_xlabel().replace("\n", " ")
    label = ax.get_yticklabels()[1]
    assert label.get_text() == "$b$" and not label.get_parse_math()


def test_what_a_gate_module_returns_is_drawn_on_axes_of_yours() -> None:
    gate = SubsetHeadGate(num_layers=4, num_heads=64, num_keep=100)
    ax = Figure().subplots()
    assert draw_head_gates(gate(), ax) is ax  # with its gradient
    assert len(ax.get_xticklabels()) == 8  # of many heads some are numbered
    assert "256 of 256 heads open" in ax.get_xlabel() and not ax.get_legend()
    assert [text.get_text() for text in draw_head_gates(gate.hard()).texts] == [str(len(kept)) for kept in gate.kept()]
    assert not draw_head_gates(torch.zeros(2, 2)).images[0].get_array().count()


def test_what_cannot_be_drawn_is_said() -> None:
    with pytest.raises(TypeError, match=r"gates must be a tensor, got list\. Pass what a HeadGate returns"):
        draw_head_gates([[0, 1]])  # type: ignore[arg-type]
    for shape in ((3,), (0, 3), (65, 64)):
        with pytest.raises(ValueError, match=r"shape \[num_layers, num_heads\] with 1 to 4096 heads, got \["):
            draw_head_gates(torch.zeros(shape))
    for wrong in (-0.5, torch.nan, torch.inf):
        with pytest.raises(ValueError, match=r"gates must be finite and at least 0, got .* gate\.weight, are no gates"):
            draw_head_gates(torch.full((2, 2), wrong))
    with pytest.raises(ValueError, match="labels must name each of 2 layers, got 1"):
        draw_head_gates(HARD, labels=["a"])
