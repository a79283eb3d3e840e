"""Positions against dense computations with numpy, networkx and PyG, and the sparse path against the dense one."""

import networkx as nx
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torch_geometric.data import Data
from torch_geometric.transforms import AddRandomWalkPE

from graphattn.graph import AttentionGraph, disjoint_union
from graphattn.inputs import positions
from graphattn.inputs.positions import laplacian_positions, random_walk_positions, singular_positions


def graph_of(network: nx.Graph) -> AttentionGraph:
    network = network.to_directed()
    pairs = torch.tensor(list(network.edges), dtype=torch.int64).view(-1, 2).T
    return AttentionGraph.from_edge_index(pairs, network.number_of_nodes())[0]


NETWORKS = {
    "no node": nx.empty_graph(0),
    "one node": nx.empty_graph(1),
    "no edge": nx.empty_graph(3),
    "pair": nx.path_graph(2),
    "path": nx.path_graph(11),
    "ring": nx.cycle_graph(7),
    "random": nx.gnm_random_graph(23, 40, seed=1),
    "two components": nx.disjoint_union(nx.path_graph(5), nx.gnm_random_graph(8, 13, seed=2)),
    "self loop": nx.Graph([(0, 0), (0, 1), (1, 2), (2, 3)]),
    "another path": nx.path_graph(11),
}
GRAPHS = {name: graph_of(network) for name, network in NETWORKS.items()}


def walks_by_powers(network: nx.Graph, num_walks: int) -> Tensor:
    adjacency = nx.to_numpy_array(network)
    step = adjacency / np.maximum(adjacency.sum(1, keepdims=True), 1)
    powers = [np.linalg.matrix_power(step, k).diagonal() for k in range(1, num_walks + 1)]
    return torch.from_numpy(np.stack(powers, 1)).float()


def laplacian_of(network: nx.Graph) -> np.ndarray:
    adjacency = nx.to_numpy_array(network)
    scale = np.diag(1 / np.sqrt(np.maximum(adjacency.sum(1), 1)))
    return np.eye(len(adjacency)) - scale @ adjacency @ scale


def assert_are_eigenvectors(vectors: Tensor, network: nx.Graph, tolerance: float = 1e-5) -> None:
    """Orthonormal, and with the right eigenvalues in the right order: all but what the solver may choose."""
    laplacian, found = laplacian_of(network), vectors.double().numpy()
    values = np.linalg.eigvalsh(laplacian)
    count = min(found.shape[1], max(len(values) - 1, 0))
    assert not found[:, count:].any()
    found = found[:, :count]
    np.testing.assert_allclose(found.T @ found, np.eye(count), atol=tolerance)
    np.testing.assert_allclose(laplacian @ found, found * values[1 : count + 1], atol=tolerance)


# --- random walks --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "no node"])
@pytest.mark.parametrize("num_walks", [1, 2, 5, 8])
def test_walks_return_with_the_diagonal_of_matrix_powers(name: str, num_walks: int) -> None:
    assert_close(random_walk_positions(GRAPHS[name], num_walks), walks_by_powers(NETWORKS[name], num_walks))


def test_walks_agree_with_pyg() -> None:
    graph = GRAPHS["random"]
    data = AddRandomWalkPE(7)(Data(edge_index=graph.edge_index, num_nodes=graph.num_src_nodes))
    assert_close(random_walk_positions(graph, 7), data.random_walk_pe)


def test_walks_follow_the_direction_of_edges() -> None:
    network = nx.DiGraph([(0, 1), (0, 2), (1, 2), (2, 0), (3, 0)])
    graph = AttentionGraph.from_edge_index(torch.tensor(list(network.edges)).T, 4)[0]
    assert_close(random_walk_positions(graph, 6), walks_by_powers(network, 6))
    assert float(random_walk_positions(graph, 2)[:, 1].sum()) == 1.0  # 0 → 2 → 0 by half, 2 → 0 → 2 by half


