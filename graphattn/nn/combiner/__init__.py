"""Combiner (Ren et al. 2021) as a connect seat: `GraphAttention(…, connect=combiner.Fixed(segment=128))`."""

from graphattn.nn.combiner.layer import CombinerAttention
from graphattn.nn.combiner.seat import CombinerSeat
from graphattn.nn.combiner.specs import (
    AxialHorizontal,
    AxialRowmajor,
    AxialVertical,
    Clusters,
    Fixed,
    LogSparse,
    Mixture,
)

__all__ = [
    "AxialHorizontal",
    "AxialRowmajor",
    "AxialVertical",
    "Clusters",
    "CombinerAttention",
    "CombinerSeat",
    "Fixed",
    "LogSparse",
    "Mixture",
]
