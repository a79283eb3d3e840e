"""Blocks of a block-sparse matrix are those of scipy, hold every pair, and come back without loss."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import bsr_array
from torch.testing import assert_close

from graphattn.graph import AttentionGraph, bicliques
from tests.strategies import dense, graphs

SIZES = st.sampled_from([1, 2, 3, (2, 3), (4, 1)])


@given(graphs(heads=False), SIZES)
def test_blocks_are_those_of_scipy_and_come_back(graph: AttentionGraph, block_size: int | tuple[int, int]) -> None:
    blocks = graph.to_bsr(block_size)
    tall, wide = blocks.block_size
    assert (blocks.indptr.dtype, blocks.indices.dtype) == (torch.int32, torch.int32)
    assert blocks.num_rows == blocks.indptr.numel() * tall - tall
    padding = (0, blocks.num_cols - graph.num_src_nodes, 0, blocks.num_rows - graph.num_dst_nodes)
    padded = torch.nn.functional.pad(dense(graph), padding)
    data = torch.ones(blocks.indices.numel(), tall, wide, dtype=torch.bool) if blocks.mask is None else blocks.mask
    if blocks.num_rows and blocks.num_cols:
        theirs = bsr_array((data.numpy(), blocks.indices.numpy(), blocks.indptr.numpy()), shape=padded.shape)
        assert_close(torch.from_numpy(theirs.toarray()), padded)
    if data.numel():
        assert bool(data.flatten(1).any(1).all())  # no block without an edge
        assert (blocks.mask is None) == bool(data.all())
    sizes = (graph.num_src_nodes, graph.num_dst_nodes)
    for mask in (blocks.mask, None if blocks.mask is None else blocks.mask.flatten()):
        again = AttentionGraph.from_bsr(blocks.indptr, blocks.indices, *sizes, block_size=block_size, mask=mask)
        assert again == graph


def test_full_blocks_need_no_mask_and_what_is_padding_is_left_out() -> None:
    blocks = AttentionGraph.from_mask(torch.ones(4, 6, dtype=torch.bool)).to_bsr((2, 3))
    assert blocks.mask is None
    graph = AttentionGraph.from_bsr(blocks.indptr, blocks.indices, 5, 3, block_size=(2, 3))
    assert bool(graph.to_mask().all()) and graph.num_edges == 15


INDPTR, INDICES = torch.tensor([0, 1, 2]), torch.tensor([0, 1])


def read(**changes: object) -> AttentionGraph:
    fields = {"indptr": INDPTR, "indices": INDICES, "num_src_nodes": 4, "num_dst_nodes": 4, "block_size": 2}
    return AttentionGraph.from_bsr(**(fields | changes))


MISTAKES: dict[str, tuple[Callable[[], object], type[Exception], str]] = {
    "floats": (
        lambda: read(indices=INDICES.float()),
        TypeError,
        "indices must be a flat int32 or int64 tensor, got to",
    ),
    "a list": (lambda: read(indptr=[0, 1, 2]), TypeError, "indptr must be a flat int32 or int64 tensor, got list"),
    "offsets": (lambda: read(indptr=INDPTR.flip(0)), ValueError, "indptr must rise from 0 to the number of entries, 2"),
    "rows": (lambda: read(num_dst_nodes=6), ValueError, "indptr must have 4 entries for 6 targets in rows of 2, got 3"),
    "columns": (lambda: read(num_src_nodes=2), ValueError, r"indices must lie in \[0, 1\), got 1. Check num_src_nodes"),
    "twice": (
        lambda: read(indptr=torch.tensor([0, 2, 2]), indices=INDICES * 0),
        ValueError,
        "must list each edge once",
    ),
    "mask of numbers": (lambda: read(mask=torch.ones(2, 2, 2)), ValueError, r"mask must be bool \[2, 2, 2\], got tor"),
    "mask of one block": (
        lambda: read(mask=torch.ones(4, dtype=torch.bool)),
        ValueError,
        r"mask must be bool \[2, 2, 2\], got \[4\]. Give every block",
    ),
    "block_size": (lambda: read(block_size=0), ValueError, "block_size must be at least 1, got 0"),
    "heads": (
        lambda: AttentionGraph.from_mask(torch.ones(2, 1, 1, dtype=torch.bool)).to_bsr(2),
        ValueError,
        "to_bsr cannot hold a head_mask. .* or use to_block_mask",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_answered_with_what_to_do(name: str) -> None:
    action, error, advice = MISTAKES[name]
    with pytest.raises(error, match=advice):
        action()


def test_a_mask_too_large_is_refused_with_its_size() -> None:
    node, ptr = torch.arange(300), torch.tensor([0, 300])
    graph = AttentionGraph.trusted(None, 300 * 4096, blocks=bicliques(ptr, node * 4096, ptr, node))
    with pytest.raises(ValueError, match=r"the mask inside blocks of 300 × 4096 × 4096 would take 4.7 GiB"):
        graph.to_bsr(4096)
