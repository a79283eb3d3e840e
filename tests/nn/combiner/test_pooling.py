"""Pooling over members equals the loop over abstractions, for blocks, spans and any listed edges."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from graphattn.connectivity import combiner, random_regular
from graphattn.graph import AttentionGraph
from graphattn.nn.combiner import pooling
from graphattn.nn.combiner.pooling import max_pool, mean_pool, members_of

SIZES = torch.tensor([7, 0, 1, 17, 2])
MASK = torch.ones(27, dtype=torch.bool)
MASK[[0, 1, 8, 9, 10, 20]] = False

GRAPHS: dict[str, AttentionGraph] = {
    name: build.summarise
    for name, build in {
        "fixed": combiner.fixed(SIZES, 4, causal=True),
        "fixed, masked": combiner.fixed(SIZES, 2, causal=True, member=MASK),
        "log": combiner.log_sparse(SIZES, causal=True),
        "log, all": combiner.log_sparse(SIZES, causal=False),
        "log, masked": combiner.log_sparse(SIZES, causal=False, member=MASK),
        "vertical": combiner.axial_vertical(SIZES, 3, causal=True),
        "vertical, all": combiner.axial_vertical(SIZES, 3, causal=False),
        "horizontal": combiner.axial_horizontal(SIZES, 5, causal=False),
        "rowmajor": combiner.axial_rowmajor(SIZES, 5, causal=True),
        "clusters": combiner.clusters(SIZES, torch.arange(27) % 3, causal=True),
    }.items()
} | {
    "listed": random_regular(27, 4, generator=torch.Generator().manual_seed(0)),
    "nothing": AttentionGraph(torch.empty(2, 0).long(), 27, 5),
}
graphs = pytest.mark.parametrize("name", GRAPHS)


def drawn() -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(27, 3, 5, generator=generator, dtype=torch.float64).requires_grad_()


def looped(values: Tensor, graph: AttentionGraph, reduce) -> Tensor:
    src, dst = graph.edge_index
    rows = [src[dst == number] for number in range(graph.num_dst_nodes)]
    none = values.new_zeros(values.shape[1:])
    return torch.stack([reduce(values[row]) if row.numel() else none for row in rows])


@graphs
@pytest.mark.parametrize("least_step", [1, 10**9], ids=["steps", "cummax"])
def test_the_maximum_is_that_of_the_members(name: str, least_step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pooling, "MIN_STEP", least_step)
    values, graph = drawn(), GRAPHS[name]
    pooled, wanted = max_pool(values, members_of(graph)), looped(values, graph, lambda rows: rows.amax(0))
    assert torch.equal(pooled, wanted)
    if graph.num_edges:
        weight = torch.randn(pooled.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        assert_close(*(torch.autograd.grad((x * weight).sum(), values)[0] for x in (pooled, wanted)))


@graphs
def test_the_mean_is_that_of_the_members(name: str) -> None:
    values, graph = drawn(), GRAPHS[name]
    pooled, wanted = mean_pool(values, members_of(graph)), looped(values, graph, lambda rows: rows.mean(0))
    assert_close(pooled, wanted)
    if graph.num_edges:
        weight = torch.randn(pooled.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        assert_close(*(torch.autograd.grad((x * weight).sum(), values)[0] for x in (pooled, wanted)))


@graphs
def test_members_are_counted_and_read_once(name: str) -> None:
    graph = GRAPHS[name]
    members = members_of(graph)
    assert torch.equal(members.size, torch.bincount(graph.edge_index[1], minlength=graph.num_dst_nodes))
    assert members_of(graph) is members


def test_spans_inside_spans_are_computed_once() -> None:
    n = 1024
    graph = combiner.log_sparse(n, causal=True).summarise
    spans = members_of(graph).spans
    assert graph.num_edges > 4 * n and spans.first.numel() < 2 * n


def test_a_tie_gives_the_gradient_to_one_member() -> None:
    for graph in (GRAPHS["fixed"], GRAPHS["log"], GRAPHS["vertical"], GRAPHS["horizontal"]):
        values = torch.zeros(27, 1, 1, dtype=torch.float64, requires_grad=True)
        pooled = max_pool(values, members_of(graph))
        (grad,) = torch.autograd.grad(pooled.sum(), values)
        assert torch.equal(grad, grad.round()) and float(grad.sum()) == graph.num_dst_nodes


def test_half_of_a_large_sum_is_not_lost() -> None:
    values = torch.rand(2**16, 1, 1, generator=torch.Generator().manual_seed(0)) + 1.0
    graph = combiner.log_sparse(2**16, causal=True).summarise
    last = mean_pool(values, members_of(graph))[members_of(graph).size == 2]
    src = graph.edge_index[0][torch.repeat_interleave(members_of(graph).size == 2, members_of(graph).size)]
    assert_close(last, values[src].view(-1, 2, 1, 1).mean(1))
