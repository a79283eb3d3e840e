"""A schedule over training: numbers of a spec that move from those of one spec to those of another."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, fields
from typing import Any

from graphattn.selection.seat import Drawable, When


@dataclass(frozen=True)
class Ramp:
    """A spec that moves from `start` to `end`, linearly over steps of training.

    Before `first_step` it is `start`, from `first_step + num_steps` on it is `end`; between them every number in which
    the two differ lies between theirs, whole numbers rounded. For models, which count steps (`LayerDraws`); a layer
    that is used alone has no step and takes no ramp.

    Args:
        start: a spec that draws, such as `SubsampleSources(keep_p=0.25)`.
        end: one of the same class, which differs from `start` in finite numbers only.
        num_steps: from the one to the other, at least 1.
        first_step: the last step at which all is as in `start`, at least 0.

    Raises:
        TypeError: if the specs do not draw, are of two classes, or differ in something that is no number.
        ValueError: if a number is not finite or out of range.

    Source: ours; Hussain et al. 2023 is not claimed to move its rates.

    >>> from graphattn.selection import SubsampleSources
    >>> ramp = Ramp(SubsampleSources(keep_p=0.25), SubsampleSources(keep_p=0.75), num_steps=100)
    >>> [ramp.at(step).keep_p for step in (0, 50, 100, 1000)]
    [0.25, 0.5, 0.75, 0.75]
    """

    start: Drawable
    end: Drawable
    num_steps: int
    first_step: int = 0

    def __post_init__(self) -> None:
        for name, spec in (("start", self.start), ("end", self.end)):
            if not hasattr(spec, "draw"):
                raise TypeError(f"{name} must be a spec that draws, got {spec!r}. SubsampleSources(keep_p=…) is one.")
        if type(self.start) is not type(self.end):
            raise TypeError(
                f"start and end must be of one class, got {type(self.start).__name__} and {type(self.end).__name__}. "
                "A ramp moves numbers of one spec."
            )
        for name, value, least in (("num_steps", self.num_steps, 1), ("first_step", self.first_step, 0)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name} must be an int of at least {least}, got {value!r}. It counts steps.")
        for name, one, other in self._moving():
            if not (_is_number(one) and _is_number(other)):
                raise TypeError(f"{name} must be a number to move, got {one!r} and {other!r}. Give both the same.")
            if not (math.isfinite(one) and math.isfinite(other)):
                raise ValueError(f"{name} must be finite to move, got {one} and {other}. Use a large number.")

    @property
    def when(self) -> When:
        """When the specs draw; both say the same."""
        return self.start.when

    def at(self, step: int) -> Drawable:
        """Returns the spec at a step of training."""
        share = min(max((step - self.first_step) / self.num_steps, 0.0), 1.0)
        if share in (0.0, 1.0):
            return self.end if share else self.start
        moved = {}
        for name, one, other in self._moving():
            value = one + share * (other - one)
            moved[name] = round(value) if isinstance(one, int) and isinstance(other, int) else value
        return dataclasses.replace(self.start, **moved)  # type: ignore[type-var]

    def _moving(self) -> list[tuple[str, Any, Any]]:
        """Returns name, first and last value of each field in which the two specs differ."""
        names = [field.name for field in fields(self.start)]  # type: ignore[arg-type]
        pairs = [(name, getattr(self.start, name), getattr(self.end, name)) for name in names]
        return [(name, one, other) for name, one, other in pairs if one != other]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
