"""What is recorded of models of ours and of others, and that a record leaves nothing behind."""

import re
import threading
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from torch_geometric.data import Data

import graphattn as ga
from graphattn.connectivity import full, global_tokens, sliding_window
from graphattn.graph import AttentionGraph, disjoint_union
from graphattn.inputs.graph import GraphCollate
from graphattn.models import GraphTransformer
from graphattn.nn import EdgeTerms, GraphAttention
from graphattn.ops import attention_weights, graph_attention
from graphattn.ops.listening import calls_are, is_listening, tell
from graphattn.viz.record import record
from tests.ops.graphs import GRAPHS, ON_CPU
from tests.ops.graphs import NUM_HEADS as MASKED_HEADS

EMBED_DIM, NUM_HEADS = 15, 3
GRAPH = sliding_window(11, 2) | global_tokens(11, [3])


class Block(nn.Module):
    def __init__(self, **options: Any):
        super().__init__()
        self.attention = GraphAttention(EMBED_DIM, NUM_HEADS, **options)
        self.ffn = nn.Sequential(nn.Linear(EMBED_DIM, EMBED_DIM), nn.ReLU())

    def forward(self, x: Tensor, graph: AttentionGraph) -> Tensor:
        x = x + self.attention(x, graph)
        return x + self.ffn(x)


class Model(nn.Module):
    def __init__(self, num_layers: int = 3, **options: Any):
        super().__init__()
        self.blocks = nn.ModuleList(Block(**options) for _ in range(num_layers))

    def forward(self, x: Tensor, graph: AttentionGraph) -> Tensor:
        for block in self.blocks:
            x = block(x, graph)
        return x


def model_of(num_layers: int = 3, **options: Any) -> Model:
    torch.manual_seed(0)
    return Model(num_layers, **options).eval()


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def alphas_by_hand(model: Model, x: Tensor, graph: AttentionGraph) -> list[Tensor]:
    found = []
    for block in model.blocks:
        query, key = block.attention.score(x, x)
        found.append(attention_weights(query, key, graph, impl="dense"))
        x = block(x, graph)
    return found


def hooks_of(model: nn.Module) -> int:
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks) + len(module._forward_hooks_always_called)
        for module in model.modules()
    )


# --- what is recorded ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("impl", ["auto", *(impl for impl in ON_CPU if impl not in ("gather", "blocks"))])
@torch.no_grad()
def test_every_layer_is_recorded_under_its_name_with_its_weights(impl: str) -> None:
    model, x = model_of(impl=impl), drawn(11, EMBED_DIM)
    expected = model(x, GRAPH)
    with record(model) as recording:
        out = model(x, GRAPH)
    assert torch.equal(out, expected)
    assert [(step.name, step.call, step.kind) for step in recording.steps] == [
        (f"blocks.{number}.attention", 0, "attention") for number in range(3)
    ]
    for step, alpha in zip(recording.steps, alphas_by_hand(model, x, GRAPH)):
        assert_close(step.alpha, alpha)
        assert step.graph == GRAPH and step.graph.kinds == GRAPH.kinds
        assert torch.equal(step.graph.edge_kind, GRAPH.edge_kind)
        assert step.head.tolist() == [0, 1, 2] and step.alpha.is_contiguous()
        assert torch.equal(step.kept, torch.ones(11, NUM_HEADS))
        assert step.gradient is None and step.edge_gate is None and step.head_gate is None


@pytest.mark.parametrize("name", GRAPHS)
@torch.no_grad()
def test_every_graph_can_be_recorded(name: str) -> None:
    graph = GRAPHS[name]
    torch.manual_seed(0)
    layer = GraphAttention(EMBED_DIM, MASKED_HEADS)
    x, source = drawn(graph.num_dst_nodes, EMBED_DIM), drawn(graph.num_src_nodes, EMBED_DIM)
    with record(layer) as recording:
        layer(x, graph, source=source)
    [step] = recording.steps
    assert step.name == "" and step.graph == graph and step.graph.num_graphs == graph.num_graphs
    assert_close(step.alpha, attention_weights(*layer.score(x, source), graph, impl="dense"))


