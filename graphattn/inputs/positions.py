"""Positions in a graph that need no training: returns of random walks, eigenvectors of the Laplacian, singular vectors.

All work for any graph of a batch, those with one node or none and those smaller than the number of columns included.
Each graph's positions depend on that graph alone, not on the rest of its batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from graphattn.graph import AttentionGraph

if TYPE_CHECKING:
    from scipy.sparse import csr_array

MAX_DENSE_NODES = 512  # above, a graph goes through scipy's sparse routines
ROWS_AT_ONCE = 1024  # of a large graph's walks, which fill up as they grow longer
TIE = 1e-6  # share by which two numbers may differ and still count as equal but for rounding


def random_walk_positions(graph: AttentionGraph, num_walks: int) -> Tensor:
    """Returns the probability that a random walk is back at its start after 1 … num_walks steps.

    Args:
        graph: the steps, usually the bonds of a batch of molecules; square. A walk leaves a node over any of its
            outgoing edges alike, and ends at a node that has none.
        num_walks: number of columns.

    Returns:
        float32 [num_nodes, num_walks]; zeros for a node without edges.

    Raises:
        ValueError: if `graph` is rectangular or `num_walks` negative.

    Source: Dwivedi et al. 2022 (LSPE), sec. 3.2, random walk initialization; diag((D⁻¹A)^k).

    >>> triangle = AttentionGraph(torch.tensor([[1, 2, 0, 2, 0, 1], [0, 0, 1, 1, 2, 2]]), num_src_nodes=3)
    >>> random_walk_positions(triangle, 3)[0]
    tensor([0.0000, 0.5000, 0.2500])
    """
    _check(graph, num_walks, "num_walks")
    positions = torch.zeros(graph.num_src_nodes, num_walks)
    # diag(P^(a + b)) = Σ_j (P^a)_ij (P^b)_ji, so that half of the powers are enough
    for nodes, adjacency in _small(graph):
        step = adjacency / adjacency.sum(-1, keepdim=True).clamp(min=1)
        ahead, back = step, torch.eye(step.shape[-1], dtype=step.dtype)
        for walk in range(num_walks):
            positions[nodes, walk] = (ahead * back.mT).sum(-1).float()
            if walk % 2:
                ahead = ahead @ step
            else:
                back = ahead
    for first, sparse in _large(graph):
        num_nodes = sparse.shape[0]
        sparse = _scaled(1 / np.maximum(sparse.sum(1), 1), sparse)
        for start in range(0, num_nodes, ROWS_AT_ONCE):
            rows = np.arange(start, min(start + ROWS_AT_ONCE, num_nodes))
            onwards, home = sparse[rows], _eye(num_nodes)[:, rows]
            for walk in range(num_walks):
                positions[first + rows, walk] = torch.from_numpy(onwards.multiply(home.T).sum(1)).float()
                if walk % 2:
                    onwards = onwards @ sparse
                else:
                    home = sparse @ home
    return positions


def laplacian_positions(graph: AttentionGraph, num_eigenvectors: int) -> Tensor:
    """Returns eigenvectors of the normalized Laplacian, smallest eigenvalues first, without the first one.

    Args:
        graph: the steps; square, read as undirected.
        num_eigenvectors: number of columns; a graph of n nodes has n − 1, and zeros in the columns beyond.

    Returns:
        float32 [num_nodes, num_eigenvectors], each vector of length one; the first of its largest entries is positive,
        so that the sign is settled. Where an eigenvalue repeats, the choice of its vectors is the solver's.

    Raises:
        ValueError: if `graph` is rectangular or `num_eigenvectors` negative.

    Source: Dwivedi & Bresson 2020, sec. 2; L = I − D^(-1/2) A D^(-1/2), 1 on the diagonal of a node without edges.

    >>> path = AttentionGraph(torch.tensor([[1, 0, 2, 1], [0, 1, 1, 2]]), num_src_nodes=3)
    >>> laplacian_positions(path, 4).abs().round(decimals=3)
    tensor([[0.7070, 0.5000, 0.0000, 0.0000],
            [0.0000, 0.7070, 0.0000, 0.0000],
            [0.7070, 0.5000, 0.0000, 0.0000]])
    """
    _check(graph, num_eigenvectors, "num_eigenvectors")
    positions = torch.zeros(graph.num_src_nodes, num_eigenvectors)
    if not num_eigenvectors:
        return positions
    for nodes, adjacency in _small(graph):
        adjacency = torch.maximum(adjacency, adjacency.mT)
        scale = adjacency.sum(-1).clamp(min=1).rsqrt()
        laplacian = torch.eye(nodes.shape[1], dtype=scale.dtype) - scale[:, :, None] * adjacency * scale[:, None, :]
        kept = torch.linalg.eigh(laplacian).eigenvectors[:, :, 1 : num_eigenvectors + 1]
        positions[nodes, : kept.shape[2]] = _with_settled_sign(kept).float()
    for first, sparse in _large(graph):
        kept = torch.from_numpy(_smallest_eigenvectors(sparse, num_eigenvectors + 1)[:, 1:])
        positions[first : first + sparse.shape[0], : kept.shape[1]] = _with_settled_sign(kept).float()
    return positions


def singular_positions(graph: AttentionGraph, num_singular: int) -> Tensor:
    """Returns left and right singular vectors of the adjacency, scaled by the roots of the largest singular values.

    With A ≈ U Σ Vᵀ, A_ij = 1 for an edge i → j, node i has row i of [U √Σ, V √Σ]: the dot product of the first half of
    i and the second half of j is close to A_ij.

    Args:
        graph: the steps, usually the bonds of a batch of molecules; square.
        num_singular: number of pairs of columns; those beyond the rank of a graph are zeros.

    Returns:
        float32 [num_nodes, 2 num_singular], all left vectors before all right ones, largest singular values first. The
        first of a left vector's largest entries is positive, so that the sign of the pair is settled.

    Raises:
        ValueError: if `graph` is rectangular or `num_singular` negative.

    Source: Hussain et al. 2022 (EGT). Theirs calls a solver for singular vectors, which are any of a plane where a
    singular value repeats, as all of them do in a molecule without odd rings. Here a graph whose edges go both ways has
    its eigenvectors, settled wherever eigenvalues are simple; of an eigenvalue and its negative the positive is first.

    >>> path = AttentionGraph(torch.tensor([[1, 0, 2, 1], [0, 1, 1, 2]]), num_src_nodes=3)
    >>> left, right = singular_positions(path, 2).split(2, dim=1)
    >>> (left @ right.T).round().abs()
    tensor([[0., 1., 0.],
            [1., 0., 1.],
            [0., 1., 0.]])
    """
    _check(graph, num_singular, "num_singular")
    positions = torch.zeros(graph.num_src_nodes, 2 * num_singular)
    if not num_singular:
        return positions
    for nodes, adjacency in _small(graph):
        is_mutual = (adjacency == adjacency.mT).flatten(1).all(1)
        for chosen, decompose in ((is_mutual, _singular_of_mutual), (~is_mutual, _singular)):
            if not bool(chosen.any()):
                continue
            left, right = decompose(adjacency[chosen], num_singular)
            width = left.shape[2]
            positions[nodes[chosen], :width] = left.float()
            positions[nodes[chosen], num_singular : num_singular + width] = right.float()
    for first, sparse in _large(graph):
        left, right = _largest_singular(sparse, num_singular)
        rows, width = slice(first, first + sparse.shape[0]), left.shape[1]
        positions[rows, :width] = left.float()
        positions[rows, num_singular : num_singular + width] = right.float()
    return positions


def _singular_of_mutual(adjacency: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Returns scaled left and right singular vectors [..., num_nodes, count or num_nodes] of symmetric matrices."""
    values, vectors = torch.linalg.eigh(adjacency)
    return _of_eigenvectors(values, vectors, count)


