"""What a layer's graph says to a Combiner: the sizes of its examples, who may be read, and clusters."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from graphattn.graph import AttentionGraph


class Support(NamedTuple):
    """Full attention of each example, over the members."""

    sizes: Tensor  # int64 [num_graphs]
    causal: bool
    member: Tensor | None  # bool [num_nodes]; None where all are read


def read_support(graph: AttentionGraph) -> Support:
    """Returns what a graph of full attention covers.

    Raises:
        ValueError: if the graph is rectangular, differs between heads, or lacks an edge between two tokens that read
            and are read.

    >>> from graphattn.connectivity import full
    >>> from graphattn.graph.rules import is_causal
    >>> read_support(full(3).keep(is_causal))
    Support(sizes=tensor([3]), causal=True, member=None)
    """
    _check_square(graph)
    ptr = graph.src_ptr
    is_read = torch.zeros(graph.num_src_nodes, dtype=torch.bool, device=graph.device)
    is_read[graph.explicit_edges[0]] = True
    if graph.blocks is not None:
        is_read[graph.blocks.src] = True
    causal = not graph.looks_ahead()
    # edges stay inside examples, from tokens that are read, and back in time if causal: all are there if so many are
    expected = _num_full(ptr, is_read, causal)
    if graph.num_edges != expected:
        raise ValueError(
            f"a Combiner covers full attention, which would be {expected:,} {'causal ' if causal else ''}edges among "
            f"the tokens that are read, got {graph!r}. Pass connectivity.full(sizes), kept causal for a language "
            "model, with keep_sources for padding."
        )
    return Support(torch.diff(ptr), causal, None if bool(is_read.all()) else is_read)


def labels_of_kind(graph: AttentionGraph, kind: str, causal: bool) -> Tensor:
    """Returns the cluster of each token, int64 [num_nodes], from the edges of a kind; −1 where a token has none.

    Raises:
        ValueError: if there is no such kind, its edges do not join all tokens of a cluster and those alone, or the
            other edges are not those of full attention.

    >>> from graphattn.connectivity import clusters
    >>> labels_of_kind(clusters(4, [5, 1, 5, -1]), "cluster", causal=False)
    tensor([ 0,  1,  0, -1])
    """
    _check_square(graph)
    if kind not in graph.kinds:
        raise ValueError(
            f"graph must have edges of kind {kind!r} that join the tokens of a cluster, got kinds {graph.kinds}. Pass "
            "connectivity.clusters(sizes, labels), or Clusters(kind=...)."
        )
    bit = 1 << graph.kinds.index(kind)
    label = torch.full((graph.num_src_nodes,), graph.num_src_nodes, device=graph.device)
    src, dst = graph.explicit_edges[:, (graph._explicit_kind() & bit) != 0]
    label.scatter_reduce_(0, dst, src, "amin")  # the first token of its cluster
    num_edges = src.numel()
    blocks = None if graph.blocks is None else graph.blocks.select((graph.blocks.kind & bit) != 0)
    if blocks is not None:
        first = blocks.src[blocks.src_ptr[:-1]]  # the one that all rows of a block read
        label.scatter_reduce_(0, blocks.dst, first[blocks.of_target()], "amin")
        num_edges += blocks.num_edges
    joins = label[src] == label[dst]
    is_whole = bool(joins.all())
    if blocks is not None:
        of_block = label[blocks.dst[blocks.dst_ptr[:-1]]]
        is_whole &= bool((label[blocks.dst] == of_block[blocks.of_target()]).all())
        is_whole &= bool((label[blocks.src] == of_block[blocks.of_source()]).all())
    size = torch.bincount(label, minlength=graph.num_src_nodes + 1)[:-1]
    expected = int((size * (size + 1) // 2 if causal else size * size).sum())
    if not is_whole or num_edges != expected or (causal and graph.looks_ahead()):
        raise ValueError(
            f"edges of kind {kind!r} must join the tokens of a cluster, all of them and those alone"
            f"{', and none look ahead' if causal else ''}, got {graph!r}. Pass connectivity.clusters(sizes, labels)"
            f"{' kept causal' if causal else ''}, with the label −1 for padding, or Clusters(causal={not causal})."
        )
    labels = torch.where(label == graph.num_src_nodes, -1, label)
    if graph.num_edges not in (num_edges, _num_full(graph.src_ptr, label >= 0, causal)):
        raise ValueError(
            f"edges of other kinds than {kind!r} must be all of full attention, or none, got {graph!r}. A Combiner "
            "reads other clusters by their summaries: pass connectivity.clusters(sizes, labels) alone."
        )
    return labels


def _check_square(graph: AttentionGraph) -> None:
    if not graph.is_square or not torch.equal(graph.src_ptr, graph.dst_ptr):
        raise ValueError(
            f"a Combiner needs sources that are the targets, got {graph!r}. Cross attention and selections that drop "
            "sources have no connect seat."
        )
    if graph._head_mask is not None:
        raise ValueError(
            f"a Combiner needs one graph for all heads, got {graph!r} with a head_mask. Use a layer per pattern."
        )


def _num_full(ptr: Tensor, is_read: Tensor, causal: bool) -> int:
    """Counts the pairs of full attention from tokens that are read."""
    size = torch.repeat_interleave(torch.diff(ptr), torch.diff(ptr))
    if causal:
        size = torch.repeat_interleave(ptr[1:], torch.diff(ptr)) - torch.arange(is_read.numel(), device=ptr.device)
    return int(size[is_read].sum())
