"""Hops: who is within reach over a few edges of another graph, and how far."""

import torch
from torch import Tensor

from graphattn.connectivity._nodes import check_count
from graphattn.graph import AttentionGraph, batch_of
from graphattn.graph.pairs import decode, encode

MAX_DENSE_PAIRS = 2**24  # nodes times the largest graph of a batch, up to which a table holds who is reached


def hops(graph: AttentionGraph, num_hops: int) -> AttentionGraph:
    r"""Lets each target read every node within `num_hops` steps along the edges of `graph`, itself included.

    E = {(j → i) : distance(j, i) ≤ num_hops}, over directed paths of `graph`; as many edges as there are such pairs, at
    most num_nodes · (1 + δ + … + δ^num_hops) where no node has more than δ incoming edges. A path of n nodes with edges
    in both directions has those of a window, n(2k + 1) − k(k + 1) with k = min(num_hops, n − 1). Such a path of seven
    nodes, two hops:

        ■ ■ ■ · · · ·
        ■ ■ ■ ■ · · ·
        ■ ■ ■ ■ ■ · ·
        · ■ ■ ■ ■ ■ ·
        · · ■ ■ ■ ■ ■
        · · · ■ ■ ■ ■
        · · · · ■ ■ ■

    Args:
        graph: a square graph, such as the bonds of a batch of molecules.
        num_hops: number of steps, at least 0; 0 gives self edges alone.

    Returns:
        AttentionGraph of kind "hop", on the device of `graph`.

    Raises:
        TypeError: if `num_hops` is no int.
        ValueError: if `graph` is rectangular or `num_hops` is negative.

    Source: Nikolentzos et al. 2020 (k-hop Graph Neural Networks) for the neighbourhood.

    >>> chain = AttentionGraph(torch.tensor([[0, 1, 2], [1, 2, 3]]), num_src_nodes=4)
    >>> hops(chain, 2).to_mask().int()
    tensor([[1, 0, 0, 0],
            [1, 1, 0, 0],
            [1, 1, 1, 0],
            [0, 1, 1, 1]], dtype=torch.int32)
    """
    reach, _ = _reach(graph, num_hops)
    return AttentionGraph.trusted(
        reach.edge_index,
        graph.num_src_nodes,
        kinds=("hop",),
        src_ptr=graph.src_ptr if graph.num_graphs != 1 else None,
        origin=f"hops({graph.num_src_nodes} nodes, {num_hops})",
    )


def hop_distance(graph: AttentionGraph, *, of: AttentionGraph, max_hops: int) -> Tensor:
    """Returns how many steps along `graph` lead from the source to the target of each edge of another graph.

    Args:
        graph: a square graph whose edges are the steps.
        of: the graph whose pairs are asked about, over the same nodes.
        max_hops: the longest distance told apart.

    Returns:
        int64 [of.num_edges]; 0 for a self edge, `max_hops + 1` for pairs that are farther apart or not connected.

    >>> chain = AttentionGraph(torch.tensor([[0, 1], [1, 2]]), num_src_nodes=3)
    >>> hop_distance(chain, of=hops(chain, 2), max_hops=1)
    tensor([0, 1, 0, 2, 1, 0])
    """
    reach, distance = _reach(graph, max_hops)
    return of.align(distance, of=reach, fill=max_hops + 1)


def _reach(graph: AttentionGraph, num_hops: int) -> tuple[AttentionGraph, Tensor]:
    """Returns the pairs within `num_hops` and the distance of each, int64 [num_edges]."""
    if not graph.is_square:
        raise ValueError(
            f"graph must be square to walk on, got {graph.num_src_nodes} sources and {graph.num_dst_nodes} targets. "
            "Hops need sources and targets to be the same nodes."
        )
    check_count(num_hops, "the number of hops", 0, "Use 0 for self edges alone.")
    longest = int(torch.diff(graph.src_ptr).max()) if graph.num_graphs else 0
    if graph.num_src_nodes * longest <= MAX_DENSE_PAIRS:
        return _reach_in_small_graphs(graph, longest, num_hops)
    return _reach_along_edges(graph, num_hops)


def _reach_in_small_graphs(graph: AttentionGraph, longest: int, num_hops: int) -> tuple[AttentionGraph, Tensor]:
    """Hands rows of a table [num_nodes, longest] along the edges: who is reached after each step."""
    nodes = torch.arange(graph.num_src_nodes, device=graph.device)
    start = graph.src_ptr[batch_of(graph.src_ptr)]  # a node's column is its place in its own graph
    src, dst = graph.edge_index
    reached = torch.zeros(graph.num_src_nodes, longest, device=graph.device)
    reached[nodes, nodes - start] = 1.0
    distance = torch.where(reached > 0, 0, num_hops + 1)
    for step in range(1, min(num_hops, longest) + 1):  # a shortest way visits no node twice
        reached = torch.zeros_like(reached).index_add_(0, dst, reached[src]).clamp_(max=1.0)  # in exactly `step` steps
        distance = torch.where(reached > 0, distance.clamp(max=step), distance)
    near = distance <= num_hops
    row, column = near.nonzero(as_tuple=True)  # in canonical order, for a graph's nodes stand together
    edges = torch.stack([start[row] + column, row])
    return AttentionGraph.trusted(edges, graph.num_src_nodes), distance[near]


def _reach_along_edges(graph: AttentionGraph, num_hops: int) -> tuple[AttentionGraph, Tensor]:
    """Walks by composing the graph with the pairs reached last, in memory of the pairs that are reached."""
    nodes = torch.arange(graph.num_src_nodes, device=graph.device)
    steps = AttentionGraph.trusted(graph.edge_index, graph.num_src_nodes)
    reach = AttentionGraph.trusted(torch.stack([nodes, nodes]), graph.num_src_nodes)
    goes_both_ways = steps == steps.T  # then neighbours of what was reached last were reached in its step or one beside
    levels = [reach]
    for _ in range(min(num_hops, graph.num_src_nodes)):  # a shortest way visits no node twice
        frontier = steps @ levels[-1]  # one step further: i reads j, and j is reached from k
        for known in levels[-2:] if goes_both_ways else [reach]:
            frontier = frontier - known
        if not frontier.num_edges:
            break
        levels.append(frontier.named("level"))  # the whole way as an origin would double with every step
        if not goes_both_ways:
            reach = (reach | frontier).named("reach")
    keys, order = torch.sort(torch.cat([encode(level.edge_index, graph.num_src_nodes) for level in levels]))
    count = torch.tensor([level.num_edges for level in levels], device=graph.device)
    distance = torch.repeat_interleave(torch.arange(len(levels), device=graph.device), count)[order]
    return AttentionGraph.trusted(decode(keys, graph.num_src_nodes), graph.num_src_nodes), distance
