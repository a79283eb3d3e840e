"""The CUDA kernels against the formulas written out densely: in Triton's interpreter where there is no GPU, else on it.

`fused` is called as users do, with the operators replaced by what CUDA tensors would reach.
"""

import json
import os
import subprocess
import sys
from importlib import import_module
from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close

pytest.importorskip("numba")
pytest.importorskip("triton", reason="Triton, which the CUDA kernels need, is not installed")

from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from triton import language
from triton.backends.compiler import GPUTarget
from triton.language import standard
from triton.runtime import driver, interpreter
from triton.runtime.jit import JITFunction

from graphattn.connectivity import sliding_window
from graphattn.ops import _dispatch as dispatch
from graphattn.ops import graph_attention
from graphattn.ops._impl import featured, fused
from graphattn.ops._impl.triton import launch, window_kernels
from graphattn.ops.capability import runs_on
from tests.ops.test_fused_kernels import (
    EXACT,
    GRAPHS,
    HEADS,
    SCALE,
    SINGLE,
    TERMS,
    check_against_reference,
    check_edge_logits,
    check_half_precision,
    check_masked_heads,
    check_nan_stays,
    check_strided_inputs,
    gradients,
    make_inputs,
    make_plan,
    operator_arguments,
    reference,
    run_fused,
    stated_keep,
)

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# Programs that differ in what they leave out do the same sums: to the bit in the interpreter, while a compiler may join
# a product and a sum in one of them and not in the other.
SAME = dict(rtol=0, atol=0) if DEVICE == "cpu" else EXACT
# numpy, which the interpreter computes with, warns of what a GPU does in silence, such as log(0)
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")
ATTENTION, BACKWARD = fused.fused_attention, fused.fused_attention_backward


def on(device, arguments):
    return [x.to(device) if isinstance(x, torch.Tensor) else x for x in arguments]


def attention_gradients(*arguments):
    return on("cpu", fused.attention_backward_on_cuda(*on(DEVICE, arguments)))


def logits_gradients(*arguments):
    return on("cpu", fused.logits_backward_on_cuda(*on(DEVICE, arguments)))


class Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, *arguments):
        outputs = on("cpu", fused.attention_on_cuda(*on(DEVICE, arguments)))
        fused._remember_attention(ctx, arguments, outputs)
        return tuple(outputs)

    @staticmethod
    def backward(ctx, *grads):
        return fused._attention_gradients(ctx, *grads)


class Featured(torch.autograd.Function):
    @staticmethod
    def forward(ctx, *arguments):
        outputs = on("cpu", featured.attention_on_cuda(*on(DEVICE, arguments)))
        featured._remember(ctx, arguments, outputs)
        return tuple(outputs)

    @staticmethod
    def backward(ctx, *grads):
        return featured._gradients(ctx, *grads)


def featured_gradients(*arguments):
    return on("cpu", featured.attention_backward_on_cuda(*on(DEVICE, arguments)))


class Logits(torch.autograd.Function):
    @staticmethod
    def forward(ctx, *arguments):
        fused._remember_logits(ctx, arguments, None)
        return fused.logits_on_cuda(*on(DEVICE, arguments)).cpu()

    @staticmethod
    def backward(ctx, grad):
        return fused._logits_gradients(ctx, grad)


@pytest.fixture(autouse=True)
def fused_on_cuda(monkeypatch):
    """Lets `fused` call what its operators call on CUDA."""
    monkeypatch.setattr(fused, "fused_attention", Attention.apply)
    monkeypatch.setattr(fused, "fused_attention_backward", attention_gradients)
    monkeypatch.setattr(featured, "featured_attention", Featured.apply)
    monkeypatch.setattr(featured, "featured_attention_backward", featured_gradients)
    monkeypatch.setattr(fused, "fused_logits", Logits.apply)
    monkeypatch.setattr(fused, "fused_logits_backward", logits_gradients)
    if DEVICE == "cpu":
        interpret(monkeypatch)


