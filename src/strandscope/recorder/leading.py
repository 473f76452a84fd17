"""The r leading eigenpairs of a mean outer product, whole and without each block, at the price of r and not of d.

LAPACK's `syevr` finds the leading pairs alone: of a matrix of 512 in a quarter of the time of all of them, which matters here
since every record solves nine at each site. Fewer rows than coordinates are solved through their Gram matrix, which has the same
nonzero eigenvalues. In one thread: at these sizes more gain nothing, and they would take cores from the training.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from scipy.linalg import LinAlgError, eigh
from torch import Tensor

from ..engine.threads import one_blas
from ..errors import TrustError
from ..linalg import Spectrum
from ..statistics.accumulators import KeptRows, OuterProducts


def leading(blocks: Sequence[OuterProducts], r: int) -> list[Spectrum]:
    """Of all blocks together, then of all but each; every block holds rows, and r is at most what is left without one.

    Raises:
        TrustError: the solver did not converge.
    """
    kept = [block.rows for block in blocks if isinstance(block, KeptRows)]
    if kept:
        groups = [kept, *([*kept[:out], *kept[out + 1 :]] for out in range(len(kept)))]
        with one_blas():
            return [_of_rows(torch.cat(rows), r) for rows in groups]
    sums = torch.stack([block.matrix(False, None) * block.n for block in blocks])
    counts = [block.n for block in blocks]
    total, n = sums.sum(0), sum(counts)
    without = [(total - part) / (n - count) for part, count in zip(sums, counts, strict=True)]
    with one_blas():
        return [_of_matrix(matrix, r) for matrix in [total / n, *without]]


def _of_matrix(matrix: Tensor, r: int) -> Spectrum:
    values, vectors = _solve(matrix, r)
    residuals = (matrix @ vectors - vectors * values).norm(dim=0)
    return Spectrum(values, vectors, residuals, float(matrix.diagonal().sum()))


def _of_rows(rows: Tensor, r: int) -> Spectrum:
    n, d = rows.shape
    if d <= n:
        return _of_matrix(rows.T @ rows / n, r)
    values, left = _solve(rows @ rows.T / n, r)
    vectors = torch.linalg.qr(rows.T @ left).Q  # where an eigenvalue vanishes the basis is completed
    values = values.clamp_min(0.0)
    residuals = (rows.T @ (rows @ vectors) / n - vectors * values).norm(dim=0)
    return Spectrum(values, vectors, residuals, float(rows.square().sum()) / n)


def _solve(matrix: Tensor, r: int) -> tuple[Tensor, Tensor]:
    """(r,) eigenvalues, descending, and (n, r) eigenvectors."""
    n = len(matrix)
    try:
        values, vectors = eigh(matrix.numpy(), subset_by_index=[n - r, n - 1], driver="evr", check_finite=False)
    except LinAlgError as error:
        raise TrustError(f"features: their eigenvalues could not be computed ({error}); look at the gradients") from None
    return torch.from_numpy(values).flip(0), torch.from_numpy(vectors).flip(1)
