"""The Lightning side of a `GraphPredictor`: steps, optimizer, schedule, and the valid metric of each epoch."""

from __future__ import annotations

import math
from typing import Any

import lightning.pytorch as lightning
import numpy as np
import torch
from torch import Tensor

from graphattn.inputs import GraphBatch
from graphattn.selection import has_draws, set_drawing
from graphattn.training.metric import score
from graphattn.training.predictor import GraphPredictor
from graphattn.training.schedule import warmup_cosine


class TrainingModule(lightning.LightningModule):
    """Trains a `GraphPredictor` with AdamW under `warmup_cosine`.

    Logs `train/loss` and `lr` per step, `valid/METRIC` per epoch.

    Args:
        predictor: what is trained; its config says how.
        steps_per_epoch: optimizer steps of a whole epoch.
    """

    def __init__(self, predictor: GraphPredictor, steps_per_epoch: int) -> None:
        super().__init__()
        self.predictor = predictor
        self.settings = predictor.config.training
        self.steps_per_epoch = steps_per_epoch
        self.monitor = f"valid/{predictor.task.metric}"
        self._seen: list[tuple[np.ndarray, np.ndarray]] = []
        if self.settings.dense_from < 1.0 and not has_draws(predictor):
            raise ValueError(
                f"training.dense_from = {self.settings.dense_from} asks for dense fine-tuning, and the model draws no "
                "graph. Set model.select, such as SubsampleSources(keep_p=0.25), or leave dense_from out."
            )
        if self.settings.gates_only:
            if not any(list(gate.parameters()) for gate in predictor.head_gates()):
                raise ValueError(
                    "training.gates_only asks to train head gates alone, and the model has none that is trained. Set "
                    "model.head_gate, such as SubsetHeadGate(num_keep=8), or leave gates_only out."
                )
            predictor.requires_grad_(False)
            for gate in predictor.head_gates():
                gate.requires_grad_(True)

    def on_train_start(self) -> None:
        """Switches draws as the epoch asks; a run that is resumed within an epoch does not start that epoch again."""
        self._switch_draws()

    def on_train_epoch_start(self) -> None:
        """From `dense_from` on, layers read whole graphs."""
        self._switch_draws()

    def _switch_draws(self) -> None:
        if self.settings.dense_from < 1.0:
            set_drawing(self.predictor, "never" if self.current_epoch >= self.settings.dense_epoch else None)

    def on_train_batch_start(self, batch: GraphBatch, batch_idx: int) -> None:
        """Where head gates alone are trained, all else is as in evaluation: norms stand still, nothing is dropped."""
        if self.settings.gates_only:
            self.predictor.eval()
            for gate in self.predictor.head_gates():
                gate.train()

    def training_step(self, batch: GraphBatch, batch_idx: int) -> Tensor:
        """Returns the loss.

        Raises:
            ValueError: if it is NaN or infinite; the parameters are still those before the step.
        """
        loss = self.predictor.loss(batch)
        if self.device.type == "cpu" and not math.isfinite(loss.item()):
            raise ValueError(
                f"the loss is {loss.item()} at step {self.global_step}. Lower training.lr, raise "
                "training.warmup_epochs, or use --precision 32-true; the checkpoints before are kept."
            )
        self.log("train/loss", loss.detach(), on_step=True, on_epoch=False, prog_bar=True, batch_size=batch.num_graphs)
        return loss

    def on_train_batch_end(self, outputs: Any, batch: GraphBatch, batch_idx: int) -> None:
        self.log("lr", self.optimizers().param_groups[0]["lr"], batch_size=batch.num_graphs)  # type: ignore[union-attr]

    def on_validation_epoch_start(self) -> None:
        self._seen = []

    def validation_step(self, batch: GraphBatch, batch_idx: int) -> None:
        assert batch.y is not None
        self._seen.append((batch.y.double().cpu().numpy(), self.predictor(batch).double().cpu().numpy()))

    def on_validation_epoch_end(self) -> None:
        y_true, y_pred = (np.concatenate(part) for part in zip(*self._seen))
        self._seen = []
        value = score(self.predictor.task, y_true, y_pred)
        self.log(self.monitor, value, prog_bar=True, batch_size=len(y_true))

    def configure_optimizers(self) -> Any:
        """Returns AdamW, whose decay is on weight matrices only, and the schedule, stepped with it.

        Head gates are a group of their own: another rate, no decay.
        """
        gates = [p for gate in self.predictor.head_gates() for p in gate.parameters()]
        of_gates = set(map(id, gates))
        trained = [p for p in self.predictor.parameters() if p.requires_grad and id(p) not in of_gates]
        groups: list[dict[str, Any]] = [
            {"params": [p for p in trained if p.dim() > 1], "weight_decay": self.settings.weight_decay},
            {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
        ]
        if gates:
            groups.append({"params": gates, "weight_decay": 0.0, "lr": self.settings.gate_lr})
        # one kernel for all parameters; under a gradient scaler Lightning could not clip before such a step
        fused = self.settings.precision == "32-true"
        optimizer = torch.optim.AdamW(groups, lr=self.settings.lr, fused=fused)
        warmup = round(self.settings.warmup_epochs * self.steps_per_epoch)
        total = self.settings.max_epochs * self.steps_per_epoch
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: warmup_cosine(step, warmup, total))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
