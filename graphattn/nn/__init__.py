"""Modules that own parameters: the layer and what sits in its seats."""

from graphattn.nn.attention import Connect, GraphAttention, Score, Select
from graphattn.nn.edges import EdgeTerms
from graphattn.nn.scores import DotProduct

__all__ = ["Connect", "DotProduct", "EdgeTerms", "GraphAttention", "Score", "Select"]
