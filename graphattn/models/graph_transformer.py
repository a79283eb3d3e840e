"""A graph transformer: pre-norm blocks of attention over one graph that holds local and global edges alike."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from graphattn.connectivity import full
from graphattn.graph import AttentionGraph, batch_of
from graphattn.inputs.graph import GraphBatch, GraphCollate
from graphattn.models.seats import SELECTIONS, as_line, read_seat
from graphattn.nn import (
    OGB_ATOM_DIMS,
    OGB_BOND_DIMS,
    CategoryEncoder,
    DistanceEncoder,
    EdgeTerms,
    FeatureDropout,
    GraphAttention,
    KindEncoder,
    NodeNorm,
    NumberEncoder,
    PoolReadout,
    PositionEncoder,
    Select,
    SuccessiveHalvingPool,
    VirtualNodeEncoder,
)
from graphattn.ops import IMPLEMENTATIONS, segment_max, segment_sum
from graphattn.selection import LayerDraws, PerLayer, is_drawable, spec_of_each_layer

NORMS = {"batch": NodeNorm, "layer": nn.LayerNorm}
READOUTS = ("sum", "mean", "max", "virtual", "pool", "nodes")
EDGE_TERMS = ("key", "value", "bias", "gate")
NAMED_SIZES = {
    "tiny": {"embed_dim": 32, "num_heads": 4, "num_layers": 2},
    "small": {"embed_dim": 64, "num_heads": 4, "num_layers": 4},
    "medium": {"embed_dim": 128, "num_heads": 8, "num_layers": 6},
    "large": {"embed_dim": 256, "num_heads": 8, "num_layers": 10},
}


@dataclass(frozen=True)
class GraphTransformerConfig:
    """Sizes and parts of a `GraphTransformer`, one field for each thing a configuration file can set.

    Args:
        num_tasks: width of the output.
        embed_dim, num_heads, num_layers: size of the trunk; `NAMED_SIZES` holds named ones.
        edge_dim: width of edge features; 0 ignores them.
        edge_terms: where edge features enter, of "key", "value", "bias", "gate".
        ffn_ratio: hidden width of the feed-forward part over embed_dim.
        dropout_p: dropout of features.
        attention_dropout_p: dropout of attention weights.
        norm: "batch" or "layer".
        select: what each layer reads of the graph, as a line such as "SubsampleSources(keep_p=0.25)" or as such a spec:
            see `SELECTIONS`. `Ramp` moves its numbers while training, `PerLayer` gives each layer its own.
        pool_layers: numbers of layers, from 1, after which the nodes of each graph are pooled by successive halving;
            the layers that follow attend over all pairs of what is left, without features of edges.
        pool_ratio: share of the nodes that each pool keeps.
        readout: "sum", "mean" or "max" over the nodes of the data, "virtual" (mean of the virtual nodes), "pool" (sum
            of the `pool_k` nodes that a pool makes of a graph), or "nodes" (one row per node of the data).
        pool_k: nodes of the readout "pool".
        atom_dims: categories of each node feature, or the number of features that are numbers.
        bond_dims: the same of bonds; 0 where bonds have no features.
        kinds: names of edge kinds, each with a vector of its own.
        max_hops, num_walks, num_eigenvectors, num_virtual: what the collation provides (`GraphCollate`).
        impl: implementation of attention.

    Raises:
        ValueError: for a name that is none of these, suggesting the nearest, and for sizes that do not fit.
    """

    num_tasks: int = 1
    embed_dim: int = 64
    num_heads: int = 4
    num_layers: int = 4
    edge_dim: int = 16
    edge_terms: tuple[str, ...] = ("key", "value", "bias")
    ffn_ratio: float = 2.0
    dropout_p: float = 0.1
    attention_dropout_p: float = 0.0
    norm: str = "batch"
    select: str = ""
    pool_layers: tuple[int, ...] = ()
    pool_ratio: float = 0.5
    readout: str = "sum"
    pool_k: int = 1
    atom_dims: tuple[int, ...] | int = OGB_ATOM_DIMS
    bond_dims: tuple[int, ...] | int = OGB_BOND_DIMS
    kinds: tuple[str, ...] = ("bond", "full", "virtual")
    max_hops: int = 0
    num_walks: int = 0
    num_eigenvectors: int = 0
    num_virtual: int = 1
    impl: str = "auto"

    def __post_init__(self) -> None:
        for name in ("edge_terms", "atom_dims", "bond_dims", "kinds", "pool_layers"):  # YAML writes tuples as lists
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        _check_name(self.norm, NORMS, "norm")
        _check_name(self.readout, READOUTS, "readout")
        _check_name(self.impl, ("auto", *IMPLEMENTATIONS), "impl")
        for term in self.edge_terms:
            _check_name(term, EDGE_TERMS, "edge_terms")
        for name, least in _LEAST.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}. Give a larger number.")
        for name in ("dropout_p", "attention_dropout_p"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} must lie in [0, 1], got {getattr(self, name)}. It is a probability.")
        if self.ffn_ratio <= 0:
            raise ValueError(f"ffn_ratio must be positive, got {self.ffn_ratio}. 2 doubles the width.")
        object.__setattr__(self, "select", as_line(self.select, SELECTIONS, "select"))
        spec_of_each_layer(read_seat(self.select, SELECTIONS, "select"), self.num_layers)
        self._check_pools()
        if self.readout == "virtual" and not self.num_virtual:
            raise ValueError(
                "readout 'virtual' needs virtual nodes, got num_virtual = 0. Add virtual(1) to the edges of the "
                "collation and set num_virtual, or read out another way."
            )

    def _check_pools(self) -> None:
        wrong = [layer for layer in self.pool_layers if not 1 <= layer <= self.num_layers]
        if wrong or len(set(self.pool_layers)) != len(self.pool_layers):
            raise ValueError(
                f"pool_layers must be different numbers from 1 to num_layers = {self.num_layers}, got "
                f"{list(self.pool_layers)}. 2 pools after the second layer."
            )
        if not 0.0 < self.pool_ratio <= 1.0:
            raise ValueError(f"pool_ratio must lie in (0, 1], got {self.pool_ratio}. It is the share of nodes to keep.")
        if self.pool_layers and self.readout in ("virtual", "nodes"):
            raise ValueError(
                f"readout {self.readout!r} needs the nodes of the data, got pool_layers = {list(self.pool_layers)}, "
                "which leave fewer. Read out by sum, mean, max or pool, or leave pool_layers out."
            )

    @classmethod
    def from_size(cls, size: str, inputs: GraphCollate | None = None, **overrides: Any) -> GraphTransformerConfig:
        """Makes a configuration of a named size.

        Args:
            size: a name of `NAMED_SIZES`.
            inputs: the collation, whose kinds, distances, positions and virtual nodes the model is to read.
            overrides: any field.

        Raises:
            ValueError: for a size or field that does not exist, suggesting the nearest.

        >>> GraphTransformerConfig.from_size("tiny", readout="mean").embed_dim
        32
        """
        _check_name(size, NAMED_SIZES, "size")
        provided = {} if inputs is None else {name: getattr(inputs, name) for name in _PROVIDED}
        return cls.from_dict({**NAMED_SIZES[size], **provided, **overrides})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> GraphTransformerConfig:
        """Makes a configuration from plain values, as YAML holds them; fields that are left out have their defaults."""
        names = [field.name for field in fields(cls)]
        for name in values:
            _check_name(name, names, "a field of GraphTransformerConfig")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Returns numbers, strings and lists, from which `from_dict` makes the same configuration."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


_LEAST = {"num_tasks": 1, "num_layers": 0, "edge_dim": 0, "max_hops": 0, "num_virtual": 0, "pool_k": 1}
_PROVIDED = ("kinds", "max_hops", "num_walks", "num_eigenvectors", "num_virtual")


class GraphTransformer(nn.Module):
    """Encodes a `GraphBatch`, mixes its nodes along the graph's edges, and reads out one row per graph or per node.

        h ← h + drop(attention(norm(h), graph, edges));   h ← h + drop(ffn(norm(h)))

    Args:
        config: a `GraphTransformerConfig`; None takes its defaults.

    Source: blocks as in Vaswani et al. 2017 with the norm before each part (Xiong et al. 2020); atom and bond encoders
    as in OGB (Hu et al. 2020); edge features in keys, values and bias of one attention over local and global edges are
    ours.

    >>> collate = GraphCollate()
    >>> model = GraphTransformer.from_size("tiny", collate, readout="mean")
    >>> from torch_geometric.data import Data
    >>> ethanol = Data(x=torch.zeros(3, 9, dtype=torch.int64), edge_index=torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]]),
    ...                edge_attr=torch.zeros(4, 3, dtype=torch.int64))
    >>> model(collate([ethanol, ethanol])).shape
    torch.Size([2, 1])
    """

    def __init__(self, config: GraphTransformerConfig | None = None):
        super().__init__()
        self.config = config = GraphTransformerConfig() if config is None else config
        dim, norm = config.embed_dim, NORMS[config.norm]
        self.node_encoder = _encoder(config.atom_dims, dim)
        has_positions = config.num_walks + config.num_eigenvectors > 0
        self.position_encoder = (
            PositionEncoder(config.num_walks, config.num_eigenvectors, dim) if has_positions else None
        )
        self.virtual_encoder = VirtualNodeEncoder(config.num_virtual, dim) if config.num_virtual else None
        self.edge_encoder = EdgeEncoder(config) if config.edge_dim else None
        specs = spec_of_each_layer(read_seat(config.select, SELECTIONS, "select"), config.num_layers)
        self._pool_layers = sorted(config.pool_layers)
        self.draws = LayerDraws(PerLayer(*specs), config.num_layers) if any(map(is_drawable, specs)) else None
        first_pool = min(config.pool_layers, default=config.num_layers)
        self.blocks = nn.ModuleList(
            Block(config, select=None if is_drawable(spec) else spec, has_edges=number < first_pool)
            for number, spec in enumerate(specs)
        )
        self.pools = nn.ModuleDict(
            {str(layer): SuccessiveHalvingPool(dim, ratio=config.pool_ratio) for layer in self._pool_layers}
        )
        self.pool_readout = PoolReadout(SuccessiveHalvingPool(dim, config.pool_k)) if config.readout == "pool" else None
        self.norm = norm(dim)
        self.head = nn.Sequential(
            nn.Linear(dim, dim), nn.ReLU(), FeatureDropout(config.dropout_p), nn.Linear(dim, config.num_tasks)
        )

    @classmethod
    def from_size(cls, size: str, inputs: GraphCollate | None = None, **overrides: Any) -> GraphTransformer:
        """Makes a model of a named size; the arguments are those of `GraphTransformerConfig.from_size`."""
        return cls(GraphTransformerConfig.from_size(size, inputs, **overrides))

    def forward(self, batch: GraphBatch) -> Tensor:
        """Returns [num_graphs, num_tasks], or [num_data_nodes, num_tasks] for the readout "nodes".

        Raises:
            ValueError: if the collation did not provide what the configuration names.
        """
        level = self.first_level(batch)
        graphs = self.connect(level.graph, layers=range(min(self._pool_layers, default=len(self.blocks))))
        for number, block in enumerate(self.blocks):
            level = level.with_nodes(block(level.h, *level.read_over(graphs[number])))
            if number + 1 in self._pool_layers:
                level = self._pooled(level, number + 1)
                following = [layer for layer in self._pool_layers if layer > number + 1]
                graphs += self.connect(level.graph, layers=range(number + 1, min(following, default=len(self.blocks))))
        return self.head(self.read_out(level.with_nodes(self.norm(level.h)), batch))

    def connect(
        self, graph: AttentionGraph, step: int | None = None, layers: Iterable[int] | None = None
    ) -> list[AttentionGraph]:
        """Returns the graph that each layer attends over, drawn as `config.select` says; arguments as `LayerDraws`."""
        if self.draws is not None:
            return self.draws(graph, step, layers)
        return [graph for _ in (range(len(self.blocks)) if layers is None else layers)]

    def first_level(self, batch: GraphBatch) -> Level:
        """Returns nodes, graph and edges as the first layer reads them."""
        h = self.embed(batch)
        edge_attr, edge_type = None, None
        if self.edge_encoder is not None:
            edge_attr, edge_type = self.edge_encoder(batch), batch.edge_type
        return Level(h, batch.graph, batch.virtual == 0, edge_attr, edge_type)

    def _pooled(self, level: Level, layer: int) -> Level:
        """Returns the level above, all pairs of what a pool leaves of each graph; virtual nodes do not enter it."""
        h, graph, _ = self.pools[str(layer)](level.h, level.graph, full, mask=level.is_data)
        return Level(h, graph, h.new_ones(h.shape[0], dtype=torch.bool))

    def embed(self, batch: GraphBatch) -> Tensor:
        """Returns the first features of all nodes, [num_nodes, embed_dim]; virtual ones have their own embeddings."""
        if batch.num_virtual != self.config.num_virtual:
            raise ValueError(
                f"this model has {self.config.num_virtual} virtual nodes per graph, the batch {batch.num_virtual}. "
                "Set num_virtual to the count of VirtualNodes among the edges of GraphCollate."
            )
        h = self.node_encoder(batch.x)
        if self.position_encoder is not None:
            if batch.positions is None:
                raise ValueError(
                    "this model reads positions, the batch has none. Set num_walks and num_eigenvectors of "
                    "GraphCollate as in the model."
                )
            h = h + self.position_encoder(batch.positions, batch.batch, batch.num_graphs)
        return h if self.virtual_encoder is None else self.virtual_encoder(h, batch.virtual)

    def read_out(self, level: Level, batch: GraphBatch) -> Tensor:
        """Reduces node features to one row per graph, [num_graphs, embed_dim], or keeps the nodes of the data.

        A graph without a node to read has zeros.
        """
        h, readout = level.h, self.config.readout
        if readout == "nodes":
            return h[batch.node]
        if self.pool_readout is not None:
            return self.pool_readout(h, level.graph, mask=level.is_data).sum(1)
        is_read = (~level.is_data if readout == "virtual" else level.is_data)[:, None]
        of_graph = batch.batch if level.graph is batch.graph else batch_of(level.graph.dst_ptr)
        if readout == "max":
            largest = segment_max(h.masked_fill(~is_read, -torch.inf), of_graph, batch.num_graphs)
            return largest.masked_fill(largest == -torch.inf, 0.0)
        total = segment_sum(h.masked_fill(~is_read, 0.0), of_graph, batch.num_graphs)
        if readout == "sum":
            return total
        return total / segment_sum(is_read.to(h.dtype), of_graph, batch.num_graphs).clamp(min=1)

    def num_parameters(self) -> int:
        """Returns the number of trained parameters."""
        return sum(weight.numel() for weight in self.parameters() if weight.requires_grad)

    def extra_repr(self) -> str:
        config = self.config
        return (
            f"{self.num_parameters():,} parameters: {config.num_layers} layers × {config.num_heads} heads, "
            f"embed_dim={config.embed_dim}, readout={config.readout!r}"
        )


@dataclass(frozen=True, eq=False)
class Level:
    """What a layer reads: the nodes that are left, who may read whom among them, and features of the edges."""

    h: Tensor  # [num_nodes, embed_dim]
    graph: AttentionGraph
    is_data: Tensor  # bool [num_nodes], False for virtual nodes
    edge_attr: Tensor | None = None  # [num_edges, edge_dim], or [num_types, edge_dim]
    edge_type: Tensor | None = None  # int64 [num_edges]

    def with_nodes(self, h: Tensor) -> Level:
        """Returns the level with other features of its nodes."""
        return replace(self, h=h)

    def read_over(self, graph: AttentionGraph) -> tuple[AttentionGraph, Tensor | None, Tensor | None]:
        """Returns a graph drawn from this level's, and the features or types of its edges."""
        if graph is self.graph or self.edge_attr is None:
            return graph, self.edge_attr, self.edge_type
        if self.edge_type is not None:
            return graph, self.edge_attr, graph.align(self.edge_type, of=self.graph, fill=0)
        return graph, graph.align(self.edge_attr, of=self.graph), None


