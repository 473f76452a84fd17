"""The law of Marchenko and Pastur, and how far a finite white matrix may be from it.

For W (n, d) with independent entries of variance σ² and q = d/n ≤ 1, the eigenvalues of WᵀW/n fill [σ²(1 − √q)², σ²(1 + √q)²].
A spike, a direction whose variance is σ²(1 + θ), comes out of the bulk where θ > √q: its sample eigenvalue is then at
σ²(1 + θ)(1 + q/θ), and the sample eigenvector lies along it with cos² = (1 − q/θ²)/(1 + q/θ) (Baik, Ben Arous & Péché 2005;
Paul 2007). At or below the threshold there is nothing to see.

At finite n the largest eigenvalue of a white matrix follows the Tracy–Widom law about Johnstone's centre (2001; centring by
halves, Ma 2012). Its quantiles are taken from a shifted gamma (Chiani 2014; .01 too low at 99 %, .03 at 99.9 %). The counting
function of d eigenvalues stays within about (√2/π) ln d of its mean at its worst place (optimal rigidity, Claeys et al. 2021, for
real matrices), so the Kolmogorov distance of a white matrix from the law is at most about (2 + (√2/π) ln d)/d, the 2 for the
steps and for what the mean itself is off.

What it does not know: entries whose fourth moment is infinite, which have no edge.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import root_scalar
from scipy.stats import gamma

from ..errors import InputError

Floats = NDArray[np.float64]

_SHAPE, _SCALE, _SHIFT = 46.446, 0.186054, 9.84801  # Chiani's fit to Tracy–Widom for real matrices


def edges(aspect: float) -> tuple[float, float]:
    """(1 ∓ √q)² of a bulk of variance 1."""
    root = math.sqrt(_checked(aspect))
    return (1 - root) ** 2, (1 + root) ** 2


def distribution(values: Floats, aspect: float) -> Floats:
    """The share of eigenvalues at most x, for a bulk of variance 1 and q = `aspect` ≤ 1."""
    low, high = edges(aspect)
    inside = np.clip(np.asarray(values, dtype=np.float64), low + 1e-12, high - 1e-12)
    root = np.sqrt((high - inside) / (inside - low))
    first = np.arctan2(root**2 - 1, 2 * root)
    second = np.arctan2(low * root**2 - high, 2 * (1 - aspect) * root)
    share = math.pi * aspect + np.sqrt((high - inside) * (inside - low)) - (1 + aspect) * first + (1 - aspect) * second
    return np.clip(share / (2 * math.pi * aspect), 0.0, 1.0)


def median(aspect: float) -> float:
    """The median of a bulk of variance 1."""
    low, high = edges(aspect)
    return root_scalar(lambda x: float(distribution(np.array([x]), aspect)[0]) - 0.5, bracket=(low, high), method="brentq").root


def distance(values: Floats, aspect: float) -> float:
    """The Kolmogorov distance of eigenvalues (d,) of a bulk of variance 1 from the law."""
    share, d = distribution(np.sort(values), aspect), len(values)
    steps = np.arange(d + 1) / d
    return float(max(np.max(steps[1:] - share), np.max(share - steps[:-1])))


def rigidity(d: int) -> float:
    """How far d eigenvalues of a white matrix may be from the law in Kolmogorov's distance."""
    return (2 + math.sqrt(2) / math.pi * math.log(d)) / d


def tracy_widom(level: float) -> float:
    """The quantile of the largest eigenvalue's law, real matrices, in its own scale."""
    if not 0.5 <= level < 1:
        raise InputError(f"level: got {level}, wanted one from 0.5 to below 1, such as 0.99")
    return float(gamma.ppf(level, _SHAPE, scale=_SCALE)) - _SHIFT


def largest(n: int, d: int, level: float) -> float:
    """The quantile at `level` of the largest eigenvalue of WᵀW/n, for a white W (n, d) of variance 1."""
    a, b = math.sqrt(n - 0.5), math.sqrt(d - 0.5)
    return ((a + b) ** 2 + tracy_widom(level) * (a + b) * (1 / a + 1 / b) ** (1 / 3)) / n


def spiked(strength: float, aspect: float) -> tuple[float, float]:
    """Where a spike θ above the threshold √q shows: its sample eigenvalue (bulk of variance 1) and its eigenvector's cos²."""
    if not strength > math.sqrt(_checked(aspect)):
        raise InputError(f"strength: got {strength:g}, wanted above √q = {math.sqrt(aspect):.3g}; below it a spike does not show")
    return (1 + strength) * (1 + aspect / strength), (1 - aspect / strength**2) / (1 + aspect / strength)


def strength(eigenvalue: float, aspect: float) -> float:
    """θ of the spike that shows at a sample eigenvalue above the edge (bulk of variance 1); √q at the edge and below it."""
    half = eigenvalue - 1 - aspect  # λ = (1 + θ)(1 + q/θ) = 1 + q + θ + q/θ
    return (half + math.sqrt(max(half**2 - 4 * aspect, 0.0))) / 2 if half > 2 * math.sqrt(aspect) else math.sqrt(aspect)


def _checked(aspect: float) -> float:
    if not 0 < aspect <= 1:
        raise InputError(f"aspect: got {aspect:g}, wanted d/n in (0, 1]; take the shorter side as d")
    return aspect
