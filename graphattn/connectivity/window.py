"""Sliding windows: each token reads its neighbours in the sequence."""

from collections.abc import Sequence

import torch
from torch import Tensor

from graphattn.connectivity._nodes import Nodes, check_count, two_sides
from graphattn.connectivity._ranges import edges_of_ranges
from graphattn.graph import AttentionGraph, Sizes, batch_of

ALIGNMENTS = ("start", "end", "scale")


def sliding_window(
    sizes: Sizes,
    radius: int | tuple[int, int],
    *,
    dilation: int = 1,
    dst_sizes: Sizes | None = None,
    align: str | None = None,
) -> AttentionGraph:
    r"""Connects each token to the tokens at most `radius` steps of `dilation` positions away, itself included.

    E = {(j → i) : j = p_i + k · dilation, −r⁻ ≤ k ≤ r⁺}, inside each graph, with r⁻ = r⁺ = radius, or the two entries
    of `radius`, and p_i = i in self-attention. A graph of n nodes has n + Σ_{k = 1 … r⁻} max(n − dk, 0) +
    Σ_{k = 1 … r⁺} max(n − dk, 0) edges; with dilation 1 and r = min(radius, n − 1) that is n(2r + 1) − r(r + 1).
    Seven tokens, radius 2, and radius 1 with dilation 3:

        ■ ■ ■ · · · ·      ■ · · ■ · · ·
        ■ ■ ■ ■ · · ·      · ■ · · ■ · ·
        ■ ■ ■ ■ ■ · ·      · · ■ · · ■ ·
        · ■ ■ ■ ■ ■ ·      ■ · · ■ · · ■
        · · ■ ■ ■ ■ ■      · ■ · · ■ · ·
        · · · ■ ■ ■ ■      · · ■ · · ■ ·
        · · · · ■ ■ ■      · · · ■ · · ■

    Args:
        sizes: number of nodes, or int64 [num_graphs] for a batch; of sources where `dst_sizes` is given.
        radius: how many steps to look to each side, at least 0; 0 leaves self edges only. Two ints look so many steps
            back and so many ahead: (64, 0) is the causal half.
        dilation: positions per step, at least 1; targets whose positions differ by no multiple of it read nothing in
            common.
        dst_sizes: number of targets m of cross attention over n sources, in the form of `sizes`.
        align: where target i of m stands among the n sources. "start": p_i = i. "end": p_i = i + n − m, for queries
            that are the last m of n tokens, as in decoding with a cache. "scale": p_i = ⌊(2i + 1)n / 2m⌋, the source
            under the middle of the target where both sequences are drawn equally long. Asked for with `dst_sizes`.

    Returns:
        AttentionGraph of kind "window", on the device of `sizes`. For the causal half, `.keep(is_causal)`.

    Raises:
        TypeError: if `sizes` is neither an int nor an int64 tensor, or `radius` or `dilation` is no int.
        ValueError: if a size or a radius is negative, `dilation` is below 1, or `align` is missing with `dst_sizes`, or
            given without.

    Source: Beltagy et al. 2020 (Longformer), sec. 3.1, "Sliding Window" and "Dilated Sliding Window". Their window of
    width w is radius = w / 2. A window cut at the border stays cut; `neighborhood` shifts it inside, as NATTEN does.

    >>> sliding_window(4, radius=1).edge_index
    tensor([[0, 1, 0, 1, 2, 1, 2, 3, 2, 3],
            [0, 0, 1, 1, 1, 2, 2, 2, 3, 3]])
    >>> print(sliding_window(5, radius=(1, 0), dst_sizes=2, align="end").to_mask().int())
    tensor([[0, 0, 1, 1, 0],
            [0, 0, 0, 1, 1]], dtype=torch.int32)
    """
    before, after = _read_radius(radius)
    check_count(dilation, "dilation", 1, "Use 1 for a window without gaps.")
    sources, targets, label = two_sides(sizes, dst_sizes)
    position = _positions(sources, targets, dst_sizes is not None, align)
    batch = batch_of(targets.ptr)
    start, stop = sources.ptr[batch], sources.ptr[batch + 1]
    most = sources.num_nodes + targets.num_nodes  # int64 cannot hold every int, and no step leads further
    step = min(dilation, max(most, 1))
    first = (-torch.div(position - start, step, rounding_mode="floor")).clamp_(min=-min(before, most))
    last = torch.div(stop - 1 - position, step, rounding_mode="floor").clamp_(max=min(after, most))
    edges = edges_of_ranges(position + first * step, (last - first + 1).clamp_(min=0), step)
    options = "" if dilation == 1 else f", dilation={dilation}"
    options += "" if align is None else f", align={align!r}"
    return AttentionGraph.trusted(
        edges,
        sources.num_nodes,
        targets.num_nodes,
        kinds=("window",),
        src_ptr=sources.batch_ptr,
        dst_ptr=targets.batch_ptr,
        origin=f"sliding_window({label}, radius={radius}{options})",
    )


def _read_radius(radius: int | Sequence[int]) -> tuple[int, int]:
    sides = tuple(radius) if isinstance(radius, Sequence) and not isinstance(radius, str) else (radius, radius)
    if len(sides) != 2:
        raise ValueError(
            f"radius must be an int or two of them, (back, ahead), got {len(sides)}. "
            "For a grid of several axes call grid(shape, radius)."
        )
    for one in sides:
        check_count(one, "radius", 0, "Use 0 to keep only self edges.")
    return sides


def _positions(sources: Nodes, targets: Nodes, is_cross: bool, align: str | None) -> Tensor:
    """Returns the source that each target stands at, [num_dst_nodes]; it may lie outside the target's graph."""
    here = torch.arange(targets.num_nodes, device=targets.device)
    if not is_cross:
        if align is not None:
            raise ValueError(f"align must come with dst_sizes, got {align!r} alone. Leave it out in self-attention.")
        return here
    if align not in ALIGNMENTS:
        raise ValueError(
            f"align must be one of {', '.join(map(repr, ALIGNMENTS))} where dst_sizes is given, got {align!r}. "
            "Use 'end' for queries that are the last tokens of the keys, 'scale' for two sequences of equal duration."
        )
    batch = batch_of(targets.ptr)
    num_src, num_dst = torch.diff(sources.ptr)[batch], torch.diff(targets.ptr)[batch]
    place = here - targets.ptr[batch]
    if align == "end":
        place = place + num_src - num_dst
    elif align == "scale":
        place = torch.div((2 * place + 1) * num_src, 2 * num_dst, rounding_mode="floor")
    return sources.ptr[batch] + place
