"""Scores against torch's attention with the projections that they stand for, by every implementation."""

import copy
import dataclasses
import re
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.testing import assert_close

from graphattn.connectivity import full, sliding_window
from graphattn.graph import AttentionGraph, disjoint_union
from graphattn.nn import DotProduct, GraphAttention, Pairwise, Symmetric
from graphattn.ops import attention_weights, edge_logits
from graphattn.ops._dispatch import Sizes, reason_against
from graphattn.selection import SubsampleSources
from tests.ops.graphs import GRAPHS, ON_CPU

NUM_NODES, EMBED_DIM, NUM_HEADS, HEAD_DIM = 11, 15, 3, 5
EXACT = {"atol": 1e-12, "rtol": 1e-10}
SIZES = Sizes(NUM_HEADS, HEAD_DIM, HEAD_DIM, torch.float64, torch.device("cpu"))
SHARED = [Symmetric(), Pairwise(), Pairwise(init="identity"), Pairwise(init="scaled")]


def layer_of(score: Any, **options: Any) -> Any:
    torch.manual_seed(0)
    layer = GraphAttention(EMBED_DIM, NUM_HEADS, score=score, **options).double()
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if name.endswith("bias"):
                parameter.normal_()  # near zero where torch starts, which would hide a mistake
    return layer


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


def dot_product_of(layer: Any) -> tuple[Tensor, Tensor]:
    """W_K = B W_Q and b_K = B b_Q, head by head, differentiable."""
    projection = layer.score.query_proj
    weight = projection.weight.view(NUM_HEADS, HEAD_DIM, EMBED_DIM)
    bias = torch.zeros(EMBED_DIM).double() if projection.bias is None else projection.bias
    bias = bias.view(NUM_HEADS, HEAD_DIM)
    pair = getattr(layer.score, "pair_weight", torch.eye(HEAD_DIM).double().expand(NUM_HEADS, -1, -1))
    of_key = [pair[head] @ weight[head] for head in range(NUM_HEADS)]
    return torch.cat(of_key), torch.cat([pair[head] @ bias[head] for head in range(NUM_HEADS)])


def by_torch(layer: Any, x: Tensor, graph: AttentionGraph) -> Tensor:
    """The layer with keys of a projection of their own, through scaled_dot_product_attention."""
    key_weight, key_bias = dot_product_of(layer)
    query, key, value = layer.score.query_proj(x), x @ key_weight.T + key_bias, layer.value_proj(x)
    query, key, value = (rows.view(-1, NUM_HEADS, HEAD_DIM).transpose(0, 1) for rows in (query, key, value))
    out = scaled_dot_product_attention(query, key, value, attn_mask=graph.to_mask())
    return layer.out_proj(out.nan_to_num(0.0).transpose(0, 1).flatten(1))


# --- what they compute ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("num_key_heads", [3, 1])
def test_query_and_key_are_projections_split_into_heads(num_key_heads: int, bias: bool) -> None:
    torch.manual_seed(0)
    score = DotProduct().build(15, 3, head_dim=7, num_key_heads=num_key_heads, source_dim=7, bias=bias)
    x, source = torch.randn(11, 15), torch.randn(13, 7)
    query, key = score(x, source)
    assert query.shape == (11, 3, 7) and key.shape == (13, num_key_heads, 7)
    weights = dict(score.named_parameters())
    zero = torch.zeros(())
    wide_query = x @ weights["query_proj.weight"].T + weights.get("query_proj.bias", zero)
    wide_key = source @ weights["key_proj.weight"].T + weights.get("key_proj.bias", zero)
    for head in range(3):
        assert_close(query[:, head], wide_query[:, 7 * head : 7 * (head + 1)])
    for head in range(num_key_heads):
        assert_close(key[:, head], wide_key[:, 7 * head : 7 * (head + 1)])
    assert ("query_proj.bias" in weights) == ("key_proj.bias" in weights) == bias


