"""One run from configuration to result: folder, data, training, the best model's predictions on the test split."""

from __future__ import annotations

import dataclasses
import logging
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from graphattn.data import GraphDataset, load, make_loader
from graphattn.data.files import write_whole
from graphattn.data.reference import find_callable
from graphattn.training.config import FROM_DATA, RunConfig, as_dict, as_yaml, differences, flat, read_config, resolved
from graphattn.training.evaluate import predict_split
from graphattn.training.folder import (
    RunFolder,
    directory_of,
    environment,
    make_run_folder,
    runs_of,
    time_stamp,
    write_json,
)
from graphattn.training.load import check_same_model, load_weights, read_checkpoint, start_from
from graphattn.training.metric import score
from graphattn.training.predictor import GraphPredictor

# may differ between a run and the command that resumes it: they change no number
FREE = ("run_root", "data.root", "data.yes", "data.num_workers", "training.accelerator")


@dataclasses.dataclass(frozen=True)
class RunResult:
    """What a finished run says, as `result.json` has it."""

    folder: str
    name: str
    metric: str
    seed: int
    valid: float  # metric of the best epoch
    test: float | None  # of the same model; None if the test split is empty
    best_epoch: int  # from 1
    num_epochs: int  # that were trained
    num_steps: int
    num_parameters: int
    seconds: float  # of this process


def train(
    config: RunConfig | None = None, *, resume: str | Path | None = None, folder: Path | None = None
) -> RunResult:
    """Trains a model, or goes on with a run, and stores what came of it in the run's folder.

    Args:
        config: None only together with `resume`.
        resume: folder of a run, which goes on from its last checkpoint, or one of its checkpoints/*.ckpt. A run that is
            finished returns its result again. If `config` is given as well, it must be that of the run.
        folder: where a new run goes; None makes `run_root/NAME/TIME-seedN`.

    Returns:
        metrics of the best checkpoint.

    Raises:
        Interrupted: after Ctrl-C or SIGTERM, with last.ckpt written; the run can be resumed.
        ImportError: if an extra package is missing.
        FileNotFoundError, ValueError, OSError: naming what is wrong and what to do.
    """
    require_training()
    if resume is not None:
        return _resumed(config, Path(resume).expanduser())
    if config is None:
        raise ValueError("train needs a config or a run to resume. read_config('ogbg-molesol') makes one.")
    config = config.checked()
    find_callable(config.network, "a network")
    dataset = load(config.data.name, config.data.root, yes=config.data.yes)
    for split in ("train", "valid"):
        if bool(dataset.labels[dataset.indices(split)].isnan().all()):
            raise ValueError(f"the {split} split of {dataset.name} has no labels, all are NaN. Give some graphs a y.")
    config = resolved(config, dataset)
    name = f"{time_stamp()}-seed{config.seed}"
    made = make_run_folder(folder or directory_of(config.run_root, config.data.name) / name)
    write_whole(made.config, as_yaml(config).encode())
    write_json(made.environment, environment())
    return _fitted(config, dataset, made, None)


def train_in(config: RunConfig, folder: Path) -> RunResult:
    """Begins a run in a folder of its own, or goes on with the one that is there; arguments and errors as `train`."""
    is_begun = RunFolder(folder).config.is_file()
    return train(config, resume=folder) if is_begun else train(config, folder=folder)


def find_run(config: RunConfig) -> Path:
    """Returns the newest run of a configuration; if there is none, the newest of its data set and seed.

    Raises:
        FileNotFoundError: if there is none.
    """
    directory = directory_of(config.run_root, config.data.name)
    found = runs_of(directory, f"*-seed{config.seed}*")
    if not found:
        raise FileNotFoundError(
            f"there is nothing to resume: {directory} has no run with seed {config.seed}. "
            "Leave --resume out, or name the folder of the run."
        )
    return next((path for path in found if _is_of(config, RunFolder(path))), found[0])


def _is_of(config: RunConfig, folder: RunFolder) -> bool:
    """Returns whether a folder is of a run with this configuration."""
    try:
        return folder.config.is_file() and not _differing(config, read_config(folder.config))
    except (ValueError, TypeError, ImportError):  # of another version, or of a network that is not here
        return False


