"""The grid of heads: every tile the weights of its head, on one scale, grey where there are none."""

import numpy as np
import pytest
import torch

pytest.importorskip("matplotlib")
from matplotlib.figure import Figure

from graphattn.connectivity import full, sliding_window
from graphattn.graph import disjoint_union
from graphattn.viz.heads import MAX_SIDE, draw_heads
from graphattn.viz.recording import Recording
from tests.layered import matrix_of, softmax_of, step_of

GENERATOR = torch.Generator().manual_seed(0)
GRAPH = sliding_window(7, 2)
ALPHA = softmax_of(GRAPH, 3, GENERATOR)


def tile(ax, row: int, column: int) -> np.ndarray:
    (found,) = [
        image for image in ax.images if image.get_extent()[0] // 1 == column and image.get_extent()[3] // 1 == row
    ]
    return np.asarray(found.get_array())


def test_every_tile_is_the_matrix_of_its_head() -> None:
    other = softmax_of(GRAPH, 3, GENERATOR)
    ax = draw_heads(Recording([step_of(GRAPH, ALPHA, "a"), step_of(GRAPH, other, "b")]))
    for row, alpha in enumerate((ALPHA, other)):
        for head in range(3):
            np.testing.assert_allclose(tile(ax, row, head), matrix_of(GRAPH, alpha[:, head]), rtol=1e-6)
    largest = float(max(ALPHA.max(), other.max()))
    assert {image.get_clim() for image in ax.images} == {(0.0, largest)}
    assert f"one scale from 0 to {largest:.3g}" in ax.get_xlabel().replace("\n", " ")
    assert [label.get_text() for label in ax.get_xticklabels()] == ["head 0", "head 1", "head 2"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b"]
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # the first layer on top


def test_heads_without_weight_gated_and_not_recorded_are_grey_and_said() -> None:
    alpha = ALPHA.clone()
    alpha[:, 1] = 0
    first = step_of(GRAPH, alpha, "a", head_gate=torch.tensor([1.0, 1.0, 0.0]))
    second = step_of(GRAPH, ALPHA[:, :1], "$b$", head=torch.tensor([2]))
    ax = draw_heads(Recording([first, second]))
    assert len(ax.images) == 2
    np.testing.assert_allclose(tile(ax, 1, 2), matrix_of(GRAPH, ALPHA[:, 0]), rtol=1e-6)
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert sorted(names) == ["gate is zero", "not recorded", "without a weight"]
    assert ax.get_yticklabels()[1].get_text() == "$b$" and not ax.get_yticklabels()[1].get_parse_math()


def test_a_record_of_the_strongest_edges_is_said_to_be_one() -> None:
    kept = torch.tensor([[1.0], [0.5], [1.0], [1.0], [0.5], [1.0], [1.0]])
    ax = draw_heads(Recording([step_of(GRAPH, ALPHA[:, :1], kept=kept)]))
    assert "; the strongest edges, 85.7 % of the weight; rows" in ax.get_xlabel().replace("\n", " ")
    assert "strongest" not in draw_heads(Recording([step_of(GRAPH, ALPHA)])).get_xlabel()


def test_one_example_of_a_batch_on_axes_of_yours() -> None:
    batch = disjoint_union([full(2), GRAPH]).enumerate()
    alpha = softmax_of(batch, 1, GENERATOR)
    ax = Figure().subplots()
    assert draw_heads(Recording([step_of(batch, alpha)]), ax, example=1) is ax
    np.testing.assert_allclose(tile(ax, 0, 0), matrix_of(batch, alpha[:, 0])[2:, 2:], rtol=1e-6)


def test_what_cannot_be_drawn_is_said() -> None:
    with pytest.raises(ValueError, match="recording must hold weights, got none"):
        draw_heads(Recording())
    with pytest.raises(TypeError, match=r"recording must be a Recording, got list\. Make one with record\(model\)"):
        draw_heads([])  # type: ignore[arg-type]
    large = full(MAX_SIDE + 1).enumerate()
    with pytest.raises(ValueError, match=r"of 129. Choose some, record\(model, layers=\[0\], heads=\[0, 1\]\)"):
        draw_heads(Recording([step_of(large, torch.ones(large.num_edges, 1))]))
