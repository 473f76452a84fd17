"""How far two subspaces have the same directions, when one of them emerged, and how certain either is.

Alignment of spans V (d, r) and W (d, s): ‖VᵀW‖²_F / min(r, s), the mean squared cosine of the principal angles: 1 where one holds
the other, max(r, s)/d on average between a random subspace and a fixed one. Rotation is one minus the alignment of a site's
features at two records. Intervals are jackknives over blocks of the batch's rows, the same block left out on both sides.

Emergence is the crossing after which alignment stays above half of its last value. It is read between the two records that
bracket the crossing; its interval goes from the last record that is below with its whole interval to the first from which on all
are above with theirs. Each of those intervals is one of 95 %; no confidence is claimed for the two together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from scipy.stats import beta
from torch import Tensor

from ..reading import Null, Reading
from .features import BLOCKS, jackknifed

_METHOD = "mean squared cosine of principal angles"


@dataclass(frozen=True, slots=True)
class Subspace:
    """Top directions (d, r) at a site and step, and those without each block of rows (blocks, d, r), in float64."""

    basis: Tensor
    without: Tensor
    rows: int

    @classmethod
    def fixed(cls, basis: Tensor, rows: int) -> Subspace:
        """One that is given and not estimated."""
        return cls(basis, basis.expand(BLOCKS, *basis.shape), rows)


def alignment(one: Subspace, other: Subspace) -> Reading:
    """Their alignment, beside that of a random subspace."""
    first, second = one.basis.shape[1], other.basis.shape[1]
    pairs = [(one.basis, other.basis), *zip(one.without, other.without, strict=True)]
    values = [float((left.T @ right).square().sum()) / min(first, second) for left, right in pairs]
    reading = jackknifed([min(value, 1.0) for value in values], one.rows, "", _METHOD, (0.0, 1.0))
    return replace(reading, null=chance(one.basis.shape[0], first, second))


def rotation(one: Subspace, other: Subspace) -> Reading:
    """1 − alignment of a site's features at two records."""
    kept = alignment(one, other)
    assert kept.value is not None and kept.low is not None and kept.high is not None
    return replace(kept, value=1 - kept.value, low=1 - kept.high, high=1 - kept.low, null=None, method=f"1 − {kept.method}")


def chance(d: int, r: int, s: int, level: float = 0.95) -> Null | None:
    """Alignment of a fixed subspace with a uniformly random one: a beta distribution with its exact mean and variance.

    E tr(PQ) = rs/d and Var tr(PQ) = 2rs(d − r)(d − s)/(d²(d − 1)(d + 2)) of projectors of ranks r and s; exact for r = s = 1.
    """
    least = min(r, s)
    mean = r * s / d / least
    variance = 2 * r * s * (d - r) * (d - s) / (d**2 * (d - 1) * (d + 2)) / least**2 if d > 1 else 0.0
    if not variance > 0:
        return None
    weight = mean * (1 - mean) / variance - 1
    law = beta(mean * weight, (1 - mean) * weight)
    low, high = float(law.ppf(0.5 - level / 2)), float(law.ppf(0.5 + level / 2))
    return Null(mean, low, high, level, 0, None, "a uniformly random subspace (beta distribution of the exact mean and variance)")


def emergence(steps: Sequence[int], aligned: Sequence[Reading | None], what: str = "the last features") -> Reading:
    """The step from which on the alignment stays above half of its last value."""
    method = f"crossing of half of the last alignment with {what}, between the records that bracket it"
    pairs = [(step, one) for step, one in zip(steps, aligned, strict=True) if one is not None and one.value is not None]

    def none(why: str) -> Reading:
        return Reading.not_measured(why, unit="steps", method=method, n=len(pairs))

    if len(pairs) < 3:
        return none(f"{len(pairs)} records; at least 3 are needed")
    last = pairs[-1][1]
    null = last.null
    if null is not None and last.low is not None and last.low <= null.high:
        return none("the last alignment is no larger than a random subspace's")
    half = _of(last.value) / 2
    above = [_of(one.value) > half for _, one in pairs]
    first = max((number + 1 for number, is_above in enumerate(above) if not is_above), default=0)
    if first == 0:
        return none(f"above half of its last value from the first record (step {pairs[0][0]}) on")
    if first == len(pairs):
        return none("it never stays above half of its last value")
    (left, before), (right, after) = pairs[first - 1], pairs[first]
    low_value, high_value = _of(before.value), _of(after.value)
    value = left + (right - left) * (half - low_value) / (high_value - low_value)
    low = max((step for step, one in pairs if step <= left and _of(one.high) < half), default=pairs[0][0])
    sure = max((number + 1 for number, (_, one) in enumerate(pairs) if _of(one.low) <= half), default=0)
    high = pairs[min(max(sure, first), len(pairs) - 1)][0]
    return Reading(value, float(min(low, value)), float(max(high, value)), None, len(pairs), "steps", None, method)


def _of(figure: float | None) -> float:
    assert figure is not None
    return figure
