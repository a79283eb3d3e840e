"""What is compared on a GPU, each bound to one graph; benchmarks/contenders.py says what the names mean.

    TransformerConv, compiled   the same under torch.compile
    FlexAttention           flex_attention under torch.compile, over `graph.to_block_mask()`
    FlexAttention, table    the same, with a mask_mod that looks all pairs up in a table of booleans
    padded SDPA             here with a bias of every pair, laid out beforehand, in which padding is -inf

Peers get plain tensors and what they need to be quick: static shapes for the compiler, widths that their kernels like.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from contenders import Contender, dense_sdpa
from cuda_cases import FLEX, FLEX_TABLE, PYG, PYG_COMPILED, Tensors
from torch import Tensor

import graphattn as ga
from graphattn.graph import AttentionGraph

FRIENDLY_WIDTH = 8  # rows of a bias that SDPA's kernels take without a copy have a multiple of these numbers


def make_contender(name: str, graph: AttentionGraph, tensors: Tensors) -> Contender:
    """Binds one way of running attention to a graph, on the device of the tensors."""
    if name in ga.ops.IMPLEMENTATIONS:
        return ours(graph, tensors, name)
    return PEERS[name](graph, tensors)


def ours(graph: AttentionGraph, tensors: Tensors, impl: str) -> Contender:
    def call(q: Tensor, k: Tensor, v: Tensor, *others: Tensor) -> Tensor:
        return ga.graph_attention(q, k, v, graph, impl=impl, **terms(tensors, q.shape[1], *others))

    return Contender(leaves_of(tensors), call)


def terms(tensors: Tensors, num_heads: int, *others: Tensor) -> dict[str, Tensor]:
    """Returns what the verb is told of edges, by the leaves after query, key and value."""
    if tensors.weight is not None:
        weight = others[0].unflatten(0, (num_heads, -1))
        assert tensors.edge_attr is not None
        return dict(edge_attr=tensors.edge_attr, edge_key_weight=weight, edge_value_weight=weight)
    return {} if tensors.bias is None else dict(edge_bias=others[0])


def leaves_of(tensors: Tensors) -> tuple[Tensor, ...]:
    return tuple(x.detach().clone().requires_grad_() for x in tensors.leaves)


def transformer_conv(graph: AttentionGraph, tensors: Tensors, *, is_compiled: bool = False) -> Contender:
    from torch_geometric.nn import TransformerConv

    _, num_heads, head_dim = tensors.query.shape
    edge_dim = None if tensors.edge_attr is None else tensors.edge_attr.shape[1]
    conv = TransformerConv(1, head_dim, num_heads, edge_dim=edge_dim, root_weight=False)
    conv = conv.to(tensors.query.device, tensors.query.dtype)
    edge_index, size = graph.edge_index, (graph.num_src_nodes, graph.num_dst_nodes)
    leaves = leaves_of(tensors)
    if tensors.weight is not None:
        with torch.no_grad():
            conv.lin_edge.weight.copy_(tensors.weight)
        leaves = *leaves[:3], conv.lin_edge.weight

    def call(q: Tensor, k: Tensor, v: Tensor, *weight: Tensor) -> Tensor:
        return conv.propagate(edge_index, size=size, query=q, key=k, value=v, edge_attr=tensors.edge_attr)

    return Contender(leaves, torch.compile(call, dynamic=False) if is_compiled else call)


def compiled_transformer_conv(graph: AttentionGraph, tensors: Tensors) -> Contender:
    return transformer_conv(graph, tensors, is_compiled=True)


def flex_attention(graph: AttentionGraph, tensors: Tensors, *, reads_table: bool = False) -> Contender:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    if reads_table:
        table = graph.to_mask()

        def is_edge(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
            return table[q_idx, kv_idx]

        block_mask = create_block_mask(is_edge, None, None, *table.shape, device=table.device)
    else:
        block_mask = graph.to_block_mask()
    attend = torch.compile(flex_attention, dynamic=False)

    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attend(q[None], k[None], v[None], block_mask=block_mask)[0]

    return Contender(_heads_first(tensors), call, heads_first=True)


def flex_attention_by_table(graph: AttentionGraph, tensors: Tensors) -> Contender:
    return flex_attention(graph, tensors, reads_table=True)


def dense(graph: AttentionGraph, tensors: Tensors) -> Contender:
    return dense_sdpa(graph, (tensors.query, tensors.key, tensors.value))


def _heads_first(tensors: Tensors) -> tuple[Tensor, ...]:
    return tuple(x.detach().transpose(0, 1).contiguous().requires_grad_() for x in tensors.leaves)


def padded_sdpa(graph: AttentionGraph, tensors: Tensors) -> Contender:
    assert tensors.bias is not None
    sizes = torch.diff(graph.src_ptr)
    batch, place = ga.graph.ragged_range(sizes)
    num_graphs, longest = sizes.numel(), -(-int(sizes.max()) // FRIENDLY_WIDTH) * FRIENDLY_WIDTH
    row = batch * longest + place
    src, dst = graph.edge_index
    at = batch[dst], slice(None), place[dst], place[src]
    is_padding = (torch.arange(longest, device=sizes.device) >= sizes[:, None])[:, None, None]
    laid_out = tensors.bias.new_zeros(num_graphs, tensors.bias.shape[1], longest, longest)
    laid_out[at] = tensors.bias
    laid_out.masked_fill_(is_padding, -torch.inf)
    q, k, v, _ = leaves_of(tensors)

    def pad(x: Tensor) -> Tensor:
        empty = x.new_zeros(num_graphs * longest, *x.shape[1:])
        return empty.index_copy(0, row, x).view(num_graphs, longest, *x.shape[1:]).transpose(1, 2)

    def call(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        out = F.scaled_dot_product_attention(pad(q), pad(k), pad(v), attn_mask=bias)
        return out.transpose(1, 2).flatten(0, 1)[row]

    return Contender((q, k, v, laid_out.requires_grad_()), call, of_edges=lambda grad: grad[at])


PEERS: dict[str, Callable[[AttentionGraph, Tensors], Contender]] = {
    PYG: transformer_conv,
    PYG_COMPILED: compiled_transformer_conv,
    FLEX: flex_attention,
    FLEX_TABLE: flex_attention_by_table,
    "dense SDPA": dense,
    "padded SDPA": padded_sdpa,
}


def specification(graph: AttentionGraph, tensors: Tensors) -> list[Tensor]:
    """Returns what is right of the rounded numbers, output and gradients of the leaves: `scatter` in float32, one head
    at a time, which is far more exact than any bfloat16; tests/ops/test_cuda.py holds it equal to the specification."""
    num_heads, head_dim = tensors.query.shape[1:]
    per_head = []
    for head in range(num_heads):
        own = slice(head * head_dim, (head + 1) * head_dim)
        parts = [x[:, head : head + 1] for x in tensors[:3]]
        parts += [tensors.weight[own]] if tensors.weight is not None else []
        parts += [tensors.bias[:, head : head + 1]] if tensors.bias is not None else []
        leaves = tuple(x.detach().float().requires_grad_() for x in parts)
        wide = tensors._replace(edge_attr=None if tensors.edge_attr is None else tensors.edge_attr.float())
        out = ga.graph_attention(*leaves[:3], graph, impl="scatter", **terms(wide, 1, *leaves[3:]))
        grads = torch.autograd.grad(out, leaves, tensors.grad_out[:, head : head + 1].float())
        per_head.append([out.detach(), *grads])
    by_weight = 4 if tensors.weight is not None else -1
    return [torch.cat(parts, 0 if place == by_weight else 1) for place, parts in enumerate(zip(*per_head, strict=True))]


def error(contender: Contender, tensors: Tensors, expected: list[Tensor]) -> float:
    """Returns the largest ‖got − right‖ / ‖right‖ of the output and the gradients; NaN where a number is none."""
    results = list(contender.both(contender.laid_out(tensors.grad_out)))
    if contender.of_edges is not None:
        results[-1] = contender.of_edges(results[-1])
    gaps = []
    for got, right in zip(results, expected, strict=True):
        got = got.transpose(0, 1) if contender.heads_first else got
        gaps.append(float((got.float() - right).norm() / right.norm()))
    return max(gaps) if all(gap == gap for gap in gaps) else float("nan")
