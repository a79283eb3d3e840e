"""A BlockMask made from edges is the one that create_block_mask makes from all pairs, and comes back without loss."""

import pickle
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, create_mask, flex_attention, noop_mask
from torch.testing import assert_close

from graphattn import connectivity
from graphattn.graph import AttentionGraph, bicliques, disjoint_union
from graphattn.graph.rules import is_causal
from tests.strategies import batch_graphs, dense, graphs

TABLES = ("kv_num_blocks", "kv_indices", "full_kv_num_blocks", "full_kv_indices")
TABLES += ("q_num_blocks", "q_indices", "full_q_num_blocks", "full_q_indices")


def by_head(graph: AttentionGraph) -> torch.Tensor:
    """The dense mask, bool [num_heads, num_dst_nodes, num_src_nodes], one head where all see the same."""
    mask = dense(graph)
    return mask[None] if mask.dim() == 2 else mask


def block_mask_of_pairs(mask: torch.Tensor, block_size: int | tuple[int, int]) -> BlockMask:
    return create_block_mask(lambda b, h, q, kv: mask[h, q, kv], 1, *mask.shape, device="cpu", BLOCK_SIZE=block_size)


def check_equal(ours: BlockMask, theirs: BlockMask, mask: torch.Tensor) -> None:
    assert ours.shape == theirs.shape
    assert ours.BLOCK_SIZE == theirs.BLOCK_SIZE
    for name in TABLES:
        assert_close(getattr(ours, name), getattr(theirs, name))
    assert_close(create_mask(ours.mask_mod, 1, *mask.shape, device="cpu")[0], mask)


@given(graphs(), st.sampled_from([1, 2, 3, (2, 5), 128]))
def test_block_mask_equals_that_of_all_pairs_and_comes_back(graph: AttentionGraph, block_size: int) -> None:
    if not graph.num_src_nodes or not graph.num_dst_nodes:
        with pytest.raises(ValueError, match=r"to_block_mask needs a target and a source, got .* Leave empty graphs"):
            graph.to_block_mask(block_size)
        return
    block_mask = graph.to_block_mask(block_size)
    check_equal(block_mask, block_mask_of_pairs(by_head(graph), block_size), by_head(graph))
    assert AttentionGraph.from_block_mask(block_mask) == graph


def window(num_nodes: int, radius: int) -> AttentionGraph:
    i = torch.arange(num_nodes)
    return AttentionGraph.from_mask((i[:, None] - i).abs() <= radius)


def full(num_dst: int, num_src: int) -> AttentionGraph:
    ptrs = torch.tensor([0, num_dst]), torch.tensor([0, num_src])
    return AttentionGraph.trusted(
        None, num_src, num_dst, blocks=bicliques(ptrs[0], torch.arange(num_dst), ptrs[1], torch.arange(num_src))
    )


def random(num_dst: int, num_src: int, share: float, heads: int | None = None) -> AttentionGraph:
    shape = (num_dst, num_src) if heads is None else (heads, num_dst, num_src)
    return AttentionGraph.from_mask(torch.rand(shape, generator=torch.Generator().manual_seed(0)) < share)


LARGE: dict[str, Callable[[], AttentionGraph]] = {
    "window": lambda: window(389, 70),
    "causal window": lambda: window(640, 130).keep(is_causal),
    "full, of whole tiles": lambda: full(256, 384),
    "full, cut off": lambda: full(131, 257),
    "causal": lambda: full(401, 401).keep(is_causal),
    "documents": lambda: disjoint_union([full(200, 200), full(1, 1), full(150, 150)]).keep(is_causal),
    "sampled sources": lambda: full(150, 300).keep_sources(torch.arange(300) % 3 == 0),
    "hub and window": lambda: window(300, 5) | window(300, 299).keep(lambda src, dst: (src == 7) | (dst == 7)),
    "random": lambda: random(300, 139, 0.01),
    "dense": lambda: random(257, 300, 0.999),
    "heads": lambda: random(150, 290, 0.02, heads=3),
    "empty": lambda: random(150, 290, 0.0),
    "Longformer": lambda: connectivity.sliding_window(500, radius=40) | connectivity.global_tokens(500, [0, -1]),
    "random keys": lambda: connectivity.random_regular(300, 7, generator=torch.Generator().manual_seed(0)),
    "image": lambda: connectivity.grid((19, 23)),
    "packed": lambda: connectivity.full(torch.tensor([100, 0, 28, 301])),
    "cross": lambda: connectivity.full(torch.tensor([100, 228]), dst_sizes=torch.tensor([300, 7])),
}


