"""A data set and a model small enough to train in a second, and runs that several tests read."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from graphattn.training import RunConfig, RunResult, read_config, train

SOURCE = """
import dataclasses

import torch
from torch_geometric.data import Data


def rings(kind="regression"):
    generator = torch.Generator().manual_seed(0)
    graphs = []
    for number in range(47):
        n = 1 + number % 11
        node = torch.arange(n)
        edge_index = torch.stack([torch.cat([node, node.roll(-1)]), torch.cat([node.roll(-1), node])])
        if n < 3:
            edge_index = edge_index[:, :0]
        y = torch.tensor([[float(n), n % 3.0]])
        if number % 7 == 5:
            y[0, 1] = float("nan")
        x = torch.randint(0, 5, (n, 3), generator=generator)
        graphs.append(Data(x=x, edge_index=edge_index, edge_attr=torch.ones(edge_index.shape[1], 2).long(), y=y))
    if kind == "binary":
        for graph in graphs:
            graph.y = torch.where(graph.y.isnan(), graph.y, (graph.y > 4).float())
    return {"train": graphs[:29], "valid": graphs[29:37], "test": graphs[37:]}


def halves():
    return rings("binary"), "binary"


class Degrees(torch.nn.Module):
    # a network of somebody else: reads nothing but how many edges a graph has
    def __init__(self, config):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(1, config.embed_dim), torch.nn.Tanh(),
                                          torch.nn.Linear(config.embed_dim, config.num_tasks))

    def forward(self, batch):
        owner = batch.batch[batch.graph.edge_index[1]]
        return self.layers(torch.bincount(owner, minlength=batch.num_graphs).float()[:, None])


@dataclasses.dataclass
class Width:
    width: int = 4
    num_tasks: int = 1


class Sizes(torch.nn.Module):
    # its own configuration, which has little of ours
    config_class = Width

    def __init__(self, config):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(1, config.width), torch.nn.Tanh(),
                                          torch.nn.Linear(config.width, config.num_tasks))

    def forward(self, batch):
        return self.layers(torch.bincount(batch.batch, minlength=batch.num_graphs).float()[:, None])


def no_module(config):
    return lambda batch: batch
"""

TINY = [
    "--data.name", "toy_rings:rings", "--data.batch_size", "5", "--inputs.num_walks", "3",
    "--inputs.num_eigenvectors", "2", "--model.embed_dim", "8", "--model.num_heads", "2", "--model.num_layers", "1",
    "--model.edge_dim", "4", "--model.impl", "scatter", "--model.attention_dropout_p", "0.1",
    "--training.max_epochs", "3", "--training.accelerator", "cpu", "--training.num_threads", "1",
]  # fmt: skip

Make = Callable[..., RunConfig]


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of the module toy_rings, which `load("toy_rings:rings")` calls."""
    directory = tmp_path_factory.mktemp("toy")
    (directory / "toy_rings.py").write_text(SOURCE, encoding="utf-8")
    return directory


@pytest.fixture(autouse=True)
def _importable(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(toy)


@pytest.fixture
def make_config(tmp_path: Path) -> Make:
    """Returns a tiny configuration whose runs go to tmp_path, under overrides."""

    def make(*overrides: str) -> RunConfig:
        return read_config(None, [*TINY, "--run_root", str(tmp_path / "runs"), *overrides])

    return make


@pytest.fixture(scope="session")
def finished(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    """A run of three epochs with checkpoints every second step. Read only."""
    root = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(toy)
        return train(read_config(None, [*TINY, "--run_root", str(root), "--training.save_every_steps", "2"]))


@pytest.fixture(scope="session")
def esol(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    """A run of one epoch on real molecules. Read only."""
    config = read_config("ogbg-molesol", [*TINY[2:], "--data.batch_size", "128", "--training.max_epochs", "1"])
    return train(dataclasses.replace(config, run_root=str(tmp_path_factory.mktemp("esol"))))


def same_parameters(one: Path, other: Path) -> bool:
    """Returns whether two checkpoints hold the same bits: parameters, buffers and the optimizer's moments."""
    first, second = (torch.load(path, weights_only=True) for path in (one, other))
    for group in ("state_dict",):
        if first[group].keys() != second[group].keys():
            return False
        if not all(torch.equal(value, second[group][name]) for name, value in first[group].items()):
            return False
    moments = [checkpoint["optimizer_states"][0]["state"] for checkpoint in (first, second)]
    return all(
        torch.equal(torch.as_tensor(value), torch.as_tensor(moments[1][number][name]))
        for number, state in moments[0].items()
        for name, value in state.items()
    )


@pytest.fixture
def same() -> Callable[[Path, Path], bool]:
    return same_parameters
