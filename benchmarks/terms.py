"""What do edge terms cost, in time and in memory, over attention without them?

    python benchmarks/terms.py [--case window random …] [--rounds 9] [--edge_dim 8] [--out FILE.json]

Each case runs by impl="auto" in its plain form, with an edge bias and an edge gate [num_edges, num_heads], with edge
features [num_edges, edge_dim] in keys and values, with all of them, and with all of them as tables of four types; each
takes the gradient of everything it is given. First each equals `dense` in output and gradients on a sixty-fourth of the
nodes; then all are timed in turn, forward with backward. A row gives the median in ms, the spread, the ratio to the
plain form (median over rounds of the ratio in that round), and what one forward and backward adds to resident memory
at its highest beyond the output and the gradients that it returns, measured in a process of its own: in MiB, and in
float32 numbers per node and head (plain) or per edge and head. float32.

Beside it stands what the ratio would be if nothing but moving the terms cost time: the plain form, and then a large
copy of as many bytes as forward and backward read of them (twice) and write of their gradients (once). Sample row:

    window       bias              45.99 ms (44.83-47.92)      1.16x plain (1.03x moved)      1.1 MiB beyond     0.1 …
"""

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
from cases import CASES, QUICK, TINY, Case, auto_choice, make_inputs
from contenders import TOLERANCE
from measure import MIB, added_peak, in_fresh_process, interleaved, median_ratio, spread, write_record
from torch import Tensor

import graphattn as ga
from graphattn.graph import AttentionGraph
from graphattn.ops.calibrate import copy_rate

FORMS = {
    "plain": (),
    "bias": ("edge_bias",),
    "gate": ("edge_gate",),
    "features": ("edge_attr", "edge_key_weight", "edge_value_weight"),
    "all": ("edge_bias", "edge_gate", "edge_attr", "edge_key_weight", "edge_value_weight"),
    "all, 4 types": ("edge_bias", "edge_gate", "edge_attr", "edge_key_weight", "edge_value_weight"),
}
NUM_TYPES = 4
BAR = 1.6  # over the plain form, at most
AT_LEAST_MS = 20.0
Results = tuple[Tensor, ...]


def make_call(form: str, case: Case, graph: AttentionGraph, edge_dim: int, impl: str = "auto") -> Callable[[], Results]:
    """Returns a call that computes the output and the gradient of everything that the form is given."""
    inputs, grad_out = make_inputs(case, graph)
    generator = torch.Generator().manual_seed(2)
    rows = NUM_TYPES if "types" in form else graph.num_edges
    weight_shape = case.num_heads, case.head_dim, edge_dim
    shapes = {
        "edge_bias": (rows, case.num_heads),
        "edge_gate": (rows, case.num_heads),
        "edge_attr": (rows, edge_dim),
        "edge_key_weight": weight_shape,
        "edge_value_weight": weight_shape,
    }
    terms = {name: torch.randn(*shapes[name], generator=generator) for name in FORMS[form]}
    if "edge_gate" in terms:
        terms["edge_gate"] = terms["edge_gate"].sigmoid()
    leaves = [x.requires_grad_() for x in (*inputs, *terms.values())]
    types = {}
    if "types" in form:
        types["edge_type"] = torch.randint(NUM_TYPES, (graph.num_edges,), generator=generator)

    def call() -> Results:
        out = ga.graph_attention(*inputs, graph, **terms, **types, impl=impl)
        return out.detach(), *torch.autograd.grad(out, leaves, grad_out)

    return call


def moved_bytes(form: str, graph: AttentionGraph, num_heads: int, edge_dim: int) -> int:
    """Returns the bytes that a form's terms take through memory: read forward and backward, their gradients written."""
    if "types" in form:
        return 2 * 8 * graph.num_edges
    widths = {"edge_bias": num_heads, "edge_gate": num_heads, "edge_attr": edge_dim}
    return 3 * 4 * graph.num_edges * sum(widths.get(name, 0) for name in FORMS[form])


