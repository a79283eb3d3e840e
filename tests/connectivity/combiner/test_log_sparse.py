"""Doubling spans: how many edges, and that they grow as n log n."""

import pytest

from graphattn.connectivity.combiner import log_sparse


@pytest.mark.parametrize("n", [1, 2, 3, 7, 8, 9, 17, 33, 64, 65])
def test_edge_counts(n: int) -> None:
    summarise, attend = log_sparse(n, causal=True)
    levels = range(1, n.bit_length() + 1)
    of_level = {t: (((n - 1) >> t) + 1) // 2 for t in levels}
    assert summarise.num_dst_nodes == sum(of_level.values()) <= n / 2
    assert summarise.num_edges == sum(2**t * count for t, count in of_level.items())
    reads = sum(i >> t & 1 for i in range(n) for t in levels)
    assert attend.num_edges == n + n // 2 + reads


@pytest.mark.parametrize("causal", [True, False])
def test_edges_grow_as_n_log_n(causal: bool) -> None:
    for m in range(2, 15):
        n = 2**m
        summarise, attend = log_sparse(n, causal=causal)
        assert summarise.num_edges <= n * m and attend.num_edges <= n * (m + 1)
