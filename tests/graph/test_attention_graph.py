"""The noun: what the constructor promises and refuses, edge positions, value semantics, printing."""

import copy
import pickle
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from graphattn.graph import AttentionGraph, Blocks, bicliques
from graphattn.graph.rules import within
from tests.strategies import (
    NUM_HEADS,
    Ingredients,
    batch_graphs,
    dense,
    graph_pairs,
    graphs,
    head_graphs,
    ingredients,
    kind_graphs,
    kinds_at,
    pairs_in,
)

NO_EDGE = torch.empty(2, 0, dtype=torch.int64)
EDGES = torch.tensor([[0, 2, 1], [0, 0, 1]])


def example(**options: object) -> AttentionGraph:
    return AttentionGraph(EDGES, 3, 2, **options)


def block(dst: list[int], src: list[int], prefix: list[int] | None = None, kind: int = 1) -> Blocks:
    plain = bicliques(torch.tensor([0, len(dst)]), torch.tensor(dst), torch.tensor([0, len(src)]), torch.tensor(src))
    assert plain is not None
    prefix_of = plain.prefix if prefix is None else torch.tensor(prefix)
    return plain._replace(prefix=prefix_of, kind=torch.tensor([kind], dtype=torch.int16))


@settings(max_examples=100)
@given(st.booleans().flatmap(lambda heads: ingredients(kinds=True, heads=heads)) | ingredients())
def test_constructor_holds_every_pair_once_with_all_its_kinds_and_heads(parts: Ingredients) -> None:
    graph = parts.build()
    names = {cell: set() for cell in parts.cells}
    mask = torch.zeros(NUM_HEADS, sum(parts.over.num_dst), sum(parts.over.num_src), dtype=torch.bool)
    for k, (i, j) in enumerate(parts.cells):
        bits = -1 if parts.edge_kind is None else parts.edge_kind[k]
        names[i, j] = {kind for bit, kind in enumerate(parts.kinds) if bits >> bit & 1}
        mask[:, i, j] = True if parts.head_mask is None else torch.tensor(parts.head_mask[k])
    for i, j, b in pairs_in(parts.blocks):
        of_block = {kind for bit, kind in enumerate(parts.kinds) if int(parts.blocks.kind[b]) >> bit & 1}
        names[i, j] = names.get((i, j), set()) | of_block
        mask[:, i, j] = True  # blocks are shared by all heads

    assert graph.num_edges == len(names)
    assert kinds_at(graph) == names
    assert_close(dense(graph), mask[0] if parts.head_mask is None else mask)  # dense asserts that parts are disjoint


@given(graphs())
def test_edges_are_in_canonical_order_whatever_the_representation(graph: AttentionGraph) -> None:
    mask = dense(graph)
    cells = (mask if mask.dim() == 2 else mask.any(0)).nonzero()  # by target, then source
    assert graph.num_edges == len(cells)
    assert_close(graph.edge_index, cells.flip(1).T)
    assert graph.edge_index.dtype == torch.int64
    assert graph.edge_kind.dtype == torch.int16
    assert graph.edge_kind.shape == (graph.num_edges,)
    assert graph.head_mask is None or graph.head_mask.shape == (graph.num_edges, NUM_HEADS)


def test_blocks_without_a_pair_leave_no_block() -> None:
    graph = AttentionGraph(EDGES, 3, 2, blocks=block([0, 1], [0, 2], prefix=[0, 0]))
    assert graph.blocks is None
    assert graph == example()


def test_nodes_without_edges_exist() -> None:
    graph = AttentionGraph(NO_EDGE, 5, 3)
    assert (graph.num_src_nodes, graph.num_dst_nodes, graph.num_edges) == (5, 3, 0)
    assert not graph.to_mask().any()
    assert graph.plan().target_ptr.tolist() == [0] * 4
    assert AttentionGraph(NO_EDGE, 0).num_edges == 0


