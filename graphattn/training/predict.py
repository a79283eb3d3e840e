"""Predictions for molecules that are in no data set: a file of SMILES, read as OGB reads them."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from graphattn.training.metric import _no_network
from graphattn.training.predictor import GraphPredictor

if TYPE_CHECKING:
    from torch_geometric.data import Data


class Molecule(NamedTuple):
    """One line of a file of molecules."""

    line: int  # as editors count, from 1
    smiles: str


class Predicted(NamedTuple):
    """What came of a list of molecules."""

    y_pred: np.ndarray  # float64 [num_molecules, num_tasks], NaN where a molecule was not understood
    refused: list[str]  # one sentence for each of those, with its line


def read_smiles(path: str | Path) -> list[Molecule]:
    """Reads a file with one SMILES per line (what follows a blank is its name), or the column `smiles` of a .csv.

    Empty lines are left out. Bytes that are not UTF-8 spoil the SMILES of their own line only.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it has no molecules, or a .csv has no such column.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no file {path}. Write one SMILES per line, or a .csv with a column `smiles`."
        )
    with open(path, encoding="utf-8-sig", errors="replace", newline="") as file:
        if path.suffix.lower() == ".csv":
            rows = csv.DictReader(file)
            column = next((name for name in rows.fieldnames or [] if name.strip().lower() == "smiles"), None)
            if column is None:
                raise ValueError(f"{path} has no column `smiles`, got {rows.fieldnames}. Name the column in line 1.")
            found = [Molecule(rows.line_num, (row[column] or "").strip()) for row in rows]
        else:
            found = [Molecule(number, line.split()[0] if line.split() else "") for number, line in enumerate(file, 1)]
    found = [molecule for molecule in found if molecule.smiles]
    if not found:
        raise ValueError(f"{path} has no molecules. Write one SMILES per line.")
    return found


def molecule_graph(smiles: str) -> Data:
    """Returns a molecule as OGB's data sets have it: x int64 [num_atoms, 9], edge_attr int64 [num_edges, 3].

    Raises:
        ImportError: if ogb or rdkit is not installed.
        ValueError: if rdkit does not understand the SMILES, or it has no atoms.
    """
    try:
        with _no_network():
            from ogb.utils.mol import smiles2graph
        from rdkit import Chem, rdBase
    except ImportError as error:
        raise ImportError(f"molecules need ogb and rdkit ({error}): pip install graphattn[train]") from error
    from torch_geometric.data import Data

    with rdBase.BlockLogs():
        molecule = Chem.MolFromSmiles(smiles) if smiles.isascii() else None  # rdkit skips some bytes it does not know
        if molecule is None or not molecule.GetNumAtoms():
            raise ValueError(f"{smiles!r} is not a SMILES that rdkit understands. Check brackets, rings and valences.")
        graph = smiles2graph(smiles)
    return Data(
        x=torch.from_numpy(graph["node_feat"]),
        edge_index=torch.from_numpy(graph["edge_index"]),
        edge_attr=torch.from_numpy(graph["edge_feat"]),
    )


def predict_molecules(predictor: GraphPredictor, molecules: Sequence[Molecule], batch_size: int = 64) -> Predicted:
    """Predicts molecules in order; one that is not understood costs its own row only.

    Raises:
        ValueError: if the model was trained on something else than OGB molecules, or none is understood.
    """
    if not predictor.config.data.name.startswith("ogbg-mol"):
        raise ValueError(
            f"this model was trained on {predictor.config.data.name}, whose features are not OGB's. "
            "SMILES can be predicted with a model trained on an ogbg-mol* set."
        )
    graphs, rows, refused = [], [], []
    for row, molecule in enumerate(molecules):
        try:
            graphs.append(molecule_graph(molecule.smiles))
            rows.append(row)
        except ValueError as error:
            refused.append(f"line {molecule.line}: {error}")
    if not graphs:
        raise ValueError(f"none of {len(molecules)} molecules was understood; {refused[0]}")
    y_pred = np.full((len(molecules), predictor.task.num_tasks), np.nan)
    y_pred[rows] = predictor.predict(predictor.collate(part) for part in _parts(graphs, batch_size))
    return Predicted(y_pred, refused)


def _parts(graphs: list[Data], batch_size: int) -> Iterator[list[Data]]:
    for first in range(0, len(graphs), batch_size):
        yield graphs[first : first + batch_size]
