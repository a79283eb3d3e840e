"""Small tiles whose heads run abreast, against the formulas written out densely, and against the other tiles."""

import pytest
import torch
from torch.testing import assert_close

pytest.importorskip("numba")

from graphattn.graph import plan as graph_plan
from graphattn.ops import _dispatch
from graphattn.ops._impl import fused, scatter
from graphattn.ops._impl.numba import abreast, launch
from tests.ops.test_fused_kernels import (
    EXACT,
    SINGLE,
    TERMS,
    all_results,
    check_against_reference,
    check_half_precision,
    check_nan_stays,
    gradients,
    make_inputs,
    make_plan,
    mixed_plan,
    molecule_plan,
    range_plan,
    reference,
    run_fused,
    strided,
    window_plan,
)

FORMS = {name: terms for name, terms in TERMS.items() if "head_mask" not in terms}
FORMS |= {
    "bias and gate": ("edge_bias", "edge_gate"),
    "all": tuple(name for name in TERMS["all"] if name != "head_mask"),
}
MOLECULES = molecule_plan([5, 12, 1, 3, 4, 18, 8, 15])  # the smallest are no tiles
SMALL = molecule_plan([7, 9, 6, 14])
# more targets than one tile has, all of the same sources; and targets apart that see sources apart
SHARED = range_plan([(3, 11)] * 70 + [(14, 19)] * 9, 20)
WINDOW = window_plan(num_nodes=77, radius=6)  # in slices of 32 rows and of what is left
PLANS = {"molecules": MOLECULES, "shared": SHARED, "window": WINDOW, "mixed": mixed_plan()}


@pytest.mark.parametrize("size", [abreast.MOST_ROWS - 1, abreast.MOST_ROWS, abreast.MOST_ROWS + 1])
@pytest.mark.parametrize("terms", [(), FORMS["all"]], ids=["plain", "all"])
def test_the_largest_tiles_and_those_above_equal_scatter(terms, size):
    plan = molecule_plan([9, size])
    inputs = make_inputs(plan, terms, heads=8)
    outputs, expected = run_fused(plan, inputs), scatter.attention(plan=plan, scale=0.4, **inputs)
    for output, expectation in zip(outputs, expected, strict=True):
        assert (output is None and expectation is None) or torch.allclose(output, expectation, **EXACT)
    grads, expected_grads = gradients(outputs, inputs), gradients(expected, inputs)
    for name, grad in grads.items():
        assert_close(grad, expected_grads[name], **EXACT)


