"""How fast is sparse attention that trains, against what a user would take instead? One process a case, side by side.

    python benchmarks/attention.py [--case window …] [--contender scatter …] [--rounds 9] [--out FILE.json]
    python benchmarks/attention.py --device cuda …      attention_cuda.py says what runs on a GPU

For each case every contender first has to equal the specification in output and in the gradients of query, key and
value (`dense`, head by head; where all pairs are too many, `scatter` in float64); then all are timed in turn, round by
round, forward alone and forward with backward, after two warm-up rounds; what takes less than 20 ms is repeated within
its round. A row gives the median in ms, the spread (minimum to maximum), the ratio to `auto`, which is what a user gets
(median over rounds of the ratio in that round), and the peak of resident memory that one forward and backward adds,
measured in a process of its own. Beside `auto` on window and random runs torch.mm of 1,536² matrices; its row gives
the forward's share of that rate, at 2 · edges · heads · (head_dim + value_dim) FLOP. Inputs come from a fixed seed,
float32. Nothing here is a test: machines are noisy, read ratios.

Each case has a process of its own, for what ran before changes what follows: once large arrays have been freed, the C
library keeps memory that it else fetches from the system at every call, page by page. PyG's TransformerConv on
molecules-8 takes 200 ms in a fresh process and 60 ms after the two larger cases.

benchmarks/contenders.py says what each contender is, and which are another function and so only a yardstick; cases.py
makes the graphs. torch-scatter is left out where it is not installed. Sample rows:

    window    auto: fused      forward    20.1 ms (19.8-22)   forward+backward      88 ms (86-95)    1.00x     34 MiB
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import attention_cuda
import torch
from cases import CASES, QUICK, TINY, Case, auto_choice, make_inputs
from contenders import Contender, Inputs, check, is_available, make_contender, specification
from measure import added_peak, in_fresh_process, interleaved, median_ratio, ratios, spread, write_record, write_whole
from torch import Tensor

from graphattn.graph import AttentionGraph

LAYERS = ("GraphAttention layer", "TransformerConv layer", "GATConv layer")
COMPOSED = ("auto", "fused", "scatter", "torch-scatter", "TransformerConv")
BATCHED = ("auto", "fused", "blocks", "scatter", "TransformerConv", "padded SDPA", *LAYERS[:2])
SPARSE = ("torch.sparse", "torch.sparse, own backward")
CONTENDERS = {
    "window": (*COMPOSED, "dense SDPA"),
    "random": (*COMPOSED, "dense SDPA"),
    "molecules-8": BATCHED,
    "molecules-32": BATCHED,
    "few keys": (*COMPOSED, *SPARSE, *LAYERS[:2]),
    "power law": ("auto", "fused", "TransformerConv", "GATConv", *LAYERS),
    "sampled": ("auto", "fused", "blocks", "gathered SDPA", "dense SDPA", "materialised SDPA"),
}
BARS = {  # case, contender: forward+backward over auto, at least, and what is aimed at
    ("window", "dense SDPA"): (40, 70),
    ("window", "scatter"): (100, 160),
    ("window", "torch-scatter"): (100, 160),
    ("random", "dense SDPA"): (20, 35),
    ("random", "scatter"): (50, 80),
    ("random", "torch-scatter"): (50, 80),
    ("molecules-8", "padded SDPA"): (2.2, 4),
    ("molecules-8", "TransformerConv"): (25, 50),
    ("molecules-32", "padded SDPA"): (2.2, 4),
    ("molecules-32", "TransformerConv"): (25, 50),
    ("few keys", "TransformerConv"): (13, 25),
    ("few keys", "torch.sparse"): (10, 20),
    ("power law", "TransformerConv"): (10, 20),
    ("power law", "GATConv"): (10, 20),
    ("sampled", "dense SDPA"): (6.5, 7.8),
}
MEMORY_BARS = {("sampled", "materialised SDPA"): 6, ("sampled", "dense SDPA"): 1}  # peak over that of auto, at least
SGEMM_CASES, SGEMM_SIZE = ("window", "random"), 1536
SGEMM_BAR, SGEMM_AIM = 0.40, 0.55  # share of it in the forward, of the window
AT_LEAST_MS = 20.0


def check_all(contenders: dict[str, Contender], graph: AttentionGraph, inputs: Inputs, grad_out: Tensor) -> None:
    """Compares the operation with the specification, and layers with ours, whose operation was compared."""
    of_operation = specification(graph, inputs, grad_out)
    for name, contender in contenders.items():
        if contender.over == "auto":
            check(name, contender, grad_out, of_operation)
    del of_operation
    if LAYERS[0] in contenders:
        of_layer = list(contenders[LAYERS[0]].both(grad_out))
        for name, contender in contenders.items():
            if contender.over != "auto":
                check(name, contender, grad_out, of_layer)


def time_all(
    contenders: dict[str, Contender], grad_out: Tensor, rounds: int, has_sgemm: bool
) -> dict[tuple[str, str], list[float]]:
    """Times forward, and forward with backward, of all contenders in turn; milliseconds per round."""
    layouts = {contender.heads_first: contender.laid_out(grad_out) for contender in contenders.values()}
    calls: dict[tuple[str, str], Callable[[], object]] = {}
    for name, contender in contenders.items():
        if name == "auto" and has_sgemm:
            left, right = torch.randn(2, SGEMM_SIZE, SGEMM_SIZE)
            calls["sgemm", "forward"] = partial(torch.mm, left, right)
        calls[name, "forward"] = contender.forward
        calls[name, "forward+backward"] = partial(contender.both, layouts[contender.heads_first])
    return interleaved(calls, rounds, at_least_ms=AT_LEAST_MS)


def peak_memory(case: str, contender: str, quick: bool) -> float:
    """Returns what one forward and backward adds to resident memory, in MiB, measured in a fresh process."""
    return float(in_fresh_process(__file__, ["--memory", case, contender] + ["--quick"] * quick).split()[-1])


def measure_memory(case_name: str, contender_name: str, shrink: int) -> None:
    case = CASES[case_name]
    for times in (max(shrink, TINY), shrink):  # the first compiles kernels, the second is measured
        graph = case.graph(times)
        inputs, grad_out = make_inputs(case, graph)
        contender = make_contender(contender_name, graph, inputs)
        grad = contender.laid_out(grad_out)
        contender.both(grad)  # makes the plan, which stays
    del inputs, grad_out
    print(added_peak(lambda: contender.both(grad)))


def forward_flop(case: Case, graph: AttentionGraph) -> int:
    return 2 * graph.num_edges * case.num_heads * 2 * case.head_dim


def make_rows(name: str, shrink: int, rounds: int, chosen: list[str] | None) -> list[dict]:
    case = CASES[name]
    graph = case.graph(shrink)
    inputs, grad_out = make_inputs(case, graph)
    names = [other for other in CONTENDERS[name] if is_available(other)]
    if chosen is not None:
        names = [other for other in names if other in chosen or other in ("auto", LAYERS[0])]
    contenders = {other: make_contender(other, graph, inputs) for other in names}
    check_all(contenders, graph, inputs, grad_out)
    times = time_all(contenders, grad_out, rounds, name in SGEMM_CASES)
    rows = []
    for other, contender in contenders.items():
        row: dict = {
            "case": name,
            "contender": other,
            "over": contender.over,
            "is_yardstick": contender.is_yardstick,
            "num_nodes": graph.num_src_nodes,
            "num_edges": graph.num_edges,
            "heads": case.heads,
            "peak_mib": peak_memory(name, other, shrink != 1),
        }
        for key in ("forward", "forward+backward"):
            own, ours = times[other, key], times[contender.over, key]
            row[f"{key}_ms"] = statistics.median(own)
            row[f"{key}_spread"] = spread(own)
            row[f"{key}_ratio"] = median_ratio(own, ours)
            row[f"{key}_ratio_spread"] = spread(ratios(own, ours))
        if other == "auto":
            row["chosen"] = auto_choice(graph, case)
        if bar := BARS.get((name, other)):
            row["bar"], row["aim"] = bar
        if other == "auto" and name in SGEMM_CASES:
            sgemm = times["sgemm", "forward"]
            flop = forward_flop(case, graph)
            row["sgemm_gflops"] = 2 * SGEMM_SIZE**3 / statistics.median(sgemm) / 1e6
            row["gflops"] = flop / row["forward_ms"] / 1e6
            row["sgemm_share"] = median_ratio(sgemm, times["auto", "forward"]) * flop / (2 * SGEMM_SIZE**3)
            if name == "window":
                row["sgemm_bar"], row["sgemm_aim"] = SGEMM_BAR, SGEMM_AIM
        rows.append(row)
        print(line(row), flush=True)
    of_auto = next(row["peak_mib"] for row in rows if row["contender"] == "auto")
    for row in rows:
        if (memory_bar := MEMORY_BARS.get((name, row["contender"]))) is not None:
            row["memory_ratio"], row["memory_bar"] = row["peak_mib"] / of_auto, memory_bar
            print(f"{name:12} peak memory of {row['contender']}: {row['memory_ratio']:.2f}x that of auto")
    return rows


def rows_of_own_process(name: str, arguments: argparse.Namespace) -> list[dict]:
    """`make_rows` in a process that has done nothing else."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.json"
        command = [sys.executable, __file__, "--case", name, "--rounds", str(arguments.rounds), "--rows", str(path)]
        command += ["--contender", *arguments.contender] if arguments.contender else []
        subprocess.run(command + ["--quick"] * arguments.quick, check=True)
        return json.loads(path.read_text())["rows"]


