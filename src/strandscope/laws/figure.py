"""A figure as data: axes with their units and series of points. Never pixels: whoever draws it chooses how.

Series of kind "predicted" were made before those of kind "measured"; "control" is the negative control, "guide" a line to see by.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

Kind = Literal["measured", "predicted", "control", "guide"]
Scale = Literal["linear", "log x", "log y", "log"]


@dataclass(frozen=True, slots=True)
class Series:
    """Points (n,), with the ends of their intervals where they have some."""

    name: str
    kind: Kind
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...] | None = None
    high: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        parts = [part for part in (self.x, self.y, self.low, self.high) if part is not None]
        if len({len(part) for part in parts}) != 1 or not self.x:
            raise ValueError(f"series {self.name!r}: got {[len(part) for part in parts]} points, wanted as many of each")
        if not all(np.isfinite(part).all() for part in parts):
            raise ValueError(f"series {self.name!r}: a point is not finite; leave it out")

    @classmethod
    def of(
        cls, name: str, kind: Kind, x: ArrayLike, y: ArrayLike, low: ArrayLike | None = None, high: ArrayLike | None = None
    ) -> Series:
        return cls(name, kind, _plain(x), _plain(y), None if low is None else _plain(low), None if high is None else _plain(high))


@dataclass(frozen=True, slots=True)
class Figure:
    """One pair of axes. `x` and `y` name what stands on them, with the unit in brackets."""

    title: str
    x: str
    y: str
    series: tuple[Series, ...]
    scale: Scale = "linear"

    @classmethod
    def of(cls, title: str, x: str, y: str, series: Sequence[Series], scale: Scale = "linear") -> Figure:
        return cls(title, x, y, tuple(series), scale)

    def to_dict(self) -> dict[str, Any]:
        drawn = [{name: getattr(one, name) for name in ("name", "kind", "x", "y", "low", "high")} for one in self.series]
        return {"title": self.title, "x": self.x, "y": self.y, "scale": self.scale, "series": drawn}


def _plain(values: ArrayLike) -> tuple[float, ...]:
    return tuple(float(value) for value in np.asarray(values, dtype=np.float64).ravel())
