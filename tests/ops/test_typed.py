import pytest
import torch

from graphattn.ops._impl.typed import rows, rows_of_types, sums

pytest.importorskip("numba")

SIZES = {"one edge": (1, 1, 1), "few": (50, 4, 3), "lanes": (700, 5, 8), "parts": (70_001, 4, 8), "no edges": (0, 3, 2)}


def make_inputs(num_edges, num_types, width, dtype=torch.float64):
    generator = torch.Generator().manual_seed(5)
    table = torch.randn(num_types, width, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    return table, torch.randint(num_types, (num_edges,), generator=generator)


@pytest.mark.parametrize("layout", ["by edge", "by head"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-2)], ids=str)
@pytest.mark.parametrize("size", SIZES)
def test_rows_and_their_gradient_equal_those_of_indexing(size, dtype, tolerance, layout):
    table, edge_type = make_inputs(*SIZES[size], dtype)
    got, want = rows_of_types(table, edge_type, use_kernels=True), table.double()[edge_type]
    assert torch.equal(got, want.to(dtype))
    grad = torch.randn(got.shape, generator=torch.Generator().manual_seed(6), dtype=torch.float64).to(dtype)
    if layout == "by head":
        grad = grad.t().contiguous().t()
    (of_table,) = torch.autograd.grad(got, table, grad)
    (expected,) = torch.autograd.grad(want, table, grad.double())
    assert of_table.dtype == dtype
    torch.testing.assert_close(of_table.double(), expected.double(), atol=tolerance, rtol=tolerance)


def test_second_derivatives_are_right():
    table, edge_type = make_inputs(20, 3, 4)
    assert torch.autograd.gradgradcheck(lambda x: rows_of_types(x, edge_type, use_kernels=True), table)
    x = torch.randn(20, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: sums(x, edge_type, 3), x)


def test_a_type_without_edges_has_a_gradient_of_zero_and_a_nan_stays_with_its_own():
    table, _ = make_inputs(0, 4, 8)
    edge_type = torch.tensor([0, 2, 2, 0, 3])
    made = rows_of_types(table, edge_type, use_kernels=True)
    grad = torch.ones_like(made)
    grad[4] = torch.nan
    (of_table,) = torch.autograd.grad(made, table, grad)
    assert torch.equal(of_table[:3, 0], torch.tensor([2.0, 0, 2], dtype=torch.float64))
    assert of_table[3].isnan().all()


def test_bits_are_the_same_at_any_thread_count():
    _, edge_type = make_inputs(*SIZES["parts"])
    x = torch.randn(len(edge_type), 8, generator=torch.Generator().manual_seed(7))
    before, results = torch.get_num_threads(), []
    try:
        for num_threads in (1, 2, 5):
            torch.set_num_threads(num_threads)
            results.append(sums(x, edge_type, 4))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


def test_half_precision_is_served_by_torch():
    table, edge_type = make_inputs(9, 2, 3, torch.bfloat16)
    assert rows_of_types(table, edge_type, use_kernels=True).dtype == torch.bfloat16


def test_operators_keep_the_promises_of_torch_library():
    table, edge_type = make_inputs(9, 2, 3)
    torch.library.opcheck(rows, (table, edge_type))
    torch.library.opcheck(sums, (torch.randn(9, 3, dtype=torch.float64, requires_grad=True), edge_type, 2))
