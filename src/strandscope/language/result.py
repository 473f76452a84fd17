"""What a study of context says: losses by length of context, what counting reaches, and the figures read off both."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from ..laws.figure import Figure
from ..laws.law import LawResult, reading_dict
from ..reading import Reading

SCHEMA = "strandscope/context/1"


@dataclass(frozen=True, slots=True)
class Point:
    """The network given k tokens. `gain` is by how much its loss is below that at k/2; `equal` the order of n-grams, counted
    elsewhere, that has the same loss. `exact` says whether every target had exactly k tokens, or k within a sixteenth."""

    k: int
    exact: bool
    loss: Reading
    gain: Reading
    equal: Reading


@dataclass(frozen=True, slots=True)
class Counting:
    """A counted model on the same targets. `gap` is how much its loss is above the network's at the longest context, `worth` the
    tokens of context that give the network the same loss."""

    name: str
    order: int | None  # None: of no bound
    loss: Reading
    gap: Reading
    worth: Reading


@dataclass(frozen=True, slots=True)
class Curve:
    """One source of documents.

    `used` is the longest context that still helps; `exponent` and `limit` are γ and L∞ of L(k) = L∞ + A k^−γ. `order` is the
    effective order of counting over `everywhere`, which are its losses by order over all tokens of the source.
    """

    name: str
    about: str
    digest: str
    documents: int
    targets: int
    bytes_per_token: float
    points: tuple[Point, ...]
    counting: tuple[Counting, ...]
    used: Reading
    exponent: Reading
    limit: Reading
    order: Reading
    everywhere: tuple[Reading, ...]
    match: float  # tokens, median length of the longest match
    law: LawResult | None
    figure: Figure

    def at(self, k: int) -> Point:
        return next(point for point in self.points if point.k == k)

    @property
    def deepest(self) -> Point:
        return self.points[-1]


@dataclass(frozen=True, slots=True)
class Study:
    """All curves of one network. `counted_in` says what n-grams were made from."""

    subject: str
    fingerprint: str
    dtype: str
    device: str
    seed: int
    level: float
    span: int
    slack: float
    counted_in: dict[str, Any]
    curves: tuple[Curve, ...]
    seconds: float
    versions: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, for context.json."""
        return {"schema": SCHEMA, **_plain(self)}


def _plain(value: Any) -> Any:
    if isinstance(value, Reading):
        return reading_dict(value)
    if isinstance(value, LawResult | Figure):
        return value.to_dict()
    if isinstance(value, Point | Counting | Curve | Study):
        return {one.name: _plain(getattr(value, one.name)) for one in fields(value)}
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    return value
