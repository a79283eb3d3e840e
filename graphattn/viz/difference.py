"""Two pathways over the same nodes, compared edge by edge: two models, heads or inputs on one layout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from graphattn.viz.pathways import Pathways


def difference(left: Pathways, right: Pathways) -> Pathways:
    """Returns the weights of `left` less those of `right`; an edge that one of them lacks has weight zero there.

    Edges are the same where source, target, kind and layer are. Heads are told apart where a side has several; where
    each has one at most, one head is compared with another, and the result has none. Take the difference of whole
    pathways, and prune it then.

    Args:
        left, right: over the same nodes.

    Returns:
        Pathways whose weights have signs: positive where `left` has more. Labels are those of `left`, None where both
        have other ones; `kept` is the smaller of the two.

    Raises:
        TypeError: if `right` is something else.
        ValueError: if they differ in their nodes, or only one of them has its heads apart.

    >>> from dataclasses import replace
    >>> from graphattn.viz.pathways import Pathways
    >>> edges, weight = torch.tensor([[0, 1], [2, 2]]), torch.tensor([0.75, 0.25], dtype=torch.float64)
    >>> one = Pathways(edges, weight, *torch.zeros(3, 2).long(), torch.tensor([0, 0, 1]), torch.tensor([0, 1, 0]),
    ...                torch.zeros(3).long(), None, "one", 1.0)
    >>> one.difference(replace(one, weight=weight.flip(0), method="other")).weight
    tensor([ 0.5000, -0.5000], dtype=torch.float64)
    """
    if not isinstance(right, type(left)):
        raise TypeError(f"other must be Pathways, got {type(right).__name__}. graphattn.viz.pathways makes them.")
    for name in ("rank", "element", "node_kind"):
        mine, theirs = getattr(left, name), getattr(right, name)
        if not torch.equal(mine, theirs):
            sizes = f"{left.num_nodes:,} nodes in {left.num_ranks} ranks and {right.num_nodes:,} in {right.num_ranks}"
            raise ValueError(
                f"difference needs pathways over the same nodes, got {sizes}. Take inputs of one length, and the "
                "difference before pruning."
            )
    apart = [pathways.head.unique().ge(0).sum() > 1 for pathways in (left, right)]
    if apart[0] != apart[1] and left.num_edges and right.num_edges:
        raise ValueError(
            "difference needs heads apart on both sides or on neither. Make both with heads='each', or both merged."
        )
    with_head = bool(apart[0] or apart[1])
    sides = [_described(pathways, with_head) for pathways in (left, right)]
    bases = [max(int(values.max()) + 1 if values.numel() else 1 for values in both) for both in zip(*sides)]
    found, edge = torch.unique(torch.cat([_key(side, bases) for side in sides]), return_inverse=True)
    weight = torch.zeros(found.numel(), dtype=torch.float64)
    weight.index_add_(0, edge, torch.cat([left.weight, -right.weight]))
    dst, src, layer, edge_kind, head = _parts(found, bases)
    return replace(
        left,
        edge_index=torch.stack([src, dst]),
        weight=weight,
        head=head - 1,
        layer=layer,
        edge_kind=edge_kind,
        labels=left.labels if left.labels == right.labels else None,
        method=f"({left.method}) less ({right.method})",
        kept=min(left.kept, right.kept),
        threshold="; ".join(dict.fromkeys(text for text in (left.threshold, right.threshold) if text)),
        num_all_edges=None,
    )


def _described(pathways: Pathways, with_head: bool) -> tuple[Tensor, ...]:
    """Returns what edges are told apart by, numbers from 0 up."""
    src, dst = pathways.edge_index
    head = pathways.head + 1 if with_head else torch.zeros_like(pathways.head)
    return dst, src, pathways.layer, pathways.edge_kind, head


def _key(values: Sequence[Tensor], bases: Sequence[int]) -> Tensor:
    """Returns one number for each edge, whose digits are the values in turn."""
    key = torch.zeros_like(values[0])
    for digit, base in zip(values, bases):
        key = key * base + digit
    return key


def _parts(key: Tensor, bases: Sequence[int]) -> list[Tensor]:
    values = []
    for base in reversed(bases):
        values.append(key % base)
        key = key // base
    return values[::-1]
