"""The mean outer product M = ⟨g gᵀ⟩ of a stream of rows, in one of three forms that merge.

    dense    M itself, d² numbers
    gram     the rows, up to a stated number: for few rows of many coordinates
    sketch   MΩ for a fixed Gaussian Ω (d, m) that a seed makes: d·m numbers whatever the number of rows

All know the trace exactly and tr M² from pairs of different rows (the sketch estimates it, without bias over Ω). Sums are kept
about the running mean, so that M and the centred M − ḡḡᵀ both keep their digits. The d × d products of a batch are made in the
rows' own precision, everything else in float64.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...errors import InputError
from ...linalg import Spectrum, check_rank, top_of_matrix, top_of_rows
from .checks import LIMIT, afford
from .products import Form, OuterProducts
from .sketch import SketchedProducts


class DenseProducts(OuterProducts):
    """Holds Σ(g − ḡ)(g − ḡ)ᵀ."""

    form: Form = "dense"

    def __init__(self, d: int, *, limit: int = LIMIT) -> None:
        afford(8 * d * d, limit, f"a matrix of {d} × {d}", "take the form 'sketch' (d·m numbers), or 'gram' for few rows")
        super().__init__(d)
        self.scatter = torch.zeros(d, d, dtype=torch.float64)

    def settings(self) -> dict[str, Any]:
        return {"d": self.d}

    @classmethod
    def _alike(cls, one: DenseProducts) -> DenseProducts:
        return cls(one.d, limit=8 * one.d**2)

    def held(self) -> Tensor:
        return self.scatter

    def _put(self, held: Tensor) -> None:
        self.scatter = held

    def _held(self, rows: Tensor, centred: Tensor) -> Tensor:
        own = centred.to(rows.dtype)
        return own.T @ own

    def _take(self, held: Tensor, apart: Tensor, weight: float) -> None:
        self.scatter += held
        self.scatter.addr_(apart, apart, alpha=weight)

    def matrix(self, centred: bool, less: Tensor | None) -> Tensor:
        whole = self.scatter / self.n + (0.0 if centred else torch.outer(self.mean, self.mean))
        return whole if less is None else whole - less.T @ less

    def _square(self) -> float:
        return float(self.matrix(False, None).square().sum())

    def top(self, k: int, centred: bool, less: Tensor | None) -> Spectrum:
        return top_of_matrix(self.matrix(centred, less), k, "the mean outer product")


class KeptRows(OuterProducts):
    """Holds the rows, at most `most` of them; their order is that in which they came."""

    form: Form = "gram"

    def __init__(self, d: int, most: int, *, limit: int = LIMIT) -> None:
        afford(8 * d * most, limit, f"{most} rows of {d} coordinates", "keep fewer rows, or take the form 'sketch'")
        super().__init__(d)
        self.most, self.rows = most, torch.zeros(0, d, dtype=torch.float64)

    def settings(self) -> dict[str, Any]:
        return {"d": self.d, "most": self.most}

    @classmethod
    def _alike(cls, one: KeptRows) -> KeptRows:
        return cls(one.d, one.most, limit=8 * one.d * one.most)

    def held(self) -> Tensor:
        return self.rows

    def _put(self, held: Tensor) -> None:
        self.rows = held

    def _held(self, rows: Tensor, centred: Tensor) -> Tensor:
        del centred
        return rows.double()

    def _take(self, held: Tensor, apart: Tensor, weight: float) -> None:
        del apart, weight
        if len(self.rows) + len(held) > self.most:
            raise InputError(
                f"rows: got {len(self.rows) + len(held)}, wanted at most {self.most}; take the form 'sketch' or 'dense'"
            )
        self.rows = torch.cat([self.rows, held])

    def _inner(self) -> Tensor:
        return self.rows @ self.rows.T if self.n < self.d else self.rows.T @ self.rows

    def _square(self) -> float:
        return float(self._inner().square().sum()) / self.n**2

    def _rows(self, centred: bool) -> Tensor:
        return self.rows - self.mean if centred else self.rows

    def top(self, k: int, centred: bool, less: Tensor | None) -> Spectrum:
        rows = self._rows(centred)
        if less is None:
            return top_of_rows(rows, k, name="the rows")
        check_rank(k, min(self.d, self.n), "the rows")
        # In an orthonormal basis of all that either part spans, the difference is a small matrix with the same eigenpairs.
        basis = torch.linalg.qr(torch.cat([rows, less]).T).Q
        inner, taken = rows @ basis, less @ basis
        small = top_of_matrix(inner.T @ inner / self.n - taken.T @ taken, k, "the rows")
        return Spectrum(small.values, basis @ small.vectors, small.residuals, self._trace(centred, less))

    def matrix(self, centred: bool, less: Tensor | None) -> Tensor:
        afford(8 * self.d**2, LIMIT, f"a matrix of {self.d} × {self.d}", "take top(k), which goes through the rows' Gram matrix")
        rows = self._rows(centred)
        return rows.T @ rows / self.n - (0.0 if less is None else less.T @ less)


def outer_products(
    d: int, form: Form | None = None, *, k: int = 50, most: int | None = None, seed: int = 0, limit: int = LIMIT
) -> OuterProducts:
    """An accumulator of outer products of rows of d coordinates.

    Args:
        form: None takes the first that fits into `limit` bytes: gram where `most` rows are announced and fewer than d, dense,
        sketch. k: eigenvectors that a sketch is made for; `seed`: of its Ω. `most`: rows that the Gram form may keep.
    """
    if form is None:
        small = most is not None and most < d and 8 * d * most <= limit
        form = "gram" if small else "dense" if 8 * d * d <= limit else "sketch"
    if form == "gram":
        if most is None:
            raise InputError("most: the form 'gram' keeps the rows; say how many at most")
        return KeptRows(d, most, limit=limit)
    if form == "dense":
        return DenseProducts(d, limit=limit)
    if form == "sketch":
        return SketchedProducts(d, k, seed, limit=limit)
    raise InputError(f"form: got {form!r}, wanted 'dense', 'gram' or 'sketch'")
