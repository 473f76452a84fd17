"""Scores as probabilities, and how far such probabilities can be believed.

`platt` fits a logistic curve, `isotonic` a rising staircase. Either is fitted on labelled scores that the strand was not fitted
on, and judged by `reliability` on rows that neither has seen. The scores' direction is not theirs to choose: larger has to mean
more of the concept, and if the rows do not show that beyond doubt the fit is refused, never turned round.

What they do not know: another share of positives than that of the rows they were fitted on. A probability of .9 fitted on
halves is .08 where one sequence in a hundred has the concept.

Calibration error here is that of bins of equal mass: Σ_b w_b |share of positives − mean probability|. What is computed from
rows is larger than the truth even for perfect probabilities, so it stands beside its null: the same computed on labels that are
drawn from the probabilities.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit
from scipy.stats import rankdata
from sklearn.isotonic import IsotonicRegression

from ..errors import InputError, TrustError
from ..reading import Null, Reading
from ..statistics.detect import independent_variance, score_interval
from .rows import Bools, Floats, Groups, Ints, finite, group_codes, share, share_between

_STEPS = 100  # Newton steps; about ten are needed


@dataclass(frozen=True, slots=True)
class Platt:
    """P(concept | score) = 1/(1 + exp(−(slope · score + intercept)))."""

    slope: float
    intercept: float

    def __call__(self, scores: ArrayLike) -> Floats:
        """(rows,) probabilities of (rows,) scores."""
        return expit(self.slope * finite("scores", scores) + self.intercept)


@dataclass(frozen=True, slots=True)
class Isotonic:
    """A probability that rises with the score, linear between the scores (knots,) at which it is given (knots,), level beyond."""

    scores: tuple[float, ...]
    probabilities: tuple[float, ...]

    def __call__(self, scores: ArrayLike) -> Floats:
        """(rows,) probabilities of (rows,) scores."""
        return np.interp(finite("scores", scores), self.scores, self.probabilities)


def platt(scores: ArrayLike, labels: ArrayLike, groups: Groups | None = None) -> Platt:
    """The logistic curve of greatest likelihood, labels drawn in a little as by Platt (1999) so that it exists when classes part.

    Args:
        scores: (rows,) of sequences that nothing before was fitted on.
        labels: (rows,) 1 with the concept, 0 without.
        groups: (rows,) rows that may depend on each other; for the test of direction.

    Raises:
        InputError: larger scores do not mean more of the concept beyond doubt; a class is missing; rows do not match.
        TrustError: the fit did not converge.
    """
    values, truth, _ = _labelled("scores", scores, labels, groups, directed=True)
    return likeliest(values, truth)


def likeliest(values: Floats, truth: Bools) -> Platt:
    """The curve of `platt` for rows whose direction has been looked at already; both classes have to be there."""
    positives, negatives = int(truth.sum()), int((~truth).sum())
    target = np.where(truth, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    centre, spread = float(values.mean()), float(values.std())
    rows = np.stack([(values - centre) / spread, np.ones(len(values))], axis=1)
    slope, intercept = _logistic(rows, target)
    return Platt(float(slope / spread), float(intercept - slope * centre / spread))


def _logistic(rows: Floats, target: Floats) -> Floats:
    """Newton's method with halved steps on the convex cross-entropy (Lin, Lin & Weng 2007): coefficients (columns,)."""
    weights = np.zeros(rows.shape[1])

    def loss(at: Floats) -> float:
        return float((np.logaddexp(0, rows @ at) - target * (rows @ at)).sum())

    for _ in range(_STEPS):
        chance = expit(rows @ weights)
        gradient = rows.T @ (chance - target)
        if np.abs(gradient).max() <= 1e-10 * len(rows):
            return weights
        step = np.linalg.solve((rows.T * (chance * (1 - chance))) @ rows, gradient)
        size = 1.0
        most = loss(weights) * (1 + 1e-12)  # near the optimum rounding decides which of two losses is the larger
        while size > 1e-8 and loss(weights - size * step) > most:
            size /= 2
        weights = weights - size * step
    raise TrustError(f"platt: the fit did not converge in {_STEPS} steps; look for scores far from all others, or fit isotonic")


