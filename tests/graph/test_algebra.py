"""The algebra of graphs is that of boolean matrices [targets, sources], whatever the representation."""

import operator
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from graphattn.graph import AttentionGraph, algebra, bicliques, disjoint_union
from graphattn.graph.rules import is_causal, same_document, within
from tests.strategies import (
    block_graphs,
    composable_graphs,
    dense,
    explicit_graphs,
    graph_pairs,
    graphs,
    head_graphs,
    kind_graphs,
    kinds_at,
    mixed_graphs,
    nodes,
    square_graphs,
)

SET_OPERATIONS: dict[str, tuple[Callable, Callable]] = {
    "|": (operator.or_, operator.or_),
    "&": (operator.and_, operator.and_),
    "-": (operator.sub, lambda left, right: left & ~right),
    "^": (operator.xor, operator.xor),
}


def inside(graph: AttentionGraph) -> Tensor:
    """The pairs whose ends belong to the same graph of the batch, bool [num_dst_nodes, num_src_nodes]."""
    mask = torch.zeros(graph.num_dst_nodes, graph.num_src_nodes, dtype=torch.bool)
    for g in range(graph.num_graphs):
        mask[graph.dst_ptr[g] : graph.dst_ptr[g + 1], graph.src_ptr[g] : graph.src_ptr[g + 1]] = True
    return mask


def is_listed(graph: AttentionGraph) -> bool:
    return graph.blocks is None or "listed" in graph._cache


def example(edges: list[list[int]], num_src: int = 5, num_dst: int | None = None, **options: object) -> AttentionGraph:
    return AttentionGraph(torch.tensor(edges), num_src, num_dst, **options)


def full(num_dst: int, num_src: int) -> AttentionGraph:
    blocks = bicliques(
        torch.tensor([0, num_dst]), torch.arange(num_dst), torch.tensor([0, num_src]), torch.arange(num_src)
    )
    return AttentionGraph(torch.empty(2, 0, dtype=torch.int64), num_src, num_dst, blocks=blocks)


@pytest.mark.parametrize("symbol", SET_OPERATIONS)
@given(graph_pairs())
def test_set_operation_equals_that_of_matrices(symbol: str, pair: tuple[AttentionGraph, AttentionGraph]) -> None:
    on_graphs, on_matrices = SET_OPERATIONS[symbol]
    left, right = pair
    assert_close(dense(on_graphs(left, right)), on_matrices(dense(left), dense(right)))


@pytest.mark.parametrize("symbol", SET_OPERATIONS)
@given(nodes().flatmap(lambda over: st.tuples(kind_graphs(over), kind_graphs(over) | explicit_graphs(over))))
def test_an_edge_of_both_graphs_keeps_the_kinds_of_both(
    symbol: str, pair: tuple[AttentionGraph, AttentionGraph]
) -> None:
    left, right = pair
    result = kinds_at(SET_OPERATIONS[symbol][0](left, right))
    of_left, of_right = kinds_at(left), {} if symbol == "-" else kinds_at(right)
    assert result == {cell: of_left.get(cell, set()) | of_right.get(cell, set()) for cell in result}


@given(nodes().flatmap(lambda over: st.tuples(graphs(over), graphs(over), graphs(over))))
def test_the_laws_of_sets_hold(three: tuple[AttentionGraph, ...]) -> None:
    a, b, c = three
    assert a | b == b | a
    assert a & b == b & a
    assert a ^ b == (a | b) - (a & b)
    assert (a | b) | c == a | (b | c)
    assert (a | b) & c == (a & c) | (b & c)
    assert a | a == a == a & a
    assert (a - a).num_edges == (a ^ a).num_edges == 0


@given(graphs())
def test_complement_is_taken_inside_each_graph_of_a_batch(graph: AttentionGraph) -> None:
    assert_close(dense(~graph), inside(graph) & ~dense(graph))
    assert ~~graph == graph


@given(composable_graphs())
def test_composition_equals_the_boolean_matrix_product(pair: tuple[AttentionGraph, AttentionGraph]) -> None:
    left, right = pair
    composed = left @ right
    assert_close(dense(composed), dense(left).double() @ dense(right).double() > 0)
    if left.num_graphs != 1 and right.num_graphs != 1:
        assert_close((composed.dst_ptr, composed.src_ptr), (left.dst_ptr, right.src_ptr))


