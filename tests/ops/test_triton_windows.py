"""The CUDA kernels over windows of rows, tested as `test_triton_kernels.py` tests those over single rows."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close

pytest.importorskip("numba")
pytest.importorskip("triton", reason="Triton, which the CUDA kernels need, is not installed")

from torch._subclasses import FakeTensorMode
from triton import language
from triton.runtime import driver, interpreter
from triton.runtime.jit import JITFunction

from graphattn.graph.windows import Windows, slots_of
from graphattn.ops._impl import fused
from graphattn.ops._impl.triton import launch, window_kernels, windows
from tests.ops.test_fused_kernels import (
    GRAPHS,
    HEADS,
    SINGLE,
    VALUE_DIM,
    check_against_reference,
    check_nan_stays,
    gradients,
    make_inputs,
    operator_arguments,
    reference,
    run_fused,
    strided,
)
from tests.ops.test_fused_kernels import TERMS as ALL_TERMS
from tests.ops.test_triton_kernels import (
    ATTENTION,
    BACKWARD,
    COMPILE,
    DEVICE,
    SAME,
    Driver,
    Largest,
    NoKernels,
    fused_on_cuda,  # noqa: F401  lets every test here reach the CUDA kernels
    on,
    without_numbers,
)

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")
FEATURES = ("query_attr", "edge_attr")  # which windows do not serve
TERMS = {name: terms for name, terms in ALL_TERMS.items() if name != "edge features"}
TERMS["all"] = tuple(name for name in ALL_TERMS["all"] if name not in FEATURES)


def with_windows(plan, of_targets=16, of_sources=16):
    """The plan with windows of so many rows, be they full or not."""
    targets = slots_of(plan.dst, plan.src, plan.num_dst_nodes, plan.num_src_nodes, of_targets)
    sources = slots_of(plan.src, plan.dst, plan.num_src_nodes, plan.num_dst_nodes, of_sources)
    return SimpleNamespace(**{**vars(plan), "windows": Windows(*targets, *sources)})


@pytest.fixture(autouse=True)
def no_other_kernel(monkeypatch):
    """Refuses what kernels over single rows would serve."""

    def refuse(*arguments):
        raise AssertionError("not served by windows")

    monkeypatch.setattr(launch, "attention", refuse)
    monkeypatch.setattr(launch, "attention_backward", refuse)


def multiply_bfloat16(monkeypatch):
    """Lets the interpreter, which takes the bits of bfloat16 for integers in a product, multiply in float32."""
    multiply = interpreter.InterpreterBuilder.create_dot

    def multiply_in_float32(builder, *tiles_and_others):
        *tiles, sums, precision, imprecise = tiles_and_others
        wide = (builder.create_fp_ext(x, language.float32) if x.dtype == language.bfloat16 else x for x in tiles)
        return multiply(builder, *wide, sums, precision, imprecise)

    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", multiply_in_float32)


@pytest.mark.parametrize("terms", TERMS.values(), ids=TERMS)
def test_float32_equals_the_formulas_in_outputs_and_gradients(terms):
    plan = with_windows(GRAPHS["hub and lonely"])
    check_against_reference(plan, make_inputs(plan, terms, torch.float32), **SINGLE)


@pytest.mark.parametrize(
    ("graph", "of_targets", "of_sources"),
    [("ragged", 16, 16), ("bipartite", 64, 16), ("window", 64, 64), ("molecules", 16, 64), ("no edges", 16, 64)],
)
def test_windows_of_any_size_serve_any_graph(graph, of_targets, of_sources):
    plan = with_windows(GRAPHS[graph], of_targets, of_sources)
    check_against_reference(plan, make_inputs(plan, TERMS["all"], torch.float32), **SINGLE)


@pytest.mark.parametrize("terms", ["plain", "all"])
@pytest.mark.parametrize("rows", [16, 64])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_float32(dtype, rows, terms, monkeypatch):
    multiply_bfloat16(monkeypatch)
    plan = with_windows(GRAPHS["window"], rows, rows)
    # numbers of few digits meet a bound exactly, where float32 and float64 may take different sides
    inputs = make_inputs(plan, [name for name in TERMS[terms] if name != "logit_clip"], dtype)
    outputs, expected = run_fused(plan, inputs), reference(plan=plan, **inputs)
    assert [outputs[0].dtype, outputs[2].dtype] == [dtype, torch.float32]
    eps = torch.finfo(dtype).eps
    assert_close(outputs[0].double(), expected[0], rtol=2 * eps, atol=2 * eps)
    assert_close(outputs[2].double(), expected[2], **SINGLE)  # logits are never rounded
    grads, expected_grads = gradients(outputs, inputs), gradients(expected, inputs)
    for name, grad in grads.items():
        assert grad.dtype == dtype
        gap, size = (grad.double() - expected_grads[name].double()).norm(), expected_grads[name].double().norm()
        assert 0 < size and gap <= 2 * eps * size, name


@pytest.mark.parametrize("dims", [(64, 40), (17, 128), (1, 1)], ids=str)
def test_widths_up_to_a_limit_are_served(dims):
    plan = with_windows(GRAPHS["bipartite"])
    check_against_reference(plan, make_inputs(plan, TERMS["all"], torch.float32, dims=(*dims, 1)), **SINGLE)


@pytest.mark.parametrize("key_heads", [1, 2])
def test_grouped_heads_share_keys_and_values(key_heads):
    plan = with_windows(GRAPHS["ragged"])
    inputs = make_inputs(plan, TERMS["all"], torch.float32, heads=4, key_heads=key_heads)
    check_against_reference(plan, inputs, **SINGLE)


def test_one_bias_and_gate_for_all_heads_get_the_sum_of_their_gradients():
    plan = with_windows(GRAPHS["ragged"])
    check_against_reference(plan, make_inputs(plan, TERMS["all"], torch.float32, shared=True), **SINGLE)


@pytest.mark.parametrize("wanted", ["query", "key", "value", "edge_bias", "edge_gate"])
def test_a_gradient_is_the_same_when_it_alone_is_wanted(wanted):
    plan = with_windows(GRAPHS["bipartite"])
    inputs = make_inputs(plan, TERMS["all"], torch.float32)
    expected = gradients(run_fused(plan, inputs), inputs)[wanted]
    for name, x in inputs.items():
        if isinstance(x, torch.Tensor) and x.requires_grad:
            inputs[name] = x.detach().requires_grad_(name == wanted)
    assert_close(gradients(run_fused(plan, inputs), inputs)[wanted], expected, **SAME)


def test_offsets_of_64_bits_change_no_result(monkeypatch):
    monkeypatch.setattr(launch, "LAST_INT32", 0)
    plan = with_windows(GRAPHS["bipartite"])
    check_against_reference(plan, make_inputs(plan, TERMS["all"], torch.float32), **SINGLE)


def test_logits_of_ten_thousand_neither_overflow_nor_lose_the_winner():
    plan = with_windows(GRAPHS["ragged"])
    inputs = make_inputs(plan, (), torch.float32)
    with torch.no_grad():  # whole numbers, so that products are exact
        inputs["query"].copy_((inputs["query"] * 1e4).round())
        inputs["key"].copy_((inputs["key"] * 8).round())
    check_against_reference(plan, inputs, atol=2e-2, rtol=1e-4)
    assert run_fused(plan, inputs)[2].max() > 1e4


@pytest.mark.parametrize("rows", [16, 64])
def test_a_window_that_is_served_one_column_after_another_gives_the_same(rows, monkeypatch):
    if DEVICE == "cpu":
        monkeypatch.setattr(window_kernels, "is_spoiled", lambda sums: True)
    plan = with_windows(GRAPHS["ragged"], rows, rows)
    inputs = make_inputs(plan, TERMS["all"], torch.float32)
    check_against_reference(plan, inputs, **SINGLE)


@pytest.mark.parametrize("name", ["query", "key", "value"])
@pytest.mark.parametrize("number", [torch.nan, torch.inf], ids=["nan", "inf"])
def test_nan_stays_with_the_targets_that_see_it(name, number):
    check_nan_stays(with_windows(GRAPHS["window"]), name, number)


def test_a_nan_upstream_stays_with_the_sources_that_its_target_sees():
    plan, node = with_windows(GRAPHS["window"]), 4
    inputs = make_inputs(plan, (), torch.float32)
    reached = torch.zeros(plan.num_src_nodes, dtype=torch.bool)
    reached[plan.src[plan.dst == node]] = True
    out = run_fused(plan, inputs)[0]
    grad_out = torch.ones_like(out)
    grad_out[node] = torch.nan
    grads = dict(zip(inputs, torch.autograd.grad(out, list(inputs.values()), grad_out)))
    assert grads["query"][node].isnan().all() and grads["query"].isnan().any(-1).any(-1).sum() == 1
    for name in ("key", "value"):
        assert grads[name][reached].isnan().all() and grads[name][~reached].isfinite().all(), name


def test_an_infinite_value_is_what_its_targets_get_and_no_neighbor_in_the_window():
    plan = with_windows(GRAPHS["window"])
    inputs = make_inputs(plan, (), torch.float32)
    expected = run_fused(plan, inputs)[0]
    with torch.no_grad():
        inputs["value"][4, 1, 2] = torch.inf
    out = run_fused(plan, inputs)[0]
    hit = torch.zeros_like(out, dtype=torch.bool)
    hit[plan.dst[plan.src == 4], 1, 2] = True
    assert (out[hit] == torch.inf).all() and hit.sum() == 11
    assert_close(out[~hit], expected[~hit], **SINGLE)


def test_a_number_too_large_for_float16_spoils_no_neighbor():
    """A slope beyond 65504 is infinite in half precision; the window is served again in float32."""
    plan = with_windows(GRAPHS["window"])
    inputs = make_inputs(plan, (), torch.float16)
    grad_out = torch.zeros(plan.num_dst_nodes, HEADS, VALUE_DIM, dtype=torch.float16)
    grad_out[10] = 6e4
    with torch.no_grad():
        inputs["value"] *= 4
    out, _, _ = run_fused(plan, inputs)
    grads = torch.autograd.grad(out, list(inputs.values()), grad_out)
    expected = torch.autograd.grad(reference(plan=plan, **inputs)[0], list(inputs.values()), grad_out.double())
    beyond = [grad.abs() > 6e4 for grad in expected]
    assert any(x.any() for x in beyond)
    for grad, right, is_beyond in zip(grads, expected, beyond):
        assert grad[~is_beyond].isfinite().all()
        gap = (grad.double() - right.double())[~is_beyond].norm()
        assert gap <= 2e-3 * right.double().norm()


def test_a_row_without_a_finite_logit_is_zero_and_has_no_gradients():
    plan = with_windows(GRAPHS["ragged"])
    inputs = make_inputs(plan, TERMS["all"], torch.float32)
    with torch.no_grad():
        inputs["edge_bias"][plan.dst == 3] = -torch.inf
        inputs["edge_bias"][:2] = -torch.inf
        inputs["value"][plan.src[plan.dst == 3][0]] = 1e30
    out, _, lse = run_fused(plan, inputs)
    assert not out[3].any() and (lse[3] == -torch.inf).all() and out[4].any()
    for name, grad in gradients((out, None, lse), inputs).items():
        assert grad.isfinite().all(), name
        if name == "query":
            assert not grad[3].any() and grad[4].any()


def test_a_nan_beside_minus_infinity_is_not_mistaken_for_an_empty_row():
    plan = with_windows(GRAPHS["ragged"])
    inputs = make_inputs(plan, ("edge_bias",), torch.float32)
    with torch.no_grad():
        inputs["edge_bias"][plan.dst == 3] = -torch.inf
        inputs["edge_bias"][int(plan.target_ptr[3])] = torch.nan
    out = run_fused(plan, inputs)[0]
    assert out[3].isnan().all() and out[plan.target_ptr.diff() > 0][:3].isfinite().all()


def test_a_masked_head_does_not_look_at_the_edge():
    plan, node = with_windows(GRAPHS["ragged"]), 4
    inputs = make_inputs(plan, TERMS["all"], torch.float32)
    inputs["head_mask"][plan.src == node, 1] = False
    expected = run_fused(plan, inputs)
    with torch.no_grad():
        inputs["key"][node, 1], inputs["value"][node, 1] = torch.nan, torch.nan
    for output, expectation in zip(run_fused(plan, inputs), expected):
        assert output is None or torch.allclose(output, expectation, rtol=1e-5, atol=1e-6)
    assert all(grad.isfinite().all() for grad in gradients(run_fused(plan, inputs), inputs).values())


def test_a_masked_edge_carries_no_nan_from_its_target_back():
    plan, head = with_windows(GRAPHS["ragged"]), 1
    inputs = make_inputs(plan, TERMS["all"], torch.float32)
    edge = int(plan.target_ptr[3])
    source = plan.src[edge]
    inputs["head_mask"][edge, head] = False
    with torch.no_grad():
        inputs["query"][3, head] = torch.nan
    outputs = run_fused(plan, inputs)
    grads = gradients(outputs, inputs)
    assert grads["key"][source, head].isfinite().all() and grads["value"][source, head].isfinite().all()
    assert grads["query"][3, head].isnan().all() and grads["query"][4].isfinite().all()


def test_strided_inputs_give_the_same_bits():
    plan = with_windows(GRAPHS["bipartite"])
    inputs = make_inputs(plan, TERMS["all"], torch.float32)
    holey = {name: strided(x) for name, x in inputs.items()}
    assert not holey["query"].is_contiguous()
    outputs, same_outputs = run_fused(plan, inputs), run_fused(plan, holey)
    for one, other in zip(outputs, same_outputs):
        assert_close(one, other, rtol=0, atol=0)
    for one, other in zip(gradients(outputs, inputs).values(), gradients(same_outputs, holey).values()):
        assert_close(one, other, rtol=0, atol=0)


def test_what_windows_do_not_serve_runs_over_single_rows(monkeypatch):
    monkeypatch.undo()
    rows = torch.empty(2, 0, dtype=torch.int64)
    query, wide = torch.empty(4, 2, 64), torch.empty(4, 2, 129)
    assert windows.serve(query, query, None, rows, False)
    assert not windows.serve(query, query, None, None, False)  # the graph has no windows
    assert not windows.serve(query.double(), query.double(), None, rows, False)
    assert not windows.serve(query, query, query, rows, False)  # features of edges
    assert not windows.serve(query, query, None, rows, True)  # weights of edges
    assert not windows.serve(wide, query, None, rows, False) and not windows.serve(query, wide, None, rows, False)
    assert not windows.serve(query, query[..., :0], None, rows, False)


@pytest.mark.parametrize("refused", [dict(dtype=torch.float64), dict(terms=("query_attr", "edge_attr"))], ids=str)
def test_a_call_that_windows_do_not_serve_reaches_the_other_kernels(refused):
    plan = with_windows(GRAPHS["bipartite"])
    with pytest.raises(AssertionError, match="not served by windows"):
        run_fused(plan, make_inputs(plan, **{"dtype": torch.float32, **refused}))


@pytest.mark.parametrize("num_rows", [1, 5, 16, 17, 31, 33, 63, 64, 65, 100, 128, 129, 1000])
@pytest.mark.parametrize("window", [16, 64])
def test_the_number_of_windows_tells_their_rows(window, num_rows):
    ptr = torch.empty(-(-num_rows // window) + 1)
    told = windows.Side(num_rows, 1, ptr, None).window
    assert told == window or (len(ptr) == 2 and num_rows <= told <= window)  # of one window, bits are the same


@pytest.mark.parametrize("terms", ["plain", "all"])
def test_what_comes_back_is_what_the_operators_promise_to_compilers(terms):
    plan = with_windows(GRAPHS["bipartite"])
    inputs = {name: x.detach() if isinstance(x, torch.Tensor) else x
              for name, x in make_inputs(plan, TERMS[terms], torch.float16).items()}  # fmt: skip
    arguments = operator_arguments(plan, inputs)
    outputs = fused.attention_on_cuda(*on(DEVICE, arguments))
    upstream = [torch.ones_like(x) for x in outputs]
    wanted = [True, False, True, False, False] + [terms == "all"] * 2
    of_backward = (*upstream, *outputs[:3], *on(DEVICE, arguments[:-1]), wanted)
    grads = fused.attention_backward_on_cuda(*of_backward)
    with FakeTensorMode(allow_non_fake_inputs=True):
        promised = ATTENTION(*arguments), BACKWARD(*on("cpu", of_backward))
    for got, promise in zip((*outputs, *grads), (*promised[0], *promised[1])):
        assert (got.shape, got.dtype, got.stride()) == (promise.shape, promise.dtype, promise.stride())


def test_the_operators_pass_opcheck_with_windows(monkeypatch):
    monkeypatch.undo()
    plan = with_windows(GRAPHS["bipartite"])
    inputs = make_inputs(plan, TERMS["all"], torch.float32)
    torch.library.opcheck(ATTENTION, operator_arguments(plan, inputs))


def windows_without_numbers(terms, num_nodes, num_edges, heads=8, dim=64):
    """Arguments of the forward operator that have sizes and no numbers, with windows."""
    plan_of = without_numbers(terms, num_nodes, num_edges, heads, dim)
    arguments = [None if x is not None and at in (8, 9) else x for at, x in enumerate(plan_of)]  # features
    ptr, slots = (
        torch.empty(size, dtype=torch.int64, device="meta")
        for size in ((-(-num_nodes // 64) + 1,), (2, num_edges // 4))
    )
    return [*arguments[:16], ptr, slots, ptr, slots, *arguments[20:]]


def gradients_without_numbers(outputs, arguments, terms):
    upstream = map(torch.empty_like, outputs)
    wanted = [True] * 3 + [False] * 2 + [terms == "all"] * 2
    return fused.attention_backward_on_cuda(*upstream, *outputs[:3], *arguments[:-1], wanted)


@pytest.mark.parametrize("terms", ["plain", "all"])
def test_no_number_on_the_device_is_read_and_memory_grows_with_nodes(terms, monkeypatch):
    monkeypatch.setattr(windows, "window_kernels", NoKernels())
    num_nodes, num_edges, heads, dim = 10**6, 10**8, 8, 64
    arguments = windows_without_numbers(terms, num_nodes, num_edges, heads, dim)
    with Largest() as largest:
        outputs = fused.attention_on_cuda(*arguments)
        grads = gradients_without_numbers(outputs, arguments, terms)
    assert [grad.numel() > 0 for grad in grads] == [True] * 3 + [False] * 2 + [terms == "all"] * 2
    assert largest.numbers <= (num_nodes * heads * dim if terms == "plain" else num_edges * heads)


@pytest.mark.parametrize("terms", ["plain", "all"])
def test_a_batch_of_another_size_runs_the_programs_that_are_there(terms, monkeypatch):
    monkeypatch.undo()  # the kernels as they are compiled, not as the interpreter takes them
    monkeypatch.setattr(driver, "_active", Driver())
    programs = set()
    monkeypatch.setattr(JITFunction, "_do_compile", lambda kernel, key, *_: programs.add((kernel.fn.__name__, key)))

    def count(num_nodes, num_edges):
        arguments = windows_without_numbers(terms, num_nodes, num_edges)
        gradients_without_numbers(fused.attention_on_cuda(*arguments), arguments, terms)
        return len(programs)

    assert count(num_nodes=1600, num_edges=48_000) == len(KERNELS)
    assert {name for name, _ in programs} == KERNELS
    for num_nodes, num_edges in ((1601, 48_004), (1_599, 47_999), (1501, 48_016), (4096, 131_072)):
        assert count(num_nodes, num_edges) == len(KERNELS)


KERNELS = {"window_attention", "window_target_gradients", "window_source_gradients"}
MAX_STACK, MAX_SHARED = 64, 96 * 1024  # bytes of what a thread spills, and of a program


@pytest.mark.parametrize(
    "case",
    [
        "windows of 16",
        *(
            pytest.param(case, marks=pytest.mark.slow)
            for case in ("windows of 16, wide", "windows of 64", "windows of 64, wide", "windows, float32")
        ),
    ],
)
def test_each_kernel_compiles_for_gpus_that_are_not_here_and_fits_them(case):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", COMPILE, case]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert finished.returncode == 0, finished.stderr[-2000:]
    uses = json.loads(finished.stdout.splitlines()[-1])
    for capability in (80, 90):
        assert {kernel for where, kernel, *_ in uses if where == capability} == KERNELS
    for _, kernel, registers, stack, shared in uses:
        assert 16 <= registers <= 255, kernel
        assert stack <= MAX_STACK and shared <= MAX_SHARED, kernel


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == "cpu", reason="no CUDA device")
def test_on_a_gpu_the_operators_repeat_their_bits_and_are_captured_in_a_graph(monkeypatch):
    monkeypatch.undo()
    plan = with_windows(GRAPHS["mixed"], 64, 64)
    inputs = make_inputs(plan, TERMS["all"], torch.bfloat16)
    arguments = on(DEVICE, operator_arguments(plan, {name: x.detach() if isinstance(x, torch.Tensor) else x
                                                     for name, x in inputs.items()}))  # fmt: skip
    wanted = [True] * 3 + [False] * 2 + [True] * 2

    def results():
        outputs = ATTENTION(*arguments)
        return *outputs, *BACKWARD(*map(torch.ones_like, outputs), *outputs[:3], *arguments[:-1], wanted)

    expected = results()
    assert all(torch.equal(one, other) for one, other in zip(results(), expected))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = results()
    graph.replay()
    torch.cuda.synchronize()
    assert all(torch.equal(one, other) for one, other in zip(captured, expected))
