"""A difference holds what set arithmetic on the dense matrices holds, and its text says so."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graphattn.connectivity import full, global_tokens, sliding_window
from graphattn.graph import AttentionGraph, rules
from graphattn.graph.difference import diff
from tests.strategies import dense, graph_pairs


@given(graph_pairs(heads=False))
def test_parts_are_those_of_the_boolean_matrices(pair: tuple[AttentionGraph, AttentionGraph]) -> None:
    left, right = pair
    a, b = dense(left), dense(right)
    found = left.diff(right)
    assert torch.equal(dense(found.only_left), a & ~b)
    assert torch.equal(dense(found.only_right), b & ~a)
    assert torch.equal(dense(found.both), a & b)
    assert found.is_same == torch.equal(a, b)
    signs = [["·=-+"[2 * x + 3 * y - 4 * (x and y)] for x, y in zip(*rows)] for rows in zip(a.tolist(), b.tolist())]
    if max(a.shape) <= 32:
        assert found.raster() == "\n".join(" ".join(row) for row in signs)


@given(graph_pairs(heads=False), st.integers(2, 17))
def test_a_cell_shows_a_difference_before_what_is_common(
    pair: tuple[AttentionGraph, AttentionGraph], width: int
) -> None:
    left, right = pair
    longest = max(left.num_src_nodes, left.num_dst_nodes)
    if 2 * longest <= width or not left.num_src_nodes or not left.num_dst_nodes:
        return
    a, b = dense(left), dense(right)
    lines = left.diff(right).raster(width).split("\n")
    for r, line in enumerate(lines):
        rows = [i for i in range(a.shape[0]) if i * len(lines) // a.shape[0] == r]
        for c, sign in enumerate(line):
            columns = [j for j in range(a.shape[1]) if j * len(line) // a.shape[1] == c]
            x, y = a[rows][:, columns], b[rows][:, columns]
            only_left, only_right = bool((x & ~y).any()), bool((y & ~x).any())
            differs = {(True, True): "±", (True, False): "-", (False, True): "+"}
            assert sign == differs.get((only_left, only_right), "=" if bool((x & y).any()) else "·")


@given(graph_pairs(heads=True))
def test_heads_are_compared_one_by_one(pair: tuple[AttentionGraph, AttentionGraph]) -> None:
    left, right = pair
    found = left.diff(right)
    assert torch.equal(dense(found.only_left), dense(left) & ~dense(right))
    assert found.is_same == torch.equal(dense(left), dense(right))


def test_the_text_names_both_graphs_counts_kinds_examples_and_picture() -> None:
    left = sliding_window(7, radius=1) | global_tokens(7, [0])
    right = sliding_window(7, radius=2).keep(rules.is_causal)
    lines = str(diff(left, right)).split("\n")
    assert lines[0] == "- sliding_window(7, radius=1) | global_tokens(7, [0])"
    assert lines[1] == "+ sliding_window(7, radius=2).keep(is_causal)"
    assert lines[2] == "- only left: 15 edges (window 6, global 10), such as 1 → 0, 2 → 0, 3 → 0"
    assert lines[3] == "+ only right: 4 edges (window 4), such as 1 → 3, 2 → 4, 3 → 5"
    assert lines[4] == "= both: 14 edges (window 14, global 3), such as 0 → 0, 0 → 1, 1 → 1"
    assert lines[5:7] == ["= - - - - - -", "= = - · · · ·"]
    assert "only left: 0 edges\n" in str(diff(left, left))


def test_blocks_that_are_the_same_need_no_list() -> None:
    graph = full(10**5)
    assert str(graph.diff(full(10**5))).split("\n")[4].startswith("= both: 10,000,000,000 edges (full")


def test_graphs_over_other_nodes_are_refused() -> None:
    with pytest.raises(ValueError, match="diff needs graphs over the same nodes, got 3 sources"):
        sliding_window(3, 1).diff(sliding_window(4, 1))
    with pytest.raises(ValueError, match=r"Keep it as blocks|start from a sparser graph"):
        full(10**5).diff(sliding_window(10**5, 1))
