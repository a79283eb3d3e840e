"""Small tiles, eight heads abreast: one in each lane.

What other tiles do head by head, in vectors of edges, is done here for eight heads at once, in vectors of heads. So the
numbers of edges and heads (biases, gates, weights and their gradients) are read and written where they lie, a row's
edges need not fill whole vectors, and maxima and sums over them stay within lanes. For that, queries, keys and values
are laid anew once a tile: number c of node n and head h at (n * width + c) * 8 + h.

So are served tiles whose rows all see the same few sources (`is_shared`: full attention inside molecules), and, where
edges have features, slices of others (`is_narrow`: windows). Formulas and names are those of `kernels`.
"""

from typing import Any, NamedTuple

import numpy as np

from graphattn.ops._impl.numba.pieces import (
    LOG2_E,
    LOG_2,
    add_row,
    ask_early,
    clear,
    hash_edges,
    mix,
    part,
    part_of_rows,
    swap,
)
from graphattn.ops._impl.numba.vectors import (
    abreast_1x1,
    abreast_1x2,
    abreast_4x1,
    abreast_4x2,
    clamp,
    exp2,
    fma,
    is_given,
    lane_sum,
    larger,
    like,
    load,
    log2,
    pointer,
    shifted,
    spread,
    store,
    store_eight_sums,
    store_transposed,
    where_equal,
    zero_beyond,
)

HEADS = 8  # abreast
MOST_ROWS = 64  # of a tile that shares its sources, and so many sources
SLICE_ROWS, MOST_NODES = 32, 128  # of a slice of another tile: rows, or up to three more, and sources
MOST_DIM = 64  # of a head, and of features: beyond, what is laid leaves the second-level cache
ROWS = 4  # whose products one register tile has
CELLS = max(MOST_ROWS * MOST_ROWS, (SLICE_ROWS + ROWS) * MOST_NODES)  # rows times sources


class Room(NamedTuple):
    """What is laid of a tile, and what is made of it: scores and slopes of all its rows, sums of a few."""

    queries: Any
    slope_rows: Any
    keys: Any
    values: Any
    sums: Any
    scores: Any
    slopes: Any
    query_attr: Any
    slope_attr: Any
    attr_sums: Any
    to_features: Any
    from_features: Any
    totals: Any  # of a few rows
    keeps: Any
    lines: Any  # of five tables
    zeros: Any  # eight, as the next two
    ones: Any
    nowhere: Any  # for what nobody wants
    spare: Any
    edges: Any
    hashes: Any


@part
def can_run_abreast(sizes, terms):
    """Whether heads are as many and as wide as it takes, and nothing is asked for that only other tiles can do."""
    has_heads = sizes.num_heads % HEADS == 0 and sizes.num_key_heads == sizes.num_heads
    fits = has_heads and max(sizes.head_dim, sizes.value_dim, sizes.edge_dim) <= MOST_DIM
    return fits and not is_given(terms.head_mask)


@part
def numbers_abreast(is_wanted, head_dim, value_dim, edge_dim):
    """How many numbers a `Room` has."""
    widest = max(head_dim, value_dim)
    of_nodes = 2 * head_dim + 2 * value_dim + widest
    of_features = 3 * ROWS + head_dim + value_dim + widest
    numbers = MOST_NODES * (of_nodes + 6) + 2 * CELLS + of_features * edge_dim + ROWS + 3 + widest
    return HEADS * numbers if is_wanted else 0


@part
def room_abreast(is_wanted, numbers, at, integers, hashes, head_dim, value_dim, edge_dim):
    widest = max(head_dim, value_dim)
    at_slope_rows = at + HEADS * MOST_NODES * head_dim
    at_keys = at_slope_rows + HEADS * MOST_NODES * value_dim
    at_values = at_keys + HEADS * MOST_NODES * head_dim
    at_sums = at_values + HEADS * MOST_NODES * value_dim
    at_scores = at_sums + HEADS * MOST_NODES * widest
    at_slopes = at_scores + HEADS * CELLS
    at_attr = at_slopes + HEADS * CELLS
    step = HEADS * ROWS * edge_dim
    at_matrices = at_attr + 3 * step
    at_others = at_matrices + HEADS * widest * edge_dim
    at_totals = at_others + HEADS * widest * edge_dim
    at_keeps = at_totals + HEADS * ROWS
    at_lines = at_keeps + HEADS * MOST_NODES
    at_zeros = at_lines + 5 * HEADS * MOST_NODES
    at_ones, at_nowhere, at_spare = at_zeros + HEADS, at_zeros + 2 * HEADS, at_zeros + 3 * HEADS
    for lane in range(HEADS if is_wanted else 0):
        numbers[at_zeros + lane], numbers[at_ones + lane] = 0, 1
    return Room(
        pointer(numbers, at), pointer(numbers, at_slope_rows), pointer(numbers, at_keys), pointer(numbers, at_values),
        pointer(numbers, at_sums), pointer(numbers, at_scores), pointer(numbers, at_slopes),
        pointer(numbers, at_attr), pointer(numbers, at_attr + step), pointer(numbers, at_attr + 2 * step),
        pointer(numbers, at_matrices), pointer(numbers, at_others), pointer(numbers, at_totals),
        pointer(numbers, at_keeps), pointer(numbers, at_lines), pointer(numbers, at_zeros), pointer(numbers, at_ones),
        pointer(numbers, at_nowhere), pointer(numbers, at_spare), pointer(integers, 0), pointer(hashes, 0),
    )  # fmt: skip


