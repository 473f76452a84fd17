"""Standards of features: average gradient outer products in closed form, planted subspaces, how many examples fix a direction.

Gradients are written out by hand in numpy and averaged over the same inputs, or over all inputs where there are finitely many, so
that most of these are exact.
"""

from __future__ import annotations

from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .. import linalg
from ..statistics.accumulators import OuterProducts
from ..statistics.accumulators.outer import DenseProducts
from ..statistics.spectrum import participation_of
from ..strand import agop as agops
from ..strand import fewshot
from ..strand.agop import agop
from ..strand.fewshot import few_shot_law
from .mutation import Mutation
from .spectra import power_law, rotation
from .standard import Bands, Draw, Outcome, case

Floats = NDArray[np.float64]
BY_HAND = "gradients by hand, float64"


def outer(gradients: Floats) -> Floats:
    """⟨ggᵀ⟩ of (n, d)."""
    return gradients.T @ gradients / len(gradients)


@case(
    "linear model, AGOP",
    "strand.agop.agop",
    "WᵀW; centred 0",
    Bands(error=1e-12),
    (3, 10, 50),
    Mutation("mean over outputs for their sum", agops._Running.result, "scale = float(c) if", "scale = 1.0 if"),
    Mutation("uncentred", agops.Agop.matrix, "self._subtracted() if centred", "None if centred"),
    unit="of the largest entry",
)
def linear(draw: Draw) -> Outcome:
    """f(x) = Wx from 7 to 3 dimensions, 20 inputs in three batches."""
    weight = draw.normal(3, 7)
    found = agop(lambda x: x @ weight.T, draw.normal(20, 7).split(8))
    kept = Outcome.farthest(found.matrix(), weight.T @ weight).error
    return Outcome(max(kept, float(found.matrix(centred=True).abs().max() / weight.square().sum())))


