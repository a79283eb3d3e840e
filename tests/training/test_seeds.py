"""Several seeds, and their spread."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from graphattn.training import parse_seeds, train_seeds
from graphattn.training.seeds import as_text, mean_and_std, read_results, runs_in


@pytest.mark.parametrize("text", ["", "a", "1-", "-1", "3-1", "0,0", "0-3,2", "1.5"])
def test_text_that_is_no_list_of_seeds_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="seeds must be"):
        parse_seeds(text)


def test_the_spread_is_unbiased() -> None:
    values = np.random.default_rng(0).random(7).tolist()
    assert mean_and_std(values) == pytest.approx((np.mean(values), np.std(values, ddof=1)))
    assert math.isnan(mean_and_std([1.0])[1])
    assert as_text("x", [1.0]) == "x 1.0000"


def test_seeds_train_resume_and_are_summarized(make_config) -> None:
    config = make_config("--training.max_epochs", "1")
    path, results = train_seeds(config, [3, 5])
    assert (
        [Path(result.folder).name for result in results] == ["seed3", "seed5"] == [each.name for each in runs_in(path)]
    )
    summary = json.loads((path / "summary.json").read_text())
    tests = [result.test for result in results]
    assert summary["test"]["mean"] == pytest.approx(np.mean(tests))
    assert summary["test"]["std"] == pytest.approx(np.std(tests, ddof=1))
    assert read_results(path) == results
    (path / "seed5" / "result.json").unlink()
    (path / "summary.json").unlink()
    again, resumed = train_seeds(config, [3, 5], resume=True)
    assert again == path
    assert resumed[0] == results[0] and resumed[1].test == results[1].test
    with pytest.raises(FileNotFoundError, match="no run of 3 seeds"):
        train_seeds(config, [1, 2, 3], resume=True)
