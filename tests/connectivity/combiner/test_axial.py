"""Rows and columns: how many edges, and images."""

import pytest
import torch

from graphattn.connectivity import combiner
from graphattn.connectivity.combiner import axial_horizontal, axial_rowmajor, axial_vertical, mixture


@pytest.mark.parametrize(("n", "m"), [(2, 2), (3, 5), (7, 4), (8, 8)])
def test_edge_counts_of_a_full_grid(n: int, m: int) -> None:
    pairs = n * (n - 1) // 2
    direct = n * m * (m + 1) // 2 + m * pairs
    summarise, attend = axial_vertical(n * m, m, causal=True)
    assert summarise.num_edges == m * pairs and attend.num_edges == direct + (n - 1) * m * (m - 1)
    summarise, attend = axial_horizontal(n * m, m, causal=True)
    assert summarise.num_edges == (n - 1) * m * (m - 1) and attend.num_edges == direct + m * pairs
    summarise, attend = axial_rowmajor(n * m, m, causal=True)
    assert summarise.num_edges == (n - 1) * m * m and attend.num_edges == n * m * (m + 1) // 2 + m * pairs

    direct, size = n * m * (n + m - 1), n * m
    summarise, attend = axial_vertical(size, m, causal=False)
    assert summarise.num_edges == size * (n - 1) and attend.num_edges == direct + size * (m - 1)
    summarise, attend = axial_horizontal(size, m, causal=False)
    assert summarise.num_edges == size * (m - 1) and attend.num_edges == direct + size * (n - 1)
    summarise, attend = axial_rowmajor(size, m, causal=False)
    assert summarise.num_edges == size * m and attend.num_edges == size * m + size * (n - 1)


@pytest.mark.parametrize("causal", [True, False])
def test_edges_grow_as_n_root_n(causal: bool) -> None:
    for root in (4, 16, 64, 128):
        for build in (axial_vertical, axial_horizontal, axial_rowmajor):
            pair = build(root**2, root, causal=causal)
            assert sum(graph.num_edges for graph in pair) <= 4.5 * root**3


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("build", [axial_vertical, axial_horizontal, axial_rowmajor])
def test_an_image_is_its_rows_one_after_the_other(build, causal: bool) -> None:
    assert build((4, 6), causal=causal).attend == build(24, 6, causal=causal).attend
    both = build(torch.tensor([[4, 6], [3, 2]]), causal=causal)
    alone = [build((4, 6), causal=causal), build((3, 2), causal=causal)]
    assert both.attend.num_edges == sum(pair.attend.num_edges for pair in alone)
    assert both.summarise.dst_ptr.tolist() == [0, alone[0].num_abstractions, both.num_abstractions]
    assert build((0, 6), causal=causal).attend.num_edges == 0


def test_the_halves_of_a_row_are_read_apart_where_they_are_split() -> None:
    n = m = 6
    summarise, attend = axial_horizontal(n * m, m, causal=True, split=True)
    whole = axial_horizontal(n * m, m, causal=True)
    assert summarise.num_edges == whole.summarise.num_edges
    # twice the abstractions, but for those left of the first and right of the last column
    assert summarise.num_dst_nodes == 2 * whole.num_abstractions - 2 * (n - 1)
    assert attend.num_edges == whole.attend.num_edges + m * n * (n - 1) // 2 - n * (n - 1)


def test_a_mixture_is_the_vertical_and_the_horizontal_pair() -> None:
    vertical, horizontal = mixture(17, 5, causal=False)
    assert vertical.attend == combiner.axial_vertical(17, 5, causal=False).attend
    assert horizontal.attend == combiner.axial_horizontal(17, 5, causal=False).attend
