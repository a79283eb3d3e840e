"""What a run is told: dataclasses, read from YAML with dotted overrides, and written back resolved."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from graphattn.data import GraphDataset
from graphattn.data.reference import find_callable
from graphattn.inputs import GraphCollate, parse_edges
from graphattn.models.config import PROVIDED, listed
from graphattn.models.graph_transformer import GraphTransformerConfig

NETWORK = "graphattn.models:GraphTransformer"
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
FROM_DATA = ("num_tasks", "atom_dims", "bond_dims", *PROVIDED)  # fields of the model that data and inputs decide


@dataclass
class DataConfig:
    """Where graphs come from.

    Args:
        name: "ogbg-molesol" and others (`graphattn data list`), or "package.module:function".
        root: directory that holds the data set, or receives its download; None looks in the usual places.
        yes: agree to downloads above 50 MB.
        batch_size: graphs per batch.
        num_workers: processes that collate; 0 does it in the training process. Results are the same bits.
    """

    name: str = "ogbg-molesol"
    root: str | None = None
    yes: bool = False
    batch_size: int = 64
    num_workers: int = 0


@dataclass
class InputsConfig:
    """How a graph becomes input: see `GraphCollate`.

    Args:
        edges: parts of the attention graph, joined by |: bonds, full, hops(3), expander(4), virtual(1).
        max_hops: longest hop distance told apart; 0 leaves distances out.
        num_walks: columns of random-walk positions.
        num_eigenvectors: columns of Laplacian positions.
        num_singular: pairs of columns of singular vectors of the bonds.
    """

    edges: str = "bonds | full | virtual(1)"
    max_hops: int = 0
    num_walks: int = 16
    num_eigenvectors: int = 0
    num_singular: int = 0

    def collate(self) -> GraphCollate:
        """Makes the collation."""
        return GraphCollate(
            edges=parse_edges(self.edges),
            max_hops=self.max_hops,
            num_walks=self.num_walks,
            num_eigenvectors=self.num_eigenvectors,
            num_singular=self.num_singular,
        )


@dataclass
class TrainingConfig:
    """How the model is trained: AdamW, linear warm-up, cosine to zero, early stopping on the valid metric.

    Args:
        max_epochs: passes over the train split, if early stopping does not end the run before.
        lr: highest learning rate.
        weight_decay: of AdamW, on weight matrices only.
        warmup_epochs: epochs of linear warm-up, fractions allowed.
        clip: largest norm of the gradient; 0 does not clip.
        patience: epochs without a better valid metric before the run ends; 0 never ends it.
        precision: "32-true", "bf16-mixed" or "16-mixed" (CUDA).
        save_every_steps: also keep `step-N.ckpt` every so many steps; 0 keeps the best and the last only.
        log_every_steps: steps between lines of the journal.
        accelerator: "auto", "cpu" or "cuda".
        dense_from: share of `max_epochs` after which layers read whole graphs, for dense fine-tuning of a model that
            was trained on drawn ones (`model.select`); 1 never. The best epoch is then one of those, if the run comes
            so far: early stopping may end it before.
        gate_lr: highest learning rate of head gates (`model.head_gate`), which have no weight decay.
        gate_penalty: strength of what `HeadGate.penalty` adds to the loss.
        gates_only: train the head gates and nothing else, to choose heads of a model that is trained: `start_from`.
            All but the gates runs as in evaluation.
        start_from: folder of a run whose best checkpoint the model starts from; of head gates and draws, which a run
            before may not have had, it takes nothing.
        num_threads: of the training process on the CPU; 0 leaves torch's own choice. With small batches one thread is
            about as fast as several, and on a machine that others use it is many times faster.
    """

    max_epochs: int = 100
    lr: float = 1e-3
    weight_decay: float = 1e-2
    warmup_epochs: float = 5.0
    clip: float = 1.0
    patience: int = 40
    precision: str = "32-true"
    save_every_steps: int = 0
    log_every_steps: int = 10
    accelerator: str = "auto"
    dense_from: float = 1.0
    gate_lr: float = 0.1
    gate_penalty: float = 0.0
    gates_only: bool = False
    start_from: str | None = None
    num_threads: int = 0

    @property
    def dense_epoch(self) -> int:
        """The first epoch, from 0, in which layers read whole graphs."""
        return math.ceil(self.dense_from * self.max_epochs)


@dataclass
class RunConfig:
    """Everything a run depends on besides code, versions and machine.

    Args:
        data: data set and loading.
        inputs: collation.
        network: class of the model, "package.module:Class": it is called with `model` and, on a `GraphBatch`, returns
            [num_graphs, num_tasks]. One of yours trains, resumes and predicts as ours does; its attribute
            `config_class`, a dataclass, says which keys `model` has, else they are those of `GraphTransformerConfig`.
        model: size and parts; what data and inputs decide is filled in by `resolved`.
        training: optimization.
        seed: of parameters, dropout and the order of examples.
        run_root: directory below which run folders are made.
    """

    data: DataConfig = field(default_factory=DataConfig)
    inputs: InputsConfig = field(default_factory=InputsConfig)
    network: str = NETWORK
    model: Any = field(default_factory=GraphTransformerConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    seed: int = 0
    run_root: str = "runs"

    def checked(self) -> RunConfig:
        """Returns the configuration unchanged.

        Raises:
            ValueError: naming the key, the rule and the value.
        """
        least = {
            "data.batch_size": 1, "data.num_workers": 0, "training.max_epochs": 1, "training.warmup_epochs": 0,
            "training.clip": 0, "training.patience": 0, "training.weight_decay": 0, "training.save_every_steps": 0,
            "training.log_every_steps": 1, "training.num_threads": 0, "training.gate_penalty": 0, "seed": 0,
        }  # fmt: skip
        values = flat(as_dict(self))
        for key, low in least.items():
            if not values[key] >= low:
                raise ValueError(f"{key} must be at least {low}, got {values[key]}. Pass --{key} with a larger number.")
        for name in ("lr", "gate_lr"):
            if not getattr(self.training, name) > 0:
                raise ValueError(
                    f"training.{name} must be positive, got {getattr(self.training, name)}. Try --training.{name} 1e-3."
                )
        if not 0.0 <= self.training.dense_from <= 1.0:
            raise ValueError(
                f"training.dense_from must lie in [0, 1], got {self.training.dense_from}. "
                "0.9 reads whole graphs in the last tenth of the epochs."
            )
        if self.training.precision not in PRECISIONS:
            raise ValueError(
                f"training.precision must be one of {', '.join(PRECISIONS)}, got {self.training.precision!r}."
                f"{_suggestion(self.training.precision, PRECISIONS)}"
            )
        self.inputs.collate()
        return self


def resolved(config: RunConfig, dataset: GraphDataset) -> RunConfig:
    """Returns the configuration with the fields of the model that data and inputs decide.

    Raises:
        ValueError: if one of them was set by hand to something else.
    """
    collate = config.inputs.collate()
    decided: dict[str, Any] = {
        "num_tasks": dataset.task.num_tasks,
        **{name: getattr(collate, name) for name in PROVIDED},
        **_feature_dims(dataset),
    }
    defaults = type(config.model)()
    decided = {name: value for name, value in decided.items() if hasattr(defaults, name)}  # one of yours may have few
    for name, value in decided.items():
        given = getattr(config.model, name)
        if given != getattr(defaults, name) and listed(given) != listed(value):
            raise ValueError(
                f"model.{name} is decided by data and inputs and would be {value}, got {given}. Leave it out."
            )
    return dataclasses.replace(config, model=dataclasses.replace(config.model, **decided))


def _feature_dims(dataset: GraphDataset) -> dict[str, Any]:
    """Returns the widths or numbers of categories of features; OGB molecules keep the model's own."""
    if dataset.name.startswith("ogbg-mol"):
        return {}
    dims: dict[str, Any] = {}
    for name, attribute in (("atom_dims", "x"), ("bond_dims", "edge_attr")):
        values = [dataset[index][attribute] for index in range(len(dataset)) if attribute in dataset[index]]
        values = [value for value in values if value is not None and value.numel()]
        if not values:
            dims[name] = 0  # bonds without features
        elif values[0].is_floating_point():
            dims[name] = values[0].shape[1]
        else:
            low = min(int(value.min()) for value in values)
            if low < 0:
                raise ValueError(f"{attribute} of {dataset.name} must count categories from 0, got {low}. Shift them.")
            most = [int(max(value[:, column].max() for value in values)) for column in range(values[0].shape[1])]
            dims[name] = tuple(category + 1 for category in most)
    return dims


