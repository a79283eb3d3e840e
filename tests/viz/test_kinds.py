"""Edges by their kinds, each in one part."""

import torch

from graphattn.connectivity import full, global_tokens, sliding_window
from graphattn.graph import AttentionGraph
from graphattn.viz.kinds import names_of_colors, parts_by_kind
from graphattn.viz.palette import COLORS, GRAY


def test_every_edge_is_in_one_part_that_of_its_rarest_kind() -> None:
    graph = sliding_window(13, 2) | global_tokens(13, [4])
    parts = parts_by_kind(graph)
    assert [(part.name, part.color) for part in parts] == [("global", COLORS[0]), ("window", COLORS[1])]
    joined = parts[0].graph | parts[1].graph
    assert joined == graph and sum(part.graph.num_edges for part in parts) == graph.num_edges
    assert parts[0].graph == global_tokens(13, [4])


def test_blocks_stay_blocks() -> None:
    (part,) = parts_by_kind(full(10**6))
    assert part.graph.num_edges == 10**12 and part.name == "full"


def test_names_of_one_colour_are_joined() -> None:
    bits = torch.tensor([1 << kind for kind in range(9)] + [0])
    graph = AttentionGraph(torch.tensor([[0] * 10, list(range(10))]), 10, edge_kind=bits, kinds=tuple("abcdefghi"))
    names = names_of_colors(parts_by_kind(graph))
    assert list(names)[-1] == "h, i, no kind" and names["h, i, no kind"] == GRAY
    (alone,) = parts_by_kind(AttentionGraph(torch.tensor([[0], [1]]), 2))
    assert alone.name == "no kind"
