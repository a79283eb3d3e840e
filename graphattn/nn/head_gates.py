"""Which heads of a model stay: one gate per head over all layers, and exactly `num_keep` of them in the end.

A model makes one of these, calls it once per forward and passes `head_gate=gate[layer]` to its layers. They differ in
what training does; in evaluation each is ones at `num_keep` heads and zeros elsewhere, and `kept()` says which to
`prune`. To train everything at once, give `gate.parameters()` a group of their own in the optimizer, without weight
decay and at a far larger rate (Li et al. 2021 take 0.5 beside 2e-5); to choose heads of a trained model, freeze all
else.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

TINY = torch.finfo(torch.float64).tiny  # what has a logarithm


class HeadGate(nn.Module):
    """What all gates share: a number per head, and the heads that have the largest ones.

    Args:
        num_layers, num_heads: of the model, before anything is pruned.
        num_keep: heads that stay, of all layers together; a layer may lose all of its own.

    Raises:
        ValueError: for sizes below 1, or more heads to keep than there are.
    """

    weight: Tensor  # [num_layers, num_heads], the larger the sooner kept

    def __init__(self, num_layers: int, num_heads: int, num_keep: int):
        super().__init__()
        for name, number in (("num_layers", num_layers), ("num_heads", num_heads)):
            if number < 1:
                raise ValueError(f"{name} must be at least 1, got {number}. It is the size of the model.")
        if not 1 <= num_keep <= num_layers * num_heads:
            raise ValueError(
                f"num_keep must lie in 1 to {num_layers * num_heads}, the heads of {num_layers} layers × {num_heads}, "
                f"got {num_keep}. It counts the heads that stay, of all layers together."
            )
        self.num_layers, self.num_heads, self.num_keep = num_layers, num_heads, num_keep

    @torch.no_grad()
    def hard(self) -> Tensor:
        """Returns ones at the `num_keep` heads of the largest numbers and zeros elsewhere; of equals the first stay.

        Returns:
            float64 [num_layers, num_heads]; without chance, without a gradient.
        """
        order = self.weight.flatten().sort(descending=True, stable=True).indices
        gate = torch.zeros(order.numel(), dtype=torch.float64, device=order.device)
        return gate.index_fill_(0, order[: self.num_keep], 1.0).view(self.num_layers, self.num_heads)

    def kept(self) -> list[list[int]]:
        """Returns the numbers of the heads that `hard` keeps in each layer, as `prune` takes them."""
        return [row.nonzero()[:, 0].tolist() for row in self.hard().cpu()]

    def penalty(self) -> Tensor:
        """Returns what is to be added to the loss, times a strength: zero where the number of heads is exact anyway."""
        return self.weight.new_zeros((), dtype=torch.float64)

    def extra_repr(self) -> str:
        return f"num_layers={self.num_layers}, num_heads={self.num_heads}, num_keep={self.num_keep}"


class _TrainedGate(HeadGate):
    """A gate whose numbers are trained."""

    def __init__(self, num_layers: int, num_heads: int, num_keep: int):
        super().__init__(num_layers, num_heads, num_keep)
        self.weight = nn.Parameter(torch.empty(num_layers, num_heads, dtype=torch.float64))
        nn.init.xavier_uniform_(self.weight)


class SubsetHeadGate(_TrainedGate):
    r"""Differentiable subset pruning: a relaxed choice of `num_keep` heads, which cooling makes a choice of exactly so
    many.

        r¹ = w + Gumbel noise;   pʲ = softmax(rʲ / T);   rʲ⁺¹ = rʲ + log(1 − pʲ);   gate = Σ_{j ≤ num_keep} pʲ

    In training gates sum to `num_keep` at any temperature T, which falls geometrically with the steps. Hot, all are
    equal, num_keep over the number of heads, which a trained model feels at its first step; cold, they are ones and
    zeros. Between, one may exceed 1. All is computed in float64, whatever the model's dtype: at T = 1e-8 no less will
    do. Where all heads are kept, gates are one.

    Args:
        num_layers, num_heads: of the model.
        num_keep: heads that stay, of all layers together.
        start_temperature, end_temperature: T at the first step, and from `num_cooling_steps` on.
        num_cooling_steps: training steps over which T falls. A forward in training that records gradients is one step;
            where it is not (several to one step of the optimizer), set the buffer: `gate.step.fill_(step)`.

    Raises:
        ValueError: for sizes below 1, more heads to keep than there are, or temperatures that do not fall.

    Source: Li et al. 2021, differentiable subset pruning of transformer heads; the relaxed choice of a subset is that
    of Xie and Ermon 2019, the defaults are theirs for BERT on MNLI trained jointly. They leave the noise on in
    evaluation; here it is off.

    >>> gate = SubsetHeadGate(num_layers=2, num_heads=3, num_keep=4)
    >>> round(gate().sum().item(), 9), gate.eval()().sum()
    (4.0, tensor(4., dtype=torch.float64))
    """

    step: Tensor

    def __init__(
        self,
        num_layers: int,
        num_heads: int,
        num_keep: int,
        *,
        start_temperature: float = 1000.0,
        end_temperature: float = 1e-8,
        num_cooling_steps: int = 25_000,
    ):
        super().__init__(num_layers, num_heads, num_keep)
        if not 0.0 < end_temperature <= start_temperature < math.inf:
            raise ValueError(
                "start_temperature and end_temperature must be positive and fall, got "
                f"{start_temperature} and {end_temperature}. Cool from hot to cold, such as from 1000 to 1e-8."
            )
        if num_cooling_steps < 1:
            raise ValueError(f"num_cooling_steps must be at least 1, got {num_cooling_steps}. Cool over some steps.")
        self.start_temperature, self.end_temperature = start_temperature, end_temperature
        self.num_cooling_steps = num_cooling_steps
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    @property
    def temperature(self) -> Tensor:
        """T at the present step, float64."""
        share = (self.step.double() / self.num_cooling_steps).clamp(0.0, 1.0)
        start, end = math.log(self.start_temperature), math.log(self.end_temperature)
        return torch.exp(start - share * (start - end))

    def forward(self, *, generator: torch.Generator | None = None) -> Tensor:
        """Returns a gate per head, float64 [num_layers, num_heads]: relaxed in training, `hard` in evaluation.

        Args:
            generator: on the CPU, of the noise; None takes torch's default one, so that every device draws the same.
        """
        if not self.training:
            return self.hard()
        temperature = self.temperature
        if torch.is_grad_enabled():
            self.step += 1
        weight = self.weight.double()
        if self.num_keep == weight.numel():  # the relaxation would miss one by far
            return torch.ones_like(weight) + 0.0 * weight
        # minus the logarithm of an exponential number is a Gumbel number
        draws = torch.empty(weight.shape, dtype=torch.float64).exponential_(generator=generator).clamp(min=TINY)
        rest = (weight - draws.log().to(weight.device)).flatten()
        gate = torch.zeros_like(rest)
        for _ in range(self.num_keep):
            chosen = (rest / temperature).softmax(0)
            gate = gate + chosen
            rest = rest + (1.0 - chosen).clamp(min=TINY).log()
        return gate.view_as(weight)

    def extra_repr(self) -> str:
        cooling = f"{self.start_temperature:g} to {self.end_temperature:g} in {self.num_cooling_steps} steps"
        return f"{super().extra_repr()}, temperature {cooling}"


class StraightThroughHeadGate(_TrainedGate):
    """Gates that are `hard` in training too, with the gradient of the gate as that of its number.

    There is no chance and no temperature. Dropped heads have gradients as kept ones do, so they can come back.

    Args:
        num_layers, num_heads: of the model.
        num_keep: heads that stay, of all layers together.

    Source: Li et al. 2021, the straight-through variant, after Bengio et al. 2013. Their comparison with one number
    keeps fewer among equals, and fails where all are kept; here it is always `num_keep`.

    >>> gate = StraightThroughHeadGate(num_layers=2, num_heads=3, num_keep=4)
    >>> (gate() * torch.arange(6.0).view(2, 3)).sum().backward()
    >>> gate().sum().item(), gate.weight.grad.tolist()
    (4.0, [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]])
    """

    def forward(self) -> Tensor:
        """Returns ones and zeros, float64 [num_layers, num_heads]."""
        hard = self.hard()
        if not self.training:
            return hard
        weight = self.weight.double()
        return hard + (weight - weight.detach())  # the difference is exactly zero


class HardConcreteHeadGate(_TrainedGate):
    r"""Gates from hard concrete distributions, and an L0 penalty that closes them.

        s = sigmoid((log u − log(1 − u) + w) / temperature),  u uniform in (0, 1)
        gate = clamp(s · (high − low) + low, 0, 1)
        penalty = Σ_heads P(gate > 0) = Σ sigmoid(w − temperature · log(−low / high))

    The strength of the penalty decides how many heads are open in training, so their sum is not `num_keep`; what is
    fixed is evaluation, which keeps the `num_keep` with the largest w, open to the full.

    Args:
        num_layers, num_heads: of the model.
        num_keep: heads that stay, of all layers together.
        temperature: of the distribution.
        limits: (low, high), below 0 and above 1: what lies beyond is clamped, so that gates are exactly 0 and 1.

    Raises:
        ValueError: for sizes below 1, more heads to keep than there are, or limits within [0, 1].

    Source: Voita et al. 2019, with the distribution of Louizos et al. 2018 and the temperature of Li et al. 2021, who
    compare with them. There the heads that stay are those open after training; here, to compare at one number, those
    with the largest w.

    >>> gate = HardConcreteHeadGate(num_layers=2, num_heads=3, num_keep=4)
    >>> bool(((gate() >= 0) & (gate() <= 1)).all()), 0 < gate.penalty().item() < 6
    (True, True)
    """

    def __init__(
        self,
        num_layers: int,
        num_heads: int,
        num_keep: int,
        *,
        temperature: float = 0.33,
        limits: tuple[float, float] = (-0.1, 1.1),
    ):
        super().__init__(num_layers, num_heads, num_keep)
        if not temperature > 0.0:
            raise ValueError(f"temperature must be positive, got {temperature}. Near 0 gates are nearly 0 or 1.")
        low, high = limits
        if not (low < 0.0 and high > 1.0):
            raise ValueError(f"limits must lie below 0 and above 1, got {low} and {high}. Use (-0.1, 1.1).")
        self.temperature, self.limits = temperature, (low, high)

    def forward(self, *, generator: torch.Generator | None = None) -> Tensor:
        """Returns a gate per head in [0, 1], float64 [num_layers, num_heads]: by chance in training, else `hard`.

        Args:
            generator: on the CPU, of u; None takes torch's default one, so that every device draws the same.
        """
        if not self.training:
            return self.hard()
        weight, (low, high) = self.weight.double(), self.limits
        uniform = torch.rand(weight.shape, dtype=torch.float64, generator=generator)
        noise = torch.logit(uniform, eps=torch.finfo(torch.float64).eps).to(weight.device)
        return (((noise + weight) / self.temperature).sigmoid() * (high - low) + low).clamp(0.0, 1.0)

    def penalty(self) -> Tensor:
        """Returns the number of gates that are expected to be open, to be added to the loss times a strength."""
        low, high = self.limits
        return (self.weight.double() - self.temperature * math.log(-low / high)).sigmoid().sum()


class ImportanceHeadGate(HeadGate):
    r"""Gates that measure: ones in training, which collect how much the loss depends on each head.

        importance_h = Σ_backwards |∂loss / ∂gate_h|, divided by the L2 norm of its layer

    Nothing is trained here. Run forward and backward of a trained model over some data in training mode, without a step
    of an optimizer, then evaluate or prune. Each backward adds; `gate.importance.zero_()` starts anew.

    Args:
        num_layers, num_heads: of the model.
        num_keep: heads that stay, of all layers together.

    Source: Michel et al. 2019, sec. 4.1, with the norm of a layer as in Molchanov et al. 2017. The absolute value is
    that of a batch's gradient; theirs is of each example, which batches of one example give. To prune in rounds, as
    they do, keep fewer heads each time.

    >>> gate = ImportanceHeadGate(num_layers=1, num_heads=3, num_keep=2)
    >>> (gate() * torch.tensor([[-4.0, 0.0, 3.0]])).sum().backward()
    >>> gate.kept(), gate.importance
    ([[0, 2]], tensor([[4., 0., 3.]], dtype=torch.float64))
    """

    importance: Tensor

    def __init__(self, num_layers: int, num_heads: int, num_keep: int):
        super().__init__(num_layers, num_heads, num_keep)
        self.register_buffer("importance", torch.zeros(num_layers, num_heads, dtype=torch.float64))

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The importance of each head as a share of its layer's, [num_layers, num_heads]."""
        norm = torch.linalg.vector_norm(self.importance.double(), dim=1, keepdim=True)
        return torch.where(norm > 0.0, self.importance / norm, 0.0)

    def forward(self) -> Tensor:
        """Returns ones whose gradient is collected in training, `hard` in evaluation, float64."""
        if not self.training:
            return self.hard()
        gate = torch.ones_like(self.importance, dtype=torch.float64)
        if torch.is_grad_enabled():
            gate.requires_grad_().register_hook(self._collect)
        return gate

    @torch.no_grad()
    def _collect(self, gradient: Tensor) -> None:
        self.importance += gradient.abs()
