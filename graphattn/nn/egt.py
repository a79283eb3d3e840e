"""The layer of the Edge-augmented Graph Transformer: attention over a graph whose edges carry a state of their own."""

import torch
from torch import Tensor, nn

from graphattn.graph import AttentionGraph
from graphattn.nn.attention import Score
from graphattn.nn.dropout import FeatureDropout
from graphattn.nn.edges import EdgeTerms
from graphattn.nn.scores import DotProduct
from graphattn.ops import edge_logits, graph_attention, segment_sum
from graphattn.ops.listening import is_listening

ACTIVATIONS = {"elu": nn.ELU, "gelu": nn.GELU}


class EGTLayer(nn.Module):
    r"""Mixes nodes along the edges of a graph, and lets each edge take up the logits of its pair.

    With h the state of nodes and e that of edges (j → i), both behind a norm where they are read, for each head:

        s_ij  = clip(q_i·k_j / √head_dim) + E_ij;              E = LN(e) W_E,  G = LN(e) W_G
        a_ij  = softmax_j(s_ij) · σ(G_ij)
        o_i   = log(1 + Σ_j σ(G_ij)) · Σ_j a_ij v_j            the first factor is 1 at virtual nodes
        h_i  ← h_i + drop(W_O o_i);     h ← h + drop(FFN(LN(h)))
        e_ij ← e_ij + drop(W_Oe s_ij);  e ← e + drop(FFN(LN(e)))

    Rows of a do not sum to one: a gate takes weight away, and nothing gives it back. Only the dot product is clipped.
    Memory is O(edges · (edge_dim + num_heads)): no pair that the graph lacks is computed, and none is padded.

    Args:
        embed_dim: width of x.
        num_heads: number of heads; divides embed_dim.
        edge_dim: width of the edge state.
        score: makes query and key from node features.
        update_edges: whether the edge state is updated. The last layer of a stack needs no update, since nobody reads
            it; without one in any layer this is what the authors call simple EGT.
        logit_clip: limits the dot product to [−logit_clip, logit_clip]; None does not.
        scale_degree: whether the output is scaled by the log-degree; without that a node cannot tell how many gates
            are open.
        ffn_ratio, edge_ffn_ratio: hidden width of the feed-forward parts over embed_dim and edge_dim.
        activation: of the feed-forward parts, "elu" or "gelu".
        dropout_p, edge_dropout_p, attention_dropout_p: dropout of what is added to nodes and to edges, and of weights.
        bias: whether the four projections of nodes have a bias.
        impl: implementation of the verb.

    Raises:
        ValueError: for sizes that are not positive or do not divide, what is no probability, an unknown activation.

    Source: Hussain et al. 2022 (EGT), the layer as in their PyTorch code. Theirs holds a state of all N × N pairs of a
    padded batch; here an edge list says which pairs there are. Their code has the head as the fastest axis: row
    (part · head_dim + k) · num_heads + h of their joint projection is channel k of head h. For this layer, where the
    channels of a head stand together,

        query, key, value = theirs.unflatten(0, (3, head_dim, num_heads)).transpose(1, 2).flatten(1, 2)
        out_proj.weight   = theirs.unflatten(1, (head_dim, num_heads)).transpose(1, 2).flatten(1)

    (a bias of the joint projection as its weight); W_E, W_G and W_Oe need no change.

    >>> import graphattn as ga
    >>> layer, graph = EGTLayer(embed_dim=8, num_heads=2, edge_dim=4), ga.connectivity.full(torch.tensor([3, 2]))
    >>> x, edge_attr = layer(torch.randn(5, 8), torch.randn(graph.num_edges, 4), graph)
    >>> x.shape, edge_attr.shape
    (torch.Size([5, 8]), torch.Size([13, 4]))
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        edge_dim: int,
        *,
        score: Score = DotProduct(),  # noqa: B008 (a frozen spec)
        update_edges: bool = True,
        logit_clip: float | None = 5.0,
        scale_degree: bool = True,
        ffn_ratio: float = 1.0,
        edge_ffn_ratio: float = 1.0,
        activation: str = "elu",
        dropout_p: float = 0.0,
        edge_dropout_p: float = 0.0,
        attention_dropout_p: float = 0.0,
        bias: bool = True,
        impl: str = "auto",
    ):
        super().__init__()
        for name, number in (("embed_dim", embed_dim), ("num_heads", num_heads), ("edge_dim", edge_dim)):
            if number < 1:
                raise ValueError(f"{name} must be at least 1, got {number}. Give the layer a positive size.")
        if embed_dim % num_heads:
            raise ValueError(
                f"num_heads must divide embed_dim, got {num_heads} heads for width {embed_dim}. "
                f"Use embed_dim={embed_dim - embed_dim % num_heads or num_heads}."
            )
        for name, p in (
            ("dropout_p", dropout_p), ("edge_dropout_p", edge_dropout_p), ("attention_dropout_p", attention_dropout_p)
        ):  # fmt: skip
            if not 0.0 <= p <= 1.0:
                raise ValueError(f"{name} must lie in [0, 1], got {p}. It is a probability.")
        if logit_clip is not None and not logit_clip > 0:
            raise ValueError(f"logit_clip must be positive, got {logit_clip}. None leaves the dot product as it is.")
        for name, ratio in (("ffn_ratio", ffn_ratio), ("edge_ffn_ratio", edge_ffn_ratio)):
            if not ratio > 0:
                raise ValueError(f"{name} must be positive, got {ratio}. 2 doubles the width.")
        if activation not in ACTIVATIONS:
            raise ValueError(
                f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}. Check the spelling."
            )
        head_dim = embed_dim // num_heads
        self.embed_dim, self.num_heads, self.edge_dim = embed_dim, num_heads, edge_dim
        self.update_edges, self.logit_clip, self.scale_degree = update_edges, logit_clip, scale_degree
        self.attention_dropout_p, self.impl = attention_dropout_p, impl
        self.norm = nn.LayerNorm(embed_dim)
        self.edge_norm = nn.LayerNorm(edge_dim)
        self.score = score.build(
            embed_dim, num_heads, head_dim=head_dim, num_key_heads=num_heads, source_dim=embed_dim, bias=bias
        )
        self.value_proj = nn.Linear(embed_dim, embed_dim, bias=bias)
        self.out_proj = nn.Linear(embed_dim, embed_dim, bias=bias)
        terms = EdgeTerms(edge_dim, key=False, value=False, bias=True, gate=True)
        self.edge = terms.build(num_heads, head_dim=head_dim, value_dim=head_dim)
        self.ffn = _feed_forward(embed_dim, ffn_ratio, activation)
        self.dropout, self.edge_dropout = FeatureDropout(dropout_p), FeatureDropout(edge_dropout_p)
        self.edge_out_proj = nn.Linear(num_heads, edge_dim) if update_edges else None
        self.edge_ffn = _feed_forward(edge_dim, edge_ffn_ratio, activation) if update_edges else None

    def forward(
        self,
        x: Tensor,
        edge_attr: Tensor,
        graph: AttentionGraph,
        *,
        sampled: AttentionGraph | None = None,
        is_virtual: Tensor | None = None,
        head_gate: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Updates the state of nodes, and that of all edges of `graph`.

        Args:
            x: [num_nodes, embed_dim].
            edge_attr: [graph.num_edges, edge_dim], the edges' state in the graph's edge order.
            graph: the edges that have a state; square.
            sampled: some of its edges, such as `SubsampleSources(...).draw(graph)`: attention reads these alone, and
                the log-degree sums their gates, for the sum stands for what a node can read. The state of every edge
                is updated. Only sources that are read are projected to values, and to keys if `update_edges` is False.
            is_virtual: bool [num_nodes], nodes whose output is not scaled by the log-degree.
            head_gate: [num_heads], multiplied into each head's output.

        Returns:
            x: [num_nodes, embed_dim].
            edge_attr: [graph.num_edges, edge_dim]; the tensor that came in if `update_edges` is False.

        Raises:
            TypeError, ValueError: for shapes that do not fit, and (on the CPU) for a sampled edge that `graph` lacks.
        """
        self._check(x, edge_attr, graph, is_virtual)
        h = self.norm(x)
        of_edges = self.edge(self.edge_norm(edge_attr))
        bias, gate = of_edges["edge_bias"], of_edges["edge_gate"]
        read, kept = graph, None
        bias_read, gate_read = bias, gate
        if sampled is not None and sampled is not graph:
            place = _places(sampled, graph)
            bias_read, gate_read = bias.index_select(0, place), gate.index_select(0, place)
            read = sampled
            if sampled.blocks is None and not is_listening():  # who records wants the layer's own numbers
                read, kept = sampled.only_read_sources()
        source = h if kept is None else h.index_select(0, kept)
        query, key = self.score(h, h, None) if self.update_edges else self.score(h, source, kept)
        key_read = key if kept is None or not self.update_edges else key.index_select(0, kept)
        value = self.value_proj(source).unflatten(-1, (self.num_heads, -1))  # [num_read_nodes, num_heads, head_dim]
        out = graph_attention(
            query,
            key_read,
            value,
            read,
            edge_bias=bias_read,
            edge_gate=gate_read,
            head_gate=head_gate,
            logit_clip=self.logit_clip,
            dropout_p=self.attention_dropout_p if self.training else 0.0,
            impl=self.impl,
        )
        if self.scale_degree:
            out = out * self._log_degree(gate_read, read, is_virtual).to(out.dtype)[:, :, None]
        x = x + self.dropout(self.out_proj(out.flatten(1)))
        x = x + self.dropout(self.ffn(x))
        if self.edge_out_proj is None or self.edge_ffn is None:
            return x, edge_attr
        able = "auto" if self.impl == "blocks" else self.impl  # blocks make no number of each edge
        logits = edge_logits(query, key, graph, edge_bias=bias, logit_clip=self.logit_clip, impl=able)
        edge_attr = edge_attr + self.edge_dropout(self.edge_out_proj(logits))
        return x, edge_attr + self.edge_dropout(self.edge_ffn(edge_attr))

    def _log_degree(self, gate: Tensor, graph: AttentionGraph, is_virtual: Tensor | None) -> Tensor:
        """Returns log(1 + Σ gates) over the edges into each node, 1 at virtual nodes, [num_nodes, num_heads]."""
        listed = graph.enumerate()
        total = segment_sum(gate, listed.edge_index[1], graph.num_dst_nodes, listed.plan().target_ptr)
        scale = total.log1p()
        return scale if is_virtual is None else scale.masked_fill(is_virtual[:, None], 1.0)

    def _check(self, x: Tensor, edge_attr: Tensor, graph: AttentionGraph, is_virtual: Tensor | None) -> None:
        if not isinstance(graph, AttentionGraph):
            raise TypeError(f"graph must be an AttentionGraph, got {type(graph).__name__}. Say who may look at whom.")
        if not graph.is_square:
            raise ValueError(
                f"graph must be square, got {graph.num_src_nodes} sources and {graph.num_dst_nodes} targets. "
                "Nodes of this layer read one another."
            )
        for name, given, expected, what in (
            ("x", x, (graph.num_dst_nodes, self.embed_dim), "Give each node of the graph a row."),
            ("edge_attr", edge_attr, (graph.num_edges, self.edge_dim), "Give each edge of the graph a row."),
        ):
            if given.shape != expected:
                raise ValueError(f"{name} must have shape {list(expected)}, got {list(given.shape)}. {what}")
        if is_virtual is None:
            return
        if is_virtual.dtype != torch.bool or is_virtual.shape != (graph.num_dst_nodes,):
            raise ValueError(
                f"is_virtual must be bool [{graph.num_dst_nodes}], got {is_virtual.dtype} {list(is_virtual.shape)}. "
                "Pass batch.virtual > 0 of a GraphBatch."
            )

    def extra_repr(self) -> str:
        return (
            f"{self.embed_dim}, num_heads={self.num_heads}, edge_dim={self.edge_dim}, logit_clip={self.logit_clip}, "
            f"scale_degree={self.scale_degree}, update_edges={self.update_edges}, impl={self.impl!r}"
        )


def _feed_forward(dim: int, ratio: float, activation: str) -> nn.Sequential:
    hidden = max(int(dim * ratio), 1)
    return nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, hidden), ACTIVATIONS[activation](), nn.Linear(hidden, dim))


def _places(sampled: AttentionGraph, graph: AttentionGraph) -> Tensor:
    """Returns where each sampled edge stands among those of the graph, int64 [sampled.num_edges]."""
    if (sampled.num_src_nodes, sampled.num_dst_nodes) != (graph.num_src_nodes, graph.num_dst_nodes):
        raise ValueError(
            f"sampled must be over the {graph.num_dst_nodes} nodes of graph, got {sampled.num_src_nodes} sources and "
            f"{sampled.num_dst_nodes} targets. Draw it from the graph, and leave compact_sources to the layer."
        )
    src, dst = sampled.edge_index
    place = graph.find(src, dst)
    if not torch.compiler.is_compiling() and place.device.type == "cpu" and bool((place < 0).any()):
        edge = int((place < 0).nonzero()[0])
        raise ValueError(
            f"sampled must hold edges of graph only, got {int(src[edge])} → {int(dst[edge])}, which graph lacks and "
            "has no state for. Draw it from the graph."
        )
    return place
