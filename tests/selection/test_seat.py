"""When a seat draws, and that its draws repeat."""

import copy
import dataclasses
import itertools
import pickle

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

from graphattn import viz
from graphattn.connectivity import full, sliding_window
from graphattn.graph import AttentionGraph
from graphattn.nn import EdgeTerms, GraphAttention
from graphattn.selection import DrawingSeat, SubsampleLocal, SubsampleSources, seat

NUM_NODES, EMBED_DIM, NUM_HEADS = 11, 15, 3
SPECS = {"sources": SubsampleSources(num_sources=5), "local": SubsampleLocal(window_size=3, sigma=2.0)}
X = torch.randn(NUM_NODES, EMBED_DIM, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def drawn_by(module: DrawingSeat, graph: AttentionGraph | None = None) -> AttentionGraph:
    return module(X, full(NUM_NODES) if graph is None else graph)[0]


@pytest.fixture(params=SPECS)
def module(request: pytest.FixtureRequest) -> DrawingSeat:
    torch.manual_seed(0)
    return SPECS[request.param].build(EMBED_DIM, NUM_HEADS)


def test_it_draws_in_training_and_hands_the_graph_on_in_evaluation(module: DrawingSeat) -> None:
    graph = full(NUM_NODES)
    selected, bias = module(X, graph)
    assert selected.num_edges < graph.num_edges and bias is None
    assert drawn_by(module.eval(), graph) is graph


@pytest.mark.parametrize("when, draws", [("always", (True, True)), ("never", (False, False))])
def test_a_spec_put_in_its_place_says_when_from_then_on(module: DrawingSeat, when: str, draws: tuple) -> None:
    module.spec = dataclasses.replace(module.spec, when=when)
    graph = full(NUM_NODES)
    assert tuple(drawn_by(module.train(mode), graph) is not graph for mode in (True, False)) == draws


def test_the_default_generator_of_torch_repeats_its_draws(module: DrawingSeat) -> None:
    torch.manual_seed(3)
    first = [drawn_by(module) for _ in range(5)]
    torch.manual_seed(3)
    assert [drawn_by(module) for _ in range(5)] == first
    assert all(one != other for one, other in itertools.pairwise(first))


def test_a_graph_that_is_not_drawn_from_leaves_the_default_generator_alone(module: DrawingSeat) -> None:
    state = torch.get_rng_state()
    drawn_by(module.eval())
    assert torch.equal(torch.get_rng_state(), state)


def test_processes_with_one_seed_draw_apart(module: DrawingSeat, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    for rank in range(4):
        monkeypatch.setattr(seat, "rank_of_process", lambda rank=rank: rank)
        torch.manual_seed(3)
        drawn.append(drawn_by(module))
    assert all(one != other for one, other in itertools.pairwise(drawn))


def test_it_owns_nothing_and_survives_copies(module: DrawingSeat) -> None:
    assert not list(module.parameters()) and not module.state_dict()
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        torch.manual_seed(3)
        expected = drawn_by(module)
        torch.manual_seed(3)
        assert drawn_by(other) == expected
    assert repr(module.spec) in repr(module)


def layer_of(select: object, **options: object) -> GraphAttention:
    torch.manual_seed(0)
    return GraphAttention(EMBED_DIM, NUM_HEADS, select=select, **options).double()  # type: ignore[arg-type]


@pytest.mark.parametrize("name", SPECS)
def test_a_layer_in_evaluation_is_the_layer_without_a_selection(name: str) -> None:
    layer, plain = layer_of(SPECS[name]), layer_of(None)
    assert layer.state_dict().keys() == plain.state_dict().keys()
    graph = full(NUM_NODES)
    assert not torch.equal(layer(X, graph), plain(X, graph))
    assert torch.equal(layer.eval()(X, graph), plain.eval()(X, graph))
    assert graph._plan is not None  # kept for the next call, which it is not if the graph is made anew


def test_layers_and_steps_draw_apart() -> None:
    first, second = layer_of(SPECS["sources"]), layer_of(SPECS["sources"])  # the same weights
    graph = full(NUM_NODES)
    outs = [layer(X, graph) for layer in (first, second, first, second)]
    assert not any(torch.equal(one, other) for one, other in itertools.pairwise(outs))


def test_a_recomputed_layer_draws_what_it_drew_before() -> None:
    layer, graph = layer_of(SubsampleSources(num_sources=2)), full(NUM_NODES)

    def gradient(recomputes: bool) -> Tensor:
        x = X.clone().requires_grad_()
        torch.manual_seed(5)
        out = checkpoint(layer, x, graph, use_reentrant=False) if recomputes else layer(x, graph)
        return torch.autograd.grad(out.square().sum(), x)[0]

    assert_close(gradient(True), gradient(False))


def test_edge_features_stay_with_their_edges() -> None:
    graph = sliding_window(NUM_NODES, 3)
    layer = layer_of(SPECS["sources"], edge=EdgeTerms(2, bias=True, gate=True))
    edge_attr = torch.randn(graph.num_edges, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.manual_seed(5)
    out = layer(X, graph, edge_attr=edge_attr)
    torch.manual_seed(5)
    drawn = drawn_by(layer.select, graph)
    layer.eval()
    assert_close(out, layer(X, drawn, edge_attr=edge_attr[graph.find(*drawn.edge_index)]))
    edge_type = torch.arange(graph.num_edges)
    whole = layer(X, graph, edge_attr=edge_attr)
    assert_close(layer(X, graph, edge_attr=edge_attr, edge_type=edge_type), whole)


def test_recorded_weights_are_those_of_the_drawn_graph() -> None:
    layer = layer_of(SPECS["sources"])
    with viz.record(layer) as recording:
        layer(X, full(NUM_NODES))
    assert recording.alphas()[0].shape == (NUM_NODES * 5, NUM_HEADS)


def test_a_compiled_layer_says_in_training_what_to_do_and_runs_in_evaluation() -> None:
    import torch._dynamo

    torch._dynamo.reset()
    layer, graph = layer_of(SPECS["sources"]), full(NUM_NODES)
    graph.plan()
    with pytest.raises(Exception, match=r"call spec\.draw before the region"):
        torch.compile(layer, backend="eager", fullgraph=True)(X, graph)
    layer.eval()
    torch._dynamo.reset()
    assert_close(torch.compile(layer, backend="eager", fullgraph=True)(X, graph), layer(X, graph))
    torch._dynamo.reset()


@pytest.mark.parametrize("when", ["train", "", None])
def test_when_must_be_known(when: object) -> None:
    with pytest.raises(ValueError, match=f"when must be one of 'training', 'always', 'never', got {when!r}. Use"):
        seat.check_when(when)
