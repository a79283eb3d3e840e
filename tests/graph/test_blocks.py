"""Blocks: pointers read as the pairs they stand for, row by row in Python."""

from random import Random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graphattn.graph.blocks import Blocks, bicliques, checked_blocks, concatenate
from tests.strategies import Nodes, any_blocks, nodes, pairs_in


def some_blocks(**options: object) -> st.SearchStrategy[Blocks]:
    return nodes().flatmap(lambda over: any_blocks(over, **options)).filter(lambda blocks: blocks is not None)


def cells(blocks: Blocks | None) -> list[tuple[int, int]]:
    return sorted((i, j) for i, j, _ in pairs_in(blocks))


@given(some_blocks(num_kinds=2))
def test_enumerate_lists_every_pair_with_the_kind_of_its_block(blocks: Blocks) -> None:
    edges, kind = blocks.enumerate()
    assert list(zip(*edges.flip(0).tolist(), kind.tolist())) == [
        (i, j, int(blocks.kind[b])) for i, j, b in pairs_in(blocks)
    ]
    assert blocks.num_edges == edges.shape[1]


@given(some_blocks())
def test_holder_names_the_block_of_a_pair(blocks: Blocks) -> None:
    held = {(i, j): b for i, j, b in pairs_in(blocks)}
    wanted = [(i, j) for i in range(10) for j in range(10)]
    holder = blocks.holder(torch.tensor([[j for _, j in wanted], [i for i, _ in wanted]]))
    assert holder.tolist() == [held.get(cell, -1) for cell in wanted]


@given(some_blocks(disjoint=False))
def test_every_pair_of_blocks_that_shares_a_pair_counts_as_overlapping(blocks: Blocks) -> None:
    overlapping = blocks.overlapping().tolist()
    owner: dict[tuple[int, int], int] = {}
    for i, j, b in pairs_in(blocks):
        if owner.setdefault((i, j), b) != b:
            assert overlapping[b]
            assert overlapping[owner[i, j]]


@given(some_blocks(disjoint=True))
def test_blocks_that_split_targets_or_sources_do_not_overlap(blocks: Blocks) -> None:
    assert not blocks.overlapping().any()


@given(some_blocks())
def test_spanning_pairs_join_all_nodes_of_a_block_that_are_read_or_read(blocks: Blocks) -> None:
    held = pairs_in(blocks)
    spanning = blocks.spanning_pairs().flip(0).T.tolist()
    assert {(i, j) for i, j in spanning} <= {(i, j) for i, j, _ in held}
    assert len(spanning) == len({(i, b) for i, _, b in held}) + len({(j, b) for _, j, b in held})
    for number in {b for _, _, b in held}:
        joined = blocks.select(torch.arange(blocks.num_blocks) == number).spanning_pairs().flip(0).T.tolist()
        group = {("dst", joined[0][0])}
        for _ in joined:  # walk from one node until no pair adds another
            group |= {end for i, j in joined for end in (("dst", i), ("src", j)) if {("dst", i), ("src", j)} & group}
        assert group == {end for i, j, b in held if b == number for end in (("dst", i), ("src", j))}


@given(some_blocks())
def test_transpose_swaps_every_pair_and_twice_is_the_identity(blocks: Blocks) -> None:
    flipped = blocks.transpose()
    assert cells(flipped) == sorted((j, i) for i, j in cells(blocks))
    assert cells(flipped.transpose()) == cells(blocks)


@given(some_blocks(), st.randoms())
def test_blocks_of_the_same_pairs_in_order_are_the_same_tensors(blocks: Blocks, random: Random) -> None:
    ordered = blocks.without_empty().in_order()
    assert cells(ordered) == cells(blocks)
    again = ordered.transpose().transpose()
    rows = list(range(ordered.dst.numel()))
    owner = ordered.of_target().tolist()
    rows.sort(key=lambda row: (owner[row], random.random()))
    shuffled = ordered._replace(dst=ordered.dst[rows], prefix=ordered.prefix[rows]).in_order()
    for form in (again, shuffled):
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(ordered, form))


@given(some_blocks(), st.integers(0, 2**10 - 1))
def test_keep_sources_drops_pairs_and_stays_a_staircase(blocks: Blocks, bits: int) -> None:
    kept = blocks.keep_sources(torch.tensor([bool(bits >> node & 1) for node in range(10)]))
    assert cells(kept) == [(i, j) for i, j in cells(blocks) if bits >> j & 1]


@given(some_blocks(staircase="plain") | some_blocks(staircase="causal"))
def test_keep_causal_keeps_sources_up_to_the_target(blocks: Blocks) -> None:
    assert blocks.sources_ascend()
    assert cells(blocks.keep_causal()) == [(i, j) for i, j in cells(blocks) if j <= i]


