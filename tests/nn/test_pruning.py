"""A pruned model against the gated one, in output and gradients, and as something that is saved and made again."""

import copy
import io
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from graphattn.connectivity import sliding_window
from graphattn.inputs import GraphCollate, parse_edges
from graphattn.models import GraphTransformer
from graphattn.nn import EdgeTerms, GraphAttention, StraightThroughHeadGate, SubsetHeadGate, prune
from graphattn.viz import record
from tests.inputs.molecules import molecule

EXACT = {"rtol": 0.0, "atol": 1e-12}
COLLATE = GraphCollate(parse_edges("bonds | full | virtual(1)"), max_hops=2)
BATCH = COLLATE([molecule(11, 1), molecule(1, 2), molecule(7, 3)])
LAYERS, HEADS = 3, 4
KEPT = [[[0, 2], [1, 2, 3], [3]], [[1], [], [0, 1, 2, 3]], [[], [], []], [[0, 1, 2, 3]] * 3]


def model_of() -> Any:
    """In float64, in evaluation, its norms not at their start."""
    torch.manual_seed(0)
    terms = ("key", "value", "bias", "gate")
    sizes = {"embed_dim": 12, "num_heads": HEADS, "num_layers": LAYERS, "edge_dim": 5, "edge_terms": terms}
    model = GraphTransformer.from_size("tiny", COLLATE, **sizes).double()
    with torch.no_grad():
        model(BATCH)
        for layer in layers_of(model):
            layer.out_proj.bias.normal_()
            layer.value_proj.bias.normal_()
    return model.eval()


def layers_of(model: nn.Module) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, GraphAttention)]


def gated(model: nn.Module, gates: Tensor) -> nn.Module:
    """The same model, whose layers are given a gate with every call."""
    model = copy.deepcopy(model)
    for layer, gate in zip(layers_of(model), gates, strict=True):
        layer.register_forward_pre_hook(
            lambda module, inputs, named, gate=gate: (inputs, {**named, "head_gate": gate}), with_kwargs=True
        )
    return model


def gates_of(kept: list[list[int]]) -> Tensor:
    return torch.tensor([[float(head in heads) for head in range(HEADS)] for heads in kept]).double()


@pytest.mark.parametrize("kept", KEPT, ids=str)
def test_a_pruned_model_gives_what_the_gated_one_gives(kept: list[list[int]]) -> None:
    model = model_of()
    small, whole = prune(model, kept), gated(model, gates_of(kept))
    assert [layer.num_heads for layer in layers_of(small)] == [len(heads) for heads in kept]
    ours, theirs = small(BATCH), whole(BATCH)
    assert_close(ours, theirs, **EXACT)
    assert kept == KEPT[3] or (model(BATCH) - ours).abs().max() > 1e-3
    assert small.num_parameters() < model.num_parameters() or kept == KEPT[3]

    for out in (ours, theirs):
        out.square().sum().backward()
    of_small, of_whole = dict(small.named_parameters()), dict(whole.named_parameters())
    assert set(of_small) <= set(of_whole)
    for name, parameter in of_small.items():
        if parameter.grad is None:  # of edges, where nothing reads them any more
            assert not any(kept) and name.startswith("edge_encoder.") and not of_whole[name].grad.any()
        elif parameter.shape == of_whole[name].shape:
            assert_close(parameter.grad, of_whole[name].grad, rtol=1e-9, atol=1e-10, msg=name)
    for number, heads in enumerate(kept):
        small_layer, whole_layer = layers_of(small)[number], layers_of(whole)[number]
        columns = [3 * head + place for head in heads for place in range(3)]
        expected = whole_layer.out_proj.weight.grad[:, columns]
        assert_close(small_layer.out_proj.weight.grad, expected, rtol=1e-9, atol=1e-10)
        if heads:
            assert_close(small_layer.value_proj.bias.grad, whole_layer.value_proj.bias.grad[columns])
            assert_close(small_layer.edge.edge_value_weight.grad, whole_layer.edge.edge_value_weight.grad[heads])


def test_what_a_gate_keeps_is_what_prune_takes() -> None:
    model = model_of()
    gate = SubsetHeadGate(LAYERS, HEADS, num_keep=5)
    with torch.no_grad():
        gate.weight[1] = -1.0  # a layer may lose all
    assert gate.kept()[1] == []
    assert_close(prune(model, gate.kept())(BATCH), gated(model, gate.eval()())(BATCH), **EXACT)


