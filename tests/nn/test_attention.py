"""The layer against computations by hand and against torch's, and its seats with specs made up here."""

import copy
import pickle
import re
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from graphattn.connectivity import full, sliding_window
from graphattn.graph import AttentionGraph
from graphattn.nn import DotProduct, EdgeTerms, GraphAttention, Pairwise, Symmetric
from graphattn.ops import attention_weights, graph_attention
from graphattn.ops._dispatch import Sizes, reason_against
from graphattn.selection import PerLayer, Ramp, SubsampleSources
from tests.ops.graphs import GRAPHS, ON_CPU, block, edges, with_blocks

NUM_NODES, EMBED_DIM, NUM_HEADS = 11, 15, 3
EXACT = {"atol": 1e-10, "rtol": 1e-10}
SIZES = Sizes(NUM_HEADS, EMBED_DIM // NUM_HEADS, EMBED_DIM // NUM_HEADS, torch.float64, torch.device("cpu"))


def layer_of(**options: Any) -> Any:  # its seats are modules of any kind
    torch.manual_seed(0)
    return GraphAttention(EMBED_DIM, NUM_HEADS, **options).double()


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


def by_hand(layer: Any, x: Tensor, graph: AttentionGraph, source: Tensor, bias: Tensor | None = None) -> Tensor:
    """Every pair, head by head, with the layer's own weights; `bias` is [num_dst_nodes, num_src_nodes, num_heads]."""
    score = layer.score
    query, key, value = score.query_proj(x), score.key_proj(source), layer.value_proj(source)
    head_dim, group = EMBED_DIM // NUM_HEADS, NUM_HEADS // layer.num_key_heads
    mask, heads = graph.to_mask(), []
    for head in range(NUM_HEADS):
        mine = slice(head * head_dim, (head + 1) * head_dim)
        shared = slice(head // group * head_dim, (head // group + 1) * head_dim)
        scores = query[:, mine] @ key[:, shared].T / head_dim**0.5
        scores = scores if bias is None else scores + bias[..., head]
        seen = mask if mask.dim() == 2 else mask[head]
        alpha = scores.masked_fill(~seen, -torch.inf).softmax(1).nan_to_num(0.0)
        heads.append(alpha @ value[:, shared])
    return layer.out_proj(torch.cat(heads, 1))


# --- what it computes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("impl", ["auto", *ON_CPU])
@pytest.mark.parametrize("name", ["full", "window", "lonely nodes", "blocks and edges", "head mask"])
@pytest.mark.parametrize("num_key_heads", [None, 1])
def test_it_equals_a_dense_computation_with_its_own_weights(name: str, impl: str, num_key_heads: int | None) -> None:
    graph = GRAPHS[name]
    layer = layer_of(impl=impl, num_key_heads=num_key_heads)
    x = drawn(NUM_NODES, EMBED_DIM)
    if impl != "auto" and (reason := reason_against(impl, graph, SIZES, reads_edges=False)) is not None:
        with pytest.raises(ValueError, match=re.escape(reason)):
            layer(x, graph)
    else:
        assert_close(layer(x, graph), by_hand(layer, x, graph, x), **EXACT)


def test_cross_attention_reads_a_source_of_another_width() -> None:
    graph = GRAPHS["bipartite"]
    layer = layer_of(source_dim=7)
    x, source = drawn(11, EMBED_DIM), drawn(13, 7)
    assert_close(layer(x, graph, source=source), by_hand(layer, x, graph, source), **EXACT)


@pytest.mark.parametrize("bias", [True, False])
def test_on_the_full_graph_it_is_torchs_multihead_attention(bias: bool) -> None:
    layer = layer_of(bias=bias)
    theirs = nn.MultiheadAttention(EMBED_DIM, NUM_HEADS, bias=bias, batch_first=True).double()
    projections: list[Any] = [layer.score.query_proj, layer.score.key_proj, layer.value_proj]
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([projection.weight for projection in projections]))
        theirs.out_proj.weight.copy_(layer.out_proj.weight)
        if bias:
            for projection in [*projections, layer.out_proj]:
                projection.bias.normal_()  # zero where torch starts, which would hide a mistake
            theirs.in_proj_bias.copy_(torch.cat([projection.bias for projection in projections]))
            theirs.out_proj.bias.copy_(layer.out_proj.bias)
    x = drawn(NUM_NODES, EMBED_DIM).requires_grad_()
    ours, expected = layer(x, full(NUM_NODES)), theirs(x[None], x[None], x[None], need_weights=False)[0][0]
    assert_close(ours, expected, **EXACT)
    assert_close(*(torch.autograd.grad(out.square().sum(), x)[0] for out in (ours, expected)), **EXACT)


def test_a_head_gate_scales_each_head_before_the_output_projection() -> None:
    layer = layer_of()
    x, graph, gate = drawn(NUM_NODES, EMBED_DIM), GRAPHS["window"], torch.tensor([0.0, 1.0, 0.5]).double()
    gated = copy.deepcopy(layer)
    with torch.no_grad():
        gated.out_proj.weight *= gate.repeat_interleave(EMBED_DIM // NUM_HEADS)
    assert_close(layer(x, graph, head_gate=gate), gated(x, graph), **EXACT)


def test_gradients_reach_every_parameter() -> None:
    layer = layer_of(edge=EdgeTerms(2, bias=True, gate=True), num_key_heads=1)
    graph = GRAPHS["window"]
    layer(drawn(NUM_NODES, EMBED_DIM), graph, edge_attr=drawn(graph.num_edges, 2)).square().sum().backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        # a constant added to every key, or to every logit of a head, changes no softmax
        is_blind = name in ("score.key_proj.bias", "edge.bias_proj.bias")
        assert (parameter.grad.abs().max() > 1e-10) != is_blind, name


def test_dropout_acts_in_training_only() -> None:
    layer = layer_of(dropout_p=0.5)
    x, graph = drawn(NUM_NODES, EMBED_DIM), full(NUM_NODES)
    assert not torch.equal(layer(x, graph), layer(x, graph))
    layer.eval()
    assert torch.equal(layer(x, graph), layer(x, graph))
    assert_close(layer(x, graph), by_hand(layer, x, graph, x), **EXACT)
    torch.manual_seed(5)
    first = layer.train()(x, graph)
    torch.manual_seed(5)
    assert torch.equal(layer(x, graph), first)


def test_without_dropout_training_and_evaluation_are_the_same() -> None:
    layer = layer_of()
    x, graph = drawn(NUM_NODES, EMBED_DIM), GRAPHS["hub"]
    assert torch.equal(layer.train()(x, graph), layer.eval()(x, graph))


# --- seats ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SomeSources:
    """Keeps a random part of the sources, and scores each by a linear map that enters as a bias."""

    num_sources: int
    bias_heads: int = 0  # 0 for [num_edges], else [num_edges, bias_heads]
    has_bias: bool = True

    def build(self, embed_dim: int, num_heads: int) -> nn.Module:
        return _SomeSources(self, embed_dim)


class _SomeSources(nn.Module):
    def __init__(self, spec: SomeSources, embed_dim: int):
        super().__init__()
        self.spec = spec
        self.scorer = nn.Linear(embed_dim, max(spec.bias_heads, 1))

    def forward(self, x: Tensor, graph: AttentionGraph) -> tuple[AttentionGraph, Tensor | None]:
        kept = torch.zeros(graph.num_src_nodes, dtype=torch.bool)
        kept[torch.randperm(graph.num_src_nodes)[: self.spec.num_sources]] = True
        fewer = graph.keep_sources(kept)
        if not self.spec.has_bias:
            return fewer, None
        bias = self.scorer(x)[fewer.edge_index[0]]
        return fewer, bias if self.spec.bias_heads else bias[:, 0]


@dataclass(frozen=True)
class TwoHalves:
    """Attends to the sources before and after the target apart, and adds what it finds, weighted by a parameter."""

    def build(self, embed_dim: int, num_heads: int) -> nn.Module:
        return _TwoHalves()


class _TwoHalves(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.25, 0.75]))

    def forward(self, query: Tensor, key: Tensor, value: Tensor, graph: AttentionGraph, **terms: Any) -> Tensor:
        halves = [graph.keep(lambda src, dst: src <= dst), graph.keep(lambda src, dst: src > dst)]
        parts = [graph_attention(query, key, value, half, **terms) for half in halves]
        return self.weight[0] * parts[0] + self.weight[1] * parts[1]


