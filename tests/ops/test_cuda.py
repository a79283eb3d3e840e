"""The verb on a GPU against the specification on the CPU in float64, and what only a GPU can show.

Without a GPU everything here skips itself. GRAPHATTN_TEST_DEVICE=cpu runs what does not need one, to try the tests.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from graphattn import AttentionGraph, nn
from graphattn.connectivity import full, global_tokens, random_regular, sliding_window
from graphattn.graph.rules import is_causal
from graphattn.ops import (
    attention_weights,
    attention_with_lse,
    attention_with_weights,
    dropout_factor,
    edge_logits,
    graph_attention,
)
from graphattn.ops._dispatch import takes_varlen
from graphattn.ops.calibrate import disproof
from graphattn.ops.capability import runs_on, trusting
from tests.ops.graphs import GRAPHS, NUM_HEADS, with_heads

DEVICE = os.environ.get("GRAPHATTN_TEST_DEVICE", "cuda")
IS_THERE = DEVICE != "cuda" or torch.cuda.is_available()
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not IS_THERE, reason="no CUDA device")]
needs_gpu = pytest.mark.skipif(DEVICE != "cuda", reason="no CUDA device")
needs_fused = pytest.mark.skipif(not runs_on("fused", DEVICE), reason="no compiler for the fused kernels")

HEAD_DIM, VALUE_DIM, EDGE_DIM, NUM_TYPES = 8, 5, 3, 4
LARGE = {
    "hub of 1,500": global_tokens(1500, [3]),  # a row of the hub is cut into pieces, forward and backward
    "windows": sliding_window(600, 20),  # as the next, in float32 and below served over windows of 16 rows
    "wide windows": sliding_window(600, 80),  # of 64 rows
    "random": random_regular(900, 17, generator=torch.Generator().manual_seed(0)),
    "head masks": with_heads(sliding_window(300, 9)),
}
TERMS = {
    "plain": (),
    "bias": ("edge_bias",),
    "features": ("edge_attr", "edge_key_weight", "edge_value_weight"),
    "types": ("edge_type", "edge_bias"),
    "dropout": ("dropout_p", "seed"),
    "all": (
        *("edge_bias", "edge_gate", "edge_attr", "edge_key_weight", "edge_value_weight"),
        *("head_gate", "logit_clip", "dropout_p", "seed"),
    ),
}
# the largest ‖got − right‖ / ‖right‖
ERRORS = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """The tests of several processes share the CPU, which only has to say what is right."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_inputs(graph: AttentionGraph, terms=(), dtype=torch.float64, key_heads: int = NUM_HEADS) -> dict:
    """Returns named arguments of the verb on the CPU; floating ones ask for gradients, all but seed and types."""
    generator = torch.Generator().manual_seed(7)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.float64, generator=generator).to(dtype).requires_grad_()

    rows = NUM_TYPES if "edge_type" in terms else graph.num_edges
    everything = dict(
        query=normal(graph.num_dst_nodes, NUM_HEADS, HEAD_DIM),
        key=normal(graph.num_src_nodes, key_heads, HEAD_DIM),
        value=normal(graph.num_src_nodes, key_heads, VALUE_DIM),
        edge_bias=normal(rows, NUM_HEADS),
        edge_gate=normal(rows, 1),
        edge_attr=normal(rows, EDGE_DIM),
        edge_key_weight=normal(NUM_HEADS, HEAD_DIM, EDGE_DIM),
        edge_value_weight=normal(NUM_HEADS, VALUE_DIM, EDGE_DIM),
        edge_type=torch.arange(graph.num_edges) * 7 % NUM_TYPES,
        head_gate=normal(NUM_HEADS),
        logit_clip=1.5,
        dropout_p=0.3,
        seed=torch.tensor(-123456789012345),
    )
    return {name: everything[name] for name in ("query", "key", "value", *terms)}


def moved(inputs: dict, dtype: torch.dtype | None = None, device: str = DEVICE) -> dict:
    """Returns the same numbers as leaves elsewhere."""

    def move(x):
        if not isinstance(x, Tensor) or not x.is_floating_point():
            return x.to(device) if isinstance(x, Tensor) else x
        return x.detach().to(device, dtype or x.dtype).requires_grad_(x.requires_grad)

    return {name: move(x) for name, x in inputs.items()}


