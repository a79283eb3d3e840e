"""What selections that disturb an order share: the strength of the noise, and sorting inside groups."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def check_sigma(sigma: Any) -> None:
    """Raises unless `sigma` is a number of at least 0, infinity included."""
    if isinstance(sigma, bool) or not isinstance(sigma, int | float):
        raise TypeError(f"sigma must be a float, got {type(sigma).__name__} {sigma!r}. Pass float(sigma).")
    if not sigma >= 0:
        raise ValueError(f"sigma must be at least 0, got {sigma}. Use 0 for plain windows, math.inf for no bias.")


def sorted_within(group: Tensor, value: Tensor) -> Tensor:
    """Returns the order that sorts by group, then by value; equal ones stay in order.

    >>> sorted_within(torch.tensor([0, 1, 1, 0]), torch.tensor([5, 7, 2, 3]))
    tensor([3, 0, 2, 1])
    """
    order = torch.argsort(value, stable=True)
    return order[torch.argsort(group[order], stable=True)]
