"""What do the soft top-k operators cost, how near are they to the hard one, and what does a search for edges take?

    python benchmarks/topk.py [--rounds 7] [--out FILE.json]

`rows`: k of n rows are kept by random scores, forward and backward, float32; what takes less than 20 ms is repeated
within its round. "successive halving" is `ops.successive_halving_topk`. "iterative" is the iterative relaxation in its
usual form, k softmaxes one after the other, written here; "iterative, one pass" is `ops.iterative_topk`, the same
function as one call of attention; "hard" is `ops.hard_topk`, whose scores get no gradient; "PyG TopKPooling" is another
function, which makes the scores itself and multiplies the k best rows by them. A row gives the median in ms, the
spread, the median over rounds of the ratio to successive halving in that round, and the mean cosine between the rows of
a soft operator and those of the hard one.

`edges`: `selection.TopKEdges(16)` over all pairs of n nodes of width 64, score of width 16, forward and backward, and
"torch.topk" over the matrix of all scores, which makes no graph. A row gives also the peak of resident memory that a
call adds, measured in a process of its own, beside what n × n float32 scores alone would take, which is computed, not
measured. First, the step by step form equals `iterative_topk`, and both searches find the same edges, with the same
gradient. Sample output:

    edges  4,096, 16 of width 64  TopKEdges     210.7 ms (197.9-223.5)  1.0x  30 MiB, n × n scores 64 (computed)
    edges  4,096, 16 of width 64  torch.topk    311.4 ms (301.3-321.6)  1.5x  129 MiB, n × n scores 64 (computed)
"""

import argparse
import math
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from measure import added_peak, in_fresh_process, interleaved, median_ratio, spread, write_record
from torch import Tensor, nn
from torch_geometric.nn import TopKPooling

import graphattn as ga
from graphattn.ops import hard_topk, iterative_topk, successive_halving_topk
from graphattn.selection import TopKEdges

SHARPNESS = 1000.0  # the default of iterative_topk
EMBED_DIM, K = 64, 16  # of the search for edges
ROW_CASES = ((8192, 512, 64), (8192, 512, 512), (2048, 128, 64), (8192, 64, 64))  # n, k, width
EDGE_CASES = (4096, 16384, 65536)
MOST_DENSE = 16384  # nodes whose matrix of scores is made
AT_LEAST_MS = 20.0
QUICK = 16  # by how much --quick divides the nodes
BARS = {"ratio": 10.0, "cosine": 0.95}  # at least, for n = 8,192 and k = 512
Call = Callable[[], object]
Operator = Callable[[Tensor, Tensor, int], Tensor]


class EdgeTask(NamedTuple):
    """One search: how, and among how many nodes."""

    what: str
    num_nodes: int

    @property
    def name(self) -> str:
        return f"{self.what}: {self.num_nodes}"


def step_by_step(x: Tensor, scores: Tensor, k: int) -> Tensor:
    """The iterative relaxation with a softmax over all rows for each of the k best, one after the other."""
    best = scores.topk(k)
    rows = [torch.softmax(-SHARPNESS * (scores - value).square(), 0) @ x for value in best.values]
    return torch.stack(rows)[best.indices.argsort()]


OPERATORS: dict[str, Operator] = {
    "successive halving": lambda x, scores, k: successive_halving_topk(x, scores, k)[0],
    "iterative": step_by_step,
    "iterative, one pass": lambda x, scores, k: iterative_topk(x, scores, k, SHARPNESS)[0],
    "hard": lambda x, scores, k: hard_topk(x, scores, k)[0],
}
SOFT = tuple(OPERATORS)[:3]


