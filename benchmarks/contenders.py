"""What is compared: our implementations and what a user would take instead, each bound to one graph.

Peers get equal work: query, key and value are given, and nothing but attention is timed. What depends on the graph
alone (masks, indices, padding) is prepared beforehand. "… layer" contenders are whole layers with their projections,
compared with ours rather than with the bare operation.

    auto, dense, scatter, gather, blocks, fused, sdpa, flex   graph_attention(impl=…); "scatter" runs torch-scatter's
                            kernels where it is installed, torch's elsewhere; "flex" needs a GPU
    torch-scatter           gather by index_select, torch_scatter's softmax, its sum over sorted segments
    TransformerConv         PyG's layer without its projections: `propagate` on query, key and value, over a sorted
                            EdgeIndex
    GATConv                 PyG's layer without its projection: values, and a score that is a sum of a source's and a
                            target's part. Another and cheaper function, a yardstick
    dense SDPA              scaled_dot_product_attention over all pairs, without a mask (on a CPU its flash kernel).
                            Another function, a yardstick
    materialised SDPA       the same under SDPBackend.MATH, which holds the weights of all pairs
    masked SDPA             the same over all pairs with the graph as a mask: the very function
    padded SDPA             index_copy into a padded batch, masked SDPA, gather back; for batches of full graphs
    gathered SDPA           index_select of the sources that all targets read, SDPA; for sampled sources
    torch.sparse            per head: torch.sparse.sampled_addmm, torch.sparse.softmax, torch.sparse.sum, differentiated
                            by torch. (torch.sparse.mm is faster forwards, but its gradient for the sparse operand goes
                            through all pairs, 16 GiB for 65,536 nodes.)
    torch.sparse, own backward   the same with torch.mm on CSR, in an autograd.Function that knows the gradient: three
                            more products and two sampled_addmm per head. Nothing stock about it but its parts
    GraphAttention layer    ours without output projection, which PyG's layers do not have, and without biases
    TransformerConv layer   PyG's with the same weights, without root weight and biases
    GATConv layer           PyG's with one projection where the others have three, without self loops; a yardstick
"""

import warnings
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import graphattn as ga
from graphattn.graph import AttentionGraph
from graphattn.ops.segment import installed_torch_scatter

Inputs = tuple[Tensor, Tensor, Tensor]
OURS = ("auto", *ga.ops.IMPLEMENTATIONS)
MAX_DENSE_PAIRS = 2**26
TOLERANCE = 1e-4


class Contender(NamedTuple):
    """What is timed: `call(*leaves)`, and the gradient of `leaves`."""

    leaves: tuple[Tensor, ...]  # query, key, value [num_nodes, num_heads, dim] where nothing else is said
    call: Callable[..., Tensor]
    heads_first: bool = False  # leaves and output are [num_heads, num_nodes, dim]
    over: str = "auto"  # which of ours it is compared with
    is_yardstick: bool = False  # another function, so there is nothing to be equal to
    of_edges: Callable[[Tensor], Tensor] | None = None  # finds the edges' rows in the last gradient, laid out otherwise

    def forward(self) -> Tensor:
        with torch.no_grad():
            return self.call(*self.leaves)

    def both(self, grad_out: Tensor) -> tuple[Tensor, ...]:
        """Returns the output and the gradients; `grad_out` is in the layout of the output."""
        out = self.call(*self.leaves)
        return out.detach(), *torch.autograd.grad(out, self.leaves, grad_out)

    def laid_out(self, grad_out: Tensor) -> Tensor:
        return grad_out.transpose(0, 1).contiguous() if self.heads_first else grad_out


def is_available(name: str) -> bool:
    return name != "torch-scatter" or installed_torch_scatter() is not None


def make_contender(name: str, graph: AttentionGraph, inputs: Inputs) -> Contender:
    """Binds one way of running attention to a graph."""
    if name in OURS:
        return Contender(leaves_of(inputs), partial(_ours, graph, name))
    return PEERS[name](graph, inputs)


