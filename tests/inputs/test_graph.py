"""Collation: what a batch holds, that it is a function of its records, and what it says of bad ones."""

import re
from dataclasses import fields

import networkx as nx
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torch.utils.data import DataLoader
from torch_geometric.data import Data

from graphattn.connectivity import full, sliding_window
from graphattn.data import from_data, make_loader
from graphattn.graph import AttentionGraph
from graphattn.inputs import (
    GraphBatch,
    GraphCollate,
    laplacian_positions,
    parse_edges,
    random_walk_positions,
    singular_positions,
)
from graphattn.inputs.edges import Bonds, Expander, Full, Hops, VirtualNodes
from tests.inputs.molecules import molecule

RECORDS = [molecule(11, 1, record_number=17), molecule(1), molecule(7, 2), molecule(0), molecule(13, 3)]
SIZES = [11, 1, 7, 0, 13]
EVERYTHING = GraphCollate(
    parse_edges("bonds | hops(2) | expander(4) | virtual(2)"),
    max_hops=3,
    num_walks=5,
    num_eigenvectors=3,
    num_singular=2,
)


def assert_same(left: GraphBatch, right: GraphBatch) -> None:
    for field in fields(GraphBatch):
        ours, theirs = getattr(left, field.name), getattr(right, field.name)
        if isinstance(ours, AttentionGraph):
            assert ours == theirs and ours.kinds == theirs.kinds
            assert torch.equal(ours.edge_kind, theirs.edge_kind) and torch.equal(ours.src_ptr, theirs.src_ptr)
        elif isinstance(ours, Tensor):
            assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)
        else:
            assert ours == theirs


# --- what a batch holds --------------------------------------------------------------------------------------------


def test_nodes_of_a_graph_stand_together_with_its_virtual_nodes_last() -> None:
    batch = EVERYTHING(RECORDS)
    assert batch.num_graphs == 5
    assert batch.num_virtual == EVERYTHING.num_virtual == 2
    assert batch.graph.src_ptr.tolist() == [0, 13, 16, 25, 27, 42]
    assert batch.virtual.tolist() == [v for size in SIZES for v in [0] * size + [1, 2]]
    assert batch.batch.tolist() == [g for g, size in enumerate(SIZES) for _ in range(size + 2)]
    assert_close(batch.x[batch.node], torch.cat([record.x for record in RECORDS]))
    assert torch.equal(batch.node, (batch.virtual == 0).nonzero()[:, 0])
    assert not batch.x[batch.virtual > 0].any()
    assert batch.index.tolist() == [17, -1, -1, -1, -1]
    assert_close(batch.y, torch.cat([record.y for record in RECORDS]))


def test_the_graph_carries_its_plan_and_the_kinds_of_its_parts() -> None:
    batch = EVERYTHING(RECORDS)
    assert batch.graph._plan is not None
    assert batch.graph.kinds == EVERYTHING.kinds == ("bond", "hop", "expander", "virtual")


@pytest.mark.parametrize("line", ["bonds", "bonds | full | virtual(1)", "full", "hops(1) | virtual(2)", "expander(2)"])
def test_every_bond_among_the_edges_has_its_own_features(line: str) -> None:
    batch = GraphCollate(parse_edges(line))(RECORDS)
    expected, start = {}, 0
    for record, size in zip(RECORDS, SIZES, strict=True):
        for (src, dst), attr in zip(record.edge_index.T.tolist(), record.edge_attr.tolist(), strict=True):
            expected[(int(batch.node[start + src]), int(batch.node[start + dst]))] = attr
        start += size
    assert batch.bond is not None and batch.edge_attr is not None
    found = {
        edge: batch.edge_attr[bond].tolist()
        for edge, bond in zip(map(tuple, batch.graph.edge_index.T.tolist()), batch.bond.tolist(), strict=True)
        if bond >= 0
    }
    listed = set(map(tuple, batch.graph.edge_index.T.tolist()))
    assert found == {edge: attr for edge, attr in expected.items() if edge in listed}
    assert len(found) == len(expected) or line == "expander(2)"


