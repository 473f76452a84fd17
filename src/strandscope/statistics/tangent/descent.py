"""Gradient descent under a tangent kernel: how fast each mode of the residual falls, and the rate that is guaranteed.

The loss is L = ½‖F − y‖², summed over examples and outputs, r = F − y, and Θ = JJᵀ. While Θ does not move, gradient descent with
step η takes r to (1 − ηΘ)r: the part of L along the eigenvector i is multiplied by (1 − ηλ_i)² in each step. Whatever moves,
‖∇L‖² = rᵀΘr ≥ 2 λmin(Θ) L, which is the PL* condition (Liu, Zhu & Belkin 2022); where it holds with μ along the way and η is
small, L falls at least by 1 − ημ per step.

What it does not know: that Θ stays. `kernel_descent` says what would be if it did.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import grad

from ...errors import InputError
from ...linalg import eigh, finite
from .kernel import Model, Parameters, checked, outputs_of, tangent_kernel


@dataclass(frozen=True, slots=True)
class Descent:
    """What a kernel that does not move makes of a residual.

    Attributes:
        values: (N,) eigenvalues of Θ, descending (1/step).
        energies: (steps + 1, N) ½(v_iᵀr_t)², the part of the loss along each eigenvector.
    """

    values: Tensor
    energies: Tensor

    @property
    def losses(self) -> Tensor:
        """(steps + 1,)"""
        return self.energies.sum(1)


def kernel_descent(kernel: Tensor, residual: Tensor, step: float, steps: int) -> Descent:
    """The modes of the residual r = F − y (N,) over `steps` steps of size η under the kernel (N, N)."""
    values, vectors = eigh(kernel, "kernel")
    start = _projected(finite(residual, "residual")[None], vectors)[0]
    times = torch.arange(steps + 1, dtype=torch.float64)[:, None]
    return Descent(values, start * (1 - step * values).square() ** times)


def mode_energies(kernel: Tensor, residuals: Tensor) -> Tensor:
    """(T, N) ½(v_iᵀr_t)² of residuals (T, N) along the eigenvectors of the kernel (N, N), largest eigenvalue first."""
    return _projected(finite(residuals, "residuals"), eigh(kernel, "kernel")[1])


def _projected(residuals: Tensor, vectors: Tensor) -> Tensor:
    if residuals.ndim != 2 or residuals.shape[1] != len(vectors):
        raise InputError(f"residual: got shape {tuple(residuals.shape)}, wanted {len(vectors)} figures as the kernel has rows")
    return (residuals @ vectors).square() / 2


@dataclass(frozen=True, slots=True)
class PLStar:
    """The PL* condition at one point.

    Attributes:
        loss: ½‖F − y‖².
        ratio: ‖∇L‖²/(2L), the realised rate (1/step), from the gradient of the loss alone.
        least: λmin(JJᵀ), below which the ratio cannot lie (1/step), from the kernel; `largest`: λmax.
    """

    loss: float
    ratio: float
    least: float
    largest: float

    @property
    def holds(self) -> bool:
        """ratio ≥ least, to rounding of the kernel's eigenvalues."""
        return self.ratio >= self.least - 1e-12 * self.largest


def pl_star(model: Model, parameters: Parameters, x: Tensor, y: Tensor) -> PLStar:
    """‖∇L‖²/(2L) and λmin(JJᵀ) of L = ½‖F(x) − y‖², exact given the parameters; y: (n,) or (n, C)."""
    held, aim = checked(parameters), finite(y, "y")

    def loss(at: Parameters) -> Tensor:
        found = outputs_of(model, at, x)
        if aim.numel() != found.numel() or len(aim) != len(x):
            raise InputError(f"y: got shape {tuple(y.shape)}, wanted one figure for each of the outputs {tuple(found.shape)}")
        return (found - aim.reshape(found.shape)).square().sum() / 2

    value = float(loss(held))
    if value == 0:
        raise InputError("y: the loss is 0, where the ratio ‖∇L‖²/(2L) is not defined; measure before the fit is exact")
    square = sum(float(part.square().sum()) for part in grad(loss)(held).values())
    values, _ = eigh(tangent_kernel(model, held, x).matrix, "kernel")
    return PLStar(value, square / (2 * value), float(values[-1]), float(values[0]))
