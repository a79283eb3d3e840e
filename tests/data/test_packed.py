import pickle
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from graphattn.data import packed, raw


@pytest.fixture
def contents(tmp_path: Path, molecules, layout):
    graphs, split = raw.read_graphs(layout(tmp_path / "toy", molecules))
    return graphs, split, {"name": "toy", "fingerprint": "f1", "task": ["toy", "regression", 1, "rmse"]}


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([0, 255], torch.uint8), ([0, 256], torch.int16), ([-1, 0], torch.int16), ([0, 2**15], torch.int32),
        ([0, 2**31], torch.int64), ([], torch.uint8),
    ],
)  # fmt: skip
def test_integers_take_the_smallest_type_that_holds_them(values: list[int], dtype: torch.dtype) -> None:
    narrow = packed.narrowed(torch.tensor(values, dtype=torch.int64))
    assert narrow.dtype == dtype
    assert narrow.tolist() == values


def test_what_is_written_is_read_back(tmp_path: Path, contents) -> None:
    graphs, split, header = contents
    packed.write(tmp_path / "f", graphs, split, header)
    again, split_again, header_again = packed.read(tmp_path / "f")
    assert header_again == header
    for part in split:
        assert_close(split_again[part], split[part])
    for before, after in zip(graphs, again):
        assert before.to_dict().keys() == after.to_dict().keys()
        for field in ("x", "edge_index", "edge_attr", "y"):
            assert_close(after[field], before[field])
        assert after.smiles == before.smiles


def test_a_graph_changed_in_place_changes_no_other(contents) -> None:
    graphs, _, _ = contents
    data = graphs[0]
    for field in ("x", "edge_index", "edge_attr", "y"):
        data[field].add_(1)
    assert_close(graphs[0].x, data.x - 1)
    assert_close(graphs[0].y, data.y - 1)
    assert_close(graphs[0].edge_index, data.edge_index - 1)


def test_wide_numbers_are_no_view_either(tmp_path: Path, molecules, layout) -> None:
    one = molecules[0]._replace(x=[[2**40, *row[1:]] for row in molecules[0].x])
    graphs, _ = raw.read_graphs(layout(tmp_path / "wide", [one, *molecules[1:]]))
    assert graphs.x.dtype == torch.int64
    graphs[0].x.zero_()
    assert int(graphs[0].x.max()) == 2**40


def test_indices_count_from_both_ends_and_end(contents) -> None:
    graphs, _, _ = contents
    assert_close(graphs[-1].x, graphs[9].x)
    assert_close(graphs[torch.tensor(3)].x, graphs[3].x)
    assert len(list(graphs)) == 10
    for index in (10, -11):
        with pytest.raises(IndexError, match=r"out of range for 10 graphs"):
            graphs[index]
    with pytest.raises(TypeError):
        graphs["0"]


def test_mapped_graphs_are_opened_again_in_another_process_and_not_copied(tmp_path: Path, contents) -> None:
    graphs, split, header = contents
    assert_close(pickle.loads(pickle.dumps(graphs))[2].x, graphs[2].x)
    path = tmp_path / "f"
    packed.write(path, graphs, split, header)
    mapped = packed.read(path)[0]
    sent = pickle.dumps(mapped)
    assert len(sent) < 500
    assert_close(pickle.loads(sent)[2].x, graphs[2].x)
    packed.write(path, graphs, split, header | {"fingerprint": "f2"})
    with pytest.raises(FileNotFoundError, match=r"rebuilt from other raw files.*Load the data set again"):
        pickle.loads(sent)
    assert_close(mapped[2].x, graphs[2].x)  # who has the old file open keeps it


def test_a_file_that_cannot_be_used_is_none(tmp_path: Path, contents, monkeypatch: pytest.MonkeyPatch) -> None:
    graphs, split, header = contents
    path = tmp_path / "f"
    assert packed.read(path) is None
    packed.write(path, graphs, split, header)
    assert packed.read(path, "f1") is not None
    assert packed.read(path, "f2") is None
    content = path.read_bytes()
    for damaged in (b"", content[:7], content[: len(content) // 2], content + b"more", b"\xff" * 99):
        path.write_bytes(damaged)
        assert packed.read(path, "f1") is None
    path.write_bytes(content)
    monkeypatch.setattr(packed, "FILE_FORMAT", "graphattn.GraphDataset.2")
    assert packed.read(path, "f1") is None
    packed.write(path, graphs, split, {"name": "no fingerprint"})
    assert packed.read(path) is None


def test_strings_of_any_length_and_alphabet_are_kept() -> None:
    blob, ptr = packed.pack_strings(["", "Cé", "", "∆G"])
    assert [blob[a:b].numpy().tobytes().decode() for a, b in pairwise(ptr)] == ["", "Cé", "", "∆G"]
    assert packed.pack_strings(["", ""])[1].tolist() == [0, 0, 0]
