"""The catapult: training that starts above the edge 2/λ₀, throws the loss up and comes down where the kernel is smaller.

The smallest network that does it is f = (1/√m) vᵀu with L = f²/2 (one example x = 1, y = 0, Lewkowycz et al. 2020). Its tangent
kernel is λ = (‖u‖² + ‖v‖²)/m, and gradient descent is exactly a map of two figures,

    f ← f (1 − ηλ + η²f²/m),    λ ← λ + (ηf²/m)(ηλ − 4),

whatever the 2m weights: with c = ηλ₀ and small f²/m the loss falls steadily for c < 2, is thrown up and comes down with
λ∞ < 2/η for 2 < c < 4, and diverges for c > 4.

`catapult` reads the same observables off any run; `spike_share` says how much of a spike lies in the top eigenspace of the
tangent kernel (Zhu et al. 2023).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ...errors import InputError
from ...linalg import check_rank, eigh, finite

Phase = Literal["monotone", "catapult", "diverged"]


@dataclass(frozen=True, slots=True)
class Catapult:
    """What a run's losses and top kernel eigenvalues say.

    Attributes:
        phase: "monotone": no loss exceeds the one before by more than a residual's rounding; "diverged": it ends above its start,
            or is not finite; "catapult" otherwise.
        peak: largest L/L₀ (infinite where a loss is); `end`: last L/L₀.
        kernel: λ∞/λ₀; `edge`: ηλ∞/2, below 1 where the run came to rest in a place that is stable for its step. Not a number
            where the run diverged.
    """

    phase: Phase
    peak: float
    end: float
    kernel: float
    edge: float


def catapult(losses: Tensor, tops: Tensor, step: float) -> Catapult:
    """The observables of a run from its losses (T,) and largest tangent-kernel eigenvalues (T,), the first before any step."""
    if losses.ndim != 1 or losses.shape != tops.shape or len(losses) < 2:
        raise InputError(f"losses: got shapes {tuple(losses.shape)} and {tuple(tops.shape)}, wanted the same T ≥ 2 of both")
    if not (math.isfinite(float(losses[0])) and float(losses[0]) > 0 and float(tops[0]) > 0):
        raise InputError("losses: the first loss and kernel must be finite and above 0, for all is relative to them")
    relative = losses.double() / float(losses[0])
    end = float(relative[-1])
    if not math.isfinite(end) or end > 1:
        return Catapult("diverged", _largest(relative), end if math.isfinite(end) else math.inf, math.nan, math.nan)
    rounding = 1e4 * torch.finfo(losses.dtype).eps ** 2  # of a residual, squared: below it losses go up and down at random
    rises = bool((relative[1:] > relative[:-1] + rounding).any())
    last = float(tops[-1])
    return Catapult("catapult" if rises else "monotone", _largest(relative), end, last / float(tops[0]), step * last / 2)


def _largest(relative: Tensor) -> float:
    return float(relative.max()) if bool(torch.isfinite(relative).all()) else math.inf


def two_variable_map(f: Tensor, kernel: Tensor, step: Tensor, width: int, steps: int) -> tuple[Tensor, Tensor]:
    """(steps + 1, …) the outputs f and kernels λ of the smallest network, from where they start; shapes broadcast."""
    f, kernel, step = torch.broadcast_tensors(f.double(), kernel.double(), step.double())
    outputs, kernels = [f], [kernel]
    for _ in range(steps):
        energy = f.square() / width
        f, kernel = (
            f * (1 - step * kernel + step.square() * energy),
            kernel + step * energy * (step * kernel - 4),
        )
        outputs.append(f)
        kernels.append(kernel)
    return torch.stack(outputs), torch.stack(kernels)


def spike_share(kernel: Tensor, before: Tensor, peak: Tensor, k: int) -> float:
    """The part of a spike of ½‖r‖² that lies in the span of the k top eigenvectors of the kernel (N, N).

    Args:
        before, peak: residuals (N,) before the spike and at its height.

    Raises:
        InputError: the loss did not rise.
    """
    one, two = finite(before, "before"), finite(peak, "peak")
    rise = float(two.square().sum() - one.square().sum())
    if not rise > 0:
        raise InputError(f"peak: the loss rose by {rise / 2:.3g} from before to there, wanted a rise; choose the steps anew")
    check_rank(k, len(kernel), "kernel")
    top = eigh(kernel, "kernel")[1][:, :k]
    return float((two @ top).square().sum() - (one @ top).square().sum()) / rise
