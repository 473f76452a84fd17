"""Standards of quantities that laws of features need: the neural feature ansatz, FACT, neural collapse, circulant structure."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..statistics import circulant, collapse
from ..statistics.circulant import circulant_deviation, fourier_participation, fourier_power
from ..statistics.collapse import ClassSums
from ..strand import fact, nfa
from ..strand.fact import FactSums
from ..strand.nfa import NFASpec, Slopes, matched, nfa_exponent, powered, random_layer
from .mutation import Mutation
from .spectra import rotation
from .standard import Bands, Draw, Outcome, case


def simplex(draw: Draw, classes: int, d: int) -> Tensor:
    """(classes, d) unit vectors at cosines of −1/(classes − 1), in general position, shifted together."""
    flat = torch.eye(classes, dtype=torch.float64) - 1 / classes
    return (classes / (classes - 1)) ** 0.5 * flat @ rotation(draw, d, classes).T


def white(draw: Draw, n: int, d: int) -> Tensor:
    """Rows (n, d) with mean 0 and covariance I exactly."""
    rows = draw.normal(n, d)
    rows = rows - rows.mean(0)
    return torch.linalg.qr(rows).Q * n**0.5


def collapsed(draw: Draw, sigma: float, classes: int = 5, d: int = 9, each: int = 20) -> tuple[ClassSums, Tensor]:
    """Sums of a simplex with noise σ²I within every class, fed in two shards of three batches; and the simplex."""
    means = simplex(draw, classes, d)
    offset = draw.normal(d)
    rows = torch.cat([offset + mean + sigma * white(draw, each, d) for mean in means])
    labels = torch.arange(classes).repeat_interleave(each)
    order = torch.randperm(len(rows), generator=draw.torch)
    shards = [ClassSums(classes, d, centres=offset + means) for _ in range(2)]
    for number, part in enumerate(order.tensor_split(6)):
        shards[number % 2].update(rows[part], labels[part], -torch.cdist(rows[part], offset + means))
    shards[0].merge(shards[1])
    return shards[0], means


@case(
    "neural collapse of a simplex with noise",
    "statistics.collapse.ClassSums",
    "NC1 = σ²(K − 1)²/K",
    Bands(error=1e-10),
    (2, 5, 20),
    Mutation("merged without the shift of the means", ClassSums._join, "+ (apart * weight[:, None]).T @ apart", ""),
    Mutation("a ratio of traces", ClassSums.result, "float((within / values).sum())", "float(within.sum() / values.sum())"),
    unit="relative",
)
def noisy(draw: Draw) -> Outcome:
    """Five unit vectors at cosines of −1/4 in nine dimensions, noise of covariance σ²I exactly, σ = .3; two shards."""
    found = collapsed(draw, 0.3)[0].result().nc1
    truth = 0.09 * 16 / 5
    return Outcome(found, truth, truth)


@case(
    "neural collapse, a simplex",
    "statistics.collapse.Collapse",
    "NC2 = NC3 = NC4 = 0",
    Bands(error=1e-9),
    (2, 5, 20),
    Mutation("cosines of means that are not centred", ClassSums.result, "cosines = (centred /", "cosines = (self.means /"),
    Mutation("class means not centred", collapse.Collapse.nc3, "self.means - self.means.mean(0)", "self.means"),
    Mutation("the farthest class mean", ClassSums._judge, ".argmin(1)", ".argmax(1)"),
    unit="largest of the four figures",
)
def ideal(draw: Draw) -> Outcome:
    """The same with σ = .05; the classifier's rows are three times the simplex, its logits the distances to class means."""
    sums, means = collapsed(draw, 0.05)
    found = sums.result()
    return Outcome(max(found.norms, found.angles, found.nc3(3 * means), found.nc4 if found.nc4 is not None else 1.0))


