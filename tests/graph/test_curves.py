"""Curves visit every cell of a grid once; Hilbert's moves one step at a time, Morton's interleaves bits."""

import pytest
import torch

from graphattn.graph.curves import hilbert, morton

SHAPES = [(1, 5), (2, 1), (2, 4), (3, 2), (4, 2)]  # axes, bits


def cells(num_axes: int, num_bits: int) -> torch.Tensor:
    return torch.cartesian_prod(*[torch.arange(2**num_bits)] * num_axes).view(-1, num_axes)


@pytest.mark.parametrize("curve", [morton, hilbert])
@pytest.mark.parametrize(("num_axes", "num_bits"), SHAPES)
def test_every_cell_has_its_own_place(curve, num_axes: int, num_bits: int) -> None:
    place = curve(cells(num_axes, num_bits), num_bits)
    assert sorted(place.tolist()) == list(range(2 ** (num_axes * num_bits)))


@pytest.mark.parametrize(("num_axes", "num_bits"), SHAPES)
def test_hilbert_moves_one_step_along_one_axis(num_axes: int, num_bits: int) -> None:
    grid = cells(num_axes, num_bits)
    walk = grid[hilbert(grid, num_bits).argsort()]
    assert (walk.diff(dim=0).abs().sum(1) == 1).all()
    assert walk[0].tolist() == [0] * num_axes


@pytest.mark.parametrize(("num_axes", "num_bits"), SHAPES)
def test_hilbert_fills_each_half_before_it_leaves_it(num_axes: int, num_bits: int) -> None:
    grid = cells(num_axes, num_bits)
    place = hilbert(grid, num_bits)
    octant = morton(grid >> (num_bits - 1), 1)
    for number in octant.unique():
        inside = place[octant == number]
        assert inside.max() - inside.min() == inside.numel() - 1


def test_morton_interleaves_the_bits_of_its_axes() -> None:
    grid = cells(3, 2)
    expected = [int("".join(a + b + c for a, b, c in zip(*[f"{x:02b}" for x in row])), 2) for row in grid.tolist()]
    assert morton(grid, 2).tolist() == expected


@pytest.mark.parametrize("curve", [morton, hilbert])
def test_a_point_that_the_curve_does_not_visit_is_refused(curve) -> None:
    for points, bits, message in [
        (torch.tensor([[4, 0]]), 2, "must lie in .0, 2.2., got 4"),
        (torch.tensor([[-1, 0]]), 2, "got -1"),
        (torch.tensor([[0.5, 0]]), 2, "round positions first"),
        (torch.tensor([0, 1]), 2, "one row per point"),
        (torch.tensor([[0, 0]]), 32, "Round to fewer bits"),
    ]:
        with pytest.raises(ValueError, match=message):
            curve(points, bits)
