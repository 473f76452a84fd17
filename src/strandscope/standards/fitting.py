"""Standards of fitted laws: surfaces without noise, and intervals on tables whose law is known.

Tables are drawn from the forms' formulas as they are written, never through the coordinates that the fit works in.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..laws.fit import bootstrap, forms
from ..laws.fit.bootstrap import Resampled, interval, resample
from ..laws.fit.fit import Fit, fit
from ..laws.fit.forms import FORMS
from ..laws.fit.table import Table
from .mutation import Mutation
from .standard import Bands, Draw, Outcome, case

Floats = NDArray[np.float64]
DRAWS = 199  # (B + 1)(1 − .95)/2 is a whole number


def _off(found: Fit, truth: dict[str, float]) -> Outcome:
    """The largest relative error of a parameter."""
    if found.outcome.name != "FOUND":
        return Outcome(np.inf)
    return Outcome(max(abs(found.parameters[name] / value - 1) for name, value in truth.items()))


@case(
    "Chinchilla surface without noise",
    "laws.fit.fit.fit",
    "E = 1.69, A = 406.4, B = 410.7, α = .34, β = .28",
    Bands(error=1e-6),
    (3, 10, 100),
    Mutation("D's exponent on N", forms._two_decays, "np.exp(nu[1]) * u[1]", "np.exp(nu[1]) * u[0]"),
    Mutation("amplitudes told where the data lie", Fit.held, "if moved is None:", "if True:"),
    source="E + A N^-α + B D^-β (Hoffmann et al. 2022)",
    unit="relative",
)
def chinchilla(draw: Draw) -> Outcome:
    """30 runs at random sizes, N from 1e7 to 1e10 and D from 1e9 to 3e11; every parameter."""
    n, d = np.exp(draw.numpy.uniform(np.log([[1e7], [1e9]]), np.log([[1e10], [3e11]]), (2, 30)))
    found = fit(Table.of(np.stack([n, d]), 1.69 + 406.4 * n**-0.34 + 410.7 * d**-0.28), FORMS["chinchilla"])
    return _off(found, {"E": 1.69, "A": 406.4, "B": 410.7, "α": 0.34, "β": 0.28})


@case(
    "laws of one size without noise",
    "laws.fit.fit.fit",
    "the parameters of each form",
    Bands(error=1e-6),
    (3, 10, 60),
    Mutation("break twice as sharp", forms._broken, "soft, share = _softplus(away)", "soft, share = _softplus(2 * away)"),
    Mutation("rate in units of the centred axis", Fit.told, "float(axis.width[0])", "1.0"),
    source="the formulas",
    unit="relative",
)  # fmt: skip
def alone(draw: Draw) -> Outcome:
    """Power, power and constant, exponential, logistic and one break, 20 sizes over three decades, parameters at random."""
    g, x = draw.numpy, np.logspace(2, 5, 20)
    a, e, alpha = g.uniform(2, 9), g.uniform(0.2, 1), g.uniform(0.2, 0.6)
    k, m, steep = g.uniform(2e-5, 8e-5), g.uniform(1e3, 1e4), g.uniform(1, 2)
    after, f = alpha + g.uniform(0.2, 0.6), g.uniform(0.3, 0.6)
    worst = 0.0
    for name, y, truth in (
        ("power", a * x**-alpha, {"A": a, "α": alpha}),
        ("power+const", e + a * x**-alpha, {"E": e, "A": a, "α": alpha}),
        ("exponential", e + a * np.exp(-k * x), {"E": e, "A": a, "k": k}),
        ("logistic", e + a / (1 + (x / m) ** steep), {"E": e, "A": a, "k": steep, "m": m}),
        (
            "broken-power",
            a * x**-alpha * (1 + (x / m) ** (1 / f)) ** (-(after - alpha) * f),
            {"A": a, "α": alpha, "β": after, "m": m, "f": f},
        ),
    ):
        worst = max(worst, _off(fit(Table.of(x, y), FORMS[name]), truth).error)
    return Outcome(worst)


def _noisy(draw: Draw, n: int, scatter: float) -> Resampled:
    """A table of .5 + 8 x^-.4 at n sizes over three decades, fitted and resampled."""
    x = np.logspace(2, 5, n)
    y = (0.5 + 8 * x**-0.4) * np.exp(scatter * draw.numpy.normal(size=n))
    return resample(fit(Table.of(x, y), FORMS["power+const"]), draw.numpy, DRAWS)


_SLIPS = (
    Mutation("sign of the root lost", bootstrap._roots, "np.sign(figure - at)", "np.abs(np.sign(figure - at))"),
    Mutation("mean for sum", interval, "np.square(quantiles) * least", "np.square(quantiles) * least / len(fit.targets)"),
)


@case(
    "interval of an exponent",
    "laws.fit.bootstrap.interval",
    "α = .4",
    Bands(coverage=0.95),
    (45, 400, 2000),
    *_SLIPS,
    source="E + A x^-α",
    unit="exponent",
)
def exponent(draw: Draw) -> Outcome:
    """.5 + 8 x^-.4 at 12 sizes over three decades, log y scattered by 2 %."""
    made = _noisy(draw, 12, 0.02)
    return Outcome.of(interval(made, made.fit.held("α"), "exponent"), 0.4)


@case(
    "interval of a prediction",
    "laws.fit.bootstrap.interval",
    "y(10⁶) = .5318",
    Bands(coverage=0.95),
    (45, 400, 2000),
    *_SLIPS,
    source="E + A x^-α",
    unit="y",
)
def prediction(draw: Draw) -> Outcome:
    """The same law at 16 sizes, scattered by 3 %, asked for ten times beyond the largest."""
    made = _noisy(draw, 16, 0.03)
    return Outcome.of(interval(made, made.fit.held_at(np.array([1e6])), "y"), 0.5 + 8 * 1e6**-0.4)


@case(
    "interval of an exponent, by run",
    "laws.fit.bootstrap.interval",
    "α = .3",
    Bands(coverage=0.95),
    (80, 400, 2000),
    Mutation("groups forgotten", bootstrap._groups, "if groups is None:", "if True:"),
    source="A x^-α",
    unit="exponent",
)
def by_group(draw: Draw) -> Outcome:
    """3 x^-.3 in 16 runs of four sizes; runs lie on stretches of x and share four fifths of their variance of 5 %."""
    x, run = np.logspace(2, 5, 64), np.repeat(np.arange(16), 4)
    noise = 0.05 * (0.8**0.5 * draw.numpy.normal(size=16)[run] + 0.2**0.5 * draw.numpy.normal(size=64))
    found = fit(Table.of(x, 3 * x**-0.3 * np.exp(noise), groups=run), FORMS["power"])
    made = resample(found, draw.numpy, DRAWS)
    return Outcome.of(interval(made, found.held("α"), "exponent"), 0.3)


STANDARDS = (chinchilla, alone, exponent, prediction, by_group)
