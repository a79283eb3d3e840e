"""PyTorch Geometric: `EdgeIndex`, edges in any order, `Data` and `Batch`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from graphattn.graph import pairs
from graphattn.graph.kinds import check_edge_kind, check_kinds, join, rename_bits
from graphattn.graph.plan import Plan, constant_degree, pointers
from graphattn.graph.ragged import batch_of
from graphattn.graph.validate import check_inside_graphs, check_size, check_tensor, checked_edges, plain

if TYPE_CHECKING:
    from torch_geometric import EdgeIndex
    from torch_geometric.data import Data

    from graphattn.graph.attention_graph import AttentionGraph


def to_edge_index(graph: AttentionGraph) -> EdgeIndex:
    """Returns a PyG `EdgeIndex` [2, num_edges], sorted by column (the target), with its pointers from the plan.

    `edge_kind` and `head_mask` are in the same order; `from_edge_index` reads it back with the plan.
    """
    from torch_geometric import EdgeIndex

    plan = graph.enumerate().plan()
    edge_index = EdgeIndex(
        torch.stack([plan.src, plan.dst]), sparse_size=(graph.num_src_nodes, graph.num_dst_nodes), sort_order="col"
    )
    edge_index._indptr = plan.target_ptr
    edge_index._T_perm, edge_index._T_indptr = plan.source_order, plan.source_ptr
    return edge_index


def from_edge_index(
    cls: type[AttentionGraph],
    edge_index: Tensor,
    num_nodes: int | tuple[int, int],
    duplicates: str,
    kinds: Sequence[str],
) -> tuple[AttentionGraph, Tensor]:
    """Returns the graph of edges in any order, and the order that sorts them."""
    if duplicates not in ("error", "first"):
        raise ValueError(f"duplicates must be 'error' or 'first', got {duplicates!r}. Use 'first' to keep one of each.")
    num_src, num_dst = num_nodes if isinstance(num_nodes, tuple) and len(num_nodes) == 2 else (num_nodes, num_nodes)
    check_size(num_src, "num_nodes")
    check_size(num_dst, "num_nodes")
    edges = checked_edges(edge_index, num_src, num_dst)
    keys = pairs.encode(edges, num_src)
    is_sorted = not bool((torch.diff(keys) <= 0).any())
    order = torch.arange(keys.numel(), device=keys.device) if is_sorted else torch.argsort(keys, stable=True)
    if not is_sorted:
        keys = keys[order]
        repeated = torch.diff(keys, prepend=keys.new_full((1,), -1)) == 0
        if bool(repeated.any()):
            if duplicates == "error":
                edge = edges[:, order[int(repeated.nonzero()[0])]].tolist()
                raise ValueError(
                    f"edge_index must list each edge once, got {edge} more than once ({int(repeated.sum())} "
                    "duplicates). Pass duplicates='first' to keep the first of each."
                )
            order = order[~repeated]
    graph = cls.trusted(edges[:, order], num_src, num_dst, kinds=check_kinds(kinds), origin=f"{order.numel()} edges")
    if is_sorted:
        graph.__dict__["_plan"] = plan_of_edge_index(edge_index, num_src, num_dst)
    return graph, order


def plan_of_edge_index(edge_index: Tensor, num_src_nodes: int, num_dst_nodes: int) -> Plan | None:
    """Returns the plan that a canonical PyG `EdgeIndex` has already cached, None where it has not."""
    target_ptr, source_ptr = getattr(edge_index, "_indptr", None), getattr(edge_index, "_T_indptr", None)
    source_order = getattr(edge_index, "_T_perm", None)
    if (
        target_ptr is None
        or source_ptr is None
        or source_order is None
        or not getattr(edge_index, "is_sorted_by_col", False)
    ):
        return None
    if target_ptr.numel() != num_dst_nodes + 1 or source_ptr.numel() != num_src_nodes + 1:
        return None
    src, dst = plain(edge_index)
    source_order = source_order.long()
    # PyG's sort is not stable: its permutation is ours only where the edges of each source stayed in order
    if bool(((torch.diff(src[source_order]) == 0) & (torch.diff(source_order) < 0)).any()):
        source_order = torch.argsort(src, stable=True)
    plan = Plan(
        target_ptr.long(),
        src.contiguous(),
        dst.contiguous(),
        source_ptr.long(),
        source_order,
        None,
        None,
        (),
        True,
        constant_degree(torch.diff(target_ptr).long(), src.numel()),
    )
    return plan.with_ranges().with_windows()


def to_data(graph: AttentionGraph, **fields: Any) -> Data:
    """Returns PyG `Data` of a square graph: edge_index, num_nodes, edge_kind, kinds; in a batch, ptr and batch.

    `fields` (x, edge_attr in the graph's edge order, y, …) are stored as they are.

    Raises:
        ValueError: for a rectangular graph or one with a head_mask, which `Data` cannot say.
    """
    from torch_geometric.data import Data

    if not graph.is_square:
        raise ValueError(
            f"to_data needs a square graph, got {graph.num_src_nodes} sources and {graph.num_dst_nodes} targets. "
            "Use to_edge_index, whose sparse_size keeps both."
        )
    if graph.head_mask is not None:
        raise ValueError("to_data cannot hold a head_mask. Convert graph.of_head(h) for each head, or use save.")
    data = Data(edge_index=graph.edge_index, num_nodes=graph.num_src_nodes, **fields)
    if graph.kinds:
        data.edge_kind, data.kinds = graph.edge_kind, list(graph.kinds)
    if graph.num_graphs != 1:
        data.ptr, data.batch = graph.src_ptr, batch_of(graph.src_ptr)
    return data


def from_data(cls: type[AttentionGraph], data: Data, kind: str = "bond") -> tuple[AttentionGraph, Tensor]:
    """Makes a graph from PyG `Data` or `Batch`; `data.edge_attr[order]` puts features into its order.

    Args:
        data: needs `edge_index`; the `kinds` and `edge_kind` that `to_data` wrote are read back.
        kind: what to call the edges of data without `kinds`.

    Returns:
        graph: the AttentionGraph, a batch where `data` has `ptr` or `batch`.
        order: int64 [num_edges], as `from_edge_index` returns it.

    Raises:
        ValueError: if there is no edge_index, an edge repeats, or `batch` does not ascend.
    """
    num_nodes, ptr = sizes_of_data(data)
    kinds, edge_kind = kinds_of_data(data, kind)
    graph, order = cls.from_edge_index(data.edge_index, num_nodes, kinds=kinds)
    check_inside_graphs(graph.explicit_edges, None, ptr, ptr)
    if edge_kind is not None:
        check_tensor(edge_kind, "data.edge_kind", graph.device)
        edge_kind = check_edge_kind(edge_kind, kinds, graph.num_edges)[order]
    graph.__dict__.update(
        _edge_kind=edge_kind,
        _src_ptr=ptr,
        _dst_ptr=ptr,
        origin=f"from_data({num_nodes} nodes, {graph.num_edges} edges)",
    )
    return graph, order


def sizes_of_data(data: Data) -> tuple[int, Tensor | None]:
    """Returns the number of nodes of PyG `Data` or `Batch`, and its ptr where it has several graphs.

    Raises:
        ValueError: if it has no edge_index, or a `batch` that is not ascending.
    """
    if data.edge_index is None:
        raise ValueError(
            "data must have an edge_index, got none. Set data.edge_index to an int64 tensor [2, num_edges]."
        )
    num_nodes = int(data.num_nodes)
    if getattr(data, "ptr", None) is not None:
        return num_nodes, data.ptr.long()
    batch = getattr(data, "batch", None)
    if batch is None:
        return num_nodes, None
    if batch.numel() and bool((torch.diff(batch) < 0).any()):
        raise ValueError(
            "data.batch must ascend, so that the nodes of a graph stand together. Sort nodes by data.batch first."
        )
    num_graphs = int(batch[-1]) + 1 if batch.numel() else 0
    return num_nodes, pointers(batch, num_graphs)


def kinds_of_data(data: Data, kind: str) -> tuple[tuple[str, ...], Tensor | None]:
    """Returns the kinds and the edge_kind that `to_data` wrote, ((kind,), None) where there are none.

    A `Batch` lists the kinds of each of its graphs; they are joined and the bits renamed.
    """
    if "kinds" not in data or "edge_kind" not in data:
        return (kind,), None
    if all(isinstance(name, str) for name in data.kinds):
        return tuple(data.kinds), data.edge_kind
    kinds: tuple[str, ...] = ()
    for names in data.kinds:
        kinds = join(kinds, tuple(names))
    num_edges = torch.bincount(data.batch[plain(data.edge_index)[1]], minlength=len(data.kinds))
    parts = data.edge_kind.split(num_edges.tolist())
    return kinds, torch.cat([rename_bits(part, tuple(old), kinds) for part, old in zip(parts, data.kinds)])
