"""The cases of attention on a GPU: graphs that fill the chip, in bfloat16, with what their users pass along edges.

Sizes and seeds are fixed. Each graph can be shrunk, to see on any machine that a script runs.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from cases import power_law
from torch import Tensor

import graphattn as ga
from graphattn.graph import AttentionGraph
from graphattn.ops import memory_floor

SMALL = 64


class Case(NamedTuple):
    """A graph, its heads, and what comes with its edges."""

    what: str
    graph: Callable[[int, str], AttentionGraph]  # takes by how much to shrink the number of nodes, and a device
    num_heads: int
    head_dim: int
    contenders: tuple[str, ...]
    bars: dict[str, float]  # by contender: forward+backward over fused, at least
    edge_dim: int = 0  # features of edges, which one matrix of each head brings to keys and values
    has_bias: bool = False  # of every edge and head
    floor_bar: float | None = None  # share of the memory floor that is to be reached

    @property
    def heads(self) -> str:
        return f"{self.num_heads} x {self.head_dim}"


class Tensors(NamedTuple):
    """Leaves of a call, and the gradient of its output."""

    query: Tensor
    key: Tensor
    value: Tensor
    weight: Tensor | None  # [num_heads · head_dim, edge_dim]
    bias: Tensor | None  # [num_edges, num_heads]
    edge_attr: Tensor | None  # [num_edges, edge_dim], no leaf
    grad_out: Tensor

    @property
    def leaves(self) -> tuple[Tensor, ...]:
        return tuple(x for x in self[:5] if x is not None)


def arxiv(shrink: int, device: str) -> AttentionGraph:
    return power_law(shrink).to(device)


def mesh_to_grid(shrink: int, device: str) -> AttentionGraph:
    """A fine grid hears 3 to 12 near nodes of a coarse mesh, in the sizes of refined icosahedra."""
    num_src, num_dst = 40_962 // shrink, 163_842 // shrink
    generator = torch.Generator().manual_seed(0)
    degree = torch.randint(3, 13, (num_dst,), generator=generator)
    dst = torch.repeat_interleave(degree)
    place = torch.arange(dst.numel()) - (torch.cumsum(degree, 0) - degree)[dst]
    near = 4  # one source in each of so many, away from the first
    first = (dst * num_src // num_dst).clamp(max=num_src - 12 * near)
    src = first + place * near + torch.randint(near, dst.shape, generator=generator)
    return AttentionGraph(torch.stack([src, dst]), num_src, num_dst).to(device)


def random_keys(shrink: int, device: str) -> AttentionGraph:
    generator = torch.Generator().manual_seed(0)
    return ga.connectivity.random_regular(16_384 // shrink, 64, generator=generator).to(device)


def window(shrink: int, device: str) -> AttentionGraph:
    return ga.connectivity.sliding_window(torch.tensor([65_536 // shrink], device=device), radius=128)


def molecules(shrink: int, device: str) -> AttentionGraph:
    sizes = torch.randint(10, 43, (2048 // shrink,), generator=torch.Generator().manual_seed(0))
    return ga.connectivity.full(sizes.to(device))


def near_keys(shrink: int, device: str) -> AttentionGraph:
    """A million nodes, each of which hears 16 of the 512 around it: what is read again lies in the cache."""
    return _strata(2**20 // shrink, degree=16, reach=512, device=device)


def hundred_million(shrink: int, device: str) -> AttentionGraph:
    num_nodes = 2**21 // shrink
    return _strata(num_nodes, degree=48, reach=num_nodes, device=device)


def _strata(num_nodes: int, degree: int, reach: int, device: str) -> AttentionGraph:
    """Each target hears one source, drawn at random, of each of `degree` equal parts of the `reach` nodes around it."""
    generator = torch.Generator(device).manual_seed(0)
    node = torch.arange(num_nodes, device=device)[:, None]
    part = reach // degree
    first = (node - reach // 2).clamp(0, num_nodes - reach) + torch.arange(degree, device=device) * part
    src = first + torch.randint(part, first.shape, generator=generator, device=device)
    # ascending and distinct by construction; checking a hundred million edges would take more memory than training
    return AttentionGraph.trusted(torch.stack([src.flatten(), node.expand(-1, degree).flatten()]), num_nodes)


PYG, PYG_COMPILED = "TransformerConv", "TransformerConv, compiled"
FLEX, FLEX_TABLE = "FlexAttention", "FlexAttention, table"
CASES = {
    "random": Case(
        "64 random keys, 16,384 tokens", random_keys, 16, 64,
        ("fused", FLEX, FLEX_TABLE, "dense SDPA", PYG), {FLEX: 10, FLEX_TABLE: 10, "dense SDPA": 3},
    ),
    "arxiv": Case(
        "power law of ogbn-arxiv's size", arxiv, 4, 32,
        ("fused", "scatter", PYG, PYG_COMPILED), {PYG: 12, PYG_COMPILED: 2.5},
    ),
    "weather": Case(
        "mesh to grid, 3 to 12 keys, edge features in keys and values", mesh_to_grid, 16, 64,
        ("fused", PYG, PYG_COMPILED), {PYG: 12, PYG_COMPILED: 2.5}, edge_dim=16,
    ),
    "molecules": Case(
        "2,048 molecules, full inside, a bias of every edge and head", molecules, 8, 32,
        ("fused", "blocks", "padded SDPA"), {"padded SDPA": 2}, has_bias=True,
    ),
    "window": Case(
        "window of 257 keys, 65,536 tokens", window, 16, 64, ("fused", FLEX), {FLEX: 1 / 1.15},
    ),
    "near": Case(
        "16 of 512 near keys, a million nodes", near_keys, 8, 32, ("fused", "gather"), {}, floor_bar=0.6,
    ),
    "hundred million": Case(
        "48 random keys, two million nodes: 10⁸ edges", hundred_million, 8, 16, ("fused",), {}, has_bias=True,
    ),
}  # fmt: skip
LARGEST = "hundred million"  # which nothing that makes numbers of edges times width could check


def make_tensors(case: Case, graph: AttentionGraph, dtype: torch.dtype) -> Tensors:
    """Returns normal numbers from a fixed seed; the matrices of edges' features are ten times smaller."""
    generator = torch.Generator(graph.device).manual_seed(1)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=dtype, device=graph.device, generator=generator)

    of_heads = case.num_heads, case.head_dim
    query, grad_out = normal(graph.num_dst_nodes, *of_heads), normal(graph.num_dst_nodes, *of_heads)
    key, value = normal(graph.num_src_nodes, *of_heads), normal(graph.num_src_nodes, *of_heads)
    weight = normal(case.num_heads * case.head_dim, case.edge_dim) / 10 if case.edge_dim else None
    bias = normal(graph.num_edges, case.num_heads) if case.has_bias else None
    edge_attr = normal(graph.num_edges, case.edge_dim) if case.edge_dim else None
    return Tensors(query, key, value, weight, bias, edge_attr, grad_out)


def floor_bytes(graph: AttentionGraph, tensors: Tensors) -> dict[str, int]:
    """Returns what forward, and forward with backward, move at least: see `graphattn.ops.memory_floor`."""

    def size(*found: Tensor | None) -> int:
        return sum(x.numel() * x.element_size() for x in found if x is not None)

    passes = memory_floor.floor_bytes(
        graph,
        leaves=size(*tensors.leaves),
        others=size(tensors.edge_attr),
        out=size(tensors.grad_out),
        num_heads=tensors.query.shape[1],
    )
    return {"forward": passes.forward, "forward+backward": passes.both}
