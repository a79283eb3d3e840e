"""The algebra of graphs: that of boolean matrices A [targets, sources], where A[i, j] says that j → i is an edge.

Plain functions; `AttentionGraph` offers them as operators and methods and says there what they promise. Blocks stay
blocks where the result is made of blocks; the rest is done on sorted keys of edges.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from graphattn.graph import pairs
from graphattn.graph.blocks import Blocks, concatenate
from graphattn.graph.kinds import all_bits, join, rename_bits
from graphattn.graph.provenance import grouped, shortened
from graphattn.graph.ragged import batch_of, ragged_range
from graphattn.graph.rules import Rule, is_causal
from graphattn.graph.validate import (
    check_inside_graphs,
    check_one_device,
    check_same_nodes,
    check_tensor,
    refuse_above_limit,
)

if TYPE_CHECKING:
    from graphattn.graph.attention_graph import AttentionGraph

PAIRS_AT_ONCE = 2**22  # of blocks, listed to ask a rule about them


def union(left: AttentionGraph, right: AttentionGraph) -> AttentionGraph:
    """A ∨ B, with the blocks of both kept where no two of them, and no edge beside them, share a pair."""
    check_same_nodes(left, right, "|")
    kept = _disjoint_block_union(left, right)
    return kept if kept is not None else set_operation(left, right, "|")


def set_operation(left: AttentionGraph, right: AttentionGraph, symbol: str) -> AttentionGraph:
    """A ∨ B for `|`, A ∧ B for `&`, A ∧ ¬B for `-`, A ≠ B for `^`, entry by entry and head by head, on listed edges."""
    check_same_nodes(left, right, symbol)
    src_ptr, dst_ptr = _joined_ptr(left, right, symbol)
    return _combine(left.enumerate(), right.enumerate(), symbol, src_ptr, dst_ptr)


def complement(graph: AttentionGraph) -> AttentionGraph:
    """¬A inside each graph of a batch, head by head; pairs of two different graphs stay absent."""
    of_target = batch_of(graph.dst_ptr)
    width = torch.diff(graph.src_ptr)[of_target]  # sources that a target may read
    num_pairs = int(width.sum())
    refuse_above_limit(num_pairs, "its complement", graph)
    # a pair's place among all that lie inside graphs is its source plus what depends on its target alone
    place = torch.cumsum(width, 0) - width - graph.src_ptr[of_target]
    src, dst = graph.edge_index
    is_left = torch.ones(num_pairs, dtype=torch.bool, device=graph.device)
    is_left[src + place[dst]] = False
    seen = graph.head_mask
    if seen is not None:
        by_some = ~seen.all(1)  # edges that stay, for the heads that did not see them
        src, dst, seen = src[by_some], dst[by_some], seen[by_some]
        is_left[src + place[dst]] = True
    left = is_left.nonzero()[:, 0]
    row = torch.searchsorted(torch.cumsum(width, 0), left, right=True)
    head_mask = None
    if seen is not None:
        head_mask = torch.ones(left.numel(), seen.shape[1], dtype=torch.bool, device=graph.device)
        head_mask[torch.searchsorted(left, src + place[dst])] = ~seen
    return type(graph).trusted(
        torch.stack([left.sub_(place[row]), row]),
        graph.num_src_nodes,
        graph.num_dst_nodes,
        src_ptr=graph._src_ptr,
        dst_ptr=graph._dst_ptr,
        head_mask=head_mask,
        origin=f"~{grouped(graph.origin, '~')}",
    )


def compose(left: AttentionGraph, right: AttentionGraph) -> AttentionGraph:
    """(A B)[i, k] = ∃ j: A[i, j] ∧ B[j, k]; takes time and memory in the number of two-hop paths."""
    if left.num_src_nodes != right.num_dst_nodes:
        raise ValueError(
            f"left @ right needs left.num_src_nodes == right.num_dst_nodes, got {left.num_src_nodes} and "
            f"{right.num_dst_nodes}. The sources of the left graph are the targets of the right one."
        )
    check_one_device([left, right], "@")
    if left._head_mask is not None or right._head_mask is not None:
        raise ValueError(
            "left @ right is not defined for graphs with a head_mask. Compose graph.of_head(h) for each head."
        )
    via, dst = left.edge_index
    target_ptr = right.enumerate().plan().target_ptr
    count = torch.diff(target_ptr)[via]
    refuse_above_limit(int(count.sum()), "its two-hop composition", left)
    edge, offset = ragged_range(count)
    src = right.edge_index[0][target_ptr[via[edge]] + offset]
    keys = torch.unique(dst[edge] * right.num_src_nodes + src)
    knows_batch = left.num_graphs != 1 and right.num_graphs != 1
    if knows_batch and not torch.equal(left.src_ptr, right.dst_ptr):
        raise _differing_batches(left, right)
    return type(left).trusted(
        pairs.decode(keys, right.num_src_nodes),
        right.num_src_nodes,
        left.num_dst_nodes,
        src_ptr=right._src_ptr if knows_batch else None,
        dst_ptr=left._dst_ptr if knows_batch else None,
        origin=f"{grouped(left.origin, '@')} @ {grouped(right.origin, '@')}",
    )


def transpose(graph: AttentionGraph) -> AttentionGraph:
    """Aᵀ: j → i becomes i → j."""
    edges, order = _sorted_edges(graph.explicit_edges.flip(0), graph.num_dst_nodes)
    return type(graph).trusted(
        edges,
        graph.num_dst_nodes,
        graph.num_src_nodes,
        blocks=graph.blocks.transpose().without_empty() if graph.blocks is not None else None,
        edge_kind=None if graph._edge_kind is None else graph._edge_kind[order],
        kinds=graph.kinds,
        src_ptr=graph._dst_ptr,
        dst_ptr=graph._src_ptr,
        head_mask=None if graph._head_mask is None else graph._head_mask[order],
        origin=f"{grouped(graph.origin, '.')}.T",
    )


def keep(graph: AttentionGraph, rule: Rule) -> AttentionGraph:
    """A[i, j] ∧ rule(j, i)."""
    name = getattr(rule, "__name__", type(rule).__name__)
    origin = f"{grouped(graph.origin, '.')}.keep({name})"
    read = graph.enumerate() if "listed" in graph._cache else graph
    kept = _asked(rule, read.explicit_edges)
    beside = _of_listed(read, kept, None, origin)
    if read.blocks is None:
        return beside
    if rule is is_causal and read.blocks.sources_ascend():
        causal = read.blocks.keep_causal()
        return beside._like(beside.explicit_edges, causal, beside._edge_kind, origin, beside._head_mask)
    refuse_above_limit(graph.num_edges, "listing its blocks as edges", graph)
    return with_edges(beside, *_kept_of_blocks(read.blocks, rule))


def _kept_of_blocks(blocks: Blocks, rule: Rule) -> tuple[Tensor, Tensor]:
    """The pairs of blocks that a rule keeps, and their kinds; asks about some rows at a time, to list few pairs."""
    part = torch.div(torch.cumsum(blocks.prefix, 0) - 1, PAIRS_AT_ONCE, rounding_mode="floor")
    found = []
    for number in range(int(part[-1]) + 1):
        edges, kind = blocks._replace(prefix=torch.where(part == number, blocks.prefix, 0)).enumerate()
        kept = _asked(rule, edges)
        found.append((edges[:, kept], kind[kept]))
    return torch.cat([edges for edges, _ in found], 1), torch.cat([kind for _, kind in found])


def _asked(rule: Rule, edges: Tensor) -> Tensor:
    src, dst = edges
    kept = rule(src, dst)
    if not isinstance(kept, Tensor) or kept.dtype != torch.bool or kept.shape != src.shape:
        got = f"{kept.dtype} {list(kept.shape)}" if isinstance(kept, Tensor) else type(kept).__name__
        raise ValueError(
            f"rule must return a bool tensor of shape {list(src.shape)}, got {got}. "
            "A rule takes (src, dst) element by element and answers True to keep the edge."
        )
    return kept


def _of_listed(graph: AttentionGraph, chosen: Tensor, blocks: Blocks | None, origin: str) -> AttentionGraph:
    """The chosen ones of the edges outside blocks, with what goes with them, and other blocks."""
    return graph._like(
        graph.explicit_edges[:, chosen],
        blocks,
        None if graph._edge_kind is None else graph._edge_kind[chosen],
        origin,
        None if graph._head_mask is None else graph._head_mask[chosen],
    )


def with_edges(graph: AttentionGraph, edges: Tensor, kind: Tensor) -> AttentionGraph:
    """Adds edges that a graph without blocks lacks, in any order, with their kinds; every head sees them."""
    edges = torch.cat([graph.explicit_edges, edges], 1)
    kind = torch.cat([graph._explicit_kind(), kind])
    head_mask = graph._head_mask
    if head_mask is not None:
        num_new = kind.numel() - head_mask.shape[0]
        head_mask = torch.cat([head_mask, head_mask.new_ones(num_new, head_mask.shape[1])])
    keys = pairs.encode(edges, graph.num_src_nodes)
    if bool((torch.diff(keys) <= 0).any()):
        order = torch.argsort(keys)
        edges, kind = edges[:, order], kind[order]
        head_mask = None if head_mask is None else head_mask[order]
    return graph._like(edges, None, kind if graph.kinds else None, graph.origin, head_mask)


def keep_sources(graph: AttentionGraph, kept: Tensor) -> AttentionGraph:
    """A[i, j] ∧ kept[j]."""
    check_tensor(kept, "kept", graph.device)
    if kept.dtype != torch.bool or kept.shape != (graph.num_src_nodes,):
        raise ValueError(
            f"kept must be bool [num_src_nodes] = [{graph.num_src_nodes}], got {kept.dtype} {list(kept.shape)}. "
            "Mark each source that stays with True."
        )
    blocks = None if graph.blocks is None else graph.blocks.keep_sources(kept)
    origin = f"{grouped(graph.origin, '.')}.keep_sources({int(kept.sum())} of {graph.num_src_nodes})"
    return _of_listed(graph, kept[graph.explicit_edges[0]], blocks, origin)


def keep_equal(graph: AttentionGraph, src_label: Tensor, dst_label: Tensor) -> AttentionGraph:
    """A[i, j] ∧ src_label[j] = dst_label[i]."""
    for name, label, size in (
        ("src", src_label, graph.num_src_nodes),
        ("dst", dst_label, graph.num_dst_nodes),
    ):
        check_tensor(label, f"{name}_label", graph.device)
        if label.dtype != torch.int64 or label.shape != (size,):
            raise ValueError(
                f"{name}_label must be int64 [num_{name}_nodes] = [{size}], got {label.dtype} {list(label.shape)}. "
                "Give each node one label."
            )
        if label.numel() and int(label.min()) < 0:
            raise ValueError(f"{name}_label must not be negative, got {int(label.min())}. Number the labels from 0.")
    src, dst = graph.explicit_edges
    blocks = None if graph.blocks is None else graph.blocks.keep_equal(src_label, dst_label)
    return _of_listed(graph, src_label[src] == dst_label[dst], blocks, f"{grouped(graph.origin, '.')}.keep_equal(...)")


def self_edges(graph: AttentionGraph) -> AttentionGraph:
    """A ∧ I."""
    beside = graph.explicit_edges[0] == graph.explicit_edges[1]
    own = _of_listed(graph, beside, None, f"{grouped(graph.origin, '.')}.self_edges()")
    if graph.blocks is None:
        return own
    nodes = torch.arange(min(graph.num_src_nodes, graph.num_dst_nodes), device=graph.device)
    pair = torch.stack([nodes, nodes])
    holder = graph.blocks.holder(pair)
    return with_edges(own, pair[:, holder >= 0], graph.blocks.kind[holder[holder >= 0]])


def marked(graph: AttentionGraph, kind: str) -> AttentionGraph:
    """A, each edge also of the kind."""
    kinds = join(graph.kinds, (kind,))
    bit = 1 << kinds.index(kind)
    blocks, edge_kind = graph.blocks, graph._edge_kind
    return type(graph).trusted(
        graph.explicit_edges,
        graph.num_src_nodes,
        graph.num_dst_nodes,
        blocks=None if blocks is None else blocks._replace(kind=(blocks.kind & all_bits(graph.kinds)) | bit),
        edge_kind=None if edge_kind is None else edge_kind | bit,
        kinds=kinds,
        src_ptr=graph._src_ptr,
        dst_ptr=graph._dst_ptr,
        head_mask=graph._head_mask,
        origin=graph.origin,
    )


def of_head(graph: AttentionGraph, head: int) -> AttentionGraph:
    """A of one head."""
    if graph._head_mask is None:
        return graph
    num_heads = graph._head_mask.shape[1]
    if isinstance(head, bool) or not isinstance(head, int) or not 0 <= head < num_heads:
        raise ValueError(f"head must be an int in [0, {num_heads}), got {head!r}. The head_mask has {num_heads} heads.")
    seen = graph._head_mask[:, head]
    return graph._like(
        graph.explicit_edges[:, seen],
        graph.blocks,
        None if graph._edge_kind is None else graph._edge_kind[seen],
        f"{grouped(graph.origin, '.')}.of_head({head})",
    )


def compact_sources(graph: AttentionGraph) -> tuple[AttentionGraph, Tensor]:
    """A[:, kept] and kept, where kept are the columns that are not all False."""
    used = torch.zeros(graph.num_src_nodes, dtype=torch.bool, device=graph.device)
    used[graph.explicit_edges[0]] = True
    blocks = graph.blocks.without_empty() if graph.blocks is not None else None
    if blocks is not None:
        used[blocks.src] = True
    kept = used.nonzero()[:, 0]
    new_id = torch.cumsum(used, 0) - 1  # rises with the old id, so every order stays what it is
    src_ptr = graph._src_ptr
    compact = type(graph).trusted(
        torch.stack([new_id[graph.explicit_edges[0]], graph.explicit_edges[1]]),
        kept.numel(),
        graph.num_dst_nodes,
        blocks=None if blocks is None else blocks._replace(src=new_id[blocks.src]),
        edge_kind=graph._edge_kind,
        kinds=graph.kinds,
        src_ptr=None if src_ptr is None else torch.cat([new_id.new_zeros(1), torch.cumsum(used, 0)])[src_ptr],
        dst_ptr=graph._dst_ptr,
        head_mask=graph._head_mask,
        origin=f"{grouped(graph.origin, '.')}.compact_sources()",
    )
    return compact, kept


def permute(graph: AttentionGraph, order: Tensor, dst_order: Tensor | None = None) -> AttentionGraph:
    """A[dst_order][:, order]."""
    if dst_order is None:
        if not graph.is_square:
            raise ValueError(
                f"permute needs dst_order for a rectangular graph ({graph.num_src_nodes} sources, "
                f"{graph.num_dst_nodes} targets). Pass one order per side."
            )
        dst_order = order
    check_tensor(order, "order", graph.device)
    check_tensor(dst_order, "dst_order", graph.device)
    src_map = _inverse(order, graph._src_ptr, graph.num_src_nodes, "order")
    dst_map = _inverse(dst_order, graph._dst_ptr, graph.num_dst_nodes, "dst_order")
    moved = torch.stack([src_map[graph.explicit_edges[0]], dst_map[graph.explicit_edges[1]]])
    edges, place = _sorted_edges(moved, graph.num_src_nodes)
    return graph._like(
        edges,
        graph.blocks.relabel(src_map, dst_map) if graph.blocks is not None else None,
        None if graph._edge_kind is None else graph._edge_kind[place],
        f"{grouped(graph.origin, '.')}.permute(...)",
        None if graph._head_mask is None else graph._head_mask[place],
    )


def disjoint_union(graphs: Sequence[AttentionGraph]) -> AttentionGraph:
    """Puts graphs side by side as one batch: nodes are renumbered, no edge crosses, blocks stay blocks.

    Args:
        graphs: at least one graph. Where one has a head_mask, every head sees the edges of those without.

    Returns:
        The batch, with `src_ptr` and `dst_ptr` that tell the graphs apart.

    >>> from graphattn.graph import AttentionGraph
    >>> one = AttentionGraph(torch.tensor([[0], [0]]), num_src_nodes=1)
    >>> disjoint_union([one, one]).edge_index.tolist()
    [[0, 1], [0, 1]]
    """
    graphs = list(graphs)
    if not graphs:
        raise ValueError("disjoint_union needs at least one graph, got none. Pass a non-empty list.")
    check_one_device(graphs, "disjoint_union")
    num_heads = {graph._head_mask.shape[1] for graph in graphs if graph._head_mask is not None}
    if len(num_heads) > 1:
        raise ValueError(
            f"the graphs differ in the heads of their head_mask, {sorted(num_heads)}. Use the same num_heads in all."
        )
    kinds: tuple[str, ...] = ()
    for graph in graphs:
        kinds = join(kinds, graph.kinds)
    src_start = _starts([graph.num_src_nodes for graph in graphs])
    dst_start = _starts([graph.num_dst_nodes for graph in graphs])
    placed = list(zip(graphs, src_start, dst_start))
    edges = torch.cat([g.explicit_edges + g.explicit_edges.new_tensor([[s], [d]]) for g, s, d in placed], 1)
    has_own_kinds = any(graph._edge_kind is not None or graph.kinds != kinds for graph in graphs)
    edge_kind = (
        torch.cat([rename_bits(g._explicit_kind(), g.kinds, kinds) for g in graphs])
        if has_own_kinds and kinds
        else None
    )
    return type(graphs[0]).trusted(
        edges,
        src_start[-1],
        dst_start[-1],
        blocks=concatenate([_kinds_of_blocks(g, kinds).shift(d, s) for g, s, d in placed if g.blocks is not None]),
        edge_kind=edge_kind,
        kinds=kinds,
        src_ptr=torch.cat([g.src_ptr[:-1] + s for g, s, _ in placed] + [edges.new_tensor([src_start[-1]])]),
        dst_ptr=torch.cat([g.dst_ptr[:-1] + d for g, _, d in placed] + [edges.new_tensor([dst_start[-1]])]),
        head_mask=torch.cat([_heads(graph, *num_heads) for graph in graphs]) if num_heads else None,
        origin=f"disjoint_union({len(graphs)} graphs: {shortened(graphs[0].origin)}{', …' if len(graphs) > 1 else ''})",
    )


def _disjoint_block_union(left: AttentionGraph, right: AttentionGraph) -> AttentionGraph | None:
    """The union with its blocks kept, or None where the two share a pair (or have no block to keep)."""
    if left.blocks is None and right.blocks is None:
        return None
    kinds = join(left.kinds, right.kinds)
    blocks = concatenate([_kinds_of_blocks(graph, kinds) for graph in (left, right) if graph.blocks is not None])
    assert blocks is not None
    if bool(blocks.overlapping().any()):
        return None
    if any(bool((blocks.holder(graph.explicit_edges) >= 0).any()) for graph in (left, right)):
        return None
    beside_left, beside_right = (
        graph._like(graph.explicit_edges, None, graph._edge_kind, graph.origin, graph._head_mask)
        for graph in (left, right)
    )
    edges = _combine(beside_left, beside_right, "|", *_joined_ptr(left, right, "|"))
    return edges._like(edges.explicit_edges, blocks, edges._edge_kind, edges.origin, edges._head_mask)


def _combine(
    left: AttentionGraph, right: AttentionGraph, symbol: str, src_ptr: Tensor | None, dst_ptr: Tensor | None
) -> AttentionGraph:
    """Set operation on graphs without blocks, in the batch that the offsets describe."""
    kinds = left.kinds if symbol == "-" else join(left.kinds, right.kinds)
    givers = [left] if symbol == "-" else [left, right]
    # None where every edge has every kind
    names = kinds if any(graph._edge_kind is not None or graph.kinds != kinds for graph in givers) else ()
    has_heads = left._head_mask is not None or right._head_mask is not None
    head_mask = None
    if has_heads or symbol in "|^":
        edges, edge_kind, head_mask = _among_both(left, right, symbol, names, has_heads)
    else:
        edges, edge_kind = _among_left(left, right, symbol, names)
    return type(left).trusted(
        edges,
        left.num_src_nodes,
        left.num_dst_nodes,
        edge_kind=edge_kind,
        kinds=kinds,
        src_ptr=src_ptr,
        dst_ptr=dst_ptr,
        head_mask=head_mask,
        origin=f"{grouped(left.origin, symbol)} {symbol} {grouped(right.origin, symbol)}",
    )


def _among_left(
    left: AttentionGraph, right: AttentionGraph, symbol: str, names: tuple[str, ...]
) -> tuple[Tensor, Tensor | None]:
    """Edges and kinds of `&` or `-`: some of the left graph's."""
    place, is_held = pairs.locate(left._keys(), right._keys())
    if symbol == "&":
        picked = place[is_held]
    else:
        stays = torch.ones_like(left._keys(), dtype=torch.bool)
        stays[place[is_held]] = False
        picked = stays.nonzero()[:, 0]
    edges = left.explicit_edges[:, picked]
    if not names:
        return edges, None
    edge_kind = rename_bits(left._explicit_kind(), left.kinds, names)[picked]
    if symbol == "&":
        edge_kind |= rename_bits(right._explicit_kind(), right.kinds, names)[is_held]
    return edges, edge_kind


