"""What `print(graph)` shows: a few lines of facts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from graphattn.graph.attention_graph import AttentionGraph


def in_degrees(graph: AttentionGraph) -> Tensor:
    """Returns the number of edges that enter each target, int64 [num_dst_nodes], without listing blocks."""
    degree = torch.bincount(graph.explicit_edges[1], minlength=graph.num_dst_nodes)
    if graph.blocks is not None:
        degree = degree.index_add(0, graph.blocks.dst, graph.blocks.prefix)
    return degree


def density(graph: AttentionGraph) -> float:
    """Returns num_edges over all pairs inside the graphs of the batch, 0 … 1; 0 for a graph without pairs."""
    num_pairs = int((torch.diff(graph.src_ptr) * torch.diff(graph.dst_ptr)).sum())
    return graph.num_edges / num_pairs if num_pairs else 0.0


def edges_of_kinds(graph: AttentionGraph) -> dict[str, int]:
    """Counts the edges of each kind, in the order of `graph.kinds`; an edge of several kinds counts in each."""
    edge_kind, blocks = graph._explicit_kind(), graph.blocks
    counts = {kind: int(((edge_kind >> bit) & 1).sum()) for bit, kind in enumerate(graph.kinds)}
    if blocks is not None:
        of_row = blocks.kind[blocks.of_target()]
        for bit, kind in enumerate(graph.kinds):
            counts[kind] += int((blocks.prefix * ((of_row >> bit) & 1)).sum())
    return counts


def plural(count: int, noun: str) -> str:
    """Writes a count and what is counted.

    >>> plural(1, "edge"), plural(1200, "edge")
    ('1 edge', '1,200 edges')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def summarize(graph: AttentionGraph) -> str:
    """Returns nodes, edges, density, in-degrees, empty rows and kinds as text."""
    degree = in_degrees(graph)
    lines = [repr(graph)]
    nodes = (
        f"{graph.num_src_nodes} nodes"
        if graph.is_square
        else f"{graph.num_src_nodes} sources, {graph.num_dst_nodes} targets"
    )
    stored = (
        ""
        if graph.blocks is None
        else (
            f" ({graph.explicit_edges.shape[1]} listed, {graph.blocks.num_edges} in {graph.blocks.num_blocks} blocks)"
        )
    )
    lines.append(
        f"  {nodes} in {graph.num_graphs} graph{'s' if graph.num_graphs != 1 else ''}, {graph.num_edges} edges{stored}"
    )
    lines.append(f"  density {100 * density(graph):.4g}% of the pairs inside graphs")
    if degree.numel():
        lines.append(
            f"  edges per target: min {int(degree.min())}, median {int(degree.median())}, max {int(degree.max())}; "
            f"{int((degree == 0).sum())} empty rows"
        )
    if graph.kinds:
        lines.append(f"  kinds: {', '.join(graph.kinds)}")
    return "\n".join(lines)
