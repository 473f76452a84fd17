"""The catapult: above the edge of its quadratic model a network throws its loss up and comes down where it is flatter.

In the smallest network that does it, f = (1/√m) vᵀu with L = f²/2, all 2m weights together follow a map of two figures, the
output and the tangent kernel. A model that is linear in its parameters has the same edge and cannot move: it diverges.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...statistics.tangent import Catapult, spike_share, tangent_kernel, two_variable_map
from ...statistics.tangent import catapult as observed
from ...statistics.tangent.kernel import Parameters
from ..figure import Figure, Kind, Series
from ..law import Check, Control, Law, LawResult
from .checks import bound, certain, exactly, mean
from .descending import descend, separate
from .entry import Trial, entry
from .ntk_width import network as relu_network
from .ntk_width import on_sphere, start

WIDTH, RUNS = 2048, 12
BELOW, BETWEEN, ABOVE = (1.0, 1.5), (2.5, 3.5), (4.5,)
SHORT, LONG, BLOWN = 400, 100_000, 30  # steps: at least, at most until all have come down, and where they cannot
SMALL, PEAK = 1e-6, 10.0
INPUTS, DIMENSIONS, RELU, SPIKE = 32, 10, 1024, 60  # the wide ReLU networks whose spike is looked at, and for how many steps

LAW = Law(
    "catapult",
    "f ← f(1 − ηλ + η²f²/m),  λ ← λ + (ηf²/m)(ηλ − 4)",
    {
        "f": "output (1/√m) vᵀu of the network for its one example, L = f²/2 (1)",
        "λ": "its tangent kernel (‖u‖² + ‖v‖²)/m (1/step)",
        "η": "step size c/λ₀ (step)",
        "m": "width (units)",
    },
    "two linear layers, one example; by c = ηλ₀: falling below 2, a catapult between 2 and 4, divergence above 4, for f₀² ≪ m",
    tolerance=1e-8,
)


@dataclass(frozen=True, slots=True)
class Runs:
    """Networks that were trained side by side at one c: (steps + 1, runs) of both figures, by gradient descent and by the map."""

    c: float
    step: Tensor
    outputs: Tensor
    kernels: Tensor
    map: tuple[Tensor, Tensor]

    @property
    def off(self) -> float:
        """Largest distance of a figure from the map's, relative to the largest that the map had until then."""
        found = 0.0
        for one, other in zip((self.outputs, self.kernels), self.map, strict=True):
            scale = other.abs().cummax(0).values
            kept = scale < 1e100  # squares of later ones are beyond float64
            found = max(found, float(((one - other).abs() / scale)[kept].max()))
        return found

    @property
    def observed(self) -> list[Catapult]:
        losses = self.outputs.square() / 2
        return [observed(losses[:, k], self.kernels[:, k], float(self.step[k])) for k in range(losses.shape[1])]

    @property
    def down(self) -> float:
        """The share of runs whose last loss is below `SMALL`."""
        return float((self.outputs[-1].square() / 2 < SMALL).double().mean())


def network(held: Parameters) -> Tensor:
    return (held["u"] * held["v"]).sum(1) / held["u"].shape[1] ** 0.5


def kernel(held: Parameters) -> Tensor:
    return (held["u"].square().sum(1) + held["v"].square().sum(1)) / held["u"].shape[1]


def run(trial: Trial, c: float, width: int, runs: int) -> Runs:
    """Gradient descent by autograd, until all have come down where they can."""
    generator = trial.torch(f"c = {c}")
    begun = {name: torch.randn(runs, width, generator=generator, dtype=torch.float64) for name in ("u", "v")}
    step = c / kernel(begun)
    outputs, kernels = [], []
    for number, (losses, held) in enumerate(
        descend(lambda held: network(held).square() / 2, begun, step, BLOWN if c > 4 else LONG)
    ):
        outputs.append(network(held))
        kernels.append(kernel(held))
        if number >= SHORT and bool((losses < SMALL).all()):
            break
    found = two_variable_map(outputs[0], kernels[0], step, width, len(outputs) - 1)
    return Runs(c, step, torch.stack(outputs), torch.stack(kernels), found)


def linear(trial: Trial, c: float, width: int, runs: int) -> Runs:
    """The same with f = w·x, whose kernel ‖x‖² cannot move."""
    generator = trial.torch(f"linear, c = {c}")
    w, x = (torch.randn(runs, width, generator=generator, dtype=torch.float64) for _ in range(2))
    tops = x.square().sum(1)
    step = c / tops
    path = descend(lambda held: (held["w"] * x).sum(1).square() / 2, {"w": w}, step, SHORT)
    outputs = torch.stack([(held["w"] * x).sum(1) for _, held in path])
    fixed = tops.expand_as(outputs)
    return Runs(c, step, outputs, fixed, (outputs[0] * (1 - c) ** torch.arange(len(outputs)).double()[:, None], fixed))


