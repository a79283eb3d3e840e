"""The table of who can serve what, held against what happens, and the choice that rests on it."""

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from torch import Tensor

from graphattn.connectivity import full, sliding_window
from graphattn.graph import AttentionGraph
from graphattn.ops import (
    ARGUMENTS,
    IMPLEMENTATIONS,
    _costs,
    attention_with_lse,
    attention_with_weights,
    capability,
    explain,
    graph_attention,
    supports,
)
from graphattn.ops import _dispatch as dispatch
from graphattn.ops._impl import varlen
from graphattn.ops._variant import variant
from graphattn.ops.capability import DTYPES, is_proved, runs_on, trusting
from tests import strategies
from tests.ops.graphs import GRAPHS, block, edges, with_blocks

Inputs = dict[str, Any]
GRAPH = GRAPHS["three keys each in a block or not"]  # one that every implementation can serve
HEADS = AttentionGraph(
    GRAPH.explicit_edges, 11, blocks=GRAPH.blocks, head_mask=torch.eye(3, dtype=torch.bool).repeat(6, 1)
)


def inputs_for(argument: str, dtype: torch.dtype) -> Inputs:
    """A call that uses the argument and as little else as can be."""
    torch.manual_seed(0)
    num_edges = GRAPH.num_edges
    key_heads = 1 if argument == "grouped_heads" else 3
    inputs: Inputs = {
        "query": torch.randn(11, 3, 5, dtype=dtype),
        "key": torch.randn(11, key_heads, 5, dtype=dtype),
        "value": torch.randn(11, key_heads, 7, dtype=dtype),
        "graph": HEADS if argument == "head_mask" else GRAPH,
    }
    shapes = {
        "edge_bias": (num_edges, 3),
        "edge_gate": (num_edges, 1),
        "head_gate": (3,),
        "edge_key_weight": (3, 5, 2),
        "edge_value_weight": (3, 7, 2),
    }
    if argument in shapes:
        inputs[argument] = torch.randn(shapes[argument], dtype=dtype)
    if argument == "edge_type":
        inputs |= {"edge_type": torch.arange(num_edges) % 3, "edge_bias": torch.randn(3, 1, dtype=dtype)}
    if argument in ("edge_attr", "edge_key_weight", "edge_value_weight"):
        inputs["edge_attr"] = torch.randn(num_edges, 2, dtype=dtype)
        if argument == "edge_attr":
            inputs |= {name: torch.randn(shapes[name], dtype=dtype) for name in shapes if name.endswith("weight")}
    if argument == "logit_clip":
        inputs["logit_clip"] = 1.5
    if argument == "dropout_p":
        inputs |= {"dropout_p": 0.3, "seed": torch.tensor(1)}
    return inputs


def call(impl: str, argument: str, dtype: torch.dtype) -> None:
    """Forward and backward; twice backward for `double_backward`, by transforms for `torch_func`."""
    inputs = inputs_for(argument, dtype)
    if argument == "torch_func":
        queries = torch.stack([inputs.pop("query"), torch.randn(11, 3, 5, dtype=dtype)])

        def loss(query: Tensor) -> Tensor:
            return graph_attention(query, **inputs, impl=impl).float().square().sum()

        assert torch.func.vmap(torch.func.grad(loss))(queries).abs().max() > 0
        return
    functions: dict[str, Callable[..., Any]] = {"lse": attention_with_lse, "weights": attention_with_weights}
    function = functions.get(argument, graph_attention)
    query: Tensor = inputs["query"].requires_grad_()
    result = function(**inputs, impl=impl)
    total = sum(
        x[torch.isfinite(x)].float().square().sum() for x in (result if isinstance(result, tuple) else (result,))
    )
    (grad,) = torch.autograd.grad(total, query, create_graph=argument == "double_backward")
    if argument == "double_backward":
        (grad,) = torch.autograd.grad(grad.square().sum(), query)
    assert grad.isfinite().all() and grad.abs().max() > 0


@pytest.mark.parametrize("argument", ARGUMENTS)
@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_the_table_tells_the_truth(impl: str, argument: str) -> None:
    for dtype in DTYPES:
        if supports(impl, argument, dtype):
            call(impl, argument, dtype)
        else:
            with pytest.raises((ValueError, NotImplementedError)):
                call(impl, argument, dtype)


def test_the_table_names_every_argument_that_an_implementation_might_lack() -> None:
    names = set(inspect.signature(graph_attention).parameters)
    names -= {"query", "key", "value", "graph", "scale", "seed", "impl"}  # those every call has, or may have
    assert names <= set(ARGUMENTS)


def test_fused_runs_where_it_has_kernels_and_the_others_wherever_torch_does() -> None:
    assert runs_on("fused", "cpu") and not runs_on("fused", "mps")
    assert not supports("fused", "edge_bias", device="mps")
    assert all(supports(impl, "head_gate", device="mps") for impl in IMPLEMENTATIONS if impl not in ("fused", "flex"))
    assert not any(supports(impl, "head_gate", dtype=torch.int64) for impl in IMPLEMENTATIONS)


