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

Targets are served in two ways. Where those next to each other see ranges of sources without gaps (windows, full
attention inside molecules), a tile of them runs as small dense matrix products in registers; else a row runs edge by
edge, and where heads are served one at a time their keys and values are packed side by side first. Either way a row's
scores, then its weights, lie in scratch memory, and everything between query · key and the weighted sum is the same
code. Absent terms leave their scratch at the neutral element and are skipped. Tiles whose targets share a few sources
(molecules) have a way of their own, eight heads abreast: `abreast`.

Backward is one pass, too: it writes what targets and edges own, and adds to what sources own. So whoever calls a kernel
decides by `tasks` which rows and heads may run beside each other: those that touch no source in common. Every number is
summed by one thread in one order, so nothing is atomic and the bits do not depend on the number of threads.

Each kernel serves tasks [begin, end), for one float type. A task is FIELDS numbers: its rows (first, last), its key
heads (first, last), into which copy of grad_key and grad_value it adds, and the sources (first, last) whose gradients
it clears there before, unless it packs them. All arrays are flat and contiguous, and all widths are multiples of 8;
nodes of queries, keys and values may lie a stride apart, and numbers of edges as `Table` says; those without a stride
have a row a head. An absent array is empty.
"""

from typing import Any, NamedTuple

import numpy as np

from graphattn.ops._impl.numba.abreast import (
    HEADS,
    attend_abreast,
    can_run_abreast,
    differentiate_abreast,
    has_finite_slopes,
    is_narrow,
    is_shared,
    numbers_abreast,
    room_abreast,
    slice_end,
)
from graphattn.ops._impl.numba.pieces import (
    BEFORE,
    BUNCH_EDGES,
    BUNCH_ROWS,
    FAR_EDGES,
    FIELDS,
    GROUP,
    LOG2_E,
    NEAR_NUMBERS,
    TILE_CELLS,
    TILE_COLUMNS,
    TILE_DIM,
    TILE_ROWS,
    Features,
    Table,
    add_by_type,
    add_outer,
    add_rows,
    add_weighted,
    ask_early,
    ask_for_row,
    clear,
    clear_after,
    clear_before,
    clear_features,
    collect_incoming,
    copy_rows,
    differentiate,
    differentiate_products,
    dot,
    dots,
    dots_of_features,
    draw_keeps,
    find_peaks,
    find_totals,
    finish_logits,
    gather,
    grow_features,
    hash_edges,
    hide_beyond,
    kernel,
    lay_features,
    list_types,
    log_sum_exp,
    look_up,
    multiply,
    multiply_row,
    padded,
    part,
    part_of_rows,
    powers,
    project,
    raise_two,
    rows_at_once,
    scatter,
    sum_features,
    sum_product,
    swap,
    take_powers,
    transpose,
    widest,
    write_features,
    write_lse,
)
from graphattn.ops._impl.numba.vectors import (
    TWO_LINES,
    aligned,
    ask_for_huge_pages,
    fma,
    is_given,
    keep,
    like,
    load,
    optional,
    pointer,
    shifted,
    spread,
    store,
)


class Graph(NamedTuple):
    """Edges sorted by (target, source)."""

    target_ptr: Any  # [num_targets + 1] int64: edge offsets of each target
    src: Any  # [num_edges] int64: source of each edge


class Sizes(NamedTuple):
    num_heads: Any
    num_key_heads: Any
    head_dim: Any
    value_dim: Any
    edge_dim: Any  # width of edge features, or number of types
    query_stride: Any  # numbers from one target's queries to the next one's


class Terms(NamedTuple):
    """Null where absent."""

    query_attr: Any
    edge_attr: Any
    edge_type: Any
    to_features: Any  # matrices of each head, from query to query_attr; backward, from grad_out to grad_out_attr
    from_features: Any  # from out_attr to what it adds to out; backward, from query_attr's gradient to query's
    bias: Any  # tables
    gate: Any
    head_mask: Any
    edge_id: Any


class Rules(NamedTuple):
    scale: Any
    clip: Any
    keep_scale: Any  # 1 / (1 - dropout_p)
    threshold: Any  # what the upper 24 random bits of an edge must reach to be kept
    seed: Any


class Nodes(NamedTuple):
    """Where the keys and values of a sweep over some heads lie: in each row those of key head h from at + h * step."""

    keys: Any
    values: Any
    key_stride: Any
    key_at: Any
    key_step: Any
    value_stride: Any
    value_at: Any
    value_step: Any
    far_edges: Any  # the longest row whose nodes are asked for ahead; zero where they lie near


class RowScratch(NamedTuple):
    """What a row needs, a place for each of its edges, absent terms at their neutral element."""

    edges: Any
    nodes: Any
    hashes: Any
    products: Any
    alpha: Any
    attr_products: Any
    attr_slopes: Any
    weight_slopes: Any
    biases: Any
    gates: Any
    keeps: Any
    types: Any
    features: Any
    grown: Any  # gradients of the features
    waiting: Any  # places of eight rows


ROW_NUMBERS, ROW_INTEGERS = 9, 2  # arrays of each kind for a row, but for features and their gradients, and `waiting`


class TileScratch(NamedTuple):
    """Scores and slopes of a tile or a row, and a tile's copies of what it reads of its nodes and edges."""

    scores: Any
    slopes: Any
    key_columns: Any
    value_columns: Any
    key_rows: Any
    value_rows: Any
    query_rows: Any
    slope_rows: Any
    sums: Any
    peaks: Any
    totals: Any
    lanes: Any  # of eight rows
    features: Any
    grown: Any
    tables: Any  # of up to four tables, the numbers of eight heads


class Outputs(NamedTuple):
    out: Any
    out_attr: Any
    weights: Any  # a table
    lse: Any


class Upstream(NamedTuple):
    """What the forward pass left, and the gradients that arrive."""

    out: Any
    out_attr: Any
    lse: Any
    grad_out: Any
    grad_out_attr: Any
    grad_weights: Any  # a table
    grad_lse: Any


class Grads(NamedTuple):
    """Gradients, null where not wanted; those of edges are tables."""

    query: Any
    key: Any
    value: Any
    query_attr: Any
    edge_attr: Any  # where tasks have all heads
    edge_slopes: Any  # else, where features of edges want a gradient, dx and w of each head and edge
    edge_weights: Any
    bias: Any
    gate: Any


@part
def row_scratch(numbers, at, integers, hashes, room, feature_dim):
    """A row's places in arrays that have as many as `ROW_NUMBERS` and `ROW_INTEGERS` say."""
    for t in range(at + 2 * room, at + 6 * room):
        numbers[t] = 0
    for t in range(at + 6 * room, at + 8 * room):
        numbers[t] = 1
    return RowScratch(
        pointer(integers, 0), pointer(integers, room), pointer(hashes, 0),
        pointer(numbers, at), pointer(numbers, at + room), pointer(numbers, at + 2 * room),
        pointer(numbers, at + 3 * room), pointer(numbers, at + 4 * room), pointer(numbers, at + 5 * room),
        pointer(numbers, at + 6 * room), pointer(numbers, at + 7 * room), pointer(numbers, at + 8 * room),
        Features(pointer(numbers, at + ROW_NUMBERS * room), 0, room),
        Features(pointer(numbers, at + (ROW_NUMBERS + feature_dim) * room), 0, room),
        pointer(integers, 2 * room),
    )  # fmt: skip


@part
def room_for(begin, end, tasks, ptr):
    """The widest row of some tasks."""
    room = 0
    for task in range(begin, end):
        room = max(room, widest(tasks[FIELDS * task], tasks[FIELDS * task + 1], ptr))
    return room


@part
def has_plain_logits(sizes, terms, rules):
    """Whether the products, scaled by a positive number, are all that enters the logits."""
    return sizes.edge_dim == 0 and not is_given(terms.bias.array) and rules.scale > 0 and rules.clip == np.inf


@part
def is_plain(sizes, terms, rules):
    """`has_plain_logits`, and weights are all that leaves the softmax."""
    return has_plain_logits(sizes, terms, rules) and not is_given(terms.gate.array) and rules.keep_scale == 1


@part_of_rows
def end_of_tile(row, end, graph):
    """Returns where a tile that begins at `row` ends, and whether it is one.

    Rows of a tile see ranges of sources without gaps, whose bounds ascend, so that their products are small dense ones
    with little waste. Else the rows up to there are better served edge by edge.
    """
    ptr, src = graph.target_ptr, graph.src
    first, stop = ptr[row], ptr[row + 1]
    if stop - first < GROUP or src[stop - 1] - src[first] != stop - first - 1:
        return row + 1, False
    low, high = src[first], src[stop - 1] + 1
    base, group_low, cells, at = low, low, 0, row + 1
    while at < end and at - row < TILE_ROWS:
        first, stop = ptr[at], ptr[at + 1]
        if first == stop:
            break
        next_low, next_high = src[first], src[stop - 1] + 1
        if next_high - next_low != stop - first or next_low < low or next_high < high or next_low >= high:
            break
        if next_high - base > TILE_COLUMNS or (next_high - base) * (at - row + 1) > TILE_CELLS:
            break
        if (at - row) % GROUP == 0:
            cells += GROUP * (high - group_low + 7)
            group_low = next_low
        low, high = next_low, next_high
        at += 1
    cells += GROUP * (high - group_low + 7)
    return at, at - row >= GROUP and 5 * (ptr[at] - ptr[row]) >= 2 * cells


