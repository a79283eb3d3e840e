"""Clusters from any method: a token reads its own, and one summary of each other one of its graph."""

from collections.abc import Sequence

import torch
from torch import Tensor

from graphattn.connectivity._labels import labels_of
from graphattn.connectivity._nodes import Nodes, nodes_of
from graphattn.connectivity.combiner.pair import (
    KINDS,
    Pair,
    check_member,
    finished,
    options_of,
    pair_of_blocks,
    staircases,
)
from graphattn.graph import AttentionGraph, Sizes, batch_of, node_ptr, ragged_range


def clusters(
    sizes: Sizes, labels: Sequence[int] | Tensor, *, causal: bool = False, member: Tensor | None = None
) -> Pair:
    r"""Lets each token read the tokens that carry its label, and one abstraction of every other label of its graph.

    Ω⁰_i = the own cluster, Ω^r_i = cluster r, for every other cluster r of the graph. With C clusters of n_c of the n
    tokens of a graph there are n edges into C abstractions, Σ n_c² direct ones and n(C − 1) reads. Causal, both are cut
    at i: the abstractions are the first 1, 2, … tokens of each cluster that somebody reads, Σ n_c(n_c + 1) / 2 edges
    at most into n of them.

    Args:
        sizes: number of tokens, or int64 [num_graphs] for a batch.
        labels: the cluster of each token, from any method, such as communities or rings of a molecule: a sequence of
            ints or int64 [num_nodes], those of all graphs one after the other. A token with a negative label reads
            nothing and is not read. A virtual node takes a label of its own: a cluster of one is read as itself.
        causal: whether token i reads tokens up to i only.
        member: as in `fixed`.

    Returns:
        Pair, unpacked as `summarise, attend`, on the device of `sizes`.

    Raises:
        TypeError: if `sizes` is neither an int nor an int64 tensor, or `labels` are not ints.
        ValueError: if a size is negative, there is not one label per token, or `member` is of another shape.

    Source: Ren et al. 2021 (Combiner), eq. 11, learnable partitions, with the clusters given: the k-means that makes
    them is left to the caller.

    >>> summarise, attend = clusters(5, [0, 1, 0, 2, 1])
    >>> summarise.edge_index.tolist()
    [[0, 2, 1, 4, 3], [0, 0, 1, 1, 2]]
    >>> attend.edge_index[0][attend.edge_index[1] == 3].tolist()             # itself, clusters 0 and 1
    [3, 5, 6]
    """
    nodes = nodes_of(sizes)
    label = labels_of(labels, nodes, "labels")
    member = check_member(member, nodes)
    origin = f"combiner.clusters({nodes.label}, {torch.unique(label[label >= 0]).numel()} labels" + (
        f"{options_of(causal, member)})"
    )
    token = (label >= 0).nonzero()[:, 0]
    graph = batch_of(nodes.ptr)[token]
    number = torch.unique(label[token], return_inverse=True)[1]  # whatever ints the labels are
    num_labels = int(number.max()) + 1 if number.numel() else 1
    found, own = torch.unique(graph * num_labels + number, return_inverse=True)
    of_graph = torch.div(found, num_labels, rounding_mode="floor")
    num_clusters = torch.bincount(of_graph, minlength=nodes.num_graphs)
    if causal:
        return _causal(nodes, token, graph, own, num_clusters, member, origin)
    cluster = torch.arange(found.numel(), device=nodes.device)
    tokens = torch.bincount(own, minlength=found.numel())
    # block c holds the tokens of cluster c, and the other clusters of its graph
    block, place = ragged_range(num_clusters[of_graph])
    source = node_ptr(num_clusters)[of_graph[block]] + place
    is_other = source != block
    return pair_of_blocks(
        nodes,
        num_clusters,
        summarise=[staircases(cluster, cluster, tokens, own, token)],
        direct=[staircases(own, token, tokens[own], own, token)],
        read=[staircases(own, token, num_clusters[graph] - 1, block[is_other], source[is_other])],
        origin=origin,
        member=member,
        keeps_unread=True,
    )


def _causal(
    nodes: Nodes, token: Tensor, graph: Tensor, own: Tensor, num_clusters: Tensor, member: Tensor | None, origin: str
) -> Pair:
    """The pair whose abstraction (c, k) summarises the first k tokens of cluster c."""
    by_cluster = torch.argsort(own, stable=True)
    start = node_ptr(torch.bincount(own, minlength=int(num_clusters.sum())))
    rank = torch.empty_like(own)
    rank[by_cluster] = torch.arange(own.numel(), device=own.device) - start[own[by_cluster]]
    # every cluster of its graph that a token does not belong to, and how many of its tokens come before
    row, place = ragged_range(num_clusters[graph])
    other = node_ptr(num_clusters)[graph[row]] + place
    width = nodes.num_nodes + 1
    position = torch.searchsorted(own[by_cluster] * width + token[by_cluster], other * width + token[row])
    before = position - start[other]
    is_read = (other != own[row]) & (before > 0)
    row, node = row[is_read], start[other[is_read]] + before[is_read] - 1
    kept, node = torch.unique(node, return_inverse=True)
    cluster = own[by_cluster][kept]
    ptr = node_ptr(torch.bincount(graph[by_cluster][kept], minlength=nodes.num_graphs))
    num_abstractions = kept.numel()
    summarise = AttentionGraph.trusted(
        None if not num_abstractions else torch.empty(2, 0, dtype=torch.int64, device=nodes.device),
        nodes.num_nodes,
        num_abstractions,
        blocks=staircases(
            cluster, torch.arange(num_abstractions, device=own.device), kept - start[cluster] + 1, own, token
        ),
        kinds=("summarise",),
        src_ptr=nodes.batch_ptr,
        dst_ptr=None if nodes.batch_ptr is None else ptr,
        origin=f"{origin}.summarise",
    )
    edges = torch.stack([nodes.num_nodes + node, token[row]])
    attend = AttentionGraph.trusted(
        edges,  # by token, then by cluster, and so by abstraction
        nodes.num_nodes + num_abstractions,
        nodes.num_nodes,
        blocks=staircases(own, token, rank + 1, own, token),
        edge_kind=torch.full_like(edges[0], 2).to(torch.int16),
        kinds=KINDS,
        origin=f"{origin}.attend",
    )
    return finished(summarise, attend, member, None)
