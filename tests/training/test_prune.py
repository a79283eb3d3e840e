"""Runs with gated heads, and the smaller runs that are made of them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from graphattn.cli import main
from graphattn.data import load, make_loader
from graphattn.nn import GraphAttention
from graphattn.training import RunResult, evaluate_run, load_run, predict_split, prune_run, read_config, train
from graphattn.training.config import resolved
from graphattn.training.folder import RunFolder
from graphattn.training.module import TrainingModule
from graphattn.training.predictor import GraphPredictor
from tests.training.conftest import TINY

SIZE = ["--model.num_layers", "3", "--model.num_heads", "4", "--model.attention_dropout_p", "0"]
GATE = "SubsetHeadGate(num_keep=5, start_temperature=10.0, end_temperature=0.01, num_cooling_steps=12)"


def heads_of(predictor: GraphPredictor) -> list[int]:
    return [module.num_heads for module in predictor.modules() if isinstance(module, GraphAttention)]


@pytest.fixture(scope="module")
def gated(tmp_path_factory: pytest.TempPathFactory, toy: Path) -> RunResult:
    """A run of three layers of four heads, five of which stay."""
    root = ["--run_root", str(tmp_path_factory.mktemp("gated"))]
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(toy)
        return train(read_config(None, [*TINY, *SIZE, "--model.head_gate", GATE, *root]))


def test_a_pruned_run_predicts_as_the_gated_one_and_is_smaller(gated: RunResult, tmp_path: Path) -> None:
    found = prune_run(gated.folder, 5, folder=tmp_path / "pruned")
    assert sum(map(len, found.kept)) == 5 and found.how == "SubsetHeadGate" and found.num_heads == 4
    before, after = load_run(gated.folder), load_run(found.folder)
    assert heads_of(before) == [4, 4, 4] and heads_of(after) == [len(heads) for heads in found.kept]
    assert before.head_gates() and not after.head_gates()
    dataset = load("toy_rings:rings")
    predicted = [predict_split(each, dataset, "test").y_pred for each in (before, after)]
    np.testing.assert_allclose(*predicted, rtol=1e-5, atol=1e-6)
    assert found.test == pytest.approx(found.test_before) == pytest.approx(evaluate_run(found.folder)[1])
    assert found.num_parameters[1] < found.num_parameters[0] and found.num_bytes[1] < found.num_bytes[0]
    assert json.loads((tmp_path / "pruned" / "pruned.json").read_text())["kept"] == found.kept
    assert train(resume=found.folder).test == pytest.approx(found.test)  # it counts as finished


def test_a_gate_may_keep_another_number_than_it_was_trained_for(gated: RunResult, tmp_path: Path) -> None:
    for keep in (1, 3, 12):
        found = prune_run(gated.folder, keep, folder=tmp_path / str(keep))
        assert sum(map(len, found.kept)) == keep and found.test is not None and np.isfinite(found.test)
    nested = [json.loads((tmp_path / str(keep) / "pruned.json").read_text())["kept"] for keep in (1, 3)]
    assert all(set(few) <= set(more) for few, more in zip(*nested, strict=True))


def test_without_a_gate_heads_are_chosen_by_their_importance(make_config, tmp_path: Path) -> None:
    run = train(make_config(*SIZE))
    found = prune_run(run.folder, 6)
    assert found.folder == f"{run.folder}-keep6" and found.how == "importance on the train split"
    assert found.test_before == pytest.approx(run.test) and sum(heads_of(load_run(found.folder))) == 6
    everything = prune_run(run.folder, 12)
    assert everything.test == pytest.approx(run.test)


def test_importance_is_the_gradient_of_the_loss_by_the_gates(make_config) -> None:
    run = train(make_config(*SIZE))
    predictor, dataset = load_run(run.folder), load("toy_rings:rings")
    expected = torch.zeros(3, 4, dtype=torch.float64)
    gates = torch.ones(3, 4, requires_grad=True)
    blocks = predictor.network.blocks
    for layer, block in enumerate(blocks):
        block.register_forward_pre_hook(
            lambda module, inputs, options, layer=layer: (inputs, {**options, "head_gate": gates[layer]}),
            with_kwargs=True,
        )
    for batch in make_loader(dataset, "train", predictor.collate, batch_size=5, shuffle=False):
        gates.grad = None
        predictor.loss(batch).backward()
        assert gates.grad is not None
        expected += gates.grad.abs().double()
    expected /= expected.norm(dim=1, keepdim=True)
    best = expected.flatten().topk(4).indices.tolist()
    found = prune_run(run.folder, 4)
    assert [4 * layer + head for layer, heads in enumerate(found.kept) for head in heads] == sorted(best)


def test_the_command_says_what_it_kept_and_draws_it(gated: RunResult, tmp_path: Path, capsys) -> None:
    pytest.importorskip("matplotlib")
    assert main(["prune", gated.folder, "--keep", "2", "--out", str(tmp_path / "two")]) == 0
    said = capsys.readouterr().out
    assert said.startswith("kept 2 of 12 heads by SubsetHeadGate: ") and "parameters" in said
    assert (tmp_path / "two" / "heads.png").stat().st_size > 1000
    assert (
        main(["evaluate", str(tmp_path / "two")]) == 0
        and main(["draw", str(tmp_path / "two"), "--out", str(tmp_path / "p.png")]) == 0
    )


def test_what_cannot_be_pruned_is_refused(gated: RunResult, make_config, tmp_path: Path) -> None:
    for keep in (0, 13):
        with pytest.raises(ValueError, match=f"num_keep must lie in 1 to 12, .* got {keep}"):
            prune_run(gated.folder, keep)
    other = train(make_config("--network", "toy_rings:Degrees", "--training.max_epochs", "1"))
    with pytest.raises(ValueError, match="toy_rings:Degrees has no heads that can be pruned"):
        prune_run(other.folder, 1)
    twice = prune_run(prune_run(gated.folder, 12, folder=tmp_path / "all").folder, 6, folder=tmp_path / "half")
    assert sum(map(len, twice.kept)) == 6
    if len({len(heads) for heads in twice.kept}) > 1:
        with pytest.raises(ValueError, match="pruned already, to different numbers of heads"):
            prune_run(twice.folder, 2)


def test_gates_alone_are_trained_from_a_run_that_had_none(make_config) -> None:
    run = train(make_config(*SIZE))
    options = ["--training.gates_only", "true", "--training.start_from", run.folder, "--model.head_gate", GATE]
    chosen = train(make_config(*SIZE, *options))
    before, after = (load_run(each.folder).state_dict() for each in (run, chosen))
    moved = {name for name in after if name not in before or not torch.equal(before[name], after[name])}
    assert moved == {"network.head_gate.weight", "network.head_gate.step"}  # norms as well stand still
    assert sum(map(len, prune_run(chosen.folder, 5).kept)) == 5


def test_a_run_starts_from_the_weights_of_another(make_config) -> None:
    run = train(make_config(*SIZE))
    slow = ["--training.lr", "1e-12", "--training.max_epochs", "1", "--training.start_from", run.folder]
    assert train(make_config(*SIZE, *slow)).valid == pytest.approx(run.valid, rel=0.2)  # norms see the data once more
    for other in ("--model.embed_dim=16", "--model.readout=mean", "--inputs.num_walks=2"):
        with pytest.raises(ValueError, match=r"training\.start_from .* has another model: "):
            train(make_config(*SIZE, *slow, other))
    begun = train(make_config(*SIZE, *slow, "--model.impl", "fused"))
    shutil.rmtree(run.folder)
    RunFolder(Path(begun.folder)).result.unlink()
    assert train(resume=begun.folder).valid == begun.valid  # what it started from is no longer asked for
    with pytest.raises(FileNotFoundError, match="there is no run"):
        train(make_config(*SIZE, "--training.start_from", "nowhere"))


def test_gates_have_a_rate_of_their_own_and_no_decay(make_config) -> None:
    dataset = load("toy_rings:rings")
    config = resolved(make_config(*SIZE, "--model.head_gate", GATE, "--training.gate_lr", "0.3"), dataset)
    module = TrainingModule(GraphPredictor(config, dataset.task), 3)
    groups = module.configure_optimizers()["optimizer"].param_groups
    assert [group["initial_lr"] for group in groups] == [1e-3, 1e-3, 0.3] and groups[2]["weight_decay"] == 0.0
    assert [weight.shape for weight in groups[2]["params"]] == [(3, 4)]
    assert sum(len(group["params"]) for group in groups) == len(list(module.parameters()))


def test_the_penalty_of_a_gate_is_in_the_loss(make_config) -> None:
    dataset = load("toy_rings:rings")
    losses = []
    for strength in ("0", "0.5"):
        config = make_config(
            *SIZE, "--model.head_gate", "HardConcreteHeadGate(num_keep=4)", "--training.gate_penalty", strength
        )
        torch.manual_seed(0)
        predictor = GraphPredictor(resolved(config, dataset), dataset.task).eval()
        losses.append(predictor.loss(predictor.collate([dataset[3], dataset[4]])).item())
    assert losses[1] - losses[0] == pytest.approx(0.5 * predictor.head_gates()[0].penalty().item(), rel=1e-5)
    with pytest.raises(ValueError, match=r"training\.gate_penalty must be at least 0, got -1"):
        make_config("--training.gate_penalty", "-1")


def test_gates_alone_of_a_model_without_any_are_refused(make_config) -> None:
    with pytest.raises(
        ValueError, match=r"training\.gates_only asks to train head gates alone, and the model has none"
    ):
        train(make_config("--training.gates_only", "true"))
