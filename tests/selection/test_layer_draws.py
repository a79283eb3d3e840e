"""The draws of a model: of seed, step, layer and rank, and of nothing else."""

import copy

import pytest
import torch

from graphattn.connectivity import full
from graphattn.selection import LayerDraws, PerLayer, Ramp, SubsampleSources, generator_for, layer_draws

NUM_LAYERS = 3
HALF = SubsampleSources(keep_p=0.5)
GRAPH = full(12)


def made(spec: object = HALF, seed: int = 0) -> LayerDraws:
    torch.manual_seed(seed)
    return LayerDraws(spec, NUM_LAYERS)


def test_each_layer_and_step_draws_what_its_generator_says() -> None:
    draws = made()
    for step in range(3):
        expected = [HALF.draw(GRAPH, generator=generator_for(draws.seed, step=step, layer=n)) for n in range(3)]
        assert draws(GRAPH) == expected and draws.step == step
    assert len(set(map(str, (graph.edge_index.tolist() for graph in draws(GRAPH))))) == NUM_LAYERS


def test_a_named_step_is_drawn_again_and_moves_nothing() -> None:
    draws = made()
    steps = [draws(GRAPH) for _ in range(4)]
    state = torch.get_rng_state()
    assert draws(GRAPH, step=1) == steps[1] != steps[2] and draws.step == 3
    assert torch.equal(torch.get_rng_state(), state)


def test_processes_with_one_seed_draw_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    first = made()(GRAPH)
    monkeypatch.setattr(layer_draws, "rank_of_process", lambda: 1)
    assert all(one != other for one, other in zip(made()(GRAPH), first, strict=True))


def test_the_state_dict_takes_a_run_up_where_it_stood() -> None:
    draws = made()
    draws(GRAPH)
    other = made(seed=1)
    other.load_state_dict(copy.deepcopy(draws.state_dict()))
    assert [draws(GRAPH) for _ in range(3)] == [other(GRAPH) for _ in range(3)]
    assert not list(draws.parameters()) and not list(draws.buffers())


def test_layers_of_a_later_level_belong_to_the_same_step() -> None:
    draws = made()
    for step in range(2):
        graphs = draws(GRAPH, layers=range(2)) + draws(full(5), layers=[2])
        assert draws.step == step
        assert graphs[:2] == draws(GRAPH, step=step)[:2] and graphs[2] == draws(full(5), step=step)[2]


def test_layers_without_a_draw_get_the_graph_as_it_came() -> None:
    draws = made(PerLayer(None, HALF, HALF))
    first, second, third = draws(GRAPH)
    assert first is GRAPH and second != GRAPH and third != second
    assert "None" in repr(draws) and repr(made()).count("SubsampleSources") == 1


def test_a_ramp_follows_the_step_and_keeps_it_in_evaluation() -> None:
    spec = Ramp(SubsampleSources(num_sources=2, when="always"), SubsampleSources(num_sources=10, when="always"), 4)
    draws = made(spec)
    sizes = [draws(GRAPH)[0].num_edges // 12 for _ in range(6)]
    assert sizes == [2, 4, 6, 8, 10, 10]
    assert draws.eval()(GRAPH)[0].num_edges == 120 and draws.step == 5
    assert made(spec).eval()(GRAPH)[0].num_edges == 24  # before the first step


def test_evaluation_draws_only_where_it_is_told_to_and_from_the_default_generator() -> None:
    draws = made().eval()
    assert all(graph is GRAPH for graph in draws(GRAPH))
    draws.when = "always"
    torch.manual_seed(5)
    first, second = draws(GRAPH), draws(GRAPH)
    torch.manual_seed(5)
    assert draws(GRAPH) == first != second and draws.step == -1
    draws.train().when = "never"
    assert all(graph is GRAPH for graph in draws(GRAPH))


def test_its_numbers_are_on_the_cpu_whatever_the_default_device() -> None:
    with torch.device("meta"):
        draws = made()
        assert draws.get_extra_state().tolist() == [draws.seed, -1]


def test_what_is_no_spec_is_refused() -> None:
    with pytest.raises(TypeError, match=r"spec must select edges, got 0\.5"):
        LayerDraws(0.5, 2)
    with pytest.raises(ValueError, match="each of the 2 layers, got 1"):
        LayerDraws(PerLayer(HALF), 2)


def test_a_draw_inside_a_compiled_region_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    draws = made()
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    with pytest.raises(RuntimeError, match=r"a model whose layers draw draws .* call model\.connect before the region"):
        draws(GRAPH)
    assert draws.eval()(GRAPH) == [GRAPH] * 3