def rows_through(module: nn.Module) -> list[int]:
    seen: list[int] = []
    module.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].shape[0]))
    return seen


@pytest.mark.parametrize("graph", [GRAPHS["full"], sliding_window(11, 3)], ids=["blocks", "edges"])
@pytest.mark.parametrize("bias_heads, has_bias", [(0, True), (1, True), (NUM_HEADS, True), (0, False)])
def test_a_selection_projects_only_the_sources_still_read(
    graph: AttentionGraph, bias_heads: int, has_bias: bool
) -> None:
    layer = layer_of(select=SomeSources(5, bias_heads, has_bias))
    x = drawn(NUM_NODES, EMBED_DIM)
    keys, values = rows_through(layer.score.key_proj), rows_through(layer.value_proj)
    torch.manual_seed(1)
    out = layer(x, graph)
    assert keys == values == [5]

    torch.manual_seed(1)
    selected, bias = layer.select(x, graph)
    assert selected.num_edges < graph.num_edges
    spread = torch.zeros(NUM_NODES, NUM_NODES, NUM_HEADS, dtype=torch.float64)
    if bias is not None:
        src, dst = selected.edge_index
        spread[dst, src] = bias.view(selected.num_edges, -1).expand(-1, NUM_HEADS)
    assert_close(out, by_hand(layer, x, selected, x, spread), **EXACT)
    out.square().sum().backward()
    grad = layer.select.scorer.weight.grad
    assert (grad is not None and grad.abs().max() > 0) == has_bias


