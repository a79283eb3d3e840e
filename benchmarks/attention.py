"""How fast is sparse attention that trains, against what a user would take instead? One process, side by side.

    python benchmarks/attention.py [--case window random molecules-8 molecules-32] [--rounds 9] [--out FILE.json]

For each case every contender first has to equal the specification (`dense`, head by head) in output and in the
gradients of query, key and value; then all are timed in turn, round by round, forward alone and forward with backward,
after two warm-up rounds. A row gives the median in ms, the spread (minimum to maximum), the ratio to `fused` (median
over rounds of the ratio in that round), and the peak of resident memory that one forward and backward adds, measured in
a process of its own. Inputs come from a fixed seed, float32. Nothing here is a test: machines are noisy, read ratios.

Contenders: `fused`, `blocks` (where the graph has blocks), `scatter` (torch-scatter's kernels if installed, torch's
otherwise), "dense SDPA" (unmasked scaled_dot_product_attention over all pairs, which computes another function and is a
yardstick), "padded SDPA" (index_copy into a padded batch, masked SDPA, gather back), "PyG" (gather,
torch_geometric.utils.softmax and scatter, as TransformerConv does it). Sample row:

    window        fused        forward    20.1 ms (19.8-22)  forward+backward      88 ms (86-95)     1.00x       34 MiB
"""

import argparse
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from measure import added_peak, in_fresh_process, interleaved, median_ratio, spread, write_record
from torch import Tensor

import graphattn as ga
from graphattn.graph import AttentionGraph


class Case(NamedTuple):
    """A graph and the shape of its heads, with the contenders that make sense for it."""

    graph: Callable[[bool], AttentionGraph]  # takes `quick`
    num_heads: int
    head_dim: int
    contenders: tuple[str, ...]


def window(quick: bool) -> AttentionGraph:
    return ga.connectivity.sliding_window(1024 if quick else 8192, radius=32)


def random_keys(quick: bool) -> AttentionGraph:
    return ga.connectivity.random_regular(1024 if quick else 8192, 65, generator=torch.Generator().manual_seed(0))


def molecules(quick: bool) -> AttentionGraph:
    sizes = torch.randint(10, 43, (32 if quick else 256,), generator=torch.Generator().manual_seed(0))
    return ga.connectivity.full(sizes)


CASES = {
    "window": Case(window, 8, 64, ("fused", "scatter", "PyG", "dense SDPA")),
    "random": Case(random_keys, 8, 64, ("fused", "scatter", "PyG", "dense SDPA")),
    "molecules-8": Case(molecules, 8, 8, ("fused", "blocks", "scatter", "PyG", "padded SDPA")),
    "molecules-32": Case(molecules, 8, 32, ("fused", "blocks", "scatter", "PyG", "padded SDPA")),
}


class Contender(NamedTuple):
    """What is timed: `call` on `leaves`, each [num_nodes, num_heads, dim], or with the first two swapped."""

    leaves: tuple[Tensor, Tensor, Tensor]
    call: Callable[[Tensor, Tensor, Tensor], Tensor]
    heads_first: bool = False


