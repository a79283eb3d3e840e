"""Sliding windows: each token reads its neighbours in the sequence."""

import torch

from graphattn.connectivity._nodes import check_count, nodes_of
from graphattn.connectivity._ranges import edges_of_ranges
from graphattn.graph import AttentionGraph, Sizes


def sliding_window(sizes: Sizes, radius: int) -> AttentionGraph:
    r"""Connects each token to the tokens at most `radius` positions away, itself included.

    E = {(j → i) : |i − j| ≤ radius}, inside each graph. A graph of n nodes has n(2r + 1) − r(r + 1) edges with
    r = min(radius, n − 1). Seven tokens, radius 2:

        ■ ■ ■ · · · ·
        ■ ■ ■ ■ · · ·
        ■ ■ ■ ■ ■ · ·
        · ■ ■ ■ ■ ■ ·
        · · ■ ■ ■ ■ ■
        · · · ■ ■ ■ ■
        · · · · ■ ■ ■

    Args:
        sizes: number of nodes, or int64 [num_graphs] for a batch.
        radius: how far to look to each side, at least 0; 0 leaves self edges only.

    Returns:
        AttentionGraph of kind "window", on the device of `sizes`. For the causal half, `.keep(is_causal)`.

    Raises:
        TypeError: if `sizes` is neither an int nor an int64 tensor, or `radius` is no int.
        ValueError: if a size or `radius` is negative.

    Source: Beltagy et al. 2020 (Longformer), sec. 3.1, "Sliding Window". Their window of width w is radius = w / 2;
    dilation is left out.

    >>> sliding_window(4, radius=1).edge_index
    tensor([[0, 1, 0, 1, 2, 1, 2, 3, 2, 3],
            [0, 0, 1, 1, 1, 2, 2, 2, 3, 3]])
    """
    check_count(radius, "radius", 0, "Use 0 to keep only self edges.")
    nodes = nodes_of(sizes)
    start, stop = nodes.bounds()
    here = torch.arange(nodes.num_nodes, device=nodes.device)
    reach = min(radius, nodes.num_nodes)  # int64 cannot hold every int
    first = torch.maximum(here - reach, start)
    count = torch.minimum(here + reach + 1, stop) - first
    return AttentionGraph.trusted(
        edges_of_ranges(first, count),
        nodes.num_nodes,
        kinds=("window",),
        src_ptr=nodes.batch_ptr,
        origin=f"sliding_window({nodes.label}, radius={radius})",
    )
