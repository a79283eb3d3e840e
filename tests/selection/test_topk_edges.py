"""Learned top-k edges: in a layer they equal dense attention with the scores as a bias, and the scorer learns."""

import math
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.testing import assert_close

from graphattn import viz
from graphattn.connectivity import full, sliding_window
from graphattn.graph import AttentionGraph
from graphattn.graph.rules import is_causal
from graphattn.nn import EdgeTerms, GraphAttention
from graphattn.ops import edge_logits, graph_attention
from graphattn.selection import TopKEdges
from tests.ops.graphs import GRAPHS, ON_CPU
from tests.strategies import dense

NUM_NODES, EMBED_DIM, NUM_HEADS = 11, 15, 3
EXACT = {"rtol": 1e-10, "atol": 1e-10}
SQUARE = (
    "full",
    "causal",
    "window",
    "hub",
    "ragged batch",
    "lonely nodes",
    "no edges",
    "blocks and edges",
    "head mask",
)


def layer_of(select: Any, **options: Any) -> Any:
    torch.manual_seed(0)
    return GraphAttention(EMBED_DIM, NUM_HEADS, select=select, **options).double()


def features(num_nodes: int = NUM_NODES) -> Tensor:
    return torch.randn(num_nodes, EMBED_DIM, generator=torch.Generator().manual_seed(num_nodes), dtype=torch.float64)


def dense_scores(layer: Any, x: Tensor) -> Tensor:
    """All scores, as the docstring has them, [num_nodes, num_nodes]."""
    select = layer.select
    return select.query_proj(x) @ select.key_proj(x).T / math.sqrt(select.spec.score_dim)


def best(scores: Tensor, mask: Tensor, k: int) -> Tensor:
    """Marks the k best of each row among those that the mask shows."""
    order = scores.masked_fill(~mask, -torch.inf).sort(dim=1, descending=True, stable=True).indices
    return torch.zeros_like(mask).scatter_(1, order[:, :k], True) & mask


def biased_dense(layer: Any, x: Tensor, mask: Tensor, bias: Tensor) -> Tensor:
    """Dense attention with a bias of every pair; a row without a pair gives zeros."""
    query, key = layer.score(x, x)
    value = layer.value_proj(x).unflatten(-1, (NUM_HEADS, -1))
    lonely = ~mask.any(-1, keepdim=True)
    attn_mask = bias.masked_fill(~mask & ~lonely, -torch.inf)
    out = scaled_dot_product_attention(*(part.transpose(0, 1) for part in (query, key, value)), attn_mask=attn_mask)
    out = out.transpose(0, 1).masked_fill(lonely.reshape(-1, lonely.shape[-2], 1).movedim(0, 1), 0.0)
    return layer.out_proj(out.flatten(1))


# --- in a layer ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 4, 11])
@pytest.mark.parametrize("name", SQUARE)
def test_a_layer_equals_dense_attention_over_the_kept_pairs_biased_by_their_scores(name: str, k: int) -> None:
    layer, graph, x = layer_of(TopKEdges(k, score_dim=5)), GRAPHS[name], features().requires_grad_()
    out = layer(x, graph)
    scores, candidates = dense_scores(layer, x), dense(graph)
    kept = best(scores, candidates.any(0) if candidates.dim() == 3 else candidates, k) & candidates
    expected = biased_dense(layer, x, kept, scores)
    assert_close(out, expected, **EXACT)
    leaves = [x, *layer.parameters()]
    mine, theirs = (torch.autograd.grad(y.square().sum(), leaves, allow_unused=True) for y in (out, expected))
    for own, other in zip(mine, theirs, strict=True):
        assert_close(
            torch.zeros(()) if own is None else own, torch.zeros_like(own) if other is None else other, **EXACT
        )


@pytest.mark.parametrize("name", ["full", "causal", "blocks and edges"])
def test_the_gradient_reaches_the_scorer(name: str) -> None:
    layer = layer_of(TopKEdges(3))
    layer(features(), GRAPHS[name]).square().sum().backward()
    for proj in (layer.select.query_proj, layer.select.key_proj):
        assert bool(proj.weight.grad.abs().max() > 1e-6)


