"""Area under the ROC curve of cross-fitted scores, with intervals that respect groups and folds.

Scores of different folds come from different models, so only rows of the same fold are compared: the AUROC is the share of
concordant (positive, negative) pairs inside folds. Rows of a group share their luck, so the group is what varies.

The interval inverts a score test, (Â − A)² = t² r V₀(A). V₀ is the variance of an AUROC for independent rows (Hanley & McNeil
1982); r, the design effect, is the ratio at Â of the dyadic cluster-robust variance (Aronow, Samii & Assenova 2015: every
product of two pairs that share a group is counted once) to V₀. Near the ceiling few groups hold an error and r cannot be
estimated from them; there it is not taken below the design effect of the scores' own intraclass correlation. So the interval
never degenerates, not even at Â = 1.

Cross-fitted scores are not independent across folds: the noise of row i is in the model that scores row j, and that of j in the
model that scores i. To first order a linear score is s_i = w·x_i + Σ_j y_j e_j·e_i, and in Σ y_i s_i every product e_i·e_j
stands twice, so that the part of the variance that comes from the noise of w is doubled. With q its share, the design effect is
multiplied by 1 + q (`noise`). For scores that were not fitted q is 0. Without the factor coverage was .84 to .93 where little
is there to be read; docs/decisions has the derivation, and the coverage on planted data is in benchmarks/results.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import norm, rankdata
from scipy.stats import t as student

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_FEW = 6.0  # groups in error, effectively, from which on their spread is believed (fixed on simulations before any real data)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Concordance of the (positive, negative) pairs inside folds, summed by pairs of groups."""

    auroc: float
    pairs: float  # comparisons made
    positives: int
    negatives: int
    groups: int
    concordance: Floats  # (groups, groups): concordant pairs, positive row in the first group, negative in the second
    counts: Floats  # (groups, groups): pairs compared


def compare(scores: Floats, labels: Ints, groups: Ints, folds: Ints) -> Comparison:
    """Compare every positive row (label 1) with every negative one of its fold."""
    names, group = np.unique(groups, return_inverse=True)
    size = len(names)
    concordance, counts = np.zeros((size, size)), np.zeros((size, size))
    for positive, negative in _strata(labels, folds):
        high, low = scores[positive][:, None], scores[negative][None]
        won = (high > low) + 0.5 * (high == low)
        cells = (group[positive][:, None], group[negative][None])
        np.add.at(concordance, cells, won)
        np.add.at(counts, cells, 1.0)
    pairs = counts.sum()
    return Comparison(
        float(concordance.sum() / pairs),
        float(pairs),
        int((labels == 1).sum()),
        int((labels == 0).sum()),
        size,
        concordance,
        counts,
    )


def _strata(labels: Ints, folds: Ints) -> Iterator[tuple[Ints, Ints]]:
    for fold in np.unique(folds):
        yield np.flatnonzero((folds == fold) & (labels == 1)), np.flatnonzero((folds == fold) & (labels == 0))


def dyadic_covariance(first: Floats, second: Floats, counts: Floats) -> tuple[float, float]:
    """Cluster-robust covariance of two sums over pairs of groups, in units of (sum of counts)², and the groups that carry it.

    `first` and `second` (groups, groups) are centred sums. The second figure is the participation ratio of the groups' shares
    in the variance of `first`: how many groups, effectively, hold the spread.
    """

    def by_group(sums: Floats) -> tuple[Floats, Floats]:
        both = sums + sums.T - np.diag(np.diag(sums))
        return both, both.sum(1)

    both_a, a = by_group(first)
    both_b, b = by_group(second)
    both_n, n = by_group(counts)
    upper = np.triu_indices(len(a), 1)
    shared = float(a @ b - (both_a[upper] * both_b[upper]).sum())
    if first is second:
        shared = max(shared, float(a @ a) / 4)  # the exact form can fall below zero with very few groups
    total = counts.sum() ** 2
    overlap = float(n @ n - (both_n[upper] ** 2).sum()) / total  # centring at the estimate takes this share of the variance away
    carriers = float((a @ a) ** 2 / (a**4).sum()) if a.any() else 0.0
    return shared / total / max(1 - overlap, 1e-3), carriers


