"""Kernels that multiply the vectors of each head by a matrix of that head: skinny products that BLAS is slow at.

All arrays are flat and contiguous, all widths multiples of 8: x [num_rows, num_heads, width], y [num_rows, num_heads,
out_width], matrices [num_heads, width, out_width].
"""

import numpy as np

from graphattn.ops._impl.numba.pieces import (
    GROUP,
    add_rows,
    kernel,
    multiply,
)
from graphattn.ops._impl.numba.vectors import keep, optional, pointer

CHUNK_ROWS = 64  # of x and y stay in the nearest cache while all of a matrix is summed over them


@kernel
def project(begin, end, num_heads, width, out_width, x, matrices, y):
    """y[n, h] = x[n, h] · matrices[h] for the rows [begin, end), at least GROUP of them."""
    x, matrices, y = optional(x), optional(matrices), optional(y)
    for place in range(begin, end, GROUP):
        first = min(place, end - GROUP)  # the last rows overlap those before: the same bits once more
        for head in range(num_heads):
            at = first * num_heads + head
            multiply(
                y, at * out_width, num_heads * out_width, x, at * width, num_heads * width, 1,
                matrices, head * width * out_width, out_width, width, out_width, GROUP,
            )  # fmt: skip


@kernel
def sum_products(begin, end, num_rows, num_heads, width, out_width, x, y, matrices):
    """matrices[h, c] += Σ_n x[n, h, c] · y[n, h] for the heads [begin, end)."""
    sums = np.empty(GROUP * out_width, matrices.dtype)
    x, y, matrices, few_rows = optional(x), optional(y), optional(matrices), pointer(sums, 0)
    for head in range(begin, end):
        for first in range(0, num_rows, CHUNK_ROWS):
            at, depth = first * num_heads + head, min(CHUNK_ROWS, num_rows - first)
            for c in range(0, width, GROUP):
                multiply(
                    few_rows, 0, out_width, x, at * width + c, 1, num_heads * width,
                    y, at * out_width, num_heads * out_width, depth, out_width, GROUP,
                )  # fmt: skip
                add_rows(matrices, (head * width + c) * out_width, out_width, few_rows, GROUP, out_width)
    keep(sums)
