"""Forms held against one another where a law has to prove itself: on sizes larger than any that it was fitted to.

The rows of the largest sizes, a quarter of the table, are put aside by their sizes alone; every form is fitted to the rest and
predicts them. Two things would show that a form does not hold: an error there that its own scatter does not explain, and another
form that predicts so much better. Both are held against tables that are made of the form's fit to the smaller sizes, where it is
true: p is the share of those where error/scatter, or the error over the least error of the other forms, is as large, twice the
smaller of the two (the second is asked of a form alone that another one did beat). Holm's p over all forms of at most 1 − level
rejects the form. No fit that saw the large sizes is asked.

The second is what catches a curve that is nothing like the form: its misfit to the small sizes passes for scatter, but not for a
reason that another form should do ten times better (a test of separate families, after Cox 1962, with its null simulated).

What it does not know: whether a form that stands is true. Two that both stand cannot be told apart by this table, and more sizes
are the only remedy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from ...errors import InputError
from ...reading import Null, Reading
from ...statistics.resample import holm
from ..law import reading_dict
from .bootstrap import LEVEL, Noises, noisy
from .fit import Fit, Outcome, errors_of, fit
from .forms import FORMS, Floats, Form
from .solve import Noise, Problem, descend, search
from .table import Table

DRAWS = 499  # of every form, in each of which all others are fitted
SHARE, FEWEST = 0.25, 2  # of rows held out
_ROUNDING = 1e-11  # below which an error is none
Verdict = Literal["stands", "rejected", "not compared"]


@dataclass(frozen=True, slots=True)
class Compared:
    """One form on the sizes that it did not see. `error`: root mean square of its errors there; its null is the same where the
    form holds. `p` is that of the module's test, adjusted for the number of forms (Holm)."""

    form: Form
    error: Reading
    p: float | None
    verdict: Verdict
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        error = reading_dict(self.error)
        return {"form": self.form.name, "verdict": self.verdict, "p": self.p, "error": error, "reason": self.reason}


def split(table: Table) -> tuple[Table, Table]:
    """The smaller sizes and the largest: a quarter of the rows, at least 2, and no size on both sides. Two columns of sizes are
    ordered by their product. A group has the same code on both sides; those of the largest sizes alone come after the others.

    Raises:
        InputError: fewer than two sizes would be left.
    """
    sizes = np.round(np.log(table.x).sum(0), 9) if len(table.x) > 1 else table.x[0]
    names, counts = np.unique(sizes, return_counts=True)
    above = counts[::-1].cumsum()
    held = int(np.searchsorted(above, max(FEWEST, SHARE * len(sizes)))) + 1
    if held >= len(names) - 1:
        raise InputError(f"{table.name}: {len(names)} sizes, too few to hold the largest out; add runs of other sizes")
    large = sizes >= names[-held]
    lower, upper = replace(table.of_rows(~large), name=f"{table.name} without its largest sizes"), table.of_rows(large)
    if table.groups is not None:
        ours, theirs = np.unique(table.groups[~large]), table.groups[large]
        order = np.concatenate([ours, np.setdiff1d(theirs, ours)])
        upper = replace(upper, groups=np.argsort(order)[np.searchsorted(np.sort(order), theirs)])
    return lower, upper


def compare(
    table: Table, forms: Sequence[Form], generator: np.random.Generator, *, noise: Noise = "multiplicative", draws: int = DRAWS,
    level: float = LEVEL, resampled: Noises | None = None,
) -> list[Compared]:  # fmt: skip
    """Every form that the table has the columns for, the least error first.

    Raises:
        InputError: too few sizes, or rows that no noise of this kind can hold.
    """
    small, large = split(table)
    forms = [one for one in forms if one.columns == len(table.x)]
    fitted = [_fitted(small, one, noise) for one in forms]
    stand = [one for one in fitted if isinstance(one, Fit)]
    told = [_held(one, stand, large, generator, draws, resampled) for one in stand]
    adjusted = holm([p for _, p in told])
    results = [
        Compared(one.form, error, p, "rejected" if p <= 1 - level else "stands")
        for one, (error, _), p in zip(stand, told, adjusted, strict=True)
    ]
    for form, reason in zip(forms, fitted, strict=True):
        if isinstance(reason, str):
            nothing = Reading.not_measured(reason, unit=_unit(table, noise), method="held-out sizes")
            results.append(Compared(form, nothing, None, "not compared", reason))
    return sorted(results, key=lambda one: math.inf if one.error.value is None else one.error.value)


