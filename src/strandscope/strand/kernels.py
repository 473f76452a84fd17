"""Kernels with a learned metric: their values, and what gradients of a kernel machine need.

With the metric M, d_M(x, z) = √((x − z)ᵀ M (x − z)) and f(z) = Σ_i α_i K(x_i, z),

    laplace     exp(−(d_M / L)^q)             ∇_z K = −(q / L^q) d_M^{q−2} K · M (z − x)
    gaussian    exp(−d_M² / 2L²)              ∇_z K = −(1 / L²) K · M (z − x)
    quadratic   (xᵀ M z)²                     ∇_z K = 2 (xᵀ M z) · M x
    linear      xᵀ M z                        ∇_z K = M x

The Laplace kernel has a p-norm family, exp(−‖M^½ (x − z)‖_p^q / L^q) with 0 < q ≤ p ≤ 2, for a diagonal M; p = q = 1 is the
product of one-dimensional Laplace kernels. Where x = z a Laplace kernel has no gradient: its term is taken as 0, here as in all
published code. Tensors may have leading dimensions (sites, label vectors); a metric is None (the identity), (…, d) for a
diagonal, or (…, d, d).

What it does not know: the inside of squared distances is taken from inner products, so distances below about √ε of the rows'
norms are rounding and count as 0. Centre rows before they come here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..errors import InputError

Family = Literal["laplace", "gaussian", "quadratic", "linear"]
FAMILIES = ("laplace", "gaussian", "quadratic", "linear")


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel by name; `p` and `q` are of the Laplace family alone."""

    family: Family = "laplace"
    p: float = 2.0
    q: float = 1.0

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise InputError(f"kernel: got {self.family!r}, wanted one of {', '.join(FAMILIES)}")
        if not 0 < self.q <= self.p <= 2:
            raise InputError(f"kernel: got p = {self.p:g} and q = {self.q:g}, wanted 0 < q ≤ p ≤ 2")
        if self.family != "laplace" and (self.p, self.q) != (2.0, 1.0):
            raise InputError(f"kernel: p and q belong to 'laplace', got them with {self.family!r}; leave them out")

    @property
    def radial(self) -> bool:
        """Whether it is a function of a distance, so that moving every row alike changes nothing."""
        return self.family in ("laplace", "gaussian")

    @property
    def turns(self) -> bool:
        """Whether it is the same in every orthonormal basis."""
        return self.p == 2

    def __str__(self) -> str:
        shape = "" if (self.p, self.q) == (2.0, 1.0) else f" (p = {self.p:g}, q = {self.q:g})"
        return self.family + shape


@dataclass(frozen=True, slots=True)
class Profile:
    """K between points (…, m) and centres (…, n), and the factor of each centre in the gradient at each point."""

    values: Tensor  # (…, m, n)
    slopes: Tensor  # (…, m, n)


def applied(rows: Tensor, metric: Tensor | None, *, diagonal: bool) -> Tensor:
    """rows (…, n, d) · M."""
    if metric is None:
        return rows
    return rows * metric.unsqueeze(-2) if diagonal else rows @ metric


def profile(
    kernel: Kernel,
    bandwidth: Tensor | float,
    points: Tensor,
    centres: Tensor,
    metric: Tensor | None = None,
    *,
    diagonal: bool = False,
) -> Profile:
    """Values and slopes of a kernel between points (…, m, d) and centres (…, n, d).

    Args:
        bandwidth: L, one number or one for each leading index; the inner-product kernels have none.
    """
    if kernel.p != 2:
        return _p_norm(kernel, _wide(bandwidth, points), points, centres, metric, diagonal)
    moved = applied(points, metric, diagonal=diagonal)
    products = moved @ centres.mT
    if kernel.family == "linear":
        return Profile(products, torch.ones_like(products))
    if kernel.family == "quadratic":
        return Profile(products.square(), 2 * products)
    across = (moved * points).sum(-1).unsqueeze(-1)
    down = across if centres is points else (applied(centres, metric, diagonal=diagonal) * centres).sum(-1).unsqueeze(-1)
    sums = across + down.mT
    squared = products.mul_(-2).add_(sums)
    squared.masked_fill_(squared <= 32 * torch.finfo(squared.dtype).eps * sums, 0.0)
    if centres is points:
        squared.diagonal(dim1=-2, dim2=-1).zero_()
    return _of_squared(kernel, _wide(bandwidth, points), squared)


def _wide(bandwidth: Tensor | float, points: Tensor) -> Tensor:
    return torch.as_tensor(bandwidth, dtype=points.dtype)[..., None, None]


def _of_squared(kernel: Kernel, bandwidth: Tensor, squared: Tensor) -> Profile:
    if kernel.family == "gaussian":
        values = torch.exp(squared / (-2 * bandwidth**2))
        return Profile(values, values / -(bandwidth**2))
    distance = squared.sqrt()
    if kernel.q == 1:
        values = torch.exp(distance / -bandwidth)
        slopes = values / (distance * -bandwidth)
    else:
        values = torch.exp(-((distance / bandwidth) ** kernel.q))
        slopes = values * distance ** (kernel.q - 2) * -(kernel.q / bandwidth**kernel.q)
    return Profile(values, slopes.masked_fill_(squared == 0, 0.0))


