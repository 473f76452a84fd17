"""The largest Hessian eigenvalue of many small networks side by side, each from where the last look left it.

A few Lanczos steps from the last eigenvector, in float64 and fully reorthogonalised. The Hessian of a sum of losses over networks
has one block a network, so that one product serves them all. For one network, with residuals and a reading, there is
`statistics.curvature`; a law that uses this checks it against that.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ...errors import TrustError
from ...statistics.tangent.kernel import Parameters

FIRST, LATER = 30, 8  # products at the first look, and from an eigenvector
ENOUGH = 0.05  # residual, as a share of λ₁, below which the second-order error of a Ritz value is below a quarter of a percent


def topmost(
    loss: Callable[[Parameters], Tensor], weights: Parameters, generator: torch.Generator, direction: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """(networks,) λ₁ of losses (networks,) and (networks, p) its eigenvectors; `direction` is what the last look gave."""
    leaves = {name: value.detach().requires_grad_() for name, value in weights.items()}
    slopes = torch.autograd.grad(loss(leaves).sum(), list(leaves.values()), create_graph=True)
    shapes = [slope.shape for slope in slopes]
    networks = shapes[0][0]
    sizes = [shape.numel() // networks for shape in shapes]

    def product(vectors: Tensor) -> Tensor:
        parts = [part.reshape(shape) for part, shape in zip(vectors.split(sizes, 1), shapes, strict=True)]
        found = torch.autograd.grad(slopes, list(leaves.values()), parts, retain_graph=True)
        return torch.cat([part.reshape(networks, -1) for part in found], 1)

    begun = torch.randn(networks, sum(sizes), generator=generator, dtype=torch.float64) if direction is None else direction
    return _lanczos(product, begun, FIRST if direction is None else LATER)


def _lanczos(product: Callable[[Tensor], Tensor], begun: Tensor, count: int) -> tuple[Tensor, Tensor]:
    networks = len(begun)
    basis = [begun / begun.norm(dim=1, keepdim=True)]
    projected = torch.zeros(networks, count, count, dtype=torch.float64)
    length = torch.zeros(networks, dtype=torch.float64)
    for step in range(count):
        image = product(basis[-1])
        projected[:, step, step] = (image * basis[-1]).sum(1)
        rows = torch.stack(basis, 1)
        for _ in range(2):
            image = image - ((rows @ image[..., None]).mT @ rows)[:, 0]
        length = image.norm(dim=1)
        if step + 1 < count:
            projected[:, step, step + 1] = projected[:, step + 1, step] = length
            basis.append(image / length[:, None].clamp_min(1e-300))
    values, vectors = torch.linalg.eigh(projected)
    residual = float((length * vectors[:, -1, -1].abs() / values[:, -1].abs()).max())
    if not residual <= ENOUGH:
        raise TrustError(f"λ₁: a residual of {residual:.2g} of it is left after {count} products; look at it more often")
    return values[:, -1], (vectors[:, None, :, -1] @ torch.stack(basis, 1))[:, 0]