@part
def list_edges(edges, first, count, terms, rules):
    """Lists edges that follow each other: where nothing looks them up one by one, the first alone."""
    edges[0] = first
    if is_given(terms.edge_type) or rules.keep_scale != 1:
        for t in range(1, count):
            edges[t] = first + t


@part
def list_row(row, target, head, graph, sizes, terms, rules):
    """Lists the edges of a target that a head may see, and their features; returns their sources and how many."""
    first, stop = graph.target_ptr[target], graph.target_ptr[target + 1]
    sources, count, is_picked = shifted(graph.src, first), stop - first, is_given(terms.head_mask)
    if is_picked:
        count = collect_incoming(row.edges, row.nodes, first, stop, graph.src, terms.head_mask, sizes.num_heads, head)
        sources = row.nodes
    else:
        list_edges(row.edges, first, count, terms, rules)
    if rules.keep_scale != 1:
        hash_edges(row.hashes, count, row.edges, terms.edge_id, rules.seed)
    if is_given(terms.edge_attr):
        lay_features(row.features, row.edges, count, is_picked, terms.edge_attr, sizes.edge_dim)
    return sources, count


@part
def add_terms(row, features, count, at_row, head, products, at, sizes, terms, rules):
    """Turns query · key, at products[at:], into logits, as `finish_logits` does. Returns the number of types."""
    num_types = 0
    if is_given(terms.edge_type):
        num_types = list_types(row.types, count, row.edges, terms.edge_type)
        look_up(row.attr_products, count, row.types, num_types, terms.query_attr, at_row * sizes.edge_dim)
    elif sizes.edge_dim > 0:
        dots_of_features(row.attr_products, count, terms.query_attr, at_row * sizes.edge_dim, features, sizes.edge_dim)
    gather(row.biases, count, row.edges, is_given(terms.head_mask), terms.bias, head)
    finish_logits(products, at, row.products, count, row.attr_products, row.biases, rules.scale, rules.clip)
    return num_types


@part
def gate_weights(row, features, count, at_row, head, weights, at, sees, sizes, terms, rules, out_attr):
    """Multiplies gates and dropout into weights[at:], and writes what they gather of the edges to out_attr."""
    gather(row.gates, count, row.edges, is_given(terms.head_mask), terms.gate, head)
    if rules.keep_scale != 1:
        draw_keeps(row.keeps, count, row.hashes, head, rules.keep_scale, rules.threshold)
    if is_given(terms.gate.array) or rules.keep_scale != 1:
        for t in range(0, count, 8):
            store(weights, at + t, load(row.gates, t) * load(row.keeps, t) * load(weights, at + t))
    if not sees or is_given(terms.edge_type):
        clear(out_attr, at_row * sizes.edge_dim, sizes.edge_dim)
    if sees and is_given(terms.edge_type):
        num_types = list_types(row.types, count, row.edges, terms.edge_type)
        add_by_type(out_attr, at_row * sizes.edge_dim, count, row.types, num_types, weights, at)
    elif sees and sizes.edge_dim > 0:
        sum_features(out_attr, at_row * sizes.edge_dim, count, weights, at, features, sizes.edge_dim)


@part
def edges_ahead(target, end, graph, nodes):
    """Where the next row ends if what its edges read should be asked for, else where it begins."""
    first, stop = graph.target_ptr[target + 1], graph.target_ptr[min(target + 2, end)]
    return stop if stop - first <= nodes.far_edges else first


@part
def ask_ahead(table, stride, at, width, first, stop, src):
    """Asks for what the edges [first, stop) will read of a table: their sources lie far apart, and the wait is long."""
    for edge in range(first, stop):
        ask_for_row(table, src[edge] * stride + at, width)


class TileAhead(NamedTuple):
    """What a tile's next head reads; or, after the last, the next tile, if it is like this one."""

    target: Any
    head: Any
    key_at: Any
    value_at: Any
    count: Any  # nodes; none where they are those of now
    each: Any  # so many are asked for with every few rows


@part
def look_past(begin, end, head, first_head, last_head, group, low, width, nodes):
    is_last = head + 1 == last_head
    target, first, next_head = (end, low + end - begin, first_head) if is_last else (begin, low, head + 1)
    count = width if is_last or next_head // group != head // group else 0
    steps = (end - begin + 2 * GROUP - 1) // (2 * GROUP)
    return TileAhead(
        target,
        next_head,
        first * nodes.key_stride + nodes.key_at + next_head // group * nodes.key_step,
        first * nodes.value_stride + nodes.value_at + next_head // group * nodes.value_step,
        count,
        (count + steps - 1) // steps,
    )


@part
def ask_for_nodes(ahead, step, nodes, sizes):
    """Asks for a step's share of the nodes ahead."""
    first = step * ahead.each
    for node in range(first, min(first + ahead.each, ahead.count)):
        ask_early(nodes.keys, node * nodes.key_stride, ahead.key_at, sizes.head_dim)
        ask_early(nodes.values, node * nodes.value_stride, ahead.value_at, sizes.value_dim)


@part
def ask_for_targets(ahead, step, table, stride, width):
    """Asks for a step's share of what targets ahead have in a table, where the vectors of heads lie side by side."""
    first = ahead.target + step * 2 * GROUP
    for target in range(first, first + 2 * GROUP):
        ask_early(table, target * stride, ahead.head * width, width)


@part
def add_from_features(into, width, of_features, at_row, head, sizes, terms):
    """Adds to a row of out what out_attr brings; or to one of query's gradient what that of query_attr brings."""
    edge_dim = sizes.edge_dim
    project(into, at_row * width, True, of_features, at_row * edge_dim, edge_dim, terms.from_features, head, width)


@part
def end_of_bunch(begin, end, ptr):
    """Where the rows end that run side by side with this one: so many at most, and of few edges."""
    stop, room = begin + 1, BUNCH_EDGES - padded(ptr[begin + 1] - ptr[begin])
    while stop < min(begin + BUNCH_ROWS, end):
        room -= padded(ptr[stop + 1] - ptr[stop])
        if room < 0:
            break
        stop += 1
    return stop


@part_of_rows
def attend_plain_rows(begin, end, first_head, last_head, graph, sizes, terms, rules, query, nodes, outputs, row, tile):
    """`attend_rows` where products are all that enters the logits.

    Each stage of a row waits for the one before, so rows of few edges run side by side, stage by stage.
    """
    num_heads, head_dim, value_dim = sizes.num_heads, sizes.head_dim, sizes.value_dim
    group, has_mask = num_heads // sizes.num_key_heads, is_given(terms.head_mask)
    ptr, src, peaks, totals = graph.target_ptr, graph.src, tile.peaks, tile.totals
    factor = rules.scale * like(tile.scores, LOG2_E)
    first = begin
    while first < end:
        stop = first + 1 if has_mask else end_of_bunch(first, end, ptr)
        num_rows = stop - first
        for head in range(first_head, last_head):
            key_at = nodes.key_at + head // group * nodes.key_step
            value_at = nodes.value_at + head // group * nodes.value_step
            sources, count, at = row.nodes, 0, 0
            for target in range(first, stop):
                sources, count = list_row(row, target, head, graph, sizes, terms, rules)
                query_at = target * sizes.query_stride + head * head_dim
                ask_for_row(query, query_at + num_rows * sizes.query_stride, head_dim)
                ask_for_row(outputs.out, (target * num_heads + head) * value_dim, value_dim)
                if count <= nodes.far_edges:
                    ask_ahead(nodes.values, nodes.value_stride, value_at, value_dim, 0, count, sources)
                dots(
                    shifted(tile.scores, at), count, query, query_at, nodes.keys, sources, nodes.key_stride, key_at,
                    head_dim,
                )  # fmt: skip
                store(tile.lanes, 8 * (target - first), hide_beyond(tile.scores, at, padded(count), 0, count))
                at += padded(count)
            find_peaks(tile.lanes, factor, peaks)
            at = 0
            for place in range(num_rows):
                count = count if has_mask else ptr[first + place + 1] - ptr[first + place]
                store(tile.lanes, 8 * place, raise_two(tile.scores, at, padded(count), factor, peaks[place]))
                at += padded(count)
            find_totals(tile.lanes, peaks, totals)
            log_sum_exp(peaks, totals)
            at = 0
            for place in range(num_rows):
                target = first + place
                at_row = target * num_heads + head
                if not has_mask:
                    sources, count = list_row(row, target, head, graph, sizes, terms, rules)
                later = min(target + num_rows, end - 1)
                if ptr[later + 1] - ptr[later] <= nodes.far_edges:
                    ask_ahead(nodes.keys, nodes.key_stride, key_at, head_dim, ptr[later], ptr[later + 1], src)
                outputs.lse[at_row] = peaks[place]
                clear(outputs.out, at_row * value_dim, value_dim)
                inverse = like(outputs.out, 1) / totals[place]
                if peaks[place] != -np.inf:
                    add_weighted(
                        outputs.out, at_row * value_dim, count, tile.scores, at, nodes.values, sources,
                        nodes.value_stride, value_at, value_dim,
                    )  # fmt: skip
                    multiply_row(outputs.out, at_row * value_dim, value_dim, inverse)
                if is_given(outputs.weights.array):
                    multiply_row(tile.scores, at, padded(count), inverse)
                    scatter(outputs.weights, count, row.edges, has_mask, head, tile.scores, at)
                at += padded(count)
        first = stop


