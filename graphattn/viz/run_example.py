"""One graph of a run's data set, sent through the trained model: its recording, its pathways, its picture."""

from __future__ import annotations

import os
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from graphattn.data import load
from graphattn.graph import AttentionGraph
from graphattn.training.folder import RunFolder
from graphattn.training.load import load_run
from graphattn.training.seeds import runs_in
from graphattn.viz.arcs import draw_arcs
from graphattn.viz.canvas import TEXT, plain, save_picture
from graphattn.viz.heads import draw_heads
from graphattn.viz.layers import draw_layers
from graphattn.viz.levels import pathways
from graphattn.viz.merged import merged
from graphattn.viz.molecule import MAX_ATOMS, draw_molecule, read_skeleton
from graphattn.viz.pathways import Pathways
from graphattn.viz.record import record
from graphattn.viz.recording import Recording

if TYPE_CHECKING:
    from matplotlib.axes import Axes

VIEWS = ("graph", "layers", "arcs", "heads")
METHODS = ("rollout", "flow", "weights")
SPLITS = ("test", "valid", "train", "all")
SHARE = 0.8


@dataclass(frozen=True, eq=False)
class RunExample:
    """What a trained model did with one graph."""

    recording: Recording
    graph: AttentionGraph  # of the edges that the data have, such as bonds
    smiles: str | None  # of a molecule, where the data name it and rdkit reads it as this graph
    symbols: list[str] | None  # of its atoms
    num_virtual: int  # nodes that the model's input adds
    title: str

    @property
    def labels(self) -> list[str]:
        """Names of all nodes: symbol and number of an atom, the number of another node, and the virtual ones."""
        symbols = [""] * self.graph.num_src_nodes if self.symbols is None else self.symbols
        virtual = ["virtual"] if self.num_virtual == 1 else [f"virtual {v + 1}" for v in range(self.num_virtual)]
        return [f"{symbol}{number}" for number, symbol in enumerate(symbols)] + virtual

    def pathways(
        self, method: str = "weights", *, share: float = SHARE, heads: str | int = "mean", weighting: str = "alpha"
    ) -> Pathways:
        """Returns the pathways of this graph, without its weakest edges.

        Args:
            method: "weights" of every layer; or all layers merged into one, by "rollout" or by max-"flow".
            share: of the influence on the outputs, that the edges which are kept carry; 1.0 keeps all.
            heads, weighting: as `graphattn.viz.pathways` takes them.

        Raises:
            ValueError: for another method, and for what `pathways` and `prune` refuse.
        """
        if method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}.")
        found = pathways(self.recording, labels=self.labels, heads=heads, weighting=weighting)
        if method == "rollout":
            found = merged(found)
        elif method == "flow":
            found = merged(found, found.max_flow(found.element[found.outputs]))
        return found if share == 1.0 else found.prune(share)

    def draw(
        self,
        view: str = "graph",
        ax: Axes | None = None,
        *,
        layer: int | None = None,
        method: str | None = None,
        share: float = SHARE,
        heads: str | int = "mean",
        weighting: str = "alpha",
    ) -> Axes:
        """Draws it, under the name of the graph, what was predicted and what is known.

        Args:
            view: "graph", arrows over the molecule (or over another graph); "layers"; "arcs" over the nodes in a row;
                or "heads", the matrix of each.
            ax: matplotlib axes of yours; None makes a figure of its own.
            layer: whose weights the views "graph" and "arcs" show, −1 for the last; None merges all of them.
            method: None takes "weights" for a layer and for "layers", "rollout" otherwise.
            share, heads, weighting: as in `pathways`.

        Raises:
            ValueError: for another view, or arguments that it does not have.
        """
        if view not in VIEWS:
            raise ValueError(f"view must be one of {', '.join(VIEWS)}, got {view!r}.")
        if view in ("layers", "heads") and layer is not None:
            raise ValueError(f"view {view!r} shows every layer, got layer={layer}. Leave it out, or take view 'graph'.")
        if view == "heads" and (method, heads, weighting) != (None, "mean", "alpha"):
            raise ValueError("view 'heads' shows the weights of every head. Leave method, heads and weighting out.")
        if layer is not None and method not in (None, "weights"):
            raise ValueError(f"method {method!r} merges all layers, got layer={layer}. Leave one of the two out.")
        if view == "heads":
            ax = draw_heads(self.recording, ax)
        else:
            of_layers = view == "layers" or layer is not None
            method = method or ("weights" if of_layers else "rollout")
            if method == "weights" and not of_layers:
                raise ValueError(f"view {view!r} shows the weights of one layer. Pass layer=0, or −1 for the last.")
            found = self.pathways(method, share=share, heads=heads, weighting=weighting)
            if view == "layers":
                ax = draw_layers(found, ax)
            elif view == "arcs":
                ax = draw_arcs(found, ax, layer=layer)
            else:
                molecule = self.graph if self.smiles is None else self.smiles
                # merged over the layers, the virtual node that all atoms read would hide what they read of each other
                ax = draw_molecule(
                    found, molecule, ax, layer=layer, num_virtual=self.num_virtual, with_virtual=layer is not None
                )
        ax.set_title(self.title, loc="left", fontsize="medium", **TEXT)
        return ax


