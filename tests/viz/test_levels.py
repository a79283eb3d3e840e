"""From recordings to pathways: levels, residuals, abstractions, pools and memories, against dense matrices."""

import pytest
import torch
from torch import Tensor

import graphattn as ga
from graphattn.graph import AttentionGraph
from graphattn.viz import Recording, pathways, record
from graphattn.viz.pathways import EDGE_KINDS, NODE_KINDS, Pathways
from graphattn.viz.recording import Step
from tests.layered import dense, matrix_of, softmax_of, step_of


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def bipartite(num_src: int, num_dst: int, seed: int = 0) -> AttentionGraph:
    """A random graph in which every target has an edge."""
    mask = torch.rand(num_dst, num_src, generator=generator(seed)) < 0.4
    mask[torch.arange(num_dst), torch.randint(num_src, (num_dst,), generator=generator(seed))] = True
    return AttentionGraph.from_mask(mask)


def random_step(num_src: int, num_dst: int, kind: str = "attention", name: str = "layer", seed: int = 0) -> Step:
    graph = bipartite(num_src, num_dst, seed)
    return step_of(graph, softmax_of(graph, 2, generator(seed)), name=name, kind=kind)


def mean_of(step: Step) -> Tensor:
    """[num_dst_nodes, num_src_nodes], rows sum to one."""
    matrix = matrix_of(step.graph, step.alpha.double().mean(1))
    return matrix / matrix.sum(1, keepdim=True)


def kinds_of(found: Pathways) -> list[tuple[str, int]]:
    """The kind and the number of nodes of each rank."""
    of_rank = [found.node_kind[found.rank == rank].tolist() for rank in range(found.num_ranks)]
    assert all(len(set(kinds)) == 1 for kinds in of_rank)
    return [(NODE_KINDS[kinds[0]], len(kinds)) for kinds in of_rank]


def test_each_attention_is_half_of_a_level_and_the_residual_the_other_half() -> None:
    steps = [random_step(5, 5, seed=seed) for seed in range(3)]
    found = pathways(Recording(steps))
    assert kinds_of(found) == [("element", 5)] * 4
    matrix, unit = dense(found), torch.eye(5, dtype=torch.float64)
    for layer, step in enumerate(steps):
        block = matrix[5 * (layer + 1) : 5 * (layer + 2), 5 * layer : 5 * (layer + 1)]
        torch.testing.assert_close(block, 0.5 * mean_of(step) + 0.5 * unit, rtol=1e-6, atol=1e-7)
        is_residual = (found.layer == layer) & (found.edge_kind == EDGE_KINDS.index("residual"))
        assert is_residual.sum() == 5
        torch.testing.assert_close(
            found.weight[is_residual], torch.full((5,), 0.5, dtype=torch.float64), rtol=1e-6, atol=0
        )
    torch.testing.assert_close(matrix[5:].sum(1), torch.ones(15, dtype=torch.float64), rtol=1e-14, atol=0)
    assert found.kept == 1.0
    assert found.num_edges == sum(step.graph.num_edges + 5 for step in steps)
    assert found.method == "attention weights, heads averaged, residual 0.5"


@pytest.mark.parametrize("residual", [0.0, 0.25, 0.9])
def test_other_shares_stay_and_who_reads_nothing_keeps_itself(residual: float) -> None:
    graph = AttentionGraph(torch.tensor([[0, 2], [1, 1]]), num_src_nodes=3)
    step = step_of(graph, torch.tensor([[0.25], [0.75]]))
    found = dense(pathways(Recording([step]), residual=residual))[3:, :3]
    expected = torch.tensor([[0, 0, 0], [0.25, 0, 0.75], [0, 0, 0]], dtype=torch.float64) * (1 - residual)
    expected += torch.diag(torch.tensor([1.0, residual, 1.0], dtype=torch.float64))
    torch.testing.assert_close(found, expected)


def test_gates_give_the_residual_what_they_take() -> None:
    graph = ga.connectivity.full(2)
    alpha = torch.full((4, 2), 0.5)
    gated = step_of(graph, alpha, head_gate=torch.tensor([1.0, 0.0]))
    found = dense(pathways(Recording([gated])))[2:, :2]
    # attention has half of its half: 0.25 against 0.5
    expected = torch.tensor([[1 / 6 + 2 / 3, 1 / 6], [1 / 6, 1 / 6 + 2 / 3]], dtype=torch.float64)
    torch.testing.assert_close(found, expected)
    shut = step_of(graph, alpha, head_gate=torch.zeros(2))
    torch.testing.assert_close(dense(pathways(Recording([shut])))[2:, :2], torch.eye(2, dtype=torch.float64))


