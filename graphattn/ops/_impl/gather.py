"""For graphs whose targets all have d incoming edges: gathers keys and values to [targets, d], where sums and softmax
over a target's edges are sums and softmax over d. Nothing is scattered on the way forward. Any dtype and device,
differentiable twice.

Edges are sorted by target, so edge e belongs to target e // d. Like `scatter` it holds edges × heads × head_dim
numbers; unlike it, it gives the same bits at any number of threads. That is why it multiplies and sums: torch shares
products of few, long matrices among threads in a way that shows in the last bit, and they were no faster.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from graphattn.graph.plan import Plan
from graphattn.ops.dropout import dropout_factor


def logits(
    query: Tensor,
    key: Tensor,
    plan: Plan,
    *,
    query_attr: Tensor | None = None,
    edge_attr: Tensor | None = None,
    scale: float,
) -> Tensor:
    """Returns scale · (q_i·k_j + qa_i·a_e) of every edge, [num_edges, num_heads]."""
    return _scores(query, key, plan, query_attr, edge_attr, None, scale).flatten(0, 1)


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
    scale: float,
    logit_clip: float | None = None,
    dropout_p: float = 0.0,
    seed: Tensor | None = None,
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Returns out [num_dst_nodes, num_heads, value_dim], Σ weight · a_e [num_dst_nodes, num_heads, edge_dim], lse."""
    scores = _scores(query, key, plan, query_attr, edge_attr, head_mask, scale)
    if logit_clip is not None:
        scores = scores.clamp(-logit_clip, logit_clip)
    if edge_bias is not None:
        scores = scores + _by_target(edge_bias, plan)
    if head_mask is not None:
        scores = scores.masked_fill(~_by_target(head_mask, plan), -torch.inf)
    # the softmax is written out, for torch's rounds otherwise at another number of threads
    peak = scores.detach().amax(1, keepdim=True)
    peak = peak.masked_fill(peak == -torch.inf, 0.0)
    weight = torch.exp(scores - peak)  # [num_dst_nodes, d, num_heads]
    total = weight.sum(1, keepdim=True)
    is_empty = total == 0
    total = total.masked_fill(is_empty, 1.0)
    weight = weight / total
    lse = (total.log() + peak).masked_fill(is_empty, -torch.inf).squeeze(1)
    if edge_gate is not None:
        weight = weight * _by_target(edge_gate, plan)
    if dropout_p > 0:
        assert seed is not None
        edge_id = _by_target(torch.arange(plan.src.shape[0], device=query.device), plan)
        weight = weight * dropout_factor(seed, edge_id, query.shape[1], dropout_p).to(weight.dtype)
    values = _gathered(value, plan, head_mask)  # [num_dst_nodes, d, num_key_heads, 1, value_dim]
    out = (weight.unflatten(2, (values.shape[2], -1))[..., None] * values).sum(1).flatten(1, 2)
    if edge_attr is None:
        return out, None, lse
    return out, (weight[..., None] * _by_target(edge_attr, plan)[:, :, None]).sum(1), lse


def _scores(
    query: Tensor, key: Tensor, plan: Plan, query_attr: Tensor | None, edge_attr: Tensor | None,
    head_mask: Tensor | None, scale: float,
) -> Tensor:  # fmt: skip
    """Returns scale · (q_i·k_j + qa_i·a_e), [num_dst_nodes, d, num_heads]."""
    keys = _gathered(key, plan, head_mask)
    scores = (query.unflatten(1, (keys.shape[2], -1))[:, None] * keys).sum(-1).flatten(2)
    if query_attr is not None and edge_attr is not None:
        scores = scores + (query_attr[:, None] * _by_target(edge_attr, plan)[:, :, None]).sum(-1)
    return scores * scale


def _gathered(features: Tensor, plan: Plan, head_mask: Tensor | None) -> Tensor:
    """Returns [num_dst_nodes, d, num_key_heads, 1, dim]; all heads, with zeros where one may not see, under a mask."""
    # an embedding, for its gradient is summed in the order of edges: plain indexing adds them as threads happen to come
    rows = F.embedding(_by_target(plan.src, plan), features.flatten(1)).unflatten(2, features.shape[1:])
    if head_mask is not None:
        rows = rows.repeat_interleave(head_mask.shape[1] // rows.shape[2], 2)
        rows = rows.masked_fill(~_by_target(head_mask, plan)[..., None], 0.0)
    return rows[:, :, :, None]


def _by_target(of_edges: Tensor, plan: Plan) -> Tensor:
    """[num_edges, ...] → [num_dst_nodes, d, ...]."""
    assert plan.degree is not None, "the plan's targets differ in their number of edges"
    return of_edges.unflatten(0, (-1, plan.degree))
