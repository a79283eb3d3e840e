"""The plan: everything a kernel reads of a graph, as plain tensors, made once."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from graphattn.graph.blocks import Blocks
from graphattn.graph.ragged import ragged_range, running_range
from graphattn.graph.windows import Windows, make_windows

# A bucket takes another size of block while padded pairs stay within this share above real ones.
MAX_PADDING_WASTE = 0.15
# Below, a range is too short, and above too wide, for kernels to gain by it.
MIN_RANGE, MAX_RANGE = 7, 2048
MAX_SHARED = 64  # sources of targets side by side that all read the same, for kernels to serve eight heads at once
# Sequences that a kernel of variable length takes in one call: blocks are one axis of its grid on a GPU.
MAX_SEQUENCES = 2**16 - 1


class Bucket(NamedTuple):
    """Blocks of similar size, padded to one shape, to be run as one batched dense product."""

    # dst and src: int64 node ids; padding names the block's first node, so that a NaN there stays in its block
    dst: Tensor  # [num_blocks, num_targets]
    src: Tensor  # [num_blocks, num_sources]
    # prefix [num_blocks, num_targets] int64: leading sources that a row reads, 0 in padding; None where all read all
    prefix: Tensor | None
    # real [num_real_targets] int64: positions of dst.flatten() that are no padding; None where all are
    real: Tensor | None
    # first [num_blocks, num_targets] int64: canonical position of each row's first edge, in padding that of
    # the block's first row; None where rows of blocks and edges interleave
    first: Tensor | None


class Groups(NamedTuple):
    """Blocks of one shape beside each other, for kernels that take every shape as it is: nothing is padded."""

    dst: Tensor  # [num_block_targets] int64 node ids
    src: Tensor  # [num_block_sources] int64 node ids
    prefix: Tensor  # [num_block_targets] int64: leading sources that a row reads
    # table [num_groups, 5] int64: number of blocks, targets of each, sources of each; whether row t reads the first
    # t + 1 sources; whether rows read other prefixes than that or all sources
    table: Tensor

    def num_sources(self) -> Tensor:
        """Returns how many sources each block has, int64 [num_blocks]."""
        return torch.repeat_interleave(self.table[:, 2], self.table[:, 0])

    def first_source(self) -> Tensor:
        """Returns where in `src` the block of each row begins, int64 [num_block_targets]."""
        num_sources = self.num_sources()
        num_targets = torch.repeat_interleave(self.table[:, 1], self.table[:, 0])
        return torch.repeat_interleave(torch.cumsum(num_sources, 0) - num_sources, num_targets)


class Sequences(NamedTuple):
    """All blocks in their own order, for kernels that take sequences of any length: nothing is padded or sorted."""

    dst: Tensor | None  # [num_block_targets] int64 node ids; None where these are all targets in order
    src: Tensor | None  # [num_block_sources] int64 node ids; None where these are all sources in order
    dst_ptr: Tensor  # [num_blocks + 1] int32: targets of each block
    src_ptr: Tensor  # [num_blocks + 1] int32: sources of each block
    most_targets: int  # of a block
    most_sources: int
    is_causal: bool  # every block has as many sources as targets, and target t reads the first t + 1; else all read all
    reads_once: bool  # no source is in two blocks


class Plan(NamedTuple):
    """CSR and CSC of the explicit edges, and the blocks in buckets, in groups and as sequences."""

    target_ptr: Tensor  # [num_dst_nodes + 1] int64: edges of each target (CSR)
    src: Tensor  # [num_edges] int64
    dst: Tensor  # [num_edges] int64
    source_ptr: Tensor  # [num_src_nodes + 1] int64: edges of each source (CSC)
    source_order: Tensor  # [num_edges] int64: positions of edges sorted by (source, target)
    head_mask: Tensor | None  # [num_edges, num_heads] bool
    edge_id: Tensor | None  # [num_edges] canonical position where blocks stand between the edges, else None
    buckets: tuple[Bucket, ...]  # empty where the graph has no block
    covers_once: bool  # no target has more than one block row, or both a block row and an edge
    degree: int | None = None  # edges of every target, those in blocks counted; None where it is 0 or they differ
    groups: Groups | None = None  # None where the graph has no block
    num_ranged: int = 0  # edges of targets whose sources are a range without gaps, those in blocks counted
    num_sharing: int = 0  # of these targets, those that read the same sources, few enough, as one beside them,
    num_shared: int = 0  # and their edges
    # None where the graph has no block, or some block is neither full nor a causal square
    sequences: Sequences | None = None
    windows: Windows | None = None  # of the explicit edges, on CUDA where kernels gain by them

    def map(self, move: Callable[[Tensor], Tensor]) -> Plan:
        """Applies `move` to every tensor; a plan that comes to CUDA gets its windows there, for which it is read."""

        def moved(fields: Plan | Bucket | Sequences) -> dict[str, Any]:
            return {name: move(value) for name, value in fields._asdict().items() if isinstance(value, Tensor)}

        buckets = tuple(bucket._replace(**moved(bucket)) for bucket in self.buckets)
        groups = None if self.groups is None else Groups(*map(move, self.groups))
        windows = None if self.windows is None else Windows(*map(move, self.windows))
        sequences = None if self.sequences is None else self.sequences._replace(**moved(self.sequences))
        tuples: dict[str, Any] = {"buckets": buckets, "groups": groups, "windows": windows, "sequences": sequences}
        plan = self._replace(**tuples, **moved(self))
        return plan.with_windows() if plan.src.is_cuda and not self.src.is_cuda else plan

    def is_read(self) -> Tensor:
        """Returns whether some target reads each source, [num_src_nodes] bool."""
        read = torch.diff(self.source_ptr) > 0
        if self.groups is not None:
            read[self.groups.src] = True
        return read

    def keep_sources(self, kept: Tensor) -> Plan:
        """Returns the plan over the sources `kept`, ascending ids of all that are read: source s is kept[s] here."""
        new_id = torch.empty_like(self.source_ptr[1:])
        new_id[kept] = torch.arange(kept.numel(), device=kept.device)
        groups, sequences = self.groups, self.sequences
        if sequences is not None and sequences.src is not None:
            sequences = sequences._replace(src=_unless_in_order(new_id[sequences.src], kept.numel()))
        compact = self._replace(
            src=new_id[self.src],
            source_ptr=torch.cat([self.source_ptr[kept], self.source_ptr[-1:]]),
            buckets=tuple(bucket._replace(src=new_id[bucket.src]) for bucket in self.buckets),
            groups=None if groups is None else groups._replace(src=new_id[groups.src]),
            sequences=sequences,
        )
        return compact.with_ranges().with_windows()

    def with_ranges(self) -> Plan:
        """Returns the plan with its `num_ranged` and what of them is shared, which takes O(nodes) to count."""
        num_ranged, num_sharing, num_shared = _count_ranges(self)
        return self._replace(num_ranged=num_ranged, num_sharing=num_sharing, num_shared=num_shared)

    def with_windows(self) -> Plan:
        """Returns the plan with windows of its explicit edges on CUDA, and without any elsewhere."""
        if not self.src.is_cuda:
            return self._replace(windows=None)
        num_src_nodes, num_dst_nodes = self.source_ptr.shape[0] - 1, self.target_ptr.shape[0] - 1
        return self._replace(windows=make_windows(self.src, self.dst, num_src_nodes, num_dst_nodes))

    def mark_dynamic(self) -> None:
        """Tells the compiler, where it is loaded, that the number of edges varies: a new one is no new program."""
        if "torch._dynamo" in sys.modules:
            fields = self.src, self.dst, self.source_order, self.head_mask, self.edge_id
            for tensor in (*fields, *(self.groups or ()), *(self.sequences or ())):
                if isinstance(tensor, Tensor):
                    torch._dynamo.maybe_mark_dynamic(tensor, 0)
            for tensor in self.windows or ():
                torch._dynamo.maybe_mark_dynamic(tensor, tensor.dim() - 1)


def make_plan(
    edges: Tensor, num_src_nodes: int, num_dst_nodes: int, blocks: Blocks | None, head_mask: Tensor | None
) -> Plan:
    """Makes the plan of explicit edges [2, num_edges] in canonical order, and of blocks disjoint from them."""
    src, dst = edges[0].contiguous(), edges[1].contiguous()
    target_ptr = pointers(dst, num_dst_nodes)
    source_order = torch.argsort(src, stable=True)
    source_ptr = pointers(src[source_order], num_src_nodes)
    if blocks is None:
        constant = constant_degree(torch.diff(target_ptr), src.numel())
        plan = Plan(target_ptr, src, dst, source_ptr, source_order, head_mask, None, (), True, constant)
        return plan.with_ranges().with_windows()
    degree = torch.diff(target_ptr)
    block_rows = torch.bincount(blocks.dst, minlength=num_dst_nodes)
    covers_once = not bool(((block_rows > 1) | ((block_rows > 0) & (degree > 0))).any())
    total = degree.index_add(0, blocks.dst, blocks.prefix)
    first = edge_id = None
    if covers_once and blocks.sources_ascend():
        start = torch.cumsum(total, 0) - total
        first = start[blocks.dst]
        edge_id = start[dst] + torch.arange(dst.numel(), device=dst.device) - target_ptr[dst]
    constant = constant_degree(total, dst.numel() + blocks.num_edges)
    buckets, groups = _buckets(blocks, first), _groups(blocks)
    plan = Plan(
        target_ptr, src, dst, source_ptr, source_order, head_mask, edge_id, buckets, covers_once, constant, groups
    )
    return plan._replace(sequences=_sequences(blocks, num_src_nodes, num_dst_nodes)).with_ranges().with_windows()


def pointers(sorted_ids: Tensor, num_nodes: int) -> Tensor:
    """Returns where each node's run starts in a sorted list of ids, int64 [num_nodes + 1].

    >>> pointers(torch.tensor([0, 0, 2]), 3)
    tensor([0, 2, 2, 3])
    """
    return torch.searchsorted(sorted_ids, torch.arange(num_nodes + 1, device=sorted_ids.device))


def constant_degree(degree: Tensor, num_edges: int) -> int | None:
    """Returns how many edges every target has, None where that is 0 or targets differ.

    Args:
        degree: int64 [num_dst_nodes], edges of each target.
        num_edges: their sum; where it is no multiple of the targets, the device is not asked.

    >>> constant_degree(torch.tensor([2, 2]), 4), constant_degree(torch.tensor([3, 1]), 4)
    (2, None)
    """
    each, left = divmod(num_edges, max(degree.numel(), 1))
    return each if each and not left and bool((degree == each).all()) else None


def _count_ranges(plan: Plan) -> tuple[int, int, int]:
    """Counts the edges of targets that see MIN_RANGE to MAX_RANGE sources, as many as lie between first and last; of
    those the targets that see the same MAX_SHARED at most as the target before or after, and their edges.

    Where heads see different edges, there are none: kernels do not look for ranges there.
    """
    if plan.head_mask is not None:
        return 0, 0, 0
    degree = torch.diff(plan.target_ptr)
    low = high = degree  # of no meaning without an edge, as at targets without one
    if plan.src.numel():
        low = plan.src[plan.target_ptr[:-1].clamp(max=plan.src.numel() - 1)]
        high = plan.src[(plan.target_ptr[1:] - 1).clamp(min=0)]
    if plan.groups is not None:
        dst, src, prefix, _ = plan.groups
        least, largest = running_range(src, torch.repeat_interleave(plan.groups.num_sources()))
        reads = prefix > 0
        last_read = (plan.groups.first_source() + prefix - 1)[reads]
        low, high = low.where(degree > 0, torch.iinfo(torch.int64).max), high.where(degree > 0, -1)
        low = low.scatter_reduce(0, dst[reads], least[last_read], "amin")
        high = high.scatter_reduce(0, dst[reads], largest[last_read], "amax")
        degree = degree.index_add(0, dst, prefix)
    is_range = (high - low + 1 == degree) & (degree >= MIN_RANGE) & (degree <= MAX_RANGE)
    is_small = is_range & (degree <= MAX_SHARED)
    is_same = (low[1:] == low[:-1]) & (degree[1:] == degree[:-1]) & is_small[1:]
    is_shared = torch.zeros_like(is_small)
    is_shared[1:] |= is_same
    is_shared[:-1] |= is_same
    return int((degree * is_range).sum()), int(is_shared.sum()), int((degree * is_shared).sum())


def _buckets(blocks: Blocks, first: Tensor | None) -> tuple[Bucket, ...]:
    num_targets, num_sources = torch.diff(blocks.dst_ptr), torch.diff(blocks.src_ptr)
    shapes, shape_of = torch.unique(torch.stack([num_sources, num_targets], 1), dim=0, return_inverse=True)
    count = torch.bincount(shape_of, minlength=shapes.shape[0])
    groups: list[list[int]] = []
    real_pairs, tallest, widest, members = 0, 0, 0, 0
    # a Python loop over distinct sizes, not over blocks
    for index, ((wide, tall), times) in enumerate(zip(shapes.tolist(), count.tolist(), strict=True)):
        grown = (max(widest, wide), max(tallest, tall), members + times, real_pairs + wide * tall * times)
        if groups and grown[0] * grown[1] * grown[2] <= (1 + MAX_PADDING_WASTE) * grown[3]:
            groups[-1].append(index)
        else:
            groups.append([index])
            grown = (wide, tall, times, wide * tall * times)
        widest, tallest, members, real_pairs = grown
    group_of_shape = torch.empty(shapes.shape[0], dtype=torch.int64)
    for number, group in enumerate(groups):
        group_of_shape[group] = number
    bucket_of = group_of_shape.to(shape_of.device)[shape_of]
    return tuple(_bucket(blocks, (bucket_of == number).nonzero()[:, 0], first) for number in range(len(groups)))


def _groups(blocks: Blocks) -> Groups:
    num_targets, num_sources = torch.diff(blocks.dst_ptr), torch.diff(blocks.src_ptr)
    block = blocks.of_target()
    rank = torch.arange(block.numel(), device=block.device) - blocks.dst_ptr[block]
    most = num_sources[block]

    def in_each_row(holds: Tensor) -> Tensor:
        fails = torch.zeros_like(num_targets, dtype=torch.bool)
        fails[block[~holds]] = True
        return ~fails  # [num_blocks]

    reads_all = in_each_row(blocks.prefix == most)
    is_causal = ~reads_all & in_each_row(blocks.prefix == torch.minimum(rank + 1, most))
    shapes = torch.stack([num_targets, num_sources, is_causal.long(), (~reads_all & ~is_causal).long()], 1)
    shapes, shape_of, count = torch.unique(shapes, dim=0, return_inverse=True, return_counts=True)
    order = torch.argsort(shape_of, stable=True)
    owner, row = ragged_range(num_targets[order])
    rows = blocks.dst_ptr[order][owner] + row
    owner, column = ragged_range(num_sources[order])
    columns = blocks.src_ptr[order][owner] + column
    table = torch.cat([count[:, None], shapes], 1)
    return Groups(blocks.dst[rows], blocks.src[columns], blocks.prefix[rows], table)


def _sequences(blocks: Blocks, num_src_nodes: int, num_dst_nodes: int) -> Sequences | None:
    num_targets, num_sources = torch.diff(blocks.dst_ptr), torch.diff(blocks.src_ptr)
    block = blocks.of_target()
    rank = torch.arange(block.numel(), device=block.device) - blocks.dst_ptr[block]
    reads_all = bool((blocks.prefix == num_sources[block]).all())
    is_causal = not reads_all and torch.equal(num_targets, num_sources) and torch.equal(blocks.prefix, rank + 1)
    if blocks.num_blocks > MAX_SEQUENCES or not (reads_all or is_causal):
        return None
    src = _unless_in_order(blocks.src, num_src_nodes)
    return Sequences(
        _unless_in_order(blocks.dst, num_dst_nodes),
        src,
        blocks.dst_ptr.int(),
        blocks.src_ptr.int(),
        int(num_targets.max()),
        int(num_sources.max()),
        is_causal,
        src is None or bool((torch.bincount(src) <= 1).all()),
    )


def _unless_in_order(nodes: Tensor, num_nodes: int) -> Tensor | None:
    """Returns the nodes, or None where they are all of them in order, so that rows need not be gathered."""
    is_all = nodes.numel() == num_nodes and torch.equal(nodes, torch.arange(num_nodes, device=nodes.device))
    return None if is_all else nodes


def _bucket(blocks: Blocks, chosen: Tensor, first: Tensor | None) -> Bucket:
    num_targets, num_sources = torch.diff(blocks.dst_ptr)[chosen], torch.diff(blocks.src_ptr)[chosen]
    column = torch.arange(int(num_sources.max()), device=chosen.device)
    row = torch.arange(int(num_targets.max()), device=chosen.device)
    is_target, is_source = row < num_targets[:, None], column < num_sources[:, None]
    target = blocks.dst_ptr[chosen][:, None] + torch.where(is_target, row, 0)
    source = blocks.src_ptr[chosen][:, None] + torch.where(is_source, column, 0)
    prefix = torch.where(is_target, blocks.prefix[target], 0)
    is_full = bool((prefix == column.numel()).all())
    return Bucket(
        dst=blocks.dst[target],
        src=blocks.src[source],
        prefix=None if is_full else prefix,
        real=None if bool(is_target.all()) else is_target.flatten().nonzero()[:, 0],
        first=None if first is None else first[target],
    )
