"""The k best incoming edges of each target, by given scores or by dot products that are never all held at once.

Blocks of the graph are searched in tiles, each by a matrix product: a tile holds all scores of some targets, and of
groups of neighboring sources only those with the k best maxima can hold the k best scores. Listed edges are scored one
by one, and sorted. The search has no gradient; what it kept is scored anew with one.
"""

import torch
from torch import Tensor

from graphattn.graph import AttentionGraph, pairs
from graphattn.graph.algebra import with_edges
from graphattn.graph.plan import Bucket
from graphattn.graph.validate import check_tensor
from graphattn.ops.assignment import best_first
from graphattn.ops.attention import edge_logits

TILE = 2**22  # scores in a tile, 16 MiB in float32
COLUMNS = 4096  # of a tile, made by one product: what fits the caches is still there when its maxima are taken
LEAST_ROWS = 16  # of a tile, however many sources there are: a product of fewer is slow
EDGES_AT_ONCE = 2**20  # listed edges whose features are gathered together
LEAST_GROUP = 4  # sources; of smaller groups there would be as many maxima as scores


def topk_edges(
    scores: Tensor, graph: AttentionGraph, k: int, *, keep_self: bool = False
) -> tuple[AttentionGraph, Tensor]:
    """Keeps the k incoming edges of each target with the best given scores.

    Args:
        scores: [num_edges] in the order of `graph.edge_index`, finite.
        graph: the candidates; blocks are listed.
        k: at least 1. A target with at least k edges keeps exactly k, one with fewer keeps all of them.
        keep_self: whether a target keeps the edge from itself, where the graph has it, as one of the k.

    Returns:
        graph: the kept edges, with their kinds and heads.
        scores: [kept edges], those given; the gradient reaches them. Of equal scores the lowest source is kept.

    Raises:
        TypeError, ValueError: for k < 1, scores of another shape or not finite, `keep_self` where sources are not the
            targets.

    >>> graph = AttentionGraph(torch.tensor([[0, 1, 2, 1], [0, 0, 0, 1]]), num_src_nodes=3)
    >>> kept, scores = topk_edges(torch.tensor([0.3, 0.1, 0.2, 0.4]), graph, k=2)
    >>> kept.edge_index.tolist(), scores
    ([[0, 2, 1], [0, 0, 1]], tensor([0.3000, 0.2000, 0.4000]))
    """
    check_k(k)
    check_tensor(scores, "scores", graph.device)
    if scores.shape != (graph.num_edges,) or not scores.is_floating_point():
        raise ValueError(
            f"scores must be floating [num_edges] = [{graph.num_edges}], got {scores.dtype} {list(scores.shape)}. "
            "Give one score per edge in the order of graph.edge_index; average those of heads."
        )
    is_finite = scores.isfinite()
    if not bool(is_finite.all()):
        edge = int((~is_finite).nonzero()[0])
        src, dst = graph.edge_index[:, edge].tolist()
        raise ValueError(
            f"scores must be finite, got {scores[edge].item()} for edge {edge}, {src} → {dst}. "
            "Leave edges out by graph.keep(rule)."
        )
    _check_keep_self(keep_self, graph)
    listed = graph.enumerate()
    src, dst = listed.edge_index
    rank_by = scores.detach()
    if keep_self:
        rank_by = rank_by.masked_fill(src == dst, torch.inf)
    chosen = _best_of_each(rank_by, dst, graph.num_dst_nodes, k).nonzero()[:, 0]
    return _with_listed(listed, chosen).named(_origin(graph, k)), scores[chosen]


