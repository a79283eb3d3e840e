import re

import pytest
import torch
from torch_geometric import EdgeIndex
from torch_geometric.data import Batch, Data

from graphattn.connectivity import bonds, sliding_window
from graphattn.graph import AttentionGraph, disjoint_union


def molecule(num_atoms: int, seed: int) -> Data:
    """A ring with its edges in random order, and one atom that is bonded to nothing."""
    ring = torch.arange(num_atoms - 1)
    one_way = torch.stack([ring, ring.roll(1)])
    edge_index = torch.cat([one_way, one_way.flip(0)], 1)
    shuffled = torch.randperm(edge_index.shape[1], generator=torch.Generator().manual_seed(seed))
    return Data(edge_index=edge_index[:, shuffled], num_nodes=num_atoms)


def test_every_bond_becomes_one_edge() -> None:
    data = molecule(7, seed=0)
    graph = bonds(data)
    mask = torch.zeros(7, 7, dtype=torch.bool)
    mask[data.edge_index[1], data.edge_index[0]] = True
    torch.testing.assert_close(graph.to_mask(), mask)
    assert graph.num_edges == data.num_edges
    assert graph.kinds == ("bond",)
    assert graph.edge_kind.unique().tolist() == [1]
    assert repr(graph).startswith("AttentionGraph(bonds(7):")


def test_one_way_edges_keep_their_direction() -> None:
    graph = bonds(Data(edge_index=torch.tensor([[2], [0]]), num_nodes=3))
    assert graph.edge_index.tolist() == [[2], [0]]


def test_a_batch_is_the_disjoint_union_of_its_molecules() -> None:
    molecules = [molecule(num_atoms, seed=num_atoms) for num_atoms in (5, 7, 11)]
    molecules.insert(1, Data(edge_index=torch.empty(2, 0, dtype=torch.int64), num_nodes=0))
    graph = bonds(Batch.from_data_list(molecules))
    assert graph == disjoint_union([bonds(one) for one in molecules])
    assert graph.src_ptr.tolist() == graph.dst_ptr.tolist() == [0, 5, 5, 12, 23]
    assert "bonds(4 graphs)" in repr(graph)


def test_edges_agree_with_those_of_from_data_whose_order_serves_their_features() -> None:
    data = molecule(11, seed=3)
    graph, order = AttentionGraph.from_data(data)
    assert bonds(data) == graph
    torch.testing.assert_close(bonds(data).edge_index, data.edge_index[:, order])


def test_atoms_without_bonds_are_nodes_without_edges() -> None:
    graph = bonds(Data(edge_index=torch.empty(2, 0, dtype=torch.int64), num_nodes=3))
    assert (graph.num_src_nodes, graph.num_edges) == (3, 0)


def test_kinds_written_by_to_data_come_back() -> None:
    graph = sliding_window(5, radius=1) | bonds(molecule(5, seed=1))
    back = bonds(graph.to_data())
    assert back == graph
    assert back.kinds == ("window", "bond")
    torch.testing.assert_close(back.edge_kind, graph.edge_kind)


def test_an_edge_index_that_knows_its_order_is_taken_as_it_is() -> None:
    edge_index = EdgeIndex(sliding_window(5, radius=1).edge_index, sparse_size=(5, 5), sort_order="col")
    assert bonds(Data(edge_index=edge_index, num_nodes=5)) == sliding_window(5, radius=1)


def test_what_is_no_data_is_refused_with_advice() -> None:
    with pytest.raises(
        TypeError, match=re.escape("got Tensor. For a bare tensor call AttentionGraph.from_edge_index(")
    ):
        bonds(torch.zeros(2, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match=re.escape("Set data.edge_index to an int64 tensor [2, num_edges].")):
        bonds(Data(x=torch.zeros(3, 2)))


def test_a_bond_listed_twice_is_refused_with_advice_that_helps() -> None:
    data = Data(edge_index=torch.tensor([[0, 0], [1, 1]]), num_nodes=2)
    with pytest.raises(ValueError, match="edge_index must list each edge once"):
        bonds(data)
    assert bonds(data.coalesce()).num_edges == 1
