"""Top-k edges: against a sort of dense scores target by target, in any tiling, with ties, gradients and bad numbers."""

import itertools
import math
import sys
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from graphattn.connectivity import full, sliding_window
from graphattn.graph import AttentionGraph, disjoint_union
from graphattn.graph.rules import is_causal
from graphattn.ops import graph_attention, topk_edges, topk_edges_by_product
from tests.ops.graphs import GRAPHS
from tests.strategies import dense, graphs, kinds_at, square_graphs

MODULE = sys.modules["graphattn.ops.topk_edges"]
DIM = 3


@pytest.fixture(params=["one tile", "small tiles"])
def tiling(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "small tiles":
        for name, number in {"TILE": 6, "COLUMNS": 3, "LEAST_ROWS": 1, "EDGES_AT_ONCE": 2, "LEAST_GROUP": 2}.items():
            monkeypatch.setattr(MODULE, name, number)


def features(graph: AttentionGraph, seed: int = 0, levels: int | None = None) -> tuple[Tensor, Tensor]:
    """Random query and key; of few whole numbers, so that many scores are equal, where `levels` says so."""
    generator = torch.Generator().manual_seed(seed)
    sizes = (graph.num_dst_nodes, DIM), (graph.num_src_nodes, DIM)
    if levels is not None:
        query, key = (torch.randint(levels, size, generator=generator).double() for size in sizes)
    else:
        query, key = (torch.randn(size, generator=generator, dtype=torch.float64) for size in sizes)
    return query, key


def best_pairs(graph: AttentionGraph, scores: Tensor, k: int, keep_self: bool = False) -> list[tuple[int, int]]:
    """(target, source) of the k best of each target, by a Python sort of the dense scores."""
    mask = dense(graph)
    mask = mask.any(0) if mask.dim() == 3 else mask
    pairs = []
    for i, row in enumerate(mask.tolist()):
        sources = [j for j, is_read in enumerate(row) if is_read]
        sources.sort(key=lambda j: (not (keep_self and i == j), -scores[i, j].item(), j))
        pairs += [(i, j) for j in sorted(sources[:k])]
    return pairs


def pairs_of(graph: AttentionGraph) -> list[tuple[int, int]]:
    return [(i, j) for j, i in graph.edge_index.T.tolist()]


def check(
    graph: AttentionGraph, k: int, query: Tensor, key: Tensor, keep_self: bool = False, scale: float = 1.0
) -> None:
    """Both functions against the sort; kinds, heads and batch of what is kept are those of the graph."""
    scores = scale * query @ key.T
    src, dst = graph.edge_index
    expected = best_pairs(graph, scores, k, keep_self)
    found = {
        "product": topk_edges_by_product(query, key, graph, k, keep_self=keep_self, scale=scale),
        "given": topk_edges(scores[dst, src], graph, k, keep_self=keep_self),
    }
    names = kinds_at(graph)
    for name, (kept, values) in found.items():
        assert pairs_of(kept) == expected, name
        src, dst = kept.edge_index
        assert_close(values, scores[dst, src])
        assert kinds_at(kept) == {pair: names[pair] for pair in expected}
        if graph.head_mask is not None:
            assert kept.head_mask is not None
            assert torch.equal(kept.head_mask, kept.align(graph.head_mask.double(), of=graph).bool())
        assert torch.equal(kept.src_ptr, graph.src_ptr) and torch.equal(kept.dst_ptr, graph.dst_ptr)


# --- which edges ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 2, 5, 11, 10**30])
@pytest.mark.parametrize("name", GRAPHS)
def test_it_keeps_the_best_of_a_sort(name: str, k: int, tiling: None) -> None:
    check(GRAPHS[name], k, *features(GRAPHS[name]), scale=0.5)


@given(graphs(), st.integers(1, 4), st.sampled_from([None, 2, 3]), st.integers(0, 9))
def test_it_keeps_the_best_of_any_graph_and_of_equals_the_lowest_source(
    graph: AttentionGraph, k: int, levels: int | None, seed: int
) -> None:
    check(graph, k, *features(graph, seed, levels))
    with pytest.MonkeyPatch.context() as patch:
        for name, number in {"TILE": 4, "COLUMNS": 3, "LEAST_ROWS": 1, "EDGES_AT_ONCE": 3, "LEAST_GROUP": 2}.items():
            patch.setattr(MODULE, name, number)
        check(graph, k, *features(graph, seed, levels))


@given(square_graphs(), st.integers(1, 4), st.sampled_from([None, 2]))
def test_the_self_edge_can_be_one_of_the_k(graph: AttentionGraph, k: int, levels: int | None) -> None:
    if torch.equal(graph.src_ptr, graph.dst_ptr):
        check(graph, k, *features(graph, 0, levels), keep_self=True)


@pytest.mark.parametrize("k", [1, 7, 16, 200])
@pytest.mark.parametrize("is_causal_graph", [False, True])
@pytest.mark.parametrize("levels", [None, 3])
def test_groups_of_sources_lose_nothing(
    k: int, is_causal_graph: bool, levels: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MODULE, "COLUMNS", 128)
    graph = full(torch.tensor([509, 3, 0, 241]))
    graph = graph.keep(is_causal) if is_causal_graph else graph
    query, key = features(graph, 1, levels)
    kept, _ = topk_edges_by_product(query, key, graph, k)
    mask = graph.to_mask()
    order = (query @ key.T).masked_fill(~mask, -math.inf).sort(dim=1, descending=True, stable=True).indices
    expected = torch.zeros_like(mask).scatter_(1, order[:, :k], True) & mask
    assert torch.equal(kept.to_mask(), expected)


@pytest.mark.parametrize("levels", [None, 2])
def test_renumbered_nodes_keep_the_same_edges(levels: int | None) -> None:
    graph = full(torch.tensor([13, 10])).keep(is_causal)
    generator = torch.Generator().manual_seed(0)
    order = torch.cat([torch.randperm(13, generator=generator), 13 + torch.randperm(10, generator=generator)])
    moved = graph.permute(order)  # whose blocks do not list their sources in ascending order
    assert moved.blocks is not None and not moved.blocks.sources_ascend()
    query, key = features(graph, 0, levels)
    check(moved, 4, query[order], key[order])
    if levels is None:
        kept, scores = topk_edges_by_product(query, key, graph, 4)
        again, of_moved = topk_edges_by_product(query[order], key[order], moved, 4)
        assert again == kept.permute(order)
        src, dst = again.edge_index
        assert_close(of_moved, scores[kept.find(order[src], order[dst])])


def test_edges_of_blocks_keep_the_kinds_of_their_block() -> None:
    one, other = (full(size).marked(kind) for size, kind in ((5, "page"), (6, "line")))
    graph = disjoint_union([one, other])
    assert graph.blocks is not None and graph.blocks.kind.unique().numel() == 2
    check(graph, 2, *features(graph))


def test_every_target_keeps_exactly_k_or_all(tiling: None) -> None:
    graph = full(torch.tensor([7, 2, 0, 5])).keep(is_causal)
    kept, _ = topk_edges_by_product(*features(graph), graph, 3)
    degree = torch.bincount(kept.edge_index[1], minlength=14)
    assert torch.equal(degree, torch.bincount(graph.edge_index[1], minlength=14).clamp(max=3))
    assert not kept.looks_ahead()


def test_no_smaller_k_keeps_what_a_larger_one_does_not() -> None:
    graph = sliding_window(31, 5) | full(31).keep(is_causal)
    query, key = features(graph)
    kept = [topk_edges_by_product(query, key, graph, k)[0] for k in range(1, 9)]
    assert all((less - more).num_edges == 0 for less, more in itertools.pairwise(kept))


def test_a_candidate_for_every_edge_is_the_graph_itself() -> None:
    for graph in GRAPHS.values():
        kept, scores = topk_edges_by_product(*features(graph), graph, max(graph.num_src_nodes, 1))
        assert kept == graph and scores.shape == (graph.num_edges,)


def test_float32_and_half_precision_choose_by_their_own_scores() -> None:
    graph = full(torch.tensor([67, 30]))
    query, key = features(graph, 2, levels=5)  # whole numbers: exact in each of them
    expected = topk_edges_by_product(query, key, graph, 6)[0]
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        kept, scores = topk_edges_by_product(query.to(dtype), key.to(dtype), graph, 6)
        assert kept == expected and scores.dtype == dtype
    with torch.autocast("cpu", torch.bfloat16):
        near = 1000 + torch.arange(97.0)[:, None]  # which bfloat16 does not tell apart
        kept, _ = topk_edges_by_product(torch.ones(97, 1), near, graph, 3)
    assert kept.edge_index[0, :3].tolist() == [64, 65, 66]


def test_strided_features_give_the_same() -> None:
    graph = GRAPHS["blocks and edges"]
    query, key = features(graph)
    kept, scores = topk_edges_by_product(query, key, graph, 2)
    wide = torch.stack([query, key], 2)
    again, same = topk_edges_by_product(wide[..., 0], wide[..., 1], graph, 2)
    assert again == kept and torch.equal(same, scores)


# --- bad numbers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["full", "causal", "window", "blocks and edges", "two blocks of a target", "moved"])
def test_a_score_that_is_no_number_is_kept_and_others_stay_right(name: str, bad: float, tiling: None) -> None:
    graph = full(11).keep(is_causal).permute(torch.arange(10, -1, -1)) if name == "moved" else GRAPHS[name]
    query, key = features(graph)
    query, key = query.abs() + 0.1, key.abs()
    source = 2 if name == "two blocks of a target" else 4
    key[source, 0] = bad
    kept, scores = topk_edges_by_product(query, key, graph, 2)
    ranked = (query @ key.T).nan_to_num(nan=math.inf, posinf=math.inf, neginf=-math.inf)
    assert pairs_of(kept) == best_pairs(graph, ranked, 2)
    seen = kept.edge_index[0] == source
    assert torch.equal(scores.isfinite(), ~seen)
    assert bool(seen.any()) or bad == -math.inf


def test_targets_whose_scores_are_all_no_numbers_keep_k_edges(tiling: None) -> None:
    causal = full(11).keep(is_causal)
    for graph in (full(11), causal, causal.permute(torch.arange(10, -1, -1)), GRAPHS["blocks and edges"]):
        for bad in (math.nan, -math.inf):
            query, key = features(graph)
            query[7], key = bad, key.abs() + 0.1
            kept, _ = topk_edges_by_product(query, key, graph, 3)
            ranked = (query @ key.T).nan_to_num(nan=math.inf, neginf=-math.inf)
            assert pairs_of(kept) == best_pairs(graph, ranked, 3)


def test_the_self_edge_stays_whatever_the_others_score() -> None:
    for graph in (full(5), sliding_window(5, 2)):
        query, key = torch.ones(5, 1), torch.tensor([[math.nan], [math.inf], [1.0], [2.0], [-1.0]])
        kept, _ = topk_edges_by_product(query, key, graph, 1, keep_self=True)
        assert pairs_of(kept) == [(i, i) for i in range(5)]


# --- gradients -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["full", "causal", "hub", "ragged batch", "lonely nodes", "blocks and edges", "cross"])
def test_scores_and_gradients_are_those_of_dense_scores_under_the_same_mask(name: str) -> None:
    graph = GRAPHS[name]
    query, key = (x.requires_grad_() for x in features(graph))
    generator = torch.Generator().manual_seed(1)
    value = torch.randn(graph.num_src_nodes, 2, generator=generator, dtype=torch.float64)
    kept, scores = topk_edges_by_product(query, key, graph, 2, scale=0.7)
    zeros = (torch.zeros(size, 1, 1, dtype=torch.float64) for size in (graph.num_dst_nodes, graph.num_src_nodes))
    out = graph_attention(*zeros, value[:, None], kept, edge_bias=scores)[:, 0]
    mask = dense(kept)
    lonely = ~mask.any(1, keepdim=True)
    logits = (0.7 * query @ key.T).masked_fill(~mask & ~lonely, -math.inf)
    expected = (logits.softmax(1) * mask) @ value
    assert_close(out, expected)
    weight = torch.randn(out.shape, generator=generator, dtype=torch.float64)
    mine, theirs = (torch.autograd.grad((y * weight).sum(), [query, key]) for y in (out, expected))
    assert_close(mine, theirs)
    assert all(bool(grad.abs().max() > 0) for grad in mine)


def test_gradcheck_of_the_kept_scores() -> None:
    graph = GRAPHS["blocks and edges"]
    query, key = (x.requires_grad_() for x in features(graph))
    assert torch.autograd.gradcheck(lambda *x: topk_edges_by_product(*x, graph, 2)[1], (query, key))
    given_scores = torch.randn(graph.num_edges, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: topk_edges(x, graph, 2)[1], given_scores)


def test_the_search_leaves_no_trace_for_the_gradient() -> None:
    graph = full(40)
    query, key = (x.requires_grad_() for x in features(graph))
    _, scores = topk_edges_by_product(query, key, graph, 3)
    (grad,) = torch.autograd.grad(scores.sum(), key)
    kept, _ = topk_edges_by_product(query, key, graph, 3)
    src, dst = kept.edge_index
    assert_close(grad, torch.zeros_like(key).index_add(0, src, query.detach()[dst]))


# --- memory --------------------------------------------------------------------------------------------------------


class LargestTensor(TorchDispatchMode):
    """Remembers the size of the largest tensor that any operator makes."""

    def __init__(self) -> None:
        super().__init__()
        self.num_elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, Tensor):
                self.num_elements = max(self.num_elements, tensor.numel())
        return out


