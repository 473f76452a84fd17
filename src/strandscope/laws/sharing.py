"""The law of sharing: do contexts draw from a library of discrete strands, or from a smooth family of them?

What is foretold is the gap: what a new context lacks, with the nearest of N recorded strands, of the share that its own
directions hold. Its scale is 1 where the nearest hold what those of N *unrelated* strands would (more to choose from holds
more, shared or not: that part is known and no theory's merit) and 0 where they hold what its own do. Both theories see the
coverage curve up to N₀ contexts and foretell the gaps at larger N, their distribution over contexts and not the mean alone: a
heavy-tailed library and a smooth family can have the same mean curve, a power law.

    discrete   A context's strand has been recorded or it has not. Its type has the weight π, and none of N contexts is of its
               type with probability E(1 − π)^N: Good and Turing's missing mass, π from a Beta distribution fitted to the curve
               of the unseen up to N₀ (one weight, many alike, or a heavy tail). The seen lack what the seen lack at N₀, the
               unseen what the unseen lack; only their shares change with N.
    smooth     Strands vary smoothly with m parameters; nobody's was recorded, but ever nearer ones. Each context's gap falls
               from 1 to a limit c as c + (1 − c)(1 + N/N_h)^(−2/m): N^(−2/m) once its neighbourhood is sampled, at its own
               density N_h, which its gap at N₀ gives. m and c are fitted to the mean curve up to N₀; c is at least what a
               context's own directions would lack with draws without end (extrapolated as 1/draws from its halves and
               quarters). Six neighbours also interpolate between each other, which can double the exponent: m is an effective
               number.

"Seen" is fixed beforehand: the context's gap is at most a half.
A prediction is scored by its CRPS, the mean over contexts of the distance of its distribution from what came (Gneiting &
Raftery 2007); for a prediction that is one number, the absolute error. The difference of the two scores, with its interval by
the jackknife over blocks of contexts, fits and all, says which is nearer, and it is named if its mean is not violated as a law:
`discrete`, `smooth`, `neither` (both violated, or the nearer one is) or `cannot tell`. Where the nearest strands hold no more
than unrelated ones the verdict is `nothing shared`; where a context's own directions hold no more than chance, or contexts are
too few, `out of domain`.

What it cannot tell: what the gaps do beyond the largest library; and contexts that combine many thin strands, each recorded or
not, have gaps of any size and follow neither theory (docs/decisions/2026-11-26-coverage-curve.md has what comes out on planted
ones).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from ..reading import Reading
from ..strand.mixture import Coverage, Replicates
from .law import Control, Law, LawResult, judge

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Sharing = Literal["discrete", "smooth", "neither", "cannot tell", "nothing shared", "out of domain"]

SEEN = 0.5  # the largest gap of a context that is seen
REACH = 3.5  # the largest library is at least this many times N₀
FURTHER = 1.9  # tested from this many times N₀ on
FEWEST = 4  # sizes up to N₀
SHARED = 0.05  # of what lies between unrelated strands and the ceiling: less is equivalent to nothing
EXPONENTS = np.geomspace(0.1, 6, 40)  # 2/m
LIMITS = 12  # candidates for c
NAMES = ("discrete", "smooth")
UNIT = "share of what there is to hold"

_SYMBOLS = {
    "S(N)": "share held by the nearest of N strands, from unrelated ones (0) to the context's own directions (1)",
    "N": "contexts recorded (1)",
    "N₀": "contexts that the theory is fitted on (1)",
}
_DOMAIN = "contexts drawn alike; something is shared; libraries up to the largest tested"
DISCRETE = Law(
    "sharing, discrete",
    "S(N) = S_seen − (S_seen − S_unseen)·E(1 − π)^N",
    {
        **_SYMBOLS,
        "π": "weight of a context's type among contexts (1)",
        "S_seen, S_unseen": "S of seen and unseen types at N₀ (1)",
    },
    _DOMAIN,
    tolerance=0.25,
)
SMOOTH = Law(
    "sharing, smooth",
    "1 − S(N) = c + (1 − c)·⟨(1 + N/N_h)^(−2/m)⟩",
    {
        **_SYMBOLS,
        "m": "effective number of parameters (1)",
        "c": "what endless neighbours lack (1)",
        "N_h": "contexts that sample the neighbourhood of context h (1)",
    },
    _DOMAIN,
    tolerance=0.25,
)


@dataclass(frozen=True, slots=True)
class Theory:
    """One theory's extrapolation to the largest library."""

    name: str
    predicted: Reading  # mean share held
    ratio: Reading  # measured/predicted share
    score: Reading  # CRPS of the gaps, mean over the tested sizes
    parameters: dict[str, float]


