"""A pattern for each head: several graphs as one, with the heads that see each edge."""

import operator
from collections.abc import Sequence
from functools import reduce

import torch

from graphattn.graph import AttentionGraph, pairs


def per_head(graphs: Sequence[AttentionGraph]) -> AttentionGraph:
    r"""Gives every head a graph of its own: their union, with `head_mask`.

    E = ⋃_h E_h, and head_mask[e, h] says whether e ∈ E_h; as many edges as the union has, and `head_mask` has
    Σ_h |E_h| entries that are True. Heads that see the window of radius 1, and every second token, of four:

        ■ ■ · ·      ■ · ■ ·
        ■ ■ ■ ·      · ■ · ■
        · ■ ■ ■      ■ · ■ ·
        · · ■ ■      · ■ · ■

    Args:
        graphs: one per head, over the same nodes and none with a head_mask of its own; the same object may serve
            several heads. Blocks are listed.

    Returns:
        AttentionGraph of the kinds of all graphs. An edge carries the kinds that any of them gives it.

    Raises:
        TypeError: if `graphs` is no sequence of AttentionGraph.
        ValueError: if there is none, one has a head_mask, or they differ in nodes or batches.

    Source: Child et al. 2019 (Sparse Transformers), sec. 4.3, and Beltagy et al. 2020 (Longformer), sec. 3.1, whose
    heads attend to different patterns.

    >>> from graphattn.connectivity import sliding_window
    >>> graph = per_head([sliding_window(4, 1), sliding_window(4, 1, dilation=2)])
    >>> graph.num_edges, graph.head_mask.sum(0)
    (14, tensor([10,  8]))
    """
    if isinstance(graphs, AttentionGraph) or not isinstance(graphs, Sequence):
        raise TypeError(
            f"graphs must be a sequence of graphs, got {type(graphs).__name__}. Pass one per head in a list."
        )
    for head, graph in enumerate(graphs):
        if not isinstance(graph, AttentionGraph):
            raise TypeError(
                f"graphs must hold AttentionGraphs, got {type(graph).__name__} for head {head}. "
                "AttentionGraph.from_mask makes one of a bool mask."
            )
        if graph.head_mask is not None:
            raise ValueError(f"graphs must have no head_mask, got one for head {head}. Pass what a single head sees.")
    if not graphs:
        raise ValueError("graphs must hold one graph per head, got none. Pass a list with an entry per head.")
    distinct = list({id(graph): graph for graph in graphs}.values())
    union = reduce(operator.or_, [graph.enumerate() for graph in distinct])
    keys = pairs.encode(union.edge_index, union.num_src_nodes)
    head_mask = torch.zeros(keys.numel(), len(graphs), dtype=torch.bool, device=keys.device)
    for graph in distinct:
        place = torch.searchsorted(keys, pairs.encode(graph.edge_index, graph.num_src_nodes))  # each of them is there
        sees = torch.zeros_like(keys, dtype=torch.bool).index_fill_(0, place, True)
        head_mask[:, [head for head, one in enumerate(graphs) if one is graph]] = sees[:, None]
    is_batch = union.num_graphs != 1
    return AttentionGraph.trusted(
        union.edge_index,
        union.num_src_nodes,
        union.num_dst_nodes,
        edge_kind=union.edge_kind,
        kinds=union.kinds,
        src_ptr=union.src_ptr if is_batch else None,
        dst_ptr=union.dst_ptr if is_batch else None,
        head_mask=head_mask,
        origin=f"per_head([{', '.join(graph.origin for graph in graphs)}])",
    )
