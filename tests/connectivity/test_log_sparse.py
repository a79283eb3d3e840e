import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graphattn.connectivity import full, log_sparse
from graphattn.graph.rules import is_causal


@given(st.integers(0, 40), st.integers(0, 9), st.none() | st.integers(1, 45))
def test_distances_double_beyond_the_radius_and_begin_anew(n: int, radius: int, restart: int | None) -> None:
    graph = log_sparse(n, radius, restart=restart)
    token = torch.arange(n)
    distance = (token[:, None] - token).abs()
    expected = (distance <= radius) | torch.isin(distance, torch.tensor([2**p for p in range(7)]))
    if restart is not None:
        expected &= (token // restart)[:, None] == token // restart
    torch.testing.assert_close(graph.to_mask(), expected)
    sizes = [n] if restart is None else [min(restart, n - start) for start in range(0, n, restart)]
    count = sum(
        size + 2 * sum(size - k for k in {*range(1, min(radius + 1, size)), *(2**p for p in range(7) if 2**p < size)})
        for size in sizes
    )
    assert graph.num_edges == count


def test_a_token_reads_as_many_earlier_ones_as_its_number_has_bits() -> None:
    degree = log_sparse(100).keep(is_causal).edge_index[1].bincount()
    assert degree.tolist() == [i.bit_length() + 1 for i in range(100)]


def test_as_many_layers_as_bits_reach_every_earlier_token() -> None:
    graph = reach = log_sparse(16).keep(is_causal)
    for _ in range(3):
        assert reach != full(16).keep(is_causal)
        reach = reach @ graph
    assert reach == full(16).keep(is_causal)


def test_extremes() -> None:
    assert log_sparse(9, 2**70) == log_sparse(9, 8) == full(9)
    assert log_sparse(9, restart=2**70) == log_sparse(9, 0)


@pytest.mark.parametrize(
    ("arguments", "error", "advice"),
    [
        ({"radius": -1}, ValueError, "radius must be at least 0, got -1. Use 0 to keep distances that double"),
        ({"radius": 1.0}, TypeError, "radius must be an int, got float 1.0."),
        ({"restart": 0}, ValueError, "restart must be at least 1, got 0. Pass None for a pattern that goes on"),
    ],
)
def test_parameters_outside_their_domain_are_refused(arguments: dict, error: type[Exception], advice: str) -> None:
    with pytest.raises(error, match=re.escape(advice)):
        log_sparse(9, **arguments)
