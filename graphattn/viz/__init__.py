"""Who reads whom: recordings, pathways and pictures. `pip install graphattn[viz]`; a picture loads matplotlib."""

from graphattn.viz.arcs import draw_arcs
from graphattn.viz.attribution import Attribution
from graphattn.viz.canvas import save_picture
from graphattn.viz.curves import plot_training_curves, save_training_curves
from graphattn.viz.draw import draw
from graphattn.viz.head_gates import draw_head_gates
from graphattn.viz.heads import draw_heads
from graphattn.viz.layers import draw_layers
from graphattn.viz.levels import pathways
from graphattn.viz.matrix import draw_matrix
from graphattn.viz.merged import merged
from graphattn.viz.molecule import draw_molecule
from graphattn.viz.node_link import draw_node_link
from graphattn.viz.patches import draw_patches
from graphattn.viz.paths import Paths
from graphattn.viz.pathways import Pathways
from graphattn.viz.record import record
from graphattn.viz.recording import Recording, Step

__all__ = [
    "record",
    "Recording",
    "Step",
    "pathways",
    "Pathways",
    "Attribution",
    "Paths",
    "merged",
    "draw",
    "draw_layers",
    "draw_arcs",
    "draw_patches",
    "draw_molecule",
    "draw_heads",
    "draw_head_gates",
    "draw_matrix",
    "draw_node_link",
    "save_picture",
    "plot_training_curves",
    "save_training_curves",
]
