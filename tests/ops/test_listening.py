"""What the verb tells those who listen, and what it costs those who do not."""

import re
import threading
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import graphattn as ga
from graphattn.connectivity import full, sliding_window
from graphattn.graph import AttentionGraph
from graphattn.ops import (
    attention_weights,
    attention_with_lse,
    attention_with_weights,
    dropout_factor,
    graph_attention,
)
from graphattn.ops._dispatch import Sizes, reason_against
from graphattn.ops.listening import Call, calls_are, is_listening, listen, tell
from tests.ops.graphs import GRAPHS, NUM_HEADS, ON_CPU

HEAD_DIM, VALUE_DIM, EDGE_DIM = 5, 7, 2
EXACT = {"atol": 1e-10, "rtol": 1e-10}


class Ear:
    """Listens to every call, or to none."""

    def __init__(self, is_willing: bool = True):
        self.is_willing, self.calls, self.gradients = is_willing, list[Call](), list[Tensor]()

    def wants(self) -> bool:
        return self.is_willing

    def hear(self, call: Call) -> None:
        self.calls.append(call)
        if call.on_gradient is not None:
            call.on_gradient(self.gradients.append)


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


def inputs_for(graph: AttentionGraph, num_key_heads: int = NUM_HEADS) -> tuple[Tensor, Tensor, Tensor]:
    return (
        drawn(graph.num_dst_nodes, NUM_HEADS, HEAD_DIM),
        drawn(graph.num_src_nodes, num_key_heads, HEAD_DIM),
        drawn(graph.num_src_nodes, num_key_heads, VALUE_DIM),
    )


def skip_where_it_cannot(impl: str, graph: AttentionGraph, reads_edges: bool) -> None:
    sizes = Sizes(NUM_HEADS, HEAD_DIM, VALUE_DIM, torch.float64, torch.device("cpu"))
    if impl != "auto" and (reason := reason_against(impl, graph, sizes, reads_edges)) is not None:
        pytest.skip(reason)


def terms_of(graph: AttentionGraph) -> dict[str, Any]:
    return {
        "edge_bias": drawn(graph.num_edges, NUM_HEADS),
        "edge_gate": drawn(graph.num_edges).sigmoid(),
        "head_gate": drawn(NUM_HEADS),
        "edge_attr": drawn(graph.num_edges, EDGE_DIM),
        "edge_key_weight": drawn(NUM_HEADS, HEAD_DIM, EDGE_DIM),
        "edge_value_weight": drawn(NUM_HEADS, VALUE_DIM, EDGE_DIM),
        "logit_clip": 3.0,
        "dropout_p": 0.3,
        "seed": torch.tensor(5),
    }


# --- weights -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("has_gradients", [False, True])
@pytest.mark.parametrize("impl", ["auto", *ON_CPU])
@pytest.mark.parametrize("name", GRAPHS)
def test_the_weights_told_are_those_of_the_call_whose_output_stays_as_it_is(
    name: str, impl: str, has_gradients: bool
) -> None:
    graph, ear = GRAPHS[name], Ear()
    skip_where_it_cannot(impl, graph, reads_edges=False)
    query, key, value = (x.float() for x in inputs_for(graph))
    with torch.set_grad_enabled(has_gradients):
        unheard = graph_attention(query, key, value, graph, impl=impl)
        with listen(ear):
            heard = graph_attention(query, key, value, graph, impl=impl)
    assert torch.equal(heard, unheard)
    [call] = ear.calls
    assert call.kind == "attention" and call.graph.blocks is None and call.graph == graph
    assert_close(call.alpha, attention_weights(query, key, graph, impl="scatter"))
    assert torch.equal(call.value, value)


@pytest.mark.parametrize("impl", ["auto", *ON_CPU])
def test_terms_of_the_score_are_in_the_weights_and_gates_and_dropout_beside_them(impl: str) -> None:
    graph, ear = GRAPHS["blocks and edges"], Ear()
    skip_where_it_cannot(impl, graph, reads_edges=True)
    query, key, value = inputs_for(graph, num_key_heads=1)
    terms = terms_of(graph)
    with listen(ear), torch.no_grad():
        heard = graph_attention(query, key, value, graph, impl=impl, **terms)
    assert torch.equal(heard, graph_attention(query, key, value, graph, impl=impl, **terms))
    of_score = ("edge_bias", "edge_attr", "edge_key_weight", "logit_clip")
    expected = attention_weights(query, key, graph, impl="dense", **{name: terms[name] for name in of_score})
    [call] = ear.calls
    assert_close(call.alpha, expected, **EXACT)
    assert torch.equal(call.edge_gate, terms["edge_gate"][:, None])
    assert torch.equal(call.head_gate, terms["head_gate"])


