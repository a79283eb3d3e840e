"""Names the kernels that a call would run through, in words, for `explain`."""

import torch

from graphattn.graph import AttentionGraph
from graphattn.ops._arguments import HALF
from graphattn.ops._dispatch import TILE, Sizes, reads_copies, runs_abreast, takes_varlen
from graphattn.ops._impl import varlen


def variant(impl: str, graph: AttentionGraph, sizes: Sizes, reads_edges: bool) -> str:
    """Returns how an implementation would run a call: which of its kernels, and over what.

    Args:
        reads_edges: whether the call passes per-edge arguments or dropout.
    """
    if impl == "fused":
        return _of_fused(graph, sizes, reads_edges)
    if impl == "blocks" and graph.blocks is not None:
        return _of_blocks(graph, sizes, reads_edges)
    if impl == "gather":
        return f"all targets at once, {graph.plan().degree} keys each"
    if impl in ("dense", "sdpa"):
        return f"all {graph.num_dst_nodes:,} × {graph.num_src_nodes:,} pairs under a mask"
    return f"tiles of {TILE} × {TILE} pairs" if impl == "flex" else "an array of all edges"


def _of_fused(graph: AttentionGraph, sizes: Sizes, reads_edges: bool) -> str:
    if sizes.device.type != "cuda":
        plan, num_edges = graph.plan(), max(1, graph.num_edges)
        shared = plan.num_shared / num_edges if runs_abreast(sizes) else 0
        told = f"; {plan.num_ranged / num_edges:.0%} of the edges in ranges, by tiles" if plan.num_ranged else ""
        return "Numba, a target at a time" + told + (f", {shared:.0%} eight heads at once" if shared else "")
    from graphattn.ops._impl.triton import launch, windows

    plan = graph.enumerate().plan()
    narrow, wide = sorted((sizes.head_dim, sizes.value_dim))
    if plan.windows is not None and sizes.dtype != torch.float64 and 0 < narrow <= wide <= windows.MAX_WIDTH:
        where = ", on tensor cores" if sizes.dtype in HALF else ""
        unless = ", unless edges have features" if reads_edges else ""
        return f"Triton, windows of rows that share columns{where}{unless}"
    chunk = launch.Rows(plan.target_ptr, None, plan.dst, sizes.num_heads).chunk
    return "Triton, rows of targets" + (f", those above {chunk} edges in pieces" if plan.src.shape[0] > chunk else "")


def _of_blocks(graph: AttentionGraph, sizes: Sizes, reads_edges: bool) -> str:
    plan = graph.plan()
    beside = " and the edges beside them" if plan.src.shape[0] else ""
    if takes_varlen(graph, sizes.device, sizes.dtype, not reads_edges):
        is_flash = varlen.takes_flash(sizes.dtype, max(sizes.head_dim, sizes.value_dim), sizes.device)
        kernel = "flash" if is_flash else "memory-efficient"
        return f"sequences of variable length, unpadded, by torch's {kernel} kernel{beside}"
    if reads_copies(graph, sizes.device, not reads_edges):
        return "Numba, over copies of the sources that lie in ranges"
    if sizes.device.type == "cpu" and not reads_edges:
        return f"unpadded{beside}"
    num_shapes = len(plan.buckets)
    return f"padded to {num_shapes} {'shape' if num_shapes == 1 else 'shapes'}{beside}"
