"""Offsets and ragged ranges equal Python's own accumulation and ranges."""

from itertools import accumulate

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graphattn.graph.ragged import batch_of, check_ptr, node_ptr, ragged_range, running_range

SIZES = st.lists(st.integers(0, 5))


@given(SIZES)
def test_node_ptr_accumulates_sizes_and_batch_of_spreads_them(sizes: list[int]) -> None:
    ptr = node_ptr(torch.tensor(sizes, dtype=torch.int64))
    assert ptr.tolist() == [0, *accumulate(sizes)]
    assert batch_of(ptr).tolist() == [graph for graph, size in enumerate(sizes) for _ in range(size)]
    check_ptr(ptr, sum(sizes), "ptr")


def test_node_ptr_of_one_size_is_one_graph() -> None:
    assert node_ptr(4).tolist() == [0, 4]
    assert node_ptr(0).tolist() == [0, 0]


@given(SIZES)
def test_ragged_range_enumerates_every_range(counts: list[int]) -> None:
    group, offset = ragged_range(torch.tensor(counts, dtype=torch.int64))
    assert list(zip(group.tolist(), offset.tolist())) == [
        (g, k) for g, count in enumerate(counts) for k in range(count)
    ]


@pytest.mark.parametrize(
    ("sizes", "error", "advice"),
    [
        ([2, 3], TypeError, r"sizes must be an int or an int64 tensor \[num_graphs\], got list. Pass torch.tensor"),
        (True, TypeError, "got bool"),
        (2.0, TypeError, "got float"),
        (torch.tensor([2.0]), TypeError, r"sizes must have dtype torch.int64, got torch.float32. Call sizes.long\(\)"),
        (torch.tensor(2), ValueError, r"sizes must have shape \[num_graphs\], got \[\]. Pass one size per graph"),
        (torch.tensor([2, -1]), ValueError, "sizes must not be negative, got -1. An empty graph has size 0"),
        (-1, ValueError, "sizes must not be negative, got -1"),
    ],
)
def test_a_wrong_size_is_answered_with_what_to_pass(sizes: object, error: type[Exception], advice: str) -> None:
    with pytest.raises(error, match=advice):
        node_ptr(sizes)


@pytest.mark.parametrize("ptr", [[], [1, 4], [0, 3], [0, 4, 3, 4]])
def test_offsets_must_rise_from_zero_to_the_total(ptr: list[int]) -> None:
    with pytest.raises(ValueError, match=r"ptr must .*(Use the cumulative sum of the sizes|Pass offsets, 0 first)"):
        check_ptr(torch.tensor(ptr, dtype=torch.int64), 4, "ptr")


@given(st.lists(st.lists(st.integers(0, 9), max_size=5), max_size=5))
def test_a_running_range_starts_anew_in_each_group(groups: list[list[int]]) -> None:
    values = torch.tensor([value for group in groups for value in group], dtype=torch.int64)
    group = torch.tensor([number for number, group in enumerate(groups) for _ in group], dtype=torch.int64)
    least, largest = running_range(values, group)
    assert least.tolist() == [min(group[: k + 1]) for group in groups for k in range(len(group))]
    assert largest.tolist() == [max(group[: k + 1]) for group in groups for k in range(len(group))]
