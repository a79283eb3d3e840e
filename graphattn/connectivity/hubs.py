"""Global tokens: a few tokens that read everything and that everything reads."""

from collections.abc import Sequence

import torch
from torch import Tensor

from graphattn.connectivity._nodes import Nodes, two_sides
from graphattn.connectivity._ranges import edges_of_ranges
from graphattn.graph import AttentionGraph, Sizes, batch_of


def global_tokens(
    sizes: Sizes,
    indices: Sequence[int] | Tensor,
    *,
    dst_sizes: Sizes | None = None,
    dst_indices: Sequence[int] | Tensor = (),
) -> AttentionGraph:
    r"""Connects the tokens at `indices` to all tokens of their graph, in both directions.

    E = {(j → i) : i ∈ G or j ∈ G}, inside each graph, self edges of G included. A graph of n nodes and k distinct
    global tokens has 2kn − k² edges. In cross attention E = {(j → i) : i ∈ H or j ∈ G} with the k sources G at
    `indices` and the l targets H at `dst_indices`, km + ln − kl edges for m targets. Seven tokens, indices [0, -1]:

        ■ ■ ■ ■ ■ ■ ■
        ■ · · · · · ■
        ■ · · · · · ■
        ■ · · · · · ■
        ■ · · · · · ■
        ■ · · · · · ■
        ■ ■ ■ ■ ■ ■ ■

    Args:
        sizes: number of nodes, or int64 [num_graphs] for a batch; of sources where `dst_sizes` is given.
        indices: positions inside each graph, a sequence of ints or int64 [num_global]; negative ones count from the
            end. Two that name the same token count once. A graph without nodes has no token to name and is left alone.
        dst_sizes: number of targets of cross attention, in the form of `sizes`.
        dst_indices: positions of targets that read every source; with `dst_sizes`.

    Returns:
        AttentionGraph of kind "global", on the device of `sizes`.

    Raises:
        TypeError: if `sizes` is neither an int nor an int64 tensor, or `indices` are not ints.
        ValueError: if a position lies outside some graph, naming the graph, or `dst_indices` come without `dst_sizes`.

    Source: Beltagy et al. 2020 (Longformer), sec. 3.1, "Global Attention". Their separate projections for global
    attention are left out: a layer may tell these edges by their kind.

    >>> global_tokens(3, [0]).edge_index
    tensor([[0, 1, 2, 0, 0],
            [0, 0, 0, 1, 2]])
    >>> global_tokens(torch.tensor([2, 4]), [0, -1]).num_edges   # 2·2·2 − 4 and 2·2·4 − 4
    16
    """
    sources, targets, label = two_sides(sizes, dst_sizes)
    position = _as_positions(indices, "indices", sources.device)
    is_hub = _marked(sources, position, "indices")
    shown = _shown(position)
    if dst_sizes is None:
        if len(dst_indices):
            raise ValueError(
                f"dst_indices must come with dst_sizes, got {len(dst_indices)} alone. "
                "In self-attention `indices` names both sides."
            )
        reads_all = is_hub
    else:
        position = _as_positions(dst_indices, "dst_indices", targets.device)
        reads_all = _marked(targets, position, "dst_indices")
        shown += f", dst_indices={_shown(position)}" if position.numel() else ""
    hubs = is_hub.nonzero()[:, 0]  # [num_global_nodes], ascending, each once
    hub_ptr = torch.searchsorted(hubs, sources.ptr)  # [num_graphs + 1]
    # Every target reads a run of this list: a global one the nodes of its graph, any other the hubs of its graph.
    reading = torch.cat([torch.arange(sources.num_nodes, device=sources.device), hubs])
    batch = batch_of(targets.ptr)
    first = torch.where(reads_all, sources.ptr[batch], sources.num_nodes + hub_ptr[batch])
    count = torch.where(reads_all, torch.diff(sources.ptr)[batch], torch.diff(hub_ptr)[batch])
    edges = edges_of_ranges(first, count)
    edges[0] = reading[edges[0]]
    return AttentionGraph.trusted(
        edges,
        sources.num_nodes,
        targets.num_nodes,
        kinds=("global",),
        src_ptr=sources.batch_ptr,
        dst_ptr=targets.batch_ptr,
        origin=f"global_tokens({label}, {shown})",
    )


def _marked(nodes: Nodes, position: Tensor, name: str) -> Tensor:
    """Returns bool [num_nodes]: whether some position names the node in its graph."""
    is_named = torch.zeros(nodes.num_nodes, dtype=torch.bool, device=nodes.device)
    is_named[_global_nodes(nodes, position, name)] = True
    return is_named


def _as_positions(indices: Sequence[int] | Tensor, name: str, device: torch.device) -> Tensor:
    if isinstance(indices, Tensor):
        if indices.dtype != torch.int64:
            raise TypeError(
                f"{name} must have dtype torch.int64, got {indices.dtype}. Call {name}.long(), or "
                f"{name}.nonzero()[:, 0] on a bool mask."
            )
        if indices.dim() != 1:
            raise ValueError(
                f"{name} must have shape [num_global], got {list(indices.shape)}. The same positions serve every "
                "graph of the batch: pass one flat list."
            )
        return indices.to(device)
    if isinstance(indices, str) or not isinstance(indices, Sequence):
        raise TypeError(
            f"{name} must be a sequence of ints or an int64 tensor, got {type(indices).__name__}. "
            "Pass [0] for the first token alone."
        )
    for index in indices:
        if isinstance(index, bool) or not isinstance(index, int):
            raise TypeError(f"{name} must hold ints, got {type(index).__name__} {index!r}. Pass positions, not a mask.")
    return torch.tensor(list(indices), dtype=torch.int64, device=device)


def _global_nodes(nodes: Nodes, position: Tensor, name: str) -> Tensor:
    """Returns the node that each position names in each graph with nodes, int64 [num_named]."""
    size = torch.diff(nodes.ptr)[:, None]
    outside = ((position < -size) | (position >= size)) & (size > 0)  # [num_graphs, num_global]
    if bool(outside.any()):
        graph, which = outside.nonzero()[0].tolist()
        raise ValueError(
            f"{name} must lie inside every graph, got {int(position[which])} for graph {graph}, which has "
            f"{int(size[graph])} nodes. Use positions that the smallest graph has; -1 is the last token of each."
        )
    named = nodes.ptr[:-1, None] + position + torch.where(position < 0, size, 0)
    return named[(size > 0).expand_as(named)]


def _shown(position: Tensor, at_most: int = 8) -> str:
    listed = [str(index) for index in position[:at_most].tolist()]
    return (
        f"[{', '.join(listed)}]"
        if position.numel() <= at_most
        else f"[{', '.join(listed)}, … {position.numel()} in all]"
    )