def spike_shares(trial: Trial, width: int, runs: int) -> list[float]:
    """Of wide ReLU networks thrown up from above the edge, the part of the spike along the top eigenvector of Θ₀."""
    x, generator = on_sphere(trial, INPUTS, DIMENSIONS), trial.torch("spikes")
    begun = start(generator, runs, width, DIMENSIONS)
    y = (torch.randn(runs, DIMENSIONS, generator=generator, dtype=torch.float64) @ x.T).sign()
    kernels = [tangent_kernel(relu_network, one, x).matrix for one in separate(begun)]
    tops = torch.stack([torch.linalg.eigvalsh(matrix)[-1] for matrix in kernels])
    path = descend(lambda held: (relu_network(held, x) - y).square().sum(1) / 2, begun, BETWEEN[0] / tops, SPIKE)
    residuals = torch.stack([relu_network(held, x) - y for _, held in path])
    peak = residuals.square().sum(2).argmax(0)
    return [spike_share(matrix, residuals[0, k], residuals[peak[k], k], 1) for k, matrix in enumerate(kernels)]


@entry(
    LAW,
    source="Lewkowycz, Bahri, Dyer, Sohl-Dickstein & Gur-Ari 2020; where spikes lie: Zhu, Liu, Radhakrishnan & Belkin 2023",
    control="A model linear in its parameters at the same c between 2 and 4: none may come down, so that this must be violated.",
    seconds=4,
)
def catapult(trial: Trial) -> LawResult:
    """A network of two linear layers, 2048 units, trained by autograd from 12 starts at each c, follows the two-variable map
    to 1e-8. Below c = 2 its loss falls steadily; between 2 and 4 it rises more than tenfold, then falls below 1e-6 and rests
    where λ < 2/η; above 4 it diverges. In ReLU networks of 1024 units on 32 inputs, too, the spike lies along the top eigenvector
    of the tangent kernel at the start.
    """
    below, between, above = ([run(trial, c, WIDTH, RUNS) for c in group] for group in (BELOW, BETWEEN, ABOVE))
    lines = [linear(trial, c, WIDTH, RUNS) for c in BETWEEN]
    everything = [*below, *between, *above]
    thrown = [one for runs in between for one in runs.observed]
    how = f"autograd, {RUNS} starts at each c"
    peak, edge = (certain(figure, "1", how, len(thrown)) for figure in (min(o.peak for o in thrown), max(o.edge for o in thrown)))
    spiked = f"mean over {RUNS} networks of {RELU} units at c = {BETWEEN[0]:g}; above 1 where the rest of the loss fell meanwhile"
    spikes = mean(spike_shares(trial, RELU, RUNS), trial.level, "1", spiked)
    farthest = max(runs.off for runs in everything)
    checks = [
        exactly(
            "largest distance from the two-variable map", 0, farthest, LAW.tolerance, "relative", how, len(everything) * RUNS
        ),
        exactly(f"share that falls steadily at c = {_named(BELOW)}", 1, _share(below, "monotone"), 0, "share", how),
        _comes_down(between, how),
        bound("smallest L_peak/L₀ of a catapult", peak, (PEAK, math.inf)),
        bound("largest ηλ∞/2 after a catapult", edge, (-math.inf, 1.0)),
        exactly(f"share that diverges at c = {_named(ABOVE)}", 1, _share(above, "diverged"), 0, "share", how),
        bound("share of the spike of ReLU networks along the top of Θ₀", spikes, (0.9, math.inf)),
    ]
    control = Control.of("a linear model between 2 and 4", "violated", [_comes_down(lines, how)])
    details = {
        "λ∞/λ₀ by c": {f"{runs.c:g}": float(np.mean([one.kernel for one in runs.observed])) for runs in (*below, *between)},
        "steps by c": {f"{runs.c:g}": len(runs.outputs) - 1 for runs in everything},
    }
    figure = _figure(everything, lines)
    return LawResult.of(LAW, "two linear layers of 2048 units", checks, control, figure=figure, details=details)


def _named(group: tuple[float, ...]) -> str:
    return " and ".join(f"{c:g}" for c in group)


def _share(group: list[Runs], phase: str) -> float:
    found = [one.phase == phase for runs in group for one in runs.observed]
    return sum(found) / len(found)


def _comes_down(group: list[Runs], how: str) -> Check:
    down = sum(runs.down for runs in group) / len(group)
    return exactly(f"share whose loss ends below {SMALL:g} at c = {_named(BETWEEN)}", 1, down, 0, "share", how)


def _figure(everything: list[Runs], lines: list[Runs], steps: int = 60) -> Figure:
    """The first start of each c: by gradient descent, by the map, and a linear model."""

    def series(runs: Runs, name: str, kind: Kind, outputs: Tensor) -> Series:
        losses = (outputs[:steps, 0].square() / 2).numpy()
        kept = np.flatnonzero((losses > 1e-12) & (losses < 1e12))
        return Series.of(f"{name}, c = {runs.c:g}", kind, kept, losses[kept])

    drawn = [series(runs, "gradient descent", "measured", runs.outputs) for runs in everything]
    drawn += [series(runs, "map", "predicted", runs.map[0]) for runs in everything]
    drawn += [series(runs, "linear model", "control", runs.outputs) for runs in lines]
    return Figure.of("Loss above the edge", "steps", "L (1)", drawn, "log y")