def test_distances_count_bonds_and_are_told_apart_from_those_to_virtual_nodes() -> None:
    batch = GraphCollate((Bonds(), Full(), VirtualNodes(1)), max_hops=3)(RECORDS)
    assert batch.distance is not None
    networks = [nx.Graph(record.edge_index.T.tolist()) for record in RECORDS]
    lengths = [dict(nx.all_pairs_shortest_path_length(network)) for network in networks]
    for (src, dst), distance in zip(batch.graph.edge_index.T.tolist(), batch.distance.tolist(), strict=True):
        number = int(batch.batch[src])
        first = int(batch.graph.src_ptr[number])
        if batch.virtual[src] or batch.virtual[dst]:
            assert distance == -1
        else:
            between = 0 if src == dst else lengths[number][src - first][dst - first]
            assert distance == min(between, 4)


@pytest.mark.parametrize("line", ["bonds", "bonds | full | virtual(1)", "full", "hops(2) | expander(2) | virtual(1)"])
def test_edges_of_one_type_are_alike_and_edges_of_two_types_differ(line: str) -> None:
    batch = GraphCollate(parse_edges(line), max_hops=2)(RECORDS)
    assert batch.bond is not None and batch.edge_attr is not None and batch.distance is not None
    assert batch.edge_type is not None and batch.type_edge is not None
    features = [
        (int(kind), tuple(batch.edge_attr[bond].tolist()) if bond >= 0 else None, int(distance))
        for kind, bond, distance in zip(batch.graph.edge_kind, batch.bond.tolist(), batch.distance, strict=True)
    ]
    assert len(set(features)) == batch.type_edge.numel()
    assert len(set(zip(features, batch.edge_type.tolist()))) == batch.type_edge.numel()
    assert torch.equal(batch.edge_type[batch.type_edge], torch.arange(batch.type_edge.numel()))


def test_many_types_and_features_that_are_numbers_are_given_edge_by_edge() -> None:
    numbers = [molecule(11, 1).clone(), molecule(7, 3).clone()]
    for record in numbers:
        record.edge_attr = record.edge_attr.double()
    many = molecule(11, 1).clone()
    many.edge_attr = torch.arange(many.edge_attr.numel()).view_as(many.edge_attr)
    for records in (numbers, [many] * 9):
        batch = GraphCollate((Bonds(),))(records)
        assert (batch.edge_type is None) == (batch.type_edge is None)
        assert batch.edge_type is None or batch.type_edge.numel() <= 64
    assert GraphCollate((Bonds(),))(numbers).edge_type is None
    many.edge_attr[:, 0] += 2**20
    assert GraphCollate((Bonds(),))([many]).edge_type is None


def test_positions_are_those_of_the_bonds_alone_whatever_the_virtual_nodes() -> None:
    batch = EVERYTHING(RECORDS)
    assert batch.positions is not None and batch.positions.shape == (42, 12)
    assert not batch.positions[batch.virtual > 0].any()
    start = 0
    for record, size in zip(RECORDS, SIZES, strict=True):
        bonds, _ = AttentionGraph.from_edge_index(record.edge_index, size)
        parts = [random_walk_positions(bonds, 5), laplacian_positions(bonds, 3), singular_positions(bonds, 2)]
        expected = torch.cat(parts, 1)
        assert torch.equal(batch.positions[batch.node[start : start + size]], expected)
        start += size


def test_full_attention_stays_in_blocks_where_nothing_is_said_of_edges() -> None:
    assert GraphCollate((Full(),), edge_features=False)(RECORDS).graph.blocks is not None
    listed = GraphCollate((Full(),))(RECORDS)
    assert listed.graph.blocks is None and listed.bond is not None
    without = GraphCollate((Bonds(),), edge_features=False)(RECORDS)
    assert without.edge_attr is None and without.bond is None


# --- a batch of any graph -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("x", [torch.arange(36).view(18, 2), torch.randn(18, 5)], ids=["categories", "numbers"])
def test_a_batch_of_any_graph_tells_its_graphs_apart_by_the_offsets(x: Tensor) -> None:
    graph = sliding_window(torch.tensor([11, 0, 7]), radius=2)
    y = torch.randn(3, 1)
    batch = GraphBatch.of(x, graph, y)
    assert batch.x is x and batch.graph is graph and batch.y is y
    assert batch.num_graphs == 3 and batch.index.tolist() == [-1] * 3
    assert batch.batch.tolist() == [0] * 11 + [2] * 7
    assert batch.node.tolist() == list(range(18)) and not batch.virtual.any() and batch.num_virtual == 0
    others = (batch.edge_attr, batch.bond, batch.edge_type, batch.type_edge, batch.distance, batch.positions)
    assert others == (None,) * 6


