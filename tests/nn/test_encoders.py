"""Encoders of nodes and edges: against OGB's where there is one, and at their corners."""

import importlib.util
import json
import re
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from graphattn.nn import (
    OGB_ATOM_DIMS,
    OGB_BOND_DIMS,
    CategoryEncoder,
    DistanceEncoder,
    KindEncoder,
    NodeNorm,
    NumberEncoder,
    PositionEncoder,
    VirtualEdgeEncoder,
    VirtualNodeEncoder,
)

# --- categories ----------------------------------------------------------------------------------------------------

COMPARE_WITH_OGB = """
import json, torch
from ogb.graphproppred.mol_encoder import AtomEncoder, BondEncoder
from ogb.utils.features import get_atom_feature_dims, get_bond_feature_dims
from graphattn.nn import OGB_ATOM_DIMS, OGB_BOND_DIMS, CategoryEncoder

worst = 0.0
for theirs, tables, dims in (
    (AtomEncoder(11), "atom_embedding_list", OGB_ATOM_DIMS),
    (BondEncoder(11), "bond_embedding_list", OGB_BOND_DIMS),
):
    ours = CategoryEncoder(dims, 11)
    with torch.no_grad():
        ours.embedding.weight.copy_(torch.cat([table.weight for table in getattr(theirs, tables)]))
        rows = torch.stack([torch.cat([torch.tensor([0, dim - 1]), torch.randint(dim, (97,))]) for dim in dims], 1)
        worst = max(worst, float((ours(rows) - theirs(rows)).abs().max()))
print(json.dumps({"worst": worst, "atoms": get_atom_feature_dims(), "bonds": get_bond_feature_dims()}))
"""


@pytest.mark.skipif(importlib.util.find_spec("ogb") is None, reason="ogb is not installed")
def test_it_is_ogbs_atom_and_bond_encoder_with_their_weights() -> None:
    # in a process of its own: importing ogb brings half of a training stack, and looks for updates
    run = subprocess.run([sys.executable, "-c", COMPARE_WITH_OGB], capture_output=True, text=True, check=True)
    found = json.loads(run.stdout.splitlines()[-1])
    assert tuple(found["atoms"]) == OGB_ATOM_DIMS
    assert tuple(found["bonds"]) == OGB_BOND_DIMS
    assert found["worst"] < 1e-6


def test_each_category_of_each_feature_has_a_row_of_its_own() -> None:
    encoder = CategoryEncoder((3, 2), 5)
    rows = torch.cartesian_prod(torch.arange(3), torch.arange(2))
    expected = torch.stack([encoder.embedding.weight[a] + encoder.embedding.weight[3 + b] for a, b in rows.tolist()])
    assert_close(encoder(rows), expected)
    assert_close(encoder(rows.to(torch.uint8)), expected)
    assert encoder(rows[:0]).shape == (0, 5)


def test_tables_start_as_ogbs_do() -> None:
    torch.manual_seed(0)
    for dim, table in zip((119, 5), CategoryEncoder((119, 5), 64).embedding.weight.split([119, 5]), strict=True):
        bound = (6 / (dim + 64)) ** 0.5  # xavier, of each table by itself
        assert 0.9 * bound < float(table.detach().abs().max()) <= bound


@pytest.mark.parametrize(
    "categories, error, advice",
    [
        ([[2, 2]], ValueError, r"lie in [0, 2) for feature 1, got 2 in row 0. Raise dims[1]"),
        ([[0, 0], [3, 1]], ValueError, r"lie in [0, 3) for feature 0, got 3 in row 1"),
        ([[-1, 0]], ValueError, r"for feature 0, got -1 in row 0"),
        ([[0]], ValueError, r"must have shape [num_rows, 2], got [1, 1]"),
        ([0, 1], ValueError, r"must have shape [num_rows, 2], got [2]"),
        ([[0.0, 1.0]], TypeError, r"must be integers, got torch.float32. For features that are numbers use"),
    ],
)
def test_what_is_no_category_is_refused(categories: list, error: type[Exception], advice: str) -> None:
    with pytest.raises(error, match=re.escape(advice)):
        CategoryEncoder((3, 2), 5)(torch.tensor(categories))


