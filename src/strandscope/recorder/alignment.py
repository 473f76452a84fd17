"""How much of a network's response runs along given directions, how far its own turn, and when they emerged.

Alignment of the features M at a record with a subspace W (d, k): tr(WᵀMW)/tr M, the share of the response that W holds. With the
last record's r leading directions in the place of W it ends at the share that they hold of their own. It is smooth in M, where
the angle between two subspaces jumps as two near eigenvalues change places. M is kept as its R leading pairs, so what lies beyond
them counts as outside W. A uniformly random W of its rank holds k/d.

Rotation between two records is 1 − ‖VᵀW‖²_F/r of their r leading directions: one minus the mean squared cosine of the principal
angles.

Emergence is the crossing after which alignment stays above half-way from its first value to its last, read by interpolation
between the two records that bracket it.

Intervals are jackknives over blocks of the batch's rows, the same block left out everywhere; that of an emergence, of which the
whole curve without each block gives one, is never narrower than the records that bracket it. They speak of other rows, not of
other seeds of training. On planted rows they hold the truth in .93 to .96 (alignment, 64 and 256 Gaussian rows), .96 to .99
(rotation) and 1.00 (emergence); where few rows carry the trace they are too narrow, and below eight there is no reading.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from scipy.stats import beta
from torch import Tensor

from ..reading import Null, Reading
from ..statistics.participation import LEAST_CARRIERS
from .features import jackknifed


@dataclass(frozen=True, slots=True)
class Kept:
    """The features at a site and step: leading pairs of M from all rows of the batch, then without each block.

    Attributes:
        vectors: (1 + blocks, d, R), float64; `values`: (1 + blocks, R), descending; `traces`: (1 + blocks,).
        rank: r, the directions that count as the features; `rows`: of the batch; `carriers`: how many carry the trace.
    """

    vectors: Tensor
    values: Tensor
    traces: Tensor
    rank: int
    rows: int
    carriers: float

    @property
    def leading(self) -> Tensor:
        """(1 + blocks, d, r)."""
        return self.vectors[..., : self.rank]

    def shares(self, directions: Tensor) -> list[float]:
        """The share of the response that directions (d, k), or (1 + blocks, d, k), hold: of all rows, then without each block."""
        along = (self.vectors.mT @ directions).square().sum(-1)
        return ((along * self.values).sum(-1) / self.traces).clamp(0.0, 1.0).tolist()


def alignment(features: Kept, directions: Tensor, what: str) -> Reading:
    """The share of the response along directions (d, k) or (1 + blocks, d, k), beside that along random ones."""
    method = f"share of the response along {what}, of its {features.values.shape[1]} leading directions"
    if features.carriers < LEAST_CARRIERS:
        return _few(features, "share of the response", method)
    reading = jackknifed(features.shares(directions), features.rows, "share of the response", method, (0.0, 1.0))
    return replace(reading, null=chance(features, directions.shape[-1]))


def rotation(one: Kept, other: Kept) -> Reading:
    """1 − the mean squared cosine of the principal angles between the leading directions of a site at two records.

    Sampling turns directions too, so the jackknife's estimate of that bias is taken off.
    """
    method = "1 − mean squared cosine of principal angles, bias taken off"
    least = min(one, other, key=lambda kept: kept.carriers)
    if least.carriers < LEAST_CARRIERS:
        return _few(least, "", method)
    turned = 1 - (one.leading.mT @ other.leading).square().sum((-1, -2)) / one.rank
    blocks = len(turned) - 1
    turned[0] = (blocks * turned[0] - (blocks - 1) * turned[1:].mean()).clamp(0.0, 1.0)
    return jackknifed(turned.tolist(), one.rows, "", method, (0.0, 1.0))


def _few(features: Kept, unit: str, method: str) -> Reading:
    why = f"{features.carriers:.1f} rows carry the trace; at least {LEAST_CARRIERS:.0f} must: give the batch more rows"
    return Reading.not_measured(why, unit=unit, method=method, n=features.rows)


def chance(features: Kept, k: int, level: float = 0.95) -> Null | None:
    """The share of the response along k uniformly random directions: a beta distribution of the exact mean and variance.

    E tr(PM)/tr M = k/d and Var = 2k(d − k)/(d(d − 1)(d + 2)) · (1/PR − 1/d), PR = (tr M)²/tr M².
    """
    d = features.vectors.shape[1]
    spread = float((features.values[0] / features.traces[0]).square().sum()) - 1 / d
    mean = k / d
    variance = 2 * k * (d - k) / (d * (d - 1) * (d + 2)) * spread if d > 1 else 0.0
    if not variance > 0:
        return None
    weight = mean * (1 - mean) / variance - 1
    law = beta(mean * weight, (1 - mean) * weight)
    low, high = float(law.ppf(0.5 - level / 2)), float(law.ppf(0.5 + level / 2))
    return Null(mean, low, high, level, 0, None, "uniformly random directions (beta distribution of the exact mean and variance)")


def emergence(steps: Sequence[int], shares: Sequence[Sequence[float]], rows: int, what: str) -> Reading:
    """The step from which on alignment stays above half-way from its first value to its last.

    Args:
        shares: for each step (1 + blocks): of all rows of the batch, then without each block.
    """
    method = f"crossing of half-way from the first to the last share of the response along {what}"

    def none(why: str) -> Reading:
        return Reading.not_measured(why, unit="steps", method=method, n=rows)

    if len(steps) < 3:
        return none(f"{len(steps)} records; at least 3 are needed")
    curves = torch.tensor(shares, dtype=torch.float64).T
    gained = jackknifed((curves[:, -1] - curves[:, 0]).tolist(), rows, "", "")
    assert gained.low is not None
    if gained.low <= 0:
        return none(
            f"the last share of the response, {float(curves[0, -1]):.2f}, is not above the first, {float(curves[0, 0]):.2f}"
        )
    crossings = [_crossing(steps, curve.tolist()) for curve in curves]
    found = jackknifed([crossing.step for crossing in crossings], rows, "steps", method, (float(steps[0]), float(steps[-1])))
    assert found.low is not None and found.high is not None
    first = crossings[0]
    return replace(found, low=min(found.low, float(first.after)), high=max(found.high, float(first.by)))


@dataclass(frozen=True, slots=True)
class _Crossing:
    step: float
    after: int  # the last record that is below
    by: int  # the first from which on all are above


def _crossing(steps: Sequence[int], curve: list[float]) -> _Crossing:
    half = (curve[0] + curve[-1]) / 2
    number = max((number for number, value in enumerate(curve[:-1]) if value <= half), default=0)
    left, right = curve[number], curve[number + 1]
    part = (half - left) / (right - left) if right > left else 0.5
    after, by = steps[number], steps[number + 1]
    return _Crossing(after + (by - after) * min(max(part, 0.0), 1.0), after, by)
