"""Parts of an attention graph: frozen specs that are united, and the one line of a configuration that names them.

Every part is a pure function of the bonds and the graphs' sizes, so a graph has the same edges alone and in any batch.
"""

from __future__ import annotations

import ast
import difflib
import functools
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor

from graphattn.connectivity import clusters, expander, full, global_tokens, hops
from graphattn.graph import AttentionGraph, node_ptr


class Edges(Protocol):
    """A part of the attention graph: given the bonds of a batch and its graphs' sizes, makes edges of one kind."""

    kind: ClassVar[str]

    def edges(self, bonds: AttentionGraph, sizes: Tensor) -> AttentionGraph:
        """Makes the edges.

        Args:
            bonds: over all nodes of the batch; virtual nodes have none.
            sizes: int64 [num_graphs], nodes of each graph, virtual ones included; those come last in their graph.

        Returns:
            a graph over the nodes of `bonds` whose edges all carry `kind`.
        """
        ...


@dataclass(frozen=True)
class Bonds:
    """The edges of the data themselves."""

    kind: ClassVar[str] = "bond"

    def edges(self, bonds: AttentionGraph, sizes: Tensor) -> AttentionGraph:
        return bonds


@dataclass(frozen=True)
class Hops:
    """Everything within `num_hops` bonds, itself included; 0 gives self edges alone."""

    num_hops: int
    kind: ClassVar[str] = "hop"

    def __post_init__(self) -> None:
        _check_at_least(0, self.num_hops, "num_hops of Hops")

    def edges(self, bonds: AttentionGraph, sizes: Tensor) -> AttentionGraph:
        return hops(bonds, self.num_hops)


@dataclass(frozen=True)
class Expander:
    """Random edges, to virtual nodes as well, over which every node is near: the same in all graphs of a size."""

    degree: int = 4
    seed: int = 0
    kind: ClassVar[str] = "expander"

    def __post_init__(self) -> None:
        _check_at_least(2, self.degree, "degree of Expander")
        _check_at_least(0, self.seed, "seed of Expander")
        if self.degree % 2:
            raise ValueError(
                f"degree of Expander must be even, got {self.degree}. Use {self.degree - 1} or {self.degree + 1}."
            )

    def edges(self, bonds: AttentionGraph, sizes: Tensor) -> AttentionGraph:
        ptr = node_ptr(sizes)
        of_graph = [_expander(size, self.degree, self.seed) for size in sizes.tolist()]
        count = torch.tensor([edges.shape[1] for edges in of_graph])
        edge_index = torch.cat([torch.empty(2, 0, dtype=torch.int64), *of_graph], 1)
        return AttentionGraph.trusted(
            edge_index + torch.repeat_interleave(ptr[:-1], count), int(ptr[-1]), kinds=(self.kind,), src_ptr=ptr,
            origin=f"expander({sizes.numel()} graphs, degree={self.degree})",
        )  # fmt: skip


@dataclass(frozen=True)
class VirtualNodes:
    """Extra nodes in each graph, which every node reads and which read every node, one another included."""

    count: int = 1
    kind: ClassVar[str] = "virtual"

    def __post_init__(self) -> None:
        _check_at_least(1, self.count, "count of VirtualNodes")

    def edges(self, bonds: AttentionGraph, sizes: Tensor) -> AttentionGraph:
        hubs = global_tokens(sizes, range(-self.count, 0))
        return AttentionGraph.trusted(
            hubs.edge_index, hubs.num_src_nodes, kinds=(self.kind,), src_ptr=hubs.src_ptr,
            origin=f"virtual_nodes({sizes.numel()} graphs, {self.count})",
        )  # fmt: skip


@dataclass(frozen=True)
class Full:
    """Everything inside each graph, virtual nodes included."""

    kind: ClassVar[str] = "full"

    def edges(self, bonds: AttentionGraph, sizes: Tensor) -> AttentionGraph:
        return full(sizes)