@pytest.mark.parametrize("impl", ["auto", *ON_CPU])
@pytest.mark.parametrize("name", ["full", "window", "ragged batch", "hub", "blocks and edges", "lonely nodes"])
@pytest.mark.parametrize("score", SHARED, ids=repr)
def test_it_is_the_dot_product_whose_keys_are_made_of_queries(score: Any, name: str, impl: str) -> None:
    graph, layer = GRAPHS[name], layer_of(score, impl=impl)
    x = drawn(NUM_NODES, EMBED_DIM).requires_grad_()
    if impl != "auto" and (reason := reason_against(impl, graph, SIZES, reads_edges=False)) is not None:
        with pytest.raises(ValueError, match=re.escape(reason)):
            layer(x, graph)
        return
    ours, theirs = layer(x, graph), by_torch(layer, x, graph)
    assert_close(ours, theirs, **EXACT)
    leaves = [x, *layer.parameters()]
    got, want = (torch.autograd.grad(out.square().sum(), leaves) for out in (ours, theirs))
    assert_close(got, want, atol=1e-10, rtol=1e-9)
    assert all(gradient.abs().max() > 0 for gradient in got)


@pytest.mark.parametrize("score", SHARED, ids=repr)
def test_without_a_bias_it_is_the_same(score: Any) -> None:
    layer, x = layer_of(score, bias=False), drawn(NUM_NODES, EMBED_DIM)
    assert not [name for name, _ in layer.named_parameters() if name.endswith("bias")]
    assert_close(layer(x, GRAPHS["window"]), by_torch(layer, x, GRAPHS["window"]), **EXACT)


def test_every_query_is_its_key_and_the_same_tensor() -> None:
    x = drawn(NUM_NODES, EMBED_DIM)
    query, key = layer_of(Symmetric()).score(x, x)
    assert key is query


def test_symmetric_logits_are_symmetric_and_weights_are_not() -> None:
    graph, x = full(NUM_NODES).enumerate(), drawn(NUM_NODES, EMBED_DIM)
    query, key = layer_of(Symmetric()).score(x, x)
    logits = edge_logits(query, key, graph).view(NUM_NODES, NUM_NODES, NUM_HEADS)
    assert_close(logits, logits.transpose(0, 1), **EXACT)
    assert_close(logits.diagonal().T, query.square().sum(-1) / HEAD_DIM**0.5, **EXACT)
    alpha = attention_weights(query, key, graph).view(NUM_NODES, NUM_NODES, NUM_HEADS)
    assert (alpha - alpha.transpose(0, 1)).abs().max() > 0.1


@pytest.mark.parametrize("name", ["window", "full", "ragged batch"])
def test_half_of_the_edges_tell_the_symmetric_logits_of_all(name: str) -> None:
    graph, x = GRAPHS[name].enumerate(), drawn(NUM_NODES, EMBED_DIM)
    query, key = layer_of(Symmetric()).score(x, x)
    half = graph.keep(lambda src, dst: src <= dst).enumerate()
    logits = edge_logits(query, key, half)
    src, dst = graph.edge_index
    place = half.find(torch.minimum(src, dst), torch.maximum(src, dst))
    assert half.num_edges < graph.num_edges and int(place.min()) >= 0
    assert_close(logits[place], edge_logits(query, key, graph), **EXACT)


def test_pairwise_logits_turn_with_its_matrix() -> None:
    graph, x, layer = full(NUM_NODES).enumerate(), drawn(NUM_NODES, EMBED_DIM), layer_of(Pairwise())
    turned = copy.deepcopy(layer)
    with torch.no_grad():
        turned.score.pair_weight.copy_(layer.score.pair_weight.transpose(1, 2))
    one, other = (
        edge_logits(*made.score(x, x), graph).view(NUM_NODES, NUM_NODES, NUM_HEADS) for made in (layer, turned)
    )
    assert_close(one, other.transpose(0, 1), **EXACT)
    assert (one - other).abs().max() > 0.1


