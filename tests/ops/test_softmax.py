import pytest
import torch
from torch.testing import assert_close

from graphattn.ops import edge_softmax, segment_max, segment_sum
from graphattn.ops.softmax import softmax_and_lse

DST = torch.tensor([4, 0, 0, 4, 2, 4, 4])  # targets 1 and 3 have no edge; edges come in any order
SCORES = torch.tensor([1.5, -2, 0.25, 0, 3, -1, 2], dtype=torch.float64)[:, None] * torch.tensor([1.0, -0.5, 2.0])


def test_each_target_is_normalized_alone_and_sums_to_one() -> None:
    alpha = edge_softmax(SCORES, DST, 5)
    for target in (0, 2, 4):
        assert_close(alpha[target == DST], SCORES[target == DST].softmax(0))
    assert_close(segment_sum(alpha, DST, 5), torch.tensor([[1.0], [0], [1], [0], [1]]).double().expand(5, 3))


@pytest.mark.parametrize("shift", [1e4, -1e4])
def test_a_constant_added_to_a_target_changes_nothing(shift: float) -> None:
    moved = SCORES + torch.where(DST == 4, shift, 0.0)[:, None]
    assert_close(edge_softmax(moved, DST, 5), edge_softmax(SCORES, DST, 5))


def test_scores_that_are_all_minus_infinity_give_zeros_and_finite_gradients() -> None:
    scores = SCORES.clone()
    scores[DST == 4] = -torch.inf
    scores[1, 0] = -torch.inf
    scores.requires_grad_()
    alpha = edge_softmax(scores, DST, 5)
    assert (alpha[DST == 4] == 0).all() and alpha[1, 0] == 0 and alpha[2, 0] == 1
    (grad,) = torch.autograd.grad((alpha * torch.arange(7)[:, None]).sum(), scores)
    assert grad.isfinite().all() and (grad[DST == 4] == 0).all() and grad.abs().max() > 0


def test_no_edges_give_no_weights() -> None:
    assert edge_softmax(torch.zeros(0, 3), torch.empty(0, dtype=torch.int64), 5).shape == (0, 3)


def test_a_nan_stays_with_its_target_and_head() -> None:
    scores = SCORES.clone()
    scores[0, 1] = torch.nan
    alpha = edge_softmax(scores, DST, 5)
    touched = (DST == 4)[:, None] & torch.tensor([False, True, False])
    assert torch.equal(alpha.isnan(), touched)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    # 4096 equal scores: in float16 the sum of ones would stall at 2048
    alpha = edge_softmax(torch.zeros(4096, 1, dtype=dtype), torch.zeros(4096, dtype=torch.int64), 1)
    assert alpha.dtype == dtype
    assert_close(alpha, torch.full_like(alpha, 1 / 4096))


def test_any_trailing_shape_serves() -> None:
    wide = torch.randn(7, 3, 2, generator=torch.Generator().manual_seed(0))
    assert_close(edge_softmax(wide, DST, 5).flatten(1), edge_softmax(wide.flatten(1), DST, 5))
    assert_close(edge_softmax(wide[:, 0, 0], DST, 5), edge_softmax(wide, DST, 5)[:, 0, 0])


def test_first_and_second_derivatives_are_those_of_finite_differences() -> None:
    scores = SCORES.clone().requires_grad_()
    assert torch.autograd.gradcheck(edge_softmax, (scores, DST, 5))
    assert torch.autograd.gradgradcheck(edge_softmax, (scores, DST, 5))


def test_the_log_sum_exp_is_that_of_each_target_and_minus_infinity_without_edges() -> None:
    _, lse = softmax_and_lse(SCORES, DST, 5)
    for target in (0, 2, 4):
        assert_close(lse[target], SCORES[target == DST].logsumexp(0))
    assert (lse[[1, 3]] == -torch.inf).all()


def test_disagreeing_lengths_are_refused_with_advice() -> None:
    with pytest.raises(ValueError, match=r"scores \[7, 3\] and dst \[6\]. Pass one target per row"):
        edge_softmax(SCORES, DST[:-1], 5)


def test_it_is_made_of_segment_operations() -> None:
    weight = torch.exp(SCORES - segment_max(SCORES, DST, 5)[DST])
    assert_close(edge_softmax(SCORES, DST, 5), weight / segment_sum(weight, DST, 5)[DST])
