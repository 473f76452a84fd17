"""The tangent kernel of an infinitely wide ReLU network in closed form (Jacot et al. 2018; arc-cosine kernels, Cho & Saul 2009).

For f(x) = (1/√m) Σ_j a_j relu(w_jᵀx) with a_j and the entries of w_j standard normal and both layers trained,

    Θ∞(x, z) = ½ ‖x‖‖z‖ [κ₁(u) + u κ₀(u)],   κ₀ = (π − θ)/π,   κ₁ = (u(π − θ) + √(1 − u²))/π,   u = cos θ the cosine of x and z:

κ₁ from the output weights, uκ₀ from the input weights. No bias. It is checked against Monte Carlo and against quadrature.

At width m the kernel is a mean over m independent units, so E‖Θ_m − Θ∞‖²_F = V‖Θ∞‖²_F/m exactly, at every m. V needs the second
moment of one unit's kernel, E K² = ‖x‖²‖z‖² [κ₂/2 + uκ₁ + (3/2) u²κ₀] with κ₂ = (3u√(1 − u²) + (π − θ)(1 + 2u²))/π.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...errors import InputError
from ...linalg import finite


def relu_kernel(x: Tensor, other: Tensor | None = None) -> Tensor:
    """Θ∞ (n, n′) between the rows of x (n, d) and of `other` (n′, d), or of x with themselves."""
    lengths, u, (kappa0, kappa1, _) = _arc_cosine(x, x if other is None else other)
    return lengths / 2 * (kappa1 + u * kappa0)


def relu_spread(x: Tensor) -> float:
    """V of the examples x (n, d): m · E‖Θ_m − Θ∞‖²_F/‖Θ∞‖²_F (dimensionless), whatever the width m."""
    lengths, u, (kappa0, kappa1, kappa2) = _arc_cosine(x, x)
    square = lengths.square() * (kappa2 / 2 + u * kappa1 + 1.5 * u.square() * kappa0)
    return float(square.sum() / relu_kernel(x).square().sum()) - 1


def _arc_cosine(x: Tensor, other: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor, Tensor]]:
    """‖x‖‖z‖, the cosine u, and κ₀, κ₁, κ₂ of it, each (n, n′)."""
    left, right = finite(x, "x"), finite(other, "other")
    if left.ndim != 2 or right.ndim != 2 or left.shape[1] != right.shape[1]:
        raise InputError(f"other: got shape {tuple(right.shape)}, wanted rows like those of x, {tuple(left.shape)}")
    lengths = left.norm(dim=1)[:, None] * right.norm(dim=1)[None]
    u = (left @ right.T / lengths.clamp_min(1e-300)).clamp(-1.0, 1.0)
    sine = (1 - u.square()).sqrt()
    away = math.pi - torch.atan2(sine, u)  # π − θ
    kappa2 = (3 * u * sine + away * (1 + 2 * u.square())) / math.pi
    return lengths, u, (away / math.pi, (u * away + sine) / math.pi, kappa2)
