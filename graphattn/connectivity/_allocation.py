"""A limit on the size of every tensor that a block of code makes, known before the tensor is made."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

SMALL = 2**24  # bytes that are not worth a look


class TooLarge(ValueError):
    """A tensor would be larger than the limit."""


class LimitedTensors(TorchDispatchMode):
    """Inside, an operation whose result would take more than `num_bytes` raises TooLarge instead of running.

    The size comes from running the operation on tensors without data. Where it depends on data, it is counted for
    `repeat_interleave` and `nonzero`; other such operations return at most about what they are given.
    """

    def __init__(self, num_bytes: int):
        super().__init__()
        self.num_bytes = num_bytes

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing in here is compiled; True would load the compiler for a second or two

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not func._schema.is_mutable and not func.is_view:
            size = _bytes_of_result(func, args, kwargs)
            if size > self.num_bytes:
                raise TooLarge(
                    f"this needs a tensor of {size / 2**30:,.2f} GiB, above the limit of {self.num_bytes / 2**30:.2f} "
                    "GiB for one of an expression. Use fewer nodes or edges, or call the builder from Python."
                )
        return func(*args, **kwargs)


def _bytes_of_result(func: Any, args: Any, kwargs: dict[str, Any]) -> float:
    aten, packet = torch.ops.aten, func.overloadpacket
    if packet is aten.repeat_interleave and args and isinstance(args[0], Tensor):
        size = kwargs.get("output_size")
        return 8 * (int(args[0].sum()) if size is None else size)
    if packet is aten.nonzero:
        return 8 * int(torch.count_nonzero(args[0])) * args[0].dim()
    leaves = tree_leaves((args, kwargs))
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    has_mask = packet is aten.index and any(leaf.dtype in (torch.bool, torch.uint8) for leaf in tensors[1:])
    if has_mask or packet in (aten._local_scalar_dense, aten.equal, aten.bincount, aten.is_nonzero):
        return 0
    # no operation makes more than that of what it is given: broadcasting, an outer product, a size in numbers
    numbers = [abs(leaf) for leaf in leaves if isinstance(leaf, int | float)]
    if 16 * math.prod(max(1, count) for count in (*(each.numel() for each in tensors), *numbers)) <= SMALL:
        return 0
    without_data = {name: None if name == "generator" else value for name, value in kwargs.items()}
    if "device" in without_data or not tensors:
        without_data["device"] = torch.device("meta")
    try:
        args, without_data = tree_map_only(Tensor, lambda tensor: tensor.to("meta"), (args, without_data))
        results = tree_leaves(func(*args, **without_data))
    except Exception:  # the size depends on data, or nobody wrote down what it is
        return 0
    return sum(math.prod(each.shape) * each.element_size() for each in results if isinstance(each, Tensor))
