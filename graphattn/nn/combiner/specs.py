"""What sits in the connect seat: one frozen spec for each form of Combiner."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from graphattn.connectivity import combiner
from graphattn.connectivity._nodes import check_count
from graphattn.connectivity.combiner import Pair
from graphattn.graph import AttentionGraph
from graphattn.nn.combiner.seat import CombinerSeat, Summary, check_summary
from graphattn.nn.combiner.support import Support, labels_of_kind, read_support


@dataclass(frozen=True, kw_only=True)
class _Spec:
    """What all forms share.

    Args:
        summary: how q_Ω and k_Ω come from those of the members: "max" (the paper), "mean", or "learned", which adds a
            small network of each head to the maximum and starts as it.
        log_size: adds log |Ω| to the logit of reading Ω, so that a set of equal tokens weighs as they would one by one.
            Ours; off in the paper.
    """

    summary: Summary = "max"
    log_size: bool = False

    def __post_init__(self) -> None:
        check_summary(self.summary)

    def build(self, embed_dim: int, num_heads: int) -> nn.Module:
        return CombinerSeat(self, embed_dim, num_heads)

    def pairs(self, graph: AttentionGraph) -> tuple[Pair, ...]:
        """Returns the pairs that stand for full attention, causal or not."""
        support = read_support(graph)
        made = self._made(support)
        return made if isinstance(made, tuple) else (made,)

    def _made(self, support: Support) -> Pair | tuple[Pair, ...]:
        raise NotImplementedError


@dataclass(frozen=True)
class Fixed(_Spec):
    """Segments, `connectivity.combiner.fixed`.

    Args:
        summary: "max", "mean" or "learned".
        log_size: adds log |Ω| to the logits of summaries.
        segment: tokens per segment; the paper takes 128 at 2,048 tokens.

    >>> Fixed(segment=64).build(embed_dim=8, num_heads=2)
    CombinerSeat(Fixed(summary='max', log_size=False, segment=64))
    """

    segment: int = 128

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count(self.segment, "segment", 1, "Use 1 for segments of one token.")

    def _made(self, support: Support) -> Pair:
        return combiner.fixed(support.sizes, self.segment, causal=support.causal, member=support.member)


@dataclass(frozen=True)
class LogSparse(_Spec):
    """Doubling spans, `connectivity.combiner.log_sparse`; arguments as in `Fixed`, without a segment."""

    def _made(self, support: Support) -> Pair:
        return combiner.log_sparse(support.sizes, causal=support.causal, member=support.member)


@dataclass(frozen=True)
class _Axial(_Spec):
    width: int = 128  # tokens per row; for images, their width

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count(self.width, "width", 1, "Use 1 for rows of one token.")

    def _axial(self, build, support: Support, **options: bool):
        return build(support.sizes, self.width, causal=support.causal, member=support.member, **options)


@dataclass(frozen=True)
class AxialVertical(_Axial):
    """Row, column, and the other columns by summaries, `connectivity.combiner.axial_vertical`.

    Args:
        summary: "max", "mean" or "learned".
        log_size: adds log |Ω| to the logits of summaries.
        width: tokens per row: the width of an image, or near √n for a sequence of n.
    """

    def _made(self, support: Support) -> Pair:
        return self._axial(combiner.axial_vertical, support)


@dataclass(frozen=True)
class AxialHorizontal(_Axial):
    """Row, column, and the other rows by summaries, `connectivity.combiner.axial_horizontal`.

    Args:
        summary, log_size, width: as in `AxialVertical`.
        split: two summaries of each row, as the official code has.
    """

    split: bool = False

    def _made(self, support: Support) -> Pair:
        return self._axial(combiner.axial_horizontal, support, split=self.split)


@dataclass(frozen=True)
class AxialRowmajor(_Axial):
    """Row, and the other rows as the tokens of the own column see them, `connectivity.combiner.axial_rowmajor`.

    Args:
        summary, log_size, width: as in `AxialVertical`; keys are pooled so, queries are the tokens' own.
    """

    def _made(self, support: Support) -> Pair:
        return self._axial(combiner.axial_rowmajor, support)


@dataclass(frozen=True)
class Mixture(_Axial):
    """The mean of the vertical and the horizontal form, `connectivity.combiner.mixture`.

    Args:
        summary, log_size, width: as in `AxialVertical`.
    """

    def _made(self, support: Support) -> tuple[Pair, ...]:
        return self._axial(combiner.mixture, support)


@dataclass(frozen=True)
class Clusters(_Spec):
    """Own cluster directly, the others of the example by summaries, `connectivity.combiner.clusters`.

    The clusters come with the graph of the layer: `connectivity.clusters(sizes, labels)`, whose edges join the tokens
    of a cluster, alone or in union with `connectivity.full(sizes)`. Either way a token's support is its whole example.

    Args:
        summary: "max", "mean" or "learned".
        log_size: adds log |Ω| to the logits of summaries.
        kind: of the edges that join the tokens of a cluster.
        causal: whether token i reads tokens up to i only; the graph must then be kept causal too.

    >>> import graphattn as ga
    >>> layer = ga.nn.GraphAttention(8, 2, connect=Clusters())
    >>> layer(torch.zeros(5, 8), ga.connectivity.clusters(5, [0, 1, 0, 2, 1])).shape
    torch.Size([5, 8])
    """

    kind: str = "cluster"
    causal: bool = False

    def pairs(self, graph: AttentionGraph) -> tuple[Pair, ...]:
        labels: Tensor = labels_of_kind(graph, self.kind, self.causal)
        sizes = torch.diff(graph.src_ptr)
        return (combiner.clusters(sizes, labels, causal=self.causal),)
