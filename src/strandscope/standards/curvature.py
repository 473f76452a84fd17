"""Standards of curvature: quadratics, regressions with a Hessian in closed form, spectra that were built, noise that is known."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..statistics.curvature import (
    Density,
    NoiseSums,
    Operator,
    Trace,
    batch_sharpness,
    derivatives,
    gauss_newton,
    hessian,
    hutch_plus_plus,
    krylov,
    lanczos,
    merged,
    noise,
    of_matrix,
    over_data,
    proof,
    spectral_density,
    top_eigenvalues,
    trace,
)
from ..statistics.curvature.probes import signs
from .mutation import Mutation
from .spectra import rotation, softmax
from .standard import Bands, Draw, Outcome, case


def symmetric(draw: Draw, values: Tensor) -> Tensor:
    """A rotated matrix with these eigenvalues."""
    basis = rotation(draw, len(values), len(values))
    matrix = (basis * values) @ basis.T
    return (matrix + matrix.T) / 2


@case(
    "Hessian of a quadratic, largest eigenvalues",
    "statistics.curvature.hessian, top_eigenvalues",
    "5, 4, 3",
    Bands(error=1e-6),
    (3, 10, 300),
    Mutation(
        "the largest by modulus",
        krylov.Krylov.ritz,
        "theta, vectors = theta[::-1], vectors[:, ::-1]",
        "theta, vectors = theta[(o := np.argsort(-np.abs(theta)))], vectors[:, o]",
    ),
    Mutation("the second derivative halved", derivatives._second, "for part, _ in pairs]", "/ 2 for part, _ in pairs]"),
    unit="of 5",
)
def quadratic(draw: Draw) -> Outcome:
    """wᵀHw/2 in 30 dimensions, H rotated with eigenvalues 5, 4, 3, 26 within ±1 and one of −9, the longest of all."""
    inner = torch.linspace(-1, 1, 26, dtype=torch.float64)
    matrix = symmetric(draw, torch.cat([torch.tensor([5.0, 4.0, 3.0, -9.0], dtype=torch.float64), inner]))
    operator = hessian(lambda w: w @ matrix @ w / 2, draw.normal(30))
    found = top_eigenvalues(operator, 3, generator=draw.torch, tolerance=1e-6)
    return Outcome.farthest(found.values, (5.0, 4.0, 3.0))


@case(
    "residual bounds of Lanczos",
    "statistics.curvature.top_eigenvalues",
    "|λ̂ − λ| ≤ ‖Av − λ̂v‖",
    Bands(error=1e-9),
    (10, 20, 200),
    Mutation(
        "missing square root: squared residuals",
        lanczos._pairs_of,
        "(images - wide * values).norm(dim=0)",
        "(images - wide * values).square().sum(0)",
    ),
    source="construction",
    unit="of λ₁, beyond the bound",
)
def bounds(draw: Draw) -> Outcome:
    """The three largest of 80 eigenvalues .01/i, rotated, to a residual of a thousandth of the first."""
    values = 0.01 / torch.arange(1, 81, dtype=torch.float64)
    found = top_eigenvalues(of_matrix(symmetric(draw, values)), 3, generator=draw.torch, tolerance=1e-3)
    beyond = (found.values - values[:3]).abs() - found.residuals
    return Outcome(max(float(beyond.max()), 0.0) / 0.01)


@case(
    "Hessian of linear regression",
    "statistics.curvature.hessian",
    "2XᵀX/N",
    Bands(error=1e-10),
    (2, 5, 100),
    Mutation("every batch weighted alike", derivatives._operator, "part * (rows / total)", "part / len(sizes)"),
    unit="of the largest entry",
)
def regression(draw: Draw) -> Outcome:
    """Squared error of 20 rows in 6 dimensions in batches of 7, 12 and 1."""
    x, y = draw.normal(20, 6), draw.normal(20)
    batches = list(zip(x.split([7, 12, 1]), y.split([7, 12, 1]), strict=True))
    operator = hessian(lambda w, batch: (batch[0] @ w - batch[1]).square(), draw.normal(6), batches)
    return Outcome.farthest(operator.dense(), 2 * x.T @ x / 20)


@case(
    "softmax regression",
    "statistics.curvature.hessian, gauss_newton",
    "⟨(diag p − ppᵀ) ⊗ xxᵀ⟩ of both",
    Bands(error=1e-10),
    (2, 5, 100),
    Mutation(
        "the loss's curvature left out: JᵀJ",
        gauss_newton,
        "(bent,) = torch.autograd.grad(slope, cut, pushed, retain_graph=keep)",
        "bent = pushed",
    ),
    Mutation("the second derivative halved", derivatives._second, "for part, _ in pairs]", "/ 2 for part, _ in pairs]"),
    unit="of the largest entry",
)
def classes(draw: Draw) -> Outcome:
    """Cross-entropy of three classes, linear in 4 inputs, 15 rows: its Hessian is its Gauss–Newton matrix."""
    x, weight = draw.normal(15, 4), draw.normal(3, 4)
    y = torch.as_tensor(draw.numpy.integers(0, 3, 15))
    truth = np.mean([np.kron(softmax(weight @ row)[1].numpy(), np.outer(row, row)) for row in x], axis=0)

    def loss(logits: Tensor) -> Tensor:
        return logits.logsumexp(1) - logits.gather(1, y[:, None])[:, 0]

    both = hessian(lambda w: loss(x @ w.T), weight), gauss_newton(lambda w: x @ w.T, loss, weight)
    return Outcome(max(Outcome.farthest(operator.dense(), truth).error for operator in both))


@case(
    "a head with kinks",
    "statistics.curvature.hessian",
    "refused",
    Bands(error=0.0),
    (5, 20, 200),
    Mutation("the kinks never looked for", proof.smooth_head, "if not flat and found.missing(change) > MISSING:", "if False:"),
    source="by construction: all curvature is at points",
    unit="Hessians given",
)
def kinks(draw: Draw) -> Outcome:
    """Mean absolute error of 30 rows, linear in 5 inputs: autograd's Hessian is zero."""
    x, y = draw.normal(30, 5), draw.normal(30)
    try:
        hessian(lambda w: (x @ w - y).abs(), draw.normal(5))
    except InputError:
        return Outcome(0.0)
    return Outcome(1.0)