@part
def is_shared(begin, end, graph):
    """Whether all rows of a tile see the same sources, few enough."""
    ptr, src = graph.target_ptr, graph.src
    first = ptr[begin]
    count = ptr[begin + 1] - first
    if count > MOST_ROWS or end - begin > MOST_ROWS:
        return False
    for row in range(begin + 1, end):
        if ptr[row + 1] - ptr[row] != count or src[ptr[row]] != src[first]:
            return False
    return True


@part
def ask_for_rows(table, stride, row, head, num_rows, width):
    """Asks for what eight heads have of some rows of a table."""
    for r in range(row, row + num_rows):
        ask_early(table, r * stride, head * width, HEADS * width)


@part
def is_finite(table, at, stride, count, width):
    """Whether table[at + n * stride :][:width] are finite, for so many n."""
    check = spread(like(table, 0))
    zero = check
    for n in range(at, at + count * stride, stride):
        for c in range(n, n + width, 8):
            check = fma(load(table, c), zero, check)
    return lane_sum(check) == 0


@part
def nodes_seen(begin, end, graph):
    """From the first source that a slice of a tile sees up to the last: how many."""
    return graph.src[graph.target_ptr[end] - 1] + 1 - graph.src[graph.target_ptr[begin]]


@part
def slice_end(begin, end, graph):
    """Where a slice of a tile's rows ends that begins here: no fewer than four are left for the next. Rows that see too
    many sources are not cut."""
    stop = end if end - begin < SLICE_ROWS + ROWS else begin + SLICE_ROWS
    return stop if nodes_seen(begin, stop, graph) <= MOST_NODES else end


@part_of_rows
def is_narrow(begin, end, graph, sizes, query, nodes):
    """Whether a slice of a tile can be served whose rows see different sources: few, and finite, as are the rows, for
    where a row does not see what others see, zeros are multiplied by it."""
    low, width = graph.src[graph.target_ptr[begin]], nodes_seen(begin, end, graph)
    if width > MOST_NODES or end - begin >= SLICE_ROWS + ROWS:
        return False
    numbers = sizes.num_heads * sizes.head_dim
    if not is_finite(query, begin * sizes.query_stride, sizes.query_stride, end - begin, numbers):
        return False
    if not is_finite(nodes.keys, low * nodes.key_stride + nodes.key_at, nodes.key_stride, width, numbers):
        return False
    at, numbers = low * nodes.value_stride + nodes.value_at, sizes.num_heads * sizes.value_dim
    return is_finite(nodes.values, at, nodes.value_stride, width, numbers)


@part_of_rows
def has_finite_slopes(begin, end, sizes, upstream):
    """What else `is_narrow` asks backward: finite gradients that arrive."""
    numbers = sizes.num_heads * sizes.value_dim
    return is_finite(upstream.grad_out, begin * numbers, numbers, end - begin, numbers)


@part
def clear_beside(into, at, first, start, stop, last):
    """Clears the columns from `first` and up to `last` of a row, but for those from `start` up to `stop`."""
    clear(into, at + HEADS * first, HEADS * (start - first))
    clear(into, at + HEADS * stop, HEADS * (last - stop))


@part_of_rows
def lay(into, table, at, stride, count, width):
    """into[(n * width + c) * 8 + h] = table[at + n * stride + h * width + c]"""
    for n in range(count):
        for c in range(0, width, 8):
            store_transposed(into, (n * width + c) * HEADS, HEADS, table, at + n * stride + c, width)


@part_of_rows
def lift(table, at, stride, count, width, laid):
    """The reverse of `lay`."""
    for n in range(count):
        for c in range(0, width, 8):
            store_transposed(table, at + n * stride + c, width, laid, (n * width + c) * HEADS, HEADS)


@part_of_rows
def add_lifted(table, at, stride, count, width, laid, spare):
    """`lift`, adding to the table."""
    for n in range(count):
        for c in range(0, width, 8):
            store_transposed(spare, c, width, laid, (n * width + c) * HEADS, HEADS)
        add_row(table, at + n * stride, spare, 0, HEADS * width)


@part_of_rows
def lay_matrices(into, matrices, head, width, out_width):
    """into[(t * out_width + c) * 8 + h] = matrices[head + h][t, c]"""
    for t in range(width):
        for c in range(0, out_width, 8):
            at = (head * width + t) * out_width + c
            store_transposed(into, (t * out_width + c) * HEADS, HEADS, matrices, at, width * out_width)


