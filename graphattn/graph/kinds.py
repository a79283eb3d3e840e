"""Edge kinds: names of who made an edge, kept as a bitmask so that a bond that is also a window edge stays both."""

import torch
from torch import Tensor

MAX_KINDS = 15  # bits of a non-negative int16


def check_kinds(kinds: tuple[str, ...]) -> tuple[str, ...]:
    """Returns `kinds` as a tuple, or raises a ValueError if names repeat or there are more than 15."""
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
    """Moves the bits of a bitmask from the order of `old` names to that of `new` names.

    >>> rename_bits(torch.tensor([0b01, 0b11], dtype=torch.int16), ("a", "b"), ("b", "c", "a"))
    tensor([4, 5], dtype=torch.int16)
    """
    if new[: len(old)] == old:
        return mask
    moved = torch.zeros_like(mask)
    for bit, kind in enumerate(old):
        moved |= ((mask >> bit) & 1) << new.index(kind)
    return moved


def all_bits(kinds: tuple[str, ...]) -> int:
    """Returns the bitmask that names every kind, 0 where there are none."""
    return (1 << len(kinds)) - 1
