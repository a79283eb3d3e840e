"""The expected cover is exact after one layer, and close to what drawn graphs cover after more."""

import pytest
import torch
from hypothesis import given

from graphattn.connectivity import expander, full, random_regular, sliding_window
from graphattn.graph import AttentionGraph, rules
from graphattn.graph.cover import expected_cover
from tests.strategies import dense, kind_graphs, nodes


@given(nodes(square=True).flatmap(kind_graphs))
def test_the_first_layer_is_counted(graph: AttentionGraph) -> None:
    graph.__dict__.update(kinds=tuple("random" if kind == "bond" else kind for kind in graph.kinds))
    mask = dense(graph)
    num_pairs = int((torch.diff(graph.src_ptr) ** 2).sum())
    bit = 1 << graph.kinds.index("random") if "random" in graph.kinds else 0
    src, dst = graph.edge_index[:, (graph.edge_kind & bit) != 0]
    found = expected_cover(graph, 1)
    both_ways = bool((src > dst).any() and (src < dst).any())
    if not src.numel() or (graph.blocks is None and not both_ways):
        assert found == ()
    else:
        assert found == pytest.approx((int((mask | torch.eye(mask.shape[0]).bool()).sum()) / num_pairs,))


@pytest.mark.parametrize("num_nodes", [211, 499])
def test_new_draws_cover_what_is_expected(num_nodes: int) -> None:
    generator = torch.Generator().manual_seed(0)
    graphs = [random_regular(num_nodes, degree=3, generator=generator) for _ in range(5)]
    reached, shares = torch.eye(num_nodes), []
    for graph in graphs:
        step = graph.to_mask().float() + torch.eye(num_nodes)
        reached = (step @ reached).clamp(max=1)
        shares.append(float(reached.mean()))
    assert 0.2 < shares[3] and shares[4] > 0.6  # the middle, where the estimate is worst, is compared
    assert expected_cover(graphs[0].keep(rules.is_causal), 5) == ()
    assert expected_cover(graphs[0], 5) == pytest.approx(shares, abs=0.1)


def test_edges_that_are_no_draw_do_not_multiply() -> None:
    generator = torch.Generator().manual_seed(0)
    window, draw = sliding_window(401, 5), expander(401, degree=4, generator=generator)
    assert expected_cover(window, 3) == () == expected_cover(full(5, dst_sizes=3), 3)
    both = window | draw
    reached, shares = torch.eye(401), []
    for _ in range(3):
        reached = (both.to_mask().float() @ reached).clamp(max=1)
        shares.append(float(reached.mean()))
    low = expected_cover(both, 3)
    assert low[0] == pytest.approx(shares[0]) and low[0] < low[1] < shares[1] and low[2] < shares[2]


def test_each_graph_of_a_batch_grows_by_itself() -> None:
    generator = torch.Generator().manual_seed(0)
    sizes = torch.tensor([100, 0, 300])
    batch = random_regular(sizes, degree=2, generator=generator)
    alone = [expected_cover(random_regular(int(n), degree=2, generator=generator), 3) for n in (100, 300)]
    mixed = [(a * 100**2 + b * 300**2) / (100**2 + 300**2) for a, b in zip(*alone)]
    assert expected_cover(batch, 3) == pytest.approx(mixed, rel=0.01)


def test_no_layer_is_refused() -> None:
    with pytest.raises(ValueError, match="num_layers must be at least 1, got 0"):
        expected_cover(full(3), 0)