def results(inputs: dict, graph: AttentionGraph, call=graph_attention, **options) -> dict[str, Tensor]:
    """Returns what a call gives, and the gradients of a fixed mixture of that."""
    outputs = call(**inputs, graph=graph, **options)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    generator = torch.Generator().manual_seed(3)
    total = inputs["query"].new_zeros((), dtype=torch.float64)
    for output in outputs:
        mixture = torch.randn(output.shape, dtype=torch.float64, generator=generator).to(output.device)
        total = total + (output.double() * mixture).masked_fill(output.detach() == -torch.inf, 0.0).sum()
    wanted = {name: x for name, x in inputs.items() if isinstance(x, Tensor) and x.requires_grad}
    grads = torch.autograd.grad(total, list(wanted.values()), allow_unused=True, materialize_grads=True)
    named = {f"output {number}": output.detach() for number, output in enumerate(outputs)}
    return named | {f"gradient of {name}": grad for name, grad in zip(wanted, grads, strict=True)}


def check(found: dict[str, Tensor], right: dict[str, Tensor], dtype: torch.dtype = torch.float64) -> None:
    assert found.keys() == right.keys()
    for name, expected in right.items():
        got = found[name].cpu().double()
        expected = expected.double()
        assert torch.equal(got.isfinite(), expected.isfinite()), name
        got, expected = (x.nan_to_num(0.0, 0.0, 0.0) for x in (got, expected))
        gap, size = (got - expected).norm(), expected.norm()
        assert gap <= ERRORS[dtype] * max(float(size), 1e-6), f"{name} is off by {gap / size:.2g} of its norm"


def check_call(graph: AttentionGraph, inputs: dict, impl: str, call=graph_attention, dtype=torch.float64) -> None:
    """Compares a call on the device with `dense` on the CPU, on the same (rounded) numbers."""
    if dtype != torch.float64:
        inputs = moved(moved(inputs, dtype, "cpu"), torch.float64, "cpu")
    right = results(inputs, graph, call, impl="dense")
    found = results(moved(inputs, dtype), graph.to(DEVICE), call, impl=impl)
    check(found, right, dtype)


@needs_fused
@pytest.mark.parametrize("terms", ["plain", "all"])
@pytest.mark.parametrize("name", GRAPHS)
def test_fused_equals_the_specification_on_every_kind_of_graph(name: str, terms: str) -> None:
    graph = GRAPHS[name]
    check_call(graph, make_inputs(graph, TERMS[terms]), "fused")


@needs_fused
@pytest.mark.parametrize("terms", TERMS)
@pytest.mark.parametrize("name", LARGE)
def test_fused_equals_the_specification_where_programs_are_many(name: str, terms: str) -> None:
    graph = LARGE[name]
    check_call(graph, make_inputs(graph, TERMS[terms]), "fused")


@needs_fused
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("name", "terms"),
    [
        *(("random", terms) for terms in ("plain", "types", "all")),
        *(("windows", "bias"), ("wide windows", "plain"), ("wide windows", "dropout")),
    ],
)
def test_fused_is_as_exact_as_its_dtype(name: str, terms: str, dtype: torch.dtype) -> None:
    graph = LARGE[name]
    check_call(graph, make_inputs(graph, TERMS[terms]), "fused", dtype=dtype)


