"""Subspaces that a run's features are compared with: strands, or bases of one's own, by site."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..errors import InputError
from ..strand.strand import Strand

Reference = Strand | Tensor


def bases(reference: Mapping[str, Reference], widths: Mapping[str, int]) -> dict[str, Tensor]:
    """(d, k) orthonormal columns at each site that has a reference.

    Raises:
        InputError: a site that is not watched, a basis of another width, columns that are not orthonormal.
    """
    found: dict[str, Tensor] = {}
    for site, given in reference.items():
        if site not in widths:
            raise InputError(f"reference: got the site {site!r}, wanted one that is watched: {', '.join(widths)}")
        basis = (given.basis if isinstance(given, Strand) else given).detach().double().cpu()
        if basis.dim() != 2 or basis.shape[0] != widths[site] or not basis.shape[1]:
            raise InputError(f"reference: {site} got shape {tuple(basis.shape)}, wanted ({widths[site]}, k)")
        own = torch.eye(basis.shape[1], dtype=torch.float64)
        if not torch.allclose(basis.T @ basis, own, atol=1e-4):
            raise InputError(f"reference: the columns at {site} are not orthonormal; take linalg.orthonormal_basis of them")
        found[site] = basis
    return found
