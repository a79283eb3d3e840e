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
from graphattn.graph.kinds import join, rename_bits
from graphattn.graph.provenance import grouped, shortened
from graphattn.graph.ragged import ragged_range
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
    """¬A inside each graph of a batch; pairs of two different graphs stay absent."""
    num_src, num_dst = torch.diff(graph.src_ptr), torch.diff(graph.dst_ptr)
    num_pairs = int((num_src * num_dst).sum())
    refuse_above_limit(num_pairs, "its complement", graph)
    member, offset = ragged_range(num_src * num_dst)
    width = num_src[member].clamp(min=1)
    row = torch.div(offset, width, rounding_mode="floor")
    everything = torch.stack([graph.src_ptr[member] + offset - row * width, graph.dst_ptr[member] + row])
    listed = type(graph).trusted(
        everything, graph.num_src_nodes, graph.num_dst_nodes, src_ptr=graph._src_ptr, dst_ptr=graph._dst_ptr
    )
    return set_operation(listed, graph, "-").named(f"~{grouped(graph.origin, '~')}")


def compose(left: AttentionGraph, right: AttentionGraph) -> AttentionGraph:
    """(A B)[i, k] = ∃ j: A[i, j] ∧ B[j, k]; takes time and memory in the number of two-hop paths."""
    if left.num_src_nodes != right.num_dst_nodes:
        raise ValueError(
            f"left @ right needs left.num_src_nodes == right.num_dst_nodes, got {left.num_src_nodes} and "
            f"{right.num_dst_nodes}. The sources of the left graph are the targets of the right one."
        )
    check_one_device([left, right], "@")
    if left._head_mask is not None or right._head_mask is not None:
        raise ValueError("left @ right is not defined for graphs with a head_mask. Compose one head's graph at a time.")
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
    keeps_blocks = rule is is_causal and graph.blocks is not None and graph.blocks.sources_ascend()
    read = graph if keeps_blocks else graph.enumerate()
    src, dst = read.explicit_edges
    kept = rule(src, dst)
    if not isinstance(kept, Tensor) or kept.dtype != torch.bool or kept.shape != src.shape:
        got = f"{kept.dtype} {list(kept.shape)}" if isinstance(kept, Tensor) else type(kept).__name__
        raise ValueError(
            f"rule must return a bool tensor of shape {list(src.shape)}, got {got}. "
            "A rule takes (src, dst) element by element and answers True to keep the edge."
        )
    name = getattr(rule, "__name__", type(rule).__name__)
    return read._like(
        read.explicit_edges[:, kept],
        read.blocks.keep_causal() if read.blocks is not None else None,
        None if read._edge_kind is None else read._edge_kind[kept],
        f"{grouped(graph.origin, '.')}.keep({name})",
        None if read._head_mask is None else read._head_mask[kept],
    )


def keep_sources(graph: AttentionGraph, kept: Tensor) -> AttentionGraph:
    """A[i, j] ∧ kept[j]."""
    check_tensor(kept, "kept", graph.device)
    if kept.dtype != torch.bool or kept.shape != (graph.num_src_nodes,):
        raise ValueError(
            f"kept must be bool [num_src_nodes] = [{graph.num_src_nodes}], got {kept.dtype} {list(kept.shape)}. "
            "Mark each source that stays with True."
        )
    stays = kept[graph.explicit_edges[0]]
    return graph._like(
        graph.explicit_edges[:, stays],
        graph.blocks.keep_sources(kept) if graph.blocks is not None else None,
        None if graph._edge_kind is None else graph._edge_kind[stays],
        f"{grouped(graph.origin, '.')}.keep_sources({int(kept.sum())} of {graph.num_src_nodes})",
        None if graph._head_mask is None else graph._head_mask[stays],
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
    left_keys, right_keys = left._keys(), right._keys()
    head_mask = None
    if left._head_mask is not None or right._head_mask is not None:
        keys, head_mask = _combine_heads(left, right, pairs.merge(left_keys, right_keys), symbol)
    elif symbol == "|":
        keys = pairs.merge(left_keys, right_keys)
    elif symbol == "&":
        keys = left_keys[pairs.find(right_keys, left_keys) >= 0]
    else:
        keys = left_keys[pairs.find(right_keys, left_keys) < 0]
        if symbol == "^":
            keys = pairs.merge(keys, right_keys[pairs.find(left_keys, right_keys) < 0])
    kinds = left.kinds if symbol == "-" else join(left.kinds, right.kinds)
    return type(left).trusted(
        pairs.decode(keys, left.num_src_nodes),
        left.num_src_nodes,
        left.num_dst_nodes,
        edge_kind=_combined_kind(keys, [left] if symbol == "-" else [left, right], kinds),
        kinds=kinds,
        src_ptr=src_ptr,
        dst_ptr=dst_ptr,
        head_mask=head_mask,
        origin=f"{grouped(left.origin, symbol)} {symbol} {grouped(right.origin, symbol)}",
    )


def _combine_heads(left: AttentionGraph, right: AttentionGraph, keys: Tensor, symbol: str) -> tuple[Tensor, Tensor]:
    """Set operation edge by edge and head by head; edges that no head sees are dropped."""
    masks = []
    num_heads = next(mask.shape[1] for mask in (left._head_mask, right._head_mask) if mask is not None)
    for graph in (left, right):
        position = pairs.find(graph._keys(), keys)
        mask = graph._head_mask
        if mask is None:
            masks.append((position >= 0)[:, None].expand(-1, num_heads))
        elif mask.shape[1] != num_heads:
            raise ValueError(
                f"the two graphs differ in the heads of their head_mask, {num_heads} and {mask.shape[1]}. "
                "Use the same num_heads in both."
            )
        elif not mask.shape[0]:
            masks.append(mask.new_zeros(keys.numel(), num_heads))
        else:
            masks.append(mask[position.clamp(min=0)] & (position >= 0)[:, None])
    a, b = masks
    combined = {"|": a | b, "&": a & b, "-": a & ~b, "^": a ^ b}[symbol]
    seen = combined.any(1)
    return keys[seen], combined[seen]


def _combined_kind(keys: Tensor, graphs: list[AttentionGraph], kinds: tuple[str, ...]) -> Tensor | None:
    """ORs the kinds that each graph gives an edge; None where every edge has every kind."""
    if not kinds or all(graph._edge_kind is None and graph.kinds == kinds for graph in graphs):
        return None
    combined = torch.zeros(keys.numel(), dtype=torch.int16, device=keys.device)
    for graph in graphs:
        if not graph.num_edges:
            continue
        position = pairs.find(graph._keys(), keys)
        bits = rename_bits(graph._explicit_kind(), graph.kinds, kinds)[position.clamp(min=0)]
        combined |= torch.where(position >= 0, bits, 0).to(torch.int16)
    return combined


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
