"""The verb and its parts: attention over edges, softmax over edges, reductions over edges."""

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
from graphattn.ops.segment import segment_max, segment_sum
from graphattn.ops.softmax import edge_softmax

__all__ = ["ARGUMENTS", "IMPLEMENTATIONS", "attention_weights", "attention_with_lse", "attention_with_weights",
           "dropout_factor", "edge_logits", "edge_softmax", "explain", "graph_attention", "segment_max", "segment_sum",
           "supports"]  # fmt: skip
