"""Linear directions in a spectral basis: difference of means, shrunk LDA, ridge, logistic, RFM.

The first three are linear in the labels. With a label-free penalty λ the fitted values are H y with one smoothing matrix
H = U diag(e / (e + λ)) Uᵀ + 11ᵀ/n, where Z = U diag(√e) Vᵀ are the training rows, centred (and standardised) by themselves. So
one decomposition per site and training set serves every penalty, every inner fold (the held-out residual of a block h is
(I − H_hh)⁻¹ (y − Hy)_h exactly) and every permutation of the labels at once. They differ in λ and in coordinates:

    difference of means   λ → ∞ in raw coordinates
    shrunk LDA            λ from the Ledoit–Wolf (2004) shrinkage of the *total* covariance, standardised; with the
                          total covariance the discriminant has the within-class direction, and no label enters
    ridge                 λ = c · (mean squared norm of the rows), standardised; c from a grid, chosen by cross-validation

`logistic` and the recursive feature machine are not linear in the labels: they are solved for every label vector, together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import InputError, TrustError
from .rfm_directions import rfm_directions

Ints = NDArray[np.int64]
Family = Literal["difference of means", "shrunk LDA", "ridge", "logistic", "RFM"]


@dataclass(frozen=True, slots=True)
class Method:
    """One way to find a direction; `strength` is c for ridge and logistic (λ = c · mean squared norm) and λ itself for an RFM,
    whose kernel has 1 on its diagonal; unused by the others."""

    family: Family
    strength: float = 0.0

    def __str__(self) -> str:
        return self.family if self.strength == 0 else f"{self.family} (c = {self.strength:g})"


DEFAULT = (Method("difference of means"), Method("shrunk LDA"), Method("ridge", 0.1), Method("ridge", 1.0), Method("ridge", 10.0))
LOGISTIC = (Method("logistic", 0.01), Method("logistic", 0.1), Method("logistic", 1.0))
RFM = (Method("RFM", 0.1), Method("RFM", 1.0))


@dataclass(frozen=True, slots=True)
class Training:
    """Training rows in the basis where every penalised fit is diagonal. No label has entered.

    Raises InputError if the rows hold a NaN or an infinity, or are all the same.
    """

    mean: Tensor  # (d,)
    spread: Tensor  # (d,) standard deviation, 1 where a coordinate is constant
    rows: Tensor  # (n, d) centred
    basis: Tensor  # (n, r) left singular vectors of the standardised rows
    values: Tensor  # (r,) squared singular values
    norm: float  # mean squared norm of a standardised row

    @classmethod
    def of(cls, states: Tensor) -> Training:
        if not bool(torch.isfinite(states).all()):
            raise InputError("states: got a NaN or an infinity; look at this site's states, or leave the site out")
        mean = states.mean(0)
        rows = states - mean
        spread = rows.square().mean(0).sqrt()
        if not bool((spread > 0).any()):
            raise InputError("states: every row is the same at this site and position; choose another site or position")
        spread = torch.where(spread > 1e-6 * spread.max(), spread, 1.0)
        standard = rows / spread
        n, d = standard.shape
        if n <= d:
            values, vectors = torch.linalg.eigh((standard @ standard.T).double())
            keep = values > values[-1] * 1e-9
            values, basis = values[keep], vectors[:, keep]
        else:
            values, vectors = torch.linalg.eigh((standard.T @ standard).double())
            keep = values > values[-1] * 1e-9
            values = values[keep]
            basis = standard.double() @ vectors[:, keep] / values.sqrt()
        return cls(mean, spread, rows, basis, values, float(values.sum()) / n)

    def project(self, states: Tensor) -> Tensor:
        """(new, r): standardised rows in the basis, scaled so that a training row gives its own row of `basis`."""
        standard = (self.rows / self.spread).double()
        return ((states - self.mean) / self.spread).double() @ (standard.T @ self.basis / self.values)

    def penalty(self, method: Method) -> float:
        """λ of a penalised method."""
        if method.family in ("ridge", "logistic"):
            return method.strength * self.norm
        # Ledoit–Wolf: covariance S = ZᵀZ/n shrunk to (1 − a) S + a m I.
        n, d = self.rows.shape
        norms = (self.basis**2 @ self.values).square().sum() / n**2
        m = self.norm / d
        squared = float((self.values**2).sum()) / n**2
        a = (float(norms) - squared / n) / max(squared - d * m**2, 1e-30)
        a = min(max(a, 1e-6), 1 - 1e-6)
        return n * a * m / (1 - a)

    def weights(self, method: Method, labels: Tensor) -> Tensor:
        """Direction (d, columns) in raw coordinates: states @ direction orders rows as the method's score does."""
        if method.family == "difference of means":
            return (self.rows.T.double() @ (labels - labels.mean(0))) / len(labels)
        standard = (self.rows / self.spread).double()
        if method.family == "logistic":
            theta, _ = logistic(self.basis * self.values.sqrt(), self.values, labels, self.penalty(method))
            coefficients = theta / self.values.sqrt()[:, None]
        elif method.family == "RFM":
            coefficients = rfm_directions(self.basis * self.values.sqrt(), labels, method.strength) / self.values.sqrt()[:, None]
        else:
            coefficients = (self.basis.T @ (labels - labels.mean(0))) / (self.values + self.penalty(method))[:, None]
        return standard.T @ (self.basis @ coefficients) / self.spread.double()[:, None]