def test_a_batch_of_one_graph_needs_no_offsets_and_no_labels() -> None:
    batch = GraphBatch.of(torch.zeros(13, 3), full(13).enumerate())
    assert batch.num_graphs == 1 and batch.batch.tolist() == [0] * 13 and batch.y is None
    empty = GraphBatch.of(torch.zeros(0, 3), full(torch.tensor([], dtype=torch.int64)))
    assert empty.num_graphs == 0 and empty.batch.numel() == empty.node.numel() == 0


def test_a_batch_of_the_full_graph_is_what_the_collation_makes_of_it() -> None:
    records = [molecule(11, 1), molecule(0), molecule(7, 2)]
    collated = GraphCollate((Full(),), edge_features=False)(records)
    x, y = (torch.cat([getattr(record, field) for record in records]) for field in ("x", "y"))
    assert_same(GraphBatch.of(x, full(torch.tensor([11, 0, 7])), y), collated)


def test_a_batch_of_any_graph_moves_and_leaves_what_it_was_made_of() -> None:
    graph = sliding_window(torch.tensor([5, 3]), radius=1)
    batch = GraphBatch.of(torch.randn(8, 2), graph, torch.zeros(2, 1))
    moved = batch.to("meta")
    assert moved.x.device.type == moved.graph.device.type == moved.node.device.type == "meta"
    assert graph.device.type == batch.x.device.type == "cpu"


@pytest.mark.parametrize(
    "x, graph, advice",
    [
        (torch.zeros(7, 2), full(8), "got [7, 2] and 8 sources, 8 targets. Give each node one row."),
        (torch.zeros(8), full(8), "x must have shape [num_nodes, num_features]"),
        (torch.zeros(2, 4, 3), full(8), "got [2, 4, 3]"),
        (torch.zeros(8, 2), full(8).keep_sources(torch.arange(8) < 5).compact_sources()[0], "got [8, 2] and 5 sources"),
    ],
    ids=["too few rows", "no features", "three axes", "cross attention"],
)
def test_a_batch_of_features_that_do_not_fit_the_graph_is_refused(
    x: Tensor, graph: AttentionGraph, advice: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(advice)):
        GraphBatch.of(x, graph)


# --- a function of its records -------------------------------------------------------------------------------------


def test_the_same_records_give_the_same_batch_whatever_the_global_generator() -> None:
    torch.manual_seed(1)
    first = EVERYTHING(RECORDS)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert_same(EVERYTHING(RECORDS), first)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_graph_has_the_same_edges_alone_and_in_any_batch() -> None:
    batch, first = EVERYTHING(RECORDS), 0
    for number, record in enumerate(RECORDS):
        alone = EVERYTHING([record])
        inside = batch.batch[batch.graph.edge_index[1]] == number
        assert torch.equal(batch.graph.edge_index[:, inside] - first, alone.graph.edge_index)
        assert torch.equal(batch.graph.edge_kind[inside], alone.graph.edge_kind)
        assert batch.distance is not None and alone.distance is not None
        assert torch.equal(batch.distance[inside], alone.distance)
        first += SIZES[number] + 2


def test_records_are_left_as_they_were() -> None:
    before = [record.clone() for record in RECORDS]
    batch = EVERYTHING(RECORDS)
    batch.x.add_(1)
    GraphCollate((Bonds(),))(RECORDS[:1]).x.add_(1)
    for record, old in zip(RECORDS, before, strict=True):
        assert torch.equal(record.x, old.x) and torch.equal(record.edge_index, old.edge_index)


def test_workers_collate_what_this_process_does() -> None:
    loader = DataLoader(RECORDS, batch_size=3, collate_fn=EVERYTHING, num_workers=1)  # type: ignore[arg-type]
    for ours, theirs in zip([EVERYTHING(RECORDS[:3]), EVERYTHING(RECORDS[3:])], loader, strict=True):
        assert_same(theirs, ours)
        assert theirs.graph._plan is not None


def test_moving_a_batch_moves_every_tensor_and_the_plan() -> None:
    moved = EVERYTHING(RECORDS).to("meta")
    assert moved.x.device.type == moved.graph.device.type == moved.graph.plan().src.device.type == "meta"
    assert moved.num_virtual == 2