@pytest.mark.parametrize("name", LARGE)
def test_patterns_in_tiles_of_128_equal_those_of_all_pairs(name: str) -> None:
    graph = LARGE[name]()
    mask = by_head(graph)
    block_mask = graph.to_block_mask()
    check_equal(block_mask, block_mask_of_pairs(mask, 128), mask)
    assert "listed" not in graph._cache or graph.blocks is None
    again = AttentionGraph.from_block_mask(block_mask)
    assert again == graph
    unpickled = pickle.loads(pickle.dumps(block_mask))
    check_equal(unpickled, block_mask, mask)


def test_flex_attention_runs_with_the_block_mask() -> None:
    graph = window(150, 20)
    query, key, value = torch.randn(3, 1, 2, 150, 16, generator=torch.Generator().manual_seed(0))
    out = flex_attention(query, key, value, block_mask=graph.to_block_mask())
    wanted = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=graph.to_mask())
    assert_close(out, wanted)


@given(graphs())
def test_mask_mod_answers_for_any_indices_and_comes_back(graph: AttentionGraph) -> None:
    num_dst, num_src = graph.num_dst_nodes, graph.num_src_nodes
    if not num_src or not num_dst:
        return
    mask_mod = pickle.loads(pickle.dumps(graph.to_mask_mod()))
    mask = by_head(graph)
    h, q, kv = torch.meshgrid(*(torch.arange(size + 2) for size in mask.shape), indexing="ij")
    beyond = torch.nn.functional.pad(mask, (0, 2, 0, 2))  # nodes that the graph lacks attend to nothing
    assert_close(mask_mod(None, h[:-2], q[:-2], kv[:-2]), beyond)
    num_heads = mask.shape[0]
    assert AttentionGraph.from_mask_mod(mask_mod, num_src, num_dst, num_heads=num_heads) == graph


@given(batch_graphs())
def test_a_batch_is_one_packed_sequence(graph: AttentionGraph) -> None:
    if graph.num_src_nodes and graph.num_dst_nodes:
        assert graph.to_block_mask(2).shape[-2:] == (graph.num_dst_nodes, graph.num_src_nodes)


def test_graphs_of_a_batch_and_heads_of_flex_become_ours() -> None:
    lengths = torch.tensor([3, 5])

    def mask_mod(b: torch.Tensor, h: torch.Tensor, q: torch.Tensor, kv: torch.Tensor) -> torch.Tensor:
        return (kv < lengths[b]) & (q - kv <= h)

    wanted = create_mask(mask_mod, 2, 3, 5, 5, device="cpu")  # [2, 3, 5, 5]
    for graph in (
        AttentionGraph.from_mask_mod(mask_mod, 5, num_graphs=2, num_heads=3),
        AttentionGraph.from_block_mask(create_block_mask(mask_mod, 2, 3, 5, 5, device="cpu", BLOCK_SIZE=2)),
    ):
        assert graph == AttentionGraph.from_hf_mask(wanted)
        assert graph.src_ptr.tolist() == graph.dst_ptr.tolist() == [0, 5, 10]


def test_full_tiles_of_one_head_stay_blocks() -> None:
    size = 2**17
    row = torch.zeros(1, 1, 1, dtype=torch.int32), torch.zeros(1, 1, 1, 1, dtype=torch.int32)
    full = torch.ones(1, 1, 1, dtype=torch.int32), torch.zeros(1, 1, 1, 1, dtype=torch.int32)
    block_mask = BlockMask.from_kv_blocks(*row, *full, BLOCK_SIZE=size, seq_lengths=(size, size))
    assert AttentionGraph.from_block_mask(block_mask).num_edges == size**2


