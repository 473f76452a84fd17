"""The participation ratio of a metric that is known only through random rows, with its interval.

Rows g_1…g_K are independent with E g gᵀ = M (gradients of log-probabilities of drawn tokens: M = F; Jacobian rows Jᵀu with u
normal: M = JᵀJ). Everything is read from pairs of different rows, so that nothing grows with the number of rows by itself:

    tr M = ⟨‖g_i‖²⟩     tr M² = ⟨(g_i·g_j)²⟩_{i≠j}     (tr M)² = ⟨‖g_i‖²‖g_j‖²⟩_{i≠j}     PR = (tr M)² / tr M²

PR counts the directions that M spreads over (1 to d). It belongs to the coordinates in which it was taken: a reading says "raw"
or "whitened".

What it does not know: a metric whose weight sits in outcomes that were never drawn looks like a small and simple one. The rows'
mean gives it away (for scores it is 0), and the number of rows that carry the trace; where either speaks, the reading is "not
measured". Intervals are those of `pairs`, for 32 rows and more.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from scipy.stats import t as student
from torch import Tensor

from ..errors import InputError
from ..linalg import finite
from ..reading import Reading
from .pairs import log_ratio

LEAST_ROWS = 16  # fewer rows give no interval that could be believed
LEAST_CARRIERS = 8.0  # rows that carry the trace, (Σ‖g‖²)²/Σ‖g‖⁴
MOST_DRIFT = 8.0  # standard errors of the rows' mean from 0; of scores, beyond it rare outcomes were missed
_BLOCK = 1 << 22  # entries of Gram matrices held at a time; fixed, so that results never depend on free memory
_TENSORS = ("value", "log", "variance", "low", "high", "trace", "square", "carriers", "drift")
_METHOD = "from {rows} rows in pairs, jackknife of the logarithm with the pairs' own noise counted once"


@dataclass(frozen=True, slots=True)
class Participation:
    """The participation ratio of one metric from K rows.

    Attributes:
        value: exp(log); `log`: of the ratio, its second-order bias taken off; `variance`: of `log`.
        low, high: 95 % interval of the ratio.
        trace: mean of ‖g‖²; `square`: tr M² from pairs; `rows`: K.
        carriers: how many rows, effectively, hold the trace.
        drift: the rows' mean, as unbiased ‖mean‖² in standard errors under a mean of 0; of scores it should be small.
    """

    value: float
    log: float
    variance: float
    low: float
    high: float
    trace: float
    square: float
    rows: int
    carriers: float
    drift: float

    def reading(
        self, *, what: str = "participation ratio", coordinates: str = "raw", floor: float = 0.0, scores: bool = True
    ) -> Reading:
        """The ratio as a 95 % reading, or why there is none.

        Args:
            floor: of the trace, in its own unit; below it the dimension means nothing.
            scores: the rows have mean 0 (gradients of log-probabilities do), so that a mean off 0 tells of outcomes missed.
        """
        method, unit = f"{what} {_METHOD.format(rows=self.rows)}; {coordinates} coordinates", "dimensions"
        why = self.unreadable(floor, scores)
        if why:
            return Reading.not_measured(why, unit=unit, method=method, n=self.rows)
        return Reading(self.value, self.low, self.high, 0.95, self.rows, unit, None, method)

    def unreadable(self, floor: float = 0.0, scores: bool = True) -> str:
        """Why this says nothing about the metric, or ""."""
        if self.trace <= floor:
            return f"the trace {self.trace:.3g} is not above the floor {floor:.3g}: the output hardly depends on the state"
        if not math.isfinite(self.log):
            return "no two rows have anything in common, so tr M² could not be told from 0; draw more rows"
        if self.rows < LEAST_ROWS:
            return f"{self.rows} rows; at least {LEAST_ROWS} are needed"
        if self.carriers < LEAST_CARRIERS:
            return f"{self.carriers:.1f} of {self.rows} rows carry the trace; at least {LEAST_CARRIERS:.0f} must: draw more rows"
        if scores and self.drift > MOST_DRIFT:
            return (
                "the mean of the scores is far from 0: rare outcomes that carry the metric were not drawn; take the exact metric"
            )
        return ""


@dataclass(frozen=True, slots=True)
class Participations:
    """Participation ratios of many metrics at once; every tensor is (N,), NaN where there is no ratio; `p[i]` is one of them."""

    value: Tensor
    log: Tensor
    variance: Tensor
    low: Tensor
    high: Tensor
    trace: Tensor
    square: Tensor
    rows: int
    carriers: Tensor
    drift: Tensor

    def __len__(self) -> int:
        return len(self.log)

    def __getitem__(self, index: int) -> Participation:
        def one(values: Tensor) -> float:
            return float(values[index])

        return Participation(
            one(self.value), one(self.log), one(self.variance), one(self.low), one(self.high), one(self.trace), one(self.square),
            self.rows, one(self.carriers), one(self.drift),
        )  # fmt: skip

    def cpu(self) -> Participations:
        """The same in the machine's own memory, for who looks at single figures."""
        return replace(self, **{name: getattr(self, name).cpu() for name in _TENSORS})

    def readable(self, floor: float = 0.0, scores: bool = True) -> Tensor:
        """(N,) whether each says anything about its metric (`Participation.unreadable`)."""
        return torch.tensor([not self[i].unreadable(floor, scores) for i in range(len(self))], dtype=torch.bool)


