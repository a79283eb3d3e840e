"""A run from configuration to result, and everything that can be wrong with it."""

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch_geometric.data import Data

from graphattn.data import from_data, load
from graphattn.training import read_config, run, score, train
from graphattn.training.folder import RunFolder
from graphattn.training.run import find_run, quiet, read_result, threads


def test_a_run_leaves_everything_that_its_folder_promises(finished) -> None:
    folder = RunFolder(Path(finished.folder)).checked()
    dataset = load("toy_rings:rings")
    with np.load(folder.predictions) as stored:
        assert stored["index"].tolist() == dataset.indices("test").tolist()
        np.testing.assert_array_equal(stored["y_true"], dataset.labels[dataset.indices("test")].double())
        assert score(dataset.task, stored["y_true"], stored["y_pred"]) == finished.test
    assert read_config(folder.config).model.num_tasks == 2
    assert json.loads(folder.environment.read_text())["packages"]["lightning"]
    assert read_result(folder) == finished
    assert finished.num_epochs == 3 and finished.num_steps == 18


def test_the_same_seed_gives_the_same_bits_and_another_one_does_not(make_config, finished, same) -> None:
    again, other = train(make_config()), train(make_config("--seed", "1"))
    paths = [Path(result.folder) / "checkpoints" / "last.ckpt" for result in (finished, again, other)]
    assert same(paths[0], paths[1])
    assert not same(paths[0], paths[2])


def test_resuming_a_finished_run_returns_its_result(finished) -> None:
    assert train(resume=finished.folder) == finished


def test_resume_looks_for_the_newest_run_of_the_seed(make_config) -> None:
    config = make_config()
    with pytest.raises(FileNotFoundError, match="there is nothing to resume"):
        find_run(config)
    for name in ("20250101-000000-seed0", "20250102-000000-seed1"):
        (Path(config.run_root) / "toy_rings-rings" / name).mkdir(parents=True)
    assert find_run(config).name == "20250101-000000-seed0"
    damaged = Path(config.run_root) / "toy_rings-rings" / "20250103-000000-seed0"
    damaged.mkdir()
    (damaged / "config.yaml").write_text("network: nowhere:Net\n")
    assert find_run(config) == damaged  # none is of this configuration: the newest says what differs


def test_resuming_with_another_configuration_names_what_differs(finished, make_config) -> None:
    with pytest.raises(ValueError, match=r"model\.embed_dim 8 \(here 16\).*training\.lr"):
        train(make_config("--model.embed_dim", "16", "--training.lr", "0.5"), resume=finished.folder)


def test_a_folder_or_checkpoint_that_is_not_there_is_named(finished, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is not the folder of a run"):
        train(resume=tmp_path)
    with pytest.raises(FileNotFoundError, match=r"best\.ckpt"):
        train(resume=Path(finished.folder) / "checkpoints" / "step-999.ckpt")
    with pytest.raises(ValueError, match="needs a config"):
        train()


def test_a_checkpoint_of_another_model_is_refused(finished, tmp_path: Path, make_config) -> None:
    other = train(make_config("--model.embed_dim", "4", "--training.max_epochs", "1"))
    run = tmp_path / "mixed"
    shutil.copytree(other.folder, run)
    (run / "result.json").unlink()
    shutil.copy(Path(finished.folder) / "checkpoints" / "last.ckpt", run / "checkpoints" / "last.ckpt")
    with pytest.raises(ValueError, match=r"checkpoint of another model: it has model\.embed_dim 8 \(here 4\)"):
        train(resume=run)


def test_bad_data_leave_no_run_behind(make_config, toy: Path) -> None:
    config = make_config("--data.name", "ogbg-molesool")
    with pytest.raises(ValueError, match="Did you mean 'ogbg-molesol'"):
        train(config)
    assert not Path(config.run_root).exists()


@pytest.mark.parametrize("num_workers", ["0", "2"])
@pytest.mark.parametrize("number", [17, 33])  # of the train and of the valid split
def test_a_feature_that_goes_bad_in_training_names_its_record(make_config, monkeypatch, num_workers, number) -> None:
    dataset = load("toy_rings:rings")
    for data in dataset.records:
        data.x = data.x.float()
    dataset.records[number].x[0, 1] = float("nan")
    monkeypatch.setattr(run, "load", lambda *place, **options: dataset)
    with pytest.raises(
        ValueError, match=f"record {number} of the data set holds NaN or infinity in x. Clean the record"
    ):
        train(make_config("--data.num_workers", num_workers))


@pytest.mark.parametrize("edges", ["bonds", "bonds | full | hops(2) | expander(4) | virtual(1)"])
@pytest.mark.parametrize("num_nodes", [1, 3])
def test_graphs_without_edges_or_with_one_node_train(make_config, monkeypatch, edges: str, num_nodes: int) -> None:
    lonely = [Data(x=torch.full((num_nodes, 2), n / 7), y=n / 3) for n in range(11)]
    monkeypatch.setattr(run, "load", lambda *place, **options: from_data(lonely, name="lonely"))
    result = train(make_config("--inputs.edges", edges, "--training.max_epochs", "2"))
    assert np.isfinite([result.valid, result.test]).all()


def test_a_split_without_a_label_is_refused(make_config, monkeypatch) -> None:
    nameless = from_data([Data(x=torch.zeros(2, 2), y=float("nan")) for _ in range(5)], name="nameless")
    monkeypatch.setattr(run, "load", lambda *place, **options: nameless)
    config = make_config()
    with pytest.raises(
        ValueError, match=r"the train split of nameless has no labels, all are NaN\. Give some graphs a y"
    ):
        train(config)
    assert not Path(config.run_root).exists()


def test_a_damaged_result_is_named(finished, tmp_path: Path) -> None:
    shutil.copytree(finished.folder, tmp_path / "run")
    (tmp_path / "run" / "result.json").write_text("{")
    with pytest.raises(ValueError, match=r"result\.json is damaged .* Remove it, and --resume writes it anew"):
        train(resume=tmp_path / "run")


def test_lightning_is_quiet_only_inside() -> None:
    logger = logging.getLogger("lightning.pytorch")
    before = logger.level
    with quiet():
        assert logger.level == logging.ERROR
    assert logger.level == before


def test_threads_are_those_of_the_configuration_only_inside() -> None:
    before = torch.get_num_threads()
    with threads(1):
        assert torch.get_num_threads() == 1
    with threads(0):
        assert torch.get_num_threads() == before
    assert torch.get_num_threads() == before


def test_bfloat16_trains(make_config) -> None:
    assert train(make_config("--training.precision", "bf16-mixed", "--training.max_epochs", "1")).num_steps == 6


@pytest.mark.slow
@pytest.mark.parametrize("edges", ["bonds", "full", "bonds | hops(2) | expander(4)", "bonds | full | virtual(2)"])
def test_molecules_train_over_every_kind_of_edges(tmp_path: Path, edges: str) -> None:
    overrides = ["--inputs.edges", edges, "--training.max_epochs", "2", "--run_root", str(tmp_path)]
    result = train(read_config("ogbg-molfreesolv", [*overrides, "--model.embed_dim", "16"]))
    assert np.isfinite([result.valid, result.test]).all()