@pytest.mark.parametrize("dims", [(), (3, 0)])
def test_features_without_categories_are_refused(dims: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="at least one number of categories, each at least 1"):
        CategoryEncoder(dims, 5)


# --- numbers, norms ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.int64])
def test_numbers_of_any_dtype_are_projected_in_the_models(dtype: torch.dtype) -> None:
    encoder = NumberEncoder(3, 5)
    numbers = torch.tensor([[1, 2, 3], [4, 5, 6]], dtype=dtype)
    assert_close(encoder(numbers), nn.functional.linear(numbers.float(), encoder.weight, encoder.bias))
    with pytest.raises(ValueError, match=r"shape \[num_rows, 3\], got \[2, 2\]"):
        encoder(numbers[:, :2])


def test_a_norm_over_nodes_is_batch_norm_and_serves_a_single_node() -> None:
    ours, theirs = NodeNorm(5), nn.BatchNorm1d(5)
    for number in range(3):
        x = torch.randn(11, 5, generator=torch.Generator().manual_seed(number)) + number
        assert_close(ours(x), theirs(x))
    before = ours.running_mean.clone()
    single = ours(x[:1])
    assert_close(single, theirs.eval()(x[:1]))
    assert_close(ours.running_mean, before)
    assert ours(x[:0]).shape == (0, 5)
    assert_close(ours.eval()(x), theirs(x))


# --- positions -----------------------------------------------------------------------------------------------------


def test_in_evaluation_positions_are_projected_as_they_are() -> None:
    encoder = PositionEncoder(2, 3, 7).eval()
    positions, batch = torch.randn(11, 5), torch.zeros(11, dtype=torch.int64)
    assert_close(encoder(positions, batch, 1), encoder.proj(positions))


def test_in_training_signs_of_eigenvectors_flip_together_within_a_graph() -> None:
    encoder = PositionEncoder(0, 3, 3)
    nn.init.eye_(encoder.proj.weight)
    nn.init.zeros_(encoder.proj.bias)
    batch = torch.arange(67).repeat_interleave(2)
    vectors = torch.rand(134, 3) + 1
    torch.manual_seed(0)
    signs = (encoder(vectors, batch, 67) / vectors).view(67, 2, 3)
    assert_close(signs[:, 0], signs[:, 1])
    assert_close(signs.abs(), torch.ones_like(signs))
    flipped = (signs[:, 0] < 0).float().mean(0)
    assert bool(((flipped > 0.25) & (flipped < 0.75)).all())
    assert_close(encoder.eval()(vectors, batch, 67), vectors)


def test_walks_keep_their_sign_in_training() -> None:
    encoder = PositionEncoder(3, 2, 5)
    nn.init.eye_(encoder.proj.weight)
    nn.init.zeros_(encoder.proj.bias)
    positions = torch.rand(67, 5) + 1
    found = encoder(positions, torch.arange(67), 67)
    assert_close(found[:, :3], positions[:, :3])
    assert bool((found[:, 3:] < 0).any())


def test_a_pair_of_singular_vectors_keeps_its_product_when_its_sign_flips() -> None:
    encoder = PositionEncoder(1, 2, 9, num_singular=3)
    nn.init.eye_(encoder.proj.weight)
    nn.init.zeros_(encoder.proj.bias)
    positions = torch.rand(67, 9) + 1
    torch.manual_seed(0)
    found = encoder(positions, torch.arange(67), 67)
    assert_close(found[:, 0], positions[:, 0])
    left, right = found[:, 3:6], found[:, 6:]
    assert_close(left * right, positions[:, 3:6] * positions[:, 6:])
    flipped = (found[:, 1:6] < 0).float()
    assert bool(((flipped.mean(0) > 0.25) & (flipped.mean(0) < 0.75)).all())
    assert torch.unique(flipped, dim=0).shape[0] > 16  # each for itself
    assert_close(encoder.eval()(positions, torch.arange(67), 67), positions)