def isotonic(scores: ArrayLike, labels: ArrayLike, groups: Groups | None = None) -> Isotonic:
    """The rising curve of least squares (pool adjacent violators). It can say 0 and 1, and needs many more rows than `platt`.

    Args and errors as for `platt`.
    """
    values, truth, _ = _labelled("scores", scores, labels, groups, directed=True)
    fit = IsotonicRegression(y_min=0.0, y_max=1.0, increasing=True, out_of_bounds="clip").fit(values, truth.astype(np.float64))
    return Isotonic(tuple(fit.X_thresholds_.tolist()), tuple(fit.y_thresholds_.tolist()))


def _labelled(
    name: str, scores: ArrayLike, labels: ArrayLike, groups: Groups | None, *, directed: bool
) -> tuple[Floats, Bools, Ints]:
    values = finite(name, scores)
    truth = np.asarray(labels)
    if truth.shape != values.shape or not np.isin(truth, (0, 1)).all():
        raise InputError(
            f"labels: wanted a 1 or a 0 for each of {len(values)} rows, got shape {truth.shape}; map the classes to 1 and 0"
        )
    truth, codes = truth.astype(bool), group_codes(groups, len(values))
    if directed:
        check_direction(values, truth, codes)
    return values, truth, codes


def check_direction(values: Floats, truth: Bools, codes: Ints) -> None:
    """Raise InputError unless larger values mean label 1 beyond doubt: polarity is fixed or the fit is refused."""
    if truth.all() or not truth.any():
        raise InputError(f"labels: all {len(truth)} rows are of class {int(truth[0])}, wanted both; add rows of the other")
    auroc, low, high = _auroc(values, truth, codes)
    figure = f"AUROC {auroc:.2f} [{low:.2f}, {high:.2f}]"
    if high < 0.5:
        raise InputError(
            f"scores: run against the labels ({figure}), wanted larger scores for label 1; mend the strand's sign or labels"
        )
    if low <= 0.5:
        raise InputError(
            f"scores: do not show which way they run ({figure}), wanted an interval above .5; add rows or another score"
        )


def _auroc(values: Floats, truth: Bools, codes: Ints, level: float = 0.95) -> tuple[float, float, float]:
    """AUROC and its score interval, from ranks alone: `detect.area` compares groups two by two, which many groups forbid.

    The design effect is that of each group's part in the AUROC to first order (Obuchowski 1997), not below 1; where there is no
    error to see it on, that of groups whose rows are all alike.
    """
    positives, negatives = int(truth.sum()), int((~truth).sum())
    ranks, own = rankdata(values), np.empty(len(values))
    for kind in (truth, ~truth):
        own[kind] = rankdata(values[kind])
    beaten = np.where(truth, (ranks - own) / negatives, 1 - (ranks - own) / positives)  # share of the other class, ties as halves
    auroc = float(beaten[truth].mean())
    sizes = np.bincount(codes)
    if auroc in (0.0, 1.0):
        effect = float((sizes**2).sum() / len(codes))
    else:
        parts = np.bincount(codes, (beaten - auroc) / np.where(truth, positives, negatives))
        variance = float((parts**2).sum()) * len(sizes) / max(len(sizes) - 1, 1)
        effect = max(1.0, variance / independent_variance(auroc, positives, negatives))
    return auroc, *score_interval(auroc, effect, positives, negatives, len(sizes), level)


@dataclass(frozen=True, slots=True)
class Bin:
    """Rows of like probability: the mean that was said and the share of positives that was seen."""

    predicted: float
    observed: Reading
    rows: int


@dataclass(frozen=True, slots=True)
class Reliability:
    """A reliability curve by bins of equal mass, and the expected calibration error over them.

    `error` has an exact, conservative interval: with Bonferroni every bin's true share lies in its own Clopper–Pearson interval,
    and the ends are the least and the greatest error that such shares allow. Its null says what perfect probabilities would give.
    """

    bins: tuple[Bin, ...]
    error: Reading


