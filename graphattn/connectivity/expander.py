"""Expanders: few edges per node, and still few hops between any two."""

import torch
from torch import Tensor

from graphattn.connectivity._nodes import Nodes, check_count, check_generator, nodes_of
from graphattn.graph import AttentionGraph, Sizes, batch_of


def expander(sizes: Sizes, degree: int, *, generator: torch.Generator) -> AttentionGraph:
    r"""Connects each node to its neighbours under degree / 2 random permutations of its graph, in both directions.

    E = {(j → i) : j = π_k(i) or i = π_k(j) for some k ≤ degree / 2} without self edges, each edge once, the π_k
    independent and uniform. The graph is symmetric, and in- and out-degree are at most `degree`: at most
    Σ_g n_g · degree edges, about degree · (degree + 1) / 2 fewer in a large graph (the pairs that coincide). One draw
    for six nodes, degree 2:

        · ■ · ■ · ·
        ■ · ■ · · ·
        · ■ · ■ · ·
        ■ · ■ · · ·
        · · · · · ■
        · · · · ■ ·

    Args:
        sizes: number of nodes, or int64 [num_graphs] for a batch.
        degree: neighbours per node, even and at least 2. From 4 on, large graphs are connected and of small diameter
            with high probability; with 2 a graph is a union of cycles.
        generator: source of randomness, on the device of `sizes`; the same state makes the same graph.

    Returns:
        AttentionGraph of kind "expander", on the device of `generator`. Add self edges with `| sliding_window(n, 0)`.

    Raises:
        TypeError: if `sizes` is neither an int nor an int64 tensor, `degree` no int, or `generator` no torch.Generator.
        ValueError: if a size is negative, `degree` is odd or below 2, or `generator` is on another device than `sizes`.

    Source: Friedman 2003 (A Proof of Alon's Second Eigenvalue Conjecture): for this model and an even degree of at
    least 4, with high probability every eigenvalue but the first is at most 2√(degree − 1) + ε. Shirzad et al. 2023
    (Exphormer) add such edges to graph transformers. Done differently here: self edges and repeated edges are dropped
    (a bounded number in expectation, whatever n), and the spectrum is not tested, so no draw is rejected.

    >>> graph = expander(101, degree=4, generator=torch.Generator().manual_seed(0))
    >>> graph == graph.T, int(graph.edge_index[1].bincount().max())
    (True, 4)
    """
    check_count(degree, "degree", 2, "A permutation and its inverse make two neighbours.")
    if degree % 2:
        raise ValueError(
            f"degree must be even, got {degree}. Each permutation comes with its inverse: use {degree - 1} or "
            f"{degree + 1}."
        )
    check_generator(generator, sizes)
    nodes = nodes_of(sizes, generator=generator)
    here = torch.arange(nodes.num_nodes, device=nodes.device)
    neighbor = here.new_empty(nodes.num_nodes, degree)
    for k in range(0, degree, 2):
        permuted = _permutation(nodes, generator)
        neighbor[:, k] = permuted
        neighbor[permuted, k + 1] = here
    neighbor = neighbor.sort(1).values
    is_edge = neighbor != here[:, None]
    is_edge[:, 1:] &= neighbor[:, 1:] != neighbor[:, :-1]
    return AttentionGraph.trusted(
        torch.stack([neighbor[is_edge], torch.repeat_interleave(is_edge.sum(1))]),
        nodes.num_nodes,
        kinds=("expander",),
        src_ptr=nodes.batch_ptr,
        origin=f"expander({nodes.label}, degree={degree})",
    )


def _permutation(nodes: Nodes, generator: torch.Generator) -> Tensor:
    """Returns a uniform permutation of the nodes that keeps each inside its graph, [num_nodes]."""
    order = torch.argsort(
        torch.randint(2**62, (nodes.num_nodes,), generator=generator, device=nodes.device), stable=True
    )
    if nodes.num_graphs < 2:
        return order
    return order[torch.argsort(batch_of(nodes.ptr)[order], stable=True)]
