"""What `sdpa` promises beyond the meaning of the verb, and who may use it; test_attention.py holds it to `dense`."""

import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.utils.checkpoint
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing import assert_close

from graphattn.connectivity import full, sliding_window
from graphattn.graph import AttentionGraph, disjoint_union
from graphattn.graph.rules import is_causal
from graphattn.ops import _dispatch as dispatch
from graphattn.ops import attention_with_lse, explain, graph_attention
from graphattn.ops._impl import sdpa
from graphattn.ops.capability import is_proved
from tests import strategies
from tests.ops.graphs import GRAPHS

EXACT = {"atol": 1e-10, "rtol": 1e-10}
CPU = torch.device("cpu")


def inputs_for(
    graph: AttentionGraph, head_dim: int = 5, value_dim: int = 5, key_heads: int = 3, dtype: torch.dtype = torch.float64
) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = (
        (graph.num_dst_nodes, 3, head_dim),
        (graph.num_src_nodes, key_heads, head_dim),
        (graph.num_src_nodes, key_heads, value_dim),
    )
    return [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes]


def results(graph: AttentionGraph, leaves: list[Tensor], impl: str, **options: Any) -> list[Tensor]:
    out = graph_attention(*leaves, graph, impl=impl, **options)
    return [out.detach(), *torch.autograd.grad(out.square().sum(), leaves)]


def sizes(heads: int = 4, head_dim: int = 32) -> dispatch.Sizes:
    return dispatch.Sizes(heads, head_dim, head_dim, torch.float32, CPU)


# --- the same numbers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head_dim, value_dim, key_heads", [(5, 5, 3), (7, 3, 3), (3, 7, 3), (5, 5, 1), (3, 7, 1)])
@pytest.mark.parametrize("name", ["full", "causal", "cross", "lonely nodes", "bipartite", "no edges", "no nodes"])
def test_every_pair_of_widths_and_heads_is_served(name: str, head_dim: int, value_dim: int, key_heads: int) -> None:
    graph = GRAPHS[name]
    leaves = inputs_for(graph, head_dim, value_dim, key_heads)
    assert_close(results(graph, leaves, "sdpa"), results(graph, leaves, "dense"), **EXACT)


@pytest.mark.parametrize("scale", [0.0, -0.7, 60.0])
def test_any_scale_is_served(scale: float) -> None:
    graph = GRAPHS["lonely nodes"]
    leaves = inputs_for(graph)
    assert_close(results(graph, leaves, "sdpa", scale=scale), results(graph, leaves, "dense", scale=scale), **EXACT)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_targets_without_edges_get_exactly_zero_with_gradients_of_zero(dtype: torch.dtype) -> None:
    # more nodes than the kernel takes at a time, and targets that see none of them
    graph = sliding_window(601, 40).keep(lambda src, dst: dst % 5 > 0)
    leaves = inputs_for(graph, dtype=dtype)
    out, of_query, of_key, of_value = results(graph, leaves, "sdpa")
    assert (out[::5] == 0).all() and (of_query[::5] == 0).all()
    assert all(x.isfinite().all() and x.abs().max() > 0 for x in (out, of_query, of_key, of_value))


@pytest.mark.parametrize(
    "name, looks", [("window", set()), ("ragged batch of windows", {"sum", "_local_scalar_dense"})]
)
def test_nothing_but_one_operator_of_torch_runs_between_views(name: str, looks: set[str]) -> None:
    class Names(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), options=None):
            names.append(function._opname)
            return function(*arguments, **(options or {}))

    graph, names = GRAPHS[name], list[str]()
    leaves = inputs_for(graph, dtype=torch.float32)
    graph_attention(*leaves, graph, impl="sdpa")  # makes the mask
    with Names():
        graph_attention(*leaves, graph, impl="sdpa")
    views = {"unsqueeze", "transpose", "squeeze", "expand", "alias", "detach"}
    assert set(names) - views == looks | {"_scaled_dot_product_flash_attention_for_cpu"}


# --- the mask ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["window", "bipartite", "blocks and edges", "padded staircases", "no edges"])
def test_the_mask_is_zero_at_edges_and_minus_infinity_elsewhere(name: str) -> None:
    graph = GRAPHS[name]
    hidden = sdpa.mask(graph.enumerate().plan(), torch.float64)
    assert hidden.dtype == torch.float64
    assert torch.equal(hidden == 0, strategies.dense(graph)) and torch.equal(hidden == -torch.inf, hidden != 0)


