"""Blocks of a block-sparse matrix, as FlashInfer's BlockSparseAttentionWrapper takes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from graphattn.graph.convert.flex import checked_block_size
from graphattn.graph.convert.masks import refuse_dense
from graphattn.graph.convert.sparse import refuse_heads
from graphattn.graph.plan import pointers
from graphattn.graph.ragged import check_ptr
from graphattn.graph.validate import check_size

if TYPE_CHECKING:
    from graphattn.graph.attention_graph import AttentionGraph


class BlockSparse(NamedTuple):
    """What `plan(indptr, indices, M, N, R, C, …, mask=mask)` takes; block k covers rows of R and columns of C nodes."""

    indptr: Tensor  # [M / R + 1] int32: blocks of each row of blocks
    indices: Tensor  # [num_blocks] int32: column of each block, ascending in a row
    num_rows: int  # M: targets, padded to a multiple of R
    num_cols: int  # N: sources, padded to a multiple of C
    block_size: tuple[int, int]  # R, C
    mask: Tensor | None  # [num_blocks, R, C] bool, True = attend; None where every block is full


def to_bsr(graph: AttentionGraph, block_size: int | tuple[int, int]) -> BlockSparse:
    """Returns the blocks that hold an edge, and which pairs of each attend; True = attend.

    Args:
        graph: the graph; lengths that `block_size` does not divide are padded by nodes without edges.
        block_size: nodes on a side of a block, or (R targets, C sources).

    Raises:
        ValueError: for a graph with a head_mask, or if the mask takes more than 1 GiB, with the size it would have.

    Source: the layout is scipy's `bsr_array`, without data.

    >>> from graphattn.graph import AttentionGraph
    >>> blocks = AttentionGraph(torch.tensor([[0, 1, 2], [0, 0, 2]]), num_src_nodes=3).to_bsr((1, 2))
    >>> blocks.indptr.tolist(), blocks.indices.tolist(), blocks.mask.int().tolist()
    ([0, 1, 1, 2], [0, 1], [[[1, 1]], [[1, 0]]])
    """
    refuse_heads(graph, "to_bsr", "to_block_mask, which keeps all heads")
    tall, wide = checked_block_size(block_size)
    rows, columns = -(-graph.num_dst_nodes // tall), -(-graph.num_src_nodes // wide)
    src, dst = graph.edge_index
    row, column = (torch.div(node, size, rounding_mode="floor") for node, size in ((dst, tall), (src, wide)))
    blocks, block = torch.unique(row * columns + column, return_inverse=True)
    refuse_dense((blocks.numel(), tall, wide), torch.bool, "the mask inside blocks")
    mask = torch.zeros(blocks.numel(), tall, wide, dtype=torch.bool, device=graph.device)
    mask[block, dst - row * tall, src - column * wide] = True
    of_row = torch.div(blocks, max(columns, 1), rounding_mode="floor")
    return BlockSparse(
        pointers(of_row, rows).to(torch.int32),
        (blocks - of_row * columns).to(torch.int32),
        rows * tall,
        columns * wide,
        (tall, wide),
        None if bool(mask.all()) else mask,
    )


def from_bsr(
    cls: type[AttentionGraph],
    indptr: Tensor,
    indices: Tensor,
    num_src_nodes: int,
    num_dst_nodes: int,
    *,
    block_size: int | tuple[int, int],
    mask: Tensor | None = None,
) -> AttentionGraph:
    """Returns the graph of blocks in the layout of `BlockSparse`.

    Args:
        indptr: integer [number of rows of blocks + 1].
        indices: integer [num_blocks], each column once in its row.
        num_src_nodes: sources, N or fewer where the last column of blocks is padding; pairs beyond are left out.
        num_dst_nodes: targets, M or fewer.
        block_size: nodes on a side of a block, or (R targets, C sources).
        mask: bool [num_blocks, R, C] or of as many entries in one row, True = attend; None where every block is full.

    Raises:
        TypeError, ValueError: if a field has another dtype, shape or range, or a block repeats.
    """
    tall, wide = checked_block_size(block_size)
    check_size(num_src_nodes, "num_src_nodes")
    check_size(num_dst_nodes, "num_dst_nodes")
    for name, field in (("indptr", indptr), ("indices", indices)):
        if not isinstance(field, Tensor) or field.dtype not in (torch.int32, torch.int64) or field.dim() != 1:
            got = f"{field.dtype} {list(field.shape)}" if isinstance(field, Tensor) else type(field).__name__
            raise TypeError(f"{name} must be a flat int32 or int64 tensor, got {got}. Pass the fields of to_bsr.")
    indptr, indices = indptr.long(), indices.long()
    rows, columns = -(-num_dst_nodes // tall), -(-num_src_nodes // wide)
    check_ptr(indptr, indices.numel(), "indptr")
    if indptr.numel() != rows + 1:
        raise ValueError(
            f"indptr must have {rows + 1} entries for {num_dst_nodes} targets in rows of {tall}, got {indptr.numel()}. "
            "Check num_dst_nodes and block_size."
        )
    if indices.numel() and (int(indices.min()) < 0 or int(indices.max()) >= columns):
        wrong = int(indices.min()) if int(indices.min()) < 0 else int(indices.max())
        raise ValueError(f"indices must lie in [0, {columns}), got {wrong}. Check num_src_nodes and block_size.")
    shape = (indices.numel(), tall, wide)
    refuse_dense(shape, torch.bool, "the mask inside blocks")
    if mask is None:
        mask = torch.ones(shape, dtype=torch.bool, device=indices.device)
    if mask.dtype != torch.bool or mask.shape not in (torch.Size(shape), torch.Size([mask.numel()])):
        raise ValueError(f"mask must be bool {list(shape)}, got {mask.dtype} {list(mask.shape)}. True means attend.")
    if mask.numel() != indices.numel() * tall * wide:
        raise ValueError(f"mask must be bool {list(shape)}, got {list(mask.shape)}. Give every block its pairs.")
    row = torch.repeat_interleave(torch.diff(indptr), output_size=indices.numel())
    block, down, across = mask.view(shape).nonzero(as_tuple=True)
    src, dst = indices[block] * wide + across, row[block] * tall + down
    inside = (src < num_src_nodes) & (dst < num_dst_nodes)
    graph, _ = cls.from_edge_index(torch.stack([src[inside], dst[inside]]), (num_src_nodes, num_dst_nodes))
    return graph.named(f"from_bsr({indices.numel()} blocks of {tall} × {wide})")
