"""Turns tensors into the flat arrays that the kernels take, runs the kernels, and turns the results back.

Kernels work in float32 or float64 and on vectors of whole lanes, so half precision is converted and odd widths are
padded with zeros here, which is exact. Arguments and shapes: `graphattn/ops/_impl/fused.py`.
"""

from functools import cache
from itertools import pairwise

import numpy as np
import torch
from torch.nn.functional import pad

from graphattn.ops._impl.numba import blocks, kernels, merges, projection, threads
from graphattn.ops._impl.numba.vectors import WIDTH

CACHE_BYTES = 2**24  # of keys and values of one head: beyond, threads that pack a head each leave the shared cache
MIN_PACKED_DEGREE = 8  # below, packing costs more than it saves
LARGE_BYTES = 2**22  # of an array for which huge pages are asked
CHUNK_WORK = 4_000_000  # multiply-adds of the smallest chunk that is worth a thread's while
MAX_CHUNKS = 64
MIN_HUB_DEGREE = 64  # beyond, a row may be so much of the work that threads share its heads
MIN_TASKS = 4  # with fewer key heads, a graph that cannot be cut is served in parts with sums of their own,
MAX_TASKS, PART_DEGREE = 16, 64  # in more of them if sources have so many edges for each
MAX_PART_BYTES = 2**28  # of those sums
TYPED_EDGES = 2**14  # of a part when edges are summed by type
EDGE_PARTS, MIN_EDGE_DEGREE = 8, 256  # where edges want gradients: parts, if sources have so many edges


def attention(
    query, key, value, target_ptr, src,
    query_attr, edge_attr, edge_type, edge_bias, edge_gate, head_mask, edge_id, seed, scale, logit_clip, dropout_p,
    wants_weights, to_features=None, from_features=None,
):  # fmt: skip
    """As `fused.attention_on_cpu`.

    Given to_features, as in `kernels.Terms`, query_attr is written; given from_features, out has what out_attr brings.
    """
    dtype = _compute_dtype(query)
    features = _features(query_attr, edge_attr, edge_type)
    out, out_attr = (_new_vectors(_empty, query, columns, dtype) for columns in (value, features))
    make = _empty if head_mask is None else _zeros  # edges that a head may not see are not visited
    weights = make((query.shape[1], len(src)), dtype) if wants_weights else None
    lse = _empty(query.shape[:2], dtype)
    ptr, sources = _array(target_ptr), _array(src)
    packs = _packs(ptr, sources, key, value)
    matrices = _matrices(dtype, to_features, from_features)
    terms = _terms(dtype, query_attr, edge_attr, edge_type, matrices, edge_bias, edge_gate, head_mask, edge_id, packs)
    settings = *_sizes(query, key, value, features), *terms, *_rules(dtype, scale, logit_clip, dropout_p, seed)
    num_threads = threads.available(len(src) * _work(query, key, value, edge_attr, edge_attr))
    tasks, may_run_abreast = _forward_tasks(ptr, key.shape[1], num_threads, packs)
    threads.run(
        kernels.attention, threads.even_cuts(len(tasks), num_threads),
        (
            tasks.reshape(-1), packs, may_run_abreast, ptr, sources, *settings, *_steps(query, dtype),
            *_steps(key, dtype), *_steps(value, dtype), len(key), _array(out), _optional_array(out_attr, dtype),
            _optional_array(weights, dtype), _array(lse),
        ),
    )  # fmt: skip
    return (
        _trim(out, value, query.dtype),
        torch.empty(0, dtype=query.dtype) if out_attr is None else _trim(out_attr, features, query.dtype),
        lse,
        torch.empty(0, dtype=dtype) if weights is None else weights,
    )


