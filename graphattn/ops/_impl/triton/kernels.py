"""The kernel bodies for CUDA: softmax attention over the incoming edges of each target, and its backward passes.

Formulas and names are those at the top of `numba/kernels.py`. A lane is a pair of a row and a head, heads side by side,
so that what lanes own lies side by side in memory; a program serves LANES of them at once, BLOCK edges of each at a
time, and goes on until its longest row is done. That is how short rows share a program and longer ones are looped.

Rows of more than `chunk` edges are served apart. The list of edges is cut into chunks of that many, and a piece is what
a chunk holds of such a row. A chunk meets at most two of them: one that reaches over its begin, or starts with it (side
0 of the chunk), and one that begins later (side 1). So pieces have fixed places, two a chunk, nobody needs to count
them, and a second kernel adds the pieces of each row in their order.

Forward makes one pass over a target's edges. Backward makes one that writes what targets own, and of every edge and
head the slope dx_e and the weight w_e; with those at hand, what sources and features of edges own are weighted sums
over other lists of edges. No two programs write the same number, so nothing is atomic, and bits are always the same.

An edge that a head may not see, or whose logit is -inf, has a slope of zero, and a slope of zero does not look at what
it would be multiplied by. So such an edge, one of a target without a finite logit for instance, spreads no NaN.

Tensors are contiguous; those that are None are absent, and what reads them is not compiled. A BLOCK of a width is the
next power of two. OFFSET is the integer type that counts numbers in the largest tensor.
"""

import triton
import triton.language as tl

# Arguments of which the compiler sees the type and not, as it else would, whether they are 1 or divisible by 16: so
# batches of other sizes run the programs that are there.
SIZES = ("num_rows", "num_edges", "chunk", "threshold")


@triton.jit
def find_rows(
    ptr, order, owner, num_rows, num_edges, chunk,
    HEADS: tl.constexpr, LANES: tl.constexpr, OFFSET: tl.constexpr, IS_SPLIT: tl.constexpr,
):  # fmt: skip
    """Returns of each lane its number, row and head, the edges [first, stop) that it serves, and whether there is any.

    Args:
        ptr: [num_rows + 1], edge offsets of each row.
        order: [num_edges], the edges sorted by row; None if they are.
        owner: [num_edges], the row of each edge.
        IS_SPLIT: whether lanes are pieces, two for each chunk and head, or else rows of up to `chunk` edges.
    """
    lane = tl.program_id(0).to(OFFSET) * LANES + tl.arange(0, LANES)
    row, head = lane // HEADS, lane % HEADS
    if IS_SPLIT:
        begin, side = row // 2 * chunk, row % 2
        is_there = begin < num_edges
        end = tl.minimum(begin + chunk, num_edges)
        position = begin + side * (end - 1 - begin)
        row = tl.load(owner + at_position(order, position, is_there), mask=is_there, other=0).to(OFFSET)
        low, high = load_ends(ptr, row, is_there, OFFSET)
        served = is_positive(high - low - chunk) * (1 - tl.abs(is_positive(low - begin) - side))
        is_there = is_there & (high - low > chunk) & ((low > begin) == (side == 1))
        first, stop = tl.maximum(low, begin), tl.minimum(high, end)
    else:
        is_there = row < num_rows
        first, stop = load_ends(ptr, row, is_there, OFFSET)
        served = is_positive(chunk - (stop - first) + 1)
        is_there = is_there & (stop - first <= chunk)
    return lane, row, head, first, first + (stop - first) * served, is_there


@triton.jit
def find_pieces(
    ptr, order, owner, num_edges, chunk,
    HEADS: tl.constexpr, LANES: tl.constexpr, OFFSET: tl.constexpr,
):  # fmt: skip
    """Returns of each lane, a chunk and a head: the lane of the row that is cut and begins in the chunk, the number of
    its pieces, the lane of the first, and the lane of side 0 of the chunk; that of each next chunk is a piece.

    Where no such row begins, the number is zero.
    """
    lane = tl.program_id(0).to(OFFSET) * LANES + tl.arange(0, LANES)
    number, head = lane // HEADS, lane % HEADS
    begin = number * chunk
    is_there = begin < num_edges
    last = tl.minimum(begin + chunk, num_edges) - 1
    row = tl.load(owner + at_position(order, last, is_there), mask=is_there, other=0).to(OFFSET)
    low, high = load_ends(ptr, row, is_there, OFFSET)
    first = (2 * number + (low > begin).to(OFFSET)) * HEADS + head
    served = is_positive(high - low - chunk) * is_positive(low + 1 - begin)
    pieces = (high - begin + chunk - 1) // chunk * served
    return row * HEADS + head, pieces, first, 2 * number * HEADS + head


