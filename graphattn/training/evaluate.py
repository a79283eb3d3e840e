"""Predictions of a trained run on a split, stored so that others can score them, and their official score."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from graphattn.data import GraphDataset, Task, load, make_loader
from graphattn.data.files import write_whole
from graphattn.training.folder import RunFolder
from graphattn.training.load import load_run
from graphattn.training.metric import score
from graphattn.training.predictor import GraphPredictor


@dataclass(frozen=True, eq=False)
class Predictions:
    """Predictions beside labels, in the order of `index`."""

    index: np.ndarray  # int64 [num_graphs], number of each graph in the data set
    y_true: np.ndarray  # float64 [num_graphs, num_tasks], NaN where unlabelled
    y_pred: np.ndarray  # float64 [num_graphs, num_tasks]

    def write(self, path: Path) -> None:
        """Writes an .npz, whole or not at all; `np.load(path)` reads it without graphattn."""
        stream = io.BytesIO()
        np.savez(stream, index=self.index, y_true=self.y_true, y_pred=self.y_pred)
        write_whole(path, stream.getvalue())


def read_predictions(path: str | Path) -> Predictions:
    """Reads stored predictions.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no .npz with y_true and y_pred.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            index = stored["index"] if "index" in stored else np.arange(len(stored["y_true"]))
            return Predictions(index, stored["y_true"], stored["y_pred"])
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no file {path}. A run stores predictions_test.npz in its folder.") from None
    except (ValueError, KeyError, EOFError, OSError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} must be an .npz with y_true and y_pred [num_graphs, num_tasks] ({error}).") from error


def predict_split(
    predictor: GraphPredictor, dataset: GraphDataset, split: str, *, batch_size: int | None = None, num_workers: int = 0
) -> Predictions:
    """Predicts a split, in its own order.

    Raises:
        ValueError: if the split is unknown or empty.
    """
    batch_size = batch_size or predictor.config.data.batch_size
    loader = make_loader(
        dataset, split, predictor.collate, batch_size=batch_size, shuffle=False, num_workers=num_workers
    )
    index = dataset.indices(split)
    return Predictions(index.numpy(), dataset.labels[index].double().numpy(), predictor.predict(loader))


def evaluate_run(
    run: str | Path, split: str = "test", *, checkpoint: str | None = None, predictions: str | Path | None = None
) -> tuple[Task, float]:
    """Returns the task and the official metric of a run.

    Args:
        run: its folder.
        split: "train", "valid" or "test".
        checkpoint: None for the best one.
        predictions: score this stored file instead of running the model.

    Raises:
        FileNotFoundError, ValueError: as `load_run` and `read_predictions`; ImportError without ogb.
    """
    predictor = load_run(RunFolder(Path(run)).path, checkpoint)
    if predictions is not None:
        stored = read_predictions(predictions)
    else:
        data = predictor.config.data
        stored = predict_split(predictor, load(data.name, data.root, yes=data.yes), split)
    return predictor.task, score(predictor.task, stored.y_true, stored.y_pred)
