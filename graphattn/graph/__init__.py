"""The noun: attention graphs, their algebra, rules, batching, plan and conversions."""

from graphattn.graph import rules
from graphattn.graph.algebra import disjoint_union
from graphattn.graph.attention_graph import AttentionGraph
from graphattn.graph.blocks import Blocks, bicliques
from graphattn.graph.difference import diff
from graphattn.graph.plan import Plan
from graphattn.graph.ragged import Sizes, batch_of, node_ptr, ragged_range

__all__ = [
    "AttentionGraph",
    "Blocks",
    "Plan",
    "Sizes",
    "batch_of",
    "bicliques",
    "diff",
    "disjoint_union",
    "node_ptr",
    "ragged_range",
    "rules",
]
