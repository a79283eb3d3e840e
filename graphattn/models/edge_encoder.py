"""First features of edges: what a batch says of bonds, distances and kinds, as one vector of each edge or type."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from graphattn.inputs.graph import GraphBatch
from graphattn.models.config import GraphModelConfig
from graphattn.nn import CategoryEncoder, DistanceEncoder, KindEncoder, NumberEncoder


class EdgeEncoder(nn.Module):
    """Sums what is known of an edge: the bond's features, the hops between its ends, the kinds it has."""

    def __init__(self, config: GraphModelConfig):
        super().__init__()
        self.kind = KindEncoder(config.kinds, config.edge_dim)
        self.bond = feature_encoder(config.bond_dims, config.edge_dim) if config.bond_dims else None
        self.distance = DistanceEncoder(config.max_hops, config.edge_dim) if config.max_hops else None

    def forward(self, batch: GraphBatch) -> Tensor:
        """Returns [num_edges, edge_dim], or [num_types, edge_dim] where the batch tells types apart."""
        one = batch.type_edge if batch.edge_type is not None else None  # an edge of each type
        kind, bond, distance = (
            values if one is None or values is None else values[one]
            for values in (batch.graph.edge_kind, batch.bond, batch.distance)
        )
        edge = self.kind(kind, batch.graph.kinds)
        if self.bond is not None:
            if batch.edge_attr is None or bond is None:
                raise ValueError(
                    "this model reads features of bonds, the batch has none. Set edge_features of GraphCollate, or "
                    "bond_dims=0 where the data have no edge_attr."
                )
            if batch.edge_attr.shape[0]:
                edge = edge + self._of_bonds(batch.edge_attr, bond, is_listed=one is None)
        if self.distance is not None:
            if distance is None:
                raise ValueError("this model reads hop distances, the batch has none. Set max_hops of GraphCollate.")
            edge = edge + self.distance(distance)
        return edge

    def _of_bonds(self, edge_attr: Tensor, bond: Tensor, is_listed: bool) -> Tensor:
        """Encodes the bonds that edges are, zeros for an edge that is no bond."""
        assert self.bond is not None
        if not is_listed:  # few rows: encode these alone
            return self.bond(edge_attr[bond.clamp(min=0)]).masked_fill((bond < 0)[:, None], 0.0)
        bonds = functional.pad(self.bond(edge_attr), (0, 0, 0, 1))
        row = torch.where(bond < 0, edge_attr.shape[0], bond)
        return functional.embedding(row, bonds, padding_idx=bonds.shape[0] - 1)  # no gradient is summed in the padding


def feature_encoder(dims: tuple[int, ...] | int, embed_dim: int) -> nn.Module:
    """Makes the encoder of features: categories, of which `dims` holds the counts, or `dims` numbers."""
    return NumberEncoder(dims, embed_dim) if isinstance(dims, int) else CategoryEncoder(dims, embed_dim)
