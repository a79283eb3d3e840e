"""Kernels that take maxima over sets which are merged of others, a vector of channels at a time: `ops/merge_max.py`.

Arrays are flat, rows of values `step` numbers apart, the number of channels a multiple of 8. Both serve chunks
[begin, end) of channels, so no two threads touch one number.
"""

import numpy as np

from graphattn.ops._impl.numba.pieces import (
    add_row,
    clear,
    kernel,
    part,
)
from graphattn.ops._impl.numba.vectors import (
    ask_for_huge_pages,
    keep,
    larger,
    like,
    load,
    optional,
    pointer,
    spread,
    store,
    where_equal,
)

CHUNK = 16  # channels: a cache line of float32


@part
def merge_all(best, left, right, num_merges, num_rows, values, step, first, width):
    """best[m * CHUNK:][:width] = the maximum of both sets that merge m joins."""
    for merge in range(num_merges):
        a, b = left[merge], right[merge]
        for c in range(0, width, 8):
            if a < num_rows:
                x = load(values, a * step + first + c)
            else:
                x = load(best, (a - num_rows) * CHUNK + c)
            if b < num_rows:
                y = load(values, b * step + first + c)
            else:
                y = load(best, (b - num_rows) * CHUNK + c)
            # of a pair with a NaN the second is taken, so a NaN on the left has to be kept
            store(best, merge * CHUNK + c, where_equal(x, x, larger(x, y), x))


@kernel
def merge_max(begin, end, num_rows, channels, left, right, root, values, step, out):
    num_merges, num_sets = len(left), len(root)
    numbers = np.empty(max(1, num_merges) * CHUNK, out.dtype)
    ask_for_huge_pages(numbers)
    best, left, right, root = pointer(numbers, 0), optional(left), optional(right), optional(root)
    values, out = optional(values), optional(out)
    for chunk in range(begin, end):
        first, width = chunk * CHUNK, min(CHUNK, channels - chunk * CHUNK)
        merge_all(best, left, right, num_merges, num_rows, values, step, first, width)
        for number in range(num_sets):
            place, at = root[number], number * channels + first
            if place < 0:
                clear(out, at, width)
            else:
                for c in range(0, width, 8):
                    if place < num_rows:
                        store(out, at + c, load(values, place * step + first + c))
                    else:
                        store(out, at + c, load(best, (place - num_rows) * CHUNK + c))
    keep(numbers)


@kernel
def merge_max_backward(begin, end, num_rows, channels, left, right, root, values, step, grad, grad_values):
    """Adds to grad_values, zero on arrival; on a tie the left set gains."""
    num_merges, num_sets = len(left), len(root)
    at_slopes = max(1, num_merges) * CHUNK
    numbers = np.empty(2 * at_slopes, values.dtype)
    ask_for_huge_pages(numbers)
    best, slopes = pointer(numbers, 0), pointer(numbers, at_slopes)
    left, right, root, values = optional(left), optional(right), optional(root), optional(values)
    grad, grad_values = optional(grad), optional(grad_values)
    zero = spread(like(best, 0))
    for chunk in range(begin, end):
        first, width = chunk * CHUNK, min(CHUNK, channels - chunk * CHUNK)
        merge_all(best, left, right, num_merges, num_rows, values, step, first, width)
        clear(slopes, 0, num_merges * CHUNK)
        for number in range(num_sets):
            place = root[number]
            if place >= num_rows:
                add_row(slopes, (place - num_rows) * CHUNK, grad, number * channels + first, width)
            elif place >= 0:
                add_row(grad_values, place * channels + first, grad, number * channels + first, width)
        for merge in range(num_merges - 1, -1, -1):
            a, b = left[merge], right[merge]
            for c in range(0, width, 8):
                top, slope = load(best, merge * CHUNK + c), load(slopes, merge * CHUNK + c)
                if a < num_rows:
                    at = a * channels + first + c
                    x = load(values, a * step + first + c)
                    store(grad_values, at, load(grad_values, at) + where_equal(x, top, slope, zero))
                else:
                    at = (a - num_rows) * CHUNK + c
                    x = load(best, at)
                    store(slopes, at, load(slopes, at) + where_equal(x, top, slope, zero))
                to_right = where_equal(x, top, zero, slope)
                if b < num_rows:
                    at = b * channels + first + c
                    store(grad_values, at, load(grad_values, at) + to_right)
                else:
                    at = (b - num_rows) * CHUNK + c
                    store(slopes, at, load(slopes, at) + to_right)
    keep(numbers)
