"""`fused` with features of edges: what they add to keys and values is projected inside the operator.

On the node side q·(W a) = (Wᵀq)·a, and Σ w (W a) = W Σ w a: so kernels compare edges with query_attr = Wᵀq and gather
out_attr = Σ w a, both as narrow as the features. Done around the kernels, one operator of autograd each, these products
would hold arrays as large as queries several times over, and read them from memory each time; on the CPU they are made
row by row inside.

Backward, delta = grad_out · out + grad_out_attr · out_attr of the kernels is grad_out · out with the out of the whole,
since grad_out_attr = Wᵀ grad_out.
"""

from torch import Tensor, bmm

from graphattn.ops._impl import fused
from graphattn.ops._impl.projection import project_heads
from graphattn.ops.operators import make_operator


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    plan,
    *,
    edge_attr: Tensor,
    edge_key_weight: Tensor | None,
    edge_value_weight: Tensor | None,
    edge_bias: Tensor | None = None,
    edge_gate: Tensor | None = None,
    head_mask: Tensor | None = None,
    scale: float,
    logit_clip: float | None = None,
    dropout_p: float = 0.0,
    seed: Tensor | None = None,
    wants_weights: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns out and lse of `fused.attention`, values of edges included, and weights of `fused.attention_and_weights`.

    Args:
        edge_attr: [num_edges, edge_dim].
        edge_key_weight: [num_heads, head_dim, edge_dim], what turns features into keys; None where they are not added.
        edge_value_weight: [num_heads, value_dim, edge_dim], the same for values.
        wants_weights: without, weights have no element.
    """
    out, _, lse, weights, _ = featured_attention(
        query, key, value, plan.target_ptr, plan.src, plan.dst, plan.source_ptr, plan.source_order,
        edge_attr, edge_key_weight, edge_value_weight, edge_bias, edge_gate, head_mask, seed,
        *(fused.NO_WINDOWS if wants_weights else plan.windows or fused.NO_WINDOWS),
        scale, logit_clip, dropout_p, wants_weights,
    )  # fmt: skip
    return out, lse, weights.t() if wants_weights else weights


def attention_on_cpu(
    query: Tensor, key: Tensor, value: Tensor,
    target_ptr: Tensor, src: Tensor, dst: Tensor, source_ptr: Tensor, source_order: Tensor,
    edge_attr: Tensor, edge_key_weight: Tensor | None, edge_value_weight: Tensor | None,
    edge_bias: Tensor | None, edge_gate: Tensor | None, head_mask: Tensor | None, seed: Tensor | None,
    target_window_ptr: Tensor | None, target_slots: Tensor | None,
    source_window_ptr: Tensor | None, source_slots: Tensor | None,
    scale: float, logit_clip: float | None, dropout_p: float, wants_weights: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """out, out_attr, lse and weights of `fused.fused_attention`, out of the whole, and query_attr."""
    return fused.on_cpu().featured_attention(
        query, key, value, target_ptr, src, edge_attr, edge_key_weight, edge_value_weight,
        edge_bias, edge_gate, head_mask, seed, scale, logit_clip, dropout_p, wants_weights,
    )  # fmt: skip


def attention_on_cuda(
    query, key, value, target_ptr, src, dst, source_ptr, source_order, edge_attr, edge_key_weight, edge_value_weight,
    edge_bias, edge_gate, head_mask, seed, *windows_and_numbers,
):  # fmt: skip
    dtype = fused.compute_dtype(query)
    query_attr = query.new_zeros((*query.shape[:2], edge_attr.shape[1]), dtype=dtype)
    if edge_key_weight is not None:
        query_attr = _products(query, edge_key_weight, dtype).contiguous()
    out, out_attr, lse, weights = fused.attention_on_cuda(
        query, key, value, target_ptr, src, dst, source_ptr, source_order,
        query_attr, edge_attr, None, edge_bias, edge_gate, head_mask, None, seed, *windows_and_numbers,
    )  # fmt: skip
    if edge_value_weight is not None:
        out += _products(out_attr, edge_value_weight.transpose(1, 2), dtype)
    return out, out_attr, lse, weights, query_attr


def _products(x, matrices, dtype):
    return project_heads(x.to(dtype), matrices.to(dtype), use_kernels=False)


def _fake_attention(query, key, value, target_ptr, src, dst, source_ptr, source_order, edge_attr, *others):
    wants_weights = others[-1]
    dtype = fused.compute_dtype(query)
    of_attr = *query.shape[:2], edge_attr.shape[1]
    out, lse = query.new_empty((*query.shape[:2], value.shape[2])), query.new_empty(query.shape[:2], dtype=dtype)
    weights = lse.new_empty((query.shape[1], src.shape[0]) if wants_weights else 0)
    return out, query.new_empty(of_attr), lse, weights, query.new_empty(of_attr, dtype=dtype)


def attention_backward_on_cpu(
    grad_out: Tensor, grad_lse: Tensor, grad_weights: Tensor,
    out: Tensor, out_attr: Tensor, lse: Tensor, query_attr: Tensor,
    query: Tensor, key: Tensor, value: Tensor,
    target_ptr: Tensor, src: Tensor, dst: Tensor, source_ptr: Tensor, source_order: Tensor,
    edge_attr: Tensor, edge_key_weight: Tensor | None, edge_value_weight: Tensor | None,
    edge_bias: Tensor | None, edge_gate: Tensor | None, head_mask: Tensor | None, seed: Tensor | None,
    target_window_ptr: Tensor | None, target_slots: Tensor | None,
    source_window_ptr: Tensor | None, source_slots: Tensor | None,
    scale: float, logit_clip: float | None, dropout_p: float, wanted: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of query, key, value, edge_attr, both weights, edge_bias and edge_gate, empty where not wanted."""
    return fused.on_cpu().featured_attention_backward(
        grad_out, grad_lse, grad_weights, out, out_attr, lse, query_attr, query, key, value, target_ptr, src,
        edge_attr, edge_key_weight, edge_value_weight, edge_bias, edge_gate, head_mask, seed,
        scale, logit_clip, dropout_p, wanted,
    )  # fmt: skip


