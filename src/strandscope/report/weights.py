"""Weight matrices against chance, for a terminal and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ..census.weights import MatrixWeights
from ..laws.law import reading_dict
from .text import aligned, visible

SCHEMA = "strandscope/weights/1"


def lines(found: Sequence[MatrixWeights]) -> Iterator[str]:
    """A row a matrix, and how many of them look like chance."""
    head = ("matrix", "shape", "stand out", "of the squared weights", "bulk off by (allowed)", "entries mixed", "law")
    yield from aligned([head, *map(_row, found)])
    yield ""
    kinds = [one.verdict for one in found]
    counts = ", ".join(f"{word} {kinds.count(word)}" for word in ("consistent", "violated", "out of domain") if word in kinds)
    yield f"of {len(found)} matrices: {counts}"
    yield from dict.fromkeys(visible(f"{one.name}: {one.reason}", lines=False) for one in found if one.reason)


def _row(one: MatrixWeights) -> tuple[str, ...]:
    name, shape = visible(one.name, lines=False), f"{one.shape[0]} × {one.shape[1]}"
    if one.outliers.value is None or one.held.value is None or one.distance.value is None or one.control.value is None:
        return name, shape, "not measured", "", "", "", one.verdict
    control = f"{one.control.value:.0f} stand out"
    bulk = f"{one.distance.value:.3f} ({one.allowed:.3f})"
    return name, shape, f"{one.outliers.value:.0f}", f"{one.held.value:.1%}", bulk, control, one.verdict


def as_json(found: Sequence[MatrixWeights]) -> dict[str, Any]:
    return {"schema": SCHEMA, "matrices": [_matrix(one) for one in found]}


def _matrix(one: MatrixWeights) -> dict[str, Any]:
    readings = {name: reading_dict(getattr(one, name)) for name in ("bulk", "outliers", "held", "distance")}
    control = {"what": "entries in another order", "outliers": reading_dict(one.control)}
    return {
        "name": one.name,
        "shape": list(one.shape),
        "verdict": one.verdict,
        "reason": one.reason,
        **readings,
        "allowed": one.allowed,
        "negative_control": control,
    }
