"""The layered graph of a forward pass: elements at every level, and how strongly each passes into the next level."""

from __future__ import annotations

import difflib
import operator
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, cast

import torch
from torch import Tensor

from graphattn.graph.validate import check_tensor
from graphattn.viz.attribution import Attribution
from graphattn.viz.difference import difference
from graphattn.viz.export import to_networkx, write
from graphattn.viz.flow import max_flow
from graphattn.viz.influence import influence, keep, prune
from graphattn.viz.paths import Paths, strongest_paths
from graphattn.viz.rollout import rollout
from graphattn.viz.shares import percent

if TYPE_CHECKING:
    from networkx import MultiDiGraph

EDGE_KINDS = ("attention", "residual", "summary", "pool")
NODE_KINDS = ("element", "abstraction", "pooled", "memory")
Element = int | str | tuple[int, int]
Elements = Element | Sequence[Element] | Tensor


@dataclass(frozen=True, eq=False)
class Pathways:
    """Attention of a forward pass as a layered graph: elements at every level, weighted edges between them.

    Nodes stand in ranks, the columns of a picture, and every edge goes from a lower to a higher rank, so there is no
    cycle. Edges may run side by side: the residual beside the attention to itself, heads apart. `pathways` makes one
    from a recording. What takes elements takes the number of one, its name, a pair (rank, element), or a list of such.

    Args:
        edge_index: int64 [2, num_edges] into the nodes, source → target.
        weight: float64 [num_edges]; what enters a target sums to one, until edges are left out. Differences have signs.
        head: int64 [num_edges], number of the head in its layer, −1 where heads are merged or there is none.
        layer: int64 [num_edges], number of the attention layer, from 0; a pool has that of the layer before it.
        edge_kind: int64 [num_edges] into `edge_kinds`.
        rank: int64 [num_nodes]; abstraction and memory nodes have ranks of their own between two levels.
        element: int64 [num_nodes], number of the token, patch, atom, abstraction … within its rank.
        node_kind: int64 [num_nodes] into `node_kinds`; elements stay "pooled" in all levels after a pool.
        labels: names of the elements at rank 0, text and never markup; None for none.
        method: what the weights mean.
        kept: share of influence that the edges carry, 1.0 where none is left out. Of pathways that are pruned again it
            is the product of what each time was kept of what was there.
        threshold: by which rule edges were left out, "" if none were.
        num_all_edges: how many there were before that; None for as many as there are.

    Raises:
        TypeError, ValueError: naming the argument, the rule, the value and the next step; also for an edge that does
            not go from a lower to a higher rank.
    """

    edge_index: Tensor
    weight: Tensor
    head: Tensor
    layer: Tensor
    edge_kind: Tensor
    rank: Tensor
    element: Tensor
    node_kind: Tensor
    labels: tuple[str, ...] | None
    method: str
    kept: float
    threshold: str = ""
    num_all_edges: int | None = None

    edge_kinds: ClassVar[tuple[str, ...]] = EDGE_KINDS
    node_kinds: ClassVar[tuple[str, ...]] = NODE_KINDS

    def __post_init__(self) -> None:
        num_nodes = self._checked_sizes()
        _check_range(self.edge_index, "edge_index", num_nodes, f"the {num_nodes} nodes that rank counts")
        _check_range(self.edge_kind, "edge_kind", len(EDGE_KINDS), f"edge_kinds, {', '.join(EDGE_KINDS)}")
        _check_range(self.node_kind, "node_kind", len(NODE_KINDS), f"node_kinds, {', '.join(NODE_KINDS)}")
        for name in ("rank", "element", "layer"):
            if bool((getattr(self, name) < 0).any()):
                raise ValueError(f"{name} must not be negative, got {int(getattr(self, name).min())}. Count from 0.")
        if not bool(torch.isfinite(self.weight).all()):
            at = int((~torch.isfinite(self.weight)).nonzero()[0])
            raise ValueError(f"weight must be finite, got {float(self.weight[at])} at edge {at}. Leave that edge out.")
        start, end = self.rank[self.edge_index]
        if bool((start >= end).any()):
            at = int((start >= end).nonzero()[0])
            raise ValueError(
                f"an edge must go from a lower to a higher rank, got {int(start[at])} → {int(end[at])} at edge {at}: "
                "there may be no cycle. Give every level a rank of its own."
            )
        if (
            self.num_nodes
            and torch.unique(self.rank * (self.element.max() + 1) + self.element).numel() < self.num_nodes
        ):
            raise ValueError("element must be distinct within a rank, got one twice. Number the nodes of every rank.")
        self._check_labels()
        if not 0.0 <= self.kept <= 1.0:
            raise ValueError(f"kept must lie in [0, 1], got {self.kept}. It is a share: 1.0 where no edge is left out.")

    def _checked_sizes(self) -> int:
        per_edge, per_node = ("weight", "head", "layer", "edge_kind"), ("rank", "element", "node_kind")
        for name in ("edge_index", *per_edge, *per_node):
            tensor, wanted = getattr(self, name), torch.float64 if name == "weight" else torch.int64
            check_tensor(tensor, name, torch.device("cpu"))
            if tensor.dtype != wanted:
                raise TypeError(f"{name} must have dtype {wanted}, got {tensor.dtype}. Call {name}.to({wanted}) first.")
        if self.edge_index.dim() != 2 or self.edge_index.shape[0] != 2:
            raise ValueError(
                f"edge_index must have shape [2, num_edges], got {list(self.edge_index.shape)}. "
                "If your edges are rows, pass edge_index.t()."
            )
        num_edges, num_nodes = self.edge_index.shape[1], self.rank.numel()
        for names, number, what in ((per_edge, num_edges, "num_edges"), (per_node, num_nodes, "num_nodes")):
            for name in names:
                if getattr(self, name).shape != (number,):
                    raise ValueError(
                        f"{name} must have shape [{what}] with {what} = {number}, got "
                        f"{list(getattr(self, name).shape)}. Give one entry each."
                    )
        return num_nodes

    def _check_labels(self) -> None:
        if self.labels is None:
            return
        if isinstance(self.labels, str) or not all(isinstance(label, str) for label in self.labels):
            raise TypeError(f"labels must be a tuple of strings, got {self.labels!r}. Pass tuple(map(str, labels)).")
        first = self.element[(self.rank == 0) & (self.node_kind == NODE_KINDS.index("element"))]
        if first.numel() and int(first.max()) >= len(self.labels):
            raise ValueError(
                f"labels must name every element at rank 0, got {len(self.labels)} for element {int(first.max())}. "
                "Give one label each, in order."
            )

    def __repr__(self) -> str:
        return f"Pathways({self.num_nodes:,} nodes in {self.num_ranks} ranks; {self.caption})"

    @property
    def num_nodes(self) -> int:
        """Number of nodes, those without edges included."""
        return self.rank.numel()

    @property
    def num_edges(self) -> int:
        """Number of edges, parallel ones counted one by one."""
        return self.edge_index.shape[1]

    @property
    def num_ranks(self) -> int:
        """Number of columns, those that pruning emptied included."""
        return int(self.rank.max()) + 1 if self.num_nodes else 0

    @property
    def inputs(self) -> Tensor:
        """int64, the nodes that nothing can enter: the elements at rank 0, and memories."""
        return ((self.rank == 0) | (self.node_kind == NODE_KINDS.index("memory"))).nonzero().flatten()

    @property
    def outputs(self) -> Tensor:
        """int64, the nodes of the last rank."""
        return (self.rank == self.num_ranks - 1).nonzero().flatten()

    @property
    def caption(self) -> str:
        """Says the method, the threshold, how many edges of how many there are, and the share of influence kept."""
        there = self.num_edges if self.num_all_edges is None else self.num_all_edges
        edges = f"{self.num_edges:,} of {there:,} edges, {percent(self.kept)} of the influence"
        return "; ".join(part for part in (self.method, self.threshold, edges) if part)

    def node_labels(self) -> list[str]:
        """Returns what to call each node: the label of an element, the kind and number of any other node."""
        names = []
        for kind, element in zip(self.node_kind.tolist(), self.element.tolist()):
            is_named = self.labels is not None and NODE_KINDS[kind] == "element" and element < len(self.labels)
            if is_named:
                assert self.labels is not None
                names.append(self.labels[element])
            else:
                names.append(str(element) if NODE_KINDS[kind] == "element" else f"{NODE_KINDS[kind]} {element}")
        return names

    def nodes(self, elements: Elements | None, rank: int) -> Tensor:
        """Returns the nodes of elements, int64 [num_elements].

        Args:
            elements: a number, a name, a pair (rank, element), or a list of such; None for all of `rank`.
            rank: where numbers and names are looked up.

        Raises:
            ValueError: if there is no such element, or a name names several, with the nearest name.

        >>> from graphattn.viz.recording import Recording, Step
        >>> from graphattn.viz.levels import pathways
        >>> import graphattn as ga
        >>> alpha = torch.full((4, 1), 0.5)
        >>> step = Step("layer", 0, "attention", ga.connectivity.full(2), alpha, torch.tensor([0]), *[None] * 4,
        ...             torch.ones(2, 1))
        >>> found = pathways(Recording((step,)), labels=["a", "b"])
        >>> found.nodes("b", rank=0), found.nodes([0, "b"], rank=1), found.nodes((1, 0), rank=0)
        (tensor([1]), tensor([2, 3]), tensor([2]))
        """
        if elements is None:
            return (self.rank == rank).nonzero().flatten()
        if hasattr(elements, "tolist"):  # of torch or numpy
            elements = cast(Elements, elements.tolist())
        is_several = isinstance(elements, Sequence) and not isinstance(elements, str | tuple)
        several = cast(Sequence[Element], elements if is_several else [elements])
        of_pair = {pair: node for node, pair in enumerate(zip(self.rank.tolist(), self.element.tolist()))}
        return torch.tensor([self._node(element, rank, of_pair) for element in several], dtype=torch.int64)

    def _node(self, element: Element, rank: int, of_pair: dict[tuple[int, int], int]) -> int:
        if isinstance(element, tuple):
            if len(element) != 2:
                raise ValueError(f"a pair must be (rank, element), got {element!r}. Pass a list for several elements.")
            rank, element = element
        if isinstance(element, bool) or not (isinstance(element, str) or hasattr(element, "__index__")):
            raise TypeError(f"an element must be a number, a name or a pair (rank, element), got {element!r}.")
        number = self._named(element) if isinstance(element, str) else operator.index(element)
        if (rank, number) in of_pair:
            node = of_pair[rank, number]
            if not isinstance(element, str) or NODE_KINDS[int(self.node_kind[node])] == "element":
                return node
            raise ValueError(f"rank {rank} has {NODE_KINDS[int(self.node_kind[node])]} nodes, which have no names.")
        there = self.element[self.rank == rank]
        if not there.numel():
            raise ValueError(f"there is no node at rank {rank}: ranks go from 0 to {self.num_ranks - 1}.")
        has = f"{there.numel()} nodes, from {int(there.min())} to {int(there.max())}"
        raise ValueError(
            f"there is no element {element!r} at rank {rank}, which has {has}. Pruning may have left it out."
        )

    def _named(self, name: str) -> int:
        if self.labels is None:
            raise ValueError(f"elements have no names, got {name!r}. Give a number, or make the pathways with labels=.")
        places = [place for place, label in enumerate(self.labels) if label == name]
        if len(places) > 1:
            raise ValueError(f"{name!r} names elements {', '.join(map(str, places))}. Give the number of one.")
        if not places:
            near = difflib.get_close_matches(name, self.labels, n=1)
            advice = f"Did you mean {near[0]!r}?" if near else "See the labels of these pathways."
            raise ValueError(f"there is no element named {name!r}. {advice}")
        return places[0]

    def rollout(self, outputs: Elements | None = None) -> Attribution:
        """Returns how much of every input has come into each output, over all paths; see `graphattn.viz.rollout`."""
        return rollout(self, self.nodes(outputs, self.num_ranks - 1))

    def max_flow(self, outputs: Elements, inputs: Elements | None = None) -> Attribution:
        """Returns the largest flow between each output and each input; see `graphattn.viz.flow`."""
        chosen = self.inputs if inputs is None else self.nodes(inputs, 0)
        return max_flow(self, self.nodes(outputs, self.num_ranks - 1), chosen)

    def influence(self, outputs: Elements | None = None) -> Tensor:
        """Returns the influence of every edge on the outputs, [num_edges]; see `graphattn.viz.influence`."""
        return influence(self, self.nodes(outputs, self.num_ranks - 1))

    def prune(self, share: float = 0.8, *, outputs: Elements | None = None, max_edges: int | None = None) -> Pathways:
        """Keeps the fewest edges that carry a share of the influence on the outputs; see `graphattn.viz.influence`."""
        return prune(self, share, None if outputs is None else self.nodes(outputs, self.num_ranks - 1), max_edges)

    def keep(self, edges: Tensor) -> Pathways:
        """Keeps chosen edges and the nodes that they join.

        Args:
            edges: bool [num_edges], or int64 positions of edges.
        """
        return keep(self, edges)

    def strongest_paths(self, k: int = 10, *, source: Elements | None = None, target: Elements | None = None) -> Paths:
        """Returns the k strongest paths, from any input into any output by default; see `graphattn.viz.paths`."""
        start = self.inputs if source is None else self.nodes(source, 0)
        return strongest_paths(self, k, start, self.nodes(target, self.num_ranks - 1))

    def difference(self, other: Pathways) -> Pathways:
        """Returns the weights of these pathways less those of others over the same nodes, with signs."""
        return difference(self, other)

    def to_networkx(self) -> MultiDiGraph:
        """Returns a networkx `MultiDiGraph` with all that these arrays hold; see `graphattn.viz.export`."""
        return to_networkx(self)

    def write(self, path: str | os.PathLike[str]) -> Path:
        """Writes .graphml, .gexf, .json or .dot, whole or not at all, and returns where it is."""
        return write(self, path)


def check_pathways(given: object) -> None:
    """Raises a TypeError if something else was given."""
    if not isinstance(given, Pathways):
        raise TypeError(
            f"pathways must be Pathways, got {type(given).__name__}. graphattn.viz.pathways(recording) makes them."
        )


def _check_range(tensor: Tensor, name: str, number: int, what: str) -> None:
    wrong = (tensor < 0) | (tensor >= number)
    if bool(wrong.any()):
        raise ValueError(f"{name} must number {what}, got {int(tensor[wrong][0])}. Use 0 to {number - 1}.")
