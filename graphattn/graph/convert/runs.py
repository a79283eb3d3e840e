"""Runs of consecutive sources: what a graph is to code that asks whether one pair attends, or how many in a tile do.

A window, a document, a causal or a full row is one run; a random row has as many runs as edges. Blocks become runs
without being listed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from graphattn.graph.blocks import Blocks
from graphattn.graph.ragged import ragged_range
from graphattn.graph.validate import refuse_above_limit

if TYPE_CHECKING:
    from graphattn.graph.attention_graph import AttentionGraph


class Runs(NamedTuple):
    """Target row % num_dst_nodes reads sources start … end − 1, in head row // num_dst_nodes; sorted, disjoint."""

    row: Tensor  # [num_runs] int64
    start: Tensor  # [num_runs] int64
    end: Tensor  # [num_runs] int64

    def at(self, chosen: Tensor) -> Runs:
        return Runs(self.row[chosen], self.start[chosen], self.end[chosen])


def runs_of(graph: AttentionGraph) -> Runs:
    """Returns the runs of every target and head, sorted by (head, target, source); O(edges), blocks unlisted.

    >>> from graphattn.graph import AttentionGraph
    >>> graph = AttentionGraph(torch.tensor([[0, 1, 3], [0, 0, 0]]), num_src_nodes=4)
    >>> [field.tolist() for field in runs_of(graph)]
    [[0, 0], [0, 3], [2, 4]]
    """
    src, row = graph.explicit_edges
    num_heads = 1
    if graph._head_mask is not None:
        num_heads = graph._head_mask.shape[1]
        head, edge = graph._head_mask.T.nonzero(as_tuple=True)
        src, row = src[edge], head * graph.num_dst_nodes + row[edge]
    runs = _runs_of_edges(src, row)
    if graph.blocks is None:
        return runs
    shared = _runs_of_blocks(graph.blocks, graph)
    head = torch.arange(num_heads, device=src.device).repeat_interleave(shared.row.numel())
    of_blocks = Runs(
        shared.row.repeat(num_heads) + head * graph.num_dst_nodes,
        shared.start.repeat(num_heads),
        shared.end.repeat(num_heads),
    )
    runs = Runs(*(torch.cat(fields) for fields in zip(runs, of_blocks)))
    key = runs.row * graph.num_src_nodes + runs.start
    return runs if not bool((torch.diff(key) <= 0).any()) else runs.at(torch.argsort(key))


def _runs_of_edges(src: Tensor, row: Tensor) -> Runs:
    begins = torch.ones_like(src, dtype=torch.bool)
    begins[1:] = (torch.diff(src) != 1) | (torch.diff(row) != 0)
    first = begins.nonzero()[:, 0]
    last = torch.cat([first[1:], first.new_tensor([src.numel()])[: first.numel()]]) - 1
    return Runs(row[first], src[first], src[last] + 1)


def _runs_of_blocks(blocks: Blocks, graph: AttentionGraph) -> Runs:
    pieces = _runs_of_edges(blocks.src, blocks.of_source())  # of each block's list of sources, in reading order
    length = pieces.end - pieces.start
    place = torch.cumsum(length, 0) - length  # where a piece stands in blocks.src
    block = blocks.of_target()
    stop = blocks.src_ptr[block] + blocks.prefix  # a row reads blocks.src up to here
    first = torch.searchsorted(place, blocks.src_ptr[:-1])[block]
    count = torch.searchsorted(place, stop) - first
    refuse_above_limit(int(count.sum()), "its ranges of sources", graph)
    entry, offset = ragged_range(count)
    piece = first[entry] + offset
    start = pieces.start[piece]
    return Runs(blocks.dst[entry], start, start + torch.minimum(length[piece], stop[entry] - place[piece]))
