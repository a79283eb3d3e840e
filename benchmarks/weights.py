"""What do the attention weights cost, alone and together with the output, over the output alone?

    python benchmarks/weights.py [--case window random …] [--rounds 9] [--out FILE.json]

Forward passes without gradients by impl="auto": the output (`graph_attention`), the weights of all edges
(`attention_weights`), both by these two calls, and both in one pass (`attention_with_weights`, where this version has
it). The weights first equal those of `scatter`. All are timed in turn; a row gives the median in ms, the spread, the
ratio to the output alone (median over rounds of the ratio in that round), and what a call adds to resident memory at
its highest, measured in a process of its own. float32. Sample row:

    window       weights                  9.1 ms (8.8-9.9)      0.61x      18 MiB
"""

import argparse
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from cases import CASES, QUICK, TINY, make_inputs
from contenders import TOLERANCE
from measure import added_peak, in_fresh_process, interleaved, median_ratio, spread, write_record
from torch import Tensor

import graphattn as ga
from graphattn.graph import AttentionGraph

DEFAULT_CASES = [name for name in CASES if name != "sampled"]  # whose weights are those of a dense product
BARS = {"weights": 0.7, "both, one pass": 1.3}  # over the output alone, at most
AT_LEAST_MS = 20.0


@torch.no_grad()
def output(graph: AttentionGraph, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return ga.graph_attention(q, k, v, graph)


@torch.no_grad()
def weights(graph: AttentionGraph, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return ga.attention_weights(q, k, graph)


@torch.no_grad()
def both(graph: AttentionGraph, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    return ga.graph_attention(q, k, v, graph), ga.attention_weights(q, k, graph)


@torch.no_grad()
def both_in_one_pass(graph: AttentionGraph, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    return ga.ops.attention_with_weights(q, k, v, graph)


CALLS: dict[str, Callable] = {"output": output, "weights": weights, "both, two calls": both}
if hasattr(ga.ops, "attention_with_weights"):
    CALLS["both, one pass"] = both_in_one_pass


def make_call(what: str, name: str, graph: AttentionGraph) -> Callable[[], object]:
    return partial(CALLS[what], graph, *make_inputs(CASES[name], graph)[0])


def check(name: str, graph: AttentionGraph, calls: dict[str, Callable]) -> None:
    """Refuses to time what is not right."""
    (query, key, _), _ = make_inputs(CASES[name], graph)
    alpha = ga.attention_weights(query, key, graph, impl="scatter")
    found = {"weights": calls["weights"]()}
    if "both, one pass" in calls:
        out, found["both, one pass"] = calls["both, one pass"]()
        torch.testing.assert_close(out, calls["output"](), atol=TOLERANCE, rtol=TOLERANCE)
    for what, got in found.items():
        gap = float((got - alpha).abs().max() / alpha.abs().max())
        if not gap < TOLERANCE:
            raise SystemExit(f"{name}, {what} differs from scatter by {gap:.2g} of the largest weight; not timed")


def measure_memory(name: str, what: str, shrink: int) -> None:
    make_call(what, name, CASES[name].graph(TINY))()  # compiles kernels
    call = make_call(what, name, CASES[name].graph(shrink))
    call()  # makes the plan, which stays
    print(added_peak(call))


def peak_memory(name: str, what: str, quick: bool) -> float:
    """Returns what a call adds to resident memory, in MiB, measured in a fresh process."""
    return float(in_fresh_process(__file__, ["--memory", name, what] + ["--quick"] * quick).split()[-1])


def line(row: dict) -> str:
    """Returns a row of results as text."""
    timed = f"{row['ms']:8.4g} ms ({row['spread'][0]:.4g}-{row['spread'][1]:.4g})"
    return f"{row['case']:12} {row['what']:16} {timed:28} {row['ratio']:6.2f}x {row['peak_mib']:7.0f} MiB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", nargs="+", choices=CASES, default=DEFAULT_CASES)
    parser.add_argument("--rounds", type=int, default=9, help="counted rounds, after two that are not")
    parser.add_argument("--out", type=Path, help="a JSON file for benchmarks/report.py")
    parser.add_argument("--quick", action="store_true", help="an eighth of each size, to see that it runs")
    parser.add_argument("--memory", nargs=2, metavar=("CASE", "WHAT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    shrink = QUICK if arguments.quick else 1
    if arguments.memory:
        return measure_memory(*arguments.memory, shrink)
    rows = []
    for name in arguments.case:
        graph = CASES[name].graph(shrink)
        calls = {what: make_call(what, name, graph) for what in CALLS}
        check(name, graph, calls)
        times = interleaved(calls, arguments.rounds, at_least_ms=AT_LEAST_MS)
        for what, measured in times.items():
            row = {
                "case": name,
                "what": what,
                "num_nodes": graph.num_src_nodes,
                "num_edges": graph.num_edges,
                "heads": CASES[name].heads,
                "ms": statistics.median(measured),
                "spread": spread(measured),
                "ratio": median_ratio(measured, times["output"]),
                "bar": BARS.get(what),
                "peak_mib": peak_memory(name, what, arguments.quick),
            }
            rows.append(row)
            print(line(row), flush=True)
    if arguments.out:
        write_record(arguments.out, "weights", rows)


if __name__ == "__main__":
    main()