def row_inputs(num_rows: int, dim: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(num_rows, dim, generator=generator, dtype=dtype).requires_grad_()
    scores = (1.0 - torch.rand(num_rows, generator=generator, dtype=dtype)).requires_grad_()  # in (0, 1]
    return x, scores


def both_passes(call: Callable[[], Tensor], leaves: list[Tensor]) -> Call:
    """Returns a call that runs forward and backward; the gradient of the output is drawn once."""
    grad = torch.randn(call().shape, generator=torch.Generator().manual_seed(1))

    def run() -> None:
        for leaf in leaves:
            leaf.grad = None
        call().backward(grad)

    return run


def row_calls(num_rows: int, k: int, dim: int) -> dict[str, Call]:
    x, scores = row_inputs(num_rows, dim)

    def of(operator: Operator) -> Call:
        return both_passes(lambda: operator(x, scores, k), [x, scores])

    calls = {name: of(operator) for name, operator in OPERATORS.items()}
    pool = TopKPooling(dim, ratio=k)
    no_edges = torch.empty(2, 0, dtype=torch.int64)
    calls["PyG TopKPooling"] = both_passes(lambda: pool(x, no_edges)[0], [x, *pool.parameters()])
    return calls


def cosine_to_hard(name: str, num_rows: int, k: int, dim: int) -> float:
    """Returns the mean cosine between rows in the order of the input, of which both have k."""
    x, scores = row_inputs(num_rows, dim)
    with torch.no_grad():
        rows, best = OPERATORS[name](x, scores, k), OPERATORS["hard"](x, scores, k)
    return float(torch.cosine_similarity(rows, best).mean())


def check_rows() -> None:
    """Refuses to time a form of the relaxation that is not the other one."""
    x, scores = row_inputs(389, 5, torch.float64)
    outs = [OPERATORS[name](x, scores, 37) for name in SOFT[1:]]
    torch.testing.assert_close(*outs, rtol=1e-6, atol=1e-6)
    grads = [torch.autograd.grad(out.square().sum(), [x, scores]) for out in outs]
    torch.testing.assert_close(*grads, rtol=1e-5, atol=1e-5)


def measure_rows(num_rows: int, k: int, dim: int, rounds: int) -> list[dict]:
    times = interleaved(row_calls(num_rows, k, dim), rounds, at_least_ms=AT_LEAST_MS)
    rows = []
    for name, measured in times.items():
        row: dict = {"case": "rows", "what": name, "n": num_rows, "k": k, "dim": dim}
        row |= {"ms": statistics.median(measured), "spread": spread(measured), "is_yardstick": name not in OPERATORS}
        row["ratio"] = median_ratio(measured, times["successive halving"])
        if name in SOFT:
            row["cosine"] = cosine_to_hard(name, num_rows, k, dim)
        if (num_rows, k) == (8192, 512):
            row |= {"ratio_bar": BARS["ratio"]} if name == "iterative" else {}
            row |= {"cosine_bar": BARS["cosine"]} if name == "successive halving" else {}
        rows.append(row)
        print(line(row), flush=True)
    return rows


def seat_and_input(num_nodes: int) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return TopKEdges(K).build(EMBED_DIM, 1), torch.randn(num_nodes, EMBED_DIM).requires_grad_()


def dense_search(seat: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the k best scores of each target and their sources, from the matrix of all."""
    scores = seat.query_proj(x) @ seat.key_proj(x).T / math.sqrt(seat.spec.score_dim)
    best = scores.topk(K, 1)
    return best.values, best.indices


def edge_call(task: EdgeTask) -> Call:
    seat, x = seat_and_input(task.num_nodes)
    leaves = [x, *seat.parameters()]
    if task.what == "torch.topk":
        return both_passes(lambda: dense_search(seat, x)[0], leaves)
    graph = ga.connectivity.full(task.num_nodes)
    return both_passes(lambda: seat(x, graph)[1], leaves)


def check_edges(num_nodes: int = 1021) -> None:
    """Refuses to time a search that does not find what the matrix of scores has."""
    seat, x = seat_and_input(num_nodes)
    seat, x = seat.double(), x.detach().double().requires_grad_()
    kept, bias = seat(x, ga.connectivity.full(num_nodes))
    values, sources = dense_search(seat, x)
    order = sources.argsort(1)
    assert torch.equal(kept.edge_index[0].view(num_nodes, -1), sources.gather(1, order)), "other edges"
    outs = (bias.view(num_nodes, -1), values.gather(1, order))
    torch.testing.assert_close(*outs)
    grads = [torch.autograd.grad(out.sin().sum(), [x, *seat.parameters()]) for out in outs]
    torch.testing.assert_close(*grads)


def edge_tasks(shrink: int) -> Iterator[EdgeTask]:
    for num_nodes in EDGE_CASES:
        yield EdgeTask("TopKEdges", num_nodes // shrink)
        if num_nodes <= MOST_DENSE:
            yield EdgeTask("torch.topk", num_nodes // shrink)


def measure_memory(what: str, num_nodes: int) -> None:
    edge_call(EdgeTask(what, 512))()  # imports, and compiles kernels
    call = edge_call(EdgeTask(what, num_nodes))
    print(added_peak(call))


def measure_edges(shrink: int, rounds: int) -> list[dict]:
    rows = []
    for num_nodes in EDGE_CASES:
        of_size = {task.what: task for task in edge_tasks(shrink) if task.num_nodes == num_nodes // shrink}
        times = interleaved({what: edge_call(task) for what, task in of_size.items()}, rounds, warm_ups=1)
        for what, task in of_size.items():
            printed = in_fresh_process(__file__, ["--memory", what, str(task.num_nodes)])
            row = {
                "case": "edges",
                "what": what,
                "n": task.num_nodes,
                "k": K,
                "dim": EMBED_DIM,
                "ms": statistics.median(times[what]),
                "spread": spread(times[what]),
                "ratio": median_ratio(times[what], times["TopKEdges"]),
                "peak_mib": float(printed.split()[-1]),
                "scores_mib_computed": 4 * task.num_nodes**2 / 2**20,
            }
            rows.append(row)
            print(line(row), flush=True)
    return rows


def line(row: dict) -> str:
    """Returns a row of results as text."""
    timed = f"{row['ms']:8,.4g} ms ({row['spread'][0]:,.4g}-{row['spread'][1]:,.4g})"
    text = f"{row['case']:6} {row['n']:,}, {row['k']} of width {row['dim']}".ljust(34)
    text += f"{row['what']:20} {timed:28} {row['ratio']:6.1f}x"
    if "cosine" in row:
        text += f"  cosine {row['cosine']:.3f}"
    if "peak_mib" in row:
        text += f"  {row['peak_mib']:,.0f} MiB, n × n scores {row['scores_mib_computed']:,.0f} (computed)"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", nargs="+", choices=("rows", "edges"), default=["rows", "edges"])
    parser.add_argument("--rounds", type=int, default=7, help="counted rounds, after two that are not; of edges half")
    parser.add_argument("--out", type=Path, help="a JSON file for benchmarks/report.py")
    parser.add_argument("--quick", action="store_true", help=f"a {QUICK}th of the nodes and rows")
    parser.add_argument("--memory", nargs=2, metavar=("WHAT", "NUM_NODES"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory:
        return measure_memory(arguments.memory[0], int(arguments.memory[1]))
    shrink = QUICK if arguments.quick else 1
    rows = []
    if "rows" in arguments.case:
        check_rows()
        for num_rows, k, dim in ROW_CASES:
            rows += measure_rows(num_rows // shrink, max(1, k // shrink), dim, arguments.rounds)
    if "edges" in arguments.case:
        check_edges()
        rows += measure_edges(shrink, -(-arguments.rounds // 2))
    if arguments.out:
        write_record(arguments.out, "topk", rows)


if __name__ == "__main__":
    main()
