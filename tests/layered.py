"""Small pathways and recordings made by hand or by chance, and slow accounts of them, path by path in Python."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from graphattn.graph import AttentionGraph
from graphattn.viz.pathways import NODE_KINDS, Pathways
from graphattn.viz.recording import Step

Edge = tuple[int, int, float]  # source, target, weight


def by_hand(ranks: Sequence[int], edges: Sequence[Edge], *, memories: Sequence[int] = (), **fields: object) -> Pathways:
    """Pathways over nodes of these ranks; elements are numbered within their rank."""
    element = [ranks[:node].count(rank) for node, rank in enumerate(ranks)]
    node_kind = [NODE_KINDS.index("memory" if node in memories else "element") for node in range(len(ranks))]
    given = {
        "edge_index": torch.tensor([[src for src, _, _ in edges], [dst for _, dst, _ in edges]], dtype=torch.int64),
        "weight": torch.tensor([weight for _, _, weight in edges], dtype=torch.float64),
        "head": torch.full((len(edges),), -1),
        "layer": torch.tensor([ranks[src] for src, _, _ in edges], dtype=torch.int64),
        "edge_kind": torch.zeros(len(edges), dtype=torch.int64),
        "rank": torch.tensor(ranks, dtype=torch.int64),
        "element": torch.tensor(element, dtype=torch.int64),
        "node_kind": torch.tensor(node_kind, dtype=torch.int64),
        "labels": None,
        "method": "by hand",
        "kept": 1.0,
    }
    return Pathways(**(given | fields))


def by_chance(seed: int, sizes: Sequence[int] = (3, 2, 5, 4), num_edges: int = 23) -> Pathways:
    """Pathways whose edges, some side by side and some over several ranks, sum to one into each target they enter."""
    generator = torch.Generator().manual_seed(seed)
    rank = torch.repeat_interleave(torch.tensor(sizes))
    ends = torch.randint(rank.numel(), (2, 4 * num_edges), generator=generator)
    ends = ends[:, rank[ends[0]] < rank[ends[1]]][:, :num_edges]
    weight = torch.rand(ends.shape[1], dtype=torch.float64, generator=generator)
    weight /= torch.zeros(rank.numel(), dtype=torch.float64).index_add_(0, ends[1], weight)[ends[1]]
    return by_hand(rank.tolist(), list(zip(*ends.tolist(), weight.tolist())))


def dense(pathways: Pathways) -> Tensor:
    """[num_nodes, num_nodes] float64, what target (row) has of source (column) over direct edges."""
    matrix = torch.zeros(pathways.num_nodes, pathways.num_nodes, dtype=torch.float64)
    for src, dst, weight in zip(*pathways.edge_index.tolist(), pathways.weight.tolist()):
        matrix[dst, src] += weight
    return matrix


def paths_between(pathways: Pathways, source: int, target: int) -> Iterator[tuple[tuple[int, ...], float]]:
    """Yields every path with an edge at least, as (edges from the source upwards, product of their weights)."""
    edges = list(zip(*pathways.edge_index.tolist(), pathways.weight.tolist()))

    def onwards(node: int) -> Iterator[tuple[tuple[int, ...], float]]:
        for edge, (src, dst, weight) in enumerate(edges):
            if src == node and weight > 0:
                if dst == target:
                    yield (edge,), weight
                for rest, product in onwards(dst):
                    yield (edge, *rest), weight * product

    return onwards(source)


def step_of(
    graph: AttentionGraph, alpha: Tensor, name: str = "layer", call: int = 0, kind: str = "attention", **fields: Tensor
) -> Step:
    """A step whose heads are numbered from 0, without gates, and recorded whole."""
    num_heads = alpha.shape[1]
    given = dict.fromkeys(("edge_gate", "head_gate", "value_norm", "gradient"))
    given |= {"head": torch.arange(num_heads), "kept": torch.ones(graph.num_dst_nodes, num_heads)}
    return Step(name, call, kind, graph, alpha, **(given | fields))


def softmax_of(graph: AttentionGraph, num_heads: int, generator: torch.Generator) -> Tensor:
    """Random weights [num_edges, num_heads], which sum to one over the edges into each target."""
    weight = torch.rand(graph.num_edges, num_heads, generator=generator)
    dst = graph.edge_index[1]
    return weight / torch.zeros(graph.num_dst_nodes, num_heads).index_add_(0, dst, weight)[dst]


def matrix_of(graph: AttentionGraph, weight: Tensor) -> Tensor:
    """[num_dst_nodes, num_src_nodes] float64 of one weight per edge."""
    matrix = torch.zeros(graph.num_dst_nodes, graph.num_src_nodes, dtype=torch.float64)
    matrix[graph.edge_index[1], graph.edge_index[0]] = weight.double()
    return matrix
