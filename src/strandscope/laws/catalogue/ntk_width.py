"""The tangent kernel of a ReLU network comes to its limit as 1/√width, and how far off it is has a closed form.

The rate is the central limit theorem: in NTK parametrisation the kernel is a mean over independent units. Training moves it by
less than that (the bound is 1/√m; a two-layer network with independent signs moves by about 1/m). With the outputs divided by m
and the steps multiplied by m (mean field) the network starts from the same kernel and its features move whatever the width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...reading import Reading
from ...statistics.tangent import kernel_motion, relu_kernel, relu_spread, tangent_kernel
from ...statistics.tangent.kernel import Parameters
from ..figure import Figure, Series
from ..law import Control, Law, LawResult
from .checks import bound, columns, difference, mean, plotted, ratio, slope, unlogged, within
from .descending import Weights, descend, last, separate
from .entry import Trial, entry

Floats = NDArray[np.float64]
INPUTS, DIMENSIONS = 32, 10
WIDTHS, DRAWS = tuple(2**k for k in range(6, 13)), 200
TRAINED, RUNS, STEPS = (128, 256, 512, 1024), 24, 80

LAW = Law(
    "tangent kernel against width",
    "√⟨‖Θ_m − Θ∞‖²⟩/‖Θ∞‖ = √(V/m)",
    {
        "Θ_m": "tangent kernel JJᵀ of f(x) = (1/√m) Σ a_j relu(w_jᵀx) at a standard normal start (output²)",
        "Θ∞": "its limit, by arc-cosine kernels (output²)",
        "m": "width (units)",
        "V": "spread of one unit's kernel, in closed form (1)",
    },
    "two layers, NTK parametrisation, at initialisation at any width; while training, widths well above the number of examples",
    tolerance=0.1,
)


def on_sphere(trial: Trial, n: int, d: int) -> Tensor:
    rows = torch.randn(n, d, generator=trial.torch("inputs"), dtype=torch.float64)
    return rows / rows.norm(dim=1, keepdim=True)


def start(generator: torch.Generator, *shape: int) -> Weights:
    """Standard normal weights of a network of shape (m, d), or of many of shape (networks, m, d)."""
    w = torch.randn(*shape, generator=generator, dtype=torch.float64)
    return {"w": w, "a": torch.randn(*shape[:-1], generator=generator, dtype=torch.float64)}


def network(parameters: Parameters, x: Tensor) -> Tensor:
    return mean_field(parameters, x) * parameters["a"].shape[-1] ** 0.5


def mean_field(parameters: Parameters, x: Tensor) -> Tensor:
    """(n,) or (networks, n)"""
    w, a = parameters["w"], parameters["a"]
    return ((x @ w.mT).relu() @ a[..., None]).squeeze(-1) / a.shape[-1]


def deviations(trial: Trial, x: Tensor, widths: Sequence[int], draws: int) -> Floats:
    """(draws, widths) ‖Θ_m − Θ∞‖/‖Θ∞‖."""
    limit, generator = relu_kernel(x), trial.torch("kernels")
    found = [
        [kernel_motion(limit, tangent_kernel(network, start(generator, m, x.shape[1]), x).matrix) for m in widths]
        for _ in range(draws)
    ]
    return np.array(found)


def motions(trial: Trial, x: Tensor, widths: Sequence[int], runs: int, steps: int, field: bool) -> Floats:
    """(runs, widths) ‖Θ_t − Θ_0‖/‖Θ_0‖ after training to random signs, with steps that are the same in function space."""
    largest = float(torch.linalg.eigvalsh(relu_kernel(x))[-1])
    model, name = (mean_field, "mean field") if field else (network, "motion")
    generator = trial.torch(name)

    def columns(width: int) -> list[float]:
        y = torch.randint(0, 2, (runs, len(x)), generator=generator).double() * 2 - 1
        begun = start(generator, runs, width, x.shape[1])
        step = (width if field else 1.0) / (4 * largest)  # an eighth of the edge of the limit, for features raise the kernel
        _, ended = last(descend(lambda held: (model(held, x) - y).square().sum(1) / 2, begun, step, steps))
        kernels = ([tangent_kernel(model, one, x).matrix for one in separate(held)] for held in (begun, ended))
        return [kernel_motion(before, after) for before, after in zip(*kernels, strict=True)]

    return np.array([columns(width) for width in widths]).T


@entry(
    LAW,
    source="Jacot, Gabriel & Hongler 2018; arc-cosine kernels of order 0, 1 and 2, Cho & Saul 2009; V by hand",
    control="In mean-field scaling training moves the kernel by as much at every width: that its motion falls must be violated.",
    seconds=13,
)
def ntk_width(trial: Trial) -> LawResult:
    """The tangent kernel of a two-layer ReLU network of width m is off its limit by √(V/m), with V in closed form: 32 inputs on a
    sphere in 10 dimensions, widths 64 to 4096, 200 networks each, kernels from the gradients. Trained on random signs the kernel
    moves by no more than that order: the slope of its motion against the width, 128 to 1024, is −.45 or steeper.
    """
    x = on_sphere(trial, INPUTS, DIMENSIONS)
    spread = relu_spread(x)
    off = deviations(trial, x, WIDTHS, DRAWS)
    widths, trained = np.array(WIDTHS), np.array(TRAINED)
    slopes = slope(np.log(widths), np.log(off))
    moved, featured = (motions(trial, x, TRAINED, RUNS, STEPS, field) for field in (False, True))

    def falls(found: Floats) -> Sequence[float]:
        return slope(np.log(trained), np.log(found)).tolist()

    how = f"slope of ln motion on ln m, {RUNS} trainings at each of {len(TRAINED)} widths"
    most = (-math.inf, -0.45)
    squares = f"mean over {DRAWS} networks at each width"
    checks = [
        ratio("m⟨‖Θ_m − Θ∞‖²⟩/‖Θ∞‖² over V", spread, (off**2 * widths).mean(1), within(LAW.tolerance), trial.level, "1", squares),
        difference(
            "slope of the deviation against width", -0.5, slopes, (-0.05, 0.05), trial.level, "1", f"slopes over {DRAWS} sets"
        ),
        bound("slope of the motion in training against width", mean(falls(moved), trial.level, "1", how), most),
    ]
    control = Control.of(
        "kernel motion in mean-field scaling",
        "violated",
        [bound("slope of the motion in training against width", mean(falls(featured), trial.level, "1", how), most)],
    )

    def middle(drawn: Floats) -> list[Reading]:
        return [unlogged(column) for column in columns(np.log(drawn), trial.level, "1")]

    figure = Figure.of(
        "A tangent kernel against its width",
        "width m (units)",
        "deviation or motion of the kernel, relative (1)",
        [
            plotted("deviation from the limit", "measured", widths, middle(off)),
            Series.of("√(V/m)", "predicted", widths, np.sqrt(spread / widths)),
            plotted("motion in training", "measured", trained, middle(moved)),
            plotted("motion in training, mean field", "control", trained, middle(featured)),
        ],
        "log",
    )
    return LawResult.of(LAW, "ReLU networks, 32 inputs on a sphere", checks, control, figure=figure, details={"V": spread})