def attention_backward_on_cuda(
    grad_out, grad_lse, grad_weights, out, out_attr, lse, query_attr, query, key, value,
    target_ptr, src, dst, source_ptr, source_order, edge_attr, edge_key_weight, edge_value_weight,
    edge_bias, edge_gate, head_mask, seed, *others,
):  # fmt: skip
    *windows_and_numbers, wanted = others
    of_query, of_key, of_value, of_attr, of_key_weight, of_value_weight, of_bias, of_gate = wanted
    dtype, nothing = fused.compute_dtype(query), out_attr.new_zeros(out_attr.shape)
    grad_out_attr = nothing
    if edge_value_weight is not None:
        grad_out_attr = _products(grad_out, edge_value_weight, dtype).to(out_attr.dtype).contiguous()
    of_query_attr = edge_key_weight is not None and (of_query or of_key_weight)
    made = fused.attention_backward_on_cuda(
        grad_out, grad_out_attr, grad_lse, grad_weights, out, nothing, lse, query, key, value,
        target_ptr, src, dst, source_ptr, source_order, query_attr, edge_attr, None,
        edge_bias, edge_gate, head_mask, None, seed, *windows_and_numbers,
        [of_query, of_key, of_value, of_query_attr, of_attr, of_bias, of_gate],
    )  # fmt: skip
    grad_query, grad_key, grad_value, grad_query_attr, grad_attr, grad_bias, grad_gate = made
    if of_query and of_query_attr:
        grad_query += _products(grad_query_attr, edge_key_weight.transpose(1, 2), dtype)

    def summed(x, y, weight, want):
        product = bmm(x.to(dtype).permute(1, 2, 0), y.to(dtype).transpose(0, 1)) if want else lse.new_empty(0)
        return product.to(weight.dtype).contiguous() if want else product

    grad_key_weight = summed(query, grad_query_attr, edge_key_weight, of_key_weight)
    grad_value_weight = summed(grad_out, out_attr, edge_value_weight, of_value_weight)
    return grad_query, grad_key, grad_value, grad_attr, grad_key_weight, grad_value_weight, grad_bias, grad_gate


def _fake_attention_backward(
    grad_out, grad_lse, grad_weights, out, out_attr, lse, query_attr, query, key, value,
    target_ptr, src, dst, source_ptr, source_order,
    edge_attr, edge_key_weight, edge_value_weight, edge_bias, edge_gate, *others,
):  # fmt: skip
    inputs = query, key, value, edge_attr, edge_key_weight, edge_value_weight, edge_bias, edge_gate
    return fused.empty_gradients(inputs, wanted=others[-1], device=query.device)


def _remember(ctx, inputs, output):
    *tensors, ctx.scale, ctx.logit_clip, ctx.dropout_p, _ = inputs
    out, out_attr, lse, _, query_attr = output
    ctx.save_for_backward(out, out_attr, lse, query_attr, *tensors)
    ctx.set_materialize_grads(False)  # nobody differentiates out_attr and query_attr


def _gradients(ctx, grad_out, _, grad_lse, grad_weights, __):
    needed = ctx.needs_input_grad
    wanted = [*needed[:3], *needed[8:13]]
    out, _, lse = ctx.saved_tensors[:3]
    grad_out = out.new_zeros(out.shape) if grad_out is None else grad_out
    grad_lse = lse.new_zeros(lse.shape) if grad_lse is None else grad_lse
    grad_weights = lse.new_empty(0) if grad_weights is None else grad_weights
    made = featured_attention_backward(
        grad_out, grad_lse, grad_weights, *ctx.saved_tensors, ctx.scale, ctx.logit_clip, ctx.dropout_p, wanted
    )
    query, key, value, *of_edges = (grad if want else None for grad, want in zip(made, wanted))
    plan, mask_and_seed, numbers = [None] * 5, [None] * 2, [None] * 4
    return query, key, value, *plan, *of_edges, *mask_and_seed, *fused.NO_WINDOWS, *numbers


featured_attention = make_operator(
    "featured_attention",
    cpu=attention_on_cpu,
    cuda=attention_on_cuda,
    fake=_fake_attention,
    gradients=_gradients,
    remember=_remember,
    no_second=fused.NO_DOUBLE_BACKWARD,
    vmap=fused.no_vmap,
)
featured_attention_backward = make_operator(
    "featured_attention_backward",
    cpu=attention_backward_on_cpu,
    cuda=attention_backward_on_cuda,
    fake=_fake_attention_backward,
)
