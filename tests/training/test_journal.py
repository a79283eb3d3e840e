"""One JSON object per line, cut where a run resumes."""

import io
import json
from pathlib import Path
from types import SimpleNamespace

import torch

from graphattn.training.journal import EpochLines, Journal


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_lines_are_json_with_null_for_what_is_not_finite(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    journal.log_metrics({"train/loss": 0.5, "epoch": 0.0}, step=9)
    journal.log_metrics({"valid/rmse": float("nan"), "epoch": 0.0}, step=14)
    first, second = lines(journal.path)
    assert (first["step"], first["epoch"], first["train/loss"]) == (9, 0, 0.5)
    assert second["valid/rmse"] is None


def test_resuming_drops_later_lines_and_one_that_was_cut_off(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    journal.drop_after(3)  # there is no file yet
    for step in (1, 3, 5):
        journal.log_metrics({"lr": 0.1}, step=step)
    with open(journal.path, "a") as file:
        file.write('{"step": 2, "lr"')
    journal.drop_after(4)
    assert [line["step"] for line in lines(journal.path)] == [1, 3]


def test_a_finished_run_has_steps_and_epochs_in_its_journal(finished) -> None:
    found = lines(Path(finished.folder) / "journal.jsonl")
    assert [line["epoch"] for line in found if "valid/rmse" in line] == [0, 1, 2]
    assert any("train/loss" in line for line in found) and any("lr" in line for line in found)
    assert list((Path(finished.folder) / "tensorboard").glob("events.out.tfevents.*"))


def test_a_pipe_gets_one_line_per_epoch() -> None:
    stream = io.StringIO()
    checkpoints = SimpleNamespace(monitor="valid/rmse", best_value=0.5, best_epoch=1)
    printer = EpochLines(checkpoints, stream)  # type: ignore[arg-type]
    trainer = SimpleNamespace(current_epoch=2, max_epochs=7, callback_metrics={"valid/rmse": torch.tensor(0.75)})
    printer.on_train_epoch_start(trainer, None)
    for loss in (1.0, 2.0):
        printer.on_train_batch_end(trainer, None, {"loss": torch.tensor(loss)}, None, 0)
    printer.on_train_epoch_end(trainer, None)
    assert stream.getvalue().startswith("epoch 3/7  train/loss 1.5000  valid/rmse 0.7500  best 0.5000 (epoch 2)")


def test_a_run_that_resumes_within_an_epoch_counts_from_where_it_resumed() -> None:
    stream = io.StringIO()
    checkpoints = SimpleNamespace(monitor="valid/rmse", best_value=0.5, best_epoch=1)
    printer = EpochLines(checkpoints, stream)  # type: ignore[arg-type]
    trainer = SimpleNamespace(current_epoch=2, max_epochs=7, callback_metrics={})
    printer.on_train_start(trainer, None)
    printer.on_train_batch_end(trainer, None, {"loss": torch.tensor(1.0)}, None, 0)
    printer.on_train_epoch_end(trainer, None)
    assert float(stream.getvalue().split()[-2]) < 60  # and not seconds since the machine was started
