"""Reach: after how many layers a target has heard of every source, found without a matrix of all pairs."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from graphattn.graph.plan import pointers
from graphattn.graph.ragged import batch_of, ragged_range, running_range

if TYPE_CHECKING:
    from graphattn.graph.attention_graph import AttentionGraph

MAX_WORK = 2**26  # edges times words of 64 sources times hops, up to which every pair is followed
MAX_LISTED = 2**24  # edges that are listed to be followed
MAX_LEVELS = 2**10  # hops that one search walks
NUM_SWEEPS = 3  # searches back and forth that look for a long way


class Hops(NamedTuple):
    """How many layers of one graph it takes until no target hears of another source: the longest shortest way.

    A node keeps what it has (the residual stream), so it reaches itself in 0 hops.
    """

    at_least: int
    at_most: int  # equal to `at_least` where the number is exact
    covers: bool | None  # whether every target is reached from every source of its graph; None where not followed
    num_reached: int | None  # pairs (target, source) that are ever reached, a node itself included; None if not counted

    @property
    def is_exact(self) -> bool:
        return self.at_least == self.at_most


def count_hops(graph: AttentionGraph) -> Hops:
    r"""Counts the hops until every target has been reached from every source that ever reaches it.

    That is max d(j, i) over the pairs with a way j → … → i inside a graph of the batch, d the fewest edges of a way.

    - Exact, O(n log n · log hops): each target reads a range of sources without gaps that holds or touches the target
      itself (windows, causal or not; full; documents; prefixes). Ranges compose to ranges, so the powers of the graph
      are squared until they stay, and the first power that equals the last is found by bisection.
    - Exact, edges · n / 64 · hops word operations, if that is at most 2^26: 64 sources at a time, one bit each.
    - Bounds otherwise. At least: the longest way that a few searches back and forth find (Magnien, Latapy and Habib
      2009 call two of them a double sweep). At most: ways into and out of a hub, where it reaches and is reached by
      all; the hops of the ranges around each target alone, where no edge leaves what those reach; n − 1.

    A rectangular graph has one hop: its targets are nobody's sources.

    Args:
        graph: any graph; where heads see different edges, the edges of all heads count.

    >>> from graphattn.graph import AttentionGraph
    >>> count_hops(AttentionGraph(torch.tensor([[0, 1, 2], [1, 2, 3]]), num_src_nodes=4))
    Hops(at_least=3, at_most=3, covers=False, num_reached=10)
    """
    num_pairs = int((torch.diff(graph.src_ptr) * torch.diff(graph.dst_ptr)).sum())
    if not graph.is_square:
        hops = int(graph.num_edges > 0)
        return Hops(hops, hops, graph.num_edges == num_pairs, graph.num_edges)
    if graph.device.type != "cpu":
        graph = graph.to("cpu")
    low, high, degree = _spans(graph)
    here = torch.arange(graph.num_src_nodes)
    if bool(((high - low + 1 == degree) & (low <= here + 1) & (high >= here - 1)).all()):
        hops, low, high = _hops_of_ranges(torch.minimum(low, here), torch.maximum(high, here))
        num_reached = int((high - low + 1).sum())
        return Hops(hops, hops, num_reached == num_pairs, num_reached)
    longest = int(torch.diff(graph.src_ptr).max())
    num_words = -(-longest // 64)
    if graph.num_edges <= MAX_LISTED and graph.num_edges * num_words <= MAX_WORK:
        found = _follow_all(graph.enumerate(), num_words)
        if found is not None:
            hops, num_reached = found
            return Hops(hops, hops, num_reached == num_pairs, num_reached)
    return _bounded(graph, low, high, num_pairs)


def _spans(graph: AttentionGraph) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the first and the last source of each target, itself where it has none, and how many it has."""
    src, dst = graph.explicit_edges
    here = torch.arange(graph.num_dst_nodes)
    ptr = pointers(dst, graph.num_dst_nodes)
    degree = torch.diff(ptr)
    low = high = here
    if src.numel():
        low = torch.where(degree > 0, src[ptr[:-1].clamp(max=src.numel() - 1)], here)
        high = torch.where(degree > 0, src[(ptr[1:] - 1).clamp(min=0)], here)
    blocks = graph.blocks
    if blocks is not None:
        least, largest = running_range(blocks.src, blocks.of_source())
        reads = blocks.prefix > 0
        last = (blocks.src_ptr[blocks.of_target()] + blocks.prefix - 1)[reads]
        alone = degree == 0
        low = torch.where(alone, torch.iinfo(torch.int64).max, low)
        high = torch.where(alone, -1, high)
        low = low.scatter_reduce(0, blocks.dst[reads], least[last], "amin")
        high = high.scatter_reduce(0, blocks.dst[reads], largest[last], "amax")
        degree = degree.index_add(0, blocks.dst, blocks.prefix)
        low, high = torch.where(degree == 0, here, low), torch.where(degree == 0, here, high)
    return low, high, torch.where(degree == 0, 1, degree)


