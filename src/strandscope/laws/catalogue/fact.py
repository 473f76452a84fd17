"""The FACT identity: at a point of rest under weight decay, WᵀW is read off the gradients by the layer's input."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from sklearn.datasets import load_digits
from torch import Tensor

from ...strand.fact import Fact, FactSums
from ...strand.nfa import NFASpec, Slopes, nfa
from ..figure import Figure, Series
from ..law import Check, Control, Law, LawResult
from .checks import bound, certain, slope, within
from .entry import Trial, entry

Floats = NDArray[np.float64]

ROWS, HIDDEN, DECAY = 600, 12, 1e-3
REST = 1e-8  # ‖∇‖ that counts as rest
EARLY = (5, 10, 20, 40, 80)  # iterations after which training is stopped for the control
LATE = (160, 200, 240, 280, 320, 360)  # for the residual's slope
MOST = 20_000
ROUNDING = 1e-9

FACT = Law(
    "FACT identity",
    "WᵀW = −(1/(nλ)) Σ (∇_h ℓ_i) h_iᵀ",
    {
        "W": "weights of a layer, z = Wh (output/input)",
        "λ": "L2 decay, (λ/2)‖W‖² in the loss (loss·(input/output)²)",
        "∇_h ℓ_i": "gradient of row i's loss by the layer's input, through W (loss/input)",
        "n": "rows (1)",
    },
    "points of rest of a loss with L2 decay (gradient 0); any network, any loss; not decoupled decay",
    tolerance=1e-3,
)


@dataclass(frozen=True, slots=True)
class Problem:
    """Even digits against odd ones, targets ±1, for z = Wx, f = a·tanh z with logistic loss and decay on everything."""

    x: Tensor
    y: Tensor

    @property
    def sizes(self) -> tuple[int, int]:
        return HIDDEN, self.x.shape[1]

    def split(self, point: Tensor) -> tuple[Tensor, Tensor]:
        k, d = self.sizes
        return point[: k * d].reshape(k, d), point[k * d :]

    def losses(self, weight: Tensor, last: Tensor, inputs: Tensor) -> Tensor:
        return torch.nn.functional.softplus(-self.y * ((inputs @ weight.T).tanh() @ last))

    def value(self, point: Floats) -> tuple[float, Floats]:
        """The loss with decay, and its gradient."""
        whole = torch.tensor(point, requires_grad=True)
        loss = self.losses(*self.split(whole), self.x).mean() + DECAY / 2 * whole.square().sum()
        (gradient,) = torch.autograd.grad(loss, whole)
        return float(loss.detach()), gradient.numpy()

    def fact(self, point: Floats) -> Fact:
        """Both sides at a point, from each row's own gradient by its input."""
        weight, last = self.split(torch.tensor(point))
        inputs = self.x.clone().requires_grad_()
        (gradients,) = torch.autograd.grad(self.losses(weight, last, inputs).sum(), inputs)
        sums = FactSums(self.x.shape[1])
        for part in zip(gradients.split(100), self.x.split(100), strict=True):
            sums.update(*part)
        return sums.result(weight, DECAY)

    def ansatz(self, point: Floats, exponent: float) -> float:
        """The NFA's cosine at the same point."""
        weight, last = self.split(torch.tensor(point))
        slopes = Slopes.of((1 - (self.x @ weight.T).tanh().square()) * last)
        found = nfa(weight, slopes, NFASpec(exponent)).value
        assert found is not None
        return found


def digits(trial: Trial, rows: int = ROWS) -> Problem:
    """Rows scaled to 0 … 1, coordinates that never vary left out."""
    images, labels = load_digits(return_X_y=True)
    kept = trial.numpy("rows").permutation(len(images))[:rows]
    x = images[kept] / 16
    x = x[:, x.std(0) > 0]
    return Problem(torch.as_tensor(x), torch.as_tensor(np.where(labels[kept] % 2 == 0, 1.0, -1.0)))


def stopped(problem: Problem, start: Floats, iterations: int) -> Floats:
    """L-BFGS from `start`, stopped after so many iterations or at rest."""
    options = {"maxiter": iterations, "maxfun": 10 * MOST, "ftol": 0.0, "gtol": REST / 10 / math.sqrt(len(start)), "maxcor": 40}
    return minimize(problem.value, start, jac=True, method="L-BFGS-B", options=options).x


