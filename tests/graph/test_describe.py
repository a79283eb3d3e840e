"""A description counts what a walk over the dense matrix counts, and its text says it."""

import statistics
import time

import networkx as nx
import pytest
import torch
from hypothesis import given

from graphattn.connectivity import full, random_regular, sliding_window
from graphattn.graph import AttentionGraph, rules
from graphattn.graph.describe import Degrees
from tests.strategies import dense, graphs, kinds_at


def degrees(counts: list[int]) -> Degrees:
    if not counts:
        return Degrees(0, 0, 0, 0)
    return Degrees(min(counts), statistics.median_low(counts), max(counts), counts.count(0))


@given(graphs())
def test_fields_are_those_of_the_dense_matrix(graph: AttentionGraph) -> None:
    heads = dense(graph)
    mask = heads if heads.dim() == 2 else heads.any(0)
    found = graph.describe()
    assert found.summary == str(graph) and str(found).startswith(str(graph) + "\n")
    assert found.num_edges == int(mask.sum())
    assert found.in_degrees == degrees(mask.sum(1).tolist())
    assert found.out_degrees == degrees(mask.sum(0).tolist())
    assert found.kinds == {
        kind: sum(kind in names for names in kinds_at(graph).values()) for kind in graph.kinds
    }  # fmt: skip
    if heads.dim() == 3:
        total = max(int(mask.sum()), 1)
        assert found.head_shares == pytest.approx([int(head.sum()) / total for head in heads])
    else:
        assert found.head_shares == ()


@given(graphs())
def test_components_are_those_of_networkx(graph: AttentionGraph) -> None:
    mask = dense(graph)
    mask = mask if mask.dim() == 2 else mask.any(0)
    offset = 0 if graph.is_square else graph.num_src_nodes
    undirected = nx.Graph()
    undirected.add_nodes_from(range(graph.num_src_nodes if graph.is_square else offset + graph.num_dst_nodes))
    undirected.add_edges_from((src, offset + dst) for dst, src in mask.nonzero().tolist())
    components = list(nx.connected_components(undirected))
    found = graph.describe()
    assert found.num_components == len(components)
    assert found.largest_component == max(map(len, components), default=0)


@given(graphs(heads=False))
def test_pairs_are_what_each_way_computes(graph: AttentionGraph) -> None:
    found = graph.describe()
    num_src, num_dst = torch.diff(graph.src_ptr).tolist(), torch.diff(graph.dst_ptr).tolist()
    real = sum(a * b for a, b in zip(num_src, num_dst))
    padded = len(num_src) * max(num_src, default=0) * max(num_dst, default=0)
    assert found.pairs.edges == graph.num_edges
    assert found.pairs.dense == graph.num_src_nodes * graph.num_dst_nodes
    assert found.pairs.padded == padded
    assert found.padding_waste == pytest.approx((padded - real) / padded if padded else 0)
    assert found.pairs.tiles == (128**2 if graph.num_edges else 0) and found.pairs.tiles_are_exact
    assert graph.num_edges <= found.pairs.blocks
    if graph.blocks is None:
        assert found.pairs.blocks == graph.num_edges


def test_blocks_cost_what_their_padding_costs() -> None:
    equal, unequal = full(torch.tensor([5, 5])).describe(), full(torch.tensor([13, 14])).describe()
    assert equal.pairs.blocks == 50 and equal.padding_waste == 0
    assert unequal.pairs.blocks == 2 * 14 * 14 and unequal.padding_waste == pytest.approx(1 - 365 / 392)


def test_the_text_says_what_the_fields_hold() -> None:
    graph = sliding_window(300, 2) | random_regular(300, 3, generator=torch.Generator().manual_seed(0))
    found = graph.describe()
    text = str(found)
    assert f"  hops: {found.hops.at_least} until every target is reached from every source\n" in text
    assert "  components: 1, the largest of 300 nodes\n" in text
    assert f"  edges of kinds: window {found.kinds['window']:,}, random 900\n" in text
    assert "  expected cover, if each layer draws anew: " in text
    assert f"    edges     {found.pairs.edges:>20,}  1 per edge (scatter, gather, fused)" in text
    assert 0.999 <= found.cover[-1] <= 1 and all(a < b for a, b in zip(found.cover, found.cover[1:]))
    causal = str(graph.keep(rules.is_causal).describe())
    assert "not from all: 45,150 pairs\n" in causal and "expected cover" not in causal
    assert "hops: 0 until every target is reached from every source" in str(full(1).describe())
    assert "of its pairs" not in str(AttentionGraph(torch.empty(2, 0, dtype=torch.int64), 0).describe())


def test_what_is_not_known_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphattn.graph.reach.MAX_WORK", -1)
    graph = random_regular(300, 2, generator=torch.Generator().manual_seed(0))
    assert "hops: at least " in str(graph.describe())
    monkeypatch.setattr("graphattn.graph.reach.MAX_LEVELS", 1)
    assert "which do was not followed" in str(graph.describe())
    monkeypatch.setattr("graphattn.graph.cells.MAX_TILES", 0)
    assert "FlexAttention, at most" in str(full(torch.tensor([3, 4])).describe())


def test_a_causal_window_over_50_000_tokens_is_described_in_a_second() -> None:
    graph = sliding_window(50_000, radius=64).keep(rules.is_causal)
    sliding_window(5, radius=1).describe()  # scipy loads
    start = time.perf_counter()
    found = graph.describe()
    seconds = time.perf_counter() - start
    assert (found.hops.at_least, found.hops.at_most, found.num_components) == (782, 782, 1)
    assert found.hops.num_reached == 50_000 * 50_001 // 2 and found.num_edges == 3_247_920
    assert seconds < 1.0