@part_of_rows
def multiply_abreast(
    into, at, row, left, left_at, left_row, left_step, right, right_at, right_column, right_step, depth, rows, columns,
    adds,
):  # fmt: skip
    """As `vectors.abreast_4x2`, for so many rows and columns."""
    fours, twos = rows - rows % ROWS, columns - columns % 2
    for r in range(0, fours, ROWS):
        first, first_left = at + r * row, left_at + r * left_row
        for c in range(0, twos, 2):
            abreast_4x2(
                into, first + c * HEADS, row, left, first_left, left_row, left_step,
                right, right_at + c * right_column, right_column, right_step, depth, adds,
            )  # fmt: skip
        if twos < columns:
            abreast_4x1(
                into, first + twos * HEADS, row, left, first_left, left_row, left_step,
                right, right_at + twos * right_column, right_column, right_step, depth, adds,
            )  # fmt: skip
    for r in range(fours, rows):
        first, first_left = at + r * row, left_at + r * left_row
        for c in range(0, twos, 2):
            abreast_1x2(
                into, first + c * HEADS, row, left, first_left, left_row, left_step,
                right, right_at + c * right_column, right_column, right_step, depth, adds,
            )  # fmt: skip
        if twos < columns:
            abreast_1x1(
                into, first + twos * HEADS, row, left, first_left, left_row, left_step,
                right, right_at + twos * right_column, right_column, right_step, depth, adds,
            )  # fmt: skip


@part
def add_feature_products(into, at, count, vectors, at_vectors, edge, edge_dim, terms):
    """into[at + 8 * t :][:8] += Σ_c vectors[at_vectors + 8 * c :][:8] · feature c of edge + t"""
    if is_given(terms.edge_type):
        for t in range(count):
            place = at + HEADS * t
            found = load(vectors, at_vectors + HEADS * terms.edge_type[edge + t])
            store(into, place, load(into, place) + found)
        return
    edge_attr, at_attr, fours = terms.edge_attr, edge * edge_dim, count - count % 4
    for t in range(0, fours, 4):
        place = at + HEADS * t
        a, b = at_attr + t * edge_dim, at_attr + (t + 1) * edge_dim
        c, d = at_attr + (t + 2) * edge_dim, at_attr + (t + 3) * edge_dim
        s0, s1 = load(into, place), load(into, place + HEADS)
        s2, s3 = load(into, place + 2 * HEADS), load(into, place + 3 * HEADS)
        for k in range(edge_dim):
            x = load(vectors, at_vectors + HEADS * k)
            s0 = fma(x, spread(edge_attr[a + k]), s0)
            s1 = fma(x, spread(edge_attr[b + k]), s1)
            s2 = fma(x, spread(edge_attr[c + k]), s2)
            s3 = fma(x, spread(edge_attr[d + k]), s3)
        store(into, place, s0)
        store(into, place + HEADS, s1)
        store(into, place + 2 * HEADS, s2)
        store(into, place + 3 * HEADS, s3)
    for t in range(fours, count):
        total = load(into, at + HEADS * t)
        for k in range(edge_dim):
            total = fma(load(vectors, at_vectors + HEADS * k), spread(edge_attr[at_attr + t * edge_dim + k]), total)
        store(into, at + HEADS * t, total)


@part
def sum_features_abreast(into, at, count, weights, at_weights, edge, edge_dim, terms):
    """into[at + 8 * c :][:8] = Σ_t weights[at_weights + 8 * t :][:8] · feature c of edge + t"""
    if is_given(terms.edge_type):
        clear(into, at, HEADS * edge_dim)
        for t in range(count):
            place = at + HEADS * terms.edge_type[edge + t]
            store(into, place, load(into, place) + load(weights, at_weights + HEADS * t))
        return
    zero, edge_attr, at_attr = spread(like(into, 0)), terms.edge_attr, edge * edge_dim
    for c in range(0, edge_dim, 8):
        s0, s1, s2, s3, s4, s5, s6, s7 = zero, zero, zero, zero, zero, zero, zero, zero
        for t in range(count):
            w, place = load(weights, at_weights + HEADS * t), at_attr + t * edge_dim + c
            s0 = fma(w, spread(edge_attr[place]), s0)
            s1 = fma(w, spread(edge_attr[place + 1]), s1)
            s2 = fma(w, spread(edge_attr[place + 2]), s2)
            s3 = fma(w, spread(edge_attr[place + 3]), s3)
            s4 = fma(w, spread(edge_attr[place + 4]), s4)
            s5 = fma(w, spread(edge_attr[place + 5]), s5)
            s6 = fma(w, spread(edge_attr[place + 6]), s6)
            s7 = fma(w, spread(edge_attr[place + 7]), s7)
        place = at + HEADS * c
        store(into, place, s0)
        store(into, place + HEADS, s1)
        store(into, place + 2 * HEADS, s2)
        store(into, place + 3 * HEADS, s3)
        store(into, place + 4 * HEADS, s4)
        store(into, place + 5 * HEADS, s5)
        store(into, place + 6 * HEADS, s6)
        store(into, place + 7 * HEADS, s7)


@part
def gain(slope, first, weight, second, place):
    """What eight heads add to the gradient of one number of an edge's features."""
    return fma(slope, load(first, place), weight * load(second, place))


