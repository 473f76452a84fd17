"""Recursive feature machines for more rows than an n × n matrix can have: a few rows are centres, all rows are fitted.

f(z) = Σ_j α_j K(c_j, z) over m centres minimises Σ_i (y_i − f(x_i))² + λ αᵀ K_mm α, which with every row a centre is the dense
machine of `rfm`. The normal equations (K_nmᵀ K_nm + λ K_mm) α = K_nmᵀ y are solved by conjugate gradients behind a Cholesky
preconditioner made of the centres alone (FALKON; Rudi, Carratino & Rosasco 2017). K_nm is made block by block, and kept only
if it fits a stated number of bytes; so memory is n × d for the states, m² and d² for the matrices, and that.

What it promises: centres are the rows with the least keyed digests, so that they depend on the seed and on the data and not on
the order of rows; sums over blocks differ in rounding alone. Where the iteration does not converge, that is the outcome.
What it does not know: what m centres cannot express. Compare two numbers of centres.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import InputError
from .conjugate import Preconditioner, conjugate_gradients
from .kernels import Profile, gradients, profile
from .rfm import update
from .rfm_rows import Rows, Symmetric, check_states, row_digests, targets
from .rfm_solve import choose
from .rfm_spec import RFMSpec

Report = Callable[[int, int], None]
MEMORY = 2**30  # bytes that K_nm may have, to be kept


@dataclass(frozen=True, slots=True)
class Nystrom:
    """A machine on m centres, of one site.

    Attributes:
        centres: (m, d) prepared as `rows` says; `alphas` (m, outputs); `metric`: M, None while it is the identity.
        residual: of the preconditioned normal equations, relative, the worst output; reached in `steps`.
        outcome: "solved", or a sentence.
        spectra: per update of M, the AGOP's eigenvalues (d,), greatest first.
    """

    spec: RFMSpec
    bandwidth: Tensor
    ridge: Tensor
    centres: Tensor
    alphas: Tensor
    metric: Symmetric | None
    spectra: tuple[Tensor, ...]
    residual: float
    steps: int
    outcome: str
    classes: int
    rows: Rows
    intercept: Tensor
    block: int

    def predict(self, states: Tensor) -> Tensor:
        """(k, outputs) at states (k, d)."""
        found = [self._profile(self.rows.prepared(part)).values @ self.alphas for part in states.split(self.block)]
        return torch.cat(found) + self.intercept

    def agop(self, states: Tensor) -> Symmetric:
        """Mean over states (k, d) of the gradients' outer products."""
        return _agop(self, (self.rows.prepared(part) for part in states.split(self.block)), len(states))

    def _profile(self, points: Tensor) -> Profile:
        inside = None if self.metric is None else self.metric.matrix
        return profile(self.spec.kernel, self.bandwidth, points, self.centres, inside, diagonal=self.spec.diagonal)

    def __str__(self) -> str:
        return f"{self.spec}; {len(self.centres)} centres, residual {self.residual:.1g} after {self.steps} steps: {self.outcome}"


def fit(
    spec: RFMSpec,
    states: Tensor,
    labels: Tensor | NDArray,
    *,
    centres: int = 2000,
    gradient_rows: int | None = None,
    block: int = 4096,
    memory: int = MEMORY,
    tolerance: float = 1e-4,
    most: int = 100,
    seed: int = 0,
    progress: Report | None = None,
) -> Nystrom:
    """As `rfm.fit`, on centres.

    Args:
        states: (n, d); labels as for `rfm.fit`.
        centres: how many rows are centres (rows that repeat count once).
        gradient_rows: how many rows, the next by digest, the AGOP is taken over; None: all.
        memory: bytes of K_nm up to which it is kept between steps; beyond, it is made again in each.
        tolerance: of the relative residual; `most`: steps allowed to reach it.
        progress: called with (solves done, in all).

    Raises:
        InputError: what cannot be fitted, or a metric of d × d that no memory is meant to hold.
    """
    last = None
    choices: dict[str, int] = {"centres": centres, "block": block, "memory": memory, "most": most, "seed": seed}
    for machine in iterates(spec, states, labels, gradient_rows=gradient_rows, tolerance=tolerance, **choices):
        last = machine
        if progress:
            progress(len(last.spectra) + 1, spec.iterations + 1)
    assert last is not None
    return last


