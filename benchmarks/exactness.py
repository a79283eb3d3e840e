"""Do all implementations mean the same? Ten thousand random graphs, every argument, output and every gradient.

    python benchmarks/exactness.py [--graphs 10000] [--seed 0] [--out FILE.json]

Each round draws a graph (explicit, blocks, causal blocks, blocks and edges, per-head, rectangular, ragged, empty), a
subset of the verb's optional arguments, and sizes, and compares every implementation that can serve the call with
`dense` in float64: the output, the log-sum-exp and the gradient of every tensor. One round in ten also compares `dense`
with torch's scaled_dot_product_attention, and each implementation's float32 error, against float64, with that of
`dense` in float32. Exit status 1, with the number of the round, at the first disagreement. Sample output:

    1000 graphs, 17507 comparisons in float64: worst difference 7.6e-14 (fused, gradient of key, round 559)
    blocks refused 572 calls; 94 s
    float32: mean error over that of dense: scatter 1.02, blocks 1.50, fused 1.14 (bar 2)
"""

import argparse
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from measure import write_record
from torch import Tensor

import graphattn as ga
from graphattn.graph import AttentionGraph, bicliques, node_ptr

TOLERANCE = 1e-10
FLOAT32_BAR = 2.0
NUM_HEADS = 6


def random_graph(generator: torch.Generator) -> AttentionGraph:
    """Draws one of the shapes that a graph can have, of 0 to 12 nodes a side."""

    def number(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=generator))

    shape = number(0, 6)
    num_src = number(0, 12)
    num_dst = num_src if shape != 1 else number(0, 12)
    density = (0.1, 0.3, 0.9)[number(0, 2)]
    mask = torch.rand(num_dst, num_src, generator=generator) < density
    if shape <= 1:
        return AttentionGraph.from_mask(mask)
    if shape == 2:
        return AttentionGraph.from_mask(torch.rand(NUM_HEADS, num_dst, num_src, generator=generator) < density)
    sizes = torch.randint(0, 6, (number(0, 4),), generator=generator)
    graph = ga.connectivity.full(sizes)
    if shape == 3:
        return graph
    if shape == 4:
        return graph.keep(ga.rules.is_causal)
    num_nodes = graph.num_src_nodes
    if shape == 5:  # edges beside blocks, in rows of their own or interleaved
        extra = AttentionGraph.from_mask(torch.rand(num_nodes, num_nodes, generator=generator) < 0.2)
        one_graph = AttentionGraph(extra.edge_index[:, :0], num_nodes, blocks=graph.blocks)  # no batch: extra crosses
        return one_graph.keep(ga.rules.is_causal) | (extra - one_graph)
    ptr = node_ptr(torch.tensor([num_src]))  # two blocks over the same targets
    cut = number(0, num_src)
    everyone = torch.arange(num_src)
    halves = [bicliques(ptr, everyone, node_ptr(part.numel()), part) for part in (everyone[:cut], everyone[cut:])]
    nothing = torch.empty(2, 0, dtype=torch.int64)
    parts = [AttentionGraph(nothing, num_src, blocks=half) for half in halves if half is not None]
    return parts[0] | parts[-1] if len(parts) == 2 else AttentionGraph.from_mask(mask)


def random_call(graph: AttentionGraph, generator: torch.Generator) -> tuple[dict[str, Tensor], dict[str, object]]:
    """Draws (tensors that need gradients, other arguments) of one call."""

    def flip() -> bool:
        return bool(torch.rand((), generator=generator) < 0.5)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    head_dim, value_dim = (5, 7) if flip() else (8, 8)
    key_heads = 3 if flip() else NUM_HEADS
    edges = graph.num_edges
    big = 50.0 if torch.rand((), generator=generator) < 0.2 else 1.0
    tensors = {
        "query": normal(graph.num_dst_nodes, NUM_HEADS, head_dim) * big,
        "key": normal(graph.num_src_nodes, key_heads, head_dim),
        "value": normal(graph.num_src_nodes, key_heads, value_dim),
    }
    others: dict[str, object] = {}
    if flip():
        tensors["edge_bias"] = normal(edges, NUM_HEADS) if flip() else normal(edges)
        if flip() and edges:
            tensors["edge_bias"][torch.rand(edges, generator=generator) < 0.3] = -torch.inf
    if flip():
        tensors["edge_gate"] = normal(edges, NUM_HEADS).sigmoid() if flip() else normal(edges, 1).sigmoid()
    if flip():
        tensors["edge_attr"] = normal(edges, 3)
        tensors["edge_key_weight"] = normal(NUM_HEADS, head_dim, 3)
        if flip():
            tensors["edge_value_weight"] = normal(NUM_HEADS, value_dim, 3)
    per_edge = [name for name in ("edge_bias", "edge_gate", "edge_attr") if name in tensors]
    if per_edge and edges and flip():
        number = 1 + int(torch.randint(80, (), generator=generator))  # some more than fused takes as types
        others["edge_type"] = torch.randint(number, (edges,), generator=generator)
        for name in per_edge:
            tensors[name] = normal(number, *tensors[name].shape[1:])
        if "edge_bias" in tensors and flip():
            tensors["edge_bias"][0] = -torch.inf
    if flip():
        others["logit_clip"] = 0.7
    if flip():
        others |= {"dropout_p": 0.3, "seed": torch.randint(2**62, (), generator=generator)}
    return tensors, others


