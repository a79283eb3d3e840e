"""Stored predictions and their official score."""

from pathlib import Path

import numpy as np
import pytest

from graphattn.training import evaluate_run
from graphattn.training.evaluate import Predictions, read_predictions


def test_a_run_scores_what_its_result_says(finished) -> None:
    assert evaluate_run(finished.folder)[1] == pytest.approx(finished.test, abs=1e-9)
    assert evaluate_run(finished.folder, "valid")[1] == pytest.approx(finished.valid, abs=1e-9)


def test_stored_predictions_are_scored_instead(finished, tmp_path: Path) -> None:
    stored = read_predictions(Path(finished.folder) / "predictions_test.npz")
    Predictions(stored.index, stored.y_true, np.nan_to_num(stored.y_true)).write(tmp_path / "perfect.npz")
    assert evaluate_run(finished.folder, predictions=tmp_path / "perfect.npz")[1] == 0.0


def test_files_that_hold_no_predictions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no file"):
        read_predictions(tmp_path / "nowhere.npz")
    (tmp_path / "text.npz").write_text("hello")
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    for name in ("text.npz", "other.npz"):
        with pytest.raises(ValueError, match=r"must be an \.npz with y_true and y_pred"):
            read_predictions(tmp_path / name)
