"""What all models of graphs do alike: first features of nodes, draws of layers, sums over the nodes of a graph."""

import pytest
import torch
from torch.testing import assert_close

from graphattn.inputs import GraphCollate, parse_edges
from graphattn.models.config import GraphModelConfig
from graphattn.models.graph_model import GraphModel, reduce_nodes
from tests.inputs.molecules import molecule

COLLATE = GraphCollate(parse_edges("bonds | virtual(2)"), max_hops=2, num_walks=3, num_eigenvectors=1, num_singular=2)
RECORDS = [molecule(11, 1), molecule(1, 2), molecule(7, 3)]


def model_of(**options: object) -> GraphModel:
    torch.manual_seed(0)
    provided = {"kinds": COLLATE.kinds, "max_hops": 2, "num_walks": 3, "num_eigenvectors": 1, "num_singular": 2}
    return GraphModel(GraphModelConfig.from_dict({**provided, "num_virtual": 2, "embed_dim": 12} | options)).eval()


def test_nodes_start_from_features_and_positions_and_virtual_ones_from_their_own() -> None:
    model, batch = model_of(), COLLATE(RECORDS)
    h = model.embed(batch)
    assert batch.positions is not None
    expected = model.node_encoder(batch.x) + model.position_encoder.proj(batch.positions)
    assert_close(h[batch.node], expected[batch.node])
    assert_close(h[batch.virtual == 2], model.virtual_encoder.embedding.weight[1:].expand(3, -1))


def test_layers_without_a_selection_read_the_graph_itself() -> None:
    graph = COLLATE(RECORDS).graph
    assert all(each is graph for each in model_of(num_layers=3).connect(graph))
    assert len(model_of(num_layers=3).connect(graph, layers=[1, 2])) == 2


def test_layers_with_one_draw_in_training_and_the_same_at_the_same_step() -> None:
    model, graph = model_of(num_layers=3, select="SubsampleSources(num_sources=4)").train(), COLLATE(RECORDS).graph
    first, again = model.connect(graph, step=5), model.connect(graph, step=5)
    assert first == again and first != model.connect(graph, step=6)
    assert len({hash(tuple(each.edge_index[0].unique().tolist())) for each in first}) > 1
    assert all(each is graph for each in model.eval().connect(graph))


def test_a_batch_that_lacks_something_is_refused() -> None:
    with pytest.raises(ValueError, match="has 1 virtual nodes per graph, the batch 2"):
        model_of(num_virtual=1).embed(COLLATE(RECORDS))
    with pytest.raises(ValueError, match="reads positions, the batch has none"):
        model_of().embed(GraphCollate(COLLATE.edges)(RECORDS))


def test_the_head_maps_any_width_to_the_tasks() -> None:
    model = model_of(num_tasks=3)
    assert model.head_of(24)(torch.zeros(5, 24)).shape == (5, 3)
    assert f"{model.num_parameters():,} parameters: 4 layers × 4 heads" in repr(model)


@pytest.mark.parametrize("how", ["sum", "mean", "max"])
def test_a_graph_without_a_node_to_read_has_zeros(how: str) -> None:
    h = torch.randn(7, 5, generator=torch.Generator().manual_seed(0)).double().requires_grad_()
    is_read = torch.tensor([True, False, True, False, True, True, False])
    of_graph = torch.tensor([0, 0, 0, 1, 3, 3, 3])
    found = reduce_nodes(h, is_read, of_graph, 4, how)
    reduce = {"sum": lambda x: x.sum(0), "mean": lambda x: x.mean(0), "max": lambda x: x.amax(0)}[how]
    expected = torch.stack([reduce(h[[0, 2]]), torch.zeros(5), torch.zeros(5), reduce(h[[4, 5]])])
    assert_close(found, expected)
    assert_close(*(torch.autograd.grad(each.square().sum(), h)[0] for each in (found, expected)))
