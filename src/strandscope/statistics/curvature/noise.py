"""Gradient noise: how far the gradients of single rows scatter about their mean, and the batch beyond which that stops to matter.

With G the gradient of the mean loss and Σ the covariance of single rows' gradients, a batch of n rows has E‖g‖² = ‖G‖² + tr Σ/n.
Batches of known sizes therefore give both without bias: ‖G‖² from products of different batches, tr Σ from what their squares
have beyond it. The noise scale tr Σ/‖G‖² (McCandlish et al. 2018) is in rows; batches far below it are mostly noise, batches far
above it repeat themselves. It is not the batch of Ma, Bassily & Belkin (2018), m* ≈ β/λ₁ + 1 with β the largest ‖x‖² of the rows,
at which the linear gain in steps of interpolating SGD saturates: that one is curvature's (`top_eigenvalues`), not the gradient's.

Sums are held for a few groups of batches, and merge exactly. The interval of the ratio is Fieller's, from the jackknife over the
groups' sums: where ‖G‖² could be 0 the ratio has no upper end, and it reads "not measured". Batches must be independent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from scipy.stats import t as student
from torch import Tensor

from ...errors import InputError
from ...linalg import finite
from ...reading import Reading
from ..accumulators.checks import LIMIT, afford, partner, same
from .derivatives import Batches, Loss, batch_gradients
from .weights import Parameters

GROUPS = 16
LEAST_GROUPS = 8  # with batches in them


@dataclass(frozen=True, slots=True)
class Noise:
    """tr Σ and ‖G‖² without bias, and each without one group of batches.

    Attributes:
        scatter: tr Σ; `square`: ‖G‖²; both in (loss per parameter)².
        left: (groups, 2) both without each group in turn.
        rows, batches: how many there were.
    """

    scatter: float
    square: float
    left: Tensor
    rows: int
    batches: int

    @property
    def covariance(self) -> Tensor:
        """(2, 2) jackknife covariance of (tr Σ, ‖G‖²)."""
        groups = len(self.left)
        centred = self.left - self.left.mean(0)
        return (groups - 1) / groups * centred.T @ centred

    def scale(self, level: float = 0.95) -> Reading:
        """tr Σ/‖G‖² (rows) with Fieller's interval."""
        groups = len(self.left)
        method = f"gradient noise tr Σ/‖G‖² from {self.batches} batches, Fieller over a jackknife of {groups} groups"
        unit = "rows"
        if groups < LEAST_GROUPS:
            why = f"{self.batches} batches make {groups} groups; at least {LEAST_GROUPS} are needed"
            return Reading.not_measured(why, unit=unit, method=method, n=self.rows)
        t = float(student.ppf(0.5 + level / 2, groups - 1))
        (aa, ab), (_, bb) = self.covariance.tolist()
        a, b = self.scatter, self.square
        # ρ with (a − ρb)² ≤ t² Var(a − ρb): a quadratic in ρ
        lead, middle, last = b * b - t * t * bb, a * b - t * t * ab, a * a - t * t * aa
        if b <= 0 or lead <= 0:
            why = f"‖G‖² = {b:.3g} ± {bb**0.5:.2g} cannot be told from 0; add batches"
            return Reading.not_measured(why, unit=unit, method=method, n=self.rows)
        reach = max(middle * middle - lead * last, 0.0) ** 0.5
        low, high, value = (middle - reach) / lead, (middle + reach) / lead, a / b
        return Reading(value, min(low, value), max(high, value), level, self.rows, unit, None, method)


class NoiseSums:
    """Sums of batch gradients (p,) in a few groups; batch number b goes to group b mod `groups`."""

    def __init__(self, p: int, groups: int = GROUPS, *, limit: int = LIMIT) -> None:
        if groups < 2:
            raise InputError(f"groups: got {groups}, wanted at least 2, such as {GROUPS}")
        afford(8 * p * groups, limit, f"{groups} sums of {p:,} parameters", "take fewer groups or parameters")
        self.p, self.groups, self.batches = p, groups, 0
        self.sums = torch.zeros(groups, p, dtype=torch.float64)
        # per group: batches, Σn, Σn², Σn‖g‖², Σn²‖g‖²
        self.counts = torch.zeros(groups, 5, dtype=torch.float64)

    def update(self, gradient: Tensor, rows: int) -> None:
        """Add the mean gradient (p,) of a batch of so many rows."""
        if gradient.shape != (self.p,) or rows < 1:
            raise InputError(f"gradient: got shape {tuple(gradient.shape)} of {rows} rows, wanted ({self.p},) of at least one")
        g = finite(gradient.detach(), "gradient").cpu()
        group, square = self.batches % self.groups, float(g @ g)
        self.batches += 1
        self.sums[group] += rows * g
        self.counts[group] += torch.tensor([1, rows, rows**2, rows * square, rows**2 * square], dtype=torch.float64)

    def merge(self, other: NoiseSums) -> None:
        partner(self, other)
        same({"p": self.p, "groups": self.groups}, {"p": other.p, "groups": other.groups})
        self.sums += other.sums
        self.counts += other.counts
        self.batches += other.batches

    def result(self) -> Noise:
        filled = self.counts[:, 0] > 0
        sums, counts = self.sums[filled], self.counts[filled]
        if self.batches < 2:
            raise InputError(f"batches: got {self.batches}, wanted at least 2; the noise is what tells them apart")
        inner = sums @ sums.T
        whole, total = counts.sum(0), inner.sum(1)
        square = float(total.sum())
        left = [
            _unbiased(whole - counts[i], square - 2 * float(total[i]) + float(inner[i, i]))
            for i in range(len(counts))
            if whole[0] - counts[i, 0] >= 2
        ]
        scatter, slope = _unbiased(whole, square)
        return Noise(scatter, slope, torch.tensor(left, dtype=torch.float64).reshape(-1, 2), int(whole[1]), self.batches)

    def state_dict(self) -> dict[str, Any]:
        sums = {"sums": self.sums.clone(), "counts": self.counts.clone()}
        return {"p": self.p, "groups": self.groups, "batches": self.batches, **sums}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        same({"p": self.p, "groups": self.groups}, {"p": state["p"], "groups": state["groups"]}, "load_state_dict")
        self.batches, self.sums, self.counts = state["batches"], state["sums"].clone(), state["counts"].clone()


def _unbiased(counts: Tensor, square: float) -> tuple[float, float]:
    """tr Σ and ‖G‖² from the counts of a NoiseSums and ‖Σ n g‖²."""
    batches, rows, rows2, mean, weighted = counts.tolist()
    slope = (square - weighted) / (rows * rows - rows2)
    return (mean - rows * slope) / batches, slope


def gradient_noise(
    loss: Loss, parameters: Parameters, batches: Batches, *, only: Sequence[str] | None = None, limit: int = LIMIT
) -> Noise:
    """The noise of the loss's gradient over batches, which need not be of one size; `loss` as `hessian` takes it."""
    sums: NoiseSums | None = None
    for rows, gradient in batch_gradients(loss, parameters, batches, only=only):
        sums = sums or NoiseSums(len(gradient), limit=limit)
        sums.update(gradient, rows)
    if sums is None:
        raise InputError("batches: got none, wanted at least 2")
    return sums.result()
