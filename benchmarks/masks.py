"""What does it cost to build, combine, convert, save and describe a mask, against FlexAttention and dense masks?

    python benchmarks/masks.py [--rounds 5] [--out FILE.json]

`window`: each of 16,384 tokens reads 64 to either side, as a graph, as a BlockMask made from the graph, as the
BlockMask of `create_block_mask`, and as a dense bool mask. `build`: ten million edges. `union`, `intersection`,
`difference`: of two graphs of ten million edges each, 33 random keys of each node with other random keys, and with a
window. `block mask`: a graph of 65,536 tokens → BlockMask; create_block_mask would take 16 times the memory of the
first case. `file`: ten million edges to safetensors and back, written to the page cache. `describe`: degrees,
components, hops and costs of a causal window over 50,000 tokens. No graph remembers anything from an earlier round.
What takes less than 100 ms is repeated in its round: after create_block_mask a first call finds no memory in reserve.

A row gives the median in ms, the spread, the peak of resident memory that a call adds, measured in a process of its
own, and the bar. First, at a size that 128 does not divide, the BlockMask of each pattern equals create_block_mask's,
and each operation that of dense masks. Sample output:

    build        window                        360.5 ms (256.3-375)               185 MiB   bar 3000 ms
    union        random keys, random keys      897.4 ms (850.7-1,003)             648 MiB   bar 2000 ms
"""

import argparse
import operator
import statistics
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from measure import added_peak, in_fresh_process, interleaved, spread, write_record
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask

import graphattn as ga
from graphattn.graph import AttentionGraph

QUICK = 16  # by how much --quick divides the number of tokens
CHECKED_NODES = 389
RADIUS = 64
AT_LEAST_MS = 100.0
SET_OPERATIONS: dict[str, Callable] = {"union": operator.or_, "intersection": operator.and_, "difference": operator.sub}
ON_MASKS: dict[str, Callable] = SET_OPERATIONS | {"difference": lambda left, right: left & ~right}
TABLES = ("kv_num_blocks", "kv_indices", "full_kv_num_blocks", "full_kv_indices")
Call = Callable[[], object]


class Task(NamedTuple):
    """One row: `make` takes by how much to shrink the number of nodes, and returns the call to measure."""

    case: str
    what: str
    make: Callable[[int], Call]
    bar_ms: float | None = None
    bar_mib: float | None = None


def window(num_nodes: int) -> AttentionGraph:
    return ga.connectivity.sliding_window(num_nodes, radius=RADIUS)


