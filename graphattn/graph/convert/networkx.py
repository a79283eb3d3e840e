"""networkx: a directed graph whose edges point from source to target."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from graphattn.graph.kinds import check_kinds

if TYPE_CHECKING:
    from networkx import DiGraph

    from graphattn.graph.attention_graph import AttentionGraph


def to_networkx(graph: AttentionGraph) -> DiGraph:
    """Returns a networkx `DiGraph`; takes hundreds of bytes per edge.

    Nodes are 0, 1, … of a square graph; ("src", j) and ("dst", i), marked bipartite = 0 and 1, of a rectangular one.
    Edges carry `kinds`, a tuple of names, where the graph has kinds, and `heads`, the numbers of the heads that see
    them, where heads differ.

    >>> from graphattn.graph import AttentionGraph
    >>> graph = AttentionGraph(torch.tensor([[0, 1], [1, 1]]), num_src_nodes=2, kinds=("bond",))
    >>> list(graph.to_networkx().edges.data())
    [(0, 1, {'kinds': ('bond',)}), (1, 1, {'kinds': ('bond',)})]
    """
    from networkx import DiGraph

    result = DiGraph()
    sources: list[Any] = list(range(graph.num_src_nodes))
    targets: list[Any] = sources
    if graph.is_square:
        result.add_nodes_from(sources)
    else:
        sources, targets = [("src", j) for j in sources], [("dst", i) for i in range(graph.num_dst_nodes)]
        result.add_nodes_from(sources, bipartite=0)
        result.add_nodes_from(targets, bipartite=1)
    src, dst = graph.edge_index.tolist()
    attributes: list[dict[str, Any]] = [{} for _ in src]
    if graph.kinds:
        result.graph["kinds"] = graph.kinds
        bits = graph.edge_kind.tolist()
        names = {some: tuple(kind for bit, kind in enumerate(graph.kinds) if some >> bit & 1) for some in set(bits)}
        for attribute, some in zip(attributes, bits):
            attribute["kinds"] = names[some]
    if graph.head_mask is not None:
        result.graph["num_heads"] = graph.head_mask.shape[1]
        for attribute, row in zip(attributes, graph.head_mask.tolist()):
            attribute["heads"] = tuple(head for head, sees in enumerate(row) if sees)
    result.add_edges_from((sources[j], targets[i], attribute) for j, i, attribute in zip(src, dst, attributes))
    return result


def from_networkx(cls: type[AttentionGraph], graph: Any) -> AttentionGraph:
    """Makes a graph from a networkx graph; node k is the k-th of `graph.nodes`, whatever its name.

    An undirected edge becomes two. Where every node is marked bipartite = 0 or 1 and every edge of a directed graph
    goes from a 0 to a 1, those are sources and targets. The `kinds` and `heads` that `to_networkx` wrote are read back.

    Raises:
        TypeError: if it is no networkx graph.
        ValueError: for parallel edges.
    """
    import networkx

    if not isinstance(graph, networkx.Graph):
        raise TypeError(f"graph must be a networkx graph, got {type(graph).__name__}. Use from_edge_index for edges.")
    if graph.is_multigraph():
        raise ValueError("graph must have no parallel edges, got a multigraph. Pass networkx.DiGraph(graph).")
    directed = graph if graph.is_directed() else graph.to_directed(as_view=True)
    side = [data.get("bipartite") for _, data in directed.nodes(data=True)]
    of_source = {node: k for k, node in enumerate(directed)}
    of_target = of_source
    if set(side) <= {0, 1} and side and graph.is_directed():
        sides = dict(zip(directed, side))
        if all(sides[a] == 0 and sides[b] == 1 for a, b in directed.edges):
            of_source = {node: k for k, node in enumerate(node for node in directed if sides[node] == 0)}
            of_target = {node: k for k, node in enumerate(node for node in directed if sides[node] == 1)}
    edges = list(directed.edges(data=True))
    edge_index = torch.tensor(
        [[of_source[a] for a, _, _ in edges], [of_target[b] for _, b, _ in edges]], dtype=torch.int64
    )
    made, order = cls.from_edge_index(edge_index.view(2, -1), (len(of_source), len(of_target)))
    kinds = check_kinds(graph.graph.get("kinds", ()))
    return cls(
        made.edge_index,
        made.num_src_nodes,
        made.num_dst_nodes,
        edge_kind=_edge_kind(edges, kinds)[order] if kinds else None,
        kinds=kinds,
        head_mask=_head_mask(edges, graph.graph["num_heads"])[order] if "num_heads" in graph.graph else None,
    ).named(f"from_networkx({len(directed)} nodes, {len(edges)} edges)")


def _edge_kind(edges: list[tuple[Any, Any, dict[str, Any]]], kinds: tuple[str, ...]) -> Tensor:
    bit = {kind: 1 << place for place, kind in enumerate(kinds)}
    return torch.tensor([sum(bit[kind] for kind in data.get("kinds", ())) for _, _, data in edges], dtype=torch.int64)


def _head_mask(edges: list[tuple[Any, Any, dict[str, Any]]], num_heads: int) -> Tensor:
    pairs = [(row, head) for row, (_, _, data) in enumerate(edges) for head in data.get("heads", range(num_heads))]
    mask = torch.zeros(len(edges), num_heads, dtype=torch.bool)
    mask[tuple(torch.tensor(pairs, dtype=torch.int64).view(-1, 2).T)] = True
    return mask
