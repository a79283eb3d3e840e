"""Strongest paths: equal those found by listing every path."""

import pytest
import torch

from tests.layered import by_chance, by_hand, paths_between


def listed(layered, sources, targets) -> list[tuple[tuple[int, ...], float]]:
    return [path for start in sources for end in targets for path in paths_between(layered, start, end)]


@pytest.mark.parametrize("k", [1, 4, 1000])
@pytest.mark.parametrize("seed", range(6))
def test_are_those_of_a_list_of_all(seed: int, k: int) -> None:
    layered = by_chance(seed, num_edges=29)
    for source, target in ((None, None), (None, 2), (1, 0), ((1, 1), [0, 3]), ([0, (2, 3)], [(2, 1), 1])):
        sources = (layered.inputs if source is None else layered.nodes(source, 0)).tolist()
        targets = layered.nodes(target, 3).tolist()
        everything = dict(listed(layered, sources, targets))
        found = layered.strongest_paths(k, source=source, target=target)
        assert len(found) == min(k, len(everything))
        expected = torch.tensor(sorted(everything.values(), reverse=True)[:k], dtype=torch.float64)
        torch.testing.assert_close(found.weight, expected)
        assert len({tuple(path.tolist()) for path in found.edges}) == len(found)
        for path, weight in zip(found.edges, found.weight.tolist()):
            assert everything[tuple(path.tolist())] == pytest.approx(weight)
        if everything:
            torch.testing.assert_close(found.share, expected / sum(everything.values()))


def test_nodes_follow_the_edges_from_the_source_upwards() -> None:
    layered = by_hand([0, 0, 1, 2], [(0, 2, 0.75), (1, 2, 0.25), (2, 3, 0.5), (1, 3, 0.5)])
    found = layered.strongest_paths(2)
    assert [path.tolist() for path in found.edges] == [[3], [0, 2]]
    assert [path.tolist() for path in found.nodes] == [[1, 3], [0, 2, 3]]
    assert found.weight.tolist() == [0.5, 0.375]
    assert found.share.tolist() == [0.5, 0.375]
    assert repr(found) == "Paths(2 paths, 87.5 % of the weight of all; products of by hand)"
    assert layered.keep(torch.cat(found.edges)).num_edges == 3


def test_parallel_edges_are_different_paths() -> None:
    layered = by_hand([0, 1, 2], [(0, 1, 0.25), (0, 1, 0.5), (1, 2, 1.0)])
    assert layered.strongest_paths(5).weight.tolist() == [0.5, 0.25]


def test_a_path_of_very_many_weak_edges_is_found() -> None:
    ranks = list(range(150))
    layered = by_hand(ranks, [(node, node + 1, 1e-3) for node in ranks[:-1]])
    found = layered.strongest_paths(1)
    assert len(found.edges[0]) == 149
    assert found.weight.tolist() == found.share.tolist() == [0.0]  # below the smallest float64


def test_there_may_be_none() -> None:
    for layered in (by_hand([0, 1], []), by_hand([0, 1], [(0, 1, 0.0)]), by_hand([], [])):
        found = layered.strongest_paths()
        assert len(found) == 0
        assert found.weight.shape == found.share.shape == (0,)
    layered = by_hand([0, 1], [(0, 1, 0.5)])
    assert len(layered.strongest_paths(source=(1, 0), target=(0, 0))) == 0
    assert len(layered.strongest_paths(source=0, target=(0, 0))) == 0  # no path without an edge


def test_bad_choices_are_refused() -> None:
    layered = by_hand([0, 1], [(0, 1, -0.5)])
    for wrong in (0, True, 1.0):
        with pytest.raises(ValueError, match="k must be an int of at least 1"):
            by_hand([0, 1], []).strongest_paths(wrong)
    with pytest.raises(ValueError, match="strongest_paths needs weights of at least 0"):
        layered.strongest_paths()
