"""The edges of a graph by their kinds, each kind with a colour."""

from __future__ import annotations

from typing import NamedTuple

import torch

from graphattn.graph import AttentionGraph
from graphattn.graph.summary import edges_of_kinds
from graphattn.viz.palette import COLORS, GRAY


class Part(NamedTuple):
    """Edges of one colour."""

    name: str
    color: str
    graph: AttentionGraph  # over the same nodes


def parts_by_kind(graph: AttentionGraph) -> list[Part]:
    """Splits a graph, each edge into the rarest of its kinds; the rarest kind first, with the first colour.

    >>> import graphattn as ga
    >>> graph = ga.connectivity.sliding_window(5, radius=1) | ga.connectivity.global_tokens(5, [0])
    >>> [(part.name, part.graph.num_edges) for part in parts_by_kind(graph)]
    [('global', 9), ('window', 10)]
    """
    count = edges_of_kinds(graph)
    bits = sorted((bit for bit, kind in enumerate(graph.kinds) if count[kind]), key=lambda bit: count[graph.kinds[bit]])
    left, blocks = graph._explicit_kind(), graph.blocks
    of_blocks = left[:0] if blocks is None else blocks.kind
    is_left = torch.ones_like(left, dtype=torch.bool), torch.ones_like(of_blocks, dtype=torch.bool)
    parts = []
    for place, bit in enumerate(bits):
        chosen = [mine & ((kind >> bit) & 1 == 1) for mine, kind in zip(is_left, (left, of_blocks))]
        is_left = is_left[0] & ~chosen[0], is_left[1] & ~chosen[1]
        color = COLORS[place] if place < len(COLORS) else GRAY
        parts.append(Part(graph.kinds[bit], color, _among(graph, *chosen)))
    if not parts or bool(is_left[0].any()) or bool(is_left[1].any()):
        parts.append(Part("no kind", GRAY, _among(graph, *is_left)))
    return parts


def names_of_colors(parts: list[Part]) -> dict[str, str]:
    """Returns names → colour, the names of a colour joined."""
    names: dict[str, str] = {}  # of each colour
    for name, color, _ in parts:
        names[color] = f"{names[color]}, {name}" if color in names else name
    return {name: color for color, name in names.items()}


def _among(graph: AttentionGraph, chosen: torch.Tensor, chosen_blocks: torch.Tensor) -> AttentionGraph:
    blocks = None if graph.blocks is None else graph.blocks.select(chosen_blocks)
    return graph._like(graph.explicit_edges[:, chosen], blocks, None, graph.origin)