def test_composition_of_a_batch_and_a_rectangular_graph_has_the_sizes_of_its_ends() -> None:
    batch = example([[0, 2], [0, 1]], 3, 2, src_ptr=torch.tensor([0, 2, 3]), dst_ptr=torch.tensor([0, 1, 2]))
    composed = example([[0, 1], [0, 4]], 2, 5) @ batch
    assert (composed.num_graphs, composed.dst_ptr.tolist(), composed.src_ptr.tolist()) == (1, [0, 5], [0, 3])
    assert composed.edge_index.tolist() == [[0, 2], [0, 4]]


@given(graphs())
def test_transpose_reverses_every_edge_and_twice_is_the_identity(graph: AttentionGraph) -> None:
    flipped = graph.T
    assert_close(dense(flipped), dense(graph).transpose(-1, -2))
    assert kinds_at(flipped) == {(j, i): kinds for (i, j), kinds in kinds_at(graph).items()}
    assert_close((flipped.src_ptr, flipped.dst_ptr), (graph.dst_ptr, graph.src_ptr))
    assert flipped.T == graph


@pytest.mark.parametrize("name", ["is_causal", "within", "same_document", "one of mine"])
@given(square_graphs())
def test_keep_filters_the_matrix(name: str, graph: AttentionGraph) -> None:
    num_nodes = graph.num_src_nodes
    document = torch.arange(num_nodes) // 2
    rule = {
        "is_causal": is_causal,
        "within": within(2),
        "same_document": same_document(document),
        "one of mine": lambda src, dst: (src + 2 * dst) % 3 == 0,
    }[name]
    wanted = torch.tensor(
        [
            [
                {
                    "is_causal": j <= i,
                    "within": -2 <= i - j <= 2,
                    "same_document": i // 2 == j // 2,
                    "one of mine": (j + 2 * i) % 3 == 0,
                }[name]
                for j in range(num_nodes)
            ]
            for i in range(num_nodes)
        ],
        dtype=torch.bool,
    ).view(num_nodes, num_nodes)
    kept = graph.keep(rule)
    assert_close(dense(kept), dense(graph) & wanted)
    of_graph = kinds_at(graph)
    assert kinds_at(kept) == {cell: of_graph[cell] for cell in kinds_at(kept)}
    assert_close((kept.src_ptr, kept.dst_ptr), (graph.src_ptr, graph.dst_ptr))


@given(mixed_graphs() | head_graphs())
def test_a_rule_is_asked_about_blocks_a_few_rows_at_a_time(graph: AttentionGraph) -> None:
    asked: list[int] = []

    def odd(src: Tensor, dst: Tensor) -> Tensor:
        asked.append(src.numel())
        return (src + dst) % 2 == 1

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(algebra, "PAIRS_AT_ONCE", 4)
        kept = graph.keep(odd)
    assert "listed" not in graph._cache
    i, j = torch.arange(graph.num_dst_nodes)[:, None], torch.arange(graph.num_src_nodes)
    assert_close(dense(kept), dense(graph) & ((i + j) % 2 == 1))
    assert sum(asked) == graph.num_edges
    assert max(asked[1:], default=0) < 4 + graph.num_src_nodes


@given(graphs())
def test_of_head_is_the_matrix_of_one_head(graph: AttentionGraph) -> None:
    if graph.head_mask is None:
        assert graph.of_head(0) is graph
        return
    for head in range(graph.head_mask.shape[1]):
        one = graph.of_head(head)
        assert_close(dense(one), dense(graph)[head])
        assert (one.blocks is None) == (graph.blocks is None)
        assert kinds_at(one) == {cell: kinds_at(graph)[cell] for cell in kinds_at(one)}


@given(st.data(), graphs())
def test_permute_moves_nodes_as_indexing_moves_their_features(data: st.DataObject, graph: AttentionGraph) -> None:
    def order(ptr: Tensor) -> Tensor:
        parts = [list(range(a, b)) for a, b in zip(ptr.tolist(), ptr.tolist()[1:])]
        return torch.tensor([k for part in parts for k in data.draw(st.permutations(part))], dtype=torch.int64)

    src_order, dst_order = order(graph.src_ptr), order(graph.dst_ptr)
    moved = graph.permute(src_order, dst_order)
    assert_close(dense(moved), dense(graph)[..., dst_order, :][..., src_order])
    before = kinds_at(graph)
    assert kinds_at(moved) == {
        (i, j): before[int(dst_order[i]), int(src_order[j])] for i, j in moved.edge_index.flip(0).T.tolist()
    }
    if graph.is_square and torch.equal(graph.src_ptr, graph.dst_ptr):
        assert graph.permute(src_order) == graph.permute(src_order, src_order)