def balanced(draw: Draw, depth: int, d: int = 12) -> tuple[Tensor, Tensor]:
    """First layer and product (d, d) of balanced linear layers: singular values s^(1/L) each, in matching frames."""
    frames = [rotation(draw, d, d) for _ in range(depth + 1)]
    each = torch.linspace(1.0, 0.1, d, dtype=torch.float64) ** (1 / depth)
    layers = [(frames[number + 1] * each) @ frames[number].T for number in range(depth)]
    product = layers[0]
    for layer in layers[1:]:
        product = layer @ product
    return layers[0], product


@case(
    "balanced linear layers, exponent",
    "strand.nfa.nfa_exponent",
    "1/L, and a cosine of 1 there",
    Bands(error=1e-9),
    (2, 5, 20),
    Mutation("singular values for eigenvalues", nfa_exponent, "image.square().sum(0).log()", "image.norm(dim=0).log()"),
    Mutation(
        "power of the entries", powered, "(vectors * values.clamp_min(0) ** exponent) @ vectors.T", "matrix.abs() ** exponent"
    ),
    unit="largest of both errors",
)
def exponents(draw: Draw) -> Outcome:
    """Networks of 2, 3 and 4 layers in twelve dimensions with singular values of the product from 1 to .1."""
    off = 0.0
    for depth in (2, 3, 4):
        first, product = balanced(draw, depth)
        agop = product.T @ product
        off = max(off, abs(nfa_exponent(first, agop) - 1 / depth))
        off = max(off, 1 - matched(first.T @ first, powered(agop, 1 / depth)))
    return Outcome(off)


@case(
    "neural feature ansatz, Jacobians of a network",
    "strand.nfa.nfa",
    "cosine by loops",
    Bands(error=1e-10),
    (2, 5, 20),
    Mutation("Jacobians centred where they must not be", Slopes.metric, "if centred else whole", "if not centred else whole"),
    Mutation(
        "sums over blocks that differ in size, as means", Slopes.metric, "self.outer[kept].sum(0) / n", "self.outer[kept].mean(0)"
    ),
    Mutation("start not taken off", nfa.nfa, "moved = wide - _weight(", "moved = wide - 0 * _weight("),
    source="loops in numpy, float64",
    unit="1",
)
def cosine(draw: Draw) -> Outcome:
    """Six tanh units, two outputs, 41 inputs in four dimensions; two of the published definitions and two centrings of them."""
    weight, start, last, x = draw.normal(6, 4), draw.normal(6, 4), draw.normal(2, 6), draw.normal(41, 4)
    jacobians = last[None] * (1 - (x @ weight.T).tanh().square())[:, None]
    slopes, off = Slopes.of(jacobians, blocks=6), 0.0
    for centred in (False, True):
        rows = [last.numpy() * (1 - np.tanh(weight.numpy() @ z) ** 2) for z in x.numpy()]
        rows = [row - np.mean(rows, 0) * centred for row in rows]
        metric = sum(row.T @ row for row in rows) / 41
        moved = (weight - start).numpy()
        for preset, through in (("deep", weight.numpy()), ("centred", moved)):
            one, other = moved.T @ moved, through.T @ metric @ through
            if preset == "centred":
                one, other = one - one.mean(), other - other.mean()
            truth = (one * other).sum() / np.sqrt((one**2).sum() * (other**2).sum())
            found = nfa.nfa(weight, slopes, NFASpec.preset(preset, centre_jacobians=centred), start=start)
            off = max(off, abs((found.value or 0.0) - float(truth)))
    return Outcome(off)


@case(
    "neural feature ansatz of a random layer",
    "strand.nfa.random_layer",
    "the mean over random layers",
    Bands(bias=0.02),
    (20, 40, 200),
    Mutation("missing square root", random_layer, "math.sqrt(spread * (d", "(spread * (d"),
    Mutation("as many units as dimensions", random_layer, "k = len(metric)", "k = d"),
    source="random layers themselves",
    unit="log",
)
def untrained(draw: Draw) -> Outcome:
    """Ten Gaussian layers of five units in 80 dimensions, K with eigenvalues (1, ½, ⅓, ¼, ⅕)²: their mean cosine."""
    metric = torch.diag(1 / torch.arange(1, 6, dtype=torch.float64) ** 2)
    slopes = Slopes(torch.ones(1).double(), metric[None], torch.zeros(1, 1, 5).double())
    layers = [draw.normal(5, 80) for _ in range(10)]
    mean = sum(matched(w.T @ w, w.T @ slopes.metric() @ w) for w in layers) / 10
    return Outcome(float(np.log(mean)), float(np.log(random_layer(metric, 80, NFASpec(1.0)))))


