"""Hard top-k: the k best of each graph and nothing of the others."""

import torch
from torch import Tensor

from graphattn.graph import node_ptr, ragged_range
from graphattn.ops.assignment import Assignment, Entrants, best_first, entrants


def hard_topk(
    x: Tensor, scores: Tensor, k: int | Tensor, *, ptr: Tensor | None = None, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Keeps the rows of x with the k best scores; the gradient reaches these rows, and no score.

    Args:
        x: [num_nodes, dim].
        scores: [num_nodes], in (0, 1] as those of `successive_halving_topk`, so that one takes the place of the other.
        k, ptr, mask: as there.

    Returns:
        pooled: [num_kept, dim], x[kept].
        kept: int64 [num_kept], ascending. Of equal scores the earlier wins.

    Raises:
        TypeError, ValueError: as `successive_halving_topk`.

    >>> hard_topk(torch.arange(4.0)[:, None], torch.tensor([0.1, 0.9, 0.2, 0.8]), k=2)
    (tensor([[1.],
            [3.]]), tensor([1, 3]))
    """
    assignment = hard_topk_assignment(scores, k, ptr=ptr, mask=mask)
    return assignment.pool(x), assignment.kept


def hard_topk_assignment(
    scores: Tensor, k: int | Tensor, *, ptr: Tensor | None = None, mask: Tensor | None = None
) -> Assignment:
    """Returns the pooling graph of `hard_topk`: one edge of weight one into each pooled element.

    >>> hard_topk_assignment(torch.tensor([0.1, 0.9, 0.2, 0.8]), k=2).graph.edge_index.tolist()
    [[1, 3], [0, 1]]
    """
    of = entrants(scores, k, ptr, mask)
    kept = of.node_of(best_of(of))
    graph = of.graph_of(
        torch.stack([kept, torch.arange(kept.numel(), device=kept.device)]), f"hard_topk({scores.numel()} nodes)"
    )
    return Assignment(graph, torch.ones_like(of.scores[:1]).expand(kept.numel()), kept, is_selection=True)


def best_of(of: Entrants) -> Tensor:
    """Returns the entrants with the best scores of each graph, int64 [num_kept], ascending."""
    order = best_first(of.scores, torch.repeat_interleave(of.sizes), of.sizes.numel())
    graph, place = ragged_range(of.num_kept)
    return order[node_ptr(of.sizes)[graph] + place].sort().values
