"""Pools the members of every abstraction, channel by channel, without a number per edge and channel.

The members come from the graph `summarise`. In blocks they stand in lines, of which an abstraction has all or the first
few: one maximum along the line, or a running one. Listed edges that are runs of tokens are halved into shorter runs,
each computed once, so that spans inside spans cost O(tokens) and not O(edges).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from graphattn.graph import AttentionGraph
from graphattn.ops import segment_sum
from graphattn.ops.merge_max import Merges, can_merge, merge_max

MIN_STEP = 2**14  # numbers in one step along all lines, for a Python loop over the steps to pay


class Lines(NamedTuple):
    """Members in lines of equal length, and the abstractions that have the first few of a line."""

    src: Tensor  # int64 [num_lines, length] tokens
    prefix: Tensor | None  # int64 [num_lines, num_targets]; None where all have the whole line
    num_targets: int


class Spans(NamedTuple):
    """Runs of tokens, shortest first, each but the single ones cut into two others."""

    token: Tensor  # int64 [num_tokens], those that are members of anything
    first: Tensor  # int64 [num_spans], into `token`
    length: Tensor  # int64 [num_spans]
    left: Tensor  # int64 [num_spans], a span; that of a single token is not read
    right: Tensor
    bounds: tuple[int, ...]  # where each level ends: single tokens, then runs of 2, of up to 4, …
    of_entry: Tensor  # int64 [num_entries]


class Members(NamedTuple):
    """Who is a member of what; an abstraction may stand in several entries, whose members together are its own."""

    dst: Tensor  # int64 [num_entries], the abstraction
    rounds: tuple[Tensor, ...]  # int64, the first entry of each abstraction, the second of those that have one, …
    size: Tensor  # int64 [num_abstractions], its members
    lines: tuple[Lines, ...]  # their entries come first, in this order
    spans: Spans | None
    merges: Merges  # the same, one set merged of others


def members_of(summarise: AttentionGraph) -> Members:
    """Reads the members off a graph tokens → abstractions, once a graph."""
    if "members" not in summarise.notes:
        with torch.inference_mode(False):  # kept, so it must serve training as well
            summarise.notes["members"] = _read(summarise)
    return summarise.notes["members"]


def max_pool(values: Tensor, members: Members) -> Tensor:
    """Returns the largest value of the members of each abstraction; where there is none, 0.

    Args:
        values: [num_tokens, num_heads, dim].
        members: from `members_of`.

    Returns:
        [num_abstractions, num_heads, dim]. The gradient goes to the largest member alone, on a tie to one of them.

    >>> from graphattn.connectivity.combiner import fixed
    >>> members = members_of(fixed(3, segment=2, causal=True).summarise)
    >>> max_pool(torch.tensor([1.0, 4.0, 2.0])[:, None, None], members).flatten()
    tensor([4., 2.])
    """
    if can_merge(values):
        return merge_max(values.flatten(1), members.merges).unflatten(1, values.shape[1:])
    pooled = values.gather(0, _winners(values.detach(), members))
    return pooled.masked_fill((members.size == 0)[:, None, None], 0.0)


def mean_pool(values: Tensor, members: Members) -> Tensor:
    """Returns the mean of the members of each abstraction; where there is none, 0. Arguments as in `max_pool`.

    >>> from graphattn.connectivity.combiner import fixed
    >>> members = members_of(fixed(3, segment=2, causal=True).summarise)
    >>> mean_pool(torch.tensor([1.0, 4.0, 2.0])[:, None, None], members).flatten()
    tensor([2.5000, 2.0000])
    """
    if values.dtype in (torch.float16, torch.bfloat16):  # which sums of many would leave
        return mean_pool(values.float(), members).to(values.dtype)
    sums = []
    for src, prefix, num_targets in members.lines:
        of_line = _of_lines(values, src)
        if prefix is None:
            of_entry = of_line.sum(1, keepdim=True).expand(-1, num_targets, -1, -1)
        else:
            of_entry = _picked(of_line.cumsum(1), prefix)
        sums.append(of_entry.flatten(0, 1))
    if members.spans is not None:
        token, first, length, *_, of_entry = members.spans
        first, last = first[of_entry], first[of_entry] + length[of_entry]
        of_token = values[token]
        is_spoilt = ~of_token.detach().isfinite()  # in a running sum it would spoil all that follows, of others too
        sums.append(_of_spans(of_token.double().masked_fill(is_spoilt, 0.0), first, last).to(values.dtype))
        if bool(is_spoilt.any()):
            sums[-1] = sums[-1].masked_fill(_of_spans(is_spoilt, first, last) > 0, torch.nan)
    num_abstractions = members.size.numel()
    if not sums:
        return values.new_zeros(num_abstractions, *values.shape[1:])
    total = segment_sum(torch.cat(sums), members.dst, num_abstractions)
    return total / members.size.clamp(min=1)[:, None, None].to(values.dtype)


def _of_spans(values: Tensor, first: Tensor, last: Tensor) -> Tensor:
    """Sums rows first … last − 1 of values [num_tokens, …], as differences of running sums, for which double serves."""
    running = torch.nn.functional.pad(values.cumsum(0), (0, 0, 0, 0, 1, 0))
    return running[last] - running[first]


@torch.no_grad()
def _winners(values: Tensor, members: Members) -> Tensor:
    """Returns the token with the largest value, [num_abstractions, num_heads, dim], 0 where there is no member."""
    found = []
    for src, prefix, num_targets in members.lines:
        of_line = _of_lines(values, src)
        if prefix is None:
            place = of_line.max(1, keepdim=True).indices
        else:
            place = _picked(_running_winner(of_line), prefix)
        winner = src.gather(1, place.flatten(1)).view(place.shape)
        found.append(winner.expand(-1, num_targets, -1, -1).flatten(0, 1))
    if members.spans is not None:
        found.append(_winners_of_spans(values, members.spans))
    winners = torch.zeros(members.size.numel(), *values.shape[1:], dtype=torch.int64, device=values.device)
    if not found:
        return winners
    entries = torch.cat(found)
    for number, entry in enumerate(members.rounds):
        dst, challenger = members.dst[entry], entries[entry]
        if number:
            holder = winners[dst]
            challenger = torch.where(values.gather(0, challenger) > values.gather(0, holder), challenger, holder)
        winners[dst] = challenger
    return winners


def _winners_of_spans(values: Tensor, spans: Spans) -> Tensor:
    num_single = spans.bounds[0]
    single = spans.token[spans.first[:num_single]]
    best = values.new_empty(spans.first.numel(), *values.shape[1:])
    winner = torch.empty(best.shape, dtype=torch.int32, device=values.device)
    best[:num_single] = values[single]
    winner[:num_single] = single[:, None, None]
    for start, stop in zip(spans.bounds, spans.bounds[1:]):
        left, right = spans.left[start:stop], spans.right[start:stop]
        of_left, of_right = best[left], best[right]
        is_left = of_left >= of_right
        torch.maximum(of_left, of_right, out=best[start:stop])
        winner[start:stop] = torch.where(is_left, winner[left], winner[right])
    return winner[spans.of_entry].long()


def _running_winner(of_line: Tensor) -> Tensor:
    """Returns where along its line the largest value so far stands, int64 like `of_line`."""
    length = of_line.shape[1]
    if of_line.device.type != "cpu" or of_line.numel() < MIN_STEP * length:
        return of_line.cummax(1).indices
    # torch's own takes one number at a time here; step by step along all lines is several times faster
    place = torch.empty(of_line.shape, dtype=torch.int64)
    best, at = of_line[:, 0].clone(), torch.zeros_like(of_line[:, 0], dtype=torch.int64)
    place[:, 0] = at
    for step in range(1, length):
        value = of_line[:, step]
        at.masked_fill_(value > best, step)
        torch.maximum(best, value, out=best)
        place[:, step] = at
    return place


def _of_lines(values: Tensor, src: Tensor) -> Tensor:
    return values.index_select(0, src.flatten()).unflatten(0, src.shape)  # [num_lines, length, num_heads, dim]


def _picked(running: Tensor, prefix: Tensor) -> Tensor:
    """Takes from what runs along lines what stands at the end of each prefix."""
    line = torch.arange(prefix.shape[0], device=prefix.device)[:, None]
    return running[line, prefix - 1]  # [num_lines, num_targets, num_heads, dim]


def _read(summarise: AttentionGraph) -> Members:
    lines, entries = [], []
    size = torch.bincount(summarise.explicit_edges[1], minlength=summarise.num_dst_nodes)
    if summarise.blocks is not None:
        size = size.index_add(0, summarise.blocks.dst, summarise.blocks.prefix)
        groups = summarise.plan().groups
        assert groups is not None
        row = column = 0
        for num_lines, num_targets, length, is_causal, is_masked in groups.table.tolist():
            rows = slice(row, row + num_lines * num_targets)
            src = groups.src[column : column + num_lines * length].view(num_lines, length)
            prefix = groups.prefix[rows].view(num_lines, num_targets) if is_causal or is_masked else None
            lines.append(Lines(src, prefix, num_targets))
            entries.append(groups.dst[rows])
            row, column = rows.stop, column + num_lines * length
    spans = None
    if summarise.explicit_edges.shape[1]:
        listed, more = _read_listed(summarise)
        if isinstance(listed, Spans):
            spans = listed
        else:
            lines += listed
        entries += more
    dst = torch.cat(entries) if entries else size.new_empty(0)
    rounds = _rounds(dst, size.numel())
    merges = _merges(summarise.num_src_nodes, size, dst, rounds, lines, spans)
    return Members(dst, rounds, size, tuple(lines), spans, merges)


def _merges(
    num_tokens: int, size: Tensor, dst: Tensor, rounds: tuple[Tensor, ...], lines: list[Lines], spans: Spans | None
) -> Merges:
    """Writes prefixes of lines as chains, spans as trees, and abstractions of several entries as merges of these."""
    left, right, entries, num_sets = [], [], [], num_tokens
    for src, prefix, num_targets in lines:
        num_lines, length = src.shape
        chain = num_sets + torch.arange(num_lines * (length - 1), device=src.device).view(num_lines, length - 1)
        ends = torch.cat([src[:, :1], chain], 1)  # the set of the first token, of the first two, …
        left.append(ends[:, :-1].flatten())
        right.append(src[:, 1:].flatten())
        entries.append(
            (ends[:, -1:].expand(-1, num_targets) if prefix is None else ends.gather(1, prefix - 1)).flatten()
        )
        num_sets += chain.numel()
    if spans is not None:
        num_single, num_spans = spans.bounds[0], spans.first.numel()
        number = num_sets + torch.arange(num_spans - num_single, device=size.device)
        of_span = torch.cat([spans.token[spans.first[:num_single]], number])
        left.append(of_span[spans.left[num_single:]])
        right.append(of_span[spans.right[num_single:]])
        entries.append(of_span[spans.of_entry])
        num_sets += number.numel()
    root = torch.full_like(size, -1)
    of_entry = torch.cat(entries) if entries else dst
    for count, entry in enumerate(rounds):
        target, made = dst[entry], of_entry[entry]
        if count:
            left.append(root[target])
            right.append(made)
            made = num_sets + torch.arange(target.numel(), device=size.device)
            num_sets += target.numel()
        root[target] = made
    none = [size.new_empty(0)]
    return Merges(torch.cat(left or none), torch.cat(right or none), root)


def _rounds(dst: Tensor, num_targets: int) -> tuple[Tensor, ...]:
    """Returns the positions of first occurrences, of second ones, and so on."""
    order = torch.argsort(dst, stable=True)
    count = torch.bincount(dst, minlength=num_targets)
    start = torch.cumsum(count, 0) - count
    rank = torch.arange(dst.numel(), device=dst.device) - start[dst[order]]
    most = int(count.max()) if count.numel() else 0
    return tuple(order[rank == number] for number in range(most))


def _read_listed(summarise: AttentionGraph) -> tuple[Spans | list[Lines], list[Tensor]]:
    """Reads members off listed edges: as spans where they are runs of tokens, else lines of one abstraction each."""
    src, dst = summarise.explicit_edges
    degree = torch.bincount(dst, minlength=summarise.num_dst_nodes)
    target = degree.nonzero()[:, 0]
    degree = degree[target]
    stop = torch.cumsum(degree, 0)
    is_member = torch.zeros(summarise.num_src_nodes, dtype=torch.bool, device=src.device)
    is_member[src] = True
    place = torch.cumsum(is_member, 0) - 1  # among the members, so that what is masked leaves no gap
    first, last = place[src[stop - degree]], place[src[stop - 1]]
    if bool((last - first + 1 == degree).all()):
        return _spans(is_member.nonzero()[:, 0], first, degree), [target]
    lines, entries = [], []
    for length in torch.unique(degree).tolist():  # a Python loop over distinct sizes, not over abstractions
        chosen = (degree == length).nonzero()[:, 0]
        edge = (stop - degree)[chosen][:, None] + torch.arange(length, device=src.device)
        lines.append(Lines(src[edge], None, 1))
        entries.append(target[chosen])
    return lines, entries


def _spans(token: Tensor, first: Tensor, count: Tensor) -> Spans:
    """Cuts runs into halves: one of 2^(t − 1) < count <= 2^t tokens into its first 2^(t − 1) and the rest."""
    width = token.numel() + 1
    powers = 2 ** torch.arange(62, device=token.device)
    wanted = torch.unique(first * width + count)
    levels: list[Tensor] = []
    for level in range(int(torch.searchsorted(powers, count.max())), -1, -1):
        is_here = torch.searchsorted(powers, wanted % width) == level
        here = torch.unique(wanted[is_here])
        levels.insert(0, here)
        if level:
            start, length = torch.div(here, width, rounding_mode="floor"), here % width
            half = 2 ** (level - 1)
            wanted = torch.cat([wanted[~is_here], start * width + half, (start + half) * width + length - half])
    key = torch.cat(levels)
    ordered, order = key.sort()

    def find(start: Tensor, length: Tensor) -> Tensor:
        return order[torch.searchsorted(ordered, start * width + length).clamp(max=key.numel() - 1)]

    start, length = torch.div(key, width, rounding_mode="floor"), key % width
    half = torch.div(powers[torch.searchsorted(powers, length)], 2, rounding_mode="floor")
    bounds = torch.cumsum(torch.tensor([level.numel() for level in levels]), 0).tolist()
    return Spans(
        token, start, length, find(start, half), find(start + half, length - half), tuple(bounds), find(first, count)
    )
