"""The edges that the data bring along: bonds of molecules, links of any PyG graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

from graphattn.graph import AttentionGraph

if TYPE_CHECKING:
    from torch_geometric.data import Data


def bonds(data: Data) -> AttentionGraph:
    r"""Makes a graph of the edges of PyG data, sorted into canonical order.

    E = {(j → i) : (j, i) a column of data.edge_index}, as many as it has columns. Where `data.edge_attr` is used as
    well, call `AttentionGraph.from_data(data)`, which also returns the order that puts `edge_attr` beside the edges.

    Args:
        data: `torch_geometric.data.Data`, or a `Batch` of them, whose graphs stay apart in `src_ptr`.

    Returns:
        AttentionGraph of kind "bond" (or of the kinds that `data` carries, if `to_data` made it), on the data's device.

    Raises:
        TypeError: if `data` has no such thing as an edge_index.
        ValueError: if `edge_index` is missing, lists an edge twice (call `data.coalesce()`) or names a node that is
            not there.

    >>> import torch
    >>> from torch_geometric.data import Data
    >>> bonds(Data(edge_index=torch.tensor([[2, 0, 1], [1, 1, 0]]), num_nodes=3)).edge_index
    tensor([[1, 0, 2],
            [0, 1, 1]])
    """
    if not hasattr(data, "edge_index"):
        raise TypeError(
            f"data must be torch_geometric Data or Batch, got {type(data).__name__}. "
            "For a bare tensor call AttentionGraph.from_edge_index(edge_index, num_nodes)."
        )
    graph, _ = AttentionGraph.from_data(data)
    label = f"{graph.num_graphs} graphs" if graph.num_graphs != 1 else str(graph.num_src_nodes)
    return graph.named(f"bonds({label})")
