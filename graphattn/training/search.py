"""Random search: as many runs as you allow, the same draws for every model, finalists from several seeds."""

from __future__ import annotations

import dataclasses
import json
import math
import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from graphattn.data.files import write_whole
from graphattn.data.task import LOWER_IS_BETTER
from graphattn.training.config import (
    NETWORK,
    RunConfig,
    as_dict,
    as_yaml,
    check_keys,
    default_config,
    flat,
    read_config,
)
from graphattn.training.folder import write_json
from graphattn.training.run import RunResult, train_in

# Common to graph networks, so that any `network` can be searched in it.
DEFAULT_SPACE: Mapping[str, Sequence[Any]] = {
    "model.embed_dim": (64, 128),
    "model.num_layers": (3, 4, 5),
    "model.dropout_p": (0.0, 0.1, 0.2, 0.4),
    "model.readout": ("sum", "mean"),
    "training.lr": (5e-4, 1e-3, 2e-3),
    "training.weight_decay": (1e-4, 1e-2, 1e-1),
}


@dataclasses.dataclass(frozen=True)
class Trial:
    """One configuration of a search, and its runs."""

    number: int
    overrides: dict[str, Any]  # dotted key → value; empty for trial 0
    results: list[RunResult]  # one, or one per seed if the trial came into the final; none if the first run failed
    failure: str = ""  # what it said

    @property
    def valid(self) -> float:
        """Mean of the valid metric over seeds, NaN if there is none."""
        return statistics.fmean(result.valid for result in self.results) if self.results else math.nan


@dataclasses.dataclass(frozen=True)
class SearchResult:
    """What a search found."""

    best: RunConfig  # with the seed of the configuration that was searched from
    best_trial: Trial
    trials: list[Trial]
    folder: Path

    @property
    def num_epochs(self) -> int:
        """Epochs trained in all trials together: what the search has cost."""
        return sum(result.num_epochs for trial in self.trials for result in trial.results)


def draw(space: Mapping[str, Sequence[Any]], number: int, seed: int = 0) -> dict[str, Any]:
    """Returns the overrides of one trial: nothing for trial 0, one value per key, drawn evenly, for the others.

    A key's value depends on (seed, number, key) alone, so two models that are searched in spaces with common keys are
    given the same values of these.

    >>> draw({"training.lr": (1e-3, 1e-2)}, number=0)
    {}
    >>> draw({"training.lr": (1e-4, 1e-3, 1e-2), "training.clip": (0.5, 1.0)}, number=1)
    {'training.lr': 0.0001, 'training.clip': 1.0}
    """
    if number == 0:
        return {}
    return {key: random.Random(f"{seed}/{number}/{key}").choice(list(values)) for key, values in space.items()}


def tune(
    config: RunConfig,
    num_trials: int,
    folder: str | Path,
    *,
    num_finalists: int = 3,
    num_seeds: int = 3,
    space: Mapping[str, Sequence[Any]] = DEFAULT_SPACE,
    search_seed: int = 0,
    report: Callable[[Trial], None] = lambda trial: None,
) -> SearchResult:
    """Trains `num_trials` configurations and returns the one with the best valid metric; test labels decide nothing.

    The best of many trials is lucky as well as good: on small data its valid metric from another seed is that of the
    others. So the best `num_finalists` trials are trained from `num_seeds` seeds, and the best mean wins.

    The budget is stated and the same for every model that is searched with the same arguments: `num_trials +
    num_finalists · (num_seeds − 1)` runs of at most `config.training.max_epochs` epochs. Trial 0 is the configuration
    as it stands, so a search never ends far below a good default; the others are drawn by `draw`. Each run has its
    folder, `trial0`, `trial1`, …, `trial1-seed2`; a search that was stopped goes on when it is called again, and one
    that is finished returns its result again.

    Args:
        config: where the search starts; its `network` may be any, and its seed is the first one.
        num_trials: configurations, at least 1. A larger number than last time continues the search.
        folder: of the search: runs, `search.json` with every trial, and `best.yaml`, which
            `graphattn train --config .../best.yaml --seeds 0-9` trains.
        num_finalists, num_seeds: at least 1; 1 chooses by a single seed.
        space: dotted key of the configuration → values to choose from.
        search_seed: of the draws.
        report: called with each trial as it ends, and with each finalist again.

    Raises:
        ValueError: for an unknown key (the nearest is suggested), an empty list of values, a number below 1, a folder
            that holds another search, or if every trial failed.
        Interrupted and others: as `train`; runs that are finished stay finished.

    A trial whose loss diverges, or whose sizes do not fit together, counts as a trial and is never the best.
    """
    folder = Path(folder).expanduser()
    for name, number in (("num_trials", num_trials), ("num_finalists", num_finalists), ("num_seeds", num_seeds)):
        if number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}. Trial 0 is the configuration itself.")
    _check(config, space, folder, search_seed)
    trials: list[Trial] = []

    def write() -> None:
        write_json(folder / "search.json", _record(config, space, search_seed, trials))

    for number in range(num_trials):
        trials.append(_trial(config, number, draw(space, number, search_seed), folder))
        write()
        report(trials[-1])
    finalists = _ranked(trials)[:num_finalists]
    if len(finalists) > 1:  # one alone need not be compared
        for trial in finalists:
            of_trial = _overridden(config, trial.overrides)
            for seed in range(config.seed + 1, config.seed + num_seeds):
                place = folder / f"trial{trial.number}-seed{seed}"
                trial.results.append(train_in(dataclasses.replace(of_trial, seed=seed), place))
            write()
            report(trial)
    best = _ranked(finalists)[0]
    chosen = _overridden(config, best.overrides)
    write_whole(folder / "best.yaml", as_yaml(chosen).encode())
    return SearchResult(chosen, best, trials, folder)


