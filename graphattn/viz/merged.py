"""All layers of pathways as one: an edge from every input to every output, so that any picture can show them."""

from __future__ import annotations

import torch

from graphattn.viz.attribution import Attribution
from graphattn.viz.pathways import Pathways, check_pathways


def merged(pathways: Pathways, attribution: Attribution | None = None) -> Pathways:
    """Returns pathways of inputs and outputs only, whose edges are the numbers of an attribution that are not zero.

    Args:
        pathways: of any number of layers.
        attribution: what they were asked, such as `pathways.max_flow([0])`; None asks for `pathways.rollout()`.

    Returns:
        Pathways of one layer: the ranks of the inputs in their order, memories among them, then those of the outputs.

    Raises:
        TypeError, ValueError: if `pathways` are none, or the attribution is of others; and what `rollout` raises.

    >>> number = torch.arange(3)
    >>> chain = Pathways(torch.tensor([[0, 1], [1, 2]]), torch.tensor([0.5, 0.25], dtype=torch.float64),
    ...                  *torch.zeros(3, 2).long(), number, *torch.zeros(2, 3).long(), None, "by hand", 1.0)
    >>> found = merged(chain)
    >>> found.num_ranks, found.edge_index.tolist(), found.weight.tolist()
    (2, [[0], [1]], [0.125])
    """
    check_pathways(pathways)
    found = pathways.rollout() if attribution is None else attribution
    nodes = torch.cat([found.inputs, found.outputs])
    if nodes.numel() and int(nodes.max()) >= pathways.num_nodes:
        raise ValueError(
            f"attribution must be of these pathways, which have {pathways.num_nodes} nodes, got node "
            f"{int(nodes.max())}. Pass what their own rollout() or max_flow() returned."
        )
    num_inputs = found.inputs.numel()
    # those that they stand in, counted anew
    first, input_rank = torch.unique(pathways.rank[found.inputs], return_inverse=True)
    output_rank = first.numel() + torch.unique(pathways.rank[found.outputs], return_inverse=True)[1]
    output, input_ = found.weight.nonzero(as_tuple=True)
    num_edges = output.numel()
    return Pathways(
        edge_index=torch.stack([input_, num_inputs + output]),
        weight=found.weight[output, input_].double(),
        head=torch.full((num_edges,), -1),
        layer=torch.zeros(num_edges, dtype=torch.int64),
        edge_kind=torch.zeros(num_edges, dtype=torch.int64),
        rank=torch.cat([input_rank, output_rank]),
        element=pathways.element[nodes],
        node_kind=pathways.node_kind[nodes],
        labels=pathways.labels,
        method=found.method,
        kept=pathways.kept,
        threshold=pathways.threshold,
    )
