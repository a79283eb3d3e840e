"""The text picture says pair by pair, or cell by cell, what the dense matrix holds."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graphattn.connectivity import full, sliding_window
from graphattn.graph import AttentionGraph, rules
from graphattn.graph.raster import SHADES
from tests.strategies import dense, graphs


@given(graphs())
def test_a_small_graph_is_drawn_pair_by_pair(graph: AttentionGraph) -> None:
    mask = dense(graph)
    mask = mask if mask.dim() == 2 else mask.any(0)
    assert graph.raster() == "\n".join(" ".join("■" if edge else "·" for edge in row) for row in mask.tolist())


@given(graphs(), st.integers(2, 17))
def test_a_larger_one_is_shaded_by_the_exact_share_of_each_cell(graph: AttentionGraph, width: int) -> None:
    longest = max(graph.num_src_nodes, graph.num_dst_nodes)
    if 2 * longest <= width or not graph.num_src_nodes or not graph.num_dst_nodes:
        return
    lines = graph.raster(width).split("\n")
    num_rows, num_columns = len(lines), len(lines[0])
    assert num_columns <= width and all(len(line) == num_columns for line in lines)
    mask = dense(graph)
    mask = mask if mask.dim() == 2 else mask.any(0)
    for r, line in enumerate(lines):
        rows = [i for i in range(graph.num_dst_nodes) if i * num_rows // graph.num_dst_nodes == r]
        for c, sign in enumerate(line):
            columns = [j for j in range(graph.num_src_nodes) if j * num_columns // graph.num_src_nodes == c]
            share = float(mask[rows][:, columns].double().mean())
            assert sign == SHADES[(share > 0) + (share > 1 / 2) + (share > 3 / 4) + (share == 1)]


def test_a_square_graph_is_drawn_square_and_a_flat_one_flat() -> None:
    assert [len(line) for line in sliding_window(100, 3).raster(20).split("\n")] == [20] * 10
    assert [len(line) for line in full(100, dst_sizes=50).raster(20).split("\n")] == [20] * 5
    assert full(1000, dst_sizes=1).raster(10) == "█" * 10


def test_a_mask_that_cannot_be_dense_has_a_picture() -> None:
    lines = full(10**6).keep(rules.is_causal).raster(16).split("\n")
    assert lines[3] == "██████▓░········" and "·" not in lines[-1][:14]


@pytest.mark.parametrize("width", [1, 0, -3, True, 8.0])
def test_a_width_that_holds_nothing_is_refused(width) -> None:
    with pytest.raises(ValueError, match="at least 2 characters"):
        AttentionGraph(torch.empty(2, 0, dtype=torch.int64), 3).raster(width)
