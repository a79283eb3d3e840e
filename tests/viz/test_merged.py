"""All layers as one: an edge per number of an attribution, drawn and pruned as other pathways are."""

import pytest
import torch

from graphattn.viz.merged import merged
from tests.layered import by_chance, by_hand, dense


@pytest.mark.parametrize("seed", range(3))
def test_edges_are_the_numbers_of_the_rollout(seed: int) -> None:
    layered = by_chance(seed)
    found, asked = merged(layered), layered.rollout()
    assert found.num_ranks == 2
    num_inputs = asked.inputs.numel()
    torch.testing.assert_close(dense(found)[num_inputs:, :num_inputs], asked.weight)
    assert found.element.tolist() == layered.element[torch.cat([asked.inputs, asked.outputs])].tolist()
    assert asked.method in found.caption


def test_flow_of_one_output_and_names_are_kept() -> None:
    layered = by_hand([0, 0, 1, 2, 2], [(0, 2, 0.5), (1, 2, 0.25), (2, 3, 1.0), (2, 4, 0.125)], labels=("a", "b"))
    found = merged(layered, layered.max_flow((2, 1)))
    assert found.weight.tolist() == [0.125, 0.125]
    assert found.node_labels() == ["a", "b", "b"]  # element 1 of the last rank
    assert found.prune(0.5).num_edges == 1


def test_memories_stand_between_inputs_and_outputs() -> None:
    layered = by_hand([0, 0, 1, 2], [(0, 3, 0.5), (2, 3, 0.5)], memories=[2])
    found = merged(layered)
    assert found.rank.tolist() == [0, 0, 1, 2] and found.weight.tolist() == [0.5, 0.5]


def test_memories_of_several_layers_have_ranks_of_their_own() -> None:
    layered = by_hand([0, 1, 2, 3, 4], [(0, 2, 0.5), (1, 2, 0.5), (2, 4, 0.5), (3, 4, 0.5)], memories=[1, 3])
    found = merged(layered)
    assert found.rank.tolist() == [0, 1, 2, 3] and found.weight.tolist() == [0.25, 0.25, 0.5]
    assert found.node_labels() == ["0", "memory 0", "memory 0", "0"]


def test_elements_of_several_ranks_keep_their_order() -> None:
    layered = by_hand([0, 1, 2, 3], [(0, 1, 0.5), (1, 2, 0.5), (2, 3, 0.5)], labels=("a",))
    found = merged(layered, layered.rollout([(3, 0), (1, 0)]))
    assert found.rank.tolist() == [0, 2, 1] and found.weight.tolist() == [0.125, 0.5]
    found = merged(layered, layered.max_flow(0, [(2, 0), (1, 0)]))
    assert found.rank.tolist() == [1, 0, 2] and found.edge_index.tolist() == [[0, 1], [2, 2]]


def test_inputs_without_names_may_be_more_than_the_names() -> None:
    layered = by_hand([0, 1, 1, 2], [(0, 3, 0.5), (2, 3, 0.5)], memories=[1, 2], labels=("a",))
    assert merged(layered, layered.max_flow(0, [(1, 1)])).node_labels() == ["memory 1", "a"]


def test_an_attribution_of_others_is_refused() -> None:
    small, large = by_hand([0, 1], [(0, 1, 1.0)]), by_chance(0)
    with pytest.raises(ValueError, match="attribution must be of these pathways, which have 2 nodes"):
        merged(small, large.rollout())
    with pytest.raises(TypeError, match=r"pathways must be Pathways, got Attribution\. graphattn.viz.pathways"):
        merged(large.rollout())  # type: ignore[arg-type]
