"""Files that appear whole or not at all, the lock two processes meet at, and what a full disk is told."""

import errno
import fcntl
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

DISK_FULL = {errno.ENOSPC, errno.EDQUOT}
NO_LOCKS_HERE = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS}  # some network file systems
NOT_WRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS}


def megabytes(num_bytes: int) -> str:
    """Returns a size in the unit people compare it in.

    >>> megabytes(48_318), megabytes(2_100_000)
    ('48 kB', '2.1 MB')
    """
    return f"{max(1, round(num_bytes / 1e3))} kB" if num_bytes < 1e6 else f"{num_bytes / 1e6:.1f} MB"


def sync_directory(directory: Path) -> None:
    """Writes the names in a directory to the disk, so that a rename outlives a power cut."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems cannot; the rename itself is done
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def room_for(num_bytes: int, path: Path, *unfinished: Path) -> Iterator[None]:
    """Runs the block that writes `path`; on a full disk removes what is `unfinished` and says how much room it needs.

    Raises:
        OSError: with the errno of the full disk (or quota), the path and the size.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        for leftover in unfinished:
            shutil.rmtree(leftover, ignore_errors=True) if leftover.is_dir() else leftover.unlink(missing_ok=True)
        raise OSError(
            error.errno,
            f"the disk is full: this needs {megabytes(num_bytes)}, and nothing unfinished was left behind. "
            "Free some space, or name another place: root or GRAPHATTN_DATA for data, run_root for runs. The path was",
            os.fspath(path),
        ) from error


def write_whole(path: Path, payload: bytes) -> None:
    """Writes a file under a temporary name and renames it, so that nobody ever reads half of it.

    Raises:
        FileNotFoundError: if there is no such directory.
        OSError: if the directory is not writable, or the disk is full; the old file is then still there.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no directory {path.parent} for {path.name}. Make it first.")
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with room_for(len(payload), path), open(unfinished, "wb") as file:
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
    sync_directory(path.parent)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds the lock of `path`, waiting for whoever has it; it is free again when its process ends, however it ends.

    Where the file system knows no locks the block runs without one: writes are still whole, only work is done twice.

    Raises:
        OSError: if the directory of `path` is not writable.
    """
    lock = path.with_name(f".{path.name}.lock")
    descriptor = _acquired(lock, path)
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)  # while it is held: those who wait on it see that it is gone, and open a new one
        os.close(descriptor)


def _acquired(lock: Path, path: Path) -> int:
    started, has_spoken = time.monotonic(), False
    while True:
        descriptor = os.open(lock, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            mine, there = os.fstat(descriptor), os.stat(lock)
            if (mine.st_dev, mine.st_ino) == (there.st_dev, there.st_ino):
                return descriptor
        except FileNotFoundError:  # its last holder removed it between open and flock
            pass
        except BlockingIOError:
            if not has_spoken and time.monotonic() - started > 2:
                print(f"graphattn: another process is preparing {path}; waiting for it", file=sys.stderr)
                has_spoken = True
        except OSError as error:
            if error.errno in NO_LOCKS_HERE:
                return descriptor
            os.close(descriptor)
            raise
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        time.sleep(0.05)
