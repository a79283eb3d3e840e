"""Who can serve what: one table for dispatch, errors, `explain` and tests."""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from graphattn.ops._costs import is_proved_here

IMPLEMENTATIONS = ("dense", "scatter", "gather", "blocks", "fused", "sdpa", "flex")

ARGUMENTS = (
    "edge_bias", "edge_gate", "head_gate", "edge_attr", "edge_key_weight", "edge_value_weight", "edge_type",
    "logit_clip", "dropout_p", "head_mask", "grouped_heads", "lse", "weights", "double_backward", "torch_func",
)  # fmt: skip

# Up to this many types of edges, numbers per target, head and type take less than features of every edge.
MAX_TYPES = 64

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)

_LACKS = {
    "dense": frozenset[str](),
    "scatter": frozenset[str](),
    "gather": frozenset[str](),
    # torch's fused dense kernels have no second derivative
    "blocks": frozenset({"weights", "double_backward", "torch_func"}),
    "fused": frozenset({"double_backward", "torch_func"}),
    "sdpa": frozenset(ARGUMENTS) - {"head_gate", "grouped_heads"},
    "flex": frozenset(ARGUMENTS) - {"head_gate", "grouped_heads", "head_mask", "lse"},
}
_LACKS_DTYPES = {"flex": frozenset({torch.float64})}
# looked up once: every choice of `auto` asks
_HAS_NUMBA = importlib.util.find_spec("numba") is not None
_HAS_TRITON = importlib.util.find_spec("triton") is not None  # comes with torch for CUDA
_DEVICES = {  # the others run wherever torch does
    "fused": ("cpu", "cuda") if _HAS_TRITON else ("cpu",),
    "flex": ("cuda",) if _HAS_TRITON else (),  # torch trains it nowhere else
}
# Where `auto` takes an implementation only after `graphattn info --calibrate` found it right and measured it there:
# kernels that only the interpreter has run, and a way that was found faster on CPUs only. "varlen" is how `blocks` then
# runs unpadded; until then it is padded.
_UNPROVED = {"fused": ("cuda",), "sdpa": ("cuda", "mps"), "varlen": ("cuda",)}
_trusted: set[str] = set()
# Left to whoever names them, everywhere: seconds of compiling for each new size of graph are in no estimate.
_NAMED_ONLY = frozenset({"flex"})


def supports(impl: str, argument: str, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> bool:
    """Returns whether an implementation serves an argument of the verb for this dtype and device.

    Args:
        impl: one of `IMPLEMENTATIONS`.
        argument: one of `ARGUMENTS`: an argument of `graph_attention`, or `head_mask`, `grouped_heads`, `lse`,
            `weights` (numbers of every edge, of which logits are others), `double_backward`, `torch_func`
            (`torch.func.vmap`, `grad`, `jvp` and forward-mode derivatives).
        dtype, device: of the query.

    Raises:
        ValueError: for a name that is not in the table.

    >>> supports("fused", "edge_bias"), supports("fused", "double_backward")
    (True, False)
    """
    check_impl(impl)
    if argument not in ARGUMENTS:
        raise ValueError(f"argument must be one of {', '.join(ARGUMENTS)}, got {argument!r}. Check the spelling.")
    return argument not in _LACKS[impl] and has_dtype(impl, dtype) and runs_on(impl, device)


def check_impl(impl: str) -> None:
    """Raises a ValueError with the valid names if `impl` is none of them."""
    if impl not in IMPLEMENTATIONS:
        raise ValueError(
            f"impl must be 'auto' or one of {', '.join(IMPLEMENTATIONS)}, got {impl!r}. Check the spelling."
        )


def has_dtype(impl: str, dtype: torch.dtype) -> bool:
    """Returns whether an implementation computes in this dtype, or in a wider one."""
    return dtype in DTYPES and dtype not in _LACKS_DTYPES.get(impl, ())


def runs_on(impl: str, device: torch.device | str) -> bool:
    """Returns whether an implementation has a kernel for this device."""
    return torch.device(device).type in _DEVICES.get(impl, (torch.device(device).type,))


def is_proved(impl: str, device: torch.device | str) -> bool:
    """Returns whether `auto` may take an implementation on such a device, where it has run and been measured."""
    if impl in _NAMED_ONLY:
        return False
    return not needs_proof(impl, device) or impl in _trusted or is_proved_here(impl, torch.device(device).type)


@contextmanager
def trusting(*impls: str) -> Iterator[None]:
    """Lets implementations pass as proved, for whoever proves or times them."""
    before = set(_trusted)
    _trusted.update(impls)
    try:
        yield
    finally:
        _trusted.intersection_update(before)


def needs_proof(impl: str, device: torch.device | str) -> bool:
    """Returns whether `auto` waits for a calibration on the user's machine to prove an implementation."""
    return torch.device(device).type in _UNPROVED.get(impl, ())


def is_transformed() -> bool:
    """Returns whether the call stands inside a transform of `torch.func`, or takes forward-mode derivatives.

    Operators with a hand-written backward would be looped over by vmap, and would pass on no forward derivative.
    """
    in_transform = torch._C._are_functorch_transforms_active()  # type: ignore[attr-defined]
    return in_transform or torch.autograd.forward_ad._current_level >= 0


def has_numba() -> bool:
    """Returns whether Numba, which compiles the CPU kernels of `fused`, is installed."""
    return _HAS_NUMBA
