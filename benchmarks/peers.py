"""PyG's attention in our graph transformer: the same batches, encoders and readout around `TransformerConv`, `GPSConv`.

PyG knows no types of edges, so batches come without them, and every edge has its own features.

`TransformerConvAttention` computes the very function of our layer (with edge terms "key" and "value" that share their
weights), so it can take a layer's place and weights. `GPSNetwork` computes another function: its blocks pass messages
along bonds and attend over all nodes of a molecule, without virtual nodes.
"""

import copy
import dataclasses

from torch import Tensor, nn
from torch_geometric.nn import GINEConv, GPSConv, TransformerConv

from graphattn.graph import AttentionGraph
from graphattn.inputs import GraphBatch
from graphattn.models.graph_transformer import GraphTransformer, GraphTransformerConfig
from graphattn.nn import GraphAttention

GPS_HEADS = 4
GPS_FFN_RATIO = 2  # fixed in PyG's GPSConv


class TransformerConvAttention(nn.Module):
    """PyG's `TransformerConv` in place of a `GraphAttention`, and its output projection, which PyG has none of.

    Args:
        attention: whose sizes and weights it copies; "key" is the only edge term read, for `lin_edge` is both.
    """

    def __init__(self, attention: GraphAttention):
        super().__init__()
        dim, heads, key_weight = attention.embed_dim, attention.num_heads, attention.edge.edge_key_weight
        self.conv = TransformerConv(dim, dim // heads, heads, edge_dim=key_weight.shape[-1], root_weight=False)
        del self.conv.lin_skip  # made and never used without a root weight
        pairs = {
            self.conv.lin_query: attention.score.query_proj,
            self.conv.lin_key: attention.score.key_proj,
            self.conv.lin_value: attention.value_proj,
        }
        for theirs, ours in pairs.items():
            theirs.load_state_dict(ours.state_dict())
        self.conv.lin_edge.load_state_dict({"weight": key_weight.flatten(0, 1)})
        self.out_proj = copy.deepcopy(attention.out_proj)

    def forward(self, x: Tensor, graph: AttentionGraph, *, edge_attr: Tensor, edge_type: None = None) -> Tensor:
        return self.out_proj(self.conv(x, graph.edge_index, edge_attr))


def with_transformer_conv(network: GraphTransformer) -> GraphTransformer:
    """Returns a copy of the network in which every attention is PyG's, with the same weights."""
    theirs = copy.deepcopy(network)
    dtype = next(network.parameters()).dtype
    for block in theirs.blocks:
        block.attention = TransformerConvAttention(block.attention).to(dtype)
    return theirs


class GPSNetwork(nn.Module):
    """Our encoders, readout and head around `GPSConv` blocks.

    Bonds are encoded in the width of nodes, as in PyG's example graph_gps.py, and the block has its own norms and
    feed-forward part.

    Args:
        config: of a `GraphTransformer`, for batches that `GraphCollate` made of bonds alone.
    """

    def __init__(self, config: GraphTransformerConfig):
        super().__init__()
        assert config.ffn_ratio == GPS_FFN_RATIO and config.norm == "batch", "GPSConv has no other"
        dim = config.embed_dim
        self.around = GraphTransformer(dataclasses.replace(config, num_layers=0, edge_dim=dim))
        self.blocks = nn.ModuleList(
            GPSConv(
                dim,
                GINEConv(nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim))),
                heads=GPS_HEADS,
                dropout=config.dropout_p,
                attn_type="multihead",
            )
            for _ in range(config.num_layers)
        )

    def forward(self, batch: GraphBatch) -> Tensor:
        """Returns [num_graphs, num_tasks]."""
        around, edge_index = self.around, batch.graph.edge_index
        h, bonds = around.embed(batch), around.edge_encoder(batch)
        for block in self.blocks:
            h = block(h, edge_index, batch.batch, edge_attr=bonds)
        return around.head(around.read_out(around.norm(h), batch))
