"""Configuration: YAML, overrides, resolution, and errors that name the nearest key."""

from pathlib import Path

import pytest

from graphattn.data import load
from graphattn.models import EGTConfig
from graphattn.training.config import (
    RunConfig,
    as_yaml,
    check_keys,
    flat,
    help_text,
    named_configs,
    read_config,
    resolved,
)


@pytest.mark.parametrize("name", sorted(named_configs()))
def test_each_packaged_config_is_valid_and_names_its_data(name: str) -> None:
    config = read_config(name)
    of_name = "ogbg-molesol" if name == "everything" else name
    assert config.data.name in (of_name, of_name.rpartition("-")[0])  # "ogbg-molesol-egt"


def test_overrides_win_over_yaml_and_yaml_over_defaults(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("model: {embed_dim: 32, num_layers: 3}\nseed: 7\ndata: {yes: true}\n")
    config = read_config(path, ["--model.embed_dim", "16", "--training.lr=0.5"])
    assert (config.model.embed_dim, config.model.num_layers, config.training.lr, config.seed) == (16, 3, 0.5, 7)
    assert config.data.yes is True
    assert config.training.max_epochs == RunConfig().training.max_epochs


def test_the_resolved_file_reads_back_equal(tmp_path: Path) -> None:
    overrides = ["--inputs.edges", "bonds | virtual(2)", "--inputs.num_walks", "16"]
    config = resolved(read_config("ogbg-molesol", overrides), load("ogbg-molesol"))
    assert (config.model.num_virtual, config.model.num_walks, config.model.kinds) == (2, 16, ("bond", "virtual"))
    path = tmp_path / "config.yaml"
    path.write_text(as_yaml(config))
    assert read_config(path) == config
    assert resolved(read_config(path), load("ogbg-molesol")) == config


def test_what_data_decide_cannot_be_set_to_something_else() -> None:
    with pytest.raises(ValueError, match=r"model\.num_tasks is decided by data and inputs and would be 1, got 7"):
        resolved(read_config("ogbg-molesol", ["--model.num_tasks", "7"]), load("ogbg-molesol"))


def test_categories_of_other_data_are_counted() -> None:
    dataset = load("toy_rings:rings")
    model = resolved(RunConfig(), dataset).model
    assert model.num_tasks == 2
    assert model.atom_dims == (5, 5, 5)
    assert model.bond_dims == (2, 2)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["--model.embed_dims", "3"], "Did you mean '--model.embed_dim'"),
        (["--lr", "3"], r"Did you mean '--training\.lr'"),
        (["--training.lr", "fast"], "Expected a"),
        (["--training.lr", "0"], r"training\.lr must be positive"),
        (["--data.batch_size", "0"], r"data\.batch_size must be at least 1"),
        (["--training.precision", "bf16"], "Did you mean 'bf16-mixed'"),
        (["--inputs.edges", "bond"], "did you mean 'bonds'"),
    ],
)
def test_a_wrong_override_is_refused_with_advice(overrides: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_config("ogbg-molesol", overrides)


def test_a_wrong_file_is_refused_with_advice(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="Did you mean 'ogbg-molesol'"):
        read_config("ogbg-molesl")
    path = tmp_path / "mine.yaml"
    for text, message in [
        ("modl: {embed_dim: 3}", "unknown configuration key"),
        ("- 3", "must hold keys and values"),
        ("a: [", "is not YAML"),
    ]:
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_config(path)


def test_a_group_without_keys_or_a_file_of_other_bytes_is_refused_with_advice(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("model: 3\ntraining:\n")  # an empty group is one without changes
    with pytest.raises(
        ValueError, match=r"model in .*a\.yaml must hold keys and values, got 3. `graphattn train --help`"
    ):
        read_config(tmp_path / "a.yaml")
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"b\.yaml must be YAML in UTF-8: .* Save it as UTF-8"):
        read_config(tmp_path / "b.yaml")


def test_groups_are_keys_and_flat_names_leaves() -> None:
    check_keys(["model", "model.embed_dim", "seed"])
    assert flat({"a": {"b": {"c": 1}}, "d": 2}) == {"a.b.c": 1, "d": 2}


def test_the_keys_of_a_model_are_those_of_its_network(tmp_path: Path) -> None:
    config = read_config("ogbg-molesol-egt", ["--model.logit_clip", "3"])
    assert isinstance(config.model, EGTConfig) and config.model.logit_clip == 3.0
    (tmp_path / "config.yaml").write_text(as_yaml(config))
    assert read_config(tmp_path / "config.yaml") == config
    assert isinstance(read_config(None, ["--network=graphattn.models:EGT"]).model, EGTConfig)
    with pytest.raises(ValueError, match=r"unknown configuration key '--model\.logit_clip'"):
        read_config(None, ["--model.logit_clip", "3"])
    with pytest.raises(ValueError, match=r"unknown configuration key '--model\.edge_terms'"):
        read_config("ogbg-molesol-egt", ["--model.edge_terms", "key"])
    assert "--model.logit_clip" in help_text(config.network) and "--model.logit_clip" not in help_text()
    with pytest.raises(ImportError, match="has no 'EGTT'"):
        read_config(None, ["--network", "graphattn.models:EGTT"])
