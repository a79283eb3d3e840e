"""A selection of its own for each layer of a model."""

from __future__ import annotations

from typing import Any


class PerLayer:
    """One spec for each layer of a model, None for a layer that reads the whole graph.

    Args:
        specs: as many as the model has layers; specs that draw, ramps of them, others (`TopKEdges`), or None.

    Raises:
        ValueError: if there is none.
        TypeError: if one is no spec.

    Source: ours. That layers draw each for itself is Hussain et al. 2023; how their rates vary with depth is not known
    to us.

    >>> from graphattn.selection import SubsampleSources
    >>> PerLayer(None, SubsampleSources(keep_p=0.5)).of(2)
    (None, SubsampleSources(num_sources=None, keep_p=0.5, keep_self=None, when='training'))
    """

    def __init__(self, *specs: Any) -> None:
        if not specs:
            raise ValueError("PerLayer needs a spec for each layer, got none. Leave the selection out instead.")
        for spec in specs:
            if isinstance(spec, PerLayer) or not (spec is None or is_spec(spec)):
                raise TypeError(f"PerLayer takes specs such as SubsampleSources(keep_p=0.5), or None, got {spec!r}.")
        self.specs = specs

    def of(self, num_layers: int) -> tuple[Any, ...]:
        """Returns the specs, or raises a ValueError if they are not `num_layers`."""
        if len(self.specs) != num_layers:
            raise ValueError(
                f"PerLayer must hold one spec for each of the {num_layers} layers, got {len(self.specs)}. "
                "Use None for a layer that reads the whole graph."
            )
        return self.specs

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PerLayer) and self.specs == other.specs

    def __hash__(self) -> int:
        return hash(self.specs)

    def __repr__(self) -> str:
        return f"PerLayer({', '.join(map(repr, self.specs))})"


def is_spec(spec: Any) -> bool:
    """Returns whether something can shrink the graph of a layer: by a draw, at a step, or in a seat."""
    return not isinstance(spec, type) and any(hasattr(spec, name) for name in ("draw", "at", "build"))


def spec_of_each_layer(spec: Any, num_layers: int) -> tuple[Any, ...]:
    """Returns what each layer selects by: a `PerLayer` spread out, anything else in every layer."""
    return spec.of(num_layers) if isinstance(spec, PerLayer) else (spec,) * num_layers
