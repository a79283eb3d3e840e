"""4-D masks hold each graph of a ragged batch in its own row, padded on either side, and come back without loss."""

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from graphattn.graph import AttentionGraph, bicliques
from tests.strategies import batch_graphs, dense, graphs

SIDES = st.sampled_from(["right", "left"])
DTYPES = st.sampled_from([torch.bool, torch.float32, torch.bfloat16, torch.float16])


def expected(graph: AttentionGraph, padding_side: str) -> torch.Tensor:
    """The padded mask, written graph by graph from the dense one."""
    mask = dense(graph)
    mask = mask[None] if mask.dim() == 2 else mask
    src, dst = graph.src_ptr.tolist(), graph.dst_ptr.tolist()
    longest = [max([b - a for a, b in pairwise(ptr)], default=0) for ptr in (dst, src)]
    padded = torch.zeros(graph.num_graphs, mask.shape[0], *longest, dtype=torch.bool)
    for g in range(graph.num_graphs):
        part = mask[:, dst[g] : dst[g + 1], src[g] : src[g + 1]]
        rows, columns = part.shape[1:]
        if padding_side == "right":
            padded[g, :, :rows, :columns] = part
        else:
            padded[g, :, longest[0] - rows :, longest[1] - columns :] = part
    return padded


@given(graphs() | batch_graphs(), DTYPES, SIDES)
def test_each_graph_of_a_batch_is_padded_and_comes_back(graph: AttentionGraph, dtype: torch.dtype, side: str) -> None:
    mask = graph.to_hf_mask(dtype, padding_side=side)
    wanted = expected(graph, side)
    if dtype == torch.bool:
        assert_close(mask, wanted)
    else:
        zero = torch.zeros((), dtype=dtype)
        assert_close(mask, torch.where(wanted, zero, torch.full_like(zero, torch.finfo(dtype).min)))
    sizes, dst_sizes = torch.diff(graph.src_ptr), torch.diff(graph.dst_ptr)
    again = AttentionGraph.from_hf_mask(mask, sizes, dst_sizes, padding_side=side)
    assert again == graph
    assert_close((again.src_ptr, again.dst_ptr), (graph.src_ptr, graph.dst_ptr))


@given(batch_graphs())
def test_without_sizes_every_position_is_a_node(graph: AttentionGraph) -> None:
    mask = graph.to_hf_mask()
    again = AttentionGraph.from_hf_mask(mask)
    assert again.num_dst_nodes == mask.shape[0] * mask.shape[2]
    assert_close(again.to_hf_mask(), mask)


def test_what_the_mask_says_of_padding_is_left_out() -> None:
    everything = torch.ones(2, 1, 3, 3, dtype=torch.bool)
    graph = AttentionGraph.from_hf_mask(everything, torch.tensor([1, 3]))
    assert (graph.num_src_nodes, graph.num_dst_nodes, graph.num_edges) == (4, 4, 1 + 9)
    assert AttentionGraph.from_hf_mask(everything, torch.tensor([1, 3]), padding_side="left") == graph


def test_two_masks_added_up_still_block() -> None:
    graph = AttentionGraph(torch.tensor([[0, 1], [0, 1]]), 2)
    mask = graph.to_hf_mask(torch.float16)
    assert AttentionGraph.from_hf_mask(mask + mask) == graph


MASK = torch.ones(2, 1, 3, 3, dtype=torch.bool)
GRAPH = AttentionGraph(torch.tensor([[0], [0]]), 1)
MISTAKES: dict[str, tuple[Callable[[], object], type[Exception], str]] = {
    "2-D": (
        lambda: AttentionGraph.from_hf_mask(MASK[:, 0, 0]),
        ValueError,
        r"must have shape \[num_graphs, num_heads or 1, queries, keys\], got \[2, 3\]. A tokenizer's",
    ),
    "whole numbers": (
        lambda: AttentionGraph.from_hf_mask(MASK.long()),
        TypeError,
        "bool or floating.* got torch.int64",
    ),
    "a list": (lambda: AttentionGraph.from_hf_mask([[True]]), TypeError, "bool or floating tensor, got list"),
    "a bias": (lambda: AttentionGraph.from_hf_mask(MASK.float()), ValueError, "must hold 0 .attend. .*, got 1. Pass"),
    "too few sizes": (
        lambda: AttentionGraph.from_hf_mask(MASK, torch.tensor([3])),
        ValueError,
        "each of 2 graphs, got",
    ),
    "too long": (
        lambda: AttentionGraph.from_hf_mask(MASK, torch.tensor([3, 4])),
        ValueError,
        r"sizes must hold one size of at most 3 for each of 2 graphs, got \[3, 4\]. Give the number",
    ),
    "float sizes": (
        lambda: AttentionGraph.from_hf_mask(MASK, torch.ones(2)),
        TypeError,
        "sizes must have dtype torch.i",
    ),
    "a side": (lambda: GRAPH.to_hf_mask(padding_side="top"), ValueError, "padding_side must be 'right' or 'left', got"),
    "a dtype": (lambda: GRAPH.to_hf_mask(torch.int8), ValueError, "dtype must be floating, got torch.int8"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mask_of_another_form_is_refused(name: str) -> None:
    action, error, advice = MISTAKES[name]
    with pytest.raises(error, match=advice):
        action()


def test_a_mask_too_large_is_refused_with_its_size() -> None:
    sizes = torch.tensor([0, 2**15, 2**15 + 1])
    node = torch.arange(2**15 + 1)
    graph = AttentionGraph.trusted(None, 2**15 + 1, blocks=bicliques(sizes, node, sizes, node), src_ptr=sizes)
    with pytest.raises(ValueError, match=r"a padded mask of 2 × 1 × 32768 × 32768 would take 8.0 GiB, above the limit"):
        graph.to_hf_mask(torch.float32)
