"""The matrix from afar: pairs counted cell by cell, blocks unlisted, in memory of the edges and of the cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from graphattn.graph.ragged import ragged_range

if TYPE_CHECKING:
    from graphattn.graph.attention_graph import AttentionGraph
    from graphattn.graph.blocks import Blocks

MAX_TILES = 2**24  # tiles of blocks that are marked one by one; bytes of the bitmap they are marked in


def cell_counts(graph: AttentionGraph, num_rows: int, num_columns: int) -> Tensor:
    """Counts the edges in each cell of a coarse matrix; target i is in row ⌊i · num_rows / num_dst_nodes⌋.

    Takes O(edges + num_rows · nodes of blocks).

    Returns:
        int64 [num_rows, num_columns].

    >>> from graphattn.graph import AttentionGraph
    >>> cell_counts(AttentionGraph(torch.tensor([[0, 3, 1], [0, 0, 3]]), num_src_nodes=4), 2, 2)
    tensor([[1, 1],
            [1, 0]])
    """
    src, dst = graph.explicit_edges
    cell = _bin(dst, graph.num_dst_nodes, num_rows) * num_columns + _bin(src, graph.num_src_nodes, num_columns)
    counts = torch.bincount(cell, minlength=num_rows * num_columns).view(num_rows, num_columns)
    blocks = graph.blocks
    if blocks is None:
        return counts
    row = _bin(blocks.dst, graph.num_dst_nodes, num_rows)
    column = _bin(blocks.src, graph.num_src_nodes, num_columns)
    for number in row.unique().tolist():  # rows of the picture, not of the graph
        counts[number].index_add_(0, column, blocks.readers(row == number))
    return counts


def cell_sizes(graph: AttentionGraph, num_rows: int, num_columns: int) -> Tensor:
    """Counts all pairs, edges or not, in each cell of `cell_counts`, int64 [num_rows, num_columns]."""
    device = graph.device
    rows = torch.arange(num_rows + 1, device=device) * graph.num_dst_nodes
    columns = torch.arange(num_columns + 1, device=device) * graph.num_src_nodes
    # node i is the first of bin r where i · num_bins ≥ r · num_nodes
    return torch.outer(torch.diff(-(-rows // max(num_rows, 1))), torch.diff(-(-columns // max(num_columns, 1))))


def num_tiles(graph: AttentionGraph, block_size: int) -> tuple[int, bool]:
    """Counts the tiles of block_size × block_size pairs that hold an edge: what a block-sparse kernel computes.

    Returns:
        count: number of tiles.
        is_exact: False where blocks cover more than 2^24 tiles; the count is then at most what it would be if no two
            blocks, nor a block and an edge, shared a tile.

    >>> from graphattn.graph import AttentionGraph
    >>> num_tiles(AttentionGraph(torch.tensor([[0, 3, 1], [0, 0, 3]]), num_src_nodes=4), block_size=2)
    (3, True)
    """
    src, dst = graph.explicit_edges
    width, height = (-(-size // block_size) for size in (graph.num_src_nodes, graph.num_dst_nodes))
    tile = torch.div(dst, block_size, rounding_mode="floor") * width
    tile += torch.div(src, block_size, rounding_mode="floor")
    if graph.blocks is None:
        return _num_distinct(tile, width * height), True
    row, first, count, column = _tiles_of_blocks(graph.blocks, block_size)
    num_in_blocks = int(count.sum())
    is_alone = graph.blocks.num_blocks == 1 and not tile.numel()
    if is_alone or num_in_blocks > MAX_TILES:
        return num_in_blocks + _num_distinct(tile, width * height), is_alone
    entry, offset = ragged_range(count)
    tile = torch.cat([tile, row[entry] * width + column[first[entry] + offset]])
    return _num_distinct(tile, width * height), True


def _tiles_of_blocks(blocks: Blocks, block_size: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns row, first, count [num_entries] and column: a row of tiles holds column[first : first + count].

    A row of tiles reads, in each block, those columns whose first source stands inside its longest prefix.
    """
    block, row = blocks.of_target(), torch.div(blocks.dst, block_size, rounding_mode="floor")
    owner, column = blocks.of_source(), torch.div(blocks.src, block_size, rounding_mode="floor")
    wide = int(torch.cat([row, column]).max()) + 1
    rows, of_row = torch.unique(block * wide + row, return_inverse=True)
    longest = torch.zeros_like(rows).scatter_reduce_(0, of_row, blocks.prefix, "amax")
    columns, of_column = torch.unique(owner * wide + column, return_inverse=True)
    rank = torch.arange(blocks.src.numel(), device=blocks.src.device) - blocks.src_ptr[owner]
    deep = blocks.src.numel() + 1
    nearest = torch.full_like(columns, deep).scatter_reduce_(0, of_column, rank, "amin")
    by_rank, order = (torch.div(columns, wide, rounding_mode="floor") * deep + nearest).sort()
    of_block = torch.div(rows, wide, rounding_mode="floor") * deep
    first = torch.searchsorted(by_rank, of_block)
    count = torch.searchsorted(by_rank, of_block + longest) - first
    return rows % wide, first, count, columns[order] % wide


def _num_distinct(keys: Tensor, end: int) -> int:
    """Counts the distinct numbers among keys in [0, end)."""
    if end > MAX_TILES:
        return torch.unique(torch.unique_consecutive(keys)).numel()
    is_there = torch.zeros(end, dtype=torch.bool, device=keys.device)
    is_there[keys] = True
    return int(is_there.sum())


def _bin(nodes: Tensor, num_nodes: int, num_bins: int) -> Tensor:
    return torch.div(nodes * num_bins, max(num_nodes, 1), rounding_mode="floor")
