"""Patterns for long documents, each the union of simpler builders: Longformer and BigBird."""

from collections.abc import Sequence

import torch
from torch import Tensor

from graphattn.connectivity.hubs import global_tokens
from graphattn.connectivity.random_edges import random_regular
from graphattn.connectivity.window import sliding_window
from graphattn.graph import AttentionGraph, Sizes


def longformer(
    sizes: Sizes, radius: int, global_indices: Sequence[int] | Tensor = (0,), *, dilation: int = 1
) -> AttentionGraph:
    r"""Connects each token to its window, and a few global tokens to everything.

    E = sliding_window(sizes, radius, dilation) ∪ global_tokens(sizes, global_indices). With k global tokens, a graph of
    n nodes has as many edges as its window, n(2r + 1) − r(r + 1) for dilation 1, and 2kn − k² less those pairs of them
    that lie in the window; for k = 1, indices [0], that is 2(n − 1 − r) more. Seven tokens, radius 1, indices [0]:

        ■ ■ ■ ■ ■ ■ ■
        ■ ■ ■ · · · ·
        ■ ■ ■ ■ · · ·
        ■ · ■ ■ ■ · ·
        ■ · · ■ ■ ■ ·
        ■ · · · ■ ■ ■
        ■ · · · · ■ ■

    Args:
        sizes: number of nodes, or int64 [num_graphs] for a batch.
        radius: how many steps the window looks to each side, at least 0; half the paper's window size w.
        global_indices: positions of the global tokens inside each graph, as in `global_tokens`; the first token unless
            told otherwise, which is where BERT-like models keep [CLS].
        dilation: positions per step of the window, at least 1.

    Returns:
        AttentionGraph of kinds "window" and "global", on the device of `sizes`.

    Raises:
        TypeError, ValueError: as `sliding_window` and `global_tokens`.

    Source: Beltagy et al. 2020 (Longformer), sec. 3.1. Their second set of projections for global attention is left
    out: a layer may tell these edges by their kind. For a dilation per head, `per_head` of one graph each.

    >>> longformer(7, radius=1).num_edges                                    # 19 + 2 · 5
    29
    """
    window = sliding_window(sizes, radius, dilation=dilation)
    return window | global_tokens(sizes, global_indices)


def bigbird(
    sizes: Sizes,
    radius: int,
    num_random: int,
    global_indices: Sequence[int] | Tensor = (0,),
    *,
    generator: torch.Generator,
) -> AttentionGraph:
    r"""Connects each token to its window, to random tokens, and a few global tokens to everything.

    E = sliding_window(sizes, radius) ∪ random_regular(sizes, num_random) ∪ global_tokens(sizes, global_indices): the
    edges of `longformer` and at most Σ_g n_g · num_random more, those of its random edges that it does not have.
    Seven tokens, radius 1, indices [0], and ○ for what one random source per token may add:

        ■ ■ ■ ■ ■ ■ ■
        ■ ■ ■ · ○ · ·
        ■ ■ ■ ■ · · ○
        ■ ○ ■ ■ ■ · ·
        ■ · ○ ■ ■ ■ ·
        ■ · · · ■ ■ ■
        ■ · · ○ · ■ ■

    Args:
        sizes: number of nodes, or int64 [num_graphs] for a batch.
        radius: how many tokens the window looks to each side, at least 0.
        num_random: random sources per token, at least 0, drawn from all of its graph, those of the window included.
        global_indices: positions of the global tokens inside each graph, as in `global_tokens`.
        generator: source of randomness, on the device of `sizes`; the same state makes the same graph.

    Returns:
        AttentionGraph of kinds "window", "global" and "random" (an edge of several carries all), on the device of
        `generator`.

    Raises:
        TypeError, ValueError: as `sliding_window`, `global_tokens` and `random_regular`.

    Source: Zaheer et al. 2020 (BigBird), sec. 2: window, global (their internal construction, ITC) and random
    attention. They draw and slide blocks of tokens for the sake of a GPU; here single tokens.

    >>> graph = bigbird(7, radius=1, num_random=1, generator=torch.Generator().manual_seed(0))
    >>> graph.kinds, graph - longformer(7, radius=1) == graph - sliding_window(7, 1) - global_tokens(7, [0])
    (('window', 'global', 'random'), True)
    """
    window = longformer(sizes, radius, global_indices)
    drawn = random_regular(sizes, num_random, generator=generator)
    return window.to(drawn.device) | drawn
