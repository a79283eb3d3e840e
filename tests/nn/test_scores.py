import dataclasses

import pytest
import torch
from torch.testing import assert_close

from graphattn.nn import DotProduct


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("num_key_heads", [3, 1])
def test_query_and_key_are_projections_split_into_heads(num_key_heads: int, bias: bool) -> None:
    torch.manual_seed(0)
    score = DotProduct().build(15, 3, num_key_heads=num_key_heads, source_dim=7, bias=bias)
    x, source = torch.randn(11, 15), torch.randn(13, 7)
    query, key = score(x, source)
    assert query.shape == (11, 3, 5) and key.shape == (13, num_key_heads, 5)
    weights = dict(score.named_parameters())
    zero = torch.zeros(())
    wide_query = x @ weights["query_proj.weight"].T + weights.get("query_proj.bias", zero)
    wide_key = source @ weights["key_proj.weight"].T + weights.get("key_proj.bias", zero)
    for head in range(3):
        assert_close(query[:, head], wide_query[:, 5 * head : 5 * (head + 1)])
    for head in range(num_key_heads):
        assert_close(key[:, head], wide_key[:, 5 * head : 5 * (head + 1)])
    assert ("query_proj.bias" in weights) == ("key_proj.bias" in weights) == bias


def test_the_spec_is_frozen_and_builds_a_module_of_its_own_each_time() -> None:
    spec = DotProduct()
    assert spec == DotProduct() and hash(spec) == hash(DotProduct())
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.anything = 1  # type: ignore[attr-defined]
    first, second = (spec.build(15, 3, num_key_heads=3, source_dim=15, bias=True) for _ in range(2))
    assert not {id(p) for p in first.parameters()} & {id(p) for p in second.parameters()}