def topk_edges_by_product(
    query: Tensor,
    key: Tensor,
    graph: AttentionGraph,
    k: int,
    *,
    scale: float = 1.0,
    keep_self: bool = False,
) -> tuple[AttentionGraph, Tensor]:
    r"""Keeps the k incoming edges of each target with the best scores s_ji = scale · q_i·k_j.

    Memory is O(nodes · (dim + k) + listed edges) beyond a tile of 2^22 scores (16 scores per source above 2^18
    sources), never targets × sources.

    Args:
        query: [num_dst_nodes, dim], any float dtype; half precision is searched in float32.
        key: [num_src_nodes, dim].
        graph: the candidates; blocks stay unlisted, and causal ones are searched up to the target alone.
        k: at least 1. A target with at least k edges keeps exactly k, one with fewer keeps all of them: where all
            have as many, a new search gives shapes that a compiled region has seen.
        scale: multiplies the dot product.
        keep_self: whether a target keeps the edge from itself, where the graph has it, as one of the k.

    Returns:
        graph: the kept edges, without blocks, with their kinds and heads.
        scores: [kept edges], differentiable in `query` and `key`, which the search is not. Of scores that are equal
            in the search the lowest source is kept. A score that is NaN counts as the best: it is kept, and seen by
            its target, not passed over.

    Raises:
        TypeError, ValueError: for k < 1, features that do not fit the graph or each other, `keep_self` where sources
            are not the targets.

    >>> from graphattn.connectivity import full
    >>> x = torch.tensor([[1.0], [3.0], [2.0], [-1.0]])
    >>> kept, scores = topk_edges_by_product(x, x, full(4), k=2)
    >>> kept.edge_index.tolist(), scores
    ([[1, 2, 1, 2, 1, 2, 0, 3], [0, 0, 1, 1, 2, 2, 3, 3]], tensor([ 3.,  2.,  9.,  6.,  6.,  4., -1.,  1.]))
    """
    check_k(k)
    _check_factors(query, key, graph)
    _check_keep_self(keep_self, graph)
    with torch.no_grad(), torch.autocast(query.device.type, enabled=False):
        wide = torch.promote_types(torch.promote_types(query.dtype, key.dtype), torch.float32)
        kept = _search(scale * query.to(wide), key.to(wide), graph, k, keep_self).named(_origin(graph, k))
    num_heads = 1 if kept.head_mask is None else kept.head_mask.shape[1]  # the score is that of all heads
    query, key = (x[:, None].expand(-1, num_heads, -1) for x in (query, key))
    return kept, edge_logits(query, key, kept, scale=scale)[:, 0]


def check_k(k: int) -> None:
    """Raises unless k is an int of at least 1."""
    if isinstance(k, bool) or not isinstance(k, int):
        raise TypeError(f"k must be an int, got {type(k).__name__} {k!r}. It is the number of edges of each target.")
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}. A target with at most k edges keeps all of them.")


def _check_factors(query: Tensor, key: Tensor, graph: AttentionGraph) -> None:
    for name, x, num_nodes, side in (
        ("query", query, graph.num_dst_nodes, "dst"),
        ("key", key, graph.num_src_nodes, "src"),
    ):
        check_tensor(x, name, graph.device)
        if x.dim() != 2 or x.shape[0] != num_nodes or not x.is_floating_point():
            raise ValueError(
                f"{name} must be floating [num_{side}_nodes, dim] with num_{side}_nodes = {num_nodes}, got {x.dtype} "
                f"{list(x.shape)}. query has one row per target of the graph, key one per source."
            )
    if query.shape[1] != key.shape[1]:
        raise ValueError(
            f"key must have query's dim {query.shape[1]}, got {key.shape[1]}. Project both to the same width."
        )


def _check_keep_self(keep_self: bool, graph: AttentionGraph) -> None:
    if keep_self and not (graph.is_square and torch.equal(graph.src_ptr, graph.dst_ptr)):
        raise ValueError(
            f"keep_self=True needs sources and targets to be the same nodes, got {graph.num_src_nodes} sources and "
            f"{graph.num_dst_nodes} targets of {graph.num_graphs} graphs. Leave keep_self out in cross attention."
        )


def _origin(graph: AttentionGraph, k: int) -> str:
    return f"topk_edges({graph.origin}, k={k})"


def _search(query: Tensor, key: Tensor, graph: AttentionGraph, k: int, keep_self: bool) -> AttentionGraph:
    """Returns the graph of the k best edges by q_i·k_j."""
    plan, blocks = graph.plan(), graph.blocks
    degree = torch.bincount(plan.dst, minlength=graph.num_dst_nodes)
    if blocks is not None:
        degree = degree.index_add(0, blocks.dst, blocks.prefix)
    if k >= (int(degree.max()) if degree.numel() else 0):
        return graph.enumerate()
    score = _scores_of_edges(query, key, plan.src, plan.dst)
    if keep_self:
        score = _self_first(score, graph.explicit_edges)
    chosen = _best_of_each(score, plan.dst, graph.num_dst_nodes, k).nonzero()[:, 0]
    if blocks is None:
        return _with_listed(graph, chosen)
    found = [part for bucket in plan.buckets for part in _best_of_bucket(query, key, bucket, k)]
    edges = torch.cat([edges for edges, _ in found], 1)
    best = torch.cat([score for _, score in found])
    if keep_self:
        edges, best = _with_self(edges, best, graph)
    if keep_self or not plan.covers_once:  # a target has candidates of several searches
        both = torch.cat([graph.explicit_edges[:, chosen], edges], 1)
        order = torch.argsort(pairs.encode(both, graph.num_src_nodes))
        stays = torch.empty_like(order, dtype=torch.bool)
        stays[order] = _best_of_each(torch.cat([score[chosen], best])[order], both[1, order], graph.num_dst_nodes, k)
        num_listed = chosen.numel()
        chosen, edges = chosen[stays[:num_listed]], edges[:, stays[num_listed:]]
    kinds = blocks.kind[:1]
    kind = kinds.expand(edges.shape[1]) if bool((blocks.kind == kinds).all()) else blocks.kind[blocks.holder(edges)]
    return with_edges(_with_listed(graph, chosen), edges, kind)