@given(st.data(), graphs(heads=False))
def test_from_edge_index_sorts_and_returns_the_order(data: st.DataObject, graph: AttentionGraph) -> None:
    shuffled = graph.edge_index[:, data.draw(st.permutations(range(graph.num_edges)))].view(2, -1)
    again, order = AttentionGraph.from_edge_index(shuffled, (graph.num_src_nodes, graph.num_dst_nodes))
    assert again == graph
    assert_close(shuffled[:, order], graph.edge_index)


def test_from_edge_index_keeps_the_first_of_each_duplicate() -> None:
    edge_index = torch.tensor([[1, 0, 1, 0, 1], [1, 0, 1, 1, 0]])
    graph, order = AttentionGraph.from_edge_index(edge_index, 2, duplicates="first", kinds=("bond",))
    assert order.tolist() == [1, 4, 3, 0]
    assert_close(graph.edge_index, edge_index[:, order])
    assert graph.kinds == ("bond",)
    assert graph.edge_kind.tolist() == [1] * 4


@given(graphs())
def test_find_gives_the_position_of_every_pair_or_minus_one(graph: AttentionGraph) -> None:
    listed = graph.edge_index.T.tolist()
    pairs = [[j, i] for j in range(-1, graph.num_src_nodes + 1) for i in range(-1, graph.num_dst_nodes + 1)]
    wanted = torch.tensor([listed.index(pair) if pair in listed else -1 for pair in pairs])
    src, dst = torch.tensor(pairs).T
    assert_close(graph.find(src, dst), wanted)
    assert_close(graph.find(src[:, None], dst[:, None]), wanted[:, None])
    assert_close(graph.find(*graph.edge_index), torch.arange(graph.num_edges))


@given(graph_pairs(), st.sampled_from(["|", "&", "other"]))
def test_align_carries_values_edge_by_edge(pair: tuple[AttentionGraph, AttentionGraph], relation: str) -> None:
    of, other = pair
    graph = {"|": of | other, "&": of & other, "other": other}[relation]
    values = torch.randn(of.num_edges, 2, generator=torch.Generator().manual_seed(0))
    at = {tuple(edge): values[k].tolist() for k, edge in enumerate(of.edge_index.T.tolist())}
    wanted = [at.get(tuple(edge), [7.0, 7.0]) for edge in graph.edge_index.T.tolist()]
    assert_close(graph.align(values, of=of, fill=7.0), torch.tensor(wanted).view(-1, 2))


def test_align_keeps_dtype_and_passes_gradients() -> None:
    bond, window = AttentionGraph(torch.tensor([[1], [0]]), 2), AttentionGraph(torch.tensor([[0, 1], [0, 1]]), 2)
    union = bond | window
    assert_close(union.align(torch.tensor([7]), of=bond), torch.tensor([0, 7, 0]))
    assert_close(union.align(torch.tensor([True]), of=bond), torch.tensor([False, True, False]))
    values = torch.tensor([3.0], requires_grad=True)
    union.align(values, of=bond).sum().backward()
    assert values.grad.tolist() == [1.0]


@given(graphs())
def test_equality_and_hash_ignore_representation_kinds_and_origin(graph: AttentionGraph) -> None:
    listed = graph.enumerate()
    anew = AttentionGraph(graph.edge_index, graph.num_src_nodes, graph.num_dst_nodes, head_mask=graph.head_mask)
    for other in (listed, anew, copy.deepcopy(graph), pickle.loads(pickle.dumps(graph)), graph.to("cpu")):
        assert graph == other == graph
        assert hash(graph) == hash(other)


@given(graph_pairs())
def test_graphs_are_equal_exactly_where_their_matrices_are(pair: tuple[AttentionGraph, AttentionGraph]) -> None:
    left, right = pair
    a, b = torch.broadcast_tensors(dense(left), dense(right))
    assert (left == right) == torch.equal(a, b)
    assert (left == left - right) == (not (a & b).any())


