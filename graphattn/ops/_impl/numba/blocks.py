"""Kernels for blocks as they are: each is gathered, multiplied out in registers, and merged into what its targets have.

Formulas, forward and backward, are those of `kernels.py`, without terms of edges. A block's sources lie gathered in
scratch memory while its targets pass by, so nothing is laid out anew and nothing of the size of pairs is made. A target
of several blocks keeps one output and one log-sum-exp throughout, to which each block adds its share:

    lse ← log(exp lse + exp lse_b),   out ← exp(lse_before − lse) out + exp(lse_b − lse) out_b

Backward, each block's weights are exp(logit − lse) with the lse of the whole. Both kernels serve the key heads
[begin, end) over all blocks, so no two threads add to one number, and bits do not depend on the number of threads.
Nodes of a block may lie anywhere, so each row is asked for a while before it is read.

Arrays are flat, widths multiples of 8; `table`, `dst`, `src` and `prefix` are those of `graph.plan.Groups`. What is
read lies in `Rows`: a node's heads are side by side, the nodes a step apart, those of keys and values in two tables.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from graphattn.ops._impl.numba.pieces import (
    GROUP,
    LOG2_E,
    LOG_2,
    add_row,
    add_rows,
    ask_early,
    clear,
    differentiate_products,
    dot,
    find_peaks,
    find_totals,
    hide_beyond,
    kernel,
    log_sum_exp,
    multiply,
    padded,
    part,
    part_of_rows,
    raise_two,
    rows_at_once,
    transpose,
)
from graphattn.ops._impl.numba.vectors import (
    ask_for_huge_pages,
    exp2,
    fma,
    is_given,
    keep,
    lane_sum,
    larger,
    like,
    load,
    log2,
    optional,
    pointer,
    spread,
    store,
    where_equal,
)

FIELDS = 5  # of a group in the table
CHUNK_CELLS = 2**15  # targets times sources whose weights and slopes stay in the second-level cache
STEP = 2 * GROUP  # targets served at once


class Rows(NamedTuple):
    """Vectors of nodes: those of the first `count` in one array, those of the others in another, from its start."""

    array: Any
    step: Any  # numbers from one node to the next
    count: Any
    more: Any
    more_step: Any


@part
def widest_group(table):
    """Sources of the largest block."""
    room = 0
    for group in range(len(table) // FIELDS):
        room = max(room, table[FIELDS * group + 2])
    return room


@part
def tallest_group(table):
    """Targets of the largest block."""
    room = 0
    for group in range(len(table) // FIELDS):
        room = max(room, table[FIELDS * group + 1])
    return room


@part_of_rows
def gather_rows(into, nodes, first, count, rows, at, width):
    """into[r * width:][:width] = what rows have at [at:][:width] of node nodes[first + r].

    Returns zero if all numbers are finite, else NaN.
    """
    check = spread(like(into, 0))
    zero = check
    for r in range(count):
        node = nodes[first + r]
        if node < rows.count:
            place = node * rows.step + at
            for c in range(0, width, 8):
                numbers = load(rows.array, place + c)
                store(into, r * width + c, numbers)
                check = fma(numbers, zero, check)
        else:
            place = (node - rows.count) * rows.more_step + at
            for c in range(0, width, 8):
                numbers = load(rows.more, place + c)
                store(into, r * width + c, numbers)
                check = fma(numbers, zero, check)
    return lane_sum(check)


@part_of_rows
def add_gathered(rows, nodes, first, count, at, table, width):
    """Adds the rows of a table, [count, width], to what `rows` have at [at:] of nodes[first:][:count]."""
    for r in range(count):
        node = nodes[first + r]
        if node < rows.count:
            add_row(rows.array, node * rows.step + at, table, r * width, width)
        else:
            add_row(rows.more, (node - rows.count) * rows.more_step + at, table, r * width, width)


class Share(NamedTuple):
    """Nodes of which so many are asked for in each step."""

    first: Any
    stop: Any
    each: Any


class Ahead(NamedTuple):
    """What is served next: the block's next targets, those under its next head, or the next block."""

    first_target: Any
    last_target: Any
    sources: Any  # none where they are those of now
    head: Any
    key_head: Any
    is_new: Any  # whether other sums begin


