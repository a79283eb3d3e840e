"""Dense masks go there and back without loss, with the polarity of their names; too large ones are refused."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from graphattn.graph import AttentionGraph, bicliques
from tests.strategies import dense, graphs

FLOATS = st.sampled_from([torch.float32, torch.float64, torch.float16, torch.bfloat16])


@given(graphs())
def test_mask_says_true_where_a_target_attends(graph: AttentionGraph) -> None:
    mask = graph.to_mask()
    assert_close(mask, dense(graph))
    assert AttentionGraph.from_mask(mask) == graph


@given(graphs())
def test_mha_mask_says_true_where_attention_is_blocked(graph: AttentionGraph) -> None:
    assert_close(graph.to_mha_mask(), ~dense(graph))
    assert AttentionGraph.from_mha_mask(graph.to_mha_mask()) == graph


@given(graphs(), FLOATS)
def test_additive_mask_is_zero_where_a_target_attends_and_minus_infinity_elsewhere(
    graph: AttentionGraph, dtype: torch.dtype
) -> None:
    mask = graph.to_additive_mask(dtype)
    zero = torch.zeros((), dtype=dtype)
    assert_close(mask, torch.where(dense(graph), zero, torch.full_like(zero, float("-inf"))))
    assert AttentionGraph.from_additive_mask(mask) == graph
    assert AttentionGraph.from_additive_mask(mask.clamp(min=torch.finfo(dtype).min)) == graph


def test_mha_mask_blocks_the_same_pairs_in_torch() -> None:
    graph = AttentionGraph(torch.tensor([[1, 0, 2], [0, 1, 2]]), 3)
    layer = torch.nn.MultiheadAttention(2, 1, batch_first=True)
    x = torch.randn(1, 3, 2, generator=torch.Generator().manual_seed(0))
    for mask in (graph.to_mha_mask(), graph.to_additive_mask()):
        _, weights = layer(x, x, x, attn_mask=mask)
        assert_close(weights[0], graph.to_mask().float())  # one source each, so each weight is one


NUMBERS = torch.tensor([[0.0, -1e4], [-1.5, float("-inf")]])
MISTAKES: dict[str, tuple[Callable[[], object], type[Exception], str]] = {
    "numbers as bool": (lambda: AttentionGraph.from_mask(NUMBERS), TypeError, "torch.bool, got torch.float32. Say whi"),
    "numbers as blocked": (lambda: AttentionGraph.from_mha_mask(NUMBERS), TypeError, "got torch.float32. Say which"),
    "bool as numbers": (
        lambda: AttentionGraph.from_additive_mask(NUMBERS > 0),
        TypeError,
        "must have a floating dtype, got torch.bool. Use from_mask or",
    ),
    "a bias": (
        lambda: AttentionGraph.from_additive_mask(NUMBERS),
        ValueError,
        r"must hold 0 \(attend\) or a number of at most -10000 \(blocked\), got -1.5. Pass from_mask\(mask > -inf\)",
    ),
    "NaN": (lambda: AttentionGraph.from_additive_mask(NUMBERS * float("nan")), ValueError, "got nan. Pass from_mask"),
    "a batch": (
        lambda: AttentionGraph.from_mask(torch.zeros(2, 1, 3, 3, dtype=torch.bool)),
        ValueError,
        r"mask must have shape .*, got \[2, 1, 3, 3\]. Convert the masks of a batch with from_hf_mask",
    ),
    "a batch of blocked": (
        lambda: AttentionGraph.from_mha_mask(torch.zeros(2, 1, 3, 3, dtype=torch.bool)),
        ValueError,
        r"mask must have shape .*, got \[2, 1, 3, 3\]",
    ),
    "a list": (lambda: AttentionGraph.from_mask([[True]]), TypeError, "torch.Tensor, got list. Pass torch.as_tensor"),
    "whole numbers": (
        lambda: AttentionGraph.from_mask(torch.eye(2, dtype=torch.bool)).to_additive_mask(torch.int64),
        ValueError,
        "dtype must be floating, got torch.int64. Use to_mask",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mask_of_another_form_is_refused(name: str) -> None:
    action, error, advice = MISTAKES[name]
    with pytest.raises(error, match=advice):
        action()


@pytest.mark.parametrize(("method", "size"), [("to_mask", "4.0"), ("to_mha_mask", "4.0"), ("to_additive_mask", "16.0")])
def test_a_mask_too_large_is_refused_with_its_size(method: str, size: str) -> None:
    num_nodes = 2**16
    ptr, node = torch.tensor([0, num_nodes]), torch.arange(num_nodes)
    graph = AttentionGraph.trusted(None, num_nodes, blocks=bicliques(ptr, node, ptr, node))
    with pytest.raises(
        ValueError, match=rf"of 65536 × 65536 would take {size} GiB, above the limit of 1 GiB. .* to_block_mask"
    ):
        getattr(graph, method)()


def test_heads_count_in_the_size_of_a_mask() -> None:
    heads = torch.ones(1, 5, dtype=torch.bool)
    graph = AttentionGraph(torch.tensor([[0], [0]]), 2**14, head_mask=heads)
    with pytest.raises(ValueError, match=r"5 × 16384 × 16384 would take 1.2 GiB"):
        graph.to_mask()
