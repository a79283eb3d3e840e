import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graphattn.connectivity import block_diagonal, chunked, document, full
from graphattn.graph import disjoint_union
from graphattn.graph.rules import is_causal


@given(num_nodes=st.integers(0, 23), block_size=st.integers(1, 30))
def test_blocks_are_cut_from_the_start(num_nodes: int, block_size: int) -> None:
    graph = block_diagonal(num_nodes, block_size)
    block = torch.arange(num_nodes) // block_size
    torch.testing.assert_close(graph.to_mask(), block[:, None] == block)
    whole, rest = divmod(num_nodes, block_size)
    assert graph.num_edges == whole * block_size**2 + rest**2
    assert graph.explicit_edges.shape == (2, 0)


@given(st.integers(0, 19), st.integers(0, 19), st.integers(1, 7), st.none() | st.integers(1, 7))
def test_block_c_of_the_targets_reads_block_c_of_the_sources(
    num_src: int, num_dst: int, block_size: int, dst_block_size: int | None
) -> None:
    graph = block_diagonal(num_src, block_size, dst_sizes=num_dst, dst_block_size=dst_block_size)
    dst_block = torch.arange(num_dst) // (dst_block_size or block_size)
    torch.testing.assert_close(graph.to_mask(), dst_block[:, None] == torch.arange(num_src) // block_size)


def test_a_batch_in_cross_attention_keeps_its_graphs_apart() -> None:
    sizes, dst_sizes = torch.tensor([7, 0, 4, 5]), torch.tensor([3, 2, 0, 9])
    batch = block_diagonal(sizes, 2, dst_sizes=dst_sizes, dst_block_size=3)
    singles = [block_diagonal(n, 2, dst_sizes=m, dst_block_size=3) for n, m in zip(sizes.tolist(), dst_sizes.tolist())]
    assert batch == disjoint_union(singles)
    assert (batch.src_ptr.tolist(), batch.dst_ptr.tolist()) == ([0, 7, 7, 11, 16], [0, 3, 5, 5, 14])


@given(st.integers(0, 23), st.integers(1, 9), st.integers(0, 4), st.integers(0, 4))
def test_chunks_read_their_neighbours(num_nodes: int, chunk_size: int, before: int, after: int) -> None:
    graph = chunked(num_nodes, chunk_size, before=before, after=after)
    chunk = torch.arange(num_nodes) // chunk_size
    ahead = chunk - chunk[:, None]
    torch.testing.assert_close(graph.to_mask(), (ahead >= -before) & (ahead <= after))
    num_chunks, rest = divmod(num_nodes, chunk_size)
    if not rest and num_chunks > max(before, after):
        cut = before * (before + 1) // 2 + after * (after + 1) // 2
        assert graph.num_edges == chunk_size**2 * (num_chunks * (1 + before + after) - cut)


def test_without_neighbours_chunks_are_blocks_and_with_all_of_them_everything() -> None:
    assert chunked(13, 4) == block_diagonal(13, 4) == document([4, 4, 4, 1])
    assert chunked(13, 4, before=2**70, after=3) == chunked(13, 2**70) == block_diagonal(13, 2**70) == full(13)


def test_the_causal_rule_keeps_the_blocks() -> None:
    graph = chunked(12, 4, before=1).keep(is_causal)
    assert graph.explicit_edges.shape == (2, 0)
    assert graph.num_edges == 3 * (4 * 5 // 2) + 2 * 16


def test_a_million_tokens_cost_what_their_nodes_cost() -> None:
    graph = chunked(1_000_003, 8192, before=1)
    assert sum(tensor.numel() for tensor in graph.blocks) < 6 * 1_000_003


@pytest.mark.parametrize(
    ("call", "error", "advice"),
    [
        (lambda: block_diagonal(5, 0), ValueError, "block_size must be at least 1, got 0. Use 1 to keep only self"),
        (lambda: block_diagonal(5, 2.0), TypeError, "block_size must be an int, got float 2.0."),
        (lambda: block_diagonal(5, 2, dst_block_size=1), ValueError, "dst_block_size must come with dst_sizes, got 1"),
        (lambda: block_diagonal(5, 2, dst_sizes=3, dst_block_size=0), ValueError, "dst_block_size must be at least 1"),
        (lambda: block_diagonal(5, 2, dst_sizes=torch.tensor([3])), TypeError, "must be two ints or two tensors"),
        (lambda: chunked(5, 0), ValueError, "chunk_size must be at least 1, got 0."),
        (lambda: chunked(5, 2, before=-1), ValueError, "before must be at least 0, got -1. Use 0 to read no chunk"),
        (lambda: chunked(5, 2, after=1.5), TypeError, "after must be an int, got float 1.5."),
    ],
)
def test_parameters_outside_their_domain_are_refused(call: object, error: type[Exception], advice: str) -> None:
    with pytest.raises(error, match=re.escape(advice)):
        call()
