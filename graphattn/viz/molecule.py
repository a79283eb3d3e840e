"""A molecule with its bonds in grey, and over them who reads whom, as arrows from atom to atom."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from graphattn.graph import AttentionGraph
from graphattn.graph.summary import plural
from graphattn.viz.canvas import TEXT, axes_of, bare, caption, legend
from graphattn.viz.coloring import color_edges
from graphattn.viz.one_layer import one_layer
from graphattn.viz.palette import BLACK, GRAY
from graphattn.viz.places import places
from graphattn.viz.shares import percent
from graphattn.viz.strokes import Scale, arrows, curves, drawn_of, legend_of, sideways, strongest

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from graphattn.viz.pathways import Pathways

MAX_ATOMS = 250
MAX_ARROWS = 40  # on so little paper
INCH = 0.62  # per length of a bond
BOND_COLOR = "0.75"
BETWEEN_LINES = 0.11  # of a double bond, in lengths of a bond
BEND, LONG = 0.16, 3.5  # of an arrow, as a share of its length; a longer one bends no further than one of this length
WIDE, HEAD = 2.8, 0.22  # points, and the length of an arrow's head
GAP, MARGIN = 0.22, 0.45  # around an atom, and around all
ATOM_SIZE = 10.0  # points
SUBSCRIPT = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")
SUPERSCRIPT = str.maketrans("0123456789+-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻")


class Skeleton(NamedTuple):
    """A molecule on paper."""

    place: np.ndarray  # float64 [num_atoms, 2], a bond is about 1 long
    bonds: np.ndarray  # int64 [num_bonds, 2]
    order: np.ndarray  # int64 [num_bonds], lines of each bond
    names: list[str]  # of the atoms as they are drawn: with hydrogens and charge, "" for carbon
    symbols: list[str]  # of the atoms, "" where it is not known


def draw_molecule(
    pathways: Pathways,
    molecule: str | AttentionGraph,
    ax: Axes | None = None,
    *,
    layer: int | None = None,
    target: int | str | None = None,
    num_virtual: int = 0,
    with_virtual: bool = True,
    color: str | None = None,
    max_edges: int = MAX_ARROWS,
) -> Axes:
    """Draws a molecule, and arrows from the atoms that are read to those that read them.

    Args:
        pathways: of the molecule alone; elements are its atoms, then its virtual nodes.
        molecule: SMILES, laid out by rdkit, whose order of atoms is that of `molecule_graph` and of OGB's data sets; or
            the graph of its bonds (or any other square graph), laid out by networkx.
        ax: matplotlib axes of yours; None makes a figure of its own, unknown to pyplot.
        layer: whose attention is drawn, −1 for the last; None where layers are merged.
        target: draw only what this atom reads; its number, or its name.
        num_virtual: virtual nodes after the atoms, drawn beside them as squares.
        with_virtual: False draws atoms alone, if any reads another, and the caption says what share of the weight is
            not theirs. Over several layers a virtual node, which all atoms read, may hide them.
        color: "kind", "head", "change" (the sign of the weight), or None for what suits the weights.
        max_edges: the strongest arrows are drawn; the caption says how many of how many.

    Returns:
        the axes; `graphattn.viz.save_picture(ax, "molecule.svg")` writes the picture.

    Raises:
        ImportError: if matplotlib, or for SMILES rdkit, is missing.
        ValueError: if rdkit does not understand the SMILES, there are more than 250 atoms, or atoms and elements are
            not as many.
    """
    found = one_layer(pathways, layer)
    skeleton = read_skeleton(molecule)
    num_atoms = len(skeleton.place)
    if not found.has(num_atoms + num_virtual):
        raise ValueError(
            f"pathways must have an element for each of {num_atoms} atoms and {num_virtual} virtual nodes, got "
            f"{found.num_elements}. Pass the molecule that was recorded, and num_virtual= as its batch has it."
        )
    reader = found.number(target)
    among, aside = found.of(reader), ""
    is_between_atoms = np.maximum(found.src, found.dst)[among] < num_atoms
    if num_virtual and not with_virtual and is_between_atoms.any():
        among, aside = among[is_between_atoms], _of_virtual(found.weight[among], is_between_atoms)
        num_virtual = 0
    place = np.concatenate([skeleton.place, _beside(skeleton.place, num_virtual)])
    weight = found.weight[among]
    shown = strongest(weight, max_edges)
    edges = among[shown.edges]
    scale = Scale.of(found.weight[edges], WIDE)
    start, end = place[found.src[edges]], place[found.dst[edges]]
    shift = sideways(start, end, _bends(found.pathways.head.numpy()[edges]), at_most=LONG)
    touched = np.concatenate([place, curves(start, end, shift).reshape(-1, 2)])
    low, high = touched.min(0) - MARGIN, touched.max(0) + MARGIN
    ax = axes_of(ax, *np.clip(INCH * (high - low) / 0.77, 2.5, 11.0))
    bare(ax)
    _draw_bonds(ax, skeleton)
    coloring = color_edges(found.pathways, edges, color)
    arrows(ax, start, end, shift, found.weight[edges], scale, coloring.color, gap=GAP, size=HEAD)
    _draw_atoms(ax, place[:num_atoms], skeleton.names)
    if num_virtual:
        x, y = place[num_atoms:].T
        ax.scatter(x, y, s=60, marker="s", facecolors="white", edgecolors=BLACK, zorder=3)
        for number, where in enumerate(place[num_atoms:]):
            name = "virtual" if num_virtual == 1 else f"virtual {number + 1}"
            ax.annotate(name, where, xytext=(8, 0), textcoords="offset points", va="center", fontsize=8, **TEXT)
    if reader is not None:
        ax.scatter(
            place[reader, 0], place[reader, 1], s=320, facecolors="none", edgecolors=BLACK, linewidths=1.2, zorder=3
        )
    ax.set_xlim(low[0], high[0])
    ax.set_ylim(low[1], high[1])
    ax.set_aspect("equal")
    legend(ax, legend_of({"bond": GRAY} | coloring.names, scale), right=40 if num_virtual else 0)
    reads = f"what node {target} reads" if reader is not None else ""
    caption(ax, [reads, *found.sentences, aside, drawn_of(shown, weight)])
    return ax


def read_skeleton(molecule: str | AttentionGraph) -> Skeleton:
    """Lays a molecule out on paper: SMILES by rdkit, a graph of bonds by networkx.

    >>> read_skeleton("CO").names
    ['', 'OH']
    """
    if isinstance(molecule, AttentionGraph):
        if not molecule.is_square or not molecule.num_src_nodes:
            raise ValueError(f"molecule must be SMILES or a square graph with nodes, got {molecule!r}.")
        _check_size(molecule.num_src_nodes)
        bonds = np.unique(np.sort(molecule.edge_index.cpu().numpy().T, axis=1), axis=0).reshape(-1, 2)
        bonds = bonds[bonds[:, 0] != bonds[:, 1]]
        names = [str(node) for node in range(molecule.num_src_nodes)]
        return Skeleton(places(molecule), bonds, np.ones(len(bonds), dtype=np.int64), names, [""] * len(names))
    if not isinstance(molecule, str):
        raise TypeError(f"molecule must be SMILES or an AttentionGraph of bonds, got {type(molecule).__name__}.")
    try:
        from rdkit import Chem, rdBase
        from rdkit.Chem import rdDepictor
    except ImportError as error:
        raise ImportError(
            f"drawing SMILES needs rdkit ({error}): pip install graphattn[train]; or pass the graph of the bonds."
        ) from error
    with rdBase.BlockLogs():
        read = Chem.MolFromSmiles(molecule) if molecule.isascii() else None
        if read is None or not read.GetNumAtoms():
            raise ValueError(
                f"{molecule!r} is not a SMILES that rdkit understands. Check brackets, rings and valences."
            )
        _check_size(read.GetNumAtoms())
        hydrogens = [atom.GetTotalNumHs() for atom in read.GetAtoms()]
        Chem.Kekulize(read)
        rdDepictor.Compute2DCoords(read, canonOrient=True, bondLength=1.0)
    place = np.array(read.GetConformer().GetPositions(), dtype=np.float64)[:, :2]
    ends = [(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in read.GetBonds()]
    order = [max(1, round(bond.GetBondTypeAsDouble())) for bond in read.GetBonds()]
    names = [_name(atom, count) for atom, count in zip(read.GetAtoms(), hydrogens)]
    symbols = [atom.GetSymbol() for atom in read.GetAtoms()]
    bonds = np.array(ends, dtype=np.int64).reshape(-1, 2)
    return Skeleton(place, bonds, np.array(order, dtype=np.int64), names, symbols)


def _check_size(num_atoms: int) -> None:
    if num_atoms > MAX_ATOMS:
        raise ValueError(f"draw_molecule draws at most {MAX_ATOMS} atoms, got {num_atoms:,}. Use draw_layers.")


def _name(atom: Any, num_hydrogens: int) -> str:
    """Writes an atom as chemists do: carbon not at all, if it is neutral and not alone."""
    symbol, charge = atom.GetSymbol(), atom.GetFormalCharge()
    if symbol == "C" and not charge and atom.GetDegree():
        return ""
    count = "" if num_hydrogens < 2 else str(num_hydrogens).translate(SUBSCRIPT)
    sign = ("" if abs(charge) == 1 else str(abs(charge))) + ("+" if charge > 0 else "-") if charge else ""
    return symbol + ("H" + count if num_hydrogens else "") + sign.translate(SUPERSCRIPT)


def _beside(place: np.ndarray, num_virtual: int) -> np.ndarray:
    """Returns places to the right of the molecule, below each other about its middle."""
    low, high = place.min(0), place.max(0)
    row = np.arange(num_virtual) - (num_virtual - 1) / 2
    return np.stack([np.full(num_virtual, high[0] + 1.8), (low[1] + high[1]) / 2 - row], 1)


def _of_virtual(weight: np.ndarray, is_between_atoms: np.ndarray) -> str:
    """Says what is left out without virtual nodes."""
    total = float(np.abs(weight).sum())
    share = float(np.abs(weight[~is_between_atoms]).sum()) / total if total else 0.0
    return (
        f"not drawn: {plural(int((~is_between_atoms).sum()), 'edge')} of virtual nodes, {percent(share)} of the weight"
    )


def _bends(head: np.ndarray) -> np.ndarray:
    """Returns a bend for each edge, so that those of several heads between two atoms are told apart."""
    heads, number = np.unique(head, return_inverse=True)
    return BEND * (1 + number / max(1, heads.size - 1)) if heads.size else np.zeros(0)


def _draw_bonds(ax: Axes, skeleton: Skeleton) -> None:
    from matplotlib.collections import LineCollection

    start, end = skeleton.place[skeleton.bonds[:, 0]], skeleton.place[skeleton.bonds[:, 1]]
    way = end - start
    length = np.linalg.norm(way, axis=1, keepdims=True)
    left = np.stack([-way[:, 1], way[:, 0]], 1) / np.maximum(length, 1e-9)
    of_bond = np.repeat(np.arange(len(way)), skeleton.order)
    number = np.arange(of_bond.size) - np.repeat(np.cumsum(skeleton.order) - skeleton.order, skeleton.order)
    aside = BETWEEN_LINES * (number - (skeleton.order[of_bond] - 1) / 2)[:, None] * left[of_bond]
    drawn = np.stack([start[of_bond] + aside, end[of_bond] + aside], 1)
    made = LineCollection(list(drawn), colors=BOND_COLOR, linewidths=2.0, capstyle="round", zorder=1)
    ax.add_collection(made, autolim=False)


def _draw_atoms(ax: Axes, place: np.ndarray, names: Sequence[str]) -> None:
    named = np.array([bool(name) for name in names])
    ax.scatter(place[~named, 0], place[~named, 1], s=14, color=GRAY, zorder=3)
    for name, where in zip(names, place):
        if name:
            box = {"boxstyle": "round,pad=0.12", "facecolor": "white", "edgecolor": "none", "alpha": 0.85}
            ax.annotate(name, where, ha="center", va="center", fontsize=ATOM_SIZE, bbox=box, zorder=3, **TEXT)
