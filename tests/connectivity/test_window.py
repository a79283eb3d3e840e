import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graphattn.connectivity import full, sliding_window
from graphattn.graph import AttentionGraph, disjoint_union
from graphattn.graph.rules import is_causal


@given(num_nodes=st.integers(0, 23), radius=st.integers(0, 30))
def test_edges_are_the_pairs_within_the_radius(num_nodes: int, radius: int) -> None:
    graph = sliding_window(num_nodes, radius)
    position = torch.arange(num_nodes)
    torch.testing.assert_close(graph.to_mask(), (position[:, None] - position).abs() <= radius)
    reach = min(radius, max(num_nodes - 1, 0))
    assert graph.num_edges == num_nodes * (2 * reach + 1) - reach * (reach + 1)
    assert graph == graph.T


@given(sizes=st.lists(st.integers(0, 13), max_size=7), radius=st.integers(0, 15))
def test_windows_end_at_the_border_of_their_graph(sizes: list[int], radius: int) -> None:
    graph = sliding_window(torch.tensor(sizes, dtype=torch.int64), radius)
    masks = [sliding_window(size, radius).to_mask() for size in sizes]
    expected = torch.block_diag(*masks).bool() if sizes else torch.zeros(0, 0, dtype=torch.bool)
    torch.testing.assert_close(graph.to_mask(), expected.view(sum(sizes), sum(sizes)))


@given(st.integers(0, 19), st.integers(0, 9), st.integers(0, 9), st.integers(1, 7))
def test_a_dilated_window_takes_steps(num_nodes: int, before: int, after: int, dilation: int) -> None:
    graph = sliding_window(num_nodes, (before, after), dilation=dilation)
    ahead = torch.arange(num_nodes) - torch.arange(num_nodes)[:, None]
    expected = (ahead % dilation == 0) & (ahead >= -before * dilation) & (ahead <= after * dilation)
    torch.testing.assert_close(graph.to_mask(), expected)
    lost = [*range(1, before + 1), *range(1, after + 1)]
    assert graph.num_edges == num_nodes + sum(max(num_nodes - dilation * k, 0) for k in lost)
    assert AttentionGraph(graph.edge_index, num_nodes) == graph  # canonical


@given(st.integers(0, 15), st.integers(0, 15), st.integers(0, 5), st.integers(0, 5), st.integers(1, 3))
def test_windows_of_cross_attention_stand_where_they_are_aligned(
    num_src: int, num_dst: int, before: int, after: int, dilation: int
) -> None:
    target = torch.arange(num_dst)
    places = {
        "start": target,
        "end": target + num_src - num_dst,
        "scale": ((target + 0.5) * num_src / max(num_dst, 1)).floor().long(),
    }
    for align, place in places.items():
        graph = sliding_window(num_src, (before, after), dilation=dilation, dst_sizes=num_dst, align=align)
        ahead = torch.arange(num_src) - place[:, None]
        expected = (ahead % dilation == 0) & (ahead >= -before * dilation) & (ahead <= after * dilation)
        torch.testing.assert_close(graph.to_mask(), expected)


@pytest.mark.parametrize("align", ["start", "end", "scale"])
def test_a_batch_of_windows_in_cross_attention_is_the_union_of_its_graphs(align: str) -> None:
    sizes, dst_sizes = torch.tensor([7, 0, 3, 4]), torch.tensor([3, 2, 0, 9])
    batch = sliding_window(sizes, (2, 1), dst_sizes=dst_sizes, align=align)
    pairs = zip(sizes.tolist(), dst_sizes.tolist())
    singles = disjoint_union([sliding_window(n, (2, 1), dst_sizes=m, align=align) for n, m in pairs])
    assert batch == singles
    torch.testing.assert_close(batch.src_ptr, singles.src_ptr)
    torch.testing.assert_close(batch.dst_ptr, singles.dst_ptr)


def test_equal_sizes_are_self_attention_in_any_alignment() -> None:
    for align in ("start", "end", "scale"):
        assert sliding_window(13, 2, dst_sizes=13, align=align) == sliding_window(13, 2)
    assert "sliding_window(7, dst_sizes=3, radius=(1, 0), dilation=2, align='end')" in repr(
        sliding_window(7, (1, 0), dilation=2, dst_sizes=3, align="end")
    )


def test_a_window_back_is_the_causal_half() -> None:
    assert sliding_window(13, (4, 0)) == sliding_window(13, 4).keep(is_causal)


def test_a_dilation_past_both_ends_leaves_self_edges() -> None:
    assert sliding_window(11, 2**70, dilation=2**70) == sliding_window(11, 0)


@pytest.mark.parametrize(
    ("arguments", "error", "advice"),
    [
        ({"dilation": 0}, ValueError, "dilation must be at least 1, got 0. Use 1 for a window without gaps."),
        ({"dilation": 1.5}, TypeError, "dilation must be an int, got float 1.5."),
        ({"radius": (1, -1)}, ValueError, "radius must be at least 0, got -1."),
        (
            {"radius": (1, 1, 1)},
            ValueError,
            "radius must be an int or two of them, (back, ahead), got 3. For a grid of",
        ),
        (
            {"align": "end"},
            ValueError,
            "align must come with dst_sizes, got 'end' alone. Leave it out in self-attention",
        ),
        (
            {"dst_sizes": 3},
            ValueError,
            "align must be one of 'start', 'end', 'scale' where dst_sizes is given, got None.",
        ),
        (
            {"dst_sizes": 3, "align": "middle"},
            ValueError,
            "got 'middle'. Use 'end' for queries that are the last tokens",
        ),
    ],
)
def test_what_makes_no_window_is_refused_with_advice(arguments: dict, error: type[Exception], advice: str) -> None:
    with pytest.raises(error, match=re.escape(advice)):
        sliding_window(5, **{"radius": 1, **arguments})


def test_radius_zero_leaves_self_edges() -> None:
    torch.testing.assert_close(sliding_window(11, 0).to_mask(), torch.eye(11, dtype=torch.bool))


@pytest.mark.parametrize("radius", [10, 11, 2**70])
def test_a_radius_past_both_ends_is_full_attention(radius: int) -> None:
    assert sliding_window(11, radius) == full(11)


def test_two_windows_in_a_row_reach_as_far_as_one_of_both_radii() -> None:
    assert sliding_window(23, 2) @ sliding_window(23, 3) == sliding_window(23, 5)


def test_the_causal_rule_keeps_the_left_half() -> None:
    graph = sliding_window(13, 2).keep(is_causal)
    assert graph.edge_index[1].bincount().tolist() == [1, 2] + [3] * 11


@pytest.mark.parametrize(
    ("radius", "error", "advice"),
    [
        (-1, ValueError, "radius must be at least 0, got -1. Use 0 to keep only self edges."),
        (1.5, TypeError, "radius must be an int, got float 1.5. Pass int(radius)."),
        (True, TypeError, "radius must be an int, got bool True"),
    ],
)
def test_a_wrong_radius_is_refused_with_advice(radius: int, error: type[Exception], advice: str) -> None:
    with pytest.raises(error, match=re.escape(advice)):
        sliding_window(5, radius)
