"""Gives each edge the row of its type in a table, forward and backward, to any order.

The gradient sums the edges of each type. torch does so number by number, on one thread; on the CPU, where Numba is
there, a kernel of ours does.
"""

import torch
from torch import Tensor

from graphattn.ops.operators import make_operator


def rows_of_types(table: Tensor, edge_type: Tensor, *, use_kernels: bool) -> Tensor:
    """Returns table[edge_type]: [num_edges, width].

    Args:
        table: [num_types, width].
        edge_type: int64 [num_edges], below num_types.
        use_kernels: as in `projection.project_heads`.
    """
    if use_kernels and table.device.type == "cpu" and table.dtype in (torch.float32, torch.float64):
        return rows(table, edge_type)
    return table.index_select(0, edge_type)


def _rows(table: Tensor, edge_type: Tensor) -> Tensor:
    return table.index_select(0, edge_type)


def _sums(x: Tensor, edge_type: Tensor, num_types: int) -> Tensor:
    """The sum of the rows of x of each type: [num_types, width]"""
    from graphattn.ops._impl.numba import launch

    return launch.sums_by_type(x, edge_type, num_types)


def _fake_rows(table, edge_type):
    return table.new_empty((edge_type.shape[0], table.shape[1]))


def _fake_sums(x, edge_type, num_types):
    return x.new_empty((num_types, x.shape[1]))


def _remember_rows(ctx, inputs, output):
    table, edge_type = inputs
    ctx.num_types = table.shape[0]
    ctx.save_for_backward(edge_type)


def _remember_sums(ctx, inputs, output):
    ctx.save_for_backward(inputs[1])


def _rows_gradients(ctx, grad):
    (edge_type,) = ctx.saved_tensors
    return sums(grad, edge_type, ctx.num_types), None


def _sums_gradients(ctx, grad):
    (edge_type,) = ctx.saved_tensors
    return rows(grad, edge_type), None, None


rows = make_operator("type_rows", cpu=_rows, fake=_fake_rows, gradients=_rows_gradients, remember=_remember_rows)
sums = make_operator("type_sums", cpu=_sums, fake=_fake_sums, gradients=_sums_gradients, remember=_remember_sums)
