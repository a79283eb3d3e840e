"""What kernels are made of: how they are compiled and kept, and pieces of them, compiled into whoever calls them.

Arrays are pointers to their first number, and pieces read and write whole vectors: see `vectors`.
"""

import hashlib
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numba.core.caching import FunctionCache, IndexDataCacheFile

from graphattn.ops._impl.numba.vectors import (
    clamp,
    exp2,
    fma,
    is_given,
    lane_max,
    lane_sum,
    larger,
    like,
    load,
    load_apart,
    log2,
    prefetch,
    prefetch_apart,
    spread,
    store,
    store_eight_maxima,
    store_eight_sums,
    store_sums,
    store_transposed,
    tile_4x1,
    tile_4x2,
    tile_4x3,
    where_equal,
    within,
    zero_beyond,
)

OPTIONS = dict(nogil=True, error_model="numpy")
FOLDER = Path(__file__).parent
IMPORTED = "abreast.py", "pieces.py", "vectors.py"
SOURCES = hashlib.sha256(b"".join((FOLDER / name).read_bytes() for name in IMPORTED)).hexdigest()


class KernelFiles(IndexDataCacheFile):
    """A kernel's machine code, a file for each of its signatures and versions.

    Numba numbers these files. Two processes that compile one kernel for different types at once may both take the
    lowest number that is free, and then the code for float64 stands where that for float32 is looked for.
    """

    def save(self, key, data):
        digest = hashlib.sha256(repr((self._source_stamp, key)).encode()).digest()
        name = self._data_name(int.from_bytes(digest[:8], "big"))
        if not self._load_index():  # of another version, if any
            for path in Path(self._cache_path).glob(f"{Path(self._index_path).stem}.*.nbc"):
                path.unlink(missing_ok=True)
        self._save_data(name, data)
        self._save_index({**self._load_index(), key: name})


class KernelCache(FunctionCache):
    """Numba's disk cache, keyed by the text of what kernels import, too: by itself it would miss an edit there."""

    def __init__(self, function):
        super().__init__(function)
        stamp = self._impl.locator.get_source_stamp()
        self._cache_file = KernelFiles(self._cache_path, self._impl.filename_base, stamp)

    def _index_key(self, signature, codegen):
        return (*super()._index_key(signature, codegen), SOURCES)

    def load_overload(self, signature, target_context):
        found = super().load_overload(signature, target_context)
        if found is None and sys.stderr.isatty():
            name = self._py_func.__name__
            print(f"graphattn: compiling {name!r} for this machine, once; some ten seconds", file=sys.stderr)
        return found

    def _save_overload(self, signature, data):
        try:
            super()._save_overload(signature, data)
        except OSError:  # a full disk or a folder that became read-only costs the next process a compilation, no more
            pass


def kernel(function, parallel=False):
    """Compiles on first call, or reads the machine code from disk where a folder for it can be written."""
    dispatcher = njit(parallel=parallel, **OPTIONS)(function)
    try:
        dispatcher._cache = KernelCache(function)
    except RuntimeError:  # no writable folder
        pass
    return dispatcher


def parallel_kernel(function):
    return kernel(function, parallel=True)


GROUP = 4  # rows that one register tile serves
TILE_ROWS = 64
TILE_COLUMNS = 2048  # the widest range of sources that a tile reads
TILE_DIM = 512  # the widest head that tiles serve
TILE_CELLS = 2**15  # rows times columns: the weights and slopes of a tile stay in the second-level cache
FEW_TYPES = 16  # up to here, comparing with every type is faster than looking each up
BUNCH_ROWS, BUNCH_EDGES = 8, 128  # of a bunch of rows that run side by side
FAR_EDGES = 32  # the longest row whose nodes are asked for ahead
NEAR_NUMBERS = 2**18  # keys and values that one second-level cache holds
BEFORE = 8  # numbers before the first row of a tile that clearing may overwrite
LINE = 16  # numbers of 4 bytes in a cache line
FIELDS = 7  # of a task
LOG2_E, LOG_2 = 1 / np.log(2), np.log(2)

part = njit(
    forceinline=True, no_cpython_wrapper=True, no_cfunc_wrapper=True, **OPTIONS
)  # a piece of a kernel, compiled into whoever calls it
part_of_rows = njit(
    no_cpython_wrapper=True, no_cfunc_wrapper=True, **OPTIONS
)  # one that is called, since it serves many numbers at once


