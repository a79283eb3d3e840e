import itertools
import math
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graphattn.connectivity import curve_windows
from graphattn.connectivity.curve_windows import CURVES
from graphattn.graph import disjoint_union


def rank_from_the_docs(column: int) -> torch.Tensor:
    lines = [line.split() for line in curve_windows.__doc__.splitlines() if re.fullmatch(r"\s*(\d+\s+){11}\d+", line)]
    return torch.tensor([[int(number) for number in line[4 * column : 4 * column + 4]] for line in lines])


@pytest.mark.parametrize(("column", "curve"), [(0, "hilbert"), (1, "morton")])
@pytest.mark.parametrize("window", [1, 3, 4, 16])
def test_windows_cut_the_curve_of_the_picture(column: int, curve: str, window: int) -> None:
    piece = rank_from_the_docs(column).flatten() // window
    torch.testing.assert_close(curve_windows((4, 4), window, curve).to_mask(), piece[:, None] == piece)


def test_the_picture_numbers_the_windows_and_hilbert_is_the_default() -> None:
    label = rank_from_the_docs(2).flatten()
    torch.testing.assert_close(curve_windows((4, 4), 5).to_mask(), label[:, None] == label)


@given(st.data())
def test_windows_hold_as_many_cells_as_asked_for_and_the_last_one_the_rest(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=3)))
    window, curve = data.draw(st.integers(1, 20)), data.draw(st.sampled_from(sorted(CURVES)))
    graph = curve_windows(shape, window, curve)
    whole, rest = divmod(math.prod(shape), window)
    assert graph.num_edges == whole * window**2 + rest**2
    assert torch.diff(graph.blocks.dst_ptr).tolist() == [window] * whole + [rest] * (rest > 0)


@pytest.mark.parametrize("shape", [(8, 8), (4, 4, 4), (16,)])
def test_windows_of_two_cells_on_the_hilbert_curve_join_adjacent_cells(shape: tuple[int, ...]) -> None:
    cells = torch.tensor(list(itertools.product(*map(range, shape))))
    src, dst = curve_windows(shape, 2).edge_index
    assert set((cells[src] - cells[dst]).abs().sum(1).tolist()) == {0, 1}


@pytest.mark.parametrize("curve", sorted(CURVES))
def test_grids_of_different_sizes_make_a_batch(curve: str) -> None:
    shapes = torch.tensor([[3, 5], [0, 7], [1, 1], [17, 2], [2, 2]])
    batch = curve_windows(shapes, 3, curve)
    singles = disjoint_union([curve_windows(tuple(shape), 3, curve) for shape in shapes.tolist()])
    assert batch == singles
    torch.testing.assert_close(batch.src_ptr, singles.src_ptr)


@pytest.mark.parametrize(
    ("arguments", "error", "advice"),
    [
        (((4, 4), 0), ValueError, "window must be at least 1, got 0. Use 1 for cells that see themselves only."),
        (((4, 4), 2.0), TypeError, "window must be an int, got float 2.0."),
        (((4, 4), 2, "peano"), ValueError, "curve must be one of 'hilbert', 'morton', got 'peano'. Use 'hilbert'."),
        (((2,) * 8, 2), ValueError, "at most 62 bits for a place on the curve, got 8 for each of 8 axes. Merge short"),
    ],
)
def test_parameters_outside_their_domain_are_refused(arguments: tuple, error: type[Exception], advice: str) -> None:
    with pytest.raises(error, match=re.escape(advice)):
        curve_windows(*arguments)
