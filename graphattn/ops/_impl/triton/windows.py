"""Runs the kernels of windows of rows where they serve a call, and those of single rows where they do not.

A graph comes with windows where its rows share enough columns; see `graph/windows.py`. As in `launch.py`, everything is
chosen from what tensors there are and their sizes, and nothing on the device is read. Arguments and shapes:
`graphattn/ops/_impl/fused.py`.
"""

from typing import NamedTuple

import torch
import triton
from torch import Tensor

from graphattn.ops._impl.triton import launch, window_kernels

MAX_WIDTH = 128  # of keys and values whose sums stay in registers
SMALLEST_TILE = 16  # rows, columns and numbers of each that tensor cores take at once


class Side(NamedTuple):
    """Windows of targets or of sources."""

    num_rows: int
    heads: int  # that a row has
    ptr: Tensor  # [num_windows + 1]
    slots: Tensor  # [2, num_slots]

    @property
    def window(self):
        """Rows of a window: the number of windows tells, for it is a power of two, and only the last may have fewer."""
        of_window = triton.cdiv(self.num_rows, max(1, self.ptr.shape[0] - 1))
        return max(SMALLEST_TILE, triton.next_power_of_2(of_window))


def serve(query, value, query_attr, target_slots, wants_weights):
    """Whether windows serve a call: one whose graph has them, not in float64, of which tensor cores make no tiles here,
    without features or types of edges, which no tile can hold, and which wants no weights of edges."""
    return (
        target_slots is not None
        and query.dtype != torch.float64
        and query_attr is None
        and not wants_weights
        and 0 < query.shape[2] <= MAX_WIDTH
        and 0 < value.shape[2] <= MAX_WIDTH
    )


def attention(
    query, key, value, target_ptr, src, dst,
    query_attr, edge_attr, edge_type, edge_bias, edge_gate, head_mask, edge_id, seed,
    target_window_ptr, target_slots, source_window_ptr, source_slots,
    scale, logit_clip, dropout_p, wants_weights,
):  # fmt: skip
    if not serve(query, value, query_attr, target_slots, wants_weights):
        return launch.attention(
            query, key, value, target_ptr, src, dst,
            query_attr, edge_attr, edge_type, edge_bias, edge_gate, head_mask, edge_id, seed,
            scale, logit_clip, dropout_p, wants_weights,
        )  # fmt: skip
    num_dst_nodes, num_heads, _ = query.shape
    out = query.new_empty((num_dst_nodes, num_heads, value.shape[2]))
    lse = query.new_empty((num_dst_nodes, num_heads), dtype=torch.float32)
    terms = edge_bias, edge_gate, head_mask, edge_id, seed
    settings = _settings(query, key, value, src.shape[0], terms, scale, logit_clip, dropout_p)
    targets = Side(num_dst_nodes, num_heads, target_window_ptr, target_slots)
    with torch.cuda.device_of(query):
        _run(window_kernels.window_attention, targets, settings, target_ptr=target_ptr, out=out, lse=lse)
    return out, query.new_empty(0), lse, lse.new_empty(0)