def _check(config: RunConfig, space: Mapping[str, Sequence[Any]], folder: Path, search_seed: int) -> None:
    check_keys(space, " in the search space", network=config.network)
    for key, values in space.items():
        if isinstance(values, str) or not isinstance(values, Sequence) or not values:
            raise ValueError(f"{key} of the search space must list values to choose from, got {values!r}.")
    stored = folder / "search.json"
    if not stored.is_file():
        return
    ours, theirs = (_identity(each) for each in (_record(config, space, search_seed, []), _read(stored)))
    differing = [f"{key} {theirs.get(key)!r} (here {ours.get(key)!r})" for key in ours if ours[key] != theirs.get(key)]
    if differing:
        raise ValueError(f"{folder} holds another search: {'; '.join(differing)}. Choose another folder.")


def _trial(config: RunConfig, number: int, overrides: dict[str, Any], folder: Path) -> Trial:
    try:
        return Trial(number, overrides, [train_in(_overridden(config, overrides), folder / f"trial{number}")])
    except ValueError as error:  # a loss that diverged, sizes that do not fit together
        if number == 0:
            raise
        return Trial(number, overrides, [], str(error))


def _overridden(config: RunConfig, overrides: Mapping[str, Any]) -> RunConfig:
    """Returns a configuration with other values under dotted keys."""
    for key, value in overrides.items():
        group, _, name = key.rpartition(".")
        if group:
            config = dataclasses.replace(
                config, **{group: dataclasses.replace(getattr(config, group), **{name: value})}
            )
        else:
            config = dataclasses.replace(config, **{name: value})
    return config.checked()


def _ranked(trials: Sequence[Trial]) -> list[Trial]:
    """Returns the trials that have a valid metric, the best one first."""
    ended = [trial for trial in trials if not math.isnan(trial.valid)]
    if not ended:
        raise ValueError(
            f"none of {len(trials)} trials has a valid metric. The first said: {trials[0].failure or 'NaN'}."
        )
    sign = 1 if ended[0].results[0].metric in LOWER_IS_BETTER else -1
    return sorted(ended, key=lambda trial: sign * trial.valid)


def _record(
    config: RunConfig, space: Mapping[str, Sequence[Any]], search_seed: int, trials: Sequence[Trial]
) -> dict[str, Any]:
    """Returns a search as JSON holds it."""
    return {
        "config": as_dict(config),
        "space": {key: list(values) for key, values in space.items()},
        "search_seed": search_seed,
        "trials": [dataclasses.asdict(trial) for trial in trials],
    }


def _identity(record: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what makes a search the same search, under dotted keys."""
    places = ("config.run_root", "config.data.root", "config.data.num_workers", "config.data.yes")
    values = flat({key: record.get(key) for key in ("config", "search_seed")})
    values |= {f"space.{key}": list(choices) for key, choices in record.get("space", {}).items()}
    return {key: value for key, value in values.items() if key not in places}


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}). Remove it; finished trials beside it are kept.") from error


def read_space(source: str | Path, network: str = NETWORK) -> dict[str, list[Any]]:
    """Reads a search space from YAML: dotted keys of a network's configuration, or nested ones, with lists of values.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no YAML mapping, or a key is unknown.
    """
    import yaml

    path = Path(source).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}. A search space is YAML such as `training.lr: [1e-3, 3e-3]`.")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must map keys to lists of values, got {type(values).__name__}.")
    space = flat(values)
    check_keys(space, f" in {path}", network=network)
    defaults = flat(as_dict(default_config(network)))
    for key, choices in space.items():
        if not isinstance(choices, list) or not choices:
            raise ValueError(f"{key} in {path} must list values to choose from, got {choices!r}.")
        for choice in choices:  # checks the type, and turns what YAML reads as text, 1e-3, into a number
            read_config(None, [f"--network={network}", f"--{key}", str(choice)])
        kind = type(defaults[key])
        space[key] = [kind(choice) if kind in (int, float) else choice for choice in choices]
    return space
