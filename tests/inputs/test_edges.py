"""Parts of the attention graph, their union, and the line that names them."""

import re

import networkx
import pytest
import torch
from torch.testing import assert_close

from graphattn.connectivity import full, hops
from graphattn.graph import AttentionGraph, node_ptr
from graphattn.inputs.edges import (
    PARTS,
    Bonds,
    Edges,
    Expander,
    Full,
    Hops,
    Rings,
    VirtualNodes,
    parse_edges,
    ring_systems,
    united,
)

SIZES = torch.tensor([5, 0, 1, 7, 2])  # the last node of each is no atom
NUM_NODES = int(SIZES.sum())
ONE_WAY = torch.tensor([[0, 1, 2, 6, 7, 8, 9, 6], [1, 2, 3, 7, 8, 9, 10, 10]])
BONDS = AttentionGraph.trusted(
    AttentionGraph.from_edge_index(torch.cat([ONE_WAY, ONE_WAY.flip(0)], 1), NUM_NODES)[0].edge_index,
    NUM_NODES, kinds=("bond",), src_ptr=node_ptr(SIZES),
)  # fmt: skip
GRAPH_OF = torch.repeat_interleave(SIZES)
LAST = node_ptr(SIZES)[1:][GRAPH_OF] - 1


def pairs(graph: AttentionGraph) -> set[tuple[int, int]]:
    return set(map(tuple, graph.edge_index.T.tolist()))


@pytest.mark.parametrize(
    "part", [Bonds(), Hops(2), Expander(4), Rings(), VirtualNodes(2), Full()], ids=lambda part: part.kind
)
def test_a_part_is_canonical_stays_inside_each_graph_and_has_its_kind(part: Edges) -> None:
    sizes = SIZES + part.count if isinstance(part, VirtualNodes) else SIZES  # they are there already
    bonds = BONDS if sizes is SIZES else AttentionGraph.trusted(None, int(sizes.sum()), src_ptr=node_ptr(sizes))
    graph = part.edges(bonds, sizes)
    batch = torch.repeat_interleave(sizes)
    checked = AttentionGraph(graph.edge_index, graph.num_src_nodes)  # refuses what is not canonical
    assert checked.num_edges > 0
    assert bool((batch[graph.edge_index[0]] == batch[graph.edge_index[1]]).all())
    assert graph.kinds == (part.kind,)
    assert torch.equal(graph.src_ptr, node_ptr(sizes))


def test_virtual_nodes_read_every_node_and_are_read_by_every_node() -> None:
    graph = VirtualNodes(1).edges(BONDS, SIZES)
    expected = {(i, int(LAST[i])) for i in range(NUM_NODES)} | {(int(LAST[i]), i) for i in range(NUM_NODES)}
    assert pairs(graph) == expected


def test_an_expander_depends_on_the_size_of_its_graph_and_the_seed_alone() -> None:
    alone = Expander(4, seed=3).edges(BONDS, torch.tensor([7]))
    batch = Expander(4, seed=3).edges(BONDS, SIZES)
    first = int(node_ptr(SIZES)[3])
    inside = batch.edge_index[:, GRAPH_OF[batch.edge_index[0]] == 3] - first
    assert torch.equal(inside, alone.edge_index)
    assert Expander(4, seed=4).edges(BONDS, torch.tensor([101])) != Expander(4, seed=3).edges(
        BONDS, torch.tensor([101])
    )


def test_a_batch_without_nodes_has_no_edges() -> None:
    empty = AttentionGraph.trusted(None, 0, kinds=("bond",), src_ptr=node_ptr(torch.tensor([0, 0])))
    assert united([Bonds(), Expander(), Full(), Hops(1)], empty, torch.tensor([0, 0])).num_edges == 0


@pytest.mark.parametrize(
    "parts",
    [
        [Bonds(), Full()],
        [Full(), Bonds(), Hops(2)],
        [Bonds(), VirtualNodes(1)],
        [Expander(2), Bonds(), VirtualNodes(1), Hops(3), Expander(4, 1)],
    ],
)
def test_a_union_has_the_edges_and_kinds_that_the_algebra_gives(parts: list[Edges]) -> None:
    graphs = [part.edges(BONDS, SIZES) for part in parts]
    expected = graphs[0]
    for graph in graphs[1:]:
        expected = expected | graph
    found = united(parts, BONDS, SIZES)
    assert found == expected
    assert found.kinds == expected.kinds
    assert_close(found.edge_kind, expected.edge_kind)
    assert torch.equal(found.src_ptr, node_ptr(SIZES))


def test_a_single_part_keeps_its_blocks() -> None:
    assert united([Full()], BONDS, SIZES) == full(SIZES)
    assert united([Full()], BONDS, SIZES).blocks is not None


