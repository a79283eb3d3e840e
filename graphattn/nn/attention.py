"""The layer: multi-head attention over a graph, assembled from seats."""

from collections.abc import Sequence
from typing import Any, Protocol, Self

from torch import Tensor, nn

from graphattn.graph import AttentionGraph
from graphattn.nn._heads import checked_heads, keep_inputs_, keep_outputs_
from graphattn.nn.edges import EdgeTerms
from graphattn.nn.scores import DotProduct
from graphattn.ops import graph_attention
from graphattn.ops.listening import is_listening


class Score(Protocol):
    """A score seat: a frozen spec whose module turns (x, source, kept) into (query, key).

    `kept` says which rows of x `source` holds, None where it is x itself or comes from elsewhere. To be pruned, the
    module has `keep_heads_(heads, key_heads)`, which leaves it those in place.
    """

    def build(
        self, embed_dim: int, num_heads: int, *, head_dim: int, num_key_heads: int, source_dim: int, bias: bool
    ) -> nn.Module: ...


class Select(Protocol):
    """A select seat: a frozen spec whose module turns (x, graph) into (fewer edges, edge_bias or None).

    To be pruned, a module that has something of each head has `keep_heads_(heads)`.
    """

    def build(self, embed_dim: int, num_heads: int) -> nn.Module: ...


class Connect(Protocol):
    """A connect seat: a frozen spec whose module replaces the one call of the verb.

    It is called as `module(query, key, value, graph, **terms)` and returns [num_dst_nodes, num_heads, value_dim]. Its
    embed_dim is the width of all heads, num_heads · head_dim. To be pruned, a module with parameters has
    `keep_heads_(heads)`.
    """

    def build(self, embed_dim: int, num_heads: int) -> nn.Module: ...


