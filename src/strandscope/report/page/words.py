"""Figures in words, as all sections say them."""

from __future__ import annotations

from ...reading import Reading
from ..verdict import brief as brief


def said(where: str, reading: Reading) -> str:
    """What one point says: where, how much, how sure, from how many."""
    if reading.value is None:
        return f"{where}: not measured ({reading.reason})"
    level = "" if reading.level is None else f", {reading.level:.0%} interval"
    return f"{where}: {three(reading)} {reading.unit}{level}, n = {reading.n}"


def three(reading: Reading) -> str:
    """Value and interval in three significant figures."""
    if reading.value is None or reading.low is None or reading.high is None:
        return f"not measured ({reading.reason})"
    value, low, high = (_short(figure) for figure in (reading.value, reading.low, reading.high))
    return value if reading.low == reading.high else f"{value} [{low}, {high}]"


def _short(value: float) -> str:
    if value != 0 and not 1e-3 <= abs(value) < 1e5:
        return f"{value:.2e}"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def null(reading: Reading) -> str:
    if reading.null is None:
        return "none"
    return f"{_short(reading.null.value)} [{_short(reading.null.low)}, {_short(reading.null.high)}]"


def caveat(reason: str) -> str:
    return f"not measured: {reason}"
