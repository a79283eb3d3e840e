"""Generators that depend on seed, step, layer and rank, and on nothing else."""

import itertools

import pytest
import torch

from graphattn.selection import generator_for


def number(*of: int) -> int:
    seed, step, layer, rank = of
    return int(torch.randint(2**62, (), generator=generator_for(seed, step=step, layer=layer, rank=rank)))


def test_all_four_numbers_count_and_none_stands_in_for_another() -> None:
    every = list(itertools.product([0, 1, -1, 2**40], repeat=4))
    drawn = {number(*of) for of in every}
    assert len(drawn) == len(every)


def test_the_same_numbers_make_the_same_generator_whatever_was_drawn_before() -> None:
    torch.manual_seed(0)
    first = number(3, 5, 7, 11)
    torch.rand(13)
    state = torch.get_rng_state()
    assert number(3, 5, 7, 11) == first
    assert torch.equal(torch.get_rng_state(), state)


def test_a_step_layer_and_rank_left_out_are_zero() -> None:
    assert generator_for(3).initial_seed() == generator_for(3, step=0, layer=0, rank=0).initial_seed()


def test_its_seed_is_the_stated_hash() -> None:
    import hashlib

    packed = b"".join(value.to_bytes(8, "little", signed=True) for value in (3, 5, -7, 11))
    expected = int.from_bytes(hashlib.blake2b(packed, digest_size=8).digest(), "little")
    assert generator_for(3, step=5, layer=-7, rank=11).initial_seed() == expected


@pytest.mark.parametrize(
    "of, error, advice",
    [
        ({"seed": 1.5}, TypeError, r"seed must be an int, got float 1.5. Pass int\(seed\)"),
        ({"seed": 0, "step": True}, TypeError, "step must be an int, got bool True"),
        ({"seed": 0, "layer": None}, TypeError, "layer must be an int, got NoneType"),
        ({"seed": 0, "rank": 2**63}, ValueError, "rank must fit into 64 bits with sign, got 9223372036854775808. Pass"),
    ],
)
def test_a_mistake_is_answered_with_what_to_do(of: dict, error: type[Exception], advice: str) -> None:
    with pytest.raises(error, match=advice):
        generator_for(**of)
