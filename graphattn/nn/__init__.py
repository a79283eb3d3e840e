"""Modules that own parameters: the layer and what sits in its seats."""

from graphattn.nn.attention import Connect, GraphAttention, Score, Select
from graphattn.nn.combiner import CombinerAttention
from graphattn.nn.dropout import FeatureDropout
from graphattn.nn.edges import EdgeTerms
from graphattn.nn.egt import EGTLayer
from graphattn.nn.encoders import (
    OGB_ATOM_DIMS,
    OGB_BOND_DIMS,
    CategoryEncoder,
    DistanceEncoder,
    KindEncoder,
    NodeNorm,
    NumberEncoder,
    PositionEncoder,
    VirtualEdgeEncoder,
    VirtualNodeEncoder,
)
from graphattn.nn.head_gates import (
    HardConcreteHeadGate,
    HeadGate,
    ImportanceHeadGate,
    StraightThroughHeadGate,
    SubsetHeadGate,
)
from graphattn.nn.pooling import PoolReadout, SuccessiveHalvingPool
from graphattn.nn.pruning import prune
from graphattn.nn.scores import DotProduct, Pairwise, Symmetric

__all__ = [
    "OGB_ATOM_DIMS",
    "OGB_BOND_DIMS",
    "CategoryEncoder",
    "CombinerAttention",
    "Connect",
    "DistanceEncoder",
    "DotProduct",
    "EGTLayer",
    "EdgeTerms",
    "FeatureDropout",
    "GraphAttention",
    "HardConcreteHeadGate",
    "HeadGate",
    "ImportanceHeadGate",
    "KindEncoder",
    "NodeNorm",
    "NumberEncoder",
    "Pairwise",
    "PoolReadout",
    "PositionEncoder",
    "Score",
    "Select",
    "StraightThroughHeadGate",
    "SubsetHeadGate",
    "SuccessiveHalvingPool",
    "Symmetric",
    "VirtualEdgeEncoder",
    "VirtualNodeEncoder",
    "prune",
]