@pytest.mark.parametrize("heads", [8, 16])
@pytest.mark.parametrize("terms", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_float64_equals_the_formulas_in_outputs_and_gradients(plan, terms, heads):
    check_against_reference(plan, make_inputs(plan, terms, heads=heads), **EXACT)


@pytest.mark.parametrize("terms", FORMS.values(), ids=FORMS)
def test_float32_equals_the_formulas_up_to_rounding(terms):
    check_against_reference(SMALL, make_inputs(SMALL, terms, torch.float32, heads=8), **SINGLE)


@pytest.mark.parametrize("dims", [(8, 8, 8), (64, 40, 24), (13, 1, 1), (abreast.MOST_DIM + 1, 8, 2)], ids=str)
def test_any_width_is_served(dims):
    check_against_reference(SMALL, make_inputs(SMALL, FORMS["all"], heads=8, dims=dims), **EXACT)


@pytest.mark.parametrize("num_types", [1, 5, 20, abreast.MOST_DIM + 1])
@pytest.mark.parametrize("terms", [(), FORMS["all"]], ids=["plain", "all"])
def test_types_stand_for_features_that_are_one_at_their_place(terms, num_types):
    inputs = make_inputs(SMALL, ["query_attr", *terms], heads=8, dims=(8, 7, num_types))
    inputs.pop("edge_attr", None)
    types = torch.randint(num_types, (len(SMALL.src),), generator=torch.Generator().manual_seed(0))
    expected = reference(plan=SMALL, edge_attr=torch.eye(num_types, dtype=torch.float64)[types], **inputs)
    found = run_fused(SMALL, inputs | {"edge_type": types})
    for output, expectation in zip(found, expected, strict=True):
        assert_close(output, expectation, **EXACT)
    grads = gradients(found, inputs)
    for name, grad in gradients(expected, inputs).items():
        assert_close(grads[name], grad, msg=lambda m, name=name: f"{name}: {m}", **EXACT)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32_and_rounded_once(dtype, monkeypatch):
    monkeypatch.setattr("tests.ops.test_fused_kernels.HEADS", 8)
    monkeypatch.setitem(TERMS, "all", FORMS["all"])
    check_half_precision(SMALL, dtype)


def test_one_bias_and_gate_for_all_heads_get_the_sum_of_their_gradients():
    check_against_reference(SMALL, make_inputs(SMALL, FORMS["all"], heads=8, shared=True), **EXACT)


def test_tables_by_head_and_strided_inputs_give_the_bits_of_others():
    inputs = make_inputs(SMALL, FORMS["all"], torch.float32, heads=16)
    by_head = {
        name: x.detach().t().contiguous().t().requires_grad_() if name in ("edge_bias", "edge_gate") else x
        for name, x in inputs.items()
    }
    assert not by_head["edge_bias"].is_contiguous()
    expected = all_results(SMALL, inputs)
    for others in (by_head, {name: strided(x) for name, x in inputs.items()}):
        for one, other in zip(expected, all_results(SMALL, others), strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("wanted", ["query", "key", "value", "query_attr", "edge_attr", "edge_bias", "edge_gate"])
def test_a_gradient_is_the_same_when_it_alone_is_wanted(wanted):
    inputs = make_inputs(SMALL, FORMS["all"], heads=8)
    expected = gradients(run_fused(SMALL, inputs), inputs)[wanted]
    for name, x in inputs.items():
        if isinstance(x, torch.Tensor) and x.requires_grad:
            inputs[name] = x.detach().requires_grad_(name == wanted)
    assert_close(gradients(run_fused(SMALL, inputs), inputs)[wanted], expected, rtol=0, atol=0)


@pytest.mark.parametrize("terms", [(), FORMS["all"]], ids=["plain", "all"])
def test_weights_and_their_gradients_equal_those_of_the_formulas(terms):
    inputs = make_inputs(MOLECULES, [name for name in terms if name != "edge_id"], heads=8)
    out, out_attr, weights = fused.attention_and_weights(plan=MOLECULES, scale=0.4, **inputs)
    ungated = {name: x for name, x in inputs.items() if name not in ("edge_gate", "dropout_p", "seed")}
    ones = torch.eye(len(MOLECULES.src), dtype=torch.float64)  # values by which an edge is known, were there no other
    each = make_plan(torch.arange(len(MOLECULES.src)), MOLECULES.dst, len(MOLECULES.src), MOLECULES.num_dst_nodes)
    ungated["key"] = inputs["key"][MOLECULES.src]
    ungated["value"] = ones[:, None].expand(-1, 8, -1)
    expected = reference(plan=each, **ungated)[0][MOLECULES.dst].diagonal(dim1=0, dim2=2).t()
    assert_close(weights, expected, **EXACT)
    assert_close(out, reference(plan=MOLECULES, **inputs)[0], **EXACT)
    others = [x for x in (out, out_attr) if x is not None]
    outputs = [reference(plan=MOLECULES, **inputs)[place] for place in range(len(others))]
    grads = gradients([weights, *others], inputs)
    for name, grad in gradients([expected, *outputs], inputs).items():
        assert_close(grads[name], grad, msg=lambda m, name=name: f"{name}: {m}", **EXACT)


@pytest.mark.parametrize("number", [torch.nan, torch.inf], ids=["nan", "inf"])
@pytest.mark.parametrize("name", ["query", "key", "value"])
def test_nan_stays_with_the_targets_that_see_it(name, number, monkeypatch):
    monkeypatch.setattr(
        "tests.ops.test_fused_kernels.make_inputs", lambda *args, **kw: make_inputs(*args, heads=8, **kw)
    )
    check_nan_stays(SMALL, name, number)


@pytest.mark.parametrize("name", ["query", "key", "value"])
def test_nan_stays_with_the_targets_of_a_window_that_see_it(name):
    inputs, node = make_inputs(WINDOW, TERMS["edge features"], heads=8), 20
    with torch.no_grad():
        inputs[name][node, 3] = torch.nan
    sees = torch.zeros(77, 8, dtype=torch.bool)
    sees[node if name == "query" else slice(node - 6, node + 7), 3] = True
    out, out_attr, lse = run_fused(WINDOW, inputs)
    assert out[sees].isnan().all() and out[~sees].isfinite().all() and out_attr[~sees].isfinite().all()
    reached = torch.zeros(77, 8, dtype=torch.bool)
    for target in sees[:, 3].nonzero()[:, 0].tolist():
        reached[max(0, target - 6) : target + 7, 3] = True
    for leaf, grad in gradients((out, out_attr, lse), inputs).items():
        if leaf != "edge_attr":
            assert grad[~(sees if leaf.startswith("query") else reached)].isfinite().all(), leaf


def test_a_nan_that_arrives_stays_with_its_target():
    inputs = make_inputs(WINDOW, TERMS["edge features"], heads=8)
    out, _, _ = run_fused(WINDOW, inputs)
    arriving = torch.ones_like(out)
    arriving[20, 3] = torch.nan
    grads = dict(zip(inputs, torch.autograd.grad(out, list(inputs.values()), arriving), strict=True))
    for leaf, (first, stop) in {"query": (20, 21), "key": (14, 27), "value": (14, 27)}.items():
        reached = torch.zeros(77, 8, dtype=torch.bool)
        reached[first:stop, 3] = True
        assert grads[leaf][reached].isnan().all() and grads[leaf][~reached].isfinite().all(), leaf


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_targets_without_a_finite_logit_get_zero_and_give_zero_gradients(dtype):
    inputs = make_inputs(SMALL, FORMS["all"], dtype, heads=8)
    with torch.no_grad():
        inputs["edge_bias"][SMALL.dst == 3] = -torch.inf
        inputs["edge_bias"][SMALL.dst == 9, 5] = -torch.inf
        inputs["edge_bias"][:2] = -torch.inf
        inputs["value"][SMALL.src[SMALL.dst == 3][0], 0] = torch.inf  # zero times which is NaN
    out, out_attr, lse = run_fused(SMALL, inputs)
    assert not out[3].any() and not out_attr[3].any() and (lse[3] == -torch.inf).all()
    assert not out[9, 5].any() and out[9, 4].any() and lse[9].isinf().sum() == 1
    with torch.no_grad():
        inputs["value"].clamp_(-10, 10)
    for name, grad in gradients(run_fused(SMALL, inputs), inputs).items():
        assert grad.isfinite().all(), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_nan_beside_minus_infinity_is_not_mistaken_for_an_empty_row(dtype):
    for edge in range(int(SMALL.target_ptr[3]), int(SMALL.target_ptr[4])):
        inputs = make_inputs(SMALL, ("query_attr", "edge_attr", "edge_bias"), dtype, heads=8)
        with torch.no_grad():
            inputs["edge_bias"][SMALL.dst == 3] = -torch.inf
            inputs["edge_bias"][edge, 2] = torch.nan
        out, out_attr, lse = run_fused(SMALL, inputs)
        assert out[3, 2].isnan().all() and out_attr[3, 2].isnan().all() and lse[3, 2].isnan()
        assert not out[3, 3].any() and out[[2, 4]].isfinite().all() and lse[[2, 4]].isfinite().all()


def test_logits_of_ten_thousand_neither_overflow_nor_lose_the_winner():
    inputs = make_inputs(SMALL, TERMS["edge features"], heads=8)
    inputs["query"] = (inputs["query"].detach() * 1e4).requires_grad_()
    check_against_reference(SMALL, inputs, atol=1e-7, rtol=1e-8)


def hub_over_molecules():
    """Molecules, and a target that sees most of what there is to see: one whose heads threads share out."""
    bounds = [(40 * m, 40 * m + 40) for m in range(6) for _ in range(40)] + [(0, 20_000)]
    return range_plan(bounds, 20_000)


LARGE = {"molecules": molecule_plan([40] * 40), "hub": hub_over_molecules(), "window": window_plan(1500, 24)}


@pytest.mark.parametrize("plan", LARGE.values(), ids=LARGE)
@pytest.mark.parametrize("terms", [(), FORMS["all"]], ids=["plain", "all"])
def test_bits_are_the_same_at_any_thread_count(plan, terms):
    inputs, before = make_inputs(plan, terms, torch.float32, heads=8, dims=(32, 16, 8)), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected = all_results(plan, inputs)
        for num_threads in (2, 5):
            torch.set_num_threads(num_threads)
            for result, expectation in zip(all_results(plan, inputs), expected, strict=True):
                assert torch.equal(result, expectation)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("terms", [(), FORMS["all"]], ids=["plain", "all"])
@pytest.mark.parametrize("shape", ["molecules", "window"])
def test_other_tiles_give_the_same_but_for_rounding(shape, terms, monkeypatch):
    inputs = make_inputs(LARGE[shape], terms, heads=8, dims=(32, 16, 8))
    found = all_results(LARGE[shape], inputs)
    forward, backward = launch._forward_tasks, launch._backward_stages
    monkeypatch.setattr(launch, "_forward_tasks", lambda *given: (forward(*given)[0], False))
    monkeypatch.setattr(launch, "_backward_stages", lambda *given: (*backward(*given)[:3], False))
    others = all_results(LARGE[shape], inputs)
    is_same = all(torch.equal(one, other) for one, other in zip(found, others, strict=True))
    assert is_same == (shape == "window" and not terms)  # or heads did not run abreast where they should
    for one, other in zip(found, others, strict=True):
        assert_close(one, other, **EXACT)


def test_what_the_cost_model_counts_is_what_the_kernels_serve():
    assert graph_plan.MAX_SHARED == abreast.MOST_ROWS
    assert (_dispatch.ABREAST, _dispatch.MAX_ABREAST_DIM) == (abreast.HEADS, abreast.MOST_DIM)
