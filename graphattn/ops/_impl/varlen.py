"""Plain blocks on CUDA: one call of torch's kernels of variable length over all blocks of a graph, nothing padded.

Blocks are sequences beside each other, as `plan.sequences` lists them: full, or causal squares. Half precision goes to
`_flash_attention_forward` of aten, float32 (and half precision where flash does not run) to
`_efficient_attention_forward`. Both give the natural log-sum-exp of each row, and take the out and lse of the whole
union backward: how parts are merged is told in `blocks`. Lengths come with the plan, so nothing waits for the device.

Flash sums gradients of queries by atomic additions, so that their last bits differ from run to run unless
`torch.use_deterministic_algorithms(True)` is set.
"""

from functools import lru_cache

import torch
from torch import Tensor

from graphattn.graph.plan import Plan
from graphattn.ops._arguments import HALF
from graphattn.ops._impl.blocks import NO_DOUBLE_BACKWARD, Part, _gradients_of_rest, _placed, _rows, _summed
from graphattn.ops.operators import make_operator
from graphattn.ops.softmax import softmax_and_lse

MULTIPLE = 8  # widths and strides are a multiple of so many numbers, as the kernels' loads of 16 bytes ask for
MAX_FLASH_WIDTH = 256
LSE_ROWS = 32  # of `_efficient_attention_forward`, which pads the lse of each sequence to a multiple of it
# Numbers of that padded lse, for one head, of which an uneven batch may make many more than it has rows.
MAX_PADDED_LSE = 2**24


def serves(plan: Plan, device: torch.device, dtype: torch.dtype) -> bool:
    """Returns whether plain attention over the plan's blocks runs here, unpadded."""
    sequences = plan.sequences
    if sequences is None or device.type != "cuda" or torch.version.hip is not None:
        return False
    if dtype in HALF:
        return True
    return dtype == torch.float32 and (sequences.dst_ptr.shape[0] - 1) * sequences.most_targets <= MAX_PADDED_LSE


def attention(
    query: Tensor, key: Tensor, value: Tensor, plan: Plan, *, scale: float, rest: Part | None = None
) -> tuple[Tensor, None, Tensor]:
    """Returns (out, None, lse) as `blocks.attention` does for a plain call.

    Args:
        query: [num_dst_nodes, num_heads, head_dim], half precision as it is.
        key: [num_src_nodes, num_key_heads, head_dim].
        value: [num_src_nodes, num_key_heads, value_dim].
        plan: one that `serves`.
        scale: multiplies the dot products.
        rest: out and lse of the edges outside blocks, for all targets; None if there are none.

    Returns:
        out: [num_dst_nodes, num_heads, value_dim] in query's dtype.
        lse: [num_dst_nodes, num_heads], float32 for half precision.
    """
    if not scale > 0:  # flash takes the maximum of products before they are scaled
        query, scale = query * scale, 1.0
    assert plan.sequences is not None
    rest_out, _, rest_lse = (None, None, None) if rest is None else rest
    rest_out = None if rest_out is None else rest_out.to(query.dtype)
    out, lse = varlen_attention(query, key, value, rest_out, rest_lse, *plan.sequences, plan.covers_once, scale)
    return out, None, lse


