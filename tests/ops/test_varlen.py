"""Blocks as sequences of variable length: on the CPU with dense stand-ins for aten's kernels, which only CUDA has.

The stand-ins take their arguments by the names that the operators' own schemas give them, and hold to what the kernels
promise and ask for: one width, a multiple of 8; int32 offsets; natural log-sum-exp, [num_heads, num_rows] or padded to
32 rows a sequence. test_cuda.py runs the kernels themselves.
"""

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from graphattn.connectivity import full
from graphattn.graph import AttentionGraph, disjoint_union
from graphattn.graph.rules import is_causal
from graphattn.ops import _costs as costs
from graphattn.ops import _dispatch as dispatch
from graphattn.ops import attention_with_lse, graph_attention
from graphattn.ops._costs import constants_for
from graphattn.ops._impl import varlen
from graphattn.ops.capability import trusting
from tests.ops.graphs import GRAPHS as COMMON
from tests.ops.graphs import block, edges, with_blocks

EXACT = {"atol": 1e-10, "rtol": 1e-10}
EVEN = torch.arange(11) % 2 == 0
GRAPHS = {
    "a batch": full(torch.tensor([3, 1, 5, 3, 2, 5, 0, 4])),
    "a causal batch": disjoint_union([full(n) for n in (4, 2, 40, 1)]).keep(is_causal),
    "sampled sources": full(11).keep_sources(EVEN),
    "sampled sources and edges": full(11).keep_sources(EVEN) | edges("0: 1 5; 3: 3 9; 10: 1"),
    "blocks that share targets": with_blocks(
        edges("0: 10; 9: 1 2"), block([0, 1, 2, 3], [0, 1, 2]), block([2, 3, 5], [6, 7, 8, 9]), block([1, 2], [4])
    ),
    "blocks that share sources": with_blocks(edges(""), block([4, 5], [0, 1, 2]), block([1, 0, 7], [1, 2, 9])),
    "nodes out of order": with_blocks(
        edges(""), *(block(one, one) for one in ([0, 4, 9], [1, 2, 10], [3, 5, 6, 7, 8]))
    ),
    **{name: COMMON[name] for name in ("full", "causal", "cross", "blocks and edges", "ragged batch")},
}
Kernel = Callable[..., Any]


# --- stand-ins -----------------------------------------------------------------------------------------------------


def by_name(operator: torch._ops.OpOverload, arguments: tuple[Any, ...], options: dict[str, Any]) -> dict[str, Any]:
    """Binds a call as the schema does."""
    schema = operator._schema.arguments
    positional = [argument.name for argument in schema if not argument.kwarg_only]
    assert len(arguments) <= len(positional) and set(options) <= {argument.name for argument in schema}
    given = dict(zip(positional, arguments)) | options
    assert all(argument.name in given or argument.has_default_value() for argument in schema)
    return given


def spans(ptr: Tensor, most: int, num_rows: int) -> list[slice]:
    assert ptr.dtype == torch.int32 and ptr.is_contiguous()
    at = ptr.tolist()
    assert at[0] == 0 and at[-1] == num_rows and max(b - a for a, b in pairwise(at)) <= most
    return [slice(a, b) for a, b in pairwise(at)]


def readable(*tensors: Tensor) -> None:
    for x in tensors:
        assert x.stride(-1) == 1 and x.shape[-1] % 8 == 0
        assert all(stride % 8 == 0 for stride in x.stride()[:-1]) and x.storage_offset() % 8 == 0


def scores_of(q: Tensor, k: Tensor, causal: bool, scale: float) -> Tensor:
    """[num_rows, num_heads, num_columns] of one sequence."""
    scores = torch.einsum("thd,shd->ths", q, k) * scale
    hidden = torch.ones(len(q), len(k)).triu(1).bool() if causal else torch.zeros(len(q), len(k)).bool()
    return scores.masked_fill(hidden[:, None], -torch.inf)


def dense_forward(q, k, v, rows, columns, causal, scale) -> tuple[Tensor, Tensor]:
    out, lse = torch.full(q.shape, torch.nan, dtype=q.dtype), torch.full(q.shape[:2], torch.nan, dtype=torch.float64)
    k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (k, v))
    for row, column in zip(rows, columns, strict=True):
        scores = scores_of(q[row].double(), k[column].double(), causal, scale)
        weight = torch.softmax(scores, -1).nan_to_num(0.0)
        lse[row] = torch.logsumexp(scores, -1)
        out[row] = torch.einsum("ths,shd->thd", weight, v[column].double()).to(q.dtype)
    return out, lse


