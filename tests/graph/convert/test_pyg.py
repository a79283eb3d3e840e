"""PyG objects go there and back with kinds, batch and plan; what cannot be said in the other form is refused."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from torch.testing import assert_close
from torch_geometric import EdgeIndex
from torch_geometric.data import Batch, Data

from graphattn.graph import AttentionGraph
from tests.strategies import dense, explicit_graphs, graphs, kind_graphs, kinds_at, nodes, square_graphs

EDGES = torch.tensor([[0, 2, 1], [0, 0, 1]])


@given(graphs(heads=False))
def test_edge_index_of_pyg_is_valid_and_comes_back_with_its_plan(graph: AttentionGraph) -> None:
    edge_index = graph.to_edge_index().validate()
    assert edge_index.is_sorted_by_col
    assert tuple(edge_index.sparse_size()) == (graph.num_src_nodes, graph.num_dst_nodes)
    assert_close(edge_index.to_dense().T.bool(), dense(graph))
    again, order = AttentionGraph.from_edge_index(edge_index, (graph.num_src_nodes, graph.num_dst_nodes))
    assert again == graph
    assert order.tolist() == list(range(graph.num_edges))
    assert type(again.edge_index) is torch.Tensor
    assert again._plan is not None
    for mine, theirs in zip(again.plan()[:5], graph.enumerate().plan()[:5]):
        assert_close(mine, theirs)


@given(explicit_graphs())
def test_caches_that_pyg_filled_itself_become_the_plan(graph: AttentionGraph) -> None:
    sizes = (graph.num_src_nodes, graph.num_dst_nodes)
    edge_index = EdgeIndex(graph.edge_index, sparse_size=sizes, sort_order="col").fill_cache_()
    again, _ = AttentionGraph.from_edge_index(edge_index, sizes)
    assert again._plan is not None
    assert again._plan.target_ptr.data_ptr() == edge_index._indptr.data_ptr()  # reused, not recomputed
    for mine, anew in zip(again.plan()[:5], graph.plan()[:5]):
        assert_close(mine, anew)


@pytest.mark.parametrize("sort_order", [None, "row", "col"])
def test_edge_index_in_another_order_or_without_caches_makes_its_own_plan(sort_order: str | None) -> None:
    edges = {None: [[1, 0, 0], [1, 0, 1]], "row": [[0, 0, 1], [0, 1, 1]], "col": [[0, 1, 0], [0, 1, 1]]}[sort_order]
    edge_index = EdgeIndex(torch.tensor(edges), sparse_size=(2, 2), sort_order=sort_order)
    if sort_order is not None:
        edge_index.fill_cache_()
    graph, order = AttentionGraph.from_edge_index(edge_index, 2)
    assert graph.edge_index.tolist() == [[0, 0, 1], [0, 1, 1]]
    assert graph.edge_index.tolist() == torch.tensor(edges)[:, order].tolist()
    assert graph.plan().source_order.tolist() == [0, 1, 2]
    assert graph.plan().target_ptr.tolist() == [0, 1, 3]
    assert AttentionGraph(edge_index.as_tensor()[:, order], 2) == graph


def test_constructor_takes_an_edge_index_of_pyg_as_a_tensor() -> None:
    graph = AttentionGraph(EdgeIndex(EDGES, sparse_size=(3, 2), sort_order="col"), 3, 2)
    assert type(graph.edge_index) is torch.Tensor
    assert graph == AttentionGraph(EDGES, 3, 2)


@given(square_graphs(heads=False) | nodes(square=True).flatmap(kind_graphs))
def test_data_of_pyg_comes_back_with_kinds_and_batch(graph: AttentionGraph) -> None:
    features = torch.arange(graph.num_edges)
    data = graph.to_data(edge_attr=features, y=torch.tensor([1.0]))
    again, order = AttentionGraph.from_data(data)
    assert again == graph
    assert order.tolist() == features.tolist()
    assert (data.num_nodes, data.y.item()) == (graph.num_src_nodes, 1.0)
    assert_close(again.src_ptr, graph.src_ptr)
    if graph.kinds:
        assert kinds_at(again) == kinds_at(graph)


def test_plain_data_becomes_bonds_in_its_own_order() -> None:
    data = Data(edge_index=torch.tensor([[2, 0, 1], [1, 0, 0]]), num_nodes=3, edge_attr=torch.tensor([10, 20, 30]))
    graph, order = AttentionGraph.from_data(data)
    assert graph.kinds == ("bond",)
    assert graph.edge_kind.tolist() == [1, 1, 1]
    assert data.edge_attr[order].tolist() == [20, 30, 10]
    assert graph.edge_index.tolist() == [[0, 1, 2], [0, 0, 1]]
    assert "from_data(3 nodes, 3 edges)" in repr(graph)
    assert AttentionGraph.from_data(data, kind="contact")[0].kinds == ("contact",)


@given(nodes(square=True, batch=False).flatmap(kind_graphs), nodes(square=True, batch=False).flatmap(kind_graphs))
def test_a_batch_of_pyg_is_the_disjoint_union_with_every_kind_renamed(one: AttentionGraph, two: AttentionGraph) -> None:
    graph, _ = AttentionGraph.from_data(Batch.from_data_list([one.to_data(), two.to_data()]))
    shift = one.num_src_nodes
    of_two = {(i + shift, j + shift): names for (i, j), names in kinds_at(two).items()}
    assert kinds_at(graph) == kinds_at(one) | of_two
    assert graph.src_ptr.tolist() == graph.dst_ptr.tolist() == [0, shift, shift + two.num_src_nodes]


def test_batch_without_ptr_is_read_from_the_batch_vector() -> None:
    data = Data(edge_index=torch.tensor([[0, 2], [1, 2]]), num_nodes=4, batch=torch.tensor([0, 0, 2, 2]))
    graph, _ = AttentionGraph.from_data(data)
    assert graph.src_ptr.tolist() == [0, 2, 2, 4]


def test_data_keeps_the_pointers_of_its_edge_index() -> None:
    graph = AttentionGraph(EDGES, 3)
    data = Data(edge_index=graph.to_edge_index(), num_nodes=3)
    assert AttentionGraph.from_data(data)[0]._plan is not None


@pytest.mark.parametrize(
    ("action", "error", "advice"),
    [
        (
            lambda: AttentionGraph.from_data(Data(num_nodes=3)),
            ValueError,
            "must have an edge_index, got none. Set data.",
        ),
        (
            lambda: AttentionGraph.from_data(Data(edge_index=EDGES, num_nodes=3, batch=torch.tensor([1, 0, 1]))),
            ValueError,
            "data.batch must ascend, .* Sort nodes by data.batch first",
        ),
        (
            lambda: AttentionGraph.from_data(
                Data(edge_index=EDGES, num_nodes=3, kinds=["bond"], edge_kind=torch.tensor([1, 1, 4]))
            ),
            ValueError,
            "edge_kind must lie in .*, got 4. Name every bit",
        ),
        (
            lambda: AttentionGraph(EDGES, 3, 2).to_data(),
            ValueError,
            "needs a square graph, got 3 sources and 2 targets. Use to_edge_index",
        ),
        (
            lambda: AttentionGraph(EDGES, 3, head_mask=torch.ones(3, 2, dtype=torch.bool)).to_data(),
            ValueError,
            r"cannot hold a head_mask. Convert graph.of_head\(h\) for each head, or use save",
        ),
    ],
)
def test_data_that_cannot_be_converted_is_refused(action: Callable, error: type[Exception], advice: str) -> None:
    with pytest.raises(error, match=advice):
        action()