@torch.no_grad()
def test_a_model_of_ours_is_recorded_with_its_batch() -> None:
    collate = GraphCollate()
    model = GraphTransformer.from_size("tiny", collate, readout="mean").eval()
    molecules = [
        Data(
            x=torch.zeros(size, 9, dtype=torch.int64),
            edge_index=torch.tensor([[0, 1], [1, 0]]),
            edge_attr=torch.zeros(2, 3, dtype=torch.int64),
        )
        for size in (3, 2, 5)
    ]
    batch = collate(molecules)
    expected = model(batch)
    with record(model) as recording:
        out = model(batch)
    assert torch.equal(out, expected) and recording.num_examples == 3
    alone = collate(molecules[2:])
    with record(model) as single:
        model(alone)
    for step, other in zip(recording.example(2).steps, single.steps):
        assert step.name == other.name and step.graph == other.graph
        assert_close(step.alpha, other.alpha)
        assert_close(step.value_norm, other.value_norm)


@dataclass(frozen=True)
class EveryThird:
    """Keeps every third source."""

    def build(self, embed_dim: int, num_heads: int) -> nn.Module:
        return _EveryThird()


class _EveryThird(nn.Module):
    def forward(self, x: Tensor, graph: AttentionGraph) -> tuple[AttentionGraph, None]:
        return graph.keep_sources(torch.arange(graph.num_src_nodes) % 3 == 0), None


@torch.no_grad()
def test_sampled_graphs_keep_the_numbers_of_the_layer() -> None:
    selecting = model_of(1, select=EveryThird(), edge=None)
    x, sampled = drawn(11, EMBED_DIM), full(11).keep_sources(torch.arange(11) % 3 == 0)
    plain = model_of(1)
    for model, graph in ((selecting, full(11)), (plain, sampled)):
        expected = model(x, graph)
        with record(model) as recording:
            assert_close(model(x, graph), expected)
        [step] = recording.steps
        assert step.graph == sampled and step.graph.num_src_nodes == 11
        assert_close(step.alpha, alphas_by_hand(plain, x, sampled)[0])


@torch.no_grad()
def test_gates_are_recorded_beside_the_weights() -> None:
    torch.manual_seed(0)
    layer = GraphAttention(EMBED_DIM, NUM_HEADS, edge=EdgeTerms(2, gate=True))
    x, edge_attr, head_gate = drawn(11, EMBED_DIM), drawn(GRAPH.num_edges, 2), torch.tensor([0.0, 1.0, 0.5])
    with record(layer, heads=[0, 2]) as recording:
        layer(x, GRAPH, edge_attr=edge_attr, head_gate=head_gate)
    [step] = recording.steps
    assert torch.equal(step.head_gate, head_gate[[0, 2]])
    assert_close(step.edge_gate, layer.edge(edge_attr)["edge_gate"][:, [0, 2]])
    head_gate += 1.0  # what happens to the model's tensors later does not reach the record
    assert step.head_gate.tolist() == [0.0, 0.5]


