import errno
import json
import os
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from graphattn.data import Task, cache, files, packed, raw
from graphattn.data.registry import SHIPPED

TASK = Task("toy", "regression", 1, "rmse")
SAVED = Path("processed") / cache.FILE_NAME


def open_toy(folder: Path, **options):
    return cache.open_folder(folder, "toy", lambda: TASK, **options)


@pytest.fixture
def folder(tmp_path: Path, molecules, layout) -> Path:
    return layout(tmp_path / "toy", molecules)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders whose raw files were parsed."""
    seen: list[Path] = []
    original = raw.read_graphs

    def counting(folder: Path):
        seen.append(folder)
        return original(folder)

    monkeypatch.setattr(raw, "read_graphs", counting)
    return seen


def test_raw_files_are_parsed_once(folder: Path, reads: list[Path]) -> None:
    first, second = open_toy(folder), open_toy(folder)
    assert reads == [folder]
    assert [path.name for path in (folder / "processed").iterdir()] == [cache.FILE_NAME]
    assert (first.task, first.source, first.fingerprint) == (second.task, str(folder), second.fingerprint)
    assert_close(first[4].x, second[4].x)
    assert_close(first.labels, second.labels)


def test_a_changed_raw_file_rebuilds_it(folder: Path, molecules, layout, reads: list[Path]) -> None:
    before = open_toy(folder)
    changed = [one._replace(y=[7.0]) for one in molecules]
    layout(folder, changed)
    after = open_toy(folder)
    assert reads == [folder, folder]
    assert after.fingerprint != before.fingerprint
    assert after.labels.tolist() == [[7.0]] * 10
    assert before.labels.tolist() != after.labels.tolist()  # what is open stays as it was


@pytest.mark.parametrize("damage", [lambda content: content[:-9], lambda content: b"", lambda content: b"x" * 64])
def test_a_damaged_cache_is_rebuilt(folder: Path, reads: list[Path], damage) -> None:
    open_toy(folder)
    (folder / SAVED).write_bytes(damage((folder / SAVED).read_bytes()))
    assert len(open_toy(folder)) == 10
    assert len(reads) == 2


def test_another_format_version_is_rebuilt(folder: Path, reads: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    open_toy(folder)
    monkeypatch.setattr(packed, "FILE_FORMAT", "graphattn.GraphDataset.next")
    open_toy(folder)
    open_toy(folder)
    assert len(reads) == 2


def test_the_cache_of_another_data_set_is_not_taken(folder: Path, reads: list[Path]) -> None:
    open_toy(folder)
    other = cache.open_folder(folder, "other", lambda: TASK._replace(name="other"))
    assert (other.name, len(reads)) == ("other", 2)


def test_processed_data_need_neither_raw_files_nor_a_task(folder: Path) -> None:
    import shutil

    open_toy(folder)
    for part in ("raw", "split", "mapping"):
        shutil.rmtree(folder / part)

    def unknown() -> Task:
        raise AssertionError("the header knows the task")

    assert cache.open_folder(folder, "toy", unknown).task == TASK


def read_only(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a mount that is read-only; modes do not stop a test run by root."""
    original = Path.mkdir

    def mkdir(self: Path, *args, **kwargs) -> None:
        if folder in self.parents:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(self))
        original(self, *args, **kwargs)

    monkeypatch.setattr(Path, "mkdir", mkdir)


def test_read_only_data_are_processed_to_the_user_cache(folder, user_cache, reads, monkeypatch) -> None:
    read_only(folder, monkeypatch)
    dataset = open_toy(folder)
    open_toy(folder)
    assert reads == [folder]
    assert not (folder / "processed").exists()
    (saved,) = (user_cache / "processed").iterdir()
    assert saved.name == f"toy-{dataset.fingerprint[:16]}.safetensors"


def test_where_nothing_is_writable_it_works_and_says_so(folder, user_cache, reads, monkeypatch) -> None:
    read_only(folder.parent, monkeypatch)
    with pytest.warns(UserWarning, match=r"is writable, so toy is read anew each time. Set GRAPHATTN_DATA"):
        assert len(open_toy(folder)) == 10
    assert reads == [folder]