@needs_gpu
@pytest.mark.parametrize(("name", "rows"), [("random", None), ("windows", 16), ("wide windows", 64)])
def test_a_graph_that_comes_to_the_device_has_windows_of_rows_where_they_are_full(name: str, rows: int | None) -> None:
    there, here = LARGE[name].to(DEVICE), LARGE[name].to("cpu")
    here.plan()
    for plan in (there.plan(), here.to(DEVICE).plan()):
        num_windows = None if rows is None else -(-there.num_dst_nodes // rows)
        assert (None if plan.windows is None else len(plan.windows.target_ptr) - 1) == num_windows
    assert here.plan().windows is None


@needs_fused
@pytest.mark.parametrize("key_heads", [1, 3])
def test_fused_tells_the_log_sum_exp_and_serves_grouped_heads(key_heads: int) -> None:
    for name in ("lonely nodes", "no edges"):
        graph = GRAPHS[name]
        check_call(graph, make_inputs(graph, key_heads=key_heads), "fused", attention_with_lse)


@needs_fused
@pytest.mark.parametrize("call", [attention_weights, edge_logits, attention_with_weights])
def test_fused_returns_weights_and_logits_of_edges(call) -> None:
    graph = LARGE["hub of 1,500"]
    inputs = make_inputs(graph, ("edge_bias", "edge_attr", "edge_key_weight"))
    if call is not attention_with_weights:
        del inputs["value"]
    check_call(graph, inputs, "fused", call)


@pytest.mark.parametrize("terms", ["plain", "all"])
@pytest.mark.parametrize(
    ("impl", "name"),
    [
        ("dense", "lonely nodes"),
        ("scatter", "lonely nodes"),
        ("scatter", "head mask"),
        ("gather", "three keys each"),
        ("blocks", "ragged batch"),
        ("blocks", "padded staircases"),
        ("blocks", "blocks and edges"),
        ("auto", "bipartite"),
    ],
)
def test_the_other_implementations_equal_the_specification(impl: str, name: str, terms: str) -> None:
    graph = GRAPHS[name]
    check_call(graph, make_inputs(graph, TERMS[terms]), impl)


@needs_gpu
@pytest.mark.parametrize("key_heads", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "name",
    ["ragged batch", "causal", "cross", "blocks and edges", "two blocks of a target", "uneven", "uneven, causal"],
)
def test_blocks_run_unpadded_through_torchs_kernels_of_variable_length(
    name: str, dtype: torch.dtype, key_heads: int
) -> None:
    uneven = full(torch.tensor([700, 1, 33, 64, 5, 129]))
    graph = (GRAPHS | {"uneven": uneven, "uneven, causal": uneven.keep(is_causal)})[name]
    with trusting("varlen"):
        assert takes_varlen(graph, torch.device(DEVICE), dtype, True)
        for call in (graph_attention, attention_with_lse):
            check_call(graph, make_inputs(graph, key_heads=key_heads), "blocks", call, dtype)


@needs_gpu
@pytest.mark.skipif(not runs_on("flex", DEVICE), reason="no compiler for FlexAttention")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["lonely nodes", "head mask", "cross", "windows"])
def test_flex_equals_the_specification(name: str, dtype: torch.dtype) -> None:
    graph = (GRAPHS | LARGE)[name]
    for call in (graph_attention, attention_with_lse):
        check_call(graph, make_inputs(graph, key_heads=1), "flex", call, dtype)


@needs_gpu
@needs_fused
def test_a_tuned_call_is_right_and_keeps_its_bits_from_then_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from graphattn.ops._impl.triton import tuning

    monkeypatch.setenv("GRAPHATTN_TUNE", "1")
    monkeypatch.setenv("GRAPHATTN_COSTS", str(tmp_path / "costs.json"))
    tuning.forget()
    graph = LARGE["hub of 1,500"]
    check_call(graph, make_inputs(graph, TERMS["bias"]), "fused", dtype=torch.float32)
    assert (tmp_path / "tiles.json").exists()
    inputs, graph = moved(make_inputs(graph, TERMS["bias"]), torch.float32), graph.to(DEVICE)
    expected = results(inputs, graph, impl="fused")
    for _ in range(2):
        tuning.forget()  # as another process would find what was kept
        found = results(inputs, graph, impl="fused")
        assert all(torch.equal(found[name], expected[name]) for name in expected)
    tuning.forget()


@needs_gpu
@needs_fused
def test_calibration_proves_fused_here() -> None:
    assert disproof("fused", torch.device(DEVICE)) is None


@needs_fused
@pytest.mark.parametrize("where", ["cpu", DEVICE])
def test_dropout_drops_what_the_cpu_drops_wherever_the_seed_is(where: str) -> None:
    num_edges = 10_007
    node = torch.arange(num_edges)  # one edge a target, so that the output is the factor itself
    graph = AttentionGraph(torch.stack([torch.zeros_like(node), node]), 1, num_edges).to(DEVICE)
    query, key, value = (torch.zeros(n, 4, 1, device=DEVICE) for n in (num_edges, 1, 1))
    seed = torch.tensor(20_260_101)
    out = graph_attention(query, key, value + 1, graph, dropout_p=0.3, seed=seed.to(where), impl="fused")
    stated = dropout_factor(seed, node, 4, 0.3)
    assert torch.equal(out[..., 0].cpu() > 0, stated > 0)
    assert_close(out[..., 0].cpu().double(), stated, rtol=1e-6, atol=0)


@needs_fused
def test_slices_of_one_packed_tensor_give_the_bits_of_contiguous_ones() -> None:
    graph = LARGE["windows"].to(DEVICE)
    packed = torch.randn(graph.num_src_nodes, NUM_HEADS, 3, HEAD_DIM, device=DEVICE)
    views = dict(zip(("query", "key", "value"), (x.requires_grad_() for x in packed.unbind(2)), strict=True))
    assert not any(x.is_contiguous() for x in views.values())
    copies = {name: x.detach().contiguous().requires_grad_() for name, x in views.items()}
    of_views, of_copies = (results(x, graph, impl="fused") for x in (views, copies))
    assert all(torch.equal(of_views[name], of_copies[name]) for name in of_copies)


