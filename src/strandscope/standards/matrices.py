"""Standards of matrices whose spectra are known: what random ones give, and how many directions hold a share of the trace."""

from __future__ import annotations

import numpy as np
import torch

from .. import linalg
from ..statistics import spectrum
from ..statistics.spectrum import energy_dimension, energy_reading, participation_of, top_eigenvalues
from .mutation import Mutation
from .spectra import power_law, rotation
from .standard import Bands, Draw, Outcome, case

TRACY_WIDOM = -1.2065335745820  # mean of the law of the largest eigenvalue of real matrices


@case(
    "Marchenko–Pastur edge",
    "statistics.spectrum.top_eigenvalues",
    "((√(n − 1) + √d)² + σ·⟨TW⟩)/n",
    Bands(bias=0.005),
    (30, 60, 3000),
    Mutation("swapped axis: the mean over coordinates", linalg.top_of_rows, "1 / n if weight is None", "1 / d if weight is None"),
    source="Johnstone (2001)",
    unit="relative",
)
def edge(draw: Draw) -> Outcome:
    """The largest eigenvalue of the covariance of 120 white rows in 200 dimensions, through their Gram matrix."""
    n, d = 120, 200
    a, b = (n - 1) ** 0.5, d**0.5
    truth = ((a + b) ** 2 + (a + b) * (1 / a + 1 / b) ** (1 / 3) * TRACY_WIDOM) / n
    return Outcome(float(top_eigenvalues(draw.normal(n, d), 1).values[0]), truth, truth)


@case(
    "Marchenko–Pastur bulk",
    "statistics.spectrum.participation_of",
    "E tr S² = d + d(d + 1)/n",
    Bands(bias=0.005),
    (30, 60, 300),
    Mutation("missing square: tr M for (tr M)²", participation_of, "** 2 / square", "/ square"),
    source="Wishart moments",
    unit="relative",
)
def bulk(draw: Draw) -> Outcome:
    """Participation ratio of the covariance of 300 white rows in 150 dimensions, which is far below 150."""
    rows = draw.normal(300, 150)
    truth = 150**2 / (150 + 150 * 151 / 300)
    return Outcome(participation_of(rows.T @ rows / 300), truth, truth)


@case(
    "spiked covariance, BBP",
    "statistics.spectrum.top_eigenvalues",
    "cos² = (1 − γ/θ²)/(1 + γ/θ)",
    Bands(bias=0.005),
    (30, 60, 300),
    Mutation("eigenvectors in the other order", linalg.eigh, "vectors.flip(1)", "vectors"),
    source="Baik, Ben Arous & Péché (2005); Paul (2007)",
    unit="cos²",
)
def spike(draw: Draw) -> Outcome:
    """One direction of variance 1 + 4 among 200 white ones, 400 rows: how far the first eigenvector lies along it."""
    rows = draw.normal(400, 200)
    rows[:, 0] *= 5**0.5
    gamma = 0.5
    truth = (1 - gamma / 16) / (1 + gamma / 4)
    return Outcome(float(top_eigenvalues(rows, 1).vectors[0, 0] ** 2), truth)


@case(
    "residual bounds",
    "statistics.spectrum.top_eigenvalues",
    "|λ̂ − λ| ≤ ‖Av − λ̂v‖",
    Bands(error=1e-12),
    (10, 20, 200),
    Mutation("eigenvalues of a sum of rows", linalg.top_of_rows, "eigh(weight * wide @ wide.T", "eigh(wide @ wide.T"),
    source="float64 singular values",
    unit="of λ₁, beyond the bound",
)
def bounds(draw: Draw) -> Outcome:
    """Ten eigenvalues of 30 rows in 50 dimensions, eigenvalues 1/i, against singular values."""
    rows = draw.normal(30, 50) * power_law(1.0, 50).sqrt()
    truth = np.linalg.svd(rows.numpy(), compute_uv=False)[:10] ** 2 / 30
    found = top_eigenvalues(rows, 10)
    beyond = np.abs(found.values.numpy() - truth) - np.minimum(found.residuals.numpy(), 1e-10 * truth[0])
    return Outcome(max(float(beyond.max()) / truth[0], 0.0))


@case(
    "energy dimension",
    "statistics.spectrum.energy_dimension",
    "37 of 100 equal-step eigenvalues hold 60 %",
    Bands(error=0.0),
    (3, 10, 50),
    Mutation("off by one", spectrum._energy, ".sum()) + 1", ".sum())"),
    unit="dimensions",
)
def energy(draw: Draw) -> Outcome:
    """A rotated matrix with eigenvalues 100, 99, …, 1: Σ of the first k is k(201 − k)/2, of all 5050."""
    basis = rotation(draw, 100, 100)
    matrix = (basis * torch.arange(100.0, 0, -1, dtype=torch.float64)) @ basis.T
    truth = next(k for k in range(1, 101) if k * (201 - k) / 2 >= 0.6 * 5050)
    return Outcome(float(energy_dimension((matrix + matrix.T) / 2, 0.6)), float(truth))


@case(
    "energy dimension of too few rows",
    "statistics.spectrum.energy_reading",
    '"not measured"',
    Bands(error=0.0),
    (10, 20, 200),
    Mutation("halves never compared", energy_reading, "max(1.0, 0.1 * whole)", "max(1.0, whole)"),
    source="40 rows span no more than 40 of 300 dimensions",
    unit="readings given",
)
def growing(draw: Draw) -> Outcome:
    """40 white rows in 300 dimensions: 270 directions hold 90 %, and 40 rows show at most 36."""
    return Outcome(float(energy_reading(draw.normal(40, 300)).value is not None))


STANDARDS = (edge, bulk, spike, bounds, energy, growing)