def _hops_of_ranges(low: Tensor, high: Tensor) -> tuple[int, Tensor, Tensor]:
    """Returns the hops of ranges that hold their own target, and the ranges that are reached in the end."""
    powers = [(low, high)]  # of 1, 2, 4, … hops
    while True:
        last = powers[-1]
        squared = _compose(last, last)
        if torch.equal(squared[0], last[0]) and torch.equal(squared[1], last[1]):
            break
        powers.append(squared)
    here = torch.arange(low.numel())
    walked, hops = (here, here), 0
    for exponent in reversed(range(len(powers))):
        further = _compose(powers[exponent], walked)
        if not (torch.equal(further[0], last[0]) and torch.equal(further[1], last[1])):
            walked, hops = further, hops + 2**exponent
    is_still = torch.equal(last[0], here) and torch.equal(last[1], here)
    return (0 if is_still else hops + 1), *last


def _compose(inner: tuple[Tensor, Tensor], outer: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Returns the ranges that the targets of the ranges `outer` reach by `inner`: ranges, as each holds its target."""
    (low, high), (first, last) = inner, outer
    return _least_between(low, first, last), -_least_between(-high, first, last)


def _least_between(values: Tensor, first: Tensor, last: Tensor) -> Tensor:
    """Returns min(values[first : last + 1]), entry by entry."""
    if bool((torch.diff(values) >= 0).all()):
        return values[first]
    if bool((torch.diff(values) <= 0).all()):
        return values[last]
    level = torch.floor(torch.log2((last - first + 1).double())).long()
    least = torch.empty_like(values)
    for exponent in range(int(level.max()) + 1):  # values: the least of the 2^exponent entries from each on
        chosen = level == exponent
        start = first[chosen], last[chosen] + 1 - 2**exponent
        least[chosen] = torch.minimum(values[start[0]], values[start[1]])
        if values.numel() > 2**exponent:
            values = torch.minimum(values[: values.numel() - 2**exponent], values[2**exponent :])
    return least


def _follow_all(graph: AttentionGraph, num_words: int) -> tuple[int, int] | None:
    """Returns hops and reached pairs, a bit per pair and 64 sources of each graph at a time; None for too much work."""
    import numpy as np

    src, dst = graph.explicit_edges
    num_nodes = graph.num_src_nodes
    ptr = pointers(dst, num_nodes)
    readers = (torch.diff(ptr) > 0).nonzero()[:, 0].numpy()
    first, source = ptr[:-1].numpy()[readers], src.numpy()
    place = (torch.arange(num_nodes) - graph.src_ptr[batch_of(graph.src_ptr)]).numpy()  # in its own graph
    hops, num_reached, work = 0, 0, 0
    for word in range(num_words):
        bit = np.left_shift(np.uint64(1), (place % 64).astype(np.uint64))
        reached, level = np.where(place // 64 == word, bit, np.uint64(0)), 0
        while readers.size:
            work += source.size
            if work > MAX_WORK:
                return None
            grown = reached.copy()
            grown[readers] |= np.bitwise_or.reduceat(reached[source], first)
            if np.array_equal(grown, reached):
                break
            reached, level = grown, level + 1
        hops = max(hops, level)
        num_reached += int(np.bitwise_count(reached).sum(dtype=np.int64))
    return hops, num_reached


def _bounded(graph: AttentionGraph, low: Tensor, high: Tensor, num_pairs: int) -> Hops:
    """Returns bounds from searches, and from the ranges around each target; `low`, `high` as `_spans` has them."""
    search = _Search(graph)
    hub = search.largest_of_each(search.degree())
    out_of, into = search.distances(hub, backward=False), search.distances(hub, backward=True)
    longest_out, longest_in = search.largest_in_each(out_of), search.largest_in_each(into)
    at_least = int(torch.maximum(longest_out, longest_in).max())
    at_most = torch.diff(graph.src_ptr) - 1
    covers = None if search.was_cut else bool(((out_of >= 0) & (into >= 0)).all())
    num_reached: int | None = None
    if covers:
        at_most = torch.minimum(at_most, longest_out + longest_in)
        num_reached = num_pairs
    most = int(at_most.max())
    hops, first, last = _hops_of_ranges(*_ranges_around(graph))
    if bool(((low >= first) & (high <= last)).all()):  # no edge leaves what the ranges reach: neither do ways
        num_reached = int((last - first + 1).sum())
        covers, most = num_reached == num_pairs, min(most, hops)
    end, backward = search.largest_of_each(out_of), True
    for _ in range(2 * NUM_SWEEPS):
        if at_least >= most:
            break
        distance = search.distances(end, backward)
        at_least = max(at_least, int(distance.max()))
        end, backward = search.largest_of_each(distance), not backward
    return Hops(at_least, most, covers, num_reached)


def _ranges_around(graph: AttentionGraph) -> tuple[Tensor, Tensor]:
    """Returns the range of sources without gaps around each target, itself included; blocks are left out."""
    src, dst = graph.explicit_edges
    here = torch.arange(graph.num_dst_nodes)
    if not src.numel():
        return here, here
    begins = torch.ones_like(src, dtype=torch.bool)
    begins[1:] = (torch.diff(src) != 1) | (torch.diff(dst) != 0)
    run = torch.cumsum(begins, 0) - 1
    start = begins.nonzero()[:, 0]
    end = torch.cat([start[1:], start.new_tensor([src.numel()])]) - 1
    near = (src - dst).abs() <= 1
    low = here.scatter_reduce(0, dst[near], src[start[run[near]]], "amin")
    return low, here.scatter_reduce(0, dst[near], src[end[run[near]]], "amax")


class _Search:
    """Breadth-first searches in all graphs of a batch at once, from one node of each; no block is listed."""

    def __init__(self, graph: AttentionGraph):
        self.plan, self.blocks, self.num_nodes = graph.plan(), graph.blocks, graph.num_src_nodes
        self.node_ptr, self.batch = graph.src_ptr, batch_of(graph.src_ptr)
        self.readers = self.plan.dst[self.plan.source_order]
        self.was_cut = False
        if self.blocks is not None:
            self.of_target, self.of_source = self.blocks.of_target(), self.blocks.of_source()
            self.rank = torch.arange(self.blocks.src.numel()) - self.blocks.src_ptr[self.of_source]

    def degree(self) -> Tensor:
        """Returns in- plus out-degree, [num_nodes]."""
        degree = torch.diff(self.plan.target_ptr) + torch.diff(self.plan.source_ptr)
        if self.blocks is not None:
            degree = degree.index_add(0, self.blocks.dst, self.blocks.prefix)
            degree = degree.index_add(0, self.blocks.src, self.blocks.readers())
        return degree

    def largest_of_each(self, values: Tensor) -> Tensor:
        """Returns the node of the largest value in each graph that has nodes."""
        order = torch.argsort(values, stable=True)
        order = order[torch.argsort(self.batch[order], stable=True)]
        return order[(self.node_ptr[1:] - 1)[torch.diff(self.node_ptr) > 0]]

    def largest_in_each(self, values: Tensor) -> Tensor:
        """Returns the largest value in each graph, 0 where it has no node, [num_graphs]."""
        return torch.zeros_like(self.node_ptr[1:]).scatter_reduce(0, self.batch, values, "amax")

    def distances(self, start: Tensor, backward: bool) -> Tensor:
        """Returns the hops from `start` to each node (from each node to it, if backward), −1 for none, [num_nodes]."""
        ptr, neighbor = (
            (self.plan.target_ptr, self.plan.src) if backward else (self.plan.source_ptr, self.readers)
        )  # fmt: skip
        distance = torch.full((self.num_nodes,), -1)
        distance[start] = 0
        for level in range(1, MAX_LEVELS + 1):
            entry, offset = ragged_range(ptr[start + 1] - ptr[start])
            found = neighbor[ptr[start][entry] + offset]
            if self.blocks is not None:
                found = torch.cat([found, self._through_blocks(distance == level - 1, backward)])
            start = torch.unique(found[distance[found] < 0])
            if not start.numel():
                return distance
            distance[start] = level
        self.was_cut = True
        return distance

    def _through_blocks(self, front: Tensor, backward: bool) -> Tensor:
        """Returns the nodes one hop away from those marked in `front`, through a block."""
        blocks = self.blocks
        assert blocks is not None
        if backward:  # a target reads the sources that stand before its prefix ends
            is_front = front[blocks.dst]
            ends = torch.zeros_like(blocks.src_ptr[1:]).scatter_reduce_(
                0, self.of_target[is_front], blocks.prefix[is_front], "amax"
            )
            return blocks.src[self.rank < ends[self.of_source]]
        is_front = front[blocks.src]
        begins = torch.full_like(blocks.src_ptr[1:], blocks.src.numel()).scatter_reduce_(
            0, self.of_source[is_front], self.rank[is_front], "amin"
        )
        return blocks.dst[blocks.prefix > begins[self.of_target]]
