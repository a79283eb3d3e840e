"""Two bipartite graphs: tokens → abstractions, then tokens and abstractions → tokens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from graphattn.connectivity._nodes import Nodes
from graphattn.graph import AttentionGraph, Blocks, node_ptr
from graphattn.graph.blocks import concatenate

KINDS = ("direct", "read")
DIRECT, READ = 1, 2  # their bits


@dataclass(frozen=True, eq=False)
class Pair:
    r"""Says which tokens each abstraction summarises, and what each token reads: `summarise, attend = pair`.

    Abstraction a stands for the set Ω_a of tokens that it reads in `summarise`. Token i reads, in `attend` and under
    one softmax, some tokens directly and some abstractions; each token of its support is reached once, either way.

    Args:
        summarise: sources are the tokens, targets the abstractions, those of one graph of a batch after the other;
            kind "summarise".
        attend: sources are all tokens of the batch, then all abstractions; targets are the tokens; kinds "direct" and
            "read". Such an order has no offsets of a batch: those of `summarise` say where examples end.
        asker: int64 [num_abstractions], the token whose query the abstraction asks with, −1 for the pooled one; None
            pools for all.

    Source: Ren et al. 2021 (Combiner), eqs. 3–9, as two graphs.

    >>> from graphattn.connectivity.combiner import fixed
    >>> summarise, attend = fixed(4, segment=2, causal=True)
    >>> summarise.edge_index.tolist(), attend.edge_index.tolist()
    ([[0, 1, 2, 3], [0, 0, 1, 1]], [[0, 0, 1, 2, 4, 2, 3, 4], [0, 1, 1, 2, 2, 3, 3, 3]])
    """

    summarise: AttentionGraph
    attend: AttentionGraph
    asker: Tensor | None = None

    def __iter__(self) -> Iterator[AttentionGraph]:
        return iter((self.summarise, self.attend))

    @property
    def num_abstractions(self) -> int:
        return self.summarise.num_dst_nodes

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Pair:
        """Returns the pair on another device."""
        return replace(
            self,
            summarise=self.summarise.to(device, non_blocking),
            attend=self.attend.to(device, non_blocking),
            asker=None if self.asker is None else self.asker.to(device, non_blocking=non_blocking),
        )


def staircases(dst_block: Tensor, dst: Tensor, prefix: Tensor, src_block: Tensor, src: Tensor) -> Blocks | None:
    """Makes blocks whose row `dst[k]` reads the first `prefix[k]` sources of block `dst_block[k]`; None without a pair.

    Args:
        dst_block: int64 [num_rows], the block of each row.
        dst: int64 [num_rows].
        prefix: int64 [num_rows], may be 0.
        src_block: int64 [num_columns], the block of each source; a block's sources stand in reading order.
        src: int64 [num_columns].

    >>> one = torch.zeros(3, dtype=torch.int64)
    >>> here = torch.arange(3)
    >>> staircases(one, here, here, one, here).enumerate()[0].tolist()
    [[0, 0, 1], [1, 2, 2]]
    """
    if not dst.numel() or not src.numel():
        return None
    num_blocks = int(torch.maximum(dst_block.max(), src_block.max())) + 1
    # rows in the order of their prefixes, for kernels know the staircase whose row t reads t + 1 sources
    by_prefix = torch.argsort(prefix, stable=True)
    rows = by_prefix[torch.argsort(dst_block[by_prefix], stable=True)]
    columns = torch.argsort(src_block, stable=True)
    return Blocks(
        node_ptr(torch.bincount(dst_block, minlength=num_blocks)),
        dst[rows],
        node_ptr(torch.bincount(src_block, minlength=num_blocks)),
        src[columns],
        prefix[rows],
        torch.ones(num_blocks, dtype=torch.int16, device=dst.device),
    ).without_empty()


def pair_of_blocks(
    nodes: Nodes,
    num_abstractions: Tensor,
    *,
    summarise: list[Blocks | None],
    direct: list[Blocks | None],
    read: list[Blocks | None],
    origin: str,
    member: Tensor | None = None,
    asker: Tensor | None = None,
    keeps_unread: bool = False,
) -> Pair:
    """Joins blocks that share no pair.

    Args:
        nodes: the tokens.
        num_abstractions: int64 [num_graphs].
        summarise: tokens → abstractions.
        direct: tokens → tokens.
        read: abstractions, numbered from 0, → tokens.
        origin: the expression that made them.
        member: bool [num_nodes] or None, see `check_member`.
        asker: as in `Pair`.
        keeps_unread: whether abstractions stay that nobody reads, or that have no token.
    """
    ptr = node_ptr(num_abstractions)
    members, reads = joined(summarise), joined(read)
    if not keeps_unread:
        ptr, asker, members, reads = _without_unread(ptr, asker, members, reads)
    total = int(ptr[-1])
    reading = joined(direct)
    if reads is not None:
        reads = reads._replace(kind=reads.kind * READ).shift(0, nodes.num_nodes)
    empty = torch.empty(2, 0, dtype=torch.int64, device=nodes.device)
    return finished(
        AttentionGraph.trusted(
            empty, nodes.num_nodes, total, blocks=members, kinds=("summarise",), src_ptr=nodes.batch_ptr,
            dst_ptr=None if nodes.batch_ptr is None else ptr, origin=f"{origin}.summarise",
        ),
        AttentionGraph.trusted(
            empty, nodes.num_nodes + total, nodes.num_nodes, blocks=joined([reading, reads]), kinds=KINDS,
            origin=f"{origin}.attend",
        ),
        member,
        asker,
    )  # fmt: skip


def finished(summarise: AttentionGraph, attend: AttentionGraph, member: Tensor | None, asker: Tensor | None) -> Pair:
    """Returns the pair without what is no member: no such token is read, nor an abstraction that has none left."""
    if member is None:
        return Pair(summarise, attend, asker)
    names = summarise.origin, attend.origin
    summarise = summarise.keep_sources(member)
    has_member = torch.zeros(summarise.num_dst_nodes, dtype=torch.bool, device=member.device)
    has_member[summarise.explicit_edges[1]] = True
    if summarise.blocks is not None:
        has_member[summarise.blocks.dst] = True
    attend = attend.keep_sources(torch.cat([member, has_member]))
    if asker is not None:
        asker = torch.where((asker >= 0) & member[asker.clamp(min=0)], asker, -1)
    return Pair(summarise.named(names[0]), attend.named(names[1]), asker)


def joined(parts: list[Blocks | None]) -> Blocks | None:
    """Lists the blocks of several parts one after the other, None where there is none."""
    return concatenate([part for part in parts if part is not None])


def check_member(member: Tensor | None, nodes: Nodes) -> Tensor | None:
    """Returns `member` on the device of the nodes, or raises unless it is bool [num_nodes]."""
    if member is None:
        return None
    if not isinstance(member, Tensor) or member.dtype != torch.bool or list(member.shape) != [nodes.num_nodes]:
        got = f"{member.dtype} {list(member.shape)}" if isinstance(member, Tensor) else type(member).__name__
        raise ValueError(
            f"member must be bool [num_nodes] = [{nodes.num_nodes}], got {got}. Mark padding with False, tokens of all "
            "graphs one after the other."
        )
    return member.to(nodes.device)


def options_of(causal: bool, member: Tensor | None) -> str:
    """Writes the options that all builders share."""
    return f", causal={causal}" + ("" if member is None else ", member=…")


def _without_unread(
    ptr: Tensor, asker: Tensor | None, members: Blocks | None, reads: Blocks | None
) -> tuple[Tensor, Tensor | None, Blocks | None, Blocks | None]:
    is_read, has_member = (torch.zeros(int(ptr[-1]), dtype=torch.bool, device=ptr.device) for _ in range(2))
    if reads is not None:
        is_read[reads.src] = True
    if members is not None:
        has_member[members.dst] = True
    kept = is_read & has_member
    if bool(kept.all()):
        return ptr, asker, members, reads
    before = node_ptr(kept.long())  # abstractions kept before each
    new_id = before[:-1]
    if members is not None:
        members = members._replace(
            dst=new_id[members.dst], prefix=torch.where(kept[members.dst], members.prefix, 0)
        ).without_empty()
    if reads is not None:
        reads = reads.keep_sources(kept)
    if reads is not None:
        reads = reads._replace(src=new_id[reads.src])
    return before[ptr], None if asker is None else asker[kept], members, reads
