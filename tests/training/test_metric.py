"""The official metric, compared with its definition."""

import subprocess
import sys

import numpy as np
import pytest

from graphattn.data import Task
from graphattn.training.metric import score

NAN = float("nan")
GENERATOR = np.random.default_rng(0)


def auc(y: np.ndarray, p: np.ndarray) -> float:
    """The probability that a positive ranks above a negative, ties half."""
    difference = p[y == 1][:, None] - p[y == 0]
    return float(((difference > 0) + 0.5 * (difference == 0)).mean())


def test_rocauc_is_the_mean_over_tasks_with_both_classes() -> None:
    y = np.array([[0.0, 1.0, NAN], [1.0, 1.0, NAN], [1.0, NAN, NAN], [0.0, 1.0, NAN], [1.0, 1.0, 1.0]])
    p = GENERATOR.random((5, 3))
    assert score(Task("ogbg-moltox21", "binary", 3, "rocauc"), y, p) == pytest.approx(auc(y[:, 0], p[:, 0]))


def test_ap_is_precision_averaged_over_recall() -> None:
    y, p = np.array([[1.0], [0.0], [1.0]]), np.array([[0.9], [0.8], [0.7]])
    assert score(Task("toy", "binary", 1, "ap"), y, p) == pytest.approx((1 + 2 / 3) / 2)


def test_rmse_is_averaged_over_tasks_and_leaves_missing_labels_out() -> None:
    y, p = np.array([[0.0, NAN], [0.0, NAN], [NAN, NAN]]), np.array([[3.0, 1.0], [4.0, 1.0], [9.0, 9.0]])
    assert score(Task("toy", "regression", 2, "rmse"), y, p) == pytest.approx(np.sqrt(12.5))


@pytest.mark.parametrize(("kind", "metric"), [("regression", "rmse"), ("binary", "rocauc"), ("binary", "ap")])
def test_a_metric_that_is_not_defined_is_nan(kind: str, metric: str) -> None:
    y = np.full((3, 1), NAN) if kind == "regression" else np.ones((3, 1))
    assert np.isnan(score(Task("toy", kind, 1, metric), y, np.zeros((3, 1))))


def test_wrong_shapes_and_nan_predictions_are_refused() -> None:
    task = Task("toy", "regression", 1, "rmse")
    with pytest.raises(ValueError, match=r"must have shape \[num_graphs, 1\]"):
        score(task, np.zeros((3, 2)), np.zeros((3, 2)))
    with pytest.raises(ValueError, match="NaN in row 1"):
        score(task, np.zeros((2, 1)), np.array([[0.0], [NAN]]))


@pytest.mark.slow
def test_scoring_does_not_ask_the_network_for_a_newer_ogb() -> None:
    code = (
        "import sys, numpy as np; from graphattn.data import Task; from graphattn.training.metric import score;"
        "score(Task('toy', 'regression', 1, 'rmse'), np.zeros((2, 1)), np.zeros((2, 1)));"
        "print('outdated' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"
