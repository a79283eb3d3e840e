"""Neighbours in space against tables of all distances, with ties on purpose."""

import math
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from graphattn.connectivity import full, knn, radius, sliding_window
from graphattn.graph import AttentionGraph, disjoint_union


def squared_distances(points: Tensor, dst_points: Tensor) -> list[list[float]]:
    return [[sum((a - b) ** 2 for a, b in zip(x, y)) for y in points.tolist()] for x in dst_points.tolist()]


def nearest_mask(points: Tensor, k: int, dst_points: Tensor | None = None) -> Tensor:
    table = squared_distances(points, points if dst_points is None else dst_points)
    mask = torch.zeros(len(table), points.shape[0], dtype=torch.bool)
    for i, row in enumerate(table):
        keys = [(-1 if dst_points is None and i == j else distance, j) for j, distance in enumerate(row)]
        mask[i, [j for _, j in sorted(keys)[:k]]] = True
    return mask


@st.composite
def clouds(draw: st.DrawFn, num_dims: int = 2) -> Tensor:
    """Points of a small lattice: many ties, and points that coincide."""
    cells = draw(st.lists(st.tuples(*[st.integers(0, 3)] * num_dims), max_size=24))
    return torch.tensor(cells, dtype=torch.float32).view(-1, num_dims)


@given(clouds(), st.integers(1, 27))
def test_each_point_reads_the_nearest_ones_and_of_tied_ones_the_first(points: Tensor, k: int) -> None:
    graph = knn(points, k)
    torch.testing.assert_close(graph.to_mask(), nearest_mask(points, k))
    assert torch.equal(graph.edge_index.T, graph.to_mask().nonzero().flip(1))  # canonical
    assert graph.num_edges == len(points) * min(k, len(points))


@given(clouds(3), clouds(3), st.integers(1, 9))
def test_targets_read_the_sources_nearest_to_them(points: Tensor, dst_points: Tensor, k: int) -> None:
    graph = knn(points, k, dst_points=dst_points)
    torch.testing.assert_close(graph.to_mask(), nearest_mask(points, k, dst_points))
    assert graph.num_edges == len(dst_points) * min(k, len(points))


@given(clouds(), clouds(), st.integers(0, 25))
def test_points_within_the_radius_read_each_other_the_border_included(
    points: Tensor, dst_points: Tensor, squared: int
) -> None:
    distance = math.sqrt(squared)
    graph, cross = radius(points, distance), radius(points, distance, dst_points=dst_points)
    for made, targets in ((graph, points), (cross, dst_points)):
        table = [[math.sqrt(one) <= distance for one in row] for row in squared_distances(points, targets)]
        torch.testing.assert_close(
            made.to_mask(), torch.tensor(table, dtype=torch.bool).view(len(targets), len(points))
        )
        assert torch.equal(made.edge_index.T, made.to_mask().nonzero().flip(1))  # canonical


def test_points_without_ties_in_general_position() -> None:
    points = torch.randn(211, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(knn(points, 7).to_mask(), nearest_mask(points, 7))
    table = torch.tensor(squared_distances(points, points))
    torch.testing.assert_close(radius(points, 0.7).to_mask(), table <= 0.49)


BUILDERS = {
    "knn": lambda points, *sizes, **options: knn(points, 4, *sizes, **options),
    "radius": lambda points, *sizes, **options: radius(points, 1.5, *sizes, **options),
}


@pytest.mark.parametrize("name", BUILDERS)
def test_graphs_of_a_batch_do_not_see_each_other_though_they_coincide(name: str) -> None:
    build = BUILDERS[name]
    sizes, dst_sizes = torch.tensor([9, 0, 2, 13, 1]), torch.tensor([3, 2, 0, 5, 1])
    generator = torch.Generator().manual_seed(0)
    points = torch.randint(3, (25, 2), generator=generator)
    dst_points = torch.randint(3, (11, 2), generator=generator)
    batch = build(points, sizes)
    singles = disjoint_union([build(part) for part in points.split(sizes.tolist())])
    assert batch == singles
    torch.testing.assert_close(batch.src_ptr, singles.src_ptr)
    cross = build(points, sizes, dst_points=dst_points, dst_sizes=dst_sizes)
    parts = zip(points.split(sizes.tolist()), dst_points.split(dst_sizes.tolist()))
    singles = disjoint_union([build(source, dst_points=target) for source, target in parts])
    assert cross == singles
    torch.testing.assert_close(cross.dst_ptr, singles.dst_ptr)


def test_a_point_is_its_own_nearest_neighbour_even_where_others_coincide() -> None:
    same = torch.zeros(101, 3)
    assert knn(same, 1) == sliding_window(101, 0)
    graph = knn(same, 3)
    assert graph.edge_index[0, -3:].tolist() == [0, 1, 100]
    assert radius(same, 0) == knn(same, 2**70) == full(101)


def test_a_path_of_points_is_a_window() -> None:
    line = torch.arange(23).double()[:, None]
    assert radius(line, 2.5) == radius(line, 2) == sliding_window(23, 2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64])