@part_of_rows
def attend_rows(begin, end, first_head, last_head, graph, sizes, terms, rules, query, nodes, outputs, row, tile):
    """Serves targets [begin, end) edge by edge."""
    if is_plain(sizes, terms, rules):
        attend_plain_rows(
            begin, end, first_head, last_head, graph, sizes, terms, rules, query, nodes, outputs, row, tile
        )
        return
    head_dim, value_dim, group = sizes.head_dim, sizes.value_dim, sizes.num_heads // sizes.num_key_heads
    edge_dim = sizes.edge_dim
    has_mask = is_given(terms.head_mask)
    scores, one = tile.scores, like(outputs.out, 1)
    ptr, src = graph.target_ptr, graph.src
    waiting = 0  # rows whose log-sum-exps wait to be eight
    for target in range(begin, end):
        sources, count = row.nodes, 0
        next_edge, ahead = ptr[target + 1], edges_ahead(target, end, graph, nodes)
        for head in range(first_head, last_head):
            at_row, key_head = target * sizes.num_heads + head, head // group
            if head == first_head or has_mask:
                sources, count = list_row(row, target, head, graph, sizes, terms, rules)
            key_at = nodes.key_at + key_head * nodes.key_step
            value_at = nodes.value_at + key_head * nodes.value_step
            ask_ahead(nodes.keys, nodes.key_stride, key_at, head_dim, next_edge, ahead, src)
            query_at = target * sizes.query_stride + head * head_dim
            ask_for_row(query, query_at + sizes.query_stride, head_dim)
            ask_for_row(outputs.out, (at_row + sizes.num_heads) * value_dim, value_dim)
            dots(scores, count, query, query_at, nodes.keys, sources, nodes.key_stride, key_at, head_dim)
            ask_ahead(nodes.values, nodes.value_stride, value_at, value_dim, next_edge, ahead, src)
            if is_given(terms.to_features):
                project(
                    terms.query_attr,
                    at_row * edge_dim,
                    False,
                    query,
                    query_at,
                    head_dim,
                    terms.to_features,
                    head,
                    edge_dim,
                )
            add_terms(row, row.features, count, at_row, head, scores, 0, sizes, terms, rules)
            columns = padded(count)
            sees = powers(scores, 0, columns, 0, count, one, tile.peaks, tile.totals, waiting)
            inverse = one / tile.totals[waiting]
            row.waiting[waiting] = at_row
            waiting += 1
            if waiting == 8:
                write_lse(outputs.lse, row.waiting, waiting, tile.peaks, tile.totals)
                waiting = 0
            multiply_row(scores, 0, columns, inverse)
            scatter(outputs.weights, count, row.edges, has_mask, head, scores, 0)
            gate_weights(row, row.features, count, at_row, head, scores, 0, sees, sizes, terms, rules, outputs.out_attr)
            clear(outputs.out, at_row * value_dim, value_dim)
            if sees:
                add_weighted(
                    outputs.out, at_row * value_dim, count, scores, 0, nodes.values, sources,
                    nodes.value_stride, value_at, value_dim,
                )  # fmt: skip
            if sees and is_given(terms.from_features):
                add_from_features(outputs.out, value_dim, outputs.out_attr, at_row, head, sizes, terms)
    write_lse(outputs.lse, row.waiting, waiting, tile.peaks, tile.totals)


@part
def features_of(array, row, step, sizes):
    """The features of a tile's row, or their gradients, in an array of them all."""
    return Features(array, row * step * sizes.edge_dim, step)


@part
def lay_tile(begin, end, graph, sizes, terms, rules, row, into):
    """Lays the features of a tile's edges, once for all heads; returns the step of `Features`."""
    if not is_given(terms.edge_attr):
        return 0
    step = widest(begin, end, graph.target_ptr) - 8
    for target in range(begin, end):
        first, stop = graph.target_ptr[target], graph.target_ptr[target + 1]
        list_edges(row.edges, first, 1, terms, rules)
        features = features_of(into, target - begin, step, sizes)
        lay_features(features, row.edges, stop - first, False, terms.edge_attr, sizes.edge_dim)
    return step


@part
def lies_by_edge(table):
    return is_given(table.array) and table.step != 1


@part
def heads_at_once(first_head, last_head, terms, grads_bias, grads_gate):
    """How many heads of a tile share what `lay_tables` lays: eight, or all, where there is nothing to lay."""
    lays = lies_by_edge(terms.bias) or lies_by_edge(terms.gate) or lies_by_edge(grads_bias) or lies_by_edge(grads_gate)
    return HEADS if lays else last_head - first_head


@part
def laid_table(table, number, begin, end, head, last_head, graph, tile):
    """A table of edges and heads as a tile reads it, head by head: where all heads would read each line of it, in room
    of its own, of which there is one a number."""
    first = graph.target_ptr[begin]
    num_edges = graph.target_ptr[end] - first
    if lies_by_edge(table) and last_head - head == HEADS:
        return Table(shifted(tile.tables, number * HEADS * TILE_CELLS - first - head * num_edges), 1, num_edges)
    return table


@part
def lay_table(table, number, begin, end, head, last_head, graph, tile):
    """`laid_table`, and what the table has."""
    into = laid_table(table, number, begin, end, head, last_head, graph, tile)
    if into.step != table.step:
        first = graph.target_ptr[begin]
        at, num_edges = first * table.step + head * table.head_step, graph.target_ptr[end] - first
        swap(tile.tables, number * HEADS * TILE_CELLS, num_edges, table.array, at, table.step, num_edges, HEADS)
    return into


@part
def lift_table(table, number, begin, end, head, last_head, graph, tile):
    """The reverse of `lay_table`."""
    into = laid_table(table, number, begin, end, head, last_head, graph, tile)
    if into.step != table.step:
        first = graph.target_ptr[begin]
        at, num_edges = first * table.step + head * table.head_step, graph.target_ptr[end] - first
        swap(table.array, at, table.step, tile.tables, number * HEADS * TILE_CELLS, num_edges, HEADS, num_edges)


@part
def lay_terms(begin, end, head, last_head, graph, terms, tile):
    """Terms of which the tables are those of `lay_table`."""
    return Terms(
        terms.query_attr, terms.edge_attr, terms.edge_type, terms.to_features, terms.from_features,
        lay_table(terms.bias, 0, begin, end, head, last_head, graph, tile),
        lay_table(terms.gate, 1, begin, end, head, last_head, graph, tile),
        terms.head_mask, terms.edge_id,
    )  # fmt: skip


