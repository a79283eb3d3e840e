"""Differences: matched edge by edge, with signs, and only over the same nodes."""

from dataclasses import replace

import pytest
import torch

import graphattn as ga
from graphattn.viz.recording import Recording
from tests.layered import by_chance, by_hand, dense, softmax_of, step_of


@pytest.mark.parametrize("seed", range(4))
def test_is_the_difference_of_the_matrices(seed: int) -> None:
    left, right = by_chance(seed), by_chance(seed + 100)
    found = left.difference(right)
    torch.testing.assert_close(dense(found), dense(left) - dense(right))
    assert found.num_edges == len({tuple(edge) for one in (left, right) for edge in layered_edges(one)})
    torch.testing.assert_close(dense(right.difference(left)), -dense(found))


def layered_edges(pathways) -> list[list[int]]:
    return torch.cat([pathways.edge_index, pathways.layer[None]]).T.tolist()


def test_edges_of_another_kind_or_layer_stay_apart_and_the_caption_names_both() -> None:
    one = by_hand([0, 1], [(0, 1, 0.5), (0, 1, 0.25)], edge_kind=torch.tensor([0, 1]), labels=("a",), kept=0.5)
    other = replace(one, weight=torch.tensor([0.125, 0.25], dtype=torch.float64), method="another", kept=0.75)
    found = one.difference(other)
    assert found.weight.tolist() == [0.375, 0.0]
    assert found.edge_kind.tolist() == [0, 1]
    assert found.labels == ("a",)
    assert found.caption == "(by hand) less (another); 2 of 2 edges, 50.0 % of the influence"
    assert one.difference(replace(other, labels=("b",))).labels is None


def test_what_was_left_out_before_is_said() -> None:
    edges = [(0, 1, 0.5), (0, 1, 0.25)]
    one = by_hand([0, 1], edges, threshold="chosen edges", kept=0.5)
    assert one.difference(by_hand([0, 1], edges)).threshold == "chosen edges"
    assert one.difference(one).threshold == "chosen edges"
    assert one.difference(replace(one, threshold="others")).threshold == "chosen edges; others"


def test_two_heads_are_compared_with_each_other_and_two_sets_of_heads_head_by_head() -> None:
    generator = torch.Generator().manual_seed(0)
    graph = ga.connectivity.full(3)
    recording = Recording([step_of(graph, softmax_of(graph, 2, generator))])
    first, second = (ga.viz.pathways(recording, heads=head) for head in (0, 1))
    found = first.difference(second)
    assert found.head.tolist() == [-1] * 12
    torch.testing.assert_close(dense(found), dense(first) - dense(second))
    apart = ga.viz.pathways(recording, heads="each")
    other = replace(apart, weight=2 * apart.weight)
    found = other.difference(apart)
    assert found.num_edges == apart.num_edges == 21
    assert sorted(found.head.unique().tolist()) == [-1, 0, 1]
    torch.testing.assert_close(dense(found), dense(apart))
    with pytest.raises(ValueError, match="heads apart on both sides or on neither"):
        apart.difference(first)


def test_other_nodes_are_refused_with_the_way_out() -> None:
    one = by_hand([0, 0, 1], [(0, 2, 0.5), (1, 2, 0.5)])
    for other in (by_hand([0, 1], []), by_hand([0, 0, 1, 1], []), one.prune(0.4)):
        with pytest.raises(ValueError, match=r"over the same nodes, got 3 nodes in 2 ranks and .* before pruning"):
            one.difference(other)
    with pytest.raises(TypeError, match="other must be Pathways, got int"):
        one.difference(3)


def test_graphs_without_edges_differ_in_nothing() -> None:
    empty, one = by_hand([0, 1], []), by_hand([0, 1], [(0, 1, 0.5)])
    assert empty.difference(empty).num_edges == 0
    assert empty.difference(one).weight.tolist() == [-0.5]