@needs_fused
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("name", "terms"), [("hub of 1,500", "all"), ("windows", "bias"), ("wide windows", "plain")])
def test_every_repeat_has_the_same_bits(name: str, terms: str, dtype: torch.dtype) -> None:
    graph = LARGE[name]
    inputs, graph = moved(make_inputs(graph, TERMS[terms]), dtype), graph.to(DEVICE)
    expected = results(inputs, graph, impl="fused")
    for _ in range(5):
        repeated = results(inputs, graph, impl="fused")
        assert all(torch.equal(repeated[name], expected[name]) for name in expected)


@needs_fused
def test_another_stream_gives_the_same_bits() -> None:
    graph = LARGE["windows"]
    inputs, graph = moved(make_inputs(graph)), graph.to(DEVICE)
    expected = results(inputs, graph, impl="fused")
    if DEVICE == "cuda":
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            found = results(inputs, graph, impl="fused")
        torch.cuda.current_stream().wait_stream(stream)
    else:
        found = results(inputs, graph, impl="fused")
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@needs_gpu
@pytest.mark.parametrize("terms", ["plain", "features", "types", "all"])
@pytest.mark.parametrize(
    ("impl", "name"),
    [
        ("fused", "lonely nodes"),
        ("fused", "windows"),
        ("scatter", "lonely nodes"),
        ("gather", "three keys each"),
        ("blocks", "ragged batch"),
    ],
)
def test_neither_forward_nor_backward_waits_for_the_device(impl: str, name: str, terms: str) -> None:
    graph = (GRAPHS | LARGE)[name]
    inputs, graph = moved(make_inputs(graph, TERMS[terms], torch.float32)), graph.to(DEVICE)
    leaves = [x for x in inputs.values() if isinstance(x, Tensor) and x.requires_grad]

    def call() -> None:
        out = graph_attention(**inputs, graph=graph, impl=impl)
        torch.autograd.grad(out, leaves, torch.ones_like(out))

    call()  # makes the plan, compiles kernels
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        call()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@needs_gpu
@pytest.mark.parametrize(("name", "terms"), [("hub of 1,500", "plain"), ("hub of 1,500", "all"), ("windows", "bias")])
def test_forward_and_backward_are_captured_in_a_cuda_graph(name: str, terms: str) -> None:
    graph = LARGE[name]
    inputs, graph = moved(make_inputs(graph, TERMS[terms]), torch.float32), graph.to(DEVICE)
    leaves = {name: x for name, x in inputs.items() if isinstance(x, Tensor) and x.requires_grad}
    grad_out = torch.randn(graph.num_dst_nodes, NUM_HEADS, VALUE_DIM, device=DEVICE)

    def call() -> tuple[Tensor, ...]:
        out = graph_attention(**inputs, graph=graph, impl="fused")
        return out, *torch.autograd.grad(out, list(leaves.values()), grad_out)

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    recorded = torch.cuda.CUDAGraph()
    with torch.cuda.graph(recorded):
        captured = call()
    with torch.no_grad():
        for x in leaves.values():
            x.normal_()
    recorded.replay()
    torch.cuda.synchronize()
    for got, expected in zip(captured, call(), strict=True):
        assert_close(got, expected, rtol=1e-5, atol=1e-6)


@needs_fused
@pytest.mark.parametrize("terms", ["plain", "all"])
def test_it_compiles_into_one_graph_that_serves_any_number_of_edges(terms: str) -> None:
    torch._dynamo.reset()
    backend = "inductor" if DEVICE == "cuda" else "aot_eager"

    def attend(inputs: dict, graph: AttentionGraph) -> Tensor:
        return graph_attention(**inputs, graph=graph, impl="fused") * 2

    compiled = torch.compile(attend, fullgraph=True, backend=backend)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for radius in (4, 5, 7):
            graph = sliding_window(96, radius)
            inputs, graph = moved(make_inputs(graph, TERMS[terms]), torch.float32), graph.to(DEVICE)
            graph.plan()
            for x in inputs.values():
                if isinstance(x, Tensor) and x.shape[:1] == (graph.num_edges,):
                    torch._dynamo.mark_dynamic(x, 0)
            leaves = [x for x in inputs.values() if isinstance(x, Tensor) and x.requires_grad]
            found, expected = (
                (out, *torch.autograd.grad(out.square().sum(), leaves))
                for out in (call(inputs, graph) for call in (compiled, attend))
            )
            for got, right in zip(found, expected, strict=True):
                assert_close(got, right, rtol=1e-4, atol=1e-5)


