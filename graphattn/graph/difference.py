"""What two graphs over the same nodes have in common, and what only one of them has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from graphattn.graph.cells import cell_counts
from graphattn.graph.provenance import shortened
from graphattn.graph.raster import canvas, draw
from graphattn.graph.summary import edges_of_kinds, plural
from graphattn.graph.validate import check_same_nodes

if TYPE_CHECKING:
    from graphattn.graph.attention_graph import AttentionGraph

SIGNS = "·=-±+"
NUM_EXAMPLES = 3


@dataclass(frozen=True)
class Difference:
    """Two graphs compared edge by edge, and head by head where heads see different edges; its text is a report."""

    left: AttentionGraph
    right: AttentionGraph
    only_left: AttentionGraph  # left - right
    only_right: AttentionGraph  # right - left
    both: AttentionGraph  # left & right

    @property
    def is_same(self) -> bool:
        """Whether no edge is in one graph alone."""
        return not self.only_left.num_edges and not self.only_right.num_edges

    def raster(self, width: int = 64) -> str:
        """Returns the matrix as text: `-` only left, `+` only right, `=` both, `·` neither.

        In a cell of several pairs, a difference is shown before what is common, and `±` says that both sides differ.
        """
        num_rows, num_columns, is_exact = canvas(self.left, width)
        left, right, both = (
            cell_counts(graph, num_rows, num_columns) > 0 for graph in (self.only_left, self.only_right, self.both)
        )
        level = torch.where(left & right, 3, torch.where(left, 2, torch.where(right, 4, both.long())))
        return draw(level, SIGNS, gap=" " if is_exact else "")

    def __str__(self) -> str:
        lines = [f"- {shortened(self.left.origin)}", f"+ {shortened(self.right.origin)}"]
        for sign, name, graph in (
            ("-", "only left", self.only_left),
            ("+", "only right", self.only_right),
            ("=", "both", self.both),
        ):
            lines.append(f"{sign} {name}: {plural(graph.num_edges, 'edge')}{_of_kinds(graph)}{_examples(graph)}")
        if self.left.num_src_nodes and self.left.num_dst_nodes:
            lines.append(self.raster())
        return "\n".join(lines)


def diff(left: AttentionGraph, right: AttentionGraph) -> Difference:
    """Compares two graphs over the same nodes.

    Returns:
        Difference, whose fields are graphs; `print` shows counts, kinds, a few edges and a picture.

    Raises:
        ValueError: if the graphs differ in their nodes or batches, or have more edges than can be listed.

    >>> from graphattn.graph import AttentionGraph
    >>> one = AttentionGraph(torch.tensor([[0, 1], [0, 0]]), num_src_nodes=2)
    >>> two = AttentionGraph(torch.tensor([[0, 1], [0, 1]]), num_src_nodes=2)
    >>> print(diff(one, two))
    - 2 edges
    + 2 edges
    - only left: 1 edge, such as 1 → 0
    + only right: 1 edge, such as 1 → 1
    = both: 1 edge, such as 0 → 0
    = -
    · +
    """
    check_same_nodes(left, right, "diff")
    if left.blocks is not None and _are_alike(left, right):  # no list is needed
        nothing = left._like(left.explicit_edges[:, :0], None, None, f"{left.origin} - itself")
        return Difference(left, right, nothing, nothing, left)
    return Difference(left, right, left - right, right - left, left & right)


def _are_alike(left: AttentionGraph, right: AttentionGraph) -> bool:
    has_heads = left._head_mask is not None or right._head_mask is not None
    differs = left.kinds != right.kinds or left.num_graphs != right.num_graphs
    if has_heads or differs or right.blocks is None or left != right:
        return False
    assert left.blocks is not None
    of_blocks = left.blocks.kind, right.blocks.kind
    return torch.equal(left._explicit_kind(), right._explicit_kind()) and torch.equal(*of_blocks)


def _of_kinds(graph: AttentionGraph) -> str:
    counts = {kind: count for kind, count in edges_of_kinds(graph).items() if count}
    return f" ({', '.join(f'{kind} {count:,}' for kind, count in counts.items())})" if counts else ""


def _examples(graph: AttentionGraph) -> str:
    shown = graph.explicit_edges[:, :NUM_EXAMPLES].T.tolist()
    if not shown:
        return ""
    return f", such as {', '.join(f'{src} → {dst}' for src, dst in shown)}"
