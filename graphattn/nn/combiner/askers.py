"""Which tokens ask for abstractions, read off a pair once."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from graphattn.connectivity.combiner import Pair


class Askers(NamedTuple):
    """The token whose query each abstraction asks with."""

    token: Tensor | None  # int64 [num_abstractions], 0 where none asks; None where they are the first tokens in order
    ask: Tensor | None  # bool [num_abstractions, 1, 1], whether a token asks; None where none ever does
    are_all: bool  # whether a token asks for every abstraction
    num_abstractions: int

    def queries(self, query: Tensor) -> Tensor:
        """Returns the rows of the tokens that ask, [num_abstractions, num_heads, head_dim]."""
        return query[: self.num_abstractions] if self.token is None else query.index_select(0, self.token)


def askers_of(pair: Pair) -> Askers:
    """Reads the askers of a pair, once a pair.

    >>> from graphattn.connectivity.combiner import axial_rowmajor, fixed
    >>> askers_of(axial_rowmajor(6, width=3, causal=True)).are_all, askers_of(fixed(4, segment=2, causal=True)).are_all
    (True, False)
    """
    notes = pair.summarise.notes
    token, askers = notes.get("askers", (None, None))
    if askers is None or token is not pair.asker:  # pairs may share a graph
        with torch.inference_mode(False):  # kept, so they must serve training as well
            askers = _read(pair)
        notes["askers"] = pair.asker, askers
    return askers


def _read(pair: Pair) -> Askers:
    if pair.asker is None:
        return Askers(None, None, False, pair.num_abstractions)
    ask, token = pair.asker >= 0, pair.asker.clamp(min=0)
    are_first = torch.equal(pair.asker, torch.arange(token.numel(), device=token.device))
    return Askers(None if are_first else token, ask[:, None, None], bool(ask.all()), token.numel())
