import sys

import networkx as nx
import pytest
import torch

from graphattn.connectivity import full, hop_distance, hops, sliding_window
from graphattn.graph import AttentionGraph, disjoint_union
from graphattn.graph.rules import is_causal


def random_steps(num_nodes: int, num_edges: int, seed: int) -> AttentionGraph:
    generator = torch.Generator().manual_seed(seed)
    edges = torch.randint(num_nodes, (2, num_edges), generator=generator)
    return AttentionGraph.from_edge_index(edges, num_nodes, duplicates="first")[0]


def distances(graph: AttentionGraph) -> torch.Tensor:
    """[target, source] steps along directed edges by networkx, inf where there is no path."""
    walk = nx.DiGraph()
    walk.add_nodes_from(range(graph.num_src_nodes))
    walk.add_edges_from(graph.edge_index.T.tolist())
    table = torch.full((graph.num_dst_nodes, graph.num_src_nodes), torch.inf)
    for source, reached in nx.all_pairs_shortest_path_length(walk):
        for target, steps in reached.items():
            table[target, source] = steps
    return table


@pytest.fixture(autouse=True, params=["small graphs", "along edges"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs every test twice: with the table for small graphs, and along the edges as for those too large for it."""
    if request.param == "along edges":
        monkeypatch.setattr(sys.modules["graphattn.connectivity.hops"], "MAX_DENSE_PAIRS", -1)


@pytest.mark.parametrize("num_hops", [0, 1, 2, 3, 11])
@pytest.mark.parametrize("seed", range(3))
def test_hops_reach_exactly_the_nodes_within_the_number_of_steps(num_hops: int, seed: int) -> None:
    steps = random_steps(11, 17, seed)
    assert torch.equal(hops(steps, num_hops).to_mask(), distances(steps) <= num_hops)


@pytest.mark.parametrize("max_hops", [0, 1, 4])
def test_hop_distance_is_the_shortest_path_and_one_more_than_the_longest_told_apart_elsewhere(max_hops: int) -> None:
    steps = random_steps(13, 19, seed=5)
    everyone = full(13)
    expected = distances(steps)[everyone.edge_index[1], everyone.edge_index[0]].clamp(max=max_hops + 1).long()
    assert torch.equal(hop_distance(steps, of=everyone, max_hops=max_hops), expected)


def test_a_batch_is_the_disjoint_union_of_its_graphs() -> None:
    parts = [random_steps(7, 11, 1), random_steps(5, 3, 2)]
    batch = hops(disjoint_union(parts), 2)
    assert batch == disjoint_union([hops(part, 2) for part in parts])
    assert batch.num_graphs == 2 and batch.kinds == ("hop",)


def test_a_graph_without_nodes_or_edges_has_self_edges_only() -> None:
    empty = torch.empty(2, 0, dtype=torch.int64)
    assert hops(AttentionGraph(empty, 0), 3).num_edges == 0
    assert hops(AttentionGraph(empty, 3), 3).edge_index.tolist() == [[0, 1, 2], [0, 1, 2]]


def test_a_rectangular_graph_and_a_negative_number_are_refused() -> None:
    with pytest.raises(ValueError, match="Hops need sources and targets to be the same nodes"):
        hops(full(2, 3), 1)
    with pytest.raises(ValueError, match="Use 0 for self edges alone"):
        hops(full(3), -1)


def test_many_steps_on_a_large_path_are_a_window() -> None:
    num_nodes = 5000  # too many for a table of who is reached
    here = torch.arange(num_nodes - 1)
    both_ways = torch.cat([torch.stack([here, here + 1]), torch.stack([here + 1, here])], 1)
    path, _ = AttentionGraph.from_edge_index(both_ways, num_nodes)
    assert hops(path, 40) == sliding_window(num_nodes, radius=40)
    assert hops(path.keep(is_causal), 40) == sliding_window(num_nodes, radius=(40, 0))
