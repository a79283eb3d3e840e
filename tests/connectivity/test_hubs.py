import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graphattn.connectivity import full, global_tokens
from graphattn.graph import disjoint_union


@given(st.integers(1, 17).flatmap(lambda n: st.tuples(st.just(n), st.lists(st.integers(-n, n - 1), max_size=9))))
def test_global_tokens_read_all_and_are_read_by_all(case: tuple[int, list[int]]) -> None:
    num_nodes, indices = case
    graph = global_tokens(num_nodes, indices)
    mask = torch.zeros(num_nodes, num_nodes, dtype=torch.bool)
    for index in indices:
        mask[index] = True
        mask[:, index] = True
    torch.testing.assert_close(graph.to_mask(), mask)
    num_global = len({index % num_nodes for index in indices})
    assert graph.num_edges == 2 * num_global * num_nodes - num_global**2
    assert graph == graph.T


@given(sizes=st.lists(st.one_of(st.just(0), st.integers(3, 11)), min_size=1, max_size=7))
def test_positions_count_inside_each_graph(sizes: list[int]) -> None:
    graph = global_tokens(torch.tensor(sizes), [-1, 0, 2])
    assert graph == disjoint_union([global_tokens(size, [0, 2, size - 1] if size else []) for size in sizes])


def test_a_tensor_of_positions_is_as_good_as_a_list() -> None:
    assert global_tokens(11, torch.tensor([3, -1])) == global_tokens(11, [10, 3]) == global_tokens(11, range(3, 11, 7))


def test_no_position_makes_no_edge() -> None:
    assert global_tokens(11, []).num_edges == 0
    assert global_tokens(torch.tensor([3, 2]), []).num_edges == 0


def test_one_global_token_brings_any_two_tokens_within_two_hops() -> None:
    graph = global_tokens(torch.tensor([7, 5]), [1])
    assert graph @ graph == full(torch.tensor([7, 5]))


def test_repr_shows_the_positions_or_their_number() -> None:
    assert "global_tokens(11, [0, -1])" in repr(global_tokens(11, [0, -1]))
    assert "global_tokens(11, [0, 1, 2, 3, 4, 5, 6, 7, … 11 in all])" in repr(global_tokens(11, range(11)))


@pytest.mark.parametrize(
    ("indices", "graph", "index"),
    [([0, 5], 2, 5), ([-4], 2, -4), (torch.tensor([0, 7]), 0, 7)],
)
def test_a_position_outside_some_graph_is_refused_with_its_name(indices: list[int], graph: int, index: int) -> None:
    sizes = [7, 0, 3, 11]
    message = (
        f"got {index} for graph {graph}, which has {sizes[graph]} nodes. Use positions that the smallest graph has"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        global_tokens(torch.tensor(sizes), indices)


@pytest.mark.parametrize(
    ("indices", "error", "advice"),
    [
        (0, TypeError, "got int. Pass [0] for the first token alone."),
        ("0", TypeError, "got str. Pass [0] for the first token alone."),
        ([0.5], TypeError, "indices must hold ints, got float 0.5. Pass positions, not a mask."),
        ([True, False], TypeError, "indices must hold ints, got bool True. Pass positions, not a mask."),
        (torch.tensor([True]), TypeError, "got torch.bool. Call indices.long(), or indices.nonzero()[:, 0] on a bool"),
        (torch.tensor([[0]]), ValueError, "got [1, 1]. The same positions serve every graph of the batch: pass one"),
    ],
    ids=["int", "str", "float", "mask as list", "mask", "matrix"],
)
def test_indices_that_are_no_positions_are_refused_with_advice(
    indices: object, error: type[Exception], advice: str
) -> None:
    with pytest.raises(error, match=re.escape(advice)):
        global_tokens(5, indices)


@given(st.integers(1, 11), st.integers(1, 11), st.sets(st.integers(-1, 0)), st.sets(st.integers(-1, 0)))
def test_in_cross_attention_sources_are_read_by_all_and_targets_read_all(
    num_src: int, num_dst: int, indices: set[int], dst_indices: set[int]
) -> None:
    graph = global_tokens(num_src, list(indices), dst_sizes=num_dst, dst_indices=list(dst_indices))
    expected = torch.zeros(num_dst, num_src, dtype=torch.bool)
    expected[:, list(indices)] = True
    expected[list(dst_indices)] = True
    torch.testing.assert_close(graph.to_mask(), expected)
    k, h = len({index % num_src for index in indices}), len({index % num_dst for index in dst_indices})
    assert graph.num_edges == k * num_dst + h * num_src - k * h


def test_a_batch_of_global_tokens_in_cross_attention_is_the_union_of_its_graphs() -> None:
    sizes, dst_sizes = torch.tensor([5, 0, 3, 1]), torch.tensor([2, 4, 0, 3])
    batch = global_tokens(sizes, [0], dst_sizes=dst_sizes, dst_indices=[-1])
    pairs = zip(sizes.tolist(), dst_sizes.tolist())
    assert batch == disjoint_union(
        [global_tokens(n, [0] if n else [], dst_sizes=m, dst_indices=[-1] if m else []) for n, m in pairs]
    )
    assert batch.dst_ptr.tolist() == [0, 2, 6, 6, 9]
    assert global_tokens(5, [0], dst_sizes=3).to_mask().sum(1).tolist() == [1, 1, 1]  # no target is global unless named


def test_targets_that_do_not_fit_are_refused_with_advice() -> None:
    with pytest.raises(ValueError, match="dst_indices must come with dst_sizes, got 1 alone"):
        global_tokens(5, [0], dst_indices=[0])
    with pytest.raises(
        ValueError, match="dst_indices must lie inside every graph, got 3 for graph 0, which has 3 nodes"
    ):
        global_tokens(5, [0], dst_sizes=3, dst_indices=[3])
