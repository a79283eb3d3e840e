"""A graph through FlexAttention of torch: tiles of 128 × 128 pairs, those without an edge left out, on CUDA.

Torch compiles a program of Triton for it, and another one for each new size of graph, which takes seconds: so `auto`
leaves it to whoever names it. What is told per edge would have to be searched for at every pair, so only plain calls
are served. Inside a tile every pair is computed: like `dense` it may spread a NaN, for 0 · NaN is NaN.

Source: Dong et al. 2024, "Flex Attention: A Programming Model for Generating Optimized Attention Kernels".
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from graphattn.ops.operators import without_second

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

NO_DOUBLE_BACKWARD = 'The flex implementation has no double backward: use impl="scatter".'
MIN_WIDTH = 16  # of a head: the kernels multiply matrices of at least as many columns, in powers of two
MAX_PROGRAMS = 256  # sizes of graphs that a process compiles, before torch refuses another one


def attention(
    query: Tensor, key: Tensor, value: Tensor, block_mask: BlockMask, *, scale: float, needs_lse: bool
) -> tuple[Tensor, Tensor | None]:
    """Returns out [num_dst_nodes, num_heads, value_dim], and lse [num_dst_nodes, num_heads] if it is needed.

    Args:
        query: [num_dst_nodes, num_heads, head_dim].
        key: [num_src_nodes, num_key_heads, head_dim].
        value: [num_src_nodes, num_key_heads, value_dim].
        block_mask: the graph's, see `graph.to_block_mask`.
        scale: multiplies the dot products.
        needs_lse: whether the caller wants lse.
    """
    from torch.nn.attention.flex_attention import AuxRequest

    options: dict[str, Any] = {"scale": scale, "enable_gqa": key.shape[1] != query.shape[1], "block_mask": block_mask}
    if needs_lse:
        options["return_aux"] = AuxRequest(lse=True)
    features = query, key, value
    with torch._dynamo.config.patch(recompile_limit=MAX_PROGRAMS):
        made = program()(*(_heads_first(x) for x in features), **options)
    out, lse = (made[0], made[1].lse) if needs_lse else (made, None)
    if out.grad_fn is not None:
        out.grad_fn.register_hook(partial(_once, features))
    out = out.squeeze(0).transpose(0, 1)[..., : value.shape[2]]
    return out, None if lse is None else lse.squeeze(0).t()


@lru_cache
def program() -> Callable[..., Any]:
    """Returns FlexAttention, to be compiled where it is first called with a size; one a process."""
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, fullgraph=True)


def _heads_first(x: Tensor) -> Tensor:
    """[num_nodes, num_heads, dim] → [1, num_heads, num_nodes, width], with zeros added up to a power of two."""
    x, width = x.transpose(0, 1).unsqueeze(0), max(MIN_WIDTH, 1 << (x.shape[2] - 1).bit_length())
    return x if x.shape[3] == width else F.pad(x, (0, width - x.shape[3]))


def _once(
    features: tuple[Tensor, ...], grads: tuple[Tensor, ...], grads_of_out: tuple[Tensor, ...]
) -> tuple[Tensor, ...] | None:
    """Lets the second derivative, which the kernels lack, say what to do."""
    return without_second(grads, features, NO_DOUBLE_BACKWARD) if torch.is_grad_enabled() else None