def test_a_union_keeps_an_edge_without_bonds_and_a_bond_within_hops_has_both_kinds() -> None:
    graph = united([Bonds(), Hops(2)], BONDS, SIZES)
    assert graph == hops(BONDS, 2)
    is_bond = BONDS.find(*graph.edge_index) >= 0
    assert torch.equal(graph.edge_kind, torch.where(is_bond, 3, 2).to(torch.int16))


# --- the line ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line, parts",
    [
        ("bonds", (Bonds(),)),
        ("  full  ", (Full(),)),
        ("full()", (Full(),)),
        ("bonds | hops(3) | expander(4) | virtual(1) | full", (Bonds(), Hops(3), Expander(4), VirtualNodes(1), Full())),
        ("expander | virtual", (Expander(), VirtualNodes())),
        ("expander(6, 11)\n| (bonds | hops(0))", (Expander(6, seed=11), Bonds(), Hops(0))),
    ],
)
def test_a_line_names_parts_in_order(line: str, parts: tuple[Edges, ...]) -> None:
    assert parse_edges(line) == parts


def test_a_line_of_a_thousand_parts_is_read() -> None:
    assert len(parse_edges(" | ".join(["bonds"] * 1000))) == 1000


@pytest.mark.parametrize(
    "line, position, what",
    [
        ("", 0, "a fault"),
        ("bonds |", 7, "a fault"),
        ("bonds & full", 0, "'bonds & full'"),
        ("bonds | hopps(3)", 8, "unknown name 'hopps', did you mean 'hops'?"),
        ("  window(3)", 2, "unknown name 'window'"),
        ("bonds | hops(2.5)", 13, "'2.5', which is no integer"),
        ("bonds | hops(True)", 13, "'True', which is no integer"),
        ("hops(-1)", 5, "'-1', which is no integer"),
        ("hops('3')", 5, "which is no integer"),
        ("hops(bonds)", 5, "'bonds', which is no integer"),
        ("hops(*[3])", 5, "which is no integer"),
        ("hops(num_hops=3)", 14, "a keyword"),
        ("hops", 0, "'hops' with 0 numbers"),
        ("bonds | full(3)", 8, "'full' with 1 numbers"),
        ("bonds # | full", 6, "a comment"),
        ("bonds.edges", 0, "'bonds.edges'"),
        ("__import__('os').system('true')", 0, "system"),
        ("__import__('os')", 0, "unknown name '__import__'"),
        ("[bonds for _ in full]", 0, "for"),
        ("lambda: bonds", 0, "lambda"),
        ("bonds; full", 5, "a fault"),
        ("bonds\0", 5, "a null byte"),
    ],
)
def test_anything_but_names_and_integers_is_refused_with_its_position(line: str, position: int, what: str) -> None:
    with pytest.raises(
        ValueError, match=f"{re.escape(what)}.*at position {position} of .*Write one or several of bonds"
    ):
        parse_edges(line)


def test_a_refusal_lists_every_part_with_its_numbers() -> None:
    with pytest.raises(
        ValueError, match=re.escape("bonds, hops(num_hops), expander(degree=4, seed=0), rings, virtual(count=1)")
    ):
        parse_edges("nothing")
    assert set(PARTS) == {"bonds", "hops", "expander", "rings", "virtual", "full"}


def test_a_line_that_nests_too_deep_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        parse_edges("(" * 5000 + "bonds" + ")" * 5000)


@pytest.mark.parametrize(
    "line, advice",
    [("bonds | expander(3)", "position 8.*even, got 3. Use 2 or 4"), ("virtual(0)", "at least 1, got 0")],
)
def test_a_number_that_a_part_refuses_is_reported_with_its_position(line: str, advice: str) -> None:
    with pytest.raises(ValueError, match=advice):
        parse_edges(line)


def test_a_line_that_is_no_text_is_refused() -> None:
    with pytest.raises(TypeError, match="one line of text, got list"):
        parse_edges(["bonds"])  # type: ignore[arg-type]


def test_ring_systems_are_what_no_single_bond_parts() -> None:
    # two fused rings (naphthalene), a bond to a ring of three, a chain, two atoms apart
    pairs_of = [(n, (n + 1) % 10) for n in range(10)] + [(0, 5), (9, 10), (10, 11), (11, 12), (12, 10), (12, 13)]
    bonds, _ = AttentionGraph.from_edge_index(
        torch.tensor([*pairs_of, *[(b, a) for a, b in pairs_of]]).T.contiguous(), 16
    )
    labels = ring_systems(bonds)
    expected = [0] * 10 + [1] * 3 + [2, 3, 4]
    assert labels.tolist() == expected
    found = Rings().edges(bonds, torch.tensor([14, 2]))
    assert found.num_edges == 100 + 9 + 3 and found.kinds == ("cluster",)
    graph = networkx.Graph(pairs_of)
    assert {frozenset(each) for each in networkx.k_edge_components(graph, 2)} == {
        frozenset(node for node in range(14) if expected[node] == label) for label in set(expected[:14])
    }
