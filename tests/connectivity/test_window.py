import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graphattn.connectivity import full, sliding_window
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