def noise_shares(training: Training, new: Tensor, kind: Ints, methods: Sequence[Method], labels: Tensor, noise: Tensor) -> Tensor:
    """(methods, k): the share q of the variance of new rows' scores, within their classes, that comes from the noise of each fit.

    Fits to `noise` (n, draws · k), labels that groups have nothing of in common, stand for it. Logistic regression is taken as
    the ridge that its first Newton step is (λ four times as large); an RFM is refitted.

    Args:
        kind: (m,) class codes of the new rows.
        labels: (n, k) true labels of the training rows, as for `fit_scores`.
    """
    k = labels.shape[1]
    columns = torch.cat([labels, noise], dim=1)
    columns = columns - columns.mean(0)
    across = training.project(new)
    coefficients = training.basis.T @ columns
    shares = []
    for method in methods:
        if method.family == "difference of means":
            scores = (new - training.mean).double() @ (training.rows.T.double() @ columns)
        elif method.family == "RFM":
            root = training.values.sqrt()
            scores = across * root @ rfm_directions(training.basis * root, columns, method.strength)
        else:
            lam = training.penalty(method) * (4 if method.family == "logistic" else 1)
            scores = across @ (coefficients * (training.values / (training.values + lam))[:, None])
        within = torch.zeros(columns.shape[1], dtype=torch.float64)
        for code in np.unique(kind):
            rows = scores[torch.as_tensor(kind == code)]
            within += (rows - rows.mean(0)).square().sum(0)
        spread = within.unflatten(0, (-1, k))
        shares.append((spread[1:].mean(0) / spread[0].clamp_min(1e-300)).clamp(max=1.0))
    return torch.stack(shares)