def interpret(monkeypatch):
    """Interprets the kernels, and what of Triton's own language is written in itself.

    TRITON_INTERPRET would, were it set before anyone imports Triton, which torch may have done.
    """
    import_module("triton.experimental.gluon")  # the interpreter will, and it wants the functions as they are now
    for module in (language, standard, launch.kernels, window_kernels):
        for name, function in list(vars(module).items()):
            if isinstance(function, JITFunction):
                monkeypatch.setattr(module, name, interpreter.InterpretedFunction(function.fn))
    patch_tensor = interpreter._patch_lang_tensor

    def patch_tensor_and_bounds(tensor, scope):
        # numpy 2.4 turns no array of one number into an int, which Triton up to 3.6 wants for the bound of a loop
        patch_tensor(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    monkeypatch.setattr(interpreter, "_patch_lang_tensor", patch_tensor_and_bounds)
    # the interpreter's time goes with the number of programs
    monkeypatch.setattr(launch, "TILE_NUMBERS", 2**16)
    monkeypatch.setattr(launch, "MAX_LANES", 512)


def cut_rows(monkeypatch, chunk):
    monkeypatch.setattr(launch, "MIN_CHUNK", chunk)
    monkeypatch.setattr(launch, "MAX_CHUNKS", 10**6)


@pytest.mark.parametrize("terms", TERMS.values(), ids=TERMS)
@pytest.mark.parametrize("graph", ["ragged", "bipartite", "hub and lonely", "no edges"])
def test_float64_equals_the_formulas_in_outputs_and_gradients(graph, terms):
    check_against_reference(GRAPHS[graph], make_inputs(GRAPHS[graph], terms), **EXACT)


@pytest.mark.parametrize("graph", ["window", "molecules", "mixed"])
def test_graphs_with_structure_are_served_as_any_other(graph):
    check_against_reference(GRAPHS[graph], make_inputs(GRAPHS[graph], TERMS["all"]), **EXACT)


@pytest.mark.parametrize("terms", TERMS.values(), ids=TERMS)
def test_float32_equals_the_formulas_up_to_rounding(terms):
    check_against_reference(GRAPHS["ragged"], make_inputs(GRAPHS["ragged"], terms, torch.float32), **SINGLE)


@pytest.mark.parametrize(
    ("graph", "chunk"), [("hub and lonely", 3), ("hub and lonely", 7), ("hub and lonely", 39), ("mixed", 20)]
)
def test_rows_longer_than_a_chunk_are_cut_and_joined(graph, chunk, monkeypatch):
    cut_rows(monkeypatch, chunk)
    plan = GRAPHS[graph]
    assert plan.target_ptr.diff().max() > chunk and plan.source_ptr.diff().max() > chunk
    check_against_reference(plan, make_inputs(plan, TERMS["all"]), **EXACT)


def test_a_row_that_is_cut_may_have_no_finite_logit(monkeypatch):
    cut_rows(monkeypatch, 3)
    plan, inputs = GRAPHS["ragged"], make_inputs(GRAPHS["ragged"], TERMS["all"], torch.float32)
    with torch.no_grad():
        inputs["edge_bias"][plan.dst == 3] = -torch.inf
        inputs["edge_bias"][:2] = -torch.inf
    assert (plan.dst == 3).sum() > 3
    out, out_attr, lse = run_fused(plan, inputs)
    assert not out[3].any() and not out_attr[3].any() and (lse[3] == -torch.inf).all()
    assert out[4].any()
    for name, grad in gradients((out, out_attr, lse), inputs).items():
        assert grad.isfinite().all(), name


def test_pieces_of_grouped_heads_are_joined(monkeypatch):
    cut_rows(monkeypatch, 2)
    plan = GRAPHS["bipartite"]
    check_against_reference(plan, make_inputs(plan, TERMS["all"], heads=6, key_heads=2), **EXACT)


@pytest.mark.parametrize("dims", [(64, 40, 8), (104, 131, 17), (1, 1, 1)], ids=str)
def test_any_width_is_served(dims):
    check_against_reference(GRAPHS["bipartite"], make_inputs(GRAPHS["bipartite"], TERMS["all"], dims=dims), **EXACT)


@pytest.mark.parametrize("key_heads", [1, 2, 3])
def test_grouped_heads_share_keys_and_values(key_heads):
    plan = GRAPHS["bipartite"]
    check_against_reference(plan, make_inputs(plan, TERMS["all"], heads=6, key_heads=key_heads), **EXACT)


def test_one_bias_and_gate_for_all_heads_get_the_sum_of_their_gradients():
    plan = GRAPHS["ragged"]
    check_against_reference(plan, make_inputs(plan, TERMS["all"], shared=True), **EXACT)


def test_small_programs_and_wide_offsets_change_no_result(monkeypatch):
    plan, inputs = GRAPHS["bipartite"], make_inputs(GRAPHS["bipartite"], TERMS["all"])
    monkeypatch.setattr(launch, "TILE_NUMBERS", 128)
    monkeypatch.setattr(launch, "LAST_INT32", 0)
    check_against_reference(plan, inputs, **EXACT)
    cut_rows(monkeypatch, 2)
    check_against_reference(plan, inputs, **EXACT)


@pytest.mark.parametrize("wanted", ["query", "key", "value", "query_attr", "edge_attr", "edge_bias", "edge_gate"])
def test_a_gradient_is_the_same_when_it_alone_is_wanted(wanted):
    plan, inputs = GRAPHS["bipartite"], make_inputs(GRAPHS["bipartite"], TERMS["all"])
    expected = gradients(run_fused(plan, inputs), inputs)[wanted]
    for name, x in inputs.items():
        if isinstance(x, torch.Tensor) and x.requires_grad:
            inputs[name] = x.detach().requires_grad_(name == wanted)
    assert_close(gradients(run_fused(plan, inputs), inputs)[wanted], expected, **SAME)


def test_logits_of_ten_thousand_neither_overflow_nor_lose_the_winner(monkeypatch):
    plan, inputs = GRAPHS["ragged"], make_inputs(GRAPHS["ragged"], TERMS["edge features"])
    inputs["query"] = (inputs["query"].detach() * 1e4).requires_grad_()
    check_against_reference(plan, inputs, atol=1e-7, rtol=1e-8)
    cut_rows(monkeypatch, 3)
    check_against_reference(plan, inputs, atol=1e-7, rtol=1e-8)


@pytest.mark.parametrize("name", ["query", "key", "value"])
@pytest.mark.parametrize("number", [torch.nan, torch.inf], ids=["nan", "inf"])
def test_nan_stays_with_the_targets_that_see_it(name, number):
    check_nan_stays(GRAPHS["window"], name, number)


def test_a_clip_does_not_turn_nan_into_its_bound():
    plan, inputs = GRAPHS["ragged"], make_inputs(GRAPHS["ragged"], TERMS["clip"])
    with torch.no_grad():
        inputs["query"][3] = torch.nan
    out, _, lse = run_fused(plan, inputs)
    assert out[3].isnan().all() and lse[3].isnan().all()
    assert out[:3].isfinite().all()


@pytest.mark.parametrize("chunk", [512, 2], ids=["whole", "cut"])
def test_a_nan_beside_minus_infinity_is_not_mistaken_for_an_empty_row(chunk, monkeypatch):
    cut_rows(monkeypatch, chunk)
    plan, inputs = GRAPHS["ragged"], make_inputs(GRAPHS["ragged"], ("edge_bias",), torch.float32)
    with torch.no_grad():
        inputs["edge_bias"][plan.dst == 3] = -torch.inf
        inputs["edge_bias"][int(plan.target_ptr[3])] = torch.nan
    assert run_fused(plan, inputs)[0][3].isnan().all()


def test_a_masked_head_does_not_look_at_the_edge():
    check_masked_heads()


def test_a_masked_edge_carries_no_nan_from_its_target_back(monkeypatch):
    plan, head = GRAPHS["ragged"], 1
    inputs = make_inputs(plan, TERMS["all"])
    edge = int(plan.target_ptr[3])
    source = plan.src[edge]
    inputs["head_mask"][edge, head] = False
    with torch.no_grad():
        inputs["query"][3, head] = inputs["query_attr"][3, head] = torch.nan
    for chunk in (512, 2):
        cut_rows(monkeypatch, chunk)
        outputs = run_fused(plan, inputs)
        assert outputs[0][3, head].isnan().all()
        grads = gradients(outputs, inputs)
        assert grads["key"][source, head].isfinite().all() and grads["value"][source, head].isfinite().all()
        assert grads["edge_attr"][edge].isfinite().all()
        assert grads["query"][3, head].isnan().all()


def test_strided_inputs_give_the_same_bits():
    check_strided_inputs()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32_and_rounded_once(dtype):
    # The interpreter cuts bfloat16 off where a GPU rounds it, and a GPU adds what it loads in other pieces in another
    # order, so that a sum may be rounded to the neighbor.
    is_rounded_alike = DEVICE == "cpu" and dtype == torch.float16
    check_half_precision(GRAPHS["bipartite"], dtype, rtol=0 if is_rounded_alike else torch.finfo(dtype).eps)


def typed_inputs(plan, num_types, terms, dtype=torch.float64):
    """Inputs with types of edges, and equal ones with features that are one at an edge's type."""
    inputs = make_inputs(plan, ("query_attr", *terms), dtype, dims=(5, 7, num_types))
    edge_type = torch.arange(len(plan.src)) * 7 % num_types
    one_hot = torch.nn.functional.one_hot(edge_type, num_types).to(dtype)
    return dict(inputs, edge_type=edge_type), dict(inputs, edge_attr=one_hot)


@pytest.mark.parametrize("chunk", [512, 3], ids=["whole", "cut"])
@pytest.mark.parametrize("num_types", [1, 5, 37])
def test_types_of_edges_are_features_that_are_one_at_their_place(num_types, chunk, monkeypatch):
    cut_rows(monkeypatch, chunk)
    plan = GRAPHS["ragged"]
    terms = [name for name in TERMS["all"] if name not in ("query_attr", "edge_attr")]
    typed, featured = typed_inputs(plan, num_types, terms)
    outputs, expected = run_fused(plan, typed), reference(plan=plan, **featured)
    for output, expectation in zip(outputs, expected):
        assert_close(output, expectation, **EXACT)
    grads, expected_grads = gradients(outputs, typed), gradients(expected, featured)
    for name, grad in grads.items():
        assert_close(grad, expected_grads[name], **EXACT)
        assert grad.any(), name


@pytest.mark.parametrize("number", [-1, 3])
def test_a_type_that_there_is_not_gives_nan_to_its_target_and_reads_no_other_memory(number):
    plan = GRAPHS["bipartite"]
    typed, _ = typed_inputs(plan, 3, ())
    typed["edge_type"][-1] = number
    out, out_attr, lse = run_fused(plan, typed)
    last = int(plan.dst[-1])
    assert out[last].isnan().all() and lse[last].isnan().all()
    assert out[:last].isfinite().all() and out_attr[:last].isfinite().all()


@pytest.mark.parametrize("chunk", [512, 2], ids=["whole", "cut"])
@pytest.mark.parametrize("terms", ["plain", "all"])
def test_weights_and_their_gradients_equal_the_softmax(terms, chunk, monkeypatch):
    cut_rows(monkeypatch, chunk)
    plan = GRAPHS["ragged"]
    inputs = make_inputs(plan, [name for name in TERMS[terms] if name != "edge_id"])
    out, out_attr, weights = fused.attention_and_weights(plan=plan, scale=SCALE, **inputs)
    expected_out, expected_attr, _ = reference(plan=plan, **inputs)

    # a value that is one at an edge's source, behind a gate and dropout of one, lets through the edge's weight alone
    plain = {name: x for name, x in inputs.items() if name not in ("edge_gate", "dropout_p", "seed")}
    ones = torch.eye(plan.num_src_nodes, dtype=torch.float64)[:, None].expand(-1, HEADS, -1)
    by_source, _, _ = reference(plan=plan, **dict(plain, value=ones))
    expected = by_source[plan.dst, :, plan.src]  # [num_edges, num_heads]
    assert_close(weights, expected, **EXACT)
    grads = gradients((out, out_attr, weights), inputs)
    expected_grads = gradients((expected_out, expected_attr, expected), inputs)
    for name, grad in grads.items():
        assert_close(grad, expected_grads[name], msg=lambda m, name=name: f"{name}: {m}", **EXACT)
        assert grad.any(), name


def test_weights_are_served_without_values():
    plan, inputs = GRAPHS["ragged"], make_inputs(GRAPHS["ragged"], ("head_mask",), torch.float32)
    nothing = inputs["value"].detach()[..., :0]
    out, _, weights = fused.attention_and_weights(plan=plan, scale=SCALE, **dict(inputs, value=nothing))
    _, _, expected = fused.attention_and_weights(plan=plan, scale=SCALE, **inputs)
    assert out.shape == (*inputs["query"].shape[:2], 0)
    assert_close(weights, expected, rtol=0 if DEVICE == "cpu" else 1e-5, atol=0)
    assert not weights[~inputs["head_mask"]].any() and weights.any()


@pytest.mark.parametrize("seed", [0, -(2**63), 2**63 - 1])
def test_dropout_drops_what_the_cpu_drops(seed):
    num_edges = 1009
    dst = torch.arange(num_edges)  # one edge a target, so the output is the dropout factor itself
    plan = make_plan(torch.zeros_like(dst), dst, 1, num_edges)
    query, key, value = torch.zeros(num_edges, HEADS, 8), torch.zeros(1, HEADS, 8), torch.ones(1, HEADS, 8)
    edge_id = torch.randint(-(2**63), 2**63 - 1, (num_edges,), generator=torch.Generator().manual_seed(5))
    for number in (None, edge_id):
        inputs = dict(query=query, key=key, value=value, dropout_p=0.3, seed=torch.tensor([seed]), edge_id=number)
        out, _, _ = run_fused(plan, inputs)
        assert torch.equal(out > 0, ATTENTION(*operator_arguments(plan, inputs))[0] > 0)
        stated = stated_keep(num_edges, HEADS, 0.3, inputs["seed"], number)
        assert_close(out[..., 0].double(), stated, rtol=1e-6, atol=0)
        assert 0.25 < (out == 0).double().mean() < 0.35
    nothing, _, _ = run_fused(plan, dict(inputs, dropout_p=1.0))
    assert not nothing.any()


@pytest.mark.parametrize("chunk", [512, 3], ids=["whole", "cut"])
@pytest.mark.parametrize("terms", [(), ("query_attr", "edge_attr")], ids=["plain", "edge features"])
@pytest.mark.parametrize("graph", ["ragged", "hub and lonely", "no edges"])
def test_edge_logits_equal_the_formula_in_output_and_gradients(graph, terms, chunk, monkeypatch):
    cut_rows(monkeypatch, chunk)
    check_edge_logits(GRAPHS[graph], terms)


@pytest.mark.parametrize("wants_weights", [False, True], ids=["out", "out and weights"])
@pytest.mark.parametrize("terms", ["plain", "all"])
def test_what_comes_back_is_what_the_operators_promise_to_compilers(terms, wants_weights):
    plan = GRAPHS["bipartite"]
    inputs = {name: x.detach() if isinstance(x, torch.Tensor) else x
              for name, x in make_inputs(plan, TERMS[terms], torch.bfloat16).items()}  # fmt: skip
    arguments = operator_arguments(plan, inputs, wants_weights)
    outputs = fused.attention_on_cuda(*on(DEVICE, arguments))
    upstream = [torch.ones_like(x) for x in outputs]
    wanted = [True, False, True] + [terms == "all"] * 4
    of_backward = (*upstream, *outputs[:3], *on(DEVICE, arguments[:-1]), wanted)
    grads = fused.attention_backward_on_cuda(*of_backward)
    with FakeTensorMode(allow_non_fake_inputs=True):
        promised = ATTENTION(*arguments), BACKWARD(*on("cpu", of_backward))
    for got, promise in zip((*outputs, *grads), (*promised[0], *promised[1])):
        assert (got.shape, got.dtype, got.stride()) == (promise.shape, promise.dtype, promise.stride())


class NoKernels:
    """Stands for kernels that compute nothing."""

    def __getattr__(self, name):
        return self

    def __getitem__(self, grid):
        return lambda **arguments: None


class Largest(TorchDispatchMode):
    """Remembers the most numbers that any new tensor had."""

    numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        output = function(*args, **(kwargs or {}))
        if isinstance(output, torch.Tensor) and not function.is_view:
            self.numbers = max(self.numbers, output.numel())
        return output


def without_numbers(terms, num_nodes, num_edges, heads=8, dim=64, edge_dim=4):
    """Arguments of the forward operator that have sizes and no numbers: reading one raises."""

    def new(*shape, dtype=torch.bfloat16):
        return torch.empty(shape, dtype=dtype, device="meta")

    ptr, edge, seed = (new(size, dtype=torch.int64) for size in (num_nodes + 1, num_edges, 1))
    plan = SimpleNamespace(target_ptr=ptr, src=edge, dst=edge, source_ptr=ptr, source_order=edge, windows=None)
    inputs = {name: new(num_nodes, heads, dim) for name in ("query", "key", "value")}
    if terms == "all":
        table = new(num_edges, heads)
        inputs |= dict(query_attr=new(num_nodes, heads, edge_dim), edge_attr=new(num_edges, edge_dim))
        inputs |= dict(edge_bias=table, edge_gate=table, head_mask=new(num_edges, heads, dtype=torch.bool))
        inputs |= dict(edge_id=edge, seed=seed, dropout_p=0.1, logit_clip=5.0)
    return operator_arguments(plan, inputs)


def backward_without_numbers(outputs, arguments, terms):
    upstream = map(torch.empty_like, outputs)
    wanted = [True] * 3 + [terms == "all"] * 4
    return fused.attention_backward_on_cuda(*upstream, *outputs[:3], *arguments[:-1], wanted)


@pytest.mark.parametrize("terms", ["plain", "all"])
def test_no_number_on_the_device_is_read_and_no_memory_grows_with_edges_times_width(terms, monkeypatch):
    monkeypatch.setattr(launch, "kernels", NoKernels())
    num_nodes, num_edges, heads, dim = 10**6, 10**8, 8, 64
    arguments = without_numbers(terms, num_nodes, num_edges, heads, dim)
    with Largest() as largest:
        outputs = fused.attention_on_cuda(*arguments)
        assert largest.numbers <= num_nodes * heads * dim
        grads = backward_without_numbers(outputs, arguments, terms)
    assert [grad.numel() > 0 for grad in grads] == [True] * 3 + [terms == "all"] * 4
    assert largest.numbers <= 2 * num_edges * heads


class Driver:
    """Stands for a GPU of capability 9.0 in a place that no machine has, on which nothing is launched."""

    def get_current_device(self):
        return 99

    def get_current_stream(self, device):
        return 0

    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)


