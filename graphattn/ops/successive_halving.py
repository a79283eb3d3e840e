r"""Successive halving: a top-k that gradients pass, as a tournament in which winners take in what they beat.

Each round sorts the n nodes that are left by score, pairs the best with the worst, the second best with the second
worst and so on, and blends each pair by a peaked softmax of its scores, winner l and loser r:

    w = σ(b^{s_l} − b^{s_r});   x' = w x_l + (1 − w) x_r;   s' = w s_l + (1 − w) s_r

There are m = min(⌊n / 2⌋, n − k) pairs, and the best n − 2m pass unpaired, so any n ends at any k. The weights depend
on scores alone, so the tournament runs over scores, and x is read once: pooled_i = Σ_j weight_j x_j, where every input
j enters exactly one i, with the product of its pair weights.
"""

import math

import torch
from torch import Tensor

from graphattn.graph import node_ptr, ragged_range
from graphattn.ops.assignment import Assignment, Entrants, best_first, check_mode, entrants

MAX_BASE = 1e30  # beyond, derivatives of b^s leave the range of float32


def successive_halving_topk(
    x: Tensor,
    scores: Tensor,
    k: int | Tensor,
    base: float = 20.0,
    *,
    ptr: Tensor | None = None,
    mask: Tensor | None = None,
    mode: str = "soft",
) -> tuple[Tensor, Tensor]:
    r"""Keeps about the k best rows of x, each blended with rows that it won against.

    Args:
        x: [num_nodes, dim], any float dtype.
        scores: [num_nodes], in (0, 1].
        k: how many to keep, at least 1, of each graph; or int64 [num_graphs]. A graph of at most k nodes keeps all, as
            they are; an empty one none.
        base: b of the peaked softmax, in [1, 1e30]. 1 blends evenly; the larger, the nearer to a hard top-k.
        ptr: int64 [num_graphs + 1], node offsets of each graph of a batch; None for a single graph.
        mask: bool [num_nodes]; nodes where it is False, padding for one, take no part and are not read. None for all.
        mode: "soft" as above; "hard" returns the winners' own rows, and no gradient reaches the scores;
            "straight_through" returns the same, with the gradient of the hard choice to x and of the soft weights to
            the scores. Winners are the same in all three.

    Returns:
        pooled: [num_kept, dim], graph after graph, in the order of the input.
        kept: int64 [num_kept], the winner of each row by its number in x, ascending. Of equal scores the earlier wins.
            Winners are the k best where the base is large or scores are well apart; scores are interpolated from
            round to round, so else a narrow winner may lose to a somewhat lesser one that won clearly.

    Raises:
        TypeError, ValueError: for shapes that do not fit, scores outside (0, 1] or not finite, k < 1, an offset, base
            or mode out of range.

    Source: Pietruszka et al. 2021 (Successive Halving Top-k Operator), with scores sorted back to the order of the
    input. Unlike their code: n / k need be no power of two (there, it must); batches are ragged and nothing is padded
    (there, padding takes part and can halve a winner); the base is the argument. O(n log n + n · dim) time, O(n · dim)
    memory.

    >>> x, scores = torch.arange(8.0)[:, None], torch.tensor([0.1, 0.9, 0.2, 0.3, 0.8, 0.1, 0.3, 0.2])
    >>> pooled, kept = successive_halving_topk(x, scores, k=2)
    >>> kept, pooled.T
    (tensor([1, 4]), tensor([[1.0000, 3.9998]]))
    >>> successive_halving_topk(x, scores, k=1, ptr=torch.tensor([0, 3, 3, 8]), mode="hard")
    (tensor([[1.],
            [4.]]), tensor([1, 4]))
    """
    assignment = successive_halving_assignment(scores, k, base, ptr=ptr, mask=mask, mode=mode)
    return assignment.pool(x), assignment.kept


