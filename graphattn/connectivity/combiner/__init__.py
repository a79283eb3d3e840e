"""Combiner (Ren et al. 2021): full support at sparse cost, by tokens read directly and summaries of all others.

Every builder returns a `Pair` of bipartite graphs, or two of them: `summarise, attend = fixed(n, 128, causal=True)`.
"""

from graphattn.connectivity.combiner.axial import axial_horizontal, axial_rowmajor, axial_vertical, mixture
from graphattn.connectivity.combiner.clusters import clusters
from graphattn.connectivity.combiner.fixed import fixed
from graphattn.connectivity.combiner.log_sparse import log_sparse
from graphattn.connectivity.combiner.pair import Pair

__all__ = [
    "Pair",
    "axial_horizontal",
    "axial_rowmajor",
    "axial_vertical",
    "clusters",
    "fixed",
    "log_sparse",
    "mixture",
]