@given(st.lists(graphs(), min_size=1, max_size=3))
def test_disjoint_union_is_block_diagonal_and_remembers_its_graphs(parts: list[AttentionGraph]) -> None:
    union = disjoint_union(parts)
    masks = [dense(part) for part in parts]
    if union.head_mask is not None:
        masks = [mask if mask.dim() == 3 else mask.expand(union.head_mask.shape[1], -1, -1) for mask in masks]
        expected = torch.stack([torch.block_diag(*(mask[h] for mask in masks)) for h in range(masks[0].shape[0])])
    else:
        expected = torch.block_diag(*masks).view(union.num_dst_nodes, union.num_src_nodes)
    assert_close(dense(union), expected)
    assert union.num_graphs == sum(part.num_graphs for part in parts)
    assert torch.diff(union.src_ptr).tolist() == [n for part in parts for n in torch.diff(part.src_ptr).tolist()]
    assert torch.diff(union.dst_ptr).tolist() == [n for part in parts for n in torch.diff(part.dst_ptr).tolist()]
    kinds, first_dst, first_src = {}, 0, 0
    for part in parts:
        kinds |= {(i + first_dst, j + first_src): names for (i, j), names in kinds_at(part).items()}
        first_dst, first_src = first_dst + part.num_dst_nodes, first_src + part.num_src_nodes
    assert kinds_at(union) == kinds
    assert (union.blocks is None) == all(part.blocks is None for part in parts)


@given(st.data(), graphs())
def test_keep_sources_clears_the_columns_of_the_others(data: st.DataObject, graph: AttentionGraph) -> None:
    size = graph.num_src_nodes
    kept = torch.tensor(data.draw(st.lists(st.booleans(), min_size=size, max_size=size)), dtype=torch.bool)
    sampled = graph.keep_sources(kept)
    assert_close(dense(sampled), dense(graph) & kept)
    before = kinds_at(graph)
    assert kinds_at(sampled) == {cell: before[cell] for cell in kinds_at(sampled)}


@given(st.data(), graphs())
def test_keep_equal_asks_for_the_same_label_at_both_ends(data: st.DataObject, graph: AttentionGraph) -> None:
    src_label, dst_label = (
        torch.tensor(data.draw(st.lists(st.integers(0, 2), min_size=size, max_size=size)), dtype=torch.int64)
        for size in (graph.num_src_nodes, graph.num_dst_nodes)
    )
    kept = graph.keep_equal(src_label, dst_label)
    assert_close(dense(kept), dense(graph) & (dst_label[:, None] == src_label))
    before = kinds_at(graph)
    assert kinds_at(kept) == {cell: before[cell] for cell in kinds_at(kept)}


@given(graphs())
def test_self_edges_are_the_diagonal(graph: AttentionGraph) -> None:
    own = graph.self_edges()
    assert graph.blocks is None or not is_listed(graph)
    assert_close(dense(own), dense(graph) & torch.eye(*sizes(graph)[::-1], dtype=torch.bool))
    before = kinds_at(graph)
    assert kinds_at(own) == {cell: before[cell] for cell in kinds_at(own)}


@given(graphs())
def test_looks_ahead_asks_whether_anything_lies_above_the_diagonal(graph: AttentionGraph) -> None:
    assert graph.looks_ahead() == bool(dense(graph).triu(1).any())
    assert not graph.keep(is_causal).looks_ahead()


@given(graphs(), st.sampled_from(["bond", "sampled"]))
def test_marked_adds_a_kind_to_every_edge(graph: AttentionGraph, kind: str) -> None:
    marked = graph.marked(kind)
    assert_close(dense(marked), dense(graph))
    assert kinds_at(marked) == {cell: names | {kind} for cell, names in kinds_at(graph).items()}
    assert (marked.blocks is None) == (graph.blocks is None) and marked.num_graphs == graph.num_graphs


