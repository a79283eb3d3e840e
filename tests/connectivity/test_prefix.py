import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graphattn.connectivity import full, prefix_lm
from graphattn.graph import disjoint_union
from graphattn.graph.rules import is_causal


@given(st.integers(0, 17), st.data())
def test_tokens_read_the_prefix_and_what_came_before(num_nodes: int, data: st.DataObject) -> None:
    prefix, num_dst = data.draw(st.integers(0, num_nodes)), data.draw(st.integers(0, num_nodes))
    token = torch.arange(num_nodes)
    expected = (token < prefix) | (token <= token[:, None])
    graph = prefix_lm(num_nodes, prefix)
    torch.testing.assert_close(graph.to_mask(), expected)
    assert graph.num_edges == num_nodes * (num_nodes + 1) // 2 + prefix * (prefix - 1) // 2
    last = prefix_lm(num_nodes, prefix, dst_sizes=num_dst)
    torch.testing.assert_close(last.to_mask(), expected[num_nodes - num_dst :])
    assert graph.explicit_edges.shape == last.explicit_edges.shape == (2, 0)


def test_no_prefix_is_a_causal_mask_and_nothing_else_full_attention() -> None:
    assert prefix_lm(11, 0) == prefix_lm(11, 1) == full(11).keep(is_causal)
    assert prefix_lm(11, 11) == full(11)


@pytest.mark.parametrize("prefix", [[2, 0, 0, 5], torch.tensor([2, 0, 0, 5])])
def test_graphs_of_a_batch_have_prefixes_of_their_own(prefix: object) -> None:
    sizes, dst_sizes = torch.tensor([4, 0, 3, 5]), torch.tensor([2, 0, 3, 0])
    batch = prefix_lm(sizes, prefix)
    assert batch == disjoint_union([prefix_lm(n, p) for n, p in zip((4, 0, 3, 5), (2, 0, 0, 5))])
    assert batch.src_ptr.tolist() == [0, 4, 4, 7, 12]
    cross = prefix_lm(sizes, prefix, dst_sizes=dst_sizes)
    parts = zip((4, 0, 3, 5), (2, 0, 0, 5), (2, 0, 3, 0))
    assert cross == disjoint_union([prefix_lm(n, p, dst_sizes=m) for n, p, m in parts])
    assert cross.dst_ptr.tolist() == [0, 2, 2, 5, 5]


def test_a_staircase_is_a_block_like_any_other() -> None:
    graph, token = prefix_lm(7, 3), torch.arange(7)
    order = torch.tensor([3, 0, 6, 1, 2, 5, 4])
    torch.testing.assert_close(graph.T.to_mask(), graph.to_mask().T)
    torch.testing.assert_close(graph.permute(order).to_mask(), graph.to_mask()[order][:, order])
    torch.testing.assert_close(graph.keep(is_causal).to_mask(), token <= token[:, None])


@pytest.mark.parametrize(
    ("call", "error", "advice"),
    [
        (lambda: prefix_lm(5, -1), ValueError, "prefix must be at least 0, got -1. Use 0 for a causal mask."),
        (
            lambda: prefix_lm(5, 6),
            ValueError,
            "prefix must not be longer than its sequence, got 6 for 5 tokens. Pass one",
        ),
        (lambda: prefix_lm(5, True), TypeError, "prefix must be an int, got bool True."),
        (
            lambda: prefix_lm(5, 2.0),
            TypeError,
            "prefix must be a sequence of ints or an int64 tensor [num_graphs], got",
        ),
        (lambda: prefix_lm(torch.tensor([5, 3]), [1]), ValueError, "one entry per graph, got 1 for 2 graphs."),
        (lambda: prefix_lm(torch.tensor([5, 3]), [1, 4]), ValueError, "got 4 for 3 tokens in graph 1."),
        (lambda: prefix_lm(torch.tensor([5, 3]), [-1, 4]), ValueError, "got -1 for 5 tokens in graph 0."),
        (
            lambda: prefix_lm(3, 1, dst_sizes=4),
            ValueError,
            "dst_sizes must not exceed sizes, got 4 targets for 3 sources",
        ),
    ],
)
def test_prefixes_outside_their_domain_are_refused(call: object, error: type[Exception], advice: str) -> None:
    with pytest.raises(error, match=re.escape(advice)):
        call()
