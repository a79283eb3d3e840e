"""Full attention inside each graph, held as one block per graph."""

import torch
from torch import Tensor

from graphattn.connectivity._nodes import nodes_of
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
    src_nodes = nodes_of(sizes)
    if dst_sizes is None:
        dst_nodes, origin = src_nodes, f"full({src_nodes.label})"
    else:
        dst_nodes = nodes_of(dst_sizes, "dst_sizes")
        origin = f"full({src_nodes.label}, dst_sizes={dst_nodes.label})"
        if isinstance(sizes, Tensor) != isinstance(dst_sizes, Tensor):
            raise TypeError(
                f"sizes and dst_sizes must be two ints or two tensors, got {type(sizes).__name__} and "
                f"{type(dst_sizes).__name__}. Give one entry per graph to both."
            )
        if src_nodes.num_graphs != dst_nodes.num_graphs:
            raise ValueError(
                f"sizes and dst_sizes must count the same graphs, got {src_nodes.num_graphs} and "
                f"{dst_nodes.num_graphs}. Give an empty graph the size 0."
            )
        if src_nodes.device != dst_nodes.device:
            raise ValueError(
                f"sizes and dst_sizes must be on one device, got {src_nodes.device} and {dst_nodes.device}. "
                "Call dst_sizes.to(sizes.device)."
            )
    blocks = bicliques(
        dst_nodes.ptr,
        torch.arange(dst_nodes.num_nodes, device=dst_nodes.device),
        src_nodes.ptr,
        torch.arange(src_nodes.num_nodes, device=src_nodes.device),
    )
    return AttentionGraph.trusted(
        torch.empty(2, 0, dtype=torch.int64, device=src_nodes.device),
        src_nodes.num_nodes,
        dst_nodes.num_nodes,
        blocks=blocks,
        kinds=("full",),
        src_ptr=src_nodes.batch_ptr,
        dst_ptr=dst_nodes.batch_ptr,
        origin=origin,
    )