def named_configs() -> dict[str, Any]:
    """Returns the configurations that come with the package, by name, as readable resources.

    >>> "ogbg-molesol" in named_configs()
    True
    """
    files = resources.files("graphattn").joinpath("configs").iterdir()
    return {file.name.removesuffix(".yaml"): file for file in files if file.name.endswith(".yaml")}


def read_config(source: str | Path | None = None, overrides: Sequence[str] = ()) -> RunConfig:
    """Reads a configuration: YAML first, dotted overrides on top, defaults below.

    Args:
        source: a name of `named_configs`, a YAML file, or None.
        overrides: as on a command line, such as ["--model.embed_dim", "128"] or ["--seed=3"].

    Raises:
        FileNotFoundError: if `source` is neither a name nor a file; suggests the nearest name.
        ValueError: for an unknown key (the nearest is suggested), or a value of another type.

    >>> read_config("ogbg-molesol", ["--training.max_epochs", "3"]).training.max_epochs
    3
    """
    import jsonargparse
    import yaml

    text = _text(source)
    try:
        values = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"{source} is not YAML: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{source} must hold keys and values such as `seed: 0`, got {type(values).__name__}.")
    if isinstance(data := values.get("data"), dict) and True in data:
        data["yes"] = data.pop(True)  # what YAML 1.1 makes of the key `yes`
    network = _network(values, overrides)
    for group in {key.partition(".")[0] for key in flat(as_dict(RunConfig())) if "." in key}:
        if not isinstance(values.get(group) or {}, dict):
            raise ValueError(
                f"{group} in {source} must hold keys and values, got {values[group]!r}. "
                f"`graphattn train --help` lists those that begin with {group}."
            )
    check_keys(flat(values), f" in {source}", network=network)
    options = [option[2:].partition("=")[0] for option in overrides if option.startswith("--")]
    check_keys(options, dashes="--", network=network)
    parser = _parser(network, exit_on_error=False, prog="graphattn train")
    try:
        known = parser.parse_object(values) if values else parser.get_defaults()
        namespace = parser.parse_args(list(overrides), namespace=known) if overrides else known
        made = (parser.instantiate if hasattr(parser, "instantiate") else parser.instantiate_classes)(namespace)
    except (jsonargparse.ArgumentError, TypeError) as error:
        raise ValueError(_short(str(error))) from error
    return RunConfig(**{each.name: getattr(made, each.name) for each in dataclasses.fields(RunConfig)}).checked()


