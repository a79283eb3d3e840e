"""Seats as one line: what `repr` of a spec writes is read back, and nothing else is run."""

import math

import pytest

from graphattn.models.seats import SELECTIONS, as_line, read_seat
from graphattn.selection import PerLayer, Ramp, SubsampleHops, SubsampleLocal, SubsampleSources, TopKEdges

SPECS = [
    SubsampleSources(keep_p=0.25),
    SubsampleSources(num_sources=8, keep_self=True, when="always"),
    SubsampleLocal(window_size=(2, 3), sigma=math.inf, shape=(4, 6)),
    SubsampleHops(num_hops=2, sigma=1.5),
    TopKEdges(k=8, score_dim=4),
    Ramp(SubsampleSources(keep_p=0.25), SubsampleSources(keep_p=1.0), num_steps=100),
    PerLayer(None, Ramp(SubsampleSources(num_sources=1), SubsampleSources(num_sources=9), 7)),
]


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_a_spec_is_written_and_read_back(spec: object) -> None:
    line = as_line(spec, SELECTIONS, "select")
    assert read_seat(line, SELECTIONS, "select") == spec
    assert as_line(line, SELECTIONS, "select") == line


def test_an_empty_line_is_no_spec() -> None:
    assert read_seat("  ", SELECTIONS, "select") is None and as_line(None, SELECTIONS, "select") == ""


def test_lists_and_several_lines_of_yaml_are_read() -> None:
    spec = read_seat("SubsampleLocal(window_size=[2, 2],\n  sigma=1, shape=[4, 4])", SELECTIONS, "select")
    assert spec == SubsampleLocal((2, 2), 1, (4, 4))


@pytest.mark.parametrize(
    "line, words",
    [
        ("SubsampleSource(keep_p=0.5)", "there is no 'SubsampleSource'. Did you mean 'SubsampleSources'"),
        ("xyz(3)", "there is no 'xyz'. There is SubsampleSources, "),
        ("SubsampleSources(keep_p=0.5", "is no call"),
        ("0.25", r"'0\.25' is no call. Write 'SubsampleSources\(keep_p=0\.25\)'"),
        ("SubsampleSources(keep_p=1 + 1)", r"'1 \+ 1' is neither a number"),
        ("SubsampleSources(**{})", r"\*\* is not allowed"),
        ("SubsampleSources(keep=0.5)", r"unexpected keyword argument 'keep'. It is SubsampleSources\(num_sources, "),
        ("SubsampleSources(keep_p=1.5)", r"select: keep_p must lie in \(0, 1\], got 1.5"),
        ("SubsampleSources", "exactly one of num_sources and keep_p"),
        ("SubsampleSources(keep_p=__import__('os').getpid())", "neither a number"),
        ("SubsampleSources(keep_p=open('x'))", "there is no 'open'"),
        ("(" * 500 + ")" * 500, "is no call"),
    ],
)
def test_anything_else_is_refused(line: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read_seat(line, SELECTIONS, "select")


def test_what_no_line_can_name_is_refused() -> None:
    with pytest.raises(TypeError, match="select must be one line of text, got int"):
        read_seat(3, SELECTIONS, "select")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="select cannot be read"):
        as_line(object(), SELECTIONS, "select")
