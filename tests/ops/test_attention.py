"""The verb, by every implementation, against `dense`; `dense` against torch and against the formula as loops."""

import contextlib
import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.testing import assert_close

from graphattn.connectivity import full, global_tokens, sliding_window
from graphattn.graph import AttentionGraph
from graphattn.ops import (
    IMPLEMENTATIONS,
    attention_weights,
    attention_with_lse,
    attention_with_weights,
    edge_logits,
    graph_attention,
    supports,
)
from graphattn.ops import _dispatch as dispatch
from tests import strategies
from tests.ops.graphs import GRAPHS, NUM_HEADS, ON_CPU, block, edges, with_blocks

HEAD_DIM, VALUE_DIM, EDGE_DIM = 5, 7, 2
FAST = [impl for impl in ON_CPU if impl != "dense"]
PER_EDGE = [impl for impl in IMPLEMENTATIONS if supports(impl, "weights")]
WITH_TERMS = [impl for impl in IMPLEMENTATIONS if supports(impl, "edge_bias")]  # and dropout and lse: all but sdpa
SEED = torch.tensor(2**40 + 1234)
EXACT = {"atol": 1e-10, "rtol": 1e-10}

Inputs = dict[str, Any]


def features(
    graph: AttentionGraph, *, heads: int = NUM_HEADS, key_heads: int | None = None, dtype: torch.dtype = torch.float64
) -> Inputs:
    """Query, key and value, and a factor that makes every output count differently."""
    generator = torch.Generator().manual_seed(graph.num_edges)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=dtype)

    key_heads = heads if key_heads is None else key_heads
    return {
        "query": normal(graph.num_dst_nodes, heads, HEAD_DIM),
        "key": normal(graph.num_src_nodes, key_heads, HEAD_DIM),
        "value": normal(graph.num_src_nodes, key_heads, VALUE_DIM),
    }


def drawn(*shape: int, positive: bool = False) -> Tensor:
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)
    return values.sigmoid() if positive else values


def types(num_edges: int, number: int) -> Inputs:
    return {"edge_type": torch.arange(num_edges) * 7 % number}


TERMS: dict[str, Callable[[int, int], Inputs]] = {
    "nothing else": lambda num_edges, heads: {},
    "edge_bias of edges": lambda num_edges, heads: {"edge_bias": drawn(num_edges)},
    "edge_bias of one column": lambda num_edges, heads: {"edge_bias": drawn(num_edges, 1)},
    "edge_bias of heads": lambda num_edges, heads: {"edge_bias": drawn(num_edges, heads)},
    "edge_gate of edges": lambda num_edges, heads: {"edge_gate": drawn(num_edges, positive=True)},
    "edge_gate of one column": lambda num_edges, heads: {"edge_gate": drawn(num_edges, 1)},
    "edge_gate of heads": lambda num_edges, heads: {"edge_gate": drawn(num_edges, heads)},
    "head_gate": lambda num_edges, heads: {"head_gate": drawn(heads)},
    "edge_key_weight": lambda num_edges, heads: {
        "edge_attr": drawn(num_edges, EDGE_DIM),
        "edge_key_weight": drawn(heads, HEAD_DIM, EDGE_DIM),
    },
    "edge_value_weight": lambda num_edges, heads: {
        "edge_attr": drawn(num_edges, EDGE_DIM),
        "edge_value_weight": drawn(heads, VALUE_DIM, EDGE_DIM),
    },
    "edge_bias of types": lambda num_edges, heads: {"edge_bias": drawn(3, heads), **types(num_edges, 3)},
    "edge_bias and edge_gate of types": lambda num_edges, heads: {
        "edge_bias": drawn(5),
        "edge_gate": drawn(5, heads, positive=True),
        "logit_clip": 0.5,
        **types(num_edges, 5),
    },
    "edge_value_weight of types": lambda num_edges, heads: {
        "edge_attr": drawn(3, EDGE_DIM),
        "edge_value_weight": drawn(heads, VALUE_DIM, EDGE_DIM),
        **types(num_edges, 3),
    },
    "everything of types": lambda num_edges, heads: {
        "edge_bias": drawn(11, 1),
        "edge_attr": drawn(11, EDGE_DIM),
        "edge_key_weight": drawn(heads, HEAD_DIM, EDGE_DIM),
        "edge_value_weight": drawn(heads, VALUE_DIM, EDGE_DIM),
        "dropout_p": 0.3,
        "seed": SEED,
        **types(num_edges, 11),
    },
    "more types than are worth it": lambda num_edges, heads: {
        "edge_attr": drawn(97, EDGE_DIM),
        "edge_key_weight": drawn(heads, HEAD_DIM, EDGE_DIM),
        **types(num_edges, 97),
    },
    "scale": lambda num_edges, heads: {"scale": 1.7},
    "logit_clip": lambda num_edges, heads: {"logit_clip": 0.5},
    "dropout": lambda num_edges, heads: {"dropout_p": 0.3, "seed": SEED},
    "everything": lambda num_edges, heads: {
        "edge_bias": drawn(num_edges, heads),
        "edge_gate": drawn(num_edges, heads, positive=True),
        "head_gate": drawn(heads),
        "edge_attr": drawn(num_edges, EDGE_DIM),
        "edge_key_weight": drawn(heads, HEAD_DIM, EDGE_DIM),
        "edge_value_weight": drawn(heads, VALUE_DIM, EDGE_DIM),
        "scale": 0.7,
        "logit_clip": 1.5,
        "dropout_p": 0.3,
        "seed": SEED,
    },
}


def differentiated(function: Callable[..., Any], graph: AttentionGraph, inputs: Inputs) -> dict[str, Tensor]:
    """Calls the function and returns its results and the gradient of every float input, by name."""
    leaves = {
        name: x.detach().requires_grad_()
        for name, x in inputs.items()
        if isinstance(x, Tensor) and x.is_floating_point()
    }
    results = function(graph=graph, **{**inputs, **leaves})
    results = results if isinstance(results, tuple) else (results,)
    total = sum(
        (torch.where(result.isfinite(), result, 0) * drawn(*result.shape).to(result.dtype)).sum() for result in results
    )
    grads = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    named = {f"result {number}": result.detach() for number, result in enumerate(results)}
    for (name, leaf), grad in zip(leaves.items(), grads):
        named[f"gradient of {name}"] = torch.zeros_like(leaf) if grad is None else grad
    return named


def attend(graph: AttentionGraph, impl: str, inputs: Inputs) -> dict[str, Tensor]:
    return differentiated(lambda **all_of: graph_attention(impl=impl, **all_of), graph, inputs)


def attend_with_lse(graph: AttentionGraph, impl: str, inputs: Inputs) -> dict[str, Tensor]:
    without = {name: x for name, x in inputs.items() if name != "head_gate"}
    return differentiated(lambda **all_of: attention_with_lse(impl=impl, **all_of), graph, without)


def reads_edges(inputs: Inputs) -> bool:
    return inputs.get("dropout_p", 0) > 0 or any(name in inputs for name in ("edge_bias", "edge_gate", "edge_attr"))


def serves(impl: str, graph: AttentionGraph, inputs: Inputs) -> bool:
    """Whether the implementation can serve the call, said independently of dispatch.

    `gather` needs targets of one degree, `blocks` the edges of each target in one piece, `sdpa` a plain call.
    """
    if impl == "sdpa":
        return graph.head_mask is None and not reads_edges(inputs) and "logit_clip" not in inputs
    if impl == "gather":
        degree = torch.bincount(graph.edge_index[1], minlength=graph.num_dst_nodes)
        return len(set(degree.tolist())) == 1 and graph.num_edges > 0
    if impl != "blocks":
        return True
    in_pieces = graph in (GRAPHS["interleaving"], GRAPHS["two blocks of a target"])
    return (graph.blocks is not None or not graph.num_edges) and not (in_pieces and reads_edges(inputs))


