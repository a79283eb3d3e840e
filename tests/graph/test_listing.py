"""Each pair is held once: blocks stay blocks until they must be listed, and what overlaps is listed."""

import pytest
import torch
from hypothesis import given
from torch.testing import assert_close

from graphattn.graph import AttentionGraph, bicliques
from graphattn.graph.listing import list_blocks
from tests.strategies import dense, graphs, kinds_at, mixed_graphs


@given(graphs())
def test_a_listed_graph_has_the_same_pairs_kinds_and_heads_and_no_block(graph: AttentionGraph) -> None:
    listed = list_blocks(graph)
    assert listed.blocks is None
    assert_close(dense(listed), dense(graph))
    assert kinds_at(listed) == kinds_at(graph)
    assert repr(listed) == repr(graph)
    assert (listed is graph) == (graph.blocks is None)
    assert graph.enumerate() is graph.enumerate()  # listed once


@given(mixed_graphs())
def test_number_of_edges_is_known_without_listing_blocks(graph: AttentionGraph) -> None:
    assert graph.num_edges == int(dense(graph).sum())
    repr(graph), str(graph), hash(graph), graph == graph.T.T
    assert "listed" not in graph._cache or graph.blocks is None


def test_a_block_survives_an_edge_that_adds_nothing_to_it() -> None:
    blocks = bicliques(
        torch.tensor([0, 2, 3]), torch.tensor([0, 1, 2]), torch.tensor([0, 2, 4]), torch.tensor([0, 1, 1, 2])
    )
    inside = torch.tensor([[0, 2], [0, 2]])
    for options in ({}, {"kinds": ("full",)}, {"head_mask": torch.tensor([[True, False]] * 2)}):
        graph = AttentionGraph(inside, 3, blocks=blocks, **options)
        assert (graph.explicit_edges.shape[1], graph.blocks.num_blocks, graph.num_edges) == (0, 2, 6)
    only_first = AttentionGraph(
        inside[:, :1], 3, blocks=blocks, edge_kind=torch.tensor([2]), kinds=("full", "bond")
    )  # the edge is a bond as well: its block is listed, the other one stays
    assert (only_first.explicit_edges.shape[1], only_first.blocks.num_blocks, only_first.num_edges) == (4, 1, 6)
    assert kinds_at(only_first)[(0, 0)] == {"full", "bond"}


def test_an_edge_of_all_kinds_inside_a_block_keeps_them() -> None:
    ptr = torch.tensor([0, 2])
    graph = AttentionGraph(
        torch.tensor([[0], [0]]),
        2,
        blocks=bicliques(ptr, torch.arange(2), ptr, torch.arange(2)),
        kinds=("full", "bond"),
    )
    assert kinds_at(graph) == {(0, 0): {"full", "bond"}, (0, 1): {"full"}, (1, 0): {"full"}, (1, 1): {"full"}}


def test_overlapping_blocks_too_large_to_list_are_refused_with_the_size() -> None:
    size = 20_000
    node, ptr = torch.arange(size).repeat(2), torch.tensor([0, size, 2 * size])
    with pytest.raises(ValueError, match="listing its overlapping blocks as edges would hold 800,000,000 edges"):
        AttentionGraph(torch.empty(2, 0, dtype=torch.int64), size, blocks=bicliques(ptr, node, ptr, node))
