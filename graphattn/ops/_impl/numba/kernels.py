"""The kernel bodies: softmax attention over the incoming edges of each target, and its two backward passes.

For target i and head h, over the edges e = (j → i), with shared edge features a_e:

    x_e   = scale · (q_i · k_j + p_i · a_e)              p is `query_attr`; p_i[type_e] where edges have types
    l_e   = clamp(x_e, ±clip) + bias_e,                  alpha_e = exp(l_e - lse_i)
    out_i = Σ w_e v_j,   out_attr_i = Σ w_e a_e,         w_e = gate_e · keep_e · alpha_e

An edge's type stands for features that are one at its place and zero elsewhere, so products become lookups, and
out_attr_i[t] is the sum of the weights of type t.

Backward, alpha recomputed from lse, with the incoming gradients u = d out, b = d out_attr, c = d lse:

    g_e     = u_i · v_j + b_i · a_e
    delta_i = u_i · out_i + b_i · out_attr_i - c_i
    dl_e    = alpha_e (gate_e keep_e g_e - delta_i),     dx_e = scale · dl_e where |x_e| <= clip, else 0

One pass walks the edges by target and writes what targets and edges own; another walks them by source and writes what
sources own. Every row is computed by one thread in one order, so nothing is atomic and the bits do not depend on how
rows are cut. Each kernel serves rows [begin, end) of its pass, for one float type, all optional terms included: an
absent term leaves its scratch at the neutral element, an absent array is empty. All arrays are flat and contiguous, and
all widths are multiples of 8. Of the many arguments only these need a word:

    bias_heads, gate_heads: 0 if the table is absent, 1 if the heads share it, else num_heads
    keep_scale, threshold: 1 / (1 - dropout_p), and what the upper 24 random bits of an edge must reach to be kept
"""

import hashlib
from pathlib import Path

import numpy as np
from numba import njit
from numba.core.caching import FunctionCache

from graphattn.ops._impl.numba import vectors
from graphattn.ops._impl.numba.vectors import (
    clamp,
    exp,
    fma,
    lane_max,
    lane_sum,
    larger,
    load,
    spread,
    store,
    store_sums,
    zero_beyond,
)

OPTIONS = dict(nogil=True, error_model="numpy")
SOURCES = hashlib.sha256(b"".join(Path(file).read_bytes() for file in (__file__, vectors.__file__))).hexdigest()


class KernelCache(FunctionCache):
    """Numba's disk cache, keyed by the text of both source files: by itself it would miss an edit in `vectors`."""

    def _index_key(self, signature, codegen):
        return (*super()._index_key(signature, codegen), SOURCES)

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


part = njit(forceinline=True, **OPTIONS)  # a piece of a kernel, compiled into it; calls would cost small rows 15 %


@part
def dots(into, count, vector, at, table, rows, stride, offset, width):
    """into[t] = vector[at:][:width] · table[rows[t] * stride + offset:][:width], four rows at a time.

    Writes up to the next multiple of four.
    """
    last = count - 1
    zero = spread(into.dtype.type(0))
    for t in range(0, count, 4):
        a = rows[t] * stride + offset
        b = rows[min(t + 1, last)] * stride + offset
        c = rows[min(t + 2, last)] * stride + offset
        d = rows[min(t + 3, last)] * stride + offset
        sum_a, sum_b, sum_c, sum_d = zero, zero, zero, zero
        for column in range(0, width, 8):
            x = load(vector, at + column)
            sum_a = fma(x, load(table, a + column), sum_a)
            sum_b = fma(x, load(table, b + column), sum_b)
            sum_c = fma(x, load(table, c + column), sum_c)
            sum_d = fma(x, load(table, d + column), sum_d)
        store_sums(into, t, sum_a, sum_b, sum_c, sum_d)


@part
def pair_dots(into, count, first, first_rows, first_stride, first_offset, second, second_rows, width):
    """into[t] = first[first_rows[t] * first_stride + first_offset:] · second[second_rows[t] * width:]"""
    for t in range(count):
        into[t] = dot(first, first_rows[t] * first_stride + first_offset, second, second_rows[t] * width, width)


@part
def dot(first, first_at, second, second_at, width):
    total = spread(first.dtype.type(0))
    for column in range(0, width, 8):
        total = fma(load(first, first_at + column), load(second, second_at + column), total)
    return lane_sum(total)


