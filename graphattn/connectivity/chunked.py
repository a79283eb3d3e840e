"""Chunks: the sequence cut into pieces of equal length, each reading itself and perhaps its neighbours."""

import torch
from torch import Tensor

from graphattn.connectivity._nodes import Nodes, check_count, nodes_of, two_sides
from graphattn.graph import AttentionGraph, Sizes, bicliques, node_ptr, ragged_range


def block_diagonal(
    sizes: Sizes, block_size: int, *, dst_sizes: Sizes | None = None, dst_block_size: int | None = None
) -> AttentionGraph:
    r"""Cuts each sequence into blocks of `block_size` tokens and connects the tokens of a block.

    E = {(j → i) : ⌊i / b'⌋ = ⌊j / b⌋}, inside each graph, with b = block_size and b' = dst_block_size, which is b in
    self-attention. A graph of n = qb + r nodes, r < b, has qb² + r² edges. Held as one `graph.blocks` entry per block.
    Seven tokens, block size 3:

        ■ ■ ■ · · · ·
        ■ ■ ■ · · · ·
        ■ ■ ■ · · · ·
        · · · ■ ■ ■ ·
        · · · ■ ■ ■ ·
        · · · ■ ■ ■ ·
        · · · · · · ■

    Args:
        sizes: number of nodes, or int64 [num_graphs] for a batch; of sources where `dst_sizes` is given.
        block_size: tokens per block, at least 1; the last block of a graph may be shorter.
        dst_sizes: number of targets of cross attention, in the form of `sizes`. Block c of the targets reads block c of
            the sources; without one it reads nothing.
        dst_block_size: targets per block, as when one of them stands for `block_size` sources; None takes `block_size`.

    Returns:
        AttentionGraph of kind "block", on the device of `sizes`. `.keep(is_causal)` keeps the blocks as blocks.

    Raises:
        TypeError: if a size is neither an int nor an int64 tensor, or a block size no int.
        ValueError: if a size is negative, a block size below 1, or `dst_block_size` comes without `dst_sizes`.

    Source: Qiu et al. 2020 (Blockwise Self-Attention), the identity permutation. For pieces of unequal length see
    `document`, for chunks that read their neighbours `chunked`.

    >>> block_diagonal(7, block_size=3).num_edges                            # 9 + 9 + 1
    19
    >>> print(block_diagonal(5, 2, dst_sizes=3, dst_block_size=1).to_mask().int())
    tensor([[1, 1, 0, 0, 0],
            [0, 0, 1, 1, 0],
            [0, 0, 0, 0, 1]], dtype=torch.int32)
    """
    check_count(block_size, "block_size", 1, "Use 1 to keep only self edges.")
    if dst_block_size is None:
        dst_block_size = block_size
    elif dst_sizes is None:
        raise ValueError(
            f"dst_block_size must come with dst_sizes, got {dst_block_size} alone. Leave it out in self-attention."
        )
    check_count(dst_block_size, "dst_block_size", 1, "Use 1 for a block of one target.")
    sources, targets, label = two_sides(sizes, dst_sizes)
    src_count, dst_count = _num_chunks(sources, block_size), _num_chunks(targets, dst_block_size)
    graph, chunk = ragged_range(torch.minimum(src_count, dst_count))
    src_start, src_length = _chunks(sources, block_size, graph, chunk, chunk)
    dst_start, dst_length = _chunks(targets, dst_block_size, graph, chunk, chunk)
    options = "" if dst_sizes is None else f", dst_block_size={dst_block_size}"
    return AttentionGraph.trusted(
        torch.empty(2, 0, dtype=torch.int64, device=sources.device),
        sources.num_nodes,
        targets.num_nodes,
        blocks=bicliques(
            node_ptr(dst_length), _listed(dst_start, dst_length), node_ptr(src_length), _listed(src_start, src_length)
        ),
        kinds=("block",),
        src_ptr=sources.batch_ptr,
        dst_ptr=targets.batch_ptr,
        origin=f"block_diagonal({label}, block_size={block_size}{options})",
    )


