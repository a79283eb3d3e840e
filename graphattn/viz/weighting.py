"""What an edge of the pathways weighs: attention with its gates, split over edges and heads as one asks."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from graphattn.viz.recording import Step

WEIGHTINGS = {
    "alpha": "attention weights",
    "value_norm": "attention weights × value norms",
    "gradient": "positive part of attention × gradient",
    "absolute_gradient": "size of attention × gradient",
}
HEADS = {"mean": "heads averaged", "max": "strongest head", "each": "heads apart"}


class Weights(NamedTuple):
    """What the edges of a step weigh in one or several columns, before a residual has its share."""

    weight: Tensor  # float64 [num_edges, num_columns]
    head: Tensor  # int64 [num_columns], −1 where heads are merged
    missing: Tensor  # float64 [num_dst_nodes], attention of edges that were not recorded


def step_weights(step: Step, heads: str | int, weighting: str) -> Weights:
    r"""Weighs the edges of one step.

        effective_eh = alpha_eh · |edge_gate_eh| · |head_gate_h|
        mass_i       = mean_h Σ_{e into i} effective_eh
        weight_e     = mass_i · y_e / Σ_{e' into i} y_e',   y merged over heads

    So gates say how much attention counts in all, and the weighting how that is split over edges. y is `effective`
    itself; with "value_norm" times the norm of what the source would add; with "gradient" the positive part of
    alpha · gradient, what the edge adds to the number that backward was called on, and with "absolute_gradient" its
    size, whatever the sign. A gradient of alpha has the gates in it already. Where all y of a target are 0, its edges
    weigh 0.

    Args:
        step: of a recording.
        heads: "mean" over heads; "max", the largest of them; "each" head in a column of its own, which sum to the
            mean; or the number of one head. Pools, and summaries with one column of weights, are of all heads: merged.
        weighting: "alpha", "value_norm", "gradient" or "absolute_gradient". Pools and summaries that have neither
            values nor gradients are weighed by alpha.

    Raises:
        ValueError: if the step lacks what the weighting needs, did not record the head, or holds a NaN.

    Source: norms of transformed vectors, Kobayashi et al. 2020; positive part of attention × gradient, Chefer, Gur and
        Wolf 2021. That both split the attention of a target, and change nothing of how much it is, is ours.
    """
    columns, number = _columns(step, heads)
    alpha, head_gate = _finite(step, "alpha", columns), torch.ones(len(columns), dtype=torch.float64)
    if step.head_gate is not None:
        head_gate = _finite(step, "head_gate", columns).abs()
    effective = alpha * head_gate
    if step.edge_gate is not None:
        effective = effective * _finite(step, "edge_gate", columns).abs()
    split = _split(step, columns, effective, weighting)
    if number is None:
        split = split / len(columns)
    else:
        split = split.amax(1, keepdim=True) if heads == "max" else split.mean(1, keepdim=True)
    dst, num_targets = step.graph.edge_index[1], step.graph.num_dst_nodes
    mass, among = _into(effective.mean(1), dst, num_targets), _into(split.sum(1), dst, num_targets)
    scale = torch.where(among > 0, mass / among, 0.0)
    # (1 − kept) of a target and head is left unseen; what gate those edges have nobody knows
    missing = ((1 - step.kept[:, columns].double()).clamp(min=0) * head_gate).mean(1)
    return Weights(split * scale[dst, None], step.head[columns] if number is None else torch.tensor([number]), missing)


def _columns(step: Step, heads: str | int) -> tuple[Tensor, int | None]:
    """Returns the columns of a step that count, and the head to call the merged ones; None where they are apart."""
    everything = torch.arange(step.head.numel())
    is_of_all = step.kind == "pool" or (step.kind == "summary" and step.head.numel() == 1)
    if not everything.numel():
        raise ValueError(f"{step.name!r} was recorded without a head. Record at least one: record(model, heads=[0]).")
    if is_of_all or heads in ("mean", "max"):
        return everything, -1
    if heads == "each":
        return everything, None
    column = everything[step.head == heads]
    if not column.numel():
        raise ValueError(
            f"head {heads} of {step.name!r} was not recorded; these were: {', '.join(map(str, step.head.tolist()))}. "
            "Choose one of them, or record it."
        )
    assert isinstance(heads, int)
    return column, heads


def _split(step: Step, columns: Tensor, effective: Tensor, weighting: str) -> Tensor:
    """Returns y of every edge and head."""
    if weighting == "alpha":
        return effective
    needed = "value_norm" if weighting == "value_norm" else "gradient"
    if getattr(step, needed) is None:
        if step.kind != "attention":
            return effective
        if weighting == "value_norm":
            advice = "Record it again; an attention of another library may show no values."
        else:
            advice = "Call backward on a number that the model returned, before the record's pathways are made."
        raise ValueError(f"weighting={weighting!r} needs what {step.name!r} did not record. {advice}")
    factor = _finite(step, needed, columns)
    if weighting == "value_norm":
        return effective * factor[step.graph.edge_index[0]]
    signed = step.alpha[:, columns].double() * factor
    return signed.clamp(min=0) if weighting == "gradient" else signed.abs()


def _finite(step: Step, name: str, columns: Tensor) -> Tensor:
    """Returns the columns of a field in float64, or raises if a number in them is none."""
    values = getattr(step, name)[..., columns].double()
    if not bool(torch.isfinite(values).all()):
        raise ValueError(f"{name} of {step.name!r} holds NaN or infinity. Look at the model's input and parameters.")
    return values


def _into(values: Tensor, dst: Tensor, num_targets: int) -> Tensor:
    return torch.zeros(num_targets, dtype=torch.float64).index_add_(0, dst, values)
