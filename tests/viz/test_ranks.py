"""Walks over the ranks: sums over all paths as the series of matrix powers, and reach as networkx finds it."""

import networkx
import numpy as np
import pytest
import torch

from graphattn.viz.ranks import carried_back, check_unsigned, edges_by_rank, entries, reached
from tests.layered import by_chance, by_hand, dense

SEEDS = range(7)


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_carried_back_is_the_sum_of_all_powers_of_the_matrix(seed: int) -> None:
    pathways = by_chance(seed)
    start = torch.rand(pathways.num_nodes, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    unit = torch.eye(pathways.num_nodes, dtype=torch.float64)
    expected = torch.linalg.solve(unit - dense(pathways).T, start)  # I + W + W² + …
    found = carried_back(list(entries(pathways)), start.numpy().copy())
    torch.testing.assert_close(torch.from_numpy(found), expected)


@pytest.mark.parametrize("seed", SEEDS)
def test_reach_is_that_of_networkx_along_kept_edges(seed: int) -> None:
    pathways = by_chance(seed)
    kept = np.random.default_rng(seed).random(pathways.num_edges) < 0.6
    graph = networkx.DiGraph()
    graph.add_nodes_from(range(pathways.num_nodes))
    graph.add_edges_from(pathways.edge_index[:, torch.from_numpy(kept)].T.tolist())
    start = np.zeros(pathways.num_nodes, dtype=bool)
    start[[5, 8]] = True
    for is_upwards, of in ((True, networkx.descendants), (False, networkx.ancestors)):
        expected = {5, 8} | of(graph, 5) | of(graph, 8)
        assert set(np.flatnonzero(reached(pathways, start, kept, is_upwards=is_upwards))) == expected


def test_every_edge_is_in_the_rank_that_it_enters() -> None:
    pathways = by_chance(3)
    groups = edges_by_rank(pathways)
    assert sorted(np.concatenate(groups)) == list(range(pathways.num_edges))
    ranks = [set(pathways.rank[pathways.edge_index[1, torch.from_numpy(group)]].tolist()) for group in groups]
    assert ranks == [{1}, {2}, {3}]
    assert edges_by_rank(by_hand([0, 1], [])) == []


def test_a_difference_is_refused_with_the_way_out() -> None:
    with pytest.raises(ValueError, match=r"got -0\.5: these are a difference\. Take rollout of each"):
        check_unsigned(by_hand([0, 1], [(0, 1, -0.5)]), "rollout")
    check_unsigned(by_hand([0, 1], []), "rollout")
