"""Both patterns against the sets A¹ and A² of the paper, written down per token."""

import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from graphattn.connectivity import block_diagonal, fixed, full, sliding_window, strided
from graphattn.graph import disjoint_union
from graphattn.graph.rules import is_causal


def mask_of(sets: list[set[int]]) -> Tensor:
    table = [[j in read for j in range(len(sets))] for read in sets]
    return torch.tensor(table, dtype=torch.bool).view(len(sets), len(sets))


def strided_sets(n: int, stride: int) -> tuple[Tensor, Tensor]:
    local = [set(range(max(0, i - stride), i + 1)) for i in range(n)]
    column = [{j for j in range(i + 1) if (i - j) % stride == 0} for i in range(n)]
    return mask_of(local), mask_of(column)


def fixed_sets(n: int, stride: int, end: int, width: int) -> tuple[Tensor, Tensor]:
    """The own block, and the `width` tokens that end `end` before the end of every block."""
    local = [{j for j in range(i + 1) if j // stride == i // stride} for i in range(n)]
    places = range(stride - end - width, stride - end)
    column = [{j for j in range(i + 1) if j % stride in places} for i in range(n)]
    return mask_of(local), mask_of(column)


@given(st.integers(0, 23), st.integers(1, 26), st.integers(1, 5))
def test_strided_is_both_parts_of_the_paper_and_heads_split_them(n: int, stride: int, num_heads: int) -> None:
    local, column = strided_sets(n, stride)
    graph = strided(n, stride)
    causal = graph.keep(is_causal)
    torch.testing.assert_close(causal.to_mask(), local | column)
    assert graph == graph.T
    src, dst = causal.edge_index
    torch.testing.assert_close(causal.edge_kind, local[dst, src].to(torch.int16) + 2 * column[dst, src].to(torch.int16))
    distances = {*range(1, min(stride + 1, n)), *range(stride, n, stride)}
    assert graph.num_edges == n + 2 * sum(n - k for k in distances)
    heads = strided(n, stride, num_heads=num_heads)
    assert heads.num_edges == graph.num_edges
    expected = torch.stack([(local, column)[head % 2] for head in range(num_heads)])
    torch.testing.assert_close(heads.keep(is_causal).to_mask(), expected)


@given(st.integers(0, 23), st.integers(1, 26), st.data())
def test_fixed_is_both_parts_of_the_paper(n: int, stride: int, data: st.DataObject) -> None:
    width = data.draw(st.integers(1, stride))
    local, column = fixed_sets(n, stride, 0, width)
    graph = fixed(n, stride, width)
    causal = graph.keep(is_causal)
    torch.testing.assert_close(causal.to_mask(), local | column)
    assert graph.explicit_edges.shape == causal.explicit_edges.shape == (2, 0)
    whole, rest = divmod(n, stride)
    last = max(rest - (stride - width), 0)
    inside, summaries = whole * stride**2 + rest**2, whole * width + last
    assert graph.num_edges == inside + n * summaries - (whole * stride * width + rest * last)
    is_summary = graph.edge_index[0] % stride >= stride - width
    assert graph.kinds == ("summary", "local")
    assert graph.edge_kind.tolist() == torch.where(is_summary, 1, 2).tolist()


@given(st.integers(1, 19), st.integers(1, 7), st.integers(1, 9), st.data())
def test_odd_heads_of_fixed_read_groups_of_their_own(n: int, stride: int, num_heads: int, data: st.DataObject) -> None:
    width = data.draw(st.integers(1, stride))
    graph = fixed(n, stride, width, num_heads=num_heads).keep(is_causal)
    num_groups = max(min(num_heads // 2, stride // width), 1)
    expected = []
    for head in range(num_heads):
        local, column = fixed_sets(n, stride, head // 2 % num_groups * width, width)
        expected.append(column if head % 2 else local)
    torch.testing.assert_close(graph.to_mask(), torch.stack(expected))


def test_defaults_are_one_summary_token_and_merged_heads() -> None:
    assert fixed(13, 4) == fixed(13, 4, num_summary=1)
    assert fixed(13, 4).head_mask is strided(13, 4).head_mask is None


def test_two_layers_of_either_pattern_reach_every_earlier_token() -> None:
    causal = full(16).keep(is_causal)
    columns = sliding_window(16, 16, dilation=4)
    assert (sliding_window(16, 4) @ columns).keep(is_causal) == causal
    one = fixed(16, 4).keep(is_causal)
    assert one != causal and (one @ one) == causal


def test_extremes() -> None:
    assert strided(7, 1) == strided(7, 2**70) == fixed(7, 1) == fixed(7, 5, 5) == full(7)
    assert fixed(7, 20) == fixed(7, 2**40) == full(7)  # one block, its summary tokens past the end
    assert fixed(9, 3, 1).keep(is_causal).num_edges < full(9).keep(is_causal).num_edges
    assert block_diagonal(9, 3).num_edges < fixed(9, 3).num_edges


@pytest.mark.parametrize("builder", [strided, fixed])
def test_head_masks_of_a_batch_are_those_of_its_graphs(builder: object) -> None:
    sizes = torch.tensor([5, 0, 11, 1])
    batch = builder(sizes, 3, num_heads=3)
    singles = disjoint_union([builder(n, 3, num_heads=3) for n in sizes.tolist()])
    assert batch == singles
    torch.testing.assert_close(batch.head_mask, singles.head_mask)
    torch.testing.assert_close(batch.src_ptr, singles.src_ptr)


@pytest.mark.parametrize(
    ("call", "error", "advice"),
    [
        (lambda: strided(5, 0), ValueError, "stride must be at least 1, got 0. Use 1 for full attention."),
        (lambda: strided(5, 2.0), TypeError, "stride must be an int, got float 2.0."),
        (
            lambda: strided(5, 2, num_heads=0),
            ValueError,
            "num_heads must be at least 1, got 0. Pass None for one pattern",
        ),
        (lambda: fixed(5, 0), ValueError, "stride must be at least 1, got 0."),
        (lambda: fixed(5, 2, 0), ValueError, "num_summary must be at least 1, got 0. For blocks alone call block_diag"),
        (
            lambda: fixed(5, 2, 3),
            ValueError,
            "num_summary must not exceed stride, 2, got 3. A block has no more tokens.",
        ),
        (lambda: fixed(5, 2, num_heads=1.5), TypeError, "num_heads must be an int, got float 1.5."),
    ],
)
def test_parameters_outside_their_domain_are_refused(call: object, error: type[Exception], advice: str) -> None:
    with pytest.raises(error, match=re.escape(advice)):
        call()