def attention_backward(
    grad_out, grad_out_attr, grad_lse, grad_weights, out, out_attr, lse,
    query, key, value, target_ptr, src, dst, source_ptr, source_order,
    query_attr, edge_attr, edge_type, edge_bias, edge_gate, head_mask, edge_id, seed,
    target_window_ptr, target_slots, source_window_ptr, source_slots,
    scale, logit_clip, dropout_p, wanted,
):  # fmt: skip
    if not serve(query, value, query_attr, target_slots, grad_weights.numel() > 0):
        return launch.attention_backward(
            grad_out, grad_out_attr, grad_lse, grad_weights, out, out_attr, lse,
            query, key, value, target_ptr, src, dst, source_ptr, source_order,
            query_attr, edge_attr, edge_type, edge_bias, edge_gate, head_mask, edge_id, seed,
            scale, logit_clip, dropout_p, wanted,
        )  # fmt: skip
    (num_dst_nodes, num_heads, _), (num_src_nodes, num_key_heads, _) = query.shape, key.shape
    inputs = query, key, value, query_attr, edge_attr, edge_bias, edge_gate
    grads = [torch.empty_like(x, memory_format=torch.contiguous_format) if want else None
             for x, want in zip(inputs, wanted)]  # fmt: skip
    grad_query, grad_key, grad_value, _, _, grad_bias, grad_gate = grads

    def table(grad):
        """What a kernel writes for each head, the gradient itself if that is all."""
        is_shared = grad is not None and grad.shape[1] < num_heads
        return lse.new_empty(src.shape[0], num_heads) if is_shared else grad

    bias_table, gate_table = table(grad_bias), table(grad_gate)
    terms = edge_bias, edge_gate, head_mask, edge_id, seed
    settings = _settings(query, key, value, src.shape[0], terms, scale, logit_clip, dropout_p)
    settings |= {"lse": lse, "grad_out": grad_out.contiguous(), "deltas": torch.empty_like(lse)}
    targets = Side(num_dst_nodes, num_heads, target_window_ptr, target_slots)
    sources = Side(num_src_nodes, num_key_heads, source_window_ptr, source_slots)
    with torch.cuda.device_of(query):
        _run(
            window_kernels.window_target_gradients, targets, settings, target_ptr=target_ptr, out=out,
            grad_lse=grad_lse.float().contiguous(), grad_query=grad_query, grad_bias=bias_table, grad_gate=gate_table,
        )  # fmt: skip
        if grad_key is not None or grad_value is not None:
            _run(
                window_kernels.window_source_gradients, sources, settings, source_ptr=source_ptr, order=source_order,
                grad_key=grad_key, grad_value=grad_value, num_sums=2,
            )  # fmt: skip
        for grad, of_heads in ((grad_bias, bias_table), (grad_gate, gate_table)):
            if grad is not of_heads:
                grad.copy_(of_heads.sum(1, keepdim=True))
    return tuple(query.new_empty(0, dtype=torch.float32) if grad is None else grad for grad in grads)


def _settings(query, key, value, num_edges, terms, scale, logit_clip, dropout_p):
    """What all kernels of a call have in common."""
    edge_bias, edge_gate, head_mask, edge_id, seed = terms
    tensors = launch._tensors(query, key, value, None, None, None, edge_bias, edge_gate, head_mask, edge_id)
    numbers = launch._numbers(query, key, value, None, edge_bias, edge_gate, scale, logit_clip, dropout_p, seed)
    settings = {
        name: x for name, x in (tensors | numbers).items()
        if name not in ("query_attr", "edge_attr", "edge_type", "EDGE_DIM", "EDGE_BLOCK")
    }  # fmt: skip
    for name in ("HEAD_BLOCK", "VALUE_BLOCK"):
        settings[name] = max(SMALLEST_TILE, settings[name])
    by_edge = ("bias", "gate", "head_mask", "seed")
    settings["HAS_EDGES"] = any(settings[name] is not None for name in by_edge)
    settings["OFFSET"] = launch._call(query, key, value, heads_by_edges=query.shape[1] * num_edges).offset
    return settings


def _run(kernel, side, settings, num_sums=1, **outputs):
    tile = _tile(side, settings, num_sums)
    num_programs = triton.cdiv(side.num_rows, tile["ROWS"]) * side.heads
    if num_programs:
        kernel[(num_programs,)](
            **settings, **outputs, window_ptr=side.ptr, slots=side.slots, num_rows=side.num_rows,
            num_slots=side.slots.shape[1], WINDOW=side.window, **tile,
        )  # fmt: skip


def _tile(side, settings, num_sums):
    """Rows and columns of a program and its threads, for so many tables of sums: as much as registers hold, a few
    numbers aside, by what `resources.py` prints. No choice has been timed."""
    is_wide, has_edges = max(settings["HEAD_BLOCK"], settings["VALUE_BLOCK"]) > MAX_WIDTH // 2, settings["HAS_EDGES"]
    if settings["query"].dtype == torch.float32:  # no tensor core keeps all its digits, so threads multiply
        return {"ROWS": SMALLEST_TILE, "BLOCK": 16, "num_warps": 8 if is_wide else 4}
    if side.window == SMALLEST_TILE:
        return {"ROWS": side.window, "BLOCK": 32, "num_warps": 4 if is_wide else 2}
    block = 16 if is_wide + has_edges + num_sums > 2 else 32
    return {"ROWS": side.window, "BLOCK": block, "num_warps": 8 if is_wide or has_edges else 4}
