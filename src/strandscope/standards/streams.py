"""Standards of statistics that merge: any split into shards, merged in any order, against all rows at once in numpy."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..statistics.accumulators import ClassMoments, Moments, OuterProducts, Quantiles, SketchedProducts, outer_products
from ..statistics.accumulators.counts import Buckets
from ..statistics.accumulators.outer import DenseProducts
from .mutation import Mutation
from .spectra import power_law, rotation
from .standard import Bands, Draw, Outcome, case

NUMPY = "numpy, all rows at once, float64"


def shards(draw: Draw, rows: Tensor) -> list[Tensor]:
    """Three uneven parts in another order."""
    cuts = sorted(draw.numpy.choice(np.arange(1, len(rows)), 2, replace=False).tolist())
    parts = [rows[: cuts[0]], rows[cuts[0] : cuts[1]], rows[cuts[1] :]]
    return [parts[k] for k in draw.numpy.permutation(3)]


@case(
    "covariance of shards",
    "statistics.accumulators.Moments",
    "Σ(x − mean)(x − mean)ᵀ/(n − 1)",
    Bands(error=1e-7),
    (3, 10, 100),
    Mutation("shards merged about their own means", Moments._join, "alpha=self.n * n / total", "alpha=0.0"),
    Mutation("off by one: the mean of unequal shards", Moments._join, "apart * (n / total)", "apart * (n / (total + 1))"),
    source=NUMPY,
    unit="of the largest entry",
)
def merged(draw: Draw) -> Outcome:
    """200 rows in 8 dimensions about a mean of a million, in three shards."""
    rows = draw.normal(200, 8) * power_law(1.0, 8) + 1e6
    parts = []
    for shard in shards(draw, rows):
        parts.append(Moments(8))
        parts[-1].update(shard)
    for other in parts[1:]:
        parts[0].merge(other)
    return Outcome.farthest(parts[0].result().covariance, np.cov(rows.numpy().T))


@case(
    "outer products in three forms",
    "statistics.accumulators.outer_products",
    "⟨ggᵀ⟩, its trace and tr M² over pairs",
    Bands(error=1e-9),
    (2, 10, 100),
    Mutation("centred", DenseProducts.matrix, "0.0 if centred", "0.0 if not centred"),
    Mutation(
        "pairs of a row with itself left in", OuterProducts.result, " - self.fourth / self.n) / (self.n - 1)", ") / (self.n - 1)"
    ),
    source=NUMPY,
    unit="relative",
)
def products(draw: Draw) -> Outcome:
    """40 rows in 12 dimensions off the origin, in three shards: dense and Gram form; trace, pairs and top eigenvalue."""
    rows = draw.normal(40, 12) * power_law(0.5, 12) + 0.3
    plain = rows.numpy()
    gram = plain @ plain.T
    apart = gram[~np.eye(40, dtype=bool)]
    truth = [np.trace(gram) / 40, np.square(apart).mean(), np.linalg.svd(plain, compute_uv=False)[0] ** 2 / 40]
    worst = 0.0
    for form in ("dense", "gram"):
        parts = []
        for shard in shards(draw, rows):
            parts.append(outer_products(12, form, most=40))
            parts[-1].update(shard)
        for other in parts[1:]:
            parts[0].merge(other)
        found = parts[0].result()
        figures = [found.trace, found.square, float(found.top(1).values[0])]
        worst = max(worst, float(np.abs(np.array(figures) / truth - 1).max()))
    return Outcome(worst)


@case(
    "sketch of a low-rank metric",
    "statistics.accumulators.SketchedProducts",
    "the eigenvalues, since rank 6 < columns",
    Bands(error=1e-8),
    (2, 10, 50),
    Mutation("missing square root of Ω′MΩ", SketchedProducts._factor, ".abs() / 2).sqrt()", ".abs() / 2)"),
    Mutation("shards merged without their means", SketchedProducts._take, "alpha=weight", "alpha=0.0"),
    source="planted",
    unit="of the largest",
)
def sketched(draw: Draw) -> Outcome:
    """120 rows within 6 dimensions of 80, in three shards, sketched for 5 eigenvectors."""
    rows = (draw.normal(120, 6) * power_law(1.0, 6)) @ rotation(draw, 80, 6).T
    parts = []
    for shard in shards(draw, rows):
        parts.append(outer_products(80, "sketch", k=5, seed=draw.number))
        parts[-1].update(shard)
    for other in parts[1:]:
        parts[0].merge(other)
    truth = np.linalg.svd(rows.numpy(), compute_uv=False)[:5] ** 2 / 120
    return Outcome.farthest(parts[0].result().top(5).values, truth)


@case(
    "quantiles of a stream",
    "statistics.accumulators.Quantiles",
    "order statistics, within .1 %",
    Bands(error=0.00101),
    (3, 10, 100),
    Mutation("off by one rank in ten", Buckets.quantile, "math.floor(q * (self.n - 1))", "math.floor(q * (self.n - 1) * 0.9)"),
    Mutation("the bucket's upper end for its middle", Quantiles.result, "2 / (1 + math.exp(self._width))", "1.0"),
    source=NUMPY,
    unit="relative",
)
def quantiles(draw: Draw) -> Outcome:
    """Five quantiles of 2,000 numbers over six decades, of either sign, in three shards."""
    values = torch.as_tensor(draw.numpy.lognormal(0, 2, 2000) * draw.numpy.choice([-1.0, 1.0], 2000))
    parts = []
    for shard in shards(draw, values):
        parts.append(Quantiles(0.001))
        parts[-1].update(shard)
    for other in parts[1:]:
        parts[0].merge(other)
    places, ordered = (0.01, 0.25, 0.4, 0.75, 0.99), np.sort(values.numpy())
    truth = [ordered[int(q * 1999)] for q in places]
    return Outcome(float(np.abs(np.array([parts[0].result().quantile(q) for q in places]) / truth - 1).max()))


@case(
    "neural-collapse frames",
    "statistics.accumulators.ClassMoments",
    "tr(Σ_W Σ_B⁺)/K = σ²(K − 1)²/K",
    Bands(bias=0.01),
    (30, 60, 400),
    Mutation("a class's scatter about the joint mean", Moments.update, "centred = rows - mean", "centred = rows - 0 * mean"),
    source="simplex frame of unit means with noise N(0, σ²I)",
    unit="relative",
)
def collapse(draw: Draw) -> Outcome:
    """Four classes of 100 rows in 10 dimensions, means a simplex frame, σ = .2."""
    frame = (np.eye(4) - 0.25) * (4 / 3) ** 0.5
    means = torch.as_tensor(frame) @ rotation(draw, 10, 4).T
    labels = torch.arange(400) % 4
    moments = ClassMoments(4, 10)
    moments.update(means[labels] + 0.2 * draw.normal(400, 10), labels)
    found = moments.result()
    centred = (found.means - found.means.mean(0)).numpy()
    between = centred.T @ centred / 4
    values, vectors = np.linalg.eigh(between)
    inverse = (vectors[:, -3:] / values[-3:]) @ vectors[:, -3:].T  # of rank K − 1
    truth = 0.04 * 9 / 4
    return Outcome(float(np.trace(found.within.numpy() @ inverse)) / 4, truth, truth)


STANDARDS = (merged, products, sketched, quantiles, collapse)
