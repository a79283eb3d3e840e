"""Attention flow: weights as capacities, and the most that can pass between an output and an input."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from graphattn.viz.attribution import Attribution
from graphattn.viz.ranks import check_unsigned

if TYPE_CHECKING:
    from scipy.sparse import csr_array

    from graphattn.viz.pathways import Pathways

LARGEST = 2**31 - 1  # a capacity of scipy's, which takes int32


def max_flow(pathways: Pathways, outputs: Tensor, inputs: Tensor) -> Attribution:
    r"""Takes every weight for a capacity and finds the largest flow between each output and each input.

    One exact problem per pair, solved by scipy (Dinic's algorithm) on what the output can reach and no more; an input
    out of reach has 0 without a problem. Capacities are integers there: weights are multiplied by the largest power of
    two for which all that enters a node still fits in 31 bits, and rounded. A flow then differs from the exact one by
    at most half a unit for every edge of the network, which `Attribution.rounding` states. Parallel edges add up.

    Args:
        pathways: weights of at least 0.
        outputs: int64 [num_outputs], nodes of any rank.
        inputs: int64 [num_inputs], nodes of any rank.

    Returns:
        Attribution; flows of one output overlap, so a row does not sum to one.

    Raises:
        ValueError: if a weight is negative, or an output is also an input.

    Source: Abnar and Zuidema 2020, sec. 3.

    >>> from graphattn.viz.pathways import Pathways
    >>> edges = torch.tensor([[0, 0, 1, 2], [1, 2, 3, 3]])
    >>> weight = torch.tensor([0.5, 0.25, 0.125, 0.5], dtype=torch.float64)
    >>> diamond = Pathways(edges, weight, *torch.zeros(3, 4).long(), torch.tensor([0, 1, 1, 2]),
    ...                    torch.tensor([0, 0, 1, 0]), torch.zeros(4).long(), None, "by hand", 1.0)
    >>> diamond.max_flow(0).weight
    tensor([[0.3750]], dtype=torch.float64)
    """
    from scipy.sparse import coo_array, csr_array
    from scipy.sparse.csgraph import breadth_first_order, maximum_flow

    check_unsigned(pathways, "max_flow")
    if bool(torch.isin(outputs, inputs).any()):
        node = int(outputs[torch.isin(outputs, inputs)][0])
        raise ValueError(
            f"an output must be no input, got node {node} as both. Flow goes between nodes of different ranks."
        )
    src, dst = pathways.edge_index.numpy()
    shape = pathways.num_nodes, pathways.num_nodes
    summed = coo_array((pathways.weight.numpy(), (dst, src)), shape).tocsr()  # from outputs downwards
    exponent = _exponent(summed)
    whole = np.rint(np.ldexp(summed.data, exponent)).astype(np.int32)
    capacity = csr_array((whole, summed.indices, summed.indptr), shape, copy=True)
    capacity.eliminate_zeros()  # in place
    flow, most_edges = np.zeros((len(outputs), len(inputs))), 0
    for row, output in enumerate(outputs.tolist()):
        part = breadth_first_order(capacity, output, return_predecessors=False)
        place = np.full(pathways.num_nodes, -1)
        place[part] = np.arange(part.size)  # the output comes first
        network = csr_array(capacity[part][:, part])
        most_edges = max(most_edges, int(summed[part].nnz))  # those whose capacity became 0 included
        for column, sink in enumerate(place[inputs.numpy()].tolist()):
            if sink >= 0:
                flow[row, column] = math.ldexp(int(maximum_flow(network, 0, sink).flow_value), -exponent)
    return Attribution(
        torch.from_numpy(flow),
        outputs,
        inputs,
        f"max-flow over {pathways.method}",
        pathways.kept,
        rounding=math.ldexp(most_edges, -exponent - 1),
    )


def _exponent(summed: csr_array) -> int:
    """Returns the exponent of the largest power of two by which all that enters a node may be multiplied."""
    # the half that each edge may be rounded up by fits in as well
    most = float(np.max(summed.sum(axis=1), initial=0.0))
    room = LARGEST - int(np.max(np.diff(summed.indptr), initial=0))
    return math.floor(math.log2(room) - math.log2(most)) if most > 0 else 0
