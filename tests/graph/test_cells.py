"""Cells and tiles are counted as on the dense matrix, and no block is listed for it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graphattn.connectivity import full, sliding_window
from graphattn.graph import AttentionGraph, cells, rules
from graphattn.graph.cells import cell_counts, cell_sizes, num_tiles
from tests.strategies import dense, graphs


def edges_of(graph: AttentionGraph) -> list[tuple[int, int]]:
    mask = dense(graph)
    return (mask if mask.dim() == 2 else mask.any(0)).nonzero().tolist()


@given(graphs(), st.integers(1, 11), st.integers(1, 11))
def test_cells_hold_the_edges_whose_ends_fall_into_them(graph: AttentionGraph, num_rows: int, num_columns: int) -> None:
    expected = torch.zeros(num_rows, num_columns, dtype=torch.int64)
    sizes = torch.zeros(num_rows, num_columns, dtype=torch.int64)
    for i in range(graph.num_dst_nodes):
        for j in range(graph.num_src_nodes):
            sizes[i * num_rows // graph.num_dst_nodes, j * num_columns // graph.num_src_nodes] += 1
    listed = edges_of(graph)
    for i, j in listed:
        expected[i * num_rows // graph.num_dst_nodes, j * num_columns // graph.num_src_nodes] += 1
    graph = graph.named("not listed")
    graph._cache.clear()
    torch.testing.assert_close(cell_counts(graph, num_rows, num_columns), expected)
    torch.testing.assert_close(cell_sizes(graph, num_rows, num_columns), sizes)
    assert "listed" not in graph._cache


@given(graphs(), st.integers(1, 5))
def test_tiles_are_those_that_hold_an_edge(graph: AttentionGraph, block_size: int) -> None:
    expected = len({(i // block_size, j // block_size) for i, j in edges_of(graph)})
    assert num_tiles(graph, block_size) == (expected, True)


@given(graphs(), st.integers(1, 5))
def test_too_many_tiles_to_mark_are_sorted_or_bounded(graph: AttentionGraph, block_size: int) -> None:
    expected, _ = num_tiles(graph, block_size)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cells, "MAX_TILES", 0)
        count, is_exact = num_tiles(graph, block_size)
    assert count >= expected
    assert is_exact == (graph.blocks is None or (graph.blocks.num_blocks == 1 and not graph.explicit_edges.numel()))
    if is_exact:
        assert count == expected


def test_large_blocks_are_counted_by_formula() -> None:
    num_nodes, size = 1_000_003, 128
    rows = -(-num_nodes // size)
    assert num_tiles(full(num_nodes).keep(rules.is_causal), size) == (rows * (rows + 1) // 2, True)
    assert int(cell_counts(full(num_nodes), 2, 5).sum()) == num_nodes**2
    graph = sliding_window(100_003, radius=2)
    assert num_tiles(graph, size) == (3 * -(-100_003 // size) - 2, True)