def test_heads_stay_apart_if_asked() -> None:
    step = random_step(4, 4)
    found = pathways(Recording([step]), heads="each")
    assert sorted(found.head.unique().tolist()) == [-1, 0, 1]
    assert found.num_edges == 2 * step.graph.num_edges + 4
    src, dst = step.graph.edge_index
    for head in (0, 1):
        of_head = found.head == head
        torch.testing.assert_close(found.edge_index[:, of_head], torch.stack([src, dst + 4]))
        torch.testing.assert_close(found.weight[of_head], step.alpha[:, head].double() / 4, rtol=1e-6, atol=0)
    one = pathways(Recording([step]), heads=1)
    assert one.method == "attention weights, head 1, residual 0.5"
    assert one.head.unique().tolist() == [-1, 1]


def test_summaries_stand_between_two_levels_and_are_read_after_the_elements() -> None:
    n, m = 6, 3
    summary = random_step(n, m, "summary", "blocks.0")
    attend = random_step(n + m, n, name="blocks.0", seed=1)
    plain = random_step(n, n, name="blocks.1", seed=2)
    found = pathways(Recording([summary, attend, plain]))
    assert kinds_of(found) == [("element", n), ("abstraction", m), ("element", n), ("element", n)]
    reads = mean_of(attend)
    whole = 0.5 * (reads[:, :n] + reads[:, n:] @ mean_of(summary)) + 0.5 * torch.eye(n, dtype=torch.float64)
    expected = (0.5 * mean_of(plain) + 0.5 * torch.eye(n, dtype=torch.float64)) @ whole
    torch.testing.assert_close(found.rollout().weight, expected, rtol=1e-6, atol=1e-7)
    assert found.layer.unique().tolist() == [0, 1]
    of_kind = {kind: int((found.edge_kind == number).sum()) for number, kind in enumerate(EDGE_KINDS)}
    assert of_kind == {
        "attention": attend.graph.num_edges + plain.graph.num_edges,
        "residual": 2 * n,
        "summary": summary.graph.num_edges,
        "pool": 0,
    }
    assert found.rank[found.edge_index[:, found.edge_kind == EDGE_KINDS.index("summary")]].unique(dim=1).tolist() == [
        [0],
        [1],
    ]


def test_abstractions_alone_can_be_read_and_summarised_again() -> None:
    n, m, k = 5, 3, 2
    steps = [
        random_step(n, m, "summary"),
        random_step(n, k, "summary", seed=1),
        random_step(n + m + k, 4, "summary", seed=2),
        random_step(m + k + 4, n, seed=3),
    ]
    found = pathways(Recording(steps))
    assert kinds_of(found) == [("element", n), ("abstraction", m + k), ("abstraction", 4), ("element", n)]
    first = torch.cat([mean_of(steps[0]), mean_of(steps[1])])
    again = mean_of(steps[2])
    again = again[:, :n] + again[:, n:] @ first
    expected = 0.5 * mean_of(steps[3]) @ torch.cat([first, again]) + 0.5 * torch.eye(n, dtype=torch.float64)
    torch.testing.assert_close(found.rollout().weight, expected, rtol=1e-6, atol=1e-7)


def test_pools_make_a_smaller_level_without_a_residual() -> None:
    steps = [
        random_step(7, 7, name="a"),
        random_step(7, 3, "pool", "pool", seed=1),
        random_step(3, 3, name="b", seed=2),
    ]
    found = pathways(Recording(steps), labels=list("abcdefg"))
    assert kinds_of(found) == [("element", 7), ("element", 7), ("pooled", 3), ("pooled", 3)]
    assert found.layer[found.edge_kind == EDGE_KINDS.index("pool")].unique().tolist() == [0]
    assert found.layer.max() == 1
    half = 0.5 * torch.eye(7, dtype=torch.float64), 0.5 * torch.eye(3, dtype=torch.float64)
    expected = (0.5 * mean_of(steps[2]) + half[1]) @ mean_of(steps[1]) @ (0.5 * mean_of(steps[0]) + half[0])
    torch.testing.assert_close(found.rollout().weight, expected, rtol=1e-6, atol=1e-7)
    with pytest.raises(ValueError, match="rank 3 has pooled nodes, which have no names"):
        found.rollout("b")


def test_a_pool_may_come_first_and_an_element_that_no_target_takes_up_is_lost() -> None:
    graph = AttentionGraph(torch.tensor([[0, 3], [0, 1]]), num_src_nodes=4, num_dst_nodes=2)
    found = pathways(Recording([step_of(graph, torch.ones(2, 1), kind="pool")]))
    assert found.rollout().weight.tolist() == [[1, 0, 0, 0], [0, 0, 0, 1]]


