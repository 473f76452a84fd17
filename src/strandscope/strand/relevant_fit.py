"""Kernel ridge machines behind `relevant`: cross-fitted AGOPs of many label vectors at once, and labels that few directions make.

A machine keeps M = I and everything that no label has entered: the folds' kernel eigenvectors and slopes. With bandwidth and
ridge chosen for every label vector by closed-form leave-one-out, a refit costs some products of matrices, and a few hundred of
them a fraction of a second at a hundred rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .kernels import Kernel, outer_products, profile

Ints = NDArray[np.int64]
BANDWIDTHS = (0.5, 1.0, 2.0, 5.0)  # in units of the rows' root mean squared distance
RIDGES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
BLOCK = 2**25  # numbers in one intermediate: fixed, so that results do not depend on the machine
UPDATES = 2  # of the metric, where directions and not their number are wanted


@dataclass(frozen=True, slots=True)
class Smooth:
    """The kernel ridge machine that leave-one-out prefers: weights (n, outputs), slopes (n, n), fitted values."""

    alphas: Tensor
    slopes: Tensor
    fitted: Tensor  # twice: the residuals of the first fit are fitted too, so that less of the signal is shrunk away
    bandwidth: Tensor
    multiple: float  # of the rows' root mean squared distance, that the bandwidth is

    def predict(self, kernel: Kernel, points: Tensor, centres: Tensor) -> Tensor:
        """At M = I, about the mean of the targets."""
        return profile(kernel, self.bandwidth, points, centres).values @ self.alphas


def smooth(
    kernel: Kernel, points: Tensor, wanted: Tensor, metric: Tensor | None = None, bandwidths: Sequence[float] = BANDWIDTHS
) -> Smooth:
    centred = wanted - wanted.mean(0)
    unit, best, found = _unit(points, metric), torch.inf, None
    for multiple in bandwidths:
        bandwidth = unit * multiple
        seen = profile(kernel, bandwidth, points, points, metric)
        values, vectors = torch.linalg.eigh(seen.values)
        rotated = vectors.T @ centred
        for ridge in RIDGES:
            weight = 1 / (values.clamp_min(0) + ridge)
            alphas = vectors @ (weight[:, None] * rotated)
            residual = alphas / (vectors.square() @ weight)[:, None]
            error = float(residual.square().mean())
            if error < best:
                missed = vectors @ ((ridge * weight).square()[:, None] * rotated)
                best, found = error, Smooth(alphas, seen.slopes, wanted - missed, bandwidth, multiple)
    assert found is not None
    return found


def directions(
    kernel: Kernel, points: Tensor, wanted: Tensor, k: int, bandwidths: Sequence[Sequence[float]] = (BANDWIDTHS,) * (UPDATES + 1)
) -> tuple[Tensor, list[list[float]]]:
    """(r, k): the first k directions by an RFM of few updates, which places directions better than it counts them; and the
    bandwidths that it chose."""
    metric, chosen = None, []
    for some in bandwidths:
        fitted = smooth(kernel, points, wanted, metric, some)
        metric = outer_products(kernel, fitted.slopes, fitted.alphas, points, metric)
        chosen.append([fitted.multiple])
    assert metric is not None
    vectors = torch.linalg.eigh(metric).eigenvectors
    return vectors.flip(-1)[:, :k], chosen


def reduced(machine: Machine, wanted: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """What k directions say of the targets (n, outputs), and what they leave: residuals of the rows of each fold, which had no
    part in placing the directions. (Those of rows that had are too small, the more so the more dimensions there are.)
    """
    points, kernel = machine.points, machine.kernel
    basis, bandwidths = directions(kernel, points, wanted, k)
    whole = smooth(kernel, points @ basis, wanted)
    residual = torch.empty_like(wanted)
    for fold, *_ in machine.folds:
        old, new, seen = points[fold.train], points[fold.held], wanted[fold.train]
        basis, _ = directions(kernel, old, seen, k, bandwidths)
        fitted = smooth(kernel, old @ basis, seen, None, [whole.multiple])
        residual[fold.held] = wanted[fold.held] - seen.mean(0) - fitted.predict(kernel, new @ basis, old @ basis)
    return whole.fitted, residual - residual.mean(0)


def _unit(points: Tensor, metric: Tensor | None = None) -> Tensor:
    """Root mean squared distance between two rows."""
    rows = points - points.mean(0)
    return (2 * (rows * (rows if metric is None else rows @ metric)).sum(-1).mean()).sqrt()


@dataclass(frozen=True, slots=True)
class Fold:
    """One fold left out, for one bandwidth: its rows, the others, their kernel's eigenvectors, and the slopes between."""

    held: Tensor
    train: Tensor
    values: Tensor
    vectors: Tensor
    slopes: Tensor  # (held, train), and the kernel itself
    across: Tensor