def test_gradcheck_through_the_layer() -> None:
    torch.manual_seed(0)
    layer = GraphAttention(4, 2, select=TopKEdges(2, score_dim=2)).double()
    x = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    weights = [layer.select.query_proj.weight, layer.select.key_proj.weight]  # type: ignore[union-attr]
    assert torch.autograd.gradcheck(lambda x, *_: layer(x, full(5)), (x, *weights))


@pytest.mark.parametrize("impl", [impl for impl in ON_CPU if impl not in ("blocks", "sdpa")])
def test_every_implementation_gives_the_same(impl: str) -> None:
    graph = full(torch.tensor([5, 6]))  # 3 edges of every target, as "gather" needs it
    layer, expected = layer_of(TopKEdges(3), impl=impl), layer_of(TopKEdges(3), impl="dense")
    outs, grads = [], []
    for one in (layer, expected):
        x = features().requires_grad_()
        outs.append(one(x, graph))
        grads.append(torch.autograd.grad(outs[-1].square().sum(), [x, *one.parameters()]))
    assert_close(outs[0], outs[1], **EXACT)
    assert_close(grads[0], grads[1], **EXACT)


def test_with_all_candidates_kept_it_is_the_layer_with_a_bias() -> None:
    graph = sliding_window(NUM_NODES, 2)
    layer, x = layer_of(TopKEdges(5)), features()
    query, key = layer.score(x, x)
    value = layer.value_proj(x).unflatten(-1, (NUM_HEADS, -1))
    src, dst = graph.edge_index
    out = graph_attention(query, key, value, graph, edge_bias=dense_scores(layer, x)[dst, src])
    assert_close(layer(x, graph), layer.out_proj(out.flatten(1)), **EXACT)


