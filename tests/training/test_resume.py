"""A run that stops and goes on ends with the same bits as one that never stopped."""

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from graphattn.data import load, make_loader
from graphattn.training import RunResult, train
from graphattn.training.resume import EpochLoader, generator_states, restore_generators, seeded


def draws() -> tuple[float, float, float, float]:
    return random.random(), float(np.random.rand()), float(np.random.randn()), float(torch.rand(()))  # noqa: NPY002


def test_generators_go_on_where_they_were_after_a_trip_through_a_file(tmp_path: Path) -> None:
    random.gauss(0, 1), np.random.randn()  # noqa: NPY002  (leaves half a pair in both)
    torch.save(generator_states(), tmp_path / "states")
    expected = [draws() for _ in range(3)]
    restore_generators(torch.load(tmp_path / "states", weights_only=True))
    assert [draws() for _ in range(3)] == expected


def test_seeding_leaves_the_callers_generators_alone() -> None:
    states = generator_states()
    expected = draws()
    restore_generators(states)
    with seeded(5):
        inside = draws()
    assert draws() == expected
    with seeded(5):
        assert draws() == inside


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_loader_has_the_length_of_an_epoch_and_begins_at_its_position(num_workers: int) -> None:
    def make() -> EpochLoader:
        dataset = load("toy_rings:rings")
        return EpochLoader(make_loader(dataset, "train", lambda graphs: [g.x.sum() for g in graphs], batch_size=5,
                                       num_workers=num_workers))  # fmt: skip

    whole, resumed = make(), make()
    assert len(whole) == 6
    expected = list(whole)
    resumed.sampler.load_state(resumed.sampler.state(resumed.position(4)))
    assert len(resumed) == 6
    assert list(resumed) == expected[4:]
    assert whole.position(6) == 29


def copy_of(run: RunResult, where: Path) -> Path:
    shutil.copytree(run.folder, where)
    (where / "result.json").unlink()
    return where


@pytest.mark.parametrize("step", [2, 4, 8, 14, 16])  # six steps make an epoch of 29 graphs
def test_any_step_checkpoint_leads_to_the_same_bits(finished: RunResult, tmp_path: Path, step: int, same) -> None:
    run = copy_of(finished, tmp_path / "run")
    for name in ("last.ckpt", "best.ckpt", f"step-{step + 2}.ckpt"):
        (run / "checkpoints" / name).unlink(missing_ok=True)
    torch.manual_seed(step), np.random.seed(step), random.seed(step)  # noqa: NPY002  (as in another process)
    result = train(resume=run / "checkpoints" / f"step-{step}.ckpt")
    assert same(Path(finished.folder) / "checkpoints" / "last.ckpt", run / "checkpoints" / "last.ckpt")
    assert same(Path(finished.folder) / "checkpoints" / "best.ckpt", run / "checkpoints" / "best.ckpt")
    assert (result.test, result.valid, result.best_epoch, result.num_steps) == (
        finished.test, finished.valid, finished.best_epoch, finished.num_steps,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["last.ckpt", "step-8.ckpt"])
def test_a_run_that_ended_between_or_after_epochs_goes_on(make_config, tmp_path: Path, name: str, same) -> None:
    """last.ckpt after one epoch of three: Lightning's own record of it would repeat the end of that epoch."""
    from graphattn.training import checkpoints

    whole = train(make_config())

    class Crash(Exception):
        pass

    config = make_config("--training.save_every_steps", "4")
    after = {"last.ckpt": 6, "step-8.ckpt": 8}[name]
    save = checkpoints.Checkpoints._save

    def crash(self, trainer, name: str) -> None:
        save(self, trainer, name)
        if name == "last.ckpt" and trainer.global_step == after:
            raise Crash

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints.Checkpoints, "_save", crash)
        with pytest.raises(Crash):
            train(config, folder=tmp_path / "crashed")
    result = train(resume=tmp_path / "crashed")
    assert (result.num_epochs, result.num_steps, result.test) == (whole.num_epochs, whole.num_steps, whole.test)
    for checkpoint in ("last.ckpt", "best.ckpt"):
        assert same(Path(whole.folder) / "checkpoints" / checkpoint, tmp_path / "crashed" / "checkpoints" / checkpoint)
    lines = [(Path(folder) / "journal.jsonl").read_text().splitlines() for folder in (whole.folder, result.folder)]
    journals = [[line.rpartition(', "seconds"')[0] for line in part] for part in lines]
    assert journals[0] == journals[1]  # as if it had never stopped


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_fresh_process_goes_on_to_the_same_bits(
    finished: RunResult, toy: Path, tmp_path: Path, num_workers: int, same
) -> None:
    run = copy_of(finished, tmp_path / "run")
    command = [sys.executable, "-m", "graphattn.cli", "train", "--resume", run / "checkpoints" / "step-10.ckpt"]
    command += ["--data.num_workers", str(num_workers)]
    path = os.pathsep.join([str(Path(__file__).resolve().parents[2]), str(toy)])
    subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": path, "PYTHONHASHSEED": "7"}, cwd=tmp_path)
    assert same(Path(finished.folder) / "checkpoints" / "last.ckpt", run / "checkpoints" / "last.ckpt")


def test_another_batch_size_is_refused(finished: RunResult, make_config) -> None:
    with pytest.raises(ValueError, match=r"data\.batch_size 5 \(here 4\)"):
        train(make_config("--data.batch_size", "4"), resume=Path(finished.folder) / "checkpoints" / "step-2.ckpt")
