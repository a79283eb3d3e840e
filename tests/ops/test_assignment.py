"""Assignments: what they pool, what they tell, and the order that puts the best first."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from graphattn.graph import AttentionGraph
from graphattn.ops import Assignment
from graphattn.ops.assignment import best_first
from graphattn.ops.listening import Call, listen

GRAPH = AttentionGraph(torch.tensor([[0, 2, 4, 1, 4], [0, 0, 0, 2, 2]]), num_src_nodes=5, num_dst_nodes=3)
WEIGHT = torch.tensor([0.5, 0.25, 0.25, -1.0, 3.0], dtype=torch.float64)
ASSIGNMENT = Assignment(GRAPH, WEIGHT, torch.tensor([0, 1, 4]))


def rows() -> Tensor:
    return torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_pooled_is_the_weighted_sum_over_edges_zeros_where_there_is_none() -> None:
    matrix = torch.zeros(3, 5, dtype=torch.float64)
    matrix[GRAPH.edge_index[1], GRAPH.edge_index[0]] = WEIGHT
    assert_close(ASSIGNMENT.pool(rows()), matrix @ rows())
    assert_close(ASSIGNMENT.pool(rows().t().contiguous().t()), matrix @ rows())
    assert not ASSIGNMENT.pool(rows())[1].any()


def test_an_input_without_an_edge_is_not_read() -> None:
    x = rows()
    x[3] = torch.nan
    assert bool(ASSIGNMENT.pool(x).isfinite().all())


def test_a_selection_is_its_rows() -> None:
    x = rows()
    x[1] = torch.inf
    assert torch.equal(ASSIGNMENT._replace(is_selection=True).pool(x), x[[0, 1, 4]])


def test_weights_reach_who_listens_with_their_gradient() -> None:
    calls: list[Call] = []

    class Ear:
        def wants(self) -> bool:
            return True

        def hear(self, call: Call) -> None:
            calls.append(call)

    weight = WEIGHT.clone().requires_grad_()
    received: list[Tensor] = []
    with listen(Ear()):
        pooled = ASSIGNMENT._replace(weight=weight).pool(rows())
    (call,) = calls
    assert call.kind == "pool" and call.graph == GRAPH and call.on_gradient is not None
    call.on_gradient(received.append)
    pooled.sum().backward()
    assert_close(call.alpha[:, 0], WEIGHT)
    assert_close(received[0][:, 0], rows().sum(1)[GRAPH.edge_index[0]])


def test_rows_of_another_number_or_dtype_are_refused() -> None:
    with pytest.raises(ValueError, match=r"num_nodes = 5, got torch\.float64"):
        ASSIGNMENT.pool(rows()[:4])
    with pytest.raises(ValueError, match="x must be floating"):
        ASSIGNMENT.pool(rows().long())


def test_the_best_of_each_graph_come_first_and_of_equals_the_earlier() -> None:
    scores = torch.randint(1, 4, (97,), generator=torch.Generator().manual_seed(0)).double() / 4
    graph = torch.arange(97) // 23
    expected = sorted(range(97), key=lambda node: (int(graph[node]), -float(scores[node]), node))
    assert best_first(scores, graph, 5).tolist() == expected
    assert best_first(scores, torch.zeros(97).long(), 1).tolist() == sorted(
        range(97), key=lambda node: (-float(scores[node]), node)
    )
