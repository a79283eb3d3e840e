"""Rollout: equals dense products of matrices, and the sum over all paths one by one."""

import pytest
import torch

import graphattn as ga
from graphattn.viz import pathways
from graphattn.viz.recording import Recording
from tests.layered import by_chance, by_hand, matrix_of, paths_between, softmax_of, step_of


def test_equals_the_product_of_half_attention_and_half_identity() -> None:
    generator = torch.Generator().manual_seed(0)
    graphs = [ga.connectivity.random_regular(11, degree, generator=generator) for degree in (3, 1, 5, 2)]
    steps = [step_of(graph, softmax_of(graph, 3, generator)) for graph in graphs]
    expected = torch.eye(11, dtype=torch.float64)
    for step in steps:
        layer = 0.5 * matrix_of(step.graph, step.alpha.double().mean(1)) + 0.5 * torch.eye(11, dtype=torch.float64)
        expected = layer / layer.sum(1, keepdim=True) @ expected  # weights in float32 sum to one about
    whole = pathways(Recording(steps))
    torch.testing.assert_close(whole.rollout().weight, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(whole.rollout([7, 2]).weight, expected[[7, 2]], rtol=1e-12, atol=1e-12)
    apart = pathways(Recording(steps), heads="each")
    torch.testing.assert_close(apart.rollout().weight, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_is_the_sum_over_all_paths_whatever_ranks_they_skip(seed: int) -> None:
    layered = by_chance(seed)
    found = layered.rollout()
    for row, output in enumerate(found.outputs.tolist()):
        for column, source in enumerate(found.inputs.tolist()):
            expected = sum(product for _, product in paths_between(layered, source, output))
            assert float(found.weight[row, column]) == pytest.approx(expected, abs=1e-14)


def test_many_outputs_are_taken_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    layered = by_chance(1)
    whole = layered.rollout().weight
    monkeypatch.setattr("graphattn.viz.rollout.MAX_AT_ONCE", 3 * layered.num_nodes)
    torch.testing.assert_close(layered.rollout().weight, whole)


def test_memories_are_inputs_and_lonely_nodes_have_nothing() -> None:
    layered = by_hand([0, 0, 1, 2, 2], [(0, 3, 0.25), (2, 3, 0.75)], memories=[2])
    found = layered.rollout()
    assert found.inputs.tolist() == [0, 1, 2]
    torch.testing.assert_close(found.weight, torch.tensor([[0.25, 0, 0.75], [0, 0, 0]], dtype=torch.float64))


def test_elements_of_any_rank_can_be_asked_and_no_element_has_no_row() -> None:
    layered = by_hand([0, 1, 2], [(0, 1, 0.5), (1, 2, 0.5)])
    assert layered.rollout((1, 0)).weight.tolist() == [[0.5]]
    assert layered.rollout((0, 0)).weight.tolist() == [[1.0]]
    assert layered.rollout([]).weight.shape == (0, 1)
    assert by_hand([], []).rollout().weight.shape == (0, 0)


def test_what_would_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphattn.viz.rollout.MAX_NUMBERS", 5)
    with pytest.raises(ValueError, match=r"2 outputs × 3 inputs, above the limit of 5 .*rollout\(outputs="):
        by_hand([0, 0, 0, 1, 1], []).rollout()
    with pytest.raises(ValueError, match="rollout needs weights of at least 0"):
        by_hand([0, 1], [(0, 1, -1.0)]).rollout()