@given(graphs())
def test_compact_sources_drops_the_columns_that_nobody_reads(graph: AttentionGraph) -> None:
    compact, kept = graph.compact_sources()
    mask = dense(graph)
    used = mask.flatten(0, -2).any(0)
    assert kept.tolist() == used.nonzero()[:, 0].tolist()
    assert_close(dense(compact), mask[..., kept])
    assert kinds_at(compact) == {
        (i, kept.tolist().index(j)): names for (i, j), names in kinds_at(graph).items()
    }  # fmt: skip
    assert compact.num_graphs == graph.num_graphs
    of_graph = torch.searchsorted(graph.src_ptr, kept, right=True)
    assert_close(torch.searchsorted(compact.src_ptr, torch.arange(kept.numel()), right=True), of_graph)


CLOSED = {
    ".T": lambda graph: graph.T,
    "permute": lambda graph: graph.permute(
        torch.arange(graph.num_src_nodes).flip(0), torch.arange(graph.num_dst_nodes).flip(0)
    ),
    "keep_sources": lambda graph: graph.keep_sources(torch.ones(graph.num_src_nodes, dtype=torch.bool)),
    "keep_equal": lambda graph: graph.keep_equal(
        torch.zeros(graph.num_src_nodes, dtype=torch.int64), torch.zeros(graph.num_dst_nodes, dtype=torch.int64)
    ),
    "marked": lambda graph: graph.marked("sampled"),
    "compact_sources": lambda graph: graph.compact_sources()[0],
    "disjoint_union": lambda graph: disjoint_union([graph, graph.T]),
    "| of disjoint graphs": lambda graph: graph | AttentionGraph(graph.explicit_edges, *sizes(graph)),
    ".to": lambda graph: graph.to("cpu"),
}


def sizes(graph: AttentionGraph) -> tuple[int, int]:
    return graph.num_src_nodes, graph.num_dst_nodes


@pytest.mark.parametrize("name", CLOSED)
@given(nodes(batch=False).flatmap(lambda over: mixed_graphs(over) | block_graphs(over) | head_graphs(over)))
def test_blocks_stay_blocks_and_nothing_is_listed(name: str, graph: AttentionGraph) -> None:
    result = CLOSED[name](graph)
    assert (result.blocks is None) == (graph.blocks is None)
    if graph.blocks is not None:
        assert not is_listed(result)
        assert not is_listed(graph)
        if graph.head_mask is None:
            assert result.num_edges == int(dense(result).sum())


@given(nodes(batch=False).flatmap(lambda over: block_graphs(over) | block_graphs(over, "causal")))
def test_keeping_causal_pairs_keeps_blocks(graph: AttentionGraph) -> None:
    kept = graph.keep(is_causal)
    assert "listed" not in graph._cache
    assert (kept.blocks is None) == (kept.num_edges == 0)
    assert kept.num_edges == int(dense(graph).tril().sum())


@given(nodes().flatmap(lambda over: block_graphs(over, "any")))
def test_union_of_blocks_over_other_targets_keeps_both(graph: AttentionGraph) -> None:
    if graph.blocks is None:
        return
    chosen = torch.arange(graph.blocks.num_blocks) == 0
    empty = torch.empty(2, 0, dtype=torch.int64)
    first, rest = (
        AttentionGraph.trusted(empty, *sizes(graph), blocks=part)
        for part in (graph.blocks.select(chosen), graph.blocks.select(~chosen))
    )
    union = first | rest
    assert_close(dense(union), dense(graph))
    assert not is_listed(union)


def test_a_graph_without_kinds_gives_none_to_a_union() -> None:
    blocks = full(2, 2).blocks
    nameless = AttentionGraph.trusted(None, 3, blocks=blocks)  # bicliques carry the bit of a first kind
    bond = AttentionGraph(torch.tensor([[2], [2]]), 3, kinds=("bond",))
    assert kinds_at(nameless | bond) == {(i, j): set() for i in (0, 1) for j in (0, 1)} | {(2, 2): {"bond"}}
    assert kinds_at(disjoint_union([nameless, bond]))[(0, 0)] == set()


