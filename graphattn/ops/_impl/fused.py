"""Attention over the edges of a graph in one pass over plan tensors: no array of size edges × head_dim is ever made.

Four `torch.library` operators, `graphattn::fused_attention`, `graphattn::fused_logits` and their backwards, each with
one kernel a device: Numba's on the CPU, Triton's on CUDA. They are compiled on first use and kept on disk: importing
this file compiles nothing and imports neither. The formulas, forward and backward, are in `numba/kernels.py`.

A plan is any object with these int64 contiguous tensors, for edges sorted by (target, source):

    target_ptr [num_dst_nodes + 1]   edge offsets of each target
    src, dst [num_edges]             source and target of each edge
    source_ptr [num_src_nodes + 1]   offsets into source_order of each source
    source_order [num_edges]         the edges sorted by (source, target)

and `windows`: None, or four tensors by which kernels on CUDA may serve many rows at once, as in `graph/windows.py`.
"""

from importlib import import_module

import torch
from torch import Tensor

from graphattn.ops.operators import make_operator

NO_WINDOWS = (None,) * 4
NO_DOUBLE_BACKWARD = 'The fused implementation has no double backward: use impl="scatter".'


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    plan,
    *,
    query_attr: Tensor | None = None,
    edge_attr: Tensor | None = None,
    edge_type: Tensor | None = None,
    edge_bias: Tensor | None = None,
    edge_gate: Tensor | None = None,
    head_mask: Tensor | None = None,
    edge_id: Tensor | None = None,
    scale: float,
    logit_clip: float | None = None,
    dropout_p: float = 0.0,
    seed: Tensor | None = None,
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Attends from every target to the sources of its incoming edges.

    Args:
        query: [num_dst_nodes, num_heads, head_dim].
        key: [num_src_nodes, num_key_heads, head_dim]; num_key_heads divides num_heads, and head h reads key head
            h // (num_heads // num_key_heads).
        value: [num_src_nodes, num_key_heads, value_dim].
        plan: see the top of this file.
        query_attr: [num_dst_nodes, num_heads, edge_dim], what edge features are compared with. Given with `edge_attr`;
            or with `edge_type`, [num_dst_nodes, num_heads, num_types], what is added to query · key for each type.
        edge_attr: [num_edges, edge_dim], added to keys and values of every head on the edge's way.
        edge_type: [num_edges] int64, in place of `edge_attr`.
        edge_bias: [num_edges, 1 or num_heads], added to the logits after clipping.
        edge_gate: [num_edges, 1 or num_heads], multiplies the weights after the softmax.
        head_mask: [num_edges, num_heads] bool; False takes the edge out of that head's graph.
        edge_id: [num_edges] int64, the edge's number in the dropout hash; its position if None.
        scale: multiplies the dot products.
        logit_clip: holds the scaled products within ±logit_clip.
        dropout_p: probability that an edge's weight is dropped; the others grow by 1 / (1 - dropout_p).
        seed: [1] int64, for dropout.

    Returns:
        out: [num_dst_nodes, num_heads, value_dim]; zero for a target without edges or whose logits are all -inf.
        out_attr: [num_dst_nodes, num_heads, edge_dim], the same weights' sum of `edge_attr`, or their sum for each type
            [num_dst_nodes, num_heads, num_types]; None without features and types.
        lse: [num_dst_nodes, num_heads], natural log-sum-exp of the logits, -inf where out is zero for want of edges.
            float64 for float64 inputs, else float32.
    """
    out, out_attr, lse, _ = fused_attention(
        query, key, value, plan.target_ptr, plan.src, plan.dst, plan.source_ptr, plan.source_order,
        query_attr, edge_attr, edge_type, edge_bias, edge_gate, head_mask, edge_id, seed,
        *(plan.windows or NO_WINDOWS), scale, logit_clip, dropout_p, False,
    )  # fmt: skip
    return out, None if query_attr is None else out_attr, lse


def attention_and_weights(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    plan,
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
    """Returns out and out_attr as `attention` does, and the softmax before gates and dropout, from the same pass.

    Returns:
        out, out_attr: see `attention`; values may be of width 0 where only weights are wanted.
        weights: [num_edges, num_heads], differentiable, of lse's type.
    """
    out, out_attr, _, weights = fused_attention(
        query, key, value, plan.target_ptr, plan.src, plan.dst, plan.source_ptr, plan.source_order,
        query_attr, edge_attr, None, edge_bias, edge_gate, head_mask, None, seed,
        *NO_WINDOWS, scale, logit_clip, dropout_p, True,
    )  # fmt: skip
    return out, None if query_attr is None else out_attr, weights.t()


def logits(
    query: Tensor,
    key: Tensor,
    plan,
    *,
    query_attr: Tensor | None = None,
    edge_attr: Tensor | None = None,
    scale: float,
) -> Tensor:
    """Computes scale · (query · key + query_attr · edge_attr) for every edge: [num_edges, num_heads].

    Arguments as in `attention`.
    """
    return fused_logits(
        query, key, plan.target_ptr, plan.src, plan.dst, plan.source_ptr, plan.source_order,
        query_attr, edge_attr, scale,
    )  # fmt: skip


def attention_on_cpu(
    query: Tensor, key: Tensor, value: Tensor,
    target_ptr: Tensor, src: Tensor, dst: Tensor, source_ptr: Tensor, source_order: Tensor,
    query_attr: Tensor | None, edge_attr: Tensor | None, edge_type: Tensor | None,
    edge_bias: Tensor | None, edge_gate: Tensor | None,
    head_mask: Tensor | None, edge_id: Tensor | None, seed: Tensor | None,
    target_window_ptr: Tensor | None, target_slots: Tensor | None,
    source_window_ptr: Tensor | None, source_slots: Tensor | None,
    scale: float, logit_clip: float | None, dropout_p: float, wants_weights: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """out, out_attr and lse as in `attention`, and weights [num_heads, num_edges], empty where not wanted."""
    return on_cpu().attention(
        query, key, value, target_ptr, src,
        query_attr, edge_attr, edge_type, edge_bias, edge_gate, head_mask, edge_id, seed, scale, logit_clip, dropout_p,
        wants_weights,
    )  # fmt: skip


def attention_on_cuda(query, key, value, target_ptr, src, dst, source_ptr, source_order, *terms):
    return _cuda("windows").attention(query, key, value, target_ptr, src, dst, *terms)


def _fake_attention(query, key, value, target_ptr, src, dst, source_ptr, source_order, query_attr, *others):
    out = query.new_empty((*query.shape[:2], value.shape[2]))
    out_attr = query.new_empty(0) if query_attr is None else query.new_empty(query_attr.shape)
    lse = query.new_empty(query.shape[:2], dtype=compute_dtype(query))
    wants_weights = others[-1]
    return out, out_attr, lse, lse.new_empty((query.shape[1], src.shape[0]) if wants_weights else 0)


def attention_backward_on_cpu(
    grad_out: Tensor, grad_out_attr: Tensor, grad_lse: Tensor, grad_weights: Tensor,
    out: Tensor, out_attr: Tensor, lse: Tensor,
    query: Tensor, key: Tensor, value: Tensor,
    target_ptr: Tensor, src: Tensor, dst: Tensor, source_ptr: Tensor, source_order: Tensor,
    query_attr: Tensor | None, edge_attr: Tensor | None, edge_type: Tensor | None,
    edge_bias: Tensor | None, edge_gate: Tensor | None,
    head_mask: Tensor | None, edge_id: Tensor | None, seed: Tensor | None,
    target_window_ptr: Tensor | None, target_slots: Tensor | None,
    source_window_ptr: Tensor | None, source_slots: Tensor | None,
    scale: float, logit_clip: float | None, dropout_p: float, wanted: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of query, key, value, query_attr, edge_attr, edge_bias and edge_gate, empty where not wanted."""
    return on_cpu().attention_backward(
        grad_out, grad_out_attr, grad_lse, grad_weights, out, out_attr, lse,
        query, key, value, target_ptr, src,
        query_attr, edge_attr, edge_type, edge_bias, edge_gate, head_mask, edge_id, seed, scale, logit_clip, dropout_p,
        wanted,
    )  # fmt: skip