def independent_variance(auroc: float, positives: float, negatives: float) -> float:
    """Variance of an AUROC for independent rows (Hanley & McNeil 1982)."""
    q1, q2 = auroc / (2 - auroc), 2 * auroc**2 / (1 + auroc)
    spread = auroc * (1 - auroc) + (positives - 1) * (q1 - auroc**2) + (negatives - 1) * (q2 - auroc**2)
    return spread / (positives * negatives)


def design_effect(comparison: Comparison, scores: Floats, labels: Ints, groups: Ints) -> float:
    """By how much groups inflate the variance of this AUROC over that of independent rows."""
    floor = max(_intraclass_effect(scores[labels == kind], groups[labels == kind]) for kind in (0, 1))
    auroc = comparison.auroc
    if auroc in (0.0, 1.0):
        return floor
    centred = comparison.concordance - auroc * comparison.counts
    variance, carriers = dyadic_covariance(centred, centred, comparison.counts)
    ratio = variance / independent_variance(auroc, comparison.positives, comparison.negatives)
    trust = min(1.0, carriers / _FEW)
    return trust * ratio + (1 - trust) * max(ratio, floor)


def _intraclass_effect(scores: Floats, groups: Ints) -> float:
    """1 + (m − 1)·ICC from one-way analysis of variance, never below 1; m rows a group."""
    _, group, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    rows, size = len(scores), len(scores) / len(sizes)
    if size <= 1 or len(sizes) < 2 or rows == len(sizes):
        return 1.0
    means = np.bincount(group, scores) / sizes
    between = float((sizes * (means - scores.mean()) ** 2).sum() / (len(sizes) - 1))
    within = float(((scores - means[group]) ** 2).sum() / (rows - len(sizes)))
    if between + (size - 1) * within <= 0:
        return 1.0
    return 1 + (size - 1) * max(0.0, (between - within) / (between + (size - 1) * within))


def score_interval(
    auroc: float, effect: float, positives: float, negatives: float, groups: int, level: float = 0.95
) -> tuple[float, float]:
    """Every A with (Â − A)² ≤ t² · effect · V₀(A); t has groups − 1 degrees of freedom."""
    quantile = float(student.ppf(0.5 + level / 2, max(groups - 1, 1)))

    def excess(a: float) -> float:
        return (a - auroc) ** 2 - quantile**2 * effect * independent_variance(a, positives, negatives)

    edge = 1e-12
    inner = min(max(auroc, 1e-9), 1 - 1e-9)  # at 0 and 1 the test turns there as well as at the end that is wanted
    low = _root(excess, edge, inner) if auroc > edge and excess(edge) > 0 > excess(inner) else 0.0
    high = _root(excess, inner, 1 - edge) if auroc < 1 - edge and excess(1 - edge) > 0 > excess(inner) else 1.0
    return min(low, auroc), max(high, auroc)


def _root(function: Callable[[float], float], low: float, high: float) -> float:
    return float(brentq(function, low, high))  # type: ignore[arg-type]  # without full_output it is a number


@dataclass(frozen=True, slots=True)
class Area:
    """An AUROC of cross-fitted scores with its interval; for several classes the mean over classes, each against the rest."""

    value: float
    low: float
    high: float
    level: float
    effect: float
    positives: float
    negatives: float
    groups: int


def area(scores: Floats, labels: Ints, groups: Ints, folds: Ints, level: float = 0.95, *, noise: float = 0.0) -> Area:
    """AUROC inside folds with its interval.

    Args:
        scores: (rows,) for two classes, (rows, classes) for more.
        labels: class codes; 1 is the positive one of two.
        noise: q, the share of the scores' variance within a class that comes from the noise of the fits; 0 for scores that were
            not fitted.
    """
    columns = (
        [(scores, labels)]
        if scores.ndim == 1
        else [(scores[:, k], (labels == k).astype(np.int64)) for k in range(scores.shape[1])]
    )
    parts = [compare(column, truth, groups, folds) for column, truth in columns]
    effects = [design_effect(part, column, truth, groups) for part, (column, truth) in zip(parts, columns, strict=True)]
    value = float(np.mean([part.auroc for part in parts]))
    # The classes' areas are taken as wholly dependent, so that their errors add up: wider than the truth, never narrower.
    positives, negatives = (float(np.mean([getattr(part, name) for part in parts])) for name in ("positives", "negatives"))
    effect = _joint_effect(parts, effects, value, positives, negatives) * (1 + min(max(noise, 0.0), 1.0))
    low, high = score_interval(value, effect, positives, negatives, parts[0].groups, level)
    return Area(value, low, high, level, effect, positives, negatives, parts[0].groups)


