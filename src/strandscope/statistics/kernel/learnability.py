"""How much of each function a learner learns, on a domain that can be written out, and what these shares add up to.

On M points with functions φ_i orthonormal under the uniform measure (ΦᵀΦ = M·1), a learner is shown φ_i on n of the points and
returns φ̂_i on all of them; its learnability is L_i = ⟨φ_i, φ̂_i⟩ (Simon et al., arXiv 2110.03922), 1 where the function is
reproduced and 0 where nothing of it is. Over a complete basis

    Σ_i L_i = n     for kernel regression without a ridge, whatever the kernel;      Σ_i L_i = tr K_SS(K_SS + δ)⁻¹ < n with one,

as long as K_SS can be inverted (one that cannot learns its rank).

That is the trace of the learner as a linear map, Σ_{s∈S} ∂f̂(s)/∂f(s), so it holds for every learner that is linear in the labels
and reproduces them: the nearest neighbour too. What must break it: a basis that is not complete, a ridge, a learner that is not
linear in its labels (a classifier's sign, a trained network).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...errors import InputError, TrustError
from ...linalg import finite
from ...reading import Reading
from .spectrum import exact, ridge_of

Ints = NDArray[np.int64]
REPRODUCED = 1e-9  # of the labels: how far a solve may be off
Learner = Callable[[Tensor, Tensor], Tensor]  # rows (n,) that are seen, labels (n, k) → predictions (M, k) on the whole domain


def parities(d: int) -> tuple[Tensor, Tensor]:
    """The hypercube's points (2^d, d) in ±1 and its characters (2^d, 2^d), orthonormal under the uniform measure.

    Column S of the characters is Π_{i∈S} x_i, S the bits of the column's number.
    """
    if not 1 <= d <= 12:
        raise InputError(f"d: got {d}, wanted 1 to 12; the characters of 2^d points take 4^d numbers")
    bits = (torch.arange(2**d)[:, None] >> torch.arange(d)) & 1
    points = 1.0 - 2.0 * bits.double()
    return points, 1.0 - 2.0 * ((bits @ bits.T) % 2).double()


def kernel_learner(gram: Tensor, ridge: float = 0.0) -> Learner:
    """Kernel regression with the Gram matrix (M, M) of the whole domain; (K_SS + δ)⁻¹ with δ = `ridge`.

    The learner raises TrustError where the solve does not give the labels back.
    """
    whole, ridge = finite(gram, "gram"), ridge_of(ridge)
    if whole.ndim != 2 or whole.shape[0] != whole.shape[1]:
        raise InputError(f"gram: got shape {tuple(gram.shape)}, wanted (M, M) over the whole domain")

    def learn(rows: Tensor, labels: Tensor) -> Tensor:
        seen = whole[rows][:, rows] + ridge * torch.eye(len(rows), dtype=torch.float64)
        solved, failed = torch.linalg.solve_ex(seen, labels)
        if int(failed) or float((seen @ solved - labels).abs().max()) > REPRODUCED * float(labels.abs().max()):
            raise TrustError("gram: singular on the rows that are seen, so no function reproduces the labels; give a ridge")
        return whole[:, rows] @ solved

    return learn


def learnabilities(learner: Learner, basis: Tensor, rows: Ints | Tensor) -> Tensor:
    """(k,) L_i of each function of a basis (M, k) for a learner that sees the points `rows` (n,).

    Raises:
        InputError: a basis that is not orthonormal under the uniform measure, rows outside the domain or twice.
    """
    wide, seen = finite(basis, "basis"), torch.as_tensor(rows, dtype=torch.int64)
    size = len(wide)
    if wide.ndim != 2 or float((wide.T @ wide / size - torch.eye(wide.shape[1], dtype=torch.float64)).abs().max()) > 1e-8:
        raise InputError(f"basis: shape {tuple(basis.shape)}, wanted functions (M, k) with basisᵀ basis = M; orthonormalise them")
    if len(seen) == 0 or int(seen.min()) < 0 or int(seen.max()) >= size or len(seen.unique()) < len(seen):
        raise InputError(f"rows: wanted different numbers from 0 to {size - 1}, at least one; got {seen.tolist()[:8]}…")
    return (wide * learner(seen, wide[seen])).sum(0) / size


def total_learnability(learner: Learner, basis: Tensor, rows: Ints | Tensor) -> Reading:
    """Σ_i L_i over the functions of a basis (M, k), exact for these rows; compare with their number n."""
    total = float(learnabilities(learner, basis, rows).sum())
    return exact(total, len(rows), "functions", f"Σ⟨φ, φ̂⟩ over {basis.shape[1]} of {len(basis)} functions, {len(rows)} rows seen")
