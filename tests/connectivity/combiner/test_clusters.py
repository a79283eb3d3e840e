"""Clusters: how many edges, and clusters of one, of none and of all."""

import torch

from graphattn.connectivity import full
from graphattn.connectivity.combiner import clusters, fixed


def test_edge_counts() -> None:
    labels = torch.tensor([4, 9, 4, 4, -7, 9, 1])
    summarise, attend = clusters(7, labels)
    assert (summarise.num_edges, summarise.num_dst_nodes) == (6, 3)
    assert attend.num_edges == (9 + 4 + 1) + 6 * 2
    summarise, attend = clusters(7, labels, causal=True)
    assert attend.num_edges == (6 + 3 + 1) + (0 + 1 + 1 + 1 + 1 + 2)
    assert summarise.num_edges <= 6 + 3 + 1


def test_one_cluster_is_full_attention_and_segments_are_clusters() -> None:
    assert clusters(7, [3] * 7).attend.edge_index.tolist() == full(7).edge_index.tolist()
    sizes = torch.tensor([7, 0, 5])
    by_label = clusters(sizes, [0, 0, 0, 1, 1, 1, 2, 0, 0, 0, 1, 1])
    assert by_label.attend == fixed(sizes, 3, causal=False).attend
    assert by_label.summarise == fixed(sizes, 3, causal=False).summarise


def test_labels_count_inside_their_graph() -> None:
    pair = clusters(torch.tensor([2, 2]), [0, 1, 1, 0])
    assert pair.num_abstractions == 4
    assert pair.attend.edge_index.tolist() == [[0, 5, 1, 4, 2, 6, 3, 7], [0, 0, 1, 1, 2, 2, 3, 3]]


def test_a_virtual_node_with_a_label_of_its_own_is_read_as_itself() -> None:
    pair = clusters(4, [0, 0, 1, 5])
    sources = pair.attend.edge_index[0][pair.attend.edge_index[1] == 0].tolist()
    assert sources == [0, 1, 5, 6]
    assert pair.summarise.edge_index[0][pair.summarise.edge_index[1] == 2].tolist() == [3]


def test_without_a_cluster_nothing_is_read() -> None:
    for causal in (True, False):
        pair = clusters(3, [-1, -1, -1], causal=causal)
        assert pair.num_abstractions == pair.attend.num_edges == 0
