"""Blocks as dense products, merged exactly with each other and with the remaining edges.

Three ways lead there. Small plain blocks on the CPU run through a kernel of our own, which gathers and merges on its
way, so that nothing but its results is ever made. Large ones, or all where Numba is missing, run one shape at a time,
unpadded, through torch's flash kernel, which holds nothing of the size of pairs. Every other device, and what is told
per edge where Numba is missing, takes batched products over buckets, padded to one shape each. (Where it is there,
calls that tell something per edge do not come here: `fused` serves them over copies of the sources, `graph/copies.py`.)

A target that several parts serve (two blocks, or a block and edges) attends over the parts: with the log-sum-exp of
part p as its score, out = Σ_p softmax(lse)_p · out_p, which is the softmax over the union. Backward, the weights of
every part are exp(logit − lse) with the lse of the union, and Σ_e weight_e · grad_weight_e is grad_out · out with the
out of the union: so each part's gradients come from the kernel as if it were the whole.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from graphattn.graph.plan import Bucket, Plan
from graphattn.ops._arguments import HALF, joined_rows
from graphattn.ops.capability import has_numba
from graphattn.ops.dropout import dropout_factor
from graphattn.ops.operators import make_operator, without_second
from graphattn.ops.segment import segment_sum
from graphattn.ops.softmax import softmax_and_lse

# out, out_attr, lse: one row per target each; lse where it is asked for
Part = tuple[Tensor, Tensor | None, Tensor | None]

NO_DOUBLE_BACKWARD = 'The blocks implementation has no double backward: use impl="scatter".'


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    plan: Plan,
    *,
    query_attr: Tensor | None = None,
    edge_attr: Tensor | None = None,
    edge_bias: Tensor | None = None,
    edge_gate: Tensor | None = None,
    scale: float,
    logit_clip: float | None = None,
    dropout_p: float = 0.0,
    seed: Tensor | None = None,
    more: tuple[Tensor, Tensor] | None = None,
    rest: Part | None = None,
    needs_lse: bool = True,
) -> Part:
    """Returns (out, out_attr, lse) as `scatter.attention` does, over the plan's blocks and over `rest`.

    Args:
        more: keys and values of the sources after those of `key` and `value`, where a plain call `reads_apart`.
        edge_attr, edge_bias, edge_gate: per-edge tensors in the canonical order of the whole graph.
        rest: the same three results for the edges outside blocks, for all targets; None if there are none.
        needs_lse: whether the caller wants lse; without it plain blocks run through the fused dense kernels of torch
            on every device.
    """
    has_edge_terms = any(x is not None for x in (query_attr, edge_bias, edge_gate)) or dropout_p > 0
    if runs_unpadded(query.device) and not has_edge_terms and logit_clip is None:
        assert plan.groups is not None
        if not scale > 0:  # kernels take the maximum of products before they are scaled, and mask them with −inf
            query, scale = query * scale, 1.0
        rest_out, _, rest_lse = (None, None, None) if rest is None else rest
        tables = key, value, *(more or (None, None))
        out, lse = block_attention(query, *tables, rest_out, rest_lse, *plan.groups, plan.covers_once, scale)
        return out, None, lse
    query, key, value = (_Once.apply(x) for x in (query, key, value))
    query_attr, edge_attr, edge_bias, edge_gate = (
        None if x is None else _Once.apply(x) for x in (query_attr, edge_attr, edge_bias, edge_gate)
    )
    features = (query, key, value, query_attr, edge_attr, edge_bias, edge_gate)
    options = (scale, logit_clip, dropout_p, seed, needs_lse or not plan.covers_once)
    rows, parts = [], []
    for bucket, terms in zip(plan.buckets, _in_buckets(plan.buckets, *features, has_edge_terms), strict=True):
        target = bucket.dst.flatten()
        part = _bucket_attention(terms, *options)
        if bucket.real is not None:
            target = target[bucket.real]
            part = tuple(None if x is None else x[bucket.real] for x in part)  # type: ignore[assignment]
        rows.append(target)
        parts.append(part)
    if plan.covers_once:
        return _place(rows, parts, rest, query, value)
    num_dst_nodes = query.shape[0]
    if rest is not None:
        rows.append(torch.arange(num_dst_nodes, device=query.device))
        parts.append(rest)
    row = torch.cat(rows)
    share, lse = softmax_and_lse(torch.cat([part[2] for part in parts if part[2] is not None]), row, num_dst_nodes)
    out = segment_sum(share[..., None] * torch.cat([part[0] for part in parts]), row, num_dst_nodes)
    return out, None, lse  # positions of edges are told only where each target has one part, so edge_attr is None


# --- unpadded, on the CPU ------------------------------------------------------------------------------------------

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward.default

# A staircase that the kernel does not know needs a mask, shared by heads; it is made for so many pairs at a time.
MAX_MASKED_PAIRS = 2**22
MIN_MASKED_ROWS = 32

# Sources of the largest block that a kernel of our own takes: beyond, they leave the caches and torch's is as fast.
MAX_KERNEL_SOURCES = 512


def reads_apart(query: Tensor, plan: Plan) -> bool:
    """Returns whether a plain call, in no half precision, reads keys and values from two tables each."""
    if query.dtype in HALF or not runs_unpadded(query.device):
        return False
    return plan.groups is not None and not plan.src.shape[0]


def runs_unpadded(device: torch.device) -> bool:
    """Returns whether torch has a kernel here that tells its lse and takes another one backward."""
    return device.type == "cpu"


def runs_in_kernel(query: Tensor, key: Tensor, table: Tensor) -> bool:
    """Returns whether a kernel of our own serves all blocks: where it can be compiled, and no block is large.

    Its threads share out the heads of keys, so that one head alone is left to torch.
    """
    is_served = query.dtype in (torch.float32, torch.float64) and has_numba()
    if not is_served or key.shape[1] < 2:
        return False
    return 0 < int(table[:, 2].max()) <= MAX_KERNEL_SOURCES


def _kernels():
    from graphattn.ops._impl.numba import launch

    return launch


def _block_attention(
    query: Tensor, key: Tensor, value: Tensor, more_key: Tensor | None, more_value: Tensor | None,
    rest_out: Tensor | None, rest_lse: Tensor | None,
    dst: Tensor, src: Tensor, prefix: Tensor, table: Tensor, covers_once: bool, scale: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Attention over the blocks of `Groups` and over the rest: out and lse of all targets.

    Sources are the rows of key and value, and after them those of more_key and more_value.
    """
    if runs_in_kernel(query, key, table):
        launch, tables = _kernels(), (key, value, more_key, more_value)
        return launch.block_attention(query, *tables, rest_out, rest_lse, dst, src, prefix, table, scale)
    key, value = joined_rows(key, more_key), joined_rows(value, more_value)
    num_dst_nodes, value_dim = query.shape[0], value.shape[2]
    to_dst, to_src = _index(dst, num_dst_nodes), _index(src, key.shape[0])
    width = max(query.shape[2], value_dim)  # the kernel knows one width only
    q, k, v = _rows(query, to_dst, width), _rows(key, to_src, width), _rows(value, to_src, width)
    made = [
        _group_forward(of_targets, of_sources, *staircase, scale)
        for of_targets, of_sources, staircase in _each_group(table, (q, prefix), (k, v))
    ]
    out, lse = (_joined([x.flatten(0, 1) for x in pieces]) for pieces in zip(*made, strict=True))
    out = out[..., :value_dim]
    lse = _silenced(lse, out, query, key)
    if covers_once:
        return _placed(out, to_dst, num_dst_nodes, rest_out), _placed(lse, to_dst, num_dst_nodes, rest_lse, -torch.inf)
    if rest_out is None or rest_lse is None:
        share, lse = softmax_and_lse(lse, dst, num_dst_nodes)
        return _summed(out * share[..., None], to_dst, num_dst_nodes), lse
    row = torch.cat([dst, torch.arange(num_dst_nodes)])
    share, lse = softmax_and_lse(torch.cat([lse, rest_lse]), row, num_dst_nodes)
    of_blocks, of_rest = share[..., None].split([dst.numel(), num_dst_nodes])
    return (rest_out * of_rest).index_add_(0, dst, out * of_blocks), lse


