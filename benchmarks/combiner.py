"""What does a training step of one Combiner layer cost, against dense attention and a window of equal cost?

    python benchmarks/combiner.py [--lengths 256 ... 65536] [--dense-up-to 16384] [--rounds 5] [--out FILE.json]

4 heads × 32, width 128, batch 1, float32, forward, loss, backward, zero_grad; causal, or --bidirectional. The forms of
`graphattn.nn.combiner`, with √L tokens per segment or row; dense attention, torch's `scaled_dot_product_attention`
(causal by is_causal=True); and a window, of as many edges as the two graphs of `fixed` have. Each is measured twice:
`attention` alone, from the same queries, keys and values to outputs and their gradients, pooling and summaries included
and no projection on either side; and the whole `layer`, the same projections on both sides. All are timed in turn. A
row gives the median in ms, the spread, the edges, and the peak of resident memory that a step adds, measured in a
process of its own; where dense attention was timed, the median over rounds of its time over the row's in that round.
`materialised` is dense attention that holds all pairs (`SDPBackend.MATH`): its memory is measured at --math-at tokens,
and for other lengths computed from that, in proportion to L². From 16,384 tokens on there are half as many rounds. The
last row of each form has the exponent of the power of L that fits its times best, over all lengths and from 4,096
tokens on. Every form first equals its own `dense` implementation in output and gradients.
"""

import argparse
import math
import statistics
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from contenders import TOLERANCE
from measure import added_peak, in_fresh_process, interleaved, median_ratio, spread, write_record
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import graphattn as ga
from graphattn.graph import AttentionGraph
from graphattn.nn import GraphAttention, combiner

DIM, NUM_HEADS = 128, 4
PARTS = ("attention", "layer")
LENGTHS = (256, 1024, 4096, 16_384, 65_536)
FIT_FROM = 4096
FEWER_ROUNDS_FROM = 16_384
CHECKED = 300  # tokens: no square, so that last segments and rows are shorter
BARS = {"speed": 20.0, "memory": 20.0, "exponent": {"log_sparse": 1.15}, "exponent_of_others": 1.6}


class DenseAttention(nn.Module):
    """Attention among all tokens."""

    def __init__(self, is_causal: bool):
        super().__init__()
        self.is_causal = is_causal

    def forward(self, query: Tensor, key: Tensor, value: Tensor, graph: AttentionGraph) -> Tensor:
        q, k, v = (x.transpose(0, 1)[None] for x in (query, key, value))
        out = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=self.is_causal)
        return out[0].transpose(0, 1)


class WindowAttention(nn.Module):
    def forward(self, query: Tensor, key: Tensor, value: Tensor, graph: AttentionGraph) -> Tensor:
        return ga.ops.graph_attention(query, key, value, graph)


class Attention(nn.Module):
    """What attends, between no projections: x holds queries, keys and values, [num_tokens, 3 · DIM]."""

    def __init__(self, attends: nn.Module):
        super().__init__()
        self.attends = attends

    def forward(self, x: Tensor, graph: AttentionGraph) -> Tensor:
        query, key, value = x.unflatten(1, (3, NUM_HEADS, -1)).unbind(1)
        return self.attends(query, key, value, graph).flatten(1)


class Dense(nn.Module):
    """Attention among all tokens between the projections of `GraphAttention`."""

    def __init__(self, is_causal: bool):
        super().__init__()
        self.inner = nn.Linear(DIM, 3 * DIM)
        self.out_proj = nn.Linear(DIM, DIM)
        self.attends = DenseAttention(is_causal)

    def forward(self, x: Tensor, graph: AttentionGraph) -> Tensor:
        query, key, value = self.inner(x).unflatten(1, (3, NUM_HEADS, -1)).unbind(1)
        return self.out_proj(self.attends(query, key, value, graph).flatten(1))


def root(length: int) -> int:
    return math.isqrt(length - 1) + 1


SPECS: dict[str, Callable[[int], object]] = {
    "fixed": lambda length: combiner.Fixed(root(length)),
    "log_sparse": lambda length: combiner.LogSparse(),
    "vertical": lambda length: combiner.AxialVertical(root(length)),
    "horizontal": lambda length: combiner.AxialHorizontal(root(length)),
    "rowmajor": lambda length: combiner.AxialRowmajor(root(length)),
    "mixture": lambda length: combiner.Mixture(root(length)),
}
OTHERS = ("window", "dense", "materialised")


