"""Count, mean and covariance, of all rows or of each class (Chan, Golub & LeVeque 1983: merged about the joint mean)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...errors import InputError
from .checks import LIMIT, afford, partner, rows_of, same

_BLOCKS, _NARROW = 4, 64  # columns are multiplied in so many blocks, none narrower
_SKETCH = "take outer_products(d, 'sketch', …), which holds d·m numbers, or fewer coordinates"


@dataclass(frozen=True, slots=True)
class Moment:
    """n rows' mean (d,) and their scatter Σ(x − mean)(x − mean)ᵀ (d, d)."""

    n: int
    mean: Tensor
    scatter: Tensor

    @property
    def covariance(self) -> Tensor:
        """(d, d) unbiased covariance; two rows at least."""
        if self.n < 2:
            raise InputError(f"rows: got {self.n}, wanted at least 2 for a covariance")
        return self.scatter / (self.n - 1)

    @property
    def variance(self) -> Tensor:
        """(d,) the covariance's diagonal."""
        return self.covariance.diagonal()


class Moments:
    """Mean and covariance of rows (n, d)."""

    def __init__(self, d: int, *, limit: int = LIMIT) -> None:
        afford(8 * d * d, limit, f"a covariance of {d} coordinates", _SKETCH)
        self.d, self.n = d, 0
        self.mean = torch.zeros(d, dtype=torch.float64)
        self.scatter = torch.zeros(d, d, dtype=torch.float64)

    def update(self, batch: Tensor) -> None:
        rows = rows_of(batch, self.d).double()
        if len(rows):
            mean = rows.mean(0)
            centred = rows - mean
            self._join(len(rows), mean, square(centred))

    def merge(self, other: Moments) -> None:
        partner(self, other)
        same({"d": self.d}, {"d": other.d})
        self._join(other.n, other.mean, other.scatter)

    def _join(self, n: int, mean: Tensor, scatter: Tensor) -> None:
        if n:
            apart, total = mean - self.mean, self.n + n
            self.mean = self.mean + apart * (n / total)
            self.scatter.add_(scatter).addr_(apart, apart, alpha=self.n * n / total)
            self.n = total

    def result(self) -> Moment:
        return Moment(self.n, self.mean.clone(), self.scatter.clone())

    def state_dict(self) -> dict[str, Any]:
        return {"d": self.d, "n": self.n, "mean": self.mean.clone(), "scatter": self.scatter.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        same({"d": self.d}, {"d": state["d"]}, "load_state_dict")
        self.n, self.mean, self.scatter = state["n"], state["mean"].clone(), state["scatter"].clone()


def square(rows: Tensor) -> Tensor:
    """rowsᵀ rows (d, d) from blocks of columns, each pair of them multiplied once: five eighths of the multiplications."""
    d, made = rows.shape[1], torch.empty(rows.shape[1], rows.shape[1], dtype=rows.dtype)
    width = max(_NARROW, -(-d // _BLOCKS))
    for start in range(0, d, width):
        stop = min(start + width, d)
        made[start:stop, start:] = rows[:, start:stop].T @ rows[:, start:]
        made[stop:, start:stop] = made[start:stop, stop:].T
    return made


@dataclass(frozen=True, slots=True)
class ClassMoment:
    """Moments of each class; a class without rows has n 0."""

    classes: tuple[Moment, ...]

    @property
    def counts(self) -> tuple[int, ...]:
        return tuple(part.n for part in self.classes)

    @property
    def means(self) -> Tensor:
        """(classes, d)."""
        return torch.stack([part.mean for part in self.classes])

    @property
    def within(self) -> Tensor:
        """(d, d) covariance within classes, pooled and unbiased."""
        rows, filled = sum(self.counts), sum(n > 0 for n in self.counts)
        if rows <= filled:
            raise InputError(f"rows: got {rows} of {filled} classes, wanted more rows than classes for a covariance within them")
        return torch.stack([part.scatter for part in self.classes]).sum(0) / (rows - filled)


class ClassMoments:
    """Mean and covariance of every class of rows (n, d) with codes (n,) from 0."""

    def __init__(self, classes: int, d: int, *, limit: int = LIMIT) -> None:
        afford(8 * classes * d * d, limit, f"{classes} covariances of {d} coordinates", _SKETCH)
        self.d, self.parts = d, [Moments(d, limit=limit) for _ in range(classes)]

    def update(self, batch: Tensor, labels: Tensor) -> None:
        rows = rows_of(batch, self.d)
        if labels.shape != (len(rows),) or labels.is_floating_point():
            raise InputError(f"labels: got shape {tuple(labels.shape)} of {labels.dtype}, wanted {len(rows)} whole numbers")
        if len(rows) and not 0 <= int(labels.min()) <= int(labels.max()) < len(self.parts):
            raise InputError(f"labels: got {int(labels.min())} to {int(labels.max())}, wanted 0 to {len(self.parts) - 1}")
        codes = labels.cpu()
        for code, part in enumerate(self.parts):
            part.update(rows[codes == code])

    def merge(self, other: ClassMoments) -> None:
        partner(self, other)
        same({"d": self.d, "classes": len(self.parts)}, {"d": other.d, "classes": len(other.parts)})
        for mine, others in zip(self.parts, other.parts, strict=True):
            mine.merge(others)

    def result(self) -> ClassMoment:
        return ClassMoment(tuple(part.result() for part in self.parts))

    def state_dict(self) -> dict[str, Any]:
        return {"d": self.d, "parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        same({"d": self.d, "classes": len(self.parts)}, {"d": state["d"], "classes": len(state["parts"])}, "load_state_dict")
        for part, saved in zip(self.parts, state["parts"], strict=True):
            part.load_state_dict(saved)
