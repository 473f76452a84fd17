"""Double descent of least squares at finite n: the exact risk, the peak where parameters equal rows, and no peak with a ridge."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from ...reading import Reading
from ...statistics.kernel.descent import least_squares_risk
from ..figure import Figure, Series
from ..law import Check, Control, Law, LawResult
from .checks import bound, gap, plotted, ratio, within
from .entry import Trial, entry

Floats = NDArray[np.float64]

UNIT = "squared units of y"
LABELS = 16  # sets of noise for one draw of the inputs

DESCENT = Law(
    name="double descent",
    formula="R = b(1 + p/(n−p−1)) for p ≤ n−2;  ∞ for n−1 ≤ p ≤ n+1;  a(1 − n/p) + b(1 + n/(p−n−1)) for p ≥ n+2",
    symbols={
        "R": f"expected squared error on a new row ({UNIT})",
        "n": "rows",
        "p": "coordinates that are fitted, of D",
        "a": f"‖β‖² on the fitted coordinates ({UNIT})",
        "b": f"‖β‖² on the others plus the variance of the noise ({UNIT})",
    },
    domain="white Gaussian inputs; the solution of least norm where p > n; an identity at every n, p and D",
    tolerance=0.05,
)


@dataclass(frozen=True, slots=True)
class Setting:
    """A target of length 1 spread evenly over D coordinates, with noise, seen through n rows.

    sizes: p and how many draws of the inputs; more near p = n, where draws spread. `around`: how far from n the peak is sought.
    """

    n: int = 40
    whole: int = 400
    noise: float = 0.1
    sizes: tuple[tuple[int, int], ...] = (
        (8, 500),
        (20, 1500),
        (32, 8000),
        (48, 8000),
        (60, 2500),
        (80, 1000),
        (160, 500),
        (400, 300),
    )
    around: int = 6
    draws: int = 600  # for each p about the peak

    def parts(self, p: int) -> tuple[float, float]:
        """a and b."""
        return p / self.whole, 1 - p / self.whole + self.noise


def risks(setting: Setting, p: int, draws: int, generator: np.random.Generator, *, ridged: bool = False) -> Floats:
    """(draws,) squared error on a new row of fits to p coordinates, each averaged over sets of labels for the same inputs.

    `ridged`: with the ridge that is best for a target in no particular direction, p·b/a.
    """
    n = setting.n
    a, b = setting.parts(p)
    beta = np.full((p, 1), math.sqrt(a / p))
    penalty = p * b / a if ridged else 0.0
    found = []
    for start in range(0, draws, 100):
        count = min(100, draws - start)
        rows = generator.standard_normal((count, n, p))
        labels = rows @ beta + math.sqrt(b) * generator.standard_normal((count, n, LABELS))
        turned = rows.transpose(0, 2, 1)
        if p <= n:
            weights = np.linalg.solve(turned @ rows + penalty * np.eye(p), turned @ labels)
        else:
            weights = turned @ np.linalg.solve(rows @ turned + penalty * np.eye(n), labels)
        found.append(b + np.square(weights - beta).sum(1).mean(1))
    return np.concatenate(found)


def height(setting: Setting, trial: Trial, *, ridged: bool) -> tuple[Reading, dict[int, Floats]]:
    """How far ln R at p = n stands above the higher of p = n/2 and 3n/2, means over draws; and the draws."""
    n = setting.n
    places = (n // 2, n, 3 * n // 2)
    label = "ridged" if ridged else "peak"
    logs = {p: np.log(risks(setting, p, setting.draws, trial.numpy(label, str(p)), ridged=ridged)) for p in places}
    means = {p: float(values.mean()) for p, values in logs.items()}
    side = max((places[0], places[2]), key=lambda p: means[p])
    method = f"mean ln R at p = {n} less the higher of those at p = {places[0]} and {places[2]}, {setting.draws} draws each"
    return gap(logs[n], logs[side], trial.level, "ln of a risk", method), logs


def summit(setting: Setting, trial: Trial) -> Reading:
    """The p at which the mean of ln R is highest; its interval is every p that luck may have put below."""
    places = range(setting.n - setting.around, setting.n + setting.around + 1)
    logs = np.array([np.log(risks(setting, p, setting.draws, trial.numpy("summit", str(p)))) for p in places])
    means, errors = logs.mean(1), logs.std(1, ddof=1) / math.sqrt(setting.draws)
    reach = float(student.ppf(0.5 + trial.level / 2, setting.draws - 1)) * errors
    possible = np.flatnonzero(means + reach >= float((means - reach).max()))
    low, value, high = (float(places[int(k)]) for k in (possible[0], means.argmax(), possible[-1]))
    method = f"highest mean of ln R over p from {places[0]} to {places[-1]}, {setting.draws} draws each"
    return Reading(value, low, high, trial.level, setting.draws, "coordinates", None, method)


def descent(trial: Trial, setting: Setting = Setting()) -> LawResult:
    """The test with a setting of its own."""
    n = setting.n
    checks: list[Check] = []
    curve = []
    for p, draws in sorted(setting.sizes, key=lambda size: abs(size[0] - 2 * n)):
        told = least_squares_risk(n, p, *setting.parts(p))
        found = risks(setting, p, draws, trial.numpy("risk", str(p)))
        how = f"mean over {draws} draws of {n} rows, {LABELS} sets of labels each"
        checks.append(ratio(f"risk with {p} coordinates", told, found, within(DESCENT.tolerance), trial.level, UNIT, how))
        curve.append((p, checks[-1].reading))
    checks.append(bound("where the risk is highest", summit(setting, trial), (n - 1, n + 1)))
    above, logs = height(setting, trial, ridged=False)
    least = (math.log(2), math.inf)
    checks.append(bound("height of the peak: at least twofold", above, least))
    flat, ridged = height(setting, trial, ridged=True)
    control = Control.of(
        "the same fits with the best ridge",
        "violated",
        [bound("height of the peak with the best ridge: at least twofold", flat, least)],
    )
    return LawResult.of(
        DESCENT, f"{n} rows, up to {setting.whole} coordinates", checks, control, figure=_figure(setting, curve, logs, ridged)
    )


def _figure(setting: Setting, curve: list[tuple[int, Reading]], logs: dict[int, Floats], ridged: dict[int, Floats]) -> Figure:
    n = setting.n
    told = [(p, least_squares_risk(n, p, *setting.parts(p)).value) for p in range(4, setting.whole + 1, 2)]
    lines = [[(p, value) for p, value in told if value is not None and side(p)] for side in (lambda p: p < n, lambda p: p > n)]
    curve = sorted(curve)
    series = [
        *(Series.of(f"exact risk, p {'<>'[k]} n", "predicted", *zip(*line, strict=True)) for k, line in enumerate(lines)),
        plotted("least squares", "measured", [p for p, _ in curve], [one for _, one in curve]),
        Series.of("geometric mean about the peak", "measured", list(logs), [math.exp(part.mean()) for part in logs.values()]),
        Series.of("with the best ridge", "control", list(ridged), [math.exp(part.mean()) for part in ridged.values()]),
    ]  # fmt: skip
    return Figure.of("Double descent", "coordinates fitted (p)", f"risk ({UNIT})", series, "log")


@entry(
    DESCENT,
    source="Belkin, Hsu & Xu, arXiv 1903.07571; the best ridge has no peak: Nakkiran et al., arXiv 2003.01897",
    control="the same fits with the best ridge have no peak at p = n: violated",
    seconds=2,
)
def double_descent(trial: Trial) -> LawResult:
    """Forty rows are fitted by least squares on more and more of 400 coordinates. The expected squared error on a new row has a
    closed form at every size, with no limit taken: it grows without bound where coordinates equal rows, and falls again beyond.
    Fits to drawn labels must agree with it to 5 % wherever |p − n| is at least 8 (nearer, draws have no variance), the highest
    mean of ln R must lie within one of n, and the peak must be at least twofold."""
    return descent(trial)