def attention_backward(
    grad_out, grad_out_attr, grad_lse, grad_weights, out, out_attr, lse,
    query, key, value, target_ptr, src,
    query_attr, edge_attr, edge_type, edge_bias, edge_gate, head_mask, edge_id, seed, scale, logit_clip, dropout_p,
    wanted, to_features=None, from_features=None,
):  # fmt: skip
    """As `fused.attention_backward_on_cpu`; without out_attr, what it brings is in out.

    Given to_features, as in `kernels.Terms`, grad_out_attr is written; given from_features, the query's gradient has
    what that of query_attr brings.
    """
    dtype = _compute_dtype(query)
    features = _features(query_attr, edge_attr, edge_type)
    num_heads, num_edges = query.shape[1], len(src)
    ptr, sources = _array(target_ptr), _array(src)
    work = 2 * num_edges * _work(query, key, value, edge_attr, edge_attr)
    stages, num_parts, packs, may_run_abreast = _backward_stages(ptr, sources, key, value, work, any(wanted[4:]))
    matrices = _matrices(dtype, to_features, from_features)
    terms = _terms(dtype, query_attr, edge_attr, edge_type, matrices, edge_bias, edge_gate, head_mask, edge_id, packs)
    settings = *_sizes(query, key, value, features), *terms, *_rules(dtype, scale, logit_clip, dropout_p, seed)

    wants_query, wants_key, wants_value, wants_query_attr, wants_edge_attr, wants_bias, wants_gate = wanted
    skips_edges = head_mask is not None or (any(wanted[4:]) and bool(torch.isneginf(lse).any()))

    # what a target's edges gain has one owner where each task has all heads; else tasks would add to the same features,
    # and write to tables beside each other unless each head has a row
    is_owned = all((tasks[:, 3] - tasks[:, 2] == key.shape[1]).all() for tasks in stages)
    by_head, adds_features = not is_owned, is_owned and head_mask is None

    def table(is_wanted, by_head):
        make, shape = _zeros if skips_edges else _empty, (num_heads, num_edges) if by_head else (num_edges, num_heads)
        return make(shape, dtype) if is_wanted else None

    grad_edge_attr = _new_vectors(_empty, edge_attr, edge_attr, dtype, wants_edge_attr)
    edge_slopes, edge_weights = (table(wants_edge_attr and not adds_features, by_head=True) for _ in range(2))
    grad_bias, grad_gate = table(wants_bias, by_head), table(wants_gate, by_head)
    grad_query = _new_vectors(_empty, query, query, dtype, wants_query)
    grad_query_attr = _new_vectors(_zeros, query_attr, query_attr, dtype, wants_query_attr)
    grad_key, grad_value = (
        _empty((num_parts, *tensor.shape[:-1], _width(tensor)), dtype) if want else None
        for tensor, want in ((key, wants_key), (value, wants_value))
    )
    upstream = kernels.Upstream(
        *_vectors(dtype, out, out_attr), _array(lse), *_vectors(dtype, grad_out, grad_out_attr),
        _array(grad_weights, dtype), _array(grad_lse, dtype),
    )  # fmt: skip
    made = grad_query, grad_key, grad_value, grad_query_attr, grad_edge_attr if adds_features else None
    made += edge_slopes, edge_weights, grad_bias, grad_gate
    grads = kernels.Grads(*(_optional_array(grad, dtype) for grad in made))
    args = (
        ptr, sources, *settings, *_steps(query, dtype), *_steps(key, dtype), *_steps(value, dtype), len(key),
        *upstream, *_table_steps(num_edges, num_heads, by_head), *grads,
    )  # fmt: skip
    num_threads = threads.available(work)
    for tasks in stages:
        cuts = threads.even_cuts(len(tasks), num_threads)
        threads.run(kernels.attention_backward, cuts, (tasks.reshape(-1), packs, may_run_abreast, *args))
    if wants_edge_attr and not adds_features:
        threads.run(
            kernels.edge_attr_gradient, threads.row_cuts(ptr, num_threads),
            (
                ptr, num_heads, _width(edge_attr), grads.edge_slopes, grads.edge_weights, *_vectors(dtype, query_attr),
                upstream.grad_out_attr, _array(grad_edge_attr),
            ),
        )  # fmt: skip
    wanted_grads = (
        grad_query,
        *(grad if grad is None else grad[0] if num_parts == 1 else grad.sum(0) for grad in (grad_key, grad_value)),
        grad_query_attr,
        grad_edge_attr,
        *(_like_table(grad, given, by_head) for grad, given in ((grad_bias, edge_bias), (grad_gate, edge_gate))),
    )
    inputs = query, key, value, query_attr, edge_attr, edge_bias, edge_gate
    return _finish(wanted_grads, inputs, wanted)