@part
def padded(count):
    """How many numbers the whole vectors have that hold so many."""
    return count + -count % 8


@part
def dots(into, count, vector, at, table, rows, stride, offset, width):
    """into[t] = vector[at:][:width] · table[rows[t] * stride + offset:][:width], eight rows or four at a time.

    Writes up to the next multiple of four.
    """
    last = count - 1
    zero = spread(like(into, 0))
    for t in range(0, count, 8):
        a = rows[t] * stride + offset
        b = rows[min(t + 1, last)] * stride + offset
        c = rows[min(t + 2, last)] * stride + offset
        d = rows[min(t + 3, last)] * stride + offset
        sum_a, sum_b, sum_c, sum_d = zero, zero, zero, zero
        if last < t + 4:
            for column in range(0, width, 8):
                x = load(vector, at + column)
                sum_a = fma(x, load(table, a + column), sum_a)
                sum_b = fma(x, load(table, b + column), sum_b)
                sum_c = fma(x, load(table, c + column), sum_c)
                sum_d = fma(x, load(table, d + column), sum_d)
            store_sums(into, t, sum_a, sum_b, sum_c, sum_d)
        else:
            e = rows[t + 4] * stride + offset
            f = rows[min(t + 5, last)] * stride + offset
            g = rows[min(t + 6, last)] * stride + offset
            h = rows[min(t + 7, last)] * stride + offset
            sum_e, sum_f, sum_g, sum_h = zero, zero, zero, zero
            for column in range(0, width, 8):
                x = load(vector, at + column)
                sum_a = fma(x, load(table, a + column), sum_a)
                sum_b = fma(x, load(table, b + column), sum_b)
                sum_c = fma(x, load(table, c + column), sum_c)
                sum_d = fma(x, load(table, d + column), sum_d)
                sum_e = fma(x, load(table, e + column), sum_e)
                sum_f = fma(x, load(table, f + column), sum_f)
                sum_g = fma(x, load(table, g + column), sum_g)
                sum_h = fma(x, load(table, h + column), sum_h)
            store_eight_sums(into, t, sum_a, sum_b, sum_c, sum_d, sum_e, sum_f, sum_g, sum_h)


@part
def dot(first, first_at, second, second_at, width):
    total = spread(like(first, 0))
    for column in range(0, width, 8):
        total = fma(load(first, first_at + column), load(second, second_at + column), total)
    return lane_sum(total)


