import errno
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from graphattn.data import raw
from graphattn.data.registry import SHIPPED


def test_each_graph_has_its_atoms_and_both_directions_of_its_bonds(tmp_path: Path, molecules, layout) -> None:
    graphs, split = raw.read_graphs(layout(tmp_path / "toy", molecules))
    assert len(graphs) == len(molecules)
    for data, one in zip(graphs, molecules):
        there_and_back = [pair for u, v in one.bonds for pair in ((u, v), (v, u))]
        assert data.edge_index.T.tolist() == [list(pair) for pair in there_and_back]
        assert data.edge_attr.tolist() == [row for row in one.bond_attr for _ in range(2)]
        assert data.x.tolist() == one.x
        assert_close(data.y, torch.tensor([one.y]))
        assert data.smiles == one.smiles
        assert (data.edge_index.dtype, data.x.dtype, data.edge_attr.dtype) == (torch.int64,) * 3
        assert data.y.dtype == torch.float32
        assert data.num_nodes == len(one.x)
    assert split["train"].tolist() == [9, 8, 7, 6, 5, 4]
    assert (split["valid"].tolist(), split["test"].tolist()) == ([0, 1], [2, 3])


def test_a_molecule_of_one_atom_has_no_edges_and_keeps_its_widths(tmp_path: Path, molecules, layout) -> None:
    graphs, _ = raw.read_graphs(layout(tmp_path / "toy", molecules))
    lonely = graphs[1]
    assert (list(lonely.x.shape), list(lonely.edge_index.shape), list(lonely.edge_attr.shape)) == (
        [1, 9],
        [2, 0],
        [0, 3],
    )


def test_a_set_without_a_single_edge_is_read(tmp_path: Path, make_molecule, layout) -> None:
    graphs, _ = raw.read_graphs(layout(tmp_path / "toy", [make_molecule(1, seed) for seed in range(5)]))
    assert [data.num_edges for data in graphs] == [0] * 5
    assert list(graphs[4].edge_attr.shape) == [0, 3]


@pytest.mark.parametrize("smiles", [True, False])
def test_smiles_are_optional(tmp_path: Path, molecules, layout, smiles: bool) -> None:
    graphs, _ = raw.read_graphs(layout(tmp_path / "toy", molecules, smiles=smiles))
    assert ("smiles" in graphs[0]) == smiles


@pytest.mark.parametrize("text", ["1,,0\n,,\n,1,\n", "1.0,,0.0\n,,\n,1.0,\n", "1,,0\r\n,,\r\n,1,\r\n"])
def test_an_empty_label_is_nan(tmp_path: Path, make_molecule, layout, text: str) -> None:
    three = [make_molecule(num_atoms, num_atoms) for num_atoms in (2, 3, 5)]
    split = {"train": b"0\n", "valid": b"1\n", "test": b"2\n"}
    graphs, _ = raw.read_graphs(layout(tmp_path / "toy", three, **{"graph-label": text.encode()}, **split))
    nan = float("nan")
    assert_close(graphs.y, torch.tensor([[1, nan, 0], [nan, nan, nan], [nan, 1, nan]]), equal_nan=True)


@pytest.mark.parametrize("text", ['2.5\n""\n-1\n', "2.5\n\n-1\n"])
def test_an_empty_label_of_a_single_task_is_nan(tmp_path: Path, make_molecule, layout, text: str) -> None:
    three = [make_molecule(num_atoms, num_atoms) for num_atoms in (2, 3, 5)]
    split = {"train": b"0\n", "valid": b"1\n", "test": b"2\n"}
    graphs, _ = raw.read_graphs(layout(tmp_path / "toy", three, **{"graph-label": text.encode()}, **split))
    assert_close(graphs.y, torch.tensor([[2.5], [float("nan")], [-1.0]]), equal_nan=True)


