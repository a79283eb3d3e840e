"""The select seat of specs that draw: when a layer draws, and from which randomness."""

from __future__ import annotations

from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor, nn

from graphattn.graph import AttentionGraph
from graphattn.selection.generator import generator_for

When = Literal["training", "always", "never"]


class Drawable(Protocol):
    """A frozen spec that shrinks a graph by chance and says when."""

    @property
    def when(self) -> When: ...

    def draw(self, graph: AttentionGraph, *, generator: torch.Generator) -> AttentionGraph: ...


class DrawingSeat(nn.Module):
    """Draws a graph at each forward, in training or as `spec.when` says; else it hands on the graph as it came.

    It owns no parameter. Each forward takes one number from torch's default generator and hashes it with the rank of
    the process, so `torch.manual_seed` repeats a run, a resumed run goes on, a recomputed layer (activation
    checkpointing) draws what it drew before, layers and steps differ, and so do processes with one seed. Who draws
    outside of layers has `generator_for(seed, step=…, layer=…, rank=…)`, and passes the drawn graph to layers without
    this seat.

    Args:
        spec: may be replaced while training, for another rate.

    Attributes:
        when: None follows the spec; "training", "always" or "never" overrules it (`set_drawing`).

    >>> from graphattn.connectivity import full
    >>> from graphattn.selection import SubsampleSources
    >>> seat = DrawingSeat(SubsampleSources(num_sources=2))
    >>> x, graph = torch.zeros(5, 8), full(5)
    >>> seat(x, graph)[0].num_edges, seat.eval()(x, graph)[0].num_edges
    (10, 25)
    """

    def __init__(self, spec: Drawable):
        super().__init__()
        self.spec = spec
        self.when: When | None = None

    def forward(self, x: Tensor, graph: AttentionGraph) -> tuple[AttentionGraph, None]:
        """Returns the graph to attend over; there is no bias of its edges.

        Raises:
            RuntimeError: if a draw is due inside a compiled region.
        """
        if not is_due(self.spec, self):
            return graph, None
        refuse_in_a_compiled_region("a layer with a select seat", "call spec.draw before the region")
        seed = int(torch.randint(2**63 - 1, (), device="cpu"))
        return self.spec.draw(graph, generator=generator_for(seed, rank=rank_of_process())), None

    def extra_repr(self) -> str:
        return repr(self.spec)


def check_when(when: Any) -> None:
    """Raises a ValueError unless `when` is one of the moments to draw."""
    if when not in get_args(When):
        raise ValueError(
            f"when must be one of {', '.join(map(repr, get_args(When)))}, got {when!r}. "
            "Use 'always' to draw in evaluation too."
        )


def is_due(spec: Any, module: nn.Module) -> bool:
    """Returns whether a module that draws (it may overrule the spec by its `when`) is to draw now."""
    if not hasattr(spec, "when"):  # None, or a selection that draws nothing
        return False
    when = module.when or spec.when
    return when == "always" or (when == "training" and module.training)


def refuse_in_a_compiled_region(who: str, advice: str) -> None:
    """Raises a RuntimeError where torch is compiling."""
    if torch.compiler.is_compiling():
        raise RuntimeError(
            f"{who} draws its graph in its forward, which a compiled region cannot do. Leave it uncompiled, or "
            f"{advice} and graph.plan() on what it returns, and pass that on: to a layer without the seat, or to a "
            "model as graphs=…."
        )


def rank_of_process() -> int:
    """Returns the number of this process among those that train together, 0 alone."""
    distributed = torch.distributed
    return distributed.get_rank() if distributed.is_available() and distributed.is_initialized() else 0
