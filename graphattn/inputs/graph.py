"""Molecules and other graphs as model input: PyG `Data` in, tensors and one attention graph with its plan out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from graphattn.connectivity import hop_distance
from graphattn.graph import AttentionGraph, batch_of, node_ptr, ragged_range
from graphattn.inputs.edges import Bonds, Edges, Expander, Full, Hops, VirtualNodes, parse_edges, united
from graphattn.inputs.positions import laplacian_positions, random_walk_positions, singular_positions
from graphattn.ops.capability import MAX_TYPES

if TYPE_CHECKING:
    from torch_geometric.data import Data

__all__ = ["Bonds", "Edges", "Expander", "Full", "GraphBatch", "GraphCollate", "Hops", "VirtualNodes", "parse_edges"]

LEVELS = ("graph", "node")
MAX_CODES = 2**16  # combinations of kinds, bond features and distances that are looked through for types


@dataclass(frozen=True, eq=False)
class GraphBatch:
    """A batch of graphs, ready for a model. Nodes of a graph stand together, its virtual nodes last."""

    x: Tensor  # [num_nodes, num_features], zeros for virtual nodes
    virtual: Tensor  # [num_nodes] int64: 0 for a node of the data, v for its graph's v-th virtual node
    batch: Tensor  # [num_nodes] int64: the graph of each node
    node: Tensor  # [num_data_nodes] int64: where the nodes of the data stand among all nodes
    graph: AttentionGraph  # with its plan; src_ptr tells the graphs apart
    edge_attr: Tensor | None  # [num_bonds, num_edge_features], features of the bonds
    bond: Tensor | None  # [num_edges] int64: row of edge_attr, −1 where the edge is no bond
    edge_type: Tensor | None  # [num_edges] int64: edges of one type have the same kinds, bond features and distance
    type_edge: Tensor | None  # [num_types] int64: an edge of each type; None, as edge_type, if there are many types
    distance: Tensor | None  # [num_edges] int64: bonds between the two ends, max_hops + 1 beyond, −1 at virtual nodes
    positions: Tensor | None  # [num_nodes, num_walks + num_eigenvectors + 2 num_singular], zeros for virtual nodes
    y: Tensor | None  # float32 [num_graphs (or num_data_nodes), num_tasks], NaN where unlabelled
    index: Tensor  # [num_graphs] int64: `record_number` of each record in its data set, −1 if unknown
    num_virtual: int  # virtual nodes of each graph

    @classmethod
    def of(cls, x: Tensor, graph: AttentionGraph, y: Tensor | None = None) -> GraphBatch:
        """Makes a batch of any graph whose nodes are tokens, patches or whatever `x` has rows for.

        Args:
            x: [num_nodes, num_features], int64 categories or numbers.
            graph: square; its offsets tell the graphs of the batch apart, and without any it is one graph.
            y: [num_graphs, num_tasks] or [num_nodes, num_tasks], as the loss of yours reads it.

        Returns:
            the batch, without virtual nodes, positions, and features of edges.

        Raises:
            ValueError: if the graph is not square, or x has another number of rows.

        >>> from graphattn.connectivity import sliding_window
        >>> GraphBatch.of(torch.zeros(8, 1, dtype=torch.int64), sliding_window(torch.tensor([5, 3]), 1)).num_graphs
        2
        """
        if not graph.is_square or x.dim() != 2 or x.shape[0] != graph.num_src_nodes:
            raise ValueError(
                f"x must have shape [num_nodes, num_features] and graph as many sources as targets, got "
                f"{list(x.shape)} and {graph.num_src_nodes} sources, {graph.num_dst_nodes} targets. Give each node "
                "one row."
            )
        node = torch.arange(graph.num_src_nodes, device=x.device)
        return cls(
            x=x, virtual=torch.zeros_like(node), batch=batch_of(graph.src_ptr), node=node, graph=graph,
            edge_attr=None, bond=None, edge_type=None, type_edge=None, distance=None, positions=None, y=y,
            index=torch.full((graph.num_graphs,), -1, device=x.device), num_virtual=0,
        )  # fmt: skip

    @property
    def num_graphs(self) -> int:
        return self.index.shape[0]

    def without_types(self) -> GraphBatch:
        """Returns the batch with features for each edge: call it before you change bonds' features or distances."""
        return replace(self, edge_type=None, type_edge=None)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> GraphBatch:
        """Returns the batch, its graph and the graph's plan on another device."""
        return self._mapped(lambda value: value.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> GraphBatch:
        """Returns the batch in pinned host memory."""
        return self._mapped(lambda value: value.pin_memory())

    def _mapped(self, move: Callable[[Any], Any]) -> GraphBatch:
        values: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        return GraphBatch(
            **{k: move(value) if isinstance(value, Tensor | AttentionGraph) else value for k, value in values.items()}
        )


@dataclass(frozen=True)
class GraphCollate:
    """Turns a list of PyG `Data` into a `GraphBatch`: pass it as `collate_fn` of any loader.

    A pure function of its records: no generator is read, and a graph has the same edges alone and in any batch.

    Args:
        edges: parts of the attention graph, united; `parse_edges("bonds | full | virtual(1)")` reads them from a line.
        max_hops: longest distance told apart in `distance`; 0 leaves it out.
        num_walks: columns of random-walk positions.
        num_eigenvectors: columns of Laplacian positions.
        num_singular: pairs of columns of singular vectors of the bonds, as EGT reads them.
        edge_features: whether the batch says which edge is which bond and what its features are. Without that (and
            with max_hops = 0) full attention alone stays in blocks, never listed.
        level: what `y` labels, "graph" or "node".

    Raises:
        ValueError: (when made) for no part or parts that are no specs, negative counts; (on call) for an empty list,
            and for features that are missing, NaN, infinite or unlike those of the other records, naming the record.

    >>> from torch_geometric.data import Data
    >>> ethanol = Data(x=torch.zeros(3, 9, dtype=torch.int64), edge_index=torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]]))
    >>> batch = GraphCollate(parse_edges("bonds | virtual(1)"))([ethanol, ethanol])
    >>> batch.x.shape, batch.graph.num_edges, batch.graph.kinds
    (torch.Size([8, 9]), 22, ('bond', 'virtual'))
    """

    edges: Sequence[Edges] = (Bonds(), Full(), VirtualNodes(1))
    max_hops: int = 0
    num_walks: int = 0
    num_eigenvectors: int = 0
    num_singular: int = 0
    edge_features: bool = True
    level: str = "graph"

    def __post_init__(self) -> None:
        if isinstance(self.edges, str) or not all(hasattr(part, "edges") for part in self.edges):
            raise ValueError(
                f"edges must be specs such as (Bonds(), Full()), got {self.edges!r}. Call parse_edges(line) first."
            )
        if not self.edges:
            raise ValueError("edges must name at least one part of the attention graph, got none. Use (Bonds(),).")
        if sum(isinstance(part, VirtualNodes) for part in self.edges) > 1:
            raise ValueError("edges must name VirtualNodes once, got it twice or more. Ask for VirtualNodes(count).")
        for name in ("max_hops", "num_walks", "num_eigenvectors", "num_singular"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}. Use 0 to leave it out.")
        if self.level not in LEVELS:
            raise ValueError(f"level must be one of {', '.join(LEVELS)}, got {self.level!r}. It says what y labels.")

    @property
    def num_virtual(self) -> int:
        """Number of virtual nodes that each graph receives."""
        return sum(part.count for part in self.edges if isinstance(part, VirtualNodes))

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of edges that the attention graph has, each once."""
        return tuple(dict.fromkeys(part.kind for part in self.edges))

    def __call__(self, data_list: Sequence[Data]) -> GraphBatch:
        records = _alike([_record(data, place, self.level) for place, data in enumerate(data_list)])
        x, edge_index = torch.cat([record.x for record in records]), torch.cat([r.edge_index for r in records], 1)
        sizes = torch.tensor([record.x.shape[0] for record in records])
        data_ptr = node_ptr(sizes)
        owner = torch.repeat_interleave(torch.tensor([record.edge_index.shape[1] for record in records]))
        _check_values(records, sizes, x, edge_index, owner)

        padded = sizes + self.num_virtual
        ptr = node_ptr(padded)
        num_nodes = int(ptr[-1])
        batch = batch_of(ptr)
        virtual = (torch.arange(num_nodes) - (ptr[:-1] + sizes)[batch] + 1).clamp(min=0)
        of_node, place = ragged_range(sizes)
        node = ptr[of_node] + place

        found, order = AttentionGraph.from_edge_index(edge_index + data_ptr[owner], x.shape[0], duplicates="first")
        graph_of_data = AttentionGraph.trusted(found.edge_index, x.shape[0], src_ptr=data_ptr)
        bonds = AttentionGraph.trusted(  # `node` rises, so the edges stay in order
            node[found.edge_index], num_nodes, kinds=(Bonds.kind,), src_ptr=ptr, origin=f"bonds({len(records)} graphs)"
        )
        graph = united(self.edges, bonds, padded)
        edge_attr, bond = self._bonds_of(graph, bonds, records, order) if self.edge_features else (None, None)
        distance = None
        if self.max_hops:
            src, dst = graph.edge_index
            distance = hop_distance(bonds, of=graph, max_hops=self.max_hops)
            distance = distance.masked_fill((virtual[src] > 0) | (virtual[dst] > 0), -1)
        if bond is not None or distance is not None:
            graph = graph.enumerate()
        edge_type, type_edge = None, None
        if bond is not None:
            edge_type, type_edge = edge_types(graph.edge_kind, edge_attr, bond, distance)
        graph.plan()
        return GraphBatch(
            x=_spread(x, node, num_nodes),
            virtual=virtual,
            batch=batch,
            node=node,
            graph=graph,
            edge_attr=edge_attr,
            bond=bond,
            edge_type=edge_type,
            type_edge=type_edge,
            distance=distance,
            positions=self._positions(graph_of_data, node, num_nodes),
            y=_labels(records, self.level),
            index=torch.tensor([record.number for record in records]),
            num_virtual=self.num_virtual,
        )

    def _bonds_of(
        self, graph: AttentionGraph, bonds: AttentionGraph, records: list[_Record], order: Tensor
    ) -> tuple[Tensor | None, Tensor]:
        """Returns the features of the bonds in canonical order, and which bond each edge is."""
        features = [record.edge_attr for record in records if record.edge_attr is not None]
        # graphs without edges need no edge_attr; if there are no others, the batch has features of no bond
        edge_attr = torch.cat(features)[order] if features else None if bonds.num_edges else torch.empty(0, 0)
        if Bonds.kind not in graph.kinds:
            return edge_attr, graph.align(torch.arange(bonds.num_edges), of=bonds, fill=-1)
        is_bond = (graph.edge_kind >> graph.kinds.index(Bonds.kind)) & 1  # every bond is an edge, in the same order
        return edge_attr, torch.where(is_bond > 0, torch.cumsum(is_bond, 0) - 1, -1)

    def _positions(self, graph: AttentionGraph, node: Tensor, num_nodes: int) -> Tensor | None:
        if not self.num_walks + self.num_eigenvectors + self.num_singular:
            return None
        columns = [
            random_walk_positions(graph, self.num_walks),
            laplacian_positions(graph, self.num_eigenvectors),
            singular_positions(graph, self.num_singular),
        ]
        return _spread(torch.cat(columns, 1), node, num_nodes)


def edge_types(
    edge_kind: Tensor | None, edge_attr: Tensor | None, bond: Tensor, distance: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """Numbers the edges so that those of one number have the same kinds, bond features and distance.

    Args:
        edge_kind, bond, distance: [num_edges], as in `GraphBatch`.
        edge_attr: [num_bonds, num_edge_features].

    Returns:
        edge_type [num_edges] and type_edge [num_types], the first edge of each; None and None if features of bonds are
        no categories, or there are more than `MAX_TYPES` types.
    """
    code, num_codes = torch.zeros_like(bond), 1
    columns = [] if edge_attr is None or not edge_attr.shape[0] else list(edge_attr.unbind(1))
    if any(column.is_floating_point() for column in columns):
        return None, None
    of_bond = [torch.where(bond < 0, 0, column[bond] + 1) for column in columns]
    others = [edge_kind, None if distance is None else distance + 1]
    for values in [*of_bond, *(each.long() for each in others if each is not None)]:
        if not values.numel():
            return None, None
        low, high = (int(bound) for bound in values.aminmax())
        num_codes *= high + 1
        if low < 0 or num_codes > MAX_CODES:
            return None, None
        code = code * (high + 1) + values
    edge = torch.arange(bond.numel())
    first = torch.full((num_codes,), bond.numel()).scatter_reduce_(0, code, edge, "amin")
    type_edge = first[first < bond.numel()]
    if type_edge.numel() > MAX_TYPES:
        return None, None
    number = torch.cumsum(first < bond.numel(), 0) - 1
    return number[code], type_edge


class _Record(NamedTuple):
    """What a record holds."""

    x: Tensor
    edge_index: Tensor
    edge_attr: Tensor | None
    y: Tensor | None
    number: int  # in its data set, −1 if unknown
    name: str  # what an error calls it


def _record(data: Data, place: int, level: str) -> _Record:
    """Reads one record, and checks the shapes of its tensors."""
    found = data.to_dict()
    number = int(found.get("record_number", -1))  # as `GraphDataset` gives it
    name = f"record {place} of the batch" if number < 0 else f"record {number} of the data set"
    x, edge_index, edge_attr, y = (found.get(field) for field in ("x", "edge_index", "edge_attr", "y"))
    if x is None or x.dim() != 2:
        got = "none" if x is None else list(x.shape)
        raise ValueError(f"{name} must have x [num_nodes, num_features], got {got}. Give each node its features.")
    if edge_index is None or not edge_index.numel():
        edge_index = torch.empty(2, 0, dtype=torch.int64)
    if edge_index.dim() != 2 or edge_index.shape[0] != 2 or edge_index.dtype != torch.int64:
        raise ValueError(
            f"{name} must have edge_index int64 [2, num_edges], got {edge_index.dtype} {list(edge_index.shape)}. "
            "If edges are rows, pass edge_index.t()."
        )
    num_edges = edge_index.shape[1]
    if edge_attr is not None and edge_attr.shape[0] != num_edges:
        raise ValueError(
            f"{name} must have one row of edge_attr per column of edge_index, {num_edges}, got "
            f"{list(edge_attr.shape)}. An undirected bond has two columns."
        )
    if not num_edges:
        edge_attr = edge_attr if edge_attr is not None and edge_attr.dim() == 2 else None
    elif edge_attr is not None:
        edge_attr = edge_attr.view(num_edges, -1)
    if y is not None:
        y = torch.as_tensor(y, dtype=torch.float32)
        if level == "graph":
            y = y.view(1, -1)
        elif y.dim() not in (1, 2) or y.shape[0] != x.shape[0]:
            raise ValueError(f"{name} must have one row of y per node, {x.shape[0]}, got {list(y.shape)}. "
                             "Labels of whole graphs need level='graph'.")  # fmt: skip
        else:
            y = y if y.dim() == 2 else y[:, None]
    return _Record(x, edge_index, edge_attr, y, number, name)


def _alike(records: list[_Record]) -> list[_Record]:
    """Returns the records if they can stand in one batch, or raises naming the first that differs."""
    if not records:
        raise ValueError("a batch must hold at least one graph, got none. Drop empty batches before collating.")
    has_attr = any(record.edge_attr is not None for record in records)
    for field in ("x", "edge_attr", "y"):
        expected = None
        for record in records:
            value = getattr(record, field)
            if value is None:
                if field == "edge_attr" and has_attr and record.edge_index.shape[1]:
                    raise ValueError(f"{record.name} has edges and no edge_attr, others have. Give it to all or none.")
                continue
            expected = (value.shape[1], value.dtype) if expected is None else expected
            if expected != (value.shape[1], value.dtype):
                raise ValueError(
                    f"{record.name} has {value.shape[1]} columns of {value.dtype} in {field}, others have "
                    f"{expected[0]} of {expected[1]}. Give all records the same features."
                )
    return records


def _check_values(records: list[_Record], sizes: Tensor, x: Tensor, edge_index: Tensor, owner: Tensor) -> None:
    """Raises if an edge leaves its graph or a feature is not finite; looks for the record only then."""
    outside = ((edge_index < 0) | (edge_index >= sizes[owner])).any(0)
    if bool(outside.any()):
        at = int(outside.nonzero()[0])
        number = int(owner[at])
        raise ValueError(
            f"{records[number].name} must have nodes 0 … {int(sizes[number]) - 1} in edge_index, got the edge "
            f"{edge_index[:, at].tolist()}. Count nodes from 0 in each record."
        )
    if x.is_floating_point() and not bool(torch.isfinite(x).all()):
        raise _not_finite(records, "x")
    if any(r.edge_attr is not None and r.edge_attr.is_floating_point() for r in records):
        attr = torch.cat([record.edge_attr for record in records if record.edge_attr is not None])
        if not bool(torch.isfinite(attr).all()):
            raise _not_finite(records, "edge_attr")


def _not_finite(records: list[_Record], field: str) -> ValueError:
    values = ((record.name, getattr(record, field)) for record in records)
    name = next(name for name, value in values if value is not None and not bool(torch.isfinite(value).all()))
    return ValueError(f"{name} holds NaN or infinity in {field}. Clean the record or drop it.")


def _labels(records: list[_Record], level: str) -> Tensor | None:
    """Joins the labels; a record without any has NaN."""
    width = next((record.y.shape[1] for record in records if record.y is not None), None)
    if width is None:
        return None
    rows = [record.x.shape[0] if level == "node" else 1 for record in records]
    return torch.cat(
        [torch.full((n, width), torch.nan) if r.y is None else r.y for n, r in zip(rows, records, strict=True)]
    )


def _spread(values: Tensor, node: Tensor, num_nodes: int) -> Tensor:
    """Puts rows of the data's nodes where they stand among all nodes, zeros for virtual ones."""
    if num_nodes == node.numel():
        return values
    return values.new_zeros(num_nodes, *values.shape[1:]).index_copy(0, node, values)
