"""The seat equals the L × L matrix of the paper's formulas, in output and gradients, for every form."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.testing import assert_close

from graphattn import connectivity
from graphattn.connectivity import clusters, full, sliding_window
from graphattn.graph import AttentionGraph
from graphattn.graph.rules import is_causal
from graphattn.nn import EdgeTerms, GraphAttention, combiner
from graphattn.nn.combiner.pooling import mean_pool, members_of
from graphattn.ops import graph_attention
from graphattn.viz import pathways, record
from tests.connectivity.combiner.covers import Rule, axial, fixed, log_sparse
from tests.connectivity.combiner.covers import clusters as by_label

HEADS, DIM = 3, 5


def label_of(j: int) -> int:
    return j * 5 % 4


# name → the loops that say what a token reads, one per pair, and the spec
SPECS: dict[str, tuple[list[Rule], Callable[..., Any]]] = {
    "fixed 1": ([fixed(1)], lambda **o: combiner.Fixed(1, **o)),
    "fixed 4": ([fixed(4)], lambda **o: combiner.Fixed(4, **o)),
    "fixed 50": ([fixed(50)], lambda **o: combiner.Fixed(50, **o)),
    "log_sparse": ([log_sparse], lambda **o: combiner.LogSparse(**o)),
    "vertical": ([axial("vertical", 5)], lambda **o: combiner.AxialVertical(5, **o)),
    "horizontal": ([axial("horizontal", 5)], lambda **o: combiner.AxialHorizontal(5, **o)),
    "split": ([axial("split", 5)], lambda **o: combiner.AxialHorizontal(5, split=True, **o)),
    "rowmajor": ([axial("rowmajor", 5)], lambda **o: combiner.AxialRowmajor(5, **o)),
    "mixture": ([axial("vertical", 5), axial("horizontal", 5)], lambda **o: combiner.Mixture(5, **o)),
    "clusters": ([by_label(label_of)], lambda **o: combiner.Clusters(**o)),
}
specs = pytest.mark.parametrize("name", SPECS)
both = pytest.mark.parametrize("causal", [True, False], ids=["causal", "bidirectional"])


def made(name: str, causal: bool, **options: object) -> combiner.CombinerSeat:
    if name == "clusters":
        options["causal"] = causal
    torch.manual_seed(1)
    return SPECS[name][1](**options).build(HEADS * DIM, HEADS).double()


def graph_of(name: str, sizes: int | Tensor, causal: bool) -> AttentionGraph:
    graph = full(sizes)
    if name == "clusters":
        each = [sizes] if isinstance(sizes, int) else sizes.tolist()
        graph = clusters(sizes, [label_of(j) for size in each for j in range(size)])
    return graph.keep(is_causal) if causal else graph


def drawn(n: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(
        torch.randn(n, HEADS, DIM, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(3)
    )  # type: ignore[return-value]


def matrix(
    rule: Rule, query: Tensor, key: Tensor, causal: bool, summary: str = "max", log_size: bool = False
) -> Tensor:
    """q(j | i) [num_heads, L, L] by the formulas, every abstraction a row of a dense table."""
    n = query.shape[0]
    reads = [rule(i, n, causal) for i in range(n)]
    sets = list(dict.fromkeys(one for _, abstractions in reads for one in abstractions))
    direct = torch.tensor([[j in own for j in range(n)] for own, _ in reads])
    q, k = query.transpose(0, 1), key.transpose(0, 1)  # [num_heads, L, dim]
    scale = DIM**-0.5
    scores = [(scale * q @ k.transpose(1, 2)).masked_fill(~direct, -torch.inf)]
    inside = q.new_zeros(HEADS, 0, n)
    if sets:
        is_member = torch.tensor([[j in members for j in range(n)] for members, _ in sets])
        is_read = torch.tensor([[one in abstractions for one in sets] for _, abstractions in reads])
        if summary == "mean":
            share = is_member / is_member.sum(1, keepdim=True).double()
            q_set, k_set = share @ q, share @ k
        else:
            hidden = ~is_member[None, :, :, None]
            q_set, k_set = (x[:, None].masked_fill(hidden, -torch.inf).amax(2) for x in (q, k))
        q_set = torch.stack([q_set[:, a] if asker is None else q[:, asker] for a, (_, asker) in enumerate(sets)], 1)
        inside = torch.softmax((scale * q_set @ k.transpose(1, 2)).masked_fill(~is_member, -torch.inf), -1)
        reading = scale * q @ k_set.transpose(1, 2)
        if log_size:
            reading = reading + is_member.sum(1).double().log()
        scores.append(reading.masked_fill(~is_read, -torch.inf))
    weight = torch.softmax(torch.cat(scores, 2), -1)
    return weight[:, :, :n] + weight[:, :, n:] @ inside


def expected(name: str, query: Tensor, key: Tensor, value: Tensor, causal: bool, **options: Any) -> Tensor:
    rules = SPECS[name][0]
    weights = sum(matrix(rule, query, key, causal, **options) for rule in rules) / len(rules)
    assert_close(weights.sum(-1), torch.ones(HEADS, len(query), dtype=torch.float64))
    seen = torch.ones(len(query), len(query)).bool()
    assert torch.equal((weights > 0).all(0), seen.tril() if causal else seen)
    return (weights @ value.transpose(0, 1)).transpose(0, 1)


def check(out: Tensor, wanted: Tensor, inputs: tuple[Tensor, ...]) -> None:
    assert_close(out, wanted, atol=1e-10, rtol=1e-10)
    direction = torch.randn(out.shape, generator=torch.Generator().manual_seed(9), dtype=out.dtype)
    grads = [torch.autograd.grad((x * direction).sum(), inputs, allow_unused=True) for x in (out, wanted)]
    for mine, theirs in zip(*grads):
        assert_close(mine, theirs, atol=1e-10, rtol=1e-10)
        assert len(out) < 4 or float(mine.abs().max()) > 0.0


# --- exactness -----------------------------------------------------------------------------------------------------


@specs
@both
@pytest.mark.parametrize("n", [1, 2, 3, 33])
def test_it_is_attention_with_the_matrix_of_the_paper(name: str, causal: bool, n: int) -> None:
    inputs = drawn(n)
    out = made(name, causal)(*inputs, graph_of(name, n, causal))
    check(out, expected(name, *inputs, causal), inputs)


@specs
@both
@pytest.mark.parametrize("impl", ["dense", "scatter", "fused"])
def test_every_implementation_gives_it(name: str, causal: bool, impl: str) -> None:
    inputs = drawn(17)
    out = made(name, causal)(*inputs, graph_of(name, 17, causal), impl=impl)
    check(out, expected(name, *inputs, causal), inputs)


@pytest.mark.parametrize("name", ["fixed 4", "vertical", "horizontal", "split", "rowmajor", "mixture", "fixed 1"])
@both
def test_segments_rows_and_columns_run_as_blocks(name: str, causal: bool) -> None:
    inputs = drawn(17)
    out = made(name, causal)(*inputs, graph_of(name, 17, causal), impl="blocks")
    check(out, expected(name, *inputs, causal), inputs)


@specs
@both
def test_a_ragged_batch_is_the_loop_over_its_graphs(name: str, causal: bool) -> None:
    sizes = torch.tensor([7, 0, 1, 17, 2])
    inputs = drawn(27)
    out = made(name, causal)(*inputs, graph_of(name, sizes, causal))
    parts = zip(*(x.split(sizes.tolist()) for x in inputs))
    wanted = torch.cat([expected(name, *part, causal) for part in parts if len(part[0])])
    check(out, wanted, inputs)


@specs
@both
def test_summaries_may_be_means_and_may_weigh_by_their_size(name: str, causal: bool) -> None:
    inputs = drawn(17)
    for options in ({"summary": "mean"}, {"log_size": True}):
        out = made(name, causal, **options)(*inputs, graph_of(name, 17, causal))
        check(out, expected(name, *inputs, causal, **options), inputs)


@pytest.mark.parametrize("name", ["fixed 4", "log_sparse", "vertical", "rowmajor"])
def test_learned_summaries_begin_as_the_maximum_and_learn(name: str) -> None:
    inputs, graph = drawn(17), graph_of(name, 17, True)
    seat = made(name, True, summary="learned")
    assert_close(seat(*inputs, graph), made(name, True)(*inputs, graph))
    for parameter in seat.parameters():
        parameter.data.normal_(generator=torch.Generator().manual_seed(3))
    seat(*inputs, graph).square().sum().backward()
    for parameter_name, parameter in seat.named_parameters():
        is_asked = name != "rowmajor" or "query" not in parameter_name  # there tokens ask
        assert bool((parameter.grad != 0).all()) == is_asked


@pytest.mark.parametrize("name", ["fixed 1", "fixed 50"])
@both
def test_segments_of_one_token_and_of_all_are_full_attention(name: str, causal: bool) -> None:
    inputs = drawn(17)
    q, k, v = (x.transpose(0, 1) for x in inputs)
    wanted = scaled_dot_product_attention(q, k, v, is_causal=causal).transpose(0, 1)
    check(made(name, causal)(*inputs, graph_of(name, 17, causal)), wanted, inputs)


@both
@pytest.mark.parametrize("width", [1, 17, 100])
@pytest.mark.parametrize("spec", [combiner.AxialVertical, combiner.AxialHorizontal, combiner.AxialRowmajor])
def test_one_row_or_one_column_is_full_attention(spec: Callable[..., Any], width: int, causal: bool) -> None:
    inputs = drawn(17)
    q, k, v = (x.transpose(0, 1) for x in inputs)
    wanted = scaled_dot_product_attention(q, k, v, is_causal=causal).transpose(0, 1)
    check(spec(width).build(HEADS * DIM, HEADS)(*inputs, graph_of("", 17, causal)), wanted, inputs)


def effective(name: str, causal: bool, n: int) -> Tensor:
    """The matrix that the seat applies to values, [num_heads, n, n], read off by unit values."""
    query, key, _ = drawn(n)
    unit = torch.eye(n, dtype=torch.float64)[:, None].expand(n, HEADS, n)
    with torch.no_grad():
        return made(name, causal)(query, key, unit, graph_of(name, n, causal)).transpose(0, 1)


@pytest.mark.parametrize("name", ["fixed 4", "clusters"])
def test_blocks_between_clusters_have_rank_one(name: str) -> None:
    n = 16
    weights, cluster = effective(name, False, n), torch.arange(n) // 4
    if name == "clusters":
        cluster = torch.tensor([label_of(j) for j in range(n)])
    for of_targets in range(4):
        for of_sources in range(4):
            part = weights[:, cluster == of_targets][:, :, cluster == of_sources]
            rank = torch.linalg.matrix_rank(part, rtol=1e-9)
            assert bool((rank == 1).all()) == (of_targets != of_sources)


@specs
def test_the_future_does_not_reach_back(name: str) -> None:
    n, at = 33, 20
    inputs, graph, seat = drawn(n), graph_of(name, n, True), made(name, True)
    out = seat(*inputs, graph)
    changed = [x.detach().clone() for x in inputs]
    for x in changed:
        x[at] += 5.0
    after = seat(*changed, graph)
    assert torch.equal(after[:at], out.detach()[:at])
    assert bool(((after - out)[at:].abs().amax((1, 2)) > 0).all())
    for grad in torch.autograd.grad(out[:at].square().sum(), inputs):
        assert float(grad[at:].abs().max()) == 0.0 and bool((grad[: at - 1].abs().amax((1, 2)) > 0).any())


def test_one_plan_twice_is_that_plan() -> None:
    class Twice(combiner.AxialVertical):
        def _made(self, support):
            return (super()._made(support),) * 2

    inputs, graph = drawn(17), full(17)
    seats = [spec(5).build(HEADS * DIM, HEADS) for spec in (Twice, combiner.AxialVertical)]
    check(seats[0](*inputs, graph), seats[1](*inputs, graph), inputs)


@pytest.mark.parametrize("log_size", [False, True])
def test_a_summary_of_equal_keys_weighs_as_one_of_them_unless_its_size_counts(log_size: bool) -> None:
    n, segment = 12, 4
    query, key, value = (x.detach().clone() for x in drawn(n))
    key[:segment], query[:segment] = key[0], query[0]
    weights = matrix(fixed(segment), query, key, False, log_size=log_size)
    logit = DIM**-0.5 * torch.einsum("hd,hd->h", query[n - 1], key[0])
    own = DIM**-0.5 * torch.einsum("hd,hd->h", query[n - 1], key[n - 1])
    mass = weights[:, n - 1, :segment].sum(-1) / weights[:, n - 1, n - 1]
    count = segment if log_size else 1  # dense attention gives segment · exp(logit)
    assert_close(mass, count * torch.exp(logit - own))
    out = made("fixed 4", False, log_size=log_size)(query, key, value, full(n))
    assert_close(out, (weights @ value.transpose(0, 1)).transpose(0, 1))


# --- padding -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in SPECS if name != "clusters"])
@both
@pytest.mark.parametrize("impl", ["auto", "fused"])
def test_padding_enters_nothing(name: str, causal: bool, impl: str) -> None:
    n = 23
    is_token = torch.ones(n, dtype=torch.bool)
    is_token[[0, 8, 9, 10, 11, 12, 13, 14, 22]] = False  # a whole segment, a whole row
    graph = full(n).keep_sources(is_token)
    graph = graph.keep(is_causal) if causal else graph
    inputs = drawn(n)
    seat = made(name, causal)
    out = seat(*inputs, graph, impl=impl)[is_token]
    grads = torch.autograd.grad(out.square().sum(), inputs)
    for grad in grads:
        assert float(grad[~is_token].abs().max()) == 0.0 and bool((grad[is_token].abs().amax((1, 2)) > 0).any())
    changed = [x.detach().clone() for x in inputs]
    for x in changed:
        x[~is_token] = 1e6
    assert_close(seat(*changed, graph, impl=impl)[is_token], out)
    # all tokens are still covered: values of one come out as one
    ones = torch.ones_like(inputs[2])
    ones[~is_token] = torch.nan
    assert_close(seat(inputs[0], inputs[1], ones, graph, impl="fused")[is_token], torch.ones_like(out))


def test_a_token_without_a_cluster_reads_nothing_and_is_not_read() -> None:
    graph = clusters(7, [0, 0, -1, 1, 1, 1, -1])
    inputs = drawn(7)
    out = combiner.Clusters().build(HEADS * DIM, HEADS)(*inputs, graph)
    assert float(out[[2, 6]].detach().abs().max()) == 0.0
    for grad in torch.autograd.grad(out.square().sum(), inputs):
        assert float(grad[[2, 6]].abs().max()) == 0.0 and float(grad[0].abs().max()) > 0.0


# --- in a layer ----------------------------------------------------------------------------------------------------


@specs
def test_a_layer_trains_and_draws_nothing_in_evaluation(name: str) -> None:
    torch.manual_seed(0)
    layer = GraphAttention(12, 4, connect=SPECS[name][1](), dropout_p=0.5, num_key_heads=2)
    x, graph = torch.randn(27, 12, requires_grad=True), graph_of(name, torch.tensor([7, 0, 1, 17, 2]), False)
    layer(x, graph).square().sum().backward()
    assert all(float(p.grad.abs().max()) > 0 for p_name, p in layer.named_parameters() if "key_proj.bias" not in p_name)
    assert not torch.equal(layer(x, graph), layer(x, graph))
    layer.eval()
    assert torch.equal(layer(x, graph), layer(x, graph))


def test_grouped_heads_are_repeated_heads() -> None:
    query, key, value = drawn(17)
    few = [x[:, :1].contiguous() for x in (key, value)]
    for name in ("fixed 4", "vertical", "rowmajor"):
        seat, graph = made(name, False), full(17)
        wanted = seat(query, *(x.expand(-1, HEADS, -1) for x in few), graph)
        assert_close(seat(query, *few, graph), wanted)


def test_a_head_gate_multiplies_heads() -> None:
    inputs, gate = drawn(17), torch.tensor([0.0, 0.5, 2.0], dtype=torch.float64)
    for name in ("fixed 4", "mixture"):
        seat = made(name, False)
        assert_close(seat(*inputs, full(17), head_gate=gate), seat(*inputs, full(17)) * gate[:, None])


def test_pairs_are_made_once_a_graph() -> None:
    graph, layer = full(17), GraphAttention(6, 2, connect=combiner.Mixture(4))
    pairs = layer.connect.pairs_of(graph)
    layer(torch.randn(17, 6), graph)
    assert layer.connect.pairs_of(graph) is pairs
    other = GraphAttention(6, 2, connect=combiner.Mixture(4))
    assert other.connect.pairs_of(graph) is pairs  # equal specs share them
    assert GraphAttention(6, 2, connect=combiner.Mixture(3)).connect.pairs_of(graph) is not pairs


# --- recordings ----------------------------------------------------------------------------------------------------


class Model(nn.Module):
    def __init__(self, spec: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(GraphAttention(6, 2, connect=spec) for _ in range(2))

    def forward(self, x: Tensor, graph: AttentionGraph) -> Tensor:
        for layer in self.layers:
            x = x + layer(x, graph)
        return x


@specs
@pytest.mark.parametrize("sizes", [17, torch.tensor([7, 1, 9])], ids=["one", "batch"])
def test_a_recording_holds_the_abstractions_and_pathways_lead_through_them(name: str, sizes: int | Tensor) -> None:
    spec, graph = SPECS[name][1](), graph_of(name, sizes, False)
    model, x = Model(spec), torch.randn(17, 6, requires_grad=True)
    plain = model(x, graph)
    with record(model) as recording:
        out = model(x, graph)
        out.square().sum().backward()
    assert_close(out, plain)
    num_pairs = len(SPECS[name][0])
    kinds = [step.kind for step in recording.steps]
    assert kinds == (["summary"] * num_pairs + ["attention"]) * 2
    assert all(step.gradient is not None for step in recording.steps)
    for step in recording.steps:
        total = torch.zeros(step.graph.num_dst_nodes, 2).index_add(0, step.graph.edge_index[1], step.alpha)
        assert_close(total, torch.ones_like(total))
    assert recording.num_examples == (1 if isinstance(sizes, int) else 3)
    for weighting in ("alpha", "value_norm", "gradient"):
        found = pathways(recording, example=recording.num_examples - 1, weighting=weighting)
        assert found.num_nodes > 0
    reached = pathways(recording).rollout().weight  # everything of the example is reached through two layers
    assert_close(reached.sum(-1), torch.ones_like(reached.sum(-1)))
    assert bool((reached > 0).all())


# --- bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("graph", "advice"),
    [
        (full(6, dst_sizes=17), "needs sources that are the targets"),
        (sliding_window(17, 3), "covers full attention, which would be 289 edges"),
        (sliding_window(17, 3).keep(is_causal), "which would be 153 causal edges"),
        (AttentionGraph(torch.empty(2, 0).long(), 17, head_mask=torch.ones(0, 3).bool()), "one graph for all heads"),
    ],
)
def test_a_graph_that_is_not_full_is_refused(graph: AttentionGraph, advice: str) -> None:
    inputs = [torch.zeros(n, HEADS, DIM) for n in (graph.num_dst_nodes, graph.num_src_nodes, graph.num_src_nodes)]
    with pytest.raises(ValueError, match=re.escape(advice)):
        combiner.Fixed(4).build(HEADS * DIM, HEADS)(*inputs, graph)


def test_terms_of_edges_are_refused() -> None:
    layer = GraphAttention(6, 2, connect=combiner.Fixed(4), edge=EdgeTerms(3))
    with pytest.raises(ValueError, match=re.escape("a Combiner takes nothing per edge, got edge_attr")):
        layer(torch.zeros(5, 6), full(5), edge_attr=torch.zeros(25, 3))


def test_what_is_no_graph_or_no_summary_is_refused() -> None:
    inputs = drawn(4)
    with pytest.raises(TypeError, match=re.escape("graph must be an AttentionGraph, got int")):
        combiner.Fixed(4).build(15, HEADS)(*inputs, 4)
    with pytest.raises(ValueError, match=re.escape("summary must be one of 'max', 'mean', 'learned', got 'sum'")):
        combiner.Fixed(4, summary="sum").build(15, HEADS)
    with pytest.raises(ValueError, match="segment must be at least 1, got 0"):
        combiner.Fixed(0).build(15, HEADS)(*inputs, full(4))
    with pytest.raises(ValueError, match="width must be at least 1, got -2"):
        combiner.AxialVertical(-2).build(15, HEADS)(*inputs, full(4))


def test_the_verb_is_called_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def counted(*inputs: Any, **options: Any) -> Tensor:
        calls.append(inputs[3].kinds)
        return graph_attention(*inputs, **options)

    monkeypatch.setattr("graphattn.nn.combiner.seat.graph_attention", counted)
    made("fixed 4", True)(*drawn(17), graph_of("fixed 4", 17, True))
    assert calls == [("summarise",), ("direct", "read")]


def test_half_precision_and_autocast_pass() -> None:
    layer, graph = GraphAttention(6, 2, connect=combiner.AxialVertical(4)), full(17)
    x = torch.randn(17, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = layer(x, graph)
    assert out.dtype == torch.bfloat16 and F.mse_loss(out.float(), layer(x, graph)) < 1e-3


def test_learned_summaries_drop_heads_with_the_layer() -> None:
    torch.manual_seed(0)
    layer = GraphAttention(12, 3, connect=combiner.Fixed(3, summary="learned")).double()
    for pool in (layer.connect.query_pool, layer.connect.key_pool):
        torch.nn.init.normal_(pool.outer)
    x, graph = torch.randn(8, 12, dtype=torch.float64), full(8).keep(is_causal)
    expected = layer(x, graph, head_gate=torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64))
    smaller = layer.keep_heads_([0, 2])
    assert_close(smaller(x, graph), expected, rtol=1e-12, atol=1e-12)
    assert smaller.connect.query_pool.inner.shape == (2, 4, 4)
    assert len(list(smaller.keep_heads_([]).parameters())) == 2  # of out_proj


def test_a_mixture_is_recorded_with_any_implementation_and_without_dropout_alone() -> None:
    layer = GraphAttention(12, 3, connect=combiner.Mixture(3), impl="sdpa", dropout_p=0.5)
    x, graph = torch.randn(8, 12), full(8).keep(is_causal)
    with pytest.raises(ValueError, match="Record the model in evaluation, or with dropout_p=0"), record(layer):
        layer(x, graph)
    layer.eval()
    with record(layer) as recording:
        again = layer(x, graph)
    assert_close(again, layer(x, graph))
    assert recording.steps[-1].alpha.sum(0).allclose(torch.full((3,), 8.0))


@pytest.mark.parametrize("summary", ["max", "mean", "learned"])
@pytest.mark.parametrize("spec", [combiner.LogSparse, lambda **options: combiner.Fixed(2, **options)])
def test_a_nan_stays_in_its_example_and_after_its_token(spec: Callable[..., Any], summary: str) -> None:
    torch.manual_seed(0)
    layer = GraphAttention(12, 3, connect=spec(summary=summary), impl="scatter")
    x, graph = torch.randn(19, 12), full(torch.tensor([9, 10])).keep(is_causal)
    expected = layer(x, graph)
    x[4] = torch.nan
    out = layer(x, graph)
    is_spoilt = out.isnan().any(1)
    assert is_spoilt[4] and not is_spoilt[:4].any() and not is_spoilt[9:].any()
    assert_close(out[~is_spoilt], expected[~is_spoilt])


@pytest.mark.parametrize("spec", [combiner.Fixed(3), combiner.LogSparse(), combiner.AxialVertical(3)], ids=repr)
def test_pairs_that_are_made_before_let_a_layer_compile(spec: Any) -> None:
    torch._dynamo.reset()
    layer, x, graph = GraphAttention(12, 3, connect=spec), torch.randn(8, 12), full(8).keep(is_causal)
    layer.connect.pairs_of(graph)
    graph.plan()
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    assert_close(compiled(x, graph), layer(x, graph))
    torch._dynamo.reset()


@pytest.mark.parametrize("impl", ["auto", "scatter", "fused", "blocks"])
def test_a_graph_that_was_first_used_in_inference_serves_training(impl: str) -> None:
    for connect in (None, combiner.Fixed(3)):
        layer, x, graph = GraphAttention(12, 3, connect=connect, impl=impl), torch.randn(8, 12), full(8)
        with torch.inference_mode():
            expected = layer(x, graph)
        out = layer(x, graph)
        out.square().sum().backward()
        assert_close(out.detach(), expected)


def test_means_of_many_halves_are_summed_in_float32() -> None:
    members = members_of(connectivity.combiner.fixed(4096, 2048, causal=True).summarise)
    values = torch.full((4096, 1, 1), 40.0, dtype=torch.float16)
    assert mean_pool(values, members).flatten().tolist() == [40.0, 40.0]