def test_a_million_nodes_are_converted_from_blocks_without_listing_them() -> None:
    graph = full(10**6, 10**6).keep(is_causal)
    block_mask = graph.to_block_mask(4096)
    assert int(block_mask.full_kv_num_blocks.sum()) == 244 * 243 // 2
    q, kv = torch.tensor([5, 10**6 - 1, 3]), torch.tensor([5, 0, 4])
    assert block_mask.mask_mod(None, None, q, kv).tolist() == [True, True, False]


TWICE = BlockMask.from_kv_blocks(
    torch.ones(1, 1, 1, dtype=torch.int32),
    torch.zeros(1, 1, 1, 1, dtype=torch.int32),
    torch.ones(1, 1, 1, dtype=torch.int32),
    torch.zeros(1, 1, 1, 1, dtype=torch.int32),
    BLOCK_SIZE=2,
)
OUTSIDE = BlockMask.from_kv_blocks(
    torch.ones(1, 1, 1, dtype=torch.int32),
    torch.full((1, 1, 1, 1), 3, dtype=torch.int32),
    BLOCK_SIZE=2,
    compute_q_blocks=False,  # torch itself would fall over the tile
)
GRAPH = window(5, 1)
MISTAKES: dict[str, tuple[Callable[[], object], type[Exception], str]] = {
    "numbers": (
        lambda: AttentionGraph.from_mask_mod(lambda b, h, q, kv: q - kv, 3),
        ValueError,
        r"mask_mod must return a bool tensor of the shape of its arguments, \[9\], got torch.int64 \[9\]. It takes \(b",
    ),
    "another shape": (
        lambda: AttentionGraph.from_mask_mod(lambda b, h, q, kv: (q == kv)[:2], 3),
        ValueError,
        r"\[9\], got torch.bool \[2\]",
    ),
    "one bool": (lambda: AttentionGraph.from_mask_mod(lambda b, h, q, kv: True, 3), ValueError, "got bool. It takes"),
    "numbers in tiles": (
        lambda: AttentionGraph.from_block_mask(
            BlockMask.from_kv_blocks(*GRAPH.to_block_mask(2).as_tuple()[2:6], 2, lambda b, h, q, kv: q - kv, (5, 5))
        ),
        ValueError,
        "mask_mod must return a bool tensor .* got torch.int64",
    ),
    "too many pairs": (
        lambda: AttentionGraph.from_mask_mod(noop_mask, 10**6),
        ValueError,
        "asked about 1,000,000,000,000 pairs, above the limit of 4,294,967,296. Build the graph",
    ),
    "float size": (lambda: AttentionGraph.from_mask_mod(noop_mask, 3.0), TypeError, "num_src_nodes must be an int"),
    "no BlockMask": (
        lambda: AttentionGraph.from_block_mask(torch.ones(2, 2)),
        TypeError,
        "must be a torch BlockMask, got Tensor. Use from_mask_mod",
    ),
    "a tile twice": (lambda: AttentionGraph.from_block_mask(TWICE), ValueError, "lists a tile twice, as partial and"),
    "a tile outside": (
        lambda: AttentionGraph.from_block_mask(OUTSIDE),
        ValueError,
        r"lists tile \(0, 3\) of graph 0, head 0, outside its 2 × 2 pairs. Make it",
    ),
    "block_size 0": (lambda: GRAPH.to_block_mask(0), ValueError, "block_size must be at least 1, got 0. Flex"),
    "block_size of floats": (lambda: GRAPH.to_block_mask(64.0), TypeError, "an int or a pair of ints .*, got 64.0"),
    "too many tiles": (
        lambda: full(10**6, 10**6).to_block_mask(16),
        ValueError,
        r"1 × 62,500 × 62,500 tiles would take 58.2 GiB, above the limit of 2 GiB. Pass a larger block_size",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_what_cannot_be_converted_is_refused(name: str) -> None:
    action, error, advice = MISTAKES[name]
    with pytest.raises(error, match=advice):
        action()