def check(name: str, edge_dim: int) -> None:
    """Refuses to time what is not right."""
    case, graph = CASES[name], CASES[name].graph(TINY)
    for form in FORMS:
        got, want = (make_call(form, case, graph, edge_dim, impl)() for impl in ("auto", "dense"))
        for place, (one, other) in enumerate(zip(got, want, strict=True)):
            gap = float((one - other).abs().max() / other.abs().max())
            if not gap < TOLERANCE:
                raise SystemExit(f"{name}, {form} differs from dense in result {place} by {gap:.2g}; not timed")


def measure_memory(name: str, form: str, edge_dim: int, shrink: int) -> None:
    case = CASES[name]
    make_call(form, case, case.graph(TINY), edge_dim)()  # compiles kernels
    call = make_call(form, case, case.graph(shrink), edge_dim)
    results = call()  # makes the plan, which stays
    returned = sum(x.numel() * x.element_size() for x in results)
    del results
    print(added_peak(call) - returned / MIB)


def peak_beyond(name: str, form: str, edge_dim: int, quick: bool) -> float:
    """Returns what a call adds to resident memory beyond its results, in MiB, measured in a fresh process."""
    flags = ["--memory", name, form, "--edge_dim", str(edge_dim)] + ["--quick"] * quick
    return max(0.0, float(in_fresh_process(__file__, flags).split()[-1]))


def line(row: dict) -> str:
    """Returns a row of results as text."""
    timed = f"{row['ms']:8.4g} ms ({row['spread'][0]:.4g}-{row['spread'][1]:.4g})"
    per = "node" if row["form"] == "plain" else "edge"
    return (
        f"{row['case']:12} {row['form']:14} {timed:28} {row['ratio']:6.2f}x plain ({row['moved_ratio']:.2f}x moved) "
        f"{row['beyond_mib']:8.1f} MiB beyond "
        f"{row[f'numbers_per_{per}_head']:7.1f} numbers per {per}, head"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--rounds", type=int, default=9, help="counted rounds, after two that are not")
    parser.add_argument("--edge_dim", type=int, default=8, help="width of edge features")
    parser.add_argument("--out", type=Path, help="a JSON file for benchmarks/report.py")
    parser.add_argument("--quick", action="store_true", help="an eighth of each size, to see that it runs")
    parser.add_argument("--memory", nargs=2, metavar=("CASE", "FORM"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    edge_dim, shrink = arguments.edge_dim, QUICK if arguments.quick else 1
    if arguments.memory:
        return measure_memory(*arguments.memory, edge_dim, shrink)
    rows, rate = [], copy_rate(torch.device("cpu"))
    for name in arguments.case:
        check(name, edge_dim)
        case = CASES[name]
        graph = case.graph(shrink)
        calls = {form: make_call(form, case, graph, edge_dim) for form in FORMS}
        times = interleaved(calls, arguments.rounds, at_least_ms=AT_LEAST_MS)
        del calls
        plain_seconds = statistics.median(times["plain"]) * 1e-3
        for form, measured in times.items():
            moved = moved_bytes(form, graph, case.num_heads, edge_dim)
            beyond = peak_beyond(name, form, edge_dim, arguments.quick)
            row = {
                "case": name,
                "form": form,
                "chosen": auto_choice(graph, case, reads_edges=form != "plain"),
                "num_nodes": graph.num_src_nodes,
                "num_edges": graph.num_edges,
                "heads": case.heads,
                "edge_dim": edge_dim,
                "ms": statistics.median(measured),
                "spread": spread(measured),
                "ratio": median_ratio(measured, times["plain"]),
                "moved_mib": moved / MIB,
                "copy_gb_per_s": rate / 1e9,
                "moved_ratio": 1 + moved / rate / plain_seconds,
                "bar": None if form == "plain" else BAR,
                "beyond_mib": beyond,
                "numbers_per_node_head": beyond * MIB / 4 / (graph.num_dst_nodes * case.num_heads),
                "numbers_per_edge_head": beyond * MIB / 4 / (graph.num_edges * case.num_heads),
            }
            rows.append(row)
            print(line(row), flush=True)
    if arguments.out:
        write_record(arguments.out, "terms", rows)


if __name__ == "__main__":
    main()