# --- corners -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("records", [[molecule(0)], [molecule(1)], [molecule(0), molecule(1), molecule(0)]])
def test_graphs_without_nodes_or_edges_are_collated(records: list[Data]) -> None:
    batch = EVERYTHING(records)
    assert batch.num_graphs == len(records)
    assert batch.edge_attr is not None and batch.edge_attr.shape == (0, 3)
    assert batch.bond is not None and bool((batch.bond == -1).all())
    without_virtual = GraphCollate((Bonds(),), num_walks=2, num_eigenvectors=2, max_hops=2)(records)
    assert without_virtual.graph.num_edges == 0


def test_missing_edges_are_none_and_need_no_features() -> None:
    lonely = Data(x=torch.zeros(2, 9, dtype=torch.int64), edge_index=torch.empty(2, 0))
    bare = Data(x=torch.zeros(3, 9, dtype=torch.int64))
    batch = GraphCollate((Bonds(),))([lonely, molecule(5), bare])
    assert batch.num_graphs == 3 and batch.edge_attr is not None
    assert batch.edge_attr.shape[0] == batch.graph.num_edges == molecule(5).edge_index.shape[1]
    assert GraphCollate((Bonds(),))([lonely]).edge_attr is not None


def test_edges_without_features_have_none() -> None:
    record = molecule(5)
    del record.edge_attr
    batch = GraphCollate()([record])
    assert batch.edge_attr is None
    assert batch.bond is not None and int((batch.bond >= 0).sum()) == record.edge_index.shape[1]


def test_a_bond_that_is_listed_twice_keeps_its_first_features() -> None:
    record = Data(
        x=torch.zeros(2, 1), edge_index=torch.tensor([[0, 0, 1], [1, 1, 0]]), edge_attr=torch.tensor([1.0, 2.0, 3.0])
    )
    batch = GraphCollate((Bonds(),))([record])
    assert batch.edge_attr is not None
    assert batch.edge_attr[batch.bond].tolist() == [[3.0], [1.0]]  # 1 → 0 comes first


def test_labels_are_nan_where_there_are_none_and_belong_to_graphs_or_nodes() -> None:
    unlabelled = molecule(3)
    del unlabelled.y
    y = GraphCollate()([molecule(3), unlabelled]).y
    assert y is not None and y.shape == (2, 1) and y.isnan().flatten().tolist() == [False, True]
    assert GraphCollate()([unlabelled]).y is None
    nodes = molecule(3)
    nodes.y = torch.arange(6).view(3, 2)
    y = GraphCollate(level="node")([nodes, unlabelled]).y
    assert y is not None and y.shape == (6, 2) and y.dtype == torch.float32 and bool(y[3:].isnan().all())
    empty = molecule(0)
    empty.y = torch.empty(0, 2)
    y = GraphCollate(level="node")([empty, nodes]).y
    assert y is not None and y.shape == (3, 2)
    with pytest.raises(ValueError, match=r"one row of y per node, 3, got \[4\]"):
        GraphCollate(level="node")([broken(x=torch.zeros(3, 9).long(), y=torch.zeros(4))])
    number = molecule(3)
    number.y = 2
    assert_close(GraphCollate()([number]).y, torch.tensor([[2.0]]))


# --- errors --------------------------------------------------------------------------------------------------------


def broken(**fields: object) -> Data:
    record = molecule(5, record_number=23)
    for name, value in fields.items():
        record[name] = value
    return record


@pytest.mark.parametrize(
    "record, advice",
    [
        (broken(x=None), "record 23 of the data set must have x [num_nodes, num_features], got none. Give each node"),
        (broken(x=torch.zeros(5)), "must have x [num_nodes, num_features], got [5]"),
        (broken(x=torch.zeros(5, 9)), "has 9 columns of torch.float32 in x, others have 9 of torch.int64. Give all"),
        (broken(x=torch.zeros(5, 8).long()), "has 8 columns of torch.int64 in x, others have 9"),
        (
            broken(edge_index=torch.tensor([[0, 5], [1, 1]]), edge_attr=torch.zeros(2, 3).long()),
            "nodes 0 … 4 in edge_index, got the edge [5",
        ),
        (
            broken(edge_index=torch.tensor([[0, -1], [1, 1]]), edge_attr=torch.zeros(2, 3).long()),
            "got the edge [-1, 1]. Count nodes from 0",
        ),
        (
            broken(edge_index=torch.zeros(3, 2).long()),
            "edge_index int64 [2, num_edges], got torch.int64 [3, 2]. If edges",
        ),
        (broken(edge_index=torch.zeros(2, 3)), "edge_index int64 [2, num_edges], got torch.float32 [2, 3]"),
        (broken(edge_attr=torch.zeros(3, 3).long()), "one row of edge_attr per column of edge_index"),
        (broken(edge_attr=None), "has edges and no edge_attr, others have. Give it to all or none"),
        (broken(y=torch.zeros(1, 2)), "has 2 columns of torch.float32 in y, others have 1"),
    ],
)
def test_a_record_that_cannot_be_used_is_named(record: Data, advice: str) -> None:
    with pytest.raises(ValueError, match=re.escape(advice)):
        GraphCollate()([molecule(7), record, molecule(3)])