@needs_fused
def test_under_autocast_a_layer_trains_in_half_precision() -> None:
    torch.manual_seed(0)
    layer = nn.GraphAttention(24, NUM_HEADS, impl="fused").to(DEVICE)
    graph = LARGE["windows"].to(DEVICE)
    x = torch.randn(graph.num_src_nodes, 24, device=DEVICE)
    expected = layer(x, graph)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    for dtype in (torch.bfloat16, torch.float16):
        optimizer.zero_grad()
        with torch.autocast(DEVICE, dtype):
            out = layer(x, graph)
        assert out.dtype == dtype
        assert (out.float() - expected).norm() <= ERRORS[dtype] * 3 * expected.norm()
        scaler = torch.amp.GradScaler(DEVICE, init_scale=1024.0, enabled=DEVICE == "cuda")
        scaler.scale(out.float().square().mean()).backward()
        assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in layer.parameters())
        before = layer.value_proj.weight.detach().clone()
        scaler.step(optimizer)
        scaler.update()
        assert not torch.equal(layer.value_proj.weight, before)
        expected = layer(x, graph).detach()


@pytest.mark.parametrize("name", [*GRAPHS, *LARGE])
def test_a_plan_made_on_the_device_is_the_one_made_on_the_cpu(name: str) -> None:
    graph = (GRAPHS | LARGE)[name]
    fresh = AttentionGraph.trusted(
        graph.explicit_edges, graph.num_src_nodes, graph.num_dst_nodes, blocks=graph.blocks, head_mask=graph._head_mask
    )
    here, there = graph.plan(), fresh.to(DEVICE).plan()

    def flat(fields) -> Iterator[object]:
        for x in fields:
            if isinstance(x, tuple):
                yield from flat(x)
            else:
                yield x

    compared = list(zip(flat(here), flat(there), strict=True))
    for one, other in compared:
        if isinstance(one, Tensor):
            assert other.device.type == torch.device(DEVICE).type and torch.equal(one, other.cpu())
        else:
            assert one == other
    assert len(compared) >= 11


def test_graphs_are_built_and_combined_on_the_device() -> None:
    def build(device: str) -> list[AttentionGraph]:
        sizes = torch.tensor([40, 0, 23], device=device)
        window, whole = sliding_window(sizes, 3), full(sizes)
        edges = torch.tensor([[5, 0, 3, 0], [1, 2, 2, 0]], device=device)
        from_edges, order = AttentionGraph.from_edge_index(edges, 7)
        assert order.tolist() == [3, 0, 1, 2]
        return [
            window,
            whole,
            from_edges,
            from_edges.T,
            window.keep(is_causal),
            whole.keep(is_causal),
            window | window.T,
            whole - window,
            window @ window,
        ]

    for here, there in zip(build("cpu"), build(DEVICE), strict=True):
        assert there.device.type == torch.device(DEVICE).type
        assert torch.equal(here.edge_index, there.edge_index.cpu())
    drawn = random_regular(
        torch.tensor([50], device=DEVICE), 7, generator=torch.Generator(DEVICE).manual_seed(0)
    ).edge_index.cpu()
    assert AttentionGraph(drawn, 50).num_edges == 350


@needs_gpu
@needs_fused
def test_tensors_of_more_than_two_billion_numbers_are_served() -> None:
    heads, width = 8, 64
    num_nodes = 2**31 // (heads * width) + 3
    if torch.cuda.mem_get_info()[0] < 60 * 2**30:
        pytest.skip("needs 60 GiB of free memory")
    node = torch.arange(num_nodes, device=DEVICE)  # one source each, so the output is its value
    graph = AttentionGraph.trusted(torch.stack([(node + 1) % num_nodes, node]), num_nodes)
    query, key, value = (
        torch.randn(num_nodes, heads, width, device=DEVICE, dtype=torch.bfloat16).requires_grad_() for _ in range(3)
    )
    assert value.numel() > 2**31
    out = graph_attention(query, key, value, graph, impl="fused")
    grad_out = torch.randn_like(out)
    grads = torch.autograd.grad(out, (query, key, value), grad_out)
    with torch.no_grad():
        assert torch.equal(out, value.roll(-1, 0))
        assert torch.equal(grads[2], grad_out.roll(1, 0))
        assert float(grads[0].abs().amax()) <= 1e-2 and float(grads[1].abs().amax()) <= 1e-2
