"""Influence of edges, and pruning: sums over paths, the smallest set by trying all, and no node left dangling."""

from itertools import combinations

import networkx
import pytest
import torch

from graphattn.viz.pathways import Pathways
from tests.layered import by_chance, by_hand, paths_between


def edge_rows(pathways: Pathways) -> list[tuple]:
    """Edges by rank and element of their ends, which pruning does not renumber."""
    ends = [
        [(int(pathways.rank[node]), int(pathways.element[node])) for node in pair]
        for pair in pathways.edge_index.T.tolist()
    ]
    return [(src, dst, weight) for (src, dst), weight in zip(ends, pathways.weight.tolist())]


@pytest.mark.parametrize("seed", range(5))
def test_influence_of_an_edge_is_what_all_paths_down_from_the_outputs_carry_through_it(seed: int) -> None:
    layered = by_chance(seed)
    outputs = layered.nodes([1, 3], rank=3).tolist()
    expected = torch.zeros(layered.num_edges, dtype=torch.float64)
    for output in outputs:
        for start in range(layered.num_nodes):
            for edges, product in paths_between(layered, start, output):
                expected[edges[0]] += product / len(outputs)  # the path that goes down as far as this edge
    torch.testing.assert_close(layered.influence([1, 3]), expected)
    assert (expected > 0).any()


@pytest.mark.parametrize("share", [0.2, 0.55, 0.8, 1.0])
@pytest.mark.parametrize("seed", range(4))
def test_no_smaller_set_carries_the_share(seed: int, share: float) -> None:
    layered = by_chance(seed, (2, 2, 2), num_edges=9)
    carried = layered.influence().tolist()
    total = sum(carried)
    smallest = next(
        number
        for number in range(1, layered.num_edges + 1)
        if any(sum(some) >= share * total - 1e-12 for some in combinations(carried, number))
    )
    best = sorted(range(layered.num_edges), key=lambda edge: -carried[edge])[:smallest]
    # of that set, what dangles goes, node by node until none does
    graph = networkx.MultiDiGraph()
    graph.add_nodes_from(range(layered.num_nodes))
    graph.add_edges_from((*layered.edge_index[:, edge].tolist(), edge) for edge in best)
    inputs, outputs = set(layered.inputs.tolist()), set(layered.outputs.tolist())
    while dangling := [
        node
        for node in graph
        if node not in outputs and (not graph.out_degree(node) or (node not in inputs and not graph.in_degree(node)))
    ]:
        graph.remove_nodes_from(dangling)
    # an output that nothing enters stays without edges
    expected = sorted(key for *_, key in graph.edges(keys=True))
    pruned = layered.prune(share)
    assert edge_rows(pruned) == [edge_rows(layered)[edge] for edge in expected]
    assert pruned.kept == pytest.approx(sum(carried[edge] for edge in expected) / total)
    assert pruned.num_nodes == len(set(graph.nodes) | outputs)


def test_what_is_left_hangs_together_and_says_how_much_it_is() -> None:
    # the strong edge 1 → 3 is cut off, since nothing strong enters 1
    edges = [(0, 1, 0.125), (0, 2, 1.0), (1, 3, 0.5), (2, 3, 0.5)]
    layered = by_hand([0, 1, 1, 2], edges, labels=("only",))
    pruned = layered.prune(0.9, outputs="only")
    assert edge_rows(pruned) == [((0, 0), (1, 1), 1.0), ((1, 1), (2, 0), 0.5)]
    assert pruned.kept == pytest.approx(1.0 / 1.5625)
    assert pruned.caption == (
        "by hand; the strongest edges up to 90 % of the influence on output only; 2 of 4 edges, 64.0 % of the influence"
    )
    assert pruned.rollout().weight.tolist() == [[0.5]]  # of 0.5625
    twice = pruned.prune(0.5)
    assert (twice.num_edges, twice.num_all_edges) == (0, 4)
    assert twice.kept == 0.0
    assert twice.rank.tolist() == [2]
    assert twice.threshold.count(";") == 1


