"""Recursive feature machines: a kernel machine, the average gradient outer product (AGOP) of what it learned, and again.

    α_t = (K_{M_t} + λ I)⁻¹ y        f_t(z) = Σ α_i K_{M_t}(x_i, z)        M_{t+1} = normalise(AGOP(f_t)^s),   M_0 = I

(Radhakrishnan, Beaglehole, Pandit & Belkin, Science 2024). `RFMSpec` names every choice. States may be (sites, rows, d): each
site is fitted as it would be alone, one after the other, since what belongs to one then stays in the processor's cache. With
fewer rows than dimensions everything happens in the span of the rows, where M_0 = I and all that follows stay: nothing d × d is
ever made. Nothing is drawn at random, and the order of rows matters to rounding alone.

What it promises: a system that cannot be solved is said to be (`outcomes`), and no other solver takes its place.
What it does not know: how many directions matter. AGOP_{t+1} = M_{t+1} E[g gᵀ] M_{t+1}: while the machine can still fit, the next
solve gives back what M took away, but where the ridge binds each update sharpens the spectrum as a power iteration does, and
ends at rank one whatever the truth. `relevant.relevant_dimension` measures it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import InputError, TrustError
from .kernels import Profile, applied, combinations, gradients, outer_products, profile
from .rfm_rows import BySite, Factored, Metric, One, Rows, Symmetric, check_states, targets
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
    metric: Metric | None
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

    def site(self, place: int) -> RFM:
        """The machine of one of several sites, as `fit` makes it of that site's states alone."""
        metric = self.metric.sites[place] if isinstance(self.metric, BySite) else None
        spectra = tuple(values[place] for values in self.spectra)
        return replace(
            self, bandwidth=self.bandwidth[place], ridge=self.ridge[place], alphas=self.alphas[place], metric=metric,
            spectra=spectra, residual=self.residual[place], outcomes=(self.outcomes[place],), rows=self.rows.site(place),
            intercept=self.intercept[place],
        )  # fmt: skip

    def predict(self, states: Tensor) -> Tensor:
        """(…, m, outputs) at states (…, m, d). NaN at a site that was not solved."""
        if self.alphas.ndim > 2:
            return torch.stack([one.predict(rows) for one, rows in self._sites(states)])
        points, centres, metric = self._at(states)
        found = profile(self.spec.kernel, self.bandwidth, points, centres, metric, diagonal=self.spec.diagonal)
        return found.values @ self.alphas + self.intercept

    def gradients(self, states: Tensor) -> Tensor:
        """(…, outputs, m, d): gradients of the predictions about the prepared states (centred, of unit norm if so)."""
        if self.alphas.ndim > 2:
            return torch.stack([one.gradients(rows) for one, rows in self._sites(states)])
        points, centres, metric = self._at(states)
        kernel, diagonal = self.spec.kernel, self.spec.diagonal
        slopes = profile(kernel, self.bandwidth, points, centres, metric, diagonal=diagonal).slopes
        outputs = self.alphas.unbind(-1)
        found = torch.stack([gradients(kernel, slopes, column, points, centres, metric, diagonal=diagonal) for column in outputs])
        if isinstance(self.metric, Factored):
            return found @ self.metric.factor
        return found if metric is None or self.rows.basis is None else found @ self.rows.basis.mT

    def agop(self) -> Metric:
        """The AGOP of this machine at its own rows, before power and normalisation."""
        if self.alphas.ndim > 2:
            return BySite(tuple(self.site(place)._agop() for place in range(len(self.alphas))))
        return self._agop()

    def _agop(self) -> One:
        metric = None if isinstance(self.metric, BySite) else self.metric
        slopes = _profile(self.spec, self.rows, self.bandwidth, metric).slopes
        return _agop(self.spec, self.rows, self.alphas, metric, slopes)

    def _sites(self, states: Tensor) -> list[tuple[RFM, Tensor]]:
        wide = states.expand(len(self.alphas), *states.shape[-2:])
        return [(self.site(place), rows) for place, rows in enumerate(wide)]

    def _at(self, states: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Points, centres and metric in coordinates where the kernel is what it was: all of them while M = I."""
        points = self.rows.prepared(states)
        if isinstance(self.metric, Factored):
            return points @ self.metric.factor.mT, self.metric.images, None
        if isinstance(self.metric, Symmetric):
            return self.rows.inside(points), self.rows.coordinates, self.metric.matrix
        return points, self.rows.states, None

    def __str__(self) -> str:
        failed = sum(outcome != "solved" for outcome in self.outcomes)
        said = "solved" if not failed else f"{failed} of {len(self.outcomes)} not solved"
        return f"{self.spec}; n = {self.rows.states.shape[-2]}, {said}"


def fit(spec: RFMSpec, states: Tensor, labels: Tensor | NDArray, *, spectra: bool = True) -> RFM:
    """Fit a recursive feature machine, at every site.

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
    if states.ndim == 2:
        yield from _alone(spec, states, values, classes, spectra)
        return
    wide = values.expand(len(states), *values.shape[-2:])
    sites = [_alone(spec, one, wanted, classes, spectra) for one, wanted in zip(states, wide, strict=True)]
    rows = None
    for machines in zip(*sites, strict=True):
        rows = rows or Rows.of_sites([machine.rows for machine in machines])
        yield _joined(machines, rows)


def _alone(spec: RFMSpec, states: Tensor, values: Tensor, classes: int, spectra: bool) -> Iterator[RFM]:
    """`iterates` of one site: states (n, d), values (n, outputs)."""
    intercept = values.mean(-2, keepdim=True) if spec.centre_labels else torch.zeros_like(values[..., :1, :])
    wanted = values - intercept
    rows = Rows.of(spec, states, wanted.shape[-1])
    bandwidth, ridge = choose(spec, rows.coordinates, wanted)
    metric: One | None = None
    kept: tuple[Tensor, ...] = ()
    for iteration in range(spec.iterations + 1):
        seen = _profile(spec, rows, bandwidth, metric)
        solved = solve(seen.values, ridge, wanted)
        machine = RFM(
            spec, bandwidth, ridge, solved.alphas, metric, kept, solved.residual, solved.outcomes, classes, rows, intercept
        )
        yield machine
        if iteration < spec.iterations:
            agop = _agop(spec, rows, solved.alphas, metric, seen.slopes)
            points = rows.coordinates
            if isinstance(agop, Factored):
                metric, spectrum = _scaled(spec, points, agop, spectra)
            else:
                metric, spectrum = update(spec, points, agop, spectra)
            kept = (*kept, spectrum)


def _joined(sites: Sequence[RFM], rows: Rows) -> RFM:
    """One machine of all sites; their rows are the same in every iteration and are joined once."""
    metrics = [one.metric for one in sites if isinstance(one.metric, Symmetric | Factored)]
    spectra = zip(*(one.spectra for one in sites), strict=True)
    return replace(
        sites[0],
        bandwidth=torch.stack([one.bandwidth for one in sites]),
        ridge=torch.stack([one.ridge for one in sites]),
        alphas=torch.stack([one.alphas for one in sites]),
        metric=BySite(tuple(metrics)) if metrics else None,
        spectra=tuple(torch.stack(values) for values in spectra),
        residual=torch.stack([one.residual for one in sites]),
        outcomes=tuple(outcome for one in sites for outcome in one.outcomes),
        rows=rows,
        intercept=torch.stack([one.intercept for one in sites]),
    )


def _profile(spec: RFMSpec, rows: Rows, bandwidth: Tensor, metric: One | None) -> Profile:
    """Of the training rows."""
    points = metric.images if isinstance(metric, Factored) else rows.coordinates
    inside = metric.matrix if isinstance(metric, Symmetric) else None
    return profile(spec.kernel, bandwidth, points, points, inside, diagonal=spec.diagonal)


def _agop(spec: RFMSpec, rows: Rows, alphas: Tensor, metric: One | None, slopes: Tensor) -> One:
    if rows.factored:
        return _factored(spec, rows, alphas, metric if isinstance(metric, Factored) else None, slopes)
    inside = metric.matrix if isinstance(metric, Symmetric) else None
    points = rows.coordinates
    found = outer_products(spec.kernel, slopes, alphas, points, inside, diagonal=spec.diagonal, centred=spec.centre_gradients)
    return Symmetric(found, rows.basis, spec.diagonal)


def _factored(spec: RFMSpec, rows: Rows, alphas: Tensor, metric: Factored | None, slopes: Tensor) -> Factored:
    points = rows.states if metric is None else metric.images
    columns = (alphas / len(points) ** 0.5).unbind(-1)
    inner = torch.cat([combinations(spec.kernel, slopes, column) for column in columns])
    if spec.centre_gradients:
        inner = torch.cat([part - part.mean(0) for part in inner.split(len(points))])
    slopes = inner @ points  # gradients, about the images
    return Factored(slopes if metric is None else slopes @ metric.factor, points @ slopes.T)


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


def _scaled(spec: RFMSpec, points: Tensor, agop: Factored, spectra: bool) -> tuple[Factored, Tensor]:
    values = agop.values().to(points.dtype) if spectra else points.new_empty(*points.shape[:-2], 0)
    if spec.normalise == "none":
        return agop, values
    size = agop.greatest_entry() if spec.normalise == "max" else agop.spread(spec.kernel.radial) / _spread(spec, points)
    return agop.times(1 / size.clamp_min(torch.finfo(points.dtype).tiny)), values


def _spread(spec: RFMSpec, points: Tensor, metric: Symmetric | None = None) -> Tensor:
    """(…) mean of xᵀMx over rows, about their mean for a radial kernel (half the mean squared distance)."""
    if spec.kernel.radial:
        points = points - points.mean(-2, keepdim=True)
    moved = applied(points, None if metric is None else metric.matrix, diagonal=spec.diagonal)
    return (moved * points).sum(-1).mean(-1)
