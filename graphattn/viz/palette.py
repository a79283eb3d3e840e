"""The colours of every picture: told apart under every common colour blindness, and few."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping

# Okabe and Ito 2008, "Color universal design"; in print their lightness tells them apart.
SKY_BLUE, BLUE, ORANGE, VERMILLION, BLACK = "#56B4E9", "#0072B2", "#E69F00", "#D55E00", "#000000"
GREEN, PURPLE, YELLOW = "#009E73", "#CC79A7", "#F0E442"
# For what must not stand out, or is left when every colour is taken.
GRAY, LIGHT_GRAY = "#7F7F7F", "#BFBFBF"
COLORS = (BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY_BLUE, YELLOW)
STRONG_COLORS = COLORS[:-1]  # of lines and words on white: yellow is too faint for them


def colors_of(amounts: Mapping[Hashable, float], colors: Iterable[str] = STRONG_COLORS) -> dict[Hashable, str]:
    """Gives each name a colour, in the order of the names; where they run out, those with the least share one grey.

    Args:
        amounts: of each name, what decides who has a colour of its own.
        colors: to be given away.

    >>> colors_of({"a": 1.0, "b": 3.0, "c": 2.0}, ["blue", "green"])
    {'a': '#7F7F7F', 'b': 'blue', 'c': 'green'}
    """
    colors = list(colors)
    first = sorted(amounts, key=lambda name: -amounts[name])[: len(colors)]
    given = iter(colors)
    return {name: next(given) if name in first else GRAY for name in amounts}
