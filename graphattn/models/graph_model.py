"""What all models of graphs do alike: encode a batch, draw what layers read, reduce nodes to one row per graph."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from graphattn.graph import AttentionGraph
from graphattn.inputs.graph import GraphBatch, GraphCollate
from graphattn.models.config import GraphModelConfig
from graphattn.models.edge_encoder import EdgeEncoder, feature_encoder
from graphattn.nn import FeatureDropout, PositionEncoder, VirtualNodeEncoder
from graphattn.ops import segment_max, segment_sum
from graphattn.selection import LayerDraws, PerLayer, is_drawable


class GraphModel(nn.Module):
    """Base of models that read a `GraphBatch`: it owns the encoders of nodes and edges, and the draws of its layers.

    Args:
        config: of the class `config_class` of the model.
    """

    config_class: ClassVar[type[GraphModelConfig]] = GraphModelConfig

    def __init__(self, config: GraphModelConfig):
        super().__init__()
        self.config = config
        dim, num_positions = config.embed_dim, config.num_walks + config.num_eigenvectors + config.num_singular
        self.node_encoder = feature_encoder(config.atom_dims, dim)
        self.position_encoder = (
            PositionEncoder(config.num_walks, config.num_eigenvectors, dim, config.num_singular)
            if num_positions
            else None
        )
        self.virtual_encoder = VirtualNodeEncoder(config.num_virtual, dim) if config.num_virtual else None
        self.edge_encoder = EdgeEncoder(config) if config.edge_dim else None
        specs = config.selections()
        self.draws = LayerDraws(PerLayer(*specs), config.num_layers) if any(map(is_drawable, specs)) else None

    @classmethod
    def from_size(cls, size: str, inputs: GraphCollate | None = None, **overrides: Any) -> Self:
        """Makes a model of a named size; the arguments are those of `GraphModelConfig.from_size`."""
        return cls(cls.config_class.from_size(size, inputs, **overrides))

    def connect(
        self, graph: AttentionGraph, step: int | None = None, layers: Iterable[int] | None = None
    ) -> list[AttentionGraph]:
        """Returns the graph that each layer attends over, drawn as `config.select` says; arguments as `LayerDraws`."""
        if self.draws is not None:
            return self.draws(graph, step, layers)
        return [graph for _ in (range(self.config.num_layers) if layers is None else layers)]

    def embed(self, batch: GraphBatch) -> Tensor:
        """Returns the first features of all nodes, [num_nodes, embed_dim]; virtual ones have their own embeddings.

        Raises:
            ValueError: if the collation did not provide what the configuration names.
        """
        if batch.num_virtual != self.config.num_virtual:
            raise ValueError(
                f"this model has {self.config.num_virtual} virtual nodes per graph, the batch {batch.num_virtual}. "
                "Set num_virtual to the count of VirtualNodes among the edges of GraphCollate."
            )
        h = self.node_encoder(batch.x)
        if self.position_encoder is not None:
            if batch.positions is None:
                raise ValueError(
                    "this model reads positions, the batch has none. Set num_walks, num_eigenvectors and num_singular "
                    "of GraphCollate as in the model."
                )
            h = h + self.position_encoder(batch.positions, batch.batch, batch.num_graphs)
        return h if self.virtual_encoder is None else self.virtual_encoder(h, batch.virtual)

    def head_of(self, width: int) -> nn.Sequential:
        """Makes the part that maps what is read out, [num_rows, width], to the tasks."""
        dim, config = self.config.embed_dim, self.config
        return nn.Sequential(
            nn.Linear(width, dim), nn.ReLU(), FeatureDropout(config.dropout_p), nn.Linear(dim, config.num_tasks)
        )

    def num_parameters(self) -> int:
        """Returns the number of trained parameters."""
        return sum(weight.numel() for weight in self.parameters() if weight.requires_grad)

    def extra_repr(self) -> str:
        config = self.config
        return (
            f"{self.num_parameters():,} parameters: {config.num_layers} layers × {config.num_heads} heads, "
            f"embed_dim={config.embed_dim}, readout={config.readout!r}"
        )


def reduce_nodes(h: Tensor, is_read: Tensor, of_graph: Tensor, num_graphs: int, how: str) -> Tensor:
    """Reduces nodes to one row per graph; a graph without a node to read has zeros.

    Args:
        h: [num_nodes, embed_dim].
        is_read: bool [num_nodes].
        of_graph: int64 [num_nodes], the graph of each node.
        num_graphs: number of graphs.
        how: "sum", "mean" or "max".

    Returns:
        [num_graphs, embed_dim].

    >>> reduce_nodes(torch.ones(3, 1), torch.tensor([True, False, True]), torch.tensor([0, 0, 0]), 2, "sum").flatten()
    tensor([2., 0.])
    """
    is_read = is_read[:, None]
    if how == "max":
        largest = segment_max(h.masked_fill(~is_read, -torch.inf), of_graph, num_graphs)
        return largest.masked_fill(largest == -torch.inf, 0.0)
    total = segment_sum(h.masked_fill(~is_read, 0.0), of_graph, num_graphs)
    if how == "sum":
        return total
    return total / segment_sum(is_read.to(h.dtype), of_graph, num_graphs).clamp(min=1)