# --- the Laplacian -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in NETWORKS if name not in ("no node", "self loop")])
@pytest.mark.parametrize("num_eigenvectors", [1, 4, 30])
def test_columns_are_eigenvectors_without_the_first_and_zeros_beyond(name: str, num_eigenvectors: int) -> None:
    assert_are_eigenvectors(laplacian_positions(GRAPHS[name], num_eigenvectors), NETWORKS[name])


def test_eigenvectors_read_a_graph_as_undirected() -> None:
    one_way = AttentionGraph(torch.tensor([[0, 1, 2, 3], [1, 2, 3, 4]]), 5)
    assert_close(laplacian_positions(one_way, 3), laplacian_positions(one_way | one_way.T, 3))


def test_the_largest_entry_of_each_vector_is_positive() -> None:
    vectors = laplacian_positions(GRAPHS["random"], 9)
    largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
    assert bool((largest > 0).all())


# --- singular vectors ----------------------------------------------------------------------------------------------

ONE_WAY = nx.gnp_random_graph(13, 0.3, seed=3, directed=True)


def one_way(network: nx.DiGraph) -> AttentionGraph:
    pairs = torch.tensor(list(network.edges), dtype=torch.int64).view(-1, 2).T
    return AttentionGraph.from_edge_index(pairs, network.number_of_nodes())[0]


def assert_are_singular(found: Tensor, adjacency: np.ndarray, tolerance: float = 1e-5) -> None:
    """Scaled singular vectors, largest first: their products are the best approximation, and each is a pair."""
    num_singular, size = found.shape[1] // 2, len(adjacency)
    left, right = found.double().numpy()[:, :num_singular], found.double().numpy()[:, num_singular:]
    values = np.linalg.svd(adjacency, compute_uv=False)
    expected = np.zeros(num_singular)
    expected[: min(num_singular, size)] = values[:num_singular]
    np.testing.assert_allclose(left.T @ left, np.diag(expected), atol=tolerance)
    np.testing.assert_allclose(right.T @ right, np.diag(expected), atol=tolerance)
    np.testing.assert_allclose(adjacency @ right, left * expected, atol=tolerance)
    if num_singular >= size:
        np.testing.assert_allclose(left @ right.T, adjacency, atol=tolerance)


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "no node"])
@pytest.mark.parametrize("num_singular", [1, 4, 30])
def test_columns_are_scaled_singular_vectors_and_zeros_beyond(name: str, num_singular: int) -> None:
    assert_are_singular(singular_positions(GRAPHS[name], num_singular), nx.to_numpy_array(NETWORKS[name]))


@pytest.mark.parametrize("num_singular", [1, 4, 30])
def test_edges_of_one_direction_have_left_vectors_for_sources_and_right_ones_for_targets(num_singular: int) -> None:
    assert_are_singular(singular_positions(one_way(ONE_WAY), num_singular), nx.to_numpy_array(ONE_WAY))
    found = singular_positions(one_way(nx.DiGraph([(0, 1)])), 1)
    assert_close(found, torch.tensor([[1.0, 0.0], [0.0, 1.0]]))


def test_the_largest_entry_of_each_left_vector_is_positive() -> None:
    for graph in (GRAPHS["random"], one_way(ONE_WAY)):
        left = singular_positions(graph, 7)[:, :7]
        assert bool((left.gather(0, left.abs().argmax(0, keepdim=True)) > 0).all())


def test_renumbering_a_graph_without_odd_rings_renumbers_its_singular_vectors() -> None:
    network = nx.random_labeled_tree(17, seed=6)  # every singular value but zero is there twice
    order = torch.randperm(17, generator=torch.Generator().manual_seed(0)).tolist()
    moved = nx.relabel_nodes(network, {old: new for new, old in enumerate(order)})
    renumbered = nx.Graph()
    renumbered.add_nodes_from(range(17))
    renumbered.add_edges_from(moved.edges)
    ours, theirs = singular_positions(graph_of(network), 4)[order], singular_positions(graph_of(renumbered), 4)
    sign = (ours * theirs).sum(0).sign()  # which of two entries as large is first depends on the numbers
    assert torch.equal(sign[:4], sign[4:])
    assert_close(ours, theirs * sign, rtol=1e-4, atol=1e-5)


