"""networkx graphs go there and back with kinds and heads; names of nodes and undirected edges are read as meant."""

import networkx
import pytest
import torch
from hypothesis import given

from graphattn.graph import AttentionGraph
from tests.strategies import graphs, kind_graphs, kinds_at


@given(graphs() | kind_graphs())
def test_a_graph_comes_back_with_kinds_and_heads(graph: AttentionGraph) -> None:
    made = graph.to_networkx()
    assert made.number_of_edges() == graph.num_edges
    again = AttentionGraph.from_networkx(made)
    assert again == graph
    assert again.kinds == graph.kinds
    assert kinds_at(again) == kinds_at(graph)
    assert (again.head_mask is None) == (graph.head_mask is None)


def test_edges_point_from_source_to_target() -> None:
    square = AttentionGraph(torch.tensor([[0, 2], [1, 1]]), 3)
    assert set(square.to_networkx().edges) == {(0, 1), (2, 1)}
    wide = AttentionGraph(torch.tensor([[0, 2], [1, 1]]), 3, 2)
    assert set(wide.to_networkx().edges) == {(("src", 0), ("dst", 1)), (("src", 2), ("dst", 1))}
    assert networkx.is_bipartite(wide.to_networkx())


def test_nodes_are_numbered_as_they_stand_and_undirected_edges_become_two() -> None:
    path = networkx.Graph([("c", "a"), ("a", "b"), ("b", "b")])  # nodes c, a, b
    graph = AttentionGraph.from_networkx(path)
    assert set(zip(*graph.edge_index.tolist())) == {(0, 1), (1, 0), (1, 2), (2, 1), (2, 2)}


def test_nodes_marked_bipartite_are_two_sides_only_where_every_edge_crosses_forward() -> None:
    marked = networkx.DiGraph()
    marked.add_nodes_from("ab", bipartite=0)
    marked.add_nodes_from("xyz", bipartite=1)
    marked.add_edge("b", "z")
    graph = AttentionGraph.from_networkx(marked)
    assert (graph.num_src_nodes, graph.num_dst_nodes, graph.edge_index.tolist()) == (2, 3, [[1], [2]])
    marked.add_edge("x", "a")
    assert AttentionGraph.from_networkx(marked).num_src_nodes == 5


def test_parallel_edges_and_other_objects_are_refused() -> None:
    with pytest.raises(ValueError, match=r"no parallel edges, got a multigraph. Pass networkx.DiGraph\(graph\)"):
        AttentionGraph.from_networkx(networkx.MultiDiGraph([(0, 1), (0, 1)]))
    with pytest.raises(TypeError, match=r"must be a networkx graph, got Tensor. Use from_edge_index"):
        AttentionGraph.from_networkx(torch.eye(2))