@case(
    "FACT of ridge regression",
    "strand.fact.FactSums",
    "residual 0",
    Bands(error=1e-9),
    (2, 5, 20),
    Mutation("a sum for the mean", fact.FactSums.result, "-decay * self.n", "-decay"),
    Mutation("sign of the gradient", fact.FactSums.result, "(-decay * self.n)", "(decay * self.n)"),
    unit="share of ‖WᵀW‖",
)
def ridge(draw: Draw) -> Outcome:
    """W = argmin ⟨‖Wx − y‖²⟩/2 + λ‖W‖²/2 by normal equations, three outputs, 30 rows in seven dimensions, λ = .1, two shards."""
    x, y = draw.normal(30, 7), draw.normal(30, 3)
    weight = torch.linalg.solve(x.T @ x / 30 + 0.1 * torch.eye(7, dtype=torch.float64), x.T @ y / 30).T
    gradients = (x @ weight.T - y) @ weight
    shards = [FactSums(7), FactSums(7)]
    for shard, one, other in zip(shards, gradients.split(20), x.split(20), strict=True):
        shard.update(one, other)
    shards[0].merge(shards[1])
    return Outcome(shards[0].result(weight, 0.1).residual)


@case(
    "embedding of K frequencies",
    "statistics.circulant",
    "deviation 0, K frequencies, rank 2K",
    Bands(error=1e-9),
    (2, 5, 20),
    Mutation(
        "diagonals that do not wrap",
        circulant.wrapped,
        "(rows[None] + rows[:, None]) % p",
        "(rows[None] * 0 + rows[:, None]) % p",
    ),
    Mutation("negative frequencies lost", fourier_power, "power[p // 2 + 1 :].flip(0)", "power[p // 2 + 1 :]"),
    unit="largest of the errors",
)
def waves(draw: Draw) -> Outcome:
    """Cosines and sines of 1, 2 and 4 frequencies of 17 and 18 in random phases: power, participation, deviation and rank."""
    off = 0.0
    for p, frequencies in ((17, (3,)), (17, (2, 7)), (18, (1, 2, 5, 8))):
        angle = 2 * torch.pi * torch.outer(torch.arange(p).double(), torch.tensor(frequencies).double()) / p + draw.normal(1, 1)
        sizes = 1 + torch.arange(len(frequencies)).double()
        rows = torch.cat([angle.cos() * sizes, angle.sin() * sizes], 1)
        gram, power = rows @ rows.T, torch.zeros(p // 2 + 1).double()
        power[list(frequencies)] = sizes.square() * p
        count = float(power.sum() ** 2 / power.square().sum())
        rank = int((torch.linalg.eigvalsh(gram) > 1e-9).sum())
        off = max(
            off,
            circulant_deviation(gram),
            float((fourier_power(gram) - power).abs().max()) / p,
            abs(fourier_participation(gram) - count),
            abs(rank - 2 * len(frequencies)),
        )
    return Outcome(off)


@case(
    "entries without structure",
    "statistics.circulant.circulant_deviation",
    "1 − (p − 2)/(p(p − 1) − 1)",
    Bands(bias=0.005),
    (60, 120, 4000),
    Mutation("the mean left in", circulant_deviation, "around = around - around.mean()", "around = around + 0.0"),
    source="degrees of freedom",
    unit="share",
)
def noise(draw: Draw) -> Outcome:
    """Independent Gaussian entries of 7 × 7 matrices: p − 2 of p(p − 1) − 1 degrees of freedom are circulant."""
    return Outcome(circulant_deviation(draw.normal(7, 7) + 100.0), 1 - 5 / 41)


STANDARDS = (noisy, ideal, exponents, cosine, untrained, ridge, waves, noise)
