"""Scores: how node features become query and key.

Every score stays a scaled dot product, so every implementation serves it. A spec builds a module that is called as
`module(x, source, kept)`: `kept` is None, or the rows of x that `source` holds, int64 [num_src_nodes], where the layer
projects only sources that are read.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from graphattn.nn._heads import keep_outputs_, sliced

Init = Literal["paper", "identity", "scaled"]


@dataclass(frozen=True)
class DotProduct:
    """The scaled dot product with a projection of its own for queries and for keys.

    Source: Vaswani et al. 2017, sec. 3.2.1 and 3.2.2.
    """

    def build(
        self, embed_dim: int, num_heads: int, *, head_dim: int, num_key_heads: int, source_dim: int, bias: bool
    ) -> nn.Module:
        """Makes the module that owns the two projections; the layer calls this once."""
        return _DotProductScore(embed_dim, num_heads, head_dim, num_key_heads, source_dim, bias)


@dataclass(frozen=True)
class Symmetric:
    r"""The dot product of queries with queries: there is no projection of keys.

        logit_{j → i} = q_i · q_j / sqrt(head_dim)

    Logits are symmetric, weights are not: each target has its own softmax. The diagonal is |q_i|², so nodes that see
    themselves lean towards themselves.

    What it saves are embed_dim · (embed_dim + 1) parameters, their product with x in the forward and the two of its
    gradient, and one array [num_nodes, num_heads, head_dim]: key *is* query, the same tensor. Kernels read it as two
    arguments and compute both directions of an edge.

    Only for self attention with a key head per head.

    Source: Courtois et al. 2024, "symmetric".
    """

    def build(
        self, embed_dim: int, num_heads: int, *, head_dim: int, num_key_heads: int, source_dim: int, bias: bool
    ) -> nn.Module:
        """Makes the module that owns the one projection; the layer calls this once.

        Raises:
            ValueError: for sources of another width, or grouped heads.
        """
        _check_shared("Symmetric", embed_dim, num_heads, num_key_heads, source_dim)
        return _SymmetricScore(embed_dim, num_heads, head_dim, bias)


@dataclass(frozen=True)
class Pairwise:
    r"""Keys made of queries by a matrix per head, in place of a projection of their own.

        k_j = B_h q_j,   logit_{j → i} = q_iᵀ B_h q_j / sqrt(head_dim)

    A dot product with W_K = B W_Q and b_K = B b_Q, for head_dim · embed_dim parameters in place of
    (embed_dim + 1) · embed_dim. B is free: not symmetric, without a bias.

    Only for self attention with a key head per head.

    Args:
        init: of B. "paper" draws from N(0, 1), which makes the first logits about sqrt(head_dim) times those of
            "scaled", N(0, 1 / head_dim); "identity" starts as `Symmetric`.

    Raises:
        ValueError: for another name.

    Source: Courtois et al. 2024, "pairwise"; the other two initialisations are ours.
    """

    init: Init = "paper"

    def __post_init__(self) -> None:
        if self.init not in get_args(Init):
            raise ValueError(
                f"init must be one of {', '.join(map(repr, get_args(Init)))}, got {self.init!r}. "
                "'scaled' starts with logits of a dot product's size."
            )

    def build(
        self, embed_dim: int, num_heads: int, *, head_dim: int, num_key_heads: int, source_dim: int, bias: bool
    ) -> nn.Module:
        """Makes the module that owns the projection and B; the layer calls this once.

        Raises:
            ValueError: for sources of another width, or grouped heads.
        """
        _check_shared("Pairwise", embed_dim, num_heads, num_key_heads, source_dim)
        return _PairwiseScore(embed_dim, num_heads, head_dim, bias, self.init)


class _DotProductScore(nn.Module):
    def __init__(self, embed_dim: int, num_heads: int, head_dim: int, num_key_heads: int, source_dim: int, bias: bool):
        super().__init__()
        self.num_heads, self.num_key_heads, self.head_dim = num_heads, num_key_heads, head_dim
        self.query_proj = nn.Linear(embed_dim, num_heads * head_dim, bias=bias)
        self.key_proj = nn.Linear(source_dim, num_key_heads * head_dim, bias=bias)

    def forward(self, x: Tensor, source: Tensor, kept: Tensor | None = None) -> tuple[Tensor, Tensor]:
        query = self.query_proj(x).unflatten(-1, (self.num_heads, -1))  # [num_dst_nodes, num_heads, head_dim]
        key = self.key_proj(source).unflatten(-1, (self.num_key_heads, -1))  # [num_src_nodes, num_key_heads, head_dim]
        return query, key

    def keep_heads_(self, heads: Sequence[int], key_heads: Sequence[int]) -> None:
        keep_outputs_(self.query_proj, heads, self.head_dim)
        keep_outputs_(self.key_proj, key_heads, self.head_dim)
        self.num_heads, self.num_key_heads = len(heads), len(key_heads)


class _SymmetricScore(nn.Module):
    def __init__(self, embed_dim: int, num_heads: int, head_dim: int, bias: bool):
        super().__init__()
        self.num_heads, self.head_dim = num_heads, head_dim
        self.query_proj = nn.Linear(embed_dim, num_heads * head_dim, bias=bias)

    def forward(self, x: Tensor, source: Tensor, kept: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if kept is None and source is not x:
            raise ValueError(
                "source must be x: this score makes keys from queries, so what is read has to be what reads. "
                "Use score=DotProduct() for cross attention."
            )
        query = self.query_proj(x).unflatten(-1, (self.num_heads, -1))  # [num_dst_nodes, num_heads, head_dim]
        return query, query if kept is None else query.index_select(0, kept)

    def keep_heads_(self, heads: Sequence[int], key_heads: Sequence[int]) -> None:
        keep_outputs_(self.query_proj, heads, self.head_dim)
        self.num_heads = len(heads)


class _PairwiseScore(_SymmetricScore):
    def __init__(self, embed_dim: int, num_heads: int, head_dim: int, bias: bool, init: Init):
        super().__init__(embed_dim, num_heads, head_dim, bias)
        self.pair_weight = nn.Parameter(torch.empty(num_heads, head_dim, head_dim))  # B
        with torch.no_grad():
            if init == "identity":
                self.pair_weight.copy_(torch.eye(head_dim))
            else:
                self.pair_weight.normal_(std=1.0 if init == "paper" else head_dim**-0.5)

    def forward(self, x: Tensor, source: Tensor, kept: Tensor | None = None) -> tuple[Tensor, Tensor]:
        query, read = super().forward(x, source, kept)
        return query, torch.einsum("hij,nhj->nhi", self.pair_weight, read)

    def keep_heads_(self, heads: Sequence[int], key_heads: Sequence[int]) -> None:
        super().keep_heads_(heads, key_heads)
        self.pair_weight = sliced(self.pair_weight, heads, 0)


def _check_shared(name: str, embed_dim: int, num_heads: int, num_key_heads: int, source_dim: int) -> None:
    """Raises a ValueError where a key cannot be made from a query."""
    if source_dim != embed_dim:
        raise ValueError(
            f"score {name} needs source_dim = embed_dim = {embed_dim}, got {source_dim}: it makes keys from queries, "
            "so what is read has to be what reads. Use score=DotProduct() for cross attention."
        )
    if num_key_heads != num_heads:
        raise ValueError(
            f"score {name} needs as many key heads as heads, {num_heads}, got {num_key_heads}: the key of a head is "
            "made from its own query. Leave num_key_heads None, or use score=DotProduct()."
        )