def test_edge_features_stay_with_their_edges() -> None:
    graph = sliding_window(NUM_NODES, 3) | GRAPHS["hub"]
    layer = layer_of(TopKEdges(2), edge=EdgeTerms(2, bias=True, gate=True))
    edge_attr = torch.randn(graph.num_edges, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    out = layer(features(), graph, edge_attr=edge_attr)
    kept, bias = layer.select(features(), graph)
    of_edges = layer.edge(kept.align(edge_attr, of=graph))
    query, key = layer.score(features(), features())
    value = layer.value_proj(features()).unflatten(-1, (NUM_HEADS, -1))
    of_edges["edge_bias"] = of_edges["edge_bias"] + bias[:, None]
    terms = {name: term for name, term in of_edges.items() if term is not None}
    expected = layer.out_proj(graph_attention(query, key, value, kept, **terms).flatten(1))
    assert_close(out, expected, **EXACT)
    kinds = torch.arange(3).repeat(graph.num_edges)[: graph.num_edges]
    by_type = layer(features(), graph, edge_attr=edge_attr[:3], edge_type=kinds)
    assert_close(by_type, layer(features(), graph, edge_attr=edge_attr[:3][kinds]), **EXACT)


def test_training_and_evaluation_select_alike_and_nothing_is_drawn() -> None:
    layer, state = layer_of(TopKEdges(3)), torch.get_rng_state()
    x = features()
    assert torch.equal(layer.train()(x, full(NUM_NODES)), layer.eval()(x, full(NUM_NODES)))
    assert torch.equal(torch.get_rng_state(), state)


def test_renumbered_nodes_give_a_renumbered_output() -> None:
    generator = torch.Generator().manual_seed(0)
    order = torch.cat([torch.randperm(7, generator=generator), 7 + torch.randperm(4, generator=generator)])
    layer, x = layer_of(TopKEdges(3)), features()
    for graph in (full(torch.tensor([7, 4])), full(torch.tensor([7, 4])).keep(is_causal), sliding_window(11, 2)):
        moved = order if graph.num_graphs == 2 else order.flip(0)
        assert_close(layer(x[moved], graph.permute(moved)), layer(x, graph)[moved], **EXACT)


def test_a_batch_is_its_graphs_one_by_one_and_causal_stays_causal() -> None:
    sizes = torch.tensor([5, 0, 1, 5])
    layer, x = layer_of(TopKEdges(2)), features()
    for rule in (None, is_causal):
        batch = full(sizes) if rule is None else full(sizes).keep(rule)
        alone = []
        for part in x.split(sizes.tolist()):
            graph = full(part.shape[0])
            alone.append(layer(part, graph if rule is None else graph.keep(rule)))
        assert_close(layer(x, batch), torch.cat(alone), **EXACT)
        kept, _ = layer.select(x, batch)
        assert torch.equal(kept.src_ptr, batch.src_ptr)
        assert kept.looks_ahead() == (rule is None)


def test_kept_edges_are_learned_and_what_they_were() -> None:
    layer = layer_of(TopKEdges(3, keep_self=True))
    kept, _ = layer.select(features(), full(NUM_NODES))
    assert kept.kinds == ("full", "learned") and kept.self_edges().num_edges == NUM_NODES
    assert torch.equal(kept.edge_kind, torch.full_like(kept.edge_kind, 0b11))
    assert layer_of(TopKEdges(3)).select(features(), full(NUM_NODES))[0].self_edges() != kept.self_edges()


def test_new_layers_add_a_bias_of_deviation_one_third() -> None:
    torch.manual_seed(0)
    select = TopKEdges(1).build(256, 4)
    _, bias = select(torch.randn(400, 256), AttentionGraph.from_edge_index(torch.arange(400).expand(2, -1), 400)[0])
    assert 0.25 < float(bias.detach().std()) < 0.42


def test_it_learns_which_source_to_read() -> None:
    """Each node must say the value of the node whose name it asks for; a wrong choice of k edges cannot."""
    torch.manual_seed(0)
    num_names, num_nodes = 8, 16
    layer = GraphAttention(24, 1, select=TopKEdges(k=3, score_dim=8))
    readout = torch.nn.Linear(24, 1)
    optimizer = torch.optim.Adam([*layer.parameters(), *readout.parameters()], lr=0.02)
    generator = torch.Generator().manual_seed(1)

    def example(num_graphs: int) -> tuple[Tensor, AttentionGraph, Tensor]:
        name = torch.rand(num_graphs, num_nodes, generator=generator).argsort(1) % num_names
        asked = torch.randint(num_names, name.shape, generator=generator)
        value = torch.randn(name.shape, generator=generator)
        mean = (asked[:, :, None] == name[:, None]).float() @ value[..., None] / 2
        x = torch.cat([torch.eye(num_names)[name], torch.eye(num_names)[asked], value[..., None].repeat(1, 1, 8)], 2)
        return x.flatten(0, 1), full(torch.full((num_graphs,), num_nodes)), mean.flatten(0, 1)

    def loss() -> Tensor:
        x, graph, mean = example(32)
        return (readout(layer(x, graph)) - mean).square().mean()

    before = loss().item()
    for _ in range(150):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    assert loss().item() < 0.15 * before


def test_a_recording_sees_the_layers_own_numbers() -> None:
    layer, graph = layer_of(TopKEdges(2)), full(NUM_NODES)
    with torch.no_grad(), viz.record(layer) as recording:
        plain = layer(features(), graph)
    assert_close(plain, layer(features(), graph), **EXACT)
    (step,) = recording.steps
    assert step.graph == layer.select(features(), graph)[0]


@pytest.fixture
def dynamo() -> Any:
    import torch._dynamo

    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def test_what_comes_after_a_selection_is_compiled_once(dynamo: None) -> None:
    """A compiled region takes the selections of step after step; more edges beside them would be no matter either."""
    layer, graph = layer_of(TopKEdges(3)), full(torch.tensor([6, 5]))
    attend = torch.compile(graph_attention, backend="aot_eager", fullgraph=True)
    chosen = set()
    for number in range(5):
        x = features() * torch.randn(11, 1, generator=torch.Generator().manual_seed(number))
        kept, bias = layer.select(x, graph)
        chosen.add(tuple(kept.edge_index[0].tolist()))
        query, key = layer.score(x, x)
        value = layer.value_proj(x).unflatten(-1, (NUM_HEADS, -1))
        kept.plan()
        with torch._dynamo.config.patch(error_on_recompile=number > 0):
            out = attend(query, key, value, kept, edge_bias=bias)
        assert_close(layer.out_proj(out.flatten(1)), layer(x, graph), **EXACT)
    assert len(chosen) == 5


def test_a_compiled_region_is_told_where_to_select(dynamo: None) -> None:
    layer = layer_of(TopKEdges(2))
    with pytest.raises(Exception, match="TopKEdges makes a graph in each forward"):
        torch.compile(layer, backend="eager", fullgraph=True)(features(), full(NUM_NODES))


def test_float32_and_autocast() -> None:
    layer, graph = layer_of(TopKEdges(3)).float(), full(NUM_NODES)
    x = features().float()
    assert layer(x, graph).dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(x, graph)
        out.float().square().sum().backward()
    assert out.dtype == torch.bfloat16 and bool(layer.select.query_proj.weight.grad.isfinite().all())


def test_a_feature_that_is_no_number_reaches_the_output() -> None:
    layer, x = layer_of(TopKEdges(2)), features()
    x[4, 0] = math.nan
    out = layer(x, full(torch.tensor([6, 5])))
    assert bool(out[:6].isnan().any(1).all()) and bool(out[6:].isfinite().all())


@pytest.mark.parametrize("num_nodes", [0, 1])
def test_no_node_and_one_node(num_nodes: int) -> None:
    layer = layer_of(TopKEdges(2))
    out = layer(features(num_nodes), full(num_nodes))
    assert out.shape == (num_nodes, EMBED_DIM)
    out.sum().backward()


# --- the spec ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, error, advice",
    [
        ({"k": 0}, ValueError, "k must be at least 1, got 0"),
        ({"k": 1.5}, TypeError, "k must be an int, got float 1.5"),
        ({"score_dim": 0}, ValueError, "score_dim must be at least 1, got 0. Use 16"),
        ({"score_dim": "8"}, TypeError, "score_dim must be an int, got str"),
        ({"keep_self": None}, TypeError, "keep_self must be True or False, got None. True spends one of the k"),
    ],
)
def test_a_mistake_is_answered_with_what_to_do(options: dict, error: type[Exception], advice: str) -> None:
    with pytest.raises(error, match=advice):
        TopKEdges(**{"k": 2, **options})