SAMPLED = {
    "blocks": full(NUM_NODES).keep_sources(torch.arange(NUM_NODES) % 3 == 0),
    "edges": sliding_window(NUM_NODES, 3).keep_sources(torch.arange(NUM_NODES) % 3 == 0),
    "both": with_blocks(edges("4: 2; 8: 6"), block([*range(NUM_NODES)], [0, 7])),
}


@pytest.mark.parametrize("name", SAMPLED)
def test_sources_that_nobody_reads_are_not_projected(name: str) -> None:
    graph, layer = SAMPLED[name], layer_of(num_key_heads=1)
    x = drawn(NUM_NODES, EMBED_DIM).requires_grad_()
    keys, values, queries = (rows_through(m) for m in (layer.score.key_proj, layer.value_proj, layer.score.query_proj))
    out = layer(x, graph)
    assert keys == values == [4] and queries == [NUM_NODES]
    expected = by_hand(layer, x, graph, x)
    assert_close(out, expected, **EXACT)
    ours, theirs = (torch.autograd.grad(y.square().sum(), [x, *layer.parameters()]) for y in (out, expected))
    assert_close(ours, theirs, **EXACT)


def test_an_eighth_of_the_sources_costs_an_eighth_of_the_projections() -> None:
    graph = full(4096).keep_sources(torch.arange(4096) % 8 == 0)
    layer = GraphAttention(8, 2)
    rows = rows_through(layer.value_proj)
    with torch.no_grad():
        layer(torch.zeros(4096, 8), graph)
    assert rows == [512]


def test_what_is_unread_is_found_once_and_moves_with_the_graph() -> None:
    graph = full(NUM_NODES).keep_sources(torch.arange(NUM_NODES) % 3 == 0)
    fewer, kept = graph.only_read_sources()
    assert graph.only_read_sources()[0] is fewer and kept.tolist() == [0, 3, 6, 9]
    moved = graph.to("meta")  # a device without values, so nothing can be found there
    assert moved.only_read_sources()[0].num_src_nodes == 4 and moved.only_read_sources()[1].device.type == "meta"


def test_a_few_unread_sources_are_projected_rather_than_gathered_around() -> None:
    layer = layer_of()
    rows = rows_through(layer.value_proj)
    layer(drawn(NUM_NODES, EMBED_DIM), GRAPHS["lonely nodes"])
    assert rows == [NUM_NODES]


def test_a_connection_reads_sources_by_their_own_numbers() -> None:
    graph, layer = SAMPLED["edges"], layer_of(connect=TwoHalves())
    x = drawn(NUM_NODES, EMBED_DIM)
    before, after = (
        by_hand(layer, x, graph.keep(rule), x) - layer.out_proj.bias
        for rule in (lambda src, dst: src <= dst, lambda src, dst: src > dst)
    )
    assert_close(layer(x, graph), 0.25 * before + 0.75 * after + layer.out_proj.bias, **EXACT)


