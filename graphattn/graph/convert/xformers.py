"""xFormers: the lengths of a block-diagonal mask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from graphattn.graph.blocks import bicliques
from graphattn.graph.convert.runs import runs_of
from graphattn.graph.convert.sparse import refuse_heads
from graphattn.graph.ragged import node_ptr

if TYPE_CHECKING:
    from graphattn.graph.attention_graph import AttentionGraph


def to_xformers(graph: AttentionGraph) -> tuple[list[int], list[int]]:
    """Returns q_seqlen and kv_seqlen for xFormers' `BlockDiagonalMask.from_seqlens`.

    Raises:
        ValueError: with the reason, for a graph whose targets do not read, run by run, all sources from first to last.

    >>> from graphattn.graph import AttentionGraph
    >>> AttentionGraph(torch.tensor([[0, 1, 2, 2], [0, 0, 1, 2]]), num_src_nodes=3).to_xformers()
    ([1, 2], [2, 1])
    """
    refuse_heads(graph, "to_xformers", "to_block_mask, which keeps all heads")
    runs = runs_of(graph)
    # sources that stand side by side in two runs, of a block and of edges beside it, are one run
    joins = torch.zeros_like(runs.row, dtype=torch.bool)
    joins[1:] = (torch.diff(runs.row) == 0) & (runs.start[1:] == runs.end[:-1])
    first = (~joins).nonzero()[:, 0]
    last = torch.cat([first[1:], first.new_tensor([runs.row.numel()])[: first.numel()]]) - 1
    row, start, end = runs.row[first], runs.start[first], runs.end[last]
    _check_rows(torch.bincount(row, minlength=graph.num_dst_nodes))
    begins = torch.ones_like(row, dtype=torch.bool)
    begins[1:] = (torch.diff(start) != 0) | (torch.diff(end) != 0)
    target, low, high = row[begins], start[begins], end[begins]
    expected = torch.cat([high.new_zeros(1), high])
    wrong = (low != expected[:-1]).nonzero()[:, 0]
    if wrong.numel():
        at = int(wrong[0])
        raise _no_block_diagonal(
            f"target {int(target[at])} reads sources {int(low[at])} … {int(high[at]) - 1}, where a block of "
            f"its own would begin at source {int(expected[at])}",
            "Causal blocks are another class there: convert the graph before keep(is_causal).",
        )
    if int(expected[-1]) != graph.num_src_nodes:
        raise _no_block_diagonal(
            f"no target reads sources {int(expected[-1])} … {graph.num_src_nodes - 1}", "Call compact_sources() first."
        )
    edge = torch.cat([target, target.new_tensor([graph.num_dst_nodes])])
    return torch.diff(edge).tolist(), (high - low).tolist()


def from_xformers(
    cls: type[AttentionGraph], q_seqlen: Sequence[int], kv_seqlen: Sequence[int] | None = None
) -> AttentionGraph:
    """Returns the batch of full attention that `BlockDiagonalMask.from_seqlens(q_seqlen, kv_seqlen)` stands for.

    Args:
        q_seqlen: targets of each block.
        kv_seqlen: sources of each block; None for as many as targets.

    Raises:
        ValueError: if the two differ in length, or a length is negative.
    """
    dst_ptr = node_ptr(torch.tensor(list(q_seqlen), dtype=torch.int64), "q_seqlen")
    src_ptr = dst_ptr if kv_seqlen is None else node_ptr(torch.tensor(list(kv_seqlen), dtype=torch.int64), "kv_seqlen")
    if src_ptr.numel() != dst_ptr.numel():
        raise ValueError(
            f"q_seqlen and kv_seqlen must count the same blocks, got {dst_ptr.numel() - 1} and {src_ptr.numel() - 1}. "
            "Give both one length per block."
        )
    num_src, num_dst = int(src_ptr[-1]), int(dst_ptr[-1])
    return cls.trusted(
        None,
        num_src,
        num_dst,
        blocks=bicliques(dst_ptr, torch.arange(num_dst), src_ptr, torch.arange(num_src)),
        src_ptr=src_ptr,
        dst_ptr=dst_ptr,
        origin=f"from_xformers({dst_ptr.numel() - 1} blocks)",
    )


def _check_rows(num_runs: Tensor) -> None:
    odd = (num_runs != 1).nonzero()[:, 0]
    if odd.numel():
        target, count = int(odd[0]), int(num_runs[odd[0]])
        if not count:
            raise _no_block_diagonal(f"target {target} reads no source", "Give it a self edge, or leave it out.")
        raise _no_block_diagonal(
            f"target {target} reads {count} separate runs of sources", "Use to_block_mask, which holds any pattern."
        )


def _no_block_diagonal(reason: str, advice: str) -> ValueError:
    return ValueError(f"to_xformers needs a block-diagonal graph, but {reason}. {advice}")
