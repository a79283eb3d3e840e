"""The iterative relaxation: against one softmax after the other, and at its limits."""

import itertools
import re

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from graphattn.ops import graph_attention, hard_topk, iterative_topk
from graphattn.ops.listening import Call, listen

SIZES = [11, 0, 1, 7, 2]
PTR = torch.tensor([0, *itertools.accumulate(SIZES)])
GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(sum(SIZES), 5, generator=GENERATOR, dtype=torch.float64)
SCORES = (torch.randperm(sum(SIZES), generator=GENERATOR).double() + 1) / sum(SIZES)


def by_loop(x: Tensor, scores: Tensor, k: int, sharpness: float, ptr: Tensor) -> tuple[Tensor, list[int]]:
    rows, kept = [], []
    for start, stop in itertools.pairwise(ptr.tolist()):
        own = scores[start:stop]
        for node in sorted(torch.topk(own, min(k, stop - start)).indices.tolist()):
            weight = torch.softmax(-sharpness * (own - own[node]) ** 2, 0)
            rows.append(weight @ x[start:stop])
            kept.append(start + node)
    return torch.stack(rows), kept


@pytest.mark.parametrize("sharpness", [1.0, 100.0, 1e4])
@pytest.mark.parametrize("k", [1, 3, 13])
def test_it_is_one_softmax_after_the_other_with_its_gradients(k: int, sharpness: float) -> None:
    x, scores = X.clone().requires_grad_(), SCORES.clone().requires_grad_()
    pooled, kept = iterative_topk(x, scores, k, sharpness, ptr=PTR)
    expected, winners = by_loop(x, scores, k, sharpness, PTR)
    assert kept.tolist() == winners
    assert_close(pooled, expected, atol=1e-10, rtol=1e-8)
    toward = torch.randn(pooled.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    gradients = [torch.autograd.grad((out * toward).sum(), (x, scores)) for out in (pooled, expected)]
    for found, wanted in zip(*gradients, strict=True):
        assert_close(found, wanted, atol=1e-8, rtol=1e-7)
        assert bool((found != 0).any())


def test_float32_keeps_differences_of_near_scores() -> None:
    scores = 0.9 + 0.01 * SCORES  # the square, opened without care, would cancel all but three digits
    expected, _ = by_loop(X, scores, 3, 1e5, PTR)
    exact, _ = by_loop(X, scores.float().double(), 3, 1e5, PTR)
    pooled, _ = iterative_topk(X.float(), scores.float(), 3, 1e5, ptr=PTR)
    assert pooled.dtype == torch.float32
    assert_close(pooled.double(), exact, atol=1e-4, rtol=1e-3)
    assert_close(iterative_topk(X, scores, 3, 1e5, ptr=PTR)[0], expected, atol=1e-8, rtol=1e-7)


def test_sharper_is_nearer_to_the_hard_choice_and_blunt_is_the_mean() -> None:
    best, winners = hard_topk(X, SCORES, 3)
    errors = [float((iterative_topk(X, SCORES, 3, a)[0] - best).detach().norm()) for a in (1.0, 100.0, 1e3, 1e4)]
    assert errors == sorted(errors, reverse=True) and errors[-1] < 1e-5
    pooled, kept = iterative_topk(X, SCORES, 3, 1e-9)
    assert torch.equal(kept, winners)
    assert_close(pooled, X.mean(0).expand(3, -1), atol=1e-6, rtol=1e-6)


def test_masked_nodes_are_neither_kept_nor_read() -> None:
    mask = torch.ones(sum(SIZES), dtype=torch.bool)
    mask[[0, 11, 12]] = False
    x, scores = X.clone(), SCORES.clone()
    x[~mask], scores[~mask] = 1e6, torch.nan
    pooled, kept = iterative_topk(x, scores, 3, 50.0, ptr=PTR, mask=mask)
    expected, winners = by_loop(X[mask], SCORES[mask], 3, 50.0, torch.tensor([0, 10, 10, 10, 16, 18]))
    assert kept.tolist() == mask.nonzero()[:, 0][winners].tolist()
    assert_close(pooled, expected)


def test_straight_through_is_hard_forward_and_soft_backward_to_the_scores() -> None:
    x, scores = X.clone().requires_grad_(), SCORES.clone().requires_grad_()
    best, winners = hard_topk(x, scores, 3)
    through, kept = iterative_topk(x, scores, 3, 50.0, mode="straight_through")
    assert torch.equal(through, best) and torch.equal(kept, winners)
    soft = iterative_topk(x, scores, 3, 50.0)[0]
    to_x, to_scores = torch.autograd.grad(through.square().sum(), (x, scores))
    assert_close(to_x, torch.autograd.grad(best.square().sum(), x)[0])
    assert_close(to_scores, torch.autograd.grad((soft * 2 * best.detach()).sum(), scores)[0])
    assert bool((to_scores != 0).any())
    hard, kept = iterative_topk(x, scores, 3, mode="hard")
    assert torch.equal(hard, best) and torch.equal(kept, winners)


def test_its_weights_are_told_as_those_of_a_pool() -> None:
    class Ear:
        def __init__(self) -> None:
            self.calls: list[Call] = []

        def wants(self) -> bool:
            return True

        def hear(self, call: Call) -> None:
            self.calls.append(call)

    ear = Ear()
    with listen(ear):
        pooled, _ = iterative_topk(X, SCORES, 2, 50.0, ptr=PTR)
        graph_attention(X[:, None], X[:, None], X[:, None], ear.calls[0].graph.T @ ear.calls[0].graph)
    told, after = ear.calls
    assert (told.kind, after.kind) == ("pool", "attention")
    src, dst = told.graph.edge_index
    assert told.graph.dst_ptr.tolist() == [0, 2, 2, 3, 5, 7]
    assert_close(torch.zeros_like(pooled).index_add(0, dst, told.alpha.double() * X[src]), pooled)


def test_no_nodes_give_nothing() -> None:
    for ptr in (None, torch.tensor([0]), torch.tensor([0, 0, 0])):
        pooled, kept = iterative_topk(X[:0], SCORES[:0], 3, ptr=ptr)
        assert pooled.shape == (0, 5) and kept.shape == (0,)


@pytest.mark.parametrize("sharpness", [0.0, -1.0, float("nan"), float("inf"), True])
def test_a_sharpness_that_is_none_is_refused(sharpness: float) -> None:
    with pytest.raises(ValueError, match=re.escape("sharpness must be a number in (0, 1e30]")):
        iterative_topk(X, SCORES, 3, sharpness)


def test_other_bad_input_is_refused_as_by_successive_halving() -> None:
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        iterative_topk(X, SCORES, 0)
    with pytest.raises(ValueError, match="mode must be one of"):
        iterative_topk(X, SCORES, 1, mode="hardly")
    with pytest.raises(ValueError, match="num_nodes = 21, got"):
        iterative_topk(X[:3], SCORES, 1)
