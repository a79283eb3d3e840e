import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from graphattn.connectivity import full, sliding_window, tree
from graphattn.graph import disjoint_union
from graphattn.graph.rules import is_causal


def ancestor_mask(parents: list[int]) -> Tensor:
    mask = torch.zeros(len(parents), len(parents), dtype=torch.bool)
    for token in range(len(parents)):
        walk = token
        while walk != -1:
            mask[token, walk] = True
            walk = parents[walk]
    return mask


@st.composite
def forests(draw: st.DrawFn) -> list[int]:
    """Parents of a forest whose tokens are numbered in any order."""
    above = [draw(st.integers(-1, token - 1)) for token in range(draw(st.integers(0, 14)))]
    name = draw(st.permutations(range(len(above))))
    parents = [0] * len(above)
    for token, parent in enumerate(above):
        parents[name[token]] = -1 if parent == -1 else name[parent]
    return parents


@given(forests(), st.integers(0, 3))
def test_tokens_read_their_ancestors_and_the_context(parents: list[int], num_context: int) -> None:
    graph, expected = tree(parents), ancestor_mask(parents)
    torch.testing.assert_close(graph.to_mask(), expected)
    assert torch.equal(graph.edge_index.T, expected.nonzero().flip(1))  # canonical
    assert tree(torch.tensor(parents, dtype=torch.int64)) == graph
    depths = [int(row.sum()) - 1 for row in expected]
    after = tree(parents, num_context=num_context)
    context = torch.ones(len(parents), num_context, dtype=torch.bool)
    torch.testing.assert_close(after.to_mask(), torch.cat([context, expected], 1))
    assert after.num_edges == len(parents) * num_context + sum(depth + 1 for depth in depths)


def test_a_chain_is_a_causal_mask_and_roots_alone_are_self_edges() -> None:
    assert tree(list(range(-1, 36))) == full(37).keep(is_causal)
    assert tree([-1] * 11) == sliding_window(11, 0)


def test_the_context_is_a_block_and_kinds_tell_it_from_the_tree() -> None:
    graph = tree([-1, 0, 0], num_context=5)
    assert graph.blocks.num_edges == 15
    assert graph.kinds == ("tree", "context")
    assert graph.edge_kind.tolist() == [2] * 5 + [1] + [2] * 5 + [1, 1] + [2] * 5 + [1, 1]


@pytest.mark.parametrize("context", [2, torch.tensor([2, 0, 1, 3])])
def test_trees_of_a_batch_have_contexts_of_their_own(context: int | Tensor) -> None:
    trees, sizes = [[-1, 0, 0], [], [1, -1], [-1, 0, 1, 2]], torch.tensor([3, 0, 2, 4])
    parents = [parent for one in trees for parent in one]
    assert tree(parents, sizes) == disjoint_union([tree(one) for one in trees])
    each = [context] * 4 if isinstance(context, int) else context.tolist()
    singles = disjoint_union([tree(one, num_context=c) for one, c in zip(trees, each)])
    batch = tree(parents, sizes, num_context=context)
    assert batch == singles
    torch.testing.assert_close(batch.src_ptr, singles.src_ptr)
    torch.testing.assert_close(batch.dst_ptr, singles.dst_ptr)
    torch.testing.assert_close(batch.edge_kind, singles.edge_kind)


def test_many_drafts_cost_what_their_edges_cost() -> None:
    parents = torch.arange(-1, 63).repeat(5_003)
    graph = tree(parents, torch.full((5_003,), 64))
    assert graph.num_edges == 5_003 * 64 * 65 // 2


@pytest.mark.parametrize(
    ("arguments", "error", "advice"),
    [
        (([-1, 2],), ValueError, "parents must be −1 or tokens of the same tree, got 2 for token 1 of a tree of 2."),
        (([-2, 0],), ValueError, "got -2 for token 0 of a tree of 2. Use −1 for a root."),
        (([0],), ValueError, "parents must lead to a root, got a cycle that token 0 runs into. Give a token of it the"),
        (([-1, 2, 3, 1, 1],), ValueError, "got a cycle that token 1 runs into."),
        (([-1, 0, 2], torch.tensor([2, 1])), ValueError, "got 2 for token 2 of a tree of 1."),
        (([-1, 0, 0], torch.tensor([2])), ValueError, "sizes must add up to the number of tokens, 3, got 2."),
        (([-1, 0.0],), TypeError, "parents must hold ints, got float 0.0."),
        ((5,), TypeError, "parents must be a sequence of ints or an int64 tensor [num_nodes], got int."),
    ],
)
def test_parents_that_make_no_tree_are_refused(arguments: tuple, error: type[Exception], advice: str) -> None:
    with pytest.raises(error, match=re.escape(advice)):
        tree(*arguments)


@pytest.mark.parametrize(
    ("context", "error", "advice"),
    [
        (-1, ValueError, "num_context must not be negative, got -1"),
        (1.0, TypeError, "num_context must be an int or an int64 tensor"),
        (torch.tensor([1, 2]), ValueError, "num_context must be an int or have one entry per tree, got 2 for 1 trees."),
    ],
)
def test_a_context_outside_its_domain_is_refused(context: object, error: type[Exception], advice: str) -> None:
    with pytest.raises(error, match=re.escape(advice)):
        tree([-1, 0], num_context=context)
