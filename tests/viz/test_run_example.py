"""A graph of a run's data set: which one it is, what is recorded of it, what is drawn and what is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("matplotlib")

from graphattn.data import load
from graphattn.training.config import as_dict, as_yaml, read_config, resolved
from graphattn.training.folder import RunFolder, make_run_folder
from graphattn.training.load import PREFIX
from graphattn.training.predictor import GraphPredictor
from graphattn.viz.run_example import METHODS, VIEWS, RunExample, run_example, save_run_example

TINY = ["--model.embed_dim", "8", "--model.num_heads", "2", "--model.num_layers", "2", "--model.edge_dim", "4",
        "--inputs.edges", "bonds | virtual(1)", "--model.impl", "scatter"]  # fmt: skip
RINGS = """
import torch
from torch_geometric.data import Data

def rings():
    found = []
    for n in (3, 5, 7, 4, 6):
        node = torch.arange(n)
        edge_index = torch.cat([torch.stack([node, node.roll(1)]), torch.stack([node.roll(1), node])], 1)
        found.append(Data(x=torch.ones(n, 2).long(), edge_index=edge_index, y=torch.tensor([[float(n)]]),
                          edge_attr=torch.ones(2 * n, 1).long(), smiles="CCO"))
    return {"train": found[:3], "valid": found[3:4], "test": found[4:]}

class NoAttention(torch.nn.Module):
    def __init__(self, config):
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)

    def forward(self, batch):
        return self.layer(batch.x.float())[:1]
