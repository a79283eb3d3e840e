import pytest
import torch

from graphattn.ops._impl.projection import products, project_heads, summed_products

SHAPES = [(4, 1, 1, 1), (7, 3, 5, 9), (133, 8, 32, 4), (70, 2, 16, 24)]


def make_inputs(num_rows, num_heads, width, out_width, dtype=torch.float64):
    generator = torch.Generator().manual_seed(3)

    def normal(*shape):
        return torch.randn(shape, dtype=torch.float64, generator=generator).to(dtype).requires_grad_()

    return normal(num_rows, num_heads, width), normal(num_heads, width, out_width)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)], ids=str)
def test_kernels_equal_the_formula_in_output_and_gradients(shape, dtype, tolerance):
    x, matrices = make_inputs(*shape, dtype=dtype)
    got = project_heads(x, matrices, use_kernels=True)
    want = torch.einsum("nhc,hcd->nhd", x.double(), matrices.double())
    torch.testing.assert_close(got.double(), want, atol=tolerance, rtol=tolerance)
    grad = torch.randn(got.shape, dtype=dtype, generator=torch.Generator().manual_seed(4))
    grads = torch.autograd.grad(got, (x, matrices), grad)
    expected = torch.autograd.grad(want, (x, matrices), grad.double())
    for one, other in zip(grads, expected):
        assert one.dtype == dtype
        torch.testing.assert_close(one, other.to(dtype), atol=tolerance, rtol=tolerance)


def test_second_derivatives_are_right():
    inputs = make_inputs(5, 2, 3, 4)
    assert torch.autograd.gradgradcheck(lambda *xs: project_heads(*xs, use_kernels=True), inputs)


def test_a_transposed_view_is_read_as_it_is():
    x, matrices = make_inputs(12, 2, 8, 16)
    backwards = project_heads(torch.randn(12, 2, 16, dtype=torch.float64), matrices.transpose(1, 2), use_kernels=True)
    assert backwards.shape == x.shape
    strided = torch.stack([x, x], -1)[..., 0]
    assert torch.equal(project_heads(strided, matrices, use_kernels=True), project_heads(x, matrices, use_kernels=True))


@pytest.mark.parametrize("num_rows", [0, 1, 3])
def test_fewer_rows_than_a_register_tile_holds_are_served_by_torch(num_rows):
    x, matrices = make_inputs(num_rows, 2, 3, 4)
    got = project_heads(x, matrices, use_kernels=True)
    torch.testing.assert_close(got, torch.einsum("nhc,hcd->nhd", x, matrices))


def test_half_precision_is_served_by_torch():
    x, matrices = make_inputs(8, 2, 3, 4, dtype=torch.bfloat16)
    assert project_heads(x, matrices, use_kernels=True).dtype == torch.bfloat16


def test_bits_are_the_same_at_any_thread_count():
    inputs = make_inputs(5003, 5, 16, 8, dtype=torch.float32)
    before, results = torch.get_num_threads(), []
    try:
        for num_threads in (1, 2, 5):
            torch.set_num_threads(num_threads)
            y = project_heads(*inputs, use_kernels=True)
            results.append([y, *torch.autograd.grad(y, inputs, torch.ones_like(y))])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        for one, same in zip(results[0], other):
            assert torch.equal(one, same)


def test_operators_keep_the_promises_of_torch_library():
    x, matrices = make_inputs(6, 2, 3, 4)
    torch.library.opcheck(products, (x, matrices))
    torch.library.opcheck(summed_products, (x, torch.randn(6, 2, 4, dtype=torch.float64, requires_grad=True)))


def test_results_are_contiguous_as_the_fake_kernels_say():
    x, matrices = make_inputs(6, 2, 3, 4)
    assert products(x, matrices).is_contiguous()
    assert summed_products(x, torch.randn(6, 2, 4, dtype=torch.float64)).is_contiguous()