@part
def add_weighted(into, at, count, weights, table, rows, stride, offset, width):
    """into[at:][:width] += Σ_t weights[t] · table[rows[t] * stride + offset:][:width], with the sums in registers."""
    zero = spread(into.dtype.type(0))
    column = 0
    while column + 64 <= width:
        s0, s1, s2, s3, s4, s5, s6, s7 = zero, zero, zero, zero, zero, zero, zero, zero
        for t in range(count):
            w = spread(weights[t])
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
            w = spread(weights[t])
            a = rows[t] * stride + offset + column
            s0 = fma(w, load(table, a), s0)
            s1 = fma(w, load(table, a + 8), s1)
            s2 = fma(w, load(table, a + 16), s2)
            s3 = fma(w, load(table, a + 24), s3)
        accumulate(into, at + column, s0, s1, s2, s3)
        column += 32
    while column < width:
        # One chain of additions would wait for itself, so four rows run side by side.
        s0, s1, s2, s3 = zero, zero, zero, zero
        fours = count - count % 4
        for t in range(0, fours, 4):
            s0 = fma(spread(weights[t]), load(table, rows[t] * stride + offset + column), s0)
            s1 = fma(spread(weights[t + 1]), load(table, rows[t + 1] * stride + offset + column), s1)
            s2 = fma(spread(weights[t + 2]), load(table, rows[t + 2] * stride + offset + column), s2)
            s3 = fma(spread(weights[t + 3]), load(table, rows[t + 3] * stride + offset + column), s3)
        for t in range(fours, count):
            s0 = fma(spread(weights[t]), load(table, rows[t] * stride + offset + column), s0)
        store(into, at + column, load(into, at + column) + ((s0 + s1) + (s2 + s3)))
        column += 8


@part
def accumulate(into, at, s0, s1, s2, s3):
    store(into, at, load(into, at) + s0)
    store(into, at + 8, load(into, at + 8) + s1)
    store(into, at + 16, load(into, at + 16) + s2)
    store(into, at + 24, load(into, at + 24) + s3)


@part
def look_up(into, count, edges, edge_type, table, at):
    """into[t] = table[at + the type of the edge]"""
    for t in range(count):
        into[t] = table[at + edge_type[edges[t]]]


@part
def add_by_type(into, at, count, edges, edge_type, weights):
    """into[at + the type of the edge] += weights[t]"""
    for t in range(count):
        into[at + edge_type[edges[t]]] += weights[t]


@part
def add_outer(into, count, rows, weights, vector, at, width):
    """into[rows[t] * width:][:width] += weights[t] · vector[at:][:width]"""
    for t in range(count):
        w = spread(weights[t])
        for column in range(0, width, 8):
            a = rows[t] * width + column
            store(into, a, fma(w, load(vector, at + column), load(into, a)))


@part
def gather(into, count, rows, table, table_heads, head):
    """into[t] = table[rows[t], head], where the table has a column a head, or one for all, or is absent."""
    if table_heads > 0:
        column = head if table_heads > 1 else 0
        for t in range(count):
            into[t] = table[rows[t] * table_heads + column]


@part
def scatter_add(into, count, rows, values, table_heads, head):
    """The reverse of `gather`. A row of the table belongs to one thread, which visits the heads in order."""
    column = head if table_heads > 1 else 0
    for t in range(count):
        into[rows[t] * table_heads + column] += values[t]


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
        edge = edge_id[edges[t]] if len(edge_id) > 0 else edges[t]
        hashes[t] = mix(np.uint32(mix(np.uint32(dropout_key ^ low_half(edge))) ^ high_half(edge)))


@part
def draw_keeps(keeps, count, hashes, head, keep_scale, threshold):
    """keeps[t] = keep_scale for an edge that dropout keeps, else zero."""
    step, dropped = np.uint32((head + 1) * 0x9E3779B9), keeps.dtype.type(0)
    for t in range(count):
        bits = mix(np.uint32(hashes[t] + step))
        keeps[t] = keep_scale if np.int64(bits >> np.uint32(8)) >= threshold else dropped


@part
def finish_logits(logits, count, products, attr_products, biases, scale, clip):
    """logits = clamp(x, ±clip) + bias, and products = x = scale · (products + attr_products)."""
    wide_scale, wide_clip = spread(scale), spread(clip)
    for t in range(0, count, 8):
        x = wide_scale * (load(products, t) + load(attr_products, t))
        store(products, t, x)
        store(logits, t, clamp(x, wide_clip) + load(biases, t))


