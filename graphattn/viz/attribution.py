"""How much each output has of each input: the result of rollout and of max-flow."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Attribution:
    """A number for every chosen output and input, the method that made it, and what was kept.

    Args:
        weight: float64 [num_outputs, num_inputs].
        outputs: int64 [num_outputs], nodes of the pathways.
        inputs: int64 [num_inputs], nodes of the pathways; `pathways.element[inputs]` numbers their elements.
        method: what the numbers are, and of which weights.
        kept: share of influence that the edges of the pathways carry, as theirs.
        rounding: no weight is further than this from the exact one; 0 where floating point is all that rounds.
    """

    weight: Tensor
    outputs: Tensor
    inputs: Tensor
    method: str
    kept: float
    rounding: float = 0.0

    def __repr__(self) -> str:
        return f"Attribution({len(self.outputs):,} outputs × {len(self.inputs):,} inputs; {self.method})"
