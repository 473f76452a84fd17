"""The two decisions of a kernel machine that need its labels: the weights of its rows, and which bandwidth and ridge.

Leave-one-out has a closed form, y_i − f₋ᵢ(x_i) = α_i / [(K + λI)⁻¹]_ii (given the targets' mean), so that no rows need be
kept back to choose by. It is taken at M = I: a metric that was learned has seen the row that is left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import TrustError
from .kernels import profile
from .rfm_spec import BANDWIDTHS, RIDGES, RFMSpec


@dataclass(frozen=True, slots=True)
class Solved:
    """Weights (…, n, outputs), NaN where there is no solution; relative residual (…); a sentence or "solved" for each site."""

    alphas: Tensor
    residual: Tensor
    outcomes: tuple[str, ...]


def solve(values: Tensor, ridge: Tensor, wanted: Tensor) -> Solved:
    """(K + λI) α = y by Cholesky, once, at every site."""
    system = regularised(values, ridge)
    factor, info = torch.linalg.cholesky_ex(system)
    alphas = torch.cholesky_solve(wanted.contiguous(), factor)
    failed = (info != 0) | ~torch.isfinite(alphas).all(-1).all(-1)
    alphas = torch.where(failed[..., None, None], torch.nan, alphas)
    size = torch.linalg.matrix_norm(wanted).clamp_min(torch.finfo(wanted.dtype).tiny)
    residual = torch.linalg.matrix_norm(system @ alphas - wanted) / size
    return Solved(alphas, residual, tuple(_outcome(*site) for site in _sites(failed, info, ridge, residual)))


def _sites(failed: Tensor, info: Tensor, ridge: Tensor, residual: Tensor) -> list[tuple[bool, int, float, float]]:
    wide = ridge.expand(failed.shape)
    return list(zip(*(part.reshape(-1).tolist() for part in (failed, info, wide, residual)), strict=True))


def _outcome(failed: bool, info: int, ridge: float, residual: float) -> str:
    if failed:
        where = f"from row {info} on" if info else "in its solution"
        told = f"not solved: the kernel matrix with ridge {ridge:.3g} is not positive definite ({where})"
        return f"{told}; use a greater ridge, or leave out rows that repeat"
    if residual > 1e-2:
        return (
            f"not solved: the residual is {residual:.2g} of the targets with ridge {ridge:.3g}; use a greater ridge, or float64"
        )
    return "solved"


def regularised(values: Tensor, ridge: Tensor) -> Tensor:
    system = values.clone()
    system.diagonal(dim1=-2, dim2=-1).add_(ridge[..., None])
    return system


def left_out(values: Tensor, ridge: Tensor, wanted: Tensor) -> Tensor:
    """(…) mean squared leave-one-out residual over rows and outputs; infinite where the system cannot be solved."""
    factor, info = torch.linalg.cholesky_ex(regularised(values, ridge))
    inverse = torch.cholesky_inverse(factor)
    residual = (inverse @ wanted) / inverse.diagonal(dim1=-2, dim2=-1).unsqueeze(-1)
    error = residual.square().mean((-2, -1))
    return torch.where((info != 0) | ~torch.isfinite(error), torch.inf, error)


def choose(spec: RFMSpec, points: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Bandwidth and ridge (…) of every site: as given, or the pair with the least leave-one-out error (the first of equals).

    Raises TrustError if no pair can be solved at some site.
    """
    one = torch.ones(points.shape[:-2], dtype=points.dtype, device=points.device)
    bandwidths = _candidates(spec.bandwidth, BANDWIDTHS, _distance(points) if spec.bandwidth is None else one)
    if not spec.kernel.radial:
        bandwidths = [one]
    if len(bandwidths) == 1 and isinstance(spec.ridge, float | int):
        return bandwidths[0], one * spec.ridge
    best, chosen = one * torch.inf, (one, one)
    for bandwidth in bandwidths:
        values = profile(spec.kernel, bandwidth, points, points, diagonal=spec.diagonal).values
        size = values.diagonal(dim1=-2, dim2=-1).mean(-1)
        for ridge in _candidates(spec.ridge, RIDGES, size if spec.ridge is None else one):
            error = left_out(values, ridge, wanted)
            better = error < best
            best = torch.where(better, error, best)
            chosen = (torch.where(better, bandwidth, chosen[0]), torch.where(better, ridge, chosen[1]))
    if not bool(torch.isfinite(best).all()):
        raise TrustError("not solved: no bandwidth and ridge of the grid gives a positive definite system; use greater ridges")
    return chosen


def _candidates(given: float | tuple[float, ...] | None, default: tuple[float, ...], unit: Tensor) -> list[Tensor]:
    values = default if given is None else given if isinstance(given, tuple) else (given,)
    return [unit * value for value in values]


def _distance(points: Tensor) -> Tensor:
    """(…) root mean squared distance between two rows."""
    return (2 * (points - points.mean(-2, keepdim=True)).square().sum(-1).mean(-1)).sqrt()
