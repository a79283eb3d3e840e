"""Ragged batches: the sizes of many graphs as node offsets, and ranges of unequal length without a loop."""

import torch
from torch import Tensor

Sizes = int | Tensor


def node_ptr(sizes: Sizes, name: str = "sizes") -> Tensor:
    """Turns the size of one graph, or the sizes of a batch, into node offsets.

    Args:
        sizes: number of nodes, or int64 [num_graphs] with one number per graph.
        name: what to call the argument in an error.

    Returns:
        int64 [num_graphs + 1]; graph g owns the nodes ptr[g] ... ptr[g + 1] - 1.

    Raises:
        TypeError: if `sizes` is neither an int nor an int64 tensor.
        ValueError: if it has the wrong shape or a negative entry.

    >>> node_ptr(4), node_ptr(torch.tensor([2, 0, 3]))
    (tensor([0, 4]), tensor([0, 2, 2, 5]))
    """
    if isinstance(sizes, bool) or not isinstance(sizes, int | Tensor):
        raise TypeError(
            f"{name} must be an int or an int64 tensor [num_graphs], got {type(sizes).__name__}. "
            "Pass torch.tensor(list_of_sizes) for a batch."
        )
    if isinstance(sizes, int):
        sizes = torch.tensor([sizes])
    if sizes.dtype != torch.int64:
        raise TypeError(f"{name} must have dtype torch.int64, got {sizes.dtype}. Call {name}.long() first.")
    if sizes.dim() != 1:
        raise ValueError(f"{name} must have shape [num_graphs], got {list(sizes.shape)}. Pass one size per graph.")
    if sizes.numel() and int(sizes.min()) < 0:
        raise ValueError(f"{name} must not be negative, got {int(sizes.min())}. An empty graph has size 0.")
    ptr = torch.zeros(sizes.numel() + 1, dtype=torch.int64, device=sizes.device)
    torch.cumsum(sizes, 0, out=ptr[1:])
    return ptr


def check_ptr(ptr: Tensor, total: int, name: str) -> None:
    """Raises a ValueError unless `ptr` is int64 [num_graphs + 1] and rises from 0 to `total`."""
    if ptr.dtype != torch.int64 or ptr.dim() != 1 or ptr.numel() < 1:
        raise ValueError(
            f"{name} must be int64 [num_graphs + 1], got {ptr.dtype} {list(ptr.shape)}. Pass offsets, 0 first."
        )
    if int(ptr[0]) != 0 or int(ptr[-1]) != total or bool((torch.diff(ptr) < 0).any()):
        raise ValueError(
            f"{name} must rise from 0 to the number of entries, {total}, got {ptr[:8].tolist()}. "
            "Use the cumulative sum of the sizes."
        )


def batch_of(ptr: Tensor) -> Tensor:
    """Returns the graph of each node, int64 [num_nodes], from node offsets [num_graphs + 1].

    >>> batch_of(torch.tensor([0, 2, 2, 5]))
    tensor([0, 0, 2, 2, 2])
    """
    return torch.repeat_interleave(torch.diff(ptr))


def ragged_range(counts: Tensor) -> tuple[Tensor, Tensor]:
    """Enumerates `range(count)` for every entry of `counts`, one after the other.

    Returns:
        group: int64 [counts.sum()], which entry a position belongs to.
        offset: int64 [counts.sum()], its place inside that entry's range.

    >>> ragged_range(torch.tensor([2, 0, 3]))
    (tensor([0, 0, 2, 2, 2]), tensor([0, 1, 0, 1, 2]))
    """
    group = torch.repeat_interleave(counts)
    start = torch.cumsum(counts, 0) - counts
    return group, torch.arange(group.numel(), device=counts.device) - start[group]


def running_range(values: Tensor, group: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the least and the largest value so far in each group, both [num_values].

    Args:
        values: int64 [num_values], at least 0.
        group: int64 [num_values], ascending.

    >>> running_range(torch.tensor([3, 1, 4, 2]), torch.tensor([0, 0, 1, 1]))
    (tensor([3, 1, 4, 2]), tensor([3, 3, 4, 4]))
    """
    if not values.numel():
        return values, values
    # its number lifts each group above those before it, so that a running maximum starts anew there
    lift = group * (int(values.max()) + 1)
    return lift - torch.cummax(lift - values, 0).values, torch.cummax(lift + values, 0).values - lift
