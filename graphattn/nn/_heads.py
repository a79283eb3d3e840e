"""Parts of projections that belong to some heads: rows of what makes them, columns of what reads them."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def checked_heads(kept: Sequence[int] | Tensor, num_heads: int) -> list[int]:
    """Returns distinct numbers of heads, ascending, or raises.

    Raises:
        TypeError: if one is no int.
        ValueError: if one is no head, or occurs twice.

    >>> checked_heads([2, 0], num_heads=3)
    [0, 2]
    """
    numbers = kept.tolist() if isinstance(kept, Tensor) else list(kept)
    if any(isinstance(number, bool) or not isinstance(number, int) for number in numbers):
        raise TypeError(f"kept must hold numbers of heads, got {numbers!r}. Of a mask, pass mask.nonzero()[:, 0].")
    if any(not 0 <= number < num_heads for number in numbers):
        raise ValueError(
            f"kept must hold heads from 0 to {num_heads - 1}, got {numbers}. Heads are counted among those that the "
            "layer has; one that was pruned before has fewer."
        )
    if len(set(numbers)) < len(numbers):
        raise ValueError(f"kept must hold each head once, got {numbers}. Leave out the repeated ones.")
    return sorted(numbers)


def keep_outputs_(linear: nn.Linear, heads: Sequence[int], head_dim: int) -> None:
    """Leaves a projection the outputs of some heads, head_dim each."""
    rows = _features(heads, head_dim, linear.weight.device)
    linear.weight = sliced(linear.weight, rows, 0)
    if linear.bias is not None:
        linear.bias = sliced(linear.bias, rows, 0)
    linear.out_features = rows.numel()


def keep_inputs_(linear: nn.Linear, heads: Sequence[int], head_dim: int) -> None:
    """Leaves a projection the inputs of some heads, head_dim each; its bias stays."""
    columns = _features(heads, head_dim, linear.weight.device)
    linear.weight = sliced(linear.weight, columns, 1)
    linear.in_features = columns.numel()


def sliced(parameter: Tensor, index: Tensor | Sequence[int], dim: int) -> nn.Parameter:
    """Returns a parameter with some entries of a dimension, trained or frozen as the whole was."""
    index = torch.as_tensor(index, dtype=torch.int64, device=parameter.device)
    return nn.Parameter(parameter.detach().index_select(dim, index), requires_grad=parameter.requires_grad)


def _features(heads: Sequence[int], head_dim: int, device: torch.device) -> Tensor:
    first = torch.tensor(heads, dtype=torch.int64, device=device) * head_dim
    return (first[:, None] + torch.arange(head_dim, device=device)).flatten()
