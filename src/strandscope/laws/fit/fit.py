"""One form fitted to a table: the least squares, how the search ended, and every figure that can be read off the fit.

Noise is multiplicative unless told otherwise, as the field's losses have it: log y scatters about log of the form, alike at every
size, or in proportion to the row's own relative error where the table gives standard errors (their common scale is estimated, so
errors that are all twice as large change no interval). Additive noise is the same with y in the place of log y.

A constant that is a level of loss is not below 0, and of least squares with that bound the fit is one: where the free least has
E < 0 the fitted E is 0 and the others are fitted beside it. The free least is kept (`free`), because that is where an interval is
regular: at a bound a bootstrap is not.

A search that fails is an `Outcome` with a sentence. No other form and no other method takes its place.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

import numpy as np

from ...errors import InputError
from .forms import Axis, Floats, Form, values
from .solve import Held, Noise, Problem, descend, search
from .table import Table

SPARE = 2  # rows more than parameters, at least


class Outcome(Enum):
    """How a search ended; the text is what a user reads."""

    FOUND = "found"
    NO_FALL = "no amplitude above 0 lowers the squares: in this table y does not go where the form says; try another form"
    EDGE = "the best fit lies at an edge of the search, where a parameter means nothing; try a form with fewer parameters"
    STUCK = (
        "the descent did not converge: the table does not determine the form's parameters; add sizes, or try a form with fewer"
    )


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """A fitted form. `theta` in the coordinates of `forms`, and `free`, the same where E may be below 0."""

    problem: Problem
    table: Table
    targets: Floats  # (n,) what the noise model sees of y
    outcome: Outcome
    theta: Floats
    free: Floats
    squares: float  # of the free fit

    @property
    def form(self) -> Form:
        return self.problem.form

    @property
    def degrees(self) -> int:
        return len(self.targets) - len(self.free)

    @property
    def scatter(self) -> float:
        """Standard deviation of the noise: of log y, or of y; with errors given, of a row whose error is the typical one."""
        scale = 1.0 if self.problem.noise == "multiplicative" else self.problem.unit
        return math.sqrt(self.squares / self.degrees) * scale

    @property
    def parameters(self) -> dict[str, float]:
        """By name, in the user's units."""
        return {name: self._told(name, self.theta) for name in self.form.parameters}

    def predict(self, x: Floats) -> Floats:
        """The fitted curve (n,) at sizes (columns, n)."""
        y, _ = values(self.form, self.theta[None], self.problem.axis.of_sizes(x), slopes=False)
        return y[0] * self.problem.unit

    def held(self, name: str) -> Held:
        """A parameter as a figure of the free fit: E, or what its user's value is a rising function of."""
        at = self.form.parameters.index(name)
        amplitude = at - self.form.constant
        moved = self.form.moved[amplitude] if 0 <= amplitude < len(self.form.amplitudes) else None
        if moved is None:
            return Held(name, at, lambda theta: (theta[:, at], _unit(theta, at)))
        number, column = moved
        place, logged = self.form.linear + number, self.form.searched[number].logged
        far = float(self.problem.axis.centre[column] / self.problem.axis.width[column])

        def read(theta: Floats) -> tuple[Floats, Floats]:
            exponent = np.exp(theta[:, place]) if logged else theta[:, place]
            gradient = _unit(theta, at)
            gradient[:, place] = far * exponent if logged else far
            return theta[:, at] + far * exponent, gradient

        return Held(name, at, read)

    def held_at(self, x: Floats) -> Held:
        """The curve at one size (columns,): y itself where there is a constant, else log y."""
        u = self.problem.axis.of_sizes(np.asarray(x, dtype=np.float64)[:, None])

        def read(theta: Floats) -> tuple[Floats, Floats]:
            y, jacobian = values(self.form, theta, u)
            assert jacobian is not None
            return (y[:, 0], jacobian[..., 0]) if self.form.constant else (np.log(y[:, 0]), jacobian[..., 0] / y)

        return Held("curve", 0, read)

    def told(self, held: Held, figure: float) -> float:
        """A figure of the fit in the user's units; a constant and a curve that may not be below 0 are cut there."""
        unit, form = self.problem.unit, self.form
        if held.name == "curve":
            return max(figure, 0.0) * unit if form.constant else math.exp(figure) * unit
        if held.name == "E":
            return max(figure, 0.0) * unit
        if held.name in form.amplitudes:
            return math.exp(figure) * unit
        searched = form.searched[form.parameters.index(held.name) - form.linear]
        axis = self.problem.axis
        if searched.place:
            return math.exp(figure + axis.centre[0])
        return (math.exp(figure) if searched.logged else figure) / (1.0 if searched.name == "f" else float(axis.width[0]))

    def _told(self, name: str, theta: Floats) -> float:
        held = self.held(name)
        return self.told(held, float(held.read(theta[None])[0][0]))


