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

A test may have several figures (`Check`), each with a band of its own: a ratio's, a difference's, one that is open on a side.
They are judged together: consistent if all are, violated if one is, underpowered otherwise. Their intervals are meant to hold
together, so whoever makes them takes a level for as many as there are.

What it does not know: whether the tolerance is a sensible one. It is part of the law, set before the test.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from ..errors import InputError
from ..reading import Reading
from .figure import Figure

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

    def __reduce__(self) -> tuple[type[Law], tuple[str, str, dict[str, str], str, float]]:
        return Law, (self.name, self.formula, dict(self.symbols), self.domain, self.tolerance)  # a mapping proxy is not pickled

    @property
    def band(self) -> tuple[float, float]:
        return 1 / (1 + self.tolerance), 1 + self.tolerance


@dataclass(frozen=True, slots=True)
class Check:
    """One figure of a test: foretold, measured, and what is judged, measured/predicted or their difference (its unit says)."""

    what: str
    predicted: Reading
    reading: Reading
    compared: Reading
    band: tuple[float, float]  # an open side is ±inf

    def __post_init__(self) -> None:
        if not self.band[0] <= self.band[1]:
            raise ValueError(f"check {self.what!r}: band {self.band} holds nothing")

    @property
    def verdict(self) -> Verdict:
        return judge_in(self.compared, self.band)

    def to_dict(self) -> dict[str, Any]:
        figures = {name: reading_dict(getattr(self, name)) for name in ("predicted", "reading", "compared")}
        band = [end if math.isfinite(end) else None for end in self.band]
        return {"what": self.what, **figures, "band": band, "verdict": self.verdict}


def together(checks: Sequence[Check]) -> Verdict:
    """One verdict on several checks."""
    found = {check.verdict for check in checks}
    order: tuple[Verdict, ...] = ("violated", "out of domain", "underpowered", "consistent")
    return next(verdict for verdict in order if verdict in found)


@dataclass(frozen=True, slots=True)
class Control:
    """A negative control: the same test where the outcome is stated beforehand. Its verdict is "passed" if that came out.

    One that must come out as the law itself does says why in `because`.
    """

    what: str
    expected: Verdict
    found: Verdict
    ratio: Reading
    predicted: float | None = None  # where the control's ratio can be computed beforehand
    because: str = ""
    checks: tuple[Check, ...] = ()

    @classmethod
    def of(
        cls, what: str, expected: Verdict, checks: Sequence[Check], because: str = "", predicted: float | None = None
    ) -> Control:
        """From its checks, each of which must come out as expected; the first gives the ratio that is shown."""
        others: list[Verdict] = [check.verdict for check in checks if check.verdict != expected]
        found = others[0] if others else expected
        return cls(what, expected, found, checks[0].compared, predicted, because, tuple(checks))

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
    checks: tuple[Check, ...] = ()
    figure: Figure | None = None

    @classmethod
    def of(
        cls,
        law: Law,
        where: str,
        checks: Sequence[Check],
        control: Control,
        *,
        figure: Figure | None = None,
        reason: str = "",
        details: Mapping[str, Any] | None = None,
    ) -> LawResult:
        """From checks, which are judged together; the first is the one that tables show."""
        first = checks[0]
        return cls(
            law, where, first.predicted, first.reading, first.compared, together(checks), control, reason,
            dict(details or {}), tuple(checks), figure,
        )  # fmt: skip

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
                "because": control.because,
                "checks": [check.to_dict() for check in control.checks],
            },
            "checks": [check.to_dict() for check in self.checks],
            "figure": None if self.figure is None else self.figure.to_dict(),
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
    return judge_in(ratio, law.band)


def judge_in(reading: Reading, band: tuple[float, float]) -> Verdict:
    """The same for a reading of any kind and the band that it must lie in."""
    if reading.low is None or reading.high is None:
        return "out of domain"
    low, high = band
    if low <= reading.low and reading.high <= high:
        return "consistent"
    if reading.high < low or reading.low > high:
        return "violated"
    return "underpowered"
