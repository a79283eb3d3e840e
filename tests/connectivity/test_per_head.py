import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graphattn import attention_weights
from graphattn.connectivity import axial, document, full, global_tokens, per_head, sliding_window
from graphattn.graph import AttentionGraph


@given(st.lists(st.lists(st.booleans(), min_size=15, max_size=15), min_size=1, max_size=5))
def test_each_head_sees_its_own_graph(entries: list[list[bool]]) -> None:
    masks = torch.tensor(entries).view(-1, 3, 5)
    graph = per_head([AttentionGraph.from_mask(mask) for mask in masks])
    torch.testing.assert_close(graph.to_mask(), masks)
    assert graph == AttentionGraph.from_mask(masks)
    assert graph.num_edges == int(masks.any(0).sum())
    assert int(graph.head_mask.sum()) == int(masks.sum())


def test_blocks_are_listed_kinds_joined_and_one_graph_may_serve_several_heads() -> None:
    window, docs = sliding_window(5, 1), document([2, 3])
    graph = per_head([window, docs, window])
    torch.testing.assert_close(graph.to_mask(), torch.stack([window.to_mask(), docs.to_mask(), window.to_mask()]))
    assert graph.kinds == ("window", "document")
    src, dst = graph.edge_index
    expected = window.to_mask()[dst, src].to(torch.int16) + 2 * docs.to_mask()[dst, src].to(torch.int16)
    torch.testing.assert_close(graph.edge_kind, expected)
    assert "per_head([sliding_window(5, radius=1), document(2 documents), sliding" in repr(graph)


def test_a_batch_stays_a_batch_on_both_sides() -> None:
    sizes, dst_sizes = torch.tensor([3, 2]), torch.tensor([1, 4])
    graph = per_head([full(sizes, dst_sizes), global_tokens(sizes, [0], dst_sizes=dst_sizes)])
    assert (graph.src_ptr.tolist(), graph.dst_ptr.tolist()) == ([0, 3, 5], [0, 1, 5])


def test_attention_reads_each_head_its_own_pattern() -> None:
    graphs = [axial((3, 5), [0]), axial((3, 5), [1])]
    query = torch.randn(15, 2, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    together = per_head(graphs)
    alpha = attention_weights(query, query, together)
    for head, graph in enumerate(graphs):
        alone = attention_weights(query[:, [head]], query[:, [head]], graph)
        torch.testing.assert_close(alpha[:, [head]], together.align(alone, of=graph))


@pytest.mark.parametrize(
    ("graphs", "error", "advice"),
    [
        ([], ValueError, "graphs must hold one graph per head, got none."),
        (sliding_window(3, 1), TypeError, "graphs must be a sequence of graphs, got AttentionGraph. Pass one per head"),
        ([sliding_window(3, 1), torch.eye(3)], TypeError, "graphs must hold AttentionGraphs, got Tensor for head 1."),
        ([per_head([full(3)])], ValueError, "graphs must have no head_mask, got one for head 0."),
        ([full(3), full(4)], ValueError, "nodes"),
    ],
)
def test_what_does_not_fit_is_refused_with_advice(graphs: object, error: type[Exception], advice: str) -> None:
    with pytest.raises(error, match=re.escape(advice)):
        per_head(graphs)