@pytest.mark.parametrize("terms", ["plain", "all"])
def test_a_batch_of_another_size_runs_the_programs_that_are_there(terms, monkeypatch):
    monkeypatch.undo()  # the kernels as they are compiled, not as the interpreter takes them
    monkeypatch.setattr(driver, "_active", Driver())
    programs = set()
    monkeypatch.setattr(JITFunction, "_do_compile", lambda kernel, key, *_: programs.add((kernel.fn.__name__, key)))

    def count(num_nodes, num_edges):
        arguments = without_numbers(terms, num_nodes, num_edges)
        backward_without_numbers(fused.attention_on_cuda(*arguments), arguments, terms)
        return len(programs)

    found = count(num_nodes=1600, num_edges=48_000)
    assert {name for name, _ in programs} >= {"attention", "join_attention", "target_gradients", "weighted_sums"}
    for num_nodes, num_edges in ((1601, 48_001), (1_599, 47_999), (1501, 48_016), (4096, 131_072)):
        assert count(num_nodes, num_edges) == found


# A program of 128 threads has up to 255 registers a thread; what is spilled lies on the stack.
MAX_STACK, MAX_SHARED = 32, 48 * 1024
COMPILE = """
import json, sys
from graphattn.ops._impl.triton import resources
print(json.dumps([[capability, *use] for capability, use in resources.uses(sys.argv[1], [80, 90])]))
"""
EVERY_CALL = {"attention", "join_attention", "target_gradients", "join_sums", "weighted_sums"}
KERNELS = {
    "weather": EVERY_CALL | {"normalize", "edge_attr_gradient", "logits"},
    "molecules": EVERY_CALL | {"normalize"},
    "random 64": EVERY_CALL | {"logits"},
}


