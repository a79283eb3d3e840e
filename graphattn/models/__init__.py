"""Models assembled from the other rooms, with named sizes."""

from graphattn.models.graph_transformer import NAMED_SIZES, GraphTransformer, GraphTransformerConfig

__all__ = ["NAMED_SIZES", "GraphTransformer", "GraphTransformerConfig"]
