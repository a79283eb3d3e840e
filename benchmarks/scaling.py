"""Do time and memory grow with the edges, and no faster? From 10⁵ edges to 10⁷, and a million tokens.

    python benchmarks/scaling.py [--rounds 7] [--no-million] [--out FILE.json]

4 heads × 16, float32, impl="auto", forward with backward. `window`: 33 keys around each of 3,125 … 312,500 tokens;
`random`: 33 random keys of as many tokens, whose keys and values no longer fit the caches from about 10⁶ edges on. All
sizes are timed in turn, what takes less than 20 ms is repeated within its round. A row gives the median in ms, the
spread, nanoseconds per edge and head, and the peak of resident memory that a forward and backward adds, measured in a
process of its own. The smallest size first equals `dense` in output and gradients. The last line of each kind is the
exponent of the power of edges that fits its times best; 1 is linear.

`million` is one process that makes the window of 33 keys around each of a million tokens and trains three steps:
query, key and value are parameters, the loss is the mean square of the output, SGD. It gives the time of the later two
steps and the peak of resident memory of the whole process: interpreter, torch, graph, parameters, gradients. Sample:

    window        312,500 nodes 10,312,228 edges      412 ms (405-431)   10.0 ns per edge, head      410 MiB
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from cases import Case, auto_choice, make_inputs
from contenders import check, make_contender, specification
from measure import MIB, added_peak, in_fresh_process, interleaved, peak, resident, spread, write_record

import graphattn as ga
from graphattn.graph import AttentionGraph

RADIUS = 16
NUM_HEADS, HEAD_DIM = 4, 16
NUM_NODES = (3_125, 9_882, 31_250, 98_821, 312_500)  # with 33 keys: 10⁵ … 10⁷ edges
QUICK_NODES = NUM_NODES[:3]
MILLION = 1_000_000
MILLION_BAR, MILLION_AIM = 4.0, 2.3  # GiB
AT_LEAST_MS = 20.0


def window(num_nodes: int) -> AttentionGraph:
    return ga.connectivity.sliding_window(num_nodes, radius=RADIUS)


def random_keys(num_nodes: int) -> AttentionGraph:
    return ga.connectivity.random_regular(num_nodes, 2 * RADIUS + 1, generator=torch.Generator().manual_seed(0))


KINDS: dict[str, Callable[[int], AttentionGraph]] = {"window": window, "random": random_keys}


def make_call(kind: str, num_nodes: int) -> tuple[AttentionGraph, Callable[[], object]]:
    graph = KINDS[kind](num_nodes)
    inputs, grad_out = make_inputs(_case(kind), graph)
    contender = make_contender("auto", graph, inputs)
    return graph, lambda: contender.both(grad_out)


def _case(kind: str) -> Case:
    return Case(KINDS[kind], NUM_HEADS, HEAD_DIM)


def check_smallest(kind: str) -> None:
    graph = KINDS[kind](NUM_NODES[0])
    inputs, grad_out = make_inputs(_case(kind), graph)
    check(kind, make_contender("auto", graph, inputs), grad_out, specification(graph, inputs, grad_out))


def measure_memory(kind: str, num_nodes: int) -> None:
    _, call = make_call(kind, num_nodes)
    call()  # compiles kernels and makes the plan, which stay
    print(added_peak(call))


def exponent(edges: list[int], milliseconds: list[float]) -> float:
    """Returns the power of edges that fits best, by least squares on logarithms."""
    return float(np.polyfit(np.log(edges), np.log(milliseconds), 1)[0])


def measure_kind(kind: str, sizes: tuple[int, ...], rounds: int) -> list[dict]:
    check_smallest(kind)
    graphs, calls = {}, {}
    for num_nodes in sizes:
        graphs[num_nodes], calls[num_nodes] = make_call(kind, num_nodes)
    times = interleaved(calls, rounds, at_least_ms=AT_LEAST_MS)
    medians = [statistics.median(times[num_nodes]) for num_nodes in sizes]
    fitted = exponent([graphs[num_nodes].num_edges for num_nodes in sizes], medians)
    rows = []
    for num_nodes, median in zip(sizes, medians, strict=True):
        graph = graphs[num_nodes]
        row = {
            "kind": kind,
            "num_nodes": num_nodes,
            "num_edges": graph.num_edges,
            "heads": _case(kind).heads,
            "chosen": auto_choice(graph, _case(kind)),
            "ms": median,
            "spread": spread(times[num_nodes]),
            "ns_per_edge_head": 1e6 * median / (graph.num_edges * NUM_HEADS),
            "peak_mib": float(in_fresh_process(__file__, ["--memory", kind, str(num_nodes)]).split()[-1]),
            "exponent": fitted,
        }
        rows.append(row)
        print(line(row), flush=True)
    print(f"{kind:8} time grows with edges to the power {fitted:.3f}", flush=True)
    return rows


def train_million(num_nodes: int) -> None:
    """Prints the milliseconds of each step, MiB resident before the steps and at the highest, and the edges."""
    graph = window(num_nodes)
    torch.manual_seed(0)
    weights = [torch.nn.Parameter(torch.randn(num_nodes, NUM_HEADS, HEAD_DIM)) for _ in range(3)]
    optimizer = torch.optim.SGD(weights, lr=0.1)
    before = resident()
    milliseconds = []
    for _ in range(3):
        start = time.perf_counter()
        optimizer.zero_grad()
        ga.graph_attention(*weights, graph).square().mean().backward()
        optimizer.step()
        milliseconds.append(1e3 * (time.perf_counter() - start))
    print(*milliseconds, before / MIB, peak() / MIB, graph.num_edges)


def measure_million(num_nodes: int) -> dict:
    printed = in_fresh_process(__file__, ["--million", str(num_nodes)]).splitlines()[-1].split()
    *milliseconds, before, highest = map(float, printed[:-1])
    num_edges = int(printed[-1])
    median = statistics.median(milliseconds[1:])
    return {
        "kind": "million",
        "num_nodes": num_nodes,
        "num_edges": num_edges,
        "heads": f"{NUM_HEADS} x {HEAD_DIM}",
        "ms": median,
        "spread": spread(milliseconds[1:]),
        "first_ms": milliseconds[0],
        "ns_per_edge_head": 1e6 * median / (num_edges * NUM_HEADS),
        "before_mib": before,
        "peak_mib": highest,
        "bar_gib": MILLION_BAR,
        "aim_gib": MILLION_AIM,
    }


def line(row: dict) -> str:
    """Returns a row of results as text."""
    timed = f"{row['ms']:8.4g} ms ({row['spread'][0]:.4g}-{row['spread'][1]:.4g})"
    return (
        f"{row['kind']:8} {row['num_nodes']:9,} nodes {row['num_edges']:10,} edges {timed:26} "
        f"{row['ns_per_edge_head']:6.1f} ns per edge, head {row['peak_mib']:7.0f} MiB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7, help="counted rounds, after two that are not")
    parser.add_argument("--no-million", action="store_true", help="leave the million tokens out")
    parser.add_argument("--out", type=Path, help="a JSON file for benchmarks/report.py")
    parser.add_argument("--quick", action="store_true", help="up to 10⁶ edges and an eighth of a million tokens")
    parser.add_argument("--memory", nargs=2, metavar=("KIND", "NUM_NODES"), help=argparse.SUPPRESS)
    parser.add_argument("--million", type=int, metavar="NUM_NODES", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory:
        return measure_memory(arguments.memory[0], int(arguments.memory[1]))
    if arguments.million:
        return train_million(arguments.million)
    sizes = QUICK_NODES if arguments.quick else NUM_NODES
    rows = [row for kind in KINDS for row in measure_kind(kind, sizes, arguments.rounds)]
    if not arguments.no_million:
        rows.append(measure_million(MILLION // 8 if arguments.quick else MILLION))
        print(line(rows[-1]), flush=True)
    if arguments.out:
        write_record(arguments.out, "scaling", rows)


if __name__ == "__main__":
    main()
