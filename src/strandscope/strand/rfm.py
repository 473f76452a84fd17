"""Recursive feature machines: a kernel machine, the average gradient outer product (AGOP) of what it learned, and again.

    α_t = (K_{M_t} + λ I)⁻¹ y        f_t(z) = Σ α_i K_{M_t}(x_i, z)        M_{t+1} = normalise(AGOP(f_t)^s),   M_0 = I

(Radhakrishnan, Beaglehole, Pandit & Belkin, Science 2024). `RFMSpec` names every choice. All sites are fitted at once: states may
be (sites, rows, d). With fewer rows than dimensions everything happens in the span of the rows, where M_0 = I and all that
follows stay: nothing d × d is ever made. Nothing is drawn at random, and the order of rows matters to rounding alone.

What it promises: a system that cannot be solved is said to be (`outcomes`), and no other solver takes its place.
What it does not know: how many directions matter. AGOP_{t+1} = M_{t+1} E[g gᵀ] M_{t+1}: while the machine can still fit, the next
solve gives back what M took away, but where the ridge binds each update sharpens the spectrum as a power iteration does, and
ends at rank one whatever the truth. `relevant.relevant_dimension` measures it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import InputError, TrustError
from .kernels import applied, gradients, outer_products, profile
from .rfm_rows import Rows, Symmetric, check_states, targets
from .rfm_solve import choose, solve
from .rfm_spec import RFMSpec

DENSE = 20_000  # rows beyond which n × n matrices are no longer made


@dataclass(frozen=True, slots=True)
class RFM:
    """A fitted machine. Leading dimensions are the states' own: none, or (sites,).

    Attributes:
        spec: as given; `bandwidth` and `ridge` (…) are what it came to here.
        alphas: (…, n, outputs); `metric`: M, None while it is the identity.
        spectra: per update of M, the AGOP's eigenvalues (…, r), greatest first, before power and normalisation; of width 0
            where they were not asked for.
        residual: (…) ‖(K + λI)α − y‖ / ‖y‖ as solved.
        outcomes: "solved", or a sentence, for each site.
    """

    spec: RFMSpec
    bandwidth: Tensor
    ridge: Tensor
    alphas: Tensor
    metric: Symmetric | None
    spectra: tuple[Tensor, ...]
    residual: Tensor
    outcomes: tuple[str, ...]
    classes: int  # 0 for regression
    rows: Rows
    intercept: Tensor  # (…, 1, outputs)

    @property
    def iteration(self) -> int:
        return len(self.spectra)

    def require_solved(self) -> None:
        """Raise TrustError with the first sentence of a site that was not solved."""
        failed = [outcome for outcome in self.outcomes if outcome != "solved"]
        if failed:
            raise TrustError(failed[0])

    def predict(self, states: Tensor) -> Tensor:
        """(…, m, outputs) at states (…, m, d). NaN at a site that was not solved."""
        points, centres, metric = self._at(states)
        found = profile(self.spec.kernel, self.bandwidth, points, centres, metric, diagonal=self.spec.diagonal)
        return found.values @ self.alphas + self.intercept

    def gradients(self, states: Tensor) -> Tensor:
        """(…, outputs, m, d): gradients of the predictions about the prepared states (centred, of unit norm if so)."""
        points, centres, metric = self._at(states)
        kernel, diagonal = self.spec.kernel, self.spec.diagonal
        slopes = profile(kernel, self.bandwidth, points, centres, metric, diagonal=diagonal).slopes
        outputs = self.alphas.unbind(-1)
        found = torch.stack(
            [gradients(kernel, slopes, column, points, centres, metric, diagonal=diagonal) for column in outputs], -3
        )
        return found if metric is None or self.rows.basis is None else found @ self.rows.basis.mT.unsqueeze(-3)

    def agop(self) -> Symmetric:
        """The AGOP of this machine at its own rows, before power and normalisation."""
        return _agop(self.spec, self.rows, self.bandwidth, self.alphas, self.metric)

    def _at(self, states: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Points, centres and metric in coordinates where the kernel is what it was: all of them while M = I."""
        points = self.rows.prepared(states)
        if self.metric is None:
            return points, self.rows.states, None
        return self.rows.inside(points), self.rows.coordinates, self.metric.matrix

    def __str__(self) -> str:
        failed = sum(outcome != "solved" for outcome in self.outcomes)
        said = "solved" if not failed else f"{failed} of {len(self.outcomes)} not solved"
        return f"{self.spec}; n = {self.rows.states.shape[-2]}, {said}"