@case(
    "single-index model, AGOP",
    "strand.agop.agop",
    "λ₁ = E sech⁴z, along w",
    Bands(bias=0.005),
    (40, 80, 800),
    Mutation("centred where it must not be", agops.Agop.top, "_subtracted() if centred", "_subtracted() if not centred"),
    source="Gauss–Hermite quadrature",
    unit="relative, off-axis part added",
)
def index(draw: Draw) -> Outcome:
    """f(x) = tanh(w·x), ‖w‖ = 1, 400 Gaussian inputs in 6 dimensions."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    truth = float((weights / np.cosh(nodes) ** 4).sum() / weights.sum())
    w = draw.normal(6)
    w /= w.norm()
    found = agop(lambda x: (x @ w).tanh(), [draw.normal(400, 6)]).top(1)
    off = 1 - abs(float(found.vectors[:, 0] @ w))
    return Outcome(float(found.values[0]) + 1e3 * off, truth, truth)


@case(
    "product x₁·x₂, AGOP",
    "strand.agop.agop",
    "diag(1, 1, 0, …)",
    Bands(bias=0.0),
    (100, 200, 2000),
    Mutation("the mean over a batch for its sum", agops._Running.take, "y[:, step].sum()", "y[:, step].mean()"),
    unit="relative",
)
def pair(draw: Draw) -> Outcome:
    """Half the trace over 200 Gaussian inputs in 5 dimensions, two batches; nothing off the plane."""
    found = agop(lambda x: x[:, 0] * x[:, 1], draw.normal(200, 5).split(150)).matrix()
    return Outcome(float(found[:2, :2].trace()) / 2 + 1e6 * float(found[2:].abs().max()), 1.0)


@case(
    "k-parity, AGOP",
    "strand.agop.agop",
    "diag(1_S): k equal eigenvalues, no gap inside S",
    Bands(error=1e-12),
    (2, 3, 10),
    Mutation("batches about means of their own", OuterProducts._join, "_take(held, apart, weight)", "_take(held, apart, 0.0)"),
    unit="of 1",
)
def parity(draw: Draw) -> Outcome:
    """x₀x₃x₄ on all 64 points of {±1}⁶, in batches of 10."""
    points = torch.tensor(list(product((-1.0, 1.0), repeat=6)), dtype=torch.float64)
    order = torch.randperm(64, generator=draw.torch)
    found = agop(lambda x: x[:, 0] * x[:, 3] * x[:, 4], points[order].split(10)).matrix()
    return Outcome.farthest(found, np.diag([1.0, 0, 0, 1, 1, 0]))


@case(
    "quadratic loss, known Hessian",
    "strand.agop.agop",
    "eigenvalues λ² of H²",
    Bands(error=1e-10),
    (2, 5, 20),
    Mutation("eigenvectors in the other order", linalg.eigh, "vectors.flip(1)", "vectors"),
    Mutation("eigenvalues of a sum of inputs", DenseProducts.matrix, "self.scatter / self.n", "self.scatter"),
    unit="of the largest",
)
def quadratic(draw: Draw) -> Outcome:
    """L(w) = ½(w − w*)ᵀH(w − w*), λ = 2⁻ᵏ, at 16 points about w* whose second moment is I exactly: ∇L = H(w − w*)."""
    basis, values = rotation(draw, 8, 8), 2.0 ** -torch.arange(8, dtype=torch.float64)
    hessian, minimum = (basis * values) @ basis.T, draw.normal(8)
    turn = rotation(draw, 8, 8) * 8**0.5
    points = minimum + torch.cat([turn.T, -turn.T])
    found = agop(lambda w: 0.5 * ((w - minimum) @ hessian * (w - minimum)).sum(1), [points]).top(8)
    along = (hessian @ found.vectors - found.vectors * values).norm(dim=0)
    return Outcome(max(Outcome.farthest(found.values, values.square()).error, 1e-4 * float(along.max())))


@case(
    "g(Ux), AGOP",
    "strand.agop.agop",
    "Uᵀ⟨∇g∇gᵀ⟩U, rank 2",
    Bands(error=1e-11),
    (2, 5, 20),
    Mutation("gradients of one output for all", agops._Running.take, "y[:, step].sum()", "y[:, 0].sum()"),
    source=BY_HAND,
    unit="of the largest entry",
)
def ridge(draw: Draw) -> Outcome:
    """Two outputs, sin(u₁·x)·(u₂·x) and (u₁·x)², of 60 inputs in 9 dimensions."""
    u, x = draw.normal(2, 9), draw.normal(60, 9)
    found = agop(lambda z: torch.stack([(z @ u[0]).sin() * (z @ u[1]), (z @ u[0]) ** 2], 1), x.split(25))
    one, two = (x @ u.T).numpy().T
    first = np.stack([np.cos(one) * two, np.sin(one)], 1) @ u.numpy()
    second = np.stack([2 * one, 0 * one], 1) @ u.numpy()
    truth = outer(first) + outer(second)
    return Outcome.farthest(found.matrix(), truth)


@case(
    "AGOP from random probes",
    "strand.agop.agop",
    "JᵀJ, and centred",
    Bands(bias=0.0),
    (400, 800, 4000),
    Mutation("signs 0 and 1", agops._signs, "* 2 - 1", ""),
    Mutation("the probes' noise left in the mean Jacobian", agops._Running.result, "(c - 1) / (self.n * self.probes)", "0.0"),
    source=BY_HAND,
    unit="relative",
)
def probed(draw: Draw) -> Outcome:
    """f(x) = tanh(Wx) from 4 to 5 dimensions, 12 inputs, two probes each: raw and centred along a direction, added."""
    weight, x, u = draw.normal(5, 4), draw.normal(12, 4), draw.normal(4)
    found = agop(lambda z: (z @ weight.T).tanh(), [x], probes=2, seed=draw.number)
    slopes = (1 - np.tanh(x.numpy() @ weight.numpy().T) ** 2)[:, :, None] * weight.numpy()  # (12, 5, 4)
    along, mean = slopes @ u.numpy(), slopes.mean(0) @ u.numpy()
    truth = 2 * float(np.square(along).sum(1).mean()) - float(mean @ mean)
    value = sum(float(u @ found.matrix(centred=centred) @ u) for centred in (False, True))
    return Outcome(value, truth, truth)


CELLS = torch.tensor(list(product((0.0, 1.0), repeat=9)), dtype=torch.float64)  # centre first, then its neighbours
ALIVE = (CELLS[:, 1:].sum(1) == 3) | ((CELLS[:, 0] == 1) & (CELLS[:, 1:].sum(1) == 2))


def boolean_life(x: Tensor) -> Tensor:
    """The rule's multilinear extension: at a corner its gradient is f(x_i = 1) − f(x_i = 0)."""
    apart = torch.where(CELLS[None] == 1, x[:, None], 1 - x[:, None])
    return (apart.prod(2) * ALIVE).sum(1)


@case(
    "Game of Life, Boolean",
    "strand.agop.agop",
    "1.33207, .25 seven times, .08981",
    Bands(error=1e-12),
    (1, 1, 3),
    Mutation("centred where it must not be", agops.Agop.top, "_subtracted() if centred", "_subtracted() if not centred"),
    source="closed form: 1/4 (×7) and the eigenvalues of [[7/64, 7√8/128], [7√8/128, 21/16]]",
    unit="of the largest",
)
def boolean(draw: Draw) -> Outcome:
    """Finite differences over all 512 neighbourhoods: the second relevant direction has the *smallest* eigenvalue."""
    del draw
    pair = np.linalg.eigvalsh([[7 / 64, 8**0.5 * 7 / 128], [8**0.5 * 7 / 128, 21 / 16]])
    return Outcome.farthest(agop(boolean_life, CELLS.split(128)).top(9).values, [pair[1], *[0.25] * 7, pair[0]])