@entry(
    FACT,
    source="arXiv 2507.05644 (2025); exact at any stationary point with L2 decay",
    control="the same network stopped early: violated, with a residual that falls as the gradient does",
    seconds=5,
)
def identity(trial: Trial) -> LawResult:
    """Where training with L2 decay has come to rest, WᵀW of a layer is a sum over rows of the loss's gradient by the layer's
    input times that input. A network of twelve tanh units learns to tell even digits from odd ones until its gradient is below
    10⁻⁸; the two sides are then computed by separate ways. They must agree to a part in a thousand, and be no less alike than
    the neural feature ansatz has its own with the better of its two published exponents. On the way, the residual must be in
    proportion to the gradient, and never above the bound that W's largest singular value sets."""
    problem = digits(trial)
    k, d = problem.sizes
    start = trial.numpy("start").normal(size=k * d + k) / math.sqrt(d)
    rest = stopped(problem, start, MOST)
    found, size = problem.fact(rest), float(np.linalg.norm(problem.value(rest)[1]))
    nfa_cosine = max(problem.ansatz(rest, exponent) for exponent in (0.5, 1.0))
    n, one = found.n, "at rest"
    checks = [
        bound("residual at rest", found.reading(), (-math.inf, FACT.tolerance)),
        Check("FACT cosine, against the NFA's", certain(nfa_cosine, "1", one, n), certain(found.cosine, "1", one, n),
              certain(found.cosine - nfa_cosine, "measured − predicted, 1", one, n), (-ROUNDING, math.inf)),
        bound("norm of the gradient", certain(size, "loss/weight", one, n), (-math.inf, REST)),
    ]  # fmt: skip
    points = [stopped(problem, start, iterations) for iterations in (*EARLY, *LATE)]
    sizes = [float(np.linalg.norm(problem.value(point)[1])) for point in points]
    residuals = [problem.fact(point).residual for point in points]
    control = Control.of(
        f"stopped after {', '.join(map(str, EARLY))} iterations",
        "violated",
        [
            bound(f"residual after {count} iterations", certain(residual, "share of ‖WᵀW‖", "stopped early", n),
                  (-math.inf, FACT.tolerance)) for count, residual in zip(EARLY, residuals, strict=False)
        ],
    )  # fmt: skip
    steep = float(slope(np.log(sizes[-len(LATE) :]), np.log(residuals[-len(LATE) :]))[0])
    checks.append(bound("slope of log residual on log ‖∇‖", certain(steep, "1", "late stops", len(LATE)), within(0.15)))
    checks.append(_proportional(problem, points, sizes, residuals))
    figure = Figure.of(
        "FACT residual as training comes to rest",
        "norm of the gradient (loss/weight)",
        "residual (share of ‖WᵀW‖)",
        (
            Series.of("at rest", "measured", [size], [found.residual]),
            Series.of("stopped early", "control", sizes, residuals),
            Series.of("pass", "guide", [size, max(sizes)], [FACT.tolerance, FACT.tolerance]),
        ),
        "log",
    )
    details = {"nfa_cosine": nfa_cosine, "gradient": size, "early": {"gradient": sizes, "residual": residuals}}
    where = f"even and odd digits, {k} tanh units"
    return LawResult.of(FACT, where, checks, control, figure=figure, details=details)


def _proportional(problem: Problem, points: list[Floats], sizes: list[float], residuals: list[float]) -> Check:
    """How residual·λ‖WᵀW‖/‖∇‖ lies to the largest singular value of W, its bound: at most 1 if the residual is the gradient's."""
    shares = []
    for point, size, residual in zip(points, sizes, residuals, strict=True):
        weight = problem.split(torch.tensor(point))[0]
        shares.append(residual * DECAY * float((weight.T @ weight).norm()) / (size * float(torch.linalg.matrix_norm(weight, 2))))
    how = "largest over early stops"
    return bound("residual in units of the gradient's bound", certain(max(shares), "1", how, len(shares)), (0.0, 1.0 + 1e-9))
