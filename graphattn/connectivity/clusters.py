"""Clusters: nodes that read those of their own cluster, wherever they stand."""

from collections.abc import Sequence

import torch
from torch import Tensor

from graphattn.connectivity._labels import graph_of_labels, labels_of
from graphattn.connectivity._nodes import nodes_of, two_sides
from graphattn.graph import AttentionGraph, Sizes

Ints = Sequence[int] | Tensor


def clusters(sizes: Sizes, labels: Ints) -> AttentionGraph:
    r"""Connects the nodes of each graph that carry the same label.

    E = {(j → i) : label(i) = label(j) ≥ 0}, inside each graph; Σ n_c² edges over the clusters of all graphs. Held as
    one `graph.blocks` entry per cluster. Seven nodes, labels 0 1 0 2 1 0 2:

        ■ · ■ · · ■ ·
        · ■ · · ■ · ·
        ■ · ■ · · ■ ·
        · · · ■ · · ■
        · ■ · · ■ · ·
        ■ · ■ · · ■ ·
        · · · ■ · · ■

    Args:
        sizes: number of nodes, or int64 [num_graphs] for a batch.
        labels: the cluster of each node, from any method: a sequence of ints or int64 [num_nodes], those of all graphs
            one after the other. A negative label is none: such a node reads nothing and is not read.

    Returns:
        AttentionGraph of kind "cluster", on the device of `sizes`.

    Raises:
        TypeError: if `sizes` is neither an int nor an int64 tensor, or `labels` are not ints.
        ValueError: if a size is negative, or there is not one label per node.

    Source: Chiang et al. 2019 (Cluster-GCN) keep the edges inside clusters of a graph; here all pairs inside a cluster
    are edges. Intersect with the graph for theirs.

    >>> clusters(7, [0, 1, 0, 2, 1, 0, 2]).num_edges                         # 9 + 4 + 4
    17
    >>> clusters(torch.tensor([2, 2]), [5, 5, 5, -1]).edge_index
    tensor([[0, 1, 0, 1, 2],
            [0, 0, 1, 1, 2]])
    """
    nodes = nodes_of(sizes)
    label = labels_of(labels, nodes, "labels")
    origin = f"clusters({nodes.label}, {_num_labels(label)} labels)"
    return graph_of_labels(label, nodes, label, nodes, kind="cluster", origin=origin)


def routing(sizes: Sizes, src_clusters: Ints, dst_clusters: Ints, *, dst_sizes: Sizes | None = None) -> AttentionGraph:
    r"""Lets each query read the keys that were routed to its cluster.

    E = {(j → i) : dst_clusters[i] = src_clusters[j] ≥ 0}, inside each graph; Σ m_c · n_c edges over the clusters of all
    graphs, with m_c queries and n_c keys. Held as one `graph.blocks` entry per cluster. Keys 0 1 1 2 0, queries
    1 0 0 2 1:

        · ■ ■ · ·
        ■ · · · ■
        ■ · · · ■
        · · · ■ ·
        · ■ ■ · ·

    Args:
        sizes: number of keys, or int64 [num_graphs] for a batch.
        src_clusters: the cluster of each key, a sequence of ints or int64 [num_src_nodes], those of all graphs one
            after the other; a negative one is none, and the key is not read.
        dst_clusters: the cluster of each query, [num_dst_nodes]; with a negative one it reads nothing.
        dst_sizes: number of queries of cross attention, in the form of `sizes`; None where each token is both.

    Returns:
        AttentionGraph of kind "routing", on the device of `sizes`; `.keep(is_causal)` for language models, which keeps
        the blocks.

    Raises:
        TypeError: if a size is neither an int nor an int64 tensor, or clusters are not ints.
        ValueError: if a size is negative, or there is not one cluster per node.

    Source: Roy et al. 2021 (Routing Transformer), sec. 4, with the assignment given: the k-means that makes it, and the
    equal cluster sizes they take, are left to the caller.

    >>> routing(5, [0, 1, 1, 2, 0], [1, 0, 0, 2, 1]).num_edges               # 2·2 + 2·2 + 1·1
    9
    """
    sources, targets, label = two_sides(sizes, dst_sizes)
    src_label = labels_of(src_clusters, sources, "src_clusters")
    dst_label = labels_of(dst_clusters, targets, "dst_clusters")
    origin = f"routing({label}, {_num_labels(torch.cat([src_label, dst_label]))} clusters)"
    return graph_of_labels(dst_label, targets, src_label, sources, kind="routing", origin=origin)


def _num_labels(labels: Tensor) -> int:
    return torch.unique(labels[labels >= 0]).numel()
