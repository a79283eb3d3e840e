"""The verb and its parts: attention over edges, softmax over edges, reductions over edges, top-k."""

from graphattn.ops.assignment import Assignment
from graphattn.ops.attention import (
    attention_weights,
    attention_with_lse,
    attention_with_weights,
    edge_logits,
    explain,
    graph_attention,
)
from graphattn.ops.capability import ARGUMENTS, IMPLEMENTATIONS, supports
from graphattn.ops.dropout import dropout_factor
from graphattn.ops.hard_topk import hard_topk, hard_topk_assignment
from graphattn.ops.iterative_topk import iterative_topk
from graphattn.ops.segment import segment_max, segment_sum
from graphattn.ops.softmax import edge_softmax
from graphattn.ops.successive_halving import successive_halving_assignment, successive_halving_topk
from graphattn.ops.topk_edges import topk_edges, topk_edges_by_product

__all__ = ["ARGUMENTS", "IMPLEMENTATIONS", "Assignment", "attention_weights", "attention_with_lse",
           "attention_with_weights", "dropout_factor", "edge_logits", "edge_softmax", "explain", "graph_attention",
           "hard_topk", "hard_topk_assignment", "iterative_topk", "segment_max", "segment_sum",
           "successive_halving_assignment", "successive_halving_topk", "supports", "topk_edges",
           "topk_edges_by_product"]  # fmt: skip