@part
def grow_features_abreast(
    into, at, count, slopes, weights, at_numbers, first, second, at_vectors, edge_dim, adds, spare
):
    """into[at + t * edge_dim + c] = Σ_h slopes · first + weights · second, of edge t and column c; or +=."""
    for t in range(count):
        slope, weight = load(slopes, at_numbers + HEADS * t), load(weights, at_numbers + HEADS * t)
        for c in range(0, edge_dim, 8):
            p, place = at_vectors + HEADS * c, at + t * edge_dim + c
            before = load(into, place) if adds else spread(like(into, 0))
            store_eight_sums(
                into, place,
                gain(slope, first, weight, second, p), gain(slope, first, weight, second, p + HEADS),
                gain(slope, first, weight, second, p + 2 * HEADS), gain(slope, first, weight, second, p + 3 * HEADS),
                gain(slope, first, weight, second, p + 4 * HEADS), gain(slope, first, weight, second, p + 5 * HEADS),
                gain(slope, first, weight, second, p + 6 * HEADS), gain(slope, first, weight, second, p + 7 * HEADS),
            )  # fmt: skip
            if adds:
                store(into, place, before + load(into, place))


@part
def dots_of_heads(into, first, second, at, width):
    """into[h] = first[at + h * width :][:width] · second[at + h * width :][:width], for eight heads"""
    zero = spread(like(into, 0))
    s0, s1, s2, s3, s4, s5, s6, s7 = zero, zero, zero, zero, zero, zero, zero, zero
    for c in range(at, at + width, 8):
        s0 = fma(load(first, c), load(second, c), s0)
        s1 = fma(load(first, c + width), load(second, c + width), s1)
        s2 = fma(load(first, c + 2 * width), load(second, c + 2 * width), s2)
        s3 = fma(load(first, c + 3 * width), load(second, c + 3 * width), s3)
        s4 = fma(load(first, c + 4 * width), load(second, c + 4 * width), s4)
        s5 = fma(load(first, c + 5 * width), load(second, c + 5 * width), s5)
        s6 = fma(load(first, c + 6 * width), load(second, c + 6 * width), s6)
        s7 = fma(load(first, c + 7 * width), load(second, c + 7 * width), s7)
    store_eight_sums(into, 0, s0, s1, s2, s3, s4, s5, s6, s7)


class Line(NamedTuple):
    """Numbers of a row's edges, of eight heads each: those of its edge t at array[at + t * step :][:8]."""

    array: Any
    at: Any
    step: Any


@part
def read_line(line, t):
    return load(line.array, line.at + t * line.step)


@part
def write_line(line, t, lanes):
    store(line.array, line.at + t * line.step, lanes)


@part
def line_up(table, edge, count, head, spare, other):
    """The numbers of a row's edges where they lie in a table, laid anew if its heads are apart; without a table, the
    same eight for each."""
    if not is_given(table.array):
        return Line(other, 0, 0)
    if table.head_step == 1:
        return Line(table.array, edge * table.step + head, table.step)
    swap(spare, 0, HEADS, table.array, edge + head * table.head_step, table.head_step, HEADS, count)
    return Line(spare, 0, HEADS)


@part
def line_for(table, edge, head, spare, nowhere):
    """Where to write the numbers of a row's edges; where the table's heads are apart, `write_row` takes them there."""
    if not is_given(table.array):
        return Line(nowhere, 0, 0)
    if table.head_step == 1:
        return Line(table.array, edge * table.step + head, table.step)
    return Line(spare, 0, HEADS)


@part
def write_row(table, edge, count, head, rows, at):
    """Writes what `line_for` has in rows[at:], if the table's heads are apart."""
    if not is_given(table.array) or table.head_step == 1:
        return
    into = edge + head * table.head_step
    if count < 8:
        swap(table.array, into, table.head_step, rows, at, HEADS, count, HEADS)
    for place in range(0, count if count >= 8 else 0, 8):
        t = min(place, count - 8)  # the last eight overlap those before
        store_transposed(table.array, into + t, table.head_step, rows, at + HEADS * t, HEADS)


@part
def draw_keeps_abreast(room, edge, count, head, edge_id, rules):
    """room.keeps[8 * t + h] = keep_scale for an edge and a head that dropout keeps, else zero."""
    for t in range(count):
        room.edges[t] = edge + t
    hash_edges(room.hashes, count, room.edges, edge_id, rules.seed)
    for t in range(count):
        for lane in range(HEADS):
            bits = mix(np.uint32(room.hashes[t] + np.uint32((head + lane + 1) * 0x9E3779B9)))
            is_kept = np.int64(bits >> np.uint32(8)) >= rules.threshold
            room.keeps[HEADS * t + lane] = rules.keep_scale if is_kept else like(room.keeps, 0)


@part
def line_of_keeps(room, edge, count, head, edge_id, rules):
    if rules.keep_scale == 1:
        return Line(room.ones, 0, 0)
    draw_keeps_abreast(room, edge, count, head, edge_id, rules)
    return Line(room.keeps, 0, HEADS)


@part
def find_largest(scores, at, count):
    peak = spread(like(scores, -np.inf))
    for t in range(at, at + HEADS * count, HEADS):
        peak = larger(load(scores, t), peak)
    return peak


