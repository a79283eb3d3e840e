"""Hops are those of a walk through the boolean matrix; bounds hold it between them."""

import pytest
import torch
from hypothesis import given

from graphattn.connectivity import full, global_tokens, random_regular, sliding_window
from graphattn.graph import AttentionGraph, disjoint_union, reach, rules
from graphattn.graph.reach import Hops, count_hops
from tests.strategies import batch_graphs, block_graphs, dense, graphs, square_graphs


def walked(graph: AttentionGraph) -> tuple[int, int]:
    """Returns the longest shortest way and the pairs with one, from powers of the matrix."""
    mask = dense(graph)
    mask = mask if mask.dim() == 2 else mask.any(0)
    step = mask | torch.eye(graph.num_src_nodes, dtype=torch.bool)
    reached, hops = torch.eye(graph.num_src_nodes, dtype=torch.bool), 0
    while not torch.equal(further := (step.double() @ reached.double()) > 0, reached):
        reached, hops = further, hops + 1
    return hops, int(reached.sum())


def num_pairs(graph: AttentionGraph) -> int:
    return int((torch.diff(graph.src_ptr) * torch.diff(graph.dst_ptr)).sum())


@given(square_graphs())
def test_small_graphs_are_followed_exactly(graph: AttentionGraph) -> None:
    hops, num_reached = walked(graph)
    assert count_hops(graph) == Hops(hops, hops, num_reached == num_pairs(graph), num_reached)


@given(graphs())
def test_rectangular_graphs_have_one_hop(graph: AttentionGraph) -> None:
    if not graph.is_square:
        hops = int(graph.num_edges > 0)
        assert count_hops(graph) == Hops(hops, hops, graph.num_edges == num_pairs(graph), graph.num_edges)


@given(square_graphs())
def test_bounds_hold_the_exact_number_between_them(graph: AttentionGraph) -> None:
    check_bounds(graph)


@given(batch_graphs())
def test_bounds_hold_in_batches(graph: AttentionGraph) -> None:
    if graph.is_square:
        check_bounds(graph)


@given(block_graphs())
def test_bounds_list_no_block(graph: AttentionGraph) -> None:
    if graph.is_square:
        check_bounds(graph)
        assert "listed" not in graph._cache


def check_bounds(graph: AttentionGraph) -> None:
    hops, num_reached = walked(graph)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reach, "MAX_WORK", -1)
        found = count_hops(graph)
    assert found.at_least <= hops <= found.at_most
    assert found.covers == (num_reached == num_pairs(graph))
    assert found.num_reached in (None, num_reached)


@given(square_graphs())
def test_a_search_that_is_cut_claims_no_more_than_it_saw(graph: AttentionGraph) -> None:
    hops, num_reached = walked(graph)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reach, "MAX_WORK", -1)
        patch.setattr(reach, "MAX_LEVELS", 1)
        found = count_hops(graph)
    assert found.at_least <= hops <= found.at_most
    assert found.covers in (None, num_reached == num_pairs(graph))
    assert found.num_reached in (None, num_reached)


@pytest.mark.parametrize("num_nodes", [1, 2, 37, 211])
@pytest.mark.parametrize("radius", [0, 1, 5])
def test_ranges_are_composed_exactly(num_nodes: int, radius: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reach, "_follow_all", None)
    monkeypatch.setattr(reach, "_bounded", None)
    window = sliding_window(num_nodes, radius)
    block = full(torch.tensor([num_nodes, 3]))
    hub = window | AttentionGraph(torch.stack([torch.arange(num_nodes), torch.zeros(num_nodes).long()]), num_nodes)
    for graph in (window, window.keep(rules.is_causal), window.T, block, block.keep(rules.is_causal), hub):
        hops, num_reached = walked(graph)
        assert count_hops(graph) == Hops(hops, hops, num_reached == num_pairs(graph), num_reached)


def test_large_patterns_have_the_hops_that_arithmetic_says() -> None:
    num_nodes, radius = 50_021, 64
    causal = sliding_window(num_nodes, radius).keep(rules.is_causal)
    hops = -(-(num_nodes - 1) // radius)
    assert count_hops(causal) == Hops(hops, hops, False, num_nodes * (num_nodes + 1) // 2)
    assert count_hops(full(10**6)) == Hops(1, 1, True, 10**12)

    longformer = sliding_window(num_nodes, 2) | global_tokens(num_nodes, [7])
    assert count_hops(longformer) == Hops(2, 2, True, num_nodes**2)
    past = longformer.keep(rules.is_causal)  # a source after the global token walks: no shorter way leads past it
    hops = -(-(num_nodes - 1 - 8) // 2)
    found = count_hops(past)
    assert found.at_most >= hops > 1000 and found.at_least == reach.MAX_LEVELS
    assert (found.covers, found.num_reached) == (False, num_nodes * (num_nodes + 1) // 2)


def test_each_graph_of_a_batch_is_searched() -> None:
    chain = AttentionGraph(torch.tensor([[0, 1, 2], [1, 2, 3]]), num_src_nodes=4)
    draw = random_regular(97, degree=3, generator=torch.Generator().manual_seed(0))
    batch = disjoint_union([chain, chain.T, draw])
    check_bounds(batch)
    assert count_hops(batch).at_least == max(3, walked(draw)[0])
