"""All graphs of a data set in a few tensors, and the file they are mapped from: safetensors, no pickle.

Integers are kept in the smallest type that holds them (atoms and bonds fit a byte) and leave as int64.
"""

from __future__ import annotations

import json
import operator
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from graphattn.data.files import write_whole

FILE_FORMAT = "graphattn.GraphDataset.1"
SPLITS = ("train", "valid", "test")


def narrowed(values: Tensor) -> Tensor:
    """Returns the integers in the smallest of uint8, int16, int32, int64 that holds them all.

    >>> narrowed(torch.tensor([3, 118])).dtype, narrowed(torch.tensor([-1, 300])).dtype
    (torch.uint8, torch.int16)
    """
    if not values.numel():
        return values.to(torch.uint8)
    low, high = int(values.min()), int(values.max())
    for dtype in (torch.uint8, torch.int16, torch.int32):
        if torch.iinfo(dtype).min <= low and high <= torch.iinfo(dtype).max:
            return values.to(dtype)
    return values.to(torch.int64)


@dataclass(frozen=True, eq=False)
class PackedGraphs(Sequence):
    """A sequence of PyG `Data`, each cut out of the tensors when it is asked for.

    A data object owns its tensors: changing one in place changes no other. Sent to another process, graphs that come
    from a file are opened there again, not copied.
    """

    x: Tensor  # [num_nodes, num_node_features], integers as narrow as can be
    node_ptr: Tensor  # int64 [num_graphs + 1]
    edge_index: Tensor  # [2, num_edges], node numbers inside each graph, narrow
    edge_attr: Tensor  # [num_edges, num_edge_features], narrow
    edge_ptr: Tensor  # int64 [num_graphs + 1]
    y: Tensor  # float32 [num_graphs, num_tasks], NaN where a label is missing
    smiles: Tensor | None = None  # uint8, the UTF-8 of all strings
    smiles_ptr: Tensor | None = None  # int64 [num_graphs + 1]
    file: tuple[str, str] | None = None  # path and fingerprint, if mapped from one

    def __len__(self) -> int:
        return self.y.shape[0]

    def __getitem__(self, index: Any) -> Any:
        from torch_geometric.data import Data

        position = operator.index(index)
        if position < 0:
            position += len(self)
        if not 0 <= position < len(self):
            raise IndexError(f"index {index} is out of range for {len(self)} graphs.")
        nodes = slice(*self.node_ptr[position : position + 2].tolist())
        edges = slice(*self.edge_ptr[position : position + 2].tolist())
        data = Data(
            x=self.x[nodes].to(torch.int64, copy=True),
            edge_index=self.edge_index[:, edges].to(torch.int64, copy=True),
            edge_attr=self.edge_attr[edges].to(torch.int64, copy=True),
            y=self.y[position : position + 1].clone(),
        )
        if self.smiles is not None and self.smiles_ptr is not None:
            start, stop = self.smiles_ptr[position : position + 2].tolist()
            data.smiles = self.smiles[start:stop].numpy().tobytes().decode()
        return data

    def __reduce__(self) -> Any:
        if self.file is not None:
            return _reopened, self.file
        return PackedGraphs, tuple(getattr(self, name) for name in self.__dataclass_fields__)

    @property
    def num_nodes(self) -> Tensor:
        """Nodes of each graph, int64 [num_graphs]."""
        return self.node_ptr.diff()

    @property
    def num_edges(self) -> Tensor:
        """Directed edges of each graph, int64 [num_graphs]."""
        return self.edge_ptr.diff()

    def tensors(self) -> dict[str, Tensor]:
        """Returns the tensors by name, those that are there."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "file"}
        return {name: tensor for name, tensor in values.items() if tensor is not None}


def pack_strings(strings: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Returns the UTF-8 of all strings one after the other, uint8, and where each begins, int64 [num_strings + 1]."""
    encoded = [string.encode() for string in strings]
    ptr = torch.zeros(len(encoded) + 1, dtype=torch.int64)
    torch.cumsum(torch.tensor([len(part) for part in encoded], dtype=torch.int64), 0, out=ptr[1:])
    joined = b"".join(encoded)
    return torch.frombuffer(bytearray(joined), dtype=torch.uint8) if joined else torch.empty(0, dtype=torch.uint8), ptr


def write(path: Path, graphs: PackedGraphs, split: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Writes graphs, split and header to one file, which appears whole or not at all.

    Raises:
        OSError: if `path` is not writable or the disk is full.
    """
    from safetensors.torch import save

    tensors = graphs.tensors() | {f"split.{part}": split[part] for part in SPLITS}
    metadata = {"format": FILE_FORMAT} | {key: json.dumps(value) for key, value in header.items()}
    write_whole(path, save({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata))


def read(
    path: str | os.PathLike[str], fingerprint: str | None = None
) -> tuple[PackedGraphs, dict[str, Tensor], dict[str, Any]] | None:
    """Maps a file that `write` made: its graphs, split and header, read from the disk as they are used.

    Args:
        path: the file.
        fingerprint: what the header must say it was made from; None takes any.

    Returns:
        None if there is no such file, or it is damaged, of another format version, or made from something else.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(os.fspath(path), framework="pt") as file:
            metadata = dict(file.metadata() or {})
            if metadata.pop("format", None) != FILE_FORMAT:
                return None
            header = {key: json.loads(value) for key, value in metadata.items()}
            if fingerprint is not None and header["fingerprint"] != fingerprint:
                return None
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        split = {part: tensors.pop(f"split.{part}") for part in SPLITS}
        return PackedGraphs(**tensors, file=(os.fspath(path), header["fingerprint"])), split, header
    except (OSError, SafetensorError, ValueError, KeyError, TypeError):
        return None


def _reopened(path: str, fingerprint: str) -> PackedGraphs:
    contents = read(path, fingerprint)
    if contents is None:
        raise FileNotFoundError(
            f"{path} is gone or was rebuilt from other raw files since this process opened it. Load the data set again."
        )
    return contents[0]
