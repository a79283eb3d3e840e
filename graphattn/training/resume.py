"""Going on to the same bits: every generator, the place in the epoch, and a loader that starts there."""

from __future__ import annotations

import math
import random
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as lightning
import numpy as np
import torch
from torch.utils.data import DataLoader

from graphattn.data import EpochSampler


def generator_states() -> dict[str, Any]:
    """Returns the states of Python's, numpy's and torch's generators, as tensors and plain numbers."""
    version, internal, gauss = random.getstate()
    _, keys, position, has_gauss, cached = np.random.get_state(legacy=True)  # type: ignore[misc]  # noqa: NPY002
    return {
        "python": {"version": version, "internal": list(internal), "gauss": gauss},
        "numpy": {
            "keys": torch.from_numpy(np.asarray(keys).astype(np.int64)),
            "position": int(position),
            "has_gauss": int(has_gauss),
            "cached": float(cached),
        },
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_generators(states: dict[str, Any]) -> None:
    """Puts every generator where `generator_states` found it."""
    python, numpy = states["python"], states["numpy"]
    random.setstate((python["version"], tuple(python["internal"]), python["gauss"]))
    keys = numpy["keys"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", keys, numpy["position"], numpy["has_gauss"], numpy["cached"]))  # noqa: NPY002
    torch.set_rng_state(states["torch"])
    if states["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(states["cuda"])


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Inside, the global generators are seeded; afterwards they are where the caller had them."""
    before = generator_states()
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    torch.manual_seed(seed)
    try:
        yield
    finally:
        restore_generators(before)


class EpochLoader:
    """A loader over an `EpochSampler` that goes on in the middle of an epoch, with the length of a whole one.

    Lightning asks for the length once and counts batches itself, so it must not shrink with what is left; and it does
    not replace the sampler of something that is no `DataLoader`.

    Args:
        loader: as `make_loader` makes it.
    """

    def __init__(self, loader: DataLoader) -> None:
        assert isinstance(loader.sampler, EpochSampler) and loader.batch_size is not None
        self.loader, self.sampler, self.batch_size = loader, loader.sampler, loader.batch_size
        # Ctrl-C reaches all processes of a terminal; it is for the training process to decide
        loader.worker_init_fn = _ignore_interrupts

    def __len__(self) -> int:
        return math.ceil(self.sampler.num_records / self.batch_size)

    def __iter__(self) -> Iterator[Any]:
        yield from self.loader  # a generator reads the sampler at the first `next`, after set_epoch

    def position(self, num_batches: int) -> int:
        """Returns how many records of an epoch its first batches hold."""
        return min(num_batches * self.batch_size, self.sampler.num_records)

    # Lightning asks for these; the callback below stores the place, since it knows how far training came.
    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


def _ignore_interrupts(worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class ExactResume(lightning.Callback):
    """Stores in each checkpoint what Lightning does not: generators, and the order of examples and the place in it.

    Checkpoints are taken after a batch that is not the last of its epoch, or after an epoch with its validation.
    Lightning's own record of the latter case would repeat the end of the epoch, so it is completed here.
    """

    def __init__(self, loader: EpochLoader) -> None:
        self.loader = loader
        self.after_epoch = False  # whether the checkpoint that is being taken, or was loaded, is one after an epoch
        self._generators: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        return {}  # on_save_checkpoint writes it, where the trainer is known

    def on_save_checkpoint(self, trainer: Any, module: Any, checkpoint: dict[str, Any]) -> None:
        sampler, loops = self.loader.sampler, checkpoint["loops"]["fit_loop"]
        if self.after_epoch:
            for progress in loops["epoch_progress"].values():
                progress["completed"] = progress["processed"]
            position = {**sampler.state(0), "epoch": trainer.current_epoch + 1}
        else:
            done = loops["epoch_loop.batch_progress"]["current"]["processed"]
            position = sampler.state(self.loader.position(done))
        checkpoint["resume"] = {
            "sampler": position,
            "batch_size": self.loader.batch_size,
            "after_epoch": self.after_epoch,
            "generators": generator_states(),
        }

    def on_load_checkpoint(self, trainer: Any, module: Any, checkpoint: dict[str, Any]) -> None:
        state = checkpoint["resume"]
        if state["batch_size"] != self.loader.batch_size:
            raise ValueError(
                f"the run had data.batch_size {state['batch_size']}, got {self.loader.batch_size}. "
                "Resume with the same, or begin a new run."
            )
        self.loader.sampler.load_state(state["sampler"])
        self.after_epoch, self._generators = state["after_epoch"], state["generators"]

    def on_train_start(self, trainer: Any, module: Any) -> None:
        if self._generators is None:
            return
        restore_generators(self._generators)
        if self.after_epoch:
            trainer.fit_loop.restarting = False  # the next epoch begins as it does after any other
        self._generators, self.after_epoch = None, False
