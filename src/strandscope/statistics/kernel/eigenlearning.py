"""What kernel regression learns and what noise costs it, from the kernel's eigenvalues alone: the eigenlearning equations.

For eigenvalues λ_i, n rows and the penalty δ (K + δ is inverted), the constant κ > 0 with

    Σ_i λ_i/(λ_i + κ) + δ/κ = n,      L_i = λ_i/(λ_i + κ),      𝓔₀ = n/(n − Σ_i L_i²)

gives the learnability L_i of each eigenfunction, which add up to n − δ/κ, and the overfitting coefficient 𝓔₀: the test error of
a fit to noise of variance 1 (Simon et al., arXiv 2110.03922). κ is solved numerically for the finite spectrum that is given; with
δ = 0 and fewer eigenvalues than rows nothing is left to choose, κ = 0 and 𝓔₀ = n/(n − p), least squares. For λ_i = i^−a without
end and without ridge 𝓔₀ → a: "tempered" (Mallinar et al., arXiv 2207.06569).

What it does not know: it is the limit of many rows, for eigenfunctions that look like independent Gaussians. At finite n the
error is of order 1/n: in the isotropic case 𝓔₀ = p/(p − n) here and (p − 1)/(p − n − 1) exactly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import root_scalar
from torch import Tensor

from ...reading import Reading
from .spectrum import counted, exact, ridge_of, spectrum_of

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Eigenlearning:
    """κ and what follows from it, for a spectrum (p,), n rows and a penalty."""

    values: Floats
    n: int
    ridge: float
    kappa: float

    @property
    def learnabilities(self) -> Floats:
        """(p,) the share of each eigenfunction that is learned, in the order of the eigenvalues."""
        return self.values / (self.values + self.kappa)

    def overfitting(self) -> Reading:
        """𝓔₀, the test error of a fit to noise of variance 1."""
        method = (
            f"eigenlearning, κ = {self.kappa:.6g} solved for {len(self.values)} eigenvalues and {self.n} rows, δ = {self.ridge:g}"
        )
        left = self.n - float(np.square(self.learnabilities).sum())
        if left <= 1e-12 * self.n:
            why = f"as many eigenvalues as rows ({self.n}) and no ridge: the coefficient is infinite"
            return Reading.not_measured(why, unit="noise variances", method=method, n=self.n)
        return exact(self.n / left, self.n, "noise variances", method)


def eigenlearning(values: Tensor, n: int, ridge: float = 0.0) -> Eigenlearning:
    """Solve the equations for eigenvalues (p,), n rows and the penalty δ = `ridge`.

    Raises:
        InputError: eigenvalues below 0 or none above it, n below 1, a ridge below 0.
    """
    kept, n, ridge = spectrum_of(values), counted(n, "n"), ridge_of(ridge)
    p = len(kept)
    if ridge == 0 and p <= n:
        return Eigenlearning(kept, n, ridge, 0.0)

    def excess(log: float) -> float:
        kappa = math.exp(log)
        return float((kept / (kept + kappa)).sum()) + ridge / kappa - n

    # Both ends bracket: every L_i is at least n/p at the first lower end, and δ/κ = n at the second; Σλ/κ bounds ΣL above.
    low = max(kept[-1] * max(p - n, 0) / n, ridge / n)
    high = (float(kept.sum()) + ridge) / n
    ends = (math.log(low) - 1e-6, math.log(high) + 1e-6)
    return Eigenlearning(kept, n, ridge, math.exp(root_scalar(excess, bracket=ends, method="brentq", xtol=1e-14).root))


def overfitting_coefficient(values: Tensor, n: int, ridge: float = 0.0) -> Reading:
    """𝓔₀ for a spectrum (p,), n rows and the penalty δ."""
    return eigenlearning(values, n, ridge).overfitting()
