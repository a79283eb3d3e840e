"""A graph transformer: pre-norm blocks of attention over one graph that holds local and global edges alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from graphattn.connectivity import full
from graphattn.graph import AttentionGraph, batch_of
from graphattn.inputs.graph import GraphBatch
from graphattn.models.config import GraphModelConfig, check_name
from graphattn.models.graph_model import GraphModel, reduce_nodes
from graphattn.models.seats import CONNECTIONS, SCORES, as_line, read_seat
from graphattn.nn import (
    Connect,
    EdgeTerms,
    FeatureDropout,
    GraphAttention,
    HardConcreteHeadGate,
    HeadGate,
    ImportanceHeadGate,
    NodeNorm,
    PoolReadout,
    Select,
    StraightThroughHeadGate,
    SubsetHeadGate,
    SuccessiveHalvingPool,
)
from graphattn.nn.combiner import Clusters
from graphattn.ops.capability import IMPLEMENTATIONS, supports
from graphattn.selection import Ramp, SubsampleHops, SubsampleLocal, TopKEdges, is_drawable, spec_of_each_layer

NORMS = {"batch": NodeNorm, "layer": nn.LayerNorm}
GATES: dict[str, type[HeadGate]] = {
    gate.__name__: gate for gate in (SubsetHeadGate, StraightThroughHeadGate, HardConcreteHeadGate, ImportanceHeadGate)
}
EDGE_TERMS = ("key", "value", "bias", "gate")
NAMED_SIZES = {
    "tiny": {"embed_dim": 32, "num_heads": 4, "num_layers": 2},
    "small": {"embed_dim": 64, "num_heads": 4, "num_layers": 4},
    "medium": {"embed_dim": 128, "num_heads": 8, "num_layers": 6},
    "large": {"embed_dim": 256, "num_heads": 8, "num_layers": 10},
}


@dataclass(frozen=True)
class GraphTransformerConfig(GraphModelConfig):
    """Sizes and parts of a `GraphTransformer`, one field for each thing a configuration file can set.

    Args:
        num_tasks: width of the output.
        embed_dim, num_heads, num_layers: size of the trunk; `NAMED_SIZES` holds named ones.
        edge_dim: width of edge features; 0 ignores them, as it must be where `connect` leaves no layer to read them.
        edge_terms: where edge features enter, of "key", "value", "bias", "gate".
        ffn_ratio: hidden width of the feed-forward part over embed_dim.
        dropout_p: dropout of features.
        attention_dropout_p: dropout of attention weights.
        norm: "batch" or "layer".
        score: how features become queries and keys: "DotProduct()", "Symmetric()" or "Pairwise()", or such a spec.
        select: what each layer reads of the graph, as a line such as "SubsampleSources(keep_p=0.25)" or as such a spec:
            see `SELECTIONS`. `Ramp` moves its numbers while training, `PerLayer` gives each layer its own.
        connect: what takes the place of the one call of attention, as a line such as "Fixed(segment=16)" of
            `nn.combiner`, or such a spec; `PerLayer` gives each layer its own, None the plain one. Such a layer reads
            no features of edges and takes no selection, and the edges of the collation must hold "full".
        head_gate: which heads stay, as a line such as "SubsetHeadGate(num_keep=8)", see `nn.HeadGate`; "" for all.
        kept_heads: of each layer the numbers of the heads that it has, in a model that was pruned; () for all.
        pool_layers: numbers of layers, from 1, after which the nodes of each graph are pooled by successive halving;
            the layers that follow attend over all pairs of what is left, without features of edges.
        pool_ratio: share of the nodes that each pool keeps.
        readout: "sum", "mean" or "max" over the nodes of the data, "virtual" (mean of the virtual nodes), "pool" (sum
            of the `pool_k` nodes that a pool makes of a graph), or "nodes" (one row per node of the data).
        pool_k: nodes of the readout "pool".
        atom_dims: categories of each node feature, or the number of features that are numbers.
        bond_dims: the same of bonds; 0 where bonds have no features.
        kinds: names of edge kinds, each with a vector of its own.
        max_hops, num_walks, num_eigenvectors, num_singular, num_virtual: what the collation provides (`GraphCollate`).
        impl: implementation of attention.

    Raises:
        ValueError: for a name that is none of these, suggesting the nearest, for sizes that do not fit, and for parts
            that do not compose; `docs/composition.md` lists those.

    >>> GraphTransformerConfig.from_size("tiny", readout="mean").embed_dim
    32
    """

    SIZES: ClassVar[Mapping[str, Mapping[str, Any]]] = NAMED_SIZES
    READOUTS: ClassVar[tuple[str, ...]] = ("sum", "mean", "max", "virtual", "pool", "nodes")
    LEAST: ClassVar[Mapping[str, int]] = {**GraphModelConfig.LEAST, "pool_k": 1}

    score: str = "DotProduct()"
    connect: str = ""
    head_gate: str = ""
    kept_heads: tuple[tuple[int, ...], ...] = ()
    edge_terms: tuple[str, ...] = ("key", "value", "bias")
    ffn_ratio: float = 2.0
    norm: str = "batch"
    pool_layers: tuple[int, ...] = ()
    pool_ratio: float = 0.5
    pool_k: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "score", as_line(self.score, SCORES, "score"))
        object.__setattr__(self, "connect", as_line(self.connect, CONNECTIONS, "connect"))
        object.__setattr__(self, "head_gate", self.head_gate or "")
        object.__setattr__(self, "kept_heads", _as_tuples(self.kept_heads))
        check_name(self.norm, NORMS, "norm")
        for term in self.edge_terms:
            check_name(term, EDGE_TERMS, "edge_terms")
        if self.ffn_ratio <= 0:
            raise ValueError(f"ffn_ratio must be positive, got {self.ffn_ratio}. 2 doubles the width.")
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
        self._check_seats()

    def connections(self) -> tuple[Any, ...]:
        """Returns what takes the place of attention in each layer, None where it is the plain one."""
        return spec_of_each_layer(read_seat(self.connect, CONNECTIONS, "connect"), self.num_layers)

    def reads_edges(self, layer: int) -> bool:
        """Returns whether a layer reads features of edges: a plain one, below the first pool."""
        return bool(self.edge_dim) and not self._is_above_a_pool(layer) and self.connections()[layer] is None

    def make_head_gate(self) -> HeadGate | None:
        """Makes the gate over all heads of all layers, or returns None."""
        names = {name: partial(gate, self.num_layers, self.num_heads) for name, gate in GATES.items()}
        made: HeadGate | None = read_seat(self.head_gate, names, "head_gate")
        return made

    def _check_seats(self) -> None:
        if not self.score.strip():
            raise ValueError("score must name a score, got ''. Write 'DotProduct()'.")
        if self.num_heads < 1 or self.embed_dim % self.num_heads:
            raise ValueError(
                f"num_heads must divide embed_dim, got {self.num_heads} heads for width {self.embed_dim}. Each head "
                "has an equal share of it."
            )
        layers = list(zip(self.selections(), self.connections(), strict=True))
        for layer, (select, connect) in enumerate(layers):
            self._check_layer(layer, select, connect)
        if self.edge_dim and layers and not any(map(self.reads_edges, range(self.num_layers))):
            raise ValueError(
                f"edge_dim = {self.edge_dim} needs a layer that reads features of edges, but connect, {self.connect}, "
                "stands in all of those below the first pool. Set edge_dim = 0, or leave one of them plain by PerLayer "
                "with None."
            )
        if self.attention_dropout_p and not _serves(self.impl, "dropout_p"):
            raise ValueError(
                f"impl {self.impl!r} has no dropout of weights, got attention_dropout_p = {self.attention_dropout_p}. "
                "Set it to 0, or take impl 'auto'."
            )
        if self.edge_dim and layers and (self.impl == "blocks" or not _serves(self.impl, "edge_bias")):
            raise ValueError(
                f"impl {self.impl!r} serves no layer that reads features of edges, which have to be listed for them, "
                f"got edge_dim = {self.edge_dim}. Set edge_dim = 0, or take impl 'auto'."
            )
        self._check_heads()

    def _check_layer(self, layer: int, select: Any, connect: Any) -> None:
        """Raises if a layer cannot be what its seats say, whatever the data."""
        if select is not None and connect is not None:
            raise ValueError(
                f"layer {layer} has both select, {select}, and connect, {connect}: a Combiner covers the whole "
                "support by summaries, of which a selection would leave holes. Use PerLayer with None for one."
            )
        needed = _needs_of_data(select) or _needs_of_data(connect)
        if needed and self._is_above_a_pool(layer):
            raise ValueError(
                f"layer {layer} has {select or connect}, which needs {needed}, and stands above a pool, pool_layers = "
                f"{list(self.pool_layers)}, which leaves all pairs of fewer nodes and no more. Use PerLayer with None "
                "there."
            )
        is_learned = isinstance(select, TopKEdges)
        lists = is_learned or isinstance(select.start if isinstance(select, Ramp) else select, SubsampleHops)
        if (self.impl == "blocks" and lists) or (is_learned and not _serves(self.impl, "edge_bias")):
            raise ValueError(
                f"impl {self.impl!r} cannot serve layer {layer} with select, {select}: what that keeps are listed "
                f"edges{' with a bias' if is_learned else ''}. Take impl 'auto', or another selection."
            )

    def _check_heads(self) -> None:
        if self.kept_heads and self.head_gate:
            raise ValueError(
                f"a model has head_gate, {self.head_gate}, before it is pruned, and kept_heads after that; got both. "
                "Leave one of them out."
            )
        if self.kept_heads and len(self.kept_heads) != self.num_layers:
            raise ValueError(
                f"kept_heads must have a list for each of {self.num_layers} layers, got {len(self.kept_heads)}. An "
                "empty list is a layer without heads."
            )
        for heads in self.kept_heads:
            if len(set(heads)) < len(heads) or any(
                isinstance(head, bool) or not isinstance(head, int) or not 0 <= head < self.num_heads for head in heads
            ):
                raise ValueError(
                    f"kept_heads must hold numbers of heads from 0 to {self.num_heads - 1}, each once in its layer, "
                    f"got {[list(heads) for heads in self.kept_heads]}. They count the heads before pruning."
                )
        if self.head_gate:
            with torch.random.fork_rng(devices=[]):
                self.make_head_gate()

    def _is_above_a_pool(self, layer: int) -> bool:
        return any(layer >= pool for pool in self.pool_layers)


class GraphTransformer(GraphModel):
    """Encodes a `GraphBatch`, mixes its nodes along the graph's edges, and reads out one row per graph or per node.

        h ← h + drop(attention(norm(h), graph, edges));   h ← h + drop(ffn(norm(h)))

    Args:
        config: a `GraphTransformerConfig`; None takes its defaults.

    Source: blocks as in Vaswani et al. 2017 with the norm before each part (Xiong et al. 2020); atom and bond encoders
    as in OGB (Hu et al. 2020); edge features in keys, values and bias of one attention over local and global edges are
    ours. Pools between layers as in Pietruszka et al. 2022, there of texts.

    >>> from graphattn.inputs import GraphCollate
    >>> collate = GraphCollate()
    >>> model = GraphTransformer.from_size("tiny", collate, readout="mean")
    >>> from torch_geometric.data import Data
    >>> ethanol = Data(x=torch.zeros(3, 9, dtype=torch.int64), edge_index=torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]]),
    ...                edge_attr=torch.zeros(4, 3, dtype=torch.int64))
    >>> model(collate([ethanol, ethanol])).shape
    torch.Size([2, 1])
    """

    config_class = GraphTransformerConfig
    config: GraphTransformerConfig

    def __init__(self, config: GraphTransformerConfig | None = None):
        config = GraphTransformerConfig() if config is None else config
        super().__init__(config)
        dim, num_layers = config.embed_dim, config.num_layers
        pools = sorted(config.pool_layers)
        # of each level, the layers that attend over it; a pool stands between two levels
        self._levels = [range(*ends) for ends in zip([0, *pools], [*pools, num_layers], strict=True)]
        self.head_gate = config.make_head_gate()
        self.blocks = nn.ModuleList(
            Block(
                config,
                select=None if is_drawable(select) else select,
                connect=connect,
                num_heads=len(config.kept_heads[layer]) if config.kept_heads else config.num_heads,
                has_edges=config.reads_edges(layer),
            )
            for layer, (select, connect) in enumerate(zip(config.selections(), config.connections(), strict=True))
        )
        self.pools = nn.ModuleList(SuccessiveHalvingPool(dim, ratio=config.pool_ratio) for _ in pools)
        self.pool_readout = PoolReadout(SuccessiveHalvingPool(dim, config.pool_k)) if config.readout == "pool" else None
        self.norm = NORMS[config.norm](dim)
        self.head = self.head_of(dim)

    def forward(self, batch: GraphBatch, graphs: Sequence[AttentionGraph] | None = None) -> Tensor:
        """Returns [num_graphs, num_tasks], or [num_data_nodes, num_tasks] for the readout "nodes".

        Args:
            batch: graphs with features.
            graphs: of each layer below the first pool what it attends over, as `connect(batch.graph)` drew it; None
                draws here, where `config.select` says so.

        Raises:
            ValueError: if the collation did not provide what the configuration names.
        """
        level = self.first_level(batch)
        gates = None if self.head_gate is None else self.head_gate().to(level.h.dtype)
        for number, layers in enumerate(self._levels):
            if number:
                level = self._pooled(level, self.pools[number - 1])
            drawn = self.connect(level.graph, layers=layers) if number or graphs is None else graphs[: len(layers)]
            for layer, graph in zip(layers, drawn, strict=True):
                gate = None if gates is None else gates[layer]
                level = level.with_nodes(self.blocks[layer](level.h, *level.read_over(graph), head_gate=gate))
        return self.head(self.read_out(level.with_nodes(self.norm(level.h)), batch))

    def first_level(self, batch: GraphBatch) -> Level:
        """Returns nodes, graph and edges as the first layer reads them."""
        h = self.embed(batch)
        edge_attr, edge_type = None, None
        if self.edge_encoder is not None:
            edge_attr, edge_type = self.edge_encoder(batch), batch.edge_type
        return Level(h, batch.graph, batch.virtual == 0, edge_attr, edge_type)

    def read_out(self, level: Level, batch: GraphBatch) -> Tensor:
        """Reduces node features to one row per graph, [num_graphs, embed_dim], or keeps the nodes of the data.

        A graph without a node to read has zeros.
        """
        readout = self.config.readout
        if readout == "nodes":
            return level.h[batch.node]
        if self.pool_readout is not None:
            return self.pool_readout(level.h, level.graph, mask=level.is_data).sum(1)
        of_graph = batch.batch if level.graph is batch.graph else batch_of(level.graph.dst_ptr)
        is_read = ~level.is_data if readout == "virtual" else level.is_data
        return reduce_nodes(level.h, is_read, of_graph, batch.num_graphs, "mean" if readout == "virtual" else readout)

    def _pooled(self, level: Level, pool: nn.Module) -> Level:
        """Returns the level above, all pairs of what a pool leaves of each graph; virtual nodes do not enter it."""
        h, graph, _ = pool(level.h, level.graph, full, mask=level.is_data)
        return Level(h, graph, h.new_ones(h.shape[0], dtype=torch.bool))


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

    def __init__(
        self,
        config: GraphTransformerConfig,
        *,
        select: Select | None = None,
        connect: Connect | None = None,
        num_heads: int | None = None,
        has_edges: bool = True,
    ):
        super().__init__()
        dim, norm = config.embed_dim, NORMS[config.norm]
        hidden = int(dim * config.ffn_ratio)
        terms = {name: name in config.edge_terms for name in EDGE_TERMS}
        self.attention_norm = norm(dim)
        self.attention = GraphAttention(
            dim,
            config.num_heads if num_heads is None else num_heads,
            head_dim=dim // config.num_heads,
            score=read_seat(config.score, SCORES, "score"),
            select=select,
            connect=connect,
            edge=EdgeTerms(config.edge_dim, **terms) if has_edges else None,
            dropout_p=config.attention_dropout_p,
            impl=config.impl,
        )
        self.ffn_norm = norm(dim)
        self.ffn = nn.Sequential(
            nn.Linear(dim, hidden), nn.GELU(), FeatureDropout(config.dropout_p), nn.Linear(hidden, dim)
        )
        self.dropout = FeatureDropout(config.dropout_p)

    def forward(
        self,
        h: Tensor,
        graph: AttentionGraph,
        edge_attr: Tensor | None,
        edge_type: Tensor | None,
        head_gate: Tensor | None = None,
    ) -> Tensor:
        edges = {} if self.attention.edge is None else {"edge_attr": edge_attr, "edge_type": edge_type}
        h = h + self.dropout(self.attention(self.attention_norm(h), graph, head_gate=head_gate, **edges))
        return h + self.dropout(self.ffn(self.ffn_norm(h)))


def _as_tuples(kept: Any) -> tuple[tuple[int, ...], ...]:
    """Returns heads of each layer, as YAML or a gate lists them, as tuples; None is all heads."""
    kept = () if kept is None else kept
    if not all(isinstance(heads, tuple | list) for heads in kept):
        raise ValueError(f"kept_heads must hold a list of heads for each layer, got {kept!r}. Pass gate.kept().")
    return tuple(map(tuple, kept))


def _needs_of_data(spec: Any) -> str | None:
    """Returns what a selection or connection reads of the data beside who may read whom."""
    spec = spec.start if isinstance(spec, Ramp) else spec
    if isinstance(spec, SubsampleLocal):
        return None if spec.shape is None else f"the grid {spec.shape}"
    kind = spec.steps if isinstance(spec, SubsampleHops) else spec.kind if isinstance(spec, Clusters) else None
    return None if kind in (None, "full") else f"edges of kind {kind!r}"


def _serves(impl: str, argument: str) -> bool:
    """Returns whether an implementation, or for "auto" some, takes an argument of the verb."""
    return impl not in IMPLEMENTATIONS or supports(impl, argument)