@part
def add_weighted(into, at, count, weights, weights_at, table, rows, stride, offset, width):
    """into[at:][:width] += Σ_t weights[weights_at + t] · table[rows[t] * stride + offset:][:width], the sums kept in
    registers."""
    zero = spread(like(into, 0))
    column = 0
    while column + 64 <= width:
        s0, s1, s2, s3, s4, s5, s6, s7 = zero, zero, zero, zero, zero, zero, zero, zero
        for t in range(count):
            w = spread(weights[weights_at + t])
            a = rows[t] * stride + offset + column
            s0 = fma(w, load(table, a), s0)
            s1 = fma(w, load(table, a + 8), s1)
            s2 = fma(w, load(table, a + 16), s2)
            s3 = fma(w, load(table, a + 24), s3)
            s4 = fma(w, load(table, a + 32), s4)
            s5 = fma(w, load(table, a + 40), s5)
            s6 = fma(w, load(table, a + 48), s6)
            s7 = fma(w, load(table, a + 56), s7)
        accumulate(into, at + column, s0, s1, s2, s3)
        accumulate(into, at + column + 32, s4, s5, s6, s7)
        column += 64
    while column + 32 <= width:
        s0, s1, s2, s3 = zero, zero, zero, zero
        for t in range(count):
            w = spread(weights[weights_at + t])
            a = rows[t] * stride + offset + column
            s0 = fma(w, load(table, a), s0)
            s1 = fma(w, load(table, a + 8), s1)
            s2 = fma(w, load(table, a + 16), s2)
            s3 = fma(w, load(table, a + 24), s3)
        accumulate(into, at + column, s0, s1, s2, s3)
        column += 32
    while column + 16 <= width:
        # A chain of additions waits for itself, so four edges run side by side.
        a0, a1, b0, b1, c0, c1, d0, d1 = zero, zero, zero, zero, zero, zero, zero, zero
        fours = count - count % 4
        for t in range(0, fours, 4):
            a, b = rows[t] * stride + offset + column, rows[t + 1] * stride + offset + column
            c, d = rows[t + 2] * stride + offset + column, rows[t + 3] * stride + offset + column
            w = spread(weights[weights_at + t])
            a0, a1 = fma(w, load(table, a), a0), fma(w, load(table, a + 8), a1)
            w = spread(weights[weights_at + t + 1])
            b0, b1 = fma(w, load(table, b), b0), fma(w, load(table, b + 8), b1)
            w = spread(weights[weights_at + t + 2])
            c0, c1 = fma(w, load(table, c), c0), fma(w, load(table, c + 8), c1)
            w = spread(weights[weights_at + t + 3])
            d0, d1 = fma(w, load(table, d), d0), fma(w, load(table, d + 8), d1)
        for t in range(fours, count):
            a, w = rows[t] * stride + offset + column, spread(weights[weights_at + t])
            a0, a1 = fma(w, load(table, a), a0), fma(w, load(table, a + 8), a1)
        store(into, at + column, load(into, at + column) + ((a0 + b0) + (c0 + d0)))
        store(into, at + column + 8, load(into, at + column + 8) + ((a1 + b1) + (c1 + d1)))
        column += 16
    while column < width:
        s0, s1, s2, s3 = zero, zero, zero, zero
        fours = count - count % 4
        for t in range(0, fours, 4):
            s0 = fma(spread(weights[weights_at + t]), load(table, rows[t] * stride + offset + column), s0)
            s1 = fma(spread(weights[weights_at + t + 1]), load(table, rows[t + 1] * stride + offset + column), s1)
            s2 = fma(spread(weights[weights_at + t + 2]), load(table, rows[t + 2] * stride + offset + column), s2)
            s3 = fma(spread(weights[weights_at + t + 3]), load(table, rows[t + 3] * stride + offset + column), s3)
        for t in range(fours, count):
            s0 = fma(spread(weights[weights_at + t]), load(table, rows[t] * stride + offset + column), s0)
        store(into, at + column, load(into, at + column) + ((s0 + s1) + (s2 + s3)))
        column += 8


@part
def accumulate(into, at, s0, s1, s2, s3):
    store(into, at, load(into, at) + s0)
    store(into, at + 8, load(into, at + 8) + s1)
    store(into, at + 16, load(into, at + 16) + s2)
    store(into, at + 24, load(into, at + 24) + s3)


@part
def list_types(types, count, edges, edge_type):
    """Lists the types of edges as floats, then -1 up to a multiple of eight; returns one more than the largest."""
    most = -1
    for t in range(count):
        number = edge_type[edges[t]]
        types[t] = number
        most = max(most, number)
    for t in range(count, padded(count)):
        types[t] = -1
    return most + 1


@part
def look_up(into, count, types, num_types, table, at):
    """into[t] = table[at + types[t]]"""
    if num_types <= FEW_TYPES:
        for t in range(0, count, 8):
            of_edges, found = load(types, t), spread(table[at])
            for number in range(1, num_types):
                found = where_equal(of_edges, spread(like(types, number)), spread(table[at + number]), found)
            store(into, t, found)
    else:
        for t in range(count):
            into[t] = table[at + np.int64(types[t])]


@part
def add_by_type(into, at, count, types, num_types, weights, weights_at):
    """into[at + types[t]] += weights[weights_at + t]"""
    if num_types <= FEW_TYPES:
        zero = spread(like(into, 0))
        for number in range(num_types):
            wide, total = spread(like(types, number)), zero
            for t in range(0, count, 8):
                total = total + where_equal(load(types, t), wide, load(weights, weights_at + t), zero)
            into[at + number] += lane_sum(total)
    else:
        for t in range(count):
            into[at + np.int64(types[t])] += weights[weights_at + t]


@part_of_rows
def transpose_at(into, at_into, into_stride, table, at, stride, rows, width):
    """into[at_into + c * into_stride + r] = table[at + r * stride + c] for so many rows and a width of whole lanes.

    Returns zero if all numbers are finite, else NaN.
    """
    check = spread(like(into, 0))
    zero = check
    for r in range(rows):
        for c in range(0, width, 8):
            check = fma(load(table, at + r * stride + c), zero, check)
    for place in range(0, rows if rows >= 8 else 0, 8):
        r = min(place, rows - 8)
        for c in range(0, width, 8):
            store_transposed(into, at_into + c * into_stride + r, into_stride, table, at + r * stride + c, stride)
    for r in range(0, rows if rows < 8 else 0):
        for c in range(width):
            into[at_into + c * into_stride + r] = table[at + r * stride + c]
    return lane_sum(check)