def test_numbers_beyond_a_byte_survive(tmp_path: Path, molecules, layout) -> None:
    one = molecules[0]
    wide = one._replace(x=[[70_000, -3, *row[2:]] for row in one.x])
    graphs, _ = raw.read_graphs(layout(tmp_path / "toy", [wide, *molecules[1:]]))
    assert graphs[0].x[:, :2].tolist() == [[70_000, -3]] * len(one.x)
    assert graphs[2].x.tolist() == molecules[2].x


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        ({"num-node-list": b""}, "lists no graphs. An empty data set cannot be used"),
        ({"num-edge-list": b"4\n0\n"}, "has 10 node counts but 2 edge counts.*cut short; copy the folder again"),
        ({"node-feat": b"1,2,3\n"}, "node-feat.csv.gz must have 9 columns, got 3. It is not a file of the official"),
        (
            {"node-feat": b"1,2,3,4,5,6,7,8,9\n"},
            "node-feat.csv.gz has 1 rows, but raw/num-node-list.csv.gz adds up to 53",
        ),
        ({"node-feat": b"1,2,3,4,5,6,7,8,nan\n"}, "node-feat.csv.gz must hold int64 numbers: .*'nan'.* Copy it again"),
        ({"edge-feat": b"1,2,3\n"}, "edge-feat.csv.gz has 1 rows, but raw/num-edge-list.csv.gz adds up to"),
        ({"edge": b"1,2,3\n"}, "edge.csv.gz must have 2 columns, got 3"),
        ({"graph-label": b"1\n2\n"}, "has 2 labels for 10 graphs"),
        ({"graph-label": b"1\nyes\n"}, "must hold float32 numbers: could not convert string 'yes'"),
        ({"edge": b"0,x\n"}, r"must hold int64 numbers.*[^.]\. Copy it again"),
        ({"edge": b"0,1\n2\n"}, "edge.csv.gz must hold int64 numbers: the number of columns changed"),
        ({"edge-feat": b"1,2\n"}, "edge-feat.csv.gz must have 3 columns, got 2"),
        (
            {"mol": b"smiles\n\xff\n"},
            "mol.csv.gz is no CSV in UTF-8 .*Copy it again, or remove it: SMILES are optional",
        ),
        ({"mol": b"task,smiles,mol_id\n1,CC,a\n"}, "one row of 3 fields for each of 10 graphs, got 1 rows"),
    ],
)
def test_files_that_do_not_fit_are_named_with_advice(tmp_path: Path, molecules, layout, replaced, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        raw.read_graphs(layout(tmp_path / "toy", molecules, **replaced))


def test_an_edge_to_a_node_of_another_graph_names_the_graph(tmp_path: Path, molecules, layout) -> None:
    molecules[3] = molecules[3]._replace(bonds=[(0, 2)])
    with pytest.raises(ValueError, match=re.escape("graph 3 has 2 nodes, and an edge [0, 2]. The files are of")):
        raw.read_graphs(layout(tmp_path / "toy", molecules))


def test_a_negative_count_names_the_graph(tmp_path: Path, molecules, layout) -> None:
    counts = b"".join(b"%d\n" % (-1 if index == 6 else len(one.x)) for index, one in enumerate(molecules))
    with pytest.raises(ValueError, match=r"graph 6 has a negative count"):
        raw.read_graphs(layout(tmp_path / "toy", molecules, **{"num-node-list": counts}))


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[: len(content) // 2],
        lambda content: b"<html>not found</html>",
        lambda content: content[:20] + bytes(9) + content[29:],
    ],
    ids=["cut short", "another file", "bytes lost"],
)
def test_a_damaged_file_is_named_with_advice(tmp_path: Path, molecules, layout, damage: Callable) -> None:
    folder = layout(tmp_path / "toy", molecules)
    path = folder / "raw" / "node-feat.csv.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=re.escape(str(path)) + " is damaged or cut short.*Copy it again, or remove"):
        raw.read_graphs(folder)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (PermissionError(errno.EACCES, "Permission denied"), "may not be read by you. Change its mode, or copy"),
        (OSError(errno.EIO, "Input/output error"), "cannot be read .Input/output error.. Copy the folder again"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_with_advice(
    tmp_path: Path, molecules, layout, monkeypatch: pytest.MonkeyPatch, error: OSError, message: str
) -> None:
    """Modes do not stop a test run by root."""
    folder = layout(tmp_path / "toy", molecules)
    bad, read = folder / "raw" / "edge-feat.csv.gz", Path.read_bytes

    def read_bytes(self: Path) -> bytes:
        if self == bad:
            raise error
        return read(self)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    with pytest.raises(type(error), match=re.escape(str(bad)) + f" {message}"):
        raw.checksums(folder)


def test_a_folder_that_may_not_be_entered_is_named_with_advice(tmp_path: Path, monkeypatch) -> None:
    def stat(self: Path, *, follow_symlinks: bool = True):
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "stat", stat)
    with pytest.raises(PermissionError, match=f"{tmp_path} may not be read by you. Change its mode, or copy"):
        raw.checksums(tmp_path)