def test_tables_of_types_are_told_edge_by_edge() -> None:
    graph, ear = GRAPHS["window"], Ear()
    query, key, value = inputs_for(graph)
    edge_type = torch.arange(graph.num_edges) % 3
    tables = {"edge_bias": drawn(3, NUM_HEADS), "edge_gate": drawn(3, 1)}
    with listen(ear), torch.no_grad():
        heard = graph_attention(query, key, value, graph, edge_type=edge_type, **tables)
    assert torch.equal(heard, graph_attention(query, key, value, graph, edge_type=edge_type, **tables))
    assert_close(
        ear.calls[0].alpha, attention_weights(query, key, graph, edge_bias=tables["edge_bias"][edge_type]), **EXACT
    )
    assert torch.equal(ear.calls[0].edge_gate, tables["edge_gate"][edge_type])


def test_the_other_verbs_tell_theirs() -> None:
    graph, ear = GRAPHS["window"], Ear()
    query, key, value = inputs_for(graph)
    with listen(ear):
        out, lse = attention_with_lse(query, key, value, graph)
        out_again, alpha = attention_with_weights(query, key, value, graph)
        attention_weights(query, key, graph)  # for the caller's own use
    assert len(ear.calls) == 2
    for call in ear.calls:
        assert_close(call.alpha, alpha, **EXACT)
    expected = attention_with_lse(query, key, value, graph)
    assert torch.equal(out, expected[0]) and torch.equal(lse, expected[1])
    assert_close(out_again, out, **EXACT)


def test_half_precision_is_told_in_float32() -> None:
    graph, ear = GRAPHS["window"], Ear()
    query, key, value = (x.bfloat16() for x in inputs_for(graph))
    with listen(ear):
        graph_attention(query, key, value, graph)
    assert ear.calls[0].alpha.dtype == torch.float32


# --- gradients -----------------------------------------------------------------------------------------------------


