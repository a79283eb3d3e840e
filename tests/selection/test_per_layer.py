"""A spec for each layer, and as many as there are layers."""

import pytest

from graphattn.selection import PerLayer, Ramp, SubsampleSources, spec_of_each_layer

HALF, ALL = SubsampleSources(keep_p=0.5), SubsampleSources(keep_p=1.0)


def test_it_spreads_out_and_anything_else_is_in_every_layer() -> None:
    assert spec_of_each_layer(PerLayer(None, HALF), 2) == (None, HALF)
    assert spec_of_each_layer(HALF, 3) == (HALF, HALF, HALF)
    assert spec_of_each_layer(None, 2) == (None, None)


def test_equal_ones_are_equal() -> None:
    ramp = Ramp(HALF, ALL, num_steps=3)
    assert PerLayer(HALF, ramp) == PerLayer(HALF, ramp) != PerLayer(ramp, HALF)
    assert hash(PerLayer(HALF)) == hash(PerLayer(HALF)) and PerLayer(HALF) != HALF


def test_a_wrong_number_and_what_is_no_spec_are_refused() -> None:
    with pytest.raises(ValueError, match="one spec for each of the 3 layers, got 2"):
        PerLayer(HALF, HALF).of(3)
    with pytest.raises(ValueError, match="needs a spec for each layer, got none"):
        PerLayer()
    for wrong in (0.5, SubsampleSources, PerLayer(HALF)):
        with pytest.raises(TypeError, match="PerLayer takes specs"):
            PerLayer(wrong)
