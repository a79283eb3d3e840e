"""NATTEN's windows, against loops over cells that move a window one step at a time."""

import itertools
import math
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from graphattn.connectivity import block_diagonal, full, grid, neighborhood, sliding_window
from graphattn.graph import disjoint_union
from graphattn.graph.rules import is_causal


def window_of(x: int, length: int, kernel: int, stride: int, dilation: int, causal: bool) -> list[int]:
    """The coordinates that x reads along one axis, from the words of the papers: lists, and steps of one."""
    group = [y for y in range(length) if y % dilation == x % dilation]  # a dilation group lives alone
    place = group.index(x)
    members = [q for q in range(len(group)) if q // stride == place // stride]  # who shares a window with x
    if causal:
        leader = max(members)
        window = [q for q in range(leader - kernel + 1, leader + 1) if q >= 0]
        return [group[q] for q in window if q <= place]
    full_group = [place // stride * stride + s for s in range(stride)]  # the group as if nothing ended here
    leader = min(full_group[stride // 2], len(group) - 1)
    window = [leader - kernel // 2 + offset for offset in range(kernel)]
    while window[0] < 0:
        window = [q + 1 for q in window]
    while window[-1] > len(group) - 1:
        window = [q - 1 for q in window]
    return [group[q] for q in window]


def natten_mask(
    shape: tuple[int, ...],
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
    causal: tuple[bool, ...],
) -> Tensor:
    cells = list(itertools.product(*map(range, shape)))
    number = {cell: place for place, cell in enumerate(cells)}
    mask = torch.zeros(len(cells), len(cells), dtype=torch.bool)
    for cell in cells:
        axes = [window_of(*axis) for axis in zip(cell, shape, kernel, stride, dilation, causal)]
        for other in itertools.product(*axes):
            mask[number[cell], number[other]] = True
    return mask


@st.composite
def cases(draw: st.DrawFn) -> tuple[tuple, ...]:
    num_axes = draw(st.integers(1, 3))
    shape, kernel, stride, dilation, causal = [], [], [], [], []
    for _ in range(num_axes):
        shape.append(draw(st.integers(1, (19, 7, 5)[num_axes - 1])))
        dilation.append(draw(st.integers(1, shape[-1])))
        kernel.append(draw(st.integers(1, shape[-1] // dilation[-1])))
        stride.append(draw(st.integers(1, kernel[-1])))
        causal.append(draw(st.booleans()))
    return tuple(shape), tuple(kernel), tuple(stride), tuple(dilation), tuple(causal)


@given(cases())
def test_windows_are_those_of_natten_at_every_cell(case: tuple[tuple, ...]) -> None:
    shape, kernel, stride, dilation, causal = case
    graph = neighborhood(shape, kernel, stride=stride, dilation=dilation, is_causal=causal)
    torch.testing.assert_close(graph.to_mask(), natten_mask(*case))
    lengths = [
        sum(len(window_of(x, *axis)) for x in range(axis[0])) for axis in zip(shape, kernel, stride, dilation, causal)
    ]
    assert graph.num_edges == math.prod(lengths)
    if not any(causal):
        assert graph.num_edges == math.prod(shape) * math.prod(kernel)


@pytest.mark.parametrize("length", [1, 2, 3, 8, 9])
@pytest.mark.parametrize("causal", [False, True])
def test_every_kernel_stride_and_dilation_of_an_axis(length: int, causal: bool) -> None:
    for dilation in range(1, length + 1):
        for kernel in range(1, length // dilation + 1):
            for stride in range(1, kernel + 1):
                graph = neighborhood((length,), kernel, stride=stride, dilation=dilation, is_causal=causal)
                expected = natten_mask((length,), (kernel,), (stride,), (dilation,), (causal,))
                torch.testing.assert_close(graph.to_mask(), expected)


def test_every_query_reads_kernel_size_keys_at_the_border_too() -> None:
    graph = neighborhood((5, 7), (3, 4), stride=(2, 3))
    assert graph.edge_index[1].bincount().tolist() == [12] * 35


def test_a_causal_axis_has_the_edges_of_a_causal_window() -> None:
    graph = neighborhood((11,), 4, is_causal=True)
    assert graph == sliding_window(11, 3).keep(is_causal)
    assert graph.num_edges == 11 * 4 - 4 * 3 // 2


def test_causality_of_an_axis_is_no_filter() -> None:
    assert neighborhood((11,), 5, is_causal=True) != neighborhood((11,), 5).keep(is_causal)


def test_a_stride_equal_to_the_kernel_makes_blocks() -> None:
    assert neighborhood((12,), 3, stride=3) == block_diagonal(12, 3)


def test_inside_the_border_an_odd_kernel_is_a_grid_neighbourhood() -> None:
    inner = torch.zeros(6, 7, dtype=torch.bool)
    inner[1:-1, 1:-1] = True
    both = neighborhood((6, 7), 3).to_mask(), grid((6, 7), 1).to_mask()
    torch.testing.assert_close(both[0][inner.flatten()], both[1][inner.flatten()])


def test_a_kernel_as_large_as_the_grid_is_full_attention() -> None:
    assert neighborhood((3, 5), (3, 5)) == full(15)


def test_grids_of_different_sizes_make_a_batch() -> None:
    shapes = torch.tensor([[3, 5], [0, 7], [4, 6], [7, 4], [5, 0], [3, 11]])
    options = {"stride": (1, 2), "dilation": (1, 2), "is_causal": (True, False)}
    batch = neighborhood(shapes, (3, 2), **options)
    singles = disjoint_union([neighborhood(tuple(shape), (3, 2), **options) for shape in shapes.tolist()])
    assert batch == singles
    torch.testing.assert_close(batch.src_ptr, singles.src_ptr)


def test_a_grid_without_cells_takes_any_window() -> None:
    assert neighborhood((0, 3), 2**70).num_edges == 0
    assert neighborhood(torch.zeros(0, 2, dtype=torch.int64), 3).num_graphs == 0


def test_repr_shows_what_differs_from_a_plain_window() -> None:
    assert "neighborhood((4, 5), kernel_size=3)" in repr(neighborhood((4, 5), 3))
    graph = neighborhood((4, 5), (3, 2), stride=2, dilation=(1, 2), is_causal=(True, False))
    assert "kernel_size=(3, 2), stride=2, dilation=(1, 2), is_causal=(True, False))" in repr(graph)


@pytest.mark.parametrize(
    ("arguments", "error", "advice"),
    [
        ({"kernel_size": 0}, ValueError, "kernel_size must be at least 1, got 0. Use 1 to stay in place"),
        ({"kernel_size": 2.0}, TypeError, "kernel_size must be an int, got float 2.0."),
        ({"kernel_size": (3, 3, 3)}, ValueError, "kernel_size must be an int or have one entry per axis, got 3 for 2"),
        (
            {"kernel_size": 3, "stride": 0},
            ValueError,
            "stride must be at least 1, got 0. Use 1 for a window of its own",
        ),
        (
            {"kernel_size": 3, "stride": 4},
            ValueError,
            "got stride 4 and kernel_size 3 along axis 0. Use a stride of at",
        ),
        (
            {"kernel_size": 3, "dilation": 0},
            ValueError,
            "dilation must be at least 1, got 0. Use 1 for a window without",
        ),
        (
            {"kernel_size": 3, "dilation": (1, 2)},
            ValueError,
            "got 3 · 2 for length 5 along axis 1. Use a smaller window",
        ),
        ({"kernel_size": 5}, ValueError, "got 5 · 1 for length 4 along axis 0."),
        ({"kernel_size": 3, "is_causal": 1}, TypeError, "is_causal must be a bool or one per axis, got 1."),
        ({"kernel_size": 3, "is_causal": (True,)}, ValueError, "got 1 for 2 axes. Pass one bool for all axes."),
    ],
)
def test_parameters_outside_their_domain_are_refused_with_advice(
    arguments: dict, error: type[Exception], advice: str
) -> None:
    with pytest.raises(error, match=re.escape(advice)):
        neighborhood((4, 5), **arguments)


def test_a_window_larger_than_one_grid_of_a_batch_is_refused() -> None:
    with pytest.raises(ValueError, match=re.escape("got 4 · 1 for length 3 along axis 0")):
        neighborhood(torch.tensor([[5, 5], [3, 9]]), 4)