@part_of_rows
def attend_heads(
    begin, end, first_head, last_head, graph, sizes, terms, rules, query, nodes, outputs, row, tile, features_step
):
    """Serves a tile under some heads."""
    num_heads, head_dim, value_dim = sizes.num_heads, sizes.head_dim, sizes.value_dim
    ptr, src, scores, one = graph.target_ptr, graph.src, tile.scores, like(outputs.out, 1)
    plain, has_weights = is_plain(sizes, terms, rules), is_given(outputs.weights.array)
    group, is_finite = num_heads // sizes.num_key_heads, False
    factor = (rules.scale if plain else one) * like(scores, LOG2_E)
    low = src[ptr[begin]]
    width = src[ptr[end] - 1] + 1 - low
    ld = padded(width) + 8
    for head in range(first_head, last_head):
        if head % group == 0 or head == first_head:
            key_at = low * nodes.key_stride + nodes.key_at + head // group * nodes.key_step
            value_at = low * nodes.value_stride + nodes.value_at + head // group * nodes.value_step
            check = transpose(tile.key_columns, ld, nodes.keys, key_at, nodes.key_stride, width, head_dim)
            check += copy_rows(tile.value_rows, nodes.values, value_at, nodes.value_stride, width, value_dim)
            is_finite = check == 0
        if not is_finite:  # zero times NaN would leak
            attend_rows(begin, end, head, head + 1, graph, sizes, terms, rules, query, nodes, outputs, row, tile)
            continue
        ahead = look_past(begin, end, head, first_head, last_head, group, low, width, nodes)
        place = begin
        while place < end:
            rows = rows_at_once(place - begin, end - begin)
            first = min(place, end - rows)  # the last rows overlap those before: the same bits once more
            place += rows
            left = src[ptr[first]] - low
            depth = src[ptr[first + rows] - 1] + 1 - low - left
            columns, query_at = padded(depth), first * sizes.query_stride + head * head_dim
            step = (first - begin) // (2 * GROUP)
            ask_for_nodes(ahead, step, nodes, sizes)
            ask_for_targets(ahead, step, query, sizes.query_stride, head_dim)
            ask_for_targets(ahead, step, outputs.out, num_heads * value_dim, value_dim)
            multiply(
                scores, BEFORE, ld, query, query_at, sizes.query_stride, 1,
                tile.key_columns, left, ld, head_dim, columns, rows,
            )  # fmt: skip
            for target in range(first, first + rows):
                first_edge, at_row = ptr[target], target * num_heads + head
                count, begin_row = ptr[target + 1] - first_edge, BEFORE + (target - first) * ld
                start = src[first_edge] - low - left
                if not plain:
                    if is_given(terms.to_features):
                        project(
                            terms.query_attr, at_row * sizes.edge_dim, False,
                            query, target * sizes.query_stride + head * head_dim, head_dim,
                            terms.to_features, head, sizes.edge_dim,
                        )  # fmt: skip
                    list_edges(row.edges, first_edge, count, terms, rules)
                    features = features_of(tile.features, target - begin, features_step, sizes)
                    add_terms(row, features, count, at_row, head, scores, begin_row + start, sizes, terms, rules)
                lanes = hide_beyond(scores, begin_row, columns, start, start + count)
                store(tile.lanes, 8 * (target - first), lanes)
            find_peaks(tile.lanes, factor, tile.peaks)
            for r in range(rows):
                store(tile.lanes, 8 * r, raise_two(scores, BEFORE + r * ld, columns, factor, tile.peaks[r]))
            find_totals(tile.lanes, tile.peaks, tile.totals)
            for target in range(first, first + rows):
                first_edge, at_row = ptr[target], target * num_heads + head
                count, begin_row = ptr[target + 1] - first_edge, BEFORE + (target - first) * ld
                at = begin_row + src[first_edge] - low - left
                multiply_row(scores, begin_row, columns, one / tile.totals[target - first])
                if has_weights or not plain:
                    list_edges(row.edges, first_edge, count, terms, rules)
                    scatter(outputs.weights, count, row.edges, False, head, scores, at)
                if not plain:
                    if rules.keep_scale != 1:
                        hash_edges(row.hashes, count, row.edges, terms.edge_id, rules.seed)
                    features = features_of(tile.features, target - begin, features_step, sizes)
                    sees = tile.peaks[target - first] != -np.inf
                    gate_weights(
                        row, features, count, at_row, head, scores, at, sees, sizes, terms, rules, outputs.out_attr
                    )
                    clear_after(scores, at + count, begin_row + columns - at - count)
            log_sum_exp(tile.peaks, tile.totals)
            for target in range(first, first + rows):
                outputs.lse[target * num_heads + head] = tile.peaks[target - first]
            multiply(
                outputs.out, (first * num_heads + head) * value_dim, num_heads * value_dim, scores, BEFORE, ld, 1,
                tile.value_rows, left * value_dim, value_dim, depth, value_dim, rows,
            )  # fmt: skip
            for target in range(first, first + rows if is_given(terms.from_features) else first):
                at_row = target * num_heads + head
                if outputs.lse[at_row] != -np.inf:
                    add_from_features(outputs.out, value_dim, outputs.out_attr, at_row, head, sizes, terms)


@part_of_rows
def attend_tile(begin, end, first_head, last_head, graph, sizes, terms, rules, query, nodes, outputs, row, tile):
    """Serves the targets [begin, end) of a tile by small dense products."""
    features_step = lay_tile(begin, end, graph, sizes, terms, rules, row, tile.features)
    step = heads_at_once(first_head, last_head, terms, terms.bias, terms.gate)
    for head in range(first_head, last_head, step):
        stop = min(head + step, last_head)
        own = lay_terms(begin, end, head, stop, graph, terms, tile)
        attend_heads(begin, end, head, stop, graph, sizes, own, rules, query, nodes, outputs, row, tile, features_step)


@part
def widest_tile(num_nodes, sizes, terms):
    """Room for the sources of a tile; none where heads see different edges or are so wide that tiles fit no cache."""
    if is_given(terms.head_mask) or max(sizes.head_dim, sizes.value_dim) > TILE_DIM:
        return 0
    return min(num_nodes, TILE_COLUMNS) + 24


@part
def room_of_features(feature_dim, columns_room):
    """Numbers for the features of a tile's edges; many features leave the second-level cache."""
    return feature_dim * (TILE_CELLS + 8 * TILE_ROWS) if columns_room > 0 else 0


@part
def room_of_tables(num_tables, terms, grads_bias, grads_gate, columns_room):
    """Numbers for what `lay_table` lays of so many tables."""
    lays = columns_room > 0 and heads_at_once(0, 0, terms, grads_bias, grads_gate) > 0
    return num_tables * HEADS * TILE_CELLS if lays else 0


@part
def next_stretch(begin, end, graph, columns_room):
    """Returns where the tile that begins here ends, and True; or else where the next tile begins, and False."""
    if columns_room == 0:
        return end, False
    stop, is_tile = end_of_tile(begin, end, graph)
    if is_tile:
        return stop, True
    while stop < end:
        after, is_tile = end_of_tile(stop, end, graph)
        if is_tile:
            break
        stop = after
    return stop, False


@part
def sweep_nodes(packs, pairs, stride, key, key_stride, value, value_stride, num_nodes, sizes):
    """Nodes in `pairs`, `stride` numbers apart, if they were packed there, else in key and value."""
    head_dim, value_dim = sizes.head_dim, sizes.value_dim
    num_heads = 1 if packs else sizes.num_key_heads
    far_edges = FAR_EDGES if num_nodes * num_heads * (head_dim + value_dim) > NEAR_NUMBERS else 0
    if packs:
        return Nodes(pairs, pairs, stride, 0, 0, stride, head_dim, 0, far_edges)
    return Nodes(key, value, key_stride, 0, head_dim, value_stride, 0, value_dim, far_edges)


@part
def pair_rows(pairs, stride, key, key_stride, value, value_stride, key_head, num_nodes, sizes):
    """Lays what an edge reads of a node under one head side by side, and clears the rest of the node's stride."""
    head_dim, value_dim = sizes.head_dim, sizes.value_dim
    for node in range(num_nodes):
        at = node * stride
        for c in range(0, head_dim, 8):
            store(pairs, at + c, load(key, node * key_stride + key_head * head_dim + c))
        for c in range(0, value_dim, 8):
            store(pairs, at + head_dim + c, load(value, node * value_stride + key_head * value_dim + c))
        clear(pairs, at + head_dim + value_dim, stride - head_dim - value_dim)


@part
def part_rows(pairs, stride, key, value, key_at, value_at, key_head, num_nodes, sizes):
    """The reverse of `pair_rows`, from key_at and value_at on, for those that are not empty."""
    head_dim, value_dim = sizes.head_dim, sizes.value_dim
    for node in range(num_nodes):
        at, row = node * stride, node * sizes.num_key_heads + key_head
        if is_given(key):
            for c in range(0, head_dim, 8):
                store(key, key_at + row * head_dim + c, load(pairs, at + c))
        if is_given(value):
            for c in range(0, value_dim, 8):
                store(value, value_at + row * value_dim + c, load(pairs, at + head_dim + c))


