import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from graphattn.connectivity import expander, full, sliding_window


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(
    sizes=st.lists(st.sampled_from([0, 1, 2, 3, 5, 17, 41]), min_size=1, max_size=7),
    degree=st.sampled_from([2, 4, 6, 12]),
    seed=st.integers(0, 2**31),
)
def test_graphs_are_symmetric_without_self_edges_and_of_bounded_degree(
    sizes: list[int], degree: int, seed: int
) -> None:
    graph = expander(torch.tensor(sizes), degree, generator=seeded(seed))
    src, dst = graph.edge_index
    assert graph == graph.T
    assert bool((src != dst).all())
    assert bool((torch.diff(dst * sum(sizes) + src) > 0).all())  # canonical, each edge once
    bound = torch.repeat_interleave(torch.tensor(sizes).sub(1).clamp(min=0, max=degree), torch.tensor(sizes))
    assert bool((dst.bincount(minlength=sum(sizes)) <= bound).all())
    batch = torch.repeat_interleave(torch.tensor(sizes))
    torch.testing.assert_close(batch[src], batch[dst])


def test_permutations_of_three_nodes_come_with_their_probabilities() -> None:
    num_graphs = 6_000
    graph = expander(torch.full((num_graphs,), 3), 2, generator=seeded())
    src, dst = graph.edge_index
    upper = src < dst
    pair = (src[upper] % 3) + (dst[upper] % 3)  # 1, 2 or 3 names {0, 1}, {0, 2} or {1, 2}
    seen = torch.zeros(num_graphs, dtype=torch.int64).index_add_(0, dst[upper] // 3, 1 << (pair - 1))
    counts = seen.bincount(minlength=8)
    # the identity, three transpositions and two rotations, which look alike
    assert counts[[3, 5, 6]].tolist() == [0, 0, 0]
    expected = [num_graphs / 6] * 4 + [num_graphs / 3]
    assert chisquare(counts[[0, 1, 2, 4, 7]], expected).pvalue > 1e-3


def test_a_bounded_number_of_edges_is_lost_to_coincidences() -> None:
    num_graphs, num_nodes, degree = 1_000, 211, 4
    graph = expander(torch.full((num_graphs,), num_nodes), degree, generator=seeded())
    lost = num_nodes * degree - graph.num_edges / num_graphs
    assert lost == pytest.approx(degree * (degree + 1) / 2, abs=0.7)


@pytest.mark.parametrize("degree", [4, 6, 10])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_second_eigenvalue_is_near_the_bound_of_ramanujan_graphs(degree: int, seed: int) -> None:
    mask = expander(251, degree, generator=seeded(seed)).to_mask().double()
    eigenvalues = torch.linalg.eigvalsh(mask).abs().sort(descending=True).values
    assert eigenvalues[1] < 2 * (degree - 1) ** 0.5 + 0.3


def test_a_few_hops_reach_every_node() -> None:
    graph = expander(251, 6, generator=seeded()) | sliding_window(251, radius=0)
    reach = graph @ graph @ graph @ graph @ graph  # a tree of this degree holds 251 nodes within 4 hops
    assert reach == full(251)


@pytest.mark.parametrize(
    ("degree", "error", "advice"),
    [
        (5, ValueError, "degree must be even, got 5. Each permutation comes with its inverse: use 4 or 6."),
        (0, ValueError, "degree must be at least 2, got 0. A permutation and its inverse make two neighbours."),
        (4.0, TypeError, "degree must be an int, got float 4.0. Pass int(degree)."),
    ],
)
def test_a_wrong_degree_is_refused_with_advice(degree: int, error: type[Exception], advice: str) -> None:
    with pytest.raises(error, match=re.escape(advice)):
        expander(5, degree, generator=seeded())
