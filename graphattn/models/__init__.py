"""Models assembled from the other rooms, with named sizes."""

from graphattn.models.egt import EGT, EGT_SIZES, EGTConfig
from graphattn.models.graph_transformer import NAMED_SIZES, GraphTransformer, GraphTransformerConfig

__all__ = ["EGT", "EGT_SIZES", "EGTConfig", "NAMED_SIZES", "GraphTransformer", "GraphTransformerConfig"]
