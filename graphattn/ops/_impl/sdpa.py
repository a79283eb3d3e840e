"""All pairs of a small graph by torch's own `scaled_dot_product_attention`, under a mask of what is no edge.

Some dozens of nodes cost calls, not arithmetic, and here forward and backward are one operator of torch each, with
views around them. Every pair is computed, whatever the number of edges, and only plain calls are served: what is told
per edge would have to be spread over the pairs again at every call.

Zero times NaN is NaN, so that one at a node may reach targets that do not see it, forward and backward. Where it would
reach other examples, what comes out is looked at on the CPU, and if a number is not finite, the call is served again by
an implementation that reads edges only.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import is_fake

from graphattn.graph.plan import Plan
from graphattn.ops.operators import without_second

Tensors = tuple[Any, ...]  # of gradients, None where none is wanted

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward.default

NO_DOUBLE_BACKWARD = 'The sdpa implementation has no double backward: use impl="scatter".'


def mask(plan: Plan, dtype: torch.dtype) -> Tensor:
    """Returns what is added to the logits of all pairs, [num_dst_nodes, num_src_nodes]: 0 at edges, −inf elsewhere."""
    shape = plan.target_ptr.shape[0] - 1, plan.source_ptr.shape[0] - 1
    hidden = torch.full(shape, -torch.inf, dtype=dtype, device=plan.src.device)
    hidden[plan.dst, plan.src] = 0.0
    return hidden


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    hidden: Tensor | None,
    *,
    scale: float,
    over_edges: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None,
) -> Tensor:
    """Returns out [num_dst_nodes, num_heads, value_dim].

    Args:
        query: [num_dst_nodes, num_heads, head_dim].
        key: [num_src_nodes, num_key_heads, head_dim].
        value: [num_src_nodes, num_key_heads, value_dim].
        hidden: see `mask`; None where every pair is an edge.
        scale: multiplies the dot products.
        over_edges: the same from query, key and value by another implementation, of as many key heads as heads: runs
            where numbers are not finite. None where nothing is looked at.
    """
    value_dim, width = value.shape[2], max(query.shape[2], value.shape[2])  # torch's fast kernels know one width only
    q, k, v = _heads_first(query, width), _heads_first(key, width), _heads_first(value, width)
    if key.shape[1] != query.shape[1]:
        k, v = (x.repeat_interleave(query.shape[1] // key.shape[1], 1) for x in (k, v))
    if hidden is not None and over_edges is not None:
        q, k, v = _readable(q), _readable(k), _readable(v)
        anew = partial(_heads_first_by, over_edges)
        out = _Watched.apply(q, k, v, hidden, scale, anew)
        out = out if _is_finite(out) else anew(q, k, v)
    else:
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=hidden, scale=scale)
        if out.requires_grad and not torch.compiler.is_compiling():  # a compiled region has no second derivative
            assert out.grad_fn is not None
            out.grad_fn.register_hook(_once)
    out = _nodes_first(out)
    return out if width == value_dim else out[..., :value_dim]


class _Watched(torch.autograd.Function):
    """What torch's kernel does between queries, keys and values, with gradients that are looked at."""

    @staticmethod
    def forward(ctx, q, k, v, hidden, scale, anew):
        out, lse = _flash(q, k, v, 0.0, False, attn_mask=hidden, scale=scale)
        ctx.save_for_backward(q, k, v, hidden, out, lse)
        ctx.scale, ctx.anew = scale, anew
        return out

    @staticmethod
    def backward(ctx, grad):
        *given, hidden, out, lse = ctx.saved_tensors
        grads = _flash_backward(_readable(grad), *given, out, lse, 0.0, False, attn_mask=hidden, scale=ctx.scale)
        if not _is_finite(*grads):
            with torch.enable_grad():
                leaves = [x.detach().requires_grad_() for x in given]
                found = ctx.anew(*leaves)
                grads = [torch.zeros_like(x) for x in leaves]
                if found.requires_grad:  # there is an edge
                    grads = torch.autograd.grad(found, leaves, grad.detach(), materialize_grads=True)
        if torch.is_grad_enabled():
            grads = without_second(tuple(grads), (grad, *given), NO_DOUBLE_BACKWARD)
        return *(x if want else None for x, want in zip(grads, ctx.needs_input_grad)), None, None, None


def _readable(x: Tensor) -> Tensor:
    """Returns the same numbers as the kernel expects them: those of a row side by side."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _is_finite(first: Tensor, *others: Tensor) -> bool:
    """Returns whether all numbers are; it may say no to numbers whose sum is too large, and yes where there are none to
    look at: in a program that is traced without them, or under `is_grads_batched`."""
    if is_fake(first) or torch._C._functorch.is_legacy_batchedtensor(first):
        return True
    total = first.sum()
    for other in others:
        total += other.sum()
    return math.isfinite(total.item())


def _heads_first_by(over_edges: Callable[[Tensor, Tensor, Tensor], Tensor], *given: Tensor) -> Tensor:
    """Calls it with heads first and returns heads first."""
    return _heads_first(over_edges(*(_nodes_first(x) for x in given)))


def _nodes_first(x: Tensor) -> Tensor:
    """[1, num_heads, num_nodes, width] → [num_nodes, num_heads, width]."""
    return x.transpose(1, 2).squeeze(0)


def _heads_first(x: Tensor, width: int | None = None) -> Tensor:
    """[num_nodes, num_heads, dim] → [1, num_heads, num_nodes, width], with zeros added up to the width."""
    x = x.unsqueeze(0).transpose(1, 2)
    return x if width in (None, x.shape[3]) else F.pad(x, (0, width - x.shape[3]))


def _once(grads: Tensors, grads_of_out: Tensors) -> Tensors | None:
    """Lets the second derivative, which torch's kernels lack, say what to do."""
    return without_second(grads, (), NO_DOUBLE_BACKWARD) if torch.is_grad_enabled() else None