@case(
    "trace of a diagonal matrix",
    "statistics.curvature.trace",
    "Σλ, no variance",
    Bands(error=1e-12),
    (5, 20, 200),
    Mutation("normal probes", signs, "torch.randint(0, 2, (operator.size,), ", "torch.randn((operator.size,), "),
    source="Hutchinson (1990)",
    unit="of the trace, every probe",
)
def diagonal(draw: Draw) -> Outcome:
    """Eigenvalues 1 to 40 on the diagonal; random signs give the trace at every probe."""
    samples = trace(of_matrix(torch.diag(torch.arange(1.0, 41.0, dtype=torch.float64))), 4, generator=draw.torch).samples
    return Outcome(float((samples / 820 - 1).abs().max()))


@case(
    "trace by Hutchinson",
    "statistics.curvature.trace",
    "Σλ = 60",
    Bands(bias=0.0, coverage=0.95),
    (200, 400, 4000),
    Mutation("a standard deviation for a standard error", vars(Trace)["error"], " / len(self.samples) ** 0.5", ""),
    source="Hutchinson (1990)",
    unit="relative",
)
def hutchinson(draw: Draw) -> Outcome:
    """12 probes of a rotated matrix of 60 dimensions, eigenvalues from −1 to 3."""
    matrix = symmetric(draw, torch.linspace(-1, 3, 60, dtype=torch.float64))
    return Outcome.of(trace(of_matrix(matrix), 12, generator=draw.torch).reading(), 60.0, relative=True)


@case(
    "trace by Hutch++",
    "statistics.curvature.hutch_plus_plus",
    "Σ1/i² = 1.63",
    Bands(bias=0.0, error=0.2),
    (40, 100, 2000),
    Mutation("the range counted twice", hutch_plus_plus, "outside = v - basis @ (basis.T @ v)", "outside = v"),
    source="Meyer, Musco, Musco & Woodruff (2021)",
    unit="relative",
)
def hutchpp(draw: Draw) -> Outcome:
    """30 products with a rotated matrix of 80 dimensions, eigenvalues 1/i²."""
    values = torch.arange(1, 81, dtype=torch.float64) ** -2
    found = hutch_plus_plus(of_matrix(symmetric(draw, values)), 30, generator=draw.torch)
    return Outcome(found.value, float(values.sum()), float(values.sum()))


@case(
    "density of two clusters",
    "statistics.curvature.spectral_density",
    "a quarter up to 3",
    Bands(bias=0.0, error=0.15),
    (30, 60, 1000),
    Mutation(
        "all entries of the eigenvectors for the first",
        spectral_density,
        "ritz[0, ::-1] ** 2",
        "(ritz**2).mean(0)[::-1]",
    ),
    Mutation("missing square", spectral_density, "ritz[0, ::-1] ** 2", "np.abs(ritz[0, ::-1])"),
    source="construction",
    unit="share",
)
def clusters(draw: Draw) -> Outcome:
    """Eigenvalues 1 (30 times) and 5 (90 times), rotated; 8 probes, which two steps exhaust."""
    matrix = symmetric(draw, torch.tensor([1.0] * 30 + [5.0] * 90, dtype=torch.float64))
    found = spectral_density(of_matrix(matrix), generator=draw.torch, probes=8, steps=6).below(3.0)
    return Outcome.of(found, 0.25)


