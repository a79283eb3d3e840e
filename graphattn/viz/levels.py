"""From a recording to pathways: how the steps of a forward pass stand one on the other."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from graphattn.viz.pathways import EDGE_KINDS, NODE_KINDS, Pathways
from graphattn.viz.ranks import carried_back, entries
from graphattn.viz.recording import Recording, Step
from graphattn.viz.weighting import HEADS, WEIGHTINGS, Weights, step_weights


def pathways(
    recording: Recording,
    *,
    labels: Sequence[object] | None = None,
    heads: str | int = "mean",
    weighting: str = "alpha",
    residual: float = 0.5,
    example: int = 0,
) -> Pathways:
    r"""Makes the layered graph of one example of a recording.

    Level 0 holds the elements that the first layer reads; every attention makes the next level, of the same elements,
    with a residual edge beside it. Summaries make abstraction nodes between two levels, which the last call of the same
    layer reads after the elements. A pool makes a level of fewer elements and has no residual; nor has an attention
    into another number of targets. An attention whose sources are not the level's elements reads a memory, nodes of
    its own; one of as many sources as there are elements is taken for attention among them. Layers follow each other
    in the order in which they ran, and are numbered from 0 among those recorded: one that was not is as if it were not
    there, and the method says of how many that is true.

    Per target, weights of edges and residual sum to one:

        weight_e : residual edge = (1 − residual) · w_e : residual

    so at residual = 0.5, without gates, A = 0.5 I + 0.5 alpha. Where gates shut attention out, or a target has no
    edge, the target keeps more of itself, in the end all. Attention that `top_edges` left out of the record keeps its
    place in the sum: weights then sum to less than one, and `kept` says what is there.

    Args:
        recording: what `record` filled, or `Recording.load` read.
        labels: one name per element of level 0; None for none.
        heads: "mean", "max", "each" (edges of every head beside each other), or the number of one.
        weighting: "alpha", "value_norm", "gradient" (its positive part) or "absolute_gradient"; see
            `graphattn.viz.weighting`.
        residual: share of a target that stays its own, in [0, 1).
        example: which graph of the batch, the first by default; the method says so where there are several.

    Raises:
        TypeError, ValueError: for a recording without steps, steps that do not fit on each other, labels of another
            number, or an argument out of range, with the nearest valid name.
        IndexError: if there is no such example.

    Source: Abnar and Zuidema 2020, sec. 3, for residual and mean of heads; gates, levels and summaries are ours.

    >>> import graphattn as ga
    >>> from graphattn.viz.recording import Step
    >>> graph = ga.connectivity.full(2)
    >>> step = Step("layer", 0, "attention", graph, torch.full((4, 1), 0.5), torch.tensor([0]), *[None] * 4,
    ...             torch.ones(2, 1))
    >>> found = pathways(Recording([step, step]), labels=["a", "b"])
    >>> found.caption
    'attention weights, heads averaged, residual 0.5; 12 of 12 edges, 100 % of the influence'
    >>> found.rollout("a").weight
    tensor([[0.6250, 0.3750]], dtype=torch.float64)
    """
    _check_choice(heads, HEADS, "heads")
    _check_choice(weighting, WEIGHTINGS, "weighting")
    if isinstance(residual, bool) or not isinstance(residual, int | float) or not 0.0 <= residual < 1.0:
        raise ValueError(f"residual must lie in [0, 1), got {residual!r}. Half is 0.5, as in attention rollout.")
    if not isinstance(recording, Recording):
        raise TypeError(f"recording must be a Recording, got {type(recording).__name__}. Make one with record(model).")
    if not recording.steps:
        raise ValueError("recording holds no step. Run the model inside `with record(model) as recording:`.")
    of = [WEIGHTINGS[weighting], HEADS[heads] if isinstance(heads, str) else f"head {heads}", f"residual {residual:g}"]
    if recording.num_examples > 1:
        of.append(f"example {example} of {recording.num_examples}")
    if recording.num_left_out:
        of.append(f"layers not recorded: {recording.num_left_out}")
    made = _Levels(residual)
    for step in recording.example(example).steps:
        made.add(step, step_weights(step, heads, weighting))
    return made.finished(labels, ", ".join(of))


class _Levels:
    """Nodes and edges so far, the current level, and the abstractions that wait for the attention that reads them."""

    def __init__(self, residual: float):
        self.residual = residual
        self.level: Tensor | None = None  # int64, its nodes
        self.kind = "element"  # of the nodes of the levels
        self.level_rank = self.last_rank = 0  # of the level, and the highest that has nodes
        self.waiting: list[tuple[Step, Tensor]] = []  # summaries, and their nodes
        self.num_layers = 0
        self.of_rank: dict[int, int] = {}  # how many nodes each rank has
        self.nodes: list[tuple[Tensor, Tensor, Tensor]] = []  # rank, element, kind
        self.edges: list[tuple[Tensor, Tensor, Tensor, Tensor, Tensor]] = []  # ends, weight, head, layer, kind
        self.lost: list[tuple[Tensor, Tensor]] = []  # targets, and the share of each that was not recorded

    def add(self, step: Step, weights: Weights) -> None:
        num_src, num_dst = step.graph.num_src_nodes, step.graph.num_dst_nodes
        if self.level is None:
            # a cross attention that comes first reads a memory: its targets are the elements
            is_cross = step.kind == "attention" and num_src != num_dst
            self.level = self._new("element", num_dst if is_cross else num_src, 0)
        if self.waiting and (step.kind == "pool" or step.name != self.waiting[0][0].name):
            raise ValueError(f"{step.name!r} comes where {self._unread()}. Record the whole layer.")
        if step.kind == "summary":
            self._summarise(step, weights, self.level)
        elif step.kind == "pool":
            self._check_fits(num_src == self.level.numel(), step, "sources", num_src)
            self._next_level("pooled", step, weights, self.level, None)
        else:
            sources = self._sources(step, self.level)
            if num_dst == self.level.numel():
                self._next_level(self.kind, step, weights, sources, self.level)
            else:
                self._check_fits(sources is self.level, step, "targets", num_dst)
                self._next_level("pooled", step, weights, sources, None)
            self.num_layers += 1

    def finished(self, labels: Sequence[object] | None, method: str) -> Pathways:
        """Returns what was made, nodes numbered by rank."""
        if self.waiting:
            raise ValueError(f"the recording ends where {self._unread()}. Record the whole layer.")
        rank, element, node_kind = (torch.cat(tensors) for tensors in zip(*self.nodes))
        ends, weight, head, layer, edge_kind = (torch.cat(tensors, -1) for tensors in zip(*self.edges))
        order = torch.argsort(rank, stable=True)
        number = torch.argsort(order)
        found = Pathways(
            number[ends], weight, head, layer, edge_kind, rank[order], element[order], node_kind[order],
            _checked_labels(labels, self.of_rank[0]), method, 1.0,
        )  # fmt: skip
        lost = torch.zeros(found.num_nodes, dtype=torch.float64)
        for targets, share in self.lost:
            lost[number[targets]] = share
        return replace(found, kept=_recorded_share(found, lost)) if bool(lost.any()) else found

    def _summarise(self, step: Step, weights: Weights, level: Tensor) -> None:
        num_src, sources, rank = step.graph.num_src_nodes, level, self.level_rank + 1
        if num_src != level.numel():  # a summary of summaries
            sources, rank = torch.cat([level, *(nodes for _, nodes in self.waiting)]), self.last_rank + 1
        self._check_fits(num_src == sources.numel(), step, "sources", num_src)
        targets = self._new("abstraction", step.graph.num_dst_nodes, rank)
        self._connect(step, weights, sources, targets, None)
        self.waiting.append((step, targets))

    def _sources(self, step: Step, level: Tensor) -> Tensor:
        """Returns the nodes that an attention reads: the level, with abstractions or these alone, or a memory."""
        num_src = step.graph.num_src_nodes
        if self.waiting:
            abstractions = torch.cat([nodes for _, nodes in self.waiting])
            if num_src == abstractions.numel():
                return abstractions
            num_all = level.numel() + abstractions.numel()
            if num_src != num_all:
                raise ValueError(
                    f"{step.name!r} reads {num_src} sources, but there are {level.numel()} elements and "
                    f"{abstractions.numel()} abstractions. Order sources as the elements, then the abstractions."
                )
            return torch.cat([level, abstractions])
        return level if num_src == level.numel() else self._new("memory", num_src, self.last_rank + 1)

    def _next_level(self, kind: str, step: Step, weights: Weights, sources: Tensor, before: Tensor | None) -> None:
        targets = self._new(kind, step.graph.num_dst_nodes, self.last_rank + 1)
        self._connect(step, weights, sources, targets, before)
        self.level, self.kind, self.level_rank, self.waiting = targets, kind, self.last_rank, []

    def _connect(self, step: Step, weights: Weights, sources: Tensor, targets: Tensor, before: Tensor | None) -> None:
        """Adds the edges of a step, and from the level before those of the residual, where there is one."""
        src, dst = step.graph.edge_index
        attention = weights.missing.index_add(0, dst, weights.weight.sum(1))  # [num_dst_nodes]
        residual = 0.0 if before is None else self.residual
        whole = (1 - residual) * attention + residual
        scale = torch.where(attention > 0, (1 - residual) / whole, 0.0)
        num_columns = weights.head.numel()
        ends = torch.stack([sources[src], targets[dst]]).repeat_interleave(num_columns, 1)
        weight = (weights.weight * scale[dst, None]).flatten()
        layer = max(0, self.num_layers - (step.kind == "pool"))
        self._add_edges(ends, weight, weights.head.repeat(src.numel()), layer, step.kind)
        if before is not None:
            own = torch.where(attention > 0, residual / whole, 1.0)  # who reads nothing stays as it was
            self._add_edges(torch.stack([before, targets]), own, torch.full_like(targets, -1), layer, "residual")
        self.lost.append((targets, weights.missing * scale))

    def _add_edges(self, ends: Tensor, weight: Tensor, head: Tensor, layer: int, kind: str) -> None:
        kinds = torch.full_like(head, EDGE_KINDS.index(kind))
        self.edges.append((ends, weight, head, torch.full_like(head, layer), kinds))

    def _new(self, kind: str, number: int, rank: int) -> Tensor:
        """Returns new nodes."""
        first, before = self.of_rank.get(rank, 0), sum(self.of_rank.values())
        element = torch.arange(first, first + number)
        self.nodes.append((torch.full_like(element, rank), element, torch.full_like(element, NODE_KINDS.index(kind))))
        self.of_rank[rank] = first + number
        self.last_rank = max(self.last_rank, rank)
        return torch.arange(before, before + number)

    def _check_fits(self, is_right: bool, step: Step, side: str, number: int) -> None:
        if not is_right:
            assert self.level is not None
            raise ValueError(
                f"{step.name!r} has {number} {side}, but the level before it has {self.level.numel()} elements. "
                "Record one stack of layers alone: record(model, layers=...)."
            )

    def _unread(self) -> str:
        return f"nothing has read the abstractions of {self.waiting[-1][0].name!r}"


def _recorded_share(found: Pathways, lost: Tensor) -> float:
    """Returns the share of influence that the edges carry, where targets lack edges that were not recorded."""
    at = np.zeros((found.num_nodes, 1))
    at[found.outputs.numpy()] = 1.0
    reading = torch.from_numpy(carried_back(list(entries(found)), at))[:, 0]
    there = float((found.weight * reading[found.edge_index[1]]).sum())
    whole = there + float((lost * reading).sum())
    return there / whole if whole > 0 else 1.0  # nothing comes into the outputs, so nothing of it is missing


def _checked_labels(labels: Sequence[object] | None, number: int) -> tuple[str, ...] | None:
    if labels is None:
        return None
    if isinstance(labels, str | bytes):
        raise TypeError(f"labels must be a sequence of names, got the single {labels!r}. Pass text.split().")
    named = tuple(str(label) for label in labels)
    if len(named) != number:
        raise ValueError(
            f"labels must name each of the {number} elements of level 0, got {len(named)}. Give one each, in order."
        )
    return named


def _check_choice(given: str | int, valid: dict[str, str], what: str) -> None:
    is_number = what == "heads" and isinstance(given, int) and not isinstance(given, bool) and given >= 0
    if is_number or (isinstance(given, str) and given in valid):
        return
    near = difflib.get_close_matches(str(given), valid, n=1)
    suggestion = f"Did you mean {near[0]!r}?" if near else "Check the spelling."
    names = ", ".join(map(repr, valid)) + (", or the number of a head" if what == "heads" else "")
    raise ValueError(f"{what} must be one of {names}, got {given!r}. {suggestion}")
