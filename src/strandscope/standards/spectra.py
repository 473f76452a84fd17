"""Standards of spectra: dimension, trace and overlap of metrics known through random rows.

Gaussian rows with covariance Λ have M = Λ, whatever their rotation. A linear softmax model with logits W h has the Fisher matrix
F = Wᵀ(diag p − ppᵀ)W exactly, and the score of a drawn token is Wᵀ(e_y − p).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..statistics import overlap as overlaps
from ..statistics import pairs
from ..statistics import participation as participations
from ..statistics.spectrum import (
    overlap,
    participation,
    trace,
)
from .mutation import Mutation
from .standard import Bands, Draw, Outcome, case

ROWS = 64  # draws by default


def power_law(exponent: float, d: int) -> Tensor:
    """Eigenvalues i^−exponent."""
    return torch.arange(1, d + 1, dtype=torch.float64) ** -exponent


def rotation(draw: Draw, d: int, k: int) -> Tensor:
    """(d, k) random orthonormal columns."""
    return torch.linalg.qr(draw.normal(d, k)).Q


def softmax(logits: Tensor) -> tuple[Tensor, Tensor]:
    """p and diag p − ppᵀ."""
    p = logits.softmax(0)
    return p, torch.diag(p) - p[:, None] * p[None]


def scores(draw: Draw, weight: Tensor, logits: Tensor, rows: int) -> Tensor:
    """(rows, d) scores Wᵀ(e_y − p) of drawn tokens."""
    p = logits.softmax(0)
    tokens = torch.multinomial(p, rows, replacement=True, generator=draw.torch)
    return weight[tokens] - p @ weight


@case(
    "isotropic spectrum, participation",
    "statistics.spectrum.participation",
    "PR = d = 48",
    Bands(bias=0.01, coverage=0.95),
    (300, 600, 2000),
    Mutation("every row paired with itself too", pairs.log_ratio, "b.masked_fill(own, 0.0)", "b"),
    Mutation("missing square root: a variance for an error", pairs.LogRatio.interval, "self.variance.sqrt()", "self.variance"),
    unit="log",
)
def isotropic(draw: Draw) -> Outcome:
    """64 Gaussian rows with M = I in 48 dimensions: the estimate is degenerate, its error comes from pairs."""
    return Outcome.of(participation(draw.normal(ROWS, 48)).reading(scores=False), 48.0, logarithm=True)


@case(
    "power-law spectrum, participation",
    "statistics.spectrum.participation",
    "PR = (Σ1/i)²/Σ1/i² = 21.1",
    Bands(bias=0.01, coverage=0.95),
    (300, 600, 5000),
    Mutation("swapped axis: the Gram matrix of coordinates", participation, "given @ given.T", "given.T @ given"),
    unit="log",
)
def falling(draw: Draw) -> Outcome:
    """64 Gaussian rows, rotated, eigenvalues 1/i in 200 dimensions."""
    values = power_law(1.0, 200)
    rows = draw.normal(ROWS, 200) * values.sqrt()
    return Outcome.of(participation(rows).reading(scores=False), float(values.sum() ** 2 / values.square().sum()), logarithm=True)


@case(
    "steep spectrum, participation",
    "statistics.spectrum.participation",
    "PR = (Σi⁻²)²/Σi⁻⁴ = 2.49",
    Bands(bias=0.02, coverage=0.95),
    (300, 600, 2000),
    Mutation("the jackknife without the factor 2² of pairs", pairs.log_ratio, "linear = 4 * row", "linear = row"),
    unit="log",
)
def steep(draw: Draw) -> Outcome:
    """64 Gaussian rows, eigenvalues 1/i² in 100 dimensions: few directions carry nearly all, and the estimate is skew."""
    values = power_law(2.0, 100)
    rows = draw.normal(ROWS, 100) * values.sqrt()
    return Outcome.of(participation(rows).reading(scores=False), float(values.sum() ** 2 / values.square().sum()), logarithm=True)


@case(
    "traces from pairs",
    "statistics.spectrum.participation",
    "tr M² = Σλ²",
    Bands(bias=0.0),
    (2000, 4000, 20000),
    Mutation("divided by all pairs", participations._from_grams, "pairs = rows * (rows - 1)", "pairs = rows * rows"),
    unit="relative",
)
def squares(draw: Draw) -> Outcome:
    """8 rows of unequal lengths, eigenvalues 1/i in 12 dimensions: no bias at all is claimed for tr M²."""
    values = power_law(1.0, 12)
    length = 1 + draw.numpy.integers(0, 2, 8)  # 1 or 2: mean square 5/2
    rows = draw.normal(8, 12) * values.sqrt() * torch.as_tensor(length)[:, None]
    truth = 6.25 * float(values.square().sum())
    return Outcome(participation(rows).square, truth, truth)


@case(
    "trace of a metric",
    "statistics.spectrum.trace",
    "tr M = Σλ",
    Bands(bias=0.005, coverage=0.95),
    (300, 600, 4000),
    Mutation("off by one power: a standard deviation for a standard error", trace, "len(rows) ** 0.5", "1.0"),
    unit="relative",
)
def whole(draw: Draw) -> Outcome:
    """64 Gaussian rows, eigenvalues 1/i in 200 dimensions."""
    values = power_law(1.0, 200)
    return Outcome.of(trace(draw.normal(ROWS, 200) * values.sqrt()), float(values.sum()), relative=True)


@case(
    "linear softmax model, Fisher matrix",
    "statistics.spectrum.participation",
    "PR of Wᵀ(diag p − ppᵀ)W",
    Bands(bias=0.02, coverage=0.95),
    (300, 600, 2000),
    Mutation("Gram entries not squared", participations._from_grams, "squares = unit.square()", "squares = unit.abs()"),
    unit="log",
)
def fisher(draw: Draw) -> Outcome:
    """Scores of 64 tokens drawn from a softmax over 40 words with weights in 24 dimensions, entropy about 3 nats."""
    weight, logits = draw.normal(40, 24), 1.2 * draw.normal(40)
    _, covariance = softmax(logits)
    metric = (weight.T @ covariance @ weight).numpy()
    truth = float(np.trace(metric) ** 2 / np.square(metric).sum())
    return Outcome.of(participation(scores(draw, weight, logits, ROWS)).reading(), truth, logarithm=True)


@case(
    "softmax of unrelated outcomes",
    "statistics.spectrum.participation",
    "PR of Wᵀ(diag p − ppᵀ)W",
    Bands(bias=0.02, coverage=0.95),
    (200, 400, 2000),
    Mutation("sign of the pairs' skewness", pairs.log_ratio, "+ _Z**2 / 2 * slope", "- _Z**2 / 2 * slope"),
    unit="log",
)
def unrelated(draw: Draw) -> Outcome:
    """Scores of 64 of 2,000 words at right angles but for chance, 64 dimensions, 6.5 nats: pairs of one word carry a quarter."""
    weight, logits = draw.normal(2000, 64), 1.5 * draw.normal(2000)
    p = logits.softmax(0)
    centred = (weight - p @ weight) * p.sqrt()[:, None]
    values = np.linalg.svd(centred.numpy(), compute_uv=False) ** 2
    truth = float(values.sum() ** 2 / np.square(values).sum())
    return Outcome.of(participation(scores(draw, weight, logits, ROWS)).reading(), truth, logarithm=True)


@case(
    "nearly certain softmax",
    "statistics.spectrum.participation",
    '"not measured"',
    Bands(error=0.0),
    (200, 400, 2000),
    Mutation(
        "no look at how few rows carry the trace",
        participations.Participation.unreadable,
        "if self.carriers < LEAST_CARRIERS:",
        "if False:",
    ),
    source="by construction: what carries the metric was not drawn",
    unit="readings given",
)
def certain(draw: Draw) -> Outcome:
    """64 draws from a softmax whose first word has probability .98: one or two draws in 64 carry nearly all of the trace."""
    weight = draw.normal(40, 24)
    logits = torch.full((40,), float(np.log(0.02 / 39)), dtype=torch.float64)
    logits[0] = float(np.log(0.98))
    reading = participation(scores(draw, weight, logits, ROWS)).reading()
    return Outcome(float(reading.value is not None))


@case(
    "overlap of contexts, limit",
    "statistics.spectrum.overlap",
    "1/ω = 4/(1 + 1/(d − 1))",
    Bands(bias=0.03, coverage=0.95),
    (150, 300, 8000),
    Mutation("traces not divided out", overlap, "_weights(lengths)", "torch.full_like(lengths, 1 / wide.shape[1])"),
    unit="log",
)
def limit(draw: Draw) -> Outcome:
    """32 contexts of 32 Gaussian rows: a common direction of weight U(0, 1), the rest along one of the context's own, d = 32."""
    return Outcome.of(overlap(_contexts(draw, 32)).pooled(), 4 / (1 + 1 / 31), logarithm=True)


