"""Key sets behave as Python's sets of pairs do."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from graphattn.graph.pairs import decode, encode, find, locate, unite

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
def test_unite_gives_each_key_its_place_in_the_sorted_union(left: list, right: list) -> None:
    union = sorted({*left, *right})
    num_keys, of_left, of_right = unite(keys(left), keys(right))
    assert num_keys == len(union)
    assert of_left.tolist() == [union.index(pair) for pair in left]
    assert of_right.tolist() == [union.index(pair) for pair in right]


@given(PAIRS, PAIRS)
def test_locate_counts_the_smaller_keys_and_knows_which_are_held(left: list, right: list) -> None:
    place, is_held = locate(keys(left), keys(right))
    assert place.tolist() == [sum(held < pair for held in left) for pair in right]
    assert is_held.tolist() == [pair in left for pair in right]


def test_no_sources_have_no_pairs() -> None:
    empty = torch.empty(0, dtype=torch.int64)
    assert decode(empty, 0).shape == (2, 0)
    assert find(empty, torch.tensor([3])).tolist() == [-1]
