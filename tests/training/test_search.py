"""A search spends what it was allowed, the same for every model, and goes on where it stopped."""

import dataclasses
import json
from pathlib import Path

import pytest

from graphattn.training import read_config, tune
from graphattn.training.search import DEFAULT_SPACE, draw, read_space

SPACE = {"model.embed_dim": (8, 12), "training.lr": (1e-3, 3e-2)}


def test_every_model_is_given_the_same_values_of_common_keys() -> None:
    more = {"model.edge_dim": (4, 8), **SPACE}
    for number in range(20):
        few, many = draw(SPACE, number), draw(more, number)
        assert {key: many[key] for key in few} == few
    drawn = [tuple(draw(SPACE, number).values()) for number in range(1, 60)]
    assert set(drawn) == {(dim, lr) for dim in SPACE["model.embed_dim"] for lr in SPACE["training.lr"]}
    assert draw(SPACE, 0) == {}
    assert [draw(SPACE, number, seed=1) for number in range(9)] != [draw(SPACE, number) for number in range(9)]


def test_the_default_space_is_of_keys_and_values_that_a_configuration_takes() -> None:
    for key, values in DEFAULT_SPACE.items():
        for value in values:
            read_config(None, [f"--{key}", str(value)])


def test_the_best_trial_is_that_with_the_best_valid_metric(make_config, tmp_path: Path) -> None:
    config = make_config("--training.max_epochs", "1")
    seen = []
    found = tune(config, 3, tmp_path / "search", space=SPACE, num_finalists=1, report=seen.append)
    assert [trial.number for trial in found.trials] == [0, 1, 2] == [trial.number for trial in seen]
    valids = [trial.valid for trial in found.trials]
    assert found.best_trial.valid == min(valids)  # rmse
    assert len(set(valids)) > 1
    assert found.num_epochs == 3  # a single finalist need not be compared
    for key, value in found.best_trial.overrides.items():
        group, name = key.split(".")
        assert getattr(getattr(found.best, group), name) == value
    assert read_config(tmp_path / "search" / "best.yaml") == found.best
    stored = json.loads((tmp_path / "search" / "search.json").read_text())
    assert [trial["results"][0]["valid"] for trial in stored["trials"]] == valids


def test_finalists_are_compared_by_their_mean_over_seeds(make_config, tmp_path: Path, monkeypatch) -> None:
    config = make_config("--training.max_epochs", "1", "--seed", "5")
    lucky = {(0.1, 5): 1.0, (0.1, 6): 9.0, (0.1, 7): 9.0, (0.2, 5): 2.0, (0.2, 6): 2.0, (0.2, 7): 2.0}
    trained = []

    def pretend(config, folder):
        key = (config.training.lr, config.seed)
        trained.append(key)
        folder.mkdir(parents=True)
        return dataclasses.replace(done, valid=lucky.get(key, 3.0), seed=config.seed, folder=str(folder))

    done = tune(config, 1, tmp_path / "real").best_trial.results[0]
    monkeypatch.setattr("graphattn.training.search.train_in", pretend)
    found = tune(config, 12, tmp_path / "search", space={"training.lr": (0.1, 0.2)}, num_finalists=12, num_seeds=3)
    assert found.best.training.lr == 0.2 and found.best.seed == 5
    assert found.best_trial.valid == 2.0 and len(found.best_trial.results) == 3
    assert len(trained) == 12 * 3
    few = tune(config, 12, tmp_path / "few", space={"training.lr": (0.1, 0.2)}, num_finalists=2, num_seeds=1)
    assert few.best.training.lr == 0.1
    assert [len(trial.results) for trial in few.trials] == [1] * 12


def test_trial_0_is_the_configuration_as_it_stands(make_config, tmp_path: Path) -> None:
    config = make_config("--training.max_epochs", "1")
    found = tune(config, 1, tmp_path / "search", space={"training.lr": (1e-9,)})
    assert found.best == config


def test_a_search_for_a_larger_metric_takes_the_largest(make_config, tmp_path: Path) -> None:
    config = make_config("--data.name", "toy_rings:halves", "--training.max_epochs", "1")
    space = {"training.lr": (1e-5, 5e-2), "model.embed_dim": (4, 16)}
    found = tune(config, 3, tmp_path / "search", space=space, num_seeds=1)
    assert found.best_trial.valid == max(trial.valid for trial in found.trials)


