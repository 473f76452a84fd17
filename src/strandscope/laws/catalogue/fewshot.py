"""How few examples fix a direction: the noise of a difference of means, and what it does not depend on, the ambient dimension."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import t as student

from ...reading import Reading
from ...strand.fewshot import few_shot_law
from ..figure import Figure, Kind, Series
from ..law import Check, Control, Law, LawResult
from .checks import bound, columns, difference, plotted, ratio, slope, within
from .entry import Trial, entry

Floats = NDArray[np.float64]

UNIT = "share of ‖w‖²"
HALF = 0.5  # of ‖w‖², the error at which n½ is read

FEW_SHOT = Law(
    name="few-shot direction",
    formula="E‖ŵ_⊥‖²/‖w‖² = 2(tr Σ − ŵ₀ᵀΣŵ₀)/(n‖w‖²)",
    symbols={
        "w": "difference of the classes' means (unit of the states), ŵ₀ its direction",
        "ŵ": "difference of the means of n examples a class; ŵ_⊥ its part across w",
        "Σ": "covariance within a class (squared unit of the states)",
        "n": "examples a class",
    },
    domain="the difference of means, independent examples, equal covariances; any distribution that has a covariance",
    tolerance=0.1,
)


@dataclass(frozen=True, slots=True)
class Setting:
    """Ambient dimensions and examples a class; tr Σ = 1 whatever the dimension; ‖w‖ = 1; repetitions of each pair."""

    dimensions: tuple[int, ...] = (64, 256, 1024)
    examples: tuple[int, ...] = (4, 8, 16, 32, 64)
    draws: int = 600
    pilots: int = 40
    pilot: int = 60  # examples a class
    variance: float = 1 / 64  # of every coordinate in the control


def falling(d: int) -> Floats:
    """Variances ∝ 1/i with sum 1."""
    values = 1 / np.arange(1, d + 1)
    return values / values.sum()


def constant(variances: Floats, direction: Floats) -> float:
    """n·E‖ŵ_⊥‖² for ‖w‖ = 1."""
    return 2 * float(variances.sum() - direction**2 @ variances)


def direction_of(d: int, generator: np.random.Generator) -> Floats:
    found = generator.standard_normal(d)
    return found / np.linalg.norm(found)


def across(variances: Floats, w: Floats, n: int, draws: int, generator: np.random.Generator) -> Floats:
    """(draws,) ‖ŵ_⊥‖² of differences of the means of n drawn examples a class."""
    found, spread, size = [], np.sqrt(variances), max(1, 2_000_000 // (n * len(w)))
    for start in range(0, draws, size):
        shape = (min(size, draws - start), n, len(w))
        one, other = (generator.standard_normal(shape).mean(1) * spread for _ in range(2))
        side = (one + w / 2) - (other - w / 2)
        side = side - (side @ w)[:, None] * w
        found.append(np.square(side).sum(1))
    return np.concatenate(found)


def half(columns: Floats, examples: tuple[int, ...]) -> Floats:
    """(draws,) n½ of each draw: n‖ŵ_⊥‖²/½, mean over the numbers of examples."""
    return (columns * np.array(examples) / HALF).mean(1)


def fewshot(trial: Trial, setting: Setting = Setting()) -> LawResult:
    """The test with a setting of its own."""
    level, examples = trial.level, setting.examples
    told: dict[int, float] = {}
    seen: dict[int, Floats] = {}
    directions = {d: direction_of(d, trial.numpy("direction", str(d))) for d in setting.dimensions}
    for d, w in directions.items():
        told[d] = constant(falling(d), w)
        seen[d] = _columns(falling(d), w, setting, trial, "falling")
    how, band = f"mean over {setting.draws} draws", within(FEW_SHOT.tolerance)
    first, middle, last = setting.dimensions[0], setting.dimensions[len(setting.dimensions) // 2], setting.dimensions[-1]
    checks: list[Check] = [
        ratio(
            f"error at {examples[-1]} examples, {last} dimensions",
            told[last] / examples[-1],
            seen[last][:, -1],
            band,
            level,
            UNIT,
            how,
        )
    ]
    for d in setting.dimensions:
        checks.append(
            ratio(
                f"error at {examples[0]} examples, {d} dimensions", told[d] / examples[0], seen[d][:, 0], band, level, UNIT, how
            )
        )
    slopes = slope(np.log(examples), np.log(seen[middle]))
    checks.append(difference("slope of ln error on ln n", -1.0, slopes, (-0.05, 0.05), level, "1", how))
    what = f"n½ in {last} dimensions over that in {first}"
    checks.append(bound(what, _quotient(half(seen[last], examples), half(seen[first], examples), level), band))
    checks.append(_from_pilots(trial, setting, middle, directions[middle]))
    flat = {d: np.full(d, setting.variance) for d in (first, last)}
    fewer = replace(setting, draws=min(setting.draws, 200))
    wide = {d: _columns(flat[d], directions[d], fewer, trial, "flat") for d in flat}
    control = Control.of(
        "the same variance in every coordinate, so that tr Σ grows with the dimension",
        "violated",
        [bound(what, _quotient(half(wide[last], examples), half(wide[first], examples), level), band)],
        predicted=constant(flat[last], directions[last]) / constant(flat[first], directions[first]),
    )

    def shown(name: str, kind: Kind, draws: Floats) -> Series:
        return plotted(name, kind, examples, columns(draws, level, UNIT), 1e-9)

    series = [Series.of("2(tr Σ − ŵ₀ᵀΣŵ₀)/n", "predicted", examples, told[last] / np.array(examples))]
    series += [shown(f"{d} dimensions, tr Σ = 1", "measured", seen[d]) for d in setting.dimensions]
    series += [shown(f"{d} dimensions, variance {setting.variance:.3g} each", "control", wide[d]) for d in wide]
    figure = Figure.of("Examples that fix a direction", "examples a class (n)", f"E‖ŵ_⊥‖² ({UNIT})", series, "log")
    where = f"Gaussian classes in {first} to {last} dimensions"
    return LawResult.of(FEW_SHOT, where, checks, control, figure=figure)


def _columns(variances: Floats, w: Floats, setting: Setting, trial: Trial, name: str) -> Floats:
    """(draws, examples) ‖ŵ_⊥‖², every column from draws of its own."""
    d = str(len(w))
    return np.array([across(variances, w, n, setting.draws, trial.numpy(name, d, str(n))) for n in setting.examples]).T


def _from_pilots(trial: Trial, setting: Setting, d: int, w: Floats) -> Check:
    """The constant that `strand.fewshot` reads off a pilot's rows, where neither w nor Σ is known, beside the true one."""
    found = []
    for number in range(setting.pilots):
        generator, n = trial.numpy("pilot", str(number)), setting.pilot
        labels = np.repeat([1, 0], n)
        rows = generator.standard_normal((2 * n, d)) * np.sqrt(falling(d)) + labels[:, None] * w
        found.append(few_shot_law(torch.as_tensor(rows), labels).value)
    how = f"mean over {setting.pilots} pilots of {setting.pilot} examples a class"
    what = f"n times the error, foretold by a pilot in {d} dimensions"
    return ratio(what, constant(falling(d), w), found, within(FEW_SHOT.tolerance), trial.level, UNIT, how)


