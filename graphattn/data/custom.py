"""Data sets that are made by a function of yours: PyG `Data` in, a `GraphDataset` out.

    # shapes.py
    import torch
    from torch_geometric.data import Data

    def rings():
        graphs = []
        for n in range(3, 40):
            node = torch.arange(n)
            edge_index = torch.stack([torch.cat([node, node.roll(-1)]), torch.cat([node.roll(-1), node])])
            graphs.append(Data(x=torch.zeros(n, 9, dtype=torch.long), edge_index=edge_index, y=torch.tensor([1.0 * n])))
        return graphs

`load("shapes:rings")`, or `--data.name shapes:rings`, does the rest: the task is read off the labels, the split is
drawn. To say more, return a dict of splits {"train": [...], "valid": [...], "test": [...]}, or (graphs, "binary"),
or (graphs, Task(...)).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from graphattn.data.dataset import GraphDataset
from graphattn.data.packed import SPLITS
from graphattn.data.reference import current_directory_importable, find_callable
from graphattn.data.task import Task

if TYPE_CHECKING:
    from torch_geometric.data import Data

METRIC = {"regression": "rmse", "binary": "rocauc"}
FORMS = "a list of Data, a dict of splits {'train': [...], 'valid': [...], 'test': [...]}, or (either, task)"


def from_function(reference: str, *, split_seed: int = 0) -> GraphDataset:
    """Calls the function that `reference` names and makes a data set of what it returns.

    The current directory is searched as well, whatever started Python.

    Args:
        reference: "package.module:function"; the function takes no arguments.
        split_seed: draws the split, where the function gives none.

    Raises:
        ImportError: if the module cannot be imported, or has no such name.
        TypeError: if it is not callable, or returns something else than graphs.
        ValueError: as `from_data`.
    """
    function = find_callable(reference, "a data set of your own")
    with current_directory_importable():
        returned = function()
        if isinstance(returned, Iterator):
            returned = list(returned)  # its code runs here, where it can import what lies beside it
    task: Task | str | None = None
    if isinstance(returned, tuple) and len(returned) == 2 and isinstance(returned[1], Task | str):
        returned, task = returned
    if returned is None or isinstance(returned, str | Tensor) or not isinstance(returned, Iterable):
        raise TypeError(f"{reference} must return {FORMS}, got {type(returned).__name__}. Does it end with `return`?")
    return from_data(returned, task, name=reference, split_seed=split_seed)


def from_data(
    graphs: Iterable[Data] | Mapping[str, Iterable[Data]],
    task: Task | str | None = None,
    *,
    name: str = "data",
    split_seed: int = 0,
) -> GraphDataset:
    """Makes a data set of PyG graphs that are in memory.

    The data objects are not changed. Their copies share x and the edges, with these exceptions: float16 and float64
    features become float32; y becomes float32 [1, num_tasks]; a missing edge_index becomes one without edges. Other
    attributes stay.

    Args:
        graphs: any iterable of `Data` with x [num_nodes, num_features] and y; or a dict of the three splits.
        task: a `Task`, "regression", "binary", or None: binary if all labels are 0, 1 or NaN, regression otherwise.
        name: what errors and reports call it.
        split_seed: draws 80 % train, 10 % valid, 10 % test, at least one graph each, if `graphs` is not a dict.

    Raises:
        TypeError: if something is no `Data`.
        ValueError: if there are too few graphs, or one has no x or y, a NaN feature, an edge to a node that is not
            there, or other widths than the first; names its index.

    >>> from torch_geometric.data import Data
    >>> path = torch.tensor([[0, 1], [1, 0]])
    >>> data = [Data(x=torch.zeros(2, 9, dtype=torch.long), edge_index=path, y=float(i)) for i in range(10)]
    >>> from_data(data, name="pairs")
    GraphDataset(pairs: 10 graphs, train 8, valid 1, test 1, regression, rmse)
    """
    if isinstance(graphs, Mapping):
        if set(graphs) != set(SPLITS):
            raise ValueError(
                f"{name}: a dict of splits must have the keys train, valid and test, "
                f"got {', '.join(map(str, graphs)) or 'none'}. A part may be an empty list."
            )
        parts = {part: _listed(graphs[part]) for part in SPLITS}
        records = [data for part in SPLITS for data in parts[part]]
        ends = torch.tensor([len(parts[part]) for part in SPLITS]).cumsum(0).tolist()
        split = {part: torch.arange(end - len(parts[part]), end) for part, end in zip(SPLITS, ends)}
    else:
        records = _listed(graphs)
        split = random_split(len(records), split_seed, name)
    if not records:
        raise ValueError(f"{name} has no graphs. Return at least one in each split.")
    has_integer_labels = not any(_is_float(getattr(data, "y", None)) for data in records)
    checked = _checked(records, name)
    labels = torch.cat([data.y for data in checked])
    return GraphDataset(
        name,
        _task(task, labels, name, has_integer_labels),
        split,
        checked,
        labels=labels,
        num_nodes=torch.tensor([data.num_nodes for data in checked]),
        num_edges=torch.tensor([data.num_edges for data in checked]),
        source=name,
    ).checked()


def random_split(num_graphs: int, seed: int, name: str = "data") -> dict[str, Tensor]:
    """Draws 80 % train, 10 % valid, 10 % test, at least one graph each, the same for the same seed.

    Raises:
        ValueError: for fewer than three graphs.

    >>> {part: indices.numel() for part, indices in random_split(100, seed=0).items()}
    {'train': 80, 'valid': 10, 'test': 10}
    """
    if num_graphs < 3:
        raise ValueError(
            f"{name} has {num_graphs} graphs, too few to split in three. Return more, or a dict of splits, "
            "{'train': [...], 'valid': [...], 'test': [...]}, of which some may be empty."
        )
    held_out = max(1, num_graphs // 10)
    order = torch.randperm(num_graphs, generator=torch.Generator().manual_seed(seed))
    train, valid, test = order.split([num_graphs - 2 * held_out, held_out, held_out])
    return {"train": train.sort().values, "valid": valid.sort().values, "test": test.sort().values}


def _task(task: Task | str | None, labels: Tensor, name: str, has_integer_labels: bool) -> Task:
    if isinstance(task, Task):
        return task
    if task is None:
        known = labels[~labels.isnan()]
        is_binary = bool(((known == 0) | (known == 1)).all()) and known.numel() > 0
        if not is_binary and has_integer_labels:
            raise ValueError(
                f"{name} has integer labels other than 0 and 1, which may be classes or counts. Return "
                "(graphs, 'regression') to predict them as numbers, or one 0/1 column of y per class."
            )
        task = "binary" if is_binary else "regression"
    if task not in METRIC:
        raise ValueError(f"{name}: the task must be 'regression', 'binary' or a Task, got {task!r}.")
    return Task(name, task, labels.shape[1], METRIC[task])


def _listed(graphs: Any) -> list[Any]:
    if hasattr(graphs, "__len__") and hasattr(graphs, "__getitem__"):
        return [graphs[index] for index in range(len(graphs))]  # a Dataset need not raise IndexError at its end
    return list(graphs)


def _is_float(value: Any) -> bool:
    return value.is_floating_point() if isinstance(value, Tensor) else not isinstance(value, int)


def _checked(records: Sequence[Any], name: str) -> list[Any]:
    """Returns shallow copies of the data objects in the form that a data set promises."""
    from torch_geometric.data import Data

    checked = []
    for index, data in enumerate(records):
        where = f"{name}, graph {index}"
        if not isinstance(data, Data):
            raise TypeError(f"{where}: must be torch_geometric.data.Data, got {type(data).__name__}. Return {FORMS}.")
        data = copy.copy(data)
        data.x = _features(data.x, "x", "num_nodes", where)
        if data.edge_index is None:
            data.edge_index = torch.empty(2, 0, dtype=torch.int64)
        _check_edges(data, where)
        if data.edge_attr is not None:
            data.edge_attr = _features(data.edge_attr, "edge_attr", "num_edges", where)
            if data.edge_attr.shape[0] != data.edge_index.shape[1]:
                raise ValueError(
                    f"{where}: edge_attr must have one row per column of edge_index, {data.edge_index.shape[1]}, "
                    f"got {data.edge_attr.shape[0]}. An undirected edge is two columns, and two rows."
                )
        if data.y is None:
            raise ValueError(f"{where}: has no y. Set data.y to its label or labels, NaN where one is missing.")
        try:
            data.y = torch.as_tensor(data.y, dtype=torch.float32).detach().reshape(1, -1)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"{where}: y must be a number or numbers, got {data.y!r} ({error}).") from error
        checked.append(data)
    _check_alike(checked, name)
    return checked


def _features(values: Any, field: str, rows: str, where: str) -> Tensor:
    if not isinstance(values, Tensor) or values.dim() != 2:
        got = "none" if values is None else list(values.shape) if isinstance(values, Tensor) else type(values).__name__
        advice = f"data.{field}[:, None] makes one feature of a vector." if isinstance(values, Tensor) else (
            f"Set data.{field}; for atoms without features, torch.zeros({rows}, 1, dtype=torch.long)."
        )  # fmt: skip
        raise ValueError(f"{where}: {field} must be a tensor [{rows}, num_features], got {got}. {advice}")
    if values.is_floating_point():
        if not bool(values.isfinite().all()):
            row = int((~values.isfinite()).any(1).nonzero()[0])
            raise ValueError(
                f"{where}: {field} has NaN or infinity in row {row}. Fill it in, or leave the graph out; "
                "only y may have NaN, where a label is missing."
            )
        return values.float()
    return values.long()


def _check_edges(data: Any, where: str) -> None:
    edge_index, num_nodes = data.edge_index, data.x.shape[0]
    if edge_index.dtype != torch.int64 or edge_index.dim() != 2 or edge_index.shape[0] != 2:
        raise ValueError(
            f"{where}: edge_index must be int64 [2, num_edges], got {edge_index.dtype} {list(edge_index.shape)}. "
            "If edges are rows, pass edge_index.t().contiguous()."
        )
    if edge_index.numel() and not 0 <= int(edge_index.min()) <= int(edge_index.max()) < num_nodes:
        raise ValueError(
            f"{where}: edge_index must name nodes 0 to {num_nodes - 1}, the rows of x, "
            f"got {int(edge_index.min())} to {int(edge_index.max())}. Number the nodes of each graph from 0."
        )


def _check_alike(checked: list[Any], name: str) -> None:
    """Checks that all graphs have features of one width and type, and as many labels; gives edgeless ones theirs."""
    first = checked[0]
    edge_like = next((data.edge_attr for data in checked if data.edge_attr is not None), None)
    for index, data in enumerate(checked):
        if edge_like is not None and data.edge_attr is None:
            if data.edge_index.shape[1]:
                raise ValueError(
                    f"{name}, graph {index}: has edges and no edge_attr, but others have. Give it to all, or to none."
                )
            data.edge_attr = edge_like.new_empty(0, edge_like.shape[1])
        for field, like in (("x", first.x), ("edge_attr", edge_like), ("y", first.y)):
            value = getattr(data, field)
            if like is not None and (value.shape[1], value.dtype) != (like.shape[1], like.dtype):
                raise ValueError(
                    f"{name}, graph {index}: {field} has {value.shape[1]} columns of {value.dtype}, other graphs have "
                    f"{like.shape[1]} of {like.dtype}. Make them alike; y holds labels of the graph, not of its nodes."
                )
