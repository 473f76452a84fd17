"""Intervals of what a fit says: the profile of the sum of squares, its quantiles from a bootstrap.

For a figure g of the fit, r(g) = ± √((S(g) − S)/s²) is the signed root of how much the squares grow where g is held: it does not
change with the coordinates, so that an interval for A is that for log A. Its distribution at the truth is taken from refits of
tables made of the fitted curve and resampled noise, each with its own scatter s, its own least and its own least with g held at
the fitted figure. The interval is every g with r(g) between the quantiles: a bootstrap-t without a standard error.

Noise is drawn
    residual    residuals divided by √(1 − leverage), about their mean, with replacement (rows are alike but for their weights);
    wild        each group's residuals, divided so, all times one random sign: for rows that share luck or scatter unalike. r is
                then divided by how far the standard error clustered by group is from the usual one.
    group       each group's from one group's residuals, drawn with replacement, times one sign: for `compare`, whose larger sizes
                have groups of their own.
A table with groups is resampled by group. (B + 1)·(1 − level)/2 is a whole number, so that with a pivot the coverage is the level
for any B, and B sets how far ends wander.

Coverage at .95, measured (standards "fitting", docs/decisions/2026-11-26-fitting.md). What it does not know: whether the form is
true. A form that is wrong has narrow intervals all the same; `compare` is what can refuse it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ...errors import InputError
from ...reading import Reading
from .fit import Fit
from .forms import Floats
from .solve import Held, Problem, descend, extremes

Noises = Literal["residual", "wild"]
LEVEL = 0.95
DRAWS = 1999
FEWEST = 8  # groups


@dataclass(frozen=True, slots=True, eq=False)
class Resampled:
    """Refits of a fit: targets (draws, n), θ, sums of squares, and whether each converged."""

    fit: Fit
    groups: np.ndarray | None  # codes (n,) that noise was drawn by
    targets: Floats
    theta: Floats
    squares: Floats

    @property
    def draws(self) -> int:
        return len(self.squares)

    @classmethod
    def exact(cls, fit: Fit) -> Resampled:
        """Of a table without noise: nothing to resample, and every interval has no width."""
        return cls(fit, None, fit.targets[None][:0], fit.free[None][:0], np.empty(0))


def resample(fit: Fit, generator: np.random.Generator, draws: int = DRAWS, noise: Noises | None = None) -> Resampled:
    """Refits on resampled noise, by group where the table has groups.

    Raises:
        InputError: fewer than 8 groups.
    """
    targets, _ = noisy(fit, generator, draws, noise, theta=fit.free)
    theta, squares, _ = descend(fit.problem, np.repeat(fit.free[None], draws, 0), targets, close=1e-6)
    return Resampled(fit, _groups(fit, noise), targets, theta, squares)


def noisy(
    fit: Fit, generator: np.random.Generator, draws: int, noise: Noises | None = None, ahead: Problem | None = None,
    theta: Floats | None = None, further: np.ndarray | None = None,
) -> tuple[Floats, Floats]:  # fmt: skip
    """Targets (draws, n) made of the fitted curve (or of θ's) and resampled noise, and others (draws, m) at sizes further on.

    Args:
        further: group codes (m,) of the rows ahead, with the table's for its own groups; all noise is then drawn by whole groups,
            since that of a new group can only be another's.
    """
    groups, theta = _groups(fit, noise), fit.theta if theta is None else theta
    residual, jacobian = fit.problem.linearised(theta[None], fit.targets[None])
    away = residual[0] / np.sqrt(np.maximum(1 - _leverage(jacobian[0]), 1e-3))
    more = 0 if ahead is None else ahead.u.shape[1]
    if groups is None:
        away = away - away.mean()
        drawn = away[generator.integers(len(away), size=(draws, len(away) + more))]
    elif further is None:
        drawn = away * _signs(generator, draws, int(groups.max()) + 1)[:, groups]
        drawn = np.concatenate([drawn, away[generator.integers(len(away), size=(draws, more))]], 1)
    else:
        drawn = _by_group(generator, away, groups, np.concatenate([groups, further]), draws)
    here = fit.problem.curve(theta[None]) + drawn[:, : len(away)] / fit.problem.weights
    if ahead is None:
        return here, drawn[:, len(away) :]
    return here, ahead.curve(theta[None]) + drawn[:, len(away) :] / ahead.weights


def _groups(fit: Fit, noise: Noises | None) -> np.ndarray | None:
    groups = fit.table.groups
    if groups is None:
        return np.arange(len(fit.targets)) if noise == "wild" else None
    count = int(groups.max()) + 1
    if count < FEWEST:
        raise InputError(
            f"{fit.table.name}: {count} groups, wanted at least {FEWEST} for an interval over groups; add runs, or leave the "
            "column of groups out where rows do not share their luck"
        )
    return groups


def _leverage(jacobian: Floats) -> Floats:
    """Diagonal (n,) of the projection on the slopes (parameters, n)."""
    basis, _ = np.linalg.qr((jacobian / np.linalg.norm(jacobian, axis=1, keepdims=True)).T)
    return np.square(basis).sum(1)


def _signs(generator: np.random.Generator, draws: int, groups: int) -> Floats:
    """Multipliers of mean 0 and variance 1 (draws, groups): signs, or Webb's six points where groups are few."""
    if groups > 12:
        return generator.choice([-1.0, 1.0], size=(draws, groups))
    return generator.choice(np.sqrt([0.5, 1.0, 1.5]), size=(draws, groups)) * generator.choice([-1.0, 1.0], size=(draws, groups))


def _by_group(generator: np.random.Generator, away: Floats, groups: np.ndarray, codes: np.ndarray, draws: int) -> Floats:
    """Noise (draws, rows) of rows with these codes: each group's from one group's residuals at random, all times one sign."""
    sizes = np.bincount(groups)
    shape = draws, max(len(sizes), int(codes.max()) + 1)
    donors = generator.integers(len(sizes), size=shape)[:, codes]
    signs = generator.choice([-1.0, 1.0], size=shape)[:, codes]
    first = np.cumsum(sizes) - sizes
    rows = first[donors] + generator.integers(sizes[donors])
    return away[np.argsort(groups, kind="stable")][rows] * signs


def interval(resampled: Resampled, held: Held, unit: str, level: float = LEVEL) -> Reading:
    """A figure of the fit in the user's units, with its interval."""
    fit, draws = resampled.fit, resampled.draws
    how = _how(resampled)
    figure = float(held.read(fit.theta[None])[0][0])
    if not draws:
        value = fit.told(held, figure)
        return Reading(value, value, value, level, len(fit.targets), unit, None, how)
    least = fit.squares / fit.degrees
    free = float(held.read(fit.free[None])[0][0])
    roots = _roots(resampled, held, free)
    rank = math.floor((draws + 1) * (1 - level) / 2 + 1e-9)
    if rank < 1:
        raise InputError(f"draws: got {draws}, wanted at least {math.ceil(2 / (1 - level)) - 1} for an interval at {level:g}")
    ordered = np.sort(roots)
    # the lower end is where r reaches its upper quantile, and the other way round
    quantiles = np.array([ordered[draws - rank], -ordered[rank - 1]])
    quantiles = np.maximum(quantiles, 0) * _clustering(resampled, held, fit.free[None], fit.targets[None], np.array([least]))[0]
    ends, reached = extremes(fit.problem, fit.free, fit.targets, held, fit.squares + np.square(quantiles) * least)
    value = fit.told(held, figure)
    if reached[1] and ends[1] < 0 and (held.name == "E" or (held.name == "curve" and fit.form.constant)):
        what = "E" if held.name == "E" else "the curve there"
        reason = f"the table wants {what} below 0; the form does not hold"
        return Reading.not_measured(reason, unit=unit, method=how, n=len(fit.targets))
    if not reached.all() and not _cut(held, ends, reached):
        side = "both sides" if not reached.any() else "the low side" if not reached[0] else "the high side"
        return Reading.not_measured(f"the table does not bound it on {side}", unit=unit, method=how, n=len(fit.targets))
    low, high = (fit.told(held, float(end)) for end in ends)
    return Reading(value, min(low, value), max(high, value), level, len(fit.targets), unit, None, how)


def _cut(held: Held, ends: Floats, reached: np.ndarray) -> bool:
    """Whether an end that was not reached lies where a constant or a curve is cut at 0 anyway."""
    return bool(held.name == "E" and reached[1] and ends[0] < 0)


def _roots(resampled: Resampled, held: Held, at: float) -> Floats:
    """r (draws,) at the figure that the tables were made with."""
    fit = resampled.fit
    problem, free, squares = fit.problem, resampled.theta, resampled.squares
    figure, _ = held.read(free)
    _, above, _ = descend(problem, free, resampled.targets, held, at, close=1e-6)
    scale = squares / fit.degrees
    flat = squares <= 1e-12 * np.median(squares)  # noise drawn alike for all rows: no scatter to measure by
    roots = np.sign(figure - at) * np.sqrt(np.maximum(above - squares, 0) / np.where(flat, 1.0, scale))
    roots = roots / _clustering(resampled, held, free, resampled.targets, np.where(flat, 1.0, scale))
    return np.where(flat, np.copysign(np.inf, roots), roots)


def _clustering(resampled: Resampled, held: Held, theta: Floats, targets: Floats, scale: Floats) -> Floats:
    """Standard error of the figure clustered by group over the usual one (batch,); 1 where rows are drawn one by one."""
    if resampled.groups is None:
        return np.ones(len(theta))
    residual, jacobian = resampled.fit.problem.linearised(theta, targets)
    _, gradient = held.read(theta)
    along = np.linalg.solve(jacobian @ jacobian.transpose(0, 2, 1), gradient[..., None])[..., 0]
    usual = (gradient * along).sum(1) * scale
    parts = (along[:, :, None] * jacobian).sum(1) * residual
    sums = parts @ np.eye(int(resampled.groups.max()) + 1)[resampled.groups]
    return np.sqrt(np.square(sums).sum(1) / usual)


def _how(resampled: Resampled) -> str:
    fit = resampled.fit
    what = "log y" if fit.problem.noise == "multiplicative" else "y"
    if not resampled.draws:
        return f"least squares of {what}; the rows lie on the form to rounding, so there is no noise to resample"
    if resampled.groups is None:
        noise = "residuals of rows"
    elif fit.table.groups is None:
        noise = "signs of rows' residuals"
    else:
        noise = f"signs of the residuals of {int(resampled.groups.max()) + 1} groups"
    return f"least squares of {what}; profile with quantiles from {resampled.draws} refits, {noise} resampled"


def parameters(resampled: Resampled, level: float = LEVEL) -> dict[str, Reading]:
    """Every parameter by name."""
    fit = resampled.fit
    return {name: interval(resampled, fit.held(name), _unit(fit, name), level) for name in fit.form.parameters}


def predictions(resampled: Resampled, x: Sequence[Sequence[float]], level: float = LEVEL) -> list[Reading]:
    """The curve at each of these sizes (columns,)."""
    fit = resampled.fit
    return [interval(resampled, fit.held_at(np.asarray(one, dtype=np.float64)), fit.table.outcome, level) for one in x]


def _unit(fit: Fit, name: str) -> str:
    if name == "E" or name in fit.form.amplitudes:
        return fit.table.outcome
    if name == "m":
        return fit.table.names[0]
    return (
        f"1/{fit.table.names[0]}" if name == "k" and not fit.form.logarithmic else "exponent" if name != "f" else "width in log x"
    )