@part
def transpose(into, into_stride, table, at, stride, rows, width):
    """`transpose_at` from the beginning."""
    return transpose_at(into, 0, into_stride, table, at, stride, rows, width)


class Features(NamedTuple):
    """Shared features of a row's edges, feature by feature: number c of the row's edge t lies at at + c * step + t."""

    array: Any
    at: Any
    step: Any


@part
def lay_features(features, edges, count, is_picked, edge_attr, edge_dim):
    """Copies the features of some edges, which follow each other unless some were picked by a mask, with zeros up to a
    whole vector."""
    into, at, step = features.array, features.at, features.step
    if is_picked:
        for t in range(count):
            for c in range(edge_dim):
                into[at + c * step + t] = edge_attr[edges[t] * edge_dim + c]
    elif count > 0:
        transpose_at(into, at, step, edge_attr, edges[0] * edge_dim, edge_dim, count, edge_dim)
    for t in range(count, padded(count)):
        for c in range(edge_dim):
            into[at + c * step + t] = 0


@part
def dots_of_features(into, count, vector, at_vector, features, edge_dim):
    """into[t] = vector[at_vector:][:edge_dim] · the features of edge t"""
    zero = spread(like(into, 0))
    for t in range(0, count, 8):
        total = zero
        for c in range(edge_dim):
            numbers = load(features.array, features.at + c * features.step + t)
            total = fma(spread(vector[at_vector + c]), numbers, total)
        store(into, t, total)


@part
def sum_features(into, at, count, weights, at_weights, features, edge_dim):
    """into[at:][:edge_dim] = Σ_t weights[at_weights + t] · the features of edge t"""
    zero = spread(like(into, 0))
    whole = count - count % 8
    for c in range(0, edge_dim, 4):
        first = features.at + c * features.step
        s0, s1, s2, s3 = zero, zero, zero, zero
        for t in range(0, count, 8):
            w = load(weights, at_weights + t)
            if t == whole:
                w = within(w, 0, count - whole, like(into, 0))
            s0 = fma(w, load(features.array, first + t), s0)
            s1 = fma(w, load(features.array, first + features.step + t), s1)
            s2 = fma(w, load(features.array, first + 2 * features.step + t), s2)
            s3 = fma(w, load(features.array, first + 3 * features.step + t), s3)
        store_sums(into, at + c, s0, s1, s2, s3)


@part
def project(into, at, adds, vector, at_vector, width, matrices, head, out_width):
    """into[at:][:out_width] = vector[at_vector:][:width] · matrices[head], or += if it `adds`."""
    zero = spread(like(into, 0))
    for c in range(0, out_width, 8):
        s0, s1, s2, s3 = zero, zero, zero, zero
        place = head * width * out_width + c
        for t in range(at_vector, at_vector + width, 4):  # one chain of additions would wait for itself
            s0 = fma(spread(vector[t]), load(matrices, place), s0)
            s1 = fma(spread(vector[t + 1]), load(matrices, place + out_width), s1)
            s2 = fma(spread(vector[t + 2]), load(matrices, place + 2 * out_width), s2)
            s3 = fma(spread(vector[t + 3]), load(matrices, place + 3 * out_width), s3)
            place += 4 * out_width
        total = (s0 + s1) + (s2 + s3)
        if adds:
            total = total + load(into, at + c)
        store(into, at + c, total)


@part
def clear_features(features, count, edge_dim):
    for c in range(edge_dim):
        clear(features.array, features.at + c * features.step, count)


@part
def grow_features(grown, count, slopes, at_slopes, first, weights, at_weights, second, at_vectors, edge_dim):
    """The features of edge t += slopes[at_slopes + t] · first[at_vectors:] + weights[at_weights + t] ·
    second[at_vectors:]"""
    for t in range(0, count, 8):
        slope, weight = load(slopes, at_slopes + t), load(weights, at_weights + t)
        for c in range(edge_dim):
            place = grown.at + c * grown.step + t
            total = fma(slope, spread(first[at_vectors + c]), load(grown.array, place))
            store(grown.array, place, fma(weight, spread(second[at_vectors + c]), total))


