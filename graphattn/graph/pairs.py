"""Sets of (target, source) pairs as sorted int64 keys, `dst * num_src_nodes + src`: the arithmetic under the algebra.

Every function takes keys that increase strictly and returns keys that do.
"""

import torch
from torch import Tensor


def encode(edge_index: Tensor, num_src_nodes: int) -> Tensor:
    """Returns one key per edge, [num_edges]; keys sort by target, then source.

    >>> encode(torch.tensor([[1, 0], [0, 1]]), num_src_nodes=3)
    tensor([1, 3])
    """
    return edge_index[1] * num_src_nodes + edge_index[0]


def decode(keys: Tensor, num_src_nodes: int) -> Tensor:
    """Returns the edge_index [2, num_edges] that `encode` came from."""
    dst = torch.div(keys, max(num_src_nodes, 1), rounding_mode="floor")
    return torch.stack([keys - dst * num_src_nodes, dst])


def find(keys: Tensor, wanted: Tensor) -> Tensor:
    """Returns the position of each wanted key, −1 where it is absent.

    >>> find(torch.tensor([1, 4, 6]), torch.tensor([4, 5]))
    tensor([ 1, -1])
    """
    if not keys.numel():
        return torch.full_like(wanted, -1)
    position = torch.searchsorted(keys, wanted).clamp_(max=keys.numel() - 1)
    return torch.where(keys[position] == wanted, position, -1)


def merge(left: Tensor, right: Tensor) -> Tensor:
    """Returns the union of two key sets, without sorting what is sorted already.

    >>> merge(torch.tensor([1, 4]), torch.tensor([0, 4, 9]))
    tensor([0, 1, 4, 9])
    """
    new = right[find(left, right) < 0]
    place = torch.searchsorted(left, new) + torch.arange(new.numel(), device=new.device)
    merged = left.new_empty(left.numel() + new.numel())
    from_left = torch.ones_like(merged, dtype=torch.bool)
    from_left[place] = False
    merged[place] = new
    merged[from_left] = left
    return merged
