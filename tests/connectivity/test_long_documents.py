import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graphattn.connectivity import bigbird, global_tokens, longformer, random_regular, sliding_window


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(3)


@given(st.integers(1, 23), st.integers(0, 7), st.integers(1, 3), st.lists(st.integers(-1, 0), max_size=2))
def test_longformer_is_a_window_and_global_tokens(n: int, radius: int, dilation: int, indices: list[int]) -> None:
    graph = longformer(n, radius, indices, dilation=dilation)
    window, hubs = sliding_window(n, radius, dilation=dilation), global_tokens(n, indices)
    torch.testing.assert_close(graph.to_mask(), window.to_mask() | hubs.to_mask())
    assert graph.num_edges == window.num_edges + hubs.num_edges - (window & hubs).num_edges
    assert graph.kinds == ("window", "global")


def test_the_first_token_is_global_unless_told_otherwise() -> None:
    graph = longformer(23, 4)
    assert graph == longformer(23, 4, [0])
    assert graph.num_edges == 23 * 9 - 4 * 5 + 2 * (23 - 1 - 4)


@pytest.mark.parametrize("sizes", [23, torch.tensor([5, 11, 1, 7])], ids=["single", "batch"])
def test_bigbird_adds_random_edges_to_longformer(sizes: int | torch.Tensor) -> None:
    graph = bigbird(sizes, 2, 3, [0, -1], generator=seeded())
    drawn = random_regular(sizes, 3, generator=seeded())
    assert graph == longformer(sizes, 2, [0, -1]) | drawn
    assert graph.kinds == ("window", "global", "random")
    num_nodes = int(torch.as_tensor(sizes).sum())
    assert longformer(sizes, 2, [0, -1]).num_edges <= graph.num_edges
    assert graph.num_edges <= longformer(sizes, 2, [0, -1]).num_edges + 3 * num_nodes
    is_random = graph.edge_kind & 4 > 0
    assert int(is_random.sum()) == drawn.num_edges


def test_a_batch_of_longformers_names_its_graphs() -> None:
    graph = longformer(torch.tensor([5, 3]), 1)
    assert graph.src_ptr.tolist() == [0, 5, 8]
    assert repr(graph).startswith("AttentionGraph(sliding_window(2 graphs, radius=1) | global_tokens(2 graphs, [0])")


def test_bigbird_needs_a_generator_and_what_its_parts_refuse_it_refuses() -> None:
    with pytest.raises(TypeError, match="generator"):
        bigbird(23, 2, 3)
    with pytest.raises(TypeError, match=r"Pass generator=torch\.Generator\(\)\.manual_seed\(0\)"):
        bigbird(23, 2, 3, generator=0)
    with pytest.raises(ValueError, match="degree must be at least 0, got -1"):
        bigbird(23, 2, -1, generator=seeded())
    with pytest.raises(ValueError, match="radius must be at least 0, got -1"):
        longformer(23, -1)
    with pytest.raises(ValueError, match="indices must lie inside every graph, got 23"):
        longformer(23, 1, [23])
