"""Runs of consecutive sources hold every pair once, in order, and list no block."""

import pytest
import torch
from hypothesis import given

from graphattn.graph import AttentionGraph, bicliques
from graphattn.graph.convert.runs import runs_of
from graphattn.graph.rules import is_causal
from tests.strategies import dense, graphs, mixed_graphs


@given(graphs())
def test_runs_hold_every_pair_once(graph: AttentionGraph) -> None:
    mask = dense(graph).flatten(0, -2)  # rows of all heads one below the other
    held = torch.zeros_like(mask, dtype=torch.int64)
    runs = runs_of(graph)
    for row, start, end in zip(*(field.tolist() for field in runs)):
        assert start < end
        held[row, start:end] += 1
    assert held.tolist() == mask.long().tolist()
    key = runs.row * graph.num_src_nodes + runs.start
    assert bool((torch.diff(key) > 0).all())


@given(mixed_graphs())
def test_no_block_is_listed(graph: AttentionGraph) -> None:
    runs_of(graph)
    assert graph.blocks is None or "listed" not in graph._cache


def test_causal_attention_over_a_million_nodes_is_one_run_per_target() -> None:
    size = 10**6
    ptr, node = torch.tensor([0, size]), torch.arange(size)
    runs = runs_of(AttentionGraph.trusted(None, size, blocks=bicliques(ptr, node, ptr, node)).keep(is_causal))
    assert torch.equal(runs.row, node)
    assert not bool(runs.start.any())
    assert torch.equal(runs.end, node + 1)


def test_scattered_sources_too_many_to_list_are_refused_with_the_number() -> None:
    size = 40_000
    ptr, node = torch.tensor([0, size]), torch.arange(size)
    graph = AttentionGraph.trusted(None, 2 * size, size, blocks=bicliques(ptr, node, ptr, 2 * node))
    with pytest.raises(ValueError, match="its ranges of sources would hold 1,600,000,000 edges"):
        runs_of(graph)
