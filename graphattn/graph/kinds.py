"""Edge kinds: names of who made an edge, kept as a bitmask so that a bond that is also a window edge stays both."""

from collections.abc import Sequence

import torch
from torch import Tensor

MAX_KINDS = 15  # bits of a non-negative int16


def check_kinds(kinds: Sequence[str]) -> tuple[str, ...]:
    """Returns `kinds` as a tuple, or raises unless they are at most 15 distinct names."""
    if isinstance(kinds, str) or not all(isinstance(kind, str) for kind in kinds):
        raise TypeError(f"kinds must be a sequence of names, got {kinds!r}. Write kinds=('bond',) for a single one.")
    kinds = tuple(kinds)
    if len(set(kinds)) != len(kinds):
        raise ValueError(f"kinds must be distinct names, got {kinds}. Name each kind once.")
    if len(kinds) > MAX_KINDS:
        raise ValueError(
            f"kinds must be at most {MAX_KINDS} names (one bit each), got {len(kinds)}. "
            "Merge kinds that you need not tell apart."
        )
    return kinds


def join(left: tuple[str, ...], right: tuple[str, ...]) -> tuple[str, ...]:
    """Returns all names, the left ones first, each once.

    >>> join(("bond", "window"), ("window", "global"))
    ('bond', 'window', 'global')
    """
    return check_kinds(left + tuple(kind for kind in right if kind not in left))


def rename_bits(mask: Tensor, old: tuple[str, ...], new: tuple[str, ...]) -> Tensor:
    """Moves the bits of a bitmask from the order of `old` names to that of `new`; a bit without a name is dropped.

    >>> rename_bits(torch.tensor([0b01, 0b11], dtype=torch.int16), ("a", "b"), ("b", "c", "a"))
    tensor([4, 5], dtype=torch.int16)
    """
    if new[: len(old)] == old:
        return mask & all_bits(old)
    moved = torch.zeros_like(mask)
    for bit, kind in enumerate(old):
        moved |= ((mask >> bit) & 1) << new.index(kind)
    return moved


def gather_bits(mask: Tensor, group: Tensor, num_groups: int) -> Tensor:
    """ORs the bitmasks of each group, [num_groups].

    >>> gather_bits(torch.tensor([1, 2, 4], dtype=torch.int16), torch.tensor([0, 0, 1]), 2)
    tensor([3, 4], dtype=torch.int16)
    """
    combined = mask.new_zeros(num_groups)
    for bit in range(MAX_KINDS):
        combined |= torch.zeros_like(combined).scatter_reduce_(0, group, mask & (1 << bit), "amax")
    return combined


def check_edge_kind(edge_kind: Tensor, kinds: tuple[str, ...], num_edges: int) -> Tensor:
    """Returns `edge_kind` as int16 [num_edges], or raises a ValueError if it is no bitmask into `kinds`."""
    if edge_kind.is_floating_point() or edge_kind.is_complex() or edge_kind.shape != (num_edges,):
        raise ValueError(
            f"edge_kind must be integer [num_edges] = [{num_edges}], got {edge_kind.dtype} {list(edge_kind.shape)}. "
            "Give one bitmask per column of edge_index."
        )
    unnamed = (edge_kind < 0) | (edge_kind > all_bits(kinds))
    if bool(unnamed.any()):
        raise ValueError(
            f"edge_kind must lie in [0, 2^{len(kinds)}) for kinds {kinds}, got {int(edge_kind[unnamed][0])}. "
            "Name every bit in `kinds`."
        )
    return edge_kind.to(torch.int16)


def all_bits(kinds: tuple[str, ...]) -> int:
    """Returns the bitmask that names every kind, 0 where there are none."""
    return (1 << len(kinds)) - 1
