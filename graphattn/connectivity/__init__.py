"""Builders: sizes → graph. Pure functions that enumerate edges; `graph.keep(rule)` and the algebra do the rest."""

from graphattn.connectivity.bonds import bonds
from graphattn.connectivity.expander import expander
from graphattn.connectivity.full import full
from graphattn.connectivity.grid import grid
from graphattn.connectivity.hops import hop_distance, hops
from graphattn.connectivity.hubs import global_tokens
from graphattn.connectivity.random_edges import random_regular
from graphattn.connectivity.window import sliding_window

__all__ = [
    "bonds",
    "expander",
    "full",
    "global_tokens",
    "grid",
    "hop_distance",
    "hops",
    "random_regular",
    "sliding_window",
]