def test_the_mask_is_made_once_a_graph_and_dtype_and_not_at_all_for_full_attention(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made, make = list[torch.dtype](), sdpa.mask

    def counted(plan: Any, dtype: torch.dtype) -> Tensor:
        made.append(dtype)
        return make(plan, dtype)

    monkeypatch.setattr(sdpa, "mask", counted)
    graph = full(13).keep(is_causal)
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float32):  # halves are summed in float32
        graph_attention(*inputs_for(graph, dtype=dtype), graph, impl="sdpa")
    assert made == [torch.float32, torch.float64]
    for whole in (full(13), full(13).enumerate(), full(13, dst_sizes=7)):
        graph_attention(*inputs_for(whole), whole, impl="sdpa")
    assert len(made) == 2


def test_a_mask_that_inference_made_serves_training() -> None:
    graph = sliding_window(13, 2)
    leaves = inputs_for(graph)
    with torch.inference_mode():
        first = graph_attention(*leaves, graph, impl="sdpa")
    assert_close(results(graph, leaves, "sdpa"), results(graph, leaves, "dense"), **EXACT)
    assert_close(first, graph_attention(*leaves, graph, impl="dense"), **EXACT)


@pytest.mark.parametrize("number", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("place", ["query", "key", "value", "gradient"])
@pytest.mark.parametrize("key_heads, value_dim", [(3, 5), (1, 7)])
def test_what_is_not_finite_stays_with_those_who_see_it(
    number: float, place: str, key_heads: int, value_dim: int
) -> None:
    graph = sliding_window(torch.tensor([7, 9]), 2)
    leaves = inputs_for(graph, value_dim=value_dim, key_heads=key_heads)
    grad_out = torch.randn(16, 3, value_dim, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    spoilt = dict(zip(("query", "key", "value", "gradient"), (*leaves, grad_out), strict=True))[place]
    with torch.no_grad():
        spoilt[8] = number
    found = []
    for impl in ("sdpa", "scatter"):
        out = graph_attention(*leaves, graph, impl=impl)
        found.append([out.detach(), *torch.autograd.grad(out, leaves, grad_out)])
    assert_close(*found, equal_nan=True, **EXACT)
    assert all(x[:7].isfinite().all() for x in found[0])  # the other example's
    assert not all(x.isfinite().all() for x in found[0])


def test_only_wanted_gradients_are_made_anew_and_theirs_are_refused() -> None:
    graph = GRAPHS["ragged batch of windows"]
    query, key, value = inputs_for(graph)
    grad_out = torch.full((graph.num_dst_nodes, 3, 5), torch.nan, dtype=torch.float64).requires_grad_()
    out = graph_attention(query.detach(), key, value.detach(), graph, impl="sdpa")
    (first,) = torch.autograd.grad(out, key, grad_out, create_graph=True)
    assert first.isnan().all()
    with pytest.raises(NotImplementedError, match='The sdpa implementation has no double backward: use impl="sca'):
        torch.autograd.grad(first.sum(), grad_out)


def test_strided_inputs_and_gradients_give_the_same_answer_and_refuse_a_second_derivative() -> None:
    graph = GRAPHS["ragged batch of windows"]
    leaves = inputs_for(graph)
    strided = [x.detach().transpose(0, -1).contiguous().transpose(0, -1).requires_grad_() for x in leaves]
    generator = torch.Generator().manual_seed(3)
    grad_out = torch.randn(5, 3, graph.num_dst_nodes, dtype=torch.float64, generator=generator).permute(2, 1, 0)
    found = []
    for inputs, impl in ((leaves, "dense"), (strided, "sdpa")):
        out = graph_attention(*inputs, graph, impl=impl)
        found.append([out.detach(), *torch.autograd.grad(out, inputs, grad_out)])
    assert_close(*found, **EXACT)
    out = graph_attention(*strided, graph, impl="sdpa")
    (first,) = torch.autograd.grad(out.sum(), strided[0], create_graph=True)
    with pytest.raises(NotImplementedError, match="The sdpa implementation has no double backward"):
        torch.autograd.grad(first.sum(), strided[1])


def test_nothing_is_kept_that_autograd_does_not_know_of() -> None:
    graph, alive = GRAPHS["ragged batch of windows"], list[Any]()
    leaves = inputs_for(graph)

    def call(*leaves: Tensor) -> Tensor:
        inputs = [x * 1 for x in leaves]
        alive.extend(weakref.ref(x) for x in inputs)
        return graph_attention(*inputs, graph, impl="sdpa")

    out = call(*leaves)
    out.sum().backward()
    assert all(x() is None for x in alive)
    checkpointed = torch.utils.checkpoint.checkpoint(call, *leaves, use_reentrant=False)
    assert all(x() is None for x in alive)
    grads = torch.autograd.grad(checkpointed.sum(), leaves)
    assert_close(grads, tuple(x.grad for x in leaves), **EXACT)


def test_batched_gradients_and_tensors_without_numbers_are_not_looked_at() -> None:
    graph = GRAPHS["ragged batch of windows"]
    leaves = inputs_for(graph)
    out = graph_attention(*leaves, graph, impl="sdpa")
    rows = torch.randn(3, *out.shape, dtype=out.dtype, generator=torch.Generator().manual_seed(2))
    batched = torch.autograd.grad(out, leaves, rows, is_grads_batched=True, retain_graph=True)
    for number, row in enumerate(rows):
        one = torch.autograd.grad(out, leaves, row, retain_graph=True)
        assert_close(tuple(x[number] for x in batched), one, **EXACT)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fakes = [mode.from_tensor(x.detach()) for x in leaves]
        assert graph_attention(*fakes, graph, impl="sdpa").shape == out.shape


@pytest.mark.parametrize("rest", ["fused", "scatter"])
def test_without_an_edge_what_is_not_finite_reaches_nobody(rest: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "_rest_impl", lambda device: rest)
    graph = disjoint_union([GRAPHS["no edges"], GRAPHS["no edges"]])
    leaves = inputs_for(graph)
    grad_out = torch.full((graph.num_dst_nodes, 3, 5), torch.nan, dtype=torch.float64)
    out = graph_attention(*leaves, graph, impl="sdpa")
    assert not any(x.any() for x in (out, *torch.autograd.grad(out, leaves, grad_out)))


@pytest.mark.parametrize("has_numba", [True, False])
def test_auto_takes_it_for_a_batch_and_keeps_a_nan_in_its_example(
    has_numba: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(dispatch, "has_numba", lambda: has_numba)
    graph = full(torch.tensor([5, 4, 6]))
    query, key, value = inputs_for(graph)
    assert dispatch.choose(graph, sizes(3, 5), False) == "sdpa"
    with torch.no_grad():
        value[6] = torch.nan
    out = graph_attention(query, key, value, graph)
    is_hit = out.isnan().flatten(1).any(1)
    assert is_hit.tolist() == [5 <= node < 9 for node in range(15)]
    explain(query, graph)
    dense_line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("  dense"))
    assert "a NaN of one example would reach the others of its batch" in dense_line


# --- what it does not serve ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "terms, reason",
    [
        ({"edge_bias": torch.zeros(49)}, "the call passes per-edge arguments or dropout"),
        ({"edge_gate": torch.ones(49)}, "the call passes per-edge arguments or dropout"),
        ({"dropout_p": 0.5}, "the call passes per-edge arguments or dropout"),
        ({"logit_clip": 2.0}, "it has no logit_clip"),
    ],
)
def test_what_it_lacks_is_refused_with_those_that_can_and_auto_takes_them(terms: dict[str, Any], reason: str) -> None:
    graph = GRAPHS["window"]
    leaves = inputs_for(graph)
    with pytest.raises(ValueError, match=rf"impl='sdpa' cannot serve this call: {reason}\. These can: dense, scatter"):
        graph_attention(*leaves, graph, impl="sdpa", **terms)
    terms = terms | ({"seed": torch.tensor(1)} if "dropout_p" in terms else {})
    assert_close(results(graph, leaves, "auto", **terms), results(graph, leaves, "dense", **terms), **EXACT)


def test_lse_and_heads_that_see_different_edges_are_refused() -> None:
    leaves = inputs_for(GRAPHS["window"])
    with pytest.raises(ValueError, match=r"it has no lse\. These can: dense"):
        attention_with_lse(*leaves, GRAPHS["window"], impl="sdpa")
    with pytest.raises(ValueError, match=r"heads see different edges, and its mask is one for all\. These can: dense"):
        graph_attention(*leaves, GRAPHS["head mask"], impl="sdpa")
    assert attention_with_lse(*leaves, GRAPHS["window"])[1].isfinite().all()


def test_graphs_of_many_pairs_are_refused() -> None:
    graph = sliding_window(1009, 1)
    with pytest.raises(ValueError, match=r"1009 × 1009 pairs are above its limit of 524,288\. These can: dense"):
        graph_attention(*inputs_for(graph), graph, impl="sdpa")


@pytest.mark.parametrize("value_dim", [5, 7])
@pytest.mark.parametrize("wanted", ["query", "key", "value"])
def test_gradients_that_keep_a_graph_are_right_and_theirs_are_refused(wanted: str, value_dim: int) -> None:
    graph = GRAPHS["window"]
    leaves = dict(zip(("query", "key", "value"), inputs_for(graph, value_dim=value_dim), strict=True))
    firsts = {}
    for impl in ("sdpa", "dense"):
        out = graph_attention(**leaves, graph=graph, impl=impl)
        (firsts[impl],) = torch.autograd.grad(out.square().sum(), leaves[wanted], create_graph=True)
    assert_close(firsts["sdpa"], firsts["dense"], **EXACT)
    for other in leaves.values():
        with pytest.raises(NotImplementedError, match='The sdpa implementation has no double backward: use impl="sca'):
            torch.autograd.grad(firsts["sdpa"].square().sum(), other, retain_graph=True)


# --- the choice ----------------------------------------------------------------------------------------------------


def test_auto_takes_it_for_small_plain_calls_and_never_for_what_it_cannot_serve() -> None:
    for graph in (sliding_window(32, 2), full(64), GRAPHS["window"]):
        assert dispatch.choose(graph, sizes(), False) == "sdpa"
        assert dispatch.choose(graph, sizes(), True) != "sdpa"
        for also in ("lse", "weights", "logit_clip"):
            assert dispatch.choose(graph, sizes(), False, (also,)) != "sdpa"
    assert dispatch.choose(sliding_window(1024, 2), sizes(), False) == "fused"
    assert dispatch.choose(GRAPHS["head mask"], sizes(), False) != "sdpa"


def test_auto_leaves_it_to_whoever_names_it_on_other_devices_than_the_cpu() -> None:
    graph, on_cuda = sliding_window(32, 2), sizes()._replace(device=torch.device("cuda"))
    assert is_proved("sdpa", "cpu") and not is_proved("sdpa", "cuda")
    assert dispatch.choose(graph, on_cuda, False) != "sdpa"
    assert dispatch.resolve("sdpa", graph, on_cuda, False) == "sdpa"


# --- compilation ---------------------------------------------------------------------------------------------------


@pytest.fixture
def dynamo() -> Iterator[None]:
    import torch._dynamo

    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def run_compiled(graphs: list[AttentionGraph], warm_up: int, impl: str) -> None:
    """Forward and backward in one program; from call `warm_up` on, another program is an error."""
    compiled = torch.compile(graph_attention, backend="aot_eager", fullgraph=True)
    for number, graph in enumerate(graphs):
        graph.plan()
        leaves = inputs_for(graph, dtype=torch.float32)
        with torch._dynamo.config.patch(error_on_recompile=number >= warm_up):
            out = compiled(*leaves, graph, impl=impl)
        expected = graph_attention(*leaves, graph, impl="dense")
        assert_close(out, expected)
        assert_close(torch.autograd.grad(out.sum(), leaves), torch.autograd.grad(expected.sum(), leaves))


def test_one_program_serves_ten_graphs_of_one_size(dynamo: None) -> None:
    graphs = [sliding_window(67, radius) for radius in range(2, 12)]
    graph_attention(*inputs_for(graphs[3]), graphs[3], impl="sdpa")  # one that has its mask already
    run_compiled(graphs, warm_up=1, impl="sdpa")


def test_one_program_serves_ten_sizes(dynamo: None) -> None:
    run_compiled([sliding_window(67 + 3 * number, 2 + number) for number in range(10)], warm_up=2, impl="sdpa")


def test_auto_does_not_take_it_in_a_program(dynamo: None, monkeypatch: pytest.MonkeyPatch) -> None:
    graphs = [sliding_window(67, 2), sliding_window(67, 3)]
    assert dispatch.choose(graphs[0], sizes(3, 5), False) == "sdpa"
    monkeypatch.delattr(sdpa, "attention")
    run_compiled(graphs, warm_up=1, impl="auto")


def test_it_compiles_after_a_call_without_a_compiler_and_before(dynamo: None) -> None:
    graph = sliding_window(67, 2)
    leaves = inputs_for(graph, dtype=torch.float32)
    call: Callable[..., Tensor] = torch.compile(graph_attention, backend="eager", fullgraph=True)
    before = graph_attention(*leaves, graph, impl="sdpa")
    assert_close(call(*leaves, graph, impl="sdpa"), before)
    assert_close(graph_attention(*leaves, graph, impl="sdpa"), before)
