"""Turns tensors into the flat arrays that the kernels take, runs the kernels, and turns the results back.

Kernels work in float32 or float64 and on vectors of whole lanes, so half precision is converted and odd widths are
padded with zeros here, which is exact. Arguments and shapes: `graphattn/ops/_impl/fused.py`.
"""

import numpy as np
import torch
from torch.nn.functional import pad

from graphattn.ops._impl.numba import kernels, threads
from graphattn.ops._impl.numba.vectors import WIDTH


def attention(
    query, key, value, target_ptr, src,
    query_attr, edge_attr, edge_type, edge_bias, edge_gate, head_mask, edge_id, seed, scale, logit_clip, dropout_p,
):  # fmt: skip
    dtype = _compute_dtype(query)
    features = _features(query_attr, edge_attr, edge_type)
    out, out_attr = _zero_vectors(query, value, dtype), _zero_vectors(query, features, dtype)
    lse = torch.empty(query.shape[:2], dtype=dtype)
    settings = (
        *_sizes(query, key, value, features, edge_bias, edge_gate),
        *_terms(dtype, query_attr, edge_attr, edge_type, edge_bias, edge_gate, head_mask, edge_id),
        *_rules(dtype, scale, logit_clip, dropout_p, seed),
    )
    threads.run(
        kernels.attention, _array(target_ptr),
        (_array(src), *settings, *_vectors(dtype, query, key, value), _array(out), _array(out_attr), _array(lse)),
        work_per_edge=_work(query, key, value, edge_attr, edge_attr),
    )  # fmt: skip
    return _trim(out, value, query.dtype), _trim(out_attr, features, query.dtype), lse


def attention_backward(
    grad_out, grad_out_attr, grad_lse, out, out_attr, lse,
    query, key, value, target_ptr, src, dst, source_ptr, source_order,
    query_attr, edge_attr, edge_type, edge_bias, edge_gate, head_mask, edge_id, seed, scale, logit_clip, dropout_p,
    wanted,
):  # fmt: skip
    dtype = _compute_dtype(query)
    features = _features(query_attr, edge_attr, edge_type)
    settings = (
        *_sizes(query, key, value, features, edge_bias, edge_gate),
        *_terms(dtype, query_attr, edge_attr, edge_type, edge_bias, edge_gate, head_mask, edge_id),
        *_rules(dtype, scale, logit_clip, dropout_p, seed),
    )
    inputs = _vectors(dtype, query, key, value)
    out, out_attr, grad_out, grad_out_attr = _vectors(dtype, out, out_attr, grad_out, grad_out_attr)
    delta = _array(torch.empty_like(lse))
    lse, grad_lse = _array(lse), _array(grad_lse, dtype)

    vectors, tables = (query, key, value, query_attr, edge_attr), (edge_bias, edge_gate)
    grads = [_zero_vectors(tensor, tensor, dtype, want) for tensor, want in zip(vectors, wanted)]
    grads += [torch.zeros(tensor.shape if want else 0, dtype=dtype) for tensor, want in zip(tables, wanted[5:])]
    grad_query, grad_key, grad_value, *grad_terms = map(_array, grads)
    work_per_edge = 2 * _work(query, key, value, edge_attr, edge_attr)
    threads.run(
        kernels.attention_backward_targets, _array(target_ptr),
        (
            _array(src), *settings, *inputs, out, out_attr, lse, grad_out, grad_out_attr, grad_lse,
            delta, grad_query, *grad_terms,
        ),
        work_per_edge,
    )  # fmt: skip
    if wanted[1] or wanted[2]:
        threads.run(
            kernels.attention_backward_sources, _array(source_ptr),
            (
                _array(source_order), _array(dst), *settings, *inputs, lse, grad_out, grad_out_attr,
                delta, grad_key, grad_value,
            ),
            work_per_edge,
        )  # fmt: skip
    return _finish(grads, (*vectors, *tables), wanted)