@part
def finish_logit(product, bias, t, scale, clip):
    """A logit, of query · key and what features add to it."""
    return clamp(scale * product, clip) + read_line(bias, t)


@part
def finish_logits_abreast(scores, at, count, bias, rules):
    """Turns products into logits, and returns the largest of them."""
    peak, scale, clip = spread(like(scores, -np.inf)), spread(rules.scale), spread(rules.clip)
    for t in range(count):
        logit = finish_logit(load(scores, at + HEADS * t), bias, t, scale, clip)
        store(scores, at + HEADS * t, logit)
        peak = larger(logit, peak)
    return peak


@part
def take_softmax(scores, at, count, factor, peak, lse, at_lse):
    """Replaces scores by 2 ** (factor · score - the largest), writes their log-sum-exps, and returns their sums."""
    minus_inf, zero = spread(like(scores, -np.inf)), spread(like(scores, 0))
    total, wide_factor = zero, spread(factor)
    peak = wide_factor * peak
    shift = where_equal(peak, minus_inf, zero, zero - peak)
    for t in range(at, at + HEADS * count, HEADS):
        power = exp2(fma(wide_factor, load(scores, t), shift))
        store(scores, t, power)
        total = total + power
    one = spread(like(scores, 1))
    store(lse, at_lse, spread(like(scores, LOG_2)) * (peak + log2(where_equal(total, zero, one, total))))
    return total


@part_of_rows
def attend_abreast(begin, end, graph, sizes, terms, rules, query, nodes, outputs, has_scale, is_bare, room):
    """As `kernels.attend_tile`, where `is_shared` or `is_narrow`.

    has_scale: what `kernels.has_plain_logits` says; is_bare: whether all that weights do is to gather values.
    """
    num_heads, head_dim, value_dim, edge_dim = sizes.num_heads, sizes.head_dim, sizes.value_dim, sizes.edge_dim
    ptr, src, num_rows = graph.target_ptr, graph.src, end - begin
    low, width = src[ptr[begin]], nodes_seen(begin, end, graph)
    changes_weights = not is_given(outputs.weights.array) or is_given(terms.gate.array) or rules.keep_scale != 1
    scores, zero, one = room.scores, spread(like(room.scores, 0)), spread(like(room.scores, 1))
    factor = (rules.scale if has_scale else like(scores, 1)) * like(scores, LOG2_E)
    for head in range(0, num_heads, HEADS):
        is_last = head + HEADS == num_heads
        row_ahead, node_ahead, head_ahead = (end, low + width, 0) if is_last else (begin, low, head + HEADS)
        lay(room.queries, query, begin * sizes.query_stride + head * head_dim, sizes.query_stride, num_rows, head_dim)
        at = low * nodes.key_stride + nodes.key_at + head * head_dim
        lay(room.keys, nodes.keys, at, nodes.key_stride, width, head_dim)
        at = low * nodes.value_stride + nodes.value_at + head * value_dim
        lay(room.values, nodes.values, at, nodes.value_stride, width, value_dim)
        if is_given(terms.to_features):
            lay_matrices(room.to_features, terms.to_features, head, head_dim, edge_dim)
        if is_given(terms.from_features):
            lay_matrices(room.from_features, terms.from_features, head, edge_dim, value_dim)
        for place in range(0, num_rows, ROWS):
            rows = min(ROWS, num_rows - place)
            left = src[ptr[begin + place]] - low
            right = src[ptr[begin + place + rows] - 1] + 1 - low
            at_row, at_query = (begin + place) * num_heads + head, place * head_dim * HEADS
            ask_for_rows(query, sizes.query_stride, row_ahead + place, head_ahead, rows, head_dim)
            ask_for_rows(outputs.out, num_heads * value_dim, row_ahead + place, head_ahead, rows, value_dim)
            ask_for_rows(nodes.keys, nodes.key_stride, node_ahead + place, head_ahead, rows, head_dim)
            ask_for_rows(nodes.values, nodes.value_stride, node_ahead + place, head_ahead, rows, value_dim)
            multiply_abreast(
                scores, HEADS * left, HEADS * width, room.queries, at_query, HEADS * head_dim, HEADS,
                room.keys, left * HEADS * head_dim, HEADS * head_dim, HEADS, head_dim, rows, right - left, False,
            )  # fmt: skip
            if is_given(terms.to_features):
                multiply_abreast(
                    room.query_attr, 0, HEADS * edge_dim, room.queries, at_query, HEADS * head_dim, HEADS,
                    room.to_features, 0, HEADS, HEADS * edge_dim, head_dim, rows, edge_dim, False,
                )  # fmt: skip
                lift(terms.query_attr, at_row * edge_dim, num_heads * edge_dim, rows, edge_dim, room.query_attr)
            elif edge_dim > 0:
                lay(room.query_attr, terms.query_attr, at_row * edge_dim, num_heads * edge_dim, rows, edge_dim)
            for r in range(rows):
                edge = ptr[begin + place + r]
                count, start = ptr[begin + place + r + 1] - edge, src[edge] - low
                at = HEADS * (r * width + start)
                clear_beside(scores, r * HEADS * width, left, start, start + count, right)
                if edge_dim > 0:
                    add_feature_products(
                        scores, at, count, room.query_attr, r * HEADS * edge_dim, edge, edge_dim, terms
                    )  # fmt: skip
                if has_scale:
                    peak = find_largest(scores, at, count)
                else:
                    bias = line_up(terms.bias, edge, count, head, room.lines, room.zeros)
                    peak = finish_logits_abreast(scores, at, count, bias, rules)
                total = take_softmax(scores, at, count, factor, peak, outputs.lse, at_row + r * num_heads)
                store(room.totals, HEADS * r, total)
                if not is_bare:
                    inverse = one / where_equal(total, zero, one, total)
                    if is_given(outputs.weights.array):
                        for t in range(at, at + HEADS * count, HEADS):
                            store(scores, t, inverse * load(scores, t))
                        write_row(outputs.weights, edge, count, head, scores, at)
                        inverse = one
                    if changes_weights:
                        gate = line_up(terms.gate, edge, count, head, room.lines, room.ones)
                        keeps = line_of_keeps(room, edge, count, head, terms.edge_id, rules)
                        for t in range(count):
                            weight = inverse * load(scores, at + HEADS * t)
                            store(scores, at + HEADS * t, weight * read_line(gate, t) * read_line(keeps, t))
                if edge_dim > 0:
                    at_sums = r * HEADS * edge_dim
                    sum_features_abreast(room.attr_sums, at_sums, count, scores, at, edge, edge_dim, terms)
                    for c in range(at_sums, at_sums + HEADS * edge_dim, HEADS):  # zero times NaN, where nothing is seen
                        store(room.attr_sums, c, where_equal(total, zero, zero, load(room.attr_sums, c)))
            multiply_abreast(
                room.sums, 0, HEADS * value_dim, scores, HEADS * left, HEADS * width, HEADS,
                room.values, left * HEADS * value_dim, HEADS, HEADS * value_dim, right - left, rows, value_dim, False,
            )  # fmt: skip
            if is_given(outputs.out_attr):
                lift(outputs.out_attr, at_row * edge_dim, num_heads * edge_dim, rows, edge_dim, room.attr_sums)
            if is_given(terms.from_features):
                multiply_abreast(
                    room.sums, 0, HEADS * value_dim, room.attr_sums, 0, HEADS * edge_dim, HEADS,
                    room.from_features, 0, HEADS, HEADS * value_dim, edge_dim, rows, value_dim, True,
                )  # fmt: skip
            for r in range(rows):
                total = load(room.totals, HEADS * r)
                inverse = one / total if is_bare else one
                for c in range(r * HEADS * value_dim, (r + 1) * HEADS * value_dim, HEADS):
                    store(room.sums, c, where_equal(total, zero, zero, inverse * load(room.sums, c)))
            lift(outputs.out, at_row * value_dim, num_heads * value_dim, rows, value_dim, room.sums)


