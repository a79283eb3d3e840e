"""The Edge-augmented Graph Transformer: layers that keep a state of every edge, over the edges that a graph lists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from graphattn.graph import AttentionGraph
from graphattn.inputs.graph import GraphBatch
from graphattn.models.config import GraphModelConfig, check_name
from graphattn.models.graph_model import GraphModel, reduce_nodes
from graphattn.nn import EGTLayer, VirtualEdgeEncoder
from graphattn.nn.egt import ACTIVATIONS
from graphattn.selection import is_drawable

EGT_SIZES = {
    "tiny": {"embed_dim": 32, "num_heads": 4, "num_layers": 2, "edge_dim": 16},
    "small": {"embed_dim": 64, "num_heads": 8, "num_layers": 4, "edge_dim": 16},
    "medium": {"embed_dim": 128, "num_heads": 8, "num_layers": 6, "edge_dim": 32},
    "90m": {"embed_dim": 768, "num_heads": 32, "num_layers": 24, "edge_dim": 64},  # the authors' EGT-90M
}


@dataclass(frozen=True)
class EGTConfig(GraphModelConfig):
    """Sizes and parts of an `EGT`, one field for each thing a configuration file can set.

    Args:
        num_tasks: width of the output.
        embed_dim, num_heads, num_layers: size of the trunk; `EGT_SIZES` holds named ones.
        edge_dim: width of the edge state.
        update_edges: whether layers update the edge state. The last one never does: nobody would read it.
        logit_clip: limits the dot products to [−logit_clip, logit_clip]; None does not.
        scale_degree: whether attention is scaled by the log-degree.
        ffn_ratio, edge_ffn_ratio: hidden width of the feed-forward parts over embed_dim and edge_dim.
        activation: "elu" or "gelu".
        dropout_p, edge_dropout_p: dropout of node features and of edge states.
        attention_dropout_p: dropout of attention weights.
        select: what attention reads in each layer, as a line such as "SubsampleSources(keep_p=0.25)", of specs that
            draw; states of all edges are updated.
        readout: "concat" (the virtual nodes side by side), "virtual" (their mean), "sum", "mean" or "max" over the
            nodes of the data, or "nodes" (one row per node of the data).
        atom_dims, bond_dims, kinds: as in `GraphTransformerConfig`.
        max_hops, num_walks, num_eigenvectors, num_singular, num_virtual: what the collation provides (`GraphCollate`).
        impl: implementation of attention.

    Raises:
        ValueError: for a name that is none of these, suggesting the nearest, and for sizes that do not fit.

    >>> EGTConfig.from_size("tiny", readout="mean").edge_dim
    16
    """

    SIZES: ClassVar[Mapping[str, Mapping[str, Any]]] = EGT_SIZES
    READOUTS: ClassVar[tuple[str, ...]] = ("concat", *GraphModelConfig.READOUTS)
    OF_VIRTUAL: ClassVar[tuple[str, ...]] = ("concat", "virtual")
    LEAST: ClassVar[Mapping[str, int]] = {**GraphModelConfig.LEAST, "edge_dim": 1}
    PROBABILITIES: ClassVar[tuple[str, ...]] = (*GraphModelConfig.PROBABILITIES, "edge_dropout_p")

    num_heads: int = 8
    readout: str = "concat"
    update_edges: bool = True
    logit_clip: float | None = 5.0
    scale_degree: bool = True
    ffn_ratio: float = 1.0
    edge_ffn_ratio: float = 1.0
    activation: str = "elu"
    edge_dropout_p: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_name(self.activation, ACTIVATIONS, "activation")
        if not all(spec is None or is_drawable(spec) for spec in self.selections()):
            raise ValueError(
                f"select of EGT must draw from the graph before the layers, got {self.select}. "
                "SubsampleSources(keep_p=0.25) does."
            )


class EGT(GraphModel):
    """Encodes a `GraphBatch`, lets nodes and edges of its graph inform each other, and reads out one row per graph.

    The first state of an edge is what is known of it: hop distance, bond, kinds; at a virtual node, the vector of that
    node. Layers are `EGTLayer`. With "full" among the edges of the collation every pair inside a graph has a state, as
    in the authors' model; any other graph will do as well, and costs what its edges cost.

    Args:
        config: an `EGTConfig`; None takes its defaults.

    Source: Hussain et al. 2022 (Global Self-Attention as a Replacement for Graph Convolution), with virtual nodes and
    edges as in the authors' PyTorch code. Encoders of atoms and bonds and the head are those of our other models; kinds
    of edges, random walks and Laplacian positions are ours.

    >>> from graphattn.inputs import GraphCollate, parse_edges
    >>> from torch_geometric.data import Data
    >>> collate = GraphCollate(parse_edges("bonds | full | virtual(4)"), max_hops=16, num_singular=8)
    >>> model = EGT.from_size("tiny", collate)
    >>> ethanol = Data(x=torch.zeros(3, 9, dtype=torch.int64), edge_index=torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]]),
    ...                edge_attr=torch.zeros(4, 3, dtype=torch.int64))
    >>> model(collate([ethanol, ethanol])).shape
    torch.Size([2, 1])
    """

    config_class = EGTConfig
    config: EGTConfig

    def __init__(self, config: EGTConfig | None = None):
        config = EGTConfig() if config is None else config
        super().__init__(config)
        self.virtual_edge_encoder = (
            VirtualEdgeEncoder(config.num_virtual, config.edge_dim) if config.num_virtual else None
        )
        self.layers = nn.ModuleList(
            EGTLayer(
                config.embed_dim,
                config.num_heads,
                config.edge_dim,
                update_edges=config.update_edges and number + 1 < config.num_layers,
                logit_clip=config.logit_clip,
                scale_degree=config.scale_degree,
                ffn_ratio=config.ffn_ratio,
                edge_ffn_ratio=config.edge_ffn_ratio,
                activation=config.activation,
                dropout_p=config.dropout_p,
                edge_dropout_p=config.edge_dropout_p,
                attention_dropout_p=config.attention_dropout_p,
                impl=config.impl,
            )
            for number in range(config.num_layers)
        )
        self.norm = nn.LayerNorm(config.embed_dim)
        self.head = self.head_of(config.embed_dim * (config.num_virtual if config.readout == "concat" else 1))

    def forward(self, batch: GraphBatch, graphs: Sequence[AttentionGraph] | None = None) -> Tensor:
        """Returns [num_graphs, num_tasks], or [num_data_nodes, num_tasks] for the readout "nodes".

        Args:
            batch: graphs with features.
            graphs: what attention reads in each layer, as `connect(batch.graph)` drew it; None draws here.

        Raises:
            ValueError: if the collation did not provide what the configuration names.
        """
        graphs = self.connect(batch.graph) if graphs is None else graphs
        h, edge_attr, is_virtual = self.embed(batch), self.edge_state(batch), batch.virtual > 0
        for layer, graph in zip(self.layers, graphs, strict=True):
            h, edge_attr = layer(h, edge_attr, batch.graph, sampled=graph, is_virtual=is_virtual)
        return self.head(self.read_out(self.norm(h), batch))

    def edge_state(self, batch: GraphBatch) -> Tensor:
        """Returns the first state of every edge, [num_edges, edge_dim]."""
        assert self.edge_encoder is not None
        rows = self.edge_encoder(batch)
        if self.virtual_edge_encoder is not None:
            return self.virtual_edge_encoder(rows, batch.virtual, batch.graph.edge_index, batch.edge_type)
        return rows if batch.edge_type is None else nn.functional.embedding(batch.edge_type, rows)

    def read_out(self, h: Tensor, batch: GraphBatch) -> Tensor:
        """Reduces node features to one row per graph, [num_graphs, width], or keeps the nodes of the data."""
        readout = self.config.readout
        if readout == "nodes":
            return h[batch.node]
        if readout == "concat":  # virtual nodes stand last in each graph
            place = batch.graph.src_ptr[1:, None] + torch.arange(-self.config.num_virtual, 0, device=h.device)
            return h[place].flatten(1)
        is_read = batch.virtual > 0 if readout == "virtual" else batch.virtual == 0
        how = "mean" if readout == "virtual" else readout
        return reduce_nodes(h, is_read, batch.batch, batch.num_graphs, how)
