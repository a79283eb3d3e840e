"""Gates: what holds at every temperature, what is left when it is cold, and that they find the heads that matter."""

import copy
import math
import pickle
import re
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from graphattn.connectivity import sliding_window
from graphattn.nn import (
    GraphAttention,
    HardConcreteHeadGate,
    HeadGate,
    ImportanceHeadGate,
    StraightThroughHeadGate,
    SubsetHeadGate,
)
from graphattn.ops import graph_attention

LAYERS, HEADS, KEEP = 3, 5, 7
GATES: list[type[Any]] = [SubsetHeadGate, StraightThroughHeadGate, HardConcreteHeadGate, ImportanceHeadGate]
TRAINED = GATES[:3]


def subset(num_keep: int = KEEP, temperature: float = 1.0, seed: int = 0) -> SubsetHeadGate:
    """At one temperature, with numbers as far apart as the noise."""
    gate = SubsetHeadGate(LAYERS, HEADS, num_keep, start_temperature=temperature, end_temperature=temperature)
    return with_numbers(gate, torch.randn(LAYERS, HEADS, generator=torch.Generator().manual_seed(seed)))


def with_numbers(gate: Any, numbers: Tensor) -> Any:
    with torch.no_grad():
        gate.weight.copy_(numbers)
    return gate


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gumbel(seed: int) -> Tensor:
    return -torch.empty(LAYERS, HEADS, dtype=torch.float64).exponential_(generator=generator(seed)).log()


def top(numbers: Tensor, count: int) -> Tensor:
    """Ones at the largest, found one by one."""
    left, chosen = numbers.flatten().tolist(), torch.zeros(numbers.numel(), dtype=torch.float64)
    for _ in range(count):
        best = max(range(len(left)), key=lambda place: left[place])  # the first of equals
        left[best] = -math.inf
        chosen[best] = 1.0
    return chosen.view_as(numbers)


# --- the relaxed choice --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_keep", [1, 4, KEEP, LAYERS * HEADS - 1, LAYERS * HEADS])
@pytest.mark.parametrize("temperature", [1e-8, 1e-2, 0.1, 1.0, 10.0, 1e6])
def test_gates_sum_to_the_heads_kept_at_any_temperature(temperature: float, num_keep: int) -> None:
    for seed in range(5):
        gate = subset(num_keep, temperature)(generator=generator(seed))
        assert gate.dtype == torch.float64 and gate.shape == (LAYERS, HEADS)
        assert abs(gate.sum().item() - num_keep) < 1e-12
        assert gate.min() >= 0


@pytest.mark.parametrize("num_keep", [1, KEEP, LAYERS * HEADS - 1])
def test_cold_gates_are_ones_at_the_largest_numbers_with_their_noise(num_keep: int) -> None:
    gate = subset(num_keep, 1e-8)
    for seed in range(5):
        assert_close(gate(generator=generator(seed)), top(gate.weight + gumbel(seed), num_keep), rtol=0, atol=1e-12)


@pytest.mark.parametrize("num_keep", [1, KEEP])
def test_hot_gates_are_all_the_same(num_keep: int) -> None:
    gate = subset(num_keep, 1e9)(generator=generator())
    assert_close(gate, torch.full_like(gate, num_keep / (LAYERS * HEADS)), rtol=0, atol=1e-6)


def test_it_is_the_recursion_of_the_paper() -> None:
    gate, temperature = subset(4, 0.5), 0.5
    left, expected = [number.item() for number in (gate.weight + gumbel(3)).flatten()], [0.0] * (LAYERS * HEADS)
    for _ in range(4):
        powers = [math.exp((number - max(left)) / temperature) for number in left]
        chosen = [power / sum(powers) for power in powers]
        expected = [sofar + share for sofar, share in zip(expected, chosen)]
        left = [number + math.log(1 - share) for number, share in zip(left, chosen)]
    assert_close(gate(generator=generator(3)).flatten().tolist(), expected, rtol=1e-10, atol=1e-12)
    assert max(expected) > 1.0  # gates are no probabilities


