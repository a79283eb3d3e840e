"""Influence of edges on outputs, and pruning to the fewest edges that carry a share of it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from graphattn.viz.ranks import carried_back, check_unsigned, entries, reached

if TYPE_CHECKING:
    from graphattn.viz.pathways import Pathways

ROUNDING = 1e-12  # of sums of shares: a share of 1.0 asks for no edge that adds less


def influence(pathways: Pathways, outputs: Tensor) -> Tensor:
    r"""Returns what passes through each edge on its way down from the outputs, which have one in all.

        I(output) = 1 / num_outputs;   I(source of e) += influence(e) = weight_e · I(target of e)

    The graph has no cycle, so one pass from the last rank to the first is the sum over all paths.

    Args:
        pathways: weights of at least 0.
        outputs: int64 [num_outputs], nodes of any rank.

    Returns:
        float64 [num_edges].

    Raises:
        ValueError: if a weight is negative.

    Source: the way circuit-tracer (Ameisen et al. 2025) ranks the edges of attribution graphs, on attention.
    """
    check_unsigned(pathways, "influence")
    at = np.zeros((pathways.num_nodes, 1))
    np.add.at(at, outputs.numpy(), 1.0 / max(1, len(outputs)))  # an output named twice counts twice
    at = carried_back(list(entries(pathways)), at)
    return pathways.weight * torch.from_numpy(at)[pathways.edge_index[1], 0]


def prune(pathways: Pathways, share: float, outputs: Tensor | None, max_edges: int | None) -> Pathways:
    """Keeps the fewest edges that carry a share of all influence on the outputs, and of those what lies on a path.

    Edges are taken from the most influential down until together they carry the share. Then nodes that no kept edge
    enters, or leaves, are dropped with their edges until none is left; inputs need not be entered, and outputs stay
    in any case. So the pathways kept may carry less than the share: `kept` and `caption` say how much it really is.
    In a difference, whose weights have signs, an edge's influence is the size of its weight, whatever the outputs, and
    only nodes without any edge are dropped.

    Args:
        pathways: what to prune.
        share: of the influence, in (0, 1].
        outputs: int64 nodes, those of the last rank for None.
        max_edges: keep no more than these; None for any number.

    Returns:
        Pathways over the nodes that are left; weights are as before.

    Raises:
        ValueError: if share or max_edges is out of range.

    Source: the pruning of circuit-tracer (Ameisen et al. 2025): cumulative influence, then dangling nodes until stable.

    >>> from graphattn.viz.pathways import Pathways
    >>> edges, weight = torch.tensor([[0, 1], [2, 2]]), torch.tensor([0.75, 0.25], dtype=torch.float64)
    >>> fan = Pathways(edges, weight, *torch.zeros(3, 2).long(), torch.tensor([0, 0, 1]), torch.tensor([0, 1, 0]),
    ...                torch.zeros(3).long(), None, "by hand", 1.0)
    >>> fan.prune(0.7).edge_index.tolist(), fan.prune(0.7).kept
    ([[0], [1]], 0.75)
    """
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0.0 < share <= 1.0:
        raise ValueError(f"share must lie in (0, 1], got {share!r}. It is the share of influence to keep, such as 0.8.")
    if max_edges is not None and (isinstance(max_edges, bool) or not isinstance(max_edges, int) or max_edges < 1):
        raise ValueError(f"max_edges must be an int of at least 1 or None, got {max_edges!r}. Some hundreds are seen.")
    is_signed = pathways.num_edges > 0 and float(pathways.weight.min()) < 0
    given, outputs = outputs, pathways.outputs if outputs is None else outputs
    carried = (pathways.weight.abs() if is_signed else influence(pathways, outputs)).numpy()
    order = np.argsort(-carried, kind="stable")
    running = np.cumsum(carried[order])
    total = float(running[-1]) if running.size else 0.0
    number = int(np.searchsorted(running, share * total * (1 - ROUNDING))) + 1 if total > 0 else 0
    number = number if max_edges is None else min(number, max_edges)
    kept = np.zeros(pathways.num_edges, dtype=bool)
    kept[order[:number]] = True
    always = np.zeros(pathways.num_nodes, dtype=bool)
    if not is_signed:
        always[outputs.numpy()] = True
        start = np.zeros_like(always)
        start[pathways.inputs.numpy()] = True
        # in a graph without cycles no node dangles exactly where each lies on a path from an input into an output
        on_path = reached(pathways, start, kept, is_upwards=True) & reached(pathways, always, kept, is_upwards=False)
        kept &= on_path[pathways.edge_index.numpy()].all(0)
    of = "change" if is_signed else f"influence on {_described(pathways, given)}"
    rule = f"the strongest edges up to {100 * share:g} % of the {of}"
    if max_edges is not None:
        rule += f", at most {max_edges:,}"
    return _only(pathways, kept, always, carried, rule)


def keep(pathways: Pathways, edges: Tensor) -> Pathways:
    """Keeps chosen edges and the nodes that they join; the share kept is that of the influence on the last rank.

    Args:
        edges: bool [num_edges], or int64 positions of edges.

    Raises:
        ValueError: if they are neither.
    """
    is_mask = edges.dtype == torch.bool and edges.shape == (pathways.num_edges,)
    is_inside = edges.dtype == torch.int64 and not bool(((edges < 0) | (edges >= pathways.num_edges)).any())
    if not is_mask and not is_inside:
        raise ValueError(
            f"edges must be bool [num_edges] or int64 positions below num_edges = {pathways.num_edges}, got "
            f"{edges.dtype} {list(edges.shape)}. Pass a mask such as pathways.head == 3."
        )
    kept = torch.zeros(pathways.num_edges, dtype=torch.bool)
    kept[edges] = True
    is_signed = pathways.num_edges > 0 and float(pathways.weight.min()) < 0
    carried = pathways.weight.abs() if is_signed else influence(pathways, pathways.outputs)
    nowhere = np.zeros(pathways.num_nodes, dtype=bool)
    return _only(pathways, kept.numpy(), nowhere, carried.numpy(), "chosen edges")


def _only(pathways: Pathways, kept: np.ndarray, always: np.ndarray, carried: np.ndarray, rule: str) -> Pathways:
    """Returns the pathways with the kept edges and the nodes that they join, and those that stay always."""
    stays = always.copy()
    stays[pathways.edge_index.numpy()[:, kept].ravel()] = True
    edges, nodes = torch.from_numpy(kept), torch.from_numpy(stays)
    number = torch.cumsum(nodes, 0) - 1
    total = float(carried.sum())
    share = 1.0 if kept.all() or total == 0 else min(1.0, float(carried[kept].sum()) / total)
    return replace(
        pathways,
        edge_index=number[pathways.edge_index[:, edges]],
        **{name: getattr(pathways, name)[edges] for name in ("weight", "head", "layer", "edge_kind")},
        **{name: getattr(pathways, name)[nodes] for name in ("rank", "element", "node_kind")},
        kept=pathways.kept * share,
        threshold="; ".join(text for text in (pathways.threshold, rule) if text),
        num_all_edges=pathways.num_edges if pathways.num_all_edges is None else pathways.num_all_edges,
    )


def _described(pathways: Pathways, outputs: Tensor | None) -> str:
    if outputs is None:
        return "all outputs"
    if len(outputs) > 1:
        return f"{len(outputs):,} outputs"
    return f"output {pathways.node_labels()[int(outputs[0])]}" if len(outputs) else "no output"
