"""Nodes that read each other because they carry the same label: one biclique per label."""

from collections.abc import Sequence

import torch
from torch import Tensor

from graphattn.connectivity._nodes import Nodes, as_ints
from graphattn.graph import AttentionGraph, Blocks, batch_of, bicliques, node_ptr


def labels_of(labels: Sequence[int] | Tensor, nodes: Nodes, name: str) -> Tensor:
    """Returns one label per node, int64 [num_nodes], or raises."""
    values = as_ints(labels, name, "[num_nodes]", nodes.device)
    if values.numel() != nodes.num_nodes:
        raise ValueError(
            f"{name} must have one entry per node, {nodes.num_nodes}, got {values.numel()}. "
            "In a batch, list the nodes of all graphs one after the other."
        )
    return values


def graph_of_labels(
    dst_labels: Tensor, targets: Nodes, src_labels: Tensor, sources: Nodes, *, kind: str, origin: str
) -> AttentionGraph:
    """Makes the graph whose edges are `blocks_of_labels`, on the device of the sources."""
    return AttentionGraph.trusted(
        torch.empty(2, 0, dtype=torch.int64, device=sources.device),
        sources.num_nodes,
        targets.num_nodes,
        blocks=blocks_of_labels(dst_labels, targets, src_labels, sources),
        kinds=(kind,),
        src_ptr=sources.batch_ptr,
        dst_ptr=targets.batch_ptr,
        origin=origin,
    )


def blocks_of_labels(dst_labels: Tensor, targets: Nodes, src_labels: Tensor, sources: Nodes) -> Blocks | None:
    """Makes one block for each label of each graph: its targets read its sources; a negative label is no label.

    >>> from graphattn.connectivity._nodes import nodes_of
    >>> labels, nodes = torch.tensor([7, 2, -1, 7]), nodes_of(4)
    >>> blocks_of_labels(labels, nodes, labels, nodes).enumerate()[0].tolist()
    [[1, 0, 3, 0, 3], [1, 0, 0, 3, 3]]
    """
    labels = torch.cat([dst_labels, src_labels])
    batch = torch.cat([batch_of(targets.ptr), batch_of(sources.ptr)])
    entry = (labels >= 0).nonzero()[:, 0]
    by_label = entry[torch.argsort(labels[entry], stable=True)]
    order = by_label[torch.argsort(batch[by_label], stable=True)]  # by graph, label, then targets before sources
    label, graph, is_target = labels[order], batch[order], order < targets.num_nodes
    is_new = torch.ones_like(is_target)
    is_new[1:] = (torch.diff(label) != 0) | (torch.diff(graph) != 0)
    group = torch.cumsum(is_new, 0) - 1
    num_groups = int(is_new.sum())
    return bicliques(
        node_ptr(torch.bincount(group[is_target], minlength=num_groups)),
        order[is_target],
        node_ptr(torch.bincount(group[~is_target], minlength=num_groups)),
        order[~is_target] - targets.num_nodes,
    )