@kernel
def attention(
    begin, end, tasks, packs, abreast, target_ptr, src,
    num_heads, num_key_heads, head_dim, value_dim, edge_dim,
    query_attr, edge_attr, edge_type, to_features, from_features,
    bias, bias_step, bias_head_step, gate, gate_step, gate_head_step, head_mask, edge_id,
    scale, clip, keep_scale, threshold, seed,
    query, query_stride, key, key_stride, value, value_stride, num_nodes, out, out_attr, weights, lse,
):  # fmt: skip
    """Writes out, out_attr and lse, and weights before gates where they are wanted: zero on arrival, else empty.

    packs: whether the heads of a task are served one at a time; abreast: whether, in small tiles, eight at once.
    """
    sizes = Sizes(num_heads, num_key_heads, head_dim, value_dim, edge_dim, query_stride)
    terms = Terms(
        optional(query_attr), optional(edge_attr), optional(edge_type), optional(to_features), optional(from_features),
        Table(optional(bias), bias_step, bias_head_step), Table(optional(gate), gate_step, gate_head_step),
        optional(head_mask), optional(edge_id),
    )  # fmt: skip
    rules, graph = Rules(scale, clip, keep_scale, threshold, seed), Graph(optional(target_ptr), optional(src))
    outputs = Outputs(optional(out), optional(out_attr), Table(optional(weights), 1, len(src)), optional(lse))
    group = num_heads // num_key_heads
    room, columns_room = room_for(begin, end, tasks, graph.target_ptr), widest_tile(num_nodes, sizes, terms)
    integers, hashes = np.empty(ROW_INTEGERS * room + 8, np.int64), np.empty(room, np.uint32)
    num_scores = max(room, BUNCH_EDGES, BEFORE + 2 * GROUP * columns_room)
    at_values = num_scores + head_dim * columns_room
    at_peaks = at_values + value_dim * columns_room
    at_lanes = at_peaks + 4 * GROUP
    at_row = at_lanes + 16 * GROUP
    feature_dim = edge_dim if is_given(terms.edge_attr) else 0
    at_features = at_row + (ROW_NUMBERS + feature_dim) * room
    at_tables = at_features + room_of_features(feature_dim, columns_room)
    at_abreast = at_tables + room_of_tables(2, terms, terms.bias, terms.gate, columns_room)
    runs_abreast = abreast and can_run_abreast(sizes, terms)
    at_pairs = at_abreast + numbers_abreast(runs_abreast, head_dim, value_dim, edge_dim)
    numbers = np.empty(at_pairs + (num_nodes * (head_dim + value_dim) + TWO_LINES if packs else 0), out.dtype)
    ask_for_huge_pages(numbers)
    row, none = row_scratch(numbers, at_row, integers, hashes, room, feature_dim), pointer(numbers, 0)
    tile = TileScratch(
        pointer(numbers, 0), none, pointer(numbers, num_scores), none, none, pointer(numbers, at_values),
        none, none, none, pointer(numbers, at_peaks), pointer(numbers, at_peaks + 2 * GROUP),
        pointer(numbers, at_lanes), pointer(numbers, at_features), none, pointer(numbers, at_tables),
    )  # fmt: skip
    numbers[at_peaks:at_row] = 1
    room_of_tile = room_abreast(runs_abreast, numbers, at_abreast, integers, hashes, head_dim, value_dim, edge_dim)
    has_scale, plain = has_plain_logits(sizes, terms, rules), is_plain(sizes, terms, rules)
    is_bare, slices = plain and not is_given(outputs.weights.array), runs_abreast and edge_dim > 0
    pairs, query, keys, values = aligned(numbers, at_pairs), optional(query), optional(key), optional(value)
    for task in range(begin, end):
        row_begin, row_end = tasks[FIELDS * task], tasks[FIELDS * task + 1]
        sweep_begin, sweep_end = tasks[FIELDS * task + 2], tasks[FIELDS * task + 3]
        sweep = 1 if packs else sweep_end - sweep_begin
        for first_key_head in range(sweep_begin, sweep_end, sweep):
            if packs:
                pair_rows(
                    pairs, head_dim + value_dim, keys, key_stride, values, value_stride, first_key_head, num_nodes,
                    sizes,
                )  # fmt: skip
            nodes = sweep_nodes(
                packs, pairs, head_dim + value_dim, keys, key_stride, values, value_stride, num_nodes, sizes
            )
            first_head, last_head, at = first_key_head * group, (first_key_head + sweep) * group, row_begin
            while at < row_end:
                stop, is_tile = next_stretch(at, row_end, graph, columns_room)
                if is_tile and runs_abreast and is_shared(at, stop, graph):
                    attend_abreast(
                        at, stop, graph, sizes, terms, rules, query, nodes, outputs, has_scale, is_bare, room_of_tile
                    )
                elif is_tile:
                    first = at
                    while first < stop:
                        last = slice_end(first, stop, graph) if slices else stop
                        if slices and is_narrow(first, last, graph, sizes, query, nodes):
                            attend_abreast(
                                first, last, graph, sizes, terms, rules, query, nodes, outputs, has_scale, is_bare,
                                room_of_tile,
                            )  # fmt: skip
                        else:
                            attend_tile(
                                first, last, first_head, last_head, graph, sizes, terms, rules, query, nodes, outputs,
                                row, tile,
                            )  # fmt: skip
                        first = last
                else:
                    attend_rows(
                        at, stop, first_head, last_head, graph, sizes, terms, rules, query, nodes, outputs, row, tile
                    )
                at = stop
    keep(numbers)
    keep(integers)
    keep(hashes)


@part
def differentiate_row(
    row, features, grown, is_new, count, at_row, head, scores, slopes, at, delta, sizes, terms, rules, upstream, grads
):  # fmt: skip
    """`differentiate` with all terms, and what targets and edges gain from it; those that are not new have theirs."""
    edge_dim = sizes.edge_dim
    at_attr = at_row * edge_dim
    if is_given(terms.to_features):
        project(
            upstream.grad_out_attr, at_attr, False, upstream.grad_out, at_row * sizes.value_dim, sizes.value_dim,
            terms.to_features, head, edge_dim,
        )  # fmt: skip
    num_types = add_terms(row, features, count, at_row, head, scores, at, sizes, terms, rules)
    if is_given(terms.edge_type):
        look_up(row.attr_slopes, count, row.types, num_types, upstream.grad_out_attr, at_attr)
    elif edge_dim > 0:
        dots_of_features(row.attr_slopes, count, upstream.grad_out_attr, at_attr, features, edge_dim)
    is_picked, is_weighed = is_given(terms.head_mask), is_given(upstream.grad_weights.array)
    gather(row.gates, count, row.edges, is_picked, terms.gate, head)
    if rules.keep_scale != 1:
        draw_keeps(row.keeps, count, row.hashes, head, rules.keep_scale, rules.threshold)
    if is_weighed:
        take_powers(row.alpha, count, scores, at, upstream.lse[at_row])
        gather(row.weight_slopes, count, row.edges, is_picked, upstream.grad_weights, head)
        delta += sum_product(row.alpha, row.weight_slopes, count)
    differentiate(scores, slopes, at, count, row, is_weighed, upstream.lse[at_row], delta, rules.scale, rules.clip)
    if is_given(grads.query_attr) and is_given(terms.edge_type):
        clear(grads.query_attr, at_attr, edge_dim)
        add_by_type(grads.query_attr, at_attr, count, row.types, num_types, scores, at)
    elif is_given(grads.query_attr):
        sum_features(grads.query_attr, at_attr, count, scores, at, features, edge_dim)
    if is_new and is_given(grads.edge_attr):
        grow_features(grown, count, scores, at, terms.query_attr, slopes, at, upstream.grad_out_attr, at_attr, edge_dim)
    scatter(grads.edge_slopes, count, row.edges, is_picked, head, scores, at)
    scatter(grads.edge_weights, count, row.edges, is_picked, head, slopes, at)
    scatter(grads.bias, count, row.edges, is_picked, head, row.alpha, 0)
    scatter(grads.gate, count, row.edges, is_picked, head, row.products, 0)


@part
def mean_slope(at_row, sizes, upstream):
    """delta_i of the formulas; what out_attr brings may be in out."""
    value_dim, edge_dim = sizes.value_dim, sizes.edge_dim
    delta = dot(upstream.grad_out, at_row * value_dim, upstream.out, at_row * value_dim, value_dim)
    if is_given(upstream.out_attr):
        delta += dot(upstream.grad_out_attr, at_row * edge_dim, upstream.out_attr, at_row * edge_dim, edge_dim)
    return delta - upstream.grad_lse[at_row]