def help_text(network: str = NETWORK) -> str:
    """Returns the list of keys with their defaults, as `graphattn train --help` prints them."""
    import jsonargparse

    parser = _parser(network, prog="graphattn train", usage=jsonargparse.SUPPRESS, add_help=False)
    return parser.format_help()


def default_config(network: str = NETWORK) -> RunConfig:
    """Returns the configuration of a network that nothing was said about.

    Raises:
        ImportError, TypeError, ValueError: if there is no such network.
    """
    return RunConfig(network=network, model=_model_class(network)())


def _model_class(network: str) -> type:
    """Returns the class of the keys `model`, as the network says, or else that of the graph transformer."""
    found: type = getattr(find_callable(network, "a network"), "config_class", GraphTransformerConfig)
    return found


def _network(values: Mapping[str, Any], overrides: Sequence[str]) -> str:
    """Returns the network that a file and the options above it name."""
    network = values.get("network") or NETWORK
    for number, option in enumerate(overrides):
        name, is_joined, value = option.partition("=")
        if name == "--network":
            network = value if is_joined else "".join(overrides[number + 1 : number + 2])
    return str(network)


def _parser(network: str, **options: Any) -> Any:
    """Returns the parser of all keys; those of `model` are the network's."""
    import jsonargparse

    parser = jsonargparse.ArgumentParser(**options)
    parser.add_class_arguments(RunConfig, skip={"model", "network"})
    parser.add_argument("--network", type=str, default=network, help="class of the model, package.module:Class")
    parser.add_class_arguments(_model_class(network), "model")
    return parser


