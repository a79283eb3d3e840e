"""The layer of the Edge-augmented Graph Transformer against a loop over nodes, and against torch's attention."""

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.testing import assert_close

from graphattn.connectivity import full
from graphattn.graph import AttentionGraph
from graphattn.nn import EGTLayer
from graphattn.nn.egt import ACTIVATIONS
from graphattn.ops._dispatch import Sizes, reason_against
from graphattn.selection import SubsampleSources
from graphattn.viz import record
from tests.ops.graphs import GRAPHS, ON_CPU, edges

NUM_NODES, EMBED_DIM, NUM_HEADS, EDGE_DIM = 11, 15, 3, 7
HEAD_DIM = EMBED_DIM // NUM_HEADS
EXACT = {"atol": 1e-10, "rtol": 1e-10}
SIZES = Sizes(NUM_HEADS, HEAD_DIM, HEAD_DIM, torch.float64, torch.device("cpu"))
SQUARE = [name for name, graph in GRAPHS.items() if graph.is_square and graph.head_mask is None]
VIRTUAL = torch.arange(NUM_NODES) % 4 == 3


def layer_of(**options: Any) -> EGTLayer:
    torch.manual_seed(0)
    layer = EGTLayer(EMBED_DIM, NUM_HEADS, EDGE_DIM, **options).double()
    with torch.no_grad():
        for parameter in layer.parameters():  # norms start at one and zero, which would hide a mistake
            parameter.add_(0.2 * torch.randn_like(parameter))
        layer.score.query_proj.weight *= 4  # so that the clip is met
    return layer


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


def inputs_of(graph: AttentionGraph) -> tuple[Tensor, Tensor]:
    return drawn(graph.num_dst_nodes, EMBED_DIM).requires_grad_(), drawn(graph.num_edges, EDGE_DIM).requires_grad_()


def norm_of(module: nn.LayerNorm, x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + module.eps).sqrt() * module.weight + module.bias


def linear(module: nn.Linear, x: Tensor) -> Tensor:
    return x @ module.weight.T + module.bias


def feed_forward(module: nn.Sequential, x: Tensor) -> Tensor:
    hidden = linear(module[1], norm_of(module[0], x))
    if isinstance(module[2], nn.ELU):
        hidden = torch.where(hidden > 0, hidden, hidden.clamp(max=0).exp() - 1)
    else:
        hidden = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
    return linear(module[3], hidden)


