"""The exponent of the neural feature ansatz: 1/L in deep linear networks, and no exponent at all in a nonlinear one."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...strand.agop import agop
from ...strand.nfa import NFASpec, Slopes, matched, nfa, nfa_exponent, powered, random_layer
from ..figure import Figure, Series
from ..law import Check, Control, Law, LawResult
from .checks import bound, difference, mean, plotted, ratio, within
from .entry import Trial, entry

Floats = NDArray[np.float64]

WIDTH = 20
DEPTHS = (2, 3, 4)
NETWORKS = 24  # of each depth
ROWS = 60
START = 0.05  # of the product's singular values
STEPS, RATE = 4000, 0.05
NULLS, UNITS = 200, 5  # random layers (UNITS, WIDTH)
ON_ROWS = 4000  # inputs of a rectifier network

NFA = Law(
    "neural feature ansatz in linear networks",
    "W₁ᵀW₁ = AGOP^α, α = 1/L",
    {
        "W₁": "weights of the first layer (output/input)",
        "AGOP": "average gradient outer product of the network by its input ((output/input)²)",
        "L": "number of linear layers (1)",
        "α": "slope of log vᵀW₁ᵀW₁v against log λ over eigenpairs of the AGOP (1)",
    },
    "linear layers that start small and balanced, gradient descent with small steps; nonlinear networks are outside",
    tolerance=0.02,
)


@entry(
    NFA,
    source="Radhakrishnan, Beaglehole, Pandit & Belkin, Science 383:1461 (2024); α = 1/L and counterexamples: Tansley, Massart & "
    "Cartis (2025), arXiv 2510.15563",
    control="a rectifier network that fits its target exactly, with balanced weights, where the AGOP falls as the weights rise: "
    "violated",
    seconds=8,
)
def ansatz(trial: Trial) -> LawResult:
    """In networks of L linear layers that start small and balanced, training keeps W_{l+1}ᵀW_{l+1} = W_lW_lᵀ, so that WᵀW of the
    first layer is the AGOP to the power 1/L. Two dozen networks of each depth are trained by gradient descent on noisy rows of
    a random linear map; the exponent is fitted over the AGOP's eigenvalues, and the two matrices are compared entry by entry. A
    layer of random weights gives the closed-form null √(PR/k) instead, which is far from nothing."""
    exponents, cosines, wrong = {}, {}, {}
    for depth in DEPTHS:
        firsts, products = trained(trial, depth)
        agops = products.mT @ products
        exponents[depth] = [nfa_exponent(first, agop) for first, agop in zip(firsts, agops, strict=True)]
        cosines[depth] = [_cosine(first, agop, 1 / depth) for first, agop in zip(firsts, agops, strict=True)]
        wrong[depth] = [_cosine(first, agop, 2 / depth) for first, agop in zip(firsts, agops, strict=True)]
    level = trial.level
    checks: list[Check] = [
        ratio(f"exponent, {depth} layers", 1 / depth, exponents[depth], NFA.band, level, "1", f"{NETWORKS} networks")
        for depth in DEPTHS
    ]
    checks += [
        bound(f"cosine at 1/L, {depth} layers", mean(cosines[depth], level, "1", "networks"), (0.999, math.inf))
        for depth in DEPTHS
    ]
    checks += [
        difference(f"cosine at 2/L less that at 1/L, {depth} layers", 0.0, np.subtract(wrong[depth], cosines[depth]),
                   (-math.inf, 0.0), level, "1") for depth in DEPTHS
    ]  # fmt: skip
    found, expected = _random_layers(trial)
    checks.append(ratio("cosine of a random layer over √(PR/k)", 1.0, found / expected, within(0.1), level, "1"))
    slope, points = rectified(trial)
    against = ratio("exponent, rectifier network", 0.5, slope, NFA.band, level, "1", "networks built")
    what = "rectifier networks that fit exactly, balanced, whose AGOP falls as their weights rise"
    figure = Figure.of(
        "Exponent of WᵀW against the AGOP",
        "layers (1)",
        "exponent (1)",
        (
            Series.of("1/L", "predicted", DEPTHS, [1 / depth for depth in DEPTHS]),
            plotted("linear networks", "measured", DEPTHS, [mean(exponents[depth], level, "1", "") for depth in DEPTHS]),
            Series.of("rectifier networks", "control", [2.0], [float(np.mean(slope))]),
        ),
    )
    details = {"wrong_exponent_cosine": {str(depth): float(np.mean(wrong[depth])) for depth in DEPTHS}, "rectifier": points}
    control = Control.of(what, "violated", [against])
    return LawResult.of(NFA, f"{NETWORKS} networks, d = {WIDTH}", checks, control, figure=figure, details=details)


def trained(trial: Trial, depth: int, networks: int = NETWORKS, steps: int = STEPS) -> tuple[Tensor, Tensor]:
    """First layers and products (networks, d, d) after gradient descent on rows of y = Tx with noise .1.

    T has singular values from 1 to .2. Every layer starts as a multiple of a rotation, W_l = s Q_lQ_{l−1}ᵀ: balanced exactly.
    """
    random = trial.torch("linear", str(depth))

    def rotations() -> Tensor:
        return torch.linalg.qr(torch.randn(networks, WIDTH, WIDTH, generator=random, dtype=torch.float64)).Q

    target = rotations() * torch.linspace(1.0, 0.2, WIDTH, dtype=torch.float64) @ rotations()
    x = torch.randn(networks, ROWS, WIDTH, generator=random, dtype=torch.float64)
    y = x @ target.mT + 0.1 * torch.randn(networks, ROWS, WIDTH, generator=random, dtype=torch.float64)
    second, across = x.mT @ x / ROWS, y.mT @ x / ROWS
    turns = [rotations() for _ in range(depth + 1)]
    size = START ** (1 / depth)
    layers = [size * turns[l + 1] @ turns[l].mT for l in range(depth)]  # noqa: E741
    for _ in range(steps):
        below = [torch.eye(WIDTH, dtype=torch.float64).expand(networks, -1, -1)]
        for layer in layers:
            below.append(layer @ below[-1])
        error = below[-1] @ second - across
        for l in reversed(range(depth)):  # noqa: E741
            gradient = error @ below[l].mT
            error = layers[l].mT @ error
            layers[l] = layers[l] - RATE * gradient
    product = layers[0]
    for layer in layers[1:]:
        product = layer @ product
    return layers[0], product


def _cosine(first: Tensor, agop: Tensor, exponent: float) -> float:
    return matched(first.T @ first, powered(agop, exponent))


def _random_layers(trial: Trial) -> tuple[Floats, Floats]:
    """Cosines of random layers (UNITS, WIDTH) with metrics of their own at α = 1, and what each should have."""
    random, spec = trial.torch("null"), NFASpec(1.0)
    found, expected = np.empty(NULLS), np.empty(NULLS)
    for number in range(NULLS):
        spectrum = torch.rand(UNITS, generator=random, dtype=torch.float64) ** 2
        jacobians = torch.randn(100, UNITS, generator=random, dtype=torch.float64) * spectrum.sqrt()
        slopes = Slopes.of(jacobians, blocks=4)
        weight = torch.randn(UNITS, WIDTH, generator=random, dtype=torch.float64)
        found[number] = nfa(weight, slopes, spec).value or math.nan
        expected[number] = random_layer(slopes.metric(), WIDTH, spec)
    return found, expected


def rectified(trial: Trial, networks: int = NETWORKS) -> tuple[list[float], dict[str, list[float]]]:
    """Exponents of networks Σ_j a_j relu(w_jx_j − β_j) that are Σ_j c_j relu(x_j − b_j) exactly; of one, the diagonals.

    Inputs are uniform on (0, 1). Unit j has a_j = w_j = √c_j, balanced, and no loss on its target; it is on for a share q_j of
    inputs, so that WᵀW = diag(c_j) and the AGOP has c_j²q_j on its diagonal. With c rising and c²q falling as c⁻² the
    slope on log–log axes is negative: no positive α is right, least of all ½.
    """
    found, shown, random = [], {}, trial.torch("rectified")
    for number in range(networks):
        c = torch.linspace(1.0, 2.0, 6 + number % 12, dtype=torch.float64)
        share = 0.5 * c**-4.0
        weight, shift = torch.diag(c.sqrt()), c.sqrt() * (1 - share)
        x = torch.rand(ON_ROWS, len(c), generator=random, dtype=torch.float64)
        last = c.sqrt()
        seen = agop(lambda z, w=weight, b=shift, a=last: (z @ w.T - b).relu() @ a, [x]).matrix()
        found.append(nfa_exponent(weight, seen))
        shown = shown or {"weights": c.tolist(), "agop": seen.diagonal().tolist()}
    return found, shown
