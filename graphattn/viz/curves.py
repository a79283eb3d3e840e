"""How training went: the loss over steps and the valid metric over epochs, of one run or of several seeds."""

from __future__ import annotations

import functools
import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from graphattn.data.task import LOWER_IS_BETTER
from graphattn.training.config import RunConfig, read_config
from graphattn.training.folder import RunFolder, read_journal
from graphattn.training.seeds import runs_in
from graphattn.viz.canvas import TEXT, new_figure, save_picture
from graphattn.viz.palette import BLACK, BLUE, ORANGE, SKY_BLUE, VERMILLION

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

LOG_FROM = 3.0  # an error that falls by this factor is drawn on a logarithmic axis, or its end would be a flat line


class Curve(NamedTuple):
    """Values over the course of a run, one point each, in order."""

    step: np.ndarray  # [num_points] float64, optimizer steps done when the value was known
    epoch: np.ndarray  # [num_points] int64, from 0
    value: np.ndarray  # [num_points] float64, NaN where the journal has null


def plot_training_curves(run: str | Path, axes: Sequence[Axes] | None = None) -> tuple[Axes, Axes]:
    """Draws the train loss and the valid metric of a run, finished or not, or of the seeds of a folder.

    One run: the loss of each logged step (thin), its mean per epoch, and the valid metric with its best epoch marked.
    Several: a thin line per seed, the mean over the epochs that all of them have, and the best epoch of each. A value
    that was not finite leaves a gap.

    Args:
        run: folder that `graphattn train` made, or a folder of seeds.
        axes: two of yours, for the loss and for the metric; None makes a figure of its own, unknown to pyplot.

    Returns:
        the two, over optimizer steps, with epochs along the top. `axes[0].figure.savefig(...)` writes the picture.

    Raises:
        FileNotFoundError: if the folder is no run; says what it seems to be.
        ImportError: if matplotlib is missing.

    >>> plot_training_curves("nowhere")
    Traceback (most recent call last):
    FileNotFoundError: there is no run nowhere. Pass a folder that `graphattn train` made.
    """
    folders = [RunFolder(path).checked() for path in runs_in(Path(run).expanduser())]
    journals = [read_journal(folder.journal) for folder in folders]
    configs = [read_config(folder.config) for folder in folders]
    logged = (key for lines in journals for line in lines for key in line)
    metric = next((key for key in logged if key.startswith("valid/")), "valid/metric")
    steps = [read_curve(lines, "train/loss") for lines in journals]
    losses = [per_epoch(curve) for curve in steps]
    values = [per_epoch(read_curve(lines, metric)) for lines in journals]

    above, below = _figure().axes if axes is None else axes
    _plot_losses(above, steps, losses)
    _plot_metrics(below, values, metric.removeprefix("valid/"))
    title = _title(configs, is_finished=all(folder.is_finished for folder in folders))
    above.set_title(title, loc="left", **TEXT)
    below.set_xlabel("optimizer step")
    is_empty = not any(curve.step.size for curve in (*steps, *values))
    for each in (above, below):
        each.grid(color="0.92")
        each.set_axisbelow(True)
        each.spines[["top", "right"]].set_visible(False)
        if is_empty:
            each.set_xticks([])
        else:
            each.set_xlim(left=0)
            _count(each.xaxis)
    _add_epochs(above, values)
    return above, below


def save_training_curves(run: str | Path, path: str | Path | None = None) -> Path:
    """Writes the picture of `plot_training_curves`, whole or not at all, and returns where it is.

    Args:
        run: as there.
        path: its ending says the format, .png, .svg or .pdf; None is `curve.png` in the folder.

    Raises:
        ValueError: if it ends otherwise.
        OSError: if the directory is not writable or the disk is full.
    """
    above, _ = plot_training_curves(run)
    return save_picture(above, RunFolder(Path(run).expanduser()).curve if path is None else path)


def read_curve(lines: Sequence[dict[str, Any]], key: str) -> Curve:
    """Returns the values of one key of a journal; the last one counts where a step has several.

    >>> read_curve([{"step": 4, "epoch": 0, "lr": 0.5}, {"step": 9, "epoch": 1, "lr": None}], "lr").value
    array([0.5, nan])
    """
    points = {line["step"]: (line.get("epoch") or 0, line[key]) for line in lines if key in line}
    order = sorted(points)
    return Curve(
        np.array(order, dtype=np.float64) + 1,  # the journal counts from 0
        np.array([points[step][0] for step in order], dtype=np.int64),
        np.array([_number(points[step][1]) for step in order], dtype=np.float64),
    )


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else math.nan


def per_epoch(curve: Curve) -> Curve:
    """Returns the mean of each epoch, at the mean of its steps; NaN counts only where an epoch has nothing else.

    >>> curve = Curve(np.array([1.0, 2.0, 3.0]), np.array([0, 0, 1]), np.array([5.0, 3.0, 2.0]))
    >>> per_epoch(curve).value
    array([4., 2.])
    """
    epochs = np.unique(curve.epoch)
    rows = [curve.epoch == epoch for epoch in epochs]
    finite = [curve.value[row][np.isfinite(curve.value[row])] for row in rows]
    return Curve(
        np.array([curve.step[row].mean() for row in rows], dtype=np.float64),
        epochs,
        np.array([each.mean() if each.size else math.nan for each in finite], dtype=np.float64),
    )


