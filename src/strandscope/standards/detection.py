"""Standards of detection: the interval of an AUROC, and the tests that say "detected".

Scores are Gaussian, so that every true AUROC is a Φ. With h = y(δ + v_g) + u_g + e for a row of label y in group g,
u_g ~ N(0, b²), v_g ~ N(0, c²), e ~ N(0, 1) along every unit direction w, a pair of rows of different groups differs by δ·w with
variance 2 + 2b² + c², a pair of one group with variance 2 + c².
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.stats import norm

from ..statistics import detect
from ..statistics.detect import area, area_difference
from ..statistics.resample import group_folds, holm, permuted_labels, relabelled
from ..strand.find import find
from ..strand.linear import Method, Training, noise_shares
from ..strand.nested import NOISE_DRAWS
from .made import Made
from .mutation import Mutation
from .standard import Bands, Draw, Outcome, case

GROUPS, EACH, FOLDS = 24, 5, 5  # each group holds so many rows of either label
SHIFT, TILT = 0.7, 0.3  # b and c
GAUSSIAN = "closed form: Φ of a difference of Gaussian scores"


def _shared(separation: float, near: float, far: float, groups: int, each: int) -> float:
    """True share of concordant pairs among all pairs of `groups` groups; near and far are the variances of a difference."""
    same, every = groups * each**2, (groups * each) ** 2
    held = same * norm.cdf(separation / near**0.5) + (every - same) * norm.cdf(separation / far**0.5)
    return float(held / every)


@case(
    "auroc, independent rows",
    "statistics.detect.area",
    "Φ(δ/√2)",
    Bands(bias=0.005, coverage=0.95),
    (600, 1000, 4000),
    Mutation("missing square: the t quantile as it is", detect.score_interval, "quantile**2", "quantile"),
    source=GAUSSIAN,
    unit="AUROC",
)
def independent(draw: Draw) -> Outcome:
    """60 and 60 independent Gaussian scores, AUROC .8."""
    labels = np.repeat([1, 0], 60)
    scores = draw.numpy.normal(size=120) + labels * norm.ppf(0.8) * 2**0.5
    found = area(scores, labels, np.arange(120), np.zeros(120, dtype=np.int64))
    return Outcome(found.value, 0.8, low=found.low, high=found.high)


@case(
    "auroc, rows in groups",
    "statistics.detect.area",
    "Φ(δ/√(2 + 2b²))",
    Bands(bias=0.005, coverage=0.95),
    (300, 600, 2000),
    Mutation(
        "rows taken as independent",
        detect.design_effect,
        "return trust * ratio + (1 - trust) * max(ratio, floor)",
        "return 1.0",
    ),
    source=GAUSSIAN,
    unit="AUROC",
)
def clustered(draw: Draw) -> Outcome:
    """20 groups of either label, 6 rows in each that share a shift as large as the noise."""
    groups = np.repeat(np.arange(40), 6)
    labels = groups % 2
    scores = labels * 1.5 + draw.numpy.normal(size=40)[groups] + draw.numpy.normal(size=240)
    found = area(scores, labels, groups, np.zeros(240, dtype=np.int64))
    return Outcome(found.value, float(norm.cdf(1.5 / 2)), low=found.low, high=found.high)


@case(
    "auroc, cross-fitted scores",
    "statistics.detect.area",
    "mean AUROC of the fitted directions on new groups",
    Bands(bias=0.005, coverage=0.95),
    (150, 300, 2000),
    Mutation(
        "noise of the fits counted the wrong way", area, "(1 + min(max(noise, 0.0), 1.0))", "(1 - min(max(noise, 0.0), 1.0))"
    ),
    source=GAUSSIAN,
    unit="AUROC",
)
def crossfitted(draw: Draw) -> Outcome:
    """A difference of means in 12 dimensions, fitted on other folds; 24 groups with shifts and tilts of their own."""
    generator = draw.numpy
    groups = np.repeat(np.arange(GROUPS), 2 * EACH)
    labels = np.tile(np.repeat([1, 0], EACH), GROUPS)
    delta = np.zeros(12)
    delta[0] = norm.ppf(0.7) * np.sqrt(2 + 2 * SHIFT**2 + TILT**2)
    shift, tilt = (scale * generator.normal(size=(GROUPS, 12))[groups] for scale in (SHIFT, TILT))
    states = labels[:, None] * (delta + tilt) + shift + generator.normal(size=(len(labels), 12))
    folds = group_folds(labels, groups, FOLDS, generator)
    fake = relabelled(labels, groups, NOISE_DRAWS, generator)
    method = Method("difference of means")
    scores, shares, truth, pairs = np.zeros(len(labels)), [], 0.0, 0
    for fold in range(FOLDS):
        held = folds == fold
        training, new = Training.of(torch.as_tensor(states[~held])), torch.as_tensor(states[held])
        targets, fakes = (torch.as_tensor(rows[..., ~held], dtype=torch.float64) for rows in (labels[None], fake))
        direction = training.weights(method, targets.T)[:, 0].numpy()
        direction /= np.linalg.norm(direction)
        scores[held] = states[held] @ direction
        shares.append(float(noise_shares(training, new, labels[held], [method], targets.T, fakes.T)))
        here = len(np.unique(groups[held]))
        every = (here * EACH) ** 2
        truth += every * _shared(float(delta @ direction), 2 + TILT**2, 2 + 2 * SHIFT**2 + TILT**2, here, EACH)
        pairs += every
    found = area(scores, labels, groups, folds, noise=float(np.mean(shares)))
    return Outcome(found.value, truth / pairs, low=found.low, high=found.high)


@case(
    "auroc, paired difference",
    "statistics.detect.area_difference",
    ".85 − .75",
    Bands(bias=0.005, coverage=0.95),
    (300, 600, 2000),
    Mutation("sign of the correlation swapped", area_difference, "- 2 * rho", "+ 2 * rho"),
    source=GAUSSIAN,
    unit="AUROC",
)
def difference(draw: Draw) -> Outcome:
    """Two scores of the same 120 rows whose noise correlates at .5, AUROC .85 and .75."""
    labels = np.repeat([1, 0], 60)
    noise = draw.numpy.multivariate_normal([0, 0], [[1, 0.5], [0.5, 1]], 120)
    first, second = (noise[:, k] + labels * norm.ppf(a) * 2**0.5 for k, a in enumerate((0.85, 0.75)))
    found, low, high = area_difference(first, second, labels, np.arange(120), np.zeros(120, dtype=np.int64))
    return Outcome(found, 0.1, low=low, high=high)


@case(
    "pure noise, find's verdict",
    "strand.find.find",
    "detected in 5 % at most",
    Bands(level=0.05),
    (50, 100, 2000),
    Mutation(
        "labels exchanged across rows instead of groups",
        permuted_labels,
        "_split(np.arange(len(labels)), groups)",
        "_split(np.arange(len(labels)), 0 * groups)",
    ),
    source="exchangeability of groups",
)
def noise(draw: Draw) -> Outcome:
    """States with strong group effects at two sites, whole groups of one label, labels shuffled: nothing is there to be found."""
    generator, groups = draw.numpy, np.arange(96) % 12
    labels = generator.permutation(np.arange(12) % 2)[groups]
    common = generator.normal(size=(96, 16)) + 3 * generator.normal(size=(12, 16))[groups]
    states = {f"resid:{k}": torch.as_tensor(common + generator.normal(size=(96, 16))).float() for k in range(2)}
    found = find(Made.of(states, labels, groups), folds=4, permutations=19, seed=draw.number)
    return Outcome(alarm=found.verdict == "detected")


@case(
    "planted direction, find",
    "strand.find.find",
    "detected, at that site, along it",
    Bands(error=0.2),
    (3, 10, 50),
    Mutation("the strand refitted at another site", find, "            states[site],", "            states[place],"),
    source="planted",
    unit="1 − cos",
)
def planted(draw: Draw) -> Outcome:
    """Classes 3 deviations apart along one direction of one of three sites."""
    groups, labels = np.arange(80) % 20, np.arange(80) // 20 % 2
    states = {f"resid:{k}": draw.normal(80, 16).float() for k in range(3)}
    direction = draw.normal(16)
    direction /= direction.norm()
    states["resid:1"] += 3 * torch.as_tensor(labels)[:, None] * direction.float()
    found = find(Made.of(states, labels, groups), folds=4, permutations=39, seed=draw.number)
    seen = found.verdict == "detected" and found.best.site == "resid:1"
    return Outcome(1 - float(found.best.basis[:, 0].double() @ direction) if seen else 1.0)


@case(
    "five concepts of noise, Holm",
    "statistics.resample.holm",
    "any at most .05 in 5 % at most",
    Bands(level=0.05),
    (1000, 2000, 10000),
    Mutation("no correction", holm, "(len(p_values) - rank) * p_values[index]", "p_values[index]"),
    source="Holm (1979)",
)
def family(draw: Draw) -> Outcome:
    """Five uniform p-values after Holm's correction."""
    return Outcome(alarm=min(holm(draw.numpy.random(5).tolist())) <= 0.05)


STANDARDS = (independent, clustered, crossfitted, difference, noise, planted, family)
