"""Random sources: each target reads a few sources drawn uniformly without replacement."""

import torch
from torch import Tensor

from graphattn.connectivity._nodes import check_count, check_generator, two_sides
from graphattn.graph import AttentionGraph, Sizes, batch_of

# Where fewer than DENSE · degree sources are to choose from, a target marks its choices in a bitmap over all of them:
# one byte per pair, which is at most DENSE bytes per edge, as much as the int64 source of the edge.
DENSE = 8


def random_regular(
    sizes: Sizes, degree: int, *, dst_sizes: Sizes | None = None, generator: torch.Generator
) -> AttentionGraph:
    r"""Connects each target to min(degree, n) distinct sources of its graph, drawn uniformly without replacement.

    E = {(j → i) : j ∈ S_i}, the S_i independent and uniform among the subsets of that size of the n sources of i's
    graph; the target itself is as likely as any other. Σ_g n_g · min(degree, n_g) edges, or Σ_g m_g · min(degree, n_g)
    for m targets. The graph is regular in in-degree; the out-degree of a source is random, with the same mean where
    m = n. One draw for five tokens, degree 2:

        · ■ · · ■
        ■ · · ■ ·
        · ■ ■ · ·
        · ■ · · ■
        ■ · ■ · ·

    Args:
        sizes: number of nodes, or int64 [num_graphs] for a batch; of sources where `dst_sizes` is given.
        degree: sources per target, at least 0; a graph with fewer nodes is connected in full.
        dst_sizes: number of targets of cross attention, in the form of `sizes`.
        generator: source of randomness, on the device of `sizes`; the same state makes the same graph.

    Returns:
        AttentionGraph of kind "random", on the device of `generator`.

    Raises:
        TypeError: if `sizes` is neither an int nor an int64 tensor, `degree` no int, or `generator` no torch.Generator.
        ValueError: if a size or `degree` is negative, or `generator` is on another device than `sizes`.

    Source: Zaheer et al. 2020 (BigBird), sec. 2: each query attends over r random keys. They draw blocks of tokens for
    the sake of a GPU; here each target draws its own sources.

    >>> graph = random_regular(101, degree=5, generator=torch.Generator().manual_seed(0))
    >>> graph.edge_index[1].bincount().unique()
    tensor([5])
    """
    check_count(degree, "degree", 0, "Use 0 for a graph without edges.")
    check_generator(generator, sizes)
    sources, targets, label = two_sides(sizes, dst_sizes, generator)
    batch = batch_of(targets.ptr)
    start, size = sources.ptr[batch], torch.diff(sources.ptr)[batch]
    most = min(degree, sources.num_nodes)  # int64 cannot hold every int
    is_dense = size < DENSE * most
    count = torch.clamp(size, max=most)
    dst = torch.repeat_interleave(count)
    src = torch.empty_like(dst)
    src[is_dense[dst]] = _mark_distinct(size[is_dense], count[is_dense], generator)
    src[~is_dense[dst]] = _draw_distinct(size[~is_dense], most, generator).flatten()
    return AttentionGraph.trusted(
        torch.stack([src + start[dst], dst]),
        sources.num_nodes,
        targets.num_nodes,
        kinds=("random",),
        src_ptr=sources.batch_ptr,
        dst_ptr=targets.batch_ptr,
        origin=f"random_regular({label}, degree={degree})",
    )


# Both ways below draw with replacement, and draw again for what came twice until nothing is missing. That leaves the
# sets uniform: how many values are drawn again depends on how many a target has, never on which ones. So renaming the
# values does not change the law, and a law that no renaming changes gives all sets of one size the same probability.


def _draw_distinct(size: Tensor, degree: int, generator: torch.Generator) -> Tensor:
    """Returns `degree` distinct numbers of range(size) in each row, ascending, [num_rows, degree]."""
    rows = _uniform(size[:, None].expand(-1, degree), generator).sort(1).values
    pending = torch.arange(size.numel(), device=size.device)
    while pending.numel():
        drawn = rows[pending] if pending.numel() < size.numel() else rows
        is_repeated = torch.zeros_like(drawn, dtype=torch.bool)
        is_repeated[:, 1:] = drawn[:, 1:] == drawn[:, :-1]
        again = is_repeated.any(1)
        pending, drawn, is_repeated = pending[again], drawn[again], is_repeated[again]
        drawn[is_repeated] = _uniform(size[pending][is_repeated.nonzero()[:, 0]], generator)
        rows[pending] = drawn.sort(1).values
    return rows


def _mark_distinct(size: Tensor, count: Tensor, generator: torch.Generator) -> Tensor:
    """Returns `count` distinct numbers of range(size) for each row, ascending, row after row, [count.sum()]."""
    place = torch.cumsum(size, 0) - size  # of each row in the bitmap
    leaves_out = 2 * count > size  # draws those that stay out, so that at least half of what it draws is new
    is_marked = torch.zeros(int(size.sum()), dtype=torch.bool, device=size.device)
    missing = torch.where(leaves_out, size - count, count)
    while bool(missing.any()):
        row = torch.repeat_interleave(missing)
        # sort + unique_consecutive: several times as fast as torch.unique
        mark = torch.unique_consecutive((place[row] + _uniform(size[row], generator)).sort().values)
        mark = mark[~is_marked[mark]]
        is_marked[mark] = True
        missing -= torch.bincount(torch.searchsorted(place, mark, right=True) - 1, minlength=size.numel())
    is_marked ^= torch.repeat_interleave(leaves_out, size)
    return is_marked.nonzero()[:, 0] - torch.repeat_interleave(place, count)


def _uniform(size: Tensor, generator: torch.Generator) -> Tensor:
    """Returns a number of range(size) per entry, uniform up to a bias of size / 2^62."""
    return torch.randint(2**62, size.shape, generator=generator, device=size.device) % size
