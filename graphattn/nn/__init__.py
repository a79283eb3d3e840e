"""Modules that own parameters: the layer and what sits in its seats."""

from graphattn.nn.attention import Connect, GraphAttention, Score, Select
from graphattn.nn.dropout import FeatureDropout
from graphattn.nn.edges import EdgeTerms
from graphattn.nn.encoders import (
    OGB_ATOM_DIMS,
    OGB_BOND_DIMS,
    CategoryEncoder,
    DistanceEncoder,
    KindEncoder,
    NodeNorm,
    NumberEncoder,
    PositionEncoder,
    VirtualNodeEncoder,
)
from graphattn.nn.pooling import PoolReadout, SuccessiveHalvingPool
from graphattn.nn.scores import DotProduct

__all__ = [
    "OGB_ATOM_DIMS",
    "OGB_BOND_DIMS",
    "CategoryEncoder",
    "Connect",
    "DistanceEncoder",
    "DotProduct",
    "EdgeTerms",
    "FeatureDropout",
    "GraphAttention",
    "KindEncoder",
    "NodeNorm",
    "NumberEncoder",
    "PoolReadout",
    "PositionEncoder",
    "Score",
    "Select",
    "SuccessiveHalvingPool",
    "VirtualNodeEncoder",
]