@part
def mean_slopes(room, at_row, sizes, upstream):
    """delta of eight heads."""
    dots_of_heads(room.spare, upstream.grad_out, upstream.out, at_row * sizes.value_dim, sizes.value_dim)
    delta = load(room.spare, 0) - load(upstream.grad_lse, at_row)
    if is_given(upstream.out_attr):
        dots_of_heads(room.spare, upstream.grad_out_attr, upstream.out_attr, at_row * sizes.edge_dim, sizes.edge_dim)
        delta = delta + load(room.spare, 0)
    return delta


@part
def differentiate_products_abreast(at, count, at_row, room, sizes, rules, upstream):
    """`differentiate_row_abreast` where nothing but scale · scores enters the logits, and weights are all that leaves
    the softmax."""
    scores, slopes, log2_e = room.scores, room.slopes, like(room.scores, LOG2_E)
    delta, minus_inf = mean_slopes(room, at_row, sizes, upstream), spread(like(scores, -np.inf))
    lse, scale, factor = load(upstream.lse, at_row), spread(rules.scale), spread(rules.scale * log2_e)
    shift = where_equal(lse, minus_inf, minus_inf, spread(like(scores, 0)) - spread(log2_e) * lse)
    for t in range(at, at + HEADS * count, HEADS):
        alpha = exp2(fma(factor, load(scores, t), shift))
        store(scores, t, scale * alpha * (load(slopes, t) - delta))
        store(slopes, t, alpha)