@case(
    "Game of Life, smooth",
    "strand.agop.agop",
    "rank 2, span(centre, sum of neighbours)",
    Bands(error=1e-9),
    (2, 5, 20),
    Mutation("eigenvectors in the other order", linalg.eigh, "vectors.flip(1)", "vectors"),
    unit="third eigenvalue, or part outside the span",
)
def smooth_life(draw: Draw) -> Outcome:
    """φ(s − 3) + cφ(s − 2), φ(z) = exp(−8z²), at 300 random inputs about half-filled neighbourhoods."""
    x = torch.as_tensor(draw.numpy.random((300, 9)) * 0.75)
    found = agop(lambda z: _bump(z[:, 1:].sum(1) - 3) + z[:, 0] * _bump(z[:, 1:].sum(1) - 2), [x]).top(3)
    outside = found.vectors[:, :2].clone()
    outside[0] = 0
    outside[1:] -= outside[1:].mean(0)
    return Outcome(max(float(found.values[2] / found.values[0]), float(outside.abs().max())))


def _bump(z: Tensor) -> Tensor:
    return torch.exp(-8 * z**2)


@case(
    "two half-spaces, a direction each",
    "strand.agop.agop, statistics.spectrum.participation_of",
    "rank 1 in each, 2 together",
    Bands(error=1e-9),
    (2, 5, 20),
    Mutation("missing square: tr M for (tr M)²", participation_of, "** 2 / square", "/ square"),
    Mutation("eigenvectors in the other order", linalg.eigh, "vectors.flip(1)", "vectors"),
    unit="distance from 1 or 2 dimensions, and from the direction",
)
def halves(draw: Draw) -> Outcome:
    """3u·x where x₀ > 0, 3v·x elsewhere, u ⟂ v ⟂ e₀: the AGOP of each half by itself, and of as many inputs of both."""
    base = torch.zeros(8, 1, dtype=torch.float64)
    base[0] = 1
    u, v = torch.linalg.qr(torch.cat([base, draw.normal(8, 2)], 1)).Q[:, 1:].T
    x = draw.normal(100, 8)
    x[:, 0] = x[:, 0].abs() * torch.tensor([1.0, -1.0]).double().repeat(50)
    f = lambda z: 3 * torch.where(z[:, 0] > 0, z @ u, z @ v)  # noqa: E731
    one, two, both = (agop(f, [part]) for part in (x[0::2], x[1::2], x))
    found = [abs(float(half.top(1).vectors[:, 0] @ w)) for half, w in ((one, u), (two, v))]
    found += [participation_of(half.matrix()) for half in (one, two, both)]
    return Outcome.farthest(found, [1, 1, 1, 1, 2], scale=1.0)


@case(
    "planted direction, few shots",
    "strand.fewshot.few_shot_law",
    "C = 2(tr Σ − w₀ᵀΣw₀)/‖w‖²",
    Bands(bias=0.03, coverage=0.95, refusals=0.01),
    (60, 120, 2000),
    Mutation("the pilot's ‖ŵ‖² for ‖w‖²", fewshot._pilot, "difference) - float(own", "difference) - 0 * float(own"),
    unit="log",
)
def few(draw: Draw) -> Outcome:
    """50 rows of either class in 40 dimensions, Σ with eigenvalues 1/√i, ‖w‖ = 2 along a random direction."""
    values, w = power_law(0.5, 40), draw.normal(40)
    w = 2 * w / w.norm()
    labels = np.arange(100) % 2
    rows = draw.normal(100, 40) * values.sqrt() + torch.as_tensor(labels)[:, None] * w
    truth = 2 * float(values.sum() - (w.square() * values).sum() / 4) / 4
    return Outcome.of(few_shot_law(rows, labels).ratio(1), truth, logarithm=True)


@case(
    "planted direction, few groups",
    "strand.fewshot.few_shot_law",
    "C = 2(1 + 4b²)(tr Σ − w₀ᵀΣw₀)/‖w‖²",
    Bands(bias=0.05, coverage=0.95, refusals=0.01),
    (60, 120, 2000),
    Mutation("rows taken as independent", few_shot_law, "_checked(states, labels, groups)", "_checked(states, labels, None)"),
    unit="log",
)
def clustered(draw: Draw) -> Outcome:
    """30 groups of either class, 4 rows each that share a shift with covariance b²Σ, b² = ½; 20 dimensions, ‖w‖ = 2."""
    values, groups = power_law(1.0, 20), np.repeat(np.arange(60), 4)
    labels = groups % 2
    rows = (draw.normal(240, 20) + 0.5**0.5 * draw.normal(60, 20)[torch.as_tensor(groups)]) * values.sqrt()
    rows[:, 3] += 2 * torch.as_tensor(labels)
    truth = 2 * 3 * float(values.sum() - values[3]) / 4
    return Outcome.of(few_shot_law(rows, labels, groups).ratio(1), truth, logarithm=True)


STANDARDS = (
    linear, index, pair, parity, quadratic, ridge, probed, boolean, smooth_life, halves, few, clustered,
)  # fmt: skip
