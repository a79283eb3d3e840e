"""The memory floor: the bytes that a forward, and a forward with backward, move at least, each that comes or goes once.

An implementation that holds in registers or caches whatever it needs twice would move no more; the time that these
bytes take at the rate of a large copy is the least that a call can take where memory bounds it.
"""

from typing import NamedTuple

from graphattn.graph import AttentionGraph

INDEX_BYTES = 8  # int64
LSE_BYTES = 4  # float32


class FloorBytes(NamedTuple):
    """Bytes of the two passes."""

    forward: int
    both: int  # forward and backward


def floor_bytes(graph: AttentionGraph, *, leaves: int, others: int, out: int, num_heads: int) -> FloorBytes:
    """Returns what forward, and forward with backward, move at least.

    Forward reads the leaves and the others, who reads whom, and an offset of each target; it writes the output and a
    float32 of each target and head. Backward reads all of these and the gradient of the output, and writes the
    gradients of the leaves; for those of keys and values it reads the targets of each source's edges. Who reads whom is
    one number of an explicit edge, and one of each target and each source of a block.

    Args:
        leaves: bytes of what gets a gradient: query, key, value, biases, weights.
        others: bytes of what is read beside them: features of edges.
        out: bytes of the output.
        num_heads: heads of the query.

    >>> import torch
    >>> graph = AttentionGraph(torch.tensor([[0, 1], [0, 0]]), num_src_nodes=2)
    >>> floor_bytes(graph, leaves=24, others=0, out=8, num_heads=1)   # 24 + 8·(2 + 2) + 8 + 2·4, and so on
    FloorBytes(forward=72, both=208)
    """
    listed = graph.plan().src.shape[0]
    if graph.blocks is not None:
        listed += graph.blocks.dst.shape[0] + graph.blocks.src.shape[0]
    lse = LSE_BYTES * graph.num_dst_nodes * num_heads
    by_target = INDEX_BYTES * (listed + graph.num_dst_nodes)
    by_source = INDEX_BYTES * (listed + graph.num_src_nodes)
    forward = leaves + others + by_target + out + lse
    backward = leaves + others + by_target + 2 * out + lse + leaves + by_source
    return FloorBytes(forward, forward + backward)
