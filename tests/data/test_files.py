import errno
import os
import threading
import time
from pathlib import Path

import pytest

from graphattn.data import files


def full_disk(*args: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "a"
    files.write_whole(path, b"old")
    files.write_whole(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    files.write_whole(path, b"old")
    monkeypatch.setattr(files.os, "fsync", full_disk)
    with pytest.raises(
        OSError, match=r"the disk is full: this needs 3\.0 MB.*root or GRAPHATTN_DATA for data, run_root for.*'.*/a'"
    ) as caught:
        files.write_whole(path, bytes(3_000_000))
    assert caught.value.errno == errno.ENOSPC
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_disk_that_is_really_full_is_told_the_same(tmp_path: Path) -> None:
    leftover = tmp_path / "part"
    leftover.write_bytes(b"half")
    with pytest.raises(OSError, match=r"needs 7 kB, and nothing unfinished was left behind. Free some space"):
        with files.room_for(7_000, tmp_path, leftover), open("/dev/full", "wb", buffering=0) as file:
            file.write(bytes(7_000))
    assert not leftover.exists()


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=f"there is no directory {tmp_path / 'no'} for x.csv. Make it first"):
        files.write_whole(tmp_path / "no" / "x.csv", b"")


def test_other_errors_pass_through_and_remove_nothing(tmp_path: Path) -> None:
    leftover = tmp_path / "part"
    leftover.write_bytes(b"half")
    with pytest.raises(FileNotFoundError), files.room_for(1, tmp_path, leftover):
        open(tmp_path / "nowhere" / "x")
    assert leftover.exists()


def test_one_at_a_time_holds_the_lock_and_no_lock_file_remains(tmp_path: Path) -> None:
    inside, most, entered = 0, 0, 0

    def enter() -> None:
        nonlocal inside, most, entered
        for _ in range(5):
            with files.locked(tmp_path / "data"):
                inside += 1
                most = max(most, inside)
                entered += 1
                time.sleep(0.002)
                inside -= 1

    threads = [threading.Thread(target=enter) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert (most, entered) == (1, 20)
    assert list(tmp_path.iterdir()) == []


def test_an_exception_frees_the_lock(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), files.locked(tmp_path / "data"):
        _ = 1 / 0
    with files.locked(tmp_path / "data"):
        pass


def test_a_lock_file_that_a_killed_process_left_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / ".data.lock").touch()
    with files.locked(tmp_path / "data"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_without_locks_still_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*args: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "not supported")

    monkeypatch.setattr(files.fcntl, "flock", unsupported)
    with files.locked(tmp_path / "data"):
        pass