def featured_attention(
    query, key, value, target_ptr, src, edge_attr, edge_key_weight, edge_value_weight,
    edge_bias, edge_gate, head_mask, seed, scale, logit_clip, dropout_p, wants_weights,
):  # fmt: skip
    dtype = _compute_dtype(query)
    make = _zeros if edge_key_weight is None else _empty
    query_attr = make((*query.shape[:2], _width(edge_attr)), dtype)
    out, out_attr, lse, weights = attention(
        query, key, value, target_ptr, src, query_attr, edge_attr, None, edge_bias, edge_gate, head_mask, None, seed,
        scale, logit_clip, dropout_p, wants_weights,
        to_features=edge_key_weight,
        from_features=None if edge_value_weight is None else edge_value_weight.transpose(1, 2),
    )  # fmt: skip
    return out, out_attr, lse, weights, _trim(query_attr, edge_attr, dtype)


def featured_attention_backward(
    grad_out, grad_lse, grad_weights, out, out_attr, lse, query_attr, query, key, value, target_ptr, src,
    edge_attr, edge_key_weight, edge_value_weight, edge_bias, edge_gate, head_mask, seed, scale, logit_clip, dropout_p,
    wanted,
):  # fmt: skip
    dtype = _compute_dtype(query)
    of_query, of_key, of_value, of_attr, of_key_weight, of_value_weight, of_bias, of_gate = wanted
    grad_out_attr = _zeros((*query.shape[:2], _width(edge_attr)), dtype)  # of targets that see nothing, it stays zero
    of_query_attr = edge_key_weight is not None and (of_query or of_key_weight)
    made = attention_backward(
        grad_out, grad_out_attr, grad_lse, grad_weights, out, None, lse,
        query, key, value, target_ptr, src,
        query_attr, edge_attr, None, edge_bias, edge_gate, head_mask, None, seed, scale, logit_clip, dropout_p,
        [of_query, of_key, of_value, of_query_attr, of_attr, of_bias, of_gate],
        to_features=edge_value_weight,
        from_features=edge_key_weight.transpose(1, 2) if of_query_attr else None,
    )  # fmt: skip

    grad_query, grad_key, grad_value, grad_query_attr, grad_attr, grad_bias, grad_gate = made

    def summed(x, y, weight, want):
        return summed_head_products(x.to(dtype), y.to(dtype)).to(weight.dtype) if want else torch.empty(0)

    grad_key_weight = summed(query, grad_query_attr, edge_key_weight, of_key_weight)
    grad_value_weight = summed(grad_out, out_attr, edge_value_weight, of_value_weight)
    return grad_query, grad_key, grad_value, grad_attr, grad_key_weight, grad_value_weight, grad_bias, grad_gate


def _packs(ptr, src, key, value):
    """Whether a head's keys and values are worth being packed: they are read many times, by edge, and fit a cache."""
    num_nodes, num_key_heads, _ = key.shape
    num_bytes = num_nodes * (_width(key) + _width(value)) * (8 if key.dtype == torch.float64 else 4)
    if num_key_heads == 1 or num_bytes > CACHE_BYTES or ptr[-1] < MIN_PACKED_DEGREE * num_nodes:
        return False
    return 2 * kernels.count_ranged(ptr, src) < ptr[-1]


