"""From the outcomes of a standard's repetitions to its verdict.

Bands are family-wise: over `FAMILY` two-sided binomial tests an estimator that does what it claims is called wrong, anywhere,
in 5 % of certificates; intervals and tests of a level are one such family, biases another. For a 95 % interval over 2,000
repetitions that is coverage from 93.3 to 96.7 %, which is what a certificate promises; with fewer the band is wider. False
positives are judged on their upper side alone: a test that alarms too seldom breaks no promise. A bias is judged with its own
standard error: red where it lies beyond the band by more than doubt allows and, in a certificate, where the repetitions are too
few to tell. No band depends on the outcomes that it judges.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.stats import binom, norm

from .standard import CERTIFIED, Outcome, Standard

FAMILY = 75  # at most so many in a family
WRONG = 0.05  # the chance that a true family is called wrong
PROMISED = (0.933, 0.967)  # of a certified 95 % interval: the exact band, .9325 to .966, is one repetition wider below
Verdict = Literal["green", "red"]


def coverage_band(level: float, repetitions: int) -> tuple[float, float]:
    """The shares of repetitions, lowest and highest, that an interval of this level may hold the truth in."""
    tail = WRONG / FAMILY / 2
    low = int(binom.ppf(tail, repetitions, level))  # the fewest with P(fewer) ≤ tail
    high = int(binom.isf(tail, repetitions, level))
    if level == 0.95 and repetitions >= CERTIFIED:
        return max(low / repetitions, PROMISED[0]), min(high / repetitions, PROMISED[1])
    return low / repetitions, high / repetitions


def alarm_band(level: float, repetitions: int) -> float:
    """The highest share of false alarms that a test of this level may show."""
    return int(binom.isf(WRONG / FAMILY, repetitions, level)) / repetitions


def allowance() -> float:
    """By how many standard errors a mean may lie beyond its band."""
    return float(norm.isf(WRONG / FAMILY / 2))


@dataclass(frozen=True, slots=True)
class Judged:
    """What came out. A figure is None where nothing is claimed of it; `reasons` says what is red, in sentences.

    bias: the mean error, with `bias_error`, its standard error; `worst` the largest error of a repetition.
    refused: the share of repetitions that were "not measured".
    """

    bias: float | None
    bias_error: float | None
    worst: float | None
    coverage: float | None
    coverage_band: tuple[float, float] | None
    false_positive_rate: float | None
    alarm_band: float | None
    refused: float
    repetitions: int
    reasons: tuple[str, ...]

    @property
    def verdict(self) -> Verdict:
        return "red" if self.reasons else "green"


def judge(standard: Standard, outcomes: Sequence[Outcome]) -> Judged:
    """Hold the outcomes against the standard's bands."""
    bands, count = standard.bands, len(outcomes)
    measured = [outcome for outcome in outcomes if not outcome.refused]
    reasons = []
    refused = 1 - len(measured) / count
    if refused > bands.refusals:
        first = next(outcome.refused for outcome in outcomes if outcome.refused)
        reasons.append(f'"not measured" in {refused:.1%} of repetitions, wanted at most {bands.refusals:.1%}: {first}')
    coverage = _share([outcome.held for outcome in measured]) if bands.coverage is not None else None
    limits = coverage_band(bands.coverage, len(measured)) if bands.coverage is not None and measured else None
    if coverage is not None and limits is not None and not limits[0] <= coverage <= limits[1]:
        reasons.append(f"coverage {coverage:.1%}, wanted {limits[0]:.1%} to {limits[1]:.1%}")
    alarms = _share([outcome.alarm for outcome in measured]) if bands.level is not None else None
    most = alarm_band(bands.level, len(measured)) if bands.level is not None and measured else None
    if alarms is not None and most is not None and alarms > most:
        reasons.append(f"false positives {alarms:.1%}, wanted at most {most:.1%}")
    bias = spread = worst = None
    if measured and (bands.bias is not None or bands.error is not None or bands.coverage is not None):
        errors = np.array([outcome.error for outcome in measured])
        if np.isfinite(errors).all():
            bias, spread, worst = float(errors.mean()), _standard_error(errors), float(np.abs(errors).max())
            reasons += _errors(standard, bias, spread, worst, certified=count >= standard.times.certify)
        else:
            reasons.append("an error that is not finite")
    return Judged(bias, spread, worst, coverage, limits, alarms, most, refused, count, tuple(reasons))


def _errors(standard: Standard, bias: float, spread: float, worst: float, certified: bool) -> list[str]:
    bands, unit, reasons = standard.bands, f" {standard.unit}".rstrip(), []
    if bands.error is not None and worst > bands.error:
        reasons.append(f"off by {worst:.3g}{unit}, wanted at most {bands.error:.3g}")
    if bands.bias is not None:
        doubt = allowance() * spread
        if abs(bias) > bands.bias + doubt:
            reasons.append(f"bias {bias:+.3g} ± {spread:.2g}{unit}, wanted within {bands.bias:.3g}")
        elif certified and 0 < bands.bias < doubt:
            reasons.append(
                f"bias {bias:+.3g} ± {spread:.2g}{unit}: too few repetitions to tell whether it is within {bands.bias:.3g}"
            )
    return reasons


def _standard_error(errors: np.ndarray) -> float:
    return float(errors.std(ddof=1)) / math.sqrt(len(errors)) if len(errors) > 1 else 0.0


def _share(answers: Sequence[bool | None]) -> float | None:
    """The share of yes; None without an answer, or where one is missing, which no standard that claims a level may have."""
    if any(answer is None for answer in answers):
        raise ValueError("a standard that claims a level gave an outcome without an interval or an alarm")
    return sum(bool(answer) for answer in answers) / len(answers) if answers else None