@dataclass(frozen=True, slots=True)
class Contest:
    """Which of the two theories foretells the coverage of larger libraries better."""

    verdict: Sharing
    difference: Reading  # score of the smooth theory minus that of the discrete one; above 0 the discrete one is nearer
    shared: Reading  # measured at the largest library: of what lies between unrelated strands and the context's own directions
    theories: tuple[Theory, ...]  # discrete, smooth; empty where neither could be fitted
    fitted: tuple[int, ...]
    tested: tuple[int, ...]
    reason: str = ""


def contest(coverage: Coverage, level: float = 0.95) -> Contest:
    """Fit both theories to the small libraries, foretell the large ones, and say which was nearer."""
    fitted, tested = _parted(coverage)
    shared = coverage.shared(level)
    own = coverage.reading(
        lambda kept, _: float((coverage.ceiling[kept] - coverage.chance[kept]).mean()),
        unit="share of the response",
        method="own directions minus chance",
        level=level,
    )
    assert own.low is not None and shared.low is not None and shared.high is not None
    if own.low <= 0:
        why = "a context's own directions hold no more of its response than directions at random: record more draws"
        return _without("out of domain", why, shared)
    if shared.high < SHARED:
        why = f"the nearest strands hold less than {SHARED} of what lies between unrelated strands and a context's own"
        return _without("nothing shared", why, shared)
    if shared.low <= 0:
        return _without("cannot tell", "the nearest strands may hold no more than unrelated ones", shared)
    if len(fitted) < FEWEST:
        most = coverage.sizes[-1] / REACH
        why = f"{len(fitted)} sizes of libraries up to {most:.0f} contexts, wanted {FEWEST}; record more contexts"
        return _without("out of domain", why, shared)
    found = coverage.replicates(lambda kept, near: _both(coverage, kept, near, fitted, tested))
    theories = tuple(_theory(coverage, which, found.map(lambda f, w=which: f[..., w, :]), level) for which in range(2))
    score = "CRPS of the smooth theory minus that of the discrete one, mean over tested sizes"
    difference = coverage.read(found.map(lambda f: f[..., 1, 0] - f[..., 0, 0]), unit=UNIT, method=score, level=level)
    verdict, reason = _decided(difference, theories)
    small, large = (tuple(coverage.sizes[k] for k in part) for part in (fitted, tested))
    return Contest(verdict, difference, shared, theories, small, large, reason)


def foretold(coverage: Coverage) -> Floats:
    """(2, 5) of the discrete and of the smooth theory, without intervals, as for one of many libraries: score, predicted and
    measured mean share at the largest size, and the theory's two parameters."""
    return _both(coverage, np.arange(coverage.contexts), coverage.nearest[0], *_parted(coverage))


def results(coverage: Coverage, where: str, level: float = 0.95) -> tuple[Contest, LawResult, LawResult]:
    """The contest, and each theory's extrapolation to the largest library as a test of a law.

    The negative control is a library in which nothing is shared by construction: there neither law speaks.
    """
    found = contest(coverage, level)
    nothing = coverage.shared(level, control=True)
    assert nothing.low is not None and nothing.high is not None
    control = Control(
        "the same strands, each with its coordinates in another order and of other signs: nothing is shared",
        expected="out of domain",
        found="out of domain" if nothing.high < SHARED else "underpowered" if nothing.low <= 0 else "violated",
        ratio=nothing,
        predicted=0.0,
    )
    tests = []
    for which, law in enumerate((DISCRETE, SMOOTH)):
        if found.theories:
            theory = found.theories[which]
            details = {**theory.parameters, "score": theory.score.value, "fitted": found.fitted, "tested": found.tested}
            test = LawResult(
                law, where, theory.predicted, found.shared, theory.ratio, judge(theory.ratio, law), control, "", details
            )
        else:
            none = Reading.not_measured(found.reason, unit=UNIT, method=law.formula, n=coverage.contexts)
            test = LawResult(law, where, none, found.shared, none, "out of domain", control, found.reason)
        tests.append(test)
    return found, tests[0], tests[1]


