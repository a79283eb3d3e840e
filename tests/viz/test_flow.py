"""Max-flow: equals networkx on small graphs, within the rounding that it states."""

import networkx
import pytest
import torch

from tests.layered import by_chance, by_hand, dense


def exact_flow(pathways, output: int, source: int) -> float:
    graph = networkx.DiGraph()
    graph.add_nodes_from(range(pathways.num_nodes))
    matrix = dense(pathways)
    graph.add_weighted_edges_from(
        ((dst, src, float(matrix[dst, src])) for dst, src in matrix.nonzero().tolist()), weight="capacity"
    )
    return networkx.maximum_flow_value(graph, output, source)


@pytest.mark.parametrize("seed", range(8))
def test_equals_networkx_between_every_output_and_input(seed: int) -> None:
    layered = by_chance(seed, num_edges=31)
    found = layered.max_flow([0, 1, 2, 3])
    assert 0 < found.rounding < 1e-7
    for row, output in enumerate(found.outputs.tolist()):
        for column, source in enumerate(found.inputs.tolist()):
            difference = float(found.weight[row, column]) - exact_flow(layered, output, source)
            assert abs(difference) <= found.rounding + 1e-12
    assert (found.weight > 0).any()


def test_a_bottleneck_in_the_middle_is_the_flow() -> None:
    edges = [(0, 1, 0.5), (0, 2, 0.25), (1, 3, 0.125), (2, 3, 0.5), (3, 4, 0.3125), (3, 4, 0.03125)]
    found = by_hand([0, 1, 1, 2, 3], edges).max_flow(0)
    assert found.weight.tolist() == [[0.34375]]  # the parallel edges add up; 0.375 comes as far as them


def test_flow_may_have_to_be_taken_back() -> None:
    # the first path that one sees, over the middle, blocks both ways but for an augmenting path against an edge
    edges = [(0, 1, 1.0), (0, 2, 1.0), (1, 3, 1.0), (1, 4, 1.0), (2, 3, 1.0), (3, 5, 1.0), (4, 5, 1.0)]
    found = by_hand([0, 1, 1, 2, 2, 3], edges).max_flow(0, 0)
    assert found.weight.tolist() == [[2.0]]


def test_one_input_or_a_memory_can_be_asked_and_what_is_out_of_reach_has_none() -> None:
    layered = by_hand([0, 0, 1, 2], [(0, 3, 0.25), (2, 3, 0.5)], memories=[2])
    assert layered.max_flow(0).weight.tolist() == [[0.25, 0.0, 0.5]]
    assert layered.max_flow(0, [1, (1, 0)]).weight.tolist() == [[0.0, 0.5]]
    assert layered.max_flow(0, [1, (1, 0)]).inputs.tolist() == [1, 2]


@pytest.mark.parametrize("size", [1e-300, 1e-9, 1.0, 3.0, 1e12])
def test_capacities_of_any_size_keep_their_digits(size: float) -> None:
    weights = torch.tensor([0.3, 0.7], dtype=torch.float64) * size
    layered = by_hand([0, 1, 2], [(0, 1, float(weights[0])), (1, 2, float(weights[1]))])
    found = layered.max_flow(0)
    assert float(found.weight) == pytest.approx(0.3 * size, rel=1e-8)
    assert found.rounding < 1e-8 * size


def test_edges_too_weak_for_an_integer_are_in_the_rounding() -> None:
    found = by_hand([0, 0, 1], [(0, 2, 1.0), (1, 2, 1e-12)]).max_flow(0)
    assert found.weight.tolist() == [[1.0, 0.0]]
    assert found.rounding == 2 / 2**31  # half a unit each


def test_heads_apart_flow_as_heads_merged() -> None:
    layered = by_hand([0, 1], [(0, 1, 0.25), (0, 1, 0.125), (0, 1, 0.5)], head=torch.tensor([0, 1, 2]))
    assert layered.max_flow(0).weight.tolist() == [[0.875]]


def test_graphs_without_edges_or_weight_flow_nowhere() -> None:
    assert by_hand([0, 1], []).max_flow(0).weight.tolist() == [[0.0]]
    assert by_hand([0, 1], [(0, 1, 0.0)]).max_flow(0).weight.tolist() == [[0.0]]
    assert by_hand([0, 1], []).max_flow([]).weight.shape == (0, 1)


def test_what_cannot_flow_is_refused() -> None:
    with pytest.raises(ValueError, match="max_flow needs weights of at least 0"):
        by_hand([0, 1], [(0, 1, -1.0)]).max_flow(0)
    with pytest.raises(ValueError, match="an output must be no input, got node 0 as both"):
        by_hand([0, 1], [(0, 1, 1.0)]).max_flow((0, 0))
