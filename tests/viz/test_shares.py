"""Shares in words: rounded, and never to all or nothing."""

import pytest

from graphattn.viz.shares import percent


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.0, "0 %"),
        (1.0, "100 %"),
        (0.999, "99.9 %"),
        (0.5, "50.0 %"),
        (1 - 1e-9, "over 99.9 %"),
        (1e-9, "under 0.1 %"),
    ],
)
def test_a_share_is_rounded_but_not_to_all_or_nothing(share: float, text: str) -> None:
    assert percent(share) == text
