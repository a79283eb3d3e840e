"""The command line: what it prints, where it writes, how it fails."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from graphattn.cli import main
from graphattn.connectivity import global_tokens, sliding_window
from graphattn.graph import AttentionGraph
from graphattn.graph.rules import is_causal, within
from graphattn.ops._costs import constants_for

ROOT = Path(__file__).resolve().parents[1]
TINY = [
    "--model.embed_dim", "8", "--model.num_heads", "2", "--model.num_layers", "1", "--model.edge_dim", "4",
    "--model.impl", "scatter", "--inputs.num_walks", "3", "--data.batch_size", "128", "--training.accelerator", "cpu",
    "--training.num_threads", "1",
]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one epoch, made by the command of the documentation."""
    root = tmp_path_factory.mktemp("runs")
    command = ["train", "--config", "ogbg-molfreesolv", *TINY, "--training.max_epochs", "1", "--run_root", str(root)]
    assert main(command) == 0
    (made,) = (root / "ogbg-molfreesolv").iterdir()
    return made


def test_train_prints_the_metrics_and_the_folder(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--resume", str(run)]) == 0
    printed = capsys.readouterr().out
    assert "seed 0  valid rmse" in printed and "test rmse" in printed and str(run) in printed


def test_train_ends_with_the_pictures(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    pictures = [run / "curve.png", run / "pathways.png"]
    for resume in (run, run / "checkpoints" / "last.ckpt"):
        for picture in pictures:
            assert picture.read_bytes().startswith(b"\x89PNG")
            picture.unlink()
        assert main(["train", "--resume", str(resume)]) == 0
        assert capsys.readouterr().out.splitlines()[-2:] == [str(picture) for picture in pictures]


def test_a_picture_that_cannot_be_drawn_costs_one_line(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "curve.png").unlink(missing_ok=True)
    (run / "curve.png").mkdir()
    try:
        assert main(["train", "--resume", str(run)]) == 0
    finally:
        (run / "curve.png").rmdir()
    printed = capsys.readouterr()
    assert "test rmse" in printed.out and printed.out.splitlines()[-1] == str(run / "pathways.png")
    assert printed.err.startswith("graphattn: not drawn: curve: ") and len(printed.err.splitlines()) == 1

    for name in [name for name in sys.modules if name.startswith("matplotlib")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["train", "--resume", str(run)]) == 0
    printed = capsys.readouterr()
    assert "test rmse" in printed.out and ".png" not in printed.out
    assert printed.err.startswith("graphattn: not drawn: curve and pathways: ")
    assert len(printed.err.splitlines()) == 1 and "pip install graphattn[viz]" in printed.err


def test_tune_prints_each_trial_and_a_file_that_train_takes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    space = tmp_path / "space.yaml"
    space.write_text("training.lr: [1e-4, 1e-2]\n", encoding="utf-8")
    keys = [*TINY, "--training.max_epochs", "1", "--run_root", str(tmp_path)]
    command = ["tune", "--config", "ogbg-molfreesolv", "--space", str(space), "--trials", "2", "--finalist-seeds", "2"]
    assert main([*command, *keys]) == 0
    first, second, *final, best, path = capsys.readouterr().out.splitlines()
    assert first.startswith("trial 0  valid rmse ") and first.endswith("as it stands")
    assert second.startswith("trial 1  valid rmse ") and " --training.lr 0.0" in second
    assert len(final) == 2 and all("(2 seeds)" in line for line in final)
    assert best.startswith("best: trial ") and best.endswith(" of 2, 4 epochs in all")
    assert main(["train", "--config", path, "--seed", "1"]) == 0
    assert "seed 1  valid rmse" in capsys.readouterr().out


def test_evaluate_agrees_with_train(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(run)]) == 0
    alone = capsys.readouterr().out
    assert alone.startswith("ogbg-molfreesolv test rmse ")
    assert main(["evaluate", str(run), "--predictions", str(run / "predictions_test.npz")]) == 0
    assert capsys.readouterr().out == alone
    assert main(["evaluate", str(run), str(run)]) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith("± 0.0000 (2 seeds)")


def test_predict_writes_a_row_per_molecule_and_names_the_bad_line(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.smi").write_text("CCO\nC1CC\nC\n")
    assert main(["predict", str(run), "--smiles", str(tmp_path / "a.smi"), "--out", str(tmp_path / "a.csv")]) == 0
    with open(tmp_path / "a.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["smiles"] for row in rows] == ["CCO", "C1CC", "C"]
    assert [bool(row["prediction"]) for row in rows] == [True, False, True]
    assert "a.smi, line 2: 'C1CC' is not a SMILES" in capsys.readouterr().err
    assert main(["predict", str(run), "--data", "ogbg-molfreesolv"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1 + 65


def test_draw_writes_pictures_and_files_for_other_programs(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    for name, more in (
        ("a.svg", []), ("a.png", ["--view", "layers", "--heads", "1"]), ("a.pdf", ["--layer", "-1", "--share", "1"]),
        ("b.svg", ["--view", "arcs", "--method", "flow"]), ("b.png", ["--view", "heads", "--split", "train"]),
        ("a.graphml", []), ("a.gexf", ["--method", "rollout"]), ("a.json", ["--weighting", "gradient"]), ("a.dot", []),
    ):  # fmt: skip
        assert main(["draw", str(run), "--index", "2", "--out", str(tmp_path / name), *more]) == 0
        title, values, path = capsys.readouterr().out.splitlines()
        assert title.startswith("ogbg-molfreesolv ") and values.startswith("predicted ")
        assert path == str(tmp_path / name) and (tmp_path / name).stat().st_size
    json = (tmp_path / "a.json").read_text()
    assert "strongest edges up to 80 %" in json and '"virtual"' in json


def test_the_files_that_it_draws_are_those_that_can_be_written() -> None:
    from graphattn.cli import DRAWN_FILES
    from graphattn.viz.canvas import FORMATS
    from graphattn.viz.export import WRITERS

    assert sorted(DRAWN_FILES) == sorted((*FORMATS, *WRITERS))


def test_draw_checks_its_file_first_and_says_what_it_does_not_know(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "folder.png").mkdir()
    for more, message in (
        (["--out", "a.html"], "--out must end in .svg, .png, .pdf, .graphml, .gexf, .json, .dot, got 'a.html'"),
        (["--out", str(tmp_path / "none" / "a.png")], "there is no directory"),
        (["--out", str(tmp_path / "folder.png")], "is a directory"),
        (["--index", "65"], "index must lie in [0, 65)"),
        (["--split", "tests"], "split must be one of test, valid, train, all"),
        (["--view", "tree"], "view must be one of"),
        (["--layer", "7"], "layer must be one of 0, or -1, got 7"),
        (["--method", "sum"], "method must be one of"),
        (["--heads", "9"], "head"),
        (["--heads", "meen"], "mean"),
        (["--weighting", "alfa"], "alpha"),
        (["--share", "1.5"], "share must"),
        (["--out", str(tmp_path / "a.dot"), "--layer", "0"], "Leave --layer and --view out"),
    ):
        out = [] if "--out" in more else ["--out", str(tmp_path / "a.svg")]
        assert main(["draw", str(run), *out, *more]) == 1, more
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("graphattn: error: ") and message in line
    assert [path.name for path in tmp_path.iterdir()] == ["folder.png"]


MASK = "sliding_window(96, radius=4) | global_tokens(96, [0])"


def test_mask_builds_describes_draws_and_stores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = (sliding_window(96, radius=4) | global_tokens(96, [0])).keep(is_causal)
    assert main(["mask", MASK, "--keep", "is_causal"]) == 0
    assert capsys.readouterr().out == f"{expected}\n"
    assert main(["mask", MASK, "--keep", "is_causal", "--describe", "--raster"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"{expected.describe()}\n") and printed.endswith(f"\n{expected.raster()}\n")
    assert "auto takes" in printed
    for name in ("mask.safetensors", "mask.npz", "mask.svg", "mask.png"):
        path = tmp_path / name
        assert main(["mask", MASK, "--keep", "is_causal", "--keep", "within(3)", "--out", str(path)]) == 0
        assert capsys.readouterr().out.splitlines()[-1] == str(path) and path.stat().st_size
        if path.suffix in (".safetensors", ".npz"):
            assert AttentionGraph.load(path) == expected.keep(within(3))


def test_mask_draws_from_its_seed(capsys: pytest.CaptureFixture[str]) -> None:
    pictures = []
    for seed in ("0", "0", "1"):
        assert main(["mask", "random_regular(31, 3)", "--raster", "--seed", seed]) == 0
        pictures.append(capsys.readouterr().out)
    assert pictures[0] == pictures[1] != pictures[2]


def test_mask_marks_the_fault(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mask", "full(3) | foo(3)"]) == 1
    reason, shown, mark = capsys.readouterr().err.splitlines()
    assert reason.startswith("graphattn: error: there is no builder 'foo'")
    assert (shown, mark) == ("  full(3) | foo(3)", "            ^")


def test_mask_checks_its_file_before_it_builds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("graphattn.connectivity.expression.read_graph", None)
    (tmp_path / "folder.png").mkdir()
    for name, message in (
        ("mask.gif", "--out must end in .safetensors, .npz, .svg, .png, .pdf, got 'mask.gif'"),
        ("mask", "--out must end in"),
        ("none/mask.npz", "there is no directory"),
        ("folder.png", "is a directory"),
    ):
        assert main(["mask", MASK, "--out", str(tmp_path / name)]) == 1
        assert message in capsys.readouterr().err
    assert main(["mask", MASK, "--keep", "is_causl"]) == 1
    assert "Did you mean 'is_causal'?" in capsys.readouterr().err
    assert main(["mask", MASK, "--seed", "-1"]) == 1
    assert "--seed must lie in" in capsys.readouterr().err


def test_data_lists_shows_and_prepares(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "list"]) == 0
    assert "ogbg-molesol" in capsys.readouterr().out
    assert main(["data", "card", "ogbg-molesol"]) == 0
    assert "licence: MIT" in capsys.readouterr().out
    assert main(["data", "prepare", "ogbg-molesol"]) == 0
    assert "1,128 graphs" in capsys.readouterr().out


def test_info_lists_versions_and_implementations(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    printed = capsys.readouterr().out
    assert "torch" in printed and "impl fused" in printed


def test_info_calibrates_and_then_says_whose_constants_auto_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = (("window", 16, 8), ("random", 32, 4), ("random", 64, 16), ("cliques", 32, 8), ("molecules", 32, 8))
    monkeypatch.setattr("graphattn.ops.calibrate.CASES", cases)
    monkeypatch.setattr("graphattn.ops.calibrate.SECONDS", 0.001)
    path = tmp_path / "new" / "costs.json"
    monkeypatch.setenv("GRAPHATTN_COSTS", str(path))
    constants_for.cache_clear()
    try:
        assert main(["info", "--calibrate"]) == 0
        printed = capsys.readouterr()
        title, *table, copied, last = printed.out.splitlines()
        assert "microseconds of forward and backward" in title
        assert [line.split()[0] for line in table] == ["dense", "scatter", "gather", "blocks", "fused", "sdpa"]
        assert all("off by" in line for line in table)
        assert copied.startswith("a large copy reads and writes") and copied.endswith("GB/s")
        assert last == str(path) and path.is_file() and list(path.parent.iterdir()) == [path]
        assert printed.err == ""  # no progress where nobody watches
        assert main(["info"]) == 0
        assert f"constants of auto  cpu: {path}, measured" in capsys.readouterr().out
    finally:
        constants_for.cache_clear()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_not_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--calibrate", "--device", "cuda"]) == 1
    assert "needs a GPU that torch sees" in capsys.readouterr().err


def test_constants_that_cannot_be_kept_are_not_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("graphattn.ops.calibrate.calibrate", None)
    for path in (tmp_path / "file" / "costs.json", tmp_path):
        monkeypatch.setenv("GRAPHATTN_COSTS", str(path))
        assert main(["info", "--calibrate"]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert f"the constants cannot be written to {path}" in line and "GRAPHATTN_COSTS=FILE" in line


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["train", "--config", "ogbg-molesl"], "Did you mean 'ogbg-molesol'"),
        (["train", "--config", "ogbg-molesol", "--model.embed_dims", "3"], "Did you mean '--model.embed_dim'"),
        (["train", "--config", "ogbg-molesol", "--data.name", "ogbg-molesool"], "Did you mean 'ogbg-molesol'"),
        (["train", "--config", "ogbg-molesol", "--seeds", "3-1"], "seeds must be numbers and ranges"),
        (["train"], "train needs --config"),
        (["tune", "--config", "ogbg-molesol", "--trials", "0"], "num_trials must be at least 1"),
        (["tune", "--config", "ogbg-molesol", "--space", "none.yaml"], "there is no file none.yaml"),
        (["tune", "--config", "ogbg-molesol", "--model.embed_dims", "3"], "Did you mean '--model.embed_dim'"),
        (["train", "--resume", "nowhere"], "there is no run nowhere"),
        (["evaluate", "nowhere"], "there is no run nowhere"),
        (["predict", "nowhere", "--smiles", "x"], "there is no run nowhere"),
        (["draw", "nowhere", "--out", "a.json"], "there is no run nowhere"),
        (["data", "card", "ogbg-molesl"], "Did you mean"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    command: list[str], message: str, tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(command) == 1
    error = capsys.readouterr().err
    assert error.startswith("graphattn: error: ") and message in error
    assert list(tmp_path.iterdir()) == []


def test_help_and_nonsense(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert main(["train", "--help"]) == 0
    assert "--model.embed_dim" in capsys.readouterr().out
    for command in (["trian"], ["info", "--everything"], ["predict", "run"]):
        with pytest.raises(SystemExit) as ended:
            main(command)
        assert ended.value.code == 2


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [0, 2])
def test_ctrl_c_saves_exits_with_130_and_resumes(tmp_path: Path, num_workers: int) -> None:
    train = [sys.executable, "-m", "graphattn.cli", "train", "--config", "ogbg-molfreesolv", *TINY]
    train += [
        "--training.max_epochs",
        "40",
        "--data.num_workers",
        str(num_workers),
        "--run_root",
        str(tmp_path / "runs"),
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        train, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("epoch 2/"):
            break
    time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers as well
    rest = process.stderr.read()
    assert process.wait(timeout=60) == 130, rest
    assert "last.ckpt is written" in rest and "Traceback" not in rest
    (run,) = (tmp_path / "runs" / "ogbg-molfreesolv").iterdir()
    assert (run / "checkpoints" / "last.ckpt").exists() and not (run / "result.json").exists()
    again = subprocess.run([*train, "--resume"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert (run / "result.json").exists()


@pytest.mark.slow
def test_two_seeds_print_mean_and_spread(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["train", "--config", "ogbg-molfreesolv", *TINY, "--training.max_epochs", "1"]
    assert main([*command, "--run_root", str(tmp_path), "--seeds", "0-1"]) == 0
    *_, test, folder, picture, pathways = capsys.readouterr().out.splitlines()
    assert test.startswith("test rmse ") and test.endswith("(2 seeds)")
    assert Path(picture) == Path(folder) / "curve.png" and Path(picture).is_file()
    assert Path(pathways) == Path(folder) / "pathways.png" and Path(pathways).is_file()
    assert main(["evaluate", folder]) == 0
    assert capsys.readouterr().out.splitlines()[-1].split(" rmse ")[1] == test.split(" rmse ")[1]