def test_the_model_itself_stays_as_it_is() -> None:
    model = model_of()
    before = model(BATCH)
    small = prune(model, KEPT[0])
    assert torch.equal(model(BATCH), before)
    assert not {id(p) for p in model.parameters()} & {id(p) for p in small.parameters()}
    assert not small.training and prune(model.train(), KEPT[0]).training


def test_pruning_twice_counts_heads_among_those_left() -> None:
    model = model_of()
    twice = prune(prune(model, [[0, 2, 3], [1, 2, 3], [3]]), [[1, 2], [0], []])
    assert_close(twice(BATCH), prune(model, [[2, 3], [1], []])(BATCH), **EXACT)
    message = "blocks.0.attention: kept must hold heads from 0 to 1, got [0, 2]. Heads are counted among those that"
    with pytest.raises(ValueError, match=re.escape(message)):
        prune(twice, [[0, 2], [0], []])
    assert_close(prune(twice, [[0, 1], [0], []])(BATCH), twice(BATCH), **EXACT)


def test_a_file_of_it_is_smaller_and_loads_into_a_model_made_small() -> None:
    def size_of(model: nn.Module) -> int:
        stream = io.BytesIO()
        torch.save(model.state_dict(), stream)
        return stream.tell()

    model, kept = model_of(), KEPT[1]
    small = prune(model, kept)
    assert size_of(small) < size_of(model)
    made = copy.deepcopy(model)
    for block, heads in zip(made.blocks, kept, strict=True):  # as a configuration with the kept heads would
        terms = EdgeTerms(5, key=True, value=True, bias=True, gate=True)
        block.attention = GraphAttention(12, len(heads), edge=terms, head_dim=3).double()
    made.load_state_dict(small.state_dict())
    assert torch.equal(made.eval()(BATCH), small(BATCH))


def test_frozen_parameters_stay_frozen_and_hooks_stay_where_they_are() -> None:
    model = model_of().requires_grad_(False)
    model.head.requires_grad_(True)
    heard = []
    model.blocks[0].attention.register_forward_hook(lambda module, inputs, output: heard.append(module.num_heads))
    small = prune(model, KEPT[0])
    small(BATCH)
    assert heard == [2]
    trained = {name for name, parameter in small.named_parameters() if parameter.requires_grad}
    assert trained == {name for name, _ in small.named_parameters() if name.startswith("head.")}


def test_a_layer_without_heads_is_silent_in_a_recording() -> None:
    small = prune(model_of(), [[1], [], [0, 2]])
    with record(small) as recording, torch.no_grad():
        small(BATCH)
    assert [step.name for step in recording.steps] == ["blocks.0.attention", "blocks.2.attention"]
    assert [alpha.shape[1] for alpha in recording.alphas()] == [1, 2]


def test_a_single_layer_is_a_model_and_a_gate_that_a_model_owns_is_dropped() -> None:
    layer = GraphAttention(8, 4)
    assert prune(layer, [[1]]).num_heads == 1

    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.gate = GraphAttention(8, 4), StraightThroughHeadGate(1, 4, 2)

        def forward(self, x: Tensor) -> Tensor:
            gate = None if self.gate is None else self.gate()[0]
            return self.layer(x, sliding_window(5, 1), head_gate=gate)

    model, x = Gated().double().eval(), torch.randn(5, 8, generator=torch.Generator().manual_seed(0)).double()
    small = prune(model, model.gate.kept())
    assert small.gate is None and not [name for name in small.state_dict() if name.startswith("gate")]
    assert model.gate is not None
    assert_close(small(x), model(x), **EXACT)


def test_what_cannot_be_pruned_is_said() -> None:
    with pytest.raises(ValueError, match="model must have layers of GraphAttention, got Linear with none"):
        prune(nn.Linear(2, 2), [[0]])
    message = (
        "kept must have a list of heads for each of 3 layers, got 2. They are 'blocks.0.attention', "
        "'blocks.1.attention', 'blocks.2.attention'; an empty list drops all heads of a layer."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        prune(model_of(), [[0], [1]])
    with pytest.raises(ValueError, match=r"blocks.1.attention: kept must hold heads from 0 to 3, got \[4\]"):
        prune(model_of(), [[0], [4], [1]])