@part
def softmax(logits, count):
    """Replaces logits by their softmax and returns their log-sum-exp: -inf, beside zeros, if all are -inf."""
    minus_inf = logits.dtype.type(-np.inf)
    for t in range(count, count + -count % 8):
        logits[t] = minus_inf
    peaks = spread(minus_inf)
    for t in range(0, count, 8):
        peaks = larger(load(logits, t), peaks)
    peak = lane_max(peaks)
    shift = spread(peak if peak != minus_inf else logits.dtype.type(0))
    sums = spread(logits.dtype.type(0))
    for t in range(0, count, 8):
        power = exp(load(logits, t) - shift)
        store(logits, t, power)
        sums = sums + power
    total = lane_sum(sums)
    if total == 0:
        return minus_inf
    inverse = spread(logits.dtype.type(1) / total)
    for t in range(0, count, 8):
        store(logits, t, load(logits, t) * inverse)
    return peak + np.log(total)


@part
def fill(into, count, number):
    lanes = spread(number)
    for t in range(0, count, 8):
        store(into, t, lanes)


@part
def differentiate(logits, products, slopes, weights, count, attr_slopes, shifts, deltas, gates, keeps, scale, clip):
    """One edge's share of the backward pass; overwrites logits by dl, products by dx, slopes by dgate, and sets w."""
    wide_scale, wide_clip = spread(scale), spread(clip)
    for t in range(0, count, 8):
        alpha = exp(load(logits, t) - load(shifts, t))
        keep = load(keeps, t)
        factor = load(gates, t) * keep
        slope = load(slopes, t) + load(attr_slopes, t)
        dlogit = alpha * (factor * slope - load(deltas, t))
        store(weights, t, factor * alpha)
        store(slopes, t, keep * alpha * slope)
        store(logits, t, dlogit)
        store(products, t, zero_beyond(wide_scale * dlogit, load(products, t), wide_clip))


@part
def widest(begin, end, ptr):
    """Room for the longest row of the range, in whole vectors."""
    longest = 0
    for row in range(begin, end):
        longest = max(longest, ptr[row + 1] - ptr[row])
    return longest + -longest % 8 + 8


@part
def collect_incoming(edges, nodes, first, stop, src, head_mask, num_heads, head):
    """Lists the edges [first, stop) that this head may see, and their sources; returns how many."""
    count = 0
    for edge in range(first, stop):
        if len(head_mask) == 0 or head_mask[edge * num_heads + head]:
            edges[count], nodes[count] = edge, src[edge]
            count += 1
    return count


@kernel
def attention(
    begin, end, target_ptr, src,
    num_heads, num_key_heads, head_dim, value_dim, edge_dim, bias_heads, gate_heads,
    query_attr, edge_attr, edge_type, bias, gate, head_mask, edge_id,
    scale, clip, keep_scale, threshold, seed,
    query, key, value, out, out_attr, lse,
):  # fmt: skip
    """Adds to out and out_attr, which arrive as zeros, and writes lse."""
    heads_per_key, has_dropout = num_heads // num_key_heads, keep_scale != 1

    room, dtype = widest(begin, end, target_ptr), out.dtype
    edges, nodes, hashes = np.empty(room, np.int64), np.empty(room, np.int64), np.empty(room, np.uint32)
    products, alpha, weights = np.empty(room, dtype), np.empty(room, dtype), np.empty(room, dtype)
    attr_products, biases = np.zeros(room, dtype), np.zeros(room, dtype)
    gates, keeps = np.ones(room, dtype), np.ones(room, dtype)
    for row in range(begin, end):
        count = 0
        for head in range(num_heads):
            at, key_head = row * num_heads + head, head // heads_per_key
            if head == 0 or len(head_mask) > 0:
                first, stop = target_ptr[row], target_ptr[row + 1]
                count = collect_incoming(edges, nodes, first, stop, src, head_mask, num_heads, head)
                if has_dropout:
                    hash_edges(hashes, count, edges, edge_id, seed)
            stride, offset = num_key_heads * head_dim, key_head * head_dim
            dots(products, count, query, at * head_dim, key, nodes, stride, offset, head_dim)
            if len(edge_type) > 0:
                look_up(attr_products, count, edges, edge_type, query_attr, at * edge_dim)
            elif edge_dim > 0:
                dots(attr_products, count, query_attr, at * edge_dim, edge_attr, edges, edge_dim, 0, edge_dim)
            gather(biases, count, edges, bias, bias_heads, head)
            finish_logits(alpha, count, products, attr_products, biases, scale, clip)
            lse[at] = softmax(alpha, count)
            if lse[at] == -np.inf:
                continue

            gather(gates, count, edges, gate, gate_heads, head)
            if has_dropout:
                draw_keeps(keeps, count, hashes, head, keep_scale, threshold)
            for t in range(0, count, 8):
                store(weights, t, load(gates, t) * load(keeps, t) * load(alpha, t))
            stride, offset = num_key_heads * value_dim, key_head * value_dim
            add_weighted(out, at * value_dim, count, weights, value, nodes, stride, offset, value_dim)
            if len(edge_type) > 0:
                add_by_type(out_attr, at * edge_dim, count, edges, edge_type, weights)
            elif edge_dim > 0:
                add_weighted(out_attr, at * edge_dim, count, weights, edge_attr, edges, edge_dim, 0, edge_dim)


