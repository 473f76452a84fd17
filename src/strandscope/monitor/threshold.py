"""A threshold whose false-alarm rate per sequence is at most the stated one, with stated confidence, by order statistics.

The threshold is the k-th largest score of n benign sequences, and an alarm is a score strictly above it. If a fresh benign
sequence comes from where these came, independently of them, its chance of an alarm is distributed as Beta(k, n − k + 1) over
calibrations when scores are continuous, and is smaller when they tie (Wilks 1941). k is the largest order at which that chance
is at most `rate` with probability at least `confidence`. Nothing is assumed of the scores' distribution.

Sequences of a group (a template, a source) count as one, by the largest of their scores. The rate is that of drawing a group
and then a sequence of it; one sequence of the group is at most as likely to alarm as the group's largest.

What it does not know: whether traffic is like the benign sequences. If nothing may be taken for granted but that sequences are
exchangeable and endless, the promise holds for each of the sources that they are mixed from (de Finetti). Sequences that chose
anything of the score, a strand or its sign, must not be among them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import betainc, betaincinv
from scipy.stats import binom

from ..errors import InputError
from ..reading import Reading
from .rows import Bools, Groups, finite, group_codes, share, share_between


@dataclass(frozen=True, slots=True)
class Threshold:
    """Alarm strictly above `value`.

    Attributes:
        value: the threshold, in the unit of the scores.
        rate: the false-alarm rate per sequence that is not to be exceeded.
        confidence: how often a calibration like this one keeps to it, at least.
        sequences: n, the benign sequences it stands on, groups counted once; `rows`: the scores that were given.
        order: k, the threshold is the k-th largest of the n.
    """

    value: float
    rate: float
    confidence: float
    sequences: int
    rows: int
    order: int

    def alarms(self, scores: ArrayLike) -> Bools:
        """(rows,) whether each score is strictly above the threshold.

        Raises:
            InputError: a score is not finite.
        """
        return finite("scores", scores) > self.value

    @property
    def expected(self) -> Reading:
        """The false-alarm rate per sequence to expect, k/(n + 1), and the bound that holds with the stated confidence."""
        bound = float(betaincinv(self.order, self.sequences - self.order + 1, self.confidence))
        value = self.order / (self.sequences + 1)
        method = (
            f"order statistic {self.order} of {self.sequences} benign sequences; one-sided bound, at most this where scores tie"
        )
        return Reading(value, 0.0, max(bound, value), self.confidence, self.sequences, "share of sequences", None, method)

    def recall(self, scores: ArrayLike, groups: Groups | None = None, level: float = 0.95) -> Reading:
        """Share of the sequences with the concept that raise an alarm, with an exact interval over groups (`rows.share`).

        Args:
            scores: (rows,) scores of sequences that have what is looked for.
            groups: (rows,) what they were drawn in; None if each on its own.

        Raises:
            InputError: a score is not finite, or the groups do not fit.
        """
        return self._share(scores, groups, level, "share of sequences that are found")

    def false_alarms(self, scores: ArrayLike, groups: Groups | None = None, level: float = 0.95) -> Reading:
        """The same of benign sequences that the threshold was not calibrated on: whether it holds there."""
        return self._share(scores, groups, level, "share of benign sequences that alarm")

    def _share(self, scores: ArrayLike, groups: Groups | None, level: float, unit: str) -> Reading:
        hits = self.alarms(scores)
        codes = group_codes(groups, len(hits))
        return share(hits, codes, share_between("level", level), unit=unit, method="exact (Clopper–Pearson) over groups")


def calibrate(benign: ArrayLike, *, rate: float, confidence: float = 0.95, groups: Groups | None = None) -> Threshold:
    """The lowest order statistic of the benign scores that keeps the false-alarm rate at `rate` with this confidence.

    Args:
        benign: (rows,) one score per benign sequence, none of which had a part in making the score.
        rate: false alarms per sequence, such as 0.01.
        groups: (rows,) templates or sources; sequences of one count once. None if each stands on its own.

    Raises:
        InputError: too few sequences (it says how many are the least), a score that is not finite, or a share outside (0, 1).
    """
    rate, confidence = share_between("rate", rate), share_between("confidence", confidence)
    scores = finite("benign", benign)
    codes = group_codes(groups, len(scores))
    largest = np.full(int(codes.max()) + 1, -np.inf)
    np.maximum.at(largest, codes, scores)
    n = len(largest)
    order = _order(n, rate, confidence)
    if order == 0:
        counted = f"{n} sequences" if groups is None else f"{n} groups of sequences"
        raise InputError(
            f"benign: got {counted}, wanted at least {least_sequences(rate, confidence)} for a false-alarm rate of {rate:g} at "
            f"confidence {confidence:g}; add benign sequences or state a higher rate"
        )
    return Threshold(float(np.sort(largest)[n - order]), rate, confidence, n, len(scores), order)


def least_sequences(rate: float, confidence: float = 0.95) -> int:
    """The fewest sequences whose largest score can be a threshold: the least n with 1 − (1 − rate)ⁿ ≥ confidence.

    Raises:
        InputError: a share outside (0, 1).
    """
    rate, confidence = share_between("rate", rate), share_between("confidence", confidence)
    n = max(1, math.floor(math.log1p(-confidence) / math.log1p(-rate)) - 1)  # one early, so that rounding cannot skip the least
    while assurance(n, 1, rate) < confidence:
        n += 1
    return n


def assurance(sequences: int, order: int, rate: float) -> float:
    """Probability that the `order`-th largest of so many continuous scores has a false-alarm rate of at most `rate`."""
    return float(betainc(order, sequences - order + 1, rate))


def _order(n: int, rate: float, confidence: float) -> int:
    """The largest k with P(Beta(k, n − k + 1) ≤ rate) ≥ confidence, or 0 if there is none."""
    most = int(binom.ppf(1 - confidence, n, rate)) + 1  # that probability is P(Binomial(n, rate) ≥ k): at most one too high
    order = min(n, most)
    while order > 0 and assurance(n, order, rate) < confidence:
        order -= 1
    return order
