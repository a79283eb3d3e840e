"""The Lightning side: optimizer groups, schedule, and what a diverging loss says."""

import pytest
import torch

from graphattn.data import load
from graphattn.training import GraphPredictor, train
from graphattn.training.config import resolved
from graphattn.training.module import TrainingModule


def test_weights_decay_and_biases_do_not(make_config) -> None:
    dataset = load("toy_rings:rings")
    predictor = GraphPredictor(resolved(make_config(), dataset), dataset.task)
    made = TrainingModule(predictor, steps_per_epoch=7).configure_optimizers()
    decayed, kept = made["optimizer"].param_groups
    assert decayed["weight_decay"] > 0 and kept["weight_decay"] == 0
    assert {p.dim() for p in kept["params"]} <= {0, 1} and min(p.dim() for p in decayed["params"]) == 2
    assert sum(p.numel() for g in (decayed, kept) for p in g["params"]) == sum(
        p.numel() for p in predictor.parameters()
    )
    assert made["lr_scheduler"]["interval"] == "step"


def test_a_loss_that_is_not_finite_stops_the_run_with_advice(make_config, monkeypatch) -> None:
    monkeypatch.setattr(GraphPredictor, "loss", lambda self, batch: next(self.parameters()).sum() * torch.nan)
    with pytest.raises(ValueError, match=r"the loss is nan at step 0\. Lower training\.lr"):
        train(make_config())


def test_binary_tasks_train_and_score(make_config) -> None:
    result = train(make_config("--data.name", "toy_rings:halves", "--training.max_epochs", "2"))
    assert result.metric == "rocauc"
    assert 0 <= result.valid <= 1
