"""Measures the constants by which `impl="auto"` chooses, on this machine.

    python benchmarks/costs.py

For each implementation the time of one forward and backward is fitted as fixed + weight · million weights
(+ work · million multiply-adds + bucket · buckets), by non-negative least squares on relative error, over windows and
batches of full graphs from 64 to 65,536 nodes. Prints the table that `graphattn/ops/_dispatch.py` holds, and by what
factor the fit is off, in the median and at its worst point. Sample output:

    "fused": Cost(fixed=700, weight=14000, work=60, bucket=0),  # off by 1.2x, at worst 2.1x
"""

import statistics
import time

import numpy as np
import torch
from scipy.optimize import nnls

import graphattn as ga
from graphattn.graph import AttentionGraph

WINDOWS = [(64, 2), (64, 16), (256, 2), (256, 64), (1024, 8), (1024, 64), (4096, 8), (16384, 4), (65536, 2)]
BATCHES = [(8, 8), (8, 32), (64, 24), (256, 24)]
HEADS = [(4, 16), (8, 64)]
MAX_WORK = {"dense": 3e8, "scatter": 4e7, "blocks": 4e9, "fused": 4e9}


def graphs() -> list[AttentionGraph]:
    generator = torch.Generator().manual_seed(0)
    windows = [ga.connectivity.sliding_window(n, radius=radius) for n, radius in WINDOWS]
    sizes = [torch.randint(size // 2, size + size // 2, (count,), generator=generator) for count, size in BATCHES]
    return windows + [ga.connectivity.full(size) for size in (*sizes, 256, 1024)]


def microseconds(impl: str, graph: AttentionGraph, num_heads: int, head_dim: int) -> float:
    leaves = [torch.randn(graph.num_src_nodes, num_heads, head_dim, requires_grad=True) for _ in range(3)]
    grad = torch.randn(graph.num_dst_nodes, num_heads, head_dim)
    times = []
    spent, least = 0.0, 3
    while len(times) < least or (spent < 0.2 and len(times) < 30):
        start = time.perf_counter()
        torch.autograd.grad(ga.graph_attention(*leaves, graph, impl=impl), leaves, grad)
        times.append(time.perf_counter() - start)
        spent += times[-1]
    return 1e6 * statistics.median(times[1:])


def features(impl: str, graph: AttentionGraph, num_heads: int, head_dim: int) -> list[float]:
    """What the cost model multiplies its constants with."""
    plan = graph.plan()
    num_pairs, num_buckets = graph.num_edges, 0
    if impl == "dense":
        num_pairs = graph.num_src_nodes * graph.num_dst_nodes
    elif impl == "blocks":
        num_pairs, num_buckets = plan.num_block_pairs, len(plan.buckets)
    weights = num_pairs * num_heads / 1e6
    return [1.0, weights, weights * 2 * head_dim, float(num_buckets)]


def main() -> None:
    for impl in ga.ops.IMPLEMENTATIONS:
        rows, measured = [], []
        for graph in graphs():
            if impl == "blocks" and graph.blocks is None:
                continue
            for num_heads, head_dim in HEADS:
                row = features(impl, graph, num_heads, head_dim)
                if row[2] <= MAX_WORK[impl] / 1e6:
                    rows.append(row)
                    measured.append(microseconds(impl, graph, num_heads, head_dim))
        a, b = np.array(rows), np.array(measured)
        constants, _ = nnls(a / b[:, None], np.ones_like(b))
        off = np.exp(np.abs(np.log(a @ constants / b)))
        named = ", ".join(f"{k}={v:.0f}" for k, v in zip(("fixed", "weight", "work", "bucket"), constants, strict=True))
        print(f'    "{impl}": Cost({named}),  # off by {np.median(off):.1f}x, at worst {off.max():.1f}x', flush=True)


if __name__ == "__main__":
    main()
