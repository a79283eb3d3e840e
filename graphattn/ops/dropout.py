"""Dropout of attention weights as a stated hash, so that every implementation and device drops the same edges.

With mix(x): x ^= x >> 16; x *= 0x7feb352d; x ^= x >> 15; x *= 0x846ca68b; x ^= x >> 16 (mod 2^32), and lo/hi the 32-bit
halves of an int64,

    key  = mix(mix(lo(seed) + 0x9E3779B9) ^ hi(seed))
    row  = mix(mix(key ^ lo(edge)) ^ hi(edge))
    bits = mix(row + (head + 1) · 0x9E3779B9)

and the weight of (edge, head) is kept where (bits >> 8) >= round(dropout_p · 2^24).
"""

import torch
from torch import Tensor

GOLDEN = 0x9E3779B9
_MASK = 0xFFFFFFFF


def dropout_factor(seed: Tensor, edge_id: Tensor, num_heads: int, dropout_p: float) -> Tensor:
    """Returns what each weight is multiplied by: 0 where dropped, 1 / (1 − dropout_p) where kept.

    Args:
        seed: int64, one element.
        edge_id: int64 [...], canonical position of each edge.
        num_heads: number of heads.
        dropout_p: probability of dropping, in [0, 1].

    Returns:
        float64 [..., num_heads].

    >>> dropout_factor(torch.tensor(7), torch.arange(4), 2, 0.5).tolist()
    [[2.0, 0.0], [2.0, 0.0], [2.0, 2.0], [0.0, 2.0]]
    """
    seed = seed.reshape(())
    key = _mix(_mix(((seed & _MASK) + GOLDEN) & _MASK) ^ (seed >> 32 & _MASK))
    row = _mix(_mix(key ^ (edge_id & _MASK)) ^ (edge_id >> 32 & _MASK))
    head = torch.arange(1, num_heads + 1, device=edge_id.device)
    bits = _mix((row[..., None] + head * GOLDEN) & _MASK)
    is_kept = (bits >> 8) >= int(dropout_p * 2**24 + 0.5)
    return is_kept.double() * (1.0 / (1.0 - dropout_p) if dropout_p < 1.0 else 0.0)


def _mix(x: Tensor) -> Tensor:
    """lowbias32 (Wellons 2018, hash-prospector) on uint32 held in int64; only the low 32 bits of a product count."""
    x = x ^ (x >> 16)
    x = (x * 0x7FEB352D) & _MASK
    x = x ^ (x >> 15)
    x = (x * 0x846CA68B) & _MASK
    return x ^ (x >> 16)
