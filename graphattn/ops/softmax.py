"""Softmax over the edges that enter the same target."""

import torch
from torch import Tensor

from graphattn.ops.segment import segment_max, segment_sum


def edge_softmax(scores: Tensor, dst: Tensor, num_dst_nodes: int) -> Tensor:
    r"""Normalizes edge scores over the edges that enter the same target.

    Args:
        scores: [num_edges, num_heads], natural-log scale, any float dtype; any trailing shape serves.
        dst: [num_edges], int64 target of each edge, in [0, num_dst_nodes).
        num_dst_nodes: number of targets, those without edges included.

    Returns:
        [num_edges, num_heads]; each target and head sums to one. A target whose scores are all -inf receives zeros,
        never NaN. Half precision is computed in float32. Differentiable twice.

    Raises:
        ValueError: if `scores` and `dst` disagree on num_edges.

    Source: Vaswani et al. 2017, sec. 3.2.1, with the sum restricted to N(i).

    >>> edge_softmax(torch.zeros(3, 1), torch.tensor([0, 0, 2]), 3).T
    tensor([[0.5000, 0.5000, 1.0000]])
    """
    if scores.shape[:1] != dst.shape:
        raise ValueError(
            f"scores and dst must agree on num_edges, got scores {list(scores.shape)} and dst {list(dst.shape)}. "
            "Pass one target per row of scores."
        )
    wide = scores.float() if scores.dtype in (torch.float16, torch.bfloat16) else scores
    return softmax_and_lse(wide, dst, num_dst_nodes)[0].to(scores.dtype)


def softmax_and_lse(
    scores: Tensor, dst: Tensor, num_dst_nodes: int, ptr: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Returns edge_softmax(scores) and the log-sum-exp of each target, [num_dst_nodes, ...], −inf where it has none."""
    peak = segment_max(scores.detach(), dst, num_dst_nodes)
    peak = peak.masked_fill(peak == -torch.inf, 0.0)
    weight = torch.exp(scores - peak[dst])
    total = segment_sum(weight, dst, num_dst_nodes, ptr)
    is_empty = total == 0
    total = total.masked_fill(is_empty, 1.0)
    return weight / total[dst], (total.log() + peak).masked_fill(is_empty, -torch.inf)
