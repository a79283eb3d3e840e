"""The connect seat of Combiner: summaries of the tokens, then one softmax over tokens and summaries."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Protocol, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphattn.connectivity.combiner import Pair
from graphattn.graph import AttentionGraph
from graphattn.nn._heads import sliced
from graphattn.nn.combiner.askers import askers_of
from graphattn.nn.combiner.pooling import Members, max_pool, mean_pool, members_of
from graphattn.ops import attention_weights, graph_attention, segment_sum
from graphattn.ops.capability import supports
from graphattn.ops.listening import calls_are, is_listening, tell

Summary = Literal["max", "mean", "learned"]


def check_summary(summary: str) -> None:
    """Raises a ValueError unless `summary` is a way to make summaries."""
    if summary not in get_args(Summary):
        raise ValueError(
            f"summary must be one of {', '.join(map(repr, get_args(Summary)))}, got {summary!r}. The paper takes 'max'."
        )


class Sources(NamedTuple):
    """What the tokens of a pair read: tokens, and abstractions after them."""

    keys: tuple[Tensor, Tensor]  # [num_nodes, num_heads, head_dim] and [num_abstractions, …]
    values: tuple[Tensor, Tensor]  # [num_nodes, num_heads, value_dim] and [num_abstractions, …]
    bias: Tensor | None  # [num_abstractions], added to the logits of reading them


class Connects(Protocol):
    """A frozen spec that says which pairs of graphs stand for a graph."""

    @property
    def summary(self) -> Summary: ...

    @property
    def log_size(self) -> bool: ...

    def pairs(self, graph: AttentionGraph) -> tuple[Pair, ...]: ...


class CombinerSeat(nn.Module):
    r"""Attends over each token's whole support, by tokens read directly and by summaries of all others.

        q_Ω = pool_{j ∈ Ω} q_j;   k_Ω = pool_{j ∈ Ω} k_j             channel by channel, in each head
        v_Ω = Σ_{j ∈ Ω} p(j | Ω) v_j,   p(j | Ω) = softmax_{j ∈ Ω}(q_Ω · k_j / √d)
        out_i = Σ_{j ∈ Ω⁰_i} p(j | i) v_j + Σ_r p(Ω^r_i | i) v_{Ω^r_i}

    with one softmax over { q_i · k_j / √d : j ∈ Ω⁰_i } ∪ { q_i · k_{Ω^r} / √d : r }: two calls of the verb, over the
    two graphs of a `connectivity.combiner.Pair`. Where a spec makes several pairs, their outputs are averaged. Out is
    attention with the weights q(j | i) = p(j | i), or p(Ω | i) p(j | Ω) for the Ω of i that holds j: every row is
    positive on the whole support and sums to one. Equal tokens weigh in a summary as one of them alone, however many
    they are.

    Args:
        spec: says the pairs; "learned" summaries are ρ_h(mean φ_h(·)) on top of the maximum, with ρ = 0 at first.
        embed_dim: width of the layer.
        num_heads: its heads.

    Source: Ren et al. 2021 (Combiner), eqs. 3–9; Zaheer et al. 2017 (Deep Sets) for learned summaries, whose form is
    ours, as are the mean and the bias by size.

    >>> import graphattn as ga
    >>> layer = ga.nn.GraphAttention(8, 2, connect=ga.nn.combiner.Fixed(segment=2))
    >>> layer(torch.zeros(5, 8), ga.connectivity.full(5)).shape
    torch.Size([5, 8])
    """

    def __init__(self, spec: Connects, embed_dim: int, num_heads: int):
        super().__init__()
        self.spec = spec
        self.query_pool: DeepSet | None = None
        self.key_pool: DeepSet | None = None
        if spec.summary == "learned":
            self.query_pool, self.key_pool = (DeepSet(num_heads, embed_dim // num_heads) for _ in range(2))

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        graph: AttentionGraph,
        *,
        head_gate: Tensor | None = None,
        dropout_p: float = 0.0,
        impl: str = "auto",
        **terms: Any,
    ) -> Tensor:
        """Replaces the one call of the verb.

        Args:
            query: [num_nodes, num_heads, head_dim].
            key: [num_nodes, num_key_heads, head_dim].
            value: [num_nodes, num_key_heads, value_dim].
            graph: full attention of each example, `connectivity.full(sizes)`, with `.keep(is_causal)` for a language
                model and with `.keep_sources(is_token)` where some tokens, as padding, must not be read. The pairs are
                made from its sizes once and noted with it.
            head_gate: [num_heads], multiplied into each head's output.
            dropout_p: dropout of the weights of direct and read edges, not of those inside summaries.
            impl: of both calls.

        Returns:
            [num_nodes, num_heads, value_dim].

        Raises:
            ValueError: if the graph is not full, or something is told per edge: its edges are not those attended over.
        """
        given = sorted(name for name, term in terms.items() if term is not None)
        if given:
            raise ValueError(
                f"a Combiner takes nothing per edge, got {', '.join(given)}. Most pairs of tokens meet in a summary "
                "and have no edge of their own: leave the edge seat and selections with a bias out of this layer."
            )
        pairs = self.pairs_of(graph)
        if key.dim() == query.dim() == 3 and 0 < key.shape[1] < query.shape[1] and query.shape[1] % key.shape[1] == 0:
            # a summary differs between the heads that share a key
            key, value = (x.repeat_interleave(query.shape[1] // key.shape[1], 1) for x in (key, value))
        read = [self._sources(query, key, value, pair, impl) for pair in pairs]
        options: dict[str, Any] = {"dropout_p": dropout_p, "impl": impl}
        if len(pairs) > 1 and is_listening():
            if dropout_p > 0:
                raise ValueError(
                    "a mean of several attentions is recorded as one, in which dropout would fall on other weights "
                    "than without the record. Record the model in evaluation, or with dropout_p=0."
                )
            return self._averaged(query, pairs, read, head_gate, impl=impl)
        outs = []
        for pair, (keys, values, bias) in zip(pairs, read, strict=True):
            queries, keys, scale = _with_bias(query, keys, bias)
            outs.append(
                graph_attention(queries, keys, values, pair.attend, head_gate=head_gate, scale=scale, **options)
            )
        return outs[0] if len(outs) == 1 else sum(outs[1:], outs[0]) / len(outs)

    def pairs_of(self, graph: AttentionGraph) -> tuple[Pair, ...]:
        """Returns the pairs that stand for a graph, made once and noted with it; call it before compiling a layer."""
        if not isinstance(graph, AttentionGraph):
            raise TypeError(
                f"graph must be an AttentionGraph, got {type(graph).__name__}. Pass connectivity.full(sizes)."
            )
        note = "combiner", self.spec
        if note not in graph.notes:
            if torch.compiler.is_compiling():
                raise RuntimeError(
                    "the graphs of a Combiner are made before a compiled region. Call layer.connect.pairs_of(graph) "
                    "where the graph is made, or leave the layer uncompiled."
                )
            with torch.inference_mode(False):  # kept, so they must serve training as well
                pairs = graph.notes[note] = self.spec.pairs(graph)
                for pair in pairs:  # a compiled region makes none of what follows
                    members_of(pair.summarise)
                    askers_of(pair)
                    pair.summarise.plan()
                    pair.attend.plan()
        return graph.notes[note]

    def _sources(self, query: Tensor, key: Tensor, value: Tensor, pair: Pair, impl: str) -> Sources:
        if not pair.num_abstractions and not is_listening():  # who records wants to know where examples end
            return Sources((key, key[:0]), (value, value[:0]), None)
        members, askers = members_of(pair.summarise), askers_of(pair)
        pooled_key = self._pooled(key, members, self.key_pool)
        if askers.are_all and self.query_pool is None:  # else it is in the program, so that it has a gradient of zero
            asked = askers.queries(query)
        else:
            asked = self._pooled(query, members, self.query_pool)
            if askers.ask is not None:
                asked = torch.where(askers.ask, askers.queries(query), asked)
        with calls_are("summary"):
            summary = graph_attention(asked, key, value, pair.summarise, impl=impl)
        bias = members.size.clamp(min=1).double().log().to(key.dtype) if self.spec.log_size else None
        return Sources((key, pooled_key), (value, summary.to(value.dtype)), bias)

    def _pooled(self, values: Tensor, members: Members, learned: DeepSet | None) -> Tensor:
        if self.spec.summary == "mean":
            return mean_pool(values, members)
        largest = max_pool(values, members)
        return largest if learned is None else largest + learned(values, members)

    def _averaged(
        self,
        query: Tensor,
        pairs: tuple[Pair, ...],
        read: list[Sources],
        head_gate: Tensor | None,
        *,
        impl: str,
    ) -> Tensor:
        """The mean of several attentions as one over the union of their graphs, for who records them."""
        num_nodes = query.shape[0]
        edges, weights, values, first = [], [], [read[0].values[0]], num_nodes
        for pair, (keys, (_, summary), bias) in zip(pairs, read, strict=True):
            queries, keys, scale = _with_bias(query, keys, bias)
            of_sources = torch.cat(keys)
            src, dst = pair.attend.edge_index
            edges.append(torch.stack([torch.where(src < num_nodes, src, src - num_nodes + first), dst]))
            able = impl if impl == "auto" or supports(impl, "weights") else "auto"
            weights.append(attention_weights(queries, of_sources, pair.attend, scale=scale, impl=able) / len(pairs))
            values.append(summary)
            first += pair.num_abstractions
        value, listed = torch.cat(values), torch.cat(edges, 1)
        place, number = torch.unique(listed[1] * first + listed[0], return_inverse=True)
        union = torch.stack([place % first, torch.div(place, first, rounding_mode="floor")])
        alpha = segment_sum(torch.cat(weights), number, place.numel())
        graph = AttentionGraph.trusted(union, first, num_nodes, origin="mean of pairs")
        tell(graph, alpha, head_gate=head_gate, value=value)
        out = segment_sum(alpha[..., None] * value[union[0]], union[1], num_nodes)
        return out if head_gate is None else out * head_gate.to(out.dtype)[:, None]

    def keep_heads_(self, heads: Sequence[int]) -> None:
        """Drops the other heads of learned summaries, in place."""
        for pool in (self.query_pool, self.key_pool):
            if pool is not None:
                pool.inner, pool.inner_bias, pool.outer = (
                    sliced(weight, heads, 0) for weight in (pool.inner, pool.inner_bias, pool.outer)
                )

    def extra_repr(self) -> str:
        return repr(self.spec)


class DeepSet(nn.Module):
    """Summarises a set in each head by W₂ mean_j gelu(W₁ x_j + b₁), with W₂ = 0 at first."""

    def __init__(self, num_heads: int, head_dim: int):
        super().__init__()
        bound = 1.0 / math.sqrt(max(head_dim, 1))
        self.inner = nn.Parameter(torch.empty(num_heads, head_dim, head_dim).uniform_(-bound, bound))
        self.inner_bias = nn.Parameter(torch.empty(num_heads, head_dim).uniform_(-bound, bound))
        self.outer = nn.Parameter(torch.zeros(num_heads, head_dim, head_dim))

    def forward(self, values: Tensor, members: Members) -> Tensor:
        """Returns [num_abstractions, num_heads, head_dim] of values [num_tokens, num_heads, head_dim]."""
        inner = F.gelu(torch.einsum("nhd,hed->nhe", values, self.inner) + self.inner_bias)
        return torch.einsum("nhd,hed->nhe", mean_pool(inner, members), self.outer)


def _with_bias(
    query: Tensor, keys: tuple[Tensor, Tensor], bias: Tensor | None
) -> tuple[Tensor, tuple[Tensor, Tensor], float]:
    """Adds a bias of each abstraction to its logits, as one more channel: every implementation takes that."""
    scale = 1.0 / math.sqrt(max(query.shape[2], 1))
    if bias is None:
        return query, keys, scale
    of_tokens, of_summaries = keys
    column = (bias / scale)[:, None, None].expand(-1, of_summaries.shape[1], 1)
    return F.pad(query, (0, 1), value=1.0), (F.pad(of_tokens, (0, 1)), torch.cat([of_summaries, column], 2)), scale
