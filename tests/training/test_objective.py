"""The loss per kind of task, and what missing labels do to it: nothing."""

import pytest
import torch
from torch.nn import functional

from graphattn.data import Task
from graphattn.training import Objective

NAN = float("nan")
REGRESSION, BINARY = Task("toy", "regression", 3, "rmse"), Task("toy", "binary", 3, "ap")
Y = torch.tensor([[1.0, NAN, 0.0], [0.0, NAN, NAN], [1.0, 1.0, 1.0], [1.0, 0.0, NAN]])


@pytest.mark.parametrize("task", [REGRESSION, BINARY], ids=["regression", "binary"])
def test_nan_labels_add_nothing_to_loss_or_gradient(task: Task) -> None:
    objective = Objective(task, Y)
    output = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    loss = objective(output, Y)
    loss.backward()
    known = ~Y.isnan()
    if task.kind == "binary":
        expected = functional.binary_cross_entropy_with_logits(output[known], Y[known])
    else:
        expected = ((objective.to_labels(output) - Y)[known] / objective.std.expand(4, 3)[known]).square().mean()
    torch.testing.assert_close(loss, expected)
    assert output.grad is not None
    assert bool((output.grad[~known] == 0).all()) and bool((output.grad[known] != 0).all())


def test_a_batch_without_labels_has_zero_loss_and_finite_gradients() -> None:
    output = torch.ones(2, 3, requires_grad=True)
    loss = Objective(BINARY)(output, torch.full((2, 3), NAN))
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert output.grad is not None and bool((output.grad == 0).all())


def test_regression_standardizes_by_the_train_labels() -> None:
    labels = torch.tensor([[1.0, NAN, 4.0], [3.0, NAN, 4.0], [NAN, NAN, 4.0]])
    objective = Objective(REGRESSION, labels)
    torch.testing.assert_close(objective.mean, torch.tensor([2.0, 0.0, 4.0]))
    torch.testing.assert_close(objective.std, torch.tensor([1.0, 1.0, 1.0]))
    other = Objective(REGRESSION)
    other.load_state_dict(objective.state_dict())
    torch.testing.assert_close(other.to_labels(torch.zeros(1, 3)), torch.tensor([[2.0, 0.0, 4.0]]))


def test_probabilities_of_large_logits_still_rank() -> None:
    labels = Objective(BINARY).to_labels(torch.tensor([[20.0, 20.5, 21.0]]))
    assert labels[0].unique().numel() == 3


def test_half_precision_outputs_give_a_float32_loss() -> None:
    assert Objective(BINARY)(torch.zeros(4, 3, dtype=torch.bfloat16), Y).dtype == torch.float32


def test_shapes_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="must have the shape of the labels"):
        Objective(BINARY)(torch.zeros(4, 1), Y)