def _p_norm(kernel: Kernel, bandwidth: Tensor, points: Tensor, centres: Tensor, metric: Tensor | None, diagonal: bool) -> Profile:
    if metric is not None and not diagonal:
        raise InputError(f"kernel: {kernel} has a metric along the axes alone; use diagonal=True, or p = 2")
    root = 1.0 if metric is None else metric.clamp_min(0).sqrt().unsqueeze(-2)
    distance = torch.cdist((points * root).contiguous(), (centres * root).contiguous(), p=kernel.p)
    values = torch.exp(-((distance / bandwidth) ** kernel.q))
    slopes = values * distance ** (kernel.q - kernel.p) * -(kernel.q / bandwidth**kernel.q)
    return Profile(values, slopes.masked_fill_(distance == 0, 0.0))


def gradients(
    kernel: Kernel,
    slopes: Tensor,
    alphas: Tensor,
    points: Tensor,
    centres: Tensor,
    metric: Tensor | None = None,
    *,
    diagonal: bool = False,
) -> Tensor:
    """(…, m, d): gradients at points of one output, f = Σ α_i K(x_i, ·) with alphas (…, n)."""
    weights = slopes * alphas.unsqueeze(-2)
    if kernel.p != 2:
        return _p_norm_gradients(kernel, weights, points, centres, metric)
    found = weights @ centres
    if kernel.radial:
        found = points * weights.sum(-1, keepdim=True) - found
    return applied(found, metric, diagonal=diagonal)


def combinations(kernel: Kernel, slopes: Tensor, alphas: Tensor) -> Tensor:
    """(n, n) C with C · rows · M the gradients at the rows, for a machine of one output whose centres they are; p = 2."""
    if not kernel.radial:
        return slopes * alphas
    found = slopes * -alphas
    found.diagonal().sub_(found.sum(-1))
    return found


def _p_norm_gradients(kernel: Kernel, weights: Tensor, points: Tensor, centres: Tensor, metric: Tensor | None) -> Tensor:
    columns = []
    for axis in range(points.shape[-1]):  # one coordinate at a time: (…, m, n) is what must fit
        apart = points[..., axis, None] - centres[..., None, :, axis]
        columns.append((weights * apart.sign() * apart.abs() ** (kernel.p - 1)).sum(-1))
    found = torch.stack(columns, -1)
    return found if metric is None else found * metric.unsqueeze(-2) ** (kernel.p / 2)


def outer_products(
    kernel: Kernel,
    slopes: Tensor,
    alphas: Tensor,
    rows: Tensor,
    metric: Tensor | None = None,
    *,
    diagonal: bool = False,
    centred: bool = False,
) -> Tensor:
    """(…, d, d), or (…, d) of a diagonal metric: mean over rows of Σ_outputs ∇f ∇fᵀ, for a machine whose centres are the rows.

    Every gradient is M Xᵀ c for some c, so the sum is M Xᵀ Q X M with Q = Σ CᵀC; and since C = diag(r) − S diag(α) with the
    slopes S and r = Sα, Q = diag(Σ r²) − T − Tᵀ + (SᵀS) ∘ (Σ ααᵀ), T = S ∘ (Σ rαᵀ), takes one product of n × n matrices
    whatever the number of outputs. That is the way for many outputs; for few, the gradients themselves are cheaper.

    Args:
        alphas: (…, n, outputs).
        centred: subtract each output's mean gradient first.
    """
    n, outputs, d = rows.shape[-2], alphas.shape[-1], rows.shape[-1]
    if kernel.p == 2 and not diagonal and outputs * d > 2 * n:
        return _through_gram(kernel, slopes, alphas, rows, metric, centred)
    total = None
    for k in range(outputs):
        found = gradients(kernel, slopes, alphas[..., k], rows, rows, metric, diagonal=diagonal)
        if centred:
            found = found - found.mean(-2, keepdim=True)
        part = found.square().mean(-2) if diagonal else found.mT @ found / n
        total = part if total is None else total + part
    assert total is not None
    return total


def _through_gram(kernel: Kernel, slopes: Tensor, alphas: Tensor, rows: Tensor, metric: Tensor | None, centred: bool) -> Tensor:
    n = rows.shape[-2]
    inner = (slopes.mT @ slopes) * (alphas @ alphas.mT)
    sums = slopes @ alphas  # r
    if kernel.radial:
        cross = slopes * (sums @ alphas.mT)
        inner = inner - cross - cross.mT
        inner.diagonal(dim1=-2, dim2=-1).add_(sums.square().sum(-1))
    if centred:
        mean = slopes.sum(-2).unsqueeze(-1) * alphas
        mean = (sums - mean if kernel.radial else mean) / math.sqrt(n)
        inner = inner - mean @ mean.mT
    moved = applied(rows, metric, diagonal=False)
    return moved.mT @ (inner @ moved) / n