def _of_eigenvectors(values: Tensor, vectors: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Returns scaled singular vectors from eigenvalues [..., n] and eigenvectors [..., num_nodes, n]."""
    rank = values.abs() * torch.where(values > 0, 1 + TIE, 1.0)  # |λ| and |−λ| differ by rounding
    order = torch.argsort(rank, dim=-1, descending=True, stable=True)[..., :count]
    values = values.gather(-1, order)
    vectors = vectors.gather(-1, order[..., None, :].expand(*vectors.shape[:-1], order.shape[-1]))
    left = _with_settled_sign(vectors) * values.abs().sqrt()[..., None, :]
    return left, left * values.sign()[..., None, :]


def _singular(adjacency: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Returns scaled left and right singular vectors [..., num_nodes, count or num_nodes] of any matrices."""
    left, values, right = torch.linalg.svd(adjacency)
    left, values, right = left[..., :count], values[..., :count].sqrt()[..., None, :], right.mT[..., :count]
    settled = _with_settled_sign(left)
    sign = (settled * left).sum(-2, keepdim=True)  # the vectors have length one
    return settled * values, right * sign.round() * values


def _largest_singular(adjacency: csr_array, count: int) -> tuple[Tensor, Tensor]:
    """Returns scaled left and right singular vectors of one graph, [num_nodes, count or num_nodes]."""
    from scipy.sparse.linalg import eigsh, svds

    num_nodes = adjacency.shape[0]
    is_mutual = (adjacency != adjacency.T).nnz == 0
    start = np.random.default_rng(0).standard_normal(num_nodes)
    if count + 1 >= num_nodes // 2:  # Lanczos would need most of the space
        dense = torch.from_numpy(adjacency.toarray())
        return (_singular_of_mutual if is_mutual else _singular)(dense, count)
    if is_mutual:  # one more than asked for, so that of an eigenvalue and its negative the last is settled too
        values, vectors = eigsh(adjacency, k=count + 1, which="LM", v0=start)
        return _of_eigenvectors(torch.from_numpy(values), torch.from_numpy(vectors), count)
    left, values, right = svds(adjacency, k=count, v0=start)
    order = np.argsort(-values)
    left, right = torch.from_numpy(left[:, order]), torch.from_numpy(right[order].T.copy())
    root, settled = torch.from_numpy(values[order]).sqrt(), _with_settled_sign(left)
    return settled * root, right * (settled * left).sum(0).round() * root


def _smallest_eigenvectors(adjacency: csr_array, count: int) -> np.ndarray:
    """Returns eigenvectors of the normalized Laplacian of one graph, [num_nodes, count], smallest eigenvalues first."""
    from scipy.sparse.linalg import eigsh

    num_nodes = adjacency.shape[0]
    adjacency = adjacency.maximum(adjacency.T).tocsr()
    scale = 1 / np.sqrt(np.maximum(adjacency.sum(1), 1))
    laplacian = _eye(num_nodes) - _scaled(scale, _scaled(scale, adjacency).T.tocsr())
    if count >= num_nodes // 2:  # Lanczos would need most of the space
        return np.linalg.eigh(laplacian.toarray())[1][:, :count]
    start = np.random.default_rng(0).standard_normal(num_nodes)
    # shift and invert: the smallest come first; just below zero, where the matrix is not singular
    values, vectors = eigsh(laplacian.tocsc(), k=count, sigma=-0.01, v0=start)
    return vectors[:, np.argsort(values)]


def _with_settled_sign(vectors: Tensor) -> Tensor:
    """Turns each vector [..., num_nodes, num_vectors] so that the first of its largest entries is positive."""
    size = vectors.abs()
    is_large = size >= size.amax(-2, keepdim=True) * (1 - TIE)
    first = is_large.int().argmax(-2, keepdim=True)
    return vectors * torch.where(vectors.gather(-2, first) < 0, -1.0, 1.0)


def _check(graph: AttentionGraph, num_columns: int, name: str) -> None:
    if not graph.is_square:
        raise ValueError(
            f"graph must be square to have positions, got {graph.num_src_nodes} sources and {graph.num_dst_nodes} "
            "targets. Pass the graph whose edges are the steps."
        )
    if num_columns < 0:
        raise ValueError(f"{name} must be at least 0, got {num_columns}. It is a number of columns.")


def _small(graph: AttentionGraph) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields the small graphs of each size together: nodes [num_graphs, size], adjacency [num_graphs, size, size].

    Grouped by size, not padded, so that what a solver returns for a graph does not depend on its neighbours.
    """
    ptr, sizes = graph.src_ptr, torch.diff(graph.src_ptr)
    src, dst = graph.edge_index
    chosen = ((sizes > 0) & (sizes <= MAX_DENSE_NODES)).nonzero()[:, 0]
    chosen = chosen[torch.argsort(sizes[chosen], stable=True)]
    area = sizes[chosen].square()
    start = torch.full_like(sizes, -1)  # of each graph's matrix in one long tensor
    start[chosen] = torch.cumsum(area, 0) - area
    owner = torch.searchsorted(ptr, dst, right=True) - 1
    is_small = start[owner] >= 0
    owner, src, dst = owner[is_small], src[is_small], dst[is_small]
    flat = torch.zeros(int(area.sum()), dtype=torch.float64)  # so that float32 does not show the order of sums
    flat[start[owner] + (src - ptr[owner]) * sizes[owner] + dst - ptr[owner]] = 1.0
    done = first = 0
    for size, count in zip(*(values.tolist() for values in torch.unique(sizes[chosen], return_counts=True))):
        nodes = ptr[chosen[done : done + count], None] + torch.arange(size)
        yield nodes, flat[first : first + count * size * size].view(count, size, size)
        done, first = done + count, first + count * size * size


def _large(graph: AttentionGraph) -> Iterator[tuple[int, csr_array]]:
    """Yields each large graph: its first node, its adjacency [num_nodes, num_nodes] with rows for sources."""
    ptr, sizes = graph.src_ptr, torch.diff(graph.src_ptr)
    large = (sizes > MAX_DENSE_NODES).nonzero()[:, 0].tolist()
    if not large:
        return
    from scipy.sparse import csr_array

    src, dst = graph.edge_index
    for number in large:
        first, size = int(ptr[number]), int(sizes[number])
        edge = slice(*torch.searchsorted(dst, ptr[number : number + 2]).tolist())  # edges come sorted by target
        pair = ((src[edge] - first).numpy(), (dst[edge] - first).numpy())
        yield first, csr_array((np.ones(len(pair[0])), pair), shape=(size, size))


def _scaled(factor: np.ndarray, matrix: csr_array) -> csr_array:
    """Multiplies each row by its factor."""
    from scipy.sparse import diags_array

    return (diags_array(factor) @ matrix).tocsr()


def _eye(size: int) -> csr_array:
    from scipy.sparse import eye_array

    return eye_array(size, format="csr")
