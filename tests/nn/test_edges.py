import dataclasses
import itertools

import pytest
import torch
from torch.testing import assert_close

from graphattn.nn import EdgeTerms
from graphattn.ops import graph_attention
from tests.ops.graphs import GRAPHS, ON_CPU

USES = ("key", "value", "bias", "gate")
COMBINATIONS = [dict(zip(USES, chosen)) for chosen in itertools.product([False, True], repeat=4) if any(chosen)]


def name_of(uses: dict[str, bool]) -> str:
    return "+".join(use for use, is_on in uses.items() if is_on)


@pytest.mark.parametrize("uses", COMBINATIONS, ids=name_of)
def test_each_use_makes_its_argument_of_the_verb_and_no_other(uses: dict[str, bool]) -> None:
    module = EdgeTerms(2, **uses).build(3, head_dim=5, value_dim=7)
    edge_attr = torch.randn(13, 2)
    terms = module(edge_attr)
    assert (terms["edge_attr"] is edge_attr) == (uses["key"] or uses["value"])
    shapes = {name: None if term is None else tuple(term.shape) for name, term in terms.items()}
    assert shapes["edge_key_weight"] == ((3, 5, 2) if uses["key"] else None)
    assert shapes["edge_value_weight"] == ((3, 7, 2) if uses["value"] else None)
    assert shapes["edge_bias"] == ((13, 3) if uses["bias"] else None)
    assert shapes["edge_gate"] == ((13, 3) if uses["gate"] else None)
    if uses["gate"]:
        assert 0 < terms["edge_gate"].min() and terms["edge_gate"].max() < 1
    assert all(parameter.abs().max() > 0 for name, parameter in module.named_parameters() if "weight" in name)


@pytest.mark.parametrize("uses", COMBINATIONS, ids=name_of)
def test_the_terms_mean_keys_and_values_of_their_own_for_every_edge(uses: dict[str, bool]) -> None:
    torch.manual_seed(0)
    graph = GRAPHS["three keys each"]
    module = EdgeTerms(2, **uses).build(3, head_dim=5, value_dim=7).double()
    query = torch.randn(11, 3, 5, dtype=torch.float64)
    key, value = (torch.randn(13, 3, dim, dtype=torch.float64) for dim in (5, 7))
    terms = module(torch.randn(graph.num_edges, 2, dtype=torch.float64))
    src, dst = graph.edge_index
    keys, values = key[src], value[src]  # [num_edges, num_heads, dim]
    if uses["key"]:
        keys = keys + torch.einsum("hda,ea->ehd", terms["edge_key_weight"], terms["edge_attr"])
    if uses["value"]:
        values = values + torch.einsum("hda,ea->ehd", terms["edge_value_weight"], terms["edge_attr"])
    scores = (query[dst] * keys).sum(-1) / 5**0.5 + (terms["edge_bias"] if uses["bias"] else 0)
    expected = torch.zeros(11, 3, 7, dtype=torch.float64)
    for target in range(11):
        mine = dst == target
        alpha = scores[mine].softmax(0) * (terms["edge_gate"][mine] if uses["gate"] else 1)
        expected[target] = (alpha[..., None] * values[mine]).sum(0)
    given = {name: term for name, term in terms.items() if term is not None}
    for impl in ON_CPU:
        if impl not in ("blocks", "sdpa"):
            assert_close(graph_attention(query, key, value, graph, impl=impl, **given), expected)


def test_keys_and_values_are_the_default() -> None:
    assert EdgeTerms(2) == EdgeTerms(2, key=True, value=True, bias=False, gate=False)


def test_no_width_or_no_use_is_refused_with_advice() -> None:
    with pytest.raises(ValueError, match=r"edge_dim must be at least 1, got 0. It is the width of edge_attr"):
        EdgeTerms(0)
    with pytest.raises(ValueError, match=r"got key, value, bias and gate all False. Leave the edge seat None"):
        EdgeTerms(2, key=False, value=False)


@pytest.mark.parametrize("shape", [(13,), (13, 3), (13, 2, 1)])
def test_features_of_another_shape_are_refused_with_advice(shape: tuple[int, ...]) -> None:
    module = EdgeTerms(2).build(3, head_dim=5, value_dim=7)
    with pytest.raises(ValueError, match=r"must have shape \[num_edges, 2\], got \[13.*EdgeTerms\(edge_dim=...\) says"):
        module(torch.zeros(shape))


def test_the_spec_is_frozen_and_builds_a_module_of_its_own_each_time() -> None:
    spec = EdgeTerms(2, bias=True, gate=True)
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.edge_dim = 3  # type: ignore[misc]
    first, second = (spec.build(3, head_dim=5, value_dim=7) for _ in range(2))
    assert not {id(p) for p in first.parameters()} & {id(p) for p in second.parameters()}
