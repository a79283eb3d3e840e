"""Multiplies the vectors of each head by a matrix of that head, forward and backward, to any order.

On the CPU, where Numba is there, by kernels of our own: the matrices that turn queries into what they ask of an edge's
features are skinny, and BLAS takes several times as long over them. Else by torch.
"""

import torch
from torch import Tensor

from graphattn.ops.operators import make_operator

MIN_ROWS = 4  # what a register tile of the kernels holds


def project_heads(x: Tensor, matrices: Tensor, *, use_kernels: bool) -> Tensor:
    """Returns x · matrices, head by head: [num_rows, num_heads, out_width].

    Args:
        x: [num_rows, num_heads, width].
        matrices: [num_heads, width, out_width].
        use_kernels: whether Numba is there and nothing is asked of the product that only torch's operators can, such
            as torch.func's transforms.
    """
    is_served = x.device.type == "cpu" and x.dtype == matrices.dtype and x.dtype in (torch.float32, torch.float64)
    if use_kernels and is_served and x.shape[0] >= MIN_ROWS:
        return products(x, matrices)
    return torch.bmm(x.transpose(0, 1), matrices).transpose(0, 1)


def _products(x: Tensor, matrices: Tensor) -> Tensor:
    """[num_rows, num_heads, out_width]"""
    from graphattn.ops._impl.numba import launch

    return launch.head_products(x, matrices)


def _summed_products(x: Tensor, y: Tensor) -> Tensor:
    """Σ_n x[n, h, c] · y[n, h], for x and y of equal rows and heads: [num_heads, width, out_width]"""
    from graphattn.ops._impl.numba import launch

    return launch.summed_head_products(x, y)


def _fake_products(x, matrices):
    return x.new_empty((*x.shape[:2], matrices.shape[2]))


def _fake_summed_products(x, y):
    return x.new_empty((x.shape[1], x.shape[2], y.shape[2]))


def _remember(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _products_gradients(ctx, grad):
    x, matrices = ctx.saved_tensors
    of_x, of_matrices, *_ = ctx.needs_input_grad
    return (
        products(grad, matrices.transpose(1, 2)) if of_x else None,
        summed_products(x, grad) if of_matrices else None,
    )


def _summed_products_gradients(ctx, grad):
    x, y = ctx.saved_tensors
    of_x, of_y, *_ = ctx.needs_input_grad
    return products(y, grad.transpose(1, 2)) if of_x else None, products(x, grad) if of_y else None


products = make_operator(
    "head_products", cpu=_products, fake=_fake_products, gradients=_products_gradients, remember=_remember
)
summed_products = make_operator(
    "head_products_backward",
    cpu=_summed_products,
    fake=_fake_summed_products,
    gradients=_summed_products_gradients,
    remember=_remember,
)
