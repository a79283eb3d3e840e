"""Windows of rows: consecutive targets beside all sources that any of them reads, for kernels of small dense products.

They are no sliding windows of a mask: every graph has them. A kernel gains by them where rows read the same columns,
since it then loads a column once for a whole window, and its products fill the tiles that tensor cores take. Windows of
rows as tiles of tensor cores: Fused3S (2025), there without a backward pass.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

# Rows of a window, and the share of its pairs of row and column that must be edges for kernels to take such windows.
# The first is the smallest tile of tensor cores, the second that of a warp group. The shares are estimates: no
# measurement is behind them.
MIN_FILL = {16: 1 / 4, 64: 1 / 2}
COLUMN_STEP = 16  # columns that tensor cores take at once; some of them may be missing
# A program serves a window, and the others would wait for one that has many more columns, as that of a hub has.
MAX_COLUMNS = 4096


class Windows(NamedTuple):
    """What rows of a window read, and by whom they are read, for windows of targets and windows of sources.

    Window w of targets are the targets from w · rows on, `rows` of them or as many as are left. Its columns are the
    sources that it reads, ascending; ptr says where they are in the list of slots. A slot is a column's number, and a
    mask of which bit r says whether row r of the window reads the column. Windows of sources are the same for the graph
    with its edges turned around. Both have 16 or 64 rows, each as it fills them.
    """

    target_ptr: Tensor  # [num_target_windows + 1] int64
    target_slots: Tensor  # [2, num_target_slots] int64: sources, masks
    source_ptr: Tensor  # [num_source_windows + 1] int64
    source_slots: Tensor  # [2, num_source_slots] int64: targets, masks


def make_windows(src: Tensor, dst: Tensor, num_src_nodes: int, num_dst_nodes: int) -> Windows | None:
    """Makes the windows of a list of edges without duplicates; None where their products would be too empty.

    Whether they are is read from the device, unless the number of edges alone says so.

    Args:
        src, dst: int64 [num_edges], in any order.

    >>> every = torch.cartesian_prod(torch.arange(20), torch.arange(20)).T
    >>> windows = make_windows(every[0], every[1], 20, 20)
    >>> windows.target_ptr, windows.target_slots[:, -1]
    (tensor([ 0, 20, 40]), tensor([19, 15]))
    """
    least = MIN_FILL[16] * COLUMN_STEP  # edges of a row in a window that is taken
    if src.numel() < least * max(num_src_nodes, num_dst_nodes) or not src.numel():
        return None
    targets = _fullest(dst, src, num_dst_nodes, num_src_nodes)
    sources = None if targets is None else _fullest(src, dst, num_src_nodes, num_dst_nodes)
    return None if targets is None or sources is None else Windows(*targets, *sources)


def slots_of(row: Tensor, column: Tensor, num_rows: int, num_columns: int, window_rows: int) -> tuple[Tensor, Tensor]:
    """Returns ptr [num_windows + 1] and slots [2, num_slots] of windows of so many rows; see `Windows`.

    >>> slots_of(torch.tensor([0, 1, 1, 16]), torch.tensor([5, 5, 7, 7]), 17, 8, 16)
    (tensor([0, 2, 3]), tensor([[5, 7, 7],
            [3, 2, 1]]))
    """
    key, slot = torch.unique(row // window_rows * num_columns + column, return_inverse=True)
    mask = torch.zeros_like(key).index_add_(0, slot, torch.ones_like(row) << row % window_rows)
    num_windows = -(-num_rows // window_rows)
    ptr = torch.searchsorted(key, torch.arange(num_windows + 1, device=key.device) * num_columns)
    return ptr, torch.stack([key % num_columns, mask])


def _fullest(row: Tensor, column: Tensor, num_rows: int, num_columns: int) -> tuple[Tensor, Tensor] | None:
    """Returns the slots of the largest windows that are full enough, None where no windows are."""
    found = None
    for window_rows, fill in MIN_FILL.items():
        ptr, slots = slots_of(row, column, num_rows, num_columns, window_rows)
        columns = torch.diff(ptr)
        stepped = (columns + COLUMN_STEP - 1) // COLUMN_STEP * COLUMN_STEP
        num_columns_served, most = torch.stack([stepped.sum(), columns.max()]).tolist()
        if row.numel() < fill * window_rows * num_columns_served or most > MAX_COLUMNS:
            break
        found = ptr, slots
    return found
