"""Dropout by sixteen bits: as often as asked, as large as it must be, the same again from the same seed."""

import math

import pytest
import torch

from graphattn.nn import FeatureDropout


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9, 1 / 3])
def test_drops_as_often_as_asked_and_keeps_the_expectation(p: float) -> None:
    torch.manual_seed(0)
    n = 1_000_003
    out = FeatureDropout(p)(torch.ones(n, dtype=torch.float64))
    rounded = round(p * 65536) / 65536
    spread = math.sqrt(rounded * (1 - rounded) / n)
    assert abs(float((out == 0).double().mean()) - rounded) < 5 * spread
    torch.testing.assert_close(out[out != 0].unique(), torch.tensor([1 / (1 - rounded)], dtype=torch.float64))
    kept = (out != 0).double() - (1 - rounded)
    for lag in (1, 2, 3, 4, 64):  # numbers of one draw, and of neighbouring ones, know nothing of each other
        assert abs(float((kept[lag:] * kept[:-lag]).mean())) < 5 * rounded * (1 - rounded) / math.sqrt(n)


def test_the_gradient_goes_where_the_output_came_from() -> None:
    x = torch.randn(7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    out = FeatureDropout(0.5)(x)
    (grad,) = torch.autograd.grad(out.sum(), x)
    torch.testing.assert_close(grad, (out / x).detach())
    torch.manual_seed(3)
    first = FeatureDropout(0.5)(x)
    torch.manual_seed(3)
    assert torch.equal(first, FeatureDropout(0.5)(x))
    assert not torch.equal(first, FeatureDropout(0.5)(x))


def test_strided_empty_and_narrow_inputs() -> None:
    x = torch.ones(6, 10)[:, ::3]
    assert FeatureDropout(0.5)(x).shape == (6, 4)
    assert FeatureDropout(0.5)(torch.empty(0, 4)).shape == (0, 4)
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        assert FeatureDropout(0.5)(torch.ones(5, dtype=dtype)).dtype == dtype


def test_nothing_happens_in_evaluation_and_without_dropout_and_all_is_dropped_at_one() -> None:
    x = torch.randn(11, generator=torch.Generator().manual_seed(0))
    assert torch.equal(FeatureDropout(0.5).eval()(x), x)
    assert torch.equal(FeatureDropout(0.0)(x), x)
    assert torch.equal(FeatureDropout(1.0)(x), torch.zeros(11))
    with pytest.raises(ValueError, match="between 0 and 1"):
        FeatureDropout(1.5)


@pytest.mark.slow
def test_compiles_without_a_break() -> None:
    compiled = torch.compile(FeatureDropout(0.5), fullgraph=True)
    assert set(compiled(torch.ones(1000)).tolist()) == {0.0, 2.0}
