"""The two factorized patterns of the Sparse Transformer: a local part, and a part that carries over distance."""

import torch
from torch import Tensor

from graphattn.connectivity._labels import blocks_of_labels
from graphattn.connectivity._nodes import Nodes, check_count, nodes_of
from graphattn.connectivity._ranges import edges_of_distances, edges_of_runs
from graphattn.graph import AttentionGraph, Sizes

MOST = 2**62  # int64 cannot hold every int


def strided(sizes: Sizes, stride: int, *, num_heads: int | None = None) -> AttentionGraph:
    r"""Connects each token to those at most `stride` away, and to every `stride`-th token before and after it.

    E = {(j → i) : |i − j| ≤ l or (i − j) mod l = 0}, inside each graph, with l = stride. A graph of n nodes has
    n + 2 Σ_{k ∈ K} (n − k) edges, K the distances 1 … l and 2l, 3l, … below n. The paper's pattern is autoregressive:
    `.keep(is_causal)`. Nine tokens, stride 3, with that rule:

        ■ · · · · · · · ·
        ■ ■ · · · · · · ·
        ■ ■ ■ · · · · · ·
        ■ ■ ■ ■ · · · · ·
        · ■ ■ ■ ■ · · · ·
        · · ■ ■ ■ ■ · · ·
        ■ · · ■ ■ ■ ■ · ·
        · ■ · · ■ ■ ■ ■ ·
        · · ■ · · ■ ■ ■ ■

    Args:
        sizes: number of nodes, or int64 [num_graphs] for a batch.
        stride: l, at least 1; near √n, the two parts have equally many edges. For an image, the length of a row.
        num_heads: None lets every head see both parts (the paper's "merged" head). A number splits them: even heads see
            the local part, odd heads the strided one, in `head_mask [num_edges, num_heads]`.

    Returns:
        AttentionGraph of kinds "local" and "stride" (an edge of both carries both), on the device of `sizes`.

    Raises:
        TypeError: if `sizes` is neither an int nor an int64 tensor, or a number no int.
        ValueError: if a size is negative, or `stride` or `num_heads` below 1.

    Source: Child et al. 2019 (Generating Long Sequences with Sparse Transformers), sec. 4.3, strided attention:
    A¹ = {max(0, i − l), …, i} and A² = {j : (i − j) mod l = 0}. One part per layer is a graph per layer:
    `sliding_window(n, l)` and `sliding_window(n, n, dilation=l)`.

    >>> strided(9, stride=3).num_edges                                       # 9 + 2 (8 + 7 + 6 + 3)
    57
    >>> strided(9, stride=3, num_heads=2).head_mask.sum(0)                   # 9 + 2 (8 + 7 + 6), and 9 + 2 (6 + 3)
    tensor([51, 27])
    """
    check_count(stride, "stride", 1, "Use 1 for full attention.")
    _check_heads(num_heads)
    nodes = nodes_of(sizes)
    longest = int(torch.diff(nodes.ptr).max()) if nodes.num_graphs else 0
    near = min(stride, max(longest - 1, 0))
    near_by = torch.arange(1, near + 1, device=nodes.device)
    further = torch.arange(max(2 * near, 1), max(2 * near, 1, longest), max(near, 1), device=nodes.device)
    ahead = torch.cat([near_by, further])
    edges = edges_of_distances(nodes, torch.cat([-ahead.flip(0), ahead.new_zeros(1), ahead]))
    distance = (edges[0] - edges[1]).abs_()
    is_near, is_column = distance <= near, distance % min(stride, max(longest, 1)) == 0
    return AttentionGraph.trusted(
        edges,
        nodes.num_nodes,
        edge_kind=is_near.to(torch.int16) + 2 * is_column.to(torch.int16),
        kinds=("local", "stride"),
        src_ptr=nodes.batch_ptr,
        head_mask=None if num_heads is None else torch.stack([is_near, is_column] * num_heads, 1)[:, :num_heads],
        origin=f"strided({nodes.label}, stride={stride}{_shown(num_heads)})",
    )


