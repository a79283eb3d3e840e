"""Lengths of a block-diagonal mask go there and back; any other graph is refused with the reason."""

from collections.abc import Callable
from itertools import groupby

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graphattn.graph import AttentionGraph
from graphattn.graph.rules import is_causal, within
from tests.strategies import dense, graphs

LENGTHS = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), max_size=4)


def diagonal(lengths: list[tuple[int, int]]) -> torch.Tensor:
    parts = [torch.ones(pair, dtype=torch.bool) for pair in lengths]
    return torch.block_diag(*parts).bool() if parts else torch.zeros(0, 0, dtype=torch.bool)


@given(LENGTHS, st.booleans())
def test_lengths_come_back_from_blocks_and_from_edges(lengths: list[tuple[int, int]], is_listed: bool) -> None:
    q_seqlen, kv_seqlen = [pair[0] for pair in lengths], [pair[1] for pair in lengths]
    graph = AttentionGraph.from_xformers(q_seqlen, kv_seqlen)
    assert torch.equal(dense(graph), diagonal(lengths))
    assert graph.num_graphs == len(lengths)
    graph = graph.enumerate() if is_listed else graph
    assert graph.to_xformers() == (q_seqlen, kv_seqlen)
    assert is_listed or "listed" not in graph._cache


@given(graphs(heads=False))
def test_a_graph_is_converted_exactly_or_refused_with_a_reason(graph: AttentionGraph) -> None:
    rows = dense(graph)
    groups = [list(group) for _, group in groupby(rows.tolist())]
    lengths = [(len(group), sum(group[0])) for group in groups]  # what they are, should the graph be block-diagonal
    if torch.equal(rows, diagonal(lengths)) and all(num_src for _, num_src in lengths):
        q_seqlen, kv_seqlen = graph.to_xformers()
        assert list(zip(q_seqlen, kv_seqlen)) == lengths
        assert AttentionGraph.from_xformers(q_seqlen, kv_seqlen) == graph
    else:
        with pytest.raises(ValueError, match="to_xformers needs a block-diagonal graph, but"):
            graph.to_xformers()


def test_lengths_of_one_side_serve_both() -> None:
    assert AttentionGraph.from_xformers([2, 1]) == AttentionGraph.from_xformers([2, 1], [2, 1])


def of(rows: list[list[int]]) -> AttentionGraph:
    return AttentionGraph.from_mask(torch.tensor(rows, dtype=torch.bool))


REASONS: dict[str, tuple[Callable[[], object], str]] = {
    "a window": (lambda: of([[1] * 4] * 4).keep(within(1)), "target 1 reads sources 0 … 2, where .* begin at source 2"),
    "causal": (
        lambda: of([[1] * 4] * 4).keep(is_causal),
        r"its own would begin at source 1. Causal blocks are another",
    ),
    "an empty row": (lambda: of([[1, 1], [0, 0]]), "target 1 reads no source. Give it a self edge"),
    "two runs": (lambda: of([[1, 0, 1]]), "target 0 reads 2 separate runs of sources. Use to_block_mask"),
    "a gap": (lambda: of([[1, 0, 0], [0, 0, 1]]), "target 1 reads sources 2 … 2, where .* at source 1"),
    "an end": (lambda: of([[1, 1, 0]]), "no target reads sources 2 … 2. Call compact_sources"),
    "backwards": (lambda: of([[0, 1], [1, 0]]), "target 0 reads sources 1 … 1, where .* at source 0"),
    "heads": (
        lambda: AttentionGraph.from_mask(torch.ones(2, 1, 1, dtype=torch.bool)),
        r"to_xformers cannot hold a head_mask. Convert graph.of_head\(h\) for each head, or use to_block_mask",
    ),
}


@pytest.mark.parametrize("name", REASONS)
def test_the_reason_names_the_target(name: str) -> None:
    make, reason = REASONS[name]
    with pytest.raises(ValueError, match=reason):
        make().to_xformers()


def test_lengths_that_differ_or_are_negative_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must count the same blocks, got 2 and 1. Give both one length per block"):
        AttentionGraph.from_xformers([1, 2], [3])
    with pytest.raises(ValueError, match="q_seqlen must not be negative, got -1"):
        AttentionGraph.from_xformers([1, -1])