def full(length: int, causal: bool) -> AttentionGraph:
    graph = ga.connectivity.full(length)
    return graph.keep(ga.rules.is_causal) if causal else graph


def window(length: int, causal: bool) -> AttentionGraph:
    """As many edges as `fixed` has in both graphs."""
    pair = ga.connectivity.combiner.fixed(length, root(length), causal=causal)
    per_token = max(1, round(sum(graph.num_edges for graph in pair) / length))
    radius = per_token if causal else max(1, per_token // 2)
    graph = ga.connectivity.sliding_window(length, radius=radius)
    return graph.keep(ga.rules.is_causal) if causal else graph


def make(name: str, length: int, causal: bool, part: str) -> tuple[nn.Module, AttentionGraph, int]:
    """Returns a layer or what attends in it, its graph, and how many edges it attends over."""
    torch.manual_seed(0)
    alone = part == "attention"
    if name == "window":
        graph = window(length, causal)
        return Attention(WindowAttention()) if alone else GraphAttention(DIM, NUM_HEADS), graph, graph.num_edges
    graph = full(length, causal)
    if name in OTHERS:
        return Attention(DenseAttention(causal)) if alone else Dense(causal), graph, graph.num_edges
    layer = GraphAttention(DIM, NUM_HEADS, connect=SPECS[name](length))
    num_edges = sum(each.num_edges for pair in layer.connect.pairs_of(graph) for each in pair)
    return Attention(layer.connect) if alone else layer, graph, num_edges


def draw(length: int, part: str) -> Tensor:
    width = 3 * DIM if part == "attention" else DIM
    return torch.randn(length, width, generator=torch.Generator().manual_seed(1), requires_grad=True)


def step(layer: nn.Module, x: Tensor, graph: AttentionGraph) -> None:
    layer(x, graph).square().mean().backward()
    layer.zero_grad()  # at the end, so that gradients count as memory of their step
    x.grad = None


def make_step(name: str, length: int, causal: bool, part: str) -> tuple[Callable[[], None], int]:
    layer, graph, num_edges = make(name, length, causal, part)
    x = draw(length, part)

    def call() -> None:
        with sdpa_kernel(SDPBackend.MATH if name == "materialised" else list(SDPBackend.__members__.values())):
            step(layer, x, graph)

    return call, num_edges


def check(name: str, causal: bool) -> None:
    """Refuses to time what is not right."""
    layer, graph, _ = make(name, CHECKED, causal, "layer")
    x, found = draw(CHECKED, "layer"), []
    for impl in ("auto", "dense"):
        layer.impl = impl
        out = layer(x, graph)
        found.append([out, *torch.autograd.grad(out.square().mean(), (x, *layer.parameters()))])
    for mine, theirs in zip(*found, strict=True):
        largest = max(float(theirs.detach().abs().max()), 1e-6)
        gap = float((mine - theirs).detach().abs().max()) / largest
        if not gap < TOLERANCE:
            raise SystemExit(f"{name} differs from dense by {gap:.2g} of the largest number; not timed")


def measure_memory(name: str, length: int, causal: bool, part: str) -> None:
    """Prints what a step adds to resident memory."""
    call, _ = make_step(name, length, causal, part)
    call()  # compiles kernels and makes graphs and plans, which stay
    print(added_peak(call))


def memory_of(name: str, length: int, causal: bool, part: str) -> float:
    side = "causal" if causal else "bidirectional"
    return float(in_fresh_process(__file__, ["--memory", name, str(length), side, part]).split()[-1])


def measure_length(
    length: int, part: str, names: list[str], causal: bool, rounds: int, dense_up_to: int, math_mib: dict
) -> list[dict]:
    names = [name for name in names if name != "dense" or length <= dense_up_to]
    made = {name: make_step(name, length, causal, part) for name in names}
    rounds = max(1, rounds // 2) if length >= FEWER_ROUNDS_FROM else rounds
    times = interleaved({name: call for name, (call, _) in made.items()}, rounds, warm_ups=1)
    pairs = length * (length + 1) // 2 if causal else length**2
    rows = []
    for name, measured in times.items():
        row = {"form": name, "part": part, "causal": causal, "length": length}
        row |= {"num_edges": made[name][1], "num_pairs": pairs}
        row |= {"ms": statistics.median(measured), "spread": spread(measured)}
        if "dense" in times and name != "dense":
            row["over_dense"] = median_ratio(times["dense"], measured)
        row["peak_mib"] = memory_of(name, length, causal, part)
        row["materialised_mib"] = math_mib["peak_mib"] * (length / math_mib["length"]) ** 2
        row["materialised_is_computed"] = length != math_mib["length"]
        rows.append(row)
        print(line(row), flush=True)
    return rows


def exponent(lengths: list[int], milliseconds: list[float]) -> float | None:
    """Returns the power of the length that fits best, by least squares on logarithms; None for one length."""
    return float(np.polyfit(np.log(lengths), np.log(milliseconds), 1)[0]) if len(lengths) > 1 else None


def line(row: dict) -> str:
    """Returns a row of results as text."""
    timed = f"{row['ms']:8.4g} ms ({row['spread'][0]:.4g}-{row['spread'][1]:.4g})"
    ratio = f"{row['over_dense']:6.2f}x dense" if "over_dense" in row else ""
    what = f"{row['form']:11} {row['part']:9}"
    return (
        f"{what} {row['length']:7,} tokens {row['num_edges']:13,} edges {timed:30} {ratio:14} "
        f"{row['peak_mib']:7.0f} MiB"
    )


def add_exponents(rows: list[dict], name: str) -> None:
    """Adds the exponents that fit the times of one form to its last row, and the bars that it is held to."""
    if not rows:
        return
    for key, least in (("exponent", 0), ("exponent_of_long", FIT_FROM)):
        used = [row for row in rows if row["length"] >= least]
        rows[-1][key] = exponent([row["length"] for row in used], [row["ms"] for row in used])
    if rows[-1]["exponent"] is not None:
        of_long = rows[-1]["exponent_of_long"]
        print(
            f"{name:14} time grows with length to the power {rows[-1]['exponent']:.2f}"
            + ("" if of_long is None else f", from {FIT_FROM:,} tokens on {of_long:.2f}"),
            flush=True,
        )
    if name in SPECS:
        rows[-1]["exponent_bar"] = BARS["exponent"].get(name, BARS["exponent_of_others"])  # type: ignore[attr-defined]
        for row in rows:
            if row["length"] == 16_384:
                row |= {"speed_bar": BARS["speed"], "memory_bar": BARS["memory"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lengths", type=int, nargs="+", default=list(LENGTHS))
    parser.add_argument("--forms", nargs="+", default=[*SPECS, *OTHERS[:2]], choices=[*SPECS, *OTHERS[:2]])
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--dense-up-to", type=int, default=16_384, help="tokens up to which dense attention is timed")
    parser.add_argument("--math-at", type=int, default=4096, help="tokens at which all pairs are held")
    parser.add_argument("--bidirectional", action="store_true")
    parser.add_argument("--rounds", type=int, default=5, help="counted rounds, after one that is not")
    parser.add_argument("--out", type=Path, help="a JSON file for benchmarks/report.py")
    parser.add_argument("--memory", nargs=4, metavar=("FORM", "LENGTH", "SIDE", "PART"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory:
        name, length, side, part = arguments.memory
        return measure_memory(name, int(length), side == "causal", part)
    causal = not arguments.bidirectional
    for name in arguments.forms:
        if name in SPECS:
            check(name, causal)
    at, rows = arguments.math_at, []
    for part in arguments.parts:
        math_mib = {"length": at, "peak_mib": memory_of("materialised", at, causal, part)}
        print(f"materialised {part}, {at:,} tokens: {math_mib['peak_mib']:.0f} MiB measured", flush=True)
        options = causal, arguments.rounds, arguments.dense_up_to, math_mib
        of_part = [
            row for length in arguments.lengths for row in measure_length(length, part, arguments.forms, *options)
        ]
        for name in arguments.forms:
            add_exponents([row for row in of_part if row["form"] == name], name)
        rows += of_part
    if arguments.out:
        write_record(arguments.out, "combiner", rows)


if __name__ == "__main__":
    main()
