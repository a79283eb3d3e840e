"""Segments: how many edges, and what they come to at the ends of s."""

import pytest

from graphattn.connectivity import full
from graphattn.connectivity.combiner import fixed
from graphattn.graph.rules import is_causal


@pytest.mark.parametrize("n", [1, 2, 7, 17, 33, 64])
@pytest.mark.parametrize("s", [1, 2, 5, 8, 64, 100])
def test_edge_counts(n: int, s: int) -> None:
    number = -(-n // s)
    lengths = [min(s, n - s * r) for r in range(number)]
    summarise, attend = fixed(n, s, causal=True)
    assert (summarise.num_edges, summarise.num_dst_nodes) == (n, number)
    rest, rows = n - (number - 1) * s, number - 1
    direct = rows * s * (s + 1) // 2 + rest * (rest + 1) // 2
    assert attend.num_edges == direct + s * rows * (rows - 1) // 2 + rest * rows
    if n % s == 0:  # L(s + 1) / 2 direct edges and s n(n − 1) / 2 reads
        assert attend.num_edges == n * (s + 1) // 2 + s * number * (number - 1) // 2
    summarise, attend = fixed(n, s, causal=False)
    assert (summarise.num_edges, summarise.num_dst_nodes) == (n, number)
    assert attend.num_edges == sum(length**2 for length in lengths) + n * (number - 1)


def test_one_segment_is_full_attention() -> None:
    for segment in (9, 1000):
        assert fixed(9, segment, causal=False).attend.edge_index.tolist() == full(9).edge_index.tolist()
        causal = full(9).keep(is_causal)
        assert fixed(9, segment, causal=True).attend.edge_index.tolist() == causal.edge_index.tolist()
