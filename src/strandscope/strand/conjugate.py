"""Conjugate gradients on normal equations, behind a Cholesky preconditioner of the centres (FALKON).

With K_mm = TᵀT and AᵀA = (n/m) T Tᵀ + λ I, the unknown is β = A T α: the system A⁻ᵀ (T⁻ᵀ K_nmᵀ K_nm T⁻¹ + λ I) A⁻¹ is near the
identity wherever the centres are like the rows. Every output has its own step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

JITTER = 1e-10  # of the mean of K_mm's diagonal, added to it in the preconditioner and nowhere else


@dataclass(frozen=True, slots=True)
class Preconditioner:
    """T and A, upper triangular, in float64."""

    inner: Tensor
    outer: Tensor
    ridge: float

    @classmethod
    def of(cls, kernel: Tensor, ridge: float, rows: int) -> tuple[Preconditioner | None, str]:
        """From K_mm, or None and why not."""
        m = len(kernel)
        system = kernel.clone()
        system.diagonal().add_(JITTER * kernel.diagonal().mean())
        inner, info = torch.linalg.cholesky_ex(system, upper=True)
        if int(info):
            where = f"from centre {int(info)} on"
            return None, f"not solved: the kernel matrix of the centres is not positive definite ({where}); use fewer centres"
        outer = (rows / m) * (inner @ inner.mT)
        outer.diagonal().add_(ridge)
        outer, info = torch.linalg.cholesky_ex(outer, upper=True)
        if int(info):
            return None, f"not solved: the preconditioner is not positive definite with ridge {ridge:.3g}; use a greater ridge"
        return cls(inner, outer, ridge), ""

    def alphas(self, unknown: Tensor) -> Tensor:
        """α = T⁻¹ A⁻¹ β."""
        return _solve(self.inner, _solve(self.outer, unknown))

    def back(self, right: Tensor) -> Tensor:
        """A⁻ᵀ T⁻ᵀ of the right-hand side."""
        return _solve_transposed(self.outer, _solve_transposed(self.inner, right))

    def apply(self, normal: Callable[[Tensor], Tensor], unknown: Tensor) -> Tensor:
        inside = _solve(self.outer, unknown)
        seen = _solve_transposed(self.inner, normal(_solve(self.inner, inside)))
        return _solve_transposed(self.outer, seen + self.ridge * inside)


@dataclass(frozen=True, slots=True)
class Converged:
    """Weights (m, outputs), the worst output's relative residual of the preconditioned system, steps, and a sentence."""

    alphas: Tensor
    residual: float
    steps: int
    outcome: str


def conjugate_gradients(
    preconditioner: Preconditioner, normal: Callable[[Tensor], Tensor], right: Tensor, tolerance: float, most: int
) -> Converged:
    """Solve (K_nmᵀ K_nm + λ K_mm) α = right for every column.

    Args:
        normal: α (m, outputs) → K_nmᵀ K_nm α.
    """
    tiny = torch.finfo(right.dtype).tiny
    start = preconditioner.back(right)
    size = start.norm(dim=0).clamp_min(tiny)
    unknown, residual, direction = torch.zeros_like(start), start, start
    squared, steps = residual.square().sum(0), 0
    while float((squared.sqrt() / size).max()) > tolerance and steps < most:
        moved = preconditioner.apply(normal, direction)
        length = squared / (direction * moved).sum(0).clamp_min(tiny)
        unknown, residual = unknown + length * direction, residual - length * moved
        following = residual.square().sum(0)
        direction = residual + (following / squared.clamp_min(tiny)) * direction
        squared, steps = following, steps + 1
    reached = float((squared.sqrt() / size).max())
    outcome = "solved"
    if not reached <= tolerance:
        told = f"not solved: the residual is {reached:.2g} after {steps} steps, wanted {tolerance:.2g}"
        outcome = f"{told}; allow more steps, or use more centres or a greater ridge"
    return Converged(preconditioner.alphas(unknown), reached, steps, outcome)


def _solve(factor: Tensor, right: Tensor) -> Tensor:
    return torch.linalg.solve_triangular(factor, right, upper=True)


def _solve_transposed(factor: Tensor, right: Tensor) -> Tensor:
    return torch.linalg.solve_triangular(factor.mT, right, upper=False)
