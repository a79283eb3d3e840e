"""First features of edges: a sum of what is known of each, the same by types or edge by edge."""

import pytest
import torch
from torch.testing import assert_close

from graphattn.inputs import GraphCollate, parse_edges
from graphattn.models.config import GraphModelConfig
from graphattn.models.edge_encoder import EdgeEncoder, feature_encoder
from graphattn.nn import CategoryEncoder, NumberEncoder
from tests.inputs.molecules import molecule

COLLATE = GraphCollate(parse_edges("bonds | full | virtual(1)"), max_hops=2)
RECORDS = [molecule(11, 1), molecule(1, 2), molecule(7, 3)]


def encoder_of(**options: object) -> EdgeEncoder:
    torch.manual_seed(0)
    given = {"edge_dim": 5, "kinds": COLLATE.kinds, "max_hops": COLLATE.max_hops} | options
    return EdgeEncoder(GraphModelConfig.from_dict(given))


def test_an_edge_is_the_sum_of_its_bond_distance_and_kinds() -> None:
    encoder, batch = encoder_of(), COLLATE(RECORDS).without_types()
    assert batch.edge_attr is not None and batch.bond is not None and batch.distance is not None
    expected = encoder.kind(batch.graph.edge_kind, batch.graph.kinds) + encoder.distance(batch.distance)
    is_bond = batch.bond >= 0
    expected[is_bond] += encoder.bond(batch.edge_attr)[batch.bond[is_bond]]
    assert 0 < int(is_bond.sum()) < is_bond.numel()
    assert_close(encoder(batch), expected)


def test_rows_of_types_are_those_of_their_edges() -> None:
    encoder, batch = encoder_of(), COLLATE(RECORDS)
    assert batch.edge_type is not None and batch.type_edge is not None
    rows = encoder(batch)
    assert rows.shape == (batch.type_edge.numel(), 5)
    assert_close(rows[batch.edge_type], encoder(batch.without_types()))


def test_what_the_configuration_leaves_out_is_not_read() -> None:
    encoder = encoder_of(bond_dims=0, max_hops=0)
    batch = GraphCollate(COLLATE.edges, edge_features=False)(RECORDS)
    assert_close(encoder(batch), encoder.kind(batch.graph.edge_kind, batch.graph.kinds))


@pytest.mark.parametrize(
    "inputs, advice",
    [
        ({"max_hops": 0}, "Set max_hops of GraphCollate"),
        ({"edge_features": False}, "Set edge_features of GraphCollate"),
    ],
)
def test_what_the_batch_lacks_is_missed_by_name(inputs: dict, advice: str) -> None:
    with pytest.raises(ValueError, match=advice):
        encoder_of()(GraphCollate(COLLATE.edges, **({"max_hops": 2} | inputs))(RECORDS))


def test_features_are_categories_or_numbers() -> None:
    assert isinstance(feature_encoder((3, 2), 5), CategoryEncoder)
    assert isinstance(feature_encoder(3, 5), NumberEncoder)
