"""What do the three scores cost: parameters, time per training step, and memory of one layer?

    python benchmarks/scores.py [--case window molecules-32 …] [--rounds 9] [--out FILE.json]

A layer of the case's heads (embed_dim = heads × width), impl="auto", float32, no dropout. A step is forward and the
gradient of the input and of every parameter. First each score equals, in output and gradients and in float64, the dot
product whose key projection is the product of its matrix and its query projection, on a sixty-fourth of the nodes; then
all are timed in turn. A row gives the layer's parameters, the median in ms, the spread, the ratio to the dot product
(median over rounds of the ratio in that round), and what one step adds to resident memory at its highest, in MiB,
measured in a process of its own. Sample row:

    window       symmetric       787,968 parameters     1136 ms (1038-1846)      0.77x dot product    133.8 MiB
"""

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from cases import CASES, QUICK, TINY, Case
from measure import added_peak, in_fresh_process, interleaved, median_ratio, spread, write_record
from torch import Tensor

from graphattn.graph import AttentionGraph
from graphattn.nn import DotProduct, GraphAttention, Pairwise, Symmetric

SCORES: dict[str, Any] = {"dot product": DotProduct(), "symmetric": Symmetric(), "pairwise": Pairwise(init="scaled")}
DEFAULT_CASES = ("window", "random", "molecules-32")
AT_LEAST_MS = 20.0
TOLERANCE = 1e-10


def make_layer(name: str, case: Case) -> GraphAttention:
    torch.manual_seed(0)
    return GraphAttention(case.num_heads * case.head_dim, case.num_heads, score=SCORES[name])


def make_step(layer: GraphAttention, case: Case, graph: AttentionGraph) -> Callable[[], tuple[Tensor, ...]]:
    """Returns a call that computes the output and the gradient of the input and of every parameter."""
    dtype = layer.out_proj.weight.dtype
    draws = torch.Generator().manual_seed(1)
    x, grad_out = (
        torch.randn(graph.num_src_nodes, case.num_heads * case.head_dim, generator=draws, dtype=dtype) for _ in range(2)
    )
    leaves = [x.requires_grad_(), *layer.parameters()]

    def step() -> tuple[Tensor, ...]:
        out = layer(x, graph)
        return out.detach(), *torch.autograd.grad(out, leaves, grad_out)

    return step


def check(case_name: str, name: str) -> None:
    """Refuses to time what is not right: the output and the gradient of the input."""
    case = CASES[case_name]
    graph = case.graph(TINY)
    layer: Any = make_layer(name, case).double()
    other: Any = make_layer("dot product", case).double()
    other.load_state_dict(layer.state_dict(), strict=False)
    if name != "dot product":
        pair = torch.eye(case.head_dim, dtype=torch.float64).expand(case.num_heads, -1, -1)
        pair = getattr(layer.score, "pair_weight", pair).detach()
        query, key = layer.score.query_proj, other.score.key_proj
        with torch.no_grad():
            key.weight.copy_((pair @ query.weight.unflatten(0, pair.shape[:2])).flatten(0, 1))
            key.bias.copy_((pair @ query.bias.unflatten(0, pair.shape[:2])[..., None]).flatten())
    for place, (one, two) in enumerate(zip(*(make_step(made, case, graph)()[:2] for made in (layer, other)))):
        gap = float((one - two).abs().max() / two.abs().max())
        if not gap < TOLERANCE:
            raise SystemExit(f"{case_name}, {name} differs from its dot product in {place} by {gap:.2g}; not timed")


def measure_memory(case_name: str, name: str, shrink: int) -> None:
    case = CASES[case_name]
    make_step(make_layer(name, case), case, case.graph(TINY))()  # compiles kernels
    step = make_step(make_layer(name, case), case, case.graph(shrink))
    step()  # makes the plan, which stays
    print(added_peak(step))


def line(row: dict) -> str:
    """Returns a row of results as text."""
    timed = f"{row['ms']:8.4g} ms ({row['spread'][0]:.4g}-{row['spread'][1]:.4g})"
    return (
        f"{row['case']:12} {row['score']:12} {row['num_parameters']:10,} parameters {timed:28} "
        f"{row['ratio']:6.2f}x dot product {row['peak_mib']:8.1f} MiB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", nargs="+", choices=CASES, default=list(DEFAULT_CASES))
    parser.add_argument("--rounds", type=int, default=9, help="counted rounds, after two that are not")
    parser.add_argument("--out", type=Path, help="a JSON file for benchmarks/report.py")
    parser.add_argument("--quick", action="store_true", help="an eighth of each size, to see that it runs")
    parser.add_argument("--memory", nargs=2, metavar=("CASE", "SCORE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    shrink = QUICK if arguments.quick else 1
    if arguments.memory:
        return measure_memory(*arguments.memory, shrink)
    rows = []
    for case_name in arguments.case:
        case = CASES[case_name]
        graph = case.graph(shrink)
        layers = {}
        for name in SCORES:
            check(case_name, name)
            layers[name] = make_layer(name, case)
        calls = {name: make_step(layer, case, graph) for name, layer in layers.items()}
        times = interleaved(calls, arguments.rounds, at_least_ms=AT_LEAST_MS)
        for name, layer in layers.items():
            flags = ["--memory", case_name, name] + ["--quick"] * arguments.quick
            row = {
                "case": case_name,
                "score": name,
                "num_nodes": graph.num_src_nodes,
                "num_edges": graph.num_edges,
                "heads": case.heads,
                "num_parameters": sum(weight.numel() for weight in layer.parameters()),
                "ms": statistics.median(times[name]),
                "spread": spread(times[name]),
                "ratio": median_ratio(times[name], times["dot product"]),
                "peak_mib": float(in_fresh_process(__file__, flags).split()[-1]),
            }
            rows.append(row)
            print(line(row), flush=True)
    if arguments.out:
        write_record(arguments.out, "scores", rows)


if __name__ == "__main__":
    main()