@part
def write_features(edge_attr, first_edge, count, features, edge_dim):
    """The reverse of `lay_features`, for edges that follow each other."""
    at, whole = first_edge * edge_dim, count - count % 8
    for c in range(0, edge_dim, 8):
        for t in range(0, whole, 8):
            place = features.at + c * features.step + t
            store_transposed(edge_attr, at + t * edge_dim + c, edge_dim, features.array, place, features.step)
    for t in range(whole, count):
        for c in range(edge_dim):
            edge_attr[at + t * edge_dim + c] = features.array[features.at + c * features.step + t]


@part
def add_outer(into, count, rows, stride, offset, weights, vector, at, width):
    """into[rows[t] * stride + offset:][:width] += weights[t] · vector[at:][:width], the vector kept in registers."""
    column = 0
    while column + 32 <= width:
        x0, x1 = load(vector, at + column), load(vector, at + column + 8)
        x2, x3 = load(vector, at + column + 16), load(vector, at + column + 24)
        for t in range(count):
            w, first = spread(weights[t]), rows[t] * stride + offset + column
            store(into, first, fma(w, x0, load(into, first)))
            store(into, first + 8, fma(w, x1, load(into, first + 8)))
            store(into, first + 16, fma(w, x2, load(into, first + 16)))
            store(into, first + 24, fma(w, x3, load(into, first + 24)))
        column += 32
    while column + 16 <= width:
        x0, x1 = load(vector, at + column), load(vector, at + column + 8)
        for t in range(count):
            w, first = spread(weights[t]), rows[t] * stride + offset + column
            store(into, first, fma(w, x0, load(into, first)))
            store(into, first + 8, fma(w, x1, load(into, first + 8)))
        column += 16
    while column < width:
        x0 = load(vector, at + column)
        for t in range(count):
            first = rows[t] * stride + offset + column
            store(into, first, fma(spread(weights[t]), x0, load(into, first)))
        column += 8


@part
def copy(into, at, count, table, at_table):
    """into[at:][:count] = table[at_table:][:count], in vectors of which the last two may overlap."""
    for t in range(0, count - 7, 8):
        store(into, at + t, load(table, at_table + t))
    if count >= 8:
        store(into, at + count - 8, load(table, at_table + count - 8))
    for t in range(0, count if count < 8 else 0):
        into[at + t] = table[at_table + t]


class Table(NamedTuple):
    """Numbers of edges and heads: that of edge e and head h lies at e * step + h * head_step; null where absent."""

    array: Any
    step: Any
    head_step: Any


@part_of_rows
def swap(into, at_into, into_step, table, at, step, rows, columns):
    """into[at_into + c * into_step + r] = table[at + r * step + c]"""
    whole_rows, whole_columns = rows - rows % 8, columns - columns % 8
    for r in range(0, whole_rows, 8):
        for c in range(0, whole_columns, 8):
            store_transposed(into, at_into + c * into_step + r, into_step, table, at + r * step + c, step)
    for r in range(rows):
        for c in range(whole_columns if r < whole_rows else 0, columns):
            into[at_into + c * into_step + r] = table[at + r * step + c]


@part
def gather(into, count, edges, is_picked, table, head):
    """into[t] = table[edges[t], head], where there is a table.

    Unless some were picked by a mask, a row's edges follow each other.
    """
    if is_given(table.array) and count > 0:
        numbers, step, at = table.array, table.step, head * table.head_step
        if is_picked:
            for t in range(count):
                into[t] = numbers[at + edges[t] * step]
        elif step == 1:
            copy(into, 0, count, numbers, at + edges[0])
        else:
            at += edges[0] * step
            whole = count - count % 8
            for t in range(0, whole, 8):  # in vectors, since reading one just written number by number would wait
                store(into, t, load_apart(numbers, at + t * step, step, 7))
            if whole < count:
                store(into, whole, load_apart(numbers, at + whole * step, step, count - whole - 1))


@part
def scatter(table, count, edges, is_picked, head, values, at_values):
    """table[edges[t], head] = values[at_values + t], where there is a table."""
    if is_given(table.array) and count > 0:
        numbers, step, at = table.array, table.step, head * table.head_step
        if is_picked:
            for t in range(count):
                numbers[at + edges[t] * step] = values[at_values + t]
        elif step == 1:
            copy(numbers, at + edges[0], count, values, at_values)
        else:
            at += edges[0] * step
            for t in range(count):
                numbers[at + t * step] = values[at_values + t]