def dense_backward(g, q, k, v, o, lse, rows, columns, causal, scale) -> tuple[Tensor, Tensor, Tensor]:
    """Weights are exp(logit − lse), and Σ weight · grad_weight is g · o, whatever lse and o are."""
    repeat = q.shape[1] // k.shape[1]
    grads = [torch.full(x.shape, torch.nan, dtype=torch.float64) for x in (q, k, v)]
    for row, column in zip(rows, columns, strict=True):
        one_g, one_q, one_o = (x[row].double() for x in (g, q, o))
        one_k, one_v = (x[column].double().repeat_interleave(repeat, 1) for x in (k, v))
        weight = torch.exp(scores_of(one_q, one_k, causal, scale) - lse[row].double()[..., None])
        slope = torch.einsum("thd,shd->ths", one_g, one_v) - (one_g * one_o).sum(-1, keepdim=True)
        of_scores = weight * slope * scale
        grads[0][row] = torch.einsum("ths,shd->thd", of_scores, one_k)
        for grad, made in (
            (grads[1], torch.einsum("ths,thd->shd", of_scores, one_q)),
            (grads[2], torch.einsum("ths,thd->shd", weight, one_g)),
        ):
            grad[column] = made.unflatten(1, (-1, repeat)).sum(2)
    return grads[0].to(q.dtype), grads[1].to(q.dtype), grads[2].to(q.dtype)


FLASH, FLASH_BACKWARD = varlen.flash_forward, varlen.flash_backward
EFFICIENT, EFFICIENT_BACKWARD = varlen.efficient_forward, varlen.efficient_backward


def flash_forward(*arguments: Any, **options: Any) -> tuple[Tensor, ...]:
    given = by_name(FLASH, arguments, options)
    q, k, v = (given[name] for name in ("query", "key", "value"))
    readable(q, k, v)
    assert q.shape[2] == k.shape[2] == v.shape[2] and given["max_q"] > 1
    assert given["dropout_p"] == 0 and not given["return_debug_mask"]
    rows = spans(given["cum_seq_q"], given["max_q"], len(q))
    columns = spans(given["cum_seq_k"], given["max_k"], len(k))
    out, lse = dense_forward(q, k, v, rows, columns, given["is_causal"], given["scale"])
    lse = lse.masked_fill(lse == -torch.inf, torch.inf)  # what it says of a row that sees nothing
    return out, lse.to(torch.promote_types(q.dtype, torch.float32)).t().contiguous(), None, None, None


def flash_backward(*arguments: Any, **options: Any) -> tuple[Tensor, Tensor, Tensor]:
    given = by_name(FLASH_BACKWARD, arguments, options)
    q, k, v = (given[name] for name in ("query", "key", "value"))
    readable(q, k, v)
    assert given["logsumexp"].shape == (q.shape[1], q.shape[0]) and given["logsumexp"].is_contiguous()
    rows = spans(given["cum_seq_q"], given["max_q"], len(q))
    columns = spans(given["cum_seq_k"], given["max_k"], len(k))
    upstream = given["grad_out"], q, k, v, given["out"], given["logsumexp"].t()
    return dense_backward(*upstream, rows, columns, given["is_causal"], given["scale"])


