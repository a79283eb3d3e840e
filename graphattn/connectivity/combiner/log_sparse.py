"""Spans that double with distance: a token reads itself, its neighbour, and summaries of 2, 4, 8 … tokens."""

import torch
from torch import Tensor

from graphattn.connectivity._nodes import nodes_of
from graphattn.connectivity._ranges import edges_of_ranges
from graphattn.connectivity.combiner.pair import KINDS, Pair, check_member, finished, options_of
from graphattn.graph import AttentionGraph, Sizes, batch_of, node_ptr, ragged_range


def log_sparse(sizes: Sizes, *, causal: bool, member: Tensor | None = None) -> Pair:
    r"""Lets each token read itself and spans of 1, 2, 4, 8, … tokens that cover the rest, each span by its summary.

    Causal, the spans of token i, counted from 0, are those of the binary digits of i: for every set bit t the 2^t
    tokens from ⌊i / 2^(t+1)⌋ · 2^(t+1) on. They cover 0 … i − 1, each token once. Else they are, for every t, the other
    half of the aligned 2^(t+1) tokens around i, as far as the sequence goes: they cover all but i. A span of bit 0 is
    one token, and is read directly. Abstractions that nobody reads are not made. With n tokens, causal,

        summarise  Σ_{t ≥ 1} 2^t c_t,  c_t = ⌊(⌊(n − 1) / 2^t⌋ + 1) / 2⌋ abstractions of 2^t tokens
        direct     n + ⌊n / 2⌋
        read       Σ_{t ≥ 1} (how many of 0 … n − 1 have bit t)

    which is O(n log n), with less than n / 2 abstractions.

    Args:
        sizes: number of tokens, or int64 [num_graphs] for a batch; of any length.
        causal: whether token i reads tokens up to i only.
        member: as in `fixed`.

    Returns:
        Pair, unpacked as `summarise, attend`, on the device of `sizes`.

    Raises:
        TypeError: if `sizes` is neither an int nor an int64 tensor.
        ValueError: if a size is negative or `member` of another shape.

    Source: Ren et al. 2021 (Combiner), sec. 4.2, Combiner-Logsparse. The bidirectional form is ours: theirs is in an
    appendix that we have not read. The official code misses the top level at n = 2^m + 1, where the last token then
    reads itself alone; here it reads all.

    >>> summarise, attend = log_sparse(6, causal=True)
    >>> summarise.edge_index.tolist()                                        # {0, 1} and {0, 1, 2, 3}
    [[0, 1, 0, 1, 2, 3], [0, 0, 1, 1, 1, 1]]
    >>> [attend.edge_index[0][attend.edge_index[1] == token].tolist() for token in range(6)]
    [[0], [0, 1], [2, 6], [2, 3, 6], [4, 7], [4, 5, 7]]
    """
    nodes = nodes_of(sizes)
    member = check_member(member, nodes)
    size = torch.diff(nodes.ptr)
    longest = int(size.max()) if size.numel() else 0
    level = torch.arange(1, max((longest - 1).bit_length(), 1), device=nodes.device)  # t, where 2^t < longest
    size_of_level = size[:, None]
    if causal:  # every other aligned span is read, those before an odd one
        count = (torch.div(size_of_level - 1, 2**level, rounding_mode="floor") + 1).clamp_(min=0) // 2
        step = 2 ** (level + 1)
    else:
        count = torch.div(size_of_level + 2**level - 1, 2**level, rounding_mode="floor") // 2 * 2
        step = 2**level
    offset = node_ptr(count.flatten())
    cell, number = ragged_range(count.flatten())
    num_levels = level.numel()
    graph = torch.div(cell, max(num_levels, 1), rounding_mode="floor")
    of_level = cell - graph * num_levels
    start = number * step[of_level]
    ptr = node_ptr(count.sum(1))
    num_abstractions = int(ptr[-1])
    origin = f"combiner.log_sparse({nodes.label}{options_of(causal, member)})"
    summarise = AttentionGraph.trusted(
        edges_of_ranges(nodes.ptr[graph] + start, torch.minimum(2 ** level[of_level], size[graph] - start)),
        nodes.num_nodes,
        num_abstractions,
        kinds=("summarise",),
        src_ptr=nodes.batch_ptr,
        dst_ptr=None if nodes.batch_ptr is None else ptr,
        origin=f"{origin}.summarise",
    )

    graph = batch_of(nodes.ptr)
    here = torch.arange(nodes.num_nodes, device=nodes.device)
    place, end = here - nodes.ptr[graph], size[graph]
    other = place ^ 1
    is_neighbour = other < (place if causal else end)
    token = torch.stack([here, nodes.ptr[graph] + other], 1).sort(1)
    is_there = torch.stack([torch.ones_like(is_neighbour), is_neighbour], 1).gather(1, token.indices)
    half = torch.div(place[:, None], 2**level, rounding_mode="floor")
    sibling = half ^ 1
    is_read = sibling < half if causal else sibling * 2**level < end[:, None]
    first = offset[graph[:, None] * num_levels + torch.arange(num_levels, device=nodes.device)]
    span = nodes.num_nodes + first + (sibling // 2 if causal else sibling)
    sources, keeps = torch.cat([token.values, span], 1), torch.cat([is_there, is_read], 1)
    is_direct = (torch.arange(sources.shape[1], device=nodes.device) < 2).expand_as(keeps)[keeps]
    attend = AttentionGraph.trusted(
        torch.stack([sources[keeps], here[:, None].expand_as(keeps)[keeps]]),
        nodes.num_nodes + num_abstractions,
        nodes.num_nodes,
        edge_kind=torch.where(is_direct, 1, 2).to(torch.int16),
        kinds=KINDS,
        origin=f"{origin}.attend",
    )
    return finished(summarise, attend, member, None)