def fixed(sizes: Sizes, stride: int, num_summary: int = 1, *, num_heads: int | None = None) -> AttentionGraph:
    r"""Connects each token to its block of `stride` tokens, and to the last `num_summary` tokens of every block.

    E = {(j → i) : ⌊i / l⌋ = ⌊j / l⌋ or j mod l ≥ l − c}, inside each graph, with l = stride and c = num_summary. A
    graph of n = ql + r nodes, r < l, has ql² + r² edges inside blocks, and n·s − (qlc + rt) beside them, with
    s = qc + t summary tokens of which t = max(r − (l − c), 0) in the last block. The paper's pattern is autoregressive:
    `.keep(is_causal)`. Nine tokens, stride 3, one summary token, with that rule:

        ■ · · · · · · · ·
        ■ ■ · · · · · · ·
        ■ ■ ■ · · · · · ·
        · · ■ ■ · · · · ·
        · · ■ ■ ■ · · · ·
        · · ■ ■ ■ ■ · · ·
        · · ■ · · ■ ■ · ·
        · · ■ · · ■ ■ ■ ·
        · · ■ · · ■ ■ ■ ■

    Args:
        sizes: number of nodes, or int64 [num_graphs] for a batch.
        stride: l, tokens per block, at least 1.
        num_summary: c, summary tokens per block, between 1 and `stride`; the paper takes 8, 16 or 32 for strides of
            128 and 256.
        num_heads: None lets every head see both parts (the paper's "merged" head). A number splits them: even heads see
            the own block, odd heads the summary tokens, the k-th of those the k-th group of c from the end of each
            block (and from the end again where a block has no more), in `head_mask [num_edges, num_heads]`.

    Returns:
        AttentionGraph of kinds "summary", where the source is a summary token, and "local", on the device of `sizes`.
        Without `num_heads` it is held in `graph.blocks`: one for the summary tokens, one per block for the others.

    Raises:
        TypeError: if `sizes` is neither an int nor an int64 tensor, or a number no int.
        ValueError: if a size is negative, `stride` or `num_heads` below 1, or `num_summary` outside [1, stride].

    Source: Child et al. 2019 (Generating Long Sequences with Sparse Transformers), sec. 4.3, fixed attention:
    A¹ = {j : ⌊j / l⌋ = ⌊i / l⌋} and A² = {j : j mod l ∈ {l − c, …, l − 1}}; distinct groups of summary tokens for
    distinct heads as recommended there.

    >>> fixed(9, stride=3).num_edges                                         # 3·9 inside blocks, 9·3 − 9 beside them
    45
    """
    check_count(stride, "stride", 1, "Use 1 for full attention.")
    check_count(num_summary, "num_summary", 1, "For blocks alone call block_diagonal.")
    if num_summary > stride:
        raise ValueError(
            f"num_summary must not exceed stride, {stride}, got {num_summary}. A block has no more tokens."
        )
    _check_heads(num_heads)
    nodes = nodes_of(sizes)
    num_groups = 1 if num_heads is None else max(min(num_heads // 2, stride // num_summary), 1)
    here = torch.arange(nodes.num_nodes, device=nodes.device)
    length = min(stride, MOST)
    place = (here - nodes.bounds()[0]) % length  # in its block
    block = here - place
    group = torch.div(length - 1 - place, min(num_summary, MOST), rounding_mode="floor")  # 0 for the last ones of it
    is_summary = group < num_groups
    origin = f"fixed({nodes.label}, stride={stride}, num_summary={num_summary}{_shown(num_heads)})"
    if num_heads is None:
        summaries = _reading(nodes, 0 * here, torch.where(is_summary, 0, -1), "summary")
        return (summaries | _reading(nodes, block, torch.where(is_summary, -1, block), "local")).named(origin)
    edges = _block_between_summaries(nodes, block, torch.minimum(block + length, nodes.bounds()[1]), is_summary)
    group_of_src = group[edges[0]]
    head_mask = torch.empty(edges.shape[1], num_heads, dtype=torch.bool, device=nodes.device)
    head_mask[:, ::2] = (block[edges[0]] == block[edges[1]])[:, None]
    for head in range(1, num_heads, 2):
        head_mask[:, head] = group_of_src == head // 2 % num_groups
    return AttentionGraph.trusted(
        edges,
        nodes.num_nodes,
        edge_kind=torch.where(group_of_src < num_groups, 1, 2).to(torch.int16),
        kinds=("summary", "local"),
        src_ptr=nodes.batch_ptr,
        head_mask=head_mask,
        origin=origin,
    )


def _block_between_summaries(nodes: Nodes, start: Tensor, stop: Tensor, is_summary: Tensor) -> Tensor:
    """Lists the edges of tokens that read the summary tokens before their block, their block, and those after it."""
    summaries = is_summary.nonzero()[:, 0]
    first, last = nodes.bounds()
    bounds = torch.stack([first, start, stop, last], 1)
    before, begin, end, after = torch.searchsorted(summaries, bounds).unbind(1)
    reading = torch.cat([torch.arange(nodes.num_nodes, device=nodes.device), summaries])  # runs of this list
    edges = edges_of_runs(
        torch.stack([nodes.num_nodes + before, start, nodes.num_nodes + end], 1),
        torch.stack([begin - before, stop - start, after - end], 1),
    )
    edges[0] = reading[edges[0]]
    return edges


def _reading(nodes: Nodes, dst_labels: Tensor, src_labels: Tensor, kind: str) -> AttentionGraph:
    """Lets each token read those of its graph whose label is its own."""
    return AttentionGraph.trusted(
        torch.empty(2, 0, dtype=torch.int64, device=nodes.device),
        nodes.num_nodes,
        blocks=blocks_of_labels(dst_labels, nodes, src_labels, nodes),
        kinds=(kind,),
        src_ptr=nodes.batch_ptr,
    )


def _check_heads(num_heads: int | None) -> None:
    if num_heads is not None:
        check_count(num_heads, "num_heads", 1, "Pass None for one pattern that all heads share.")


def _shown(num_heads: int | None) -> str:
    return "" if num_heads is None else f", num_heads={num_heads}"
