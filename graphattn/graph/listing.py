"""Edges and blocks together hold each pair once: blocks listed as edges, and blocks added to edges."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from graphattn.graph import pairs
from graphattn.graph.algebra import union, with_edges
from graphattn.graph.blocks import Blocks
from graphattn.graph.kinds import gather_bits
from graphattn.graph.validate import refuse_above_limit

if TYPE_CHECKING:
    from graphattn.graph.attention_graph import AttentionGraph


def list_blocks(graph: AttentionGraph) -> AttentionGraph:
    """Returns the same graph with every block listed as edges, in canonical order; itself where there is none."""
    if graph.blocks is None:
        return graph
    refuse_above_limit(graph.num_edges, "listing its blocks as edges", graph)
    return with_edges(graph, *graph.blocks.enumerate())


def add_blocks(graph: AttentionGraph, blocks: Blocks) -> AttentionGraph:
    """Adds blocks to a graph that has none; those that overlap, or lack a kind of an edge inside, are listed."""
    listed = blocks.overlapping()
    holder = blocks.holder(graph.explicit_edges)
    adds_kind = (graph._explicit_kind() & ~blocks.kind[holder]) != 0
    listed[holder[(holder >= 0) & adds_kind]] = True
    kept, overlapping = blocks.select(~listed), blocks.select(listed)
    if overlapping is not None:
        graph = union(graph, _listing(overlapping, graph))
    if kept is None:
        return graph.named(f"{graph.num_edges} edges")
    outside = kept.holder(graph.explicit_edges) < 0
    edges = graph.explicit_edges[:, outside]
    return graph._like(
        edges,
        kept,
        None if graph._edge_kind is None else graph._edge_kind[outside],
        f"{edges.shape[1]} edges and {kept.num_blocks} blocks",
        None if graph._head_mask is None else graph._head_mask[outside],
    )


def _listing(blocks: Blocks, graph: AttentionGraph) -> AttentionGraph:
    """Lists blocks that may overlap as a graph over the same nodes; a pair of several carries the kinds of all."""
    refuse_above_limit(blocks.num_edges, "listing its overlapping blocks as edges", graph)
    edges, kind = blocks.enumerate()
    keys, place = torch.unique(pairs.encode(edges, graph.num_src_nodes), return_inverse=True)
    edge_kind = gather_bits(kind, place, keys.numel()) if graph.kinds else None
    return graph._like(pairs.decode(keys, graph.num_src_nodes), None, edge_kind, graph.origin)
