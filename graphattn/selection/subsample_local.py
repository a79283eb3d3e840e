"""Locally biased subsampling (SSA): windows over sources whose order was shaken, so that near ones are likelier."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from graphattn.connectivity._axes import Cells, per_axis
from graphattn.connectivity._nodes import Nodes, check_count, check_generator
from graphattn.graph import AttentionGraph, batch_of
from graphattn.graph.rules import Rule
from graphattn.selection._self_edges import check_keep_self, has_one_side, keeps_self
from graphattn.selection._shake import check_sigma, sorted_within
from graphattn.selection.seat import DrawingSeat, When, check_when


@dataclass(frozen=True)
class SubsampleLocal:
    r"""Keeps the edges from the sources that a random shake of their positions brings into the target's window.

    Along a sequence, windows of w = window_size targets read as many sources each:

        π  = argsort_j(j + sigma · ε_j),  ε_j ~ N(0, 1),  drawn once for all targets and heads of a graph
        E' = {(π_k → i) ∈ E : ⌊k / w⌋ = ⌊i / w⌋}

    so that sigma, in positions, is how far a source strays: 0 gives plain windows (on full attention those of
    `connectivity.block_diagonal`), infinity a uniform partition of the sources. On a grid the axes are taken one after
    the other: the sources, sorted by their shaken row, fill the strips of window rows, and those of a strip, sorted by
    their shaken column, fill its windows; each window gets as many sources as it has targets. Full attention over n
    nodes becomes one block per window, n · w edges where w divides n. Eight tokens, windows of 4, without a shake and
    one draw with sigma 2:

        ■ ■ ■ ■ · · · ·      ■ ■ ■ · · ■ · ·
        ■ ■ ■ ■ · · · ·      ■ ■ ■ · · ■ · ·
        ■ ■ ■ ■ · · · ·      ■ ■ ■ · · ■ · ·
        ■ ■ ■ ■ · · · ·      ■ ■ ■ · · ■ · ·
        · · · · ■ ■ ■ ■      · · · ■ ■ · ■ ■
        · · · · ■ ■ ■ ■      · · · ■ ■ · ■ ■
        · · · · ■ ■ ■ ■      · · · ■ ■ · ■ ■
        · · · · ■ ■ ■ ■      · · · ■ ■ · ■ ■

    Every source is read by some window, so all are projected: what is saved is attention, not projections. Near along
    the edges of a graph instead of along axes: `SubsampleHops`.

    Args:
        window_size: targets, and sources, of a window, at least 1; one int, or one per axis of `shape`. The last window
            of an axis may be shorter.
        sigma: standard deviation of the shake, in positions or cells, at least 0; `math.inf` for a uniform partition.
        shape: lengths of the axes of a grid, (height, width) for an image, whose cells are the nodes of each graph in
            row-major order; None for sequences of any length.
        keep_self: as in `SubsampleSources`: whether a target keeps the edge from itself, where the graph has it. None
            keeps it where no edge looks ahead (src ≤ dst).
        when: the seat draws in "training" only, "always" or "never".

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if a value lies outside its domain.

    Source: the locally biased variant of SSA (Hussain et al. 2023, The Information Pathways Hypothesis: Transformers
    are Dynamic Self-Ensembles), as we understand it: sources shuffled near their place, then windows. Its authors have
    not published its code. That the noise is normal, that windows do not overlap, the grid, and the self edge of causal
    graphs are ours, and no claim about theirs.

    >>> from graphattn.connectivity import block_diagonal, full
    >>> generator = torch.Generator().manual_seed(0)
    >>> SubsampleLocal(window_size=3, sigma=0.0).draw(full(7), generator=generator) == block_diagonal(7, 3)
    True
    >>> SubsampleLocal(window_size=2, sigma=1.0, shape=(4, 6)).draw(full(24), generator=generator).num_edges
    96
    """

    window_size: int | tuple[int, ...]
    sigma: float
    shape: tuple[int, ...] | None = None
    keep_self: bool | None = None
    when: When = "training"

    def __post_init__(self) -> None:
        if self.shape is not None:
            if isinstance(self.shape, str) or not isinstance(self.shape, Sequence):
                raise TypeError(
                    f"shape must be a tuple of ints, got {type(self.shape).__name__}. "
                    "Pass (height, width) for an image."
                )
            if not len(self.shape):
                raise ValueError("shape must have at least one axis, got (). Leave it out for sequences.")
            for axis, length in enumerate(self.shape):
                check_count(length, f"shape[{axis}]", 1, "Graphs without nodes need no shape of their own.")
        for name in ("shape", "window_size"):
            value = getattr(self, name)
            if isinstance(value, Sequence):  # lists, as YAML has them, would leave the spec without a hash
                object.__setattr__(self, name, tuple(value))
        per_axis(self.window_size, "window_size", self._num_axes, 1, "Use 1 for a window of one node.")
        check_sigma(self.sigma)
        check_keep_self(self.keep_self)
        check_when(self.when)

    def draw(self, graph: AttentionGraph, *, generator: torch.Generator) -> AttentionGraph:
        """Shakes the sources of each graph of the batch, once for all its targets and heads.

        Args:
            graph: square, of edges, blocks or both.
            generator: source of randomness, on any device; one state draws the same for graphs on all devices.

        Returns:
            AttentionGraph over the same nodes, whose edges inside windows are also of kind "sampled".

        Raises:
            TypeError: if `generator` is no torch.Generator.
            ValueError: if sources and targets differ in number, or a graph of the batch has other nodes than `shape`.
        """
        check_generator(generator, None)
        has_self = keeps_self(self.keep_self, graph)
        src_window, dst_window = self._windows(self._cells(graph), generator)
        drawn = graph.keep_equal(src_window, dst_window).marked("sampled")
        if has_self:
            drawn = drawn | graph.self_edges().keep(_in_other_windows(src_window, dst_window))
        return drawn.named(f"{self._label()}.draw({graph.origin})")

    def build(self, embed_dim: int, num_heads: int) -> nn.Module:
        """Makes the module that draws in the forward of a layer."""
        return DrawingSeat(self)

    @property
    def _num_axes(self) -> int:
        return 1 if self.shape is None else len(self.shape)

    def _cells(self, graph: AttentionGraph) -> Cells:
        if not has_one_side(graph):
            raise ValueError(
                f"SubsampleLocal needs sources and targets to be the same nodes, got {graph.num_src_nodes} sources and "
                f"{graph.num_dst_nodes} targets of {graph.num_graphs} graphs. Use SubsampleSources in cross attention."
            )
        size = torch.diff(graph.src_ptr)
        shape = size[:, None]
        if self.shape is not None:
            shape = torch.tensor(self.shape, device=graph.device).expand(size.numel(), -1)
            wrong = (size > 0) & (size != math.prod(self.shape))
            if bool(wrong.any()):
                raise ValueError(
                    f"shape {self.shape} has {math.prod(self.shape)} cells, got a graph of {int(size[wrong][0])} "
                    "nodes. Give the grid of the graph, or leave shape out for sequences."
                )
        return Cells(Nodes(graph.src_ptr, graph.src_ptr, graph.num_src_nodes, ""), "", shape)

    def _windows(self, cells: Cells, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Returns the window that each source is drawn into, and the window of each target, both [num_nodes]."""
        coordinates, _ = cells.coordinates()
        sizes = per_axis(self.window_size, "window_size", self._num_axes, 1, "")
        drawn = window = batch_of(cells.nodes.ptr)
        for coordinate, size in zip(coordinates, sizes):
            # As many sources as targets have each number so far, so the k-th source in the shaken order can take the
            # seat of the k-th target in the plain one: windows keep their sizes, whatever the lengths.
            seats = sorted_within(window, coordinate)
            comers = sorted_within(drawn, _shaken(coordinate, self.sigma, generator))
            place = torch.div(coordinate, min(size, max(cells.nodes.num_nodes, 1)), rounding_mode="floor")
            window = window * (int(place.max()) + 1 if place.numel() else 1) + place
            drawn = torch.empty_like(window).index_copy_(0, comers, window[seats])
        return drawn, window

    def _label(self) -> str:
        shape = "" if self.shape is None else f", shape={self.shape}"
        return f"SubsampleLocal(window_size={self.window_size}, sigma={self.sigma}{shape})"


def _shaken(coordinate: Tensor, sigma: float, generator: torch.Generator) -> Tensor:
    """Adds normal noise; of infinite strength, it leaves nothing else."""
    if sigma == 0:
        return coordinate
    noise = torch.randn(coordinate.shape, generator=generator, device=generator.device, dtype=torch.float64)
    noise = noise.to(coordinate.device)
    return noise if math.isinf(sigma) else coordinate + sigma * noise


def _in_other_windows(src_window: Tensor, dst_window: Tensor) -> Rule:
    def is_in_another_window(src: Tensor, dst: Tensor) -> Tensor:
        return src_window[src] != dst_window[dst]

    return is_in_another_window