@case(
    "overlap of contexts, at N",
    "statistics.spectrum.overlap",
    "1/PR_N = ⟨1/PR⟩/N + (1 − 1/N)ω",
    Bands(bias=0.03),
    (100, 200, 1000),
    Mutation("the share 1 − 1/N of pairs forgotten", overlaps.Overlap.at, "(1 - 1 / n) * self.omega", "self.omega"),
    unit="relative",
)
def finite(draw: Draw) -> Outcome:
    """The same contexts, their pooled dimension foretold for N = 4."""
    truth = (2 / 3) / 4 + 0.75 * (1 + 1 / 31) / 4
    return Outcome(1 / overlap(_contexts(draw, 32)).at(4), truth, truth)


def _contexts(draw: Draw, count: int, rows: int = 32, d: int = 32) -> Tensor:
    """(count, rows, d): F = w e₀e₀ᵀ + (1 − w) vvᵀ, w ~ U(0, 1), v uniform at right angles to e₀, times a scale of its own."""
    share = torch.as_tensor(draw.numpy.random(count))[:, None, None]
    own = draw.normal(count, 1, d)
    own[..., 0] = 0
    own = own / own.norm(dim=-1, keepdim=True)
    found = (1 - share).sqrt() * draw.normal(count, rows, 1) * own
    found[..., 0] += (share.sqrt() * draw.normal(count, rows, 1))[..., 0]
    return found * torch.as_tensor(draw.numpy.lognormal(0, 1, count))[:, None, None].sqrt()


STANDARDS = (isotropic, falling, steep, squares, whole, fisher, unrelated, certain, limit, finite)
