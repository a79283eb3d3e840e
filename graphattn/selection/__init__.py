"""Selections: graph → fewer edges. Frozen specs that `draw`, and that layers take as their `select` seat."""

from graphattn.selection.generator import generator_for
from graphattn.selection.seat import DrawingSeat
from graphattn.selection.subsample_hops import SubsampleHops
from graphattn.selection.subsample_local import SubsampleLocal
from graphattn.selection.subsample_sources import SubsampleSources

__all__ = ["DrawingSeat", "SubsampleHops", "SubsampleLocal", "SubsampleSources", "generator_for"]
