"""Trees of tokens: each token reads the path from the root to itself, as when drafts are verified together."""

from collections.abc import Sequence

import torch
from torch import Tensor

from graphattn.connectivity._nodes import Nodes, as_ints, nodes_of
from graphattn.graph import AttentionGraph, Sizes, batch_of, bicliques, node_ptr, ragged_range


def tree(parents: Sequence[int] | Tensor, sizes: Sizes | None = None, *, num_context: Sizes = 0) -> AttentionGraph:
    r"""Connects each token of a tree to its ancestors and itself, and to the context that all of them continue.

    E = {(j → i) : j is i, its parent, the parent of that, …}; Σ_i (depth_i + 1) edges with roots at depth 0. With a
    context of c tokens, sources 0 … c − 1 are the context, read by all, source c + j is token j, and there are n · c
    edges more. Parents −1 0 0 1 1 2, without context and with one of 2 tokens:

        ■ · · · · ·      ■ ■ ■ · · · · ·
        ■ ■ · · · ·      ■ ■ ■ ■ · · · ·
        ■ · ■ · · ·      ■ ■ ■ · ■ · · ·
        ■ ■ · ■ · ·      ■ ■ ■ ■ · ■ · ·
        ■ ■ · · ■ ·      ■ ■ ■ ■ · · ■ ·
        ■ · ■ · · ■      ■ ■ ■ · ■ · · ■

    Args:
        parents: the parent of each token, −1 for a root: a sequence of ints or int64 [num_nodes]. Several roots make a
            forest; a parent may come after its child.
        sizes: int64 [num_graphs], tokens of each tree of a batch, whose parents then count from the first token of
            their own tree. None for one tree.
        num_context: tokens of context before the tree, one int or int64 [num_graphs]. The graph is then rectangular:
            the sources of a graph are its context and its tokens, the targets its tokens.

    Returns:
        AttentionGraph of kinds "tree" and, with a context, "context", on the device of `parents`. The context is held
        as one `graph.blocks` entry per graph.

    Raises:
        TypeError: if `parents` are not ints, or `sizes` or `num_context` neither an int nor an int64 tensor.
        ValueError: if a parent is not there, tokens are their own ancestors, or the sizes do not fit.

    Source: Miao et al. 2024 (SpecInfer), "topology-aware causal mask" of tree attention; Cai et al. 2024 (Medusa) use
    the same mask.

    >>> tree([-1, 0, 0, 1, 1, 2]).num_edges                                  # 1 + 2 + 2 + 3 + 3 + 3
    14
    >>> tree([-1, 0, 0], num_context=2).edge_index
    tensor([[0, 1, 2, 0, 1, 2, 3, 0, 1, 2, 4],
            [0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]])
    """
    local = as_ints(parents, "parents", "[num_nodes]", sizes.device if isinstance(sizes, Tensor) else None)
    nodes = _read_nodes(local, sizes)
    parent, depth = _read_parents(local, nodes)
    src, dst = _ancestors(parent, depth)
    if isinstance(num_context, int) and num_context == 0:
        return AttentionGraph.trusted(
            torch.stack([src, dst]),
            nodes.num_nodes,
            kinds=("tree",),
            src_ptr=nodes.batch_ptr,
            origin=f"tree({nodes.label})",
        )
    context = _read_context(num_context, nodes)
    before = torch.cumsum(context, 0)  # sources of a graph: its context, then its tokens
    src_ptr = nodes.ptr + torch.cat([before.new_zeros(1), before])
    graph, offset = ragged_range(context)
    blocks = bicliques(
        nodes.ptr, torch.arange(nodes.num_nodes, device=nodes.device), node_ptr(context), src_ptr[graph] + offset
    )
    return AttentionGraph.trusted(
        torch.stack([src + before[batch_of(nodes.ptr)[src]], dst]),
        int(src_ptr[-1]),
        nodes.num_nodes,
        blocks=None if blocks is None else blocks._replace(kind=2 * blocks.kind),
        edge_kind=torch.ones(src.numel(), dtype=torch.int16, device=nodes.device),
        kinds=("tree", "context"),
        src_ptr=None if nodes.batch_ptr is None else src_ptr,
        dst_ptr=nodes.batch_ptr,
        origin=f"tree({nodes.label}, num_context={num_context if isinstance(num_context, int) else 'per graph'})",
    )


