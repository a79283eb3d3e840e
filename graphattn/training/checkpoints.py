"""Best and last checkpoints, written whole or not at all, early stopping, and the orderly end after Ctrl-C."""

from __future__ import annotations

import errno
import io
import math
import signal
import threading
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import torch
from lightning.pytorch.plugins.io import CheckpointIO

from graphattn.data import Task
from graphattn.data.files import DISK_FULL, megabytes, write_whole
from graphattn.training.resume import ExactResume

BEST, LAST = "best.ckpt", "last.ckpt"


class Interrupted(Exception):
    """Training ended at a signal, between two steps, with `last.ckpt` written.

    Attributes:
        signal_number: SIGINT or SIGTERM.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signal_number).name}")
        self.signal_number = signal_number


class WholeFiles(CheckpointIO):
    """Writes checkpoints under another name and renames them; reads them with `weights_only=True`."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        stream = io.BytesIO()
        torch.save(checkpoint, stream)
        payload = stream.getvalue()
        try:
            write_whole(Path(path), payload)
        except OSError as error:
            if error.errno not in DISK_FULL and error.errno != errno.EFBIG:
                raise
            raise OSError(
                error.errno,
                f"the disk is full: a checkpoint needs {megabytes(len(payload))}. The one before is untouched; free "
                "some space and run the same command with --resume. The path was",
                str(path),
            ) from error

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        return torch.load(path, map_location=map_location or "cpu", weights_only=True)

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)


class OrderlyInterrupts:
    """Inside, the first Ctrl-C (or SIGTERM) is only noted, for `Checkpoints` to stop between two steps.

    The second one interrupts at once, as ever. Outside of the main thread signals are left alone.

    Attributes:
        number: of the signal that has come, None before.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.number: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> OrderlyInterrupts:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.getsignal(number) for number in self.SIGNALS}
            self.install()
        return self

    def install(self) -> None:
        """Takes the signals; called again where Lightning has put its own handler for SIGTERM before ours."""
        for number in self._before:
            signal.signal(number, self._note)

    def _note(self, number: int, frame: Any) -> None:
        if self.number is not None:
            raise KeyboardInterrupt
        self.number = number

    def __exit__(self, *error: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


class Checkpoints(lightning.Callback):
    """Keeps `best.ckpt` and `last.ckpt` of each epoch, and `step-N.ckpt` if asked; stops when nothing gets better.

    Args:
        folder: where checkpoints go.
        task: says which value of the metric is better.
        monitor: name of the metric among those that are logged.
        header: stored in each checkpoint under "graphattn": what is needed to build the model again.
        resume: learns whether a checkpoint is taken after an epoch.
        patience: epochs without a better value; 0 never stops.
        save_every_steps: 0 keeps no checkpoints of steps.
        fresh_from: the first epoch of another kind of training: those before it are forgotten, however good.
        interrupts: knows of Ctrl-C; None for a run that nobody interrupts.
    """

    def __init__(
        self,
        folder: Path,
        task: Task,
        monitor: str,
        header: dict[str, Any],
        resume: ExactResume,
        *,
        patience: int = 0,
        save_every_steps: int = 0,
        fresh_from: int = 0,
        interrupts: OrderlyInterrupts | None = None,
    ) -> None:
        self.folder, self.task, self.monitor, self.header, self.resume = folder, task, monitor, header, resume
        self.patience, self.save_every_steps, self.fresh_from = patience, save_every_steps, fresh_from
        self.interrupts = interrupts or OrderlyInterrupts()
        self.best_value, self.best_epoch, self.stopped_early = math.nan, -1, False

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.best_value, "epoch": self.best_epoch, "stopped_early": self.stopped_early}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best_value, self.best_epoch = state["value"], state["epoch"]
        self.stopped_early = state["stopped_early"]

    def on_train_start(self, trainer: Any, module: Any) -> None:
        self.interrupts.install()

    def on_save_checkpoint(self, trainer: Any, module: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint["graphattn"] = self.header

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            return  # the epoch ends with its validation, and on_train_epoch_end
        if self.interrupts.number is not None:
            self._save(trainer, LAST)
            raise Interrupted(self.interrupts.number)
        if self.save_every_steps and trainer.global_step % self.save_every_steps == 0:
            self._save(trainer, f"step-{trainer.global_step}.ckpt")
            self._save(trainer, LAST)

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        self.resume.after_epoch = True
        try:
            value = float(trainer.callback_metrics.get(self.monitor, math.nan))
            is_first = self.best_epoch < 0 or self.best_epoch < self.fresh_from <= trainer.current_epoch
            if is_first or self.task.is_better(value, than=self.best_value):
                self.best_value, self.best_epoch = value, trainer.current_epoch
                self._save(trainer, BEST)
            self.stopped_early = bool(self.patience) and trainer.current_epoch - self.best_epoch >= self.patience
            trainer.should_stop = trainer.should_stop or self.stopped_early
            self._save(trainer, LAST)
        finally:
            self.resume.after_epoch = False
        if self.interrupts.number is not None:
            raise Interrupted(self.interrupts.number)

    def _save(self, trainer: Any, name: str) -> None:
        trainer.save_checkpoint(self.folder / name)