def test_the_identity_starts_as_symmetric() -> None:
    x = drawn(NUM_NODES, EMBED_DIM)
    layer, symmetric = layer_of(Pairwise(init="identity")), layer_of(Symmetric())
    symmetric.load_state_dict(layer.state_dict(), strict=False)
    assert_close(layer(x, full(NUM_NODES)), symmetric(x, full(NUM_NODES)), **EXACT)
    layer(x, full(NUM_NODES)).square().sum().backward()
    assert layer.score.pair_weight.grad.abs().max() > 0


@pytest.mark.parametrize("init, std", [("paper", 1.0), ("scaled", 64**-0.5)])
def test_the_other_initialisations_have_their_spread(init: Any, std: float) -> None:
    torch.manual_seed(0)
    layer = GraphAttention(512, 8, score=Pairwise(init=init))
    assert_close(layer.score.pair_weight.std().item(), std, rtol=0.02, atol=0.0)
    assert abs(layer.score.pair_weight.mean().item()) < 0.02 * std


def test_the_papers_initialisation_has_larger_logits_by_the_root_of_the_width() -> None:
    torch.manual_seed(0)
    graph, x = full(64), torch.randn(64, 512)
    spread = {}
    for init in ("paper", "scaled"):
        layer = GraphAttention(512, 8, score=Pairwise(init=init))
        spread[init] = edge_logits(*layer.score(x, x), graph).std().item()
    assert_close(spread["paper"] / spread["scaled"], 8.0, rtol=0.1, atol=0.0)


def num_parameters(embed_dim: int, num_heads: int, score: Any) -> int:
    with torch.device("meta"):
        layer = GraphAttention(embed_dim, num_heads, score=score)
    return sum(parameter.numel() for parameter in layer.parameters())


