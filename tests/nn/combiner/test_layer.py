"""The plain name is the layer with that seat."""

import torch

from graphattn.connectivity import full
from graphattn.nn import CombinerAttention, GraphAttention, combiner


def test_it_is_a_layer_with_that_seat() -> None:
    made = []
    for build in (
        lambda: CombinerAttention(12, 3, combiner.LogSparse(), dropout_p=0.25, impl="scatter"),
        lambda: GraphAttention(12, 3, connect=combiner.LogSparse(), dropout_p=0.25, impl="scatter"),
    ):
        torch.manual_seed(0)
        made.append(build())
    x, graph = torch.randn(17, 12), full(17)
    outs = []
    for layer in made:
        torch.manual_seed(1)
        outs.append(layer(x, graph))
    assert torch.equal(*outs)
    assert made[0].state_dict().keys() == made[1].state_dict().keys()
    assert isinstance(CombinerAttention(12, 3).connect.spec, combiner.Fixed)
