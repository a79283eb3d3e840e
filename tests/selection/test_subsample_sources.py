"""Subsampled sources: the law of the draw, what happens to the graph, and the layer against a masked dense one."""

import dataclasses
import math
import pickle
from collections import Counter
from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.testing import assert_close

from graphattn.connectivity import full, sliding_window
from graphattn.graph import AttentionGraph
from graphattn.graph.rules import is_causal
from graphattn.nn import GraphAttention
from graphattn.selection import SubsampleSources, generator_for
from tests.ops.graphs import GRAPHS, edges, with_heads
from tests.strategies import batch_graphs, dense, graphs, kinds_at, square_graphs

NUM_NODES, EMBED_DIM, NUM_HEADS = 11, 15, 3
EXACT = {"atol": 1e-10, "rtol": 1e-10}
SIZES = [5, 0, 3, 1, 7, 2]


def sources_of(spec: SubsampleSources, graph: AttentionGraph, seed: int = 0) -> Tensor:
    """The drawn sources, bool [num_src_nodes]: they depend on the nodes of the graph and on nothing else."""
    everywhere = full(torch.diff(graph.src_ptr), dst_sizes=torch.ones_like(torch.diff(graph.src_ptr)))
    marked = torch.zeros(graph.num_src_nodes, dtype=torch.bool)
    spec = dataclasses.replace(spec, keep_self=False)
    marked[spec.draw(everywhere, generator=generator_for(seed)).edge_index[0]] = True
    return marked


# --- how many, and which -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3, 5, 6, 10**30])
def test_each_graph_of_a_batch_keeps_its_count(count: int) -> None:
    graph = full(torch.tensor(SIZES))
    drawn = SubsampleSources(num_sources=count).draw(graph, generator=generator_for(0))
    for size, start in zip(SIZES, graph.src_ptr.tolist()):
        src, dst = drawn.edge_index
        mine = (dst >= start) & (dst < start + size)
        assert src[mine].unique().numel() == min(count, size)
        assert torch.bincount(dst[mine] - start, minlength=size).tolist() == [min(count, size)] * size


@pytest.mark.parametrize(
    "keep_p, exact", [(0.1, Fraction(1, 10)), (1 / 3, Fraction(1, 3)), (0.75, Fraction(3, 4)), (1e-12, Fraction(0))]
)
def test_a_share_is_rounded_up_to_at_least_one_source(keep_p: float, exact: Fraction) -> None:
    sizes = [*range(40), 300]
    drawn = SubsampleSources(keep_p=keep_p).draw(full(torch.tensor(sizes)), generator=generator_for(0))
    fewer, kept = drawn.compact_sources()
    expected = [min(size, max(1, math.ceil(exact * size))) for size in sizes]
    assert torch.diff(fewer.src_ptr).tolist() == expected
    assert kept.numel() == sum(expected)


def test_every_subset_is_as_likely_in_every_graph_of_a_ragged_batch() -> None:
    num_draws, sizes = 4000, (7, 4)
    graph = full(torch.tensor(sizes * num_draws), dst_sizes=torch.ones(2 * num_draws, dtype=torch.int64))
    src, dst = SubsampleSources(num_sources=3).draw(graph, generator=generator_for(0)).edge_index
    subsets = (src - graph.src_ptr[dst]).view(num_draws, 2, 3)
    for column, size in enumerate(sizes):
        count = Counter(map(tuple, subsets[:, column].tolist()))
        expected = num_draws / math.comb(size, 3)
        assert len(count) == math.comb(size, 3)
        assert sum((n - expected) ** 2 / expected for n in count.values()) < chi2.ppf(1 - 1e-4, len(count) - 1)
    # the small graph's source that is left out says nothing about the first subset of the large one
    is_first = (subsets[:, 0] == torch.tensor([0, 1, 2])).all(1)
    left_out = 6 - subsets[:, 1].sum(1)
    count = torch.bincount(left_out[is_first], minlength=4).double()
    assert float(((count - count.mean()) ** 2 / count.mean()).sum()) < chi2.ppf(1 - 1e-4, 3)


def test_draws_repeat_with_the_generator_and_differ_between_layers_and_steps() -> None:
    spec, graph = SubsampleSources(num_sources=20), full(101)
    drawn = [
        spec.draw(graph, generator=generator_for(7, step=step, layer=layer)) for step in range(3) for layer in range(3)
    ]
    assert all(one != other for k, one in enumerate(drawn) for other in drawn[:k])
    assert spec.draw(graph, generator=generator_for(7, step=1, layer=2)) == drawn[5]


