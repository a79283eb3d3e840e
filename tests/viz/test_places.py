"""Where nodes stand: apart, near their neighbours, the same each time."""

import numpy as np
import pytest
import torch

from graphattn.connectivity import full, sliding_window
from graphattn.graph import AttentionGraph, disjoint_union
from graphattn.viz.places import circle, places


def distances(place: np.ndarray) -> np.ndarray:
    apart = np.linalg.norm(place[:, None] - place[None], axis=2)
    return apart + np.diag(np.full(len(place), np.inf))


def test_neighbours_on_a_circle_are_one_apart_and_go_clockwise_from_the_top() -> None:
    place = circle(11)
    np.testing.assert_allclose(np.linalg.norm(place - np.roll(place, 1, 0), axis=1), 1)
    assert place[0, 0] == pytest.approx(0) and place[0, 1] > 0 and place[1, 0] > 0
    assert circle(1).tolist() == [[0, 0]] and circle(0).shape == (0, 2)


def test_a_ring_is_drawn_round_and_a_dense_graph_on_a_circle() -> None:
    ring, _ = AttentionGraph.from_edge_index(torch.stack([torch.arange(7), (torch.arange(7) + 1) % 7]), 7)
    place = places(ring)
    radius = np.linalg.norm(place - place.mean(0), axis=1)
    assert np.ptp(radius) < 0.05 * radius.mean()
    np.testing.assert_allclose(places(full(13)), circle(13))


def test_a_path_lies_flat_and_no_two_leaves_of_a_star_on_each_other() -> None:
    place = places(sliding_window(6, 1))
    assert np.all(np.diff(place[:, 0]) > 0.8) or np.all(np.diff(place[:, 0]) < -0.8)
    star, _ = AttentionGraph.from_edge_index(torch.stack([torch.zeros(7).long(), torch.arange(1, 8)]), 8)
    assert distances(places(star)).min() > 0.5


def test_parts_stand_side_by_side_and_nodes_nowhere_twice() -> None:
    path = sliding_window(5, 1)
    graph = disjoint_union([path, path, sliding_window(1, 0)])
    place = places(graph)
    assert place[:5, 0].max() < place[5:10, 0].min() < place[10, 0]
    assert distances(place).min() > 0.5
    src, dst = graph.edge_index[:, graph.edge_index[0] != graph.edge_index[1]].numpy()
    assert np.linalg.norm(place[src] - place[dst], axis=1).max() < 2
    np.testing.assert_array_equal(place, places(graph))