def _ours(graph: AttentionGraph, impl: str, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return ga.graph_attention(q, k, v, graph, impl=impl)


def leaves_of(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(x.detach().clone().requires_grad_() for x in tensors)


def torch_scatter(graph: AttentionGraph, inputs: Inputs) -> Contender:
    kernels = installed_torch_scatter()
    assert kernels is not None, "torch-scatter is not installed: make scatter"
    plan = graph.enumerate().plan()

    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = (q.index_select(0, plan.dst) * k.index_select(0, plan.src)).sum(-1) / q.shape[-1] ** 0.5
        alpha = kernels.composite.scatter_softmax(scores, plan.dst, 0, graph.num_dst_nodes)
        return kernels.segment_csr(alpha[..., None] * v.index_select(0, plan.src), plan.target_ptr, reduce="sum")

    return Contender(leaves_of(inputs), call)


def transformer_conv(graph: AttentionGraph, inputs: Inputs) -> Contender:
    from torch_geometric.nn import TransformerConv

    _, num_heads, head_dim = inputs[0].shape
    conv, edge_index = TransformerConv(1, head_dim, num_heads, root_weight=False), graph.to_edge_index()

    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return conv.propagate(edge_index, query=q, key=k, value=v, edge_attr=None)  # as its forward does

    return Contender(leaves_of(inputs), call)


def gat_conv(graph: AttentionGraph, inputs: Inputs) -> Contender:
    from torch_geometric.nn import GATConv

    _, num_heads, head_dim = inputs[0].shape
    conv = GATConv(num_heads * head_dim, head_dim, num_heads, add_self_loops=False, bias=False)
    conv.lin = nn.Identity()
    edge_index = graph.to_edge_index()

    def call(value: Tensor, of_source: Tensor, of_target: Tensor) -> Tensor:
        return conv(value.flatten(1), edge_index).unflatten(1, (num_heads, head_dim))

    # its parameters are what the gradient is taken of
    return Contender((*leaves_of(inputs[2:]), conv.att_src, conv.att_dst), call, is_yardstick=True)


def dense_sdpa(graph: AttentionGraph, inputs: Inputs, *, is_materialised: bool = False) -> Contender:
    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with sdpa_kernel(SDPBackend.MATH) if is_materialised else nullcontext():
            return F.scaled_dot_product_attention(q[None], k[None], v[None])[0]

    return Contender(_heads_first(inputs), call, heads_first=True, is_yardstick=True)


def masked_sdpa(graph: AttentionGraph, inputs: Inputs) -> Contender:
    mask = graph.to_mask()

    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q[None], k[None], v[None], attn_mask=mask)[0]

    return Contender(_heads_first(inputs), call, heads_first=True)


def padded_sdpa(graph: AttentionGraph, inputs: Inputs) -> Contender:
    sizes = torch.diff(graph.src_ptr)
    batch, place = ga.graph.ragged_range(sizes)
    num_graphs, longest = sizes.numel(), int(sizes.max())
    row = batch * longest + place
    mask = (torch.arange(longest) < sizes[:, None])[:, None, None] if int(sizes.min()) < longest else None

    def pad(x: Tensor) -> Tensor:
        empty = x.new_zeros(num_graphs * longest, *x.shape[1:])
        return empty.index_copy(0, row, x).view(num_graphs, longest, *x.shape[1:]).transpose(1, 2)

    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = F.scaled_dot_product_attention(pad(q), pad(k), pad(v), attn_mask=mask)
        return out.transpose(1, 2).flatten(0, 1)[row]

    return Contender(leaves_of(inputs), call)


def gathered_sdpa(graph: AttentionGraph, inputs: Inputs) -> Contender:
    assert graph.blocks is not None and graph.blocks.num_blocks == 1
    kept = graph.blocks.src

    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q[None], k.index_select(1, kept)[None], v.index_select(1, kept)[None])[0]

    return Contender(_heads_first(inputs), call, heads_first=True)


