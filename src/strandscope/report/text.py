"""Text for pages and terminals: what anyone wrote is shown whole and can do nothing; curves are drawn with characters."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .finding import Curve, Point

_BARS = "▁▂▃▄▅▆▇█"
# What means something anywhere in a line, or starts a bare link; and what means something at its start.
_ANYWHERE = re.compile(r"([\\`*_\[\]<>|&~$@]|:(?=//)|(?<=www)\.)", re.IGNORECASE)
_AT_START = re.compile(r"^(\d+(?=[.)](?:\s|$))|(?=[#=])|(?=[-+](?:[\s-]|$)))(.)")


def visible(text: str, *, lines: bool = True) -> str:
    """Control, bidirectional and other invisible characters written as escapes, so that no terminal or page obeys them.

    Line breaks and tabs stay where `lines` is true.
    """
    kept = "\n\t" if lines else ""
    return "".join(
        _escape(c) if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp") and c not in kept else c for c in text
    )


def _escape(character: str) -> str:
    named = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
    code = ord(character)
    return named.get(character) or (
        f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
    )


def plain(text: str) -> str:
    """One line of Markdown in which every character stands for itself."""
    return _AT_START.sub(r"\1\\\2", _ANYWHERE.sub(r"\\\1", visible(text, lines=False).strip()))


def fenced(text: str) -> str:
    """A block of Markdown that shows the text as it is; its fence is longer than any run of backticks in it."""
    shown = visible(text)
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", shown)), default=0))
    return f"{fence}text\n{shown}\n{fence}"


def sparkline(points: Sequence[Point], low: float = 0.5, high: float = 1.0) -> str:
    """One bar a site, from `low` or less to `high`."""
    shares = [((point.reading.value or low) - low) / (high - low) for point in points]
    return "".join(_BARS[min(len(_BARS) - 1, max(0, round(share * (len(_BARS) - 1))))] for share in shares)


def curve_lines(curve: Curve, width: int = 50, low: float = 0.3, high: float = 1.0) -> list[str]:
    """A line a site: its AUROC ●, its interval ─, and the band ┊ that the best of all sites exceeds in 5 % of cases by luck."""

    def column(value: float) -> int:
        return min(width - 1, max(0, round((value - low) / (high - low) * (width - 1))))

    name = max(len(point.site) for point in curve.points)
    lines = [f"{'':{name}}  {'':20}  {low:<{width - 3}.1f}{high:.1f}"]
    for point in curve.points:
        value, bottom, top = point.reading.value, point.reading.low, point.reading.high
        if value is None or bottom is None or top is None:
            lines.append(f"{point.site:{name}}  not measured")
            continue
        cells = [" "] * width
        if curve.band is not None:
            cells[column(curve.band)] = "┊"
        cells[column(bottom) : column(top) + 1] = "─" * (column(top) - column(bottom) + 1)
        cells[column(value)] = "●"
        lines.append(f"{point.site:{name}}  {f'{value:.3f} [{bottom:.2f}, {top:.2f}]':20}  {''.join(cells).rstrip()}")
    if curve.band is not None:
        lines.append(
            f"┊ under permuted labels the best of these {len(curve.points)} sites exceeds {curve.band:.3f} in 5 % of cases"
        )
    return lines


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns set flush left, two spaces apart."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