def test_of_all_heads_all_stay_at_every_temperature() -> None:
    gate = subset(LAYERS * HEADS, 0.1)
    assert torch.equal(gate(), torch.ones(LAYERS, HEADS, dtype=torch.float64))
    gate().square().sum().backward()
    assert gate.weight.grad is not None and not gate.weight.grad.any()


@pytest.mark.parametrize("temperature", [1e-8, 1e-3, 0.3, 10.0])
@pytest.mark.parametrize("num_keep", [1, KEEP, LAYERS * HEADS - 1])
def test_gradients_are_finite_at_any_temperature(num_keep: int, temperature: float) -> None:
    gate = subset(num_keep, temperature)
    (gate(generator=generator()) * torch.linspace(-1, 1, 15).view(3, 5)).sum().backward()
    assert gate.weight.grad is not None and bool(gate.weight.grad.isfinite().all())
    assert temperature == 1e-8 or gate.weight.grad.abs().max() > 0


def test_equal_numbers_and_extreme_ones_are_no_trouble() -> None:
    for numbers in (torch.zeros(LAYERS, HEADS), torch.linspace(-1e6, 1e6, 15).view(3, 5)):
        for temperature in (1e-8, 1.0):
            gate = with_numbers(subset(KEEP, temperature), numbers)
            out = gate(generator=generator())
            out.square().sum().backward()
            assert abs(out.sum().item() - KEEP) < 1e-12 and bool(gate.weight.grad.isfinite().all())


def test_its_gradient_is_that_of_small_steps() -> None:
    gate = subset(4, 0.7)

    def of(numbers: Tensor) -> Tensor:
        return torch.func.functional_call(gate, {"weight": numbers}, kwargs={"generator": generator(1)})

    assert torch.autograd.gradcheck(of, gate.weight.detach().clone().requires_grad_())


# --- cooling -------------------------------------------------------------------------------------------------------


def test_temperature_falls_geometrically_from_start_to_end_and_stays() -> None:
    gate = SubsetHeadGate(LAYERS, HEADS, KEEP, start_temperature=1000.0, end_temperature=1e-8, num_cooling_steps=100)
    for step, expected in ((0, 1e3), (50, (1e3 * 1e-8) ** 0.5), (100, 1e-8), (10**6, 1e-8)):
        gate.step.fill_(step)
        assert_close(gate.temperature.item(), expected, rtol=1e-12, atol=0)


def test_steps_are_forwards_in_training_that_record_gradients() -> None:
    gate = SubsetHeadGate(LAYERS, HEADS, KEEP, num_cooling_steps=4)
    seen = []
    for _ in range(3):
        seen.append(gate.temperature.item())
        gate()
    assert gate.step.item() == 3 and seen[0] > seen[1] > seen[2]
    with torch.no_grad():
        gate()
    gate.eval()()
    assert gate.step.item() == 3


def test_defaults_are_those_of_the_paper() -> None:
    gate = SubsetHeadGate(num_layers=12, num_heads=12, num_keep=40)
    assert (gate.start_temperature, gate.end_temperature, gate.num_cooling_steps) == (1000.0, 1e-8, 25_000)
    assert gate().shape == (12, 12)
    assert_close(gate.weight.abs().max().item(), 0.5, rtol=0.1, atol=0.0)


def test_a_state_dict_carries_the_step_and_the_numbers() -> None:
    gate, other = SubsetHeadGate(LAYERS, HEADS, KEEP), SubsetHeadGate(LAYERS, HEADS, KEEP)
    gate()
    other.load_state_dict(gate.state_dict())
    assert other.step.item() == 1 and torch.equal(other.weight, gate.weight)
    copies = [copy.deepcopy(gate), pickle.loads(pickle.dumps(gate))]
    out = other(generator=generator())
    for made in copies:
        assert repr(made) == repr(gate) and torch.equal(made(generator=generator()), out)