@dataclass(frozen=True)
class Rings:
    """Everything inside each system of rings: atoms that no single bond parts from one another. Others read themselves.

    The clusters that `nn.combiner.Clusters` reads one another by summaries of.
    """

    kind: ClassVar[str] = "cluster"

    def edges(self, bonds: AttentionGraph, sizes: Tensor) -> AttentionGraph:
        return clusters(sizes, ring_systems(bonds))


PARTS: dict[str, type] = {
    "bonds": Bonds, "hops": Hops, "expander": Expander, "rings": Rings, "virtual": VirtualNodes, "full": Full,
}  # fmt: skip


def ring_systems(bonds: AttentionGraph) -> Tensor:
    """Returns a number for each node, int64 [num_nodes], that it shares with those that no single bond parts from it.

    These are the 2-edge-connected components of the graph: fused and spiro rings together, every other atom for itself.

    >>> ring = torch.tensor([[0, 1, 2, 2], [1, 2, 0, 3]])
    >>> ring_systems(AttentionGraph.from_edge_index(ring, 4)[0])
    tensor([0, 0, 0, 1])
    """
    import networkx
    import scipy.sparse

    src, dst = bonds.edge_index.tolist()
    graph = networkx.Graph(edge for edge in zip(src, dst, strict=True) if edge[0] != edge[1])
    is_bridge = set(networkx.bridges(graph))
    edges = [edge for edge in graph.edges if edge not in is_bridge and edge[::-1] not in is_bridge]
    row, column = np.array(edges, dtype=np.int64).reshape(-1, 2).T
    num_nodes = bonds.num_src_nodes
    adjacency = scipy.sparse.coo_matrix((np.ones(row.size, np.int8), (row, column)), (num_nodes, num_nodes))
    return torch.from_numpy(scipy.sparse.csgraph.connected_components(adjacency, directed=False)[1]).long()


def parse_edges(line: str) -> tuple[Edges, ...]:
    """Reads the parts of an attention graph from one line: names of `PARTS`, with integers in brackets, joined by `|`.

    Args:
        line: such as "bonds | hops(3) | expander(4) | virtual(1) | full". An integer left out has the spec's default.

    Returns:
        the specs, in the order of the line, for `GraphCollate(edges=...)`.

    Raises:
        TypeError: if `line` is no string.
        ValueError: for anything else than names and integers, with its position and what may stand there.

    >>> parse_edges("bonds | hops(3) | virtual")
    (Bonds(), Hops(num_hops=3), VirtualNodes(count=1))
    """
    if not isinstance(line, str):
        raise TypeError(f"edges must be one line of text, got {type(line).__name__}. Write 'bonds | virtual(1)'.")
    text = line.replace("\n", " ")  # a folded line of YAML
    start = len(text) - len(text.lstrip())
    for sign, name in (("#", "a comment"), ("\0", "a null byte")):  # Python would skip the one, and fail on the other
        if sign in text:
            raise _refusal(line, text.index(sign), name)
    try:
        tree = ast.parse(text[start:], mode="eval")
    except SyntaxError as error:
        position = start + error.offset - 1 if error.offset else len(line)  # 0 where it ends too early
        raise _refusal(line, position, f"a fault ({error.msg})") from None
    except (RecursionError, MemoryError) as error:
        raise _refusal(line, start, f"a fault ({type(error).__name__})") from None
    return tuple(_part(node, line, start) for node in _operands(tree.body))


def _operands(node: ast.expr) -> list[ast.expr]:
    """Returns what stands between the bars, in order; a long union leans to the left, so this loop follows it there."""
    found: list[ast.expr] = []
    pending = [node]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
            pending += [node.left, node.right]
        else:
            found.append(node)
    return found[::-1]


