"""The result of rollout and of max-flow: its numbers, and what they say of themselves."""

import torch

from tests.layered import by_hand


def test_it_says_its_method_and_what_was_kept_and_names_its_nodes() -> None:
    pathways = by_hand([0, 0, 1], [(0, 2, 0.75), (1, 2, 0.25)], kept=0.625)
    for found, method, rounding in (
        (pathways.rollout(), "rollout of by hand", 0.0),
        (pathways.max_flow(0), "max-flow over by hand", 1 / 2**30),
    ):
        assert found.method == method
        assert found.kept == 0.625
        assert found.rounding == rounding
        assert repr(found) == f"Attribution(1 outputs × 2 inputs; {method})"
        torch.testing.assert_close(found.inputs, torch.tensor([0, 1]))
        torch.testing.assert_close(found.outputs, torch.tensor([2]))
        torch.testing.assert_close(found.weight, torch.tensor([[0.75, 0.25]], dtype=torch.float64))
