"""The processed form of a data set: made once, reused, and made again when the raw files change."""

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from graphattn.data import packed, raw
from graphattn.data.dataset import GraphDataset
from graphattn.data.files import DISK_FULL, NOT_WRITABLE, locked
from graphattn.data.packed import PackedGraphs
from graphattn.data.task import Task

FILE_NAME = "graphattn.safetensors"
Contents = tuple[PackedGraphs, dict[str, Tensor], dict[str, Any]]


def user_directory() -> Path:
    """Returns where downloads go, and what read-only data are processed to: $GRAPHATTN_DATA or ~/.cache/graphattn."""
    named = os.environ.get("GRAPHATTN_DATA")
    return Path(named).expanduser() if named else Path.home() / ".cache" / "graphattn"


def open_folder(
    folder: Path, name: str, task_of: Callable[[], Task], official: dict[str, dict[str, Any]] | None = None
) -> GraphDataset:
    """Opens a folder in the official layout, through its processed form, which is made if it is not there or stale.

    Two processes that come at once end well: one makes it, the other waits and reuses it.

    Args:
        folder: the folder of this data set, with `raw/`, or with nothing but `processed/`.
        name: what the data set is called.
        task_of: called only where nothing processed says what the task is.
        official: size and sha256 of each raw file as the card has them; what differs is warned of once, and kept.

    Raises:
        ValueError: if files are missing, damaged or disagree.
        OSError: if a file may not be read, or both places are on full disks.
    """
    beside = folder / "processed" / FILE_NAME
    if not os.path.exists(folder / "raw") and (contents := _cached(beside, None, name)):
        return _dataset(contents, folder)
    files = raw.checksums(folder)
    fingerprint = raw.fingerprint(files)
    elsewhere = user_directory() / "processed" / f"{folder.name}-{fingerprint[:16]}.safetensors"
    for path in (beside, elsewhere):
        if contents := _cached(path, fingerprint, name):
            return _dataset(contents, folder)
    differs = sorted(file for file in files if official and file in official and files[file] != official[file])
    header = {"name": name, "task": task_of().checked(), "fingerprint": fingerprint, "files": files, "differs": differs}
    made, full = None, None
    for path in (beside, elsewhere):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with locked(path):
                if contents := _cached(path, fingerprint, name):  # made while we waited
                    return _dataset(contents, folder)
                made = made or _made(folder, header)
                for leftover in path.parent.glob(f"{path.name}.*.part"):  # of a process that was killed
                    leftover.unlink(missing_ok=True)
                packed.write(path, *made)
            return _dataset(_cached(path, fingerprint, name) or made, folder)
        except OSError as error:
            if error.errno not in NOT_WRITABLE | DISK_FULL:
                raise
            if error.errno in DISK_FULL:
                full = error
    if full is not None:
        raise full
    warnings.warn(
        f"neither {beside.parent} nor {elsewhere.parent} is writable, so {name} is read anew each time. "
        "Set GRAPHATTN_DATA to a directory you may write to.",
        stacklevel=3,
    )
    return _dataset(made or _made(folder, header), folder)


def _cached(path: Path, fingerprint: str | None, name: str) -> Contents | None:
    contents = packed.read(path, fingerprint)
    return contents if contents and contents[2].get("name") == name else None


def _made(folder: Path, header: dict[str, Any]) -> Contents:
    if header["differs"]:
        warnings.warn(
            f"{', '.join(header['differs'])} of {folder} differ from the official files (other sha256). "
            f"Results are not those of {header['name']}; say so where you report them. "
            f"`graphattn data card {header['name']}` says more.",
            stacklevel=4,
        )
    graphs, split = raw.read_graphs(folder)
    contents = graphs, split, header
    _dataset(contents, folder).checked()  # before anything is written
    return contents


def _dataset(contents: Contents, folder: Path) -> GraphDataset:
    graphs, split, header = contents
    return GraphDataset(
        header["name"],
        Task(*header["task"]),
        split,
        graphs,
        labels=graphs.y,
        num_nodes=graphs.num_nodes,
        num_edges=graphs.num_edges,
        source=str(folder),
        fingerprint=header["fingerprint"],
        differs=header["differs"],
    )
