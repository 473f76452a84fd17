"""Least squares of one form on many tables at once: the least, the least with one figure held, and the ends of its profile.

Everything is batched over targets, since a bootstrap asks the same of a thousand tables that differ in their noise alone. The
first search is by variable projection: on a grid of the non-linear parameters alone the constant and the amplitudes are those of
non-negative least squares, exactly (for at most three columns every set of positive ones can be tried). From the best places the
descent is damped Gauss–Newton on all parameters in the coordinates of `forms`, on the noise model's own scale.

Noise is multiplicative (residuals of log y) or additive (residuals of y), each divided by the row's own error where one is known.

What it promises: a descent never ends higher than it began within its bounds, and says whether it converged. What it does not
know: a least that the grid has no place near.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations, product
from typing import Literal

import numpy as np

from .forms import Axis, Floats, Form, Search, values

Noise = Literal["multiplicative", "additive"]
_CLOSE = 1e-18  # share of the noiseless sum of squares that rounding leaves
_STARTS, _STEPS = 5, 200
_END = 1e-4  # of a standard error
_STEEPEST = 300.0  # e^300 at the edge of the table: beyond, squares overflow
_LOST = 50.0  # in coordinates: e^50 times an amplitude at the data's centre is no end of an interval


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """A form on the sizes of a table: u (columns, n), weights (n) of residuals, y in units of `unit`."""

    form: Form
    axis: Axis
    u: Floats
    weights: Floats
    noise: Noise
    unit: float

    def told(self, y: Floats) -> Floats:
        """y as the noise model sees it."""
        return np.log(y / self.unit) if self.noise == "multiplicative" else y / self.unit

    def untold(self, target: Floats) -> Floats:
        return np.exp(target) * self.unit if self.noise == "multiplicative" else target * self.unit

    def curve(self, theta: Floats) -> Floats:
        """The fitted targets (batch, n); NaN where a logarithm has no argument."""
        y, _ = values(self.form, theta, self.u, slopes=False)
        return self._scaled(y)

    def linearised(self, theta: Floats, targets: Floats) -> tuple[Floats, Floats]:
        """Weighted residuals (batch, n) and slopes of the curve (batch, parameters, n)."""
        y, jacobian = values(self.form, theta, self.u)
        assert jacobian is not None
        slope = self.weights / y if self.noise == "multiplicative" else np.broadcast_to(self.weights, y.shape)
        return self.weights * (targets - self._scaled(y)), jacobian * slope[:, None, :]

    def squares(self, theta: Floats, targets: Floats) -> Floats:
        """Σ of squared weighted residuals (batch,); infinite where the curve leaves the noise model's domain."""
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            left = np.square(self.weights * (targets - self.curve(theta))).sum(1)
        return np.where(np.isfinite(left), left, np.inf)

    def _scaled(self, y: Floats) -> Floats:
        if self.noise == "additive":
            return y
        return np.log(np.where(y > 0, y, np.nan))

    def boxes(self) -> list[tuple[float, float]]:
        """Bounds of the non-linear parameters in coordinates."""
        return [self._box(one) for one in self.form.searched]

    def _box(self, one: Search) -> tuple[float, float]:
        if not one.place:
            (low, high), steep = one.box, _STEEPEST / float(np.abs(self.u).max())
            if not one.slope:
                return low, high
            return (low, min(high, math.log(steep))) if one.logged else (max(low, -steep), min(high, steep))
        low, high = float(self.u[0].min()), float(self.u[0].max())
        return low + one.low * (high - low), low + one.high * (high - low)


@dataclass(frozen=True, slots=True)
class Held:
    """A figure of a fit, θ_j + h(the others): `at` is j; `read` gives it (batch,) and its gradient (batch, parameters)."""

    name: str
    at: int
    read: Callable[[Floats], tuple[Floats, Floats]]