def _part(node: ast.expr, line: str, start: int) -> Edges:
    name, arguments = (node.func, node.args) if isinstance(node, ast.Call) else (node, [])
    if not isinstance(name, ast.Name):
        raise _refusal(line, start + name.col_offset, f"{ast.unparse(name)!r}")
    if name.id not in PARTS:
        near = difflib.get_close_matches(name.id, PARTS, n=1)
        suggestion = f", did you mean {near[0]!r}?" if near else ""
        raise _refusal(line, start + name.col_offset, f"the unknown name {name.id!r}{suggestion}")
    if isinstance(node, ast.Call) and node.keywords:
        raise _refusal(line, start + node.keywords[0].value.col_offset, "a keyword")
    numbers = []
    for argument in arguments:
        if not isinstance(argument, ast.Constant) or type(argument.value) is not int:
            raise _refusal(line, start + argument.col_offset, f"{ast.unparse(argument)!r}, which is no integer")
        numbers.append(argument.value)
    spec = PARTS[name.id]
    needed = sum(field.default is MISSING for field in fields(spec))
    if not needed <= len(numbers) <= len(fields(spec)):
        raise _refusal(line, start + name.col_offset, f"{name.id!r} with {len(numbers)} numbers")
    try:
        return spec(*numbers)
    except ValueError as error:
        raise ValueError(f"edges, position {start + name.col_offset} of {line!r}: {error}") from None


def _refusal(line: str, position: int, what: str) -> ValueError:
    return ValueError(
        f"edges cannot be read: {what} at position {position} of {line!r}. Write one or several of "
        f"{', '.join(_usage())}, joined by |, such as 'bonds | virtual(1)'."
    )


def _usage() -> Iterator[str]:
    for name, spec in PARTS.items():
        numbers = [
            field.name if field.default is MISSING else f"{field.name}={field.default}" for field in fields(spec)
        ]
        yield f"{name}({', '.join(numbers)})" if numbers else name


def united(parts: Sequence[Edges], bonds: AttentionGraph, sizes: Tensor) -> AttentionGraph:
    """Returns the union of parts, each edge with the kinds of all parts that made it; `|` of many graphs in one sort.

    A single part keeps its blocks.

    Args:
        parts: at least one.
        bonds, sizes: as in `Edges.edges`.
    """
    graphs = [part.edges(bonds, sizes) for part in parts]
    if len(graphs) == 1:
        return graphs[0]
    num_nodes = bonds.num_src_nodes
    kinds = tuple(dict.fromkeys(part.kind for part in parts))
    bit = np.array([1 << kinds.index(part.kind) for part in parts], dtype=np.int16)
    shift = len(parts).bit_length()
    tagged = []
    for number, graph in enumerate(graphs):
        src, dst = graph.edge_index.numpy()
        tagged.append(((dst * num_nodes + src) << shift) | number)
    keys = np.sort(np.concatenate(tagged), kind="stable")  # merges runs that are sorted already
    part_of, keys = keys & ((1 << shift) - 1), keys >> shift
    first = np.flatnonzero(np.diff(keys, prepend=-1))
    dst, src = np.divmod(keys[first], max(num_nodes, 1))
    kind = np.bitwise_or.reduceat(bit[part_of], first) if first.size else bit[:0]
    return AttentionGraph.trusted(
        torch.from_numpy(np.stack([src, dst])),
        num_nodes,
        edge_kind=torch.from_numpy(kind),
        kinds=kinds,
        src_ptr=node_ptr(sizes),
        origin=" | ".join(graph.origin for graph in graphs),
    )


@functools.lru_cache(maxsize=1024)
def _expander(size: int, degree: int, seed: int) -> Tensor:
    """Returns the edges of one graph, [2, num_edges], read-only by agreement."""
    generator = torch.Generator().manual_seed((seed * 1_000_003 + size) % 2**63)
    return expander(size, degree, generator=generator).edge_index


def _check_at_least(least: int, value: int, name: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be an int of at least {least}, got {value!r}. Write a larger number.")
