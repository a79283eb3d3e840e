"""The pictures in the docstrings of builders are what the builders make."""

import inspect
import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from graphattn import connectivity as c
from graphattn.graph.rules import is_causal

LINE = torch.tensor([[0.0], [1.0], [3.0], [4.0], [8.0]])


def cell(graph: object, number: int, shape: tuple[int, int]) -> Tensor:
    """What one cell of a grid reads, as a picture of the grid."""
    return graph.to_mask()[number].view(shape)


PICTURES: dict[Callable, list[Tensor]] = {
    c.axial: [cell(c.axial((4, 5)), 11, (4, 5)), cell(c.axial((4, 5), [1]), 11, (4, 5))],
    c.block_diagonal: [c.block_diagonal(7, 3).to_mask()],
    c.chunked: [c.chunked(7, 2, before=1).to_mask()],
    c.clusters: [c.clusters(7, [0, 1, 0, 2, 1, 0, 2]).to_mask()],
    c.document: [c.document([3, 1, 2]).to_mask()],
    c.fixed: [c.fixed(9, 3).keep(is_causal).to_mask()],
    c.global_tokens: [c.global_tokens(7, [0, -1]).to_mask()],
    c.grid: [cell(c.grid((4, 5)), 11, (4, 5)), cell(c.grid((4, 5), (0, 2)), 11, (4, 5))],
    c.hops: [c.hops(c.sliding_window(7, 1), 2).to_mask()],
    c.knn: [c.knn(LINE, 2).to_mask()],
    c.log_sparse: [c.log_sparse(9).keep(is_causal).to_mask()],
    c.longformer: [c.longformer(7, 1).to_mask()],
    c.neighborhood: [
        c.neighborhood((7,), 3, stride=stride, dilation=dilation, is_causal=causal).to_mask()
        for stride, dilation, causal in ((1, 1, False), (2, 1, False), (1, 2, False), (1, 1, True))
    ],
    c.per_head: list(c.per_head([c.sliding_window(4, 1), c.sliding_window(4, 1, dilation=2)]).to_mask()),
    c.prefix_lm: [c.prefix_lm(6, 3).to_mask()],
    c.radius: [c.radius(LINE, 2).to_mask()],
    c.routing: [c.routing(5, [0, 1, 1, 2, 0], [1, 0, 0, 2, 1]).to_mask()],
    c.sliding_window: [c.sliding_window(7, 2).to_mask(), c.sliding_window(7, 1, dilation=3).to_mask()],
    c.strided: [c.strided(9, 3).keep(is_causal).to_mask()],
    c.tree: [
        c.tree([-1, 0, 0, 1, 1, 2]).to_mask(),
        c.tree([-1, 0, 0, 1, 1, 2], num_context=2).to_mask(),
    ],
}
DRAWS = {c.bigbird, c.random_regular, c.expander}  # the picture shows one of many graphs
NUMBERED = {c.curve_windows, c.shifted_windows}  # the picture numbers cells, see their own tests
WITHOUT = {c.bonds, c.full, c.hop_distance}  # doctests show the matrix, or there is none to show


def pictures(doc: str) -> list[Tensor]:
    """Reads the matrices of ■, ○ (True) and · (False) that stand side by side in a docstring."""
    rows = [re.split(r"\s{2,}", line.strip()) for line in doc.splitlines() if re.fullmatch(r"\s*[■·○][■·○ ]*", line)]
    return [
        torch.tensor([[mark in "■○" for mark in row[number].split()] for row in rows])
        for number in range(len(rows[0]) if rows else 0)
    ]


@pytest.mark.parametrize("builder", PICTURES, ids=lambda builder: builder.__name__)
def test_the_picture_in_the_docstring_is_the_mask(builder: Callable) -> None:
    drawn = pictures(inspect.getdoc(builder))
    assert len(drawn) == len(PICTURES[builder])
    for picture, mask in zip(drawn, PICTURES[builder]):
        torch.testing.assert_close(picture, mask)


@pytest.mark.parametrize("name", c.__all__)
def test_every_builder_has_a_picture_that_is_tested(name: str) -> None:
    builder = getattr(c, name)
    assert builder in PICTURES or builder in DRAWS | NUMBERED | WITHOUT
    assert bool(pictures(inspect.getdoc(builder))) == (builder in PICTURES or builder in DRAWS)


def test_pictures_of_random_graphs_show_what_may_be_drawn() -> None:
    (bigbird,), (regular,), (expander,) = (
        pictures(inspect.getdoc(builder)) for builder in (c.bigbird, c.random_regular, c.expander)
    )
    window = c.longformer(7, 1).to_mask()
    assert bool((bigbird & ~window).sum(1).le(1).all()) and bool((bigbird | ~window).all())
    assert regular.sum(1).tolist() == [2] * 5
    torch.testing.assert_close(expander, expander.T)
    assert not bool(expander.diagonal().any()) and int(expander.sum(1).max()) <= 2


def test_exports_are_sorted() -> None:
    assert c.__all__ == sorted(c.__all__)


@pytest.mark.parametrize("name", [name for name in c.__all__ if name not in ("bonds", "hop_distance")])
def test_every_builder_names_its_source(name: str) -> None:
    assert "\nSource: " in inspect.getdoc(getattr(c, name))
