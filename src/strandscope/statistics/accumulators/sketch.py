"""A mean outer product through MΩ alone, for coordinates too many for a matrix.

A sketch gives eigenpairs by Nyström's M̂ = MΩ(ΩᵀMΩ)⁻¹ΩᵀM, which never exceeds M. So E = M − M̂ is positive, and for an eigenpair
of M̂ the residual is ‖Mv − λv‖ = ‖Ev‖ ≤ ‖E‖ ≤ tr E, which is known. Where the spectrum has a long tail that is wide; ten test
columns give ‖E‖_F² without bias, and the smaller of the two is returned, the second with a margin that fails once in a thousand.
What it does not know: eigenvectors below that bound. Ask for fewer, or for a wider sketch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...linalg import Spectrum, check_rank, eigh
from ...provenance import torch_generator
from .checks import LIMIT, afford
from .products import Form, OuterProducts

_TESTS = 10  # columns that the sketch keeps to judge itself by
_MARGIN = (10 / 1.479) ** 0.5  # over the lower .001 point of χ²₁₀/10: the worst case, an error of rank one
_OVER = 10  # columns beyond twice the number of eigenvectors that a sketch is made for


class SketchedProducts(OuterProducts):
    """Holds Σ(g − ḡ)(g − ḡ)ᵀΩ for Gaussian Ω (d, m) with m = 2k + 10, and ten test columns beside."""

    form: Form = "sketch"

    def __init__(self, d: int, k: int, seed: int, *, limit: int = LIMIT) -> None:
        check_rank(k, d, f"{d} coordinates")
        columns = min(2 * k + _OVER, d) + _TESTS
        afford(2 * 8 * d * columns, limit, f"a sketch of {d} × {columns} with its Ω", "ask for fewer eigenvectors")
        super().__init__(d)
        self.k, self.seed = k, seed
        generator = torch_generator(seed, "sketch of outer products")
        self.omega = torch.randn(d, columns, dtype=torch.float64, generator=generator)
        self.sketch = torch.zeros(d, columns, dtype=torch.float64)

    def settings(self) -> dict[str, Any]:
        return {"d": self.d, "k": self.k, "seed": self.seed}

    @classmethod
    def _alike(cls, one: SketchedProducts) -> SketchedProducts:
        return cls(one.d, one.k, one.seed, limit=16 * one.omega.numel())

    def held(self) -> Tensor:
        return self.sketch

    def _put(self, held: Tensor) -> None:
        self.sketch = held

    def _held(self, rows: Tensor, centred: Tensor) -> Tensor:
        del rows
        return centred.T @ (centred @ self.omega)

    def _take(self, held: Tensor, apart: Tensor, weight: float) -> None:
        self.sketch += held
        self.sketch.addr_(apart, apart @ self.omega, alpha=weight)

    def _product(self, centred: bool) -> Tensor:
        """MΩ."""
        return self.sketch / self.n + (0.0 if centred else torch.outer(self.mean, self.mean @ self.omega))

    def _square(self) -> float:
        return float(self._product(False).square().sum()) / self.omega.shape[1]

    def _factor(self, centred: bool) -> tuple[Tensor, Tensor]:
        """M̂ = L Lᵀ as the left singular vectors and squared singular values of L (d, m)."""
        product, omega = self._product(centred)[:, :-_TESTS], self.omega[:, :-_TESTS]
        values, vectors = eigh(omega.T @ product + product.T @ omega, "the sketch")
        keep = values > values[0] * 1e-12
        factor = product @ (vectors[:, keep] / (values[keep] / 2).sqrt())
        left, singular, _ = torch.linalg.svd(factor, full_matrices=False)
        return left, singular.square()

    def top(self, k: int, centred: bool) -> Spectrum:
        check_rank(k, self.k, f"a sketch for {self.k} eigenvectors")
        left, values = self._factor(centred)
        check_rank(k, len(values), "the rows' rank in this sketch")
        trace = self._trace(centred)
        tests = self.omega[:, -_TESTS:]
        missed = self._product(centred)[:, -_TESTS:] - left @ (values[:, None] * (left.T @ tests))
        probable = _MARGIN * (float(missed.square().sum()) / _TESTS) ** 0.5
        bound = min(max(trace - float(values.sum()), 0.0), probable) + 1e-12 * float(values[0])
        return Spectrum(values[:k], left[:, :k], torch.full((k,), bound, dtype=torch.float64), trace)

    def matrix(self, centred: bool) -> Tensor:
        afford(8 * self.d**2, LIMIT, f"a matrix of {self.d} × {self.d}", "take top(k)")
        left, values = self._factor(centred)
        return left @ (values[:, None] * left.T)