@pytest.mark.parametrize(
    "case", ["weather", *(pytest.param(case, marks=pytest.mark.slow) for case in ("molecules", "random 64"))]
)
def test_each_kernel_compiles_for_gpus_that_are_not_here_and_fits_them(case):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", COMPILE, case]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert finished.returncode == 0, finished.stderr[-2000:]
    uses = json.loads(finished.stdout.splitlines()[-1])
    for capability in (80, 90):
        assert {kernel for where, kernel, *_ in uses if where == capability} >= KERNELS[case]
    for _, kernel, registers, stack, shared in uses:
        assert 16 <= registers <= 255, kernel
        assert stack <= MAX_STACK and shared <= MAX_SHARED, kernel


WIDE_OFFSETS = """
import torch
from graphattn.ops._impl.triton import launch, resources
launch.LAST_INT32 = 0
seen = set()
for call in resources.calls(4, 4, 24, 2, torch.float32, "none"):
    for kernel, arguments in resources.launches(call):
        resources.compiled(kernel, arguments, 90)
        seen.add(kernel.fn.__name__)
print(*seen)
"""


@pytest.mark.slow
def test_kernels_compile_where_offsets_take_64_bits():
    """Triton 3.6 is particular about the layouts that these sizes lead to; see `kernels.is_positive`."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", WIDE_OFFSETS]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert finished.returncode == 0, finished.stderr[-2000:]
    assert set(finished.stdout.split()) >= EVERY_CALL


def test_fused_runs_on_cuda_where_triton_is_and_says_so_where_not():
    assert runs_on("fused", "cuda")
    code = """