def reliability(
    probabilities: ArrayLike,
    labels: ArrayLike,
    groups: Groups | None = None,
    *,
    generator: np.random.Generator,
    bins: int = 10,
    level: float = 0.95,
    draws: int = 1000,
) -> Reliability:
    """How probabilities compare with what came true, on rows that they were not fitted on.

    Args:
        probabilities: (rows,) between 0 and 1.
        labels: (rows,) 1 or 0.
        groups: (rows,) rows that may depend on each other. Shares in a bin are those of a group drawn first and a row second;
            under the null the rows of a group share one random number, the strongest dependence there is.
        bins: of equal mass; rows of one probability stay together, so there can be fewer.
        draws: of the null.

    Raises:
        InputError: a probability outside [0, 1], rows that do not match, or fewer rows than bins.
    """
    chance, truth, codes = _labelled("probabilities", probabilities, labels, groups, directed=False)
    level = share_between("level", level)
    if chance.min() < 0 or chance.max() > 1:
        row = int(np.argmax((chance < 0) | (chance > 1)))
        raise InputError(
            f"probabilities: row {row} is {chance[row]:g}, wanted 0 to 1; calibrate the scores with platt or isotonic first"
        )
    if not 1 <= bins <= len(chance) or draws < 1:
        raise InputError(f"bins: got {bins} for {len(chance)} rows and {draws} draws, wanted at least one row a bin and one draw")
    parts = _equal_mass(chance, bins)
    made, low, high = [], 0.0, 0.0
    for rows in parts:
        inside = np.unique(codes[rows], return_inverse=True)[1]
        predicted = float(_group_mean(chance[rows], inside))
        strict = share(truth[rows], inside, 1 - (1 - level) / len(parts), unit="", method="")
        assert strict.low is not None and strict.high is not None
        low += len(rows) * max(0.0, strict.low - predicted, predicted - strict.high)
        high += len(rows) * max(predicted - strict.low, strict.high - predicted)
        observed = share(truth[rows], inside, level, unit="share of positives", method="exact (Clopper–Pearson) over groups")
        made.append(Bin(predicted, observed, len(rows)))
    n = len(chance)
    value = sum(part.rows * abs(_value(part.observed) - part.predicted) for part in made) / n
    null = _null(value, chance, codes, parts, level, draws, generator)
    method = f"{len(parts)} bins of equal mass; exact interval, Bonferroni over bins"
    ends = min(low / n, value), max(high / n, value)
    return Reliability(tuple(made), Reading(value, *ends, level, int(codes.max()) + 1, "calibration error", null, method))


def _value(reading: Reading) -> float:
    assert reading.value is not None
    return reading.value


def _group_mean(values: Floats, codes: Ints) -> Floats:
    """Mean over groups of the means inside: values (…, rows) to (…)."""
    weights = (1 / np.bincount(codes))[codes] / (codes.max() + 1)
    return values @ weights


def _equal_mass(chance: Floats, bins: int) -> list[Ints]:
    """Row numbers of each bin, in the order of probability; equal probabilities are never parted."""
    order = np.argsort(chance, kind="stable")
    ranked = chance[order]
    cuts = np.arange(1, bins) * len(chance) // bins
    cuts = np.unique(np.searchsorted(ranked, ranked[cuts]))  # back to the first row of the same probability
    return [part for part in np.split(order, cuts) if len(part)]


def _null(
    value: float, chance: Floats, codes: Ints, parts: list[Ints], level: float, draws: int, generator: np.random.Generator
) -> Null:
    """What perfect probabilities would give: labels drawn from them, rows of a group by one random number."""
    errors = np.zeros(draws)
    luck = generator.random((draws, int(codes.max()) + 1))
    for rows in parts:
        inside = np.unique(codes[rows], return_inverse=True)[1]
        drawn = (luck[:, codes[rows]] < chance[rows]).astype(np.float64)
        errors += len(rows) * np.abs(_group_mean(drawn, inside) - _group_mean(chance[rows], inside)) / len(chance)
    low, middle, high = np.quantile(errors, [(1 - level) / 2, 0.5, (1 + level) / 2]).tolist()
    p = float((1 + (errors >= value - 1e-12).sum()) / (draws + 1))
    return Null(middle, low, high, level, draws, p, "the same of labels drawn from the probabilities")