def _forward_tasks(ptr, num_key_heads, num_threads, packs):
    """Tasks that are shared out to threads one after another: where heads are packed, a share of the heads each; else
    chunks of rows, cut by sizes and the graph alone, for how rows stand in tiles decides in which order they sum. So
    does whether heads run abreast, as they may where no number of threads would share them out: as second."""
    num_rows, longest = len(ptr) - 1, int(np.diff(ptr).max(initial=0))
    if packs:
        return _tasks((0, num_rows), threads.even_cuts(num_key_heads, num_threads)), False
    cuts = threads.row_cuts(ptr, max(1, min(MAX_CHUNKS, num_rows // kernels.TILE_ROWS)))
    is_long, num_threads = longest > MIN_HUB_DEGREE, min(num_threads, MAX_CHUNKS)
    has_hub = is_long and num_threads > 1 and num_threads * longest > ptr[-1]
    shares = threads.even_cuts(num_key_heads, num_threads) if has_hub else (0, num_key_heads)
    return _tasks(cuts, shares), not (is_long and MAX_CHUNKS * longest > ptr[-1])


def _tasks(rows, key_heads, part=0, sources=(0, 0)):
    """Tasks of a kernel [num_tasks, FIELDS]: every chunk of rows for every share of heads, of which the cuts are given,
    as are those of the sources that go with the chunks."""
    tasks = np.full((len(key_heads) - 1, len(rows) - 1, kernels.FIELDS), part, np.int64)
    for field, cuts in ((0, rows), (2, np.reshape(key_heads, (-1, 1))), (5, sources)):
        tasks[..., field], tasks[..., field + 1] = cuts[:-1], cuts[1:]
    return tasks.reshape(-1, kernels.FIELDS)


def _backward_stages(ptr, src, key, value, work, wants_edges):
    """Plans which thread adds to which source when: (stages of tasks, number of parts, whether heads are packed,
    whether they may run abreast, for no number of threads would share them out).

    Tasks of one stage touch different sources or heads. Sums come out the same at any number of threads, for where rows
    are cut depends on sizes and the graph alone: either into chunks whose sources lie apart, every other one at a time;
    or not at all, and threads share out the heads; or, for want of heads, into parts with sums of their own. So, too,
    where edges want gradients, which then have one owner, and sources are so few that their sums cost little.
    """
    num_rows, num_threads = len(ptr) - 1, threads.available(work)
    num_nodes, num_key_heads, _ = key.shape
    num_chunks = min(MAX_CHUNKS, int(work // CHUNK_WORK), num_rows // kernels.TILE_ROWS)
    if num_chunks <= 1:
        return [_tasks((0, num_rows), (0, num_key_heads), sources=(0, num_nodes))], 1, False, True
    chunks = _separate_chunks(ptr, src, num_chunks, num_nodes)
    if chunks is not None:
        rows, sources, num_stages = chunks
        tasks = _tasks(rows, (0, num_key_heads), sources=sources)
        return [tasks[stage::num_stages] for stage in range(num_stages)], 1, False, True
    packs = _packs(ptr, src, key, value)
    num_nodes, num_parts = max(1, num_nodes), 1
    has_few_sources = wants_edges and not packs and ptr[-1] >= MIN_EDGE_DEGREE * num_nodes
    if has_few_sources or num_key_heads < MIN_TASKS:
        part_bytes = 8 * num_nodes * num_key_heads * (_width(key) + _width(value))
        most = min(MAX_PART_BYTES // max(1, part_bytes), ptr[-1] // (4 * num_nodes))
        for_heads = max(MIN_TASKS, min(MAX_TASKS, ptr[-1] // (PART_DEGREE * num_nodes))) // num_key_heads
        num_parts = int(max(1, min(max(for_heads, EDGE_PARTS if has_few_sources else 0), most)))
    shares = threads.even_cuts(num_key_heads, num_key_heads if packs else max(1, num_threads // num_parts))
    parts = enumerate(pairwise(threads.row_cuts(ptr, num_parts)))
    tasks = [_tasks(rows, shares, part, (0, len(key))) for part, rows in parts]
    return [np.concatenate(tasks)], num_parts, packs, False


def _separate_chunks(ptr, src, num_chunks, num_nodes):
    """Cuts rows into chunks of about as many edges, whose sources lie apart from those of the next but one.

    Returns:
        Where rows are cut; where sources are, each of which belongs to the first chunk that meets it; and into how many
        lists the chunks have to be dealt, one or two, for those of a list to share no source. None if there is no such
        cut, or so much of the work is one row's that there is but one chunk.
    """
    filled = np.flatnonzero(ptr[1:] > ptr[:-1])
    low, high = np.empty_like(filled), np.empty_like(filled)
    kernels.bound_sources(ptr, src, filled, low, high)
    cuts = np.searchsorted(filled, threads.row_cuts(ptr, num_chunks)[1:-1])
    clean = np.flatnonzero(high[:-1] <= low[1:]) + 1
    is_clean = len(clean) >= num_chunks
    if is_clean:
        cuts = clean[np.minimum(np.searchsorted(clean, cuts), len(clean) - 1)]
    cuts = np.unique(np.concatenate([[0], cuts, [len(filled)]]))
    starts, ends = low[cuts[:-1]], high[cuts[1:] - 1]
    if len(cuts) == 2 or (starts[2:] < ends[:-2]).any():
        return None
    if not is_clean:  # the second list's chunks meet what they share with their neighbours after these
        starts[1::2] = ends[:-1:2]
    rows, sources = [0, *filled[cuts[1:-1]], len(ptr) - 1], [0, *starts[1:], num_nodes]
    return np.array(rows), np.array(sources), 1 if is_clean else 2


def block_attention(query, key, value, more_key, more_value, rest_out, rest_lse, dst, src, prefix, table, scale):
    dtype = _compute_dtype(query)
    make = _empty if rest_out is None else _zeros
    out, lse = _new_vectors(make, query, value, dtype), torch.full(query.shape[:2], -torch.inf, dtype=dtype)
    if rest_out is not None:
        out[..., : value.shape[2]] = rest_out
        lse.copy_(rest_lse)
    num_threads = threads.available(_work_of_blocks(query, key, value, table))
    threads.run(
        blocks.attend_blocks, threads.even_cuts(key.shape[1], num_threads),
        (
            _array(table), *_sizes_of_blocks(query, key, value), _array(dst), _array(src), _array(prefix),
            _number(scale, dtype), *_rows(query)[:2], *_rows(key, more_key), *_rows(value, more_value),
            _array(out), _array(lse),
        ),
    )  # fmt: skip
    return _trim(out, value, dtype), lse


def block_attention_backward(
    grad_out, grad_lse, out, lse, query, key, value, more_key, more_value, dst, src, prefix, table, scale
):
    dtype = _compute_dtype(query)
    inputs = query, key, value, more_key, more_value
    grads = [_new_vectors(_zeros, tensor, tensor, dtype) for tensor in inputs]
    num_threads = threads.available(2 * _work_of_blocks(query, key, value, table))
    threads.run(
        blocks.differentiate_blocks, threads.even_cuts(key.shape[1], num_threads),
        (
            _array(table), *_sizes_of_blocks(query, key, value), _array(dst), _array(src), _array(prefix),
            _number(scale, dtype), *_rows(query)[:2], *_rows(key, more_key), *_rows(value, more_value),
            *_vectors(dtype, out), _array(lse), *_vectors(dtype, grad_out), _optional_array(grad_lse, dtype),
            *(_optional_array(grad, dtype) for grad in grads),
        ),
    )  # fmt: skip
    return tuple(
        torch.empty(0, dtype=dtype) if grad is None else _trim(grad, tensor, dtype)
        for grad, tensor in zip(grads, inputs, strict=True)
    )


def _rows(tensor, more=None):
    """Vectors of nodes, and of others after them, where they lie if their heads are side by side."""
    dtype = _compute_dtype(tensor)
    array, step = _steps(tensor, dtype)
    rest, rest_step = (_nothing(dtype), 0) if more is None else _steps(more, dtype)
    return blocks.Rows(array, step, tensor.shape[0], rest, rest_step)


def _steps(tensor, dtype):
    """An array from a tensor's first number to its last, and how many numbers lie from one row to the next."""
    if (
        tensor.is_contiguous()
        or tensor.dtype != dtype
        or _width(tensor) != tensor.shape[-1]
        or not tensor[0].is_contiguous()
    ):
        return _vectors(dtype, tensor)[0], tensor.shape[1:-1].numel() * _width(tensor)
    num_rows, step, numbers = tensor.shape[0], tensor.stride(0), tensor[0].numel()
    return tensor.detach().as_strided(((num_rows - 1) * step + numbers,), (1,)).numpy(), step


def merge_max(values, left, right, root):
    dtype = _compute_dtype(values)
    out = _empty((root.shape[0], _width(values)), dtype)
    _run_merges(merges.merge_max, values, left, right, root, out)
    return _trim(out, values, values.dtype)


def merge_max_backward(grad, values, left, right, root):
    dtype = _compute_dtype(values)
    grad_values = _new_vectors(_zeros, values, values, dtype)
    _run_merges(merges.merge_max_backward, values, left, right, root, *_vectors(dtype, grad), grad_values)
    return _trim(grad_values, values, values.dtype)


def _run_merges(serial, values, left, right, root, *others):
    num_chunks = -(-_width(values) // merges.CHUNK)
    num_threads = threads.available(left.shape[0] * _width(values))
    arrays = [x if isinstance(x, np.ndarray) else _array(x) for x in others]
    threads.run(
        serial, threads.even_cuts(num_chunks, num_threads),
        (
            values.shape[0], _width(values), _array(left), _array(right), _array(root),
            *_steps(values, _compute_dtype(values)), *arrays,
        ),
    )  # fmt: skip


def _sizes_of_blocks(query, key, value):
    return query.shape[1], key.shape[1], _width(key), _width(value)


def _work_of_blocks(query, key, value, table):
    """Multiply-adds, those of staircases counted twice."""
    return int((table[:, 0] * table[:, 1] * table[:, 2]).sum()) * _work(query, key, value)


def logits(query, key, target_ptr, src, query_attr, edge_attr, scale):
    dtype = _compute_dtype(query)
    sizes = query.shape[1], key.shape[1], _width(key), _width(edge_attr)
    out = _empty((len(src), query.shape[1]), dtype)
    ptr, num_threads = _array(target_ptr), threads.available(len(src) * _work(query, key, edge_attr))
    threads.run(
        kernels.logits, threads.row_cuts(ptr, num_threads),
        (
            ptr, _array(src), *sizes, _number(scale, dtype), *_vectors(dtype, query, key, query_attr, edge_attr),
            _array(out),
        ),
    )  # fmt: skip
    return out.to(query.dtype)


def logits_backward(
    grad, query, key, target_ptr, src, dst, source_ptr, source_order, query_attr, edge_attr, scale, wanted
):
    dtype = _compute_dtype(query)
    sizes, scale = (query.shape[1], key.shape[1], _width(key)), _number(scale, dtype)
    inputs = query, key, query_attr, edge_attr
    query_array, *other_arrays = _vectors(dtype, *inputs)
    grad = _array(grad, dtype)
    grads = [_new_vectors(_zeros, tensor, tensor, dtype, want) for tensor, want in zip(inputs, wanted)]
    grad_query, grad_key, *grad_terms = (_optional_array(grad, dtype) for grad in grads)
    num_threads = threads.available(len(src) * _work(query, key, edge_attr))
    if wanted[0] or wanted[2] or wanted[3]:
        ptr = _array(target_ptr)
        threads.run(
            kernels.logits_backward_targets, threads.row_cuts(ptr, num_threads),
            (ptr, _array(src), *sizes, _width(edge_attr), scale, *other_arrays, grad, grad_query, *grad_terms),
        )  # fmt: skip
    if wanted[1]:
        ptr = _array(source_ptr)
        threads.run(
            kernels.logits_backward_sources, threads.row_cuts(ptr, num_threads),
            (ptr, _array(source_order), _array(dst), *sizes, scale, query_array, grad, grad_key),
        )  # fmt: skip
    return _finish(grads, inputs, wanted)


def head_products(x, matrices):
    num_rows, num_heads, _ = x.shape
    y = _new_vectors(_empty, x, matrices, x.dtype)
    missing = (0, 0, 0, _width(x) - x.shape[2])  # rows of zeros for the lanes that x is padded by
    num_threads = threads.available(num_rows * num_heads * _width(x) * _width(matrices))
    cuts = threads.even_cuts(num_rows, min(num_threads, num_rows // kernels.GROUP))
    sizes = num_heads, _width(x), _width(matrices)
    threads.run(projection.project, cuts, (*sizes, *_vectors(x.dtype, x, pad(matrices, missing)), _array(y)))
    return _trim(y, matrices, x.dtype)


def summed_head_products(x, y):
    num_rows, num_heads, width = x.shape
    matrices = torch.zeros((num_heads, _width(x), _width(y)), dtype=x.dtype)
    cuts = threads.even_cuts(num_heads, threads.available(num_rows * num_heads * _width(x) * _width(y)))
    sizes = num_rows, num_heads, _width(x), _width(y)
    threads.run(projection.sum_products, cuts, (*sizes, *_vectors(x.dtype, x, y), _array(matrices)))
    return _trim(matrices[:, :width], y, x.dtype)


def sums_by_type(x, edge_type, num_types):
    num_edges, width = x.shape
    parts = threads.even_cuts(num_edges, min(MAX_CHUNKS, 1 + num_edges // TYPED_EDGES))
    sums = _zeros((len(parts) - 1, num_types, width), x.dtype)
    cuts = threads.even_cuts(len(parts) - 1, threads.available(num_edges * width))
    threads.run(
        kernels.sums_by_type, cuts, (parts, num_types, width, _array(edge_type, torch.int64), _array(x), _array(sums))
    )
    return sums.sum(0)


def _compute_dtype(tensor):
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def _number(number, dtype):
    return np.float64(number) if dtype == torch.float64 else np.float32(number)


def _array(tensor, dtype=None):
    """The tensor's numbers as a flat array, shared with it if it is contiguous and of the type already."""
    if tensor.requires_grad:
        tensor = tensor.detach()
    if dtype is not None and tensor.dtype != dtype:  # asked here: even a conversion that does nothing takes a while
        tensor = tensor.to(dtype)
    return tensor.contiguous().numpy().reshape(-1)


def _optional_array(tensor, dtype):
    return _nothing(dtype) if tensor is None else _array(tensor, dtype)


@cache
def _nothing(dtype):
    return torch.empty(0, dtype=dtype).numpy()


def _width(tensor):
    """Elements in the last dimension, in whole lanes; none without a tensor."""
    return 0 if tensor is None else (tensor.shape[-1] + WIDTH - 1) // WIDTH * WIDTH


def _vectors(dtype, *tensors):
    """Flat arrays of tensors whose last dimension the kernels read in whole lanes; empty for None."""

    def whole_lanes(tensor):
        missing = -tensor.shape[-1] % WIDTH
        return _array(pad(tensor, (0, missing)) if missing else tensor, dtype)

    return [_nothing(dtype) if tensor is None else whole_lanes(tensor) for tensor in tensors]


def _empty(shape, dtype):
    tensor = torch.empty(shape, dtype=dtype)
    if tensor.nbytes >= LARGE_BYTES:
        kernels.lay_in_huge_pages(_array(tensor))
    return tensor


def _zeros(shape, dtype):
    return _empty(shape, dtype).zero_()


def _new_vectors(make, rows, columns, dtype, want=True):
    """For each vector of `rows` one as wide as those of `columns`, in whole lanes, made by `_zeros` or `_empty`.
    None if there are no columns or none are wanted."""
    return None if columns is None or not want else make((*rows.shape[:-1], _width(columns)), dtype)


def _trim(padded, columns, dtype):
    """The part of `_new_vectors` that was asked for, after a kernel filled it."""
    if columns.shape[-1] != padded.shape[-1]:
        padded = padded[..., : columns.shape[-1]]
    return (padded if padded.dtype == dtype else padded.to(dtype)).contiguous()


def _finish(grads, inputs, wanted):
    return tuple(
        _trim(grad, tensor, tensor.dtype) if want else torch.empty(0)
        for grad, tensor, want in zip(grads, inputs, wanted)
    )


def _work(query, *read):
    """Multiply-adds an edge, a rough estimate."""
    return query.shape[1] * sum(_width(tensor) for tensor in read)


def _features(query_attr, edge_attr, edge_type):
    """A tensor as wide as what the kernels read of an edge: its features, or as many numbers as there are types.

    Raises:
        ValueError: for a type that there is not, where a kernel would read another's memory.
    """
    if edge_type is None:
        return edge_attr
    if len(edge_type):
        low, high = (int(bound) for bound in edge_type.aminmax())
        if low < 0 or high >= query_attr.shape[-1]:
            raise ValueError(
                f"edge_type must lie in [0, {query_attr.shape[-1]}), the rows of the other per-edge arguments, got "
                f"{low if low < 0 else high}. Number types from 0."
            )
    return query_attr


def _sizes(query, key, value, edge_attr):
    return query.shape[1], key.shape[1], _width(key), _width(value), _width(edge_attr)


def _terms(dtype, query_attr, edge_attr, edge_type, matrices, edge_bias, edge_gate, head_mask, edge_id, by_head):
    """What `kernels.Terms` has, as arrays and steps in a row."""
    return (
        *_vectors(dtype, query_attr, edge_attr),
        _optional_array(edge_type, torch.int64),
        *matrices,
        *_table(edge_bias, dtype, by_head),
        *_table(edge_gate, dtype, by_head),
        _optional_array(None if head_mask is None else head_mask.view(torch.uint8), torch.uint8),
        _optional_array(edge_id, torch.int64),
    )


def _matrices(dtype, *given):
    """Arrays of matrices [num_heads, width, out_width] in whole lanes both ways; empty for None."""
    missing = [None if x is None else (0, -x.shape[2] % WIDTH, 0, -x.shape[1] % WIDTH) for x in given]
    return [_nothing(dtype) if x is None else _array(pad(x, lanes), dtype) for x, lanes in zip(given, missing)]


def _table(table, dtype, by_head):
    """[num_edges, heads] as a `kernels.Table`, where it lies; or else by head, for kernels that serve one at a time."""
    if table is None or table.shape[1] == 1:
        return kernels.Table(_optional_array(table, dtype), 1, 0)
    num_edges, num_heads = table.shape
    if table.t().is_contiguous():
        table, by_head = table.t(), True
    elif by_head:
        table = _swapped(table.detach().to(dtype).contiguous(), to_heads=True)
    return kernels.Table(_array(table, dtype), *_table_steps(num_edges, num_heads, by_head))


def _table_steps(num_edges, num_heads, by_head):
    """Numbers from one edge to the next, and from one head to the next."""
    return (1, num_edges) if by_head else (num_heads, 1)


def _like_table(grad, given, by_head):
    """A gradient of every edge and head in the shape of what was given: [num_edges, 1 or num_heads]."""
    if grad is None:
        return None
    if given.shape[1] == 1:
        first, *others = grad if by_head else grad.t()
        return sum(others, start=first)[:, None]  # in one order, however the table lies
    return _swapped(grad, to_heads=False) if by_head else grad


def _swapped(table, to_heads):
    """[num_edges, num_heads] as [num_heads, num_edges], or back."""
    swapped = _empty(table.shape[::-1], table.dtype)
    num_edges, num_heads = table.shape if to_heads else swapped.shape
    cuts = threads.even_cuts(num_edges, threads.available(4 * table.numel()))
    args = num_edges, num_heads, to_heads, _array(table), _array(swapped)
    threads.run(kernels.swap_edges_and_heads, cuts, args)
    return swapped


def _rules(dtype, scale, logit_clip, dropout_p, seed):
    clip = float("inf") if logit_clip is None else logit_clip
    keep_scale = 1 / (1 - dropout_p) if dropout_p < 1 else 0.0
    threshold = int(dropout_p * 2**24 + 0.5)
    return kernels.Rules(
        *(_number(number, dtype) for number in (scale, clip, keep_scale)),
        threshold,
        0 if seed is None else int(seed),
    )