def in_window(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
    return (q_idx - kv_idx).abs() <= RADIUS


def flex_window(num_nodes: int) -> BlockMask:
    return create_block_mask(in_window, None, None, num_nodes, num_nodes, device="cpu")


def dense_window(num_nodes: int) -> Tensor:
    position = torch.arange(num_nodes)
    return (position[:, None] - position).abs() <= RADIUS


def narrow_window(num_nodes: int) -> AttentionGraph:
    """33 keys per node: ten million edges over 303,040 nodes."""
    return ga.connectivity.sliding_window(num_nodes, radius=16)


def random_keys(num_nodes: int, seed: int = 0, num_keys: int = 33) -> AttentionGraph:
    return ga.connectivity.random_regular(num_nodes, num_keys, generator=torch.Generator().manual_seed(seed))


def causal_window(num_nodes: int) -> AttentionGraph:
    return window(num_nodes).keep(ga.rules.is_causal)


def fresh(graph: AttentionGraph) -> AttentionGraph:
    """Returns the graph as if just made: what it found out about itself is forgotten."""
    return AttentionGraph.trusted(graph.edge_index, graph.num_src_nodes, kinds=graph.kinds)


def of_size(call: Callable[[int], object], num_nodes: int) -> Callable[[int], Call]:
    """A task that makes something from the number of nodes."""
    return lambda shrink: lambda: call(num_nodes // shrink)


def of_graph(
    call: Callable[[AttentionGraph], object], make: Callable[[int], AttentionGraph], num_nodes: int
) -> Callable[[int], Call]:
    """A task that does something with a graph made before."""

    def task(shrink: int) -> Call:
        graph = make(num_nodes // shrink)
        return lambda: call(fresh(graph))

    return task


def combination(operation: str, other: Callable[[int], AttentionGraph]) -> Callable[[int], Call]:
    def task(shrink: int) -> Call:
        left, right = random_keys(NUM_NODES // shrink), other(NUM_NODES // shrink)
        return lambda: SET_OPERATIONS[operation](fresh(left), fresh(right))

    return task


def to_file_and_back(graph: AttentionGraph) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mask.safetensors"
        graph.save(path)
        assert AttentionGraph.load(path).num_edges == graph.num_edges


def other_random_keys(num_nodes: int) -> AttentionGraph:
    return random_keys(num_nodes, seed=1)


NUM_NODES = 303_040  # with 33 keys: ten million edges


def tasks() -> Iterator[Task]:
    size = 16_384
    yield Task("window", "graph", of_size(window, size), 60, 100)
    yield Task("window", "graph → BlockMask", of_size(lambda n: window(n).to_block_mask(), size))
    yield Task("window", "create_block_mask", of_size(flex_window, size))
    yield Task("window", "dense bool mask", of_size(dense_window, size))
    yield Task("build", "window", of_size(narrow_window, NUM_NODES), 3000)
    yield Task("build", "random keys", of_size(random_keys, NUM_NODES), 3000)
    for operation in SET_OPERATIONS:
        yield Task(operation, "random keys, random keys", combination(operation, other_random_keys), 2000)
        yield Task(operation, "random keys, window", combination(operation, narrow_window), 2000)
    for what, make in (("window", window), ("random keys", lambda n: random_keys(n, num_keys=64))):
        yield Task("block mask", what, of_graph(AttentionGraph.to_block_mask, make, 65_536), 1000)
    yield Task("file", "save and load", of_graph(to_file_and_back, random_keys, NUM_NODES), 1000)
    yield Task("describe", "causal window", of_graph(AttentionGraph.describe, causal_window, 50_000), 1000)


TASKS = {f"{task.case}: {task.what}": task for task in tasks()}


def check() -> None:
    """Compares what is timed with dense masks, and with create_block_mask, at a small size."""
    size = CHECKED_NODES
    graphs = {"window": window(size), "random": random_keys(size), "causal": causal_window(size)}
    torch.testing.assert_close(graphs["window"].to_mask(), dense_window(size))
    for name, graph in graphs.items():
        mask = graph.to_mask()
        theirs = create_block_mask(lambda b, h, q, kv, mask=mask: mask[q, kv], None, None, size, size, device="cpu")
        ours = graph.to_block_mask()
        for table in TABLES:
            assert torch.equal(getattr(ours, table), getattr(theirs, table)), f"{name}: {table} differs"
    for name, operation in SET_OPERATIONS.items():
        for right in (random_keys(size, seed=1), narrow_window(size)):
            wanted = ON_MASKS[name](graphs["random"].to_mask(), right.to_mask())
            assert torch.equal(operation(graphs["random"], right).to_mask(), wanted), name


def measure_memory(name: str, shrink: int) -> None:
    call = TASKS[name].make(shrink)
    TASKS[name].make(16 * shrink)()  # imports and warms up
    print(added_peak(call))


def measure_case(case: str, rounds: int, shrink: int) -> list[dict]:
    of_case = {name: task for name, task in TASKS.items() if task.case == case}
    times = interleaved(
        {name: task.make(shrink) for name, task in of_case.items()}, rounds, warm_ups=1, at_least_ms=AT_LEAST_MS
    )
    rows = []
    for name, task in of_case.items():
        row = {
            "case": case,
            "what": task.what,
            "ms": statistics.median(times[name]),
            "spread": spread(times[name]),
            "peak_mib": float(in_fresh_process(__file__, ["--memory", name, str(shrink)]).split()[-1]),
            "bar_ms": task.bar_ms,
            "bar_mib": task.bar_mib,
        }
        rows.append(row)
        print(line(row), flush=True)
    return rows


def line(row: dict) -> str:
    """Returns a row of results as text."""
    timed = f"{row['ms']:10,.4g} ms ({row['spread'][0]:,.4g}-{row['spread'][1]:,.4g})"
    bars = [f"{row[f'bar_{unit}']:g} {label}" for unit, label in (("ms", "ms"), ("mib", "MiB")) if row[f"bar_{unit}"]]
    return f"{row['case']:12} {row['what']:24} {timed:34} {row['peak_mib']:8,.0f} MiB" + (
        f"   bar {', '.join(bars)}" if bars else ""
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cases = list(dict.fromkeys(task.case for task in TASKS.values()))
    parser.add_argument("--case", nargs="+", choices=cases, default=cases)
    parser.add_argument("--rounds", type=int, default=5, help="counted rounds, after one that is not")
    parser.add_argument("--out", type=Path, help="a JSON file for benchmarks/report.py")
    parser.add_argument("--quick", action="store_true", help=f"a {QUICK}th of the nodes")
    parser.add_argument("--memory", nargs=2, metavar=("NAME", "SHRINK"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory:
        return measure_memory(arguments.memory[0], int(arguments.memory[1]))
    check()
    shrink = QUICK if arguments.quick else 1
    rows = [row for case in arguments.case for row in measure_case(case, arguments.rounds, shrink)]
    if arguments.out:
        write_record(arguments.out, "masks", rows)


if __name__ == "__main__":
    main()