@kernel
def attention_backward_targets(
    begin, end, target_ptr, src,
    num_heads, num_key_heads, head_dim, value_dim, edge_dim, bias_heads, gate_heads,
    query_attr, edge_attr, edge_type, bias, gate, head_mask, edge_id,
    scale, clip, keep_scale, threshold, seed,
    query, key, value, out, out_attr, lse, grad_out, grad_out_attr, grad_lse,
    delta, grad_query, grad_query_attr, grad_edge_attr, grad_bias, grad_gate,
):  # fmt: skip
    """Writes delta, and adds to those gradients that are wanted: not empty, and zero on arrival."""
    heads_per_key, has_dropout = num_heads // num_key_heads, keep_scale != 1
    wanted = len(grad_query) + len(grad_query_attr) + len(grad_edge_attr) + len(grad_bias) + len(grad_gate)

    room, dtype = widest(begin, end, target_ptr), out.dtype
    edges, nodes, hashes = np.empty(room, np.int64), np.empty(room, np.int64), np.empty(room, np.uint32)
    products, logits, weights = np.empty(room, dtype), np.empty(room, dtype), np.empty(room, dtype)
    slopes, shifts, deltas = np.empty(room, dtype), np.empty(room, dtype), np.empty(room, dtype)
    attr_products, attr_slopes, biases = np.zeros(room, dtype), np.zeros(room, dtype), np.zeros(room, dtype)
    gates, keeps = np.ones(room, dtype), np.ones(room, dtype)
    for row in range(begin, end):
        count = 0
        for head in range(num_heads):
            at, key_head = row * num_heads + head, head // heads_per_key
            delta[at] = (
                dot(grad_out, at * value_dim, out, at * value_dim, value_dim)
                + dot(grad_out_attr, at * edge_dim, out_attr, at * edge_dim, edge_dim)
                - grad_lse[at]
            )
            if wanted == 0:
                continue
            if head == 0 or len(head_mask) > 0:
                first, stop = target_ptr[row], target_ptr[row + 1]
                count = collect_incoming(edges, nodes, first, stop, src, head_mask, num_heads, head)
                if has_dropout:
                    hash_edges(hashes, count, edges, edge_id, seed)
            if lse[at] == -np.inf:
                continue

            key_stride, key_offset = num_key_heads * head_dim, key_head * head_dim
            value_stride, value_offset = num_key_heads * value_dim, key_head * value_dim
            dots(products, count, query, at * head_dim, key, nodes, key_stride, key_offset, head_dim)
            dots(slopes, count, grad_out, at * value_dim, value, nodes, value_stride, value_offset, value_dim)
            if len(edge_type) > 0:
                look_up(attr_products, count, edges, edge_type, query_attr, at * edge_dim)
                look_up(attr_slopes, count, edges, edge_type, grad_out_attr, at * edge_dim)
            elif edge_dim > 0:
                dots(attr_products, count, query_attr, at * edge_dim, edge_attr, edges, edge_dim, 0, edge_dim)
                dots(attr_slopes, count, grad_out_attr, at * edge_dim, edge_attr, edges, edge_dim, 0, edge_dim)
            gather(biases, count, edges, bias, bias_heads, head)
            gather(gates, count, edges, gate, gate_heads, head)
            if has_dropout:
                draw_keeps(keeps, count, hashes, head, keep_scale, threshold)
            fill(shifts, count, lse[at])
            fill(deltas, count, delta[at])
            finish_logits(logits, count, products, attr_products, biases, scale, clip)
            differentiate(
                logits, products, slopes, weights, count, attr_slopes, shifts, deltas, gates, keeps, scale, clip
            )

            if len(grad_query) > 0:
                add_weighted(grad_query, at * head_dim, count, products, key, nodes, key_stride, key_offset, head_dim)
            if len(grad_query_attr) > 0 and len(edge_type) > 0:
                add_by_type(grad_query_attr, at * edge_dim, count, edges, edge_type, products)
            elif len(grad_query_attr) > 0:
                add_weighted(grad_query_attr, at * edge_dim, count, products, edge_attr, edges, edge_dim, 0, edge_dim)
            if len(grad_edge_attr) > 0:
                add_outer(grad_edge_attr, count, edges, products, query_attr, at * edge_dim, edge_dim)
                add_outer(grad_edge_attr, count, edges, weights, grad_out_attr, at * edge_dim, edge_dim)
            if len(grad_bias) > 0:
                scatter_add(grad_bias, count, edges, logits, bias_heads, head)
            if len(grad_gate) > 0:
                scatter_add(grad_gate, count, edges, slopes, gate_heads, head)


