"""Full-batch gradient descent sharpens until 2/η and stays there, while the loss goes on falling.

The problem is that of Cohen et al. 2021: the Chebyshev polynomial of degree 5 at 20 points, a tanh network of 1–50–50–1. What it
does not know: other losses, and noise in the gradient; with momentum or with Adam the edge lies elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...statistics.curvature import hessian, top_eigenvalues
from ...statistics.tangent.kernel import Parameters
from ..figure import Figure, Series
from ..law import Check, Control, Law, LawResult
from .checks import bound, exactly, mean, ratio
from .descending import Weights, descend, last, separate
from .entry import Trial, entry
from .topmost import topmost

Floats = NDArray[np.float64]
POINTS, DEGREE, WIDTH = 20, 5, 50
STEPS, NETWORKS = (0.04, 0.055, 0.07), 20  # step sizes, networks at each
EVERY, LONG, FLOW, FLOWING = 100, 8000, 6000, 12
EDGE = 2.0  # of ηλ₁: where a quadratic model begins to diverge
BAND = (0.95, 1.08)

LAW = Law(
    "edge of stability",
    "λ₁ → 2/η",
    {
        "λ₁": "largest eigenvalue of the Hessian of the mean squared error (1/step)",
        "η": "step size of full-batch gradient descent (step)",
    },
    "full-batch gradient descent without momentum on squared error, after λ₁ has first reached 2/η",
    tolerance=0.1,
)


def data() -> tuple[Tensor, Tensor]:
    """(20, 1) points and the polynomial at them."""
    x = np.linspace(-1, 1, POINTS)
    y = np.polynomial.chebyshev.chebval(x, [0.0] * DEGREE + [1.0])
    return torch.as_tensor(x)[:, None], torch.as_tensor(y)[:, None]


def start(generator: torch.Generator, networks: int, width: int) -> Weights:
    """Weights uniform in ±1/√fan-in and no offsets, networks side by side."""

    def layer(rows: int, columns: int) -> Tensor:
        return (2 * torch.rand(networks, rows, columns, generator=generator, dtype=torch.float64) - 1) / rows**0.5

    held, sizes = {}, (1, width, width, 1)
    for number, (rows, columns) in enumerate(pairwise(sizes)):
        held[f"w{number}"] = layer(rows, columns)
        held[f"b{number}"] = torch.zeros(networks, 1, columns, dtype=torch.float64)
    return held


def loss(held: Parameters, x: Tensor, y: Tensor) -> Tensor:
    """(networks,) or () mean squared error."""
    h = (x @ held["w0"] + held["b0"]).tanh()
    h = (h @ held["w1"] + held["b1"]).tanh()
    return (h @ held["w2"] + held["b2"] - y).square().mean((-2, -1))


@dataclass(frozen=True, slots=True)
class Sharpening:
    """Networks trained side by side, looked at every `EVERY` steps: all (looks, networks).

    `times` are the sums of the steps' sizes until then; `end` are the last weights.
    """

    sharpness: Floats
    losses: Floats
    times: Floats
    end: Weights

    def after(self, step: Floats) -> tuple[Floats, Floats, Floats]:
        """(networks,) median ηλ₁/2 from the first look with ηλ₁/2 ≥ 1 on, the largest, and the last loss over that at this look.

        Not a number where a network never got there.
        """
        edge = step * self.sharpness / 2
        reached = (edge >= 1).any(0)
        first = np.where(reached, (edge >= 1).argmax(0), 0)
        medians = np.array([np.median(column[at:]) for column, at in zip(edge.T, first, strict=True)])
        fallen = self.losses[-1] / np.take_along_axis(self.losses, first[None], 0)[0]
        return tuple(np.where(reached, found, math.nan) for found in (medians, edge.max(0), fallen))  # type: ignore[return-value]


def sharpen(begun: Weights, steps: int, size: Callable[[Tensor], Tensor], generator: torch.Generator) -> Sharpening:
    """Train with steps of `size(λ₁)` (networks,), chosen anew at every look."""
    x, y = data()
    held, looks, direction = begun, [], None
    time = torch.zeros(len(begun["w0"]), dtype=torch.float64)
    for number in range(steps // EVERY + 1):
        found, direction = topmost(lambda at: loss(at, x, y), held, generator, direction)
        looks.append((found, loss(held, x, y), time))
        if number < steps // EVERY:
            step = size(found)
            _, held = last(descend(lambda at: loss(at, x, y), held, step, EVERY))
            time = time + EVERY * step
    sharpness, losses, times = (torch.stack(parts).numpy() for parts in zip(*looks, strict=True))
    return Sharpening(sharpness, losses, times, held)


@entry(
    LAW,
    source="Cohen, Kaur, Li, Kolter & Talwalkar 2021",
    control="Gradient flow, steps a quarter of their own edge: λ₁ passes 2/η and goes on, so that this must be violated.",
    seconds=38,
)
def edge_of_stability(trial: Trial) -> LawResult:
    """Full-batch gradient descent on squared error raises λ₁ to 2/η and holds it there: tanh networks of 1–50–50–1 on the
    Chebyshev polynomial of degree 5 at 20 points, 20 starts at each of three step sizes, 8000 steps, λ₁ every 100. The median of
    ηλ₁/2 after it has first reached 1 lies between .95 and 1.08, and the loss is lower at the end than then.
    """
    generator = trial.torch("starts")
    step = torch.tensor(STEPS, dtype=torch.float64).repeat_interleave(NETWORKS)
    run = sharpen(start(generator, len(step), WIDTH), LONG, lambda _: step, generator)
    flow = sharpen(start(generator, FLOWING, WIDTH), FLOW, lambda sharpness: 0.5 / sharpness, generator)
    medians, _, fallen = run.after(step.numpy())
    checks, falls = [], []
    for place, eta in enumerate(STEPS):
        some = slice(place * NETWORKS, (place + 1) * NETWORKS)
        checks.append(_median(eta, medians[some], trial.level))
        found = mean(fallen[some], trial.level, "1", f"{NETWORKS} starts")
        falls.append(bound(f"loss at the end over that at the edge, η = {eta:g}", found, (-math.inf, 1.0)))
    largest = STEPS[-1]
    flown, highest, _ = flow.after(np.full(FLOWING, largest))
    control = Control.of("gradient flow", "violated", [_median(largest, flown, trial.level)])
    checks = [*checks, *falls, _instrument(run, trial)]
    details = {"largest ηλ₁/2 of the flow": [float(value) for value in highest], "η of the control": largest}
    return LawResult.of(
        LAW, "tanh networks on a Chebyshev polynomial", checks, control, figure=_figure(run, flow), details=details
    )


def _median(eta: float, medians: Floats, level: float) -> Check:
    how = f"mean over {len(medians)} starts of the median after the first crossing"
    return ratio(f"λ₁ at η = {eta:g}", EDGE / eta, medians * 2 / eta, BAND, level, "1/step", how)


def _instrument(run: Sharpening, trial: Trial) -> Check:
    """λ₁ of networks side by side is that of the Hessian of one alone."""
    x, y = data()
    off = []
    for number, held in enumerate(separate(run.end)):
        if number % NETWORKS == 0:
            operator = hessian(lambda at: loss(at, x, y), held)
            alone = top_eigenvalues(operator, generator=trial.torch("alone"), tolerance=1e-6)
            off.append(abs(run.sharpness[-1, number] / float(alone.values[0]) - 1))
    return exactly("λ₁ side by side against alone", 0, max(off), 1e-4, "relative", "Lanczos, last weights", len(off))


def _figure(run: Sharpening, flow: Sharpening) -> Figure:
    looks = np.arange(len(run.sharpness)) * EVERY
    series = []
    for place, eta in enumerate(STEPS):
        middle = np.median(run.sharpness[:, place * NETWORKS : (place + 1) * NETWORKS], axis=1)
        series.append(Series.of(f"gradient descent, η = {eta:g}", "measured", looks * eta, middle))
        series.append(Series.of(f"2/η, η = {eta:g}", "predicted", [0, float(looks[-1] * eta)], [EDGE / eta, EDGE / eta]))
    shown = Series.of("gradient flow", "control", np.median(flow.times, 1), np.median(flow.sharpness, 1))
    return Figure.of(
        "Sharpness in training", "time, the sum of step sizes (step)", "λ₁, median of networks (1/step)", [*series, shown]
    )
