"""Kernel ridge regression decomposed once for every ridge: effective dimension, and the test error that training data foretell.

With the Gram matrix K of n rows and the penalty nλ, the fit is K(K + nλ)⁻¹Y and

    d_λ = tr K(K + nλ)⁻¹                                   effective dimension: how many numbers the fit can choose
    GCV = (‖Y − Ŷ‖²/n) / (1 − d_λ/n)²                      generalised cross-validation (Craven & Wahba 1979)
        = (‖(K + nλ)⁻¹Y‖²/n) / (tr (K + nλ)⁻¹/n)²          the same, and finite without a ridge (KARE, Jacot et al. 2020)

GCV is a function of the training rows alone and foretells the error on new ones. It promises that where the eigenfunctions are
spread over the rows (random matrix theory's condition), for rows that are independent, and for any labels: learned, or noise.
Squared errors are summed over outputs and averaged over rows, in the squared unit of the targets.

What it does not know: rows that pull unlike (a few of them alone in their region), for which GCV is too hopeful once d_λ is no
longer small beside n; `leave_one_out` is exact there. Nor other losses; rows that share a group, for which it is too hopeful;
what it is if λ is chosen by it (the smallest of many GCVs is too small). The interval of GCV takes the rows' shares of it as
independent."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student
from torch import Tensor

from ...errors import InputError
from ...linalg import eigh, finite
from ...reading import Reading
from .spectrum import exact, ridge_of

Floats = NDArray[np.float64]
UNIT = "squared units of the targets"


@dataclass(frozen=True, eq=False)
class KernelRidge:
    """A Gram matrix and its targets, decomposed.

    Attributes:
        values: (n,) eigenvalues of K, descending; `vectors`: (n, n).
        projected: (n, m) targets in that basis.
    """

    values: Floats
    vectors: Floats
    projected: Floats

    @classmethod
    def of(cls, gram: Tensor, targets: Tensor) -> KernelRidge:
        """From K (n, n), symmetric, no eigenvalue below 0 beyond rounding, and targets (n,) or (n, m).

        Raises:
            InputError: shapes that do not match, not finite, not symmetric, an eigenvalue clearly below 0.
        """
        values, vectors = (part.numpy() for part in eigh(gram, "gram"))
        wide = _columns(targets, len(values), "targets")
        if values[-1] < -1e-8 * values[0]:
            raise InputError(f"gram: it has the eigenvalue {values[-1]:.3g}, so it is no kernel's; wanted none below 0")
        return cls(np.maximum(values, 0.0), vectors, vectors.T @ wide)

    @property
    def n(self) -> int:
        return len(self.values)

    def again(self, targets: Tensor) -> KernelRidge:
        """The same rows with other targets (n,) or (n, m); nothing is decomposed anew."""
        return KernelRidge(self.values, self.vectors, self.vectors.T @ _columns(targets, self.n, "targets"))

    def effective_dimension(self, ridge: float) -> Reading:
        """d_λ = tr K(K + nλ)⁻¹, exact for this matrix; other rows of the same kind have another one."""
        shrunk = self.values * self._inverse(ridge)
        return exact(float(shrunk.sum()), self.n, "dimensions", f"tr K(K + nλ)⁻¹ at λ = {ridge:g}, exact for these rows")

    def coefficients(self, ridge: float) -> Floats:
        """(n, m) (K + nλ)⁻¹Y: the fit at a point is its kernel values with the rows times these."""
        return self.vectors @ (self._inverse(ridge)[:, None] * self.projected)

    def train_error(self, ridge: float) -> Reading:
        """Mean squared error on the rows themselves."""
        left = self.n * ridge * self.coefficients(ridge)
        return mean_reading(np.square(left).sum(1), f"mean squared error on the {self.n} rows that were fitted, λ = {ridge:g}")

    def gcv(self, ridge: float) -> Reading:
        """The mean squared error that GCV foretells for new rows, with the 95 % interval of the rows' shares of it."""
        scale = float(self._inverse(ridge).mean())  # (1 − d_λ/n) / nλ
        shares = np.square(self.coefficients(ridge)).sum(1) / scale**2
        return mean_reading(shares, f"GCV from {self.n} rows at λ = {ridge:g}, interval from the rows' shares")

    def leave_one_out(self, ridge: float) -> Reading:
        """Each row foretold by a fit to all others, in closed form: ((K + nλ)⁻¹Y)_i over the diagonal of (K + nλ)⁻¹.

        GCV has the diagonal's mean in its place, so it needs rows that pull alike; this does not. nλ stays as it is.
        """
        pull = np.square(self.vectors) @ self._inverse(ridge)
        shares = np.square(self.coefficients(ridge)).sum(1) / pull**2
        return mean_reading(shares, f"exact leave-one-out error of {self.n} rows at λ = {ridge:g}, rows taken as independent")

    def test_error(self, ridge: float, cross: Tensor, targets: Tensor) -> Reading:
        """Mean squared error on new rows: `cross` (t, n), their kernel values with the fitted rows, and targets (t, …)."""
        wide = finite(cross, "cross").numpy()
        if wide.ndim != 2 or wide.shape[1] != self.n:
            raise InputError(f"cross: got shape {tuple(cross.shape)}, wanted (new rows, {self.n})")
        wanted = _columns(targets, len(wide), "targets")
        if wanted.shape[1] != self.projected.shape[1]:
            raise InputError(f"targets: got {wanted.shape[1]} columns, wanted {self.projected.shape[1]} as in the fit")
        left = wide @ self.coefficients(ridge) - wanted
        return mean_reading(np.square(left).sum(1), f"mean squared error on {len(wide)} rows that were not fitted, λ = {ridge:g}")

    def gcv_ratio(self, ridge: float, cross: Tensor, targets: Tensor) -> Reading:
        """GCV over the error on new rows; the 95 % interval is that of the two logarithms, taken as independent."""
        told, found = self.gcv(ridge), self.test_error(ridge, cross, targets)
        assert told.value is not None and told.high is not None and found.value is not None and found.high is not None
        method = f"{told.method}, over the {found.method}"
        if told.value <= 0 or found.value <= 0:
            return Reading.not_measured(
                "one of the two errors is 0, so there is no ratio", unit="ratio", method=method, n=found.n
            )
        reach = math.hypot((told.high - told.value) / told.value, (found.high - found.value) / found.value)
        value = told.value / found.value
        return Reading(value, value * math.exp(-reach), value * math.exp(reach), 0.95, found.n, "ratio", None, method)

    def _inverse(self, ridge: float) -> Floats:
        """(n,) eigenvalues of (K + nλ)⁻¹."""
        shifted = self.values + self.n * ridge_of(ridge)
        if shifted[-1] <= 1e-13 * shifted[0]:
            raise InputError(
                f"ridge: got {ridge:g}, at which K + nλ is singular in float64; choose one above {1e-13 * shifted[0]:.1e}"
            )
        return 1 / shifted


def mean_reading(rows: Floats, method: str, unit: str = UNIT, level: float = 0.95) -> Reading:
    """The mean of independent figures (n,) with the interval of Student's t."""
    n, value = len(rows), float(rows.mean())
    if n < 2:
        return Reading.not_measured("one figure has no spread, so no interval", unit=unit, method=method, n=n)
    reach = float(student.ppf((1 + level) / 2, n - 1)) * float(rows.std(ddof=1)) / math.sqrt(n)
    return Reading(value, value - reach, value + reach, level, n, unit, None, method)


def _columns(targets: Tensor, rows: int, name: str) -> Floats:
    wide = finite(targets, name).numpy()
    wide = wide[:, None] if wide.ndim == 1 else wide
    if wide.ndim != 2 or len(wide) != rows:
        raise InputError(f"{name}: got shape {tuple(targets.shape)}, wanted ({rows},) or ({rows}, outputs)")
    return wide