def chunked(sizes: Sizes, chunk_size: int, *, before: int = 0, after: int = 0) -> AttentionGraph:
    r"""Cuts each sequence into chunks and lets each read itself, `before` chunks before it and `after` after it.

    E = {(j → i) : −before ≤ ⌊j / b⌋ − ⌊i / b⌋ ≤ after}, inside each graph, with b = chunk_size. With C = ⌈n / b⌉ chunks
    of lengths l there are Σ_c l_c · Σ_{c' = c − before … c + after} l_c' edges, which is
    b²(C(1 + before + after) − before(before + 1) / 2 − after(after + 1) / 2) where b divides n and C exceeds both.
    Held as one `graph.blocks` entry per chunk. Seven tokens, chunks of 2, before 1:

        ■ ■ · · · · ·
        ■ ■ · · · · ·
        ■ ■ ■ ■ · · ·
        ■ ■ ■ ■ · · ·
        · · ■ ■ ■ ■ ·
        · · ■ ■ ■ ■ ·
        · · · · ■ ■ ■

    Args:
        sizes: number of nodes, or int64 [num_graphs] for a batch.
        chunk_size: tokens per chunk, at least 1; the last chunk of a graph may be shorter.
        before: chunks to read before the own one, at least 0.
        after: chunks to read after it, at least 0.

    Returns:
        AttentionGraph of kind "chunk", on the device of `sizes`. `.keep(is_causal)` keeps the blocks as blocks. With
        neither neighbour the same edges as `block_diagonal`.

    Raises:
        TypeError: if `sizes` is neither an int nor an int64 tensor, or a count no int.
        ValueError: if a size, `before` or `after` is negative, or `chunk_size` below 1.

    Source: Kitaev et al. 2020 (Reformer), whose sorted chunks read themselves and the one before. Their hashing and
    sorting are left out: `permute` a graph, or call `routing`, for another order.

    >>> chunked(7, chunk_size=2, before=1).num_edges                         # 2·2 + 2·4 + 2·4 + 1·3
    23
    """
    check_count(chunk_size, "chunk_size", 1, "Use 1 to keep only self edges.")
    check_count(before, "before", 0, "Use 0 to read no chunk before the own one.")
    check_count(after, "after", 0, "Use 0 to read no chunk after the own one.")
    nodes = nodes_of(sizes)
    num_chunks = _num_chunks(nodes, chunk_size)
    graph, chunk = ragged_range(num_chunks)
    most = nodes.num_nodes  # int64 cannot hold every int
    first = (chunk - min(before, most)).clamp_(min=0)
    last = torch.minimum(chunk + min(after, most), num_chunks[graph] - 1)
    dst_start, dst_length = _chunks(nodes, chunk_size, graph, chunk, chunk)
    src_start, src_length = _chunks(nodes, chunk_size, graph, first, last)
    return AttentionGraph.trusted(
        torch.empty(2, 0, dtype=torch.int64, device=nodes.device),
        nodes.num_nodes,
        blocks=bicliques(
            node_ptr(dst_length), _listed(dst_start, dst_length), node_ptr(src_length), _listed(src_start, src_length)
        ),
        kinds=("chunk",),
        src_ptr=nodes.batch_ptr,
        origin=f"chunked({nodes.label}, chunk_size={chunk_size}, before={before}, after={after})",
    )


def _num_chunks(nodes: Nodes, chunk_size: int) -> Tensor:
    """Returns how many chunks each graph has, [num_graphs]."""
    size = min(chunk_size, max(nodes.num_nodes, 1))  # int64 cannot hold every int
    return torch.div(torch.diff(nodes.ptr) + size - 1, size, rounding_mode="floor")


def _chunks(nodes: Nodes, chunk_size: int, graph: Tensor, first: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the first node of chunk `first` of each graph, and how many nodes there are up to the end of `last`."""
    size = min(chunk_size, max(nodes.num_nodes, 1))
    start = nodes.ptr[graph] + first * size
    return start, torch.minimum(nodes.ptr[graph] + (last + 1) * size, nodes.ptr[graph + 1]) - start


def _listed(start: Tensor, length: Tensor) -> Tensor:
    """Lists the nodes of ranges, one range after the other."""
    entry, offset = ragged_range(length)
    return start[entry] + offset