def test_cross_attention_reads_a_memory_of_its_own() -> None:
    steps = [random_step(4, 4, name="a"), random_step(6, 4, name="cross", seed=1)]
    found = pathways(Recording(steps))
    assert kinds_of(found) == [("element", 4), ("element", 4), ("memory", 6), ("element", 4)]
    assert found.inputs.tolist() == [*range(4), *range(8, 14)]
    half = 0.5 * torch.eye(4, dtype=torch.float64)
    of_elements = half @ (0.5 * mean_of(steps[0]) + half)
    expected = torch.cat([of_elements, 0.5 * mean_of(steps[1])], 1)
    torch.testing.assert_close(found.rollout().weight, expected, rtol=1e-6, atol=1e-7)
    first = pathways(Recording([steps[1], steps[0]]))
    assert kinds_of(first) == [("element", 4), ("memory", 6), ("element", 4), ("element", 4)]


def test_attention_into_other_targets_is_a_level_without_a_residual() -> None:
    steps = [random_step(6, 6, name="a"), random_step(6, 2, name="readout", seed=1)]
    found = pathways(Recording(steps))
    assert kinds_of(found) == [("element", 6), ("element", 6), ("pooled", 2)]
    expected = mean_of(steps[1]) @ (0.5 * mean_of(steps[0]) + 0.5 * torch.eye(6, dtype=torch.float64))
    torch.testing.assert_close(found.rollout().weight, expected, rtol=1e-6, atol=1e-7)


def test_edges_that_were_not_recorded_keep_their_place_in_the_sum() -> None:
    graph = AttentionGraph(torch.tensor([[0, 1], [0, 1]]), num_src_nodes=2)
    step = step_of(graph, torch.tensor([[0.75], [1.0]]), kept=torch.tensor([[0.75], [1.0]]))
    found = pathways(Recording([step]))
    torch.testing.assert_close(dense(found)[2:, :2], torch.tensor([[0.5 + 0.375, 0], [0, 1.0]], dtype=torch.float64))
    assert found.kept == pytest.approx((0.875 + 1.0) / 2)
    assert "93.8 % of the influence" in found.caption
    assert found.rollout().weight.sum(1).tolist() == pytest.approx([0.875, 1.0])
    lower = pathways(Recording([step, step]))
    # the upper layer passes on 0.875 of what the lower one is read by
    assert lower.kept == pytest.approx(1 - 0.125 * (1 + 0.875) / (1 + 1 + 1 + 0.875))


def test_where_nothing_comes_into_the_outputs_nothing_is_missing() -> None:
    part = step_of(ga.connectivity.full(2), torch.full((4, 1), 0.25), kept=torch.full((2, 1), 0.5))
    nobody = AttentionGraph(torch.empty(2, 0, dtype=torch.int64), 2, 1)
    found = pathways(Recording([part, step_of(nobody, torch.zeros(0, 1), kind="pool")]))
    assert found.kept == 1.0 and found.rollout().weight.tolist() == [[0.0, 0.0]]


def test_one_example_of_a_ragged_batch() -> None:
    sizes = torch.tensor([3, 0, 5])
    graph = ga.connectivity.full(sizes)
    alpha = softmax_of(graph, 2, generator())
    recording = Recording([step_of(graph, alpha, name=name) for name in "ab"])
    for example, size in enumerate(sizes.tolist()):
        found = pathways(recording, example=example)
        alone = pathways(recording.example(example))
        assert found.num_nodes == 3 * size
        torch.testing.assert_close(dense(found), dense(alone))
        assert found.method.endswith(f"example {example} of 3")
    torch.testing.assert_close(dense(pathways(recording)), dense(pathways(recording, example=0)))
    with pytest.raises(IndexError, match="index must lie in"):
        pathways(recording, example=3)


def test_one_example_of_a_batch_with_abstractions() -> None:
    sizes, halves = torch.tensor([2, 4]), torch.tensor([1, 2])
    summary = ga.connectivity.full(sizes, dst_sizes=halves)
    # sources: all 6 elements, then all 3 abstractions; everyone reads itself and the abstractions of its example
    src, dst = [0, 6, 1, 6, 2, 7, 8, 3, 7, 8, 4, 7, 8, 5, 7, 8], [0, 0, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4, 5, 5, 5]
    attend = AttentionGraph(torch.tensor([src, dst]), 9, 6)
    steps = [
        step_of(summary, softmax_of(summary, 1, generator()), call=0, kind="summary"),
        step_of(attend, softmax_of(attend, 1, generator(1)), call=1),
    ]
    found = pathways(Recording(steps), example=1)
    assert kinds_of(found) == [("element", 4), ("abstraction", 2), ("element", 4)]
    reads, sums = mean_of(steps[1])[2:], mean_of(steps[0])[1:, 2:]
    expected = 0.5 * (reads[:, 2:6] + reads[:, 7:] @ sums) + 0.5 * torch.eye(4, dtype=torch.float64)
    torch.testing.assert_close(found.rollout().weight, expected, rtol=1e-6, atol=1e-7)


