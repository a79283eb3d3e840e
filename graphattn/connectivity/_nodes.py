"""What builders ask of their arguments: the nodes of one graph or of a batch, whole numbers, a source of randomness."""

from collections.abc import Sequence
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


def two_sides(
    sizes: Sizes, dst_sizes: Sizes | None, generator: torch.Generator | None = None
) -> tuple[Nodes, Nodes, str]:
    """Reads the sizes of both sides of cross attention, the same nodes twice where `dst_sizes` is None.

    Returns:
        The sources, the targets, and how `origin` names them: "7", or "7, dst_sizes=3".
    """
    sources = nodes_of(sizes, generator=generator)
    if dst_sizes is None:
        return sources, sources, sources.label
    targets = nodes_of(dst_sizes, "dst_sizes", generator)
    if isinstance(sizes, Tensor) != isinstance(dst_sizes, Tensor):
        raise TypeError(
            f"sizes and dst_sizes must be two ints or two tensors, got {type(sizes).__name__} and "
            f"{type(dst_sizes).__name__}. Give one entry per graph to both."
        )
    if sources.num_graphs != targets.num_graphs:
        raise ValueError(
            f"sizes and dst_sizes must count the same graphs, got {sources.num_graphs} and {targets.num_graphs}. "
            "Give an empty graph the size 0."
        )
    if sources.device != targets.device:
        raise ValueError(
            f"sizes and dst_sizes must be on one device, got {sources.device} and {targets.device}. "
            "Call dst_sizes.to(sizes.device)."
        )
    return sources, targets, f"{sources.label}, dst_sizes={targets.label}"


def as_ints(values: Sequence[int] | Tensor, name: str, shape: str, device: torch.device | None = None) -> Tensor:
    """Returns a sequence of ints or an int64 tensor of one axis as a tensor; `shape` names that axis in an error."""
    if isinstance(values, Tensor):
        if values.dtype != torch.int64:
            raise TypeError(f"{name} must have dtype torch.int64, got {values.dtype}. Call {name}.long() first.")
        if values.dim() != 1:
            raise ValueError(f"{name} must have shape {shape}, got {list(values.shape)}. Call {name}.flatten() first.")
        return values if device is None else values.to(device)
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise TypeError(
            f"{name} must be a sequence of ints or an int64 tensor {shape}, got {type(values).__name__}. "
            f"Pass list({name})."
        )
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{name} must hold ints, got {type(value).__name__} {value!r}. Convert each with int().")
    return torch.tensor(list(values), dtype=torch.int64, device=device)


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