def _fitted(small: Table, form: Form, noise: Noise) -> Fit | str:
    """A form's fit to the smaller sizes, or why there is none."""
    try:
        found = fit(small, form, noise)
    except InputError as refusal:
        return str(refusal)
    return found if found.outcome is Outcome.FOUND else found.outcome.value


def _held(
    one: Fit, all_: Sequence[Fit], large: Table, generator: np.random.Generator, draws: int, resampled: Noises | None
) -> tuple[Reading, float]:
    """A form's error on the larger sizes with its null, and p."""
    ahead = _problem_of(one, large)
    target = ahead.told(large.y)[None]
    error = float(_error(ahead, one.theta[None], target)[0])
    made, fresh = noisy(one, generator, draws, resampled, ahead, further=large.groups)
    theta, squares = _bounded(one.problem, np.repeat(one.theta[None], draws, 0), made)
    errors, scatter = _error(ahead, theta, fresh), _scatter(one, squares)
    own = float(_scatter(one, _bounded(one.problem, one.theta[None], one.targets[None])[1])[0])
    null = errors / scatter * own
    p = _rank(null, error)
    others = [other for other in all_ if other is not one]
    if others:
        best, bests = [], []
        for other in others:
            further = _problem_of(other, large)
            best.append(float(_error(further, other.theta[None], target)[0]))
            bests.append(_error(further, _bounded(other.problem, _near(other, one, draws), made)[0], fresh))
        better = error > min(best)
        p = min(1.0, 2 * min(p, _rank(errors / np.min(bests, 0), error / min(best)) if better else 1.0))
    tail = (1 - LEVEL) / 2
    low, middle, high = (float(figure) for figure in np.quantile(null, [tail, 0.5, 1 - tail]))
    how = f"{draws} tables made of the form's fit to the smaller sizes"
    return Reading(
        error, error, error, None, len(large.y), _unit(large, one.problem.noise),
        Null(middle, low, high, LEVEL, draws, _rank(null, error), how),
        f"root mean square error on the {len(large.y)} rows of the largest sizes",
    ), p  # fmt: skip


def _rank(null: Floats, figure: float) -> float:
    return float((1 + (null >= figure).sum()) / (1 + len(null)))


def _near(other: Fit, one: Fit, draws: int) -> Floats:
    """Where to start another form's descents on tables made of `one`: at its fit to the curve itself, or to the table."""
    curve = one.problem.curve(one.theta[None])[0]
    starts = search(other.problem, curve)
    if not len(starts):
        return np.repeat(other.theta[None], draws, 0)
    theta, squares, _ = descend(other.problem, starts, curve, close=1e-6, floor=True)
    return np.repeat(theta[squares.argmin()][None], draws, 0)


def _problem_of(fitted: Fit, table: Table) -> Problem:
    """The fitted form's problem on other sizes, in the coordinates of those it was fitted to."""
    problem, weights = fitted.problem, np.ones(len(table.y))
    first, here = errors_of(fitted.table, problem.noise), errors_of(table, problem.noise)
    if first is not None and here is not None:
        weights = np.exp(np.log(first).mean()) / here
    return Problem(problem.form, problem.axis, problem.axis.of_sizes(table.x), weights, problem.noise, problem.unit)


def _error(problem: Problem, theta: Floats, targets: Floats) -> Floats:
    """Root mean square of weighted errors (batch,); a curve that leaves the noise model's domain is infinitely off."""
    return np.sqrt(problem.squares(theta, targets) / problem.u.shape[1] + _ROUNDING**2)


def _scatter(one: Fit, squares: Floats) -> Floats:
    return np.sqrt(squares / one.degrees + _ROUNDING**2)


def _bounded(problem: Problem, theta: Floats, targets: Floats) -> tuple[Floats, Floats]:
    """Least squares with E not below 0 for each of a batch of targets: θ, and the squares."""
    theta, squares, _ = descend(problem, theta, targets, close=1e-6, floor=True)
    return theta, squares


def _unit(table: Table, noise: Noise) -> str:
    return f"of log {table.outcome}" if noise == "multiplicative" else table.outcome


ALL = tuple(FORMS.values())