"""


def make_run(path: Path, overrides: list[str], config: str | None = None) -> Path:
    """A run as training leaves it, with weights drawn from a seed."""
    torch.manual_seed(0)
    asked = read_config(config, [*overrides])
    dataset = load(asked.data.name)
    config_ = resolved(asked, dataset)
    predictor = GraphPredictor(config_, dataset.task, dataset.labels[dataset.indices("train")])
    folder = make_run_folder(path)
    folder.config.write_text(as_yaml(config_), encoding="utf-8")
    weights = {f"{PREFIX}{name}": value for name, value in predictor.state_dict().items()}
    header = {"config": as_dict(config_), "task": list(dataset.task), "fingerprint": ""}
    torch.save({"state_dict": weights, "graphattn": header}, folder.checkpoints / "best.ckpt")
    return folder.path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "run", TINY, "ogbg-molfreesolv")


@pytest.fixture(scope="module")
def example(run: Path) -> RunExample:
    pytest.importorskip("rdkit")
    return run_example(run, 3)


@pytest.fixture
def rings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "drawn_rings.py").write_text(RINGS)
    monkeypatch.syspath_prepend(tmp_path / "modules")
    return "drawn_rings:rings"


def test_it_is_the_graph_of_the_split_that_was_asked_for(run: Path, example: RunExample) -> None:
    dataset = load("ogbg-molfreesolv")
    number = int(dataset.indices("test")[3])
    data = dataset[number]
    assert example.smiles == data.smiles and example.title.startswith(f"ogbg-molfreesolv {number}  {data.smiles}\n")
    assert f"known {float(data.y):.4g}" in example.title and "predicted " in example.title
    assert {tuple(pair) for pair in example.graph.edge_index.T.tolist()} == {
        tuple(pair) for pair in data.edge_index.T.tolist()
    }
    assert len(example.labels) == data.x.shape[0] + 1 and example.labels[-1] == "virtual"
    assert run_example(run, number, "all").title == example.title
    assert run_example(run, 0, "train").title != example.title


def test_its_recording_holds_every_layer(example: RunExample) -> None:
    assert [step.name for step in example.recording.steps] == ["blocks.0.attention", "blocks.1.attention"]
    whole = example.pathways(share=1.0)
    assert whole.num_ranks == 3 and whole.labels == tuple(example.labels) and not whole.threshold
    assert example.recording.steps[0].gradient is None


def test_methods_merge_the_layers_and_the_share_prunes_them(example: RunExample) -> None:
    whole = example.pathways(share=1.0)
    rollout = example.pathways("rollout", share=1.0)
    torch.testing.assert_close(rollout.weight.sum(), whole.rollout().weight.sum())
    assert example.pathways("flow", share=1.0).method.startswith("max-flow")
    pruned = example.pathways("rollout", share=0.5)
    assert 0.5 <= pruned.kept < 1 and 0 < pruned.num_edges < rollout.num_edges
    assert example.pathways(heads=1).method != example.pathways(heads="max").method


def test_gradients_are_recorded_when_needed(run: Path) -> None:
    found = run_example(run, 0, needs_gradient=True)
    gradient = found.recording.steps[0].gradient
    assert gradient is not None and bool(gradient.any())
    assert found.pathways(weighting="gradient").num_edges > 0


@pytest.mark.parametrize("view", VIEWS)
def test_every_view_is_drawn_under_its_title(example: RunExample, view: str) -> None:
    ax = example.draw(view)
    assert ax.get_title(loc="left") == example.title
    assert ax.get_xlabel()


def test_a_layer_is_chosen_or_all_are_merged(example: RunExample) -> None:
    assert example.draw().get_xlabel().startswith("rollout of attention weights")
    assert example.draw(layer=1).get_xlabel().startswith("layer 1; attention weights")
    assert "heads apart" in example.draw("arcs", layer=-1, heads="each").get_xlabel().replace("\n", " ")
    for arguments, message in (
        ({"view": "tree"}, "view must be one of graph, layers, arcs, heads, got 'tree'"),
        ({"view": "layers", "layer": 0}, "view 'layers' shows every layer, got layer=0"),
        ({"layer": 0, "method": "flow"}, "method 'flow' merges all layers, got layer=0"),
        ({"method": "weights"}, "view 'graph' shows the weights of one layer. Pass layer=0"),
        ({"view": "heads", "heads": 1}, "view 'heads' shows the weights of every head"),
        ({"method": "sum"}, f"method must be one of {', '.join(METHODS)}, got 'sum'"),
    ):
        with pytest.raises(ValueError, match=message):
            example.draw(**arguments)


def test_graphs_that_are_no_molecules_are_laid_out_from_their_edges(
    rings: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "run", [*TINY, "--data.name", rings])
    monkeypatch.setattr("graphattn.viz.run_example.MAX_ATOMS", 5)  # one of more nodes is drawn in layers
    drawn = []
    monkeypatch.setattr("graphattn.viz.run_example.save_picture", lambda ax, path: drawn.append(ax))
    save_run_example(run)
    assert [label.get_text() for label in drawn[0].get_xticklabels()] == ["input", "layer 0", "layer 1"]
    found = run_example(run)
    assert found.smiles is None and found.symbols is None  # its SMILES is of three atoms, the graph has six
    ax = found.draw()
    assert [text.get_text() for text in ax.texts] == list("012345")
    place = np.array([text.xy for text in ax.texts[:6]])
    radius = np.linalg.norm(place - place.mean(0), axis=1)
    assert np.ptp(radius) < 0.05 * radius.mean()


def test_the_picture_lies_in_the_folder_of_the_run_or_of_the_seeds(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("rdkit")
    path = save_run_example(run)
    assert path == RunFolder(run).pathways and path.read_bytes().startswith(b"\x89PNG")
    seeds = tmp_path / "seeds"
    for seed in (3, 11):
        (seeds / f"seed{seed}").parent.mkdir(exist_ok=True)
        (seeds / f"seed{seed}").symlink_to(run)
    assert save_run_example(seeds, index=2) == seeds / "pathways.png"
    assert save_run_example(run, tmp_path / "a.svg").is_file()


def test_what_is_not_there_is_refused(run: Path, rings: str, tmp_path: Path) -> None:
    for index in (-1, 65, True):
        with pytest.raises(ValueError, match=r"index must lie in \[0, 65\), the graphs of ogbg-molfreesolv, test"):
            run_example(run, index)
    with pytest.raises(ValueError, match="split must be one of test, valid, train, all, got 'tests'"):
        run_example(run, 0, "tests")
    with pytest.raises(FileNotFoundError, match="there is no run"):
        run_example(tmp_path / "none")
    without = make_run(tmp_path / "without", ["--data.name", rings, "--network", "drawn_rings:NoAttention"])
    with pytest.raises(ValueError, match="has no attention to draw: nothing was recorded"):
        run_example(without)
