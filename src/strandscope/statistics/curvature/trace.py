"""The trace of an operator from products with random signs: Hutchinson (1990) and Hutch++ (Meyer et al. 2021).

E vᵀAv = tr A for v of independent ±1, with variance 2(‖A‖_F² − ΣA_ii²) a probe: none at all where A is diagonal. Hutch++ spends a
third of its products on the range Q of A times as many random vectors, takes tr QᵀAQ exactly, and leaves what is outside Q to
probes; given Q it is unbiased as well. The number of probes is set beforehand: stopping when the mean stands still would bias it.

What it does not know: a t interval wants samples that are not too skew. Where one eigenvalue holds nearly all of the trace,
Hutchinson's are, and few probes cover too little; Hutch++ takes such eigenvalues out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from scipy.stats import t as student
from torch import Tensor

from ...errors import InputError
from ...reading import Reading
from ..accumulators.checks import LIMIT, afford, partner, same
from .operator import Operator
from .probes import LEAST_PROBES, signs


@dataclass(frozen=True, slots=True)
class Trace:
    """Unbiased samples (n,) of tr A, one a probe, and how many products with vectors they took."""

    samples: Tensor
    products: int
    size: int
    rows: int
    what: str
    unit: str
    how: str

    @property
    def value(self) -> float:
        return float(self.samples.mean())

    @property
    def error(self) -> float:
        """The standard error of `value`; two samples at least."""
        return float(self.samples.std()) / len(self.samples) ** 0.5

    def reading(self, level: float = 0.95) -> Reading:
        """tr A with a t interval over probes."""
        n = len(self.samples)
        method = f"trace of the {self.what}, {self.how} with {self.products} products, t interval over {n} probes"
        if n < LEAST_PROBES:
            why = f"{n} probes; at least {LEAST_PROBES} are needed"
            return Reading.not_measured(why, unit=self.unit, method=method, n=self.rows)
        reach = float(student.ppf(0.5 + level / 2, n - 1)) * self.error
        return Reading(self.value, self.value - reach, self.value + reach, level, self.rows, self.unit, None, method)

    def merge(self, other: Trace) -> Trace:
        """The samples of both, of one operator."""
        partner(self, other)
        mine, others = ({"size": one.size, "rows": one.rows, "what": one.what, "how": one.how} for one in (self, other))
        same(mine, others)
        return replace(self, samples=torch.cat([self.samples, other.samples]), products=self.products + other.products)


def trace(operator: Operator, probes: int = 32, *, generator: torch.Generator) -> Trace:
    """Hutchinson's estimate from so many probes, a product each."""
    if probes < 1:
        raise InputError(f"probes: got {probes}, wanted at least 1")
    samples = []
    for _ in range(probes):
        v = signs(operator, generator)
        samples.append(float(v.double() @ (operator @ v).double()))
    return _trace(operator, samples, probes, "Hutchinson")


def hutch_plus_plus(operator: Operator, products: int = 48, *, generator: torch.Generator, limit: int = LIMIT) -> Trace:
    """Hutch++ with so many products with vectors, a third for the range, a third for its trace, a third for probes."""
    m = min(products // 3, operator.size)
    if m < 1:
        raise InputError(f"products: got {products}, wanted at least 3")
    afford(3 * m * operator.size * operator.dtype.itemsize, limit, f"three times {m} vectors", "take fewer products")
    drawn = torch.stack([signs(operator, generator) for _ in range(m)], 1)
    basis = torch.linalg.qr(operator @ drawn).Q
    exact = float((basis.double() * (operator @ basis).double()).sum())
    samples = []
    for _ in range(m):
        v = signs(operator, generator)
        outside = v - basis @ (basis.T @ v)
        samples.append(exact + float(outside.double() @ (operator @ outside).double()))
    return _trace(operator, samples, 3 * m, "Hutch++")


def _trace(operator: Operator, samples: list[float], products: int, how: str) -> Trace:
    kept = torch.tensor(samples, dtype=torch.float64)
    return Trace(kept, products, operator.size, operator.rows, operator.what, operator.unit, how)
