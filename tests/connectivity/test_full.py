import re

import pytest
import torch
from torch import Tensor

from graphattn.connectivity import full
from graphattn.graph.rules import is_causal


def test_every_target_reads_every_source() -> None:
    assert bool(full(7).to_mask().all())
    assert full(7).num_edges == 49


def test_cross_attention_is_rectangular() -> None:
    graph = full(7, dst_sizes=3)
    assert (graph.num_src_nodes, graph.num_dst_nodes, graph.num_edges) == (7, 3, 21)
    assert graph.to_mask().shape == (3, 7)
    assert bool(graph.to_mask().all())


def test_a_batch_is_block_diagonal_and_graphs_empty_on_either_side_have_no_edges() -> None:
    src_sizes, dst_sizes = torch.tensor([3, 0, 5, 0, 2]), torch.tensor([2, 4, 0, 0, 7])
    graph = full(src_sizes, dst_sizes)
    blocks = [torch.ones(m, n, dtype=torch.bool) for n, m in zip(src_sizes.tolist(), dst_sizes.tolist())]
    torch.testing.assert_close(graph.to_mask(), torch.block_diag(*blocks).bool())
    assert graph.num_edges == 3 * 2 + 2 * 7
    assert graph.src_ptr.tolist() == [0, 3, 3, 8, 8, 10]
    assert graph.dst_ptr.tolist() == [0, 2, 6, 6, 6, 13]


def test_each_graph_with_edges_is_one_block_and_nothing_is_listed() -> None:
    graph = full(torch.tensor([3, 0, 5]), torch.tensor([2, 4, 7]))
    assert graph.blocks is not None
    assert graph.blocks.num_blocks == 2
    assert graph.explicit_edges.shape == (2, 0)
    assert full(torch.tensor([0, 2]), torch.tensor([3, 0])).blocks is None


def test_a_million_nodes_cost_what_their_nodes_cost() -> None:
    graph = full(1_000_003)
    assert graph.num_edges == 1_000_003**2
    assert graph.blocks is not None
    assert sum(tensor.numel() for tensor in graph.blocks) < 4 * 1_000_003
    causal = graph.keep(is_causal)
    assert causal.num_edges == 1_000_003 * 1_000_004 // 2


def test_repr_names_both_sides() -> None:
    assert "full(7, dst_sizes=3)" in repr(full(7, 3))
    assert "full(2 graphs, dst_sizes=2 graphs)" in repr(full(torch.tensor([1, 2]), torch.tensor([3, 4])))


@pytest.mark.parametrize(
    ("sizes", "dst_sizes", "error", "advice"),
    [
        (
            3,
            torch.tensor([3]),
            TypeError,
            "two ints or two tensors, got int and Tensor. Give one entry per graph to both.",
        ),
        (torch.tensor([3]), 3, TypeError, "two ints or two tensors, got Tensor and int"),
        (torch.tensor([3, 1]), torch.tensor([3]), ValueError, "got 2 and 1. Give an empty graph the size 0."),
        (3, -1, ValueError, "dst_sizes must not be negative, got -1"),
        (3, 2.5, TypeError, "dst_sizes must be an int or an int64 tensor"),
    ],
    ids=["int and tensor", "tensor and int", "lengths", "negative", "float"],
)
def test_sides_that_do_not_fit_are_refused_with_advice(
    sizes: int | Tensor, dst_sizes: int | Tensor, error: type[Exception], advice: str
) -> None:
    with pytest.raises(error, match=re.escape(advice)):
        full(sizes, dst_sizes)
