"""What it costs to interpolate noise: nothing in the limit (benign), a constant (tempered), or more and more (catastrophic).

Both laws are about 𝓔₀, the test error of the least-norm interpolator of noise of variance 1, which for given inputs is averaged
over the noise exactly: with features Φ = ZΛ^½ (n, p), 𝓔₀ = 1 + tr K⁻¹ΦΛΦᵀK⁻¹, K = ΦΦᵀ. Means are over drawn inputs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from ...reading import Reading
from ...statistics.kernel.benign import benign_ranks, excess_bound
from ...statistics.kernel.eigenlearning import overfitting_coefficient
from ..figure import Figure, Series
from ..law import Check, Control, Law, LawResult
from .checks import bound, certain, columns, difference, gap, mean, plotted, ratio, slope, unlogged, within
from .entry import Trial, entry

Floats = NDArray[np.float64]

UNIT = "noise variances"
CUT = 10  # % about the limit a, which is of a spectrum without end

BENIGN = Law(
    name="benign overfitting",
    formula="𝓔₀ − 1 = n/(p − n − 1) for p white features; of the order of k*/n + n/R_k* behind k* leading ones",
    symbols={
        "𝓔₀": f"expected test error of an interpolator of noise of variance 1 ({UNIT})",
        "n": "rows",
        "p": "features",
        "k*": "leading eigenvalues that n rows can fit: the least k with r_k ≥ n",
        "R_k": "(Σ_{i>k} λ_i)²/Σ_{i>k} λ_i², effective rank of the tail (dimensions)",
    },
    domain="Gaussian features whose covariance has a flat tail, p > n + 3",
    tolerance=0.05,
)

TEMPERED = Law(
    name="tempered overfitting",
    formula="𝓔₀ = n/(n − ΣL_i²), L_i = λ_i/(λ_i + κ), ΣL_i = n;  λ_i = i^−a gives 𝓔₀ → a, whatever n",
    symbols={
        "𝓔₀": f"expected test error of an interpolator of noise of variance 1 ({UNIT})",
        "λ_i": "eigenvalues of the kernel, i = 1 … p",
        "L_i": "learnability of the i-th eigenfunction (1)",
        "κ": "implicit ridge (unit of λ)",
        "n": "rows",
        "a": "exponent of the spectrum (1)",
    },
    domain="many rows (the error is of order 1/n), features like independent Gaussians; 𝓔₀ → a needs p far above n",
    tolerance=0.05,
)


def noise_cost(values: Floats, n: int, draws: int, generator: np.random.Generator) -> Floats:
    """(draws,) 𝓔₀ of n drawn rows of features with these variances (p,), each averaged over the noise exactly."""
    found = []
    for _ in range(draws):
        features = generator.standard_normal((n, len(values))) * np.sqrt(values)
        factor = cho_factor(features @ features.T)
        weighted = (features * values) @ features.T
        found.append(1 + float(np.trace(cho_solve(factor, cho_solve(factor, weighted).T))))
    return np.array(found)


def white_cost(n: int, sizes: tuple[int, ...], draws: int, generator: np.random.Generator) -> Floats:
    """(draws, sizes) 𝓔₀ − 1 = tr (ZZᵀ)⁻¹ of the first p of the same white features, sizes ascending."""
    found = np.empty((draws, len(sizes)))
    for draw in range(draws):
        gram = np.zeros((n, n))
        for place, (start, end) in enumerate(zip((0, *sizes[:-1]), sizes, strict=True)):
            part = generator.standard_normal((n, end - start))
            gram += part @ part.T
            found[draw, place] = (1 / np.linalg.eigvalsh(gram)).sum()
    return found


def power(exponent: float, p: int) -> Floats:
    return np.arange(1, p + 1, dtype=np.float64) ** -exponent


@dataclass(frozen=True, slots=True)
class Benign:
    """n rows; p white features; `leading` large eigenvalues before a flat tail of `tail`; draws of the inputs."""

    n: int = 50
    sizes: tuple[int, ...] = (100, 200, 400, 800, 1600, 3200, 6400)
    leading: int = 5
    tail: int = 3200
    draws: int = 200
    control_draws: int = 30


def benign(trial: Trial, setting: Benign = Benign()) -> LawResult:
    """The test with a setting of its own."""
    n, sizes = setting.n, np.array(setting.sizes)
    free = np.log(sizes - n - 1.0)
    excess = white_cost(n, setting.sizes, setting.draws, trial.numpy("white"))
    how = f"mean over {setting.draws} draws of {n} rows"
    wide, level = (-0.05, 0.05), trial.level
    checks: list[Check] = [
        difference("slope of ln(𝓔₀ − 1) on ln(p − n − 1)", -1.0, slope(free, np.log(excess)), wide, level, "1", how)
    ]
    for place in (1, len(sizes) - 1):
        what = f"𝓔₀ − 1 with {sizes[place]} features"
        checks.append(ratio(what, n / (sizes[place] - n - 1.0), excess[:, place], within(BENIGN.tolerance), level, UNIT, how))
    values = np.concatenate([np.ones(setting.leading), np.full(setting.tail, 1 / setting.tail)])
    spectrum = torch.as_tensor(values)
    ranks = benign_ranks(spectrum, setting.leading)
    assert ranks.R.value is not None
    checks.append(Check("effective rank of the flat tail", certain(setting.tail, "dimensions", "closed form"), ranks.R,
                        certain(ranks.R.value / setting.tail, "measured/predicted", ranks.R.method), within(1e-9)))  # fmt: skip
    cost = noise_cost(values, n, setting.draws, trial.numpy("leading"))
    what = f"{setting.leading} leading eigenvalues before a flat tail"
    checks.append(ratio(f"𝓔₀, {what}", overfitting_coefficient(spectrum, n), cost, within(BENIGN.tolerance), level, UNIT, how))
    checks.append(ratio(f"𝓔₀ − 1 over k*/n + n/R_k*, {what}", excess_bound(spectrum, n), cost - 1, within(1.0), level, UNIT, how))
    steep = np.array([
        noise_cost(power(2.0, p), n, setting.control_draws, trial.numpy("control", str(p))) - 1 for p in setting.sizes[:5]
    ]).T  # fmt: skip
    told = [(overfitting_coefficient(torch.as_tensor(power(2.0, p)), n).value or math.nan) - 1 for p in setting.sizes[:5]]
    control = Control.of(
        "a tail that falls as i⁻² in the place of the flat one",
        "violated",
        [difference("slope of ln(𝓔₀ − 1) on ln(p − n − 1)", -1.0, slope(free[:5], np.log(steep)), wide, level, "1", how)],
        predicted=float(slope(free[:5], np.log(told)[None])[0]) + 1.0,
    )
    series = [
        Series.of("n/(p − n − 1)", "predicted", sizes, n / (sizes - n - 1.0)),
        plotted("flat tail", "measured", sizes, columns(excess, level, UNIT), 1e-9),
        plotted("tail i⁻²", "control", sizes[:5], columns(steep, level, UNIT), 1e-9),
    ]
    figure = Figure.of("What interpolated noise costs", "features (p)", f"𝓔₀ − 1 ({UNIT})", series, "log")
    return LawResult.of(BENIGN, f"{n} rows, up to {sizes[-1]} white features", checks, control, figure=figure)


@dataclass(frozen=True, slots=True)
class Tempered:
    """(a, p, draws) for each exponent; numbers of rows, the last for all exponents; the exponential spectrum e^−ci of the
    control."""

    rows: tuple[int, ...] = (25, 50, 100)
    spectra: tuple[tuple[float, int, int], ...] = ((2.0, 2000, 200), (1.5, 2000, 100), (3.0, 1000, 300))
    rate: float = 0.15
    features: int = 300
    draws: int = 200  # at the smaller numbers of rows, and of the control


def tempered(trial: Trial, setting: Tempered = Tempered()) -> LawResult:
    """The test with a setting of its own."""
    n, level = setting.rows[-1], trial.level
    checks: list[Check] = []
    most: dict[float, Floats] = {}
    for a, p, draws in setting.spectra:
        cost = noise_cost(power(a, p), n, draws, trial.numpy("power", str(a)))
        told = overfitting_coefficient(torch.as_tensor(power(a, p)), n)
        how = f"mean over {draws} draws of {n} rows, {p} features"
        checks.append(ratio(f"𝓔₀ of i^−{a:g}", told, cost, within(TEMPERED.tolerance), level, UNIT, how))
        if a >= 2:  # below, what the cut at p leaves out is not small
            checks.append(ratio(f"𝓔₀ of i^−{a:g} beside a", a, cost, within(CUT / 100), level, UNIT, how))
        most[a] = cost
    a, p, _ = setting.spectra[0]
    grown = {m: noise_cost(power(a, p), m, setting.draws, trial.numpy("rows", str(m))) for m in setting.rows[:-1]} | {n: most[a]}
    still = _growth(grown, level)
    checks.append(bound(f"𝓔₀ at {n} rows over that at {setting.rows[0]}", still, within(0.2)))
    fast = np.exp(-setting.rate * np.arange(1.0, setting.features + 1))
    blown = {m: noise_cost(fast, m, setting.draws, trial.numpy("control", str(m))) for m in setting.rows}
    told = [overfitting_coefficient(torch.as_tensor(fast), m).value or math.nan for m in setting.rows]
    control = Control.of(
        f"a spectrum that falls as e^−{setting.rate:g}i",
        "violated",
        [bound(f"𝓔₀ at {n} rows over that at {setting.rows[0]}", _growth(blown, level), within(0.2))],
        predicted=told[-1] / told[0],
    )
    calm = [overfitting_coefficient(torch.as_tensor(power(a, p)), m).value for m in setting.rows]
    series = [
        Series.of(f"i^−{a:g}, eigenlearning", "predicted", setting.rows, np.array(calm, dtype=float)),
        plotted(f"i^−{a:g}", "measured", list(grown), [mean(grown[m], level, UNIT, "draws") for m in grown], 1e-9),
        Series.of(f"e^−{setting.rate:g}i, eigenlearning", "predicted", setting.rows, told),
        plotted(f"e^−{setting.rate:g}i", "control", list(blown), [mean(blown[m], level, UNIT, "draws") for m in blown], 1e-9),
    ]
    figure = Figure.of("Tempered and catastrophic overfitting", "rows (n)", f"𝓔₀ ({UNIT})", series, "log")
    return LawResult.of(TEMPERED, f"{n} rows, spectra i^−a", checks, control, figure=figure)


def _growth(costs: dict[int, Floats], level: float) -> Reading:
    """The ratio of the geometric means of 𝓔₀ at most and at fewest rows: these have variances in every spectrum."""
    first, last = (np.log(costs[m]) for m in (min(costs), max(costs)))
    return unlogged(gap(last, first, level, "ratio", f"geometric means over {len(first)} and {len(last)} draws"))


@entry(
    BENIGN,
    source="Bartlett, Long, Lugosi & Tsigler (2020); Belkin, Hsu & Xu, arXiv 1903.07571",
    control="a covariance whose tail falls as i⁻²: more features no longer help, violated",
    seconds=2,
)
def benign_overfitting(trial: Trial) -> LawResult:
    """Fifty rows of pure noise are interpolated with 100 to 6,400 white features. What that costs on new rows falls as 1/(p − n
    − 1), to nothing: the many directions that carry no signal share the noise out among them. Behind five leading eigenvalues
    the cost is that of these five and of the tail's effective rank."""
    return benign(trial)


@entry(
    TEMPERED,
    source="Mallinar et al., arXiv 2207.06569; Simon et al., arXiv 2110.03922",
    control="an exponential spectrum, where the cost grows with the rows (catastrophic): violated",
    seconds=4,
)
def tempered_overfitting(trial: Trial) -> LawResult:
    """A hundred rows of pure noise are interpolated with features whose variances fall as i^−a. The test error is neither that
    of the noise nor without bound, but about a times the noise, whatever the number of rows: a constant that the spectrum alone
    foretells, by one equation for κ solved numerically. Measured over drawn inputs it must agree to 5 %, and with a itself to
    10 % for a = 2, 3."""
    return tempered(trial)