def require_training() -> None:
    """Raises an ImportError that says what to install, if the packages of the extra `train` are missing."""
    try:
        import lightning.pytorch  # noqa: F401
        import tensorboard  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"training needs {error.name}, which is not installed: pip install graphattn[train]"
        ) from error


def _resumed(config: RunConfig | None, path: Path) -> RunResult:
    is_file = path.suffix == ".ckpt"
    folder = RunFolder.of(path).checked()
    saved = read_config(folder.config)
    if config is not None:
        _check_same_run(config, saved, folder)
        free = {key: value for key, value in flat(as_dict(config)).items() if key in FREE}
        data = dataclasses.replace(
            saved.data,
            root=free["data.root"] or saved.data.root,
            yes=free["data.yes"] or saved.data.yes,
            num_workers=free["data.num_workers"],
        )
        training = dataclasses.replace(saved.training, accelerator=free["training.accelerator"])
        saved = dataclasses.replace(saved, data=data, training=training)
    if folder.is_finished and not is_file:
        return read_result(folder)
    checkpoint: Path | None = path if is_file else folder.checkpoints / "last.ckpt"
    assert checkpoint is not None
    if is_file and not checkpoint.is_file():
        there = ", ".join(sorted(each.name for each in folder.checkpoints.glob("*.ckpt"))) or "none"
        raise FileNotFoundError(f"there is no checkpoint {checkpoint}; {folder.checkpoints} has {there}.")
    dataset = load(saved.data.name, saved.data.root, yes=saved.data.yes)
    if checkpoint.is_file():
        contents = read_checkpoint(checkpoint)
        check_same_model(saved, contents, checkpoint)
        if contents["graphattn"]["fingerprint"] != dataset.fingerprint:
            raise ValueError(
                f"{dataset.source} is not the data {folder.path} was trained on (other sha256). "
                "Restore the files, or begin a new run."
            )
    else:
        checkpoint = None  # it ended before its first checkpoint: from the beginning, to the same bits
    return _fitted(saved, dataset, folder, checkpoint)


def _check_same_run(config: RunConfig, saved: RunConfig, folder: RunFolder) -> None:
    """Raises if a command asks for another run than the one it resumes; what data decide is not compared."""
    differing = _differing(config, saved)
    if differing:
        raise ValueError(
            f"{folder.path} cannot be resumed with another configuration: it has {'; '.join(differing)}. "
            "Leave these out, or begin a new run without --resume."
        )


def _differing(config: RunConfig, saved: RunConfig) -> list[str]:
    """Returns what sets two configurations apart, but for what may differ; another network alone says enough."""
    ours, theirs = flat(as_dict(config)), flat(as_dict(saved))
    free = {*FREE, *(f"model.{name}" for name in FROM_DATA)}
    keys = ["network"] if config.network != saved.network else [key for key in ours if key not in free]
    return differences(ours, theirs, keys)


def read_result(folder: RunFolder) -> RunResult:
    """Returns the result of a finished run."""
    import json

    try:
        stored = json.loads(folder.result.read_text(encoding="utf-8"))
        return RunResult(**{each.name: stored.get(each.name) for each in dataclasses.fields(RunResult)})
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{folder.result} is damaged ({error}). Remove it, and --resume writes it anew.") from error