def _text(source: str | Path | None) -> str:
    if source is None:
        return ""
    names = named_configs()
    if str(source) in names:
        return names[str(source)].read_text(encoding="utf-8")
    path = Path(source).expanduser()
    if not path.is_file():
        raise FileNotFoundError(
            f"no configuration {str(source)!r}: neither a file nor one of {', '.join(sorted(names))}."
            f"{_suggestion(str(source), names)}"
        )
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be YAML in UTF-8: {error}. Save it as UTF-8.") from error


def check_keys(keys: Iterable[str], where: str = "", dashes: str = "", network: str = NETWORK) -> None:
    """Raises a ValueError for the first key that no configuration of a network has, with the nearest one."""
    valid = flat(as_dict(default_config(network)))
    groups = {key.rpartition(".")[0] for key in valid} - {""}
    for key in keys:
        if key not in valid and key not in groups:
            raise ValueError(
                f"unknown configuration key {dashes + key!r}{where}.{_suggestion(key, valid, dashes)} "
                f"`graphattn train --help` lists all {len(valid)}."
            )


def _suggestion(given: str, valid: Iterable[str], dashes: str = "") -> str:
    valid = list(valid)
    near = difflib.get_close_matches(given, valid, n=1, cutoff=0.5)
    if not near:  # the right name without its group, or in another one
        last = {name.rpartition(".")[2]: name for name in valid}
        near = [last[name] for name in difflib.get_close_matches(given.rpartition(".")[2], list(last), n=1)]
    return f" Did you mean {dashes + near[0]!r}?" if near else ""


def _short(message: str) -> str:
    return message.strip().removesuffix(".") + ". `graphattn train --help` lists keys and types."


def as_dict(config: Any) -> dict[str, Any]:
    """Returns a dataclass as nested plain values, tuples as lists, ready for YAML and JSON."""
    return {key: listed(value) for key, value in dataclasses.asdict(config).items()}


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns nested values under dotted keys.

    >>> flat({"seed": 0, "data": {"name": "ogbg-molesol"}})
    {'seed': 0, 'data.name': 'ogbg-molesol'}
    """
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any], keys: Iterable[str]) -> list[str]:
    """Returns a text for each of the keys in which two configurations, as `flat` has them, differ.

    >>> differences({"seed": 0, "run_root": "runs"}, {"seed": 1, "run_root": "runs"}, ["seed", "run_root"])
    ['seed 1 (here 0)']
    """
    return [f"{key} {theirs.get(key)} (here {ours.get(key)})" for key in keys if ours.get(key) != theirs.get(key)]


def as_yaml(config: RunConfig) -> str:
    """Returns the configuration as YAML that `read_config` reads back."""
    import yaml

    return yaml.safe_dump(as_dict(config), sort_keys=False, allow_unicode=True)
