"""The self-ensemble: a model trained on drawn graphs predicts over many draws, and the predictions are averaged."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from graphattn.data import GraphDataset, Task, load, make_loader
from graphattn.selection import drawing
from graphattn.training.evaluate import Predictions
from graphattn.training.folder import RunFolder
from graphattn.training.load import find_checkpoint, load_run, read_checkpoint
from graphattn.training.metric import score
from graphattn.training.predictor import GraphPredictor

AVERAGES = {"regression": ("values",), "binary": ("probabilities", "logits")}  # the first is the default


@dataclass(frozen=True, eq=False)
class SelfEnsemble:
    """Averaged predictions of several passes, and how far the passes are apart."""

    task: Task
    predictions: Predictions  # of the average
    passes: np.ndarray  # float64 [num_passes, num_graphs, num_tasks], the labels that each pass predicts

    @property
    def score(self) -> float:
        """The official metric of the averaged predictions."""
        return score(self.task, self.predictions.y_true, self.predictions.y_pred)

    @property
    def scores(self) -> list[float]:
        """The official metric of each pass alone."""
        return [score(self.task, self.predictions.y_true, y_pred) for y_pred in self.passes]

    @property
    def spread(self) -> np.ndarray:
        """Standard deviation of each prediction over the passes, float64 [num_graphs, num_tasks]; 0 of one pass."""
        return self.passes.std(0, ddof=1) if len(self.passes) > 1 else np.zeros_like(self.passes[0])

    @property
    def mean_spread(self) -> float:
        """The mean of `spread`, in units of the labels."""
        return float(self.spread.mean())


def predict_self_ensemble(
    predictor: GraphPredictor,
    dataset: GraphDataset,
    split: str,
    num_passes: int,
    *,
    average: str | None = None,
    seed: int = 0,
    batch_size: int | None = None,
) -> SelfEnsemble:
    r"""Predicts a split `num_passes` times, each time over graphs that its layers draw anew, and averages.

        ŷ = 1/N Σ_n f(x; draw n),   or σ(1/N Σ_n logit(x; draw n)) for average="logits"

    The model is in evaluation mode but for its draws: no dropout, and norms as trained.

    Args:
        predictor: a model with a selection that draws; afterwards it draws when it did before.
        dataset, split: what to predict, in its own order.
        num_passes: N, at least 1.
        average: "values" of a regression; "probabilities" (None) or "logits" of a classification.
        seed: of the draws; the same one repeats them. The default generator of torch is as it was afterwards.
        batch_size: None for that of the run. Draws differ with it, for a batch is drawn at once.

    Raises:
        ValueError: if the model draws nothing, num_passes < 1, or `average` is none for the task.

    Source: Hussain et al. 2023 (The Information Pathways Hypothesis: Transformers are Dynamic Self-Ensembles), as their
    abstract has it. That probabilities are averaged by default is ours.
    """
    task = predictor.task
    if isinstance(num_passes, bool) or not isinstance(num_passes, int) or num_passes < 1:
        raise ValueError(f"num_passes must be an int of at least 1, got {num_passes!r}. 16 passes are a usual number.")
    allowed = AVERAGES[task.kind]
    average = allowed[0] if average is None else average
    if average not in allowed:
        raise ValueError(
            f"average must be {' or '.join(map(repr, allowed))} for a task of kind {task.kind!r}, got {average!r}. "
            "Leave it out for the first."
        )
    loader = make_loader(
        dataset, split, predictor.collate, batch_size=batch_size or predictor.config.data.batch_size, shuffle=False
    )
    outputs: list[list[Tensor]] = [[] for _ in range(num_passes)]
    with drawing(predictor, "always"), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for batch in loader:  # all passes over one batch, so that one batch at a time is held
            for of_pass in outputs:
                of_pass.append(predictor.outputs([batch]).double())
    output = torch.stack([torch.cat(of_pass) for of_pass in outputs])  # [num_passes, num_graphs, num_tasks]
    passes = torch.stack([_labels(predictor, each) for each in output])
    mean = _labels(predictor, output.mean(0)) if average == "logits" else passes.mean(0)
    index = dataset.indices(split)
    predictions = Predictions(index.numpy(), dataset.labels[index].double().numpy(), mean.numpy())
    return SelfEnsemble(task, predictions, passes.numpy())


def evaluate_self_ensemble(
    run: str | Path,
    split: str = "test",
    num_passes: int = 16,
    *,
    average: str | None = None,
    checkpoint: str | None = None,
) -> SelfEnsemble:
    """Returns the self-ensemble of a run on a split of its data set; arguments and errors as `predict_self_ensemble`.

    Args:
        run: its folder.
        checkpoint: None for the best one.
    """
    folder = RunFolder(Path(run))
    predictor = load_run(folder.path, checkpoint)
    data, training = predictor.config.data, predictor.config.training
    if (
        training.dense_from < 1.0
        and read_checkpoint(find_checkpoint(folder, checkpoint))["epoch"] >= training.dense_epoch
    ):
        warnings.warn(
            f"{run} ended with dense fine-tuning (training.dense_from {training.dense_from}): its passes over drawn "
            "graphs are not what it was trained for last",
            stacklevel=2,
        )
    return predict_self_ensemble(
        predictor, load(data.name, data.root, yes=data.yes), split, num_passes, average=average
    )


def _labels(predictor: GraphPredictor, output: Tensor) -> Tensor:
    """Returns outputs in units of the labels, float64."""
    return predictor.objective.to_labels(output).double().cpu()
