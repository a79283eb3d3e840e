"""Pictures of what was trained. `pip install graphattn[viz]`; matplotlib is loaded by the first picture."""

from graphattn.viz.curves import plot_training_curves, save_training_curves

__all__ = [
    "plot_training_curves",
    "save_training_curves",
]