def check_agreement(graph: AttentionGraph, impl: str, inputs: Inputs, **tolerance: float) -> None:
    expected = attend(graph, "dense", inputs)
    assert_close(attend(graph, impl, inputs), expected, **tolerance or EXACT)
    if graph.num_edges > graph.num_dst_nodes:
        assert all(x.abs().max() > 0 for x in expected.values()), "the test is blind to something"


# --- agreement -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("impl", FAST)
@pytest.mark.parametrize("terms", TERMS)
@pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS)
def test_output_and_gradients_equal_those_of_dense(graph: AttentionGraph, terms: str, impl: str) -> None:
    inputs = features(graph) | TERMS[terms](graph.num_edges, NUM_HEADS)
    if serves(impl, graph, inputs):
        check_agreement(graph, impl, inputs)
    else:
        with pytest.raises(ValueError, match=rf"impl='{impl}' cannot serve this call: .*These can: dense, scatter"):
            graph_attention(graph=graph, impl=impl, **inputs)


@pytest.mark.parametrize("impl", [impl for impl in FAST if supports(impl, "lse")])
@pytest.mark.parametrize("terms", ["nothing else", "everything"])
@pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS)
def test_log_sum_exp_and_its_gradients_equal_those_of_dense(graph: AttentionGraph, terms: str, impl: str) -> None:
    inputs = features(graph) | TERMS[terms](graph.num_edges, NUM_HEADS)
    if serves(impl, graph, inputs):
        assert_close(attend_with_lse(graph, impl, inputs), attend_with_lse(graph, "dense", inputs), **EXACT)