def test_edge_features_of_sampled_sources_stay_with_their_edges() -> None:
    graph, layer = SAMPLED["blocks"], layer_of(edge=EdgeTerms(2, bias=True, gate=True))
    x, edge_attr = drawn(NUM_NODES, EMBED_DIM), drawn(graph.num_edges, 2)
    rows = rows_through(layer.value_proj)
    out = layer(x, graph, edge_attr=edge_attr)
    layer.impl = "dense"
    assert_close(out, layer(x, graph, edge_attr=edge_attr), **EXACT)
    assert rows == [4, NUM_NODES]


def test_sampled_sources_compile_whole_and_once() -> None:
    import torch._dynamo

    torch._dynamo.reset()
    layer = layer_of().float()
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    for number in range(6):
        size = 120 + 3 * number
        graph = full(size).keep_sources(torch.arange(size) % 3 == 0)
        graph.plan()
        x = drawn(size, EMBED_DIM).float()
        with torch._dynamo.config.patch(error_on_recompile=number > 1):
            assert_close(compiled(x, graph), layer(x, graph))
    torch._dynamo.reset()


def test_a_selection_carries_edge_features_along_and_adds_its_bias_to_theirs() -> None:
    layer = layer_of(select=SomeSources(5), edge=EdgeTerms(2, key=False, value=False, bias=True))
    graph = sliding_window(NUM_NODES, 3)
    x, edge_attr = drawn(NUM_NODES, EMBED_DIM), drawn(graph.num_edges, 2)
    torch.manual_seed(1)
    out = layer(x, graph, edge_attr=edge_attr)
    torch.manual_seed(1)
    selected, bias = layer.select(x, graph)
    spread = torch.zeros(NUM_NODES, NUM_NODES, NUM_HEADS, dtype=torch.float64)
    src, dst = selected.edge_index
    of_edges = layer.edge.bias_proj(edge_attr)[graph.find(src, dst)]
    spread[dst, src] = of_edges + bias[:, None]
    assert_close(out, by_hand(layer, x, selected, x, spread), **EXACT)


def test_a_selection_may_leave_nothing() -> None:
    layer = layer_of(select=SomeSources(0), edge=EdgeTerms(2, bias=True))
    graph = GRAPHS["window"]
    out = layer(drawn(NUM_NODES, EMBED_DIM), graph, edge_attr=drawn(graph.num_edges, 2))
    assert_close(out, layer.out_proj.bias.expand(NUM_NODES, -1), **EXACT)


def test_a_selection_in_cross_attention_drops_rows_of_the_source() -> None:
    layer = layer_of(select=SomeSources(5, has_bias=False), source_dim=7)
    rows = rows_through(layer.value_proj)
    out = layer(drawn(11, EMBED_DIM), GRAPHS["cross"], source=drawn(13, 7))
    assert rows == [5] and out.shape == (11, EMBED_DIM)


def test_a_connection_replaces_the_one_call_of_the_verb() -> None:
    layer = layer_of(connect=TwoHalves())
    graph, x = GRAPHS["window"], drawn(NUM_NODES, EMBED_DIM)
    expected = torch.zeros(NUM_NODES, EMBED_DIM, dtype=torch.float64)
    for weight, rule in ((0.25, lambda src, dst: src <= dst), (0.75, lambda src, dst: src > dst)):
        half = by_hand(layer, x, graph.keep(rule), x) - layer.out_proj.bias
        expected = expected + weight * half
    assert_close(layer(x, graph), expected + layer.out_proj.bias, **EXACT)
    layer(x, graph).square().sum().backward()
    assert layer.connect.weight.grad.abs().min() > 0


def test_a_connection_is_given_every_term_of_the_call() -> None:
    seen: dict[str, Any] = {}

    class Spy(nn.Module):
        def forward(self, query: Tensor, key: Tensor, value: Tensor, graph: AttentionGraph, **terms: Any) -> Tensor:
            seen.update(terms)
            return graph_attention(query, key, value, graph, **terms)

    layer = layer_of(connect=TwoHalves(), edge=EdgeTerms(2, bias=True, gate=True), dropout_p=0.5, impl="scatter")
    layer.connect = Spy()
    graph, gate = GRAPHS["window"], drawn(NUM_HEADS)
    layer(drawn(NUM_NODES, EMBED_DIM), graph, edge_attr=drawn(graph.num_edges, 2), head_gate=gate)
    assert seen["impl"] == "scatter" and seen["dropout_p"] == 0.5 and seen["head_gate"] is gate
    assert {"edge_bias", "edge_gate", "edge_attr", "edge_key_weight", "edge_value_weight"} <= set(seen)
    layer.eval()(drawn(NUM_NODES, EMBED_DIM), graph, edge_attr=drawn(graph.num_edges, 2))
    assert seen["dropout_p"] == 0.0 and seen["head_gate"] is None


