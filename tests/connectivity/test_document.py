import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graphattn.connectivity import document, full
from graphattn.graph import disjoint_union
from graphattn.graph.rules import is_causal, same_document

lengths = st.lists(st.integers(0, 6), max_size=6)


@given(lengths, st.booleans())
def test_documents_are_blocks_on_the_diagonal(sizes: list[int], as_tensor: bool) -> None:
    graph = document(torch.tensor(sizes, dtype=torch.int64) if as_tensor else sizes)
    doc = torch.repeat_interleave(torch.tensor(sizes, dtype=torch.int64))
    torch.testing.assert_close(graph.to_mask(), doc[:, None] == doc)
    assert graph.num_edges == sum(size * size for size in sizes)
    assert graph == full(sum(sizes)).keep(same_document(doc))
    assert (graph.num_graphs, graph.explicit_edges.shape) == (1, (2, 0))


@given(st.lists(st.integers(-2, 3), max_size=17))
def test_ids_may_stand_in_any_order_and_negative_ones_are_padding(ids: list[int]) -> None:
    doc = torch.tensor(ids, dtype=torch.int64)
    expected = (doc[:, None] == doc) & (doc >= 0)
    torch.testing.assert_close(document(ids=ids).to_mask(), expected)
    torch.testing.assert_close(document(ids=doc).keep(is_causal).to_mask(), expected.tril())


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=6))
def test_cross_attention_joins_the_same_document_of_both_sides(sizes: list[tuple[int, int]]) -> None:
    src, dst = [n for n, _ in sizes], [m for _, m in sizes]
    graph = document(src, dst_lengths=dst)
    src_doc, dst_doc = (torch.repeat_interleave(torch.tensor(side, dtype=torch.int64)) for side in (src, dst))
    torch.testing.assert_close(graph.to_mask(), dst_doc[:, None] == src_doc)
    assert graph.num_edges == sum(n * m for n, m in sizes)
    assert graph == document(ids=src_doc, dst_ids=dst_doc)


def test_rows_of_a_batch_keep_their_documents_apart() -> None:
    ids, sizes = torch.tensor([0, 0, 1, 0, 0, -1, 5]), torch.tensor([3, 0, 3, 1])
    rows = [document(ids=row) for row in ids.split(sizes.tolist())]
    batch = document(ids=ids, sizes=sizes)
    assert batch == disjoint_union(rows)
    assert batch.src_ptr.tolist() == batch.dst_ptr.tolist() == [0, 3, 3, 6, 7]
    assert document([2, 1, 3, 0, 1], sizes=sizes) == disjoint_union([document(row) for row in ([2, 1], [], [3], [1])])


def test_repr_counts_documents_or_tokens() -> None:
    assert "document(3 documents)" in repr(document([3, 1, 2]))
    assert "document(3 documents, dst_lengths=3 documents)" in repr(document([3, 1, 2], dst_lengths=[1, 1, 1]))
    assert "document(ids of 4 tokens, 2 rows)" in repr(document(ids=[0, 0, 1, 1], sizes=torch.tensor([2, 2])))


@pytest.mark.parametrize(
    ("arguments", "error", "advice"),
    [
        ({}, ValueError, "document needs either lengths or ids, got neither. Pass lengths=[3, 1, 2]"),
        ({"lengths": [1], "ids": [0]}, ValueError, "either lengths or ids, got both"),
        ({"lengths": [2, -1]}, ValueError, "lengths must not be negative, got -1."),
        ({"lengths": 3}, TypeError, "lengths must be a sequence of ints or an int64 tensor [num_documents], got int."),
        ({"lengths": [2.0]}, TypeError, "lengths must hold ints, got float 2.0."),
        ({"lengths": torch.tensor([2.0])}, TypeError, "lengths must have dtype torch.int64, got torch.float32."),
        ({"ids": torch.zeros(2, 3, dtype=torch.int64)}, ValueError, "ids must have shape [num_nodes], got [2, 3]."),
        ({"lengths": [1, 2], "dst_lengths": [1]}, ValueError, "count the same documents, got 2 and 1. Give a document"),
        ({"ids": [1], "dst_lengths": [1]}, ValueError, "dst_lengths must come with lengths, got it alone."),
        ({"lengths": [1], "dst_ids": [0]}, ValueError, "dst_ids must come with ids, got it alone."),
        (
            {"ids": [1], "dst_ids": [0], "sizes": torch.tensor([1])},
            ValueError,
            "dst_ids must come without sizes, got both. Use ids that no two rows share.",
        ),
        ({"ids": [1], "sizes": torch.tensor([2])}, ValueError, "sizes must add up to the number of tokens, 1, got 2."),
        (
            {"lengths": [2, 3], "sizes": torch.tensor([4, 1])},
            ValueError,
            "a document must end where its row ends, got document 1 in two rows. Cut it into one length per row.",
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_advice(arguments: dict, error: type[Exception], advice: str) -> None:
    with pytest.raises(error, match=re.escape(advice)):
        document(**arguments)