def _attention(
    query: Tensor, key: Tensor, value: Tensor, rest_out: Tensor | None, rest_lse: Tensor | None,
    dst: Tensor | None, src: Tensor | None, dst_ptr: Tensor, src_ptr: Tensor,
    most_targets: int, most_sources: int, is_causal: bool, reads_once: bool, covers_once: bool, scale: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Attention over the blocks of `Sequences` and over the rest: out and lse of all targets."""
    num_dst_nodes, value_dim = query.shape[0], value.shape[2]
    width = _width(query.shape[2], value_dim)
    q, k, v = _aligned(query, dst, width), _aligned(key, src, width), _aligned(value, src, width)
    lengths = dst_ptr, src_ptr, most_targets, most_sources
    out, lse = _forward_of(q)(q, k, v, *lengths, is_causal, scale)
    out = out[..., :value_dim]
    # flash says +inf where all logits are −inf, and where one is NaN, which shows in out as well
    lse = lse.masked_fill((lse == torch.inf) & ~out[..., :1].isnan().any(-1), -torch.inf)
    if covers_once:
        return _placed(out, dst, num_dst_nodes, rest_out), _placed(lse, dst, num_dst_nodes, rest_lse, -torch.inf)
    row = torch.arange(num_dst_nodes, device=query.device)
    rows, parts = [row if dst is None else dst], [(out, lse)]
    if rest_out is not None and rest_lse is not None:
        rows.append(row)
        parts.append((rest_out, rest_lse))
    row = torch.cat(rows)
    share, lse = softmax_and_lse(torch.cat([lse for _, lse in parts]), row, num_dst_nodes)
    weighted = share[..., None] * torch.cat([out for out, _ in parts])  # float32 for half precision
    return _summed(weighted, row, num_dst_nodes).to(query.dtype), lse


def _fake_attention(query, key, value, *others):
    lse = query.new_empty(query.shape[:2], dtype=torch.float32 if query.dtype in HALF else query.dtype)
    return query.new_empty((*query.shape[:2], value.shape[2])), lse


def _attention_backward(
    grad_out: Tensor, grad_lse: Tensor | None, out: Tensor, lse: Tensor,
    query: Tensor, key: Tensor, value: Tensor, rest_out: Tensor | None, rest_lse: Tensor | None,
    dst: Tensor | None, src: Tensor | None, dst_ptr: Tensor, src_ptr: Tensor,
    most_targets: int, most_sources: int, is_causal: bool, reads_once: bool, covers_once: bool, scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of query, key, value, rest_out and rest_lse, the last two without elements where there is no rest."""
    head_dim, value_dim = query.shape[2], value.shape[2]
    sees_nothing = lse == -torch.inf
    if grad_lse is not None:
        grad_lse = grad_lse.masked_fill(sees_nothing, 0.0)
    width = _width(head_dim, value_dim + (grad_lse is not None))
    q, k, v = _aligned(query, dst, width), _aligned(key, src, width), _aligned(value, src, width)
    g, o = _rows(grad_out, dst, width), _rows(out, dst, width)
    if grad_lse is not None:  # by one more column, as in `blocks`
        g[..., value_dim] = 1.0
        o[..., value_dim] = -_rows(grad_lse, dst)
    total = _rows(lse.masked_fill(sees_nothing, torch.inf), dst)  # where nothing is seen, weights are 0
    lengths = dst_ptr, src_ptr, most_targets, most_sources
    of_q, of_k, of_v = _backward_of(q)(g, q, k, v, o, total, *lengths, is_causal, scale)
    grads = (
        _at_nodes(of_q[..., :head_dim], dst, query.shape[0], covers_once),
        _at_nodes(of_k[..., :head_dim], src, key.shape[0], reads_once),
        _at_nodes(of_v[..., :value_dim], src, key.shape[0], reads_once),
    )
    wide_out, wide_rest = _wide(out), None if rest_out is None else _wide(rest_out)
    of_rest_out, of_rest_lse = _gradients_of_rest(
        _wide(grad_out), grad_lse, wide_out, lse, wide_rest, rest_lse, sees_nothing
    )
    return *grads, of_rest_out.to(query.dtype), of_rest_lse


def _fake_attention_backward(grad_out, grad_lse, out, lse, query, key, value, rest_out, rest_lse, *others):
    of_rest = (0 if x is None else x.shape for x in (rest_out, rest_lse))
    like = query, key, value, query, lse
    return tuple(x.new_empty(shape) for x, shape in zip(like, (query.shape, key.shape, value.shape, *of_rest)))


def _remember(ctx, inputs, output):
    ctx.num_tensors = 9
    ctx.save_for_backward(*output, *inputs[: ctx.num_tensors])
    ctx.numbers = inputs[ctx.num_tensors :]
    ctx.set_materialize_grads(False)  # a gradient of lse costs a column, so none is better than zeros


def _gradients(ctx, grad_out, grad_lse):
    out, *others = ctx.saved_tensors
    grad_out = torch.zeros_like(out) if grad_out is None else grad_out
    grads = varlen_attention_backward(grad_out, grad_lse, out, *others, *ctx.numbers)
    wanted = (grad if want else None for grad, want in zip(grads, ctx.needs_input_grad))
    return *wanted, *[None] * 10


varlen_attention = make_operator(
    "varlen_attention",
    cpu=_attention,  # torch has no such kernel there: calls that ask for one end in its NotImplementedError
    cuda=_attention,
    fake=_fake_attention,
    gradients=_gradients,
    remember=_remember,
    no_second=NO_DOUBLE_BACKWARD,
)
varlen_attention_backward = make_operator(
    "varlen_attention_backward", cpu=_attention_backward, cuda=_attention_backward, fake=_fake_attention_backward
)


# --- torch's kernels -----------------------------------------------------------------------------------------------
# Rows of all sequences beside each other: q, g, o [num_rows, num_heads, width], k and v [num_columns, num_key_heads,
# width], lse [num_rows, num_heads].

flash_forward = torch.ops.aten._flash_attention_forward.default
flash_backward = torch.ops.aten._flash_attention_backward.default
efficient_forward = torch.ops.aten._efficient_attention_forward.default
efficient_backward = torch.ops.aten._efficient_attention_backward.default


def _forward_of(q: Tensor):
    return _flash if _takes_flash(q) else _efficient


def _backward_of(q: Tensor):
    return _flash_backward if _takes_flash(q) else _efficient_backward


def _takes_flash(q: Tensor) -> bool:
    return takes_flash(q.dtype, q.shape[-1], q.device)


def takes_flash(dtype: torch.dtype, width: int, device: torch.device) -> bool:
    """Returns whether calls of such heads run through the flash kernel, not the memory-efficient one."""
    return dtype in HALF and width <= MAX_FLASH_WIDTH and has_flash(device)


@lru_cache
def has_flash(device: torch.device) -> bool:
    """Returns whether torch's flash kernels run on a device: built in, and compute capability 8.0 or above."""
    return torch.backends.cuda.is_flash_attention_available() and torch.cuda.get_device_capability(device) >= (8, 0)


def _flash(q, k, v, dst_ptr, src_ptr, most_targets, most_sources, is_causal, scale):
    # With sequences of length one and grouped heads it would fold heads into rows, and lse into another layout; the
    # length is an upper bound, so two asks for the plain one.
    made = flash_forward(
        q, k, v, dst_ptr, src_ptr, max(most_targets, 2), most_sources, 0.0, is_causal, False, scale=scale
    )
    assert made[1].shape == (q.shape[1], q.shape[0])
    return made[0], made[1].t()


def _flash_backward(g, q, k, v, o, lse, dst_ptr, src_ptr, most_targets, most_sources, is_causal, scale):
    state, unused = q.new_empty(2, dtype=torch.uint64), q.new_empty(0)  # of dropout, which there is none of
    return flash_backward(
        g, q, k, v, o, lse.t().contiguous(), dst_ptr, src_ptr, max(most_targets, 2), most_sources, 0.0, is_causal,
        state, unused, scale=scale,
    )  # fmt: skip


def _efficient(q, k, v, dst_ptr, src_ptr, most_targets, most_sources, is_causal, scale):
    repeat = q.shape[1] // k.shape[1]
    made = efficient_forward(
        q[None], _repeated(k, repeat)[None], _repeated(v, repeat)[None], None, dst_ptr, src_ptr,
        most_targets, most_sources, 0.0, int(is_causal), True, scale=scale,
    )  # fmt: skip
    padded = made[1].transpose(1, 2).flatten(0, 1)  # [num_blocks · padded targets, num_heads]
    return made[0][0], padded.index_select(0, _place(dst_ptr, q.shape[0], made[1].shape[2]))


def _efficient_backward(g, q, k, v, o, lse, dst_ptr, src_ptr, most_targets, most_sources, is_causal, scale):
    key_heads, repeat = k.shape[1], q.shape[1] // k.shape[1]
    num_blocks, num_padded = dst_ptr.shape[0] - 1, -(-most_targets // LSE_ROWS) * LSE_ROWS
    padded = lse.new_full((num_blocks * num_padded, lse.shape[1]), torch.inf)  # weights of padding are 0
    padded = padded.index_copy_(0, _place(dst_ptr, q.shape[0], num_padded), lse).unflatten(0, (num_blocks, num_padded))
    state = q.new_empty((), dtype=torch.int64)  # of dropout, which there is none of
    grads = efficient_backward(
        g[None], q[None], _repeated(k, repeat)[None], _repeated(v, repeat)[None], None, o.contiguous()[None],
        dst_ptr, src_ptr, most_targets, most_sources, padded.transpose(1, 2).contiguous(), 0.0, state, state,
        int(is_causal), False, scale=scale,
    )  # fmt: skip
    of_q, of_k, of_v = (grad[0] for grad in grads[:3])
    if repeat > 1:
        of_k, of_v = (grad.unflatten(1, (key_heads, repeat)).sum(2) for grad in (of_k, of_v))
    return of_q, of_k, of_v


def _repeated(x: Tensor, repeat: int) -> Tensor:
    return x if repeat == 1 else x.repeat_interleave(repeat, 1)


def _place(dst_ptr: Tensor, num_rows: int, num_padded: int) -> Tensor:
    """Returns where each row lies among sequences padded to one length, int64 [num_rows]."""
    row = torch.arange(num_rows, dtype=dst_ptr.dtype, device=dst_ptr.device)
    block = torch.searchsorted(dst_ptr, row, right=True) - 1
    return block * num_padded + (row - dst_ptr[block])


def _width(head_dim: int, value_dim: int) -> int:
    """Returns the one width that queries, keys and values are padded to."""
    return -(-max(head_dim, value_dim, 1) // MULTIPLE) * MULTIPLE


def _aligned(x: Tensor, index: Tensor | None, width: int) -> Tensor:
    """Returns the rows of some nodes as the kernels can load them, without a copy where they lie so already."""
    rows = _rows(x, index, width)
    is_aligned = not any(stride % MULTIPLE for stride in rows.stride()[:-1]) and not rows.storage_offset() % MULTIPLE
    return rows if is_aligned else rows.contiguous()


def _at_nodes(rows: Tensor, index: Tensor | None, num_nodes: int, is_once: bool) -> Tensor:
    """Adds rows up at their nodes, in float32 for half precision; each node has one row, or none, where `is_once`."""
    if index is None or is_once:
        return _placed(rows, index, num_nodes)
    return _summed(_wide(rows), index, num_nodes).to(rows.dtype)


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.dtype in HALF else x
