"""The layer: multi-head attention over a graph, assembled from seats."""

from typing import Any, Protocol

from torch import Tensor, nn

from graphattn.graph import AttentionGraph
from graphattn.nn.edges import EdgeTerms
from graphattn.nn.scores import DotProduct
from graphattn.ops import graph_attention
from graphattn.ops.listening import is_listening


class Score(Protocol):
    """A score seat: a frozen spec whose module turns (x, source) into (query, key)."""

    def build(
        self, embed_dim: int, num_heads: int, *, num_key_heads: int, source_dim: int, bias: bool
    ) -> nn.Module: ...


class Select(Protocol):
    """A select seat: a frozen spec whose module turns (x, graph) into (fewer edges, edge_bias or None)."""

    def build(self, embed_dim: int, num_heads: int) -> nn.Module: ...


class Connect(Protocol):
    """A connect seat: a frozen spec whose module replaces the one call of the verb.

    It is called as `module(query, key, value, graph, **terms)` and returns [num_dst_nodes, num_heads, value_dim].
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
        num_heads: number of heads; divides embed_dim.
        score: makes query and key from node features.
        select: shrinks the graph for this layer and step; only sources that are still read are projected. So it is
            without a selection, or where it hands the graph on as it came, if the graph leaves more than a quarter of
            its sources unread.
        connect: replaces the one call of the verb (Combiner: two calls on bipartite graphs).
        edge: how edge_attr enters (`EdgeTerms`).
        dropout_p: dropout of attention weights in training.
        num_key_heads: heads of keys and values, fewer than num_heads for grouped heads; None means num_heads.
        source_dim: width of `source` in cross attention; None means embed_dim.
        bias: whether projections have a bias.
        impl: implementation of the verb.

    Raises:
        ValueError: if heads do not divide the width, or dropout_p is no probability.

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
        num_key_heads: int | None = None,
        source_dim: int | None = None,
        bias: bool = True,
        impl: str = "auto",
    ):
        super().__init__()
        num_key_heads = num_heads if num_key_heads is None else num_key_heads
        source_dim = embed_dim if source_dim is None else source_dim
        for name, number in (("embed_dim", embed_dim), ("num_heads", num_heads), ("num_key_heads", num_key_heads)):
            if number < 1:
                raise ValueError(f"{name} must be at least 1, got {number}. Give the layer a positive size.")
        if embed_dim % num_heads:
            raise ValueError(
                f"num_heads must divide embed_dim, got {num_heads} heads for width {embed_dim}. "
                f"Use embed_dim={embed_dim - embed_dim % num_heads or num_heads}."
            )
        if num_heads % num_key_heads:
            raise ValueError(
                f"num_key_heads must divide num_heads, got {num_key_heads} for {num_heads} heads. "
                "Grouped heads share a key among equally many queries."
            )
        if not 0.0 <= dropout_p <= 1.0:
            raise ValueError(
                f"dropout_p must lie in [0, 1], got {dropout_p}. It is the probability of dropping a weight."
            )
        head_dim = embed_dim // num_heads
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.num_key_heads = num_key_heads
        self.dropout_p = dropout_p
        self.impl = impl
        self.score = score.build(embed_dim, num_heads, num_key_heads=num_key_heads, source_dim=source_dim, bias=bias)
        self.select = None if select is None else select.build(embed_dim, num_heads)
        self.connect = None if connect is None else connect.build(embed_dim, num_heads)
        self.edge = None if edge is None else edge.build(num_heads, head_dim=head_dim, value_dim=head_dim)
        self.value_proj = nn.Linear(source_dim, num_key_heads * head_dim, bias=bias)
        self.out_proj = nn.Linear(embed_dim, embed_dim, bias=bias)

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
        if edge_attr is not None and self.edge is None:
            raise ValueError(
                "edge_attr needs the edge seat, which is empty. Make the layer with edge=EdgeTerms(edge_dim=...)."
            )
        if edge_attr is None and self.edge is not None:
            raise ValueError(
                "this layer has an edge seat and needs edge_attr, got none. Pass edge_attr [num_edges, edge_dim]."
            )
        source = x if source is None else source
        terms: dict[str, Any] = {}
        selected, edge_bias = (graph, None) if self.select is None else self.select(x, graph)
        if selected is not graph or edge_bias is not None:
            if edge_attr is not None and edge_type is not None:
                edge_attr, edge_type = edge_attr[edge_type], None  # a selection may add a bias of every edge
            if edge_attr is not None:
                edge_attr = selected.align(edge_attr, of=graph)
            graph, source = self._compact(selected, source)
            terms["edge_bias"] = edge_bias
        elif self.connect is None:  # a connection may read sources by their number
            graph, source = self._read_only(graph, source)
        if self.edge is not None:
            of_edges = self.edge(edge_attr)
            bias = terms.get("edge_bias")
            if bias is not None and of_edges["edge_bias"] is not None:
                of_edges["edge_bias"] = of_edges["edge_bias"] + (bias if bias.dim() == 2 else bias[:, None])
            terms |= {name: term for name, term in of_edges.items() if term is not None}
            if edge_type is not None:
                terms["edge_type"] = edge_type
        query, key = self.score(x, source)
        # [num_src_nodes, num_key_heads, head_dim]
        value = self.value_proj(source).unflatten(-1, (self.num_key_heads, -1))
        attend = graph_attention if self.connect is None else self.connect
        dropout_p = self.dropout_p if self.training else 0.0
        out = attend(query, key, value, graph, head_gate=head_gate, dropout_p=dropout_p, impl=self.impl, **terms)
        return self.out_proj(out.flatten(1))

    def _compact(self, selected: AttentionGraph, source: Tensor) -> tuple[AttentionGraph, Tensor]:
        """Drops the sources that nobody reads any more, so that they are not projected."""
        if is_listening():  # who records wants the layer's own numbers
            return selected, source
        selected, kept = selected.compact_sources()
        return selected, source[kept]

    def _read_only(self, graph: AttentionGraph, source: Tensor) -> tuple[AttentionGraph, Tensor]:
        """Drops sources that nobody reads, where the graph's plan says that they are many."""
        is_right = isinstance(graph, AttentionGraph) and source.shape[:1] == (graph.num_src_nodes,)
        if not is_right or source.device != graph.device:
            return graph, source  # the verb says what is wrong
        if is_listening():
            return graph, source
        if graph.blocks is not None and self.impl not in ("auto", "blocks"):
            return graph, source  # it reads the plan of the listed edges only
        fewer, kept = graph.only_read_sources()
        return fewer, source if kept is None else source.index_select(0, kept)

    def extra_repr(self) -> str:
        return f"{self.embed_dim}, num_heads={self.num_heads}, dropout_p={self.dropout_p}, impl={self.impl!r}"
