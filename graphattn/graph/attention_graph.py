"""The noun: who may look at whom."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from graphattn.graph import convert, pairs
from graphattn.graph.blocks import Blocks, checked_blocks, concatenate
from graphattn.graph.kinds import all_bits, check_edge_kind, check_kinds, gather_bits, join, rename_bits
from graphattn.graph.plan import Plan, make_plan
from graphattn.graph.ragged import check_ptr, ragged_range
from graphattn.graph.rules import Rule, is_causal
from graphattn.graph.summary import summarize

if TYPE_CHECKING:
    from torch_geometric import EdgeIndex
    from torch_geometric.data import Data

MAX_ENUMERATED_EDGES = 2**28  # 4 GiB of edge_index; blocks with more pairs stay blocks


class AttentionGraph:
    r"""Says which sources each target attends to: explicit edges plus blocks, immutable.

    An edge (j → i) lets target i (a query) read source j (a key and a value). Canonical edge order is (target, source),
    whatever the representation; `edge_index`, every per-edge argument and the attention weights use it.

    Args:
        edge_index: int64 [2, num_edges], row 0 source, row 1 target, sorted by (target, source), without duplicates.
        num_src_nodes: number of sources; a node without edges is still a node.
        num_dst_nodes: number of targets; None for a square graph.
        blocks: bicliques held as pointers (`graphattn.graph.blocks.Blocks`), for attention too large to list.
            Pairs that several blocks, or a block and an edge, hold in common count once.
        edge_kind: integer [number of columns of `edge_index`], a bitmask into `kinds`; None gives every edge all kinds.
        kinds: up to 15 names.
        src_ptr: int64 [num_graphs + 1], node offsets of each graph of a batch; None for a single graph.
        dst_ptr: the same for targets; None takes `src_ptr` in a square graph.
        head_mask: bool [number of columns of `edge_index`, num_heads], where heads see different edges.
            Blocks are shared by all heads.

    Raises:
        TypeError, ValueError: naming the argument, the rule, the value and the next step.

    Source: the mask as an edge set is Vaswani et al. 2017, sec. 3.2.3, with the sum restricted to incoming edges.

    >>> graph = AttentionGraph(torch.tensor([[0, 0, 1], [0, 1, 1]]), num_src_nodes=2)
    >>> graph.num_edges, graph.to_mask()
    (3, tensor([[ True, False],
            [ True,  True]]))
    """

    def __init__(
        self,
        edge_index: Tensor,
        num_src_nodes: int,
        num_dst_nodes: int | None = None,
        *,
        blocks: Blocks | None = None,
        edge_kind: Tensor | None = None,
        kinds: Sequence[str] = (),
        src_ptr: Tensor | None = None,
        dst_ptr: Tensor | None = None,
        head_mask: Tensor | None = None,
    ):
        num_dst_nodes = num_src_nodes if num_dst_nodes is None else num_dst_nodes
        _check_size(num_src_nodes, "num_src_nodes")
        _check_size(num_dst_nodes, "num_dst_nodes")
        edge_index = _checked_edges(edge_index, num_src_nodes, num_dst_nodes)
        for name, tensor in (
            ("edge_kind", edge_kind),
            ("src_ptr", src_ptr),
            ("dst_ptr", dst_ptr),
            ("head_mask", head_mask),
        ):
            if tensor is not None:
                _check_tensor(tensor, name, edge_index.device)
        keys = pairs.encode(edge_index, num_src_nodes)
        step = torch.diff(keys)
        if bool((step <= 0).any()):
            at = int((step <= 0).nonzero()[0]) + 1
            fault = "repeats an edge" if int(step[at - 1]) == 0 else "is not sorted by (target, source)"
            raise ValueError(
                f"edge_index {fault} at column {at}, {edge_index[:, at].tolist()}. Edges must be sorted by target, "
                "then source, each once: call AttentionGraph.from_edge_index(edge_index, num_nodes), which sorts "
                "and returns the order."
            )
        kinds = check_kinds(kinds)
        num_listed = edge_index.shape[1]
        if edge_kind is not None:
            edge_kind = check_edge_kind(edge_kind, kinds, num_listed)
        if head_mask is not None and (
            head_mask.dtype != torch.bool or head_mask.dim() != 2 or head_mask.shape[0] != num_listed
        ):
            raise ValueError(
                f"head_mask must be bool [num_edges, num_heads] with num_edges = {num_listed}, got {head_mask.dtype} "
                f"{list(head_mask.shape)}. Give one row per column of edge_index."
            )
        is_square = num_src_nodes == num_dst_nodes
        if src_ptr is None and dst_ptr is not None and is_square:
            src_ptr = dst_ptr
        if dst_ptr is None and src_ptr is not None and is_square:
            dst_ptr = src_ptr
        if (src_ptr is None) != (dst_ptr is None):
            raise ValueError(
                "src_ptr and dst_ptr must be given together for a rectangular graph. Pass both, one offset per graph."
            )
        if src_ptr is not None and dst_ptr is not None:
            check_ptr(src_ptr, num_src_nodes, "src_ptr")
            check_ptr(dst_ptr, num_dst_nodes, "dst_ptr")
            if src_ptr.numel() != dst_ptr.numel():
                raise ValueError(
                    f"src_ptr and dst_ptr must count the same graphs, got {src_ptr.numel() - 1} and "
                    f"{dst_ptr.numel() - 1}. Give an empty graph the same offset twice."
                )
        self._store(
            edge_index.contiguous(),
            num_src_nodes,
            num_dst_nodes,
            None,
            edge_kind,
            kinds,
            src_ptr,
            dst_ptr,
            head_mask,
            f"{num_listed} edges",
        )
        if blocks is not None:
            blocks = checked_blocks(blocks, num_src_nodes, num_dst_nodes, edge_index.device)
        if blocks is not None:
            blocks = blocks._replace(kind=blocks.kind & all_bits(kinds))
            self.__dict__.update(self._with_blocks(blocks).__dict__)

    def _store(
        self,
        edges: Tensor,
        num_src_nodes: int,
        num_dst_nodes: int,
        blocks: Blocks | None,
        edge_kind: Tensor | None,
        kinds: tuple[str, ...],
        src_ptr: Tensor | None,
        dst_ptr: Tensor | None,
        head_mask: Tensor | None,
        origin: str,
    ) -> None:
        self.__dict__.update(
            num_src_nodes=num_src_nodes,
            num_dst_nodes=num_dst_nodes,
            kinds=kinds,
            blocks=blocks,
            explicit_edges=edges,
            origin=origin,
            _edge_kind=edge_kind,
            _head_mask=head_mask,
            _src_ptr=src_ptr,
            _dst_ptr=dst_ptr,
            _num_edges=edges.shape[1] + (blocks.num_edges if blocks is not None else 0),
            _cache={},
            _plan=None,
        )

    num_src_nodes: int
    num_dst_nodes: int
    kinds: tuple[str, ...]
    blocks: Blocks | None
    explicit_edges: Tensor  # [2, num_explicit_edges], those outside every block
    origin: str  # the expression that made the graph
    _num_edges: int
    _edge_kind: Tensor | None
    _head_mask: Tensor | None
    _src_ptr: Tensor | None
    _dst_ptr: Tensor | None
    _cache: dict[str, Any]
    _plan: Plan | None

    @classmethod
    def trusted(
        cls,
        edge_index: Tensor | None,
        num_src_nodes: int,
        num_dst_nodes: int | None = None,
        *,
        blocks: Blocks | None = None,
        edge_kind: Tensor | None = None,
        kinds: tuple[str, ...] = (),
        src_ptr: Tensor | None = None,
        dst_ptr: Tensor | None = None,
        head_mask: Tensor | None = None,
        origin: str = "graph",
    ) -> AttentionGraph:
        """Makes a graph without checks, for builders that know their edges to be canonical and their blocks disjoint.

        Args:
            edge_index: as in the constructor, or None for no explicit edge.
            origin: the expression that made it, shown by `repr`.
        """
        if edge_index is None:
            device = blocks.dst.device if blocks is not None else None
            edge_index = torch.empty(2, 0, dtype=torch.int64, device=device)
        graph = cls.__new__(cls)
        graph._store(
            edge_index.contiguous(),
            num_src_nodes,
            num_src_nodes if num_dst_nodes is None else num_dst_nodes,
            blocks,
            edge_kind,
            kinds,
            src_ptr,
            src_ptr if dst_ptr is None else dst_ptr,
            head_mask,
            origin,
        )
        return graph

    @classmethod
    def from_edge_index(
        cls,
        edge_index: Tensor,
        num_nodes: int | tuple[int, int],
        duplicates: str = "error",
        *,
        kinds: Sequence[str] = (),
    ) -> tuple[AttentionGraph, Tensor]:
        """Sorts edges into canonical order and returns the graph with the order.

        Args:
            edge_index: int64 [2, num_edges] in any order. The pointers that a PyG `EdgeIndex` in canonical order has
                already cached become the plan.
            num_nodes: the number of nodes, or (num_src_nodes, num_dst_nodes).
            duplicates: "error" refuses repeated edges, "first" keeps the first of each.
            kinds: names that every edge carries.

        Returns:
            graph: the AttentionGraph.
            order: int64 [graph.num_edges]; `edge_attr[order]` puts per-edge features into the graph's order.

        >>> graph, order = AttentionGraph.from_edge_index(torch.tensor([[1, 0], [1, 0]]), num_nodes=2)
        >>> order, graph.edge_index.tolist()
        (tensor([1, 0]), [[0, 1], [0, 1]])
        """
        if duplicates not in ("error", "first"):
            raise ValueError(
                f"duplicates must be 'error' or 'first', got {duplicates!r}. Use 'first' to keep one of each."
            )
        num_src, num_dst = num_nodes if isinstance(num_nodes, tuple) and len(num_nodes) == 2 else (num_nodes, num_nodes)
        _check_size(num_src, "num_nodes")
        _check_size(num_dst, "num_nodes")
        plain = _checked_edges(edge_index, num_src, num_dst)
        keys = pairs.encode(plain, num_src)
        is_sorted = not bool((torch.diff(keys) <= 0).any())
        order = torch.arange(keys.numel(), device=keys.device) if is_sorted else torch.argsort(keys, stable=True)
        if not is_sorted:
            keys = keys[order]
            repeated = torch.diff(keys, prepend=keys.new_full((1,), -1)) == 0
            if bool(repeated.any()):
                if duplicates == "error":
                    edge = plain[:, order[int(repeated.nonzero()[0])]].tolist()
                    raise ValueError(
                        f"edge_index must list each edge once, got {edge} more than once ({int(repeated.sum())} "
                        "duplicates). Pass duplicates='first' to keep the first of each."
                    )
                order = order[~repeated]
        graph = cls.trusted(
            plain[:, order], num_src, num_dst, kinds=check_kinds(kinds), origin=f"{order.numel()} edges"
        )
        if is_sorted:
            graph.__dict__["_plan"] = convert.plan_of_edge_index(edge_index, num_src, num_dst)
        return graph, order

    @property
    def num_edges(self) -> int:
        """Number of (source, target) pairs, those inside blocks counted, not listed."""
        return self._num_edges

    @property
    def device(self) -> torch.device:
        return self.explicit_edges.device

    @property
    def is_square(self) -> bool:
        """Whether sources and targets are the same nodes (equal counts)."""
        return self.num_src_nodes == self.num_dst_nodes

    @property
    def edge_index(self) -> Tensor:
        """int64 [2, num_edges] in canonical order. Lists the blocks, once, and refuses above 2^28 pairs."""
        return self.enumerate().explicit_edges

    @property
    def edge_kind(self) -> Tensor:
        """int16 [num_edges], bit b set where `kinds[b]` made the edge."""
        listed = self.enumerate()
        if listed._edge_kind is None:
            return torch.full((listed.num_edges,), all_bits(self.kinds), dtype=torch.int16, device=self.device)
        return listed._edge_kind

    @property
    def head_mask(self) -> Tensor | None:
        """bool [num_edges, num_heads], or None where all heads see every edge."""
        return self.enumerate()._head_mask if self._head_mask is not None else None

    @property
    def num_graphs(self) -> int:
        return 1 if self._src_ptr is None else self._src_ptr.numel() - 1

    @property
    def src_ptr(self) -> Tensor:
        """int64 [num_graphs + 1], source offsets of each graph of the batch."""
        return self._ptr_or_single(self._src_ptr, self.num_src_nodes)

    @property
    def dst_ptr(self) -> Tensor:
        """int64 [num_graphs + 1], target offsets of each graph of the batch."""
        return self._ptr_or_single(self._dst_ptr, self.num_dst_nodes)

    def _ptr_or_single(self, ptr: Tensor | None, num_nodes: int) -> Tensor:
        return torch.tensor([0, num_nodes], device=self.device) if ptr is None else ptr

    def enumerate(self) -> AttentionGraph:
        """Returns the same graph with every block listed as edges (itself where there is none).

        Raises:
            ValueError: above 2^28 pairs, with the size it would have.
        """
        if self.blocks is None:
            return self
        if "listed" not in self._cache:
            _refuse_above_limit(self.num_edges, "listing its blocks as edges", self)
            edges, kind = self.blocks.enumerate()
            edges = torch.cat([self.explicit_edges, edges], 1)
            explicit_kind = self._explicit_kind()
            kind = torch.cat([explicit_kind, kind])
            head_mask = self._head_mask
            if head_mask is not None:
                head_mask = torch.cat(
                    [head_mask, head_mask.new_ones(kind.numel() - explicit_kind.numel(), head_mask.shape[1])]
                )
            keys = pairs.encode(edges, self.num_src_nodes)
            if bool((torch.diff(keys) <= 0).any()):
                order = torch.argsort(keys)
                edges, kind = edges[:, order], kind[order]
                head_mask = None if head_mask is None else head_mask[order]
            self._cache["listed"] = AttentionGraph.trusted(
                edges,
                self.num_src_nodes,
                self.num_dst_nodes,
                edge_kind=kind if self.kinds else None,
                kinds=self.kinds,
                src_ptr=self._src_ptr,
                dst_ptr=self._dst_ptr,
                head_mask=head_mask,
                origin=self.origin,
            )
        return self._cache["listed"]

    def _explicit_kind(self) -> Tensor:
        if self._edge_kind is not None:
            return self._edge_kind
        return torch.full((self.explicit_edges.shape[1],), all_bits(self.kinds), dtype=torch.int16, device=self.device)

    def _explicit_heads(self, num_heads: int) -> Tensor:
        if self._head_mask is not None:
            return self._head_mask
        return torch.ones(self.explicit_edges.shape[1], num_heads, dtype=torch.bool, device=self.device)

    def _with_blocks(self, blocks: Blocks) -> AttentionGraph:
        """Adds blocks to an explicit graph; those that overlap, or lack a kind of an edge inside, are listed."""
        listed = blocks.overlapping()
        holder = blocks.holder(self.explicit_edges)
        adds_kind = (self._explicit_kind() & ~blocks.kind[holder]) != 0
        listed[holder[(holder >= 0) & adds_kind]] = True
        graph, kept = self, blocks.select(~listed)
        overlapping = blocks.select(listed)
        if overlapping is not None:
            graph = graph | self._listing(overlapping)
        if kept is None:
            return graph._named(f"{graph.num_edges} edges")
        outside = kept.holder(graph.explicit_edges) < 0
        edges = graph.explicit_edges[:, outside]
        return graph._like(
            edges,
            kept,
            None if graph._edge_kind is None else graph._edge_kind[outside],
            f"{edges.shape[1]} edges and {kept.num_blocks} blocks",
            None if graph._head_mask is None else graph._head_mask[outside],
        )

    def _listing(self, blocks: Blocks) -> AttentionGraph:
        """Lists blocks that may overlap; a pair of several blocks carries the kinds of all."""
        _refuse_above_limit(blocks.num_edges, "listing its overlapping blocks as edges", self)
        edges, kind = blocks.enumerate()
        keys, place = torch.unique(pairs.encode(edges, self.num_src_nodes), return_inverse=True)
        edge_kind = gather_bits(kind, place, keys.numel()) if self.kinds else None
        return self._like(pairs.decode(keys, self.num_src_nodes), None, edge_kind, self.origin)

    def _like(
        self,
        edges: Tensor,
        blocks: Blocks | None,
        edge_kind: Tensor | None,
        origin: str,
        head_mask: Tensor | None = None,
    ) -> AttentionGraph:
        """A graph over the same nodes with other edges."""
        return AttentionGraph.trusted(
            edges,
            self.num_src_nodes,
            self.num_dst_nodes,
            blocks=blocks,
            edge_kind=edge_kind,
            kinds=self.kinds,
            src_ptr=self._src_ptr,
            dst_ptr=self._dst_ptr,
            head_mask=head_mask,
            origin=origin,
        )

    def _named(self, origin: str) -> AttentionGraph:
        """The same graph, made by another expression."""
        graph = AttentionGraph.__new__(AttentionGraph)
        graph.__dict__.update(self.__dict__, origin=origin)
        return graph

    def _keys(self) -> Tensor:
        if "keys" not in self._cache:
            self._cache["keys"] = pairs.encode(self.edge_index, self.num_src_nodes)
        return self._cache["keys"]

    def find(self, src: Tensor, dst: Tensor) -> Tensor:
        """Returns the position of each edge (src[k] → dst[k]) in canonical order, −1 where it is absent.

        Args:
            src: int64 node ids of any shape.
            dst: the same shape.

        Returns:
            int64 positions of that shape.

        >>> graph = AttentionGraph(torch.tensor([[0, 1], [1, 1]]), num_src_nodes=2)
        >>> graph.find(torch.tensor([1, 1]), torch.tensor([1, 0]))
        tensor([ 1, -1])
        """
        for name, nodes in (("src", src), ("dst", dst)):
            _check_tensor(nodes, name, self.device)
            if nodes.dtype != torch.int64:
                raise TypeError(f"{name} must have dtype torch.int64, got {nodes.dtype}. Call {name}.long() first.")
        if src.shape != dst.shape:
            raise ValueError(
                f"src and dst must have the same shape, got {list(src.shape)} and {list(dst.shape)}. "
                "Pass one source and one target per edge, or torch.broadcast_tensors(src, dst)."
            )
        inside = (src >= 0) & (src < self.num_src_nodes) & (dst >= 0) & (dst < self.num_dst_nodes)
        return pairs.find(self._keys(), torch.where(inside, dst * self.num_src_nodes + src, -1))

    def align(self, values: Tensor, *, of: AttentionGraph, fill: float = 0.0) -> Tensor:
        """Carries per-edge values of another graph over the same nodes to this graph's edges.

        Args:
            values: [of.num_edges, ...].
            of: the graph that `values` belong to: a subgraph, a union, any graph of the same size.
            fill: what an edge that `of` lacks receives.

        Returns:
            [num_edges, ...].

        >>> bond = AttentionGraph(torch.tensor([[0], [1]]), num_src_nodes=2)
        >>> both = bond | AttentionGraph(torch.tensor([[0], [0]]), num_src_nodes=2)
        >>> both.align(torch.tensor([7.0]), of=bond)
        tensor([0., 7.])
        """
        self._check_same_nodes(of, "align")
        _check_tensor(values, "values", self.device)
        if values.shape[:1] != (of.num_edges,):
            raise ValueError(
                f"values must have shape [of.num_edges, ...] with of.num_edges = {of.num_edges}, got "
                f"{list(values.shape)}. Pass one row per edge of the graph given as `of`."
            )
        position = pairs.find(of._keys(), self._keys())
        if not of.num_edges:
            return values.new_full((self.num_edges, *values.shape[1:]), fill)
        gathered = values[position.clamp(min=0)]
        absent = (position < 0).view(-1, *[1] * (values.dim() - 1))
        return gathered.masked_fill(absent, fill)

    def __or__(self, other: AttentionGraph) -> AttentionGraph:
        """Union; disjoint blocks stay blocks, what overlaps is listed. An edge of both keeps the kinds of both."""
        if not isinstance(other, AttentionGraph):
            return NotImplemented
        self._check_same_nodes(other, "|")
        union = self._disjoint_block_union(other)
        return union if union is not None else self._set_operation(other, "|")

    def __and__(self, other: AttentionGraph) -> AttentionGraph:
        """Edges of both."""
        return self._set_operation(other, "&") if isinstance(other, AttentionGraph) else NotImplemented

    def __sub__(self, other: AttentionGraph) -> AttentionGraph:
        """Edges of the left graph that the right one lacks."""
        return self._set_operation(other, "-") if isinstance(other, AttentionGraph) else NotImplemented

    def __xor__(self, other: AttentionGraph) -> AttentionGraph:
        """Edges of exactly one of the two."""
        return self._set_operation(other, "^") if isinstance(other, AttentionGraph) else NotImplemented

    def __invert__(self) -> AttentionGraph:
        """All pairs that are not edges (inside each graph of a batch); refused above 2^28 pairs."""
        num_src, num_dst = torch.diff(self.src_ptr), torch.diff(self.dst_ptr)
        num_pairs = int((num_src * num_dst).sum())
        _refuse_above_limit(num_pairs, "its complement", self)
        graph, offset = ragged_range(num_src * num_dst)
        width = num_src[graph].clamp(min=1)
        row = torch.div(offset, width, rounding_mode="floor")
        everything = torch.stack([self.src_ptr[graph] + offset - row * width, self.dst_ptr[graph] + row])
        listed = AttentionGraph.trusted(
            everything, self.num_src_nodes, self.num_dst_nodes, src_ptr=self._src_ptr, dst_ptr=self._dst_ptr
        )
        return listed._set_operation(self, "-")._named(f"~{_grouped(self.origin, '~')}")

    def _set_operation(self, other: AttentionGraph, symbol: str) -> AttentionGraph:
        self._check_same_nodes(other, symbol)
        left, right = self.enumerate(), other.enumerate()
        left_keys, right_keys = left._keys(), right._keys()
        head_mask = None
        if left._head_mask is not None or right._head_mask is not None:
            keys, head_mask = _combine_heads(left, right, pairs.merge(left_keys, right_keys), symbol)
        elif symbol == "|":
            keys = pairs.merge(left_keys, right_keys)
        elif symbol == "&":
            keys = left_keys[pairs.find(right_keys, left_keys) >= 0]
        else:
            keys = left_keys[pairs.find(right_keys, left_keys) < 0]
            if symbol == "^":
                keys = pairs.merge(keys, right_keys[pairs.find(left_keys, right_keys) < 0])
        kinds = left.kinds if symbol == "-" else join(left.kinds, right.kinds)
        edge_kind = _combined_kind(keys, [left] if symbol == "-" else [left, right], kinds)
        src_ptr, dst_ptr = self._joined_ptr(other)
        return AttentionGraph.trusted(
            pairs.decode(keys, self.num_src_nodes),
            self.num_src_nodes,
            self.num_dst_nodes,
            edge_kind=edge_kind,
            kinds=kinds,
            src_ptr=src_ptr,
            dst_ptr=dst_ptr,
            head_mask=head_mask,
            origin=f"{_grouped(self.origin, symbol)} {symbol} {_grouped(other.origin, symbol)}",
        )

    def _disjoint_block_union(self, other: AttentionGraph) -> AttentionGraph | None:
        """The union with its blocks kept, or None where the two share a pair (or have no block to keep)."""
        if self.blocks is None and other.blocks is None:
            return None
        blocks = concatenate(
            [
                _kinds_of_blocks(graph, join(self.kinds, other.kinds))
                for graph in (self, other)
                if graph.blocks is not None
            ]
        )
        assert blocks is not None
        if bool(blocks.overlapping().any()):
            return None
        if any(bool((blocks.holder(graph.explicit_edges) >= 0).any()) for graph in (self, other)):
            return None
        edges = self._like(self.explicit_edges, None, self._edge_kind, self.origin, self._head_mask)._set_operation(
            other._like(other.explicit_edges, None, other._edge_kind, other.origin, other._head_mask), "|"
        )
        return edges._like(edges.explicit_edges, blocks, edges._edge_kind, edges.origin, edges._head_mask)

    def __matmul__(self, other: AttentionGraph) -> AttentionGraph:
        """Two hops: target i of the left graph reaches source k of the right one through some node in between.

        As boolean matrices [targets, sources], the product `left @ right`. The result is a batch if both graphs are.
        """
        if not isinstance(other, AttentionGraph):
            return NotImplemented
        if self.num_src_nodes != other.num_dst_nodes:
            raise ValueError(
                f"left @ right needs left.num_src_nodes == right.num_dst_nodes, got {self.num_src_nodes} and "
                f"{other.num_dst_nodes}. The sources of the left graph are the targets of the right one."
            )
        _check_one_device([self, other], "@")
        if self._head_mask is not None or other._head_mask is not None:
            raise ValueError(
                "left @ right is not defined for graphs with a head_mask. Compose one head's graph at a time."
            )
        via, dst = self.edge_index
        target_ptr = other.enumerate().plan().target_ptr
        count = torch.diff(target_ptr)[via]
        _refuse_above_limit(int(count.sum()), "its two-hop composition", self)
        edge, offset = ragged_range(count)
        src = other.edge_index[0][target_ptr[via[edge]] + offset]
        keys = torch.unique(dst[edge] * other.num_src_nodes + src)
        knows_batch = self.num_graphs != 1 and other.num_graphs != 1
        if knows_batch and not torch.equal(self.src_ptr, other.dst_ptr):
            raise _differing_batches(self, other)
        return AttentionGraph.trusted(
            pairs.decode(keys, other.num_src_nodes),
            other.num_src_nodes,
            self.num_dst_nodes,
            src_ptr=other._src_ptr if knows_batch else None,
            dst_ptr=self._dst_ptr if knows_batch else None,
            origin=f"{_grouped(self.origin, '@')} @ {_grouped(other.origin, '@')}",
        )

    @property
    def T(self) -> AttentionGraph:
        """The graph with every edge reversed; blocks stay blocks."""
        edges, order = _sorted_edges(self.explicit_edges.flip(0), self.num_dst_nodes)
        blocks = self.blocks.transpose().without_empty() if self.blocks is not None else None
        return AttentionGraph.trusted(
            edges,
            self.num_dst_nodes,
            self.num_src_nodes,
            blocks=blocks,
            edge_kind=None if self._edge_kind is None else self._edge_kind[order],
            kinds=self.kinds,
            src_ptr=self._dst_ptr,
            dst_ptr=self._src_ptr,
            head_mask=None if self._head_mask is None else self._head_mask[order],
            origin=f"{_grouped(self.origin, '.')}.T",
        )

    def keep(self, rule: Rule) -> AttentionGraph:
        """Keeps the edges for which `rule(src, dst)` is True.

        `is_causal` keeps blocks as blocks where their sources ascend, as builders make them; other rules list them.

        Args:
            rule: takes two int64 tensors [n] of global node ids and returns bool [n]; see `graphattn.rules`.

        Raises:
            ValueError: if the rule returns another shape or dtype.

        >>> from graphattn.graph.rules import within
        >>> graph = AttentionGraph(torch.tensor([[0, 3], [0, 0]]), num_src_nodes=4)
        >>> graph.keep(within(2)).edge_index.tolist()
        [[0], [0]]
        """
        keeps_blocks = rule is is_causal and self.blocks is not None and self.blocks.sources_ascend()
        graph = self if keeps_blocks else self.enumerate()
        src, dst = graph.explicit_edges
        kept = rule(src, dst)
        if not isinstance(kept, Tensor) or kept.dtype != torch.bool or kept.shape != src.shape:
            got = f"{kept.dtype} {list(kept.shape)}" if isinstance(kept, Tensor) else type(kept).__name__
            raise ValueError(
                f"rule must return a bool tensor of shape {list(src.shape)}, got {got}. "
                "A rule takes (src, dst) element by element and answers True to keep the edge."
            )
        name = getattr(rule, "__qualname__", type(rule).__name__).split(".")[-1]
        return graph._like(
            graph.explicit_edges[:, kept],
            graph.blocks.keep_causal() if graph.blocks is not None else None,
            None if graph._edge_kind is None else graph._edge_kind[kept],
            f"{_grouped(self.origin, '.')}.keep({name})",
            None if graph._head_mask is None else graph._head_mask[kept],
        )

    def keep_sources(self, kept: Tensor) -> AttentionGraph:
        """Keeps the edges whose source is marked in `kept` [num_src_nodes] bool; blocks stay blocks.

        Follow with `compact_sources` so that only those sources are projected.
        """
        _check_tensor(kept, "kept", self.device)
        if kept.dtype != torch.bool or kept.shape != (self.num_src_nodes,):
            raise ValueError(
                f"kept must be bool [num_src_nodes] = [{self.num_src_nodes}], got {kept.dtype} {list(kept.shape)}. "
                "Mark each source that stays with True."
            )
        stays = kept[self.explicit_edges[0]]
        return self._like(
            self.explicit_edges[:, stays],
            self.blocks.keep_sources(kept) if self.blocks is not None else None,
            None if self._edge_kind is None else self._edge_kind[stays],
            f"{_grouped(self.origin, '.')}.keep_sources({int(kept.sum())} of {self.num_src_nodes})",
            None if self._head_mask is None else self._head_mask[stays],
        )

    def compact_sources(self) -> tuple[AttentionGraph, Tensor]:
        """Renumbers to the sources that some target reads, so that only those are projected.

        Returns:
            graph: the same edges over `kept.numel()` sources; blocks stay blocks.
            kept: int64 [num_kept], ascending; source s of the new graph is source kept[s] of this one.

        >>> graph, kept = AttentionGraph(torch.tensor([[3], [0]]), num_src_nodes=4).compact_sources()
        >>> graph.num_src_nodes, kept
        (1, tensor([3]))
        """
        used = torch.zeros(self.num_src_nodes, dtype=torch.bool, device=self.device)
        used[self.explicit_edges[0]] = True
        blocks = self.blocks.without_empty() if self.blocks is not None else None
        if blocks is not None:
            used[blocks.src] = True
        kept = used.nonzero()[:, 0]
        new_id = torch.cumsum(used, 0) - 1  # rises with the old id, so every order stays what it is
        edges = torch.stack([new_id[self.explicit_edges[0]], self.explicit_edges[1]])
        if blocks is not None:
            blocks = blocks._replace(src=new_id[blocks.src])
        src_ptr = (
            None if self._src_ptr is None else torch.cat([new_id.new_zeros(1), torch.cumsum(used, 0)])[self._src_ptr]
        )
        graph = AttentionGraph.trusted(
            edges,
            kept.numel(),
            self.num_dst_nodes,
            blocks=blocks,
            edge_kind=self._edge_kind,
            kinds=self.kinds,
            src_ptr=src_ptr,
            dst_ptr=self._dst_ptr,
            head_mask=self._head_mask,
            origin=f"{_grouped(self.origin, '.')}.compact_sources()",
        )
        return graph, kept

    def permute(self, order: Tensor, dst_order: Tensor | None = None) -> AttentionGraph:
        """Renumbers nodes as `x[order]` reorders their features: new node k is old node order[k]. Blocks stay blocks.

        Args:
            order: int64 [num_src_nodes], a permutation. Nodes stay inside their graph of a batch.
            dst_order: the same for targets; None uses `order`, which needs a square graph.

        Raises:
            ValueError: if an order is no permutation, or moves a node to another graph of the batch.
        """
        if dst_order is None:
            if not self.is_square:
                raise ValueError(
                    f"permute needs dst_order for a rectangular graph ({self.num_src_nodes} sources, "
                    f"{self.num_dst_nodes} targets). Pass one order per side."
                )
            dst_order = order
        _check_tensor(order, "order", self.device)
        _check_tensor(dst_order, "dst_order", self.device)
        src_map = _inverse(order, self._src_ptr, self.num_src_nodes, "order")
        dst_map = _inverse(dst_order, self._dst_ptr, self.num_dst_nodes, "dst_order")
        moved = torch.stack([src_map[self.explicit_edges[0]], dst_map[self.explicit_edges[1]]])
        edges, place = _sorted_edges(moved, self.num_src_nodes)
        return self._like(
            edges,
            self.blocks.relabel(src_map, dst_map) if self.blocks is not None else None,
            None if self._edge_kind is None else self._edge_kind[place],
            f"{_grouped(self.origin, '.')}.permute(...)",
            None if self._head_mask is None else self._head_mask[place],
        )

    def plan(self) -> Plan:
        """Returns the tensors that kernels read (CSR, CSC, buckets of blocks), made once and kept.

        Call it in a loader worker, or before compiling: a compiled region builds nothing.
        """
        if self._plan is None:
            if torch.compiler.is_compiling():
                raise RuntimeError(
                    "graph.plan() must be made before a compiled region uses the graph. "
                    "Call graph.plan() where the graph is made."
                )
            self.__dict__["_plan"] = make_plan(
                self.explicit_edges, self.num_src_nodes, self.num_dst_nodes, self.blocks, self._head_mask
            )
        return self._plan  # type: ignore[return-value]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> AttentionGraph:
        """Returns the graph, with its plan if made, on another device."""
        return self._mapped(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> AttentionGraph:
        """Returns the graph, with its plan if made, in pinned host memory."""
        return self._mapped(lambda tensor: tensor.pin_memory())

    def _mapped(self, move: Callable[[Tensor], Tensor]) -> AttentionGraph:
        def maybe(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else move(tensor)

        graph = AttentionGraph.__new__(AttentionGraph)
        graph.__dict__.update(
            self.__dict__,  # sizes and the number of edges need no look at the device
            explicit_edges=move(self.explicit_edges),
            blocks=None if self.blocks is None else Blocks(*map(move, self.blocks)),
            _edge_kind=maybe(self._edge_kind),
            _head_mask=maybe(self._head_mask),
            _src_ptr=maybe(self._src_ptr),
            _dst_ptr=maybe(self._dst_ptr),
            _plan=None if self._plan is None else self._plan.map(move),
            _cache={},
        )
        return graph

    def to_mask(self) -> Tensor:
        """Returns bool [num_dst_nodes, num_src_nodes] (or [num_heads, ...] with a head_mask), True = attend."""
        return convert.to_mask(self)

    @classmethod
    def from_mask(cls, mask: Tensor) -> AttentionGraph:
        """Makes a graph from bool [num_dst_nodes, num_src_nodes] (or [num_heads, ...]), True = attend."""
        edges, head_mask = convert.from_mask(mask)
        return cls.trusted(
            edges,
            mask.shape[-1],
            mask.shape[-2],
            head_mask=head_mask,
            origin=f"from_mask({' × '.join(map(str, mask.shape))})",
        )

    def to_mha_mask(self) -> Tensor:
        """Returns the mask of `torch.nn.MultiheadAttention`, bool [num_dst_nodes, num_src_nodes], True = blocked."""
        return ~self.to_mask()

    @classmethod
    def from_mha_mask(cls, mask: Tensor) -> AttentionGraph:
        """Makes a graph from a mask of `torch.nn.MultiheadAttention`, True = blocked."""
        return cls.from_mask(~convert.checked_mask(mask))

    def to_edge_index(self) -> EdgeIndex:
        """Returns a PyG `EdgeIndex`, sorted by column (the target), with its pointers filled in."""
        return convert.to_edge_index(self)

    def to_data(self, **fields: Any) -> Data:
        """Returns PyG `Data` of a square graph: edge_index, num_nodes, edge_kind, kinds; in a batch, ptr and batch."""
        return convert.to_data(self, **fields)

    @classmethod
    def from_data(cls, data: Data, kind: str = "bond") -> tuple[AttentionGraph, Tensor]:
        """Makes a graph from PyG `Data` or `Batch`; `data.edge_attr[order]` puts features into its order.

        Args:
            data: needs `edge_index`; the `kinds` and `edge_kind` that `to_data` wrote are read back.
            kind: what to call the edges of data without `kinds`.

        Returns:
            graph: the AttentionGraph, a batch where `data` has `ptr` or `batch`.
            order: int64 [num_edges], as `from_edge_index` returns it.
        """
        num_nodes, ptr = convert.sizes_of_data(data)
        kinds, edge_kind = convert.kinds_of_data(data, kind)
        graph, order = cls.from_edge_index(data.edge_index, num_nodes, kinds=kinds)
        if edge_kind is not None:
            _check_tensor(edge_kind, "data.edge_kind", graph.device)
            edge_kind = check_edge_kind(edge_kind, kinds, graph.num_edges)[order]
        graph.__dict__.update(
            _edge_kind=edge_kind,
            _src_ptr=ptr,
            _dst_ptr=ptr,
            origin=f"from_data({num_nodes} nodes, {graph.num_edges} edges)",
        )
        return graph, order

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the graph to a safetensors file: tensors as they are, blocks unlisted, names in the header."""
        convert.save(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> AttentionGraph:
        """Reads a graph written by `save`.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is not such a file, or a damaged one.
        """
        fields, kinds, sizes, origin = convert.load(path)
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
        return graph._named(origin)

    def __eq__(self, other: object) -> bool:
        """Same sizes, same edges, same heads; kinds, batch offsets, provenance, blocks and device do not count."""
        if not isinstance(other, AttentionGraph):
            return NotImplemented
        if self is other:
            return True
        if hash(self) != hash(other):
            return False
        other = other.to(self.device)
        if self.blocks is not None and other.blocks is not None and _same_blocks(self.blocks, other.blocks):
            same = torch.equal(self.explicit_edges, other.explicit_edges)
        else:
            same = torch.equal(self.edge_index, other.edge_index)
        if not same or (self._head_mask is None and other._head_mask is None):
            return same
        masks = [graph.head_mask for graph in (self, other)]
        return torch.equal(
            *(mask if mask is not None else torch.ones_like(next(m for m in masks if m is not None)) for mask in masks)
        )

    def __hash__(self) -> int:
        return hash((self.num_src_nodes, self.num_dst_nodes, self.num_edges))

    def __bool__(self) -> bool:
        raise TypeError(
            "the truth of an AttentionGraph is ambiguous. Compare graph.num_edges with 0, or combine graphs with "
            "& and | instead of `and` and `or`."
        )

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(
            f"AttentionGraph is immutable, cannot set {name!r}. Make a new graph with |, &, -, keep or permute."
        )

    def __repr__(self) -> str:
        batch = f", {self.num_graphs} graphs" if self.num_graphs != 1 else ""
        return (
            f"AttentionGraph({_shortened(self.origin)}: {self.num_dst_nodes} targets × {self.num_src_nodes} sources, "
            f"{self.num_edges} edges{batch})"
        )

    def __str__(self) -> str:
        return summarize(self)

    def _check_same_nodes(self, other: AttentionGraph, operation: str) -> None:
        mine, theirs = (self.num_src_nodes, self.num_dst_nodes), (other.num_src_nodes, other.num_dst_nodes)
        if mine != theirs:
            raise ValueError(
                f"{operation} needs graphs over the same nodes, got {mine[0]} sources × {mine[1]} targets and "
                f"{theirs[0]} × {theirs[1]}. Use disjoint_union to put graphs side by side."
            )
        _check_one_device([self, other], operation)

    def _joined_ptr(self, other: AttentionGraph) -> tuple[Tensor | None, Tensor | None]:
        """The batch offsets of a combination: a graph that knows of no batch takes those of the other."""
        if self._src_ptr is None or self.num_graphs == 1 < other.num_graphs:
            return other._src_ptr, other._dst_ptr
        if other.num_graphs == 1:
            return self._src_ptr, self._dst_ptr
        if not (torch.equal(self.src_ptr, other.src_ptr) and torch.equal(self.dst_ptr, other.dst_ptr)):
            raise _differing_batches(self, other)
        return self._src_ptr, self._dst_ptr


def disjoint_union(graphs: Sequence[AttentionGraph]) -> AttentionGraph:
    """Puts graphs side by side as one batch: nodes are renumbered, no edge crosses, blocks stay blocks.

    Args:
        graphs: at least one graph. Where one has a head_mask, every head sees the edges of those without.

    Returns:
        The batch, with `src_ptr` and `dst_ptr` that tell the graphs apart.

    >>> one = AttentionGraph(torch.tensor([[0], [0]]), num_src_nodes=1)
    >>> disjoint_union([one, one]).edge_index.tolist()
    [[0, 1], [0, 1]]
    """
    graphs = list(graphs)
    if not graphs:
        raise ValueError("disjoint_union needs at least one graph, got none. Pass a non-empty list.")
    _check_one_device(graphs, "disjoint_union")
    num_heads = {graph._head_mask.shape[1] for graph in graphs if graph._head_mask is not None}
    if len(num_heads) > 1:
        raise ValueError(
            f"the graphs differ in the heads of their head_mask, {sorted(num_heads)}. Use the same num_heads in all."
        )
    kinds: tuple[str, ...] = ()
    for graph in graphs:
        kinds = join(kinds, graph.kinds)
    src_start = _starts([graph.num_src_nodes for graph in graphs])
    dst_start = _starts([graph.num_dst_nodes for graph in graphs])
    edges = torch.cat(
        [
            graph.explicit_edges + graph.explicit_edges.new_tensor([[s], [d]])
            for graph, s, d in zip(graphs, src_start, dst_start, strict=False)
        ],
        1,
    )
    has_own_kinds = any(graph._edge_kind is not None or graph.kinds != kinds for graph in graphs)
    edge_kind = (
        torch.cat([rename_bits(g._explicit_kind(), g.kinds, kinds) for g in graphs])
        if has_own_kinds and kinds
        else None
    )
    blocks = concatenate(
        [
            _kinds_of_blocks(graph, kinds).shift(d, s)
            for graph, s, d in zip(graphs, src_start, dst_start, strict=False)
            if graph.blocks is not None
        ]
    )
    head_mask = torch.cat([graph._explicit_heads(*num_heads) for graph in graphs]) if num_heads else None
    origin = f"disjoint_union({len(graphs)} graphs: {_shortened(graphs[0].origin)}{', …' if len(graphs) > 1 else ''})"
    return AttentionGraph.trusted(
        edges,
        src_start[-1],
        dst_start[-1],
        blocks=blocks,
        edge_kind=edge_kind,
        kinds=kinds,
        src_ptr=torch.cat(
            [g.src_ptr[:-1] + s for g, s in zip(graphs, src_start, strict=False)] + [edges.new_tensor([src_start[-1]])]
        ),
        dst_ptr=torch.cat(
            [g.dst_ptr[:-1] + d for g, d in zip(graphs, dst_start, strict=False)] + [edges.new_tensor([dst_start[-1]])]
        ),
        head_mask=head_mask,
        origin=origin,
    )


def _starts(sizes: list[int]) -> list[int]:
    starts = [0]
    for size in sizes:
        starts.append(starts[-1] + size)
    return starts


def _check_size(size: int, name: str) -> None:
    if isinstance(size, bool) or not isinstance(size, int):
        raise TypeError(f"{name} must be an int, got {type(size).__name__}. Pass the number of nodes.")
    if size < 0:
        raise ValueError(f"{name} must not be negative, got {size}. A graph without nodes has 0.")


def _check_tensor(value: Tensor, name: str, device: torch.device | None = None) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}. Pass torch.as_tensor({name}).")
    if device is not None and value.device != device:
        raise ValueError(
            f"{name} must be on the device of the graph's edges, {device}, got {value.device}. "
            f"Call {name}.to({str(device)!r}) first."
        )


