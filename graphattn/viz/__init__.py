"""Pictures of graphs and of what was trained. `pip install graphattn[viz]`; the first picture loads matplotlib."""

from graphattn.viz.curves import plot_training_curves, save_training_curves
from graphattn.viz.matrix import draw_matrix, save_matrix

__all__ = [
    "draw_matrix",
    "plot_training_curves",
    "save_matrix",
    "save_training_curves",
]
