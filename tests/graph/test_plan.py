"""The plan: pointers by a slow count, blocks in buckets that cover every pair once, and made exactly once."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from graphattn.connectivity import sliding_window
from graphattn.graph import AttentionGraph, bicliques, node_ptr
from graphattn.graph.plan import MAX_PADDING_WASTE, MAX_RANGE, MAX_SHARED, Bucket, Groups, Plan, pointers
from graphattn.graph.rules import is_causal
from tests.strategies import batch_graphs, block_graphs, graphs, mixed_graphs, nodes, pairs_in

NO_EDGE = torch.empty(2, 0, dtype=torch.int64)


def full(sizes: list[int]) -> AttentionGraph:
    """Full attention inside each graph of a batch."""
    ptr = node_ptr(torch.tensor(sizes))
    node = torch.arange(sum(sizes))
    return AttentionGraph(NO_EDGE, sum(sizes), src_ptr=ptr, blocks=bicliques(ptr, node, ptr, node))


def rows(bucket: Bucket) -> list[tuple[int, list[int], int | None]]:
    """Lists the real rows of a bucket: target, its sources in reading order, canonical position of its first edge."""
    num_blocks, num_targets = bucket.dst.shape
    real = range(bucket.dst.numel()) if bucket.real is None else bucket.real.tolist()
    listed = []
    for position in real:
        b, t = divmod(position, num_targets)
        upto = bucket.src.shape[1] if bucket.prefix is None else int(bucket.prefix[b, t])
        first = None if bucket.first is None else int(bucket.first[b, t])
        listed.append((int(bucket.dst[b, t]), bucket.src[b, :upto].tolist(), first))
    assert len(bucket.src) == num_blocks
    return listed


@given(graphs())
def test_pointers_delimit_the_edges_of_each_target_and_source(graph: AttentionGraph) -> None:
    plan = graph.plan()
    edges = graph.explicit_edges.T.tolist()
    assert torch.stack([plan.src, plan.dst]).T.tolist() == edges
    for i in range(graph.num_dst_nodes):
        mine = range(int(plan.target_ptr[i]), int(plan.target_ptr[i + 1]))
        assert [edges[k] for k in mine] == [edge for edge in edges if edge[1] == i]
    for j in range(graph.num_src_nodes):
        mine = plan.source_order[plan.source_ptr[j] : plan.source_ptr[j + 1]].tolist()
        assert [edges[k] for k in mine] == [edge for edge in edges if edge[0] == j]  # each source's targets ascend
    assert plan.target_ptr.shape == (graph.num_dst_nodes + 1,)
    assert plan.source_ptr.shape == (graph.num_src_nodes + 1,)


@given(graphs())
def test_buckets_cover_each_pair_of_each_block_exactly_once(graph: AttentionGraph) -> None:
    covered = [(i, j) for bucket in graph.plan().buckets for i, sources, _ in rows(bucket) for j in sources]
    assert sorted(covered) == sorted((i, j) for i, j, _ in pairs_in(graph.blocks))
    for bucket in graph.plan().buckets:
        if bucket.real is not None:
            padding = torch.ones(bucket.dst.numel(), dtype=torch.bool)
            padding[bucket.real] = False
            assert not bucket.dst.flatten()[padding].any()
            assert not bucket.prefix.flatten()[padding].any()


@given(graphs() | mixed_graphs() | batch_graphs())
def test_positions_in_the_plan_are_those_that_find_gives(graph: AttentionGraph) -> None:
    plan = graph.plan()
    assert (plan.edge_id is None) == (all(bucket.first is None for bucket in plan.buckets))
    if plan.edge_id is not None:
        assert_close(plan.edge_id, graph.find(plan.src, plan.dst))
    for bucket in plan.buckets:
        for i, sources, first in rows(bucket):
            if first is not None:
                where = graph.find(torch.tensor(sources), torch.full((len(sources),), i))
                assert where.tolist() == list(range(first, first + len(sources)))


@given(graphs())
def test_covers_once_says_whether_a_target_is_merged_from_several_parts(graph: AttentionGraph) -> None:
    parts = [int(i) for i in set(graph.explicit_edges[1].tolist())]
    parts += [i for i, _ in {(i, b) for i, _, b in pairs_in(graph.blocks)}]
    assert graph.plan().covers_once == (len(set(parts)) == len(parts))


def test_full_attention_in_a_batch_has_positions_beside_listed_edges() -> None:
    graph = full([3, 1, 4]) - AttentionGraph(torch.tensor([[0], [0]]), 8)  # listed
    assert graph.plan().edge_id is None
    sizes = node_ptr(torch.tensor([2, 3]))
    blocks = bicliques(sizes, torch.tensor([1, 2, 4, 5, 6]), sizes, torch.tensor([1, 2, 4, 5, 6]))
    mixed = AttentionGraph(torch.tensor([[3, 0, 6], [0, 3, 3]]), 7, blocks=blocks)
    plan = mixed.plan()
    assert plan.covers_once
    assert plan.edge_id.tolist() == [0, 5, 6]
    assert {i: first for bucket in plan.buckets for i, _, first in rows(bucket)} == {1: 1, 2: 3, 4: 7, 5: 10, 6: 13}


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30))
def test_padding_stays_within_its_share(sizes: list[int]) -> None:
    buckets = full(sizes).plan().buckets
    for bucket in buckets:
        padded = bucket.dst.numel() * bucket.src.shape[1]
        real = sum(len(sources) for _, sources, _ in rows(bucket))
        assert padded <= (1 + MAX_PADDING_WASTE) * real
    assert len(buckets) <= len(set(sizes))
    assert sum(bucket.dst.shape[0] for bucket in buckets) == len(sizes)


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=30))
def test_padding_stays_within_its_share_for_targets_and_sources_of_any_number(shapes: list[tuple[int, int]]) -> None:
    num_targets, num_sources = torch.tensor(shapes).T
    dst_ptr, src_ptr = node_ptr(num_targets), node_ptr(num_sources)
    num_dst, num_src = int(num_targets.sum()), int(num_sources.sum())
    blocks = bicliques(dst_ptr, torch.arange(num_dst), src_ptr, torch.arange(num_src))
    plan = AttentionGraph(NO_EDGE, num_src, num_dst, blocks=blocks, src_ptr=src_ptr, dst_ptr=dst_ptr).plan()
    for bucket in plan.buckets:
        real = sum(len(sources) for _, sources, _ in rows(bucket))
        assert bucket.dst.numel() * bucket.src.shape[1] <= (1 + MAX_PADDING_WASTE) * real
    num_pairs = sum(bucket.dst.numel() * bucket.src.shape[1] for bucket in plan.buckets)
    assert num_pairs <= (1 + MAX_PADDING_WASTE) * sum(t * s for t, s in shapes)


def read_rows(groups: Groups) -> list[tuple[int, int]]:
    """Lists the pairs that groups say, by their table alone; `prefix` is looked at only where the table says so."""
    listed, row, column = [], 0, 0
    for num_blocks, num_targets, num_sources, reads_upto_itself, reads_prefix in groups.table.tolist():
        for _ in range(num_blocks):
            sources = groups.src[column : column + num_sources].tolist()
            for rank in range(num_targets):
                upto = rank + 1 if reads_upto_itself else num_sources
                upto = int(groups.prefix[row + rank]) if reads_prefix else upto
                listed += [(int(groups.dst[row + rank]), j) for j in sources[:upto]]
            row, column = row + num_targets, column + num_sources
    assert (row, column) == (groups.dst.numel(), groups.src.numel())
    return listed


@given(graphs())
def test_groups_cover_each_pair_of_each_block_exactly_once(graph: AttentionGraph) -> None:
    groups = graph.plan().groups
    assert (groups is None) == (graph.blocks is None)
    if groups is not None:
        assert sorted(read_rows(groups)) == sorted((i, j) for i, j, _ in pairs_in(graph.blocks))
        assert len({tuple(row) for row in groups.table[:, 1:].tolist()}) == len(groups.table)


def test_a_group_says_which_staircase_its_rows_are() -> None:
    batch = full([2, 3, 2])
    assert batch.plan().groups.table.tolist() == [[2, 2, 2, 0, 0], [1, 3, 3, 0, 0]]
    assert batch.keep(is_causal).plan().groups.table.tolist() == [[2, 2, 2, 1, 0], [1, 3, 3, 1, 0]]
    sampled = full([5]).keep_sources(torch.tensor([True, False, True, True, False])).keep(is_causal)
    assert sampled.plan().groups.table.tolist() == [[1, 5, 3, 0, 1]]


@given(graphs() | mixed_graphs() | batch_graphs())
def test_sequences_cover_each_pair_of_full_blocks_and_causal_squares_exactly_once(graph: AttentionGraph) -> None:
    sequences = graph.plan().sequences
    if sequences is None:
        return
    dst = torch.arange(graph.num_dst_nodes) if sequences.dst is None else sequences.dst
    src = torch.arange(graph.num_src_nodes) if sequences.src is None else sequences.src
    rows, columns = (ptr.diff().tolist() for ptr in (sequences.dst_ptr, sequences.src_ptr))
    assert sequences.dst_ptr.dtype == sequences.src_ptr.dtype == torch.int32
    assert (max(rows), max(columns)) == (sequences.most_targets, sequences.most_sources)
    assert sequences.reads_once == (src.unique().numel() == src.numel())
    listed = []
    for targets, sources in zip(dst.split(rows), src.split(columns), strict=True):
        assert not sequences.is_causal or targets.numel() == sources.numel()
        for rank, target in enumerate(targets.tolist()):
            listed += [(target, j) for j in sources[: rank + 1 if sequences.is_causal else None].tolist()]
    assert sorted(listed) == sorted((i, j) for i, j, _ in pairs_in(graph.blocks))


def test_nodes_in_order_are_not_listed_and_other_staircases_have_no_sequences() -> None:
    batch = full([2, 3, 2])
    for graph in (batch, batch.keep(is_causal)):
        sequences = graph.plan().sequences
        assert sequences is not None and (sequences.dst, sequences.src) == (None, None)
        assert sequences.dst_ptr.tolist() == sequences.src_ptr.tolist() == [0, 2, 5, 7]
        assert sequences.is_causal == (graph is not batch) and sequences.reads_once
    sampled = batch.keep_sources(torch.tensor([True, False, True, False, True, True, True]))
    assert sampled.plan().sequences.src.tolist() == [0, 2, 4, 5, 6]
    assert sampled.compact_sources()[0].plan().sequences.src is None
    assert sampled.keep(is_causal).plan().sequences is None
    assert sliding_window(7, 1).plan().sequences is None


def test_more_blocks_than_a_grid_has_are_no_sequences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphattn.graph.plan.MAX_SEQUENCES", 2)
    assert full([3, 2]).plan().sequences is not None and full([3, 2, 1]).plan().sequences is None


@given(graphs() | mixed_graphs() | batch_graphs())
def test_the_plan_without_unread_sources_is_that_of_the_compact_graph(graph: AttentionGraph) -> None:
    compact, kept = graph.compact_sources()
    ours, expected = graph.plan().keep_sources(kept), compact.plan()

    def tensors(plan: Plan) -> list[torch.Tensor | None]:
        fields = [*plan[:7], *(plan.groups or ()), *(field for bucket in plan.buckets for field in bucket)]
        return [field for field in (*fields, *(plan.sequences or ())) if isinstance(field, torch.Tensor)]

    assert_close(tensors(ours), tensors(expected))
    assert graph.plan().is_read().nonzero()[:, 0].tolist() == kept.tolist()


@given(graphs() | mixed_graphs() | batch_graphs())
def test_edges_in_ranges_are_counted_alike_in_blocks_and_listed(graph: AttentionGraph) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("graphattn.graph.plan.MIN_RANGE", 2)
        plan = graph.permute(torch.arange(graph.num_src_nodes), torch.arange(graph.num_dst_nodes)).plan()
        listed = graph.enumerate().permute(torch.arange(graph.num_src_nodes), torch.arange(graph.num_dst_nodes)).plan()
        compact, kept = graph.compact_sources()
        kept_plan, compact_plan = plan.keep_sources(kept), compact.plan()
        assert kept_plan.num_ranged == compact_plan.num_ranged
        assert kept_plan.num_shared == compact_plan.num_shared
    sources = [listed.src[listed.dst == i].tolist() for i in range(graph.num_dst_nodes)]
    expected = sum(len(js) for js in sources if len(js) > 1 and js == list(range(js[0], js[-1] + 1)))
    assert plan.num_ranged == listed.num_ranged == (0 if graph.head_mask is not None else expected)
    ranges = [js for js in sources if len(js) > 1 and js == list(range(js[0], js[-1] + 1))]
    shared = [
        js
        for before, js, after in zip([[], *sources], sources, [*sources[1:], []])
        if js in ranges and js in (before, after) and graph.head_mask is None
    ]
    assert plan.num_sharing == listed.num_sharing == len(shared)
    assert plan.num_shared == listed.num_shared == sum(map(len, shared))


def test_ranges_are_those_that_a_kernel_gains_by() -> None:
    assert sliding_window(64, 3).plan().num_ranged == (64 - 6) * 7  # rows at the ends are too short
    assert sliding_window(64, 2).plan().num_ranged == 0
    assert full([16, 7, 6]).plan().num_ranged == 16 * 16 + 7 * 7
    assert full([MAX_RANGE + 1]).plan().num_ranged == 0
    moved = full([16]).permute(torch.arange(15, -1, -1))
    assert moved.plan().num_ranged == 16 * 16
    seen = torch.ones(16 * 16, 2, dtype=torch.bool)
    assert AttentionGraph(full([16]).edge_index, 16, head_mask=seen).plan().num_ranged == 0


def test_targets_share_sources_that_one_beside_them_reads_alike() -> None:
    plan = full([16, 7, 6, MAX_SHARED + 1]).plan()
    assert (plan.num_sharing, plan.num_shared) == (16 + 7, 16 * 16 + 7 * 7)
    assert full([MAX_SHARED]).plan().num_sharing == MAX_SHARED
    assert sliding_window(64, 4).plan().num_sharing == 0


def test_blocks_of_one_size_share_a_bucket_without_padding() -> None:
    (bucket,) = full([5] * 7).plan().buckets
    assert bucket.dst.shape == bucket.src.shape == (7, 5)
    assert (bucket.prefix, bucket.real) == (None, None)
    (causal,) = full([5] * 7).keep(is_causal).plan().buckets
    assert causal.prefix.tolist() == [[1, 2, 3, 4, 5]] * 7


def test_plan_is_made_once_and_kept() -> None:
    graph = full([3, 4])
    assert graph.plan() is graph.plan()
    moved = graph.to("cpu")
    assert moved._plan is not None
    assert_close(moved.plan().target_ptr, graph.plan().target_ptr)
    assert graph.keep(is_causal)._plan is None


@given(graphs())
def test_map_reaches_every_tensor_and_nothing_else(graph: AttentionGraph) -> None:
    plan = graph.plan()
    doubled = plan.map(lambda tensor: tensor.clone())

    def shapes(plan: Plan) -> list[object]:
        fields = [
            *plan[:7],
            *(plan.groups or ()),
            *(plan.sequences or ()),
            *(field for bucket in plan.buckets for field in bucket),
            plan.covers_once,
        ]
        return [field.tolist() if isinstance(field, torch.Tensor) else field for field in fields]

    assert shapes(doubled) == shapes(plan)
    assert all(a is not b for a, b in zip(plan, doubled) if isinstance(a, torch.Tensor))


@given(nodes().flatmap(lambda over: block_graphs(over, "any")))
def test_head_mask_and_blocks_do_not_disturb_the_listed_plan(graph: AttentionGraph) -> None:
    listed = graph.enumerate().plan()
    assert listed.buckets == ()
    assert torch.stack([listed.src, listed.dst]).tolist() == graph.edge_index.tolist()


def test_pointers_of_no_edge_are_zero() -> None:
    assert pointers(torch.empty(0, dtype=torch.int64), 3).tolist() == [0, 0, 0, 0]
    assert pointers(torch.empty(0, dtype=torch.int64), 0).tolist() == [0]


def test_a_compiled_region_reads_a_plan_but_refuses_to_make_one() -> None:
    ready, bare = full([3, 4]), full([3, 4])
    ready.plan()

    def num_blocks(graph: AttentionGraph) -> torch.Tensor:
        return sum(bucket.dst.sum() for bucket in graph.plan().buckets) + graph.plan().src.sum()

    compiled = torch.compile(num_blocks, fullgraph=True, backend="eager")
    assert int(compiled(ready)) == sum(range(7))
    with pytest.raises(Exception, match=r"graph.plan\(\) must be made before a compiled region"):
        compiled(bare)