def efficient_forward(*arguments: Any, **options: Any) -> tuple[Any, ...]:
    given = by_name(EFFICIENT, arguments, options)
    q, k, v = (given[name][0] for name in ("query", "key", "value"))
    readable(q, k, v)
    assert q.shape[1] == k.shape[1] and given["bias"] is None and given["compute_log_sumexp"]
    rows = spans(given["cu_seqlens_q"], given["max_seqlen_q"], len(q))
    columns = spans(given["cu_seqlens_k"], given["max_seqlen_k"], len(k))
    assert given["max_seqlen_q"] <= len(q) and given["max_seqlen_k"] <= len(k)
    out, lse = dense_forward(q, k, v, rows, columns, bool(given["custom_mask_type"]), given["scale"])
    padded = torch.full((len(rows), q.shape[1], -(-given["max_seqlen_q"] // 32) * 32), torch.nan, dtype=lse.dtype)
    for number, row in enumerate(rows):
        padded[number, :, : row.stop - row.start] = lse[row].t()
    padded = padded.to(torch.promote_types(q.dtype, torch.float32))
    return out[None], padded, None, None, given["max_seqlen_q"], given["max_seqlen_k"]


def efficient_backward(*arguments: Any, **options: Any) -> tuple[Tensor | None, ...]:
    given = by_name(EFFICIENT_BACKWARD, arguments, options)
    g, q, k, v, o = (given[name][0] for name in ("grad_out_", "query", "key", "value", "out"))
    readable(q, k, v)
    assert o.is_contiguous() and not given["bias_requires_grad"]
    rows = spans(given["cu_seqlens_q"], given["max_seqlen_q"], len(q))
    columns = spans(given["cu_seqlens_k"], given["max_seqlen_k"], len(k))
    padded = given["logsumexp"]
    assert padded.shape == (len(rows), q.shape[1], -(-given["max_seqlen_q"] // 32) * 32)
    lse = torch.cat([padded[number, :, : row.stop - row.start].t() for number, row in enumerate(rows)])
    assert int((padded == torch.inf).sum()) >= padded.numel() - lse.numel()
    causal = bool(given["custom_mask_type"])
    made = dense_backward(g, q, k, v, o, lse, rows, columns, causal, given["scale"])
    return *(x[None] for x in made), None


@pytest.fixture(params=["flash", "efficient"])
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Runs plain blocks on the CPU as on CUDA, by the stand-ins of either kernel."""
    monkeypatch.setattr(varlen, "serves", lambda plan, device, dtype: plan.sequences is not None)
    monkeypatch.setattr(varlen, "_takes_flash", lambda q: request.param == "flash")
    for stand_in in (flash_forward, flash_backward, efficient_forward, efficient_backward):
        monkeypatch.setattr(varlen, stand_in.__name__, stand_in)
    return request.param


# --- the same numbers ----------------------------------------------------------------------------------------------


def inputs_of(
    graph: AttentionGraph, heads: int = 3, key_heads: int = 3, head_dim: int = 5, value_dim: int = 5,
    dtype: torch.dtype = torch.float64,
) -> list[Tensor]:  # fmt: skip
    generator = torch.Generator().manual_seed(graph.num_edges)
    shapes = (
        (graph.num_dst_nodes, heads, head_dim),
        (graph.num_src_nodes, key_heads, head_dim),
        (graph.num_src_nodes, key_heads, value_dim),
    )
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for shape in shapes]


def results(graph: AttentionGraph, leaves: list[Tensor], impl: str, weight_of_lse: float, **options) -> list[Tensor]:
    out, lse = attention_with_lse(*leaves, graph, impl=impl, **options)
    generator = torch.Generator().manual_seed(5)
    mixture = torch.randn(out.shape, generator=generator, dtype=torch.float64)
    total = (out.double() * mixture).sum()
    if weight_of_lse:
        total = total + weight_of_lse * torch.where(lse.isfinite(), lse, 0.0).double().square().sum()
    return [out.detach(), lse.detach(), *torch.autograd.grad(total, leaves)]


@pytest.mark.parametrize("weight_of_lse", [0.0, 0.7])
@pytest.mark.parametrize("name", GRAPHS)
def test_sequences_equal_dense(name: str, weight_of_lse: float, kernels: str) -> None:
    graph = GRAPHS[name]
    assert dispatch.takes_varlen(graph, torch.device("cpu"), torch.float64, True)
    leaves = inputs_of(graph)
    ours, right = (results(graph, leaves, impl, weight_of_lse) for impl in ("blocks", "dense"))
    assert_close(ours, right, **EXACT)
    assert all(x.abs().max() > 0 for x in right)


@pytest.mark.parametrize("head_dim, value_dim", [(8, 8), (5, 7), (7, 5), (8, 3), (1, 16)])
@pytest.mark.parametrize("heads, key_heads", [(3, 1), (6, 2)])
def test_every_width_and_grouped_heads_are_served(
    heads: int, key_heads: int, head_dim: int, value_dim: int, kernels: str
) -> None:
    for name in ("a causal batch", "sampled sources and edges"):
        leaves = inputs_of(GRAPHS[name], heads, key_heads, head_dim, value_dim)
        ours, right = (results(GRAPHS[name], leaves, impl, 0.3) for impl in ("blocks", "dense"))
        assert_close(ours, right, **EXACT)


@pytest.mark.parametrize("scale", [0.0, -0.7, 1.3])
def test_any_scale_is_served(scale: float, kernels: str) -> None:
    leaves = inputs_of(GRAPHS["causal"])
    ours, right = (results(GRAPHS["causal"], leaves, impl, 0.0, scale=scale) for impl in ("blocks", "dense"))
    assert_close(ours, right, **EXACT)


@pytest.mark.parametrize("name", ["a batch", "sampled sources and edges", "blocks that share targets"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_goes_to_the_kernels_as_it_is(
    dtype: torch.dtype, name: str, kernels: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    for word in ("_flash", "_efficient"):
        kernel: Kernel = getattr(varlen, word)
        monkeypatch.setattr(varlen, word, lambda q, *rest, kernel=kernel: (seen.append(q.dtype), kernel(q, *rest))[1])
    graph, allowed = GRAPHS[name], 4 * torch.finfo(dtype).eps
    leaves = inputs_of(graph, dtype=dtype)
    ours = results(graph, leaves, "blocks", 0.3)
    right = results(graph, [x.detach().double().requires_grad_() for x in leaves], "dense", 0.3)
    assert seen == [dtype] and ours[1].dtype == torch.float32
    for found, expected in zip(ours, right, strict=True):
        seen_by_both = expected.isfinite()
        assert torch.equal(found.isfinite(), seen_by_both)
        gap = (found.double() - expected)[seen_by_both].norm()
        assert gap <= allowed * expected[seen_by_both].norm()


def test_slices_of_one_packed_tensor_are_read_where_they_lie_or_copied(kernels: str) -> None:
    graph = GRAPHS["a batch"]
    for head_dim in (8, 5):
        packed = torch.randn(graph.num_src_nodes, 3, 3 * head_dim, dtype=torch.float64)
        views = [x.requires_grad_() for x in packed.split(head_dim, 2)]
        ours, right = (results(graph, views, impl, 0.0) for impl in ("blocks", "dense"))
        assert_close(ours, right, **EXACT)
    aligned = torch.zeros(4, 3, 24)[..., 8:16]
    assert varlen._aligned(aligned, None, 8).data_ptr() == aligned.data_ptr()


def test_targets_whose_logits_are_all_minus_infinity_get_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(varlen, "serves", lambda plan, device, dtype: plan.sequences is not None)
    monkeypatch.setattr(varlen, "_takes_flash", lambda q: True)
    monkeypatch.setattr(varlen, "flash_forward", flash_forward)
    graph = GRAPHS["sampled sources and edges"]
    query, key, value = (x.detach().abs() for x in inputs_of(graph))
    key[:, 0] = -torch.inf
    ours, right = (attention_with_lse(query, key, value, graph, impl=impl) for impl in ("blocks", "dense"))
    assert (ours[0][:, 0] == 0).all() and (ours[1][:, 0] == -torch.inf).all()
    assert_close(ours, right, **EXACT)


def test_there_is_no_second_derivative(kernels: str) -> None:
    leaves = inputs_of(GRAPHS["a batch"])
    out = graph_attention(*leaves, GRAPHS["a batch"], impl="blocks")
    (grad,) = torch.autograd.grad(out.square().sum(), leaves[:1], create_graph=True)
    with pytest.raises(NotImplementedError, match='The blocks implementation has no double backward: use impl="sca'):
        torch.autograd.grad(grad.sum(), leaves[1])


# --- who is served -------------------------------------------------------------------------------------------------


@pytest.fixture
def trusted() -> Iterator[None]:
    with trusting("varlen"):
        yield


def test_auto_pads_on_cuda_until_a_calibration_there_proved_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GRAPHATTN_COSTS", str(tmp_path / "costs.json"))
    constants_for.cache_clear()
    call = GRAPHS["a batch"], torch.device("cuda"), torch.float32, True
    assert not dispatch.takes_varlen(*call)
    with trusting("varlen"):
        assert dispatch.takes_varlen(*call)
    assert not dispatch.takes_varlen(*call)
    constants = constants_for("cuda")
    monkeypatch.setattr(costs, "constants_for", lambda device: constants._replace(proved=frozenset({"varlen"})))
    assert dispatch.takes_varlen(*call)


def test_plain_calls_on_cuda_are_served_where_blocks_are_full_or_causal_squares(trusted: None) -> None:
    cuda, staircase = torch.device("cuda"), full(11).keep_sources(EVEN).keep(is_causal)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        assert all(dispatch.takes_varlen(graph, cuda, dtype, True) for graph in GRAPHS.values())
        assert not dispatch.takes_varlen(staircase, cuda, dtype, True)
        assert not dispatch.takes_varlen(full(5, dst_sizes=11).keep(is_causal), cuda, dtype, True)
        assert not dispatch.takes_varlen(edges("0: 1"), cuda, dtype, True)
    batch = GRAPHS["a batch"]
    assert not dispatch.takes_varlen(batch, cuda, torch.float64, True)  # the kernels have none
    assert not dispatch.takes_varlen(batch, cuda, torch.float32, False)  # nor a number per edge
    assert not dispatch.takes_varlen(batch, torch.device("cpu"), torch.float32, True)


def test_an_uneven_batch_in_single_precision_is_left_to_the_padded_way(monkeypatch: pytest.MonkeyPatch) -> None:
    plan, cuda = GRAPHS["a batch"].plan(), torch.device("cuda")
    monkeypatch.setattr(varlen, "MAX_PADDED_LSE", 5 * 7 - 1)  # seven blocks, of five targets at most
    assert not varlen.serves(plan, cuda, torch.float32) and varlen.serves(plan, cuda, torch.bfloat16)
    monkeypatch.setattr(varlen, "MAX_PADDED_LSE", 5 * 7)
    assert varlen.serves(plan, cuda, torch.float32)


# --- as operators --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a batch", "blocks that share sources"])
def test_the_operators_pass_opcheck(name: str, kernels: str) -> None:
    plan = GRAPHS[name].plan()
    query, key, value = inputs_of(GRAPHS[name], value_dim=7)
    rest = torch.zeros(len(query), 3, 7).double().requires_grad_(), torch.zeros(len(query), 3).double().requires_grad_()
    for rest_out, rest_lse in (rest, (None, None)):
        covers_once = plan.covers_once and rest_out is None
        arguments = (query, key, value, rest_out, rest_lse, *plan.sequences, covers_once, 0.4)
        torch.library.opcheck(varlen.varlen_attention, arguments)
        arguments = tuple(x.detach() if isinstance(x, Tensor) else x for x in arguments)
        out, lse = varlen.varlen_attention(*arguments)
        upstream = torch.randn_like(out), torch.randn_like(lse), out, lse
        torch.library.opcheck(varlen.varlen_attention_backward, (*upstream, *arguments))


def test_one_program_serves_batches_of_any_number_of_sizes(kernels: str) -> None:
    torch._dynamo.reset()
    run = torch.compile(graph_attention, backend="aot_eager", fullgraph=True)
    for number in range(6):
        graph = full(torch.tensor([17 + number, *range(2, 5 + number)]))
        graph.plan()
        leaves = inputs_of(graph)
        with torch._dynamo.config.patch(error_on_recompile=number > 1):
            out = run(*leaves, graph, impl="blocks")
            grads = torch.autograd.grad(out.square().sum(), leaves)
        expected = graph_attention(*leaves, graph, impl="dense")
        assert_close(out, expected, **EXACT)
        assert_close(grads, torch.autograd.grad(expected.square().sum(), leaves), **EXACT)
    torch._dynamo.reset()


@pytest.mark.parametrize("name", ["a causal batch", "blocks that share targets"])
@pytest.mark.parametrize("heads, key_heads", [(3, 3), (6, 2)])
def test_torchs_own_account_of_its_kernels_fits_the_call(
    name: str, heads: int, key_heads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On meta tensors aten's operators check the call and tell shapes and dtypes, without a kernel.

    Of `_efficient_attention_backward` torch's account lacks an argument, so its call is held to the schema alone.
    """
    monkeypatch.setattr(varlen, "efficient_backward", lambda *x, **y: (*by_name_of_backward(x, y), None))

    def by_name_of_backward(arguments: tuple[Any, ...], options: dict[str, Any]) -> list[Tensor]:
        given = by_name(EFFICIENT_BACKWARD, arguments, options)
        return [torch.empty_like(given[name]) for name in ("query", "key", "value")]

    plan = GRAPHS[name].plan().map(lambda x: x.to("meta"))
    for dtype, has_flash in ((torch.bfloat16, True), (torch.float16, False), (torch.float32, True)):
        monkeypatch.setattr(varlen, "has_flash", lambda device, answer=has_flash: answer)
        leaves = [x.detach().to("meta") for x in inputs_of(GRAPHS[name], heads, key_heads, 5, 7, dtype)]
        arguments = (*leaves, None, None, *plan.sequences, plan.covers_once, 0.4)
        out, lse = varlen._attention(*arguments)
        assert out.shape == (plan.target_ptr.shape[0] - 1, heads, 7) and out.dtype == dtype
        assert lse.shape == out.shape[:2] and lse.dtype == torch.float32
        grads = varlen._attention_backward(torch.empty_like(out), torch.empty_like(lse), out, lse, *arguments)
        for grad, x in zip(grads, leaves, strict=False):
            assert grad.shape == x.shape and grad.dtype == dtype
