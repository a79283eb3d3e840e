"""One step of pathways, between the elements of the input: what can be drawn on a text, an image or a molecule."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from graphattn.graph.summary import plural
from graphattn.viz.pathways import Pathways, check_pathways
from graphattn.viz.shares import percent


class OneLayer(NamedTuple):
    """Who reads whom among the elements of the input, and how much; what an element keeps of itself apart."""

    pathways: Pathways  # with these edges only
    src: np.ndarray  # int64 [num_edges], element
    dst: np.ndarray  # int64 [num_edges], element
    weight: np.ndarray  # float64 [num_edges]
    names: list[str]  # of the elements
    num_itself: int  # edges of elements to themselves, residual ones included, which are not among these
    sentences: tuple[str, ...]  # for the caption

    @property
    def num_elements(self) -> int:
        return len(self.names)

    def number(self, target: int | str | None) -> int | None:
        """Returns the number of an element that is given by number or name, None for None.

        Raises:
            ValueError: if there is no such element, or a name names several.
        """
        if isinstance(target, str):
            return self.pathways._named(target)
        if target is None:
            return None
        if isinstance(target, bool) or not isinstance(target, int | np.integer) or not 0 <= target < self.num_elements:
            raise ValueError(
                f"target must be an element in [0, {self.num_elements}), or its name, got {target!r}. None draws all."
            )
        return int(target)

    def of(self, target: int | None) -> np.ndarray:
        """Returns the positions of the edges into one element, of all for None."""
        return np.arange(self.src.size) if target is None else np.flatnonzero(self.dst == target)

    def has(self, number: int) -> bool:
        """Returns whether this can be of so many elements; without names, pruning may have left the last ones out."""
        is_counted = self.pathways.labels is not None or not self.pathways.threshold
        return self.num_elements == number if is_counted else self.num_elements <= number


def one_layer(pathways: Pathways, layer: int | None = None, *, with_itself: bool = False) -> OneLayer:
    """Returns the edges of one layer, or of pathways whose layers were merged into one.

    Args:
        pathways: any.
        layer: number of the layer, −1 for the last; None where there is one only, or all were merged.
        with_itself: whether edges of an element to itself, residual ones too, are among them.

    Raises:
        TypeError: if `pathways` are none.
        ValueError: if the layer is not named where there are several, does not exist, or its edges do not join the
            elements of the input.
    """
    check_pathways(pathways)
    weight = pathways.weight.numpy()
    of_layer = pathways.layer.numpy()
    layers = np.unique(of_layer)
    if not layers.size:
        raise ValueError("pathways must have edges, got none: there is nothing to draw. Keep a larger share of them.")
    if layer is None and layers.size > 1:
        raise ValueError(
            f"pathways have {layers.size} layers, and this picture shows one. Pass layer=0 … {layers[-1]}, or merge "
            "them: graphattn.viz.merged(pathways)."
        )
    if layer is not None:
        number = layers[-1] if layer == -1 else layer
        if number not in layers:
            raise ValueError(f"layer must be one of {', '.join(map(str, layers))}, or -1, got {layer!r}.")
        layers = np.array([number])
    chosen = of_layer == layers[0]
    kinds = pathways.node_kind.numpy()[pathways.edge_index.numpy()[:, chosen]]
    if (kinds != pathways.node_kinds.index("element")).any():
        names = sorted({pathways.node_kinds[kind] for kind in kinds.ravel().tolist()} - {"element"})
        advice = "" if "pooled" in names else ", or merge the layers: graphattn.viz.merged(pathways)"  # these stay
        raise ValueError(
            f"layer {layers[0]} has {' and '.join(names)} nodes, which are no elements of the input. Use draw_layers"
            f"{advice}."
        )
    element = pathways.element.numpy()
    src, dst = element[pathways.edge_index.numpy()]
    is_itself = (src == dst) | (pathways.edge_kind.numpy() == pathways.edge_kinds.index("residual"))
    edges = np.flatnonzero(chosen if with_itself else chosen & ~is_itself)
    num_elements = int(element[pathways.node_kind.numpy() == pathways.node_kinds.index("element")].max()) + 1
    names = list(map(str, range(num_elements)) if pathways.labels is None else pathways.labels)
    kept = replace(
        pathways,
        **{
            name: getattr(pathways, name)[..., edges] for name in ("edge_index", "weight", "head", "layer", "edge_kind")
        },
    )
    num_itself = 0 if with_itself else int((chosen & is_itself & (weight != 0)).sum())
    itself = f"not drawn: {plural(num_itself, 'edge')} of elements to themselves" if num_itself else ""
    said = [pathways.caption]
    if layer is not None:
        is_part = bool(pathways.threshold) or pathways.kept < 1
        influence = f"{percent(pathways.kept)} of the influence over all layers" if is_part else ""
        said = [f"layer {layers[0]}", pathways.method, pathways.threshold, influence]
    return OneLayer(kept, src[edges], dst[edges], weight[edges], names, num_itself, (*said, itself))
