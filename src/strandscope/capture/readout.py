"""From the final hidden state to a distribution: what is drawn from it, its gradient, and its metric there.

For a head whose logits are an elementwise function of W·h + b, log p(y) has the gradient `W[y] − Wᵀp` at h, each row of W times
the slope of that function: no gradient of vocabulary size is ever built. That the head is such a one is found by trying it, on
every context, never by name: biases, scales and soft caps are. Everything else goes through the logits themselves, where W is the
identity.

Probabilities, entropies and draws are computed in float64 from the logits as the network gives them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ..errors import InputError, TrustError
from ..provenance import torch_generator

_ROWS = 8192  # of the unembedding that are held in a wider dtype at a time
NEGLIGIBLE = 1e-6  # share of tr A that a participation ratio of A may leave out


@dataclass(frozen=True, eq=False)
class Readout:
    """The answer of one context: `output` (D) with its graph, at which gradients start, and the logits (V) that it makes.

    `weight` (V, D) is the unembedding, None where `output` is the logits themselves (or the answer of a regression); `slope` (V)
    that of the logits in what the head returned, None where they are the same. `noise` is the σ of a regression.
    """

    output: Tensor
    logits: Tensor
    weight: Tensor | None = None
    slope: Tensor | None = None
    noise: float | None = None
    norms: Tensor | None = field(default=None, repr=False)  # ‖W[y]‖² (V), where it is known already

    @property
    def wide(self) -> torch.dtype:
        return torch.promote_types(self.output.dtype, torch.float32)

    @property
    def width(self) -> int:
        return self.output.shape[-1]

    def distribution(self, scale: float = 1.0) -> Tensor:
        """p (V), float64, of the logits times `scale`."""
        return (scale * self.logits).softmax(-1)

    def rows(self, tokens: Tensor) -> Tensor:
        """∂ logit / ∂ output of these tokens: (tokens, D)."""
        if self.weight is None:
            chosen = torch.zeros(len(tokens), self.width, dtype=self.wide, device=self.output.device)
            return chosen.scatter_(1, tokens[:, None].to(chosen.device), 1.0)
        chosen = self.weight[tokens.to(self.weight.device)].detach().to(self.wide)
        return chosen if self.slope is None else chosen * self.slope[tokens.to(self.slope.device), None].to(chosen)

    def mean(self, p: Tensor) -> Tensor:
        """Σ p(y) ∂ logit_y / ∂ output, (D)."""
        if self.weight is None:
            return p.to(self.output.device, self.wide)
        heavy = p if self.slope is None else p * self.slope.to(p)
        parts = zip(heavy.to(self.weight.device, self.wide).split(_ROWS), self.weight.detach().split(_ROWS), strict=True)
        return torch.stack([part @ rows.to(self.wide) for part, rows in parts]).sum(0)

    def draws(self, count: int, scale: float, seed: int, row: str) -> Tensor:
        """Cotangents (count, D): ∇ log p(y) at the output for `count` draws of y. Those of few draws begin those of many."""
        generator = torch_generator(seed, "response draws", row)
        if self.noise is not None:
            drawn = torch.randn(count, self.width, generator=generator, dtype=torch.float64)
            return (drawn / self.noise).to(self.output.device, self.wide)
        p = self.distribution(scale)
        uniform = torch.rand(count, generator=generator, dtype=torch.float64)
        tokens = torch.searchsorted(p.cumsum(0).cpu(), uniform).clamp_max(len(p) - 1)
        return scale * (self.rows(tokens) - self.mean(p))

    def probes(self, count: int, seed: int, row: str) -> Tensor:
        """Cotangents u ~ N(0, I): (count, D)."""
        generator = torch_generator(seed, "response probes", row)
        return torch.randn(count, self.width, generator=generator).to(self.output.device, self.wide)

    def factor(self, scale: float = 1.0, negligible: float = NEGLIGIBLE) -> tuple[Tensor, float]:
        """(C, share) with A = CᵀC the metric at the output, C (tokens, D): the fewest tokens of which all left-out ones together
        make up at most a share `negligible` of tr A, and that share."""
        if self.noise is not None:
            return torch.eye(self.width, dtype=self.wide, device=self.output.device) / self.noise, 0.0
        p = self.distribution(scale)
        mean = self.mean(p)
        weights = p * self._distances(mean, p)
        total = float(weights.sum())
        if total <= 0:
            return torch.zeros(1, self.width, dtype=self.wide, device=self.output.device), 0.0
        ordered, tokens = weights.sort(descending=True)
        left = (total - ordered.cumsum(0)).clamp_min(0)
        kept = min(len(p), int((left > negligible * total).sum()) + 1)
        chosen = tokens[:kept]
        centred = self.rows(chosen) - mean
        factor = centred * (scale * p[chosen].sqrt()).to(centred)[:, None]
        return factor, float(left[kept - 1]) / total if kept < len(p) else 0.0

    def _distances(self, mean: Tensor, p: Tensor) -> Tensor:
        """‖∂ logit_y / ∂ output − mean‖² (V), float64."""
        centre = mean.double()
        if self.weight is None:
            return (1 - 2 * centre + centre @ centre).to(p.device)
        weight = self.weight.detach()
        along = torch.cat([part.to(self.wide) @ mean.to(weight.device) for part in weight.split(_ROWS)]).to(p)
        norms = squared_norms(weight, self.wide).to(p) if self.norms is None else self.norms.to(p)
        slope = 1.0 if self.slope is None else self.slope.to(p)
        return (slope**2 * norms - 2 * slope * along + (centre @ centre).to(p)).clamp_min(0)


def squared_norms(weight: Tensor, wide: torch.dtype) -> Tensor:
    return torch.cat([part.detach().to(wide).square().sum(1) for part in weight.split(_ROWS)])


def entropy_of(logits: Tensor, scale: float = 1.0) -> float:
    """Entropy in nats of softmax(scale · logits), float64."""
    logp = (scale * logits.double()).log_softmax(-1)
    return float(torch.special.entr(logp.exp()).sum())


def temper(logits: Tensor, entropy: float, row: str) -> float:
    """β at which softmax(β · logits) has this entropy (nats), to 1e-9 of log β: entropy falls as β grows.

    Raises:
        InputError: no β has it.
    """
    ties = int((logits == logits.max()).sum())
    most, least = math.log(len(logits)), math.log(ties)
    if not (math.isfinite(entropy) and least < entropy < most):
        raise InputError(
            f"entropy of {row}: got {entropy:g} nats, which no scale of its logits has; wanted a figure between {least:.3g} and "
            f"{most:.4g}, such as another network's entropy on the same row"
        )
    low, high = -1.0, 1.0
    while entropy_of(logits, math.exp(low)) < entropy and low > -700:
        low *= 2
    while entropy_of(logits, math.exp(high)) > entropy and high < 700:
        high *= 2
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (middle, high) if entropy_of(logits, math.exp(middle)) > entropy else (low, middle)
    return math.exp((low + high) / 2)


def output_participation(factor: Tensor, left_out: float = 0.0) -> tuple[float, float]:
    """(tr A)²/tr A² of A = CᵀC, and how much leaving out a share of tr A can have moved it, as a share of itself.

    tr A is known whole; left out, T' of it moves ‖A‖_F by at most T', for what is left out is positive too.
    """
    gram = factor.mT @ factor if factor.shape[0] > factor.shape[1] else factor @ factor.mT
    trace, square = float(factor.double().square().sum()), float(gram.double().square().sum())
    if square <= 0 or not math.isfinite(square):
        raise TrustError("the metric of the output is zero: its distribution is one certain token; raise the entropy (entropy=)")
    whole = trace / (1 - left_out)
    error = (1 + left_out * whole / math.sqrt(square)) ** 2 - 1
    return whole**2 / square, error


@dataclass(frozen=True, eq=False)
class Head:
    """What is known of a subject's head: its module, and whether logits are an elementwise function of what it returns."""

    module: nn.Module
    norms: Tensor

    def read(self, given: Tensor, made: Tensor, place: tuple[int, ...], logits: Tensor) -> tuple[Tensor, Tensor | None] | None:
        """(hidden state, slope) at a place, the state with its graph; None where this is no head of that kind.

        Args:
            given, made: what the head took (…, D) and returned (…, V). logits: the network's answer at the place.
        """
        weight, bias = self.module.weight, getattr(self.module, "bias", None)
        assert isinstance(weight, Tensor)
        hidden, scores = given[place], made[place]
        if hidden.shape != weight.shape[1:] or scores.shape != logits.shape or not hidden.requires_grad:
            return None
        with torch.no_grad():
            product = nn.functional.linear(hidden, weight, bias)
            near = 64 * torch.finfo(scores.dtype).eps * float(scores.abs().max())
            if not torch.allclose(product, scores, rtol=0, atol=max(near, 1e-30)):
                return None
        if torch.equal(logits.detach(), scores.detach()):
            return hidden, None
        slope = _pulled(logits, made, torch.ones_like(logits))
        mixed = torch.randn(len(logits), generator=torch_generator(0, "head")).to(logits)
        if slope is None:
            return None
        both = _pulled(logits, made, mixed)
        wanted = torch.zeros_like(made)
        wanted[place] = mixed.to(made) * slope[place]
        return (hidden, slope[place]) if both is not None and torch.allclose(both, wanted, rtol=1e-3, atol=1e-6) else None


def _pulled(logits: Tensor, made: Tensor, cotangent: Tensor) -> Tensor | None:
    if not (logits.requires_grad and made.requires_grad):
        return None
    (found,) = torch.autograd.grad(logits, made, cotangent, retain_graph=True, allow_unused=True)
    return found