def test_a_full_disk_is_explained_and_leaves_nothing_half_made(folder, user_cache, monkeypatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match=r"the disk is full: this needs .* kB.*processed") as caught:
        open_toy(folder)
    assert caught.value.errno == errno.ENOSPC
    assert list((folder / "processed").iterdir()) == list((user_cache / "processed").iterdir()) == []
    monkeypatch.undo()
    assert len(open_toy(folder)) == 10


def test_a_full_disk_of_the_data_is_no_end_while_the_user_cache_has_room(
    folder, user_cache, reads, monkeypatch
) -> None:
    original = files.write_whole

    def write_whole(path: Path, payload: bytes) -> None:
        with files.room_for(len(payload), path):
            if folder in path.parents:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            original(path, payload)

    monkeypatch.setattr(packed, "write_whole", write_whole)
    assert len(open_toy(folder)) == len(open_toy(folder)) == 10
    assert reads == [folder]
    assert list((folder / "processed").iterdir()) == []


def test_bad_raw_files_leave_no_cache(folder: Path, molecules, layout) -> None:
    layout(folder, molecules, **{"graph-label": b"inf\n" * 10})
    with pytest.raises(ValueError, match=r"y of graph 0 is infinite"):
        open_toy(folder)
    layout(folder, molecules, train=b"0\n1\n2\n11\n")
    with pytest.raises(ValueError, match=r"the split of toy must name graphs 0 to 9, got indices from 0 to 11"):
        open_toy(folder)
    assert list((folder / "processed").iterdir()) == []


def test_what_a_killed_process_left_is_removed(folder: Path) -> None:
    (folder / "processed").mkdir()
    (folder / "processed" / f"{cache.FILE_NAME}.12345.part").write_bytes(b"half")
    open_toy(folder)
    assert [path.name for path in (folder / "processed").iterdir()] == [cache.FILE_NAME]


def test_files_that_are_not_the_official_ones_are_named_once_and_remembered(folder: Path) -> None:
    official = raw.checksums(folder)
    official["raw/node-feat.csv.gz"] = {"size": 1, "sha256": "0" * 64}
    with pytest.warns(UserWarning, match=r"raw/node-feat.csv.gz of .* differ from the official files.*say so where"):
        dataset = open_toy(folder, official=official)
    assert dataset.differs == ("raw/node-feat.csv.gz",)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert open_toy(folder, official=official).differs == ("raw/node-feat.csv.gz",)


def test_threads_that_come_at_once_parse_once(folder: Path, reads: list[Path]) -> None:
    found = []
    threads = [threading.Thread(target=lambda: found.append(open_toy(folder))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert len(reads) == 1
    assert len(found) == 4
    for dataset in found:
        assert_close(dataset[5].x, found[0][5].x)


RACE = """
import sys
from pathlib import Path
from graphattn.data import Task, cache, raw
original = raw.read_graphs
def noted(folder):
    print("parsed", flush=True)
    return original(folder)
raw.read_graphs = noted
print("ready", flush=True)
sys.stdin.readline()
dataset = cache.open_folder(Path(sys.argv[1]), "toy", lambda: Task("toy", "regression", 1, "rmse"))
print(len(dataset), dataset.fingerprint, int(dataset[5].x.sum()))
"""


@pytest.mark.slow
def test_two_processes_that_come_at_once_end_well(folder: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(SHIPPED.parent)}
    command = [sys.executable, "-c", RACE, str(folder)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": environment}
    both = [subprocess.Popen(command, **pipes) for _ in range(2)]
    for process in both:
        assert process.stdout.readline() == "ready\n"
    for process in both:
        process.stdin.write("go\n")
        process.stdin.flush()
    outputs = [process.communicate(timeout=60)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert "".join(outputs).count("parsed") == 1
    assert len({output.splitlines()[-1] for output in outputs}) == 1


def test_the_header_says_what_it_was_made_from(folder: Path) -> None:
    from safetensors import safe_open

    dataset = open_toy(folder)
    with safe_open(str(folder / SAVED), framework="pt") as file:
        header = file.metadata()
    assert json.loads(header["files"]) == raw.checksums(folder)
    assert json.loads(header["fingerprint"]) == dataset.fingerprint
    assert (folder / SAVED).stat().st_mode & 0o777 == 0o666 & ~_umask()
    assert torch.equal(dataset.split["train"], torch.arange(9, 3, -1))


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