@pytest.mark.parametrize("symbol", SET_OPERATIONS)
@pytest.mark.parametrize("held_as", ["edges", "blocks"])
def test_a_graph_that_knows_of_no_batch_may_not_join_two_graphs_of_the_other(symbol: str, held_as: str) -> None:
    on_graphs, _ = SET_OPERATIONS[symbol]
    batch, inside = disjoint_union([full(2, 2), full(3, 3).keep(within(0))]), example([[3, 4], [2, 4]])
    crossing = full(5, 5) if held_as == "blocks" else example([[3, 1, 4], [2, 3, 4]])
    one_graph = example([[1], [3]], src_ptr=torch.tensor([0, 5]))
    for other in (crossing, one_graph):
        for left, right in ((batch, other), (other, batch)):
            if symbol == "&" or (symbol == "-" and left is batch):  # every edge of the result is one of the batch
                result = on_graphs(left, right)
                assert result.num_graphs == 2 and not (result - batch).num_edges
                continue
            with pytest.raises(
                ValueError,
                match=r"edge \[\d, \d\] goes from graph [01] to graph [01] of the batch. .* build it from the same",
            ):
                on_graphs(left, right)
    for result in (on_graphs(batch, inside), on_graphs(inside, batch), on_graphs(batch, batch)):
        assert (result.src_ptr.tolist(), result.dst_ptr.tolist()) == ([0, 2, 5], [0, 2, 5])
    assert on_graphs(inside, crossing).num_graphs == 1


def test_blocks_that_would_stay_blocks_are_checked_as_well() -> None:
    ptr = torch.tensor([0, 2, 5])
    batch = AttentionGraph(torch.tensor([[0], [0]]), 5, src_ptr=ptr)
    node = torch.tensor([1, 2])
    crossing = AttentionGraph.trusted(None, 5, blocks=bicliques(torch.tensor([0, 2]), node, torch.tensor([0, 2]), node))
    for left, right in ((batch, crossing), (crossing, batch)):
        with pytest.raises(ValueError, match=r"goes from graph [01] to graph [01] of the batch"):
            left | right
    assert not is_listed(crossing)
    inside = AttentionGraph.trusted(
        None, 5, blocks=bicliques(torch.tensor([0, 2]), node + 1, torch.tensor([0, 2]), node + 1)
    )
    assert (batch | inside).blocks is not None
    assert (inside | batch).num_graphs == 2


def test_a_graph_that_knows_of_no_batch_takes_the_offsets_of_the_other() -> None:
    ptr = torch.tensor([0, 2, 5])
    batch, single = example([[0], [0]], src_ptr=ptr), example([[4], [4]])
    for union in (batch | single, single | batch, single - batch):
        assert union.src_ptr.tolist() == union.dst_ptr.tolist() == [0, 2, 5]