@pytest.mark.parametrize("terms", [terms for terms in TERMS if terms not in ("nothing else", "scale", "head_gate")])
@pytest.mark.parametrize("name", [name for name, graph in GRAPHS.items() if graph.blocks is not None])
def test_blocks_equal_dense_where_they_are_padded(name: str, terms: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As without Numba, in a compiled region, and on CUDA."""
    monkeypatch.setattr(dispatch, "reads_copies", lambda *call: False)
    graph = GRAPHS[name]
    inputs = features(graph) | TERMS[terms](graph.num_edges, NUM_HEADS)
    if serves("blocks", graph, inputs):
        check_agreement(graph, "blocks", inputs)
        assert_close(attend_with_lse(graph, "blocks", inputs), attend_with_lse(graph, "dense", inputs), **EXACT)


@pytest.mark.parametrize("impl", FAST)
@pytest.mark.parametrize("terms", ["nothing else", "everything"])
@pytest.mark.parametrize("heads, key_heads", [(3, 1), (6, 3), (6, 2)])
@pytest.mark.parametrize(
    "name", ["window", "lonely nodes", "bipartite", "padded staircases", "blocks and edges", "three keys each"]
)
def test_grouped_heads_agree(name: str, heads: int, key_heads: int, terms: str, impl: str) -> None:
    graph = GRAPHS[name]
    inputs = features(graph, heads=heads, key_heads=key_heads) | TERMS[terms](graph.num_edges, heads)
    if serves(impl, graph, inputs):
        check_agreement(graph, impl, inputs)


@pytest.mark.parametrize("impl", ON_CPU)
def test_grouped_heads_are_those_of_repeated_keys(impl: str) -> None:
    graph = GRAPHS["full"]
    inputs = features(graph, heads=6, key_heads=3)
    repeated = inputs | {name: inputs[name].repeat_interleave(2, 1) for name in ("key", "value")}
    out = graph_attention(graph=graph, impl=impl, **inputs)
    assert_close(out, graph_attention(graph=graph, impl="dense", **repeated), **EXACT)


@pytest.mark.parametrize("impl", FAST)
@pytest.mark.parametrize(
    "name", ["full", "hub", "head mask", "blocks and edges", "padded staircases", "head mask over three keys each"]
)
@pytest.mark.parametrize("factor", [50.0, 1e4])
def test_large_logits_agree(name: str, impl: str, factor: float) -> None:
    graph = GRAPHS[name]
    inputs = features(graph)
    inputs["query"] = inputs["query"] * factor
    if serves(impl, graph, inputs):
        results, expected = attend(graph, impl, inputs), attend(graph, "dense", inputs)
        for name, x in results.items():
            assert x.isfinite().all()
            assert_close(x, expected[name], **EXACT)


@pytest.mark.parametrize("impl", ON_CPU)
@pytest.mark.parametrize("name", ["window", "full", "blocks and edges", "cross", "three keys each"])
def test_strided_inputs_give_the_same_answer(name: str, impl: str) -> None:
    graph = GRAPHS[name]
    terms = TERMS["everything" if impl in WITH_TERMS else "nothing else"]
    inputs = features(graph) | terms(graph.num_edges, NUM_HEADS)

    def strided(x: Any) -> Any:
        if not isinstance(x, Tensor) or x.dim() == 0:
            return x
        return x.transpose(0, -1).contiguous().repeat_interleave(2, -1)[..., ::2].transpose(0, -1)

    scattered = {name: strided(x) for name, x in inputs.items()}
    assert not scattered["query"].is_contiguous() and torch.equal(scattered["query"], inputs["query"])
    if serves(impl, graph, inputs):
        assert_close(attend(graph, impl, scattered), attend(graph, "dense", inputs), **EXACT)
        if "edge_bias" not in inputs:
            return
        column = inputs["edge_bias"][:, :1]
        expanded = graph_attention(graph=graph, impl=impl, **inputs | {"edge_bias": column.expand(-1, NUM_HEADS)})
        assert_close(expanded, graph_attention(graph=graph, impl=impl, **inputs | {"edge_bias": column}), **EXACT)


def check_random_graph(graph: AttentionGraph, terms: str) -> None:
    inputs = features(graph) | TERMS[terms](graph.num_edges, NUM_HEADS)
    expected = attend(graph, "dense", inputs)
    sizes = dispatch.Sizes(NUM_HEADS, HEAD_DIM, VALUE_DIM, torch.float64, torch.device("cpu"))
    for impl in FAST:
        also = ("logit_clip",) if "logit_clip" in inputs else ()
        if dispatch.reason_against(impl, graph, sizes, reads_edges(inputs), also) is None:
            assert_close(attend(graph, impl, inputs), expected, **EXACT)


@given(strategies.graphs(), st.sampled_from(sorted(TERMS)))
@settings(max_examples=200)
def test_random_graphs_agree(graph: AttentionGraph, terms: str) -> None:
    check_random_graph(graph, terms)


@pytest.mark.slow
@given(strategies.graphs(), st.sampled_from(sorted(TERMS)))
@settings(max_examples=10_000)
def test_ten_thousand_random_graphs_agree(graph: AttentionGraph, terms: str) -> None:
    check_random_graph(graph, terms)


# --- the specification ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS)
def test_dense_equals_scaled_dot_product_attention_under_a_mask(graph: AttentionGraph) -> None:
    mask = strategies.dense(graph)
    sees = mask.any(-1).expand(NUM_HEADS, -1)  # [num_heads, num_dst_nodes]

    def torch_attention(query: Tensor, key: Tensor, value: Tensor, graph: AttentionGraph) -> Tensor:
        q, k, v = (x.transpose(0, 1)[None] for x in (query, key, value))
        readable = mask.expand(NUM_HEADS, -1, -1) | ~sees[..., None]  # a row without edges would be NaN
        out = scaled_dot_product_attention(q, k, v, attn_mask=readable[None])
        return torch.where(sees[..., None], out[0], 0.0).transpose(0, 1)

    inputs = features(graph)
    assert_close(attend(graph, "dense", inputs), differentiated(torch_attention, graph, inputs), **EXACT)


def hashed(seed: int, edge: int, head: int) -> int:
    """24 bits of the hash in the docstring of `ops.dropout`, in Python's integers."""

    def mix(x: int) -> int:
        x ^= x >> 16
        x = x * 0x7FEB352D % 2**32
        x ^= x >> 15
        x = x * 0x846CA68B % 2**32
        return x ^ x >> 16

    key = mix(mix((seed % 2**32 + 0x9E3779B9) % 2**32) ^ (seed >> 32))
    row = mix(mix(key ^ edge % 2**32) ^ (edge >> 32))
    return mix((row + (head + 1) * 0x9E3779B9) % 2**32) >> 8


def formula(
    graph: AttentionGraph, query: Tensor, key: Tensor, value: Tensor, *, edge_bias: Tensor, edge_gate: Tensor,
    head_gate: Tensor, edge_attr: Tensor, edge_key_weight: Tensor, edge_value_weight: Tensor, scale: float,
    logit_clip: float, dropout_p: float, seed: Tensor,
) -> Tensor:  # fmt: skip
    """The docstring of `graph_attention`, edge by edge."""
    group = query.shape[1] // key.shape[1]
    heads = []
    for target in range(graph.num_dst_nodes):
        for head in range(query.shape[1]):
            terms = []
            for e, (source, into) in enumerate(graph.edge_index.T.tolist()):
                if into != target or (graph.head_mask is not None and not graph.head_mask[e, head]):
                    continue
                keyed = key[source, head // group] + edge_key_weight[head] @ edge_attr[e]
                logit = (scale * query[target, head] @ keyed).clamp(-logit_clip, logit_clip) + edge_bias[e, head]
                read = value[source, head // group] + edge_value_weight[head] @ edge_attr[e]
                kept = hashed(int(seed), e, head) >= round(dropout_p * 2**24)
                terms.append((logit, edge_gate[e, head] * kept / (1 - dropout_p) * read))
            alpha = torch.stack([logit for logit, _ in terms]).softmax(0) if terms else ()
            heads.append(sum((a * read for a, (_, read) in zip(alpha, terms)), torch.zeros_like(value[0, 0])))
            heads[-1] = head_gate[head] * heads[-1]
    return torch.stack(heads).view(*query.shape[:2], -1)


@pytest.mark.parametrize("name", ["lonely nodes", "bipartite", "head mask", "blocks and edges", "padded staircases"])
def test_dense_equals_the_formula_written_as_loops(name: str) -> None:
    graph = GRAPHS[name]
    inputs = features(graph, key_heads=1) | TERMS["everything"](graph.num_edges, NUM_HEADS)
    assert_close(attend(graph, "dense", inputs), differentiated(formula, graph, inputs), **EXACT)


def test_default_scale_is_one_over_the_root_of_the_head_dim() -> None:
    graph = GRAPHS["window"]
    inputs = features(graph)
    scaled = graph_attention(graph=graph, scale=1 / math.sqrt(HEAD_DIM), **inputs)
    assert_close(graph_attention(graph=graph, **inputs), scaled, **EXACT)


# --- accuracy ------------------------------------------------------------------------------------------------------

LARGER = {
    "full": full(67),
    "window and hub": sliding_window(67, 5) | global_tokens(67, [0]),
    "block and edges": with_blocks(
        sliding_window(67, 3).keep(lambda src, dst: dst > 30), block([*range(30)], [*range(61)])
    ),
}


def check_accuracy(graph: AttentionGraph, impl: str, dtype: torch.dtype, inputs: Inputs, floor: float) -> None:
    def cast(of: Inputs, dtype: torch.dtype) -> Inputs:
        is_float = {name: isinstance(x, Tensor) and x.is_floating_point() for name, x in of.items()}
        return {name: x.to(dtype) if is_float[name] else x for name, x in of.items()}

    rounded = cast(inputs, dtype)
    exact = attend(graph, "dense", cast(rounded, torch.float64))
    ours, theirs = attend(graph, impl, rounded), attend(graph, "dense", rounded)
    for name, x in exact.items():
        assert ours[name].dtype == theirs[name].dtype
        error, allowed = (float((y[name].double() - x).norm()) for y in (ours, theirs))
        assert error <= 2 * allowed + floor * float(x.norm()), name


@pytest.mark.parametrize("impl", FAST)
@pytest.mark.parametrize("terms", ["nothing else", "everything"])
@pytest.mark.parametrize("graph", LARGER.values(), ids=LARGER)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_errors_are_at_most_twice_those_of_dense(
    dtype: torch.dtype, graph: AttentionGraph, terms: str, impl: str
) -> None:
    inputs = features(graph) | TERMS[terms](graph.num_edges, NUM_HEADS)
    inputs.pop("head_gate", None)  # torch multiplies it in after any implementation; how three sums round is luck
    if serves(impl, graph, inputs):
        check_accuracy(graph, impl, dtype, inputs, floor=torch.finfo(dtype).eps / 4)


@pytest.mark.parametrize("impl", WITH_TERMS)
def test_half_precision_is_summed_in_float32(impl: str) -> None:
    # 4096 equal weights of value one: a float16 sum of products would stall at 2048
    graph = full(4096, dst_sizes=1) if impl == "blocks" else full(4096, dst_sizes=1).enumerate()
    ones = torch.ones(4096, 1, 8, dtype=torch.float16)
    gate = torch.full((4096,), 4.0, dtype=torch.float16)
    out, lse = attention_with_lse(ones[:1], ones, ones, graph, edge_gate=gate, impl=impl)
    assert out.dtype == torch.float16 and lse.dtype == torch.float32
    assert_close(out, torch.full_like(out, 4.0))
    assert_close(lse, torch.full_like(lse, math.log(4096) + math.sqrt(8)))


@pytest.mark.parametrize("impl", ON_CPU)
def test_autocast_takes_mixed_dtypes_and_keeps_sums_in_float32(impl: str) -> None:
    graph = GRAPHS["three keys each in a block or not"]
    inputs = features(graph, dtype=torch.float32)
    low = {name: x.bfloat16() for name, x in inputs.items()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = graph_attention(low["query"], inputs["key"], low["value"], graph, impl=impl)
        wide = graph_attention(**inputs, graph=graph, impl=impl)
        weights = attention_weights(low["query"], inputs["key"], graph)
    assert mixed.dtype == weights.dtype == torch.bfloat16 and wide.dtype == torch.float32
    assert_close(mixed, graph_attention(**low, graph=graph, impl=impl))
    assert_close(wide, graph_attention(**inputs, graph=graph, impl=impl))


# --- corner cases --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("impl", WITH_TERMS)
@pytest.mark.parametrize("name", ["lonely nodes", "no edges", "blocks and edges", "two blocks of a target"])
def test_a_target_without_edges_gets_exactly_zero(name: str, impl: str) -> None:
    graph = GRAPHS[name]
    if not serves(impl, graph, {}):
        return
    seen = strategies.dense(graph).any(-1).expand(NUM_HEADS, -1).T
    results = attend_with_lse(graph, impl, features(graph))
    out, lse = results["result 0"], results["result 1"]
    assert (~seen).any()
    assert (out[~seen] == 0).all() and (lse[~seen] == -torch.inf).all() and lse[seen].isfinite().all()
    assert all(results[f"gradient of {name}"].isfinite().all() for name in ("query", "key", "value"))


@pytest.mark.parametrize("impl", WITH_TERMS)
@pytest.mark.parametrize("name", ["window", "full", "padded staircases", "blocks and edges", "three keys each"])
def test_a_target_whose_logits_are_all_minus_infinity_gets_exactly_zero(name: str, impl: str) -> None:
    graph = GRAPHS[name]
    if not serves(impl, graph, {}):
        return
    inputs = features(graph) | TERMS["everything"](graph.num_edges, NUM_HEADS)
    inputs["edge_bias"] = inputs["edge_bias"].clone()
    inputs["edge_bias"][graph.edge_index[1] == 5, 1] = -torch.inf
    inputs["edge_bias"][graph.edge_index[1] == 6] = -torch.inf
    inputs["edge_bias"][0] = -torch.inf  # one edge among several
    results = attend(graph, impl, inputs)
    assert (results["result 0"][5, 1] == 0).all() and (results["result 0"][6] == 0).all()
    assert (results["result 0"][5, 0] != 0).any()
    assert all(x.isfinite().all() for x in results.values())
    assert_close(results, attend(graph, "dense", inputs), **EXACT)


def sees_node(graph: AttentionGraph, source: int) -> Tensor:
    """[num_dst_nodes, num_heads]: which outputs may depend on a source."""
    return strategies.dense(graph)[..., source].expand(NUM_HEADS, -1).T


@pytest.mark.parametrize("impl", ["scatter", "gather", "fused"])
@pytest.mark.parametrize("terms", ["nothing else", "everything"])
@pytest.mark.parametrize(
    "name",
    ["window", "lonely nodes", "head mask", "bipartite", "head mask and block", "three keys each",
     "head mask over three keys each"],
)  # fmt: skip
@pytest.mark.parametrize("where", ["key", "value"])
def test_a_nan_stays_with_the_targets_that_see_it(name: str, terms: str, where: str, impl: str) -> None:
    graph = GRAPHS[name]
    inputs = features(graph) | TERMS[terms](graph.num_edges, NUM_HEADS)
    if not serves(impl, graph, inputs):
        return
    inputs.pop("dropout_p", None)
    inputs[where] = inputs[where].clone()
    inputs[where][1] = torch.nan
    leaves = {x: inputs[x].requires_grad_() for x in ("query", "key", "value")}
    out = graph_attention(graph=graph, impl=impl, **inputs | leaves)
    touched = sees_node(graph, 1)
    assert touched.any() and not touched.all()
    assert out[touched].isnan().all() and out[~touched].isfinite().all()
    (grad,) = torch.autograd.grad(out[~touched].sum(), leaves["query"])  # a source that both read gets 0 · NaN
    assert grad[~touched].isfinite().all() and grad[~touched].abs().max() > 0


@pytest.mark.parametrize("terms", ["nothing else", "everything"])
@pytest.mark.parametrize("name", ["padded blocks", "padded staircases", "ragged batch"])
def test_a_nan_never_leaves_its_block(name: str, terms: str) -> None:
    graph = GRAPHS[name]
    inputs = features(graph) | TERMS[terms](graph.num_edges, NUM_HEADS)
    inputs |= {x: inputs[x].clone() for x in inputs if isinstance(inputs[x], Tensor) and x != "seed"}
    for where in ("query", "key", "value"):
        inputs[where][0] = torch.nan  # node 0 is what a padded table is likely to be padded with
    for where in ("edge_bias", "edge_gate", "edge_attr"):
        if where in inputs:
            inputs[where][0] = torch.nan
    leaves = {x: inputs[x].requires_grad_() for x in inputs if isinstance(inputs[x], Tensor) and x != "seed"}
    out = graph_attention(graph=graph, impl="blocks", **inputs | leaves)
    first = int(graph.dst_ptr[1])
    assert out[0].isnan().all() and out[first:].isfinite().all()
    grads = torch.autograd.grad(out[first:].sum(), [leaves[x] for x in ("query", "key", "value")])
    assert all(grad[first:].isfinite().all() and grad[first:].abs().max() > 0 for grad in grads)


@pytest.mark.parametrize("impl", WITH_TERMS)
def test_a_head_may_see_nothing(impl: str) -> None:
    listed = GRAPHS["three keys each"].edge_index
    mask = torch.ones(listed.shape[1], NUM_HEADS, dtype=torch.bool)
    mask[:, 1] = False
    graph = AttentionGraph(listed, 13, 11, head_mask=mask)
    if impl == "blocks":
        graph = with_blocks(edges("7: 0 1 2"), block([0, 1], [0, 1, 2]))
        graph = AttentionGraph(
            graph.explicit_edges, 11, blocks=graph.blocks, head_mask=torch.tensor([[True, False, True]] * 3)
        )
    results = attend(graph, impl, features(graph))
    assert (results["result 0"][7, 1] == 0).all() and (results["result 0"][7, 0] != 0).any()
    assert_close(results, attend(graph, "dense", features(graph)), **EXACT)


# --- randomness ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("impl", WITH_TERMS)
def test_without_a_seed_every_call_drops_other_edges_and_manual_seed_rules_them(impl: str) -> None:
    graph = GRAPHS["full"]

    def draw() -> Tensor:
        return graph_attention(graph=graph, dropout_p=0.5, impl=impl, **features(graph))

    torch.manual_seed(3)
    first, second = draw(), draw()
    torch.manual_seed(3)
    assert not torch.equal(first, second)
    assert torch.equal(draw(), first) and torch.equal(draw(), second)


@pytest.mark.parametrize("impl", WITH_TERMS)
def test_dropping_everything_leaves_zero_and_dropping_nothing_ignores_the_seed(impl: str) -> None:
    graph = GRAPHS["full"]
    nothing_left = attend(graph, impl, features(graph) | {"dropout_p": 1.0, "seed": SEED})
    assert all((x == 0).all() for x in nothing_left.values())
    undisturbed = graph_attention(graph=graph, dropout_p=0.0, seed=SEED, impl=impl, **features(graph))
    assert_close(undisturbed, graph_attention(graph=graph, impl=impl, **features(graph)), **EXACT)


def test_the_seed_may_have_one_dimension() -> None:
    graph = GRAPHS["window"]
    flat = attend(graph, "fused", features(graph) | {"dropout_p": 0.5, "seed": SEED.view(1)})
    assert_close(flat, attend(graph, "scatter", features(graph) | {"dropout_p": 0.5, "seed": SEED}), **EXACT)


@contextlib.contextmanager
def threads(number: int):
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def test_fused_gives_the_same_bits_at_one_and_two_threads_and_on_every_repeat() -> None:
    graph = sliding_window(1009, 8) | global_tokens(1009, [0])
    inputs = features(graph, dtype=torch.float32)
    inputs |= {name: x if name in ("seed", "dropout_p", "scale", "logit_clip") else x.float()
               for name, x in TERMS["everything"](graph.num_edges, NUM_HEADS).items()}  # fmt: skip
    with threads(1):
        expected = attend(graph, "fused", inputs)
    for number in (2, 2, 1):
        with threads(number):
            again = attend(graph, "fused", inputs)
        assert all(torch.equal(x, again[name]) for name, x in expected.items())


# --- weights, logits, merging --------------------------------------------------------------------------------------

SCORES = ("edge_bias", "edge_attr", "edge_key_weight", "scale", "logit_clip")


def score_inputs(graph: AttentionGraph) -> Inputs:
    inputs = features(graph) | TERMS["everything"](graph.num_edges, NUM_HEADS)
    return {name: x for name, x in inputs.items() if name in ("query", "key", *SCORES)}


@pytest.mark.parametrize("impl", ["scatter", "gather", "fused"])
@pytest.mark.parametrize("function", [attention_weights, edge_logits])
@pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS)
def test_weights_and_logits_and_their_gradients_equal_those_of_dense(
    graph: AttentionGraph, function: Callable[..., Tensor], impl: str
) -> None:
    if not serves(impl, graph, {}):
        return
    for inputs in (score_inputs(graph), {name: features(graph)[name] for name in ("query", "key")}):
        ours = differentiated(lambda **all_of: function(impl=impl, **all_of), graph, inputs)
        theirs = differentiated(lambda **all_of: function(impl="dense", **all_of), graph, inputs)
        assert ours["result 0"].shape == (graph.num_edges, NUM_HEADS)
        assert_close(ours, theirs, **EXACT)


@pytest.mark.parametrize("impl", PER_EDGE)
@pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS)
def test_weights_sum_to_one_and_explain_the_output(graph: AttentionGraph, impl: str) -> None:
    if not serves(impl, graph, {}):
        return
    inputs = score_inputs(graph)
    alpha = attention_weights(graph=graph, impl=impl, **inputs)
    src, dst = graph.edge_index
    value = features(graph)["value"]
    total = torch.zeros(graph.num_dst_nodes, NUM_HEADS, dtype=torch.float64).index_add(0, dst, alpha)
    seen = strategies.dense(graph).any(-1).expand(NUM_HEADS, -1).T
    assert_close(total, seen.double(), **EXACT)
    if graph.head_mask is not None:
        assert (alpha[~graph.head_mask] == 0).all()
    out = torch.zeros(graph.num_dst_nodes, NUM_HEADS, VALUE_DIM, dtype=torch.float64)
    out = out.index_add(0, dst, alpha[..., None] * value[src])
    assert_close(graph_attention(graph=graph, value=value, impl=impl, **inputs), out, **EXACT)


@pytest.mark.parametrize("impl", PER_EDGE)
@pytest.mark.parametrize("terms", ["nothing else", "everything", "types"])
@pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS)
def test_output_and_weights_together_are_those_of_two_calls_with_their_gradients(
    graph: AttentionGraph, terms: str, impl: str
) -> None:
    if not serves(impl, graph, {}):
        return
    inputs = {**features(graph), **PAIRED_TERMS[terms](graph.num_edges, NUM_HEADS)}
    scored = {name: inputs[name] for name in inputs if name not in ("value", "edge_gate", "edge_value_weight")}

    def two_calls(graph: AttentionGraph, **inputs: Any) -> tuple[Tensor, Tensor]:
        given = {name: inputs[name] for name in scored}
        return graph_attention(graph=graph, impl=impl, **inputs), attention_weights(graph=graph, impl="dense", **given)

    together = differentiated(lambda **all_of: attention_with_weights(impl=impl, **all_of), graph, inputs)
    assert_close(together, differentiated(two_calls, graph, inputs), **EXACT)


PAIRED_TERMS: dict[str, Callable[[int, int], Inputs]] = {
    "nothing else": lambda num_edges, heads: {},
    "everything": lambda num_edges, heads: {
        "edge_bias": drawn(num_edges, heads),
        "edge_gate": drawn(num_edges, 1),
        "edge_attr": drawn(num_edges, EDGE_DIM),
        "edge_key_weight": drawn(heads, HEAD_DIM, EDGE_DIM),
        "edge_value_weight": drawn(heads, VALUE_DIM, EDGE_DIM),
        "logit_clip": 0.7,
    },
    "types": lambda num_edges, heads: {"edge_bias": drawn(3, heads), **types(num_edges, 3)},
}


def test_weights_of_half_precision_come_from_unrounded_logits() -> None:
    graph = LARGER["full"]
    inputs = features(graph)
    query, key = 3 * inputs["query"].bfloat16(), inputs["key"].bfloat16()
    exact = attention_weights(query.double(), key.double(), graph)
    for impl in PER_EDGE:
        alpha = attention_weights(query, key, graph, impl=impl)
        assert alpha.dtype == torch.bfloat16
        assert_close(alpha.double(), exact, rtol=torch.finfo(torch.bfloat16).eps, atol=1e-6)


@pytest.mark.parametrize("impl", WITH_TERMS)
@pytest.mark.parametrize("name", ["full", "window", "lonely nodes"])
def test_parts_merge_by_their_log_sum_exp_into_the_union(name: str, impl: str) -> None:
    whole = GRAPHS[name]
    left = whole.keep(lambda src, dst: (src + dst) % 3 == 0)
    inputs = features(whole)
    halves = [left, whole - left]
    if impl == "blocks":
        nodes = [*range(11)]
        halves = [with_blocks(edges(""), block(nodes, nodes[:4])), with_blocks(edges(""), block(nodes, nodes[4:]))]
        whole = GRAPHS["full"]
    if impl == "gather":
        whole = GRAPHS["full"]
        left = whole.keep(lambda src, dst: (src - dst) % 11 < 4)
        halves = [left, whole - left]
    parts = [attention_with_lse(graph=part, impl=impl, **inputs) for part in halves]
    out, lse = (torch.stack(x) for x in zip(*parts))
    share = torch.where(lse == -torch.inf, 0.0, torch.exp(lse - lse.logsumexp(0)))
    expected, expected_lse = attention_with_lse(graph=whole, impl="dense", **inputs)
    assert_close((share[..., None] * out).sum(0), expected, **EXACT)
    assert_close(lse.logsumexp(0), expected_lse, **EXACT)


# --- transforms of torch.func --------------------------------------------------------------------------------------

TRANSFORMED = ["auto", *(impl for impl in IMPLEMENTATIONS if supports(impl, "torch_func"))]
OTHERS = [impl for impl in ON_CPU if not supports(impl, "torch_func")]


def transformed_inputs() -> tuple[Tensor, Callable[..., Tensor]]:
    """Five queries, and the verb with every term as a function of one."""
    graph = GRAPHS["three keys each in a block or not"]
    inputs = features(graph) | TERMS["everything"](graph.num_edges, NUM_HEADS) | {"graph": graph}
    del inputs["query"]
    return drawn(5, 11, NUM_HEADS, HEAD_DIM), lambda query, impl: graph_attention(query, **inputs, impl=impl)


@pytest.mark.parametrize("impl", TRANSFORMED)
def test_vmap_over_the_verb_is_a_loop_over_it(impl: str) -> None:
    queries, attend_to = transformed_inputs()
    expected = torch.stack([attend_to(query, "dense") for query in queries])
    assert_close(torch.func.vmap(lambda query: attend_to(query, impl))(queries), expected, **EXACT)


@pytest.mark.parametrize("impl", TRANSFORMED)
def test_vmap_over_per_edge_arguments_is_a_loop_over_them(impl: str) -> None:
    graph = GRAPHS["three keys each"]
    inputs, biases = features(graph), drawn(5, graph.num_edges, NUM_HEADS)
    run = torch.func.vmap(lambda bias: graph_attention(**inputs, graph=graph, edge_bias=bias, impl=impl))
    expected = [graph_attention(**inputs, graph=graph, edge_bias=bias, impl="dense") for bias in biases]
    assert_close(run(biases), torch.stack(expected), **EXACT)


@pytest.mark.parametrize("impl", TRANSFORMED)
def test_functional_gradients_equal_those_of_autograd(impl: str) -> None:
    queries, attend_to = transformed_inputs()
    leaves = queries.clone().requires_grad_()
    (expected,) = torch.autograd.grad(sum(attend_to(x, "dense").square().sum() for x in leaves), leaves)
    grad = torch.func.grad(lambda query: attend_to(query, impl).square().sum())
    assert_close(torch.stack([grad(query) for query in queries]), expected, **EXACT)
    assert_close(torch.func.vmap(grad)(queries), expected, **EXACT)


@pytest.mark.parametrize("impl", TRANSFORMED)
def test_forward_derivatives_are_those_of_finite_differences(impl: str) -> None:
    (query, direction, *_), attend_to = transformed_inputs()
    step = 1e-6 * direction
    expected = (attend_to(query + step, "dense") - attend_to(query - step, "dense")) / 2e-6
    _, derivative = torch.func.jvp(lambda query: attend_to(query, impl), (query,), (direction,))
    assert_close(derivative, expected, rtol=1e-6, atol=1e-7)
    with torch.autograd.forward_ad.dual_level():
        out = attend_to(torch.autograd.forward_ad.make_dual(query, direction), impl)
        assert_close(torch.autograd.forward_ad.unpack_dual(out).tangent, derivative)


@pytest.mark.parametrize("impl", OTHERS)
def test_implementations_without_a_rule_for_transforms_are_refused_with_those_that_have(impl: str) -> None:
    queries, attend_to = transformed_inputs()
    advice = rf"impl='{impl}' cannot serve this call: it has no rule for vmap, .*These can: dense, scatter, gather\."
    with pytest.raises(ValueError, match=advice):
        torch.func.vmap(lambda query: attend_to(query, impl))(queries)
    with pytest.raises(ValueError, match=advice):
        torch.func.grad(lambda query: attend_to(query, impl).sum())(queries[0])
    with pytest.raises(ValueError, match=advice):
        torch.func.jvp(lambda query: attend_to(query, impl), (queries[0],), (queries[1],))
    with torch.autograd.forward_ad.dual_level(), pytest.raises(ValueError, match=advice):
        attend_to(torch.autograd.forward_ad.make_dual(queries[0], queries[1]), impl)


def test_dropout_under_vmap_without_a_seed_asks_which_randomness_is_meant() -> None:
    graph = GRAPHS["three keys each"]
    query, key, value = features(graph).values()
    queries = torch.stack([query, query])

    def drop(query: Tensor) -> Tensor:
        return graph_attention(query, key, value, graph, dropout_p=0.5)

    with pytest.raises(RuntimeError, match="randomness"):
        torch.func.vmap(drop)(queries)
    one, other = torch.func.vmap(drop, randomness="different")(queries)
    assert not torch.equal(one, other)
    one, other = torch.func.vmap(drop, randomness="same")(queries)
    assert torch.equal(one, other)


# --- derivatives ---------------------------------------------------------------------------------------------------


def tiny(impl: str) -> tuple[Callable[..., tuple[Tensor, ...]], list[Tensor]]:
    """The verb as a function of float64 tensors only, with every term, on a graph of few edges or a block."""
    graph = (
        with_blocks(edges("3: 0 1", 3, 4), block([0, 1], [0, 1]))
        if impl == "blocks"
        else edges("0: 0 1; 1: 1 2; 2: 0 2; 3: 0 1", 3, 4)
        if impl == "gather"
        else edges("0: 0 1 2; 1: 1 2; 3: 0 1", 3, 4)
    )
    num_edges = graph.num_edges
    shapes = {"query": (4, 2, 2), "key": (3, 1, 2), "value": (3, 1, 1), "edge_bias": (num_edges, 2),
              "edge_gate": (num_edges, 1), "head_gate": (2,), "edge_attr": (num_edges, 1), "edge_key_weight": (2, 2, 1),
              "edge_value_weight": (2, 1, 1)}  # fmt: skip
    tensors = [drawn(*shape).requires_grad_() for shape in shapes.values()]

    def function(*values: Tensor) -> tuple[Tensor, ...]:
        inputs: Inputs = dict(zip(shapes, values))
        inputs |= {"dropout_p": 0.2, "seed": SEED, "logit_clip": 2.5, "graph": graph, "impl": impl}
        head_gate = inputs.pop("head_gate")
        out, lse = attention_with_lse(**inputs)
        return graph_attention(head_gate=head_gate, **inputs), out, torch.where(lse.isfinite(), lse, 0)

    return function, tensors


@pytest.mark.parametrize("impl", WITH_TERMS)
def test_gradients_are_those_of_finite_differences(impl: str) -> None:
    assert torch.autograd.gradcheck(*tiny(impl))


@pytest.mark.parametrize("impl", [impl for impl in IMPLEMENTATIONS if supports(impl, "double_backward")])
def test_second_derivatives_are_those_of_finite_differences(impl: str) -> None:
    assert torch.autograd.gradgradcheck(*tiny(impl), fast_mode=True)


@pytest.mark.parametrize("terms", ["nothing else", "logit_clip", "everything"])
@pytest.mark.parametrize("impl", ["blocks", "fused", "sdpa"])
def test_a_second_derivative_is_refused_with_the_way_out(impl: str, terms: str) -> None:
    graph = GRAPHS["full"]
    inputs = features(graph) | TERMS[terms](graph.num_edges, NUM_HEADS)
    if not serves(impl, graph, inputs):
        return
    query = inputs.pop("query").requires_grad_()
    out = graph_attention(query, graph=graph, impl=impl, **inputs)
    (grad,) = torch.autograd.grad(out.square().sum(), query, create_graph=True)
    with pytest.raises(NotImplementedError, match='no double backward: use impl="scatter"'):
        grad.square().sum().backward()


# --- compilation ---------------------------------------------------------------------------------------------------


@pytest.fixture
def compiled():
    """Compiles with fullgraph=True, so that a break is an error; after two sizes a recompilation is one as well."""
    import torch._dynamo

    torch._dynamo.reset()

    def check(function: Callable[..., Tensor], calls: list[tuple[Any, ...]]) -> None:
        run = torch.compile(function, backend="aot_eager", fullgraph=True)
        for number, arguments in enumerate(calls):
            with torch._dynamo.config.patch(error_on_recompile=number > 1):
                tensors = [x for x in arguments if isinstance(x, Tensor) and x.is_floating_point()]
                leaves = [x.clone().requires_grad_() for x in tensors]
                ours = run(*leaves, *(x for x in arguments if not any(x is y for y in tensors)))
                theirs = function(*tensors, *(x for x in arguments if not any(x is y for y in tensors)))
                assert_close(ours, theirs)
                grads = torch.autograd.grad(ours.sum(), leaves)
                assert all(grad.isfinite().all() and grad.abs().max() > 0 for grad in grads)

    yield check
    torch._dynamo.reset()


def planned(graph: AttentionGraph) -> AttentionGraph:
    graph.plan()
    return graph


@pytest.mark.parametrize("impl", ["auto", "scatter"])
def test_it_compiles_whole_and_once_for_ten_edge_counts(compiled, impl: str) -> None:
    def function(query: Tensor, key: Tensor, value: Tensor, edge_bias: Tensor, graph: AttentionGraph) -> Tensor:
        return graph_attention(query, key, value, graph, edge_bias=edge_bias, impl=impl)

    calls = []
    for radius in range(2, 12):
        graph = planned(sliding_window(67, radius))
        calls.append((*features(graph, dtype=torch.float32).values(), drawn(graph.num_edges, NUM_HEADS).float(), graph))
    compiled(function, calls)


def test_one_program_serves_ten_edge_counts_without_a_single_recompilation() -> None:
    import torch._dynamo

    torch._dynamo.reset()
    query, key, value = (drawn(67, NUM_HEADS, 5).float() for _ in range(3))
    run = torch.compile(graph_attention, backend="aot_eager", fullgraph=True)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for radius in range(2, 12):  # plans are made after the compiler is loaded, and tell it what varies
            graph = planned(sliding_window(67, radius))
            assert_close(run(query, key, value, graph), graph_attention(query, key, value, graph))
    torch._dynamo.reset()


def test_it_compiles_whole_and_once_for_ten_node_counts_with_every_term(compiled) -> None:
    def function(*tensors: Any) -> Tensor:
        *values, seed, graph = tensors
        names = ("query", "key", "value", "edge_bias", "edge_gate", "head_gate", "edge_attr", "edge_key_weight",
                 "edge_value_weight")  # fmt: skip
        return graph_attention(graph=graph, logit_clip=2.0, dropout_p=0.3, seed=seed, **dict(zip(names, values)))

    calls = []
    for number in range(10):
        graph = planned(sliding_window(67 + 3 * number, 2 + number))
        inputs = features(graph, dtype=torch.float32)
        terms = TERMS["everything"](graph.num_edges, NUM_HEADS)
        floats = [x.float() for name, x in terms.items() if isinstance(x, Tensor) and name != "seed"]
        calls.append((*inputs.values(), *floats, SEED, graph))
    compiled(function, calls)


def test_graphs_with_blocks_compile_whole_and_once(compiled) -> None:
    def function(query: Tensor, key: Tensor, value: Tensor, graph: AttentionGraph) -> Tensor:
        return graph_attention(query, key, value, graph)

    graphs = [planned(full(torch.tensor([67, 5 + number, 5 + number]))) for number in range(10)]
    compiled(function, [(*features(graph, dtype=torch.float32).values(), graph) for graph in graphs])


def test_a_compiled_region_builds_no_plan() -> None:
    graph = sliding_window(67, 2)
    function = torch.compile(lambda **inputs: graph_attention(**inputs), backend="eager", fullgraph=True)
    with pytest.raises(Exception, match=r"Call graph.plan\(\) where the graph is made"):
        function(graph=graph, **features(graph))


def test_a_table_with_a_row_per_type_means_its_rows_at_the_edges() -> None:
    graph, number = GRAPHS["three keys each"], 5
    tables = {
        "edge_bias": drawn(number, NUM_HEADS),
        "edge_gate": drawn(number, 1, positive=True),
        "edge_attr": drawn(number, EDGE_DIM),
    }
    weights = {
        "edge_key_weight": drawn(NUM_HEADS, HEAD_DIM, EDGE_DIM),
        "edge_value_weight": drawn(NUM_HEADS, VALUE_DIM, EDGE_DIM),
    }
    edge_type = types(graph.num_edges, number)["edge_type"]
    listed = {name: table[edge_type] for name, table in tables.items()}
    for impl in PER_EDGE:
        expected = graph_attention(**features(graph), graph=graph, impl=impl, **listed, **weights)
        out = graph_attention(**features(graph), graph=graph, impl=impl, **tables, **weights, edge_type=edge_type)
        assert_close(out, expected, **EXACT)
    of_scores = {name: x for name, x in (listed | weights).items() if name in SCORES}
    tables_of_scores = {name: x for name, x in (tables | weights).items() if name in SCORES}
    query, key, _ = features(graph).values()
    for function in (attention_weights, edge_logits):
        expected = function(query, key, graph, **of_scores)
        assert_close(function(query, key, graph, **tables_of_scores, edge_type=edge_type), expected, **EXACT)


@pytest.mark.parametrize("scale", [0.0, -0.7])
def test_a_bias_of_types_is_that_bias_whatever_the_scale(scale: float) -> None:
    graph = GRAPHS["window"]
    inputs = features(graph) | {"edge_bias": drawn(3, NUM_HEADS), "scale": scale, **types(graph.num_edges, 3)}
    inputs["edge_bias"][0] = -torch.inf
    assert_close(attend(graph, "fused", inputs), attend(graph, "dense", inputs), **EXACT)


# --- errors --------------------------------------------------------------------------------------------------------

WINDOW = GRAPHS["window"]  # 49 edges
LISTED = {"edge_attr": drawn(49, EDGE_DIM), "edge_key_weight": drawn(NUM_HEADS, HEAD_DIM, EDGE_DIM)}
TWO_HEADS = AttentionGraph(WINDOW.edge_index, 11, head_mask=torch.ones(49, 2, dtype=torch.bool))
VALUE, TYPE = ValueError, TypeError


def in_two(first: int, more: int) -> dict[str, tuple[Tensor, Tensor]]:
    return {name: (drawn(first, 3, dim), drawn(more, 3, dim)) for name, dim in (("key", 5), ("value", 7))}


MISTAKES: list[tuple[Inputs, type[Exception], str]] = [
    ({"graph": WINDOW.edge_index}, TYPE, "graph must be an AttentionGraph, got Tensor. * from_edge_index"),
    ({"query": [1.0]}, TYPE, "query must be a tensor, got list. Join tables with torch.cat"),
    ({"query": drawn(11, 15)}, VALUE, "query must have shape * got [11, 15]. Split the heads"),
    ({"value": drawn(2, 11, 3, 5)}, VALUE, "value must have shape * got [2, 11, 3, 5]. * join a batch"),
    ({"key": torch.ones(11, 3, 5).long()}, TYPE, "key must have a floating dtype, got torch.int64. Call key.float()"),
    ({"query": drawn(13, 3, 5)}, VALUE, "query must have num_dst_nodes = 11 rows, got 13. * one row per target"),
    ({"key": drawn(13, 3, 5)}, VALUE, "key must have num_src_nodes = 11 rows, got 13. * one per source"),
    ({"value": drawn(13, 3, 7)}, VALUE, "value must have num_src_nodes = 11 rows, got 13."),
    ({"key": (drawn(11, 3, 5), drawn(0, 3, 5))}, TYPE, "key and value must be two tensors, or two pairs * torch.cat."),
    ({"key": (drawn(11, 3, 5),), "value": (drawn(11, 3, 7),)}, TYPE, "key and value must * got tuple and tuple. Join"),
    (in_two(7, 4) | {"key": (drawn(7, 3, 5), drawn(4, 2, 5))}, VALUE, "key must be a pair of tensors alike * [4, 2"),
    (in_two(7, 4) | {"value": (drawn(7, 3, 7), drawn(4, 3, 7).float())}, VALUE, "value must be a pair * torch.float32"),
    (in_two(7, 4) | {"value": (drawn(6, 3, 7), drawn(5, 3, 7))}, VALUE, "value must * 7 and 4, got 6 and 5. Cut both"),
    (in_two(7, 4) | {"value": (drawn(7, 3, 7), drawn(3, 3, 7))}, VALUE, "value must * 7 and 4, got 7 and 3. Cut both"),
    ({"key": (torch.ones(()),) * 2, "value": (torch.ones(()),) * 2}, VALUE, "key must have shape * got []. Split"),
    (in_two(7, 5), VALUE, "key must have num_src_nodes = 11 rows, got 7 and 5. * one per source"),
    ({"key": drawn(11, 2, 5)}, VALUE, "key must have a number of heads that divides query's 3, got 2. Grouped heads"),
    ({"key": drawn(11, 0, 5)}, VALUE, "key must have a number of heads that divides query's 3, got 0. Grouped heads"),
    ({"value": drawn(11, 1, 7)}, VALUE, "value must have key's 3 heads, got 1. Give each key head its value head"),
    ({"key": drawn(11, 3, 7)}, VALUE, "key must have query's head_dim 5, got 7. Project both to the same width"),
    ({"value": drawn(11, 3, 7).float()}, TYPE, "one dtype, got torch.float64, torch.float64, torch.float32. Cast them"),
    ({"key": drawn(11, 3, 5).to("meta")}, VALUE, "key must be on the device of query, cpu, got meta. Call key.to("),
    ({"graph": WINDOW.to("meta")}, VALUE, "graph must be on the device of query, cpu, got meta. Call graph.to("),
    ({"graph": TWO_HEADS}, VALUE, "query must have the 2 heads of graph.head_mask, got 3. Give the mask one column"),
    ({"edge_bias": drawn(48)}, VALUE, "edge_bias must have num_edges = 49 rows, got shape [48]. * graph.edge_index "
                                      "(target, then source): from_edge_index returns the order, graph.align carries"),
    ({"edge_gate": drawn(11, 11)}, VALUE, "edge_gate must have num_edges = 49 rows, got shape [11, 11]."),
    ({"edge_bias": torch.tensor(1.0)}, VALUE, "edge_bias must have num_edges = 49 rows, got shape []."),
    ({"edge_bias": drawn(49, 2)}, VALUE, "edge_bias must have shape * num_heads = 3, got [49, 2]. Put edges first"),
    ({"edge_gate": drawn(49, 3, 1)}, VALUE, "edge_gate must have shape * got [49, 3, 1]. Put edges first"),
    ({"edge_bias": torch.ones(49).long()}, TYPE, "edge_bias must have a floating dtype, got torch.int64. Call edge"),
    ({"edge_bias": drawn(49).to("meta")}, VALUE, "edge_bias must be on the device of query, cpu, got meta. Call edge"),
    ({"edge_attr": drawn(49, 2)}, VALUE, "edge_attr needs edge_key_weight or edge_value_weight, got neither. Pass"),
    (LISTED | {"edge_attr": drawn(49)}, VALUE, "edge_attr must have shape [num_edges, edge_dim], got [49]. Flatten"),
    (LISTED | {"edge_attr": drawn(47, 2)}, VALUE, "edge_attr must have num_edges = 49 rows, got shape [47, 2]."),
    (LISTED | {"edge_attr": torch.ones(49, 2).long()}, TYPE, "edge_attr must have a floating dtype, got torch.int64."),
    ({"edge_type": torch.zeros(49).long()}, VALUE, "edge_type needs an edge_bias, edge_gate or edge_attr, got none."),
    ({"edge_bias": drawn(2), "edge_type": torch.zeros(47).long()}, VALUE, "edge_type must be int64 [num_edges] = [49], "
                                                                       "got torch.int64 [47]. It says which row"),
    ({"edge_bias": drawn(2), "edge_type": torch.zeros(49)}, VALUE, "edge_type must be int64 * got torch.float32 [49]."),
    ({"edge_bias": drawn(2), "edge_type": torch.zeros(49, 1).long()}, VALUE, "edge_type must be int64 * [49, 1]."),
    ({"edge_bias": drawn(2), "edge_gate": drawn(3), "edge_type": torch.zeros(49).long()}, VALUE,
     "edge_gate must have num_types = 2 rows, got shape [3]. With edge_type, per-edge arguments have a row per type"),
    ({"edge_key_weight": drawn(3, 5, 2)}, VALUE, "edge_key_weight needs edge_attr, got none. Pass edge_attr"),
    ({"edge_value_weight": drawn(3, 7, 2)}, VALUE, "edge_value_weight needs edge_attr, got none. Pass edge_attr"),
    (LISTED | {"edge_key_weight": drawn(3, 2, 5)}, VALUE, "edge_key_weight must * [3, 5, 2], got [3, 2, 5]. It maps"),
    (LISTED | {"edge_value_weight": drawn(3, 5, 2)}, VALUE, "edge_value_weight must * [3, 7, 2], got [3, 5, 2]. It"),
    (LISTED | {"edge_key_weight": drawn(3, 5, 2).to("meta")}, VALUE, "edge_key_weight must be on the device of query"),
    ({"head_gate": drawn(2, 3)}, VALUE, "head_gate must have shape [num_heads] = [3], got [2, 3]. * gate[layer]"),
    ({"head_gate": drawn(3).to("meta")}, VALUE, "head_gate must be on the device of query, cpu, got meta. Call"),
    ({"logit_clip": 0.0}, VALUE, "logit_clip must be positive, got 0.0. Leave it None"),
    ({"dropout_p": 1.5}, VALUE, "dropout_p must lie in [0, 1], got 1.5. It is the probability"),
    ({"dropout_p": 0.5, "seed": 3}, VALUE, "seed must be a tensor with one int64 number, got int. Pass torch.tensor("),
    ({"dropout_p": 0.5, "seed": torch.ones(2)}, VALUE, "seed must be * got torch.float32 [2]. Pass torch.tensor("),
    ({"impl": "flash"}, VALUE, "impl must be 'auto' or one of dense, scatter, gather, blocks, fused, sdpa, flex, got"),
    ({"impl": "gather"}, VALUE, "cannot serve this call: it needs the same number of incoming edges, at least one, at "
                                "every target. These can: dense, scatter, fused, sdpa."),
    ({"impl": "blocks"}, VALUE, "cannot serve this call: the graph has no block. These can: dense, scatter, fused, sd"),
]  # fmt: skip


@pytest.mark.parametrize("wrong, error, advice", MISTAKES)
def test_a_mistake_is_named_with_its_rule_its_value_and_the_next_step(
    wrong: Inputs, error: type[Exception], advice: str
) -> None:
    with pytest.raises(error, match=".*".join(re.escape(part) for part in advice.split(" * "))):
        graph_attention(**{**features(WINDOW), "graph": WINDOW, **wrong})


def test_two_tables_are_refused_by_verbs_that_do_not_take_them() -> None:
    given = {"query": features(WINDOW)["query"], "graph": WINDOW}
    for verb in (attention_weights, edge_logits):
        with pytest.raises(TypeError, match=r"key must be a tensor, got tuple\. Join tables with torch.cat"):
            verb(key=in_two(7, 4)["key"], **given)
    for verb in (attention_with_weights, attention_with_lse):
        with pytest.raises(TypeError, match=r"key must be a tensor, got tuple\. Join tables with torch.cat"):
            verb(**in_two(7, 4), **given)


@pytest.mark.parametrize("impl", ["dense", "scatter", "gather", "fused"])
def test_a_graph_too_large_to_list_is_refused_by_what_would_list_it(impl: str) -> None:
    graph = full(2**15)  # 2^30 pairs
    x = torch.zeros(2**15, 1, 1)
    with pytest.raises(ValueError, match=r"listing the graph's 1,073,741,824 edges is refused .*These can: blocks"):
        graph_attention(x, x, x, graph, impl=impl)
    with pytest.raises(ValueError, match=r"would hold 1,073,741,824 edges .*Keep it as blocks"):
        attention_weights(x, x, graph, impl=impl)


def test_dense_refuses_more_pairs_than_it_can_hold() -> None:
    graph = sliding_window(2**14, 0)
    x = torch.zeros(2**14, 1, 1)
    with pytest.raises(ValueError, match=r"16384 × 16384 pairs are above its limit .*can: scatter, gather, fused"):
        graph_attention(x, x, x, graph, impl="dense")


def test_a_large_graph_whose_targets_are_in_pieces_is_refused_with_every_reason() -> None:
    nodes = [*range(2**15)]
    graph = with_blocks(edges("", 2**15, 2**15), block(nodes, nodes[:-1]), block(nodes[:2], nodes[-1:]))
    x, bias = torch.zeros(2**15, 1, 1), torch.zeros(1).expand(graph.num_edges)
    with pytest.raises(ValueError, match=r"no implementation can serve this call .*two blocks.*Use a sparser graph"):
        graph_attention(x, x, x, graph, edge_bias=bias)


def test_a_graph_without_edges_has_weights_and_logits_of_no_edge() -> None:
    graph, features = edges("", 4, 4), torch.zeros(4, NUM_HEADS, 5)  # which auto serves by blocks where it can
    assert attention_weights(features, features, graph).shape == (0, NUM_HEADS)
    assert edge_logits(features, features, graph).shape == (0, NUM_HEADS)


def test_weights_by_blocks_are_refused_with_those_that_can() -> None:
    x = drawn(11, 3, 5)
    for impl in ("blocks", "sdpa"):
        with pytest.raises(ValueError, match=rf"impl='{impl}' cannot serve this call: it has no weights.*dense, scat"):
            attention_weights(x, x, GRAPHS["full"], impl=impl)


def test_fused_without_numba_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "has_numba", lambda: False)
    with pytest.raises(ImportError, match=r"Numba is not installed \(pip install numba\)\. These can: dense, scatter"):
        graph_attention(graph=WINDOW, impl="fused", **features(WINDOW))
    for name in ("window", "blocks and edges"):  # the others go on, edges beside blocks by scatter
        graph = GRAPHS[name]
        expected = attend(graph, "dense", features(graph))
        assert_close(attend(graph, "auto", features(graph)), expected, **EXACT)
        if graph.blocks is not None:
            assert_close(attend(graph, "blocks", features(graph)), expected, **EXACT)
