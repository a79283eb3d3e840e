"""A generator for each draw of a training run, so that any single draw can be made again without those before it."""

import hashlib
import struct

import torch


def generator_for(seed: int, *, step: int = 0, layer: int = 0, rank: int = 0) -> torch.Generator:
    """Returns a fresh generator that depends on all four numbers, as a stated hash does, and on nothing else.

    Its seed is the little-endian value of the first 8 bytes of BLAKE2b over the four numbers as little-endian int64.

    Args:
        seed: of the run.
        step: of training.
        layer: that draws; two layers read different sources in one step.
        rank: of the process; two processes draw for different examples.

    Returns:
        torch.Generator on the CPU. Selections draw there and move what they drew, so that a graph on any device gets
        the same sources.

    Raises:
        TypeError: if a number is no int.
        ValueError: if one does not fit into 64 bits with sign.

    >>> def draw(**of): return torch.randint(10**6, (), generator=generator_for(7, **of)).item()
    >>> draw(step=3) == draw(step=3), draw(step=3) == draw(layer=3)
    (True, False)
    """
    numbers = {"seed": seed, "step": step, "layer": layer, "rank": rank}
    for name, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, int):
            raise TypeError(f"{name} must be an int, got {type(number).__name__} {number!r}. Pass int({name}).")
        if not -(2**63) <= number < 2**63:
            raise ValueError(f"{name} must fit into 64 bits with sign, got {number}. Pass {name} % 2**63.")
    digest = hashlib.blake2b(struct.pack("<4q", *numbers.values()), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little"))
