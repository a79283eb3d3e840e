import itertools
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from graphattn.connectivity import full, random_regular
from graphattn.connectivity.random_edges import DENSE
from graphattn.graph import AttentionGraph


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(
    sizes=st.lists(st.sampled_from([0, 1, 2, 3, 5, 17, 101]), min_size=1, max_size=7),
    degree=st.integers(0, 20),
    seed=st.integers(0, 2**31),
)
def test_every_target_reads_as_many_distinct_sources_as_it_can_of_its_graph(
    sizes: list[int], degree: int, seed: int
) -> None:
    graph = random_regular(torch.tensor(sizes), degree, generator=seeded(seed))
    src, dst = graph.edge_index
    assert torch.unique(graph.edge_index, dim=1).shape[1] == graph.num_edges  # distinct
    expected = torch.repeat_interleave(torch.tensor(sizes).clamp(max=degree), torch.tensor(sizes))
    torch.testing.assert_close(dst.bincount(minlength=sum(sizes)), expected)
    batch = torch.repeat_interleave(torch.tensor(sizes))
    torch.testing.assert_close(batch[src], batch[dst])
    assert bool((torch.diff(dst * sum(sizes) + src) > 0).all())  # canonical


@pytest.mark.parametrize(
    ("num_nodes", "degree"),
    [(17, 2), (5, 2), (5, 3), (6, 3), (7, 1)],
    ids=["few of many", "some of few", "most of few", "half of few", "one of few"],
)
def test_all_sets_of_sources_are_equally_likely(num_nodes: int, degree: int) -> None:
    assert (num_nodes >= DENSE * degree) == (num_nodes == 17)  # both ways to draw are tried
    num_graphs = 40_000 // num_nodes
    graph = random_regular(torch.full((num_graphs,), num_nodes), degree, generator=seeded())
    chosen = graph.edge_index[0].view(-1, degree) % num_nodes
    number = {subset: k for k, subset in enumerate(itertools.combinations(range(num_nodes), degree))}
    counts = torch.zeros(len(number))
    for subset, count in zip(*torch.unique(chosen, dim=0, return_counts=True)):
        counts[number[tuple(subset.tolist())]] = count
    assert chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("degree", [3, 11])
def test_a_target_draws_without_regard_to_itself_and_to_its_neighbour(degree: int) -> None:
    num_nodes, num_graphs = 31, 2_000
    graph = random_regular(torch.full((num_graphs,), num_nodes), degree, generator=seeded(2))
    mask = torch.zeros(num_graphs, num_nodes, num_nodes, dtype=torch.bool)
    src, dst = graph.edge_index
    mask[dst // num_nodes, dst % num_nodes, src % num_nodes] = True
    # Every pair (target, source) is as likely as any other, self edges too. Rows are exactly regular, so that the
    # counts scatter less than independent ones, by 1 − degree / n.
    counts = mask.sum(0).double()
    mean = num_graphs * degree / num_nodes
    statistic = ((counts - mean) ** 2 / (mean * (1 - degree / num_nodes))).sum()
    assert abs(statistic - num_nodes * (num_nodes - 1)) < 5 * (2 * num_nodes * (num_nodes - 1)) ** 0.5
    # Two targets share a source as often as independent draws do: each of `degree` with probability degree / n.
    shared = (mask[:, :-1] & mask[:, 1:]).sum(-1).double().mean()
    assert abs(shared - degree**2 / num_nodes) < 0.05


def test_sparse_and_dense_graphs_share_a_batch() -> None:
    sizes = torch.tensor([101, 3, 0, 41, 9, 5])
    graph = random_regular(sizes, 5, generator=seeded())
    assert graph.num_edges == int((sizes * sizes.clamp(max=5)).sum())


@pytest.mark.parametrize("degree", [7, 8, 2**70])
def test_a_degree_of_all_nodes_or_more_is_full_attention(degree: int) -> None:
    assert random_regular(7, degree, generator=seeded()) == full(7)


def test_degree_zero_makes_no_edge() -> None:
    assert random_regular(7, 0, generator=seeded()).num_edges == 0


def test_all_but_one_source_leaves_a_uniform_one_out() -> None:
    graph = random_regular(torch.full((1_000,), 13), 12, generator=seeded())
    left_out = 13 * 12 // 2 - (graph.edge_index[0] % 13).view(-1, 12).sum(1)
    assert chisquare(left_out.bincount(minlength=13)).pvalue > 1e-3


def test_out_degree_varies_around_the_same_mean() -> None:
    out_degree = random_regular(10_007, 4, generator=seeded()).edge_index[0].bincount(minlength=10_007).double()
    assert float(out_degree.mean()) == pytest.approx(4)
    assert float(out_degree.var()) == pytest.approx(4, rel=0.1)  # as of a Poisson variable


@pytest.mark.parametrize(
    ("degree", "error", "advice"),
    [
        (-1, ValueError, "degree must be at least 0, got -1. Use 0 for a graph without edges."),
        (2.0, TypeError, "degree must be an int, got float 2.0. Pass int(degree)."),
    ],
)
def test_a_wrong_degree_is_refused_with_advice(degree: int, error: type[Exception], advice: str) -> None:
    with pytest.raises(error, match=re.escape(advice)):
        random_regular(5, degree, generator=seeded())


@pytest.mark.parametrize("degree", [0, 1, 3, 20])
def test_targets_of_cross_attention_draw_from_the_sources_of_their_graph(degree: int) -> None:
    sizes, dst_sizes = torch.tensor([5, 0, 41, 3]), torch.tensor([2, 4, 0, 7])
    graph = random_regular(sizes, degree, dst_sizes=dst_sizes, generator=torch.Generator().manual_seed(0))
    checked = AttentionGraph(graph.edge_index, 49, 13, src_ptr=graph.src_ptr, dst_ptr=graph.dst_ptr)
    assert checked == graph
    expected = torch.repeat_interleave(sizes.clamp(max=degree), dst_sizes)
    torch.testing.assert_close(graph.edge_index[1].bincount(minlength=13), expected)
    assert (graph.src_ptr.tolist(), graph.dst_ptr.tolist()) == ([0, 5, 5, 46, 49], [0, 2, 6, 6, 13])