@triton.jit
def load_ends(ptr, row, is_there, OFFSET: tl.constexpr):
    """The begin and end of rows, zeros where none is."""
    low = tl.load(ptr + row, mask=is_there, other=0).to(OFFSET)
    return low, tl.load(ptr + row + 1, mask=is_there, other=0).to(OFFSET)


@triton.jit
def is_positive(number):
    """1 for positive integers, else 0.

    Under some layouts the compiler of Triton 3.6 fails on a number of edges that a mask decides on, be it by
    `tl.where`, by a factor or by a second load: what it makes of the mask for one layout it uses in another.
    """
    return tl.minimum(tl.maximum(number, 0), 1)


@triton.jit
def at_position(order, position, is_there):
    if order is None:
        edge = position
    else:
        edge = tl.load(order + position, mask=is_there, other=0)
    return edge


@triton.jit
def load_rows(table, row, is_there, WIDTH: tl.constexpr, COLUMNS: tl.constexpr, DTYPE: tl.constexpr):
    """The rows [...] of a table of so many columns: [..., COLUMNS], zeros beyond it and where no row is."""
    column = tl.arange(0, COLUMNS)
    at = tl.expand_dims(row, -1) * WIDTH + column
    inside = tl.expand_dims(is_there, -1) & (column < WIDTH)
    return tl.load(table + at, mask=inside, other=0.0).to(DTYPE)


@triton.jit
def store_rows(table, row, is_there, numbers, WIDTH: tl.constexpr, COLUMNS: tl.constexpr):
    """Writes what `load_rows` reads; `is_there` has a last dimension of one."""
    column = tl.arange(0, COLUMNS)
    at = tl.expand_dims(row, -1) * WIDTH + column
    tl.store(table + at, numbers, mask=is_there & (column < WIDTH))


@triton.jit
def look_up(table, edge, head, is_there, TABLE_HEADS: tl.constexpr, DTYPE: tl.constexpr):
    """What a table of edges, with a column a head or one for all, holds for each lane: [LANES, BLOCK]."""
    at = edge * TABLE_HEADS
    if TABLE_HEADS > 1:
        at += head[:, None]
    return tl.load(table + at, mask=is_there, other=0.0).to(DTYPE)


@triton.jit
def clip_at(x, clip, HAS_CLIP: tl.constexpr):
    """clamp(x, ±clip), where a NaN stays one."""
    if HAS_CLIP:
        x = tl.where(x > clip, clip, tl.where(x < -clip, -clip, x))
    return x


@triton.jit
def mix(x):
    """A bijection of 32-bit integers in which every input bit reaches every output bit (Wellons' lowbias32)."""
    x = (x ^ (x >> 16)) * 0x7FEB352D
    x = (x ^ (x >> 15)) * 0x846CA68B
    return x ^ (x >> 16)


@triton.jit
def low_half(number):
    return (number & 0xFFFFFFFF).to(tl.uint32)


@triton.jit
def high_half(number):
    return ((number >> 32) & 0xFFFFFFFF).to(tl.uint32)


@triton.jit
def keep_factors(edge, head, is_there, edge_id, seed, keep_scale, threshold, DTYPE: tl.constexpr):
    """keep_scale where dropout keeps an edge and head, else zero."""
    seed = tl.load(seed)
    dropout_key = mix(mix(low_half(seed) + 0x9E3779B9) ^ high_half(seed))
    if edge_id is None:
        number = edge.to(tl.int64)
    else:
        number = tl.load(edge_id + edge, mask=is_there, other=0)
    shared = mix(mix(dropout_key ^ low_half(number)) ^ high_half(number))
    step = (head + 1).to(tl.uint32) * 0x9E3779B9
    bits = mix(shared + step[:, None])
    return tl.where((bits >> 8).to(tl.int32) >= threshold, tl.full((), keep_scale, DTYPE), 0.0)


