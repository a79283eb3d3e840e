"""Colours: distinct, also in grey and to eyes without red or green."""

import itertools

import numpy as np
import pytest

pytest.importorskip("matplotlib")
from matplotlib.colors import to_rgb

from graphattn.viz.coloring import CHANGE_COLORS, KIND_COLORS
from graphattn.viz.palette import COLORS, GRAY, STRONG_COLORS, colors_of

# Linear RGB as a dichromat sees it: Viénot, Brettel and Mollon 1999, "Digital video colourmaps".
DICHROMATS = {
    "protanope": [[0.11238, 0.88762, 0.0], [0.11238, 0.88762, 0.0], [0.00401, -0.00401, 1.0]],
    "deuteranope": [[0.29275, 0.70725, 0.0], [0.29275, 0.70725, 0.0], [-0.02234, 0.02234, 1.0]],
}


def seen(color: str, matrix: list[list[float]]) -> np.ndarray:
    return np.clip(np.array(matrix) @ np.array(to_rgb(color)) ** 2.2, 0, 1) ** (1 / 2.2)


@pytest.mark.parametrize("matrix", [np.eye(3).tolist(), *DICHROMATS.values()], ids=["all", *DICHROMATS])
@pytest.mark.parametrize("colors", [COLORS, tuple(KIND_COLORS.values()), tuple(CHANGE_COLORS.values())])
def test_colors_are_told_apart(colors: tuple[str, ...], matrix: list[list[float]]) -> None:
    assert len(set(colors)) == len(colors)
    for one, other in itertools.combinations(colors, 2):
        assert np.abs(seen(one, matrix) - seen(other, matrix)).max() > 0.09, (one, other)


def test_lines_on_white_are_dark_enough() -> None:
    for color in STRONG_COLORS:
        assert 1.05 / (0.05 + np.dot([0.2126, 0.7152, 0.0722], np.array(to_rgb(color)) ** 2.2)) > 2.0  # contrast


def test_those_with_the_least_share_a_grey() -> None:
    amounts = {number: float(number % 7) for number in range(11)}
    given = colors_of(amounts)
    assert list(given) == list(amounts)
    own = [name for name, color in given.items() if color != GRAY]
    assert len(own) == len(STRONG_COLORS) == len({given[name] for name in own})
    assert min(amounts[name] for name in own) >= max(amounts[name] for name in given if name not in own)
    assert colors_of({}) == {}
