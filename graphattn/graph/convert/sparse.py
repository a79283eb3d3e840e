"""Sparse matrices [targets, sources]: scipy's and torch's CSR. A stored True is an edge, a stored zero is none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from graphattn.graph.validate import MAX_ENUMERATED_EDGES

if TYPE_CHECKING:
    from scipy.sparse import csr_array

    from graphattn.graph.attention_graph import AttentionGraph


def to_scipy(graph: AttentionGraph) -> csr_array:
    """Returns a scipy CSR array, bool [num_dst_nodes, num_src_nodes]; True = attend. Values are in edge order.

    Raises:
        ValueError: for a graph with a head_mask, or above 2^28 edges.

    >>> from graphattn.graph import AttentionGraph
    >>> AttentionGraph(torch.tensor([[0, 1], [0, 0]]), num_src_nodes=2).to_scipy().toarray()
    array([[ True,  True],
           [False, False]])
    """
    import numpy as np
    from scipy.sparse import csr_array

    refuse_heads(graph, "to_scipy", "to_sparse_csr, which keeps all heads")
    src, dst = graph.edge_index.cpu()
    values = np.ones(src.numel(), dtype=bool)
    shape = (graph.num_dst_nodes, graph.num_src_nodes)
    return csr_array((values, src.numpy(), target_ptr(dst, graph.num_dst_nodes).numpy()), shape=shape)


def from_scipy(cls: type[AttentionGraph], matrix: Any) -> AttentionGraph:
    """Returns the graph of a scipy sparse matrix or array of any format, [num_dst_nodes, num_src_nodes].

    An entry that is not zero is an edge; explicit zeros are none.

    Raises:
        TypeError: if it is no scipy sparse matrix.
    """
    from scipy.sparse import csr_array, issparse

    if not issparse(matrix) or len(matrix.shape) != 2:
        raise TypeError(
            f"matrix must be a two-dimensional scipy sparse matrix, got {type(matrix).__name__}. "
            "Use from_mask(torch.as_tensor(array)) for a dense one."
        )
    entries = csr_array(matrix, copy=True)
    entries.sum_duplicates()  # sorts the columns of each row as well
    entries.eliminate_zeros()
    count = torch.from_numpy(entries.indptr).long().diff()
    src = torch.from_numpy(entries.indices).long()
    dst = torch.repeat_interleave(count, output_size=src.numel())
    origin = f"from_scipy({' × '.join(map(str, matrix.shape))})"
    return cls.trusted(torch.stack([src, dst]), matrix.shape[1], matrix.shape[0], origin=origin)


def to_sparse_csr(graph: AttentionGraph) -> Tensor:
    """Returns a torch CSR tensor, bool [num_dst_nodes, num_src_nodes] or [..., num_heads]; True = attend.

    With a head_mask each stored entry is the row of it, a dense dimension behind the two sparse ones.

    Raises:
        ValueError: above 2^28 edges.
    """
    src, dst = graph.edge_index
    values = graph.head_mask
    if values is None:
        values = torch.ones(src.numel(), dtype=torch.bool, device=graph.device)
    size = (graph.num_dst_nodes, graph.num_src_nodes, *values.shape[1:])
    return torch.sparse_csr_tensor(
        target_ptr(dst, graph.num_dst_nodes),
        src,
        values,
        size,
        check_invariants=False,  # edges are canonical
    )


def from_sparse_csr(cls: type[AttentionGraph], matrix: Tensor) -> AttentionGraph:
    """Returns the graph of a torch CSR tensor [num_dst_nodes, num_src_nodes], or [..., num_heads] as above.

    An entry that is not zero is an edge; explicit zeros are none.

    Raises:
        TypeError: if it is no CSR tensor.
        ValueError: if it has more dimensions, or lists an entry twice.
    """
    if not isinstance(matrix, Tensor) or matrix.layout != torch.sparse_csr:
        got = matrix.layout if isinstance(matrix, Tensor) else type(matrix).__name__
        raise TypeError(f"matrix must be a torch CSR tensor, got {got}. Call matrix.to_sparse_csr() first.")
    values = matrix.values()
    if matrix.crow_indices().dim() != 1 or values.dim() > 2:
        raise ValueError(
            f"matrix must have shape [num_dst_nodes, num_src_nodes] or [..., num_heads], got {list(matrix.shape)}. "
            "Convert the matrices of a batch one by one and join them with disjoint_union."
        )
    stored = values != 0
    kept = stored if stored.dim() == 1 else stored.any(1)
    dst = torch.repeat_interleave(torch.diff(matrix.crow_indices().long()), output_size=kept.numel())
    edges = torch.stack([matrix.col_indices().long()[kept], dst[kept]])
    num_dst, num_src = matrix.shape[:2]
    graph, order = cls.from_edge_index(edges, (num_src, num_dst))
    if stored.dim() == 2:
        graph.__dict__["_head_mask"] = stored[kept][order]
        graph.__dict__["_plan"] = None
    return graph.named(f"from_sparse_csr({' × '.join(map(str, matrix.shape))})")


def target_ptr(dst: Tensor, num_dst_nodes: int) -> Tensor:
    """Returns the offsets of each target's edges, int64 [num_dst_nodes + 1], from ascending targets."""
    assert dst.numel() <= MAX_ENUMERATED_EDGES
    return torch.cat([dst.new_zeros(1), torch.bincount(dst, minlength=num_dst_nodes).cumsum(0)])


def refuse_heads(graph: AttentionGraph, method: str, instead: str) -> None:
    """Raises if heads see different edges, naming the conversion that can say so."""
    if graph._head_mask is not None:
        raise ValueError(f"{method} cannot hold a head_mask. Convert graph.of_head(h) for each head, or use {instead}.")
