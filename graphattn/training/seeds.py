"""Several seeds of one configuration: mean and unbiased standard deviation, as OGB's leaderboards ask."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from graphattn.training.config import RunConfig
from graphattn.training.folder import RunFolder, directory_of, runs_of, time_stamp, write_json
from graphattn.training.run import RunResult, read_result, train, train_in


def parse_seeds(text: str) -> list[int]:
    """Reads seeds from text: numbers and ranges with both ends, joined by commas.

    Raises:
        ValueError: for anything else, or a seed that is named twice.

    >>> parse_seeds("0-2,7")
    [0, 1, 2, 7]
    """
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or (dash and int(last) < int(first)):
            raise ValueError(f"seeds must be numbers and ranges such as 0-9 or 0,3,5-7, got {text!r}.")
        seeds += range(int(first), int(last if dash else first) + 1)
    if len(set(seeds)) != len(seeds):
        raise ValueError(f"seeds must be named once each, got {text!r}, or their spread would be too small.")
    return seeds


def mean_and_std(values: Sequence[float]) -> tuple[float, float]:
    """Returns the mean and the unbiased standard deviation (n − 1); the latter is NaN for a single value.

    >>> mean_and_std([1.0, 2.0, 3.0])
    (2.0, 1.0)
    """
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else math.nan


def as_text(name: str, values: Sequence[float], of: str = "seeds") -> str:
    """Returns one line for people: mean, unbiased standard deviation, and of how many `of` they are.

    >>> as_text("test rmse", [1.0, 2.0, 3.0])
    'test rmse 2.0000 ± 1.0000 (3 seeds)'
    """
    mean, std = mean_and_std(values)
    return f"{name} {mean:.4f}" + (f" ± {std:.4f} ({len(values)} {of})" if len(values) > 1 else "")


def train_seeds(
    config: RunConfig,
    seeds: Sequence[int],
    *,
    resume: bool = False,
    report: Callable[[RunResult], None] = lambda result: None,
) -> tuple[Path, list[RunResult]]:
    """Trains one run per seed in one folder, `run_root/NAME/TIME-seeds-N/seedK`, and writes `summary.json` there.

    Args:
        config: its seed is replaced by each of `seeds`.
        seeds: different ones.
        resume: go on in the newest such folder: finished seeds are read, the others go on or begin.
        report: called with each result as it comes.

    Raises:
        FileNotFoundError: if there is nothing to resume.
        Interrupted and others: as `train`; seeds that are finished stay finished.
    """
    directory = directory_of(config.run_root, config.data.name)
    stem = f"seeds-{len(seeds)}"
    path = directory / f"{time_stamp()}-{stem}"
    if resume:
        found = runs_of(directory, f"*-{stem}")
        if not found:
            raise FileNotFoundError(f"there is nothing to resume: {directory} has no run of {len(seeds)} seeds.")
        path = found[0]
    results = []
    for seed in seeds:
        of_seed, folder = dataclasses.replace(config, seed=seed), path / f"seed{seed}"
        results.append(train_in(of_seed, folder) if resume else train(of_seed, folder=folder))
        report(results[-1])
        write_json(path / "summary.json", summary(results))
    return path, results


def summary(results: Sequence[RunResult]) -> dict[str, Any]:
    """Returns mean and unbiased std of the metrics of several runs, ready for JSON."""
    parts: dict[str, Any] = {"name": results[0].name, "metric": results[0].metric, "seeds": [r.seed for r in results]}
    for part in ("valid", "test"):
        values = [value for result in results if (value := getattr(result, part)) is not None]
        if values:
            mean, std = mean_and_std(values)
            parts[part] = {"mean": mean, "std": None if math.isnan(std) else std, "values": values}
    return parts


def runs_in(path: Path) -> list[Path]:
    """Returns the runs of a folder of seeds in the order of their seeds, or the path itself if it is none."""
    runs = [each for each in path.glob("seed*") if (each / "config.yaml").is_file()] if path.is_dir() else []
    return sorted(runs, key=lambda each: int(each.name.removeprefix("seed") or 0)) or [path]


def read_results(path: Path) -> list[RunResult]:
    """Returns the results of the finished runs in a folder of seeds."""
    return [read_result(RunFolder(each)) for each in runs_in(path) if RunFolder(each).is_finished]
