"""Blocks beyond what every implementation is held to: shapes, merges and staircases, and what they must not cost."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor
from torch.testing import assert_close

from graphattn.connectivity import full
from graphattn.graph import AttentionGraph, Blocks, disjoint_union
from graphattn.graph.rules import is_causal
from graphattn.ops import _dispatch as dispatch
from graphattn.ops import attention_with_lse, graph_attention
from graphattn.ops._impl import blocks
from tests import strategies
from tests.ops.graphs import GRAPHS as COMMON
from tests.ops.graphs import block, edges, with_blocks

EXACT = {"atol": 1e-10, "rtol": 1e-10}


def marked(num_nodes: int, nodes: list[int]) -> Tensor:
    chosen = torch.zeros(num_nodes, dtype=torch.bool)
    chosen[nodes] = True
    return chosen


def staircase(prefix: list[int], src: list[int]) -> AttentionGraph:
    """Target t reads the first prefix[t] of the sources."""
    made = Blocks(
        torch.tensor([0, len(prefix)]),
        torch.arange(len(prefix)),
        torch.tensor([0, len(src)]),
        torch.tensor(src),
        torch.tensor(prefix),
        torch.ones(1, dtype=torch.int16),
    )
    return AttentionGraph(torch.empty(2, 0, dtype=torch.int64), max(src) + 1, len(prefix), blocks=made)


EVEN = marked(11, [1, 2, 5, 7])
GRAPHS = {
    "sampled sources": full(11).keep_sources(EVEN),
    "sampled sources and edges": full(11).keep_sources(EVEN) | edges("0: 0 4; 3: 0 3 9; 10: 10"),
    "many sizes": full(torch.tensor([3, 1, 5, 3, 2, 5, 0, 4])),
    "two halves of the sources": with_blocks(
        edges("4: 10"), block([*range(11)], [0, 1, 2, 3, 4]), block([*range(11)], [5, 6, 7, 8, 9])
    ),
    "overlapping shapes": with_blocks(
        edges("0: 10; 9: 1 2"), block([0, 1, 2, 3], [0, 1, 2]), block([2, 3, 5], [6, 7, 8, 9]), block([1, 2], [4])
    ),
    "causal": full(11).keep(is_causal),
    "causal of many sizes": disjoint_union([full(n) for n in (4, 2, 4, 1)]).keep(is_causal),
    "causal with more targets": full(5, dst_sizes=11).keep(is_causal),
    "causal beside hubs": with_blocks(
        full(11).keep(is_causal).keep_sources(marked(11, [3, 4, 5, 6])), block([0, 5, 9], [7, 8])
    ),
    "a staircase with an offset": staircase([3, 4, 5, 6, 7, 8, 9, 10, 11], [*range(11)]),
    "a staircase downwards": staircase([7, 7, 4, 3, 1], [2, 0, 5, 1, 6, 3, 4]),
    **{name: graph for name, graph in COMMON.items() if graph.blocks is not None},
}


def inputs_of(
    graph: AttentionGraph, heads: int = 3, key_heads: int = 3, head_dim: int = 5, value_dim: int = 5
) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(graph.num_edges)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()

    return {
        "query": normal(graph.num_dst_nodes, heads, head_dim),
        "key": normal(graph.num_src_nodes, key_heads, head_dim),
        "value": normal(graph.num_src_nodes, key_heads, value_dim),
    }


def results(
    graph: AttentionGraph, impl: str, inputs: dict[str, Tensor], out_counts: bool = True, lse_counts: bool = True
) -> dict[str, Tensor]:
    """Output, lse, and the gradients of a sum over one or both of them, in which every number counts differently."""
    out, lse = attention_with_lse(**inputs, graph=graph, impl=impl)
    generator = torch.Generator().manual_seed(5)
    of_out = (out * torch.randn(out.shape, generator=generator, dtype=out.dtype)).sum()
    seen = torch.where(lse.isfinite(), lse, 0.0)
    of_lse = (seen * torch.randn(lse.shape, generator=generator, dtype=lse.dtype)).sum()
    total = out_counts * of_out + lse_counts * of_lse if out_counts and lse_counts else of_out if out_counts else of_lse
    grads = torch.autograd.grad(total, list(inputs.values()), allow_unused=True)
    named = {f"gradient of {name}": grad for name, grad in zip(inputs, grads)}
    named = {name: torch.zeros(0) if grad is None or not grad.any() else grad for name, grad in named.items()}
    return {"out": out.detach(), "lse": lse.detach(), **named}


def check(graph: AttentionGraph, inputs: dict[str, Tensor], **counts: bool) -> None:
    assert_close(results(graph, "blocks", inputs, **counts), results(graph, "dense", inputs, **counts), **EXACT)


@pytest.fixture(params=["kernel", "torch"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs the test through the kernel that is compiled for blocks, and through torch's."""
    if request.param == "torch":
        without_kernel(monkeypatch)


