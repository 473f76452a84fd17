"""Before a push is tried: will it steer? Three figures and the dose are looked at, and nothing that the push did to any text.

    use         whether the network reads and uses the direction where it is read (`use`)
    agreement   mean over groups of rows of the cosine between a group's difference of classes and the mean difference of the
                other groups; its null flips the signs of whole groups, as if classes had no common direction
    dose        what the nats asked for cost by prediction, and whether they lie inside the edge

Rules, fixed before any outcome was seen:

    will not      no size of the push costs so much; or the strand is "read, and equivalent to no use"; or the groups do not
                  agree: the whole interval of the agreement lies below 0.1
    will steer    "read and used"; the agreement is beyond its null (p at most 5 %) and its interval above 0.1; and the cost as
                  foretold (½c²χ, with a and b where they are known) is within a factor of three of that measured: further beyond
                  the edge, what holds for small pushes says nothing of this one
    cannot tell   else

`record` counts how often the verdicts were right. An outcome is that the texts moved toward the concept beyond random directions
(the interval above 0), that they did not (the whole interval below a tenth of the distance between the classes), or open.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import t as student
from torch import Tensor

from ..errors import InputError, StrandscopeError
from ..provenance import numpy_generator
from ..reading import Null, Reading
from ..statistics.paired import jackknife_variance
from .dose import Dose

if TYPE_CHECKING:
    from .use import Use

Ints = NDArray[np.int64]
Verdict = Literal["will steer", "will not", "cannot tell"]
Outcome = Literal["steered", "did not", "open"]

LEVEL, ALPHA = 0.95, 0.05
AGREE = 0.1  # cosine
MOVED = 0.1  # class distances: below this a push did not move the texts
FLIPS = 999
COSINE = "cosine"
FAR = 3.0  # times


@dataclass(frozen=True, slots=True)
class Preflight:
    """The verdict on a push along a strand at a dose, with its reason and what it was read off."""

    strand: str
    site: str
    nats: float
    verdict: Verdict
    why: str
    use: str  # verdict of `use`, or why there is none
    agreement: Reading
    predicted: Reading  # cost at the scale, as foretold
    edge: Reading


def agreement(states: Tensor, labels: Ints, groups: Ints, seed: int = 0) -> Reading:
    """How far groups of rows (a pair is one where pairs are given) agree in which way the classes differ.

    Args:
        states: (rows, d) at one site.
        groups: (rows,) codes; those that hold both classes count.

    Raises:
        InputError: fewer than 4 groups that hold both classes.
    """
    held = [group for group in np.unique(groups) if len(np.unique(labels[groups == group])) == 2]
    method = "cosine of a group's difference of classes with the others' mean difference, mean over groups"
    if len(held) < 4:
        raise InputError(f"groups: {len(held)} hold both classes, wanted at least 4, to see whether they agree")
    wide = states.double()
    differences = torch.stack([_difference(wide[torch.as_tensor(groups == g)], labels[groups == g]) for g in held])
    gram = (differences @ differences.T).numpy()
    value = _cosines(gram, np.ones((1, len(held))))[0]
    signs = numpy_generator(seed, "signs of groups").choice([-1.0, 1.0], (FLIPS, len(held)))
    null = _cosines(gram, signs)
    kept = ~np.eye(len(held), dtype=bool)
    without = np.array([_cosines(gram[np.ix_(kept[g], kept[g])], np.ones((1, len(held) - 1)))[0] for g in range(len(held))])
    reach = float(student.ppf(0.5 + LEVEL / 2, len(held) - 1)) * float(jackknife_variance(without)) ** 0.5
    low, high = (float(end) for end in np.quantile(null, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]))
    p = float((1 + (null >= value).sum()) / (1 + FLIPS))
    beside = Null(float(np.median(null)), low, high, LEVEL, FLIPS, p, "the signs of whole groups drawn at random")
    ends = max(-1.0, value - reach), min(1.0, value + reach)
    return Reading(float(value), ends[0], ends[1], LEVEL, len(held), COSINE, beside, f"{method}; jackknife over groups")


def preflight(
    strand: str, site: str, nats: float, use: Use | str, agreement: Reading, dose: Dose | StrandscopeError
) -> Preflight:
    """The verdict by the rules of this module.

    Args:
        use: or why it could not be asked.
        dose: of this push, or what was raised in its place: InputError where no size costs so much.
    """
    said = use if isinstance(use, str) else use.verdict
    if isinstance(dose, StrandscopeError):
        predicted = Reading.not_measured(str(dose), unit="nats per next token", method="prediction of the cost")
        edge = Reading.not_measured(str(dose), unit="lengths of the direction", method="prediction of the edge")
        verdict, why = verdict_of(said, agreement, dose)
    else:
        predicted, edge = dose.predicted, dose.edge
        assert dose.cost.value is not None and predicted.value is not None  # a dose is always measured
        verdict, why = verdict_of(said, agreement, dose.cost.value / max(predicted.value, 1e-12))
    return Preflight(strand, site, nats, verdict, why, said, agreement, predicted, edge)


def verdict_of(use: str, agreement: Reading, excess: float | StrandscopeError) -> tuple[Verdict, str]:
    """From the verdict of use, the agreement, and the measured cost over the predicted one (or what was raised in its place)."""
    if isinstance(excess, InputError):
        return "will not", f"no size of the push costs so much: {excess}"
    if use.startswith("read, and equivalent to no use"):
        return "will not", f"the direction is {use}"
    if agreement.high is not None and agreement.high < AGREE:
        return "will not", f"the groups do not agree in one direction: {agreement}"
    p = agreement.null.p if agreement.null is not None else None
    agrees = p is not None and p <= ALPHA and agreement.low is not None and agreement.low > AGREE
    near = not isinstance(excess, StrandscopeError) and 1 / FAR <= excess <= FAR
    if use == "read and used" and agrees and near:
        return "will steer", f"read and used, and the groups agree: {agreement}"
    reasons = [] if use == "read and used" else [f"use: {use}"]
    reasons += [] if agrees else [f"agreement {agreement}"]
    if isinstance(excess, StrandscopeError):
        reasons.append(f"its dose is not known: {excess}")
    elif not near:
        reasons.append(f"it costs {excess:.2g} times what small pushes foretell")
    return "cannot tell", "; ".join(reasons)


def outcome_of(beyond: Reading) -> Outcome:
    """What came of a push, from its effect beyond random directions."""
    if beyond.low is not None and beyond.low > 0:
        return "steered"
    return "did not" if beyond.high is not None and beyond.high < MOVED else "open"


@dataclass(frozen=True, slots=True)
class Case:
    """A verdict and what came of it."""

    name: str
    verdict: Verdict
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Record:
    """How often verdicts were right: of those that said something where something came out. `table` counts (verdict, outcome)."""

    right: Reading
    table: dict[tuple[Verdict, Outcome], int]


def record(cases: Sequence[Case]) -> Record:
    """The share of decided verdicts with decided outcomes that were right, with an exact (Clopper–Pearson) interval."""
    from scipy.stats import binomtest

    table: dict[tuple[Verdict, Outcome], int] = {}
    for case in cases:
        table[case.verdict, case.outcome] = table.get((case.verdict, case.outcome), 0) + 1
    right = table.get(("will steer", "steered"), 0) + table.get(("will not", "did not"), 0)
    wrong = table.get(("will steer", "did not"), 0) + table.get(("will not", "steered"), 0)
    method = "verdicts that came true, of those that said yes or no where the outcome was yes or no; Clopper–Pearson"
    if right + wrong == 0:
        reason = "no verdict said yes or no where the outcome did"
        return Record(Reading.not_measured(reason, unit="share of verdicts", method=method, n=len(cases)), table)
    interval = binomtest(right, right + wrong).proportion_ci(LEVEL, "exact")
    value = right / (right + wrong)
    reading = Reading(
        value, min(value, interval.low), max(value, interval.high), LEVEL, right + wrong, "share of verdicts", None, method
    )
    return Record(reading, table)


def _difference(states: Tensor, labels: Ints) -> Tensor:
    return states[torch.as_tensor(labels == 1)].mean(0) - states[torch.as_tensor(labels == 0)].mean(0)


def _cosines(gram: NDArray[np.float64], signs: NDArray[np.float64]) -> NDArray[np.float64]:
    """(draws,) mean over g of the cosine of s_g·δ_g with Σ_{h≠g} s_h·δ_h, from the Gram matrix of the δ."""
    sums = signs @ gram  # (draws, groups): with the sum of all
    own = np.diag(gram)
    dots = signs * sums - own
    total = (sums * signs).sum(1, keepdims=True)
    rest = total - 2 * signs * sums + own
    return (dots / np.sqrt(np.maximum(rest * own, 1e-300))).mean(1)
