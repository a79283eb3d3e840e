"""Reductions over the edges that share a node: sum and max, empty segments included.

Plain torch kernels serve everywhere. Where the edges are sorted (`ptr` is given) and torch-scatter is installed, its
CSR kernels run instead; the meaning is the same.
"""

import functools
import importlib
from types import ModuleType

import torch
from torch import Tensor

from graphattn.ops.capability import is_transformed


def segment_sum(values: Tensor, index: Tensor, num_segments: int, ptr: Tensor | None = None) -> Tensor:
    """Sums the rows of `values` that share an index.

    Args:
        values: [num_rows, ...], any float dtype.
        index: int64 [num_rows], the segment of each row.
        num_segments: number of segments, empty ones included.
        ptr: int64 [num_segments + 1], where each segment starts, if `index` ascends.

    Returns:
        [num_segments, ...]; an empty segment receives zeros.

    >>> segment_sum(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0, 0, 2]), 3)
    tensor([3., 0., 4.])
    """
    if ptr is not None and (torch_scatter := installed_torch_scatter()) is not None:
        return _SortedSum.apply(values, index, ptr, torch_scatter)
    return values.new_zeros(num_segments, *values.shape[1:]).index_add(0, index, values)


def segment_max(values: Tensor, index: Tensor, num_segments: int) -> Tensor:
    """Takes the largest row value of each segment, element by element.

    Args:
        values: [num_rows, ...], any float dtype.
        index: int64 [num_rows], the segment of each row.
        num_segments: number of segments, empty ones included.

    Returns:
        [num_segments, ...]; an empty segment receives −inf. Ties share the gradient evenly.

    >>> segment_max(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0, 0, 2]), 3)
    tensor([2., -inf, 4.])
    """
    place = index.view(-1, *[1] * (values.dim() - 1)).expand_as(values)
    lowest = values.new_full((num_segments, *values.shape[1:]), -torch.inf)
    return lowest.scatter_reduce(0, place, values, "amax")


class _SortedSum(torch.autograd.Function):
    """torch-scatter's sum over sorted segments; its own second derivative is silently wrong, this one is not."""

    @staticmethod
    def forward(ctx, values: Tensor, index: Tensor, ptr: Tensor, torch_scatter: ModuleType) -> Tensor:
        ctx.save_for_backward(index)
        return torch_scatter.segment_csr(values.contiguous(), ptr, reduce="sum")

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore[override]
        (index,) = ctx.saved_tensors
        return grad.index_select(0, index), None, None, None


def installed_torch_scatter() -> ModuleType | None:
    """Returns torch-scatter where it can be imported, and no compiler or transform looks inside, else None."""
    return None if torch.compiler.is_compiling() or is_transformed() else _import_torch_scatter()


@functools.cache
def _import_torch_scatter() -> ModuleType | None:
    try:
        return importlib.import_module("torch_scatter")
    except (ImportError, OSError):  # OSError: it was built against another torch
        return None
