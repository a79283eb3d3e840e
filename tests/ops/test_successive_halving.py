"""Successive halving: against loops that blend rows pair by pair, and at its limits."""

import itertools
import re

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from graphattn.ops import successive_halving_assignment, successive_halving_topk

SIZES = [11, 0, 1, 16, 2, 7, 3]
DIM = 5


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def scores_of(num_nodes: int, seed: int = 0) -> Tensor:
    """Scores in (0, 1], no two of them within 1 / (2 num_nodes) of each other."""
    order = torch.randperm(num_nodes, generator=torch.Generator().manual_seed(seed)).double()
    return (order + 0.5) / max(num_nodes, 1)


def ptr_of(sizes: list[int]) -> Tensor:
    return torch.tensor([0, *itertools.accumulate(sizes)])


def by_loop(x: Tensor, scores: Tensor, k: int, base: float, first: int = 0) -> tuple[list[Tensor], list[int]]:
    """One graph, as the paper says it: rows and scores blended round after round, lists sorted by Python."""
    left = [(scores[i], x[i], first + i) for i in range(len(scores))]
    while len(left) > k:
        num_pairs = min(len(left) // 2, len(left) - k)
        left.sort(key=lambda entry: (-entry[0].item(), entry[2]))
        passing, rest = left[: len(left) - 2 * num_pairs], left[len(left) - 2 * num_pairs :]
        for (good, row, node), (bad, other, _) in zip(rest[:num_pairs], reversed(rest[num_pairs:]), strict=True):
            weight = torch.softmax(torch.stack([base**good, base**bad]), 0)
            passing.append((weight[0] * good + weight[1] * bad, weight[0] * row + weight[1] * other, node))
        left = passing
    left.sort(key=lambda entry: entry[2])
    return [row for _, row, _ in left], [node for _, _, node in left]


def batch_by_loop(x: Tensor, scores: Tensor, counts: list[int], base: float, sizes: list[int]) -> tuple[Tensor, Tensor]:
    rows, kept = [], []
    for (start, stop), k in zip(itertools.pairwise(ptr_of(sizes).tolist()), counts, strict=True):
        more, winners = by_loop(x[start:stop], scores[start:stop], k, base, start)
        rows, kept = rows + more, kept + winners
    return torch.stack(rows) if rows else x[:0], torch.tensor(kept, dtype=torch.int64)


# --- against loops -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", [1.0, 5.0, 20.0, 1e6])
@pytest.mark.parametrize("k", [1, 2, 3, 5, 16, 23])
def test_a_ragged_batch_is_the_loop_over_its_graphs_with_its_gradients(k: int, base: float) -> None:
    x, scores = drawn(sum(SIZES), DIM).requires_grad_(), scores_of(sum(SIZES)).requires_grad_()
    pooled, kept = successive_halving_topk(x, scores, k, base, ptr=ptr_of(SIZES))
    expected, winners = batch_by_loop(x, scores, [k] * len(SIZES), base, SIZES)
    assert torch.equal(kept, winners) and kept.tolist() == sorted(kept.tolist())
    assert_close(pooled, expected, atol=1e-12, rtol=1e-10)
    toward = drawn(*pooled.shape, seed=1)
    if k >= max(SIZES):  # all graphs keep all, and no score matters
        assert torch.equal(pooled, x)
        return
    gradients = [torch.autograd.grad((out * toward).sum(), (x, scores)) for out in (pooled, expected)]
    for found, wanted in zip(*gradients, strict=True):
        assert_close(found, wanted, atol=1e-10, rtol=1e-8)
        assert base in (1.0, 1e6) or bool((found != 0).any())  # an even blend, or a hard one, hears no score


def test_each_graph_may_have_a_count_of_its_own() -> None:
    counts = [4, 3, 2, 1, 5, 6, 2]
    x, scores = drawn(sum(SIZES), DIM), scores_of(sum(SIZES), seed=2)
    pooled, kept = successive_halving_topk(x, scores, torch.tensor(counts), ptr=ptr_of(SIZES))
    expected, winners = batch_by_loop(x, scores, counts, 20.0, SIZES)
    assert torch.equal(kept, winners)
    assert_close(pooled, expected)


@pytest.mark.parametrize("num_nodes", range(1, 14))
def test_every_number_of_nodes_ends_at_every_count(num_nodes: int) -> None:
    x, scores = drawn(num_nodes, DIM, seed=num_nodes), scores_of(num_nodes, seed=num_nodes)
    for k in range(1, num_nodes + 2):
        pooled, kept = successive_halving_topk(x, scores, k)
        expected, winners = by_loop(x, scores, k, 20.0)
        assert kept.tolist() == winners and len(winners) == min(k, num_nodes)
        assert_close(pooled, torch.stack(expected))


def test_float32_is_float64_to_its_own_precision_and_keeps_its_dtype() -> None:
    x, scores = drawn(67, DIM), scores_of(67)
    wide, winners = successive_halving_topk(x, scores, k=7)
    narrow, kept = successive_halving_topk(x.float(), scores.float(), k=7)
    assert narrow.dtype == torch.float32 and torch.equal(kept, winners)
    assert_close(narrow.double(), wide, atol=1e-5, rtol=1e-5)
    half, _ = successive_halving_topk(x.half(), scores.half(), k=7)
    assert half.dtype == torch.float16
    assert_close(
        half.double(), successive_halving_topk(x.half().double(), scores.half().double(), k=7)[0], atol=5e-3, rtol=5e-3
    )


def test_strided_inputs_give_the_same() -> None:
    x, scores = drawn(11, DIM), scores_of(11)
    expected, winners = successive_halving_topk(x, scores, k=3)
    strided = drawn(11, 2, seed=3)
    strided[:, 1] = scores
    pooled, kept = successive_halving_topk(x.t().contiguous().t(), strided[:, 1], k=3)
    assert torch.equal(kept, winners)
    assert_close(pooled, expected)


# --- limits --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["soft", "straight_through", "hard"])
@pytest.mark.parametrize("k", [11, 13])
def test_at_least_as_many_as_there_are_is_the_identity(k: int, mode: str) -> None:
    x = drawn(11, DIM)
    pooled, kept = successive_halving_topk(x, scores_of(11), k, mode=mode)
    assert torch.equal(pooled, x) and torch.equal(kept, torch.arange(11))


@pytest.mark.parametrize("base", [1.0, 20.0])
def test_equal_scores_give_means_of_equal_groups(base: float) -> None:
    assignment = successive_halving_assignment(torch.full((16,), 0.3, dtype=torch.float64), 4, base)
    assert_close(assignment.weight, torch.full((16,), 0.25, dtype=torch.float64))
    assert torch.bincount(assignment.graph.edge_index[1]).tolist() == [4, 4, 4, 4]
    assert assignment.kept.tolist() == [0, 1, 2, 3]  # of equals the earlier wins


def test_base_one_blends_evenly_whatever_the_scores() -> None:
    x, scores = drawn(8, DIM), scores_of(8)
    assert_close(successive_halving_topk(x, scores, 1, 1.0)[0], x.mean(0, keepdim=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("base", [1e6, 1e30])
def test_a_large_base_is_the_hard_choice_with_finite_gradients(base: float, dtype: torch.dtype) -> None:
    x, scores = drawn(23, DIM).to(dtype).requires_grad_(), scores_of(23).to(dtype).requires_grad_()
    pooled, kept = successive_halving_topk(x, scores, 6, base)
    best = torch.topk(scores, 6).indices.sort().values
    assert torch.equal(kept, best)
    assert_close(pooled, x[best], atol=1e-4, rtol=1e-4)
    assert all(bool(grad.isfinite().all()) for grad in torch.autograd.grad(pooled.square().sum(), (x, scores)))


def test_a_smaller_base_is_softer() -> None:
    scores = torch.tensor([0.7, 0.3], dtype=torch.float64)
    shares = [float(successive_halving_assignment(scores, 1, base).weight[0]) for base in (1.0, 1.5, 3.0, 20.0, 60.0)]
    assert shares[0] == 0.5 and shares == sorted(set(shares))


def test_close_scores_blend_as_the_peaked_softmax_says() -> None:
    weight = successive_halving_assignment(torch.tensor([0.49, 0.51], dtype=torch.float64), 1).weight
    gap = 20**0.51 - 20**0.49
    assert_close(weight, torch.softmax(torch.tensor([0.0, gap], dtype=torch.float64), 0))
    assert 0.56 < float(weight[1]) < 0.58


def test_of_uniform_scores_the_winners_are_nearly_always_the_best() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(2003 * 16, generator=generator, dtype=torch.float64).clamp(min=1e-6)
    ptr = torch.arange(0, 2003 * 16 + 1, 16)
    kept = successive_halving_assignment(scores, 4, ptr=ptr).kept.view(2003, 4)
    best = torch.topk(scores.view(2003, 16), 4).indices.sort().values + ptr[:-1, None]
    assert float((kept == best).all(1).double().mean()) > 0.99


def test_no_nodes_and_no_graphs_give_nothing() -> None:
    x, scores = drawn(0, DIM), scores_of(0)
    for ptr in (None, torch.tensor([0]), torch.tensor([0, 0, 0])):
        for mode in ("soft", "straight_through", "hard"):
            pooled, kept = successive_halving_topk(x, scores, 3, ptr=ptr, mode=mode)
            assert pooled.shape == (0, DIM) and kept.shape == (0,) and kept.dtype == torch.int64


# --- the pooling graph ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["soft", "straight_through", "hard"])
def test_rows_of_the_pooling_graph_sum_to_one_and_every_input_enters_one(mode: str) -> None:
    assignment = successive_halving_assignment(scores_of(sum(SIZES)), 3, ptr=ptr_of(SIZES), mode=mode)
    src, dst = assignment.graph.edge_index
    assert sorted(src.tolist()) == list(range(sum(SIZES)))
    assert bool((torch.diff(dst * sum(SIZES) + src) > 0).all())  # canonical order
    total = torch.zeros(assignment.graph.num_dst_nodes, dtype=torch.float64).index_add(0, dst, assignment.weight)
    assert_close(total, torch.ones_like(total))
    assert assignment.graph.src_ptr.tolist() == ptr_of(SIZES).tolist()
    assert torch.diff(assignment.graph.dst_ptr).tolist() == [min(3, size) for size in SIZES]
    is_own = src == assignment.kept[dst]  # the winner's own edge
    assert int(is_own.sum()) == assignment.graph.num_dst_nodes
    if mode != "soft":
        assert torch.equal(assignment.weight.detach(), is_own.double())


def test_pooled_is_the_sum_of_weights_times_inputs() -> None:
    x, scores = drawn(sum(SIZES), DIM), scores_of(sum(SIZES), seed=4)
    assignment = successive_halving_assignment(scores, 2, ptr=ptr_of(SIZES))
    matrix = torch.zeros(assignment.graph.num_dst_nodes, sum(SIZES), dtype=torch.float64)
    src, dst = assignment.graph.edge_index
    matrix[dst, src] = assignment.weight
    pooled, kept = successive_halving_topk(x, scores, 2, ptr=ptr_of(SIZES))
    assert torch.equal(kept, assignment.kept)
    assert_close(pooled, matrix @ x)
    assert_close(batch_by_loop(torch.eye(sum(SIZES), dtype=torch.float64), scores, [2] * 7, 20.0, SIZES)[0], matrix)


# --- modes and gradients -------------------------------------------------------------------------------------------


def test_gradients_are_those_of_differences_also_the_second() -> None:
    x, scores = drawn(9, 2).requires_grad_(), scores_of(9).requires_grad_()
    ptr = torch.tensor([0, 7, 7, 9])

    def pool(x: Tensor, scores: Tensor) -> Tensor:
        return successive_halving_topk(x, scores, 2, 5.0, ptr=ptr)[0]

    assert torch.autograd.gradcheck(pool, (x, scores))
    assert torch.autograd.gradgradcheck(pool, (x, scores))
    for grad in torch.autograd.grad(pool(x, scores).square().sum(), (x, scores)):
        assert bool((grad[:7] != 0).all())


def test_hard_and_straight_through_return_the_winners_rows_exactly() -> None:
    x, scores = drawn(11, DIM).float(), scores_of(11).float()
    _, kept = successive_halving_topk(x, scores, 3)
    for mode in ("hard", "straight_through"):
        pooled, winners = successive_halving_topk(x, scores, 3, mode=mode)
        assert torch.equal(winners, kept) and torch.equal(pooled, x[kept])


def test_straight_through_has_the_hard_gradient_to_x_and_the_soft_one_to_scores() -> None:
    x, scores = drawn(11, DIM).requires_grad_(), scores_of(11).requires_grad_()
    toward = drawn(3, DIM, seed=1)

    def gradients(mode: str) -> tuple[Tensor | None, ...]:
        pooled, _ = successive_halving_topk(x, scores, 3, 5.0, mode=mode)
        return torch.autograd.grad((pooled * toward).sum(), (x, scores), allow_unused=True)

    soft, through, hard = gradients("soft"), gradients("straight_through"), gradients("hard")
    assert hard[1] is None and through[1] is not None and soft[0] is not None and hard[0] is not None
    assert_close(through[0], hard[0])
    assert_close(through[1], soft[1])
    assert bool((through[1] != 0).all())
    assert int((hard[0] != 0).any(1).sum()) == 3 and bool((soft[0] != 0).any(1).all())


def test_a_hard_choice_does_not_read_losers() -> None:
    x, scores = drawn(11, DIM), scores_of(11)
    kept = successive_halving_topk(x, scores, 3)[1]
    x[scores.argmin()] = torch.inf
    assert bool(successive_halving_topk(x, scores, 3, mode="hard")[0].isfinite().all())
    assert torch.equal(successive_halving_topk(x, scores, 3, mode="hard")[0], x[kept])


# --- masks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["soft", "straight_through", "hard"])
def test_padding_changes_no_bit_and_is_not_read(mode: str) -> None:
    x, scores = drawn(sum(SIZES), DIM), scores_of(sum(SIZES))
    width = max(SIZES)
    padded_x = torch.full((len(SIZES), width, DIM), torch.nan, dtype=torch.float64)
    padded_scores = torch.full((len(SIZES), width), torch.nan, dtype=torch.float64)
    mask = torch.arange(width) < torch.tensor(SIZES)[:, None]
    padded_x[mask], padded_scores[mask] = x, scores
    leaves = [padded_x.flatten(0, 1).requires_grad_(), padded_scores.flatten().requires_grad_()]
    pooled, kept = successive_halving_topk(
        *leaves, 3, ptr=torch.arange(0, mask.numel() + 1, width), mask=mask.flatten(), mode=mode
    )
    expected, winners = successive_halving_topk(x, scores, 3, ptr=ptr_of(SIZES), mode=mode)
    assert torch.equal(pooled, expected)
    assert torch.equal(kept, mask.flatten().nonzero()[:, 0][winners])
    for grad in torch.autograd.grad(pooled.square().sum(), leaves, allow_unused=True):
        assert grad is None or (bool(grad.isfinite().all()) and not bool(grad[~mask.flatten()].any()))


def test_a_mask_that_leaves_nobody_out_is_none() -> None:
    x, scores = drawn(11, DIM), scores_of(11)
    everybody = torch.ones(11, dtype=torch.bool)
    assert torch.equal(
        successive_halving_topk(x, scores, 3, mask=everybody)[0], successive_halving_topk(x, scores, 3)[0]
    )
    assert successive_halving_topk(x, scores, 3, mask=~everybody)[0].shape == (0, DIM)


# --- memory, bad input ---------------------------------------------------------------------------------------------


def test_memory_is_that_of_the_input() -> None:
    num_nodes = 100_003  # n² bits would be more than a gigabyte
    x, scores = torch.ones(num_nodes, 2), torch.linspace(0.01, 1, num_nodes)
    held: list[int] = []

    def keep_size(tensor: Tensor) -> Tensor:
        held.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep_size, lambda tensor: tensor):
        pooled, _ = successive_halving_topk(x, scores.requires_grad_(), 7)
    assert pooled.shape == (7, 2)
    assert max(held) <= 2 * num_nodes and sum(held) < 60 * num_nodes


@pytest.mark.parametrize(
    ("changes", "error", "advice"),
    [
        ({"k": 0}, ValueError, "k must be at least 1, got 0"),
        ({"k": torch.tensor([3, 0])}, ValueError, "k must be at least 1, got 0"),
        ({"k": torch.tensor([3])}, ValueError, "k must be int64 [num_graphs] = [2], got torch.int64 [1]"),
        ({"k": 0.5}, TypeError, "k must be an int, or int64 [num_graphs], got float 0.5"),
        ({"k": True}, TypeError, "got bool True"),
        ({"base": 0.5}, ValueError, "base must be a number in [1, 1e+30], got 0.5"),
        ({"base": float("inf")}, ValueError, "got inf"),
        ({"base": float("nan")}, ValueError, "got nan"),
        ({"mode": "softly"}, ValueError, "mode must be one of soft, straight_through, hard, got 'softly'"),
        ({"ptr": torch.tensor([0, 3])}, ValueError, "ptr must rise from 0 to the number of entries, 4"),
        ({"ptr": torch.tensor([0.0, 4.0])}, ValueError, "ptr must be int64"),
        ({"mask": torch.ones(4)}, ValueError, "mask must be bool [num_nodes] = [4], got torch.float32 [4]"),
        ({"mask": torch.ones(3, dtype=torch.bool)}, ValueError, "got torch.bool [3]"),
        ({"scores": torch.tensor([0.5, 0.0, 0.1, 1.0])}, ValueError, "scores must lie in (0, 1], got 0.0 for node 1"),
        ({"scores": torch.tensor([0.5, 0.1, 1.5, 1.0])}, ValueError, "got 1.5 for node 2"),
        ({"scores": torch.tensor([0.5, 0.1, 0.5, torch.nan])}, ValueError, "got nan for node 3. Pass them through a"),
        ({"scores": torch.tensor([torch.inf, 0.1, 0.5, 0.1])}, ValueError, "got inf for node 0"),
        ({"scores": torch.ones(4, 1)}, ValueError, "scores must be floating [num_nodes], got torch.float32 [4, 1]"),
        ({"scores": torch.ones(4).long()}, ValueError, "scores must be floating [num_nodes], got torch.int64 [4]"),
        ({"scores": torch.ones(3), "ptr": None}, ValueError, "x must be floating [num_nodes, dim] with num_nodes = 3"),
        ({"x": torch.zeros(4)}, ValueError, "x must be floating [num_nodes, dim] with num_nodes = 4, got"),
        ({"x": torch.zeros(4, 2).long()}, ValueError, "got torch.int64 [4, 2]"),
        ({"x": [[1.0]]}, TypeError, "x must be a torch.Tensor, got list"),
        ({"scores": [0.5]}, TypeError, "scores must be a torch.Tensor, got list"),
    ],
)
def test_bad_input_is_refused_with_advice(changes: dict, error: type[Exception], advice: str) -> None:
    good = {"x": torch.zeros(4, 2), "scores": torch.full((4,), 0.5), "k": 1, "ptr": torch.tensor([0, 3, 4])}
    with pytest.raises(error, match=re.escape(advice)):
        successive_halving_topk(**(good | changes))


def test_a_score_out_of_range_is_named_by_its_number_among_all() -> None:
    mask = torch.tensor([False, True, True])
    with pytest.raises(ValueError, match=r"got 2\.0 for node 2"):
        successive_halving_topk(torch.zeros(3, 1), torch.tensor([5.0, 0.5, 2.0]), 1, mask=mask)
