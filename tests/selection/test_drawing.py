"""One switch for all draws of a model."""

import pytest
import torch
from torch import nn

from graphattn.connectivity import full
from graphattn.nn import GraphAttention
from graphattn.selection import LayerDraws, PerLayer, SubsampleSources, drawing, has_draws, set_drawing

HALF = SubsampleSources(keep_p=0.5)


def test_it_reaches_seats_and_the_draws_of_models_and_lets_go_again() -> None:
    model = nn.ModuleList([GraphAttention(8, 2, select=HALF), LayerDraws(HALF, 1)])
    graph, x = full(6), torch.zeros(6, 8)

    def is_drawn() -> list[bool]:
        seat = model[0].select
        assert seat is not None
        return [seat(x, graph)[0] is not graph, model[1](graph)[0] is not graph]

    assert has_draws(model)
    by_spec = (None, True, False)
    for when, in_training, in_evaluation in (by_spec, ("never", False, False), ("always", True, True), by_spec):
        set_drawing(model, when)
        assert is_drawn() == [in_training] * 2
        model.eval()
        assert is_drawn() == [in_evaluation] * 2
        model.train()


def test_for_a_while_it_draws_otherwise_and_then_as_before() -> None:
    model = nn.ModuleList([GraphAttention(8, 2, select=HALF), LayerDraws(HALF, 1)])
    set_drawing(model, "never")
    with pytest.raises(KeyError), drawing(model, "always"):
        assert model[1].when == "always"
        raise KeyError
    assert model[1].when == "never" == model[0].select.when


def test_a_model_that_draws_nothing_is_refused() -> None:
    for model in (GraphAttention(8, 2), LayerDraws(PerLayer(None), 1)):
        assert not has_draws(model)
        with pytest.raises(ValueError, match=f"{type(model).__name__} draws no graph"):
            set_drawing(model, "always")
    with pytest.raises(ValueError, match="when must be one of"):
        set_drawing(GraphAttention(8, 2, select=HALF), "sometimes")
