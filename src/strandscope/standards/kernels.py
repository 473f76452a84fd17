"""Standards of over-parameterised linear and kernel models.

Truths are eigenvalues that were planted, solves that were done another way, and closed forms: 𝓔₀ = p/(p − n) of a white spectrum;
κ = (π/(2n + 1))² of λ_i = i⁻² without end, from Σ 1/(1 + κi²) = (x coth x − 1)/2 with x = π/√κ; the trace of a linear learner.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from ..statistics.kernel import benign, learnability
from ..statistics.kernel.alignment import alignment, kernel_alignment, target_alignment
from ..statistics.kernel.benign import benign_ranks, excess_bound
from ..statistics.kernel.descent import least_squares_risk
from ..statistics.kernel.eigenlearning import Eigenlearning, eigenlearning, overfitting_coefficient
from ..statistics.kernel.learnability import kernel_learner, learnabilities, parities, total_learnability
from ..statistics.kernel.ridge import KernelRidge
from .mutation import Mutation
from .spectra import power_law, rotation
from .standard import Bands, Draw, Outcome, case


def planted(draw: Draw, values: Tensor) -> Tensor:
    """A symmetric matrix with these eigenvalues, turned at random."""
    basis = rotation(draw, len(values), len(values))
    matrix = (basis * values) @ basis.T
    return (matrix + matrix.T) / 2


@case(
    "effective dimension and GCV of a planted kernel",
    "statistics.kernel.ridge.KernelRidge",
    "Σλ/(λ + nρ); ‖Y − Ŷ‖²/n/(1 − d/n)² by solving",
    Bands(error=1e-9),
    (5, 10, 100),
    Mutation("n forgotten in the penalty", KernelRidge._inverse, "self.n * ridge_of(ridge)", "ridge_of(ridge)"),
    Mutation("missing square of 1 − d/n", KernelRidge.gcv, "/ scale**2", "/ scale"),
    source="planted eigenvalues; float64 solve",
    unit="relative",
)
def ridge(draw: Draw) -> Outcome:
    """40 rows, eigenvalues 1/i, ridge .02, two columns of targets."""
    values, n, rho = power_law(1.0, 40).numpy(), 40, 0.02
    gram, targets = planted(draw, power_law(1.0, 40)), draw.normal(40, 2)
    dimension = sum(value / (value + n * rho) for value in values)
    residual = targets.numpy() - gram.numpy() @ np.linalg.solve(gram.numpy() + n * rho * np.eye(n), targets.numpy())
    truth = np.array([dimension, np.square(residual).sum() / n / (1 - dimension / n) ** 2])
    fit = KernelRidge.of(gram, targets)
    found = np.array([fit.effective_dimension(rho).value, fit.gcv(rho).value])
    return Outcome.farthest(found / truth, np.ones(2))


@case(
    "GCV foretells the error on new rows",
    "statistics.kernel.ridge.KernelRidge.gcv",
    "‖w − ŵ‖² + σ²",
    Bands(bias=0.03),
    (20, 40, 1500),
    Mutation("missing square of 1 − d/n", KernelRidge.gcv, "/ scale**2", "/ scale"),
    Mutation("the training error itself", KernelRidge.gcv, "/ scale**2", "* (self.n * ridge) ** 2"),
    source="white inputs: the error is a distance",
    unit="relative",
)
def foretold(draw: Draw) -> Outcome:
    """120 white rows in 200 dimensions, a linear target of length 1, noise of variance .25, ridge .5."""
    n, d, rho = 120, 200, 0.5
    rows, weight = draw.normal(n, d), draw.normal(d)
    weight = weight / weight.norm()
    y = rows @ weight + 0.5 * draw.normal(n)
    fit = KernelRidge.of(rows @ rows.T, y)
    learned = rows.T @ torch.linalg.solve(rows @ rows.T + n * rho * torch.eye(n, dtype=torch.float64), y)
    truth = float((learned - weight).square().sum()) + 0.25
    return Outcome.of(fit.gcv(rho), truth, relative=True)


@case(
    "overfitting coefficient of a white spectrum",
    "statistics.kernel.eigenlearning.overfitting_coefficient",
    "p/(p − n); with a ridge by the quadratic for κ",
    Bands(error=1e-9),
    (5, 10, 100),
    Mutation(
        "missing square of the learnability", Eigenlearning.overfitting, "np.square(self.learnabilities)", "self.learnabilities"
    ),
    Mutation("the ridge's sign", eigenlearning, "+ ridge / kappa - n", "- ridge / kappa - n"),
    unit="relative",
)
def white(draw: Draw) -> Outcome:
    """p and n at random, p from n + 1 on, every eigenvalue 1; δ = 0 and δ = 3."""
    n = int(draw.numpy.integers(5, 80))
    p = n + int(draw.numpy.integers(1, 400))
    flat = torch.ones(p, dtype=torch.float64)
    half = (p + 3 - n) / 2  # nκ² − (p + δ − n)κ − δ = 0
    kappa = (half + math.sqrt(half**2 + n * 3)) / n
    truth = np.array([p / (p - n), n / (n - p / (1 + kappa) ** 2)])
    found = np.array([overfitting_coefficient(flat, n).value, overfitting_coefficient(flat, n, 3.0).value], dtype=float)
    return Outcome.farthest(found / truth, np.ones(2))


@case(
    "κ and 𝓔₀ of a power law",
    "statistics.kernel.eigenlearning.eigenlearning",
    "κ = (π/(2n + 1))²; 𝓔₀ = 4n/(2n + 1)",
    Bands(error=1e-3),
    (2, 4, 20),
    Mutation("the top eigenvalue left out", eigenlearning, "kept / (kept + kappa)", "kept[1:] / (kept[1:] + kappa)"),
    source="Σ 1/(1 + κi²) in closed form",
    unit="relative",
)
def tempered(draw: Draw) -> Outcome:
    """λ_i = i⁻² up to i = 200,000, n from 60 to 100 rows."""
    n = int(draw.numpy.integers(60, 100))
    found = eigenlearning(power_law(2.0, 200_000), n)
    kappa = (math.pi / (2 * n + 1)) ** 2
    truth = 4 * n / (2 * n + 1)  # ΣL² = ΣL + κ dΣL/dκ = n − (2n + 1)/4
    return Outcome.farthest([found.kappa / kappa, float(found.overfitting().value or 0) / truth], [1, 1])


@case(
    "benign ranks",
    "statistics.kernel.benign",
    "r_k = R_k = p − k; bound k/n + n/(p − k)",
    Bands(error=1e-9),
    (5, 10, 100),
    Mutation("off by one: the largest of the head", benign_ranks, "kept[k:]", "kept[k - 1 :]"),
    Mutation("R's fraction turned over", excess_bound, "n / ranks.R.value", "ranks.R.value / n"),
    Mutation("off by one: the split", benign.benign_split, "float(enough[0])", "float(enough[0] + 1)"),
    source="a flat tail",
    unit="relative",
)
def ranks(draw: Draw) -> Outcome:
    """k eigenvalues from 50 to 100 before a flat tail of 1,000 ones, shuffled; 100 rows."""
    k, n = int(draw.numpy.integers(2, 9)), 100
    values = np.concatenate([draw.numpy.uniform(50, 100, k) * 100, np.ones(1000)])
    given = torch.as_tensor(draw.numpy.permutation(values))
    found = benign_ranks(given, k)
    bound = excess_bound(given, n)
    return Outcome.farthest([found.r.value, found.R.value, (bound.value or 0) / (k / n + n / 1000) * 1000], [1000, 1000, 1000])


@case(
    "exact risk of least squares",
    "statistics.kernel.descent.least_squares_risk",
    "b(1 + p/(n − p − 1)); a(1 − n/p) + b(1 + n/(p − n − 1))",
    Bands(bias=0.005),
    (2500, 4000, 60000),
    Mutation("the 1 of the Wishart mean forgotten, p < n", least_squares_risk, "p / (n - p - 1)", "p / (n - p)"),
    Mutation("the 1 forgotten, p > n", least_squares_risk, "n / (p - n - 1)", "n / (p - n)"),
    source="simulated draws, their risk known exactly",
    unit="relative",
)
def descent(draw: Draw) -> Outcome:
    """20 rows on 10 or 30 coordinates, a = .5, b = .8: the formula less what a draw's own inputs cost, averaged over noise."""
    n, p = 20, (10, 30)[int(draw.numpy.integers(2))]
    singular = torch.linalg.svdvals(draw.normal(n, p))
    missed = 0.5 * max(1 - n / p, 0.0)  # of a rotation's mean
    truth = missed + 0.8 * (1 + float((1 / singular.square()).sum()))
    found = least_squares_risk(n, p, 0.5, 0.8).value or 0.0
    return Outcome(found, truth, found)


