"""The forms that a law of scaling can have, each as a constant and one or two amplitudes times shapes.

    y = E + Σ_l exp(a_l + s_l(ν, u)),

with u the coordinates of the sizes (logarithms about their mean, or x about its middle over its half range), a_l logarithms of
amplitudes at the centre of the data, and ν the non-linear parameters. Centred so, amplitudes and exponents are nearly orthogonal,
where A and α of A x^-α are all but parallel. Parameters are told as users write them: every one is a linear function of (E, a, ν)
or the exponential of one, so that an interval in one writing is that in the other.

What it does not know: which form is true. `compare` asks larger sizes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError

Floats = NDArray[np.float64]
Shapes = tuple[list[Floats], list[list[Floats | float]]]  # s_l, and ∂s_l/∂ν_m by l and m


@dataclass(frozen=True, slots=True)
class Search:
    """Where one non-linear parameter is looked for: from, to, and in so many steps; in `logged` ones ν is its logarithm. A
    `slope` multiplies u."""

    name: str
    low: float
    high: float
    steps: int
    logged: bool = False
    slope: bool = True
    place: bool = False  # a place on the axis of x: told in the units of x, looked for within the data

    @property
    def box(self) -> tuple[float, float]:
        return (math.log(self.low), math.log(self.high)) if self.logged else (self.low, self.high)


@dataclass(frozen=True, slots=True)
class Form:
    """One form. `columns` of sizes; `amplitudes` are named as in the formula.

    shapes: (ν (m, batch, 1), u (columns, n)) → s_l (batch, n) and its derivatives.
    powers: for every amplitude the non-linear parameter and the column by whose centre it is moved: log A = a + ν·centre.
    """

    name: str
    formula: str
    columns: int
    constant: bool
    amplitudes: tuple[str, ...]
    searched: tuple[Search, ...]
    shapes: Callable[[Floats, Floats], Shapes]
    moved: tuple[tuple[int, int] | None, ...]
    logarithmic: bool = True

    @property
    def parameters(self) -> tuple[str, ...]:
        return (*("E",) * self.constant, *self.amplitudes, *(one.name for one in self.searched))

    @property
    def linear(self) -> int:
        return self.constant + len(self.amplitudes)


@dataclass(frozen=True, slots=True)
class Axis:
    """How sizes become coordinates, and back: u = (log x − centre) or (x − centre)/width, column by column."""

    centre: Floats
    width: Floats
    logarithmic: bool

    @classmethod
    def of(cls, x: Floats, logarithmic: bool) -> Axis:
        """From sizes (columns, n)."""
        if logarithmic:
            return cls(np.log(x).mean(1), np.ones(len(x)), True)
        low, high = x.min(1), x.max(1)
        return cls((low + high) / 2, (high - low) / 2, False)

    def of_sizes(self, x: Floats) -> Floats:
        told = np.log(x) if self.logarithmic else x
        return (told - self.centre[:, None]) / self.width[:, None]


def values(form: Form, theta: Floats, u: Floats, slopes: bool = True) -> tuple[Floats, Floats | None]:
    """y (batch, n) and its derivatives (batch, parameters, n), from (E, a, ν) (batch, parameters) and u (columns, n)."""
    first, linear = int(form.constant), form.linear
    nu = theta[:, linear:].T[:, :, None]
    shapes, moves = form.shapes(nu, u)
    parts = [np.exp(theta[:, first + at, None] + shape) for at, shape in enumerate(shapes)]
    y = sum(parts[1:], parts[0])
    if form.constant:
        y = y + theta[:, :1]
    if not slopes:
        return y, None
    jacobian = np.empty((len(theta), theta.shape[1], u.shape[1]))
    if form.constant:
        jacobian[:, 0] = 1.0
    for at, part in enumerate(parts):
        jacobian[:, first + at] = part
    for at in range(len(form.searched)):
        jacobian[:, linear + at] = sum(part * move[at] for part, move in zip(parts, moves, strict=True))
    return y, jacobian


def _softplus(z: Floats) -> tuple[Floats, Floats]:
    """log(1 + e^z) and its derivative."""
    small = np.exp(-np.abs(z))
    return np.maximum(z, 0) + np.log1p(small), np.where(z >= 0, 1.0, small) / (1 + small)


def _power(nu: Floats, u: Floats) -> Shapes:
    return [-nu[0] * u[0]], [[-u[0]]]


def _decay(nu: Floats, u: Floats) -> Shapes:
    shape = -np.exp(nu[0]) * u[0]
    return [shape], [[shape]]


def _two_decays(nu: Floats, u: Floats) -> Shapes:
    one, other = -np.exp(nu[0]) * u[0], -np.exp(nu[1]) * u[1]
    return [one, other], [[one, 0.0], [0.0, other]]


def _logistic(nu: Floats, u: Floats) -> Shapes:
    k, middle = nu
    away = u[0] - middle
    soft, share = _softplus(k * away)
    return [-soft], [[-share * away, share * k]]


def _broken(nu: Floats, u: Floats) -> Shapes:
    before, after, middle, width = nu
    f = np.exp(width)
    away = (u[0] - middle) / f
    soft, share = _softplus(away)
    turn = after - before
    return [-before * u[0] - turn * f * soft], [[-u[0] + f * soft, -f * soft, turn * share, -turn * f * (soft - share * away)]]


def _exponent(name: str, steps: int) -> Search:
    return Search(name, 1e-3, 20.0, steps, logged=True)


FORMS: dict[str, Form] = {
    form.name: form
    for form in (
        Form("power", "A x^-α", 1, False, ("A",), (Search("α", -20.0, 20.0, 81),), _power, ((0, 0),)),
        Form("power+const", "E + A x^-α", 1, True, ("A",), (_exponent("α", 48),), _decay, ((0, 0),)),
        Form(
            "chinchilla", "E + A N^-α + B D^-β", 2, True, ("A", "B"),
            (_exponent("α", 20), _exponent("β", 20)), _two_decays, ((0, 0), (1, 1)),
        ),
        Form(
            "exponential", "E + A e^(-k x)", 1, True, ("A",), (Search("k", 1e-2, 100.0, 48, logged=True),),
            _decay, ((0, 0),), logarithmic=False,
        ),
        Form(
            "logistic", "E + A / (1 + (x/m)^k)", 1, True, ("A",),
            (Search("k", -20.0, 20.0, 41), Search("m", 0.0, 1.0, 15, place=True)), _logistic, (None,),
        ),
        Form(
            "broken-power", "A x^-α (1 + (x/m)^(1/f))^(-(β-α) f)", 1, False, ("A",),
            (
                Search("α", -3.0, 5.0, 9), Search("β", -3.0, 5.0, 9), Search("m", 0.0, 1.0, 9, place=True),
                Search("f", 0.05, 2.0, 3, logged=True, slope=False),
            ), _broken, ((0, 0),),
        ),
    )
}  # fmt: skip


def form(name: str) -> Form:
    """The form called so.

    Raises:
        InputError: there is none.
    """
    if name not in FORMS:
        raise InputError(f"form: got {name!r}, wanted one of {', '.join(FORMS)}")
    return FORMS[name]
