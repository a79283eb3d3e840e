"""From a trained run to a smaller one: the heads that count least are taken out of the model, and out of the file."""

from __future__ import annotations

import copy
import dataclasses
import io
import math
import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from graphattn.data import GraphDataset, Task, load, make_loader
from graphattn.data.files import write_whole
from graphattn.inputs import GraphBatch
from graphattn.nn import HeadGate, ImportanceHeadGate, prune
from graphattn.training.config import as_dict, as_yaml
from graphattn.training.evaluate import Predictions, predict_split
from graphattn.training.folder import RunFolder, environment, make_run_folder, write_json
from graphattn.training.load import PREFIX, find_checkpoint, load_run, read_checkpoint
from graphattn.training.metric import score
from graphattn.training.predictor import GraphPredictor
from graphattn.training.run import RunResult, threads

NUM_TIMED = 9


@dataclass(frozen=True)
class PrunedRun:
    """What pruning did."""

    folder: str
    how: str  # by what heads were chosen
    kept: list[list[int]]  # heads of each layer, numbered as before
    num_heads: int  # of each layer before
    metric: str
    test_before: float | None  # of the run as it was trained, with all heads or with its gates
    test: float | None  # of the pruned model
    num_parameters: tuple[int, int]  # before and after
    num_bytes: tuple[int, int]  # of the parameters on disk
    batch_ms: tuple[float, float]  # a forward of a batch, before and after, medians in turn


def prune_run(run: str | Path, keep: int, *, folder: str | Path | None = None) -> PrunedRun:
    """Keeps the `keep` best heads of a trained run, and stores the smaller model as a run of its own.

    A model with a head gate keeps the heads that the gate rates highest. Of a model without one, the importance of each
    head is measured on the train split first, by `nn.ImportanceHeadGate`.

    Args:
        run: folder that `graphattn train` made.
        keep: heads of all layers together; a layer may lose all of its own.
        folder: where the pruned run goes; None is beside the run, `RUN-keepK`.

    Returns:
        what was kept, and metric, size and time before and after. The folder holds it as `pruned.json`.

    Raises:
        FileNotFoundError: if the folder is no run.
        ValueError: if `keep` is out of range, the model has no heads that can be pruned, or pruned and gated model
            differ in a prediction, which would be a fault.

    Source: heads chosen by gates as in Li et al. 2021, by importance as in Michel et al. 2019.
    """
    source = RunFolder(Path(run).expanduser()).checked()
    predictor = load_run(source.path)
    config = predictor.config
    dataset = load(config.data.name, config.data.root, yes=config.data.yes)
    gate, how = _gate(predictor, dataset, keep)
    kept = gate.kept()
    gated = _gated(predictor, gate)
    smaller = prune(predictor, kept)
    counted = _counted(config.model.kept_heads, kept)
    model = dataclasses.replace(config.model, head_gate="", kept_heads=tuple(map(tuple, counted)))
    of_pruned = dataclasses.replace(
        config, model=model, training=dataclasses.replace(config.training, start_from=None, gates_only=False)
    )
    pruned = GraphPredictor(of_pruned, predictor.task).eval()
    pruned.load_state_dict(smaller.state_dict())

    before, after = (_of_test(each, dataset) for each in (gated, pruned))
    if before is not None and after is not None and not np.allclose(before.y_pred, after.y_pred, rtol=1e-4, atol=1e-4):
        gap = float(np.abs(before.y_pred - after.y_pred).max())
        raise ValueError(f"the pruned model differs from the gated one by {gap:.2g}: please report this.")
    of_run = _of_test(predictor, dataset)
    beside = source.path.with_name(f"{source.path.name}-keep{keep}")
    made = make_run_folder(Path(folder).expanduser() if folder else beside)
    contents = read_checkpoint(find_checkpoint(source))
    header = {"config": as_dict(of_pruned), "task": list(predictor.task), "fingerprint": dataset.fingerprint}
    state = {PREFIX + name: value for name, value in pruned.state_dict().items()}
    checkpoint = {**_plain(contents), "state_dict": state, "graphattn": header}
    write_whole(made.checkpoints / "best.ckpt", _stored(checkpoint))
    write_whole(made.config, as_yaml(of_pruned).encode())
    write_json(made.environment, environment())
    if after is not None:
        after.write(made.predictions)
    result = PrunedRun(
        folder=str(made.path),
        how=how,
        kept=counted,
        num_heads=config.model.num_heads,
        metric=predictor.task.metric,
        test_before=_score(predictor.task, of_run),
        test=_score(predictor.task, after),
        num_parameters=(predictor.num_parameters(), pruned.num_parameters()),
        num_bytes=(len(_stored(predictor.state_dict())), len(_stored(pruned.state_dict()))),
        batch_ms=_times(predictor, pruned, dataset),
    )
    write_json(made.path / "pruned.json", dataclasses.asdict(result))
    write_json(made.result, dataclasses.asdict(_result(made, pruned, dataset, after, contents)))
    return result


