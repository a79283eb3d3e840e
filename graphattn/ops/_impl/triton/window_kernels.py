"""The kernel bodies for CUDA over windows of rows: the softmax attention of `kernels.py` where rows share columns.

A program serves a window of rows, or ROWS of them, and a head. What its rows own stays in registers, and the columns
that any of them reads, as `graph/windows.py` lists them, pass by BLOCK at a time: products of a tile of rows with a
tile of columns, on tensor cores, of which a mask of bits says which are edges. Forward has windows of targets.
Backward recomputes the weights from lse twice, in windows of targets for what targets and edges own, in windows of
sources for what sources own. So nothing of size edges × heads is kept but what is asked for, no two programs write the
same number, and bits are always the same. Tiles keep the type of the inputs, so that weights and slopes are rounded to
it before they meet values, keys and queries; products of float32 are those of float32.

The number of an edge, which biases, gates, masks and dropout are found by, takes no table: it is the begin of its row
and how many bits the row had before.

A product of tiles multiplies what is no edge by zero, and a number there that is not finite would spoil rows that do
not read it. So a window in which a sum has come out as not finite is served again, one column after another, where what
is no edge is not looked at. Where all numbers are finite, that costs a look at the sums.

Tensors are contiguous; those that are None are absent, and what reads them is not compiled. A BLOCK of a width is the
next power of two from 16 on. OFFSET is the integer type that counts numbers in the largest tensor.
"""

import triton
import triton.language as tl

from graphattn.ops._impl.triton.kernels import at_position, clip_at, keep_factors, load_rows, look_up, store_rows

SIZES = ("num_rows", "num_slots", "threshold")  # as in `kernels.py`


@triton.jit
def find_window(
    window_ptr, num_rows, HEADS: tl.constexpr, WINDOW: tl.constexpr, ROWS: tl.constexpr, OFFSET: tl.constexpr
):
    """Returns the rows [ROWS] of a program, which are there, their bits, the head, and the slots [first, stop)."""
    lane = tl.program_id(0).to(OFFSET)
    part, head = lane // HEADS, lane % HEADS
    row = part * ROWS + tl.arange(0, ROWS)
    window, bit = part * ROWS // WINDOW, row % WINDOW
    first, stop = tl.load(window_ptr + window).to(OFFSET), tl.load(window_ptr + window + 1).to(OFFSET)
    return row, row < num_rows, bit.to(tl.int64), head, first, stop


@triton.jit
def load_slots(slots, bit, done, stop, num_slots, BLOCK: tl.constexpr, OFFSET: tl.constexpr):
    """Returns the nodes of columns [BLOCK], which are there, and which pairs of row and column are edges."""
    slot = done + tl.arange(0, BLOCK)
    inside = slot < stop
    node = tl.load(slots + slot, mask=inside, other=0).to(OFFSET)
    bits = tl.load(slots + num_slots + slot, mask=inside, other=0)
    is_edge = ((bits[None, :] >> bit[:, None]) & 1) != 0
    return node, inside, is_edge


@triton.jit
def number_edges(order, begin, seen, is_edge, HAS_EDGES: tl.constexpr, OFFSET: tl.constexpr):
    """Returns the numbers of edges [ROWS, BLOCK], and how many bits [ROWS] there were with these; `order` as there."""
    if HAS_EDGES:
        ones = is_edge.to(tl.int32)
        position = (begin + seen)[:, None] + tl.cumsum(ones, 1) - ones
        edge = at_position(order, position, is_edge).to(OFFSET)
        seen += tl.sum(ones, 1)
    else:
        edge = begin[:, None]
    return edge, seen


@triton.jit
def product(rows, columns):
    """rows [ROWS, COLUMNS] · columns [BLOCK, COLUMNS] transposed, summed in float32."""
    return tl.dot(rows, tl.trans(columns), input_precision="ieee")


