"""Sparse matrices of scipy and torch go there and back; explicit zeros are no edges, other forms are refused."""

import pytest
import torch
from hypothesis import given
from scipy.sparse import coo_array, csr_array, csr_matrix, random_array
from torch.testing import assert_close

from graphattn.graph import AttentionGraph
from tests.strategies import dense, graphs


@given(graphs(heads=False))
def test_scipy_holds_true_where_a_target_attends(graph: AttentionGraph) -> None:
    matrix = graph.to_scipy()
    assert matrix.shape == (graph.num_dst_nodes, graph.num_src_nodes)
    assert_close(torch.from_numpy(matrix.toarray()), dense(graph))
    assert matrix.has_canonical_format
    assert AttentionGraph.from_scipy(matrix) == graph
    assert AttentionGraph.from_scipy(csr_matrix(matrix)) == graph
    assert AttentionGraph.from_scipy(coo_array(matrix)) == graph


def test_explicit_zeros_and_unsorted_columns_of_scipy_are_read_as_they_are_meant() -> None:
    matrix = csr_array(([1.5, 0.0, -2.0], [2, 1, 0], [0, 3, 3]), shape=(2, 3))
    assert AttentionGraph.from_scipy(matrix).edge_index.tolist() == [[0, 2], [0, 0]]
    assert matrix.indices.tolist() == [2, 1, 0]  # untouched
    doubled = coo_array(([1, 1, 1, -1], ([0, 0, 1, 1], [1, 1, 0, 0])), shape=(2, 2))  # scipy adds what stands twice
    assert AttentionGraph.from_scipy(doubled).edge_index.tolist() == [[1], [0]]


@given(graphs())
def test_torch_csr_holds_every_head(graph: AttentionGraph) -> None:
    matrix = graph.to_sparse_csr()
    assert matrix.dtype == torch.bool
    again = AttentionGraph.from_sparse_csr(matrix)
    assert again == graph
    assert_close(again.head_mask, graph.head_mask)
    if graph.head_mask is None:
        assert_close(matrix.to_dense(), dense(graph))
    else:
        assert_close(matrix.values(), graph.head_mask)


def test_a_csr_tensor_of_numbers_multiplies_as_the_mask_does() -> None:
    dense_matrix = torch.tensor(random_array((7, 11), density=0.3, rng=0).toarray())
    graph = AttentionGraph.from_sparse_csr(dense_matrix.to_sparse_csr())
    assert_close(graph.to_mask(), dense_matrix != 0)
    x = torch.arange(11.0)[:, None]
    assert_close(graph.to_sparse_csr().float() @ x, graph.to_mask().float() @ x)


def test_columns_in_any_order_and_stored_zeros_of_torch() -> None:
    matrix = torch.sparse_csr_tensor(
        torch.tensor([0, 3, 3], dtype=torch.int32),
        torch.tensor([2, 1, 0], dtype=torch.int32),
        torch.tensor([1.0, 0.0, 2.0]),
        (2, 3),
        check_invariants=False,
    )
    assert AttentionGraph.from_sparse_csr(matrix).edge_index.tolist() == [[0, 2], [0, 0]]


def test_other_forms_are_refused() -> None:
    with pytest.raises(TypeError, match=r"scipy sparse matrix, got ndarray. Use from_mask\(torch.as_tensor"):
        AttentionGraph.from_scipy(torch.eye(3).numpy())
    with pytest.raises(TypeError, match=r"torch CSR tensor, got torch.strided. Call matrix.to_sparse_csr\(\) first"):
        AttentionGraph.from_sparse_csr(torch.eye(3))
    with pytest.raises(TypeError, match="torch CSR tensor, got csr_array"):
        AttentionGraph.from_sparse_csr(csr_array((2, 2)))
    with pytest.raises(
        ValueError, match=r"matrix must have shape .*, got \[2, 3, 3\]. Convert the matrices of a batch"
    ):
        AttentionGraph.from_sparse_csr(torch.eye(3).expand(2, 3, 3).to_sparse_csr())
    heads = AttentionGraph.from_mask(torch.ones(2, 1, 1, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"to_scipy cannot hold a head_mask. .* or use to_sparse_csr, which keeps all"):
        heads.to_scipy()
