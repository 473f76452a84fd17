"""Losses over documents: their mean, what one model is behind another, and the order at which counting stops to help.

Tokens of one document are not independent, so a document is what counts: a mean Σ losses / Σ tokens is a ratio of sums over
documents, with the linearised (delta-method) standard error of a ratio and Student's t with documents − 1 degrees of freedom.
Two models are compared on the same tokens, by the mean of the differences.

The effective order n* of a sequence of orders is the last one before the first gain CE_{n−1} − CE_n that is not above `least`
nats: at n* counting stops. Its interval has the same read off the lower and off the upper ends of the gains' intervals, which are
at a level that holds for all gains together (Bonferroni). For a source of order k it is k + 1, and 1 for independent tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import t as student

from ...errors import InputError
from ...reading import Reading
from .count import Ints

Floats = NDArray[np.float64]
LEAST = 0.01  # nats per token: a gain below it is none
_HOW = "ratio of sums over documents, delta method, t"


def clustered_mean(values: ArrayLike, documents: Ints, level: float = 0.95, *, unit: str = "nats per token") -> Reading:
    """The mean of `values` (tokens,) with the interval over `documents` (tokens,). The reading's n is that of documents.

    Raises:
        InputError: values that are not finite, or fewer than two documents.
    """
    rows = np.asarray(values, dtype=np.float64)
    if rows.shape != np.shape(documents) or not np.isfinite(rows).all():
        raise InputError(f"values: got shape {rows.shape}, wanted a finite loss for each of {np.shape(documents)} tokens")
    names, group = np.unique(documents, return_inverse=True)
    count = len(names)
    if count < 2:
        raise InputError(f"documents: got {count}, wanted at least 2 for an interval")
    mean = float(rows.mean())
    apart = np.bincount(group, rows - mean)
    error = math.sqrt(count / (count - 1) * float(apart @ apart)) / len(rows)
    reach = float(student.ppf(0.5 + level / 2, count - 1)) * error
    return Reading(mean, mean - reach, mean + reach, level, count, unit, None, _HOW)


def gains(losses: Sequence[ArrayLike], documents: Ints, level: float = 0.95) -> list[Reading]:
    """How much each loss (tokens,) is below the one before, paired: one fewer than `losses`. Above 0 where it helps."""
    rows = [np.asarray(loss, dtype=np.float64) for loss in losses]
    return [clustered_mean(before - after, documents, level) for before, after in pairwise(rows)]


def effective_order(losses: Sequence[ArrayLike], documents: Ints, level: float = 0.95, *, least: float = LEAST) -> Reading:
    """n* of losses (tokens,) of orders 1, 2, …, at least two of them.

    Raises:
        InputError: fewer than two orders.
    """
    if len(losses) < 2:
        raise InputError(f"losses: got {len(losses)} orders, wanted at least 2 to compare")
    each = 1 - (1 - level) / (len(losses) - 1)
    found = gains(losses, documents, each)
    value, low, high = (float(_first([getattr(gain, end) for gain in found], least)) for end in ("value", "low", "high"))
    method = f"the last order before a gain of at most {least:g} nats; ends from the gains' ends, Bonferroni; {_HOW}"
    return Reading(value, low, high, level, found[0].n, "tokens", None, method)


def _first(gained: list[float], least: float) -> int:
    """The last order before the first gain that is not above `least`."""
    return next((order for order, gain in enumerate(gained, start=1) if gain <= least), len(gained) + 1)
