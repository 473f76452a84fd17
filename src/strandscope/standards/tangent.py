"""Standards of the tangent of a network: its kernel, descent under it, and the catapult.

Truths are gradients written out by hand in numpy, expectations over two Gaussians by quadrature, and descent on all weights of a
network step by step.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..statistics.tangent import (
    catapult,
    closed,
    descent,
    kernel,
    kernel_descent,
    kernel_motion,
    mode_energies,
    pl_star,
    relu_kernel,
    relu_spread,
    spike_share,
    tangent_kernel,
    two_variable_map,
)
from ..statistics.tangent.kernel import Parameters
from .mutation import Mutation
from .standard import Bands, Draw, Outcome, case

Floats = NDArray[np.float64]
BY_HAND = "gradients by hand, float64"
WIDE = 4096


def relu_network(parameters: Parameters, x: Tensor) -> Tensor:
    """(1/√m) Σ_j a_j relu(w_jᵀx)."""
    return (x @ parameters["w"].T).relu() @ parameters["a"] / len(parameters["a"]) ** 0.5


def on_sphere(draw: Draw, n: int, d: int) -> Tensor:
    rows = draw.normal(n, d)
    return rows / rows.norm(dim=1, keepdim=True)


@case(
    "wide ReLU network, tangent kernel",
    "statistics.tangent.tangent_kernel, statistics.tangent.relu_kernel",
    "Θ∞ in closed form, within a spread of 1/√m",
    Bands(error=0.1),
    (2, 4, 40),
    Mutation("κ₀ without its cosine", closed.relu_kernel, "kappa1 + u * kappa0", "kappa1 + kappa0"),
    Mutation("the angle for π − θ", closed._arc_cosine, "torch.atan2(sine, u)  # π − θ", "math.pi + torch.atan2(sine, u)"),
    Mutation("the network's gradients of one layer alone", kernel.jacobian, "torch.cat(flat, 2)", "flat[0]"),
    source="arc-cosine kernels",
    unit="relative Frobenius norm",
)
def wide(draw: Draw) -> Outcome:
    """8 inputs on a sphere in 6 dimensions, 4096 units, weights standard normal."""
    x = on_sphere(draw, 8, 6)
    found = tangent_kernel(relu_network, {"w": draw.normal(WIDE, 6), "a": draw.normal(WIDE)}, x).matrix
    truth = relu_kernel(x)
    return Outcome(float((found - truth).norm() / truth.norm()))


def by_quadrature(x: Floats, z: Floats) -> float:
    """E[relu(w·x) relu(w·z)] + x·z P(w·x > 0, w·z > 0) for standard normal w, in the plane of x and z.

    There w = r(cos φ, sin φ) with E r² = 2, so that both are integrals over the angle alone.
    """
    angle = np.arccos(np.clip(x @ z / np.linalg.norm(x) / np.linalg.norm(z), -1, 1))
    nodes, weights = np.polynomial.legendre.leggauss(40)
    low, high = angle - np.pi / 2, np.pi / 2  # where both are above 0
    phi, weights = (high + low) / 2 + (high - low) / 2 * nodes, weights * (high - low) / 2
    both = 2 * (weights * np.cos(phi) * np.cos(phi - angle)).sum() / (2 * np.pi)
    return float(np.linalg.norm(x) * np.linalg.norm(z) * both + x @ z * (high - low) / (2 * np.pi))


@case(
    "infinitely wide ReLU network, closed form",
    "statistics.tangent.relu_kernel",
    "expectations over a Gaussian weight",
    Bands(error=1e-7),
    (3, 10, 50),
    Mutation("missing half", closed.relu_kernel, "lengths / 2 *", "lengths *"),
    Mutation("missing square root", closed._arc_cosine, "(1 - u.square()).sqrt()", "(1 - u.square())"),
    Mutation("κ₀ without π", closed._arc_cosine, "(away / math.pi, (u", "(away, (u"),
    source="quadrature over the angle",
    unit="of the largest entry",
)
def infinite(draw: Draw) -> Outcome:
    """Inputs of unequal length, one of them the opposite of another and one twice another."""
    x = draw.normal(5, 4)
    x = torch.cat([x, -x[:1], 2 * x[1:2]])
    rows = x.numpy()
    return Outcome.farthest(relu_kernel(x), [[by_quadrature(a, b) for b in rows] for a in rows])


@case(
    "narrow ReLU network, spread of the tangent kernel",
    "statistics.tangent.relu_spread",
    "V = m E‖Θ_m − Θ∞‖²/‖Θ∞‖²",
    Bands(bias=0.0),
    (600, 1200, 8000),
    Mutation("fourth moment of the output weights taken for 1", closed.relu_spread, "1.5 * u.square()", "0.5 * u.square()"),
    Mutation("what both layers share left out", closed.relu_spread, "+ u * kappa1", ""),
    Mutation("κ₂ of the sine alone", closed._arc_cosine, "3 * u * sine + away * (1 + 2", "3 * u * sine + away * (1 + 0 * 2"),
    source="mean over networks drawn anew",
    unit="relative",
)
def narrow(draw: Draw) -> Outcome:
    """16 units, gradients written out, 5 inputs of unequal length in 3 dimensions."""
    x, w, a = draw.normal(5, 3), draw.normal(16, 3), draw.normal(16)
    on = (x @ w.T > 0).double()
    found = ((x @ w.T).relu() @ (x @ w.T).relu().T + (on * a) @ (on * a).T * (x @ x.T)) / 16
    truth = relu_kernel(x)
    spread = relu_spread(x)
    return Outcome(16 * float((found - truth).square().sum() / truth.square().sum()), spread, spread)


def tanh_network(parameters: Parameters, x: Tensor) -> Tensor:
    return (x @ parameters["w"].T + parameters["b"]).tanh() @ parameters["a"].T


@case(
    "tanh network with two outputs, tangent kernel",
    "statistics.tangent.tangent_kernel",
    "JJᵀ by hand, and its sum over outputs",
    Bands(error=1e-12),
    (2, 5, 30),
    Mutation("blocks put back untransposed", kernel.tangent_kernel, "= block.T", "= block"),
    Mutation(
        "blocks of rows for blocks of outputs", kernel.tangent_kernel, "start * outputs, start * outputs +", "start, start +"
    ),
    Mutation("outputs of one example taken for examples", kernel._over_outputs, "dim1=1, dim2=3", "dim1=0, dim2=2"),
    source=BY_HAND,
    unit="of the largest entry",
)
def outputs(draw: Draw) -> Outcome:
    """6 units, 7 examples in blocks of two; the same network's weights, offsets and output weights all count."""
    w, b, a, x = draw.normal(6, 3), draw.normal(6), draw.normal(2, 6), draw.normal(7, 3)
    count = w.numel() + b.numel() + a.numel()
    found = tangent_kernel(tanh_network, {"w": w, "b": b, "a": a}, x, limit=8 * 2 * count * 4)
    h = np.tanh((x @ w.T + b).numpy())
    rows = []
    for n in range(7):
        for c in range(2):
            inner = a[c].numpy() * (1 - h[n] ** 2)
            top = np.zeros((2, 6))
            top[c] = h[n]
            rows.append(np.concatenate([np.outer(inner, x[n].numpy()).ravel(), inner, top.ravel()]))
    truth = np.array(rows) @ np.array(rows).T
    summed = truth[0::2, 0::2] + truth[1::2, 1::2]
    return Outcome(max(Outcome.farthest(found.matrix, truth).error, Outcome.farthest(found.summed, summed).error))


