"""Hypothesis strategies for small random AttentionGraphs, and a slow account of what they hold.

Every strategy returns graphs and nothing else. `dense` and `kinds_at` read them pair by pair in Python, without the
code that enumerates, sorts or searches, so that a test can compare against them.
"""

from random import Random
from typing import NamedTuple

import torch
from hypothesis import strategies as st
from torch import Tensor

from graphattn.graph import AttentionGraph, Blocks

MAX_NODES = 9
NUM_HEADS = 3
KINDS = ("bond", "window", "global")


class Nodes(NamedTuple):
    """How many nodes each graph of a batch has on each side."""

    num_src: tuple[int, ...]
    num_dst: tuple[int, ...]

    @property
    def is_batch(self) -> bool:
        return len(self.num_src) != 1


@st.composite
def nodes(draw: st.DrawFn, *, square: bool | None = None, batch: bool | None = None) -> Nodes:
    """Sizes with at most 9 nodes on a side; `square` and `batch` force or forbid, None leaves both open."""
    num_graphs = draw(
        {None: st.sampled_from([1, 1, 1, 2, 3]), True: st.sampled_from([2, 3, 0]), False: st.just(1)}[batch]
    )
    size = st.sampled_from({1: [5, 0, 1, 2, 3, 4, 6, 7, 8, 9], 2: [3, 0, 1, 2, 4]}.get(num_graphs, [2, 0, 1, 3]))
    num_src = tuple(draw(size) for _ in range(num_graphs))
    is_square = draw(st.booleans()) if square is None else square
    return Nodes(num_src, num_src if is_square else tuple(draw(size) for _ in range(num_graphs)))


# Hypothesis draws sizes and patterns, which shrink; a seed draws the many pairs and bits, which would be slow to draw.
_randoms = st.integers(0, 2**32 - 1).map(Random)


@st.composite
def _cells(draw: st.DrawFn, over: Nodes) -> set[tuple[int, int]]:
    """Pairs (target, source) inside the graphs of a batch: some, few, with a hub, with a lonely node, none or all."""
    pattern = draw(st.sampled_from(["some", "few", "hub", "lonely", "none", "all"]))
    share = {"none": 0.0, "few": 0.2, "all": 1.0}.get(pattern, 0.5)
    random = draw(_randoms)
    cells: set[tuple[int, int]] = set()
    first_src = first_dst = 0
    for num_src, num_dst in zip(over.num_src, over.num_dst):
        node = random.randrange(max(num_src, num_dst, 1))
        for i in range(num_dst):
            for j in range(num_src):
                touches = node in (i, j)
                chosen = random.random() < share
                if (chosen or (touches and pattern == "hub")) and not (touches and pattern == "lonely"):
                    cells.add((first_dst + i, first_src + j))
        first_src, first_dst = first_src + num_src, first_dst + num_dst
    return cells


@st.composite
def any_blocks(
    draw: st.DrawFn, over: Nodes, staircase: str = "any", disjoint: bool = True, num_kinds: int = 0
) -> Blocks | None:
    """Up to three blocks inside the graphs of a batch, None where they hold no pair.

    `staircase` is "plain", "causal" or "any". Disjoint blocks split either the targets or the sources among them.
    """
    count = draw(st.integers(1, 3)) if over.num_src else 0
    split_targets, split_sources = draw(st.sampled_from([(True, False), (False, True)])) if disjoint else (False, False)
    random = draw(_randoms)
    owner = [random.randrange(count) for _ in range(MAX_NODES)] if count else []
    rows: list[tuple[list[int], list[int], list[int]]] = []
    for number in range(count):
        which = draw(st.integers(0, len(over.num_src) - 1))
        first_src, first_dst = sum(over.num_src[:which]), sum(over.num_dst[:which])
        src = [first_src + k for k in range(over.num_src[which]) if random.random() < 0.8]
        dst = [first_dst + k for k in range(over.num_dst[which]) if random.random() < 0.8]
        dst = [node for node in dst if not split_targets or owner[node] == number]
        src = [node for node in src if not split_sources or owner[node] == number]
        shape = draw(st.sampled_from(["plain", "causal", "free"])) if staircase == "any" else staircase
        if shape == "plain":
            prefix = [len(src)] * len(dst)
        elif shape == "causal":
            prefix = [sum(j <= i for j in src) for i in dst]
        else:
            prefix = [random.randint(0, len(src)) for _ in dst]
            random.shuffle(src)
        rows.append((dst, src, prefix))

    def offsets(sizes: list[int]) -> Tensor:
        return torch.tensor([sum(sizes[:k]) for k in range(len(sizes) + 1)])

    def joined(part: int) -> Tensor:
        return torch.tensor([entry for row in rows for entry in row[part]], dtype=torch.int64)

    if not any(sum(prefix) for _, _, prefix in rows):
        return None
    return Blocks(
        offsets([len(dst) for dst, _, _ in rows]),
        joined(0),
        offsets([len(src) for _, src, _ in rows]),
        joined(1),
        joined(2),
        torch.tensor([random.randrange(2**num_kinds) for _ in rows], dtype=torch.int16),
    )