def test_unknown_names_are_refused_with_the_valid_ones() -> None:
    with pytest.raises(
        ValueError, match="'auto' or one of dense, scatter, gather, blocks, fused, sdpa, flex, got 'flash'"
    ):
        supports("flash", "edge_bias")
    with pytest.raises(ValueError, match=r"argument must be one of edge_bias, .*, got 'bias'. Check the spelling"):
        supports("dense", "bias")


# --- the choice ----------------------------------------------------------------------------------------------------


def sizes(heads: int = 3, head_dim: int = 5) -> dispatch.Sizes:
    return dispatch.Sizes(heads, head_dim, head_dim, torch.float32, torch.device("cpu"))


def test_gather_is_refused_where_degrees_differ_and_taken_into_account_where_not() -> None:
    for name, graph in GRAPHS.items():
        degree = strategies.dense(graph).any(0) if graph.head_mask is not None else strategies.dense(graph)
        one = degree.sum(-1).unique()
        expected = int(one) if one.numel() == 1 and int(one) else None
        assert graph.plan().degree == graph.enumerate().plan().degree == expected, name
        reason = dispatch.reason_against("gather", graph, sizes(), False)
        assert (reason is None) == (expected is not None), name
        assert reason is None or "same number of incoming edges, at least one, at every target" in reason


@given(strategies.graphs())
def test_auto_never_takes_one_that_cannot_serve(graph: AttentionGraph) -> None:
    for reads_edges in (False, True):
        chosen = dispatch.choose(graph, sizes(), reads_edges)
        assert dispatch.reason_against(chosen, graph, sizes(), reads_edges) is None


def test_auto_is_a_function_of_sizes_and_constants_only(monkeypatch: pytest.MonkeyPatch) -> None:
    random = [AttentionGraph(distinct_sources(67, 5, seed), 67) for seed in (0, 1)]
    for number in (1, 3, 64):
        choices = {dispatch.choose(graph, sizes(number, number), False) for graph in (*random, *random)}
        assert len(choices) == 1
    for favored in ("dense", "scatter", "fused"):
        costs = {impl: dict.fromkeys(names, 1.0 if impl == favored else 1e6) for impl, names in _costs.NAMES.items()}
        monkeypatch.setattr(dispatch, "constants_for", lambda device, costs=costs: _costs.Constants(costs, "a test"))
        assert dispatch.choose(random[0], sizes(), False) == favored


def distinct_sources(num_nodes: int, degree: int, seed: int) -> Tensor:
    drawn = torch.rand(num_nodes, num_nodes, generator=torch.Generator().manual_seed(seed)).topk(degree).indices
    return torch.stack([drawn.sort(1).values.flatten(), torch.arange(num_nodes).repeat_interleave(degree)])


def test_estimates_grow_with_the_graph_and_know_blocks_from_their_edges_by_price_only() -> None:
    cliques = full(torch.tensor([16] * 8))
    for impl in ("dense", "scatter", "gather", "fused"):
        assert dispatch.estimate(impl, cliques, sizes()) == dispatch.estimate(impl, cliques.enumerate(), sizes())
        assert dispatch.estimate(impl, full(128), sizes()) > dispatch.estimate(impl, full(64), sizes())
    alone, beside = (with_blocks(edges(listed), block([*range(1, 11)], [0, 1, 2])) for listed in ("", "0: 7"))
    assert dispatch.estimate("blocks", beside, sizes()) > dispatch.estimate("blocks", alone, sizes())


def test_a_window_in_order_is_cheaper_for_fused_than_one_out_of_order() -> None:
    window = sliding_window(1024, 32)
    moved = window.permute(torch.randperm(1024, generator=torch.Generator().manual_seed(0)))
    assert dispatch.estimate("fused", window, sizes()) < dispatch.estimate("fused", moved, sizes())
    assert dispatch.estimate("scatter", window, sizes()) == dispatch.estimate("scatter", moved, sizes())


def test_with_terms_of_edges_auto_copies_sources_only_where_they_lie_apart() -> None:
    sampled = full(2048).keep_sources(torch.arange(2048) % 8 == 0)
    molecules = full(torch.tensor([24] * 64))
    assert dispatch.choose(sampled, sizes(8, 64), True) == "blocks"
    assert dispatch.choose(molecules, sizes(8, 8), True) == "fused"
    as_ranges = dispatch.estimate("fused", molecules, sizes(8, 8))
    assert dispatch.estimate("blocks", molecules, sizes(8, 8), True) > as_ranges


def test_auto_takes_blocks_for_large_full_attention_and_never_dense_for_large_sparse_graphs() -> None:
    assert dispatch.choose(full(1024), sizes(8, 64), False) == "blocks"
    assert dispatch.choose(sliding_window(4096, 16), sizes(8, 64), False) == "fused"


