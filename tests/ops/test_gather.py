"""What `gather` promises beyond the meaning of the verb, and who may use it; test_attention.py holds it to `dense`."""

import contextlib
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from graphattn.connectivity import full, sliding_window
from graphattn.graph import AttentionGraph
from graphattn.ops import _dispatch as dispatch
from graphattn.ops import attention_weights, attention_with_lse, graph_attention
from graphattn.ops._impl import gather


def k_sources(num_dst: int, k: int, num_src: int | None = None, seed: int = 0) -> AttentionGraph:
    """Every target reads k sources, drawn at random."""
    num_src = num_dst if num_src is None else num_src
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.rand(num_dst, num_src, generator=generator).topk(k, 1).indices.sort(1).values
    return AttentionGraph(torch.stack([drawn.flatten(), torch.arange(num_dst).repeat_interleave(k)]), num_src, num_dst)


def terms_of(graph: AttentionGraph, heads: int, dim: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """Every float argument of the verb, leaves that ask for a gradient."""
    generator = torch.Generator().manual_seed(1)
    num_edges, edge_dim = graph.num_edges, 2
    shapes = {
        "query": (graph.num_dst_nodes, heads, dim),
        "key": (graph.num_src_nodes, heads, dim),
        "value": (graph.num_src_nodes, heads, dim),
        "edge_bias": (num_edges, heads),
        "edge_gate": (num_edges, 1),
        "edge_attr": (num_edges, edge_dim),
        "edge_key_weight": (heads, dim, edge_dim),
        "edge_value_weight": (heads, dim, edge_dim),
    }
    return {
        name: torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
        for name, shape in shapes.items()
    }


# --- the same bits -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def results(graph: AttentionGraph, inputs: dict[str, Tensor]) -> list[Tensor]:
    out, lse = attention_with_lse(
        **inputs, graph=graph, logit_clip=4.0, dropout_p=0.3, seed=torch.tensor(7), impl="gather"
    )
    return [out, lse, *torch.autograd.grad(out.square().sum() + lse.sum(), list(inputs.values()))]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "num_dst, k, num_src, heads, dim",
    [(1009, 16, 1009, 4, 16), (67, 61, 67, 8, 64), (1, 4099, 5003, 2, 3), (2, 8009, 9001, 1, 16), (4001, 3, 13, 2, 5)],
)
def test_bits_are_the_same_at_any_number_of_threads_and_on_every_repeat(
    num_dst: int, k: int, num_src: int, heads: int, dim: int, dtype: torch.dtype
) -> None:
    graph = k_sources(num_dst, k, num_src)
    inputs = terms_of(graph, heads, dim, dtype)
    with threads(1):
        expected = results(graph, inputs)
    for number in (2, 5, 2, 1):
        with threads(number):
            again = results(graph, inputs)
        assert all(torch.equal(one, other) for one, other in zip(expected, again))


def test_the_backward_is_one_of_the_deterministic_algorithms_of_torch() -> None:
    graph = k_sources(67, 5)
    inputs = terms_of(graph, 3, 5, torch.float32)
    expected = results(graph, inputs)
    torch.use_deterministic_algorithms(True)
    try:
        again = results(graph, inputs)
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(one, other) for one, other in zip(expected, again))


# --- the degree ----------------------------------------------------------------------------------------------------


def test_the_degree_is_found_once_with_the_plan_and_moves_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = k_sources(11, 3)
    assert graph.plan().degree == 3
    query = torch.randn(11, 2, 5)
    expected = graph_attention(query, query, query, graph, impl="gather")
    moved = graph.to("cpu")

    def refuse(*arguments: object) -> None:
        raise AssertionError("a tensor was read on the host")

    for name in ("__bool__", "__int__", "__index__", "item", "tolist"):
        monkeypatch.setattr(Tensor, name, refuse)
    again = graph_attention(query, query, query, moved, impl="gather")
    monkeypatch.undo()
    assert moved.plan().degree == 3 and torch.equal(again, expected)


@pytest.mark.parametrize(
    "graph, degree",
    [
        (sliding_window(11, 2), None),
        (full(7), 7),
        (full(torch.tensor([3, 3])), 3),
        (full(torch.tensor([3, 4])), None),
        (full(5, dst_sizes=3), 5),
        (k_sources(11, 3) | k_sources(11, 3), 3),
        (k_sources(11, 4).keep(lambda src, dst: dst > 0), None),  # 40 edges of 11 targets
        (AttentionGraph(torch.tensor([[0, 1], [1, 1]]), 2), None),  # as many edges as targets, of one only
        (AttentionGraph(torch.empty(2, 0, dtype=torch.int64), 5), None),
        (AttentionGraph(torch.empty(2, 0, dtype=torch.int64), 0), None),
    ],
)
def test_the_degree_is_that_of_every_target_blocks_included(graph: AttentionGraph, degree: int | None) -> None:
    assert graph.plan().degree == graph.enumerate().plan().degree == degree


