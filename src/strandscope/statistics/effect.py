"""What a treatment does to scores of the same rows, held against the same treatment along other directions.

Rows are prompts, and every figure is paired by prompt: score under the treatment less score without it. Rows of a topic share
their luck, so intervals are clustered by topic. The directions that a treatment is held against are a sample too: `beyond` adds
the variance between them to that over topics (`paired.log_ratio`, whose arithmetic is that of any difference).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from ..errors import InputError
from ..reading import Null, Reading
from .paired import Deleted, log_ratio

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

LEVEL = 0.95
QUANTILES = (0.1, 0.5, 0.9)


@dataclass(frozen=True, slots=True)
class Shift:
    """Moves of scores, paired by row. `beyond` is the mean move less the mean move along the other directions; its null is what
    each of them moved, with the rank p-value (one-sided) of the move itself."""

    move: Reading
    beyond: Reading
    wrong: Reading
    quantiles: tuple[Reading, ...]  # of the rows' moves, at QUANTILES


def shift(moves: Floats, others: Floats, topics: Ints, unit: str, method: str) -> Shift:
    """From moves (rows,) and those along other directions (directions, rows), of the same rows.

    Raises:
        InputError: fewer than 2 topics, or other directions of other rows.
    """
    if others.ndim != 2 or others.shape[1] != len(moves) or len(topics) != len(moves):
        raise InputError(f"moves: got {moves.shape}, {others.shape} and {len(topics)} topics, wanted the same rows in all")
    null = _null(moves, others)
    return Shift(
        move_reading(moves, topics, unit, method, null),
        beyond(moves, others, topics, unit, method),
        _wrong(moves, others, topics, method),
        tuple(quantile(moves, topics, share, unit, method) for share in QUANTILES),
    )


def move_reading(moves: Floats, topics: Ints, unit: str, method: str, null: Null | None = None) -> Reading:
    """The mean move, its interval clustered by topic."""
    mean, reach = float(moves.mean()), half_width(moves, topics)
    return Reading(mean, mean - reach, mean + reach, LEVEL, len(moves), unit, null, f"{method}; interval by topic")


def beyond(moves: Floats, others: Floats, topics: Ints, unit: str, method: str) -> Reading:
    """Mean move less the mean over directions of their mean moves, with the variance over topics and that between directions."""
    count = len(others)
    if count < 2:
        reason = f"{count} directions at random to hold it against, wanted at least 2"
        return Reading.not_measured(reason, unit=unit, method=method, n=len(moves))
    contrast = log_ratio(Deleted.mean(moves, topics), [Deleted.mean(other, topics) for other in others])
    low, high = contrast.interval(LEVEL)
    how = f"{method}, less the mean of {count} random directions; jackknife over topics, with the variance between directions"
    return Reading(contrast.value, low, high, LEVEL, len(moves), unit, _null(moves, others), how)


def _null(moves: Floats, others: Floats) -> Null | None:
    """What the other directions moved; p is the share that moved at least as far, counted with the move itself."""
    if not len(others):
        return None
    means, mean = others.mean(1), float(moves.mean())
    low, high = (float(end) for end in np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]))
    p = float((1 + (means >= mean).sum()) / (1 + len(means)))
    return Null(float(means.mean()), low, high, LEVEL, len(means), p, "mean moves along random directions of the same nats")


def _wrong(moves: Floats, others: Floats, topics: Ints, method: str) -> Reading:
    """The share of rows that move the other way."""
    down = (moves < 0).astype(np.float64)
    mean, reach = float(down.mean()), half_width(down, topics)
    null = None
    if len(others):
        shares = (others < 0).mean(1)
        low, high = (float(end) for end in np.quantile(shares, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]))
        null = Null(float(shares.mean()), low, high, LEVEL, len(shares), None, "random directions of the same nats")
    low, high = max(0.0, mean - reach), min(1.0, mean + reach)
    return Reading(mean, low, high, LEVEL, len(moves), "share of prompts", null, f"{method}, below 0; interval by topic")


def quantile(values: Floats, topics: Ints, share: float, unit: str, method: str) -> Reading:
    """A quantile of rows and its interval: that of the share of rows below it, clustered by topic, taken back to the rows
    (Woodruff 1952)."""
    names, topic = np.unique(topics, return_inverse=True)
    count, n = len(names), len(values)
    at, ordered = float(np.quantile(values, share)), np.sort(values)
    below = (values < at) + 0.5 * (values == at)
    sums = np.bincount(topic, below - below.mean(), count)
    reach = float(student.ppf(0.5 + LEVEL / 2, count - 1)) * math.sqrt(count / (count - 1) * float(sums @ sums)) / n
    low, high = math.floor(n * (share - reach)) - 1, math.ceil(n * (share + reach))
    ends = float(ordered[max(low, 0)]), float(ordered[min(high, n - 1)])
    how = f"{method}: quantile {share:g} over prompts, interval by topic"
    return Reading(at, min(at, ends[0]), max(at, ends[1]), LEVEL, n, unit, None, how)


def half_width(values: Floats, topics: Ints, level: float = LEVEL) -> float:
    """Of the interval of the mean, clustered by topic (t with topics − 1 degrees)."""
    _, topic = np.unique(topics, return_inverse=True)
    count = int(topic.max()) + 1
    if count < 2:
        raise InputError("topics: got 1, wanted at least 2, for an interval over topics")
    sums = np.bincount(topic, values - values.mean(), count)
    error = math.sqrt(count / (count - 1) * float(sums @ sums)) / len(values)
    return float(student.ppf(0.5 + level / 2, count - 1)) * error
