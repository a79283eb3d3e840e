"""Edges written down in canonical order from the start, so that nothing needs sorting."""

import torch
from torch import Tensor

from graphattn.connectivity._nodes import Nodes


def edges_of_ranges(first: Tensor, count: Tensor, step: int | Tensor = 1) -> Tensor:
    """Lists the edges of targets that each read a run of evenly spaced sources.

    Args:
        first: int64 [num_dst_nodes], first source that each target reads.
        count: int64 [num_dst_nodes], how many.
        step: distance between two sources of a run, at least 1; one for all, or int64 [num_dst_nodes].

    Returns:
        int64 [2, count.sum()], canonical.

    >>> edges_of_ranges(torch.tensor([0, 0, 4]), torch.tensor([1, 0, 2])).tolist()
    [[0, 4, 5], [0, 2, 2]]
    >>> edges_of_ranges(torch.tensor([0, 1]), torch.tensor([2, 3]), step=2).tolist()
    [[0, 2, 1, 3, 5], [0, 0, 1, 1, 1]]
    """
    row = count.nonzero()[:, 0]  # the targets that read anything
    first, count = first[row], count[row]
    start = torch.cumsum(count, 0) - count
    edges = first.new_empty(2, int(count.sum()))
    src, dst = edges
    # Both rows are running sums of their differences: no temporary of the size of the result.
    dst.zero_()
    dst[start] = torch.diff(row, prepend=row.new_zeros(1))
    if isinstance(step, Tensor):
        step = step[row]
        src.copy_(torch.repeat_interleave(step, count, output_size=src.numel()))
    else:
        src.fill_(step)
    last = first + step * (count - 1)
    src[start] = first
    src[start[1:]] -= last[:-1]
    return edges.cumsum_(1)


def edges_of_runs(first: Tensor, count: Tensor, step: int | Tensor = 1) -> Tensor:
    """Lists the edges of targets that each read several runs, one after the other.

    Args:
        first: int64 [num_dst_nodes, num_runs], first source of each run; the runs of a target ascend.
        count: int64 [num_dst_nodes, num_runs].
        step: one for all, or int64 [num_dst_nodes, num_runs].

    Returns:
        int64 [2, count.sum()], canonical.

    >>> edges_of_runs(torch.tensor([[0, 3], [1, 2]]), torch.tensor([[2, 1], [0, 1]])).tolist()
    [[0, 1, 3, 2], [0, 0, 0, 1]]
    """
    num_runs = first.shape[1]
    edges = edges_of_ranges(first.flatten(), count.flatten(), step.flatten() if isinstance(step, Tensor) else step)
    torch.div(edges[1], num_runs, rounding_mode="floor", out=edges[1])
    return edges


def edges_of_distances(nodes: Nodes, distances: Tensor) -> Tensor:
    """Lists the edges of targets that all read the sources at the same distances, as far as their graph goes.

    Args:
        nodes: the nodes of all graphs.
        distances: int64 [num_distances], source minus target, ascending.

    Returns:
        int64 [2, num_edges], canonical.

    >>> from graphattn.connectivity._nodes import nodes_of
    >>> edges_of_distances(nodes_of(4), torch.tensor([-2, 0])).tolist()
    [[0, 1, 0, 2, 1, 3], [0, 1, 2, 2, 3, 3]]
    """
    start, stop = nodes.bounds()
    here = torch.arange(nodes.num_nodes, device=nodes.device)
    first = torch.searchsorted(distances, start - here)
    edges = edges_of_ranges(first, torch.searchsorted(distances, stop - here) - first)
    torch.index_select(distances, 0, edges[0].clone(), out=edges[0])
    edges[0] += edges[1]
    return edges
