"""What chance alone gives: the nulls of spectra, spikes, participation, alignment and neighbours, each in closed form."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ...statistics import marchenko_pastur
from ...statistics.dimension import two_nn
from ...statistics.kernel.alignment import alignment
from ...statistics.spectrum import participation_of, top_eigenvalues
from ...statistics.weights import weight_spectrum
from ..figure import Figure, Series
from ..law import Check, Control, Law, LawResult
from .checks import bound, mean, plotted, ratio, share, within
from .entry import Trial, entry

Floats = NDArray[np.float64]

NULLS = Law(
    name="nulls of random matrices",
    formula="λ in σ²(1 ∓ √γ)²;  spike θ > √γ: λ = (1+θ)(1+γ/θ), cos² = (1−γ/θ²)/(1+γ/θ);  1/PR = 1/d + 1/n;  "
    "CKA = √(d₁d₂/((d₁+n)(d₂+n)))",
    symbols={
        "γ": "d/n, coordinates over rows",
        "λ": "eigenvalue of the sample covariance (squared unit of the rows)",
        "θ": "strength of a spike: the variance along it is σ²(1 + θ)",
        "cos²": "of the sample's first eigenvector with the spike",
        "PR": "participation ratio of the sample covariance (dimensions)",
        "CKA": "centred alignment of two sets of rows that have nothing in common (cosine)",
    },
    domain="independent Gaussian entries; γ ≤ 1; TwoNN on a smooth closed surface of up to four dimensions",
    tolerance=0.03,
)


@dataclass(frozen=True, slots=True)
class Setting:
    """Sizes and repetitions of each null."""

    weights: tuple[int, int, int] = (400, 200, 40)  # rows, columns, matrices for the distance from the law
    small: tuple[int, int, int] = (120, 60, 200)  # for outliers and tails
    spiked: tuple[int, int, int] = (800, 200, 400)
    counted: int = 120  # of the draws, in which outliers are counted
    spikes: tuple[float, ...] = (2.0, 1.5)  # γ = ¼, so the threshold is ½
    hidden: float = 0.25
    participation: tuple[int, int, int] = (300, 150, 40)
    pairs: tuple[int, int, int, int] = (128, 32, 64, 200)  # rows, d₁, d₂, draws
    spheres: tuple[tuple[int, int, int], ...] = ((1, 200, 200), (2, 200, 200), (4, 400, 150), (8, 600, 40))  # d, points, draws


def white_weights(trial: Trial, setting: Setting) -> list[Check]:
    """The distance of white matrices from Marchenko and Pastur, and how many show an outlier or a heavy tail."""
    n, d, count = setting.weights
    generator = trial.numpy("weights")
    found = [weight_spectrum(torch.as_tensor(generator.standard_normal((n, d)))) for _ in range(count)]
    apart = [math.nan if one.distance.value is None else one.distance.value for one in found]
    allowed = marchenko_pastur.rigidity(d)
    measured = mean(apart, trial.level, "share", f"mean over {count} matrices of {n} × {d}")
    checks = [bound(f"distance from Marchenko–Pastur, at most (2 + (√2/π) ln d)/d = {allowed:.4f}", measured, (0.0, allowed))]
    n, d, count = setting.small
    quiet = 0
    for _ in range(count):
        one = weight_spectrum(torch.as_tensor(generator.standard_normal((n, d))))
        quiet += one.outliers.value == 0 and not one.tail(generator).heavy
    what = f"white {n} × {d} matrices with no outlier at 99 % and no heavy tail"
    return [*checks, share(what, quiet, count, (0.85, 1.0), trial.level)]


def spikes(trial: Trial, setting: Setting, strength: float) -> tuple[Floats, Floats, Floats]:
    """(draws,) first eigenvalue, cos² of its eigenvector with the spike, and (counted,) outliers."""
    n, d, count = setting.spiked
    generator = trial.numpy("spike", str(strength))
    values, cosines, outliers = [], [], []
    for number in range(count if strength > math.sqrt(d / n) else setting.counted):
        rows = generator.standard_normal((n, d))
        rows[:, 0] *= math.sqrt(1 + strength)
        top = top_eigenvalues(torch.as_tensor(rows), 1)
        values.append(float(top.values[0]))
        cosines.append(float(top.vectors[0, 0]) ** 2)
        if number < setting.counted:
            outliers.append(weight_spectrum(torch.as_tensor(rows), 0.999).outliers.value)
    return np.array(values), np.array(cosines), np.array(outliers, dtype=np.float64)


def planted(trial: Trial, setting: Setting) -> tuple[list[Check], Control, dict[float, Floats]]:
    """Spikes above the threshold show where and as clearly as the law says; one below it does not show at all."""
    n, d, _ = setting.spiked
    band, how = within(NULLS.tolerance), f"mean over draws of {n} rows in {d} dimensions"
    checks: list[Check] = []
    seen = {}
    for theta in setting.spikes:
        place, clear = marchenko_pastur.spiked(theta, d / n)
        values, cosines, outliers = spikes(trial, setting, theta)
        seen[theta] = cosines
        checks.append(ratio(f"cos² with a spike θ = {theta:g}", clear, cosines, band, trial.level, "cos²", how))
        checks.append(ratio(f"eigenvalue of a spike θ = {theta:g}", place, values, band, trial.level, "squared unit", how))
        what = f"outliers counted, one spike θ = {theta:g}"
        checks.append(ratio(what, 1.0, outliers, within(0.1), trial.level, "eigenvalues", how))
    _, cosines, outliers = spikes(trial, setting, setting.hidden)
    seen[setting.hidden] = cosines
    what = f"outliers counted, one spike θ = {setting.hidden:g}"
    control = Control.of(
        f"a spike below the threshold, θ = {setting.hidden:g} < √γ = {math.sqrt(d / n):g}, which cannot be seen",
        "violated",
        [ratio(what, 1.0, outliers, within(0.1), trial.level, "eigenvalues", how)],
        predicted=0.0,
    )
    return checks, control, seen


def shapes(trial: Trial, setting: Setting) -> list[Check]:
    """Participation ratio, alignment of unrelated rows, TwoNN on spheres."""
    n, d, count = setting.participation
    generator, level, checks = trial.numpy("participation"), trial.level, []
    inverse = []
    for _ in range(count):
        rows = torch.as_tensor(generator.standard_normal((n, d)))
        inverse.append(1 / participation_of(rows.T @ rows / n))
    how = f"mean over {count} draws"
    checks.append(ratio(f"1/PR of {n} rows in {d} dimensions", 1 / d + 1 / n, inverse, within(0.02), level, "1/dimensions", how))
    n, one, two, count = setting.pairs
    told = math.sqrt(one * two / ((one + n) * (two + n)))
    cosines = []
    for _ in range(count):
        first, second = (torch.as_tensor(generator.standard_normal((n, width))) for width in (one, two))
        cosines.append(alignment(first @ first.T, second @ second.T))
    what = f"CKA of unrelated rows, {n} in {one} and {two} dimensions"
    checks.append(ratio(what, told, cosines, within(NULLS.tolerance), level, "cosine", f"mean over {count} draws"))
    held, total = 0, 0
    for d, points, count in setting.spheres:
        readings = []
        for _ in range(count):
            rows = generator.standard_normal((points, d + 1))
            readings.append(two_nn(torch.as_tensor(rows / np.linalg.norm(rows, axis=1, keepdims=True))))
        how = f"mean over {count} draws of {points} points"
        figures = [reading.value or math.nan for reading in readings]
        tolerance = 0.05 if d <= 4 else 0.15  # curvature: see `statistics.dimension`
        checks.append(
            ratio(f"TwoNN on a sphere of {d} dimensions", float(d), figures, within(tolerance), level, "dimensions", how)
        )
        if d <= 4:
            held += sum((reading.low or math.inf) <= d <= (reading.high or -math.inf) for reading in readings)
            total += count
    checks.append(share("TwoNN's 95 % interval holds d, up to four dimensions", held, total, (0.85, 1.0), level))
    return checks


def nulls(trial: Trial, setting: Setting = Setting()) -> LawResult:
    """The test with a setting of its own."""
    clear, control, seen = planted(trial, setting)
    checks = [*clear, *white_weights(trial, setting), *shapes(trial, setting)]
    n, d, _ = setting.spiked
    gamma = d / n
    strengths = np.linspace(math.sqrt(gamma) * 1.0001, 1.2 * max(setting.spikes), 60)
    curve = [marchenko_pastur.spiked(float(theta), gamma)[1] for theta in strengths]
    found = {theta: mean(seen[theta], trial.level, "cos²", "") for theta in sorted(seen)}
    above = [theta for theta in found if theta != setting.hidden]
    series = [
        Series.of("(1 − γ/θ²)/(1 + γ/θ)", "predicted", strengths, curve),
        plotted("above the threshold", "measured", above, [found[theta] for theta in above]),
        plotted("below it", "control", [setting.hidden], [found[setting.hidden]]),
    ]
    figure = Figure.of("A spike in a random matrix", "strength of the spike (θ)", "cos² with the first eigenvector", series)
    return LawResult.of(NULLS, "Gaussian matrices", checks, control, figure=figure)


@entry(
    NULLS,
    source="Marchenko & Pastur (1967); Johnstone (2001); Baik, Ben Arous & Péché (2005); Paul (2007)",
    control="a spike below the threshold is not counted: violated",
    seconds=14,
)
def nulls_of_random_matrices(trial: Trial) -> LawResult:
    """Whatever is read off a spectrum has to be held against what chance gives, and chance has laws. White matrices stay within
    the bulk, at a distance from it that finite size allows, and show neither outliers nor heavy tails; a spike shows where and
    as clearly as its strength says, once it is above the threshold; few rows make the participation ratio small; unrelated
    representations look alike by an amount that the sizes fix; neighbours count the dimensions of a sphere."""
    return nulls(trial)
