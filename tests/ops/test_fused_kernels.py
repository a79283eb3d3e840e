"""The fused kernels against the formulas written out densely in float64, and their conduct in hostile surroundings."""

import multiprocessing
import os
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close

pytest.importorskip("numba")

from graphattn.ops._impl import fused, scatter

HEADS, HEAD_DIM, VALUE_DIM, EDGE_DIM = 3, 5, 7, 2
SCALE = 0.4
TERMS = {
    "plain": (),
    "edge features": ("query_attr", "edge_attr"),
    "bias": ("edge_bias",),
    "gate": ("edge_gate",),
    "head mask": ("head_mask",),
    "clip": ("logit_clip",),
    "dropout": ("dropout_p", "seed"),
    "dropout by id": ("dropout_p", "seed", "edge_id"),
    "all": (
        *("query_attr", "edge_attr", "edge_bias", "edge_gate", "head_mask", "logit_clip"),
        *("dropout_p", "seed", "edge_id"),
    ),
}


def make_plan(src, dst, num_src_nodes, num_dst_nodes):
    order = torch.argsort(dst * num_src_nodes + src)
    src, dst = src[order], dst[order]

    def offsets(nodes, num_nodes):
        return torch.cat([torch.zeros(1, dtype=torch.long), torch.bincount(nodes, minlength=num_nodes).cumsum(0)])

    return SimpleNamespace(
        src=src,
        dst=dst,
        num_src_nodes=num_src_nodes,
        num_dst_nodes=num_dst_nodes,
        target_ptr=offsets(dst, num_dst_nodes),
        source_ptr=offsets(src, num_src_nodes),
        source_order=torch.argsort(src * num_dst_nodes + dst),
        windows=None,
    )


