"""From the folder of a run back to the trained module; needs no Lightning."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from graphattn.data import Task
from graphattn.training.config import RunConfig, as_dict, default_config, differences, flat, read_config
from graphattn.training.folder import RunFolder
from graphattn.training.predictor import GraphPredictor

FREE_TO_START = ("model.head_gate", "model.select", "model.impl", "model.dropout_p", "model.attention_dropout_p")
PREFIX = "predictor."  # of the module's parameters in a checkpoint


def load_run(run: str | Path, checkpoint: str | None = None) -> GraphPredictor:
    """Returns the trained module of a run, in evaluation mode, on the CPU.

    Args:
        run: folder that `graphattn train` made.
        checkpoint: a file in its `checkpoints/`; None takes the best one, or the last if no epoch was finished.

    Raises:
        FileNotFoundError: if the folder is no run, or has no such checkpoint.
        ValueError: if the checkpoint is damaged, or of another model than config.yaml describes.
    """
    folder = RunFolder(Path(run).expanduser()).checked()
    path = find_checkpoint(folder, checkpoint)
    contents = read_checkpoint(path)
    config = read_config(folder.config)
    check_same_model(config, contents, path)
    predictor = GraphPredictor(config, Task(*contents["graphattn"]["task"]))
    load_weights(predictor, contents, path)
    return predictor.eval()


def find_checkpoint(folder: RunFolder, name: str | None = None) -> Path:
    """Returns the path of a checkpoint: the named one, otherwise best.ckpt, otherwise last.ckpt."""
    there = sorted(path.name for path in folder.checkpoints.glob("*.ckpt"))
    for candidate in [name] if name else ["best.ckpt", "last.ckpt"]:
        if candidate in there:
            return folder.checkpoints / candidate
    raise FileNotFoundError(
        f"{folder.checkpoints} has no {name or 'checkpoint'}; there is {', '.join(there) or 'nothing'}. "
        + ("Name one of these." if there else "The run ended before its first one: start it again.")
    )


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Reads a checkpoint without running code from it.

    Raises:
        ValueError: if it is damaged, or not one of ours.
    """
    try:
        contents = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError, KeyError) as error:
        raise ValueError(
            f"{path} is damaged or no checkpoint ({_first_line(error)}). Use another checkpoint."
        ) from error
    header = contents.get("graphattn") if isinstance(contents, dict) and "state_dict" in contents else None
    if not isinstance(header, dict) or not {"config", "task", "fingerprint"} <= set(header):
        raise ValueError(f"{path} is not a checkpoint that `graphattn train` wrote. Use one of a run's checkpoints/.")
    return contents


def check_same_model(config: RunConfig, contents: dict[str, Any], path: Path) -> None:
    """Raises a ValueError if a checkpoint is of another model or input than a configuration; names what differs."""
    # a checkpoint of an older version lacks newer keys
    theirs = flat(as_dict(default_config(config.network))) | flat(contents["graphattn"]["config"])
    differing = _differences_of_model(flat(as_dict(config)), theirs)
    if differing:
        raise ValueError(
            f"{path} is a checkpoint of another model: it has {'; '.join(differing)}. "
            "Put it back into its own run, or set config.yaml to what it has."
        )


def load_weights(predictor: GraphPredictor, contents: dict[str, Any], path: Path) -> None:
    """Loads parameters from a checkpoint into a module built from the same configuration."""
    weights = {name.removeprefix(PREFIX): value for name, value in contents["state_dict"].items()}
    try:
        predictor.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(
            f"{path} does not fit the model of this version of graphattn: {_first_line(error, 2)}. "
            "Load it with the version that environment.json beside it names."
        ) from error


def start_from(predictor: GraphPredictor, run: str | Path) -> None:
    """Loads the best weights of another run; head gates and draws stay as they are.

    Raises:
        FileNotFoundError: if the folder is no run, or has no checkpoint.
        ValueError: if its model differs in anything else.
    """
    folder = RunFolder(Path(run).expanduser()).checked()
    path = find_checkpoint(folder)
    ours, theirs = flat(as_dict(predictor.config)), flat(as_dict(read_config(folder.config)))
    differing = _differences_of_model(ours, theirs, free=FREE_TO_START)
    if differing:
        raise ValueError(
            f"training.start_from {run} has another model: {'; '.join(differing)}. Start from a run whose model "
            f"differs in {', '.join(key.partition('.')[2] for key in FREE_TO_START)} alone."
        )
    given = {name.removeprefix(PREFIX): value for name, value in read_checkpoint(path)["state_dict"].items()}
    own = {name: value for name, value in predictor.state_dict().items() if _is_of_seats(name)}
    taken = {name: value for name, value in given.items() if not _is_of_seats(name)}
    try:
        predictor.load_state_dict({**taken, **own})
    except RuntimeError as error:
        raise ValueError(f"training.start_from {run} has other weights: {_first_line(error, 2)}.") from error


def _differences_of_model(ours: Mapping[str, Any], theirs: Mapping[str, Any], free: Sequence[str] = ()) -> list[str]:
    """Returns in what two configurations, as `flat` has them, describe other models; `free` keys may differ."""
    keys = [key for key in sorted({*ours, *theirs}) if key.startswith(("model.", "inputs.", "network"))]
    return differences(ours, theirs, [key for key in keys if key not in free])


def _is_of_seats(name: str) -> bool:
    """Returns whether a weight is of the head gate or the draws, by the names that models give these."""
    return name.split(".")[1:2] in (["head_gate"], ["draws"])


def _first_line(error: Exception, number: int = 1) -> str:
    return " ".join(line.strip() for line in str(error).splitlines()[:number]) or type(error).__name__