def search(problem: Problem, targets: Floats) -> Floats:
    """Starting points (starts, parameters) for one table's targets (n,), by variable projection over the grid."""
    grid = np.array(
        list(product(*(np.linspace(*box, one.steps) for box, one in zip(problem.boxes(), problem.form.searched, strict=True))))
    )
    y = problem.untold(targets) / problem.unit
    weight = problem.weights / np.abs(y) if problem.noise == "multiplicative" else problem.weights
    shapes, _ = problem.form.shapes(grid.T[:, :, None], problem.u)
    columns = [np.exp(shape) for shape in shapes]
    if problem.form.constant:
        columns.insert(0, np.ones_like(columns[0]))
    found, squares = non_negative(np.stack(columns, 1) * weight, y * weight)
    squares[~(found[:, int(problem.form.constant) :] > 0).all(1)] = np.inf  # an amplitude of 0 says nothing of its exponent
    order = np.argsort(squares, kind="stable")
    chosen = [order[0]]
    steps = np.array([np.ptp(part) / max(len(np.unique(part)) - 1, 1) for part in grid.T])
    for at in order[1:]:  # the best places that are not neighbours of a better one
        if len(chosen) == _STARTS or not np.isfinite(squares[at]):
            break
        if (np.abs(grid[at] - grid[chosen]) > 1.5 * steps).any(1).all():
            chosen.append(at)
    if not np.isfinite(squares[chosen[0]]):
        return np.empty((0, found.shape[1] + grid.shape[1]))
    linear = found[chosen]
    first = int(problem.form.constant)
    linear[:, first:] = np.log(linear[:, first:])
    return np.concatenate([linear, grid[chosen]], 1)