def _among_both(
    left: AttentionGraph, right: AttentionGraph, symbol: str, names: tuple[str, ...], has_heads: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Edges, kinds and heads of any operation: the union, of which those that some head sees are kept."""
    num_edges, of_left, of_right = pairs.unite(left._keys(), right._keys())
    edges = left.explicit_edges.new_empty(2, num_edges)
    edges[:, of_left], edges[:, of_right] = left.explicit_edges, right.explicit_edges
    edge_kind = head_mask = None
    if names:
        edge_kind = torch.zeros(num_edges, dtype=torch.int16, device=edges.device)
        edge_kind[of_left] = rename_bits(left._explicit_kind(), left.kinds, names)
        if symbol != "-":
            edge_kind[of_right] |= rename_bits(right._explicit_kind(), right.kinds, names)
    if has_heads:
        num_heads = _common_heads(left, right)
        a, b = (torch.zeros(num_edges, num_heads, dtype=torch.bool, device=edges.device) for _ in range(2))
        a[of_left], b[of_right] = _heads(left, num_heads), _heads(right, num_heads)
        head_mask = {"|": a | b, "&": a & b, "-": a & ~b, "^": a ^ b}[symbol]
        kept = head_mask.any(1)
    elif symbol == "^":
        in_left, in_right = (torch.zeros(num_edges, dtype=torch.bool, device=edges.device) for _ in range(2))
        in_left[of_left], in_right[of_right] = True, True
        kept = in_left ^ in_right
    else:
        return edges, edge_kind, None
    return (
        edges[:, kept],
        None if edge_kind is None else edge_kind[kept],
        None if head_mask is None else head_mask[kept],
    )


def _common_heads(left: AttentionGraph, right: AttentionGraph) -> int:
    num_heads = [graph._head_mask.shape[1] for graph in (left, right) if graph._head_mask is not None]
    if num_heads[0] != num_heads[-1]:
        raise ValueError(
            f"the two graphs differ in the heads of their head_mask, {num_heads[0]} and {num_heads[-1]}. "
            "Use the same num_heads in both."
        )
    return num_heads[0]


def _kinds_of_blocks(graph: AttentionGraph, kinds: tuple[str, ...]) -> Blocks:
    assert graph.blocks is not None
    return graph.blocks._replace(kind=rename_bits(graph.blocks.kind, graph.kinds, kinds))


def _heads(graph: AttentionGraph, num_heads: int) -> Tensor:
    if graph._head_mask is not None:
        return graph._head_mask
    return torch.ones(graph.explicit_edges.shape[1], num_heads, dtype=torch.bool, device=graph.device)


def _joined_ptr(left: AttentionGraph, right: AttentionGraph, symbol: str) -> tuple[Tensor | None, Tensor | None]:
    """The batch offsets of a combination: a graph that knows of no batch takes those of the other, if it fits them."""
    if left.num_graphs != 1 and right.num_graphs != 1:
        if not (torch.equal(left.src_ptr, right.src_ptr) and torch.equal(left.dst_ptr, right.dst_ptr)):
            raise _differing_batches(left, right)
        return left._src_ptr, left._dst_ptr
    batch, other = (left, right) if left.num_graphs != 1 or right._src_ptr is None else (right, left)
    if symbol in "|^" or (symbol == "-" and other is left):  # else no edge of the result comes from `other` alone
        check_inside_graphs(other.explicit_edges, other.blocks, batch._src_ptr, batch._dst_ptr)
    return batch._src_ptr, batch._dst_ptr


def _differing_batches(left: AttentionGraph, right: AttentionGraph) -> ValueError:
    return ValueError(
        f"the two graphs split their nodes into different batches ({left.num_graphs} and {right.num_graphs} graphs). "
        "Build both from the same sizes."
    )


def _sorted_edges(edge_index: Tensor, num_src_nodes: int) -> tuple[Tensor, Tensor]:
    order = torch.argsort(pairs.encode(edge_index, num_src_nodes))
    return edge_index[:, order], order


def _inverse(order: Tensor, ptr: Tensor | None, num_nodes: int, name: str) -> Tensor:
    """Returns the new id of each old node, after checking that `order` permutes the nodes of each graph."""
    identity = torch.arange(num_nodes, device=order.device)
    if order.dtype != torch.int64 or order.shape != (num_nodes,) or not torch.equal(order.sort().values, identity):
        raise ValueError(
            f"{name} must be an int64 permutation of 0 … {num_nodes - 1}, got {order.dtype} {list(order.shape)}. "
            "Each node must appear once."
        )
    inverse = torch.empty_like(order)
    inverse[order] = identity
    if ptr is not None:
        graph = torch.searchsorted(ptr, identity, right=True)
        if not torch.equal(graph[order], graph):
            raise ValueError(f"{name} moves a node to another graph of the batch. Permute inside each graph only.")
    return inverse


def _starts(sizes: list[int]) -> list[int]:
    starts = [0]
    for size in sizes:
        starts.append(starts[-1] + size)
    return starts
