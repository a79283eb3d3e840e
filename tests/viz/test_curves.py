"""What the picture of a run draws: the numbers of its journal, read back from the axes."""

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("matplotlib")
from matplotlib import image
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from graphattn.training.folder import RunFolder, make_run_folder
from graphattn.viz import plot_training_curves, save_training_curves

ROOT = Path(__file__).resolve().parents[2]
STEPS_PER_EPOCH = 5
Make = Callable[..., Path]


def journal_lines(losses: list[Any], values: list[Any], metric: str) -> list[dict]:
    """Lines as training writes them: a loss per step, and the metric after the last step of each epoch."""
    lines: list[dict] = [
        {"step": step, "epoch": step // STEPS_PER_EPOCH, "train/loss": loss} for step, loss in enumerate(losses)
    ]
    for epoch, value in enumerate(values):
        lines.append({"step": STEPS_PER_EPOCH * (epoch + 1) - 1, "epoch": epoch, f"valid/{metric}": value})
    return sorted(lines, key=lambda line: line["step"])


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Makes the folder of a run from the numbers of its journal."""

    def make_run(
        losses: list[Any],
        values: list[Any],
        *,
        name: str = "run",
        data: str = "ogbg-molesol",
        metric: str = "rmse",
        seed: int = 0,
    ) -> Path:
        folder = make_run_folder(tmp_path / name)
        folder.config.write_text(f"data:\n  name: {json.dumps(data)}\nseed: {seed}\n")
        lines = journal_lines(losses, values, metric)
        folder.journal.write_text("".join(json.dumps(line) + "\n" for line in lines))
        folder.result.write_text("{}")
        return folder.path

    return make_run


def drawn(axes: Axes, label: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns x and y of the one line with a label."""
    (line,) = [line for line in axes.lines if str(line.get_label()).startswith(label)]
    return np.asarray(line.get_xdata(), dtype=float), np.asarray(line.get_ydata(), dtype=float)


def texts(axes: Axes) -> str:
    return " | ".join(text.get_text() for text in axes.texts)


def test_the_loss_is_drawn_per_step_and_as_mean_per_epoch(make: Make) -> None:
    losses = np.random.default_rng(0).random(3 * STEPS_PER_EPOCH)
    above, _ = plot_training_curves(make(losses.tolist(), [3.0, 2.0, 1.0]))
    x, y = drawn(above, "logged steps")
    np.testing.assert_allclose(x, np.arange(1, 16))  # after the first step, one step is done
    np.testing.assert_allclose(y, losses)
    x, y = drawn(above, "mean per epoch")
    np.testing.assert_allclose(x, [3, 8, 13])
    np.testing.assert_allclose(y, losses.reshape(3, STEPS_PER_EPOCH).mean(1))


@pytest.mark.parametrize(("metric", "epoch"), [("rmse", 2), ("rocauc", 1)])
def test_the_valid_metric_is_drawn_per_epoch_and_its_best_is_marked(make: Make, metric: str, epoch: int) -> None:
    values = [0.7, 0.9, 0.6, 0.6]  # the first of equals is the one that training keeps
    _, below = plot_training_curves(make([1.0] * 20, values, metric=metric))
    x, y = drawn(below, f"valid {metric}")
    np.testing.assert_allclose(x, [5, 10, 15, 20])
    np.testing.assert_allclose(y, values)
    x, y = drawn(below, "best")
    assert (x.tolist(), y.tolist()) == ([5.0 * (epoch + 1)], [values[epoch]])
    legend = below.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == [
        f"valid {metric}",
        f"best: {values[epoch]:.4f} (epoch {epoch + 1})",
    ]


def test_axes_say_what_they_measure(make: Make) -> None:
    above, below = plot_training_curves(make([1.0] * 10, [2.0, 1.0]))
    assert (above.get_ylabel(), below.get_ylabel()) == ("train loss", "valid rmse")
    assert below.get_xlabel() == "optimizer step"
    (top,) = above.child_axes
    above.figure.draw_without_rendering()  # type: ignore[union-attr]
    assert top.get_xlabel() == "epoch"
    np.testing.assert_allclose(np.array(top.get_xlim()) * STEPS_PER_EPOCH, above.get_xlim())


def test_seeds_are_thin_lines_and_their_mean_covers_the_epochs_they_share(make: Make) -> None:
    values = {0: [3.0, 2.0, 1.0], 3: [5.0, 4.0], 11: [1.0, 6.0, 2.0]}  # seed 3 stopped early
    for seed, of_seed in values.items():
        make([float(seed + 1)] * 5 * len(of_seed), of_seed, name=f"seeds/seed{seed}", seed=seed)
    folder = make([], [], name="elsewhere").parent / "seeds"
    above, below = plot_training_curves(folder)
    x, y = drawn(below, "mean of 3 seeds")
    np.testing.assert_allclose(x, [5, 10])
    np.testing.assert_allclose(y, [3.0, 4.0])
    np.testing.assert_allclose(drawn(above, "mean of 3 seeds")[1], [(1 + 4 + 12) / 3] * 2)
    thin = [line for line in below.lines if line.get_linestyle() != "None" and line.get_linewidth() < 1]
    assert [np.asarray(line.get_ydata()).tolist() for line in thin] == list(values.values())
    x, y = drawn(below, "best of each seed")
    assert (x.tolist(), y.tolist()) == ([15, 10, 5], [1, 4, 1])
    assert above.get_title(loc="left") == "ogbg-molesol, 3 seeds"
    legend = below.get_legend()
    assert legend is not None and len(legend.get_texts()) == 3


def test_what_is_not_finite_is_a_gap_and_a_value_between_gaps_is_a_dot(make: Make) -> None:
    run = make([4.0, None, 2.0, float("nan"), float("inf"), None, None, None, None, None], [None, 0.5, None, 0.7, 0.6])
    above, below = plot_training_curves(run)
    np.testing.assert_allclose(drawn(above, "logged steps")[1], [4, np.nan, 2] + [np.nan] * 7)
    np.testing.assert_allclose(drawn(above, "mean per epoch")[1], [3.0, np.nan])
    np.testing.assert_allclose(drawn(below, "best")[1], [0.5])
    (line,) = [line for line in below.lines if line.get_label() == "valid rmse"]
    assert (line.get_marker(), line.get_markevery()) == (".", [1])  # 0.7 and 0.6 are joined by a line


def test_a_run_that_has_only_begun_is_drawn_and_says_so(make: Make) -> None:
    run = make([3.0, 2.0], [])
    RunFolder(run).result.unlink()
    above, below = plot_training_curves(run)
    assert drawn(above, "logged steps")[1].tolist() == [3.0, 2.0]
    assert "no epoch is finished yet" in texts(below)
    assert above.get_title(loc="left") == "ogbg-molesol, seed 0, not finished"
    assert above.child_axes == []  # how many steps an epoch has is not known yet


@pytest.mark.parametrize("write", [lambda path: path.write_text(""), lambda path: path.unlink()], ids=["empty", "none"])
def test_a_run_without_a_line_is_an_empty_picture(make: Make, write: Callable[[Path], Any]) -> None:
    run = make([], [])
    write(RunFolder(run).journal)
    above, below = plot_training_curves(run)
    assert "no step is logged yet" in texts(above) and "no epoch is finished yet" in texts(below)
    assert save_training_curves(run).stat().st_size > 0


def test_one_epoch_and_one_step_are_visible(make: Make) -> None:
    above, below = plot_training_curves(make([2.0], [0.5]))
    for line in (*above.lines, below.lines[0]):
        assert (line.get_marker(), line.get_markevery()) == (".", [0])


def test_lines_that_were_cut_off_or_written_twice_do_no_harm(make: Make) -> None:
    run = make([3.0, 2.0], [])
    with open(RunFolder(run).journal, "a") as file:
        file.write('{"step": 2, "tr{"step": 3}\n{"step": 1, "epoch": 0, "train/loss": 1.5}\n{"step": 7, "train/lo')
    x, y = drawn(plot_training_curves(run)[0], "logged steps")
    assert (x.tolist(), y.tolist()) == ([1.0, 2.0], [3.0, 1.5])


def test_errors_that_fall_far_are_drawn_on_a_logarithmic_axis_and_scores_never(make: Make) -> None:
    far = [5.0, 2.0, 1.0]
    scales = [
        plot_training_curves(make([1.0], values, metric=metric))[1].get_yscale()
        for values, metric in ((far, "rmse"), ([1.2, 1.1, 1.0], "rmse"), ([5.0, 0.0, 1.0], "rmse"), (far, "rocauc"))
    ]
    assert scales == ["log", "linear", "linear", "linear"]


def test_a_name_with_dollars_is_text(make: Make) -> None:
    name = r"my_$\frac$.module:function"  # as mathematics this does not even parse
    run = make([1.0], [1.0], data=name)
    above, _ = plot_training_curves(run)
    assert above.get_title(loc="left") == f"{name}, seed 0"
    save_training_curves(run)
    longer = make([1.0], [1.0], data=f"{name}_{'x' * 97}")
    above, _ = plot_training_curves(longer)
    save_training_curves(longer)
    assert above.get_title(loc="left").replace("\n", "").startswith(name)
    assert max(map(len, above.get_title(loc="left").splitlines())) <= 64


def test_it_draws_on_given_axes_and_leaves_pyplot_alone(make: Make) -> None:
    run, figure = make([1.0], [1.0]), Figure()
    axes = figure.subplots(1, 2)
    assert all(one is other for one, other in zip(plot_training_curves(run, axes), axes))
    figure.savefig(io.BytesIO())
    probe = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); import graphattn; assert 'matplotlib' not in sys.modules; "
        f"graphattn.viz.save_training_curves({str(run)!r}); "
        "assert not {'matplotlib.pyplot', 'lightning', 'tkinter'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_picture_is_written_whole_in_the_format_of_its_name(make: Make, tmp_path: Path) -> None:
    run = make([2.0, 1.0], [1.0])
    path = save_training_curves(run)
    assert path == RunFolder(run).curve == run / "curve.png"
    pixels = image.imread(path)
    assert pixels.shape[:2] == (840, 1050)
    assert pixels[..., :3].std() > 0.05  # something is on it
    assert save_training_curves(run, tmp_path / "a.svg").read_text().startswith("<?xml")
    assert list(run.glob("*.part")) == []


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no run"):
        plot_training_curves(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="is not the folder of a run"):
        save_training_curves(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_without_matplotlib_it_says_what_to_install(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make([1.0], [1.0])
    for name in [name for name in sys.modules if name.startswith("matplotlib")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"pip install graphattn\[viz\]"):
        plot_training_curves(run)