def fit_scores(
    training: Training, new: Tensor, methods: Sequence[Method], labels: Tensor, parts: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """Held-out scores inside the training rows and scores of new rows, by every method, for every label column.

    Args:
        new: states (m, d) that no fit sees; m may be 0.
        labels: (n, columns) of 0 and 1 for the training rows.
        parts: index tensors that split the training rows; each part is scored by a fit on the others.

    Returns:
        (methods, n, columns) and (methods, m, columns).
    """
    inside = torch.empty(len(methods), *labels.shape, dtype=torch.float64)
    outside = torch.empty(len(methods), new.shape[0], labels.shape[1], dtype=torch.float64)
    across = training.project(new)
    _fit_penalised(training, across, methods, labels, parts, inside, outside)
    for index, method in enumerate(methods):
        if method.family == "difference of means":
            gram = (training.rows @ training.rows.T).double()
            for part in parts:
                kept = labels.clone()
                kept[part] = 0
                count = len(labels) - len(part)
                kept -= kept.sum(0) / count
                kept[part] = 0
                inside[index, part] = gram[part] @ kept
            outside[index] = (new - training.mean).double() @ training.weights(method, labels) * len(labels)
    _fit_logistic(training, across, methods, labels, parts, inside, outside)
    _fit_rfm(training, across, methods, labels, parts, inside, outside)
    return inside, outside


def _fit_penalised(
    training: Training,
    across: Tensor,
    methods: Sequence[Method],
    labels: Tensor,
    parts: Sequence[Tensor],
    inside: Tensor,
    outside: Tensor,
) -> None:
    """Fill in the methods whose fit is a smoothing matrix: one decomposition, no refit."""
    chosen = [i for i, method in enumerate(methods) if method.family in ("shrunk LDA", "ridge")]
    if not chosen:
        return
    centre = labels.mean(0)
    coefficients = training.basis.T @ (labels - centre)  # (r, columns)
    lam = torch.tensor([training.penalty(methods[i]) for i in chosen], dtype=torch.float64)
    shrink = training.values / (training.values + lam[:, None])  # (methods, r)
    shrunk = shrink[..., None] * coefficients
    outside[chosen] = across @ shrunk
    residual = labels - centre - training.basis @ shrunk
    for part in parts:
        block = training.basis[part]
        hat = (block * shrink[:, None, :]) @ block.T + 1 / len(labels)
        inside[torch.tensor(chosen)[:, None], part] = labels[part] - torch.linalg.solve(
            torch.eye(len(part)).double() - hat, residual[:, part]
        )


def _fit_logistic(
    training: Training,
    across: Tensor,
    methods: Sequence[Method],
    labels: Tensor,
    parts: Sequence[Tensor],
    inside: Tensor,
    outside: Tensor,
) -> None:
    chosen = [i for i, method in enumerate(methods) if method.family == "logistic"]
    if not chosen:
        return
    root = training.values.sqrt()
    features, new = training.basis * root, across * root
    everything = torch.arange(len(labels))
    for part in parts:
        kept = everything[~torch.isin(everything, part)]
        values, rotation = torch.linalg.eigh(features[kept].T @ features[kept])
        for i in chosen:
            theta, intercept = logistic(
                features[kept] @ rotation, values.clamp_min(0), labels[kept], training.penalty(methods[i])
            )
            inside[i, part] = features[part] @ rotation @ theta + intercept
    for i in chosen:
        theta, intercept = logistic(features, training.values, labels, training.penalty(methods[i]))
        outside[i] = new @ theta + intercept


def _fit_rfm(
    training: Training,
    across: Tensor,
    methods: Sequence[Method],
    labels: Tensor,
    parts: Sequence[Tensor],
    inside: Tensor,
    outside: Tensor,
) -> None:
    features, new = training.basis * training.values.sqrt(), across * training.values.sqrt()
    everything = torch.arange(len(labels))
    for i, method in enumerate(methods):
        if method.family != "RFM":
            continue
        for part in parts:
            kept = everything[~torch.isin(everything, part)]
            found = rfm_directions(features[kept], labels[kept], method.strength)
            inside[i, part] = (features[part] - features[kept].mean(0)) @ found
        outside[i] = new @ rfm_directions(features, labels, method.strength)


def logistic(
    features: Tensor, curvature: Tensor, labels: Tensor, lam: float, *, tolerance: float = 1e-5, most: int = 5000
) -> tuple[Tensor, Tensor]:
    """Penalised logistic regression of every label column at once: weights (r, columns) and intercepts (columns).

    Minimises Σ log(1 + exp(−s f)) + ½ λ‖w‖² in a basis where featuresᵀ features = diag(curvature), so that Böhning & Lindsay's
    (1988) bound ¼ on the curvature is diagonal; Nesterov steps with restart. Raises TrustError if the scaled gradient does not
    fall to `tolerance` of its start.
    """
    rows, columns = labels.shape
    step = (
        0.5 / (curvature / 4 + lam)[:, None]
    )  # halved, as is the intercept's: together their curvature is at most the sum of both bounds
    step_intercept = 0.5 * 4 / rows
    theta = torch.zeros(features.shape[1], columns, dtype=features.dtype)
    intercept = torch.zeros(columns, dtype=features.dtype)
    ahead, ahead_intercept, momentum, start = theta, intercept, 1.0, 0.0
    for count in range(most):
        residual = torch.sigmoid(features @ ahead + ahead_intercept) - labels
        slope, slope_intercept = features.T @ residual + lam * ahead, residual.sum(0)
        size = float((slope.square() * step).sum() + (slope_intercept.square() * step_intercept).sum()) ** 0.5
        start = size if count == 0 else start
        if size <= tolerance * max(start, 1e-12):
            return ahead, ahead_intercept
        new, new_intercept = ahead - step * slope, ahead_intercept - step_intercept * slope_intercept
        if float((slope * (new - theta)).sum() + (slope_intercept * (new_intercept - intercept)).sum()) > 0:
            momentum = 1.0
        following = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        pull = (momentum - 1) / following
        ahead, ahead_intercept = new + pull * (new - theta), new_intercept + pull * (new_intercept - intercept)
        theta, intercept, momentum = new, new_intercept, following
    raise TrustError(f"logistic regression did not converge in {most} steps; use a stronger penalty or leave the method out")
