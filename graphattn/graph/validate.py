"""What a graph refuses, and how it says so: the argument, the rule, the value that arrived and the next step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from graphattn.graph import pairs
from graphattn.graph.blocks import Blocks
from graphattn.graph.provenance import shortened
from graphattn.graph.ragged import batch_of, check_ptr

if TYPE_CHECKING:
    from graphattn.graph.attention_graph import AttentionGraph

MAX_ENUMERATED_EDGES = 2**28  # 4 GiB of edge_index; blocks with more pairs stay blocks


def check_size(size: int, name: str) -> None:
    """Raises unless `size` is an int of at least 0."""
    if isinstance(size, bool) or not isinstance(size, int):
        raise TypeError(f"{name} must be an int, got {type(size).__name__}. Pass the number of nodes.")
    if size < 0:
        raise ValueError(f"{name} must not be negative, got {size}. A graph without nodes has 0.")


def check_tensor(value: Tensor, name: str, device: torch.device | None = None) -> None:
    """Raises unless `value` is a tensor, and lies on `device` where one is given."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}. Pass torch.as_tensor({name}).")
    if device is not None and value.device != device:
        raise ValueError(
            f"{name} must be on the device of the graph's edges, {device}, got {value.device}. "
            f"Call {name}.to({str(device)!r}) first."
        )


def plain(edge_index: Tensor) -> Tensor:
    """Returns the tensor inside a PyG `EdgeIndex`, any other tensor as it is."""
    return edge_index.as_tensor() if hasattr(edge_index, "as_tensor") else edge_index


def checked_edges(edge_index: Tensor, num_src_nodes: int, num_dst_nodes: int) -> Tensor:
    """Returns edge_index as a plain tensor, or raises unless it is int64 [2, num_edges] inside the sizes."""
    check_tensor(edge_index, "edge_index")
    edge_index = plain(edge_index)
    if edge_index.dim() != 2 or edge_index.shape[0] != 2:
        raise ValueError(
            f"edge_index must have shape [2, num_edges], got {list(edge_index.shape)}. "
            "If your edges are rows, pass edge_index.t()."
        )
    if edge_index.dtype != torch.int64:
        raise TypeError(
            f"edge_index must have dtype torch.int64, got {edge_index.dtype}. Call edge_index.long() first."
        )
    if num_src_nodes * num_dst_nodes >= 2**62:
        raise ValueError(
            f"num_src_nodes × num_dst_nodes must stay below 2^62, got {num_src_nodes} × {num_dst_nodes}. "
            "Split the graph into batches."
        )
    for row, size, side in ((0, num_src_nodes, "src"), (1, num_dst_nodes, "dst")):
        outside = (edge_index[row] < 0) | (edge_index[row] >= size)
        if bool(outside.any()):
            raise ValueError(
                f"edge_index[{row}] must lie in [0, num_{side}_nodes) = [0, {size}), got "
                f"{int(edge_index[row][outside][0])}. Row 0 holds sources, row 1 targets; check num_{side}_nodes."
            )
    return edge_index


def check_order(edge_index: Tensor, num_src_nodes: int) -> None:
    """Raises unless the columns of `edge_index` rise by (target, source), each once."""
    step = torch.diff(pairs.encode(edge_index, num_src_nodes))
    if bool((step <= 0).any()):
        at = int((step <= 0).nonzero()[0]) + 1
        fault = "repeats an edge" if int(step[at - 1]) == 0 else "is not sorted by (target, source)"
        raise ValueError(
            f"edge_index {fault} at column {at}, {edge_index[:, at].tolist()}. Edges must be sorted by target, "
            "then source, each once: call AttentionGraph.from_edge_index(edge_index, num_nodes), which sorts "
            "and returns the order."
        )


def check_head_mask(head_mask: Tensor, num_edges: int) -> None:
    """Raises unless `head_mask` is bool [num_edges, num_heads]."""
    if head_mask.dtype != torch.bool or head_mask.dim() != 2 or head_mask.shape[0] != num_edges:
        raise ValueError(
            f"head_mask must be bool [num_edges, num_heads] with num_edges = {num_edges}, got {head_mask.dtype} "
            f"{list(head_mask.shape)}. Give one row per column of edge_index."
        )


