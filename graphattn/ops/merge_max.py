"""Maxima over sets of rows that are merged of smaller ones, each computed once: prefixes of lines, spans in spans."""

from typing import NamedTuple

from torch import Tensor

from graphattn.ops.capability import has_numba, is_transformed
from graphattn.ops.operators import make_operator


class Merges(NamedTuple):
    """How sets are made. The first `num_rows` numbers stand for the rows, the next for what each merge makes."""

    left: Tensor  # [num_merges] int64, a row or an earlier merge
    right: Tensor  # [num_merges] int64
    root: Tensor  # [num_sets] int64, the row or merge that is the set; −1 for an empty one


def can_merge(values: Tensor) -> bool:
    """Returns whether `merge_max` serves such values: on the CPU, where Numba is installed, outside of torch.func."""
    return values.device.type == "cpu" and has_numba() and not is_transformed()


def merge_max(values: Tensor, merges: Merges) -> Tensor:
    """Returns the largest value of the rows of each set, channel by channel; 0 for an empty set.

    Args:
        values: [num_rows, num_channels].
        merges: how the sets are made of rows.

    Returns:
        [num_sets, num_channels]. The gradient goes to one largest row alone. Nothing but `values` is kept for the
        backward, which takes the maxima once more: O(rows + merges) numbers for sixteen channels at a time.

    >>> import torch
    >>> values = torch.tensor([[1.0], [4.0], [2.0]])
    >>> merge_max(values, Merges(torch.tensor([0, 3]), torch.tensor([1, 2]), torch.tensor([0, 4, -1]))).flatten()
    tensor([1., 4., 0.])
    """
    return _merge_max(values, *merges)


def _forward(values: Tensor, left: Tensor, right: Tensor, root: Tensor) -> Tensor:
    from graphattn.ops._impl.numba import launch

    return launch.merge_max(values, left, right, root)


def _fake_forward(values, left, right, root):
    return values.new_empty(root.shape[0], values.shape[1])


def _backward(grad: Tensor, values: Tensor, left: Tensor, right: Tensor, root: Tensor) -> Tensor:
    from graphattn.ops._impl.numba import launch

    return launch.merge_max_backward(grad, values, left, right, root)


def _fake_backward(grad, values, left, right, root):
    return values.new_empty(values.shape)


def _remember(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _gradients(ctx, grad):
    return _merge_max_backward(grad, *ctx.saved_tensors), None, None, None


_merge_max = make_operator(
    "merge_max",
    cpu=_forward,
    fake=_fake_forward,
    gradients=_gradients,
    remember=_remember,
    no_second='The kernel that merges maxima has no double backward: use summary="mean" of a Combiner.',
)
_merge_max_backward = make_operator("merge_max_backward", cpu=_backward, fake=_fake_backward)
