"""The picture of benchmarks/attention.py: how many times as long each peer takes, beside the bar and the aim."""

from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

# Okabe and Ito 2008: told apart under every common colour blindness; lightness and hatching say the same once more
BLUE, SKY_BLUE, VERMILLION, BLACK = "#0072B2", "#56B4E9", "#D55E00", "#000000"
CURVES = (BLACK, BLUE, VERMILLION, "#009E73", "#CC79A7")
STYLES = ("-", "--", "-", "-.", ":")
OURS = {"auto", "dense", "gather", "blocks", "fused", "sdpa", "GraphAttention layer"}
ROW_INCHES = 0.24


def draw_attention(rows: list[dict], record: dict, paths: list[Path]) -> None:
    """Draws a bar for each peer of each case and writes the picture to every path, in the format of its suffix."""
    groups: dict[str, list[dict]] = {}
    for row in rows:
        if row["contender"] not in OURS:
            groups.setdefault(f"{row['case']}\n{row['num_edges']:,} edges, {row['heads']}", []).append(row)
    heights = [len(group) for group in groups.values()]
    figure = Figure(figsize=(9, ROW_INCHES * (sum(heights) + 1.2 * len(heights)) + 1.4), layout="constrained")
    panels = figure.subplots(len(groups), 1, sharex=True, height_ratios=heights, squeeze=False)[:, 0]
    for panel, (title, group) in zip(panels, groups.items(), strict=True):
        for place, row in enumerate(group):
            ratio, (low, high) = row["forward+backward_ratio"], row["forward+backward_ratio_spread"]
            is_yardstick = row["is_yardstick"]
            panel.barh(
                place,
                ratio,
                height=0.7,
                color=SKY_BLUE if is_yardstick else BLUE,
                hatch="////" if is_yardstick else None,
                edgecolor="white",
                linewidth=0,
            )
            panel.plot([low, high], [place, place], color=BLACK, linewidth=1)
            if "bar" in row:
                panel.plot([row["bar"]] * 2, [place - 0.45, place + 0.45], color=BLACK, linewidth=2.5)
                panel.plot(row["aim"], place, "D", color="white", markeredgecolor=VERMILLION, markersize=6)
            farthest = max(ratio, high, row.get("aim", 0))
            panel.text(farthest * 1.12, place, f"{ratio:.3g}×", va="center", fontsize=9)
        panel.set_yticks(range(len(group)), [row["contender"] for row in group], fontsize=9)
        panel.set_ylim(len(group) - 0.4, -0.6)
        panel.set_ylabel(title, rotation=0, ha="right", va="center", fontsize=9, labelpad=8)
        panel.axvline(1, color=BLACK, linewidth=0.8)
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(axis="x", color="0.88", linewidth=0.8)
        panel.set_axisbelow(True)
    shown = [row for group in groups.values() for row in group]
    furthest = max(max(row["forward+backward_ratio_spread"][1], row.get("aim", 0)) for row in shown)
    panels[0].set_xscale("log")
    panels[0].set_xlim(min(0.5, *(row["forward+backward_ratio_spread"][0] for row in shown)) * 0.9, furthest * 2)
    panels[-1].xaxis.set_major_formatter(lambda value, _: f"{value:g}×")
    panels[-1].set_xlabel("forward and backward, times as long as graphattn's (layers: as our layer's)", fontsize=9)
    handles = [
        Patch(color=BLUE, label="the same function"),
        Patch(facecolor=SKY_BLUE, hatch="////", edgecolor="white", linewidth=0, label="another function, a yardstick"),
        Line2D([], [], color=BLACK, linewidth=1, label="least and largest of the rounds"),
        Line2D([], [], color=BLACK, linewidth=2.5, marker="|", markersize=10, linestyle="", label="bar"),
        Line2D([], [], color="white", marker="D", markeredgecolor=VERMILLION, linestyle="", label="aim"),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=5, frameon=False, fontsize=9)
    figure.supxlabel(
        f"{record['date']}, commit {record['commit']}, {record['device']}, float32", fontsize=8, color="0.35"
    )
    with matplotlib.rc_context({"svg.hashsalt": "attention"}):  # the same record makes the same file
        for path in paths:
            metadata = {"Date": None} if path.suffix == ".svg" else None
            figure.savefig(path, dpi=150, metadata=metadata)


def draw_curves(rows: list[dict], path: Path) -> None:
    """Draws the training loss of each score over the epochs, with the range over seeds, and writes the picture."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    panel = figure.subplots()
    for row, color, style in zip(rows, CURVES, STYLES, strict=False):
        epochs = range(1, len(row["loss"]) + 1)
        low, high = zip(*row["loss_spread"], strict=True)
        panel.plot(epochs, row["loss"], color=color, linestyle=style, label=row["score"])
        panel.fill_between(epochs, low, high, color=color, alpha=0.12, linewidth=0)
    panel.set(yscale="log", xlabel="epoch", ylabel="training loss")
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(frameon=False, fontsize="small")
    with matplotlib.rc_context({"svg.hashsalt": "curves"}):
        figure.savefig(path, metadata={"Date": None})
