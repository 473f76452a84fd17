"""Power laws of learning curves, foretold from the spectrum alone, and intervals of fitted laws that hold what they should.

A ridgeless linear model sees Gaussian features whose variances fall as i^-a, and a target whose variance in them falls as i^-b.
The test error at n rows is read off exactly, for the drawn inputs: no test rows, and the average over the signs of the target's
coefficients is taken in closed form, so that what varies is the inputs alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from ...statistics.kernel.eigenlearning import eigenlearning
from ..figure import Figure, Series
from ..fit.bootstrap import interval, resample
from ..fit.compare import compare
from ..fit.fit import fit
from ..fit.forms import FORMS, Form
from ..fit.table import Table
from ..law import Check, Control, Law, LawResult
from .checks import columns, plotted, ratio, share, slope, within
from .entry import Trial, entry

Floats = NDArray[np.float64]

SCALING = Law(
    name="power-law scaling",
    formula="E(n) = 𝓔₀ Σ_i (1 − L_i)² v_i ∝ n^-min(b − 1, 2a) for λ_i = i^-a, v_i = i^-b",
    symbols={
        "E(n)": "test error of the ridgeless fit to n rows (squared units of the target)",
        "λ_i": "variance of feature i (squared units of the feature)",
        "v_i": "variance of the target along feature i (squared units of the target)",
        "L_i": "learnability λ_i/(λ_i + κ), Σ L_i = n (dimensionless)",
        "𝓔₀": "overfitting coefficient n/(n − ΣL_i²) (dimensionless)",
        "n": "training rows",
    },
    domain="independent rows with Gaussian features, no noise, n far below the number of features; the exponent needs b − 1 well "
    "above 0, or the end of the spectrum shows in the curve",
    tolerance=0.03,
)
OF_PREDICTED, ASYMPTOTIC = within(SCALING.tolerance), within(0.05)
HELD, REJECTED = (0.90, 0.98), (-math.inf, 0.15)  # shares of intervals of 95 %, and of tables at a level of 5 %


@dataclass(frozen=True, slots=True)
class Setting:
    """Curves: spectrum, sizes, draws of inputs. Tables: how many for intervals, how many for either comparison, and refits in
    both; (refits + 1)(1 − .95)/2 is a whole number, so that few refits make ends wander and leave the coverage alone."""

    features: int = 5000
    a: float = 2.0
    b: tuple[float, ...] = (1.5, 2.0, 3.0)
    sizes: tuple[int, ...] = (32, 64, 128, 256)
    draws: int = 60
    tables: int = 3000
    compared: tuple[int, int] = (400, 60)  # power laws, exponential decays
    refits: tuple[int, int] = (79, 199)


def foretold(values: Floats, targets: Floats, sizes: Sequence[int]) -> Floats:
    """Test errors (targets, sizes) from the spectrum (p,) and the targets' variances (targets, p): no inputs are seen."""
    learned = np.stack([eigenlearning(torch.as_tensor(values), n).learnabilities for n in sizes], 1)
    rows = np.array(sizes)
    cost = rows / (rows - np.square(learned).sum(0))
    missed = np.square(1 - learned)
    return targets @ missed * cost


def errors_by_mode(rows: Floats, values: Floats, sizes: Sequence[int]) -> Floats:
    """(sizes, p): the exact test error of the ridgeless fit to the first n of some rows, for the target that is feature i.

    Args:
        rows: standard normal features (most rows, p); feature i of the model is √λ_i times the i-th.
    """
    gram, found = (rows * values) @ rows.T, []
    for n in sizes:
        z = rows[:n]
        solved = cho_solve(cho_factor(gram[:n, :n], lower=True), z)
        square = (z * values**2) @ z.T
        found.append(1 - 2 * values * (z * solved).sum(0) + ((square @ solved) * solved).sum(0))
    return np.array(found)


def curves(setting: Setting, values: Floats, targets: Floats, generator: np.random.Generator) -> Floats:
    """Measured test errors (targets, draws, sizes)."""
    most = setting.sizes[-1]
    drawn = [errors_by_mode(generator.normal(size=(most, len(values))), values, setting.sizes) for _ in range(setting.draws)]
    return np.moveaxis(np.stack(drawn) @ targets.T, 2, 0)


def held(setting: Setting, generator: np.random.Generator) -> tuple[int, int]:
    """In how many tables of .5 + 8 x^-.4 the intervals of the exponent, and of y ten times beyond, hold the truth."""
    x, truth = np.logspace(2, 5, 14), 0.5 + 8 * 1e6**-0.4
    counts = np.zeros(2, dtype=int)
    for _ in range(setting.tables):
        y = (0.5 + 8 * x**-0.4) * np.exp(0.02 * generator.normal(size=len(x)))
        made = resample(fit(Table.of(x, y), FORMS["power+const"]), generator, setting.refits[0])
        readings = (interval(made, made.fit.held("α"), ""), interval(made, made.fit.held_at(np.array([1e6])), ""))
        for at, (reading, true) in enumerate(zip(readings, (0.4, truth), strict=True)):
            counts[at] += reading.low is not None and reading.high is not None and reading.low <= true <= reading.high
    return int(counts[0]), int(counts[1])