@part
def mix(x):
    """A bijection of 32-bit integers in which every input bit reaches every output bit (Wellons' lowbias32)."""
    x = np.uint32(x ^ (x >> np.uint32(16)))
    x = np.uint32(x * np.uint32(0x7FEB352D))
    x = np.uint32(x ^ (x >> np.uint32(15)))
    x = np.uint32(x * np.uint32(0x846CA68B))
    return np.uint32(x ^ (x >> np.uint32(16)))


@part
def low_half(number):
    return np.uint32(number & 0xFFFFFFFF)


@part
def high_half(number):
    return np.uint32((number >> 32) & 0xFFFFFFFF)


@part
def hash_edges(hashes, count, edges, edge_id, seed):
    """hashes[t] = the part of an edge's random bits that all heads share."""
    dropout_key = mix(np.uint32(mix(np.uint32(low_half(seed) + np.uint32(0x9E3779B9))) ^ high_half(seed)))
    for t in range(count):
        edge = edge_id[edges[t]] if is_given(edge_id) else edges[t]
        hashes[t] = mix(np.uint32(mix(np.uint32(dropout_key ^ low_half(edge))) ^ high_half(edge)))


@part
def draw_keeps(keeps, count, hashes, head, keep_scale, threshold):
    """keeps[t] = keep_scale for an edge that dropout keeps, else zero."""
    step, dropped = np.uint32((head + 1) * 0x9E3779B9), like(keeps, 0)
    for t in range(count):
        bits = mix(np.uint32(hashes[t] + step))
        keeps[t] = keep_scale if np.int64(bits >> np.uint32(8)) >= threshold else dropped


@part
def finish_logits(logits, at, products, count, attr_products, biases, scale, clip):
    """logits = clamp(x, ±clip) + bias with x = scale · (logits + attr_products), which is left in products if there is
    a clip; logits lie at `at`."""
    wide_scale, wide_clip = spread(scale), spread(clip)
    if clip == np.inf:
        for t in range(0, count, 8):
            x = load(logits, at + t) + load(attr_products, t)
            store(logits, at + t, fma(wide_scale, x, load(biases, t)))
    else:
        for t in range(0, count, 8):
            x = wide_scale * (load(logits, at + t) + load(attr_products, t))
            store(products, t, x)
            store(logits, at + t, clamp(x, wide_clip) + load(biases, t))


@part
def clear(into, at, count):
    """into[at : at + count] = 0, in whole vectors."""
    zero = spread(like(into, 0))
    for t in range(at, at + count, 8):
        store(into, t, zero)


@part
def clear_after(into, at, count):
    """into[at : at + max(8, count)] = 0, and up to seven more; a few numbers at most, as a rule."""
    store(into, at, spread(like(into, 0)))
    if count > 8:
        clear(into, at + 8, count - 8)


@part
def clear_before(into, at, count):
    """into[at - max(8, count) : at] = 0, and up to seven before."""
    store(into, at - 8, spread(like(into, 0)))
    if count > 8:
        more = padded(count) - 8
        clear(into, at - 8 - more, more)


@part
def hide_beyond(scores, at, columns, first, last):
    """Puts -inf into all columns of a row but scores[at + first : at + last], and returns the largest of each lane."""
    minus_inf = like(scores, -np.inf)
    lanes = spread(minus_inf)
    for t in range(0, columns, 8):
        x = load(scores, at + t)
        if t < first or t + 8 > last:
            x = within(x, first - t, last - t, minus_inf)
            store(scores, at + t, x)
        lanes = larger(x, lanes)
    return lanes


@part
def raise_two(scores, at, columns, factor, peak):
    """Replaces a row's scores by 2 ** (factor · score − peak), and returns the sum of each lane."""
    shift = spread(-peak if peak != like(scores, -np.inf) else like(scores, 0))
    wide_factor, sums = spread(factor), spread(like(scores, 0))
    for t in range(at, at + columns, 8):
        power = exp2(fma(wide_factor, load(scores, t), shift))
        store(scores, t, power)
        sums = sums + power
    return sums