def test_equality_looks_at_sizes_and_heads_and_at_nothing_but_graphs() -> None:
    graph = example()
    heads = example(head_mask=torch.tensor([[True, True], [False, True], [True, True]]))
    assert graph != AttentionGraph(EDGES, 4, 2)
    assert graph != AttentionGraph(EDGES, 3, 3)
    assert graph != heads
    assert graph == example(head_mask=torch.ones(3, 2, dtype=torch.bool))
    assert graph != 3
    assert heads != example(head_mask=torch.ones(3, 3, dtype=torch.bool))


def test_a_graph_is_a_key_of_dictionaries_and_sets() -> None:
    assert {example(): 1}[example(kinds=("bond",))] == 1
    assert len({example(), example().enumerate(), example().T}) == 2


def test_truth_of_a_graph_is_refused() -> None:
    with pytest.raises(TypeError, match=r"truth of an AttentionGraph is ambiguous. Compare graph.num_edges with 0"):
        bool(example())


@pytest.mark.parametrize("name", ["num_src_nodes", "blocks", "kinds", "anything"])
def test_a_graph_is_immutable(name: str) -> None:
    with pytest.raises(AttributeError, match=f"immutable, cannot set '{name}'. Make a new graph"):
        setattr(example(), name, 3)


@given(graphs())
def test_operations_leave_their_operands_alone(graph: AttentionGraph) -> None:
    before = copy.deepcopy(graph)
    graph | graph, graph - graph, graph.T, ~graph, graph.keep(within(1)), graph.compact_sources(), graph.plan()
    assert_close(graph.explicit_edges, before.explicit_edges)
    assert (graph.blocks is None) == (before.blocks is None)
    if graph.blocks is not None:
        assert_close(tuple(graph.blocks), tuple(before.blocks))


def test_repr_says_how_the_graph_was_built_and_its_sizes() -> None:
    assert repr(example()) == "AttentionGraph(3 edges: 2 targets × 3 sources, 3 edges)"
    assert AttentionGraph(NO_EDGE, 3, blocks=block([0, 1], [0, 2])).origin == "0 edges and 1 blocks"
    batch = AttentionGraph(NO_EDGE, 3, src_ptr=torch.tensor([0, 1, 3]))
    assert repr(batch).endswith("3 targets × 3 sources, 0 edges, 2 graphs)")


@given(graphs() | batch_graphs() | kind_graphs() | head_graphs())
def test_to_moves_every_tensor_and_needs_no_look_at_the_values(graph: AttentionGraph) -> None:
    graph.plan()
    moved = graph.to("meta")  # a device without values
    tensors = [value for value in moved.__dict__.values() if isinstance(value, torch.Tensor)]
    tensors += [*(moved.blocks or ()), *(value for value in moved.plan() if isinstance(value, torch.Tensor))]
    tensors += [value for bucket in moved.plan().buckets for value in bucket if value is not None]
    tensors += [*(moved.plan().groups or ())]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert hash(moved) == hash(graph)
    assert repr(moved) == repr(graph)
    assert (moved.num_graphs, moved.kinds) == (graph.num_graphs, graph.kinds)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_graph_on_the_gpu_equals_itself_on_the_cpu() -> None:
    graph = example(blocks=block([1], [0, 2]))
    graph.plan()
    moved = graph.pin_memory().to("cuda", non_blocking=True)
    assert moved == graph
    assert graph == moved
    assert moved.plan().src.device.type == "cuda"


def build(edges: object = EDGES, num_src: object = 3, num_dst: object = 2, **options: object) -> Callable[[], object]:
    return lambda: AttentionGraph(edges, num_src, num_dst, **options)


def with_blocks(**fields: object) -> Callable[[], object]:
    return build(blocks=block([0, 1], [0, 2])._replace(**fields))


def meta(*shape: int, dtype: torch.dtype = torch.int64) -> torch.Tensor:
    return torch.zeros(shape, dtype=dtype, device="meta")


