"""Learning rate over a run: linear warm-up, then half a cosine down to zero."""

import math


def warmup_cosine(step: int, warmup_steps: int, total_steps: int) -> float:
    r"""Returns the factor on the highest learning rate at an optimizer step.

        (step + 1) / (warmup_steps + 1)                                       below warmup_steps
        ½ (1 + cos(π (step − warmup_steps) / (total_steps − warmup_steps)))   from there on

    Args:
        step: 0 is the first one, which already moves.
        warmup_steps: steps below the highest rate.
        total_steps: steps of the run; the factor is 0 from there on.

    Source: Loshchilov & Hutter 2017 (SGDR), eq. 5, one period; warm-up as in Goyal et al. 2017, sec. 2.2.

    >>> [round(warmup_cosine(step, warmup_steps=1, total_steps=5), 3) for step in range(6)]
    [0.5, 1.0, 0.854, 0.5, 0.146, 0.0]
    """
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    if step >= total_steps:
        return 0.0
    return 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / (total_steps - warmup_steps)))
