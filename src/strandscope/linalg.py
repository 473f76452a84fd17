"""Symmetric eigenproblems and angles between subspaces, each answer with what says how far it can be trusted.

What it promises: eigenvalues come in descending order; every pair (λ, v) carries ‖Av − λv‖, computed from A itself in float64,
and an eigenvalue of A lies no further than that from λ (for a symmetric A and a unit v). It bounds the *numerical* error alone:
how far a sampled A is from the one that was meant is not in it. Where there are fewer rows than coordinates, the eigenproblem
of rowsᵀrows is solved as that of the n × n Gram matrix, which has the same nonzero eigenvalues: an identity, chosen by shape,
not a fallback.

A solve that fails is a sentence (TrustError), never another solver in silence.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import InputError, TrustError


@dataclass(frozen=True, slots=True)
class Spectrum:
    """The k largest eigenpairs of a positive semidefinite matrix.

    Attributes:
        values: (k,) descending, in the matrix's unit; `vectors`: (d, k) orthonormal columns.
        residuals: (k,) ‖Av − λv‖: an eigenvalue of A lies within this of λ. Numerical error only.
        trace: tr A, so that `values / trace` are shares of all there is.
    """

    values: Tensor
    vectors: Tensor
    residuals: Tensor
    trace: float

    def __len__(self) -> int:
        return len(self.values)

    @property
    def share(self) -> float:
        """The part of the trace that these eigenvectors hold."""
        return float(self.values.sum()) / self.trace if self.trace > 0 else 0.0


def finite(tensor: Tensor, name: str, hint: str = "look where they come from, or leave them out") -> Tensor:
    """`tensor` in float64, or InputError that says which row holds a NaN or an infinity."""
    if not tensor.is_floating_point():
        raise InputError(
            f"{name}: got {str(tensor.dtype).removeprefix('torch.')}, wanted floating-point numbers; convert them first"
        )
    good = torch.isfinite(tensor)
    if not bool(good.all()):
        place = (~good).nonzero()[0].tolist()
        at = f"row {place[0]}" if len(place) < 3 else f"index {place[:-1]}"
        raise InputError(f"{name}: {at} holds a NaN or an infinity; {hint}")
    return tensor.double()


def eigh(matrix: Tensor, name: str = "matrix") -> tuple[Tensor, Tensor]:
    """Eigenvalues (n,), descending, and orthonormal eigenvectors (n, n) of a symmetric matrix, in float64.

    Raises:
        InputError: not square, not symmetric, not finite.
        TrustError: the solver did not converge.
    """
    wide = finite(matrix, name)
    if wide.ndim != 2 or wide.shape[0] != wide.shape[1]:
        raise InputError(f"{name}: got shape {tuple(matrix.shape)}, wanted a square matrix")
    if float((wide - wide.T).abs().max()) > 1e-5 * float(wide.abs().max()):
        raise InputError(f"{name}: it is not symmetric; pass (A + Aᵀ)/2 if that is what is meant")
    try:
        values, vectors = torch.linalg.eigh((wide + wide.T) / 2)
    except torch.linalg.LinAlgError as error:  # pyright: ignore[reportPrivateImportUsage]
        raise TrustError(f"{name}: its eigenvalues could not be computed ({str(error)[:120]}); look at its entries") from None
    return values.flip(0), vectors.flip(1)


def top_of_matrix(matrix: Tensor, k: int, name: str = "matrix") -> Spectrum:
    """The k largest eigenpairs of a symmetric matrix (d, d)."""
    values, vectors = eigh(matrix, name)
    check_rank(k, len(values), name)
    wide = matrix.double()
    chosen = vectors[:, :k]
    return Spectrum(values[:k], chosen, (wide @ chosen - chosen * values[:k]).norm(dim=0), float(wide.diagonal().sum()))


def top_of_rows(rows: Tensor, k: int, weight: float | None = None, name: str = "rows") -> Spectrum:
    """The k largest eigenpairs of weight · rowsᵀ rows, through whichever of n × n and d × d is smaller.

    Args:
        rows: (n, d); `weight`: 1/n where it is None, which makes it the mean of the rows' outer products.

    Raises:
        InputError: k is larger than min(n, d): no more eigenvectors than that are determined by the rows.
    """
    wide = finite(rows, name)
    if wide.ndim != 2 or 0 in wide.shape:
        raise InputError(f"{name}: got shape {tuple(rows.shape)}, wanted (rows, d) with at least one row")
    n, d = wide.shape
    check_rank(k, min(n, d), name)
    weight = 1 / n if weight is None else weight
    if d <= n:
        return top_of_matrix(weight * wide.T @ wide, k, name)
    values, left = eigh(weight * wide @ wide.T, name)
    # vᵢ = rowsᵀ uᵢ / √(n λᵢ); where λᵢ vanishes the product is rounding, and QR completes the basis instead.
    vectors = torch.linalg.qr(wide.T @ left[:, :k]).Q
    vectors = vectors * torch.where((vectors * (wide.T @ left[:, :k])).sum(0) < 0, -1.0, 1.0)
    kept = values[:k].clamp_min(0.0)
    residuals = (weight * (wide.T @ (wide @ vectors)) - vectors * kept).norm(dim=0)
    return Spectrum(kept, vectors, residuals, weight * float(wide.square().sum()))


def check_rank(k: int, most: int, name: str) -> None:
    if not 1 <= k <= most:
        raise InputError(f"k: got {k}, wanted 1 to {most}, which is all that {name} determines; ask for fewer or give more rows")


def orthonormal_basis(columns: Tensor, name: str = "columns") -> Tensor:
    """(d, m) orthonormal columns with the span of (d, m) columns of full rank.

    Raises:
        InputError: the columns are linearly dependent, so that the dimension of their span is not m.
    """
    wide = finite(columns, name)
    if wide.ndim != 2 or wide.shape[0] < wide.shape[1]:
        raise InputError(f"{name}: got shape {tuple(columns.shape)}, wanted (d, m) with at most d columns")
    factor = torch.linalg.qr(wide / wide.norm(dim=0).clamp_min(1e-300))
    if float(factor.R.diagonal().abs().min()) < 1e-10:
        raise InputError(f"{name}: they are linearly dependent; leave out those that the others span")
    return factor.Q


def principal_angles(first: Tensor, second: Tensor) -> Tensor:
    """(min(m1, m2),) angles in radians, ascending, between the spans of (d, m1) and (d, m2) columns of full rank.

    Small angles are taken from their sines and large ones from their cosines (Björck & Golub 1973): a cosine alone knows an angle
    only to the square root of rounding.
    """
    one, two = orthonormal_basis(first, "first"), orthonormal_basis(second, "second")
    if one.shape[0] != two.shape[0]:
        raise InputError(f"second: got columns of length {two.shape[0]}, wanted {one.shape[0]} as in first")
    if one.shape[1] < two.shape[1]:
        one, two = two, one
    across = one.T @ two
    cosines = torch.linalg.svdvals(across).clamp(0.0, 1.0)  # descending, as the angles ascend
    sines = torch.linalg.svdvals(two - one @ across).flip(0).clamp(0.0, 1.0)
    return torch.where(cosines.square() < 0.5, cosines.acos(), sines.asin())


def subspace_share(matrix: Tensor, basis: Tensor) -> float:
    """The part of tr A that the span of orthonormal columns (d, k) holds: tr VᵀAV / tr A."""
    return float((basis * (matrix.double() @ basis)).sum() / matrix.double().diagonal().sum())
