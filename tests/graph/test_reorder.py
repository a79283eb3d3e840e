"""A reordered graph is the same graph under other names, graph by graph, and attention on it is the same."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graphattn.connectivity import full, global_tokens, grid, sliding_window
from graphattn.graph import AttentionGraph, disjoint_union
from graphattn.graph.curves import hilbert
from graphattn.graph.reorder import METHODS
from graphattn.ops import graph_attention
from tests.strategies import dense, square_graphs


def positions(graph: AttentionGraph) -> torch.Tensor:
    return torch.randn(graph.num_src_nodes, 3, generator=torch.Generator().manual_seed(0))


def options(graph: AttentionGraph, method: str) -> dict:
    return {"positions": positions(graph)} if method in ("morton", "hilbert") else {}


@given(square_graphs(), st.sampled_from(METHODS), st.integers(1, 4))
def test_rows_and_columns_move_together_and_stay_in_their_graph(
    graph: AttentionGraph, method: str, block_size: int
) -> None:
    found = graph.reorder(method, block_size=block_size, **options(graph, method))
    order, before, after = found.order, dense(graph), dense(found.graph)
    assert torch.equal(after, before[..., order, :][..., order])
    for start, stop in zip(graph.src_ptr.tolist(), graph.src_ptr.tolist()[1:]):
        assert sorted(order[start:stop].tolist()) == list(range(start, stop))
    assert torch.equal(found.graph.src_ptr, graph.src_ptr) and found.graph.kinds == graph.kinds
    assert torch.equal(order[found.inverse], torch.arange(order.numel()))
    for count, mask in ((found.num_blocks_before, before), (found.num_blocks_after, after)):
        mask = mask if mask.dim() == 2 else mask.any(0)
        assert count == len({(i // block_size, j // block_size) for i, j in mask.nonzero().tolist()})
    features = torch.arange(graph.num_edges)
    src, dst = found.graph.edge_index
    expected = graph.find(order[src], order[dst])
    assert torch.equal(features[found.edge_order(graph)], expected) and (expected >= 0).all()


@pytest.mark.parametrize("method", METHODS)
def test_attention_is_that_of_the_graph_before(method: str) -> None:
    generator = torch.Generator().manual_seed(0)
    mixed = sliding_window(11, radius=2) | global_tokens(11, [3])
    graph = disjoint_union([mixed, full(7), AttentionGraph(torch.tensor([[0], [2]]), num_src_nodes=5)])
    found = graph.reorder(method, **options(graph, method))
    assert not torch.equal(found.order, torch.arange(23))
    inputs = [torch.randn(23, 3, 5, dtype=torch.float64, generator=generator) for _ in range(3)]
    bias = torch.randn(graph.num_edges, 3, dtype=torch.float64, generator=generator)
    upstream = torch.randn(23, 3, 5, dtype=torch.float64, generator=generator)

    def run(is_reordered: bool) -> list[torch.Tensor]:
        leaves = [x.clone().requires_grad_() for x in (*inputs, bias)]
        if is_reordered:
            nodes = [x[found.order] for x in leaves[:3]]
            out = graph_attention(*nodes, found.graph, edge_bias=leaves[3][found.edge_order(graph)])[found.inverse]
        else:
            out = graph_attention(*leaves[:3], graph, edge_bias=leaves[3])
        return [out, *torch.autograd.grad(out, leaves, upstream)]

    before, after = run(False), run(True)
    assert all(x.abs().sum() > 0 for x in before)
    torch.testing.assert_close(after, before, rtol=1e-10, atol=1e-12)


def test_rcm_finds_the_band_of_a_shuffled_path_and_lowers_its_bandwidth() -> None:
    shuffled = torch.randperm(1009, generator=torch.Generator().manual_seed(0))
    found = sliding_window(1009, radius=3).permute(shuffled).reorder("rcm", block_size=16)
    src, dst = found.graph.edge_index
    assert int((src - dst).abs().max()) <= 6 and found.num_blocks_after < found.num_blocks_before / 10


@pytest.mark.parametrize("method", ["morton", "hilbert"])
def test_curves_bring_the_neighbours_of_a_grid_into_fewer_tiles(method: str) -> None:
    graph = grid((64, 64), radius=8)
    found = graph.reorder(method, shape=(64, 64), block_size=64)
    assert found.num_blocks_after < found.num_blocks_before
    cells = torch.cartesian_prod(torch.arange(64), torch.arange(64))
    if method == "hilbert":
        assert torch.equal(found.order, hilbert(cells, 6).argsort())
    assert torch.equal(graph.reorder(method, positions=cells.float() * 63 / 64 + 5, block_size=64).order, found.order)


def test_each_grid_of_a_batch_follows_its_own_curve() -> None:
    batch = grid(torch.tensor([[2, 3], [4, 4], [0, 3]]))
    found = batch.reorder("hilbert", shape=torch.tensor([[2, 3], [4, 4], [0, 3]]))
    alone = grid((4, 4)).reorder("hilbert", shape=(4, 4))
    assert torch.equal(found.order[6:] - 6, alone.order)
    assert found.graph.num_graphs == 3


def test_degree_puts_hubs_first_and_keeps_ties_in_place() -> None:
    graph = global_tokens(9, [4, 7]) | sliding_window(9, 0)
    assert graph.reorder("degree").order.tolist() == [4, 7, 0, 1, 2, 3, 5, 6, 8]


@pytest.mark.parametrize(
    ("method", "given", "message"),
    [
        ("metis", {}, "method must be one of 'rcm', 'morton', 'hilbert', 'degree', got 'metis'"),
        ("morton", {}, "needs either shape or positions, got none"),
        ("hilbert", {"shape": (2, 3), "positions": torch.zeros(6, 2)}, "got both"),
        ("hilbert", {"shape": (2, 2)}, r"must multiply to the nodes of each graph, \[6\], got \[\[2, 2\]\]"),
        ("hilbert", {"shape": (2.0, 3.0)}, r"Pass shape=\(height, width\)"),
        ("morton", {"positions": torch.zeros(5, 2)}, "Give one row per node"),
        ("morton", {"positions": torch.full((6, 2), torch.nan)}, "positions must be finite"),
        ("rcm", {"shape": (2, 3)}, "takes neither shape nor positions"),
        ("rcm", {"block_size": 0}, "block_size must be an int of at least 1, got 0"),
        ("hilbert", {"shape": (6, *[1] * 30)}, "Merge short axes"),
    ],
)
def test_what_does_not_fit_is_refused(method: str, given: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sliding_window(6, 1).reorder(method, **given)


def test_a_rectangular_graph_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Call permute\(order, dst_order\)"):
        full(3, dst_sizes=2).reorder("rcm")
