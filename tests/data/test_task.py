import math

import pytest

from graphattn.data import Task
from graphattn.data.task import KIND_OF_METRIC


@pytest.mark.parametrize("metric", KIND_OF_METRIC)
def test_a_lower_error_and_a_higher_score_are_better(metric: str) -> None:
    task = Task("toy", KIND_OF_METRIC[metric], 1, metric).checked()
    assert task.is_better(0.25, than=0.75) == (metric == "rmse") == task.lower_is_better
    assert task.is_better(0.75, than=0.25) == (metric != "rmse")
    assert not task.is_better(0.5, than=0.5)


@pytest.mark.parametrize("metric", KIND_OF_METRIC)
def test_nan_beats_nothing_and_is_beaten_by_every_number(metric: str) -> None:
    task = Task("toy", KIND_OF_METRIC[metric], 1, metric)
    assert not task.is_better(math.nan, than=0.0)
    assert not task.is_better(math.nan, than=math.nan)
    assert task.is_better(0.0, than=math.nan)


def test_a_task_that_makes_no_sense_is_refused_with_what_would() -> None:
    with pytest.raises(ValueError, match=r"one of .'ap', 'rmse', 'rocauc'., got 'accuracy'"):
        Task("toy", "binary", 1, "accuracy").checked()
    with pytest.raises(ValueError, match=r"cannot have the metric 'rmse': use ap or rocauc"):
        Task("toy", "binary", 1, "rmse").checked()
    with pytest.raises(ValueError, match=r"the kinds are 'regression' and 'binary'"):
        Task("toy", "multiclass", 1, "rmse").checked()
    with pytest.raises(ValueError, match=r"num_tasks must be at least 1, got 0"):
        Task("toy", "binary", 0, "ap").checked()