@pytest.mark.parametrize("num_key_heads", [NUM_HEADS, 1])
@torch.no_grad()
def test_value_norms_are_of_what_a_source_adds_to_the_output(num_key_heads: int) -> None:
    torch.manual_seed(0)
    layer = GraphAttention(EMBED_DIM, NUM_HEADS, num_key_heads=num_key_heads)
    x, head_dim = drawn(11, EMBED_DIM), EMBED_DIM // NUM_HEADS
    with record(layer, heads=[1, 2]) as recording:
        layer(x, GRAPH)
    value = layer.value_proj(x).unflatten(1, (num_key_heads, -1)).repeat_interleave(NUM_HEADS // num_key_heads, 1)
    for column, head in enumerate([1, 2]):
        added = value[:, head] @ layer.out_proj.weight[:, head * head_dim : (head + 1) * head_dim].T
        assert_close(recording.steps[0].value_norm[:, column], added.norm(dim=1))


class ByHand(nn.Module):
    """Somebody else's: one module that attends by the verb, attends by hand, and pools."""

    def forward(self, x: Tensor, graph: AttentionGraph, pool: AttentionGraph) -> Tensor:
        x = graph_attention(x, x, x, graph)
        src, dst = graph.edge_index
        alpha = ga.ops.edge_softmax((x[src] * x[dst]).sum(-1), dst, graph.num_dst_nodes)
        tell(graph, alpha, value=x)
        x = ga.ops.segment_sum(alpha[..., None] * x[src], dst, graph.num_dst_nodes)
        share = 1.0 / torch.bincount(pool.edge_index[1])[pool.edge_index[1]]
        tell(pool, share, kind="pool")
        return ga.ops.segment_sum(share[:, None, None] * x[pool.edge_index[0]], pool.edge_index[1], pool.num_dst_nodes)


@torch.no_grad()
def test_a_module_of_somebody_else_is_recorded_with_each_of_its_calls() -> None:
    pool, x, model = full(11, dst_sizes=1), drawn(11, 2, 5), nn.Sequential()
    model.add_module("mixer", ByHand())
    model.forward = lambda *inputs: model.mixer(*inputs)  # type: ignore[method-assign]
    with record(model) as recording:
        model(x, GRAPH, pool)
    said = [(step.name, step.call, step.kind, step.alpha.shape[1]) for step in recording.steps]
    assert said == [("mixer", 0, "attention", 2), ("mixer", 1, "attention", 2), ("mixer", 2, "pool", 1)]
    assert_close(recording.steps[0].alpha, attention_weights(x, x, GRAPH))
    assert_close(recording.steps[0].value_norm, x.norm(dim=2))  # there is no out_proj
    assert recording.steps[2].value_norm is None and recording.steps[2].graph.num_dst_nodes == 1


def test_half_precision_and_autocast_are_recorded_in_float32() -> None:
    model, x = model_of(1), drawn(11, EMBED_DIM)
    with record(model) as recording, torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        model(x, GRAPH)
    [step] = recording.steps
    assert step.alpha.dtype == step.value_norm.dtype == torch.float32
    assert_close(step.alpha, alphas_by_hand(model, x, GRAPH)[0], atol=0.02, rtol=0.02)


# --- what is chosen ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "layers, expected",
    [
        (1, [1]),
        ([0, 2], [0, 2]),
        ("blocks.2.attention", [2]),
        ("blocks.1", [1]),
        (["blocks.0", 2], [0, 2]),
        ("blocks", [0, 1, 2]),
        ("", [0, 1, 2]),
    ],
)
@torch.no_grad()
def test_layers_are_chosen_by_name_or_number(layers: Any, expected: list[int]) -> None:
    model, x = model_of(), drawn(11, EMBED_DIM)
    with record(model, layers=layers) as recording:
        model(x, GRAPH)
    assert [step.name for step in recording.steps] == [f"blocks.{number}.attention" for number in expected]
    by_hand = alphas_by_hand(model, x, GRAPH)
    for step, number in zip(recording.steps, expected):
        assert_close(step.alpha, by_hand[number])


@torch.no_grad()
def test_blocks_of_layers_that_are_not_chosen_are_not_listed() -> None:
    graph = full(11)
    model = model_of(2, impl="blocks")
    other = nn.ModuleList([model, ByHand()])
    other.forward = lambda x: (model(x, graph), other[1](x[:, None], GRAPH, full(11, dst_sizes=1)))  # type: ignore
    with record(other, layers="1"):
        other(drawn(11, EMBED_DIM))
    assert "listed" not in graph._cache


@torch.no_grad()
def test_a_layer_used_twice_is_two_layers_of_one_name() -> None:
    block = Block()
    model = nn.Module()
    model.block = block
    model.forward = lambda x: block(block(x, GRAPH), GRAPH)
    with record(model, layers=1) as recording:
        model(drawn(11, EMBED_DIM))
    with record(model) as both:
        model(drawn(11, EMBED_DIM))
    assert [(step.name, step.call) for step in both.steps] == [("block.attention", 0)] * 2
    assert torch.equal(recording.alphas()[0], both.alphas()[1])


