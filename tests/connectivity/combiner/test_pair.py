"""What all Combiner builders promise alike: exact supports, batches, masks, kinds, devices, advice."""

import re
from collections import Counter

import pytest
import torch
from torch import Tensor

import graphattn as ga
from graphattn.connectivity import combiner, full
from graphattn.connectivity.combiner import Pair
from graphattn.graph import AttentionGraph
from tests.connectivity.combiner.covers import VARIANTS, reads_of

LENGTHS = [1, 2, 3, 7, 17, 24, 33]
SIZES = torch.tensor([7, 0, 1, 17, 2, 33])

variants = pytest.mark.parametrize("name", VARIANTS)
both = pytest.mark.parametrize("causal", [True, False], ids=["causal", "bidirectional"])


def build(name: str, n: int | Tensor, causal: bool, member: Tensor | None = None) -> Pair:
    return VARIANTS[name][1](n, causal=causal, member=member)


@variants
@both
@pytest.mark.parametrize("n", LENGTHS)
def test_each_token_reads_what_the_definition_says_and_each_source_once(name: str, causal: bool, n: int) -> None:
    rule = VARIANTS[name][0]
    for i, (direct, abstractions) in enumerate(reads_of(build(name, n, causal))):
        assert direct == rule(i, n, causal)[0]
        assert Counter(abstractions) == Counter(rule(i, n, causal)[1])
        covered = Counter(direct)
        for members, _ in abstractions:
            covered.update(members)
        support = range(i + 1 if causal else n)
        if name == "clusters":  # without those of no cluster
            support = [j for j in support if j % 4 != 0] if i % 4 != 0 else []
        assert covered == Counter(support)


@variants
@both
def test_a_batch_is_the_loop_over_its_graphs(name: str, causal: bool) -> None:
    pair = build(name, SIZES, causal)
    found, first, first_abstraction = reads_of(pair), 0, 0
    assert torch.equal(pair.summarise.src_ptr, torch.tensor([0, 7, 7, 8, 25, 27, 60]))
    for number, size in enumerate(SIZES.tolist()):
        alone = build(name, size, causal)
        for i, (direct, abstractions) in enumerate(reads_of(alone)):
            assert found[first + i][0] == {first + j for j in direct}
            shifted = [
                (frozenset(first + j for j in members), None if asker is None else first + asker)
                for members, asker in abstractions
            ]
            assert Counter(found[first + i][1]) == Counter(shifted)
        assert int(pair.summarise.dst_ptr[number]) == first_abstraction
        first, first_abstraction = first + size, first_abstraction + alone.num_abstractions


@variants
@both
@pytest.mark.parametrize("n", [0, 1, 2, 17, SIZES])
def test_the_graphs_are_canonical_and_typed(name: str, causal: bool, n: int | Tensor) -> None:
    summarise, attend = pair = build(name, n, causal)
    num_nodes = int(SIZES.sum()) if isinstance(n, Tensor) else n
    assert (summarise.num_src_nodes, summarise.num_dst_nodes) == (num_nodes, pair.num_abstractions)
    assert (attend.num_src_nodes, attend.num_dst_nodes) == (num_nodes + pair.num_abstractions, num_nodes)
    assert summarise.kinds == ("summarise",) and attend.kinds == ("direct", "read")
    for graph in pair:  # the constructor validates what builders may skip
        AttentionGraph(graph.edge_index, graph.num_src_nodes, graph.num_dst_nodes)
        assert len(graph.edge_kind) == graph.num_edges == graph.edge_index.shape[1]
    assert bool((summarise.edge_kind == 1).all())
    is_read = attend.edge_index[0] >= num_nodes
    assert torch.equal(attend.edge_kind.long(), 1 + is_read.long())


