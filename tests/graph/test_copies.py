"""Copies of sources: the same edges in the same order, where rows of blocks read neighbours."""

import pytest
import torch

from graphattn import disjoint_union
from graphattn.connectivity import block_diagonal, clusters, full, sliding_window
from graphattn.graph.copies import copies_of
from graphattn.graph.rules import is_causal

KEPT = torch.tensor([True, False, True, True, False, False, True, True, True])
GRAPHS = {
    "all pairs": full(5),
    "molecules": full(torch.tensor([3, 0, 5, 1])),
    "sampled sources": full(9).keep_sources(KEPT),
    "sampled sources, causal": full(9).keep_sources(KEPT).keep(is_causal),
    "clusters between each other": clusters(9, [2, 0, 2, 1, 0, 1, 2, -1, 0]),
    "two sides": full(torch.tensor([4, 2]), torch.tensor([3, 5])),
    "blocks, and edges at other targets": disjoint_union([block_diagonal(6, 3), sliding_window(7, radius=1), full(2)]),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_edges_are_those_of_the_graph_in_its_order(name: str) -> None:
    graph = GRAPHS[name]
    source, plan = copies_of(graph.plan())
    degree = torch.diff(plan.target_ptr)
    dst = torch.repeat_interleave(torch.arange(graph.num_dst_nodes), degree)
    assert torch.equal(torch.stack([source[plan.src], dst]), graph.edge_index)


@pytest.mark.parametrize("name", GRAPHS)
def test_rows_of_blocks_read_ranges(name: str) -> None:
    graph = GRAPHS[name]
    plan = copies_of(graph.plan()).plan
    rows = graph.plan().groups.dst
    for target in rows.tolist():
        read = plan.src[plan.target_ptr[target] : plan.target_ptr[target + 1]]
        assert torch.equal(read, torch.arange(len(read)) + (read[0] if len(read) else 0))
