"""Locally biased subsampling on graphs: as many sources as a target has within some hops, near ones likelier."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from graphattn.connectivity import hop_distance
from graphattn.connectivity._nodes import check_count, check_generator
from graphattn.graph import AttentionGraph
from graphattn.selection._marked import marked
from graphattn.selection._self_edges import check_keep_self, keeps_self
from graphattn.selection._shake import check_sigma, sorted_within
from graphattn.selection.seat import DrawingSeat, When, check_when


@dataclass(frozen=True)
class SubsampleHops:
    r"""Keeps, for each target, random sources whose probability falls with their hop distance.

    Target i, which could read N(i), draws k_i of them without replacement, one after the other,

        k_i = |{j ∈ N(i) : d_ji ≤ num_hops}|,    P(next is j) ∝ exp(−d_ji² / (2 · sigma²)),

    d_ji hops from j to i. So it reads as many as the plain window of `connectivity.hops` holds, and sigma, in hops, is
    how far they stray: 0 gives that window exactly, infinity sources drawn uniformly from N(i).

    Args:
        num_hops: radius of the plain window, at least 0.
        sigma: width of the bell, in hops, at least 0; `math.inf` for no bias.
        steps: kind of the edges that hops go along. They are edges of the graph themselves, as bonds are in
            `bonds(…) | full(…)`.
        max_hops: the longest distance told apart, at least `num_hops`; pairs farther apart, or not connected, count as
            one hop more.
        keep_self: as in `SubsampleSources`: whether a target keeps the edge from itself, where the graph has it. None
            keeps it where no edge looks ahead (src ≤ dst).
        when: the seat draws in "training" only, "always" or "never".

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if a value lies outside its domain.

    Source: ours, for graphs what `SubsampleLocal` is for sequences, and no claim about Hussain et al. 2023. Each target
    draws for itself, all at once by the Gumbel top-k trick (Kool et al. 2019). Blocks are listed, and distances found,
    at every draw: for graphs of molecules, not for long sequences.

    >>> from graphattn.connectivity import full
    >>> chain = AttentionGraph(torch.tensor([[0, 1], [1, 2]]), num_src_nodes=3, kinds=("bond",))
    >>> drawn = SubsampleHops(num_hops=1, sigma=0.0).draw(chain | full(3), generator=torch.Generator().manual_seed(0))
    >>> drawn.edge_index
    tensor([[0, 0, 1, 1, 2],
            [0, 1, 1, 2, 2]])
    """

    num_hops: int
    sigma: float
    steps: str = "bond"
    max_hops: int = 16
    keep_self: bool | None = None
    when: When = "training"

    def __post_init__(self) -> None:
        check_count(self.num_hops, "num_hops", 0, "Use 0 for windows of the target alone.")
        check_sigma(self.sigma)
        check_count(self.max_hops, "max_hops", self.num_hops, "Tell apart at least the hops of the plain window.")
        check_keep_self(self.keep_self)
        check_when(self.when)

    def draw(self, graph: AttentionGraph, *, generator: torch.Generator) -> AttentionGraph:
        """Draws sources for each target, the same for all heads.

        Args:
            graph: square, with edges of the kind `steps`.
            generator: source of randomness, on any device; one state draws the same for graphs on all devices.

        Returns:
            AttentionGraph over the same nodes, without blocks, whose drawn edges are also of kind "sampled".

        Raises:
            TypeError: if `generator` is no torch.Generator.
            ValueError: if the graph is rectangular, has too many pairs to list, or no edge kind named `steps`.
        """
        check_generator(generator, None)
        has_self = keeps_self(self.keep_self, graph)
        listed = graph.enumerate()
        distance = hop_distance(self._walk(listed), of=listed, max_hops=self.max_hops)
        dst = listed.edge_index[1]
        degree = torch.bincount(dst, minlength=listed.num_dst_nodes)
        count = torch.bincount(dst[distance <= self.num_hops], minlength=listed.num_dst_nodes)
        rank = torch.arange(dst.numel(), device=dst.device) - (torch.cumsum(degree, 0) - degree)[dst]
        chosen = torch.zeros_like(dst, dtype=torch.bool)
        chosen[sorted_within(dst, self._shaken(distance, generator))] = rank < count[dst]
        drawn = listed.keep(marked(chosen)).marked("sampled")
        if has_self:
            drawn = drawn | listed.keep(marked(~chosen)).self_edges()
        return drawn.named(f"SubsampleHops(num_hops={self.num_hops}, sigma={self.sigma}).draw({graph.origin})")

    def build(self, embed_dim: int, num_heads: int) -> nn.Module:
        """Makes the module that draws in the forward of a layer."""
        return DrawingSeat(self)

    def _walk(self, graph: AttentionGraph) -> AttentionGraph:
        """Returns the edges that hops go along."""
        if self.steps not in graph.kinds:
            raise ValueError(
                f"steps must name a kind of the graph's edges, {', '.join(graph.kinds) or 'of which there is none'}, "
                f"got {self.steps!r}. Unite the graph with the edges to walk along, as in bonds(…) | full(…)."
            )
        is_step = (graph.edge_kind >> graph.kinds.index(self.steps)) & 1 == 1
        return graph.keep(marked(is_step))

    def _shaken(self, distance: Tensor, generator: torch.Generator) -> Tensor:
        """Returns what to sort by: −sigma² times a log-probability with Gumbel noise."""
        if self.sigma == 0:
            return distance
        shape, device = distance.shape, generator.device
        uniform = torch.rand(shape, generator=generator, device=device, dtype=torch.float64).to(distance.device)
        noise = (-uniform.log()).log()  # minus a Gumbel variable
        return noise if math.isinf(self.sigma) else distance**2 / (2 * self.sigma**2) + noise
