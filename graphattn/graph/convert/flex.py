"""FlexAttention: a graph as `BlockMask` or `mask_mod`, exact to the edge, and back.

A batch is one packed sequence there (B = 1), its graphs side by side; heads that differ make H > 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from graphattn.graph.blocks import Blocks, bicliques
from graphattn.graph.convert.runs import Runs, runs_of
from graphattn.graph.plan import pointers
from graphattn.graph.validate import MAX_ENUMERATED_EDGES, check_size

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

    from graphattn.graph.attention_graph import AttentionGraph

MAX_TILES = 2**27  # four int32 tables of as many entries: 2 GiB
MAX_EVALUATED_PAIRS = 2**32  # of a mask_mod, which must be asked about every pair
PAIRS_AT_ONCE = 2**22
MaskFunction = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


class MaskMod:
    """Answers `mask_mod(b, h, q_idx, kv_idx)` for a graph by searching the runs of sources of target q_idx.

    It holds tensors of O(edges), O(targets) where each reads one run, and can be pickled, traced and called under vmap
    or with index tensors of any shapes that broadcast. `b` is not read; `h` is where heads differ. Nodes outside the
    graph attend to nothing.
    """

    def __init__(self, runs: Runs, num_src_nodes: int, num_dst_nodes: int, num_heads: int | None):
        """Keeps the runs of every head, of one for all where `num_heads` is None."""
        ptr = pointers(runs.row, num_dst_nodes * (num_heads or 1))
        most = int(torch.diff(ptr).max()) if ptr.numel() > 1 else 0
        is_short = max(runs.row.numel(), num_src_nodes, ptr.numel()) < 2**31
        dtype = torch.int32 if is_short else torch.int64
        self.ptr = ptr.to(dtype)  # [num_heads · num_dst_nodes + 1]
        # one more entry, for rows without runs to look at
        self.start = torch.cat([runs.start, runs.start.new_zeros(1)]).to(dtype)
        self.end = torch.cat([runs.end, runs.end.new_zeros(1)]).to(dtype)
        self.num_src_nodes, self.num_dst_nodes, self.num_heads = num_src_nodes, num_dst_nodes, num_heads
        self.steps = [1 << bit for bit in reversed(range(most.bit_length()))]

    def __call__(self, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        inside = (q_idx < self.num_dst_nodes) & (kv_idx < self.num_src_nodes)
        row = torch.where(inside, q_idx, 0)
        if self.num_heads is not None:
            row = row + h * self.num_dst_nodes
        first, stop = self.ptr[row], self.ptr[row + 1]
        last = first - 1  # the last run that starts at kv_idx or before it, found by doubling steps
        for step in self.steps:
            probe = last + step
            is_within = probe < stop
            starts_before = self.start[torch.where(is_within, probe, 0)] <= kv_idx
            last = torch.where(is_within & starts_before, probe, last)
        is_found = last >= first
        return inside & is_found & (kv_idx < self.end[torch.where(is_found, last, 0)])

    def __repr__(self) -> str:
        heads = "" if self.num_heads is None else f", {self.num_heads} heads"
        return f"MaskMod({self.num_dst_nodes} targets × {self.num_src_nodes} sources{heads})"


def to_mask_mod(graph: AttentionGraph) -> MaskMod:
    """Returns the graph as a callable `mask_mod(b, h, q_idx, kv_idx) -> bool`, True = attend, on the graph's device.

    Raises:
        ValueError: for a graph without nodes on a side, which has no index to ask about.

    >>> from graphattn.graph import AttentionGraph
    >>> mask_mod = AttentionGraph(torch.tensor([[0, 1], [0, 0]]), num_src_nodes=2).to_mask_mod()
    >>> mask_mod(0, 0, torch.tensor([[0], [1]]), torch.tensor([0, 1]))
    tensor([[ True,  True],
            [False, False]])
    """
    _refuse_no_nodes(graph, "to_mask_mod")
    num_heads = None if graph._head_mask is None else graph._head_mask.shape[1]
    return MaskMod(runs_of(graph), graph.num_src_nodes, graph.num_dst_nodes, num_heads)


def from_mask_mod(
    cls: type[AttentionGraph],
    mask_mod: MaskFunction,
    num_src_nodes: int,
    num_dst_nodes: int | None = None,
    *,
    num_graphs: int = 1,
    num_heads: int = 1,
    device: torch.device | str = "cpu",
) -> AttentionGraph:
    """Returns the graph of a FlexAttention `mask_mod`, True = attend, by asking about every pair, some rows at a time.

    Time grows with all pairs, memory with the edges. A builder with `keep(rule)` asks about its edges only.

    Args:
        mask_mod: (b, h, q_idx, kv_idx) -> bool, called with int64 tensors [n].
        num_src_nodes: KV_LEN, sources of each graph.
        num_dst_nodes: Q_LEN, targets of each graph; None for as many as sources.
        num_graphs: B; several become a batch.
        num_heads: H; several become the head_mask.
        device: where to ask, and where the graph is.

    Raises:
        ValueError: above 2^32 pairs, or if `mask_mod` returns another shape or dtype.

    >>> from graphattn.graph import AttentionGraph
    >>> AttentionGraph.from_mask_mod(lambda b, h, q_idx, kv_idx: q_idx >= kv_idx, 3).num_edges
    6
    """
    num_dst_nodes = num_src_nodes if num_dst_nodes is None else num_dst_nodes
    sizes = {"num_src_nodes": num_src_nodes, "num_dst_nodes": num_dst_nodes}
    for name, size in (sizes | {"num_graphs": num_graphs, "num_heads": num_heads}).items():
        check_size(size, name)
    num_rows = num_graphs * num_heads * num_dst_nodes
    if num_rows * num_src_nodes > MAX_EVALUATED_PAIRS:
        raise ValueError(
            f"a mask_mod over {num_rows:,} rows × {num_src_nodes:,} sources must be asked about "
            f"{num_rows * num_src_nodes:,} pairs, above the limit of {MAX_EVALUATED_PAIRS:,}. Build the graph with "
            "graphattn.connectivity and keep(rule), or convert a BlockMask with from_block_mask."
        )
    kv = torch.arange(num_src_nodes, device=device)
    found = _Found()
    rows_at_once = max(PAIRS_AT_ONCE // max(num_src_nodes, 1), 1)
    for start in range(0, num_rows if num_src_nodes else 0, rows_at_once):
        row = torch.arange(start, min(start + rows_at_once, num_rows), device=device)
        b = torch.div(row, num_heads * num_dst_nodes, rounding_mode="floor")
        h = torch.div(row, num_dst_nodes, rounding_mode="floor") - b * num_heads
        b, h, q = (x.repeat_interleave(num_src_nodes) for x in (b, h, row % num_dst_nodes))
        found.ask(mask_mod, b, h, q, kv.repeat(row.numel()))
    name = getattr(mask_mod, "__name__", type(mask_mod).__name__)
    return found.graph(cls, (num_graphs, num_heads, num_dst_nodes, num_src_nodes), f"from_mask_mod({name})", device)


def to_block_mask(graph: AttentionGraph, block_size: int | tuple[int, int] = 128) -> BlockMask:
    """Returns FlexAttention's `BlockMask`, equal to `create_block_mask` of the same pairs, made from edges.

    Takes O(edges + tiles); create_block_mask takes all pairs. The mask_mod inside is a `MaskMod` and pickles with it.
    `BlockMask.to` does not move a mask_mod: move the graph first.

    Args:
        graph: a batch becomes one packed sequence, B = 1; H is 1, or num_heads with a head_mask.
        block_size: nodes on a side of a tile, or (targets, sources).

    Raises:
        TypeError, ValueError: if `block_size` is no positive int or pair of them; above 2^27 tiles; for a graph without
            nodes on a side.

    Source: the lists of partial and full tiles are those of `torch.nn.attention.flex_attention.BlockMask`.

    >>> from graphattn.graph import AttentionGraph
    >>> AttentionGraph(torch.tensor([[0, 1], [0, 200]]), num_src_nodes=300).to_block_mask().kv_num_blocks
    tensor([[[1, 1, 0]]], dtype=torch.int32)
    """
    from torch.nn.attention.flex_attention import BlockMask

    _refuse_no_nodes(graph, "to_block_mask")
    tall, wide = checked_block_size(block_size)
    runs = runs_of(graph)
    num_heads = None if graph._head_mask is None else graph._head_mask.shape[1]
    count = _edges_per_tile(runs, graph, num_heads or 1, tall, wide)
    is_full = count == tall * wide
    partial, full = _ordered((count > 0) & ~is_full), _ordered(is_full)
    return BlockMask.from_kv_blocks(
        *partial,
        *full,
        BLOCK_SIZE=(tall, wide),
        mask_mod=MaskMod(runs, graph.num_src_nodes, graph.num_dst_nodes, num_heads),
        seq_lengths=(graph.num_dst_nodes, graph.num_src_nodes),
    )


def from_block_mask(cls: type[AttentionGraph], block_mask: BlockMask) -> AttentionGraph:
    """Returns the graph of a FlexAttention `BlockMask`: partial tiles ask its mask_mod, full tiles attend everywhere.

    Full tiles stay blocks where there is one head. B > 1 becomes a batch, H > 1 the head_mask.

    Raises:
        TypeError: if it is no BlockMask.
        ValueError: if it lists a tile twice or outside its lengths, its mask_mod returns another shape or dtype, or the
            edges are more than 2^28.

    >>> from torch.nn.attention.flex_attention import create_block_mask
    >>> from graphattn.graph import AttentionGraph
    >>> block_mask = create_block_mask(lambda b, h, q, kv: q >= kv, None, None, 300, 300, device="cpu")
    >>> AttentionGraph.from_block_mask(block_mask).num_edges   # 300 · 301 / 2
    45150
    """
    from torch.nn.attention.flex_attention import BlockMask

    if not isinstance(block_mask, BlockMask):
        raise TypeError(
            f"block_mask must be a torch BlockMask, got {type(block_mask).__name__}. Use from_mask_mod for a mask_mod."
        )
    num_graphs, num_heads = block_mask.kv_num_blocks.shape[:2]
    num_dst, num_src = block_mask.seq_lengths
    tall, wide = block_mask.BLOCK_SIZE
    partial = _tiles(block_mask.kv_num_blocks, block_mask.kv_indices)
    full = partial[:, :0]
    if block_mask.full_kv_num_blocks is not None and block_mask.full_kv_indices is not None:
        full = _tiles(block_mask.full_kv_num_blocks, block_mask.full_kv_indices)
    _check_tiles(torch.cat([partial, full], 1), num_dst, num_src, tall, wide)
    found = _Found()
    for b, h, q, kv in _pairs_of_tiles(partial, num_dst, num_src, tall, wide):
        found.ask(block_mask.mask_mod, b, h, q, kv)
    blocks = None
    if num_heads == 1:
        blocks = _blocks_of_tiles(full, num_dst, num_src, tall, wide)
    else:
        for b, h, q, kv in _pairs_of_tiles(full, num_dst, num_src, tall, wide):
            found.add(b, h, q, kv)
    origin = f"from_block_mask({num_dst} × {num_src} in {tall} × {wide})"
    shape = (num_graphs, num_heads, num_dst, num_src)
    return found.graph(cls, shape, origin, block_mask.kv_indices.device, blocks)


def checked_block_size(block_size: int | tuple[int, int]) -> tuple[int, int]:
    """Returns (targets, sources) of a tile, or raises."""
    pair = block_size if isinstance(block_size, tuple) and len(block_size) == 2 else (block_size, block_size)
    for size in pair:
        if isinstance(size, bool) or not isinstance(size, int):
            raise TypeError(
                f"block_size must be an int or a pair of ints (targets, sources), got {block_size!r}. Pass 128."
            )
        if size < 1:
            raise ValueError(f"block_size must be at least 1, got {block_size}. FlexAttention's own is 128.")
    return pair  # type: ignore[return-value]


class _Found:
    """Collects the pairs that attend, tile by tile or row by row."""

    def __init__(self) -> None:
        self.parts: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        self.num_pairs = 0

    def ask(self, mask_mod: MaskFunction, b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> None:
        attends = mask_mod(b, h, q, kv)
        is_tensor = isinstance(attends, Tensor)
        if not is_tensor or attends.dtype != torch.bool or attends.shape not in (q.shape, torch.Size([])):
            got = f"{attends.dtype} {list(attends.shape)}" if is_tensor else type(attends).__name__
            raise ValueError(
                f"mask_mod must return a bool tensor of the shape of its arguments, {list(q.shape)}, got {got}. "
                "It takes (b, h, q_idx, kv_idx) element by element and answers True to attend."
            )
        chosen = attends.expand(q.shape).nonzero()[:, 0]
        self.add(b[chosen], h[chosen], q[chosen], kv[chosen])

    def add(self, b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> None:
        self.num_pairs += q.numel()
        if self.num_pairs > MAX_ENUMERATED_EDGES:
            raise ValueError(
                f"the mask holds more than {MAX_ENUMERATED_EDGES:,} edges outside blocks "
                f"({MAX_ENUMERATED_EDGES * 16 / 2**30:g} GiB). Build it with graphattn.connectivity, which keeps full "
                "attention as blocks."
            )
        self.parts.append((b, h, q, kv))

    def graph(
        self,
        cls: type[AttentionGraph],
        shape: tuple[int, int, int, int],
        origin: str,
        device: torch.device | str,
        blocks: Blocks | None = None,
    ) -> AttentionGraph:
        num_graphs, num_heads, num_dst, num_src = shape
        none = torch.empty(0, dtype=torch.int64, device=device)
        b, h, q, kv = (torch.cat(fields) for fields in zip(*self.parts)) if self.parts else (none,) * 4
        all_src, all_dst = num_graphs * num_src, num_graphs * num_dst
        keys = (b * num_dst + q) * all_src + b * num_src + kv
        head_mask = None
        if num_heads == 1:
            keys = keys.sort().values
        else:
            keys, place = torch.unique(keys, return_inverse=True)
            head_mask = torch.zeros(keys.numel(), num_heads, dtype=torch.bool, device=device)
            head_mask[place, h] = True
        dst = torch.div(keys, max(all_src, 1), rounding_mode="floor")
        graph_number = torch.arange(num_graphs + 1, device=device)
        return cls.trusted(
            torch.stack([keys - dst * all_src, dst]),
            all_src,
            all_dst,
            blocks=blocks,
            src_ptr=graph_number * num_src if num_graphs != 1 else None,
            dst_ptr=graph_number * num_dst if num_graphs != 1 else None,
            head_mask=head_mask,
            origin=origin,
        )


def _edges_per_tile(runs: Runs, graph: AttentionGraph, num_heads: int, tall: int, wide: int) -> Tensor:
    """Counts edges in each tile, int64 [1, num_heads, target tiles, source tiles], in O(runs + tiles)."""
    rows, columns = -(-graph.num_dst_nodes // tall), -(-graph.num_src_nodes // wide)
    if num_heads * rows * columns > MAX_TILES:
        raise ValueError(
            f"a BlockMask of {num_heads} × {rows:,} × {columns:,} tiles would take "
            f"{num_heads * rows * columns * 16 / 2**30:,.1f} GiB, above the limit of {MAX_TILES * 16 / 2**30:g} GiB. "
            "Pass a larger block_size, or the graph itself to graph_attention."
        )
    if num_heads == 1:
        row = torch.div(runs.row, tall, rounding_mode="floor")
    else:
        head = torch.div(runs.row, graph.num_dst_nodes, rounding_mode="floor")
        row = head * rows + torch.div(runs.row - head * graph.num_dst_nodes, tall, rounding_mode="floor")
    low, high = (torch.div(node, wide, rounding_mode="floor") for node in (runs.start, runs.end - 1))
    count = torch.zeros(num_heads * rows * columns, dtype=torch.int64, device=graph.device)
    # A run counts with its whole length in its first tile, less what reaches beyond it …
    count.index_add_(0, row * columns + low, torch.minimum(runs.end, (low + 1) * wide) - runs.start)
    reaches = (high > low).nonzero()[:, 0]
    if reaches.numel():
        row, low, high, end = row[reaches], low[reaches], high[reaches], runs.end[reaches]
        count.index_add_(0, row * columns + high, end - high * wide)
        # … and fills the tiles between, which a running sum of +wide and −wide lays down.
        change = torch.zeros_like(count)
        between = torch.full_like(low, wide)
        change.index_add_(0, row * columns + low + 1, between)
        change.index_add_(0, row * columns + high, -between)
        count += torch.cumsum(change, 0)
    return count.view(1, num_heads, rows, columns)


def _ordered(table: Tensor) -> tuple[Tensor, Tensor]:
    """Returns how many tiles of each row are marked, and their columns, those marked first, each part ascending."""
    marked = torch.cumsum(table, -1)
    num_marked = marked[..., -1]
    column = torch.arange(table.shape[-1], device=table.device)
    place = torch.where(table, marked - 1, num_marked[..., None] + column - marked)
    indices = torch.empty_like(place, dtype=torch.int32)
    indices.scatter_(-1, place, column.to(torch.int32).expand_as(place))
    return num_marked.to(torch.int32), indices


def _tiles(num_blocks: Tensor, indices: Tensor) -> Tensor:
    """Lists the tiles of a BlockMask, int64 [4, num_tiles]: graph, head, row and column of tiles."""
    slot = torch.arange(indices.shape[-1], device=indices.device)
    b, h, row, place = (slot < num_blocks[..., None]).nonzero(as_tuple=True)
    return torch.stack([b, h, row, indices[b, h, row, place].long()])


def _check_tiles(tiles: Tensor, num_dst: int, num_src: int, tall: int, wide: int) -> None:
    outside = (tiles[2] * tall >= num_dst) | (tiles[3] * wide >= num_src) | (tiles < 0).any(0)
    if bool(outside.any()):
        b, h, row, column = tiles[:, outside][:, 0].tolist()
        raise ValueError(
            f"block_mask lists tile ({row}, {column}) of graph {b}, head {h}, outside its {num_dst} × {num_src} pairs. "
            "Make it with create_block_mask, or give from_kv_blocks its seq_lengths."
        )
    if torch.unique(tiles, dim=1).shape[1] != tiles.shape[1]:
        raise ValueError(
            "block_mask lists a tile twice, as partial and as full or in one row. Make it with create_block_mask."
        )


def _pairs_of_tiles(tiles: Tensor, num_dst: int, num_src: int, tall: int, wide: int) -> Iterator[tuple[Tensor, ...]]:
    """Yields graph, head, target and source of every pair of the tiles, some tiles at a time."""
    for part in tiles.split(max(PAIRS_AT_ONCE // (tall * wide), 1), 1):
        b, h, row, column = part[:, :, None, None]
        q = row * tall + torch.arange(tall, device=tiles.device)[:, None]
        kv = column * wide + torch.arange(wide, device=tiles.device)
        inside = (q < num_dst) & (kv < num_src)
        yield tuple(x.expand_as(inside)[inside] for x in (b, h, q, kv))


def _blocks_of_tiles(tiles: Tensor, num_dst: int, num_src: int, tall: int, wide: int) -> Blocks | None:
    """Returns a block for each row of tiles that holds some: its targets × the sources of all of them."""
    if not tiles.numel():
        return None
    b, _, row, column = tiles
    groups, group = torch.unique(torch.stack([b, row]), dim=1, return_inverse=True)
    order = torch.argsort(group * (-(-num_src // wide)) + column)
    (of_dst, dst), (of_src, src) = (
        _nodes_of_tiles(graph, tile, size, length)
        for graph, tile, size, length in (
            (groups[0], groups[1], tall, num_dst),
            (b[order], column[order], wide, num_src),
        )
    )
    num_groups = groups.shape[1]
    return bicliques(pointers(of_dst, num_groups), dst, pointers(group[order][of_src], num_groups), src)


def _nodes_of_tiles(graph: Tensor, tile: Tensor, size: int, length: int) -> tuple[Tensor, Tensor]:
    """Lists the nodes of each tile along one side: which tile, and the id in the batch."""
    node = tile[:, None] * size + torch.arange(size, device=tile.device)
    which, place = (node < length).nonzero(as_tuple=True)
    return which, node[which, place] + graph[which] * length


def _refuse_no_nodes(graph: AttentionGraph, method: str) -> None:
    if not graph.num_src_nodes or not graph.num_dst_nodes:
        raise ValueError(
            f"{method} needs a target and a source, got {graph.num_dst_nodes} targets and {graph.num_src_nodes} "
            "sources. Leave empty graphs out of the batch."
        )
