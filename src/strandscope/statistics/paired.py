"""How much one network's figure differs from that of several others on the same rows, with the uncertainty of both.

A figure that is compared is a function of rows, on a log scale: a mean over them, or something pooled from all. It comes with
its value under each group of rows left out (`Deleted`), so that two figures of the same rows can be compared row by row whatever
they are. `log_ratio` takes one figure and those of several replicates of what it is compared with (twins from other seeds), and
adds two variances: that of the rows, by the jackknife of the *difference*, and that between the replicates. The replicates' own
part counts twice where rows and replicates interact, so the interval errs to the wide side; with two or three replicates its
degrees of freedom are few (Satterthwaite). Three replicates that lie close together by luck would make it too narrow (measured:
.92 for .95 where the replicates differ most): where the same replicates are compared at many sites, `steadied` takes at least the
mean of the sites' variances between them. With one replicate nothing is known of the others, and `Contrast.replicates` says so.

`median` gives the interval of a median over rows that may be grouped (Woodruff 1952: the interval of the share of rows below it,
taken back to the rows).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from ..errors import InputError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Deleted:
    """A figure of all rows, and the same with each group of rows left out (groups,)."""

    value: float
    without: Floats

    @classmethod
    def of(cls, statistic: Callable[[Ints], float], groups: Ints) -> Deleted:
        """`statistic` of row numbers, evaluated on all of them and without each group."""
        rows = np.arange(len(groups))
        return cls(statistic(rows), np.array([statistic(rows[groups != group]) for group in np.unique(groups)]))

    @classmethod
    def mean(cls, values: Floats, groups: Ints) -> Deleted:
        _, group = np.unique(groups, return_inverse=True)
        sums, counts = np.bincount(group, values), np.bincount(group)
        return cls(float(values.mean()), (values.sum() - sums) / (len(values) - counts))


def jackknife_variance(without: Floats) -> Floats:
    """(…) variance of a figure from its values without each group (groups, …)."""
    count = len(without)
    return (count - 1) / count * np.square(without - without.mean(0)).sum(0)


@dataclass(frozen=True, slots=True)
class Contrast:
    """A difference of logarithms, its two variances and the degrees of freedom of their sum."""

    value: float
    rows_variance: float
    between_variance: float
    degrees: float
    replicates: int
    groups: int

    @classmethod
    def summed(cls, value: float, rows_variance: float, between: float, replicates: int, groups: int) -> Contrast:
        degrees = _degrees(rows_variance, groups, between, replicates)
        return cls(value, rows_variance, between, degrees, replicates, groups)

    def interval(self, level: float) -> tuple[float, float]:
        reach = float(student.ppf(0.5 + level / 2, self.degrees)) * math.sqrt(self.rows_variance + self.between_variance)
        return self.value - reach, self.value + reach


def log_ratio(one: Deleted, others: Sequence[Deleted]) -> Contrast:
    """`one` minus the mean of the `others`, all of the same rows and groups.

    Raises:
        InputError: no other, or figures of other groups, or fewer than two groups.
    """
    if not others or any(len(other.without) != len(one.without) for other in others) or len(one.without) < 2:
        raise InputError("log_ratio: wanted at least one other figure, and all of the same two or more groups of rows")
    groups, replicates = len(one.without), len(others)
    without = one.without - np.mean([other.without for other in others], axis=0)
    rows_variance = float(jackknife_variance(without))
    values = np.array([other.value for other in others])
    between = float(values.var(ddof=1)) / replicates if replicates > 1 else 0.0
    return Contrast.summed(float(one.value - values.mean()), rows_variance, between, replicates, groups)


def steadied(contrasts: Sequence[Contrast]) -> list[Contrast]:
    """Contrasts with the same replicates at several sites, none with less variance between them than the mean of all."""
    mean = float(np.mean([one.between_variance for one in contrasts])) if contrasts else 0.0
    return [
        Contrast.summed(one.value, one.rows_variance, max(mean, one.between_variance), one.replicates, one.groups)
        for one in contrasts
    ]


def _degrees(rows_variance: float, groups: int, between: float, replicates: int) -> float:
    """Satterthwaite's, of the sum of two variance estimates."""
    if between == 0.0:
        return float(groups - 1)
    return (rows_variance + between) ** 2 / (rows_variance**2 / (groups - 1) + between**2 / (replicates - 1))


def median(values: Floats, groups: Ints, level: float = 0.95) -> tuple[float, float, float]:
    """The median of rows and its interval; rows of a group may be alike."""
    names, group = np.unique(groups, return_inverse=True)
    count, n = len(names), len(values)
    if count < 2:
        raise InputError(f"median: {count} groups of rows, wanted at least 2 for an interval")
    middle, ordered = float(np.median(values)), np.sort(values)
    below = (values < middle) + 0.5 * (values == middle) - 0.5
    sums = np.bincount(group, below - below.mean(), count)
    reach = student.ppf(0.5 + level / 2, count - 1) * math.sqrt(count / (count - 1) * float(sums @ sums)) / n
    low, high = math.floor(n * (0.5 - reach)) - 1, math.ceil(n * (0.5 + reach))  # the order statistics next outside
    return middle, min(middle, float(ordered[max(low, 0)])), max(middle, float(ordered[min(high, n - 1)]))
