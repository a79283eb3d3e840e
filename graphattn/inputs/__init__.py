"""Collation without parameters, run in loader workers: records in, tensors and an attention graph with its plan out."""

from graphattn.inputs.edges import Bonds, Edges, Expander, Full, Hops, Rings, VirtualNodes, parse_edges
from graphattn.inputs.graph import GraphBatch, GraphCollate
from graphattn.inputs.positions import laplacian_positions, random_walk_positions, singular_positions

__all__ = [
    "Bonds",
    "Edges",
    "Expander",
    "Full",
    "GraphBatch",
    "GraphCollate",
    "Hops",
    "Rings",
    "VirtualNodes",
    "laplacian_positions",
    "parse_edges",
    "random_walk_positions",
    "singular_positions",
]
