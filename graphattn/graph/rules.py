"""Rules that filter edges: `graph.keep(rule)` with `rule(src, dst) -> bool`, element by element.

A rule sees global node ids: in a batch of square graphs `is_causal` and `within` mean the same as in each graph alone.
The `__name__` of a rule is how the origin of a graph writes it: `window(64).keep(within(3))`.
"""

from collections.abc import Callable

from torch import Tensor

Rule = Callable[[Tensor, Tensor], Tensor]


def is_causal(src: Tensor, dst: Tensor) -> Tensor:
    """Keeps edges that look at the target itself or at an earlier node (src <= dst).

    In cross attention both sides count from their first node. Targets that are the last of a longer sequence, as while
    decoding with a cache, read by `connectivity.prefix_lm(num_sources, 0, dst_sizes=num_targets)`.

    >>> import torch
    >>> is_causal(torch.tensor([0, 2]), torch.tensor([1, 1]))
    tensor([ True, False])
    """
    return src <= dst


def within(distance: int) -> Rule:
    """Returns a rule that keeps edges of at most `distance` positions, |src - dst| <= distance.

    Raises:
        ValueError: if `distance` is negative.

    >>> import torch
    >>> within(1)(torch.tensor([0, 3]), torch.tensor([1, 1]))
    tensor([ True, False])
    """
    if distance < 0:
        raise ValueError(f"distance must be at least 0, got {distance}. Use 0 to keep only self edges.")

    def is_within(src: Tensor, dst: Tensor) -> Tensor:
        return (src - dst).abs() <= distance

    is_within.__name__ = f"within({distance})"
    return is_within


def same_document(doc: Tensor) -> Rule:
    """Returns a rule that keeps edges whose two ends carry the same document number.

    Args:
        doc: int [num_nodes], the document of each node of a square graph (packed sequences).

    >>> import torch
    >>> same_document(torch.tensor([0, 0, 1]))(torch.tensor([0, 0]), torch.tensor([1, 2]))
    tensor([ True, False])
    """
    if doc.dim() != 1:
        raise ValueError(f"doc must have shape [num_nodes], got {list(doc.shape)}. Pass one document number per node.")

    def is_same_document(src: Tensor, dst: Tensor) -> Tensor:
        return doc[src] == doc[dst]

    is_same_document.__name__ = f"same_document({doc.numel()} nodes)"
    return is_same_document