def iterates(
    spec: RFMSpec,
    states: Tensor,
    labels: Tensor | NDArray,
    *,
    centres: int = 2000,
    gradient_rows: int | None = None,
    block: int = 4096,
    memory: int = MEMORY,
    tolerance: float = 1e-4,
    most: int = 100,
    seed: int = 0,
) -> Iterator[Nystrom]:
    """The machine at M = I and after each update."""
    _check(spec, states, centres, block)
    values, classes = targets(labels, len(states))
    values = values.to(states)
    intercept = values.mean(0, keepdim=True) if spec.centre_labels else torch.zeros_like(values[:1])
    order = by_digest(states, seed)
    rows = Rows.of(spec, states)
    points, wanted = rows.states, values - intercept
    picked = order[:centres]
    chosen = points[picked]
    bandwidth, ridge = choose(spec, chosen, wanted[picked])
    seen = points if gradient_rows is None else points[order[:gradient_rows]]
    inside = replace(rows, states=chosen, coordinates=chosen)
    machine = Nystrom(
        spec, bandwidth, ridge, chosen, wanted[picked], None, (), 0.0, 0, "", classes, inside, intercept, block
    )  # fmt: skip
    for iteration in range(spec.iterations + 1):
        machine = _solved(machine, points, wanted, memory, tolerance, most)
        yield machine
        if iteration < spec.iterations:
            agop = _agop(machine, iter(seen.split(block)), len(seen))
            metric, spectrum = update(spec, seen, agop, True)
            machine = replace(machine, metric=metric, spectra=(*machine.spectra, spectrum))


def by_digest(states: Tensor, seed: int) -> Tensor:
    """Indices of the rows by their keyed digests; of rows that repeat, one."""
    found = row_digests(states, seed)
    first = {digest: row for row, digest in reversed(list(enumerate(found)))}
    return torch.tensor([first[digest] for digest in sorted(first)])


def _check(spec: RFMSpec, states: Tensor, centres: int, block: int) -> None:
    check_states(states)
    n = len(states)
    if states.ndim != 2:
        raise InputError(f"states: got shape {tuple(states.shape)}, wanted (rows, d), one site; strand.rfm takes several")
    if not 2 <= centres <= n or block < 1:
        raise InputError(f"centres, block: got {centres} and {block}, wanted 2 to {n} (the rows), and 1 or more")
    need = 4 * states.shape[1] ** 2 * states.element_size()
    if not spec.diagonal and need > 2**33:
        size = f"{need / 2**30:.0f} GiB for a full metric of {states.shape[1]} dimensions"
        raise InputError(f"states: {size}; use diagonal=True, or project the states on fewer dimensions")


def _solved(machine: Nystrom, points: Tensor, wanted: Tensor, memory: int, tolerance: float, most: int) -> Nystrom:
    """Weights for the machine's metric."""
    n, m = len(points), len(machine.centres)
    wide = replace(machine, centres=machine.centres.double(), metric=_double(machine.metric))
    inner = wide._profile(wide.centres).values
    kept = None
    if n * m * points.element_size() <= memory:
        kept = [machine._profile(part).values for part in points.split(machine.block)]

    def blocks() -> Iterator[Tensor]:
        return iter(kept) if kept is not None else (machine._profile(part).values for part in points.split(machine.block))

    def normal(alphas: Tensor) -> Tensor:
        narrow = alphas.to(points.dtype)
        return sum_of((part.mT @ (part @ narrow)).double() for part in blocks())

    right = sum_of(
        (part.mT @ part_wanted).double() for part, part_wanted in zip(blocks(), wanted.split(machine.block), strict=True)
    )
    preconditioner, refused = Preconditioner.of(inner, float(machine.ridge), n)
    if preconditioner is None:
        failed = torch.full_like(right, torch.nan).to(points.dtype)
        return replace(machine, alphas=failed, residual=float("inf"), steps=0, outcome=refused)
    found = conjugate_gradients(preconditioner, normal, right, tolerance, most)
    return replace(
        machine, alphas=found.alphas.to(points.dtype), residual=found.residual, steps=found.steps, outcome=found.outcome
    )


def _double(metric: Symmetric | None) -> Symmetric | None:
    return None if metric is None else replace(metric, matrix=metric.matrix.double())


def sum_of(parts: Iterator[Tensor]) -> Tensor:
    total = next(parts)
    for part in parts:
        total = total + part
    return total


def _agop(machine: Nystrom, parts: Iterator[Tensor], count: int) -> Symmetric:
    """Mean outer product over prepared rows, block by block."""
    spec, metric = machine.spec, None if machine.metric is None else machine.metric.matrix
    total, means = None, []
    for part in parts:
        slopes = machine._profile(part).slopes
        sums = []
        for column in machine.alphas.unbind(-1):
            found = gradients(spec.kernel, slopes, column, part, machine.centres, metric, diagonal=spec.diagonal)
            outer = found.square().sum(0).double() if spec.diagonal else (found.mT @ found).double()
            total = outer if total is None else total + outer
            sums.append(found.sum(0).double())
        means.append(torch.stack(sums))
    assert total is not None
    if spec.centre_gradients:
        mean = torch.stack(means).sum(0) / count
        total = total - count * (mean.square().sum(0) if spec.diagonal else mean.mT @ mean)
    return Symmetric((total / count).to(machine.centres.dtype), None, spec.diagonal)
