"""What happened, one JSON object per line, and one line per epoch for people who read a pipe."""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path
from typing import Any, TextIO

import lightning.pytorch as lightning
from lightning.pytorch.loggers.logger import Logger

from graphattn.training.checkpoints import Checkpoints
from graphattn.training.folder import read_journal


class Journal(Logger):
    """Appends what is logged to a file: {"step": 10, "epoch": 0, "train/loss": 0.93, "seconds": 1.7}.

    A run that resumes from step k first drops the lines after k, so the journal reads as if it had never stopped.
    Numbers that are not finite are null. A line that cannot be written costs a warning, not the run.

    Args:
        path: of the file; it is made.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self._started = time.monotonic()

    @property
    def name(self) -> str:
        return "journal"

    @property
    def version(self) -> str:
        return ""

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: the resolved configuration lies beside the journal."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        line: dict[str, Any] = {"step": step, **metrics, "seconds": round(time.monotonic() - self._started, 3)}
        if isinstance(line.get("epoch"), float):
            line["epoch"] = int(line["epoch"])
        finite = {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in line.items()}
        try:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps(finite) + "\n")
        except OSError as error:
            print(f"graphattn: {self.path} was not written ({error})", file=sys.stderr)

    def drop_after(self, step: int) -> None:
        """Drops lines of later steps, and a last line that was cut off."""
        if self.path.exists():
            kept = [json.dumps(line) + "\n" for line in read_journal(self.path) if line["step"] < step]
            self.path.write_text("".join(kept), encoding="utf-8")


class EpochLines(lightning.Callback):
    """Prints one line per epoch: loss, valid metric, the best one so far, seconds.

    Args:
        checkpoints: knows the best.
        stream: None is stderr.
    """

    def __init__(self, checkpoints: Checkpoints, stream: TextIO | None = None) -> None:
        self.checkpoints, self.stream = checkpoints, stream
        self._started, self._count = 0.0, 0
        self._sum: Any = 0.0

    def on_train_start(self, trainer: Any, module: Any) -> None:
        self._started = time.monotonic()  # a run that resumes within an epoch does not start that epoch again

    def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
        self._started, self._sum, self._count = time.monotonic(), 0.0, 0

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._sum = self._sum + outputs["loss"].detach()  # a tensor: reading it each step would stall a GPU
        self._count += 1

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        best, name = self.checkpoints, self.checkpoints.monitor
        value, loss = float(trainer.callback_metrics.get(name, math.nan)), float(self._sum) / max(self._count, 1)
        print(
            f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}  train/loss {loss:.4f}  "
            f"{name} {value:.4f}  best {best.best_value:.4f} (epoch {best.best_epoch + 1})  "
            f"{time.monotonic() - self._started:.1f} s",
            file=self.stream or sys.stderr,
            flush=True,
        )