@part
def differentiate_row_abreast(at, count, edge, at_row, head, room, sizes, terms, rules, upstream, grads):
    """Scores of a row become dx, slopes w; and what its edges gain from it, but for their features."""
    scores, slopes, log2_e = room.scores, room.slopes, like(room.scores, LOG2_E)
    delta, minus_inf = mean_slopes(room, at_row, sizes, upstream), spread(like(scores, -np.inf))
    lse, factor, scale, clip = load(upstream.lse, at_row), spread(log2_e), spread(rules.scale), spread(rules.clip)
    shift = where_equal(lse, minus_inf, minus_inf, spread(like(scores, 0)) - factor * lse)
    room_of_line = HEADS * MOST_NODES
    bias = line_up(terms.bias, edge, count, head, room.lines, room.zeros)
    gate = line_up(terms.gate, edge, count, head, shifted(room.lines, room_of_line), room.ones)
    into_bias = line_for(grads.bias, edge, head, shifted(room.lines, 2 * room_of_line), room.nowhere)
    into_gate = line_for(grads.gate, edge, head, shifted(room.lines, 3 * room_of_line), room.nowhere)
    spare = shifted(room.lines, 4 * room_of_line)
    of_weights = line_up(upstream.grad_weights, edge, count, head, spare, room.zeros)
    keeps = line_of_keeps(room, edge, count, head, terms.edge_id, rules)
    for t in range(count if is_given(upstream.grad_weights.array) else 0):
        logit = finish_logit(load(scores, at + HEADS * t), bias, t, scale, clip)
        delta = fma(exp2(fma(factor, logit, shift)), read_line(of_weights, t), delta)
    for t in range(count):
        place = at + HEADS * t
        product, slope = load(scores, place), load(slopes, place)
        alpha = exp2(fma(factor, finish_logit(product, bias, t, scale, clip), shift))
        kept = alpha * read_line(keeps, t)
        weight = kept * read_line(gate, t)
        upper = fma(alpha, read_line(of_weights, t), weight * slope - alpha * delta)
        write_line(into_gate, t, kept * slope)
        write_line(into_bias, t, upper)
        store(scores, place, zero_beyond(scale * upper, scale * product, clip))
        store(slopes, place, weight)
    write_row(grads.bias, edge, count, head, into_bias.array, into_bias.at)
    write_row(grads.gate, edge, count, head, into_gate.array, into_gate.at)


@part_of_rows
def multiply_seen(into, weights, rows, begin, end, low, width, columns, graph):
    """For each source, the sum of the rows of the targets that see it, by weights."""
    ptr, src = graph.target_ptr, graph.src
    first, last = begin, begin  # the targets that see some of four sources
    for node in range(0, width, ROWS):
        while first < end and src[ptr[first + 1] - 1] - low < node:
            first += 1
        while last < end and src[ptr[last]] - low < node + ROWS:
            last += 1
        at_row = (first - begin) * HEADS
        multiply_abreast(
            into, node * HEADS * columns, HEADS * columns, weights, at_row * width + HEADS * node, HEADS, HEADS * width,
            rows, at_row * columns, HEADS, HEADS * columns, last - first, min(ROWS, width - node), columns, False,
        )  # fmt: skip


