"""Passes over graphs drawn anew, and their average."""

from pathlib import Path

import numpy as np
import pytest
import torch

from graphattn.cli import main
from graphattn.data import GraphDataset, load
from graphattn.selection import set_drawing
from graphattn.training import (
    GraphPredictor,
    evaluate_run,
    evaluate_self_ensemble,
    predict_self_ensemble,
    predict_split,
    read_config,
    train,
)
from graphattn.training.config import resolved
from graphattn.training.folder import RunFolder
from tests.training.conftest import TINY

HALF = "SubsampleSources(keep_p=0.5)"


def made(select: str, name: str = "toy_rings:rings") -> tuple[GraphPredictor, GraphDataset]:
    dataset = load(name)
    config = read_config(None, [*TINY, "--data.name", name, "--model.select", select])
    torch.manual_seed(0)
    predictor = GraphPredictor(resolved(config, dataset), dataset.task, dataset.labels[dataset.indices("train")])
    return predictor.eval(), dataset


@pytest.mark.parametrize("num_passes", [1, 5])
def test_passes_that_draw_everything_are_the_plain_prediction(num_passes: int) -> None:
    predictor, dataset = made("SubsampleSources(keep_p=1.0)")
    found = predict_self_ensemble(predictor, dataset, "test", num_passes)
    plain = predict_split(predictor, dataset, "test")
    np.testing.assert_allclose(found.predictions.y_pred, plain.y_pred, rtol=1e-6)
    np.testing.assert_array_equal(found.predictions.index, plain.index)
    assert not found.spread.any() and found.mean_spread == 0.0
    assert found.scores == pytest.approx([found.score] * num_passes, rel=1e-6)


def test_passes_differ_their_average_is_their_mean_and_a_seed_repeats_them() -> None:
    predictor, dataset = made(HALF)
    state = torch.get_rng_state()
    found = predict_self_ensemble(predictor, dataset, "test", 6, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert found.passes.shape == (6, 10, 2) and len({each.tobytes() for each in found.passes}) == 6
    np.testing.assert_allclose(found.predictions.y_pred, found.passes.mean(0))
    np.testing.assert_allclose(found.spread, found.passes.std(0, ddof=1))
    np.testing.assert_array_equal(predict_self_ensemble(predictor, dataset, "test", 6, seed=3).passes, found.passes)
    assert (predict_self_ensemble(predictor, dataset, "test", 6, seed=4).passes != found.passes).any()
    plain = predict_split(predictor, dataset, "test").y_pred  # afterwards it reads whole graphs again
    np.testing.assert_array_equal(plain, predict_split(predictor, dataset, "test").y_pred)


def test_the_variance_of_the_average_falls_with_the_number_of_passes() -> None:
    predictor, dataset = made(HALF)
    spreads = []
    for num_passes in (1, 16):
        means = [
            predict_self_ensemble(predictor, dataset, "test", num_passes, seed=seed).predictions.y_pred
            for seed in range(12)
        ]
        spreads.append(np.var(means, axis=0, ddof=1).mean())
    assert 4 < spreads[0] / spreads[1] < 64  # 16 if there were endlessly many


def test_probabilities_or_logits_are_averaged() -> None:
    predictor, dataset = made(HALF, "toy_rings:halves")
    found = {
        name: predict_self_ensemble(predictor, dataset, "test", 5, average=name) for name in ("probabilities", "logits")
    }
    passes = found["logits"].passes
    np.testing.assert_array_equal(passes, found["probabilities"].passes)
    np.testing.assert_allclose(found["probabilities"].predictions.y_pred, passes.mean(0), rtol=1e-9)
    logit = np.log(passes / (1 - passes)).mean(0)
    np.testing.assert_allclose(found["logits"].predictions.y_pred, 1 / (1 + np.exp(-logit)), rtol=1e-6)
    with pytest.raises(ValueError, match=r"average must be 'probabilities' or 'logits' .* got 'values'"):
        predict_self_ensemble(predictor, dataset, "test", 5, average="values")


def test_what_cannot_be_averaged_is_refused(finished) -> None:
    predictor, dataset = made(HALF)
    for wrong in (0, -1, 2.5):
        with pytest.raises(ValueError, match="num_passes must be an int of at least 1"):
            predict_self_ensemble(predictor, dataset, "test", wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="average must be 'values'"):
        predict_self_ensemble(predictor, dataset, "test", 2, average="logits")
    with pytest.raises(ValueError, match="GraphPredictor draws no graph"):
        evaluate_self_ensemble(finished.folder, "test", 2)


def test_a_run_on_drawn_graphs_resumes_to_the_same_bits(make_config, same) -> None:
    config = make_config("--model.select", HALF, "--training.dense_from", "0.6", "--training.save_every_steps", "2")
    whole = train(config)
    folder = RunFolder(Path(whole.folder))
    other = train(config)
    RunFolder(Path(other.folder)).result.unlink()
    for step in (14, 4):  # in the dense phase and before it, both in the middle of an epoch
        resumed = train(resume=Path(other.folder) / "checkpoints" / f"step-{step}.ckpt")
        assert (resumed.valid, resumed.test) == (whole.valid, whole.test)
        assert same(folder.checkpoints / "last.ckpt", Path(other.folder) / "checkpoints" / "last.ckpt")
        RunFolder(Path(other.folder)).result.unlink()


def test_the_best_epoch_is_one_of_dense_fine_tuning(make_config) -> None:
    options = ["--model.select", HALF, "--training.lr", "0.05", "--training.max_epochs", "4"]
    plain = train(make_config(*options))
    assert plain.best_epoch < 4  # or the test shows nothing
    assert train(make_config(*options, "--training.dense_from", "0.75")).best_epoch == 4


def test_the_command_says_what_passes_and_their_average_score(make_config, capsys: pytest.CaptureFixture[str]) -> None:
    whole = train(make_config("--model.select", HALF, "--training.dense_from", "0.6"))
    assert evaluate_run(whole.folder)[1] == pytest.approx(whole.test)  # whole graphs
    with pytest.warns(UserWarning, match="ended with dense fine-tuning"):
        assert main(["evaluate", whole.folder, "--self-ensemble", "3"]) == 0
    said = capsys.readouterr().out
    assert "rmse of one pass" in said and "(3 passes), spread of a prediction" in said
    assert main(["evaluate", whole.folder, "--average", "values"]) == 1
    assert main(["evaluate", whole.folder, "--self-ensemble", "2", "--predictions", "x.npz"]) == 1


def test_dense_fine_tuning_reads_whole_graphs_from_its_epoch_on(make_config, monkeypatch) -> None:
    seen = []
    monkeypatch.setattr(
        "graphattn.training.module.set_drawing", lambda model, when: (seen.append(when), set_drawing(model, when))
    )
    train(make_config("--model.select", HALF, "--training.dense_from", "0.5", "--training.max_epochs", "4"))
    assert seen == [None, None, None, "never", "never"]  # at the start, and of each epoch


def test_dense_fine_tuning_of_a_model_that_draws_nothing_is_refused(make_config) -> None:
    with pytest.raises(
        ValueError, match=r"training\.dense_from = 0\.5 asks for dense fine-tuning, and the model draws"
    ):
        train(make_config("--training.dense_from", "0.5"))
    with pytest.raises(ValueError, match=r"training\.dense_from must lie in \[0, 1\], got 1\.5"):
        make_config("--training.dense_from", "1.5")