def _parted(coverage: Coverage) -> tuple[Ints, Ints]:
    """Places of the sizes that are fitted and of those that are tested."""
    sizes = np.array(coverage.sizes, dtype=np.float64)
    fitted = np.flatnonzero(sizes <= sizes[-1] / REACH * (1 + 1e-9))
    return fitted, np.flatnonzero(sizes >= FURTHER * sizes[fitted].max(initial=0.0))


def _without(verdict: Sharing, reason: str, shared: Reading) -> Contest:
    difference = Reading.not_measured(reason, unit=UNIT, method="CRPS", n=shared.n)
    return Contest(verdict, difference, shared, (), (), (), reason)


def _decided(difference: Reading, theories: tuple[Theory, ...]) -> tuple[Sharing, str]:
    """Who wins, and why nobody does."""
    assert difference.low is not None and difference.high is not None
    off = [judge(theory.ratio, law) == "violated" for theory, law in zip(theories, (DISCRETE, SMOOTH), strict=True)]
    if all(off):
        return "neither", "the mean share that either theory foretold is off by more than its tolerance"
    if difference.low <= 0 <= difference.high:
        return "cannot tell", "the interval of the difference of the two scores holds 0"
    nearer_one = 0 if difference.low > 0 else 1
    if off[nearer_one]:
        return "neither", f"the {NAMES[nearer_one]} theory is nearer, and off by more than its tolerance"
    return ("discrete", "") if nearer_one == 0 else ("smooth", "")


def _theory(coverage: Coverage, which: int, found: Replicates, level: float) -> Theory:
    """The readings of one theory from its five figures of `_both`."""
    parameters = found.value[3:]
    how = f"the {NAMES[which]} theory, fitted to the libraries up to N₀"
    ratio = Reading.not_measured("a share of 0 was foretold", unit="measured/predicted", method=how, n=coverage.contexts)
    if min(float(part[..., 1:3].min()) for part in (found.value, found.without, found.single, found.exchanged)) > 0:
        logs = found.map(lambda f: np.log(f[..., 2] / f[..., 1]))
        log = coverage.read(logs, unit="", method="logarithm of the ratio", level=level)
        assert log.value is not None and log.low is not None and log.high is not None
        middle, low, high = math.exp(log.value), math.exp(log.low), math.exp(log.high)
        ratio = Reading(middle, low, high, level, log.n, "measured/predicted", None, log.method)
    names = (("weight", "precision"), ("limit", "exponent"))[which]
    return Theory(
        NAMES[which],
        coverage.read(found.map(lambda f: f[..., 1]), unit=UNIT, method=how, level=level),
        ratio,
        coverage.read(found.map(lambda f: f[..., 0]), unit=UNIT, method="CRPS, tested sizes", level=level),
        dict(zip(names, map(float, parameters), strict=True)),
    )


def _both(coverage: Coverage, kept: Ints, nearest: Floats, fitted: Ints, tested: Ints) -> Floats:
    """(2, 5): of the discrete and of the smooth theory the score, predicted and measured mean share, two parameters."""
    room = coverage.ceiling[kept].mean() - coverage.unrelated[0, kept].mean((0, 1))  # (sizes,)
    gaps = (coverage.ceiling[kept, None, None] - nearest) / room
    unseen = gaps > SEEN
    sizes, last = np.array(coverage.sizes, dtype=np.float64), fitted[-1]
    start, new = gaps[..., last].ravel(), unseen[..., last].ravel()
    top, floor = 1.0, float((coverage.quarter[kept] - coverage.ceiling[kept]).mean() / room[last])
    weight, precision = _fit_missing(sizes[fitted], unseen[..., fitted].mean((0, 1)))
    limit, exponent = _fit_smooth(sizes[fitted] / sizes[last], gaps[..., fitted].mean((0, 1)), start, top, floor)
    lack = [start[~new] if not new.all() else np.zeros(1), start[new] if new.any() else np.array([top])]
    scores, means = np.zeros(2), np.zeros(2)
    for k in tested:
        came, share = gaps[..., k].ravel(), float(missing_mass(sizes[k], weight, precision))
        parts = [np.full(len(part), w / len(part)) for part, w in zip(lack, (1 - share, share), strict=True)]
        for which, (values, weights) in enumerate(
            (
                (np.concatenate(lack), np.concatenate(parts)),
                (nearer(start, sizes[k] / sizes[last], limit, exponent, top), np.full(len(start), 1 / len(start))),
            )
        ):
            scores[which] += crps(values, weights, came) / len(tested)
            means[which] = values @ weights
    held = 1 - gaps[..., -1].mean()
    return np.array([[scores[0], 1 - means[0], held, weight, precision], [scores[1], 1 - means[1], held, limit, exponent]])


