"""What a recursive feature machine stands on: rows as its kernel sees them, matrices in their span, targets from labels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from hashlib import blake2b

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import InputError
from .rfm_spec import RFMSpec


@dataclass(frozen=True, slots=True)
class Symmetric:
    """A symmetric d × d matrix, kept in the span of the rows where these are fewer: basis · matrix · basisᵀ.

    `matrix` is (…, r, r), or (…, d) of a diagonal; `basis` (…, d, r) has orthonormal columns, or is None where r = d.
    """

    matrix: Tensor
    basis: Tensor | None = None
    diagonal: bool = False

    def dense(self) -> Tensor:
        """(…, d, d)."""
        if self.diagonal:
            return torch.diag_embed(self.matrix)
        return self.matrix if self.basis is None else self.basis @ self.matrix @ self.basis.mT

    def values(self) -> Tensor:
        """(…, r) eigenvalues, greatest first; those that are not given are 0."""
        if self.diagonal:
            return self.matrix.sort(-1, descending=True).values
        return torch.linalg.eigvalsh(self.matrix.double()).flip(-1)

    def top(self, k: int) -> tuple[Tensor, Tensor]:
        """(…, k) greatest eigenvalues and (…, d, k) their eigenvectors."""
        if self.diagonal:
            values, order = self.matrix.topk(k, dim=-1)
            return values, torch.nn.functional.one_hot(order, self.matrix.shape[-1]).mT.to(values.dtype)
        values, vectors = torch.linalg.eigh(self.matrix.double())
        values, vectors = values[..., -k:].flip(-1), vectors[..., -k:].flip(-1).to(self.matrix.dtype)
        return values, vectors if self.basis is None else self.basis @ vectors

    def greatest_entry(self) -> Tensor:
        """(…); that of a positive matrix is on its diagonal."""
        if self.diagonal:
            return self.matrix.amax(-1)
        if self.basis is None:
            return self.matrix.diagonal(dim1=-2, dim2=-1).amax(-1)
        return ((self.basis @ self.matrix) * self.basis).sum(-1).amax(-1)


@dataclass(frozen=True, slots=True)
class Rows:
    """Training rows as the kernel sees them, and the coordinates (…, n, r) in which the metric lives."""

    states: Tensor  # (…, n, d) prepared
    coordinates: Tensor
    basis: Tensor | None  # (…, d, r)
    centre: Tensor  # (…, 1, d)
    unit: bool

    @classmethod
    def of(cls, spec: RFMSpec, states: Tensor) -> Rows:
        # A radial kernel does not see the centre, its rounding does: so its rows are centred even where that is not asked for.
        centre = states.mean(-2, keepdim=True)
        if not spec.centre_inputs and (spec.unit_rows or not spec.kernel.radial):
            centre = torch.zeros_like(centre)
        rows = cls(states, states, None, centre, spec.unit_rows)
        prepared = rows.prepared(states)
        n, d = prepared.shape[-2:]
        if n >= d or spec.diagonal or not spec.kernel.turns:
            return replace(rows, states=prepared, coordinates=prepared)
        basis = torch.linalg.qr(prepared.mT).Q
        return replace(rows, states=prepared, coordinates=prepared @ basis, basis=basis)

    def prepared(self, states: Tensor) -> Tensor:
        moved = states - self.centre
        return moved / moved.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(moved.dtype).tiny) if self.unit else moved

    def inside(self, prepared: Tensor) -> Tensor:
        return prepared if self.basis is None else prepared @ self.basis


def targets(labels: Tensor | NDArray, rows: int) -> tuple[Tensor, int]:
    """(…, rows, outputs) targets and the number of classes, 0 for regression. Raises InputError for what cannot be fitted."""
    given = torch.as_tensor(np.asarray(labels)) if not isinstance(labels, Tensor) else labels
    if given.ndim == 0 or given.shape[0 if given.ndim < 3 else 1] != rows:
        raise InputError(f"labels: got shape {tuple(given.shape)} for {rows} rows, wanted one a row")
    if given.dtype == torch.bool:
        given = given.long()
    if given.is_floating_point():
        found = given[:, None] if given.ndim == 1 else given
        if not bool(torch.isfinite(found).all()):
            raise InputError("labels: got a NaN or an infinity; leave those rows out")
        if bool((found == found[..., :1, :]).all()):
            raise InputError("labels: every row has the same; wanted targets that vary")
        return found, 0
    codes, numbered = torch.unique(given, return_inverse=True)
    if given.ndim != 1 or len(codes) < 2:
        raise InputError(
            f"labels: got classes {codes[:3].tolist()} in shape {tuple(given.shape)}, wanted two classes or more, one code a row"
        )
    if len(codes) == 2:
        return numbered[:, None].double(), 2
    return torch.nn.functional.one_hot(numbered, len(codes)).double(), len(codes)


def row_digests(states: Tensor, seed: int = 0) -> list[bytes]:
    """Of each row of (…, n, d) at every site, whatever its place: an order that belongs to the data and not to the caller."""
    rows = states if states.ndim == 2 else states.movedim(-2, 0).flatten(1)
    key = seed.to_bytes(8, "big")
    return [blake2b(row.tobytes(), digest_size=16, key=key).digest() for row in rows.contiguous().cpu().numpy()]


def check_states(states: Tensor) -> None:
    if states.ndim not in (2, 3) or states.dtype not in (torch.float32, torch.float64):
        raise InputError(
            f"states: got {states.dtype} of shape {tuple(states.shape)}, wanted float32 or float64, (rows, d) or (sites, rows, d)"
        )
    if states.shape[-2] < 2:
        raise InputError(f"states: got {states.shape[-2]} row, wanted two or more")
    finite = torch.isfinite(states).all(-1)
    if not bool(finite.all()):
        place = torch.nonzero(~finite)[0].tolist()
        where = f"row {place[-1]}" + (f" of site {place[0]}" if len(place) == 2 else "")
        raise InputError(f"states: {where} holds a NaN or an infinity; leave it out, or look at the network there")
