"""Points in space: each reads its nearest neighbours, or all within a radius."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from graphattn.connectivity._nodes import Nodes, check_count, nodes_of
from graphattn.graph import AttentionGraph, Sizes, batch_of, pairs

MAX_CANDIDATES = 2**22  # distances looked at together


def knn(
    points: Tensor,
    k: int,
    sizes: Sizes | None = None,
    *,
    dst_points: Tensor | None = None,
    dst_sizes: Sizes | None = None,
) -> AttentionGraph:
    r"""Connects each point to the `k` points of its graph that are nearest to it, itself included.

    E = {(j → i) : fewer than k points of the graph come before j in i's order}, the order being that of the Euclidean
    distance, in float64; of points at equal distance the one of smaller number comes first, but a point always comes
    first in its own order. Σ_g n_g · min(k, n_g) edges, or Σ_g m_g · min(k, n_g) for m targets. Points 0, 1, 3, 4, 8
    on a line, k = 2:

        ■ ■ · · ·
        ■ ■ · · ·
        · · ■ ■ ·
        · · ■ ■ ·
        · · · ■ ■

    Args:
        points: float or int [num_nodes, num_dims], all finite.
        k: neighbours per point, at least 1; a graph with fewer points is connected in full.
        sizes: int64 [num_graphs], points of each graph of a batch, which see nothing of each other. None for one graph.
        dst_points: targets of cross attention [num_dst_nodes, num_dims]; none of them is a source.
        dst_sizes: targets of each graph, where `sizes` is given.

    Returns:
        AttentionGraph of kind "knn", on the device of `points` (the search runs on the CPU).

    Raises:
        TypeError: if `points` is no tensor of numbers, `k` no int, or a size neither an int nor an int64 tensor.
        ValueError: if points are not [num_nodes, num_dims] or not finite, `k` is below 1, or the sizes do not fit.

    Source: Wang et al. 2019 (Dynamic Graph CNN) for graphs of nearest neighbours; the search is the k-d tree of
    `scipy.spatial.cKDTree`.

    >>> knn(torch.tensor([[0.0], [1.0], [3.0], [4.0], [8.0]]), k=2).edge_index
    tensor([[0, 1, 0, 1, 2, 3, 2, 3, 3, 4],
            [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]])
    """
    check_count(k, "k", 1, "Use 1 for each point alone.")
    sides = _read_sides(points, sizes, dst_points, dst_sizes)
    return sides.graph(_nearest(sides, k, is_square=dst_points is None), "knn", f"k={k}")


def radius(
    points: Tensor,
    distance: float,
    sizes: Sizes | None = None,
    *,
    dst_points: Tensor | None = None,
    dst_sizes: Sizes | None = None,
) -> AttentionGraph:
    r"""Connects each point to the points of its graph at most `distance` away, itself included.

    E = {(j → i) : ‖x_i − x_j‖ ≤ distance}, Euclidean, in float64; as many edges as there are such pairs, about
    n · density · volume of the ball inside a uniform cloud. Points 0, 1, 3, 4, 8 on a line, distance 2:

        ■ ■ · · ·
        ■ ■ ■ · ·
        · ■ ■ ■ ·
        · · ■ ■ ·
        · · · · ■

    Args:
        points: float or int [num_nodes, num_dims], all finite.
        distance: how far to look, at least 0 and finite, in the unit of `points`.
        sizes: int64 [num_graphs], points of each graph of a batch, which see nothing of each other. None for one graph.
        dst_points: targets of cross attention [num_dst_nodes, num_dims].
        dst_sizes: targets of each graph, where `sizes` is given.

    Returns:
        AttentionGraph of kind "radius", on the device of `points` (the search runs on the CPU).

    Raises:
        TypeError: if `points` is no tensor of numbers, `distance` no number, or a size neither an int nor an int64
            tensor.
        ValueError: if points are not [num_nodes, num_dims] or not finite, `distance` is negative or not finite, or the
            sizes do not fit.

    Source: Schütt et al. 2017 (SchNet) for interactions within a cutoff; the search is the k-d tree of
    `scipy.spatial.cKDTree`.

    >>> radius(torch.tensor([[0.0], [1.0], [3.0], [4.0], [8.0]]), 2.0).num_edges
    11
    """
    if isinstance(distance, bool) or not isinstance(distance, int | float):
        raise TypeError(f"distance must be a number, got {type(distance).__name__}. Pass float(distance).")
    if not 0 <= distance < math.inf:
        raise ValueError(
            f"distance must be at least 0 and finite, got {distance}. For all pairs of a graph call full(sizes)."
        )
    sides = _read_sides(points, sizes, dst_points, dst_sizes)
    from scipy.spatial import cKDTree

    here, there = _apart(sides, float(distance))
    tree = cKDTree(here.numpy())
    other = tree if there is here else cKDTree(there.numpy())
    # the tree takes whole boxes at once, by bounds that are rounded: ask for a little more, then compare each pair
    near = other.sparse_distance_matrix(tree, distance * (1 + 1e-9), output_type="ndarray")
    near = near[near["v"] <= distance]
    num_src_nodes = sides.sources.num_nodes
    keys = torch.from_numpy(near["i"] * num_src_nodes + near["j"]).sort().values
    return sides.graph(pairs.decode(keys, num_src_nodes), "radius", f"distance={distance}")


class _Sides(NamedTuple):
    """The points of both sides and the graphs they belong to, on the CPU; the same ones twice in a square graph."""

    points: Tensor  # [num_src_nodes, num_dims] float64
    dst_points: Tensor  # [num_dst_nodes, num_dims] float64
    sources: Nodes
    targets: Nodes
    device: torch.device
    label: str

    def graph(self, edges: Tensor, kind: str, options: str) -> AttentionGraph:
        """Makes the graph of edges that are canonical."""
        src_ptr, dst_ptr = self.sources.batch_ptr, self.targets.batch_ptr
        return AttentionGraph.trusted(
            edges.to(self.device),
            self.sources.num_nodes,
            self.targets.num_nodes,
            kinds=(kind,),
            src_ptr=None if src_ptr is None else src_ptr.to(self.device),
            dst_ptr=None if dst_ptr is None else dst_ptr.to(self.device),
            origin=f"{kind}({self.label}, {options})",
        )


def _read_sides(points: Tensor, sizes: Sizes | None, dst_points: Tensor | None, dst_sizes: Sizes | None) -> _Sides:
    coordinates = _read_points(points, "points")
    if (dst_points is None or sizes is None) and dst_sizes is not None:
        raise ValueError(
            "dst_sizes must come with sizes and dst_points, got it without. Pass all three, or leave it out."
        )
    if dst_points is None:
        sources = _read_nodes(coordinates, sizes, "sizes", "points")
        return _Sides(coordinates, coordinates, sources, sources, points.device, f"{_shown(sources)} points")
    if sizes is not None and dst_sizes is None:
        raise ValueError(
            "dst_sizes must come with sizes and dst_points, got the two alone. Count the targets per graph."
        )
    dst_coordinates = _read_points(dst_points, "dst_points")
    if coordinates.shape[1] != dst_coordinates.shape[1]:
        raise ValueError(
            f"points and dst_points must have the same num_dims, got {coordinates.shape[1]} and "
            f"{dst_coordinates.shape[1]}. Distances need points of one space."
        )
    sources = _read_nodes(coordinates, sizes, "sizes", "points")
    targets = _read_nodes(dst_coordinates, dst_sizes, "dst_sizes", "dst_points")
    if sources.num_graphs != targets.num_graphs:
        raise ValueError(
            f"sizes and dst_sizes must count the same graphs, got {sources.num_graphs} and {targets.num_graphs}. "
            "Give an empty graph the size 0."
        )
    label = f"{_shown(sources)} points, {targets.num_nodes} targets"
    return _Sides(coordinates, dst_coordinates, sources, targets, points.device, label)


def _shown(nodes: Nodes) -> str:
    return str(nodes.num_nodes) if nodes.batch_ptr is None else f"{nodes.num_graphs} graphs of {nodes.num_nodes}"


def _read_points(points: Tensor, name: str) -> Tensor:
    """Returns points as float64 on the CPU, or raises."""
    if not isinstance(points, Tensor) or points.is_complex() or points.dtype == torch.bool:
        got = points.dtype if isinstance(points, Tensor) else type(points).__name__
        raise TypeError(f"{name} must be a tensor of real numbers, got {got}. Pass torch.tensor({name}).")
    if points.dim() != 2 or not points.shape[1]:
        raise ValueError(
            f"{name} must have shape [num_nodes, num_dims], got {list(points.shape)}. Call {name}[:, None] on numbers."
        )
    coordinates = points.detach().to("cpu", torch.float64)
    if not bool(coordinates.isfinite().all()):
        node = int((~coordinates.isfinite().all(1)).nonzero()[0])
        raise ValueError(f"{name} must be finite, got {points[node].tolist()} for point {node}. Leave such points out.")
    return coordinates


def _read_nodes(coordinates: Tensor, sizes: Sizes | None, name: str, points_name: str) -> Nodes:
    nodes = nodes_of(coordinates.shape[0] if sizes is None else sizes, name)
    if nodes.num_nodes != coordinates.shape[0]:
        raise ValueError(
            f"{name} must add up to the number of {points_name}, {coordinates.shape[0]}, got {nodes.num_nodes}. "
            "List the points of all graphs one after the other."
        )
    ptr = nodes.ptr.to("cpu")
    return nodes._replace(ptr=ptr, batch_ptr=None if nodes.batch_ptr is None else ptr)


def _apart(sides: _Sides, at_least: float) -> tuple[Tensor, Tensor]:
    """Returns the points of both sides, those of different graphs farther apart than `at_least` and than any of one.

    A coordinate more tells the graphs apart; being equal inside a graph, it adds exactly zero to distances there.
    """
    if sides.sources.num_graphs < 2:
        return sides.points, sides.dst_points
    both = torch.cat([sides.points, sides.dst_points])
    diameter = float(torch.linalg.vector_norm(both.amax(0) - both.amin(0))) if both.shape[0] else 0.0
    gap = 2 * max(diameter, at_least) + 1
    here, there = (
        torch.cat([points, gap * batch_of(nodes.ptr).double()[:, None]], 1)
        for points, nodes in ((sides.points, sides.sources), (sides.dst_points, sides.targets))
    )
    return here, here if sides.dst_points is sides.points else there


def _nearest(sides: _Sides, k: int, is_square: bool) -> Tensor:
    """Returns edges from the k nearest sources of each target's graph, canonical."""
    from scipy.spatial import cKDTree

    sources, targets = sides.sources, sides.targets
    here, there = _apart(sides, 0.0)
    size = torch.diff(sources.ptr)[batch_of(targets.ptr)]
    count = size.clamp(max=min(k, sources.num_nodes))
    start = torch.cumsum(count, 0) - count
    src = torch.empty(int(count.sum()), dtype=torch.int64, device=here.device)
    tree = cKDTree(here.numpy())
    # in the order of the leaves, targets in a row look at the same part of the tree: several times as fast
    pending = torch.from_numpy((tree if there is here else cKDTree(there.numpy())).indices).long()
    pending = pending[count[pending] > 0]
    # One source more than wanted tells whether the last one is tied; where it is, twice as many are looked at.
    num_asked = min(k + 1, sources.num_nodes)
    while pending.numel():
        tied = []
        for row in pending.split(max(MAX_CANDIDATES // num_asked, 1)):
            distance, source = (
                torch.from_numpy(found)
                for found in tree.query(there[row].numpy(), range(1, num_asked + 1), workers=torch.get_num_threads())
            )
            if sources.num_graphs > 1:
                first = sources.ptr[batch_of(targets.ptr)[row]][:, None]
                is_own = (source >= first) & (source < first + size[row, None])
                distance = distance.masked_fill(~is_own, math.inf)
            farthest = distance.gather(1, count[row, None] - 1)[:, 0]
            beyond = distance.gather(1, count[row, None].clamp(max=num_asked - 1))[:, 0]
            is_tied = (farthest == beyond) & (count[row] < size[row])  # the order among equals then decides
            if bool(is_tied.any()):
                own = row[is_tied] if is_square else torch.full_like(row[is_tied], -1)
                source[is_tied] = _in_order(distance[is_tied], source[is_tied], own)
            is_settled = ~is_tied | (farthest < distance[:, -1]) | (num_asked >= size[row])
            tied.append(row[~is_settled])
            row, source = row[is_settled], source[is_settled]
            taken = torch.arange(num_asked, device=row.device) < count[row, None]
            chosen = source.masked_fill_(~taken, sources.num_nodes).sort(1).values  # ascending, as edges are
            src[(start[row, None] + torch.arange(num_asked, device=row.device))[taken]] = chosen[taken]
        pending = torch.cat(tied)
        num_asked = min(2 * num_asked, sources.num_nodes)
    return torch.stack([src, torch.repeat_interleave(count)])


def _in_order(distance: Tensor, source: Tensor, own: Tensor) -> Tensor:
    """Sorts candidates [num_rows, num_asked] by distance, equal ones by number, but `own` of a row before all."""
    distance = distance.masked_fill(source == own[:, None], -1.0)
    by_number = source.argsort(1)
    order = distance.gather(1, by_number).argsort(dim=1, stable=True)
    return source.gather(1, by_number).gather(1, order)
