"""Edge terms: how features of an edge enter attention, as bias, gate, key and value."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from graphattn.nn._heads import keep_outputs_, sliced


@dataclass(frozen=True)
class EdgeTerms:
    """Lets edge features add to keys and values, bias the logits, gate the weights, in any combination.

    Key and value terms are shared by heads and applied on the node side (Σ alpha · W a = W · Σ alpha · a), so memory is
    O(edges · edge_dim), never edges × heads × head_dim.

    Args:
        edge_dim: width of edge_attr.
        key: adds Wk a_e to the key of the edge (as PyG's TransformerConv does).
        value: adds Wv a_e to its value.
        bias: adds a number per head to its logit (as Graphormer and EGT do).
        gate: multiplies its weight by a sigmoid per head (EGT).

    Raises:
        ValueError: if nothing is switched on, or edge_dim is not positive.
    """

    edge_dim: int
    key: bool = True
    value: bool = True
    bias: bool = False
    gate: bool = False

    def __post_init__(self) -> None:
        if self.edge_dim < 1:
            raise ValueError(f"edge_dim must be at least 1, got {self.edge_dim}. It is the width of edge_attr.")
        if not (self.key or self.value or self.bias or self.gate):
            raise ValueError(
                "EdgeTerms must use edge features somewhere, got key, value, bias and gate all False. "
                "Leave the edge seat None to ignore them."
            )

    def build(self, num_heads: int, *, head_dim: int, value_dim: int) -> nn.Module:
        """Makes the module that owns the projections; the layer calls this once."""
        return _EdgeTerms(self, num_heads, head_dim, value_dim)


class _EdgeTerms(nn.Module):
    def __init__(self, spec: EdgeTerms, num_heads: int, head_dim: int, value_dim: int):
        super().__init__()
        self.edge_dim = spec.edge_dim
        self.edge_key_weight = nn.Parameter(torch.empty(num_heads, head_dim, spec.edge_dim)) if spec.key else None
        self.edge_value_weight = nn.Parameter(torch.empty(num_heads, value_dim, spec.edge_dim)) if spec.value else None
        self.bias_proj = nn.Linear(spec.edge_dim, num_heads) if spec.bias else None
        self.gate_proj = nn.Linear(spec.edge_dim, num_heads) if spec.gate else None
        for weight in (self.edge_key_weight, self.edge_value_weight):
            if weight is not None:
                nn.init.xavier_uniform_(weight.view(-1, spec.edge_dim))

    def forward(self, edge_attr: Tensor) -> dict[str, Tensor | None]:
        """Returns the per-edge arguments of `graph_attention`, a row for each row of edge_attr."""
        if edge_attr.dim() != 2 or edge_attr.shape[1] != self.edge_dim:
            raise ValueError(
                f"edge_attr must have shape [num_edges, {self.edge_dim}], got {list(edge_attr.shape)}. "
                "EdgeTerms(edge_dim=...) says the width."
            )
        reads_attr = self.edge_key_weight is not None or self.edge_value_weight is not None
        return {
            "edge_attr": edge_attr if reads_attr else None,
            "edge_key_weight": self.edge_key_weight,
            "edge_value_weight": self.edge_value_weight,
            "edge_bias": None if self.bias_proj is None else self.bias_proj(edge_attr),
            "edge_gate": None if self.gate_proj is None else self.gate_proj(edge_attr).sigmoid(),
        }

    def keep_heads_(self, heads: Sequence[int]) -> None:
        """Leaves the terms of some heads."""
        if self.edge_key_weight is not None:
            self.edge_key_weight = sliced(self.edge_key_weight, heads, 0)
        if self.edge_value_weight is not None:
            self.edge_value_weight = sliced(self.edge_value_weight, heads, 0)
        for projection in (self.bias_proj, self.gate_proj):
            if projection is not None:
                keep_outputs_(projection, heads, 1)
