"""Attention rollout: how much of every input has come into each output, over all paths."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from graphattn.viz.attribution import Attribution
from graphattn.viz.ranks import carried_back, check_unsigned, entries

if TYPE_CHECKING:
    from graphattn.viz.pathways import Pathways

MAX_NUMBERS = 2**28  # of a result: 2 GiB
MAX_AT_ONCE = 2**23  # numbers, at all nodes for some of the outputs: 64 MiB


def rollout(pathways: Pathways, outputs: Tensor) -> Attribution:
    r"""Multiplies the weights along every path from an input into an output, and sums over the paths.

        rollout = A_L · … · A_2 · A_1,  where A_l [i, j] is the weight with which target i has source j

    as sparse products from the outputs downwards, so that only what the outputs reach is touched:
    O(edges · num_outputs), and memory of the result. Summaries, pools and memories are edges as others are.

    Args:
        pathways: weights of at least 0.
        outputs: int64 [num_outputs], nodes of any rank.

    Returns:
        Attribution; a row sums to the share of that output's influence that arrives along whole paths: to one where
        nothing was left out.

    Raises:
        ValueError: if a weight is negative, or the result would hold more than 2^28 numbers.

    Source: Abnar and Zuidema 2020, sec. 3, where A = 0.5 I + 0.5 · mean over heads of alpha, the default of
        `graphattn.viz.pathways`; abstraction and pooled nodes are ours.

    >>> from graphattn.viz.pathways import Pathways
    >>> number = torch.arange(3)
    >>> chain = Pathways(torch.tensor([[0, 1], [1, 2]]), torch.tensor([0.5, 0.25], dtype=torch.float64),
    ...                  *torch.zeros(3, 2).long(), number, *torch.zeros(2, 3).long(), None, "by hand", 1.0)
    >>> chain.rollout().weight
    tensor([[0.1250]], dtype=torch.float64)
    """
    check_unsigned(pathways, "rollout")
    inputs = pathways.inputs
    if len(outputs) * len(inputs) > MAX_NUMBERS:
        raise ValueError(
            f"rollout would hold {len(outputs):,} outputs × {len(inputs):,} inputs, above the limit of {MAX_NUMBERS:,} "
            "numbers. Name some outputs: rollout(outputs=[0, 1])."
        )
    entered = list(entries(pathways))
    weight = torch.empty(len(outputs), len(inputs), dtype=torch.float64)
    at_once = max(1, MAX_AT_ONCE // max(1, pathways.num_nodes))
    for first in range(0, len(outputs), at_once):
        some = outputs[first : first + at_once].numpy()
        at = np.zeros((pathways.num_nodes, some.size))
        at[some, np.arange(some.size)] = 1.0
        weight[first : first + some.size] = torch.from_numpy(carried_back(entered, at)[inputs.numpy()].T)
    return Attribution(weight, outputs, inputs, f"rollout of {pathways.method}", pathways.kept)
