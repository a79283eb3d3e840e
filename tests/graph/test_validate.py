"""What a graph refuses is named, with the value that arrived and the next step."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from graphattn.graph import AttentionGraph, Blocks, bicliques, disjoint_union
from graphattn.graph.validate import MAX_ENUMERATED_EDGES, refuse_above_limit
from tests.strategies import Ingredients, ingredients, nodes, pairs_in

NO_EDGE = torch.empty(2, 0, dtype=torch.int64)
EDGES = torch.tensor([[0, 2, 1], [0, 0, 1]])
SQUARE = AttentionGraph(torch.tensor([[0, 1], [0, 1]]), 5)


def example(**options: object) -> AttentionGraph:
    return AttentionGraph(EDGES, 3, 2, **options)


def build(edges: object = EDGES, num_src: object = 3, num_dst: object = 2, **options: object) -> Callable[[], object]:
    return lambda: AttentionGraph(edges, num_src, num_dst, **options)


def meta(*shape: int, dtype: torch.dtype = torch.int64) -> torch.Tensor:
    return torch.zeros(shape, dtype=dtype, device="meta")


ERRORS: dict[str, tuple[Callable[[], object], type[Exception], str]] = {
    "edges as rows": (
        build(EDGES.T),
        ValueError,
        r"edge_index must have shape \[2, num_edges\], got \[3, 2\]. If your edges are rows, pass edge_index.t\(\)",
    ),
    "edges in one row": (build(EDGES[0]), ValueError, r"shape \[2, num_edges\], got \[3\]"),
    "edges as a list": (
        build(EDGES.tolist()),
        TypeError,
        r"edge_index must be a torch.Tensor, got list. Pass torch.as_tensor\(edge_index\)",
    ),
    "edges in numpy": (build(EDGES.numpy()), TypeError, "must be a torch.Tensor, got ndarray"),
    "edges of floats": (
        build(EDGES.float()),
        TypeError,
        r"dtype torch.int64, got torch.float32. Call edge_index.long\(\)",
    ),
    "edges of int32": (build(EDGES.int()), TypeError, "dtype torch.int64, got torch.int32"),
    "negative source": (
        build(torch.tensor([[-1], [0]])),
        ValueError,
        r"edge_index\[0\] must lie in \[0, num_src_nodes\) = \[0, 3\), got -1. Row 0 holds sources, row 1 targets",
    ),
    "target out of range": (
        build(torch.tensor([[0, 0], [0, 2]])),
        ValueError,
        r"edge_index\[1\] must lie in \[0, num_dst_nodes\) = \[0, 2\), got 2. .* check num_dst_nodes",
    ),
    "unsorted": (
        build(EDGES.flip(1)),
        ValueError,
        r"not sorted by \(target, source\) at column 1, \[2, 0\]. .* call AttentionGraph.from_edge_index",
    ),
    "duplicate": (
        build(EDGES[:, [0, 0]]),
        ValueError,
        r"repeats an edge at column 1, \[0, 0\]. .* AttentionGraph.from_edge_index\(edge_index, num_nodes\)",
    ),
    "size as a float": (build(num_src=3.0), TypeError, "num_src_nodes must be an int, got float. Pass the number"),
    "size as a tensor": (build(num_dst=torch.tensor(2)), TypeError, "num_dst_nodes must be an int, got Tensor"),
    "size as a bool": (build(num_dst=True), TypeError, "num_dst_nodes must be an int, got bool"),
    "negative size": (build(NO_EDGE, -1), ValueError, "num_src_nodes must not be negative, got -1. A graph without"),
    "too many pairs": (
        build(NO_EDGE, 2**31, 2**31),
        ValueError,
        r"must stay below 2\^62, got 2147483648 × 2147483648. Split the graph into batches",
    ),
    "head_mask of ints": (
        build(head_mask=torch.ones(3, 2)),
        ValueError,
        r"head_mask must be bool \[num_edges, num_heads\] with num_edges = 3, got torch.float32 \[3, 2\]. Give one row",
    ),
    "head_mask transposed": (
        build(head_mask=torch.ones(2, 3).bool()),
        ValueError,
        r"got torch.bool \[2, 3\]. Give one row",
    ),
    "ptr of floats": (
        build(src_ptr=torch.tensor([0.0, 3.0]), dst_ptr=torch.tensor([0, 2])),
        ValueError,
        r"src_ptr must be int64 \[num_graphs \+ 1\], got torch.float32 \[2\]. Pass offsets, 0 first",
    ),
    "ptr that falls short": (
        build(src_ptr=torch.tensor([0, 3]), dst_ptr=torch.tensor([0, 1])),
        ValueError,
        r"dst_ptr must rise from 0 to the number of entries, 2, got \[0, 1\]. Use the cumulative sum",
    ),
    "ptr that falls": (
        build(src_ptr=torch.tensor([0, 3, 1, 3]), dst_ptr=torch.tensor([0, 1, 1, 2])),
        ValueError,
        r"src_ptr must rise from 0 to the number of entries, 3, got \[0, 3, 1, 3\]",
    ),
    "ptrs of other batches": (
        build(src_ptr=torch.tensor([0, 3]), dst_ptr=torch.tensor([0, 1, 2])),
        ValueError,
        "must count the same graphs, got 1 and 2. Give an empty graph the same offset twice",
    ),
    "one ptr of a rectangle": (
        build(src_ptr=torch.tensor([0, 3])),
        ValueError,
        "src_ptr and dst_ptr must be given together for a rectangular graph. Pass both",
    ),
    "edge_kind elsewhere": (
        build(edge_kind=meta(3), kinds=("a",)),
        ValueError,
        r"edge_kind must be on the device of the graph's edges, cpu, got meta. Call edge_kind.to\('cpu'\) first",
    ),
    "head_mask elsewhere": (
        build(head_mask=meta(3, 2, dtype=torch.bool)),
        ValueError,
        "head_mask must be on the device of the graph's edges, cpu, got meta",
    ),
    "ptr elsewhere": (
        build(src_ptr=meta(2), dst_ptr=meta(2)),
        ValueError,
        "src_ptr must be on the device of .* got meta",
    ),
    "find: float nodes": (
        lambda: example().find(torch.zeros(1), torch.zeros(1).long()),
        TypeError,
        r"src must have dtype torch.int64, got torch.float32. Call src.long\(\) first",
    ),
    "find: other shapes": (
        lambda: example().find(EDGES[0], EDGES[1, :2]),
        ValueError,
        r"must have the same shape, got \[3\] and \[2\]. Pass one source and one target per edge",
    ),
    "find: elsewhere": (
        lambda: example().find(meta(1), meta(1)),
        ValueError,
        "src must be on the device of .*, cpu, got meta",
    ),
    "align: other length": (
        lambda: example().align(torch.zeros(2), of=example()),
        ValueError,
        r"values must have shape \[of.num_edges, ...\] with of.num_edges = 3, got \[2\]. Pass one row per edge",
    ),
    "align: other nodes": (
        lambda: example().align(torch.zeros(3), of=AttentionGraph(EDGES, 3)),
        ValueError,
        "align needs graphs over the same nodes, got 3 sources × 2 targets and 3 × 3",
    ),
    "align: elsewhere": (lambda: example().align(meta(3), of=example()), ValueError, "values must be on the device of"),
    "| other sizes": (
        lambda: SQUARE | AttentionGraph(NO_EDGE, 3),
        ValueError,
        "same nodes, got 5 sources × 5 targets and 3 × 3. Use disjoint_union",
    ),
    "& other device": (
        lambda: SQUARE & SQUARE.to("meta"),
        ValueError,
        r"one device, got cpu and meta. Call graph.to\(device\)",
    ),
    "@ other device": (lambda: SQUARE @ SQUARE.to("meta"), ValueError, "one device, got cpu and meta"),
    "disjoint_union other device": (
        lambda: disjoint_union([SQUARE, SQUARE.to("meta")]),
        ValueError,
        "one device, got cpu",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_a_mistake_is_answered_with_what_to_do(name: str) -> None:
    action, error, advice = ERRORS[name]
    with pytest.raises(error, match=advice):
        action()


@given(nodes(square=True).flatmap(lambda over: ingredients(over)))
def test_offsets_of_one_side_serve_both_in_a_square_graph(parts: Ingredients) -> None:
    ptr = torch.tensor([0, sum(parts.over.num_src)])
    for name in ("src_ptr", "dst_ptr"):
        graph = AttentionGraph(NO_EDGE, sum(parts.over.num_src), **{name: ptr})
        assert_close((graph.src_ptr, graph.dst_ptr), (ptr, ptr))


@st.composite
def ptrs(draw: st.DrawFn, *sizes: int) -> list[Tensor]:
    """Splits the nodes of each side among the same number of graphs, some of them empty."""
    num_graphs = draw(st.integers(2, 4))
    cuts = [sorted(draw(st.lists(st.integers(0, n), min_size=num_graphs - 1, max_size=num_graphs - 1))) for n in sizes]
    return [torch.tensor([0, *cut, size]) for cut, size in zip(cuts, sizes)]


@given(st.data(), nodes(batch=False).flatmap(ingredients))
def test_an_edge_or_block_that_joins_two_graphs_of_a_batch_is_refused(data: st.DataObject, parts: Ingredients) -> None:
    graph = parts.build()
    src_ptr, dst_ptr = data.draw(ptrs(graph.num_src_nodes, graph.num_dst_nodes))

    def owner(node: int, ptr: list[int]) -> int:
        return next(g for g in range(len(ptr) - 1) if ptr[g] <= node < ptr[g + 1])

    cells = set(parts.cells) | {(i, j) for i, j, _ in pairs_in(parts.blocks)}
    ends = {(j, i): (owner(j, src_ptr.tolist()), owner(i, dst_ptr.tolist())) for i, j in cells}
    crossing = {
        f"edge [{j}, {i}] goes from graph {a} to graph {b} of the batch." for (j, i), (a, b) in ends.items() if a != b
    }
    again = (graph.edge_index, graph.num_src_nodes, graph.num_dst_nodes)
    for arguments, blocks in ((again, None), ((NO_EDGE, *again[1:]), parts.blocks), (again, parts.blocks)):
        held = {(j, i) for i, j, _ in pairs_in(blocks)} | {(j, i) for j, i in arguments[0].T.tolist()}
        if all(ends[edge][0] == ends[edge][1] for edge in held):
            assert AttentionGraph(*arguments, blocks=blocks, src_ptr=src_ptr, dst_ptr=dst_ptr).num_edges == len(held)
            continue
        with pytest.raises(ValueError, match=r"build it from the same sizes, or drop src_ptr/dst_ptr") as raised:
            AttentionGraph(*arguments, blocks=blocks, src_ptr=src_ptr, dst_ptr=dst_ptr)
        assert str(raised.value).partition(" An edge must")[0] in crossing


def test_the_first_edge_that_crosses_is_named_and_a_block_by_one_of_its_pairs() -> None:
    ptr = torch.tensor([0, 2, 2, 5])
    edges = torch.tensor([[1, 3, 0], [0, 2, 4]])
    with pytest.raises(
        ValueError,
        match=r"edge \[0, 4\] goes from graph 0 to graph 2 of the batch. An edge must join nodes of one graph: "
        "build it from the same sizes, or drop src_ptr/dst_ptr",
    ):
        AttentionGraph(edges, 5, src_ptr=ptr)
    assert AttentionGraph(edges[:, :2], 5, src_ptr=ptr).num_graphs == 3
    assert AttentionGraph(edges, 5, src_ptr=torch.tensor([0, 5])).num_graphs == 1
    half_read = Blocks(
        torch.tensor([0, 2]),
        torch.tensor([0, 2]),
        torch.tensor([0, 2]),
        torch.tensor([1, 3]),
        torch.tensor([1, 0]),
        torch.ones(1, dtype=torch.int16),
    )
    assert AttentionGraph(NO_EDGE, 5, blocks=half_read, src_ptr=ptr).num_edges == 1  # what is not read joins nothing
    with pytest.raises(ValueError, match=r"edge \[3, 0\] goes from graph 2 to graph 0"):
        AttentionGraph(NO_EDGE, 5, blocks=half_read._replace(prefix=torch.tensor([2, 0])), src_ptr=ptr)


def test_graphs_that_builders_vouch_for_are_not_checked() -> None:
    crossing, ptr = torch.tensor([[0], [4]]), torch.tensor([0, 2, 5])
    assert AttentionGraph.trusted(crossing, 5, src_ptr=ptr).num_graphs == 2


def test_a_million_nodes_in_one_block_are_checked_without_listing_them() -> None:
    half = 10**6
    node, ptr = torch.arange(2 * half), torch.tensor([0, half, 2 * half])
    graph = AttentionGraph(NO_EDGE, 2 * half, blocks=bicliques(ptr, node, ptr, node), src_ptr=ptr)
    assert graph.num_edges == 2 * half**2
    one = torch.tensor([0, 2 * half])
    with pytest.raises(ValueError, match="goes from graph 0 to graph 1 of the batch"):
        AttentionGraph(NO_EDGE, 2 * half, blocks=bicliques(one, node, one, node), src_ptr=ptr)


def test_the_limit_itself_may_be_listed() -> None:
    refuse_above_limit(MAX_ENUMERATED_EDGES, "its complement", SQUARE)
    with pytest.raises(
        ValueError, match=r"2 edges: its complement would hold 268,435,457 edges \(4 GiB\), above the limit"
    ):
        refuse_above_limit(MAX_ENUMERATED_EDGES + 1, "its complement", SQUARE)