@part_of_rows
def differentiate_rows(
    begin, end, first_head, last_head, graph, sizes, terms, rules, query, nodes, grad_nodes, upstream, grads, row, tile,
    step,
):  # fmt: skip
    """Serves targets [begin, end) edge by edge; a step above zero is that of the tile which they are."""
    head_dim, value_dim, group = sizes.head_dim, sizes.value_dim, sizes.num_heads // sizes.num_key_heads
    has_mask = is_given(terms.head_mask)
    plain = is_plain(sizes, terms, rules) and not is_given(upstream.grad_weights.array)
    scores, slopes = tile.scores, tile.slopes
    ptr, src = graph.target_ptr, graph.src
    for target in range(begin, end):
        sources, count = row.nodes, 0
        next_edge, ahead = ptr[target + 1], edges_ahead(target, end, graph, nodes)
        grown = row.grown
        if is_given(grads.edge_attr) and step > 0:
            grown = features_of(tile.grown, target - begin, step, sizes)
        elif is_given(grads.edge_attr):
            clear_features(grown, next_edge - ptr[target], sizes.edge_dim)
        for head in range(first_head, last_head):
            at_row, key_head = target * sizes.num_heads + head, head // group
            if head == first_head or has_mask:
                sources, count = list_row(row, target, head, graph, sizes, terms, rules)
            query_at, at_slope = target * sizes.query_stride + head * head_dim, at_row * value_dim
            ask_for_row(query, query_at + sizes.query_stride, head_dim)
            ask_for_row(upstream.grad_out, at_slope + sizes.num_heads * value_dim, value_dim)
            ask_for_row(upstream.out, at_slope + sizes.num_heads * value_dim, value_dim)
            if is_given(grads.query):
                ask_for_row(grads.query, (at_row + sizes.num_heads) * head_dim, head_dim)
                clear(grads.query, at_row * head_dim, head_dim)
            if upstream.lse[at_row] == -np.inf:
                continue
            delta = mean_slope(at_row, sizes, upstream)
            key_at = nodes.key_at + key_head * nodes.key_step
            value_at = nodes.value_at + key_head * nodes.value_step
            ask_ahead(nodes.keys, nodes.key_stride, key_at, head_dim, next_edge, ahead, src)
            dots(scores, count, query, query_at, nodes.keys, sources, nodes.key_stride, key_at, head_dim)
            ask_ahead(nodes.values, nodes.value_stride, value_at, value_dim, next_edge, ahead, src)
            dots(
                slopes, count, upstream.grad_out, at_slope,
                nodes.values, sources, nodes.value_stride, value_at, value_dim,
            )  # fmt: skip
            if plain:
                columns = padded(count)
                differentiate_products(scores, slopes, 0, columns, 0, count, upstream.lse[at_row], delta, rules.scale)
            else:
                differentiate_row(
                    row, row.features, grown, True, count, at_row, head, scores, slopes, 0, delta, sizes, terms, rules,
                    upstream, grads,
                )  # fmt: skip
            if is_given(grads.query):
                add_weighted(
                    grads.query, at_row * head_dim, count, scores, 0, nodes.keys, sources,
                    nodes.key_stride, key_at, head_dim,
                )  # fmt: skip
                if is_given(terms.from_features):
                    add_from_features(grads.query, head_dim, grads.query_attr, at_row, head, sizes, terms)
            if is_given(grads.key):
                key_at = grad_nodes.key_at + key_head * grad_nodes.key_step
                ask_ahead(grad_nodes.keys, grad_nodes.key_stride, key_at, head_dim, next_edge, ahead, src)
                add_outer(
                    grad_nodes.keys, count, sources, grad_nodes.key_stride, key_at, scores, query, query_at, head_dim
                )
            if is_given(grads.value):
                value_at = grad_nodes.value_at + key_head * grad_nodes.value_step
                ask_ahead(grad_nodes.values, grad_nodes.value_stride, value_at, value_dim, next_edge, ahead, src)
                add_outer(
                    grad_nodes.values, count, sources, grad_nodes.value_stride, value_at,
                    slopes, upstream.grad_out, at_slope, value_dim,
                )  # fmt: skip
        if is_given(grads.edge_attr) and step == 0:
            write_features(grads.edge_attr, ptr[target], next_edge - ptr[target], grown, sizes.edge_dim)


@part_of_rows
def differentiate_heads(
    begin, end, first_head, last_head, graph, sizes, terms, rules, query, nodes, grad_nodes, upstream, grads, row, tile,
    features_step,
):  # fmt: skip
    """Serves a tile under some heads."""
    num_heads, head_dim, value_dim = sizes.num_heads, sizes.head_dim, sizes.value_dim
    ptr, src, scores, slopes = graph.target_ptr, graph.src, tile.scores, tile.slopes
    plain = is_plain(sizes, terms, rules) and not is_given(upstream.grad_weights.array)
    group, nodes_check = num_heads // sizes.num_key_heads, like(query, 0)
    low = src[ptr[begin]]
    width = src[ptr[end] - 1] + 1 - low
    ld = padded(width) + 16
    for head in range(first_head, last_head):
        key_head = head // group
        if head % group == 0 or head == first_head:
            key_at = low * nodes.key_stride + nodes.key_at + key_head * nodes.key_step
            value_at = low * nodes.value_stride + nodes.value_at + key_head * nodes.value_step
            nodes_check = transpose(tile.key_columns, ld, nodes.keys, key_at, nodes.key_stride, width, head_dim)
            nodes_check += transpose(
                tile.value_columns, ld, nodes.values, value_at, nodes.value_stride, width, value_dim
            )
            copy_rows(tile.key_rows, nodes.keys, key_at, nodes.key_stride, width, head_dim)
        at = begin * sizes.query_stride + head * head_dim
        check = nodes_check + copy_rows(tile.query_rows, query, at, sizes.query_stride, end - begin, head_dim)
        at = (begin * num_heads + head) * value_dim
        check += copy_rows(tile.slope_rows, upstream.grad_out, at, num_heads * value_dim, end - begin, value_dim)
        if check != 0:  # zero times NaN would leak
            differentiate_rows(
                begin, end, head, head + 1, graph, sizes, terms, rules, query, nodes, grad_nodes, upstream, grads,
                row, tile, features_step,
            )  # fmt: skip
            continue
        ahead = look_past(begin, end, head, first_head, last_head, group, low, width, nodes)
        place = begin
        while place < end:
            rows = rows_at_once(place - begin, end - begin)
            first, first_new = min(place, end - rows), place
            place += rows
            left = src[ptr[first]] - low
            depth = src[ptr[first + rows] - 1] + 1 - low - left
            columns, at_group = padded(depth), BEFORE + (first - begin) * ld + left
            step = (first - begin) // (2 * GROUP)
            ask_for_nodes(ahead, step, nodes, sizes)
            ask_for_targets(ahead, step, query, sizes.query_stride, head_dim)
            ask_for_targets(ahead, step, upstream.grad_out, num_heads * value_dim, value_dim)
            ask_for_targets(ahead, step, upstream.out, num_heads * value_dim, value_dim)
            if is_given(grads.query):
                ask_for_targets(ahead, step, grads.query, num_heads * head_dim, head_dim)
            multiply(
                scores, at_group, ld, tile.query_rows, (first - begin) * head_dim, head_dim, 1,
                tile.key_columns, left, ld, head_dim, columns, rows,
            )  # fmt: skip
            multiply(
                slopes, at_group, ld, tile.slope_rows, (first - begin) * value_dim, value_dim, 1,
                tile.value_columns, left, ld, value_dim, columns, rows,
            )  # fmt: skip
            for target in range(first, first + rows):
                first_edge, at_row = ptr[target], target * num_heads + head
                count, begin_columns = ptr[target + 1] - first_edge, BEFORE + (target - begin) * ld + left
                start, lse = src[first_edge] - low - left, upstream.lse[at_row]
                at = begin_columns + start
                delta = mean_slope(at_row, sizes, upstream)
                # beside the columns, zeros as far as a group of sources may reach that has one of the row's
                clear_before(scores, begin_columns, 8)
                clear_before(slopes, begin_columns, 8)
                if lse == -np.inf:
                    clear(scores, begin_columns, columns)
                    clear(slopes, begin_columns, columns)
                elif plain:
                    differentiate_products(
                        scores, slopes, begin_columns, columns, start, start + count, lse, delta, rules.scale
                    )
                else:
                    list_edges(row.edges, first_edge, count, terms, rules)
                    if rules.keep_scale != 1:
                        hash_edges(row.hashes, count, row.edges, terms.edge_id, rules.seed)
                    features = features_of(tile.features, target - begin, features_step, sizes)
                    grown = features_of(tile.grown, target - begin, features_step, sizes)
                    differentiate_row(
                        row, features, grown, target >= first_new, count, at_row, head, scores, slopes, at, delta,
                        sizes, terms, rules, upstream, grads,
                    )  # fmt: skip
                    clear_before(scores, at, start)
                    clear_before(slopes, at, start)
                    clear_after(scores, at + count, columns - start - count)
                    clear_after(slopes, at + count, columns - start - count)
                clear_after(scores, begin_columns + columns, 8)
                clear_after(slopes, begin_columns + columns, 8)
            if is_given(grads.query):
                multiply(
                    grads.query, (first * num_heads + head) * head_dim, num_heads * head_dim, scores, at_group, ld, 1,
                    tile.key_rows, left * head_dim, head_dim, depth, head_dim, rows,
                )  # fmt: skip
                for target in range(first, first + rows if is_given(terms.from_features) else first):
                    at_row = target * num_heads + head
                    if upstream.lse[at_row] != -np.inf:
                        add_from_features(grads.query, head_dim, grads.query_attr, at_row, head, sizes, terms)
        first, last = begin, begin  # the targets that see some of four sources
        for column in range(0, width, GROUP):
            while first < end and src[ptr[first + 1] - 1] - low < column:
                first += 1
            while last < end and src[ptr[last]] - low < column + GROUP:
                last += 1
            at_group, num_columns = BEFORE + (first - begin) * ld + column, min(GROUP, width - column)
            for node in range(low + column, low + column + num_columns):
                at = node * grad_nodes.key_stride + grad_nodes.key_at + key_head * grad_nodes.key_step
                ask_for_row(grad_nodes.keys, at, head_dim)
                at = node * grad_nodes.value_stride + grad_nodes.value_at + key_head * grad_nodes.value_step
                ask_for_row(grad_nodes.values, at, value_dim)
            if is_given(grads.key):
                multiply(
                    tile.sums, 0, head_dim, scores, at_group, 1, ld,
                    tile.query_rows, (first - begin) * head_dim, head_dim, last - first, head_dim, GROUP,
                )  # fmt: skip
                at = (low + column) * grad_nodes.key_stride + grad_nodes.key_at + key_head * grad_nodes.key_step
                add_rows(grad_nodes.keys, at, grad_nodes.key_stride, tile.sums, num_columns, head_dim)
            if is_given(grads.value):
                multiply(
                    tile.sums, 0, value_dim, slopes, at_group, 1, ld,
                    tile.slope_rows, (first - begin) * value_dim, value_dim, last - first, value_dim, GROUP,
                )  # fmt: skip
                at = (low + column) * grad_nodes.value_stride + grad_nodes.value_at + key_head * grad_nodes.value_step
                add_rows(grad_nodes.values, at, grad_nodes.value_stride, tile.sums, num_columns, value_dim)


