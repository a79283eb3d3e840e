"""Writes BENCHMARKS.md from the JSON files in benchmarks/results/.

    python benchmarks/report.py

Each figure there carries date, versions, device and the command that made it; this script adds none of its own.
"""

import json
import statistics
from pathlib import Path

ROOT = Path(__file__).parent.parent
HEAD = """# Benchmarks

Every figure was measured by a command in this repository; `python benchmarks/report.py` writes this page from
`benchmarks/results/`. Machines are noisy: read ratios and spreads, not milliseconds.
"""


def short(milliseconds: float) -> str:
    """Returns three digits, or whole milliseconds above a thousand."""
    return f"{milliseconds:,.0f}" if milliseconds >= 1000 else f"{milliseconds:.3g}"


def attention_table(rows: list[dict]) -> list[str]:
    """Explains and lists what benchmarks/attention.py measured."""
    lines = [
        "float32. Median ms (minimum–maximum) of interleaved rounds, ratio to `fused` round by round, and the resident",
        "memory that one forward and backward adds. Each contender first equals the specification in output and",
        "gradients, except dense SDPA, which computes all pairs and is a yardstick.",
        "",
        "| case | edges | heads | contender | forward ms | forward+backward ms | over fused | peak MiB |",
        "|---|---:|---|---|---:|---:|---:|---:|",
    ]
    for row in rows:
        timed = []
        for key in ("forward", "forward+backward"):
            low, high = row[f"{key}_spread"]
            timed.append(f"{short(row[f'{key}_ms'])} ({short(low)}–{short(high)})")
        ratio = f"{row['forward+backward_over_fused']:.2f}×"
        cells = [row["case"], f"{row['num_edges']:,}", row["heads"], row["contender"], *timed, ratio]
        lines.append(f"| {' | '.join(cells)} | {row['peak_mib']:.0f} |")
    return lines


def cold_start_table(rows: list[dict]) -> list[str]:
    """Explains and lists what benchmarks/cold_start.py measured."""
    lines = [
        "Median seconds (minimum–maximum) over fresh processes: what `import graphattn` adds to `import torch`, and",
        "the first fused float32 forward and backward with an empty and with a filled disk cache, Numba's import",
        "included.",
        "",
        "| figure | seconds |",
        "|---|---:|",
    ]
    return lines + [f"| {r['figure']} | {r['seconds']:.2f} ({r['spread'][0]:.2f}–{r['spread'][1]:.2f}) |" for r in rows]


def exactness_table(rows: list[dict]) -> list[str]:
    """Explains and lists what benchmarks/exactness.py measured."""
    row = rows[0]
    ratios = ", ".join(f"{impl} {row[impl]:.2f}" for impl in ("scatter", "blocks", "fused"))
    return [
        f"{row['graphs']:,} random graphs with random arguments: {row['comparisons']:,} comparisons of outputs,",
        "log-sum-exps and gradients with the specification in float64. Worst difference",
        f"{row['worst']:.2g} ({row['where']}); the bar is 1e-10. Mean float32 error over that of the specification",
        f"in float32: {ratios}; the bar is 2.",
    ]