def test_one_spec_in_two_layers_shares_no_parameter() -> None:
    seats: dict[str, Any] = {
        "score": DotProduct(),
        "select": SomeSources(5),
        "connect": TwoHalves(),
        "edge": EdgeTerms(2),
    }
    first, second = layer_of(**seats), layer_of(**seats)
    assert not {id(p) for p in first.parameters()} & {id(p) for p in second.parameters()}
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.zero_()
    assert all(p.abs().max() > 0 for name, p in second.named_parameters() if "proj.weight" in name)


# --- without some heads --------------------------------------------------------------------------------------------

TERMS = EdgeTerms(2, bias=True, gate=True)


@pytest.mark.parametrize("score", [DotProduct(), Symmetric(), Pairwise()], ids=repr)
@pytest.mark.parametrize("kept", [[0], [2, 0], [1, 2], [0, 1, 2], []], ids=str)
def test_a_layer_without_some_heads_is_the_one_whose_gates_they_close(kept: list[int], score: Any) -> None:
    layer, graph = layer_of(score=score, edge=TERMS), GRAPHS["window"]
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if name.endswith("bias"):
                parameter.normal_()
    x, edge_attr = drawn(NUM_NODES, EMBED_DIM).requires_grad_(), drawn(graph.num_edges, 2).requires_grad_()
    gate = torch.zeros(NUM_HEADS, dtype=torch.float64).index_fill_(0, torch.tensor(kept, dtype=torch.int64), 1.0)
    expected = layer(x, graph, edge_attr=edge_attr, head_gate=gate)
    small = copy.deepcopy(layer)
    assert small.keep_heads_(torch.tensor(kept) if kept else []) is small
    out = small(x, graph, edge_attr=edge_attr)
    assert_close(out, expected, atol=1e-12, rtol=0)
    got, want = (
        torch.autograd.grad(y.square().sum(), [x, edge_attr], allow_unused=True, materialize_grads=True)
        for y in (out, expected)
    )
    assert_close(got, want, **EXACT)

    made = GraphAttention(EMBED_DIM, len(kept), head_dim=5, score=score, edge=TERMS).double()
    made.load_state_dict(small.state_dict())
    assert torch.equal(made(x, graph, edge_attr=edge_attr), out) and made.extra_repr() == small.extra_repr()


def test_grouped_heads_leave_by_groups_or_as_many_of_each() -> None:
    torch.manual_seed(0)
    layer: Any = GraphAttention(30, 6, num_key_heads=3).double()
    graph, x = GRAPHS["window"], drawn(NUM_NODES, 30)
    for kept, num_key_heads in (([0, 1, 4, 5], 2), ([1, 2, 5], 3), ([3], 1)):
        gate = torch.zeros(6, dtype=torch.float64).index_fill_(0, torch.tensor(kept), 1.0)
        small = copy.deepcopy(layer).keep_heads_(kept)
        assert small.num_key_heads == num_key_heads
        assert_close(small(x, graph), layer(x, graph, head_gate=gate), atol=1e-12, rtol=0)
    message = "equally many heads to every key head that stays, got {0: 2, 1: 1} as counts by key head. 2 heads share"
    with pytest.raises(ValueError, match=message):
        layer.keep_heads_([0, 1, 2])
    assert layer.num_heads == 6  # untouched


def test_a_layer_without_heads_attends_to_nothing_and_gives_its_bias(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **named: Any) -> None:
        raise AssertionError("it attends")

    monkeypatch.setattr("graphattn.nn.attention.graph_attention", refuse)
    layer = layer_of(edge=TERMS, select=SomeSources(5), connect=TwoHalves(), dropout_p=0.5).keep_heads_([])
    x, graph = drawn(NUM_NODES, EMBED_DIM).requires_grad_(), GRAPHS["window"]
    out = layer(x, graph, edge_attr=drawn(graph.num_edges, 2))
    assert_close(out, layer.out_proj.bias.expand(NUM_NODES, -1), atol=0, rtol=0)
    assert [name for name, _ in layer.named_parameters()] == ["out_proj.weight", "out_proj.bias"]
    out.sum().backward()
    assert x.grad is not None and not x.grad.any()
    assert_close(layer.out_proj.bias.grad, torch.full((EMBED_DIM,), 11.0).double())
    assert not GraphAttention(EMBED_DIM, 0, head_dim=5, bias=False)(x.float(), graph).any()
    assert layer.keep_heads_([]) is layer
    assert layer.to(torch.bfloat16)(x.bfloat16(), graph).dtype == torch.bfloat16
    for made in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert made(x.bfloat16(), graph).shape == (NUM_NODES, EMBED_DIM)
    with pytest.raises(ValueError, match="x must have num_dst_nodes = 11 rows, got 7"):
        layer(x[:7], graph)
    with pytest.raises(ValueError, match=r"head_gate must have shape \[0\], got \[3\]: this layer has no head left"):
        layer(x, graph, head_gate=torch.ones(3))


