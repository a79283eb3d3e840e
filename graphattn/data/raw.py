"""The official on-disk layout of an `ogbg-mol*` set, read without ogb.

    ogbg_molesol/raw/{edge,node-feat,edge-feat,num-node-list,num-edge-list,graph-label}.csv.gz
    ogbg_molesol/split/scaffold/{train,valid,test}.csv.gz
    ogbg_molesol/mapping/mol.csv.gz                                     SMILES, optional

ogb's own loader calls `torch.load` on a pickle, which torch ≥ 2.6 refuses, may stop at `input()`, and asks the network
for a newer release when it is imported. The graphs made here equal its graphs, number by number and in the same order.
"""

import csv
import gzip
import hashlib
import io
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graphattn.data.packed import SPLITS, PackedGraphs, narrowed, pack_strings

RAW = tuple(
    f"raw/{part}.csv.gz" for part in ("edge", "node-feat", "edge-feat", "num-node-list", "num-edge-list", "graph-label")
)
SPLIT = tuple(f"split/scaffold/{part}.csv.gz" for part in SPLITS)
SMILES = "mapping/mol.csv.gz"


def missing_files(folder: Path) -> list[str]:
    """Returns the files of the layout that a folder lacks."""
    return [name for name in RAW + SPLIT if not (folder / name).is_file()]


def checksums(folder: Path) -> dict[str, dict[str, Any]]:
    """Returns size and sha256 of each file that a data set is read from, by its name in the layout.

    Raises:
        ValueError: if files are missing.
        OSError: if one may not be read (PermissionError), or the disk fails.
    """
    path, found = folder, {}
    try:
        if missing := missing_files(folder):
            raise ValueError(
                f"{folder} lacks {', '.join(missing)}. Copy the whole folder again, or remove it, and it is downloaded."
            )
        for name in (*RAW, *SPLIT, SMILES):
            path = folder / name
            if name != SMILES or path.is_file():
                contents = path.read_bytes()
                found[name] = {"size": len(contents), "sha256": hashlib.sha256(contents).hexdigest()}
    except PermissionError as error:
        raise PermissionError(f"{path} may not be read by you. Change its mode, or copy the folder.") from error
    except OSError as error:  # a failing disk names no file
        raise OSError(f"{path} cannot be read ({error.strerror}). Copy the folder again, to another disk.") from error
    return found


def fingerprint(files: dict[str, dict[str, Any]]) -> str:
    """Returns one sha256 for the names, sizes and checksums of all files."""
    lines = "".join(f"{name} {files[name]['size']} {files[name]['sha256']}\n" for name in sorted(files))
    return hashlib.sha256(lines.encode()).hexdigest()


def read_graphs(folder: Path) -> tuple[PackedGraphs, dict[str, Tensor]]:
    """Reads the graphs of a folder in the official layout, and their scaffold split.

    A bond u, v becomes the edges (u → v) and (v → u), side by side and with the same features, as in ogb's loader.

    Returns:
        graphs, and "train", "valid", "test" → int64 indices.

    Raises:
        ValueError: if a file is damaged or files disagree; names the file, and the graph where there is one.
    """
    num_nodes = _integers(folder / RAW[3], 1)[:, 0]
    num_bonds = _integers(folder / RAW[4], 1)[:, 0]
    if not num_nodes.size:
        raise ValueError(f"{folder / RAW[3]} lists no graphs. An empty data set cannot be used; copy the folder again.")
    if num_bonds.size != num_nodes.size:
        raise ValueError(
            f"{folder} has {num_nodes.size} node counts but {num_bonds.size} edge counts. "
            "The files are of different releases, or cut short; copy the folder again."
        )
    for name, counts in ((RAW[3], num_nodes), (RAW[4], num_bonds)):
        if (counts < 0).any():
            raise ValueError(f"{folder / name}: graph {_first(counts < 0)} has a negative count. Copy the file again.")
    bonds = _rows(folder, RAW[0], int(num_bonds.sum()), 2)
    graph_of_bond = np.repeat(np.arange(num_bonds.size), num_bonds)
    outside = ((bonds < 0) | (bonds >= num_nodes[graph_of_bond, None])).any(1)
    if outside.any():
        graph = graph_of_bond[_first(outside)]
        raise ValueError(
            f"{folder / RAW[0]}: graph {graph} has {num_nodes[graph]} nodes, and an edge "
            f"{bonds[_first(outside)].tolist()}. The files are of different releases; copy the folder again."
        )
    x = _rows(folder, RAW[1], int(num_nodes.sum()), 9)
    bond_attr = _rows(folder, RAW[2], len(bonds), 3)
    y = _labels(folder / RAW[5])
    if len(y) != num_nodes.size:
        raise ValueError(f"{folder / RAW[5]} has {len(y)} labels for {num_nodes.size} graphs. Copy the file again.")
    smiles, smiles_ptr = _smiles(folder / SMILES, num_nodes.size)
    graphs = PackedGraphs(
        x=narrowed(torch.from_numpy(x)),
        node_ptr=_offsets(num_nodes),
        edge_index=narrowed(torch.from_numpy(np.stack([bonds.reshape(-1), bonds[:, ::-1].reshape(-1)]))),
        edge_attr=narrowed(torch.from_numpy(bond_attr)).repeat_interleave(2, dim=0),
        edge_ptr=_offsets(2 * num_bonds),
        y=torch.from_numpy(y),
        smiles=smiles,
        smiles_ptr=smiles_ptr,
    )
    split = {part: torch.from_numpy(_integers(folder / name, 1)[:, 0]) for part, name in zip(SPLITS, SPLIT)}
    return graphs, split