def training_step_table(rows: list[dict]) -> list[str]:
    """Explains and lists what benchmarks/training_step.py measured."""
    lines = [
        "Collated batch → zero_grad, forward, loss, backward, clip, AdamW; float32. Median ms (minimum–maximum) of",
        "interleaved rounds, ratio round by round, and the resident memory that one step adds. The model around",
        "TransformerConv first equals ours in output and gradients (float64, 1e-10) and has edge features where ours",
        "without bias has them; GPSConv attends over all nodes of a molecule and is another function.",
        "",
        "| data, batch | model | our edges | contender | parameters | step ms | over ours | peak MiB |",
        "|---|---|---|---|---:|---:|---:|---:|",
    ]
    for row in rows:
        low, high = row["step_spread"]
        timed = f"{short(row['step_ms'])} ({short(low)}–{short(high)})"
        ratio = f"{row['ratio']:.2f}×" if row["compared_with"] else ""
        edges = row["edges"].replace(" | ", ", ")  # a bar would end the cell
        cells = [f"{row['dataset']}, {row['batch_size']}", row["model"], edges, row["contender"]]
        cells += [f"{row['num_parameters']:,}", timed, ratio, f"{row['peak_mib']:.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def molecules_table(rows: list[dict]) -> list[str]:
    """Explains and lists what benchmarks/molecules.py measured."""
    lines = [
        "Official scaffold splits and evaluator, one trainer, one random search of as many trials in the same space",
        "for each model, whose best two trials were run from three seeds; configuration and epoch are chosen on the",
        "valid split. Mean ± unbiased standard deviation over seeds. GIN has a virtual node; beside it what tables of",
        "other papers quote for it from Hu et al. 2020.",
        "",
        "| data | metric | model | test | valid | seeds | parameters | search: runs × epochs | GIN as published |",
        "|---|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        valid = statistics.fmean(row["valid"]), statistics.stdev(row["valid"])
        cells = [
            row["set"],
            row["metric"],
            row["model"],
            f"{row['mean']:.3f} ± {row['std']:.3f}",
            "{:.3f} ± {:.3f}".format(*valid),
            str(len(row["seeds"])),
            f"{row['num_parameters']:,}",
            f"{row['search_runs']} × {row['max_epochs']}",
            _published(*row["published_gin"]) if row["model"] == "GIN" else "",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    if commits := sorted({commit for row in rows for commit in row["commits"]}):
        lines += ["", f"Trained at commit {', '.join(commits)}."]
    lines += [
        "",
        "What the searches chose; a model that is not named kept its usual configuration:",
        "",
    ]
    for row in rows:
        if row["chosen"]:
            settings = ", ".join(f"{key.rpartition('.')[2]} {value}" for key, value in row["chosen"].items())
            lines.append(f"- {row['set']}, {row['model']}: {settings}")
    return lines


def _published(mean: float, std: float | None) -> str:
    return f"{mean:.3f}" if std is None else f"{mean:.3f} ± {std:.3f}"


def molhiv_table(rows: list[dict]) -> list[str]:
    """Says what benchmarks/molhiv.py measured."""
    (row,) = rows
    lines = [f"ROC-AUC, official scaffold split and evaluator, {row['num_parameters']:,} parameters.", ""]
    for number, seed in enumerate(row["seeds"]):
        lines.append(
            f"- seed {seed}: test {row['test'][number]:.4f}, valid {row['valid'][number]:.4f} at epoch "
            f"{row['best_epoch'][number]} of {row['num_epochs'][number]}, {row['minutes'][number]:.0f} minutes"
        )
    if row["std"] is not None:
        lines.append(f"- mean of {len(row['seeds'])} seeds: {row['mean']:.4f} ± {row['std']:.4f}")
    if row["commits"]:
        lines += ["", f"Trained at commit {', '.join(row['commits'])}."]
    if row["differs"]:
        lines += [
            "",
            f"Not a figure of the official ogbg-molhiv: {' and '.join(row['differs'])} were rebuilt",
            "and differ from the official files; `graphattn data card ogbg-molhiv` says how.",
        ]
    return lines


TABLES = {
    "attention": attention_table,
    "cold_start": cold_start_table,
    "exactness": exactness_table,
    "molecules": molecules_table,
    "molhiv": molhiv_table,
    "training_step": training_step_table,
}


def section(record: dict) -> str:
    """Returns one benchmark's heading, what made it, and its table."""
    versions = ", ".join(
        f"{name.replace('_', '-')} {record[name] or 'not installed'}"
        for name in ("python", "torch", "torch_geometric", "torch_scatter", "numba")
    )
    made_by = [
        f"## {record['benchmark']}",
        "",
        f"{record['date']}, commit {record['commit']}, {record['device']}; {versions}.",
        "",
        f"    {record['command']}",
        "",
    ]
    if note := record.get("note"):  # what the command does not say of how the figures came about
        made_by += [note, ""]
    return "\n".join(made_by + TABLES[record["benchmark"]](record["rows"])) + "\n"


def main() -> None:
    records = [json.loads(path.read_text()) for path in sorted((ROOT / "benchmarks" / "results").glob("*.json"))]
    (ROOT / "BENCHMARKS.md").write_text("\n".join([HEAD, *map(section, records)]))


if __name__ == "__main__":
    main()
