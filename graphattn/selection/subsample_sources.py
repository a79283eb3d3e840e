"""Subsampled sources (SSA, unbiased): every target reads one random set of sources, drawn anew for each call."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor, nn

from graphattn.connectivity._nodes import check_count, check_generator
from graphattn.graph import AttentionGraph, batch_of
from graphattn.selection._self_edges import check_keep_self, keeps_self
from graphattn.selection.seat import DrawingSeat, When, check_when

MAX_DENOMINATOR = 10**6  # of the fraction that keep_p stands for; times the nodes of a graph it stays an int64


@dataclass(frozen=True)
class SubsampleSources:
    r"""Keeps the edges from a random set of sources, the same for all targets and heads of a graph.

    E_S = {(j → i) ∈ E : j ∈ S_g}, S_g uniform among the subsets of k_g of the n_g sources of graph g, graphs
    independent of one another, k_g = min(num_sources, n_g) or max(1, ⌈keep_p · n_g⌉). Full attention inside graphs
    becomes one block of all targets × k_g sources, n_g · k_g edges; other blocks stay blocks, and edges are filtered.
    Seven tokens, three sources:

        · ■ · ■ · · ■
        · ■ · ■ · · ■
        · ■ · ■ · · ■
        · ■ · ■ · · ■
        · ■ · ■ · · ■
        · ■ · ■ · · ■
        · ■ · ■ · · ■

    As the select seat of a layer, only sampled sources are projected to keys and values.

    Args:
        num_sources: sources per graph, at least 1; a graph with fewer keeps all. Exactly one of this and `keep_p`.
        keep_p: share of the sources, in (0, 1], read as the nearest fraction with a denominator up to 10^6; rounded
            up, so a graph that has a source keeps one.
        keep_self: whether a target keeps the edge from itself, where the graph has it, when its own source is not
            drawn. None keeps it in self-attention where no edge looks ahead (src ≤ dst): an early target of a
            causal graph would read nothing else. Every node is then read, so every node is projected. In a sparse graph
            that is not causal a target may lose all its sources and gets zeros; True prevents that too.
        when: the seat draws in "training" only, "always" or "never".

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if neither or both of the first two are given, or a value lies outside its domain.

    Source: Hussain et al. 2023 (The Information Pathways Hypothesis: Transformers are Dynamic Self-Ensembles), whose
    authors have not published the code of SSA. Theirs, as their abstract has it: self-attention over randomly sampled
    subsets in training, 4 to 8 times cheaper, and ensembles of the sampled models. All elements stay targets, and one
    subset serves all targets and heads of a layer. "Unbiased" says that the subset is uniform; a softmax over a subset
    is no unbiased estimate of the softmax over all. Ours: an exact count instead of a coin per source, at least one
    source per graph, the self edge of causal graphs, and sampling on any graph.

    >>> from graphattn.connectivity import full
    >>> sampled = SubsampleSources(num_sources=3).draw(full(7), generator=torch.Generator().manual_seed(0))
    >>> sampled.num_edges, sampled.kinds, sampled.compact_sources()[0].num_src_nodes
    (21, ('full', 'sampled'), 3)
    """

    num_sources: int | None = None
    keep_p: float | None = None
    keep_self: bool | None = None
    when: When = "training"

    def __post_init__(self) -> None:
        if (self.num_sources is None) == (self.keep_p is None):
            raise ValueError(
                f"exactly one of num_sources and keep_p must be given, got num_sources={self.num_sources} and "
                f"keep_p={self.keep_p}. Pass num_sources for a count, keep_p for a share."
            )
        if self.num_sources is not None:
            check_count(self.num_sources, "num_sources", 1, "Use 1 for a single source per graph.")
        else:
            if isinstance(self.keep_p, bool) or not isinstance(self.keep_p, int | float):
                raise TypeError(f"keep_p must be a float, got {type(self.keep_p).__name__} {self.keep_p!r}.")
            if not 0.0 < self.keep_p <= 1.0:
                raise ValueError(
                    f"keep_p must lie in (0, 1], got {self.keep_p}. It is the share of sources that stay; 1 keeps all."
                )
        check_keep_self(self.keep_self)
        check_when(self.when)

    def draw(self, graph: AttentionGraph, *, generator: torch.Generator) -> AttentionGraph:
        """Draws one set of sources for each graph of the batch.

        Args:
            graph: square or not, of edges, blocks or both.
            generator: source of randomness, on any device; one state draws the same sources for graphs on all devices.

        Returns:
            AttentionGraph over the same nodes, whose edges from drawn sources are also of kind "sampled"; `graph`
            itself where all sources are drawn.

        Raises:
            TypeError: if `generator` is no torch.Generator.
            ValueError: if `keep_self=True` meets a graph whose sources are not its targets.
        """
        check_generator(generator, None)
        has_self = keeps_self(self.keep_self, graph)
        size = torch.diff(graph.src_ptr)
        count = self._count(size)
        if bool((count == size).all()):
            return graph
        kept = _random_subsets(graph.src_ptr, count, generator)
        drawn = graph.keep_sources(kept).marked("sampled")
        if has_self:
            drawn = drawn | graph.self_edges().keep_sources(~kept)
        return drawn.named(f"{self._label()}.draw({graph.origin})")

    def build(self, embed_dim: int, num_heads: int) -> nn.Module:
        """Makes the module that draws in the forward of a layer."""
        return DrawingSeat(self)

    def _count(self, size: Tensor) -> Tensor:
        """Returns how many sources each graph keeps, int64 [num_graphs]."""
        if self.num_sources is not None:
            most = int(size.max()) if size.numel() else 0  # int64 cannot hold every int
            return size.clamp(max=min(self.num_sources, most))
        assert self.keep_p is not None
        # as floats, 0.1 · 30 is more than 3, and would be rounded up to 4
        share = Fraction(self.keep_p).limit_denominator(MAX_DENOMINATOR)
        count = torch.div(size * share.numerator + share.denominator - 1, share.denominator, rounding_mode="floor")
        return torch.minimum(count.clamp(min=1), size)

    def _label(self) -> str:
        rate = f"num_sources={self.num_sources}" if self.keep_p is None else f"keep_p={self.keep_p}"
        return f"SubsampleSources({rate})"


def _random_subsets(ptr: Tensor, count: Tensor, generator: torch.Generator) -> Tensor:
    """Marks `count[g]` nodes of graph g, drawn uniformly without replacement, bool [num_nodes]."""
    batch = batch_of(ptr)
    order = torch.randperm(batch.numel(), generator=generator, device=generator.device).to(ptr.device)
    if ptr.numel() > 2:  # within each graph the order stays uniform
        order = order[torch.argsort(batch[order], stable=True)]
    rank = torch.arange(batch.numel(), device=ptr.device) - ptr[batch]  # nodes of a graph stand together here too
    marked = torch.zeros(batch.numel(), dtype=torch.bool, device=ptr.device)
    marked[order] = rank < count[batch]
    return marked
