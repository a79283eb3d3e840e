"""Blocks as ranges: the sources of every block listed side by side, so that each row reads neighbours.

Kernels that serve ranges of sources by dense products serve blocks so too, whatever is told per edge: the sources are
copied, one row for each block that they stand in, and edges keep their canonical order.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from graphattn.graph.plan import Plan
from graphattn.graph.ragged import node_ptr, ragged_range


class Copies(NamedTuple):
    """A graph over copies of its sources."""

    source: Tensor  # int64 [num_copies], the source that each is
    # every edge listed, those of blocks among them; without what kernels of the CPU do not read: dst, source_ptr and
    # source_order have no elements
    plan: Plan


def copies_of(plan: Plan) -> Copies:
    """Lists the edges of a plan with blocks over copies of its sources.

    Args:
        plan: with blocks whose rows' edges have places in the canonical order, as `Bucket.first` says.

    >>> from graphattn.connectivity import clusters
    >>> source, ranged = copies_of(clusters(4, [5, 1, 5, -1]).plan())
    >>> source.tolist(), ranged.src.tolist(), ranged.target_ptr.tolist()
    ([1, 0, 2], [1, 2, 0, 1, 2], [0, 2, 3, 5, 5])
    """
    assert plan.groups is not None
    dst, of_block, prefix, _ = plan.groups
    target_ptr = node_ptr(torch.diff(plan.target_ptr).index_add(0, dst, prefix))
    row, offset = ragged_range(prefix)
    src = torch.empty(row.numel() + plan.src.numel(), dtype=torch.int64, device=dst.device)
    src[target_ptr[dst][row] + offset] = plan.groups.first_source()[row] + offset
    source = of_block
    if plan.edge_id is not None and plan.src.numel():
        src[plan.edge_id] = of_block.numel() + plan.src
        source = torch.cat([of_block, torch.arange(plan.source_ptr.numel() - 1, device=dst.device)])
    nothing = src.new_empty(0)
    return Copies(source, Plan(target_ptr, src, nothing, nothing, nothing, None, None, (), True))