def test_a_search_goes_on_where_it_stopped(make_config, tmp_path: Path) -> None:
    config = make_config("--training.max_epochs", "1")
    first = tune(config, 2, tmp_path / "search", space=SPACE, num_seeds=2)
    (tmp_path / "search" / "trial1" / "result.json").unlink()  # as if it had been killed before the end
    begun = (tmp_path / "search" / "trial0" / "result.json").stat().st_mtime_ns
    again = tune(config, 3, tmp_path / "search", space=SPACE, num_finalists=3, num_seeds=2)
    assert [trial.valid for trial in again.trials[:2]] == [trial.valid for trial in first.trials]
    assert [len(trial.results) for trial in again.trials] == [2, 2, 2]
    assert (tmp_path / "search" / "trial0" / "result.json").stat().st_mtime_ns == begun
    moved = dataclasses.replace(config, run_root=str(tmp_path / "elsewhere"))
    assert len(tune(moved, 2, tmp_path / "search", space=SPACE, num_seeds=2).trials) == 2
    with pytest.raises(ValueError, match=r"holds another search: .*space.training.lr \[0.001, 0.03\] \(here \[0.1\]\)"):
        tune(config, 2, tmp_path / "search", space={**SPACE, "training.lr": (0.1,)})
    with pytest.raises(ValueError, match=r"holds another search: config\.seed 0"):
        tune(dataclasses.replace(config, seed=4), 2, tmp_path / "search", space=SPACE)


def test_a_trial_that_fails_counts_and_is_never_the_best(make_config, tmp_path: Path) -> None:
    config = make_config("--training.max_epochs", "1")
    found = tune(config, 2, tmp_path / "search", space={"model.num_heads": (3,)})  # embed_dim 8 has no 3 heads
    assert not found.trials[1].results and "num_heads" in found.trials[1].failure
    assert found.best == config
    hops = "SubsampleHops(num_hops=1, sigma=1.0, steps='ring')"  # of which a graph has none, as the first batch says
    broken = make_config("--training.max_epochs", "1", "--model.select", hops)
    with pytest.raises(ValueError, match="steps must name a kind of the graph's edges"):
        tune(broken, 2, tmp_path / "broken", space=SPACE)


def test_bad_searches_are_refused_before_anything_is_trained(make_config, tmp_path: Path) -> None:
    config, folder = make_config(), tmp_path / "search"
    with pytest.raises(ValueError, match="num_trials must be at least 1, got 0"):
        tune(config, 0, folder)
    with pytest.raises(ValueError, match="num_finalists must be at least 1, got 0"):
        tune(config, 1, folder, num_finalists=0)
    with pytest.raises(ValueError, match="num_seeds must be at least 1, got 0"):
        tune(config, 1, folder, num_seeds=0)
    with pytest.raises(ValueError, match=r"key 'model.embed_dims' in the search space.*model.embed_dim'"):
        tune(config, 1, folder, space={"model.embed_dims": (8,)})
    for values in ((), "abc", 3):
        with pytest.raises(ValueError, match=r"model\.embed_dim of the search space must list values"):
            tune(config, 1, folder, space={"model.embed_dim": values})
    assert not folder.exists()


def test_a_space_is_read_from_yaml(tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    path.write_text("training:\n  lr: [1e-3, 0.01]\nmodel.readout: [sum, mean]\nmodel.embed_dim: [8]\n")
    assert read_space(path) == {
        "training.lr": [1e-3, 0.01], "model.readout": ["sum", "mean"], "model.embed_dim": [8],
    }  # fmt: skip
    with pytest.raises(FileNotFoundError, match="there is no file"):
        read_space(tmp_path / "none.yaml")
    for text, message in {
        "- 1": "must map keys to lists",
        "training.lr: 3": "must list values",
        "training.lr: [fast]": "lr",
        "training.ler: [1]": "unknown configuration key 'training.ler'",
        "a: [": "is not YAML",
    }.items():
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_space(path)
