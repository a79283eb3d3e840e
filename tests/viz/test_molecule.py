"""Molecules: atoms where rdkit has them, bonds in grey, arrows from who is read to who reads."""

import numpy as np
import pytest
import torch

pytest.importorskip("matplotlib")
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure

from graphattn.graph import AttentionGraph
from graphattn.viz.molecule import MAX_ATOMS, draw_molecule, read_skeleton
from tests.layered import by_hand

ETHANOL = "CCO"


def reading(edges, number=3, **fields):
    return by_hand([0] * number + [1] * number, [(s, number + t, w) for s, t, w in edges], **fields)


def bonds_of(smiles: str) -> AttentionGraph:
    from graphattn.training.predict import molecule_graph

    pytest.importorskip("ogb")
    data = molecule_graph(smiles)
    graph, _ = AttentionGraph.from_edge_index(data.edge_index, data.x.shape[0])
    return graph


def test_atoms_are_in_the_order_of_molecule_graph() -> None:
    pytest.importorskip("rdkit")
    smiles = "OC(=O)c1ccccc1[N+](C)(C)C.[Cl-]"
    skeleton = read_skeleton(smiles)
    assert skeleton.symbols == ["O", "C", "O", *["C"] * 6, "N", "C", "C", "C", "Cl"]
    assert skeleton.names == ["OH", "", "O", *[""] * 6, "N⁺", "", "", "", "Cl⁻"]
    found = {frozenset(pair) for pair in skeleton.bonds.tolist()}
    assert found == {frozenset(pair) for pair in bonds_of(smiles).edge_index.T.tolist()}
    length = np.linalg.norm(np.diff(skeleton.place[skeleton.bonds], axis=1)[:, 0], axis=1)
    np.testing.assert_allclose(length, 1, atol=0.1)
    assert sorted(skeleton.order) == [1] * 9 + [2] * 4


def test_arrows_go_from_the_atom_that_is_read_to_the_one_that_reads() -> None:
    pytest.importorskip("rdkit")
    place = read_skeleton(ETHANOL).place
    ax = draw_molecule(reading([(0, 2, 0.9), (1, 0, 0.3), (1, 1, 0.5)]), ETHANOL)
    bonds, arrows, heads = ax.collections[:3]
    assert len(bonds.get_segments()) == 2 and len(arrows.get_segments()) == 2
    assert isinstance(heads, PolyCollection) and len(heads.get_paths()) == 2
    start, tip = arrows.get_segments()[1][0], heads.get_paths()[1].vertices[0]  # the strongest is last
    assert np.linalg.norm(start - place[0]) < 0.3 and np.linalg.norm(tip - place[2]) < 0.3
    assert [text.get_text() for text in ax.texts] == ["OH"]
    assert [text.get_text() for text in ax.get_legend().get_texts()][:2] == ["bond", "attention"]
    assert "not drawn: 1 edge of elements to themselves" in ax.get_xlabel().replace("\n", " ")


def test_virtual_nodes_can_be_left_out_and_the_caption_says_what_was_theirs() -> None:
    pytest.importorskip("rdkit")
    edges = [(0, 1, 0.2), (0, 3, 0.5), (3, 2, 0.1)]
    ax = draw_molecule(reading(edges, 4), ETHANOL, num_virtual=1, with_virtual=False)
    assert len(ax.collections[1].get_segments()) == 1
    assert [text.get_text() for text in ax.texts] == ["OH"]
    said = ax.get_xlabel().replace("\n", " ")
    assert "not drawn: 2 edges of virtual nodes, 75.0 % of the weight" in said
    lonely = draw_molecule(reading(edges[1:], 4), ETHANOL, num_virtual=1, with_virtual=False)
    assert "virtual" in [text.get_text() for text in lonely.texts]  # or there would be nothing to see


