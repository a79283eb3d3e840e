"""Walks over the ranks of pathways: every edge goes upwards, so one pass over the ranks reaches all there is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from scipy.sparse import csr_array

    from graphattn.viz.pathways import Pathways


class Entry(NamedTuple):
    """The edges that enter one rank, as a matrix."""

    sources: np.ndarray  # int64, the nodes that they leave, ascending
    targets: np.ndarray  # int64, the nodes that they enter, ascending
    matrix: csr_array  # float64 [num_sources, num_targets], parallel edges summed


def check_unsigned(pathways: Pathways, what: str) -> None:
    """Raises a ValueError if a weight is negative."""
    if pathways.num_edges and float(pathways.weight.min()) < 0:
        raise ValueError(
            f"{what} needs weights of at least 0, got {float(pathways.weight.min()):.3g}: these are a difference. "
            f"Take {what} of each of the two pathways, and subtract."
        )


def edges_by_rank(pathways: Pathways) -> list[np.ndarray]:
    """Returns the positions of the edges that enter each rank, the lowest rank first; none is empty."""
    rank = pathways.rank.numpy()[pathways.edge_index[1].numpy()]
    order = np.argsort(rank, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(rank[order])) + 1) if order.size else []


def entries(pathways: Pathways) -> Iterator[Entry]:
    """Yields what enters each rank, the highest rank first."""
    from scipy.sparse import coo_array

    src, dst = pathways.edge_index.numpy()
    weight = pathways.weight.numpy()
    for edges in reversed(edges_by_rank(pathways)):
        sources, row = np.unique(src[edges], return_inverse=True)
        targets, column = np.unique(dst[edges], return_inverse=True)
        shape = sources.size, targets.size
        yield Entry(sources, targets, coo_array((weight[edges], (row, column)), shape).tocsr())


def carried_back(entered: list[Entry], at: np.ndarray) -> np.ndarray:
    """Carries what lies at nodes down to the lowest ranks, each edge its weight of it; works in place.

    Args:
        entered: from `entries`.
        at: float64 [num_nodes, width].

    Returns:
        `at`, where every node has what it had and what came down to it over all paths.
    """
    for sources, targets, matrix in entered:
        at[sources] += matrix @ at[targets]
    return at


def reached(pathways: Pathways, start: np.ndarray, kept: np.ndarray, *, is_upwards: bool) -> np.ndarray:
    """Marks the nodes that paths of kept edges join with the start, itself included.

    Args:
        start: bool [num_nodes].
        kept: bool [num_edges].
        is_upwards: whether paths leave the start, or enter it.
    """
    found, (near, far) = start.copy(), pathways.edge_index.numpy()[:: 1 if is_upwards else -1]
    for edges in edges_by_rank(pathways)[:: 1 if is_upwards else -1]:
        edges = edges[kept[edges]]
        found[far[edges[found[near[edges]]]]] = True
    return found