def test_missing_files_are_listed(tmp_path: Path, molecules, layout) -> None:
    folder = layout(tmp_path / "toy", molecules, **{"edge-feat": None, "valid": None})
    with pytest.raises(
        ValueError, match=r"lacks raw/edge-feat.csv.gz, split/scaffold/valid.csv.gz. Copy the whole folder"
    ):
        raw.checksums(folder)


def test_the_fingerprint_changes_with_every_file(tmp_path: Path, molecules, layout) -> None:
    folder = layout(tmp_path / "toy", molecules)
    before = raw.fingerprint(raw.checksums(folder))
    assert raw.fingerprint(raw.checksums(folder)) == before
    for path in folder.rglob("*.csv.gz"):
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        assert raw.fingerprint(raw.checksums(folder)) != before
        path.write_bytes(content)
    (folder / "mapping" / "mol.csv.gz").unlink()
    assert raw.fingerprint(raw.checksums(folder)) != before


AGAINST_OGB = """
import os, shutil, sys, warnings
warnings.simplefilter("ignore")
sys.stdin.close()                                           # ogb may ask; nobody answers
from pathlib import Path
import torch
from ogb.graphproppred import PygGraphPropPredDataset
from graphattn.data import raw

copy = Path(sys.argv[1])
for folder in sorted(copy.glob("ogbg_mol*")):
    theirs = PygGraphPropPredDataset(folder.name.replace("_", "-"), root=str(copy))
    ours, split = raw.read_graphs(folder)
    assert len(ours) == len(theirs) > 600
    for index in range(len(theirs)):
        a, b = ours[index], theirs[index]
        for field in ("x", "edge_index", "edge_attr"):
            assert a[field].dtype == b[field].dtype and torch.equal(a[field], b[field]), (folder, index, field)
        assert torch.equal(a.y, b.y.float()), (folder, index)
    for part, indices in theirs.get_idx_split().items():
        assert torch.equal(split[part], indices)
    print(folder.name, len(ours))
"""


@pytest.mark.slow
def test_graphs_equal_those_of_ogbs_own_loader(tmp_path: Path) -> None:
    pytest.importorskip("ogb")
    import shutil

    for folder in SHIPPED.glob("ogbg_mol*"):
        shutil.copytree(folder, tmp_path / folder.name, ignore=shutil.ignore_patterns("processed"))
    done = subprocess.run(
        [sys.executable, "-c", AGAINST_OGB, str(tmp_path)],
        env={"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1", "PYTHONPATH": str(SHIPPED.parent), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert [line for line in done.stdout.splitlines() if line.startswith("ogbg_")] == [
        "ogbg_molbbbp 2039",
        "ogbg_molesol 1128",
        "ogbg_molfreesolv 642",
    ]
