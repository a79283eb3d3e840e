"""Builders: sizes → graph. Pure functions that enumerate edges; `graph.keep(rule)` and the algebra do the rest."""

from graphattn.connectivity import combiner as combiner  # builders that return pairs, so not in __all__
from graphattn.connectivity.axial import axial
from graphattn.connectivity.bonds import bonds
from graphattn.connectivity.chunked import block_diagonal, chunked
from graphattn.connectivity.clusters import clusters, routing
from graphattn.connectivity.curve_windows import curve_windows
from graphattn.connectivity.document import document
from graphattn.connectivity.expander import expander
from graphattn.connectivity.full import full
from graphattn.connectivity.grid import grid
from graphattn.connectivity.hops import hop_distance, hops
from graphattn.connectivity.hubs import global_tokens
from graphattn.connectivity.log_sparse import log_sparse
from graphattn.connectivity.long_documents import bigbird, longformer
from graphattn.connectivity.neighborhood import neighborhood
from graphattn.connectivity.per_head import per_head
from graphattn.connectivity.points import knn, radius
from graphattn.connectivity.prefix import prefix_lm
from graphattn.connectivity.random_edges import random_regular
from graphattn.connectivity.shifted_windows import shifted_windows
from graphattn.connectivity.sparse_transformer import fixed, strided
from graphattn.connectivity.tree import tree
from graphattn.connectivity.window import sliding_window

__all__ = [
    "axial",
    "bigbird",
    "block_diagonal",
    "bonds",
    "chunked",
    "clusters",
    "curve_windows",
    "document",
    "expander",
    "fixed",
    "full",
    "global_tokens",
    "grid",
    "hop_distance",
    "hops",
    "knn",
    "log_sparse",
    "longformer",
    "neighborhood",
    "per_head",
    "prefix_lm",
    "radius",
    "random_regular",
    "routing",
    "shifted_windows",
    "sliding_window",
    "strided",
    "tree",
]
