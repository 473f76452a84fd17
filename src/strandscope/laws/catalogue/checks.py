"""The checks that most laws are made of: from repetitions, or from figures that no luck is in.

Means have t intervals: with twenty repetitions and more, and tails no heavier than those of an exponential, these hold at the
levels that a catalogue needs. Where tails are heavier, as at an interpolation threshold, they do not, and no check belongs there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import beta
from scipy.stats import t as student

from ...reading import Reading
from ..figure import Kind, Series
from ..law import Check

Floats = NDArray[np.float64]
Band = tuple[float, float]
RATIO, DIFFERENCE = "measured/predicted", "measured − predicted"


def within(tolerance: float) -> Band:
    """The band of a ratio that may be off by this share either way: (1/(1 + τ), 1 + τ), as a `Law` has it."""
    return 1 / (1 + tolerance), 1 + tolerance


def certain(value: float, unit: str, method: str, n: int = 1) -> Reading:
    """A figure without luck in it: a closed form, or arithmetic that rounding alone can disturb."""
    return Reading(float(value), float(value), float(value), None, n, unit, None, method)


def mean(draws: ArrayLike, level: float, unit: str, method: str) -> Reading:
    """The mean of repetitions (n,) with its t interval."""
    values = np.asarray(draws, dtype=np.float64).ravel()
    if len(values) < 2 or not np.isfinite(values).all():
        return Reading.not_measured(f"{len(values)} repetitions, not all finite", unit=unit, method=method, n=len(values))
    centre = float(values.mean())
    reach = float(student.ppf(0.5 + level / 2, len(values) - 1)) * float(values.std(ddof=1)) / math.sqrt(len(values))
    return Reading(centre, centre - reach, centre + reach, level, len(values), unit, None, f"{method}; t interval")


def geometric(logs: ArrayLike, level: float, unit: str, method: str) -> Reading:
    """The geometric mean of repetitions, from their logarithms (n,), with the t interval of these."""
    return unlogged(mean(logs, level, unit, method))


def unlogged(found: Reading) -> Reading:
    """What a reading of a logarithm says of the figure itself."""
    if found.value is None or found.low is None or found.high is None:
        return found
    return replace(found, value=math.exp(found.value), low=math.exp(found.low), high=math.exp(found.high))


def gap(first: Floats, second: Floats, level: float, unit: str, method: str) -> Reading:
    """The mean of repetitions (n,) less that of others (m,) drawn apart; t with the degrees of freedom of the fewer."""
    value = float(first.mean() - second.mean())
    quantile = float(student.ppf(0.5 + level / 2, min(len(first), len(second)) - 1))
    reach = quantile * math.hypot(*(float(part.std(ddof=1)) / math.sqrt(len(part)) for part in (first, second)))
    return Reading(value, value - reach, value + reach, level, min(len(first), len(second)), unit, None, method)


def ratio(
    what: str, predicted: float | Reading, draws: ArrayLike, band: Band, level: float, unit: str, how: str = "mean"
) -> Check:
    """The mean of repetitions over what was predicted."""
    foretold = certain(predicted, unit, "closed form") if isinstance(predicted, int | float) else predicted
    measured = mean(draws, level, unit, how)
    if foretold.value is None or measured.value is None or not foretold.value > 0:
        why = "there is no prediction above 0, or no measurement"
        return Check(what, foretold, measured, Reading.not_measured(why, unit=RATIO, method=how, n=measured.n), band)
    low, high = _divided(measured, foretold)
    compared = Reading(measured.value / foretold.value, low, high, level, measured.n, RATIO, None, measured.method)
    return Check(what, foretold, measured, compared, band)


def _divided(measured: Reading, predicted: Reading) -> tuple[float, float]:
    """Ends of measured/predicted: the worst of both intervals, so at least the level of both together."""
    assert measured.low is not None and measured.high is not None and predicted.low is not None and predicted.high is not None
    if not predicted.low > 0:
        raise ValueError(f"a prediction of [{predicted.low}, {predicted.high}] cannot be divided by")
    ends = [one / other for one in (measured.low, measured.high) for other in (predicted.low, predicted.high)]
    return min(ends), max(ends)


def apart(what: str, predicted: float, measured: Reading, band: Band) -> Check:
    """A reading less what was predicted."""
    foretold = certain(predicted, measured.unit, "closed form")
    if measured.value is None or measured.low is None or measured.high is None:
        return Check(what, foretold, measured, measured, band)
    value, low, high = (figure - predicted for figure in (measured.value, measured.low, measured.high))
    compared = replace(measured, value=value, low=low, high=high, unit=f"{DIFFERENCE}, {measured.unit}")
    return Check(what, foretold, measured, compared, band)


def difference(what: str, predicted: float, draws: ArrayLike, band: Band, level: float, unit: str, how: str = "mean") -> Check:
    """The mean of repetitions less what was predicted."""
    return apart(what, predicted, mean(draws, level, unit, how), band)


def exactly(what: str, predicted: float, found: float, most: float, unit: str, how: str, n: int = 1) -> Check:
    """|found − predicted| may be at most `most`: arithmetic, where rounding alone is allowed for."""
    compared = certain(found - predicted, f"{DIFFERENCE}, {unit}", how, n)
    return Check(what, certain(predicted, unit, "closed form"), certain(found, unit, how, n), compared, (-most, most))


def bound(what: str, found: Reading, band: Band) -> Check:
    """A statement about a figure itself: it lies in this band, which may be open on a side."""
    stated = [end for end in band if math.isfinite(end)]
    middle = sum(stated) / len(stated)
    return Check(what, certain(middle, found.unit, "the band's middle, or its one end"), found, found, band)


def share(what: str, yes: int, n: int, band: Band, level: float, unit: str = "share") -> Check:
    """A proportion with its Clopper–Pearson interval, in this band."""
    low = float(beta.ppf((1 - level) / 2, yes, n - yes + 1)) if yes else 0.0
    high = float(beta.ppf((1 + level) / 2, yes + 1, n - yes)) if yes < n else 1.0
    return bound(what, Reading(yes / n, low, high, level, n, unit, None, "Clopper–Pearson interval"), band)


def plotted(name: str, kind: Kind, x: ArrayLike, found: Sequence[Reading], least: float = -math.inf) -> Series:
    """Readings with their intervals, for a figure; lower ends are at `least` at least, where an axis of logarithms begins."""
    value, low, high = (np.array([getattr(one, end) for one in found], dtype=np.float64) for end in ("value", "low", "high"))
    return Series.of(name, kind, x, value, np.maximum(low, least), high)


def columns(draws: Floats, level: float, unit: str) -> list[Reading]:
    """The mean over repetitions of each column of (repetitions, places)."""
    return [mean(column, level, unit, "mean over repetitions") for column in draws.T]


def slope(x: ArrayLike, y: ArrayLike) -> Floats:
    """Least-squares slopes (repetitions,) of y (repetitions, sizes) on x (sizes,)."""
    places = np.asarray(x, dtype=np.float64)
    centred = places - places.mean()
    return np.atleast_2d(np.asarray(y, dtype=np.float64)) @ centred / (centred @ centred)