@pytest.mark.parametrize("is_causal_graph", [False, True])
@pytest.mark.parametrize("sizes", [[2048], [700] * 3, [9] * 300])
def test_nothing_is_larger_than_a_tile_and_what_is_kept(
    sizes: list[int], is_causal_graph: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    tile = 2**15
    monkeypatch.setattr(MODULE, "TILE", tile)
    graph = full(torch.tensor(sizes))
    graph = graph.keep(is_causal) if is_causal_graph else graph
    query, key = (x.requires_grad_() for x in features(graph))
    with LargestTensor() as largest:
        kept, scores = topk_edges_by_product(query, key, graph, 4)
        scores.sum().backward()
    assert "listed" not in graph._cache
    assert tile / 2 < largest.num_elements <= max(1.1 * tile, 3 * kept.num_edges)


def test_listed_edges_are_scored_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MODULE, "EDGES_AT_ONCE", 64)
    graph = sliding_window(500, 10)
    query, key = torch.randn(2, 500, 64, generator=torch.Generator().manual_seed(0))
    plan = graph.plan()
    with LargestTensor() as largest:
        MODULE._scores_of_edges(query, key, plan.src, plan.dst)
    assert largest.num_elements == graph.num_edges  # 64 · 64 are less


# --- what it refuses -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k, error, advice", [
    (0, ValueError, "k must be at least 1, got 0. A target with at most k edges keeps all of them"),
    (-2, ValueError, "k must be at least 1, got -2"),
    (2.0, TypeError, "k must be an int, got float 2.0. It is the number of edges of each target"),
    (True, TypeError, "k must be an int, got bool True"),
])  # fmt: skip
def test_a_wrong_k_is_refused(k: Any, error: type[Exception], advice: str) -> None:
    with pytest.raises(error, match=advice):
        topk_edges_by_product(*features(full(3)), full(3), k)
    with pytest.raises(error, match=advice):
        topk_edges(torch.zeros(9), full(3), k)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_given_scores_that_are_not_finite_are_refused_by_name(bad: float) -> None:
    scores = torch.zeros(9)
    scores[5] = bad
    with pytest.raises(ValueError, match=f"scores must be finite, got {bad} for edge 5, 2 → 1. Leave edges out"):
        topk_edges(scores, full(3), 2)