def fit(table: Table, form: Form, noise: Noise = "multiplicative") -> Fit:
    """Least squares of a form.

    Raises:
        InputError: the table has too few rows or sizes, or rows that the form or its noise cannot hold.
    """
    check(table, form, noise)
    y = table.y
    unit = float(np.median(np.abs(y))) or 1.0
    axis = Axis.of(table.x, form.logarithmic)
    problem = Problem(form, axis, axis.of_sizes(table.x), _weights(table, noise), noise, unit)
    targets = problem.told(y)
    outcome, theta, squares = _least(problem, targets)
    free = theta
    if outcome is Outcome.FOUND and form.constant:
        ((free,), (squares,), _) = descend(problem, theta[None], targets, close=1e-12)
    return Fit(problem, table, targets, outcome, theta, free, float(squares))


def _least(problem: Problem, targets: Floats) -> tuple[Outcome, Floats, float]:
    starts = search(problem, targets)
    if not len(starts):
        return Outcome.NO_FALL, np.full(len(problem.form.parameters), np.nan), math.nan
    theta, squares, done = descend(problem, starts, targets, close=1e-12, floor=True)
    best = int(squares.argmin())
    outcome = Outcome.FOUND if done[best] else Outcome.STUCK
    for figure, (low, high) in zip(theta[best, problem.form.linear :], problem.boxes(), strict=True):
        if not low < figure < high:
            outcome = Outcome.EDGE
    return outcome, theta[best], float(squares[best])


def check(table: Table, form: Form, noise: Noise) -> None:
    """Raise InputError unless the table can hold the form."""
    rows, wanted = len(table.y), len(form.parameters) + SPARE
    if len(table.x) != form.columns:
        got = ", ".join(table.names)
        raise InputError(f"{table.name}: {len(table.x)} columns of sizes ({got}), the form {form.name} wants {form.columns}")
    if rows < wanted:
        raise InputError(
            f"{table.name}: {rows} rows; {form.name} has {len(form.parameters)} parameters and wants at least {wanted} rows; "
            "add runs, or name a form with fewer parameters"
        )
    for name, sizes in zip(table.names, table.x, strict=True):
        found, least = len(np.unique(sizes)), _sizes(form)
        if found < least:
            raise InputError(
                f"{table.name}: {name} takes {found} value{'s' * (found > 1)}, {form.name} wants at least {least}; "
                "add runs of other sizes"
            )
        _check_domain(
            table, sizes <= 0 if form.logarithmic else sizes < 0, name, sizes, "above 0" if form.logarithmic else "at least 0", ""
        )
    if noise == "multiplicative":
        mend = "mend the row, or say that the noise is additive"
        _check_domain(table, table.y <= 0, table.outcome, table.y, "above 0 for multiplicative noise", f"; {mend}")


def _sizes(form: Form) -> int:
    """The fewest values of each size that determine the form's parameters."""
    return 3 if form.columns > 1 else len(form.parameters)


def _check_domain(table: Table, wrong: np.ndarray, name: str, figures: Floats, wanted: str, mend: str) -> None:
    if wrong.any():
        row = int(wrong.argmax())
        raise InputError(f"{table.places[row]}: {name} is {figures[row]:g}, wanted {wanted}{mend}")


def _weights(table: Table, noise: Noise) -> Floats:
    """Of residuals (n,): 1 where no errors are given, else typical error/error."""
    errors = errors_of(table, noise)
    return np.ones(len(table.y)) if errors is None else np.exp(np.log(errors).mean()) / errors


def errors_of(table: Table, noise: Noise) -> Floats | None:
    """Standard errors (n,) of log y or of y, where the table gives them."""
    return None if table.error is None else table.error / table.y if noise == "multiplicative" else table.error


def _unit(theta: Floats, at: int) -> Floats:
    gradient = np.zeros_like(theta)
    gradient[:, at] = 1.0
    return gradient
