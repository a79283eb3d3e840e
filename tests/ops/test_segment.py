"""Sums and maxima of segments, by torch and by torch-scatter (a stand-in for it, and the real one where it is)."""

import importlib
import itertools
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from graphattn.ops import graph_attention, segment, segment_max, segment_sum
from tests.ops.graphs import GRAPHS

INDEX = torch.tensor([0, 0, 2, 2, 2, 5])  # segments 1, 3, 4 and 6 are empty
PTR = torch.tensor([0, 2, 2, 5, 5, 5, 6, 6])
VALUES = torch.randn(6, 3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def sums() -> Tensor:
    return torch.stack([VALUES[INDEX == number].sum(0) for number in range(7)])


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Puts a module with torch-scatter's signature in its place and returns what was called."""
    called: list[str] = []

    def segment_csr(src: Tensor, indptr: Tensor, out: Tensor | None = None, reduce: str = "sum") -> Tensor:
        assert src.is_contiguous() and out is None and reduce == "sum"
        called.append("segment_csr")
        parts = [src[start:stop].sum(0) for start, stop in itertools.pairwise(indptr)]
        return torch.stack(parts) if parts else src[:0]

    monkeypatch.setattr(segment, "_import_torch_scatter", lambda: SimpleNamespace(segment_csr=segment_csr))
    return called


def test_the_sum_of_each_segment_with_zeros_for_empty_ones() -> None:
    assert_close(segment_sum(VALUES, INDEX, 7), sums())
    order = torch.tensor([3, 5, 0, 1, 4, 2])
    assert_close(segment_sum(VALUES[order], INDEX[order], 7), sums())
    assert_close(segment_sum(VALUES[:0], INDEX[:0], 7), torch.zeros(7, 3, 2, dtype=torch.float64))


def test_the_maximum_of_each_segment_with_minus_infinity_for_empty_ones() -> None:
    largest = segment_max(VALUES, INDEX, 7)
    for number in range(7):
        rows = VALUES[INDEX == number]
        assert_close(largest[number], rows.amax(0) if len(rows) else torch.full((3, 2), -torch.inf).double())


def test_ties_share_the_gradient_of_the_maximum() -> None:
    values = torch.tensor([1.0, 3.0, 3.0, 2.0]).requires_grad_()
    (grad,) = torch.autograd.grad(segment_max(values, torch.tensor([0, 0, 0, 1]), 2).sum(), values)
    assert_close(grad, torch.tensor([0.0, 0.5, 0.5, 1.0]))


def test_sums_are_differentiable_twice() -> None:
    values = VALUES[:, :2, 0].clone().requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x: segment_sum(x, INDEX, 7) ** 2, values)


def test_sorted_segments_are_summed_by_torch_scatter_where_it_is(stand_in: list[str]) -> None:
    assert_close(segment_sum(VALUES.transpose(1, 2), INDEX, 7, PTR), sums().transpose(1, 2))
    assert stand_in == ["segment_csr"]
    segment_sum(VALUES, INDEX, 7)  # without pointers the rows may come in any order
    assert stand_in == ["segment_csr"]


def test_inside_a_transform_torch_sums_for_torch_scatter_has_no_rule_for_it(stand_in: list[str]) -> None:
    batch = torch.stack([VALUES, 2 * VALUES])
    assert_close(torch.func.vmap(lambda x: segment_sum(x, INDEX, 7, PTR))(batch), torch.stack([sums(), 2 * sums()]))
    weighted = torch.func.grad(lambda x: (segment_sum(x, INDEX, 7, PTR) * sums()).sum())
    assert_close(weighted(VALUES), sums()[INDEX])
    assert not stand_in


@pytest.mark.parametrize("name", ["window", "lonely nodes", "no edges", "no nodes", "bipartite", "head mask"])
def test_attention_is_the_same_with_and_without_it(name: str, stand_in: list[str]) -> None:
    graph = GRAPHS[name]
    query = torch.randn(graph.num_dst_nodes, 3, 5, dtype=torch.float64, requires_grad=True)
    key = torch.randn(graph.num_src_nodes, 3, 5, dtype=torch.float64)
    with_it = graph_attention(query, key, key, graph, impl="scatter")
    assert stand_in
    without = graph_attention(query, key, key, graph, impl="dense")
    assert_close(with_it, without)
    assert_close(*(torch.autograd.grad(out.square().sum(), query)[0] for out in (with_it, without)))


def test_the_real_torch_scatter_gives_the_same() -> None:
    pytest.importorskip("torch_scatter")
    assert isinstance(segment.installed_torch_scatter(), ModuleType)
    assert_close(segment_sum(VALUES, INDEX, 7, PTR), sums())
    values = VALUES[:, 0, 0].clone().requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x: segment_sum(x, INDEX, 7, PTR) ** 2, values)


@pytest.mark.parametrize("error", [ModuleNotFoundError("torch_scatter"), OSError("undefined symbol: of another torch")])
def test_a_torch_scatter_that_cannot_be_imported_is_done_without(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fails(name: str) -> ModuleType:
        assert name == "torch_scatter"
        raise error

    segment._import_torch_scatter.cache_clear()
    with monkeypatch.context() as patched:
        patched.setattr(importlib, "import_module", fails)
        assert segment.installed_torch_scatter() is None
        assert_close(segment_sum(VALUES, INDEX, 7, PTR), sums())
    segment._import_torch_scatter.cache_clear()
