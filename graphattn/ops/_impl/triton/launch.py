"""Chooses the shapes of programs, runs the Triton kernels, and joins what they leave in pieces.

Everything is chosen from the sizes of tensors, and for large calls from what `tuning` found before: nothing on the
device is read, so no call but the first of its class waits for it, and a call can be captured in a CUDA graph.
Arguments and shapes: `graphattn/ops/_impl/fused.py`. A type of edges that there is not, which the CPU refuses, gives
its target NaN: to raise an error would be to wait.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from graphattn.ops._impl.triton import kernels, tuning

# A chunk is the longest row that one program serves alone, or 1 / MAX_CHUNKS of all edges if that is more: so what the
# pieces of longer rows take is bounded, whatever the graph.
MIN_CHUNK, MAX_CHUNKS = 512, 2048
# Numbers of keys or values that a program of 128 threads holds at once: 32 a thread, for float32. Values follow keys
# into the same registers, and as many again are left for sums and addresses.
TILE_NUMBERS = 4096
MAX_LANES = 64
NUM_WARPS = 4
FLAT_BLOCK = 1024  # numbers of a program that takes them one by one
# From here on, offsets take 64 bits. Programs count some lanes and chunks beyond the last before they leave them out.
LAST_INT32 = 2**31 - 2**27


class Rows(NamedTuple):
    """A list of edges by row, each row with some heads."""

    ptr: Tensor  # [num_rows + 1]
    order: Tensor | None  # edges sorted by row; None if they are
    owner: Tensor  # [num_edges], the row of each edge
    heads: int

    @property
    def count(self):
        return self.ptr.shape[0] - 1

    @property
    def chunk(self):
        return max(MIN_CHUNK, triton.cdiv(self.owner.shape[0], MAX_CHUNKS))

    @property
    def num_chunks(self):
        """How many chunks pieces may lie in, none if no row can be longer than a chunk."""
        num_edges = self.owner.shape[0]
        return 0 if num_edges <= self.chunk else triton.cdiv(num_edges, self.chunk)


class Call(NamedTuple):
    """What all kernels of a call have in common."""

    dtype: torch.dtype
    offset: tl.dtype

    def tile(self, rows, width, repeat=1, tables=1):
        """LANES and BLOCK for rows that have each edge `repeat` times, and vectors of this width, of which an edge
        needs those of so many tables at a time."""
        numbers = TILE_NUMBERS // (2 * tables if self.dtype == torch.float64 else tables)
        degree = triton.cdiv(rows.owner.shape[0] * repeat, max(1, rows.count))
        block = min(tuning.MAX_BLOCK, _power_of_two(degree), max(1, numbers // width))
        lanes = max(1, min(MAX_LANES, numbers // (block * width), _power_of_two(rows.count * rows.heads)))
        return {"LANES": lanes, "BLOCK": block, **self.types()}

    def types(self):
        return {"DTYPE": tl.float64 if self.dtype == torch.float64 else tl.float32, "OFFSET": self.offset}

    def new(self, *shape, like):
        return torch.empty(shape, dtype=self.dtype, device=like.device)


def attention(
    query, key, value, target_ptr, src, dst,
    query_attr, edge_attr, edge_type, edge_bias, edge_gate, head_mask, edge_id, seed, scale, logit_clip, dropout_p,
    wants_weights,
):  # fmt: skip
    num_dst_nodes, num_heads, _ = query.shape
    num_edges = src.shape[0]
    call = _call(query, key, value, query_attr, edge_attr, heads_by_edges=num_heads * num_edges)
    rows = Rows(target_ptr, None, dst, num_heads)
    out = query.new_empty((num_dst_nodes, num_heads, value.shape[2]))
    out_attr = None if query_attr is None else query.new_empty(query_attr.shape)
    lse = call.new(num_dst_nodes, num_heads, like=query)
    weights = call.new(num_heads, num_edges, like=query) if wants_weights else None
    settings = {
        **_tensors(query, key, value, query_attr, edge_attr, edge_type, edge_bias, edge_gate, head_mask, edge_id),
        **_numbers(query, key, value, query_attr, edge_bias, edge_gate, scale, logit_clip, dropout_p, seed),
        "target_ptr": target_ptr, "src": src, "owner": dst, "weights": weights,
    }  # fmt: skip
    widths = {name: settings[name] for name in ("VALUE_DIM", "VALUE_BLOCK", "EDGE_DIM", "EDGE_BLOCK")}
    tile = call.tile(rows, _widest(settings))
    with torch.cuda.device_of(query):
        outputs = {"out": out, "out_attr": out_attr, "lse": lse, "totals": None}
        _run_on_rows(kernels.attention, rows, outputs, **settings, **tile)
        if rows.num_chunks:
            piece_out, piece_out_attr, peaks, totals = (
                None if width is None else call.new(2 * rows.num_chunks * num_heads, width, like=query)
                for width in (value.shape[2], None if query_attr is None else query_attr.shape[2], 1, 1)
            )
            outputs = {"out": piece_out, "out_attr": piece_out_attr, "lse": peaks, "totals": totals}
            _run_on_pieces(kernels.attention, rows, outputs, **settings, **tile)
            kernels.join_attention[(triton.cdiv(rows.num_chunks * num_heads, tile["LANES"]),)](
                piece_out=piece_out, piece_out_attr=piece_out_attr, peaks=peaks, totals=totals,
                out=out, out_attr=out_attr, lse=lse, target_ptr=target_ptr, owner=dst,
                num_edges=num_edges, chunk=rows.chunk, HEADS=num_heads, **widths, **tile, num_warps=NUM_WARPS,
            )  # fmt: skip
        if wants_weights and num_edges and num_heads:
            kernels.normalize[(triton.cdiv(num_edges, FLAT_BLOCK), num_heads)](
                weights=weights, lse=lse, dst=dst, num_edges=num_edges,
                HEADS=num_heads, BLOCK=FLAT_BLOCK, OFFSET=call.offset, num_warps=NUM_WARPS,
            )  # fmt: skip
    return (
        out,
        query.new_empty(0) if out_attr is None else out_attr,
        lse,
        lse.new_empty(0) if weights is None else weights,
    )


def attention_backward(
    grad_out, grad_out_attr, grad_lse, grad_weights, out, out_attr, lse,
    query, key, value, target_ptr, src, dst, source_ptr, source_order,
    query_attr, edge_attr, edge_type, edge_bias, edge_gate, head_mask, edge_id, seed, scale, logit_clip, dropout_p,
    wanted,
):  # fmt: skip
    num_heads, num_edges, num_key_heads = query.shape[1], src.shape[0], key.shape[1]
    call = _call(query, key, value, query_attr, edge_attr, heads_by_edges=2 * num_heads * num_edges)
    targets, sources = Rows(target_ptr, None, dst, num_heads), Rows(source_ptr, source_order, src, num_key_heads)
    inputs = query, key, value, query_attr, edge_attr, edge_bias, edge_gate
    grads = [torch.empty_like(x, memory_format=torch.contiguous_format) if want else None
             for x, want in zip(inputs, wanted)]  # fmt: skip
    grad_query, grad_key, grad_value, grad_query_attr, grad_edge_attr, grad_bias, grad_gate = grads

    def table(grad):
        """What a kernel writes for each head, the gradient itself if that is all."""
        is_shared = grad is not None and grad.shape[1] < num_heads
        return call.new(num_edges, num_heads, like=query) if is_shared else grad

    bias_table, gate_table = table(grad_bias), table(grad_gate)
    needs_slopes = any(grad is not None for grad in (grad_key, grad_value, grad_edge_attr))
    slopes = call.new(num_edges, num_heads, 2, like=query) if needs_slopes else None
    upstream = {
        "out": out, "lse": lse, "grad_out": grad_out.contiguous(), "grad_lse": grad_lse.to(call.dtype).contiguous(),
        "out_attr": None if query_attr is None else out_attr,
        "grad_out_attr": None if query_attr is None else grad_out_attr.contiguous(),
        "grad_weights": grad_weights.to(call.dtype).contiguous() if grad_weights.numel() else None,
    }  # fmt: skip
    settings = {
        **_tensors(query, key, value, query_attr, edge_attr, edge_type, edge_bias, edge_gate, head_mask, edge_id),
        **_numbers(query, key, value, query_attr, edge_bias, edge_gate, scale, logit_clip, dropout_p, seed),
        **upstream,
        "target_ptr": target_ptr, "src": src, "owner": dst,
    }  # fmt: skip
    nothing = dict.fromkeys(("grad_query", "grad_query_attr", "slopes", "grad_bias", "grad_gate"))
    to_edges = {"slopes": slopes, "grad_bias": bias_table, "grad_gate": gate_table}
    tile = call.tile(targets, _widest(settings), tables=1 if query_attr is None else 2)
    with torch.cuda.device_of(query):
        weight_sums = None
        if upstream["grad_weights"] is not None:
            weight_sums = call.new(*lse.shape, 1, like=query)
            _sum(
                kernels.target_gradients, call, targets, {"weight_sums": weight_sums},
                **settings, **nothing, **tile, ONLY_WEIGHT_SUMS=True,
            )  # fmt: skip
        if grad_query is not None or grad_query_attr is not None or any(x is not None for x in to_edges.values()):
            _sum(
                kernels.target_gradients, call, targets, {"grad_query": grad_query, "grad_query_attr": grad_query_attr},
                **settings, **to_edges, weight_sums=weight_sums, **tile, ONLY_WEIGHT_SUMS=False,
            )  # fmt: skip
        if grad_key is not None or grad_value is not None:
            _add_weighted(
                call, sources, slopes, dst, (settings["query"], settings["grad_out"]), (grad_key, grad_value),
                repeat=num_heads // num_key_heads,
            )  # fmt: skip
        if grad_edge_attr is not None:
            _add_edge_attr(call, slopes, settings["query_attr"], settings["grad_out_attr"], dst, grad_edge_attr)
        for grad, of_heads in ((grad_bias, bias_table), (grad_gate, gate_table)):
            if grad is not of_heads:
                grad.copy_(of_heads.sum(1, keepdim=True))
    return tuple(query.new_empty(0, dtype=torch.float32) if grad is None else grad for grad in grads)


def logits(query, key, src, dst, query_attr, edge_attr, scale):
    num_heads, num_edges = query.shape[1], src.shape[0]
    call = _call(query, key, query_attr, edge_attr, heads_by_edges=num_heads * num_edges)
    out = query.new_empty((num_edges, num_heads))
    edge_dim = 0 if edge_attr is None else edge_attr.shape[1]
    widths = {**_width("HEAD", query.shape[2]), **_width("EDGE", edge_dim)}
    block = max(1, min(FLAT_BLOCK, TILE_NUMBERS // max(widths["HEAD_BLOCK"], widths["EDGE_BLOCK"])))
    if out.numel():
        with torch.cuda.device_of(query):
            kernels.logits[(triton.cdiv(out.numel(), block),)](
                query=_flat(query), key=_flat(key), query_attr=_flat(query_attr), edge_attr=_flat(edge_attr),
                src=src, dst=dst, out=out, num_edges=num_edges, scale=float(scale), HEADS=num_heads,
                GROUP=num_heads // key.shape[1], **widths, BLOCK=block, **call.types(), num_warps=NUM_WARPS,
            )  # fmt: skip
    return out


def logits_backward(
    grad, query, key, target_ptr, src, dst, source_ptr, source_order, query_attr, edge_attr, scale, wanted
):
    num_heads, num_edges, num_key_heads = query.shape[1], src.shape[0], key.shape[1]
    call = _call(query, key, query_attr, edge_attr, heads_by_edges=num_heads * num_edges)
    group = num_heads // num_key_heads
    targets, sources = Rows(target_ptr, None, dst, num_heads), Rows(source_ptr, source_order, src, num_key_heads)
    inputs = query, key, query_attr, edge_attr
    grads = [torch.empty_like(x, memory_format=torch.contiguous_format) if want else None
             for x, want in zip(inputs, wanted)]  # fmt: skip
    grad_query, grad_key, grad_query_attr, grad_edge_attr = grads
    slopes = (grad.to(call.dtype) * scale).contiguous()
    with torch.cuda.device_of(query):
        if grad_query is not None:
            _add_weighted(call, targets, slopes, src, (_flat(key), None), (grad_query, None), share=group)
        if grad_key is not None:
            _add_weighted(call, sources, slopes, dst, (_flat(query), None), (grad_key, None), repeat=group)
        if grad_query_attr is not None:
            _add_weighted(
                call, targets, slopes, None, (_flat(edge_attr), None), (grad_query_attr, None), share=num_heads
            )
        if grad_edge_attr is not None:
            _add_edge_attr(call, slopes, _flat(query_attr), None, dst, grad_edge_attr)
    return tuple(query.new_empty(0, dtype=torch.float32) if grad is None else grad for grad in grads)


def _run_on_rows(kernel, rows, outputs, *, LANES, BLOCK, **settings):
    num_lanes = rows.count * rows.heads
    if not num_lanes:
        return
    longest = rows.chunk if rows.num_chunks else rows.owner.shape[0]

    def run(tile):
        kernel[(triton.cdiv(num_lanes, tile.lanes),)](
            **outputs, **settings, num_rows=rows.count, num_edges=rows.owner.shape[0], chunk=longest,
            LANES=tile.lanes, BLOCK=tile.block, IS_SPLIT=False, num_warps=tile.warps,
        )  # fmt: skip

    sizes_suggest = tuning.Tile(LANES, BLOCK, NUM_WARPS)
    run(tuning.chosen(kernel, {**outputs, **settings}, rows, sizes_suggest, run))


def _run_on_pieces(kernel, rows, outputs, *, LANES, **settings):
    """Runs a kernel on two lanes a chunk and head; it writes those that are pieces of a row longer than a chunk."""
    kernel[(triton.cdiv(2 * rows.num_chunks * rows.heads, LANES),)](
        **outputs, **settings, num_rows=rows.count, num_edges=rows.owner.shape[0], chunk=rows.chunk,
        LANES=LANES, IS_SPLIT=True, num_warps=NUM_WARPS,
    )  # fmt: skip


def _sum(kernel, call, rows, sums, **settings):
    """Runs a kernel that writes sums over rows, [num_rows, heads, width] or None, and adds up those of pieces."""
    _run_on_rows(kernel, rows, sums, **settings)
    if not rows.num_chunks:
        return
    num_pieces = 2 * rows.num_chunks * rows.heads
    pieces = {
        name: None if whole is None else call.new(num_pieces, whole.shape[-1], like=whole)
        for name, whole in sums.items()
    }
    _run_on_pieces(kernel, rows, pieces, **settings)
    for name, whole in sums.items():
        if whole is not None and whole.numel():
            width = whole.shape[-1]
            # a long row has many pieces, so BLOCK of them at a time; most lanes find none
            tile = call.tile(rows, _power_of_two(width))
            kernels.join_sums[(triton.cdiv(rows.num_chunks * rows.heads, tile["LANES"]),)](
                table=pieces[name], into=whole, ptr=rows.ptr, order=rows.order, owner=rows.owner,
                num_edges=rows.owner.shape[0], chunk=rows.chunk, HEADS=rows.heads,
                WIDTH=width, COLUMNS=_power_of_two(width), **tile, num_warps=NUM_WARPS,
            )  # fmt: skip


def _add_weighted(call, rows, slopes, nodes, tables, into, repeat=1, share=1):
    """Writes Σ slopes · table for one or two tables; see `kernels.weighted_sums`."""
    dims = [0 if whole is None else whole.shape[2] for whole in into]
    widths = {**_width("FIRST", dims[0]), **_width("SECOND", dims[1])}
    _sum(
        kernels.weighted_sums, call, rows, {"first_into": into[0], "second_into": into[1]},
        first_table=tables[0], second_table=tables[1], slopes=slopes, nodes=nodes,
        ptr=rows.ptr, order=rows.order, owner=rows.owner,
        HEADS=rows.heads, REPEAT=repeat, SHARE=share, TABLE_HEADS=rows.heads * repeat // share,
        STEP=2 if slopes.dim() == 3 else 1, **widths, **call.tile(rows, max(widths.values()), repeat),
    )  # fmt: skip


def _add_edge_attr(call, slopes, query_attr, grad_out_attr, dst, into):
    num_edges, edge_dim = into.shape
    if into.numel():
        widths = _width("EDGE", edge_dim)
        block = max(1, min(FLAT_BLOCK, TILE_NUMBERS // widths["EDGE_BLOCK"]))
        kernels.edge_attr_gradient[(triton.cdiv(num_edges, block),)](
            slopes=slopes, query_attr=query_attr, grad_out_attr=grad_out_attr, dst=dst, into=into, num_edges=num_edges,
            HEADS=slopes.shape[1], STEP=2 if slopes.dim() == 3 else 1, **widths, BLOCK=block, **call.types(),
            num_warps=NUM_WARPS,
        )  # fmt: skip


def _call(query, *others, heads_by_edges):
    largest = max(heads_by_edges, *(x.numel() for x in (query, *others) if x is not None))
    dtype = torch.float64 if query.dtype == torch.float64 else torch.float32
    return Call(dtype, tl.int32 if largest <= LAST_INT32 else tl.int64)


def _flat(tensor):
    return None if tensor is None else tensor.detach().contiguous()


def _tensors(query, key, value, query_attr, edge_attr, edge_type, edge_bias, edge_gate, head_mask, edge_id):
    tensors = dict(
        query=query, key=key, value=value, query_attr=query_attr, edge_attr=edge_attr, edge_type=edge_type,
        bias=edge_bias, gate=edge_gate, edge_id=edge_id,
        head_mask=None if head_mask is None else head_mask.contiguous().view(torch.uint8),
    )  # fmt: skip
    return {name: _flat(tensor) for name, tensor in tensors.items()}


def _numbers(query, key, value, query_attr, edge_bias, edge_gate, scale, logit_clip, dropout_p, seed):
    num_heads, head_dim = query.shape[1:]
    has_dropout = dropout_p > 0
    return {
        "scale": float(scale),
        "clip": 0.0 if logit_clip is None else float(logit_clip),
        "HAS_CLIP": logit_clip is not None,
        "keep_scale": 1 / (1 - dropout_p) if dropout_p < 1 else 0.0,
        "threshold": int(dropout_p * 2**24 + 0.5),
        # a seed that was made on the CPU goes along, and nobody waits for it
        "seed": seed.to(query.device, non_blocking=True) if has_dropout else None,
        "HEADS": num_heads,
        "GROUP": num_heads // key.shape[1],
        "BIAS_HEADS": 0 if edge_bias is None else edge_bias.shape[1],
        "GATE_HEADS": 0 if edge_gate is None else edge_gate.shape[1],
        **_width("HEAD", head_dim),
        **_width("VALUE", value.shape[2]),
        **_width("EDGE", 0 if query_attr is None else query_attr.shape[2]),
    }


def _width(name, width):
    return {f"{name}_DIM": width, f"{name}_BLOCK": _power_of_two(width)}


def _widest(settings):
    return max(settings[name] for name in ("HEAD_BLOCK", "VALUE_BLOCK", "EDGE_BLOCK"))


def _power_of_two(number):
    return triton.next_power_of_2(max(1, number))
