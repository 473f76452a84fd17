"""The average gradient outer product of any differentiable function: M = ⟨J(x)ᵀJ(x)⟩ over inputs, batch by batch.

f maps rows to rows, x (n, …) to (n,) or (n, c), each row by itself; that is looked at on the first batch and refused if it does
not hold. Either all c rows of every Jacobian are taken, one backward pass for each output of a batch, or `probes` of them at
random: with u of independent signs E JᵀuuᵀJ = JᵀJ, one backward pass for each probe of a batch whatever c is. A row's probes
are its own.

Centred, with J̄ the mean Jacobian of each output, M − J̄ᵀJ̄ = ⟨(J − J̄)ᵀ(J − J̄)⟩ keeps what varies with the input. It takes a
linear function away whole, which may be the answer that was looked for: both are there. From probes J̄ is an average of u(uᵀJ),
whose noise is taken off J̄ᵀJ̄ without bias.

Nothing grows with the number of inputs: the sums are those of `statistics.accumulators` in a form that is named, or that follows
from a bound on memory. Residuals bound the numerical error of eigenpairs; the sampling of inputs and probes is not in them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InputError
from ..linalg import Spectrum
from ..provenance import torch_generator
from ..statistics.accumulators import Outer, OuterProducts, outer_products
from ..statistics.accumulators.checks import LIMIT
from ..statistics.accumulators.products import Form

Function = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Agop:
    """M of n inputs.

    Attributes:
        outputs: c; `probes`: a row, None where all outputs were taken; `trace`: tr M.
        mean: (c, d) the mean Jacobian J̄, of probes an estimate; None where it would not fit into memory.
    """

    n: int
    outputs: int
    probes: int | None
    trace: float
    mean: Tensor | None
    _outer: Outer
    _scale: float  # of the accumulated rows' mean, to that of Jacobians
    _less: Tensor | None  # rows L with scale · (1 + noise) · LᵀL = J̄ᵀJ̄
    _noise: float  # the part of M that the noise of J̄ puts into J̄ᵀJ̄

    def top(self, k: int, *, centred: bool = False) -> Spectrum:
        """The k largest eigenpairs of M or, centred, of M − J̄ᵀJ̄, with residual bounds."""
        found = self._outer.top(k, less=self._subtracted() if centred else None)
        scale = self._scale * (self._regained if centred else 1.0)
        return Spectrum(found.values * scale, found.vectors, found.residuals * scale, found.trace * scale)

    def matrix(self, *, centred: bool = False) -> Tensor:
        """(d, d) M or, centred, M − J̄ᵀJ̄."""
        scale = self._scale * (self._regained if centred else 1.0)
        return self._outer.matrix(less=self._subtracted() if centred else None) * scale

    @property
    def _regained(self) -> float:
        return 1 + self._noise

    def _subtracted(self) -> Tensor:
        if self._less is None:
            raise InputError("centred: the mean Jacobian of so many outputs would not fit into memory; take the raw matrix")
        return self._less


def agop(
    f: Function,
    batches: Iterable[Tensor],
    *,
    probes: int | None = None,
    form: Form | None = None,
    k: int = 50,
    most: int | None = None,
    seed: int = 0,
    limit: int = LIMIT,
) -> Agop:
    """The average gradient outer product of f over batches of inputs (n, …), flattened to d coordinates.

    Args:
        probes: random sign combinations of the outputs a row; None takes every output.
        form: "dense", "gram" or "sketch"; None takes the first that fits into `limit` bytes (`outer_products`).
        k: eigenvectors that a sketch is made for; `most`: Jacobian rows that the Gram form may keep.

    Raises:
        InputError: f is not a function of single rows, has no gradient, or gives a NaN; there is no input.
    """
    if probes is not None and probes < 1:
        raise InputError(f"probes: got {probes}, wanted at least 1, or None for all outputs")
    generator = torch_generator(seed, "agop probes")
    running: _Running | None = None
    for batch in batches:
        x = batch.detach().requires_grad_()
        y = _outputs(f, x, first=running is None)
        if running is None:
            products = outer_products(x[0].numel(), form, k=k, most=most, seed=seed, limit=limit)
            running = _Running(products, y.shape[1], probes, limit)
        running.take(x, y, generator)
    if running is None:
        raise InputError("batches: got none, wanted at least one batch of inputs")
    return running.result()


class _Running:
    """The sums while batches come."""

    def __init__(self, products: OuterProducts, outputs: int, probes: int | None, limit: int) -> None:
        self.products, self.outputs, self.probes, self.n = products, outputs, probes, 0
        fits = 8 * outputs * products.d <= limit
        self.jacobian = torch.zeros(outputs, products.d, dtype=torch.float64) if fits else None

    def take(self, x: Tensor, y: Tensor, generator: torch.Generator) -> None:
        if y.shape[1] != self.outputs:
            raise InputError(f"f: gave {y.shape[1]} outputs after {self.outputs}, wanted the same number for every batch")
        self.n += len(x)
        steps = self.outputs if self.probes is None else self.probes
        for step in range(steps):
            sign = None if self.probes is None else _signs(y, generator)
            target = y[:, step].sum() if sign is None else (y * sign).sum()
            (gradient,) = torch.autograd.grad(target, x, retain_graph=step < steps - 1)
            rows = gradient.flatten(1)
            self.products.update(rows)
            if self.jacobian is not None and sign is None:
                self.jacobian[step] += rows.sum(0, dtype=torch.float64).cpu()
            elif self.jacobian is not None and sign is not None:
                self.jacobian += (sign.T @ rows).double().cpu()

    def result(self) -> Agop:
        outer, c = self.products.result(), self.outputs
        scale = float(c) if self.probes is None else 1.0
        mean = None if self.jacobian is None else self.jacobian / (self.n * (self.probes or 1))
        # Of N probes in all, ĴᵀĴ holds (c − 1)/N of M that is the probes' noise: M − (ĴᵀĴ − noise · M) has it taken off.
        noise = 0.0 if self.probes is None else (c - 1) / (self.n * self.probes)
        less = None if mean is None else mean / (scale * (1 + noise)) ** 0.5
        return Agop(self.n, c, self.probes, outer.trace * scale, mean, outer, scale, less, noise)


def _signs(y: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randint(0, 2, y.shape, generator=generator).to(y) * 2 - 1


def _outputs(f: Function, x: Tensor, first: bool) -> Tensor:
    """f(x) as (n, c), checked to be a differentiable function of single rows."""
    if not x.is_floating_point() or x.ndim < 2 or not len(x):
        raise InputError(f"batches: got shape {tuple(x.shape)} of {x.dtype}, wanted floating-point inputs (n, …)")
    with torch.enable_grad():
        y = f(x)
    if y.ndim not in (1, 2) or len(y) != len(x):
        raise InputError(f"f: gave shape {tuple(y.shape)} for {len(x)} inputs, wanted ({len(x)},) or ({len(x)}, outputs)")
    if not y.requires_grad:
        raise InputError("f: its output has no gradient by its input; look for a detach, a no_grad or an argmax inside")
    y = y.reshape(len(x), -1)
    if first and len(x) > 1:
        some = (len(x) + 1) // 2
        with torch.no_grad():
            alone = f(x[:some].detach()).reshape(some, -1)
        if not torch.allclose(alone, y[:some].detach(), rtol=1e-3, atol=1e-4 * float(y.detach().abs().max())):
            raise InputError("f: a row's output depends on the other rows; switch batch norms and dropout off (module.eval())")
    return y