def _check_one_device(graphs: list[AttentionGraph], operation: str) -> None:
    devices = list(dict.fromkeys(str(graph.device) for graph in graphs))
    if len(devices) > 1:
        raise ValueError(
            f"{operation} needs graphs on one device, got {' and '.join(devices)}. Call graph.to(device) first."
        )


def _differing_batches(left: AttentionGraph, right: AttentionGraph) -> ValueError:
    return ValueError(
        f"the two graphs split their nodes into different batches ({left.num_graphs} and {right.num_graphs} graphs). "
        "Build both from the same sizes."
    )


def _checked_edges(edge_index: Tensor, num_src_nodes: int, num_dst_nodes: int) -> Tensor:
    """Returns edge_index as a plain tensor, or raises unless it is int64 [2, num_edges] inside the sizes."""
    _check_tensor(edge_index, "edge_index")
    edge_index = convert.plain(edge_index)
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


def _combine_heads(left: AttentionGraph, right: AttentionGraph, keys: Tensor, symbol: str) -> tuple[Tensor, Tensor]:
    """Set operation edge by edge and head by head; edges that no head sees are dropped."""
    masks = []
    num_heads = next(mask.shape[1] for mask in (left._head_mask, right._head_mask) if mask is not None)
    for graph in (left, right):
        position = pairs.find(graph._keys(), keys)
        mask = graph._head_mask
        if mask is None:
            masks.append((position >= 0)[:, None].expand(-1, num_heads))
        elif mask.shape[1] != num_heads:
            raise ValueError(
                f"the two graphs differ in the heads of their head_mask, {num_heads} and {mask.shape[1]}. "
                "Use the same num_heads in both."
            )
        elif not mask.shape[0]:
            masks.append(mask.new_zeros(keys.numel(), num_heads))
        else:
            masks.append(mask[position.clamp(min=0)] & (position >= 0)[:, None])
    a, b = masks
    combined = {"|": a | b, "&": a & b, "-": a & ~b, "^": a ^ b}[symbol]
    seen = combined.any(1)
    return keys[seen], combined[seen]