def _best_of_each(score: Tensor, dst: Tensor, num_dst_nodes: int, k: int) -> Tensor:
    """Marks the k best of each target, bool [num_edges]; `dst` ascends, and of equal scores the first is better."""
    order = best_first(score, dst, num_dst_nodes)
    degree = torch.bincount(dst, minlength=num_dst_nodes)
    place = torch.arange(dst.numel(), device=dst.device) - (torch.cumsum(degree, 0) - degree)[dst]
    return torch.zeros_like(dst, dtype=torch.bool).index_put((order,), place < min(k, dst.numel()))


def _with_listed(graph: AttentionGraph, chosen: Tensor) -> AttentionGraph:
    """Returns the chosen ones of the edges outside blocks, ascending positions, and no block."""
    return graph._like(
        graph.explicit_edges[:, chosen],
        None,
        None if graph._edge_kind is None else graph._edge_kind[chosen],
        graph.origin,
        None if graph._head_mask is None else graph._head_mask[chosen],
    )


def _scores_of_edges(query: Tensor, key: Tensor, src: Tensor, dst: Tensor) -> Tensor:
    scores = query.new_empty(src.numel())
    for part in torch.arange(0, src.numel(), EDGES_AT_ONCE).tolist():
        here = slice(part, part + EDGES_AT_ONCE)
        torch.sum(query[dst[here]].mul_(key[src[here]]), 1, out=scores[here])
    return scores


def _self_first(score: Tensor, edges: Tensor) -> Tensor:
    """Returns scores by which no edge ranks as high as one from the target itself."""
    largest = torch.finfo(score.dtype).max
    return score.nan_to_num(nan=largest, posinf=largest).masked_fill(edges[0] == edges[1], torch.inf)


def _with_self(edges: Tensor, score: Tensor, graph: AttentionGraph) -> tuple[Tensor, Tensor]:
    """Adds the self edges that blocks hold to what was found in blocks, with the best of scores."""
    own = graph.self_edges().edge_index
    src, dst = graph.explicit_edges
    own = own[:, ~torch.isin(own[0], src[src == dst])]
    is_other = edges[0] != edges[1]
    edges = torch.cat([edges[:, is_other], own], 1)
    return edges, _self_first(torch.cat([score[is_other], score.new_zeros(own.shape[1])]), edges)