@torch.no_grad()
def test_heads_and_examples_are_chosen_and_a_head_mask_follows() -> None:
    parts = [GRAPHS["head mask"], GRAPHS["head mask and block"], GRAPHS["head mask"]]
    graph, x = disjoint_union(parts), drawn(33, EMBED_DIM)
    model = model_of(2)
    with record(model) as whole:
        model(x, graph)
    with record(model, heads=[2, 0], graphs=[0, 2]) as recording:
        model(x, graph)
    with record(model, heads=1, graphs=1) as one:
        model(x, graph)
    for step, all_of_it in zip(recording.steps, whole.steps):
        assert step.head.tolist() == [0, 2] and step.graph.src_ptr.tolist() == [0, 11, 22]
        chosen = all_of_it.graph.edge_index[1] // 11 != 1
        assert torch.equal(step.alpha, all_of_it.alpha[chosen][:, [0, 2]])
        assert torch.equal(step.graph.head_mask, all_of_it.graph.head_mask[chosen][:, [0, 2]])
        assert_close(step.value_norm, all_of_it.value_norm[torch.arange(33) // 11 != 1][:, [0, 2]])
        assert torch.equal(step.graph.edge_index, disjoint_union([parts[0], parts[2]]).enumerate().edge_index)
    assert one.num_examples == 1 and one.steps[0].graph.num_src_nodes == 11
    assert torch.equal(one.steps[1].alpha, whole.example(1).steps[1].alpha[:, 1:2])


@pytest.mark.parametrize("name", ["full", "hub", "blocks and edges", "head mask", "ragged batch", "no edges"])
@pytest.mark.parametrize("k", [1, 3, 100])
@torch.no_grad()
def test_the_strongest_edges_of_each_target_and_head_are_kept(name: str, k: int) -> None:
    graph, x = GRAPHS[name], drawn(11, EMBED_DIM)
    layer = GraphAttention(EMBED_DIM, NUM_HEADS)
    with record(layer) as whole:
        layer(x, graph)
    with record(layer, top_edges=k) as recording:
        layer(x, graph)
    [step], [full_step] = recording.steps, whole.steps
    strong = set()
    of_target = full_step.graph.edge_index[1]
    for target in range(11):
        mine = (of_target == target).nonzero()[:, 0]
        if mine.numel() <= k:
            strong |= set(mine.tolist())
            continue
        for head in range(NUM_HEADS):
            seen = mine if graph.head_mask is None else mine[graph.head_mask[mine, head]]
            best = full_step.alpha[seen, head].argsort(descending=True)[:k]
            strong |= set(seen[best].tolist())
    expected = torch.tensor(sorted(strong), dtype=torch.int64)
    assert torch.equal(step.graph.edge_index, full_step.graph.edge_index[:, expected])
    assert torch.equal(step.alpha, full_step.alpha[expected])
    share = torch.zeros(11, NUM_HEADS).index_add(0, step.graph.edge_index[1], step.alpha)
    is_empty = torch.zeros(11, NUM_HEADS).index_add(0, of_target, full_step.alpha) == 0
    assert_close(step.kept, share.masked_fill(is_empty, 1.0))
    assert torch.equal(step.value_norm, full_step.value_norm)
    if graph.head_mask is not None:
        assert torch.equal(step.graph.head_mask, full_step.graph.head_mask[expected])


@torch.no_grad()
def test_strongest_edges_of_chosen_heads_and_examples() -> None:
    graph, x = full(torch.tensor([5, 3, 7])), drawn(15, EMBED_DIM)
    layer = GraphAttention(EMBED_DIM, NUM_HEADS, edge=EdgeTerms(2, gate=True))
    edge_attr = drawn(graph.num_edges, 2)
    with record(layer) as whole:
        layer(x, graph, edge_attr=edge_attr)
    with record(layer, heads=2, graphs=[2], top_edges=2) as recording:
        layer(x, graph, edge_attr=edge_attr)
    [step], [last] = recording.steps, whole.example(2).steps
    dense = last.alpha[:, 2].view(7, 7)
    strong = torch.zeros(7, 7, dtype=torch.bool).scatter(1, dense.topk(2).indices, True).flatten()
    assert step.graph.num_edges == 14 and step.graph.num_graphs == 1
    assert torch.equal(step.alpha, last.alpha[strong][:, 2:])
    assert torch.equal(step.edge_gate, last.edge_gate[strong][:, 2:])
    assert_close(step.kept[:, 0], dense.topk(2).values.sum(1))


# --- gradients -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_inside", [True, False])
@pytest.mark.parametrize("options", [{}, {"heads": [2, 0], "graphs": [1, 2], "top_edges": 2}])
def test_a_backward_adds_the_gradient_of_the_weights(is_inside: bool, options: dict[str, Any]) -> None:
    graph, x = full(torch.tensor([4, 5, 3])), drawn(12, EMBED_DIM)
    model = model_of(2).train()
    with record(model, **options) as recording:
        out = model(x, graph)
        loss = out.square().sum()
        assert all(step.gradient is None for step in recording.steps)
        if is_inside:
            loss.backward()
    if not is_inside:
        loss.backward()
    attention = model.blocks[1].attention
    between = model.blocks[0](x, graph).detach()
    src, dst = graph.edge_index
    alpha = attention_weights(*attention.score(between, between), graph).detach().requires_grad_()
    value = attention.value_proj(between).unflatten(1, (NUM_HEADS, -1))
    mixed = ga.ops.segment_sum(alpha[..., None] * value[src], dst, 12)
    y = between + attention.out_proj(mixed.flatten(1))
    expected = torch.autograd.grad((y + model.blocks[1].ffn(y)).square().sum(), alpha)[0]
    step = recording.steps[1]
    if options:
        offset = 4
        row = graph.find(step.graph.edge_index[0] + offset, step.graph.edge_index[1] + offset)
        expected = expected[row][:, [0, 2]]
    assert_close(step.gradient, expected)
    assert step.gradient.abs().max() > 0 and step.gradient.dtype == torch.float32


def test_the_gradient_is_of_the_last_backward_and_the_last_pass() -> None:
    model, x = model_of(1), drawn(11, EMBED_DIM)
    with record(model) as recording:
        first = model(x, GRAPH).sum()
        out = model(x, GRAPH)
    first.backward()
    assert recording.steps[0].gradient is None
    (2 * out).sum().backward(retain_graph=True)
    twice = recording.steps[0].gradient
    out.sum().backward()
    assert_close(2 * recording.steps[0].gradient, twice)


def test_checkpointing_records_the_forward_and_not_what_backward_computes_again() -> None:
    from torch.utils.checkpoint import checkpoint

    model, x = model_of(2).train(), drawn(11, EMBED_DIM)
    with record(model) as expected:
        plain_out = model(x, GRAPH)
        plain_out.sum().backward()

    def forward(x: Tensor, graph: AttentionGraph) -> Tensor:
        for block in model.blocks:
            x = checkpoint(block, x, graph, use_reentrant=False)
        return x

    model.forward = forward  # type: ignore[method-assign]
    with record(model) as recording:
        model(x, GRAPH).sum().backward()
    assert len(recording.steps) == 2
    for step, other in zip(recording.steps, expected.steps):
        assert_close(step.alpha, other.alpha)
        assert_close(step.gradient, other.gradient)


# --- passes, blocks and threads ------------------------------------------------------------------------------------


@torch.no_grad()
def test_of_several_calls_the_last_one_counts_and_parts_alone_do_not() -> None:
    model, x = model_of(2), drawn(11, EMBED_DIM)
    with record(model) as recording:
        model(x, GRAPH)
        model(2 * x, GRAPH)
        model.blocks[0](x, GRAPH)
        assert len(recording.steps) == 2
    for step, alpha in zip(recording.steps, alphas_by_hand(model, 2 * x, GRAPH)):
        assert_close(step.alpha, alpha)


@torch.no_grad()
def test_records_nest() -> None:
    model, x = model_of(2), drawn(11, EMBED_DIM)
    with record(model) as outer, record(model.blocks[1]) as inner:
        model(x, GRAPH)
    assert [step.name for step in outer.steps] == ["blocks.0.attention", "blocks.1.attention"]
    assert [step.name for step in inner.steps] == ["attention"]
    assert torch.equal(outer.steps[1].alpha, inner.steps[0].alpha)
    assert hooks_of(model) == 0


@torch.no_grad()
def test_threads_record_the_same_model_apart() -> None:
    model = model_of(2)
    inputs = [drawn(11, EMBED_DIM), drawn(11, EMBED_DIM) + 1.0]
    recordings: dict[int, Any] = {}
    barrier = threading.Barrier(3)

    def run(number: int) -> None:
        with torch.no_grad(), record(model) as recording:
            barrier.wait()
            for _ in range(5):
                model(inputs[number], GRAPH)
            barrier.wait()
        recordings[number] = recording

    threads = [threading.Thread(target=run, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    barrier.wait()
    model(torch.zeros(11, EMBED_DIM), GRAPH)  # unheard
    barrier.wait()
    for thread in threads:
        thread.join()
    for number, x in enumerate(inputs):
        assert len(recordings[number].steps) == 2
        for alpha, expected in zip(recordings[number].alphas(), alphas_by_hand(model, x, GRAPH)):
            assert_close(alpha, expected)
    assert hooks_of(model) == 0


class Fails(nn.Module):
    def __init__(self, error: type[BaseException]):
        super().__init__()
        self.error, self.is_broken = error, True
        self.block = Block()

    def forward(self, x: Tensor, graph: AttentionGraph) -> Tensor:
        x = self.block(x, graph)
        if self.is_broken:
            raise self.error("in the middle")
        return x


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
@torch.no_grad()
def test_an_error_passes_through_and_leaves_no_hook(error: type[BaseException]) -> None:
    model, x = Fails(error), drawn(11, EMBED_DIM)
    with pytest.raises(error, match="in the middle"), record(model):
        model(x, GRAPH)
    assert hooks_of(model) == 0 and not is_listening()
    with record(model) as recording:  # who goes on after it has a whole record
        with pytest.raises(error):
            model(x, GRAPH)
        model.is_broken = False
        model(x, GRAPH)
    assert [step.name for step in recording.steps] == ["block.attention"]


@torch.no_grad()
def test_a_part_that_fails_where_the_model_goes_on_is_left() -> None:
    class Tries(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.risky, self.safe = Fails(ValueError), Block()

        def forward(self, x: Tensor) -> Tensor:
            try:
                return self.risky(x, GRAPH)
            except ValueError:
                return graph_attention(x[:, None], x[:, None], x[:, None], GRAPH)

    model = Tries()
    with record(model) as recording:
        model(drawn(11, EMBED_DIM))
    assert [step.name for step in recording.steps] == ["risky.block.attention", ""]


# --- layers that summarise -----------------------------------------------------------------------------------------


class Summarising(nn.Module):
    """Two calls: nodes → summaries, then nodes and summaries → nodes."""

    def __init__(self) -> None:
        super().__init__()
        self.out_proj = nn.Linear(10, 4, bias=False)

    def forward(self, x: Tensor, summarise: AttentionGraph, attend: AttentionGraph) -> Tensor:
        heads = x.unflatten(1, (2, 5))
        start = torch.zeros(summarise.num_dst_nodes, 2, 5)
        with calls_are("summary"):
            summary = graph_attention(start, heads, heads, summarise)
        both = torch.cat([heads, summary])
        return self.out_proj(graph_attention(heads, both, both, attend).flatten(1))


def two_levels(sizes: list[int], segments: list[int]) -> tuple[AttentionGraph, AttentionGraph]:
    """Every summary reads its whole example; nodes read themselves and their example's summaries, which come last."""
    summarise = full(torch.tensor(sizes), dst_sizes=torch.tensor(segments))
    num_nodes, pairs = sum(sizes), []
    for number, size in enumerate(sizes):
        for node in range(sum(sizes[:number]), sum(sizes[:number]) + size):
            of_summaries = range(sum(segments[:number]), sum(segments[: number + 1]))
            pairs += [(node, node), *((num_nodes + summary, node) for summary in of_summaries)]
    attend = AttentionGraph(torch.tensor(pairs).T, num_nodes + sum(segments), num_nodes)
    return summarise, attend


@pytest.mark.parametrize("graphs", [None, [1], [0, 2]])
@torch.no_grad()
def test_an_example_has_its_own_summaries_and_numbers_them_after_its_nodes(graphs: list[int] | None) -> None:
    sizes, segments = [5, 3, 4], [2, 1, 3]
    model, x = Summarising(), drawn(12, 10)
    with record(model, graphs=graphs) as recording:
        model(x, *two_levels(sizes, segments))
    assert [(step.call, step.kind) for step in recording.steps] == [(0, "summary"), (1, "attention")]
    chosen = [0, 1, 2] if graphs is None else graphs
    assert recording.num_examples == len(chosen)
    for place, number in enumerate(chosen):
        first = sum(sizes[:number])
        with record(model) as alone:
            model(x[first : first + sizes[number]], *two_levels([sizes[number]], [segments[number]]))
        for step, other in zip(recording.example(place).steps, alone.steps):
            assert step.graph == other.graph
            assert_close(step.alpha, other.alpha)
            assert_close(step.value_norm, other.value_norm)


@torch.no_grad()
def test_an_edge_between_two_examples_is_noticed() -> None:
    summarise, attend = two_levels([5, 3], [1, 1])
    crossing = attend | AttentionGraph(torch.tensor([[7], [0]]), 10, 8)
    with record(model := Summarising()) as recording:
        model(drawn(8, 10), summarise, crossing)
    with pytest.raises(ValueError, match=re.escape("edge [7, 0] joins two examples")):
        recording.example(0)


# --- bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, advice",
    [
        ({"layers": "blocks.0.atention"}, "Did you mean 'blocks.0.attention'?"),
        ({"layers": "qqqq"}, "named_modules() lists them"),
        ({"layers": -1}, "layers must be numbers counted from 0"),
        ({"layers": []}, "layers must name at least one"),
        ({"heads": []}, "heads must be distinct numbers, at least one"),
        ({"heads": [1, 1]}, "heads must be distinct"),
        ({"heads": [True]}, "heads must be numbers counted from 0"),
        ({"graphs": [0.5]}, "graphs must be numbers"),
        ({"top_edges": 0}, "top_edges must be an int of at least 1, got 0"),
        ({"top_edges": True}, "top_edges must be an int"),
        ({"heads": [3]}, "heads must be numbers below 3, the heads of 'blocks.0.attention', got 3"),
        ({"graphs": [0, 1]}, "graphs must be numbers below 1"),
        ({"layers": 7}, "got [7], which did not. These did: 0 is 'blocks.0.attention', 1 is 'blocks.1.attention'"),
        ({"layers": ["blocks.0", "blocks.1.ffn"]}, "got ['blocks.1.ffn'], which did not"),
    ],
)
def test_a_choice_that_cannot_be_is_refused(options: dict[str, Any], advice: str) -> None:
    model = model_of(2)
    with pytest.raises(ValueError, match=re.escape(advice)), record(model, **options):
        model(drawn(11, EMBED_DIM), GRAPH)
    assert hooks_of(model) == 0 and not is_listening()


def test_what_is_no_module_is_refused() -> None:
    not_a_module: Any = model_of
    with pytest.raises(TypeError, match=re.escape("torch.nn.Module, got function")), record(not_a_module):
        pass


def test_nothing_recorded_says_why() -> None:
    model, x = model_of(1), drawn(11, EMBED_DIM)
    with pytest.raises(RuntimeError, match="Model was not called inside the block"), record(model):
        model.forward(x, GRAPH)
    with pytest.raises(RuntimeError, match="no module of TransformerEncoderLayer called"):
        theirs = nn.TransformerEncoderLayer(4, 2, batch_first=True)
        with record(theirs):
            theirs(torch.zeros(1, 3, 4))
    with pytest.raises(RuntimeError, match="the last call of Fails did not end"):
        broken = Fails(ValueError)
        with record(broken), pytest.raises(ValueError):
            broken(x, GRAPH)


def test_compiled_models_are_refused_with_the_way_out() -> None:
    import torch._dynamo

    torch._dynamo.reset()
    model, x = model_of(1), drawn(11, EMBED_DIM)
    compiled = torch.compile(model, backend="eager")
    with pytest.raises(RuntimeError, match=re.escape("Record that: model._orig_mod")), record(compiled):
        pass
    outer = nn.Module()
    outer.part = compiled
    with pytest.raises(RuntimeError, match=re.escape("model.part._orig_mod")), record(outer):
        pass
    in_place = model_of(1)
    in_place.compile(backend="eager")
    with pytest.raises(RuntimeError, match="not compiled"), record(in_place):
        pass
    with record(compiled._orig_mod) as recording:
        compiled._orig_mod(x, GRAPH)
    assert len(recording.steps) == 1

    def loss(x: Tensor) -> Tensor:
        return model(x, GRAPH).sum()

    GRAPH.plan()
    whole = torch.compile(loss, backend="eager", fullgraph=True)
    whole(x)
    with pytest.raises(Exception, match=re.escape("uncompiled")), record(model):
        whole(x)
    assert hooks_of(model) == 0
    torch._dynamo.reset()
