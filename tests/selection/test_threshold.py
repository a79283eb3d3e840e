"""Thresholds: against a loop over targets, and what is refused."""

import math
import pickle
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from graphattn.connectivity import full, sliding_window
from graphattn.graph import AttentionGraph
from graphattn.ops import attention_weights
from graphattn.selection import Threshold
from tests.ops.graphs import GRAPHS
from tests.strategies import graphs, kinds_at

MASSES = [0.05, 0.3, 0.5, 0.9, 0.999, 1.0]


def weights_of(graph: AttentionGraph, seed: int = 0, sharpness: float = 3.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    num_heads = 3 if graph.head_mask is None else graph.head_mask.shape[1]
    query, key = (
        sharpness * torch.randn(size, num_heads, 2, generator=generator, dtype=torch.float64)
        for size in (graph.num_dst_nodes, graph.num_src_nodes)
    )
    return attention_weights(query, key, graph, impl="scatter")


def fewest(graph: AttentionGraph, weight: Tensor, mass: float) -> list[int]:
    """Positions of the fewest edges of each target that hold the mass, one target after the other."""
    kept, dst = [], graph.edge_index[1]
    for target in range(graph.num_dst_nodes):
        edges = sorted((dst == target).nonzero()[:, 0].tolist(), key=lambda edge: (-weight[edge].item(), edge))
        total, held = sum(weight[edge].item() for edge in edges), 0.0
        for edge in edges:
            if held >= (mass - 1e-6 * (mass < 1)) * total * (1 - 1e-12) or weight[edge] == 0:
                break
            held += weight[edge].item()
            kept.append(edge)
    return sorted(kept)


def positions(kept: AttentionGraph, graph: AttentionGraph) -> list[int]:
    return graph.find(*kept.edge_index).tolist()


@pytest.mark.parametrize("over_heads", ["mean", "max"])
@pytest.mark.parametrize("mass", MASSES[:-1])
@pytest.mark.parametrize("name", GRAPHS)
def test_the_fewest_edges_hold_the_mass_of_each_target(name: str, mass: float, over_heads: str) -> None:
    graph = GRAPHS[name]
    alpha = weights_of(graph)
    weight = alpha.mean(1) if over_heads == "mean" else alpha.amax(1)
    kept = Threshold(mass=mass, over_heads=over_heads).keep(graph, alpha)
    assert positions(kept, graph) == fewest(graph, weight, mass)


@given(graphs(), st.sampled_from([0.0, 0.1, 0.3, 0.6, 1.0]), st.sampled_from(MASSES))
def test_any_graph_keeps_values_kinds_and_heads(graph: AttentionGraph, at_least: float, mass: float) -> None:
    weight = weights_of(graph).mean(1).float()
    kept = Threshold(at_least=at_least).keep(graph, weight)
    assert positions(kept, graph) == (weight >= at_least).nonzero()[:, 0].tolist()
    of_mass = Threshold(mass=mass).keep(graph, weight)
    assert torch.equal(of_mass.dst_ptr, graph.dst_ptr)
    for one in (kept, of_mass):
        names = kinds_at(graph)
        assert kinds_at(one) == {pair: names[pair] for pair in kinds_at(one)}
        if graph.head_mask is not None:
            assert one.head_mask is not None
            assert torch.equal(one.head_mask, graph.head_mask[graph.find(*one.edge_index)])
    dst, own = graph.edge_index[1], of_mass.align(weight, of=graph)
    total = torch.zeros(graph.num_dst_nodes).index_add(0, dst, weight)
    held = torch.zeros_like(total).index_add(0, of_mass.edge_index[1], own)
    assert bool((held >= total * (mass - 2e-6)).all())


def test_a_larger_mass_keeps_what_a_smaller_one_does() -> None:
    graph = full(31)
    alpha = weights_of(graph)
    kept = [Threshold(mass=mass).keep(graph, alpha) for mass in MASSES]
    assert [one.num_edges for one in kept] == sorted({one.num_edges for one in kept})
    assert all((less - more).num_edges == 0 for less in kept for more in kept[kept.index(less) :])


def test_the_whole_mass_leaves_out_edges_of_no_weight_alone() -> None:
    graph = AttentionGraph(torch.tensor([[0, 1, 2, 0, 1, 2], [0, 0, 0, 1, 1, 1]]), num_src_nodes=3)
    weight = torch.tensor([1.0, 0.0, 1e-12, 0.0, 0.0, 0.0])
    assert positions(Threshold(mass=1.0).keep(graph, weight), graph) == [0, 2]
    assert positions(Threshold(mass=1e-9).keep(graph, weight), graph) == [0]


def test_rounding_adds_no_edge_and_of_equals_the_lowest_source_stays() -> None:
    graph = full(10)
    weight = torch.full((100,), 0.1)  # ten times a float32 that is a little more than 0.1
    for count in range(1, 11):
        kept = Threshold(mass=count / 10).keep(graph, weight)
        assert kept.edge_index[0].view(10, -1).tolist() == [list(range(count))] * 10


def test_many_targets_do_not_blur_one_another() -> None:
    graph = sliding_window(200_000, 1)
    weight = torch.tensor([0.5, 0.3, 0.2]).repeat(graph.num_edges // 3 + 1)[: graph.num_edges]
    kept = Threshold(mass=0.79).keep(graph, weight)
    degree = torch.bincount(kept.edge_index[1])
    assert degree[1:-1].unique().tolist() == [2]


def test_positions_and_weights_come_by_the_graph() -> None:
    graph = full(5)
    alpha = weights_of(graph)
    kept = Threshold(at_least=0.3).keep(graph, alpha)
    assert torch.equal(kept.align(alpha, of=graph), alpha[graph.find(*kept.edge_index)])
    assert "(Threshold(at_least=0.3).keep(full(5)): 5 targets" in repr(kept)


@pytest.mark.parametrize("num_nodes", [0, 1])
def test_no_node_and_one_node(num_nodes: int) -> None:
    for spec in (Threshold(at_least=0.5), Threshold(mass=0.5)):
        assert spec.keep(full(num_nodes), torch.ones(num_nodes, 2)) == full(num_nodes)


@pytest.mark.parametrize("options, error, advice", [
    ({}, ValueError, "exactly one of at_least and mass must be given, got at_least=None and mass=None. Pass at_least"),
    ({"at_least": 0.1, "mass": 0.5}, ValueError, "exactly one of at_least and mass must be given, got at_least=0.1"),
    ({"mass": 0.0}, ValueError, r"mass must lie in \(0, 1\], got 0.0. It is the share"),
    ({"mass": 1.5}, ValueError, r"mass must lie in \(0, 1\], got 1.5"),
    ({"mass": math.nan}, ValueError, "mass must be a number, got nan"),
    ({"at_least": "0.1"}, TypeError, "at_least must be a float, got str '0.1'"),
    ({"at_least": True}, TypeError, "at_least must be a float, got bool True"),
    ({"at_least": 0.1, "over_heads": "sum"}, ValueError, "over_heads must be one of mean, max, got 'sum'"),
])  # fmt: skip
def test_a_mistake_is_answered_with_what_to_do(options: dict, error: type[Exception], advice: str) -> None:
    with pytest.raises(error, match=advice):
        Threshold(**options)


@pytest.mark.parametrize("weight, advice", [
    (torch.zeros(8), r"num_edges = 9, got torch.float32 \[8\]. Pass what attention_weights returns"),
    (torch.zeros(9, 2, 1), r"weight must be floating \[num_edges\] or \[num_edges, num_heads\]"),
    (torch.zeros(9, 0), r"got torch.float32 \[9, 0\]"),
    (torch.zeros(9, dtype=torch.int64), r"got torch.int64 \[9\]"),
    (torch.tensor([0.0] * 8 + [math.nan]), "weight must be finite and not negative, got nan for edge 8. Pass"),
    (torch.tensor([0.0, -1.0] + [0.0] * 7), "weight must be finite and not negative, got -1.0 for edge 1"),
])  # fmt: skip
def test_weights_that_are_none_are_refused(weight: Tensor, advice: str) -> None:
    with pytest.raises(ValueError, match=advice):
        Threshold(mass=0.5).keep(full(3), weight)


def test_a_least_value_serves_weights_of_either_sign() -> None:
    weight: Any = torch.tensor([-1.0, 0.5, -0.2, 0.0])
    assert Threshold(at_least=-0.2).keep(full(2), weight).edge_index.tolist() == [[1, 0, 1], [0, 1, 1]]


def test_it_is_a_value() -> None:
    assert pickle.loads(pickle.dumps(Threshold(mass=0.5))) == Threshold(mass=0.5)
    assert hash(Threshold(mass=0.5)) == hash(Threshold(mass=0.5))