def test_virtual_nodes_stand_beside_and_are_named() -> None:
    pytest.importorskip("rdkit")
    ax = draw_molecule(reading([(0, 4, 0.9), (3, 1, 0.3)], 5), ETHANOL, num_virtual=2)
    texts = {text.get_text(): text for text in ax.texts}
    assert {"virtual 1", "virtual 2"} <= set(texts)
    assert texts["virtual 1"].xy[0] > read_skeleton(ETHANOL).place[:, 0].max() + 1
    with pytest.raises(ValueError, match=r"each of 3 atoms and 0 virtual nodes, got 5\. Pass the molecule that was"):
        draw_molecule(reading([(0, 4, 0.9)], 5), ETHANOL)
    with pytest.raises(ValueError, match="each of 4 atoms and 0 virtual nodes, got 3"):
        draw_molecule(reading([(0, 1, 0.9)]), "CCOC")


def test_a_graph_of_bonds_is_laid_out_without_rdkit() -> None:
    bonds, _ = AttentionGraph.from_edge_index(torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]]), 3)
    ax = Figure().subplots()
    assert draw_molecule(reading([(0, 2, 1.0)]), bonds, ax) is ax
    assert [text.get_text() for text in ax.texts] == ["0", "1", "2"]
    drawn = ax.collections[0]
    assert isinstance(drawn, LineCollection) and len(drawn.get_segments()) == 2
    with pytest.raises(ValueError, match="molecule must be SMILES or a square graph with nodes"):
        draw_molecule(reading([(0, 2, 1.0)]), AttentionGraph(torch.empty(2, 0, dtype=torch.int64), 0))
    with pytest.raises(TypeError, match="molecule must be SMILES or an AttentionGraph of bonds, got int"):
        draw_molecule(reading([(0, 2, 1.0)]), 3)  # type: ignore[arg-type]


def test_layers_heads_targets_and_counts_are_chosen() -> None:
    pytest.importorskip("rdkit")
    edges = [(0, 2, 0.9), (1, 2, 0.5), (1, 0, 0.3)]
    found = reading(edges, head=torch.tensor([0, 1, 0]))
    named = reading(edges, head=torch.tensor([0, 1, 0]), labels=("C0", "C1", "O2"))
    assert draw_molecule(named, ETHANOL, target="O2").get_xlabel().startswith("what node O2 reads")
    ax = draw_molecule(found, ETHANOL, target=2)
    assert len(ax.collections[1].get_segments()) == 2 and ax.get_xlabel().startswith("what node 2 reads")
    assert [text.get_text() for text in ax.get_legend().get_texts()][1:3] == ["head 0", "head 1"]
    ax = draw_molecule(found, ETHANOL, layer=-1, max_edges=1)
    caption = ax.get_xlabel().replace("\n", " ")
    assert caption.startswith("layer 0; by hand") and "the 1 strongest of 3 edges, 52.9 % of their weight" in caption


@pytest.mark.parametrize("smiles", ["C1CC", "", "é"])
def test_what_is_no_smiles_is_refused(smiles: str) -> None:
    pytest.importorskip("rdkit")
    with pytest.raises(ValueError, match="is not a SMILES that rdkit understands"):
        draw_molecule(reading([(0, 2, 1.0)]), smiles)


def test_one_atom_alone_has_its_name() -> None:
    pytest.importorskip("rdkit")
    assert read_skeleton("C").names == ["CH₄"] and read_skeleton("[Na+]").names == ["Na⁺"]
    ax = draw_molecule(reading([(1, 0, 1.0)], 2), "C", num_virtual=1)
    assert len(ax.collections[1].get_segments()) == 1


def test_what_is_too_large_for_the_paper_is_refused() -> None:
    large = AttentionGraph(torch.empty(2, 0, dtype=torch.int64), MAX_ATOMS + 1)
    with pytest.raises(ValueError, match=r"at most 250 atoms, got 251\. Use draw_layers"):
        draw_molecule(reading([(0, 1, 1.0)]), large)
    pytest.importorskip("rdkit")
    with pytest.raises(ValueError, match=r"at most 250 atoms, got 251\. Use draw_layers"):
        draw_molecule(reading([(0, 1, 1.0)]), "C" * (MAX_ATOMS + 1))
