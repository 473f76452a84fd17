"""The largest eigenvalues of an operator, algebraically (or the smallest), each with a bound of its numerical error.

Lanczos with full reorthogonalisation and thick restarts (Wu & Simon 2000): the basis is kept in the operator's precision, the
projected matrix in float64. The largest is the top of the spectrum and never the largest modulus: a Hessian's most negative
eigenvalue may be the longer one.

What it promises: `value` is vᵀAv for a unit v, and an eigenvalue of A lies within `residual` = ‖Av − λv‖ of it, computed from A
itself by one more product. Rounding in the basis can leave that above the tolerance (a share of the longest Ritz value) where the
recursion's own estimate is below it; the residuals then join the vectors, and both are projected once more in float64. A pair
whose residual is still above it reads "not measured".

What it does not know: that there is no larger eigenvalue. One that the random start is orthogonal to, or a second copy of a
multiple one, may stay unseen. Nor data: the bound says nothing of other rows; `over_data` does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import t as student
from torch import Tensor

from ...errors import InputError
from ...reading import Reading
from ..accumulators.checks import LIMIT, afford
from .krylov import Krylov
from .operator import Operator, without

BASIS = 64  # vectors kept before a restart, where they fit
REFINED = 2  # times at most that residuals join the vectors
LEAST_PARTS = 8  # batches that a jackknife needs


@dataclass(frozen=True, slots=True)
class Eigenpairs:
    """k eigenpairs at one end of a spectrum, the outermost first.

    Attributes:
        values: (k,) float64; `vectors`: (p, k) unit columns; `residuals`: (k,) ‖Av − λv‖, numerical error only.
        products: with vectors, that they took; `tolerance`: of a residual, as a share of `scale`, the longest Ritz value.
    """

    values: Tensor
    vectors: Tensor
    residuals: Tensor
    products: int
    tolerance: float
    scale: float
    end: str
    operator: Operator

    @property
    def converged(self) -> tuple[bool, ...]:
        return tuple((self.residuals <= self.tolerance * self.scale).tolist())

    def reading(self, number: int = 0) -> Reading:
        """The eigenvalue with the bound of its numerical error (level 1: it is no estimate), or why there is none."""
        value, residual = float(self.values[number]), float(self.residuals[number])
        at = f"{self.end} eigenvalue" + (f" number {number + 1}" if number else "")
        method = f"{at} of the {self.operator.what}, Lanczos with {self.products} products; residual bound, numerical error only"
        if not self.converged[number]:
            why = f"its residual {residual:.3g} is above {self.tolerance:.1g} of {self.scale:.3g}; allow more products"
            return Reading.not_measured(why, unit=self.operator.unit, method=method, n=self.operator.rows)
        return Reading(value, value - residual, value + residual, 1.0, self.operator.rows, self.operator.unit, None, method)


def top_eigenvalues(
    operator: Operator,
    k: int = 1,
    *,
    generator: torch.Generator,
    tolerance: float = 1e-4,
    most: int = 1000,
    start: Tensor | None = None,
    limit: int = LIMIT,
) -> Eigenpairs:
    """The k largest eigenvalues (with their signs), descending.

    Args:
        generator: of the random start; `start`: (p,) a guess of the first eigenvector instead.
        tolerance: of residuals, as a share of the longest Ritz value; `most`: products with vectors.
        limit: bytes that the basis may hold; what it allows sets how many vectors are kept before a restart.
    """
    return _eigenpairs(operator, k, 1.0, generator, tolerance, most, start, limit)


def bottom_eigenvalues(
    operator: Operator,
    k: int = 1,
    *,
    generator: torch.Generator,
    tolerance: float = 1e-4,
    most: int = 1000,
    start: Tensor | None = None,
    limit: int = LIMIT,
) -> Eigenpairs:
    """The k smallest eigenvalues (with their signs), ascending; see `top_eigenvalues`."""
    return _eigenpairs(operator, k, -1.0, generator, tolerance, most, start, limit)


def over_data(
    operator: Operator,
    *,
    generator: torch.Generator,
    level: float = 0.95,
    tolerance: float = 1e-3,
    most: int = 1000,
) -> Reading:
    """The largest eigenvalue over data: jackknife over the operator's parts (batches of independent rows).

    It is computed again without each part in turn, from the vector of all; costs one short Lanczos run a part. The maximum of a
    mean of matrices lies above that of the mean of all (Jensen): the jackknife's estimate of that bias is taken off. Inconsistent
    where the largest eigenvalue is multiple.
    """
    blocks = len(operator.parts)
    method = f"largest eigenvalue of the {operator.what}, delete-one jackknife over {blocks} batches, bias taken off"
    if blocks < LEAST_PARTS:
        why = f"{blocks} batches; at least {LEAST_PARTS} are needed"
        return Reading.not_measured(why, unit=operator.unit, method=method, n=operator.rows)
    whole = top_eigenvalues(operator, generator=generator, tolerance=tolerance, most=most)
    runs = [whole] + [
        top_eigenvalues(without(operator, part), generator=generator, tolerance=tolerance, most=most, start=whole.vectors[:, 0])
        for part in range(blocks)
    ]
    if not all(run.converged[0] for run in runs):
        why = f"Lanczos did not reach a residual of {tolerance:.1g} with {most} products; allow more"
        return Reading.not_measured(why, unit=operator.unit, method=method, n=operator.rows)
    left = np.array([float(run.values[0]) for run in runs[1:]])
    value = blocks * float(whole.values[0]) - (blocks - 1) * float(left.mean())
    error = ((blocks - 1) / blocks * np.square(left - left.mean()).sum()) ** 0.5
    reach = float(student.ppf(0.5 + level / 2, blocks - 1)) * float(error)
    return Reading(value, value - reach, value + reach, level, operator.rows, operator.unit, None, method)


def _eigenpairs(
    operator: Operator,
    k: int,
    sign: float,
    generator: torch.Generator,
    tolerance: float,
    most: int,
    start: Tensor | None,
    limit: int,
) -> Eigenpairs:
    if not 1 <= k <= operator.size:
        raise InputError(f"k: got {k}, wanted 1 to {operator.size}, the number of parameters")
    if not 0 < tolerance < 1:
        raise InputError(f"tolerance: got {tolerance}, wanted a share between 0 and 1, such as 1e-4")
    if most < k + 1:
        raise InputError(f"most: got {most} products, wanted at least {k + 1}")
    each, needed = operator.dtype.itemsize * operator.size, min(2 * k + 2, operator.size)
    afford(
        (needed + 1) * each, limit, f"a basis of {needed} vectors of {operator.size:,} parameters", "ask for fewer or raise it"
    )
    room = min(max(BASIS, 2 * k + 20), limit // each - 1, operator.size)
    krylov = Krylov(operator, sign, generator, room)
    krylov.begin(start)
    allowed, before = max(most - k, 1), None  # `before`: the k values when the basis last was invariant
    while True:
        krylov.step()
        theta, ritz, estimate = krylov.ritz()
        scale = float(np.abs(theta).max())
        enough = len(theta) >= k and bool((estimate[:k] <= 0.5 * tolerance * scale).all())
        if krylov.beta == 0 and enough:  # an invariant space: another start may hold second copies of these
            enough, before = before is not None and np.allclose(theta[:k], before, 0, tolerance * scale), theta[:k]
        elif before is not None:
            enough = False
        if enough or krylov.products >= allowed or krylov.filled == operator.size:
            break
        if krylov.filled == room:
            krylov.restart(theta, ritz, min(k + (room - k) // 3, room - 1))
    taken = min(k, len(theta))
    pairs, products = _pairs_of(operator, krylov.combine(ritz[:, :taken])), krylov.products + taken
    for _ in range(REFINED):
        if 2 * taken > operator.size or products + 2 * taken > most or bool((pairs.residuals <= tolerance * scale).all()):
            break
        better, products = pairs.refined(operator, sign), products + 2 * taken
        if not float(better.residuals.max()) < float(pairs.residuals.max()):
            break
        pairs = better
    order = (sign * pairs.values).argsort(descending=True)
    end = "largest" if sign > 0 else "smallest"
    if taken < k:
        raise InputError(f"most: {most} products give {taken} eigenvalues, wanted {k}; allow more")
    vectors, values, residuals = pairs.vectors[:, order], pairs.values[order], pairs.residuals[order]
    return Eigenpairs(values, vectors.to(operator.dtype), residuals, products, tolerance, scale, end, operator)


@dataclass(frozen=True, slots=True)
class _Pairs:
    """Unit vectors (p, k) as the operator takes them, in float64, with their images and what follows from both."""

    vectors: Tensor
    images: Tensor
    values: Tensor
    residuals: Tensor

    def refined(self, operator: Operator, sign: float) -> _Pairs:
        """The outermost pairs in the span of the vectors and of their residuals: k products, and k for the new images."""
        k = self.vectors.shape[1]
        left = self.images - self.vectors * self.values
        # A residual of 0 has no direction of its own, and gives a zero column, which the eigenproblem leaves out.
        left = (left / left.norm(dim=0).clamp_min(1e-300)).to(operator.dtype)
        span, images = torch.cat([self.vectors, left.double()], 1), torch.cat([self.images, (operator @ left).double()], 1)
        # S Y with (SᵀS) Y = 1 and (SᵀAS) diagonal: by the eigenvectors of SᵀS, those of no length left out.
        lengths, axes = torch.linalg.eigh(span.T @ span)
        kept = lengths > 1e-10 * lengths[-1]
        whitened = axes[:, kept] / lengths[kept].sqrt()
        inner = whitened.T @ (span.T @ images) @ whitened
        theta, turned = torch.linalg.eigh((inner + inner.T) / 2)
        outermost = (sign * theta).argsort(descending=True)[:k]
        return _pairs_of(operator, span @ (whitened @ turned[:, outermost]))


def _pairs_of(operator: Operator, vectors: Tensor) -> _Pairs:
    """Vectors (p, k) of any length, with k products."""
    given = (vectors / vectors.norm(dim=0)).to(operator.dtype)
    wide, images = given.double(), (operator @ given).double()
    values = (wide * images).sum(0) / wide.square().sum(0)
    return _Pairs(wide, images, values, (images - wide * values).norm(dim=0))