def test_sources_that_are_not_the_targets_are_refused() -> None:
    layer, x = layer_of(TopKEdges(2)), features()
    with pytest.raises(ValueError, match=r"got 11 rows for 13 sources and 11 targets. Call ops.topk_edges_by_product"):
        layer(x, GRAPHS["cross"], source=features(13))
    with pytest.raises(ValueError, match=r"got 4 rows for 11 sources and 11 targets"):
        layer(features(4), full(11))


def test_one_spec_is_a_value_and_shares_no_parameter() -> None:
    spec = TopKEdges(k=2, score_dim=4)
    assert spec == pickle.loads(pickle.dumps(spec)) and hash(spec) == hash(TopKEdges(2, 4))
    one, other = spec.build(8, 2), spec.build(8, 2)
    assert not torch.equal(one.query_proj.weight, other.query_proj.weight)
    assert "TopKEdges(k=2, score_dim=4, keep_self=False)" in repr(one)
    one.spec = TopKEdges(k=1, score_dim=4)
    assert one(torch.eye(5, 8), full(5))[0].num_edges == 5


def test_the_bias_is_what_edge_logits_gives() -> None:
    select = layer_of(TopKEdges(4, score_dim=6)).select
    kept, bias = select(features(), full(NUM_NODES))
    query, key = select.query_proj(features()), select.key_proj(features())
    assert_close(bias, edge_logits(query[:, None], key[:, None], kept, impl="dense")[:, 0], **EXACT)
