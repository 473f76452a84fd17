"""Spikes of the loss: when it jumps above the band that the last losses lie in.

The band ends at median + 6 · 1.4826 · MAD of the logarithms of the last 50 losses (of the losses themselves where one is not
positive), at least a tenth above the median, taken anew every tenth loss. Logarithms, because the losses of small batches have a
long tail: on a small classifier near the end of its training the same band of plain losses is left by one loss in twenty. A spike
begins with the first loss above the band, or one that is not finite, and ends with the first that is below again. A new plateau
becomes the band after some 25 losses; what leaves it again within 25 losses of coming back belongs to the same spike.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

WINDOW, LEAST, EVERY, FAR, FLOOR = 50, 20, 10, 6.0, 1.1


@dataclass(slots=True)
class Band:
    """A running robust band; `above(loss)` says whether this one lies outside and takes it in."""

    top: float = math.inf
    middle: float = math.nan
    _last: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))
    _since: int = 0

    def above(self, loss: float) -> bool:
        outside = not math.isfinite(loss) or loss > self.top
        if math.isfinite(loss):
            self._last.append(loss)
            self._since += 1
            if len(self._last) >= LEAST and (self._since >= EVERY or math.isinf(self.top)):
                self.middle, self.top = _band(sorted(self._last))
                self._since = 0
        return outside


def _band(ordered: list[float]) -> tuple[float, float]:
    """(median, upper end) of losses in ascending order."""
    positive = ordered[0] > 0
    values = [math.log(loss) for loss in ordered] if positive else ordered
    middle = values[len(values) // 2]
    spread = 1.4826 * sorted(abs(value - middle) for value in values)[len(values) // 2]
    top = middle + FAR * spread
    median = ordered[len(ordered) // 2]
    return median, max(math.exp(min(top, 700.0)) if positive else top, median + (FLOOR - 1) * abs(median))


@dataclass(frozen=True, slots=True)
class Spike:
    """Steps of a spike: its first, its highest and the first that is back in the band (None: it never came back).

    `before` is the band's middle as it began; `peak` the highest loss, infinite where one was not finite.
    """

    first: int
    top: int
    last: int | None
    before: float
    peak: float

    @property
    def height(self) -> float:
        """The peak over the median loss before."""
        return self.peak / self.before if self.before > 0 else math.inf


def spikes(steps: Sequence[int], losses: Sequence[float]) -> list[Spike]:
    """All spikes of a series of losses; one that begins within half a window of the last is still the last one."""
    band, found = Band(), []
    open_, quiet = False, WINDOW
    for step, loss in zip(steps, losses, strict=True):
        middle = band.middle
        height = loss if math.isfinite(loss) else math.inf
        if band.above(loss):
            if not open_ and (not found or quiet > WINDOW // 2):
                found.append(Spike(step, step, None, middle, height))
            last = found[-1]
            found[-1] = replace(last, last=None, **({"top": step, "peak": height} if height > last.peak else {}))
            open_, quiet = True, 0
        else:
            quiet += 1
            if open_:
                found[-1], open_ = replace(found[-1], last=step), False
    return found