@part_of_rows
def differentiate_abreast(
    begin, end, graph, sizes, terms, rules, query, nodes, grad_nodes, upstream, grads, is_plain, room
):
    """As `kernels.differentiate_tile`, where `is_shared` or `is_narrow`; is_plain: what `kernels.is_plain` says, and
    weights have no gradient of their own."""
    num_heads, head_dim, value_dim, edge_dim = sizes.num_heads, sizes.head_dim, sizes.value_dim, sizes.edge_dim
    ptr, src, num_rows = graph.target_ptr, graph.src, end - begin
    low, width = src[ptr[begin]], nodes_seen(begin, end, graph)
    scores, slopes = room.scores, room.slopes
    for head in range(0, num_heads, HEADS):
        is_last = head + HEADS == num_heads
        row_ahead, node_ahead, head_ahead = (end, low + width, 0) if is_last else (begin, low, head + HEADS)
        lay(room.queries, query, begin * sizes.query_stride + head * head_dim, sizes.query_stride, num_rows, head_dim)
        at = (begin * num_heads + head) * value_dim
        lay(room.slope_rows, upstream.grad_out, at, num_heads * value_dim, num_rows, value_dim)
        at = low * nodes.key_stride + nodes.key_at + head * head_dim
        lay(room.keys, nodes.keys, at, nodes.key_stride, width, head_dim)
        at = low * nodes.value_stride + nodes.value_at + head * value_dim
        lay(room.values, nodes.values, at, nodes.value_stride, width, value_dim)
        if is_given(terms.to_features):
            lay_matrices(room.to_features, terms.to_features, head, value_dim, edge_dim)
        if is_given(terms.from_features):
            lay_matrices(room.from_features, terms.from_features, head, edge_dim, head_dim)
        for place in range(0, num_rows, ROWS):
            rows, first = min(ROWS, num_rows - place), place * HEADS * width
            left = src[ptr[begin + place]] - low
            right = src[ptr[begin + place + rows] - 1] + 1 - low
            at_row, at_slope = (begin + place) * num_heads + head, place * value_dim * HEADS
            ask_for_rows(query, sizes.query_stride, row_ahead + place, head_ahead, rows, head_dim)
            ask_for_rows(upstream.grad_out, num_heads * value_dim, row_ahead + place, head_ahead, rows, value_dim)
            ask_for_rows(upstream.out, num_heads * value_dim, row_ahead + place, head_ahead, rows, value_dim)
            ask_for_rows(nodes.keys, nodes.key_stride, node_ahead + place, head_ahead, rows, head_dim)
            ask_for_rows(nodes.values, nodes.value_stride, node_ahead + place, head_ahead, rows, value_dim)
            if is_given(grads.query):
                ask_for_rows(grads.query, num_heads * head_dim, row_ahead + place, head_ahead, rows, head_dim)
            if is_given(grads.key):
                at = grad_nodes.key_at + (node_ahead + place) * grad_nodes.key_stride
                ask_for_rows(shifted(grad_nodes.keys, at), grad_nodes.key_stride, 0, head_ahead, rows, head_dim)
            if is_given(grads.value):
                at = grad_nodes.value_at + (node_ahead + place) * grad_nodes.value_stride
                ask_for_rows(shifted(grad_nodes.values, at), grad_nodes.value_stride, 0, head_ahead, rows, value_dim)
            multiply_abreast(
                scores, first + HEADS * left, HEADS * width,
                room.queries, place * head_dim * HEADS, HEADS * head_dim, HEADS,
                room.keys, left * HEADS * head_dim, HEADS * head_dim, HEADS, head_dim, rows, right - left, False,
            )  # fmt: skip
            multiply_abreast(
                slopes, first + HEADS * left, HEADS * width, room.slope_rows, at_slope, HEADS * value_dim, HEADS,
                room.values, left * HEADS * value_dim, HEADS * value_dim, HEADS, value_dim, rows, right - left, False,
            )  # fmt: skip
            if edge_dim > 0:
                lay(room.query_attr, terms.query_attr, at_row * edge_dim, num_heads * edge_dim, rows, edge_dim)
            if is_given(terms.to_features):
                multiply_abreast(
                    room.slope_attr, 0, HEADS * edge_dim, room.slope_rows, at_slope, HEADS * value_dim, HEADS,
                    room.to_features, 0, HEADS, HEADS * edge_dim, value_dim, rows, edge_dim, False,
                )  # fmt: skip
            elif edge_dim > 0:
                lay(room.slope_attr, upstream.grad_out_attr, at_row * edge_dim, num_heads * edge_dim, rows, edge_dim)
            for r in range(rows):
                edge, at_attr, at = ptr[begin + place + r], r * HEADS * edge_dim, first + r * HEADS * width
                count, start = ptr[begin + place + r + 1] - edge, src[edge] - low
                stop = start + count
                # zeros as far as a group of sources may reach that has one of the row's
                from_column, to_column = max(0, min(left, start - ROWS)), min(width, max(right, stop + ROWS))
                clear_beside(scores, at, from_column, start, stop, to_column)
                clear_beside(slopes, at, from_column, start, stop, to_column)
                at += HEADS * start
                if edge_dim > 0:
                    add_feature_products(scores, at, count, room.query_attr, at_attr, edge, edge_dim, terms)
                    add_feature_products(slopes, at, count, room.slope_attr, at_attr, edge, edge_dim, terms)
                if is_plain:
                    differentiate_products_abreast(at, count, at_row + r * num_heads, room, sizes, rules, upstream)
                else:
                    differentiate_row_abreast(
                        at, count, edge, at_row + r * num_heads, head, room, sizes, terms, rules, upstream, grads
                    )
                if is_given(grads.query_attr):
                    sum_features_abreast(room.attr_sums, at_attr, count, scores, at, edge, edge_dim, terms)
                if is_given(grads.edge_attr):
                    grow_features_abreast(
                        grads.edge_attr, edge * edge_dim, count, scores, slopes, at, room.query_attr, room.slope_attr,
                        at_attr, edge_dim, head > 0, room.spare,
                    )  # fmt: skip
            if is_given(grads.query_attr):
                lift(grads.query_attr, at_row * edge_dim, num_heads * edge_dim, rows, edge_dim, room.attr_sums)
            if is_given(grads.query):
                multiply_abreast(
                    room.sums, 0, HEADS * head_dim, scores, first + HEADS * left, HEADS * width, HEADS,
                    room.keys, left * HEADS * head_dim, HEADS, HEADS * head_dim, right - left, rows, head_dim, False,
                )  # fmt: skip
                if is_given(terms.from_features):
                    multiply_abreast(
                        room.sums, 0, HEADS * head_dim, room.attr_sums, 0, HEADS * edge_dim, HEADS,
                        room.from_features, 0, HEADS, HEADS * head_dim, edge_dim, rows, head_dim, True,
                    )  # fmt: skip
                lift(grads.query, at_row * head_dim, num_heads * head_dim, rows, head_dim, room.sums)
        if is_given(grads.key):
            multiply_seen(room.sums, scores, room.queries, begin, end, low, width, head_dim, graph)
            at = low * grad_nodes.key_stride + grad_nodes.key_at + head * head_dim
            add_lifted(grad_nodes.keys, at, grad_nodes.key_stride, width, head_dim, room.sums, room.spare)
        if is_given(grads.value):
            multiply_seen(room.sums, slopes, room.slope_rows, begin, end, low, width, value_dim, graph)
            at = low * grad_nodes.value_stride + grad_nodes.value_at + head * value_dim
            add_lifted(grad_nodes.values, at, grad_nodes.value_stride, width, value_dim, room.sums, room.spare)