def checked_ptrs(
    src_ptr: Tensor | None, dst_ptr: Tensor | None, num_src_nodes: int, num_dst_nodes: int
) -> tuple[Tensor | None, Tensor | None]:
    """Returns the node offsets of both sides, one serving both in a square graph, or raises unless they agree."""
    if num_src_nodes == num_dst_nodes:
        src_ptr, dst_ptr = dst_ptr if src_ptr is None else src_ptr, src_ptr if dst_ptr is None else dst_ptr
    if src_ptr is None and dst_ptr is None:
        return None, None
    if src_ptr is None or dst_ptr is None:
        raise ValueError(
            "src_ptr and dst_ptr must be given together for a rectangular graph. Pass both, one offset per graph."
        )
    check_ptr(src_ptr, num_src_nodes, "src_ptr")
    check_ptr(dst_ptr, num_dst_nodes, "dst_ptr")
    if src_ptr.numel() != dst_ptr.numel():
        raise ValueError(
            f"src_ptr and dst_ptr must count the same graphs, got {src_ptr.numel() - 1} and "
            f"{dst_ptr.numel() - 1}. Give an empty graph the same offset twice."
        )
    return src_ptr, dst_ptr


def check_inside_graphs(edges: Tensor, blocks: Blocks | None, src_ptr: Tensor | None, dst_ptr: Tensor | None) -> None:
    """Raises if an edge, or a pair of a block, joins nodes of two graphs of a batch; lists no block."""
    if src_ptr is None or dst_ptr is None or src_ptr.numel() <= 2:  # at most one graph
        return
    of_source, of_target = batch_of(src_ptr), batch_of(dst_ptr)
    for src, dst in (edges, blocks.spanning_pairs()) if blocks is not None else (edges,):
        start, end = of_source.index_select(0, src), of_target.index_select(0, dst)
        crosses = start != end
        if bool(crosses.any()):
            at = int(crosses.nonzero()[0])
            raise ValueError(
                f"edge {[int(src[at]), int(dst[at])]} goes from graph {int(start[at])} to graph {int(end[at])} of the "
                "batch. An edge must join nodes of one graph: build it from the same sizes, or drop src_ptr/dst_ptr."
            )


def check_ends(src: Tensor, dst: Tensor, device: torch.device) -> None:
    """Raises unless `src` and `dst` are int64 of one shape, on `device`."""
    for name, nodes in (("src", src), ("dst", dst)):
        check_tensor(nodes, name, device)
        if nodes.dtype != torch.int64:
            raise TypeError(f"{name} must have dtype torch.int64, got {nodes.dtype}. Call {name}.long() first.")
    if src.shape != dst.shape:
        raise ValueError(
            f"src and dst must have the same shape, got {list(src.shape)} and {list(dst.shape)}. "
            "Pass one source and one target per edge, or torch.broadcast_tensors(src, dst)."
        )


def check_same_nodes(left: AttentionGraph, right: AttentionGraph, operation: str) -> None:
    """Raises unless both graphs have the same sizes and lie on one device."""
    mine, theirs = (left.num_src_nodes, left.num_dst_nodes), (right.num_src_nodes, right.num_dst_nodes)
    if mine != theirs:
        raise ValueError(
            f"{operation} needs graphs over the same nodes, got {mine[0]} sources × {mine[1]} targets and "
            f"{theirs[0]} × {theirs[1]}. Use disjoint_union to put graphs side by side."
        )
    check_one_device([left, right], operation)


def check_one_device(graphs: list[AttentionGraph], operation: str) -> None:
    """Raises unless all graphs lie on one device."""
    devices = list(dict.fromkeys(str(graph.device) for graph in graphs))
    if len(devices) > 1:
        raise ValueError(
            f"{operation} needs graphs on one device, got {' and '.join(devices)}. Call graph.to(device) first."
        )


def refuse_above_limit(num_edges: int, what: str, graph: AttentionGraph) -> None:
    """Raises, with the size in GiB, if `what` would list more than 2^28 edges."""
    if num_edges > MAX_ENUMERATED_EDGES:
        raise ValueError(
            f"{shortened(graph.origin)}: {what} would hold {num_edges:,} edges ({num_edges * 16 / 2**30:,.0f} GiB), "
            f"above the limit of {MAX_ENUMERATED_EDGES:,}. Keep it as blocks, or start from a sparser graph."
        )
