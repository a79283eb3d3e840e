"""What a Combiner reads off the graph of its layer."""

import re

import pytest
import torch

from graphattn.connectivity import clusters, full, sliding_window
from graphattn.graph import AttentionGraph
from graphattn.graph.rules import is_causal
from graphattn.nn.combiner.support import labels_of_kind, read_support

SIZES = torch.tensor([5, 0, 1, 3])


@pytest.mark.parametrize("sizes", [7, SIZES], ids=["one", "batch"])
@pytest.mark.parametrize("listed", [False, True])
def test_full_attention_says_sizes_and_direction(sizes, listed: bool) -> None:
    for graph, causal in ((full(sizes), False), (full(sizes).keep(is_causal), True)):
        support = read_support(graph.enumerate() if listed else graph)
        assert support.sizes.tolist() == ([7] if isinstance(sizes, int) else SIZES.tolist())
        assert support.causal == causal and support.member is None


def test_what_nobody_reads_is_no_member() -> None:
    kept = torch.tensor([True, False, True, True, False, True, True, True, False])
    for graph in (full(SIZES).keep_sources(kept), full(SIZES).keep(is_causal).keep_sources(kept)):
        assert torch.equal(read_support(graph).member, kept)


def test_labels_come_with_the_graph() -> None:
    labels = torch.tensor([3, 1, 3, -1, 1, 0, 2, 2, 8])
    graph = clusters(SIZES, labels)
    expected = [0, 1, 0, -1, 1, 5, 6, 6, 8]
    assert labels_of_kind(graph, "cluster", False).tolist() == expected
    assert labels_of_kind(graph.enumerate(), "cluster", False).tolist() == expected
    assert labels_of_kind(graph.keep(is_causal), "cluster", True).tolist() == expected
    inside = graph.keep_sources(labels >= 0)
    assert labels_of_kind(inside, "cluster", False).tolist() == expected
    whole = clusters(SIZES, labels.clamp(min=0))
    both = full(SIZES) | whole
    assert labels_of_kind(both, "cluster", False).tolist() == labels_of_kind(whole, "cluster", False).tolist()


def edges(*pairs: tuple[int, int], n: int = 3) -> AttentionGraph:
    made, _ = AttentionGraph.from_edge_index(torch.tensor(pairs).T, n, kinds=("cluster",))
    return made


@pytest.mark.parametrize(
    ("graph", "advice"),
    [
        (sliding_window(3, 1), "must have edges of kind 'cluster'"),
        (full(3, dst_sizes=2), "needs sources that are the targets"),
        (edges((0, 0), (1, 1), (0, 1), (1, 0), (1, 2), (2, 2)), "must join the tokens of a cluster"),
        (edges((0, 0), (0, 1), (1, 1)), "must join the tokens of a cluster"),
        (edges((0, 0), (1, 1), (0, 1), (1, 0), (2, 2), n=4) | sliding_window(4, 1), "must be all of full attention"),
    ],
)
def test_edges_that_join_no_clusters_are_refused(graph: AttentionGraph, advice: str) -> None:
    with pytest.raises(ValueError, match=re.escape(advice)):
        labels_of_kind(graph, "cluster", False)


def test_a_causal_graph_needs_a_causal_spec() -> None:
    graph = clusters(4, [0, 1, 0, 1])
    with pytest.raises(ValueError, match=re.escape("Clusters(causal=True)")):
        labels_of_kind(graph.keep(is_causal), "cluster", False)
    with pytest.raises(ValueError, match=re.escape("Clusters(causal=False)")):
        labels_of_kind(graph, "cluster", True)