def test_of_a_model_that_was_recorded() -> None:
    torch.manual_seed(0)
    graph = ga.connectivity.sliding_window(11, radius=2) | ga.connectivity.global_tokens(11, [4])

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = torch.nn.ModuleList(ga.nn.GraphAttention(12, 3) for _ in range(2))

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers:
                x = x + layer(x, graph)
            return x

    model = Model()
    with record(model) as recording:
        y = model(torch.randn(11, 12))
    y.square().sum().backward()
    found = pathways(recording, labels=range(11))
    assert kinds_of(found) == [("element", 11)] * 3
    assert found.node_labels()[:2] == ["0", "1"]
    for weighting in ("value_norm", "gradient", "absolute_gradient"):
        other = pathways(recording, weighting=weighting)
        torch.testing.assert_close(other.rollout().weight.sum(1), torch.ones(11, dtype=torch.float64))
        assert not torch.equal(other.weight, found.weight)
        assert other.method != found.method


def test_elements_may_be_none() -> None:
    graph = ga.connectivity.full(0)
    found = pathways(Recording([step_of(graph, torch.zeros(0, 2))]), labels=[])
    assert (found.num_nodes, found.num_edges, found.kept) == (0, 0, 1.0)
    assert found.rollout().weight.shape == (0, 0)
    assert found.prune().num_nodes == 0
    assert len(found.strongest_paths()) == 0
    without = AttentionGraph(torch.empty(2, 0, dtype=torch.int64), 3)
    unit = torch.eye(3, dtype=torch.float64)
    torch.testing.assert_close(pathways(Recording([step_of(without, torch.zeros(0, 2))])).rollout().weight, unit)


def test_steps_that_do_not_fit_are_refused() -> None:
    four, six = random_step(4, 4, name="a"), random_step(6, 6, name="b")
    cases = {
        "'b' has 6 targets, but the level before it has 4 elements. Record one stack": [four, six],
        "'p' has 6 sources, but the level before it has 4 elements": [four, random_step(6, 2, "pool", "p")],
        "'a' has 6 sources, but the level before it has 4": [four, random_step(6, 2, "summary", "a")],
        "'b' comes where nothing has read the abstractions of 'a'": [random_step(6, 2, "summary", "a"), six],
        "'p' comes where nothing has read": [random_step(6, 2, "summary", "p"), random_step(6, 2, "pool", "p")],
        "the recording ends where nothing has read": [four, random_step(4, 2, "summary", "b")],
        "'a' reads 5 sources, but there are 6 elements and 2 abs": [
            random_step(6, 2, "summary", "a"),
            random_step(5, 6, name="a"),
        ],
    }
    for message, steps in cases.items():
        with pytest.raises(ValueError, match=message):
            pathways(Recording(steps))


def test_bad_arguments_are_refused_with_the_nearest_name() -> None:
    recording = Recording([random_step(4, 4)])
    with pytest.raises(ValueError, match=r"recording holds no step\. Run the model inside"):
        pathways(Recording())
    with pytest.raises(TypeError, match="recording must be a Recording, got Linear"):
        pathways(torch.nn.Linear(1, 1))
    with pytest.raises(ValueError, match=r"heads must be one of .* got 'men'. Did you mean 'mean'"):
        pathways(recording, heads="men")
    for wrong in (True, -1, None, 1.0):
        with pytest.raises(ValueError, match="heads must be one of 'mean', 'max', 'each', or the number of a head"):
            pathways(recording, heads=wrong)
    with pytest.raises(ValueError, match=r"weighting must be one of .* Did you mean 'value_norm'"):
        pathways(recording, weighting="value_norms")
    for wrong in (1.0, -0.1, True, "half", float("nan")):
        with pytest.raises(ValueError, match=r"residual must lie in \[0, 1\)"):
            pathways(recording, residual=wrong)
    with pytest.raises(ValueError, match="labels must name each of the 4 elements of level 0, got 3"):
        pathways(recording, labels=["a", "b", "c"])
    with pytest.raises(TypeError, match="labels must be a sequence of names, got the single 'abcd'"):
        pathways(recording, labels="abcd")


def test_the_caption_says_how_many_layers_were_not_recorded() -> None:
    layers = torch.nn.ModuleList(ga.nn.GraphAttention(embed_dim=8, num_heads=2) for _ in range(3))
    graph = ga.connectivity.full(3)

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = layers

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers:
                x = x + layer(x, graph)
            return x

    for chosen, left_out in (([0, 2], 1), (None, 0)):
        with record(model := Model(), layers=chosen) as recording:
            model(torch.zeros(3, 8))
            model(torch.zeros(3, 8))
        assert recording.num_left_out == left_out
        assert ("layers not recorded: 1" in pathways(recording).caption) == bool(left_out)
