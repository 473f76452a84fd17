"""Linear directions in the Gram basis: difference of means, shrunk LDA, ridge, logistic.

The first three are linear in the labels. With a label-free penalty λ their scores of new rows are

    scores = K_new,train (K_train + λ I)⁻¹ y,

K the Gram matrix of rows centred (and standardised) on the training rows alone. So one matrix per (site, training set, λ) serves every
permutation of the labels at once. They differ in λ and in coordinates:

    difference of means   λ → ∞ in raw coordinates
    shrunk LDA            λ from the Ledoit–Wolf (2004) shrinkage of the *total* covariance, standardised; with the total covariance the
                          discriminant has the within-class direction, and no label enters the shrinkage
    ridge                 λ = c · (mean squared norm of the rows), standardised; c from a grid, chosen by cross-validation

`logistic` is not linear in the labels: it is solved for every label vector, together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..errors import InputError, TrustError

Family = Literal["difference of means", "shrunk LDA", "ridge", "logistic"]


@dataclass(frozen=True, slots=True)
class Method:
    """One way to find a direction; `strength` is c for ridge and logistic (λ = c · mean squared norm), unused by the others."""

    family: Family
    strength: float = 0.0

    def __str__(self) -> str:
        return self.family if self.strength == 0 else f"{self.family} (c = {self.strength:g})"


DEFAULT = (Method("difference of means"), Method("shrunk LDA"), Method("ridge", 0.1), Method("ridge", 1.0), Method("ridge", 10.0))
LOGISTIC = (Method("logistic", 0.01), Method("logistic", 0.1), Method("logistic", 1.0))


@dataclass(frozen=True, slots=True)
class Coordinates:
    """Mean and spread of the training rows: what centring and standardising use. Labels never enter."""

    mean: Tensor  # (d,)
    spread: Tensor  # (d,), floored where a coordinate is constant

    @classmethod
    def of(cls, rows: Tensor) -> Coordinates:
        spread = rows.std(0, correction=0)
        return cls(rows.mean(0), torch.where(spread > 1e-6 * spread.max().clamp_min(1e-30), spread, 1.0))


def grams(states: Tensor, train: Tensor) -> dict[str, Tensor]:
    """Gram matrices (n, n) of all rows, centred on the rows `train`: raw, and standardised by them."""
    coordinates = Coordinates.of(states[train])
    centred = states - coordinates.mean
    standard = centred / coordinates.spread
    return {"raw": centred @ centred.T, "standard": standard @ standard.T}


def centred_blocks(gram: Tensor, train: Tensor, new: Tensor) -> tuple[Tensor, Tensor]:
    """(K_train, K_new,train) of a Gram matrix, re-centred on the rows `train`."""
    inner = gram[train[:, None], train]
    across = gram[new[:, None], train]
    column = inner.mean(0)
    return inner - column - column[:, None] + column.mean(), across - across.mean(1, keepdim=True) - column + column.mean()


def penalty(method: Method, inner: Tensor, width: int) -> Tensor:
    """λ of a method on a centred training Gram matrix (n, n) of rows of so many coordinates."""
    rows = inner.shape[0]
    if method.family in ("ridge", "logistic"):
        return method.strength * inner.diagonal().mean()
    # Ledoit–Wolf: covariance S = XᵀX/n shrunk to (1 − a) S + a m I, from n×n quantities alone.
    norms = inner.diagonal()
    m = norms.sum() / rows / width
    squared = (inner**2).sum() / rows**2
    distance = squared / width - m**2
    noise = ((norms**2).sum() / rows**2 - squared / rows) / width
    a = (noise / distance).clamp(1e-6, 1 - 1e-6)
    return rows * a * m / (1 - a)


def scores(method: Method, gram: dict[str, Tensor], train: Tensor, new: Tensor, labels: Tensor, width: int) -> Tensor:
    """Scores (new rows, label columns) of a direction fitted on `train` for every column of `labels` (n, columns) of 0 and 1."""
    if method.family == "difference of means":
        _, across = centred_blocks(gram["raw"], train, new)
        return across @ labels[train]
    inner, across = centred_blocks(gram["standard"], train, new)
    if method.family == "logistic":
        weights, intercept = logistic_weights(inner, labels[train], penalty(method, inner, width))
        return across @ weights + intercept
    return smoother(inner, across, penalty(method, inner, width)) @ labels[train]


def smoother(inner: Tensor, across: Tensor, lam: Tensor) -> Tensor:
    """K_new,train (K_train + λ I)⁻¹ (new, train)."""
    return torch.cholesky_solve(across.T, _factor(inner, lam)).T


def _factor(inner: Tensor, lam: Tensor) -> Tensor:
    regular = inner + lam * torch.eye(inner.shape[0], dtype=inner.dtype)
    factor, failed = torch.linalg.cholesky_ex(regular)
    if int(failed):
        raise TrustError(
            "a regularised Gram matrix is not positive definite: the states hold infinities, NaN or are constant; "
            "look at this site's states before measuring on it"
        )
    return factor


def dual_weights(method: Method, states: Tensor, labels: Tensor) -> Tensor:
    """Direction (d, columns) in raw coordinates, so that states @ direction orders rows as the method's score does."""
    everything = torch.arange(states.shape[0])
    coordinates = Coordinates.of(states)
    centred = states - coordinates.mean
    targets = labels - labels.mean(0)
    if method.family == "difference of means":
        return centred.T @ targets / states.shape[0]
    standard = centred / coordinates.spread
    inner, _ = centred_blocks(standard @ standard.T, everything, everything)
    lam = penalty(method, inner, states.shape[1])
    if method.family == "logistic":
        weights, _ = logistic_weights(inner, labels, lam)
    else:
        weights = torch.cholesky_solve(targets, _factor(inner, lam))
    return standard.T @ weights / coordinates.spread[:, None]