def torch_sparse(graph: AttentionGraph, inputs: Inputs) -> Contender:
    plan, head_dim = graph.enumerate().plan(), inputs[0].shape[2]
    size = graph.num_dst_nodes, graph.num_src_nodes
    pairs = torch.stack([plan.dst, plan.src])
    zeros = _csr(plan.target_ptr, plan.src, torch.zeros(graph.num_edges), size)

    def of_head(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = torch.sparse.sampled_addmm(zeros, q, k.t(), beta=0.0, alpha=head_dim**-0.5).values()
        rows = torch.sparse_coo_tensor(pairs, scores, size, is_coalesced=True, check_invariants=False)
        alpha = torch.sparse.softmax(rows, 1).coalesce().values()
        message = alpha[:, None] * v.index_select(0, plan.src)
        rows = torch.sparse_coo_tensor(pairs, message, (*size, head_dim), is_coalesced=True, check_invariants=False)
        return torch.sparse.sum(rows, 1).to_dense()

    return Contender(_heads_first(inputs), partial(_each_head, of_head), heads_first=True)


def torch_sparse_own_backward(graph: AttentionGraph, inputs: Inputs) -> Contender:
    plan, scale = graph.enumerate().plan(), inputs[0].shape[2] ** -0.5
    size = graph.num_dst_nodes, graph.num_src_nodes
    pairs = torch.stack([plan.dst, plan.src])
    order, target_of_order = plan.source_order, plan.dst[plan.source_order]
    zeros = _csr(plan.target_ptr, plan.src, torch.zeros(graph.num_edges), size)

    def rows(values: Tensor) -> Tensor:
        return _csr(plan.target_ptr, plan.src, values, size)

    def columns(values: Tensor) -> Tensor:
        return _csr(plan.source_ptr, target_of_order, values[order], size[::-1])

    class Attention(torch.autograd.Function):
        @staticmethod
        def forward(ctx, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            scores = torch.sparse.sampled_addmm(zeros, q, k.t(), beta=0.0, alpha=scale).values()
            alpha = torch.sparse.softmax(
                torch.sparse_coo_tensor(pairs, scores, size, is_coalesced=True, check_invariants=False), 1
            )._values()
            out = torch.mm(rows(alpha), v)
            ctx.save_for_backward(q, k, v, alpha, out)
            return out

        @staticmethod
        def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
            q, k, v, alpha, out = ctx.saved_tensors
            of_alpha = torch.sparse.sampled_addmm(zeros, grad, v.t(), beta=0.0).values()
            of_scores = alpha * (of_alpha - (grad * out).sum(-1).index_select(0, plan.dst)) * scale
            of_key, of_value = torch.mm(columns(of_scores), q), torch.mm(columns(alpha), grad)
            return torch.mm(rows(of_scores), k), of_key, of_value

    return Contender(_heads_first(inputs), partial(_each_head, Attention.apply), heads_first=True)


def _each_head(of_head: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.stack([of_head(*head) for head in zip(q, k, v, strict=True)])


def _csr(ptr: Tensor, index: Tensor, values: Tensor, size: tuple[int, int]) -> Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(ptr, index, values, size, check_invariants=False)


def _heads_first(inputs: Inputs) -> tuple[Tensor, ...]:
    return leaves_of(tuple(x.transpose(0, 1).contiguous() for x in inputs))


def graph_attention_layer(graph: AttentionGraph, inputs: Inputs) -> Contender:
    layer = _our_layer(inputs)

    def call(x: Tensor, *weights: Tensor) -> Tensor:
        return layer(x, graph).view_as(inputs[0])

    weights = layer.score.query_proj.weight, layer.score.key_proj.weight, layer.value_proj.weight
    return Contender((_x(inputs), *weights), call, over="GraphAttention layer")


def transformer_conv_layer(graph: AttentionGraph, inputs: Inputs) -> Contender:
    from torch_geometric.nn import TransformerConv

    _, num_heads, head_dim = inputs[0].shape
    conv = TransformerConv(num_heads * head_dim, head_dim, num_heads, bias=False, root_weight=False)
    layer, edge_index = _our_layer(inputs), graph.to_edge_index()
    parts = conv.lin_query, conv.lin_key, conv.lin_value
    for theirs, ours in zip(parts, (layer.score.query_proj, layer.score.key_proj, layer.value_proj), strict=True):
        theirs.load_state_dict(ours.state_dict())

    def call(x: Tensor, *weights: Tensor) -> Tensor:
        return conv(x, edge_index).view_as(inputs[0])

    return Contender((_x(inputs), *(part.weight for part in parts)), call, over="GraphAttention layer")


def gat_conv_layer(graph: AttentionGraph, inputs: Inputs) -> Contender:
    from torch_geometric.nn import GATConv

    _, num_heads, head_dim = inputs[0].shape
    conv = GATConv(num_heads * head_dim, head_dim, num_heads, add_self_loops=False, bias=False)
    edge_index = graph.to_edge_index()

    def call(x: Tensor, *weights: Tensor) -> Tensor:
        return conv(x, edge_index).view_as(inputs[0])

    return Contender((_x(inputs), *conv.parameters()), call, over="GraphAttention layer", is_yardstick=True)


def _our_layer(inputs: Inputs) -> nn.Module:
    _, num_heads, head_dim = inputs[0].shape
    torch.manual_seed(0)
    layer = ga.nn.GraphAttention(num_heads * head_dim, num_heads, bias=False)
    layer.out_proj = nn.Identity()
    return layer


def _x(inputs: Inputs) -> Tensor:
    return inputs[0].flatten(1).clone().requires_grad_()


PEERS: dict[str, Callable[[AttentionGraph, Inputs], Contender]] = {
    "torch-scatter": torch_scatter,
    "TransformerConv": transformer_conv,
    "GATConv": gat_conv,
    "dense SDPA": dense_sdpa,
    "materialised SDPA": partial(dense_sdpa, is_materialised=True),
    "masked SDPA": masked_sdpa,
    "padded SDPA": padded_sdpa,
    "gathered SDPA": gathered_sdpa,
    "torch.sparse": torch_sparse,
    "torch.sparse, own backward": torch_sparse_own_backward,
    "GraphAttention layer": graph_attention_layer,
    "TransformerConv layer": transformer_conv_layer,
    "GATConv layer": gat_conv_layer,
}


def specification(graph: AttentionGraph, inputs: Inputs, grad_out: Tensor) -> list[Tensor]:
    """Returns what is right: the output and the gradients of query, key and value, one head at a time.

    By `dense` where one head's pairs fit; else by `scatter` in float64, which benchmarks/exactness.py holds equal to
    `dense`.
    """
    fits = graph.num_dst_nodes * graph.num_src_nodes <= MAX_DENSE_PAIRS
    impl, dtype = ("dense", grad_out.dtype) if fits else ("scatter", torch.float64)
    per_head = []
    for head in range(grad_out.shape[1]):
        leaves = leaves_of(tuple(x[:, head : head + 1].to(dtype) for x in inputs))
        out = ga.graph_attention(*leaves, graph, impl=impl)
        grads = torch.autograd.grad(out, leaves, grad_out[:, head : head + 1].to(dtype))
        per_head.append([x.to(grad_out.dtype) for x in (out.detach(), *grads)])
    return [torch.cat(parts, 1) for parts in zip(*per_head, strict=True)]


def check(name: str, contender: Contender, grad_out: Tensor, expected: list[Tensor]) -> None:
    """Refuses to time what is not right: `expected` is laid out as the contender's own output and gradients."""
    results = contender.both(contender.laid_out(grad_out))
    if contender.is_yardstick:
        assert all(bool(result.isfinite().all()) for result in results)
        return
    for place, (got, want) in enumerate(zip(results, expected, strict=True)):
        gap = float((got - contender.laid_out(want)).abs().max() / want.abs().max().clamp(min=1e-30))
        if not gap < TOLERANCE:
            what = "the output" if place == 0 else f"the gradient of leaf {place - 1}"
            raise SystemExit(f"{name} differs in {what} by {gap:.2g} of its largest value; not timed")