def successive_halving_assignment(
    scores: Tensor,
    k: int | Tensor,
    base: float = 20.0,
    *,
    ptr: Tensor | None = None,
    mask: Tensor | None = None,
    mode: str = "soft",
) -> Assignment:
    """Returns the pooling graph of `successive_halving_topk` with its weights, differentiable in the scores.

    Args:
        scores, k, base, ptr, mask, mode: as there.

    Returns:
        `Assignment` with one edge per node that takes part, the same graph in every mode: a hard choice has weight one
        on winners and zero elsewhere. Soft weights into a target sum to one.

    >>> scores = torch.tensor([0.1, 0.9, 0.2, 0.8])
    >>> assignment = successive_halving_assignment(scores, k=2)
    >>> assignment.graph.edge_index.tolist(), assignment.weight
    ([[0, 1, 2, 3], [0, 0, 1, 1]], tensor([1.4...e-06, 1.0000e+00, 1.0...e-04, 9.9990e-01]))
    """
    check_mode(mode)
    check_base(base)
    of = entrants(scores, k, ptr, mask)
    weight, target, kept = _tournament(of, math.log(base))
    if mode != "soft":
        chosen = torch.zeros_like(weight).index_fill(0, kept, 1.0)
        weight = chosen if mode == "hard" else chosen + (weight - weight.detach())
    order = torch.argsort(target, stable=True)
    graph = of.graph_of(torch.stack([of.node_of(order), target[order]]), f"successive_halving({scores.numel()} nodes)")
    return Assignment(graph, weight[order], of.node_of(kept), mode == "hard")


def check_base(base: float) -> None:
    """Raises unless `base` is a number in [1, 1e30]."""
    if isinstance(base, bool) or not isinstance(base, int | float) or not 1.0 <= base <= MAX_BASE:
        raise ValueError(f"base must be a number in [1, {MAX_BASE:g}], got {base!r}. 20 is what its authors use.")


def _tournament(of: Entrants, log_base: float) -> tuple[Tensor, Tensor, Tensor]:
    """Returns weight and target of each entrant, and the winners, each [num_entrants] or [num_kept]."""
    scores, sizes = of.scores, of.sizes
    kept = torch.arange(scores.numel(), device=scores.device)
    rounds: list[tuple[Tensor, Tensor]] = []  # share and target of each node of a round, in the next
    while True:
        num_pairs = torch.minimum(sizes // 2, sizes - of.num_kept)
        if not bool(num_pairs.any()):
            break
        share, target, is_kept = _round(scores, sizes, num_pairs, log_base)
        rounds.append((share, target))
        kept, sizes = kept[is_kept], sizes - num_pairs
        scores = scores.new_zeros(kept.numel()).index_add(0, target, share * scores)
    weight, target = scores.new_ones(kept.numel()), torch.arange(kept.numel(), device=scores.device)
    for share, parent in reversed(rounds):  # each half as long as the one before it
        weight, target = share * weight[parent], target[parent]
    return weight, target, kept


def _round(scores: Tensor, sizes: Tensor, num_pairs: Tensor, log_base: float) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the share of each node in what it becomes, which node of the next round that is, and who is left.

    All [num_nodes]. Nodes stay in the order of the input, so what is left needs no sorting back.
    """
    graph = torch.repeat_interleave(sizes)
    order = best_first(scores, graph, sizes.numel())
    end = node_ptr(sizes)[1:]
    of_pair, place = ragged_range(num_pairs)
    winner = order[(end - 2 * num_pairs)[of_pair] + place]  # the best n − 2m pass
    loser = order[end[of_pair] - 1 - place]
    best, worst = scores[winner], scores[loser]
    gap = torch.exp(log_base * worst) * torch.expm1(log_base * (best - worst))  # b^best − b^worst, exact for equals
    share = torch.ones_like(scores).index_copy(
        0, torch.cat([winner, loser]), torch.cat([torch.sigmoid(gap), torch.sigmoid(-gap)])
    )
    is_kept = torch.ones_like(order, dtype=torch.bool).index_fill_(0, loser, False)
    target = torch.cumsum(is_kept, 0) - 1
    target[loser] = target[winner]
    return share, target, is_kept
