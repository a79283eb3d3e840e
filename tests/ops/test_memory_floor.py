"""The floor against a count of every byte, and what may not raise it."""

import torch

from graphattn.connectivity import full, sliding_window
from graphattn.graph import AttentionGraph
from graphattn.ops.memory_floor import floor_bytes


def counted(graph: AttentionGraph, heads: int, width: int) -> tuple[int, int]:
    """Adds up, array by array, what a plain call in float32 reads and writes."""
    query = out = lse_of = torch.empty(graph.num_dst_nodes, heads, width)
    key = value = torch.empty(graph.num_src_nodes, heads, width)
    plan, arrays = graph.plan(), [query, key, value, out]
    forward = sum(x.nbytes for x in arrays) + lse_of[..., 0].numel() * 4
    forward += plan.src.nbytes + plan.target_ptr[1:].nbytes
    grads = [query, key, value]  # written in the sizes of what they belong to
    backward = forward + out.nbytes + sum(x.nbytes for x in grads) + plan.dst.nbytes + plan.source_ptr[1:].nbytes
    return forward, forward + backward


def test_every_byte_counts_once_each_way() -> None:
    graph = sliding_window(67, 3).keep(lambda src, dst: dst % 2 == 0)
    leaves, out = 3 * 67 * 5 * 7 * 4, 67 * 5 * 7 * 4
    found = floor_bytes(graph, leaves=leaves, others=0, out=out, num_heads=5)
    assert found == counted(graph, 5, 7)
    more = floor_bytes(graph, leaves=leaves, others=1000, out=out, num_heads=5)
    assert (more.forward - found.forward, more.both - found.both) == (1000, 2000)


def test_a_block_is_told_by_its_nodes_and_not_by_its_pairs() -> None:
    whole = full(1000)
    sizes = {"leaves": 0, "others": 0, "out": 0, "num_heads": 1}
    as_block, listed = (floor_bytes(graph, **sizes) for graph in (whole, whole.enumerate()))
    assert listed.forward - as_block.forward == 8 * (1000**2 - 2000)
