"""The basis that Lanczos builds, and the operator projected on it: what eigenvalues and densities are both read from.

Orthogonalised against every row at every step, in the operator's precision; the projected matrix is float64. Where the basis is
invariant (`beta` 0) the next row is drawn anew and uncoupled, so that multiple eigenvalues are found again.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .operator import Operator

Floats = NDArray[np.float64]


class Krylov:
    """A basis (room + 1, p) of orthonormal rows, and the operator (times a sign) projected on it."""

    def __init__(self, operator: Operator, sign: float, generator: torch.Generator, room: int) -> None:
        self.operator, self.sign, self.generator = operator, sign, generator
        self.basis = torch.empty(room + 1, operator.size, dtype=operator.dtype, device=operator.device)
        self.projected: Floats = np.zeros((room + 1, room + 1))
        self.filled, self.products, self.beta = 0, 0, 0.0
        self.scale = 0.0

    def begin(self, start: Tensor | None) -> None:
        self.basis[0] = self._drawn() if start is None else start.to(self.basis) / start.norm()

    def step(self) -> None:
        """One product, of the newest row; the next row is what is orthogonal to all."""
        j = self.filled
        rows = self.basis[: j + 1]
        image = (self.operator @ rows[j]) * self.sign
        self.products += 1
        length = float(image.norm())
        self.scale = max(self.scale, length)
        known = self.projected[:j, j]
        coupled = np.flatnonzero(known)
        if len(coupled):
            image = image - torch.as_tensor(known[coupled]).to(image) @ rows[torch.as_tensor(coupled, device=rows.device)]
        alpha = float(rows[j] @ image)
        image = image - alpha * rows[j]
        self.projected[j, j] = alpha
        before, self.beta = float("inf"), float(image.norm())
        while self.beta < 0.7 * before and self.beta > 0:  # what is left of a long vector is rounding: once more
            left = rows @ image
            image = image - left @ rows
            self.projected[j, j] += float(left[j])
            before, self.beta = self.beta, float(image.norm())
        self.filled = j + 1
        if self.beta <= 10 * torch.finfo(image.dtype).eps * self.scale:
            self.beta = 0.0  # the basis is invariant: go on from somewhere else, uncoupled
            if self.filled == self.operator.size:
                return
            image = self._drawn()
            for _ in range(2):
                image = image - (rows @ image) @ rows
            image = image / image.norm()
        else:
            image = image / self.beta
        self.basis[j + 1] = image
        self.projected[j, j + 1] = self.projected[j + 1, j] = self.beta

    def ritz(self) -> tuple[Floats, Floats, Floats]:
        """Ritz values, descending, their vectors in the basis, and estimates of their residuals."""
        theta, vectors = np.linalg.eigh(self.projected[: self.filled, : self.filled])
        theta, vectors = theta[::-1], vectors[:, ::-1]
        return theta, vectors, self.beta * np.abs(vectors[-1])

    def restart(self, theta: Floats, ritz: Floats, keep: int) -> None:
        """Keep the outermost Ritz vectors and the newest row."""
        newest, beta, last = self.basis[self.filled].clone(), self.beta, ritz[-1, :keep]
        self.basis[:keep] = self.combine(ritz[:, :keep]).T
        self.basis[keep] = newest
        self.projected[:] = 0
        self.projected[np.arange(keep), np.arange(keep)] = theta[:keep]
        self.projected[:keep, keep] = self.projected[keep, :keep] = beta * last
        self.filled = keep

    def combine(self, coefficients: Floats) -> Tensor:
        """(p, m) combinations of the rows."""
        weights = torch.as_tensor(coefficients.copy()).to(self.basis)
        return self.basis[: self.filled].T @ weights

    def _drawn(self) -> Tensor:
        drawn = torch.randn(self.operator.size, generator=self.generator, dtype=torch.float64)
        return (drawn / drawn.norm()).to(self.basis)
