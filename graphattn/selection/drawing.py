"""One switch for all draws of a model: off for dense fine-tuning, on in evaluation for a self-ensemble."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from graphattn.selection.layer_draws import LayerDraws, is_drawable
from graphattn.selection.seat import DrawingSeat, When, check_when


def has_draws(model: nn.Module) -> bool:
    """Returns whether a model or one of its layers draws the graph it attends over."""
    return bool(_drawing(model))


def set_drawing(model: nn.Module, when: When | None) -> None:
    """Says for all draws of a model when they are made.

    Args:
        model: any module, whose `LayerDraws` and `DrawingSeat`s are found.
        when: "never" reads whole graphs from now on, for dense fine-tuning; "always" draws in evaluation as well, so
            that passes differ, for a self-ensemble; "training"; None returns to what the specs say.

    Raises:
        ValueError: if the model draws nothing, or `when` is none of these.

    >>> import torch, graphattn as ga
    >>> layer = ga.nn.GraphAttention(8, 2, select=ga.selection.SubsampleSources(num_sources=1)).eval()
    >>> x, graph = torch.randn(5, 8), ga.connectivity.full(5)
    >>> torch.equal(layer(x, graph)[0], layer(x, graph)[0])
    True
    >>> set_drawing(layer, "always")
    >>> torch.equal(torch.stack([layer(x, graph)[0] for _ in range(9)]).std(0), torch.zeros(8))
    False
    """
    if when is not None:
        check_when(when)
    found = _drawing(model)
    if not found:
        raise ValueError(
            f"{type(model).__name__} draws no graph: no layer has a selection such as SubsampleSources. "
            "Make the model with select=…, or leave the self-ensemble and dense fine-tuning out."
        )
    for module in found:
        module.when = when


@contextmanager
def drawing(model: nn.Module, when: When | None) -> Iterator[None]:
    """Inside, the draws of a model are made as `set_drawing` says; afterwards as they were before."""
    found = _drawing(model)
    before = [module.when for module in found]
    set_drawing(model, when)
    try:
        yield
    finally:
        for module, which in zip(found, before, strict=True):
            module.when = which


def _drawing(model: nn.Module) -> list[LayerDraws | DrawingSeat]:
    return [
        module
        for module in model.modules()
        if isinstance(module, DrawingSeat) or (isinstance(module, LayerDraws) and any(map(is_drawable, module.specs)))
    ]
