"""The factor on the learning rate."""

from itertools import pairwise

import pytest

from graphattn.training.schedule import warmup_cosine


def test_it_rises_to_one_then_falls_to_zero() -> None:
    factors = [warmup_cosine(step, warmup_steps=7, total_steps=31) for step in range(35)]
    assert all(one < other for one, other in pairwise(factors[:8]))
    assert factors[7] == max(factors) == 1.0
    assert all(one > other for one, other in pairwise(factors[7:32]))
    assert factors[31:] == [0.0] * 4
    assert factors[7 + 12] == pytest.approx(0.5)  # half way down


@pytest.mark.parametrize(("warmup", "total"), [(0, 1), (0, 5), (5, 5), (9, 5)])
def test_every_step_before_the_last_moves(warmup: int, total: int) -> None:
    assert all(0 < warmup_cosine(step, warmup, total) <= 1 for step in range(total))