def without_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "runs_in_kernel", lambda *sizes: False)


# --- exactness -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("out_counts, lse_counts", [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("head_dim, value_dim", [(5, 5), (5, 7), (7, 5)])
@pytest.mark.parametrize("name", GRAPHS)
def test_plain_blocks_equal_dense(
    name: str, head_dim: int, value_dim: int, out_counts: bool, lse_counts: bool, way: None
) -> None:
    inputs = inputs_of(GRAPHS[name], head_dim=head_dim, value_dim=value_dim)
    check(GRAPHS[name], inputs, out_counts=out_counts, lse_counts=lse_counts)


@pytest.mark.parametrize("heads, key_heads", [(3, 1), (6, 2)])
@pytest.mark.parametrize("name", [name for name, graph in GRAPHS.items() if graph.head_mask is None])
def test_grouped_heads_share_keys_in_every_way_to_run(
    name: str, heads: int, key_heads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = GRAPHS[name]
    inputs = inputs_of(graph, heads, key_heads, value_dim=7)
    check(graph, inputs)
    without_kernel(monkeypatch)
    check(graph, inputs)
    monkeypatch.setattr(blocks, "runs_unpadded", lambda device: False)
    check(graph, inputs)


@pytest.mark.parametrize("name", GRAPHS)
def test_masks_made_strip_by_strip_change_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    without_kernel(monkeypatch)
    monkeypatch.setattr(blocks, "MAX_MASKED_PAIRS", 1)
    monkeypatch.setattr(blocks, "MIN_MASKED_ROWS", 2)
    check(GRAPHS[name], inputs_of(GRAPHS[name]))


@pytest.mark.parametrize("heads, key_heads", [(3, 3), (6, 2)])
@pytest.mark.parametrize("name", [name for name, graph in GRAPHS.items() if graph.head_mask is None])
def test_without_lse_the_padded_way_gives_the_same(
    name: str, heads: int, key_heads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = GRAPHS[name]
    inputs = inputs_of(graph, heads, key_heads)

    def gradients(impl: str) -> list[Tensor]:
        out = graph_attention(**inputs, graph=graph, impl=impl)
        return [out, *torch.autograd.grad(out.square().sum(), list(inputs.values()), materialize_grads=True)]

    unpadded, expected = gradients("blocks"), gradients("dense")
    monkeypatch.setattr(blocks, "runs_unpadded", lambda device: False)
    monkeypatch.setattr(blocks, "_flash", None)
    for ours in (unpadded, gradients("blocks")):
        assert_close(ours, expected, **EXACT)


@given(strategies.graphs())
@settings(max_examples=100)
def test_random_graphs_with_blocks_equal_dense(graph: AttentionGraph) -> None:
    if graph.blocks is not None:
        check(graph, inputs_of(graph))


def test_several_tiles_of_the_kernel_equal_dense(way: None) -> None:
    many = full(torch.tensor([611, 67]))
    kept = torch.arange(611) % 5 != 0
    beside = edges("5: 0 5; 600: 595", 611, 611)
    for graph in (many, many.keep(is_causal), full(611).keep_sources(kept).keep(is_causal) | beside):
        assert graph.blocks is not None
        check(graph, inputs_of(graph, heads=2, key_heads=1, head_dim=8, value_dim=8))


def cut(rows: Tensor, num_more: int) -> tuple[Tensor, Tensor]:
    return rows[: len(rows) - num_more], rows[len(rows) - num_more :]


@pytest.mark.parametrize("impl", ["blocks", "auto", "scatter"])
@pytest.mark.parametrize("num_more", [0, 1, 3, "all"])
@pytest.mark.parametrize("name", GRAPHS)
def test_sources_in_two_tables_are_those_of_one(name: str, num_more: int | str, impl: str, way: None) -> None:
    graph, joined = GRAPHS[name], inputs_of(GRAPHS[name], value_dim=7)
    num_more = graph.num_src_nodes if num_more == "all" else min(int(num_more), graph.num_src_nodes)
    pairs = {key: cut(joined[key], num_more) for key in ("key", "value")}
    slope = torch.randn(graph.num_dst_nodes, 3, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = []
    for sources in (pairs, {"key": joined["key"], "value": joined["value"]}):
        out = graph_attention(joined["query"], **sources, graph=graph, impl=impl if sources is pairs else "dense")
        found.append([out, *torch.autograd.grad(out, list(joined.values()), slope)])
    assert_close(*found, **EXACT)


@pytest.mark.parametrize("has_numba", [True, False])
@pytest.mark.parametrize("terms", [("edge_bias",), ("edge_type", "edge_bias"), ("logit_clip",), ("dropout_p", "seed")])
def test_sources_in_two_tables_serve_terms_of_edges(
    terms: tuple[str, ...], has_numba: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "has_numba", lambda: has_numba)
    graph = GRAPHS["sampled sources"]
    joined, num_edges = inputs_of(graph), graph.num_edges
    bias = torch.randn(num_edges, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    options = {
        "edge_bias": bias[:4] if "edge_type" in terms else bias,
        "edge_type": torch.arange(num_edges) % 4,
        "logit_clip": 0.5,
        "dropout_p": 0.4,
        "seed": torch.tensor(5),
    }
    options = {name: options[name] for name in terms}
    in_one, in_two = (joined["key"], joined["value"]), (cut(joined["key"], 4), cut(joined["value"], 4))
    found = []
    for sources, impl in ((in_one, "dense"), (in_two, "blocks")):
        out = graph_attention(joined["query"], *sources, graph, impl=impl, **options)
        found.append([out, *torch.autograd.grad(out.square().sum(), list(joined.values()))])
    assert_close(*found, **EXACT)


@pytest.mark.parametrize("dim", [8, 5])
@pytest.mark.parametrize("num_more", [None, 100])
def test_slices_of_one_packed_tensor_give_the_bits_of_contiguous_ones(num_more: int | None, dim: int) -> None:
    graph = full(torch.tensor([150, 90]))
    packed = torch.randn(240, 3 * 2 * dim, generator=torch.Generator().manual_seed(2))
    query, key, value = packed.unflatten(1, (3, 2, dim)).unbind(1)
    found = []
    for inputs in ((query, key, value), (query.contiguous(), key.contiguous(), value.contiguous())):
        query, key, value = (x.detach().requires_grad_() for x in inputs)
        sources = (key, value) if num_more is None else (cut(key, num_more), cut(value, num_more))
        out = graph_attention(query, *sources, graph, impl="blocks")
        found.append([out, *torch.autograd.grad(out.square().sum(), (query, key, value))])
    assert_close(*found, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["sampled sources and edges", "overlapping shapes", "causal"])
def test_strided_features_are_read_right(name: str, way: None) -> None:
    inputs = inputs_of(GRAPHS[name])
    strided = {
        name: x.detach().transpose(0, 2).contiguous().transpose(0, 2).requires_grad_() for name, x in inputs.items()
    }
    assert strided["query"].stride(-1) != 1
    assert_close(results(GRAPHS[name], "blocks", strided), results(GRAPHS[name], "dense", inputs), **EXACT)


def test_only_what_is_asked_for_gets_a_gradient() -> None:
    inputs = inputs_of(GRAPHS["sampled sources and edges"])
    inputs = {name: x if name == "key" else x.detach() for name, x in inputs.items()}
    expected, ours = (
        torch.autograd.grad(
            graph_attention(**inputs, graph=GRAPHS["sampled sources and edges"], impl=impl).square().sum(),
            inputs["key"],
        )
        for impl in ("dense", "blocks")
    )
    assert_close(ours, expected, **EXACT)
    assert ours[0].abs().max() > 0


# --- corners -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sampled sources", "sampled sources and edges", "two halves of the sources"])
def test_sources_at_minus_infinity_count_for_nothing(name: str, way: None) -> None:
    graph = GRAPHS[name]
    inputs = {name: x.detach().abs() for name, x in inputs_of(graph).items()}
    inputs["key"][:5, 1] = -torch.inf  # for some targets that is all they see
    inputs["key"][5:, 2] = -torch.inf
    inputs["key"][:, 0] = -torch.inf
    out, lse = attention_with_lse(**inputs, graph=graph, impl="blocks")
    expected, expected_lse = attention_with_lse(**inputs, graph=graph, impl="dense")
    assert (lse[:, 0] == -torch.inf).all() and (out[:, 0] == 0).all() and lse[:, 1].isfinite().any()
    assert_close(out, expected, **EXACT)
    assert_close(lse, expected_lse, **EXACT)


def test_a_log_sum_exp_of_zero_is_not_mistaken_for_seeing_nothing(way: None) -> None:
    graph = full(torch.tensor([1, 3]))
    inputs = {name: x.detach() * (name == "value") for name, x in inputs_of(graph).items()}
    inputs["key"][3] = torch.inf  # of the other block
    lse = attention_with_lse(**inputs, graph=graph, impl="blocks")[1]
    assert_close(lse[0], torch.zeros(3, dtype=torch.float64), **EXACT)


@pytest.mark.parametrize("where", ["query", "key", "value"])
def test_a_nan_stays_in_its_block_where_parts_are_merged(where: str, way: None) -> None:
    graph = with_blocks(
        edges("0: 9; 1: 9; 6: 10"), block([0, 1, 2], [0, 1]), block([0, 1, 2], [2, 3]), block([5, 6, 7], [5, 6])
    )
    inputs = inputs_of(graph)
    inputs[where] = inputs[where].detach().clone()
    inputs[where][1] = torch.nan
    inputs[where].requires_grad_()
    out, lse = attention_with_lse(**inputs, graph=graph, impl="blocks")
    assert out[1].isnan().all() and out[5:].isfinite().all() and lse[5:8].isfinite().all()
    grads = torch.autograd.grad(out[5:].sum() + lse[5:8].sum(), list(inputs.values()))
    for grad, nodes in zip(grads, ([5, 6, 7], [5, 6, 10], [5, 6, 10])):  # source 9 is read by target 1
        assert grad[nodes].isfinite().all() and grad[nodes].abs().max() > 0


# --- what it costs -------------------------------------------------------------------------------------------------


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Tensor, ...]]:
    """Query, key and value of every call of torch's kernel, where there is no other."""
    without_kernel(monkeypatch)
    seen: list[tuple[Tensor, ...]] = []
    flash = blocks._flash

    def spy(*tensors: Any, **options: Any) -> Any:
        seen.append(tensors[:3])
        return flash(*tensors, **options)

    monkeypatch.setattr(blocks, "_flash", spy)
    return seen


def test_every_shape_is_one_call_and_no_pair_is_padding(calls: list[tuple[Tensor, ...]]) -> None:
    graph = full(torch.tensor([3, 1, 5, 3, 2, 5, 4]))
    graph_attention(**inputs_of(graph), graph=graph, impl="blocks")
    assert sorted((q.shape[0], q.shape[2], k.shape[2]) for q, k, _ in calls) == [
        (1, 1, 1), (1, 2, 2), (1, 4, 4), (2, 3, 3), (2, 5, 5)
    ]  # fmt: skip
    assert sum(q.shape[0] * q.shape[2] * k.shape[2] for q, k, _ in calls) == graph.num_edges


def test_sampled_sources_leave_the_queries_where_they_are(calls: list[tuple[Tensor, ...]]) -> None:
    inputs = inputs_of(GRAPHS["sampled sources"], heads=6, key_heads=2)
    graph_attention(**inputs, graph=GRAPHS["sampled sources"], impl="blocks")
    ((q, k, v),) = calls
    assert q.data_ptr() == inputs["query"].data_ptr()
    assert k.shape == v.shape == (1, 2, 4, 5)  # the sampled sources, and no key repeated for a head


def test_a_staircase_reads_no_further_than_its_rows_do(
    calls: list[tuple[Tensor, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "MAX_MASKED_PAIRS", 1)
    monkeypatch.setattr(blocks, "MIN_MASKED_ROWS", 3)
    graph = GRAPHS["a staircase with an offset"]
    graph_attention(**inputs_of(graph), graph=graph, impl="blocks")
    assert [(q.shape[2], k.shape[2]) for q, k, _ in calls] == [(3, 5), (3, 8), (3, 11)]


@pytest.mark.parametrize("lse_counts", [True, False])
def test_only_a_gradient_of_lse_costs_a_column(lse_counts: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    without_kernel(monkeypatch)
    widths: list[int] = []
    backward = blocks._flash_backward

    def spy(*tensors: Any, **options: Any) -> Any:
        widths.append(tensors[0].shape[-1])
        return backward(*tensors, **options)

    monkeypatch.setattr(blocks, "_flash_backward", spy)
    results(GRAPHS["sampled sources"], "blocks", inputs_of(GRAPHS["sampled sources"]), lse_counts=lse_counts)
    assert widths == [5 + lse_counts]


@pytest.mark.parametrize("lse_counts", [True, False])
@pytest.mark.parametrize("has_edges", [True, False])
def test_nothing_of_the_size_of_pairs_is_kept_for_the_backward(lse_counts: bool, has_edges: bool) -> None:
    graph = full(257).keep_sources(torch.arange(257) % 2 == 0)
    graph = graph | edges("0: 1; 5: 3", 257, 257) if has_edges else graph
    inputs = inputs_of(graph, heads=2, key_heads=2, head_dim=3, value_dim=3)
    kept: list[int] = []

    def remember(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor):
        out, lse = attention_with_lse(**inputs, graph=graph, impl="blocks")
        (out.sum() + lse_counts * lse.sum()).backward()
    assert 0 < max(kept) <= 257 * 2 * 3


# --- the kernel that is compiled for blocks ------------------------------------------------------------------------


def test_small_blocks_run_in_the_kernel_and_large_ones_in_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    def key(num_key_heads: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.zeros(5, num_key_heads, 8, dtype=dtype)

    small, large = (
        (full(n).plan().groups or ())[3] for n in (blocks.MAX_KERNEL_SOURCES, blocks.MAX_KERNEL_SOURCES + 1)
    )
    assert blocks.runs_in_kernel(key(2), key(2), small)
    assert not blocks.runs_in_kernel(key(2), key(2), large)
    assert not blocks.runs_in_kernel(key(2), key(1), small)  # threads share out the heads of keys
    monkeypatch.setattr(blocks, "has_numba", lambda: False)
    assert not blocks.runs_in_kernel(key(2), key(2), small)


@pytest.mark.parametrize("scale", [0.0, -0.7, 1.3])
def test_any_scale_equals_dense(scale: float, way: None) -> None:
    inputs = inputs_of(GRAPHS["causal"])
    found = []
    for impl in ("blocks", "dense"):
        out = graph_attention(**inputs, graph=GRAPHS["causal"], scale=scale, impl=impl)
        found.append([out, *torch.autograd.grad(out.square().sum(), list(inputs.values()), materialize_grads=True)])
    assert_close(*found, **EXACT)


def test_single_precision_is_as_exact_as_dense() -> None:
    graph = disjoint_union([full(n) for n in (67, 130, 9)]).keep(is_causal)
    inputs = {name: x.detach().float().requires_grad_() for name, x in inputs_of(graph, head_dim=32).items()}
    assert_close(results(graph, "blocks", inputs), results(graph, "dense", inputs), atol=1e-4, rtol=1e-4)


def test_bits_do_not_depend_on_the_number_of_threads() -> None:
    rows, columns = torch.arange(60) // 10, torch.arange(60) % 10
    per_line = [block([*range(10 * r, 10 * r + 10)], [*range(10 * r, 10 * r + 10)]) for r in range(6)]
    across = [block((columns == c).nonzero()[:, 0].tolist(), [60 + c]) for c in range(10)]
    graph = with_blocks(edges("3: 61", 70, 60), *per_line, *across[1:])
    assert int(rows.max()) == 5
    inputs = {name: x.detach().float().requires_grad_() for name, x in inputs_of(graph, 4, 4, 16, 16).items()}
    before, found = torch.get_num_threads(), []
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            found.append(results(graph, "blocks", inputs))
    finally:
        torch.set_num_threads(before)
    for name, one in found[0].items():
        assert torch.equal(one, found[1][name]), name


@pytest.mark.parametrize("where", ["query", "key", "value"])
def test_what_is_not_read_does_not_reach_a_row_of_a_staircase(where: str) -> None:
    graph = full(67).keep(is_causal)
    inputs = {name: x.detach().clone() for name, x in inputs_of(graph).items()}
    inputs[where][40] = torch.nan
    inputs = {name: x.requires_grad_() for name, x in inputs.items()}
    out, lse = attention_with_lse(**inputs, graph=graph, impl="blocks")
    assert out[:40].isfinite().all() and lse[:40].isfinite().all() and out[40].isnan().all()
    found = [torch.autograd.grad(out[:40].square().sum() + lse[:40].sum(), inputs["query"])[0]]
    out, lse = attention_with_lse(**inputs, graph=graph, impl="scatter")
    found += torch.autograd.grad(out[:40].square().sum() + lse[:40].sum(), inputs["query"])
    assert_close(found[0][:40], found[1][:40], **EXACT)
    assert found[1][1:40].abs().min() > 0


# --- as an operator ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("has_lse", [True, False])
@pytest.mark.parametrize("num_more", [None, 0, 3])
@pytest.mark.parametrize("name", ["many sizes", "sampled sources", "overlapping shapes", "a staircase downwards"])
def test_the_operators_pass_opcheck(name: str, num_more: int | None, has_lse: bool, way: None) -> None:
    plan = GRAPHS[name].plan()
    query, key, value = inputs_of(GRAPHS[name], value_dim=7).values()
    rest = (torch.zeros(len(query), 3, 7).double(), torch.zeros(len(query), 3).double()) if has_lse else (None, None)
    rest = tuple(None if x is None else x.requires_grad_() for x in rest)
    covers_once = plan.covers_once and not has_lse
    tables = key, value, None, None
    if num_more is not None:
        tables = tuple(x.detach().clone().requires_grad_() for x in (*cut(key, num_more), *cut(value, num_more)))
        tables = tables[0], tables[2], tables[1], tables[3]
    arguments = (query, *tables, *rest, *plan.groups, covers_once, 0.4)
    torch.library.opcheck(blocks.block_attention, arguments)
    arguments = tuple(x.detach() if isinstance(x, Tensor) else x for x in arguments)
    out, lse = blocks.block_attention(*arguments)
    grad_lse = torch.randn_like(lse) if has_lse else None
    torch.library.opcheck(blocks.block_attention_backward, (torch.randn_like(out), grad_lse, out, lse, *arguments))


def test_one_program_serves_batches_of_any_number_of_sizes() -> None:
    import torch._dynamo

    torch._dynamo.reset()
    run = torch.compile(graph_attention, backend="aot_eager", fullgraph=True)
    for number in range(8):
        graph = full(torch.tensor([67, 70, *range(9, 10 + number), *range(5, 7 + 2 * number)]))
        graph.plan()
        inputs = {name: x.detach().float().requires_grad_() for name, x in inputs_of(graph).items()}
        with torch._dynamo.config.patch(error_on_recompile=number > 1):
            out = run(**inputs, graph=graph)
            grads = torch.autograd.grad(out.square().sum(), list(inputs.values()))
        expected = graph_attention(**inputs, graph=graph, impl="blocks")
        assert_close(out, expected)
        assert_close(grads, torch.autograd.grad(expected.square().sum(), list(inputs.values())))
    torch._dynamo.reset()