@part
def powers(scores, at, columns, first, last, scale, peaks, totals, row):
    """Replaces scores[at + first : at + last] by exp(scale · score − peak), for scale > 0, and the rest of the columns,
    in whole vectors, by zeros. Returns whether any score is above -inf.

    Writes peaks[row], in powers of two, and totals[row], the sum, of which `log_sum_exp` is made.
    """
    factor = scale * like(scores, LOG2_E)
    peaks[row] = factor * lane_max(hide_beyond(scores, at, columns, first, last))
    totals[row] = lane_sum(raise_two(scores, at, columns, factor, peaks[row]))
    if totals[row] == 0:
        peaks[row], totals[row] = like(scores, -np.inf), 1
        return False
    return True


def _of_eight_rows(store_eight):
    """Makes a piece of a kernel that combines the lanes which each of eight rows left."""

    @part
    def combine(into, lanes):
        store_eight(
            into, 0, load(lanes, 0), load(lanes, 8), load(lanes, 16), load(lanes, 24),
            load(lanes, 32), load(lanes, 40), load(lanes, 48), load(lanes, 56),
        )  # fmt: skip

    return combine


largest_of_rows, sums_of_rows = _of_eight_rows(store_eight_maxima), _of_eight_rows(store_eight_sums)


@part
def find_peaks(lanes, factor, peaks):
    """The peaks of eight rows, of each of which `hide_beyond` left its lanes."""
    largest_of_rows(peaks, lanes)
    store(peaks, 0, spread(factor) * load(peaks, 0))


@part
def find_totals(lanes, peaks, totals):
    """The totals of eight rows, of each of which `raise_two` left its lanes; as `powers` leaves peaks and totals."""
    sums_of_rows(totals, lanes)
    total, zero = load(totals, 0), spread(like(totals, 0))
    peak = where_equal(total, total, load(peaks, 0), total)  # a NaN beside scores of -inf is in the total alone
    store(peaks, 0, where_equal(total, zero, spread(like(peaks, -np.inf)), peak))
    store(totals, 0, where_equal(total, zero, spread(like(totals, 1)), total))


@part
def log_sum_exp(peaks, totals):
    """Replaces peaks, eight of them, by natural log-sum-exps."""
    store(peaks, 0, spread(like(peaks, LOG_2)) * (load(peaks, 0) + log2(load(totals, 0))))


@part
def write_lse(lse, places, count, peaks, totals):
    """lse[places[r]] = the natural log-sum-exp of row r, of up to eight."""
    log_sum_exp(peaks, totals)
    for r in range(count):
        lse[places[r]] = peaks[r]


@part
def multiply_row(into, at, width, factor):
    """into[at:][:width] *= factor"""
    wide = spread(factor)
    for c in range(0, width, 8):
        store(into, at + c, wide * load(into, at + c))


@part
def differentiate_products(scores, slopes, at, columns, first, last, lse, delta, scale):
    """`differentiate` where nothing but scale · scores enters the logits: leaves dx in scores and alpha in slopes, from
    at + first up to at + last, and zeros in the rest of the columns, in whole vectors."""
    log2_e, zero = like(scores, LOG2_E), like(scores, 0)
    wide_scale, factor, shift, wide_delta = spread(scale), spread(scale * log2_e), spread(-lse * log2_e), spread(delta)
    for t in range(0, columns, 8):
        alpha = exp2(fma(factor, load(scores, at + t), shift))
        slope = wide_scale * alpha * (load(slopes, at + t) - wide_delta)
        if t < first or t + 8 > last:
            alpha, slope = within(alpha, first - t, last - t, zero), within(slope, first - t, last - t, zero)
        store(slopes, at + t, alpha)
        store(scores, at + t, slope)


@part
def take_powers(alpha, count, logits, at, lse):
    """alpha = exp(logits - lse), logits lie at `at`."""
    log2_e = like(logits, LOG2_E)
    factor, shift = spread(log2_e), spread(-lse * log2_e)
    for t in range(0, count, 8):
        store(alpha, t, exp2(fma(factor, load(logits, at + t), shift)))


@part
def sum_product(first, second, count):
    total = like(first, 0)
    for t in range(count):
        total += first[t] * second[t]
    return total