def by_loop(
    layer: EGTLayer,
    x: Tensor,
    edge_attr: Tensor,
    graph: AttentionGraph,
    sampled: AttentionGraph | None = None,
    is_virtual: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Node by node, head by head and edge by edge, with the layer's own weights."""
    h, e = norm_of(layer.norm, x), norm_of(layer.edge_norm, edge_attr)
    query, key = linear(layer.score.query_proj, h), linear(layer.score.key_proj, h)
    value, bias = linear(layer.value_proj, h), linear(layer.edge.bias_proj, e)
    gate = 1 / (1 + (-linear(layer.edge.gate_proj, e)).exp())
    of_pair = {pair: edge for edge, pair in enumerate(map(tuple, graph.edge_index.T.tolist()))}
    read = graph if sampled is None else sampled
    is_read = {tuple(pair) for pair in read.edge_index.T.tolist()}

    def logit(src: int, dst: int, head: int) -> Tensor:
        mine = slice(head * HEAD_DIM, (head + 1) * HEAD_DIM)
        product = (query[dst, mine] * key[src, mine]).sum() / HEAD_DIM**0.5
        product = product if layer.logit_clip is None else product.clamp(-layer.logit_clip, layer.logit_clip)
        return product + bias[of_pair[src, dst], head]

    rows = []
    for dst in range(graph.num_dst_nodes):
        heads = []
        for head in range(NUM_HEADS):
            sources = [src for src in range(graph.num_src_nodes) if (src, dst) in is_read]
            out = torch.zeros(HEAD_DIM, dtype=x.dtype) * x.sum()
            if sources:
                alpha = torch.stack([logit(src, dst, head) for src in sources]).softmax(0)
                gates = torch.stack([gate[of_pair[src, dst], head] for src in sources])
                values = value[sources, head * HEAD_DIM : (head + 1) * HEAD_DIM]
                out = ((alpha * gates)[:, None] * values).sum(0)
                if layer.scale_degree and not (is_virtual is not None and is_virtual[dst]):
                    out = out * (1 + gates.sum()).log()
            elif layer.scale_degree:
                out = out * 0.0
            heads.append(out)
        rows.append(torch.cat(heads))
    x = x + linear(layer.out_proj, torch.stack(rows) if rows else x * 0)
    x = x + feed_forward(layer.ffn, x)
    if not layer.update_edges:
        return x, edge_attr
    logits = [torch.stack([logit(src, dst, head) for head in range(NUM_HEADS)]) for src, dst in of_pair]
    raw = torch.stack(logits) if logits else torch.zeros(0, NUM_HEADS, dtype=x.dtype)
    edge_attr = edge_attr + linear(layer.edge_out_proj, raw)
    return x, edge_attr + feed_forward(layer.edge_ffn, edge_attr)


def results(
    layer: EGTLayer, out: tuple[Tensor, Tensor], inputs: tuple[Tensor, Tensor]
) -> tuple[list[Tensor], tuple[Tensor, ...]]:
    """Outputs, and the gradients of both inputs and all parameters."""
    wanted = [*inputs, *layer.parameters()]
    loss = sum((each * torch.linspace(0.5, 2.0, each.numel()).view_as(each)).sum() for each in out)
    return list(out), torch.autograd.grad(loss, wanted, materialize_grads=True)


def assert_same(layer: EGTLayer, graph: AttentionGraph, **options: Any) -> None:
    inputs = inputs_of(graph)
    ours = results(layer, layer(*inputs, graph, **options), inputs)
    expected = results(layer, by_loop(layer, *inputs, graph, **options), inputs)
    assert_close(ours[0], expected[0], **EXACT)
    assert_close(ours[1], expected[1], **EXACT)


def rows_through(module: nn.Module) -> list[int]:
    seen: list[int] = []
    module.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].shape[0]))
    return seen


# --- what it computes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SQUARE)
def test_it_equals_a_loop_in_output_and_every_gradient(name: str) -> None:
    graph = GRAPHS[name]
    is_virtual = VIRTUAL if graph.num_dst_nodes == NUM_NODES else None
    assert_same(layer_of(), graph, is_virtual=is_virtual)


@pytest.mark.parametrize("impl", ON_CPU)
@pytest.mark.parametrize("name", ["full", "window", "lonely nodes", "ragged batch", "blocks and edges"])
def test_every_implementation_that_can_serves_it(name: str, impl: str) -> None:
    graph, layer = GRAPHS[name], layer_of(impl=impl)
    if (reason := reason_against(impl, graph, SIZES, reads_edges=True)) is not None:
        with pytest.raises(ValueError, match=re.escape(reason)):
            layer(*inputs_of(graph), graph)
    else:
        assert_same(layer, graph)


@pytest.mark.parametrize(
    "options",
    [
        {"update_edges": False},
        {"logit_clip": None},
        {"logit_clip": 0.5},
        {"scale_degree": False},
        {"activation": "gelu"},
        {"ffn_ratio": 2.0, "edge_ffn_ratio": 0.5},
    ],
    ids=str,
)
def test_each_option_is_what_it_says(options: dict[str, Any]) -> None:
    assert_same(layer_of(**options), GRAPHS["lonely nodes"], is_virtual=VIRTUAL)


def test_the_clip_is_met_and_leaves_the_bias_alone() -> None:
    graph, layer = GRAPHS["window"], layer_of(logit_clip=0.5)
    inputs = inputs_of(graph)
    assert not torch.allclose(layer(*inputs, graph)[0], layer_of(logit_clip=None)(*inputs, graph)[0])
    with torch.no_grad():
        layer.edge_out_proj.weight.zero_()
        layer.edge_out_proj.weight[:NUM_HEADS] = torch.eye(NUM_HEADS)
        layer.edge_out_proj.bias.zero_()
        layer.edge_ffn[3].weight.zero_()
        layer.edge_ffn[3].bias.zero_()
    raw = (layer(*inputs, graph)[1] - inputs[1])[:, :NUM_HEADS]
    product = raw - layer.edge.bias_proj(layer.edge_norm(inputs[1]))
    assert_close(product.abs().max(), torch.tensor(0.5).double(), **EXACT)
    assert float(raw.abs().max().detach()) > 0.6


