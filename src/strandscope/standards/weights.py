"""Standards of spectra that random matrices have: exponents of covariances, white and spiked weights, tails of samples."""

from __future__ import annotations

import torch

from ..statistics import marchenko_pastur, tail, weights
from ..statistics.exponent import exponent_of, spectral_exponent
from ..statistics.weights import weight_spectrum
from .mutation import Mutation
from .spectra import power_law
from .standard import Bands, Draw, Outcome, case


@case(
    "spectral exponent",
    "statistics.exponent.spectral_exponent",
    "a = 1.5",
    Bands(bias=0.05),
    (6, 12, 200),
    Mutation("slope of singular values", exponent_of, "np.log(values[first - 1 : last])", "np.log(values[first - 1 : last]) / 2"),
    Mutation("off by ten: the window starts where the spectrum bends", spectral_exponent, "min(n, d) // SHARE", "min(n, d) - 1"),
    unit="exponent",
)
def falling(draw: Draw) -> Outcome:
    """400 Gaussian rows in 200 dimensions, eigenvalues i^−1.5, about a mean of length 5."""
    rows = draw.normal(400, 200) * power_law(1.5, 200).sqrt() + 5 / 200**0.5
    return Outcome.of(spectral_exponent(rows), 1.5)


@case(
    "white weights: their variance",
    "statistics.weights.weight_spectrum",
    "σ² = .04",
    Bands(bias=0.005, coverage=0.95),
    (200, 400, 2000),
    Mutation("off by one: a dimension too few", weights._settled, "(d - taken)", "(d - taken - 1)"),
    Mutation("missing square root: entries counted once", weight_spectrum, "/ math.sqrt(n * d)", "/ (n * d)"),
    unit="relative",
)
def bulk(draw: Draw) -> Outcome:
    """60 × 120 Gaussian weights of variance .04."""
    return Outcome.of(weight_spectrum(0.2 * draw.normal(60, 120)).bulk, 0.04, relative=True)


@case(
    "white weights: outliers",
    "statistics.weights.weight_spectrum",
    "one matrix in twenty",
    Bands(level=0.05),
    (200, 400, 2000),
    Mutation("the edge without Tracy–Widom's slack", marchenko_pastur.largest, "tracy_widom(level)", "-2"),
    source="Johnstone (2001); Chiani (2014)",
)
def quiet(draw: Draw) -> Outcome:
    """80 × 50 Gaussian weights at 95 %."""
    return Outcome(alarm=weight_spectrum(draw.normal(80, 50), 0.95).outliers.value != 0)


@case(
    "weights with a spike",
    "statistics.weights.weight_spectrum",
    "one outlier; θ = 3, σ² = 1",
    Bands(bias=0.05),
    (100, 200, 1000),
    Mutation("the other root", marchenko_pastur.strength, "(half + math.sqrt", "(half - math.sqrt"),
    Mutation("what outliers take from the bulk is not put back", weights._settled, "(d - taken)", "d"),
    source="Baik, Ben Arous & Péché (2005)",
    unit="share, summed",
)
def spiked(draw: Draw) -> Outcome:
    """100 × 60 Gaussian weights, one direction of variance 4: θ/3, plus outliers too many or few, plus 5(σ² − 1)."""
    rows = draw.normal(100, 60)
    direction = torch.nn.functional.normalize(draw.normal(60), dim=0)
    found = weight_spectrum(rows + torch.outer(rows @ direction, direction))
    if not found.strengths or found.bulk.value is None:
        return Outcome(0.0, 1.0)
    return Outcome(found.strengths[0] / 3 + abs(len(found.strengths) - 1) + 5 * (found.bulk.value - 1), 1.0)


@case(
    "Pareto tail",
    "statistics.tail.power_law_tail",
    "α = 2.5",
    Bands(bias=0.03, refusals=0.15),
    (20, 40, 300),
    Mutation("exponent of the distribution for that of the density", tail._fit, "best[1], best[2]", "best[1] - 1, best[2]"),
    Mutation(
        "thresholds by the largest distance",
        tail._fit,
        "min(best,",
        "max((0.0, 2.0, 1.0), best if best[0] < 9 else (0.0, 2.0, 1.0),",
    ),
    source="construction",
    unit="relative",
)
def pareto(draw: Draw) -> Outcome:
    """500 values, P(x > t) = t^−1.5."""
    values = torch.as_tensor(1 + draw.numpy.pareto(1.5, 500))
    return Outcome.of(tail.power_law_tail(values, draw.numpy, draws=2).exponent, 2.5, relative=True)


@case(
    "tails that are no power law",
    "statistics.tail.power_law_tail",
    '"not heavy-tailed" in 95 %',
    Bands(level=0.05),
    (90, 180, 2000),
    Mutation(
        "only one of the two has to lose",
        tail.power_law_tail,
        "if max(exponential, lognormal) > level",
        "if min(exponential, lognormal) > level",
    ),
    source="construction",
)
def light(draw: Draw) -> Outcome:
    """300 values in turn exponential, lognormal (σ = 1), lognormal (σ = 2), or eigenvalues of white weights."""
    kind = draw.number % 4
    if kind == 3:
        values = torch.as_tensor(weight_spectrum(draw.normal(160, 80)).values)
    else:
        values = draw.normal(300).abs() if kind == 0 else (kind * draw.normal(300)).exp()
        values = torch.as_tensor(draw.numpy.exponential(size=300)) if kind == 0 else values
    return Outcome(alarm=tail.power_law_tail(values, draw.numpy, draws=1).heavy)


STANDARDS = (falling, bulk, quiet, spiked, pareto, light)
