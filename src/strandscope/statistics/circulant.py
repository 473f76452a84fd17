"""Is a matrix over ℤ_p circulant, and how many frequencies carry it? What features of modular arithmetic are read by.

A function of a + b mod p has features that are waves e^{2πifa/p}: the Gram matrix of an embedding made of K frequencies is
circulant, G_ab = g(a − b), of rank 2K (a cosine and a sine each; the constant, f = 0, counts once).

The circulant deviation is the part of the variance of entries off the diagonal that no circulant matrix explains: 0 for a
circulant matrix, about 1 − 1/p for independent entries. The diagonal and the mean are left out, since a matrix with a large
constant in either would look circulant by that alone. Multiplication mod p has the same structure after rows are reordered by
their discrete logarithm.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import InputError
from ..linalg import finite


def circulant_deviation(block: Tensor) -> float:
    """Share of Σ_{i≠j}(B_ij − B̄)² of a matrix (p, p), B̄ their mean, that is not circulant: 0 to 1.

    Raises:
        InputError: not square, or every entry off the diagonal is the same.
    """
    square = _square(block)
    around = wrapped(square)[1:]
    around = around - around.mean()
    total = float(around.square().sum())
    if not total > 1e-24 * float(square.square().sum()):
        raise InputError("block: every entry off the diagonal is the same, so there is nothing to be circulant or not")
    return float((around - around.mean(1, keepdim=True)).square().sum()) / total


def wrapped(block: Tensor) -> Tensor:
    """(p, p) whose row k is the wrapped diagonal B_{i, i + k mod p}; a circulant matrix has constant rows."""
    square = _square(block)
    p = len(square)
    rows = torch.arange(p)
    return square[rows[None], (rows[None] + rows[:, None]) % p]


def fourier_power(gram: Tensor) -> Tensor:
    """(p // 2 + 1,) power of a Gram matrix (p, p) at each frequency, f and −f together: they add to its trace."""
    square = _square(gram)
    p = len(square)
    power = torch.fft.fft2(square).real
    modes = torch.arange(p)
    power = power[modes, (-modes) % p] / p  # diagonal of F G F*, F unitary
    folded = power[: p // 2 + 1].clone()
    folded[1 : (p + 1) // 2] += power[p // 2 + 1 :].flip(0)
    return folded


def fourier_participation(gram: Tensor) -> float:
    """(ΣP)²/ΣP² over frequencies 1, 2, …: how many carry the matrix (1 to (p − 1)/2). The constant is left out."""
    constant, power = fourier_power(gram).tensor_split([1])
    if not float(power.sum()) > 1e-12 * float(constant.abs()):
        raise InputError("gram: it has no power at any frequency but 0, so no frequency carries it")
    return float(power.sum() ** 2 / power.square().sum())


def _square(matrix: Tensor) -> Tensor:
    wide = finite(matrix, "block")
    if wide.ndim != 2 or wide.shape[0] != wide.shape[1] or len(wide) < 3:
        raise InputError(f"block: got shape {tuple(matrix.shape)}, wanted a square matrix of at least three rows")
    return wide
