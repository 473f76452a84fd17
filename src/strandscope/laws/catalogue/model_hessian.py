"""The Hessian of a wide network's output vanishes as 1/√width, with its constant, unless something nonlinear follows the sum.

For f = (1/√m) Σ ±tanh(w_jᵀx) the Hessian in the weights is one block a unit, ±(1/√m) tanh″(w_jᵀx) xxᵀ, so that its norm is
(1/√m) max_j |tanh″(w_jᵀx)| ‖x‖², and the maximum over many units is that of |tanh″|, 4/(3√3). A sigmoid on the output adds
σ″∇f∇fᵀ, which does not vanish. Eigenvalues crowd at that maximum, so that Lanczos takes hundreds of products to tell them apart;
the slope needs only the norm, and the closed form is met to 1e-4 where they are spent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...errors import TrustError
from ...statistics.curvature import bottom_eigenvalues, hessian, top_eigenvalues
from ..figure import Figure, Series
from ..law import Check, Control, Law, LawResult
from .checks import columns, difference, exactly, plotted, ratio, slope, within
from .entry import Trial, entry

Floats = NDArray[np.float64]
WIDTHS, RUNS, DIMENSIONS = (64, 256, 1024, 4096), 20, 3
FINE, FINE_RUNS = (64, 256), 3
WIDER = tuple(2**k for k in range(6, 15))  # in closed form alone
CONSTANT = 4 / (3 * 3**0.5)  # max |tanh″|
ROUGH, EXACT, MOST = 1e-2, 1e-5, 4000  # Lanczos' residuals as shares of the norm, and products

LAW = Law(
    "model Hessian against width",
    "‖∇²f‖ = (1/√m) max_j |tanh″(w_jᵀx)| ‖x‖² → 4/(3√3) ‖x‖²/√m",
    {
        "f": "output (1/√m) Σ ±tanh(w_jᵀx) of the network (output)",
        "∇²f": "its Hessian in the weights w, by products; the norm is the larger modulus of its two ends (output)",
        "m": "width (units)",
        "x": "input (1)",
    },
    "a sum over units as the last operation; standard normal weights; the limit from about a hundred units on",
    tolerance=0.02,
)


def closed(z: Tensor) -> Tensor:
    """(…,) the norm of the Hessian over ‖x‖² from pre-activations (…, m)."""
    value = z.tanh()
    return (2 * value * (1 - value.square())).abs().amax(-1) / z.shape[-1] ** 0.5


def norm(function: Callable[[Tensor], Tensor], weights: Tensor, generator: torch.Generator, tolerance: float) -> float:
    """The spectral norm of a function's Hessian at the weights, by Lanczos at both ends."""
    operator = hessian(function, weights)
    ends = [
        end(operator, 1, generator=generator, tolerance=tolerance, most=MOST) for end in (top_eigenvalues, bottom_eigenvalues)
    ]
    if not all(found.converged[0] for found in ends):
        raise TrustError(f"Hessian of {len(weights)} units: Lanczos did not reach {tolerance:g} with {MOST} products; allow more")
    return max(abs(float(found.values[0])) for found in ends)


@dataclass(frozen=True, slots=True)
class Output:
    """(1/√m) Σ ±tanh(w_jᵀx) of weights (m, d)."""

    x: Tensor
    signs: Tensor

    def __call__(self, weights: Tensor) -> Tensor:
        return (weights @ self.x).tanh() @ self.signs / len(self.signs) ** 0.5

    def bent(self, weights: Tensor) -> Tensor:
        """A sigmoid on it, off its own middle, where it has no curvature."""
        return (self(weights) + 1).sigmoid()


def drawn(generator: torch.Generator, x: Tensor, m: int) -> tuple[Output, Tensor]:
    weights = torch.randn(m, len(x), generator=generator, dtype=torch.float64)
    return Output(x, torch.randint(0, 2, (m,), generator=generator).double() * 2 - 1), weights


@entry(
    LAW,
    source="Liu, Zhu & Belkin 2020; the constant by hand",
    control="A sigmoid on the output: its Hessian must not vanish with the width, so that the slope of −½ must be violated.",
    seconds=7,
)
def model_hessian(trial: Trial) -> LawResult:
    """The spectral norm of the Hessian of f = (1/√m) Σ ±tanh(w_jᵀx) falls as m^−½ with the constant 4/(3√3)‖x‖²: by Lanczos at
    both ends of the spectrum for widths 64 to 4096, 20 networks each. At widths 64 and 256 it equals each network's closed form.
    """
    generator = trial.torch("networks")
    x = torch.randn(DIMENSIONS, generator=generator, dtype=torch.float64)
    x = x / x.norm()  # so that outputs, and the sigmoid's curvature, are of order 1 at every width
    found, bent = (np.empty((RUNS, len(WIDTHS))) for _ in range(2))
    for run in range(RUNS):
        for place, m in enumerate(WIDTHS):
            output, weights = drawn(generator, x, m)
            found[run, place] = norm(output, weights, generator, ROUGH)
            bent[run, place] = norm(output.bent, weights, generator, ROUGH)
    off = []
    for output, weights in (drawn(generator, x, m) for m in FINE for _ in range(FINE_RUNS)):
        off.append(abs(norm(output, weights, generator, EXACT) / float(closed(weights @ x)) - 1))
    widths, largest = np.array(WIDTHS), WIDTHS[-1]
    how = f"Lanczos, {RUNS} networks"
    constants = found[:, -1] * largest**0.5
    checks = [
        ratio(f"√m ‖∇²f‖/‖x‖² at m = {largest}", CONSTANT, constants, within(LAW.tolerance), trial.level, "1", how),
        _slope(found, trial.level),
        exactly("Lanczos against the closed form", 0, max(off), 1e-4, "relative", f"residuals of {EXACT:g}", len(off)),
    ]
    control = Control.of("sigmoid on the output", "violated", [_slope(bent, trial.level)])
    z = torch.randn(RUNS, WIDER[-1], generator=trial.torch("wider"), dtype=torch.float64)
    wider = np.array([[float(closed(row[:m])) for m in WIDER] for row in z])
    figure = Figure.of(
        "Norm of the output's Hessian against the width",
        "width m (units)",
        "‖∇²f‖/‖x‖² (1)",
        [
            plotted("Lanczos", "measured", widths, columns(found, trial.level, "1")),
            Series.of("4/(3√3) m^−½", "predicted", WIDER, CONSTANT / np.sqrt(WIDER)),
            Series.of("closed form", "guide", WIDER, wider.mean(0)),
            plotted("sigmoid on the output", "control", widths, columns(bent, trial.level, "1")),
        ],
        "log",
    )
    return LawResult.of(LAW, "tanh networks", checks, control, figure=figure)


def _slope(norms: Floats, level: float) -> Check:
    slopes = slope(np.log(WIDTHS), np.log(norms))
    return difference("slope against width", -0.5, slopes, (-0.02, 0.02), level, "1", f"slopes of ln ‖∇²f‖ on ln m, {RUNS} sets")
