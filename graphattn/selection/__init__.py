"""Selections: graph → fewer edges. Frozen specs that `draw`, and that layers take as their `select` seat."""

from graphattn.selection.drawing import drawing, has_draws, set_drawing
from graphattn.selection.generator import generator_for
from graphattn.selection.layer_draws import LayerDraws, is_drawable
from graphattn.selection.per_layer import PerLayer, spec_of_each_layer
from graphattn.selection.ramp import Ramp
from graphattn.selection.seat import DrawingSeat
from graphattn.selection.subsample_hops import SubsampleHops
from graphattn.selection.subsample_local import SubsampleLocal
from graphattn.selection.subsample_sources import SubsampleSources
from graphattn.selection.threshold import Threshold
from graphattn.selection.topk_edges import TopKEdges

__all__ = [
    "DrawingSeat",
    "LayerDraws",
    "PerLayer",
    "Ramp",
    "SubsampleHops",
    "SubsampleLocal",
    "SubsampleSources",
    "Threshold",
    "TopKEdges",
    "drawing",
    "generator_for",
    "has_draws",
    "is_drawable",
    "set_drawing",
    "spec_of_each_layer",
]
