"""What does it cost to ask a recording who came from whom, against dense matrices and networkx?

    python benchmarks/pathways.py [--rounds 5] [--out FILE.json]

12 layers of 512 tokens, each of which reads 8 random ones with 12 heads: 49,152 edges, 589,824 with heads apart.
`pathways`: from the recording to the layered graph. `rollout`: from every output to every input, and as the product of
dense matrices. `max-flow`: between one output and all 512 inputs, and between one pair; networkx has the same
capacities for one pair, and preflow_push. `prune`: to 80 % of the influence on one output. `paths`: the ten strongest
into any output. `write`: what pruning left, to a file. What takes less than 100 ms is repeated in its round.

A row gives the median in ms, the spread, the peak of resident memory that a call adds, measured in a process of its
own, and the bar. First, at a small size, rollout equals the product of dense matrices, every flow that of networkx
within the rounding that it states, influence the sum over all paths, and strongest paths those of a list of all.
Sample output:

    rollout   every output                      67.15 ms (60.31-68.4)             34 MiB   bar 300 ms
    max-flow  one output, all inputs            1,693 ms (1,682-2,017)             5 MiB   bar 10000 ms
    max-flow  one pair                          20.23 ms (19.66-20.55)             5 MiB
    max-flow  one pair by networkx              804.1 ms (747.2-1,148)            39 MiB
"""

import argparse
import itertools
import statistics
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

import networkx
import torch
from measure import added_peak, in_fresh_process, interleaved, spread, write_record
from torch import Tensor

import graphattn as ga
from graphattn.viz import Recording, Step
from graphattn.viz.pathways import Pathways

NUM_LAYERS, NUM_TOKENS, NUM_KEYS, NUM_HEADS = 12, 512, 8, 12
OUTPUT = 3
QUICK = 8  # by how much --quick divides the number of tokens
AT_LEAST_MS = 100.0
Call = Callable[[], object]


class Task(NamedTuple):
    """One row: `make` takes the number of tokens, and returns the call to measure."""

    case: str
    what: str
    make: Callable[[int], Call]
    bar_ms: float | None = None
    is_peer: bool = False


@cache
def recording(num_tokens: int, num_layers: int = NUM_LAYERS, num_keys: int = NUM_KEYS) -> Recording:
    """Random queries and keys on random graphs."""
    generator = torch.Generator().manual_seed(0)
    steps = []
    for layer in range(num_layers):
        graph = ga.connectivity.random_regular(num_tokens, num_keys, generator=generator)
        query, key = torch.randn(2, num_tokens, NUM_HEADS, 16, generator=generator)
        alpha, kept = ga.attention_weights(query, key, graph), torch.ones(num_tokens, NUM_HEADS)
        steps.append(
            Step(f"layers.{layer}", 0, "attention", graph, alpha, torch.arange(NUM_HEADS), None, None, None, None, kept)
        )
    return Recording(steps)


@cache
def layered(num_tokens: int, heads: str = "mean") -> Pathways:
    return ga.viz.pathways(recording(num_tokens), heads=heads)


def dense_rollout(of: Recording) -> Tensor:
    """Returns the product of 0.5 I + 0.5 · mean over heads, as it is written."""
    num_tokens = of.graphs()[0].num_dst_nodes
    whole = unit = torch.eye(num_tokens, dtype=torch.float64)
    for graph, alpha in zip(of.graphs(), of.alphas()):
        src, dst = graph.edge_index
        layer = unit.clone()
        layer[dst, src] += alpha.double().mean(1)
        whole = layer / layer.sum(1, keepdim=True) @ whole
    return whole


def flow_network(pathways: Pathways) -> networkx.DiGraph:
    """Capacities for networkx, from outputs to inputs; parallel edges added up."""
    network = networkx.DiGraph()
    network.add_nodes_from(range(pathways.num_nodes))
    for src, dst, weight in zip(*pathways.edge_index.tolist(), pathways.weight.tolist()):
        before = network.edges[dst, src]["capacity"] if network.has_edge(dst, src) else 0.0
        network.add_edge(dst, src, capacity=before + weight)
    return network


def networkx_flow(num_tokens: int) -> Call:
    pathways = layered(num_tokens)
    network, output = flow_network(pathways), int(pathways.outputs[OUTPUT])
    algorithm = networkx.algorithms.flow.preflow_push
    return lambda: networkx.maximum_flow_value(network, output, 0, flow_func=algorithm)


def written(suffix: str) -> Callable[[int], Call]:
    def make(num_tokens: int) -> Call:
        pruned = layered(num_tokens).prune(0.8, outputs=OUTPUT)

        def call() -> None:
            with tempfile.TemporaryDirectory() as folder:
                pruned.write(Path(folder) / f"pathways{suffix}")

        return call

    return make


def of_pathways(call: Callable[[Pathways], object], heads: str = "mean") -> Callable[[int], Call]:
    """A task that asks pathways made before."""

    def make(num_tokens: int) -> Call:
        pathways = layered(num_tokens, heads)
        return lambda: call(pathways)

    return make


def made(heads: str) -> Callable[[int], Call]:
    """A task that makes pathways from a recording."""

    def make(num_tokens: int) -> Call:
        of = recording(num_tokens)
        return lambda: ga.viz.pathways(of, heads=heads)

    return make


def dense_matrices(num_tokens: int) -> Call:
    of = recording(num_tokens)
    return lambda: dense_rollout(of)


