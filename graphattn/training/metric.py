"""The official number: ogb's own Evaluator, for its data sets and for yours."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from graphattn.data import Task


def score(task: Task, y_true: np.ndarray, y_pred: np.ndarray) -> float:
    """Returns the task's metric as ogb computes it; labels that are NaN are left out.

    Args:
        task: of an ogbg data set, or of one of yours, for which the Evaluator is set to the same metric.
        y_true, y_pred: [num_graphs, num_tasks].

    Returns:
        NaN where the metric is not defined: ROC-AUC and AP need both classes in some task, RMSE needs a label.

    Raises:
        ImportError: if ogb is not installed.
        ValueError: if shapes differ, there are other than num_tasks columns, or a prediction is NaN.

    >>> score(Task("toy", "regression", 1, "rmse"), np.array([[0.0], [2.0]]), np.array([[1.0], [1.0]]))
    1.0
    """
    y_true, y_pred = np.asarray(y_true, dtype=np.float64), np.asarray(y_pred, dtype=np.float64)
    if y_true.shape != y_pred.shape or y_true.ndim != 2 or y_true.shape[1] != task.num_tasks:
        raise ValueError(
            f"y_true and y_pred of {task.name} must have shape [num_graphs, {task.num_tasks}], "
            f"got {list(y_true.shape)} and {list(y_pred.shape)}. Store one column per task."
        )
    if np.isnan(y_pred).any():
        row = int(np.isnan(y_pred).any(1).argmax())
        raise ValueError(
            f"y_pred is NaN in row {row}: the model diverged. Lower training.lr, or use --precision 32-true."
        )
    if task.metric == "rmse":
        tasks = [column for column in range(task.num_tasks) if not np.isnan(y_true[:, column]).all()]
        if not tasks:
            return math.nan
        evaluator = _evaluator(task)
        evaluator.num_tasks = len(tasks)
        y_true, y_pred = y_true[:, tasks], y_pred[:, tasks]
    else:
        if not any(_has_both_classes(y_true[:, column]) for column in range(task.num_tasks)):
            return math.nan
        evaluator = _evaluator(task)
    return float(evaluator.eval({"y_true": y_true, "y_pred": y_pred})[task.metric])


def _has_both_classes(labels: np.ndarray) -> bool:
    return bool((labels == 0).any() and (labels == 1).any())


def _evaluator(task: Task) -> Any:
    try:
        with _no_network():
            from ogb.graphproppred.evaluate import Evaluator
    except ImportError as error:
        raise ImportError(
            "the official metric needs the ogb package, which is not installed: pip install graphattn[train]"
        ) from error
    evaluator = Evaluator.__new__(Evaluator)  # its constructor knows no other names than ogb's
    evaluator.name, evaluator.num_tasks, evaluator.eval_metric = task.name, task.num_tasks, task.metric
    return evaluator


@contextmanager
def _no_network() -> Iterator[None]:
    """Inside, ogb does not find the package with which its import asks the network for a newer version."""
    if "ogb" in sys.modules or "outdated" in sys.modules:
        yield
        return
    sys.modules["outdated"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["outdated"]