def test_the_degree_of_a_sorted_edge_index_comes_with_its_pointers() -> None:
    geometric = pytest.importorskip("torch_geometric")
    edges = geometric.EdgeIndex(k_sources(11, 3).edge_index, sparse_size=(11, 11), sort_order="col")
    edges.fill_cache_()
    graph, _ = AttentionGraph.from_edge_index(edges, 11)
    assert graph.plan().degree == 3


def test_other_degrees_are_refused_with_the_way_out() -> None:
    query = torch.randn(11, 2, 5)
    with pytest.raises(
        ValueError,
        match=r"impl='gather' cannot serve this call: it needs the same number of incoming edges, at least one, at "
        r"every target\. These can: dense, scatter",
    ):
        graph_attention(query, query, query, sliding_window(11, 2), impl="gather")
    with pytest.raises(ValueError, match="same number of incoming edges"):
        attention_weights(query, query, sliding_window(11, 2), impl="gather")


def test_auto_prefers_it_to_scatter_where_no_kernel_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "has_numba", lambda: False)
    sizes = dispatch.Sizes(8, 16, 16, torch.float32, torch.device("cpu"))
    assert dispatch.choose(k_sources(1009, 16), sizes, True) == "gather"
    assert dispatch.choose(sliding_window(1009, 16), sizes, True) == "scatter"


# --- memory and dtypes ---------------------------------------------------------------------------------------------


def test_it_has_no_array_of_targets_times_sources() -> None:
    num_nodes = 2**18  # whose square would be 2^36 numbers
    graph = AttentionGraph.trusted(torch.arange(num_nodes).repeat(2, 1), num_nodes)
    value = torch.randn(num_nodes, 1, 1)
    assert_close(graph_attention(value, value, value, graph, impl="gather"), value)


def test_logits_of_grouped_heads_are_in_the_order_of_edges() -> None:
    graph = k_sources(11, 3, 13)
    query, key = torch.randn(11, 6, 5), torch.randn(13, 2, 5)
    src, dst = graph.edge_index
    expected = (query[dst] * key.repeat_interleave(3, 1)[src]).sum(-1)
    assert_close(gather.logits(query, key, graph.plan(), scale=1.0), expected)


# --- compilation ---------------------------------------------------------------------------------------------------


@pytest.fixture
def dynamo() -> Iterator[None]:
    import torch._dynamo

    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def run_compiled(graphs: list[AttentionGraph], warm_up: int, impl: str = "gather", backend: str = "aot_eager") -> None:
    """Forward and backward in one program; from call `warm_up` on, another program is an error."""
    compiled = torch.compile(graph_attention, backend=backend, fullgraph=True)
    for number, graph in enumerate(graphs):
        graph.plan()
        leaves = [torch.randn(graph.num_src_nodes, 3, 5, requires_grad=True) for _ in range(3)]
        with torch._dynamo.config.patch(error_on_recompile=number >= warm_up):
            out = compiled(*leaves, graph, impl=impl)
        expected = graph_attention(*leaves, graph, impl="gather")
        assert_close(out, expected)
        assert_close(torch.autograd.grad(out.sum(), leaves), torch.autograd.grad(expected.sum(), leaves))


def test_one_program_serves_ten_sizes_of_one_degree(dynamo: None) -> None:
    run_compiled([k_sources(67 + 3 * number, 5) for number in range(10)], warm_up=2)


def test_auto_takes_it_in_a_program_where_no_kernel_is_installed(dynamo: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "has_numba", lambda: False)
    monkeypatch.delattr(dispatch.scatter, "attention")
    run_compiled([k_sources(67, 5, seed=number) for number in range(4)], warm_up=1, impl="auto")


@pytest.mark.slow
def test_inductor_gives_the_same(dynamo: None) -> None:
    run_compiled([k_sources(67 + 3 * number, 5) for number in range(4)], warm_up=2, backend="inductor")


def test_one_program_serves_ten_graphs_of_one_size_without_a_recompilation(dynamo: None) -> None:
    run_compiled([k_sources(67, 5, seed=number) for number in range(10)], warm_up=1)