def pairs_in(blocks: Blocks | None) -> list[tuple[int, int, int]]:
    """Lists (target, source, block) of every pair that blocks hold, read row by row."""
    if blocks is None:
        return []
    dst_ptr, dst, src_ptr, src, prefix, kind = (field.tolist() for field in blocks)
    return [
        (dst[row], source, block)
        for block in range(len(kind))
        for row in range(dst_ptr[block], dst_ptr[block + 1])
        for source in src[src_ptr[block] : src_ptr[block + 1]][: prefix[row]]
    ]


class Ingredients(NamedTuple):
    """The constructor's arguments, blocks and edges overlapping as they please."""

    over: Nodes
    cells: list[tuple[int, int]]  # (target, source) of the listed edges, in canonical order
    blocks: Blocks | None
    edge_kind: list[int] | None
    kinds: tuple[str, ...]
    head_mask: list[list[bool]] | None

    def build(self) -> AttentionGraph:
        def ptr(sizes: tuple[int, ...]) -> Tensor | None:
            return torch.tensor([sum(sizes[:k]) for k in range(len(sizes) + 1)]) if self.over.is_batch else None

        return AttentionGraph(
            torch.tensor([[j for _, j in self.cells], [i for i, _ in self.cells]], dtype=torch.int64).view(2, -1),
            sum(self.over.num_src),
            sum(self.over.num_dst),
            blocks=self.blocks,
            edge_kind=None if self.edge_kind is None else torch.tensor(self.edge_kind, dtype=torch.int64),
            kinds=self.kinds,
            src_ptr=ptr(self.over.num_src),
            dst_ptr=ptr(self.over.num_dst),
            head_mask=None
            if self.head_mask is None
            else torch.tensor(self.head_mask, dtype=torch.bool).view(-1, NUM_HEADS),
        )


@st.composite
def ingredients(
    draw: st.DrawFn,
    over: Nodes | None = None,
    *,
    edges: bool = True,
    staircase: str | None = "any",
    heads: bool = False,
    kinds: bool = False,
    disjoint: bool = False,
) -> Ingredients:
    """Constructor arguments; `staircase=None` leaves blocks out, `disjoint` keeps edges and blocks apart."""
    over = draw(nodes()) if over is None else over
    names = tuple(draw(st.permutations(KINDS))[: draw(st.integers(1, 3))]) if kinds else ()
    blocks = None if staircase is None else draw(any_blocks(over, staircase, disjoint, len(names)))
    cells = draw(_cells(over)) if edges else set()
    if disjoint:
        cells -= {(i, j) for i, j, _ in pairs_in(blocks)}
    random = draw(_randoms)
    has_kind = kinds and draw(st.booleans())
    head_sets = [[bool(bits >> head & 1) for head in range(NUM_HEADS)] for bits in range(1, 2**NUM_HEADS)]
    return Ingredients(
        over,
        sorted(cells),
        blocks,
        [random.randrange(2 ** len(names)) for _ in cells] if has_kind else None,
        names,
        [random.choice(head_sets) for _ in cells] if heads else None,  # some head sees each edge
    )


def _built(over: Nodes | None = None, **options: object) -> st.SearchStrategy[AttentionGraph]:
    return ingredients(over, disjoint=True, **options).map(Ingredients.build)


