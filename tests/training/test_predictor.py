"""The module that a run leaves behind."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from graphattn.data import load, make_loader
from graphattn.training import GraphPredictor, load_run, read_config, train
from graphattn.training.config import as_yaml, resolved
from graphattn.training.folder import RunFolder
from graphattn.training.run import find_run


def test_predictions_are_in_label_units_and_in_evaluation_mode(make_config) -> None:
    dataset = load("toy_rings:rings")
    config = resolved(make_config(), dataset)
    labels = dataset.labels[dataset.indices("train")]
    torch.manual_seed(0)
    predictor = GraphPredictor(config, dataset.task, labels).train()
    batches = list(make_loader(dataset, "test", predictor.collate, batch_size=3))
    first, second = predictor.predict(batches), predictor.predict(batches)
    assert first.shape == (10, 2) and first.dtype == np.float64
    np.testing.assert_array_equal(first, second)  # no dropout
    assert predictor.training  # as it was
    predictor.eval()
    with torch.no_grad():
        output = predictor.network(batches[0])
    np.testing.assert_allclose(first[:3], output * predictor.objective.std +
                               predictor.objective.mean, rtol=1e-5)  # fmt: skip
    assert predictor.predict([]).shape == (0, 2)


def test_a_batch_without_labels_has_predictions_and_no_loss(make_config) -> None:
    dataset = load("toy_rings:rings")
    predictor = GraphPredictor(resolved(make_config(), dataset), dataset.task)
    graph = dataset[5].clone()
    del graph.y
    batch = predictor.collate([graph])
    assert predictor(batch).shape == (1, 2)
    with pytest.raises(ValueError, match="no labels"):
        predictor.loss(batch)


def test_a_network_of_yours_trains_resumes_and_is_loaded(make_config, capsys) -> None:
    config = make_config("--network", "toy_rings:Degrees", "--training.max_epochs", "2")
    whole = train(config)
    assert f"Degrees, {whole.num_parameters} parameters" in capsys.readouterr().err
    predictor = load_run(whole.folder)
    assert type(predictor.network).__name__ == "Degrees"
    batches = make_loader(load("toy_rings:rings"), "test", predictor.collate, batch_size=4, shuffle=False)
    y_pred = predictor.predict(batches)
    assert np.isfinite(y_pred).all() and len(np.unique(y_pred[:, 0])) > 3
    folder = RunFolder(Path(whole.folder))
    folder.result.unlink()
    assert train(resume=whole.folder).test == whole.test
    config = load_run(whole.folder).config
    folder.config.write_text(as_yaml(dataclasses.replace(config, network="graphattn.models:GraphTransformer")))
    with pytest.raises(ValueError, match=r"another model: it has network toy_rings:Degrees \(here graphattn"):
        load_run(whole.folder)


def test_a_network_of_yours_may_have_a_configuration_of_its_own(make_config, tmp_path: Path) -> None:
    data = ["--data.name", "toy_rings:rings", "--training.num_threads", "1", "--run_root", str(tmp_path / "own")]
    config = read_config(
        None, [*data, "--network", "toy_rings:Sizes", "--model.width", "7", "--training.max_epochs", "2"]
    )
    whole = train(config)
    assert load_run(whole.folder).network.layers[0].out_features == 7
    with pytest.raises(ValueError, match="it has network toy_rings:Sizes"):
        train(make_config("--run_root", str(tmp_path / "own")), resume=whole.folder)
    other = train(make_config("--run_root", str(tmp_path / "own"), "--training.max_epochs", "2"))
    assert find_run(config) == Path(whole.folder) != Path(other.folder)  # the newest of the same network


def test_a_network_that_is_none_is_refused(make_config) -> None:
    with pytest.raises(TypeError, match=r"toy_rings:no_module must make a torch\.nn\.Module, got function"):
        train(make_config("--network", "toy_rings:no_module"))
    with pytest.raises(ImportError, match="toy_rings has no 'Degree'; it has Data, rings, halves, Degrees"):
        train(make_config("--network", "toy_rings:Degree"))
    assert len(list(Path(make_config().run_root).glob("*/*"))) == 1  # a name that leads nowhere leaves no folder
