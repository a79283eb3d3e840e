"""Attention as message passing over an explicit sparse graph."""

from graphattn import connectivity, graph, nn, ops, selection, viz
from graphattn._version import __version__
from graphattn.graph import AttentionGraph, disjoint_union, rules
from graphattn.ops import attention_weights, explain, graph_attention
from graphattn.training import load_run as load

__all__ = [
    "AttentionGraph",
    "__version__",
    "attention_weights",
    "connectivity",
    "disjoint_union",
    "explain",
    "graph",
    "graph_attention",
    "load",
    "nn",
    "ops",
    "rules",
    "selection",
    "viz",
]
