"""A number that may reach a user: with its interval, its n, its unit, its null and its method, or the word "not measured".

What a `Reading` promises: if `status` is "measured", then value, low and high are finite, ordered, and were computed by
`method` on `n` rows (rows that share a group are not independent; where it matters, `method` says how that was met). If it is
"not measured", there is no value at all and `reason` says why. It never holds a NaN.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Status = Literal["measured", "not measured"]


@dataclass(frozen=True, slots=True)
class Null:
    """What the same procedure gives when there is nothing to find.

    `low` and `high` bound the central `level` of the null distribution (same unit as the reading); `p` is the share of the
    `n` null draws at least as extreme as the value, counted with the value itself (so never 0).
    """

    value: float
    low: float
    high: float
    level: float
    n: int
    p: float | None
    method: str

    def __post_init__(self) -> None:
        if not all(math.isfinite(figure) for figure in (self.value, self.low, self.high)):
            raise ValueError(f"a null needs finite figures, got {self.value} [{self.low}, {self.high}]")


@dataclass(frozen=True, slots=True)
class Reading:
    """A measured value with its interval at confidence `level`, or the statement that it was not measured."""

    value: float | None
    low: float | None
    high: float | None
    level: float | None
    n: int
    unit: str
    null: Null | None
    method: str
    status: Status = "measured"
    reason: str = ""

    def __post_init__(self) -> None:
        figures = (self.value, self.low, self.high)
        if self.status == "not measured":
            if figures != (None, None, None) or not self.reason:
                raise ValueError("a reading that was not measured has no figures, and says why")
            return
        if any(figure is None or not math.isfinite(figure) for figure in figures):
            raise ValueError(f"a measured reading needs finite value, low and high, got {figures}")
        if not self.low <= self.value <= self.high:  # type: ignore[operator]
            raise ValueError(f"interval [{self.low}, {self.high}] does not hold the value {self.value}")

    @classmethod
    def not_measured(cls, reason: str, *, unit: str, method: str, n: int = 0) -> Reading:
        return cls(None, None, None, None, n, unit, None, method, "not measured", reason)

    def __str__(self) -> str:
        if self.value is None or self.low is None or self.high is None:
            return f"not measured ({self.reason})"
        digits = _digits(self.high - self.low)
        text = f"{self.value:.{digits}f} [{self.low:.{digits}f}, {self.high:.{digits}f}] {self.unit}"
        return (
            text
            if self.null is None
            else f"{text}, null {self.null.value:.{digits}f} [{self.null.low:.{digits}f}, {self.null.high:.{digits}f}]"
        )


def _digits(width: float) -> int:
    """Decimals that the interval's width supports: two significant figures of the width, at least 2 and at most 6."""
    if width <= 0:
        return 3
    return min(6, max(2, 1 - math.floor(math.log10(width))))