class Block(nn.Module):
    """Attention and feed-forward part, each behind its norm and beside a residual."""

    def __init__(self, config: GraphTransformerConfig, select: Select | None = None, has_edges: bool = True):
        super().__init__()
        dim, norm = config.embed_dim, NORMS[config.norm]
        hidden = int(dim * config.ffn_ratio)
        terms = {name: name in config.edge_terms for name in EDGE_TERMS}
        self.attention_norm = norm(dim)
        self.attention = GraphAttention(
            dim,
            config.num_heads,
            select=select,
            edge=EdgeTerms(config.edge_dim, **terms) if config.edge_dim and has_edges else None,
            dropout_p=config.attention_dropout_p,
            impl=config.impl,
        )
        self.ffn_norm = norm(dim)
        self.ffn = nn.Sequential(
            nn.Linear(dim, hidden), nn.GELU(), FeatureDropout(config.dropout_p), nn.Linear(hidden, dim)
        )
        self.dropout = FeatureDropout(config.dropout_p)

    def forward(self, h: Tensor, graph: AttentionGraph, edge_attr: Tensor | None, edge_type: Tensor | None) -> Tensor:
        h = h + self.dropout(self.attention(self.attention_norm(h), graph, edge_attr=edge_attr, edge_type=edge_type))
        return h + self.dropout(self.ffn(self.ffn_norm(h)))


class EdgeEncoder(nn.Module):
    """Sums what is known of an edge: the bond's features, the hops between its ends, the kinds it has."""

    def __init__(self, config: GraphTransformerConfig):
        super().__init__()
        self.kind = KindEncoder(config.kinds, config.edge_dim)
        self.bond = _encoder(config.bond_dims, config.edge_dim) if config.bond_dims else None
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


def _encoder(dims: tuple[int, ...] | int, embed_dim: int) -> nn.Module:
    return NumberEncoder(dims, embed_dim) if isinstance(dims, int) else CategoryEncoder(dims, embed_dim)


def _check_name(name: str, valid: Iterable[str], what: str) -> None:
    """Raises a ValueError with the valid names, and the nearest of them, if `name` is none of them."""
    valid = list(valid)
    if name in valid:
        return
    near = difflib.get_close_matches(str(name), valid, n=1)
    suggestion = f"Did you mean {near[0]!r}?" if near else "Check the spelling."
    raise ValueError(f"{what} must be one of {', '.join(valid)}, got {name!r}. {suggestion}")
