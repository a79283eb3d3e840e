"""Conversions go there and back without loss; what cannot be said in the other form, or read, is refused."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from safetensors.torch import save_file
from torch.testing import assert_close
from torch_geometric import EdgeIndex
from torch_geometric.data import Batch, Data

from graphattn.graph import AttentionGraph, bicliques
from tests.strategies import dense, explicit_graphs, graphs, kind_graphs, kinds_at, nodes, square_graphs

EDGES = torch.tensor([[0, 2, 1], [0, 0, 1]])


@given(graphs())
def test_mask_says_true_where_a_target_attends(graph: AttentionGraph) -> None:
    mask = graph.to_mask()
    assert_close(mask, dense(graph))
    assert AttentionGraph.from_mask(mask) == graph


@given(graphs())
def test_mha_mask_says_true_where_attention_is_blocked(graph: AttentionGraph) -> None:
    assert_close(graph.to_mha_mask(), ~dense(graph))
    assert AttentionGraph.from_mha_mask(graph.to_mha_mask()) == graph


def test_mha_mask_blocks_the_same_pairs_in_torch() -> None:
    graph = AttentionGraph(torch.tensor([[1, 0, 2], [0, 1, 2]]), 3)
    layer = torch.nn.MultiheadAttention(2, 1, batch_first=True)
    x = torch.randn(1, 3, 2, generator=torch.Generator().manual_seed(0))
    _, weights = layer(x, x, x, attn_mask=graph.to_mha_mask())
    assert_close(weights[0], graph.to_mask().float())  # one source each, so each weight is one


def test_a_mask_of_numbers_or_of_a_batch_is_refused() -> None:
    for convert in (AttentionGraph.from_mask, AttentionGraph.from_mha_mask):
        with pytest.raises(
            TypeError, match=r"mask must have dtype torch.bool, got torch.float32. Say which value means"
        ):
            convert(torch.zeros(3, 3))
        with pytest.raises(
            ValueError, match=r"mask must have shape .*, got \[2, 1, 3, 3\]. Convert the masks of a batch"
        ):
            convert(torch.zeros(2, 1, 3, 3, dtype=torch.bool))


def test_a_mask_too_large_is_refused_with_its_size() -> None:
    size = 2**16
    ptr, node = torch.tensor([0, size]), torch.arange(size)
    graph = AttentionGraph(torch.empty(2, 0, dtype=torch.int64), size, blocks=bicliques(ptr, node, ptr, node))
    with pytest.raises(
        ValueError, match=r"mask of 65536 × 65536 would take 4.0 GiB, above the limit of 1 GiB. Pass the"
    ):
        graph.to_mask()


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
            "cannot hold a head_mask. Convert one head's graph at a time, or use save",
        ),
    ],
)
def test_data_that_cannot_be_converted_is_refused(action: Callable, error: type[Exception], advice: str) -> None:
    with pytest.raises(error, match=advice):
        action()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(graphs())
def test_a_saved_graph_comes_back_whole(tmp_path: Path, graph: AttentionGraph) -> None:
    path = tmp_path / "graph.safetensors"
    graph.save(path)
    again = AttentionGraph.load(path)
    assert again == graph
    assert repr(again) == repr(graph)
    assert (again.blocks is None) == (graph.blocks is None)
    assert kinds_at(again) == kinds_at(graph)
    assert again.kinds == graph.kinds
    assert_close((again.src_ptr, again.dst_ptr), (graph.src_ptr, graph.dst_ptr))
    assert_close(again.head_mask, graph.head_mask)
    assert os.listdir(tmp_path) == ["graph.safetensors"]  # no half file beside it
    graph.save(str(path))  # over itself


def saved(path: Path) -> bytes:
    ptr, node = torch.tensor([0, 40]), torch.arange(40)
    AttentionGraph(EDGES + 40, 50, 50, blocks=bicliques(ptr, node, ptr, node), kinds=("full",)).save(path)
    return path.read_bytes()


@pytest.mark.parametrize("length", [0, 7, 100, -8])
def test_a_truncated_file_is_refused(length: int, tmp_path: Path) -> None:
    path = tmp_path / "graph.safetensors"
    path.write_bytes(saved(path)[:length])
    with pytest.raises(
        ValueError, match=r"graph.safetensors is not a readable safetensors file .* Save the graph again"
    ):
        AttentionGraph.load(path)


def test_a_file_with_damaged_bytes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "graph.safetensors"
    content = bytearray(saved(path))
    content[-400:] = bytes(255 for _ in range(400))
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"graph.safetensors is damaged \(.* must .*\). Save the graph again"):
        AttentionGraph.load(path)


@pytest.mark.parametrize(
    ("tensors", "header", "advice"),
    [
        ({"weight": EDGES}, None, r"must be a graph of format graphattn.AttentionGraph.1, got None. Write it with"),
        (
            {"weight": EDGES},
            {"format": "pt"},
            "must be a graph of format .*, got 'pt'. Write it with AttentionGraph.save",
        ),
        ({"weight": EDGES}, {"format": "graphattn.AttentionGraph.1"}, r"lacks \['edge_index'\]. Save the graph again"),
        (
            {"edge_index": EDGES, "blocks.dst": EDGES[0].clone()},
            {"format": "graphattn.AttentionGraph.1"},
            r"lacks \['blocks.dst_ptr', 'blocks.kind', .*\]. Save the graph again",
        ),
        (
            {"edge_index": EDGES},
            {"format": "graphattn.AttentionGraph.1"},
            "has a damaged header .*num_src_nodes.* Save",
        ),
        (
            {"edge_index": EDGES.float()},
            {
                "format": "graphattn.AttentionGraph.1",
                "num_src_nodes": "3",
                "num_dst_nodes": "2",
                "kinds": "[]",
                "origin": "",
            },
            r"is damaged \(edge_index must have dtype torch.int64, got torch.float32.*\). Save the graph again",
        ),
    ],
)
def test_a_foreign_or_incomplete_file_is_refused(
    tensors: dict[str, torch.Tensor], header: dict[str, str] | None, advice: str, tmp_path: Path
) -> None:
    save_file(tensors, tmp_path / "other.safetensors", metadata=header)
    with pytest.raises(ValueError, match=rf"other.safetensors {advice}"):
        AttentionGraph.load(tmp_path / "other.safetensors")


def test_text_is_no_graph_and_a_missing_file_says_how_to_write_one(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not a graph at all, and long enough to hold a header")
    with pytest.raises(ValueError, match=r"notes.txt is not a readable safetensors file .* Save the graph again"):
        AttentionGraph.load(tmp_path / "notes.txt")
    with pytest.raises(FileNotFoundError, match=r"no such file: .*missing. Write one with graph.save\(path\)"):
        AttentionGraph.load(tmp_path / "missing")
    with pytest.raises(FileNotFoundError, match=r"no such file: .*"):
        AttentionGraph.load(tmp_path)


def test_a_failed_save_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    graph = AttentionGraph(EDGES, 3, 2)
    with pytest.raises(Exception, match=r"(?i)no such file"):
        graph.save(tmp_path / "no" / "folder.safetensors")
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match=r"(?i)directory"):
        graph.save(tmp_path / "taken")
    assert os.listdir(tmp_path) == ["taken"]