def non_negative(columns: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Non-negative least squares, exactly, for every matrix of a batch (batch, columns ≤ 3, n): coefficients and squares left."""
    gram, right = columns @ columns.transpose(0, 2, 1), columns @ y
    batch, width = right.shape
    best, least = np.zeros((batch, width)), np.full(batch, float(y @ y))
    scale = np.sqrt(np.einsum("bii->bi", gram))
    gram, right = gram / (scale[:, :, None] * scale[:, None, :]), right / scale
    for size in range(1, width + 1):
        for chosen in map(list, combinations(range(width), size)):
            part = gram[:, chosen][:, :, chosen]
            apart = np.linalg.det(part) > 1e-13
            solved = np.linalg.solve(part[apart], right[apart][:, chosen, None])[..., 0]
            left = float(y @ y) - (solved * right[apart][:, chosen]).sum(1)
            better = np.flatnonzero(apart)[(solved >= 0).all(1) & (left < least[apart])]
            among = np.searchsorted(np.flatnonzero(apart), better)
            best[better] = 0.0
            best[better[:, None], chosen] = solved[among]
            least[better] = left[among]
    return best / scale, least


def descend(
    problem: Problem,
    theta: Floats,
    targets: Floats,
    held: Held | None = None,
    at: Floats | float = 0.0,
    *,
    close: float = 1e-9,
    floor: bool = False,
) -> tuple[Floats, Floats, np.ndarray]:
    """The least squares from θ (batch, parameters) down, where one figure may be held at a value.

    Args:
        close: converged where the step that is left would lower the squares by less than this share of them.
        floor: the constant may not fall below 0.

    Returns:
        θ, the sum of squares (batch,), and whether each converged.
    """
    theta, batch = np.array(theta, dtype=np.float64), len(theta)
    targets = np.broadcast_to(targets, (batch, problem.u.shape[1]))
    levels = np.broadcast_to(np.asarray(at, dtype=np.float64), (batch,))
    low, high = _bounds(problem, floor)
    theta = np.clip(theta, low, high)  # first: no step within the bounds may be held against squares from beyond them
    if held is not None:
        theta = _restored(theta, held, levels)
    squares = problem.squares(theta, targets)
    noiseless = _CLOSE * np.square(problem.weights * targets).sum(1)
    damp, done = np.full(batch, 1e-6), np.zeros(batch, dtype=bool)
    live = np.flatnonzero(np.isfinite(squares))
    for _ in range(_STEPS):
        if not len(live):
            break
        here = theta[live]
        normal, slope = _normal(problem, here, targets[live], held)
        _pin(normal, slope, (here <= low) & (slope < 0) | (here >= high) & (slope > 0))
        diagonal = np.einsum("bii->bi", normal)
        heavy = normal + _diagonal(diagonal * damp[live, None] + 1e-300)
        step = np.linalg.solve(heavy, slope[..., None])[..., 0]
        gain = (step * slope).sum(1)
        there = np.clip(here + step, low, high)
        if held is not None:
            there = _restored(there, held, levels[live])
        new = problem.squares(there, targets[live])
        better = new <= squares[live]
        theta[live[better]], squares[live[better]] = there[better], new[better]
        damp[live] = np.where(better, np.maximum(damp[live] * 0.1, 1e-12), np.minimum(damp[live] * 10, 1e12))
        small = (gain <= close * squares[live] + noiseless[live]) & ((damp[live] < 1e-2) | (squares[live] <= noiseless[live]))
        done[live[small]] = True
        live = live[~small & (damp[live] < 1e11)]
    return theta, squares, done


def _bounds(problem: Problem, floor: bool) -> tuple[Floats, Floats]:
    """Of all parameters: the boxes of the non-linear ones, and 0 below the constant where it has a floor."""
    free = [(-np.inf, np.inf)] * problem.form.linear
    low, high = np.array([*free, *problem.boxes()]).T
    if floor and problem.form.constant:
        low[0] = 0.0
    return low, high


def _pin(normal: Floats, slope: Floats, pinned: np.ndarray) -> None:
    """Take parameters that a bound holds out of the normal equations, in place."""
    slope[pinned] = 0.0
    row, at = np.nonzero(pinned)
    normal[row, at, :] = 0.0
    normal[row, :, at] = 0.0
    normal[row, at, at] = 1.0


def _diagonal(entries: Floats) -> Floats:
    return entries[:, :, None] * np.eye(entries.shape[1])


def _normal(problem: Problem, theta: Floats, targets: Floats, held: Held | None) -> tuple[Floats, Floats]:
    """JᵀJ and Jᵀr; with a figure held, of the other parameters (the one that pays for it has a row of its own)."""
    residual, jacobian = problem.linearised(theta, targets)
    if held is not None:
        _, gradient = held.read(theta)
        pays = jacobian[:, held.at : held.at + 1].copy()
        jacobian -= gradient[:, :, None] * pays
        jacobian[:, held.at] = 0.0
    normal = jacobian @ jacobian.transpose(0, 2, 1)
    if held is not None:
        normal[:, held.at, held.at] = 1.0
    return normal, (jacobian @ residual[..., None])[..., 0]


def _restored(theta: Floats, held: Held, levels: Floats) -> Floats:
    theta = theta.copy()
    theta[:, held.at] += levels - held.read(theta)[0]
    return theta


def extremes(problem: Problem, theta: Floats, targets: Floats, held: Held, squares: Floats) -> tuple[Floats, np.ndarray]:
    """The least and the greatest value that a figure has among all θ whose sum of squares is at most `squares` (2,).

    From the minimum θ outward: at each step the greatest of the linearised figure on the linearised sum of squares (Venzon &
    Moolgavkar 1988). Its fixed points are the ends of the profile, exactly.

    Returns:
        The two ends, and whether each was reached; where the data bound nothing on that side it is not.
    """
    start, side = np.repeat(theta[None], 2, 0), np.array([-1.0, 1.0])
    theta, targets = start, np.broadcast_to(targets, (2, len(targets)))
    reached, lost = np.zeros(2, dtype=bool), np.zeros(2, dtype=bool)
    for _ in range(_STEPS):
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # where the data bound nothing, steps have no bound
            step, off = _outward(problem, theta, targets, held, squares, side)
        lost |= ~np.isfinite(step).all(1)
        reached = (off <= _END) & ~lost
        if (reached | lost).all():
            break
        there = _shortened(problem, theta, np.where(lost[:, None], 0.0, step), targets, squares)
        lost |= ~(np.abs(there - start) < _LOST).all(1)
        theta = np.where(lost[:, None], start, there)
    return np.where(lost, side * np.inf, held.read(theta)[0]), reached


def _outward(
    problem: Problem, theta: Floats, targets: Floats, held: Held, squares: Floats, side: Floats
) -> tuple[Floats, Floats]:
    """The step to the greatest (least) of the linearised figure, and how far from it and from the squares meant θ still is."""
    _, gradient = held.read(theta)
    residual, jacobian = problem.linearised(theta, targets)
    normal = jacobian @ jacobian.transpose(0, 2, 1)
    normal += _diagonal(np.einsum("bii->bi", normal) * 1e-14 + 1e-300)
    slope = (jacobian @ residual[..., None])[..., 0]
    down, along = np.moveaxis(np.linalg.solve(normal, np.stack([slope, gradient], -1)), -1, 0)
    now, variance = np.square(residual).sum(1), (gradient * along).sum(1)
    room = np.maximum(squares - now + (slope * down).sum(1), 0) / variance
    step = down + (side * np.sqrt(room))[:, None] * along
    moved = np.abs((gradient * step).sum(1)) / np.sqrt(np.maximum(variance * squares, 1e-300))
    return step, np.maximum(np.abs(now - squares) / np.maximum(squares, 1e-300) * 1e2, moved)


def _shortened(problem: Problem, theta: Floats, step: Floats, targets: Floats, squares: Floats) -> Floats:
    """θ after the step, halved until the sum of squares is not far beyond what was meant; θ itself where nothing helps."""
    length, limit = np.ones(len(theta)), 1.5 * np.maximum(problem.squares(theta, targets), squares)
    while True:
        there = theta + length[:, None] * step
        far = problem.squares(there, targets) > limit
        if not far.any():
            return there
        length[far] = np.where(length[far] > 1e-9, length[far] / 2, 0.0)