@pytest.mark.parametrize("update_edges", [True, False])
@pytest.mark.parametrize("name", ["full", "ragged batch", "lonely nodes", "blocks and edges"])
@pytest.mark.parametrize("count", [1, 3])
def test_sampled_sources_are_read_while_every_edge_is_updated(name: str, count: int, update_edges: bool) -> None:
    graph = GRAPHS[name]
    sampled = SubsampleSources(count).draw(graph, generator=torch.Generator().manual_seed(1))
    assert 0 < sampled.num_edges < graph.num_edges
    assert_same(layer_of(update_edges=update_edges), graph, sampled=sampled, is_virtual=VIRTUAL)


def test_a_graph_sampled_whole_is_the_graph() -> None:
    graph, layer = GRAPHS["ragged batch"], layer_of()
    inputs = inputs_of(graph)
    same = AttentionGraph(graph.edge_index, NUM_NODES)
    assert same is not graph
    assert_close(layer(*inputs, graph, sampled=same), layer(*inputs, graph), **EXACT)


def test_only_sampled_sources_are_projected() -> None:
    graph = full(NUM_NODES)
    sampled = graph.keep_sources(torch.arange(NUM_NODES) % 4 == 0).enumerate()
    for update_edges, num_keys in ((True, NUM_NODES), (False, 3)):
        layer = layer_of(update_edges=update_edges)
        keys, values = rows_through(layer.score.key_proj), rows_through(layer.value_proj)
        layer(*inputs_of(graph), graph, sampled=sampled)
        assert (keys, values) == ([num_keys], [3])


def test_with_open_gates_no_bias_clip_or_scale_it_is_torchs_attention() -> None:
    graph, layer = full(NUM_NODES), layer_of(logit_clip=None, scale_degree=False, update_edges=False)
    with torch.no_grad():
        for projection, constant in ((layer.edge.bias_proj, 0.0), (layer.edge.gate_proj, 40.0)):
            projection.weight.zero_()
            projection.bias.fill_(constant)
        layer.ffn[3].weight.zero_()
        layer.ffn[3].bias.zero_()
    x, edge_attr = inputs_of(graph)
    h = layer.norm(x)
    heads = [each.view(NUM_NODES, NUM_HEADS, HEAD_DIM).transpose(0, 1) for each in (
        layer.score.query_proj(h), layer.score.key_proj(h), layer.value_proj(h)
    )]  # fmt: skip
    out = functional.scaled_dot_product_attention(*heads).transpose(0, 1).flatten(1)
    expected = x + layer.out_proj(out)
    ours = layer(x, edge_attr, graph)[0]
    assert_close(ours, expected, **EXACT)
    slope = torch.linspace(0.5, 2.0, ours.numel()).view_as(ours)
    assert_close(*(torch.autograd.grad((each * slope).sum(), x)[0] for each in (ours, expected)), **EXACT)