def _combined_kind(keys: Tensor, graphs: list[AttentionGraph], kinds: tuple[str, ...]) -> Tensor | None:
    """ORs the kinds that each graph gives an edge; None where every edge has every kind."""
    if not kinds or all(graph._edge_kind is None and graph.kinds == kinds for graph in graphs):
        return None
    combined = torch.zeros(keys.numel(), dtype=torch.int16, device=keys.device)
    for graph in graphs:
        if not graph.num_edges:
            continue
        position = pairs.find(graph._keys(), keys)
        bits = rename_bits(graph._explicit_kind(), graph.kinds, kinds)[position.clamp(min=0)]
        combined |= torch.where(position >= 0, bits, 0).to(torch.int16)
    return combined


def _kinds_of_blocks(graph: AttentionGraph, kinds: tuple[str, ...]) -> Blocks:
    assert graph.blocks is not None
    return graph.blocks._replace(kind=rename_bits(graph.blocks.kind, graph.kinds, kinds))


def _same_blocks(left: Blocks, right: Blocks) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left[:5], right[:5], strict=True))


def _sorted_edges(edge_index: Tensor, num_src_nodes: int) -> tuple[Tensor, Tensor]:
    order = torch.argsort(pairs.encode(edge_index, num_src_nodes))
    return edge_index[:, order], order