@part
def size_after(table, group, block, field):
    """Targets (1) or sources (2) of the block that follows, zero if there is none."""
    if block + 1 < table[FIELDS * group]:
        return table[FIELDS * group + field]
    return table[FIELDS * (group + 1) + field] if FIELDS * (group + 1) < len(table) else 0


@part
def shared_out(first, count, steps):
    return Share(first, first + count, (count + steps - 1) // steps)


@part
def look_ahead(head, heads, group_size, row, place, chunk, num_targets, column, num_sources, after):
    """Returns what follows `chunk` targets of a block, those from `place` on, under a head; `heads` are the first and
    the last to be served, `after` the sizes of the next block."""
    steps = (min(chunk, num_targets - place) + STEP - 1) // STEP
    if place + chunk < num_targets:
        first, stop = row + place + chunk, row + min(place + 2 * chunk, num_targets)
        return Ahead(first, stop, Share(0, 0, 0), head, head // group_size, False)
    if head + 1 < heads[1]:
        key_head = (head + 1) // group_size
        is_new = key_head != head // group_size
        sources = shared_out(column, num_sources if is_new else 0, steps)
        return Ahead(row, row + min(chunk, num_targets), sources, head + 1, key_head, is_new)
    first, key_head = row + num_targets, heads[0] // group_size
    sources = shared_out(column + num_sources, after[1], steps)
    return Ahead(first, first + min(chunk, after[0]), sources, heads[0], key_head, True)


@part
def ask_for(rows, nodes, share, step, at, width):
    """Asks for what rows have at [at:][:width] of a step's share of nodes."""
    first = share.first + step * share.each
    for r in range(first, min(first + share.each, share.stop)):
        node = nodes[r]
        if node < rows.count:
            ask_early(rows.array, node * rows.step, at, width)
        else:
            ask_early(rows.more, (node - rows.count) * rows.more_step, at, width)


@part
def ask_for_sources(ahead, step, key, value, src, head_dim, value_dim):
    ask_for(key, src, ahead.sources, step, ahead.key_head * head_dim, head_dim)
    ask_for(value, src, ahead.sources, step, ahead.key_head * value_dim, value_dim)


class Merged(NamedTuple):
    """Room for what `merge` makes of up to eight targets."""

    before: Any  # the log-sum-exp that a target had
    kept: Any  # its share and that of the block, as powers of the larger log-sum-exp
    added: Any
    total: Any
    lse: Any


@part
def merge(outs, width, part_lse, part_totals, merged, first, count, dst, num_heads, head, out, lse):
    """Adds a block's shares, of which outs are part_totals times as much, to what up to eight targets have."""
    minus_inf, is_first = like(out, -np.inf), True
    for r in range(count):
        merged.before[r] = lse[dst[first + r] * num_heads + head]
        is_first = is_first and merged.before[r] == minus_inf
    if not is_first:
        before, new, none = load(merged.before, 0), load(part_lse, 0), spread(minus_inf)
        peak, log2_e = larger(new, before), spread(like(out, LOG2_E))
        shift = where_equal(peak, none, spread(like(out, 0)), peak)
        kept, added = exp2(log2_e * (before - shift)), exp2(log2_e * (new - shift))
        total = kept + added
        store(merged.kept, 0, kept)
        store(merged.added, 0, added)
        store(merged.total, 0, total)
        store(merged.lse, 0, fma(spread(like(out, LOG_2)), log2(total), shift))
    for r in range(count):
        at_row = dst[first + r] * num_heads + head
        at = at_row * width
        if part_lse[r] == minus_inf:
            continue
        if merged.before[r] == minus_inf:  # then out holds nothing yet
            lse[at_row], factor = part_lse[r], spread(like(out, 1) / part_totals[r])
            for c in range(0, width, 8):
                store(out, at + c, factor * load(outs, r * width + c))
        else:
            lse[at_row], factor = merged.lse[r], spread(merged.added[r] / (merged.total[r] * part_totals[r]))
            scale = spread(merged.kept[r] / merged.total[r])
            for c in range(0, width, 8):
                store(out, at + c, fma(factor, load(outs, r * width + c), scale * load(out, at + c)))


@part
def highest(prefix, first, count):
    """The longest prefix of some rows."""
    most = 0
    for r in range(first, first + count):
        most = max(most, prefix[r])
    return most


@part_of_rows
def attend_block(
    row, num_targets, num_sources, ld, num_heads, head, head_dim, value_dim, is_finite, dst, prefix, scale,
    query, key_columns, value_rows, queries, scores, outs, peaks, totals, lanes, merged, out, lse, src, key, value,
    ahead,
):  # fmt: skip
    """Serves the targets of one block under one head."""
    factor = scale * like(scores, LOG2_E)
    place, of_out = 0, Rows(out, num_heads * value_dim, query.count, out, 0)
    while place < num_targets:
        ask_for_sources(ahead, place // STEP, key, value, src, head_dim, value_dim)
        share, next_head = Share(row + place + STEP, row + num_targets, STEP), head
        if place + STEP >= num_targets:
            share, next_head = Share(ahead.first_target, ahead.last_target, STEP), ahead.head
        ask_for(query, dst, share, 0, next_head * head_dim, head_dim)
        ask_for(of_out, dst, share, 0, next_head * value_dim, value_dim)
        rows = rows_at_once(place, num_targets)
        real, first = min(rows, num_targets - place), row + place
        place += rows
        gather_rows(queries, dst, first, real, query, head * head_dim, head_dim)
        depth = highest(prefix, first, real)
        columns = padded(depth)
        multiply(scores, 0, ld, queries, 0, head_dim, 1, key_columns, 0, ld, head_dim, columns, rows)
        for r in range(real):
            store(lanes, 8 * r, hide_beyond(scores, r * ld, columns, 0, prefix[first + r]))
        find_peaks(lanes, factor, peaks)
        for r in range(real):
            store(lanes, 8 * r, raise_two(scores, r * ld, columns, factor, peaks[r]))
        find_totals(lanes, peaks, totals)
        log_sum_exp(peaks, totals)
        if is_finite:
            multiply(outs, 0, value_dim, scores, 0, ld, 1, value_rows, 0, value_dim, depth, value_dim, rows)
        else:  # zero times NaN would leak
            for r in range(real):
                for c in range(value_dim):
                    total = like(outs, 0)
                    for t in range(prefix[first + r]):
                        total += scores[r * ld + t] * value_rows[t * value_dim + c]
                    outs[r * value_dim + c] = total
        merge(outs, value_dim, peaks, totals, merged, first, real, dst, num_heads, head, out, lse)


@kernel
def attend_blocks(
    begin, end, table, num_heads, num_key_heads, head_dim, value_dim, dst, src, prefix, scale,
    query, query_step, key, key_step, num_first, more_key, more_key_step,
    value, value_step, _, more_value, more_value_step, out, lse,
):  # fmt: skip
    """Merges all blocks into lse, −inf on arrival or what the targets have from elsewhere, and into out."""
    group_size, room, num_rows = num_heads // num_key_heads, widest_group(table), len(lse) // num_heads
    ld = padded(room) + 8
    at_rows = STEP * ld
    at_columns = at_rows + ld * max(head_dim, value_dim)
    at_queries = at_columns + ld * head_dim
    at_outs = at_queries + STEP * head_dim
    at_peaks = at_outs + STEP * value_dim
    numbers = np.zeros(at_peaks + 15 * STEP, out.dtype)
    ask_for_huge_pages(numbers)
    numbers[at_peaks:] = 1
    scores, source_rows, key_columns = pointer(numbers, 0), pointer(numbers, at_rows), pointer(numbers, at_columns)
    queries, outs = pointer(numbers, at_queries), pointer(numbers, at_outs)
    peaks, totals = pointer(numbers, at_peaks), pointer(numbers, at_peaks + STEP)
    merged = Merged(
        pointer(numbers, at_peaks + 2 * STEP), pointer(numbers, at_peaks + 3 * STEP),
        pointer(numbers, at_peaks + 4 * STEP), pointer(numbers, at_peaks + 5 * STEP),
        pointer(numbers, at_peaks + 6 * STEP),
    )  # fmt: skip
    lanes = pointer(numbers, at_peaks + 7 * STEP)
    dst, src, prefix, out, lse = optional(dst), optional(src), optional(prefix), optional(out), optional(lse)
    query = Rows(optional(query), query_step, num_rows, optional(query), 0)
    key = Rows(optional(key), key_step, num_first, optional(more_key), more_key_step)
    value = Rows(optional(value), value_step, num_first, optional(more_value), more_value_step)
    row, column, heads = 0, 0, (begin * group_size, end * group_size)
    for group in range(len(table) // FIELDS):
        num_targets, num_sources = table[FIELDS * group + 1], table[FIELDS * group + 2]
        for block in range(table[FIELDS * group]):
            after = size_after(table, group, block, 1), size_after(table, group, block, 2)
            for key_head in range(begin, end):
                gather_rows(source_rows, src, column, num_sources, key, key_head * head_dim, head_dim)
                transpose(key_columns, ld, source_rows, 0, head_dim, num_sources, head_dim)
                check = gather_rows(source_rows, src, column, num_sources, value, key_head * value_dim, value_dim)
                for head in range(key_head * group_size, (key_head + 1) * group_size):
                    ahead = look_ahead(
                        head, heads, group_size, row, 0, num_targets, num_targets, column, num_sources, after
                    )
                    attend_block(
                        row, num_targets, num_sources, ld, num_heads, head, head_dim, value_dim, check == 0, dst,
                        prefix, scale, query, key_columns, source_rows, queries, scores, outs, peaks, totals, lanes,
                        merged, out, lse, src, key, value, ahead,
                    )  # fmt: skip
            row += num_targets
            column += num_sources
    for row in range(num_rows):
        for head in range(begin * group_size, end * group_size):
            if lse[row * num_heads + head] == -np.inf:
                clear(out, (row * num_heads + head) * value_dim, value_dim)
    keep(numbers)


@part_of_rows
def differentiate_slowly(
    first, count, ld, num_heads, head, head_dim, value_dim, dst, prefix, scale, lse, deltas,
    queries, slope_rows, key_rows, value_columns, weights, slopes, grad_query, key_sums, value_sums,
):  # fmt: skip
    """One pair at a time, where a zero times NaN would leak."""
    for r in range(count):
        at_row = dst[first + r] * num_heads + head
        if lse[at_row] == -np.inf:
            continue
        for t in range(prefix[first + r]):
            score, slope = like(weights, 0), like(weights, 0)
            for c in range(head_dim):
                score += queries[r * head_dim + c] * key_rows[t * head_dim + c]
            for c in range(value_dim):
                slope += slope_rows[r * value_dim + c] * value_columns[c * ld + t]
            weight = like(weights, math.exp(scale * score - lse[at_row]))
            slope = like(weights, scale * weight * (slope - deltas[r]))
            for c in range(head_dim):
                grad_query[at_row * head_dim + c] += slope * key_rows[t * head_dim + c]
                key_sums[t * head_dim + c] += slope * queries[r * head_dim + c]
            for c in range(value_dim):
                value_sums[t * value_dim + c] += weight * slope_rows[r * value_dim + c]


@part
def ascend(prefix, first, count):
    for r in range(first + 1, first + count):
        if prefix[r] < prefix[r - 1]:
            return False
    return True


@part_of_rows
def differentiate_chunk(
    first, count, num_sources, ld, num_heads, head, head_dim, value_dim, dst, prefix, scale, lse, deltas,
    queries, slope_rows, key_columns, value_columns, key_rows, scores, slopes, sums, grad_query, key_sums, value_sums,
    src, query, key, value, slope, key_grads, value_grads, key_head, of_sources, ahead,
):  # fmt: skip
    """Serves some targets of one block under one head; scores become slopes of logits, and slopes weights."""
    is_stair, place = ascend(prefix, first, count), 0
    targets, next_targets = Share(first, first + count, STEP), Share(ahead.first_target, ahead.last_target, STEP)
    while place < count:
        step = place // STEP
        ask_for_sources(ahead, step, key, value, src, head_dim, value_dim)
        ask_for(query, dst, next_targets, step, ahead.head * head_dim, head_dim)
        ask_for(slope, dst, next_targets, step, ahead.head * value_dim, value_dim)
        if is_given(grad_query):
            of_query = Rows(grad_query, num_heads * head_dim, query.count, grad_query, 0)
            ask_for(of_query, dst, targets, step, head * head_dim, head_dim)
        rows = rows_at_once(place, count)
        real = min(rows, count - place)
        depth = prefix[first + place + real - 1] if is_stair else num_sources
        columns, at = padded(depth), place * ld
        multiply(scores, at, ld, queries, place * head_dim, head_dim, 1, key_columns, 0, ld, head_dim, columns, rows)
        multiply(
            slopes, at, ld, slope_rows, place * value_dim, value_dim, 1, value_columns, 0, ld, value_dim, columns, rows
        )
        for r in range(place, place + real):
            total = lse[dst[first + r] * num_heads + head]
            if total == -np.inf:
                clear(scores, r * ld, columns)
                clear(slopes, r * ld, columns)
            else:
                differentiate_products(scores, slopes, r * ld, columns, 0, prefix[first + r], total, deltas[r], scale)
        if is_given(grad_query):
            multiply(sums, 0, head_dim, scores, at, ld, 1, key_rows, 0, head_dim, depth, head_dim, rows)
            for r in range(real):
                at_row = dst[first + place + r] * num_heads + head
                add_row(grad_query, at_row * head_dim, sums, r * head_dim, head_dim)
        place += rows
    lowest = 0  # the targets that see some of four sources
    for column in range(0, num_sources, GROUP):
        if is_stair:
            while lowest < count and prefix[first + lowest] <= column:
                lowest += 1
        if lowest == count:
            break
        if ahead.is_new:  # then what sources gain is added up after this
            ask_for(key_grads, src, of_sources, column // GROUP, key_head * head_dim, head_dim)
            ask_for(value_grads, src, of_sources, column // GROUP, key_head * value_dim, value_dim)
        multiply(
            sums, 0, head_dim, scores, lowest * ld + column, 1, ld,
            queries, lowest * head_dim, head_dim, count - lowest, head_dim, GROUP,
        )  # fmt: skip
        add_rows(key_sums, column * head_dim, head_dim, sums, GROUP, head_dim)
        multiply(
            sums, 0, value_dim, slopes, lowest * ld + column, 1, ld,
            slope_rows, lowest * value_dim, value_dim, count - lowest, value_dim, GROUP,
        )  # fmt: skip
        add_rows(value_sums, column * value_dim, value_dim, sums, GROUP, value_dim)


@kernel
def differentiate_blocks(
    begin, end, table, num_heads, num_key_heads, head_dim, value_dim, dst, src, prefix, scale,
    query, query_step, key, key_step, num_first, more_key, more_key_step,
    value, value_step, _, more_value, more_value_step, out, lse, grad_out, grad_lse,
    grad_query, grad_key, grad_value, grad_more_key, grad_more_value,
):  # fmt: skip
    """Adds to the gradients, zero on arrival, what all blocks bring; out and lse are those of the whole."""
    group_size, room, tallest = num_heads // num_key_heads, widest_group(table), tallest_group(table)
    ld, wide = padded(room) + 8, max(head_dim, value_dim)
    chunk = max(STEP, CHUNK_CELLS // ld // STEP * STEP)
    chunk = min(chunk, tallest + -tallest % STEP)
    at_slopes = chunk * ld
    at_key_rows = at_slopes + chunk * ld
    at_value_rows = at_key_rows + ld * head_dim
    at_key_columns = at_value_rows + ld * value_dim
    at_value_columns = at_key_columns + ld * head_dim
    at_key_sums = at_value_columns + ld * value_dim
    at_value_sums = at_key_sums + ld * head_dim
    at_queries = at_value_sums + ld * value_dim
    at_slope_rows = at_queries + chunk * head_dim
    at_sums = at_slope_rows + chunk * value_dim
    at_deltas = at_sums + STEP * wide
    num_rows, num_ours = len(lse) // num_heads, (end - begin) * group_size
    numbers = np.zeros(at_deltas + chunk, out.dtype)
    of_rows = np.empty(num_rows * num_ours, out.dtype)  # delta of the formulas, once for all blocks of a target
    ask_for_huge_pages(numbers)
    scores, slopes = pointer(numbers, 0), pointer(numbers, at_slopes)
    key_rows, value_rows = pointer(numbers, at_key_rows), pointer(numbers, at_value_rows)
    key_columns, value_columns = pointer(numbers, at_key_columns), pointer(numbers, at_value_columns)
    key_sums, value_sums = pointer(numbers, at_key_sums), pointer(numbers, at_value_sums)
    queries, slope_rows = pointer(numbers, at_queries), pointer(numbers, at_slope_rows)
    sums, deltas = pointer(numbers, at_sums), pointer(numbers, at_deltas)
    dst, src, prefix = optional(dst), optional(src), optional(prefix)
    query = Rows(optional(query), query_step, num_rows, optional(query), 0)
    key = Rows(optional(key), key_step, num_first, optional(more_key), more_key_step)
    value = Rows(optional(value), value_step, num_first, optional(more_value), more_value_step)
    out, lse, grad_lse, grad_query = optional(out), optional(lse), optional(grad_lse), optional(grad_query)
    slope = Rows(optional(grad_out), num_heads * value_dim, num_rows, optional(grad_out), 0)
    key_numbers, value_numbers = num_key_heads * head_dim, num_key_heads * value_dim
    key_grads = Rows(optional(grad_key), key_numbers, num_first, optional(grad_more_key), key_numbers)
    value_grads = Rows(optional(grad_value), value_numbers, num_first, optional(grad_more_value), value_numbers)
    for row in range(num_rows):
        for number in range(num_ours):
            at_row = row * num_heads + begin * group_size + number
            delta = dot(slope.array, at_row * value_dim, out, at_row * value_dim, value_dim)
            of_rows[row * num_ours + number] = delta - grad_lse[at_row] if is_given(grad_lse) else delta
    row, column, heads = 0, 0, (begin * group_size, end * group_size)
    for group in range(len(table) // FIELDS):
        num_targets, num_sources = table[FIELDS * group + 1], table[FIELDS * group + 2]
        whole = num_sources + -num_sources % GROUP
        for block in range(table[FIELDS * group]):
            after = size_after(table, group, block, 1), size_after(table, group, block, 2)
            sources = Share(column, column + num_sources, GROUP)
            for key_head in range(begin, end):
                of_sources = gather_rows(key_rows, src, column, num_sources, key, key_head * head_dim, head_dim)
                of_sources += gather_rows(value_rows, src, column, num_sources, value, key_head * value_dim, value_dim)
                transpose(key_columns, ld, key_rows, 0, head_dim, num_sources, head_dim)
                transpose(value_columns, ld, value_rows, 0, value_dim, num_sources, value_dim)
                clear(key_sums, 0, whole * head_dim)
                clear(value_sums, 0, whole * value_dim)
                for head in range(key_head * group_size, (key_head + 1) * group_size):
                    for place in range(0, num_targets, chunk):
                        first, count = row + place, min(chunk, num_targets - place)
                        check = of_sources + gather_rows(queries, dst, first, count, query, head * head_dim, head_dim)
                        check += gather_rows(slope_rows, dst, first, count, slope, head * value_dim, value_dim)
                        for r in range(count):
                            deltas[r] = of_rows[(dst[first + r] * num_ours) + head - begin * group_size]
                        if check == 0:
                            ahead = look_ahead(
                                head, heads, group_size, row, place, chunk, num_targets, column, num_sources, after
                            )
                            differentiate_chunk(
                                first, count, num_sources, ld, num_heads, head, head_dim, value_dim, dst, prefix, scale,
                                lse, deltas, queries, slope_rows, key_columns, value_columns, key_rows, scores, slopes,
                                sums, grad_query, key_sums, value_sums, src, query, key, value, slope, key_grads,
                                value_grads, key_head, sources, ahead,
                            )  # fmt: skip
                        else:
                            differentiate_slowly(
                                first, count, ld, num_heads, head, head_dim, value_dim, dst, prefix, scale, lse, deltas,
                                queries, slope_rows, key_rows, value_columns, scores, slopes, grad_query, key_sums,
                                value_sums,
                            )  # fmt: skip
                add_gathered(key_grads, src, column, num_sources, key_head * head_dim, key_sums, head_dim)
                add_gathered(value_grads, src, column, num_sources, key_head * value_dim, value_sums, value_dim)
            row += num_targets
            column += num_sources
    keep(numbers)
