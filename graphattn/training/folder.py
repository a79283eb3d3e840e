"""The folder of a run: what lies in it, how it is made, how it is found again."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import re
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from graphattn._version import __version__
from graphattn.data.files import write_whole

PACKAGES = (
    "torch", "torch-geometric", "numpy", "scipy", "numba", "ogb", "lightning", "jsonargparse", "torchmetrics",
    "tensorboard", "rdkit", "torch-scatter", "triton", "safetensors", "matplotlib",
)  # fmt: skip


@dataclass(frozen=True)
class RunFolder:
    """Names of the files of a run.

    config.yaml             resolved configuration; `--config` reads it
    environment.json        versions, machine, git state, threads
    journal.jsonl           one line per logged step and epoch
    tensorboard/            the same for TensorBoard
    checkpoints/            best.ckpt, last.ckpt, step-N.ckpt
    predictions_test.npz    index int64 [num_graphs], y_true and y_pred float64 [num_graphs, num_tasks]
    result.json             metrics of the best checkpoint; its presence says that the run is finished
    curve.png               train loss and valid metric over the run; a folder of seeds has one as well
    pruned.json, heads.png  of a run that `graphattn prune` made: what stayed, and the picture of it
    pathways.png            a graph of the test split and who reads whom in it; in a folder of seeds that of its first
    """

    path: Path

    @classmethod
    def of(cls, path: Path) -> RunFolder:
        """Returns the folder of a run that is named by itself or by one of its checkpoints."""
        path = path.expanduser()
        return cls(path.parent.parent if path.suffix == ".ckpt" else path)

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def environment(self) -> Path:
        return self.path / "environment.json"

    @property
    def journal(self) -> Path:
        return self.path / "journal.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def predictions(self) -> Path:
        return self.path / "predictions_test.npz"

    @property
    def result(self) -> Path:
        return self.path / "result.json"

    @property
    def curve(self) -> Path:
        return self.path / "curve.png"

    @property
    def pathways(self) -> Path:
        return self.path / "pathways.png"

    @property
    def is_finished(self) -> bool:
        return self.result.exists()

    def checked(self) -> RunFolder:
        """Returns the folder unchanged.

        Raises:
            FileNotFoundError: if it is not the folder of a run; says what it seems to be.
        """
        if not self.path.is_dir():
            raise FileNotFoundError(f"there is no run {self.path}. Pass a folder that `graphattn train` made.")
        if not self.config.is_file() or not self.checkpoints.is_dir():
            inside = sorted(str(config.parent) for config in self.path.glob("**/config.yaml"))[-1:]
            advice = f"There is a run in it: {inside[0]}." if inside else "`graphattn train` prints the one it makes."
            raise FileNotFoundError(
                f"{self.path} is not the folder of a run: it has no config.yaml with checkpoints/ beside it. {advice}"
            )
        return self


def make_run_folder(path: Path) -> RunFolder:
    """Makes a folder for a new run; a number is appended if the name is taken.

    Raises:
        OSError: if the directory is not writable or the disk is full.
    """
    candidate, number = path, 2
    while True:
        try:
            candidate.mkdir(parents=True, exist_ok=False)
            break
        except FileExistsError:
            if not candidate.is_dir():
                raise
            candidate, number = path.with_name(f"{path.name}-{number}"), number + 1
    (candidate / "checkpoints").mkdir()
    return RunFolder(candidate)


def directory_of(run_root: str, name: str) -> Path:
    """Returns the directory of the runs on one data set.

    >>> directory_of("runs", "package.module:function").name
    'package.module-function'
    """
    return Path(run_root).expanduser() / re.sub(r"[^A-Za-z0-9._-]+", "-", name)


def time_stamp() -> str:
    """Returns the time as it stands in names of folders, UTC."""
    return datetime.now(UTC).strftime("%Y%m%d-%H%M%S")


def runs_of(directory: Path, pattern: str) -> list[Path]:
    """Returns the folders of a pattern, the newest first; time stamps sort as names do."""
    return sorted((path for path in directory.glob(pattern) if path.is_dir()), key=lambda path: path.name, reverse=True)


def read_journal(path: Path) -> list[dict[str, Any]]:
    """Returns the lines of a journal, none if there is no file; one that was cut off is left out."""
    if not path.exists():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and isinstance(line.get("step"), int):
            lines.append(line)
    return lines


def environment() -> dict[str, Any]:
    """Returns versions, machine, threads and the state of the git repository that the code lies in."""
    versions: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "graphattn": __version__,
        "python": platform.python_version(),
        "packages": versions,
        "platform": platform.platform(),
        "processor": platform.machine(),
        "num_threads": torch.get_num_threads(),
        "cuda": [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())],
        "git": git_state(),
        "command": sys.argv,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def git_state() -> dict[str, Any] | None:
    """Returns commit and whether files differ from it, None for a package that lies in no repository of its own."""
    package = Path(__file__).resolve().parents[1]
    if not (package.parent / ".git").exists():
        return None
    try:
        commit, status = (
            subprocess.run(
                ["git", "-C", str(package.parent), *command], capture_output=True, text=True, timeout=10, check=True
            ).stdout.strip()
            for command in (["rev-parse", "HEAD"], ["status", "--porcelain", "--", "graphattn"])
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "is_modified": bool(status)}


def write_json(path: Path, values: Any) -> None:
    """Writes values as JSON, whole or not at all."""
    write_whole(path, (json.dumps(values, indent=2) + "\n").encode())