def _inverse(order: Tensor, ptr: Tensor | None, num_nodes: int, name: str) -> Tensor:
    """Returns the new id of each old node, after checking that `order` permutes the nodes of each graph."""
    identity = torch.arange(num_nodes, device=order.device)
    if order.dtype != torch.int64 or order.shape != (num_nodes,) or not torch.equal(order.sort().values, identity):
        raise ValueError(
            f"{name} must be an int64 permutation of 0 … {num_nodes - 1}, got {order.dtype} {list(order.shape)}. "
            "Each node must appear once."
        )
    inverse = torch.empty_like(order)
    inverse[order] = identity
    if ptr is not None:
        graph = torch.searchsorted(ptr, identity, right=True)
        if not torch.equal(graph[order], graph):
            raise ValueError(f"{name} moves a node to another graph of the batch. Permute inside each graph only.")
    return inverse


def _refuse_above_limit(num_edges: int, what: str, graph: AttentionGraph) -> None:
    if num_edges > MAX_ENUMERATED_EDGES:
        raise ValueError(
            f"{_shortened(graph.origin)}: {what} would hold {num_edges:,} edges ({num_edges * 16 / 2**30:,.0f} GiB), "
            f"above the limit of {MAX_ENUMERATED_EDGES:,}. Keep it as blocks, or start from a sparser graph."
        )


def _grouped(origin: str, symbol: str) -> str:
    """Puts an operand in brackets where the expression would read otherwise without them."""
    depth, operators = 0, set()
    for before, char in zip(" " + origin, origin):
        depth += (char in "([") - (char in ")]")
        if depth == 0 and before == " " and char in "|&-^@~":
            operators.add(char)
    if symbol != ".":
        operators.discard("~")  # binds tighter than the rest, but not than a method
    if not operators or (operators == {symbol} and symbol in "|&"):
        return origin
    return f"({origin})"


def _shortened(origin: str, width: int = 160) -> str:
    return origin if len(origin) <= width else f"{origin[: width // 2]} … {origin[-width // 2 :]}"
