"""Sets of (target, source) pairs as sorted int64 keys, `dst * num_src_nodes + src`: the arithmetic under the algebra.

Every function takes keys that increase strictly and returns keys that do.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Union(NamedTuple):
    """Where the keys of two sets stand in their union."""

    num_keys: int
    of_left: Tensor  # [num_left] int64
    of_right: Tensor  # [num_right] int64


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


def locate(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Returns how many keys of the left set precede each right one, [num_right], and whether the left set holds it.

    >>> locate(torch.tensor([1, 4]), torch.tensor([0, 4, 9]))
    (tensor([0, 1, 2]), tensor([False,  True, False]))
    """
    place = torch.searchsorted(left, right)
    if not left.numel():
        return place, torch.zeros_like(right, dtype=torch.bool)
    return place, left[place.clamp(max=left.numel() - 1)] == right


def unite(left: Tensor, right: Tensor) -> Union:
    """Finds the place of every key in the union of two key sets, by one search and without sorting anything.

    >>> unite(torch.tensor([1, 4]), torch.tensor([0, 4, 9]))
    Union(num_keys=4, of_left=tensor([1, 2]), of_right=tensor([0, 2, 3]))
    """
    place, is_held = locate(left, right)
    is_new = is_held.logical_not()
    # A key of the right moves behind the new ones that are smaller; the left ones take the places that are left over.
    rank = torch.cumsum(is_new, 0)
    of_right = place.add_(rank).sub_(is_new.view(torch.uint8))
    num_keys = left.numel() + (int(rank[-1]) if rank.numel() else 0)
    is_left = torch.ones(num_keys, dtype=torch.bool, device=left.device)
    is_left[of_right] = is_held
    return Union(num_keys, is_left.nonzero()[:, 0], of_right)
