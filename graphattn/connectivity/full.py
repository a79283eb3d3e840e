"""Full attention inside each graph, held as one block per graph."""

import torch

from graphattn.connectivity._nodes import two_sides
from graphattn.graph import AttentionGraph, Sizes, bicliques


def full(sizes: Sizes, dst_sizes: Sizes | None = None) -> AttentionGraph:
    r"""Connects every source to every target of its graph.

    E = {(j → i) : i and j in the same graph}; Σ_g n_g² edges, or Σ_g n_g · m_g with `dst_sizes` m. They are held as
    one block per graph, O(nodes) to store, and listed only when `edge_index` is asked for.

    Args:
        sizes: number of sources n, or int64 [num_graphs] for a batch; of nodes where `dst_sizes` is None.
        dst_sizes: number of targets m of cross attention, in the form of `sizes`; None for a square graph.

    Returns:
        AttentionGraph of kind "full", on the device of `sizes`. Without sources in a graph its targets have no edges.

    Raises:
        TypeError: if a size is neither an int nor an int64 tensor, or only one of the two is a batch.
        ValueError: if a size is negative, or the two differ in number of graphs or device.

    Source: Vaswani et al. 2017, sec. 3.2.3: encoder self-attention and, with `dst_sizes`, encoder-decoder attention.

    >>> full(3).num_edges, full(torch.tensor([2, 3])).num_edges
    (9, 13)
    >>> print(full(3, dst_sizes=2).to_mask().int())
    tensor([[1, 1, 1],
            [1, 1, 1]], dtype=torch.int32)
    """
    sources, targets, label = two_sides(sizes, dst_sizes)
    blocks = bicliques(
        targets.ptr,
        torch.arange(targets.num_nodes, device=targets.device),
        sources.ptr,
        torch.arange(sources.num_nodes, device=sources.device),
    )
    return AttentionGraph.trusted(
        torch.empty(2, 0, dtype=torch.int64, device=sources.device),
        sources.num_nodes,
        targets.num_nodes,
        blocks=blocks,
        kinds=("full",),
        src_ptr=sources.batch_ptr,
        dst_ptr=targets.batch_ptr,
        origin=f"full({label})",
    )
