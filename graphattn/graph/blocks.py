"""Blocks: bicliques (target set × source set) held as pointers, so that full attention costs O(nodes) to store.

Row t of a block reads the first `prefix[t]` sources of the block's list: all of them in a plain block, those up to the
target in a causal one. A staircase of prefixes stays a staircase under transposition, so blocks are closed under it.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from graphattn.graph import pairs
from graphattn.graph.ragged import check_ptr, ragged_range, running_range


class Blocks(NamedTuple):
    """Many bicliques: block b joins targets dst[dst_ptr[b]:dst_ptr[b+1]] and sources src[src_ptr[b]:src_ptr[b+1]]."""

    dst_ptr: Tensor  # [num_blocks + 1] int64, offsets into dst
    dst: Tensor  # [num_block_targets] int64 node ids
    src_ptr: Tensor  # [num_blocks + 1] int64, offsets into src
    src: Tensor  # [num_block_sources] int64 node ids, in reading order
    prefix: Tensor  # [num_block_targets] int64: how many leading sources the target reads
    kind: Tensor  # [num_blocks] int16 bitmask into the graph's kinds

    @property
    def num_blocks(self) -> int:
        return self.kind.numel()

    @property
    def num_edges(self) -> int:
        return int(self.prefix.sum())

    def of_target(self) -> Tensor:
        """Returns the block of each entry of `dst`, [num_block_targets]."""
        return torch.repeat_interleave(torch.diff(self.dst_ptr))

    def of_source(self) -> Tensor:
        """Returns the block of each entry of `src`, [num_block_sources]."""
        return torch.repeat_interleave(torch.diff(self.src_ptr))

    def enumerate(self) -> tuple[Tensor, Tensor]:
        """Lists every pair: edge_index [2, num_edges] in block order, and its kind [num_edges]."""
        row, offset = ragged_range(self.prefix)
        block = self.of_target()[row]
        return torch.stack([self.src[self.src_ptr[block] + offset], self.dst[row]]), self.kind[block]

    def holder(self, edge_index: Tensor) -> Tensor:
        """Returns a block that holds each pair, int64 [num_edges], −1 where none does.

        Takes O(edges · blocks per target · log).
        """
        src, dst = edge_index
        width = int(torch.cat([self.src, src, src.new_zeros(1)]).max()) + 1
        source_key = self.of_source() * width + self.src
        sorted_key, rank = source_key.sort()  # (block, source) pairs, to look a source up in a block
        target, by_target = self.dst.sort(stable=True)
        first = torch.searchsorted(target, dst)
        edge, offset = ragged_range(torch.searchsorted(target, dst, right=True) - first)
        row = by_target[first[edge] + offset]  # every block row whose target is the edge's
        block = self.of_target()[row]
        place = pairs.find(sorted_key, block * width + src[edge])
        is_read = (place >= 0) & (rank[place] - self.src_ptr[block] < self.prefix[row])
        holder = torch.full_like(src, -1)
        holder[edge[is_read]] = block[is_read]
        return holder

    def overlapping(self) -> Tensor:
        """Returns bool [num_blocks]: whether the block shares a target and a source with another one.

        Two staircases may do so without sharing a pair; they count as overlapping all the same.
        """
        by_target = _pairs_sharing(self.dst, self.of_target(), self.num_blocks)
        by_source = _pairs_sharing(self.src, self.of_source(), self.num_blocks) if by_target.numel() else by_target
        both = by_target[torch.isin(by_target, by_source)]
        overlap = torch.zeros(self.num_blocks, dtype=torch.bool, device=self.dst.device)
        overlap[torch.div(both, self.num_blocks, rounding_mode="floor")] = True
        overlap[both % self.num_blocks] = True
        return overlap

    def select(self, chosen: Tensor) -> "Blocks | None":
        """Returns the blocks marked in `chosen` [num_blocks] bool, None if there are none."""
        if not bool(chosen.any()):
            return None
        rows, columns = chosen[self.of_target()], chosen[self.of_source()]
        return Blocks(
            _ptr(torch.diff(self.dst_ptr)[chosen]),
            self.dst[rows],
            _ptr(torch.diff(self.src_ptr)[chosen]),
            self.src[columns],
            self.prefix[rows],
            self.kind[chosen],
        )

    def without_empty(self) -> "Blocks | None":
        """Drops rows that read nothing, sources that no row reads, and blocks without pairs."""
        rows = self.prefix > 0
        block, owner = self.of_target(), self.of_source()
        num_rows = torch.zeros_like(self.dst_ptr[1:]).index_add_(0, block, rows.long())
        num_read = torch.zeros_like(num_rows).scatter_reduce_(0, block, self.prefix, "amax")
        columns = torch.arange(self.src.numel(), device=self.src.device) - self.src_ptr[owner] < num_read[owner]
        return Blocks(
            _ptr(num_rows), self.dst[rows], _ptr(num_read), self.src[columns], self.prefix[rows], self.kind
        ).select(num_rows > 0)

    def keep_causal(self) -> "Blocks | None":
        """Keeps src <= dst. Needs sources in ascending order in each block; returns None if nothing is left."""
        width = int(torch.maximum(self.src.max(), self.dst.max())) + 1
        key = self.of_source() * width + self.src
        block = self.of_target()
        upto = torch.searchsorted(key, block * width + self.dst, right=True) - self.src_ptr[block]
        return self._replace(prefix=torch.minimum(self.prefix, upto)).without_empty()

    def sources_ascend(self) -> bool:
        """Returns whether each block lists its sources in ascending order, as every builder does."""
        within_block = torch.diff(self.of_source()) == 0
        return not bool((within_block & (torch.diff(self.src) <= 0)).any())

    def keep_sources(self, kept: Tensor) -> "Blocks | None":
        """Drops the sources not marked in `kept` [num_src_nodes] bool; staircases stay staircases."""
        keep = kept[self.src]
        running = _ptr(keep.long())  # kept sources before each entry of src
        block = self.of_target()
        start = self.src_ptr[block]
        prefix = running[start + self.prefix] - running[start]
        return self._replace(src_ptr=running[self.src_ptr], src=self.src[keep], prefix=prefix).without_empty()

    def keep_equal(self, src_label: Tensor, dst_label: Tensor) -> "Blocks | None":
        """Keeps the pairs whose ends carry one label, each block cut into one per label; staircases stay staircases.

        Args:
            src_label: int64 [num_src_nodes], at least 0.
            dst_label: int64 [num_dst_nodes], at least 0.
        """
        num_labels = int(torch.cat([src_label, dst_label]).max()) + 1
        columns = self.of_source() * num_labels + src_label[self.src]  # the part that an entry of src belongs to
        rows = self.of_target() * num_labels + dst_label[self.dst]
        part, number = torch.unique(torch.cat([columns, rows]), return_inverse=True)
        columns, rows = number[: columns.numel()], number[columns.numel() :]
        by_columns, by_rows = torch.argsort(columns, stable=True), torch.argsort(rows, stable=True)
        # sources of a part stay in reading order, so those a row reads are the ones before where its prefix ended
        width = self.src.numel() + 1
        place = columns[by_columns] * width + by_columns
        first = torch.searchsorted(place, rows * width)
        end = torch.searchsorted(place, rows * width + self.src_ptr[self.of_target()] + self.prefix)
        return Blocks(
            _ptr(torch.bincount(rows, minlength=part.numel())),
            self.dst[by_rows],
            _ptr(torch.bincount(columns, minlength=part.numel())),
            self.src[by_columns],
            (end - first)[by_rows],
            self.kind[torch.div(part, num_labels, rounding_mode="floor")],
        ).without_empty()

    def looks_ahead(self) -> bool:
        """Returns whether some target reads a source behind itself, src > dst."""
        furthest = running_range(self.src, self.of_source())[1]  # among the sources up to here
        reads = self.prefix > 0
        last = (self.src_ptr[self.of_target()] + self.prefix - 1)[reads]
        return bool((furthest[last] > self.dst[reads]).any())

    def relabel(self, src_map: Tensor, dst_map: Tensor) -> "Blocks":
        """Renames nodes: source s becomes src_map[s], target t becomes dst_map[t]."""
        return self._replace(src=src_map[self.src], dst=dst_map[self.dst]).in_order()

    def readers(self, among: Tensor | None = None) -> Tensor:
        """Returns how many targets of its block, those marked in `among` if given, read each source."""
        start, prefix = self.src_ptr[self.of_target()], self.prefix
        if among is not None:
            start, prefix = start[among], prefix[among]
        change = torch.zeros(self.src.numel() + 1, dtype=torch.int64, device=self.src.device)
        change.index_add_(0, start, torch.ones_like(start))
        change.index_add_(0, start + prefix, -torch.ones_like(start))
        return torch.cumsum(change, 0)[:-1]

    def spanning_pairs(self) -> Tensor:
        """Returns one pair of each target that reads and one of each source that is read, [2, num_pairs].

        They join all nodes of a block, so it lies inside one graph of a batch exactly if each of them does.
        """
        block, owner, reads = self.of_target(), self.of_source(), self.prefix > 0
        num_read = torch.zeros_like(self.src_ptr[1:]).scatter_reduce_(0, block, self.prefix, "amax")
        reads_most = self.prefix == num_read[block]  # such a target reads every source that any target does
        reader = torch.zeros_like(num_read)
        reader[block[reads_most]] = self.dst[reads_most]
        is_read = torch.arange(self.src.numel(), device=self.src.device) - self.src_ptr[owner] < num_read[owner]
        of_targets = torch.stack([self.src[self.src_ptr[block[reads]]], self.dst[reads]])
        of_sources = torch.stack([self.src[is_read], reader[owner[is_read]]])
        return torch.cat([of_targets, of_sources], 1)

    def in_order(self) -> "Blocks":
        """Sorts targets inside each block, and sources that the same targets read: one form for the same pairs."""
        rows = _argsort_within(self.of_target(), self.dst)
        width = int(self.src.max()) + 1 if self.src.numel() else 1
        columns = _argsort_within(self.of_source(), self.src - self.readers() * width)  # most read first
        return self._replace(dst=self.dst[rows], prefix=self.prefix[rows], src=self.src[columns])

    def transpose(self) -> "Blocks":
        """Swaps targets and sources: a source becomes a target that reads those whose prefix exceeds its rank."""
        longest_first = _argsort_within(self.of_target(), -self.prefix)
        swapped = Blocks(self.src_ptr, self.src, self.dst_ptr, self.dst[longest_first], self.readers(), self.kind)
        return swapped.in_order()

    def shift(self, dst_offset: int, src_offset: int) -> "Blocks":
        """Moves every node id by a constant, for disjoint unions."""
        return self._replace(dst=self.dst + dst_offset, src=self.src + src_offset)


def concatenate(parts: list[Blocks]) -> Blocks | None:
    """Lists the blocks of several graphs one after the other; None for no part."""
    if not parts:
        return None
    return Blocks(
        _ptr(torch.cat([torch.diff(part.dst_ptr) for part in parts])),
        torch.cat([part.dst for part in parts]),
        _ptr(torch.cat([torch.diff(part.src_ptr) for part in parts])),
        torch.cat([part.src for part in parts]),
        torch.cat([part.prefix for part in parts]),
        torch.cat([part.kind for part in parts]),
    )


def bicliques(dst_ptr: Tensor, dst: Tensor, src_ptr: Tensor, src: Tensor) -> Blocks | None:
    """Makes plain blocks (every target reads every source) of the first kind; None if they hold no pair.

    >>> bicliques(torch.tensor([0, 2]), torch.tensor([0, 1]), torch.tensor([0, 3]), torch.tensor([0, 1, 2])).num_edges
    6
    """
    prefix = torch.repeat_interleave(torch.diff(src_ptr), torch.diff(dst_ptr))
    kind = torch.ones(dst_ptr.numel() - 1, dtype=torch.int16, device=dst.device)
    return Blocks(dst_ptr, dst, src_ptr, src, prefix, kind).without_empty()


def checked_blocks(blocks: Blocks, num_src_nodes: int, num_dst_nodes: int, device: torch.device) -> Blocks | None:
    """Returns blocks in order and without empty ones (None if no pair is left), or raises.

    Raises:
        ValueError: if a field has the wrong shape, dtype, device or range, or a block repeats a node.
    """
    for name, field in blocks._asdict().items():
        if field.device != device:
            raise ValueError(
                f"blocks.{name} must be on the device of edge_index, {device}, got {field.device}. Move it first."
            )
    for name, nodes, ptr, size in (
        ("dst", blocks.dst, blocks.dst_ptr, num_dst_nodes),
        ("src", blocks.src, blocks.src_ptr, num_src_nodes),
    ):
        if nodes.dtype != torch.int64 or nodes.dim() != 1:
            raise ValueError(
                f"blocks.{name} must be int64 [num_entries], got {nodes.dtype} {list(nodes.shape)}. Pass node ids."
            )
        if nodes.numel() and (int(nodes.min()) < 0 or int(nodes.max()) >= size):
            wrong = int(nodes.min()) if int(nodes.min()) < 0 else int(nodes.max())
            raise ValueError(f"blocks.{name} must lie in [0, {size}), got {wrong}. Check num_{name}_nodes.")
        check_ptr(ptr, nodes.numel(), f"blocks.{name}_ptr")
        if ptr.numel() != blocks.num_blocks + 1:
            raise ValueError(
                f"blocks.{name}_ptr must have one entry more than blocks.kind, {blocks.num_blocks + 1}, got "
                f"{ptr.numel()}. Give every block its offsets and its kind."
            )
    num_sources = torch.diff(blocks.src_ptr)[blocks.of_target()]
    if blocks.prefix.shape != blocks.dst.shape or bool(((blocks.prefix < 0) | (blocks.prefix > num_sources)).any()):
        raise ValueError(
            "blocks.prefix must hold, for each block target, how many of its block's sources it reads, "
            f"got {list(blocks.prefix.shape)} for {blocks.dst.numel()} targets, or a number out of range. "
            "Use graphattn.graph.bicliques for plain blocks."
        )
    for owner, nodes, size in (
        (blocks.of_target(), blocks.dst, num_dst_nodes),
        (blocks.of_source(), blocks.src, num_src_nodes),
    ):
        if torch.unique(owner * size + nodes).numel() != nodes.numel():
            raise ValueError("a block must list each target and each source once. Remove the repeated node.")
    return blocks.in_order().without_empty()


def _ptr(counts: Tensor) -> Tensor:
    return torch.cat([counts.new_zeros(1), torch.cumsum(counts, 0)])


def _argsort_within(group: Tensor, value: Tensor) -> Tensor:
    """Returns the order that sorts `value` inside each (already contiguous, ascending) group."""
    by_value = torch.argsort(value, stable=True)
    return by_value[torch.argsort(group[by_value], stable=True)]


def _pairs_sharing(node: Tensor, block: Tensor, num_blocks: int) -> Tensor:
    """Returns the distinct keys `low · num_blocks + high` of pairs of blocks that list the same node."""
    ordered, order = node.sort(stable=True)
    block = block[order]
    end = torch.searchsorted(ordered, ordered, right=True)
    here = torch.arange(ordered.numel(), device=node.device)
    entry, offset = ragged_range(end - here - 1)  # every later entry of the same node
    first, second = block[entry], block[entry + 1 + offset]
    return torch.unique(torch.minimum(first, second) * num_blocks + torch.maximum(first, second))