def weights_gradient_by_hand(graph: AttentionGraph, value: Tensor, alpha: Tensor, terms: dict[str, Any]) -> Tensor:
    """d Σ out² / d alpha by autograd, alpha being spread to every pair."""
    src, dst = graph.edge_index
    alpha = alpha.detach().requires_grad_()
    weight = alpha * terms["edge_gate"][:, None] if "edge_gate" in terms else alpha
    if "seed" in terms:
        weight = weight * dropout_factor(terms["seed"], torch.arange(graph.num_edges), NUM_HEADS, terms["dropout_p"])
    pairs = torch.zeros(graph.num_dst_nodes, graph.num_src_nodes, NUM_HEADS, dtype=alpha.dtype)
    message = value.repeat_interleave(NUM_HEADS // value.shape[1], 1)
    out = torch.einsum("tsh,shd->thd", pairs.index_put((dst, src), weight), message)
    if "edge_attr" in terms:
        added = torch.einsum("hda,ea->ehd", terms["edge_value_weight"], terms["edge_attr"])
        out = out.index_add(0, dst, weight[..., None] * added)
    out = out * terms["head_gate"][:, None] if "head_gate" in terms else out
    gradient = torch.autograd.grad(out.square().sum(), alpha)[0]
    return gradient if graph.head_mask is None else gradient.masked_fill(~graph.head_mask, 0.0)


@pytest.mark.parametrize("impl", ["auto", *ON_CPU])
@pytest.mark.parametrize("name", ["full", "blocks and edges", "head mask", "lonely nodes", "bipartite", "no edges"])
@pytest.mark.parametrize("has_terms, num_key_heads", [(False, NUM_HEADS), (True, 1)])
def test_the_gradient_told_is_that_of_the_weights(name: str, impl: str, has_terms: bool, num_key_heads: int) -> None:
    graph, ear = GRAPHS[name], Ear()
    skip_where_it_cannot(impl, graph, reads_edges=has_terms)
    query, key, value = (x.requires_grad_() for x in inputs_for(graph, num_key_heads))
    terms = terms_of(graph) if has_terms else {}
    unheard = torch.autograd.grad(
        graph_attention(query, key, value, graph, impl=impl, **terms).square().sum(), (query, key, value)
    )
    with listen(ear):
        out = graph_attention(query, key, value, graph, impl=impl, **terms)
    heard = torch.autograd.grad(out.square().sum(), (query, key, value))
    assert all(torch.equal(a, b) for a, b in zip(heard, unheard))
    [gradient] = ear.gradients
    expected = weights_gradient_by_hand(graph, value.detach(), ear.calls[0].alpha, terms)
    assert_close(gradient, expected, **EXACT)
    assert not gradient.numel() or gradient.abs().max() > 0


def test_the_gradient_reads_tables_of_types() -> None:
    graph, ear = GRAPHS["window"], Ear()
    query, key, value = (x.requires_grad_() for x in inputs_for(graph))
    edge_type, terms = torch.arange(graph.num_edges) % 3, terms_of(GRAPHS["window"])
    tables = {name: terms[name][:3] for name in ("edge_attr", "edge_gate")}
    weights = {name: terms[name] for name in ("edge_key_weight", "edge_value_weight")}
    with listen(ear):
        graph_attention(query, key, value, graph, edge_type=edge_type, **tables, **weights).square().sum().backward()
    listed = {name: table[edge_type] for name, table in tables.items()} | weights
    expected = weights_gradient_by_hand(graph, value.detach(), ear.calls[0].alpha, listed)
    assert_close(ear.gradients[0], expected, **EXACT)


def test_without_gradients_none_is_promised() -> None:
    graph, ear = GRAPHS["window"], Ear()
    with listen(ear), torch.no_grad():
        graph_attention(*inputs_for(graph), graph)
    with listen(ear):
        graph_attention(*inputs_for(graph), graph)  # enabled, but nothing asks for one
    assert [call.on_gradient for call in ear.calls] == [None, None]


# --- who listens ---------------------------------------------------------------------------------------------------


def test_those_who_do_not_want_a_call_cost_it_nothing() -> None:
    graph, ear = full(torch.tensor([5, 3])), Ear(is_willing=False)
    assert graph.blocks is not None
    query, key, value = inputs_for(graph)
    with listen(ear):
        graph_attention(query, key, value, graph, impl="blocks")
    assert ear.calls == [] and "listed" not in graph._cache


def test_listeners_nest_and_go_with_their_block() -> None:
    graph, outer, inner = GRAPHS["window"], Ear(), Ear()
    call = inputs_for(graph)
    with listen(outer):
        with pytest.raises(KeyboardInterrupt), listen(inner):
            graph_attention(*call, graph)
            raise KeyboardInterrupt
        graph_attention(*call, graph)
        assert is_listening()
    graph_attention(*call, graph)
    assert (len(outer.calls), len(inner.calls)) == (2, 1) and not is_listening()


def test_threads_hear_themselves_alone() -> None:
    graph, mine, theirs = GRAPHS["window"], Ear(), Ear()
    heard: list[bool] = []

    def other() -> None:
        heard.append(is_listening())
        graph_attention(*inputs_for(graph), graph)
        with listen(theirs):
            graph_attention(*inputs_for(graph), graph)

    with listen(mine):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert heard == [False] and mine.calls == [] and len(theirs.calls) == 1


def test_a_compiled_region_is_compiled_once_and_refuses_to_be_heard() -> None:
    import torch._dynamo

    torch._dynamo.reset()
    graph, ear = GRAPHS["window"], Ear()
    graph.plan()
    query, key, value = (x.float() for x in inputs_for(graph))
    run = torch.compile(graph_attention, backend="eager", fullgraph=True)
    expected = run(query, key, value, graph)
    with listen(ear), pytest.raises(torch._dynamo.exc.Unsupported, match=re.escape("model._orig_mod")):
        run(query, key, value, graph)
    outputs: list[Tensor] = []
    with torch._dynamo.config.patch(error_on_recompile=True):
        outputs.append(run(query, key, value, graph))
        with listen(ear):  # another thread has its own program still
            thread = threading.Thread(target=lambda: outputs.append(run(query, key, value, graph)))
            thread.start()
            thread.join()
    assert all(torch.equal(out, expected) for out in outputs) and len(outputs) == 2
    assert ear.calls == []
    torch._dynamo.reset()


def test_transforms_of_torch_func_refuse_to_be_heard() -> None:
    graph = GRAPHS["window"]
    query, key, value = inputs_for(graph)

    def total(query: Tensor) -> Tensor:
        return graph_attention(query, key, value, graph, impl="scatter").sum()

    with listen(Ear()), pytest.raises(RuntimeError, match="ordinary call"):
        torch.func.grad(total)(query)


# --- weights of one's own ------------------------------------------------------------------------------------------


def test_a_module_tells_weights_of_its_own_and_their_gradient() -> None:
    graph, ear = GRAPHS["window"], Ear()
    src, dst = graph.edge_index
    x = drawn(graph.num_src_nodes, VALUE_DIM)
    scores = drawn(graph.num_edges).requires_grad_()
    with listen(ear):
        alpha = ga.ops.edge_softmax(scores, dst, graph.num_dst_nodes)
        tell(graph, alpha, kind="pool", edge_gate=drawn(graph.num_edges), value=x[:, None])
        out = ga.ops.segment_sum(alpha[:, None] * x[src], dst, graph.num_dst_nodes)
    out.square().sum().backward()
    [call], [gradient] = ear.calls, ear.gradients
    assert call.kind == "pool" and not call.alpha.requires_grad
    assert torch.equal(call.alpha[:, 0], alpha) and call.edge_gate.shape == (graph.num_edges, 1)
    assert_close(gradient[:, 0], (2 * out.detach()[dst] * x[src]).sum(1), **EXACT)


def test_blocks_are_listed_for_who_listens() -> None:
    graph, ear = full(5), Ear()
    with listen(ear):
        tell(graph, torch.full((25, 2), 0.2), head_gate=torch.ones(2))
    assert ear.calls[0].graph.blocks is None and ear.calls[0].head_gate.tolist() == [1.0, 1.0]


def test_calls_say_what_they_are() -> None:
    graph, ear = GRAPHS["window"], Ear()
    call = inputs_for(graph)
    with listen(ear):
        with calls_are("summary"):
            graph_attention(*call, graph)
            tell(graph, torch.ones(graph.num_edges), kind="pool")  # says it itself
        graph_attention(*call, graph)
    assert [call.kind for call in ear.calls] == ["summary", "pool", "attention"]


def test_telling_does_nothing_where_nobody_listens() -> None:
    tell("no graph", "no weights", kind="no kind")  # type: ignore[arg-type]
    with listen(Ear(is_willing=False)):
        tell("no graph", "no weights")  # type: ignore[arg-type]
    with calls_are("pool"):
        assert not is_listening()


@pytest.mark.parametrize(
    "change, advice",
    [
        ({"graph": "graph"}, "graph must be an AttentionGraph, got str"),
        ({"alpha": torch.ones(2, 3)}, "num_edges = 31, got torch.float32 [2, 3]"),
        ({"alpha": torch.ones(31, 3, dtype=torch.int64)}, "floating"),
        ({"alpha": torch.ones(31, 3, 1)}, "[31, 3, 1]"),
        ({"kind": "pooling"}, "kind must be one of attention, summary, pool, got 'pooling'"),
        ({"edge_gate": torch.ones(31, 2)}, "edge_gate must be"),
        ({"head_gate": torch.ones(2)}, "[num_heads] = [3], got [2]"),
        ({"value": torch.ones(11, 2, 4)}, "heads that divide 3, got [11, 2, 4]"),
        ({"value": torch.ones(12, 3, 4)}, "num_src_nodes = 11"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Any], advice: str) -> None:
    graph = sliding_window(11, 1)
    arguments = {"graph": graph, "alpha": torch.ones(graph.num_edges, NUM_HEADS)} | change
    with listen(Ear()), pytest.raises((TypeError, ValueError), match=re.escape(advice)):
        tell(**arguments)


def test_an_unknown_kind_of_call_is_refused() -> None:
    with pytest.raises(ValueError, match="kind must be one of"):
        calls_are("abstraction")
