"""A data set: graphs with labels, a task, and the split everybody uses."""

from __future__ import annotations

import copy
import operator
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from graphattn.data.packed import SPLITS
from graphattn.data.task import Task

if TYPE_CHECKING:
    from torch_geometric.data import Data


class GraphDataset(Dataset):
    """Graphs by index, as PyG `Data` with x, edge_index, edge_attr, y float32 [1, num_tasks], and smiles if known.

    Each also carries its `record_number`, the int it was asked for by, through samplers, workers and PyG's own batches
    (where it is [num_graphs]); errors name the graph by it. It is not called an index: to attributes with that in their
    names PyG adds numbers of nodes when it makes a batch.

    Attributes:
        name: what it was loaded by.
        task: kind and number of labels, and the metric.
        split: "train", "valid", "test" → int64 indices, disjoint.
        labels: float32 [num_graphs, num_tasks], NaN where a label is missing.
        num_nodes, num_edges: int64 [num_graphs]; an undirected bond counts as two edges.
        source: where the graphs came from, a folder or a function.
        fingerprint: sha256 over the raw files, None for graphs made by a function.
        differs: raw files whose checksum is not the one on the data set's card; empty if all agree or there is no card.
    """

    def __init__(
        self,
        name: str,
        task: Task,
        split: Mapping[str, Tensor],
        records: Sequence[Data],
        *,
        labels: Tensor,
        num_nodes: Tensor,
        num_edges: Tensor,
        source: str,
        fingerprint: str | None = None,
        differs: Sequence[str] = (),
    ) -> None:
        """Takes the parts as they are; `checked` checks them, when a data set is made and not whenever it is loaded."""
        self.name, self.task, self.split, self.records = name, task, dict(split), records
        self.labels, self.num_nodes, self.num_edges = labels, num_nodes, num_edges
        self.source, self.fingerprint, self.differs = source, fingerprint, tuple(differs)

    def checked(self) -> GraphDataset:
        """Returns the data set unchanged.

        Raises:
            ValueError: if there are no graphs, labels do not fit the task, or the split names a graph twice or one
                that is not there.
        """
        if not len(self.records):
            raise ValueError(f"{self.name} has no graphs. A data set needs at least one; it comes from {self.source}.")
        _check_task(self.task, self.labels)
        _check_split(self.split, len(self.records), self.name)
        return self

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Data:
        """Returns one graph, a shallow copy with its number; an IndexError says how many there are."""
        number = operator.index(index)
        number += len(self) if number < 0 else 0
        if not 0 <= number < len(self):
            raise IndexError(f"graph {index} is not in {self.name}, which has {len(self):,}, counted from 0.")
        data = copy.copy(self.records[number])
        data.record_number = number
        return data

    def __repr__(self) -> str:
        parts = ", ".join(f"{part} {self.split[part].numel():,}" for part in SPLITS)
        return f"GraphDataset({self.name}: {len(self):,} graphs, {parts}, {self.task.kind}, {self.task.metric})"

    def indices(self, split: str) -> Tensor:
        """Returns the int64 indices of a split.

        Raises:
            ValueError: if there is no such split, or it is empty.
        """
        if split not in self.split:
            raise ValueError(f"split must be one of {', '.join(self.split)}, got {split!r}.")
        if not self.split[split].numel():
            raise ValueError(f"the {split} split of {self.name} is empty. Choose another split, or split it otherwise.")
        return self.split[split]

    def statistics(self) -> dict[str, Any]:
        """Counts graphs, nodes, edges and labels, as data set cards list them.

        Returns:
            plain numbers only, ready for JSON; positives are given for binary tasks, mean and std for regression.
        """
        is_known = ~self.labels.isnan()
        known = self.labels[is_known].double()
        labels: dict[str, Any] = {"present": int(is_known.sum()), "missing": int((~is_known).sum())}
        if self.task.kind == "binary":
            labels["positive"] = int(known.sum())
        elif known.numel():
            labels |= {"mean": round(float(known.mean()), 4), "std": round(float(known.std(correction=0)), 4)}
        return {
            "num_graphs": len(self),
            "num_nodes": int(self.num_nodes.sum()),
            "num_edges": int(self.num_edges.sum()),
            "nodes_per_graph": _spread(self.num_nodes),
            "edges_per_graph": _spread(self.num_edges),
            "graphs_without_edges": int((self.num_edges == 0).sum()),
            "graphs_of_one_node": int((self.num_nodes == 1).sum()),
            "labels": labels,
            "split": {part: self.split[part].numel() for part in SPLITS},
        }


def _spread(counts: Tensor) -> dict[str, float]:
    return {
        "min": int(counts.min()),
        "median": int(counts.median()),
        "mean": round(float(counts.double().mean()), 2),
        "max": int(counts.max()),
    }


def _check_task(task: Task, labels: Tensor) -> None:
    task.checked()
    if labels.shape[1] != task.num_tasks:
        raise ValueError(
            f"{task.name} must have {task.num_tasks} labels per graph, got {labels.shape[1]}. "
            "Check num_tasks of the task, or the columns of y."
        )
    if labels.isinf().any():
        raise ValueError(f"y of graph {_first(labels.isinf())} is infinite. Use NaN for a label that is missing.")
    if task.kind == "binary" and (wrong := (labels != 0) & (labels != 1) & ~labels.isnan()).any():
        index = _first(wrong)
        raise ValueError(
            f"y of graph {index} must be 0, 1 or NaN in a binary task, got {labels[index].tolist()}. "
            "Make the task a regression, or turn classes into 0/1 columns."
        )


def _first(is_wrong: Tensor) -> int:
    return int(is_wrong.any(1).nonzero()[0])


def _check_split(split: Mapping[str, Tensor], num_graphs: int, name: str) -> None:
    if set(split) != set(SPLITS):
        raise ValueError(
            f"the split of {name} must have the parts train, valid and test, got {', '.join(sorted(split)) or 'none'}. "
            "A part may be empty."
        )
    indices = torch.cat([split[part] for part in SPLITS])
    if indices.numel() and not 0 <= int(indices.min()) <= int(indices.max()) < num_graphs:
        raise ValueError(
            f"the split of {name} must name graphs 0 to {num_graphs - 1}, "
            f"got indices from {int(indices.min())} to {int(indices.max())}. The split belongs to other raw files."
        )
    times = torch.bincount(indices, minlength=num_graphs)
    if bool((times > 1).any()):
        raise ValueError(
            f"the split of {name} names graph {int((times > 1).nonzero()[0])} more than once, "
            "so a model would be tested on what it was trained on. Name each graph once."
        )
