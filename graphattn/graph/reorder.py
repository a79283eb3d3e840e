"""Orders of the nodes that bring edges together, so that they fill fewer tiles of a block-sparse kernel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from graphattn.graph.cells import num_tiles
from graphattn.graph.curves import hilbert, morton
from graphattn.graph.provenance import grouped
from graphattn.graph.ragged import batch_of
from graphattn.graph.summary import in_degrees
from graphattn.graph.validate import check_tensor

if TYPE_CHECKING:
    from graphattn.graph.attention_graph import AttentionGraph

METHODS = ("rcm", "morton", "hilbert", "degree")
CURVES = {"morton": morton, "hilbert": hilbert}
MAX_BITS = 62  # of a place on a curve, all axes together


@dataclass(frozen=True)
class Reordering:
    """A graph under another order of its nodes, and the tiles of block_size × block_size that hold an edge."""

    order: Tensor  # [num_nodes] int64; new node k is old node order[k]: pass x[order]
    graph: AttentionGraph
    num_blocks_before: int
    num_blocks_after: int

    @property
    def inverse(self) -> Tensor:
        """int64 [num_nodes]; `out[inverse]` puts the output of attention back into the old order."""
        inverse = torch.empty_like(self.order)
        inverse[self.order] = torch.arange(self.order.numel(), device=self.order.device)
        return inverse

    def edge_order(self, of: AttentionGraph) -> Tensor:
        """Returns int64 [num_edges]; `edge_attr[edge_order]` puts features of the edges of `of`, the graph before,
        beside the edges of `graph`."""
        src, dst = self.graph.edge_index
        return of.find(self.order[src], self.order[dst])


def reorder(
    graph: AttentionGraph,
    method: str,
    *,
    shape: Sequence[int] | Tensor | None = None,
    positions: Tensor | None = None,
    block_size: int = 128,
) -> Reordering:
    """Reorders the nodes of each graph, never across graphs of a batch, and counts tiles before and after.

    Attention on `graph` with `query[order]`, `key[order]` and `value[order]` is that on the graph before, `out[order]`.

    - "rcm": reverse Cuthill-McKee of the edges, both directions taken together; lists the blocks.
    - "morton", "hilbert": along a curve through space, for nodes that have a place in it.
    - "degree": nodes of many edges (in- plus out-degree) first, so that hubs stand together.

    Args:
        graph: a square graph.
        method: one of the above.
        shape: for the curves, the length of each axis of a grid whose cells are the nodes in row-major order; for a
            batch of grids int64 [num_graphs, num_axes].
        positions: for the curves instead of `shape`, [num_nodes, num_axes], finite. Each graph of a batch is scaled by
            its longest side, and positions are rounded to 62 / num_axes bits, at most 20.
        block_size: side of the tiles that are counted.

    Raises:
        ValueError: if the graph is rectangular, the method unknown, a curve has neither or both of `shape` and
            `positions`, or they do not fit the nodes.

    Source: Cuthill and McKee 1969 (Reducing the bandwidth of sparse symmetric matrices), reversed as in George 1971, by
    scipy. Morton 1966 and Hilbert 1891 for the curves.

    >>> from graphattn.graph import AttentionGraph
    >>> far = AttentionGraph(torch.tensor([[0, 3, 1, 2, 1, 2, 0, 3], [0, 0, 1, 1, 2, 2, 3, 3]]), num_src_nodes=4)
    >>> found = reorder(far, "rcm", block_size=2)
    >>> found.num_blocks_before, found.num_blocks_after
    (4, 2)
    """
    if not graph.is_square:
        raise ValueError(
            f"reorder needs a square graph, got {graph.num_src_nodes} sources and {graph.num_dst_nodes} targets. "
            "Call permute(order, dst_order) with orders of your own for a rectangular one."
        )
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(map(repr, METHODS))}, got {method!r}. Try 'rcm'.")
    if isinstance(block_size, bool) or not isinstance(block_size, int) or block_size < 1:
        raise ValueError(f"block_size must be an int of at least 1, got {block_size!r}. FlexAttention's is 128.")
    if method in CURVES:
        order = torch.argsort(_places(graph, method, shape, positions), stable=True)
    elif shape is not None or positions is not None:
        raise ValueError(f"method={method!r} takes neither shape nor positions. Leave them out, or use 'hilbert'.")
    elif method == "rcm":
        order = _cuthill_mckee(graph)
    else:
        order = torch.argsort(in_degrees(graph) + in_degrees(graph.T), stable=True, descending=True)
    if graph.num_graphs != 1:
        order = order[torch.argsort(batch_of(graph.src_ptr)[order], stable=True)]
    moved = graph.permute(order).named(f"{grouped(graph.origin, '.')}.reorder({method!r})")
    return Reordering(order, moved, num_tiles(graph, block_size)[0], num_tiles(moved, block_size)[0])


def _cuthill_mckee(graph: AttentionGraph) -> Tensor:
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import reverse_cuthill_mckee

    num_nodes = graph.num_src_nodes
    if not num_nodes:
        return torch.arange(0, device=graph.device)
    src, dst = graph.edge_index.cpu().numpy()
    ones = torch.ones(src.size, dtype=torch.int8).numpy()
    matrix = csr_array((ones, (dst, src)), shape=(num_nodes, num_nodes))
    order = reverse_cuthill_mckee((matrix + matrix.T).tocsr(), symmetric_mode=True)
    return torch.from_numpy(order.astype("int64")).to(graph.device)


def _places(
    graph: AttentionGraph, curve: str, shape: Sequence[int] | Tensor | None, positions: Tensor | None
) -> Tensor:
    if (shape is None) == (positions is None):
        raise ValueError(
            f"method={curve!r} needs either shape or positions, got {'none' if shape is None else 'both'}. "
            "Pass shape=(height, width) for a grid, or positions [num_nodes, num_axes]."
        )
    coordinates = _of_grid(graph, shape) if positions is None else _of_positions(graph, positions)
    longest = int(coordinates.max()) if coordinates.numel() else 0
    num_bits = max(longest.bit_length(), 1)
    if num_bits * coordinates.shape[1] > MAX_BITS:
        raise ValueError(
            f"shape must need at most {MAX_BITS} bits for a place on the curve, got {num_bits} for each of "
            f"{coordinates.shape[1]} axes. Merge short axes into one."
        )
    return CURVES[curve](coordinates, num_bits)


def _of_grid(graph: AttentionGraph, shape: Sequence[int] | Tensor | None) -> Tensor:
    """Returns the cell of each node in a row-major grid, [num_nodes, num_axes]."""
    lengths = torch.as_tensor(shape, device=graph.device)
    if lengths.is_floating_point() or lengths.dim() not in (1, 2) or not lengths.shape[-1]:
        raise ValueError(
            f"shape must hold ints, one per axis, or be int64 [num_graphs, num_axes], got {lengths.dtype} "
            f"{list(lengths.shape)}. Pass shape=(height, width)."
        )
    lengths = lengths.long().expand(graph.num_graphs, -1) if lengths.dim() == 1 else lengths.long()
    size = torch.diff(graph.src_ptr)
    if lengths.shape[0] != graph.num_graphs or bool((lengths < 0).any()) or bool((lengths.prod(1) != size).any()):
        raise ValueError(
            f"shape must multiply to the nodes of each graph, {size[:8].tolist()}, got {lengths[:8].tolist()}. "
            "Nodes that are no cell of a grid need positions."
        )
    batch = batch_of(graph.src_ptr)
    rest = torch.arange(graph.num_src_nodes, device=graph.device) - graph.src_ptr[batch]
    cell = torch.empty(graph.num_src_nodes, lengths.shape[1], dtype=torch.int64, device=graph.device)
    for axis in reversed(range(lengths.shape[1])):
        length = lengths[batch, axis]
        cell[:, axis] = rest % length
        rest = torch.div(rest, length, rounding_mode="floor")
    return cell


def _of_positions(graph: AttentionGraph, positions: Tensor) -> Tensor:
    """Returns positions rounded to a cube around each graph, int64 [num_nodes, num_axes]."""
    check_tensor(positions, "positions", graph.device)
    if positions.dim() != 2 or positions.shape[0] != graph.num_src_nodes or not 1 <= positions.shape[1] <= MAX_BITS:
        raise ValueError(
            f"positions must have shape [num_nodes, num_axes] = [{graph.num_src_nodes}, 1 … {MAX_BITS}], got "
            f"{list(positions.shape)}. Give one row per node."
        )
    exact = positions.double()
    if not bool(torch.isfinite(exact).all()):
        raise ValueError("positions must be finite, got NaN or infinity. Leave such nodes out, or place them.")
    batch = batch_of(graph.src_ptr)
    index = batch[:, None].expand_as(exact)
    start = exact.new_zeros(graph.num_graphs, exact.shape[1])
    low = start.scatter_reduce(0, index, exact, "amin", include_self=False)
    side = (start.scatter_reduce(0, index, exact, "amax", include_self=False) - low).amax(1)
    cells = 2 ** min(MAX_BITS // exact.shape[1], 20) - 1
    scaled = (exact - low[batch]) / side.where(side > 0, 1.0)[batch, None] * cells
    return scaled.round().long()
