"""The draws of a model: one graph for each layer and step, made before its first layer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from graphattn.graph import AttentionGraph
from graphattn.selection.generator import generator_for
from graphattn.selection.per_layer import is_spec, spec_of_each_layer
from graphattn.selection.ramp import Ramp
from graphattn.selection.seat import When, is_due, rank_of_process, refuse_in_a_compiled_region


class LayerDraws(nn.Module):
    r"""Draws the graphs that the layers of a model attend over.

    In training, layer l of step t draws from `generator_for(seed, step=t, layer=l, rank=…)`, so any draw of a run can
    be made again, and a resumed run goes on with those it would have drawn. The seed is taken from torch's default
    generator when the module is made; seed and step are part of the state dict. In evaluation, where `when` says that
    it draws at all, each call takes a seed from torch's default generator instead, and the step stands still.

    A step is a forward in training. Whoever recomputes the whole model (activation checkpointing of it, and not of its
    layers) would count it again and draw other graphs: draw them once by `model.connect`, and pass them on.

    Args:
        spec: a spec that draws, a `Ramp`, or a `PerLayer` of them. Layers whose spec does not draw (None, or
            `TopKEdges`, which reads features in its layer) get the graph as it came.
        num_layers: of the model.

    The state dict has one entry for it, `draws._extra_state`: a model that draws and one that does not load one
    another's weights with `strict=False`.

    Attributes:
        when: None follows the specs; "training", "always" or "never" overrules all of them (`set_drawing`).
        step: of the last training forward, −1 before the first.

    >>> from graphattn.connectivity import full
    >>> from graphattn.selection import SubsampleSources
    >>> draws = LayerDraws(SubsampleSources(num_sources=2), num_layers=3)
    >>> [graph.num_edges for graph in draws(full(5))], draws.step
    ([10, 10, 10], 0)
    >>> graph = full(5)
    >>> all(each is graph for each in draws.eval()(graph))
    True
    """

    def __init__(self, spec: Any, num_layers: int) -> None:
        super().__init__()
        self.specs = spec_of_each_layer(spec, num_layers)
        for each in self.specs:
            if each is not None and not is_spec(each):
                raise TypeError(f"spec must select edges, got {each!r}. SubsampleSources(keep_p=0.25) is one.")
        self.when: When | None = None
        self.seed = int(torch.randint(2**63 - 1, (), device="cpu"))
        self.step = -1

    def forward(
        self, graph: AttentionGraph, step: int | None = None, layers: Iterable[int] | None = None
    ) -> list[AttentionGraph]:
        """Returns one graph per layer, `graph` itself where nothing is drawn.

        Args:
            graph: what all these layers could read.
            step: of training; None counts on: a training forward that draws for layer 0 is the next step.
            layers: numbers of the layers that attend over `graph`; None means all.

        Raises:
            RuntimeError: if a draw is due inside a compiled region.
        """
        layers = range(len(self.specs)) if layers is None else list(layers)
        due = [layer for layer in layers if is_due(self.specs[layer], self)]
        if due:
            refuse_in_a_compiled_region("a model whose layers draw", "call model.connect before the region")
        if self.training and step is None and 0 in layers and not torch.compiler.is_compiling():
            self.step += 1
        step = self.step if step is None else step
        seed = self.seed if self.training or not due else int(torch.randint(2**63 - 1, (), device="cpu"))
        graphs = {layer: self._drawn(graph, layer, step, seed) for layer in due}
        return [graphs.get(layer, graph) for layer in layers]

    def _drawn(self, graph: AttentionGraph, layer: int, step: int, seed: int) -> AttentionGraph:
        spec = self.specs[layer]
        spec = spec.at(max(step, 0)) if isinstance(spec, Ramp) else spec
        return spec.draw(graph, generator=generator_for(seed, step=step, layer=layer, rank=rank_of_process()))

    def get_extra_state(self) -> Tensor:
        """Returns seed and step, int64 [2], for the state dict."""
        return torch.tensor([self.seed, self.step], device="cpu")

    def set_extra_state(self, state: Tensor) -> None:
        """Takes seed and step from a state dict."""
        self.seed, self.step = state.tolist()

    def extra_repr(self) -> str:
        return repr(self.specs[0]) if len(set(self.specs)) == 1 else ", ".join(map(repr, self.specs))


def is_drawable(spec: Any) -> bool:
    """Returns whether a spec draws without features, before the layers."""
    return isinstance(spec, Ramp) or hasattr(spec, "draw")