def _quotient(above: Floats, below: Floats, level: float) -> Reading:
    """The ratio of two means, its interval that of their logarithms (delta method)."""
    value = float(above.mean() / below.mean())
    errors = [float(part.std(ddof=1)) / math.sqrt(len(part)) / float(part.mean()) for part in (above, below)]
    reach = float(student.ppf(0.5 + level / 2, min(len(above), len(below)) - 1)) * math.hypot(*errors)
    method = f"ratio of means over {len(above)} draws each"
    return Reading(value, value * math.exp(-reach), value * math.exp(reach), level, len(above), "ratio", None, method)


@entry(
    FEW_SHOT,
    source="arithmetic of means; the claim that strands need few examples: Belkin and co-workers (Science, 2026)",
    control="isotropic noise of fixed variance: examples grow with the dimension, violated",
    seconds=5,
)
def few_shot_direction(trial: Trial) -> LawResult:
    """The difference of the means of n examples a class points along the concept, and across it by 2(tr Σ − ŵ₀ᵀΣŵ₀)/n: what
    counts is the noise in all directions together against the distance of the classes, not how many coordinates there are. From
    64 to 1,024 dimensions with the same tr Σ the error must be as foretold, fall as 1/n, and need the same number of examples;
    and pilots of 60 examples a class must foretell it without knowing w or Σ."""
    return fewshot(trial)
