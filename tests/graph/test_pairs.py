"""Key sets behave as Python's sets of pairs do."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from graphattn.graph.pairs import decode, encode, find, merge

NUM_SRC = 7
PAIRS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, NUM_SRC - 1)), unique=True).map(sorted)


def keys(pairs: list[tuple[int, int]]) -> Tensor:
    return encode(torch.tensor([[j for _, j in pairs], [i for i, _ in pairs]], dtype=torch.int64).view(2, -1), NUM_SRC)


@given(PAIRS)
def test_keys_sort_by_target_then_source_and_can_be_read_back(pairs: list[tuple[int, int]]) -> None:
    assert bool((torch.diff(keys(pairs)) > 0).all())
    assert decode(keys(pairs), NUM_SRC).flip(0).T.tolist() == [list(pair) for pair in pairs]


@given(PAIRS, PAIRS)
def test_find_gives_positions_and_minus_one_for_absent_keys(held: list, wanted: list) -> None:
    positions = find(keys(held), keys(wanted)).tolist()
    assert positions == [held.index(pair) if pair in held else -1 for pair in wanted]


@given(PAIRS, PAIRS)
def test_merge_is_the_union_in_order(left: list, right: list) -> None:
    assert merge(keys(left), keys(right)).tolist() == keys(sorted({*left, *right})).tolist()


def test_no_sources_have_no_pairs() -> None:
    empty = torch.empty(0, dtype=torch.int64)
    assert decode(empty, 0).shape == (2, 0)
    assert find(empty, torch.tensor([3])).tolist() == [-1]
