"""Which colour an edge of pathways has: that of its kind, of its head, or of the way it changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from graphattn.viz.palette import BLUE, GRAY, GREEN, LIGHT_GRAY, ORANGE, VERMILLION, colors_of

if TYPE_CHECKING:
    from graphattn.viz.pathways import Pathways

COLOR_BY = ("kind", "head", "change")
KIND_COLORS = {"attention": BLUE, "residual": LIGHT_GRAY, "summary": GREEN, "pool": ORANGE}
CHANGE_COLORS = {"more": VERMILLION, "less": BLUE}


class Coloring(NamedTuple):
    """A colour for each edge, and what the legend says of it."""

    color: list[str]  # [num_edges]
    names: dict[str, str]  # name → colour, of those that occur


def color_edges(pathways: Pathways, edges: np.ndarray, by: str | None = None) -> Coloring:
    """Colours some edges of pathways.

    Args:
        pathways: any.
        edges: int64 [num_shown], positions among its edges.
        by: "kind"; "head", where the heads with the largest weights have a colour each and the others share a grey; or
            "change", the sign of the weight. None takes "change" where a weight is negative, "head" where edges of
            several heads are shown, and "kind" otherwise.

    Raises:
        ValueError: for another `by`.
    """
    if by is not None and by not in COLOR_BY:
        raise ValueError(f"color must be one of {', '.join(COLOR_BY)}, got {by!r}. None chooses among them.")
    weight, head = pathways.weight.numpy()[edges], pathways.head.numpy()[edges]
    kind = [pathways.edge_kinds[number] for number in pathways.edge_kind.numpy()[edges].tolist()]
    heads, of_edge = np.unique(head, return_inverse=True)
    if by is None:
        several = (heads >= 0).sum() > 1
        by = "change" if (weight < 0).any() else "head" if several else "kind"
    if by == "change":
        names = ["less" if is_less else "more" for is_less in (weight < 0).tolist()]
        colors: dict[str, str] = CHANGE_COLORS
    elif by == "head":
        amounts = np.bincount(of_edge, weights=np.abs(weight), minlength=heads.size)
        of_head = colors_of({int(number): float(amount) for number, amount in zip(heads, amounts) if number >= 0})
        names, colors = [], {}
        for number, name in zip(head.tolist(), kind):
            if number < 0:
                names.append(name)
            elif of_head[number] == GRAY:
                names.append("other heads")
            else:
                names.append(f"head {number}")
        colors = {f"head {number}": color for number, color in of_head.items() if color != GRAY}
        colors |= {"other heads": GRAY} | KIND_COLORS
    else:
        names, colors = kind, KIND_COLORS
    there = set(names)
    return Coloring([colors[name] for name in names], {name: colors[name] for name in colors if name in there})