def attention_backward_on_cuda(*arguments):
    return _cuda("windows").attention_backward(*arguments)


def _fake_attention_backward(
    grad_out, grad_out_attr, grad_lse, grad_weights, out, out_attr, lse, query, key, value, *others
):
    query_attr, edge_attr, _, edge_bias, edge_gate = others[5:10]
    inputs = query, key, value, query_attr, edge_attr, edge_bias, edge_gate
    return empty_gradients(inputs, wanted=others[-1], device=query.device)


def logits_on_cpu(
    query: Tensor, key: Tensor,
    target_ptr: Tensor, src: Tensor, dst: Tensor, source_ptr: Tensor, source_order: Tensor,
    query_attr: Tensor | None, edge_attr: Tensor | None, scale: float,
) -> Tensor:  # fmt: skip
    return on_cpu().logits(query, key, target_ptr, src, query_attr, edge_attr, scale)


def logits_on_cuda(query, key, target_ptr, src, dst, source_ptr, source_order, query_attr, edge_attr, scale):
    return _cuda().logits(query, key, src, dst, query_attr, edge_attr, scale)


def _fake_logits(query, key, target_ptr, src, *others):
    return query.new_empty((src.shape[0], query.shape[1]))


def logits_backward_on_cpu(
    grad: Tensor, query: Tensor, key: Tensor,
    target_ptr: Tensor, src: Tensor, dst: Tensor, source_ptr: Tensor, source_order: Tensor,
    query_attr: Tensor | None, edge_attr: Tensor | None, scale: float, wanted: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of query, key, query_attr and edge_attr, empty where not wanted."""
    return on_cpu().logits_backward(
        grad, query, key, target_ptr, src, dst, source_ptr, source_order, query_attr, edge_attr, scale, wanted
    )


def logits_backward_on_cuda(*arguments):
    return _cuda().logits_backward(*arguments)


def _fake_logits_backward(
    grad, query, key, target_ptr, src, dst, source_ptr, source_order, query_attr, edge_attr, scale, wanted
):
    return empty_gradients((query, key, query_attr, edge_attr), wanted, device=query.device)


def compute_dtype(query: Tensor) -> torch.dtype:
    return torch.float64 if query.dtype == torch.float64 else torch.float32


def empty_gradients(inputs, wanted, device):
    """One contiguous tensor an input, of its shape and dtype where its gradient is wanted and without elements else."""
    return tuple(
        torch.empty(tensor.shape if want else 0, dtype=tensor.dtype if want else torch.float32, device=device)
        for tensor, want in zip(inputs, wanted)
    )


def on_cpu():
    try:
        from graphattn.ops._impl.numba import launch
    except ModuleNotFoundError as error:
        if error.name not in ("numba", "llvmlite"):
            raise
        raise ImportError("The fused implementation needs Numba on the CPU: pip install numba") from error
    return launch


def _cuda(name="launch"):
    try:
        return import_module(f"graphattn.ops._impl.triton.{name}")
    except ModuleNotFoundError as error:
        if error.name != "triton":
            raise
        raise ImportError("The fused implementation needs Triton on CUDA: pip install triton") from error


def _remember_attention(ctx, inputs, output):
    *tensors, ctx.scale, ctx.logit_clip, ctx.dropout_p, _ = inputs
    ctx.save_for_backward(*output[:3], *tensors)


def _attention_gradients(ctx, grad_out, grad_out_attr, grad_lse, grad_weights):
    needed = ctx.needs_input_grad
    wanted = [needed[0], needed[1], needed[2], needed[8], needed[9], needed[11], needed[12]]
    grads = fused_attention_backward(
        grad_out,
        grad_out_attr,
        grad_lse,
        grad_weights,
        *ctx.saved_tensors,
        ctx.scale,
        ctx.logit_clip,
        ctx.dropout_p,
        wanted,
    )
    query, key, value, query_attr, edge_attr, bias, gate = (grad if want else None for grad, want in zip(grads, wanted))
    plan, edge_type, mask_id_seed, numbers = [None] * 5, None, [None] * 3, [None] * 4
    others = *mask_id_seed, *NO_WINDOWS, *numbers
    return query, key, value, *plan, query_attr, edge_attr, edge_type, bias, gate, *others


def _remember_logits(ctx, inputs, output):
    *tensors, ctx.scale = inputs
    ctx.save_for_backward(*tensors)


def _logits_gradients(ctx, grad):
    needed = ctx.needs_input_grad
    wanted = [needed[0], needed[1], needed[7], needed[8]]
    grads = fused_logits_backward(grad, *ctx.saved_tensors, ctx.scale, wanted)
    query, key, *terms = (grad if want else None for grad, want in zip(grads, wanted))
    return query, key, *[None] * 5, *terms, None


def no_vmap(info, in_dims, *arguments):
    raise NotImplementedError(
        "The fused implementation has no rule for vmap: join the batch into one graph with disjoint_union, or use "
        'impl="scatter".'
    )


fused_attention = make_operator(
    "fused_attention",
    cpu=attention_on_cpu,
    cuda=attention_on_cuda,
    fake=_fake_attention,
    gradients=_attention_gradients,
    remember=_remember_attention,
    no_second=NO_DOUBLE_BACKWARD,
    vmap=no_vmap,
)
fused_attention_backward = make_operator(
    "fused_attention_backward",
    cpu=attention_backward_on_cpu,
    cuda=attention_backward_on_cuda,
    fake=_fake_attention_backward,
)
fused_logits = make_operator(
    "fused_logits",
    cpu=logits_on_cpu,
    cuda=logits_on_cuda,
    fake=_fake_logits,
    gradients=_logits_gradients,
    remember=_remember_logits,
    no_second=NO_DOUBLE_BACKWARD,
    vmap=no_vmap,
)
fused_logits_backward = make_operator(
    "fused_logits_backward",
    cpu=logits_backward_on_cpu,
    cuda=logits_backward_on_cuda,
    fake=_fake_logits_backward,
)