def make_contender(name: str, graph: AttentionGraph, inputs: tuple[Tensor, Tensor, Tensor]) -> Contender:
    """Binds one way of running attention to a graph; whatever depends on the graph alone is prepared here, untimed."""
    if name in ga.ops.IMPLEMENTATIONS:
        graph.plan() if name == "blocks" else graph.enumerate().plan()
        return Contender(_leaves(inputs), lambda q, k, v: ga.graph_attention(q, k, v, graph, impl=name))
    if name == "dense SDPA":
        heads_first = tuple(x.transpose(0, 1).contiguous() for x in inputs)

        def over_all_pairs(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return F.scaled_dot_product_attention(q[None], k[None], v[None])[0]

        return Contender(_leaves(heads_first), over_all_pairs, heads_first=True)
    if name == "padded SDPA":
        sizes = torch.diff(graph.src_ptr)
        batch, place = ga.graph.ragged_range(sizes)
        num_graphs, longest = sizes.numel(), int(sizes.max())
        row = batch * longest + place
        mask = (torch.arange(longest) < sizes[:, None])[:, None, None]

        def padded(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            def pad(x: Tensor) -> Tensor:
                empty = x.new_zeros(num_graphs * longest, *x.shape[1:])
                return empty.index_copy(0, row, x).view(num_graphs, longest, *x.shape[1:]).transpose(1, 2)

            out = F.scaled_dot_product_attention(pad(q), pad(k), pad(v), attn_mask=mask)
            return out.transpose(1, 2).flatten(0, 1)[row]

        return Contender(_leaves(inputs), padded)
    assert name == "PyG", name
    from torch_geometric.utils import scatter, softmax

    src, dst = graph.edge_index

    def composed(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        alpha = softmax((q[dst] * k[src]).sum(-1) / q.shape[-1] ** 0.5, dst, num_nodes=q.shape[0])
        return scatter(alpha[..., None] * v[src], dst, dim_size=q.shape[0], reduce="sum")

    return Contender(_leaves(inputs), composed)


def _leaves(tensors: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor]:
    return tuple(x.detach().clone().requires_grad_() for x in tensors)  # type: ignore[return-value]


def make_inputs(case: Case, graph: AttentionGraph) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
    generator = torch.Generator().manual_seed(1)
    draws = [torch.randn(graph.num_src_nodes, case.num_heads, case.head_dim, generator=generator) for _ in range(4)]
    return tuple(draws[:3]), draws[3]  # type: ignore[return-value]


def specification(graph: AttentionGraph, inputs: tuple[Tensor, ...], grad_out: Tensor) -> list[Tensor]:
    """Output and gradients of `dense`, one head at a time so that all pairs fit in memory."""
    per_head = []
    for head in range(grad_out.shape[1]):
        leaves = _leaves(tuple(x[:, head : head + 1] for x in inputs))
        out = ga.graph_attention(*leaves, graph, impl="dense")
        per_head.append([out.detach(), *torch.autograd.grad(out, leaves, grad_out[:, head : head + 1])])
    return [torch.cat(parts, 1) for parts in zip(*per_head, strict=True)]


def check(name: str, contender: Contender, grad_out: Tensor, expected: list[Tensor]) -> None:
    """Refuses to time what is not right."""
    out = contender.call(*contender.leaves)
    results = [out.detach(), *torch.autograd.grad(out, contender.leaves, grad_out)]
    for what, got, want in zip(("output", "d query", "d key", "d value"), results, expected, strict=True):
        gap = float((got - want).abs().max() / want.abs().max())
        if not gap < 1e-4:
            raise SystemExit(f"{name} differs from dense in {what} by {gap:.2g} of its largest value; not timed")


def time_all(contenders: dict[str, Contender], grad_out: Tensor, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Times forward, and forward with backward, of all contenders in turn; milliseconds per round."""

    def forward(contender: Contender) -> None:
        with torch.no_grad():
            contender.call(*contender.leaves)

    def both(contender: Contender, grad: Tensor) -> None:
        torch.autograd.grad(contender.call(*contender.leaves), contender.leaves, grad)

    heads_first = grad_out.transpose(0, 1).contiguous()
    calls: dict[tuple[str, str], Callable[[], None]] = {}
    for name, contender in contenders.items():
        calls[name, "forward"] = partial(forward, contender)
        calls[name, "both"] = partial(both, contender, heads_first if contender.heads_first else grad_out)
    times = interleaved(calls, rounds)
    return {name: {key: times[name, key] for key in ("forward", "both")} for name in contenders}


def peak_memory(case: str, contender: str, quick: bool) -> float:
    """Returns what one forward and backward adds to resident memory, in MiB, measured in a fresh process."""
    return float(in_fresh_process(__file__, ["--memory", case, contender] + ["--quick"] * quick).split()[-1])


def measure_memory(case_name: str, contender_name: str, quick: bool) -> None:
    case = CASES[case_name]
    tiny = make_contender(contender_name, molecules(True), make_inputs(case, molecules(True))[0])  # loads kernels
    torch.autograd.grad(tiny.call(*tiny.leaves).sum(), tiny.leaves)
    graph = case.graph(quick)
    inputs, grad_out = make_inputs(case, graph)
    contender = make_contender(contender_name, graph, inputs)
    grad = grad_out.transpose(0, 1).contiguous() if contender.heads_first else grad_out
    print(added_peak(lambda: torch.autograd.grad(contender.call(*contender.leaves), contender.leaves, grad)))


def line(row: dict) -> str:
    """Returns a row of results as text."""
    timed = [
        f"{key} {row[f'{key}_ms']:8.4g} ms ({row[f'{key}_spread'][0]:.4g}-{row[f'{key}_spread'][1]:.4g})"
        for key in ("forward", "forward+backward")
    ]
    ratio = f"{row['forward+backward_over_fused']:7.2f}x"
    return f"{row['case']:13} {row['contender']:12} {'  '.join(timed)}  {ratio} {row['peak_mib']:8.0f} MiB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--rounds", type=int, default=9, help="counted rounds, after two that are not")
    parser.add_argument("--out", type=Path, help="a JSON file for benchmarks/report.py")
    parser.add_argument("--quick", action="store_true", help="an eighth of each size, to see that it runs")
    parser.add_argument("--memory", nargs=2, metavar=("CASE", "CONTENDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory:
        return measure_memory(*arguments.memory, arguments.quick)
    rows = []
    for name in arguments.case:
        case = CASES[name]
        graph = case.graph(arguments.quick)
        inputs, grad_out = make_inputs(case, graph)
        contenders = {other: make_contender(other, graph, inputs) for other in case.contenders}
        expected = specification(graph, inputs, grad_out)
        for other, contender in contenders.items():
            if other != "dense SDPA":
                check(other, contender, grad_out, expected)
        del expected
        times = time_all(contenders, grad_out, arguments.rounds)
        for other, measured in times.items():
            row = {
                "case": name,
                "contender": other,
                "num_nodes": graph.num_src_nodes,
                "num_edges": graph.num_edges,
                "heads": f"{case.num_heads} x {case.head_dim}",
                "peak_mib": peak_memory(name, other, arguments.quick),
            }
            for key, label in (("forward", "forward"), ("both", "forward+backward")):
                row[f"{label}_ms"] = statistics.median(measured[key])
                row[f"{label}_spread"] = spread(measured[key])
                row[f"{label}_over_fused"] = median_ratio(measured[key], times["fused"][key])
            rows.append(row)
            print(line(row), flush=True)
    if arguments.out:
        write_record(arguments.out, "attention", rows)


if __name__ == "__main__":
    main()
