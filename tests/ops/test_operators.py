"""Operators made here are whole: what `opcheck` asks of them, gradients, compiling, and what they refuse."""

import pytest
import torch
from torch import Tensor

from graphattn.ops.operators import make_operator

calls: list[str] = []


def scaled(x: Tensor, y: Tensor | None, factor: float) -> tuple[Tensor, Tensor]:
    calls.append("forward")
    return factor * x, x.sum(0) if y is None else x.sum(0) * y


def fake_scaled(x, y, factor):
    return torch.empty_like(x), x.new_empty(x.shape[1:])


def remember(ctx, inputs, output):
    x, y, ctx.factor = inputs
    ctx.save_for_backward(x, y)


def gradients(ctx, grad, grad_sum):
    x, y = ctx.saved_tensors
    of_x = ctx.factor * grad + (grad_sum if y is None else grad_sum * y)
    return of_x, None if y is None else x.sum(0) * grad_sum, None


def refuse(info, in_dims, *arguments):
    raise NotImplementedError("join the batch")


OPTIONS = {"cpu": scaled, "fake": fake_scaled, "remember": remember, "gradients": gradients}
whole = make_operator("test_whole", **OPTIONS, no_second="there is no second derivative", vmap=refuse)
twice = make_operator("test_twice", **OPTIONS)
plain = make_operator("test_plain", cpu=scaled, fake=fake_scaled)


@pytest.fixture
def inputs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, 3, dtype=torch.float64, generator=generator, requires_grad=True)
    return x, torch.randn(3, dtype=torch.float64, generator=generator, requires_grad=True)


def test_they_pass_opcheck(inputs) -> None:
    x, y = inputs
    for operator in (whole, twice):
        torch.library.opcheck(operator, (x, y, 2.5))
        torch.library.opcheck(operator, (x, None, 2.5))
    torch.library.opcheck(plain, (x.detach(), y.detach(), 2.5))


def test_gradients_are_those_of_the_function(inputs) -> None:
    assert torch.autograd.gradcheck(lambda x, y: whole(x, y, 2.5), inputs)
    assert torch.autograd.gradgradcheck(lambda x, y: twice(x, y, 2.5), inputs)


def test_a_kernel_runs_once_with_and_without_gradients(inputs) -> None:
    calls.clear()
    out, _ = whole(*inputs, 2.5)
    assert calls == ["forward"]
    assert type(out.grad_fn).__name__ == "GradientOf_test_wholeBackward"
    with torch.no_grad():
        assert not whole(*inputs, 2.5)[0].requires_grad
    assert not whole(*(x.detach() for x in inputs), 2.5)[0].requires_grad
    assert calls == ["forward"] * 3


def test_a_second_derivative_is_refused_also_where_the_first_was_asked_of_a_constant(inputs) -> None:
    x, _ = inputs
    out, total = whole(*inputs, 2.5)
    (grad,) = torch.autograd.grad((out.sum(), total.sum()), x, create_graph=True)
    torch.testing.assert_close(grad, 2.5 + inputs[1].expand(5, 3))
    with pytest.raises(NotImplementedError, match="no second derivative"):
        grad.pow(2).sum().backward()


def test_vmap_is_refused_with_advice(inputs) -> None:
    with pytest.raises(NotImplementedError, match="join the batch"):
        torch.func.vmap(lambda x: whole(x, None, 2.5))(inputs[0].detach()[None])


def test_they_compile_without_a_break(inputs) -> None:
    compiled = torch.compile(lambda x, y: whole(2 * x, y, 2.5)[0].sin(), fullgraph=True, backend="aot_eager")
    expected = whole(2 * inputs[0], inputs[1], 2.5)[0].sin()
    out = compiled(*inputs)
    torch.testing.assert_close(out, expected)
    found, wanted = (torch.autograd.grad(each.sum(), inputs[0])[0] for each in (out, expected))
    torch.testing.assert_close(found, wanted)
    assert wanted.abs().min() > 0