def random_plan(num_src_nodes=11, num_dst_nodes=11, density=0.4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    edges = torch.rand(num_dst_nodes, num_src_nodes, generator=generator) < density
    dst, src = edges.nonzero(as_tuple=True)
    return make_plan(src, dst, num_src_nodes, num_dst_nodes)


def hub_plan():
    """Node 0 hears all others and all others hear it; nodes 41 and 42 are lonely."""
    others = torch.arange(1, 41)
    hub = torch.zeros_like(others)
    return make_plan(torch.cat([others, hub]), torch.cat([hub, others]), 43, 43)


def no_edges():
    return make_plan(torch.empty(0, dtype=torch.long), torch.empty(0, dtype=torch.long), 11, 11)


def range_plan(bounds, num_src_nodes):
    """Target i sees the sources bounds[i][0] up to bounds[i][1]."""
    src = torch.cat([torch.arange(low, high) for low, high in bounds])
    dst = torch.arange(len(bounds)).repeat_interleave(torch.tensor([high - low for low, high in bounds]))
    return make_plan(src, dst, num_src_nodes, len(bounds))


def window_plan(num_nodes, radius):
    return range_plan([(max(0, i - radius), min(num_nodes, i + radius + 1)) for i in range(num_nodes)], num_nodes)


def molecule_plan(sizes):
    starts = [sum(sizes[:number]) for number in range(len(sizes))]
    return range_plan([(start, start + size) for start, size in zip(starts, sizes) for _ in range(size)], sum(sizes))


def mixed_plan():
    """A window in two tiles with a hub between, then scattered edges, then a slope of rows as wide as they please."""
    bounds = [(max(0, i - 9), min(90, i + 10)) for i in range(90)]
    bounds[70] = (0, 90)
    window = range_plan(bounds, 140)
    scattered = random_plan(num_src_nodes=140, num_dst_nodes=20, density=0.2, seed=2)
    slope = range_plan([(i * 2, i * 2 + 8 + i % 3) for i in range(30)], 140)
    src, dst, rows = [], [], 0
    for plan in (window, scattered, slope):
        src.append(plan.src)
        dst.append(plan.dst + rows)
        rows += plan.num_dst_nodes
    return make_plan(torch.cat(src), torch.cat(dst), 140, rows)


GRAPHS = {
    "window": window_plan(num_nodes=75, radius=6),
    "molecules": molecule_plan([5, 12, 1, 3, 4, 17, 8]),
    "mixed": mixed_plan(),
    "ragged": random_plan(),
    "bipartite": random_plan(num_src_nodes=13, num_dst_nodes=5, seed=1),
    "hub and lonely": hub_plan(),
    "no edges": no_edges(),
}


def make_inputs(
    plan, terms=(), dtype=torch.float64, heads=HEADS, key_heads=None, dims=(HEAD_DIM, VALUE_DIM, EDGE_DIM), shared=False
):
    """Named arguments of `fused.attention`; floating ones ask for gradients."""
    generator = torch.Generator().manual_seed(7)

    def normal(*shape):
        return torch.randn(shape, dtype=torch.float64, generator=generator).to(dtype).requires_grad_()

    num_edges, key_heads = len(plan.src), key_heads or heads
    head_dim, value_dim, edge_dim = dims
    everything = dict(
        query=normal(plan.num_dst_nodes, heads, head_dim),
        key=normal(plan.num_src_nodes, key_heads, head_dim),
        value=normal(plan.num_src_nodes, key_heads, value_dim),
        query_attr=normal(plan.num_dst_nodes, heads, edge_dim),
        edge_attr=normal(num_edges, edge_dim),
        edge_bias=normal(num_edges, 1 if shared else heads),
        edge_gate=normal(num_edges, 1 if shared else heads),
        head_mask=torch.rand(num_edges, heads, generator=generator) < 0.7,
        edge_id=torch.randint(-(2**62), 2**62, (num_edges,), generator=generator),
        logit_clip=0.6,
        dropout_p=0.3,
        seed=torch.tensor([-123456789012345]),
    )
    return {name: everything[name] for name in ("query", "key", "value", *terms)}


def stated_keep(num_edges, heads, dropout_p, seed, edge_id=None):
    """The dropout factors [num_edges, heads] by the hash as it is stated, in 64-bit arithmetic."""
    word = 0xFFFFFFFF

    def mix(x):
        x = x ^ (x >> 16)
        x = (x * 0x7FEB352D) & word
        x = x ^ (x >> 15)
        x = (x * 0x846CA68B) & word  # int64 wraps around, which leaves the low 32 bits right
        return x ^ (x >> 16)

    edge_id = torch.arange(num_edges) if edge_id is None else edge_id
    key = mix(mix(((seed & word) + 0x9E3779B9) & word) ^ ((seed >> 32) & word))
    row = mix(mix(key ^ (edge_id & word)) ^ ((edge_id >> 32) & word))
    bits = mix((row[:, None] + (torch.arange(heads) + 1) * 0x9E3779B9) & word)
    kept = (bits >> 8) >= int(dropout_p * 2**24 + 0.5)
    return kept.double() / (1 - dropout_p) if dropout_p < 1 else torch.zeros(num_edges, heads).double()


def reference(
    query, key, value, plan, query_attr=None, edge_attr=None, edge_bias=None, edge_gate=None, head_mask=None,
    edge_id=None, scale=SCALE, logit_clip=None, dropout_p=0.0, seed=None,
):  # fmt: skip
    """The meaning of the operator, over a table [num_dst_nodes, num_edges, heads], in float64."""
    query, key, value = query.double(), key.double(), value.double()
    heads = query.shape[1]
    key, value = (x.repeat_interleave(heads // x.shape[1], 1)[plan.src] for x in (key, value))
    scores = (query[plan.dst] * key).sum(-1)
    if edge_attr is not None:
        scores = scores + (query_attr.double()[plan.dst] * edge_attr.double()[:, None]).sum(-1)
    scores = scale * scores
    if logit_clip is not None:
        scores = scores.clamp(-logit_clip, logit_clip)
    if edge_bias is not None:
        scores = scores + edge_bias.double()

    mine = (torch.arange(plan.num_dst_nodes)[:, None] == plan.dst)[..., None].expand(-1, -1, heads)
    if head_mask is not None:
        mine = mine & head_mask
    scores = scores.expand(plan.num_dst_nodes, -1, -1).masked_fill(~mine, -torch.inf)
    none = torch.full((plan.num_dst_nodes, 1, heads), -torch.inf, dtype=torch.float64)
    peak = torch.cat([none, scores.detach()], 1).amax(1, keepdim=True)
    powers = (scores - peak.masked_fill(peak == -torch.inf, 0.0)).exp()
    total = powers.sum(1, keepdim=True)
    lonely = total == 0
    alpha = powers / total.masked_fill(lonely, 1.0)
    lse = (peak.masked_fill(lonely, 0.0) + total.masked_fill(lonely, 1.0).log()).masked_fill(lonely, -torch.inf)[:, 0]

    if edge_gate is not None:
        alpha = alpha * edge_gate.double()
    if dropout_p > 0:
        alpha = alpha * stated_keep(len(plan.src), heads, dropout_p, seed, edge_id)
    out = torch.einsum("ieh,ehd->ihd", alpha, value)
    out_attr = None if edge_attr is None else torch.einsum("ieh,ea->iha", alpha, edge_attr.double())
    return out, out_attr, lse


def gradients(outputs, inputs):
    """Gradients of a fixed random mixture of all finite outputs, by input name."""
    generator = torch.Generator().manual_seed(3)
    total = 0.0
    for output in outputs:
        if output is not None:
            mixture = torch.randn(output.shape, dtype=torch.float64, generator=generator)
            total = total + (output.double() * mixture)[output.detach() > -torch.inf].sum()
    wanted = {name: x for name, x in inputs.items() if isinstance(x, torch.Tensor) and x.requires_grad}
    return dict(zip(wanted, torch.autograd.grad(total, list(wanted.values()))))


def run_fused(plan, inputs):
    return fused.attention(plan=plan, scale=SCALE, **inputs)


def check_against_reference(plan, inputs, **tolerance):
    outputs, expected = run_fused(plan, inputs), reference(plan=plan, **inputs)
    for output, expectation in zip(outputs, expected):
        assert (output is None) == (expectation is None)
        if output is not None:
            assert_close(output.double(), expectation, **tolerance)
    grads, expected_grads = gradients(outputs, inputs), gradients(expected, inputs)
    for name, grad in grads.items():
        assert_close(grad.double(), expected_grads[name].double(), msg=lambda m, name=name: f"{name}: {m}", **tolerance)
        assert len(plan.src) == 0 or grad.abs().sum() > 0, name


EXACT = dict(atol=1e-10, rtol=1e-10)
SINGLE = dict(atol=2e-5, rtol=1e-4)


def check_nan_stays(plan, name, number):
    """A number that is not finite, at one node of an input, spoils what sees it and nothing else."""
    node = 4
    inputs = make_inputs(plan, dtype=torch.float32)
    with torch.no_grad():
        inputs[name][node] = number
    sees = torch.zeros(plan.num_dst_nodes, dtype=torch.bool)
    sees[node if name == "query" else plan.dst[plan.src == node]] = True
    reached = torch.zeros(plan.num_src_nodes, dtype=torch.bool)
    reached[plan.src[sees[plan.dst]]] = True
    assert not sees.all() and not reached.all()

    out, _, _ = run_fused(plan, inputs)
    assert not out[sees].isfinite().all() and out[~sees].isfinite().all()
    if number != torch.inf:
        assert out[sees].isnan().all()
    grads = dict(zip(inputs, torch.autograd.grad(out.sum(), list(inputs.values()))))
    assert grads["query"][~sees].isfinite().all()
    assert grads["key"][~reached].isfinite().all() and grads["value"][~reached].isfinite().all()


def check_masked_heads():
    """A NaN behind an edge that a head may not see reaches neither outputs nor gradients."""
    plan, node = GRAPHS["ragged"], 4
    inputs = make_inputs(plan, TERMS["all"])
    inputs["head_mask"][plan.src == node, 1] = False
    expected = run_fused(plan, inputs)
    with torch.no_grad():
        inputs["key"][node, 1], inputs["value"][node, 1] = torch.nan, torch.nan
    for output, expectation in zip(run_fused(plan, inputs), expected):
        assert_close(output, expectation, rtol=0, atol=0)
    assert all(grad.isfinite().all() for grad in gradients(run_fused(plan, inputs), inputs).values())


def strided(x):
    """The same numbers with a hole after each."""
    if not isinstance(x, torch.Tensor):
        return x
    return torch.stack([x.detach(), x.detach()], -1)[..., 0].requires_grad_(x.requires_grad)


def check_strided_inputs():
    """Inputs with holes give the bits of contiguous ones."""
    plan, inputs = GRAPHS["ragged"], make_inputs(GRAPHS["ragged"], TERMS["all"])
    holey = {name: strided(x) for name, x in inputs.items()}
    assert not holey["query"].is_contiguous()
    outputs, same_outputs = run_fused(plan, inputs), run_fused(plan, holey)
    for one, other in zip(outputs, same_outputs):
        assert_close(one, other, rtol=0, atol=0)
    for one, other in zip(gradients(outputs, inputs).values(), gradients(same_outputs, holey).values()):
        assert_close(one, other, rtol=0, atol=0)


def check_half_precision(plan, dtype, rtol=0):
    """Outputs equal float32's, rounded at the end, but for `rtol`."""
    inputs = make_inputs(plan, TERMS["all"], dtype)
    wide = {
        name: x.detach().float().requires_grad_() if getattr(x, "requires_grad", False) else x
        for name, x in inputs.items()
    }
    outputs, expected = run_fused(plan, inputs), run_fused(plan, wide)
    assert [x.dtype for x in outputs] == [dtype, dtype, torch.float32]
    for output, expectation in zip(outputs, expected):
        assert_close(output, expectation.to(output.dtype), rtol=rtol, atol=0)
    grads, expected_grads = gradients(outputs, inputs), gradients(expected, wide)
    for name, grad in grads.items():
        assert grad.dtype == dtype
        assert_close(grad.float(), expected_grads[name], rtol=0.05, atol=0.05)


def check_edge_logits(plan, terms):
    """Logits and their gradients equal the formula's."""
    inputs = make_inputs(plan, terms, heads=6, key_heads=2)
    del inputs["value"]
    output = fused.logits(plan=plan, scale=SCALE, **inputs)
    key = inputs["key"].repeat_interleave(3, 1)
    expected = SCALE * (inputs["query"][plan.dst] * key[plan.src]).sum(-1)
    if terms:
        expected = expected + SCALE * (inputs["query_attr"][plan.dst] * inputs["edge_attr"][:, None]).sum(-1)
    assert_close(output, expected, **EXACT)
    grads, expected_grads = gradients([output], inputs), gradients([expected], inputs)
    for name, grad in grads.items():
        assert_close(grad, expected_grads[name], **EXACT)


@pytest.mark.parametrize("terms", TERMS.values(), ids=TERMS)
@pytest.mark.parametrize("graph", GRAPHS)
def test_float64_equals_the_formulas_in_outputs_and_gradients(graph, terms):
    check_against_reference(GRAPHS[graph], make_inputs(GRAPHS[graph], terms), **EXACT)


@pytest.mark.parametrize("terms", TERMS.values(), ids=TERMS)
def test_float32_equals_the_formulas_up_to_rounding(terms):
    check_against_reference(GRAPHS["ragged"], make_inputs(GRAPHS["ragged"], terms, torch.float32), **SINGLE)


@pytest.mark.parametrize("dims", [(64, 40, 8), (104, 131, 17), (1, 1, 1)], ids=str)
def test_any_width_is_served(dims):
    check_against_reference(GRAPHS["ragged"], make_inputs(GRAPHS["ragged"], TERMS["all"], dims=dims), **EXACT)


@pytest.mark.parametrize("key_heads", [1, 2, 3])
def test_grouped_heads_share_keys_and_values(key_heads):
    plan = GRAPHS["bipartite"]
    check_against_reference(plan, make_inputs(plan, TERMS["all"], heads=6, key_heads=key_heads), **EXACT)


def test_one_bias_and_gate_for_all_heads_get_the_sum_of_their_gradients():
    plan = GRAPHS["ragged"]
    check_against_reference(plan, make_inputs(plan, TERMS["all"], shared=True), **EXACT)


@pytest.mark.parametrize("wanted", ["query", "key", "value", "query_attr", "edge_attr", "edge_bias", "edge_gate"])
def test_a_gradient_is_the_same_when_it_alone_is_wanted(wanted):
    plan, inputs = GRAPHS["ragged"], make_inputs(GRAPHS["ragged"], TERMS["all"])
    expected = gradients(run_fused(plan, inputs), inputs)[wanted]
    for name, x in inputs.items():
        if isinstance(x, torch.Tensor) and x.requires_grad:
            inputs[name] = x.detach().requires_grad_(name == wanted)
    assert_close(gradients(run_fused(plan, inputs), inputs)[wanted], expected, rtol=0, atol=0)


def test_logits_of_ten_thousand_neither_overflow_nor_lose_the_winner():
    plan = GRAPHS["ragged"]
    inputs = make_inputs(plan, TERMS["edge features"])
    inputs["query"] = (inputs["query"].detach() * 1e4).requires_grad_()
    check_against_reference(plan, inputs, atol=1e-7, rtol=1e-8)  # the logits themselves are right to 1e-12 · 1e4 only


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_targets_without_a_finite_logit_get_zero_and_give_zero_gradients(dtype):
    plan = GRAPHS["ragged"]
    inputs = make_inputs(plan, TERMS["all"], dtype)
    with torch.no_grad():
        inputs["edge_bias"][plan.dst == 3] = -torch.inf
        inputs["edge_bias"][:2] = -torch.inf
    out, out_attr, lse = run_fused(plan, inputs)
    assert not out[3].any() and not out_attr[3].any() and (lse[3] == -torch.inf).all()
    for name, grad in gradients((out, out_attr, lse), inputs).items():
        assert grad.isfinite().all(), name


@pytest.mark.parametrize("number", [torch.nan, torch.inf], ids=["nan", "inf"])
@pytest.mark.parametrize("name", ["query", "key", "value"])
@pytest.mark.parametrize("graph", ["ragged", "window"])
def test_nan_stays_with_the_targets_that_see_it(graph, name, number):
    check_nan_stays(GRAPHS[graph], name, number)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("graph", ["ragged", "window"])
def test_a_nan_beside_minus_infinity_is_not_mistaken_for_an_empty_row(graph, dtype):
    plan = GRAPHS[graph]
    for edge in range(int(plan.target_ptr[3]), int(plan.target_ptr[4])):
        inputs = make_inputs(plan, ("query_attr", "edge_attr", "edge_bias"), dtype)
        with torch.no_grad():
            inputs["edge_bias"][plan.dst == 3] = -torch.inf
            inputs["edge_bias"][edge] = torch.nan
        out, out_attr, lse = run_fused(plan, inputs)
        assert out[3].isnan().all() and out_attr[3].isnan().all() and lse[3].isnan().all()
        assert out[[2, 4]].isfinite().all() and lse[[2, 4]].isfinite().all()


@pytest.mark.parametrize("density", [0.005, 0.02, 0.08, 0.3, 0.7])  # 1, 4, 16, 60 and 140 edges a row
def test_rows_that_run_side_by_side_keep_to_themselves(density):
    plan = random_plan(num_src_nodes=200, num_dst_nodes=40, density=density)
    check_against_reference(plan, make_inputs(plan, ()), **EXACT)
    inputs, target = make_inputs(plan, ()), int(plan.dst[plan.dst.numel() // 2])
    with torch.no_grad():
        inputs["query"][target] = torch.nan
    out, _, lse = run_fused(plan, inputs)
    others = torch.arange(40) != target
    assert out[target].isnan().all() and lse[target].isnan().all()
    assert out[others].isfinite().all() and not lse[others].isnan().any()


def test_a_masked_head_does_not_look_at_the_edge():
    check_masked_heads()


def test_strided_inputs_give_the_same_bits():
    check_strided_inputs()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32_and_rounded_once(dtype):
    check_half_precision(GRAPHS["ragged"], dtype)


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("terms", [(), ("query_attr", "edge_attr")], ids=["plain", "edge features"])
def test_edge_logits_equal_the_formula_in_output_and_gradients(graph, terms):
    check_edge_logits(GRAPHS[graph], terms)


def test_dropout_keeps_the_stated_share_and_the_stated_edges():
    num_edges = 40_009
    dst = torch.arange(num_edges)  # one edge a target, so the output is the dropout factor itself
    plan = make_plan(torch.zeros_like(dst), dst, 1, num_edges)
    query, key, value = torch.zeros(num_edges, HEADS, 8), torch.zeros(1, HEADS, 8), torch.ones(1, HEADS, 8)
    for seed in (0, 1, -(2**63), 2**63 - 1):
        seed = torch.tensor([seed])
        out, _, _ = fused.attention(query, key, value, plan, scale=1.0, dropout_p=0.3, seed=seed)
        assert_close(out[..., 0].double(), stated_keep(num_edges, HEADS, 0.3, seed), rtol=1e-6, atol=0)
        deviation = (0.3 * 0.7 / out[..., 0].numel()) ** 0.5
        assert abs((out == 0).double().mean().item() - 0.3) < 4 * deviation
    nothing, _, _ = fused.attention(query, key, value, plan, scale=1.0, dropout_p=1.0, seed=seed)
    assert not nothing.any()


# each is enough work to be spread over threads, and is so in a way of its own
LARGE = {
    "heads": lambda: (random_plan(num_src_nodes=211, num_dst_nodes=223, density=0.3), {}),
    "packed heads": lambda: (random_plan(num_src_nodes=400, num_dst_nodes=400, density=0.2), {"heads": 8}),
    "packed far nodes": lambda: (random_plan(num_src_nodes=4000, num_dst_nodes=4000, density=0.0025), {"heads": 4}),
    "far nodes": lambda: (random_plan(num_src_nodes=2500, num_dst_nodes=2500, density=0.002), {"heads": 4}),
    "parts": lambda: (random_plan(num_src_nodes=400, num_dst_nodes=400, density=0.5), {"heads": 1}),
    "chunks apart": lambda: (molecule_plan([40] * 40), {}),
    "chunks that touch": lambda: (window_plan(num_nodes=1500, radius=24), {}),
}


def large_case(name="heads", terms=TERMS["all"], dtype=torch.float32):
    plan, sizes = LARGE[name]()
    return plan, make_inputs(plan, terms, dtype, dims=(32, 40, 8), **sizes)


def all_results(plan, inputs):
    outputs = [output for output in run_fused(plan, inputs) if output is not None]
    return [*outputs, *gradients(outputs, inputs).values()]


@pytest.fixture
def restore_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("terms", [(), TERMS["all"]], ids=["plain", "all"])
@pytest.mark.parametrize("name", LARGE)
def test_bits_are_the_same_at_any_thread_count_and_on_every_repeat(name, terms, restore_threads):
    plan, inputs = large_case(name, terms)
    torch.set_num_threads(1)
    expected = all_results(plan, inputs)
    for num_threads in (1, 2, 5, 2):
        torch.set_num_threads(num_threads)
        for result, expectation in zip(all_results(plan, inputs), expected):
            assert torch.equal(result, expectation)


@pytest.mark.parametrize("terms", [(), TERMS["all"]], ids=["plain", "all"])
@pytest.mark.parametrize("name", LARGE)
def test_a_large_case_on_threads_equals_scatter(name, terms, restore_threads):
    torch.set_num_threads(2)
    plan, inputs = large_case(name, terms, torch.float64)
    outputs, expected = run_fused(plan, inputs), scatter.attention(plan=plan, scale=SCALE, **inputs)
    for output, expectation in zip(outputs, expected):
        assert (output is None and expectation is None) or torch.allclose(output, expectation, **EXACT)
    grads, expected_grads = gradients(outputs, inputs), gradients(expected, inputs)
    for input_name, grad in grads.items():
        assert_close(grad, expected_grads[input_name], **EXACT)


@pytest.mark.parametrize("name", LARGE)
def test_nothing_is_left_as_memory_was(name, monkeypatch):
    from graphattn.ops._impl.numba import launch

    plan, sizes = LARGE[name]()
    src = plan.src + 7 * (plan.src // 50) + 5  # nobody sees the sources before, after and here and there between
    plan = make_plan(src, plan.dst, int(src.max()) + 9, plan.num_dst_nodes)
    inputs = make_inputs(plan, TERMS["all"], torch.float32, dims=(32, 40, 8), **sizes)
    expected, empty = all_results(plan, inputs), launch._empty
    monkeypatch.setattr(launch, "_empty", lambda *given: empty(*given).fill_(torch.nan))
    for result, expectation in zip(all_results(plan, inputs), expected, strict=True):
        assert torch.equal(result, expectation)


def test_two_callers_at_once_get_the_same_bits(restore_threads):
    torch.set_num_threads(2)
    plan, inputs = large_case()
    expected = all_results(plan, inputs)
    together = threading.Barrier(2)

    def call():
        together.wait()
        return [all_results(plan, inputs) for _ in range(5)]

    with ThreadPoolExecutor(2) as pool:
        for future in [pool.submit(call) for _ in range(2)]:
            for results in future.result(timeout=60):
                assert all(torch.equal(result, expectation) for result, expectation in zip(results, expected))


def call_in_child(connection, plan, inputs):
    connection.send(run_fused(plan, inputs)[0].numpy())


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_a_child_process_can_call_it_after_its_parent_did(method, restore_threads):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system cannot {method}")
    torch.set_num_threads(2)
    plan, inputs = large_case()
    inputs = {name: x.detach() if isinstance(x, torch.Tensor) else x for name, x in inputs.items()}
    expected = run_fused(plan, inputs)[0].numpy()
    context = multiprocessing.get_context(method)
    here, there = context.Pipe()
    child = context.Process(target=call_in_child, args=(there, plan, inputs))
    child.start()
    try:
        assert here.poll(60), "the child hangs"
        assert (here.recv() == expected).all()
    finally:
        child.kill()


SMALL_CALL = """
import torch
from types import SimpleNamespace
from graphattn.ops._impl import fused, scatter
zero, one = torch.zeros(1, dtype=torch.long), torch.tensor([0, 1])
plan = SimpleNamespace(src=zero, dst=zero, target_ptr=one, source_ptr=one, source_order=zero, windows=None)
x = torch.ones(1, 1, 8)
"""


def run_python(code, **environment):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)


def test_importing_it_does_not_import_numba():
    code = "from graphattn.ops._impl import fused; import sys; print('llvmlite' in sys.modules)"
    assert run_python(code).stdout.strip() == "False"


def test_without_numba_the_error_says_how_to_get_it():
    code = "import sys; sys.modules['numba'] = None" + SMALL_CALL + "fused.attention(x, x, x, plan, scale=1.0)"
    finished = run_python(code)
    assert finished.returncode != 0
    assert "ImportError: " in finished.stderr and "pip install numba" in finished.stderr


def test_it_runs_where_no_folder_can_be_written(tmp_path):
    # Root may write anywhere, but nobody can make a folder below a file.
    (tmp_path / "file").touch()
    code = """
from numba.core.caching import _CacheLocator
def refuse(self): raise OSError
_CacheLocator.ensure_cache_path = refuse
""" + SMALL_CALL + "assert torch.equal(fused.attention(x, x, x, plan, scale=1.0)[0], x)"  # fmt: skip
    finished = run_python(code, NUMBA_CACHE_DIR=str(tmp_path / "file" / "cache"))
    assert finished.returncode == 0, finished.stderr


def test_it_runs_where_the_cache_folder_fails_on_writing(tmp_path):
    code = """
from numba.core import caching
def refuse(self, key, data): raise OSError("disk full")
caching.IndexDataCacheFile.save = refuse
""" + SMALL_CALL + "assert torch.equal(fused.attention(x, x, x, plan, scale=1.0)[0], x)"  # fmt: skip
    finished = run_python(code, NUMBA_CACHE_DIR=str(tmp_path))
    assert finished.returncode == 0, finished.stderr


@pytest.mark.parametrize("watched", [True, False])
def test_a_compilation_is_announced_to_whoever_watches(watched, monkeypatch, capsys):
    from graphattn.ops._impl.numba import kernels, pieces

    run_fused(GRAPHS["ragged"], make_inputs(GRAPHS["ragged"]))
    cache, compiled = kernels.attention._cache, list(kernels.attention.overloads)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: watched)
    cache.load_overload(compiled[0], kernels.attention.targetctx)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(pieces, "SOURCES", "another text")
    assert cache.load_overload(compiled[0], kernels.attention.targetctx) is None
    assert ("compiling 'attention'" in capsys.readouterr().err) == watched


def test_an_edit_in_what_kernels_import_makes_the_disk_cache_miss(monkeypatch):
    from graphattn.ops._impl.numba import kernels, pieces

    def key_now():
        return kernels.attention._cache._index_key((), kernels.attention.targetctx.codegen())

    before = key_now()
    assert key_now() == before
    monkeypatch.setattr(pieces, "SOURCES", "another text")
    assert key_now() != before


def operator_arguments(plan, inputs, wants_weights=False):
    names = ("query_attr", "edge_attr", "edge_type", "edge_bias", "edge_gate", "head_mask", "edge_id", "seed")
    plan_tensors = (plan.target_ptr, plan.src, plan.dst, plan.source_ptr, plan.source_order)
    terms = [inputs.get(name) for name in names]
    windows = plan.windows or fused.NO_WINDOWS
    numbers = (SCALE, inputs.get("logit_clip"), inputs.get("dropout_p", 0.0), wants_weights)
    return (inputs["query"], inputs["key"], inputs["value"], *plan_tensors, *terms, *windows, *numbers)


@pytest.mark.parametrize("change", [lambda x: x, strided], ids=["contiguous", "strided"])
@pytest.mark.parametrize("wants_weights", [False, True], ids=["out", "out and weights"])
@pytest.mark.parametrize("terms", [(), TERMS["all"]], ids=["plain", "all"])
def test_the_operators_pass_opcheck(terms, wants_weights, change):
    plan = GRAPHS["bipartite"]
    inputs = {name: change(x) for name, x in make_inputs(plan, terms, torch.float32).items()}
    arguments = operator_arguments(plan, inputs, wants_weights)
    torch.library.opcheck(fused.fused_attention, arguments)

    with torch.no_grad():
        out, out_attr, lse, weights = fused.fused_attention(*arguments)
        upstream = tuple(map(torch.ones_like, (out, out_attr, lse, weights)))
        wanted = [True] * 3 + [bool(terms)] * 4
        constants = [x.detach() if isinstance(x, torch.Tensor) else x for x in arguments[:-1]]
    torch.library.opcheck(fused.fused_attention_backward, (*upstream, out, out_attr, lse, *constants, wanted))

    typed = dict(inputs, edge_attr=None, edge_type=torch.arange(len(plan.src)) % 3)
    typed["query_attr"] = torch.randn(*inputs["query"].shape[:2], 3, requires_grad=True)
    torch.library.opcheck(fused.fused_attention, operator_arguments(plan, typed))

    query, key, _, *plan_tensors = arguments[:8]
    attrs = (inputs.get("query_attr"), inputs.get("edge_attr"))
    torch.library.opcheck(fused.fused_logits, (query, key, *plan_tensors, *attrs, SCALE))
    grad = torch.ones(len(plan.src), HEADS)
    constants = [x if x is None else x.detach() for x in (query, key, *plan_tensors, *attrs)]
    wanted = [True, True, bool(terms), bool(terms)]
    torch.library.opcheck(fused.fused_logits_backward, (grad, *constants, SCALE, wanted))


@pytest.mark.parametrize("terms", [(), TERMS["all"]], ids=["plain", "all"])
def test_it_compiles_into_one_graph_that_serves_any_number_of_edges(terms):
    torch._dynamo.reset()
    plans = [random_plan(71, 73, density) for density in (0.2, 0.3, 0.4)]

    compiled = torch.compile(run_fused, fullgraph=True, backend="aot_eager")
    with torch._dynamo.config.patch(error_on_recompile=True):
        for plan in plans:
            inputs = make_inputs(plan, terms)
            for x in (*vars(plan).values(), *inputs.values()):
                if isinstance(x, torch.Tensor) and len(x) == len(plan.src):
                    torch._dynamo.mark_dynamic(x, 0)
            outputs, expected = compiled(plan, inputs), run_fused(plan, inputs)
            for output, expectation in zip(outputs, expected):
                assert (output is None and expectation is None) or torch.equal(output, expectation)
            grads, expected_grads = gradients(outputs, inputs), gradients(expected, inputs)
            assert all(torch.equal(grads[name], expected_grads[name]) for name in grads)


def test_a_second_derivative_names_the_implementation_that_has_one():
    plan, inputs = GRAPHS["ragged"], make_inputs(GRAPHS["ragged"])
    query, key = inputs["query"], inputs["key"]
    for output in (run_fused(plan, inputs)[0], fused.logits(query, key, plan, scale=SCALE)):
        (grad,) = torch.autograd.grad(output.square().sum(), query, create_graph=True)
        with pytest.raises(NotImplementedError, match='impl="scatter"'):
            grad.sum().backward()


@pytest.mark.parametrize("number", [-1, 3])
def test_a_type_that_there_is_not_is_refused_before_a_kernel_reads_it(number):
    plan = GRAPHS["bipartite"]
    inputs = make_inputs(plan, (), torch.float32)
    edge_type = torch.zeros(len(plan.src), dtype=torch.int64)
    edge_type[-1] = number
    query_attr = torch.zeros(*inputs["query"].shape[:2], 3)
    with pytest.raises(ValueError, match=rf"edge_type must lie in \[0, 3\), .* got {number}. Number types from 0"):
        fused.attention(**inputs, plan=plan, query_attr=query_attr, edge_type=edge_type, scale=SCALE)


@pytest.mark.skipif(not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="no huge pages here")
def test_large_arrays_ask_for_huge_pages():
    from graphattn.ops._impl.numba import launch

    def flags_at(address):
        is_there = False
        for line in Path("/proc/self/smaps").read_text().splitlines():
            if span := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
                is_there = int(span[1], 16) <= address < int(span[2], 16)
            elif is_there and line.startswith("VmFlags:"):
                return line.split()[1:]

    asked = launch._zeros((4, 2**20), torch.float32)
    assert not asked.any()
    assert "hg" in flags_at(asked.data_ptr() + asked.nbytes // 2)
