"""The plain name: a layer of attention that is a Combiner."""

from typing import Any

from graphattn.nn.attention import Connect, GraphAttention
from graphattn.nn.combiner.specs import Fixed


class CombinerAttention(GraphAttention):
    """Multi-head attention over the whole of each example, at the cost of a Combiner.

    Args:
        embed_dim: width of x and of the output.
        num_heads: number of heads; divides embed_dim.
        plan: the form, from `graphattn.nn.combiner`.
        **options: further seats and options of `GraphAttention`, whose connect seat is `plan`.

    Source: Ren et al. 2021 (Combiner).

    >>> import torch, graphattn as ga
    >>> layer = CombinerAttention(8, 2, ga.nn.combiner.LogSparse())
    >>> layer(torch.zeros(9, 8), ga.connectivity.full(9).keep(ga.rules.is_causal)).shape
    torch.Size([9, 8])
    """

    def __init__(self, embed_dim: int, num_heads: int, plan: Connect = Fixed(), **options: Any):  # noqa: B008
        super().__init__(embed_dim, num_heads, connect=plan, **options)