@kernel
def attention_backward_sources(
    begin, end, source_ptr, source_order, dst,
    num_heads, num_key_heads, head_dim, value_dim, edge_dim, bias_heads, gate_heads,
    query_attr, edge_attr, edge_type, bias, gate, head_mask, edge_id,
    scale, clip, keep_scale, threshold, seed,
    query, key, value, lse, grad_out, grad_out_attr, delta, grad_key, grad_value,
):  # fmt: skip
    """Adds to grad_key and grad_value where they are wanted: not empty, and zero on arrival."""
    heads_per_key, has_dropout = num_heads // num_key_heads, keep_scale != 1

    room, dtype = widest(begin, end, source_ptr), key.dtype
    edges, nodes, hashes = np.empty(room, np.int64), np.empty(room, np.int64), np.empty(room, np.uint32)
    products, logits, weights = np.empty(room, dtype), np.empty(room, dtype), np.empty(room, dtype)
    slopes, shifts, deltas = np.empty(room, dtype), np.empty(room, dtype), np.empty(room, dtype)
    attr_products, attr_slopes, biases = np.zeros(room, dtype), np.zeros(room, dtype), np.zeros(room, dtype)
    gates, keeps = np.ones(room, dtype), np.ones(room, dtype)
    for row in range(begin, end):
        for head in range(num_heads):
            key_at = row * num_key_heads + head // heads_per_key
            count = 0
            for slot in range(source_ptr[row], source_ptr[row + 1]):
                edge = source_order[slot]
                node = dst[edge]
                at = node * num_heads + head
                # A target that saw nothing (lse is -inf) sends nothing back, whatever its other numbers are.
                if lse[at] != -np.inf and (len(head_mask) == 0 or head_mask[edge * num_heads + head]):
                    edges[count], nodes[count], shifts[count], deltas[count] = edge, node, lse[at], delta[at]
                    count += 1

            query_stride, query_offset = num_heads * head_dim, head * head_dim
            out_stride, out_offset = num_heads * value_dim, head * value_dim
            dots(products, count, key, key_at * head_dim, query, nodes, query_stride, query_offset, head_dim)
            dots(slopes, count, value, key_at * value_dim, grad_out, nodes, out_stride, out_offset, value_dim)
            stride, offset = num_heads * edge_dim, head * edge_dim
            if len(edge_type) > 0:
                for t in range(count):
                    at = nodes[t] * stride + offset + edge_type[edges[t]]
                    attr_products[t], attr_slopes[t] = query_attr[at], grad_out_attr[at]
            elif edge_dim > 0:
                pair_dots(attr_products, count, query_attr, nodes, stride, offset, edge_attr, edges, edge_dim)
                pair_dots(attr_slopes, count, grad_out_attr, nodes, stride, offset, edge_attr, edges, edge_dim)
            gather(biases, count, edges, bias, bias_heads, head)
            gather(gates, count, edges, gate, gate_heads, head)
            if has_dropout:
                hash_edges(hashes, count, edges, edge_id, seed)
                draw_keeps(keeps, count, hashes, head, keep_scale, threshold)
            finish_logits(logits, count, products, attr_products, biases, scale, clip)
            differentiate(
                logits, products, slopes, weights, count, attr_slopes, shifts, deltas, gates, keeps, scale, clip
            )

            if len(grad_key) > 0:
                add_weighted(
                    grad_key, key_at * head_dim, count, products, query, nodes, query_stride, query_offset, head_dim
                )
            if len(grad_value) > 0:
                add_weighted(
                    grad_value, key_at * value_dim, count, weights, grad_out, nodes, out_stride, out_offset, value_dim
                )


