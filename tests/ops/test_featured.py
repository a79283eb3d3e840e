"""Features of edges projected inside the operator; test_attention.py holds the verb with all arguments to `dense`."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from graphattn.connectivity import full, global_tokens, sliding_window
from graphattn.graph import AttentionGraph
from graphattn.ops import attention_with_lse, graph_attention
from graphattn.ops._impl import featured, fused
from graphattn.ops._impl.numba import launch
from tests.ops.graphs import GRAPHS

EXACT = {"atol": 1e-10, "rtol": 1e-10}
HEADS, HEAD_DIM, VALUE_DIM, EDGE_DIM = 3, 5, 9, 3
TERMS = ("edge_attr", "edge_key_weight", "edge_value_weight", "edge_bias", "edge_gate")
PARTS = {
    "both": TERMS,
    "keys": TERMS[:2],
    "values": ("edge_attr", "edge_value_weight"),
    "keys, gate": (*TERMS[:2], "edge_gate"),
}


def inputs_for(
    graph: AttentionGraph, names: tuple[str, ...] = TERMS, dtype: torch.dtype = torch.float64, key_heads: int = HEADS
) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "query": (graph.num_dst_nodes, HEADS, HEAD_DIM),
        "key": (graph.num_src_nodes, key_heads, HEAD_DIM),
        "value": (graph.num_src_nodes, key_heads, VALUE_DIM),
        "edge_attr": (graph.num_edges, EDGE_DIM),
        "edge_key_weight": (HEADS, HEAD_DIM, EDGE_DIM),
        "edge_value_weight": (HEADS, VALUE_DIM, EDGE_DIM),
        "edge_bias": (graph.num_edges, HEADS),
        "edge_gate": (graph.num_edges, 1),
    }
    return {
        name: torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
        for name, shape in shapes.items()
        if name not in TERMS or name in names
    }


def results(graph: AttentionGraph, given: dict[str, Tensor], impl: str, wanted: tuple[str, ...] = ()) -> list[Tensor]:
    """out, lse, and the gradient of everything, or of what is wanted."""
    out, lse = attention_with_lse(graph=graph, impl=impl, **given)
    goal = (out.sin().sum() + lse[lse.isfinite()].square().sum()).double()
    leaves = [given[name] for name in wanted or given]
    return [out.detach(), lse.detach(), *torch.autograd.grad(goal, leaves)]


@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("name", ["window", "causal", "lonely nodes", "bipartite", "head mask", "no edges"])
def test_it_equals_dense_whatever_features_enter(name: str, parts: str) -> None:
    graph = GRAPHS[name]
    given = inputs_for(graph, PARTS[parts])
    assert_close(results(graph, given, "fused"), results(graph, given, "dense"), **EXACT)


# rows of tiles of any height and width, edge by edge, and sources so few that targets are served in parts
SHAPES = {
    "tiles": lambda: full(torch.tensor([1, 2, 3, 5, 7, 11, 13, 33, 70])),
    "window": lambda: sliding_window(301, 9),
    "loose": lambda: sliding_window(150, 12).keep(lambda src, dst: (src * 7 + dst * 3) % 5 > 0),
    "few sources": lambda: full(13, dst_sizes=4096),
}
# beyond what one thread serves, and with last rows that fill no tile when they are cut at another place
LARGE = {
    "one example": lambda: full(331),
    "molecules": lambda: full(torch.tensor([9, 14, 23] * 60)),
    "windows": lambda: sliding_window(3001, 17),
    "hub": lambda: global_tokens(5001, [7]),
    "loose": lambda: sliding_window(3000, 12).keep(lambda src, dst: (src * 7 + dst * 3) % 5 > 0),
}


@pytest.mark.parametrize("key_heads", [HEADS, 1])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_way_through_the_kernels_equals_scatter(shape: str, key_heads: int) -> None:
    graph = SHAPES[shape]().enumerate()
    given = inputs_for(graph, key_heads=key_heads)
    assert_close(results(graph, given, "fused"), results(graph, given, "scatter"), **EXACT)


@pytest.mark.parametrize("parts", ["both", "none"])
@pytest.mark.parametrize("shape", LARGE)
def test_bits_do_not_depend_on_the_number_of_threads(shape: str, parts: str) -> None:
    graph = LARGE[shape]().enumerate()
    given = inputs_for(graph, PARTS.get(parts, ()), dtype=torch.float32)
    before, found = torch.get_num_threads(), []
    try:
        for num_threads in (1, 2, 5):
            torch.set_num_threads(num_threads)
            found.append(results(graph, given, "fused"))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(one, same) for one, same in zip(found[0], other, strict=True))


def test_few_sources_are_served_in_parts_where_edges_want_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    made, stages = list[int](), launch._backward_stages

    def remembered(*arguments):
        found = stages(*arguments)
        made.append(found[1])
        return found

    monkeypatch.setattr(launch, "_backward_stages", remembered)
    graph = full(13, dst_sizes=16_384).enumerate()
    given = inputs_for(graph)
    results(graph, given, "fused")
    for name in TERMS:
        given[name] = given[name].detach()
    results(graph, given, "fused", wanted=("query", "key"))
    assert made == [launch.EDGE_PARTS, launch.MAX_TASKS // HEADS]


@pytest.mark.parametrize("place", ["key", "value", "query"])
def test_a_nan_stays_with_the_edges_that_see_it(place: str) -> None:
    graph = SHAPES["tiles"]().enumerate()
    given = inputs_for(graph)
    with torch.no_grad():
        given[place][30] = torch.nan  # of the example of 13 nodes
    found, expected = (results(graph, given, impl) for impl in ("fused", "scatter"))
    assert_close(found[0], expected[0], equal_nan=True, **EXACT)
    of_attr, of_bias = (grad[graph.edge_index[1] >= 42] for grad in (found[5], found[8]))
    assert of_attr.isfinite().all() and of_bias.isfinite().all() and of_attr.abs().min() > 0
    assert found[5][graph.edge_index[1] == 30].isnan().any()


@pytest.mark.parametrize("wanted", [("query",), ("edge_attr",), ("edge_key_weight",), ("edge_value_weight", "value")])
def test_gradients_come_alone(wanted: tuple[str, ...]) -> None:
    graph = GRAPHS["window"]
    given = inputs_for(graph)
    assert_close(results(graph, given, "fused", wanted), results(graph, given, "dense", wanted), **EXACT)


def test_tables_are_read_as_they_lie() -> None:
    graph = SHAPES["loose"]().enumerate()
    given = inputs_for(graph)
    wide = torch.randn(2 * HEADS, graph.num_edges, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    for table in (wide[:HEADS].t(), wide.t()[:, ::2], wide[:1].t()):
        given |= {"edge_bias": table, "edge_gate": table}
        found = [graph_attention(graph=graph, impl=impl, **given) for impl in ("fused", "dense")]
        assert_close(*found, **EXACT)


@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_what_runs_on_cuda_composes_the_same(parts: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernels of the CPU stand in for those of CUDA, which take the same arguments."""
    monkeypatch.setattr(fused, "attention_on_cuda", fused.attention_on_cpu)
    monkeypatch.setattr(fused, "attention_backward_on_cuda", fused.attention_backward_on_cpu)
    graph = GRAPHS["window"]
    plan, given = graph.plan(), {name: x.detach() for name, x in inputs_for(graph, PARTS[parts], dtype).items()}
    ptrs = plan.target_ptr, plan.src, plan.dst, plan.source_ptr, plan.source_order
    head, terms = (given["query"], given["key"], given["value"], *ptrs), [given.get(name) for name in TERMS]
    numbers = None, None, *fused.NO_WINDOWS, 0.4, None, 0.0, True
    made = [way(*head, *terms, *numbers) for way in (featured.attention_on_cpu, featured.attention_on_cuda)]
    tolerance = EXACT if dtype == torch.float64 else {"atol": 1e-5, "rtol": 1e-5}
    assert_close(*made, **tolerance)
    fake = featured._fake_attention(*head, *terms, *numbers)
    assert [(x.shape, x.dtype) for x in made[1]] == [(x.shape, x.dtype) for x in fake]
    out, out_attr, lse, weights, query_attr = made[0]
    passed = out.cos(), lse.sin(), weights.cos(), out, out_attr, lse, query_attr
    wanted = [True, True, True, *(term is not None for term in terms)]
    grads = [
        way(*passed, *head, *terms, *numbers[:-1], wanted)
        for way in (featured.attention_backward_on_cpu, featured.attention_backward_on_cuda)
    ]
    fake = featured._fake_attention_backward(*passed, *head, *terms, *numbers[:-1], wanted)
    for one, other, expected, want in zip(*grads, fake, wanted, strict=True):
        if want:
            assert_close(one, other, **tolerance)
            assert (other.shape, other.dtype, other.is_contiguous()) == (expected.shape, expected.dtype, True)
        else:
            assert one.numel() == other.numel() == 0


def test_the_operators_keep_the_promises_of_torch_library() -> None:
    graph = GRAPHS["window"]
    plan, given = graph.plan(), inputs_for(graph)
    ptrs = plan.target_ptr, plan.src, plan.dst, plan.source_ptr, plan.source_order
    numbers = None, None, *fused.NO_WINDOWS, 0.4, None, 0.0, True
    terms = [given.get(name) for name in TERMS]
    torch.library.opcheck(
        featured.featured_attention, (given["query"], given["key"], given["value"], *ptrs, *terms, *numbers)
    )


def test_a_second_derivative_says_what_to_do() -> None:
    graph = GRAPHS["window"]
    given = inputs_for(graph)
    out = graph_attention(graph=graph, impl="fused", **given)
    (first,) = torch.autograd.grad(out.sum(), given["edge_attr"], create_graph=True)
    with pytest.raises(
        NotImplementedError, match='The fused implementation has no double backward: use impl="scatter"'
    ):
        torch.autograd.grad(first.sum(), given["query"])
