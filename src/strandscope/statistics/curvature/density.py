"""The spectral density of an operator by stochastic Lanczos quadrature (Golub & Meurant; Lin, Saad & Yang 2016), unsmoothed.

Every probe v with entries ±1/√p gives a Gauss quadrature of the measure Σ (vᵀu_i)² δ(λ_i), whose mean over probes is the density
of eigenvalues, mass 1. What is kept are the nodes and weights of each probe; a bandwidth is a choice that readers make.

What it promises: moments up to order 2·steps − 1 are those of the probe exactly (to rounding), and unbiased; the share of
eigenvalues up to x is bounded probe by probe by the Chebyshev–Markov–Stieltjes inequalities, and its interval holds those bounds
as well as the spread over probes. Two densities of one operator merge.

What it does not know: eigenvalues between nodes, and other data.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.stats import t as student
from torch import Tensor

from ...errors import InputError
from ...reading import Reading
from ..accumulators.checks import LIMIT, afford, partner, same
from .krylov import Krylov
from .operator import Operator
from .probes import LEAST_PROBES, signs


@dataclass(frozen=True, slots=True)
class Density:
    """Quadratures of r probes.

    Attributes:
        nodes: (r, m) ascending, in the unit of eigenvalues; `weights`: (r, m), every row sums to 1 (0 where nodes were fewer).
        closed: (r,) whether the probe's nodes are eigenvalues themselves, so that nothing lies between them.
    """

    nodes: Tensor
    weights: Tensor
    closed: Tensor
    size: int
    rows: int
    what: str
    unit: str

    @property
    def steps(self) -> int:
        return self.nodes.shape[1]

    def moment(self, order: int, level: float = 0.95) -> Reading:
        """Mean of λ^order over all eigenvalues, with a t interval over probes."""
        if not 1 <= order <= 2 * self.steps - 1 and not bool(self.closed.all()):
            raise InputError(f"order: got {order}, wanted 1 to {2 * self.steps - 1} from {self.steps} steps; take more steps")
        each = (self.weights * self.nodes**order).sum(1)
        unit = self.unit if order == 1 else f"({self.unit})^{order}"
        return self._reading(each, each, each, f"moment {order}", unit, level)

    def below(self, x: float, level: float = 0.95) -> Reading:
        """The share of eigenvalues that are at most x."""
        cumulated = self.weights.cumsum(1)
        count = (self.nodes <= x).sum(1, keepdim=True)  # nodes up to x
        padded = torch.cat([torch.zeros_like(cumulated[:, :1]), cumulated, cumulated[:, -1:]], 1)
        each, under, over = (padded.gather(1, index)[:, 0] for index in (count, (count - 1).clamp_min(0), count + 1))
        under, over = torch.where(self.closed, each, under), torch.where(self.closed, each, over)
        found = self._reading(each, under, over, f"share of eigenvalues up to {x:.6g}", "share", level)
        if found.value is None or found.low is None or found.high is None:
            return found
        value = min(max(found.value, 0.0), 1.0)
        return replace(found, value=value, low=min(max(found.low, 0.0), value), high=max(min(found.high, 1.0), value))

    def merge(self, other: Density) -> Density:
        """The probes of both, of one operator with as many steps."""
        partner(self, other)
        same(self._of, other._of)
        joined = {name: torch.cat([getattr(self, name), getattr(other, name)]) for name in ("nodes", "weights", "closed")}
        return replace(self, **joined)

    @property
    def _of(self) -> dict[str, object]:
        return {"size": self.size, "rows": self.rows, "what": self.what, "steps": self.steps}

    def _reading(self, each: Tensor, under: Tensor, over: Tensor, name: str, unit: str, level: float) -> Reading:
        probes = len(each)
        method = f"{name} of the {self.what}, Lanczos quadrature with {self.steps} steps, t interval over {probes} probes"
        if probes < LEAST_PROBES:
            why = f"{probes} probes; at least {LEAST_PROBES} are needed"
            return Reading.not_measured(why, unit=unit, method=method, n=self.rows)
        reach = float(student.ppf(0.5 + level / 2, probes - 1)) / probes**0.5
        value = float(each.mean())
        low = min(float(under.mean()) - reach * float(under.std()), value)
        high = max(float(over.mean()) + reach * float(over.std()), value)
        return Reading(value, low, high, level, self.rows, unit, None, method)


def spectral_density(
    operator: Operator, *, generator: torch.Generator, probes: int = 16, steps: int = 32, limit: int = LIMIT
) -> Density:
    """Quadratures from `probes` random vectors with `steps` products each."""
    if probes < 1 or steps < 1:
        raise InputError(f"probes, steps: got {probes} and {steps}, wanted at least 1 of each")
    steps = min(steps, operator.size)
    afford((steps + 1) * operator.size * operator.dtype.itemsize, limit, f"a basis of {steps} vectors", "take fewer steps")
    nodes, weights = np.zeros((probes, steps)), np.zeros((probes, steps))
    closed = np.zeros(probes, dtype=bool)
    for probe in range(probes):
        krylov = Krylov(operator, 1.0, generator, steps)
        krylov.begin(signs(operator, generator))
        while krylov.filled < steps:
            krylov.step()
            if krylov.beta == 0:
                break
        closed[probe] = krylov.beta == 0
        theta, ritz, _ = krylov.ritz()
        m = len(theta)
        nodes[probe, :m], weights[probe, :m] = theta[::-1], ritz[0, ::-1] ** 2
        nodes[probe, m:] = nodes[probe, m - 1]
    kept, masses, ended = torch.as_tensor(nodes), torch.as_tensor(weights), torch.as_tensor(closed)
    return Density(kept, masses, ended, operator.size, operator.rows, operator.what, operator.unit)