# --- what happens to the graph -------------------------------------------------------------------------------------


@given(st.one_of(graphs(), batch_graphs()), st.integers(1, 5), st.sampled_from([None, True, False]))
def test_the_drawn_graph_has_the_columns_drawn_and_the_diagonal_kept(
    graph: AttentionGraph, count: int, keep_self: bool | None
) -> None:
    one_side = graph.is_square and torch.equal(graph.src_ptr, graph.dst_ptr)
    keep_self = None if keep_self and not one_side else keep_self
    spec = SubsampleSources(num_sources=count, keep_self=keep_self)
    drawn = spec.draw(graph, generator=generator_for(0))
    before, stays = dense(graph), sources_of(spec, graph)
    causal = one_side and not bool(before.triu(1).any())
    has_self = causal if keep_self is None else keep_self
    own = torch.eye(*before.shape[-2:], dtype=torch.bool) if has_self else torch.zeros(1, dtype=torch.bool)
    assert_close(dense(drawn), before & (stays | own))
    assert torch.equal(drawn.src_ptr, graph.src_ptr) and torch.equal(drawn.dst_ptr, graph.dst_ptr)
    if drawn is not graph:
        names = kinds_at(graph)
        assert kinds_at(drawn) == {
            (i, j): names[i, j] | ({"sampled"} if stays[j] else set()) for i, j in kinds_at(drawn)
        }


@given(square_graphs())
def test_a_share_of_one_is_the_graph_itself(graph: AttentionGraph) -> None:
    assert SubsampleSources(keep_p=1.0).draw(graph, generator=generator_for(0)) is graph
    assert SubsampleSources(num_sources=9, keep_self=True).draw(graph, generator=generator_for(0)) is graph


@pytest.mark.parametrize("rule", [None, is_causal])
def test_blocks_stay_blocks(rule: Any) -> None:
    graph = full(torch.tensor([2000, 3000]))
    graph = graph if rule is None else graph.keep(rule)
    drawn = SubsampleSources(keep_p=0.125).draw(graph, generator=generator_for(0))
    assert drawn.blocks is not None and drawn.blocks.num_blocks == 2
    # the self edges of a causal graph stand beside its blocks, less those that the blocks hold
    assert drawn.explicit_edges.shape[1] == (0 if rule is None else 5000 - 250 - 375)
    assert "listed" not in graph._cache and "listed" not in drawn._cache
    if rule is None:
        assert drawn.num_edges == 2000 * 250 + 3000 * 375


def test_a_million_nodes_are_drawn_from_without_listing_a_pair() -> None:
    drawn = SubsampleSources(num_sources=1000).draw(full(10**6), generator=generator_for(0))
    assert (drawn.num_edges, drawn.compact_sources()[0].num_src_nodes) == (10**9, 1000)


def test_a_causal_target_always_reads_itself_unless_asked_otherwise() -> None:
    graph = full(NUM_NODES).keep(is_causal)
    drawn = SubsampleSources(num_sources=2).draw(graph, generator=generator_for(0))
    assert bool(dense(drawn).diagonal().all())
    assert not drawn.looks_ahead()
    bare = SubsampleSources(num_sources=2, keep_self=False).draw(graph, generator=generator_for(0))
    assert int(dense(bare).diagonal().sum()) == 2


def test_a_sparse_graph_keeps_its_diagonal_when_asked() -> None:
    graph = sliding_window(NUM_NODES, 1)
    drawn = SubsampleSources(num_sources=2, keep_self=True).draw(graph, generator=generator_for(0))
    assert bool(dense(drawn).diagonal().all())
    bond = edges("0: 1; 1: 0", 2, 2)  # without a self edge to keep
    drawn = SubsampleSources(num_sources=1, keep_self=True).draw(bond, generator=generator_for(0))
    assert drawn.num_edges == 1


def test_cross_attention_samples_the_sources_of_the_other_side() -> None:
    graph = full(torch.tensor([13, 5]), dst_sizes=torch.tensor([4, 7]))
    drawn = SubsampleSources(num_sources=6).draw(graph, generator=generator_for(0))
    assert drawn.num_edges == 4 * 6 + 7 * 5


