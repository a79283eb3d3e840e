"""The strongest paths: whole ways from an element to an element, by the product of their weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from graphattn.viz.ranks import carried_back, check_unsigned, edges_by_rank, entries, reached
from graphattn.viz.shares import percent

if TYPE_CHECKING:
    from graphattn.viz.pathways import Pathways


@dataclass(frozen=True, eq=False)
class Paths:
    """Some paths, the strongest first.

    Args:
        edges: per path int64 [num_edges of the path], positions of its edges, from its source upwards.
        nodes: per path int64 [num_edges of the path + 1], the nodes that it passes.
        weight: float64 [num_paths], the product of the weights along each.
        share: float64 [num_paths], its weight among those of all paths between the same sources and targets; 0
            where all are below the smallest float64.
        method: what the weights are.
        kept: share of influence that the edges of the pathways carry, as theirs.
    """

    edges: tuple[Tensor, ...]
    nodes: tuple[Tensor, ...]
    weight: Tensor
    share: Tensor
    method: str
    kept: float

    def __len__(self) -> int:
        return len(self.edges)

    def __repr__(self) -> str:
        return f"Paths({len(self)} paths, {percent(float(self.share.sum()))} of the weight of all; {self.method})"


def strongest_paths(pathways: Pathways, k: int, sources: Tensor, targets: Tensor) -> Paths:
    """Finds the k paths of largest weight from any of the sources into any of the targets, exactly.

    Every node keeps the k strongest ways into it, found from those of the nodes below, one rank after the other:
    O(edges · k + num_nodes · k²) and a sort. Parallel edges make different paths. Edges of weight zero are no way.
    `pathways.keep(torch.cat(paths.edges))` holds them alone, to be drawn.

    Args:
        pathways: weights of at least 0.
        k: how many at most, at least 1.
        sources: int64 nodes.
        targets: int64 nodes.

    Returns:
        Paths; fewer than k where there are no more.

    Raises:
        ValueError: if a weight is negative, or k is below 1.

    >>> from graphattn.viz.pathways import Pathways
    >>> edges = torch.tensor([[0, 0, 1, 2], [1, 2, 3, 3]])
    >>> weight = torch.tensor([0.5, 0.25, 0.125, 0.5], dtype=torch.float64)
    >>> diamond = Pathways(edges, weight, *torch.zeros(3, 4).long(), torch.tensor([0, 1, 1, 2]),
    ...                    torch.tensor([0, 0, 1, 0]), torch.zeros(4).long(), None, "by hand", 1.0)
    >>> found = diamond.strongest_paths(1)
    >>> found.nodes, found.weight
    ((tensor([0, 2, 3]),), tensor([0.1250], dtype=torch.float64))
    """
    check_unsigned(pathways, "strongest_paths")
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise ValueError(f"k must be an int of at least 1, got {k!r}. Ten paths are a picture.")
    src, dst = pathways.edge_index.numpy()
    weight = pathways.weight.numpy()
    logs = np.full(weight.shape, -np.inf)
    np.log(weight, out=logs, where=weight > 0)
    is_source, is_target = (np.zeros(pathways.num_nodes, dtype=bool) for _ in range(2))
    is_source[sources.numpy()] = True
    is_target[targets.numpy()] = True
    leads_there = reached(pathways, is_target, weight > 0, is_upwards=False)
    best = np.full((pathways.num_nodes, k), -np.inf)  # log of the weight of each way into a node, strongest first
    best[is_source, 0] = 0.0  # the way that begins here
    edge_of = np.full((pathways.num_nodes, k), -1)  # its last edge, -1 where it begins
    before = np.zeros((pathways.num_nodes, k), dtype=np.int64)  # and which way into the source of that edge it goes on
    for edges in edges_by_rank(pathways):
        edges = edges[leads_there[dst[edges]]]
        edges = edges[_first_k(dst[edges], logs[edges] + best[src[edges], 0], k)]
        ways = (logs[edges, None] + best[src[edges]]).ravel()  # [num_edges · k]
        edge, place = np.repeat(edges, k), np.tile(np.arange(k), edges.size)
        begins = np.flatnonzero(is_source & np.isin(np.arange(pathways.num_nodes), dst[edges]))
        node = np.concatenate([begins, dst[edge]])  # sources that are entered keep the way that begins there
        ways = np.concatenate([np.zeros(begins.size), ways])
        edge = np.concatenate([np.full(begins.size, -1), edge])
        place = np.concatenate([np.zeros(begins.size, dtype=np.int64), place])
        chosen = _first_k(node, ways, k)
        node, slot = node[chosen], _places(node[chosen])
        best[node, slot], edge_of[node, slot], before[node, slot] = ways[chosen], edge[chosen], place[chosen]
    ends, slots = np.nonzero(is_target[:, None] & (edge_of >= 0))
    strongest = np.argsort(-best[ends, slots], kind="stable")[:k]
    edges_of_paths = [_walked(edge_of, before, src, ends[at], slots[at]) for at in strongest]
    products = np.array([weight[path].prod() for path in edges_of_paths])
    at = np.zeros((pathways.num_nodes, 1))
    at[is_target] = 1.0
    carried = carried_back(list(entries(pathways)), at)[is_source, 0].sum()
    total = float(carried - (is_source & is_target).sum())  # ways without an edge are none
    return Paths(
        tuple(torch.from_numpy(path) for path in edges_of_paths),
        tuple(torch.from_numpy(np.concatenate([src[path[:1]], dst[path]])) for path in edges_of_paths),
        torch.from_numpy(products),
        torch.from_numpy(products / total if total > 0 else np.zeros_like(products)),
        f"products of {pathways.method}",
        pathways.kept,
    )


def _first_k(group: np.ndarray, value: np.ndarray, k: int) -> np.ndarray:
    """Returns the positions of the k largest finite values of each group, sorted by group, the largest first."""
    there = np.flatnonzero(value > -np.inf)
    order = there[np.lexsort((-value[there], group[there]))]
    return order[_places(group[order]) < k]


def _places(group: np.ndarray) -> np.ndarray:
    """Returns the place of each entry in its run of equals."""
    starts = np.flatnonzero(np.diff(group, prepend=-1))
    return np.arange(group.size) - np.repeat(starts, np.diff(starts, append=group.size))


def _walked(edge_of: np.ndarray, before: np.ndarray, src: np.ndarray, node: int, slot: int) -> np.ndarray:
    """Returns the edges of the way in a slot of a node, from its source upwards."""
    path = []
    while edge_of[node, slot] >= 0:
        edge = edge_of[node, slot]
        path.append(edge)
        node, slot = src[edge], before[node, slot]
    return np.array(path[::-1], dtype=np.int64)