@part
def place_grads(begin, end, head, last_head, graph, lse, num_heads, grads, tile):
    """Gradients of which the tables are those of `laid_table`, zero if some targets see nothing and write none."""
    bias = laid_table(grads.bias, 2, begin, end, head, last_head, graph, tile)
    gate = laid_table(grads.gate, 3, begin, end, head, last_head, graph, tile)
    num_edges, sees = graph.target_ptr[end] - graph.target_ptr[begin], True
    for target in range(begin, end):
        for at in range(target * num_heads + head, target * num_heads + last_head):
            sees = sees and lse[at] != -np.inf
    if not sees and bias.step != grads.bias.step:
        clear(tile.tables, 2 * HEADS * TILE_CELLS, HEADS * num_edges)
    if not sees and gate.step != grads.gate.step:
        clear(tile.tables, 3 * HEADS * TILE_CELLS, HEADS * num_edges)
    return Grads(
        grads.query, grads.key, grads.value, grads.query_attr, grads.edge_attr, grads.edge_slopes, grads.edge_weights,
        bias, gate,
    )  # fmt: skip


@part_of_rows
def differentiate_tile(
    begin, end, first_head, last_head, graph, sizes, terms, rules, query, nodes, grad_nodes, upstream, grads, row, tile
):
    """Serves the targets [begin, end) of a tile by small dense products."""
    ptr = graph.target_ptr
    features_step = lay_tile(begin, end, graph, sizes, terms, rules, row, tile.features)
    if is_given(grads.edge_attr):
        clear(tile.grown, 0, (end - begin) * features_step * sizes.edge_dim)
    step = heads_at_once(first_head, last_head, terms, grads.bias, grads.gate)
    for head in range(first_head, last_head, step):
        stop = min(head + step, last_head)
        own = lay_terms(begin, end, head, stop, graph, terms, tile)
        into = place_grads(begin, end, head, stop, graph, upstream.lse, sizes.num_heads, grads, tile)
        differentiate_heads(
            begin, end, head, stop, graph, sizes, own, rules, query, nodes, grad_nodes, upstream, into, row, tile,
            features_step,
        )  # fmt: skip
        lift_table(grads.bias, 2, begin, end, head, stop, graph, tile)
        lift_table(grads.gate, 3, begin, end, head, stop, graph, tile)
    if is_given(grads.edge_attr):
        for target in range(begin, end):
            grown = features_of(tile.grown, target - begin, features_step, sizes)
            write_features(grads.edge_attr, ptr[target], ptr[target + 1] - ptr[target], grown, sizes.edge_dim)


@part_of_rows
def clear_nodes(begin, end, nodes, first, count, head_dim, value_dim):
    """Clears what some nodes have of so many heads."""
    for node in range(begin, end):
        if is_given(nodes.keys):
            at = node * nodes.key_stride + nodes.key_at + first * nodes.key_step
            clear(nodes.keys, at, count * head_dim)
        if is_given(nodes.values):
            at = node * nodes.value_stride + nodes.value_at + first * nodes.value_step
            clear(nodes.values, at, count * value_dim)


