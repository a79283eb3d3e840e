"""Edges written down in canonical order from the start, so that nothing needs sorting."""

import torch
from torch import Tensor


def edges_of_ranges(first: Tensor, count: Tensor) -> Tensor:
    """Lists the edges of targets that each read a run of consecutive sources.

    Args:
        first: int64 [num_dst_nodes], first source that each target reads.
        count: int64 [num_dst_nodes], how many.

    Returns:
        int64 [2, count.sum()], canonical.

    >>> edges_of_ranges(torch.tensor([0, 0, 4]), torch.tensor([1, 0, 2])).tolist()
    [[0, 4, 5], [0, 2, 2]]
    """
    edges = first.new_empty(2, int(count.sum()))
    src, dst = edges
    dst.copy_(torch.repeat_interleave(count, output_size=src.numel()))
    # An edge's source is its position plus what depends on its target alone: one temporary beside the result.
    torch.arange(src.numel(), out=src, device=src.device)
    src += (first + count - torch.cumsum(count, 0))[dst]
    return edges
