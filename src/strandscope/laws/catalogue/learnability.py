"""Conservation of learnability: over all functions on a domain, a kernel learns as much as it has seen rows."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...statistics.kernel.eigenlearning import eigenlearning
from ...statistics.kernel.learnability import Learner, kernel_learner, learnabilities, parities, total_learnability
from ...statistics.tangent.closed import relu_kernel
from ..figure import Figure, Series
from ..law import Check, Control, Law, LawResult
from .checks import bound, certain, exactly, mean
from .entry import Trial, entry

ROUNDING = 1e-8  # of n

CONSERVATION = Law(
    name="conservation of learnability",
    formula="Σ_i L_i = n without a ridge, = tr K_SS(K_SS + δ)⁻¹ < n with one;  L_i = ⟨φ_i, φ̂_i⟩",
    symbols={
        "φ_i": "a basis of all functions on the domain, orthonormal under the uniform measure",
        "φ̂_i": "what is learned from φ_i on n rows",
        "L_i": "learnability (1)",
        "n": "rows seen",
        "δ": "ridge (unit of the kernel)",
    },
    domain="a complete basis; a learner that is linear in its labels and, without a ridge, reproduces them; any kernel",
    tolerance=1e-8,
)


@dataclass(frozen=True, slots=True)
class Setting:
    """The hypercube of d bits, n of its points seen; the network that is reported beside it."""

    d: int = 8
    n: int = 64
    ridge: float = 0.3
    functions: int = 32
    width: int = 64
    steps: int = 400


def kernels(points: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    """Three kernels on the domain: of the distance, of a wide network, and of nothing (a random positive matrix)."""
    size, d = points.shape
    apart = torch.cdist(points, points)
    mixed = torch.randn(size, 2 * size, generator=generator, dtype=torch.float64)
    return {
        "Gaussian": torch.exp(-apart.square() / (2 * d)),
        "ReLU tangent": relu_kernel(torch.cat([points, torch.ones(size, 1).double()], 1))
        / d,  # without a bias it can be singular
        "random": mixed @ mixed.T / (2 * size),
    }


def nearest(points: Tensor) -> Learner:
    """Every point takes the label of the nearest row that was seen, the first of those equally near."""

    def learn(rows: Tensor, labels: Tensor) -> Tensor:
        return labels[torch.cdist(points, points[rows]).argmin(1)]

    return learn


def classifier(learner: Learner) -> Learner:
    """The sign of what a learner returns: no longer linear in the labels."""

    def learn(rows: Tensor, labels: Tensor) -> Tensor:
        return torch.where(learner(rows, labels) >= 0, 1.0, -1.0).double()

    return learn


def network(points: Tensor, width: int, steps: int, generator: torch.Generator) -> Learner:
    """Two-layer tanh networks, one for each function, full-batch Adam on the squared error."""

    def learn(rows: Tensor, labels: Tensor) -> Tensor:
        count, d = labels.shape[1], points.shape[1]
        first = torch.randn(count, d, width, generator=generator) / d**0.5
        bias = torch.randn(count, 1, width, generator=generator)
        last = torch.randn(count, width, 1, generator=generator) / width**0.5
        weights = [part.requires_grad_() for part in (first, bias, last)]
        x, y = points.float(), labels.T.float()[..., None]
        adam = torch.optim.Adam(weights, lr=0.01)
        for _ in range(steps):
            adam.zero_grad()
            loss = (torch.tanh(x[rows] @ first + bias) @ last - y).square().mean((1, 2)).sum()
            loss.backward()
            adam.step()
        with torch.no_grad():
            return (torch.tanh(x @ first + bias) @ last)[..., 0].T.double()

    return learn


def conservation(trial: Trial, setting: Setting = Setting()) -> LawResult:
    """The test with a setting of its own."""
    points, basis = parities(setting.d)
    n, size = setting.n, len(points)
    rows = trial.numpy("rows").choice(size, n, replace=False)
    grams = kernels(points, trial.torch("kernel"))
    checks: list[Check] = []
    for name, gram in grams.items():
        total = total_learnability(kernel_learner(gram), basis, rows)
        assert total.value is not None
        checks.append(exactly(f"Σ L, {name} kernel", n, total.value, ROUNDING * n, "functions", total.method, n))
        seen = gram[rows][:, rows]
        told = float(torch.linalg.solve(seen + setting.ridge * torch.eye(n, dtype=torch.float64), seen).trace())
        total = total_learnability(kernel_learner(gram, setting.ridge), basis, rows)
        assert total.value is not None
        checks.append(exactly(f"Σ L, {name} kernel with a ridge", told, total.value, ROUNDING * n, "functions", total.method, n))
        less = certain(n - total.value, "functions", "n less Σ L with a ridge", n)
        checks.append(bound(f"what the ridge takes from n, {name} kernel", less, (ROUNDING * n, math.inf)))
    total = total_learnability(nearest(points), basis, rows)
    assert total.value is not None
    checks.append(exactly("Σ L, nearest neighbour", n, total.value, ROUNDING * n, "functions", total.method, n))

    degrees = _degrees(setting.d)
    learner = kernel_learner(grams["Gaussian"])
    part = total_learnability(learner, basis[:, np.flatnonzero(degrees <= 2)], rows)
    whole = total_learnability(classifier(learner), basis, rows)
    assert part.value is not None and whole.value is not None
    control = Control.of(
        "the sign of the same kernel's predictions, which is not linear in the labels; and functions of degree 2 and less alone",
        "violated",
        [
            exactly("Σ L, sign of the prediction", n, whole.value, ROUNDING * n, "functions", whole.method, n),
            exactly("Σ L over an incomplete basis", n, part.value, ROUNDING * n, "functions", part.method, n),
        ],
    )
    figure, details = _reported(trial, setting, points, basis, rows, degrees, grams["Gaussian"])
    where = f"hypercube of {setting.d} bits, {n} of {size} points"
    return LawResult.of(CONSERVATION, where, checks, control, figure=figure, details=details)


def _reported(
    trial: Trial, setting: Setting, points: Tensor, basis: Tensor, rows: np.ndarray, degrees: np.ndarray, gram: Tensor
) -> tuple[Figure, dict[str, object]]:
    """Where the n functions go: learnability by degree, foretold and found, and a network's, of which nothing is asserted."""
    shares = learnabilities(kernel_learner(gram), basis, rows).numpy()
    values = ((basis * (gram @ basis)).sum(0) / len(points) ** 2).clamp_min(1e-300)  # eigenvalues: characters diagonalise it
    told = eigenlearning(values, setting.n)
    foretold = (values / (values + told.kappa)).numpy()
    chosen = trial.numpy("network").choice(len(points), min(setting.functions, len(points)), replace=False)
    learner = network(points, setting.width, setting.steps, trial.torch("network"))
    found = learnabilities(learner, basis[:, chosen], rows).numpy()
    kinds = np.arange(setting.d + 1)
    series = [
        Series.of("eigenlearning", "predicted", kinds, [foretold[degrees == k].mean() for k in kinds]),
        Series.of("Gaussian kernel", "measured", kinds, [shares[degrees == k].mean() for k in kinds]),
        Series.of("tanh networks (not asserted)", "guide", degrees[chosen], found),
    ]
    figure = Figure.of("How much of each function is learned", "degree of the parity", "learnability (1)", series)
    total = mean(len(points) * found, trial.level, "functions", f"{len(points)} times the mean over {len(chosen)} functions")
    return figure, {"network": {"total": total.value, "low": total.low, "high": total.high, "rows": setting.n}}


def _degrees(d: int) -> np.ndarray:
    return np.array([number.bit_count() for number in range(2**d)])


@entry(
    CONSERVATION,
    source="Simon, Dickens, Karkada & DeWeese, arXiv 2110.03922",
    control="a classifier (the sign of the prediction) and a basis that is not complete: violated",
    seconds=2,
)
def conservation_of_learnability(trial: Trial) -> LawResult:
    """On the 256 corners of a cube a learner sees 64, and is asked in turn to learn each of 256 functions that are orthogonal
    to one another. However a kernel prefers some functions, what it learns of all of them adds up to 64: it can only move its
    budget. The sum must hold to rounding for three kernels, one of them random, fall short with a ridge by what the trace says,
    and hold for the nearest neighbour, which is no kernel: what it needs is linearity in the labels, and that they are
    reproduced. Small networks are reported beside it, and nothing is asserted of them."""
    return conservation(trial)
