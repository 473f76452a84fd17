"""What a law is, what comes of testing it, and the test that decides.

A `Law` states a formula, its symbols with their units, and where it holds. A `LawResult` is one test of it: the figure it
predicts, made before the data it is tested on are looked at, the figure measured, their ratio, and a negative control, which is
the same test where its maker has said beforehand what must come out (a law that cannot fail where it should says nothing where
it holds).

The verdict is an equivalence test. With tolerance τ the band is [1/(1+τ), 1+τ]; the interval is that of measured/predicted,
with the prediction's own uncertainty in it:

    consistent     the whole interval lies in the band: whatever the truth, it is within tolerance;
    violated       the whole interval lies outside the band: the law is off by more than its tolerance;
    underpowered   the interval crosses an edge of the band: the data cannot tell;
    out of domain  the law does not speak here, or something it needs was not measured (`reason` says which).

At a 95 % interval either of the first two is wrong in at most one test of twenty (2.5 % at each edge). A deviation that is
significant but may be smaller than the tolerance is "underpowered", not "violated": the band is what the law promises.

What it does not know: whether the tolerance is a sensible one. It is part of the law, set before the test.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from ..errors import InputError
from ..reading import Reading

Verdict = Literal["consistent", "violated", "underpowered", "out of domain"]


@dataclass(frozen=True, slots=True)
class Law:
    """A formula, its symbols with units, where it holds, and how far measured/predicted may be from 1."""

    name: str
    formula: str
    symbols: Mapping[str, str]  # symbol -> what it is (unit)
    domain: str
    tolerance: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "symbols", MappingProxyType(dict(self.symbols)))
        if not self.tolerance > 0:
            raise InputError(f"tolerance: got {self.tolerance} for the law {self.name!r}, wanted a positive share, such as 0.1")

    @property
    def band(self) -> tuple[float, float]:
        return 1 / (1 + self.tolerance), 1 + self.tolerance


@dataclass(frozen=True, slots=True)
class Control:
    """A negative control: the same test where the outcome is stated beforehand. Its verdict is "passed" if that came out."""

    what: str
    expected: Verdict
    found: Verdict
    ratio: Reading
    predicted: float | None = None  # where the control's ratio can be computed beforehand

    @property
    def verdict(self) -> Literal["passed", "failed"]:
        return "passed" if self.found == self.expected else "failed"


@dataclass(frozen=True, slots=True)
class LawResult:
    """One test of a law at one place: what was predicted, what was measured, their ratio, the control, the verdict."""

    law: Law
    where: str  # what it was tested on: a site, a network
    predicted: Reading
    reading: Reading  # measured
    ratio: Reading  # measured / predicted, with the uncertainty of both
    verdict: Verdict
    control: Control
    reason: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)  # JSON-able, for the report: by block, by context, by size

    @property
    def name(self) -> str:
        return self.law.name

    def to_dict(self) -> dict[str, Any]:
        """One entry of `law run --json`."""
        control = self.control
        return {
            "name": self.name,
            "where": self.where,
            "formula": self.law.formula,
            "symbols": dict(self.law.symbols),
            "domain": self.law.domain,
            "tolerance": self.law.tolerance,
            "verdict": self.verdict,
            "reason": self.reason,
            "reading": reading_dict(self.reading),
            "predicted": reading_dict(self.predicted),
            "ratio": reading_dict(self.ratio),
            "negative_control": {
                "what": control.what,
                "expected": control.expected,
                "found": control.found,
                "ratio": reading_dict(control.ratio),
                "predicted": control.predicted,
                "verdict": control.verdict,
            },
            "details": dict(self.details),
        }


def laws_json(results: list[LawResult]) -> dict[str, Any]:
    """The shape that DESIGN.md publishes: {"laws": [{"name", "verdict", "reading", "predicted", "negative_control"}]}."""
    return {"laws": [result.to_dict() for result in results]}


def reading_dict(reading: Reading) -> dict[str, Any]:
    null = reading.null
    return {
        "value": reading.value,
        "low": reading.low,
        "high": reading.high,
        "level": reading.level,
        "n": reading.n,
        "unit": reading.unit,
        "null": None if null is None else {name: getattr(null, name) for name in null.__slots__},
        "method": reading.method,
        "status": reading.status,
        "reason": reading.reason,
    }


def judge(ratio: Reading, law: Law) -> Verdict:
    """The verdict on measured/predicted by the test in this module's docstring."""
    if ratio.low is None or ratio.high is None:
        return "out of domain"
    low, high = law.band
    if low <= ratio.low and ratio.high <= high:
        return "consistent"
    if ratio.high < low or ratio.low > high:
        return "violated"
    return "underpowered"
