"""Rules answer element by element; that graphs filter by them is tested with the algebra."""

import pytest
import torch
from torch import Tensor

from graphattn.graph.rules import is_causal, same_document, within

SRC, DST = torch.meshgrid(torch.arange(7), torch.arange(5), indexing="ij")


def listed(answer: Tensor) -> list[bool]:
    return answer.flatten().tolist()


def test_is_causal_allows_the_target_itself_and_what_came_before() -> None:
    assert listed(is_causal(SRC, DST)) == [j <= i for j in range(7) for i in range(5)]


@pytest.mark.parametrize("distance", [0, 1, 3, 10])
def test_within_measures_on_both_sides(distance: int) -> None:
    assert listed(within(distance)(SRC, DST)) == [abs(i - j) <= distance for j in range(7) for i in range(5)]


def test_same_document_compares_the_documents_of_both_ends() -> None:
    doc = [3, 3, 1, 1, 1, 0, 3]
    assert listed(same_document(torch.tensor(doc))(SRC, DST)) == [doc[i] == doc[j] for j in range(7) for i in range(5)]


def test_a_wrong_parameter_is_answered_with_what_to_pass() -> None:
    with pytest.raises(ValueError, match=r"distance must be at least 0, got -1. Use 0 to keep only self edges"):
        within(-1)
    with pytest.raises(ValueError, match=r"doc must have shape \[num_nodes\], got \[2, 2\]. Pass one document number"):
        same_document(torch.zeros(2, 2))
