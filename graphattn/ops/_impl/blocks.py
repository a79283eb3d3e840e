"""Blocks as batched dense products, bucketed by size, merged exactly with each other and with the remaining edges.

A target that several parts serve (two blocks, or a block and edges) attends over the parts: with the log-sum-exp of
part p as its score, out = Σ_p softmax(lse)_p · out_p, which is the softmax over the union.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from graphattn.graph.plan import Bucket, Plan
from graphattn.ops.dropout import dropout_factor
from graphattn.ops.segment import segment_sum
from graphattn.ops.softmax import softmax_and_lse

# out, out_attr, lse: one row per target each; lse where it is asked for
Part = tuple[Tensor, Tensor | None, Tensor | None]


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
    rest: Part | None = None,
    needs_lse: bool = True,
) -> Part:
    """Returns (out, out_attr, lse) as `scatter.attention` does, over the plan's blocks and over `rest`.

    Args:
        edge_attr, edge_bias, edge_gate: per-edge tensors in the canonical order of the whole graph.
        rest: the same three results for the edges outside blocks, for all targets; None if there are none.
        needs_lse: whether the caller wants lse; without it plain blocks run through the fused dense kernels of torch.
    """
    num_dst_nodes = query.shape[0]
    query, key, value = (_Once.apply(x) for x in (query, key, value))
    query_attr, edge_attr, edge_bias, edge_gate = (
        None if x is None else _Once.apply(x) for x in (query_attr, edge_attr, edge_bias, edge_gate)
    )
    terms = (query_attr, edge_attr, edge_bias, edge_gate, scale, logit_clip, dropout_p, seed)
    asks_lse = needs_lse or not plan.covers_once
    rows, parts = [], []
    for bucket in plan.buckets:
        target = bucket.dst.flatten()
        part = _bucket_attention(query, key, value, bucket, *terms, asks_lse)
        if bucket.real is not None:
            target = target[bucket.real]
            part = tuple(None if x is None else x[bucket.real] for x in part)  # type: ignore[assignment]
        rows.append(target)
        parts.append(part)
    if plan.covers_once:
        return _place(rows, parts, rest, query, value)
    if rest is not None:
        rows.append(torch.arange(num_dst_nodes, device=query.device))
        parts.append(rest)
    row = torch.cat(rows)
    share, lse = softmax_and_lse(torch.cat([part[2] for part in parts if part[2] is not None]), row, num_dst_nodes)
    out = segment_sum(share[..., None] * torch.cat([part[0] for part in parts]), row, num_dst_nodes)
    return out, None, lse  # positions of edges are told only where each target has one part, so edge_attr is None


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
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bucket: Bucket,
    query_attr: Tensor | None,
    edge_attr: Tensor | None,
    edge_bias: Tensor | None,
    edge_gate: Tensor | None,
    scale: float,
    logit_clip: float | None,
    dropout_p: float,
    seed: Tensor | None,
    needs_lse: bool,
) -> Part:
    """Attention inside the blocks of one bucket; one row per (block, target), padding included."""
    num_heads = query.shape[1]
    group = num_heads // key.shape[1]
    q = query[bucket.dst].transpose(1, 2)  # [num_blocks, num_heads, num_targets, head_dim]
    k = key.repeat_interleave(group, 1)[bucket.src].transpose(1, 2)
    v = value.repeat_interleave(num_heads // value.shape[1], 1)[bucket.src].transpose(1, 2)
    column = torch.arange(bucket.src.shape[1], device=query.device)
    mask = None
    if bucket.prefix is not None:
        prefix = bucket.prefix[..., None]
        mask = ((column < prefix) | (prefix == 0))[:, None]  # rows of padding read all: no NaN arises
    has_edge_terms = any(x is not None for x in (query_attr, edge_bias, edge_gate)) or dropout_p > 0
    if not has_edge_terms and logit_clip is None and not needs_lse:
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)
        return _rows(out), None, None
    scores = q @ k.transpose(-1, -2)  # [num_blocks, num_heads, num_targets, num_sources]
    if has_edge_terms:
        assert bucket.first is not None
        edge = bucket.first[..., None] + (column if mask is None else torch.where(column < prefix, column, 0))
    attr = None
    if query_attr is not None and edge_attr is not None:
        attr = edge_attr[edge]  # [num_blocks, num_targets, num_sources, edge_dim]
        scores = scores + torch.einsum("btha,btsa->bhts", query_attr[bucket.dst], attr)
    scores = scores * scale
    if logit_clip is not None:
        scores = scores.clamp(-logit_clip, logit_clip)
    if edge_bias is not None:
        scores = scores + edge_bias[edge].movedim(-1, 1)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    is_empty = (scores == -torch.inf).all(-1, keepdim=True)
    scores = scores.masked_fill(is_empty, 0.0)
    weight = torch.softmax(scores, -1).masked_fill(is_empty, 0.0)
    if edge_gate is not None:
        weight = weight * edge_gate[edge].movedim(-1, 1)
    if dropout_p > 0:
        assert seed is not None
        weight = weight * dropout_factor(seed, edge, num_heads, dropout_p).movedim(-1, 1).to(weight.dtype)
    out_attr = None if attr is None else torch.einsum("bhts,btsa->btha", weight, attr).flatten(0, 1)
    out = _rows(weight @ v)
    if not needs_lse:
        return out, out_attr, None
    lse = torch.logsumexp(scores, -1).masked_fill(is_empty[..., 0], -torch.inf)
    return out, out_attr, lse.transpose(1, 2).flatten(0, 1)


def _rows(out: Tensor) -> Tensor:
    """[num_blocks, num_heads, num_targets, dim] → [num_blocks · num_targets, num_heads, dim]."""
    return out.transpose(1, 2).flatten(0, 1)


class _Once(torch.autograd.Function):
    """The identity; differentiating its backward raises, for torch's fused dense kernels have no second derivative."""

    @staticmethod
    def forward(ctx, tensor):
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx, grad):
        return _NoDoubleBackward.apply(grad)


class _NoDoubleBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, grad):
        return grad.view_as(grad)

    @staticmethod
    def backward(ctx, grad):
        raise NotImplementedError('The blocks implementation has no double backward: use impl="scatter".')