def line(row: dict) -> str:
    """Returns a row of results as text."""
    timed = [
        f"{key} {row[f'{key}_ms']:8.4g} ms ({row[f'{key}_spread'][0]:.4g}-{row[f'{key}_spread'][1]:.4g})"
        for key in ("forward", "forward+backward")
    ]
    bar = f"  bar {row['bar']:g}, aim {row['aim']:g}" if "bar" in row else ""
    share = f"  {row['sgemm_share']:.0%} of sgemm" if "sgemm_share" in row else ""
    name = f"auto: {row['chosen']}" if "chosen" in row else row["contender"]
    ratio = f"{row['forward+backward_ratio']:7.2f}x"
    return f"{row['case']:12} {name:26} {'  '.join(timed)}  {ratio} {row['peak_mib']:6.0f} MiB{bar}{share}"


def main() -> None:
    where = argparse.ArgumentParser(add_help=False)
    where.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cuda: see attention_cuda.py")
    if where.parse_known_args()[0].device == "cuda":
        return attention_cuda.main()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], parents=[where])
    parser.add_argument("--case", nargs="+", choices=CASES, default=list(CASES))
    named = dict.fromkeys(name for names in CONTENDERS.values() for name in names)
    only_these = f"only these, and those of ours that they are compared with: {', '.join(named)}"
    parser.add_argument("--contender", nargs="+", choices=named, metavar="NAME", help=only_these)
    parser.add_argument("--rounds", type=int, default=9, help="counted rounds, after two that are not")
    parser.add_argument("--out", type=Path, help="a JSON file for benchmarks/report.py")
    parser.add_argument("--quick", action="store_true", help="an eighth of each size, to see that it runs")
    parser.add_argument("--memory", nargs=2, metavar=("CASE", "CONTENDER"), help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    shrink = QUICK if arguments.quick else 1
    if arguments.memory:
        return measure_memory(*arguments.memory, shrink)
    if arguments.rows:
        return write_whole(
            arguments.rows, {"rows": make_rows(arguments.case[0], shrink, arguments.rounds, arguments.contender)}
        )
    rows: list[dict] = []
    for name in arguments.case:
        rows += rows_of_own_process(name, arguments)
        if arguments.out:  # after every case, so that an interruption loses one
            write_record(arguments.out, "attention", rows)


if __name__ == "__main__":
    main()