def _joint_effect(parts: list[Comparison], effects: list[float], value: float, positives: float, negatives: float) -> float:
    """The design effect that gives the mean area the mean of its parts' standard errors."""
    if len(parts) == 1:
        return effects[0]
    inside = [min(max(part.auroc, 1e-3), 1 - 1e-3) for part in parts]  # a variance of 0 at the ceiling would say nothing
    errors = [
        (effect * independent_variance(a, part.positives, part.negatives)) ** 0.5
        for part, effect, a in zip(parts, effects, inside, strict=True)
    ]
    return float(np.mean(errors)) ** 2 / independent_variance(min(max(value, 1e-3), 1 - 1e-3), positives, negatives)


def area_difference(
    first: Floats,
    second: Floats,
    labels: Ints,
    groups: Ints,
    folds: Ints,
    level: float = 0.95,
    *,
    noise: tuple[float, float] = (0.0, 0.0),
) -> tuple[float, float, float]:
    """Paired difference AUROC(first) − AUROC(second) on the same rows, with its interval.

    Square-and-add of the two score intervals (Newcombe 1998) with the groups' own correlation of the two areas; `noise` as in
    `area`.
    """
    one, two = (area(scores, labels, groups, folds, level, noise=q) for scores, q in zip((first, second), noise, strict=True))
    rho = _correlation(first, second, labels, groups, folds)
    difference = one.value - two.value

    def reach(a: float, b: float) -> float:
        return float(np.sqrt(max(a * a + b * b - 2 * rho * a * b, 0.0)))

    return (
        difference,
        difference - reach(one.value - one.low, two.high - two.value),
        difference + reach(one.high - one.value, two.value - two.low),
    )


def _correlation(first: Floats, second: Floats, labels: Ints, groups: Ints, folds: Ints) -> float:
    """Cluster-robust correlation of two areas; of several classes, the mean over classes."""
    several = first.ndim > 1
    found = []
    for k in range(first.shape[1] if several else 1):
        truth = (labels == k).astype(np.int64) if several else labels
        parts = [compare(scores[:, k] if several else scores, truth, groups, folds) for scores in (first, second)]
        centred = [part.concordance - part.auroc * part.counts for part in parts]
        counts = parts[0].counts
        spread = [dyadic_covariance(c, c, counts)[0] for c in centred]
        if min(spread) <= 0:
            return 0.0
        found.append(dyadic_covariance(centred[0], centred[1], counts)[0] / np.sqrt(spread[0] * spread[1]))
    return float(np.clip(np.mean(found), -0.95, 0.95))


def smallest_detectable(critical: float, area_: Area, power: float = 0.8) -> float | None:
    """The smallest true AUROC whose estimate exceeds `critical`, the null's upper quantile, with this power, or None."""
    quantile = float(norm.ppf(power))

    def shortfall(a: float) -> float:
        return a - quantile * np.sqrt(area_.effect * independent_variance(a, area_.positives, area_.negatives)) - critical

    return _root(shortfall, critical, 1 - 1e-9) if shortfall(1 - 1e-9) > 0 else None


def quick_auroc(scores: Floats, labels: Ints) -> Floats:
    """AUROC of many score vectors at once, ties as halves: scores (…, rows), labels (…, rows) broadcastable, 1 and 0."""
    ranks = rankdata(scores, axis=-1)
    positive = np.broadcast_to(labels, scores.shape) == 1
    n1 = positive.sum(-1)
    n0 = positive.shape[-1] - n1
    return ((ranks * positive).sum(-1) - n1 * (n1 + 1) / 2) / (n1 * n0)