@case(
    "density between nodes",
    "statistics.curvature.spectral_density",
    "within the bounds of the probes",
    Bands(error=0.0),
    (20, 60, 600),
    Mutation(
        "the bound on the wrong side", Density.below, "(count, (count - 1).clamp_min(0), count + 1)", "(count, count, count)"
    ),
    source="Chebyshev–Markov–Stieltjes",
    unit="probes outside",
)
def between(draw: Draw) -> Outcome:
    """Four copies of one probe of 50 eigenvalues, 5 steps: no spread, so the interval is the inequality; truth of the probe."""
    values = torch.linspace(0, 1, 50, dtype=torch.float64)
    start = draw.torch.get_state()
    one = spectral_density(of_matrix(torch.diag(values)), generator=draw.torch, probes=1, steps=5)
    draw.torch.set_state(start)
    mass = signs(of_matrix(torch.diag(values)), draw.torch).square() / 50
    x = float(draw.numpy.uniform(0.1, 0.9))
    reading = one.merge(one).merge(one.merge(one)).below(x)
    truth = float(mass[values <= x].sum())
    assert reading.low is not None and reading.high is not None
    return Outcome(float(not reading.low - 1e-9 <= truth <= reading.high + 1e-9))


def noisy(draw: Draw, batches: int, gap: float, scatter: float) -> NoiseSums:
    """Gradients of linear regression with Gaussian inputs in 5 dimensions, in batches of 4 and 8 rows."""
    sums = NoiseSums(5)
    for number in range(batches):
        rows = 4 if number % 2 else 8
        x = draw.normal(rows, 5)
        errors = gap * x[:, 0] - scatter * draw.normal(rows)
        sums.update(2 * (x * errors[:, None]).mean(0), rows)
    return sums


@case(
    "squared gradient of linear regression",
    "statistics.curvature.NoiseSums",
    "‖G‖² = 4‖w − w*‖² = 1",
    Bands(bias=0.0),
    (200, 400, 4000),
    Mutation(
        "every batch paired with itself too", noise._unbiased, "(square - weighted) / (rows * rows - rows2)", "square / rows**2"
    ),
    unit="relative",
)
def slope(draw: Draw) -> Outcome:
    """10 batches of 4 and 8 rows, ‖w − w*‖ = ½, noise 1: ‖G‖² is a fourth of the scatter of a batch."""
    return Outcome(noisy(draw, 10, 0.5, 1.0).result().square, 1.0)


@case(
    "gradient noise of linear regression",
    "statistics.curvature.NoiseSums",
    "(4(d + 2)δ² + 4dσ² − 4δ²)/4δ² = 11",
    Bands(coverage=0.95),
    (40, 200, 2000),
    Mutation(
        "the jackknife without its factor",
        vars(noise.Noise)["covariance"],
        "(groups - 1) / groups * centred",
        "1 / groups * centred",
    ),
    source="Gaussian moments",
    unit="rows",
)
def scale(draw: Draw) -> Outcome:
    """64 batches of 4 and 8 rows in two shards, d = 5, ‖w − w*‖ = 1, noise 1."""
    first, second = noisy(draw, 32, 1.0, 1.0), noisy(draw, 32, 1.0, 1.0)
    first.merge(second)
    return Outcome.of(first.result().scale(), 11.0)


@case(
    "largest eigenvalue over data",
    "statistics.curvature.over_data",
    "uᵀÂu of the true eigenvector u",
    Bands(bias=0.01),
    (12, 24, 200),
    Mutation(
        "the bias left in",
        over_data,
        "value = blocks * float(whole.values[0]) - (blocks - 1) * float(left.mean())",
        "value = float(whole.values[0])",
    ),
    source="uᵀÂu is unbiased for the eigenvalue; that of Â is above it (Jensen)",
    unit="relative",
)
def jackknifed(draw: Draw) -> Outcome:
    """12 batches of 8 Gaussian rows in 12 dimensions, variances 4 and eleven times 1: that of all rows reads 4 % high."""
    rows = draw.normal(96, 12)
    rows[:, 0] *= 2
    parts: list[Operator] = [of_matrix(part.T @ part / 8) for part in rows.split(8)]
    found = over_data(merged(*parts), generator=draw.torch, tolerance=1e-4)
    assert found.value is not None
    return Outcome(found.value, float(rows[:, 0].square().mean()), 4.0)


@case(
    "batch sharpness of linear regression",
    "statistics.curvature.batch_sharpness",
    "⟨2‖Xg‖²/n‖g‖²⟩",
    Bands(error=1e-10),
    (2, 5, 100),
    Mutation("the Hessian of all rows", batch_sharpness, "(part @ gradient)", "(operator @ gradient)"),
    unit="relative",
)
def along(draw: Draw) -> Outcome:
    """Six batches of 5 rows in 4 dimensions, each along its own gradient."""
    x, y, w = draw.normal(30, 4), draw.normal(30), draw.normal(4)
    batches = list(zip(x.split(5), y.split(5), strict=True))
    found = batch_sharpness(lambda w, batch: (batch[0] @ w - batch[1]).square(), w, batches)
    ratios = []
    for a, b in batches:
        g = (a.T @ (a @ w - b)).numpy()
        ratios.append(2 * np.square(a.numpy() @ g).sum() / 5 / np.square(g).sum())
    return Outcome.of(found, float(np.mean(ratios)), relative=True)


STANDARDS = (
    quadratic,
    bounds,
    regression,
    classes,
    kinks,
    diagonal,
    hutchinson,
    hutchpp,
    clusters,
    between,
    slope,
    scale,
    jackknifed,
    along,
)