def test_points_of_any_dtype_and_with_gradients(dtype: torch.dtype) -> None:
    points = torch.tensor([[0], [1], [3], [4], [8]]).to(dtype)
    if dtype.is_floating_point:
        points.requires_grad_()
    assert knn(points, 2).edge_index[0].tolist() == [0, 1, 0, 1, 2, 3, 2, 3, 3, 4]
    assert radius(points, 1).num_edges == 9


@pytest.mark.parametrize("name", BUILDERS)
def test_no_points_make_no_edges(name: str) -> None:
    build = BUILDERS[name]
    nothing = build(torch.zeros(0, 3))
    assert (nothing.num_src_nodes, nothing.num_edges) == (0, 0)
    assert build(torch.zeros(0, 3), torch.tensor([0, 0])).num_graphs == 2
    lonely = build(torch.zeros(0, 3), dst_points=torch.zeros(5, 3))
    assert (lonely.num_src_nodes, lonely.num_dst_nodes, lonely.num_edges) == (0, 5, 0)


def test_many_small_graphs_and_repr() -> None:
    points, sizes = torch.rand(10_007 * 7, 3, generator=torch.Generator().manual_seed(0)), torch.full((10_007,), 7)
    graph = knn(points, 3, sizes)
    assert graph.num_edges == 10_007 * 21
    assert AttentionGraph(graph.edge_index, graph.num_src_nodes, src_ptr=graph.src_ptr) == graph
    assert "knn(10007 graphs of 70049 points, k=3)" in repr(graph)
    assert "radius(5 points, 2 targets, distance=1.0)" in repr(radius(points[:5], 1.0, dst_points=points[:2]))


@pytest.mark.parametrize(
    ("call", "error", "advice"),
    [
        (lambda p: knn(p, 0), ValueError, "k must be at least 1, got 0. Use 1 for each point alone."),
        (lambda p: knn(p, 2.0), TypeError, "k must be an int, got float 2.0."),
        (
            lambda p: knn(p.tolist(), 1),
            TypeError,
            "points must be a tensor of real numbers, got list. Pass torch.tensor(",
        ),
        (lambda p: knn(p > 0, 1), TypeError, "points must be a tensor of real numbers, got torch.bool."),
        (
            lambda p: knn(p[:, 0], 1),
            ValueError,
            "points must have shape [num_nodes, num_dims], got [3]. Call points[:, N",
        ),
        (
            lambda p: knn(p / 0, 1),
            ValueError,
            "points must be finite, got [nan, nan] for point 0. Leave such points out.",
        ),
        (lambda p: knn(p, 1, dst_points=p[:, :1]), ValueError, "must have the same num_dims, got 2 and 1."),
        (lambda p: knn(p, 1, torch.tensor([2])), ValueError, "sizes must add up to the number of points, 3, got 2."),
        (lambda p: knn(p, 1, dst_sizes=torch.tensor([3])), ValueError, "dst_sizes must come with sizes and dst_points"),
        (
            lambda p: knn(p, 1, torch.tensor([3]), dst_points=p),
            ValueError,
            "dst_sizes must come with sizes and dst_poin",
        ),
        (
            lambda p: knn(p, 1, torch.tensor([3]), dst_points=p, dst_sizes=torch.tensor([1, 2])),
            ValueError,
            "sizes and dst_sizes must count the same graphs, got 1 and 2. Give an empty graph the size 0.",
        ),
        (lambda p: radius(p, -1.0), ValueError, "distance must be at least 0 and finite, got -1.0. For all pairs of a"),
        (lambda p: radius(p, math.nan), ValueError, "distance must be at least 0 and finite, got nan."),
        (lambda p: radius(p, math.inf), ValueError, "got inf. For all pairs of a graph call full(sizes)."),
        (lambda p: radius(p, "1"), TypeError, "distance must be a number, got str. Pass float(distance)."),
    ],
)
def test_what_does_not_fit_is_refused_with_advice(call: object, error: type[Exception], advice: str) -> None:
    with pytest.raises(error, match=re.escape(advice)):
        call(torch.zeros(3, 2))