def mean_of(curves: Sequence[Curve]) -> Curve:
    """Returns the mean over runs, in the epochs that all of them have: a run that ended must not move it by its end.

    Runs without a single point are left out. An epoch in which one of the others is NaN is NaN.
    """
    begun = [curve for curve in curves if curve.epoch.size]
    if not begun:
        return Curve(np.empty(0), np.empty(0, dtype=np.int64), np.empty(0))
    shared = functools.reduce(np.intersect1d, [curve.epoch for curve in begun])
    rows = [np.isin(curve.epoch, shared) for curve in begun]
    value = np.mean([curve.value[row] for curve, row in zip(begun, rows)], axis=0)
    return Curve(begun[0].step[rows[0]], shared, value)


def best_of(curve: Curve, metric: str) -> int | None:
    """Returns the position of the best value, the first of equals, as training keeps it; None if all are NaN."""
    if not np.isfinite(curve.value).any():
        return None
    return int(np.nanargmin(curve.value) if metric in LOWER_IS_BETTER else np.nanargmax(curve.value))


def _figure() -> Figure:
    figure = new_figure(7.0, 5.6)
    figure.set_layout_engine("constrained")
    figure.subplots(2, 1, sharex=True)
    return figure


def _plot_losses(axes: Axes, steps: Sequence[Curve], epochs: Sequence[Curve]) -> None:
    if len(steps) == 1:
        _line(axes, steps[0], "logged steps", color=SKY_BLUE, linewidth=0.8, alpha=0.7)
        _line(axes, epochs[0], "mean per epoch", color=BLUE, linewidth=2.0)
    else:
        _lines(axes, epochs, light=SKY_BLUE, strong=BLUE)
    axes.set_ylabel("train loss")
    _finish(axes, steps if len(steps) == 1 else epochs, "no step is logged yet", is_error=True)


def _plot_metrics(axes: Axes, curves: Sequence[Curve], metric: str) -> None:
    if len(curves) == 1:
        _line(axes, curves[0], f"valid {metric}", color=VERMILLION, linewidth=2.0)
    else:
        _lines(axes, curves, light=ORANGE, strong=VERMILLION)
    best = [(curve, at) for curve in curves if (at := best_of(curve, metric)) is not None]
    if best:
        x, y = zip(*((curve.step[at], curve.value[at]) for curve, at in best))
        curve, at = best[0]
        label = f"best: {y[0]:.4f} (epoch {curve.epoch[at] + 1})" if len(curves) == 1 else "best of each seed"
        ring: dict[str, Any] = {"marker": "o", "markersize": 6, "markerfacecolor": "white", "markeredgecolor": BLACK}
        axes.plot(x, y, label=label, linestyle="none", zorder=3, **ring)
    axes.set_ylabel(f"valid {metric}", **TEXT)
    _finish(axes, curves, "no epoch is finished yet", is_error=metric in LOWER_IS_BETTER)


def _lines(axes: Axes, curves: Sequence[Curve], light: str, strong: str) -> None:
    """Draws a thin line per seed and their mean."""
    for number, curve in enumerate(curves):
        _line(axes, curve, "_" if number else "each seed", color=light, linewidth=0.8, alpha=0.7)
    begun = sum(bool(curve.step.size) for curve in curves)
    _line(axes, mean_of(curves), f"mean of {begun} seeds", color=strong, linewidth=2.0)


def _line(axes: Axes, curve: Curve, label: str, **style: Any) -> None:
    """Draws a line that NaN breaks, and a dot where a value has no neighbour to be joined with."""
    known = np.pad(np.isfinite(curve.value), 1)
    alone = np.flatnonzero(known[1:-1] & ~known[:-2] & ~known[2:])
    dots: dict[str, Any] = {"marker": ".", "markersize": 6, "markevery": alone.tolist()} if alone.size else {}
    axes.plot(curve.step, curve.value, label=label, **dots, **style)


def _finish(axes: Axes, curves: Sequence[Curve], otherwise: str, is_error: bool) -> None:
    """Adds the legend, in the corner that curves leave, and the scale; or says what is not there yet."""
    drawn = np.concatenate([curve.value for curve in curves])
    drawn = drawn[np.isfinite(drawn)]
    if not drawn.size:
        axes.text(0.5, 0.5, otherwise, transform=axes.transAxes, ha="center", va="center", color="0.4")
        axes.set_yticks([])
        return
    axes.legend(loc="upper right" if is_error else "lower right", frameon=False, fontsize="small")
    if is_error and drawn.min() > 0 and (factor := drawn.max() / drawn.min()) >= LOG_FROM:
        from matplotlib.ticker import LogLocator, NullFormatter

        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if factor > 10 else (1, 1.5, 2, 3, 5, 7)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())


def _count(axis: Axis) -> None:
    """Puts ticks at whole numbers only: there is no half of a step, or of an epoch."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))


def _add_epochs(axes: Axes, curves: Sequence[Curve]) -> None:
    """Adds the scale of epochs along the top, once one has ended and its steps are known."""
    ended = [(curve.step[-1], curve.epoch[-1] + 1) for curve in curves if curve.step.size]
    if ended:
        steps, epochs = max(ended)
        steps_per_epoch = steps / epochs
        top = axes.secondary_xaxis("top", functions=(lambda x: x / steps_per_epoch, lambda x: x * steps_per_epoch))
        top.set_xlabel("epoch")
        _count(top.xaxis)


def _title(configs: Sequence[RunConfig], is_finished: bool) -> str:
    name, seeds = configs[0].data.name, len(configs)
    text = f"{name}, seed {configs[0].seed}" if seeds == 1 else f"{name}, {seeds} seeds"
    text = text if is_finished else f"{text}, not finished"
    return textwrap.fill(text, 64)  # characters; matplotlib's own wrapping would read a $ as mathematics