@variants
@both
def test_what_is_no_member_is_read_by_nobody(name: str, causal: bool) -> None:
    n = 23
    member = torch.ones(n, dtype=torch.bool)
    member[[0, 6, 7, 8, 10, 11, 12, 13, 14, 22]] = False  # a whole segment, a whole row, first and last
    kept = set(member.nonzero()[:, 0].tolist())
    plain, masked = reads_of(build(name, n, causal)), reads_of(build(name, n, causal, member))
    for (direct, abstractions), (left, summaries) in zip(plain, masked):
        assert left == direct & kept
        expected = [(members & kept, asker if asker in kept else None) for members, asker in abstractions]
        assert Counter(summaries) == Counter(one for one in expected if one[0])


def test_it_unpacks_into_two_graphs_and_moves() -> None:
    summarise, attend = pair = ga.connectivity.combiner.fixed(10, segment=4, causal=True)
    assert pair.to("cpu").summarise == summarise and pair.to("cpu").attend == attend
    moved = combiner.axial_rowmajor(10, 4, causal=True).to("meta")
    assert {moved.summarise.device.type, moved.attend.device.type, moved.asker.device.type} == {"meta"}
    assert repr(summarise).startswith("AttentionGraph(combiner.fixed(10, segment=4, causal=True).summarise: 3 targets")


def test_segments_rows_and_columns_are_held_as_blocks() -> None:
    for name in ("fixed 3", "vertical 5", "horizontal 5", "rowmajor 5"):
        for causal in (True, False):
            for graph in build(name, 100, causal):
                assert graph.explicit_edges.shape[1] == 0 and graph.blocks is not None
                stored = graph.blocks.src.numel() + graph.blocks.dst.numel()
                assert stored <= 16 * 100  # O(tokens), however many edges


@pytest.mark.parametrize(
    ("make", "error", "advice"),
    [
        (lambda: combiner.fixed(7, 0, causal=True), ValueError, "segment must be at least 1, got 0. With 1"),
        (lambda: combiner.fixed(7, 2.0, causal=True), TypeError, "segment must be an int"),
        (lambda: combiner.fixed(-7, 2, causal=True), ValueError, "sizes must not be negative, got -7"),
        (lambda: combiner.log_sparse(7.0, causal=True), TypeError, "sizes must be an int or an int64 tensor"),
        (lambda: combiner.axial_vertical(7, -1, causal=True), ValueError, "width must be at least 1, got -1"),
        (lambda: combiner.axial_rowmajor(7, 0, causal=True), ValueError, "width must be at least 1, got 0"),
        (lambda: combiner.axial_horizontal(7, causal=True), ValueError, "width must say how many tokens a row has"),
        (lambda: combiner.axial_vertical((7, 2), 2, causal=True), ValueError, "got width=2 beside it. Leave it out"),
        (lambda: combiner.mixture((7, 2, 2), causal=True), ValueError, "an image must have two axes, got 3"),
        (lambda: combiner.clusters(7, [0, 1]), ValueError, "labels must have one entry per node, 7, got 2"),
        (
            lambda: combiner.clusters(4, torch.zeros(2, 2).long()),
            ValueError,
            "labels must have shape [num_nodes], got [2, 2]",
        ),
        (lambda: combiner.clusters(2, torch.zeros(2)), TypeError, "labels must have dtype torch.int64"),
        (
            lambda: combiner.fixed(7, 2, causal=True, member=torch.ones(6).bool()),
            ValueError,
            "member must be bool [num_nodes] = [7], got torch.bool [6]. Mark padding with False",
        ),
        (lambda: combiner.log_sparse(2, causal=True, member=[True, False]), ValueError, "got list"),
    ],
)
def test_what_cannot_be_is_refused(make, error: type[Exception], advice: str) -> None:
    with pytest.raises(error, match=re.escape(advice)):
        make()


def test_numbers_beyond_int64_mean_all() -> None:
    assert combiner.fixed(7, 2**70, causal=False).attend.num_edges == full(7).num_edges
    assert combiner.axial_vertical(7, 2**70, causal=False).attend.num_edges == full(7).num_edges
