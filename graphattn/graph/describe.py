"""What a graph is and what it costs, counted without a matrix of all pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from graphattn.graph.cells import num_tiles
from graphattn.graph.cover import expected_cover
from graphattn.graph.reach import Hops, count_hops
from graphattn.graph.summary import density, edges_of_kinds, in_degrees, plural, summarize

if TYPE_CHECKING:
    from graphattn.graph.attention_graph import AttentionGraph

BLOCK_SIZE = 128  # of FlexAttention, unless told otherwise
MAX_LAYERS = 16  # that the expected cover is followed over
ENOUGH = 0.999  # of it


@dataclass(frozen=True)
class Degrees:
    """Edges per node: the least, the lower median, the most, and how many nodes have none; all 0 without nodes."""

    min: int
    median: int
    max: int
    num_zero: int


@dataclass(frozen=True)
class Pairs:
    """How many (target, source) pairs each way to run the graph computes scores for, per head."""

    dense: int  # one matrix over all nodes of the batch (impl="dense")
    padded: int  # a batch of matrices, each as large as the largest graph
    tiles: int  # whole tiles of 128 × 128 that hold an edge (FlexAttention's BlockMask)
    tiles_are_exact: bool  # False: blocks cover too many tiles to mark each, `tiles` is an upper bound
    blocks: int  # padded blocks, and the edges beside them one by one (impl="blocks")
    edges: int  # the edges themselves (impl="scatter", "gather", "fused")


@dataclass(frozen=True)
class Description:
    """Facts about a graph; its text is a report. Exact, but for what `Hops` and `Pairs` call bounds and `cover`."""

    summary: str  # what print(graph) shows
    num_edges: int
    density: float  # of the pairs inside graphs
    in_degrees: Degrees  # edges per target; num_zero counts the empty rows
    out_degrees: Degrees  # edges per source; num_zero counts the sources that nobody reads
    kinds: dict[str, int]  # edges of each kind
    head_shares: tuple[float, ...]  # of the edges, that each head sees; () where all heads see all
    num_components: int  # weakly connected, nodes without edges included; of sources and targets if rectangular
    largest_component: int  # nodes
    hops: Hops
    cover: tuple[
        float, ...
    ]  # expected share of pairs joined after 1, 2, … layers; () without random edges, or if all point one way
    padding_waste: float  # share of a padded batch's pairs that are padding
    pairs: Pairs

    def __str__(self) -> str:
        lines = [self.summary, f"  targets per source: {_said(self.out_degrees)} sources that no target reads"]
        if self.kinds:
            lines.append(f"  edges of kinds: {', '.join(f'{kind} {count:,}' for kind, count in self.kinds.items())}")
        if self.head_shares:
            shares = ", ".join(f"{100 * share:.3g}%" for share in self.head_shares)
            lines.append(f"  edges that each head sees: {shares}")
        lines.append(f"  components: {self.num_components:,}, the largest of {plural(self.largest_component, 'node')}")
        lines.append(f"  hops: {_said_of_hops(self.hops)}")
        if self.cover:
            shares = ", ".join(f"{100 * share:.3g}%" for share in self.cover)
            lines.append(f"  expected cover, if each layer draws anew: {shares} of the pairs")
        pairs = self.pairs
        lines.append(f"  padding waste: {100 * self.padding_waste:.3g}% of a padded batch")
        lines.append("  pairs computed, per head:")
        for name, count, who in (
            ("dense", pairs.dense, "dense"),
            ("padded", pairs.padded, "torch's MultiheadAttention"),
            (f"{BLOCK_SIZE}-block", pairs.tiles, f"FlexAttention{'' if pairs.tiles_are_exact else ', at most'}"),
            ("blocks", pairs.blocks, "blocks"),
            ("edges", pairs.edges, "scatter, gather, fused"),
        ):
            ratio = f"{count / pairs.edges:.3g} per edge" if pairs.edges else "no edge"
            lines.append(f"    {name:10}{count:>20,}  {ratio} ({who})")
        return "\n".join(lines)


def describe(graph: AttentionGraph) -> Description:
    """Counts degrees, components, hops and what each way to run the graph computes.

    Takes O(edges + nodes · log nodes) and no memory of n²; large blocks are not listed. `Hops` says which numbers of
    hops are exact and which are bounds (`graphattn.graph.reach`), `expected_cover` has the formula of the cover.

    >>> from graphattn.graph import AttentionGraph
    >>> found = describe(AttentionGraph(torch.tensor([[0, 0, 1], [0, 1, 1]]), num_src_nodes=2))
    >>> found.hops.covers, found.pairs.dense, found.pairs.edges
    (False, 4, 3)
    """
    num_src, num_dst = torch.diff(graph.src_ptr), torch.diff(graph.dst_ptr)
    num_pairs = int((num_src * num_dst).sum())
    padded = graph.num_graphs * int(num_src.max()) * int(num_dst.max()) if graph.num_graphs else 0
    num_components, largest = _components(graph)
    tiles, is_exact = num_tiles(graph, BLOCK_SIZE)
    head_mask, hops = graph._head_mask, count_hops(graph)
    return Description(
        summary=summarize(graph),
        num_edges=graph.num_edges,
        density=density(graph),
        in_degrees=_degrees(in_degrees(graph)),
        out_degrees=_degrees(_out_degrees(graph)),
        kinds=edges_of_kinds(graph),
        head_shares=() if head_mask is None else _head_shares(graph, head_mask),
        num_components=num_components,
        largest_component=largest,
        hops=hops,
        cover=_cover(graph, 1.0 if hops.num_reached is None else hops.num_reached / max(num_pairs, 1)),
        padding_waste=1 - num_pairs / padded if padded else 0.0,
        pairs=Pairs(
            dense=graph.num_src_nodes * graph.num_dst_nodes,
            padded=padded,
            tiles=tiles * BLOCK_SIZE**2,
            tiles_are_exact=is_exact,
            blocks=_pairs_of_buckets(graph),
            edges=graph.num_edges,
        ),
    )


def _degrees(degree: Tensor) -> Degrees:
    if not degree.numel():
        return Degrees(0, 0, 0, 0)
    return Degrees(int(degree.min()), int(degree.median()), int(degree.max()), int((degree == 0).sum()))


def _out_degrees(graph: AttentionGraph) -> Tensor:
    degree = torch.bincount(graph.explicit_edges[0], minlength=graph.num_src_nodes)
    if graph.blocks is not None:
        degree = degree.index_add(0, graph.blocks.src, graph.blocks.readers())
    return degree


def _head_shares(graph: AttentionGraph, head_mask: Tensor) -> tuple[float, ...]:
    num_in_blocks = graph.num_edges - head_mask.shape[0]
    return tuple(((head_mask.sum(0) + num_in_blocks) / max(graph.num_edges, 1)).tolist())


def _components(graph: AttentionGraph) -> tuple[int, int]:
    """Returns the number of weakly connected components and the nodes of the largest one."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components

    edges = graph.explicit_edges
    if graph.blocks is not None:
        edges = torch.cat([edges, graph.blocks.spanning_pairs()], 1)
    edges = edges.cpu()
    num_nodes = graph.num_src_nodes if graph.is_square else graph.num_src_nodes + graph.num_dst_nodes
    if not num_nodes:
        return 0, 0
    src, dst = edges if graph.is_square else (edges[0], edges[1] + graph.num_src_nodes)
    ones = torch.ones(edges.shape[1], dtype=torch.int8).numpy()
    matrix = csr_array((ones, (dst.numpy(), src.numpy())), shape=(num_nodes, num_nodes))
    count, label = connected_components(matrix, directed=False)
    return int(count), int(torch.bincount(torch.from_numpy(label).long()).max())


