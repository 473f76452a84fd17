"""A library of strands and what the nearest few of them hold of a context: the work under the coverage curve.

Everything is done in Gram matrices: of the strands with each other, once, and of a context's rows with the strands. A
span is never orthonormalised; the rows' products after projection on it come from a Cholesky factor of its Gram matrix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

RIDGE = 1e-6  # of a direction's unit norm: strands that coincide span no more than one of them


@dataclass(frozen=True, slots=True, eq=False)
class Library:
    """Strands (contexts, rank, d) and their products with each other, (contexts, contexts, rank, rank)."""

    flat: Tensor
    products: Tensor

    @classmethod
    def of(cls, strands: Tensor) -> Library:
        shape, flat = strands.shape[:2], strands.flatten(0, 1)
        return cls(flat, (flat @ flat.T).unflatten(0, shape).unflatten(-1, shape).transpose(1, 2).contiguous())

    def scores(self, half: Tensor, orders: Sequence[Sequence[Ints]], sizes: tuple[int, ...], neighbours: int) -> Floats:
        """(deletions, repeats, sizes): share of a context's half B held by the nearest strands of libraries.

        Args:
            half: (2, rows, d), its two halves.
            orders: for each deletion and repeat, contexts in the order in which they enter the library.
        """
        contexts, rank = self.products.shape[1:3]
        onto = half @ self.flat.T
        power = onto[0].square().sum(0).unflatten(0, (contexts, rank)).sum(-1).numpy()
        chosen = np.array([[_nearest(power, order, sizes, neighbours) for order in repeats] for repeats in orders])
        cells, place = np.unique(chosen.reshape(-1, neighbours), axis=0, return_inverse=True)
        sets = torch.as_tensor(cells)
        inner = self.products[sets[:, :, None], sets[:, None, :]].transpose(2, 3).flatten(3).flatten(1, 2)
        part = onto.unflatten(-1, (contexts, rank))[:, :, sets].flatten(-2).permute(2, 0, 1, 3)  # (cells, 2, rows, 6·rank)
        found = held(*within(part, inner), half[1].square().sum(), rank).numpy()
        return found[place.reshape(-1)].reshape(chosen.shape[:-1])


def _nearest(power: Floats, order: Ints, sizes: tuple[int, ...], neighbours: int) -> Ints:
    """(sizes, neighbours): of the first contexts of `order`, those whose strands hold most, in order of number."""
    parts = [order[:size] for size in sizes]
    return np.sort([part[np.argsort(-power[part], kind="stable")[:neighbours]] for part in parts], axis=1)


def libraries(strands: Tensor, generator: np.random.Generator) -> list[Tensor]:
    """The strands (contexts, rank, d), and two libraries in which each has coordinates of another order and other signs."""
    contexts, _, width = strands.shape

    def shuffled() -> Tensor:
        order = torch.as_tensor(np.argsort(generator.random((contexts, width)), axis=1))
        signs = torch.as_tensor(generator.choice([-1.0, 1.0], (contexts, 1, width)))
        return strands.gather(2, order[:, None].expand_as(strands)) * signs

    return [strands, shuffled(), shuffled()]


def strands_of(gradients: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Top directions of each context's draws (contexts, rank, d), orthonormal rows in float64, and what share each holds."""
    rows = gradients.double()
    values, vectors = torch.linalg.eigh(rows @ rows.transpose(1, 2))
    total = values.sum(-1, keepdim=True)
    values, vectors = values[:, -rank:].clamp_min(0), vectors[..., -rank:]
    kept = values > 1e-12 * values[:, -1:]  # a context of fewer directions has a smaller strand
    scale = torch.where(kept, values.clamp_min(1e-300).rsqrt(), 0.0)
    return (vectors * scale[:, None]).transpose(1, 2) @ rows, values / total


def within(part: Tensor, inner: Tensor) -> tuple[Tensor, Tensor]:
    """Gram matrices (A with A, B with A) of both halves' rows projected on a span.

    Args:
        part: (…, 2, rows, k) products of the rows with the k directions that span it.
        inner: (…, k, k) products of these with each other.
    """
    factor = torch.linalg.cholesky(inner + RIDGE * torch.eye(inner.shape[-1], dtype=inner.dtype))
    first = torch.linalg.solve_triangular(factor, part[..., 0, :, :].transpose(-1, -2), upper=False)
    second = torch.linalg.solve_triangular(factor, part[..., 1, :, :].transpose(-1, -2), upper=False)
    return first.transpose(-1, -2) @ first, second.transpose(-1, -2) @ first


def held(own: Tensor, other: Tensor, total: Tensor, rank: int) -> Tensor:
    """Share of half B that the `rank` directions hold in which half A is largest, from Gram matrices A with A and B with A."""
    values, vectors = torch.linalg.eigh(own)
    values, vectors = values[..., -rank:], vectors[..., -rank:]
    scale = torch.where(values > 1e-9 * values[..., -1:], values.clamp_min(1e-300).reciprocal(), 0.0)
    return ((other @ vectors).square().sum(-2) * scale).sum(-1) / total
