"""A ramp meets both its ends, is linear between them, and refuses what it cannot move."""

import math

import pytest

from graphattn.nn import EdgeTerms
from graphattn.selection import Ramp, SubsampleLocal, SubsampleSources

START, END = SubsampleSources(keep_p=0.2), SubsampleSources(keep_p=1.0)


def test_it_is_its_ends_outside_and_linear_between() -> None:
    ramp = Ramp(START, END, num_steps=8, first_step=10)
    assert ramp.at(0) is START and ramp.at(10) is START and ramp.at(18) is END and ramp.at(10**9) is END
    assert [ramp.at(step).keep_p for step in (12, 14, 16)] == pytest.approx([0.4, 0.6, 0.8])
    assert ramp.when == "training"


def test_whole_numbers_stay_whole_and_several_move_together() -> None:
    ramp = Ramp(SubsampleLocal(window_size=4, sigma=0), SubsampleLocal(window_size=7, sigma=9.0), num_steps=6)
    assert [ramp.at(step) for step in (1, 2, 3)] == [
        SubsampleLocal(window_size=round(4 + step / 2), sigma=1.5 * step) for step in (1, 2, 3)
    ]
    assert isinstance(ramp.at(1).window_size, int)
    assert Ramp(START, START, num_steps=5).at(3) == START


@pytest.mark.parametrize(
    "start, end, options, error, words",
    [
        (EdgeTerms(3), END, {}, TypeError, "start must be a spec that draws"),
        (START, SubsampleLocal(4, 1.0), {}, TypeError, "must be of one class, got SubsampleSources and SubsampleLocal"),
        (START, SubsampleSources(num_sources=3), {}, TypeError, "num_sources must be a number to move, got None and 3"),
        (START, SubsampleSources(keep_p=0.5, when="always"), {}, TypeError, "when must be a number to move"),
        (START, SubsampleSources(keep_p=0.5, keep_self=True), {}, TypeError, "keep_self must be a number"),
        (SubsampleLocal(4, 1.0), SubsampleLocal(4, math.inf), {}, ValueError, "sigma must be finite to move"),
        (START, END, {"num_steps": 0}, ValueError, "num_steps must be an int of at least 1, got 0"),
        (START, END, {"num_steps": 2.0}, ValueError, r"num_steps must be an int of at least 1, got 2\.0"),
        (START, END, {"first_step": -1}, ValueError, "first_step must be an int of at least 0"),
    ],
)
def test_what_cannot_be_moved_is_refused(start, end, options, error, words) -> None:
    with pytest.raises(error, match=words):
        Ramp(start, end, **{"num_steps": 4} | options)
