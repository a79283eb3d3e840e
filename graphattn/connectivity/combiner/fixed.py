"""Segments of equal length: a token reads its own, and one summary of each other one."""

import torch
from torch import Tensor

from graphattn.connectivity._nodes import check_count, nodes_of
from graphattn.connectivity.combiner.pair import Pair, check_member, options_of, pair_of_blocks, staircases
from graphattn.graph import Sizes, batch_of, node_ptr, ragged_range

MAX_LISTED = 4  # sources in blocks, for each token


def fixed(sizes: Sizes, segment: int, *, causal: bool, member: Tensor | None = None) -> Pair:
    r"""Lets each token read the tokens of its segment, and one abstraction of every other segment.

    Ω⁰_i = own segment (causal: up to i), Ω^r_i = segment r, for every segment r of the graph but the own (causal:
    before it). A sequence of n tokens in S = ⌈n / s⌉ segments of lengths l has n edges into S abstractions. Causal,
    with r = n − (S − 1) s tokens in the last segment, it has (S − 1) s(s + 1) / 2 + r(r + 1) / 2 direct edges and
    s(S − 1)(S − 2) / 2 + r(S − 1) reads; else Σ l² and n(S − 1). O(n(s + n / s)), least at s = √n.

    Args:
        sizes: number of tokens, or int64 [num_graphs] for a batch.
        segment: s, tokens per segment, at least 1; the last one of a graph may be shorter. Longer than a graph, all of
            it is direct.
        causal: whether token i reads tokens up to i only.
        member: bool [num_nodes] or None for all; a token where it is False, as padding, is read by nobody, neither
            directly nor in a summary, and a segment of such tokens alone is not read. It reads like the others.

    Returns:
        Pair, unpacked as `summarise, attend`, on the device of `sizes`, held in `graph.blocks`.

    Raises:
        TypeError: if `sizes` is neither an int nor an int64 tensor, or `segment` no int.
        ValueError: if a size is negative, `segment` below 1 or `member` of another shape.

    Source: Ren et al. 2021 (Combiner), sec. 4.1, Combiner-Fixed. The official TensorFlow code does not hide the own
    segment's abstraction in the bidirectional form, so that the segment counts twice; here it counts once.

    >>> summarise, attend = fixed(7, segment=3, causal=True)
    >>> summarise.num_edges, attend.num_edges                # 7, and 6 + 6 + 1 direct, 3 + 2 read
    (7, 18)
    >>> print(attend.to_mask().int())
    tensor([[1, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            [1, 1, 0, 0, 0, 0, 0, 0, 0, 0],
            [1, 1, 1, 0, 0, 0, 0, 0, 0, 0],
            [0, 0, 0, 1, 0, 0, 0, 1, 0, 0],
            [0, 0, 0, 1, 1, 0, 0, 1, 0, 0],
            [0, 0, 0, 1, 1, 1, 0, 1, 0, 0],
            [0, 0, 0, 0, 0, 0, 1, 1, 1, 0]], dtype=torch.int32)
    """
    check_count(segment, "segment", 1, "With 1 each token is read as itself, and attention is full.")
    nodes = nodes_of(sizes)
    member = check_member(member, nodes)
    length = min(segment, max(nodes.num_nodes, 1))  # int64 cannot hold every int
    num_segments = torch.div(torch.diff(nodes.ptr) + length - 1, length, rounding_mode="floor")
    ptr = node_ptr(num_segments)
    graph = batch_of(nodes.ptr)
    here = torch.arange(nodes.num_nodes, device=nodes.device)
    place = here - nodes.ptr[graph]
    number = torch.div(place, length, rounding_mode="floor")  # of the segment, in its graph
    own = ptr[graph] + number
    tokens = torch.bincount(own, minlength=int(ptr[-1]))
    abstraction = torch.arange(int(ptr[-1]), device=nodes.device)
    of_graph = batch_of(ptr)
    others = abstraction - ptr[of_graph] if causal else num_segments[of_graph] - 1  # that each segment reads
    if int(others.sum()) <= MAX_LISTED * nodes.num_nodes:
        # one block for each segment: kernels like it better than a staircase that reads s tokens in one step
        segment_of, offset = ragged_range(others)
        source = ptr[of_graph[segment_of]] + offset
        source += (source >= segment_of).long()  # but the own one; causal, all come before it
        read = [staircases(own, here, others[own], segment_of, source)]
    else:
        read = [staircases(graph, here, number, of_graph, abstraction)]
        if not causal:
            last = num_segments[graph] - 1
            read.append(staircases(graph, here, last - number, of_graph.flip(0), abstraction.flip(0)))
    return pair_of_blocks(
        nodes,
        num_segments,
        summarise=[staircases(abstraction, abstraction, tokens, own, here)],
        direct=[staircases(own, here, place - number * length + 1 if causal else tokens[own], own, here)],
        read=read,
        origin=f"combiner.fixed({nodes.label}, segment={segment}{options_of(causal, member)})",
        member=member,
        keeps_unread=True,
    )