def test_heads_that_see_different_edges_share_the_sources() -> None:
    graph = with_heads(sliding_window(NUM_NODES, 3))
    spec = SubsampleSources(num_sources=4)
    assert_close(dense(spec.draw(graph, generator=generator_for(0))), dense(graph) & sources_of(spec, graph))


@pytest.mark.parametrize("num_nodes", [0, 1])
@pytest.mark.parametrize("spec", [SubsampleSources(num_sources=3), SubsampleSources(keep_p=0.01)])
def test_no_node_and_one_node(num_nodes: int, spec: SubsampleSources) -> None:
    assert spec.draw(full(num_nodes), generator=generator_for(0)) == full(num_nodes)


def test_the_origin_says_what_was_drawn() -> None:
    drawn = SubsampleSources(keep_p=0.5).draw(full(5), generator=generator_for(0))
    assert repr(drawn) == "AttentionGraph(SubsampleSources(keep_p=0.5).draw(full(5)): 5 targets × 5 sources, 15 edges)"


# --- in a layer ----------------------------------------------------------------------------------------------------


def layer_of(select: SubsampleSources | None = None, **options: Any) -> Any:
    torch.manual_seed(0)
    return GraphAttention(EMBED_DIM, NUM_HEADS, select=select, **options).double()


def features(num_nodes: int = NUM_NODES) -> Tensor:
    return torch.randn(num_nodes, EMBED_DIM, generator=torch.Generator().manual_seed(num_nodes), dtype=torch.float64)


def drawn_in(layer: Any, x: Tensor, graph: AttentionGraph, seed: int = 3) -> tuple[Tensor, AttentionGraph]:
    """The layer's output and, drawn once more, the graph that it read."""
    torch.manual_seed(seed)
    out = layer(x, graph)
    torch.manual_seed(seed)
    return out, layer.select(x, graph)[0]


def masked_dense(layer: Any, x: Tensor, mask: Tensor) -> Tensor:
    """Projects every node, and gives the pairs outside the mask −inf."""
    query, key = layer.score(x, x)
    value = layer.value_proj(x).unflatten(-1, (NUM_HEADS, -1))
    bias = torch.zeros(mask.shape, dtype=x.dtype).masked_fill(~mask, -torch.inf)
    out = scaled_dot_product_attention(*(part.transpose(0, 1) for part in (query, key, value)), attn_mask=bias)
    return layer.out_proj(out.transpose(0, 1).flatten(1))


@pytest.mark.parametrize("name", ["full", "causal"])
@pytest.mark.parametrize("spec", [SubsampleSources(num_sources=3), SubsampleSources(keep_p=0.5)])
def test_it_equals_dense_attention_whose_other_columns_are_masked(name: str, spec: SubsampleSources) -> None:
    layer, graph, x = layer_of(spec), GRAPHS[name], features().requires_grad_()
    out, drawn = drawn_in(layer, x, graph)
    assert drawn.num_edges < graph.num_edges
    expected = masked_dense(layer, x, dense(drawn))
    assert_close(out, expected, **EXACT)
    mine, theirs = (torch.autograd.grad(y.square().sum(), [x, *layer.parameters()]) for y in (out, expected))
    assert_close(mine, theirs, **EXACT)
    assert mine[0].abs().max() > 0


def test_a_share_of_one_is_the_dense_layer() -> None:
    layer, graph, x = layer_of(SubsampleSources(keep_p=1.0)), full(NUM_NODES), features().requires_grad_()
    out, expected = layer(x, graph), masked_dense(layer, x, torch.ones(NUM_NODES, NUM_NODES, dtype=torch.bool))
    assert_close(out, expected, **EXACT)
    mine, theirs = (torch.autograd.grad(y.square().sum(), [x, *layer.parameters()]) for y in (out, expected))
    assert_close(mine, theirs, **EXACT)


@pytest.mark.parametrize(
    "graph, expected",
    [
        (full(512), 64),
        (full(torch.tensor([100, 0, 7, 1])), 13 + 1 + 1),
        (sliding_window(512, 20), 64),
        (full(512).keep(is_causal), 512),  # each node is read by itself at least
    ],
    ids=["one graph", "ragged batch", "window", "causal"],
)
def test_only_sampled_sources_are_projected(graph: AttentionGraph, expected: int) -> None:
    layer = layer_of(SubsampleSources(keep_p=0.125))
    rows: dict[str, int] = {}
    projections = {"query": layer.score.query_proj, "key": layer.score.key_proj, "value": layer.value_proj}
    for name, module in projections.items():
        module.register_forward_hook(lambda _, inputs, __, name=name: rows.update({name: inputs[0].shape[0]}))
    layer(features(graph.num_src_nodes), graph)
    assert rows == {"query": graph.num_dst_nodes, "key": expected, "value": expected}
    layer.eval()(features(graph.num_src_nodes), graph)
    assert set(rows.values()) == {graph.num_src_nodes}


