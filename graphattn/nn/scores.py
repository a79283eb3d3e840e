"""Scores: how node features become query and key.

Every score stays a scaled dot product, so every implementation serves it.
"""

from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class DotProduct:
    """The scaled dot product with a projection of its own for queries and for keys.

    Source: Vaswani et al. 2017, sec. 3.2.1 and 3.2.2.
    """

    def build(self, embed_dim: int, num_heads: int, *, num_key_heads: int, source_dim: int, bias: bool) -> nn.Module:
        """Makes the module that owns the two projections; the layer calls this once."""
        return _DotProductScore(embed_dim, num_heads, num_key_heads, source_dim, bias)


class _DotProductScore(nn.Module):
    def __init__(self, embed_dim: int, num_heads: int, num_key_heads: int, source_dim: int, bias: bool):
        super().__init__()
        self.num_heads, self.num_key_heads = num_heads, num_key_heads
        head_dim = embed_dim // num_heads
        self.query_proj = nn.Linear(embed_dim, embed_dim, bias=bias)
        self.key_proj = nn.Linear(source_dim, num_key_heads * head_dim, bias=bias)

    def forward(self, x: Tensor, source: Tensor) -> tuple[Tensor, Tensor]:
        query = self.query_proj(x).unflatten(-1, (self.num_heads, -1))  # [num_dst_nodes, num_heads, head_dim]
        key = self.key_proj(source).unflatten(-1, (self.num_key_heads, -1))  # [num_src_nodes, num_key_heads, head_dim]
        return query, key