def rejections(x: Floats, y: Floats, tables: int, refits: int, generator: np.random.Generator) -> int:
    """In how many tables of the curve y, scattered by 3 %, the largest sizes reject the power law."""
    forms: tuple[Form, ...] = (FORMS["power"], FORMS["exponential"])
    count = 0
    for _ in range(tables):
        found = compare(Table.of(x, y * np.exp(0.03 * generator.normal(size=len(x)))), forms, generator, draws=refits)
        count += next(one.verdict for one in found if one.form.name == "power") == "rejected"
    return count


def scale(trial: Trial, setting: Setting = Setting()) -> LawResult:
    places = np.arange(1.0, setting.features + 1)
    values, targets = places**-setting.a, np.stack([places**-b for b in setting.b])
    told = foretold(values, targets, setting.sizes)
    found = curves(setting, values, targets, trial.numpy("inputs"))
    log, level, unit = np.log(setting.sizes), trial.level, "squared units of the target"
    checks: list[Check] = []
    for row, b in enumerate(setting.b):
        for at in (-1, -2) if b >= 2 else ():
            what = f"test error at n = {setting.sizes[at]}, b = {b:g}"
            checks.append(ratio(what, float(told[row, at]), found[row, :, at], OF_PREDICTED, level, unit))
    for row, b in enumerate(setting.b):
        exponents = -slope(log, np.log(found[row]))
        if b >= 2:
            wanted = min(b - 1, 2 * setting.a)
            checks.append(ratio(f"exponent, b = {b:g}", wanted, exponents, ASYMPTOTIC, level, "exponent"))
        else:
            cut = float(-slope(log, np.log(told[row]))[0])
            what = f"exponent, b = {b:g}, with the end of the spectrum in it"
            checks.append(ratio(what, cut, exponents, OF_PREDICTED, level, "exponent"))
    in_exponent, in_prediction = held(setting, trial.numpy("tables"))
    for what, count in (("exponent", in_exponent), ("prediction ten times beyond", in_prediction)):
        checks.append(share(f"95 % intervals of the {what} that hold the truth", count, setting.tables, HELD, level))
    powers, decays = setting.compared
    x = np.logspace(2, 5, 16)
    many = rejections(x, 3 * x**-0.3, powers, setting.refits[1], trial.numpy("power laws"))
    checks.append(_rejected("tables of a power law that reject it", many, powers, level))
    x = np.linspace(1, 60, 16)
    many = rejections(x, np.exp(-x / 10), decays, setting.refits[1], trial.numpy("decays"))
    control = Control.of(
        "tables of a pure exponential decay, held against a power law at their largest sizes",
        "violated",
        [_rejected("tables of a decay that reject the power law", many, decays, level)],
    )
    series = []
    for row, b in enumerate(setting.b):
        series.append(Series.of(f"foretold, b = {b:g}", "predicted", setting.sizes, told[row]))
        series.append(plotted(f"measured, b = {b:g}", "measured", setting.sizes, columns(found[row], level, unit)))
    figure = Figure.of("Learning curves of a ridgeless fit", "training rows", f"test error ({unit})", series, "log")
    where = f"{setting.features} Gaussian features, a = {setting.a:g}; tables of made laws"
    details = {"predicted": told.tolist(), "measured": found.mean(1).tolist(), "sizes": list(setting.sizes), "b": list(setting.b)}
    return LawResult.of(SCALING, where, checks, control, figure=figure, details=details)


def _rejected(what: str, count: int, tables: int, level: float) -> Check:
    return share(what, count, tables, REJECTED, level, "share of tables")


@entry(
    SCALING,
    source="Spigler, Geiger & Wyart (arXiv 1905.10843); Simon, Dickens, Karkada & DeWeese (arXiv 2110.03922); intervals: profile "
    "and bootstrap, `strandscope law fit`",
    control="A pure exponential decay is no power law: on its tables the largest sizes must reject the power law where on tables "
    "of a power law they seldom do, so the same check must come out violated.",
    seconds=45,
)
def power_law_scaling(trial: Trial) -> LawResult:
    """The test error of a ridgeless linear model falls as a power of the rows whose exponent follows from two spectra: that of
    the features (i^-a) and that of the target in them (i^-b). The finite spectrum foretells each point to 3 % before inputs are
    drawn; the exponent must be min(b − 1, 2a) to 5 % for b = 2 and 3, while at b = 1.5 the end of the spectrum bends the curve,
    and the exponent must be that of the bent one. Laws fitted to such curves are only worth their intervals: over 3,000 made
    tables those of 95 % must hold the true exponent, and the true value ten times beyond the table, in 90 to 98 %; and held
    against their largest sizes, tables of a power law must not reject it."""
    return scale(trial)