@triton.jit
def add_product(sums, weight, live, columns, IS_EXACT: tl.constexpr):
    """Returns sums [ROWS, COLUMNS] + weight [ROWS, BLOCK] · columns [BLOCK, COLUMNS].

    Where it must be exact, columns take turns, and one that is not live in a row is not looked at there.
    """
    if IS_EXACT:
        column = tl.arange(0, weight.shape[1])
        for number in range(weight.shape[1]):
            is_it = column == number
            of_rows = tl.sum(tl.where(is_it[None, :], weight, 0.0), 1)
            is_live = tl.sum(tl.where(is_it[None, :] & live, 1, 0), 1) > 0
            of_column = tl.sum(tl.where(is_it[:, None], columns.to(tl.float32), 0.0), 0)
            sums += tl.where(is_live[:, None], of_rows[:, None] * of_column[None, :], 0.0)
    else:
        sums = tl.dot(weight.to(columns.dtype), columns, acc=sums, input_precision="ieee")
    return sums


@triton.jit
def is_spoiled(sums):
    """Whether a sum is not finite."""
    return tl.max(tl.max(tl.where(tl.abs(sums) < float("inf"), 0, 1), 1), 0) > 0


@triton.jit
def find_logits(
    x, edge, head, is_edge, bias, head_mask, scale, clip,
    HEADS: tl.constexpr, BIAS_HEADS: tl.constexpr, HAS_CLIP: tl.constexpr,
):  # fmt: skip
    """Returns scale · x, the logits, -inf where the head sees no edge, and where it does."""
    if head_mask is not None:
        is_edge = is_edge & (tl.load(head_mask + edge * HEADS + head[:, None], mask=is_edge, other=0) != 0)
    x *= scale
    logit = clip_at(x, clip, HAS_CLIP)
    if bias is not None:
        logit += look_up(bias, edge, head, is_edge, BIAS_HEADS, tl.float32)
    return x, tl.where(is_edge, logit, float("-inf")), is_edge


@triton.jit
def find_slopes(
    x, g, of_row, delta, edge, head, is_edge,
    bias, gate, head_mask, edge_id, seed, grad_bias, grad_gate, scale, clip, keep_scale, threshold,
    HEADS: tl.constexpr, BIAS_HEADS: tl.constexpr, GATE_HEADS: tl.constexpr, HAS_CLIP: tl.constexpr,
):  # fmt: skip
    """Returns dx and w of pairs, zeros where none is an edge that its head may see or the logit is -inf.

    `x` and `g` are the products of query and key, and of grad_out and value; `of_row` and `delta`, of the targets.
    Writes grad_bias and grad_gate where they are not None.
    """
    x, logit, is_seen = find_logits(x, edge, head, is_edge, bias, head_mask, scale, clip, HEADS, BIAS_HEADS, HAS_CLIP)
    live = is_seen & (logit != float("-inf"))
    alpha = tl.where(live, tl.exp(logit - of_row), 0.0)
    weight, factor = alpha, g
    # what is loaded under `is_seen` waits for no product, or Triton 3.6 fails to overlap the loads with products
    if seed is not None:
        keep = keep_factors(edge, head, is_seen, edge_id, seed, keep_scale, threshold, tl.float32)
        weight, factor = weight * keep, factor * keep
    if grad_gate is not None:
        tl.store(grad_gate + edge * HEADS + head[:, None], tl.where(live, alpha * factor, 0.0), mask=is_edge)
    if gate is not None:
        of_edge = look_up(gate, edge, head, is_seen, GATE_HEADS, tl.float32)
        weight, factor = weight * of_edge, factor * of_edge
    slope = tl.where(live, alpha * (factor - delta), 0.0)
    if grad_bias is not None:
        tl.store(grad_bias + edge * HEADS + head[:, None], slope, mask=is_edge)
    slope *= scale
    if HAS_CLIP:
        slope = tl.where(tl.abs(x) > clip, 0.0, slope)
    return slope, tl.where(live, weight, 0.0)