def test_a_layer_is_made_without_heads_without_a_warning(recwarn: pytest.WarningsRecorder) -> None:
    GraphAttention(EMBED_DIM, 0, head_dim=5, edge=TERMS)
    GraphAttention(EMBED_DIM, 3, edge=TERMS).keep_heads_([])
    assert not recwarn.list


def test_heads_of_a_width_of_their_own() -> None:
    layer = layer_of(head_dim=7, edge=EdgeTerms(2))
    graph, x = GRAPHS["window"], drawn(NUM_NODES, EMBED_DIM)
    assert layer.out_proj.weight.shape == (EMBED_DIM, 21)
    assert layer(x, graph, edge_attr=drawn(graph.num_edges, 2)).shape == (NUM_NODES, EMBED_DIM)
    assert "num_heads=3, head_dim=7" in repr(layer) and "head_dim" not in repr(layer_of())


def test_a_seat_with_something_of_each_head_drops_its_own() -> None:
    @dataclass(frozen=True)
    class ScaledHeads:
        def build(self, embed_dim: int, num_heads: int) -> nn.Module:
            return _ScaledHeads(embed_dim, num_heads)

    class _ScaledHeads(nn.Module):
        def __init__(self, embed_dim: int, num_heads: int) -> None:
            super().__init__()
            self.width = embed_dim
            self.scale = nn.Parameter(torch.arange(1.0, num_heads + 1))

        def forward(self, query: Tensor, key: Tensor, value: Tensor, graph: AttentionGraph, **terms: Any) -> Tensor:
            return graph_attention(query, key, value, graph, **terms) * self.scale[:, None]

        def keep_heads_(self, heads: list[int]) -> None:
            self.scale = nn.Parameter(self.scale.detach()[heads])

    layer, x, graph = layer_of(connect=ScaledHeads()), drawn(NUM_NODES, EMBED_DIM), GRAPHS["window"]
    expected = layer(x, graph, head_gate=torch.tensor([0.0, 1.0, 1.0]).double())
    assert_close(layer.keep_heads_([1, 2])(x, graph), expected, atol=1e-12, rtol=0)
    assert GraphAttention(EMBED_DIM, 2, head_dim=5, connect=ScaledHeads()).connect.width == 10


@pytest.mark.parametrize(
    "kept, error, advice",
    [
        ([0, 3], ValueError, r"kept must hold heads from 0 to 2, got \[0, 3\]. Heads are counted among those that the"),
        ([-1], ValueError, r"kept must hold heads from 0 to 2, got \[-1\]"),
        ([1, 1], ValueError, r"kept must hold each head once, got \[1, 1\]"),
        ([True, False, True], TypeError, r"numbers of heads, got \[True, .*mask.nonzero\(\)\[:, 0\]"),
        (torch.tensor([1.0]), TypeError, r"kept must hold numbers of heads, got \[1.0\]"),
    ],
)
def test_heads_that_are_none_are_refused_with_advice(kept: Any, error: type[Exception], advice: str) -> None:
    with pytest.raises(error, match=advice):
        layer_of().keep_heads_(kept)


@pytest.mark.parametrize("score", [DotProduct(), Symmetric(), Pairwise()], ids=repr)
def test_a_selection_stays_with_the_heads_that_stay(score: Any) -> None:
    layer, graph, x = layer_of(select=SomeSources(5), score=score), GRAPHS["full"], drawn(NUM_NODES, EMBED_DIM)
    small = copy.deepcopy(layer).keep_heads_([0, 2])
    torch.manual_seed(1)
    expected = layer(x, graph, head_gate=torch.tensor([1.0, 0.0, 1.0]).double())
    torch.manual_seed(1)
    assert_close(small(x, graph), expected, atol=1e-12, rtol=0)