import importlib.util, sys
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *args: None if name == "triton" else find(name, *args)
sys.modules["triton"] = None
from graphattn.ops._impl import fused
from graphattn.ops.capability import runs_on
print(runs_on("fused", "cpu"), runs_on("fused", "cuda"))
fused._cuda()
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    finished = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120
    )
    assert finished.stdout.split() == ["True", "False"], finished.stderr
    assert "ImportError: " in finished.stderr and "pip install triton" in finished.stderr


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == "cpu", reason="no CUDA device")
def test_on_a_gpu_the_operators_repeat_their_bits_and_are_captured_in_a_graph(monkeypatch):
    monkeypatch.undo()
    plan = GRAPHS["mixed"]
    inputs = make_inputs(plan, TERMS["all"], torch.float32)
    arguments = on(DEVICE, operator_arguments(plan, {name: x.detach() if isinstance(x, torch.Tensor) else x
                                                     for name, x in inputs.items()}))  # fmt: skip
    torch.library.opcheck(ATTENTION, tuple(arguments))

    def results():
        outputs = ATTENTION(*arguments)
        upstream = map(torch.ones_like, outputs)
        return *outputs, *BACKWARD(*upstream, *outputs[:3], *arguments[:-1], [True] * 7)

    expected = results()
    assert all(torch.equal(one, other) for one, other in zip(results(), expected))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = results()
    graph.replay()
    torch.cuda.synchronize()
    assert all(torch.equal(one, other) for one, other in zip(captured, expected))