def missing_mass(n: Floats | float, weight: Floats | float, precision: Floats | float) -> Floats:
    """E(1 − π)^n for π ~ Beta with mean `weight` and a + b = `precision`."""
    a, b = weight * precision, (1 - weight) * precision
    return np.exp(gammaln(b + n) + gammaln(a + b) - gammaln(b) - gammaln(a + b + n))


def _fit_missing(sizes: Floats, unseen: Floats) -> tuple[float, float]:
    """Least squares over a grid that closes in on its best point."""
    weights, precisions = np.geomspace(1e-4, 0.5, 80), np.geomspace(0.3, 3e4, 50)
    weight, precision = 0.0, 0.0
    for _ in range(3):
        errors = ((missing_mass(sizes, weights[:, None, None], precisions[None, :, None]) - unseen) ** 2).sum(-1)
        i, j = np.unravel_index(int(errors.argmin()), errors.shape)
        wide, tall = weights[1] / weights[0], precisions[1] / precisions[0]
        weight, precision = float(weights[i]), float(precisions[j])
        weights = np.minimum(weight * np.geomspace(1 / wide, wide, 25), 0.999)
        precisions = precision * np.geomspace(1 / tall, tall, 25)
    return weight, precision


def nearer(gaps: Floats, ratio: Floats | float, limit: float, exponent: Floats | float, top: float) -> Floats:
    """The smooth theory's gaps in a library `ratio` times as large; those outside limit and top (noise) stay."""
    inside = (gaps > limit) & (gaps < top)
    left = np.where(inside, (gaps - limit) / (top - limit), 0.5)  # (1 + N₀/N_h)^(−2/m)
    density = left ** (-1 / np.asarray(exponent)) - 1  # N₀/N_h
    return np.where(inside, limit + (top - limit) * (1 + density * ratio) ** -np.asarray(exponent), gaps)


def _fit_smooth(ratios: Floats, means: Floats, start: Floats, top: float, floor: float) -> tuple[float, float]:
    """The limit and exponent that give the mean curve at `ratios` of N₀ best, from the gaps at N₀."""
    most = min(max(float(means[-1]), floor + 1e-9), top - 1e-6)
    best = (np.inf, floor, float(EXPONENTS[0]))
    for limit in np.linspace(min(floor, most - 1e-6), most, LIMITS):
        curves = nearer(start, ratios[:, None], float(limit), EXPONENTS[:, None, None], top).mean(-1)  # (exponents, ratios)
        errors = ((curves - means) ** 2).sum(-1)
        best = min(best, (float(errors.min()), float(limit), float(EXPONENTS[errors.argmin()])))
    return best[1:]


def crps(values: Floats, weights: Floats, came: Floats) -> float:
    """Mean over `came` of E|X − y| − ½E|X − X′|, X one of `values` with `weights` that add to 1."""
    order = np.argsort(values)
    v, w = values[order], weights[order]
    mass, first = np.cumsum(w), np.cumsum(w * v)
    place = np.searchsorted(v, came, side="right")
    below, moment = np.concatenate([[0.0], mass])[place], np.concatenate([[0.0], first])[place]
    distance = came * (2 * below - 1) + first[-1] - 2 * moment
    return float(distance.mean() - (w * (v * mass - first)).sum())
