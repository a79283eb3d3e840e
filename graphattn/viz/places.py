"""Where the nodes of a graph stand on paper, if nothing says where: from its edges, the same each time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from graphattn.graph import AttentionGraph

if TYPE_CHECKING:
    import networkx

DENSE = 3.0  # neighbours a node; a graph with more of them is drawn on a circle, where every edge can be followed
APART = 1.0  # between two parts that nothing joins, in lengths of an edge


def places(graph: AttentionGraph) -> np.ndarray:
    """Returns the place of each node, float64 [num_nodes, 2], neighbours about 1 apart.

    A graph of few edges is laid out by their number between any two nodes (Kamada and Kawai 1989, by networkx), its
    parts side by side; one of many stands on a circle, clockwise from the top, in the order of its nodes.

    Args:
        graph: square.
    """
    import networkx

    num_nodes = graph.num_src_nodes
    edges = graph.edge_index.cpu()
    joined = networkx.Graph()
    joined.add_nodes_from(range(num_nodes))
    joined.add_edges_from((a, b) for a, b in edges.T.tolist() if a != b)
    if joined.number_of_edges() * 2 > DENSE * num_nodes:
        return circle(num_nodes)
    place, left = np.zeros((num_nodes, 2)), 0.0
    for part in networkx.connected_components(joined):
        nodes = sorted(part)
        of_part = _part(joined.subgraph(nodes), nodes)
        of_part -= of_part.min(0)
        place[nodes] = of_part + np.array([left, -of_part[:, 1].max() / 2])
        left += of_part[:, 0].max() + APART
    return place


def _part(joined: networkx.Graph, nodes: list[int]) -> np.ndarray:
    """Lays out one connected part, float64 [num_nodes, 2]; half of its edges are shorter than 1."""
    import networkx
    from scipy.sparse.csgraph import shortest_path

    if len(nodes) == 1:
        return np.zeros((1, 2))
    hops = shortest_path(networkx.to_scipy_sparse_array(joined, nodelist=nodes), unweighted=True, directed=False)
    # a start that is nearly right: the plane closest to these distances (Torgerson 1952), twins a little apart
    centred = np.eye(len(nodes)) - 1 / len(nodes)
    value, vector = np.linalg.eigh(-0.5 * centred @ hops**2 @ centred)  # ascending: the longest axis is the last
    turn = np.pi * (3 - np.sqrt(5)) * np.arange(len(nodes))
    start = np.sqrt(value[:-3:-1].clip(0)) * vector[:, :-3:-1] + 0.01 * np.stack([np.cos(turn), np.sin(turn)], 1)
    found = networkx.kamada_kawai_layout(joined, pos=dict(zip(nodes, start)))
    place = np.array([found[node] for node in nodes])
    src, dst = np.searchsorted(nodes, np.array(joined.edges).T)
    return place / np.median(np.linalg.norm(place[src] - place[dst], axis=1))


def circle(num_nodes: int) -> np.ndarray:
    """Returns places on a circle, clockwise from the top, neighbours 1 apart."""
    angle = 2 * np.pi * np.arange(num_nodes) / max(num_nodes, 1)
    radius = 0.5 / np.sin(np.pi / num_nodes) if num_nodes > 1 else 0.0
    return radius * np.stack([np.sin(angle), np.cos(angle)], 1)