# --- what stays ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", GATES)
@pytest.mark.parametrize("num_keep", [1, KEEP, LAYERS * HEADS])
def test_in_evaluation_exactly_so_many_gates_are_one_and_nothing_is_drawn(cls: type[Any], num_keep: int) -> None:
    gate = cls(LAYERS, HEADS, num_keep).eval()
    numbers = torch.rand(LAYERS, HEADS, generator=generator(5))
    if isinstance(gate, ImportanceHeadGate):
        gate.importance.copy_(numbers)
    else:
        with_numbers(gate, numbers)
    before = torch.get_rng_state()
    out = gate()
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(out, top(gate.weight.detach(), num_keep)) and not out.requires_grad
    assert torch.equal(gate.hard(), out) and torch.equal(gate.train().hard(), out)
    assert gate.kept() == [[head for head in range(HEADS) if out[layer, head]] for layer in range(LAYERS)]


@pytest.mark.parametrize("cls", GATES)
def test_of_equal_numbers_the_first_stay(cls: type[Any]) -> None:
    gate = cls(3, 50, 52)  # many, so that an unstable sort would show
    if cls is not ImportanceHeadGate:
        with_numbers(gate, torch.ones(3, 50))
    assert gate.kept() == [list(range(50)), [0, 1], []]


@pytest.mark.parametrize("cls", GATES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_model_of_any_dtype_takes_its_gates(cls: type[Any], dtype: torch.dtype) -> None:
    gate = cls(2, HEADS, 4)
    if cls is SubsetHeadGate:
        gate.step.fill_(10**6)  # T = 1e-8
    layers = [GraphAttention(15, HEADS).to(dtype) for _ in range(2)]
    h, graph = torch.randn(11, 15, generator=generator()).to(dtype), sliding_window(11, 2)
    gates = gate.to(dtype)()  # and the gate itself was cast
    for layer, of_layer in zip(layers, gates):
        h = layer(h, graph, head_gate=of_layer)
    assert h.dtype == dtype and bool(h.isfinite().all())
    h.float().square().sum().backward()
    if cls is ImportanceHeadGate:
        assert gate.importance.abs().sum() > 0
    else:
        assert gate.weight.grad is not None and bool(gate.weight.grad.isfinite().all())


def test_numbers_are_compared_in_float64_where_float32_would_not_tell_them_apart() -> None:
    numbers = torch.arange(15.0, dtype=torch.float64).view(3, 5) * 1e-12 + 1.0
    gate = with_numbers(subset(KEEP, 1e-8), numbers)
    assert gate.kept() == [[], [3, 4], [0, 1, 2, 3, 4]]


# --- straight through ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_keep", [1, KEEP, LAYERS * HEADS])
@pytest.mark.parametrize("is_tied", [False, True])
def test_straight_through_is_hard_and_passes_the_gradient_to_all(num_keep: int, is_tied: bool) -> None:
    gate = StraightThroughHeadGate(LAYERS, HEADS, num_keep)
    if is_tied:
        with_numbers(gate, torch.ones(LAYERS, HEADS))
    out = gate()
    assert out.sum().item() == num_keep and torch.equal(out, gate.hard())
    out.retain_grad()
    (out.square() * torch.linspace(1, 2, 15).view(3, 5) + out).sum().backward()
    assert out.grad is not None and out.grad.abs().min() > 0
    assert torch.equal(gate.weight.grad, out.grad)


# --- hard concrete -------------------------------------------------------------------------------------------------


def test_hard_concrete_gates_are_open_closed_or_between_as_often_as_the_penalty_says() -> None:
    gate = HardConcreteHeadGate(LAYERS, HEADS, KEEP)
    with_numbers(gate, torch.linspace(-2, 2, 15).view(3, 5))
    draw = generator(2)
    drawn = torch.stack([gate(generator=draw).detach() for _ in range(4000)])
    assert drawn.min() == 0 and drawn.max() == 1 and ((drawn > 0) & (drawn < 1)).any()
    assert_close((drawn > 0).double().sum((1, 2)).mean(), gate.penalty().detach(), rtol=0.02, atol=0.0)
    shares = (drawn > 0).double().mean(0).flatten()
    assert bool((shares[4:] > shares[:-4]).all())


def test_the_penalty_closes_gates() -> None:
    gate = HardConcreteHeadGate(LAYERS, HEADS, KEEP)
    gate.penalty().backward()
    assert gate.weight.grad is not None and gate.weight.grad.min() > 0
    for other in (SubsetHeadGate, StraightThroughHeadGate, ImportanceHeadGate):
        assert other(LAYERS, HEADS, KEEP).penalty().item() == 0.0


# --- importance ----------------------------------------------------------------------------------------------------


def test_importance_sums_absolute_gradients_and_compares_within_a_layer() -> None:
    gate = ImportanceHeadGate(2, 3, 3)
    slopes = [torch.tensor([[3.0, 0.0, -4.0], [0.2, 0.1, 0.0]]), torch.tensor([[-3.0, 0.0, 4.0], [0.1, 0.25, 0.0]])]
    for slope in slopes:
        out = gate()
        assert torch.equal(out, torch.ones(2, 3, dtype=torch.float64))
        (out * slope).sum().backward()
    total = torch.tensor([[6.0, 0.0, 8.0], [0.3, 0.35, 0.0]], dtype=torch.float64)
    assert_close(gate.importance, total, rtol=1e-6, atol=0.0)  # the slopes are float32
    norms = [[(6.0**2 + 8.0**2) ** 0.5], [(0.3**2 + 0.35**2) ** 0.5]]
    assert_close(gate.weight, total / torch.tensor(norms).double(), rtol=1e-6, atol=0.0)
    assert gate.kept() == [[2], [0, 1]]  # by their sums alone it would be [[0, 2], [1]]
    assert not list(gate.parameters())
    with torch.no_grad():
        gate()
    gate.importance.zero_()
    assert gate.kept() == [[0, 1, 2], []]


def test_a_layer_that_the_loss_does_not_read_has_no_importance() -> None:
    gate = ImportanceHeadGate(2, 3, 3)
    gate()[0].sum().backward()
    assert bool(gate.weight.isfinite().all()) and gate.kept() == [[0, 1, 2], []]


# --- chance --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [SubsetHeadGate, HardConcreteHeadGate])
def test_a_seed_repeats_the_draws(cls: type[Any]) -> None:
    gate = cls(LAYERS, HEADS, KEEP)
    if cls is SubsetHeadGate:
        gate = subset()
    assert torch.equal(gate(generator=generator(3)), gate(generator=generator(3)))
    torch.manual_seed(4)
    first, second = gate(), gate()
    torch.manual_seed(4)
    assert torch.equal(gate(), first) and not torch.equal(first, second)


def test_the_choice_follows_its_numbers() -> None:
    numbers = torch.zeros(LAYERS, HEADS)
    numbers[1, 2] = math.log(14.0)  # as likely the first as all others together
    gate, draw = with_numbers(subset(1, 1e-8), numbers), generator()
    count = sum(gate(generator=draw)[1, 2].item() for _ in range(2000))
    assert abs(count / 2000 - 0.5) < 4 * (0.25 / 2000) ** 0.5


# --- in a model ----------------------------------------------------------------------------------------------------


def test_gates_of_one_are_attention_without_gates() -> None:
    query, key, value = (torch.randn(11, HEADS, 3, generator=generator(seed)).double() for seed in range(3))
    graph = sliding_window(11, 2)
    gates = SubsetHeadGate(LAYERS, HEADS, LAYERS * HEADS)()
    for of_layer in gates:
        gated = graph_attention(query, key, value, graph, head_gate=of_layer)
        assert torch.equal(gated, graph_attention(query, key, value, graph))


PLANTED = [(0, 1), (0, 3), (1, 2)]


class Planted(torch.nn.Module):
    """Two frozen layers side by side; in what is to be learned, only planted heads speak."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.layers = torch.nn.ModuleList(GraphAttention(16, 4, bias=False) for _ in range(2)).requires_grad_(False)
        self.graph = sliding_window(23, 3)
        self.truth = torch.zeros(2, 4)
        for layer, head in PLANTED:
            self.truth[layer, head] = 1.0

    def forward(self, x: Tensor, gates: Tensor) -> Tensor:
        return sum(layer(x, self.graph, head_gate=of_layer) for layer, of_layer in zip(self.layers, gates))

    def found(self, gate: HeadGate) -> list[tuple[int, int]]:
        return [(layer, head) for layer, heads in enumerate(gate.kept()) for head in heads]


@pytest.mark.parametrize("cls", TRAINED)
def test_planted_heads_are_found(cls: type[Any]) -> None:
    model = Planted()
    options = {"start_temperature": 10.0, "end_temperature": 1e-2, "num_cooling_steps": 120}
    gate = cls(2, 4, len(PLANTED), **(options if cls is SubsetHeadGate else {}))
    assert sorted(model.found(gate)) != PLANTED
    optimizer, draw = torch.optim.Adam(gate.parameters(), lr=0.1), generator(7)
    for _ in range(150):
        x = torch.randn(23, 16, generator=draw)
        gap = (model(x, gate()) - model(x, model.truth)).square().mean() / model(x, model.truth).square().mean()
        optimizer.zero_grad()
        (gap + 0.01 * gate.penalty()).backward()
        optimizer.step()
    assert model.found(gate) == PLANTED
    x = torch.randn(23, 16, generator=draw)
    assert_close(model(x, gate.eval()()), model(x, model.truth))


def test_heads_that_the_loss_hears_are_important() -> None:
    model, gate, draw = Planted(), ImportanceHeadGate(2, 4, len(PLANTED)), generator(7)
    with torch.no_grad():  # a trained model: the other heads hardly say a thing
        for layer, of_layer in zip(model.layers, model.truth):
            layer.out_proj.weight *= (of_layer + 0.01 * (1 - of_layer)).repeat_interleave(4)
    for _ in range(3):
        model(torch.randn(23, 16, generator=draw), gate()).square().mean().backward()
    assert model.found(gate) == PLANTED


def test_it_compiles_whole() -> None:
    import torch._dynamo

    torch._dynamo.reset()
    gate = subset(4, 0.7)
    compiled = torch.compile(gate, backend="aot_eager", fullgraph=True)
    out = compiled()
    assert abs(out.sum().item() - 4) < 1e-12 and gate.step.item() == 1
    out.square().sum().backward()
    assert gate.weight.grad is not None and gate.weight.grad.abs().max() > 0
    torch._dynamo.reset()


# --- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", GATES)
@pytest.mark.parametrize(
    "sizes, advice",
    [
        ((0, 5, 1), "num_layers must be at least 1, got 0"),
        ((3, 0, 1), "num_heads must be at least 1, got 0"),
        ((3, 5, 0), "num_keep must lie in 1 to 15, the heads of 3 layers × 5, got 0. It counts the heads that stay"),
        ((3, 5, 16), "num_keep must lie in 1 to 15, the heads of 3 layers × 5, got 16"),
    ],
)
def test_sizes_that_cannot_be_are_refused_with_advice(cls: type[Any], sizes: tuple[int, ...], advice: str) -> None:
    with pytest.raises(ValueError, match=re.escape(advice)):
        cls(*sizes)


@pytest.mark.parametrize(
    "cls, options, advice",
    [
        (SubsetHeadGate, {"end_temperature": 0.0}, "must be positive and fall, got 1000.0 and 0.0"),
        (SubsetHeadGate, {"start_temperature": 0.1, "end_temperature": 1.0}, "positive and fall, got 0.1 and 1.0"),
        (SubsetHeadGate, {"start_temperature": math.inf}, "must be positive and fall, got inf"),
        (SubsetHeadGate, {"num_cooling_steps": 0}, "num_cooling_steps must be at least 1, got 0"),
        (HardConcreteHeadGate, {"temperature": 0.0}, "temperature must be positive, got 0.0"),
        (HardConcreteHeadGate, {"limits": (0.0, 1.1)}, "limits must lie below 0 and above 1, got 0.0 and 1.1"),
    ],
)
def test_options_that_cannot_be_are_refused_with_advice(cls: type[Any], options: dict[str, Any], advice: str) -> None:
    with pytest.raises(ValueError, match=re.escape(advice)):
        cls(LAYERS, HEADS, KEEP, **options)
