"""The readable one: gather to the edges, softmax over each target, scatter back. Any dtype, differentiable twice.

It holds edges × heads × head_dim numbers, several times over; `fused` does not.
"""

import torch
from torch import Tensor

from graphattn.graph.plan import Plan
from graphattn.ops.dropout import dropout_factor
from graphattn.ops.segment import segment_sum
from graphattn.ops.softmax import softmax_and_lse


def logits(
    query: Tensor,
    key: Tensor,
    plan: Plan,
    *,
    query_attr: Tensor | None = None,
    edge_attr: Tensor | None = None,
    head_mask: Tensor | None = None,
    scale: float,
) -> Tensor:
    """Returns scale · (q_i·k_j + qa_i·a_e) of every edge, [num_edges, num_heads]."""
    scores = (query[plan.dst] * _to_edges(key, plan, query.shape[1], head_mask)).sum(-1)  # [num_edges, num_heads]
    if query_attr is not None and edge_attr is not None:
        scores = scores + (query_attr[plan.dst] * edge_attr[:, None]).sum(-1)
    return scores * scale


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
    head_mask: Tensor | None = None,
    edge_id: Tensor | None = None,
    scale: float,
    logit_clip: float | None = None,
    dropout_p: float = 0.0,
    seed: Tensor | None = None,
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Returns out [num_dst_nodes, num_heads, value_dim], Σ weight · a_e [num_dst_nodes, num_heads, edge_dim], lse."""
    num_dst_nodes, num_heads = query.shape[:2]
    scores = logits(query, key, plan, query_attr=query_attr, edge_attr=edge_attr, head_mask=head_mask, scale=scale)
    if logit_clip is not None:
        scores = scores.clamp(-logit_clip, logit_clip)
    if edge_bias is not None:
        scores = scores + edge_bias
    if head_mask is not None:
        scores = scores.masked_fill(~head_mask, -torch.inf)
    weight, lse = softmax_and_lse(scores, plan.dst, num_dst_nodes, plan.target_ptr)
    if edge_gate is not None:
        weight = weight * edge_gate
    if dropout_p > 0:
        assert seed is not None
        edge_id = torch.arange(plan.src.numel(), device=query.device) if edge_id is None else edge_id
        weight = weight * dropout_factor(seed, edge_id, num_heads, dropout_p).to(weight.dtype)
    message = weight[..., None] * _to_edges(value, plan, num_heads, head_mask)  # [num_edges, num_heads, value_dim]
    out = segment_sum(message, plan.dst, num_dst_nodes, plan.target_ptr)
    if edge_attr is None:
        return out, None, lse
    return out, segment_sum(weight[..., None] * edge_attr[:, None], plan.dst, num_dst_nodes, plan.target_ptr), lse


def _to_edges(features: Tensor, plan: Plan, num_heads: int, head_mask: Tensor | None) -> Tensor:
    """Gathers source features to the edges, [num_edges, num_heads, dim], zeros where a masked head may not see."""
    gathered = features[plan.src].repeat_interleave(num_heads // features.shape[1], 1)
    return gathered if head_mask is None else gathered.masked_fill(~head_mask[..., None], 0.0)