@given(some_blocks(), st.lists(st.integers(0, 2), min_size=20, max_size=20))
def test_keep_equal_cuts_blocks_by_label_and_they_stay_staircases(blocks: Blocks, labels: list[int]) -> None:
    kept = blocks.keep_equal(torch.tensor(labels[:10]), torch.tensor(labels[10:]))
    expected = [(i, j) for i, j in cells(blocks) if labels[j] == labels[10 + i]]
    assert (cells(kept) if kept is not None else []) == expected
    if kept is not None:
        assert sorted(cells(kept.transpose())) == sorted((j, i) for i, j in expected)


@given(some_blocks() | some_blocks(staircase="causal"))
def test_looks_ahead_asks_whether_a_source_stands_behind_its_target(blocks: Blocks) -> None:
    assert blocks.looks_ahead() == any(j > i for i, j in cells(blocks))


@given(some_blocks())
def test_without_empty_keeps_the_pairs_and_nothing_that_holds_none(blocks: Blocks) -> None:
    kept = blocks.without_empty()
    assert kept is not None
    assert cells(kept) == cells(blocks)
    for b in range(kept.num_blocks):
        part = kept.select(torch.arange(kept.num_blocks) == b)
        assert set(part.dst.tolist()) == {i for i, _, _ in pairs_in(part)}
        assert set(part.src.tolist()) == {j for _, j, _ in pairs_in(part)}
    assert blocks._replace(prefix=torch.zeros_like(blocks.prefix)).without_empty() is None


@given(some_blocks(), st.permutations(range(10)), st.permutations(range(10)))
def test_relabel_renames_nodes_and_sorts_rows(blocks: Blocks, src_map: list[int], dst_map: list[int]) -> None:
    renamed = blocks.relabel(torch.tensor(src_map), torch.tensor(dst_map))
    assert cells(renamed) == sorted((dst_map[i], src_map[j]) for i, j in cells(blocks))
    rows = [renamed.dst[a:b].tolist() for a, b in zip(renamed.dst_ptr.tolist(), renamed.dst_ptr.tolist()[1:])]
    assert rows == [sorted(row) for row in rows]


@given(some_blocks(), some_blocks())
def test_concatenate_lists_blocks_one_after_the_other(first: Blocks, second: Blocks) -> None:
    joined = concatenate([first, second.shift(20, 30)])
    assert pairs_in(joined) == pairs_in(first) + [
        (i + 20, j + 30, b + first.num_blocks) for i, j, b in pairs_in(second)
    ]
    assert concatenate([]) is None


@given(some_blocks(), st.data())
def test_select_takes_the_marked_blocks(blocks: Blocks, data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.booleans(), min_size=blocks.num_blocks, max_size=blocks.num_blocks))
    selected = blocks.select(torch.tensor(chosen))
    assert cells(selected) == sorted((i, j) for i, j, b in pairs_in(blocks) if chosen[b])
    assert (selected is None) == (not any(chosen))


@given(some_blocks())
def test_checked_blocks_hold_the_same_pairs(blocks: Blocks) -> None:
    assert cells(checked_blocks(blocks, 10, 10, torch.device("cpu"))) == cells(blocks)


def test_bicliques_of_ragged_sizes_skip_those_without_a_pair() -> None:
    dst_ptr, src_ptr = torch.tensor([0, 2, 2, 3, 4]), torch.tensor([0, 1, 3, 3, 5])
    blocks = bicliques(dst_ptr, torch.arange(4), src_ptr, torch.arange(5))
    assert blocks.num_blocks == 2  # one of the four has no target, another no source
    assert cells(blocks) == [(0, 0), (1, 0), (3, 3), (3, 4)]
    empty = torch.empty(0, dtype=torch.int64)
    assert bicliques(torch.tensor([0]), empty, torch.tensor([0]), empty) is None
    assert bicliques(torch.tensor([0, 0]), empty, torch.tensor([0, 1]), torch.tensor([0])) is None


@pytest.mark.parametrize("num_blocks", [1, 3])
def test_full_blocks_take_memory_of_nodes_not_of_pairs(num_blocks: int) -> None:
    size = 50_000
    ptr = torch.arange(num_blocks + 1) * size
    blocks = bicliques(ptr, torch.arange(num_blocks * size), ptr, torch.arange(num_blocks * size))
    assert blocks.num_edges == num_blocks * size**2
    assert sum(field.numel() for field in blocks) < 4 * num_blocks * size


def test_two_empty_graphs_of_a_batch_have_no_blocks() -> None:
    drawn: list[Blocks | None] = []

    @given(any_blocks(Nodes((), ())))
    def draw(blocks: Blocks | None) -> None:
        drawn.append(blocks)

    draw()
    assert set(drawn) == {None}