def test_a_graph_with_edges_of_heads_that_left_is_refused() -> None:
    layer = layer_of().keep_heads_([0, 2])
    with pytest.raises(ValueError, match=r"query must have the 3 heads of graph\.head_mask, got 2"):
        layer(drawn(NUM_NODES, EMBED_DIM), GRAPHS["head mask"])


def test_a_seat_that_cannot_drop_heads_says_so() -> None:
    layer = layer_of(connect=TwoHalves())
    before = copy.deepcopy(layer.state_dict())
    with pytest.raises(TypeError, match=r"the connect seat _TwoHalves cannot be pruned: it has no keep_heads_. Give"):
        layer.keep_heads_([0])
    layer.score = nn.Identity()
    with pytest.raises(
        TypeError, match=r"the score seat Identity cannot be pruned: .* that takes \(heads, key_heads\)"
    ):
        layer.keep_heads_([0])
    assert layer.num_heads == NUM_HEADS and layer.out_proj.weight.shape == before["out_proj.weight"].shape


# --- as a module ---------------------------------------------------------------------------------------------------


def test_a_state_dict_makes_another_layer_the_same() -> None:
    options: dict[str, Any] = {"edge": EdgeTerms(2, bias=True, gate=True), "num_key_heads": 1}
    layer, other = layer_of(**options), GraphAttention(EMBED_DIM, NUM_HEADS, **options).double()
    graph = GRAPHS["window"]
    x, edge_attr = drawn(NUM_NODES, EMBED_DIM), drawn(graph.num_edges, 2)
    assert not torch.allclose(layer(x, graph, edge_attr=edge_attr), other(x, graph, edge_attr=edge_attr))
    other.load_state_dict(layer.state_dict())
    assert torch.equal(layer(x, graph, edge_attr=edge_attr), other(x, graph, edge_attr=edge_attr))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_it_pickles_and_copies(copied: Any) -> None:
    layer = layer_of(edge=EdgeTerms(2), num_key_heads=1)
    other, graph = copied(layer), GRAPHS["window"]
    x, edge_attr = drawn(NUM_NODES, EMBED_DIM), drawn(graph.num_edges, 2)
    assert repr(other) == repr(layer)
    assert torch.equal(other(x, graph, edge_attr=edge_attr), layer(x, graph, edge_attr=edge_attr))


def test_its_repr_says_what_it_is() -> None:
    assert repr(layer_of(dropout_p=0.1)).startswith("GraphAttention(\n  15, num_heads=3, dropout_p=0.1, impl='auto'")


def test_its_weights_can_be_had_from_the_score_and_the_verb() -> None:
    layer, graph, x = layer_of(), GRAPHS["window"], drawn(NUM_NODES, EMBED_DIM)
    alpha = attention_weights(*layer.score(x, x), graph)
    value = layer.value_proj(x).unflatten(-1, (NUM_HEADS, -1))
    src, dst = graph.edge_index
    out = torch.zeros_like(value).index_add(0, dst, alpha[..., None] * value[src])
    assert_close(layer.out_proj(out.flatten(1)), layer(x, graph), **EXACT)


def test_it_compiles_whole_and_once_for_ten_edge_counts() -> None:
    import torch._dynamo

    torch._dynamo.reset()
    layer = layer_of(edge=EdgeTerms(2, bias=True, gate=True)).float()
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    x = drawn(67, EMBED_DIM).float()
    for number in range(10):
        graph = sliding_window(67, 2 + number)
        graph.plan()
        edge_attr = drawn(graph.num_edges, 2).float()
        with torch._dynamo.config.patch(error_on_recompile=number > 1):
            out = compiled(x, graph, edge_attr=edge_attr)
        assert_close(out, layer(x, graph, edge_attr=edge_attr))
        layer.zero_grad()
        out.square().sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())
    torch._dynamo.reset()


def test_under_autocast_it_gives_what_projections_give_and_still_sums_in_float32() -> None:
    layer = layer_of().float()
    x, graph = drawn(NUM_NODES, EMBED_DIM).float(), full(NUM_NODES)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = layer(x, graph)
    assert out.dtype == torch.bfloat16
    assert_close(out.float(), layer(x, graph), rtol=0.05, atol=0.02)


