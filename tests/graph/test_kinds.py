"""Kinds are bits; renaming, joining and ORing them never mixes up whose bit is whose."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graphattn.graph.kinds import MAX_KINDS, all_bits, check_edge_kind, check_kinds, gather_bits, join, rename_bits

NAMES = st.lists(st.sampled_from("abcdefg"), unique=True).map(tuple)


def named(bits: int, kinds: tuple[str, ...]) -> set[str]:
    return {kind for bit, kind in enumerate(kinds) if bits >> bit & 1}


@given(NAMES, NAMES)
def test_join_lists_the_left_names_first_and_each_once(left: tuple[str, ...], right: tuple[str, ...]) -> None:
    joined = join(left, right)
    assert joined[: len(left)] == left
    assert set(joined) == {*left, *right}
    assert len(joined) == len(set(joined))


@given(st.data(), NAMES, NAMES)
def test_rename_bits_keeps_the_names_of_every_edge(
    data: st.DataObject, old: tuple[str, ...], more: tuple[str, ...]
) -> None:
    new = tuple(data.draw(st.permutations(sorted({*old, *more}))))
    masks = data.draw(st.lists(st.integers(0, all_bits(old))))
    renamed = rename_bits(torch.tensor(masks, dtype=torch.int16), old, new)
    assert [named(bits, new) for bits in renamed.tolist()] == [named(bits, old) for bits in masks]


def test_rename_bits_drops_a_bit_without_a_name() -> None:
    assert rename_bits(torch.tensor([1, 3], dtype=torch.int16), (), ("a", "b")).tolist() == [0, 0]


@given(st.lists(st.tuples(st.integers(0, 2**MAX_KINDS - 1), st.integers(0, 3))))
def test_gather_bits_ors_the_masks_of_each_group(members: list[tuple[int, int]]) -> None:
    wanted = [0] * 4
    for bits, group in members:
        wanted[group] |= bits
    masks = torch.tensor([bits for bits, _ in members], dtype=torch.int16)
    groups = torch.tensor([group for _, group in members], dtype=torch.int64)
    assert gather_bits(masks, groups, 4).tolist() == wanted


def test_fifteen_kinds_fit_and_sixteen_do_not() -> None:
    names = tuple("abcdefghijklmno")
    assert check_kinds(names) == names
    kind = torch.tensor([all_bits(names)])
    assert check_edge_kind(kind, names, 1).tolist() == [2**15 - 1]
    with pytest.raises(ValueError, match=r"at most 15 names .*, got 16. Merge kinds that you need not tell apart"):
        join(names, ("p",))


@pytest.mark.parametrize("kinds", ["bond", (1, 2), ("a", None)])
def test_kinds_are_a_sequence_of_names(kinds: object) -> None:
    with pytest.raises(TypeError, match=r"kinds must be a sequence of names, got .* Write kinds="):
        check_kinds(kinds)