class GraphAttention(nn.Module):
    r"""Multi-head attention in which node i attends to the nodes that `graph` lets it see.

        (q, k) = score(x, source);  v = source · W_V
        y_i    = W_O · concat_h( graph_attention(q, k, v, graph)_{i,h} )

    A seat is a spec without sizes; the layer builds and owns its module, so one spec given to twelve layers shares
    nothing.

    Args:
        embed_dim: width of x and of the output.
        num_heads: number of heads; divides embed_dim, unless head_dim is given. A layer pruned of all heads has 0.
        score: makes query and key from node features.
        select: shrinks the graph for this layer and step; only sources that are still read are projected. So it is
            without a selection, or where it hands the graph on as it came, if the graph leaves more than a quarter of
            its sources unread.
        connect: replaces the one call of the verb (Combiner: two calls on bipartite graphs).
        edge: how edge_attr enters (`EdgeTerms`).
        dropout_p: dropout of attention weights in training.
        head_dim: width of a head; None means embed_dim / num_heads.
        num_key_heads: heads of keys and values, fewer than num_heads for grouped heads; None means num_heads.
        source_dim: width of `source` in cross attention; None means embed_dim.
        bias: whether projections have a bias.
        impl: implementation of the verb.

    Raises:
        TypeError: if a seat is given something else than a spec.
        ValueError: if heads do not divide the width, dropout_p is no probability, or the score cannot serve such a
            layer.

    Source: Vaswani et al. 2017, sec. 3.2.2, on an explicit edge set.

    >>> import torch, graphattn as ga
    >>> layer = GraphAttention(embed_dim=8, num_heads=2)
    >>> layer(torch.zeros(5, 8), ga.connectivity.sliding_window(5, radius=1)).shape
    torch.Size([5, 8])
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        *,
        score: Score = DotProduct(),  # noqa: B008 (a frozen spec)
        select: Select | None = None,
        connect: Connect | None = None,
        edge: EdgeTerms | None = None,
        dropout_p: float = 0.0,
        head_dim: int | None = None,
        num_key_heads: int | None = None,
        source_dim: int | None = None,
        bias: bool = True,
        impl: str = "auto",
    ):
        super().__init__()
        for name, seat in (("score", score), ("select", select), ("connect", connect), ("edge", edge)):
            if not hasattr(seat, "build") and (seat is not None or name == "score"):
                raise TypeError(
                    f"{name} must be a spec that builds its module, got {seat!r}. A Ramp or PerLayer is of a model, "
                    "which counts steps and layers: give the layer one of the specs in it."
                )
        num_key_heads = num_heads if num_key_heads is None else num_key_heads
        source_dim = embed_dim if source_dim is None else source_dim
        for name, number, smallest in (
            ("embed_dim", embed_dim, 1),
            ("num_heads", num_heads, 1 if head_dim is None else 0),
            ("num_key_heads", num_key_heads, min(num_heads, 1)),
            ("head_dim", 1 if head_dim is None else head_dim, 1),
        ):
            if number < smallest:
                raise ValueError(f"{name} must be at least {smallest}, got {number}. Give the layer a positive size.")
        if head_dim is None and embed_dim % num_heads:
            raise ValueError(
                f"num_heads must divide embed_dim, got {num_heads} heads for width {embed_dim}. "
                f"Use embed_dim={embed_dim - embed_dim % num_heads or num_heads}, or give head_dim."
            )
        if num_key_heads > num_heads or (num_heads and num_heads % num_key_heads):
            raise ValueError(
                f"num_key_heads must divide num_heads, got {num_key_heads} for {num_heads} heads. "
                "Grouped heads share a key among equally many queries."
            )
        if not 0.0 <= dropout_p <= 1.0:
            raise ValueError(
                f"dropout_p must lie in [0, 1], got {dropout_p}. It is the probability of dropping a weight."
            )
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.num_key_heads = num_key_heads
        self.head_dim = head_dim = embed_dim // num_heads if head_dim is None else head_dim
        self.dropout_p = dropout_p
        self.impl = impl
        has_heads = num_heads > 0
        shared: dict[str, Any] = {"num_key_heads": num_key_heads, "source_dim": source_dim, "bias": bias}
        self.score: nn.Module | None = (
            score.build(embed_dim, num_heads, head_dim=head_dim, **shared) if has_heads else None
        )
        self.select = select.build(embed_dim, num_heads) if has_heads and select is not None else None
        self.connect = connect.build(num_heads * head_dim, num_heads) if has_heads and connect is not None else None
        self.edge = (
            edge.build(num_heads, head_dim=head_dim, value_dim=head_dim) if has_heads and edge is not None else None
        )
        self.value_proj = nn.Linear(source_dim, num_key_heads * head_dim, bias=bias) if has_heads else None
        self.out_proj = nn.Linear(max(num_heads, 1) * head_dim, embed_dim, bias=bias)
        if not has_heads:
            keep_inputs_(self.out_proj, [], head_dim)  # torch warns where it initializes nothing

    def forward(
        self,
        x: Tensor,
        graph: AttentionGraph,
        *,
        source: Tensor | None = None,
        edge_attr: Tensor | None = None,
        edge_type: Tensor | None = None,
        head_gate: Tensor | None = None,
    ) -> Tensor:
        """Mixes node features along the edges of `graph`.

        Args:
            x: [num_dst_nodes, embed_dim].
            graph: who may look at whom; square unless `source` is given.
            source: [num_src_nodes, source_dim] for cross attention; None means x.
            edge_attr: [graph.num_edges, edge_dim] in the graph's edge order; needs the edge seat.
            edge_type: int64 [graph.num_edges]; edge_attr is then [num_types, edge_dim], and edge e has the features of
                row edge_type[e]. Far cheaper where edges are of a few kinds, as bonds are.
            head_gate: [num_heads], multiplied into each head's output.

        Returns:
            [num_dst_nodes, embed_dim].
        """
        if self.score is None or self.value_proj is None:
            return self._without_heads(x, graph, head_gate)
        if edge_attr is not None and self.edge is None:
            raise ValueError(
                "edge_attr needs the edge seat, which is empty. Make the layer with edge=EdgeTerms(edge_dim=...)."
            )
        if edge_attr is None and self.edge is not None:
            raise ValueError(
                "this layer has an edge seat and needs edge_attr, got none. Pass edge_attr [num_edges, edge_dim]."
            )
        is_own = source is None or source is x
        source, kept = x if source is None else source, None
        terms: dict[str, Any] = {}
        selected, edge_bias = (graph, None) if self.select is None else self.select(x, graph)
        if selected is not graph or edge_bias is not None:
            if edge_attr is not None and edge_type is not None:
                edge_attr, edge_type = edge_attr[edge_type], None  # a selection may add a bias of every edge
            if edge_attr is not None:
                edge_attr = selected.align(edge_attr, of=graph)
            graph, source, kept = self._compact(selected, source)
            terms["edge_bias"] = edge_bias
        elif self.connect is None:  # a connection may read sources by their number
            graph, source, kept = self._read_only(graph, source)
        if self.edge is not None:
            of_edges = self.edge(edge_attr)
            bias = terms.get("edge_bias")
            if bias is not None and of_edges["edge_bias"] is not None:
                of_edges["edge_bias"] = of_edges["edge_bias"] + (bias if bias.dim() == 2 else bias[:, None])
            terms |= {name: term for name, term in of_edges.items() if term is not None}
            if edge_type is not None:
                terms["edge_type"] = edge_type
        query, key = self.score(x, source, kept if is_own else None)
        # [num_src_nodes, num_key_heads, head_dim]
        value = self.value_proj(source).unflatten(-1, (self.num_key_heads, -1))
        attend = graph_attention if self.connect is None else self.connect
        dropout_p = self.dropout_p if self.training else 0.0
        out = attend(query, key, value, graph, head_gate=head_gate, dropout_p=dropout_p, impl=self.impl, **terms)
        return self.out_proj(out.flatten(1))

    def keep_heads_(self, kept: Sequence[int] | Tensor) -> Self:
        """Drops the other heads for good, in place: what is projected for them, and what reads them.

        The output is that of the whole layer with a head_gate of ones and zeros, in evaluation. Of all heads dropped
        the output is the bias of `out_proj`, and nothing attends. A layer made with `num_heads=len(kept)` and the
        `head_dim` of this one takes its state_dict. Optimizers hold the old parameters: make them afterwards.

        Args:
            kept: numbers of heads, counted among those that the layer has, in any order; their order stays.

        Returns:
            the layer itself.

        Raises:
            TypeError, ValueError: for numbers that are no heads, grouped heads of which groups keep unequally many, and
                seats that cannot drop theirs.

        >>> import torch, graphattn as ga
        >>> layer = GraphAttention(embed_dim=8, num_heads=4).keep_heads_([0, 3])
        >>> layer.value_proj.weight.shape, layer(torch.zeros(5, 8), ga.connectivity.full(5)).shape
        (torch.Size([4, 8]), torch.Size([5, 8]))
        """
        heads = checked_heads(kept, self.num_heads)
        key_heads = self._key_heads_of(heads)
        score: Any = self.score
        if self.value_proj is None:
            return self  # it has none
        if not heads:
            self.score = self.select = self.connect = self.edge = self.value_proj = None
        else:
            self._check_prunable()
            score.keep_heads_(heads, key_heads)
            seats: tuple[Any, ...] = (self.select, self.connect, self.edge)
            for seat in seats:
                if hasattr(seat, "keep_heads_"):
                    seat.keep_heads_(heads)
            keep_outputs_(self.value_proj, key_heads, self.head_dim)
        keep_inputs_(self.out_proj, heads, self.head_dim)
        self.num_heads, self.num_key_heads = len(heads), len(key_heads)
        return self

    def _check_prunable(self) -> None:
        """Raises if a seat that works on heads cannot drop its own."""
        is_without_parameters = self.connect is None or next(self.connect.parameters(), None) is None
        for name, seat, arguments in (
            ("score", self.score, "heads, key_heads"),
            ("connect", None if is_without_parameters else self.connect, "heads"),
        ):
            if seat is not None and not hasattr(seat, "keep_heads_"):
                raise TypeError(
                    f"the {name} seat {type(seat).__name__} cannot be pruned: it has no keep_heads_. Give it one that "
                    f"takes ({arguments}) and slices its parameters in place."
                )

    def _key_heads_of(self, heads: Sequence[int]) -> list[int]:
        """Returns the key heads that heads read, or raises if not equally many share each."""
        group = self.num_heads // max(self.num_key_heads, 1)
        sharing: dict[int, int] = {}
        for head in heads:
            sharing[head // group] = sharing.get(head // group, 0) + 1
        if len(set(sharing.values())) > 1:
            raise ValueError(
                f"kept must leave equally many heads to every key head that stays, got {sharing} as counts by key "
                f"head. {group} heads share each; keep or drop whole groups."
            )
        return list(sharing)

    def _without_heads(self, x: Tensor, graph: AttentionGraph, head_gate: Tensor | None) -> Tensor:
        """Returns what is left of a layer that lost all heads, the bias of out_proj; nothing attends."""
        if x.shape[0] != graph.num_dst_nodes:
            raise ValueError(
                f"x must have num_dst_nodes = {graph.num_dst_nodes} rows, got {x.shape[0]}. It has one per target."
            )
        if head_gate is not None and head_gate.numel():
            raise ValueError(
                f"head_gate must have shape [0], got {list(head_gate.shape)}: this layer has no head left. Pass None."
            )
        return self.out_proj(x[:, :0])

    def _compact(self, selected: AttentionGraph, source: Tensor) -> tuple[AttentionGraph, Tensor, Tensor | None]:
        """Drops the sources that nobody reads any more, so that they are not projected; says which are left."""
        if is_listening():  # who records wants the layer's own numbers
            return selected, source, None
        selected, kept = selected.compact_sources()
        return selected, source[kept], kept

    def _read_only(self, graph: AttentionGraph, source: Tensor) -> tuple[AttentionGraph, Tensor, Tensor | None]:
        """Drops sources that nobody reads, where the graph's plan says that they are many; says which are left."""
        is_right = isinstance(graph, AttentionGraph) and source.shape[:1] == (graph.num_src_nodes,)
        if not is_right or source.device != graph.device:
            return graph, source, None  # the verb says what is wrong
        if is_listening():
            return graph, source, None
        if graph.blocks is not None and self.impl not in ("auto", "blocks"):
            return graph, source, None  # it reads the plan of the listed edges only
        fewer, kept = graph.only_read_sources()
        return fewer, source if kept is None else source.index_select(0, kept), kept

    def extra_repr(self) -> str:
        head_dim = "" if self.num_heads * self.head_dim == self.embed_dim else f", head_dim={self.head_dim}"
        return f"{self.embed_dim}, num_heads={self.num_heads}{head_dim}, dropout_p={self.dropout_p}, impl={self.impl!r}"