def explicit_graphs(over: Nodes | None = None) -> st.SearchStrategy[AttentionGraph]:
    """Listed edges only: any, few, hubs, lonely nodes, none, all."""
    return _built(over, staircase=None)


def block_graphs(over: Nodes | None = None, staircase: str = "plain") -> st.SearchStrategy[AttentionGraph]:
    """Blocks only, plain, causal or any staircase."""
    return _built(over, staircase=staircase, edges=False)


def mixed_graphs(over: Nodes | None = None) -> st.SearchStrategy[AttentionGraph]:
    """Blocks of any staircase, and edges beside them."""
    return _built(over)


def head_graphs(over: Nodes | None = None) -> st.SearchStrategy[AttentionGraph]:
    """Three heads that see different edges, with and without blocks."""
    return _built(over, staircase=None, heads=True) | _built(over, heads=True)


def kind_graphs(over: Nodes | None = None) -> st.SearchStrategy[AttentionGraph]:
    """Edges and blocks of up to three kinds."""
    return _built(over, staircase=None, kinds=True) | _built(over, kinds=True)


def batch_graphs() -> st.SearchStrategy[AttentionGraph]:
    """Ragged batches of two or three graphs (or none), some of them empty."""
    return nodes(batch=True).flatmap(graphs)


def graphs(over: Nodes | None = None, *, heads: bool | None = None) -> st.SearchStrategy[AttentionGraph]:
    """Any of the above; `heads` forces or forbids a head mask."""
    plain = [explicit_graphs(over), block_graphs(over), block_graphs(over, "causal"), mixed_graphs(over)]
    plain += [kind_graphs(over)]
    return {None: st.one_of(*plain, head_graphs(over)), True: head_graphs(over), False: st.one_of(*plain)}[heads]


def square_graphs(*, heads: bool | None = None) -> st.SearchStrategy[AttentionGraph]:
    """Graphs whose sources and targets are the same nodes."""
    return nodes(square=True).flatmap(lambda over: graphs(over, heads=heads))


def graph_pairs(*, heads: bool | None = None) -> st.SearchStrategy[tuple[AttentionGraph, AttentionGraph]]:
    """Two graphs over the same nodes."""
    return nodes().flatmap(lambda over: st.tuples(graphs(over, heads=heads), graphs(over, heads=heads)))


def composable_graphs() -> st.SearchStrategy[tuple[AttentionGraph, AttentionGraph]]:
    """Two graphs without head masks, the sources of the first being the targets of the second."""

    def both(over: tuple[Nodes, Nodes]) -> st.SearchStrategy[tuple[AttentionGraph, AttentionGraph]]:
        left, right = over
        right = Nodes(right.num_src, left.num_src) if len(right.num_src) == len(left.num_src) else Nodes(*2 * left[:1])
        return st.tuples(graphs(left, heads=False), graphs(right, heads=False))

    return st.tuples(nodes(), nodes()).flatmap(both)


def dense(graph: AttentionGraph) -> Tensor:
    """Reads a graph into bool [num_dst_nodes, num_src_nodes] ([num_heads, ...] with a head mask), pair by pair."""
    cells = [(i, j) for j, i in graph.explicit_edges.T.tolist()] + [(i, j) for i, j, _ in pairs_in(graph.blocks)]
    assert len(set(cells)) == len(cells), "a pair is held twice"
    head_mask = graph.head_mask
    mask = torch.zeros(graph.num_dst_nodes, graph.num_src_nodes, dtype=torch.bool)
    if head_mask is not None:
        mask = mask.repeat(head_mask.shape[1], 1, 1)
    for position, (i, j) in enumerate(sorted(cells)):
        mask[..., i, j] = True if head_mask is None else head_mask[position]
    return mask


def kinds_at(graph: AttentionGraph) -> dict[tuple[int, int], set[str]]:
    """Reads the kinds of every pair (target, source)."""
    bits = graph.edge_kind.tolist()
    return {
        (i, j): {kind for bit, kind in enumerate(graph.kinds) if bits[k] >> bit & 1}
        for k, (j, i) in enumerate(graph.edge_index.T.tolist())
    }