# --- errors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, advice",
    [
        ({"embed_dim": 0}, "embed_dim must be at least 1, got 0. Give the layer a positive size"),
        ({"num_heads": 0}, "num_heads must be at least 1, got 0"),
        ({"num_key_heads": 0}, "num_key_heads must be at least 1, got 0"),
        ({"num_heads": 4}, r"num_heads must divide embed_dim, got 4 heads for width 15. Use embed_dim=12"),
        ({"num_heads": 16}, "num_heads must divide embed_dim, got 16 heads for width 15. Use embed_dim=16"),
        ({"num_key_heads": 2}, "num_key_heads must divide num_heads, got 2 for 3 heads. Grouped heads"),
        ({"head_dim": 0}, "head_dim must be at least 1, got 0"),
        ({"head_dim": 5, "num_heads": -1}, "num_heads must be at least 0, got -1"),
        ({"head_dim": 5, "num_heads": 0, "num_key_heads": 1}, "num_key_heads must divide num_heads, got 1 for 0 heads"),
        ({"head_dim": 5, "num_key_heads": 6}, "num_key_heads must divide num_heads, got 6 for 3 heads"),
        ({"dropout_p": -0.1}, r"dropout_p must lie in \[0, 1\], got -0.1. It is the probability"),
    ],
)
def test_a_wrong_size_is_named_with_the_next_step(options: dict[str, Any], advice: str) -> None:
    with pytest.raises(ValueError, match=advice):
        GraphAttention(**{"embed_dim": EMBED_DIM, "num_heads": NUM_HEADS, **options})


def test_edge_features_and_the_edge_seat_need_each_other() -> None:
    graph, x = GRAPHS["window"], drawn(NUM_NODES, EMBED_DIM)
    edge_attr = drawn(graph.num_edges, 2)
    with pytest.raises(ValueError, match=r"edge_attr needs the edge seat, which is empty. .*edge=EdgeTerms\("):
        layer_of()(x, graph, edge_attr=edge_attr)
    with pytest.raises(ValueError, match=r"has an edge seat and needs edge_attr, got none. Pass edge_attr \[num_edges"):
        layer_of(edge=EdgeTerms(2))(x, graph)


def test_a_rectangular_graph_needs_a_source() -> None:
    with pytest.raises(ValueError, match="key must have num_src_nodes = 13 rows, got 11"):
        layer_of()(drawn(11, EMBED_DIM), GRAPHS["bipartite"])


def test_edge_features_beside_blocks_follow_the_canonical_order() -> None:
    graph = with_blocks(edges("5: 0 3 6; 9: 4"), block([0, 1, 2], [0, 4, 5]))
    layer = layer_of(edge=EdgeTerms(2, bias=True, gate=True))
    x, edge_attr = drawn(NUM_NODES, EMBED_DIM), drawn(graph.num_edges, 2)
    listed = layer(x, graph.enumerate(), edge_attr=edge_attr)
    layer.impl = "blocks"
    assert_close(layer(x, graph, edge_attr=edge_attr), listed, **EXACT)


@pytest.mark.parametrize("select", [False, True], ids=["whole", "selected"])
def test_features_of_types_are_features_of_their_edges(select: bool) -> None:
    graph = GRAPHS["lonely nodes"]
    terms = EdgeTerms(2, bias=True, gate=True)
    layer = layer_of(edge=terms, select=SomeSources(5) if select else None)
    x, table = drawn(NUM_NODES, EMBED_DIM), drawn(5, 2)
    edge_type = torch.arange(graph.num_edges) * 3 % 5
    torch.manual_seed(0)  # the selection is drawn
    expected = layer(x, graph, edge_attr=table[edge_type])
    torch.manual_seed(0)
    assert_close(layer(x, graph, edge_attr=table, edge_type=edge_type), expected)


@pytest.mark.parametrize(
    "seat",
    [
        {"select": Ramp(SubsampleSources(keep_p=0.2), SubsampleSources(keep_p=0.5), num_steps=3)},
        {"select": PerLayer(SubsampleSources(keep_p=0.2))},
        {"connect": "Fixed()"},
        {"score": None},
    ],
    ids=str,
)
def test_what_is_no_spec_of_one_layer_is_refused_by_the_name_of_its_seat(seat: dict[str, Any]) -> None:
    (name,) = seat
    with pytest.raises(TypeError, match=f"{name} must be a spec that builds its module, got .*give the layer one of"):
        layer_of(**seat)
