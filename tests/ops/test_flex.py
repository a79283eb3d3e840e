"""`flex` is for CUDA alone; here its calls run on the CPU through torch's uncompiled account of FlexAttention, which
trains once torch no longer forbids it. test_cuda.py runs it as it is."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import flex_attention as torch_flex
from torch.testing import assert_close

from graphattn.connectivity import full, sliding_window
from graphattn.graph import AttentionGraph
from graphattn.ops import _dispatch as dispatch
from graphattn.ops import attention_with_lse, attention_with_weights, capability, explain, graph_attention, supports
from graphattn.ops._impl import flex
from graphattn.ops.capability import is_proved, runs_on
from tests.ops.graphs import GRAPHS

EXACT = {"atol": 1e-10, "rtol": 1e-10}
SERVED = [name for name in GRAPHS if name != "no nodes"]


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    torch._dynamo.reset()
    monkeypatch.setitem(capability._DEVICES, "flex", ("cpu",))
    monkeypatch.setitem(capability._LACKS_DTYPES, "flex", frozenset())
    monkeypatch.setattr(torch_flex, "_validate_device", lambda *features: None)
    monkeypatch.setattr(flex, "program", lambda: torch_flex.flex_attention)
    yield
    torch._dynamo.reset()


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
    """Output, lse, and gradients of both."""
    out, lse = attention_with_lse(*leaves, graph, impl=impl, **options)
    total = out.square().sum() + torch.where(lse.isfinite(), lse, 0.0).square().sum()
    return [out.detach(), lse.detach(), *torch.autograd.grad(total, leaves)]


# --- the same numbers ----------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("name", SERVED)
def test_output_lse_and_gradients_equal_dense(name: str, on_cpu: None) -> None:
    leaves = inputs_for(GRAPHS[name])
    assert_close(*(results(GRAPHS[name], leaves, impl) for impl in ("flex", "dense")), **EXACT)


@pytest.mark.parametrize("head_dim, value_dim, key_heads", [(7, 17, 3), (16, 3, 1), (1, 1, 3)])
def test_widths_are_padded_and_heads_grouped(head_dim: int, value_dim: int, key_heads: int, on_cpu: None) -> None:
    graph = GRAPHS["lonely nodes"]
    leaves = inputs_for(graph, head_dim, value_dim, key_heads)
    gate = torch.tensor([0.5, 0.0, 2.0], dtype=torch.float64)
    found = []
    for impl in ("flex", "dense"):
        out = graph_attention(*leaves, graph, scale=-0.7, head_gate=gate, impl=impl)
        found.append([out, *torch.autograd.grad(out.square().sum(), leaves)])
    assert_close(*found, **EXACT)


def test_several_tiles_and_targets_without_edges_in_single_precision(on_cpu: None) -> None:
    graph = sliding_window(301, 40).keep(lambda src, dst: dst % 5 > 0)
    leaves = inputs_for(graph, dtype=torch.float32)
    ours, right = (results(graph, leaves, impl) for impl in ("flex", "dense"))
    assert (ours[0][::5] == 0).all() and (ours[1][::5] == -torch.inf).all() and (ours[2][::5] == 0).all()
    assert_close(ours, right, atol=1e-4, rtol=1e-4)


def test_widths_of_the_kernels_are_powers_of_two_from_sixteen_on() -> None:
    for width, wanted in ((1, 16), (16, 16), (17, 32), (64, 64), (65, 128)):
        assert flex._heads_first(torch.ones(3, 2, width)).shape == (1, 2, 3, wanted)


def test_the_mask_is_made_once_a_graph_and_serves_training_after_inference(
    on_cpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, make = list[int](), AttentionGraph.to_block_mask
    monkeypatch.setattr(AttentionGraph, "to_block_mask", lambda graph, size: (made.append(size), make(graph, size))[1])
    graph = sliding_window(13, 2)
    leaves = inputs_for(graph)
    with torch.inference_mode():
        graph_attention(*leaves, graph, impl="flex")
    assert_close(*(results(graph, leaves, impl) for impl in ("flex", "dense")), **EXACT)
    assert made == [128]


def test_the_program_is_compiled_once_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(torch, "compile", lambda function, **options: (asked.append((function, options)), function)[1])
    flex.program.cache_clear()
    assert flex.program() is flex.program() is torch_flex.flex_attention
    assert asked == [(torch_flex.flex_attention, {"fullgraph": True})]  # nothing falls back to all pairs in silence
    flex.program.cache_clear()


def test_gradients_that_keep_a_graph_cannot_be_differentiated(on_cpu: None) -> None:
    leaves = inputs_for(GRAPHS["window"])
    out = graph_attention(*leaves, GRAPHS["window"], impl="flex")
    (grad,) = torch.autograd.grad(out.square().sum(), leaves[:1], create_graph=True)
    for leaf in leaves:
        with pytest.raises(NotImplementedError, match='The flex implementation has no double backward: use impl="scat'):
            torch.autograd.grad(grad.square().sum(), leaf, retain_graph=True)


# --- what it does not serve ----------------------------------------------------------------------------------------


def test_it_runs_on_cuda_alone_and_is_refused_elsewhere() -> None:
    assert not runs_on("flex", "cpu") and not supports("flex", "lse")
    with pytest.raises(
        ValueError, match=r"impl='flex' cannot serve this call: it has no kernel for cpu\. These can: de"
    ):
        graph_attention(*inputs_for(GRAPHS["window"]), GRAPHS["window"], impl="flex")


def test_what_it_lacks_on_cuda_is_refused_with_those_that_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(capability._DEVICES, "flex", ("cuda",))
    cuda = dispatch.Sizes(3, 5, 5, torch.bfloat16, torch.device("cuda"))
    window = GRAPHS["window"]

    def reason(graph: AttentionGraph = window, sizes: dispatch.Sizes = cuda, reads_edges: bool = False, *also: str):
        return dispatch.reason_against("flex", graph, sizes, reads_edges, also)

    assert all(reason(GRAPHS[name]) is None for name in SERVED) and reason(window, cuda, False, "lse") is None
    assert reason(full(10**5)) is None  # which lists no edge
    assert reason(GRAPHS["no nodes"]) == "it needs a target and a source"
    assert reason(reads_edges=True) == "the call passes per-edge arguments or dropout"
    assert reason(window, cuda, False, "logit_clip") == "it has no logit_clip"
    assert reason(sizes=cuda._replace(dtype=torch.float64)) == "it has no torch.float64"
    assert reason(full(2 * 10**6)) == "244,140,625 tiles are above its limit of 134,217,728"
    with pytest.raises(ValueError, match=r"it has no torch.float64\. These can: dense, scatter"):
        dispatch.resolve("flex", window, cuda._replace(dtype=torch.float64), False)
    monkeypatch.setitem(capability._DEVICES, "flex", ())
    with pytest.raises(ImportError, match=r"Triton is not installed \(pip install triton\)\. These can: "):
        dispatch.resolve("flex", window, cuda, False)


def test_weights_are_refused(on_cpu: None) -> None:
    with pytest.raises(ValueError, match=r"it has no weights\. These can: dense"):
        attention_with_weights(*inputs_for(GRAPHS["window"]), GRAPHS["window"], impl="flex")


def test_a_compiled_region_is_refused_with_advice(on_cpu: None) -> None:
    graph = GRAPHS["window"]
    graph.plan()
    compiled = torch.compile(graph_attention, backend="eager", fullgraph=True)
    with pytest.raises(Exception, match=r"call flex_attention there, with one from graph.to_block_mask"):
        compiled(*inputs_for(graph), graph, impl="flex")


def test_auto_leaves_it_to_whoever_names_it(on_cpu: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert not is_proved("flex", "cpu") and not is_proved("flex", "cuda")
    graph = GRAPHS["window"]
    explain(torch.zeros(11, 3, 5), graph)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  flex")]
    assert line == "  flex     can, if it is named: it compiles a program for each new size of graph, for seconds"