def _first(is_wrong: Any) -> int:
    return int(np.flatnonzero(is_wrong)[0])


def _offsets(counts: np.ndarray) -> Tensor:
    return torch.from_numpy(np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))


def _text(path: Path) -> bytes:
    try:
        with gzip.open(path) as file:
            return file.read().replace(b"\r\n", b"\n")
    except (OSError, EOFError, zlib.error) as error:
        if isinstance(error, FileNotFoundError | PermissionError):
            raise
        raise ValueError(
            f"{path} is damaged or cut short ({error}). Copy it again, or remove {path.parents[1]}, "
            "and the data set is downloaded."
        ) from error


def _numbers(path: Path, text: bytes, dtype: Any, num_columns: int | None) -> np.ndarray:
    """Returns [num_rows, num_columns]; the columns of an empty file are as many as were asked for, or one."""
    if not text.strip():
        return np.empty((0, num_columns or 1), dtype=dtype)
    try:
        numbers = np.loadtxt(io.BytesIO(text), delimiter=",", dtype=dtype, ndmin=2, comments=None)
    except ValueError as error:
        raise ValueError(
            f"{path} must hold {np.dtype(dtype).name} numbers: {str(error).rstrip('.')}. Copy it again."
        ) from error
    if num_columns is not None and numbers.shape[1] != num_columns:
        raise ValueError(
            f"{path} must have {num_columns} columns, got {numbers.shape[1]}. "
            "It is not a file of the official layout; copy it again."
        )
    return numbers


def _integers(path: Path, num_columns: int | None = None) -> np.ndarray:
    return _numbers(path, _text(path), np.int64, num_columns)


def _rows(folder: Path, name: str, num_rows: int, num_columns: int) -> np.ndarray:
    rows = _integers(folder / name, num_columns)
    if len(rows) != num_rows:
        counts = RAW[3] if name == RAW[1] else RAW[4]
        raise ValueError(
            f"{folder / name} has {len(rows)} rows, but {counts} adds up to {num_rows}. "
            "The files are of different releases, or cut short; copy the folder again."
        )
    return rows


def _labels(path: Path) -> np.ndarray:
    """Returns float32 [num_graphs, num_tasks]; an empty field is NaN."""
    text = b"\n" + _text(path).replace(b'""', b"").removesuffix(b"\n") + b"\n"
    for empty, filled in ((b",,", b",nan,"), (b"\n,", b"\nnan,"), (b",\n", b",nan\n"), (b"\n\n", b"\nnan\n")):
        while empty in text and text != b"\n\n":
            text = text.replace(empty, filled)
    return _numbers(path, text[1:], np.float32, None)


def _smiles(path: Path, num_graphs: int) -> tuple[Tensor | None, Tensor | None]:
    if not path.is_file():
        return None, None
    try:
        rows = list(csv.reader(io.StringIO(_text(path).decode())))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(
            f"{path} is no CSV in UTF-8 ({error}). Copy it again, or remove it: SMILES are optional."
        ) from error
    header, rows = (rows[0], rows[1:]) if rows else ([], [])
    if "smiles" not in header:
        return None, None
    column = header.index("smiles")
    if len(rows) != num_graphs or any(len(row) != len(header) for row in rows):
        raise ValueError(
            f"{path} must have one row of {len(header)} fields for each of {num_graphs} graphs, got {len(rows)} rows. "
            "Copy it again, or remove it: SMILES are optional."
        )
    return pack_strings([row[column] for row in rows])