def test_weights_in_the_layout_of_the_authors_serve_after_the_stated_permutation() -> None:
    """A dense layer as theirs, whose heads are the fastest axis, over all pairs."""
    graph = full(NUM_NODES)
    x, edge_attr = inputs_of(graph)
    layer = layer_of(update_edges=False)
    joint, joint_bias = drawn(3 * EMBED_DIM, EMBED_DIM), drawn(3 * EMBED_DIM)
    out_weight = drawn(EMBED_DIM, EMBED_DIM)

    def ours(theirs: Tensor) -> Tensor:
        return theirs.unflatten(0, (3, HEAD_DIM, NUM_HEADS)).transpose(1, 2).flatten(1, 2)

    with torch.no_grad():
        for number, module in enumerate((layer.score.query_proj, layer.score.key_proj, layer.value_proj)):
            module.weight.copy_(ours(joint)[number])
            module.bias.copy_(ours(joint_bias)[number])
        layer.out_proj.weight.copy_(out_weight.unflatten(1, (HEAD_DIM, NUM_HEADS)).transpose(1, 2).flatten(1))

    h, e = layer.norm(x), layer.edge_norm(edge_attr).view(NUM_NODES, NUM_NODES, EDGE_DIM)  # targets first
    query, key, value = (h @ joint.T + joint_bias).view(NUM_NODES, 3 * HEAD_DIM, NUM_HEADS).split(HEAD_DIM, 1)
    scores = torch.einsum("idh,jdh->ijh", query, key) / HEAD_DIM**0.5
    scores = scores.clamp(-5, 5) + layer.edge.bias_proj(e)
    gates = layer.edge.gate_proj(e).sigmoid()
    out = torch.einsum("ijh,jdh->idh", scores.softmax(1) * gates, value) * (1 + gates.sum(1)).log()[:, None]
    expected = x + out.flatten(1) @ out_weight.T + layer.out_proj.bias
    assert_close(layer(x, edge_attr, graph)[0], expected + layer.ffn(expected), **EXACT)


# --- corners -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("update_edges", [True, False])
def test_every_parameter_receives_a_gradient(update_edges: bool) -> None:
    layer, graph = layer_of(update_edges=update_edges), GRAPHS["window"]
    sum(each.square().sum() for each in layer(*inputs_of(graph), graph)).backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None and bool(parameter.grad.isfinite().all()), name
        # unless edges take it up, one number more on all logits of a target changes no softmax
        is_blind = not update_edges and name == "edge.bias_proj.bias"
        assert is_blind or float(parameter.grad.abs().max()) > 1e-10 or name == "score.key_proj.bias", name


def test_without_an_update_the_edge_state_is_handed_on_as_it_came() -> None:
    layer, graph = layer_of(update_edges=False), GRAPHS["window"]
    x, edge_attr = inputs_of(graph)
    assert layer(x, edge_attr, graph)[1] is edge_attr
    assert not any(name.startswith(("edge_ffn", "edge_out_proj")) for name, _ in layer.named_parameters())


def test_a_node_that_reads_nobody_keeps_a_finite_state() -> None:
    graph, layer = GRAPHS["no edges"], layer_of()
    x, edge_attr = inputs_of(graph)
    out, edges_out = layer(x, edge_attr, graph, is_virtual=VIRTUAL)
    assert edges_out.shape == (0, EDGE_DIM)
    assert_close(out, (y := x + layer.out_proj.bias) + layer.ffn(y), **EXACT)


def test_dropouts_act_in_training_only() -> None:
    graph = GRAPHS["window"]
    inputs = inputs_of(graph)
    for name in ("dropout_p", "edge_dropout_p", "attention_dropout_p"):
        layer = layer_of(**{name: 0.5})
        first, second = layer(*inputs, graph), layer(*inputs, graph)
        differs = [not torch.equal(a, b) for a, b in zip(first, second, strict=True)]
        assert differs == [name != "edge_dropout_p", name == "edge_dropout_p"]
        assert_close(layer.eval()(*inputs, graph), by_loop(layer, *inputs, graph), **EXACT)


def test_a_head_gate_of_zero_silences_a_head() -> None:
    graph, layer = GRAPHS["window"], layer_of()
    inputs, gate = inputs_of(graph), torch.tensor([1.0, 0.0, 1.0]).double()
    ours = layer(*inputs, graph, head_gate=gate)[0]
    with torch.no_grad():
        layer.out_proj.weight[:, HEAD_DIM : 2 * HEAD_DIM] = 0
    assert_close(ours, layer(*inputs, graph)[0], **EXACT)


def test_a_recording_holds_its_weights_and_changes_nothing() -> None:
    graph, layer = full(NUM_NODES), layer_of().eval()
    sampled = graph.keep_sources(torch.arange(NUM_NODES) % 4 == 0).enumerate()
    inputs = inputs_of(graph)
    with record(layer) as recording:
        out = layer(*inputs, graph, sampled=sampled)
    assert_close(out, layer(*inputs, graph, sampled=sampled), **EXACT)
    assert recording.alphas()[0].shape == (sampled.num_edges, NUM_HEADS)
    assert recording.steps[0].graph.num_src_nodes == NUM_NODES


