"""Space-filling curves: points of a grid as numbers, so that points near in number are near in space."""

import torch
from torch import Tensor


def morton(coordinates: Tensor, num_bits: int) -> Tensor:
    """Returns the place of each point along the Morton curve (Z-order): the bits of its coordinates, interleaved.

    Args:
        coordinates: int64 [num_points, num_axes] in [0, 2^num_bits).
        num_bits: bits of a coordinate; num_axes · num_bits must be at most 62.

    Returns:
        int64 [num_points], distinct for distinct points. A step between neighbours on the curve may be long.

    Source: Morton 1966 (A Computer Oriented Geodetic Data Base and a New Technique in File Sequencing).

    >>> morton(torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1], [0, 2]]), num_bits=2)
    tensor([0, 1, 2, 3, 4])
    """
    _check(coordinates, num_bits)
    place = torch.zeros_like(coordinates[:, 0])
    for bit in reversed(range(num_bits)):
        for axis in coordinates.unbind(1):
            place = (place << 1) | ((axis >> bit) & 1)
    return place


def hilbert(coordinates: Tensor, num_bits: int) -> Tensor:
    """Returns the place of each point along the Hilbert curve, which moves by one step along one axis at a time.

    Args:
        coordinates: int64 [num_points, num_axes] in [0, 2^num_bits).
        num_bits: bits of a coordinate; num_axes · num_bits must be at most 62.

    Returns:
        int64 [num_points], distinct for distinct points.

    Source: Hilbert 1891 for the curve in the plane; Skilling 2004 (Programming the Hilbert curve) for any number of
    axes: rotate and reflect the coordinates from the highest bit down, then read them as a Gray code.

    >>> hilbert(torch.tensor([[0, 0], [1, 0], [1, 1], [0, 1]]), num_bits=1)
    tensor([0, 3, 2, 1])
    """
    _check(coordinates, num_bits)
    axes = list(coordinates.unbind(1))
    for bit in reversed(range(1, num_bits)):
        low = (1 << bit) - 1
        for number, axis in enumerate(axes):
            is_set = (axis >> bit) & 1 == 1
            swapped = torch.where(is_set, 0, (axes[0] ^ axis) & low)
            axes[0] = torch.where(is_set, axes[0] ^ low, axes[0] ^ swapped)
            axes[number] = axes[number] ^ swapped if number else axes[0]
    for number in range(1, len(axes)):
        axes[number] = axes[number] ^ axes[number - 1]
    flips = torch.zeros_like(axes[0])
    for bit in range(1, num_bits):
        flips = torch.where((axes[-1] >> bit) & 1 == 1, flips ^ ((1 << bit) - 1), flips)
    return morton(torch.stack([axis ^ flips for axis in axes], 1), num_bits)


def _check(coordinates: Tensor, num_bits: int) -> None:
    if coordinates.dtype != torch.int64 or coordinates.dim() != 2 or not coordinates.shape[1]:
        raise ValueError(
            f"coordinates must be int64 [num_points, num_axes], got {coordinates.dtype} {list(coordinates.shape)}. "
            "Pass one row per point, and round positions first."
        )
    if num_bits * coordinates.shape[1] > 62:
        raise ValueError(
            f"num_axes · num_bits must be at most 62, got {coordinates.shape[1]} · {num_bits}. Round to fewer bits."
        )
    if coordinates.numel() and (int(coordinates.min()) < 0 or int(coordinates.max()) >> num_bits):
        wrong = int(coordinates.min()) if int(coordinates.min()) < 0 else int(coordinates.max())
        raise ValueError(f"coordinates must lie in [0, 2^{num_bits}), got {wrong}. Give more bits, or shift them.")
