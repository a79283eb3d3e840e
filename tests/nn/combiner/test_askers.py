"""Who asks: the queries of abstractions are those of the tokens that a pair names."""

from dataclasses import replace

import pytest
import torch

from graphattn.connectivity.combiner import Pair, axial_rowmajor, fixed
from graphattn.nn.combiner.askers import askers_of

PADDED = torch.tensor([True] * 4 + [False] * 2 + [True] * 6)
PAIRS: dict[str, tuple[Pair, bool]] = {
    "the first tokens in order": (axial_rowmajor(12, width=3, causal=True), True),
    "all tokens": (axial_rowmajor(12, width=3, causal=False), True),
    "two sequences": (axial_rowmajor(torch.tensor([7, 5]), width=3, causal=True), True),
    "an unfinished row": (axial_rowmajor(11, width=4, causal=False), False),
    "padding": (axial_rowmajor(12, width=3, causal=False, member=PADDED), False),
    "none": (fixed(12, segment=3, causal=True), False),
}


@pytest.mark.parametrize("name", PAIRS)
def test_queries_are_those_of_the_tokens_that_ask(name: str) -> None:
    pair, are_all = PAIRS[name]
    askers, query = askers_of(pair), torch.randn(pair.summarise.num_src_nodes, 2, 3)
    assert askers.are_all == are_all
    if pair.asker is None:
        assert askers.ask is None
        return
    asks = pair.asker >= 0
    assert torch.equal(askers.ask[:, 0, 0], asks)
    assert torch.equal(askers.queries(query)[asks], query[pair.asker[asks]])
    assert askers_of(pair) is askers


def test_the_first_tokens_in_order_are_not_copied() -> None:
    query = torch.randn(12, 2, 3)
    assert askers_of(PAIRS["the first tokens in order"][0]).queries(query).data_ptr() == query.data_ptr()
    two = askers_of(PAIRS["two sequences"][0])
    assert two.token is not None


def test_what_is_read_in_inference_mode_serves_training() -> None:
    pair = axial_rowmajor(torch.tensor([7, 5]), width=3, causal=True)
    with torch.inference_mode():
        token = askers_of(pair).token
    assert not token.is_inference()


def test_pairs_that_share_a_graph_have_their_own_askers() -> None:
    pair = axial_rowmajor(12, width=3, causal=True)
    assert askers_of(pair).are_all and not askers_of(replace(pair, asker=None)).are_all and askers_of(pair).are_all
