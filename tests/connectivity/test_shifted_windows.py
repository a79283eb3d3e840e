import itertools
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from graphattn.connectivity import block_diagonal, full, shifted_windows
from graphattn.graph import disjoint_union


def swin_mask(shape: tuple[int, ...], window: tuple[int, ...], shift: tuple[int, ...]) -> Tensor:
    """Rolls the map, cuts it into boxes, numbers the regions that the roll brought together: Swin's own way."""
    cells = torch.arange(torch.Size(shape).numel()).view(shape)
    region = torch.zeros(shape, dtype=torch.int64)
    slices = [
        (slice(0, -w), slice(-w, -s or None), slice(-s, None) if s else slice(0, 0)) for w, s in zip(window, shift)
    ]
    for number, parts in enumerate(itertools.product(*slices)):
        region[parts] = number
    rolled = torch.roll(cells, [-s for s in shift], list(range(len(shape))))
    box = torch.zeros(shape, dtype=torch.int64)
    for number, corner in enumerate(itertools.product(*(range(0, n, w) for n, w in zip(shape, window)))):
        box[tuple(slice(start, start + w) for start, w in zip(corner, window))] = number
    label = torch.empty(cells.numel(), dtype=torch.int64)
    label[rolled.flatten()] = (box * 3 ** len(shape) + region).flatten()
    return label[:, None] == label


@given(st.data())
def test_boxes_are_those_of_swin_where_the_window_divides_the_map(data: st.DataObject) -> None:
    num_axes = data.draw(st.integers(1, 3))
    window = tuple(data.draw(st.integers(1, 4)) for _ in range(num_axes))
    shape = tuple(w * data.draw(st.integers(1, (5, 3, 2)[num_axes - 1])) for w in window)
    shift = tuple(data.draw(st.integers(0, w - 1)) for w in window)
    torch.testing.assert_close(shifted_windows(shape, window, shift).to_mask(), swin_mask(shape, window, shift))


@given(st.integers(0, 17), st.integers(1, 20), st.data())
def test_pieces_of_an_axis_are_the_shift_windows_and_the_rest(length: int, window: int, data: st.DataObject) -> None:
    shift = data.draw(st.integers(0, window - 1))
    pieces = [min(shift, length)] + [min(window, length - start) for start in range(shift, length, window)]
    masks = [torch.ones(piece, piece, dtype=torch.bool) for piece in pieces]
    graph = shifted_windows((length,), window, shift)
    torch.testing.assert_close(graph.to_mask(), torch.block_diag(*masks).bool())
    assert graph.num_edges == sum(piece * piece for piece in pieces)


def test_edges_of_several_axes_multiply() -> None:
    graph = shifted_windows((5, 7), (2, 3), (1, 2))
    assert graph.num_edges == (1 + 4 + 4) * (4 + 9 + 4)
    assert shifted_windows((6, 6), (2, 3)).num_edges == 36 * 6  # unshifted unless told otherwise


def test_the_picture_numbers_the_boxes() -> None:
    doc = [line.split() for line in shifted_windows.__doc__.splitlines() if re.fullmatch(r"\s*(\d+\s+){11}\d+", line)]
    assert len(doc) == 4
    for columns, shift in ((slice(0, 6), 0), (slice(6, 12), 1)):
        box = torch.tensor([[int(number) for number in row[columns]] for row in doc]).flatten()
        torch.testing.assert_close(shifted_windows((4, 6), (2, 3), shift).to_mask(), box[:, None] == box)


def test_each_box_is_a_block_and_nothing_is_listed() -> None:
    graph = shifted_windows((4, 6), (2, 3), 1)
    assert graph.blocks.num_blocks == 9
    assert graph.explicit_edges.shape == (2, 0)


def test_one_axis_is_a_block_diagonal_and_a_large_window_everything() -> None:
    assert shifted_windows((13,), 4) == block_diagonal(13, 4)
    assert shifted_windows((5, 7), 2**70) == shifted_windows((5, 7), 2**70, 2**69) == full(35)


def test_maps_of_different_sizes_make_a_batch() -> None:
    shapes = torch.tensor([[3, 5], [0, 7], [1, 1], [7, 2]])
    batch = shifted_windows(shapes, (2, 3), (1, 0))
    singles = disjoint_union([shifted_windows(tuple(shape), (2, 3), (1, 0)) for shape in shapes.tolist()])
    assert batch == singles
    torch.testing.assert_close(batch.src_ptr, singles.src_ptr)


@pytest.mark.parametrize(
    ("window", "shift", "error", "advice"),
    [
        (0, 0, ValueError, "window must be at least 1, got 0."),
        (2.0, 0, TypeError, "window must be an int, got float 2.0."),
        ((2, 3, 4), 0, ValueError, "window must be an int or have one entry per axis, got 3 for 2 axes."),
        (2, -1, ValueError, "shift must be at least 0, got -1."),
        (2, 3, ValueError, "shift must be below window, got shift 3 and window 2. Use 1."),
        (2, (0, 0, 1), ValueError, "shift must be an int or have one entry per axis, got 3"),
    ],
)
def test_parameters_outside_their_domain_are_refused(
    window: int, shift: int, error: type[Exception], advice: str
) -> None:
    with pytest.raises(error, match=re.escape(advice)):
        shifted_windows((4, 6), window, shift)
