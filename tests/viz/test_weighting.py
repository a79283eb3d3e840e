"""Weights of a step's edges: gates, norms, gradients and heads, against the formula edge by edge in Python."""

import pytest
import torch
from torch import Tensor

import graphattn as ga
from graphattn.viz.recording import Step
from graphattn.viz.weighting import HEADS, WEIGHTINGS, step_weights
from tests.layered import softmax_of, step_of

NUM_NODES, NUM_HEADS = 7, 3
NUMBERS = torch.tensor([5, 1, 8])  # of the recorded heads in their layer


def random_step(seed: int = 0, kind: str = "attention") -> Step:
    generator = torch.Generator().manual_seed(seed)

    def rand(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    graph = ga.connectivity.random_regular(NUM_NODES, 3, generator=generator)
    return step_of(
        graph,
        softmax_of(graph, NUM_HEADS, generator),
        kind=kind,
        head=NUMBERS,
        edge_gate=rand(graph.num_edges, NUM_HEADS) - 0.2,  # some below zero
        head_gate=torch.tensor([0.5, -1.0, 0.25]),
        value_norm=rand(NUM_NODES, NUM_HEADS),
        gradient=rand(graph.num_edges, NUM_HEADS) - 0.5,
        kept=rand(NUM_NODES, NUM_HEADS),
    )


def slowly(step: Step, columns: list[int], merge: str, weighting: str) -> tuple[list[list[float]], list[float]]:
    """The formula of the docstring, one number at a time; [num_edges, 1 or num_columns] and what is missing."""
    src, dst = step.graph.edge_index.tolist()
    effective, split = [], []
    for edge in range(len(src)):
        row, parts = [], []
        for head in columns:
            alpha = float(step.alpha[edge, head])
            row.append(alpha * abs(float(step.edge_gate[edge, head])) * abs(float(step.head_gate[head])))
            product = alpha * float(step.gradient[edge, head])
            parts.append({
                "alpha": row[-1],
                "value_norm": row[-1] * float(step.value_norm[src[edge], head]),
                "gradient": max(0.0, product),
                "absolute_gradient": abs(product),
            }[weighting])  # fmt: skip
        effective.append(sum(row) / len(columns))
        merged = {"max": [max(parts)], "mean": [sum(parts) / len(columns)]}
        split.append(merged.get(merge, [part / len(columns) for part in parts]))
    weights = []
    for edge, target in enumerate(dst):
        mass = sum(value for value, end in zip(effective, dst) if end == target)
        among = sum(sum(parts) for parts, end in zip(split, dst) if end == target)
        weights.append([mass * part / among for part in split[edge]])
    missing = [
        sum((1 - float(step.kept[target, head])) * abs(float(step.head_gate[head])) for head in columns) / len(columns)
        for target in range(NUM_NODES)
    ]
    return weights, missing


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("heads", [*HEADS, 8])
def test_equals_the_formula(heads: str | int, weighting: str) -> None:
    step = random_step()
    columns = [2] if heads == 8 else [0, 1, 2]
    weight, missing = slowly(step, columns, heads if isinstance(heads, str) else "mean", weighting)
    found = step_weights(step, heads, weighting)
    torch.testing.assert_close(found.weight, torch.tensor(weight, dtype=torch.float64))
    torch.testing.assert_close(found.missing, torch.tensor(missing, dtype=torch.float64))
    assert found.head.tolist() == {"each": NUMBERS.tolist(), 8: [8]}.get(heads, [-1])
    assert found.weight.dtype == torch.float64


def test_heads_apart_sum_to_the_mean() -> None:
    step = random_step(1)
    for weighting in WEIGHTINGS:
        apart, merged = (step_weights(step, heads, weighting).weight for heads in ("each", "mean"))
        torch.testing.assert_close(apart.sum(1, keepdim=True), merged)


def test_pools_and_single_summaries_are_of_all_heads() -> None:
    for heads in ("mean", "each", 5):
        found = step_weights(random_step(kind="pool"), heads, "alpha")
        assert found.head.tolist() == [-1]
        torch.testing.assert_close(found.weight, step_weights(random_step(kind="pool"), "mean", "alpha").weight)
    graph = ga.connectivity.full(3)
    single = step_of(graph, torch.full((9, 1), 1 / 3), kind="summary")
    assert step_weights(single, 7, "alpha").head.tolist() == [-1]
    assert step_weights(random_step(kind="summary"), 8, "alpha").head.tolist() == [8]
    assert step_weights(single, "mean", "value_norm").weight.unique().numel() == 1  # has no values: weighed by alpha


def test_targets_whose_gradients_are_all_negative_read_nothing() -> None:
    graph = ga.connectivity.full(2)
    gradient = torch.tensor([[-1.0], [-2.0], [-1.0], [3.0]])
    found = step_weights(step_of(graph, torch.full((4, 1), 0.5), gradient=gradient), "mean", "gradient")
    assert found.weight.flatten().tolist() == [0.0, 0.0, 0.0, 1.0]


def test_a_shut_gate_leaves_nothing_and_no_nan() -> None:
    graph = ga.connectivity.full(2)
    step = step_of(graph, torch.full((4, 2), 0.5), head_gate=torch.zeros(2))
    for heads in HEADS:
        assert step_weights(step, heads, "alpha").weight.abs().sum() == 0


def test_what_was_not_recorded_is_said() -> None:
    graph = ga.connectivity.full(2)
    step = step_of(graph, torch.full((4, 2), 0.5), name="blocks.0", head=torch.tensor([3, 4]))
    with pytest.raises(ValueError, match=r"head 1 of 'blocks.0' was not recorded; these were: 3, 4"):
        step_weights(step, 1, "alpha")
    with pytest.raises(ValueError, match=r"weighting='value_norm' needs what 'blocks.0' did not record. Record it"):
        step_weights(step, "mean", "value_norm")
    for weighting in ("gradient", "absolute_gradient"):
        with pytest.raises(ValueError, match=r"needs what 'blocks.0' did not record. Call backward"):
            step_weights(step, "mean", weighting)
    empty = step_of(graph, torch.zeros(4, 0))
    with pytest.raises(ValueError, match="was recorded without a head"):
        step_weights(empty, "mean", "alpha")


def test_no_number_is_refused() -> None:
    graph = ga.connectivity.full(2)
    bad = torch.full((4, 1), torch.nan)
    good = torch.full((4, 1), 0.5)
    bad_ones = {
        "alpha": step_of(graph, bad),
        "gradient": step_of(graph, good, gradient=bad),
        "edge_gate": step_of(graph, good, edge_gate=bad),
        "head_gate": step_of(graph, good, head_gate=bad[0]),
        "value_norm": step_of(graph, good, value_norm=bad[:2]),
    }
    for name, step in bad_ones.items():
        with pytest.raises(ValueError, match=f"{name} of 'layer' holds NaN or infinity. Look at"):
            step_weights(step, "mean", name if name in WEIGHTINGS else "alpha")
