"""One small graph of each kind that the verb must serve, 11 targets each where nothing else is said."""

import torch

from graphattn.connectivity import full, global_tokens, sliding_window
from graphattn.graph import AttentionGraph, Blocks, bicliques, disjoint_union
from graphattn.graph.rules import is_causal
from graphattn.ops import IMPLEMENTATIONS
from graphattn.ops.capability import runs_on

NUM_HEADS = 3
ON_CPU = tuple(impl for impl in IMPLEMENTATIONS if runs_on(impl, "cpu"))  # all but flex


def edges(pairs: str, num_src_nodes: int = 11, num_dst_nodes: int = 11) -> AttentionGraph:
    """Makes a graph from "target: sources; target: sources"."""
    listed = []
    for row in filter(None, pairs.split(";")):
        target, sources = row.split(":")
        listed += [(int(source), int(target)) for source in sources.split()]
    edge_index = torch.tensor(listed, dtype=torch.int64).view(-1, 2).T
    return AttentionGraph(edge_index, num_src_nodes, num_dst_nodes)


def block(dst: list[int], src: list[int]) -> Blocks:
    made = bicliques(torch.tensor([0, len(dst)]), torch.tensor(dst), torch.tensor([0, len(src)]), torch.tensor(src))
    assert made is not None
    return made


def with_blocks(graph: AttentionGraph, *blocks: Blocks) -> AttentionGraph:
    """The graph and the given blocks, which share no pair with it or each other."""
    for one in blocks:
        graph = graph | AttentionGraph.trusted(None, graph.num_src_nodes, graph.num_dst_nodes, blocks=one)
    return graph


def with_heads(graph: AttentionGraph, seed: int = 0) -> AttentionGraph:
    """The same edges, about a third of them hidden from each head."""
    listed = graph.explicit_edges
    visible = torch.rand(listed.shape[1], NUM_HEADS, generator=torch.Generator().manual_seed(seed)) > 0.35
    visible[~visible.any(1), 0] = True
    return AttentionGraph(listed, graph.num_src_nodes, graph.num_dst_nodes, blocks=graph.blocks, head_mask=visible)


_few = "0: 1 2 5; 1: 1 4; 2: 0 9 10; 3: 0 1 2 3 4 5 6 8 9 10; 5: 3 6; 6: 5; 8: 1 8 9; 9: 0 10; 10: 8 9 10"
_three_each = "; ".join(f"{target}: {target % 3} {3 + target % 5} {9 + target % 4}" for target in range(11))
_outside = "5: 0 3 6; 6: 1 2; 7: 10 ; 9: 0 4 8 9 10; 10: 2 7"

GRAPHS = {
    "full": full(11),
    "causal": full(11).keep(is_causal),
    "window": sliding_window(11, 2),
    "hub": global_tokens(11, [3]),
    "ragged batch": full(torch.tensor([5, 0, 3, 2, 1])),
    "ragged batch of windows": sliding_window(torch.tensor([5, 0, 3, 2, 1]), 1),
    "lonely nodes": edges(_few),  # target 4 and 7 read nobody, nobody reads source 7
    "no edges": edges(""),
    "no nodes": edges("", 0, 0),
    "bipartite": edges("0: 12; 1: 0 7 11; 3: 1 2 3 12; 4: 4 12; 6: 0 5 9; 8: 6 10; 10: 1 12", 13),
    "cross": full(13, dst_sizes=11),
    "blocks and edges": with_blocks(edges(_outside), block([0, 1, 2, 3, 4], [0, 1, 4, 5, 6, 8, 10])),
    "interleaving": with_blocks(edges("2: 3 9; 3: 2 7 9; 6: 0 1; 8: 0"), block([0, 1, 2, 3, 4], [0, 1, 4, 5, 6, 8])),
    "two blocks of a target": with_blocks(
        edges("9: 1 2"), block([0, 1, 2, 3], [0, 1, 2]), block([2, 3, 5], [6, 7, 8, 9])
    ),
    "padded blocks": full(torch.tensor([9, 10])),  # 19 nodes, in one bucket
    "padded staircases": disjoint_union([full(10), full(9)]).keep(is_causal),
    "three keys each": edges(_three_each, 13),
    "three keys each in a block or not": with_blocks(
        edges("5: 0 2 4; 6: 1 7 8; 7: 2 3 10; 8: 0 3 9; 9: 4 8 9; 10: 5 9 10"), block([0, 1, 2, 3, 4], [0, 1, 4])
    ),
    "head mask": with_heads(sliding_window(11, 3)),
    "head mask over three keys each": with_heads(edges(_three_each, 13)),
    "head mask and block": with_heads(with_blocks(edges(_outside), block([0, 1, 2], [0, 1, 4, 5, 6, 8, 10]))),
}
