"""From a name to a data set: looked for on this disk, downloaded if it is nowhere, or made by a function of yours."""

import os
import re
import warnings
from pathlib import Path

from graphattn.data.cache import open_folder, user_directory
from graphattn.data.cards import card
from graphattn.data.custom import from_function
from graphattn.data.dataset import GraphDataset
from graphattn.data.download import install
from graphattn.data.task import Task

SHIPPED = Path(__file__).resolve().parents[2] / "datasets"  # of a clone; an installed wheel has none


def load(
    name: str,
    root: str | os.PathLike[str] | None = None,
    *,
    yes: bool = False,
    download: bool = True,
    split_seed: int = 0,
) -> GraphDataset:
    """Loads a data set by name. It asks no questions and, for data that are on this disk, needs no network.

    A set `ogbg-mol*` is looked for in `root` (either `root/ogbg_molesol`, or `root` itself being that folder), in the
    `datasets/` of a clone, and in $GRAPHATTN_DATA (~/.cache/graphattn); otherwise it is downloaded into `root`, or into
    the last of these. The processed form goes to `processed/` beside the raw files, or to the last of these where that
    is read-only, and is made again when a raw file changes.

    Args:
        name: "ogbg-molesol", "ogbg-molhiv", … (`names()` lists them), or "package.module:function".
        root: a directory with data sets in OGB's layout; it is made if there is something to download.
        yes: agree to downloads above 50 MB.
        download: False raises instead of downloading.
        split_seed: draws the split of "package.module:function" where the function gives none; others have their own.

    Returns:
        GraphDataset with the official scaffold split; labels that are missing are NaN.

    Raises:
        ValueError: if there is no such data set (the nearest name is suggested), its files are incomplete, damaged or
            disagree, or it is large and `yes` is False.
        FileNotFoundError: if it is on no disk and `download` is False.
        ConnectionError: if it cannot be downloaded.
        ImportError: if only the ogb package knows the set and is not installed; of a function, if there is none.
        OSError: if the disk is full or a file may not be read.

    >>> dataset = load("ogbg-molesol")
    >>> dataset
    GraphDataset(ogbg-molesol: 1,128 graphs, train 902, valid 113, test 113, regression, rmse)
    >>> dataset[1]
    Data(x=[15, 9], edge_index=[2, 32], edge_attr=[32, 3], y=[1, 1], smiles='Cc1occc1C(=O)Nc2ccccc2', record_number=1)
    """
    if ":" in name:
        if root is not None:
            raise ValueError(f"root={os.fspath(root)!r} has no meaning for {name}, which is made by a function.")
        return from_function(name, split_seed=split_seed)
    if not re.fullmatch("ogbg-mol[a-z0-9]+", name):
        card(name)  # raises, with the nearest name
    folder = find(name, root)
    if folder is None:
        places = [str(place) for place in _places(root)]
        address = card(name)["address"]
        if not download:
            raise FileNotFoundError(
                f"{name} is in none of {', '.join(places)}. Allow the download (from {address}), "
                "or pass the directory that holds it as root."
            )
        directory = user_directory() if root is None else Path(root).expanduser()
        folder = directory / folder_name(name)
        install(address, folder, yes=yes, sha256=card(name).get("zip_sha256"))
    if root is not None and Path(root).expanduser() not in (folder, folder.parent):
        warnings.warn(f"{root} has no {name}; using {folder}.", stacklevel=2)
    return open_folder(folder, name, lambda: task_of(name), _official_files(name))


def find(name: str, root: str | os.PathLike[str] | None = None) -> Path | None:
    """Returns the folder of a data set on this disk, None if it is nowhere; takes no look inside.

    Raises:
        ValueError: if `root` is the folder of another data set.
    """
    itself = None if root is None else Path(root).expanduser()
    for directory in _places(root):
        for candidate in (directory / folder_name(name), directory / f"{folder_name(name)}_pyg"):  # ogb has both
            if candidate.is_dir():
                return candidate
        if directory == itself and ((directory / "raw").is_dir() or (directory / "processed").is_dir()):
            other = directory.resolve().name.removesuffix("_pyg").replace("_", "-")
            if other.startswith("ogbg-") and other != name:
                raise ValueError(
                    f"root {directory} is the folder of {other}, not of {name}. Pass its parent, or load {other!r}."
                )
            return directory
    return None


def task_of(name: str) -> Task:
    """Returns the task of a data set, from its card."""
    return Task(name, **card(name)["task"])


def folder_name(name: str) -> str:
    """Returns the name of a data set's folder in OGB's layout.

    >>> folder_name("ogbg-molesol")
    'ogbg_molesol'
    """
    return name.replace("-", "_")


def _places(root: str | os.PathLike[str] | None) -> list[Path]:
    is_clone = SHIPPED.is_dir() and (SHIPPED.parent / "setup.cfg").is_file()  # site-packages may have a `datasets` too
    given = [] if root is None else [Path(root).expanduser()]
    return [*given, *([SHIPPED] if is_clone else []), user_directory()]


def _official_files(name: str) -> dict:
    try:
        return card(name).get("files", {})
    except ImportError:  # processed or raw data on disk need no ogb for this
        return {}
