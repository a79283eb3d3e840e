"""Locally biased subsampling: plain windows without a shake, a uniform partition with an endless one, exact sizes."""

import itertools
import math
import pickle
from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2, norm
from torch import Tensor
from torch.testing import assert_close

from graphattn.connectivity import block_diagonal, full
from graphattn.graph import AttentionGraph
from graphattn.graph.rules import is_causal
from graphattn.nn import GraphAttention
from graphattn.selection import SubsampleLocal, generator_for
from tests.strategies import batch_graphs, dense, kinds_at, square_graphs

SIZES = [7, 0, 1, 12, 3]


def window_of(place: int, shape: tuple[int, ...], window: tuple[int, ...]) -> tuple[int, ...]:
    """The window of a cell, counted along each axis, by hand."""
    number = []
    for length, size in zip(reversed(shape), reversed(window)):
        number.append(place % length // size)
        place //= length
    return tuple(number)


def partition(spec: SubsampleLocal, graph: AttentionGraph, seed: int = 0) -> Tensor:
    """Who reads whom if all could, bool [num_nodes, num_nodes]: it depends on the nodes of the graph alone."""
    everywhere = full(torch.diff(graph.src_ptr))
    bare = SubsampleLocal(spec.window_size, spec.sigma, spec.shape, keep_self=False)
    return dense(bare.draw(everywhere, generator=generator_for(seed)))


# --- the ends of the scale -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("window_size", [1, 2, 3, 7, 12, 10**30])
def test_without_a_shake_a_sequence_is_cut_into_plain_windows(window_size: int) -> None:
    sizes = torch.tensor(SIZES)
    drawn = SubsampleLocal(window_size, sigma=0.0).draw(full(sizes), generator=generator_for(0))
    assert drawn == block_diagonal(sizes, window_size)
    assert not drawn.explicit_edges.numel()


@pytest.mark.parametrize("shape, window", [((4, 6), (2, 3)), ((5, 7), (2, 3)), ((3, 4, 5), (2, 3, 2)), ((6,), (4,))])
def test_without_a_shake_a_grid_is_cut_into_boxes(shape: tuple[int, ...], window: tuple[int, ...]) -> None:
    num_nodes = math.prod(shape)
    spec = SubsampleLocal(window, sigma=0, shape=shape)
    drawn = spec.draw(full(torch.tensor([num_nodes, 0, num_nodes])), generator=generator_for(0))
    boxes = [window_of(place, shape, window) for place in range(num_nodes)]
    one = torch.tensor([[mine == other for other in boxes] for mine in boxes])
    assert_close(dense(drawn), torch.block_diag(one, one))


@pytest.mark.parametrize("sigma", [math.inf, 1e9])
@pytest.mark.parametrize("window, shape", [(2, None), ((1, 2), (2, 3))])
def test_an_endless_shake_makes_every_partition_of_the_sources_as_likely(
    window: Any, shape: tuple[int, ...] | None, sigma: float
) -> None:
    num_draws, size = 3600, 6
    graph = full(torch.full((num_draws,), size))
    drawn = SubsampleLocal(window, sigma, shape).draw(graph, generator=generator_for(1))
    src, dst = drawn.edge_index
    if shape is None:  # three windows of two: who is read by targets 0, 2 and 4
        firsts = (0, 2, 4)
    else:  # two windows in each row, of two cells and of one
        firsts = (0, 3)
    of_target = {t: (src[dst % size == t] % size).view(num_draws, -1).tolist() for t in firsts}
    count = Counter(tuple(map(tuple, read)) for read in zip(*of_target.values()))
    num_partitions = math.comb(6, 2) * math.comb(4, 2)  # in both cases
    expected = num_draws / num_partitions
    assert len(count) == num_partitions
    assert sum((n - expected) ** 2 / expected for n in count.values()) < chi2.ppf(1 - 1e-4, num_partitions - 1)


def test_two_sources_change_places_as_often_as_the_noise_says() -> None:
    num_draws, sigma = 20_000, 0.8
    graph = full(torch.full((num_draws,), 2))
    drawn = SubsampleLocal(1, sigma, keep_self=False).draw(graph, generator=generator_for(0))
    swapped = float((drawn.edge_index[0] != drawn.edge_index[1]).double().mean())
    expected = norm.cdf(-1 / (sigma * math.sqrt(2)))  # ε_0 − ε_1 has the deviation sigma · √2
    assert abs(swapped - expected) < 4 * math.sqrt(expected * (1 - expected) / num_draws)


def test_more_shake_brings_sources_from_farther() -> None:
    def distance(sigma: float, shape: tuple[int, ...] | None = None) -> float:
        spec = SubsampleLocal(8, sigma, shape)
        src, dst = spec.draw(full(1024), generator=generator_for(0)).edge_index
        apart = (src - dst).abs() if shape is None else (src % 32 - dst % 32).abs() + (src // 32 - dst // 32).abs()
        return float(apart.double().mean())

    for shape in (None, (32, 32)):
        means = [distance(sigma, shape) for sigma in (0.0, 2.0, 8.0, 32.0, math.inf)]
        assert means == sorted(means)


# --- what happens to the graph -------------------------------------------------------------------------------------


@given(
    square_graphs() | batch_graphs().filter(lambda graph: graph.is_square),
    st.integers(1, 4),
    st.sampled_from([0.0, 1.5, math.inf]),
    st.sampled_from([None, True, False]),
)
def test_the_drawn_graph_has_the_pairs_inside_windows_and_the_diagonal_kept(
    graph: AttentionGraph, window_size: int, sigma: float, keep_self: bool | None
) -> None:
    if not torch.equal(graph.src_ptr, graph.dst_ptr):
        return
    spec = SubsampleLocal(window_size, sigma, keep_self=keep_self)
    drawn = spec.draw(graph, generator=generator_for(0))
    before, inside = dense(graph), partition(spec, graph)
    has_self = not bool(before.triu(1).any()) if keep_self is None else keep_self
    own = torch.eye(graph.num_src_nodes, dtype=torch.bool) & has_self
    assert_close(dense(drawn), before & (inside | own))
    names = kinds_at(graph)
    assert kinds_at(drawn) == {
        (i, j): names[i, j] | ({"sampled"} if inside[i, j] else set()) for i, j in kinds_at(drawn)
    }


@pytest.mark.parametrize("sigma", [0.0, 1.0, 30.0])
def test_every_source_is_in_one_window_and_windows_have_their_plain_sizes(sigma: float) -> None:
    sizes, window = torch.tensor([17, 4, 1]), 4
    drawn = SubsampleLocal(window, sigma).draw(full(sizes), generator=generator_for(0))
    plain = block_diagonal(sizes, window)
    assert torch.bincount(drawn.edge_index[1]).tolist() == torch.bincount(plain.edge_index[1]).tolist()
    mask = dense(drawn)
    for rows in {tuple(row) for row in mask.tolist()}:  # the distinct windows
        assert sum(map(tuple(rows).__eq__, map(tuple, mask.tolist()))) == sum(rows)
    assert torch.equal(mask.unique(dim=0).sum(0), torch.ones(22, dtype=torch.int64))


def test_a_causal_graph_keeps_its_blocks_and_its_diagonal() -> None:
    graph = full(4096).keep(is_causal)
    drawn = SubsampleLocal(window_size=256, sigma=64.0).draw(graph, generator=generator_for(0))
    assert drawn.blocks is not None and "listed" not in graph._cache and "listed" not in drawn._cache
    assert not drawn.looks_ahead() and drawn.self_edges().num_edges == 4096
    assert drawn.explicit_edges.shape[1] < 4096  # self edges alone, and those inside windows stay in their blocks


def test_a_million_nodes_are_drawn_from_without_listing_a_pair() -> None:
    drawn = SubsampleLocal(window_size=1000, sigma=500.0).draw(full(10**6), generator=generator_for(0))
    assert drawn.num_edges == 10**9


def test_draws_repeat_with_the_generator_and_differ_between_graphs_layers_and_steps() -> None:
    spec, graph = SubsampleLocal(window_size=4, sigma=3.0), full(torch.tensor([40, 40]))
    drawn = [dense(spec.draw(graph, generator=generator_for(7, layer=layer))) for layer in range(3)]
    assert all(not torch.equal(one, other) for one, other in itertools.combinations(drawn, 2))
    assert not torch.equal(drawn[0][:40, :40], drawn[0][40:, 40:])
    assert torch.equal(dense(spec.draw(graph, generator=generator_for(7, layer=1))), drawn[1])


@pytest.mark.parametrize("num_nodes", [0, 1])
def test_no_node_and_one_node(num_nodes: int) -> None:
    assert SubsampleLocal(3, 1.0).draw(full(num_nodes), generator=generator_for(0)) == full(num_nodes)
    assert SubsampleLocal((3, 1), 1.0, (1, 1)).draw(full(num_nodes), generator=generator_for(0)) == full(num_nodes)


def test_the_origin_says_what_was_drawn() -> None:
    drawn = SubsampleLocal(2, 0.5, (2, 3)).draw(full(6), generator=generator_for(0))
    assert "(SubsampleLocal(window_size=2, sigma=0.5, shape=(2, 3)).draw(full(6)): 6 targets" in repr(drawn)


# --- in a layer ----------------------------------------------------------------------------------------------------


def test_a_layer_attends_inside_the_drawn_windows() -> None:
    torch.manual_seed(0)
    layer = GraphAttention(15, 3, select=SubsampleLocal(window_size=4, sigma=2.0)).double()
    x = torch.randn(11, 15, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    graph = full(11)
    torch.manual_seed(3)
    out = layer(x, graph)
    torch.manual_seed(3)
    drawn = layer.select(x, graph)[0]  # type: ignore[misc]
    plain = layer.eval()(x, AttentionGraph.from_edge_index(drawn.edge_index, 11)[0])
    assert_close(out, plain)
    mine, theirs = (torch.autograd.grad(y.square().sum(), [x, *layer.parameters()]) for y in (out, plain))
    assert_close(mine, theirs)
    assert drawn.num_edges == 4 * 4 + 4 * 4 + 3 * 3


# --- what it refuses -----------------------------------------------------------------------------------------------

MISTAKES: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "no window": ({"window_size": 0}, ValueError, "window_size must be at least 1, got 0. Use 1 for a window of one"),
    "half a window": ({"window_size": 2.5}, TypeError, "window_size must be an int, got float 2.5"),
    "two windows, one axis": ({"window_size": (2, 2)}, ValueError, "one entry per axis, got 2 for 1 axes"),
    "negative sigma": ({"sigma": -1.0}, ValueError, "sigma must be at least 0, got -1.0. Use 0 for plain windows"),
    "sigma of nan": ({"sigma": math.nan}, ValueError, "sigma must be at least 0, got nan"),
    "sigma as text": ({"sigma": "1"}, TypeError, "sigma must be a float, got str '1'"),
    "shape as a number": ({"shape": 4}, TypeError, r"shape must be a tuple of ints, got int. Pass \(height, width\)"),
    "no axis": ({"shape": ()}, ValueError, r"shape must have at least one axis, got \(\). Leave it out"),
    "empty axis": ({"shape": (4, 0)}, ValueError, r"shape\[1\] must be at least 1, got 0"),
    "keep_self": ({"keep_self": "yes"}, TypeError, "keep_self must be True, False or None, got 'yes'"),
    "when": ({"when": "eval"}, ValueError, "when must be one of 'training', 'always', 'never', got 'eval'"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_answered_with_what_to_do(name: str) -> None:
    options, error, advice = MISTAKES[name]
    with pytest.raises(error, match=advice):
        SubsampleLocal(**{"window_size": 2, "sigma": 1.0, **options})


def test_a_draw_says_what_it_needs() -> None:
    spec = SubsampleLocal(2, 1.0, shape=(2, 3))
    with pytest.raises(ValueError, match=r"to be the same nodes, got 6 sources and 3 targets of 1 graphs. Use Sub"):
        spec.draw(full(6, dst_sizes=3), generator=generator_for(0))
    batch = full(torch.tensor([4, 2]), dst_sizes=torch.tensor([3, 3]))
    with pytest.raises(ValueError, match=r"to be the same nodes, got 6 sources and 6 targets of 2 graphs"):
        SubsampleLocal(2, 1.0).draw(batch, generator=generator_for(0))
    with pytest.raises(ValueError, match=r"shape \(2, 3\) has 6 cells, got a graph of 5 nodes. Give the grid"):
        spec.draw(full(torch.tensor([6, 0, 5])), generator=generator_for(0))
    with pytest.raises(TypeError, match=r"generator must be a torch.Generator, got NoneType"):
        spec.draw(full(6), generator=None)  # type: ignore[arg-type]


def test_it_is_a_value_also_where_yaml_gave_it_lists() -> None:
    spec = SubsampleLocal(window_size=[2, 3], sigma=1.0, shape=[4, 6])  # type: ignore[arg-type]
    assert spec == SubsampleLocal((2, 3), 1.0, (4, 6)) == pickle.loads(pickle.dumps(spec))
    assert hash(spec) == hash(SubsampleLocal((2, 3), 1.0, (4, 6)))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_graph_on_a_gpu_gets_the_same_windows() -> None:
    spec, graph = SubsampleLocal(3, 2.0), full(torch.tensor(SIZES)).keep(is_causal)
    here, there = (spec.draw(graph.to(device), generator=generator_for(0)) for device in ("cpu", "cuda"))
    assert there.device.type == "cuda" and here == there
