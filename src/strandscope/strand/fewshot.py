"""How well few examples fix a direction: the law of the difference of means, predicted from a pilot and checked on other rows.

With n examples a class the difference of means is ŵ = w + e, and the part of e that turns it is

    E‖ŵ_⊥‖² / ‖w‖² = C/n,   C = (tr Z − w₀ᵀ Z w₀) / ‖w‖²,   w₀ = w/‖w‖

where Z = Σ₁ + Σ₀ is n times the covariance of e. It is the mean square of the tangent's numerator over the true length: tan² of
the angle itself has no finite mean. The angle that is reported is arctan √(C/n); ambient dimension enters only through tr Z.

Rows that share a group are not independent, so groups are the units of Z: with residuals summed by group and class, p_g and m_g,
Z = Σ_g z_g z_gᵀ, z_g = p_g/√n₁ − m_g/√n₀, which counts what rows of a group have in common, and what cancels where a group holds
both classes. More examples then means more groups like these. Classes may differ in size and covariance.

‖w‖² is not ‖ŵ‖², which is tr V too long (V the covariance of the pilot's own e), and wᵀZw is taken from leave-one-group-out
scores less tr ZV. What it does not know: how other methods than the difference of means do, and groups unlike the pilot's.
Where the pilot cannot tell ‖w‖ from 0 it says "not measured".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import t as student
from torch import Tensor

from ..errors import InputError
from ..linalg import finite
from ..provenance import numpy_generator
from ..reading import Reading

Ints = NDArray[np.int64]

TARGET = 15.0  # degrees that `find` asks the number of examples for
BLOCKS = 40  # of groups, for the jackknife
LEAST_GROUPS = 10


@dataclass(frozen=True, slots=True)
class Law:
    """C of a pilot with the standard error of its logarithm, or why there is none."""

    value: float
    error: float
    blocks: int
    rows: int
    groups: int
    reason: str = ""

    def reading(self, exponent: float, scale: float, unit: str, method: str, of: float = 1.0) -> Reading:
        """scale · C^exponent with its 95 % interval; `of`: degrees are scaled after the arctangent."""
        if self.reason:
            return Reading.not_measured(self.reason, unit=unit, method=method, n=self.rows)
        reach = float(student.ppf(0.975, self.blocks - 1)) * self.error
        ends = (math.log(self.value) - reach, math.log(self.value), math.log(self.value) + reach)
        low, value, high = (scale * math.exp(exponent * end) for end in ends)
        if unit == "degrees":
            low, value, high = (math.degrees(math.atan(tangent)) * of for tangent in (low, value, high))
        return Reading(value, low, high, 0.95, self.rows, unit, None, method)

    def ratio(self, n: float) -> Reading:
        """E‖ŵ_⊥‖²/‖w‖² at n examples a class."""
        return self.reading(1.0, 1 / n, "share of ‖w‖²", f"few-shot law at {n:g} examples a class; {self.how}")

    @property
    def how(self) -> str:
        return f"pilot of {self.rows} rows in {self.groups} groups, jackknife over {self.blocks} blocks of groups"


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """At n examples a class: what the pilot predicts and what other rows show."""

    n: int
    predicted: Reading
    measured: Reading


def few_shot_law(states: Tensor, labels: Ints, groups: Ints | None = None) -> Law:
    """C of the difference of means of two classes.

    Args:
        states: (n, d); `labels`: (n,) 0 and 1; `groups`: (n,) codes, None where every row is its own.

    Raises:
        InputError: labels that are not two classes, a NaN or an infinity, shapes that do not match.
    """
    rows, codes, of = _checked(states, labels, groups)
    names = len(np.unique(of))
    blocks = min(BLOCKS, names)
    if names < LEAST_GROUPS:
        return Law(math.nan, math.nan, blocks, len(rows), names, f"{names} groups; at least {LEAST_GROUPS} are needed")
    block = _blocks(codes, of, blocks)
    signal, noise = _pilot(rows, codes, of)
    left = [_pilot(rows[keep], codes[keep], of[keep]) for keep in (block != index for index in range(blocks))]
    signals = np.array([part[0] for part in left])
    error = math.sqrt((blocks - 1) / blocks * float(((signals - signals.mean()) ** 2).sum()))
    if signal <= float(student.ppf(0.975, blocks - 1)) * error or noise <= 0 or min(signals) <= 0 or min(p[1] for p in left) <= 0:
        why = "the classes' means cannot be told apart with these rows, so there is no direction to fix; add rows"
        return Law(math.nan, math.nan, blocks, len(rows), names, why)
    logs = np.array([math.log(part[1] / part[0]) for part in left])
    spread = math.sqrt((blocks - 1) / blocks * float(((logs - logs.mean()) ** 2).sum()))
    return Law(noise / signal, spread, blocks, len(rows), names)


def direction_error(states: Tensor, labels: Ints, groups: Ints | None, n: float) -> Reading:
    """The angle between the difference of means of n examples a class and its limit, predicted from a pilot (degrees)."""
    if not n >= 1:
        raise InputError(f"n: got {n}, wanted at least one example a class")
    law = few_shot_law(states, labels, groups)
    return law.reading(0.5, n**-0.5, "degrees", f"arctan √(C/n) at {n:g} examples a class; {law.how}")


def examples_needed(states: Tensor, labels: Ints, groups: Ints | None = None, angle: float = TARGET) -> Reading:
    """Examples a class with which the difference of means lies within `angle` degrees of its limit (root mean square)."""
    if not 0 < angle < 90:
        raise InputError(f"angle: got {angle}, wanted degrees between 0 and 90, such as {TARGET:g}")
    law = few_shot_law(states, labels, groups)
    scale = math.tan(math.radians(angle)) ** -2
    return law.reading(1.0, scale, "examples a class", f"C/tan² {angle:g}° for the difference of means; {law.how}")


def few_shot_curve(
    states: Tensor, labels: Ints, groups: Ints | None, sizes: Sequence[int], *, draws: int = 200, seed: int = 0
) -> tuple[CurvePoint, ...]:
    """The law predicted from half the groups, beside what the other half shows.

    Measured at n: two disjoint draws give ŵ and ŵ′, the rows left over r. ‖ŵ − ŵ′‖²/2 across r estimates the noise without
    any model, the products of different directions ‖w‖² without bias. Its interval is the jackknife's of the other half.
    """
    rows, codes, of = _checked(states, labels, groups)
    generator = numpy_generator(seed, "few-shot curve")
    half = _blocks(codes, of, 2, generator) == 0
    law, other = (few_shot_law(rows[part], codes[part], of[part]) for part in (half, ~half))
    rest = np.flatnonzero(~half)
    most = min(int((codes[rest] == kind).sum()) for kind in (0, 1)) // 3
    points = []
    for n in sizes:
        if not 1 <= n <= most:
            raise InputError(f"sizes: got {n}, wanted 1 to {most}, a third of the smaller class in half the rows; add rows")
        value = _measured(rows[rest], codes[rest], of[rest], n, draws, generator)
        method = f"{draws} pairs of disjoint draws of {n} examples a class from rows that the pilot did not see"
        reach = math.nan if other.reason else float(student.ppf(0.975, other.blocks - 1)) * other.error
        measured = (
            Reading(value, value * math.exp(-reach), value * math.exp(reach), 0.95, len(rest), "share of ‖w‖²", None, method)
            if value > 0 and math.isfinite(reach)
            else Reading.not_measured(other.reason or "the draws show no direction", unit="share of ‖w‖²", method=method)
        )
        points.append(CurvePoint(n, law.ratio(n), measured))
    return tuple(points)


def _measured(rows: Tensor, codes: Ints, of: Ints, n: int, draws: int, generator: np.random.Generator) -> float:
    """Mean of ‖(ŵ − ŵ′)_⊥‖²/2 over that of the products of different directions, brought to n examples a class."""
    names = np.unique(of)
    share = n * len(names) / min((codes == kind).sum() for kind in (0, 1))
    take = max(1, round(share))
    noise, signal = 0.0, 0.0
    for _ in range(draws):
        order = generator.permutation(names)
        parts = [np.isin(of, some) for some in (order[:take], order[take : 2 * take], order[2 * take :])]
        if take == len(names) or any((codes[part] == kind).sum() < 1 for part in parts for kind in (0, 1)):
            continue  # a draw that lacks a class fixes no direction
        first, second, third = (_difference(rows[torch.as_tensor(part)], codes[part]) for part in parts)
        counted = [2 / (1 / (codes[part] == 1).sum() + 1 / (codes[part] == 0).sum()) for part in parts[:2]]
        apart = first - second
        apart = apart - third * (apart @ third) / (third @ third)
        noise += float(apart @ apart) / (1 / counted[0] + 1 / counted[1]) / n
        signal += float(first @ second + first @ third + second @ third) / 3
    return float(noise / signal) if signal > 0 else math.nan


def _difference(rows: Tensor, codes: Ints) -> Tensor:
    truth = torch.as_tensor(codes == 1)
    return rows[truth].mean(0) - rows[~truth].mean(0)


def _pilot(rows: Tensor, codes: Ints, of: Ints) -> tuple[float, float]:
    """‖w‖² and tr Z − w₀ᵀZw₀ of rows with labels 0 and 1 in groups."""
    _, of = np.unique(of, return_inverse=True)
    size, sums, scores, directions, counts = int(of.max()) + 1, [], [], [], []
    for kind in (1, 0):
        chosen = np.flatnonzero(codes == kind)
        member, part = torch.as_tensor(of[chosen]), rows[torch.as_tensor(chosen)]
        mean, n = part.mean(0), len(chosen)
        held = torch.zeros(size, dtype=torch.float64).index_add_(0, member, torch.ones(n, dtype=torch.float64))
        filled = int((held > 0).sum())
        total = torch.zeros(size, rows.shape[1], dtype=torch.float64).index_add_(0, member, part - mean)
        total = total * math.sqrt(filled / max(filled - 1, 1))  # residuals about a mean that was estimated are too short
        sums.append(total)
        counts.append((n, held, member, part - mean))
        directions.append(mean)
    difference = directions[0] - directions[1]
    (n1, held1, _, _), (n0, held0, _, _) = counts
    own = sums[0] / n1 - sums[1] / n0  # u_g: what a group adds to the pilot's error
    scaled = sums[0] / math.sqrt(n1) - sums[1] / math.sqrt(n0)  # z_g
    signal = float(difference @ difference) - float(own.square().sum())
    without = difference - sums[0] / (n1 - held1).clamp_min(1.0)[:, None] + sums[1] / (n0 - held0).clamp_min(1.0)[:, None]
    for n, _, member, centred in counts:
        score = (centred * without[member]).sum(1)
        summed = torch.zeros(size, dtype=torch.float64).index_add_(0, member, score - score.mean())
        scores.append(summed / math.sqrt(n))
    along = float((scores[0] - scores[1]).square().sum())
    cross = (scaled @ own.T).square()
    along -= float(cross.sum() - cross.diagonal().sum())  # the noise of ŵ in it: tr ZV over different groups
    return signal, float(scaled.square().sum()) - min(max(along, 0.0) / max(signal, 1e-300), float(scaled.square().sum()))


def _blocks(codes: Ints, of: Ints, blocks: int, generator: np.random.Generator | None = None) -> Ints:
    """(rows,) block of every row: whole groups, dealt out by the classes that they hold so that blocks are alike."""
    names, group = np.unique(of, return_inverse=True)
    share = np.bincount(group, codes) / np.bincount(group)
    order = np.arange(len(names)) if generator is None else generator.permutation(len(names))
    order = order[np.argsort(share[order], kind="stable")]
    block = np.empty(len(names), dtype=np.int64)
    block[order] = np.arange(len(names)) % blocks
    return block[group]


def _checked(states: Tensor, labels: Ints, groups: Ints | None) -> tuple[Tensor, Ints, Ints]:
    codes = np.asarray(labels)
    of = np.arange(len(codes)) if groups is None else np.asarray(groups)
    if states.ndim != 2 or codes.shape != (len(states),) or of.shape != codes.shape:
        shapes = f"{tuple(states.shape)} with {codes.shape} labels and {of.shape} groups"
        raise InputError(f"states: got shape {shapes}, wanted (rows, d) and one label and group for each row")
    if set(np.unique(codes).tolist()) != {0, 1}:
        raise InputError(f"labels: got {np.unique(codes)[:5].tolist()}, wanted both 0 and 1; the law is of two classes")
    return finite(states, "states"), codes.astype(np.int64), of
