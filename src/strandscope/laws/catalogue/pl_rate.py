"""Gradient descent on squared error falls mode by mode at the rates that the tangent kernel's eigenvalues give.

For a model linear in its parameters that is arithmetic, for a wide network an approximation: its kernel hardly moves. A narrow
network's does, and the loss falls otherwise than its first kernel foretells. Where the least eigenvalue of JJᵀ stays above μ
along the way (PL*), no loss falls by less than 1 − ημ a step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...statistics.tangent import Descent, kernel_descent, mode_energies, pl_star, tangent_kernel
from ...statistics.tangent.kernel import Parameters
from ..figure import Figure, Series
from ..law import Check, Control, Law, LawResult
from .checks import bound, exactly, mean, ratio, within
from .descending import descend, separate
from .entry import Trial, entry
from .ntk_width import network, on_sphere, start

Floats = NDArray[np.float64]
ROWS, PARAMETERS, MODES = 50, 500, 10  # the linear model, and the steps over which its modes are followed
INPUTS, DIMENSIONS, STEPS, EVERY = 32, 10, 100, 20
WIDE, WIDE_RUNS, NARROW, NARROW_RUNS = 4096, 20, 6, 120

LAW = Law(
    "PL* rate of gradient descent",
    "L_t = ½ Σ_i (1 − ηλ_i)²ᵗ (v_i·r₀)²,  and  L_{t+1} ≤ (1 − ηλ_min(Θ_t)) L_t",
    {
        "L": "½‖F − y‖², r = F − y (output²)",
        "λ_i, v_i": "eigenpairs of the tangent kernel Θ = JJᵀ at the start (1/step)",
        "η": "step size, a quarter of the edge 2/λ_max here (step)",
    },
    "squared error; steps below 1/λ_max; the second formula wherever Θ is measured along the way, the first while Θ stays",
    tolerance=0.05,
)


@dataclass(frozen=True, slots=True)
class Runs:
    """Networks trained side by side.

    Attributes:
        losses: (steps + 1, runs); `foretold`: the same by the kernels at the start, made before the first step.
        low: how often, of `looked`, ‖∇L‖²/(2L) was below λ_min(Θ_t); `slow`: how often a step then fell by less than 1 − ηλ_min.
    """

    losses: Floats
    foretold: Floats
    low: int
    slow: int
    looked: int

    @property
    def contraction(self) -> Floats:
        """(runs,) ln(L₀/L_T) over what was foretold."""
        return np.log(self.losses[0] / self.losses[-1]) / np.log(self.foretold[0] / self.foretold[-1])


def trained(trial: Trial, name: str, x: Tensor, width: int, runs: int) -> Runs:
    """Two-layer ReLU networks in NTK parametrisation, each with the signs of a random direction to learn.

    PL* is looked at every `EVERY` steps.
    """
    generator = trial.torch(name)
    y = (torch.randn(runs, x.shape[1], generator=generator, dtype=torch.float64) @ x.T).sign()
    begun = start(generator, runs, width, x.shape[1])
    kernels = [tangent_kernel(network, one, x).matrix for one in separate(begun)]
    largest = max(float(torch.linalg.eigvalsh(kernel)[-1]) for kernel in kernels)
    step = 1 / (2 * largest)
    residuals = network(begun, x) - y
    foretold = [kernel_descent(kernel, r, step, STEPS).losses for kernel, r in zip(kernels, residuals, strict=True)]
    losses, floors = [], {}
    low = 0
    for number, (now, weights) in enumerate(descend(lambda held: (network(held, x) - y).square().sum(1) / 2, begun, step, STEPS)):
        losses.append(now)
        if number % EVERY == 0 and number < STEPS:
            points = [pl_star(network, one, x, aim) for one, aim in zip(separate(weights), y, strict=True)]
            low += sum(not point.holds for point in points)
            floors[number] = torch.tensor([point.least for point in points])
    seen = torch.stack(losses)
    slow = sum(int((seen[t + 1] > (1 - step * least) * seen[t]).sum()) for t, least in floors.items())
    return Runs(seen.numpy(), torch.stack(foretold, 1).numpy(), low, slow, len(floors) * runs)


def linear_modes(trial: Trial) -> tuple[Descent, Tensor]:
    """The modes of a model linear in its parameters: as foretold, and as gradient descent by autograd makes them."""
    generator = trial.torch("linear")
    rows, y, w = (
        torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((ROWS, PARAMETERS), (ROWS,), (PARAMETERS,))
    )

    def model(held: Parameters, given: Tensor) -> Tensor:
        return given @ held["w"]

    kernel = tangent_kernel(model, {"w": w}, rows).matrix
    step = 1 / (2 * float(torch.linalg.eigvalsh(kernel)[-1]))
    foretold = kernel_descent(kernel, rows @ w - y, step, MODES)
    path = descend(lambda held: (model(held, rows) - y).square().sum() / 2, {"w": w}, step, MODES)
    return foretold, mode_energies(kernel, torch.stack([model(held, rows) - y for _, held in path]))


@entry(
    LAW,
    source="PL*: Liu, Zhu & Belkin 2022; modes: gradient descent on squared error under a fixed kernel",
    control="Networks of 6 units leave their first kernel: each falls at another rate, so that this must be violated.",
    seconds=8,
)
def pl_rate(trial: Trial) -> LawResult:
    """Squared error under gradient descent falls along each eigenvector of the tangent kernel by (1 − ηλ)² a step. A model linear
    in 500 parameters on 50 rows does so to rounding. ReLU networks of 4096 units learn the signs of a direction on 32 inputs: the
    logarithm of their loss after 100 steps is as foretold from Θ₀. In no network that was looked at is ‖∇L‖²/(2L) below
    λ_min(Θ_t), and no step there falls by less than 1 − ηλ_min(Θ_t).
    """
    x = on_sphere(trial, INPUTS, DIMENSIONS)
    foretold, seen = linear_modes(trial)
    off = float((seen / foretold.energies - 1).abs().max())
    wide, narrow = trained(trial, "wide", x, WIDE, WIDE_RUNS), trained(trial, "narrow", x, NARROW, NARROW_RUNS)
    looked = wide.looked + narrow.looked
    modes, apart = f"{ROWS} modes over {MODES} steps", "gradient and kernel, each by itself"
    how = f"mean over {len(wide.contraction)} networks of ln(L₀/L_T) over that foretold from Θ₀, T = {STEPS}"
    checks = [
        ratio("ln(L₀/L_T) over its prediction", 1, wide.contraction, within(LAW.tolerance), trial.level, "1", how),
        _distance(wide, trial.level),
        exactly("linear model: largest error of a mode's loss", 0, off, 0.01, "relative", modes),
        exactly("‖∇L‖²/(2L) below λ_min(Θ_t)", 0, wide.low + narrow.low, 0, "times", apart, looked),
        exactly("steps that fall by less than 1 − ηλ_min(Θ_t)", 0, wide.slow, 0, "times", "wide networks", wide.looked),
    ]
    control = Control.of(f"networks of {NARROW} units", "violated", [_distance(narrow, trial.level)])
    details = {
        "mean ratio of narrow networks": float(narrow.contraction.mean()),
        "slow steps of narrow networks": narrow.slow,
        "of": narrow.looked,
    }
    return LawResult.of(LAW, "a linear model and ReLU networks", checks, control, figure=_figure(wide, narrow), details=details)


def _distance(runs: Runs, level: float) -> Check:
    """How far a network is from its own prediction, either way."""
    how = f"mean over {len(runs.contraction)} networks of |measured/predicted − 1|"
    found = mean(np.abs(runs.contraction - 1), level, "1", how)
    return bound("a network's distance from its prediction", found, (-math.inf, LAW.tolerance))


def _figure(wide: Runs, narrow: Runs) -> Figure:
    steps = np.arange(STEPS + 1)

    def middle(losses: Floats) -> Floats:
        return np.exp(np.log(losses / losses[0]).mean(1))

    return Figure.of(
        "Loss under gradient descent and as its first kernel foretells",
        "steps",
        "L_t/L₀, geometric mean over networks (1)",
        [
            Series.of(f"{WIDE} units", "measured", steps, middle(wide.losses)),
            Series.of(f"{WIDE} units, foretold", "predicted", steps, middle(wide.foretold)),
            Series.of(f"{NARROW} units", "control", steps, middle(narrow.losses)),
            Series.of(f"{NARROW} units, foretold", "guide", steps, middle(narrow.foretold)),
        ],
        "log y",
    )