def test_what_does_not_fit_is_answered_with_what_to_do() -> None:
    graph = full(4, dst_sizes=3)
    query, key = features(graph)
    with pytest.raises(ValueError, match=r"query must be floating \[num_dst_nodes, dim\] with num_dst_nodes = 3, got"):
        topk_edges_by_product(key, key, graph, 1)
    with pytest.raises(ValueError, match=r"key must be floating .* num_src_nodes = 4, got torch.int64 \[4, 3\]"):
        topk_edges_by_product(query, key.long(), graph, 1)
    with pytest.raises(ValueError, match=r"key must have query's dim 3, got 2. Project both to the same width"):
        topk_edges_by_product(query, key[:, :2], graph, 1)
    with pytest.raises(TypeError, match=r"query must be a torch.Tensor, got list"):
        topk_edges_by_product(query.tolist(), key, graph, 1)  # type: ignore[arg-type]
    with pytest.raises(
        ValueError, match=r"keep_self=True needs .* same nodes, got 4 sources and 3 targets of 1 graphs"
    ):
        topk_edges_by_product(query, key, graph, 1, keep_self=True)
    with pytest.raises(ValueError, match=r"keep_self=True needs"):
        topk_edges(torch.zeros(12), graph, 1, keep_self=True)
    with pytest.raises(
        ValueError, match=r"scores must be floating \[num_edges\] = \[12\], got torch.float32 \[12, 2\]"
    ):
        topk_edges(torch.zeros(12, 2), graph, 1)
    with pytest.raises(ValueError, match=r"scores must be floating .* got torch.int64 \[12\]"):
        topk_edges(torch.zeros(12, dtype=torch.int64), graph, 1)


@pytest.mark.parametrize("num_nodes", [0, 1])
def test_no_node_and_one_node(num_nodes: int) -> None:
    for graph in (full(num_nodes), sliding_window(num_nodes, 1)):
        kept, scores = topk_edges_by_product(*features(graph), graph, 2)
        assert kept == graph and scores.shape == (num_nodes,)
        kept, scores = topk_edges(torch.zeros(num_nodes), graph, 2, keep_self=True)
        assert kept == graph and scores.shape == (num_nodes,)


def test_the_origin_says_what_was_kept() -> None:
    kept, _ = topk_edges_by_product(*features(full(6)), full(6), 2)
    assert "(topk_edges(full(6), k=2): 6 targets × 6 sources, 12 edges)" in repr(kept)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_keeps_the_same() -> None:
    for graph in (full(torch.tensor([301, 5, 77])), full(97).keep(is_causal), GRAPHS["blocks and edges"]):
        query, key = features(graph, levels=3)
        here, scores = topk_edges_by_product(query, key, graph, 5)
        there, same = topk_edges_by_product(query.cuda(), key.cuda(), graph.to("cuda"), 5)
        assert there.device.type == "cuda" and here == there
        assert_close(same.cpu(), scores)
