"""The noun: what it refuses, how elements are named, and what it says of itself."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from graphattn.viz.pathways import NODE_KINDS
from tests.layered import by_chance, by_hand


def named():
    kinds = torch.tensor(
        [NODE_KINDS.index(kind) for kind in ("element", "element", "abstraction", "element", "pooled")]
    )
    return by_hand([0, 0, 1, 2, 3], [(0, 2, 0.5), (2, 3, 1.0), (3, 4, 1.0)], labels=("a", "b"), node_kind=kinds)


def test_elements_are_found_by_number_name_and_pair() -> None:
    layered = named()
    cases = [
        (None, 0, [0, 1]), (1, 0, [1]), ("b", 0, [1]), ((1, 0), 0, [2]), (["b", (2, "a"), 0], 0, [1, 3, 0]),
        (np.int64(1), 0, [1]), (np.array([1, 0]), 0, [1, 0]), (torch.tensor(1), 0, [1]),
        (torch.tensor([1, 0]), 0, [1, 0]), (range(2), 0, [0, 1]), ([], 0, []), ("a", 2, [3]),
    ]  # fmt: skip
    for elements, rank, nodes in cases:
        found = layered.nodes(elements, rank)
        assert found.tolist() == nodes, elements
        assert found.dtype == torch.int64


def test_elements_that_are_not_there_are_refused_with_the_nearest_name() -> None:
    layered = replace(named(), labels=("carbon", "carbon", "oxygen", "nitrogen"))
    cases = {
        "no element 7 at rank 0, which has 2 nodes, from 0 to 1": 7,
        "no element -1 at rank 0": -1,
        "no element named 'oxigen'. Did you mean 'oxygen'": "oxigen",
        "no element named 'xyz'. See the labels": "xyz",
        "'carbon' names elements 0, 1. Give the number": "carbon",
        "no element 'nitrogen' at rank 0": "nitrogen",
        "no node at rank 9: ranks go from 0 to 3": (9, 0),
        r"a pair must be \(rank, element\), got \(0, 1, 2\)": (0, 1, 2),
    }
    for message, element in cases.items():
        with pytest.raises(ValueError, match=message):
            layered.nodes(element, 0)
    with pytest.raises(ValueError, match="rank 3 has pooled nodes, which have no names"):
        named().nodes("a", 3)
    with pytest.raises(ValueError, match="elements have no names, got 'a'"):
        by_chance(0).rollout("a")
    for wrong in (1.5, True, [None], torch.tensor([0.5])):
        with pytest.raises(TypeError, match="an element must be a number, a name or a pair"):
            layered.nodes(wrong, 0)


def test_inputs_outputs_and_labels_of_all_kinds() -> None:
    layered = named()
    assert layered.inputs.tolist() == [0, 1]
    assert layered.outputs.tolist() == [4]
    assert layered.num_ranks == 4
    assert layered.node_labels() == ["a", "b", "abstraction 0", "a", "pooled 0"]
    assert replace(layered, labels=None).node_labels() == ["0", "1", "abstraction 0", "0", "pooled 0"]
    assert by_hand([0, 1], [], memories=[1]).node_labels() == ["0", "memory 0"]


def test_the_caption_says_method_threshold_edges_and_share() -> None:
    layered = named()
    assert layered.caption == "by hand; 3 of 3 edges, 100 % of the influence"
    part = replace(layered, threshold="strongest", num_all_edges=1234, kept=0.4321)
    assert part.caption == "by hand; strongest; 3 of 1,234 edges, 43.2 % of the influence"
    assert repr(part) == f"Pathways(5 nodes in 4 ranks; {part.caption})"


def test_methods_ask_from_all_inputs_to_the_last_rank_by_default() -> None:
    layered = by_chance(3)
    assert layered.rollout().weight.shape == (4, 3)
    assert layered.max_flow(1).weight.shape == (1, 3)
    torch.testing.assert_close(layered.influence(), layered.influence([0, 1, 2, 3]))
    found = layered.strongest_paths()
    assert len(found) == 10
    assert {int(nodes[0]) for nodes in found.nodes} <= set(layered.inputs.tolist())
    assert {int(nodes[-1]) for nodes in found.nodes} <= set(layered.outputs.tolist())


def test_a_cycle_is_refused() -> None:
    for edge in ((1, 0, 1.0), (0, 0, 1.0)):
        with pytest.raises(
            ValueError, match=r"from a lower to a higher rank, got . → 0 at edge 1: there may be no cycle"
        ):
            by_hand([0, 1], [(0, 1, 1.0), edge])
    with pytest.raises(ValueError, match="got 1 → 1 at edge 0"):
        by_hand([0, 1, 1], [(1, 2, 1.0)])


@pytest.mark.parametrize(
    ("field", "value", "error", "message"),
    [
        ("weight", torch.ones(2), TypeError, "weight must have dtype torch.float64, got torch.float32"),
        ("weight", torch.ones(3).double(), ValueError, r"weight must have shape \[num_edges\] with num_edges = 2"),
        ("weight", torch.tensor([1.0, torch.nan]).double(), ValueError, "weight must be finite, got nan at edge 1"),
        ("head", [0, 0], TypeError, "head must be a torch.Tensor, got list"),
        ("layer", torch.tensor([0, -1]), ValueError, "layer must not be negative, got -1"),
        ("rank", torch.tensor([-1, 1, 2]), ValueError, "rank must not be negative"),
        ("rank", torch.tensor([0, 1]), ValueError, r"element must have shape \[num_nodes\] with num_nodes = 2"),
        ("edge_index", torch.zeros(2, 2, 1).long(), ValueError, r"edge_index must have shape \[2, num_edges\]"),
        ("edge_index", torch.tensor([[0, 1], [1, 3]]), ValueError, "edge_index must number the 3 nodes .* got 3"),
        ("edge_kind", torch.tensor([0, 4]), ValueError, "edge_kind must number edge_kinds, attention.* got 4"),
        ("node_kind", torch.tensor([0, 0, -1]), ValueError, "node_kind must number node_kinds, element"),
        ("element", torch.tensor([0, 0, 5]), ValueError, "labels must name every element at rank 0, got 1"),
        ("labels", "ab", TypeError, "labels must be a tuple of strings, got 'ab'"),
        ("labels", (1,), TypeError, "labels must be a tuple of strings"),
        ("kept", 1.5, ValueError, r"kept must lie in \[0, 1\], got 1.5"),
        ("kept", float("nan"), ValueError, r"kept must lie in \[0, 1\]"),
    ],
)  # fmt: skip
def test_bad_fields_are_refused(field: str, value: object, error: type[Exception], message: str) -> None:
    good = by_hand([0, 1, 2], [(0, 1, 1.0), (1, 2, 1.0)], labels=("a",))
    if message.startswith("labels must name"):
        value, field = torch.tensor([1, 0, 0]), "element"
    with pytest.raises(error, match=message):
        replace(good, **{field: value})


def test_an_element_stands_once_in_its_rank() -> None:
    with pytest.raises(ValueError, match="element must be distinct within a rank"):
        replace(by_hand([0, 0], []), element=torch.tensor([0, 0]))