def logistic_weights(inner: Tensor, labels: Tensor, lam: Tensor, *, tolerance: float = 1e-6, most: int = 2000) -> tuple[Tensor, Tensor]:
    """Kernel logistic regression, every label column at once: dual weights (n, columns) and intercepts (columns).

    Minimises Σ log(1 + exp(−s f)) + ½ λ‖w‖² in the Gram matrix's eigenbasis, where Böhning & Lindsay's (1988) bound ¼ on the curvature
    is diagonal; Nesterov steps with restart on the bound. Raises TrustError if the gradient does not fall to `tolerance` of its start.
    """
    values, basis = torch.linalg.eigh(inner)
    keep = values > values[-1] * 1e-10
    if not bool(keep.any()):
        raise InputError("states: all training rows are the same at this site; nothing can be fitted on them")
    features = basis[:, keep] * values[keep].sqrt()  # (n, r): rows in the eigenbasis
    step = 1 / (values[keep] / 4 + lam)[:, None]
    rows, columns = labels.shape
    theta = torch.zeros(features.shape[1], columns, dtype=inner.dtype)
    intercept = torch.zeros(columns, dtype=inner.dtype)
    ahead, ahead_intercept = theta, intercept
    momentum, start = 1.0, None
    for _ in range(most):
        residual = torch.sigmoid(features @ ahead + ahead_intercept) - labels
        slope, slope_intercept = features.T @ residual + lam * ahead, residual.sum(0)
        size = float((slope.square() * step).sum().sqrt() + slope_intercept.abs().max() / rows**0.5)
        start = size if start is None else start
        if size <= tolerance * max(start, 1e-12):
            return basis[:, keep] / values[keep].sqrt() @ ahead, ahead_intercept
        # Intercept and weights together have curvature at most twice the larger bound; halving both steps keeps the bound.
        new, new_intercept = ahead - step * slope / 2, ahead_intercept - slope_intercept * 2 / rows
        if float(((ahead - new) * (new - theta)).sum()) > 0:
            momentum = 1.0
        following = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        pull = (momentum - 1) / following
        ahead, ahead_intercept = new + pull * (new - theta), new_intercept + pull * (new_intercept - intercept)
        theta, intercept, momentum = new, new_intercept, following
    raise TrustError(f"logistic regression did not converge in {most} steps; use a stronger penalty or leave the method out")
