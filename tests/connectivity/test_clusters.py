import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graphattn.connectivity import clusters, full, routing
from graphattn.graph import disjoint_union
from graphattn.graph.rules import is_causal

labels = st.lists(st.integers(-1, 3), max_size=17)


@given(labels, st.booleans())
def test_nodes_read_those_of_their_label(label: list[int], as_tensor: bool) -> None:
    value = torch.tensor(label, dtype=torch.int64)
    graph = clusters(len(label), value if as_tensor else label)
    expected = (value[:, None] == value) & (value >= 0)
    torch.testing.assert_close(graph.to_mask(), expected)
    assert graph.num_edges == sum(label.count(one) ** 2 for one in set(label) if one >= 0)
    assert graph.explicit_edges.shape == (2, 0)


@given(labels, labels)
def test_queries_read_the_keys_of_their_cluster(src: list[int], dst: list[int]) -> None:
    graph = routing(len(src), src, dst, dst_sizes=len(dst))
    src_cluster, dst_cluster = torch.tensor(src, dtype=torch.int64), torch.tensor(dst, dtype=torch.int64)
    expected = (dst_cluster[:, None] == src_cluster) & (src_cluster >= 0)
    torch.testing.assert_close(graph.to_mask(), expected)
    assert graph.num_edges == sum(src.count(one) * dst.count(one) for one in set(src) if one >= 0)
    if len(src) == len(dst):
        causal = routing(len(src), src, dst).keep(is_causal)
        torch.testing.assert_close(causal.to_mask(), expected.tril())
        assert causal.explicit_edges.shape == (2, 0)


def test_the_same_label_in_two_graphs_is_two_clusters() -> None:
    sizes, label = torch.tensor([4, 0, 3, 2]), torch.tensor([1, 2, 1, -1, 1, 1, 0, 2**40, 2**40])
    singles = disjoint_union([clusters(n, one) for n, one in zip(sizes.tolist(), label.split(sizes.tolist()))])
    assert clusters(sizes, label) == routing(sizes, label, label) == singles
    dst_sizes, queries = torch.tensor([1, 2, 2, 0]), torch.tensor([1, 0, 0, 1, 0])
    batch = routing(sizes, label, queries, dst_sizes=dst_sizes)
    parts = zip(sizes.tolist(), label.split(sizes.tolist()), queries.split(dst_sizes.tolist()), dst_sizes.tolist())
    assert batch == disjoint_union([routing(n, one, query, dst_sizes=m) for n, one, query, m in parts])
    assert batch.dst_ptr.tolist() == [0, 1, 3, 5, 5]


def test_one_label_for_all_is_full_attention() -> None:
    assert clusters(7, [3] * 7) == full(7)


def test_repr_counts_labels() -> None:
    assert "clusters(4, 2 labels)" in repr(clusters(4, [0, 7, 7, -1]))
    assert "routing(4, dst_sizes=2, 3 clusters)" in repr(routing(4, [0, 7, 7, -1], [1, 0], dst_sizes=2))


@pytest.mark.parametrize(
    ("call", "error", "advice"),
    [
        (
            lambda: clusters(3, [0, 1]),
            ValueError,
            "labels must have one entry per node, 3, got 2. In a batch, list the",
        ),
        (lambda: clusters(2, [0, 1.0]), TypeError, "labels must hold ints, got float 1.0."),
        (
            lambda: clusters(2, "ab"),
            TypeError,
            "labels must be a sequence of ints or an int64 tensor [num_nodes], got str",
        ),
        (lambda: routing(2, [0, 1], [0]), ValueError, "dst_clusters must have one entry per node, 2, got 1."),
        (lambda: routing(2, [0], [0, 1]), ValueError, "src_clusters must have one entry per node, 2, got 1."),
        (lambda: routing(2, [0, 0], [0], dst_sizes=-1), ValueError, "dst_sizes must not be negative, got -1"),
    ],
)
def test_labels_that_do_not_fit_are_refused(call: object, error: type[Exception], advice: str) -> None:
    with pytest.raises(error, match=re.escape(advice)):
        call()