def fit(spec: RFMSpec, states: Tensor, labels: Tensor | NDArray, *, spectra: bool = True) -> RFM:
    """Fit a recursive feature machine, at all sites at once.

    Args:
        states: (n, d) or (sites, n, d), float32 or float64; that is the precision of the whole.
        labels: (n,) whole numbers are class codes (two classes: one output, their code; more: one output a class, 1 or 0); floats
            (n,), (n, outputs) or (sites, n, outputs) are targets as they stand.
        spectra: keep the AGOP's eigenvalues of every iteration; without, an update by power 1 needs no eigenvalues at all.

    Raises:
        InputError: states or labels that cannot be fitted, or more than 20,000 rows (`nystrom.fit` takes those).
    """
    *_, last = iterates(spec, states, labels, spectra=spectra)
    return last


def iterates(spec: RFMSpec, states: Tensor, labels: Tensor | NDArray, *, spectra: bool = True) -> Iterator[RFM]:
    """The machine at M = I and after each update, as `fit` makes them; stop when you have seen enough."""
    check_states(states)
    if states.shape[-2] > DENSE:
        raise InputError(f"states: got {states.shape[-2]} rows, wanted at most {DENSE}; strand.nystrom.fit takes more")
    values, classes = targets(labels, states.shape[-2])
    values = values.to(states)
    intercept = values.mean(-2, keepdim=True) if spec.centre_labels else torch.zeros_like(values[..., :1, :])
    wanted = (values - intercept).expand(*states.shape[:-2], *values.shape[-2:])
    rows = Rows.of(spec, states)
    bandwidth, ridge = choose(spec, rows.coordinates, wanted)
    metric, kept = None, ()
    for iteration in range(spec.iterations + 1):
        inside = None if metric is None else metric.matrix
        seen = profile(spec.kernel, bandwidth, rows.coordinates, rows.coordinates, inside, diagonal=spec.diagonal)
        solved = solve(seen.values, ridge, wanted)
        machine = RFM(
            spec, bandwidth, ridge, solved.alphas, metric, kept, solved.residual, solved.outcomes, classes, rows, intercept
        )
        yield machine
        if iteration < spec.iterations:
            agop = _agop(spec, rows, bandwidth, solved.alphas, metric, seen.slopes)
            metric, values = update(spec, rows.coordinates, agop, spectra)
            kept = (*kept, values)


def _agop(
    spec: RFMSpec, rows: Rows, bandwidth: Tensor, alphas: Tensor, metric: Symmetric | None, slopes: Tensor | None = None
) -> Symmetric:
    inside = None if metric is None else metric.matrix
    points = rows.coordinates
    if slopes is None:
        slopes = profile(spec.kernel, bandwidth, points, points, inside, diagonal=spec.diagonal).slopes
    found = outer_products(spec.kernel, slopes, alphas, points, inside, diagonal=spec.diagonal, centred=spec.centre_gradients)
    return Symmetric(found, rows.basis, spec.diagonal)


def update(spec: RFMSpec, points: Tensor, agop: Symmetric, spectra: bool) -> tuple[Symmetric, Tensor]:
    """M from the AGOP at points (…, n, r), and the AGOP's eigenvalues (…, 0 or r)."""
    matrix, values = agop.matrix, agop.matrix.new_empty(*agop.matrix.shape[:-1], 0)
    if spec.diagonal:
        values = agop.values() if spectra else values
        matrix = matrix**spec.power
    elif spec.power != 1:
        found = torch.linalg.eigh(torch.nan_to_num(matrix))
        powered = found.eigenvalues.clamp_min(0) ** spec.power
        matrix = (found.eigenvectors * powered.unsqueeze(-2)) @ found.eigenvectors.mT
        values = found.eigenvalues.flip(-1) if spectra else values
    elif spectra:
        values = torch.linalg.eigvalsh(torch.nan_to_num(matrix)).flip(-1)
    made = Symmetric(matrix, agop.basis, spec.diagonal)
    if spec.normalise == "none":
        return made, values
    size = made.greatest_entry() if spec.normalise == "max" else _spread(spec, points, made) / _spread(spec, points)
    size = size.clamp_min(torch.finfo(matrix.dtype).tiny)
    return replace(made, matrix=matrix / (size[..., None] if spec.diagonal else size[..., None, None])), values


def _spread(spec: RFMSpec, points: Tensor, metric: Symmetric | None = None) -> Tensor:
    """(…) mean of xᵀMx over rows, about their mean for a radial kernel (half the mean squared distance)."""
    if spec.kernel.radial:
        points = points - points.mean(-2, keepdim=True)
    moved = applied(points, None if metric is None else metric.matrix, diagonal=spec.diagonal)
    return (moved * points).sum(-1).mean(-1)
