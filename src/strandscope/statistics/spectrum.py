"""Spectra of metrics: participation ratio and overlap (their own files, named here), top eigenvalues, energy dimension.

Eigenvalues carry residual bounds, which say nothing about sampling; the energy dimension of sampled rows is "not measured" unless
it stands still when the rows double.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import InputError
from ..linalg import Spectrum, eigh, top_of_matrix, top_of_rows
from ..reading import Reading
from .overlap import Overlap, overlap
from .participation import Participation, Participations, checked_rows, participation, participation_of, participations, trace

__all__ = [
    "Overlap",
    "Participation",
    "Participations",
    "Spectrum",
    "energy_dimension",
    "energy_reading",
    "held_out_share",
    "overlap",
    "participation",
    "participation_of",
    "participations",
    "top_eigenvalues",
    "trace",
]


def top_eigenvalues(rows_or_matrix: Tensor, k: int, *, matrix: bool = False) -> Spectrum:
    """The k largest eigenpairs of the rows' mean outer product (n, d), or of a matrix (d, d) with `matrix=True`.

    Eigenvalues of a mean of few rows lie above those of M (Jensen); the residuals bound the numerical error alone.
    """
    return top_of_matrix(rows_or_matrix, k) if matrix else top_of_rows(rows_or_matrix, k)


def held_out_share(rows: Tensor, k: int) -> Tensor:
    """(N,) share of a context's response that the top k directions from half its draws hold on the other half.

    rows (N, K, d); both halves take either part. A share that the same draws had both chosen and scored would be near 1 always.
    """
    wide = checked_rows(rows, 3)
    half = wide.shape[1] // 2
    halves = (wide[:, :half], wide[:, half : 2 * half])
    shares = []
    for chosen, scored in (halves, halves[::-1]):
        bases = torch.stack([top_of_rows(context, k).vectors for context in chosen])
        shares.append((scored @ bases).square().sum((-1, -2)) / scored.square().sum((-1, -2)))
    return (shares[0] + shares[1]) / 2


def energy_dimension(matrix: Tensor, share: float = 0.9) -> int:
    """The smallest number of eigenvectors of a symmetric matrix (d, d) that hold `share` of its trace."""
    values, _ = eigh(matrix)
    return _energy(values.clamp_min(0.0), share)


def _energy(values: Tensor, share: float) -> int:
    if not 0 < share < 1:
        raise InputError(f"share: got {share}, wanted a number between 0 and 1, such as 0.9")
    running = values.cumsum(0)
    return int((running < share * running[-1] * (1 - 1e-12)).sum()) + 1


def energy_reading(rows: Tensor, share: float = 0.9, coordinates: str = "raw") -> Reading:
    """The energy dimension of M from rows (K, d), "not measured" unless it stands still when K doubles.

    Rows can span no more dimensions than there are rows, so few rows always look simple. The halves of the rows are compared
    with all of them; where the dimension grows by more than a tenth (and by more than 1) it is still growing. The interval goes
    from the halves' mean to as far again above the whole; no confidence is claimed for it, since the jackknife fails on whole
    numbers.
    """
    wide = checked_rows(rows, 2)
    method = (
        f"smallest number of directions that hold {share:.0%} of the trace, {len(rows)} rows against their halves; {coordinates}"
    )

    def dimension(part: Tensor) -> int:
        gram = part @ part.T if len(part) < part.shape[1] else part.T @ part
        return energy_dimension(gram, share)

    whole = dimension(wide)
    halves = (dimension(wide[0::2]) + dimension(wide[1::2])) / 2
    if whole - halves > max(1.0, 0.1 * whole):
        why = f"it grows from {halves:g} to {whole} when the rows double; draw more rows or take the exact metric"
        return Reading.not_measured(why, unit="dimensions", method=method, n=len(rows))
    low, high = min(halves, whole), max(2 * whole - halves, whole)
    return Reading(float(whole), float(low), float(high), None, len(rows), "dimensions", None, method)
