"""Does impl="auto" take the fastest way? At every point of nodes × degree, against all implementations and peers.

    python benchmarks/grid.py [--kind window random cliques] [--rounds 7] [--max_edges 16777216] [--out FILE.json]

Nodes 32 … 65,536, degree 4 … 1,024 where it is no more than the nodes, 4 heads × 32, float32, forward with backward.
`window`: the nearest keys; `random`: as many at random; `cliques`: full attention in graphs of `degree` nodes, which
are blocks. Contenders: `auto`; every implementation that can serve; dense SDPA with the graph as its mask; PyG's
TransformerConv on given query, key and value; padded SDPA on cliques. A row has the ratio of `auto` to the fastest
other one (median over rounds of the ratio in that round; below 1 is noise, for `auto` is one of them), the same among
the implementations alone, which says how good the choice is, and all times.

What cannot win is not run, and the row says so:
    scatter, gather, TransformerConv   above 2²⁴ numbers in an array of edges × heads × head_dim (64 MiB)
    dense, masked SDPA                 above 2²⁶ pairs × heads (dense), 2²⁸ pairs (SDPA), or where fewer than one pair
                                       in 64 is an edge and pairs × heads are above 2²²
    anything                           that in its second call took over three times as long as the fastest, and 1 ms
                                       more; that one call is its time
    a point                            of more than --max_edges edges
Contenders first agree in output and gradients with the specification, or, above 2¹⁸ edges and 2²² pairs, with `auto`.
What takes less than 5 ms is repeated within its round; where `auto` takes over 300 ms there are three rounds. Sample:

    random    4,096 nodes    64 keys   auto: fused      24.1 ms  best: fused      24.3 ms   0.99x  choice  0.99x  …
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from cases import Case, auto_choice, make_inputs, sizes_of
from contenders import MAX_DENSE_PAIRS, check, make_contender, specification
from measure import interleaved, median_ratio, write_record

import graphattn as ga
from graphattn.graph import AttentionGraph
from graphattn.ops._dispatch import reason_against

NUM_NODES = (32, 64, 256, 1024, 4096, 16_384, 65_536)
DEGREES = (4, 16, 64, 256, 1024)
QUICK_NODES = NUM_NODES[:4]
NUM_HEADS, HEAD_DIM = 4, 32
MAX_GATHERED, MAX_SDPA_PAIRS = 2**24, 2**28
MAX_SPARSE_PAIRS, MIN_DENSITY = 2**22, 1 / 64
SPECIFIED_PAIRS, SPECIFIED_EDGES = 2**22, 2**18
HOPELESS, HOPELESS_MS = 3.0, 1.0
SLOW_MS, SLOW_ROUNDS = 300.0, 3
AT_LEAST_MS = 5.0
RATIO_BAR, SLACK_US, MEAN_BAR = 1.25, 150, 1.1  # everywhere: within the ratio or the microseconds; the geometric mean


def window(num_nodes: int, degree: int) -> AttentionGraph:
    return ga.connectivity.sliding_window(num_nodes, radius=degree // 2)


def random_keys(num_nodes: int, degree: int) -> AttentionGraph:
    return ga.connectivity.random_regular(num_nodes, degree, generator=torch.Generator().manual_seed(0))


def cliques(num_nodes: int, degree: int) -> AttentionGraph:
    return ga.connectivity.full(torch.full((num_nodes // degree,), degree))


KINDS: dict[str, Callable[[int, int], AttentionGraph]] = {"window": window, "random": random_keys, "cliques": cliques}
PEERS = ("TransformerConv", "masked SDPA")
PEERS_OF = {"window": PEERS, "random": PEERS, "cliques": (*PEERS, "padded SDPA")}


def reasons_against(graph: AttentionGraph, case: Case, kind: str) -> dict[str, str | None]:
    """Returns why each contender but `auto` is not run, None where it is."""
    num_pairs, num_edges = graph.num_src_nodes * graph.num_dst_nodes, graph.num_edges
    gathered = num_edges * case.num_heads * case.head_dim
    too_many = f"{gathered:,} gathered numbers" if gathered > MAX_GATHERED else None
    is_sparse = num_pairs * case.num_heads > MAX_SPARSE_PAIRS and num_edges < MIN_DENSITY * num_pairs
    too_sparse = f"{num_edges / num_pairs:.2%} of all pairs are edges" if is_sparse else None
    limits = {
        "scatter": too_many,
        "gather": too_many,
        "TransformerConv": too_many,
        "dense": f"{num_pairs:,} pairs" if num_pairs * case.num_heads > MAX_DENSE_PAIRS else too_sparse,
        "masked SDPA": f"{num_pairs:,} pairs" if num_pairs > MAX_SDPA_PAIRS else too_sparse,
    }
    reasons = {name: limits.get(name) for name in (*ga.ops.IMPLEMENTATIONS, *PEERS_OF[kind])}
    for impl in ga.ops.IMPLEMENTATIONS:
        reasons[impl] = reason_against(impl, graph, sizes_of(case), False) or reasons[impl]
    return reasons


def measure_point(kind: str, num_nodes: int, degree: int, rounds: int) -> dict:
    case = Case(lambda shrink: KINDS[kind](num_nodes // shrink, degree), NUM_HEADS, HEAD_DIM)
    graph = case.graph(1)
    inputs, grad_out = make_inputs(case, graph)
    reasons = reasons_against(graph, case, kind)
    names = ["auto", *(name for name, reason in reasons.items() if reason is None)]
    contenders = {name: make_contender(name, graph, inputs) for name in names}
    is_specified = num_nodes**2 <= SPECIFIED_PAIRS or graph.num_edges <= SPECIFIED_EDGES
    if is_specified:
        expected = specification(graph, inputs, grad_out)
    else:
        expected = list(contenders["auto"].both(grad_out))
    for name, contender in contenders.items():
        check(f"{kind}, {num_nodes} × {degree}: {name}", contender, grad_out, expected)
    del expected
    calls = {name: partial(contender.both, contender.laid_out(grad_out)) for name, contender in contenders.items()}
    once = {name: _milliseconds(call) for name, call in calls.items()}  # the second call, after that of `check`
    limit = HOPELESS * min(once.values()) + HOPELESS_MS
    hopeless = [name for name in calls if name != "auto" and once[name] > limit]
    running = {name: call for name, call in calls.items() if name not in hopeless}
    if not running.keys() & set(ga.ops.IMPLEMENTATIONS):  # all are far slower than a peer
        fastest = min((name for name in calls if name in ga.ops.IMPLEMENTATIONS), key=lambda name: once[name])
        running[fastest] = calls[fastest]
    times = interleaved(running, SLOW_ROUNDS if once["auto"] > SLOW_MS else rounds, warm_ups=0, at_least_ms=AT_LEAST_MS)
    medians = {name: statistics.median(values) for name, values in times.items()}
    best = min((name for name in medians if name != "auto"), key=lambda name: medians[name])
    best_impl = min((name for name in medians if name in ga.ops.IMPLEMENTATIONS), key=lambda name: medians[name])
    ratio, choice_ratio = (median_ratio(times["auto"], times[name]) for name in (best, best_impl))

    def is_within(ratio: float, name: str) -> bool:
        return ratio <= RATIO_BAR or 1e3 * (medians["auto"] - medians[name]) <= SLACK_US

    return {
        "kind": kind,
        "num_nodes": num_nodes,
        "degree": degree,
        "num_edges": graph.num_edges,
        "heads": case.heads,
        "chosen": auto_choice(graph, case),
        "best": best,
        "auto_ms": medians["auto"],
        "best_ms": medians[best],
        "ratio": ratio,
        "is_within": is_within(ratio, best),
        "best_impl": best_impl,
        "choice_ratio": choice_ratio,
        "is_choice_within": is_within(choice_ratio, best_impl),
        "is_specified": is_specified,
        "ms": once | medians,
        "called_once": [name for name in hopeless if name not in times],
        "not_run": {name: reason for name, reason in reasons.items() if reason is not None},
    }


def _milliseconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - start)


def line(row: dict) -> str:
    """Returns a row of results as text."""
    return (
        f"{row['kind']:8} {row['num_nodes']:6,} nodes {row['degree']:5,} keys   "
        f"auto: {row['chosen']:8} {row['auto_ms']:9.4g} ms  best: {row['best']:16} {row['best_ms']:9.4g} ms "
        f"{row['ratio']:5.2f}x  choice {row['choice_ratio']:5.2f}x  ({len(row['ms'])} contenders)"
        f"{'' if row['is_within'] else '  ABOVE THE BAR'}"
        f"{'' if row['is_choice_within'] else '  ' + row['best_impl'] + ' IS FASTER'}"
    )


def geometric_mean(rows: list[dict], ratio: str = "ratio") -> float:
    return math.exp(statistics.fmean(math.log(row[ratio]) for row in rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kind", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--rounds", type=int, default=7, help="counted rounds")
    parser.add_argument("--max_edges", type=int, default=2**24, help="points with more edges are left out")
    parser.add_argument("--out", type=Path, help="a JSON file for benchmarks/report.py")
    parser.add_argument("--quick", action="store_true", help=f"up to {QUICK_NODES[-1]} nodes")
    arguments = parser.parse_args()
    sizes = QUICK_NODES if arguments.quick else NUM_NODES
    points = [(kind, n, degree) for kind in arguments.kind for n in sizes for degree in DEGREES if degree <= n]
    rows = []
    for kind, num_nodes, degree in points:
        if num_nodes * degree > arguments.max_edges:
            print(f"{kind:8} {num_nodes:6,} nodes {degree:5,} keys   left out: {num_nodes * degree:,} edges")
            continue
        rows.append(measure_point(kind, num_nodes, degree, arguments.rounds))
        print(line(rows[-1]), flush=True)
    above = [row for row in rows if not row["is_within"]]
    print(f"geometric mean {geometric_mean(rows):.3f}, {len(above)} of {len(rows)} points above the bar")
    missed = sum(not row["is_choice_within"] for row in rows)
    print(f"of the implementations alone {geometric_mean(rows, 'choice_ratio'):.3f}, {missed} above the bar")
    if arguments.out:
        write_record(arguments.out, "grid", rows)


if __name__ == "__main__":
    main()