def test_positions_of_another_width_and_no_positions_are_refused() -> None:
    with pytest.raises(ValueError, match=r"positions must have shape \[num_nodes, 2 \+ 3\], got \[7, 4\]"):
        PositionEncoder(2, 3, 5)(torch.zeros(7, 4), torch.zeros(7, dtype=torch.int64), 1)
    with pytest.raises(ValueError, match="at least one column, got num_walks = 0 and num_eigenvectors = 0"):
        PositionEncoder(0, 0, 5)
    with pytest.raises(ValueError, match=r"shape \[num_nodes, 2 \+ 3 \+ 2 · 4\], got \[7, 9\]"):
        PositionEncoder(2, 3, 5, num_singular=4)(torch.zeros(7, 9), torch.zeros(7, dtype=torch.int64), 1)


# --- edges ---------------------------------------------------------------------------------------------------------


def test_each_distance_has_a_vector_those_to_virtual_nodes_and_beyond_included() -> None:
    encoder = DistanceEncoder(max_hops=3, embed_dim=5)
    vectors = encoder(torch.tensor([-1, 0, 1, 2, 3, 4]))
    assert_close(vectors, encoder.embedding.weight)
    assert torch.unique(vectors, dim=0).shape[0] == 6


def test_kinds_add_up_whatever_order_the_graph_names_them_in() -> None:
    encoder = KindEncoder(("bond", "hop", "full"), 5)
    bond, _, full = encoder.weight
    found = encoder(torch.tensor([0, 1, 2, 3], dtype=torch.int16), ("full", "bond"))
    assert_close(found, torch.stack([torch.zeros(5), full, bond, full + bond]))
    assert_close(encoder(torch.zeros(2, dtype=torch.int16), ()), torch.zeros(2, 5))
    found.sum().backward()
    assert encoder.weight.grad is not None
    assert encoder.weight.grad[:, 0].tolist() == [2, 0, 2]


def test_a_kind_without_a_vector_is_refused() -> None:
    with pytest.raises(ValueError, match="edges of kind 'window', this encoder knows bond, full"):
        KindEncoder(("bond", "full"), 5)(torch.ones(3, dtype=torch.int16), ("bond", "window"))


def test_virtual_nodes_take_their_own_embedding_and_leave_the_others_alone() -> None:
    encoder = VirtualNodeEncoder(2, 5)
    h = torch.full((4, 5), torch.nan)
    h[1] = 7.0
    found = encoder(h, torch.tensor([1, 0, 2, 1]))
    assert_close(found, torch.stack([encoder.embedding.weight[i] if i >= 0 else h[1] for i in (0, -1, 1, 0)]))


@pytest.mark.parametrize("has_types", [True, False])
def test_edges_at_virtual_nodes_have_the_mean_of_their_ends_vectors(has_types: bool) -> None:
    encoder = VirtualEdgeEncoder(2, 5)
    virtual = torch.tensor([0, 1, 2, 0, 2])
    src, dst = edge_index = torch.cartesian_prod(torch.arange(5), torch.arange(5)).T
    rows = torch.randn(3, 5, requires_grad=True)
    edge_type = (src + dst) % 3
    found = (
        encoder(rows, virtual, edge_index, edge_type) if has_types else encoder(rows[edge_type], virtual, edge_index)
    )
    vectors, expected = encoder.embedding.weight, []
    for edge, ends in enumerate(zip(virtual[src].tolist(), virtual[dst].tolist(), strict=True)):
        of_ends = [vectors[number - 1] for number in ends if number]
        expected.append(torch.stack(of_ends).mean(0) if of_ends else rows[edge_type[edge]])
    assert_close(found, torch.stack(expected))
    slope = torch.linspace(0.5, 2, found.numel()).view_as(found)
    wanted = [rows, vectors]
    assert_close(*(torch.autograd.grad((each * slope).sum(), wanted) for each in (found, torch.stack(expected))))
