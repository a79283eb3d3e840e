"""All pairs of a small graph by torch's own `scaled_dot_product_attention`, under a mask of what is no edge.

Some dozens of nodes cost calls, not arithmetic, and here forward and backward are one operator of torch each, with
views around them. Every pair is computed, whatever the number of edges, and only plain calls are served: what is told
per edge would have to be spread over the pairs again at every call. Like `dense` it may spread a NaN to targets that do
not see it, for 0 · NaN is NaN.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from graphattn.graph.plan import Plan
from graphattn.ops.operators import without_second

NO_DOUBLE_BACKWARD = 'The sdpa implementation has no double backward: use impl="scatter".'


def mask(plan: Plan, dtype: torch.dtype) -> Tensor:
    """Returns what is added to the logits of all pairs, [num_dst_nodes, num_src_nodes]: 0 at edges, −inf elsewhere."""
    shape = plan.target_ptr.shape[0] - 1, plan.source_ptr.shape[0] - 1
    hidden = torch.full(shape, -torch.inf, dtype=dtype, device=plan.src.device)
    hidden[plan.dst, plan.src] = 0.0
    return hidden


def attention(query: Tensor, key: Tensor, value: Tensor, hidden: Tensor | None, *, scale: float) -> Tensor:
    """Returns out [num_dst_nodes, num_heads, value_dim].

    Args:
        query: [num_dst_nodes, num_heads, head_dim].
        key: [num_src_nodes, num_key_heads, head_dim].
        value: [num_src_nodes, num_key_heads, value_dim].
        hidden: see `mask`; None where every pair is an edge.
        scale: multiplies the dot products.
    """
    value_dim, width = value.shape[2], max(query.shape[2], value.shape[2])  # torch's fast kernels know one width only
    q, k, v = _heads_first(query, width), _heads_first(key, width), _heads_first(value, width)
    is_grouped = key.shape[1] != query.shape[1]
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=hidden, scale=scale, enable_gqa=is_grouped)
    if out.requires_grad and not torch.compiler.is_compiling():  # there is no second derivative of a compiled region
        assert out.grad_fn is not None
        out.grad_fn.register_hook(_once)
    out = out.transpose(1, 2).squeeze(0)
    return out if width == value_dim else out[..., :value_dim]


def _heads_first(x: Tensor, width: int) -> Tensor:
    """[num_nodes, num_heads, dim] → [1, num_heads, num_nodes, width], with zeros added up to the width."""
    x = x.unsqueeze(0).transpose(1, 2)
    return x if x.shape[3] == width else F.pad(x, (0, width - x.shape[3]))


def _once(grads: tuple[Tensor, ...], grads_of_out: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
    """Lets the second derivative, which torch's kernels lack, say what to do."""
    return without_second(grads, (), NO_DOUBLE_BACKWARD) if torch.is_grad_enabled() else None
