"""Batches in an order that a resumed run finds again: a function of (seed, epoch, position), and of nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler, Subset

from graphattn.data.dataset import GraphDataset


class EpochSampler(Sampler[int]):
    """Yields the numbers of `range(num_records)`, shuffled anew in each epoch, from any position on.

    The order depends on (num_records, seed, epoch) alone: not on global generators, workers or what ran before.
    Workers fetch ahead, so a sampler cannot know how far training came: the training loop does, and tells `state`.

    Args:
        num_records: at least 0.
        seed: at least 0.
        shuffle: False yields ascending numbers in every epoch.

    >>> sampler = EpochSampler(11, seed=0)
    >>> sampler.set_epoch(3)
    >>> order = list(sampler)
    >>> resumed = EpochSampler(11, seed=0)
    >>> resumed.load_state(sampler.state(position=4))
    >>> list(resumed) == order[4:]
    True
    """

    def __init__(self, num_records: int, seed: int = 0, *, shuffle: bool = True) -> None:
        if num_records < 0 or seed < 0:
            raise ValueError(f"num_records and seed must not be negative, got {num_records} and {seed}.")
        self.num_records, self.seed, self.shuffle = num_records, seed, shuffle
        self.epoch = self.position = 0

    def order(self, epoch: int) -> Tensor:
        """Returns the whole order of an epoch, int64 [num_records]."""
        if not self.shuffle:
            return torch.arange(self.num_records)
        mixed = int(np.random.SeedSequence((self.seed, epoch)).generate_state(1, np.uint64)[0] >> np.uint64(1))
        return torch.randperm(self.num_records, generator=torch.Generator().manual_seed(mixed))

    def set_epoch(self, epoch: int) -> None:
        """Goes to the beginning of an epoch; saying the current one again keeps the position that was loaded."""
        if epoch < 0:
            raise ValueError(f"epoch must not be negative, got {epoch}. The first epoch is 0.")
        if epoch != self.epoch:
            self.epoch, self.position = epoch, 0

    def state(self, position: int) -> dict[str, int]:
        """Returns what `load_state` needs to go on after `position` records of this epoch have been trained on.

        Raises:
            ValueError: if `position` is not between 0 and num_records.
        """
        if not 0 <= position <= self.num_records:
            raise ValueError(
                f"position must be between 0 and {self.num_records}, got {position}. It counts records, not batches."
            )
        return {"num_records": self.num_records, "seed": self.seed, "epoch": self.epoch, "position": position}

    def load_state(self, state: Mapping[str, int]) -> None:
        """Goes to where `state` was taken.

        Raises:
            ValueError: if the state is of another seed or number of records, whose order is another one.
        """
        for field in ("num_records", "seed"):
            if state[field] != getattr(self, field):
                raise ValueError(
                    f"the order was saved with {field} {state[field]}, and this run has {getattr(self, field)}. "
                    "Resume with the same data, split and seed, or begin a new run."
                )
        self.epoch, self.position = state["epoch"], state["position"]

    def __iter__(self) -> Iterator[int]:
        return iter(self.order(self.epoch)[self.position :].tolist())

    def __len__(self) -> int:
        return self.num_records - self.position


def make_loader(
    dataset: GraphDataset,
    split: str | Tensor,
    collate: Callable[[list[Any]], Any],
    *,
    batch_size: int = 32,
    shuffle: bool | None = None,
    seed: int = 0,
    num_workers: int = 0,
    drop_last: bool = False,
    pin_memory: bool = False,
) -> DataLoader:
    """Makes a loader over one split; its `sampler` is an `EpochSampler`, whose `set_epoch` reshuffles.

    Args:
        dataset: where graphs come from.
        split: "train", "valid", "test", or int64 indices.
        collate: list of `Data` → batch, run in the workers; must be picklable where workers are spawned.
        batch_size: graphs per batch.
        shuffle: None shuffles "train" and nothing else.
        seed: of the order.
        num_workers: processes that fetch and collate, kept over epochs; 0 does it in this one. The order is the same.
        drop_last: leave out a last batch that is not full.
        pin_memory: for copies to a GPU that overlap with work there.

    Raises:
        ValueError: if the split is unknown or empty, or batch_size is no positive number.

    >>> from graphattn.data import load
    >>> loader = make_loader(load("ogbg-molfreesolv"), "valid", collate=len, batch_size=25)
    >>> list(loader)
    [25, 25, 14]
    """
    indices = dataset.indices(split) if isinstance(split, str) else split
    if not indices.numel():
        raise ValueError(f"there are no graphs to load from {dataset.name}: the indices are empty.")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
    if shuffle is None:
        shuffle = isinstance(split, str) and split == "train"
    sampler = EpochSampler(indices.numel(), seed, shuffle=shuffle)
    return DataLoader(
        Subset(dataset, indices.tolist()),
        batch_size=batch_size,
        sampler=sampler,
        collate_fn=collate,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        drop_last=drop_last,
        pin_memory=pin_memory,
        generator=torch.Generator().manual_seed(seed),  # of the workers' seeds: the global one is left as it was
    )
