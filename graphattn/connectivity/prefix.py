"""Prefix language models: a prefix that all tokens read, and causal attention after it."""

from collections.abc import Sequence

import torch
from torch import Tensor

from graphattn.connectivity._nodes import Nodes, as_ints, check_count, two_sides
from graphattn.graph import AttentionGraph, Blocks, Sizes, batch_of


def prefix_lm(sizes: Sizes, prefix: int | Sequence[int] | Tensor, *, dst_sizes: Sizes | None = None) -> AttentionGraph:
    r"""Connects each token to the prefix of its sequence and to all tokens up to itself.

    E = {(j → i) : j < p or j ≤ i}, inside each graph. A graph of n nodes and a prefix of p ≤ n has
    n(n + 1) / 2 + p(p − 1) / 2 edges. Held as one staircase of `graph.blocks` per graph, O(nodes) to store. Six tokens,
    prefix 3:

        ■ ■ ■ · · ·
        ■ ■ ■ · · ·
        ■ ■ ■ · · ·
        ■ ■ ■ ■ · ·
        ■ ■ ■ ■ ■ ·
        ■ ■ ■ ■ ■ ■

    Args:
        sizes: number of nodes, or int64 [num_graphs] for a batch; of sources where `dst_sizes` is given.
        prefix: tokens of the prefix, at least 0 (a causal mask) and at most the length of the sequence; one int, or one
            per graph.
        dst_sizes: number of targets m of cross attention, in the form of `sizes`: the last m of the n tokens, as in
            decoding with a cache. Target i of m is then token i + n − m.

    Returns:
        AttentionGraph of kind "prefix", on the device of `sizes`.

    Raises:
        TypeError: if a size is neither an int nor an int64 tensor, or `prefix` not ints.
        ValueError: if a size is negative, `prefix` is negative or longer than its sequence, or there are more targets
            than sources.

    Source: Raffel et al. 2020 (T5), sec. 3.2.1, "causal with prefix" masking.

    >>> prefix_lm(6, prefix=3).num_edges                                     # 21 + 3
    24
    >>> print(prefix_lm(5, prefix=2, dst_sizes=3).to_mask().int())
    tensor([[1, 1, 1, 0, 0],
            [1, 1, 1, 1, 0],
            [1, 1, 1, 1, 1]], dtype=torch.int32)
    """
    sources, targets, label = two_sides(sizes, dst_sizes)
    num_src, num_dst = torch.diff(sources.ptr), torch.diff(targets.ptr)
    if bool((num_dst > num_src).any()):
        graph = int((num_dst > num_src).nonzero()[0])
        raise ValueError(
            f"dst_sizes must not exceed sizes, got {int(num_dst[graph])} targets for {int(num_src[graph])} sources in "
            f"graph {graph}. The targets are the last tokens of the sequence: count them among the sources."
        )
    length = _read_prefix(prefix, sources)
    batch = batch_of(targets.ptr)
    token = torch.arange(targets.num_nodes, device=targets.device) - targets.ptr[batch] + (num_src - num_dst)[batch]
    shown = prefix if isinstance(prefix, int) else "per graph"
    return AttentionGraph.trusted(
        torch.empty(2, 0, dtype=torch.int64, device=sources.device),
        sources.num_nodes,
        targets.num_nodes,
        blocks=Blocks(
            targets.ptr,
            torch.arange(targets.num_nodes, device=targets.device),
            sources.ptr,
            torch.arange(sources.num_nodes, device=sources.device),
            torch.maximum(token + 1, length[batch]),
            torch.ones(sources.num_graphs, dtype=torch.int16, device=sources.device),
        ).without_empty(),
        kinds=("prefix",),
        src_ptr=sources.batch_ptr,
        dst_ptr=targets.batch_ptr,
        origin=f"prefix_lm({label}, prefix={shown})",
    )


def _read_prefix(prefix: int | Sequence[int] | Tensor, nodes: Nodes) -> Tensor:
    """Returns the prefix of each graph, int64 [num_graphs]."""
    size = torch.diff(nodes.ptr)
    if isinstance(prefix, int):
        check_count(prefix, "prefix", 0, "Use 0 for a causal mask.")
        if size.numel() and prefix > int(size.min()):
            raise ValueError(
                f"prefix must not be longer than its sequence, got {prefix} for {int(size.min())} tokens. "
                "Pass one prefix per graph."
            )
        return torch.full_like(size, prefix if size.numel() else 0)
    length = as_ints(prefix, "prefix", "[num_graphs]", nodes.device)
    if length.numel() != nodes.num_graphs:
        raise ValueError(
            f"prefix must be an int or have one entry per graph, got {length.numel()} for {nodes.num_graphs} graphs. "
            "Pass one int for the same prefix everywhere."
        )
    outside = (length < 0) | (length > size)
    if bool(outside.any()):
        graph = int(outside.nonzero()[0])
        raise ValueError(
            f"prefix must be at least 0 and not longer than its sequence, got {int(length[graph])} for "
            f"{int(size[graph])} tokens in graph {graph}. Use 0 for a causal mask."
        )
    return length