def test_by_default_four_fifths_for_all_outputs() -> None:
    layered = by_hand([0, 0, 1, 1], [(0, 2, 0.9), (1, 2, 0.1), (0, 3, 0.2), (1, 3, 0.8)])
    pruned = layered.prune()
    assert edge_rows(pruned) == [((0, 0), (1, 0), 0.9), ((0, 1), (1, 1), 0.8)]
    assert pruned.kept == pytest.approx(0.85)
    assert "up to 80 % of the influence on all outputs" in pruned.caption
    assert "on 2 outputs" in layered.prune(outputs=[0, 1]).threshold
    assert layered.prune(outputs=1).rank.tolist() == [0, 1]


def test_a_cap_on_edges_wins_and_is_said() -> None:
    layered = by_chance(2, num_edges=40)
    pruned = layered.prune(1.0, max_edges=11)
    assert pruned.num_edges <= 11
    assert pruned.kept == pytest.approx(float(sum(row[2] for row in carried_rows(layered, pruned))), abs=1e-12)
    assert "at most 11" in pruned.caption


def carried_rows(layered: Pathways, pruned: Pathways) -> list[tuple]:
    total = float(layered.influence().sum())
    shares = (layered.influence() / total).tolist()
    left = set(edge_rows(pruned))
    return [(*row[:2], share) for row, share in zip(edge_rows(layered), shares) if row in left]


def test_all_of_it_keeps_every_edge_that_carries_anything() -> None:
    layered = by_hand([0, 0, 1, 2, 2], [(0, 2, 1.0), (1, 2, 0.0), (2, 3, 1.0), (0, 4, 1.0)])
    pruned = layered.prune(1.0)
    assert pruned.num_edges == 3
    assert pruned.kept == 1.0


def test_a_difference_is_pruned_by_the_size_of_change() -> None:
    layered = by_hand([0, 0, 1, 2], [(0, 2, -0.5), (1, 2, 0.125), (2, 3, 0.375)])
    pruned = layered.prune(0.5)
    assert edge_rows(pruned) == [((0, 0), (1, 0), -0.5)]
    assert pruned.kept == 0.5
    assert "50 % of the change" in pruned.caption


def test_chosen_edges_are_kept_with_the_nodes_that_they_join() -> None:
    layered = by_hand([0, 0, 1, 2], [(0, 2, 0.75), (1, 2, 0.25), (2, 3, 1.0)])
    for edges in (torch.tensor([True, False, True]), torch.tensor([2, 0, 2])):
        kept = layered.keep(edges)
        assert edge_rows(kept) == [((0, 0), (1, 0), 0.75), ((1, 0), (2, 0), 1.0)]
        assert kept.kept == pytest.approx(1.75 / 2)
        assert "chosen edges; 2 of 3 edges" in kept.caption
    assert layered.keep(torch.ones(3, dtype=torch.bool)).kept == 1.0
    assert layered.keep(torch.tensor([], dtype=torch.int64)).num_nodes == 0


def test_graphs_without_edges_or_influence_are_pruned_to_their_outputs() -> None:
    for edges in ([], [(0, 1, 0.0)]):
        pruned = by_hand([0, 1], edges).prune()
        assert (pruned.num_edges, pruned.rank.tolist()) == (0, [1])
    assert by_hand([], []).prune().num_nodes == 0


@pytest.mark.parametrize("share", [0.0, 1.1, True, "all", float("nan")])
def test_no_share_is_refused(share: object) -> None:
    with pytest.raises(ValueError, match=r"share must lie in \(0, 1\]"):
        by_hand([0, 1], []).prune(share)


def test_other_bad_choices_are_refused() -> None:
    layered = by_hand([0, 1], [(0, 1, -1.0)])
    for wrong in (0, True, 2.0):
        with pytest.raises(ValueError, match="max_edges must be an int of at least 1 or None"):
            layered.prune(max_edges=wrong)
    for wrong in (torch.tensor([1]), torch.tensor([-1]), torch.tensor([True, True]), torch.tensor([0.0])):
        with pytest.raises(ValueError, match="edges must be bool"):
            layered.keep(wrong)
    with pytest.raises(ValueError, match="influence needs weights of at least 0"):
        layered.influence()