@case(
    "learnability on the hypercube",
    "statistics.kernel.learnability.learnabilities",
    "ΣL = n; λ/(λ + δ) where all points are seen",
    Bands(error=1e-9),
    (5, 10, 100),
    Mutation("not divided by the domain's size", learnabilities, ".sum(0) / size", ".sum(0) / len(seen)"),
    Mutation("the ridge scaled by the rows", kernel_learner, "ridge * torch.eye", "ridge * len(rows) * torch.eye"),
    Mutation("bits of the sum for bits in common", learnability.parities, "bits @ bits.T", "bits + bits.T"),
    source="trace of a linear learner; characters of a group",
    unit="of the truth",
)
def learned(draw: Draw) -> Outcome:
    """Five bits, 12 points seen of a kernel of random eigenvalues; all 32 points with ridge .7."""
    _, basis = parities(5)
    values = torch.as_tensor(draw.numpy.uniform(0.5, 2.0, 32))
    gram = (basis * values) @ basis.T / 32
    rows = draw.numpy.choice(32, 12, replace=False)
    total = total_learnability(kernel_learner(gram), basis, rows).value or 0.0
    found = learnabilities(kernel_learner(gram, 0.7), basis, np.arange(32))
    return Outcome.farthest(np.append(found, total / 12), np.append(values / (values + 0.7), 1.0), 1.0)