@kernel
def logits(
    begin, end, target_ptr, src, num_heads, num_key_heads, head_dim, edge_dim, scale,
    query, key, query_attr, edge_attr, out,
):  # fmt: skip
    """Writes out[e, h] = x_e."""
    heads_per_key, no_mask = num_heads // num_key_heads, np.empty(0, np.bool_)

    room = widest(begin, end, target_ptr)
    edges, nodes = np.empty(room, np.int64), np.empty(room, np.int64)
    products, attr_products = np.empty(room, out.dtype), np.zeros(room, out.dtype)
    for row in range(begin, end):
        count = collect_incoming(edges, nodes, target_ptr[row], target_ptr[row + 1], src, no_mask, num_heads, 0)
        for head in range(num_heads):
            at = row * num_heads + head
            stride, offset = num_key_heads * head_dim, head // heads_per_key * head_dim
            dots(products, count, query, at * head_dim, key, nodes, stride, offset, head_dim)
            if edge_dim > 0:
                dots(attr_products, count, query_attr, at * edge_dim, edge_attr, edges, edge_dim, 0, edge_dim)
            for t in range(count):
                out[edges[t] * num_heads + head] = scale * (products[t] + attr_products[t])


@kernel
def logits_backward_targets(
    begin, end, target_ptr, src, num_heads, num_key_heads, head_dim, edge_dim, scale, key, query_attr, edge_attr, grad,
    grad_query, grad_query_attr, grad_edge_attr,
):  # fmt: skip
    """Adds to those gradients that are wanted: not empty, and zero on arrival."""
    heads_per_key, no_mask = num_heads // num_key_heads, np.empty(0, np.bool_)

    room = widest(begin, end, target_ptr)
    edges, nodes, weights = np.empty(room, np.int64), np.empty(room, np.int64), np.empty(room, grad.dtype)
    for row in range(begin, end):
        count = collect_incoming(edges, nodes, target_ptr[row], target_ptr[row + 1], src, no_mask, num_heads, 0)
        for head in range(num_heads):
            at = row * num_heads + head
            for t in range(count):
                weights[t] = scale * grad[edges[t] * num_heads + head]
            if len(grad_query) > 0:
                stride, offset = num_key_heads * head_dim, head // heads_per_key * head_dim
                add_weighted(grad_query, at * head_dim, count, weights, key, nodes, stride, offset, head_dim)
            if len(grad_query_attr) > 0:
                add_weighted(grad_query_attr, at * edge_dim, count, weights, edge_attr, edges, edge_dim, 0, edge_dim)
            if len(grad_edge_attr) > 0:
                add_outer(grad_edge_attr, count, edges, weights, query_attr, at * edge_dim, edge_dim)


@kernel
def logits_backward_sources(
    begin, end, source_ptr, source_order, dst, num_heads, num_key_heads, head_dim, scale, query, grad, grad_key
):
    """Adds to grad_key, zero on arrival."""
    heads_per_key = num_heads // num_key_heads

    room = widest(begin, end, source_ptr)
    nodes, weights = np.empty(room, np.int64), np.empty(room, grad.dtype)
    for row in range(begin, end):
        first, stop = source_ptr[row], source_ptr[row + 1]
        for head in range(num_heads):
            for t in range(stop - first):
                edge = source_order[first + t]
                nodes[t], weights[t] = dst[edge], scale * grad[edge * num_heads + head]
            at = (row * num_key_heads + head // heads_per_key) * head_dim
            add_weighted(
                grad_key, at, stop - first, weights, query, nodes, num_heads * head_dim, head * head_dim, head_dim
            )