@pytest.mark.parametrize("name", ["features", "few types"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_values_of_edges_leave_keys_and_values_in_half_precision_and_are_rounded_once(monkeypatch, dtype, name):
    monkeypatch.setattr(dispatch, "_reads_mixed", lambda device: True)
    seen, place = [], (featured, "featured_attention") if name == "features" else (fused, "fused_attention")
    attend = getattr(*place)
    monkeypatch.setattr(*place, lambda *x: (seen.append([y.dtype for y in x[:3]]), attend(*x))[1])
    graph, generator = sliding_window(23, 3), torch.Generator().manual_seed(0)
    num_rows = graph.num_edges if name == "features" else 5

    def normal(*shape):
        return torch.randn(shape, generator=generator).to(dtype)

    half = dict(query=normal(23, 4, 5), key=normal(23, 2, 5), value=normal(23, 2, 7))
    half |= dict(edge_key_weight=normal(4, 5, 3), edge_value_weight=normal(4, 7, 3), edge_attr=normal(num_rows, 3))
    types = {} if name == "features" else {"edge_type": torch.arange(graph.num_edges) % num_rows}
    found = []
    for leaves in (half, {key: x.float() for key, x in half.items()}):
        leaves = {key: x.clone().requires_grad_() for key, x in leaves.items()}
        out = graph_attention(**leaves, **types, graph=graph, impl="fused")
        found.append([out, *torch.autograd.grad(out.float().sum(), list(leaves.values()))])
    assert seen == [[torch.float32, dtype, dtype], [torch.float32] * 3]
    for ours, wide in zip(*found):
        assert ours.dtype == dtype and ours.abs().max() > 0
        # the interpreter cuts bfloat16 off where a GPU rounds it
        exact = SAME if DEVICE == "cpu" and dtype == torch.float16 else dict(rtol=2**-7, atol=1e-3)
        assert_close(ours, wide.to(dtype), **exact)