def tasks() -> Iterator[Task]:
    yield Task("pathways", "heads averaged", made("mean"))
    yield Task("pathways", "heads apart", made("each"))
    yield Task("rollout", "every output", of_pathways(Pathways.rollout), 300)
    yield Task("rollout", "every output, heads apart", of_pathways(Pathways.rollout, "each"))
    yield Task("rollout", "dense matrices", dense_matrices, is_peer=True)
    yield Task("max-flow", "one output, all inputs", of_pathways(lambda p: p.max_flow(OUTPUT)), 10_000)
    yield Task("max-flow", "one pair", of_pathways(lambda p: p.max_flow(OUTPUT, 0)))
    yield Task("max-flow", "one pair by networkx", networkx_flow, is_peer=True)
    yield Task("prune", "80 % for one output", of_pathways(lambda p: p.prune(0.8, outputs=OUTPUT)))
    yield Task("prune", "the same, heads apart", of_pathways(lambda p: p.prune(0.8, outputs=OUTPUT), "each"))
    yield Task("paths", "ten strongest", of_pathways(Pathways.strongest_paths))
    yield Task("paths", "ten strongest, heads apart", of_pathways(Pathways.strongest_paths, "each"))
    for suffix in (".graphml", ".gexf", ".json", ".dot"):
        yield Task("write", f"{suffix}, 80 % for one output", written(suffix))


TASKS = {f"{task.case}: {task.what}": task for task in tasks()}


def check() -> None:
    """Compares what is timed with slow and plain accounts of it, at a small size."""
    small = recording(11, num_layers=3, num_keys=2)
    pathways = ga.viz.pathways(small)
    torch.testing.assert_close(pathways.rollout().weight, dense_rollout(small), rtol=1e-12, atol=1e-14)
    flow, network = pathways.max_flow(range(11)), flow_network(pathways)
    for row, column in itertools.product(range(11), range(11)):
        ends = int(flow.outputs[row]), int(flow.inputs[column])
        exact = networkx.maximum_flow_value(network, *ends)
        assert abs(float(flow.weight[row, column]) - exact) <= flow.rounding + 1e-12, ends
    check_paths(pathways)
    of_two = [replace(step, alpha=step.alpha[:, :2], head=step.head[:2], kept=step.kept[:, :2]) for step in small.steps]
    check_paths(ga.viz.pathways(Recording(of_two), heads="each"))


def check_paths(pathways: Pathways) -> None:
    """Compares influence, pruning and strongest paths with a walk along every path."""
    into: dict[int, list[int]] = {}
    for edge, target in enumerate(pathways.edge_index[1].tolist()):
        into.setdefault(target, []).append(edge)
    source, weight = pathways.edge_index[0].tolist(), pathways.weight.tolist()
    carried, products = [0.0] * pathways.num_edges, []

    def down(node: int, product: float) -> None:
        if node not in into:
            products.append(product)
        for edge in into.get(node, ()):
            carried[edge] += product * weight[edge]
            down(source[edge], product * weight[edge])

    for output in pathways.outputs.tolist():
        down(output, 1.0)
    of_outputs = torch.tensor(carried, dtype=torch.float64) / len(pathways.outputs)
    torch.testing.assert_close(pathways.influence(), of_outputs)
    strongest = torch.tensor(sorted(products, reverse=True)[:10], dtype=torch.float64)
    torch.testing.assert_close(pathways.strongest_paths().weight, strongest)
    pruned, order = pathways.prune(0.8), of_outputs.sort(descending=True).values
    number = int((order.cumsum(0) < 0.8 * order.sum()).sum()) + 1
    assert pruned.num_edges <= number and pruned.kept <= float(order[:number].sum() / order.sum()) + 1e-12


def measure_memory(name: str, num_tokens: int) -> None:
    TASKS[name].make(16)()  # imports and warms up
    print(added_peak(TASKS[name].make(num_tokens)))


def measure_case(case: str, rounds: int, num_tokens: int) -> list[dict]:
    of_case = {name: task for name, task in TASKS.items() if task.case == case}
    calls = {name: task.make(num_tokens) for name, task in of_case.items()}
    times = interleaved(calls, rounds, warm_ups=1, at_least_ms=AT_LEAST_MS)
    rows = []
    for name, task in of_case.items():
        row = {
            "case": case,
            "what": task.what,
            "is_peer": task.is_peer,
            "ms": statistics.median(times[name]),
            "spread": spread(times[name]),
            "peak_mib": float(in_fresh_process(__file__, ["--memory", name, str(num_tokens)]).split()[-1]),
            "bar_ms": task.bar_ms,
        }
        rows.append(row)
        print(line(row), flush=True)
    return rows


def line(row: dict) -> str:
    """Returns a row of results as text."""
    timed = f"{row['ms']:10,.4g} ms ({row['spread'][0]:,.4g}-{row['spread'][1]:,.4g})"
    bar = f"   bar {row['bar_ms']:g} ms" if row["bar_ms"] else ""
    return f"{row['case']:9} {row['what']:28} {timed:34} {row['peak_mib']:6,.0f} MiB{bar}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cases = list(dict.fromkeys(task.case for task in TASKS.values()))
    parser.add_argument("--case", nargs="+", choices=cases, default=cases)
    parser.add_argument("--rounds", type=int, default=5, help="counted rounds, after one that is not")
    parser.add_argument("--out", type=Path, help="a JSON file for benchmarks/report.py")
    parser.add_argument("--quick", action="store_true", help=f"an {QUICK}th of the tokens")
    parser.add_argument("--memory", nargs=2, metavar=("NAME", "TOKENS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory:
        return measure_memory(arguments.memory[0], int(arguments.memory[1]))
    check()
    num_tokens = NUM_TOKENS // QUICK if arguments.quick else NUM_TOKENS
    rows = [row for case in arguments.case for row in measure_case(case, arguments.rounds, num_tokens)]
    if arguments.out:
        write_record(arguments.out, "pathways", rows)


if __name__ == "__main__":
    main()
