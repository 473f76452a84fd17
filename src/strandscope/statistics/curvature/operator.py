"""A symmetric operator that is known by its products with vectors: a Hessian, a Gauss–Newton matrix, or a matrix that was given.

What it promises: `operator @ v` is linear and symmetric in v, and the same whenever it is asked. It is the mean over `rows` rows
of data; two of them over different rows merge into that of all rows, exactly, and each keeps the `parts` of which it was made,
which is what a jackknife over data leaves out in turn.

What it does not know: where the rows come from. An eigenvalue of a mean over few rows lies above that of the mean over all
(Jensen); only a reading over data says by how much.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import InputError, TrustError
from ...linalg import finite


@dataclass(frozen=True, slots=True)
class Operator:
    """A symmetric p × p matrix by its products.

    Attributes:
        size: p; `rows`: of data, whose mean it is (1 where there is no data).
        what: in words, for methods; `unit` of its eigenvalues.
        dtype, device: of the vectors it takes.
        product: (p,) → (p,).
        parts: the operators of single batches, in order; empty where there is one batch.
    """

    size: int
    rows: int
    what: str
    unit: str
    dtype: torch.dtype
    device: torch.device
    product: Callable[[Tensor], Tensor]
    parts: tuple[Operator, ...] = ()

    def __matmul__(self, vectors: Tensor) -> Tensor:
        """A v for v (p,), or A V for V (p, k), in the operator's own precision.

        Raises:
            InputError: another length.
            TrustError: the product holds a NaN or an infinity.
        """
        if vectors.ndim not in (1, 2) or len(vectors) != self.size:
            raise InputError(f"vectors: got shape {tuple(vectors.shape)}, wanted ({self.size},) or ({self.size}, k)")
        given = vectors.detach().to(self.device, self.dtype)
        if given.ndim == 2:
            return torch.stack([self._one(column) for column in given.T], 1)
        return self._one(given)

    def _one(self, vector: Tensor) -> Tensor:
        found = self.product(vector)
        if not bool(torch.isfinite(found.sum())):
            raise TrustError(
                f"{self.what}: its product with a vector holds a NaN or an infinity; look at the loss and its inputs"
            )
        return found

    def dense(self) -> Tensor:
        """(p, p) in float64, by p products; for small p."""
        found = (self @ torch.eye(self.size, dtype=self.dtype, device=self.device)).double()
        return (found + found.T) / 2


def merged(*operators: Operator) -> Operator:
    """The operator of the rows of all of them, each weighted by its rows."""
    if not operators:
        raise InputError("operators: got none, wanted at least one")
    first, rows = operators[0], sum(operator.rows for operator in operators)
    for other in operators[1:]:
        for name in ("size", "what", "dtype", "device"):
            if getattr(other, name) != getattr(first, name):
                raise InputError(
                    f"operators: {name} is {getattr(first, name)} of one and {getattr(other, name)} of another; make both alike"
                )

    def product(vector: Tensor) -> Tensor:
        total = operators[0].product(vector) * (operators[0].rows / rows)
        for operator in operators[1:]:
            total = total + operator.product(vector) * (operator.rows / rows)
        return total

    parts = tuple(part for operator in operators for part in operator.parts or (operator,))
    return Operator(first.size, rows, first.what, first.unit, first.dtype, first.device, product, parts)


def without(operator: Operator, part: int) -> Operator:
    """The operator of all rows but those of one part."""
    if len(operator.parts) < 2:
        raise InputError(f"operator: got {len(operator.parts)} parts, wanted at least 2; give the data in batches")
    return merged(*operator.parts[:part], *operator.parts[part + 1 :])


def of_matrix(matrix: Tensor, unit: str = "1/step") -> Operator:
    """A given symmetric matrix (p, p), in float64."""
    wide = finite(matrix, "matrix")
    if wide.ndim != 2 or wide.shape[0] != wide.shape[1] or len(wide) == 0:
        raise InputError(f"matrix: got shape {tuple(matrix.shape)}, wanted a square matrix")
    if float((wide - wide.T).abs().max()) > 1e-5 * float(wide.abs().max()):
        raise InputError("matrix: it is not symmetric; pass (A + Aᵀ)/2 if that is what is meant")
    wide = (wide + wide.T) / 2
    return Operator(len(wide), 1, "given matrix", unit, wide.dtype, wide.device, lambda vector: wide @ vector)