def test_it_compiles_whole_and_once() -> None:
    import torch._dynamo

    torch._dynamo.reset()
    layer = layer_of().float()
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    for number in range(4):
        size = 23 + 3 * number
        graph = full(size).enumerate()
        sampled = graph.keep_sources(torch.arange(size) % 4 == 0)
        graph.plan(), sampled.plan()
        inputs = drawn(size, EMBED_DIM).float(), drawn(graph.num_edges, EDGE_DIM).float()
        with torch._dynamo.config.patch(error_on_recompile=number > 1):
            ours = compiled(*inputs, graph, sampled=sampled)
        assert_close(ours, layer(*inputs, graph, sampled=sampled), rtol=1e-4, atol=1e-4)
    torch._dynamo.reset()


def test_half_precision_stays_close() -> None:
    graph, layer = GRAPHS["window"], layer_of().eval()
    inputs = inputs_of(graph)
    expected = layer(*inputs, graph)
    ours = layer.bfloat16()(*(each.bfloat16() for each in inputs), graph)
    for mine, theirs in zip(ours, expected, strict=True):
        assert mine.dtype == torch.bfloat16
        assert_close(mine.double(), theirs, rtol=0.1, atol=0.25)


def call(**changes: Any) -> object:
    layer, graph = layer_of(), GRAPHS["lonely nodes"]
    x, edge_attr = inputs_of(graph)
    given = {"x": x, "edge_attr": edge_attr, "graph": graph} | changes
    return layer(given.pop("x"), given.pop("edge_attr"), given.pop("graph"), **given)


@pytest.mark.parametrize(
    "make, error, advice",
    [
        (lambda: EGTLayer(10, 3, 4), ValueError, "num_heads must divide embed_dim, got 3 heads for width 10"),
        (lambda: EGTLayer(10, 0, 4), ValueError, "num_heads must be at least 1, got 0"),
        (lambda: EGTLayer(10, 2, 0), ValueError, "edge_dim must be at least 1, got 0"),
        (lambda: EGTLayer(10, 2, 4, edge_dropout_p=2), ValueError, "edge_dropout_p must lie in [0, 1], got 2"),
        (lambda: EGTLayer(10, 2, 4, logit_clip=0), ValueError, "logit_clip must be positive, got 0. None leaves"),
        (lambda: EGTLayer(10, 2, 4, ffn_ratio=0), ValueError, "ffn_ratio must be positive, got 0"),
        (lambda: EGTLayer(10, 2, 4, activation="relu"), ValueError, "must be one of elu, gelu, got 'relu'"),
        (lambda: call(x=drawn(11, 14)), ValueError, "x must have shape [11, 15], got [11, 14]. Give each node"),
        (lambda: call(edge_attr=drawn(3, 7)), ValueError, "edge_attr must have shape [29, 7], got [3, 7]. Give"),
        (lambda: call(graph=GRAPHS["cross"]), ValueError, "graph must be square, got 13 sources and 11 targets"),
        (lambda: call(graph=torch.eye(11)), TypeError, "graph must be an AttentionGraph, got Tensor"),
        (lambda: call(is_virtual=VIRTUAL.long()), ValueError, "is_virtual must be bool [11], got torch.int64 [11]"),
        (lambda: call(sampled=edges("0: 3")), ValueError, "sampled must hold edges of graph only, got 3 → 0, which"),
        (lambda: call(sampled=full(10)), ValueError, "sampled must be over the 11 nodes of graph, got 10 sources"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_with_the_next_step(make, error: type[Exception], advice: str) -> None:
    with pytest.raises(error, match=re.escape(advice)):
        make()


def test_both_activations_are_served() -> None:
    assert sorted(ACTIVATIONS) == ["elu", "gelu"]
    assert "num_heads=3, edge_dim=7" in repr(layer_of())