def _gate(predictor: GraphPredictor, dataset: GraphDataset, keep: int) -> tuple[HeadGate, str]:
    """Returns a gate that keeps `keep` heads, the model's own or one that measures, and by what it chooses."""
    model = predictor.config.model
    if not hasattr(model, "kept_heads") or not hasattr(predictor.network, "head_gate"):
        raise ValueError(
            f"{predictor.config.network} has no heads that can be pruned: no kept_heads in its configuration. Prune a "
            "run of graphattn.models:GraphTransformer."
        )
    own = predictor.head_gates()
    if own:
        gate = copy.deepcopy(own[0])
        gate.num_keep = type(gate)(gate.num_layers, gate.num_heads, keep).num_keep  # refuses what is out of range
        return gate, type(gate).__name__
    if model.kept_heads and len({len(heads) for heads in model.kept_heads}) > 1:
        raise ValueError(
            "this model is pruned already, to different numbers of heads in its layers. Prune the run that it was made "
            "from once more, with a smaller --keep."
        )
    num_heads = len(model.kept_heads[0]) if model.kept_heads else model.num_heads
    gate = ImportanceHeadGate(model.num_layers, num_heads, keep)
    _measure(predictor, gate, dataset)
    return gate, "importance on the train split"


def _measure(predictor: GraphPredictor, gate: HeadGate, dataset: GraphDataset) -> None:
    """Sends the train split forward and backward through the model; no dropout, norms as trained."""
    probed = copy.deepcopy(predictor).eval()
    probed.network.head_gate = gate.train()
    for batch in _train_batches(probed, dataset):
        probed.loss(batch).backward()
        probed.zero_grad()


def _gated(predictor: GraphPredictor, gate: HeadGate) -> GraphPredictor:
    gated = copy.deepcopy(predictor)
    gated.network.head_gate = copy.deepcopy(gate)
    return gated.eval()


def _counted(before: tuple[tuple[int, ...], ...], kept: list[list[int]]) -> list[list[int]]:
    """Returns heads as they were numbered before any pruning."""
    return [[heads[each] for each in chosen] for heads, chosen in zip(before, kept, strict=True)] if before else kept


def _train_batches(predictor: GraphPredictor, dataset: GraphDataset) -> Iterable[GraphBatch]:
    size = predictor.config.data.batch_size
    return make_loader(dataset, "train", predictor.collate, batch_size=size, shuffle=False)


def _of_test(predictor: GraphPredictor, dataset: GraphDataset) -> Predictions | None:
    return predict_split(predictor, dataset, "test") if dataset.split["test"].numel() else None


def _score(task: Task, found: Predictions | None) -> float | None:
    return None if found is None else score(task, found.y_true, found.y_pred)


def _stored(contents: dict) -> bytes:
    """Returns what `torch.save` writes."""
    stream = io.BytesIO()
    torch.save(contents, stream)
    return stream.getvalue()


@torch.no_grad()
def _times(before: GraphPredictor, after: GraphPredictor, dataset: GraphDataset) -> tuple[float, float]:
    """Returns the medians of a forward of a training batch, in ms, taken in turn."""
    batch = next(iter(_train_batches(before, dataset)))
    taken: tuple[list[float], list[float]] = ([], [])
    with threads(before.config.training.num_threads):
        for number in range(NUM_TIMED + 2):
            for model, times in zip((before, after), taken, strict=True):
                start = time.perf_counter()
                model(batch)
                if number >= 2:
                    times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(taken[0]), statistics.median(taken[1])


def _plain(contents: dict) -> dict:
    """Returns what of a checkpoint says where it comes from; optimizer and loops belong to the model before."""
    return {name: contents[name] for name in ("epoch", "global_step", "pytorch-lightning_version") if name in contents}


def _result(
    made: RunFolder, pruned: GraphPredictor, dataset: GraphDataset, test: Predictions | None, contents: dict
) -> RunResult:
    """Returns the pruned run's metrics in the form of any run's; nothing was trained."""
    valid = predict_split(pruned, dataset, "valid") if dataset.split["valid"].numel() else None
    found = _score(pruned.task, valid)
    return RunResult(
        folder=str(made.path),
        name=dataset.name,
        metric=dataset.task.metric,
        seed=pruned.config.seed,
        valid=math.nan if found is None else found,
        test=_score(pruned.task, test),
        best_epoch=contents["epoch"] + 1,
        num_epochs=contents["epoch"] + 1,
        num_steps=contents["global_step"],
        num_parameters=pruned.num_parameters(),
        seconds=0.0,
    )
