"""Molecules from a file."""

from pathlib import Path

import numpy as np
import pytest
import torch

from graphattn.data import load
from graphattn.training import load_run
from graphattn.training.predict import Molecule, molecule_graph, predict_molecules, read_smiles


def test_a_molecule_is_the_one_in_the_data_set() -> None:
    dataset = load("ogbg-molesol")
    for index in (0, 1, 17, int(dataset.num_nodes.argmin())):
        graph, stored = molecule_graph(dataset[index].smiles), dataset[index]
        for field in ("x", "edge_index", "edge_attr"):
            torch.testing.assert_close(graph[field], stored[field])


def test_lines_are_counted_as_editors_do(tmp_path: Path) -> None:
    (tmp_path / "a.smi").write_text("CCO ethanol\n\nc1ccccc1\n")
    assert read_smiles(tmp_path / "a.smi") == [Molecule(1, "CCO"), Molecule(3, "c1ccccc1")]
    (tmp_path / "a.csv").write_text("name,SMILES\nethanol,CCO\nnothing,\nbenzene,c1ccccc1\n")
    assert read_smiles(tmp_path / "a.csv") == [Molecule(2, "CCO"), Molecule(4, "c1ccccc1")]


def test_files_without_molecules_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no file"):
        read_smiles(tmp_path / "nowhere")
    (tmp_path / "empty.smi").write_text("\n\n")
    with pytest.raises(ValueError, match="has no molecules"):
        read_smiles(tmp_path / "empty.smi")
    (tmp_path / "a.csv").write_text("name\nethanol\n")
    with pytest.raises(ValueError, match="has no column `smiles`"):
        read_smiles(tmp_path / "a.csv")


def test_one_bad_smiles_costs_its_own_row_only(esol) -> None:
    predictor = load_run(esol.folder)
    good = [Molecule(1, "CCO"), Molecule(4, "C"), Molecule(5, "[Na+].[Cl-]")]
    mixed = [good[0], Molecule(2, "C1CC"), Molecule(3, "C(C)(C)(C)(C)C"), *good[1:]]
    y_pred, refused = predict_molecules(predictor, mixed)
    assert [sentence.split(":")[0] for sentence in refused] == ["line 2", "line 3"]
    assert np.isnan(y_pred[[1, 2]]).all()
    np.testing.assert_allclose(y_pred[[0, 3, 4]], predict_molecules(predictor, good).y_pred)
    with pytest.raises(ValueError, match="none of 2 molecules was understood; line 2"):
        predict_molecules(predictor, mixed[1:3])


def test_bytes_that_are_no_text_cost_their_own_line_only(esol, tmp_path: Path) -> None:
    (tmp_path / "a.smi").write_bytes(b"CCO\n\xff\xfeC\nC\xe9C\nC\n")
    y_pred, refused = predict_molecules(load_run(esol.folder), read_smiles(tmp_path / "a.smi"))
    assert [sentence.split(":")[0] for sentence in refused] == ["line 2", "line 3"]
    assert np.isnan(y_pred[:, 0]).tolist() == [False, True, True, False]


def test_molecules_need_a_model_of_molecules(finished) -> None:
    with pytest.raises(ValueError, match="trained on toy_rings:rings, whose features are not OGB's"):
        predict_molecules(load_run(finished.folder), [Molecule(1, "C")])