@pytest.mark.parametrize("embed_dim, num_heads", [(768, 12), (512, 8), (15, 3)])
def test_parameters_are_as_many_as_the_formula_says(embed_dim: int, num_heads: int) -> None:
    whole = num_parameters(embed_dim, num_heads, DotProduct())
    keys = embed_dim * (embed_dim + 1)
    assert whole - num_parameters(embed_dim, num_heads, Symmetric()) == keys
    pairs = num_heads * (embed_dim // num_heads) ** 2
    assert whole - num_parameters(embed_dim, num_heads, Pairwise()) == keys - pairs
    if embed_dim == 768:  # twelve layers of BERT-base
        assert 12 * keys == 7_087_104 and 12 * (keys - pairs) == 6_497_280


# --- in the layer --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("score", SHARED, ids=repr)
@pytest.mark.parametrize("graph", [full(NUM_NODES), sliding_window(NUM_NODES, 3)], ids=["blocks", "edges"])
def test_sources_that_nobody_reads_make_no_difference(graph: AttentionGraph, score: Any) -> None:
    sampled = graph.keep_sources(torch.arange(NUM_NODES) % 3 == 0)
    layer, x = layer_of(score), drawn(NUM_NODES, EMBED_DIM).requires_grad_()
    seen: list[int] = []
    layer.score.register_forward_hook(lambda module, inputs, output: seen.append(output[1].shape[0]))
    ours, theirs = layer(x, sampled), by_torch(layer, x, sampled)
    assert seen == [4]
    assert_close(ours, theirs, **EXACT)
    leaves = [x, *layer.parameters()]
    got, want = (torch.autograd.grad(out.square().sum(), leaves) for out in (ours, theirs))
    assert_close(got, want, atol=1e-10, rtol=1e-9)


@pytest.mark.parametrize("score", SHARED, ids=repr)
def test_a_selection_in_the_layer_is_one_before_it(score: Any) -> None:
    graph, x = full(NUM_NODES), drawn(NUM_NODES, EMBED_DIM)
    layer = layer_of(score, select=SubsampleSources(num_sources=4))
    torch.manual_seed(3)
    out = layer(x, graph)
    torch.manual_seed(3)
    selected, _ = layer.select(x, graph)
    assert selected.num_edges == 4 * NUM_NODES
    assert_close(out, by_torch(layer, x, selected), **EXACT)


@pytest.mark.parametrize("score", SHARED, ids=repr)
def test_graphs_of_a_batch_do_not_see_each_other(score: Any) -> None:
    layer, x = layer_of(score), drawn(NUM_NODES, EMBED_DIM)
    batch = disjoint_union([full(4), sliding_window(7, 2)])
    parts = torch.cat([layer(x[:4], full(4)), layer(x[4:], sliding_window(7, 2))])
    assert_close(layer(x, batch), parts, **EXACT)


@pytest.mark.parametrize("score", [Symmetric(), Pairwise()], ids=repr)
def test_it_compiles_whole(score: Any) -> None:
    import torch._dynamo

    torch._dynamo.reset()
    layer = layer_of(score).float()
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    for graph in (sliding_window(67, 2), full(67).keep_sources(torch.arange(67) % 3 == 0)):
        graph.plan()
        x = drawn(67, EMBED_DIM).float()
        assert_close(compiled(x, graph), layer(x, graph))
    torch._dynamo.reset()


@pytest.mark.parametrize("score", [Symmetric(), Pairwise()], ids=repr)
def test_under_autocast_it_gives_what_projections_give(score: Any) -> None:
    layer, x = layer_of(score).float(), drawn(NUM_NODES, EMBED_DIM).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = layer(x, full(NUM_NODES))
    assert out.dtype == torch.bfloat16
    assert_close(out.float(), layer(x, full(NUM_NODES)), rtol=0.1, atol=0.1)


# --- as specs, and what is refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", [DotProduct(), *SHARED], ids=repr)
def test_the_spec_is_frozen_and_builds_a_module_of_its_own_each_time(spec: Any) -> None:
    assert spec == dataclasses.replace(spec) and hash(spec) == hash(dataclasses.replace(spec))
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.anything = 1
    first, second = (spec.build(15, 3, head_dim=5, num_key_heads=3, source_dim=15, bias=True) for _ in range(2))
    assert not {id(p) for p in first.parameters()} & {id(p) for p in second.parameters()}


def test_the_paper_is_the_default() -> None:
    assert Pairwise() == Pairwise(init="paper")


@pytest.mark.parametrize("score", [Symmetric(), Pairwise()], ids=repr)
def test_cross_attention_and_grouped_heads_are_refused_with_the_reason(score: Any) -> None:
    with pytest.raises(ValueError, match=r"needs source_dim = embed_dim = 15, got 7: it makes keys .*DotProduct\(\)"):
        layer_of(score, source_dim=7)
    with pytest.raises(ValueError, match=r"as many key heads as heads, 3, got 1: the key of a head is made from its"):
        layer_of(score, num_key_heads=1)
    layer, x = layer_of(score), drawn(NUM_NODES, EMBED_DIM)
    for graph in (GRAPHS["cross"], GRAPHS["cross"].keep_sources(torch.arange(13) % 4 == 0)):
        with pytest.raises(ValueError, match=r"source must be x: .* Use score=DotProduct\(\) for cross attention"):
            layer(x, graph, source=drawn(13, EMBED_DIM))
    with pytest.raises(ValueError, match=r"must have num_src_nodes = 13 rows, got 11"):
        layer(x, GRAPHS["cross"])
    assert torch.equal(layer(x, full(11), source=x), layer(x, full(11)))


def test_an_unknown_initialisation_is_refused_with_the_names() -> None:
    with pytest.raises(ValueError, match=r"init must be one of 'paper', 'identity', 'scaled', got 'zeros'"):
        Pairwise(init="zeros")  # type: ignore[arg-type]
