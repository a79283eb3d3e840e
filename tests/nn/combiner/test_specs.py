"""Specs: frozen, named by what they are, and the pairs that they stand for."""

import dataclasses

import pytest
import torch

from graphattn import connectivity
from graphattn.nn import combiner

SPECS = {
    "fixed": (combiner.Fixed(3), lambda n, **o: connectivity.combiner.fixed(n, 3, **o)),
    "log_sparse": (combiner.LogSparse(), connectivity.combiner.log_sparse),
    "vertical": (combiner.AxialVertical(4), lambda n, **o: connectivity.combiner.axial_vertical(n, 4, **o)),
    "horizontal": (combiner.AxialHorizontal(4), lambda n, **o: connectivity.combiner.axial_horizontal(n, 4, **o)),
    "split": (
        combiner.AxialHorizontal(4, split=True),
        lambda n, **o: connectivity.combiner.axial_horizontal(n, 4, split=True, **o),
    ),
    "rowmajor": (combiner.AxialRowmajor(4), lambda n, **o: connectivity.combiner.axial_rowmajor(n, 4, **o)),
}


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("causal", [True, False])
def test_a_spec_stands_for_the_pair_of_its_builder(name: str, causal: bool) -> None:
    spec, build = SPECS[name]
    sizes = torch.tensor([11, 0, 2])
    graph = connectivity.full(sizes)
    (pair,) = spec.pairs(graph.keep(lambda src, dst: src <= dst) if causal else graph)
    wanted = build(sizes, causal=causal)
    assert pair.summarise == wanted.summarise and pair.attend == wanted.attend


def test_a_mixture_stands_for_two() -> None:
    pairs = combiner.Mixture(4).pairs(connectivity.full(11))
    wanted = connectivity.combiner.mixture(11, 4, causal=False)
    assert [pair.attend for pair in pairs] == [pair.attend for pair in wanted]


def test_specs_are_frozen_and_share_no_parameter() -> None:
    spec = combiner.Fixed(segment=64, summary="learned")
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.segment = 3  # type: ignore[misc]
    seats = [spec.build(8, 2) for _ in range(2)]
    assert sum(parameter.numel() for parameter in seats[0].parameters()) == 2 * (2 * 2 * 4 * 4 + 2 * 4)
    assert not {id(p) for p in seats[0].parameters()} & {id(p) for p in seats[1].parameters()}
    assert not list(combiner.Fixed().build(8, 2).parameters())
    assert combiner.Fixed().segment == 128 and combiner.Fixed().summary == "max" and not combiner.Fixed().log_size