ERRORS: dict[str, tuple[Callable[[], object], type[Exception], str]] = {
    "kind of floats": (
        build(edge_kind=torch.zeros(3), kinds=("a",)),
        ValueError,
        r"edge_kind must be integer \[num_edges\] = \[3\], got torch.float32 \[3\]. Give one bitmask per column",
    ),
    "kind too short": (
        build(edge_kind=torch.zeros(2).long(), kinds=("a",)),
        ValueError,
        r"\[3\], got torch.int64 \[2\]",
    ),
    "kind without a name": (
        build(edge_kind=torch.tensor([0, 2, 5]), kinds=("a", "b")),
        ValueError,
        r"edge_kind must lie in \[0, 2\^2\) for kinds \('a', 'b'\), got 5. Name every bit in `kinds`",
    ),
    "negative kind": (build(edge_kind=torch.tensor([0, -2, 1]), kinds=("a",)), ValueError, "got -2. Name every bit"),
    "kinds as a string": (
        build(kinds="bond"),
        TypeError,
        r"kinds must be a sequence of names, got 'bond'. Write kinds",
    ),
    "kinds twice": (build(kinds=("a", "a")), ValueError, "kinds must be distinct names, got .* Name each kind once"),
    "16 kinds": (
        build(kinds=tuple("abcdefghijklmnop")),
        ValueError,
        "kinds must be at most 15 names .*, got 16. Merge kinds",
    ),
    "blocks elsewhere": (
        with_blocks(dst=meta(2)),
        ValueError,
        "blocks.dst must be on the device of edge_index, cpu, got meta. Move it first",
    ),
    "block target out of range": (
        with_blocks(dst=torch.tensor([0, 2])),
        ValueError,
        r"blocks.dst must lie in \[0, 2\), got 2. Check num_dst_nodes",
    ),
    "negative block source": (
        with_blocks(src=torch.tensor([-1, 2])),
        ValueError,
        r"blocks.src must lie in \[0, 3\), got -1",
    ),
    "block of floats": (
        with_blocks(src=torch.tensor([0.0, 2.0])),
        ValueError,
        r"blocks.src must be int64 \[num_entries\], got torch.float32 \[2\]. Pass node ids",
    ),
    "block offsets": (
        with_blocks(dst_ptr=torch.tensor([0, 1])),
        ValueError,
        r"blocks.dst_ptr must rise from 0 to the number of entries, 2, got \[0, 1\]",
    ),
    "block kinds": (
        with_blocks(kind=torch.ones(2, dtype=torch.int16)),
        ValueError,
        "blocks.dst_ptr must have one entry more than blocks.kind, 3, got 2. Give every block",
    ),
    "block prefix": (
        with_blocks(prefix=torch.tensor([2, 3])),
        ValueError,
        "blocks.prefix must hold, for each block target, how many .* Use graphattn.graph.bicliques for plain blocks",
    ),
    "block that repeats a node": (
        with_blocks(src=torch.tensor([2, 2])),
        ValueError,
        "must list each target and each source once. Remove the repeated node",
    ),
    "from_edge_index: duplicates": (
        lambda: AttentionGraph.from_edge_index(torch.tensor([[1, 0, 1], [1, 0, 1]]), 2),
        ValueError,
        r"edge_index must list each edge once, got \[1, 1\] more than once \(1 duplicates\). Pass duplicates='first'",
    ),
    "from_edge_index: unknown policy": (
        lambda: AttentionGraph.from_edge_index(EDGES, 3, duplicates="last"),
        ValueError,
        "duplicates must be 'error' or 'first', got 'last'. Use 'first'",
    ),
    "from_edge_index: float edges": (
        lambda: AttentionGraph.from_edge_index(EDGES.double(), 3),
        TypeError,
        "edge_index must have dtype torch.int64, got torch.float64",
    ),
    "from_edge_index: numpy size": (
        lambda: AttentionGraph.from_edge_index(EDGES, np.int64(3)),
        TypeError,
        "num_nodes must be an int, got int64. Pass the number of nodes",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_a_mistake_is_answered_with_what_to_do(name: str) -> None:
    action, error, advice = ERRORS[name]
    with pytest.raises(error, match=advice):
        action()
