"""Conversions between a graph and masks, PyG objects and files. Polarity is in the name; PyG is imported on use."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from graphattn.graph import pairs
from graphattn.graph.blocks import Blocks
from graphattn.graph.kinds import check_edge_kind, check_kinds, join, rename_bits
from graphattn.graph.plan import Plan, constant_degree, pointers
from graphattn.graph.ragged import batch_of
from graphattn.graph.validate import check_inside_graphs, check_size, check_tensor, checked_edges, plain

if TYPE_CHECKING:
    from torch_geometric import EdgeIndex
    from torch_geometric.data import Data

    from graphattn.graph.attention_graph import AttentionGraph

MAX_MASK_PAIRS = 2**30  # 1 GiB of bool
FILE_FORMAT = "graphattn.AttentionGraph.1"


def to_mask(graph: AttentionGraph) -> Tensor:
    """Returns bool [num_dst_nodes, num_src_nodes], or [num_heads, ...] with a head_mask; True = attend.

    Raises:
        ValueError: above 2^30 pairs.
    """
    num_pairs = graph.num_src_nodes * graph.num_dst_nodes
    if num_pairs > MAX_MASK_PAIRS:
        raise ValueError(
            f"a dense mask of {graph.num_dst_nodes} × {graph.num_src_nodes} would take {num_pairs / 2**30:.1f} GiB, "
            "above the limit of 1 GiB. Pass the graph itself to graph_attention, or convert a subgraph."
        )
    src, dst = graph.edge_index
    head_mask = graph.head_mask
    if head_mask is None:
        mask = torch.zeros(graph.num_dst_nodes, graph.num_src_nodes, dtype=torch.bool, device=graph.device)
        mask[dst, src] = True
        return mask
    mask = torch.zeros(
        head_mask.shape[1], graph.num_dst_nodes, graph.num_src_nodes, dtype=torch.bool, device=graph.device
    )
    mask[:, dst, src] = head_mask.T
    return mask


def checked_mask(mask: Tensor) -> Tensor:
    """Returns a bool mask [num_dst_nodes, num_src_nodes] or [num_heads, ...] unchanged, or raises."""
    if mask.dtype != torch.bool:
        raise TypeError(
            f"mask must have dtype torch.bool, got {mask.dtype}. Say which value means attend: mask == 1, mask > -inf."
        )
    if mask.dim() not in (2, 3):
        raise ValueError(
            f"mask must have shape [num_dst_nodes, num_src_nodes] or [num_heads, ...], got {list(mask.shape)}. "
            "Convert the masks of a batch one by one and join them with disjoint_union."
        )
    return mask


def from_mask(cls: type[AttentionGraph], mask: Tensor) -> AttentionGraph:
    """Returns the graph of a dense mask, True = attend; a third dimension becomes the head_mask."""
    union = checked_mask(mask) if mask.dim() == 2 else checked_mask(mask).any(0)
    dst, src = union.nonzero(as_tuple=True)
    return cls.trusted(
        torch.stack([src, dst]),
        mask.shape[-1],
        mask.shape[-2],
        head_mask=None if mask.dim() == 2 else mask[:, dst, src].T.contiguous(),
        origin=f"from_mask({' × '.join(map(str, mask.shape))})",
    )


def to_edge_index(graph: AttentionGraph) -> EdgeIndex:
    """Returns a PyG `EdgeIndex` [2, num_edges], sorted by target, with its CSC and CSR pointers from the plan."""
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
    return plan.with_ranges()


def to_data(graph: AttentionGraph, **fields: Any) -> Data:
    """Returns PyG `Data`; `fields` (x, edge_attr in the graph's edge order, y, …) are stored as they are.

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
        raise ValueError("to_data cannot hold a head_mask. Convert one head's graph at a time, or use save.")
    data = Data(edge_index=graph.edge_index, num_nodes=graph.num_src_nodes, **fields)
    if graph.kinds:
        data.edge_kind, data.kinds = graph.edge_kind, list(graph.kinds)
    if graph.num_graphs != 1:
        data.ptr, data.batch = graph.src_ptr, batch_of(graph.src_ptr)
    return data


def from_data(cls: type[AttentionGraph], data: Data, kind: str) -> tuple[AttentionGraph, Tensor]:
    """Returns the graph of PyG `Data` or `Batch`, and the order of its edges."""
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


def save(graph: AttentionGraph, path: str | os.PathLike[str]) -> None:
    """Writes a graph to one safetensors file, through a temporary name so that a killed process leaves no half file."""
    from safetensors.torch import save_file

    tensors = {"edge_index": graph.explicit_edges}
    for name, tensor in (
        ("edge_kind", graph._edge_kind),
        ("head_mask", graph._head_mask),
        ("src_ptr", graph._src_ptr),
        ("dst_ptr", graph._dst_ptr),
    ):
        if tensor is not None:
            tensors[name] = tensor
    if graph.blocks is not None:
        tensors |= {f"blocks.{name}": tensor for name, tensor in graph.blocks._asdict().items()}
    header = {
        "format": FILE_FORMAT,
        "num_src_nodes": str(graph.num_src_nodes),
        "num_dst_nodes": str(graph.num_dst_nodes),
        "kinds": json.dumps(graph.kinds),
        "origin": graph.origin,
    }
    unfinished = f"{os.fspath(path)}.{os.getpid()}.part"
    try:
        # clones: safetensors refuses tensors that share storage, as src_ptr and dst_ptr of a square graph do
        save_file(
            {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()},
            unfinished,
            metadata=header,
        )
        os.replace(unfinished, path)
    finally:
        if os.path.exists(unfinished):
            os.unlink(unfinished)


def load(cls: type[AttentionGraph], path: str | os.PathLike[str]) -> AttentionGraph:
    """Returns the graph of a file written by `save`, checked as the constructor checks its arguments."""
    fields, kinds, sizes, origin = _read(path)
    blocks = Blocks(*(fields[f"blocks.{name}"] for name in Blocks._fields)) if "blocks.dst" in fields else None
    try:
        graph = cls(
            fields["edge_index"],
            *sizes,
            blocks=blocks,
            edge_kind=fields.get("edge_kind"),
            kinds=kinds,
            src_ptr=fields.get("src_ptr"),
            dst_ptr=fields.get("dst_ptr"),
            head_mask=fields.get("head_mask"),
        )
    except (TypeError, ValueError) as error:
        raise ValueError(f"{os.fspath(path)} is damaged ({error}). Save the graph again.") from error
    return graph.named(origin)


def _read(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], tuple[str, ...], tuple[int, int], str]:
    """Returns (tensors by name, kinds, (num_src_nodes, num_dst_nodes), origin) of a file written by `save`."""
    from safetensors import SafetensorError, safe_open

    if not os.path.isfile(path):
        raise FileNotFoundError(f"no such file: {os.fspath(path)}. Write one with graph.save(path).")
    try:
        with safe_open(os.fspath(path), framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except SafetensorError as error:
        raise ValueError(
            f"{os.fspath(path)} is not a readable safetensors file ({error}). Save the graph again."
        ) from error
    if header.get("format") != FILE_FORMAT:
        raise ValueError(
            f"{os.fspath(path)} must be a graph of format {FILE_FORMAT}, got {header.get('format')!r}. "
            "Write it with AttentionGraph.save."
        )
    needed = {"edge_index"} | ({f"blocks.{name}" for name in Blocks._fields} if "blocks.dst" in tensors else set())
    if missing := needed - tensors.keys():
        raise ValueError(f"{os.fspath(path)} lacks {sorted(missing)}. Save the graph again.")
    try:
        sizes = int(header["num_src_nodes"]), int(header["num_dst_nodes"])
        return tensors, tuple(json.loads(header["kinds"])), sizes, header["origin"]
    except (KeyError, ValueError) as error:
        raise ValueError(f"{os.fspath(path)} has a damaged header ({error!r}). Save the graph again.") from error
