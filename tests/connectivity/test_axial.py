import math
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graphattn.connectivity import axial, full, grid
from graphattn.graph import disjoint_union


@given(st.data())
def test_edges_join_cells_that_differ_in_one_coordinate_at_most(data: st.DataObject) -> None:
    num_axes = data.draw(st.integers(1, 4))
    shape = tuple(data.draw(st.integers(1, (23, 7, 4, 3)[num_axes - 1])) for _ in range(num_axes))
    axes = data.draw(st.none() | st.sets(st.integers(0, num_axes - 1), min_size=1).map(list))
    graph = axial(shape, axes)
    cells = torch.cartesian_prod(*[torch.arange(length) for length in shape]).view(-1, num_axes)
    differs = cells[:, None] != cells
    seen = list(range(num_axes)) if axes is None else axes
    others = [axis for axis in range(num_axes) if axis not in seen]
    expected = (differs[..., seen].sum(-1) <= 1) & ~differs[..., others].any(-1)
    torch.testing.assert_close(graph.to_mask(), expected)
    assert torch.equal(graph.edge_index.T, graph.to_mask().nonzero().flip(1))  # canonical
    assert graph.num_edges == math.prod(shape) * (1 + sum(shape[axis] - 1 for axis in seen))


def test_two_axial_layers_reach_every_pixel() -> None:
    assert axial((3, 5), [0]) @ axial((3, 5), [1]) == full(15)
    assert axial((3, 5)) @ axial((3, 5)) == full(15)


def test_negative_axes_count_from_the_last() -> None:
    assert axial((3, 5), [-1]) == axial((3, 5), [1]) == grid((3, 5), (0, 4))


def test_grids_of_different_sizes_make_a_batch() -> None:
    shapes = torch.tensor([[3, 5], [0, 7], [1, 1], [7, 2]])
    batch = axial(shapes)
    singles = disjoint_union([axial(tuple(shape)) for shape in shapes.tolist()])
    assert batch == singles
    torch.testing.assert_close(batch.edge_index, singles.edge_index)
    torch.testing.assert_close(batch.src_ptr, singles.src_ptr)


@pytest.mark.parametrize(
    ("axes", "error", "advice"),
    [
        ([], ValueError, "axes must name one axis at least, each once, got []. Pass None for all of them."),
        ([0, -2], ValueError, "axes must name one axis at least, each once, got [0, -2]"),
        ([2], ValueError, "axes must be below 2, got 2. -1 is the last axis."),
        ([-3], ValueError, "axes must be at least -2, got -3. The grid has 2 axes; -1 is the last one."),
        ([0.0], TypeError, "axes must be an int, got float 0.0."),
        (0, TypeError, "axes must be a sequence of ints, got int. Pass [0] for the first alone."),
    ],
)
def test_wrong_axes_are_refused_with_advice(axes: object, error: type[Exception], advice: str) -> None:
    with pytest.raises(error, match=re.escape(advice)):
        axial((3, 5), axes)
