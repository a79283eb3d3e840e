"""The law of the dropout hash: its rate, and that edges, heads and seeds know nothing of each other."""

import math

import pytest
import torch
from torch import Tensor

from graphattn.ops import dropout_factor

NUM_EDGES = 20_011
EDGES = torch.arange(NUM_EDGES)


def is_kept(seed: int, edges: Tensor = EDGES, num_heads: int = 6, dropout_p: float = 0.5) -> Tensor:
    return dropout_factor(torch.tensor(seed), edges, num_heads, dropout_p) > 0


def correlation(left: Tensor, right: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([left.flatten().double(), right.flatten().double()]))[0, 1])


BOUND = 4.5 / math.sqrt(NUM_EDGES)  # of a correlation of independent bits, 4.5 standard deviations


@pytest.mark.parametrize("dropout_p", [0.1, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("seed", [0, 1, -1, 2**40 + 7])
def test_weights_are_dropped_at_the_rate_asked_for_in_every_head(seed: int, dropout_p: float) -> None:
    dropped = (~is_kept(seed, dropout_p=dropout_p)).double().mean(0)  # [num_heads]
    assert (dropped - dropout_p).abs().max() < 4.5 * math.sqrt(dropout_p * (1 - dropout_p) / NUM_EDGES)


@pytest.mark.parametrize("dropout_p", [0.1, 0.5, 0.9])
def test_what_is_kept_grows_so_that_the_mean_stays_one(dropout_p: float) -> None:
    factor = dropout_factor(torch.tensor(3), EDGES, 2, dropout_p)
    assert factor.dtype == torch.float64 and factor.shape == (NUM_EDGES, 2)
    kept = torch.tensor(1 / (1 - dropout_p), dtype=torch.float64)
    assert torch.equal(factor, torch.where(factor > 0, kept, 0.0))
    assert abs(float(factor.mean()) - 1) < 4.5 * math.sqrt(dropout_p / (1 - dropout_p) / (2 * NUM_EDGES))


def test_probability_zero_keeps_everything_and_one_drops_everything() -> None:
    assert (dropout_factor(torch.tensor(3), EDGES, 3, 0.0) == 1).all()
    assert (dropout_factor(torch.tensor(3), EDGES, 3, 1.0) == 0).all()


def test_a_larger_probability_drops_what_a_smaller_one_did() -> None:
    assert (is_kept(3, dropout_p=0.7) <= is_kept(3, dropout_p=0.2)).all()


def test_heads_are_independent() -> None:
    kept = is_kept(5)
    assert all(abs(correlation(kept[:, a], kept[:, b])) < BOUND for a in range(6) for b in range(a))


@pytest.mark.parametrize("step", [1, 2, 3, 64, 4096])
def test_edges_are_independent(step: int) -> None:
    kept = is_kept(5)
    assert abs(correlation(kept[step:], kept[:-step])) < BOUND
    assert abs(correlation(kept[step:, 1:], kept[:-step, :-1])) < BOUND  # an edge's head and its neighbor's next one


@pytest.mark.parametrize("other", [6, 4, -6, 5 + 2**32, 5 + 2**63 - 2**33, 5 ^ 0x9E3779B9])
def test_seeds_are_independent_in_both_halves(other: int) -> None:
    assert abs(correlation(is_kept(5), is_kept(other))) < BOUND


@pytest.mark.parametrize("offset", [2**32, 2**33, 2**62])
def test_both_halves_of_an_edge_number_count(offset: int) -> None:
    assert abs(correlation(is_kept(5), is_kept(5, EDGES + offset))) < BOUND


def test_the_same_seed_and_edge_give_the_same_draw_in_any_company() -> None:
    kept = is_kept(5)
    some = torch.tensor([[7, 19_999], [0, 7]])
    assert torch.equal(is_kept(5, some), kept[some])
    assert torch.equal(is_kept(5, num_heads=2), kept[:, :2])
    assert torch.equal(dropout_factor(torch.tensor([5]), EDGES, 6, 0.5) > 0, kept)