def _fake_block_attention(query, key, value, *others):
    return query.new_empty((*query.shape[:2], value.shape[2])), query.new_empty(query.shape[:2])


def _block_attention_backward(
    grad_out: Tensor, grad_lse: Tensor | None, out: Tensor, lse: Tensor,
    query: Tensor, key: Tensor, value: Tensor, more_key: Tensor | None, more_value: Tensor | None,
    rest_out: Tensor | None, rest_lse: Tensor | None,
    dst: Tensor, src: Tensor, prefix: Tensor, table: Tensor, covers_once: bool, scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of query, key, value, more_key, more_value, rest_out and rest_lse, without elements for None."""
    sees_nothing = lse == -torch.inf
    if grad_lse is not None:
        grad_lse = grad_lse.masked_fill(sees_nothing, 0.0)
    if runs_in_kernel(query, key, table):
        launch, tables = _kernels(), (key, value, more_key, more_value)
        grads = launch.block_attention_backward(
            grad_out, grad_lse, out, lse, query, *tables, dst, src, prefix, table, scale
        )
        return *grads, *_gradients_of_rest(grad_out, grad_lse, out, lse, rest_out, rest_lse, sees_nothing)
    num_first = key.shape[0]
    key, value = joined_rows(key, more_key), joined_rows(value, more_value)
    num_dst_nodes, num_src_nodes = query.shape[0], key.shape[0]
    head_dim, value_dim = query.shape[2], value.shape[2]
    to_dst, to_src = _index(dst, num_dst_nodes), _index(src, num_src_nodes)
    width = max(head_dim, value_dim + (grad_lse is not None))
    q, k, v = _rows(query, to_dst, width), _rows(key, to_src, width), _rows(value, to_src, width)
    g, o = _rows(grad_out, to_dst, width), _rows(out, to_dst, width)
    if grad_lse is not None:
        # A logit's gradient is weight · (grad_out · value − grad_out · out + grad_lse); the kernel lacks the last term.
        # One more column adds it: 1 in grad_out, 0 in value, −grad_lse in out.
        g[..., value_dim] = 1.0
        o[..., value_dim] = -_rows(grad_lse, to_dst)
    total = _rows(lse.masked_fill(sees_nothing, torch.inf), to_dst)  # where nothing is seen, weights are 0
    made = [
        _group_backward(of_targets, of_sources, *staircase, scale)
        for of_targets, of_sources, staircase in _each_group(table, (g, q, o, total, prefix), (k, v))
    ]
    of_q, of_k, of_v = (_joined([x.flatten(0, 1) for x in pieces]) for pieces in zip(*made, strict=True))
    put = _placed if covers_once else _summed
    grad_query = put(of_q[..., :head_dim], to_dst, num_dst_nodes)
    of_key, of_value = (_summed(x, to_src, num_src_nodes) for x in (of_k[..., :head_dim], of_v[..., :value_dim]))
    of_first, of_more = (of_key, of_value), (key.new_empty(0), key.new_empty(0))
    if more_key is not None:
        of_first, of_more = (
            (of_key[part].clone(), of_value[part].clone()) for part in (slice(num_first), slice(num_first, None))
        )
    of_rest = _gradients_of_rest(grad_out, grad_lse, out, lse, rest_out, rest_lse, sees_nothing)
    return grad_query, *of_first, *of_more, *of_rest


def _gradients_of_rest(
    grad_out: Tensor, grad_lse: Tensor | None, out: Tensor, lse: Tensor,
    rest_out: Tensor | None, rest_lse: Tensor | None, sees_nothing: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    if rest_out is None or rest_lse is None:
        return lse.new_empty(0), lse.new_empty(0)
    share = torch.exp(rest_lse - lse).masked_fill(sees_nothing, 0.0)
    grad_score = (grad_out * (rest_out - out)).sum(-1)
    if grad_lse is not None:
        grad_score += grad_lse
    return grad_out * share[..., None], grad_score * share


def _fake_block_attention_backward(grad_out, grad_lse, out, lse, query, *others):
    shapes = [x.shape if x is not None else 0 for x in (query, *others[:6])]
    return tuple(query.new_empty(shape) for shape in shapes)


def _remember(ctx, inputs, output):
    *tensors, ctx.covers_once, ctx.scale = inputs
    ctx.save_for_backward(*output, *tensors)
    ctx.set_materialize_grads(False)  # a gradient of lse costs a column, so none is better than zeros


def _gradients(ctx, grad_out, grad_lse):
    out, *others = ctx.saved_tensors
    grad_out = torch.zeros_like(out) if grad_out is None else grad_out
    grads = block_attention_backward(grad_out, grad_lse, out, *others, ctx.covers_once, ctx.scale)
    wanted = (grad if want else None for grad, want in zip(grads, ctx.needs_input_grad))
    return *wanted, *[None] * 6


block_attention = make_operator(
    "block_attention",
    cpu=_block_attention,
    fake=_fake_block_attention,
    gradients=_gradients,
    remember=_remember,
    no_second=NO_DOUBLE_BACKWARD,
)
block_attention_backward = make_operator(
    "block_attention_backward", cpu=_block_attention_backward, fake=_fake_block_attention_backward
)


def _each_group(
    table: Tensor, of_targets: tuple[Tensor, ...], of_sources: tuple[Tensor, ...]
) -> Iterator[tuple[list[Tensor], list[Tensor], tuple[bool, bool]]]:
    """Cuts rows of targets and of sources into [num_blocks, num_targets or num_sources, ...], group by group.

    Yields them with two words about the group: whether the kernel's own causal mask serves, or another is needed.
    """
    row = column = 0
    for num_blocks, num_targets, num_sources, is_causal, is_masked in table.tolist():
        rows, columns = slice(row, row + num_blocks * num_targets), slice(column, column + num_blocks * num_sources)
        yield (
            [x[rows].unflatten(0, (num_blocks, num_targets)) for x in of_targets],
            [x[columns].unflatten(0, (num_blocks, num_sources)) for x in of_sources],
            (bool(is_causal), bool(is_masked)),
        )
        row, column = rows.stop, columns.stop


def _group_forward(
    of_targets: list[Tensor], of_sources: list[Tensor], is_causal: bool, is_masked: bool, scale: float
) -> tuple[Tensor, Tensor]:
    """Returns out [num_blocks, num_targets, num_heads, width] and lse [num_blocks, num_targets, num_heads]."""
    (q, prefix), (k, v) = of_targets, of_sources
    if not is_masked:
        made = _flash(*_heads(q, k, v), 0.0, is_causal, scale=scale)
        return made[0].transpose(1, 2), made[1].transpose(1, 2)
    pieces = []
    for rows, num_read, mask in _strips(prefix, k.shape[1], q.dtype):
        out, lse = _flash(*_heads(q[:, rows], k[:, :num_read], v[:, :num_read]), attn_mask=mask, scale=scale)
        pieces.append((out.transpose(1, 2), lse.transpose(1, 2)))
    out, lse = (torch.cat(x, 1) for x in zip(*pieces, strict=True))
    return out, lse


def _group_backward(
    of_targets: list[Tensor], of_sources: list[Tensor], is_causal: bool, is_masked: bool, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns gradients of q, k and v in their shapes, given out and lse of the whole union."""
    (g, q, o, lse, prefix), (k, v) = of_targets, of_sources
    if not is_masked:
        made = _flash_backward(*_heads(g, q, k, v, o, lse), 0.0, is_causal, scale=scale)
        return made[0].transpose(1, 2), made[1].transpose(1, 2), made[2].transpose(1, 2)
    grad_q, grad_k, grad_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
    for rows, num_read, mask in _strips(prefix, k.shape[1], q.dtype):
        parts = g[:, rows], q[:, rows], k[:, :num_read], v[:, :num_read], o[:, rows], lse[:, rows]
        made = _flash_backward(*_heads(*parts), 0.0, False, attn_mask=mask, scale=scale)
        grad_q[:, rows] = made[0].transpose(1, 2)
        grad_k[:, :num_read] += made[1].transpose(1, 2)
        grad_v[:, :num_read] += made[2].transpose(1, 2)
    return grad_q, grad_k, grad_v


def _strips(prefix: Tensor, num_sources: int, dtype: torch.dtype) -> Iterator[tuple[slice, int, Tensor]]:
    """Yields some rows of each block, how many leading sources they read at most, and the mask of 0 and −inf."""
    num_blocks, num_targets = prefix.shape
    height = max(MIN_MASKED_ROWS, MAX_MASKED_PAIRS // (num_blocks * num_sources))
    for start in range(0, num_targets, height):
        rows = slice(start, start + height)
        num_read = int(prefix[:, rows].max())
        hidden = torch.arange(num_read) >= prefix[:, rows, None]
        mask = torch.zeros(hidden.shape, dtype=dtype).masked_fill_(hidden, -torch.inf)
        yield rows, num_read, mask[:, None]


def _heads(*tensors: Tensor) -> list[Tensor]:
    """[num_blocks, num_nodes, num_heads, ...] → [num_blocks, num_heads, num_nodes, ...]."""
    return [x.transpose(1, 2) for x in tensors]


def _index(nodes: Tensor, num_nodes: int) -> Tensor | None:
    """Returns None where the nodes are all of them in order, so that rows need neither be gathered nor placed."""
    is_all = nodes.numel() == num_nodes and torch.equal(nodes, torch.arange(num_nodes))
    return None if is_all else nodes


def _rows(x: Tensor, index: Tensor | None, width: int | None = None) -> Tensor:
    """Returns the rows of some nodes, zeros added up to a width, in strides that the kernel can read."""
    rows = x if index is None else x.index_select(0, index)
    if width is not None and width > x.shape[-1]:
        return F.pad(rows, (0, width - x.shape[-1]))
    return rows if rows.stride(-1) == 1 else rows.contiguous()


def _joined(pieces: list[Tensor]) -> Tensor:
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)


def _summed(rows: Tensor, index: Tensor | None, num_nodes: int) -> Tensor:
    """Adds rows up at their nodes."""
    if index is None:
        return rows.contiguous()
    return rows.new_zeros((num_nodes, *rows.shape[1:])).index_add_(0, index, rows)


def _placed(
    rows: Tensor, index: Tensor | None, num_nodes: int, base: Tensor | None = None, fill: float = 0.0
) -> Tensor:
    """Puts rows at their nodes, each at another one; the other nodes have the rows of `base`, or `fill`."""
    if index is None:
        return rows.contiguous()
    if base is not None:
        placed = base.clone(memory_format=torch.contiguous_format)
    elif index.numel() == num_nodes:
        placed = rows.new_empty(rows.shape)
    else:
        placed = rows.new_full((num_nodes, *rows.shape[1:]), fill)
    return placed.index_copy_(0, index, rows)


def _silenced(lse: Tensor, out: Tensor, query: Tensor, key: Tensor) -> Tensor:
    """Puts lse to −inf where all logits are: the kernel says 0. Only infinite queries or keys make such logits."""
    is_suspect = lse == 0
    if not is_suspect.any() or not (query.isinf().any() or key.isinf().any()):
        return lse
    return lse.masked_fill(is_suspect & (out == 0).all(-1), -torch.inf)


# --- padded, on every device ---------------------------------------------------------------------------------------


class _Terms(NamedTuple):
    """What the blocks of one bucket read."""

    query: Tensor  # [num_blocks, num_targets, num_heads, head_dim]
    key: Tensor  # [num_blocks, num_sources, num_key_heads, head_dim]
    value: Tensor  # [num_blocks, num_sources, num_key_heads, value_dim]
    mask: Tensor | None  # bool [num_blocks, num_targets, num_sources], True = read; rows of padding read all
    edge: Tensor | None  # int64 like mask: canonical positions, where something is told per edge
    query_attr: Tensor | None  # [num_blocks, num_targets, num_heads, edge_dim]
    edge_attr: Tensor | None  # [num_blocks, num_targets, num_sources, edge_dim]
    edge_bias: Tensor | None  # [num_blocks, num_targets, num_sources, 1 or num_heads]
    edge_gate: Tensor | None  # the same


def _in_buckets(
    buckets: tuple[Bucket, ...],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_attr: Tensor | None,
    edge_attr: Tensor | None,
    edge_bias: Tensor | None,
    edge_gate: Tensor | None,
    needs_edges: bool,
) -> list[_Terms]:
    masks, edges = [], []
    for bucket in buckets:
        column = torch.arange(bucket.src.shape[1], device=query.device)
        mask = None
        if bucket.prefix is not None:
            prefix = bucket.prefix[..., None]
            mask = (column < prefix) | (prefix == 0)  # rows of padding read all: no NaN arises
        masks.append(mask)
        if needs_edges:
            assert bucket.first is not None
            offset = column if bucket.prefix is None else torch.where(column < bucket.prefix[..., None], column, 0)
            edges.append(bucket.first[..., None] + offset)
    dst, src = [bucket.dst for bucket in buckets], [bucket.src for bucket in buckets]
    absent: list[Tensor | None] = [None] * len(buckets)
    columns = (
        _gathered(query, dst),
        _gathered(key, src),
        _gathered(value, src),
        masks,
        edges or absent,
        absent if query_attr is None else _gathered(query_attr, dst),
        *(absent if x is None else _gathered(x, edges) for x in (edge_attr, edge_bias, edge_gate)),
    )
    return [_Terms(*of_bucket) for of_bucket in zip(*columns, strict=True)]


def _gathered(x: Tensor, indices: list[Tensor]) -> list[Tensor]:
    """Returns x[index] of each; gathering at once, the backward fills one tensor of zeros, not one for each bucket."""
    rows = x.index_select(0, torch.cat([index.flatten() for index in indices]))
    pieces = rows.split([index.numel() for index in indices])
    return [piece.view(*index.shape, *x.shape[1:]) for piece, index in zip(pieces, indices, strict=True)]


def _place(rows: list[Tensor], parts: list[Part], rest: Part | None, query: Tensor, value: Tensor) -> Part:
    """Puts parts at their targets where each target has one part only."""
    if rest is None:
        rest = (
            value.new_zeros(*query.shape[:2], value.shape[2]),
            None if parts[0][1] is None else value.new_zeros(*query.shape[:2], parts[0][1].shape[2]),
            value.new_full(query.shape[:2], -torch.inf),
        )
    row = torch.cat(rows)
    placed = []
    for base, pieces in zip(rest, zip(*parts, strict=True), strict=True):
        placed.append(None if base is None or pieces[0] is None else base.index_copy(0, row, torch.cat(pieces)))
    return tuple(placed)  # type: ignore[return-value]


def _bucket_attention(
    terms: _Terms, scale: float, logit_clip: float | None, dropout_p: float, seed: Tensor | None, needs_lse: bool
) -> Part:
    """Attention inside the blocks of one bucket; one row per (block, target), padding included."""
    num_blocks, num_targets, num_heads, _ = terms.query.shape
    num_sources, num_key_heads = terms.key.shape[1:3]
    q, k, v = _heads(terms.query, terms.key, terms.value)
    mask = None if terms.mask is None else terms.mask[:, None]
    if terms.edge is None and logit_clip is None and not needs_lse:
        is_grouped = num_key_heads != num_heads
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale, enable_gqa=is_grouped)
        return _as_rows(out), None, None
    # heads that share a key are rows of one product, so that no key is repeated
    of_keys = (num_blocks, num_key_heads, -1)
    scores = q.reshape(*of_keys, q.shape[-1]) @ k.transpose(-1, -2)
    scores = scores.view(num_blocks, num_heads, num_targets, num_sources)
    if terms.query_attr is not None and terms.edge_attr is not None:
        scores = scores + torch.einsum("btha,btsa->bhts", terms.query_attr, terms.edge_attr)
    scores = scores * scale
    if logit_clip is not None:
        scores = scores.clamp(-logit_clip, logit_clip)
    if terms.edge_bias is not None:
        scores = scores + terms.edge_bias.movedim(-1, 1)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    is_empty = (scores == -torch.inf).all(-1, keepdim=True)
    scores = scores.masked_fill(is_empty, 0.0)
    weight = torch.softmax(scores, -1).masked_fill(is_empty, 0.0)
    if terms.edge_gate is not None:
        weight = weight * terms.edge_gate.movedim(-1, 1)
    if dropout_p > 0:
        assert seed is not None and terms.edge is not None
        factor = dropout_factor(seed, terms.edge, num_heads, dropout_p)
        weight = weight * factor.movedim(-1, 1).to(weight.dtype)
    out_attr = None
    if terms.edge_attr is not None:
        out_attr = torch.einsum("bhts,btsa->btha", weight, terms.edge_attr).flatten(0, 1)
    out = _as_rows((weight.reshape(*of_keys, num_sources) @ v).view(num_blocks, num_heads, num_targets, -1))
    if not needs_lse:
        return out, out_attr, None
    lse = torch.logsumexp(scores, -1).masked_fill(is_empty[..., 0], -torch.inf)
    return out, out_attr, lse.transpose(1, 2).flatten(0, 1)


def _as_rows(out: Tensor) -> Tensor:
    """[num_blocks, num_heads, num_targets, dim] → [num_blocks · num_targets, num_heads, dim]."""
    return out.transpose(1, 2).flatten(0, 1)


class _Once(torch.autograd.Function):
    """The identity; differentiating its backward raises, for torch's fused dense kernels have no second derivative."""

    @staticmethod
    def forward(ctx, tensor):
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx, grad):
        return without_second((grad,), (), NO_DOUBLE_BACKWARD)[0]