def participations(rows: Tensor) -> Participations:
    """Participation ratios of N metrics from rows (N, K, d)."""
    wide = checked_rows(rows, 3)
    some = max(1, _BLOCK // wide.shape[1] ** 2)
    parts = [_from_grams(part @ part.transpose(-1, -2)) for part in wide.split(some)]
    if len(parts) == 1:
        return parts[0]
    joined = {name: torch.cat([getattr(part, name) for part in parts]) for name in _TENSORS}
    return Participations(rows=wide.shape[1], **joined)


def participation(rows: Tensor | None = None, *, gram: Tensor | None = None) -> Participation:
    """Participation ratio of one metric from its rows (K, d), or from their Gram matrix (K, K).

    Raises:
        InputError: fewer than four rows, a NaN or an infinity in one, nothing but zeros.
    """
    if (rows is None) == (gram is None):
        raise InputError("participation: give either rows (K, d) or gram (K, K), and not both")
    given = checked_rows(rows, 2) if rows is not None else finite(gram, "gram")  # type: ignore[arg-type]
    inner = given @ given.T if rows is not None else given
    if inner.ndim != 2 or inner.shape[0] != inner.shape[1] or len(inner) < 4:
        raise InputError(f"gram: got shape {tuple(inner.shape)}, wanted a square matrix of at least four rows")
    if not bool((inner.diagonal() > 0).any()):
        raise InputError(
            "rows: every one is zero; the output does not depend on the state here, so there is no dimension to read"
        )
    return _from_grams(inner[None])[0]


def _from_grams(gram: Tensor) -> Participations:
    """From Gram matrices (N, K, K) in float64."""
    rows = gram.shape[-1]
    norms = gram.diagonal(dim1=-2, dim2=-1)
    trace = norms.mean(-1)
    unit = gram / torch.where(trace > 0, trace, 1.0)[:, None, None]  # rows of the order of 1, whatever their unit
    lengths = unit.diagonal(dim1=-2, dim2=-1)
    squares = unit.square()
    ratio = log_ratio(lengths[:, :, None] * lengths[:, None, :], squares)
    low, high = ratio.interval()
    pairs = rows * (rows - 1)
    square = (squares.sum((-1, -2)) - lengths.square().sum(-1)) / pairs
    mean = (unit.sum((-1, -2)) - lengths.sum(-1)) / pairs
    carriers = lengths.sum(-1).square() / lengths.square().sum(-1).clamp_min(1e-300)
    drift = mean / (2 * square / pairs).clamp_min(1e-300).sqrt()
    return Participations(
        ratio.log.exp(), ratio.log, ratio.variance, low.exp(), high.exp(), trace, square * trace.square(), rows, carriers, drift
    )


def participation_of(matrix: Tensor) -> float:
    """(tr M)²/tr M² of a given symmetric positive semidefinite matrix (d, d): exact."""
    wide = finite(matrix, "matrix")
    square = float(wide.square().sum())
    if not square > 0:
        raise InputError("matrix: it is zero; there is no dimension to read")
    return float(wide.diagonal().sum()) ** 2 / square


def trace(rows: Tensor, *, unit: str = "nats/unit²", what: str = "trace") -> Reading:
    """tr M as the mean of ‖g‖², with a 95 % interval on a logarithmic scale."""
    wide = checked_rows(rows, 2)
    lengths = wide.square().sum(1)
    mean, method = float(lengths.mean()), f"{what}: mean squared norm of {len(rows)} rows"
    if not mean > 0:
        return Reading.not_measured("every row is zero", unit=unit, method=method, n=len(rows))
    reach = float(student.ppf(0.975, len(rows) - 1)) * float(lengths.std()) / (mean * len(rows) ** 0.5)
    return Reading(mean, mean * math.exp(-reach), mean * math.exp(reach), 0.95, len(rows), unit, None, method)


def checked_rows(rows: Tensor, axes: int) -> Tensor:
    """Rows in float64, at least four of them."""
    shape = "(contexts, rows, d)" if axes == 3 else "(rows, d)"
    if rows.ndim != axes:
        raise InputError(f"rows: got shape {tuple(rows.shape)}, wanted {shape}")
    if rows.shape[-2] < 4 or 0 in rows.shape:
        raise InputError(f"rows: got {rows.shape[-2]}, wanted at least 4 (pairs are compared); draw more")
    return finite(rows, "rows")
