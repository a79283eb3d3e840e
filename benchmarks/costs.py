"""Measures the constants by which `impl="auto"` chooses, on this machine.

    python benchmarks/costs.py

For each implementation the time of one forward and backward is fitted as fixed + work · million multiply-adds
(+ per_bucket · buckets), by non-negative least squares on relative error, over windows and batches of small full graphs
from 64 to 65,536 nodes. Prints the table that `graphattn/ops/_dispatch.py` holds, and how far the fit is off at its
worst point. Sample output:

    "fused": Cost(fixed=440, work=105),  # worst point 1.6x off
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


def main() -> None:
    for impl in ga.ops.IMPLEMENTATIONS:
        features, measured = [], []
        for graph in graphs():
            if impl == "blocks" and graph.blocks is None:
                continue
            plan = graph.plan()
            for num_heads, head_dim in HEADS:
                pairs = graph.num_edges
                if impl == "dense":
                    pairs = graph.num_src_nodes * graph.num_dst_nodes
                elif impl == "blocks":
                    pairs = sum(bucket.dst.numel() * bucket.src.shape[1] for bucket in plan.buckets)
                work = pairs * num_heads * 2 * head_dim
                if work > MAX_WORK[impl]:
                    continue
                features.append([1.0, work / 1e6, float(len(plan.buckets)) if impl == "blocks" else 0.0])
                measured.append(microseconds(impl, graph, num_heads, head_dim))
        a, b = np.array(features), np.array(measured)
        (fixed, work, per_bucket), _ = nnls(a / b[:, None], np.ones_like(b))
        off = np.exp(np.abs(np.log(a @ [fixed, work, per_bucket] / b))).max()
        extra = f", per_bucket={per_bucket:.0f}" if impl == "blocks" else ""
        print(
            f'    "{impl}": Cost(fixed={fixed:.0f}, work={work:.1f}{extra}),  # worst point {off:.1f}x off', flush=True
        )


if __name__ == "__main__":
    main()
