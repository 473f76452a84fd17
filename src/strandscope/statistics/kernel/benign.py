"""When interpolating noise does no harm: the effective ranks of a covariance's tail (Bartlett, Long, Lugosi & Tsigler 2020).

    r_k = Σ_{i>k} λ_i / λ_{k+1}          R_k = (Σ_{i>k} λ_i)² / Σ_{i>k} λ_i²

With k* the least k at which r_k ≥ b·n, the excess risk that noise of variance σ² adds to the minimum-norm interpolator is at most
a constant times σ²(k*/n + n/R_{k*}), and at least another constant times it. r_k ≤ R_k ≤ r_k², and a flat tail has both equal to
its length.

What it does not know: the constants, so the bound says whether overfitting is benign as n grows, not what it costs at one n; for
that see `eigenlearning`. Eigenvalues of a sample are not those of the population.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ...errors import InputError
from ...reading import Reading
from .spectrum import counted, exact, spectrum_of


@dataclass(frozen=True, slots=True)
class BenignRanks:
    """r_k and R_k of the tail behind the k largest eigenvalues."""

    k: int
    r: Reading
    R: Reading


def benign_ranks(values: Tensor, k: int) -> BenignRanks:
    """r_k and R_k of a spectrum (p,).

    Raises:
        InputError: k below 0, or no eigenvalue above 0 behind it.
    """
    kept = spectrum_of(values)
    if not 0 <= k < len(kept):
        raise InputError(f"k: got {k}, wanted 0 to {len(kept) - 1}, so that an eigenvalue above 0 is left behind it")
    tail, how = kept[k:], f"tail of {len(kept) - k} eigenvalues behind the {k} largest"
    r, R = float(tail.sum() / tail[0]), float(tail.sum() ** 2 / np.square(tail).sum())
    return BenignRanks(
        k, exact(r, len(kept), "dimensions", f"Σλ/λ_(k+1), {how}"), exact(R, len(kept), "dimensions", f"(Σλ)²/Σλ², {how}")
    )


def benign_split(values: Tensor, n: int, b: float = 1.0) -> Reading:
    """k*: how many leading eigenvalues n rows can fit before the rest acts as a ridge, r_k ≥ b·n; not measured where none is."""
    kept, n = spectrum_of(values), counted(n, "n")
    tails = np.cumsum(kept[::-1])[::-1]
    enough = np.flatnonzero(tails / kept >= b * n)
    method = f"least k with r_k ≥ {b:g}·{n}, of {len(kept)} eigenvalues"
    if len(enough) == 0:
        return Reading.not_measured(f"no tail has r_k ≥ {b * n:g}: it falls too fast", unit="dimensions", method=method, n=n)
    return exact(float(enough[0]), n, "dimensions", method)


def excess_bound(values: Tensor, n: int, b: float = 1.0) -> Reading:
    """k*/n + n/R_{k*}: what the excess risk of interpolated noise is of the order of, in noise variances."""
    split = benign_split(values, n, b)
    unit, method = "noise variances, up to a constant", f"k*/n + n/R_k*; {split.method}"
    if split.value is None:
        return Reading.not_measured(split.reason, unit=unit, method=method, n=n)
    ranks = benign_ranks(values, int(split.value))
    assert ranks.R.value is not None
    return exact(split.value / n + n / ranks.R.value, n, unit, method)