@dataclass(frozen=True, slots=True)
class Machine:
    """Cross-fitted AGOPs of many label vectors on the same rows: no label enters what is kept here."""

    kernel: Kernel
    points: Tensor
    folds: tuple[tuple[Fold, ...], ...]  # by fold, by bandwidth

    @classmethod
    def of(cls, kernel: Kernel, points: Tensor, fold_of: Ints) -> Machine:
        unit, folds = _unit(points), []
        whole = [profile(kernel, unit * bandwidth, points, points) for bandwidth in BANDWIDTHS]
        for fold in np.unique(fold_of):
            held, train = (torch.as_tensor(np.flatnonzero(part)) for part in (fold_of == fold, fold_of != fold))
            parts = []
            for seen in whole:
                values, vectors = torch.linalg.eigh(seen.values[train][:, train])
                parts.append(
                    Fold(held, train, values.clamp_min(0), vectors, seen.slopes[held][:, train], seen.values[held][:, train])
                )
            folds.append(tuple(parts))
        return cls(kernel, points, tuple(folds))

    def agop(self, wanted: Tensor) -> Tensor:
        """(draws, r, r) from targets (n, draws, outputs): the mean outer product of gradients at rows left out, times the share
        of the targets' variance that is predicted there (R², 0 where it is below): what predicts nothing has gradients too.
        """
        n, draws, outputs = wanted.shape
        r = self.points.shape[1]
        total, missed, spread = wanted.new_zeros(draws, r, r), wanted.new_zeros(draws), wanted.new_zeros(draws)
        step = max(1, BLOCK // (n * outputs * r))
        for fold in self.folds:
            seen, held = wanted[fold[0].train], wanted[fold[0].held]
            mean = seen.mean(0)
            alphas, bandwidth = _weights(fold, seen - mean)
            spread += (held - mean).square().sum((0, 2))
            for number, part in enumerate(fold):
                mine = torch.nonzero(bandwidth == number)[:, 0]
                for columns in mine.split(step) if len(mine) else ():
                    weights = alphas[:, columns]
                    total[columns] += self._outer(part, weights)
                    told = (part.across @ weights.flatten(1)).view(-1, *weights.shape[1:])
                    missed[columns] += ((held - mean)[:, columns] - told).square().sum((0, 2))
        return total / n * (1 - missed / spread).clamp_min(0)[:, None, None]

    def _outer(self, fold: Fold, alphas: Tensor) -> Tensor:
        """(columns, r, r): sum over held rows and outputs of gradients' outer products, alphas (train, columns, outputs)."""
        centres, points = self.points[fold.train], self.points[fold.held]
        flat = alphas.flatten(1)
        sums = fold.slopes @ flat  # (held, columns · outputs)
        found = fold.slopes @ (flat[:, :, None] * centres[:, None]).flatten(1)
        found = points[:, None] * sums[..., None] - found.view(len(points), flat.shape[1], centres.shape[1])
        found = found.unflatten(1, alphas.shape[1:]).movedim(1, 0).flatten(1, 2)  # (columns, held · outputs, r)
        return found.mT @ found


def _weights(fold: tuple[Fold, ...], wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Weights (train, draws, outputs) at each draw's best bandwidth and ridge by leave-one-out, and that bandwidth's number."""
    flat = wanted.flatten(1)
    best = flat.new_full((wanted.shape[1],), torch.inf)
    chosen, number = torch.zeros_like(wanted), torch.zeros(wanted.shape[1], dtype=torch.long, device=wanted.device)
    for index, part in enumerate(fold):
        rotated, squares = part.vectors.T @ flat, part.vectors.square()
        for ridge in RIDGES:
            weight = 1 / (part.values + ridge)
            alphas = (part.vectors @ (weight[:, None] * rotated)).view_as(wanted)
            error = (alphas / (squares @ weight)[:, None, None]).square().mean((0, 2))
            better = error < best
            best = torch.where(better, error, best)
            number[better] = index
            chosen = torch.where(better[:, None], alphas, chosen)
    return chosen, number