# --- batches -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("position", [random_walk_positions, laplacian_positions, singular_positions])
def test_a_graph_has_the_same_positions_alone_and_in_any_batch(position) -> None:
    names = list(GRAPHS)
    batch = disjoint_union([GRAPHS[name] for name in names])
    alone = torch.cat([position(GRAPHS[name], 5) for name in names])
    assert torch.equal(position(batch, 5), alone)


@pytest.mark.parametrize("position", [random_walk_positions, laplacian_positions, singular_positions])
def test_no_columns_and_no_nodes_give_empty_positions(position) -> None:
    width = 8 if position is singular_positions else 4
    assert position(GRAPHS["path"], 0).shape == (11, 0)
    assert position(GRAPHS["no node"], 4).shape == (0, width)


# --- large graphs --------------------------------------------------------------------------------------------------


def test_a_graph_above_512_nodes_has_the_positions_of_the_dense_path(monkeypatch: pytest.MonkeyPatch) -> None:
    network = nx.random_geometric_graph(601, 0.09, seed=4)
    batch = disjoint_union([GRAPHS["random"], graph_of(network), GRAPHS["pair"]])
    walks, vectors = random_walk_positions(batch, 5), laplacian_positions(batch, 4)
    assert_close(walks[23:-2], walks_by_powers(network, 5))
    assert_are_eigenvectors(vectors[23:-2], network)
    monkeypatch.setattr(positions, "MAX_DENSE_NODES", 10_000)
    assert_close(random_walk_positions(batch, 5), walks)
    assert_close(laplacian_positions(batch, 4).abs(), vectors.abs(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", list(NETWORKS))
def test_the_sparse_path_serves_graphs_of_every_shape(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = random_walk_positions(GRAPHS[name], 6)
    monkeypatch.setattr(positions, "MAX_DENSE_NODES", 0)
    monkeypatch.setattr(positions, "ROWS_AT_ONCE", 3)
    assert_close(random_walk_positions(GRAPHS[name], 6), expected)
    if name not in ("no node", "self loop"):
        assert_are_eigenvectors(laplacian_positions(GRAPHS[name], 4), NETWORKS[name])
    if name != "no node":
        assert_are_singular(singular_positions(GRAPHS[name], 3), nx.to_numpy_array(NETWORKS[name]))


def test_the_sparse_path_finds_the_singular_vectors_of_the_dense_one(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs = [GRAPHS["random"], one_way(ONE_WAY)]
    expected = [singular_positions(graph, 4) for graph in graphs]
    monkeypatch.setattr(positions, "MAX_DENSE_NODES", 0)
    for graph, found in zip(graphs, expected, strict=True):
        assert_close(singular_positions(graph, 4), found, rtol=1e-4, atol=1e-5)


def test_a_large_graph_of_many_components_has_eigenvectors(monkeypatch: pytest.MonkeyPatch) -> None:
    network = nx.disjoint_union_all([nx.path_graph(7)] * 40 + [nx.empty_graph(20)])
    monkeypatch.setattr(positions, "MAX_DENSE_NODES", 100)
    assert_are_eigenvectors(laplacian_positions(graph_of(network), 5), network)


# --- errors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("position", [random_walk_positions, laplacian_positions, singular_positions])
def test_rectangular_graphs_and_negative_columns_are_refused(position) -> None:
    with pytest.raises(ValueError, match="graph must be square to have positions, got 3 sources and 2 targets"):
        position(AttentionGraph(torch.empty(2, 0, dtype=torch.int64), 3, 2), 4)
    with pytest.raises(ValueError, match="must be at least 0, got -1"):
        position(GRAPHS["path"], -1)