@triton.jit
def attend(
    q, begin, bit, head, first, stop, key, value, slots, bias, gate, head_mask, edge_id, seed,
    num_slots, threshold, scale, clip, keep_scale,
    HEADS: tl.constexpr, GROUP: tl.constexpr, HAS_CLIP: tl.constexpr,
    BIAS_HEADS: tl.constexpr, GATE_HEADS: tl.constexpr, HAS_EDGES: tl.constexpr,
    HEAD_DIM: tl.constexpr, HEAD_BLOCK: tl.constexpr, VALUE_DIM: tl.constexpr, VALUE_BLOCK: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, OFFSET: tl.constexpr, IS_EXACT: tl.constexpr,
):  # fmt: skip
    """Returns the sums of weighted values, the sums of weights before gate and dropout, and the largest logits."""
    heads = head + tl.zeros([1], OFFSET)
    sums = tl.zeros([ROWS, VALUE_BLOCK], tl.float32)
    peak = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    seen = tl.zeros([ROWS], OFFSET)
    for done in range(first, stop, BLOCK):
        node, inside, is_edge = load_slots(slots, bit, done, stop, num_slots, BLOCK, OFFSET)
        node = node * (HEADS // GROUP) + head // GROUP
        edge, seen = number_edges(None, begin, seen, is_edge, HAS_EDGES, OFFSET)
        k = load_rows(key, node, inside, HEAD_DIM, HEAD_BLOCK, key.dtype.element_ty)
        _x, logit, live = find_logits(
            product(q, k), edge, heads, is_edge, bias, head_mask, scale, clip, HEADS, BIAS_HEADS, HAS_CLIP
        )
        higher = tl.maximum(peak, tl.max(logit, 1))
        shift = tl.where(higher == float("-inf"), 0.0, higher)
        shrink = tl.exp(peak - shift)
        weight = tl.exp(logit - shift[:, None])
        total = total * shrink + tl.sum(weight, 1)
        peak = higher
        if gate is not None:
            weight *= look_up(gate, edge, heads, live, GATE_HEADS, tl.float32)
        if seed is not None:
            weight *= keep_factors(edge, heads, live, edge_id, seed, keep_scale, threshold, tl.float32)
        v = load_rows(value, node, inside, VALUE_DIM, VALUE_BLOCK, value.dtype.element_ty)
        sums = add_product(sums * shrink[:, None], weight, live, v, IS_EXACT)
    return sums, total, peak


@triton.jit(do_not_specialize=SIZES)
def window_attention(
    query, key, value, target_ptr, window_ptr, slots, bias, gate, head_mask, edge_id, seed, out, lse,
    num_rows, num_slots, threshold, scale: tl.float64, clip: tl.float64, keep_scale: tl.float64,
    HEADS: tl.constexpr, GROUP: tl.constexpr, HAS_CLIP: tl.constexpr,
    BIAS_HEADS: tl.constexpr, GATE_HEADS: tl.constexpr, HAS_EDGES: tl.constexpr,
    HEAD_DIM: tl.constexpr, HEAD_BLOCK: tl.constexpr, VALUE_DIM: tl.constexpr, VALUE_BLOCK: tl.constexpr,
    WINDOW: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, OFFSET: tl.constexpr,
):  # fmt: skip
    """Writes out and lse."""
    row, is_there, bit, head, first, stop = find_window(window_ptr, num_rows, HEADS, WINDOW, ROWS, OFFSET)
    scale, clip, pair = tl.full((), scale, tl.float32), tl.full((), clip, tl.float32), row * HEADS + head
    q = load_rows(query, pair, is_there, HEAD_DIM, HEAD_BLOCK, query.dtype.element_ty)
    begin = tl.load(target_ptr + row, mask=is_there, other=0).to(OFFSET)
    sums, total, peak = attend(
        q, begin, bit, head, first, stop, key, value, slots, bias, gate, head_mask, edge_id, seed,
        num_slots, threshold, scale, clip, keep_scale, HEADS, GROUP, HAS_CLIP, BIAS_HEADS, GATE_HEADS, HAS_EDGES,
        HEAD_DIM, HEAD_BLOCK, VALUE_DIM, VALUE_BLOCK, ROWS, BLOCK, OFFSET, False,
    )  # fmt: skip
    if is_spoiled(sums):
        sums, total, peak = attend(
            q, begin, bit, head, first, stop, key, value, slots, bias, gate, head_mask, edge_id, seed,
            num_slots, threshold, scale, clip, keep_scale, HEADS, GROUP, HAS_CLIP, BIAS_HEADS, GATE_HEADS, HAS_EDGES,
            HEAD_DIM, HEAD_BLOCK, VALUE_DIM, VALUE_BLOCK, ROWS, BLOCK, OFFSET, True,
        )  # fmt: skip
    sums /= tl.where(total == 0, 1.0, total)[:, None]
    tl.store(lse + pair, peak + tl.log(total), mask=is_there)
    store_rows(out, pair, is_there[:, None], sums, VALUE_DIM, VALUE_BLOCK)


@triton.jit
def sum_of_targets(
    q, u, of_row, delta, begin, bit, head, first, stop, key, value, slots,
    bias, gate, head_mask, edge_id, seed, grad_query, grad_bias, grad_gate,
    num_slots, threshold, scale, clip, keep_scale,
    HEADS: tl.constexpr, GROUP: tl.constexpr, HAS_CLIP: tl.constexpr,
    BIAS_HEADS: tl.constexpr, GATE_HEADS: tl.constexpr, HAS_EDGES: tl.constexpr,
    HEAD_DIM: tl.constexpr, HEAD_BLOCK: tl.constexpr, VALUE_DIM: tl.constexpr, VALUE_BLOCK: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, OFFSET: tl.constexpr, IS_EXACT: tl.constexpr,
):  # fmt: skip
    """Returns Σ dx_e · key_j over the edges e of each row, zeros without `grad_query`; see `find_slopes`."""
    heads = head + tl.zeros([1], OFFSET)
    sums = tl.zeros([ROWS, HEAD_BLOCK], tl.float32)
    seen = tl.zeros([ROWS], OFFSET)
    for done in range(first, stop, BLOCK):
        node, inside, is_edge = load_slots(slots, bit, done, stop, num_slots, BLOCK, OFFSET)
        node = node * (HEADS // GROUP) + head // GROUP
        edge, seen = number_edges(None, begin, seen, is_edge, HAS_EDGES, OFFSET)
        k = load_rows(key, node, inside, HEAD_DIM, HEAD_BLOCK, key.dtype.element_ty)
        v = load_rows(value, node, inside, VALUE_DIM, VALUE_BLOCK, value.dtype.element_ty)
        slope, _weight = find_slopes(
            product(q, k), product(u, v), of_row[:, None], delta[:, None], edge, heads, is_edge,
            bias, gate, head_mask, edge_id, seed, grad_bias, grad_gate, scale, clip, keep_scale, threshold,
            HEADS, BIAS_HEADS, GATE_HEADS, HAS_CLIP,
        )  # fmt: skip
        if grad_query is not None:
            sums = add_product(sums, slope, slope != 0, k, IS_EXACT)
    return sums


@triton.jit(do_not_specialize=SIZES)
def window_target_gradients(
    query, key, value, target_ptr, window_ptr, slots, bias, gate, head_mask, edge_id, seed,
    out, lse, grad_out, grad_lse, deltas, grad_query, grad_bias, grad_gate,
    num_rows, num_slots, threshold, scale: tl.float64, clip: tl.float64, keep_scale: tl.float64,
    HEADS: tl.constexpr, GROUP: tl.constexpr, HAS_CLIP: tl.constexpr,
    BIAS_HEADS: tl.constexpr, GATE_HEADS: tl.constexpr, HAS_EDGES: tl.constexpr,
    HEAD_DIM: tl.constexpr, HEAD_BLOCK: tl.constexpr, VALUE_DIM: tl.constexpr, VALUE_BLOCK: tl.constexpr,
    WINDOW: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, OFFSET: tl.constexpr,
):  # fmt: skip
    """Writes deltas [num_rows, HEADS], which the pass over sources needs, and grad_query, grad_bias and grad_gate
    where they are not None."""
    row, is_there, bit, head, first, stop = find_window(window_ptr, num_rows, HEADS, WINDOW, ROWS, OFFSET)
    scale, clip, pair = tl.full((), scale, tl.float32), tl.full((), clip, tl.float32), row * HEADS + head
    u = load_rows(grad_out, pair, is_there, VALUE_DIM, VALUE_BLOCK, grad_out.dtype.element_ty)
    of_out = load_rows(out, pair, is_there, VALUE_DIM, VALUE_BLOCK, tl.float32)
    delta = tl.sum(u.to(tl.float32) * of_out, 1) - tl.load(grad_lse + pair, mask=is_there, other=0.0)
    tl.store(deltas + pair, delta, mask=is_there)
    if grad_query is not None or grad_bias is not None or grad_gate is not None:
        q = load_rows(query, pair, is_there, HEAD_DIM, HEAD_BLOCK, query.dtype.element_ty)
        of_row = tl.load(lse + pair, mask=is_there, other=0.0)
        begin = tl.load(target_ptr + row, mask=is_there, other=0).to(OFFSET)
        sums = sum_of_targets(
            q, u, of_row, delta, begin, bit, head, first, stop, key, value, slots,
            bias, gate, head_mask, edge_id, seed, grad_query, grad_bias, grad_gate,
            num_slots, threshold, scale, clip, keep_scale, HEADS, GROUP, HAS_CLIP, BIAS_HEADS, GATE_HEADS, HAS_EDGES,
            HEAD_DIM, HEAD_BLOCK, VALUE_DIM, VALUE_BLOCK, ROWS, BLOCK, OFFSET, False,
        )  # fmt: skip
        if grad_query is not None:
            if is_spoiled(sums):
                sums = sum_of_targets(
                    q, u, of_row, delta, begin, bit, head, first, stop, key, value, slots,
                    bias, gate, head_mask, edge_id, seed, grad_query, None, None,
                    num_slots, threshold, scale, clip, keep_scale,
                    HEADS, GROUP, HAS_CLIP, BIAS_HEADS, GATE_HEADS, HAS_EDGES,
                    HEAD_DIM, HEAD_BLOCK, VALUE_DIM, VALUE_BLOCK, ROWS, BLOCK, OFFSET, True,
                )  # fmt: skip
            store_rows(grad_query, pair, is_there[:, None], sums, HEAD_DIM, HEAD_BLOCK)


@triton.jit
def sums_of_sources(
    k, v, begin, bit, key_head, first, stop, query, grad_out, lse, deltas, order, slots,
    bias, gate, head_mask, edge_id, seed, grad_key, grad_value,
    num_slots, threshold, scale, clip, keep_scale,
    HEADS: tl.constexpr, GROUP: tl.constexpr, HAS_CLIP: tl.constexpr,
    BIAS_HEADS: tl.constexpr, GATE_HEADS: tl.constexpr, HAS_EDGES: tl.constexpr,
    HEAD_DIM: tl.constexpr, HEAD_BLOCK: tl.constexpr, VALUE_DIM: tl.constexpr, VALUE_BLOCK: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, OFFSET: tl.constexpr, IS_EXACT: tl.constexpr,
):  # fmt: skip
    """Returns Σ dx_e · query_i and Σ w_e · grad_out_i over the edges e of each row and the heads that share its key."""
    key_sums = tl.zeros([ROWS, HEAD_BLOCK], tl.float32)
    value_sums = tl.zeros([ROWS, VALUE_BLOCK], tl.float32)
    for member in range(GROUP):
        head = key_head * GROUP + member
        heads = head + tl.zeros([1], OFFSET)
        seen = tl.zeros([ROWS], OFFSET)
        for done in range(first, stop, BLOCK):
            node, inside, is_edge = load_slots(slots, bit, done, stop, num_slots, BLOCK, OFFSET)
            node = node * HEADS + head
            edge, seen = number_edges(order, begin, seen, is_edge, HAS_EDGES, OFFSET)
            q = load_rows(query, node, inside, HEAD_DIM, HEAD_BLOCK, query.dtype.element_ty)
            u = load_rows(grad_out, node, inside, VALUE_DIM, VALUE_BLOCK, grad_out.dtype.element_ty)
            of_column = tl.load(lse + node, mask=inside, other=0.0)
            delta = tl.load(deltas + node, mask=inside, other=0.0)
            slope, weight = find_slopes(
                product(k, q), product(v, u), of_column[None, :], delta[None, :], edge, heads, is_edge,
                bias, gate, head_mask, edge_id, seed, None, None, scale, clip, keep_scale, threshold,
                HEADS, BIAS_HEADS, GATE_HEADS, HAS_CLIP,
            )  # fmt: skip
            if grad_key is not None:
                key_sums = add_product(key_sums, slope, slope != 0, q, IS_EXACT)
            if grad_value is not None:
                value_sums = add_product(value_sums, weight, weight != 0, u, IS_EXACT)
    return key_sums, value_sums


@triton.jit(do_not_specialize=SIZES)
def window_source_gradients(
    query, key, value, source_ptr, order, window_ptr, slots, bias, gate, head_mask, edge_id, seed,
    lse, grad_out, deltas, grad_key, grad_value,
    num_rows, num_slots, threshold, scale: tl.float64, clip: tl.float64, keep_scale: tl.float64,
    HEADS: tl.constexpr, GROUP: tl.constexpr, HAS_CLIP: tl.constexpr,
    BIAS_HEADS: tl.constexpr, GATE_HEADS: tl.constexpr, HAS_EDGES: tl.constexpr,
    HEAD_DIM: tl.constexpr, HEAD_BLOCK: tl.constexpr, VALUE_DIM: tl.constexpr, VALUE_BLOCK: tl.constexpr,
    WINDOW: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, OFFSET: tl.constexpr,
):  # fmt: skip
    """Writes grad_key and grad_value where they are not None; `order` lists the edges by source."""
    KEY_HEADS: tl.constexpr = HEADS // GROUP
    row, is_there, bit, head, first, stop = find_window(window_ptr, num_rows, KEY_HEADS, WINDOW, ROWS, OFFSET)
    scale, clip, pair = tl.full((), scale, tl.float32), tl.full((), clip, tl.float32), row * KEY_HEADS + head
    k = load_rows(key, pair, is_there, HEAD_DIM, HEAD_BLOCK, key.dtype.element_ty)
    v = load_rows(value, pair, is_there, VALUE_DIM, VALUE_BLOCK, value.dtype.element_ty)
    begin = tl.load(source_ptr + row, mask=is_there, other=0).to(OFFSET)
    key_sums, value_sums = sums_of_sources(
        k, v, begin, bit, head, first, stop, query, grad_out, lse, deltas, order, slots,
        bias, gate, head_mask, edge_id, seed, grad_key, grad_value,
        num_slots, threshold, scale, clip, keep_scale, HEADS, GROUP, HAS_CLIP, BIAS_HEADS, GATE_HEADS, HAS_EDGES,
        HEAD_DIM, HEAD_BLOCK, VALUE_DIM, VALUE_BLOCK, ROWS, BLOCK, OFFSET, False,
    )  # fmt: skip
    if is_spoiled(key_sums) | is_spoiled(value_sums):
        key_sums, value_sums = sums_of_sources(
            k, v, begin, bit, head, first, stop, query, grad_out, lse, deltas, order, slots,
            bias, gate, head_mask, edge_id, seed, grad_key, grad_value,
            num_slots, threshold, scale, clip, keep_scale, HEADS, GROUP, HAS_CLIP, BIAS_HEADS, GATE_HEADS, HAS_EDGES,
            HEAD_DIM, HEAD_BLOCK, VALUE_DIM, VALUE_BLOCK, ROWS, BLOCK, OFFSET, True,
        )  # fmt: skip
    if grad_key is not None:
        store_rows(grad_key, pair, is_there[:, None], key_sums, HEAD_DIM, HEAD_BLOCK)
    if grad_value is not None:
        store_rows(grad_value, pair, is_there[:, None], value_sums, VALUE_DIM, VALUE_BLOCK)
