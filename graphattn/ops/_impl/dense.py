"""The specification: computes every pair of target and source, then removes what is no edge. Short, slow and right."""

import torch
from torch import Tensor

from graphattn.graph.plan import Plan
from graphattn.ops.dropout import dropout_factor


def logits(
    query: Tensor,
    key: Tensor,
    plan: Plan,
    *,
    edge_bias: Tensor | None = None,
    edge_attr: Tensor | None = None,
    edge_key_weight: Tensor | None = None,
    scale: float,
    logit_clip: float | None = None,
) -> Tensor:
    """Returns clip(scale · q_i·(k_j + Wk a_e)) + bias_e for every pair, [num_dst_nodes, num_src_nodes, num_heads]."""
    key = key.repeat_interleave(query.shape[1] // key.shape[1], 1)
    scores = torch.einsum("thd,shd->tsh", query, key)
    if edge_attr is not None and edge_key_weight is not None:
        scores = scores + torch.einsum("thd,hda,tsa->tsh", query, edge_key_weight, spread(edge_attr, plan))
    scores = scores * scale
    if logit_clip is not None:
        scores = scores.clamp(-logit_clip, logit_clip)
    return scores if edge_bias is None else scores + spread(edge_bias, plan)


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    plan: Plan,
    *,
    edge_bias: Tensor | None = None,
    edge_gate: Tensor | None = None,
    edge_attr: Tensor | None = None,
    edge_key_weight: Tensor | None = None,
    edge_value_weight: Tensor | None = None,
    scale: float,
    logit_clip: float | None = None,
    dropout_p: float = 0.0,
    seed: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Returns out [num_dst_nodes, num_heads, value_dim] and the log-sum-exp of logits, [num_dst_nodes, num_heads]."""
    scores = logits(query, key, plan, edge_bias=edge_bias, edge_attr=edge_attr, edge_key_weight=edge_key_weight,
                    scale=scale, logit_clip=logit_clip)  # fmt: skip
    alpha, lse = softmax(scores, plan)
    if edge_gate is not None:
        alpha = alpha * spread(edge_gate, plan)
    if dropout_p > 0:
        assert seed is not None
        edge_id = torch.arange(plan.src.numel(), device=query.device)
        alpha = alpha * spread(dropout_factor(seed, edge_id, query.shape[1], dropout_p).to(alpha.dtype), plan)
    value = value.repeat_interleave(query.shape[1] // value.shape[1], 1)
    out = torch.einsum("tsh,shd->thd", alpha, value)
    if edge_attr is not None and edge_value_weight is not None:
        out = out + torch.einsum("tsh,tsa,hda->thd", alpha, spread(edge_attr, plan), edge_value_weight)
    return out, lse


def softmax(scores: Tensor, plan: Plan) -> tuple[Tensor, Tensor]:
    """Returns the softmax over each target's edges, zero elsewhere, and its log-sum-exp, −inf for a target without."""
    is_edge = torch.ones_like(plan.src, dtype=torch.bool)[:, None] if plan.head_mask is None else plan.head_mask
    scores = scores.masked_fill(~spread(is_edge, plan), -torch.inf)
    is_empty = (scores == -torch.inf).all(1, keepdim=True)
    scores = scores.masked_fill(is_empty, 0.0)  # softmax of a row of −inf would be NaN, in the gradient too
    alpha = torch.softmax(scores, 1).masked_fill(is_empty, 0.0)
    return alpha, torch.logsumexp(scores, 1).masked_fill(is_empty[:, 0], -torch.inf)


def spread(values: Tensor, plan: Plan) -> Tensor:
    """Puts per-edge values [num_edges, ...] at their pair, [num_dst_nodes, num_src_nodes, ...], zeros elsewhere."""
    num_dst_nodes, num_src_nodes = plan.target_ptr.numel() - 1, plan.source_ptr.numel() - 1
    return values.new_zeros(num_dst_nodes, num_src_nodes, *values.shape[1:]).index_put((plan.dst, plan.src), values)
