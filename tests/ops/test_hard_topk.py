"""The hard top-k: against torch.topk graph by graph, and at its corners."""

import itertools

import pytest
import torch
from torch.testing import assert_close

from graphattn.ops import hard_topk, hard_topk_assignment, successive_halving_topk

SIZES = [11, 0, 1, 7, 2]
PTR = torch.tensor([0, *itertools.accumulate(SIZES)])
GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(sum(SIZES), 5, generator=GENERATOR, dtype=torch.float64)
SCORES = (torch.randperm(sum(SIZES), generator=GENERATOR).double() + 1) / sum(SIZES)


@pytest.mark.parametrize("k", [1, 2, 3, 11, 13])
def test_it_keeps_the_best_of_each_graph_in_their_order(k: int) -> None:
    best = [
        int(start) + node
        for start, stop in itertools.pairwise(PTR)
        for node in sorted(torch.topk(SCORES[start:stop], min(k, int(stop - start))).indices.tolist())
    ]
    pooled, kept = hard_topk(X, SCORES, k, ptr=PTR)
    assert kept.tolist() == best
    assert torch.equal(pooled, X[best])


def test_it_is_successive_halving_with_a_large_base() -> None:
    counts = torch.tensor([4, 1, 1, 5, 1])
    sharp, winners = successive_halving_topk(X, SCORES, counts, 1e30, ptr=PTR)
    pooled, kept = hard_topk(X, SCORES, counts, ptr=PTR)
    assert torch.equal(kept, winners)
    assert_close(pooled, sharp)


def test_of_equal_scores_the_earlier_wins() -> None:
    assert hard_topk(X, torch.full_like(SCORES, 0.5), 2, ptr=PTR)[1].tolist() == [0, 1, 11, 12, 13, 19, 20]


def test_masked_nodes_are_never_kept_whatever_their_score() -> None:
    scores, mask = SCORES.clone(), torch.ones_like(SCORES, dtype=torch.bool)
    mask[[0, 11, 12]] = False
    scores[~mask] = torch.nan
    _, kept = hard_topk(X, scores, 3, ptr=PTR, mask=mask)
    inside = torch.arange(sum(SIZES))[mask]
    shorter = torch.tensor([0, 10, 10, 10, 16, 18])
    assert torch.equal(kept, inside[hard_topk(X[mask], SCORES[mask], 3, ptr=shorter)[1]])


def test_the_gradient_reaches_what_is_kept_alone() -> None:
    x = X.clone().requires_grad_()
    pooled, kept = hard_topk(x, SCORES.clone().requires_grad_(), 3)
    (grad,) = torch.autograd.grad(pooled.sum(), x)
    assert_close(grad, torch.zeros_like(X).index_fill(0, kept, 1.0))


def test_its_graph_has_an_edge_of_weight_one_for_each_that_is_kept() -> None:
    assignment = hard_topk_assignment(SCORES.float(), 2, ptr=PTR)
    assert torch.equal(assignment.graph.edge_index[0], assignment.kept)
    assert assignment.graph.edge_index[1].tolist() == list(range(7))
    assert torch.equal(assignment.weight, torch.ones(7))
    assert assignment.graph.dst_ptr.tolist() == [0, 2, 2, 3, 5, 7]
    assert hard_topk_assignment(SCORES[:0], 2).weight.shape == (0,)


def test_strided_scores_give_the_same() -> None:
    both = torch.stack([SCORES, SCORES.flip(0)], 1)
    assert torch.equal(hard_topk(X, both[:, 0], 3)[1], hard_topk(X, SCORES, 3)[1])


@pytest.mark.parametrize("score", [0.0, -1.0, 1.5, torch.nan])
def test_scores_that_are_none_are_refused(score: float) -> None:
    with pytest.raises(ValueError, match=r"scores must lie in \(0, 1\], got .* for node 1"):
        hard_topk(X[:2], torch.tensor([0.5, score]), 1)
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        hard_topk(X, SCORES, 0)
