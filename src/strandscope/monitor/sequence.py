"""From scores of tokens to one score per sequence, token by token or all at once: one piece of code, so that both agree
exactly.

`last`, `mean` and `max` are what they say. `ema(decay)` is the largest value of the exponential moving average e_t = decay ·
e_{t−1} + (1 − decay) · s_t, which starts at the first score. `window(width)` is the largest mean of `width` successive scores;
a sequence that is shorter has the mean of what it has.

While a sequence goes on its score can still change. `Running.certain` is what the final score cannot fall below: an alarm
raised on it, or on `Running.score` at the end, is raised for exactly the sequences whose score is above the threshold. `mean`
and `last` are certain of nothing before the end.

Memory per sequence is constant: a few numbers, for `window` the last `width` scores. All arithmetic is in float64, in the order
of the tokens.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import InputError
from .rows import Bools, Floats, Ints, finite

Kind = Literal["last", "mean", "max", "ema", "window"]
_FORM = re.compile(r"([a-z]+)(?:\(([0-9.e-]+)\))?")
_FORMS = "last, mean, max, ema(0.9) or window(8)"


@dataclass(frozen=True, slots=True)
class Aggregation:
    """How scores of tokens become one of their sequence; parses and prints.

    Attributes:
        kind: last, mean, max, ema or window.
        decay: of `ema`, at least 0 and below 1.
        width: of `window`, in tokens.
    """

    kind: Kind
    decay: float = 0.0
    width: int = 1

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise InputError(f"aggregation: got {self.kind!r}, wanted {_FORMS}")
        if not 0 <= self.decay < 1:
            raise InputError(f"aggregation: got a decay of {self.decay:g}, wanted at least 0 and below 1, such as ema(0.9)")
        if (self.decay and self.kind != "ema") or (self.width != 1 and self.kind != "window"):
            raise InputError(f"aggregation: a decay is of ema and a width of window, got them of {self.kind!r}; leave them out")
        if self.width < 1:
            raise InputError(f"aggregation: got a window of {self.width} tokens, wanted at least 1, such as window(8)")

    @classmethod
    def parse(cls, text: str) -> Aggregation:
        """`max`, `ema(0.9)`, `window(8)`: the form that `str` gives back.

        Raises:
            InputError: it is none of these.
        """
        match = _FORM.fullmatch(text.strip())
        kind, figure = match.groups() if match else (text, None)
        try:
            if figure is None and kind in ("last", "mean", "max"):
                return cls(kind)
            if figure is not None and kind == "ema":
                return cls(kind, decay=float(figure))
            if figure is not None and kind == "window":
                return cls(kind, width=int(figure))
        except ValueError as error:
            if isinstance(error, InputError):
                raise
        raise InputError(f"aggregation: got {text!r}, wanted {_FORMS}")

    def __str__(self) -> str:
        figure = {"ema": f"({self.decay!r})", "window": f"({self.width})"}
        return self.kind + figure.get(self.kind, "")


class Running:
    """Scores of sequences that grow token by token, side by side.

    Args:
        sequences: how many.
        channels: shape of the scores of one token, () for a number.

    Raises:
        InputError: no sequence.
    """

    def __init__(self, aggregation: Aggregation, sequences: int = 1, channels: tuple[int, ...] = ()) -> None:
        if sequences < 1:
            raise InputError(f"sequences: got {sequences}, wanted at least 1")
        shape = (sequences, *channels)
        self.aggregation = aggregation
        self.tokens: Ints = np.zeros(sequences, dtype=np.int64)
        self._now = np.zeros(shape)  # the last score, the sum, or the moving average
        self._best = np.full(shape, -np.inf)
        width = aggregation.width if aggregation.kind == "window" else 0
        self._recent = np.zeros((width, *shape))

    def update(self, scores: ArrayLike, active: Bools | None = None) -> None:
        """Take the next token of the sequences that go on.

        Args:
            scores: (sequences that go on, *channels), in the order of the sequences.
            active: (sequences,) which go on; all where None.

        Raises:
            InputError: another shape, or a score that is not finite.
        """
        if active is not None and (active.dtype != np.bool_ or active.shape != self.tokens.shape):
            raise InputError(f"active: got {active.dtype} of shape {active.shape}, wanted bool of shape {self.tokens.shape}")
        rows = np.arange(len(self.tokens)) if active is None else np.flatnonzero(active)
        wanted = (len(rows), *self._now.shape[1:])
        array = finite("scores", scores, dimensions=len(wanted))
        if array.shape != wanted:
            raise InputError(f"scores: got shape {array.shape}, wanted {wanted}: one row for each sequence that goes on")
        self._take(array, rows)

    def _take(self, scores: Floats, rows: Ints) -> None:
        before = _over(self.tokens[rows], scores)
        match self.aggregation.kind:
            case "last":
                self._now[rows] = scores
            case "mean":
                self._now[rows] += scores
            case "max":
                self._best[rows] = np.maximum(self._best[rows], scores)
            case "ema":
                decay = self.aggregation.decay
                average = np.where(before == 0, scores, decay * self._now[rows] + (1 - decay) * scores)
                self._now[rows] = average
                self._best[rows] = np.maximum(self._best[rows], average)
            case "window":
                width = self.aggregation.width
                self._recent[self.tokens[rows] % width, rows] = scores
                # The window is summed anew, place by place: a sum that is carried along would keep its rounding for ever, and
                # `sum` may choose another order for another shape.
                self._now[rows] = np.add.accumulate(self._recent[:, rows])[-1]
                mean = np.where(before + 1 >= width, self._now[rows] / width, -np.inf)
                self._best[rows] = np.maximum(self._best[rows], mean)
        self.tokens[rows] += 1

    def score(self) -> Floats:
        """(sequences, *channels) the score if every sequence ended here; NaN for one without a token."""
        seen = _over(self.tokens, self._now)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = self._now / seen
        match self.aggregation.kind:
            case "last":
                value = self._now
            case "mean":
                value = mean
            case "max" | "ema":
                value = self._best
            case "window":
                value = np.where(seen < self.aggregation.width, mean, self._best)
        return np.where(seen == 0, np.nan, value)

    def certain(self) -> Floats:
        """(sequences, *channels) what the final score cannot fall below, whatever comes: −∞ while nothing is certain."""
        return self._best.copy()

    def alarms(self, threshold: float, *, ended: bool = False) -> Bools:
        """(sequences, *channels) whether each is strictly above `threshold`: certainly so already, or at its end."""
        return (self.score() if ended else self.certain()) > threshold


def sequence_scores(scores: ArrayLike, lengths: Sequence[int] | NDArray[np.int64], aggregation: Aggregation) -> Floats:
    """One score per sequence from the scores of all their tokens, laid end to end.

    Args:
        scores: (tokens,) or (tokens, channels), the sequences one after the other.
        lengths: (sequences,) tokens of each; at least 1.

    Returns:
        (sequences,) or (sequences, channels); the same numbers, to the bit, as `Running` gives token by token.

    Raises:
        InputError: a sequence without tokens, lengths that do not add up to the tokens, or a score that is not finite.
    """
    array = finite("scores", scores, dimensions=(1, 2))
    sizes = np.asarray(lengths, dtype=np.int64)
    if sizes.ndim != 1 or not len(sizes) or (sizes < 1).any():
        empty = f"sequence {int(np.argmax(sizes < 1))} has none" if sizes.ndim == 1 and len(sizes) else f"shape {sizes.shape}"
        raise InputError(f"lengths: {empty}, wanted at least one token in every sequence; leave out sequences without tokens")
    if sizes.sum() != len(array):
        raise InputError(f"lengths: add up to {sizes.sum()} tokens, but there are scores of {len(array)}; count the tokens again")
    starts = np.cumsum(sizes) - sizes
    running = Running(aggregation, len(sizes), array.shape[1:])
    order = np.argsort(-sizes, kind="stable")  # long sequences first: those that go on are always the first ones
    falling = -sizes[order]
    for token in range(int(sizes.max())):
        rows = order[: int(np.searchsorted(falling, -token))]
        running._take(array[starts[rows] + token], rows)
    return running.score()


def _over(values: Ints, like: Floats) -> Ints:
    """One number per sequence, spread over its channels."""
    return values.reshape(-1, *(1,) * (like.ndim - 1))
