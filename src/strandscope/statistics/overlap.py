"""How far the metrics of many contexts have their directions in common, and the dimension that pooling them gives.

With F̂_i = F_i/tr F_i and ω = ⟨tr F̂_iF̂_j⟩_{i≠j}, the pooled metric of N contexts has 1/PR_N = ⟨1/PR_i⟩/N + (1 − 1/N)·ω, and 1/ω
is its limit: what a hundred contexts give is mostly the number 100 unless it is taken to the limit. Different contexts have
different draws, so tr F̂_iF̂_j is unbiased but for F̂_i being a ratio; the delete-one jackknife takes that bias off (each row keeps
a weight of its own, and the trace stays 1). Intervals delete contexts, never draws, and are those of `pairs`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import InputError
from ..reading import Reading
from .pairs import LogRatio, log_ratio
from .participation import checked_rows, participations

Ints = NDArray[np.int64]

_BLOCK = 1 << 24  # numbers held at a time while contexts are compared; fixed, so that results never depend on free memory


@dataclass(frozen=True, slots=True)
class Overlap:
    """How far the metrics of N contexts have their directions in common.

    Attributes:
        local: (N,) 1/PR of each context; `inverse_local`: their mean.
        matrix: (N, N) tr F̂_iF̂_j; its diagonal is not used.
        omega: its mean over pairs of different contexts (of different groups, where groups were given).
        groups: (N,) what stands or falls together: intervals delete groups.
    """

    local: Tensor
    matrix: Tensor
    omega: float
    groups: Ints

    @property
    def inverse_local(self) -> float:
        return float(self.local.mean())

    def at(self, n: float) -> float:
        """The participation ratio of the pooled metric of n contexts; `math.inf` for the limit."""
        _check_contexts(n)
        inverse = self.inverse_local / n + (1 - 1 / n) * self.omega
        return 1 / inverse if inverse > 0 else math.nan

    def pooled(self, coordinates: str = "raw") -> Reading:
        """The limit of many contexts, 1/ω."""
        return self.reading(math.inf, coordinates)

    def reading(self, n: float, coordinates: str = "raw") -> Reading:
        """The pooled participation ratio expected of n contexts, with a 95 % interval that deletes contexts, never draws."""
        _check_contexts(n)
        contexts, groups = len(self.local), len(np.unique(self.groups))
        many = "many contexts" if n == math.inf else f"{n:g} contexts"
        method = (
            f"participation ratio pooled over {many} through the mean overlap of {contexts}; "
            f"jackknife over {groups} groups of them; {coordinates} coordinates"
        )
        ratio = self.ratio(n)
        value, (low, high) = float(ratio.log.exp()), (float(end.exp()) for end in ratio.interval())
        if not math.isfinite(value):
            return Reading.not_measured(
                "the contexts' overlap is not above 0; add contexts or draws", unit="dimensions", method=method
            )
        return Reading(value, low, high, 0.95, contexts, "dimensions", None, method)

    def ratio(self, n: float) -> LogRatio:
        """log PR_n with what its interval is made of."""
        both = (self.local[:, None] + self.local[None]) / 2
        kernel = both / n + (1 - 1 / n) * self.matrix
        _, of = np.unique(self.groups, return_inverse=True)
        member = torch.nn.functional.one_hot(torch.as_tensor(of)).to(kernel)
        return log_ratio(member.T @ torch.ones_like(kernel) @ member, member.T @ kernel @ member)


def _check_contexts(n: float) -> None:
    if not n >= 1:
        raise InputError(f"n: got {n}, wanted at least one context (math.inf for the limit)")


def overlap(rows: Tensor, groups: Ints | None = None) -> Overlap:
    """Mean overlap of the metrics of N contexts from K rows each (N, K, d); N is at least four.

    Args:
        groups: (N,) codes; contexts of a group are not compared with one another, and the interval deletes whole groups.

    Raises:
        InputError: fewer than four contexts or groups, a context whose rows are all zero.
    """
    wide = checked_rows(rows, 3)
    codes = np.arange(len(rows)) if groups is None else np.asarray(groups, dtype=np.int64)
    if codes.shape != (len(rows),):
        raise InputError(f"groups: got shape {codes.shape}, wanted one code for each of the {len(rows)} contexts")
    if len(np.unique(codes)) < 4:
        raise InputError(f"contexts: got {len(np.unique(codes))} (groups of them), wanted at least 4; add texts")
    lengths = wide.square().sum(-1)  # (N, K)
    totals = lengths.sum(-1)
    if not bool((totals > 0).all()):
        raise InputError(f"rows: context {int((totals <= 0).nonzero()[0])} has nothing but zeros; leave it out")
    local = participations(rows)
    inverse = local.square / _square_of_trace(lengths)
    matrix = _inner_products(rows, _weights(lengths))
    apart = torch.as_tensor(codes[:, None] != codes[None], device=rows.device)
    return Overlap(inverse, matrix, float(matrix[apart].mean()), codes)


def _square_of_trace(lengths: Tensor) -> Tensor:
    """(tr M)² without bias: mean of ‖g_i‖²‖g_j‖² over pairs."""
    rows = lengths.shape[-1]
    return (lengths.sum(-1).square() - lengths.square().sum(-1)) / (rows * (rows - 1))


def _weights(lengths: Tensor) -> Tensor:
    """(N, K) weights w with F̂ = Σ w g gᵀ: 1/Σ‖g‖² with the jackknife's correction of the ratio; Σ w‖g‖² stays 1."""
    rows, total = lengths.shape[-1], lengths.sum(-1, keepdim=True)
    without = total - lengths
    if not bool((without > 1e-9 * total).all()):
        return (1 / total).expand_as(lengths)  # a single row carries a context: nothing can be deleted from it
    inverse = 1 / without
    return rows / total - (rows - 1) / rows * (inverse.sum(-1, keepdim=True) - inverse)


def _inner_products(rows: Tensor, weights: Tensor) -> Tensor:
    """(N, N) tr F̂_iF̂_j for F̂ = Σ w g gᵀ of rows (N, K, d), in float64.

    A block of columns at a time, and of a symmetric matrix only what lies on and below the block: off it every entry counts
    twice.
    """
    contexts, _, d = rows.shape
    norm = weights.abs().amax(-1, keepdim=True).sqrt()[..., None]  # rows of the order of 1, so that fp32 can hold the products
    right = rows * norm.to(rows.dtype)
    left = right * (weights[..., None] / norm.square()).to(rows.dtype)
    wide = max(1, min(d, _BLOCK // max(contexts * d, 1)))
    total = torch.zeros(contexts, contexts, dtype=torch.float64, device=rows.device)
    for start in range(0, d, wide):
        end = min(start + wide, d)
        block = left[..., start:].transpose(-1, -2) @ right[..., start:end]  # (N, d − start, width)
        block[:, end - start :] *= math.sqrt(2)
        flat = block.flatten(1)
        total += (flat @ flat.T).double()
    return total