@triton.jit
def times_unless_zero(slope, numbers):
    """slope [LANES, BLOCK] times numbers [LANES, BLOCK, COLUMNS], zero where the slope is."""
    slope = slope[:, :, None]
    return tl.where(slope == 0, 0.0, slope * numbers)


@triton.jit(do_not_specialize=SIZES)
def attention(
    query, key, value, target_ptr, src, owner,
    query_attr, edge_attr, edge_type, bias, gate, head_mask, edge_id, seed,
    out, out_attr, lse, totals, weights,
    num_rows, num_edges, chunk, threshold, scale: tl.float64, clip: tl.float64, keep_scale: tl.float64,
    HEADS: tl.constexpr, GROUP: tl.constexpr, HAS_CLIP: tl.constexpr,
    BIAS_HEADS: tl.constexpr, GATE_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr, HEAD_BLOCK: tl.constexpr, VALUE_DIM: tl.constexpr, VALUE_BLOCK: tl.constexpr,
    EDGE_DIM: tl.constexpr, EDGE_BLOCK: tl.constexpr,
    LANES: tl.constexpr, BLOCK: tl.constexpr, DTYPE: tl.constexpr, OFFSET: tl.constexpr, IS_SPLIT: tl.constexpr,
):  # fmt: skip
    """Writes out, out_attr and lse of whole rows; of pieces their sums, the largest logits, to `lse`, and `totals`.

    `weights`, where wanted, receive the logits, -inf where a head may not see the edge: [HEADS, num_edges].
    """
    lane, row, head, first, stop, is_there = find_rows(
        target_ptr, None, owner, num_rows, num_edges, chunk, HEADS, LANES, OFFSET, IS_SPLIT
    )
    scale, clip, pair = tl.full((), scale, DTYPE), tl.full((), clip, DTYPE), row * HEADS + head
    q = load_rows(query, pair, is_there, HEAD_DIM, HEAD_BLOCK, DTYPE)
    sums = tl.zeros([LANES, VALUE_BLOCK], DTYPE)
    if edge_attr is not None:
        p = load_rows(query_attr, pair, is_there, EDGE_DIM, EDGE_BLOCK, DTYPE)
    attr_sums = tl.zeros([LANES, EDGE_BLOCK], DTYPE)
    peak = tl.full([LANES], float("-inf"), DTYPE)
    total = tl.zeros([LANES], DTYPE)
    for done in range(0, tl.max(stop - first, 0), BLOCK):
        edge = first[:, None] + (done + tl.arange(0, BLOCK))[None, :]
        inside = edge < stop[:, None]
        live = inside
        if head_mask is not None:
            live = inside & (tl.load(head_mask + edge * HEADS + head[:, None], mask=inside, other=0) != 0)
        node = tl.load(src + edge, mask=live, other=0).to(OFFSET) * (HEADS // GROUP) + (head // GROUP)[:, None]
        x = tl.sum(q[:, None, :] * load_rows(key, node, live, HEAD_DIM, HEAD_BLOCK, DTYPE), 2)
        if edge_attr is not None:
            x += tl.sum(p[:, None, :] * load_rows(edge_attr, edge, live, EDGE_DIM, EDGE_BLOCK, DTYPE), 2)
        if edge_type is not None:
            kind = tl.load(edge_type + edge, mask=live, other=0)
            is_kind = live & (kind >= 0) & (kind < EDGE_DIM)
            at = pair[:, None] * EDGE_DIM + kind.to(OFFSET)
            x += tl.load(query_attr + at, mask=is_kind, other=float("nan")).to(DTYPE)
        logit = clip_at(scale * x, clip, HAS_CLIP)
        if bias is not None:
            logit += look_up(bias, edge, head, live, BIAS_HEADS, DTYPE)
        logit = tl.where(live, logit, float("-inf"))
        if weights is not None:
            tl.store(weights + head[:, None].to(OFFSET) * num_edges + edge, logit, mask=inside)

        higher = tl.maximum(peak, tl.max(logit, 1))
        shift = tl.where(higher == float("-inf"), 0.0, higher)
        shrink = tl.exp(peak - shift)
        weight = tl.exp(logit - shift[:, None])
        total = total * shrink + tl.sum(weight, 1)
        peak = higher
        if gate is not None:
            weight *= look_up(gate, edge, head, live, GATE_HEADS, DTYPE)
        if seed is not None:
            weight *= keep_factors(edge, head, live, edge_id, seed, keep_scale, threshold, DTYPE)
        v = load_rows(value, node, live, VALUE_DIM, VALUE_BLOCK, DTYPE)
        sums = sums * shrink[:, None] + tl.sum(weight[:, :, None] * v, 1)
        if edge_attr is not None:
            a = load_rows(edge_attr, edge, live, EDGE_DIM, EDGE_BLOCK, DTYPE)
            attr_sums = attr_sums * shrink[:, None] + tl.sum(weight[:, :, None] * a, 1)
        if edge_type is not None:
            is_of = kind[:, :, None] == tl.arange(0, EDGE_BLOCK)
            attr_sums = attr_sums * shrink[:, None] + tl.sum(tl.where(is_of, weight[:, :, None], 0.0), 1)

    if IS_SPLIT:
        tl.store(lse + lane, peak, mask=is_there)
        tl.store(totals + lane, total, mask=is_there)
    else:
        divisor = tl.where(total == 0, 1.0, total)[:, None]  # of sums of zeros, where it is one
        sums, attr_sums = sums / divisor, attr_sums / divisor
        tl.store(lse + lane, peak + tl.log(total), mask=is_there)
    store_rows(out, lane, is_there[:, None], sums, VALUE_DIM, VALUE_BLOCK)
    if out_attr is not None:
        store_rows(out_attr, lane, is_there[:, None], attr_sums, EDGE_DIM, EDGE_BLOCK)


@triton.jit(do_not_specialize=SIZES)
def join_attention(
    piece_out, piece_out_attr, peaks, totals, out, out_attr, lse, target_ptr, owner, num_edges, chunk,
    HEADS: tl.constexpr, VALUE_DIM: tl.constexpr, VALUE_BLOCK: tl.constexpr,
    EDGE_DIM: tl.constexpr, EDGE_BLOCK: tl.constexpr,
    LANES: tl.constexpr, BLOCK: tl.constexpr, DTYPE: tl.constexpr, OFFSET: tl.constexpr,
):  # fmt: skip
    """Merges the pieces that `attention` left of each row by their log-sum-exp."""
    lane, pieces, first, rest = find_pieces(target_ptr, None, owner, num_edges, chunk, HEADS, LANES, OFFSET)
    peak = tl.full([LANES], float("-inf"), DTYPE)
    total = tl.zeros([LANES], DTYPE)
    sums = tl.zeros([LANES, VALUE_BLOCK], DTYPE)
    attr_sums = tl.zeros([LANES, EDGE_BLOCK], DTYPE)
    found = tl.zeros(
        [LANES], tl.int32
    )  # pieces once more: Triton 3.6 fails to compile a use of `pieces` after the loop
    for done in range(0, tl.max(pieces, 0), BLOCK):
        number = (done + tl.arange(0, BLOCK))[None, :]
        live = number < pieces[:, None]
        found += tl.sum(live.to(tl.int32), 1)
        piece = tl.where(number == 0, first[:, None], rest[:, None] + number * (2 * HEADS))
        of_piece = tl.load(peaks + piece, mask=live, other=float("-inf"))
        higher = tl.maximum(peak, tl.max(of_piece, 1))
        shift = tl.where(higher == float("-inf"), 0.0, higher)
        shrink, weight = tl.exp(peak - shift), tl.exp(of_piece - shift[:, None])
        total = total * shrink + tl.sum(weight * tl.load(totals + piece, mask=live, other=0.0), 1)
        peak = higher
        of_values = load_rows(piece_out, piece, live, VALUE_DIM, VALUE_BLOCK, DTYPE)
        sums = sums * shrink[:, None] + tl.sum(weight[:, :, None] * of_values, 1)
        if out_attr is not None:
            of_attr = load_rows(piece_out_attr, piece, live, EDGE_DIM, EDGE_BLOCK, DTYPE)
            attr_sums = attr_sums * shrink[:, None] + tl.sum(weight[:, :, None] * of_attr, 1)
    is_there, divisor = found[:, None] > 0, tl.where(total == 0, 1.0, total)[:, None]
    tl.store(lse + lane, peak + tl.log(total), mask=found > 0)
    store_rows(out, lane, is_there, sums / divisor, VALUE_DIM, VALUE_BLOCK)
    if out_attr is not None:
        store_rows(out_attr, lane, is_there, attr_sums / divisor, EDGE_DIM, EDGE_BLOCK)


@triton.jit(do_not_specialize=SIZES)
def join_sums(
    table, into, ptr, order, owner, num_edges, chunk,
    HEADS: tl.constexpr, WIDTH: tl.constexpr, COLUMNS: tl.constexpr,
    LANES: tl.constexpr, BLOCK: tl.constexpr, DTYPE: tl.constexpr, OFFSET: tl.constexpr,
):  # fmt: skip
    """Adds up what the pieces of each row hold."""
    lane, pieces, first, rest = find_pieces(ptr, order, owner, num_edges, chunk, HEADS, LANES, OFFSET)
    sums = tl.zeros([LANES, COLUMNS], DTYPE)
    found = tl.zeros([LANES], tl.int32)  # as in `join_attention`
    for done in range(0, tl.max(pieces, 0), BLOCK):
        number = (done + tl.arange(0, BLOCK))[None, :]
        live = number < pieces[:, None]
        found += tl.sum(live.to(tl.int32), 1)
        piece = tl.where(number == 0, first[:, None], rest[:, None] + number * (2 * HEADS))
        sums += tl.sum(load_rows(table, piece, live, WIDTH, COLUMNS, DTYPE), 1)
    store_rows(into, lane, found[:, None] > 0, sums, WIDTH, COLUMNS)


@triton.jit(do_not_specialize=SIZES)
def normalize(weights, lse, dst, num_edges, HEADS: tl.constexpr, BLOCK: tl.constexpr, OFFSET: tl.constexpr):
    """Replaces logits [HEADS, num_edges] by exp(logit - lse), and by zero where they are -inf."""
    edge, head = tl.program_id(0).to(OFFSET) * BLOCK + tl.arange(0, BLOCK), tl.program_id(1).to(OFFSET)
    is_there = edge < num_edges
    logit = tl.load(weights + head * num_edges + edge, mask=is_there, other=float("-inf"))
    row = tl.load(dst + edge, mask=is_there, other=0).to(OFFSET)
    of_row = tl.load(lse + row * HEADS + head, mask=is_there, other=0.0)
    weight = tl.where(logit == float("-inf"), 0.0, tl.exp(logit - of_row))
    tl.store(weights + head * num_edges + edge, weight, mask=is_there)


@triton.jit(do_not_specialize=SIZES)
def target_gradients(
    query, key, value, target_ptr, src, owner,
    query_attr, edge_attr, edge_type, bias, gate, head_mask, edge_id, seed,
    out, out_attr, lse, grad_out, grad_out_attr, grad_lse, grad_weights, weight_sums,
    grad_query, grad_query_attr, slopes, grad_bias, grad_gate,
    num_rows, num_edges, chunk, threshold, scale: tl.float64, clip: tl.float64, keep_scale: tl.float64,
    HEADS: tl.constexpr, GROUP: tl.constexpr, HAS_CLIP: tl.constexpr,
    BIAS_HEADS: tl.constexpr, GATE_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr, HEAD_BLOCK: tl.constexpr, VALUE_DIM: tl.constexpr, VALUE_BLOCK: tl.constexpr,
    EDGE_DIM: tl.constexpr, EDGE_BLOCK: tl.constexpr,
    LANES: tl.constexpr, BLOCK: tl.constexpr, DTYPE: tl.constexpr, OFFSET: tl.constexpr,
    IS_SPLIT: tl.constexpr, ONLY_WEIGHT_SUMS: tl.constexpr,
):  # fmt: skip
    """Writes the gradients that targets own, of pieces their shares, and those of edges, where they are not None:
    slopes [num_edges, HEADS, 2], of which the first is dx and the second w, and grad_bias and grad_gate [num_edges,
    HEADS].

    Where weights have gradients, delta has the term Σ_e alpha_e · grad_weights_e, which must be there beforehand: a run
    with ONLY_WEIGHT_SUMS writes nothing else than that, to `weight_sums`.
    """
    lane, row, head, first, stop, is_there = find_rows(
        target_ptr, None, owner, num_rows, num_edges, chunk, HEADS, LANES, OFFSET, IS_SPLIT
    )
    scale, clip, pair = tl.full((), scale, DTYPE), tl.full((), clip, DTYPE), row * HEADS + head
    q = load_rows(query, pair, is_there, HEAD_DIM, HEAD_BLOCK, DTYPE)
    u = load_rows(grad_out, pair, is_there, VALUE_DIM, VALUE_BLOCK, DTYPE)
    delta = tl.sum(u * load_rows(out, pair, is_there, VALUE_DIM, VALUE_BLOCK, DTYPE), 1)
    if edge_attr is not None:
        p = load_rows(query_attr, pair, is_there, EDGE_DIM, EDGE_BLOCK, DTYPE)
    if query_attr is not None:
        b = load_rows(grad_out_attr, pair, is_there, EDGE_DIM, EDGE_BLOCK, DTYPE)
        delta += tl.sum(b * load_rows(out_attr, pair, is_there, EDGE_DIM, EDGE_BLOCK, DTYPE), 1)
    delta -= tl.load(grad_lse + pair, mask=is_there, other=0.0)
    if grad_weights is not None and not ONLY_WEIGHT_SUMS:
        delta += tl.load(weight_sums + pair, mask=is_there, other=0.0)
    of_row = tl.load(lse + pair, mask=is_there, other=0.0)
    weight_sum = tl.zeros([LANES], DTYPE)
    query_sums = tl.zeros([LANES, HEAD_BLOCK], DTYPE)
    attr_sums = tl.zeros([LANES, EDGE_BLOCK], DTYPE)
    for done in range(0, tl.max(stop - first, 0), BLOCK):
        edge = first[:, None] + (done + tl.arange(0, BLOCK))[None, :]
        inside = edge < stop[:, None]
        live = inside
        at_pair = edge * HEADS + head[:, None]
        if head_mask is not None:
            live = live & (tl.load(head_mask + at_pair, mask=live, other=0) != 0)
        node = tl.load(src + edge, mask=live, other=0).to(OFFSET) * (HEADS // GROUP) + (head // GROUP)[:, None]
        k = load_rows(key, node, live, HEAD_DIM, HEAD_BLOCK, DTYPE)
        x = tl.sum(q[:, None, :] * k, 2)
        if edge_attr is not None:
            a = load_rows(edge_attr, edge, live, EDGE_DIM, EDGE_BLOCK, DTYPE)
            x += tl.sum(p[:, None, :] * a, 2)
        if edge_type is not None:
            kind = tl.load(edge_type + edge, mask=live, other=0)
            is_kind = live & (kind >= 0) & (kind < EDGE_DIM)
            at_kind = pair[:, None] * EDGE_DIM + kind.to(OFFSET)
            x += tl.load(query_attr + at_kind, mask=is_kind, other=float("nan")).to(DTYPE)
        x *= scale
        logit = clip_at(x, clip, HAS_CLIP)
        if bias is not None:
            logit += look_up(bias, edge, head, live, BIAS_HEADS, DTYPE)
        live = live & (logit != float("-inf"))
        alpha = tl.where(live, tl.exp(logit - of_row[:, None]), 0.0)
        if grad_weights is not None:
            at_weight = head[:, None].to(OFFSET) * num_edges + edge
            of_weight = tl.load(grad_weights + at_weight, mask=live, other=0.0)
        if ONLY_WEIGHT_SUMS:
            weight_sum += tl.sum(tl.where(live, alpha * of_weight, 0.0), 1)
        else:
            g = tl.sum(u[:, None, :] * load_rows(value, node, live, VALUE_DIM, VALUE_BLOCK, DTYPE), 2)
            if edge_attr is not None:
                g += tl.sum(b[:, None, :] * a, 2)
            if edge_type is not None:
                g += tl.load(grad_out_attr + at_kind, mask=is_kind, other=float("nan")).to(DTYPE)
            weight, factor = alpha, g
            if seed is not None:
                keep = keep_factors(edge, head, live, edge_id, seed, keep_scale, threshold, DTYPE)
                weight, factor = weight * keep, factor * keep
            if grad_gate is not None:
                tl.store(grad_gate + at_pair, tl.where(live, alpha * factor, 0.0), mask=inside)
            if gate is not None:
                of_edge = look_up(gate, edge, head, live, GATE_HEADS, DTYPE)
                weight, factor = weight * of_edge, factor * of_edge
            if grad_weights is not None:
                factor += of_weight
            slope = tl.where(live, alpha * (factor - delta[:, None]), 0.0)
            if grad_bias is not None:
                tl.store(grad_bias + at_pair, slope, mask=inside)
            slope *= scale
            if HAS_CLIP:
                slope = tl.where(tl.abs(x) > clip, 0.0, slope)
            if slopes is not None:
                tl.store(slopes + 2 * at_pair, slope, mask=inside)
                tl.store(slopes + 2 * at_pair + 1, weight, mask=inside)
            if grad_query is not None:
                query_sums += tl.sum(slope[:, :, None] * k, 1)
            if grad_query_attr is not None:
                if edge_attr is not None:
                    attr_sums += tl.sum(slope[:, :, None] * a, 1)
                else:
                    is_of = kind[:, :, None] == tl.arange(0, EDGE_BLOCK)
                    attr_sums += tl.sum(tl.where(is_of, slope[:, :, None], 0.0), 1)

    if ONLY_WEIGHT_SUMS:
        tl.store(weight_sums + lane, weight_sum, mask=is_there)
    else:
        if grad_query is not None:
            store_rows(grad_query, lane, is_there[:, None], query_sums, HEAD_DIM, HEAD_BLOCK)
        if grad_query_attr is not None:
            store_rows(grad_query_attr, lane, is_there[:, None], attr_sums, EDGE_DIM, EDGE_BLOCK)


@triton.jit(do_not_specialize=SIZES)
def weighted_sums(
    first_table, second_table, slopes, ptr, order, owner, nodes, first_into, second_into, num_rows, num_edges, chunk,
    HEADS: tl.constexpr, REPEAT: tl.constexpr, SHARE: tl.constexpr, TABLE_HEADS: tl.constexpr, STEP: tl.constexpr,
    FIRST_DIM: tl.constexpr, FIRST_BLOCK: tl.constexpr, SECOND_DIM: tl.constexpr, SECOND_BLOCK: tl.constexpr,
    LANES: tl.constexpr, BLOCK: tl.constexpr, DTYPE: tl.constexpr, OFFSET: tl.constexpr, IS_SPLIT: tl.constexpr,
):  # fmt: skip
    """Writes, for every row and head, Σ slopes_e · table[nodes_e] over the row's edges e, for one or two tables, where
    they and what is written to are not None.

    A head of a row stands for REPEAT heads of the slopes, and SHARE heads of these read one of the table's TABLE_HEADS.
    Slopes are [num_edges, HEADS · REPEAT, STEP]; the second table goes with the second of them. Without `nodes`, tables
    have a row an edge.
    """
    lane, _row, head, first, stop, is_there = find_rows(
        ptr, order, owner, num_rows, num_edges, chunk, HEADS, LANES, OFFSET, IS_SPLIT
    )
    first_sums = tl.zeros([LANES, FIRST_BLOCK], DTYPE)
    second_sums = tl.zeros([LANES, SECOND_BLOCK], DTYPE)
    for done in range(0, tl.max(stop - first, 0) * REPEAT, BLOCK):
        number = (done + tl.arange(0, BLOCK))[None, :]
        position, of_head = first[:, None] + number // REPEAT, head[:, None] * REPEAT + number % REPEAT
        live = position < stop[:, None]
        edge = at_position(order, position, live).to(OFFSET)
        if nodes is None:
            node = edge
        else:
            node = tl.load(nodes + edge, mask=live, other=0).to(OFFSET)
        node = node * TABLE_HEADS + of_head // SHARE
        at = (edge * (HEADS * REPEAT) + of_head) * STEP
        if first_into is not None:
            slope = tl.load(slopes + at, mask=live, other=0.0)
            of_nodes = load_rows(first_table, node, live, FIRST_DIM, FIRST_BLOCK, DTYPE)
            first_sums += tl.sum(times_unless_zero(slope, of_nodes), 1)
        if second_into is not None:
            weight = tl.load(slopes + at + 1, mask=live, other=0.0)
            of_nodes = load_rows(second_table, node, live, SECOND_DIM, SECOND_BLOCK, DTYPE)
            second_sums += tl.sum(times_unless_zero(weight, of_nodes), 1)
    if first_into is not None:
        store_rows(first_into, lane, is_there[:, None], first_sums, FIRST_DIM, FIRST_BLOCK)
    if second_into is not None:
        store_rows(second_into, lane, is_there[:, None], second_sums, SECOND_DIM, SECOND_BLOCK)


@triton.jit(do_not_specialize=SIZES)
def edge_attr_gradient(
    slopes, query_attr, grad_out_attr, dst, into, num_edges,
    HEADS: tl.constexpr, STEP: tl.constexpr, EDGE_DIM: tl.constexpr, EDGE_BLOCK: tl.constexpr,
    BLOCK: tl.constexpr, DTYPE: tl.constexpr, OFFSET: tl.constexpr,
):  # fmt: skip
    """Writes Σ_h dx_eh · p_ih + w_eh · b_ih for every edge e; without `grad_out_attr`, the first term."""
    edge = (tl.program_id(0).to(OFFSET) * BLOCK + tl.arange(0, BLOCK))[None, :]
    live = edge < num_edges
    row = tl.load(dst + edge, mask=live, other=0).to(OFFSET)
    sums = tl.zeros([1, BLOCK, EDGE_BLOCK], DTYPE)
    for head in range(HEADS):
        at = (edge * HEADS + head) * STEP
        p = load_rows(query_attr, row * HEADS + head, live, EDGE_DIM, EDGE_BLOCK, DTYPE)
        sums += times_unless_zero(tl.load(slopes + at, mask=live, other=0.0), p)
        if grad_out_attr is not None:
            b = load_rows(grad_out_attr, row * HEADS + head, live, EDGE_DIM, EDGE_BLOCK, DTYPE)
            sums += times_unless_zero(tl.load(slopes + at + 1, mask=live, other=0.0), b)
    store_rows(into, edge, live[:, :, None], sums, EDGE_DIM, EDGE_BLOCK)


@triton.jit(do_not_specialize=SIZES)
def logits(
    query, key, query_attr, edge_attr, src, dst, out, num_edges, scale: tl.float64,
    HEADS: tl.constexpr, GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, HEAD_BLOCK: tl.constexpr,
    EDGE_DIM: tl.constexpr, EDGE_BLOCK: tl.constexpr, BLOCK: tl.constexpr, DTYPE: tl.constexpr, OFFSET: tl.constexpr,
):  # fmt: skip
    """Writes out[e, h] = x_e."""
    at = tl.program_id(0).to(OFFSET) * BLOCK + tl.arange(0, BLOCK)
    edge, head = at // HEADS, at % HEADS
    live = edge < num_edges
    row = tl.load(dst + edge, mask=live, other=0).to(OFFSET) * HEADS + head
    node = tl.load(src + edge, mask=live, other=0).to(OFFSET) * (HEADS // GROUP) + head // GROUP
    q = load_rows(query, row, live, HEAD_DIM, HEAD_BLOCK, DTYPE)
    x = tl.sum(q * load_rows(key, node, live, HEAD_DIM, HEAD_BLOCK, DTYPE), 1)
    if edge_attr is not None:
        p = load_rows(query_attr, row, live, EDGE_DIM, EDGE_BLOCK, DTYPE)
        x += tl.sum(p * load_rows(edge_attr, edge, live, EDGE_DIM, EDGE_BLOCK, DTYPE), 1)
    tl.store(out + at, tl.full((), scale, DTYPE) * x, mask=live)
