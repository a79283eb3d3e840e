"""The noun: who may look at whom."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from graphattn.graph import algebra, pairs
from graphattn.graph.blocks import Blocks, checked_blocks
from graphattn.graph.convert import bsr, files, flex, hugging_face, masks, networkx, pyg, sparse, xformers
from graphattn.graph.describe import Description, describe
from graphattn.graph.difference import Difference, diff
from graphattn.graph.kinds import all_bits, check_edge_kind, check_kinds
from graphattn.graph.listing import add_blocks, list_blocks
from graphattn.graph.plan import Plan, make_plan
from graphattn.graph.provenance import shortened
from graphattn.graph.raster import raster
from graphattn.graph.reorder import Reordering, reorder
from graphattn.graph.rules import Rule
from graphattn.graph.summary import summarize
from graphattn.graph.validate import (
    check_ends,
    check_head_mask,
    check_inside_graphs,
    check_order,
    check_same_nodes,
    check_size,
    check_tensor,
    checked_edges,
    checked_ptrs,
)

# With the plan, sources that nobody reads are left out of a second one, for layers to project the others only, where
# less than this share is read.
MAX_READ_SHARE = 0.75


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
        TypeError, ValueError: naming the argument, the rule, the value and the next step; also where an edge or a
            block joins two graphs of the batch.

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
        check_size(num_src_nodes, "num_src_nodes")
        check_size(num_dst_nodes, "num_dst_nodes")
        edge_index = checked_edges(edge_index, num_src_nodes, num_dst_nodes)
        optional = {"edge_kind": edge_kind, "src_ptr": src_ptr, "dst_ptr": dst_ptr, "head_mask": head_mask}
        for name, tensor in optional.items():
            if tensor is not None:
                check_tensor(tensor, name, edge_index.device)
        check_order(edge_index, num_src_nodes)
        kinds = check_kinds(kinds)
        num_listed = edge_index.shape[1]
        if edge_kind is not None:
            edge_kind = check_edge_kind(edge_kind, kinds, num_listed)
        if head_mask is not None:
            check_head_mask(head_mask, num_listed)
        src_ptr, dst_ptr = checked_ptrs(src_ptr, dst_ptr, num_src_nodes, num_dst_nodes)
        if blocks is not None:
            blocks = checked_blocks(blocks, num_src_nodes, num_dst_nodes, edge_index.device)
        check_inside_graphs(edge_index, blocks, src_ptr, dst_ptr)
        graph = AttentionGraph.trusted(
            edge_index,
            num_src_nodes,
            num_dst_nodes,
            edge_kind=edge_kind,
            kinds=kinds,
            src_ptr=src_ptr,
            dst_ptr=dst_ptr,
            head_mask=head_mask,
            origin=f"{num_listed} edges",
        )
        if blocks is not None:
            graph = add_blocks(graph, blocks._replace(kind=blocks.kind & all_bits(kinds)))
        self.__dict__.update(graph.__dict__)

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
        graph.__dict__.update(
            num_src_nodes=num_src_nodes,
            num_dst_nodes=num_src_nodes if num_dst_nodes is None else num_dst_nodes,
            kinds=kinds,
            blocks=blocks,
            explicit_edges=edge_index.contiguous(),
            origin=origin,
            _num_edges=edge_index.shape[1] + (blocks.num_edges if blocks is not None else 0),
            _edge_kind=edge_kind,
            _head_mask=head_mask,
            _src_ptr=src_ptr,
            _dst_ptr=src_ptr if dst_ptr is None else dst_ptr,
            _cache={},
            _plan=None,
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
        return pyg.from_edge_index(cls, edge_index, num_nodes, duplicates, kinds)

    @property
    def num_edges(self) -> int:
        """Number of (source, target) pairs, those inside blocks counted, not listed."""
        return self._num_edges

    @property
    def device(self) -> torch.device:
        """Where the graph's tensors are."""
        # the plan first: a compiled region then reads no tensor whose number of edges it would hold for fixed
        return self.explicit_edges.device if self._plan is None else self._plan.src.device

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
        return self.enumerate()._explicit_kind()

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
            with torch.inference_mode(False):
                self._cache["listed"] = list_blocks(self)
        return self._cache["listed"]

    @property
    def notes(self) -> dict[Any, Any]:
        """What other rooms note about this graph, such as which implementation serves a call best; gone with it."""
        return self._cache.setdefault("notes", {})

    def _explicit_kind(self) -> Tensor:
        if self._edge_kind is not None:
            return self._edge_kind
        return torch.full((self.explicit_edges.shape[1],), all_bits(self.kinds), dtype=torch.int16, device=self.device)

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

    def named(self, origin: str) -> AttentionGraph:
        """Returns the same graph under another expression for `repr`; its plan and caches are kept."""
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
        check_ends(src, dst, self.device)
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
        check_same_nodes(self, of, "align")
        check_tensor(values, "values", self.device)
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
        """Union; disjoint blocks stay blocks, what overlaps is listed. An edge of both keeps the kinds of both.

        A graph that knows of no batch takes the offsets of the other one, here and in `&`, `-` and `^`.

        Raises:
            ValueError: if the graphs differ in their nodes or batches, or an edge would join two graphs of the batch.
        """
        return algebra.union(self, other) if isinstance(other, AttentionGraph) else NotImplemented

    def __and__(self, other: AttentionGraph) -> AttentionGraph:
        """Edges of both."""
        return algebra.set_operation(self, other, "&") if isinstance(other, AttentionGraph) else NotImplemented

    def __sub__(self, other: AttentionGraph) -> AttentionGraph:
        """Edges of the left graph that the right one lacks."""
        return algebra.set_operation(self, other, "-") if isinstance(other, AttentionGraph) else NotImplemented

    def __xor__(self, other: AttentionGraph) -> AttentionGraph:
        """Edges of exactly one of the two."""
        return algebra.set_operation(self, other, "^") if isinstance(other, AttentionGraph) else NotImplemented

    def __invert__(self) -> AttentionGraph:
        """All pairs that are not edges (inside each graph of a batch); refused above 2^28 pairs."""
        return algebra.complement(self)

    def __matmul__(self, other: AttentionGraph) -> AttentionGraph:
        """Two hops: target i of the left graph reaches source k of the right one through some node in between.

        As boolean matrices [targets, sources], the product `left @ right`. The result is a batch if both graphs are.
        """
        return algebra.compose(self, other) if isinstance(other, AttentionGraph) else NotImplemented

    @property
    def T(self) -> AttentionGraph:
        """The graph with every edge reversed; blocks stay blocks."""
        return algebra.transpose(self)

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
        return algebra.keep(self, rule)

    def keep_sources(self, kept: Tensor) -> AttentionGraph:
        """Keeps the edges whose source is marked in `kept` [num_src_nodes] bool; blocks stay blocks.

        Follow with `compact_sources` so that only those sources are projected.
        """
        return algebra.keep_sources(self, kept)

    def keep_equal(self, src_label: Tensor, dst_label: Tensor) -> AttentionGraph:
        """Keeps the edges whose source and target carry the same label; blocks are cut into one per label.

        Args:
            src_label: int64 [num_src_nodes], at least 0.
            dst_label: int64 [num_dst_nodes], at least 0.

        >>> graph = AttentionGraph(torch.tensor([[0, 1, 0], [0, 0, 1]]), num_src_nodes=2)
        >>> graph.keep_equal(torch.tensor([0, 1]), torch.tensor([1, 0])).edge_index.tolist()
        [[1, 0], [0, 1]]
        """
        return algebra.keep_equal(self, src_label, dst_label)

    def self_edges(self) -> AttentionGraph:
        """Returns the graph of the edges (i → i) alone, with their kinds; blocks are searched, not listed.

        >>> AttentionGraph(torch.tensor([[0, 1, 1], [0, 0, 1]]), num_src_nodes=2).self_edges().edge_index.tolist()
        [[0, 1], [0, 1]]
        """
        return algebra.self_edges(self)

    def looks_ahead(self) -> bool:
        """Returns whether some target reads a source of a higher number; False is what `keep(is_causal)` promises.

        >>> AttentionGraph(torch.tensor([[0, 0, 1], [0, 1, 1]]), num_src_nodes=2).looks_ahead()
        False
        """
        src, dst = self.explicit_edges
        return bool((src > dst).any()) or (self.blocks is not None and self.blocks.looks_ahead())

    def marked(self, kind: str) -> AttentionGraph:
        """Returns the same edges, each also of the kind named.

        >>> window = AttentionGraph(torch.tensor([[0], [0]]), num_src_nodes=1, kinds=("window",))
        >>> window.marked("sampled").kinds
        ('window', 'sampled')
        """
        return algebra.marked(self, kind)

    def of_head(self, head: int) -> AttentionGraph:
        """Returns the graph that one head sees, without a head_mask; blocks, which all heads see, stay blocks.

        >>> heads = torch.tensor([[True, False], [True, True]])
        >>> graph = AttentionGraph(torch.tensor([[0, 1], [0, 0]]), num_src_nodes=2, head_mask=heads)
        >>> graph.of_head(1).edge_index.tolist()
        [[1], [0]]
        """
        return algebra.of_head(self, head)

    def compact_sources(self) -> tuple[AttentionGraph, Tensor]:
        """Renumbers to the sources that some target reads, so that only those are projected.

        Returns:
            graph: the same edges over `kept.numel()` sources; blocks stay blocks.
            kept: int64 [num_kept], ascending; source s of the new graph is source kept[s] of this one.

        >>> graph, kept = AttentionGraph(torch.tensor([[3], [0]]), num_src_nodes=4).compact_sources()
        >>> graph.num_src_nodes, kept
        (1, tensor([3]))
        """
        return algebra.compact_sources(self)

    def permute(self, order: Tensor, dst_order: Tensor | None = None) -> AttentionGraph:
        """Renumbers nodes as `x[order]` reorders their features: new node k is old node order[k]. Blocks stay blocks.

        Args:
            order: int64 [num_src_nodes], a permutation. Nodes stay inside their graph of a batch.
            dst_order: the same for targets; None uses `order`, which needs a square graph.

        Raises:
            ValueError: if an order is no permutation, or moves a node to another graph of the batch.
        """
        return algebra.permute(self, order, dst_order)

    def reorder(
        self,
        method: str,
        *,
        shape: Sequence[int] | Tensor | None = None,
        positions: Tensor | None = None,
        block_size: int = 128,
    ) -> Reordering:
        """Reorders the nodes of each graph so that edges fill fewer tiles; returns the order, the graph and the counts.

        Args:
            method: "rcm", "degree", or along a curve, "morton" or "hilbert".
            shape: for a curve, the lengths of a grid whose cells are the nodes in row-major order.
            positions: for a curve instead, [num_nodes, num_axes].
            block_size: side of the tiles that are counted.

        >>> far = AttentionGraph(torch.tensor([[0, 3, 1, 2, 1, 2, 0, 3], [0, 0, 1, 1, 2, 2, 3, 3]]), num_src_nodes=4)
        >>> found = far.reorder("rcm", block_size=2)
        >>> found.num_blocks_before, found.num_blocks_after, found.graph.num_edges
        (4, 2, 8)
        """
        return reorder(self, method, shape=shape, positions=positions, block_size=block_size)

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
            with torch.inference_mode(False):  # it is kept, so it must serve training as well
                self._make_plan()
        return self._plan  # type: ignore[return-value]

    def _make_plan(self) -> None:
        plan = make_plan(self.explicit_edges, self.num_src_nodes, self.num_dst_nodes, self.blocks, self._head_mask)
        plan.mark_dynamic()
        self.__dict__["_plan"] = plan
        is_read = plan.is_read()
        if int(is_read.sum()) < MAX_READ_SHARE * self.num_src_nodes:
            compact, kept = self.compact_sources()
            compact.__dict__["_plan"] = plan.keep_sources(kept)
            compact.plan().mark_dynamic()
            self._cache["read"] = compact, kept

    def only_read_sources(self) -> tuple[AttentionGraph, Tensor | None]:
        """Returns `compact_sources()`, made once with the plan, or (self, None) where most sources are read anyway.

        >>> sampled = AttentionGraph(torch.tensor([[3, 3], [0, 1]]), num_src_nodes=4)
        >>> graph, kept = sampled.only_read_sources()
        >>> graph.num_src_nodes, kept, graph.only_read_sources()[1]
        (1, tensor([3]), None)
        """
        self.plan()
        return self._cache.get("read", (self, None))

    def to(self, device: torch.device | str, non_blocking: bool = False) -> AttentionGraph:
        """Returns the graph, with its plan if made, on another device."""
        return self._mapped(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> AttentionGraph:
        """Returns the graph, with its plan if made, in pinned host memory."""
        return self._mapped(lambda tensor: tensor.pin_memory())

    def _mapped(self, move: Callable[[Tensor], Tensor]) -> AttentionGraph:
        def maybe(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else move(tensor)

        read = self._cache.get("read")
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
            _cache={} if read is None else {"read": (read[0]._mapped(move), move(read[1]))},
        )
        return graph

    # Conversions: a function of graphattn.graph.convert takes the graph, or the class to make, as its first argument.
    to_mask, from_mask = masks.to_mask, classmethod(masks.from_mask)
    to_mha_mask, from_mha_mask = masks.to_mha_mask, classmethod(masks.from_mha_mask)
    to_additive_mask, from_additive_mask = masks.to_additive_mask, classmethod(masks.from_additive_mask)
    to_hf_mask, from_hf_mask = hugging_face.to_hf_mask, classmethod(hugging_face.from_hf_mask)
    to_block_mask, from_block_mask = flex.to_block_mask, classmethod(flex.from_block_mask)
    to_mask_mod, from_mask_mod = flex.to_mask_mod, classmethod(flex.from_mask_mod)
    to_xformers, from_xformers = xformers.to_xformers, classmethod(xformers.from_xformers)
    to_bsr, from_bsr = bsr.to_bsr, classmethod(bsr.from_bsr)
    to_scipy, from_scipy = sparse.to_scipy, classmethod(sparse.from_scipy)
    to_sparse_csr, from_sparse_csr = sparse.to_sparse_csr, classmethod(sparse.from_sparse_csr)
    to_networkx, from_networkx = networkx.to_networkx, classmethod(networkx.from_networkx)
    to_data, from_data = pyg.to_data, classmethod(pyg.from_data)
    to_edge_index = pyg.to_edge_index
    save, load = files.save, classmethod(files.load)

    def describe(self) -> Description:
        """Returns degrees, components, hops until cover, padding waste and cost; `print` it, or read its fields.

        >>> graph = AttentionGraph(torch.tensor([[0, 0, 1], [0, 1, 1]]), num_src_nodes=2)
        >>> graph.describe().in_degrees.max, graph.describe().num_components
        (2, 1)
        """
        return describe(self)

    def diff(self, other: AttentionGraph) -> Difference:
        """Compares with another graph over the same nodes: what only this one has, only the other, and both.

        >>> one = AttentionGraph(torch.tensor([[0, 1], [0, 0]]), num_src_nodes=2)
        >>> one.diff(one).is_same, one.diff(one.T).only_right.edge_index.tolist()
        (True, [[0], [1]])
        """
        return diff(self, other)

    def raster(self, width: int = 64) -> str:
        """Returns the matrix as text, pair by pair where it fits into `width` characters, else in shaded cells.

        >>> print(AttentionGraph(torch.tensor([[0, 0, 1], [0, 1, 1]]), num_src_nodes=2).raster())
        ■ ·
        ■ ■
        """
        return raster(self, width)

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
            f"AttentionGraph({shortened(self.origin)}: {self.num_dst_nodes} targets × {self.num_src_nodes} sources, "
            f"{self.num_edges} edges{batch})"
        )

    def __str__(self) -> str:
        return summarize(self)


def _same_blocks(left: Blocks, right: Blocks) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left[:5], right[:5], strict=True))
