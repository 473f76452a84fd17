"""A weight matrix against the law of Marchenko and Pastur: the bulk that chance explains, what stands out of it, and its tail.

For W (rows, columns), n the longer and d the shorter side, the eigenvalues are those of WᵀW/n. The bulk's variance σ² starts at
the eigenvalues' median over that of the law, and is then the mean of what is left when the outliers are taken out, with what they
took from the bulk put back (Kritchman & Nadler 2009), repeated until their number stands still. An outlier is an eigenvalue above
the quantile, at the stated level, of the largest one of a white matrix: at 99 %, one matrix of independent Gaussian entries in a
hundred shows one.

What it does not know: why an eigenvalue stands out (training, or rows of unequal size, or a mean that is not 0). Where most
of a matrix is not chance, "bulk" is a fit and not a finding (with 60 of 200 columns three times as large σ² reads .14 too high):
`distance`, the Kolmogorov distance of the bulk from the law, then lies above what chance allows, and `is_chance` is no. The tail
is judged with care: 600 eigenvalues of a matrix with Pareto entries (no variance) are no lognormal's at p = .07 to .12 alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import InputError
from ..linalg import finite
from ..reading import Reading
from . import marchenko_pastur as law
from .tail import Tail, power_law_tail

Floats = NDArray[np.float64]

LEAST_SIDE = 20
ROUNDS = 50
ROUNDING = 1e-12  # of the largest eigenvalue: what is below is rounding


@dataclass(frozen=True, eq=False)
class WeightSpectrum:
    """What the spectrum of one matrix shows.

    Attributes:
        values: (d,) eigenvalues of WᵀW/n, descending; `aspect`: d/n.
        bulk: σ²; `edge`: the eigenvalue above which one is an outlier; `outliers`: how many are.
        strengths: θ of each outlier: the variance along it is σ²(1 + θ).
        distance: Kolmogorov distance of the bulk from the law; `allowed`: what chance stays below.

    None of these is measured where the number of outliers does not settle.
    """

    values: Floats
    aspect: float
    bulk: Reading
    edge: Reading
    outliers: Reading
    strengths: tuple[float, ...]
    distance: Reading
    allowed: float

    @property
    def is_chance(self) -> bool:
        """Whether the bulk follows the law and nothing stands out of it."""
        return self.outliers.value == 0 and self.distance.value is not None and self.distance.value <= self.allowed

    def tail(self, generator: np.random.Generator) -> Tail:
        """Whether the eigenvalues above 0 fall as a power of their size; see `tail`."""
        return power_law_tail(torch.as_tensor(self.values[self.values > ROUNDING * self.values[0]]), generator)


def weight_spectrum(weights: Tensor, level: float = 0.99) -> WeightSpectrum:
    """Compare a matrix (rows, columns) with a white one; either side may be the longer.

    Raises:
        InputError: not a matrix, a side below 20, a NaN, all 0, or of so low a rank that its bulk is rounding.
    """
    wide = finite(weights, "weights")
    if wide.ndim != 2 or min(wide.shape) < LEAST_SIDE:
        raise InputError(f"weights: got shape {tuple(weights.shape)}, wanted a matrix with both sides at least {LEAST_SIDE}")
    wide = wide if wide.shape[0] >= wide.shape[1] else wide.T
    n, d = wide.shape
    left, singular, right = torch.linalg.svd(wide, full_matrices=False)
    values = np.square(singular.numpy()) / n
    if values[0] <= 0:
        raise InputError("weights: every one is 0, so there is no spectrum")
    level, aspect = float(level), d / n
    settled = _settled(values, n, level)
    if settled is None:
        why = "the number of outliers does not settle, so no bulk of chance can be told apart"
        none = Reading.not_measured(why, unit="squared weights", method=f"bulk and outliers of {n} × {d} at {level:.4g}", n=d)
        return WeightSpectrum(values, aspect, none, none, none, (), none, law.rigidity(d))
    variance, count, strengths = settled
    rest = wide - (left[:, :count] * singular[:count]) @ right[:count]
    squares = rest.square().flatten()
    error = float(squares.std()) / float(squares.mean()) / math.sqrt(n * d)
    cutoff = law.largest(n, d, level)
    what = f"{n} × {d}, {count} outliers at {level:.4g}"
    bulk = _scaled(variance, 1.0, error, n * d, "squared weights", f"mean of the bulk's eigenvalues, {what}")
    edge = _scaled(variance, cutoff, error, n * d, "squared weights", f"σ² times the Tracy–Widom quantile at {level:.4g}, {what}")
    counts = [int((values > variance * cutoff * factor).sum()) for factor in (1 + 1.96 * error, 1 - 1.96 * error)]
    method = f"eigenvalues above σ² times the Tracy–Widom quantile at {level:.4g}; interval from that of σ²"
    outliers = Reading(float(count), float(min(*counts, count)), float(max(*counts, count)), 0.95, d, "eigenvalues", None, method)
    apart = law.distance(values[count:] / variance, aspect)
    distance = Reading(
        apart, apart, apart, None, d, "share", None, f"Kolmogorov distance of {d - count} eigenvalues from the law"
    )
    return WeightSpectrum(values, aspect, bulk, edge, outliers, strengths, distance, law.rigidity(d))


def _settled(values: Floats, n: int, level: float) -> tuple[float, int, tuple[float, ...]] | None:
    """σ², the number of outliers and their strengths, each found with the other two; None where their number does not settle.

    Raises:
        InputError: the bulk is rounding.
    """
    d = len(values)
    aspect, cutoff = d / n, law.largest(n, d, level)
    variance = _sized(float(np.median(values)), values, "more than half of its spectrum") / law.median(aspect)
    seen: set[int] = set()
    count = int((values > variance * cutoff).sum())
    for _ in range(ROUNDS):
        strengths = [law.strength(float(value) / variance, aspect) for value in values[:count]]
        # An outlier of strength θ stands θ⁻¹q(1 + θ) above its own variance, and the bulk has that much less.
        taken = sum(1 + aspect * (1 + strength) / strength for strength in strengths)
        if taken >= d:
            break
        variance = _sized(float(values[count:].sum()), values, f"what {count} outliers leave of its spectrum") / (d - taken)
        again = int((values > variance * cutoff).sum())
        if again == count:
            return variance, count, tuple(strengths)
        if again in seen:  # two numbers take turns: the larger, which leaves less to the bulk
            again = max(again, count)
        seen.add(count)
        count = again
    return None


def _sized(size: float, values: Floats, what: str) -> float:
    """The size as it is; refused where it is rounding beside the largest eigenvalue."""
    if not size > ROUNDING * values[0]:
        raise InputError(f"weights: {what} is rounding (rank {int((values > ROUNDING * values[0]).sum())}), so there is no bulk")
    return size


def _scaled(variance: float, factor: float, error: float, n: int, unit: str, method: str) -> Reading:
    value = variance * factor
    return Reading(value, value * (1 - 1.96 * error), value * (1 + 1.96 * error), 0.95, n, unit, None, method)
