"""Writes BENCHMARKS.md from the JSON files in benchmarks/results/, and draws the picture of one of them.

    python benchmarks/report.py

Each figure there carries date, versions, device and the command that made it; this script adds none of its own.
"""

import argparse
import json
import math
import statistics
from pathlib import Path

from plots import draw_attention

ROOT = Path(__file__).parent.parent
PICTURE = "benchmarks/results/attention.svg"
HEAD = """# Benchmarks

Every figure was measured by a command in this repository; `python benchmarks/report.py` writes this page from
`benchmarks/results/`. Machines are noisy: read ratios and spreads, not milliseconds.
"""
GPU_NOT_MEASURED = (
    "## gpu",
    "",
    "Figures on a GPU are not measured yet. `make gpu` measures them on a machine that has one, in nine minutes, and",
    "`python benchmarks/report.py` then writes them here.",
    "",
)


def short(milliseconds: float) -> str:
    """Returns three digits, or whole milliseconds above a thousand."""
    return f"{milliseconds:,.0f}" if milliseconds >= 1000 else f"{milliseconds:.3g}"


def timed(milliseconds: float, spread: list[float]) -> str:
    """Returns the median and, in brackets, the least and the largest."""
    return f"{short(milliseconds)} ({short(spread[0])}–{short(spread[1])})"