def test_auto_lists_a_graph_whose_targets_are_in_pieces_when_edges_are_read() -> None:
    graph = with_blocks(edges("0: 7"), block([*range(11)], [0, 1, 2]))
    assert "two blocks" in str(dispatch.reason_against("blocks", graph, sizes(), True))
    assert dispatch.reason_against("blocks", graph, sizes(), False) is None
    assert dispatch.choose(graph, sizes(), True) != "blocks"


def test_without_numba_auto_takes_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "has_numba", lambda: False)
    assert dispatch.choose(sliding_window(4096, 16), sizes(), False) == "scatter"


@pytest.mark.parametrize("name", GRAPHS)
def test_explain_prints_the_choice_the_estimates_and_why_the_others_lost(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    graph = GRAPHS[name]
    for reads_edges in (False, True):
        explain(torch.zeros(graph.num_dst_nodes, 3, 5), graph, reads_edges=reads_edges)
        title, choice, *verdicts, kernel, memory, source = capsys.readouterr().out.splitlines()
        chosen = dispatch.choose(graph, sizes(), reads_edges)
        assert title == repr(graph)
        assert source == f"  constants: {_costs.constants_for('cpu').source}"
        assert kernel == f"  {chosen} runs as: {variant(chosen, graph, sizes(), reads_edges)}"
        assert memory.startswith("  memory: ") and memory.endswith("measured by `graphattn info --calibrate`")
        assert ("told per edge" in memory) == reads_edges
        assert choice == f"  3 heads × 5, torch.float32 on cpu: auto takes {chosen!r}"
        assert [line.split()[0] for line in verdicts] == list(IMPLEMENTATIONS)
        for impl, line in zip(IMPLEMENTATIONS, verdicts):
            reason = dispatch.reason_against(impl, graph, sizes(), reads_edges)
            assert (f"cannot: {reason}" if reason else "ms forward and backward") in line
            assert line.endswith("chosen") == (impl == chosen)


def test_explain_takes_the_width_of_values_into_account(capsys: pytest.CaptureFixture[str]) -> None:
    graph = sliding_window(1024, 16)
    explain(torch.zeros(1024, 3, 5), graph)
    narrow = capsys.readouterr().out
    explain(torch.zeros(1024, 3, 5), graph, value_dim=500)
    assert capsys.readouterr().out != narrow


@pytest.mark.parametrize(
    "impl, name, words",
    [
        ("dense", "window", "all 11 × 11 pairs under a mask"),
        ("scatter", "window", "an array of all edges"),
        ("gather", "three keys each", "all targets at once, 3 keys each"),
        ("blocks", "ragged batch", "sequences of variable length, unpadded, by torch's memory-efficient kernel"),
        ("blocks", "blocks and edges", "memory-efficient kernel and the edges beside them"),
        ("blocks", "padded staircases", "sequences of variable length, unpadded"),
        ("fused", "window", "Triton, rows of targets"),
        ("flex", "window", "tiles of 128 × 128 pairs"),
    ],
)
def test_kernels_on_cuda_are_named(impl: str, name: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    on_cuda = sizes()._replace(device=torch.device("cuda"))
    if impl == "fused":
        pytest.importorskip("triton")
    monkeypatch.setattr(varlen, "has_flash", lambda device: True)
    with trusting("varlen"):
        assert words in variant(impl, GRAPHS[name], on_cuda, False)
    assert variant("blocks", GRAPHS["ragged batch"], on_cuda, True).startswith("padded to ")
    half = on_cuda._replace(dtype=torch.bfloat16)
    assert variant("blocks", GRAPHS["ragged batch"], half, False).startswith("padded to ")  # not proved on this machine
    with trusting("varlen"):
        assert "torch's flash kernel" in variant("blocks", GRAPHS["ragged batch"], half, False)
        wide = half._replace(value_dim=320)
        assert "torch's memory-efficient kernel" in variant("blocks", GRAPHS["ragged batch"], wide, False)


def test_kernels_on_the_cpu_are_named() -> None:
    assert variant("fused", sliding_window(64, 3), sizes(), False) == (
        "Numba, a target at a time; 93% of the edges in ranges, by tiles"
    )
    assert variant("blocks", GRAPHS["ragged batch"], sizes(), False) == "unpadded"
    assert variant("blocks", GRAPHS["blocks and edges"], sizes(), True).startswith("Numba, over copies of the sources")


def test_auto_leaves_kernels_that_no_device_has_run_to_whoever_names_them(monkeypatch: pytest.MonkeyPatch) -> None:
    on_cuda, window = sizes()._replace(device=torch.device("cuda")), sliding_window(4096, 16)
    assert is_proved("fused", "cpu") and not is_proved("fused", "cuda")
    monkeypatch.setitem(capability._DEVICES, "fused", ("cpu", "cuda"))
    assert dispatch.choose(window, on_cuda, False) != "fused"
    assert dispatch.resolve("fused", window, on_cuda, False) == "fused"
    monkeypatch.setitem(capability._DEVICES, "fused", ("cpu",))
    with pytest.raises(ImportError, match=r"Triton is not installed \(pip install triton\). These can: .*scatter"):
        dispatch.resolve("fused", window, on_cuda, False)