@part
def differentiate(logits, slopes, at, count, row, is_weighed, lse, delta, scale, clip):
    """One row's share of the backward pass: logits become dx, slopes w, row.alpha dl, row.products dgate.

    If there is a clip, row.products has x; if weights have gradients of their own, row.alpha has alpha.
    """
    log2_e = like(logits, LOG2_E)
    factor, shift = spread(log2_e), spread(-lse * log2_e)
    wide_scale, wide_clip, wide_delta = spread(scale), spread(clip), spread(delta)
    for t in range(0, count, 8):
        a = load(row.alpha, t) if is_weighed else exp2(fma(factor, load(logits, at + t), shift))
        keep = load(row.keeps, t)
        gate = load(row.gates, t) * keep
        slope = load(slopes, at + t) + load(row.attr_slopes, t)
        dlogit = a * (gate * slope + load(row.weight_slopes, t) - wide_delta)
        dx = wide_scale * dlogit
        if clip != np.inf:
            dx = zero_beyond(dx, load(row.products, t), wide_clip)
        store(slopes, at + t, gate * a)
        store(row.products, t, keep * a * slope)
        store(row.alpha, t, dlogit)
        store(logits, at + t, dx)


@part
def widest(begin, end, ptr):
    """Room for the longest row of the range, in whole vectors."""
    longest = 0
    for row in range(begin, end):
        longest = max(longest, ptr[row + 1] - ptr[row])
    return padded(longest) + 8


@part
def collect_incoming(edges, nodes, first, stop, src, head_mask, num_heads, head):
    """Lists the edges [first, stop) that this head may see, and their sources; returns how many."""
    count = 0
    for edge in range(first, stop):
        if not is_given(head_mask) or head_mask[edge * num_heads + head] != 0:
            edges[count], nodes[count] = edge, src[edge]
            count += 1
    return count


@part_of_rows
def copy_rows(into, table, at, stride, rows, width):
    """into[r * width:][:width] = table[at + r * stride:][:width]; returns as `transpose`."""
    check = spread(like(into, 0))
    zero = check
    for r in range(rows):
        for c in range(0, width, 8):
            numbers = load(table, at + r * stride + c)
            store(into, r * width + c, numbers)
            check = fma(numbers, zero, check)
    return lane_sum(check)


@part_of_rows
def multiply(into, at, stride, left, left_at, left_row, left_step, right, right_at, right_step, depth, width, rows):
    """into[at + r * stride:][:width] = Σ_t left[left_at + r * left_row + t * left_step] · right[right_at + t *
    right_step:][:width] for four or eight rows r."""
    # a last vector by itself would keep four sums busy, too few to hide how long each addition takes: 32 are 16 and 16
    threes = (width - 8) // 24 * 24 - (24 if width % 24 == 8 and width > 8 else 0) if width % 24 else width
    for c in range(0, threes, 24):
        for r in range(0, rows, GROUP):
            tile_4x3(
                into, at + r * stride + c, stride, left, left_at + r * left_row, left_row, left_step,
                right, right_at + c, right_step, depth,
            )  # fmt: skip
    for c in range(threes, width - 8, 16):
        for r in range(0, rows, GROUP):
            tile_4x2(
                into, at + r * stride + c, stride, left, left_at + r * left_row, left_row, left_step,
                right, right_at + c, right_step, depth,
            )  # fmt: skip
    if width == 8:
        for r in range(0, rows, GROUP):
            tile_4x1(
                into, at + r * stride, stride, left, left_at + r * left_row, left_row, left_step,
                right, right_at, right_step, depth,
            )  # fmt: skip


@part
def rows_at_once(done, total):
    """Returns how many of a tile's rows `multiply` takes next: two groups read what is in the nearest cache twice."""
    return 2 * GROUP if total >= 2 * GROUP and total - done > GROUP else GROUP


@part
def add_row(into, at, table, row, width):
    """into[at:][:width] += table[row:][:width]"""
    for c in range(0, width, 8):
        store(into, at + c, load(into, at + c) + load(table, row + c))


@part
def add_rows(into, at, stride, table, rows, width):
    """into[at + r * stride:][:width] += table[r * width:][:width]"""
    for r in range(rows):
        for c in range(0, width, 8):
            store(into, at + r * stride + c, load(into, at + r * stride + c) + load(table, r * width + c))


@part
def ask_for_row(table, at, width):
    """Asks for a row's vector of one head while the row before is served: they lie a stride apart."""
    for c in range(0, width, LINE):
        prefetch(table, at + c)


@part
def ask_early(table, row, at, width):
    """Asks for table[row + at:][:width] long before it is read; a line that begins before `at` came with the head
    before."""
    for c in range(-at % LINE, width, LINE):
        prefetch_apart(table, row + at + c)
