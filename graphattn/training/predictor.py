"""A network with its objective: batches in, predictions in the units of the labels out."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn

from graphattn.data import Task
from graphattn.data.reference import find_callable
from graphattn.inputs import GraphBatch, GraphCollate
from graphattn.nn import HeadGate
from graphattn.training.config import RunConfig
from graphattn.training.objective import Objective


class GraphPredictor(nn.Module):
    """What `graphattn.load(RUN)` returns: a plain module that knows how its input is made.

    Args:
        config: resolved, so that the model's sizes are those of the data.
        task: what is predicted.
        labels: float32 [num_graphs, num_tasks] of the train split, for the objective; None when a state dict follows.

    Attributes:
        network: batch → [num_graphs, num_tasks], standardized or logits.
        objective: loss, and outputs → labels.
        collate: list of PyG `Data` → batch, as in training.
        config, task: as given.
    """

    def __init__(self, config: RunConfig, task: Task, labels: Tensor | None = None) -> None:
        super().__init__()
        self.config, self.task = config, task
        self.collate: GraphCollate = config.inputs.collate()
        self.network = find_callable(config.network, "a network")(config.model)
        if not isinstance(self.network, nn.Module):
            raise TypeError(f"{config.network} must make a torch.nn.Module, got {type(self.network).__name__}.")
        self.objective = Objective(task, labels)

    def forward(self, batch: GraphBatch) -> Tensor:
        """Returns [num_graphs, num_tasks]: values in label units, or probabilities."""
        return self.objective.to_labels(self.network(batch))

    def loss(self, batch: GraphBatch) -> Tensor:
        """Returns the loss of a labelled batch, with the penalty of head gates, a scalar."""
        if batch.y is None:
            raise ValueError("the batch has no labels y. Give every graph a y, NaN where a label is missing.")
        loss: Tensor = self.objective(self.network(batch), batch.y)
        strength = self.config.training.gate_penalty
        for gate in self.head_gates() if strength else []:
            loss = loss + strength * gate.penalty().to(loss.dtype)
        return loss

    def head_gates(self) -> list[HeadGate]:
        """Returns the gates over heads that the network owns."""
        return [module for module in self.network.modules() if isinstance(module, HeadGate)]

    def num_parameters(self) -> int:
        """Returns the number of weights, trained or held."""
        return sum(weight.numel() for weight in self.parameters())

    def predict(self, batches: Iterable[GraphBatch]) -> np.ndarray:
        """Returns predictions for all graphs of all batches, float64 [num_graphs, num_tasks], in evaluation mode."""
        return self.objective.to_labels(self.outputs(batches)).double().cpu().numpy()

    @torch.no_grad()
    def outputs(self, batches: Iterable[GraphBatch]) -> Tensor:
        """Returns what the network says of all graphs of all batches, [num_graphs, num_tasks], in evaluation mode.

        Standardized values of a regression, logits of a classification; `objective.to_labels` turns them into labels.
        """
        was_training = self.training
        self.eval()
        device = next(self.parameters()).device
        try:
            parts = [self.network(batch.to(device)) for batch in batches]
        finally:
            self.train(was_training)
        return torch.cat(parts) if parts else torch.empty(0, self.task.num_tasks, device=device)