def _read_nodes(parents: Tensor, sizes: Sizes | None) -> Nodes:
    if sizes is None:
        nodes = nodes_of(parents.numel())
        return nodes._replace(ptr=nodes.ptr.to(parents.device))
    nodes = nodes_of(sizes)
    if nodes.num_nodes != parents.numel():
        raise ValueError(
            f"sizes must add up to the number of tokens, {parents.numel()}, got {nodes.num_nodes}. "
            "List the parents of all trees one after the other."
        )
    return nodes


def _read_parents(local: Tensor, nodes: Nodes) -> tuple[Tensor, Tensor]:
    """Returns the parent of each token in the numbers of the batch, −1 for a root, and its depth; or raises."""
    start, stop = nodes.bounds()
    outside = (local < -1) | (local >= stop - start)
    if bool(outside.any()):
        token = int(outside.nonzero()[0])
        raise ValueError(
            f"parents must be −1 or tokens of the same tree, got {int(local[token])} for token {token} of a tree of "
            f"{int((stop - start)[token])}. Use −1 for a root."
        )
    parent = torch.where(local < 0, -1, local + start)
    num_tokens = parent.numel()
    ancestor = torch.where(parent < 0, num_tokens, parent)  # twice as far with each round; past the root is num_tokens
    depth = (parent >= 0).long()
    past = ancestor.new_full((1,), num_tokens)
    for _ in range(num_tokens.bit_length()):
        ancestor, depth = torch.cat([ancestor, past]), torch.cat([depth, 0 * past])
        depth = depth[:-1] + depth[ancestor[:-1]]
        ancestor = ancestor[ancestor[:-1]]
    is_endless = ancestor < num_tokens
    if bool(is_endless.any()):
        token = int(is_endless.nonzero()[0])
        raise ValueError(
            f"parents must lead to a root, got a cycle that token {token} runs into. Give a token of it the parent −1."
        )
    return parent, depth


def _read_context(num_context: Sizes, nodes: Nodes) -> Tensor:
    """Returns the tokens of context of each graph, int64 [num_graphs]."""
    context = torch.diff(node_ptr(num_context, "num_context"))
    if isinstance(num_context, int):
        return context.to(nodes.device).expand(nodes.num_graphs)
    if context.numel() != nodes.num_graphs:
        raise ValueError(
            f"num_context must be an int or have one entry per tree, got {context.numel()} for {nodes.num_graphs} "
            "trees. Pass one int for the same context everywhere."
        )
    return context.to(nodes.device)


def _ancestors(parent: Tensor, depth: Tensor) -> tuple[Tensor, Tensor]:
    """Lists each token and its ancestors, in canonical order, in memory of the edges."""
    count = depth + 1
    start = torch.cumsum(count, 0) - count
    path = parent.new_empty(int(count.sum()))  # of each token, from itself to the root
    here = torch.arange(parent.numel(), device=parent.device)
    path[start] = here
    known, ancestor = 1, parent  # entries of each path, and the token that many steps up: its own follow
    while known <= int(depth.max() if depth.numel() else 0):
        row = (count > known).nonzero()[:, 0]
        entry, offset = ragged_range((count[row] - known).clamp_(max=known))
        path[start[row][entry] + known + offset] = path[start[ancestor[row]][entry] + offset]
        ancestor = torch.where(ancestor < 0, -1, ancestor[ancestor.clamp(min=0)])
        known *= 2
    dst, offset = ragged_range(count)
    src = path[(start + depth)[dst] - offset]
    if bool((parent > here).any()):
        src = src[torch.argsort(dst * parent.numel() + src)]
    return src, dst