def _best_of_bucket(query: Tensor, key: Tensor, bucket: Bucket, k: int) -> list[tuple[Tensor, Tensor]]:
    """Returns the k best of each row of blocks of one shape, as edges [2, num_found] and scores, part by part.

    All scores of the rows of a part are in one tile, a row per target.
    """
    num_blocks, num_rows = bucket.dst.shape
    src, rank = _ascending(bucket)
    num_columns = src.shape[1]
    num_kept = min(k, num_columns)
    rows_at_once = min(num_rows, max(LEAST_ROWS, TILE // num_columns))
    blocks_at_once = min(num_blocks, max(1, TILE // (rows_at_once * num_columns)))
    group = _group_size(num_columns, num_kept)
    width = -(-num_columns // group) * group
    memory = key.new_empty(blocks_at_once * rows_at_once * width)
    found = []
    for first_block in range(0, num_blocks, blocks_at_once):
        of_blocks = slice(first_block, first_block + blocks_at_once)
        keys = key[src[of_blocks]].transpose(1, 2)  # [blocks, dim, sources]
        for first_row in range(0, num_rows, rows_at_once):
            of_rows = slice(first_row, first_row + rows_at_once)
            dst = bucket.dst[of_blocks, of_rows]
            tile = memory[: dst.numel() * width].view(*dst.shape, width)
            prefix = None if bucket.prefix is None else bucket.prefix[of_blocks, of_rows]
            read = num_columns
            if prefix is not None and rank is None:
                read = int(prefix.max())  # a causal block's first targets read its first sources only
            tile[..., read:] = -torch.inf
            _multiply(query[dst], keys[..., :read], tile[..., :read])
            if prefix is not None:
                _hide(tile[..., :read], prefix, None if rank is None else rank[of_blocks])
            column = _earliest_best(tile.view(-1, width), num_kept, group).view(*dst.shape, num_kept)
            source = src[of_blocks, None].expand(-1, dst.shape[1], -1).gather(2, column.clamp(max=num_columns - 1))
            edges = torch.stack([source.flatten(), dst[..., None].expand_as(source).flatten()])
            score = tile.gather(2, column).flatten()
            if prefix is not None:
                place = column
                if rank is not None:
                    place = rank[of_blocks, None].expand(-1, dst.shape[1], -1).gather(2, column)
                is_read = (place < prefix[..., None]).flatten()
                edges, score = edges[:, is_read], score[is_read]
            found.append((edges, score))
    return found


def _ascending(bucket: Bucket) -> tuple[Tensor, Tensor | None]:
    """Returns the sources of each block in ascending order, and their places in reading order where that is another.

    Padding, which no row reads, stays at the end.
    """
    if bucket.prefix is None:
        return bucket.src.sort(1).values, None
    num_read = bucket.prefix.amax(1, keepdim=True)
    is_padding = torch.arange(bucket.src.shape[1], device=bucket.src.device) >= num_read
    src = bucket.src.masked_fill(is_padding, torch.iinfo(torch.int64).max)
    if not bool((torch.diff(src, dim=1) < 0).any()):
        return bucket.src, None
    rank = torch.argsort(src, dim=1, stable=True)
    return bucket.src.gather(1, rank), rank


def _multiply(query: Tensor, keys: Tensor, out: Tensor) -> None:
    """Writes query [blocks, rows, dim] · keys [blocks, dim, columns] into a part of a tile."""
    if out.shape[0] > 1:
        out.copy_(torch.bmm(query, keys))
        return
    for start in range(0, out.shape[2], COLUMNS):
        here = slice(start, start + COLUMNS)
        torch.mm(query[0], keys[0, :, here], out=out[0, :, here])


def _hide(tile: Tensor, prefix: Tensor, rank: Tensor | None) -> None:
    """Puts −∞ where a row [blocks, rows] does not read a column of the tile [blocks, rows, columns]."""
    if rank is not None:
        # what is read must rank above what is not, whatever its score
        tile.clamp_(min=torch.finfo(tile.dtype).min).masked_fill_(rank[:, None] >= prefix[..., None], -torch.inf)
        return
    first = int(prefix.min())  # all rows read the columns before it
    column = torch.arange(first, tile.shape[2], device=tile.device)
    tile[..., first:].masked_fill_(column >= prefix[..., None], -torch.inf)


def _group_size(num_columns: int, k: int) -> int:
    """Returns the power of two near √(columns / k), where there are as few maxima as candidates; 1 for no groups."""
    size = 1 << max(0, round((num_columns / k) ** 0.5).bit_length() - 1)
    return size if size >= LEAST_GROUP else 1


def _earliest_best(values: Tensor, k: int, group: int) -> Tensor:
    """Returns the columns of the k largest values of each row, ascending, int64 [num_rows, k]; NaN is the largest.

    Of equal values the first is taken. A value among the k largest lies in one of the k groups of largest maxima.
    """
    if group == 1:
        return _best_columns(values, k)
    groups = values.unflatten(1, (-1, group))  # [num_rows, num_groups, group]
    among = _best_columns(groups.amax(2), k)
    candidates = groups.gather(1, among[..., None].expand(-1, -1, group)).flatten(1)
    best = _best_columns(candidates, k)
    return among.gather(1, torch.div(best, group, rounding_mode="floor")) * group + best % group


def _best_columns(values: Tensor, k: int) -> Tensor:
    """`_earliest_best` without groups."""
    values = values.nan_to_num(nan=torch.inf, posinf=torch.inf, neginf=-torch.inf)
    best, column = values.topk(k, 1, sorted=True)
    least = best[:, -1:]
    is_best = values >= least
    if int(is_best.sum()) == column.numel():
        return column.sort(1).values
    above = values > least
    tied = is_best & ~above
    tied &= torch.cumsum(tied, 1) <= k - above.sum(1, keepdim=True)
    return (above | tied).nonzero()[:, 1].view(-1, k)