@case(
    "model linear in its parameters, motion and descent",
    "statistics.tangent: tangent_kernel, kernel_motion, kernel_descent, mode_energies, pl_star",
    "XXᵀ, motion 0, modes (1 − ηλ)²ᵗ, ‖∇L‖²/(2L) = rᵀXXᵀr/rᵀr",
    Bands(error=1e-9),
    (2, 5, 30),
    Mutation("missing square: a mode falls like the residual", descent.kernel_descent, ".square() ** times", ".abs() ** times"),
    Mutation("modes in the other order", descent._projected, "residuals @ vectors", "residuals @ vectors.flip(1)"),
    Mutation("gradient over the loss without its two", descent.pl_star, "square / (2 * value)", "square / value"),
    Mutation("the largest for the least", descent.pl_star, "float(values[-1]), float(values[0])", "float(values[0]), 0.0"),
    Mutation("motion not relative", kernel.kernel_motion, "/ size", "/ 1.0"),
    source="numpy, step by step",
    unit="of the largest",
)
def linear(draw: Draw) -> Outcome:
    """12 examples, 30 parameters, ten steps of gradient descent written out."""
    x, y, w = draw.normal(12, 30), draw.normal(12), draw.normal(30)
    rows, aim, weight = x.numpy(), y.numpy(), w.numpy()
    values = np.linalg.eigvalsh(rows @ rows.T)
    step, residuals = 1.5 / values[-1], []
    start = weight.copy()
    for _ in range(11):
        residuals.append(rows @ weight - aim)
        weight = weight - step * rows.T @ residuals[-1]
    r = residuals[0]

    def model(parameters: Parameters, given: Tensor) -> Tensor:
        return given @ parameters["w"]

    before = tangent_kernel(model, {"w": torch.as_tensor(start)}, x).matrix
    after = tangent_kernel(model, {"w": torch.as_tensor(weight)}, x).matrix
    foretold = kernel_descent(before, torch.as_tensor(r), step, 10)
    seen = mode_energies(before, torch.as_tensor(np.array(residuals)))
    found = pl_star(model, {"w": w}, x, y)
    rates = (np.linalg.norm(rows.T @ r) ** 2 / (r @ r), values[0], values[-1])
    losses = [(one @ one) / 2 for one in residuals]
    return Outcome(
        max(
            Outcome.farthest(before, rows @ rows.T).error,
            kernel_motion(before, after),
            abs(kernel_motion(before, 1.25 * before) - 0.25),
            Outcome.farthest(foretold.energies, seen).error,
            Outcome.farthest(foretold.losses, losses).error,
            Outcome.farthest((found.ratio, found.least, found.largest), rates).error,
        )
    )


