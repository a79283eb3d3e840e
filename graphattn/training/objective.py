"""Loss per kind of task, with missing labels masked, and the way back from outputs to labels."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from graphattn.data import Task


class Objective(nn.Module):
    r"""What training minimizes, and what an output of the network means.

        regression:  mean of (output − (y − μ) / σ)²,  label = output · σ + μ
        binary:      mean of −y log p − (1 − y) log(1 − p),  label = p = sigmoid(output)

    over the labels that are there: a NaN label adds nothing to the loss or its gradient. Every label weighs the same.

    Args:
        task: kind and number of labels.
        labels: float32 [num_graphs, num_tasks] of the train split, for μ and σ per task; None leaves 0 and 1, to be
            loaded from a state dict.

    >>> objective = Objective(Task("toy", "regression", 1, "rmse"), torch.tensor([[1.0], [3.0], [float("nan")]]))
    >>> objective.to_labels(torch.tensor([[0.0], [1.0]])).flatten()
    tensor([2., 3.])
    """

    mean: Tensor
    std: Tensor

    def __init__(self, task: Task, labels: Tensor | None = None) -> None:
        super().__init__()
        self.task = task.checked()
        mean, std = torch.zeros(task.num_tasks), torch.ones(task.num_tasks)
        if task.kind == "regression" and labels is not None:
            is_known = ~labels.isnan()
            count = is_known.sum(0).clamp(min=1)
            values = labels.double().nan_to_num()
            center = values.sum(0) / count
            spread = ((values - center).square() * is_known).sum(0).div(count).sqrt()
            # a task without labels, or whose labels are all equal, keeps its units
            mean, std = center.float(), torch.where(spread > 0, spread, 1.0).float()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, output: Tensor, y: Tensor) -> Tensor:
        """Returns the loss, a scalar in float32; 0 with zero gradient if no label is there.

        Args:
            output: [num_graphs, num_tasks] of the network.
            y: float32 [num_graphs, num_tasks], NaN where a label is missing.

        Raises:
            ValueError: if the shapes differ.
        """
        if output.shape != y.shape:
            raise ValueError(
                f"output must have the shape of the labels, {list(y.shape)}, got {list(output.shape)}. "
                "A model has num_tasks outputs per graph; readout 'nodes' is for labels of nodes."
            )
        output, is_known = output.float(), ~y.isnan()
        target = torch.where(is_known, y, 0.0)
        if self.task.kind == "regression":
            each = (output - (target - self.mean) / self.std).square()
        else:
            each = functional.binary_cross_entropy_with_logits(output, target, reduction="none")
        return torch.where(is_known, each, 0.0).sum() / is_known.sum().clamp(min=1)

    def to_labels(self, output: Tensor) -> Tensor:
        """Returns predictions in the units of the labels; probabilities in float64, so that they rank as logits do."""
        if self.task.kind == "regression":
            return output.float() * self.std + self.mean
        return output.double().sigmoid()