def run_example(run: str | Path, index: int = 0, split: str = "test", *, needs_gradient: bool = False) -> RunExample:
    """Sends one graph of a run's data set through its best checkpoint, and records that.

    Args:
        run: folder that `graphattn train` made.
        index: which graph of the split, from 0.
        split: "test", "valid" or "train"; with "all", `index` counts the graphs of the whole data set.
        needs_gradient: also record gradients of the outputs, which some weightings read.

    Raises:
        FileNotFoundError: if the folder is no run.
        ValueError: if there is no such split or graph, or the model has no attention of ours.
    """
    predictor = load_run(run)
    dataset = load(predictor.config.data.name, predictor.config.data.root, yes=predictor.config.data.yes)
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}.")
    numbers = torch.arange(len(dataset)) if split == "all" else dataset.indices(split)
    if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < numbers.numel():
        raise ValueError(
            f"index must lie in [0, {numbers.numel()}), the graphs of {dataset.name}, {split}, got {index!r}."
        )
    number = int(numbers[index])
    data = dataset[number]
    batch = predictor.collate([data])
    try:
        with record(predictor.network) as recording, nullcontext() if needs_gradient else torch.no_grad():
            predicted = predictor(batch)
            if needs_gradient:
                predicted.sum().backward()
            predicted = predicted.detach()
    except RuntimeError as error:
        if "nothing was recorded" not in str(error):
            raise
        raise ValueError(f"the model of {run} has no attention to draw: {error}") from error

    num_nodes = batch.node.numel()
    edge_index = torch.empty(2, 0, dtype=torch.int64) if data.edge_index is None else data.edge_index
    graph, _ = AttentionGraph.from_edge_index(edge_index, num_nodes, "first", kinds=("bond",))
    smiles, symbols = _as_molecule(getattr(data, "smiles", None), num_nodes)
    title = f"{dataset.name} {number}" + (f"  {smiles}" if smiles else "")
    values = [f"predicted {float(predicted):.4g}"] if predicted.numel() == 1 else []
    if values and batch.y is not None and not bool(batch.y.isnan().any()):
        values.append(f"known {float(batch.y):.4g}")
    title = "\n".join(part for part in (plain(title, 70), ", ".join(values)) if part)
    return RunExample(recording, graph, smiles, symbols, batch.num_virtual, title)


def save_run_example(
    run: str | Path, path: str | os.PathLike[str] | None = None, *, index: int = 0, split: str = "test"
) -> Path:
    """Writes a picture of what a trained model did with one graph, whole or not at all, and returns where it is.

    Args:
        run: folder that `graphattn train` made, or a folder of seeds, of which the first is drawn.
        path: its ending says the format; None is `pathways.png` in the folder.
        index, split: which graph, as in `run_example`. One of many nodes is drawn in layers, and so is one that the
            model pools or summarises.

    Raises:
        what `run_example`, `RunExample.draw` and `save_picture` raise.
    """
    folder = Path(run).expanduser()
    example = run_example(runs_in(folder)[0], index, split)
    is_small = example.graph.num_src_nodes <= MAX_ATOMS
    has_one_level = all(step.kind == "attention" for step in example.recording.steps)
    drawn = example.draw("graph" if is_small and has_one_level else "layers")
    return save_picture(drawn, RunFolder(folder).pathways if path is None else path)


def _as_molecule(smiles: str | None, num_atoms: int) -> tuple[str | None, list[str] | None]:
    """Returns SMILES and the symbols of its atoms, or twice None where rdkit does not read it as that many atoms."""
    if not smiles:
        return None, None
    try:
        symbols = read_skeleton(smiles).symbols
    except (ImportError, ValueError):
        return None, None
    return (smiles, symbols) if len(symbols) == num_atoms else (None, None)
