"""Log-sparse attention: each token reads others at distances that double."""

import torch

from graphattn.connectivity._nodes import check_count, nodes_of
from graphattn.connectivity._ranges import edges_of_distances
from graphattn.graph import AttentionGraph, Sizes, node_ptr, ragged_range


def log_sparse(sizes: Sizes, radius: int = 0, *, restart: int | None = None) -> AttentionGraph:
    r"""Connects each token to itself, to those at distance 1, 2, 4, 8, …, and to those at most `radius` away.

    E = {(j → i) : |i − j| ∈ {0, …, radius} ∪ {2^p : p ≥ 0}}, inside each graph. A graph of n nodes has
    n + 2 Σ_{k ∈ K} (n − k) edges, K the distances 1 … radius and the powers of two below n: O(n (log n + radius)). The
    paper's pattern is autoregressive: `.keep(is_causal)`. Nine tokens, radius 0, with that rule:

        ■ · · · · · · · ·
        ■ ■ · · · · · · ·
        ■ ■ ■ · · · · · ·
        · ■ ■ ■ · · · · ·
        ■ · ■ ■ ■ · · · ·
        · ■ · ■ ■ ■ · · ·
        · · ■ · ■ ■ ■ · ·
        · · · ■ · ■ ■ ■ ·
        ■ · · · ■ · ■ ■ ■

    Args:
        sizes: number of nodes, or int64 [num_graphs] for a batch.
        radius: how far every token is read, at least 0; the paper's "local attention".
        restart: tokens after which the pattern begins anew, at least 1: each such piece of the sequence reads itself
            alone, the paper's "restart attention". None for no restart.

    Returns:
        AttentionGraph of kind "log", on the device of `sizes`.

    Raises:
        TypeError: if `sizes` is neither an int nor an int64 tensor, or a number no int.
        ValueError: if a size or `radius` is negative, or `restart` below 1.

    Source: Li et al. 2019 (Enhancing the Locality and Breaking the Memory Bottleneck of Transformer on Time Series
    Forecasting), sec. 4.2, LogSparse Transformer with its local and restart attention. About log₂ n such layers let
    each token reach every earlier one.

    >>> log_sparse(9).num_edges                                              # 9 + 2 (8 + 7 + 5 + 1)
    51
    >>> log_sparse(9, restart=4).num_edges                                   # 4 + 2 (3 + 2) twice, and 1
    29
    """
    check_count(radius, "radius", 0, "Use 0 to keep distances that double, from 1 on.")
    if restart is not None:
        check_count(restart, "restart", 1, "Pass None for a pattern that goes on to the end.")
    nodes = nodes_of(sizes)
    pieces = nodes
    if restart is not None:
        length = min(restart, max(nodes.num_nodes, 1))  # int64 cannot hold every int
        size = torch.diff(nodes.ptr)
        graph, piece = ragged_range(torch.div(size + length - 1, length, rounding_mode="floor"))
        pieces = nodes._replace(ptr=node_ptr((size[graph] - piece * length).clamp_(max=length)))
    longest = int(torch.diff(pieces.ptr).max()) if pieces.num_graphs else 0
    powers = 2 ** torch.arange(max(longest - 1, 0).bit_length(), device=nodes.device)
    near = torch.arange(1, min(radius, max(longest - 1, 0)) + 1, device=nodes.device)
    ahead = torch.unique(torch.cat([near, powers]))
    return AttentionGraph.trusted(
        edges_of_distances(pieces, torch.cat([-ahead.flip(0), ahead.new_zeros(1), ahead])),
        nodes.num_nodes,
        kinds=("log",),
        src_ptr=nodes.batch_ptr,
        origin=f"log_sparse({nodes.label}, radius={radius}{'' if restart is None else f', restart={restart}'})",
    )