def test_renaming_nodes_and_sources_alike_renames_the_output() -> None:
    layer, x = layer_of(), features()
    order = torch.randperm(NUM_NODES, generator=torch.Generator().manual_seed(1))
    drawn = SubsampleSources(num_sources=4).draw(full(NUM_NODES), generator=generator_for(0))
    assert_close(layer(x[order], drawn.permute(order)), layer(x, drawn)[order], **EXACT)


def test_the_mean_of_many_draws_settles_as_one_over_their_number() -> None:
    layer = layer_of(SubsampleSources(num_sources=4, when="always")).eval()
    x, graph = features(), full(NUM_NODES)
    torch.manual_seed(0)
    with torch.no_grad():
        outs = torch.stack([layer(x, graph) for _ in range(512)])
    spread = [outs.unflatten(0, (-1, size)).mean(1).var(0).mean() for size in (1, 16)]
    assert 10 < float(spread[0] / spread[1]) < 26  # 16, from 32 means of 16 draws
    layer.select.spec = SubsampleSources(keep_p=1.0, when="always")
    whole = layer(x, graph)
    assert_close(torch.stack([layer(x, graph) for _ in range(5)]).mean(0), whole, **EXACT)


# --- what it refuses -----------------------------------------------------------------------------------------------

MISTAKES: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "neither": ({}, ValueError, "exactly one of num_sources and keep_p must be given, got num_sources=None and keep_p"),
    "both": ({"num_sources": 3, "keep_p": 0.5}, ValueError, "Pass num_sources for a count, keep_p for a share"),
    "no source": ({"num_sources": 0}, ValueError, "num_sources must be at least 1, got 0. Use 1 for a single source"),
    "half a source": ({"num_sources": 0.5}, TypeError, "num_sources must be an int, got float 0.5"),
    "share of zero": ({"keep_p": 0.0}, ValueError, r"keep_p must lie in \(0, 1\], got 0.0. It is the share"),
    "share above one": ({"keep_p": 1.5}, ValueError, r"keep_p must lie in \(0, 1\], got 1.5"),
    "share of nan": ({"keep_p": math.nan}, ValueError, r"keep_p must lie in \(0, 1\], got nan"),
    "share as text": ({"keep_p": "0.5"}, TypeError, "keep_p must be a float, got str '0.5'"),
    "keep_self": ({"keep_p": 0.5, "keep_self": 1}, TypeError, "keep_self must be True, False or None, got 1. None"),
    "when": ({"keep_p": 0.5, "when": "eval"}, ValueError, "when must be one of 'training', 'always', 'never', got 'ev"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_answered_with_what_to_do(name: str) -> None:
    options, error, advice = MISTAKES[name]
    with pytest.raises(error, match=advice):
        SubsampleSources(**options)


def test_a_draw_says_what_it_needs() -> None:
    spec = SubsampleSources(keep_p=0.5, keep_self=True)
    with pytest.raises(
        TypeError, match=r"generator must be a torch.Generator, got int. Pass generator=torch.Generator"
    ):
        spec.draw(full(3), generator=0)  # type: ignore[arg-type]
    with pytest.raises(
        ValueError, match=r"keep_self=True needs .* the same nodes, got 5 sources and 3 targets of 1 graphs. Leave"
    ):
        spec.draw(full(5, dst_sizes=3), generator=generator_for(0))


def test_it_is_a_value() -> None:
    spec = SubsampleSources(keep_p=0.5)
    assert spec == pickle.loads(pickle.dumps(spec)) and hash(spec) == hash(SubsampleSources(keep_p=0.5))
    with pytest.raises(AttributeError):
        spec.keep_p = 0.25  # type: ignore[misc]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_graph_on_a_gpu_gets_the_same_sources() -> None:
    spec, graph = SubsampleSources(num_sources=3), full(torch.tensor(SIZES)).keep(is_causal)
    here, there = (spec.draw(graph.to(device), generator=generator_for(0)) for device in ("cpu", "cuda"))
    assert there.device.type == "cuda" and here == there
