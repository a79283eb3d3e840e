"""Windows of rows: every edge is one bit, against a slow enumeration; and taken only where their products are full."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graphattn.connectivity import full, random_regular, sliding_window
from graphattn.graph import AttentionGraph
from graphattn.graph import windows as windows_of_rows
from graphattn.graph.windows import MAX_COLUMNS, Windows, make_windows, slots_of


@st.composite
def edge_lists(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor, int, int]:
    """Draws rows and columns of distinct pairs, in any order, and how many there are of each."""
    num_rows, num_columns = draw(st.integers(1, 140)), draw(st.integers(1, 40))
    pair = st.tuples(st.integers(0, num_rows - 1), st.integers(0, num_columns - 1))
    pairs = draw(st.lists(pair, unique=True, max_size=80))
    row, column = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).T
    return row, column, num_rows, num_columns


@given(edge_lists(), st.sampled_from([16, 64]))
def test_every_pair_is_one_bit_of_its_window_and_columns_ascend(edges: tuple, window_rows: int) -> None:
    row, column, num_rows, num_columns = edges
    ptr, slots = slots_of(row, column, num_rows, num_columns, window_rows)
    pairs = sorted(zip(row.tolist(), column.tolist(), strict=True))
    assert ptr[0] == 0 and ptr[-1] == slots.shape[1] and len(ptr) == -(-num_rows // window_rows) + 1
    for window, (low, high) in enumerate(zip(ptr[:-1].tolist(), ptr[1:].tolist(), strict=True)):
        mine = [(i, j) for i, j in pairs if i // window_rows == window]
        columns, masks = slots[:, low:high].tolist()
        assert columns == sorted({j for _, j in mine})
        bits = [[r for r in range(64) if mask >> r & 1] for mask in masks]  # of a negative mask too, bit 63
        found = [(window * window_rows + r, j) for j, rows in zip(columns, bits, strict=True) for r in rows]
        assert sorted(found) == mine


def edges_of(graph: AttentionGraph) -> tuple[torch.Tensor, torch.Tensor, int, int]:
    src, dst = graph.edge_index
    return src, dst, graph.num_src_nodes, graph.num_dst_nodes


def rows_of(windows: Windows, num_nodes: int) -> tuple[int, int]:
    """Returns how many rows a window of targets and one of sources have."""
    return tuple(16 if len(ptr) == -(-num_nodes // 16) + 1 else 64 for ptr in (windows.target_ptr, windows.source_ptr))


def test_windows_are_as_large_as_their_rows_share_columns() -> None:
    wide = sliding_window(400, 64)  # 129 columns a row, 192 of 64 rows together
    assert rows_of(make_windows(*edges_of(wide)), 400) == (64, 64)
    narrow = sliding_window(400, 8)  # 17 columns a row, 32 of 16 rows together, 80 of 64
    assert rows_of(make_windows(*edges_of(narrow)), 400) == (16, 16)
    assert make_windows(*edges_of(sliding_window(400, 2))) is None
    scattered = random_regular(2000, 16, generator=torch.Generator().manual_seed(0))
    assert make_windows(*edges_of(scattered)) is None


def test_windows_of_targets_and_of_sources_list_the_same_edges() -> None:
    src, dst, num_src_nodes, num_dst_nodes = edges_of(sliding_window(130, 12))
    shuffled = torch.randperm(src.numel(), generator=torch.Generator().manual_seed(0))
    windows = make_windows(src[shuffled], dst[shuffled], num_src_nodes, num_dst_nodes)
    assert torch.equal(windows.target_slots, slots_of(dst, src, num_dst_nodes, num_src_nodes, 16)[1])
    assert torch.equal(windows.source_slots, slots_of(src, dst, num_src_nodes, num_dst_nodes, 16)[1])


def test_a_hub_keeps_its_graph_out_of_windows() -> None:
    num_nodes = MAX_COLUMNS + 64
    graph = sliding_window(num_nodes, 16)
    assert make_windows(*edges_of(graph)) is not None
    hub = torch.stack([torch.arange(num_nodes), torch.zeros(num_nodes, dtype=torch.int64)])
    for edges in (hub, hub.flip(0)):
        assert make_windows(*edges_of(graph | AttentionGraph(edges, num_nodes))) is None


def test_a_list_of_few_edges_is_turned_down_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows_of_rows, "slots_of", None)
    nothing = torch.empty(0, dtype=torch.int64)
    assert make_windows(nothing, nothing, 0, 0) is None
    assert make_windows(nothing, nothing, 5, 5) is None
    assert make_windows(*edges_of(sliding_window(400, 1))) is None


def test_only_plans_on_cuda_have_windows() -> None:
    graph = full(torch.tensor([40, 30])).enumerate()
    assert graph.plan().windows is None
    assert make_windows(*edges_of(graph)) is not None


def test_a_plan_moves_its_windows_and_leaves_them_out_where_sources_change() -> None:
    plan = sliding_window(100, 16).plan()
    windows = make_windows(plan.src, plan.dst, 100, 100)
    moved = plan._replace(windows=windows).map(torch.clone)
    assert all(a is not b and torch.equal(a, b) for a, b in zip(moved.windows, windows, strict=True))
    assert plan._replace(windows=windows).keep_sources(torch.arange(100)).windows is None  # this one lies on the CPU
