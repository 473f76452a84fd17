"""Series of readings, as every section draws them."""

from __future__ import annotations

from collections.abc import Sequence

from ...reading import Reading
from .spec import Mark, Role
from .words import said


def mark(name: str, role: Role, x: Sequence[str | float], readings: Sequence[Reading], about: Sequence[str] = ()) -> Mark:
    """One point a reading; one that was not measured is a gap that says why. `about` names the points where x does not."""
    return Mark(
        name=name,
        role=role,
        x=tuple(x),
        y=tuple(one.value for one in readings),
        low=tuple(one.low for one in readings),
        high=tuple(one.high for one in readings),
        said=tuple(said(where, one) for where, one in zip(about or map(str, x), readings, strict=True)),
    )