@kernel
def attention_backward(
    begin, end, tasks, packs, abreast, target_ptr, src,
    num_heads, num_key_heads, head_dim, value_dim, edge_dim,
    query_attr, edge_attr, edge_type, to_features, from_features,
    bias, bias_step, bias_head_step, gate, gate_step, gate_head_step, head_mask, edge_id,
    scale, clip, keep_scale, threshold, seed,
    query, query_stride, key, key_stride, value, value_stride, num_nodes,
    out, out_attr, lse, grad_out, grad_out_attr, grad_weights, grad_lse, grad_step, grad_head_step,
    grad_query, grad_key, grad_value, grad_query_attr, grad_edge_attr, edge_slopes, edge_weights, grad_bias, grad_gate,
):  # fmt: skip
    """Writes the gradient of query, and the others, zero on arrival, where they are wanted.

    grad_key and grad_value have a copy for each part that tasks name, and are written whole where heads are packed.
    """
    sizes = Sizes(num_heads, num_key_heads, head_dim, value_dim, edge_dim, query_stride)
    terms = Terms(
        optional(query_attr), optional(edge_attr), optional(edge_type), optional(to_features), optional(from_features),
        Table(optional(bias), bias_step, bias_head_step), Table(optional(gate), gate_step, gate_head_step),
        optional(head_mask), optional(edge_id),
    )  # fmt: skip
    rules, graph = Rules(scale, clip, keep_scale, threshold, seed), Graph(optional(target_ptr), optional(src))
    upstream = Upstream(
        optional(out), optional(out_attr), optional(lse), optional(grad_out), optional(grad_out_attr),
        Table(optional(grad_weights), 1, len(src)), optional(grad_lse),
    )  # fmt: skip
    grads = Grads(
        optional(grad_query), optional(grad_key), optional(grad_value), optional(grad_query_attr),
        optional(grad_edge_attr), Table(optional(edge_slopes), 1, len(src)), Table(optional(edge_weights), 1, len(src)),
        Table(optional(grad_bias), grad_step, grad_head_step), Table(optional(grad_gate), grad_step, grad_head_step),
    )  # fmt: skip
    group = num_heads // num_key_heads
    room, columns_room = room_for(begin, end, tasks, graph.target_ptr), widest_tile(num_nodes, sizes, terms)
    integers, hashes = np.empty(ROW_INTEGERS * room + 8, np.int64), np.empty(room, np.uint32)
    num_scores = max(room, BEFORE + TILE_CELLS + 24 * TILE_ROWS if columns_room > 0 else 0)
    at_keys = 2 * num_scores
    at_values, at_key_rows = at_keys + head_dim * columns_room, at_keys + (head_dim + value_dim) * columns_room
    at_queries = at_key_rows + head_dim * columns_room
    tile_rows = TILE_ROWS if columns_room > 0 else 0
    at_slopes = at_queries + tile_rows * head_dim
    at_sums = at_slopes + tile_rows * value_dim
    at_row = at_sums + min(GROUP, tile_rows) * max(head_dim, value_dim)
    feature_dim = edge_dim if is_given(terms.edge_attr) else 0
    grown_dim = edge_dim if is_given(grads.edge_attr) else 0
    at_features = at_row + (ROW_NUMBERS + feature_dim + grown_dim) * room
    at_grown = at_features + room_of_features(feature_dim, columns_room)
    at_tables = at_grown + room_of_features(grown_dim, columns_room)
    at_abreast = at_tables + room_of_tables(4, terms, grads.bias, grads.gate, columns_room)
    runs_abreast = abreast and can_run_abreast(sizes, terms)
    slices = runs_abreast and edge_dim > 0
    plain = is_plain(sizes, terms, rules) and not is_given(upstream.grad_weights.array)
    at_pairs = at_abreast + numbers_abreast(runs_abreast, head_dim, value_dim, edge_dim)
    stride = 2 * (head_dim + value_dim)  # a node's gradients lie beside it
    numbers = np.empty(at_pairs + (num_nodes * stride + TWO_LINES if packs else 0), out.dtype)
    ask_for_huge_pages(numbers)
    row, none = row_scratch(numbers, at_row, integers, hashes, room, feature_dim), pointer(numbers, 0)
    tile = TileScratch(
        pointer(numbers, 0), pointer(numbers, num_scores), pointer(numbers, at_keys), pointer(numbers, at_values),
        pointer(numbers, at_key_rows), none, pointer(numbers, at_queries), pointer(numbers, at_slopes),
        pointer(numbers, at_sums), none, none, none, pointer(numbers, at_features), pointer(numbers, at_grown),
        pointer(numbers, at_tables),
    )  # fmt: skip
    room_of_tile = room_abreast(runs_abreast, numbers, at_abreast, integers, hashes, head_dim, value_dim, edge_dim)
    pairs = aligned(numbers, at_pairs)
    grad_pairs = shifted(pairs, stride // 2)
    query, keys, values = optional(query), optional(key), optional(value)
    key_numbers, value_numbers = num_key_heads * head_dim, num_key_heads * value_dim  # of a node's gradients
    for task in range(begin, end):
        row_begin, row_end = tasks[FIELDS * task], tasks[FIELDS * task + 1]
        sweep_begin, sweep_end = tasks[FIELDS * task + 2], tasks[FIELDS * task + 3]
        part = tasks[FIELDS * task + 4] * num_nodes
        part_key, part_value = part * key_numbers, part * value_numbers
        sweep = 1 if packs else sweep_end - sweep_begin
        for first_key_head in range(sweep_begin, sweep_end, sweep):
            if packs:
                pair_rows(pairs, stride, keys, key_stride, values, value_stride, first_key_head, num_nodes, sizes)
            nodes = sweep_nodes(packs, pairs, stride, keys, key_stride, values, value_stride, num_nodes, sizes)
            into = sweep_nodes(
                packs, grad_pairs, stride, grads.key, key_numbers, grads.value, value_numbers, num_nodes, sizes
            )
            if not packs:
                into = Nodes(
                    into.keys, into.values, into.key_stride, part_key, into.key_step,
                    into.value_stride, part_value, into.value_step, into.far_edges,
                )  # fmt: skip
                clear_nodes(
                    tasks[FIELDS * task + 5], tasks[FIELDS * task + 6], into, first_key_head, sweep, head_dim, value_dim
                )
            first_head, last_head, at = first_key_head * group, (first_key_head + sweep) * group, row_begin
            while at < row_end:
                stop, is_tile = next_stretch(at, row_end, graph, columns_room)
                if is_tile and runs_abreast and is_shared(at, stop, graph):
                    differentiate_abreast(
                        at, stop, graph, sizes, terms, rules, query, nodes, into, upstream, grads, plain, room_of_tile
                    )
                elif is_tile:
                    first = at
                    while first < stop:
                        last = slice_end(first, stop, graph) if slices else stop
                        narrow = slices and is_narrow(first, last, graph, sizes, query, nodes)
                        if narrow and has_finite_slopes(first, last, sizes, upstream):
                            differentiate_abreast(
                                first, last, graph, sizes, terms, rules, query, nodes, into, upstream, grads,
                                plain, room_of_tile,
                            )  # fmt: skip
                        else:
                            differentiate_tile(
                                first, last, first_head, last_head, graph, sizes, terms, rules, query, nodes, into,
                                upstream, grads, row, tile,
                            )  # fmt: skip
                        first = last
                else:
                    differentiate_rows(
                        at, stop, first_head, last_head, graph, sizes, terms, rules, query, nodes, into,
                        upstream, grads, row, tile, 0,
                    )  # fmt: skip
                at = stop
            if packs:
                part_rows(
                    grad_pairs, stride, grads.key, grads.value, part_key, part_value, first_key_head, num_nodes, sizes
                )
    keep(numbers)
    keep(integers)
    keep(hashes)


@kernel
def count_ranged(target_ptr, src):
    """Edges of rows that see a range of sources without gaps, as rows of tiles do."""
    total = 0
    for row in range(len(target_ptr) - 1):
        first, stop = target_ptr[row], target_ptr[row + 1]
        if stop - first >= GROUP and src[stop - 1] - src[first] == stop - first - 1:
            total += stop - first
    return total


@kernel
def bound_sources(target_ptr, src, rows, low, high):
    """low[i] = the least source of rows[i] and all after it, high[i] = what is above those of rows[i] and all before;
    of rows with edges."""
    top = 0
    for i in range(len(rows)):
        low[i] = src[target_ptr[rows[i]]]
        top = max(top, src[target_ptr[rows[i] + 1] - 1] + 1)
        high[i] = top
    for i in range(len(rows) - 2, -1, -1):
        low[i] = min(low[i], low[i + 1])


@kernel
def lay_in_huge_pages(array):
    """Asks for huge pages under an array that nobody has written to."""
    ask_for_huge_pages(array)


@kernel
def sums_by_type(begin, end, cuts, num_types, width, types, x, sums):
    """sums[p, types[e]] += x[e] for the edges [cuts[p], cuts[p + 1]) of the parts [begin, end)."""
    for p in range(begin, end):
        for edge in range(cuts[p], cuts[p + 1]):
            into, at = (p * num_types + types[edge]) * width, edge * width
            for c in range(width):
                sums[into + c] += x[at + c]


@kernel
def swap_edges_and_heads(begin, end, num_edges, num_heads, to_heads, table, into):
    """Turns [num_edges, num_heads] into [num_heads, num_edges], or back, for the edges [begin, end)."""
    table, into = optional(table), optional(into)
    if to_heads:
        swap(into, begin, num_edges, table, begin * num_heads, num_heads, end - begin, num_heads)
    else:
        swap(into, begin * num_heads, num_heads, table, begin, num_edges, num_heads, end - begin)


@kernel
def edge_attr_gradient(
    begin, end, target_ptr, num_heads, edge_dim, edge_slopes, edge_weights, query_attr, grad_out_attr, grad_edge_attr
):
    """Writes Σ_h dx_eh · p_ih + w_eh · b_ih for the edges of targets [begin, end); head by head would be a race."""
    num_edges = len(edge_slopes) // num_heads
    query_attr, grad_out_attr, grad_edge_attr = optional(query_attr), optional(grad_out_attr), optional(grad_edge_attr)
    for row in range(begin, end):
        for edge in range(target_ptr[row], target_ptr[row + 1]):
            for c in range(0, edge_dim, 8):
                total = spread(like(grad_edge_attr, 0))
                for head in range(num_heads):
                    at, of_head = (row * num_heads + head) * edge_dim + c, head * num_edges + edge
                    total = fma(spread(edge_slopes[of_head]), load(query_attr, at), total)
                    total = fma(spread(edge_weights[of_head]), load(grad_out_attr, at), total)
                store(grad_edge_attr, edge * edge_dim + c, total)


@kernel
def logits(
    begin, end, target_ptr, src, num_heads, num_key_heads, head_dim, edge_dim, scale,
    query, key, query_attr, edge_attr, out,
):  # fmt: skip
    """Writes out[e, h] = x_e."""
    heads_per_key, no_mask = num_heads // num_key_heads, optional(np.empty(0, np.uint8))
    room = widest(begin, end, target_ptr)
    integers, numbers = np.empty(2 * room, np.int64), np.zeros(2 * room, out.dtype)
    edges, nodes = pointer(integers, 0), pointer(integers, room)
    products, attr_products = pointer(numbers, 0), pointer(numbers, room)
    query, key, query_attr, edge_attr = optional(query), optional(key), optional(query_attr), optional(edge_attr)
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
    keep(integers)
    keep(numbers)


@kernel
def logits_backward_targets(
    begin, end, target_ptr, src, num_heads, num_key_heads, head_dim, edge_dim, scale, key, query_attr, edge_attr, grad,
    grad_query, grad_query_attr, grad_edge_attr,
):  # fmt: skip
    """Adds to those gradients that are wanted: not empty, and zero on arrival."""
    heads_per_key, no_mask = num_heads // num_key_heads, optional(np.empty(0, np.uint8))
    room = widest(begin, end, target_ptr)
    integers, numbers = np.empty(2 * room, np.int64), np.empty(room, grad.dtype)
    edges, nodes, weights = pointer(integers, 0), pointer(integers, room), pointer(numbers, 0)
    key, query_attr, edge_attr = optional(key), optional(query_attr), optional(edge_attr)
    into_query, into_query_attr, into_edge_attr = (
        optional(grad_query), optional(grad_query_attr), optional(grad_edge_attr)
    )  # fmt: skip
    for row in range(begin, end):
        count = collect_incoming(edges, nodes, target_ptr[row], target_ptr[row + 1], src, no_mask, num_heads, 0)
        for head in range(num_heads):
            at = row * num_heads + head
            for t in range(count):
                weights[t] = scale * grad[edges[t] * num_heads + head]
            if len(grad_query) > 0:
                stride, offset = num_key_heads * head_dim, head // heads_per_key * head_dim
                add_weighted(into_query, at * head_dim, count, weights, 0, key, nodes, stride, offset, head_dim)
            if len(grad_query_attr) > 0:
                add_weighted(into_query_attr, at * edge_dim, count, weights, 0, edge_attr, edges, edge_dim, 0, edge_dim)
            if len(grad_edge_attr) > 0:
                add_outer(into_edge_attr, count, edges, edge_dim, 0, weights, query_attr, at * edge_dim, edge_dim)
    keep(integers)
    keep(numbers)


@kernel
def logits_backward_sources(
    begin, end, source_ptr, source_order, dst, num_heads, num_key_heads, head_dim, scale, query, grad, grad_key
):
    """Adds to grad_key, zero on arrival."""
    heads_per_key = num_heads // num_key_heads
    room = widest(begin, end, source_ptr)
    integers, numbers = np.empty(room, np.int64), np.empty(room, grad.dtype)
    nodes, weights, query, into = pointer(integers, 0), pointer(numbers, 0), optional(query), optional(grad_key)
    for row in range(begin, end):
        first, stop = source_ptr[row], source_ptr[row + 1]
        for head in range(num_heads):
            for t in range(stop - first):
                edge = source_order[first + t]
                nodes[t], weights[t] = dst[edge], scale * grad[edge * num_heads + head]
            at = (row * num_key_heads + head // heads_per_key) * head_dim
            add_weighted(
                into, at, stop - first, weights, 0, query, nodes, num_heads * head_dim, head * head_dim, head_dim
            )
    keep(integers)
    keep(numbers)
