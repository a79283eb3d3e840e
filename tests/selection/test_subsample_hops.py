"""Subsampling by hop distance: the plain window without noise, the stated probabilities with it, exact counts."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2
from torch.testing import assert_close

from graphattn.connectivity import full, hop_distance, hops
from graphattn.graph import AttentionGraph, disjoint_union
from graphattn.graph.rules import is_causal
from graphattn.nn import GraphAttention
from graphattn.selection import SubsampleHops, generator_for
from tests.ops.graphs import edges, with_heads
from tests.strategies import dense, kinds_at


def bonds_of(pairs: str, num_nodes: int) -> AttentionGraph:
    one_way = edges(pairs, num_nodes, num_nodes)
    return (one_way | one_way.T).marked("bond")


RING = bonds_of("0: 1; 1: 2; 2: 3; 3: 4; 4: 5; 5: 0; 6: 5", 7)
PIECES = bonds_of("0: 1; 2: 3; 3: 4", 6)  # three components
MOLECULES = disjoint_union([RING | full(7), edges("", 0, 0).marked("bond"), PIECES | full(6), PIECES])


@pytest.mark.parametrize("num_hops", [0, 1, 2, 3, 20])
def test_without_noise_targets_read_the_plain_window(num_hops: int) -> None:
    spec = SubsampleHops(num_hops, sigma=0, max_hops=30, keep_self=False)
    drawn = spec.draw(MOLECULES, generator=generator_for(0))
    steps = AttentionGraph(MOLECULES.edge_index[:, MOLECULES.edge_kind & 1 == 1], MOLECULES.num_src_nodes)
    assert MOLECULES.kinds[0] == "bond"
    assert drawn == MOLECULES & hops(steps, num_hops)


@given(st.integers(0, 3), st.sampled_from([0.5, 2.0, math.inf]), st.sampled_from([None, True, False]), st.booleans())
def test_targets_keep_as_many_edges_as_their_window_has(
    num_hops: int, sigma: float, keep_self: bool | None, causal: bool
) -> None:
    graph = MOLECULES.keep(is_causal) if causal else MOLECULES
    drawn = SubsampleHops(num_hops, sigma, keep_self=keep_self).draw(graph, generator=generator_for(0))
    names, before = kinds_at(drawn), kinds_at(graph)
    plain = SubsampleHops(num_hops, 0, keep_self=False).draw(graph, generator=generator_for(0))
    sampled = [cell for cell, kinds in names.items() if "sampled" in kinds]
    count = torch.bincount(torch.tensor([i for i, _ in sampled], dtype=torch.int64), minlength=graph.num_dst_nodes)
    assert count.tolist() == torch.bincount(plain.edge_index[1], minlength=graph.num_dst_nodes).tolist()
    assert all(kinds - {"sampled"} == before[cell] for cell, kinds in names.items())
    others = set(names) - set(sampled)
    if causal if keep_self is None else keep_self:
        assert all(i == j for i, j in others)
        assert all((i, i) in names for i, j in before if i == j)
    else:
        assert not others
    assert torch.equal(drawn.src_ptr, graph.src_ptr)


@pytest.mark.parametrize("sigma", [0.8, 3.0, math.inf])
def test_sources_are_drawn_with_the_stated_probabilities(sigma: float) -> None:
    num_draws = 3000
    graph = RING | full(7)
    distance = hop_distance(RING, of=graph, max_hops=9)[graph.edge_index[1] == 6].double()  # of what target 6 reads
    weight = torch.ones(7).double() if math.isinf(sigma) else torch.exp(-(distance**2) / (2 * sigma**2))
    expected = torch.zeros(7, 7).double()  # of unordered pairs, for target 6 has two nodes within a hop
    for first in range(7):
        for second in range(7):
            if second != first:
                rest = weight.sum() - weight[first]
                low, high = sorted((first, second))
                expected[low, high] += weight[first] / weight.sum() * weight[second] / rest
    batch = disjoint_union([graph] * num_draws)
    drawn = SubsampleHops(1, sigma, keep_self=False).draw(batch, generator=generator_for(0))
    src, dst = drawn.edge_index
    pairs = (src[dst % 7 == 6] % 7).view(num_draws, 2)
    count = torch.zeros(49).index_add_(0, pairs[:, 0] * 7 + pairs[:, 1], torch.ones(num_draws)).double()
    expected = expected.flatten() * num_draws
    likely = expected > 5
    observed = torch.cat([count[likely], count[~likely].sum()[None]])
    expected = torch.cat([expected[likely], expected[~likely].sum().clamp(min=1e-9)[None]])
    assert float(((observed - expected) ** 2 / expected).sum()) < chi2.ppf(1 - 1e-4, int(likely.sum()))


def test_targets_draw_apart_and_draws_repeat() -> None:
    spec, graph = SubsampleHops(1, sigma=2.0), disjoint_union([RING | full(7)] * 2)
    first, again, other = (dense(spec.draw(graph, generator=generator_for(seed))) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert not torch.equal(first[:7, :7], first[7:, 7:])


def test_heads_that_see_different_edges_share_the_draw() -> None:
    graph = with_heads((RING | full(7)).enumerate()).marked("bond")
    spec = SubsampleHops(0, sigma=0.0)
    assert_close(dense(spec.draw(graph, generator=generator_for(0))), dense(graph) & torch.eye(7, dtype=torch.bool))


@pytest.mark.parametrize("num_nodes", [0, 1])
def test_no_node_and_one_node(num_nodes: int) -> None:
    graph = full(num_nodes).marked("bond")
    assert SubsampleHops(1, sigma=1.0).draw(graph, generator=generator_for(0)) == graph


def test_a_layer_attends_over_the_drawn_edges() -> None:
    torch.manual_seed(0)
    layer = GraphAttention(15, 3, select=SubsampleHops(1, sigma=1.0)).double()
    x = torch.randn(7, 15, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    graph = RING | full(7)
    torch.manual_seed(3)
    out = layer(x, graph)
    torch.manual_seed(3)
    drawn = layer.select(x, graph)[0]  # type: ignore[misc]
    assert drawn.num_edges == hops(RING, 1).num_edges
    assert_close(out, layer.eval()(x, drawn))


MISTAKES: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "negative hops": ({"num_hops": -1}, ValueError, "num_hops must be at least 0, got -1. Use 0"),
    "half a hop": ({"num_hops": 0.5}, TypeError, "num_hops must be an int, got float 0.5"),
    "negative sigma": ({"sigma": -0.5}, ValueError, "sigma must be at least 0, got -0.5"),
    "sigma of True": ({"sigma": True}, TypeError, "sigma must be a float, got bool True"),
    "max_hops": ({"num_hops": 3, "max_hops": 2}, ValueError, "max_hops must be at least 3, got 2. Tell apart"),
    "keep_self": ({"keep_self": 0}, TypeError, "keep_self must be True, False or None, got 0"),
    "when": ({"when": "eval"}, ValueError, "when must be one of 'training', 'always', 'never', got 'eval'"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_answered_with_what_to_do(name: str) -> None:
    options, error, advice = MISTAKES[name]
    with pytest.raises(error, match=advice):
        SubsampleHops(**{"num_hops": 1, "sigma": 1.0, **options})


def test_a_draw_says_what_it_needs() -> None:
    spec = SubsampleHops(1, 1.0)
    with pytest.raises(ValueError, match=r"steps must name a kind of the graph's edges, full, got 'bond'. Unite the"):
        spec.draw(full(6), generator=generator_for(0))
    with pytest.raises(ValueError, match="must be square to walk on"):
        spec.draw(full(6, dst_sizes=3).marked("bond"), generator=generator_for(0))
    with pytest.raises(TypeError, match=r"generator must be a torch.Generator, got NoneType"):
        spec.draw(RING, generator=None)  # type: ignore[arg-type]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_graph_on_a_gpu_gets_the_same_edges() -> None:
    here, there = (
        SubsampleHops(1, 1.0).draw(MOLECULES.to(device), generator=generator_for(0)) for device in ("cpu", "cuda")
    )
    assert there.device.type == "cuda" and here == there
