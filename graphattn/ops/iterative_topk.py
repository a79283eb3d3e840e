r"""The iterative relaxation of top-k: one softmax over all nodes for each of the k, after the distance of its score.

With m_1 ≥ … ≥ m_k the k best scores,

    pooled_i = Σ_j softmax_j(−a (s_j − m_i)²) x_j

The square opens to 2a m_i s_j − a s_j² and a part without j, which a softmax does not see: this is attention whose
query is (2a m_i, −a) and whose key is (s_j, s_j²), so the verb runs it, and n · k weights are never held.
"""

import torch
from torch import Tensor

from graphattn.graph import AttentionGraph, bicliques, node_ptr
from graphattn.ops.assignment import Entrants, check_mode, check_rows, entrants
from graphattn.ops.attention import graph_attention
from graphattn.ops.hard_topk import best_of, hard_topk
from graphattn.ops.listening import calls_are


def iterative_topk(
    x: Tensor,
    scores: Tensor,
    k: int | Tensor,
    sharpness: float = 1000.0,
    *,
    ptr: Tensor | None = None,
    mask: Tensor | None = None,
    mode: str = "soft",
) -> tuple[Tensor, Tensor]:
    r"""Keeps about the k best rows of x, each a mean of all rows of its graph whose scores are near the one it is for.

    Args:
        x: [num_nodes, dim], float32 or float64.
        scores: [num_nodes], in (0, 1].
        k, ptr, mask: as for `successive_halving_topk`.
        sharpness: a, positive and finite. 1000 tells scores apart that differ by 0.1 and blends those within 0.02.
        mode: "soft" as above; "hard" is `hard_topk`; "straight_through" returns the same, with the gradient of the hard
            choice to x and of the soft weights to the scores. A recording of it holds the soft weights.

    Returns:
        pooled: [num_kept, dim], graph after graph, in the order of the input.
        kept: int64 [num_kept], the k best by their numbers in x, ascending. Unlike in successive halving a graph of at
            most k nodes is blended as well, and an input enters many pooled rows.

    Raises:
        TypeError, ValueError: as `successive_halving_topk`; for a sharpness that is not positive.

    Source: Goyal et al. 2018 (A Continuous Relaxation of Beam Search), their top-k; the baseline of Pietruszka et al.
    2021, whose code has a = 1 and leaves those chosen before out of later steps. As attention it is ours.
    O(n · k · dim) time.

    >>> x, scores = torch.arange(4.0)[:, None], torch.tensor([0.1, 0.9, 0.2, 0.8])
    >>> pooled, kept = iterative_topk(x, scores, k=2)
    >>> kept, pooled.T
    (tensor([1, 3]), tensor([[1.0001, 2.9999]]))
    """
    check_mode(mode)
    if isinstance(sharpness, bool) or not isinstance(sharpness, int | float) or not 0.0 < sharpness <= 1e30:
        raise ValueError(f"sharpness must be a number in (0, 1e30], got {sharpness!r}. The larger, the harder.")
    if mode == "hard":
        return hard_topk(x, scores, k, ptr=ptr, mask=mask)
    of = entrants(scores, k, ptr, mask)
    check_rows(x, of.num_nodes)
    winner = best_of(of)
    kept = of.node_of(winner)
    query, key = _query_and_key(of, winner, sharpness)
    dtype = torch.promote_types(x.dtype, of.scores.dtype)
    value = (x if mode == "soft" else x.detach())[:, None].to(dtype)
    with calls_are("pool"):
        pooled = graph_attention(query.to(dtype), key.to(dtype), value, _graph(of), scale=1.0)[:, 0].to(x.dtype)
    if mode == "straight_through":
        pooled = x.index_select(0, kept) + (pooled - pooled.detach())
    return pooled, kept


def _query_and_key(of: Entrants, winner: Tensor, sharpness: float) -> tuple[Tensor, Tensor]:
    """Returns [num_kept, 1, 2] and [num_nodes, 1, 2]; zeros for inputs that take no part."""
    # The winners' mean is taken off all scores of a graph: differences stay, and near winners, where weights are, the
    # two terms of the opened square do not cancel.
    best = of.scores[winner]
    of_winner = torch.repeat_interleave(of.num_kept)
    total = torch.zeros_like(of.sizes, dtype=best.dtype).index_add(0, of_winner, best.detach())
    center = total / of.num_kept.clamp(min=1)
    best = best - center[of_winner]
    query = torch.stack([2.0 * sharpness * best, torch.full_like(best, -sharpness)], -1)[:, None]
    apart = of.scores - center.repeat_interleave(of.sizes)
    key = torch.stack([apart, apart.square()], -1)[:, None]
    return query, key if of.node is None else key.new_zeros(of.num_nodes, 1, 2).index_copy(0, of.node, key)


def _graph(of: Entrants) -> AttentionGraph:
    """Lets each pooled element read all of its graph that takes part, as one block per graph."""
    device = of.sizes.device
    targets = torch.arange(int(of.kept_ptr[-1]), device=device)
    sources = of.node_of(torch.arange(of.scores.numel(), device=device))
    blocks = bicliques(of.kept_ptr, targets, node_ptr(of.sizes), sources)
    return of.graph_of(None, f"iterative_topk({of.num_nodes} nodes)", blocks)
