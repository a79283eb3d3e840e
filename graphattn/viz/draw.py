"""The picture that suits a thing: one call for a graph and for pathways."""

from __future__ import annotations

from typing import TYPE_CHECKING

from graphattn.graph import AttentionGraph
from graphattn.viz.layers import draw_layers
from graphattn.viz.matrix import draw_matrix
from graphattn.viz.node_link import draw_node_link
from graphattn.viz.pathways import Pathways

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FEW_NODES, FEW_EDGES = 40, 250


def draw(thing: AttentionGraph | Pathways, ax: Axes | None = None) -> Axes:
    """Draws a graph (nodes and lines if it is small, otherwise its matrix), or pathways (in layers).

    Each has a function with options: `draw_node_link`, `draw_matrix`, `draw_layers`.

    Args:
        thing: a graph of any size, or pathways.
        ax: matplotlib axes of yours; None makes a figure of its own, unknown to pyplot.

    Returns:
        the axes; `graphattn.viz.save_picture(ax, "picture.svg")` writes the picture.

    Raises:
        TypeError: for anything else.
        ImportError: if matplotlib is missing.
    """
    if isinstance(thing, Pathways):
        return draw_layers(thing, ax)
    if not isinstance(thing, AttentionGraph):
        raise TypeError(
            f"draw takes an AttentionGraph or Pathways, got {type(thing).__name__}. graphattn.viz.pathways(recording) "
            "makes pathways of a recording."
        )
    num_nodes = max(thing.num_src_nodes, thing.num_dst_nodes)
    is_small = 0 < num_nodes <= FEW_NODES and thing.num_edges <= FEW_EDGES
    return draw_node_link(thing, ax) if is_small else draw_matrix(thing, ax)
