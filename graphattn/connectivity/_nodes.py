"""What builders ask of their arguments: the nodes of one graph or of a batch, whole numbers, a source of randomness."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from graphattn.graph import Sizes, batch_of, node_ptr


class Nodes(NamedTuple):
    """The nodes of one graph, or of all graphs of a batch one after the other."""

    ptr: Tensor  # [num_graphs + 1] int64, node offsets
    batch_ptr: Tensor | None  # `ptr` where a batch was asked for, None for a single graph
    num_nodes: int
    label: str  # how `origin` names them: "4096", "32 graphs"

    @property
    def device(self) -> torch.device:
        return self.ptr.device

    @property
    def num_graphs(self) -> int:
        return self.ptr.numel() - 1

    def bounds(self) -> tuple[Tensor, Tensor]:
        """Returns the first node of each node's graph, and the first node after it; both [num_nodes]."""
        batch = batch_of(self.ptr)
        return self.ptr[batch], self.ptr[batch + 1]


def nodes_of(sizes: Sizes, name: str = "sizes", generator: torch.Generator | None = None) -> Nodes:
    """Reads the size of one graph, whose nodes go to the device of a generator if given, or int64 [num_graphs]."""
    ptr = node_ptr(sizes, name)
    if isinstance(sizes, Tensor):
        return Nodes(ptr, ptr, int(ptr[-1]), f"{sizes.numel()} graphs")
    return Nodes(ptr if generator is None else ptr.to(generator.device), None, sizes, str(sizes))


def check_count(value: Any, name: str, at_least: int, advice: str) -> None:
    """Raises unless `value` is an int of at least `at_least`; `advice` is the next step where it is too small."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, got {type(value).__name__} {value!r}. Pass int({name}).")
    if value < at_least:
        raise ValueError(f"{name} must be at least {at_least}, got {value}. {advice}")


def check_generator(generator: Any, sizes: Any) -> None:
    """Raises unless `generator` is a torch.Generator on the device of `sizes`, where those are a tensor."""
    if not isinstance(generator, torch.Generator):
        raise TypeError(
            f"generator must be a torch.Generator, got {type(generator).__name__}. "
            "Pass generator=torch.Generator().manual_seed(0) for a graph that can be made again."
        )
    if isinstance(sizes, Tensor) and sizes.device.type != generator.device.type:
        raise ValueError(
            f"generator must be on the device of sizes, {sizes.device}, got {generator.device}. "
            f"Make it with torch.Generator({sizes.device.type!r}), or move the sizes."
        )
