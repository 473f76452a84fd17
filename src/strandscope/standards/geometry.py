"""Standards of the dimension of data: covariances, spheres, tori, circulant features."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..statistics import dimension
from ..statistics.accumulators import Moments
from ..statistics.dimension import data_participation, two_nn
from ..statistics.spectrum import energy_dimension, participation_of
from .mutation import Mutation
from .spectra import power_law, rotation
from .standard import Bands, Draw, Outcome, case


@case(
    "data with a power-law covariance",
    "statistics.dimension.data_participation",
    "(Σ1/i)²/Σ1/i² = 13.4",
    Bands(bias=0.01, coverage=0.95),
    (200, 400, 2000),
    Mutation("uncentred", data_participation, "centred = wide - wide.mean(0)", "centred = wide - 0 * wide.mean(0)"),
    unit="log",
)
def covariance(draw: Draw) -> Outcome:
    """100 Gaussian rows in 60 dimensions about a mean of length 8."""
    values = power_law(1.0, 60)
    truth = float(values.sum() ** 2 / values.square().sum())
    return Outcome.of(data_participation(draw.normal(100, 60) * values.sqrt() + 8 / 60**0.5), truth, logarithm=True)


@case(
    "data in groups",
    "statistics.dimension.data_participation",
    "(Σ1/i)²/Σ1/i² = 10.1",
    Bands(bias=0.03, coverage=0.95),
    (200, 400, 2000),
    Mutation("groups forgotten", data_participation, "if groups is None:", "if True:"),
    unit="log",
)
def grouped(draw: Draw) -> Outcome:
    """64 groups of 3 rows in 30 dimensions that share half of their variance."""
    values, groups = power_law(1.0, 30), np.repeat(np.arange(64), 3)
    rows = (draw.normal(64, 30)[torch.as_tensor(groups)] + draw.normal(192, 30)) * values.sqrt()
    truth = float(values.sum() ** 2 / values.square().sum())
    return Outcome.of(data_participation(rows, groups), truth, logarithm=True)


def sphere(draw: Draw, points: int, d: int, ambient: int) -> Tensor:
    """Uniform on the d-sphere, turned into `ambient` dimensions."""
    rows = draw.normal(points, d + 1)
    return rows / rows.norm(dim=1, keepdim=True) @ rotation(draw, ambient, d + 1).T


@case(
    "flat torus, TwoNN",
    "statistics.dimension.two_nn",
    "2",
    Bands(bias=0.02, coverage=0.95),
    (150, 300, 2000),
    Mutation("missing square root: squared distances", dimension._two_nearest, ".log()", ".log() * 2"),
    Mutation("missing square root: a variance for an error", two_nn, "variance**0.5", "variance"),
    source="construction",
    unit="log",
)
def torus(draw: Draw) -> Outcome:
    """300 points (cos a, sin a, cos b, sin b), a and b uniform."""
    angles = torch.as_tensor(draw.numpy.uniform(0, 2 * np.pi, (300, 2)))
    return Outcome.of(two_nn(torch.cat([angles.cos(), angles.sin()], 1)), 2.0, logarithm=True)


@case(
    "sphere of two dimensions, TwoNN",
    "statistics.dimension.two_nn",
    "2",
    Bands(bias=0.02, coverage=0.95),
    (150, 300, 2000),
    Mutation("copies kept", two_nn, "alone = torch.unique(wide, dim=0)", "alone = wide"),
    source="construction",
    unit="log",
)
def ball(draw: Draw) -> Outcome:
    """300 points of a sphere in 7 dimensions, and ten copies of some of them."""
    points = sphere(draw, 300, 2, 7)
    return Outcome.of(two_nn(torch.cat([points, points[:10]])), 2.0, logarithm=True)


@case(
    "sphere of four dimensions, TwoNN",
    "statistics.dimension.two_nn",
    "4",
    Bands(bias=0.05, coverage=0.95),
    (100, 200, 2000),
    Mutation("missing square root: squared distances", dimension._two_nearest, ".log()", ".log() * 2"),
    source="construction",
    unit="log",
)
def large(draw: Draw) -> Outcome:
    """400 points of a sphere in 20 dimensions: curvature begins to tell."""
    return Outcome.of(two_nn(sphere(draw, 400, 4, 20)), 4.0, logarithm=True)


@case(
    "circulant features of modular addition",
    "statistics.accumulators.Moments, statistics.spectrum",
    "rank and PR 2K = 6, covariance circulant",
    Bands(error=1e-9),
    (2, 5, 20),
    Mutation("missing square: tr M for (tr M)²", participation_of, "** 2 / square", "/ square"),
    Mutation("shards merged about their own means", Moments._join, "alpha=self.n * n / total", "alpha=0.0"),
    source="characters of Z/p",
    unit="of 6",
)
def circulant(draw: Draw) -> Outcome:
    """The p = 31 words of an embedding with K = 3 frequencies of one amplitude, turned and off the origin in 20 dimensions."""
    frequencies = draw.numpy.choice(np.arange(1, 16), 3, replace=False)
    angles = torch.as_tensor(2 * np.pi / 31 * np.outer(np.arange(31), frequencies))
    words = torch.cat([angles.cos(), angles.sin()], 1) @ rotation(draw, 20, 6).T + 0.5
    moments = Moments(20)
    for part in words.split(7):
        moments.update(part)
    found = moments.result().covariance
    gram = (words - moments.result().mean) @ (words - moments.result().mean).T
    turned = gram.roll((1, 1), (0, 1))
    dimensions = (participation_of(found), float(energy_dimension(found, 0.999)))
    return Outcome(max(Outcome.farthest(dimensions, (6, 6)).error, float((gram - turned).abs().max())))


STANDARDS = (covariance, grouped, torus, ball, large, circulant)