def logits(query, key, target_ptr, src, query_attr, edge_attr, scale):
    dtype = _compute_dtype(query)
    sizes = query.shape[1], key.shape[1], _width(key), _width(edge_attr)
    out = torch.empty((len(src), query.shape[1]), dtype=dtype)
    threads.run(
        kernels.logits, _array(target_ptr),
        (
            _array(src), *sizes, _number(scale, dtype), *_vectors(dtype, query, key, query_attr, edge_attr),
            _array(out),
        ),
        work_per_edge=_work(query, key, edge_attr),
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
    grads = [_zero_vectors(tensor, tensor, dtype, want) for tensor, want in zip(inputs, wanted)]
    grad_query, grad_key, *grad_terms = map(_array, grads)
    work_per_edge = _work(query, key, edge_attr)
    if wanted[0] or wanted[2] or wanted[3]:
        threads.run(
            kernels.logits_backward_targets, _array(target_ptr),
            (_array(src), *sizes, _width(edge_attr), scale, *other_arrays, grad, grad_query, *grad_terms),
            work_per_edge,
        )  # fmt: skip
    if wanted[1]:
        threads.run(
            kernels.logits_backward_sources, _array(source_ptr),
            (_array(source_order), _array(dst), *sizes, scale, query_array, grad, grad_key),
            work_per_edge,
        )  # fmt: skip
    return _finish(grads, inputs, wanted)


def _compute_dtype(tensor):
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def _number(number, dtype):
    return np.float64(number) if dtype == torch.float64 else np.float32(number)


def _array(tensor, dtype=None):
    """The tensor's numbers as a flat array, shared with it if it is contiguous and of the type already."""
    return tensor.detach().to(dtype or tensor.dtype).contiguous().view(-1).numpy()


def _optional_array(tensor, dtype):
    return _array(torch.empty(0, dtype=dtype) if tensor is None else tensor, dtype)


def _width(tensor):
    """Elements in the last dimension, in whole lanes; none without a tensor."""
    return 0 if tensor is None else tensor.shape[-1] + -tensor.shape[-1] % WIDTH


def _vectors(dtype, *tensors):
    """Flat arrays of tensors whose last dimension the kernels read in whole lanes; empty for None."""

    def whole_lanes(tensor):
        missing = 0 if tensor is None else _width(tensor) - tensor.shape[-1]
        return pad(tensor, (0, missing)) if missing > 0 else tensor

    return [_optional_array(whole_lanes(tensor), dtype) for tensor in tensors]


def _zero_vectors(rows, columns, dtype, want=True):
    """Zeros: for each vector of `rows` one as wide as those of `columns`, in whole lanes. Empty if there is none."""
    shape = 0 if columns is None or not want else (*rows.shape[:-1], _width(columns))
    return torch.zeros(shape, dtype=dtype)


def _trim(padded, columns, dtype):
    """The part of `_zero_vectors` that was asked for, after a kernel filled it."""
    return (padded if columns is None else padded[..., : columns.shape[-1]]).to(dtype).contiguous()


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


def _sizes(query, key, value, edge_attr, edge_bias, edge_gate):
    bias_heads, gate_heads = (0 if table is None else table.shape[1] for table in (edge_bias, edge_gate))
    return query.shape[1], key.shape[1], _width(key), _width(value), _width(edge_attr), bias_heads, gate_heads


def _terms(dtype, query_attr, edge_attr, edge_type, edge_bias, edge_gate, head_mask, edge_id):
    return (
        *_vectors(dtype, query_attr, edge_attr),
        _optional_array(edge_type, torch.int64),
        _optional_array(edge_bias, dtype),
        _optional_array(edge_gate, dtype),
        _optional_array(head_mask, torch.bool),
        _optional_array(edge_id, torch.int64),
    )


def _rules(dtype, scale, logit_clip, dropout_p, seed):
    clip = float("inf") if logit_clip is None else logit_clip
    keep_scale = 1 / (1 - dropout_p) if dropout_p < 1 else 0.0
    threshold = int(dropout_p * 2**24 + 0.5)
    return (
        *(_number(number, dtype) for number in (scale, clip, keep_scale)),
        threshold,
        0 if seed is None else int(seed),
    )