def _fitted(config: RunConfig, dataset: GraphDataset, folder: RunFolder, checkpoint: Path | None) -> RunResult:
    """Trains in a folder that is there, from a checkpoint or from the beginning, and writes the result."""
    import lightning.pytorch as lightning
    from lightning.pytorch.callbacks import RichProgressBar
    from lightning.pytorch.loggers import TensorBoardLogger

    from graphattn.training.checkpoints import BEST, Checkpoints, OrderlyInterrupts, WholeFiles
    from graphattn.training.journal import EpochLines, Journal
    from graphattn.training.module import TrainingModule
    from graphattn.training.resume import EpochLoader, ExactResume, seeded

    started, settings = time.monotonic(), config.training
    with quiet(), threads(settings.num_threads), seeded(config.seed), OrderlyInterrupts() as interrupts:
        labels = dataset.labels[dataset.indices("train")]
        predictor = GraphPredictor(config, dataset.task, labels)
        if settings.start_from is not None and checkpoint is None:
            start_from(predictor, settings.start_from)
        is_cuda = settings.accelerator in ("auto", "cuda", "gpu") and _has_cuda()

        def loader(split: str) -> Any:
            return make_loader(
                dataset, split, predictor.collate, batch_size=config.data.batch_size, seed=config.seed,
                num_workers=config.data.num_workers, pin_memory=is_cuda,
            )  # fmt: skip

        train_loader = EpochLoader(loader("train"))
        module = TrainingModule(predictor, steps_per_epoch=len(train_loader))
        exact = ExactResume(train_loader)
        header = {"config": as_dict(config), "task": list(dataset.task), "fingerprint": dataset.fingerprint}
        checkpoints = Checkpoints(
            folder.checkpoints, dataset.task, module.monitor, header, exact,
            patience=settings.patience, save_every_steps=settings.save_every_steps,
            fresh_from=settings.dense_epoch, interrupts=interrupts,
        )  # fmt: skip
        journal = Journal(folder.journal)
        begun = read_checkpoint(checkpoint) if checkpoint else None
        if begun is not None:
            load_weights(predictor, begun, Path(checkpoint or ""))  # Lightning does it again; this refuses with advice
        journal.drop_after(begun["global_step"] if begun else 0)
        is_watched = sys.stderr.isatty()
        watching = RichProgressBar(console_kwargs={"stderr": True}) if is_watched else EpochLines(checkpoints)
        trainer = lightning.Trainer(
            accelerator="gpu" if is_cuda else "cpu",
            devices=1,
            precision=settings.precision,  # type: ignore[arg-type]
            max_epochs=settings.max_epochs,
            gradient_clip_val=settings.clip or None,
            logger=[journal, TensorBoardLogger(folder.path, name="tensorboard", version="")],
            callbacks=[exact, checkpoints, watching],
            plugins=[WholeFiles()],
            log_every_n_steps=min(settings.log_every_steps, len(train_loader)),
            enable_checkpointing=False,
            enable_progress_bar=is_watched,
            enable_model_summary=False,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            inference_mode=False,
            default_root_dir=folder.path,
        )
        model = f"{type(predictor.network).__name__}, {predictor.num_parameters():,} parameters"
        print(dataset, model, sep="\n", file=sys.stderr, flush=True)
        if begun is None or not _stopped_early(begun):
            trainer.fit(module, train_loader, loader("valid"), ckpt_path=checkpoint, weights_only=True)
        best = read_checkpoint(folder.checkpoints / BEST)
        load_weights(predictor, best, folder.checkpoints / BEST)
        valid = predict_split(predictor, dataset, "valid")
        test = predict_split(predictor, dataset, "test") if dataset.split["test"].numel() else None
    if test is not None:
        test.write(folder.predictions)
    last = read_checkpoint(folder.checkpoints / "last.ckpt")
    result = RunResult(
        folder=str(folder.path),
        name=dataset.name,
        metric=dataset.task.metric,
        seed=config.seed,
        valid=score(dataset.task, valid.y_true, valid.y_pred),
        test=None if test is None else score(dataset.task, test.y_true, test.y_pred),
        best_epoch=best["epoch"] + 1,
        num_epochs=last["epoch"] + 1,
        num_steps=last["global_step"],
        num_parameters=predictor.num_parameters(),
        seconds=round(time.monotonic() - started, 1),
    )
    write_json(folder.result, dataclasses.asdict(result))
    return result


def _stopped_early(checkpoint: dict[str, Any]) -> bool:
    return any(isinstance(state, dict) and state.get("stopped_early") for state in checkpoint["callbacks"].values())


def _has_cuda() -> bool:
    return torch.cuda.is_available()


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Inside, torch and the fused kernels use this many threads; 0 changes nothing."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def quiet() -> Iterator[None]:
    """Inside, Lightning keeps its advice to itself; errors and our own lines still come."""
    logger = logging.getLogger("lightning.pytorch")
    before = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        for category in (UserWarning, DeprecationWarning, FutureWarning):
            warnings.filterwarnings("ignore", category=category, module="lightning|torch|tensorboard")
        try:
            yield
        finally:
            logger.setLevel(before)
