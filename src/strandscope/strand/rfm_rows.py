"""What a recursive feature machine stands on: rows as its kernel sees them, matrices in their span, targets from labels."""

from __future__ import annotations

from collections.abc import Sequence
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

    def finite(self) -> bool:
        return bool(torch.isfinite(self.matrix).all())


@dataclass(frozen=True, slots=True)
class Factored:
    """M = factorᵀ · factor, where gradients are fewer than dimensions: its distances are those of images, rows · factorᵀ.

    With K_M(x, z) = K_I(Fx, Fz) a machine on the images has gradients V, and its AGOP is that of the factor VF/√n: no d × d and
    no basis is needed, and images, unlike xᵀMz, lose no digits where M is nearly of low rank.
    """

    factor: Tensor  # (k, d)
    images: Tensor  # (n, k) of the training rows

    def times(self, scale: Tensor) -> Factored:
        """M times a number above 0."""
        root = scale.sqrt()
        return Factored(self.factor * root, self.images * root)

    def dense(self) -> Tensor:
        """(d, d)."""
        return self.factor.T @ self.factor

    def finite(self) -> bool:
        return bool(torch.isfinite(self.factor).all())

    def values(self) -> Tensor:
        """(r,) eigenvalues, greatest first, r the lesser of n and k; those that are not given are 0."""
        wide = torch.nan_to_num(self.factor.double())
        return torch.linalg.eigvalsh(wide @ wide.T).flip(0)[: len(self.images)]

    def top(self, k: int) -> tuple[Tensor, Tensor]:
        """(k,) greatest eigenvalues and (d, k) their eigenvectors."""
        wide = self.factor.double()
        values, vectors = torch.linalg.eigh(wide @ wide.T)
        along = wide.T @ vectors[:, -k:].flip(1)
        along = along / along.norm(dim=0).clamp_min(torch.finfo(along.dtype).tiny)
        basis = torch.linalg.qr(along).Q  # of eigenvalues near 0, `along` is rounding
        return values[-k:].flip(0).clamp_min(0), basis.to(self.factor.dtype)

    def greatest_entry(self) -> Tensor:
        return self.factor.square().sum(0).amax()

    def spread(self, radial: bool) -> Tensor:
        """Mean of xᵀMx over the training rows, about their mean if `radial`."""
        images = self.images - self.images.mean(0) if radial else self.images
        return images.square().sum(1).mean()


One = Symmetric | Factored


@dataclass(frozen=True, slots=True)
class BySite:
    """The metrics of several sites, each as it is; results have the sites' dimension first."""

    sites: tuple[One, ...]

    def dense(self) -> Tensor:
        return torch.stack([one.dense() for one in self.sites])

    def finite(self) -> bool:
        return all(one.finite() for one in self.sites)

    def values(self) -> Tensor:
        return torch.stack([one.values() for one in self.sites])

    def top(self, k: int) -> tuple[Tensor, Tensor]:
        values, vectors = zip(*(one.top(k) for one in self.sites), strict=True)
        return torch.stack(values), torch.stack(vectors)


Metric = One | BySite


@dataclass(frozen=True, slots=True)
class Rows:
    """Training rows as the kernel sees them, and the coordinates (…, n, r) in which a metric that is a matrix lives."""

    states: Tensor  # (…, n, d) prepared
    coordinates: Tensor
    basis: Tensor | None  # (…, d, r)
    centre: Tensor  # (…, 1, d)
    unit: bool
    factored: bool = False  # the metric is `Factored`

    @classmethod
    def of(cls, spec: RFMSpec, states: Tensor, outputs: int | None = None) -> Rows:
        """Of a machine with so many outputs; None where the metric is to be a matrix."""
        # A radial kernel does not see the centre, its rounding does: so its rows are centred even where that is not asked for.
        centre = states.mean(-2, keepdim=True)
        if not spec.centre_inputs and (spec.unit_rows or not spec.kernel.radial):
            centre = torch.zeros_like(centre)
        rows = cls(states, states, None, centre, spec.unit_rows)
        prepared = rows.prepared(states)
        n, d = prepared.shape[-2:]
        if n >= d or spec.diagonal or not spec.kernel.turns:
            return replace(rows, states=prepared, coordinates=prepared)
        if outputs is not None and n * outputs <= d and spec.power == 1:
            return replace(rows, states=prepared, coordinates=prepared, factored=True)
        basis = torch.linalg.qr(prepared.mT).Q
        return replace(rows, states=prepared, coordinates=prepared @ basis, basis=basis)

    @classmethod
    def of_sites(cls, sites: Sequence[Rows]) -> Rows:
        """As one, the sites' dimension first."""
        states = torch.stack([one.states for one in sites])
        bases = [one.basis for one in sites if one.basis is not None]
        inside = states if sites[0].coordinates is sites[0].states else torch.stack([one.coordinates for one in sites])
        centres = torch.stack([one.centre for one in sites])
        return replace(sites[0], states=states, coordinates=inside, basis=torch.stack(bases) if bases else None, centre=centres)

    def site(self, place: int) -> Rows:
        basis = None if self.basis is None else self.basis[place]
        return replace(
            self, states=self.states[place], coordinates=self.coordinates[place], basis=basis, centre=self.centre[place]
        )

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
