import math
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from graphattn.connectivity import full, grid, sliding_window
from graphattn.graph import disjoint_union


def chebyshev_mask(shape: tuple[int, ...], radius: tuple[int, ...]) -> Tensor:
    """All pairs of cells, in row-major order, compared axis by axis."""
    cells = torch.cartesian_prod(*[torch.arange(length) for length in shape]).view(-1, len(shape))
    return ((cells[:, None] - cells).abs() <= torch.tensor(radius)).all(-1)


@st.composite
def shapes_and_radii(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...]]:
    num_axes = draw(st.integers(1, 4))
    shape = draw(st.lists(st.integers(1, (40, 7, 4, 3)[num_axes - 1]), min_size=num_axes, max_size=num_axes))
    radius = draw(st.lists(st.integers(0, 4), min_size=num_axes, max_size=num_axes))
    return tuple(shape), tuple(radius)


@given(shapes_and_radii())
def test_edges_are_the_pairs_within_the_radius_along_every_axis(case: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    shape, radius = case
    graph = grid(shape, radius)
    torch.testing.assert_close(graph.to_mask(), chebyshev_mask(shape, radius))
    reach = [min(r, length - 1) for r, length in zip(radius, shape)]
    assert graph.num_edges == math.prod(n * (2 * r + 1) - r * (r + 1) for n, r in zip(shape, reach))
    assert graph == graph.T


def test_radius_is_one_unless_given() -> None:
    torch.testing.assert_close(grid((3, 5)).to_mask(), chebyshev_mask((3, 5), (1, 1)))


def test_an_inner_pixel_reads_nine_cells_a_border_six_and_a_corner_four() -> None:
    degree = grid((5, 7)).edge_index[1].bincount().view(5, 7)
    assert degree[1:-1, 1:-1].unique().tolist() == [9]
    assert degree[0, 1:-1].unique().tolist() == degree[1:-1, -1].unique().tolist() == [6]
    assert degree[0, 0] == degree[-1, -1] == 4


def test_a_grid_of_one_axis_is_a_sliding_window() -> None:
    assert grid((23,), radius=3) == sliding_window(23, radius=3)


@pytest.mark.parametrize("radius", [6, 2**70])
def test_a_radius_past_every_border_is_full_attention(radius: int) -> None:
    assert grid((5, 7), radius) == full(35)


@pytest.mark.parametrize("radius", [2, (0, 3)])
def test_images_of_different_sizes_make_a_batch(radius: int | tuple[int, int]) -> None:
    shape = torch.tensor([[3, 5], [0, 7], [1, 1], [7, 2], [5, 0], [2, 11]])
    batch = grid(shape, radius)
    singles = disjoint_union([grid((height, width), radius) for height, width in shape.tolist()])
    assert batch == singles
    torch.testing.assert_close(batch.src_ptr, singles.src_ptr)
    torch.testing.assert_close(batch.dst_ptr, singles.dst_ptr)


def test_a_shape_may_be_what_a_tensor_calls_its_shape() -> None:
    assert grid(torch.zeros(3, 5).shape) == grid([3, 5]) == grid((3, 5))


def test_as_many_steps_as_the_longest_side_reach_every_cell() -> None:
    graph = reach = grid((3, 5))
    for _ in range(3):
        assert reach != full(15)
        reach = reach @ graph
    assert reach == full(15)


def test_repr_shows_one_radius_or_all() -> None:
    assert "grid((3, 5), radius=1)" in repr(grid((3, 5)))
    assert "grid((3, 5), radius=(0, 2))" in repr(grid((3, 5), (0, 2)))
    assert "grid(2 graphs, radius=2)" in repr(grid(torch.tensor([[1, 2], [3, 4]]), (2, 2)))


@pytest.mark.parametrize(
    ("shape", "error", "advice"),
    [
        (5, TypeError, "got int. Pass (length,) for a grid of one axis."),
        ("35", TypeError, "got str. Pass (length,) for a grid of one axis."),
        ((), ValueError, "at least one axis, got (). Pass (length,) for a grid of one axis."),
        ((3, -1), ValueError, "shape[1] must be at least 0, got -1. An empty grid has an axis of length 0."),
        ((3, 2.0), TypeError, "shape[1] must be an int, got float 2.0. Pass int(shape[1])."),
        (torch.tensor([3, 5]), ValueError, "got [2]. Pass tuple(shape.tolist()) for a single grid."),
        (torch.zeros(2, 0, dtype=torch.int64), ValueError, "with at least one axis, got [2, 0]"),
        (torch.tensor([[3, -5]]), ValueError, "got -5. An empty grid has an axis of length 0."),
        (torch.tensor([[3.0]]), TypeError, "got torch.float32. Call shape.long() first."),
    ],
    ids=str,
)
def test_a_wrong_shape_is_refused_with_advice(shape: object, error: type[Exception], advice: str) -> None:
    with pytest.raises(error, match=re.escape(advice)):
        grid(shape)


@pytest.mark.parametrize(
    ("radius", "error", "advice"),
    [
        ((1, 1, 1), ValueError, "got 3 for 2 axes. Pass one int for the same radius everywhere."),
        (-1, ValueError, "radius must be at least 0, got -1. Use 0 to stay in place along an axis."),
        ((1, -2), ValueError, "radius must be at least 0, got -2"),
        (0.5, TypeError, "radius must be an int, got float 0.5. Pass int(radius)."),
        ("11", TypeError, "radius must be an int, got str '11'"),
    ],
    ids=str,
)
def test_a_wrong_radius_is_refused_with_advice(radius: object, error: type[Exception], advice: str) -> None:
    with pytest.raises(error, match=re.escape(advice)):
        grid((3, 5), radius)