def run(
    impl: str, graph: AttentionGraph, tensors: dict[str, Tensor], others: dict[str, object]
) -> dict[str, Tensor] | None:
    """Returns output, log-sum-exp and gradients by name, None if the implementation refuses the call."""
    leaves = {name: tensor.detach().clone().requires_grad_() for name, tensor in tensors.items()}
    try:
        out, lse = ga.ops.attention_with_lse(graph=graph, impl=impl, **leaves, **others)
    except ValueError:
        assert impl == "blocks", impl
        return None
    finite = torch.where(lse == -torch.inf, 0.0, lse)
    probe = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    gradients = torch.autograd.grad((out * probe).sum() + finite.sin().sum(), list(leaves.values()), allow_unused=True)
    results = {"output": out.detach(), "log-sum-exp": lse.detach()}
    for name, gradient in zip(leaves, gradients, strict=True):
        results[f"gradient of {name}"] = torch.zeros_like(leaves[name]) if gradient is None else gradient
    return results


def difference(left: Tensor, right: Tensor) -> float:
    """Returns the largest difference over the larger of 1 and the right one's size; equal infinities do not differ."""
    if not left.numel():
        return 0.0
    same = left.double() == right.double()
    gap = torch.where(same, 0.0, (left.double() - right.double()).abs())
    return float(gap.max() / max(1.0, float(right.double().nan_to_num(0, 0, 0).abs().max())))


def relative_errors(result: dict[str, Tensor] | None, exact: dict[str, Tensor]) -> dict[str, float]:
    """Returns the norm of the error of each tensor over its norm, where all is finite; nothing for a refused call."""
    return {
        name: float((tensor.double() - exact[name]).norm() / (1e-3 + exact[name].norm()))
        for name, tensor in (result or {}).items()
        if not tensor.isinf().any()
    }


def sdpa_difference(graph: AttentionGraph, tensors: dict[str, Tensor], reference: dict[str, Tensor]) -> float:
    """Compares `dense` without optional terms with torch, on the targets that see something."""
    query, key, value = (tensors[name] for name in ("query", "key", "value"))
    mask = graph.to_mask()
    mask = mask if mask.dim() == 3 else mask.expand(NUM_HEADS, -1, -1)
    group = NUM_HEADS // key.shape[1]
    safe = mask | ~mask.any(-1, keepdim=True)
    q, k, v = (x.transpose(0, 1) for x in (query, key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=safe) * mask.any(-1, keepdim=True)
    return difference(out.transpose(0, 1), reference["output"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--graphs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="a JSON file for benchmarks/report.py")
    arguments = parser.parse_args()
    worst, where, comparisons, refused, start = 0.0, "", 0, 0, time.monotonic()
    errors: dict[str, list[tuple[float, float]]] = {"scatter": [], "blocks": [], "fused": []}  # theirs and dense's
    for number in range(arguments.graphs):
        generator = torch.Generator().manual_seed(arguments.seed + number)
        graph = random_graph(generator)
        tensors, others = random_call(graph, generator)
        reference = run("dense", graph, tensors, others)
        assert reference is not None
        for impl in ("scatter", "blocks", "fused"):
            result = run(impl, graph, tensors, others)
            if result is None:
                refused += 1
                continue
            for name, tensor in result.items():
                comparisons += 1
                gap = difference(tensor, reference[name])
                if not gap <= TOLERANCE:
                    print(f"round {number}: {impl} differs from dense by {gap:.3g} in {name}\n{graph}")
                    print(f"arguments: {sorted(tensors)} {others}")
                    return 1
                if gap > worst:
                    worst, where = gap, f"{impl}, {name}, round {number}"
        if number % 10 == 0:
            plain = run("dense", graph, {name: tensors[name] for name in ("query", "key", "value")}, {})
            assert plain is not None
            gap = sdpa_difference(graph, tensors, plain)
            if not gap <= TOLERANCE:
                print(f"round {number}: dense differs from scaled_dot_product_attention by {gap:.3g}\n{graph}")
                return 1
            single = {name: tensor.float() for name, tensor in tensors.items()}
            exact = run("dense", graph, {name: tensor.double() for name, tensor in single.items()}, others)
            assert exact is not None
            own = relative_errors(run("dense", graph, single, others), exact)
            for impl in errors:
                theirs = relative_errors(run(impl, graph, single, others), exact)
                for name in theirs:
                    errors[impl].append((theirs[name], own[name]))
    print(f"{arguments.graphs} graphs, {comparisons} comparisons in float64: worst difference {worst:.2g} ({where})")
    ratios = {impl: sum(theirs for theirs, _ in both) / sum(own for _, own in both) for impl, both in errors.items()}
    print(f"blocks refused {refused} calls; {time.monotonic() - start:.0f} s")
    listed = ", ".join(f"{impl} {ratio:.2f}" for impl, ratio in ratios.items())
    print(f"float32: mean error over that of dense: {listed} (bar {FLOAT32_BAR:g})")
    if arguments.out:
        row = {"graphs": arguments.graphs, "comparisons": comparisons, "worst": worst, "where": where} | ratios
        write_record(arguments.out, "exactness", [row])
    return int(any(ratio > FLOAT32_BAR for ratio in ratios.values()))


if __name__ == "__main__":
    sys.exit(main())