def _cover(graph: AttentionGraph, most: float) -> tuple[float, ...]:
    """Returns the expected cover up to the layer that comes near the share of pairs that is ever reached."""
    shares = [min(share, most) for share in expected_cover(graph, MAX_LAYERS)]
    enough = next((layer for layer, share in enumerate(shares) if share >= ENOUGH * most), MAX_LAYERS)
    return tuple(shares[: enough + 1])


def _pairs_of_buckets(graph: AttentionGraph) -> int:
    if graph.blocks is None:
        return graph.num_edges
    padded = sum(bucket.dst.numel() * bucket.src.shape[1] for bucket in graph.plan().buckets)
    return graph.explicit_edges.shape[1] + padded


def _said(degrees: Degrees) -> str:
    return f"min {degrees.min:,}, median {degrees.median:,}, max {degrees.max:,}; {degrees.num_zero:,}"


def _said_of_hops(hops: Hops) -> str:
    number = f"{hops.at_least:,}" if hops.is_exact else f"at least {hops.at_least:,} and at most {hops.at_most:,}"
    after = f"{number} until "
    if hops.covers:
        return f"{after}every target is reached from every source"
    if hops.covers is None:
        return f"{after}every target is reached from the sources that ever reach it; which do was not followed"
    reached = "" if hops.num_reached is None else f": {hops.num_reached:,} pairs"
    return f"{after}every target is reached from the sources that ever reach it, not from all{reached}"
