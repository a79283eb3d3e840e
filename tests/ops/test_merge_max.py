"""Maxima over merged sets equal the loop over sets, in output and gradient."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from graphattn.ops import merge_max as module
from graphattn.ops._impl.numba import threads
from graphattn.ops.merge_max import Merges, can_merge, merge_max

# sets of 7 rows: a chain over 0 … 3, a tree over 4 … 6, both, one row, nothing
MERGES = Merges(
    torch.tensor([0, 7, 8, 4, 10, 9]), torch.tensor([1, 2, 3, 5, 6, 11]), torch.tensor([9, 11, 12, 8, 2, -1, 12])
)
SETS = [[0, 1, 2, 3], [4, 5, 6], [*range(7)], [0, 1, 2], [2], [], [*range(7)]]


def looped(values: Tensor) -> Tensor:
    none = values.new_zeros(values.shape[1])
    return torch.stack([values[rows].amax(0) if rows else none for rows in SETS])


def drawn(channels: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(channels)
    return torch.randn(7, channels, generator=generator, dtype=dtype).requires_grad_()


@pytest.mark.parametrize("channels", [1, 8, 13, 16, 37])
def test_maxima_and_gradients_equal_the_loop_over_sets(channels: int) -> None:
    values = drawn(channels)
    found, wanted = merge_max(values, MERGES), looped(values)
    assert torch.equal(found, wanted)
    weight = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ours, theirs = (torch.autograd.grad((x * weight).sum(), values)[0] for x in (found, wanted))
    assert_close(ours, theirs)
    assert theirs.abs().max() > 0


def test_a_tie_gives_the_gradient_to_one_row() -> None:
    values = torch.zeros(7, 3, requires_grad=True)
    (grad,) = torch.autograd.grad(merge_max(values, MERGES).sum(), values)
    assert torch.equal(grad, grad.round()) and float(grad.sum()) == 3 * sum(map(bool, SETS))


def test_strided_and_half_precision_values_are_read_right() -> None:
    values = drawn(13, torch.float32).detach()
    assert torch.equal(merge_max(values.t().contiguous().t(), MERGES), looped(values))
    assert torch.equal(merge_max(values.bfloat16(), MERGES), looped(values.bfloat16()))


def test_nothing_but_the_values_is_kept_for_the_backward() -> None:
    values, kept = drawn(13), []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        merge_max(values, MERGES)
    assert [x.data_ptr() for x in kept if x.is_floating_point()] == [values.data_ptr()]


def test_threads_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "SMALL_WORK", 0)  # so little work would run on one
    values, before, found = drawn(64), torch.get_num_threads(), []
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            found.append(torch.autograd.grad(merge_max(values, MERGES).sum(), values)[0])
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*found)


def test_it_says_where_it_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    values = drawn(3)
    assert can_merge(values) and not can_merge(values.to("meta"))
    monkeypatch.setattr(module, "has_numba", lambda: False)
    assert not can_merge(values)


def test_the_operators_pass_opcheck() -> None:
    torch.library.opcheck(module._merge_max, (drawn(8), *MERGES))
    torch.library.opcheck(module._merge_max_backward, (torch.randn(7, 8).double(), drawn(8).detach(), *MERGES))


def test_a_second_derivative_is_refused() -> None:
    values = drawn(3)
    (grad,) = torch.autograd.grad(merge_max(values, MERGES).square().sum(), values, create_graph=True)
    with pytest.raises(NotImplementedError, match="double backward"):
        grad.sum().backward()


def test_a_nan_is_kept_on_either_side_of_a_merge() -> None:
    for row in range(7):
        values = drawn(8).detach()
        values[row] = torch.nan
        found, expected = merge_max(values, MERGES), merge_max(values.nan_to_num(1e9), MERGES)
        assert torch.equal(found.isnan().any(1), (expected == 1e9).any(1))