@case(
    "smallest network, two-variable map",
    "statistics.tangent: two_variable_map, catapult, spike_share",
    "gradient descent on all 2m weights; phases monotone, catapult, diverged",
    Bands(error=1e-9),
    (2, 5, 30),
    Mutation("the edge of the quadratic model: 2 for 4", two_variable_map, "kernel - 4", "kernel - 2"),
    Mutation("missing square of the step", two_variable_map, "step.square() * energy", "step * energy"),
    Mutation(
        "the kernel before its step left out", two_variable_map, "[f], [kernel]", "[f], [kernel - step * f.square() / width]"
    ),
    Mutation("rises overlooked", catapult, "relative[:-1] + rounding", "relative[:-1] + 1e9"),
    Mutation("all there is at the peak for what came", spike_share, "- (one @ top).square().sum()", ""),
    source="numpy, step by step",
    unit="of the largest",
)
def smallest(draw: Draw) -> Outcome:
    """m = 64, c = 1.5, 3 and 5, from f₀ = ½; a spike whose rise of 1.44 has .64 in the planted top direction."""
    worst, width = 0.0, 64
    for c, phase, steps in ((1.5, "monotone", 60), (3.0, "catapult", 200), (5.0, "diverged", 8)):
        u, v = draw.normal(width).numpy(), draw.normal(width).numpy()
        v += u * (0.5 * width**0.5 - u @ v) / (u @ u)
        start = (u @ u + v @ v) / width
        step, seen = c / start, []
        for _ in range(steps + 1):
            f = u @ v / width**0.5
            seen.append((f, (u @ u + v @ v) / width))
            u, v = u - step * f * v / width**0.5, v - step * f * u / width**0.5
        f, tops = two_variable_map(*torch.tensor([seen[0][0], start, step], dtype=torch.float64), width=width, steps=steps)
        worst = max(worst, Outcome.farthest(torch.stack([f, tops], 1), seen).error)
        found = catapult(f.square() / 2, tops, step)
        if found.phase != phase or (phase == "catapult" and not found.edge < 1 < 10 < found.peak):
            worst = float("inf")
    basis = torch.linalg.qr(draw.normal(5, 5)).Q
    planted = basis @ torch.diag(torch.tensor([9.0, 3.0, 2.0, 1.0, 0.5], dtype=torch.float64)) @ basis.T
    before = basis @ torch.tensor([0.6, 0.8, 0.0, 0.0, 0.0], dtype=torch.float64)
    peak = before + basis @ torch.tensor([0.4, -0.8, 1.2, 0.0, 0.0], dtype=torch.float64)
    return Outcome(max(worst, abs(spike_share(planted, before, peak, 1) - 0.64 / 1.44)))


STANDARDS = (wide, infinite, narrow, outputs, linear, smallest)
