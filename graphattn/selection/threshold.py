"""Thresholds on given weights: what is left of a pattern when its weak edges are left out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from graphattn.graph import AttentionGraph
from graphattn.graph.validate import check_tensor
from graphattn.ops.assignment import best_first
from graphattn.selection._marked import marked

OVER_HEADS = ("mean", "max")
ROUNDING = 1e-6  # of the mass of a target, by which sums of float32 weights may miss it


@dataclass(frozen=True)
class Threshold:
    r"""Keeps the edges that carry weight, for analysis: by a least value, or by the share that each target keeps.

    With a_e the weight of edge e, its mean or maximum over heads,

        at_least:  E' = {e ∈ E : a_e ≥ at_least}
        mass:      E' = for each target the fewest edges whose weights sum to mass · Σ a_e over its edges

    Weights are given, those of `attention_weights` or of a record, and nothing is learned: the number of edges depends
    on them, so this is no seat of a layer.

    Args:
        at_least: the least weight that stays. Exactly one of this and `mass`.
        mass: share in (0, 1] of each target's weight; 1 leaves out edges of no weight alone.
        over_heads: "mean" or "max" over the heads of weights [num_edges, num_heads]. The mean of softmax weights still
            sums to one over the edges of a target.

    Raises:
        TypeError: if a number is none.
        ValueError: if neither or both of the first two are given, or a value lies outside its domain.

    >>> graph = AttentionGraph(torch.tensor([[0, 1, 2, 1], [0, 0, 0, 1]]), num_src_nodes=3)
    >>> alpha = torch.tensor([0.7, 0.1, 0.2, 1.0])
    >>> kept = Threshold(mass=0.8).keep(graph, alpha)
    >>> kept.edge_index.tolist(), kept.align(alpha, of=graph)
    ([[0, 2, 1], [0, 0, 1]], tensor([0.7000, 0.2000, 1.0000]))
    """

    at_least: float | None = None
    mass: float | None = None
    over_heads: str = "mean"

    def __post_init__(self) -> None:
        if (self.at_least is None) == (self.mass is None):
            raise ValueError(
                f"exactly one of at_least and mass must be given, got at_least={self.at_least} and mass={self.mass}. "
                "Pass at_least for a value, mass for a share of each target's weight."
            )
        for name in ("at_least", "mass"):
            _check_number(getattr(self, name), name)
        if self.mass is not None and not 0.0 < self.mass <= 1.0:
            raise ValueError(
                f"mass must lie in (0, 1], got {self.mass}. It is the share of a target's weight that stays; 1 keeps "
                "all."
            )
        if self.over_heads not in OVER_HEADS:
            raise ValueError(f"over_heads must be one of {', '.join(OVER_HEADS)}, got {self.over_heads!r}.")

    def keep(self, graph: AttentionGraph, weight: Tensor) -> AttentionGraph:
        """Keeps what carries weight.

        Args:
            graph: blocks are listed.
            weight: [num_edges] or [num_edges, num_heads] in the order of `graph.edge_index`, finite, and for `mass`
                not negative.

        Returns:
            AttentionGraph over the same nodes. `kept.align(weight, of=graph)` are its weights, and
            `graph.find(*kept.edge_index)` the positions of its edges. With `mass`, of equal weights the lowest source
            stays, and a share below 1 may be missed by a millionth of it, so that rounding adds no edge.

        Raises:
            TypeError, ValueError: if the weights have the wrong shape, or values outside their domain.
        """
        weight = self._of_edges(graph, weight)
        listed = graph.enumerate()
        if self.at_least is not None:
            chosen, rule = weight >= self.at_least, f"at_least={self.at_least}"
        else:
            chosen, rule = _fewest(weight.double(), listed, self.mass), f"mass={self.mass}"
        return listed.keep(marked(chosen)).named(f"Threshold({rule}).keep({graph.origin})")

    def _of_edges(self, graph: AttentionGraph, weight: Tensor) -> Tensor:
        """Returns one number per edge, in the dtype of the weights, to which a value is compared, [num_edges]."""
        check_tensor(weight, "weight", graph.device)
        has_shape = weight.dim() in (1, 2) and weight.shape[0] == graph.num_edges
        if not has_shape or not weight.is_floating_point() or (weight.dim() == 2 and not weight.shape[1]):
            raise ValueError(
                f"weight must be floating [num_edges] or [num_edges, num_heads] with num_edges = {graph.num_edges}, "
                f"got {weight.dtype} {list(weight.shape)}. Pass what attention_weights returns for this graph."
            )
        is_valid = weight.isfinite()
        if self.mass is not None:
            is_valid &= weight >= 0
        if not bool(is_valid.all()):
            edge = int((~is_valid).nonzero()[0, 0])
            raise ValueError(
                f"weight must be finite{'' if self.mass is None else ' and not negative'}, got "
                f"{weight[edge].tolist()} for edge {edge}. Pass attention weights, not logits."
            )
        weight = weight.detach()
        if weight.dim() == 2:
            weight = weight.mean(1) if self.over_heads == "mean" else weight.amax(1)
        return weight


def _fewest(weight: Tensor, graph: AttentionGraph, mass: float | None) -> Tensor:
    """Marks the fewest edges of each target that hold the mass, bool [num_edges]."""
    assert mass is not None
    dst = graph.edge_index[1]
    total = weight.new_zeros(graph.num_dst_nodes).index_add_(0, dst, weight)
    share = weight / total.masked_fill(total == 0, 1.0)[dst]
    order = best_first(share, dst, graph.num_dst_nodes)
    # of all targets in one sum, in which every target starts at a whole number if it has weight
    running = torch.cumsum(share[order], 0)
    start = torch.cumsum((total > 0).double(), 0) - (total > 0).double()
    before = running - share[order] - start[dst]
    is_first = torch.diff(dst, prepend=dst.new_full((1,), -1)) > 0
    is_due = is_first | (before < mass * (1.0 - ROUNDING)) | (mass == 1.0)
    return torch.zeros_like(dst, dtype=torch.bool).index_put((order,), is_due & (share[order] > 0))


def _check_number(number: Any, name: str) -> None:
    if number is None:
        return
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise TypeError(f"{name} must be a float, got {type(number).__name__} {number!r}. Pass float({name}).")
    if math.isnan(number):
        raise ValueError(f"{name} must be a number, got nan.")