HERE = example([[0, 1], [0, 1]])
SPLIT = [example([[0], [0]], src_ptr=torch.tensor([0, k, 5])) for k in (2, 3)]
HEADS = [example([[0], [0]], head_mask=torch.ones(1, num_heads, dtype=torch.bool)) for num_heads in (2, 3)]
MISTAKES: dict[str, tuple[Callable[[], object], type[Exception], str]] = {
    "| other batch": (lambda: SPLIT[0] | SPLIT[1], ValueError, "different batches .* Build both from the same sizes"),
    "@ other batch": (lambda: SPLIT[0] @ SPLIT[1], ValueError, "different batches .* Build both from the same sizes"),
    "^ other heads": (lambda: HEADS[0] ^ HEADS[1], ValueError, "head_mask, 2 and 3. Use the same num_heads"),
    "disjoint_union other heads": (
        lambda: disjoint_union(HEADS),
        ValueError,
        r"head_mask, \[2, 3\]. Use the same num_heads",
    ),
    "@ inner sizes": (
        lambda: HERE @ example([[0], [0]], 5, 4),
        ValueError,
        "right.num_dst_nodes, got 5 and 4. The sour",
    ),
    "@ heads": (lambda: HEADS[0] @ HERE, ValueError, "not defined for graphs with a head_mask. Compose graph.of_head"),
    "disjoint_union of nothing": (
        lambda: disjoint_union([]),
        ValueError,
        "at least one graph, got none. Pass a non-empty",
    ),
    "a head too many": (
        lambda: HEADS[0].of_head(2),
        ValueError,
        r"head must be an int in \[0, 2\), got 2. The head_mask",
    ),
    "| number": (lambda: HERE | 3, TypeError, "unsupported operand"),
    "rule that returns numbers": (
        lambda: HERE.keep(lambda src, dst: src),
        ValueError,
        r"rule must return a bool tensor of shape \[2\], got torch.int64 \[2\]. A rule takes \(src, dst\)",
    ),
    "rule that returns one bool": (lambda: HERE.keep(lambda src, dst: True), ValueError, "got bool. A rule takes"),
    "kept of floats": (
        lambda: HERE.keep_sources(torch.ones(5)),
        ValueError,
        r"bool \[num_src_nodes\] = \[5\], got torch.f",
    ),
    "kept elsewhere": (
        lambda: HERE.keep_sources(torch.ones(5, dtype=torch.bool, device="meta")),
        ValueError,
        r"kept must be on the device of the graph's edges, cpu, got meta. Call kept.to\('cpu'\) first",
    ),
    "label per source only": (
        lambda: HERE.keep_equal(torch.zeros(5, dtype=torch.int64), torch.zeros(3, dtype=torch.int64)),
        ValueError,
        r"dst_label must be int64 \[num_dst_nodes\] = \[5\], got torch.int64 \[3\]. Give each node one label",
    ),
    "negative label": (
        lambda: HERE.keep_equal(torch.full((5,), -1), torch.zeros(5, dtype=torch.int64)),
        ValueError,
        "src_label must not be negative, got -1. Number the labels from 0",
    ),
    "sixteenth kind": (
        lambda: AttentionGraph.trusted(None, 1, kinds=tuple("abcdefghijklmno")).marked("sampled"),
        ValueError,
        "kinds must be at most 15 names",
    ),
    "order that repeats": (
        lambda: HERE.permute(torch.zeros(5, dtype=torch.int64)),
        ValueError,
        "order must be an int64 permutation of 0 … 4, got .* Each node must appear once",
    ),
    "order of a list": (
        lambda: HERE.permute([0, 1, 2, 3, 4]),
        TypeError,
        r"order must be a torch.Tensor, got list. Pass",
    ),
    "order across graphs": (
        lambda: SPLIT[0].permute(torch.arange(5).flip(0)),
        ValueError,
        "moves a node to another graph of the batch. Permute inside each graph only",
    ),
    "one order for two sides": (
        lambda: full(2, 3).permute(torch.arange(3)),
        ValueError,
        r"needs dst_order for a rectangular graph \(3 sources, 2 targets\). Pass one order per side",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_answered_with_what_to_do(name: str) -> None:
    action, error, advice = MISTAKES[name]
    with pytest.raises(error, match=advice):
        action()


MILLION = 10**6


@pytest.fixture(scope="module")
def large() -> AttentionGraph:
    return full(MILLION, MILLION)


def test_full_attention_over_a_million_nodes_stays_a_block(large: AttentionGraph) -> None:
    assert large.num_edges == MILLION**2
    assert large.T.num_edges == MILLION**2
    assert large.T == large
    assert hash(large.T) == hash(large)
    causal = large.keep(is_causal)
    assert causal.num_edges == causal.T.num_edges == MILLION * (MILLION + 1) // 2
    sampled = large.keep_sources(torch.arange(MILLION) % 1000 == 0).compact_sources()[0]
    assert (sampled.num_src_nodes, sampled.num_edges) == (1000, 1000 * MILLION)
    assert disjoint_union([large, causal]).num_edges == large.num_edges + causal.num_edges
    assert "density 100% of" in str(large)
    assert "edges per target: min 1, median 500000, max 1000000; 0 empty rows" in str(causal)


@pytest.mark.parametrize(
    "action",
    [
        lambda graph: graph.edge_index,
        lambda graph: graph.find(torch.tensor([0]), torch.tensor([0])),
        lambda graph: graph & graph,
        lambda graph: graph.keep(within(3)),
        lambda graph: ~graph,
        lambda graph: graph @ graph,
    ],
)
def test_listing_a_million_squared_pairs_is_refused_with_the_size(
    action: Callable[[AttentionGraph], object], large: AttentionGraph
) -> None:
    with pytest.raises(
        ValueError, match=r"1,000,000,000,000 edges \(14,901 GiB\), above the limit of 268,435,456. Keep"
    ):
        action(large)


def test_a_dense_composition_is_refused_before_it_is_listed() -> None:
    hub = 20_000
    star = AttentionGraph(torch.stack([torch.arange(hub), torch.zeros(hub, dtype=torch.int64)]), hub)
    with pytest.raises(ValueError, match="its two-hop composition would hold 400,000,000 edges"):
        star.T @ star
