"""Operators of `torch.library` with little between the caller and the kernel.

`torch.library.custom_op` looks, at every call, for outputs that share memory with inputs, and its autograd goes through
several layers of Python: 0.2 ms for a forward and a backward, more than the kernels take on a small graph. An operator
that is made here is as complete (schema, fake kernel, autograd, refusal of vmap; `torch.library.opcheck` passes) and
does without these. Its kernels promise what custom_op would check: outputs share memory with no input.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import _C
from torch.library import Library, infer_schema, register_fake, register_vmap

NAMESPACE = "graphattn"
_LIBRARY = Library(NAMESPACE, "FRAGMENT")

Kernel = Callable[..., Any]


def make_operator(
    name: str,
    *,
    cpu: Kernel,
    fake: Kernel,
    cuda: Kernel | None = None,
    gradients: Kernel | None = None,
    remember: Kernel | None = None,
    no_second: str | None = None,
    vmap: Kernel | None = None,
) -> torch._ops.OpOverload:
    """Returns the operator `graphattn::name`, which changes none of its arguments.

    Args:
        cpu: the kernel on the CPU; its annotations are the schema.
        fake: called with the same arguments, returns empty tensors of the result's shapes and types.
        cuda: the kernel on CUDA.
        gradients: (ctx, *gradients of the results) → a gradient or None for each argument. None: not differentiable.
        remember: (ctx, inputs, output), stores in ctx what `gradients` reads; None where it reads nothing.
        no_second: what the NotImplementedError says that a second derivative raises, where `gradients` has none.
        vmap: the rule for `torch.func.vmap`, or what refuses it.

    >>> from torch import Tensor
    >>> def doubled(x: Tensor) -> Tensor:
    ...     return 2 * x
    >>> double = make_operator("double_of_doctest", cpu=doubled, fake=torch.empty_like, gradients=lambda ctx, g: 2 * g)
    >>> x = torch.ones(2, requires_grad=True)
    >>> torch.autograd.grad(double(x).sum(), x)
    (tensor([2., 2.]),)
    """
    _LIBRARY.define(name + infer_schema(cpu, mutates_args=()), tags=(torch.Tag.pt2_compliant_tag,))
    _LIBRARY.impl(name, cpu, "CPU")
    if cuda is not None:
        _LIBRARY.impl(name, cuda, "CUDA")
    register_fake(f"{NAMESPACE}::{name}", fake, lib=_LIBRARY)
    operator = getattr(getattr(torch.ops, NAMESPACE), name).default
    if gradients is not None:
        differentiable = _differentiable(operator, gradients, remember, no_second)
        _LIBRARY.impl(name, differentiable, "Autograd", with_keyset=True)
    if vmap is not None:
        register_vmap(f"{NAMESPACE}::{name}", vmap, lib=_LIBRARY)
    return operator


def _differentiable(
    operator: torch._ops.OpOverload, gradients: Kernel, remember: Kernel | None, no_second: str | None
) -> Kernel:
    """Returns what the dispatcher calls first: the operator below autograd, remembered where a gradient is wanted."""

    def below_autograd(keyset, *inputs):
        with _C._AutoDispatchBelowAutograd():
            return operator.redispatch(keyset & _C._after_autograd_keyset, *inputs)

    def forward(ctx, *inputs_and_keyset):
        *inputs, keyset = inputs_and_keyset
        output = below_autograd(keyset, *inputs)
        if remember is not None:
            remember(ctx, inputs, output)
        return output

    def backward(ctx, *grads):
        found = gradients(ctx, *grads)
        found = found if isinstance(found, tuple) else (found,)
        if no_second is not None and torch.is_grad_enabled():  # create_graph=True
            found = without_second(found, (*grads, *ctx.saved_tensors), no_second)
        return *found, None

    methods = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    remembered: Any = type(f"GradientOf_{operator._opname}", (torch.autograd.Function,), methods)  # shown by grad_fn

    def called(keyset, *inputs):
        if _C.is_grad_enabled() and _C._any_requires_grad(*inputs):
            return remembered.apply(*inputs, keyset)
        return below_autograd(keyset, *inputs)

    return called


def without_second(found: tuple[Any, ...], sources: tuple[Any, ...], message: str) -> tuple[Any, ...]:
    """Returns the same gradients, which depend on themselves and on `sources` in a way that cannot be differentiated.

    Differentiating them raises a NotImplementedError with the message; None stays None.
    """
    given = [grad for grad in found if grad is not None]
    marked = iter(_Last.apply(message, len(given), *given, *(x for x in sources if x is not None)))
    return tuple(None if grad is None else next(marked) for grad in found)


class _Last(torch.autograd.Function):
    """The identity on the first tensors, in whose derivative it raises."""

    @staticmethod
    def forward(ctx, message, count, *tensors):
        ctx.message = message
        return tuple(tensor.view_as(tensor) for tensor in tensors[:count])

    @staticmethod
    def backward(ctx, *grads):
        raise NotImplementedError(ctx.message)
