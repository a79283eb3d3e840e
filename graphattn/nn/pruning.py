"""Pruning: a model without the heads that its gates close, smaller in memory and on disk."""

import copy
from collections.abc import Sequence
from typing import TypeVar

from torch import Tensor, nn

from graphattn.nn.attention import GraphAttention
from graphattn.nn.head_gates import HeadGate

Model = TypeVar("Model", bound=nn.Module)


def prune(model: Model, kept: Sequence[Sequence[int] | Tensor]) -> Model:
    """Copies a model and drops heads from the copy, with what is projected for them and what reads them.

    In evaluation the output is that of the model with a head_gate of ones and zeros. A layer may lose all heads: it
    adds the bias of its output projection, and nothing attends. Pruning twice counts heads among those that are left.

    Args:
        model: with `GraphAttention` layers; it stays as it is. A `HeadGate` that it owns is None in the copy, for
            there is nothing left to gate.
        kept: for each of these layers, in the order of `model.modules()`, the heads that stay: `gate.kept()`.

    Returns:
        the smaller model. A model whose layers were made with `num_heads=len(kept[layer])` and the `head_dim` of before
        takes its state_dict.

    Raises:
        ValueError: if there are no such layers, or not as many as lists; and for numbers that are no heads, naming the
            layer.

    >>> import graphattn as ga
    >>> model = nn.ModuleList(GraphAttention(embed_dim=8, num_heads=4) for _ in range(2))
    >>> [layer.num_heads for layer in prune(model, [[0, 2, 3], []])]
    [3, 0]
    """
    model = copy.deepcopy(model)
    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, GraphAttention)]
    if not layers:
        raise ValueError(
            f"model must have layers of GraphAttention, got {type(model).__name__} with none. These have heads that "
            "can be dropped."
        )
    if len(kept) != len(layers):
        names = ", ".join(repr(name) for name, _ in layers)
        raise ValueError(
            f"kept must have a list of heads for each of {len(layers)} layers, got {len(kept)}. They are {names}; an "
            "empty list drops all heads of a layer."
        )
    for (name, layer), heads in zip(layers, kept, strict=True):
        try:
            layer.keep_heads_(heads)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{name or 'the layer'}: {error}") from None
    for module in model.modules():
        for name, child in module.named_children():
            if isinstance(child, HeadGate):
                setattr(module, name, None)
    return model