def attention_table(rows: list[dict]) -> list[str]:
    """Explains and lists what benchmarks/attention.py measured."""
    lines = [
        f"![Time of each peer as a multiple of graphattn's]({PICTURE})",
        "",
        "float32. Median ms (minimum–maximum) of interleaved rounds, ratio to `auto` (of a layer: to our layer) round",
        "by round, and the resident memory that one forward and backward adds. Each contender first equals the",
        "specification in output and gradients, except those marked *, which are another function and a yardstick.",
        "benchmarks/contenders.py says what each one is.",
        "",
        "| case | edges | heads | contender | forward ms | forward+backward ms | ratio | bar | aim | peak MiB |",
        "|---|---:|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        name = row["contender"] + ("\\*" if row["is_yardstick"] else "")
        name += f" → {row['chosen']}" if "chosen" in row else ""
        cells = [row["case"], f"{row['num_edges']:,}", row["heads"], name]
        cells += [timed(row[f"{key}_ms"], row[f"{key}_spread"]) for key in ("forward", "forward+backward")]
        cells.append(f"{row['forward+backward_ratio']:.2f}×")
        cells += [f"≥ {row['bar']:g}×", f"{row['aim']:g}×"] if "bar" in row else ["", ""]
        lines.append(f"| {' | '.join(cells)} | {row['peak_mib']:.0f} |")
    notes = []
    for row in rows:
        if "sgemm_share" in row:
            bar = f"; bar {row['sgemm_bar']:.0%}, aim {row['sgemm_aim']:.0%}" if "sgemm_bar" in row else ""
            notes.append(
                f"- {row['case']}: the forward runs at {row['gflops']:.0f} GFLOP/s, {row['sgemm_share']:.0%} of the "
                f"{row['sgemm_gflops']:.0f} of torch.mm beside it{bar}."
            )
        if "memory_bar" in row:
            notes.append(
                f"- {row['case']}: {row['contender']} takes {row['memory_ratio']:.2f} times the memory of `auto`; bar "
                f"{row['memory_bar']:g}."
            )
    return lines + (["", *notes] if notes else [])


def terms_table(rows: list[dict]) -> list[str]:
    """Explains and lists what benchmarks/terms.py measured."""
    lines = [
        f'impl="auto", forward with backward, float32, edge features of width {rows[0]["edge_dim"]}; bias and gate of',
        "every edge and head, or of every type and head. Median ms (minimum–maximum), ratio to the plain form round by",
        "round (bar: at most 1.6), what it would be if the terms cost no more than a large copy of them (read twice,",
        f"their gradients written once, at {rows[0]['copy_gb_per_s']:.0f} GB/s), and the peak of resident memory",
        "beyond the output and the gradients.",
        "",
        "| case | form | runs as | ms | over plain | if moved | beyond MiB | numbers per node, head | per edge, head |",
        "|---|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        cells = [row["case"], row["form"], row["chosen"], timed(row["ms"], row["spread"]), f"{row['ratio']:.2f}×"]
        cells += [f"{row['moved_ratio']:.2f}×", f"{row['beyond_mib']:.1f}", f"{row['numbers_per_node_head']:.1f}"]
        lines.append(f"| {' | '.join(cells)} | {row['numbers_per_edge_head']:.2f} |")
    return lines


def weights_table(rows: list[dict]) -> list[str]:
    """Explains and lists what benchmarks/weights.py measured."""
    lines = [
        'impl="auto", forward without gradients, float32. Median ms (minimum–maximum), ratio to the output alone round',
        "by round, and the resident memory that a call adds.",
        "",
        "| case | what | ms | over output | bar | peak MiB |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for row in rows:
        bar = f"≤ {row['bar']:g}×" if row["bar"] else ""
        cells = [row["case"], row["what"], timed(row["ms"], row["spread"]), f"{row['ratio']:.2f}×", bar]
        lines.append(f"| {' | '.join(cells)} | {row['peak_mib']:.0f} |")
    return lines


def scaling_table(rows: list[dict]) -> list[str]:
    """Explains and lists what benchmarks/scaling.py measured."""
    lines = [
        'impl="auto", 33 keys, forward with backward, float32. Median ms (minimum–maximum) and the resident memory',
        "that a call adds; of the million tokens, a training step and the peak of the whole process.",
        "",
        "| graph | nodes | edges | heads | ms | ns per edge and head | peak MiB |",
        "|---|---:|---:|---|---:|---:|---:|",
    ]
    for row in rows:
        cells = [row["kind"], f"{row['num_nodes']:,}", f"{row['num_edges']:,}", row["heads"]]
        cells += [timed(row["ms"], row["spread"]), f"{row['ns_per_edge_head']:.1f}"]
        lines.append(f"| {' | '.join(cells)} | {row['peak_mib']:,.0f} |")
    fitted = {row["kind"]: row["exponent"] for row in rows if "exponent" in row}
    powers = ", ".join(f"{kind} {power:.3f}" for kind, power in fitted.items())
    lines += ["", f"Time grows with edges to the power: {powers}; 1 is linear."]
    for row in rows:
        if "bar_gib" in row:
            lines.append(
                f"{row['num_nodes']:,} tokens train within {row['peak_mib'] / 1024:.2f} GiB; bar {row['bar_gib']:g}, "
                f"aim {row['aim_gib']:g}."
            )
    return lines


def grid_table(rows: list[dict]) -> list[str]:
    """Explains and lists what benchmarks/grid.py measured, a table for each kind of graph."""
    mean = math.exp(statistics.fmean(math.log(row["ratio"]) for row in rows))
    worst = max(rows, key=lambda row: row["ratio"])
    outside = [row for row in rows if not row["is_within"]]
    lines = [
        f"Forward with backward, {rows[0]['heads']}, float32: the ratio of `auto` to the fastest of all",
        "implementations and peers at each point, and what was fastest; in brackets what `auto` took where that is",
        "another. benchmarks/grid.py says what is not run because it cannot win.",
        "",
        f"Geometric mean {mean:.3f} (bar 1.1, aim 1.03); largest {worst['ratio']:.2f}× ({worst['kind']}, "
        f"{worst['num_nodes']:,} nodes, {worst['degree']:,} keys: {short(worst['auto_ms'])} against "
        f"{short(worst['best_ms'])} ms). {len(rows) - len(outside)} of {len(rows)} points are within 1.25× or 150 µs.",
    ]
    for kind in dict.fromkeys(row["kind"] for row in rows):
        of_kind = {(row["num_nodes"], row["degree"]): row for row in rows if row["kind"] == kind}
        degrees = sorted({degree for _, degree in of_kind})
        lines += ["", f"| {kind}: nodes | " + " | ".join(f"{degree:,} keys" for degree in degrees) + " |"]
        lines.append("|---:|" + "---|" * len(degrees))
        for num_nodes in sorted({num_nodes for num_nodes, _ in of_kind}):
            cells = [_grid_cell(of_kind.get((num_nodes, degree))) for degree in degrees]
            lines.append(f"| {num_nodes:,} | {' | '.join(cells)} |")
    return lines


def _grid_cell(row: dict | None) -> str:
    if row is None:
        return ""
    took = "" if row["chosen"] == row["best"] else f" ({row['chosen']})"
    text = f"{row['ratio']:.2f} {row['best']}{took}"
    return text if row["is_within"] else f"**{text}**"


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


def masks_table(rows: list[dict]) -> list[str]:
    """Explains and lists what benchmarks/masks.py measured."""
    lines = [
        "Median ms (minimum–maximum) and the resident memory that a call adds. BlockMasks first equal those of",
        "create_block_mask, and operations those of dense masks, at a small size.",
        "",
        "| case | what | ms | bar | peak MiB | bar |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for row in rows:
        bars = [f"≤ {row[f'bar_{unit}']:,g}" if row[f"bar_{unit}"] else "" for unit in ("ms", "mib")]
        cells = [row["case"], row["what"], timed(row["ms"], row["spread"]), bars[0], f"{row['peak_mib']:,.0f}", bars[1]]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


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
        ratio = f"{row['ratio']:.2f}×" if row["compared_with"] else ""
        edges = row["edges"].replace(" | ", ", ")  # a bar would end the cell
        cells = [f"{row['dataset']}, {row['batch_size']}", row["model"], edges, row["contender"]]
        cells += [
            f"{row['num_parameters']:,}",
            timed(row["step_ms"], row["step_spread"]),
            ratio,
            f"{row['peak_mib']:.0f}",
        ]
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


def pathways_table(rows: list[dict]) -> list[str]:
    """Explains and lists what benchmarks/pathways.py measured."""
    lines = [
        "12 layers of 512 tokens, 8 keys, 12 heads. Median ms (minimum–maximum) and the resident memory that a call",
        "adds. Rollout first equals the product of dense matrices at a small size, flows those of networkx within the",
        "rounding that they state, influence and strongest paths those of a list of all paths. Peers are marked *.",
        "",
        "| case | what | ms | bar | peak MiB |",
        "|---|---|---:|---:|---:|",
    ]
    for row in rows:
        bar = f"≤ {row['bar_ms']:,g}" if row["bar_ms"] else ""
        cells = [row["case"], row["what"] + ("\\*" if row["is_peer"] else ""), timed(row["ms"], row["spread"]), bar]
        lines.append(f"| {' | '.join(cells)} | {row['peak_mib']:,.0f} |")
    return lines


def gpu_section(record: dict | None) -> str:
    """Returns what `make gpu` found, part by part, or that nobody has run it."""
    if record is None or record["is_rehearsal"]:
        return "\n".join(GPU_NOT_MEASURED)
    lines = _heading(record)
    for part in record["parts"]:
        told = part["status"]
        if "passed" in part:
            told += f": {part['passed']} passed, {part['skipped']} skipped, {len(part['failed'])} failed"
        elif "summary" in part:
            told += f": {part['summary']}"
        lines.append(f"- {part['name']}: {told}")
        lines += [f"  - failed: `{test}`" for test in part.get("failed", [])]
    rows = {part["name"]: part["rows"] for part in record["parts"] if "rows" in part}
    if compared := [row for of_part in rows.values() for row in of_part if "contender" in row]:
        lines += ["", *_gpu_attention_table(compared)]
    if "training" in rows:
        lines += ["", *_gpu_training_table(rows["training"])]
    if "calibration" in rows:
        lines += ["", *_gpu_constants(rows["calibration"][0])]
    return "\n".join(lines) + "\n"


def _gpu_attention_table(rows: list[dict]) -> list[str]:
    lines = [
        f"{rows[0]['dtype']}. Median ms (minimum–maximum) by CUDA events, the L2 cache swept before each call; ratio",
        "to `fused` round by round; allocated memory that one forward and backward adds; the largest error of output",
        "and gradients, as a share of their norm, against float32. Those marked * are another function, a yardstick.",
        "benchmarks/attention_cuda.py, cuda_cases.py and cuda_contenders.py say what each is.",
        "",
        "| case | edges | heads | contender | forward ms | forward+backward ms | ratio | bar | peak MiB | error |",
        "|---|---:|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        name = row["contender"] + ("\\*" if row.get("is_yardstick") else "")
        cells = [row["what"], f"{row['num_edges']:,}", row["heads"], name]
        if "forward_ms" in row:
            cells += [timed(row[f"{key}_ms"], row[f"{key}_spread"]) for key in ("forward", "forward+backward")]
        else:
            reason = row.get("failed", "stopped before it was timed").splitlines()[0].replace("|", "/")
            cells += [reason, ""]
        cells.append(f"{row['forward+backward_ratio']:.2f}×" if "forward+backward_ratio" in row else "")
        cells.append(f"≥ {row['bar']:.3g}×" if "bar" in row else "")
        cells.append(f"{row['peak_mib']:,.0f}" if "peak_mib" in row else "")
        cells.append(f"{row['error']:.1e}" if "error" in row else "")
        lines.append(f"| {' | '.join(cells)} |")
    notes = []
    for row in rows:
        if "forward+backward_floor_share" in row:
            bar = f"; bar {row['floor_bar']:.0%}" if "floor_bar" in row else ""
            notes.append(
                f"- {row['what']}: {row['forward_floor_share']:.0%} of the memory floor forward "
                f"({short(row['forward_floor_ms'])} ms), {row['forward+backward_floor_share']:.0%} with backward "
                f"({short(row['forward+backward_floor_ms'])} ms){bar}."
            )
    if notes:
        rate = statistics.median(row["copy_gb_per_s"] for row in rows if "copy_gb_per_s" in row)
        lines += ["", f"The floor: each byte that comes or goes, once, at the {rate:,.0f} GB/s of a large copy.", ""]
    return lines + notes


def _gpu_training_table(rows: list[dict]) -> list[str]:
    lines = [
        "Training of a small graph transformer, float32: mean loss of the first and of the last epoch, and a step.",
        "",
        "| data, batch | attention | epochs | loss | step ms | peak MiB |",
        "|---|---|---:|---|---:|---:|",
    ]
    for row in rows:
        loss = f"{row['losses'][0]:.3f} → {row['losses'][-1]:.3f}"
        cells = [f"{row['dataset']}, {row['batch_size']}", row["impl"], str(len(row["losses"])), loss]
        cells += [timed(row["step_ms"], row["step_spread"]), f"{row['peak_mib']:.0f}" if "peak_mib" in row else ""]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _gpu_constants(row: dict) -> list[str]:
    lines = [
        f"Constants of the cost model on {row['device']}, from {row['num_measured']} measurements;",
        "graphattn/ops/_costs.py says what they stand for.",
        "",
        "| implementation | constants | off by, median | at worst |",
        "|---|---|---:|---:|",
    ]
    for impl, costs in row["costs"].items():
        constants = ", ".join(f"{name} {value:.3g}" for name, value in costs.items())
        median, worst = row["off"][impl]
        lines.append(f"| {impl} | {constants} | {median:.2f}× | {worst:.1f}× |")
    verdicts = [f"{impl} {'was right' if right else 'was wrong'}" for impl, right in row.get("proved", {}).items()]
    if verdicts:
        lines += ["", f"Held against `dense` before that: {', '.join(verdicts)}."]
    return lines


def recording_table(rows: list[dict]) -> list[str]:
    """Explains and lists what benchmarks/recording.py measured."""
    lines = [
        "12 layers of 12 heads over 512 tokens, forward without gradients, float32. Median ms (minimum–maximum) of",
        "the plain and of the recorded forward in turn, ratio round by round, and the size of the saved record.",
        "Outputs are the same bits, weights first equal those of `scatter`.",
        "",
        "| layers | head_dim | edges | plain ms | recorded ms | ratio | bar | MB on disk | bar |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    notes = []
    for row in rows:
        if "peak_mib" in row:
            notes.append(
                f"All 512 × 512 pairs, head_dim {row['head_dim']}, the {row['top_edges']} strongest edges of each "
                f"target and head kept: the process peaks at {row['peak_mib']:.0f} MiB (bar {row['peak_bar']:,.0f}), "
                f"the recorded forward adds {row['added_mib']:.0f}; {row['num_edges']:,} edges are kept, with "
                f"{row['mean_kept']:.1%} of the weight."
            )
            continue
        cells = [row["case"], f"{row['head_dim']}", f"{row['num_edges']:,}"]
        cells += [timed(row[f"{name}_ms"], row[f"{name}_spread"]) for name in ("plain", "recorded")]
        cells += [f"{row['ratio']:.2f}×", f"≤ {row['ratio_bar']:g}×" if "ratio_bar" in row else ""]
        lines.append(f"| {' | '.join(cells)} | {row['mb']:.1f} | ≤ {row['mb_bar']:g} |")
    return [*lines, "", *notes]


def topk_table(rows: list[dict]) -> list[str]:
    """Explains and lists what benchmarks/topk.py measured, rows and edges apart."""
    lines = [
        "k of n rows by random scores, forward with backward, float32. Median ms (minimum–maximum), ratio to",
        "successive halving round by round, and the mean cosine of a soft operator's rows to those of the hard one.",
        "The iterative relaxation is k softmaxes one after the other; in one pass it is `ops.iterative_topk`, which",
        "it first equals.",
        "TopKPooling (\\*) is another function, and makes the scores itself.",
        "",
        "| n, k, width | operator | ms | over successive halving | bar | cosine | bar |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for row in (row for row in rows if row["case"] == "rows"):
        what = row["what"] + ("\\*" if row["is_yardstick"] else "")
        cells = [f"{row['n']:,}, {row['k']:,}, {row['dim']}", what, timed(row["ms"], row["spread"])]
        cells += [f"{row['ratio']:.2f}×", f"≥ {row['ratio_bar']:g}×" if "ratio_bar" in row else ""]
        cells.append(f"{row['cosine']:.3f}" if "cosine" in row else "")
        cells.append(f"≥ {row['cosine_bar']:g}" if "cosine_bar" in row else "")
        lines.append(f"| {' | '.join(cells)} |")
    edges = [row for row in rows if row["case"] == "edges"]
    if not edges:
        return lines
    lines += [
        "",
        f"The {edges[0]['k']} best sources of each of n nodes of width {edges[0]['dim']} among all, forward with",
        "backward: `selection.TopKEdges`, which makes a graph and its biases, and torch.topk on the matrix of scores,",
        "which does not. Median ms (minimum–maximum) and the resident memory that a call adds; beside it n × n",
        "float32 scores, computed, not measured. Both first find the same edges, with the same gradients.",
        "",
        "| n | search | ms | over TopKEdges | peak MiB | n × n scores, computed, MiB |",
        "|---:|---|---:|---:|---:|---:|",
    ]
    for row in edges:
        cells = [f"{row['n']:,}", row["what"], timed(row["ms"], row["spread"]), f"{row['ratio']:.2f}×"]
        lines.append(f"| {' | '.join(cells)} | {row['peak_mib']:,.0f} | {row['scores_mib_computed']:,.0f} |")
    return lines


def combiner_table(rows: list[dict]) -> list[str]:
    """Explains and lists what benchmarks/combiner.py measured."""
    first = rows[0]
    lines = [
        f"4 heads × 32, {'causal' if first['causal'] else 'bidirectional'}, √L tokens per segment or row, float32,",
        "forward, loss, backward, zero_grad: attention alone, without projections on either side, and the whole layer,",
        "with the same projections on both. Median ms (minimum–maximum) of interleaved rounds, time of dense attention",
        "(torch's fused kernel) over it round by round, and the resident memory that a step adds, beside that of dense",
        "attention which holds all pairs, computed (\\*) from a smaller length where it does not fit. Exponents of L",
        "fit all lengths, and those from 4,096 tokens on.",
        "",
        "| form | part | tokens | edges | ms | over dense | bar | peak MiB | materialised | bar | exponents | bar |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---|---:|",
    ]
    for row in sorted(rows, key=lambda row: (row["part"], row["form"], row["length"])):
        cells = [row["form"], row["part"], f"{row['length']:,}", f"{row['num_edges']:,}"]
        cells += [timed(row["ms"], row["spread"])]
        cells += [f"{row['over_dense']:.2f}×" if "over_dense" in row else ""]
        cells += [f"≥ {row['speed_bar']:g}×" if "speed_bar" in row else "", f"{row['peak_mib']:,.0f}"]
        cells += [f"{row['materialised_mib']:,.0f}" + ("\\*" if row["materialised_is_computed"] else "")]
        cells += [f"≥ {row['memory_bar']:g}×" if "memory_bar" in row else ""]
        fitted = [row[key] for key in ("exponent", "exponent_of_long") if row.get(key) is not None]
        cells += [", ".join(f"{power:.2f}" for power in fitted)]
        cells += [f"≤ {row['exponent_bar']:g}" if "exponent_bar" in row else ""]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def egt_table(rows: list[dict]) -> list[str]:
    """Explains and lists what benchmarks/egt.py measured."""
    lines = [
        f"4 `EGTLayer` over all pairs inside each molecule of a batch ({rows[0]['data']}), against the same",
        "formula over a padded batch; zero_grad, forward, loss, backward, AdamW, float32. Median ms (minimum–maximum)",
        "of interleaved rounds, ratio to edge lists round by round, and the resident memory that one step adds. Padded",
        "and edge lists first equal each other in output and gradients. With a quarter of the sources attention reads",
        "fewer pairs, and the state of all of them is updated.",
        "",
        "| graphs | nodes (largest) | pairs | padded pairs | contender | ms | ratio | peak MiB |",
        "|---:|---:|---:|---:|---|---:|---:|---:|",
    ]
    for row in rows:
        cells = [f"{row['batch_size']}", f"{row['num_nodes']:,} ({row['largest']})", f"{row['num_pairs']:,}"]
        cells += [f"{row['num_padded_pairs']:,}", row["contender"], timed(row["step_ms"], row["step_spread"])]
        lines.append(f"| {' | '.join(cells)} | {row['ratio']:.2f}× | {row['peak_mib']:,.0f} |")
    return lines


def ssa_table(rows: list[dict]) -> list[str]:
    """Explains and lists what benchmarks/ssa.py measured."""
    lines = [
        "8 heads × 64, float32, one step of training: the sources are drawn, their keys and values gathered, forward",
        "with backward. Median ms (minimum–maximum) of interleaved rounds; by how much dense SDPA (torch's flash",
        "kernel over all pairs) is slower, round by round; the resident memory that a step adds, and how many times",
        "that materialised attention and the flash kernel take.",
        "",
        "| nodes | reads | ms | dense SDPA is slower by | bar | peak MiB | materialised | bar | flash |",
        "|---:|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        bars = [f"≥ {row['bar']:g}×", f"≥ {row['memory_bar']:.2f}×"] if "bar" in row else ["", ""]
        cells = [f"{row['num_nodes']:,}", row["reads"], timed(row["ms"], row["spread"]), f"{row['speedup']:.2f}×"]
        cells += [bars[0], f"{row['peak_mib']:.0f}", f"{row['materialised_ratio']:.1f}×", bars[1]]
        lines.append(f"| {' | '.join(cells)} | {row['flash_ratio']:.2f}× |")
    return lines


def seats_table(rows: list[dict]) -> list[str]:
    """Explains and lists what benchmarks/seats.py measured."""
    lines = [
        f"{rows[0]['set']}, official split and evaluator, {rows[0]['max_epochs']} epochs of each model, nothing",
        "searched; rmse on the test split at the epoch with the best valid metric, mean ± unbiased standard deviation",
        "over seeds. benchmarks/seats.py says what each model is.",
        "",
        "| model | parameters | seeds | test rmse |",
        "|---|---:|---:|---:|",
    ]
    for row in rows:
        name = row["model"] + (f", {row['num_passes']} passes" if row["num_passes"] else "")
        cells = [name, f"{row['num_parameters']:,}", str(len(row["seeds"])), f"{row['mean']:.3f} ± {row['std']:.3f}"]
        lines.append(f"| {' | '.join(cells)} |")
    commits = sorted({commit for row in rows for commit in row["commits"]})
    lines += ["", f"The runs were trained at {', '.join(commits)}."]
    spread = next((row["spread_of_prediction"] for row in rows if row["spread_of_prediction"]), None)
    if spread is not None:
        lines += ["", f"Over the passes of the self-ensemble a prediction varies by {spread:.3f} (standard deviation)."]
    return lines


def scores_table(rows: list[dict]) -> list[str]:
    """Explains and lists what benchmarks/scores.py measured."""
    lines = [
        "One layer, forward with the gradients of its input and of all its parameters, float32. Median ms",
        "(minimum–maximum), ratio to the dot product round by round, and the resident memory that a step adds.",
        "",
        "| case | heads | score | parameters | ms | over dot product | peak MiB |",
        "|---|---|---|---:|---:|---:|---:|",
    ]
    for row in rows:
        cells = [row["case"], row["heads"], row["score"], f"{row['num_parameters']:,}"]
        cells += [timed(row["ms"], row["spread"]), f"{row['ratio']:.2f}×"]
        lines.append(f"| {' | '.join(cells)} | {row['peak_mib']:.0f} |")
    return lines


def score_curves_table(rows: list[dict]) -> list[str]:
    """Explains and lists what benchmarks/score_curves.py measured."""
    lines = [
        "![Training loss over the epochs](benchmarks/results/score_curves.svg)",
        "",
        f"ogbg-molesol, {rows[0]['max_epochs']} epochs of the same model, which differs in the score alone; mean",
        "training loss of an epoch, averaged over seeds, and test rmse, mean ± unbiased standard deviation over seeds.",
        "",
        "| score | parameters | seeds | loss, epoch 5 | epoch 10 | last | test rmse |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        cells = [row["score"], f"{row['num_parameters']:,}", str(len(row["seeds"]))]
        cells += [f"{row['loss'][min(epoch, len(row['loss'])) - 1]:.3f}" for epoch in (5, 10, len(row["loss"]))]
        lines.append(f"| {' | '.join(cells)} | {row['mean']:.3f} ± {row['std']:.3f} |")
    return lines


def heads_table(rows: list[dict]) -> list[str]:
    """Explains and lists what benchmarks/heads.py measured."""
    lines = [
        f"A `GraphTransformer` of width {rows[0]['embed_dim']} over {rows[0]['num_edges']:,} edges, pruned; float32,",
        "one thread. Median ms (minimum–maximum) of a forward and of a step, ratio to the whole model round by round.",
        "",
        "| heads | parameters | MB on disk | forward ms | over whole | step ms | over whole |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        cells = [f"{row['num_keep']} of {row['num_heads']}", f"{row['num_parameters']:,}", f"{row['bytes'] / 1e6:.2f}"]
        cells += [timed(row["forward_ms"], row["forward_spread"]), f"{row['forward_ratio']:.2f}×"]
        cells.append(timed(row["step_ms"], row["step_spread"]))
        lines.append(f"| {' | '.join(cells)} | {row['step_ratio']:.2f}× |")
    return lines


def pruning_table(rows: list[dict]) -> list[str]:
    """Explains and lists what benchmarks/pruning.py measured."""
    shares = list(dict.fromkeys(row["share"] for row in rows))
    first = rows[0]
    lines = [
        f"ogbg-molesol, {first['num_heads']} heads, {first['max_epochs']} epochs, {len(first['seeds'])} seeds: test",
        "rmse after pruning to a share of the heads, without further training, mean ± unbiased standard deviation. The",
        f"whole model has {first['whole_mean']:.3f} ± {first['whole_std']:.3f}. benchmarks/pruning.py says what each",
        "way is.",
        "",
        f"| heads chosen by | {' | '.join(shares)} |",
        f"|---|{'---:|' * len(shares)}",
    ]
    for method in dict.fromkeys(row["method"] for row in rows):
        found = {row["share"]: f"{row['mean']:.3f} ± {row['std']:.3f}" for row in rows if row["method"] == method}
        lines.append(f"| {method} | {' | '.join(found.get(share, '') for share in shares)} |")
    return lines


TABLES = {
    "attention": attention_table,
    "cold_start": cold_start_table,
    "combiner": combiner_table,
    "egt": egt_table,
    "exactness": exactness_table,
    "grid": grid_table,
    "heads": heads_table,
    "masks": masks_table,
    "molecules": molecules_table,
    "molhiv": molhiv_table,
    "pathways": pathways_table,
    "pruning": pruning_table,
    "recording": recording_table,
    "scaling": scaling_table,
    "score_curves": score_curves_table,
    "scores": scores_table,
    "seats": seats_table,
    "ssa": ssa_table,
    "terms": terms_table,
    "topk": topk_table,
    "training_step": training_step_table,
    "weights": weights_table,
}


def _heading(record: dict) -> list[str]:
    versions = ", ".join(
        f"{name.replace('_', '-')} {record[name] or 'not installed'}"
        for name in ("python", "torch", "torch_geometric", "torch_scatter", "numba", "triton", "cuda")
        if name in record
    )
    return [
        f"## {record['benchmark']}",
        "",
        f"{record['date']}, commit {record['commit']}, {record['device']}; {versions}.",
        "",
        f"    {record['command']}",
        "",
    ]


def section(record: dict) -> str:
    """Returns one benchmark's heading, what made it, and its table."""
    made_by = _heading(record)
    if note := record.get("note"):  # what the command does not say of how the figures came about
        made_by += [note, ""]
    return "\n".join(made_by + TABLES[record["benchmark"]](record["rows"])) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results", help="folder of the records")
    parser.add_argument("--page", type=Path, default=ROOT / "BENCHMARKS.md", help="what to write")
    arguments = parser.parse_args()
    records = [json.loads(path.read_text()) for path in sorted(arguments.results.glob("*.json"))]
    for record in records:
        if record["benchmark"] == "attention":
            pictures = [arguments.results / f"attention.{suffix}" for suffix in ("svg", "png")]
            draw_attention(record["rows"], record, pictures)
    of_gpu = arguments.results / "gpu" / "gpu.json"
    gpu = gpu_section(json.loads(of_gpu.read_text()) if of_gpu.exists() else None)
    arguments.page.write_text("\n".join([HEAD, *map(section, records), gpu]))


if __name__ == "__main__":
    main()
