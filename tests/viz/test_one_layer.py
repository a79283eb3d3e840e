"""One layer of pathways, between elements of the input."""

import pytest
import torch

from graphattn.viz.merged import merged
from graphattn.viz.one_layer import one_layer
from tests.layered import by_hand

# two elements over two layers, with residuals
RANKS = [0, 0, 1, 1, 2, 2]
EDGES = [(0, 2, 0.5), (1, 2, 0.3), (0, 2, 0.2), (1, 3, 1.0), (3, 4, 0.4), (2, 4, 0.6), (3, 5, 1.0)]
KINDS = torch.tensor([1, 0, 0, 1, 0, 1, 1])


def layered(**fields):
    return by_hand(RANKS, EDGES, edge_kind=KINDS, **fields)


def test_the_edges_of_a_layer_without_what_elements_keep_of_themselves() -> None:
    found = one_layer(layered(labels=("a", "b")), 0)
    assert list(zip(found.src, found.dst, found.weight)) == [(1, 0, 0.3)]
    assert found.names == ["a", "b"] and found.num_itself == 3
    assert found.sentences[0] == "layer 0" and found.sentences[-1] == "not drawn: 3 edges of elements to themselves"
    assert found.pathways.num_edges == 1
    last = one_layer(layered(), -1)
    assert list(zip(last.src, last.dst)) == [(1, 0)] and last.names == ["0", "1"]


def test_what_elements_keep_of_themselves_is_there_when_asked_for() -> None:
    found = one_layer(layered(), 0, with_itself=True)
    assert found.src.size == 4 and found.num_itself == 0
    assert found.of(0).tolist() == [0, 1, 2] and found.of(None).size == 4


def test_merged_layers_need_no_number() -> None:
    found = one_layer(merged(layered()))
    assert found.sentences[0].startswith("rollout of by hand")
    assert list(zip(found.src, found.dst)) == [(1, 0)]


def test_what_cannot_be_shown_is_refused_with_advice() -> None:
    with pytest.raises(ValueError, match=r"have 2 layers, and this picture shows one. Pass layer=0 … 1, or merge them"):
        one_layer(layered())
    with pytest.raises(ValueError, match="layer must be one of 0, 1, or -1, got 2"):
        one_layer(layered(), 2)
    with pytest.raises(TypeError, match=r"pathways must be Pathways, got list. graphattn.viz.pathways\(recording\)"):
        one_layer([])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="pathways must have edges, got none"):
        one_layer(by_hand([0, 1], []))
    summary = layered(node_kind=torch.tensor([0, 0, 1, 0, 0, 0]))
    with pytest.raises(ValueError, match="layer 0 has abstraction nodes, which are no elements of the input"):
        one_layer(summary, 0)


def test_a_target_is_named_or_numbered() -> None:
    found = one_layer(layered(labels=("a", "b")), 0)
    assert [found.number(target) for target in (None, 1, "b")] == [None, 1, 1]
    for wrong in (2, -1, True, 0.5):
        with pytest.raises(ValueError, match=r"target must be an element in \[0, 2\), or its name, got"):
            found.number(wrong)
    with pytest.raises(ValueError, match="there is no element named 'c'"):
        found.number("c")
    with pytest.raises(ValueError, match="elements have no names, got 'a'"):
        one_layer(layered(), 0).number("a")


def test_elements_are_counted_where_pruning_cannot_have_left_the_last_out() -> None:
    whole, pruned = layered(), layered(threshold="strongest", kept=0.5)
    assert [one_layer(whole, 0).has(number) for number in (1, 2, 3)] == [False, True, False]
    assert [one_layer(pruned, 0).has(number) for number in (1, 2, 3)] == [False, True, True]
    named = layered(labels=("a", "b"), threshold="strongest")
    assert [one_layer(named, 0).has(number) for number in (1, 2, 3)] == [False, True, False]


def test_the_share_kept_is_said_of_a_layer_too() -> None:
    assert "81.2 % of the influence over all layers" in one_layer(layered(kept=0.8123), 0).sentences
    assert not any("influence" in sentence for sentence in one_layer(layered(), 0).sentences)
