"""Whether a sample has a power-law tail, and with what exponent; "not heavy-tailed" unless the data themselves can tell.

Density ∝ x^−α above a threshold: the threshold is the one at which the fit is closest in Kolmogorov's distance, α is the maximum
likelihood estimate there without its bias of order 1/n (Clauset, Shalizi & Newman 2009). Nearly anything looks straight on doubly
logarithmic paper over a decade, so α is given only where the power law is more likely than two other laws of the same data above
the same threshold, each with one free parameter, by Vuong's test at the stated level: the exponential, and the lognormal
whose median is that of the whole sample. (A lognormal free in both parameters contains the power law as a limit, so no data could
ever tell the two apart.)

The interval of α resamples the values and chooses the threshold anew each time. What it does not know: values that repel one
another, as eigenvalues do; for those the interval and the tests are too cautious, if anything. Nor does it know whether the law
goes on beyond the largest value. It passes over power laws that few values show.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.stats import norm
from torch import Tensor

from ..errors import InputError
from ..linalg import finite
from ..reading import Reading

Floats = NDArray[np.float64]

LEAST = 30  # values above the threshold
CANDIDATES = 40  # thresholds that are tried


@dataclass(frozen=True, slots=True)
class Tail:
    """α, or why there is none; the threshold, how many values lie above it, and the p-values against the two other laws."""

    exponent: Reading
    threshold: float
    above: int
    against_exponential: float
    against_lognormal: float

    @property
    def heavy(self) -> bool:
        return self.exponent.value is not None


def power_law_tail(values: Tensor, generator: np.random.Generator, *, level: float = 0.05, draws: int = 200) -> Tail:
    """Test the tail of positive values (n,); α with a 95 % bootstrap interval where it is heavy.

    Raises:
        InputError: values that are not above 0 or not finite, or that are all the same. Fewer than 60 are "not measured".
    """
    wide = np.sort(finite(values, "values").numpy())
    if wide.ndim != 1 or len(wide) == 0:
        raise InputError(f"values: got shape {tuple(values.shape)}, wanted (n,), at least one")
    if wide[0] <= 0 or wide[0] == wide[-1]:
        raise InputError("values: wanted figures above 0 that are not all the same; leave out what is rounding")
    n, unit = len(wide), "exponent of the density"
    if n < 2 * LEAST:
        why = f"{n} values; at least {2 * LEAST} are needed"
        return Tail(Reading.not_measured(why, unit=unit, method="power law", n=n), float(wide[0]), n, 1.0, 1.0)
    alpha, threshold = _fit(wide)
    tail = wide[wide >= threshold]
    exponential, lognormal = _against(tail, threshold, alpha, float(np.median(wide)))
    method = f"power law above {threshold:.3g} ({len(tail)} of {n} values), threshold by Kolmogorov's distance"
    if max(exponential, lognormal) > level:
        other = "an exponential" if exponential >= lognormal else "a lognormal"
        why = f"not heavy-tailed: a power law is not more likely than {other} (p = {max(exponential, lognormal):.2g})"
        return Tail(Reading.not_measured(why, unit=unit, method=method, n=n), threshold, len(tail), exponential, lognormal)
    again = [_fit(np.sort(generator.choice(wide, n)))[0] for _ in range(draws)]
    low, high = (float(end) for end in np.quantile(again, [0.025, 0.975]))
    method += f", {draws} resamples with a threshold each"
    reading = Reading(alpha, min(low, alpha), max(high, alpha), 0.95, n, unit, None, method)
    return Tail(reading, threshold, len(tail), exponential, lognormal)


def _fit(ordered: Floats) -> tuple[float, float]:
    """(α, threshold) at the least Kolmogorov distance over thresholds that leave at least 30 values."""
    logs, n = np.log(ordered), len(ordered)
    starts = np.unique(np.linspace(0, n - LEAST, CANDIDATES).astype(int))
    best = (math.inf, math.nan, math.nan)
    for start in starts:
        above = logs[start:] - logs[start]
        count, total = len(above), float(above.sum())
        if total <= 0:
            continue
        slope = (count - 1) / total  # α − 1; n/Σ is too large by n/(n − 1)
        share = -np.expm1(-slope * above)
        steps = np.arange(count + 1) / count
        apart = float(max(np.max(steps[1:] - share), np.max(share - steps[:-1])))
        best = min(best, (apart, 1 + slope, float(ordered[start])))
    return best[1], best[2]


def _against(tail: Floats, threshold: float, alpha: float, median: float) -> tuple[float, float]:
    """p-values of Vuong's one-sided test that the power law is closer than an exponential, than a lognormal."""
    logs = np.log(tail)
    power = math.log(alpha - 1) - math.log(threshold) - alpha * (logs - math.log(threshold))
    rate = 1 / max(float(tail.mean()) - threshold, 1e-300)
    exponential = math.log(rate) - rate * (tail - threshold)
    centred, start = logs - math.log(median), math.log(threshold / median)

    def lognormal(log_width: float) -> Floats:
        width = math.exp(log_width)
        beyond = float(norm.logsf(start / width))
        return -logs - log_width - 0.5 * math.log(2 * math.pi) - np.square(centred / width) / 2 - beyond

    reach = math.log(float(np.abs(centred).max()) + 1e-12)
    found: Any = minimize_scalar(lambda width: -float(lognormal(width).sum()), bounds=(reach - 7, reach + 3), method="bounded")
    return _vuong(power - exponential), _vuong(power - lognormal(float(found.x)))


def _vuong(difference: Floats) -> float:
    spread = float(difference.std())
    return float(norm.sf(math.sqrt(len(difference)) * float(difference.mean()) / spread)) if spread > 0 else 1.0
