"""The cases that the benchmarks of attention share: a graph, its heads, and inputs from a fixed seed, float32.

Each graph can be shrunk: by QUICK to see that a script runs, by TINY to compare with the specification, which holds all
pairs and so cannot serve the large ones.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

import graphattn as ga
from graphattn.graph import AttentionGraph
from graphattn.ops._dispatch import Sizes, choose

QUICK, TINY = 8, 64
WINDOW_RADIUS = 32


class Case(NamedTuple):
    """A graph and the shape of its heads."""

    graph: Callable[[int], AttentionGraph]  # takes by how much to shrink the number of nodes
    num_heads: int
    head_dim: int

    @property
    def heads(self) -> str:
        return f"{self.num_heads} x {self.head_dim}"


def window(shrink: int) -> AttentionGraph:
    return ga.connectivity.sliding_window(8192 // shrink, radius=WINDOW_RADIUS)


def random_keys(shrink: int) -> AttentionGraph:
    degree = 2 * WINDOW_RADIUS + 1
    return ga.connectivity.random_regular(8192 // shrink, degree, generator=torch.Generator().manual_seed(0))


def molecules(shrink: int) -> AttentionGraph:
    sizes = torch.randint(10, 43, (256 // shrink,), generator=torch.Generator().manual_seed(0))
    return ga.connectivity.full(sizes)


def few_keys(shrink: int) -> AttentionGraph:
    return ga.connectivity.random_regular(65_536 // shrink, 16, generator=torch.Generator().manual_seed(0))


def sampled_sources(shrink: int) -> AttentionGraph:
    """All targets read the same eighth of the sources, drawn without replacement: one block."""
    num_nodes = 4096 // shrink
    kept = torch.zeros(num_nodes, dtype=torch.bool)
    kept[torch.randperm(num_nodes, generator=torch.Generator().manual_seed(0))[: num_nodes // 8]] = True
    return ga.connectivity.full(num_nodes).keep_sources(kept)


def power_law(shrink: int) -> AttentionGraph:
    r"""A graph of the size of ogbn-arxiv with its reverse edges: 169,343 nodes, about 2.3 million edges, hubs.

    Both ends of an edge are drawn with probability ∝ rank^-a, a = 0.55, by u^(1 / (1 - a)) of a uniform u; ranks are
    dealt to nodes at random; every edge goes both ways; loops and repeated edges are dropped. O(edges) throughout.
    """
    num_nodes, num_pairs = 169_343 // shrink, 1_160_000 // shrink
    generator = torch.Generator().manual_seed(0)
    uniform = torch.rand(2, num_pairs, dtype=torch.float64, generator=generator)
    rank = (num_nodes * uniform ** (1 / (1 - 0.55))).long().clamp(max=num_nodes - 1)
    one, other = torch.randperm(num_nodes, generator=generator)[rank]
    src, dst = torch.cat([one, other]), torch.cat([other, one])
    pairs = torch.unique((dst * num_nodes + src)[src != dst])  # ascending: sorted by (target, source)
    return AttentionGraph(torch.stack([pairs % num_nodes, pairs // num_nodes]), num_nodes)


CASES = {
    "window": Case(window, 8, 64),
    "random": Case(random_keys, 8, 64),
    "molecules-8": Case(molecules, 8, 8),
    "molecules-32": Case(molecules, 8, 32),
    "few keys": Case(few_keys, 4, 16),
    "power law": Case(power_law, 4, 32),
    "sampled": Case(sampled_sources, 8, 64),
}


def make_inputs(case: Case, graph: AttentionGraph) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
    """Returns query, key and value, and the gradient of the output."""
    generator = torch.Generator().manual_seed(1)
    draws = [torch.randn(graph.num_src_nodes, case.num_heads, case.head_dim, generator=generator) for _ in range(4)]
    return (draws[0], draws[1], draws[2]), draws[3]


def auto_choice(graph: AttentionGraph, case: Case, *, reads_edges: bool = False) -> str:
    """Returns the implementation that impl="auto" takes, as `graphattn.explain` prints it."""
    return choose(graph, sizes_of(case), reads_edges)


def sizes_of(case: Case) -> Sizes:
    return Sizes(case.num_heads, case.head_dim, case.head_dim, torch.float32, torch.device("cpu"))