@case(
    "alignment of a kernel with its own target",
    "statistics.kernel.alignment.target_alignment",
    "1 for K = yyᵀ + a constant",
    Bands(error=1e-9),
    (3, 6, 50),
    Mutation("not centred", alignment, "one, two = centred(first), centred(second)", "one, two = first, second"),
    unit="cosine",
)
def aligned(draw: Draw) -> Outcome:
    """30 rows, one target off the origin, K the product of the centred target with itself plus 5."""
    y = draw.normal(30) + 2
    middle = y - y.mean()
    reading = target_alignment(middle[:, None] * middle[None] + 5, y, draw.numpy, 19)
    return Outcome(reading.value or 0.0, 1.0)


@case(
    "alignment of unrelated rows",
    "statistics.kernel.alignment.kernel_alignment",
    "p ≤ .05 in 5 % of draws",
    Bands(level=0.05),
    (150, 300, 2000),
    Mutation(
        "the value itself not counted", kernel_alignment, "(1 + int((null >= value).sum()))", "0.5 * int((null >= value).sum())"
    ),
    source="exchangeable rows",
)
def unrelated(draw: Draw) -> Outcome:
    """16 rows in 4 dimensions and 16 in 6, Gaussian; 39 permutations."""
    one, two = draw.normal(16, 4), draw.normal(16, 6)
    null = kernel_alignment(one @ one.T, two @ two.T, draw.numpy, 39).null
    return Outcome(alarm=null is not None and null.p is not None and null.p <= 0.05)


STANDARDS = (ridge, foretold, white, tempered, ranks, descent, learned, aligned, unrelated)