@pytest.mark.parametrize("field", ["x", "edge_attr"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_features_that_are_not_finite_are_refused_and_the_record_named(field: str, value: float) -> None:
    records = [molecule(7), molecule(5), molecule(0), molecule(9)]
    for record in records:
        record.x, record.edge_attr = record.x.float(), record.edge_attr.float()
    GraphCollate()(records)
    records[3][field][1, 2] = value
    with pytest.raises(
        ValueError, match=f"record 3 of the batch holds NaN or infinity in {field}. Clean the record or"
    ):
        GraphCollate()(records)


@pytest.mark.parametrize("field, value", [
    ("x", torch.full((5, 9), torch.nan)),
    ("edge_attr", torch.full((8, 3), torch.inf)),
    ("edge_index", torch.ones(2, 8)),
])  # fmt: skip
def test_a_record_of_a_data_set_is_named_by_its_number_there(field: str, value: Tensor) -> None:
    graph = Data(x=torch.zeros(5, 9), edge_index=molecule(5).edge_index[:, :8], edge_attr=torch.zeros(8, 3), y=0.5)
    dataset = from_data([graph] * 29)
    dataset.records[17][field] = value  # went bad after the data set was checked
    numbers = torch.tensor([3, 17, 11])
    for num_workers in (0, 1):
        loader = make_loader(dataset, numbers, GraphCollate(), batch_size=3, num_workers=num_workers)
        with pytest.raises(ValueError, match="record 17 of the data set"):
            list(loader)


def test_an_attribute_of_ones_own_named_index_is_left_alone() -> None:
    record = molecule(5, index="CHEMBL25")
    assert GraphCollate()([record]).index.tolist() == [-1]
    assert record.index == "CHEMBL25"


def test_an_empty_list_is_refused() -> None:
    with pytest.raises(ValueError, match="a batch must hold at least one graph, got none"):
        GraphCollate()([])


@pytest.mark.parametrize(
    "options, advice",
    [
        ({"edges": ()}, "at least one part of the attention graph, got none"),
        ({"edges": "bonds | full"}, r"edges must be specs .* got 'bonds | full'. Call parse_edges\(line\) first"),
        ({"edges": (Bonds(), "full")}, "edges must be specs"),
        ({"edges": (VirtualNodes(1), VirtualNodes(2))}, "VirtualNodes once"),
        ({"max_hops": -1}, "max_hops must be at least 0, got -1"),
        ({"num_walks": -2}, "num_walks must be at least 0, got -2"),
        ({"num_singular": -3}, "num_singular must be at least 0, got -3"),
        ({"level": "edge"}, "level must be one of graph, node, got 'edge'"),
    ],
)
def test_options_that_make_no_sense_are_refused_when_the_collation_is_made(options: dict, advice: str) -> None:
    with pytest.raises(ValueError, match=advice):
        GraphCollate(**options)


@pytest.mark.parametrize("make, advice", [
    (lambda: Hops(-1), "num_hops of Hops must be an int of at least 0, got -1"),
    (lambda: Hops(2.0), "num_hops of Hops must be an int"),  # type: ignore[arg-type]
    (lambda: Expander(5), "degree of Expander must be even, got 5. Use 4 or 6"),
    (lambda: Expander(0), "at least 2, got 0"),
    (lambda: VirtualNodes(0), "count of VirtualNodes must be an int of at least 1, got 0"),
])  # fmt: skip
def test_parts_with_wrong_numbers_are_refused(make, advice: str) -> None:
    with pytest.raises(ValueError, match=advice):
        make()
